//! Reads the log of a server that has stopped, to import it elsewhere. Nothing in the files changes, so a server can go
//! on with them.
//!
//! What is held is what a server would hold that started now with the same limits.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    directory::DirectoryLock,
    error::{OpenError, StoreError},
    load::{boot_id, load_events},
    reader::Reader,
    store::Store,
};
use crate::{
    config::LogConfig,
    event::{Epoch, Event, TopicName},
    log::{
        KeyLimits, Receipt,
        clock::{self, Clock, Moment, millis},
        index::{Index, Missing},
        keys::{KeyEntry, Outcome, fingerprint},
    },
};

/// The log, open to be read.
pub(in crate::log) struct StoppedLog {
    pub(in crate::log) epoch: Epoch,
    index: Index,
    reader: Reader,
    /// The idempotency keys that are still in their window, by the position of their event.
    keys: HashMap<u64, KeyEntry>,
    window_ms: u64,
    /// When the log was opened.
    now: Moment,
    /// While this lasts, no server can use the log.
    _lock: DirectoryLock,
}

/// An idempotency key, and the publish that has used it.
pub(in crate::log) struct UsedKey {
    pub(in crate::log) topic: TopicName,
    pub(in crate::log) key: Arc<str>,
    pub(in crate::log) fingerprint: u128,
    pub(in crate::log) subscribers: usize,
    pub(in crate::log) seq: u64,
    /// When it was used, in milliseconds since the Unix epoch.
    pub(in crate::log) time_ms: u64,
}

impl StoppedLog {
    /// Opens the log in the directory `path`.
    pub(in crate::log) fn open(path: &Path, config: &LogConfig, keys: KeyLimits) -> Result<Self, OpenError> {
        let file = path.join("tidings.db");
        if !file.is_file() {
            return Err(OpenError::Absent(path.to_owned()));
        }
        let lock = DirectoryLock::acquire(path)?;
        Self::read(&file, config, keys, lock).map_err(|source| OpenError::Store { path: file, source })
    }

    fn read(file: &Path, config: &LogConfig, limits: KeyLimits, lock: DirectoryLock) -> Result<Self, StoreError> {
        let store = Store::open_read_only(file)?;
        let mut meta = store.read_meta(&boot_id())?;
        let (mut index, mut topics) = (Index::new(meta.epoch, config.clone(), 0), HashMap::new());
        let clock = Clock::new(clock::system());
        let opened_at = clock.read();
        store.topics(meta.stored.reserved, |row| {
            index.restore_topic(&row.name, row.removed, row.deleted_to, opened_at.mono_ms_of(row.deleted_ms));
            topics.insert(row.id, row.name);
        })?;
        let loaded = load_events(&store, &mut index, &topics, meta.stored.forgotten_to)?;
        meta.stored.unreadable_to = meta.stored.unreadable_to.max(loaded.unreadable_to);
        let now = clock.read();
        index.restore_log(meta.stored, now, &mut |_| ());
        let keys = match store.load_keys(limits, meta.epoch, now, &topics) {
            Ok(keys) => keys.into_entries().filter_map(|entry| Some((receipt(&entry)?.id.seq, entry))).collect(),
            Err(error) if error.is_damage() => {
                tracing::error!(%error, "the idempotency keys in the log are damaged: all of them are lost");
                HashMap::new()
            }
            Err(error) => return Err(error),
        };
        let (epoch, reader, window_ms) = (meta.epoch, Reader::open(file)?, millis(limits.window));
        Ok(Self { epoch, index, reader, keys, window_ms, now, _lock: lock })
    }

    /// The held events after `seq`, each with its topic, in order of position.
    pub(in crate::log) fn held_after(&self, seq: u64) -> impl Iterator<Item = (u64, &TopicName)> {
        self.index.held_after(seq)
    }

    /// Each topic with its removed events and the position of its last deletion, 0 when there was none.
    pub(in crate::log) fn removed(&self) -> impl Iterator<Item = (&TopicName, Missing, u64)> {
        self.index.removed()
    }

    /// The events that are missing and may be of any topic.
    pub(in crate::log) fn removed_of_any(&self) -> Missing {
        self.index.removed_of_any()
    }

    /// Reads a held event; `None` when it is damaged.
    pub(in crate::log) fn event(&self, seq: u64, topic: &TopicName) -> Result<Option<Arc<Event>>, StoreError> {
        match self.reader.event(self.epoch, seq, topic) {
            Err(error) if error.is_damage() => {
                tracing::error!(position = seq, %topic, %error, "an event cannot be read");
                Ok(None)
            }
            read => read.map(Some),
        }
    }

    /// The key with which `event` was published, if it is in its window.
    pub(in crate::log) fn key_of(&self, event: &Event) -> Option<UsedKey> {
        self.used(self.keys.get(&event.seq)?, || Some(fingerprint(event.name.as_ref(), event.content())))
    }

    /// The keys in their window whose events are not held any more, the oldest first.
    pub(in crate::log) fn keys_without_event(&self) -> Vec<UsedKey> {
        let is_held = |key: &UsedKey| self.held_after(key.seq - 1).next().is_some_and(|(seq, _)| seq == key.seq);
        // Without the event, nothing tells what a fingerprint would be that an old release did not store.
        let keys = self.keys.values().filter_map(|entry| self.used(entry, || None));
        let mut keys: Vec<UsedKey> = keys.filter(|key| !is_held(key)).collect();
        keys.sort_unstable_by_key(|key| key.seq);
        keys
    }

    fn used(&self, entry: &KeyEntry, otherwise: impl FnOnce() -> Option<u128>) -> Option<UsedKey> {
        let Receipt { id, subscribers, .. } = receipt(entry)?;
        let fingerprint = entry.fingerprint.or_else(otherwise)?;
        let used_mono_ms = entry.expires_mono_ms.saturating_sub(self.window_ms);
        let time_ms = self.now.wall_ms.saturating_sub(self.now.mono_ms.saturating_sub(used_mono_ms));
        let (topic, key) = (entry.topic.clone(), Arc::clone(&entry.key));
        Some(UsedKey { topic, key, fingerprint, subscribers, seq: id.seq, time_ms })
    }
}

/// The receipt of a key that was read from the file.
fn receipt(entry: &KeyEntry) -> Option<Receipt> {
    if let Outcome::Committed(receipt) = entry.outcome { Some(receipt) } else { None }
}

/// The directory of the log that `path` names: it may also name the file of the log in it.
pub(in crate::log) fn directory_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if path.ends_with("tidings.db") => parent.to_owned(),
        _ => path.to_owned(),
    }
}
