//! The text protocol of NATS, as far as the tests change it: lines, of which some are followed by a payload.

use tokio::io::AsyncRead;

use super::read_more;

/// One line, with the payload that follows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// The words of the line: the operation first.
    pub words: Vec<String>,
    /// Headers and content, of those that have some.
    pub payload: Option<Vec<u8>>,
}

impl Frame {
    /// A message for the subscription `sid`.
    pub fn message(subject: &str, sid: &str, payload: &str) -> Self {
        let words = ["MSG", subject, sid, ""].map(str::to_owned).to_vec();
        Self { words, payload: Some(payload.into()) }
    }

    /// A message that consists of a status.
    pub fn status(subject: &str, sid: &str, status: &str) -> Self {
        let payload = format!("NATS/1.0 {status}\r\n\r\n").into_bytes();
        let words = ["HMSG", subject, sid, &payload.len().to_string(), ""].map(str::to_owned).to_vec();
        Self { words, payload: Some(payload) }
    }

    pub fn operation(&self) -> &str {
        self.words.first().map_or("", String::as_str)
    }

    /// The word at `n`; empty when there are fewer.
    pub fn word(&self, n: usize) -> &str {
        self.words.get(n).map_or("", String::as_str)
    }

    /// The frame as it is sent. The last word of a line with a payload is the length of the payload.
    pub fn bytes(&self) -> Vec<u8> {
        let mut words = self.words.clone();
        if let (Some(payload), Some(length)) = (&self.payload, words.last_mut()) {
            *length = payload.len().to_string();
        }
        let mut bytes = words.join(" ").into_bytes();
        bytes.extend_from_slice(b"\r\n");
        if let Some(payload) = &self.payload {
            bytes.extend_from_slice(payload);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes
    }
}

/// What a server has subscribed to: the subjects without their wildcards, each with the id of the subscription.
#[derive(Default)]
pub struct Subscriptions(Vec<(String, String)>);

impl Subscriptions {
    /// Notes a subscription, if this frame is one.
    pub fn note(&mut self, frame: &Frame) {
        if let ("SUB", Some(sid)) = (frame.operation(), frame.words.last()) {
            self.0.push((frame.word(1).trim_end_matches('*').to_owned(), sid.clone()));
        }
    }

    /// The id of the subscription that gets what is sent to `subject`. After another connection, the last one counts.
    pub fn of(&self, subject: &str) -> Option<&str> {
        let (_, sid) = self.0.iter().rev().find(|(prefix, _)| subject.starts_with(prefix))?;
        Some(sid)
    }
}

/// Reads frames.
pub struct Frames<R> {
    from: R,
    bytes: Vec<u8>,
}

impl<R: AsyncRead + Unpin> Frames<R> {
    pub fn new(from: R) -> Self {
        Self { from, bytes: Vec::new() }
    }

    /// The next frame; `None` at the end. When the future is dropped, what has come stays for the next one.
    pub async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = take_frame(&mut self.bytes) {
                return Some(frame);
            }
            read_more(&mut self.from, &mut self.bytes).await?;
        }
    }
}

fn take_frame(bytes: &mut Vec<u8>) -> Option<Frame> {
    let end = bytes.windows(2).position(|pair| pair == b"\r\n")?;
    let line = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let has_payload = ["PUB ", "HPUB ", "MSG ", "HMSG "].iter().any(|operation| line.starts_with(operation));
    // What the operations of the test have as words, a space divides. `INFO` and `CONNECT` are followed by JSON.
    let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
    let mut used = end + 2;
    let mut payload = None;
    if has_payload {
        let length: usize = words.last()?.parse().expect("the length of a payload");
        payload = Some(bytes.get(used..used + length)?.to_vec());
        used += length + 2;
        // The end of the line behind the payload.
        bytes.get(used - 1)?;
    }
    bytes.drain(..used);
    Some(Frame { words, payload })
}

#[test]
fn a_frame_is_what_it_was() {
    // Goal: the proxy passes on what it does not change, in whatever pieces it comes.
    let sent = b"SUB _INBOX.a.* 1\r\nHPUB s.t _INBOX.a.7 12 17\r\nNATS/1.0\r\n\r\nhello\r\nPUB a 0\r\n\r\nINFO {\"a\": \"b  c\"}\r\n";
    let (mut bytes, mut frames) = (Vec::new(), Vec::new());
    for byte in sent {
        bytes.push(*byte);
        frames.extend(take_frame(&mut bytes));
    }
    let passed: Vec<u8> = frames.iter().flat_map(Frame::bytes).collect();
    assert_eq!((String::from_utf8_lossy(&passed), bytes.len()), (String::from_utf8_lossy(sent), 0));
    assert_eq!((frames.len(), frames[1].word(2)), (4, "_INBOX.a.7"));
}
