//! Libraries in C that are preloaded into the broker: a disk that is watched, fails, or lies.

use std::{path::Path, process::Command};

use super::blocking::Directory;

/// Builds the library of `source`, a file among the tests, into `directory`; its path. `None`, and it says so, where
/// there is no C compiler.
pub fn build(source: &str, directory: &Directory) -> Option<String> {
    let library = directory.0.join("preload.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it").join(source);
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"]).arg(&library).arg(source);
    compiler.args(["-ldl", "-pthread"]);
    let Ok(built) = compiler.output() else {
        eprintln!("left out: there is no C compiler (cc)");
        return None;
    };
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    Some(library.to_str().expect("a path in UTF-8").to_owned())
}
