//! Counts something against two limits: one overall, and one for each address.

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::atomic::{AtomicUsize, Ordering},
};

use dashmap::{DashMap, Entry};

/// A count with its limits.
#[derive(Debug)]
pub(super) struct Quota {
    /// How much is reserved overall.
    all: AtomicUsize,
    /// How much each address has reserved. Addresses without reservations are not in the map.
    by_ip: DashMap<IpAddr, usize>,
    /// The limit for `all`.
    pub(super) all_max: usize,
    /// The limit for each address.
    pub(super) per_ip_max: usize,
}

/// The limit that a reservation would exceed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Excess {
    Overall,
    PerIp,
}

impl Quota {
    pub(super) fn new(all_max: usize, per_ip_max: usize) -> Self {
        Self { all: AtomicUsize::new(0), by_ip: DashMap::new(), all_max, per_ip_max }
    }

    /// How much is reserved overall.
    pub(super) fn reserved(&self) -> usize {
        self.all.load(Ordering::Relaxed)
    }

    /// Reserves `n`, or nothing if that would exceed a limit.
    pub(super) fn reserve(&self, ip: Option<IpAddr>, n: usize) -> Result<(), Excess> {
        let Some(ip) = ip else { return self.reserve_overall(n) };
        let entry = self.by_ip.entry(ip);
        let reserved = if let Entry::Occupied(reserved) = &entry { *reserved.get() } else { 0 };
        // The address's own limit is checked first: an address at that limit must not get, nor cause for others, the
        // error that the whole server is full.
        let sum = reserved.checked_add(n).filter(|sum| *sum <= self.per_ip_max).ok_or(Excess::PerIp)?;
        self.reserve_overall(n)?;
        entry.insert(sum);
        Ok(())
    }

    fn reserve_overall(&self, n: usize) -> Result<(), Excess> {
        let add = |reserved: usize| reserved.checked_add(n).filter(|sum| *sum <= self.all_max);
        let all = self.all.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
        all.map(drop).map_err(|_| Excess::Overall)
    }

    /// Releases `n` that were reserved.
    pub(super) fn release(&self, ip: Option<IpAddr>, n: usize) {
        self.all.fetch_sub(n, Ordering::Relaxed);
        let Some(ip) = ip else { return };
        if let Entry::Occupied(mut reserved) = self.by_ip.entry(ip) {
            *reserved.get_mut() -= n;
            if *reserved.get() == 0 {
                reserved.remove();
            }
        }
    }
}

/// The address that a client is counted by. An IPv6 client usually has a whole /64 network, and could use a new address
/// for each connection. So the network counts as one address.
#[must_use]
pub fn network(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX))),
        ip @ IpAddr::V4(_) => ip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reservations_are_bounded_overall_and_by_address_and_can_be_released() {
        let quota = Quota::new(10, 6);
        let (one, other) = (Some(IpAddr::from([127, 0, 0, 1])), Some(IpAddr::from([127, 0, 0, 2])));
        assert_eq!(quota.reserve(one, 6), Ok(()));
        assert_eq!(quota.reserve(one, 1), Err(Excess::PerIp));
        assert_eq!(quota.reserved(), 6, "a failed call reserves nothing");
        assert_eq!(quota.reserve(other, 4), Ok(()));
        assert_eq!(quota.reserve(other, 1), Err(Excess::Overall));
        assert_eq!(quota.reserve(None, 1), Err(Excess::Overall));
        assert_eq!(quota.reserve(one, 1), Err(Excess::PerIp), "at both limits, the error is that of the address");
        assert_eq!(quota.reserve(other, usize::MAX), Err(Excess::PerIp));
        assert_eq!(quota.reserve(None, usize::MAX), Err(Excess::Overall));
        quota.release(one, 6);
        assert_eq!((quota.reserved(), quota.by_ip.len()), (4, 1), "an address without reservations is removed");
        assert_eq!(quota.reserve(other, 2), Ok(()));
        quota.release(other, 6);
        assert_eq!((quota.reserved(), quota.by_ip.len()), (0, 0));
    }

    #[test]
    fn ipv6_addresses_count_by_their_network() {
        let network = |text: &str| network(text.parse().expect("an address")).to_string();
        assert_eq!(network("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(network("::ffff:10.1.2.3"), "10.1.2.3");
    }
}
