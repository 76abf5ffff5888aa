//! Limits on connections and bytes, for the whole server and for each address. A permit frees its share when it is
//! dropped.

use std::{net::IpAddr, sync::Arc};

use crate::config::LimitsConfig;

mod bytes;
mod pending;
mod quota;

pub use bytes::{BytesPermit, RequestBytes, TooManyBytes, UNCOUNTED_MAX};
pub use pending::{PendingConnections, PendingPermit, TooManyPending};
pub use quota::network;

use quota::{Excess, Quota};

/// Counts the subscribers' connections.
#[derive(Debug)]
pub struct Connections(Quota);

/// The permit of one subscriber's connection. Dropping it frees its share.
#[derive(Debug)]
pub struct ConnectionPermit {
    connections: Arc<Connections>,
    ip: Option<IpAddr>,
}

/// The limit that a new subscriber would exceed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TooManyConnections {
    /// `limits.connections_max`.
    #[error("the server has reached its limit of {max} subscribers")]
    Overall {
        /// The limit.
        max: usize,
    },
    /// `limits.connections_per_ip_max`.
    #[error("your address has reached its limit of {max} subscribers")]
    PerIp {
        /// The limit.
        max: usize,
    },
}

impl Connections {
    /// The counter, with no connections.
    #[must_use]
    pub fn new(limits: &LimitsConfig) -> Arc<Self> {
        Arc::new(Self(Quota::new(limits.connections_max, limits.connections_per_ip_max)))
    }

    /// How many connections have a permit.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.reserved()
    }

    /// Whether no connection has a permit.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns a permit for a connection from `ip`.
    ///
    /// # Errors
    /// When a limit is reached.
    pub fn admit(self: &Arc<Self>, ip: Option<IpAddr>) -> Result<ConnectionPermit, TooManyConnections> {
        let ip = ip.map(network);
        match self.0.reserve(ip, 1) {
            Ok(()) => Ok(ConnectionPermit { connections: Arc::clone(self), ip }),
            Err(Excess::Overall) => Err(TooManyConnections::Overall { max: self.0.all_max }),
            Err(Excess::PerIp) => Err(TooManyConnections::PerIp { max: self.0.per_ip_max }),
        }
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.connections.0.release(self.ip, 1);
    }
}
