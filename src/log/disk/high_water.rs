//! The high-water mark: up to where positions have been given, kept outside the database.
//!
//! A database that is restored from a backup, or loses its write-ahead log, knows nothing of what came later, and would
//! give the same ids again to other events. So a file beside it says how far the history had come; a start that finds
//! the database behind it begins a new epoch.
//!
//! The file is three records of a sector each. Two say in generation up to where positions may be given; each is synced before
//! the first of them is, so a torn one leaves the other. The third says what was committed last. It is written with each
//! batch and not synced: a power cut, or a disk without room, may leave an older one, which only makes the check less
//! sharp.

use std::{
    fs::{self, File},
    io::{self, ErrorKind},
    os::unix::fs::FileExt as _,
    path::Path,
};

use super::{error::StoreError, filesystem};
use crate::event::Epoch;

/// Not `tidings.db…`: who restores or removes the database by its name shall not take this along.
const NAME: &str = "high-water";
/// The layout of the records.
const FORMAT: u64 = 1;
const PREFIX: &str = "tidings high-water ";
/// What a disk writes whole or not at all.
const SECTOR: usize = 512;
const SECTOR_LENGTH: u64 = 512;

/// The file, open to be written.
pub(super) struct HighWater {
    file: File,
    epoch: Epoch,
    /// Of the next record.
    generation: u64,
    /// What was committed last could not be written: there was no room.
    is_behind: bool,
}

/// What the file said before the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// There is none: the directory is new, or of version 0.1, or somebody has removed it.
    Nothing,
    /// It cannot be read.
    Damaged,
    Mark(Mark),
}

/// How far a history had come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) epoch: Epoch,
    /// Positions up to here may have been given.
    pub(super) reserved: u64,
    /// Positions up to here have been committed; perhaps later ones, too.
    pub(super) committed: u64,
    /// Of the latest record.
    generation: u64,
}

/// One record: the higher its generation, the later it was written.
#[derive(Clone, Copy)]
struct Record {
    generation: u64,
    epoch: Epoch,
    position: u64,
}

impl Found {
    pub(super) fn read(directory: &Path) -> Result<Self, StoreError> {
        let bytes = match fs::read(directory.join(NAME)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self::Nothing),
            Err(error) => return Err(error.into()),
        };
        let mut records = bytes.chunks(SECTOR).map(Record::read);
        let mut next = || records.next().unwrap_or(Ok(None));
        let (first, second, committed) = (next()?, next()?, next()?);
        let reserved = first.into_iter().chain(second).max_by_key(|record| record.generation);
        let Some(Record { epoch, position: reserved, generation }) = reserved else { return Ok(Self::Damaged) };
        let committed = committed.filter(|record| record.epoch == epoch).map_or(0, |record| record.position);
        Ok(Self::Mark(Mark { epoch, reserved, committed, generation }))
    }
}

impl Record {
    /// `None` for what is not one.
    fn read(bytes: &[u8]) -> Result<Option<Self>, StoreError> {
        let Some(text) = std::str::from_utf8(bytes).ok().and_then(|text| text.strip_prefix(PREFIX)) else {
            return Ok(None);
        };
        let mut fields = text.split_whitespace();
        let mut next = || fields.next().and_then(|field| field.parse::<u64>().ok());
        let (format, generation, epoch, position, checksum) = (next(), next(), next(), next(), next());
        if let Some(found) = format.filter(|format| *format > FORMAT) {
            return Err(StoreError::NewerMark { found });
        }
        let record = || Some(Self { generation: generation?, epoch: Epoch::from_number(epoch?)?, position: position? });
        Ok(record().filter(|record| checksum == Some(record.checksum())))
    }

    fn fields(&self) -> String {
        format!("{PREFIX}{FORMAT} {} {} {}", self.generation, self.epoch.number(), self.position)
    }

    fn checksum(&self) -> u64 {
        crc32fast::hash(self.fields().as_bytes()).into()
    }

    /// A sector.
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = format!("{} {}", self.fields(), self.checksum()).into_bytes();
        bytes.resize(SECTOR - 1, b' ');
        bytes.push(b'\n');
        bytes
    }
}

impl HighWater {
    /// Goes on with the file in which `mark` was found. A full disk has no room for another one.
    pub(super) fn open(directory: &Path, mark: Mark, committed: u64) -> Result<Self, StoreError> {
        let file = File::options().write(true).open(directory.join(NAME))?;
        let mut opened = Self { file, epoch: mark.epoch, generation: mark.generation + 1, is_behind: false };
        opened.commit(committed)?;
        Ok(opened)
    }

    /// Makes the file anew, whole or not at all, for a history of which positions up to `reserved` may have been given and
    /// those up to `committed` have been.
    pub(super) fn create(directory: &Path, epoch: Epoch, reserved: u64, committed: u64) -> Result<Self, StoreError> {
        let (path, new) = (directory.join(NAME), directory.join(format!("{NAME}.new")));
        let record = |generation, position| Record { generation, epoch, position }.bytes();
        let file = File::create(&new)?;
        // Each where its generation is written.
        file.write_all_at(&[record(2, reserved), record(1, reserved), record(0, committed)].concat(), 0)?;
        file.sync_all()?;
        fs::rename(&new, &path)?;
        filesystem::sync_directory(directory)?;
        Ok(Self { file, epoch, generation: 3, is_behind: false })
    }

    /// Positions up to `to` may be given, and this survives a power cut.
    pub(super) fn reserve(&mut self, to: u64) -> io::Result<()> {
        let record = Record { generation: self.generation, epoch: self.epoch, position: to };
        self.file.write_all_at(&record.bytes(), self.generation % 2 * SECTOR_LENGTH)?;
        self.file.sync_data()?;
        self.generation += 1;
        Ok(())
    }

    /// No position after `last` has been given. In both records: the higher one that is taken back must not remain.
    pub(super) fn end(&mut self, last: u64) -> io::Result<()> {
        self.reserve(last)?;
        self.reserve(last)
    }

    /// Positions up to `to` have been committed. That stands, so a disk without room, where to overwrite takes some, is no
    /// reason to refuse them: the mark stays behind.
    pub(super) fn commit(&mut self, to: u64) -> io::Result<()> {
        let record = Record { generation: 0, epoch: self.epoch, position: to };
        match self.file.write_all_at(&record.bytes(), 2 * SECTOR_LENGTH) {
            Err(error) if filesystem::is_full_error(&error) => {
                if !std::mem::replace(&mut self.is_behind, true) {
                    tracing::warn!("the disk is too full to write the mark beside the log: it stays behind for now");
                }
            }
            written => {
                written?;
                self.is_behind = false;
            }
        }
        Ok(())
    }
}

impl Mark {
    /// Why a database of which these are the epoch, the positions reserved, and the last one that has left a trace, where
    /// it must have left one, is not the history that this directory had; `None` when it is.
    pub(super) fn contradicts(&self, epoch: Epoch, reserved: u64, last_found: Option<u64>) -> Option<&'static str> {
        if self.epoch != epoch {
            Some("the database is of another history than the one that was here last")
        } else if reserved < self.reserved || last_found.is_some_and(|last_found| last_found < self.committed) {
            Some("the database ends before what this directory has had: it was restored from a copy, or cut")
        } else {
            None
        }
    }
}
