//! Reads pages of the log for connections, at once or by a request. These are methods of [`Streams`], whose struct is
//! in `streams`.

use std::{io, num::NonZeroU32};

use super::{
    connection::Peer,
    streams::{PageRequest, Streams},
};
use crate::{
    event::TopicName,
    later::{Known, NotYet},
    log::{Page, ReadError, ReadFrom},
};

impl<S: Peer> Streams<S> {
    /// Reads a page of a connection's topics. If the page is not in memory, this requests it and returns `None`, and
    /// the connection waits for it.
    pub(super) fn read(&mut self, key: usize, from: ReadFrom, bytes_max: usize) -> io::Result<Option<Page>> {
        let Some(connection) = self.connections.get(key) else { return Ok(None) };
        let topics: Vec<TopicName> = self.channels_of(connection).map(|channel| channel.topic.clone()).collect();
        let page = match self.log.read(&topics, from, bytes_max) {
            Known(page) => return self.check_epoch(page.into_inner()).map(Some),
            NotYet(page) => page,
        };
        let id = self.last_request_id.checked_add(1).unwrap_or(NonZeroU32::MIN);
        self.last_request_id = id;
        self.page_requests.push_back(PageRequest { key, id, page });
        if let Some(connection) = self.connections.get_mut(key) {
            connection.page_request = Some(id);
        }
        Ok(None)
    }

    /// Rejects a page of another epoch: the epoch of these streams has ended, and the feed will report that soon.
    pub(super) fn check_epoch(&self, page: Result<Page, ReadError>) -> io::Result<Page> {
        let page = page.map_err(io::Error::other)?;
        if page.epoch == self.epoch { Ok(page) } else { Err(io::Error::other("the history has ended")) }
    }

    /// The next page to fetch. Requests whose connections no longer wait are skipped.
    pub fn next_page_request(&mut self) -> Option<PageRequest> {
        while let Some(request) = self.page_requests.pop_front() {
            let connection = self.connections.get(request.key);
            if connection.is_some_and(|connection| connection.page_request == Some(request.id)) {
                return Some(request);
            }
        }
        None
    }
}
