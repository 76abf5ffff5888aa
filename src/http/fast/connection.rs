//! A connection of the fast path, with its receive buffer.

use std::{
    net::{IpAddr, SocketAddr, TcpStream as BareStream},
    sync::Arc,
};

use super::{deadline::Deadline, socket::Socket};
use crate::{
    config::ServerConfig,
    http::{pending::PendingSlot, problem::Problem},
    limits::{BytesPermit, LimitReached, Quota, UNCOUNTED_MAX},
    transport::{ClientCertificate, Transport},
};

/// A connection of the fast path, with its receive buffer.
pub(super) struct Connection {
    pub(super) socket: Socket,
    pub(super) remote: SocketAddr,
    /// Whether `remote` is a trusted proxy. Then the proxy names the client of each request in its head.
    is_remote_a_proxy: bool,
    /// Whether a trusted proxy has opened the connection. Then the certificate may be the proxy's, also if a preamble
    /// has named another `remote`.
    is_opened_by_proxy: bool,
    pub(super) slot: PendingSlot,
    pub(super) deadline: Deadline,
    /// Bytes that were received after the last request that was served.
    pub(super) buffer: Vec<u8>,
    /// Covers `buffer`. A request that arrives alone and in one piece needs no buffer and no permit.
    pub(super) permit: Option<BytesPermit>,
    /// Covers what TLS keeps of an incomplete record. Usually there is none.
    tls_permit: Option<BytesPermit>,
    /// How many bytes at the beginning of `buffer` do not contain the end of the head.
    pub(super) searched_for_end: usize,
    /// The refusal of the next request, for whose bytes there was no room in the buffer.
    pub(super) next_refusal: Option<Problem>,
}

impl Connection {
    /// A connection that was just accepted.
    pub(super) fn new(
        socket: Transport<BareStream>,
        remote: SocketAddr,
        slot: PendingSlot,
        config: &ServerConfig,
    ) -> Self {
        Self {
            socket: Socket::Bare(socket),
            remote,
            is_remote_a_proxy: config.trusts(remote.ip()),
            is_opened_by_proxy: config.trusts(remote.ip()),
            slot,
            deadline: Deadline::new(config),
            buffer: Vec::new(),
            permit: None,
            tls_permit: None,
            searched_for_end: 0,
            next_refusal: None,
        }
    }

    /// Whether `remote` is a trusted proxy.
    pub(super) fn is_remote_a_proxy(&self) -> bool {
        self.is_remote_a_proxy
    }

    /// Notes for which client a trusted proxy has opened the connection, and counts the connection against the limit of
    /// the client's address.
    ///
    /// # Errors
    /// When this limit is reached.
    pub(super) fn set_client(&mut self, client: SocketAddr, config: &ServerConfig) -> Result<(), LimitReached> {
        // The client may be a trusted proxy itself.
        (self.remote, self.is_remote_a_proxy) = (client, config.trusts(client.ip()));
        self.counted_ip().map_or(Ok(()), |ip| self.slot.count_for(ip))
    }

    /// The client's certificate, which was verified; `None` if there is none, or if it may be that of a proxy.
    pub(super) fn certificate(&self) -> Option<&Arc<ClientCertificate>> {
        if self.is_opened_by_proxy { None } else { self.socket.certificate() }
    }

    /// The address whose limits the connection counts against, besides the limits of the server. `None` for the address
    /// of a proxy: otherwise one client of the proxy could use up the limits for the others.
    pub(super) fn counted_ip(&self) -> Option<IpAddr> {
        (!self.is_remote_a_proxy).then(|| self.remote.ip())
    }

    /// Appends `new` to the buffer.
    pub(super) fn append(&mut self, budget: &Arc<Quota>, new: &[u8]) -> Result<(), Problem> {
        if new.is_empty() {
            return Ok(());
        }
        let len = self.buffer.len() + new.len();
        if len > self.buffer.capacity() {
            // The capacity doubles. Otherwise a client that sends byte by byte would have the buffer copied for each
            // byte.
            let capacity = len.max(2 * self.buffer.capacity());
            let ip = self.counted_ip();
            self.permit.get_or_insert_with(|| budget.bytes_permit(ip)).cover(capacity)?;
            self.buffer.reserve_exact(capacity - self.buffer.len());
        }
        self.buffer.extend_from_slice(new);
        Ok(())
    }

    /// Keeps what follows a request in the buffer. The request ends at `end` in the buffer, or in `new` if the buffer
    /// is empty. If there is no room, the request is still answered, and the next one is refused.
    pub(super) fn keep_after(&mut self, end: usize, budget: &Arc<Quota>, new: &[u8]) {
        if self.buffer.is_empty() {
            self.next_refusal = self.append(budget, new.get(end..).unwrap_or_default()).err();
        } else {
            self.buffer.drain(..end);
        }
        if self.buffer.is_empty() {
            self.free_buffer();
        }
    }

    /// Reserves what TLS keeps of an incomplete record. Otherwise many clients that each send a part of a record could
    /// use up the memory.
    pub(super) fn cover_incomplete_record(&mut self, budget: &Arc<Quota>) -> Result<(), LimitReached> {
        let held = self.socket.held();
        if held <= UNCOUNTED_MAX {
            self.tls_permit = None;
            return Ok(());
        }
        let ip = self.counted_ip();
        self.tls_permit.get_or_insert_with(|| budget.bytes_permit(ip)).cover(held)
    }

    /// Empties the buffer, and frees its memory and its permit. An idle connection has neither.
    pub(super) fn free_buffer(&mut self) {
        (self.buffer, self.permit) = (Vec::new(), None);
    }
}
