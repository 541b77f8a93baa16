//! The payloads (*io*: those that memory has no room for are in a file).

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::segment::{Segment, Tail};

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
    tail: Option<Tail>,
}

#[derive(Debug, Default)]
struct Part {
    payloads: Vec<Payload>,
}

#[derive(Clone, Debug)]
enum Payload {
    Memory(Bytes),
    File {
        segment: Arc<Segment>,
        offset: u64,
        length: u32,
    },
}

impl Payload {
    fn size(&self) -> usize {
        match self {
            Self::Memory(bytes) => bytes.len(),
            Self::File { length, .. } => usize::try_from(*length).unwrap_or(usize::MAX),
        }
    }
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

    /// Adds payloads to a part and gives the place of the first of them.
    ///
    /// # Errors
    /// The part has left the log.
    pub fn append(&self, part: u64, payloads: Vec<Bytes>) -> Result<u32, Gone> {
        let mut state = self.lock();
        let added: usize = payloads.iter().map(Bytes::len).sum();
        let held = state.part_mut(part)?;
        let first = u32::try_from(held.payloads.len()).map_err(|_too_many| Gone)?;
        held.payloads
            .extend(payloads.into_iter().map(Payload::Memory));
        state.memory_bytes = state.memory_bytes.saturating_add(added);
        // A payload may join an old part: an answer that came late.
        state.in_memory_from = state.in_memory_from.min(part);
        Ok(first)
    }

    /// The payloads `first .. first + count` of a part. Those in the file are read from it, which blocks shortly.
    ///
    /// # Errors
    /// The part has left the log, or the file cannot be read any more.
    pub fn read(&self, part: u64, first: u32, count: u32) -> Result<Vec<Bytes>, Gone> {
        let range = {
            let first = usize::try_from(first).map_err(|_too_large| Gone)?;
            let count = usize::try_from(count).map_err(|_too_large| Gone)?;
            first..first.saturating_add(count)
        };
        let payloads = self
            .lock()
            .part_mut(part)?
            .payloads
            .get(range)
            .ok_or(Gone)?
            .to_vec();
        let load = |payload| match payload {
            Payload::Memory(bytes) => Ok(bytes),
            Payload::File {
                segment,
                offset,
                length,
            } => segment.read(offset, length).map_err(|error| {
                tracing::error!(%error, "cannot read the log's file");
                Gone
            }),
        };
        payloads.into_iter().map(load).collect()
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
        while state.memory_bytes.saturating_add(state.file_bytes) > self.limits.bytes_max
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
        let in_memory = |part: &Part| -> Vec<Bytes> {
            let bytes = part.payloads.iter().filter_map(|payload| match payload {
                Payload::Memory(bytes) => Some(bytes.clone()),
                Payload::File { .. } => None,
            });
            bytes.collect()
        };
        let found = state
            .parts
            .iter()
            .enumerate()
            .skip(skipped)
            .find_map(|(index, part)| {
                let payloads = in_memory(part);
                (!payloads.is_empty()).then_some((index, payloads))
            });
        let (index, payloads) = found?;
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
            let offset = tail.append(&payloads.concat())?;
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
        let bytes: usize = payloads.iter().map(Bytes::len).sum();
        let Ok(part) = self.part_mut(number) else {
            return;
        };
        let Some((segment, mut offset)) = moved else {
            let (memory, file) = part.sizes();
            part.payloads.clear();
            self.memory_bytes = self.memory_bytes.saturating_sub(memory);
            self.file_bytes = self.file_bytes.saturating_sub(file);
            return;
        };
        for payload in part
            .payloads
            .iter_mut()
            .filter(|payload| matches!(payload, Payload::Memory(_)))
        {
            let length = u32::try_from(payload.size()).unwrap_or(u32::MAX);
            *payload = Payload::File {
                segment: Arc::clone(&segment),
                offset,
                length,
            };
            offset = offset.saturating_add(u64::from(length));
        }
        self.memory_bytes = self.memory_bytes.saturating_sub(bytes);
        self.file_bytes = self.file_bytes.saturating_add(bytes);
    }

    fn forget_first(&mut self) {
        let Some(part) = self.parts.pop_front() else {
            return;
        };
        let (memory, file) = part.sizes();
        self.memory_bytes = self.memory_bytes.saturating_sub(memory);
        self.file_bytes = self.file_bytes.saturating_sub(file);
        self.first = self.first.saturating_add(1);
        self.in_memory_from = self.in_memory_from.max(self.first);
    }
}

impl Part {
    fn sizes(&self) -> (usize, usize) {
        self.payloads.iter().fold(
            (0_usize, 0_usize),
            |(memory, file), payload| match payload {
                Payload::Memory(bytes) => (memory.saturating_add(bytes.len()), file),
                Payload::File { .. } => (memory, file.saturating_add(payload.size())),
            },
        )
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
        assert_eq!(
            log.append(part, vec!["0123456".into(), "789".into()]),
            Ok(0)
        );
        log.settle();
        assert_eq!(log.bytes(), (10, 0));
        let next = log.open();
        assert_eq!(log.append(next, vec!["abc".into()]), Ok(0));
        log.settle();
        assert_eq!(log.bytes(), (3, 10));
        assert_eq!(
            log.read(part, 0, 2),
            Ok(vec!["0123456".into(), "789".into()])
        );
        assert_eq!(log.append(part, vec!["late".into()]), Ok(2));
        assert_eq!(log.read(part, 1, 2), Ok(vec!["789".into(), "late".into()]));
        assert_eq!(log.read(next, 0, 1), Ok(vec!["abc".into()]));
    }

    #[test]
    fn beyond_all_limits_the_oldest_is_gone_and_said_to_be() {
        let log = log(10, 20);
        let parts: Vec<u64> = (0..3).map(|_| log.open()).collect();
        for part in &parts {
            assert_eq!(log.append(*part, vec!["0123456789".into()]), Ok(0));
            log.settle();
        }
        assert_eq!(log.read(parts[0], 0, 1), Err(Gone));
        assert_eq!(log.append(parts[0], vec!["x".into()]), Err(Gone));
        assert_eq!(log.read(parts[1], 0, 1), Ok(vec!["0123456789".into()]));
        assert_eq!(
            log.read(parts[2], 0, 2),
            Err(Gone),
            "there is only one payload"
        );
    }
}
