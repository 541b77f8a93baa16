//! Payloads that were made for one reader, and wait until its socket takes them (*io*: those that memory has no room for
//! are in a file).
//!
//! Unlike the log, which forgets what is old, this keeps everything until the reader is done or gone, so that its size is
//! bounded beforehand: whoever fills one has taken a [`Share`] of an [`Allowance`]. The file has no name and vanishes with
//! its reader.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

use super::Gone;
use super::segment::{Segment, Tail};

/// Bytes that stay in memory; more move to a file, so many at a time.
const MEMORY_BYTES_MAX: usize = 128 << 10;

/// Bytes that all readers together may leave waiting. Clones share them.
#[derive(Clone, Debug)]
pub struct Allowance {
    bytes_max: usize,
    taken: Arc<AtomicUsize>,
}

/// A part of an [`Allowance`], given back when it is dropped.
#[derive(Debug)]
pub struct Share {
    bytes: usize,
    taken: Arc<AtomicUsize>,
}

impl Allowance {
    /// So many bytes, none of them taken.
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            taken: Arc::default(),
        }
    }

    /// Takes `bytes`, if so many are left or none is taken at all.
    #[must_use]
    pub fn take(&self, bytes: usize) -> Option<Share> {
        let fits = |taken: usize| {
            let sum = taken.checked_add(bytes)?;
            (taken == 0 || sum <= self.bytes_max).then_some(sum)
        };
        self.taken
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits)
            .ok()?;
        Some(Share {
            bytes,
            taken: Arc::clone(&self.taken),
        })
    }

    /// Bytes that are taken.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }
}

impl Share {
    /// Gives back all but `bytes`.
    fn shrink(&mut self, bytes: usize) {
        let surplus = self.bytes.saturating_sub(bytes);
        self.taken.fetch_sub(surplus, Ordering::Relaxed);
        self.bytes = self.bytes.saturating_sub(surplus);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.taken.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Payloads while they are being added.
#[derive(Debug)]
pub struct Keeper {
    directory: PathBuf,
    share: Share,
    /// What is not in the file.
    memory: Vec<u8>,
    file: Option<Tail>,
    /// Where each payload ends.
    ends: Vec<u64>,
}

/// Payloads that are complete.
#[derive(Debug)]
pub struct Kept {
    source: Source,
    ends: Box<[u64]>,
    _share: Share,
}

#[derive(Debug)]
enum Source {
    Memory(Bytes),
    File(Arc<Segment>),
}

impl Keeper {
    /// Nothing yet. The caller adds no more bytes than its share has; files are made in `directory`.
    #[must_use]
    pub fn new(directory: PathBuf, share: Share) -> Self {
        Self {
            directory,
            share,
            memory: Vec::new(),
            file: None,
            ends: Vec::new(),
        }
    }

    /// Payloads so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Bytes of all payloads so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }

    /// Adds a payload.
    ///
    /// # Errors
    /// The file cannot be made or written; perhaps the disk is full.
    pub fn append(&mut self, payload: &[u8]) -> io::Result<()> {
        self.memory.extend_from_slice(payload);
        let added = u64::try_from(payload.len()).unwrap_or(u64::MAX);
        self.ends.push(self.bytes().saturating_add(added));
        if self.memory.len() > MEMORY_BYTES_MAX {
            self.write()?;
        }
        Ok(())
    }

    /// No further payload comes.
    ///
    /// # Errors
    /// As [`Self::append`].
    pub fn finish(mut self) -> io::Result<Kept> {
        if self.file.is_some() {
            self.write()?;
        }
        let bytes = usize::try_from(self.bytes()).unwrap_or(usize::MAX);
        self.share.shrink(bytes);
        Ok(Kept {
            source: match self.file {
                Some(file) => Source::File(file.segment),
                None => Source::Memory(self.memory.into()),
            },
            ends: self.ends.into(),
            _share: self.share,
        })
    }

    fn write(&mut self) -> io::Result<()> {
        let fresh = match self.file.take() {
            Some(file) => file,
            None => Tail::create(&self.directory)?,
        };
        self.file.insert(fresh).append(&self.memory)?;
        self.memory.clear();
        Ok(())
    }
}

impl Kept {
    /// Payloads.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The payloads `first .. first + count`. Those in the file are read from it, which blocks shortly.
    ///
    /// # Errors
    /// There are not so many, or the file cannot be read any more.
    pub fn read(&self, first: u32, count: u32) -> Result<Vec<Bytes>, Gone> {
        let first = usize::try_from(first).map_err(|_too_large| Gone)?;
        let count = usize::try_from(count).map_err(|_too_large| Gone)?;
        let ends = self
            .ends
            .get(first..first.saturating_add(count))
            .ok_or(Gone)?;
        let start = match first.checked_sub(1) {
            Some(before) => self.ends.get(before).copied().ok_or(Gone)?,
            None => 0,
        };
        let Some(end) = ends.last() else {
            return Ok(Vec::new());
        };
        let mut bytes = self.bytes(start, *end)?;
        let mut from = start;
        let mut payloads = Vec::with_capacity(count);
        for end in ends {
            let length = usize::try_from(end.saturating_sub(from)).map_err(|_too_large| Gone)?;
            if length > bytes.len() {
                return Err(Gone);
            }
            payloads.push(bytes.split_to(length));
            from = *end;
        }
        Ok(payloads)
    }

    fn bytes(&self, start: u64, end: u64) -> Result<Bytes, Gone> {
        match &self.source {
            Source::Memory(bytes) => {
                let start = usize::try_from(start).map_err(|_too_large| Gone)?;
                let end = usize::try_from(end).map_err(|_too_large| Gone)?;
                (start <= end && end <= bytes.len())
                    .then(|| bytes.slice(start..end))
                    .ok_or(Gone)
            }
            Source::File(segment) => {
                let length = u32::try_from(end.saturating_sub(start)).map_err(|_too_large| Gone)?;
                segment.read(start, length).map_err(|error| {
                    tracing::error!(%error, "cannot read the file of kept payloads");
                    Gone
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(payloads: &[String]) {
        let allowance = Allowance::new(10 << 20);
        let directory = std::env::temp_dir().join("walcast-kept-test");
        let mut keeper = Keeper::new(directory, allowance.take(5 << 20).unwrap());
        for payload in payloads {
            keeper.append(payload.as_bytes()).unwrap();
        }
        let bytes: usize = payloads.iter().map(String::len).sum();
        let kept = keeper.finish().unwrap();
        assert_eq!(kept.len(), payloads.len());
        assert_eq!(allowance.taken(), bytes);
        let step = payloads.len() / 20 + 1;
        for first in (0..payloads.len()).step_by(step) {
            for count in [0, 1, 7, payloads.len() - first] {
                let expected: Option<Vec<Bytes>> = payloads
                    .get(first..first + count)
                    .map(|some| some.iter().cloned().map(Bytes::from).collect());
                let read = kept.read(first as u32, count as u32).ok();
                assert_eq!(read, expected, "{first} {count}");
            }
        }
        assert_eq!(kept.read(payloads.len() as u32, 1), Err(Gone));
        drop(kept);
        assert_eq!(allowance.taken(), 0);
    }

    #[test]
    fn what_was_added_is_read_back_from_memory_and_from_a_file() {
        check(&[]);
        check(&["a".into(), String::new(), "bcd".into()]);
        check(
            &(0..1000)
                .map(|n| format!("payload {n}"))
                .collect::<Vec<_>>(),
        );
        check(&(0..100).map(|n| "x".repeat(n * 100)).collect::<Vec<_>>());
    }

    #[test]
    fn no_more_is_taken_than_there_is() {
        let allowance = Allowance::new(10);
        let first = allowance.take(6).unwrap();
        assert!(allowance.take(5).is_none());
        let second = allowance.take(4).unwrap();
        drop(first);
        assert_eq!(allowance.taken(), 4);
        drop(second);
        // Who is alone may have more, or a limit set too low would let nobody in.
        let alone = allowance.take(20).unwrap();
        assert!(allowance.take(1).is_none());
        drop(alone);
        assert_eq!(allowance.taken(), 0);
    }
}
