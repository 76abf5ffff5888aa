//! Inputs for the fuzz targets: the modules `fuzz` of this crate, each beside the parser that it tests.
//!
//! A parser refuses most random bytes at the first one. So an input is made of pieces that mean something to the
//! parser, with random characters and bytes between them.

use proptest::{collection::vec, prelude::*};

/// Bytes made of `pieces`, of random characters, and of random bytes.
pub(crate) fn bytes(pieces: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        8 => prop::sample::select(pieces).prop_map(|piece| piece.as_bytes().to_vec()),
        1 => any::<char>().prop_map(|c| c.to_string().into_bytes()),
        1 => vec(any::<u8>(), 1..3),
    ];
    vec(piece, 0..16).prop_map(|pieces| pieces.concat())
}

/// As [`bytes`], but always valid UTF-8.
pub(crate) fn text(pieces: &'static [&'static str]) -> impl Strategy<Value = String> {
    bytes(pieces).prop_map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}
