//! A command to end the streams of identities, while it looks at one connection after the other.

use std::collections::HashSet;

use tokio::sync::oneshot;

use super::command::EndWhere;

/// A walk over all connections. It is done in steps, because other connections wait meanwhile.
pub(super) struct Walk {
    pub(super) command: EndWhere,
    /// The key of the next connection.
    pub(super) next: usize,
    /// The connections that were adopted since the command came. They were checked then: see `recent_ends`.
    pub(super) adopted: HashSet<usize>,
    /// How many streams it has ended.
    pub(super) ended: usize,
    /// Gets that number in the end.
    pub(super) answer: oneshot::Sender<usize>,
}

impl Walk {
    pub(super) fn new(command: EndWhere, answer: oneshot::Sender<usize>) -> Self {
        Self { command, next: 0, adopted: HashSet::new(), ended: 0, answer }
    }
}
