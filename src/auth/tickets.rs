//! One-time tickets: each opens one stream of the topics that it was taken for.
//!
//! An `EventSource` can send no header. A token in the URL would be in the logs of servers and proxies. So the URL has
//! a ticket instead: when somebody reads the ticket in a log, it is used up.
//!
//! Only publishes are frequent, and they use no ticket. So one lock for all tickets is enough.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use aws_lc_rs::{
    digest::{SHA256, digest},
    rand,
};

use super::{
    caller::{Caller, Grant, Subscribe, Ticket},
    error::{Refused, TicketError},
};
use crate::{
    config::AuthConfig,
    identity::Identity,
    peers::{NODE_LEN, Node, TicketHash, TicketUse},
};

/// How many random bytes a ticket has. Nobody can guess 192 bits.
const RANDOM_BYTES: usize = 24;
/// The length of a ticket, in hexadecimal digits.
const TICKET_LEN: usize = 2 * RANDOM_BYTES;
/// The length of a ticket in a cluster: it begins with the name of the server that gave it.
const CLUSTER_TICKET_LEN: usize = NODE_LEN + TICKET_LEN;

/// A ticket for its client.
pub struct NewTicket {
    /// What the client gives as `?ticket=`: hexadecimal digits.
    pub text: String,
    /// For how long it can be used.
    pub valid_for: Duration,
}

/// The present moment on both clocks.
#[derive(Clone, Copy)]
pub(super) struct Now {
    /// For the lifetime of a ticket.
    pub(super) mono: Instant,
    /// For the `exp` of a token.
    pub(super) wall: SystemTime,
}

impl Now {
    pub(super) fn read() -> Self {
        Self { mono: Instant::now(), wall: SystemTime::now() }
    }
}

/// The tickets that are not used yet.
pub(super) struct Tickets {
    /// This server, if it is one of a cluster.
    node: Option<Node>,
    ttl: Duration,
    /// The most topics of all tickets together.
    max: usize,
    /// The most topics of the tickets of one identity.
    per_key_max: usize,
    store: Mutex<Store>,
}

#[derive(Default)]
struct Store {
    /// By number, so the oldest first.
    held: BTreeMap<u64, Held>,
    /// The number of each ticket, by its SHA-256. So the memory contains the text of no ticket, and the time of a
    /// search tells nothing about the text of a ticket.
    numbers: HashMap<TicketHash, u64>,
    next_number: u64,
    /// The topics of the tickets of each identity. A ticket uses as much memory as its topics, so these are counted.
    topic_counts: HashMap<Arc<Identity>, usize>,
    /// The topics of all tickets.
    topic_count: usize,
    /// When keys were last removed or changed.
    keys_changed_at: Option<Instant>,
}

struct Held {
    sha256: TicketHash,
    ticket: Arc<Ticket>,
    expires_at: Instant,
}

impl Tickets {
    pub(super) fn new(config: &AuthConfig) -> Self {
        let AuthConfig { ticket_ttl, tickets_max, tickets_per_key_max, .. } = config;
        Self {
            node: None,
            ttl: *ticket_ttl,
            max: *tickets_max,
            per_key_max: *tickets_per_key_max,
            store: Mutex::default(),
        }
    }

    /// Puts the name of this server in front of its tickets.
    pub(super) fn in_cluster(self, node: Node) -> Self {
        Self { node: Some(node), ..self }
    }

    /// Makes a ticket for the topics of `grants`. `checked_at` is a moment before the token of `caller` was checked.
    pub(super) fn take(
        &self,
        caller: &Caller,
        grants: impl Iterator<Item = Grant<Subscribe>>,
        checked_at: Instant,
        now: Now,
    ) -> Result<NewTicket, TicketError> {
        let verified = caller.verified_credential().ok_or(TicketError::Anonymous)?;
        let ticket = Arc::new(Ticket::new(Arc::clone(verified), caller.expires_at(), grants));
        let text = self.node.map(|node| node.to_string()).unwrap_or_default() + &random_text()?;
        let sha256 = sha256(&text).ok_or(TicketError::Unavailable)?;
        let valid_for = caller.valid_for(now.wall).map_or(self.ttl, |left| left.min(self.ttl));
        let mut store = self.lock();
        store.remove_expired(now.mono);
        // The key of the token may have been removed since the token was checked. The tickets of the key were removed
        // at that moment, and there must be no new one.
        if store.keys_changed_at.is_some_and(|changed_at| checked_at <= changed_at) {
            return Err(TicketError::Unavailable);
        }
        self.check_room(&store, &verified.identity, ticket.topics())?;
        store.insert(Held { sha256, ticket, expires_at: now.mono + valid_for });
        Ok(NewTicket { text, valid_for })
    }

    /// Checks that there is room for a ticket with so many topics. At its limit, an identity gets no new ticket: it
    /// must not use up the room of the others, and an older ticket is not removed, because a client may be about to use
    /// it.
    fn check_room(&self, store: &Store, identity: &Arc<Identity>, topics: usize) -> Result<(), TicketError> {
        let most = self.max.min(self.per_key_max);
        if topics > most {
            return Err(TicketError::TooManyTopics { max: most, topics });
        }
        if store.topic_counts.get(identity).copied().unwrap_or_default() + topics > self.per_key_max {
            return Err(TicketError::TooManyOfKey(self.per_key_max));
        }
        if store.topic_count + topics > self.max { Err(TicketError::TooMany(self.max)) } else { Ok(()) }
    }

    /// The caller that a ticket stands for. After [`TicketUse::Spend`] the ticket is gone, also if the caller gets no
    /// stream.
    pub(super) fn redeem(&self, text: &str, ticket_use: TicketUse, now: Now) -> Result<Caller, Refused> {
        let ticket = sha256(text).and_then(|hash| self.find(&hash, ticket_use, now));
        ticket.map(Caller::by_ticket).ok_or(Refused::Ticket)
    }

    /// The ticket with this hash. After [`TicketUse::Spend`] it is gone.
    pub(super) fn find(&self, hash: &TicketHash, ticket_use: TicketUse, now: Now) -> Option<Arc<Ticket>> {
        let mut store = self.lock();
        let number = *store.numbers.get(hash)?;
        let held = store.held.get(&number)?;
        let (ticket, expires_at) = (Arc::clone(&held.ticket), held.expires_at);
        if ticket_use == TicketUse::Spend {
            store.remove(number);
        }
        drop(store);
        // If the wall clock was set forward, the token may expire before the ticket does.
        (now.mono < expires_at && !ticket.has_ended(now.wall)).then_some(ticket)
    }

    /// Which other server has given the ticket, and its hash; `None` if this server must know it.
    pub(super) fn elsewhere(&self, text: &str) -> Option<(Node, TicketHash)> {
        let own = self.node?;
        let node = (text.len() == CLUSTER_TICKET_LEN).then(|| text.get(..NODE_LEN).and_then(Node::parse)).flatten()?;
        (node != own).then(|| Some((node, sha256(text)?))).flatten()
    }

    /// Removes the tickets of the identities whose keys are gone or have changed. This has happened at `now`.
    pub(super) fn remove_keys(&self, is_gone: impl Fn(&Identity) -> bool, now: Instant) {
        let mut store = self.lock();
        store.keys_changed_at = Some(now);
        store.remove_where(is_gone);
    }

    /// Removes the tickets of a subject.
    pub(super) fn remove_subject(&self, subject: &str) {
        self.lock().remove_where(|identity| identity.subject.as_deref() == Some(subject));
    }

    /// Removes the tickets that have expired.
    pub(super) fn remove_expired(&self, now: Instant) {
        self.lock().remove_expired(now);
    }

    /// Locks the store, also when a thread panicked while it held the lock.
    fn lock(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store {
    fn insert(&mut self, held: Held) {
        let number = self.next_number;
        self.next_number += 1;
        let topics = held.ticket.topics();
        *self.topic_counts.entry(Arc::clone(&held.ticket.verified.identity)).or_default() += topics;
        self.topic_count += topics;
        self.numbers.insert(held.sha256, number);
        self.held.insert(number, held);
    }

    fn remove(&mut self, number: u64) {
        let Some(held) = self.held.remove(&number) else { return };
        self.numbers.remove(&held.sha256);
        let (identity, topics) = (&held.ticket.verified.identity, held.ticket.topics());
        self.topic_count -= topics;
        if let Some(count) = self.topic_counts.get_mut(identity) {
            *count -= topics;
            if *count == 0 {
                self.topic_counts.remove(identity);
            }
        }
    }

    /// Removes the expired tickets, the oldest first, up to the first one that has not expired. All tickets have the
    /// same ttl, so the later ones have not expired either. The exception is a ticket whose token ends before the ttl:
    /// that ticket may stay here for the rest of the ttl, but cannot be used.
    fn remove_expired(&mut self, now: Instant) {
        while let Some((number, held)) = self.held.first_key_value()
            && held.expires_at <= now
        {
            let number = *number;
            self.remove(number);
        }
    }

    fn remove_where(&mut self, matches: impl Fn(&Identity) -> bool) {
        let matching = self.held.iter().filter(|(_, held)| matches(&held.ticket.verified.identity));
        let numbers: Vec<u64> = matching.map(|(number, _)| *number).collect();
        for number in numbers {
            self.remove(number);
        }
    }
}

fn random_text() -> Result<String, TicketError> {
    let mut bytes = [0; RANDOM_BYTES];
    rand::fill(&mut bytes).map_err(|_| TicketError::Unavailable)?;
    Ok(bytes.iter().fold(String::with_capacity(TICKET_LEN), |mut text, byte| {
        let written = write!(text, "{byte:02x}");
        debug_assert!(written.is_ok(), "writing text into memory cannot fail");
        text
    }))
}

/// The digest of a ticket; `None` if the text is too long or too short for one.
fn sha256(text: &str) -> Option<TicketHash> {
    if ![TICKET_LEN, CLUSTER_TICKET_LEN].contains(&text.len()) {
        return None;
    }
    digest(&SHA256, text.as_bytes()).as_ref().try_into().ok()
}

#[cfg(test)]
mod tests;
