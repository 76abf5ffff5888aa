//! Opens the log: reads the file and builds the index in memory.

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
        index::{Entry, Index, LogState, Missing, Removal},
    },
};

/// How long a start takes before it logs its progress for the first time.
const FIRST_PROGRESS_AFTER: Duration = Duration::from_millis(250);
/// How often it logs its progress from then on.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// Opens the file, and builds the state of the log and the writer from it.
pub(super) fn load(
    file: &Path,
    config: &LogConfig,
    key_limits: KeyLimits,
    clock: Clock,
) -> Result<(Arc<Shared>, Writer), StoreError> {
    let started = Instant::now();
    let mut store = Store::open(file, config.durability == DiskDurability::Disk)?;
    let mut meta = store.begin(&boot_id(), config.durability == DiskDurability::Disk)?;
    let high_water = check_high_water(&mut store, &mut meta, config)?;
    // A killed process leaves its write-ahead log behind. Without this, the file would grow with every process that is
    // killed.
    store.truncate_wal()?;
    let mut index = Index::new(meta.epoch, config.clone(), config.hot_bytes_max.get());
    let mut topics = HashMap::new();
    let opened_at = clock.now();
    let lost = store.topics(meta.reserved, |row| {
        let removed = Missing { to: row.evicted_to, newest_ms: row.evicted_ms, removals: 0 };
        index.restore_topic(&row.name, removed, (row.deleted_to, opened_at.mono_ms_of(row.deleted_ms)));
        topics.insert(row.id, row.name);
    })?;
    store.repair(!lost.is_empty(), topics.keys().copied())?;
    let ids = topics.iter().map(|(id, name)| (name.clone(), *id)).collect();
    let (newest_ms, mut garbage, damage) = load_events(&store, &mut index, &topics, meta.forgotten_to)?;
    store.note_damage(damage.to, damage.topics_to)?;
    let now = clock.now();
    if clock::has_gone_back(newest_ms, now.wall_ms) {
        let by = Duration::from_millis(newest_ms - now.wall_ms);
        tracing::warn!(
            ?by,
            "the newest event is in the future: the wall clock was wrong then or is wrong now; it is used as it is"
        );
    }
    let Meta { forgotten_to, forgotten_ms, hole_to, .. } = meta;
    let unreadable_to = meta.unreadable_to.max(damage.to);
    let stored = LogState { last: meta.reserved, forgotten_to, forgotten_ms, hole_to, unreadable_to };
    index.restore_log(stored, now, &mut |removal| garbage.note(removal));
    let keys = store.keys(key_limits, meta.epoch, now, &topics)?;
    // All read connections are opened now. Later the process might have no free file descriptor, and then cold events
    // could not be read.
    let readers: Result<Vec<Reader>, StoreError> = (0..READERS).map(|_| Reader::open(file)).collect();
    let readers = readers?;
    let presence = Presence::note(&config.path)?;
    report(&meta, &index, started.elapsed());
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
    let writer = Writer::new(files, Arc::clone(&shared), meta.reserved, key_limits.window).with_contents(ids, garbage);
    Ok((shared, writer))
}

/// Compares the database with the high-water mark, and begins a new epoch when the database is older than the mark (it
/// was restored from a backup), when that cannot be known, or when the operator asks for it. In a new epoch no id is
/// given twice, and subscribers with older cursors are told that the history was reset.
fn check_high_water(store: &mut Store, meta: &mut Meta, config: &LogConfig) -> Result<HighWater, StoreError> {
    let found = Found::read(&config.path)?;
    let reason = match found {
        _ if config.new_epoch => Some("--new-epoch was given"),
        Found::Nothing => None,
        Found::Damaged => Some("the file high-water is damaged, so the database may be older than the last run"),
        Found::Mark(mark) => {
            // After a crash of the machine without `durability = "disk"`, missing events do not mean a restored
            // database. They are reported as a gap. After a clean end `reserved` is exact, and enough.
            let is_complete = !meta.clean && !meta.lost_power;
            mark.contradicts(meta.epoch, meta.reserved, is_complete.then_some(meta.last_found))
        }
    };
    if let Some(reason) = reason {
        let last_of_mark = if let Found::Mark(mark) = found { mark.reserved.max(mark.committed) } else { 0 };
        store.begin_epoch(meta, meta.reserved.max(last_of_mark))?;
        tracing::warn!(
            reason,
            epoch = meta.epoch.as_str(),
            "a new epoch begins: subscribers of the old one are told (reset)"
        );
    }
    match found {
        Found::Mark(mark) if reason.is_none() => HighWater::open(&config.path, mark, meta.last_found),
        _ => HighWater::create(&config.path, meta.epoch, meta.reserved, meta.last_found),
    }
}

/// What could not be read while the log was opened.
#[derive(Default)]
struct Damage {
    /// Position of the last event that is lost, because its row or that of its topic cannot be read; 0 when none is
    /// lost.
    to: u64,
    /// How many events are lost, at least. A range of rows that cannot be read counts as one event.
    events: u64,
    /// The largest topic id in the rows of events.
    topics_to: i64,
}

/// Adds every event in the file to the index as a cold entry. Returns the time of the last event, the rows that are no
/// longer needed, and the damage.
fn load_events(
    store: &Store,
    index: &mut Index,
    topics: &HashMap<i64, TopicName>,
    forgotten_to: u64,
) -> Result<(u64, Garbage, Damage), StoreError> {
    let last = store.last()?;
    let (mut first, mut count, mut garbage, mut damage) = (None, 0_u64, Garbage::default(), Damage::default());
    let (mut newest_ms, mut progress_at) = (0, Instant::now() + FIRST_PROGRESS_AFTER);
    let ranges = store.events(last, |row| {
        let first = *first.get_or_insert(row.seq);
        newest_ms = row.time_ms;
        count += 1;
        if count.is_multiple_of(4096) && Instant::now() >= progress_at {
            progress_at = Instant::now() + PROGRESS_INTERVAL;
            tracing::info!(events = count, percent = (row.seq - first) * 100 / (last - first + 1), "reading the log");
        }
        let entry = Entry { seq: row.seq, mono_ms: 0, time_ms: row.time_ms, bytes: row.cost, event: None };
        damage.topics_to = damage.topics_to.max(row.topic);
        if let Some(topic) = topics.get(&row.topic) {
            if !index.restore_event(topic, entry) {
                garbage.note(Removal::Event(topic, row.seq, row.time_ms));
            }
            return;
        }
        garbage.note_row(row.seq);
        // Up to `forgotten_to` the topic was forgotten on purpose: the row only waits for its removal.
        if row.seq > forgotten_to {
            damage.to = row.seq;
            damage.events += 1;
        }
    })?;
    damage.to = ranges.iter().map(|(_, to)| *to).fold(damage.to, u64::max);
    damage.events += u64::try_from(ranges.len()).unwrap_or_default();
    if damage.to > 0 {
        tracing::error!(
            to = damage.to,
            "the log is damaged: events up to a position are lost; subscribers with an older cursor are told"
        );
    }
    Ok((newest_ms, garbage, damage))
}

/// Logs what was opened.
fn report(meta: &Meta, index: &Index, took: Duration) {
    if meta.lost_power {
        tracing::warn!(
            "the machine stopped under log.durability = \"os\": subscribers are told that events may be missing"
        );
    }
    let (events, topics) = index.size();
    tracing::info!(events, topics, ?took, "the log is open");
}

/// The id of the machine's current boot. When it has changed, the machine has restarted, and writes without an fsync
/// may be lost.
fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map_or_else(|_| String::new(), |id| id.trim().to_owned())
}
