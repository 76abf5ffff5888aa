//! The head of a request, with what trusted proxies say of it: [`Head`], made of a [`SentHead`].

use std::net::IpAddr;

use super::{
    authority::{Authority, Scheme},
    forwarded::Forwarded,
    head::{Head, SentHead},
    hosts,
    problem::Problem,
};
use crate::{config::ServerConfig, transport::ClientCertificate};

/// The head that this server has got, together with what trusted proxies say of the client's own request.
pub(super) struct Received<'h, H> {
    head: &'h H,
    remote: Option<IpAddr>,
    host: Option<Authority<'h>>,
    scheme: Option<Scheme>,
}

impl<'h, H: SentHead> Received<'h, H> {
    /// Reads the headers of proxies, if a trusted proxy has sent the request.
    ///
    /// # Errors
    /// When the request must be refused, because it does not say clearly to which host it was sent.
    pub(super) fn read(server: &ServerConfig, head: &'h H) -> Result<Self, Problem> {
        let (peer, host) = (head.peer(), hosts::named_by(head)?);
        if !peer.is_some_and(|peer| server.trusts(peer)) {
            return Ok(Self { head, remote: peer, host, scheme: None });
        }
        let forwarded = Forwarded::read(head, server)?;
        // If the proxy does not say who the client is, the request counts as its own.
        let remote = forwarded.client.or(peer);
        Ok(Self { head, remote, host: forwarded.host()?.or(host), scheme: forwarded.scheme()? })
    }
}

impl<H: SentHead> SentHead for Received<'_, H> {
    fn method(&self) -> &str {
        self.head.method()
    }

    fn path(&self) -> &str {
        self.head.path()
    }

    fn query(&self) -> &str {
        self.head.query()
    }

    fn target_authority(&self) -> Option<&str> {
        self.head.target_authority()
    }

    fn is_http_1_1(&self) -> bool {
        self.head.is_http_1_1()
    }

    fn peer(&self) -> Option<IpAddr> {
        self.head.peer()
    }

    fn certificate(&self) -> Option<&ClientCertificate> {
        self.head.certificate()
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        self.head.names()
    }

    fn values<'a>(&'a self, name: &'static str) -> impl Iterator<Item = &'a [u8]> {
        self.head.values(name)
    }
}

impl<H: SentHead> Head for Received<'_, H> {
    fn remote(&self) -> Option<IpAddr> {
        self.remote
    }

    fn host(&self) -> Option<Authority<'_>> {
        self.host
    }

    fn scheme(&self) -> Option<Scheme> {
        self.scheme
    }
}
