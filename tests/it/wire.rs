//! Whatever is published, a parser of the standard reads back that and nothing else.
//!
//! How many: `TIDINGS_TEST_CASES`.

use std::sync::Arc;

use proptest::{
    collection::vec,
    prelude::{Just, ProptestConfig, Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest},
    test_runner::TestCaseError,
};
use serde_json::Value;
use tidings::{
    event::{Epoch, Event, EventId, EventName, TopicName},
    frame::{self, Encoding, Format, Framing, Marks, Opening},
};

use crate::{
    harness::{Block, QueryPair as _, TestServer, chunks::Chunks, parser::Parser},
    model::{cases, normalised},
};

const PLAIN: Encoding = Encoding { format: Format::Plain, framing: Framing::Close };
const LINES: Encoding = Encoding { format: Format::Lines, framing: Framing::Close };

/// Pieces that mean something to a parser, each likelier than a character of no meaning.
fn piece() -> impl Strategy<Value = String> {
    const AWKWARD: [&str; 24] = [
        "\r",
        "\n",
        "\r\n",
        "\n\n",
        "\r\r",
        "\n\r",
        "\0",
        "\u{feff}",
        "\u{2028}",
        "\u{2029}",
        "\u{85}",
        "\u{b}",
        " ",
        "  ",
        "\t",
        ":",
        "id: 7",
        "id",
        "event: broker.gap",
        "data: x",
        "data",
        "retry: 1",
        "\u{1f}\u{7f}",
        "\u{10ffff}",
    ];
    prop_oneof![
        4 => (0..AWKWARD.len()).prop_map(|at| AWKWARD[at].to_owned()),
        1 => any::<char>().prop_map(String::from),
        1 => "[a-z \"\\\\{}<>&]{0,9}",
    ]
}

fn content() -> impl Strategy<Value = String> {
    vec(piece(), 0..12).prop_map(|pieces| pieces.concat())
}

/// Any name that is valid, up to the longest.
fn name() -> impl Strategy<Value = String> {
    let name = vec(piece(), 1..40).prop_map(|pieces| {
        let mut name: String = pieces.concat().chars().filter(|c| !c.is_control()).collect();
        name.truncate(name.floor_char_boundary(EventName::BYTES_MAX));
        if name.is_empty() || name.starts_with(EventName::RESERVED) { format!("e{name}") } else { name }
    });
    name.prop_map(|mut name| {
        name.truncate(name.floor_char_boundary(EventName::BYTES_MAX));
        name
    })
}

fn seq() -> impl Strategy<Value = u64> {
    prop_oneof![1..20_u64, any::<u64>(), Just(u64::MAX)]
}

/// An event as a log makes it.
fn event(epoch: Epoch, seq: u64, topic: &str, name: Option<&str>, content: &str) -> Arc<Event> {
    let name = name.map(|name| EventName::parse(name).expect("a valid name"));
    let topic = TopicName::parse(topic, 1 << 10).expect("a valid name");
    frame::encode(EventId { epoch, seq }, 1_700_000_000_000, topic, name, content.as_bytes())
}

/// Feeds `bytes` in pieces of these sizes, over and over.
fn feed(parser: &mut Parser, mut bytes: &[u8], sizes: &[usize]) -> Vec<Block> {
    let mut blocks = Vec::new();
    for size in sizes.iter().cycle() {
        let (piece, rest) = bytes.split_at((*size).min(bytes.len()));
        blocks.extend(parser.feed(piece));
        bytes = rest;
        if bytes.is_empty() {
            break;
        }
    }
    blocks
}

/// What is in the chunks of `bytes`, which holds whole ones only.
fn unchunked(bytes: &[u8]) -> Vec<u8> {
    let mut chunks = Chunks::default();
    let body = chunks.feed(bytes);
    assert!(!chunks.is_within(), "whole chunks");
    body
}

/// The event behind an opening and before a heartbeat, as a client reads it: the block, and the fields of its own.
fn through_the_wire(
    format: Format,
    event: &Arc<Event>,
    epoch: Epoch,
    sizes: &[usize],
) -> Result<(Block, Vec<String>), TestCaseError> {
    let encoding = Encoding { format, framing: Framing::Chunked };
    let id = |seq| EventId { epoch, seq };
    let quiet = std::time::Duration::from_secs(3);
    let opening = Opening { retry: quiet, cursor: id(0), topics: &[], heartbeat: quiet };
    let opening = frame::opening(encoding, Marks::Id, opening);
    let mut parser = Parser::default();
    prop_assert!(feed(&mut parser, &unchunked(&opening), sizes).is_empty());
    let before = parser.lines.len();
    let frame = unchunked(&frame::event(encoding, epoch, Arc::clone(event)));
    let bare = frame::event(Encoding { framing: Framing::Close, ..encoding }, epoch, Arc::clone(event));
    prop_assert_eq!(&*frame, &*bare, "without chunks the bytes are the same");
    let mut blocks = feed(&mut parser, &frame, sizes);
    let fields = parser.lines[before..].to_vec();
    prop_assert_eq!(&parser.last_event_id, &id(event.seq).to_string());
    prop_assert_eq!(parser.retry, Some(3_000));
    // Nothing of it is left over that a later block would take for its own.
    let after = [frame::heartbeat(encoding, None), frame::heartbeat(encoding, Some(id(9)))].concat();
    prop_assert!(feed(&mut parser, &unchunked(&after), sizes).is_empty());
    prop_assert_eq!(blocks.len(), 1);
    let block = blocks.remove(0);
    prop_assert_eq!(&block.id, &id(event.seq).to_string());
    prop_assert_eq!(block.event.as_str(), event.name.as_ref().map_or("message", EventName::as_str));
    Ok((block, fields))
}

fn is_the_event(object: &Value, epoch: Epoch, event: &Event, content: &str) -> Result<(), TestCaseError> {
    let id = EventId { epoch, seq: event.seq }.to_string();
    let name = event.name.as_ref().map(EventName::as_str);
    let expected = serde_json::json!({
        "id": id, "topic": event.topic.as_str(), "event": name, "time": "2023-11-14T22:13:20.000Z", "data": content,
    });
    prop_assert_eq!(object, &expected);
    Ok(())
}

fn config() -> ProptestConfig {
    ProptestConfig { cases: cases(2_000), failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_parser_reads_back_what_was_published(
        content in content(), name in proptest::option::of(name()), seq in seq(), sizes in vec(1..40_usize, 1..9),
    ) {
        // Goal: one event and no field more, its data the content with every line end an LF, however the bytes come.
        let epoch = Epoch::random();
        let event = event(epoch, seq, "topic", name.as_deref(), &content);
        let (block, fields) = through_the_wire(Format::Plain, &event, epoch, &sizes)?;
        let data = normalised(&content);
        let lines = data.split('\n').map(|_| "data");
        let expected: Vec<&str> = name.iter().map(|_| "event").chain(lines).chain(["id"]).collect();
        prop_assert_eq!(fields, expected);
        prop_assert_eq!(block.data, data);
        prop_assert_eq!(event.content(), content.as_bytes());
    }

    #[test]
    fn an_envelope_holds_the_content_byte_for_byte(
        content in content(), topic in name(), name in proptest::option::of(name()), seq in seq(),
        sizes in vec(1..40_usize, 1..9),
    ) {
        // Goal: with `envelope=json` not even line ends change, and the object is one line of data.
        let epoch = Epoch::random();
        let event = event(epoch, seq, &topic, name.as_deref(), &content);
        let (block, fields) = through_the_wire(Format::Envelope, &event, epoch, &sizes)?;
        let expected: Vec<&str> = name.iter().map(|_| "event").chain(["data", "id"]).collect();
        prop_assert_eq!(fields, expected);
        is_the_event(&serde_json::from_str(&block.data).expect("JSON"), epoch, &event, &content)?;
    }

    #[test]
    fn a_line_holds_the_content_byte_for_byte(
        content in content(), topic in name(), name in proptest::option::of(name()), seq in seq(),
    ) {
        // Goal: an event is exactly one line of NDJSON.
        let epoch = Epoch::random();
        let event = event(epoch, seq, &topic, name.as_deref(), &content);
        let line = frame::event(LINES, epoch, Arc::clone(&event));
        prop_assert_eq!(line.iter().position(|b| matches!(b, b'\n' | b'\r')), Some(line.len() - 1));
        prop_assert_eq!(line.last(), Some(&b'\n'));
        is_the_event(&serde_json::from_slice(&line).expect("JSON"), epoch, &event, &content)?;
    }

    #[test]
    fn notices_take_in_whatever_was_asked(requested in content(), topic in name(), sizes in vec(1..40_usize, 1..9)) {
        // Goal: neither the cursor that a client sent nor a topic's name gets out of the notice that quotes it.
        let id = EventId { epoch: Epoch::random(), seq: 7 };
        let gap = frame::gap(PLAIN, frame::GapReason::Unreadable, &requested, id);
        let deleted = frame::deleted(PLAIN, &TopicName::parse(&topic, 1 << 10).expect("a valid name"));
        let mut parser = Parser::default();
        let blocks = feed(&mut parser, &[gap, deleted].concat(), &sizes);
        let read = |at: usize| serde_json::from_str::<Value>(&blocks[at].data).expect("JSON");
        prop_assert_eq!(blocks.len(), 2);
        prop_assert_eq!(&read(0)["requested"], &Value::from(requested));
        prop_assert_eq!(&read(1)["topic"], &Value::from(topic));
        prop_assert_eq!(parser.lines, ["event", "data", "id", "event", "data"]);
    }
}

#[tokio::test]
async fn names_that_could_forge_a_field_are_refused() {
    // Goal: no control character and no name of the broker's own gets in, by query, form or JSON.
    let server = TestServer::start();
    let client = reqwest::Client::new();
    let mut stream = server.subscribe("topic=safe").await;
    for bad in ["a\nid: 9", "a\rdata: x", "a\r\n\r\ndata: x", "\0", "\u{85}", "a\tb", "\u{7f}", "\u{1b}[2J"] {
        for (topic, event) in [("safe", bad), (bad, "safe")] {
            let request = client.post(server.url("/publish")).query_pair("content", "forged");
            let query = request.query_pair("topic", topic).query_pair("event", event).send().await.expect("an answer");
            let body = serde_json::json!({"topic": topic, "event": event, "content": "forged"}).to_string();
            let json = client.post(server.url("/publish")).header("content-type", "application/json").body(body);
            let json = json.send().await.expect("an answer");
            assert_eq!((query.status().as_u16(), json.status().as_u16()), (400, 400), "{bad:?}");
        }
    }
    for reserved in ["broker.gap", "broker.", "broker.refused"] {
        let request = client.post(server.url("/publish")).query_pair("topic", "safe").query_pair("event", reserved);
        assert_eq!(
            request.body("forged").header("content-type", "text/plain").send().await.expect("an answer").status(),
            400
        );
    }
    let id = server.publish("safe", "true").await;
    let block = stream.next().await.expect("an event");
    assert_eq!((block.id, block.data.as_str()), (id, "true"), "nothing came before it");
}

#[tokio::test]
async fn names_and_contents_that_look_like_fields_stay_what_they_are() {
    // Goal: through the whole server each comes out as it went in, and nothing else comes out.
    let server = TestServer::start();
    let client = reqwest::Client::new();
    let looks = [
        "id: 9",
        "data: x",
        "event:x",
        ": c",
        " lead",
        "retry: 1",
        "\u{feff}",
        "a\u{2028}data: x",
        "\u{2029}",
        "</script>",
    ];
    for look in looks {
        let query = encoded(look);
        let mut stream = server.subscribe(&format!("topic={query}&topic=other")).await;
        let mut enveloped = server.subscribe(&format!("topic={query}&envelope=json")).await;
        let content = format!("{look}\r\n\r\n{look}\rid: 1\n\n");
        let request = client.post(server.url("/publish")).query_pair("topic", look).query_pair("event", look);
        let answer =
            request.header("content-type", "text/plain").body(content.clone()).send().await.expect("an answer");
        assert_eq!(answer.status(), 200, "{look:?}");
        let last = server.publish("other", "last").await;
        let (block, sentinel) = (stream.next().await.expect("an event"), stream.next().await.expect("an event"));
        assert_eq!((block.event.as_str(), block.data), (look, normalised(&content)), "{look:?}");
        assert_eq!((sentinel.id, sentinel.data.as_str()), (last, "last"), "{look:?}");
        let object: Value = serde_json::from_str(&enveloped.next().await.expect("an event").data).expect("JSON");
        assert_eq!(
            (&object["topic"], &object["event"], &object["data"]),
            (&look.into(), &look.into(), &content.into())
        );
    }
}

#[tokio::test]
async fn a_cursor_that_looks_like_a_stream_is_quoted() {
    // Goal: what a client sends as its cursor comes back in the gap's data alone.
    let server = TestServer::start();
    let cursor = "x\n\nid: 9\rdata: y\r\n\r\n\0\u{feff}";
    let mut stream = server.subscribe(&format!("topic=t&lastEventId={}", encoded(cursor))).await;
    let id = server.publish("t", "true").await;
    let (gap, block) = (stream.next().await.expect("a gap"), stream.next().await.expect("an event"));
    let notice: Value = serde_json::from_str(&gap.data).expect("JSON");
    assert_eq!(
        (gap.event.as_str(), &notice["reason"], &notice["requested"]),
        ("broker.gap", &"unreadable".into(), &cursor.into())
    );
    assert_eq!((block.id, block.data.as_str()), (id, "true"));
}

/// Every byte percent-encoded.
fn encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |all, b| all + &format!("%{b:02X}"))
}
