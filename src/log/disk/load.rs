//! Opening: from the file to the index in memory.

use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Mutex, atomic::AtomicBool, atomic::AtomicU64},
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::{
    error::StoreError,
    garbage::Garbage,
    high_water::{Found, HighWater},
    presence::Presence,
    reader::Reader,
    shared::{READERS, Shared, State},
    store::{Meta, Store},
    writer::{Files, Writer},
};
use crate::{
    config::{DiskDurability, LogConfig},
    event::TopicName,
    log::{
        KeyLimits,
        clock::{self, Clock},
        feed::Feeds,
        index::{Entry, Index, Marks, Removed},
    },
};

/// When a long start says for the first time how far it is, and how often from then on.
const FIRST_PROGRESS: Duration = Duration::from_millis(250);
const PROGRESS: Duration = Duration::from_secs(1);

/// Opens the file and reads what it holds.
pub(super) fn load(
    file: &Path,
    config: &LogConfig,
    key_limits: KeyLimits,
    clock: Clock,
) -> Result<(Arc<Shared>, Writer), StoreError> {
    let begun = Instant::now();
    let mut store = Store::open(file, config.durability == DiskDurability::Disk)?;
    let mut meta = store.begin(&boot_id(), config.durability == DiskDurability::Disk)?;
    let high_water = check_high_water(&mut store, &mut meta, config)?;
    // What a killed process has left there: many of them, one after the other, would let it grow without end.
    store.truncate_wal()?;
    let mut index = Index::new(meta.epoch, config.clone(), config.hot_bytes_max.get());
    let mut topics = HashMap::new();
    let opened = clock.now();
    let lost = store.topics(meta.reserved, |row| {
        let (evicted, deleted_at_ms) = ((row.evicted_to, row.evicted_ms), opened.at_ms_of(row.deleted_ms));
        index.restore_topic(&row.name, evicted, (row.deleted_to, deleted_at_ms));
        topics.insert(row.id, (row.name, row.deleted_to));
    })?;
    store.repair(!lost.is_empty(), topics.keys().copied())?;
    let ids = topics.iter().map(|(id, (name, _))| (name.clone(), *id)).collect();
    let (newest_ms, mut garbage, damage) = load_events(&store, &mut index, &topics, meta.forgotten_to)?;
    store.note_damage(damage.to, damage.topics_to)?;
    let now = clock.now();
    if clock::has_gone_back(newest_ms, now.wall_ms) {
        let by = Duration::from_millis(newest_ms - now.wall_ms);
        tracing::warn!(?by, "the newest event is of a time to come: the wall clock was, or is, wrong, and is followed");
    }
    let Meta { forgotten_to, forgotten_ms, hole_to, .. } = meta;
    let unreadable_to = meta.unreadable_to.max(damage.to);
    let marks = Marks { last: meta.reserved, forgotten_to, forgotten_ms, hole_to, unreadable_to };
    index.restore_marks(marks, now, &mut |removed| garbage.note(removed));
    let keys = store.keys(key_limits, meta.epoch, now, &topics)?;
    // All of them now: later the process may have no descriptor left, and a log that cannot be read has failed.
    let readers: Result<Vec<Reader>, StoreError> = (0..READERS).map(|_| Reader::open(file)).collect();
    let readers = readers?;
    let presence = Presence::note(&config.path)?;
    report(&meta, &index, begun.elapsed());
    let shared = Arc::new(Shared {
        epoch: meta.epoch,
        durability: config.durability,
        file: file.to_owned(),
        clock,
        watermark: AtomicU64::new(index.watermark()),
        state: Mutex::new(State { index, time_ms: now.stamp(newest_ms), feeds: Feeds::default() }),
        keys,
        failed: watch::Sender::new(None),
        full: AtomicBool::new(false),
        idle_readers: Mutex::new(readers),
        unreadable: AtomicU64::new(damage.events),
    });
    let files = Files { store, high_water, presence };
    let writer = Writer::new(files, Arc::clone(&shared), meta.reserved, key_limits.window).with(ids, garbage);
    Ok((shared, writer))
}

/// Whether this database is the history that the directory has had. If not, or if that cannot be known, or when it is
/// asked for, the history goes on under a new epoch: no id is given twice, and every cursor from before is told.
fn check_high_water(store: &mut Store, meta: &mut Meta, config: &LogConfig) -> Result<HighWater, StoreError> {
    let found = Found::read(&config.path)?;
    let why = match found {
        _ if config.new_epoch => Some("--new-epoch was given"),
        Found::Nothing => None,
        Found::Damaged => Some("the file high-water is damaged: whether the database is the latest cannot be known"),
        Found::Mark(mark) => {
            // What a power cut may have taken without `durability = "disk"` is told as a hole.
            let whole = !meta.clean && !meta.lost_power;
            mark.contradicts(meta.epoch, meta.reserved, whole.then_some(meta.last_found))
        }
    };
    if let Some(why) = why {
        let mark = if let Found::Mark(mark) = found { mark.reserved.max(mark.committed) } else { 0 };
        store.begin_epoch(meta, meta.reserved.max(mark))?;
        tracing::warn!(
            why,
            epoch = meta.epoch.as_str(),
            "a new epoch begins: subscribers from before are told (reset)"
        );
    }
    match found {
        Found::Mark(mark) if why.is_none() => HighWater::open(&config.path, mark, meta.last_found),
        _ => HighWater::create(&config.path, meta.epoch, meta.reserved, meta.last_found),
    }
}

/// What a start could not read.
#[derive(Default)]
struct Damage {
    /// The last position of an event that is lost: it cannot be read, or the row of its topic cannot.
    to: u64,
    /// How many events, as far as is known: what cannot be read may have been several.
    events: u64,
    /// The largest number of a topic's row in the events.
    topics_to: i64,
}

/// Puts every event into the index, none of them hot; gives the time of the last, what is in the file but no longer
/// held, and what cannot be read.
fn load_events(
    store: &Store,
    index: &mut Index,
    topics: &HashMap<i64, (TopicName, u64)>,
    forgotten_to: u64,
) -> Result<(u64, Garbage, Damage), StoreError> {
    let last = store.last()?;
    let (mut first, mut count, mut garbage, mut damage) = (None, 0_u64, Garbage::default(), Damage::default());
    let (mut newest_ms, mut say_at) = (0, Instant::now() + FIRST_PROGRESS);
    let ranges = store.events(last, |row| {
        let first = *first.get_or_insert(row.seq);
        newest_ms = row.time_ms;
        count += 1;
        if count.is_multiple_of(4096) && Instant::now() >= say_at {
            say_at = Instant::now() + PROGRESS;
            tracing::info!(events = count, percent = (row.seq - first) * 100 / (last - first + 1), "reading the log");
        }
        let entry = Entry { seq: row.seq, at_ms: 0, time_ms: row.time_ms, bytes: row.cost, event: None };
        damage.topics_to = damage.topics_to.max(row.topic);
        if let Some((topic, deleted_to)) = topics.get(&row.topic) {
            if !index.restore(topic, *deleted_to, entry) {
                garbage.note(Removed::Event(topic, row.seq, row.time_ms));
            }
            return;
        }
        garbage.note_row(row.seq);
        // What a topic had lost when it was forgotten is only waiting for its removal.
        if row.seq > forgotten_to {
            damage.to = row.seq;
            damage.events += 1;
        }
    })?;
    damage.to = ranges.iter().map(|(_, to)| *to).fold(damage.to, u64::max);
    damage.events += u64::try_from(ranges.len()).unwrap_or_default();
    if damage.to > 0 {
        tracing::error!(to = damage.to, "events up to a position are lost: subscribers from before it are told");
    }
    Ok((newest_ms, garbage, damage))
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
