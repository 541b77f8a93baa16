//! *io*: where the messages of a transaction wait for its commit: memory first, then a file.
//!
//! Records go in at the end and are read from the front, or again at the place where they began. A place is the number
//! of bytes before a record, the same in memory and in the file. Never keeps more than its limits, and leaves nothing
//! behind after a crash: files have no name. A record that was read keeps alive the segment it lies in: at most
//! [`SEGMENT_BYTES`], or, if larger, the record itself.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Bytes that are allocated, written and read at once. What a record that outlives its transaction keeps alive, hence
/// not larger; with smaller ones the calls of the file system begin to show.
const SEGMENT_BYTES: usize = 64 << 10;

/// Bytes of a single record to read at a place; most row messages fit.
const RECORD_BYTES_GUESS: usize = 1 << 10;

/// Bytes of the length before each record.
const LENGTH_BYTES: usize = size_of::<u32>();

/// Limits of what waits for its commit.
#[derive(Clone, Debug)]
pub struct SpoolOptions {
    /// Where files are made, without a name: a crash leaves nothing.
    pub directory: PathBuf,
    /// Bytes of one transaction in memory; beyond, it goes to a file.
    pub transaction_memory_max: usize,
    /// Bytes of all transactions in memory; beyond, the largest go to files.
    pub memory_max: usize,
    /// Bytes of all files together; a transaction that would grow beyond is skipped.
    pub file_bytes_max: u64,
}

impl SpoolOptions {
    /// 8 MiB of memory for a transaction, 32 MiB for all, then 4 GiB of files in `directory`.
    #[must_use]
    pub const fn new(directory: PathBuf) -> Self {
        Self {
            directory,
            transaction_memory_max: 8 << 20,
            memory_max: 32 << 20,
            file_bytes_max: 4 << 30,
        }
    }
}

/// A record cannot be kept: its transaction must be given up.
#[derive(Debug, thiserror::Error)]
pub(super) enum SpoolError {
    /// The files would exceed their limit.
    #[error("the spool's files would exceed {0} bytes")]
    Full(u64),
    /// The transaction has more changes than can be numbered.
    #[error("the transaction has more than 4294967295 changes")]
    TooManyChanges,
    /// A file cannot be made or written; perhaps the disk is full.
    #[error("cannot write a spool file")]
    Write(#[source] io::Error),
}

/// The limits and what is used of them.
pub(super) struct Spool {
    options: SpoolOptions,
    memory: usize,
    file_bytes: u64,
    /// What the last small transaction left of its segment, for the next one.
    spare: BytesMut,
}

/// One transaction's records while it grows.
#[derive(Default)]
pub(super) struct Held {
    /// Full segments, in order; empty once there is a file.
    segments: Vec<Segment>,
    /// The segment being filled; with a file, the write buffer.
    tail: BytesMut,
    /// Bytes before `tail`.
    tail_start: u64,
    file: Option<File>,
}

struct Segment {
    start: u64,
    bytes: Bytes,
}

impl Spool {
    pub(super) fn new(options: SpoolOptions) -> Self {
        Self {
            options,
            memory: 0,
            file_bytes: 0,
            spare: BytesMut::new(),
        }
    }

    /// A place for a new transaction.
    pub(super) fn open(&mut self) -> Held {
        Held {
            tail: std::mem::take(&mut self.spare),
            ..Held::default()
        }
    }

    /// Whether all transactions together are over the limit; then [`Self::spill`] the largest.
    pub(super) const fn is_over(&self) -> bool {
        self.memory > self.options.memory_max
    }

    /// Bytes of all transactions in memory.
    #[cfg(test)]
    pub(super) const fn memory(&self) -> usize {
        self.memory
    }

    /// Whether nothing is held.
    #[cfg(test)]
    pub(super) const fn is_unused(&self) -> bool {
        self.memory == 0 && self.file_bytes == 0
    }

    /// Adds one record.
    ///
    /// # Errors
    /// Give the transaction up; `held` is to be released.
    pub(super) fn append(&mut self, held: &mut Held, record: &[u8]) -> Result<(), SpoolError> {
        let Ok(length) = u32::try_from(record.len()) else {
            return Err(SpoolError::Full(self.options.file_bytes_max));
        };
        let needed = LENGTH_BYTES + record.len();
        if held.tail.capacity() - held.tail.len() < needed {
            match held.file {
                Some(_) => self.spill(held)?,
                None => held.seal(),
            }
            // A write buffer is never just the rest of an earlier transaction's segment.
            let capacity_min = held.file.as_ref().map_or(needed, |_| SEGMENT_BYTES);
            if held.tail.capacity() < capacity_min.max(needed) {
                held.tail = BytesMut::with_capacity(needed.max(SEGMENT_BYTES));
            }
        }
        held.tail.put_u32(length);
        held.tail.extend_from_slice(record);
        self.memory += needed;
        if held.memory() > self.options.transaction_memory_max {
            self.spill(held)?;
        }
        Ok(())
    }

    /// Moves what `held` has in memory to its file.
    ///
    /// # Errors
    /// Give the transaction up; `held` is to be released.
    pub(super) fn spill(&mut self, held: &mut Held) -> Result<(), SpoolError> {
        let memory = held.memory();
        let growth = memory as u64;
        if self.file_bytes + growth > self.options.file_bytes_max {
            return Err(SpoolError::Full(self.options.file_bytes_max));
        }
        let write = |held: &Held| -> io::Result<Option<File>> {
            let made = match held.file {
                Some(_) => None,
                None => Some(tempfile::tempfile_in(&self.options.directory)?),
            };
            if let Some(file) = made.as_ref().or(held.file.as_ref()) {
                for segment in &held.segments {
                    file.write_all_at(&segment.bytes, segment.start)?;
                }
                file.write_all_at(&held.tail, held.tail_start)?;
            }
            Ok(made)
        };
        let made = write(held).map_err(SpoolError::Write)?;
        held.file = made.or(held.file.take());
        held.segments = Vec::new();
        held.tail_start += held.tail.len() as u64;
        held.tail.clear();
        self.memory -= memory;
        self.file_bytes += growth;
        Ok(())
    }

    /// The transaction is complete and will be read.
    ///
    /// # Errors
    /// Its end cannot be written to its file; it is released.
    pub(super) fn store(&mut self, mut held: Held) -> Result<Stored, SpoolError> {
        if held.file.is_some() {
            if let Err(error) = self.spill(&mut held) {
                self.release_held(held);
                return Err(error);
            }
        } else {
            held.seal();
        }
        let length = held.tail_start;
        if held.file.is_none() {
            self.spare = std::mem::take(&mut held.tail);
        }
        Ok(Stored {
            segments: held.segments,
            file: held.file,
            length,
        })
    }

    /// The transaction is not needed any more.
    pub(super) fn release(&mut self, stored: Stored) {
        match stored.file {
            Some(_) => self.file_bytes -= stored.length,
            None => self.memory -= usize_of(stored.length),
        }
    }

    /// As [`Self::release`], for one that did not commit.
    pub(super) fn release_held(&mut self, held: Held) {
        self.memory -= held.memory();
        if held.file.is_some() {
            self.file_bytes -= held.tail_start;
        }
    }
}

impl Held {
    /// Bytes in memory.
    pub(super) fn memory(&self) -> usize {
        let segments = match self.file {
            Some(_) => 0,
            None => usize_of(self.tail_start),
        };
        segments + self.tail.len()
    }

    fn seal(&mut self) {
        if self.tail.is_empty() {
            return;
        }
        let bytes = self.tail.split().freeze();
        let start = self.tail_start;
        self.tail_start += bytes.len() as u64;
        self.segments.push(Segment { start, bytes });
    }
}

/// One complete transaction's records.
pub(super) struct Stored {
    segments: Vec<Segment>,
    file: Option<File>,
    length: u64,
}

/// Where a [`Stored`] transaction is read next.
#[derive(Default)]
pub(super) struct Position {
    place: u64,
    /// What follows `place`, as far as it is in memory.
    ahead: Bytes,
}

impl Stored {
    /// The record at `position` and its place; `None` at the end.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(super) fn next(&self, position: &mut Position) -> io::Result<Option<(u64, Bytes)>> {
        if position.place >= self.length {
            return Ok(None);
        }
        let place = position.place;
        let record = self.record(place, &mut position.ahead, SEGMENT_BYTES)?;
        position.place += (LENGTH_BYTES + record.len()) as u64;
        Ok(Some((place, record)))
    }

    /// The record that begins at `place`.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(super) fn read_at(&self, place: u64) -> io::Result<Bytes> {
        self.record(place, &mut Bytes::new(), RECORD_BYTES_GUESS)
    }

    /// Takes the record at `place` from `ahead`, which is read again if it does not hold all of it.
    fn record(&self, place: u64, ahead: &mut Bytes, guess: usize) -> io::Result<Bytes> {
        let mut length = peek_length(ahead);
        if length.is_none() {
            *ahead = self.read(place, guess)?;
            length = peek_length(ahead);
        }
        let length = length.ok_or(io::ErrorKind::UnexpectedEof)?;
        if ahead.len() < LENGTH_BYTES + length {
            *ahead = self.read(place, (LENGTH_BYTES + length).max(guess))?;
        }
        if ahead.len() < LENGTH_BYTES + length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        ahead.advance(LENGTH_BYTES);
        Ok(ahead.split_to(length))
    }

    /// Bytes from `place` on: about `count` of a file, up to the segment's end in memory.
    fn read(&self, place: u64, count: usize) -> io::Result<Bytes> {
        let Some(file) = &self.file else {
            let index = self.segments.partition_point(|s| s.start <= place);
            let segment = index.checked_sub(1).and_then(|i| self.segments.get(i));
            let segment = segment.ok_or(io::ErrorKind::UnexpectedEof)?;
            let skipped = usize_of(place - segment.start).min(segment.bytes.len());
            return Ok(segment.bytes.slice(skipped..));
        };
        let count = count.min(usize_of(self.length.saturating_sub(place)));
        let mut bytes = vec![0; count];
        file.read_exact_at(&mut bytes, place)?;
        Ok(bytes.into())
    }
}

fn peek_length(ahead: &Bytes) -> Option<usize> {
    let bytes = ahead.first_chunk::<LENGTH_BYTES>()?;
    Some(usize_of(u32::from_be_bytes(*bytes).into()))
}

/// Lengths of what is, or was, in memory.
fn usize_of(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spool(transaction_memory_max: usize, file_bytes_max: u64) -> Spool {
        Spool::new(SpoolOptions {
            transaction_memory_max,
            memory_max: 1 << 20,
            file_bytes_max,
            ..SpoolOptions::new(std::env::temp_dir())
        })
    }

    fn records() -> Vec<Vec<u8>> {
        (0..3_000_usize)
            .map(|i| vec![u8::try_from(i % 251).unwrap(); i % 300])
            .chain([vec![7; 3 * SEGMENT_BYTES], vec![], vec![1]])
            .collect()
    }

    #[track_caller]
    fn check_round_trip(transaction_memory_max: usize) {
        let mut spool = spool(transaction_memory_max, 1 << 30);
        let records = records();
        let mut held = spool.open();
        for record in &records {
            spool.append(&mut held, record).unwrap();
            assert!(held.memory() <= transaction_memory_max);
        }
        let stored = spool.store(held).unwrap();
        for _twice in 0..2 {
            let (mut position, mut read) = (Position::default(), Vec::new());
            while let Some((place, record)) = stored.next(&mut position).unwrap() {
                assert_eq!(stored.read_at(place).unwrap(), record);
                read.push(record.to_vec());
            }
            assert!(read == records, "the records come back as they went in");
        }
        spool.release(stored);
        assert_eq!((spool.memory, spool.file_bytes), (0, 0));
    }

    #[test]
    fn records_come_back_from_memory() {
        check_round_trip(usize::MAX);
    }

    #[test]
    fn records_come_back_from_a_file() {
        check_round_trip(0);
        check_round_trip(100_000);
    }

    #[test]
    fn a_transaction_over_the_files_limit_is_refused_and_gives_its_bytes_back() {
        let mut spool = spool(1_000, 5_000);
        let mut held = spool.open();
        let refused = (0..100).find_map(|_| spool.append(&mut held, &[0; 100]).err());
        assert!(matches!(refused, Some(SpoolError::Full(5_000))));
        spool.release_held(held);
        assert_eq!((spool.memory, spool.file_bytes), (0, 0));
    }

    #[test]
    fn a_directory_that_is_missing_is_an_error_of_that_transaction() {
        let mut spool = spool(10, 5_000);
        spool.options.directory = PathBuf::from("/nonexistent/directory");
        let mut held = spool.open();
        let refused = spool.append(&mut held, &[0; 100]);
        assert!(matches!(refused, Err(SpoolError::Write(_))));
        spool.release_held(held);
        assert_eq!((spool.memory, spool.file_bytes), (0, 0));
    }

    #[test]
    fn small_transactions_share_a_segment() {
        let mut spool = spool(1_000, 5_000);
        let mut addresses = Vec::new();
        for _ in 0..3 {
            let mut held = spool.open();
            spool.append(&mut held, b"abc").unwrap();
            let stored = spool.store(held).unwrap();
            addresses.push(stored.read_at(0).unwrap().as_ptr().addr());
            spool.release(stored);
        }
        assert_eq!(addresses[1] - addresses[0], 7);
        assert_eq!(addresses[2] - addresses[1], 7);
    }
}
