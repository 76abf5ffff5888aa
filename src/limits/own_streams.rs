//! Permits for the streams of a credential that has a limit of its own.

use std::{num::NonZeroU32, sync::Arc};

use dashmap::{DashMap, Entry};

use super::permits::LimitReached;
use crate::identity::Identity;

/// Counts the open streams of each identity whose credential has a limit. Streams of other credentials are not counted.
///
/// An identity is remembered only as long as it has such a stream, so there are no more identities than subscribers.
#[derive(Debug, Default)]
pub struct OwnStreams(DashMap<Arc<Identity>, u32>);

/// The permit of one stream. It frees its place when it is dropped.
#[derive(Debug)]
pub struct OwnStreamPermit {
    streams: Arc<OwnStreams>,
    identity: Arc<Identity>,
}

impl OwnStreams {
    /// Returns a permit for one more stream of `identity`, whose credential allows `max` streams.
    ///
    /// # Errors
    /// When the identity has `max` counted streams or more, by all its credentials together.
    pub fn permit(
        self: &Arc<Self>,
        identity: &Arc<Identity>,
        max: NonZeroU32,
    ) -> Result<OwnStreamPermit, LimitReached> {
        let entry = self.0.entry(Arc::clone(identity));
        let open = match &entry {
            Entry::Occupied(entry) => *entry.get(),
            Entry::Vacant(_) => 0,
        };
        if open >= max.get() {
            return Err(LimitReached::SubscribersOfCredential(max.get()));
        }
        entry.insert(open + 1);
        Ok(OwnStreamPermit { streams: Arc::clone(self), identity: Arc::clone(identity) })
    }
}

impl Drop for OwnStreamPermit {
    fn drop(&mut self) {
        if let Entry::Occupied(mut entry) = self.streams.0.entry(Arc::clone(&self.identity)) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_streams_of_an_identity_are_counted_and_forgotten() {
        // Goal: at the limit a stream has a place, one past it has none; another identity has places of its own;
        // nothing is remembered when all streams have ended.
        let streams = Arc::new(OwnStreams::default());
        let identity = |subject: &str| Arc::new(Identity { key: "k".into(), subject: Some(subject.into()) });
        let permit = |subject, max| streams.permit(&identity(subject), NonZeroU32::new(max).expect("a limit"));
        let first = permit("ann", 2).expect("a place");
        let second = permit("ann", 2).expect("a place");
        assert_eq!(permit("ann", 2).err(), Some(LimitReached::SubscribersOfCredential(2)));
        assert_eq!(permit("ann", 1).err(), Some(LimitReached::SubscribersOfCredential(1)), "by another token");
        let third = permit("ann", 3).expect("another token allows more");
        let other = permit("bob", 1).expect("another subject");
        drop((first, third));
        assert!(permit("ann", 2).is_ok());
        drop((second, other));
        assert!(streams.0.is_empty());
    }
}
