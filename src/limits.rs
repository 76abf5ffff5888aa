//! How much: permits for connections, overall and by address, that free themselves.

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use dashmap::{DashMap, Entry};

use crate::config::LimitsConfig;

/// Counts the subscribers' connections.
#[derive(Debug)]
pub struct Connections {
    all: AtomicUsize,
    /// Addresses that have a connection, and how many.
    by_ip: DashMap<IpAddr, usize>,
    all_max: usize,
    per_ip_max: usize,
}

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
        Arc::new(Self {
            all: AtomicUsize::new(0),
            by_ip: DashMap::new(),
            all_max: limits.connections_max,
            per_ip_max: limits.connections_per_ip_max,
        })
    }

    /// Connections that hold a permit.
    #[must_use]
    pub fn len(&self) -> usize {
        self.all.load(Ordering::Relaxed)
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
        let below = |max: usize| move |count: usize| (count < max).then_some(count + 1);
        let all = self.all.fetch_update(Ordering::Relaxed, Ordering::Relaxed, below(self.all_max));
        all.map_err(|_| TooManyConnections::Overall { max: self.all_max })?;
        // From here on the permit gives the overall count back.
        let mut permit = ConnectionPermit { connections: Arc::clone(self), ip: None };
        if let Some(ip) = ip.map(network) {
            let mut count = self.by_ip.entry(ip).or_insert(0);
            if *count >= self.per_ip_max {
                drop(count);
                return Err(TooManyConnections::PerIp { max: self.per_ip_max });
            }
            *count += 1;
            permit.ip = Some(ip);
        }
        Ok(permit)
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.connections.all.fetch_sub(1, Ordering::Relaxed);
        let Some(ip) = self.ip else { return };
        if let Entry::Occupied(mut count) = self.connections.by_ip.entry(ip) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

/// What counts as one address: an IPv6 host has a whole /64 to itself, and could take a new address for every
/// connection.
fn network(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX))),
        ip @ IpAddr::V4(_) => ip,
    }
}
