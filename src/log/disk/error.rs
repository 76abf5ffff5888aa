//! What can be wrong with the log's directory and its files, and what to do about it.

use std::{
    io,
    path::{Path, PathBuf},
};

use rusqlite::{ErrorCode, ffi};

use super::filesystem;

/// Why the log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory or its lock file.
    #[error("log.path {}: {source}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It is where a write-ahead log cannot be kept.
    #[error("log.path {}: it is on a network file system ({kind}), which keeps neither the locks nor the shared memory \
             that the log needs; choose a log.path on a local disk", path.display())]
    Network {
        /// The directory.
        path: PathBuf,
        /// The type of the file system.
        kind: String,
    },
    /// Another process has it.
    #[error("log.path {}: another Tidings uses it; stop that one, or choose another log.path", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// The file in it.
    #[error("{}: {source}", path.display())]
    Store {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: StoreError,
    },
}

/// What to do about a damaged file. A copy of the whole directory looks like the directory itself: hence the flag.
const RESTORE: &str = "restore a backup and start once with --new-epoch, so that no id is given twice; or move it away to \
                       start with an empty history";

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Not one of ours.
    #[error("it is not a log of Tidings; choose another log.path")]
    Foreign,
    /// Written by a later version.
    #[error("it has format {found}, and this version reads {known}; start the version that wrote it, or a later one")]
    Newer {
        /// The format found.
        found: i32,
        /// The latest format that this version knows.
        known: i32,
    },
    /// The file is damaged.
    #[error("it is corrupt ({0}); {RESTORE}")]
    Corrupt(String),
    /// As above, or the disk has a read error, for which SQLite has the same word.
    #[error("it is corrupt, or the disk cannot read it ({0}); look for I/O errors in the system's log, then {RESTORE}")]
    Unreadable(rusqlite::Error),
    /// The file system has no shared memory between connections, or is read-only.
    #[error("the file system takes no write-ahead log (journal mode {0}); choose a log.path on a local disk")]
    NoWal(String),
    /// The directory cannot be looked at.
    #[error("its directory: {0}")]
    Directory(#[source] io::Error),
    /// One of the files is not there any more.
    #[error("{} {how} while it was in use; what is published would be lost. Leave log.path to the process, and end it \
             before you move or restore anything there", path.display())]
    Gone {
        /// The file.
        path: PathBuf,
        /// What has become of it.
        how: &'static str,
    },
    /// The high-water mark cannot be read or written.
    #[error("the file high-water beside it: {0}")]
    HighWater(#[from] io::Error),
    /// It was written by a later version.
    #[error(
        "the file high-water beside it has format {found}, which this version cannot read; start the version that \
             wrote it, or a later one"
    )]
    NewerMark {
        /// The format found.
        found: u64,
    },
    /// Anything else that SQLite or the system says.
    #[error(transparent)]
    Sqlite(rusqlite::Error),
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::Error;
        match error {
            // The file has what we never write there.
            Error::FromSqlConversionFailure(..)
            | Error::IntegralValueOutOfRange(..)
            | Error::InvalidColumnType(..)
            | Error::Utf8Error(..) => return Self::Corrupt(error.to_string()),
            _ => {}
        }
        match error.sqlite_error_code() {
            Some(ErrorCode::NotADatabase) => Self::Foreign,
            Some(ErrorCode::DatabaseCorrupt) => Self::Unreadable(error),
            Some(ErrorCode::SystemIoFailure) if is_read_error(&error) => Self::Unreadable(error),
            _ => Self::Sqlite(error),
        }
    }
}

/// Whether it was a read that failed, of which SQLite has some kinds.
fn is_read_error(error: &rusqlite::Error) -> bool {
    let kinds =
        [ffi::SQLITE_IOERR_READ, ffi::SQLITE_IOERR_SHORT_READ, ffi::SQLITE_IOERR_CORRUPTFS, ffi::SQLITE_IOERR_DATA];
    error.sqlite_error().is_some_and(|error| kinds.contains(&error.extended_code))
}

impl StoreError {
    /// Whether it is only that there is no room in `directory`: nothing is broken, and nothing was written.
    pub(super) fn is_full(&self, directory: &Path) -> bool {
        match self {
            Self::Sqlite(error) if error.sqlite_error_code() == Some(ErrorCode::DiskFull) => true,
            // SQLite knows `ENOSPC`, and only where it writes the file or its log; not a quota, and not the memory that
            // connections share, which is a file, too.
            Self::Sqlite(error) => {
                let kinds = [ffi::SQLITE_IOERR_WRITE, ffi::SQLITE_IOERR_SHMSIZE, ffi::SQLITE_IOERR_SHMOPEN];
                let maybe = error.sqlite_error().is_some_and(|error| kinds.contains(&error.extended_code));
                maybe && filesystem::is_full(directory)
            }
            Self::HighWater(error) => filesystem::is_full_error(error),
            _ => false,
        }
    }

    /// Whether some of the file cannot be read, or is not what was written.
    pub(super) fn is_damage(&self) -> bool {
        matches!(self, Self::Corrupt(_) | Self::Unreadable(_))
    }
}
