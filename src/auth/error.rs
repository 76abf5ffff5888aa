//! The errors of this module, and the limits that they name.

use std::{net::SocketAddr, time::Duration};

use super::{key_file::KeyError, pattern::PatternError};
use crate::config::OWN_LIMIT_MAX;

/// How far the clocks of the broker and of those who sign tokens may differ: a token counts from this time before its
/// `nbf` until this time after its `exp`.
pub const LEEWAY: Duration = Duration::from_secs(5);

/// The longest token. It must fit into a header.
pub const TOKEN_BYTES_MAX: usize = 8 << 10;

/// Why the server can neither start with this configuration of `[auth]` nor go on with it after a reload.
#[derive(Debug, thiserror::Error)]
pub enum AuthConfigError {
    /// A key cannot be used.
    #[error("auth.keys: in the key {id:?}: {error}")]
    Key {
        /// Its id.
        id: String,
        /// Why.
        error: KeyError,
    },
    /// A pattern of an API key cannot be read.
    #[error("auth.api_keys: in the key {name:?}: {error}")]
    Pattern {
        /// The name of the API key.
        name: String,
        /// Why.
        error: PatternError,
    },
    /// A pattern of a row for client certificates cannot be read.
    #[error("auth.certificates: in the row of {subject:?}: {error}")]
    Certificate {
        /// The subject of the row.
        subject: String,
        /// Why.
        error: PatternError,
    },
    /// Other machines could connect, and nobody has decided what they may do.
    #[error(
        "server.host = {0}: other machines can connect, but there is no auth.keys and no auth.api_keys; add one, or say \
         what callers without a token may do: auth.anonymous = \"none\", \"subscribe\" or \"all\" \
         (TIDINGS__AUTH__ANONYMOUS=all)"
    )]
    OpenToAll(SocketAddr),
}

/// Why a credential is refused. The text never says more than the sender of the credential may know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It is neither a token that a configured key has signed, nor an API key.
    #[error("the token is not valid: no key of this server has signed it")]
    Unknown,
    /// It is longer than [`TOKEN_BYTES_MAX`].
    #[error("the token is longer than {TOKEN_BYTES_MAX} bytes")]
    TooLong,
    /// Its `exp` is over.
    #[error("the token has expired")]
    Expired,
    /// Its `nbf` is not reached.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// It has another `iss` or `aud` than the key demands.
    #[error("the token is for another issuer or audience")]
    OtherAudience,
    /// It is a ticket that is used up, has expired, or was never given.
    #[error("the ticket is used up, has expired, or was never given: take a new one")]
    Ticket,
    /// Its claims cannot be read.
    #[error(
        "the claims of the token cannot be read: it needs `exp`, and \"tidings\": {{\"publish\": […], \"subscribe\": […], \
         \"manage\": […]}} with patterns of topics; it may have \"limits\": {{\"publishes_per_second\": n, \
         \"subscribers_max\": n}} in that, of whole numbers from 1 to {OWN_LIMIT_MAX}"
    )]
    BadClaims,
}

/// Why no ticket is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    /// The caller has no credential that the ticket could stand for.
    #[error("a ticket stands for a token: send `Authorization: Bearer` and a token")]
    Anonymous,
    /// All tickets together have as many topics as `auth.tickets_max` allows.
    #[error("there are as many tickets as auth.tickets_max ({0} topics) allows")]
    TooMany(usize),
    /// The tickets of the identity have as many topics as `auth.tickets_per_key_max` allows.
    #[error("this key and subject have as many tickets as auth.tickets_per_key_max ({0} topics) allows")]
    TooManyOfKey(usize),
    /// The ticket has more topics than there is ever room for.
    #[error("a ticket may have {max} topics (auth.tickets_max, auth.tickets_per_key_max), and this one has {topics}")]
    TooManyTopics {
        /// How many there is room for.
        max: usize,
        /// How many topics it has.
        topics: usize,
    },
    /// The keys have changed since the token was checked, or the system gives no random numbers.
    #[error("no ticket can be given at this moment")]
    Unavailable,
}
