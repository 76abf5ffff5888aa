//! An incremental parser for HTTP/1.1 responses. It removes the framing of the body.

use super::tally::wide;

/// The longest head that is accepted, in bytes.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// The most headers that are accepted.
const HEADERS_MAX: usize = 64;

/// A response that is being parsed.
#[derive(Debug, Default)]
pub struct Response {
    /// `None` until the head is complete.
    pub status: Option<u16>,
    /// Whether the server keeps the connection open for another request.
    pub keeps_alive: bool,
    /// What has arrived of an incomplete head.
    head: Vec<u8>,
    framing: Framing,
}

/// What marks the end of the body, and where in the body the parser is.
#[derive(Debug, Default)]
enum Framing {
    /// The end of the connection.
    #[default]
    Close,
    /// The length of the body. This many bytes are still missing.
    Length(u64),
    /// The last chunk. The parser is in the line end after the data of a chunk, or in the line with the size of the
    /// next one.
    ChunkSize {
        /// The value of the digits so far; `None` before the first digit.
        size: Option<u64>,
        /// All digits have been read. The rest of the line is an extension.
        is_known: bool,
    },
    /// The last chunk. The parser is in the data of a chunk, of which this many bytes are still missing.
    ChunkData(u64),
    /// The last chunk. The parser is after the size of this chunk.
    LastChunk,
}

/// The bytes are not an HTTP response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

impl Response {
    /// Whether the whole response has arrived. The empty line after the last chunk may still be missing. Always false
    /// if the response [ends with the connection](Self::ends_with_connection).
    pub fn is_complete(&self) -> bool {
        self.status.is_some() && matches!(self.framing, Framing::Length(0) | Framing::LastChunk)
    }

    /// Whether the end of the connection is the end of the response.
    pub fn ends_with_connection(&self) -> bool {
        self.status.is_some() && matches!(self.framing, Framing::Close)
    }

    /// Parses the head, and removes it from `bytes`. Returns the status; `None` if the head is not complete.
    pub fn parse_head(&mut self, bytes: &mut &[u8]) -> Result<Option<u16>, Malformed> {
        if self.status.is_some() {
            return Ok(self.status);
        }
        let earlier = self.head.len();
        self.head.extend_from_slice(bytes);
        let mut fields = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut head = httparse::Response::new(&mut fields);
        let httparse::Status::Complete(len) = head.parse(&self.head).map_err(|_| Malformed)? else {
            *bytes = &[];
            return if self.head.len() > HEAD_BYTES_MAX { Err(Malformed) } else { Ok(None) };
        };
        self.status = head.code;
        (self.framing, self.keeps_alive) = framing(&head)?;
        *bytes = bytes.get(len - earlier..).unwrap_or_default();
        // Free the memory: with thousands of streams, it would be much.
        self.head = Vec::new();
        Ok(self.status)
    }

    /// Parses bytes whose content is not needed.
    pub fn skip_body(&mut self, mut bytes: &[u8]) -> Result<(), Malformed> {
        while self.next_piece(&mut bytes)?.is_some() {}
        Ok(())
    }

    /// Removes the next piece of the body from `bytes`, and everything before it; `None` if there is no more.
    pub fn next_piece<'a>(&mut self, bytes: &mut &'a [u8]) -> Result<Option<&'a [u8]>, Malformed> {
        self.parse_head(bytes)?;
        while !bytes.is_empty() {
            match &mut self.framing {
                Framing::Close => return Ok(Some(std::mem::take(bytes))),
                Framing::Length(0) | Framing::LastChunk => *bytes = &[],
                Framing::Length(missing) => return Ok(Some(split_off(bytes, missing))),
                Framing::ChunkData(missing) => {
                    let data = split_off(bytes, missing);
                    if *missing == 0 {
                        self.framing = Framing::ChunkSize { size: None, is_known: false };
                    }
                    return Ok(Some(data));
                }
                Framing::ChunkSize { size, is_known } => {
                    let Some(byte) = bytes.split_off_first() else { break };
                    match (byte, char::from(*byte).to_digit(16)) {
                        (b'\n', _) => match *size {
                            Some(0) => self.framing = Framing::LastChunk,
                            Some(size) => self.framing = Framing::ChunkData(size),
                            None => {}
                        },
                        (_, Some(digit)) if !*is_known => {
                            let higher = size.unwrap_or_default().checked_mul(16).ok_or(Malformed)?;
                            *size = Some(higher + u64::from(digit));
                        }
                        // A CR before the first digit, or what ends the digits: a CR or an extension.
                        _ => *is_known = size.is_some(),
                    }
                }
            }
        }
        Ok(None)
    }
}

/// The framing of the body, and whether the server keeps the connection open.
fn framing(head: &httparse::Response<'_, '_>) -> Result<(Framing, bool), Malformed> {
    let mut framing = if matches!(head.code, Some(204 | 304)) { Framing::Length(0) } else { Framing::Close };
    let mut keeps_alive = head.version == Some(1);
    for field in &*head.headers {
        let value = std::str::from_utf8(field.value).unwrap_or_default();
        if field.name.eq_ignore_ascii_case("transfer-encoding") && value.eq_ignore_ascii_case("chunked") {
            framing = Framing::ChunkSize { size: None, is_known: false };
        } else if field.name.eq_ignore_ascii_case("content-length") && !matches!(framing, Framing::ChunkSize { .. }) {
            framing = Framing::Length(value.trim().parse().map_err(|_| Malformed)?);
        } else if field.name.eq_ignore_ascii_case("connection") {
            keeps_alive &= !value.eq_ignore_ascii_case("close");
        }
    }
    // A body that ends with the connection needs no `Connection: close`.
    keeps_alive &= !matches!(framing, Framing::Close);
    Ok((framing, keeps_alive))
}

/// Removes up to `missing` bytes from `bytes`, and subtracts their number from `missing`.
fn split_off<'a>(bytes: &mut &'a [u8], missing: &mut u64) -> &'a [u8] {
    let len = usize::try_from(*missing).unwrap_or(usize::MAX).min(bytes.len());
    *missing -= wide(len);
    bytes.split_off(..len).unwrap_or_default()
}

/// The `code` of a problem document, for an error text: ` (code)`, or nothing if there is none.
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
            for mut bytes in text.as_bytes().chunks(piece) {
                while let Some(piece) = response.next_piece(&mut bytes).unwrap() {
                    body.extend_from_slice(piece);
                }
            }
            all.push((response.status, String::from_utf8(body).unwrap(), response.is_complete(), response.keeps_alive));
        }
        assert!(all.iter().all(|one| *one == all[0]), "{all:?}");
        all.swap_remove(0)
    }

    #[test]
    fn each_framing_is_removed() {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n";
        assert_eq!(read(&format!("{head}\r\nab\ncd")), (Some(200), "ab\ncd".into(), false, false));
        assert_eq!(read(&format!("{head}Content-Length: 3\r\n\r\nabcd")), (Some(200), "abc".into(), true, true));
        let chunked = format!("{head}Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n");
        let whole = format!("{chunked}3\r\nabc\r\nA;x=1\r\n0123456789\r\n0\r\n\r\n");
        assert_eq!(read(&whole), (Some(200), "abc0123456789".into(), true, false));
        assert_eq!(read(&format!("{chunked}3\r\nabc\r\n5\r\nde")), (Some(200), "abcde".into(), false, false));
        assert_eq!(read("HTTP/1.1 204 No Content\r\n\r\n"), (Some(204), String::new(), true, true));
        assert_eq!(read("HTTP/1.1 200 OK\r\nContent-"), (None, String::new(), false, false));
    }

    #[test]
    fn only_a_response_without_a_length_ends_with_the_connection() {
        let head = "HTTP/1.1 200 OK\r\nConnection: close\r\n";
        for (rest, expected) in [
            ("", false),
            ("\r\nab", true),
            ("Content-Length: 3\r\n\r\nab", false),
            ("Transfer-Encoding: chunked\r\n\r\n3\r\nab", false),
        ] {
            let mut response = Response::default();
            response.skip_body(format!("{head}{rest}").as_bytes()).unwrap();
            assert_eq!(response.ends_with_connection(), expected, "{rest:?}");
        }
    }

    #[test]
    fn what_is_not_http_is_an_error() {
        assert_eq!(Response::default().parse_head(&mut &b"SSH-2.0-OpenSSH\r\n"[..]), Err(Malformed));
        let endless = vec![b'x'; HEAD_BYTES_MAX];
        let mut response = Response::default();
        assert_eq!(response.parse_head(&mut &b"HTTP/1.1 200 OK\r\nField: "[..]), Ok(None));
        assert_eq!(response.parse_head(&mut &endless[..]), Err(Malformed));
    }
}
