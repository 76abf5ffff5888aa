//! A command to end the streams of identities, which the hub carries out step by step.

use std::collections::HashSet;

use tokio::sync::oneshot;

use super::command::EndWhere;

/// A walk over all connections, to carry out a command. It is made in steps, because other connections wait meanwhile.
pub(super) struct Walk {
    pub(super) command: EndWhere,
    /// The key of the next connection.
    pub(super) next: usize,
    /// The connections that were adopted since the command came. The walk leaves them out, because the hub has applied
    /// the command to them when it adopted them: see `recent_ends`.
    pub(super) adopted: HashSet<usize>,
    /// How many streams it has ended.
    pub(super) ended: usize,
    /// Gets the number of ended streams when the walk is over.
    pub(super) answer: oneshot::Sender<usize>,
}

impl Walk {
    pub(super) fn new(command: EndWhere, answer: oneshot::Sender<usize>) -> Self {
        Self { command, next: 0, adopted: HashSet::new(), ended: 0, answer }
    }
}
