//! An HTTP/1.1 response as its bytes come: the head, then the body without its framing.

/// No server sends a longer head.
const HEAD_MAX: usize = 64 << 10;
const FIELDS_MAX: usize = 64;

/// A response that is being read.
#[derive(Debug, Default)]
pub struct Response {
    /// Once its head is there.
    pub status: Option<u16>,
    /// Whether the connection takes another request after it.
    pub keeps_alive: bool,
    head: Vec<u8>,
    framing: Framing,
}

/// How the end of the body is known.
#[derive(Debug, Default)]
enum Framing {
    /// By the end of the connection.
    #[default]
    Close,
    Length(u64),
    Chunked(Chunk),
}

#[derive(Debug)]
enum Chunk {
    /// Within the line that says how long it is.
    Size {
        size: u64,
        /// Behind the digits.
        is_known: bool,
    },
    Data(u64),
    /// Up to the end of the line behind it.
    Tail,
    Last,
}

/// Not a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

impl Response {
    /// Begins the next response of a connection.
    pub fn reset(&mut self) {
        let mut head = std::mem::take(&mut self.head);
        head.clear();
        *self = Self { head, ..Self::default() };
    }

    /// Whether nothing more belongs to it.
    pub fn is_complete(&self) -> bool {
        self.status.is_some() && matches!(self.framing, Framing::Length(0) | Framing::Chunked(Chunk::Last))
    }

    /// Reads on, and gives what is of the body to `body`.
    pub fn feed(&mut self, bytes: &[u8], body: impl FnMut(&[u8])) -> Result<(), Malformed> {
        if self.status.is_some() {
            return self.framing.feed(bytes, body);
        }
        self.head.extend_from_slice(bytes);
        let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
        let mut head = httparse::Response::new(&mut fields);
        let httparse::Status::Complete(len) = head.parse(&self.head).map_err(|_| Malformed)? else {
            return if self.head.len() > HEAD_MAX { Err(Malformed) } else { Ok(()) };
        };
        self.status = head.code;
        (self.framing, self.keeps_alive) = framing(&head)?;
        // A stream's head is not needed again: thousands of them are memory.
        let head = std::mem::take(&mut self.head);
        self.framing.feed(head.get(len..).unwrap_or_default(), body)
    }
}

fn framing(head: &httparse::Response<'_, '_>) -> Result<(Framing, bool), Malformed> {
    let mut framing = if matches!(head.code, Some(204 | 304)) { Framing::Length(0) } else { Framing::Close };
    let mut keeps_alive = head.version == Some(1);
    for field in &*head.headers {
        let value = std::str::from_utf8(field.value).unwrap_or_default();
        if field.name.eq_ignore_ascii_case("transfer-encoding") && value.eq_ignore_ascii_case("chunked") {
            framing = Framing::Chunked(Chunk::Size { size: 0, is_known: false });
        } else if field.name.eq_ignore_ascii_case("content-length") && !matches!(framing, Framing::Chunked(_)) {
            framing = Framing::Length(value.trim().parse().map_err(|_| Malformed)?);
        } else if field.name.eq_ignore_ascii_case("connection") {
            keeps_alive &= !value.eq_ignore_ascii_case("close");
        }
    }
    Ok((framing, keeps_alive))
}

impl Framing {
    fn feed(&mut self, bytes: &[u8], mut body: impl FnMut(&[u8])) -> Result<(), Malformed> {
        match self {
            Self::Close => body(bytes),
            Self::Length(left) => body(take(bytes, left).0),
            Self::Chunked(chunk) => {
                let mut rest = bytes;
                while !rest.is_empty() && !matches!(chunk, Chunk::Last) {
                    rest = chunk.feed(rest, &mut body)?;
                }
            }
        }
        Ok(())
    }
}

impl Chunk {
    /// Reads to the end of this part of a chunk, or of `bytes`; what is left.
    fn feed<'a>(&mut self, bytes: &'a [u8], body: &mut impl FnMut(&[u8])) -> Result<&'a [u8], Malformed> {
        match self {
            Self::Data(left) => {
                let (data, rest) = take(bytes, left);
                body(data);
                if *left == 0 {
                    *self = Self::Tail;
                }
                Ok(rest)
            }
            Self::Tail => Ok(memchr::memchr(b'\n', bytes).map_or(&[], |end| {
                *self = Self::Size { size: 0, is_known: false };
                bytes.get(end + 1..).unwrap_or_default()
            })),
            Self::Size { size, is_known } => {
                let Some((byte, rest)) = bytes.split_first() else { return Ok(bytes) };
                match (char::from(*byte).to_digit(16), byte) {
                    (_, b'\n') => *self = if *size == 0 { Self::Last } else { Self::Data(*size) },
                    // An extension, or the CR.
                    _ if *is_known => {}
                    (Some(digit), _) => *size = size.checked_mul(16).ok_or(Malformed)? + u64::from(digit),
                    (None, _) => *is_known = true,
                }
                Ok(rest)
            }
            Self::Last => Ok(&[]),
        }
    }
}

/// As much of `bytes` as `left` allows, which is counted down, and what follows.
fn take<'a>(bytes: &'a [u8], left: &mut u64) -> (&'a [u8], &'a [u8]) {
    let len = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
    *left -= u64::try_from(len).unwrap_or_default();
    bytes.split_at_checked(len).unwrap_or((bytes, &[]))
}

/// The `code` of a problem document, to tell one refusal from another.
pub fn code(answer: &[u8]) -> String {
    let text = String::from_utf8_lossy(answer);
    let code = text.split("\"code\":\"").nth(1).and_then(|rest| rest.split('"').next());
    code.map(|code| format!(" ({code})")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads `text` in pieces of every size; status, body, whether it is complete, whether the connection goes on.
    fn read(text: &str) -> (Option<u16>, String, bool, bool) {
        let mut all = Vec::new();
        for piece in 1..=text.len() {
            let (mut response, mut body) = (Response::default(), Vec::new());
            for bytes in text.as_bytes().chunks(piece) {
                response.feed(bytes, |bytes| body.extend_from_slice(bytes)).unwrap();
            }
            all.push((response.status, String::from_utf8(body).unwrap(), response.is_complete(), response.keeps_alive));
        }
        assert!(all.iter().all(|one| *one == all[0]), "{all:?}");
        all.swap_remove(0)
    }

    #[test]
    fn each_framing_is_taken_off() {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n";
        assert_eq!(read(&format!("{head}\r\nab\ncd")), (Some(200), "ab\ncd".into(), false, true));
        assert_eq!(read(&format!("{head}Content-Length: 3\r\n\r\nabcd")), (Some(200), "abc".into(), true, true));
        let chunked = format!("{head}Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n");
        let whole = format!("{chunked}3\r\nabc\r\nA;x=1\r\n0123456789\r\n0\r\n\r\n");
        assert_eq!(read(&whole), (Some(200), "abc0123456789".into(), true, false));
        assert_eq!(read(&format!("{chunked}3\r\nabc\r\n5\r\nde")), (Some(200), "abcde".into(), false, false));
        assert_eq!(read("HTTP/1.1 204 No Content\r\n\r\n"), (Some(204), String::new(), true, true));
        assert_eq!(read("HTTP/1.1 200 OK\r\nContent-"), (None, String::new(), false, false));
    }

    #[test]
    fn what_is_not_http_is_refused() {
        assert_eq!(Response::default().feed(b"SSH-2.0-OpenSSH\r\n", |_| {}), Err(Malformed));
        let endless = vec![b'x'; HEAD_MAX];
        let mut response = Response::default();
        response.feed(b"HTTP/1.1 200 OK\r\nField: ", |_| {}).unwrap();
        assert_eq!(response.feed(&endless, |_| {}), Err(Malformed));
    }
}
