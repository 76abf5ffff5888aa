//! What NATS answers to a message that it is to store.

use serde::Deserialize;

/// What NATS answers.
#[derive(Deserialize)]
pub(super) struct Answer {
    pub(super) seq: Option<u64>,
    #[serde(default)]
    pub(super) duplicate: bool,
    pub(super) error: Option<Refusal>,
}

#[derive(Deserialize)]
pub(super) struct Refusal {
    #[serde(default)]
    pub(super) err_code: u64,
    #[serde(default)]
    pub(super) description: String,
}

/// The codes of NATS that say that there is no space: of the account, of the server, of its disk, of its memory; and
/// that the message could not be written, for example on a full disk.
pub(super) const FULL: [u64; 5] = [10_002, 10_023, 10_047, 10_028, 10_077];
/// NATS is storing a message with the same id at this moment.
pub(super) const IN_PROCESS: u64 = 10_158;
