//! The requests: each is ambiguous, or close to one that is, and has another request behind it.

/// What must come of a probe.
#[derive(Clone, Copy)]
pub enum Meaning {
    /// 400 with this code, and the end of the connection.
    Refused(&'static str),
    /// This status and code, and the end of the connection: nothing behind it is read.
    Last((u16, &'static str)),
    /// These statuses and codes. Then the request behind it is served, because there is only one place where it can
    /// begin.
    Next(&'static [(u16, &'static str)]),
}

pub struct Probe {
    pub name: &'static str,
    /// `{topic}` stands for a topic, `{lines}` for more lines of the head.
    request: String,
    pub meaning: Meaning,
}

impl Probe {
    /// The request, which publishes to `topic`, and behind it another one, which publishes to `hidden`.
    pub fn bytes(&self, topic: &str, hidden: &str, lines: &str) -> Vec<u8> {
        let request = self.request.replace("{topic}", topic).replace("{lines}", lines);
        // Latin-1: each character below U+0100 is one byte.
        let mut bytes: Vec<u8> = request.chars().map(|c| u8::try_from(c).expect("Latin-1")).collect();
        bytes.extend_from_slice(self::hidden(hidden).as_bytes());
        bytes
    }
}

/// The request behind a probe. It is the last of its connection.
pub fn hidden(topic: &str) -> String {
    format!(
        "POST /publish?topic={topic} HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nConnection: close\r\n\
         Content-Length: 6\r\n\r\nhidden"
    )
}

const REFUSED: Meaning = Meaning::Refused("bad_request");
const BAD_BODY: Meaning = Meaning::Refused("bad_body");
const PUBLISHED: Meaning = Meaning::Next(&[(200, "")]);
/// The fallback has found the end of the body: nothing more is read from the connection.
const ALONE: Meaning = Meaning::Last((200, ""));

/// Lines of the head, the body, and what must come of it.
const LINES: &[(&str, &str, &str, Meaning)] = &[
    ("plain, the control", "Content-Length: 1", "x", PUBLISHED),
    ("chunked, the control", "Transfer-Encoding: chunked", "1\r\nx\r\n0\r\n\r\n", ALONE),
    // Two lengths.
    ("CL.TE", "Content-Length: 4\r\nTransfer-Encoding: chunked", "1\r\nx\r\n0\r\n\r\n", REFUSED),
    ("TE.CL", "Transfer-Encoding: chunked\r\nContent-Length: 4", "0\r\n\r\n", REFUSED),
    ("one length twice", "Content-Length: 1\r\nContent-Length: 1", "x", REFUSED),
    ("two lengths", "Content-Length: 1\r\nContent-Length: 0", "x", REFUSED),
    ("two lengths, the second is shorter", "Content-Length: 0\r\nContent-Length: 1", "x", REFUSED),
    ("lengths in a list", "Content-Length: 1, 1", "x", REFUSED),
    // Lengths that are not numbers.
    ("length with a plus", "Content-Length: +1", "x", REFUSED),
    ("length below zero", "Content-Length: -1", "x", REFUSED),
    ("length in base 16", "Content-Length: 0x1", "x", REFUSED),
    ("length with a point", "Content-Length: 1.0", "x", REFUSED),
    ("length with a blank inside", "Content-Length: 1 1", "x", REFUSED),
    ("length that is empty", "Content-Length: ", "x", REFUSED),
    ("length above 2^64", "Content-Length: 18446744073709551617", "x", REFUSED),
    ("length behind a vertical tab", "Content-Length: \u{b}1", "x", REFUSED),
    ("length behind zeros", "Content-Length: 0001", "x", PUBLISHED),
    ("length between blanks and tabs", "Content-Length: \t 1 \t", "x", PUBLISHED),
    // Transfer codings.
    ("xchunked", "Transfer-Encoding: xchunked", "1\r\nx\r\n0\r\n\r\n", REFUSED),
    ("identity", "Transfer-Encoding: identity", "", REFUSED),
    ("empty coding", "Transfer-Encoding: ", "1\r\nx\r\n0\r\n\r\n", REFUSED),
    ("chunked twice", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", "1\r\nx\r\n0\r\n\r\n", REFUSED),
    ("chunked, then identity", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", "0\r\n\r\n", REFUSED),
    ("identity, then chunked", "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked", "0\r\n\r\n", REFUSED),
    ("chunked in a list", "Transfer-Encoding: chunked, chunked", "0\r\n\r\n", REFUSED),
    ("chunked is not the last", "Transfer-Encoding: chunked, gzip", "0\r\n\r\n", REFUSED),
    ("chunked is the last", "Transfer-Encoding: gzip, chunked", "0\r\n\r\n", REFUSED),
    ("chunked in quotes", "Transfer-Encoding: \"chunked\"", "0\r\n\r\n", REFUSED),
    ("chunked with a parameter", "Transfer-Encoding: chunked;q=1", "0\r\n\r\n", REFUSED),
    ("chunked behind a vertical tab", "Transfer-Encoding: \u{b}chunked", "0\r\n\r\n", REFUSED),
    ("chunked before a no-break space", "Transfer-Encoding: chunked\u{a0}", "0\r\n\r\n", REFUSED),
    ("chunked in upper case", "Transfer-Encoding: CHUNKED", "1\r\nx\r\n0\r\n\r\n", ALONE),
    ("a name with an underscore", "Transfer_Encoding: chunked\r\nContent-Length: 1", "x", PUBLISHED),
    // Names and lines.
    ("blank before the colon of a length", "Content-Length : 1", "x", REFUSED),
    ("tab before the colon of a coding", "Transfer-Encoding\t: chunked", "0\r\n\r\n", REFUSED),
    ("a folded line", "X-A: b\r\n c\r\nContent-Length: 1", "x", REFUSED),
    ("a folded length", "Content-Length:\r\n 1", "x", REFUSED),
    ("a folded coding", "Transfer-Encoding:\r\n chunked", "0\r\n\r\n", REFUSED),
    ("LF alone before a length", "X-A: b\nContent-Length: 1", "x", REFUSED),
    ("LF alone before a coding", "X-A: b\nTransfer-Encoding: chunked", "0\r\n\r\n", REFUSED),
    ("LF alone after the last line", "Content-Length: 1\n", "x", REFUSED),
    ("CR alone before a length", "X-A: b\rContent-Length: 1", "x", REFUSED),
    ("CR twice", "Content-Length: 1\r", "x", REFUSED),
    ("NUL in a value", "X-A: b\0c\r\nContent-Length: 1", "x", REFUSED),
    ("NUL in a name", "X-A\0: b\r\nContent-Length: 1", "x", REFUSED),
    ("an empty name", ": x\r\nContent-Length: 1", "x", REFUSED),
    ("no colon", "Content-Length 1", "x", REFUSED),
    ("a name that is not ASCII", "X-\u{e9}: x\r\nContent-Length: 1", "x", REFUSED),
    // Chunks.
    ("an extension", "Transfer-Encoding: chunked", "1;a=b\r\nx\r\n0;c\r\n\r\n", ALONE),
    ("an extension that ends with LF", "Transfer-Encoding: chunked", "1;a\nx\r\n0\r\n\r\n", BAD_BODY),
    ("an extension with CR", "Transfer-Encoding: chunked", "1;a\rb\r\nx\r\n0\r\n\r\n", BAD_BODY),
    ("chunks that end with LF", "Transfer-Encoding: chunked", "1\nx\n0\n\n", BAD_BODY),
    ("a chunk longer than its size", "Transfer-Encoding: chunked", "1\r\nxyz\r\n0\r\n\r\n", BAD_BODY),
    ("a size with 0x", "Transfer-Encoding: chunked", "0x1\r\nx\r\n0\r\n\r\n", BAD_BODY),
    ("a size with a plus", "Transfer-Encoding: chunked", "+1\r\nx\r\n0\r\n\r\n", BAD_BODY),
    ("a size below zero", "Transfer-Encoding: chunked", "-1\r\nx\r\n0\r\n\r\n", BAD_BODY),
    ("a size behind a blank", "Transfer-Encoding: chunked", " 1\r\nx\r\n0\r\n\r\n", BAD_BODY),
    ("a size above 2^64", "Transfer-Encoding: chunked", "10000000000000001\r\nx\r\n0\r\n\r\n", BAD_BODY),
    ("an empty size", "Transfer-Encoding: chunked", "\r\nx\r\n0\r\n\r\n", BAD_BODY),
    ("a size before a blank", "Transfer-Encoding: chunked", "1 \r\nx\r\n0\r\n\r\n", ALONE),
    ("a length in the trailer", "Transfer-Encoding: chunked", "1\r\nx\r\n0\r\nContent-Length: 99\r\n\r\n", ALONE),
    // What ends a connection, or would begin another protocol on it.
    ("a length that is hop by hop", "Connection: content-length\r\nContent-Length: 1", "x", PUBLISHED),
    ("an upgrade to HTTP/2", "Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 1", "x", PUBLISHED),
    ("an expectation", "Expect: 100-continue\r\nContent-Length: 1", "x", Meaning::Next(&[(100, ""), (200, "")])),
    ("an unknown expectation", "Expect: 200-ok\r\nContent-Length: 1", "x", PUBLISHED),
    ("a second host", "Host: other.example\r\nContent-Length: 1", "x", REFUSED),
];

/// Whole requests, and what must come of them.
const WHOLE: &[(&str, &str, Meaning)] = &[
    ("empty lines before it", "\r\n\r\nPOST {target} HTTP/1.1\r\nHost: localhost\r\n{lines}{type}\r\nx", PUBLISHED),
    ("no host", "POST {target} HTTP/1.1\r\n{lines}{type}\r\nx", REFUSED),
    ("a folded first line", "POST {target} HTTP/1.1\r\n X: y\r\nHost: localhost\r\n{lines}{type}\r\nx", REFUSED),
    ("LF alone in every line", "POST {target} HTTP/1.1\nHost: localhost\nContent-Length: 1\n\nx", REFUSED),
    ("a blank in the target", "POST {target} b HTTP/1.1\r\nHost: localhost\r\n{lines}{type}\r\nx", REFUSED),
    ("a tab behind the method", "POST\t{target} HTTP/1.1\r\nHost: localhost\r\n{lines}{type}\r\nx", REFUSED),
    ("two blanks in the first line", "POST  {target} HTTP/1.1\r\nHost: localhost\r\n{lines}{type}\r\nx", REFUSED),
    ("HTTP/1.2", "POST {target} HTTP/1.2\r\nHost: localhost\r\n{lines}{type}\r\nx", REFUSED),
    ("HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", REFUSED),
    ("HTTP/0.9", "GET {target}\r\n\r\n", REFUSED),
    ("HTTP/1.0", "POST {target} HTTP/1.0\r\n{lines}{type}\r\nx", ALONE),
    ("HTTP/1.0 that is kept", "POST {target} HTTP/1.0\r\nConnection: keep-alive\r\n{lines}{type}\r\nx", PUBLISHED),
    (
        "HTTP/1.0 with a coding",
        "POST {target} HTTP/1.0\r\nConnection: keep-alive\r\n{lines}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        REFUSED,
    ),
    ("HTTP/1.0 with both", "POST {target} HTTP/1.0\r\n{lines}Transfer-Encoding: chunked\r\n{type}\r\nx", REFUSED),
    ("CONNECT", "CONNECT localhost:1 HTTP/1.1\r\nHost: localhost\r\n\r\n", Meaning::Last((404, "not_found"))),
    (
        "a GET with chunks",
        "GET /healthz HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ALONE,
    ),
];

pub fn probes() -> Vec<Probe> {
    let of_lines = LINES.iter().map(|(name, lines, body, meaning)| {
        let head = "POST /publish?topic={topic} HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n{lines}";
        Probe { name, request: format!("{head}{lines}\r\n\r\n{body}"), meaning: *meaning }
    });
    let whole = WHOLE.iter().map(|(name, text, meaning)| {
        let request = text.replace("{target}", "/publish?topic={topic}");
        let request = request.replace("{type}", "Content-Type: text/plain\r\nContent-Length: 1\r\n");
        Probe { name, request, meaning: *meaning }
    });
    of_lines.chain(whole).collect()
}
