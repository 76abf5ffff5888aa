//! What the servers of a cluster ask each other and tell each other, besides the events of the log. An engine whose log
//! several servers share also implements [`Peers`]. The other engines have no peers.
//!
//! ```text
//!  this server ─► Peers ─► another server ─► Local ─► its topics, tickets and streams
//! ```

use std::{fmt, sync::Arc};

use futures_util::future::BoxFuture;

use crate::event::TopicName;

/// The name of a server of the cluster: a random number that each process chooses at its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Node(u64);

/// How many hexadecimal digits the text of a [`Node`] has.
pub const NODE_LEN: usize = 16;

/// What a client does with a ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TicketUse {
    /// The ticket opens a stream, and is used up.
    Spend,
    /// The ticket is only looked at.
    Look,
}

/// The SHA-256 of a ticket. Only this travels between servers: who reads it cannot use it as a ticket.
pub type TicketHash = [u8; 32];

/// Why the other servers could not be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// Nothing was done.
    #[error("the other servers of the cluster cannot be reached now")]
    Unavailable,
    /// It may have been done or not.
    #[error("it is not known whether the other servers of the cluster have done it")]
    Unknown,
}

/// The other servers of the cluster. Its methods wait for no other server.
pub trait Peers: Send + Sync {
    /// The name of this server.
    fn node(&self) -> Node;

    /// How many subscribers of `topic` the other servers have, as they said last.
    fn subscribers(&self, topic: &str) -> usize;

    /// Notes that the number of this server's own subscribers of `topic` has changed.
    fn note_change(&self, topic: &TopicName);

    /// What the ticket with this hash stands for, from the server that gave it. `None` if that server does not know it.
    fn ticket(
        &self,
        node: Node,
        hash: TicketHash,
        ticket_use: TicketUse,
    ) -> BoxFuture<'static, Result<Option<String>, PeerError>>;

    /// Ends the streams of a subject on all servers, also on this one, and removes the tickets of the subject. A server
    /// that cannot be reached now does it later.
    fn end_subject(&self, subject: &str) -> BoxFuture<'static, Result<(), PeerError>>;

    /// Says who answers for this server. Until then, it has no subscribers and no tickets.
    fn serve(&self, local: Arc<dyn Local>);
}

/// What the other servers ask of this one.
pub trait Local: Send + Sync {
    /// How many subscribers of `topic` this server has.
    fn subscribers(&self, topic: &str) -> usize;

    /// The topics of this server that have subscribers, and how many.
    fn all_subscribers(&self) -> Vec<(TopicName, usize)>;

    /// What the ticket with this hash stands for; `None` if it is used up, has expired, or was never given.
    fn ticket(&self, hash: &TicketHash, ticket_use: TicketUse) -> Option<String>;

    /// Ends the streams of a subject, and removes its tickets.
    fn end_subject(&self, subject: String) -> BoxFuture<'static, ()>;
}

impl Node {
    /// A new name.
    #[must_use]
    pub fn random() -> Self {
        Self(fastrand::u64(..))
    }

    /// Parses what [`Display`](fmt::Display) wrote.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let is_hex = text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        (text.len() == NODE_LEN && is_hex).then(|| u64::from_str_radix(text, 16).ok().map(Self)).flatten()
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_server_reads_back_and_nothing_else_does() {
        // Goal: a part of a ticket or of a subject names a server only if a server has made it.
        for number in [0, 1, 0xabc, u64::MAX] {
            let text = Node(number).to_string();
            assert_eq!((text.len(), Node::parse(&text)), (NODE_LEN, Some(Node(number))));
        }
        for text in ["", "0", "000000000000000G", "00000000000000AB", "+000000000000001", "00000000000000001"] {
            assert_eq!(Node::parse(text), None, "{text}");
        }
    }
}
