//! How much: permits for connections and bytes, overall and by address, that free themselves.

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

/// A place for one connection; given back on drop.
#[derive(Debug)]
pub struct ConnectionPermit {
    connections: Arc<Connections>,
    ip: Option<IpAddr>,
}

/// Which limit a connection would pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TooManyConnections {
    /// `limits.connections_max`.
    #[error("the server has as many subscribers as it may have ({max})")]
    Overall {
        /// The limit.
        max: usize,
    },
    /// `limits.connections_per_ip_max`.
    #[error("your address has as many subscribers as it may have ({max})")]
    PerIp {
        /// The limit.
        max: usize,
    },
}

impl Connections {
    /// None yet.
    #[must_use]
    pub fn new(limits: &LimitsConfig) -> Arc<Self> {
        Arc::new(Self(Quota::new(limits.connections_max, limits.connections_per_ip_max)))
    }

    /// Connections that hold a permit.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.taken()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A permit for a connection from `ip`.
    ///
    /// # Errors
    /// When a limit is reached.
    pub fn admit(self: &Arc<Self>, ip: Option<IpAddr>) -> Result<ConnectionPermit, TooManyConnections> {
        let ip = ip.map(network);
        match self.0.take(ip, 1) {
            Ok(()) => Ok(ConnectionPermit { connections: Arc::clone(self), ip }),
            Err(Excess::Overall) => Err(TooManyConnections::Overall { max: self.0.all_max }),
            Err(Excess::PerIp) => Err(TooManyConnections::PerIp { max: self.0.per_ip_max }),
        }
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.connections.0.give(self.ip, 1);
    }
}
