//! Connections that are no subscriber's: they publish, ask, or have not said anything yet.

use std::{net::IpAddr, sync::Arc};

use super::quota::{Excess, Quota, network};
use crate::config::LimitsConfig;

/// Counts the connections.
#[derive(Debug)]
pub struct PendingConnections(Quota);

/// A place for one connection; given back on drop.
#[derive(Debug)]
pub struct PendingPermit {
    of: Arc<PendingConnections>,
    ip: IpAddr,
}

/// Which limit a connection would pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TooManyPending {
    /// `limits.pending_connections_max`.
    #[error("the server has as many connections that are no subscriber's as it may have ({max})")]
    Overall {
        /// The limit.
        max: usize,
    },
    /// `limits.pending_connections_per_ip_max`.
    #[error("your address has as many connections that are no subscriber's as it may have ({max})")]
    PerIp {
        /// The limit.
        max: usize,
    },
}

impl PendingConnections {
    /// None yet.
    #[must_use]
    pub fn new(limits: &LimitsConfig) -> Arc<Self> {
        Arc::new(Self(Quota::new(limits.pending_connections_max, limits.pending_connections_per_ip_max)))
    }

    /// A permit for a connection from `ip`.
    ///
    /// # Errors
    /// When a limit is reached.
    pub fn admit(self: &Arc<Self>, ip: IpAddr) -> Result<PendingPermit, TooManyPending> {
        let ip = network(ip);
        match self.0.take(Some(ip), 1) {
            Ok(()) => Ok(PendingPermit { of: Arc::clone(self), ip }),
            Err(Excess::Overall) => Err(TooManyPending::Overall { max: self.0.all_max }),
            Err(Excess::PerIp) => Err(TooManyPending::PerIp { max: self.0.per_ip_max }),
        }
    }
}

impl Drop for PendingPermit {
    fn drop(&mut self) {
        self.of.0.give(Some(self.ip), 1);
    }
}
