//! Why a stream ended.
//!
//! These methods of `Streams` end a stream. A stream that *ends* gets a last block, and its client sees a clean end. A
//! stream that is *cut* loses the bytes that its socket has not accepted, and its client sees a broken connection.
//!
//! | method | when | what the client still gets |
//! |---|---|---|
//! | `end_caught_up` | lifetime, drain | all events up to this moment, then the farewell: where to resume, and when |
//! | `end_at_cursor` | lost right, command | no further event; a notice |
//! | `end_deleted` | its only topic was deleted | the events from before the deletion that the window has, then `broker.deleted` |
//! | `begin_epoch` | the log has a new epoch | no further event; the farewell. With a partly sent event, it is cut |
//! | `push_last` | called by all of these | the last block that it queues; nothing is queued after it |
//! | `close_ended` | the last block is sent | the clean end; then the connection is removed |
//! | `cut`, `cut_overdue`, `cut_failed` | its socket takes nothing, sends too much or fails, or a limit is reached | nothing |
//!
//! The rest of a partly sent event always comes before a last block.

use std::io::{self, ErrorKind};

/// Why a stream ended, cleanly or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum End {
    /// It had reached `stream.lifetime_max`.
    Lifetime,
    /// The server is shutting down.
    Drained,
    /// All of its topics were deleted.
    Deleted,
    /// Its right has ended: its token has expired, or its key was removed.
    Unauthorized,
    /// An operator has ended it.
    Ended,
    /// The log's history has ended, and another one has begun.
    EpochEnded,
    /// Its client has closed the connection, or the connection broke.
    PeerGone,
    /// Its client sent too much: a subscriber has nothing to send.
    Flooded,
    /// Its socket accepted nothing for `stream.write_timeout`, or too little of the last block for as long.
    WriteTimeout,
    /// One of the broker's own blocks did not fit into `stream.unsent_bytes_max`.
    UnsentBytes,
    /// Its socket or the log failed.
    Failed,
    /// Its hub ended first: the drain time was over, or the hub panicked.
    Cut,
}

impl End {
    /// All reasons.
    pub const ALL: &[Self] = &[
        Self::Lifetime,
        Self::Drained,
        Self::Deleted,
        Self::Unauthorized,
        Self::Ended,
        Self::EpochEnded,
        Self::PeerGone,
        Self::Flooded,
        Self::WriteTimeout,
        Self::UnsentBytes,
        Self::Failed,
        Self::Cut,
    ];

    /// Its name in log lines.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Lifetime => "lifetime",
            Self::Drained => "drained",
            Self::Deleted => "deleted",
            Self::Unauthorized => "unauthorized",
            Self::Ended => "ended",
            Self::EpochEnded => "epoch_ended",
            Self::PeerGone => "peer_gone",
            Self::Flooded => "flooded",
            Self::WriteTimeout => "write_timeout",
            Self::UnsentBytes => "unsent_bytes",
            Self::Failed => "failed",
            Self::Cut => "cut",
        }
    }

    /// The reason for a stream whose connection failed with `error`.
    pub(super) fn from_error(error: &io::Error) -> Self {
        match error.kind() {
            ErrorKind::UnexpectedEof
            | ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::BrokenPipe
            | ErrorKind::NotConnected
            | ErrorKind::TimedOut
            | ErrorKind::HostUnreachable
            | ErrorKind::NetworkUnreachable => Self::PeerGone,
            // From `Connection::discard_input`.
            ErrorKind::InvalidData => Self::Flooded,
            _ => Self::Failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_blamed_on_the_peer_or_on_us() {
        let of = |kind: ErrorKind| End::from_error(&kind.into());
        assert_eq!([of(ErrorKind::UnexpectedEof), of(ErrorKind::BrokenPipe)], [End::PeerGone; 2]);
        assert_eq!(of(ErrorKind::InvalidData), End::Flooded);
        assert_eq!([of(ErrorKind::WriteZero), End::from_error(&io::Error::other("the log"))], [End::Failed; 2]);
    }
}
