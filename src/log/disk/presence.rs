//! Checks that the log's files are still in their directory. Writes to a file that was removed or replaced succeed, but
//! nobody will ever read what they wrote. And without the lock file, another process could open the same log.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use super::error::StoreError;

/// The files that must stay in the directory.
const NAMES: [&str; 5] = ["lock", "tidings.db", "tidings.db-wal", "tidings.db-shm", "high-water"];

/// The files, each with the identity that it had when the log was opened.
pub(super) struct Presence(Vec<(PathBuf, Identity)>);

/// Two files with the same device and inode are the same file.
#[derive(PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
}

impl Presence {
    /// Remembers which files are in `directory`. All of them must be open.
    pub(super) fn note(directory: &Path) -> Result<Self, StoreError> {
        // An absolute path means the same directory even if the working directory of the process changes.
        let directory = directory.canonicalize().map_err(StoreError::Directory)?;
        let paths = NAMES.iter().map(|name| directory.join(name));
        let files: io::Result<_> = paths.map(|path| identity(&path).map(|identity| (path, identity))).collect();
        Ok(Self(files.map_err(StoreError::Directory)?))
    }

    /// Fails when a file was removed or replaced. One system call for each file is cheap beside the sync of a batch.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        for (path, noted) in &self.0 {
            match identity(path) {
                Ok(identity) if identity == *noted => {}
                Ok(_) => return Err(StoreError::Gone { path: path.clone(), how: "has been replaced" }),
                Err(_) => return Err(StoreError::Gone { path: path.clone(), how: "has been removed or renamed" }),
            }
        }
        Ok(())
    }
}

fn identity(path: &Path) -> io::Result<Identity> {
    fs::metadata(path).map(|file| Identity { device: file.dev(), inode: file.ino() })
}
