//! Opening: from the file to the index in memory.

use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Mutex, atomic::AtomicBool, atomic::AtomicU64},
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::{
    Clock, READERS, Shared, State, StoreError,
    reader::Reader,
    store::{Meta, Store},
    writer::{Garbage, Writer},
};
use crate::{
    config::{Durability, LogConfig},
    event::TopicName,
    log::{
        Feeds,
        index::{Entry, Index, Marks, Removed},
        now_ms,
    },
};

/// When a long start says for the first time how far it is, and how often from then on.
const FIRST_PROGRESS: Duration = Duration::from_millis(250);
const PROGRESS: Duration = Duration::from_secs(1);

/// Opens the file and reads what it holds.
pub(super) fn load(
    file: &Path,
    config: &LogConfig,
    receipts_for: Duration,
) -> Result<(Arc<Shared>, Writer), StoreError> {
    let begun = Instant::now();
    let mut store = Store::open(file, config.durability == Durability::Disk)?;
    let meta = store.begin(&boot_id(), config.durability == Durability::Disk)?;
    // What a killed process has left there: many of them, one after the other, would let it grow without end.
    store.make_room()?;
    let mut index = Index::new(meta.epoch, config.clone(), config.hot_bytes_max.get());
    let mut topics = HashMap::new();
    let mut ids = HashMap::new();
    store.topics(|row| {
        index.restore_topic(&row.name, row.evicted_to);
        topics.insert(row.id, (row.name.clone(), row.deleted_to));
        ids.insert(row.name, row.id);
    })?;
    let (clock, time_ms, mut garbage) = load_events(&store, &mut index, &topics)?;
    let now = clock.now();
    let marks = Marks { last: meta.reserved, forgotten_to: meta.forgotten_to, hole_to: meta.hole_to };
    index.restore_marks(marks, now, &mut |removed| garbage.note(removed));
    let mut receipts: HashMap<_, Vec<_>> = HashMap::new();
    let since_ms = now_ms().saturating_sub(u64::try_from(receipts_for.as_millis()).unwrap_or(u64::MAX));
    store.receipts(meta.epoch, since_ms, |topic, kept| {
        if let Some((topic, _)) = topics.get(&topic) {
            receipts.entry(topic.clone()).or_default().push(kept);
        }
    })?;
    // All of them now: later the process may have no descriptor left, and a log that cannot be read has failed.
    let readers: Result<Vec<Reader>, StoreError> = (0..READERS).map(|_| Reader::open(file)).collect();
    report(&meta, &index, begun.elapsed());
    let shared = Arc::new(Shared {
        epoch: meta.epoch,
        durability: config.durability,
        file: file.to_owned(),
        clock,
        watermark: AtomicU64::new(index.watermark()),
        state: Mutex::new(State { index, time_ms, feeds: Feeds::default(), receipts }),
        failed: watch::Sender::new(None),
        full: AtomicBool::new(false),
        idle_readers: Mutex::new(readers?),
    });
    let writer = Writer::new(store, Arc::clone(&shared), meta.reserved, receipts_for).with(ids, garbage);
    Ok((shared, writer))
}

/// Puts every event into the index, none of them hot; gives the log's clock, the newest time, and what is in the file
/// but no longer held.
fn load_events(
    store: &Store,
    index: &mut Index,
    topics: &HashMap<i64, (TopicName, u64)>,
) -> Result<(Clock, u64, Garbage), StoreError> {
    let span = store.span()?;
    let (mut first, mut count, mut garbage) = (None, 0_u64, Garbage::default());
    let (mut zero_ms, mut newest_ms, mut say_at) = (None, 0, Instant::now() + FIRST_PROGRESS);
    store.events(|row| {
        let first = *first.get_or_insert(row.seq);
        let zero_ms = *zero_ms.get_or_insert(row.time_ms);
        newest_ms = newest_ms.max(row.time_ms);
        count += 1;
        if count.is_multiple_of(4096) && Instant::now() >= say_at {
            say_at = Instant::now() + PROGRESS;
            tracing::info!(events = count, percent = (row.seq - first) * 100 / span.max(1), "reading the log");
        }
        let at = Duration::from_millis(row.time_ms.saturating_sub(zero_ms));
        let entry = Entry { seq: row.seq, at, time_ms: row.time_ms, bytes: row.cost, event: None };
        match topics.get(&row.topic) {
            Some((topic, deleted_to)) => {
                if !index.restore(topic, *deleted_to, entry) {
                    garbage.note(Removed::Event(topic, row.seq));
                }
            }
            None => garbage.seqs.push(row.seq),
        }
    })?;
    let zero_ms = zero_ms.unwrap_or_else(now_ms);
    let opened_at = Duration::from_millis(now_ms().max(newest_ms).saturating_sub(zero_ms));
    Ok((Clock { opened_at, opened: Instant::now() }, newest_ms, garbage))
}

fn report(meta: &Meta, index: &Index, took: Duration) {
    if meta.lost_power {
        tracing::warn!(
            "the machine stopped under log.durability = \"os\": subscribers are told that events may be missing"
        );
    }
    let (events, topics) = index.size();
    tracing::info!(events, topics, ?took, "the log is open");
}

/// Names this run of the machine: with another one, what the system had not written to disk is lost.
fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map_or_else(|_| String::new(), |id| id.trim().to_owned())
}
