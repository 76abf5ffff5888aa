//! Who makes a request, and the grants that the request gets.

use std::{
    marker::PhantomData,
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::rights::{Right, Rights};
use crate::{config::OwnLimits, event::TopicName, identity::Identity};

/// Who makes a request.
#[derive(Clone, Debug)]
pub struct Caller(Kind);

#[derive(Clone, Debug)]
enum Kind {
    /// A caller without a credential, who has these rights to all topics.
    Anonymous(&'static [Right]),
    /// A caller whose credential was verified, and until when the credential counts; `None` for no limit.
    Verified(Arc<Verified>, Option<SystemTime>),
    /// A caller with a ticket, who may only subscribe to the topics of the ticket.
    Ticket(Arc<Ticket>),
}

/// What a verified credential says.
#[derive(Debug)]
pub(super) struct Verified {
    pub(super) identity: Arc<Identity>,
    pub(super) rights: Rights,
    pub(super) limits: OwnLimits,
    /// Not before this time, with the leeway.
    pub(super) starts_at: Option<SystemTime>,
    /// Until this time, with the leeway. `None` for an API key, and for a row of certificates: each certificate has an
    /// end of its own.
    pub(super) expires_at: Option<SystemTime>,
}

/// What a ticket stands for.
#[derive(Debug)]
pub(super) struct Ticket {
    /// The credential with which the ticket was taken.
    pub(super) verified: Arc<Verified>,
    /// Until when this credential counts.
    pub(super) expires_at: Option<SystemTime>,
    /// The topics of the ticket, sorted.
    pub(super) topics: Box<[TopicName]>,
}

/// The permission to use a right on a topic. Only [`Caller::grant`] makes one.
#[derive(Clone, Debug)]
pub struct Grant<R> {
    topic: TopicName,
    right: PhantomData<R>,
}

/// The permission to use a right on all topics. Only [`Caller::grant_all`] makes one.
#[derive(Clone, Copy, Debug)]
pub struct GrantAll<R>(PhantomData<R>);

/// A right as a type, for [`Grant`].
pub trait RightKind {
    /// The right.
    const RIGHT: Right;
}

/// [`Right::Publish`].
#[derive(Clone, Copy, Debug)]
pub struct Publish;

/// [`Right::Subscribe`].
#[derive(Clone, Copy, Debug)]
pub struct Subscribe;

/// [`Right::Manage`].
#[derive(Clone, Copy, Debug)]
pub struct Manage;

impl RightKind for Publish {
    const RIGHT: Right = Right::Publish;
}

impl RightKind for Subscribe {
    const RIGHT: Right = Right::Subscribe;
}

impl RightKind for Manage {
    const RIGHT: Right = Right::Manage;
}

/// The caller does not have a right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forbidden {
    /// The missing right.
    pub right: Right,
    /// The topic; `None` if the right is needed without a certain topic.
    pub topic: Option<TopicName>,
    /// What the caller has shown.
    pub credential: Credential,
}

/// What a caller has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Credential {
    /// Nothing. With a token, it might have the right.
    None,
    /// A token, an API key or a certificate.
    Token,
    /// A ticket.
    Ticket,
}

impl Caller {
    /// A caller on this machine, who may do everything.
    pub(super) const fn local() -> Self {
        Self(Kind::Anonymous(&[Right::Publish, Right::Subscribe, Right::Manage]))
    }

    /// A caller who may publish and subscribe.
    pub(super) const fn publisher() -> Self {
        Self(Kind::Anonymous(&[Right::Publish, Right::Subscribe]))
    }

    /// A caller who may subscribe.
    pub(super) const fn subscriber() -> Self {
        Self(Kind::Anonymous(&[Right::Subscribe]))
    }

    /// A caller who may do nothing.
    pub(super) const fn nobody() -> Self {
        Self(Kind::Anonymous(&[]))
    }

    pub(super) fn verified(verified: Arc<Verified>) -> Self {
        let expires_at = verified.expires_at;
        Self(Kind::Verified(verified, expires_at))
    }

    /// A caller with a certificate that is valid until `expires_at`.
    pub(super) fn certified(verified: Arc<Verified>, expires_at: SystemTime) -> Self {
        Self(Kind::Verified(verified, Some(expires_at)))
    }

    pub(super) const fn by_ticket(ticket: Arc<Ticket>) -> Self {
        Self(Kind::Ticket(ticket))
    }

    /// The credential of the caller, or that with which the caller's ticket was taken.
    pub(super) fn verified_credential(&self) -> Option<&Arc<Verified>> {
        match &self.0 {
            Kind::Anonymous(_) => None,
            Kind::Verified(verified, _) => Some(verified),
            Kind::Ticket(ticket) => Some(&ticket.verified),
        }
    }

    /// Gives the grant for `topic`.
    ///
    /// # Errors
    /// When the caller does not have the right.
    pub fn grant<R: RightKind>(&self, topic: TopicName) -> Result<Grant<R>, Forbidden> {
        if self.may::<R>(topic.as_str()) {
            Ok(Grant { topic, right: PhantomData })
        } else {
            Err(self.forbidden(R::RIGHT, Some(topic)))
        }
    }

    /// Whether the caller would get the grant for the topic of this name.
    #[must_use]
    pub fn may<R: RightKind>(&self, topic: &str) -> bool {
        match &self.0 {
            Kind::Anonymous(_) => self.has_for_all(R::RIGHT),
            Kind::Verified(verified, _) => verified.rights.allows(R::RIGHT, topic),
            Kind::Ticket(ticket) => R::RIGHT == Right::Subscribe && ticket.is_for(topic),
        }
    }

    /// Checks that the caller has a right to at least one topic.
    ///
    /// # Errors
    /// When the caller has the right to no topic.
    pub fn check_any<R: RightKind>(&self) -> Result<(), Forbidden> {
        let has_any = match &self.0 {
            Kind::Anonymous(_) => self.has_for_all(R::RIGHT),
            Kind::Verified(verified, _) => verified.rights.allows_any(R::RIGHT),
            Kind::Ticket(_) => R::RIGHT == Right::Subscribe,
        };
        if has_any { Ok(()) } else { Err(self.forbidden(R::RIGHT, None)) }
    }

    /// Gives the grant for all topics, which the operator's routes need.
    ///
    /// # Errors
    /// When the caller does not have the right to all topics.
    pub fn grant_all<R: RightKind>(&self) -> Result<GrantAll<R>, Forbidden> {
        if self.has_for_all(R::RIGHT) { Ok(GrantAll(PhantomData)) } else { Err(self.forbidden(R::RIGHT, None)) }
    }

    fn has_for_all(&self, right: Right) -> bool {
        match &self.0 {
            Kind::Anonymous(rights) => rights.contains(&right),
            Kind::Verified(verified, _) => verified.rights.allows_all(right),
            Kind::Ticket(_) => false,
        }
    }

    fn forbidden(&self, right: Right, topic: Option<TopicName>) -> Forbidden {
        let credential = match &self.0 {
            Kind::Anonymous(_) => Credential::None,
            Kind::Verified(..) => Credential::Token,
            Kind::Ticket(_) => Credential::Ticket,
        };
        Forbidden { right, topic, credential }
    }

    /// Whether the caller has shown a ticket.
    #[must_use]
    pub fn has_ticket(&self) -> bool {
        matches!(self.0, Kind::Ticket(_))
    }

    /// The identity of a verified credential.
    #[must_use]
    pub fn identity(&self) -> Option<&Identity> {
        self.verified_credential().map(|verified| &*verified.identity)
    }

    /// The identity, for something that outlives the request.
    #[must_use]
    pub fn shared_identity(&self) -> Option<Arc<Identity>> {
        self.verified_credential().map(|verified| Arc::clone(&verified.identity))
    }

    /// The limits of the credential itself.
    #[must_use]
    pub fn limits(&self) -> OwnLimits {
        self.verified_credential().map_or_else(OwnLimits::default, |verified| verified.limits)
    }

    /// How long the credential is still valid; `None` for no limit.
    #[must_use]
    pub fn valid_for(&self, now: SystemTime) -> Option<Duration> {
        let expires_at = self.expires_at()?;
        Some(expires_at.duration_since(now).unwrap_or_default())
    }

    /// When the credential ends.
    pub(super) fn expires_at(&self) -> Option<SystemTime> {
        match &self.0 {
            Kind::Anonymous(_) => None,
            Kind::Verified(_, expires_at) => *expires_at,
            Kind::Ticket(ticket) => ticket.expires_at,
        }
    }
}

impl Ticket {
    /// A ticket of a caller with this credential, which counts until `expires_at`.
    pub(super) fn new(
        verified: Arc<Verified>,
        expires_at: Option<SystemTime>,
        grants: impl Iterator<Item = Grant<Subscribe>>,
    ) -> Self {
        Self::for_topics(verified, expires_at, grants.map(Grant::into_topic).collect())
    }

    /// A ticket that this or another server has given for these topics.
    pub(super) fn for_topics(
        verified: Arc<Verified>,
        expires_at: Option<SystemTime>,
        mut topics: Vec<TopicName>,
    ) -> Self {
        topics.sort();
        Self { verified, expires_at, topics: topics.into() }
    }

    /// How many topics the ticket is for.
    pub(super) fn topics(&self) -> usize {
        self.topics.len()
    }

    /// Whether the credential with which the ticket was taken has expired.
    pub(super) fn has_ended(&self, now: SystemTime) -> bool {
        self.expires_at.is_some_and(|expires_at| now >= expires_at)
    }

    fn is_for(&self, topic: &str) -> bool {
        self.topics.binary_search_by(|other| other.as_str().cmp(topic)).is_ok()
    }
}

impl<R> Grant<R> {
    /// The topic.
    #[must_use]
    pub fn topic(&self) -> &TopicName {
        &self.topic
    }

    /// The topic, for the log and the registry.
    #[must_use]
    pub fn into_topic(self) -> TopicName {
        self.topic
    }
}
