//! A number that may be taken from, in all and by each address.

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::atomic::{AtomicUsize, Ordering},
};

use dashmap::{DashMap, Entry};

/// What is taken, and how much of it there may be.
#[derive(Debug)]
pub(super) struct Quota {
    all: AtomicUsize,
    /// Addresses that have taken something, and how much.
    by_ip: DashMap<IpAddr, usize>,
    pub(super) all_max: usize,
    pub(super) per_ip_max: usize,
}

/// Which of the two would be passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Excess {
    Overall,
    PerIp,
}

impl Quota {
    pub(super) fn new(all_max: usize, per_ip_max: usize) -> Self {
        Self { all: AtomicUsize::new(0), by_ip: DashMap::new(), all_max, per_ip_max }
    }

    /// What is taken in all.
    pub(super) fn taken(&self) -> usize {
        self.all.load(Ordering::Relaxed)
    }

    /// Takes `n`, or nothing.
    pub(super) fn take(&self, ip: Option<IpAddr>, n: usize) -> Result<(), Excess> {
        let Some(ip) = ip else { return self.take_of_all(n) };
        let entry = self.by_ip.entry(ip);
        let taken = if let Entry::Occupied(taken) = &entry { *taken.get() } else { 0 };
        // The address first: one that has its share already must not be told, nor have others told, that all is taken.
        let more = taken.checked_add(n).filter(|more| *more <= self.per_ip_max).ok_or(Excess::PerIp)?;
        self.take_of_all(n)?;
        entry.insert(more);
        Ok(())
    }

    fn take_of_all(&self, n: usize) -> Result<(), Excess> {
        let below = |taken: usize| taken.checked_add(n).filter(|taken| *taken <= self.all_max);
        let all = self.all.fetch_update(Ordering::Relaxed, Ordering::Relaxed, below);
        all.map(drop).map_err(|_| Excess::Overall)
    }

    /// Gives back `n` that were taken.
    pub(super) fn give(&self, ip: Option<IpAddr>, n: usize) {
        self.all.fetch_sub(n, Ordering::Relaxed);
        let Some(ip) = ip else { return };
        if let Entry::Occupied(mut taken) = self.by_ip.entry(ip) {
            *taken.get_mut() -= n;
            if *taken.get() == 0 {
                taken.remove();
            }
        }
    }
}

/// What counts as one address: an IPv6 host has a whole /64 to itself, and could take a new address for every
/// connection.
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
    fn what_is_taken_is_bounded_in_all_and_by_address_and_comes_back() {
        let quota = Quota::new(10, 6);
        let (one, other) = (Some(IpAddr::from([127, 0, 0, 1])), Some(IpAddr::from([127, 0, 0, 2])));
        assert_eq!(quota.take(one, 6), Ok(()));
        assert_eq!(quota.take(one, 1), Err(Excess::PerIp));
        assert_eq!(quota.taken(), 6, "a refusal takes nothing");
        assert_eq!(quota.take(other, 4), Ok(()));
        assert_eq!(quota.take(other, 1), Err(Excess::Overall));
        assert_eq!(quota.take(None, 1), Err(Excess::Overall));
        assert_eq!(quota.take(one, 1), Err(Excess::PerIp), "of both limits its own counts");
        assert_eq!(quota.take(other, usize::MAX), Err(Excess::PerIp));
        assert_eq!(quota.take(None, usize::MAX), Err(Excess::Overall));
        quota.give(one, 6);
        assert_eq!((quota.taken(), quota.by_ip.len()), (4, 1), "an address that has nothing is forgotten");
        assert_eq!(quota.take(other, 2), Ok(()));
        quota.give(other, 6);
        assert_eq!((quota.taken(), quota.by_ip.len()), (0, 0));
    }

    #[test]
    fn hosts_of_ipv6_are_one_by_their_network() {
        let network = |text: &str| network(text.parse().expect("an address")).to_string();
        assert_eq!(network("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(network("::ffff:10.1.2.3"), "10.1.2.3");
    }
}
