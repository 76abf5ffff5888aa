//! The errors of the log's directory and files. Their texts tell the operator what to do.

use std::{
    ffi::c_int,
    io,
    path::{Path, PathBuf},
};

use rusqlite::{ErrorCode, ffi};

use super::filesystem;

/// Why the log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory or its lock file cannot be used.
    #[error("log.path {}: {source}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// The directory is on a network file system, where a write-ahead log is not safe.
    #[error("log.path {}: it is on a network file system ({kind}), which does not support the locks and the \
             shared memory that the log needs; choose a log.path on a local disk", path.display())]
    Network {
        /// The directory.
        path: PathBuf,
        /// The type of the file system.
        kind: String,
    },
    /// There is no log in the directory.
    #[error("{}: there is no log of Tidings in it (no file tidings.db)", .0.display())]
    Absent(PathBuf),
    /// Another process uses the directory.
    #[error("log.path {}: another Tidings uses it; stop that one, or choose another log.path", .0.display())]
    InUse(PathBuf),
    /// The database file in the directory cannot be used.
    #[error("{}: {source}", path.display())]
    Store {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: StoreError,
    },
}

/// What to do about a damaged file. A restored copy of the whole directory looks like the latest state. Without the
/// flag, the server would give the same ids again.
const RESTORE: &str = "restore a backup and start once with --new-epoch, so that no id is used twice; or move it \
                       away to start with an empty history";

/// Why the database file or a file beside it cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file is not a log of Tidings.
    #[error("it is not a log of Tidings; choose another log.path")]
    Foreign,
    /// The file was written by a later version.
    #[error("it has format {found}, and this version reads {known}; start the version that wrote it, or a later one")]
    Newer {
        /// The format found.
        found: i32,
        /// The latest format that this version knows.
        known: i32,
    },
    /// The file was written by an earlier version, and may not be changed now.
    #[error("it has format {found}, and {needed} is needed; start and stop a server of this version on it once")]
    Older {
        /// The format found.
        found: i32,
        /// The format that can be read without a change.
        needed: i32,
    },
    /// The file is damaged.
    #[error("it is corrupt ({0}); {RESTORE}")]
    Corrupt(String),
    /// The file is damaged, or the disk has a read error: SQLite does not always tell which.
    #[error("it is corrupt, or the disk cannot read it ({0}); look for I/O errors in the system's log, then {RESTORE}")]
    Unreadable(rusqlite::Error),
    /// The file system does not support a write-ahead log, or is read-only.
    #[error("the file system does not support a write-ahead log (journal mode {0}); choose a log.path on a local disk")]
    NoWal(String),
    /// The directory, or a file in it, cannot be accessed.
    #[error("its directory: {0}")]
    Directory(#[source] io::Error),
    /// One of the files has been removed or replaced while the log was open.
    #[error("{} {how} while it was in use, so new events would be lost; stop the process before you move or restore \
             files in log.path", path.display())]
    Gone {
        /// The file.
        path: PathBuf,
        /// What happened to it.
        how: &'static str,
    },
    /// The file `high-water` cannot be read or written.
    #[error("the file high-water beside it: {0}")]
    HighWater(#[from] io::Error),
    /// The file `high-water` was written by a later version.
    #[error(
        "the file high-water beside it has format {0}, which this version cannot read; start the version that \
             wrote it, or a later one"
    )]
    NewerMark(u64),
    /// Any other error of SQLite or the system.
    #[error(transparent)]
    Sqlite(rusqlite::Error),
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::Error;
        match (&error, error.sqlite_error_code()) {
            // The file has a value that Tidings never writes there.
            (
                Error::FromSqlConversionFailure(..)
                | Error::IntegralValueOutOfRange(..)
                | Error::InvalidColumnType(..)
                | Error::Utf8Error(..),
                _,
            ) => Self::Corrupt(error.to_string()),
            (_, Some(ErrorCode::NotADatabase)) => Self::Foreign,
            (_, Some(ErrorCode::DatabaseCorrupt)) => Self::Unreadable(error),
            (_, Some(ErrorCode::SystemIoFailure)) if has_code(&error, &READ_ERRORS) => Self::Unreadable(error),
            _ => Self::Sqlite(error),
        }
    }
}

/// SQLite's read errors.
const READ_ERRORS: [c_int; 4] =
    [ffi::SQLITE_IOERR_READ, ffi::SQLITE_IOERR_SHORT_READ, ffi::SQLITE_IOERR_CORRUPTFS, ffi::SQLITE_IOERR_DATA];

/// Whether SQLite gives one of these extended codes as the cause of `error`.
fn has_code(error: &rusqlite::Error, codes: &[c_int]) -> bool {
    error.sqlite_error().is_some_and(|error| codes.contains(&error.extended_code))
}

impl StoreError {
    /// Whether the cause is only that the disk of `directory` is full. Then nothing is damaged. A commit that failed
    /// may still be complete in the write-ahead log: see `Store::overwrite_failed_batch`.
    pub(super) fn is_full(&self, directory: &Path) -> bool {
        match self {
            Self::Sqlite(error) if error.sqlite_error_code() == Some(ErrorCode::DiskFull) => true,
            // SQLite reports a full disk only for `ENOSPC`, and only for the database file and its log. For a quota,
            // and for a full disk under the file of the shared memory, it gives one of these codes. The codes have
            // other causes, too, so a trial decides.
            Self::Sqlite(error) => {
                let codes = [ffi::SQLITE_IOERR_WRITE, ffi::SQLITE_IOERR_SHMSIZE, ffi::SQLITE_IOERR_SHMOPEN];
                has_code(error, &codes) && filesystem::is_full(directory)
            }
            Self::HighWater(error) => filesystem::is_full_error(error),
            _ => false,
        }
    }

    /// Whether a part of the file cannot be read, or is not what was written.
    pub(super) fn is_damage(&self) -> bool {
        matches!(self, Self::Corrupt(_) | Self::Unreadable(_))
    }
}

/// The value that was read; `None` when it is damaged.
pub(super) fn unless_damaged<T>(read: rusqlite::Result<T>) -> Result<Option<T>, StoreError> {
    match read.map_err(StoreError::from) {
        Err(error) if error.is_damage() => Ok(None),
        read => read.map(Some),
    }
}
