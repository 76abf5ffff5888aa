//! A database that was restored from a copy, swapped or cut: no id is given twice, and nobody loses events unnoticed.

use std::{collections::HashMap, fs, path::Path};

use crate::{
    disk::{contents, gap, subscribe},
    harness::blocking::{Broker, Directory},
};

const MARK: &str = "high-water";

/// Every file of the directory.
fn files(directory: &Directory) -> HashMap<String, Vec<u8>> {
    let name = |path: &Path| path.file_name().expect("a name").to_str().expect("UTF-8").to_owned();
    let entries = fs::read_dir(&directory.0).expect("the directory");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths.map(|path| (name(&path), fs::read(&path).expect("a file"))).collect()
}

/// Puts those of `copy` in place of what is there, but for the names that `kept` accepts.
fn restore(directory: &Directory, copy: &HashMap<String, Vec<u8>>, kept: impl Fn(&str) -> bool) {
    for name in files(directory).keys().filter(|name| !kept(name)) {
        fs::remove_file(directory.0.join(name)).expect("it is removed");
    }
    for (name, bytes) in copy.iter().filter(|(name, _)| !kept(name)) {
        fs::write(directory.0.join(name), bytes).expect("it is written");
    }
}

fn publish(broker: &Broker, texts: std::ops::Range<usize>) -> HashMap<String, String> {
    let mut client = broker.client();
    texts.map(|n| (client.must_publish("t", &n.to_string()), n.to_string())).collect()
}

fn epoch(id: &str) -> &str {
    id.split_once('-').expect("an id").0
}

/// What came of a history that was put back.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    /// Ids that were given to other events before.
    reused: usize,
    /// Of what a client that had seen all missed, without being told: events published since.
    untold: usize,
    told: Option<String>,
}

/// Publishes ten events, copies the directory when `end` has ended the process, publishes ten more, ends it, has `change`
/// put something back, and starts with `arguments`; what a client finds that had seen the first twelve.
fn history(end: fn(Broker), change: impl Fn(&Directory, &HashMap<String, Vec<u8>>), arguments: &[&str]) -> Found {
    let directory = Directory::new();
    let broker = Broker::disk(&directory, &[]);
    let mut given = publish(&broker, 0..10);
    end(broker);
    let copy = files(&directory);
    let broker = Broker::disk(&directory, &[]);
    given.extend(publish(&broker, 10..20));
    end(broker);
    change(&directory, &copy);
    let broker = Broker::with_arguments(&directory, &[], arguments);
    let seen = given.iter().find(|(_, text)| *text == "12").expect("an event").0;
    let again = publish(&broker, 100..120);
    let reused = again.keys().filter(|id| given.contains_key(*id)).count();
    let after = subscribe(&broker, "topic=t", Some(seen));
    let told = gap(&after).map(|(reason, _)| reason);
    let held = subscribe(&broker, "topic=t&since=all", None);
    assert!(held.iter().all(|line| epoch(&line.id) == epoch(&held[0].id)), "one epoch: {held:?}");
    let texts = contents(&held);
    assert!((0..10).all(|n| texts.contains(&&*n.to_string())), "what the copy has is held: {texts:?}");
    if told.is_some() {
        assert_eq!(&after[1..], held, "all that is held follows the gap");
    }
    let untold = if told.is_some() { 0 } else { (13..20).filter(|n| !texts.contains(&&*n.to_string())).count() };
    end(broker);
    let broker = Broker::disk(&directory, &[]);
    let next = broker.client().must_publish("t", "next");
    assert_eq!(epoch(&next), epoch(&held[0].id), "one change, one new epoch");
    Found { reused, untold, told }
}

fn kill(broker: Broker) {
    broker.kill();
}

fn stop(broker: Broker) {
    assert!(broker.stop().success());
}

fn reset() -> Found {
    Found { reused: 0, untold: 0, told: Some("reset".to_owned()) }
}

fn unchanged() -> Found {
    Found { reused: 0, untold: 0, told: None }
}

#[test]
fn a_database_restored_over_a_newer_one_begins_a_new_epoch() {
    // Goal: whether copied from a process that had ended or was killed, clients that are ahead are told `reset`, and no id
    // is given again to another event.
    let put_back = |directory: &Directory, copy: &HashMap<_, _>| restore(directory, copy, |name| name == MARK);
    assert_eq!(history(stop, put_back, &[]), reset());
    assert_eq!(history(kill, put_back, &[]), reset());
    // Nothing put back: nothing told.
    assert_eq!(history(stop, |_, _| {}, &[]), unchanged());
    assert_eq!(history(kill, |_, _| {}, &[]), unchanged());
}

#[test]
fn without_the_mark_a_restored_database_gives_ids_twice() {
    // Goal: the control; the same histories without the mark show the damage that it prevents.
    let put_back = |directory: &Directory, copy: &HashMap<_, _>| {
        restore(directory, copy, |_| false);
        fs::remove_file(directory.0.join(MARK)).expect("it is there");
    };
    let found = history(stop, put_back, &[]);
    assert!(found.reused > 0 && found.told.is_none(), "{found:?}");
    let found = history(kill, put_back, &[]);
    assert!(found.untold > 0 && found.told.is_none(), "{found:?}");
}

#[test]
fn a_write_ahead_log_that_is_removed_or_cut_begins_a_new_epoch() {
    // Goal: events that were acknowledged and are gone are told, however little of them was lost.
    let log = "tidings.db-wal";
    let removed = |directory: &Directory, _: &HashMap<_, _>| {
        fs::remove_file(directory.0.join(log)).expect("it is removed");
    };
    let emptied = |directory: &Directory, _: &HashMap<_, _>| fs::write(directory.0.join(log), "").expect("it is cut");
    let cut = |directory: &Directory, _: &HashMap<_, _>| {
        let bytes = fs::read(directory.0.join(log)).expect("it is read");
        fs::write(directory.0.join(log), &bytes[..bytes.len() - 1]).expect("it is cut");
    };
    let flipped = |directory: &Directory, _: &HashMap<_, _>| {
        let mut bytes = fs::read(directory.0.join(log)).expect("it is read");
        // SQLite takes what follows a frame that does not fit its checksum for the rest of an older log.
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(directory.0.join(log), bytes).expect("it is written");
    };
    assert_eq!(history(kill, removed, &[]), reset());
    assert_eq!(history(kill, emptied, &[]), reset());
    assert_eq!(history(kill, flipped, &[]), reset());
    assert_eq!(history(kill, cut, &[]), reset());
    let unmarked = |directory: &Directory, copy: &HashMap<_, _>| {
        removed(directory, copy);
        fs::remove_file(directory.0.join(MARK)).expect("it is there");
    };
    assert!(history(kill, unmarked, &[]).untold > 0, "the control");
}

#[test]
fn a_whole_directory_restored_from_a_copy_needs_the_flag() {
    // Goal: a copy of everything cannot be told from the original, and `--new-epoch` is the way to say it.
    let put_back = |directory: &Directory, copy: &HashMap<_, _>| restore(directory, copy, |_| false);
    assert_eq!(history(stop, put_back, &["--new-epoch"]), reset());
    assert_eq!(history(kill, put_back, &["--new-epoch"]), reset());
    let found = history(stop, put_back, &[]);
    assert!(found.reused > 0, "the control: {found:?}");
}

#[test]
fn a_mark_that_is_damaged_or_of_another_history_begins_a_new_epoch() {
    // Goal: when it cannot be known, the safe choice; one torn record is not damage, and neither is a missing file.
    let spoil = |sectors: &'static [usize]| {
        move |directory: &Directory, _: &HashMap<_, _>| {
            let mut bytes = fs::read(directory.0.join(MARK)).expect("the mark");
            sectors.iter().for_each(|sector| bytes[sector * 512 + 20] ^= 0x5A);
            fs::write(directory.0.join(MARK), bytes).expect("it is written");
        }
    };
    assert_eq!(history(kill, spoil(&[0, 1]), &[]), reset());
    for torn in [&[0][..], &[1], &[2]] {
        assert_eq!(history(kill, spoil(torn), &[]), unchanged());
        assert_eq!(history(stop, spoil(torn), &[]), unchanged());
    }
    let emptied = |directory: &Directory, _: &HashMap<_, _>| fs::write(directory.0.join(MARK), "").expect("it is cut");
    assert_eq!(history(stop, emptied, &[]), reset());
    let removed = |directory: &Directory, _: &HashMap<_, _>| fs::remove_file(directory.0.join(MARK)).expect("removed");
    assert_eq!(history(stop, removed, &[]), unchanged());
    let other = |directory: &Directory, _: &HashMap<_, _>| {
        let other = Directory::new();
        stop(Broker::disk(&other, &[]));
        fs::copy(other.0.join(MARK), directory.0.join(MARK)).expect("it is copied");
    };
    assert_eq!(history(stop, other, &[]), reset());
}

#[test]
fn a_mark_of_a_later_format_is_refused() {
    // Goal: a downgrade neither reads nor harms what it does not understand.
    let directory = Directory::new();
    stop(Broker::disk(&directory, &[]));
    let mark = directory.0.join(MARK);
    let text = fs::read_to_string(&mark).expect("the mark");
    fs::write(&mark, text.replacen("high-water 1 ", "high-water 2 ", 1)).expect("it is written");
    let (status, line) = Broker::start("disk", &directory.0, &[]).err().expect("it is refused");
    assert_eq!(status.code(), Some(1), "{line}");
    assert!(line.contains("high-water beside it has format 2") && line.contains("start the version"), "{line}");
    fs::write(&mark, text).expect("it is written");
    stop(Broker::disk(&directory, &[]));
}

#[test]
fn an_idempotency_key_from_before_a_new_epoch_is_forgotten() {
    // Goal: no answer has an id of a history that is over.
    let directory = Directory::new();
    let broker = Broker::disk(&directory, &[]);
    let first = broker.client().publish("t", "keyed", Some("key")).expect("an answer");
    stop(broker);
    let broker = Broker::with_arguments(&directory, &[], &["--new-epoch"]);
    let again = broker.client().publish("t", "keyed", Some("key")).expect("an answer");
    assert!(!again.replayed() && again.id().is_some_and(|id| epoch(id) != epoch(first.id().expect("an id"))));
    stop(broker);
    let broker = Broker::disk(&directory, &[]);
    let third = broker.client().publish("t", "keyed", Some("key")).expect("an answer");
    assert!(third.replayed() && third.id() == again.id(), "the control: one start later it counts again");
}
