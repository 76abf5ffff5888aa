//! The event stream interpretation of the HTML standard, section 9.2.6, written from its text and not from our encoder.

/// An event as it would be dispatched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// `message` when the stream named none.
    pub event: String,
    pub id: String,
    pub data: String,
}

/// Takes bytes as they come, in whatever pieces.
#[derive(Debug, Default)]
pub struct Parser {
    bytes: Vec<u8>,
    started: bool,
    event: String,
    data: String,
    id: String,
    pub last_event_id: String,
    pub retry: Option<u64>,
    /// Fields by name, comments as "": how many lines of each came.
    pub lines: Vec<String>,
}

impl Parser {
    /// Interprets `bytes`, and whatever of it completes a block.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<Block> {
        self.bytes.extend_from_slice(bytes);
        if !self.started {
            let bom = [0xEF, 0xBB, 0xBF];
            if self.bytes.len() < 3 && bom.starts_with(&self.bytes) {
                return Vec::new();
            }
            if self.bytes.starts_with(&bom) {
                self.bytes.drain(..3);
            }
            self.started = true;
        }
        let mut blocks = Vec::new();
        while let Some((line, used)) = next_line(&self.bytes) {
            self.bytes.drain(..used);
            if line.is_empty() {
                blocks.extend(self.dispatch());
            } else {
                self.field(&String::from_utf8(line).expect("a stream is UTF-8"));
            }
        }
        blocks
    }

    /// Whether a block has come in part.
    pub fn is_within(&self) -> bool {
        !self.bytes.is_empty() || !self.data.is_empty() || !self.event.is_empty()
    }

    fn dispatch(&mut self) -> Option<Block> {
        self.last_event_id = self.id.clone();
        let (mut data, event) = (std::mem::take(&mut self.data), std::mem::take(&mut self.event));
        if data.is_empty() {
            return None;
        }
        if data.ends_with('\n') {
            data.pop();
        }
        let event = if event.is_empty() { "message".to_owned() } else { event };
        Some(Block { event, id: self.last_event_id.clone(), data })
    }

    fn field(&mut self, line: &str) {
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        self.lines.push(name.to_owned());
        match name {
            "event" => self.event = value.to_owned(),
            "data" => {
                self.data.push_str(value);
                self.data.push('\n');
            }
            "id" if !value.contains('\0') => self.id = value.to_owned(),
            "retry" if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) => {
                self.retry = value.parse().ok();
            }
            _ => {}
        }
    }
}

/// A line and the bytes it takes with its end, if its end is there. A CR at the very end of what has come may yet be
/// half of a CRLF.
fn next_line(bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
    let end = bytes.iter().position(|b| matches!(b, b'\r' | b'\n'))?;
    let used = match (bytes[end], bytes.get(end + 1)) {
        (b'\r', None) => return None,
        (b'\r', Some(b'\n')) => end + 2,
        _ => end + 1,
    };
    Some((bytes[..end].to_vec(), used))
}
