//! The basic types: [`TopicName`], [`EventName`], [`EventId`], [`Event`].
//!
//! Parsing validates: a value of one of these types can go on the wire as it is, and no other module checks it again.

use std::{borrow::Borrow, fmt, ops::Range, sync::Arc, time::Duration};

use ecow::EcoString;

/// A published event, as the log holds it. It never changes, and all who use it share one copy.
#[derive(Debug)]
pub struct Event {
    /// Position in the log's one global sequence, from 1.
    pub seq: u64,
    /// When the log appended the event, in milliseconds since the Unix epoch. An event never has an earlier time than
    /// the event before, unless the wall clock was set back by more than ten seconds.
    pub time_ms: u64,
    /// The topic it was published to.
    pub topic: TopicName,
    /// Its name, if the publisher gave one.
    pub name: Option<EventName>,
    /// The event as a block of a `text/event-stream`, in one chunk. It is encoded when the event is made, not for each
    /// subscriber.
    pub frame: Box<[u8]>,
    /// Where the content is.
    pub content: Content,
}

/// Where an event's content is.
#[derive(Debug)]
pub enum Content {
    /// These bytes of the event's frame: the content has no line break, the common case, and is in memory only once.
    Within(Range<usize>),
    /// In memory of its own: the content has line breaks, which the frame replaces.
    Apart(Box<[u8]>),
}

impl Event {
    /// The content as published, UTF-8.
    #[must_use]
    pub fn content(&self) -> &[u8] {
        match &self.content {
            Content::Apart(content) => content,
            Content::Within(range) => self.frame.get(range.clone()).unwrap_or_default(),
        }
    }
}

/// The name of a topic: 1 to `limits.topic_bytes_max` bytes of UTF-8 without control characters.
///
/// A name of up to fifteen bytes is stored inside the value, so a lookup reads no other memory to compare it. Clones
/// of a longer name share one allocation.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicName(EcoString);

impl TopicName {
    /// Checks that `name` is a valid topic name of at most `bytes_max` bytes.
    ///
    /// # Errors
    /// Says which rule the name breaks.
    pub fn parse(name: &str, bytes_max: usize) -> Result<Self, NameError> {
        check(name, bytes_max)?;
        Ok(Self(name.into()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for TopicName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of an event: 1 to [`EventName::BYTES_MAX`] bytes without control characters. It is sent in the field
/// `event`, and a browser calls it the type of the event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventName(Arc<str>);

impl EventName {
    /// The longest event name.
    pub const BYTES_MAX: usize = 128;
    /// The prefix of the broker's own events. A publisher that could use it could forge a gap or a refusal.
    pub const RESERVED: &'static str = "broker.";

    /// Checks that `name` is a valid event name that publishers may use.
    ///
    /// # Errors
    /// Says which rule the name breaks.
    pub fn parse(name: &str) -> Result<Self, NameError> {
        if name.starts_with(Self::RESERVED) {
            return Err(NameError::Reserved);
        }
        check(name, Self::BYTES_MAX)?;
        Ok(Self(name.into()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why a topic or event name was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// An empty string.
    #[error("it is empty")]
    Empty,
    /// Longer than the limit.
    #[error("it has {bytes} bytes, the limit is {bytes_max}")]
    TooLong {
        /// Bytes given.
        bytes: usize,
        /// Bytes allowed.
        bytes_max: usize,
    },
    /// A control character (C0, DEL or C1). A line break in a name would forge fields on the wire.
    #[error("it has the control character U+{code:04X} at byte {at}")]
    Control {
        /// The character's code point.
        code: u32,
        /// Its offset in bytes.
        at: usize,
    },
    /// The `broker.` prefix.
    #[error("names that start with `broker.` are the broker's own")]
    Reserved,
}

fn check(name: &str, bytes_max: usize) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError::Empty);
    }
    if name.len() > bytes_max {
        return Err(NameError::TooLong { bytes: name.len(), bytes_max });
    }
    match name.char_indices().find(|(_, c)| c.is_control()) {
        Some((at, c)) => Err(NameError::Control { code: c.into(), at }),
        None => Ok(()),
    }
}

/// The name of one history: eight digits in base 36. Positions of different epochs cannot be compared.
///
/// The value holds the digits as text, because every event's id contains them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Epoch([u8; 8]);

impl Epoch {
    const COUNT: u64 = 36_u64.pow(8);

    /// A random epoch, for a history that starts now.
    #[must_use]
    pub fn random() -> Self {
        Self::from_digits_of(fastrand::u64(..Self::COUNT))
    }

    /// The epoch as a number, for storage.
    #[must_use]
    pub fn number(self) -> u64 {
        u64::from_str_radix(self.as_str(), 36).unwrap_or_default()
    }

    /// The epoch of a number that [`number`](Self::number) returned.
    #[must_use]
    pub fn from_number(number: u64) -> Option<Self> {
        (number < Self::COUNT).then(|| Self::from_digits_of(number))
    }

    /// The epoch as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// The epoch with the last eight digits of `number`.
    fn from_digits_of(mut number: u64) -> Self {
        let mut digits = [b'0'; 8];
        for digit in digits.iter_mut().rev() {
            let value = u8::try_from(number % 36).unwrap_or_default();
            *digit = if value < 10 { b'0' + value } else { b'a' + value - 10 };
            number /= 36;
        }
        Self(digits)
    }

    fn parse(text: &str) -> Option<Self> {
        let digits: [u8; 8] = text.as_bytes().try_into().ok()?;
        digits.iter().all(|b| b.is_ascii_digit() || b.is_ascii_lowercase()).then_some(Self(digits))
    }
}

/// An event id, `<epoch>-<seq>`: a position in one history. Clients must not interpret it. Its characters are in
/// `[0-9a-z.-]`; only a [`StopId`] has a dot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventId {
    /// The history.
    pub epoch: Epoch,
    /// The position in it. As a cursor it means that its holder has seen everything up to and including `seq`.
    pub seq: u64,
}

impl EventId {
    /// How many bytes the id has as text.
    #[must_use]
    pub fn text_len(&self) -> usize {
        let digits = self.seq.checked_ilog10().unwrap_or(0) + 1;
        self.epoch.0.len() + "-".len() + usize::try_from(digits).unwrap_or_default()
    }

    /// Appends the id as text to `out`. It is faster than [`Display`](fmt::Display), and every event needs it.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.epoch.0);
        out.push(b'-');
        out.extend_from_slice(itoa::Buffer::new().format(self.seq).as_bytes());
    }

    /// Parses what [`Display`](fmt::Display) wrote. For anything else, it returns `None` and no error: a browser that
    /// gets a 4xx for its cursor would never reconnect.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (epoch, seq) = text.split_once('-')?;
        // `u64::from_str` would also accept a plus sign and leading zeros.
        if seq.starts_with('+') || (seq.starts_with('0') && seq != "0") {
            return None;
        }
        Some(Self { epoch: Epoch::parse(epoch)?, seq: seq.parse().ok()? })
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.epoch.as_str(), self.seq)
    }
}

/// The last id of a stream that an operator has ended, `<epoch>-<seq>.stop<ms>`: a position, and until when the client
/// must stay away. The client sends this id when it reconnects, so no server needs to remember the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StopId {
    /// Where the client may resume later.
    pub id: EventId,
    /// Until when the client must stay away, in milliseconds since the Unix epoch.
    pub until_ms: u64,
}

impl StopId {
    /// Parses what [`Display`](fmt::Display) wrote.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (id, until) = text.split_once(".stop")?;
        let stop = Self { id: EventId::parse(id)?, until_ms: until.parse().ok()? };
        // `u64::from_str` would also accept a plus sign and leading zeros.
        (stop.to_string() == text).then_some(stop)
    }

    /// Whether the client must still stay away at `now_ms`. No server asks a client to stay away for longer than
    /// `at_most` (`stream.gone`). If more time than that is left, the wall clock was set back, and the client may
    /// return: otherwise it would stay away for as long as the clock was set back.
    #[must_use]
    pub fn is_active(&self, now_ms: u64, at_most: Duration) -> bool {
        let left_ms = self.until_ms.saturating_sub(now_ms);
        left_ms > 0 && u128::from(left_ms) <= at_most.as_millis()
    }
}

impl fmt::Display for StopId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.stop{}", self.id, self.until_ms)
    }
}

#[cfg(test)]
mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_at_the_limit_and_refused_past_it() {
        assert!(TopicName::parse(&"t".repeat(255), 255).is_ok());
        assert_eq!(TopicName::parse(&"t".repeat(256), 255), Err(NameError::TooLong { bytes: 256, bytes_max: 255 }));
        assert!(EventName::parse(&"e".repeat(128)).is_ok());
        assert!(matches!(EventName::parse(&"e".repeat(129)), Err(NameError::TooLong { .. })));
        assert_eq!(TopicName::parse("", 255), Err(NameError::Empty));
    }

    #[test]
    fn control_characters_are_refused_and_named() {
        for c in ['\0', '\n', '\r', '\t', '\u{7f}', '\u{85}'] {
            let error = TopicName::parse(&format!("ab{c}"), 255).expect_err("a control character");
            assert_eq!(error, NameError::Control { code: c.into(), at: 2 });
            assert!(EventName::parse(&format!("ab{c}")).is_err());
        }
        assert!(TopicName::parse("订单/№ 7\u{2028}\u{feff}", 255).is_ok());
    }

    #[test]
    fn the_brokers_own_names_are_reserved() {
        assert_eq!(EventName::parse("broker.gap"), Err(NameError::Reserved));
        assert!(EventName::parse("brokers").is_ok());
    }

    #[test]
    fn an_id_reads_back_and_nothing_else_does() {
        for seq in [0, 1, 48_213, u64::MAX] {
            let id = EventId { epoch: Epoch::random(), seq };
            let (text, mut bytes) = (id.to_string(), Vec::new());
            id.write(&mut bytes);
            assert_eq!((bytes.as_slice(), id.text_len()), (text.as_bytes(), text.len()));
            assert_eq!(EventId::parse(&text), Some(id));
        }
        for text in [
            "",
            "-",
            "k3f9x2ab",
            "k3f9x2ab-",
            "k3f9x2ab-01",
            "k3f9x2ab-+1",
            "K3F9X2AB-1",
            "k3f9x2a-1",
            "k3f9x2ab-18446744073709551616",
            "k3f9x2ab-1 ",
            "é3f9x2a-1",
        ] {
            assert_eq!(EventId::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_stop_id_reads_back_and_nothing_else_does() {
        // Goal: what a client sends back is read exactly, and a plain id is not taken for a stop.
        let id = EventId { epoch: Epoch::random(), seq: 7 };
        for until_ms in [0, 1, u64::MAX] {
            let stop = StopId { id, until_ms };
            assert_eq!(StopId::parse(&stop.to_string()), Some(stop));
            assert_eq!(EventId::parse(&stop.to_string()), None, "an id alone has no dot");
        }
        for suffix in ["", ".stop", ".stop01", ".stop+1", ".stop-1", ".stop1 ", ".stop1.stop2", ".halt1"] {
            assert_eq!(StopId::parse(&format!("{id}{suffix}")), None, "{suffix}");
        }
        assert_eq!(StopId::parse(".stop1"), None);
    }

    #[test]
    fn a_stop_is_over_in_time_also_when_the_clock_was_set_back() {
        // Goal: a client stays away for `stream.gone`, and a clock that was set back does not make it longer.
        let stop = StopId { id: EventId { epoch: Epoch::random(), seq: 1 }, until_ms: 60_000 };
        let gone = Duration::from_secs(50);
        let times = [9_999, 10_000, 59_999, 60_000, u64::MAX];
        assert_eq!(times.map(|now_ms| stop.is_active(now_ms, gone)), [false, true, true, false, false]);
        assert!(!stop.is_active(59_999, Duration::ZERO), "`stream.gone = 0s` keeps nobody away");
    }
}
