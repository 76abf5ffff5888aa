//! An incremental parser for HTTP/1.1 responses. It removes the framing of the body.

/// The longest head that is accepted, in bytes.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// The most headers that are accepted.
const HEADERS_MAX: usize = 64;

/// A response that is being parsed.
#[derive(Debug, Default)]
pub struct Response {
    /// `None` until the head is complete.
    pub status: Option<u16>,
    /// Whether the connection may be used for another request.
    pub keeps_alive: bool,
    /// The received part of the head, until the head is complete.
    head: Vec<u8>,
    framing: Framing,
}

/// What marks the end of the body.
#[derive(Debug, Default)]
enum Framing {
    /// The end of the connection.
    #[default]
    Close,
    /// The length: so many bytes are still missing.
    Length(u64),
    /// The last chunk.
    Chunked(Chunk),
}

/// The parser's position in a chunked body.
#[derive(Debug)]
enum Chunk {
    /// In the line with the size of a chunk.
    Size {
        /// The value of the digits so far.
        size: u64,
        /// All digits have been read.
        is_known: bool,
    },
    /// In the data of a chunk: so many bytes are still missing.
    Data(u64),
    /// In the line end after the data.
    DataEnd,
    /// After the size of the last chunk.
    Last,
}

/// The bytes are not an HTTP response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

impl Response {
    /// Prepares for the next response of the connection.
    pub fn reset(&mut self) {
        let mut head = std::mem::take(&mut self.head);
        head.clear();
        *self = Self { head, ..Self::default() };
    }

    /// Whether the whole response was received. Never true if the connection marks its end.
    pub fn is_complete(&self) -> bool {
        self.status.is_some() && matches!(self.framing, Framing::Length(0) | Framing::Chunked(Chunk::Last))
    }

    /// Parses more bytes, and passes the data of the body to `on_body`.
    pub fn feed(&mut self, bytes: &[u8], on_body: impl FnMut(&[u8])) -> Result<(), Malformed> {
        if self.status.is_some() {
            return self.framing.feed(bytes, on_body);
        }
        self.head.extend_from_slice(bytes);
        let mut fields = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut head = httparse::Response::new(&mut fields);
        let httparse::Status::Complete(len) = head.parse(&self.head).map_err(|_| Malformed)? else {
            return if self.head.len() > HEAD_BYTES_MAX { Err(Malformed) } else { Ok(()) };
        };
        self.status = head.code;
        (self.framing, self.keeps_alive) = framing(&head)?;
        // Free the head: with thousands of streams, it would use much memory.
        let head = std::mem::take(&mut self.head);
        self.framing.feed(head.get(len..).unwrap_or_default(), on_body)
    }
}

/// The framing of the body, and whether the connection may be used again.
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
    fn feed(&mut self, bytes: &[u8], mut on_body: impl FnMut(&[u8])) -> Result<(), Malformed> {
        match self {
            Self::Close => on_body(bytes),
            Self::Length(missing) => on_body(split(bytes, missing).0),
            Self::Chunked(chunk) => {
                let mut rest = bytes;
                while !rest.is_empty() && !matches!(chunk, Chunk::Last) {
                    rest = chunk.feed(rest, &mut on_body)?;
                }
            }
        }
        Ok(())
    }
}

impl Chunk {
    /// Parses `bytes` up to the end of the current part of a chunk, and returns the bytes after it.
    fn feed<'a>(&mut self, bytes: &'a [u8], on_body: &mut impl FnMut(&[u8])) -> Result<&'a [u8], Malformed> {
        match self {
            Self::Data(missing) => {
                let (data, rest) = split(bytes, missing);
                on_body(data);
                if *missing == 0 {
                    *self = Self::DataEnd;
                }
                Ok(rest)
            }
            Self::DataEnd => Ok(memchr::memchr(b'\n', bytes).map_or(&[], |end| {
                *self = Self::Size { size: 0, is_known: false };
                bytes.get(end + 1..).unwrap_or_default()
            })),
            Self::Size { size, is_known } => {
                let Some((byte, rest)) = bytes.split_first() else { return Ok(bytes) };
                match (char::from(*byte).to_digit(16), byte) {
                    (_, b'\n') => *self = if *size == 0 { Self::Last } else { Self::Data(*size) },
                    // A chunk extension, or the CR.
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

/// Splits `bytes` after the `missing` bytes, and subtracts what was found from `missing`.
fn split<'a>(bytes: &'a [u8], missing: &mut u64) -> (&'a [u8], &'a [u8]) {
    let len = usize::try_from(*missing).unwrap_or(usize::MAX).min(bytes.len());
    *missing -= u64::try_from(len).unwrap_or_default();
    bytes.split_at_checked(len).unwrap_or((bytes, &[]))
}

/// The `code` of a problem document in parentheses; empty if there is none.
pub fn problem_code(response: &[u8]) -> String {
    let text = String::from_utf8_lossy(response);
    let code = text.split("\"code\":\"").nth(1).and_then(|rest| rest.split('"').next());
    code.map(|code| format!(" ({code})")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parses `text` in pieces of every size. Returns status, body, `is_complete` and `keeps_alive`.
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
    fn each_framing_is_removed() {
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
    fn what_is_not_http_is_an_error() {
        assert_eq!(Response::default().feed(b"SSH-2.0-OpenSSH\r\n", |_| {}), Err(Malformed));
        let endless = vec![b'x'; HEAD_BYTES_MAX];
        let mut response = Response::default();
        response.feed(b"HTTP/1.1 200 OK\r\nField: ", |_| {}).unwrap();
        assert_eq!(response.feed(&endless, |_| {}), Err(Malformed));
    }
}
