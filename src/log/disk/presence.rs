//! Whether the log's files are still where they were opened. A file that is removed or replaced under the process goes on
//! taking writes that nothing will ever read, and a directory without our lock lets another process in.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use super::error::StoreError;

const NAMES: [&str; 5] = ["lock", "tidings.db", "tidings.db-wal", "tidings.db-shm", "high-water"];

/// The files as they were when the log was opened.
pub(super) struct Presence(Vec<(PathBuf, (u64, u64))>);

impl Presence {
    /// To be noted when all of them are open.
    pub(super) fn note(directory: &Path) -> Result<Self, StoreError> {
        // An absolute path, so that it stays the same one whatever becomes of the working directory.
        let directory = directory.canonicalize().map_err(StoreError::Directory)?;
        let paths = NAMES.iter().map(|name| directory.join(name));
        let files: io::Result<_> = paths.map(|path| identity(&path).map(|identity| (path, identity))).collect();
        Ok(Self(files.map_err(StoreError::Directory)?))
    }

    /// That each is there, and the same one. A call per file, which costs nothing beside the sync of a batch.
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

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::metadata(path).map(|file| (file.dev(), file.ino()))
}
