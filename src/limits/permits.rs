//! Permits for connections, topics and the bytes of requests. Each limit exists twice: for the whole server, and for
//! each client address. A permit reserves a part of a limit, and frees it when it is dropped.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use dashmap::{DashMap, Entry};

use super::network::network;
use crate::config::LimitsConfig;

/// A request up to this size needs no permit for its bytes. So a client that uses up the limit on bytes cannot block
/// small requests of others, such as health checks. The limits on connections limit how many small requests there are.
pub const UNCOUNTED_MAX: usize = 4 << 10;

/// The limit that a permit or a connection would exceed, with its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LimitReached {
    /// `limits.connections_max`.
    #[error("the server has reached its limit of {0} subscribers")]
    Subscribers(usize),
    /// `limits.connections_per_ip_max`.
    #[error("your address has reached its limit of {0} subscribers")]
    SubscribersPerIp(usize),
    /// `subscribers_max` of a credential: a token, an API key or a certificate.
    #[error("your credential has reached its limit of {0} subscribers")]
    SubscribersOfCredential(u32),
    /// `limits.pending_connections_max`.
    #[error("the server has reached its limit of {0} connections without a subscription")]
    PendingConnections(usize),
    /// `limits.pending_connections_per_ip_max`.
    #[error("your address has reached its limit of {0} connections without a subscription")]
    PendingConnectionsPerIp(usize),
    /// `limits.topics_per_ip_max`.
    #[error("your address has started {0} of the live topics, and may not start more")]
    TopicsPerIp(usize),
    /// `limits.request_bytes_in_flight_max`.
    #[error("the requests in progress have reached the server's limit of {0} bytes")]
    RequestBytes(usize),
    /// `limits.request_bytes_in_flight_per_ip_max`.
    #[error("the requests in progress from your address have reached its limit of {0} bytes")]
    RequestBytesPerIp(usize),
    /// The limit of open files of the process or of the system.
    #[error("the server has reached its limit of open files")]
    OpenFiles,
}

/// A limit, and the error of a permit that would exceed it.
#[derive(Debug)]
struct Limit {
    max: usize,
    error: fn(usize) -> LimitReached,
}

impl Limit {
    /// The sum of `reserved` and `n`; `None` if it exceeds the limit.
    fn sum(&self, reserved: usize, n: usize) -> Option<usize> {
        reserved.checked_add(n).filter(|sum| *sum <= self.max)
    }

    fn reached(&self) -> LimitReached {
        (self.error)(self.max)
    }
}

/// Counts connections, topics or bytes against two limits.
#[derive(Debug)]
pub struct Quota {
    limit: Limit,
    limit_per_ip: Limit,
    /// How much is reserved in all.
    reserved: AtomicUsize,
    /// How much each address has reserved, if there is a limit for an address. Addresses without reservations are not
    /// in the map.
    reserved_by_ip: DashMap<IpAddr, usize>,
}

/// The permit of one connection or topic.
#[derive(Debug)]
pub struct Permit {
    quota: Arc<Quota>,
    ip: Option<IpAddr>,
}

/// The permit for the bytes of one request.
///
/// While a request waits for more of its bytes or for the log, it uses no more memory than its permit covers. There are
/// two exceptions: the first [`UNCOUNTED_MAX`] bytes, and the head of a request on the fallback. Memory for bytes that
/// are still to come is reserved before it is allocated.
#[derive(Debug)]
pub struct BytesPermit {
    quota: Arc<Quota>,
    ip: Option<IpAddr>,
    reserved: usize,
}

impl Quota {
    /// Counts the connections of subscribers.
    #[must_use]
    pub fn subscribers(limits: &LimitsConfig) -> Arc<Self> {
        Self::new(
            Limit { max: limits.connections_max, error: LimitReached::Subscribers },
            Limit { max: limits.connections_per_ip_max, error: LimitReached::SubscribersPerIp },
        )
    }

    /// Counts the pending connections: all that are not a subscriber's. Such a connection publishes, makes other
    /// requests, or has sent nothing yet.
    #[must_use]
    pub fn pending_connections(limits: &LimitsConfig) -> Arc<Self> {
        Self::new(
            Limit { max: limits.pending_connections_max, error: LimitReached::PendingConnections },
            Limit { max: limits.pending_connections_per_ip_max, error: LimitReached::PendingConnectionsPerIp },
        )
    }

    /// Counts the live topics that each address has started. The registry has the limit of the server.
    #[must_use]
    pub fn topics(limits: &LimitsConfig) -> Arc<Self> {
        let per_ip_max = if limits.topics_per_ip_max == 0 { usize::MAX } else { limits.topics_per_ip_max };
        Self::new(
            Limit { max: usize::MAX, error: LimitReached::TopicsPerIp },
            Limit { max: per_ip_max, error: LimitReached::TopicsPerIp },
        )
    }

    /// Counts the bytes of all requests that are being received or processed.
    #[must_use]
    pub fn request_bytes(limits: &LimitsConfig) -> Arc<Self> {
        let (max, per_ip_max) = (limits.request_bytes_in_flight_max, limits.request_bytes_in_flight_per_ip_max);
        Self::new(
            Limit { max: max.to_usize(), error: LimitReached::RequestBytes },
            Limit { max: per_ip_max.to_usize(), error: LimitReached::RequestBytesPerIp },
        )
    }

    fn new(limit: Limit, limit_per_ip: Limit) -> Arc<Self> {
        Arc::new(Self { limit, limit_per_ip, reserved: AtomicUsize::new(0), reserved_by_ip: DashMap::new() })
    }

    /// How many connections, topics or bytes have a permit.
    #[must_use]
    pub fn reserved(&self) -> usize {
        self.reserved.load(Ordering::Relaxed)
    }

    /// Returns a permit for one connection from `ip`, or for one topic that `ip` starts. Without an address, only the
    /// limit of the server applies.
    ///
    /// # Errors
    /// When a limit is reached.
    pub fn permit(self: &Arc<Self>, ip: Option<IpAddr>) -> Result<Permit, LimitReached> {
        let ip = ip.filter(|_| self.limit_per_ip.max < usize::MAX).map(network);
        self.reserve(ip, 1)?;
        Ok(Permit { quota: Arc::clone(self), ip })
    }

    /// Returns a permit for a request from `ip`, which covers no bytes yet.
    #[must_use]
    pub fn bytes_permit(self: &Arc<Self>, ip: Option<IpAddr>) -> BytesPermit {
        BytesPermit { quota: Arc::clone(self), ip: ip.map(network), reserved: 0 }
    }

    /// Reserves `n`, or nothing if that would exceed a limit.
    fn reserve(&self, ip: Option<IpAddr>, n: usize) -> Result<(), LimitReached> {
        let Some(ip) = ip else { return self.reserve_overall(n) };
        let entry = self.reserved_by_ip.entry(ip);
        let reserved = match &entry {
            Entry::Occupied(entry) => *entry.get(),
            Entry::Vacant(_) => 0,
        };
        // The limit of the address is checked first. A client that has reached this limit must not be told that the
        // whole server is full. The client must not fill the server either, even for a moment: others would be refused.
        let sum = self.limit_per_ip.sum(reserved, n).ok_or_else(|| self.limit_per_ip.reached())?;
        self.reserve_overall(n)?;
        entry.insert(sum);
        Ok(())
    }

    fn reserve_overall(&self, n: usize) -> Result<(), LimitReached> {
        let sum = |reserved| self.limit.sum(reserved, n);
        let reserved = self.reserved.fetch_update(Ordering::Relaxed, Ordering::Relaxed, sum);
        reserved.map(drop).map_err(|_| self.limit.reached())
    }

    fn release(&self, ip: Option<IpAddr>, n: usize) {
        self.reserved.fetch_sub(n, Ordering::Relaxed);
        let Some(ip) = ip else { return };
        if let Entry::Occupied(mut entry) = self.reserved_by_ip.entry(ip) {
            *entry.get_mut() -= n;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.quota.release(self.ip, 1);
    }
}

impl BytesPermit {
    /// Makes the permit cover this number of bytes, which may be higher or lower than before.
    ///
    /// # Errors
    /// When the bytes would exceed a limit. Then the permit covers as many bytes as before.
    pub fn cover(&mut self, bytes: usize) -> Result<(), LimitReached> {
        let bytes = if bytes <= UNCOUNTED_MAX { 0 } else { bytes };
        if bytes <= self.reserved {
            self.quota.release(self.ip, self.reserved - bytes);
        } else {
            self.quota.reserve(self.ip, bytes - self.reserved)?;
        }
        self.reserved = bytes;
        Ok(())
    }
}

impl Drop for BytesPermit {
    fn drop(&mut self) {
        self.quota.release(self.ip, self.reserved);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Size;

    #[test]
    fn reservations_are_limited_overall_and_by_address_and_can_be_released() {
        let limits = LimitsConfig { connections_max: 10, connections_per_ip_max: 6, ..LimitsConfig::default() };
        let quota = Quota::subscribers(&limits);
        let (overall, per_ip) = (Err(LimitReached::Subscribers(10)), Err(LimitReached::SubscribersPerIp(6)));
        let (one, other) = (Some(IpAddr::from([127, 0, 0, 1])), Some(IpAddr::from([127, 0, 0, 2])));
        assert_eq!(quota.reserve(one, 6), Ok(()));
        assert_eq!(quota.reserve(one, 1), per_ip);
        assert_eq!(quota.reserved(), 6, "a failed call reserves nothing");
        assert_eq!(quota.reserve(other, 4), Ok(()));
        assert_eq!(quota.reserve(other, 1), overall);
        assert_eq!(quota.reserve(None, 1), overall);
        assert_eq!(quota.reserve(one, 1), per_ip, "at both limits, the error is that of the address");
        assert_eq!(quota.reserve(other, usize::MAX), per_ip);
        assert_eq!(quota.reserve(None, usize::MAX), overall);
        quota.release(one, 6);
        assert_eq!(
            (quota.reserved(), quota.reserved_by_ip.len()),
            (4, 1),
            "an address without reservations is removed"
        );
        assert_eq!(quota.reserve(other, 2), Ok(()));
        quota.release(other, 6);
        assert_eq!((quota.reserved(), quota.reserved_by_ip.len()), (0, 0));
    }

    #[test]
    fn a_permit_grows_and_shrinks_and_releases_its_bytes_when_dropped() {
        let limits = LimitsConfig {
            request_bytes_in_flight_max: Size::new(100_000),
            request_bytes_in_flight_per_ip_max: Size::new(60_000),
            ..LimitsConfig::default()
        };
        let bytes = Quota::request_bytes(&limits);
        let mut permit = bytes.bytes_permit(Some(IpAddr::from([10, 0, 0, 1])));
        assert_eq!(permit.cover(60_000), Ok(()));
        assert_eq!(permit.cover(60_001), Err(LimitReached::RequestBytesPerIp(60_000)));
        let mut other = bytes.bytes_permit(Some(IpAddr::from([10, 0, 0, 2])));
        assert_eq!(other.cover(40_000), Ok(()));
        assert_eq!(other.cover(40_001), Err(LimitReached::RequestBytes(100_000)));
        let mut small = bytes.bytes_permit(Some(IpAddr::from([10, 0, 0, 3])));
        assert_eq!(small.cover(UNCOUNTED_MAX), Ok(()));
        assert_eq!(small.cover(UNCOUNTED_MAX + 1), Err(LimitReached::RequestBytes(100_000)));
        assert_eq!((permit.cover(10_000), other.cover(60_000)), (Ok(()), Ok(())));
        assert_eq!(bytes.reserved(), 70_000);
        assert_eq!((permit.cover(UNCOUNTED_MAX), bytes.reserved()), (Ok(()), 60_000));
        drop((permit, other));
        assert_eq!(bytes.reserved(), 0);
    }
}
