//! The connections of one worker that are no subscriber's, and which of them are silent.
//!
//! A connection is silent that has begun no request: it is new, or idle between two. At the limit the one that has been
//! silent longest gives way to a new one, so that a client that only opens connections does not keep the others out. An
//! address at its own limit makes room for itself only.
//!
//! Every request ends a silence and begins another, and hardly any is ever looked for. So a connection only notes which
//! silence it is in. Its place in the order is put right when the oldest is looked for.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    rc::Rc,
    sync::Arc,
    task::{Context, Waker},
};

use crate::limits::{PendingConnections, PendingPermit, TooManyPending, network};

/// The connections of one worker.
pub struct Pending {
    limit: Arc<PendingConnections>,
    /// The number of the newest silence.
    newest: Cell<u64>,
    /// The connections of all addresses, and those of each.
    all: RefCell<BySilence>,
    by_ip: RefCell<HashMap<IpAddr, BySilence>>,
}

/// Connections by the silence that they were in when they were put here, oldest first. Each is here from its first silence
/// to its end. One that is looked at while it is busy is taken out until its next silence.
type BySilence = BTreeMap<u64, Rc<Silence>>;

/// A connection's place; it is free on drop.
pub struct Place {
    pending: Rc<Pending>,
    ip: IpAddr,
    silence: Rc<Silence>,
}

/// What is known of a connection's silence.
struct Silence {
    /// `None` when it has to give way.
    permit: RefCell<Option<PendingPermit>>,
    /// The silence that it is in, [`BUSY`] when it is in none.
    number: Cell<u64>,
    /// Its key in the order of all, [`BUSY`] when it is not there.
    key: Cell<u64>,
    /// Its key in the order of its address, likewise.
    key_of_ip: Cell<u64>,
    /// Wakes its task when it has to give way.
    waker: RefCell<Option<Waker>>,
}

const BUSY: u64 = 0;

impl Pending {
    /// None yet.
    pub fn new(limit: Arc<PendingConnections>) -> Rc<Self> {
        Rc::new(Self { limit, newest: Cell::new(BUSY), all: RefCell::default(), by_ip: RefCell::default() })
    }

    /// A place for a new connection from `ip`, if need be that of the oldest silent one.
    ///
    /// # Errors
    /// When a limit is reached, and none that could give way is silent.
    pub fn admit(self: &Rc<Self>, ip: IpAddr) -> Result<Place, TooManyPending> {
        let permit = self.limit.admit(ip).or_else(|full| {
            let gave_way = match full {
                TooManyPending::Overall { .. } => self.evict(),
                TooManyPending::PerIp { .. } => self.evict_of(network(ip)),
            };
            if gave_way { self.limit.admit(ip) } else { Err(full) }
        })?;
        let silence = Silence {
            permit: RefCell::new(Some(permit)),
            number: Cell::new(BUSY),
            key: Cell::new(BUSY),
            key_of_ip: Cell::new(BUSY),
            waker: RefCell::default(),
        };
        Ok(Place { pending: Rc::clone(self), ip: network(ip), silence: Rc::new(silence) })
    }

    /// Has the oldest silent connection end; false when there is none.
    pub fn evict(&self) -> bool {
        let oldest = oldest(&mut self.all.borrow_mut(), |silence| &silence.key);
        oldest.is_some_and(|oldest| oldest.end())
    }

    fn evict_of(&self, ip: IpAddr) -> bool {
        let mut by_ip = self.by_ip.borrow_mut();
        let oldest = by_ip.get_mut(&ip).and_then(|order| oldest(order, |silence| &silence.key_of_ip));
        drop(by_ip);
        oldest.is_some_and(|oldest| oldest.end())
    }
}

/// Takes the oldest silent connection out of `order`. Those before it that are busy are taken out, too, and those that have
/// been silent anew are put where they belong: a connection costs that once for each of its requests at most.
fn oldest(order: &mut BySilence, key_of: impl Fn(&Silence) -> &Cell<u64>) -> Option<Rc<Silence>> {
    loop {
        let (key, silence) = order.pop_first()?;
        let number = silence.number.get();
        key_of(&silence).set(BUSY);
        if number == key {
            return Some(silence);
        }
        if number != BUSY {
            key_of(&silence).set(number);
            order.insert(number, silence);
        }
    }
}

impl Silence {
    /// The connection has to give way.
    fn end(&self) -> bool {
        self.number.set(BUSY);
        self.waker.take().into_iter().for_each(Waker::wake);
        self.permit.take().is_some()
    }
}

impl Place {
    /// The connection waits for a request and has nothing of it; false when it has to give way.
    pub fn wait(&self, cx: &Context<'_>) -> bool {
        let silence = &self.silence;
        if silence.permit.borrow().is_none() {
            return false;
        }
        if silence.waker.borrow().as_ref().is_none_or(|waker| !waker.will_wake(cx.waker())) {
            silence.waker.replace(Some(cx.waker().clone()));
        }
        if silence.number.get() == BUSY {
            let number = self.pending.newest.get() + 1;
            self.pending.newest.set(number);
            silence.number.set(number);
            if silence.key.get() == BUSY || silence.key_of_ip.get() == BUSY {
                self.enter(number);
            }
        }
        true
    }

    /// A request has begun.
    pub fn begin(&self) {
        self.silence.number.set(BUSY);
    }

    /// Puts the connection into the orders that it is not in.
    fn enter(&self, number: u64) {
        let silence = &self.silence;
        if silence.key.get() == BUSY {
            silence.key.set(number);
            self.pending.all.borrow_mut().insert(number, Rc::clone(silence));
        }
        if silence.key_of_ip.get() == BUSY {
            silence.key_of_ip.set(number);
            let mut by_ip = self.pending.by_ip.borrow_mut();
            by_ip.entry(self.ip).or_default().insert(number, Rc::clone(silence));
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.pending.all.borrow_mut().remove(&self.silence.key.get());
        let mut by_ip = self.pending.by_ip.borrow_mut();
        if let Some(order) = by_ip.get_mut(&self.ip) {
            order.remove(&self.silence.key_of_ip.get());
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

    fn pending(all: usize, per_ip: usize) -> Rc<Pending> {
        let limits = LimitsConfig {
            pending_connections_max: all,
            pending_connections_per_ip_max: per_ip,
            ..LimitsConfig::default()
        };
        Pending::new(PendingConnections::new(&limits))
    }

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([127, 0, 0, last])
    }

    fn waits(place: &Place) -> bool {
        place.wait(&Context::from_waker(Waker::noop()))
    }

    #[test]
    fn the_one_that_has_been_silent_longest_gives_way() {
        let pending = pending(3, 10);
        let places = [1, 1, 1].map(|last| pending.admit(ip(last)).expect("a place"));
        assert!(pending.admit(ip(2)).is_err(), "none is silent");
        for place in [&places[1], &places[0], &places[2]] {
            assert!(waits(place));
        }
        // The oldest asks for something, and is silent again: now it is the newest.
        places[1].begin();
        assert!(waits(&places[1]));
        let newcomers = [2, 2].map(|last| pending.admit(ip(last)).expect("a place"));
        assert_eq!([0, 1, 2].map(|n: usize| waits(&places[n])), [false, true, false]);
        drop(newcomers);
        drop(places);
        assert_eq!((pending.all.borrow().len(), pending.by_ip.borrow().len()), (0, 0));
    }

    #[test]
    fn one_that_was_looked_at_while_it_was_busy_is_found_in_its_next_silence() {
        for (all, per_ip) in [(2, 10), (10, 2)] {
            let pending = pending(all, per_ip);
            let places = [1, 1].map(|last| pending.admit(ip(last)).expect("a place"));
            assert!(waits(&places[1]));
            places[1].begin();
            assert!(pending.admit(ip(1)).is_err(), "none is silent");
            assert!(waits(&places[1]));
            let newcomer = pending.admit(ip(1)).expect("a place");
            assert!(!waits(&places[1]));
            drop((newcomer, places));
            assert_eq!((pending.all.borrow().len(), pending.by_ip.borrow().len()), (0, 0));
        }
    }

    #[test]
    fn an_address_at_its_own_limit_makes_room_for_itself_only() {
        let pending = pending(10, 2);
        let other = pending.admit(ip(2)).expect("a place");
        assert!(waits(&other));
        let places = [1, 1].map(|last| pending.admit(ip(last)).expect("a place"));
        assert_eq!(
            pending.admit(ip(1)).err(),
            Some(TooManyPending::PerIp { max: 2 }),
            "another's silence does not help"
        );
        assert!(waits(&places[1]));
        let newcomer = pending.admit(ip(1)).expect("a place");
        assert!(!waits(&places[1]) && waits(&places[0]) && waits(&other) && waits(&newcomer));
    }

    #[test]
    fn at_both_limits_an_address_makes_room_for_itself_only() {
        let pending = pending(3, 2);
        let other = pending.admit(ip(2)).expect("a place");
        assert!(waits(&other));
        let places = [1, 1].map(|last| pending.admit(ip(last)).expect("a place"));
        assert_eq!(pending.admit(ip(1)).err(), Some(TooManyPending::PerIp { max: 2 }));
        assert!(waits(&other), "it has not given way for one who is refused");
        assert!(waits(&places[0]));
        let newcomer = pending.admit(ip(1)).expect("a place");
        assert!(!waits(&places[0]) && waits(&other) && waits(&newcomer));
    }
}
