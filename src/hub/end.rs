//! Why a stream ended.

use std::io::{self, ErrorKind};

/// Why a stream ended, cleanly or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum End {
    /// Its time, `stream.lifetime_max`, was over.
    Lifetime,
    /// The server drains.
    Drained,
    /// All of its topics were deleted.
    Deleted,
    /// The log's history has ended, and another one has begun.
    EpochEnded,
    /// Its client has closed the connection, or the connection broke.
    PeerGone,
    /// Its client sent more than a subscriber has any reason to.
    Flooded,
    /// Its socket accepted nothing for `stream.write_timeout`.
    WriteTimeout,
    /// Slow subscribers have too much left to be sent: `stream.unsent_bytes_max`.
    UnsentBytes,
    /// Its socket or the log failed.
    Failed,
    /// Its hub ended before it: the time of a drain was over, or the hub panicked.
    Cut,
}

impl End {
    /// Each reason.
    pub const ALL: &[Self] = &[
        Self::Lifetime,
        Self::Drained,
        Self::Deleted,
        Self::EpochEnded,
        Self::PeerGone,
        Self::Flooded,
        Self::WriteTimeout,
        Self::UnsentBytes,
        Self::Failed,
        Self::Cut,
    ];

    /// The word for it, in the log and in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Lifetime => "lifetime",
            Self::Drained => "drained",
            Self::Deleted => "deleted",
            Self::EpochEnded => "epoch_ended",
            Self::PeerGone => "peer_gone",
            Self::Flooded => "flooded",
            Self::WriteTimeout => "write_timeout",
            Self::UnsentBytes => "unsent_bytes",
            Self::Failed => "failed",
            Self::Cut => "cut",
        }
    }

    /// Why a stream ends whose connection met with this error.
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
            // What `Connection::discard_input` says.
            ErrorKind::InvalidData => Self::Flooded,
            _ => Self::Failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_the_peers_or_ours() {
        let of = |kind: ErrorKind| End::from_error(&kind.into());
        assert_eq!([of(ErrorKind::UnexpectedEof), of(ErrorKind::BrokenPipe)], [End::PeerGone; 2]);
        assert_eq!(of(ErrorKind::InvalidData), End::Flooded);
        assert_eq!([of(ErrorKind::WriteZero), End::from_error(&io::Error::other("the log"))], [End::Failed; 2]);
    }
}
