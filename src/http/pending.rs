//! The pending connections of one worker, and which of them are idle.
//!
//! A connection is pending unless it is a subscriber's. A pending connection is idle while nothing of a request has
//! arrived: it is new, or it is between two requests. At the limit, a new connection evicts the one that has been idle
//! longest. So a client that only opens connections cannot keep others out. At the limit of one address, a new
//! connection can evict only connections of the same address.
//!
//! Each request ends one idle period and starts another, but evictions are rare. So a request only changes the number
//! of the period in the connection's slot. The position of the slot in the order is corrected when an eviction meets
//! it.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    rc::Rc,
    sync::Arc,
    task::{Context, Waker},
};

use crate::limits::{ConnectionPermit, LimitReached, Quota, network};

/// The pending connections of one worker.
pub struct PendingSlots {
    /// The limit, which all workers share.
    limit: Arc<Quota>,
    /// The number of the idle period that began last.
    newest_period: Cell<u64>,
    /// The connections of all addresses.
    all: RefCell<IdleOrder>,
    /// The connections of each address.
    by_ip: RefCell<HashMap<IpAddr, IdleOrder>>,
}

/// Connections by the number of an idle period, oldest first. A connection enters with its first idle period, and
/// leaves when it is closed. If an eviction meets it while it is busy, it leaves, and enters again with its next idle
/// period. So the number may be that of an earlier period than the current one.
type IdleOrder = BTreeMap<u64, Rc<State>>;

/// The slot of one pending connection. Dropping it frees the slot.
pub struct PendingSlot {
    slots: Rc<PendingSlots>,
    ip: IpAddr,
    state: Rc<State>,
}

/// What the connection's task and an eviction share.
struct State {
    /// `None` once the connection is evicted.
    permit: RefCell<Option<ConnectionPermit>>,
    /// The number of the current idle period; [`BUSY`] if the connection is not idle.
    period: Cell<u64>,
    /// The key in [`PendingSlots::all`]; [`BUSY`] if the connection is not there.
    key_in_all: Cell<u64>,
    /// The key in [`PendingSlots::by_ip`]; [`BUSY`] if the connection is not there.
    key_in_ip: Cell<u64>,
    /// Wakes the connection's task when it is evicted.
    waker: RefCell<Option<Waker>>,
}

/// Not the number of any idle period.
const BUSY: u64 = 0;

impl PendingSlots {
    /// A worker without connections.
    pub fn new(limit: Arc<Quota>) -> Rc<Self> {
        Rc::new(Self { limit, newest_period: Cell::new(BUSY), all: RefCell::default(), by_ip: RefCell::default() })
    }

    /// Admits a new connection from `ip`. At a limit, this evicts the connection that has been idle longest.
    ///
    /// # Errors
    /// When a limit is reached and no connection that counts against it is idle.
    pub fn admit(self: &Rc<Self>, ip: IpAddr) -> Result<PendingSlot, LimitReached> {
        let permit = self.limit.connection_permit(Some(ip)).or_else(|error| {
            let has_evicted = match error {
                LimitReached::PendingConnectionsPerIp(_) => self.evict_idle_of(network(ip)),
                _ => self.evict_idle(),
            };
            if has_evicted { self.limit.connection_permit(Some(ip)) } else { Err(error) }
        })?;
        let state = State {
            permit: RefCell::new(Some(permit)),
            period: Cell::new(BUSY),
            key_in_all: Cell::new(BUSY),
            key_in_ip: Cell::new(BUSY),
            waker: RefCell::default(),
        };
        Ok(PendingSlot { slots: Rc::clone(self), ip: network(ip), state: Rc::new(state) })
    }

    /// Evicts the connection that has been idle longest. Returns false if none is idle.
    pub fn evict_idle(&self) -> bool {
        let oldest = take_oldest(&mut self.all.borrow_mut(), |state| &state.key_in_all);
        oldest.is_some_and(|oldest| oldest.evict())
    }

    fn evict_idle_of(&self, ip: IpAddr) -> bool {
        let mut by_ip = self.by_ip.borrow_mut();
        let oldest = by_ip.get_mut(&ip).and_then(|order| take_oldest(order, |state| &state.key_in_ip));
        drop(by_ip);
        oldest.is_some_and(|oldest| oldest.evict())
    }
}

/// Takes the connection that has been idle longest out of `order`.
///
/// On the way it corrects the order. A busy connection is taken out. A connection that is in a later idle period than
/// its key says is moved there. Each request causes at most one such correction.
fn take_oldest(order: &mut IdleOrder, key_of: impl Fn(&State) -> &Cell<u64>) -> Option<Rc<State>> {
    loop {
        let (key, state) = order.pop_first()?;
        let period = state.period.get();
        key_of(&state).set(BUSY);
        if period == key {
            return Some(state);
        }
        if period != BUSY {
            key_of(&state).set(period);
            order.insert(period, state);
        }
    }
}

impl State {
    /// Frees the permit, and wakes the connection's task, which then closes the connection. Returns false if it was
    /// evicted before.
    fn evict(&self) -> bool {
        self.period.set(BUSY);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
        self.permit.take().is_some()
    }
}

impl PendingSlot {
    /// Notes that the connection is idle. Returns false if it was evicted; if that happens later, the task of `cx` is
    /// woken.
    pub fn mark_idle(&self, cx: &Context<'_>) -> bool {
        let state = &self.state;
        if state.permit.borrow().is_none() {
            return false;
        }
        if state.waker.borrow().as_ref().is_none_or(|waker| !waker.will_wake(cx.waker())) {
            state.waker.replace(Some(cx.waker().clone()));
        }
        if state.period.get() == BUSY {
            let period = self.slots.newest_period.get() + 1;
            self.slots.newest_period.set(period);
            state.period.set(period);
            self.enter_orders(period);
        }
        true
    }

    /// Notes that a request has begun.
    pub fn mark_busy(&self) {
        self.state.period.set(BUSY);
    }

    /// Inserts the connection into the orders that do not have it.
    fn enter_orders(&self, period: u64) {
        let state = &self.state;
        if state.key_in_all.get() == BUSY {
            state.key_in_all.set(period);
            self.slots.all.borrow_mut().insert(period, Rc::clone(state));
        }
        if state.key_in_ip.get() == BUSY {
            state.key_in_ip.set(period);
            let mut by_ip = self.slots.by_ip.borrow_mut();
            by_ip.entry(self.ip).or_default().insert(period, Rc::clone(state));
        }
    }
}

impl Drop for PendingSlot {
    fn drop(&mut self) {
        self.slots.all.borrow_mut().remove(&self.state.key_in_all.get());
        let mut by_ip = self.slots.by_ip.borrow_mut();
        if let Some(order) = by_ip.get_mut(&self.ip) {
            order.remove(&self.state.key_in_ip.get());
            if order.is_empty() {
                by_ip.remove(&self.ip);
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
        let slots = [1, 1, 1].map(|last| pool.admit(ip(last)).expect("a slot"));
        assert!(pool.admit(ip(2)).is_err(), "none is idle");
        for slot in [&slots[1], &slots[0], &slots[2]] {
            assert!(is_idle(slot));
        }
        // The oldest sends a request and is idle again: now it is the newest.
        slots[1].mark_busy();
        assert!(is_idle(&slots[1]));
        let newcomers = [2, 2].map(|last| pool.admit(ip(last)).expect("a slot"));
        assert_eq!([0, 1, 2].map(|n: usize| is_idle(&slots[n])), [false, true, false]);
        drop(newcomers);
        drop(slots);
        assert_eq!((pool.all.borrow().len(), pool.by_ip.borrow().len()), (0, 0));
    }

    #[test]
    fn a_connection_that_an_eviction_met_while_busy_can_be_evicted_in_its_next_idle_period() {
        for (all, per_ip) in [(2, 10), (10, 2)] {
            let pool = pool(all, per_ip);
            let slots = [1, 1].map(|last| pool.admit(ip(last)).expect("a slot"));
            assert!(is_idle(&slots[1]));
            slots[1].mark_busy();
            assert!(pool.admit(ip(1)).is_err(), "none is idle");
            assert!(is_idle(&slots[1]));
            let newcomer = pool.admit(ip(1)).expect("a slot");
            assert!(!is_idle(&slots[1]));
            drop((newcomer, slots));
            assert_eq!((pool.all.borrow().len(), pool.by_ip.borrow().len()), (0, 0));
        }
    }

    #[test]
    fn at_its_own_limit_an_address_evicts_only_its_own_connections() {
        let pool = pool(10, 2);
        let other = pool.admit(ip(2)).expect("a slot");
        assert!(is_idle(&other));
        let slots = [1, 1].map(|last| pool.admit(ip(last)).expect("a slot"));
        assert_eq!(
            pool.admit(ip(1)).err(),
            Some(LimitReached::PendingConnectionsPerIp(2)),
            "an idle connection of another address is not evicted"
        );
        assert!(is_idle(&slots[1]));
        let newcomer = pool.admit(ip(1)).expect("a slot");
        assert!(!is_idle(&slots[1]) && is_idle(&slots[0]) && is_idle(&other) && is_idle(&newcomer));
    }

    #[test]
    fn at_both_limits_an_address_evicts_only_its_own_connections() {
        let pool = pool(3, 2);
        let other = pool.admit(ip(2)).expect("a slot");
        assert!(is_idle(&other));
        let slots = [1, 1].map(|last| pool.admit(ip(last)).expect("a slot"));
        assert_eq!(pool.admit(ip(1)).err(), Some(LimitReached::PendingConnectionsPerIp(2)));
        assert!(is_idle(&other), "it was not evicted for a connection that is refused");
        assert!(is_idle(&slots[0]));
        let newcomer = pool.admit(ip(1)).expect("a slot");
        assert!(!is_idle(&slots[0]) && is_idle(&other) && is_idle(&newcomer));
    }
}
