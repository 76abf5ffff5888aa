//! Who may do what: this module verifies credentials, and gives grants. It does not read requests. It reads files only
//! to load keys, and the clock only in [`Auth`].
//!
//! ```text
//!  credential ─► authenticate ─► Caller ─► grant(topic) ─► Grant<Publish>, Grant<Subscribe>, Grant<Manage>
//!                                  ▲ │
//!            ticket ─► redeem_ticket ┘ └─► take_ticket(Grant<Subscribe>…) ─► NewTicket
//! ```
//!
//! Only [`Caller::grant`] makes a [`Grant`], and a topic can only be reached with a grant. So a handler cannot forget
//! to check a right.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Instant, SystemTime},
};

use arc_swap::ArcSwap;

use crate::{
    config::{Anonymous, AuthConfig},
    peers::{Node, TicketHash},
    transport::ClientCertificate,
};

mod mint;
mod keys;
mod jwt;
mod api_keys;
mod certificates;

mod tickets;
mod travel;
mod caller;
mod rights;
mod error;
mod key_file;
mod pattern;

pub use crate::peers::TicketUse;
pub use caller::{Caller, Credential, Forbidden, Grant, GrantAll, Manage, Publish, RightKind, Subscribe};
pub use error::{AuthConfigError, LEEWAY, Refused, TOKEN_BYTES_MAX, TicketError};
pub use key_file::KeyError;
pub use keys::KeyName;
pub use mint::{MintError, NewToken, decode_unverified, mint};
pub use pattern::PatternError;
pub use rights::Right;
pub use tickets::NewTicket;

use keys::{Keys, Recalled};
use tickets::{Now, Tickets};

/// Verifies credentials.
pub struct Auth {
    /// A caller without a credential.
    anonymous: Caller,
    /// A caller without a credential whose request came over a proxy.
    anonymous_forwarded: Caller,
    keys: ArcSwap<Keys>,
    tickets: Tickets,
}

impl Auth {
    /// Reads the keys. `address` is where the server listens.
    ///
    /// # Errors
    /// See [`AuthConfigError`].
    pub fn load(config: &AuthConfig, address: SocketAddr) -> Result<Self, AuthConfigError> {
        let is_loopback = address.ip().to_canonical().is_loopback();
        if !is_loopback && config.anonymous == Anonymous::Loopback && !config.has_credentials() {
            return Err(AuthConfigError::OpenToAll(address));
        }
        let (anonymous, anonymous_forwarded) = match config.anonymous {
            Anonymous::Loopback if is_loopback => (Caller::local(), Caller::nobody()),
            Anonymous::Loopback | Anonymous::None => (Caller::nobody(), Caller::nobody()),
            Anonymous::Subscribe => (Caller::subscriber(), Caller::subscriber()),
            Anonymous::All => (Caller::publisher(), Caller::publisher()),
        };
        let (keys, tickets) = (ArcSwap::from_pointee(Keys::load(config)?), Tickets::new(config));
        Ok(Self { anonymous, anonymous_forwarded, keys, tickets })
    }

    /// Puts the name of this server in front of its tickets. The other servers of the cluster then ask this one.
    #[must_use]
    pub fn in_cluster(self, node: Node) -> Self {
        Self { tickets: self.tickets.in_cluster(node), ..self }
    }

    /// The caller of a request without a credential. `is_forwarded` says that a proxy has forwarded the request.
    #[must_use]
    pub fn anonymous(&self, is_forwarded: bool) -> Caller {
        if is_forwarded { self.anonymous_forwarded.clone() } else { self.anonymous.clone() }
    }

    /// The caller of an API key, or of a token that was verified before. `None` if [`Auth::authenticate`] has to verify
    /// a signature.
    ///
    /// # Errors
    /// When the token was verified before but is not valid any more, or when the credential is too long.
    pub fn recall(&self, credential: &[u8]) -> Result<Option<Caller>, Refused> {
        Ok(match self.keys.load().recall(credential, SystemTime::now())? {
            Recalled::Known(caller) => Some(caller),
            Recalled::Unknown(_) => None,
        })
    }

    /// Verifies a token or an API key.
    ///
    /// # Errors
    /// See [`Refused`].
    pub fn authenticate(&self, credential: &[u8]) -> Result<Caller, Refused> {
        self.keys.load().authenticate(credential, SystemTime::now())
    }

    /// The caller with this client certificate, which was verified. `None` if `auth.certificates` has no row for its
    /// subject, or if the certificate has expired since it was verified.
    #[must_use]
    pub fn of_certificate(&self, certificate: &ClientCertificate) -> Option<Caller> {
        self.keys.load().of_certificate(certificate, SystemTime::now())
    }

    /// Reads the keys again. Returns the keys and the rows of certificates that are gone or have changed: the streams
    /// that were opened with them must end.
    ///
    /// # Errors
    /// When a key cannot be read. Then the earlier keys stay.
    pub fn reload(&self, config: &AuthConfig) -> Result<Vec<KeyName>, AuthConfigError> {
        let keys = Arc::new(Keys::load(config)?);
        let earlier = self.keys.load_full();
        let gone = earlier.not_in(&keys);
        if gone.is_empty() && keys.not_in(&earlier).is_empty() {
            // The earlier keys stay, with the tokens that they have verified.
            return Ok(gone);
        }
        self.keys.store(keys);
        if !gone.is_empty() {
            self.tickets.remove_keys(|identity| gone.iter().any(|key| key.covers(identity)), Instant::now());
        }
        Ok(gone)
    }

    /// Gives `caller` a ticket for the topics of `grants`. `checked_at` is a moment before [`Self::authenticate`] was
    /// called for `caller`. If keys have changed since then, no ticket is given.
    ///
    /// # Errors
    /// See [`TicketError`].
    pub fn take_ticket(
        &self,
        caller: &Caller,
        grants: impl Iterator<Item = Grant<Subscribe>>,
        checked_at: Instant,
    ) -> Result<NewTicket, TicketError> {
        self.tickets.take(caller, grants, checked_at, Now::read())
    }

    /// The caller that a ticket stands for. This caller has the identity and the `exp` of the token with which the
    /// ticket was taken, and the right to subscribe to the topics of the ticket.
    ///
    /// # Errors
    /// When the ticket is used up, has expired, or was never given.
    pub fn redeem_ticket(&self, ticket: &str, ticket_use: TicketUse) -> Result<Caller, Refused> {
        self.tickets.redeem(ticket, ticket_use, Now::read())
    }

    /// Which other server must be asked about a ticket; `None` if this server must know it.
    #[must_use]
    pub fn ticket_elsewhere(&self, ticket: &str) -> Option<(Node, TicketHash)> {
        self.tickets.elsewhere(ticket)
    }

    /// What the ticket with this hash stands for, for the other server that asks; `None` as for
    /// [`Self::redeem_ticket`].
    #[must_use]
    pub fn export_ticket(&self, hash: &TicketHash, ticket_use: TicketUse) -> Option<String> {
        travel::encode(&*self.tickets.find(hash, ticket_use, Now::read())?)
    }

    /// The caller that a ticket stands for, as the server has said that gave it.
    ///
    /// # Errors
    /// As for [`Self::redeem_ticket`], and when this server does not have the key of the ticket.
    pub fn import_ticket(&self, exported: Option<&str>) -> Result<Caller, Refused> {
        let ticket = exported.and_then(travel::decode).ok_or(Refused::Ticket)?;
        let is_valid = self.keys.load().has(&ticket.verified.identity) && !ticket.has_ended(SystemTime::now());
        if is_valid { Ok(Caller::by_ticket(Arc::new(ticket))) } else { Err(Refused::Ticket) }
    }

    /// Removes the tickets of a subject.
    pub fn remove_tickets_of(&self, subject: &str) {
        self.tickets.remove_subject(subject);
    }

    /// Removes the expired tickets. Otherwise they would count for the limits until the next ticket is taken.
    pub fn remove_expired_tickets(&self) {
        self.tickets.remove_expired(Instant::now());
    }
}

#[cfg(test)]
mod tests;
