//! The payloads (*io*: those that memory has no room for are in a file).

use std::collections::VecDeque;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::segment::{Segment, Tail};
use crate::metrics::SizeCounts;

/// How much the log holds.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of payloads in memory; what is older moves to a file.
    pub memory_bytes_max: usize,
    /// Bytes of payloads in memory and file together; what is older is gone.
    pub bytes_max: usize,
    /// Where the file is made; it has no name there.
    pub directory: PathBuf,
}

/// Bytes that the places of payloads may take even if memory is to hold less.
const INDEX_BYTES_MIN: usize = 64 << 10;

/// The payloads of the recent changes.
#[derive(Debug)]
pub struct Log {
    limits: Limits,
    state: Mutex<State>,
}

/// The payload has left the log: the reader was too slow for its bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the log no longer holds the position")]
pub struct Gone;

#[derive(Debug, Default)]
struct State {
    parts: VecDeque<Part>,
    /// Number of the first of `parts`.
    first: u64,
    /// Parts before this number have no payload in memory.
    in_memory_from: u64,
    memory_bytes: usize,
    file_bytes: usize,
    /// Payloads of all parts.
    payloads: usize,
    /// Of all payloads that ever were added.
    sizes: SizeCounts,
    tail: Option<Tail>,
}

/// The payloads of one part: first those in files, then those in memory.
#[derive(Debug, Default)]
struct Part {
    files: Vec<InFile>,
    memory: Vec<Bytes>,
    /// They could not be written to the file. Nothing may take their places: postings still name them.
    is_lost: bool,
}

/// Payloads of a part that were moved to a file together, one after the other. A transaction may have millions, so that
/// each takes only the place of a number here.
#[derive(Debug)]
struct InFile {
    segment: Arc<Segment>,
    offset: u64,
    /// Where each payload ends, in bytes from `offset`.
    ends: Box<[u32]>,
}

/// A piece of what is to be read.
enum Piece {
    Memory(Vec<Bytes>),
    File {
        segment: Arc<Segment>,
        offset: u64,
        lengths: Vec<u32>,
    },
}

impl Log {
    /// An empty log.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            state: Mutex::default(),
        }
    }

    /// Opens the next part and gives its number. Numbers rise by one.
    #[must_use]
    pub fn open(&self) -> u64 {
        let mut state = self.lock();
        state.parts.push_back(Part::default());
        state
            .first
            .saturating_add(u64::try_from(state.parts.len()).unwrap_or(u64::MAX))
            .saturating_sub(1)
    }

    /// Adds a payload to a part and gives its place.
    ///
    /// # Errors
    /// The part has left the log.
    pub fn append(&self, part: u64, payload: Bytes) -> Result<u32, Gone> {
        let mut state = self.lock();
        let added = payload.len();
        let held = state.part_mut(part)?;
        if held.is_lost {
            return Err(Gone);
        }
        let place = u32::try_from(held.len()).map_err(|_too_many| Gone)?;
        held.memory.push(payload);
        state.memory_bytes = state.memory_bytes.saturating_add(added);
        state.payloads = state.payloads.saturating_add(1);
        state.sizes.add(added);
        // A payload may join an old part: an answer that came late.
        state.in_memory_from = state.in_memory_from.min(part);
        Ok(place)
    }

    /// The sizes of all payloads that were added so far.
    #[must_use]
    pub fn sizes(&self) -> SizeCounts {
        self.lock().sizes
    }

    /// The payloads `first .. first + count` of a part. Those in the file are read from it, which blocks shortly.
    ///
    /// # Errors
    /// The part has left the log, or the file cannot be read any more.
    pub fn read(&self, part: u64, first: u32, count: u32) -> Result<Vec<Bytes>, Gone> {
        let first = usize::try_from(first).map_err(|_too_large| Gone)?;
        let count = usize::try_from(count).map_err(|_too_large| Gone)?;
        let pieces = self.lock().part_mut(part)?.pieces(first, count)?;
        let mut payloads = Vec::with_capacity(count);
        for piece in pieces {
            match piece {
                Piece::Memory(bytes) => payloads.extend(bytes),
                Piece::File {
                    segment,
                    offset,
                    lengths,
                } => {
                    let length = lengths.iter().copied().fold(0, u32::saturating_add);
                    let mut bytes = segment.read(offset, length).map_err(|error| {
                        tracing::error!(%error, "cannot read the log's file");
                        Gone
                    })?;
                    payloads.extend(lengths.iter().map(|length| {
                        let length = usize::try_from(*length).unwrap_or(usize::MAX);
                        bytes.split_to(length.min(bytes.len()))
                    }));
                }
            }
        }
        Ok(payloads)
    }

    /// Whether payloads of the part can be read.
    #[must_use]
    pub fn holds(&self, part: u64) -> bool {
        self.lock().part_mut(part).is_ok_and(|part| !part.is_lost)
    }

    /// Bytes of payloads, in memory and in the file.
    #[must_use]
    pub fn bytes(&self) -> (usize, usize) {
        let state = self.lock();
        (state.memory_bytes, state.file_bytes)
    }

    /// Brings the log back within its limits: moves the oldest payloads to the file, then forgets the oldest parts.
    /// To be called after appending; writes to the file without holding readers up.
    pub fn settle(&self) {
        while let Some((part, payloads)) = self.next_to_move() {
            let moved = self.write(&payloads);
            let mut state = self.lock();
            state.replace(part, &payloads, moved);
        }
        let mut state = self.lock();
        // Many small parts in the file leave more behind in memory than they are worth there.
        while (state.memory_bytes.saturating_add(state.file_bytes) > self.limits.bytes_max
            || state.index_bytes() > self.limits.memory_bytes_max.max(INDEX_BYTES_MIN))
            && state.parts.len() > 1
        {
            state.forget_first();
        }
    }

    /// The oldest part with payloads in memory, if memory is over its limit.
    fn next_to_move(&self) -> Option<(u64, Vec<Bytes>)> {
        let mut state = self.lock();
        if state.memory_bytes <= self.limits.memory_bytes_max {
            return None;
        }
        let skipped = usize::try_from(state.in_memory_from.saturating_sub(state.first)).ok()?;
        let mut parts = state.parts.iter().enumerate().skip(skipped);
        let (index, payloads) = parts
            .find(|(_, part)| !part.memory.is_empty())
            .map(|(index, part)| (index, part.memory.clone()))?;
        let number = state.first.saturating_add(u64::try_from(index).ok()?);
        state.in_memory_from = number.saturating_add(1);
        Some((number, payloads))
    }

    /// Writes the payloads to the file; `None` if that fails, and they are lost to readers.
    fn write(&self, payloads: &[Bytes]) -> Option<(Arc<Segment>, u64)> {
        let mut tail = self.lock().tail.take();
        let mut write = || {
            let fresh = match tail.take() {
                Some(tail) if !tail.is_full() => tail,
                _ => Tail::create(&self.limits.directory)?,
            };
            let tail = tail.insert(fresh);
            let bytes = payloads.concat();
            // Places within a part are numbers of 32 bits.
            u32::try_from(bytes.len()).map_err(|_large| std::io::ErrorKind::FileTooLarge)?;
            let offset = tail.append(&bytes)?;
            Ok::<_, std::io::Error>((Arc::clone(&tail.segment), offset))
        };
        let written = write();
        self.lock().tail = tail;
        written
            .inspect_err(|error| tracing::error!(%error, directory = %self.limits.directory.display(), "cannot write the log's file"))
            .ok()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn part_mut(&mut self, number: u64) -> Result<&mut Part, Gone> {
        let index = number
            .checked_sub(self.first)
            .and_then(|index| usize::try_from(index).ok());
        index
            .and_then(|index| self.parts.get_mut(index))
            .ok_or(Gone)
    }

    /// Puts the place in the file where `payloads` stood in memory; without a place the part loses its payloads.
    fn replace(&mut self, number: u64, payloads: &[Bytes], moved: Option<(Arc<Segment>, u64)>) {
        let Ok(part) = self.part_mut(number) else {
            return;
        };
        let Some((segment, offset)) = moved else {
            let (memory, file) = part.sizes();
            let lost = part.len();
            *part = Part {
                is_lost: true,
                ..Part::default()
            };
            self.memory_bytes = self.memory_bytes.saturating_sub(memory);
            self.file_bytes = self.file_bytes.saturating_sub(file);
            self.payloads = self.payloads.saturating_sub(lost);
            return;
        };
        let mut bytes = 0_usize;
        let ends = payloads.iter().map(|payload| {
            bytes = bytes.saturating_add(payload.len());
            u32::try_from(bytes).unwrap_or(u32::MAX)
        });
        let ends = ends.collect();
        // What joined meanwhile stays.
        part.memory.drain(..payloads.len().min(part.memory.len()));
        part.memory.shrink_to_fit();
        part.files.push(InFile {
            segment,
            offset,
            ends,
        });
        self.memory_bytes = self.memory_bytes.saturating_sub(bytes);
        self.file_bytes = self.file_bytes.saturating_add(bytes);
    }

    /// Bytes that all parts and places take in memory, roughly.
    fn index_bytes(&self) -> usize {
        let parts = size_of::<Part>()
            .saturating_add(size_of::<InFile>())
            .saturating_mul(self.parts.len());
        parts.saturating_add(size_of::<u32>().saturating_mul(self.payloads))
    }

    fn forget_first(&mut self) {
        let Some(part) = self.parts.pop_front() else {
            return;
        };
        let (memory, file) = part.sizes();
        self.memory_bytes = self.memory_bytes.saturating_sub(memory);
        self.file_bytes = self.file_bytes.saturating_sub(file);
        self.payloads = self.payloads.saturating_sub(part.len());
        self.first = self.first.saturating_add(1);
        self.in_memory_from = self.in_memory_from.max(self.first);
    }
}

impl Part {
    /// Payloads.
    fn len(&self) -> usize {
        let files = self.files.iter().map(|file| file.ends.len());
        files.sum::<usize>().saturating_add(self.memory.len())
    }

    /// Bytes in memory and in files.
    fn sizes(&self) -> (usize, usize) {
        let memory = self.memory.iter().map(Bytes::len).sum();
        let files = self.files.iter().map(|file| file.ends.last().copied());
        let files = files.map(|end| usize::try_from(end.unwrap_or(0)).unwrap_or(usize::MAX));
        (memory, files.sum())
    }

    /// Where the payloads `first .. first + count` are.
    fn pieces(&self, first: usize, count: usize) -> Result<Vec<Piece>, Gone> {
        let end = first.saturating_add(count);
        if end > self.len() {
            return Err(Gone);
        }
        let mut pieces = Vec::new();
        let mut before = 0_usize;
        // The part of `first .. end` that lies in the next `length` payloads.
        let mut within = |length: usize| {
            let start = first.saturating_sub(before).min(length);
            let stop = end.saturating_sub(before).min(length);
            before = before.saturating_add(length);
            (start < stop).then_some(start..stop)
        };
        for file in &self.files {
            if let Some(range) = within(file.ends.len()) {
                pieces.push(file.piece(range));
            }
        }
        if let Some(range) = within(self.memory.len()) {
            pieces.push(Piece::Memory(self.memory.get(range).ok_or(Gone)?.to_vec()));
        }
        Ok(pieces)
    }
}

impl InFile {
    fn piece(&self, range: Range<usize>) -> Piece {
        let end = |index: usize| self.ends.get(index).copied().unwrap_or(0);
        let start = range.start.checked_sub(1).map_or(0, end);
        let mut from = start;
        let lengths = range.map(|index| {
            let before = std::mem::replace(&mut from, end(index));
            from.saturating_sub(before)
        });
        let lengths = lengths.collect();
        Piece::File {
            segment: Arc::clone(&self.segment),
            offset: self.offset.saturating_add(u64::from(start)),
            lengths,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(memory_bytes_max: usize, bytes_max: usize) -> Log {
        Log::new(Limits {
            memory_bytes_max,
            bytes_max,
            directory: std::env::temp_dir().join("walcast-log-test"),
        })
    }

    #[test]
    fn what_leaves_memory_reads_the_same_from_the_file() {
        let log = log(10, 1000);
        let part = log.open();
        assert_eq!(log.append(part, "0123456".into()), Ok(0));
        assert_eq!(log.append(part, "789".into()), Ok(1));
        log.settle();
        assert_eq!(log.bytes(), (10, 0));
        let next = log.open();
        assert_eq!(log.append(next, "abc".into()), Ok(0));
        log.settle();
        assert_eq!(log.bytes(), (3, 10));
        assert_eq!(
            log.read(part, 0, 2),
            Ok(vec!["0123456".into(), "789".into()])
        );
        assert_eq!(log.append(part, "late".into()), Ok(2));
        assert_eq!(log.read(part, 1, 2), Ok(vec!["789".into(), "late".into()]));
        assert_eq!(log.read(next, 0, 1), Ok(vec!["abc".into()]));
    }

    #[test]
    fn beyond_all_limits_the_oldest_is_gone_and_said_to_be() {
        let log = log(10, 20);
        let parts: Vec<u64> = (0..3).map(|_| log.open()).collect();
        for part in &parts {
            assert_eq!(log.append(*part, "0123456789".into()), Ok(0));
            log.settle();
        }
        assert_eq!(log.read(parts[0], 0, 1), Err(Gone));
        assert_eq!(log.append(parts[0], "x".into()), Err(Gone));
        assert_eq!(log.read(parts[1], 0, 1), Ok(vec!["0123456789".into()]));
        assert_eq!(
            log.read(parts[2], 0, 2),
            Err(Gone),
            "there is only one payload"
        );
    }

    #[test]
    fn what_could_not_be_written_is_gone_and_nothing_takes_its_place() {
        let log = Log::new(Limits {
            memory_bytes_max: 1,
            bytes_max: 1000,
            directory: "/nonexistent/\0".into(),
        });
        let part = log.open();
        assert_eq!(log.append(part, "abc".into()), Ok(0));
        log.settle();
        assert_eq!(log.bytes(), (0, 0));
        assert_eq!(log.read(part, 0, 1), Err(Gone));
        assert_eq!(log.append(part, "of somebody else".into()), Err(Gone));
    }

    #[test]
    fn runs_may_lie_in_several_files_and_memory() {
        let log = log(3, 1000);
        let part = log.open();
        let payloads: Vec<Bytes> = (0..20_u32).map(|n| "x".repeat(n as usize).into()).collect();
        for (index, payload) in (0..).zip(&payloads) {
            assert_eq!(log.append(part, payload.clone()), Ok(index));
            if index % 3 == 0 {
                log.settle();
            }
        }
        for first in 0..20_usize {
            for count in 1..=20 - first {
                let read = log.read(part, first as u32, count as u32);
                assert_eq!(read.as_deref(), Ok(&payloads[first..first + count]));
            }
        }
    }

    #[test]
    fn places_of_small_parts_are_bounded_by_the_memory_limit() {
        let log = log(10, 1_000_000);
        for _ in 0..1000 {
            let part = log.open();
            assert_eq!(log.append(part, "x".into()), Ok(0));
            log.settle();
        }
        assert_eq!(log.read(0, 0, 1), Err(Gone));
        assert!(log.lock().index_bytes() <= INDEX_BYTES_MIN);
        assert_eq!(log.read(999, 0, 1), Ok(vec!["x".into()]));
    }
}
