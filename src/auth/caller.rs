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
    /// A caller without a credential, and what all such callers may do.
    Anonymous { may_publish: bool, may_subscribe: bool, may_manage: bool },
    /// A caller whose credential was verified, and until when it counts; `None` for no limit.
    Verified(Arc<Verified>, Option<SystemTime>),
}

/// What a verified credential says.
#[derive(Debug)]
pub(super) struct Verified {
    pub(super) identity: Arc<Identity>,
    pub(super) rights: Rights,
    pub(super) limits: OwnLimits,
    /// Not before this time, with the leeway.
    pub(super) starts_at: Option<SystemTime>,
    /// Until this time, with the leeway. `None` for an API key, and for certificates, each of which has an end of its own.
    pub(super) expires_at: Option<SystemTime>,
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
    /// The caller has no credential. With one, it might have the right.
    pub is_anonymous: bool,
}

impl Caller {
    const fn anonymous(may_publish: bool, may_subscribe: bool, may_manage: bool) -> Self {
        Self(Kind::Anonymous { may_publish, may_subscribe, may_manage })
    }

    /// A caller on this machine, who may do everything.
    pub(super) const fn local() -> Self {
        Self::anonymous(true, true, true)
    }

    /// A caller who may publish and subscribe.
    pub(super) const fn publisher() -> Self {
        Self::anonymous(true, true, false)
    }

    /// A caller who may subscribe.
    pub(super) const fn subscriber() -> Self {
        Self::anonymous(false, true, false)
    }

    /// A caller who may do nothing.
    pub(super) const fn nobody() -> Self {
        Self::anonymous(false, false, false)
    }

    pub(super) fn verified(verified: Arc<Verified>) -> Self {
        let expires_at = verified.expires_at;
        Self(Kind::Verified(verified, expires_at))
    }

    /// A caller with a certificate that is valid until `expires_at`.
    pub(super) fn certified(verified: Arc<Verified>, expires_at: SystemTime) -> Self {
        Self(Kind::Verified(verified, Some(expires_at)))
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
            Kind::Anonymous { .. } => self.has_for_all(R::RIGHT),
            Kind::Verified(verified, _) => verified.rights.allows(R::RIGHT, topic),
        }
    }

    /// Checks that the caller has a right to any topic at all.
    ///
    /// # Errors
    /// When the caller has it for no topic.
    pub fn check_any<R: RightKind>(&self) -> Result<(), Forbidden> {
        let has_any = match &self.0 {
            Kind::Anonymous { .. } => self.has_for_all(R::RIGHT),
            Kind::Verified(verified, _) => verified.rights.allows_any(R::RIGHT),
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
        match (&self.0, right) {
            (Kind::Anonymous { may_publish, .. }, Right::Publish) => *may_publish,
            (Kind::Anonymous { may_subscribe, .. }, Right::Subscribe) => *may_subscribe,
            (Kind::Anonymous { may_manage, .. }, Right::Manage) => *may_manage,
            (Kind::Verified(verified, _), _) => verified.rights.allows_all(right),
        }
    }

    fn forbidden(&self, right: Right, topic: Option<TopicName>) -> Forbidden {
        Forbidden { right, topic, is_anonymous: self.identity().is_none() }
    }

    /// The identity of a verified credential.
    #[must_use]
    pub fn identity(&self) -> Option<&Identity> {
        match &self.0 {
            Kind::Anonymous { .. } => None,
            Kind::Verified(verified, _) => Some(&verified.identity),
        }
    }

    /// The identity, for something that outlives the request.
    #[must_use]
    pub fn shared_identity(&self) -> Option<Arc<Identity>> {
        match &self.0 {
            Kind::Anonymous { .. } => None,
            Kind::Verified(verified, _) => Some(Arc::clone(&verified.identity)),
        }
    }

    /// The limits that the credential brings with it.
    #[must_use]
    pub fn limits(&self) -> OwnLimits {
        match &self.0 {
            Kind::Anonymous { .. } => OwnLimits::default(),
            Kind::Verified(verified, _) => verified.limits,
        }
    }

    /// How long the credential is still valid; `None` for no limit.
    #[must_use]
    pub fn valid_for(&self, now: SystemTime) -> Option<Duration> {
        match &self.0 {
            Kind::Anonymous { .. } => None,
            Kind::Verified(_, expires_at) => {
                expires_at.map(|expires_at| expires_at.duration_since(now).unwrap_or_default())
            }
        }
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
