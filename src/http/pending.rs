//! The connections of one worker that are no subscriber's, and which of them are silent.
//!
//! A connection is silent that has begun no request: it is new, or idle between two. At the limit the oldest silent one
//! gives way to a new one, so that a client that only opens connections does not keep the others out. The silent ones are in two
//! lists, oldest first: all of them, and those of the same address, which alone can make room for it at its own limit.

use std::{
    cell::RefCell,
    collections::HashMap,
    net::IpAddr,
    rc::Rc,
    sync::Arc,
    task::{Context, Waker},
};

use slab::Slab;

use crate::limits::{PendingConnections, PendingPermit, TooManyPending, network};

/// The connections of one worker.
pub struct Pending {
    limit: Arc<PendingConnections>,
    lists: RefCell<Lists>,
}

/// One of them; it frees its place on drop.
pub struct Place {
    pending: Rc<Pending>,
    key: usize,
}

struct Lists {
    places: Slab<Entry>,
    /// The list of all, and one for each address that has a connection.
    ends: Slab<Ends>,
    all: usize,
    addresses: HashMap<IpAddr, usize>,
}

struct Entry {
    permit: Option<PendingPermit>,
    ip: IpAddr,
    silent: bool,
    /// Wakes its task when it has to give way.
    waker: Option<Waker>,
    /// The list of all and that of its address, and its place in each.
    lists: [(usize, Neighbours); 2],
}

#[derive(Clone, Copy, Default)]
struct Neighbours {
    older: Option<usize>,
    newer: Option<usize>,
}

#[derive(Default)]
struct Ends {
    oldest: Option<usize>,
    newest: Option<usize>,
    /// Connections of the address, silent or not.
    places: usize,
}

impl Pending {
    /// None yet.
    pub fn new(limit: Arc<PendingConnections>) -> Rc<Self> {
        let mut ends = Slab::new();
        let all = ends.insert(Ends::default());
        let lists = Lists { places: Slab::new(), ends, all, addresses: HashMap::new() };
        Rc::new(Self { limit, lists: RefCell::new(lists) })
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
        let key = self.lists.borrow_mut().insert(permit);
        Ok(Place { pending: Rc::clone(self), key })
    }

    /// Has the oldest silent connection end; false when there is none.
    pub fn evict(&self) -> bool {
        let oldest = self.lists.borrow().oldest(None);
        oldest.is_some_and(|key| self.end(key))
    }

    fn evict_of(&self, ip: IpAddr) -> bool {
        let oldest = self.lists.borrow().oldest(Some(ip));
        oldest.is_some_and(|key| self.end(key))
    }

    fn end(&self, key: usize) -> bool {
        let mut lists = self.lists.borrow_mut();
        lists.set_silent(key, false);
        let Some(entry) = lists.places.get_mut(key) else { return false };
        let (permit, waker) = (entry.permit.take(), entry.waker.take());
        drop(lists);
        waker.into_iter().for_each(Waker::wake);
        permit.is_some()
    }
}

impl Place {
    /// The connection waits for a request and has nothing of it; false when it has to give way.
    pub fn wait(&self, cx: &Context<'_>) -> bool {
        let mut lists = self.pending.lists.borrow_mut();
        let Some(entry) = lists.places.get_mut(self.key).filter(|entry| entry.permit.is_some()) else { return false };
        if entry.waker.as_ref().is_none_or(|waker| !waker.will_wake(cx.waker())) {
            entry.waker = Some(cx.waker().clone());
        }
        if !entry.silent {
            lists.set_silent(self.key, true);
        }
        true
    }

    /// A request has begun.
    pub fn begin(&self) {
        self.pending.lists.borrow_mut().set_silent(self.key, false);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.pending.lists.borrow_mut().remove(self.key);
    }
}

impl Lists {
    /// The oldest silent connection, of all or of one address.
    fn oldest(&self, ip: Option<IpAddr>) -> Option<usize> {
        let list = ip.map_or(Some(self.all), |ip| self.addresses.get(&ip).copied())?;
        self.ends.get(list)?.oldest
    }

    fn insert(&mut self, permit: PendingPermit) -> usize {
        let ends = &mut self.ends;
        let address = *self.addresses.entry(permit.network()).or_insert_with(|| ends.insert(Ends::default()));
        ends.get_mut(address).into_iter().for_each(|ends| ends.places += 1);
        let ip = permit.network();
        let lists = [self.all, address].map(|list| (list, Neighbours::default()));
        self.places.insert(Entry { permit: Some(permit), ip, silent: false, waker: None, lists })
    }

    fn remove(&mut self, key: usize) {
        self.set_silent(key, false);
        let Some(Entry { lists: [_, (address, _)], ip, .. }) = self.places.try_remove(key) else { return };
        let Some(ends) = self.ends.get_mut(address) else { return };
        ends.places -= 1;
        if ends.places == 0 {
            self.ends.remove(address);
            self.addresses.remove(&ip);
        }
    }

    /// Puts a connection at the new end of both lists, or takes it out of them.
    fn set_silent(&mut self, key: usize, silent: bool) {
        let Some(entry) = self.places.get_mut(key).filter(|entry| entry.silent != silent) else { return };
        entry.silent = silent;
        let lists = entry.lists;
        for (which, (list, own)) in lists.into_iter().enumerate() {
            let Some(ends) = self.ends.get_mut(list) else { continue };
            if silent {
                let newest = ends.newest.replace(key);
                ends.oldest = ends.oldest.or(Some(key));
                self.change(which, Some(key), |own| *own = Neighbours { older: newest, newer: None });
                self.change(which, newest, |other| other.newer = Some(key));
                continue;
            }
            if own.older.is_none() {
                ends.oldest = own.newer;
            }
            if own.newer.is_none() {
                ends.newest = own.older;
            }
            self.change(which, own.older, |other| other.newer = own.newer);
            self.change(which, own.newer, |other| other.older = own.older);
        }
    }

    fn change(&mut self, which: usize, key: Option<usize>, change: impl FnOnce(&mut Neighbours)) {
        let entry = key.and_then(|key| self.places.get_mut(key));
        if let Some((_, neighbours)) = entry.and_then(|entry| entry.lists.get_mut(which)) {
            change(neighbours);
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
        let lists = pending.lists.borrow();
        assert_eq!((lists.places.len(), lists.ends.len(), lists.addresses.len()), (0, 1, 0));
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
