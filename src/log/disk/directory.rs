//! The lock on the log's directory.

use std::{
    fs::{File, TryLockError},
    io,
    path::Path,
};

use super::error::OpenError;

/// The lock on the log's directory, so that no second process uses it.
pub(super) struct DirectoryLock(File);

impl DirectoryLock {
    pub(super) fn acquire(path: &Path) -> Result<Self, OpenError> {
        let file = File::create(path.join("lock")).map_err(directory_error(path))?;
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => Err(OpenError::InUse(path.to_owned())),
            Err(TryLockError::Error(source)) => Err(OpenError::Directory { path: path.to_owned(), source }),
        }
    }
}

impl Drop for DirectoryLock {
    /// Unlocks explicitly, because closing the file might not. A child process has a copy of the descriptor until it
    /// executes its program, and the lock lasts until all copies are closed.
    fn drop(&mut self) {
        self.0.unlock().ok();
    }
}

/// Turns an error of the system at the directory `path` into an [`OpenError`].
pub(super) fn directory_error(path: &Path) -> impl FnOnce(io::Error) -> OpenError {
    move |source| OpenError::Directory { path: path.to_owned(), source }
}
