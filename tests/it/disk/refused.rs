//! What cannot be opened is refused, with what to do.

use std::{fs, process::ExitStatus};

use crate::harness::blocking::{Broker, Directory};

/// Starts on `directory`, which must be refused; how, and in what words.
fn refusal(directory: &Directory) -> (ExitStatus, String) {
    Broker::start("disk", &directory.0, &[]).err().expect("it is refused")
}

fn assert_refused(directory: &Directory, words: &[&str]) {
    let before = fs::read(directory.file()).ok();
    let (status, line) = refusal(directory);
    assert_eq!(status.code(), Some(1), "{line}");
    assert!(!line.contains("panicked"), "{line}");
    for word in words {
        assert!(line.contains(word), "{word:?} is not in {line:?}");
    }
    assert_eq!(fs::read(directory.file()).ok(), before, "what is refused is left as it is");
}

#[test]
fn a_second_process_on_the_same_directory_is_refused() {
    // Goal: two processes never write one log, and the second one says what to do.
    let directory = Directory::new();
    let broker = Broker::disk(&directory, &[]);
    let (status, line) = refusal(&directory);
    assert_eq!(status.code(), Some(1));
    assert!(line.contains("another Tidings uses it") && line.contains("choose another log.path"), "{line}");
    broker.client().must_publish("t", "the first goes on");
    broker.kill();
    Broker::disk(&directory, &[]);
}

#[test]
fn a_file_of_a_later_format_is_refused() {
    // Goal: a downgrade neither reads nor harms what it does not understand.
    let directory = Directory::new();
    drop(Broker::disk(&directory, &[]));
    let file = rusqlite::Connection::open(directory.file()).expect("the file opens");
    file.pragma_update(None, "user_version", 99).expect("an update");
    file.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).expect("a checkpoint");
    drop(file);
    assert_refused(&directory, &["format 99", "start the version that wrote it"]);
}

#[test]
fn a_file_that_is_not_ours_is_refused() {
    // Goal: neither another program's database nor any other file is ever written to.
    let directory = Directory::new();
    let file = rusqlite::Connection::open(directory.file()).expect("the file opens");
    file.execute_batch("CREATE TABLE theirs (a)").expect("a table");
    drop(file);
    assert_refused(&directory, &["not a log of Tidings", "choose another log.path"]);
    fs::write(directory.file(), "Dear diary, ".repeat(1000)).expect("a file");
    assert_refused(&directory, &["not a log of Tidings", "choose another log.path"]);
}

#[test]
fn a_damaged_file_is_refused() {
    // Goal: damage is named, with what to do, instead of a history with holes in it.
    let directory = Directory::new();
    let broker = Broker::disk(&directory, &[]);
    let mut client = broker.client();
    for n in 0..200 {
        client.must_publish("t", &format!("{n} {}", "x".repeat(500)));
    }
    assert!(broker.stop().success());
    let whole = fs::read(directory.file()).expect("the file");
    let mut damaged = whole.clone();
    // Every page but the first, which says what the file is.
    damaged[4096..].iter_mut().for_each(|byte| *byte ^= 0x5A);
    fs::write(directory.file(), &damaged).expect("it is written");
    assert_refused(&directory, &["corrupt", "restore a backup and start once with --new-epoch", "move it away"]);
    fs::write(directory.file(), &whole[..whole.len() / 2]).expect("it is written");
    assert_refused(&directory, &["corrupt", "restore a backup and start once with --new-epoch", "move it away"]);
}
