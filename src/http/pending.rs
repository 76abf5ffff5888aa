//! The pending connections of one worker, and which of them are idle.
//!
//! A connection is pending unless it is a subscriber's. A pending connection is idle while nothing of a request has
//! arrived: it is new, or it is between two requests. At the limit, a new connection evicts the one that has been idle
//! longest. So a client that only opens connections cannot keep others out. At the limit of one address, a new
//! connection can evict only connections of the same address.
//!
//! Idle periods are numbered in the order in which they begin. The key of a connection in `order` is the number of one
//! of its idle periods. Every request ends a period and starts another, but evictions are rare. So a request changes
//! only `State::period`, and the key in `order` becomes out of date. An eviction puts such connections in order.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    net::IpAddr,
    rc::Rc,
    sync::Arc,
    task::{Context, Waker},
};

use crate::limits::{LimitReached, Permit, Quota, network};

/// The pending connections of one worker.
pub struct PendingSlots {
    /// The limit, which all workers share.
    limit: Arc<Quota>,
    /// The number of the idle period that began last.
    newest_period: Cell<u64>,
    /// The connections in the order in which they became idle. Each can be in two groups: in that of all connections
    /// (`None`), and in that of its address.
    order: RefCell<BTreeMap<(Group, u64), Rc<State>>>,
}

/// Connections that count against the same limit: those of one address, or all (`None`).
type Group = Option<IpAddr>;

/// The slot of one pending connection. Dropping it frees the slot.
pub struct PendingSlot {
    slots: Rc<PendingSlots>,
    ip: Group,
    state: Rc<State>,
}

/// What the connection's task and an eviction share.
#[derive(Default)]
struct State {
    /// `None` once the connection is evicted.
    permit: RefCell<Option<Permit>>,
    /// The number of the current idle period; `None` if the connection is not idle.
    period: Cell<Option<u64>>,
    /// Its key in `order`, in the group of all connections: the number of the current or of an earlier idle period.
    /// `None` if the connection is not in the group.
    key_in_all: Cell<Option<u64>>,
    /// Its key in `order`, in the group of its address.
    key_in_ip: Cell<Option<u64>>,
    /// Wakes the connection's task when it is evicted.
    waker: RefCell<Option<Waker>>,
}

impl PendingSlots {
    /// The slots of a worker that has no connections yet.
    pub fn new(limit: Arc<Quota>) -> Rc<Self> {
        Rc::new(Self { limit, newest_period: Cell::new(0), order: RefCell::default() })
    }

    /// Admits a new connection from `ip`. At a limit, this evicts the connection that has been idle longest. Without an
    /// address, only the limit of the server applies.
    ///
    /// # Errors
    /// When a limit is reached and no connection that counts against it is idle.
    pub fn admit(self: &Rc<Self>, ip: Option<IpAddr>) -> Result<PendingSlot, LimitReached> {
        let permit = self.limit.permit(ip).or_else(|error| {
            let group = match error {
                LimitReached::PendingConnectionsPerIp(_) => ip.map(network),
                _ => None,
            };
            if self.evict_idle_of(group) { self.limit.permit(ip) } else { Err(error) }
        })?;
        let state = State { permit: RefCell::new(Some(permit)), ..State::default() };
        Ok(PendingSlot { slots: Rc::clone(self), ip: ip.map(network), state: Rc::new(state) })
    }

    /// Evicts the connection that has been idle longest. Returns false if none is idle.
    pub fn evict_idle(&self) -> bool {
        self.evict_idle_of(None)
    }

    fn evict_idle_of(&self, group: Group) -> bool {
        let Some(oldest) = self.take_oldest(group) else { return false };
        oldest.evict();
        true
    }

    /// Takes the connection that has been idle longest out of `group`.
    ///
    /// Connections whose key is out of date may come first. Of these, an idle one gets the key of its current period,
    /// and a busy one is taken out until it is idle. A connection is moved again only after another request, so there
    /// are no more moves than requests.
    fn take_oldest(&self, group: Group) -> Option<Rc<State>> {
        let mut order = self.order.borrow_mut();
        loop {
            let (&(_, key), _) = order.range((group, 0)..=(group, u64::MAX)).next()?;
            let state = order.remove(&(group, key))?;
            let period = state.period.get();
            if period == Some(key) {
                state.key_in(group).set(None);
                return Some(state);
            }
            state.key_in(group).set(period);
            if let Some(period) = period {
                order.insert((group, period), state);
            }
        }
    }
}

impl State {
    /// Frees the permit, and wakes the connection's task, which then closes the connection.
    fn evict(&self) {
        let permit = self.permit.take();
        debug_assert!(permit.is_some(), "an evicted connection is not idle, so it is not evicted again");
        self.period.set(None);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn key_in(&self, group: Group) -> &Cell<Option<u64>> {
        match group {
            None => &self.key_in_all,
            Some(_) => &self.key_in_ip,
        }
    }
}

impl PendingSlot {
    /// Notes that the connection is idle. Returns false if it was evicted. If it is evicted later, the task of `cx` is
    /// woken.
    pub fn mark_idle(&self, cx: &Context<'_>) -> bool {
        let state = &self.state;
        if state.permit.borrow().is_none() {
            return false;
        }
        if state.waker.borrow().as_ref().is_none_or(|waker| !waker.will_wake(cx.waker())) {
            state.waker.replace(Some(cx.waker().clone()));
        }
        if state.period.get().is_none() {
            let period = self.slots.newest_period.get() + 1;
            self.slots.newest_period.set(period);
            state.period.set(Some(period));
            for group in self.groups() {
                let key = state.key_in(group);
                if key.get().is_none() {
                    key.set(Some(period));
                    self.slots.order.borrow_mut().insert((group, period), Rc::clone(state));
                }
            }
        }
        true
    }

    /// Counts the connection against the limit of `ip`, too.
    ///
    /// # Errors
    /// As [`PendingSlots::admit`]. Then the connection has no slot any more.
    pub fn count_for(&mut self, ip: IpAddr) -> Result<(), LimitReached> {
        // The connection's own permit is freed first: otherwise, at the limit of the server, another connection would
        // be evicted. The connection counts as busy meanwhile: otherwise it could be evicted to make room for itself.
        self.mark_busy();
        drop(self.state.permit.take());
        *self = self.slots.admit(Some(ip))?;
        Ok(())
    }

    /// Notes that a request has begun. Returns false if the connection was evicted.
    pub fn mark_busy(&self) -> bool {
        self.state.period.set(None);
        self.state.permit.borrow().is_some()
    }

    fn groups(&self) -> impl Iterator<Item = Group> + use<> {
        std::iter::once(None).chain(self.ip.map(Some))
    }
}

impl Drop for PendingSlot {
    fn drop(&mut self) {
        for group in self.groups() {
            if let Some(key) = self.state.key_in(group).get() {
                self.slots.order.borrow_mut().remove(&(group, key));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LimitsConfig;

    fn pool(all: usize, per_ip: usize) -> Rc<PendingSlots> {
        let limits = LimitsConfig {
            pending_connections_max: all,
            pending_connections_per_ip_max: per_ip,
            ..LimitsConfig::default()
        };
        PendingSlots::new(Quota::pending_connections(&limits))
    }

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([127, 0, 0, last])
    }

    fn is_idle(slot: &PendingSlot) -> bool {
        slot.mark_idle(&Context::from_waker(Waker::noop()))
    }

    #[test]
    fn the_connection_that_has_been_idle_longest_is_evicted() {
        let pool = pool(3, 10);
        let slots = [1, 1, 1].map(|last| pool.admit(Some(ip(last))).expect("a slot"));
        assert!(pool.admit(Some(ip(2))).is_err(), "none is idle");
        for slot in [&slots[1], &slots[0], &slots[2]] {
            assert!(is_idle(slot));
        }
        // The oldest sends a request and is idle again: now it is the newest.
        assert!(slots[1].mark_busy());
        assert!(is_idle(&slots[1]));
        let newcomers = [2, 2].map(|last| pool.admit(Some(ip(last))).expect("a slot"));
        assert_eq!([0, 1, 2].map(|n: usize| is_idle(&slots[n])), [false, true, false]);
        assert_eq!([0, 1, 2].map(|n: usize| slots[n].mark_busy()), [false, true, false]);
        drop(newcomers);
        drop(slots);
        assert!(pool.order.borrow().is_empty());
    }

    #[test]
    fn a_connection_that_an_eviction_met_while_busy_can_be_evicted_in_its_next_idle_period() {
        for (all, per_ip) in [(2, 10), (10, 2)] {
            let pool = pool(all, per_ip);
            let slots = [1, 1].map(|last| pool.admit(Some(ip(last))).expect("a slot"));
            assert!(is_idle(&slots[1]));
            slots[1].mark_busy();
            assert!(pool.admit(Some(ip(1))).is_err(), "none is idle");
            assert!(is_idle(&slots[1]));
            let newcomer = pool.admit(Some(ip(1))).expect("a slot");
            assert!(!is_idle(&slots[1]));
            drop((newcomer, slots));
            assert!(pool.order.borrow().is_empty());
        }
    }

    #[test]
    fn at_its_own_limit_an_address_evicts_only_its_own_connections() {
        let pool = pool(10, 2);
        let other = pool.admit(Some(ip(2))).expect("a slot");
        assert!(is_idle(&other));
        let slots = [1, 1].map(|last| pool.admit(Some(ip(last))).expect("a slot"));
        assert_eq!(
            pool.admit(Some(ip(1))).err(),
            Some(LimitReached::PendingConnectionsPerIp(2)),
            "an idle connection of another address is not evicted"
        );
        assert!(is_idle(&slots[1]));
        let newcomer = pool.admit(Some(ip(1))).expect("a slot");
        assert!(!is_idle(&slots[1]) && is_idle(&slots[0]) && is_idle(&other) && is_idle(&newcomer));
    }

    #[test]
    fn at_both_limits_an_address_evicts_only_its_own_connections() {
        let pool = pool(3, 2);
        let other = pool.admit(Some(ip(2))).expect("a slot");
        assert!(is_idle(&other));
        let slots = [1, 1].map(|last| pool.admit(Some(ip(last))).expect("a slot"));
        assert_eq!(pool.admit(Some(ip(1))).err(), Some(LimitReached::PendingConnectionsPerIp(2)));
        assert!(is_idle(&other), "it was not evicted for a connection that is refused");
        assert!(is_idle(&slots[0]));
        let newcomer = pool.admit(Some(ip(1))).expect("a slot");
        assert!(!is_idle(&slots[0]) && is_idle(&other) && is_idle(&newcomer));
    }

    #[test]
    fn a_connection_without_an_address_counts_only_overall() {
        // Goal: the clients of a proxy do not share the limit of its address, but the limit of the server.
        let pool = pool(3, 1);
        let slots = [None, None, None].map(|ip| pool.admit(ip).expect("a slot"));
        assert_eq!(pool.admit(None).err(), Some(LimitReached::PendingConnections(3)));
        assert!(is_idle(&slots[0]));
        let newcomer = pool.admit(Some(ip(1))).expect("a slot");
        assert!(!is_idle(&slots[0]) && is_idle(&slots[1]) && is_idle(&newcomer));
        assert_eq!(pool.admit(Some(ip(1))).err(), None, "it evicts the one of its address");
        drop((newcomer, slots));
        assert!(pool.order.borrow().is_empty());
    }

    #[test]
    fn a_connection_can_be_counted_for_an_address_later() {
        // Goal: at the limit of the server no other connection is evicted for it, but the limit of the address holds.
        let pool = pool(2, 1);
        let [mut one, mut other] = [None, None].map(|ip| pool.admit(ip).expect("a slot"));
        assert!(is_idle(&one) && is_idle(&other));
        let client = IpAddr::from([127, 0, 0, 1]);
        assert_eq!(one.count_for(client), Ok(()));
        one.mark_busy();
        assert_eq!(other.count_for(client), Err(LimitReached::PendingConnectionsPerIp(1)));
        assert!(is_idle(&one) && !is_idle(&other));
        drop((one, other));
        assert!(pool.order.borrow().is_empty());
        assert_eq!(pool.limit.reserved(), 0);
    }
}
