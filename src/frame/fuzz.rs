//! A parser of the HTML standard reads back each event, and no event or field more. The parser here is written from the
//! standard alone, and shares nothing with the encoder.

use proptest::{collection::vec, prelude::*};

use super::*;
use crate::fuzz;

const PIECES: &[&str] = &[
    "\r",
    "\n",
    "\r\n",
    "\n\n",
    "\r\r",
    "\n\r",
    "\0",
    ":",
    ": ",
    " ",
    "  ",
    "data",
    "data: x",
    "id: 7",
    "id",
    "event: broker.gap",
    "retry: 1",
    "\u{feff}",
    "\u{2028}",
    "\u{2029}",
    "\u{85}",
    "\u{b}",
    "é",
    "订",
    "🦀",
    "0\r\n\r\n",
    "{\"a\":1}",
];
const NAMES: &[&str] = &["a", "data", "id: 7", ":", " ", "\u{feff}", "\u{2028}", "broke", ".", "é", "retry", "\\n"];

/// What a client dispatches: event, data, and the last id.
type Dispatched = (String, String, String);

/// The HTML standard, section 9.2.6 "Interpreting an event stream", for a whole stream.
fn dispatched(stream: &str) -> Vec<Dispatched> {
    let text = stream.strip_prefix('\u{feff}').unwrap_or(stream);
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let (mut all, mut id) = (Vec::new(), String::new());
    let (mut event, mut data) = (String::new(), String::new());
    for line in text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
        if line.is_empty() {
            if let Some(data) = data.strip_suffix('\n') {
                let event = if event.is_empty() { "message".to_owned() } else { event.clone() };
                all.push((event, data.to_owned(), id.clone()));
            }
            (event, data) = (String::new(), String::new());
            continue;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => event = value.to_owned(),
            "data" => data = data + value + "\n",
            "id" if !value.contains('\0') => id = value.to_owned(),
            _ => {}
        }
    }
    all
}

/// The body of a chunked response: the chunks must be exact.
fn unchunked(mut bytes: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while !bytes.is_empty() {
        let end = bytes.windows(2).position(|two| two == b"\r\n").expect("the size of a chunk");
        let size = std::str::from_utf8(&bytes[..end]).expect("ASCII").trim_start_matches('0');
        let size = usize::from_str_radix(size, 16).expect("a size");
        body.extend_from_slice(&bytes[end + 2..end + 2 + size]);
        assert_eq!(&bytes[end + 2 + size..end + 4 + size], b"\r\n");
        bytes = &bytes[end + 4 + size..];
    }
    body
}

fn text_of(bytes: &[u8]) -> String {
    String::from_utf8(unchunked(bytes)).expect("UTF-8")
}

proptest! {
    #[test]
    fn a_stream_has_the_events_and_nothing_else(
        events in vec((fuzz::text(NAMES), fuzz::text(PIECES)), 1..4), topic in fuzz::text(NAMES), requested in fuzz::text(PIECES),
    ) {
        let epoch = Epoch::random();
        let Ok(topic) = TopicName::parse(&topic, 255) else { return Ok(()) };
        let topics = [topic.clone()];
        let plain = Encoding { format: Format::Plain, framing: Framing::Chunked };
        let second = Duration::from_secs(1);
        let start = EventId { epoch, seq: 0 };
        let opening = Opening { retry: second, cursor: start, topics: &topics, heartbeat: second };
        let (mut stream, mut enveloped) = (opening_of(plain, opening), String::new());
        let mut expected = Vec::new();
        for ((name, content), seq) in events.iter().zip(1..) {
            let id = EventId { epoch, seq };
            let name = EventName::parse(name).ok();
            let event = encode(id, 0, topic.clone(), name.clone(), content.as_bytes());
            prop_assert_eq!(event.content(), content.as_bytes());
            stream += &text_of(&super::event(plain, epoch, Arc::clone(&event)));
            let lines = super::event(Encoding { format: Format::Lines, ..plain }, epoch, Arc::clone(&event));
            enveloped += &text_of(&lines);
            let name = name.as_ref().map_or("message", |name| name.as_str()).to_owned();
            expected.push((name, content.replace("\r\n", "\n").replace('\r', "\n"), id.to_string()));
        }
        // What was published last cannot change what the broker says after it.
        stream += &text_of(&heartbeat(plain, None));
        stream += &text_of(&gap(plain, GapReason::Evicted, &requested, start));
        let mut all = dispatched(&stream);
        let (event, data, id) = all.pop().expect("the gap");
        prop_assert_eq!((event.as_str(), id), ("broker.gap", start.to_string()));
        prop_assert_eq!(&serde_json::from_str::<serde_json::Value>(&data).expect("JSON")["requested"], &requested);
        prop_assert_eq!(all, expected);
        for (line, (_, content)) in enveloped.split_terminator('\n').zip(&events) {
            prop_assert_eq!(&serde_json::from_str::<serde_json::Value>(line).expect("JSON")["data"], content);
        }
        prop_assert_eq!(enveloped.split_terminator('\n').count(), events.len());
    }
}

fn opening_of(encoding: Encoding, opening: Opening<'_>) -> String {
    text_of(&super::opening(encoding, Marks::Id, opening))
}

#[test]
fn the_parser_sees_an_injected_event() {
    // The control: what an encoder would write that splits content at LF alone.
    let all = dispatched("data: a\rid: 7\rdata: b\r\rdata: c\n\n");
    let event = |data: &str| ("message".to_owned(), data.to_owned(), "7".to_owned());
    assert_eq!(all, [event("a\nb"), event("c")]);
}
