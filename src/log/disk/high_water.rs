//! The high-water mark: the last reserved position, and the last committed one, in a file beside the database.
//!
//! A database that was restored from a backup, or that has lost its write-ahead log, knows nothing of later events. It
//! would give the positions of these events again, to other events. The file beside it still knows the later positions.
//! When a start finds that the database is behind the file, it begins a new epoch.
//!
//! The file consists of three records of one sector each. The first two hold the last reserved position. They are
//! written alternately, and synced before a position is given: if a write is torn, the other record is still valid. The
//! third record holds the last committed position. It is written with each batch and not synced. A power cut or a full
//! disk may leave an older value there. Then a start may not notice that the database has lost its newest events.

use std::{
    fs::{self, File},
    io::{self, ErrorKind},
    os::unix::fs::FileExt as _,
    path::Path,
};

use super::{error::StoreError, filesystem};
use crate::event::Epoch;

/// The name does not begin with `tidings.db`, so that a command that restores or removes `tidings.db*` leaves the file.
const NAME: &str = "high-water";
/// The format of the records.
const FORMAT: u64 = 1;
/// What every record begins with.
const PREFIX: &str = "tidings high-water ";
/// The size of a record: a disk writes one sector completely or not at all.
const SECTOR: usize = 512;
/// The same as an offset in the file.
const SECTOR_OFFSET: u64 = 512;

/// The file, open for writing.
pub(super) struct HighWater {
    file: File,
    epoch: Epoch,
    /// The generation of the next record.
    generation: u64,
    /// The last record of committed events could not be written, because the disk was full.
    is_behind: bool,
}

/// What a start finds in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// There is no file: the directory is new or from version 0.1, or somebody has removed the file.
    Nothing,
    /// The file has no valid record.
    Damaged,
    /// The file is valid.
    Mark(Mark),
}

/// How far the log had come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    /// The epoch of the positions.
    pub(super) epoch: Epoch,
    /// The last reserved position.
    pub(super) reserved: u64,
    /// The last committed position, or an older one: the third record is not synced.
    pub(super) committed: u64,
    /// The generation of the newer of the first two records.
    generation: u64,
}

/// One record.
#[derive(Clone, Copy)]
struct Record {
    /// Of the first two records, the one with the higher generation was written later. 0 in the third record.
    generation: u64,
    /// The epoch of the position.
    epoch: Epoch,
    /// The position that the record is about.
    position: u64,
}

impl Found {
    /// Reads the file in `directory`.
    pub(super) fn read(directory: &Path) -> Result<Self, StoreError> {
        let bytes = match fs::read(directory.join(NAME)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self::Nothing),
            Err(error) => return Err(error.into()),
        };
        let mut sectors = bytes.chunks(SECTOR);
        let mut read_next = || sectors.next().map_or(Ok(None), Record::read);
        let (first, second, third) = (read_next()?, read_next()?, read_next()?);
        let newer = first.into_iter().chain(second).max_by_key(|record| record.generation);
        let Some(Record { generation, epoch, position: reserved }) = newer else { return Ok(Self::Damaged) };
        let committed = third.filter(|record| record.epoch == epoch).map_or(0, |record| record.position);
        Ok(Self::Mark(Mark { epoch, reserved, committed, generation }))
    }
}

impl Record {
    /// Parses one record; `None` when it is not valid.
    fn read(bytes: &[u8]) -> Result<Option<Self>, StoreError> {
        let text = std::str::from_utf8(bytes).unwrap_or_default();
        let fields = text.strip_prefix(PREFIX).unwrap_or_default().split_whitespace();
        let numbers: Vec<u64> = fields.map_while(|field| field.parse().ok()).collect();
        match numbers[..] {
            [found, ..] if found > FORMAT => Err(StoreError::NewerMark(found)),
            [FORMAT, generation, epoch, position, checksum] => {
                let record = Epoch::from_number(epoch).map(|epoch| Self { generation, epoch, position });
                Ok(record.filter(|record| record.checksum() == checksum))
            }
            _ => Ok(None),
        }
    }

    /// The text of the record before its checksum.
    fn fields(&self) -> String {
        format!("{PREFIX}{FORMAT} {} {} {}", self.generation, self.epoch.number(), self.position)
    }

    fn checksum(&self) -> u64 {
        crc32fast::hash(self.fields().as_bytes()).into()
    }

    /// The record, padded to one sector.
    fn bytes(&self) -> Vec<u8> {
        let text = format!("{} {}", self.fields(), self.checksum());
        format!("{text:<width$}\n", width = SECTOR - 1).into_bytes()
    }
}

impl HighWater {
    /// Opens the file in which `mark` was found. The disk may be too full to create the file anew.
    pub(super) fn open(directory: &Path, mark: Mark, committed: u64) -> Result<Self, StoreError> {
        let file = File::options().write(true).open(directory.join(NAME))?;
        let mut opened = Self { file, epoch: mark.epoch, generation: mark.generation + 1, is_behind: false };
        opened.commit(committed)?;
        Ok(opened)
    }

    /// Creates the file, or replaces it in one step. `reserved` is the last reserved position, `committed` the last
    /// committed one.
    pub(super) fn create(directory: &Path, epoch: Epoch, reserved: u64, committed: u64) -> Result<Self, StoreError> {
        let (path, new) = (directory.join(NAME), directory.join(format!("{NAME}.new")));
        let record = |generation, position| Record { generation, epoch, position }.bytes();
        let file = File::create(&new)?;
        // An even generation is stored in the first sector, an odd one in the second.
        file.write_all_at(&[record(2, reserved), record(1, reserved), record(0, committed)].concat(), 0)?;
        file.sync_all()?;
        fs::rename(&new, &path)?;
        filesystem::sync_directory(directory)?;
        Ok(Self { file, epoch, generation: 3, is_behind: false })
    }

    /// Reserves the positions up to `to`. When this returns, the record survives a power cut.
    pub(super) fn reserve(&mut self, to: u64) -> io::Result<()> {
        let record = Record { generation: self.generation, epoch: self.epoch, position: to };
        self.file.write_all_at(&record.bytes(), self.generation % 2 * SECTOR_OFFSET)?;
        self.file.sync_data()?;
        self.generation += 1;
        Ok(())
    }

    /// Lowers the last reserved position to `last`, the last one that was given. This writes both records: if the newer
    /// one were damaged later, the older one would count, and a higher position there would contradict the database.
    pub(super) fn end(&mut self, last: u64) -> io::Result<()> {
        self.reserve(last)?;
        self.reserve(last)
    }

    /// Writes that `to` is the last committed position. A full disk is no error here: the record keeps its older value,
    /// and the events are safe without it. On some file systems even overwriting needs space.
    pub(super) fn commit(&mut self, to: u64) -> io::Result<()> {
        let record = Record { generation: 0, epoch: self.epoch, position: to };
        let written = self.file.write_all_at(&record.bytes(), 2 * SECTOR_OFFSET);
        let is_full = written.as_ref().is_err_and(filesystem::is_full_error);
        if is_full && !self.is_behind {
            tracing::warn!("the disk is too full to write high-water: it keeps an older position for now");
        }
        self.is_behind = is_full;
        if is_full { Ok(()) } else { written }
    }
}

impl Mark {
    /// Compares the database with this mark. Returns why the database cannot be the latest one of this directory, or
    /// `None` when it can be. `epoch`, `reserved` and `last_found` are those of the database. Without `last_found`, the
    /// committed position is not compared.
    pub(super) fn contradiction(&self, epoch: Epoch, reserved: u64, last_found: Option<u64>) -> Option<&'static str> {
        if self.epoch != epoch {
            Some("the database has another epoch than the last one in this directory")
        } else if reserved < self.reserved || last_found.is_some_and(|last_found| last_found < self.committed) {
            Some("the database ends before the last position of this directory: it was restored or truncated")
        } else {
            None
        }
    }
}
