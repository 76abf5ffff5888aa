//! A request whose head is complete, and how its bytes are rewritten for the fallback.

/// Replaces `upgrade` in a head. It has the same length, and no server knows a header or an option of this name.
const IGNORED: &[u8] = b"ignored";

/// A request whose head is complete.
pub(super) struct RawRequest<'a> {
    /// The received bytes. They begin with the request, and may contain bytes after it.
    pub(super) bytes: &'a [u8],
    pub(super) target: &'a str,
    pub(super) headers: &'a [httparse::Header<'a>],
    /// The length of the request; `None` if only the fallback can find its end.
    pub(super) len: Option<usize>,
}

impl RawRequest<'_> {
    /// How many bytes of the request have been received.
    pub(super) fn received_len(&self) -> usize {
        self.len.map_or(self.bytes.len(), |len| len.min(self.bytes.len()))
    }

    /// How many bytes of the request are missing; `None` if that is not known.
    pub(super) fn missing_len(&self) -> Option<usize> {
        self.len.map(|len| len.saturating_sub(self.bytes.len()))
    }

    /// Rewrites the received bytes of the request for the fallback, which would handle two things wrongly:
    ///
    /// - The fallback accepts a target only in ASCII, but `curl '…?topic=新闻'` sends the characters as they were typed.
    ///   So the target is percent-encoded.
    /// - After an upgrade, the fallback would take the following bytes for those of another protocol, or close the
    ///   connection. This server has no other protocol, and may ignore that a client asks for one (RFC 9110, section
    ///   7.8). So `upgrade` is hidden.
    pub(super) fn rewrite(&self) -> Vec<u8> {
        let mut rewritten = self.bytes.get(..self.received_len()).unwrap_or_default().to_vec();
        for upgrade in self.upgrades() {
            let at = self.position(upgrade);
            if let Some(hidden) = rewritten.get_mut(at..at + IGNORED.len()) {
                hidden.copy_from_slice(IGNORED);
            }
        }
        // This comes last: it moves the headers, whose positions are used above.
        if !self.target.bytes().all(is_allowed) {
            let start = self.position(self.target.as_bytes());
            rewritten.splice(start..start + self.target.len(), encode(self.target));
        }
        rewritten
    }

    /// Where the head asks for an upgrade: the names of the `Upgrade` headers, and the option `upgrade` in `Connection`
    /// headers.
    fn upgrades(&self) -> Vec<&[u8]> {
        let is_upgrade = |part: &&[u8]| part.eq_ignore_ascii_case(b"upgrade");
        let mut upgrades = Vec::new();
        for header in self.headers {
            if is_upgrade(&header.name.as_bytes()) {
                upgrades.push(header.name.as_bytes());
            } else if header.name.eq_ignore_ascii_case("connection") {
                let options = header.value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
                upgrades.extend(options.filter(is_upgrade));
            }
        }
        upgrades
    }

    /// The position of a part of `bytes`.
    fn position(&self, part: &[u8]) -> usize {
        part.as_ptr().addr() - self.bytes.as_ptr().addr()
    }
}

/// Percent-encodes a target.
pub(super) fn encode(target: &str) -> Vec<u8> {
    let mut encoded = Vec::with_capacity(encoded_len(target));
    for byte in target.bytes() {
        if is_allowed(byte) {
            encoded.push(byte);
        } else {
            encoded.extend_from_slice(&[b'%', hex_digit(byte >> 4), hex_digit(byte & 15)]);
        }
    }
    encoded
}

/// The length of a target once it is percent-encoded.
pub(super) fn encoded_len(target: &str) -> usize {
    target.bytes().map(|byte| if is_allowed(byte) { 1 } else { 3 }).sum()
}

fn hex_digit(nibble: u8) -> u8 {
    if nibble < 10 { b'0' + nibble } else { b'A' + nibble - 10 }
}

/// Whether the fallback accepts this byte everywhere in a target. It accepts fewer bytes in a path than in a query.
fn is_allowed(byte: u8) -> bool {
    matches!(byte, b'!' | b'#'..=b';' | b'=' | b'?'..=b'_' | b'a'..=b'z' | b'|' | b'~')
}
