//! The queue of connections that must be visited. A connection is in it at most once.

use std::collections::{HashSet, VecDeque};

/// The keys of connections that wait for a visit.
#[derive(Default)]
pub(super) struct Backlog {
    keys: VecDeque<usize>,
    /// The keys of connections that were closed while they waited. These keys stay in `keys`, because a search at each
    /// close would take too long. [`pop`](Backlog::pop) skips them.
    closed: HashSet<usize>,
}

impl Backlog {
    /// Whether no connection waits.
    pub(super) fn is_empty(&self) -> bool {
        self.keys.len() == self.closed.len()
    }

    /// Adds a connection, which must not be in the queue. If `keys` still has the same key of a closed connection, the
    /// new connection takes its place.
    pub(super) fn push(&mut self, key: usize) {
        if self.closed.is_empty() || !self.closed.remove(&key) {
            self.keys.push_back(key);
        }
    }

    /// Removes and returns the next connection.
    pub(super) fn pop(&mut self) -> Option<usize> {
        loop {
            let key = self.keys.pop_front()?;
            if self.closed.is_empty() || !self.closed.remove(&key) {
                return Some(key);
            }
        }
    }

    /// Removes a connection that is in the queue, because it has been closed.
    pub(super) fn close(&mut self, key: usize) {
        let is_new = self.closed.insert(key);
        debug_assert!(is_new, "a connection is closed once");
    }

    /// The connections that wait, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = usize> {
        self.keys.iter().copied().filter(|key| !self.closed.contains(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_connection_has_no_visit_and_its_key_is_here_once() {
        let mut backlog = Backlog::default();
        for key in 0..4 {
            backlog.push(key);
        }
        for key in 1..3 {
            backlog.close(key);
        }
        assert_eq!(backlog.iter().collect::<Vec<_>>(), [0, 3]);
        backlog.push(2);
        assert_eq!(backlog.iter().collect::<Vec<_>>(), [0, 2, 3]);
        assert_eq!([backlog.pop(), backlog.pop(), backlog.pop()], [Some(0), Some(2), Some(3)]);
        backlog.push(1);
        backlog.close(1);
        assert!(backlog.is_empty() && backlog.pop().is_none() && backlog.closed.is_empty());
    }
}
