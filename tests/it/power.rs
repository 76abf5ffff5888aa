//! A power cut, simulated: every write and sync of the log's files is recorded, then played back up to many moments.
//! What had been synced is there; of what had not, any page may be there, be missing or be torn.

use std::{env, fs, thread};

use tidings::{
    config::{Config, LogConfig, Size},
    event::TopicName,
    log::{KeyLimits, Log as _, ReadFrom, disk::DiskLog},
};

use crate::harness::{
    at_hand,
    blocking::{Broker, Client, Directory, seq},
    preload,
};

const PAGE: usize = 4096;
const SECTOR: usize = 512;
const PUBLISHERS: usize = 4;
/// Events that are read back through the log, for each power cut.
const NEWEST: usize = 50;

/// One thing that the broker did to the database (file 0) or its write-ahead log (file 1).
enum Step {
    Write { file: usize, at: usize, bytes: Vec<u8> },
    Sync { file: usize },
    Truncate { file: usize, length: usize },
}

/// What was recorded.
struct Recording {
    /// The steps, each with the length of the record up to its end.
    steps: Vec<(usize, Step)>,
    /// Acknowledged events: how long the record was at most when the answer had come, position, content.
    acknowledged: Vec<(usize, u64, String)>,
}

/// Publishes to a broker that is recorded, long enough for its write-ahead log to be moved and begun anew. `None` where
/// there is no C compiler.
fn record(durability: &str) -> Option<Recording> {
    let directory = Directory::new();
    let library = preload::build("power/record.c", &directory)?;
    let file = directory.0.join("record");
    let environment = [("LD_PRELOAD", &*library), ("RECORD", file.to_str().expect("a path in UTF-8"))];
    let settings = [("LOG__DURABILITY", durability), ("LOG__TOPIC_BYTES_MAX", "256MiB")];
    let log = Directory(directory.0.join("log"));
    let broker = Broker::start_with("disk", &log.0, &settings, &environment).unwrap_or_else(|(_, why)| panic!("{why}"));
    let publish = |publisher: usize| {
        let mut client = Client::connect(broker.address).expect("a connection");
        let mut random = fastrand::Rng::with_seed(publisher.try_into().expect("a small number"));
        let once = |n| {
            let content = format!("{publisher} {n} {}", "x".repeat(random.usize(..40_000)));
            let id = client.must_publish("t", &content);
            let length = fs::metadata(&file).expect("the record").len();
            (usize::try_from(length).expect("a length"), seq(&id), content)
        };
        (0..300).map(once).collect::<Vec<_>>()
    };
    let publish = &publish;
    let mut acknowledged: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..PUBLISHERS).map(|n| scope.spawn(move || publish(n))).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect()
    });
    broker.kill();
    acknowledged.sort_unstable_by_key(|(_, at, _)| *at);
    Some(Recording { steps: read_steps(&fs::read(&file).expect("the record")), acknowledged })
}

fn read_steps(record: &[u8]) -> Vec<(usize, Step)> {
    let (mut steps, mut at) = (Vec::new(), 0);
    let number = |at: usize| {
        let bytes = record[at..at + 8].try_into().expect("eight bytes");
        usize::try_from(u64::from_ne_bytes(bytes)).expect("a size")
    };
    while at < record.len() {
        let [what, file, offset, length] = [0, 8, 16, 24].map(|n| number(at + n));
        at += 32;
        let step = match what {
            0 => {
                let bytes = record[at..at + length].to_vec();
                at += length;
                Step::Write { file, at: offset, bytes }
            }
            1 => Step::Sync { file },
            _ => Step::Truncate { file, length: offset },
        };
        steps.push((at, step));
    }
    steps
}

fn put(image: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    image.resize(image.len().max(at + bytes.len()), 0);
    image[at..at + bytes.len()].copy_from_slice(bytes);
}

/// The two files as the power cut leaves them after `pending`, which nobody had waited for.
fn cut(synced: &[Vec<u8>; 2], pending: &[&Step], random: &mut fastrand::Rng) -> [Vec<u8>; 2] {
    let mut images = synced.clone();
    // A cut that keeps nearly all and one that keeps nearly nothing are as likely as any between.
    let share = random.f64();
    for step in pending {
        match step {
            Step::Write { file, at, bytes } => {
                let mut from = 0;
                while from < bytes.len() {
                    let to = ((at + from) / PAGE * PAGE + PAGE - at).min(bytes.len());
                    if random.f64() < share {
                        let torn = random.u8(..4) == 0;
                        let to = if torn { from + random.usize(..=(to - from) / SECTOR) * SECTOR } else { to };
                        put(&mut images[*file], at + from, &bytes[from..to]);
                    }
                    from = to;
                }
            }
            Step::Truncate { file, length } if random.f64() < share => images[*file].resize(*length, 0),
            Step::Truncate { .. } | Step::Sync { .. } => {}
        }
    }
    images
}

/// Cuts the power at `cuts` moments; at how many of them an acknowledged event was lost, and the first such loss.
fn lose_power(recording: &Recording, cuts: usize, seed: u64) -> (usize, Option<String>) {
    let mut random = fastrand::Rng::with_seed(seed);
    let first = recording.acknowledged.iter().map(|(length, ..)| *length).min().expect("acknowledged events");
    let begin = recording.steps.partition_point(|(length, _)| *length < first);
    let mut moments: Vec<usize> = (0..cuts).map(|_| random.usize(begin..recording.steps.len())).collect();
    moments.sort_unstable();
    let (mut synced, mut pending, mut done) = ([Vec::new(), Vec::new()], Vec::<&Step>::new(), 0);
    let (mut lossy, mut loss) = (0, None);
    for moment in moments {
        for (_, step) in &recording.steps[done..=moment] {
            let Step::Sync { file: synced_file } = step else {
                pending.push(step);
                continue;
            };
            pending.retain(|step| match step {
                Step::Write { file, at, bytes } if file == synced_file => {
                    put(&mut synced[*file], *at, bytes);
                    false
                }
                Step::Truncate { file, length } if file == synced_file => {
                    synced[*file].resize(*length, 0);
                    false
                }
                _ => true,
            });
        }
        done = moment + 1;
        let length = recording.steps[moment].0;
        let promised: Vec<(u64, &str)> = recording
            .acknowledged
            .iter()
            .filter(|(told, ..)| *told <= length)
            .map(|(_, at, content)| (*at, &**content))
            .collect();
        if let Some(what) = missing(&cut(&synced, &pending, &mut random), &promised) {
            lossy += 1;
            loss.get_or_insert(format!("step {moment} of {}: {what}", recording.steps.len()));
        }
    }
    (lossy, loss)
}

/// Opens what is left; the first of `promised` that is not in it.
fn missing(images: &[Vec<u8>; 2], promised: &[(u64, &str)]) -> Option<String> {
    let directory = Directory::in_memory();
    fs::write(directory.file(), &images[0]).expect("it is written");
    fs::write(directory.0.join("tidings.db-wal"), &images[1]).expect("it is written");
    let config = LogConfig { path: directory.0.clone(), topic_bytes_max: Size::mib(256), ..LogConfig::default() };
    let log = match DiskLog::open(&config, KeyLimits::from(&Config::default())) {
        Ok(log) => log,
        Err(error) => return Some(error.to_string()),
    };
    let checked = in_the_file(&directory, promised).map_err(|error| error.to_string());
    match checked.and_then(|missing| Ok(missing.or(in_the_log(&log, promised)?))) {
        Ok(missing) => missing.map(|at| format!("the acknowledged event {at} is not there")),
        Err(error) => Some(error),
    }
}

/// The first of `promised` that the file does not have, once the log has been opened.
fn in_the_file(directory: &Directory, promised: &[(u64, &str)]) -> rusqlite::Result<Option<u64>> {
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
    let file = rusqlite::Connection::open_with_flags(directory.file(), flags)?;
    let mut select = file.prepare("SELECT content FROM event WHERE seq = ?1")?;
    for (at, content) in promised {
        let mut rows = select.query([i64::try_from(*at).expect("a small number")])?;
        let held = rows.next()?.map(|row| Ok::<_, rusqlite::Error>(row.get_ref(0)?.as_blob()? == content.as_bytes()));
        if !held.transpose()?.unwrap_or(false) {
            return Ok(Some(*at));
        }
    }
    Ok(None)
}

/// The first of `promised` that the log does not know, or of the newest does not give. Of those alone, because they are
/// where the damage is, and a build without optimisation takes its time to make frames of all.
fn in_the_log(log: &DiskLog, promised: &[(u64, &str)]) -> Result<Option<u64>, String> {
    let topic = TopicName::parse("t", 255).expect("a topic name");
    let held = at_hand(log.held(&topic)).unwrap_or_default();
    let newest = &promised[promised.len().saturating_sub(NEWEST)..];
    let after = newest.first().map_or(0, |(at, _)| at - 1);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let page = runtime
        .block_on(log.read(&[topic], ReadFrom { after, removals_seen: 0 }, usize::MAX))
        .map_err(|error| error.to_string())?;
    let event = |at: u64| page.events.binary_search_by_key(&at, |event| event.seq).ok().map(|at| &page.events[at]);
    // Every position is an event of the one topic.
    let unknown = promised.iter().map(|(at, _)| *at).find(|at| held.last.is_none_or(|last| *at > last.seq));
    let lost = newest.iter().find(|(at, text)| event(*at).is_none_or(|event| event.content() != text.as_bytes()));
    let first = held.first.map(|first| first.seq - 1).filter(|before| *before > 0);
    Ok(first.or(unknown).or(lost.map(|(at, _)| *at)))
}

fn cuts() -> usize {
    env::var("TIDINGS_POWER_CUTS").map_or(40, |cuts| cuts.parse().expect("a number"))
}

#[test]
fn a_power_cut_loses_nothing_acknowledged() {
    // Goal: whatever of the writes that nobody waited for is lost or torn, what `disk` acknowledged is there.
    let Some(recording) = record("disk") else { return };
    let moved = recording.steps.iter().filter(|(_, step)| matches!(step, Step::Write { file: 0, .. })).count();
    assert!(moved > 1000, "the write-ahead log was moved into the file: {moved} writes");
    let seed = fastrand::u64(..);
    let (lossy, loss) = lose_power(&recording, cuts(), seed);
    assert_eq!((lossy, loss), (0, None), "seed {seed}");
    println!("{} power cuts over {} steps, nothing lost", cuts(), recording.steps.len());
}

#[test]
fn a_power_cut_may_lose_what_only_the_system_had() {
    // Goal: the control; what `os` acknowledged is lost at some moments, so that the simulation does lose what it may.
    let Some(recording) = record("os") else { return };
    let (lossy, loss) = lose_power(&recording, 20, 1);
    println!("{lossy} of 20 power cuts lost an acknowledged event: {loss:?}");
    assert!(lossy > 5 && loss.is_some_and(|loss| loss.ends_with("is not there")), "{lossy} cuts lost something");
}
