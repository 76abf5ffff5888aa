//! A connection, and what was read from it.

use std::{
    net::{SocketAddr, TcpStream as BareStream},
    sync::Arc,
};

use super::{
    deadline::{Deadline, Wait},
    socket::Socket,
};
use crate::{
    config::ServerConfig,
    http::{pending::Place, problem::Problem},
    limits::{BytesPermit, RequestBytes},
};

/// A connection, and what was read from it.
pub(super) struct Connection {
    pub(super) socket: Socket,
    pub(super) remote: SocketAddr,
    pub(super) place: Place,
    pub(super) deadline: Deadline,
    /// What is not done with.
    pub(super) held: Vec<u8>,
    /// For `held`; taken only by requests that come in pieces, or several at once.
    pub(super) permit: Option<BytesPermit>,
    /// How much of `held` has been looked at without an end of the head; the rest of a body is something else.
    pub(super) looked: usize,
    pub(super) wait: Wait,
    /// Why the next request is refused, although nothing of it is held.
    pub(super) refused: Option<Problem>,
}

impl Connection {
    /// One that has just been accepted.
    pub(super) fn new(socket: BareStream, remote: SocketAddr, place: Place, config: &ServerConfig) -> Self {
        Self {
            socket: Socket::Bare(socket),
            remote,
            place,
            deadline: Deadline::new(config),
            held: Vec::new(),
            permit: None,
            looked: 0,
            wait: Wait::First,
            refused: None,
        }
    }

    /// Keeps `new` behind what is held.
    pub(super) fn hold(&mut self, bytes: &Arc<RequestBytes>, new: &[u8]) -> Result<(), Problem> {
        if new.is_empty() {
            return Ok(());
        }
        let all = self.held.len() + new.len();
        if all > self.held.capacity() {
            // As much again each time: a client that sends byte by byte would have all of it moved for each.
            let capacity = all.max(2 * self.held.capacity());
            self.permit.get_or_insert_with(|| bytes.permit(Some(self.remote.ip()))).cover(capacity)?;
            self.held.reserve_exact(capacity - self.held.len());
        }
        self.held.extend_from_slice(new);
        Ok(())
    }

    /// Keeps nothing: so does a connection that waits.
    pub(super) fn release(&mut self) {
        (self.held, self.permit) = (Vec::new(), None);
    }

    pub(super) fn served(&mut self) {
        self.deadline.met();
        (self.looked, self.wait) = (0, Wait::Next);
    }
}
