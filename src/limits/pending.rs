//! The limit on pending connections. A connection is pending unless it is a subscriber's: it publishes, makes other
//! requests, or has sent nothing yet.

use std::{net::IpAddr, sync::Arc};

use super::quota::{Excess, Quota, network};
use crate::config::LimitsConfig;

/// Counts the pending connections of all workers.
#[derive(Debug)]
pub struct PendingConnections(Quota);

/// The permit of one pending connection. Dropping it frees its share.
#[derive(Debug)]
pub struct PendingPermit {
    connections: Arc<PendingConnections>,
    ip: IpAddr,
}

/// The limit that a new connection would exceed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TooManyPending {
    /// `limits.pending_connections_max`.
    #[error("the server has reached its limit of {max} connections without a subscription")]
    Overall {
        /// The limit.
        max: usize,
    },
    /// `limits.pending_connections_per_ip_max`.
    #[error("your address has reached its limit of {max} connections without a subscription")]
    PerIp {
        /// The limit.
        max: usize,
    },
}

impl PendingConnections {
    /// The counter, with no connections.
    #[must_use]
    pub fn new(limits: &LimitsConfig) -> Arc<Self> {
        Arc::new(Self(Quota::new(limits.pending_connections_max, limits.pending_connections_per_ip_max)))
    }

    /// Returns a permit for a connection from `ip`.
    ///
    /// # Errors
    /// When a limit is reached.
    pub fn admit(self: &Arc<Self>, ip: IpAddr) -> Result<PendingPermit, TooManyPending> {
        let ip = network(ip);
        match self.0.reserve(Some(ip), 1) {
            Ok(()) => Ok(PendingPermit { connections: Arc::clone(self), ip }),
            Err(Excess::Overall) => Err(TooManyPending::Overall { max: self.0.all_max }),
            Err(Excess::PerIp) => Err(TooManyPending::PerIp { max: self.0.per_ip_max }),
        }
    }
}

impl Drop for PendingPermit {
    fn drop(&mut self) {
        self.connections.0.release(Some(self.ip), 1);
    }
}
