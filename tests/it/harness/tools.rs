//! Programs that a test needs and that are no part of the repository.

use std::{io::Write as _, path::PathBuf};

/// Where `program` is, as a shell would look for it.
pub fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// Where `program` is, also if Debian keeps it out of an ordinary user's PATH.
pub fn installed(program: &str) -> Option<PathBuf> {
    let of_root = || Some(PathBuf::from("/usr/sbin").join(program)).filter(|path| path.is_file());
    on_path(program).or_else(of_root)
}

/// Says that this test is left out for want of `missing`, or fails it when all tests are asked for.
pub fn left_out(missing: &str) {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    assert!(std::env::var_os("TIDINGS_TEST_ALL").is_none_or(|all| all != "1"), "{test}: {missing}");
    // Not `eprintln!`, which the test runner keeps to itself when the test passes.
    let _ = std::io::stderr().write_all(format!("left out: {test}: {missing}\n").as_bytes());
}
