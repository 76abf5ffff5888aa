//! Opens the log: reads the file and builds the index in memory.

use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Mutex, atomic::AtomicBool, atomic::AtomicU64},
    time::{Duration, Instant},
};

use super::{
    checkpoints::Checkpoints,
    error::StoreError,
    expiry::Expiry,
    garbage::Garbage,
    high_water::{Found, HighWater},
    presence::Presence,
    reader::Reader,
    shared::{READERS, Shared, State},
    store::{Meta, Store},
    writer::Writer,
};
use crate::{
    config::{DiskDurability, LogConfig},
    event::TopicName,
    log::{
        KeyLimits, LogTimes,
        clock::{self, Clock},
        feed::Feeds,
        index::{Index, Removal},
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
    let mut meta = store.begin(&boot_id())?;
    let high_water = check_high_water(&mut store, &mut meta, config)?;
    // A killed process leaves its write-ahead log behind, and the next process appends to it.
    store.truncate_wal()?;
    let mut index = Index::new(meta.epoch, config.clone(), config.hot_bytes_max.get());
    let (mut topics, opened_at) = (HashMap::new(), clock.read());
    let lost_topics = store.topics(meta.stored.reserved, |row| {
        index.restore_topic(&row.name, row.removed, row.deleted_to, opened_at.mono_ms_of(row.deleted_ms));
        topics.insert(row.id, row.name);
    })?;
    store.repair(!lost_topics.is_empty(), topics.keys().copied())?;
    let mut loaded = load_events(&store, &mut index, &topics, meta.stored.forgotten_to)?;
    store.topic_id_floor = loaded.topic_id_max;
    store.note_unreadable(loaded.unreadable_to)?;
    meta.stored.unreadable_to = meta.stored.unreadable_to.max(loaded.unreadable_to);
    let now = clock.read();
    index.restore_log(meta.stored, now, &mut |removal| loaded.garbage.note(removal));
    let keys = store.load_keys(key_limits, meta.epoch, now, &topics)?;
    // All read connections are opened now. Later the process might have no free file descriptor, and then cold events
    // could not be read.
    let readers = (0..READERS).map(|_| Reader::open(file)).collect::<Result<Vec<_>, _>>()?;
    let presence = Presence::note(&config.path)?;
    report(&meta, &index, loaded.newest_ms, now.wall_ms, started.elapsed());
    let shared = Arc::new(Shared {
        epoch: meta.epoch,
        durability: config.durability,
        file: file.to_owned(),
        clock,
        watermark: AtomicU64::new(index.watermark()),
        state: Mutex::new(State { index, feeds: Feeds::default() }),
        keys,
        failed: Arc::default(),
        full: AtomicBool::new(false),
        idle_readers: Mutex::new(readers),
        unreadable: AtomicU64::new(loaded.unreadable),
        times: LogTimes::default(),
    });
    let writer = Writer {
        store,
        high_water,
        presence,
        shared: Arc::clone(&shared),
        last: meta.stored.reserved,
        time_ms: now.stamp(loaded.newest_ms),
        reserved: meta.stored.reserved,
        topics: topics.into_iter().map(|(id, topic)| (topic, id)).collect(),
        garbage: loaded.garbage,
        is_removal_postponed: false,
        needs_retention_step: false,
        expiry: Expiry::new(key_limits.window, now),
        checkpoints: Checkpoints::default(),
    };
    Ok((shared, writer))
}

/// Compares the database with the high-water mark. Begins a new epoch when the database is older than the mark (the
/// database was restored from a backup), when the mark is damaged, or when the operator asks for a new epoch. In a new
/// epoch no id is given twice, and subscribers with older cursors are told that the history was reset.
fn check_high_water(store: &mut Store, meta: &mut Meta, config: &LogConfig) -> Result<HighWater, StoreError> {
    let found = Found::read(&config.path)?;
    let reason = match found {
        _ if config.new_epoch => Some("--new-epoch was given"),
        Found::Nothing => None,
        Found::Damaged => Some("the file high-water is damaged, so the database may be older than the last run"),
        Found::Mark(mark) => {
            // `reserved` is always compared, the last event only if the log neither was closed nor has lost power:
            // - After an orderly end, `reserved` is the last position. To compare it is enough.
            // - After a loss of power, even the latest database may lack events. The hole reports them as a gap.
            let compares_events = !meta.was_closed && !meta.lost_power;
            let last_found = compares_events.then_some(meta.last_found);
            mark.contradiction(meta.epoch, meta.stored.reserved, last_found)
        }
    };
    if let Some(reason) = reason {
        let last_of_mark = if let Found::Mark(mark) = found { mark.reserved.max(mark.committed) } else { 0 };
        store.begin_epoch(meta, meta.stored.reserved.max(last_of_mark))?;
        tracing::warn!(
            reason,
            epoch = meta.epoch.as_str(),
            "a new epoch begins: subscribers of the old one are told (reset)"
        );
    }
    match found {
        Found::Mark(mark) if reason.is_none() => HighWater::open(&config.path, mark, meta.last_found),
        _ => HighWater::create(&config.path, meta.epoch, meta.stored.reserved, meta.last_found),
    }
}

/// What a start learns from the rows of events.
#[derive(Default)]
pub(super) struct Loaded {
    /// Time of the last event.
    newest_ms: u64,
    /// The rows that are no longer needed.
    garbage: Garbage,
    /// Position of the last event that is lost, because its row or that of its topic cannot be read; 0 when none is
    /// lost.
    pub(super) unreadable_to: u64,
    /// How many events are lost, roughly: a range of rows that cannot be read counts as one event.
    unreadable: u64,
    /// The largest topic id.
    topic_id_max: i64,
}

/// Adds every event in the file to the index as a cold entry.
pub(super) fn load_events(
    store: &Store,
    index: &mut Index,
    topics: &HashMap<i64, TopicName>,
    forgotten_to: u64,
) -> Result<Loaded, StoreError> {
    let last = store.last_event()?;
    let (mut first, mut count, mut loaded) = (None, 0_u64, Loaded::default());
    let mut progress_at = Instant::now() + FIRST_PROGRESS_AFTER;
    let ranges = store.events(last, |topic_id, entry| {
        let (seq, time_ms) = (entry.seq, entry.time_ms);
        let first = *first.get_or_insert(seq);
        count += 1;
        if count.is_multiple_of(4096) && Instant::now() >= progress_at {
            progress_at = Instant::now() + PROGRESS_INTERVAL;
            tracing::info!(events = count, percent = (seq - first) * 100 / (last - first + 1), "reading the log");
        }
        loaded.newest_ms = time_ms;
        loaded.topic_id_max = loaded.topic_id_max.max(topic_id);
        if let Some(topic) = topics.get(&topic_id) {
            if !index.restore_event(topic, entry) {
                loaded.garbage.note(Removal::Event { topic, seq, time_ms });
            }
            return;
        }
        // The row's topic is not known. If the event is not after `forgotten_to`, the index had removed the event and
        // forgotten its topic. A later event is lost, because the row of its topic cannot be read.
        loaded.garbage.note_row(seq);
        if seq > forgotten_to {
            loaded.unreadable_to = seq;
            loaded.unreadable += 1;
        }
    })?;
    for range in &ranges {
        loaded.unreadable_to = loaded.unreadable_to.max(range.last);
    }
    loaded.unreadable += u64::try_from(ranges.len()).unwrap_or_default();
    if loaded.unreadable_to > 0 {
        tracing::error!(
            to = loaded.unreadable_to,
            "the log is damaged: events up to a position are lost; subscribers with an older cursor are told"
        );
    }
    Ok(loaded)
}

/// Logs what was opened.
fn report(meta: &Meta, index: &Index, newest_ms: u64, wall_ms: u64, took: Duration) {
    if clock::has_gone_back(newest_ms, wall_ms) {
        let by = Duration::from_millis(newest_ms - wall_ms);
        tracing::warn!(
            ?by,
            "the newest event is in the future: the wall clock was wrong then or is wrong now; it is used as it is"
        );
    }
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
pub(super) fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}
