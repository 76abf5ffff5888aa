//! Random requests: every method, address, parameter, header and kind of body that means something, right and wrong.

use fastrand::Rng;

/// The topics that are published to.
pub const TOPICS: [&str; 3] = ["a", "b", "新闻"];

/// A request; its connection and who reads it are not part of it.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: &'static str,
    host: &'static str,
    target: String,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

/// The header of a request that means something.
const LOCAL: &str = "Host: localhost";
const METHODS: [&str; 12] =
    ["GET", "GET", "GET", "POST", "POST", "POST", "POST", "PUT", "HEAD", "DELETE", "OPTIONS", "PATCH"];
const HOSTS: [&str; 14] = [
    "Host: localhost:8080",
    "Host: LocalHost.",
    "Host: 127.0.0.1",
    "Host: [::1]:80",
    "Host: broker.example",
    "Host: evil.example",
    "Host: broker.example.evil.example",
    "Host: localhost@evil.example",
    "Host: caf\u{e9}",
    "Host: a b",
    "Host:",
    "Host: localhost\r\nHost: localhost",
    "Host: localhost\r\nHost: evil.example",
    "No-Host: localhost",
];
const PATHS: [&str; 35] = [
    "/publish",
    "/publish",
    "/publish",
    "/publish",
    "/publish",
    "/publish",
    "/subscribe",
    "/subscribe",
    "/subscribe",
    "/topics/a",
    "/topics/b",
    "/topics/%E6%96%B0%E9%97%BB",
    "/topics/新闻",
    "/topics/a/b",
    "/topics/a%2Fb",
    "/topics/+",
    "/topics/%ff",
    "/topics/",
    "/topics/a/subscribers",
    "/topics/%61%2Fb/subscribers",
    "/topics//subscribers",
    "/subscribers/0000-00000000-00000000",
    "/subscribers/%ff",
    "/subscribers/",
    "/subjects/a%2Fb",
    "/subjects/",
    "/tickets",
    "/healthz",
    "/readyz",
    "/",
    "/app.js",
    "/%70ublish",
    "/publish/a",
    "/subscribe/",
    "//publish",
];
const PAIRS: [&str; 49] = [
    "topic=a",
    "topic=a",
    "topic=a",
    "topic=b",
    "topic=%E6%96%B0%E9%97%BB",
    "topic=新闻",
    "topic=",
    "topic=%ff",
    "topic=%0a",
    "topic=a%",
    "topic=0123456789012345678901234567890123456789",
    "topic=01234567890123456789012345678901234567890",
    "topics=a",
    "Topic=a",
    "content=x",
    "content=x",
    "content=x+y%21",
    "content=",
    "content",
    "content=%zz",
    "event=e",
    "event=",
    "event=broker.open",
    "event=a%0Ab",
    "_=17",
    "other=%ff",
    "&",
    "=",
    "ticket=x",
    "since=all",
    "since=10m",
    "since=yesterday",
    "since=2020-01-01T00:00:00Z",
    "last=2",
    "last=10000",
    "last=10001",
    "last=-1",
    "lastn=2",
    "lastEventId=elsewhere-1",
    "last_event_id=",
    "lastEventID=%ff",
    "Last-Event-ID=x",
    "marks=id",
    "marks=none",
    "marks=all",
    "envelope=json",
    "envelope=xml",
    "on_gap=fail",
    "on_gap=later",
];
const HEADERS: [(&str, &str); 39] = [
    ("Content-Type", "text/plain"),
    ("Content-Type", "text/plain; charset=utf-8"),
    ("Content-Type", "text/plain; charset=\"latin1\""),
    ("Content-Type", "application/json"),
    ("Content-Type", "application/json"),
    ("Content-Type", "APPLICATION/JSON; charset=UTF-8"),
    ("Content-Type", "application/x-www-form-urlencoded"),
    ("Content-Type", "application/x-www-form-urlencoded"),
    ("Content-Type", "multipart/form-data; boundary=x"),
    ("Content-Type", "application/octet-stream"),
    ("Idempotency-Key", "k"),
    ("Idempotency-Key", "l"),
    ("Idempotency-Key", ""),
    ("Idempotency-Key", "é"),
    ("Accept", "text/event-stream"),
    ("Accept", "application/x-ndjson"),
    ("Accept", "*/*"),
    ("Accept", "text/html, text/event-stream;q=0.5"),
    ("Last-Event-ID", "elsewhere-7"),
    ("Last-Event-ID", ""),
    ("Last-Event-ID", "é"),
    ("Origin", "https://app.example.com"),
    ("Origin", "https://elsewhere.example.com"),
    ("Origin", "http://localhost"),
    ("Origin", "null"),
    ("Sec-Fetch-Site", "same-origin"),
    ("Sec-Fetch-Site", "cross-site"),
    ("Sec-Fetch-Site", "none"),
    ("Access-Control-Request-Method", "POST"),
    ("Access-Control-Request-Headers", "content-type, idempotency-key"),
    ("Cookie", "a=b"),
    ("User-Agent", "fronts"),
    ("Forwarded", "for=192.0.2.1;host=broker.example;proto=https"),
    ("Forwarded", "for=\"192.0.2.1"),
    ("X-Forwarded-For", "192.0.2.1, 127.0.0.2"),
    ("X-Forwarded-Host", "app.example.com"),
    ("X-Forwarded-Host", "broker.example"),
    ("X-Forwarded-Proto", "https"),
    ("X-Forwarded-Proto", "gopher"),
];
const BODIES: [&str; 17] = [
    "content",
    "订单",
    "line\r\nline\nline\r",
    "{\"topic\":\"a\",\"content\":{\"b\": [1, 2.50, null]}}",
    "{\"topic\":[\"a\",\"b\"],\"content\":\"x\",\"event\":\"e\"}",
    "{\"topic\":[\"a\",\"b\",\"c\"],\"content\":\"x\"}",
    "{\"topic\":\"a\"}",
    "{\"content\":null}",
    "{\"content\":\"x\",\"content\":\"y\"}",
    "{",
    "[1]",
    "\"\"",
    "topic=a&content=b+c",
    "topic=a&topic=b&content=%E8%AE%A2&event=e",
    "content=%ff",
    "topic=a&other=%zz",
    "--x--",
];

impl Request {
    pub fn random(random: &mut Rng) -> Self {
        let path = pick(random, &PATHS);
        let mut pairs: Vec<&str> = (0..random.usize(0..5)).map(|_| pick(random, &PAIRS)).collect();
        // Most requests are to mean something.
        if random.u8(..) < 150 && matches!(path, "/publish" | "/subscribe") {
            pairs.retain(|pair| !pair.starts_with("topic"));
            pairs.push(pick(random, &["topic=a", "topic=b", "topic=新闻", "topic=a&topic=b"]));
        }
        let target = if pairs.is_empty() { path.to_owned() } else { format!("{path}?{}", pairs.join("&")) };
        let mut headers: Vec<(&str, String)> = Vec::new();
        for _ in 0..random.usize(0..4) {
            let (name, value) = pick(random, &HEADERS);
            // Twice, it would be refused, or the first would count: both are some other test's.
            if !headers.iter().any(|(other, _)| *other == name) {
                headers.push((name, value.to_owned()));
            }
        }
        let host = if random.u8(..) < 200 { LOCAL } else { pick(random, &HOSTS) };
        Self { method: pick(random, &METHODS), host, target, headers, body: body(random) }
    }

    /// What is known of a topic.
    pub fn show(topic: &str) -> Self {
        let target = format!("/topics/{topic}");
        Self { method: "GET", host: LOCAL, target, headers: Vec::new(), body: Vec::new() }
    }

    /// All events that a topic holds.
    pub fn history(topic: &str) -> Self {
        Self { method: "GET", target: format!("/subscribe?topic={topic}&since=all"), ..Self::show(topic) }
    }

    /// As it goes over the wire, with `lines` of its head besides.
    pub fn bytes(&self, lines: &str) -> Vec<u8> {
        let mut bytes = format!("{} {} HTTP/1.1\r\n{}\r\n{lines}", self.method, self.target, self.host).into_bytes();
        for (name, value) in &self.headers {
            bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        if !self.body.is_empty() || self.method == "POST" {
            bytes.extend_from_slice(format!("Content-Length: {}\r\n", self.body.len()).as_bytes());
        }
        [&bytes, &b"\r\n"[..], &self.body].concat()
    }

    pub fn text(&self, lines: &str) -> String {
        String::from_utf8_lossy(&self.bytes(lines)).into_owned()
    }
}

fn body(random: &mut Rng) -> Vec<u8> {
    match random.u8(0..10) {
        0..4 => Vec::new(),
        4..8 => pick(random, &BODIES).as_bytes().to_vec(),
        8 => {
            // About the limits: of an event, and of a body.
            let (length, around) = (pick(random, &[1000, 70_536, 4096]), random.usize(0..3));
            vec![b'x'; length + around - 1]
        }
        _ => (0..random.usize(1..20)).map(|_| random.u8(..)).collect(),
    }
}

fn pick<T: Copy>(random: &mut Rng, choices: &[T]) -> T {
    choices[random.usize(..choices.len())]
}
