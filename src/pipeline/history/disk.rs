//! Parts of the past that memory has no room for, in a file.
//!
//! Written once, read back whole, and bounded by whoever keeps the places. What was read last is remembered for a moment:
//! those who go through a part do so a little at a time, and often together.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::encoding::{decode, encode};
use crate::change::{Change, Relation};
use crate::log::{Segment, Tail};

/// After the file could not be written, until the next attempt.
const RETRY_PAUSE: Duration = Duration::from_secs(5);
/// How long a part that was read is remembered without being asked for.
const RECENT_AGE_MAX: Duration = Duration::from_secs(5);

/// The files.
#[derive(Debug)]
pub(super) struct Disk {
    directory: PathBuf,
    tail: Option<Tail>,
    /// It could not be written.
    retry_at: Option<Instant>,
    /// What was read, the latest last.
    recent: VecDeque<Recent>,
    recent_bytes: usize,
    recent_bytes_max: usize,
    #[cfg(test)]
    reads: u64,
}

/// Where a part is.
#[derive(Debug)]
pub(super) struct Place {
    segment: Arc<Segment>,
    offset: u64,
    length: u32,
    /// Those that its changes name.
    relations: Box<[Arc<Relation>]>,
}

#[derive(Debug)]
struct Recent {
    number: u64,
    changes: Arc<Vec<Change>>,
    bytes: usize,
    used: Instant,
}

impl Disk {
    /// Nothing yet. Remembers what was read within `recent_bytes_max`.
    pub(super) fn new(directory: PathBuf, recent_bytes_max: usize) -> Self {
        Self {
            directory,
            tail: None,
            retry_at: None,
            recent: VecDeque::new(),
            recent_bytes: 0,
            recent_bytes_max,
            #[cfg(test)]
            reads: 0,
        }
    }

    /// Writes a part to the file; `None` if that cannot be done at the moment.
    pub(super) fn write(&mut self, now: Instant, changes: &[Change]) -> Option<Place> {
        if self.retry_at.is_some_and(|at| now < at) {
            return None;
        }
        match self.append(changes) {
            Ok(place) => {
                self.retry_at = None;
                Some(place)
            }
            Err(error) => {
                tracing::error!(%error, directory = %self.directory.display(), "cannot write the file of recent transactions");
                // The next attempt is made with another file.
                self.tail = None;
                self.retry_at = now.checked_add(RETRY_PAUSE);
                None
            }
        }
    }

    fn append(&mut self, changes: &[Change]) -> io::Result<Place> {
        let (bytes, relations) = encode(changes);
        let length = u32::try_from(bytes.len()).map_err(|_large| io::ErrorKind::FileTooLarge)?;
        let tail = match self.tail.take() {
            Some(tail) if !tail.is_full() => tail,
            _ => Tail::create(&self.directory)?,
        };
        let tail = self.tail.insert(tail);
        let offset = tail.append(&bytes)?;
        Ok(Place {
            segment: Arc::clone(&tail.segment),
            offset,
            length,
            relations,
        })
    }

    /// Reads part `number` back, which blocks shortly; whether it had to be read.
    ///
    /// # Errors
    /// The disk is broken.
    pub(super) fn read(
        &mut self,
        now: Instant,
        number: u64,
        place: &Place,
    ) -> io::Result<(Arc<Vec<Change>>, bool)> {
        let known = self
            .recent
            .iter()
            .position(|recent| recent.number == number);
        if let Some(mut known) = known.and_then(|index| self.recent.remove(index)) {
            let changes = Arc::clone(&known.changes);
            known.used = now;
            self.recent.push_back(known);
            return Ok((changes, false));
        }
        let bytes = place.segment.read(place.offset, place.length)?;
        let held = bytes.len();
        let changes = decode(bytes, &place.relations).ok_or(io::ErrorKind::InvalidData)?;
        let of_changes = changes.len().saturating_mul(size_of::<Change>());
        let changes = Arc::new(changes);
        self.remember(Recent {
            number,
            changes: Arc::clone(&changes),
            bytes: held.saturating_add(of_changes),
            used: now,
        });
        #[cfg(test)]
        {
            self.reads += 1;
        }
        Ok((changes, true))
    }

    fn remember(&mut self, read: Recent) {
        if read.bytes > self.recent_bytes_max {
            return;
        }
        self.recent_bytes = self.recent_bytes.saturating_add(read.bytes);
        self.recent.push_back(read);
        while self.recent_bytes > self.recent_bytes_max {
            self.drop_recent();
        }
    }

    fn drop_recent(&mut self) {
        if let Some(recent) = self.recent.pop_front() {
            self.recent_bytes = self.recent_bytes.saturating_sub(recent.bytes);
        }
    }

    /// Lets go of what was read and is not asked for any more.
    pub(super) fn tidy(&mut self, now: Instant) {
        while let Some(recent) = self.recent.front()
            && now.saturating_duration_since(recent.used) > RECENT_AGE_MAX
        {
            self.drop_recent();
        }
    }

    /// Bytes of memory that what was read takes.
    pub(super) const fn recent_bytes(&self) -> usize {
        self.recent_bytes
    }

    /// Nothing of it is needed any more: its space goes back at once.
    pub(super) fn clear(&mut self) {
        self.tail = None;
        self.recent.clear();
        self.recent_bytes = 0;
    }

    /// Whether it takes no space.
    #[cfg(test)]
    pub(super) const fn is_unused(&self) -> bool {
        self.tail.is_none()
    }

    /// How often a part was read.
    #[cfg(test)]
    pub(super) const fn reads(&self) -> u64 {
        self.reads
    }
}

impl Place {
    /// Bytes in the file.
    pub(super) fn length(&self) -> usize {
        usize::try_from(self.length).unwrap_or(usize::MAX)
    }

    /// Bytes of memory besides this struct.
    pub(super) fn memory(&self) -> usize {
        size_of_val(&*self.relations)
    }

    /// The file has no such place.
    #[cfg(test)]
    pub(super) const fn lose(&mut self) {
        self.offset = u64::MAX / 4;
    }
}
