//! Which kind of stream a client asks for with its `Accept` header (RFC 9110, section 12.5.1).

use actix_http::header::{Quality, QualityItem};
use mime::Mime;

use super::head::{Head, ascii_text};

/// The most media ranges that are read. A browser sends about ten. Further ranges are ignored.
const RANGES_MAX: usize = 64;

/// The weight that a client gives to each kind of stream.
#[derive(Clone, Copy)]
pub(super) struct Accept {
    /// For an event stream.
    events: Weight,
    /// For NDJSON.
    lines: Weight,
}

/// The weight of a media type. Of the ranges that match the type, the most specific one gives the weight. So weights
/// are compared by `range` first: the order of the fields matters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Weight {
    range: Range,
    quality: Quality,
}

/// How specific a media range is, from the least to the most specific.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Range {
    /// No range matches the media type.
    None,
    /// `*/*`
    All,
    /// For example `text/*`.
    Type,
    /// The exact media type.
    Exact,
}

impl Accept {
    /// Reads the header. Parts that are not media ranges are ignored.
    pub(super) fn read(head: &impl Head) -> Self {
        Self::parse(head.values("accept").filter_map(ascii_text))
    }

    fn parse<'a>(values: impl Iterator<Item = &'a str>) -> Self {
        let none = Weight { range: Range::None, quality: Quality::ZERO };
        let mut accept = Self { events: none, lines: none };
        for item in values.flat_map(|value| value.split(',')).take(RANGES_MAX) {
            let Ok(item) = item.trim().parse::<QualityItem<Mime>>() else { continue };
            accept.events = accept.events.max(Weight::of("text", "event-stream", &item));
            accept.lines = accept.lines.max(Weight::of("application", "x-ndjson", &item));
        }
        accept
    }

    /// Whether the client prefers NDJSON: its quality is higher, or it is equal and NDJSON is named.
    pub(super) fn prefers_lines(self) -> bool {
        let Self { events, lines } = self;
        lines.quality > events.quality || (lines.is_named() && lines.quality == events.quality)
    }

    /// Whether the client names event streams, as every `EventSource` does.
    pub(super) fn names_events(self) -> bool {
        self.events.is_named()
    }
}

impl Weight {
    /// The weight that `item` gives to a media type. Parameters of the type, such as a charset, are ignored.
    fn of(main: &str, sub: &str, item: &QualityItem<Mime>) -> Self {
        let (type_, subtype) = (item.item.type_(), item.item.subtype());
        let range = match (type_ == main, subtype == sub) {
            (true, true) => Range::Exact,
            (true, false) if subtype == mime::STAR => Range::Type,
            _ if type_ == mime::STAR && subtype == mime::STAR => Range::All,
            _ => Range::None,
        };
        Self { range, quality: if range == Range::None { Quality::ZERO } else { item.quality } }
    }

    fn is_named(self) -> bool {
        self.range == Range::Exact && self.quality > Quality::ZERO
    }
}

#[cfg(test)]
mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether NDJSON is preferred, and whether event streams are named.
    fn read(values: &[&str]) -> (bool, bool) {
        let accept = Accept::parse(values.iter().copied());
        (accept.prefers_lines(), accept.names_events())
    }

    #[test]
    fn the_preferred_stream_is_chosen() {
        const EVENTS: (bool, bool) = (false, true);
        const EITHER: (bool, bool) = (false, false);
        const LINES: (bool, bool) = (true, false);
        const BOTH: (bool, bool) = (true, true);
        for (value, expected) in [
            ("", EITHER),
            ("*/*", EITHER),
            ("text/html", EITHER),
            ("text/*", EITHER),
            ("text/event-stream", EVENTS),
            ("Text/Event-Stream; charset=utf-8", EVENTS),
            ("text/event-stream;q=0.001", EVENTS),
            ("text/event-stream;q=0", EITHER),
            ("text/event-stream;q=0.000, text/html", EITHER),
            ("application/x-ndjson", LINES),
            ("application/x-ndjson;q=0", EITHER),
            ("text/html, Application/X-NDJSON; q=0.9", LINES),
            ("application/x-ndjson, */*", LINES),
            ("application/x-ndjson, */*;q=0.1", LINES),
            ("application/x-ndjson;q=0.5, */*", EITHER),
            ("application/*", LINES),
            // A client that names both with the same quality is not a browser.
            ("application/x-ndjson, text/event-stream", BOTH),
            ("text/event-stream;q=0.5, application/x-ndjson;q=0.5", BOTH),
            ("application/x-ndjson;q=0.5, text/event-stream", EVENTS),
            ("application/x-ndjson;q=0.5, text/event-stream;q=0.4", BOTH),
            // The most specific range counts, at any position.
            ("*/*, text/event-stream;q=0", LINES),
            ("text/event-stream;q=0.2, text/*;q=0.9, application/x-ndjson;q=0.3", BOTH),
            ("text/event-stream, text/event-stream;q=0", EVENTS),
            // What is not a media range is ignored.
            ("text/event-stream;q=2", EITHER),
            ("text/event-streams, x-text/event-stream", EITHER),
            (",;,text, */html, \"text/event-stream, text/event-stream", EVENTS),
        ] {
            assert_eq!(read(&[value]), expected, "{value}");
        }
        assert_eq!(read(&[]), EITHER);
        assert_eq!(read(&["text/event-stream;q=0.5", "application/x-ndjson"]), BOTH);
    }

    #[test]
    fn ranges_are_read_up_to_a_limit() {
        let behind = |others: usize| format!("{}text/event-stream", "a/b,".repeat(others));
        assert_eq!(read(&[&behind(RANGES_MAX - 1)]), (false, true));
        assert_eq!(read(&[&behind(RANGES_MAX)]), (false, false));
    }
}
