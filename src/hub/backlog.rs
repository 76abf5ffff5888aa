//! Connections that have more to read than one visit gives, each once, in the order in which they came.

use std::collections::{HashSet, VecDeque};

/// The keys of connections that wait for a visit.
#[derive(Default)]
pub(super) struct Backlog {
    keys: VecDeque<usize>,
    /// Those of `keys` whose connections have been closed since: rather than searched for, they are passed over.
    closed: HashSet<usize>,
}

impl Backlog {
    /// Whether no connection waits.
    pub(super) fn is_empty(&self) -> bool {
        self.keys.len() == self.closed.len()
    }

    /// Adds a connection, which must not be here. If it has the key of a closed connection, it is next when that one
    /// was.
    pub(super) fn push(&mut self, key: usize) {
        if self.closed.is_empty() || !self.closed.remove(&key) {
            self.keys.push_back(key);
        }
    }

    /// The next connection.
    pub(super) fn pop(&mut self) -> Option<usize> {
        loop {
            let key = self.keys.pop_front()?;
            if self.closed.is_empty() || !self.closed.remove(&key) {
                return Some(key);
            }
        }
    }

    /// A connection that is here has been closed.
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
        (0..4).for_each(|key| backlog.push(key));
        (1..3).for_each(|key| backlog.close(key));
        assert_eq!(backlog.iter().collect::<Vec<_>>(), [0, 3]);
        backlog.push(2);
        assert_eq!(backlog.iter().collect::<Vec<_>>(), [0, 2, 3]);
        assert_eq!([backlog.pop(), backlog.pop(), backlog.pop()], [Some(0), Some(2), Some(3)]);
        backlog.push(1);
        backlog.close(1);
        assert!(backlog.is_empty() && backlog.pop().is_none() && backlog.closed.is_empty());
    }
}
