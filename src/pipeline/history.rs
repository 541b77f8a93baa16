//! The transactions of the recent past, in the order of the stream: what those who come back go through again.
//!
//! Released parts go in; they come out by number, and positions are looked up. Bounded by bytes and by age: the oldest
//! leave, and positions before them are no longer retained. Whoever asks for one is told, never given the rest as if it
//! were all. Parts of large transactions move to a file (*io*), so that one of them does not drive everything else out.
//! Knows no subscriber.

mod disk;
mod encoding;

use std::collections::VecDeque;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use self::disk::{Disk, Place};
use super::part::Part;
use crate::change::{Change, ChangeKind, Commit, Cursor, Lsn, PgTime, TransactionPart, Tuple};
use bytes::BytesMut;

/// How much of the past is kept.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of memory, the log's included.
    pub bytes_max: usize,
    /// Bytes of memory of one transaction; the parts of a larger one move to a file.
    pub transaction_bytes_max: usize,
    /// Bytes in the file; 0: nothing moves there. Like the log's, its space comes back a segment at a time.
    pub file_bytes_max: usize,
    /// Where the file is made; it has no name there.
    pub directory: PathBuf,
    /// Parts leave after so long.
    pub age_max: Duration,
}

/// A place in the stream: after this change and before the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position {
    /// Start of the commit record.
    pub(super) lsn: Lsn,
    /// Order of the change in its transaction.
    pub(super) order: u32,
}

impl Position {
    /// Before every commit that starts at `lsn` or later.
    pub(super) fn before(lsn: Lsn) -> Self {
        Self {
            lsn: Lsn::new(lsn.bytes().saturating_sub(1)),
            order: u32::MAX,
        }
    }

    /// After a change.
    pub(super) const fn of(commit: &Commit, order: u32) -> Self {
        Self {
            lsn: commit.lsn,
            order,
        }
    }
}

impl From<Cursor> for Position {
    fn from(cursor: Cursor) -> Self {
        Self {
            lsn: cursor.commit_lsn,
            order: cursor.order,
        }
    }
}

/// A part as it is shared by the history and by those who deliver it.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub(super) commit: Arc<Commit>,
    pub(super) changes: Arc<Vec<Change>>,
    /// As [`Part::size`].
    pub(super) size: usize,
    pub(super) last: bool,
    pub(super) is_whole: bool,
}

/// A part that was looked up.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) kept: Kept,
    /// It had to be read from the file.
    pub(super) was_read: bool,
}

#[derive(Debug)]
struct Entry {
    commit: Arc<Commit>,
    size: usize,
    last: bool,
    is_whole: bool,
    /// After its last change; after the whole transaction if this is the end of it.
    end: Position,
    content: Content,
    /// Of memory.
    bytes: usize,
    since: Instant,
    /// As somebody sees it who goes through it at the moment.
    seen: Weak<Part>,
}

/// The changes of a part.
#[derive(Debug)]
enum Content {
    Memory(Arc<Vec<Change>>),
    File(Place),
}

/// The transaction whose parts come in.
#[derive(Clone, Copy, Debug)]
struct Growing {
    commit: Lsn,
    /// Number of the first of its parts that is not among the movable ones.
    first: u64,
    /// Of memory, of all its parts when they came.
    bytes: usize,
}

/// What is not retained any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooOld;

/// The recent past.
#[derive(Debug)]
pub(super) struct History {
    limits: Limits,
    entries: VecDeque<Entry>,
    /// Number of the first entry.
    first: u64,
    /// Of memory, without what was read from the file.
    bytes: usize,
    /// The last transaction.
    growing: Option<Growing>,
    /// Parts in memory of transactions that are too large for it, by number, the oldest first.
    movable: VecDeque<Range<u64>>,
    /// Of memory, of these.
    movable_bytes: usize,
    disk: Disk,
    /// In the file.
    file_bytes: usize,
    /// Everything after this position is here; `None` before the stream has begun.
    floor: Option<Position>,
    /// The latest commit that is no longer here; `None` if not known.
    floor_time: Option<PgTime>,
}

/// Memory of an entry besides its changes, roughly: the commit, the shared vector's head, the place in the queue.
const ENTRY_BYTES: usize = size_of::<Entry>() + size_of::<Commit>() + 64;
/// Parts that move to the file when one comes in: a transaction that turns out to be large must not hold up what commits
/// meanwhile.
const MOVES_AT_ONCE: usize = 2;
/// The share of memory for what was read from the file.
const RECENT_SHARE: usize = 16;

impl History {
    pub(super) fn new(limits: Limits) -> Self {
        let recent_bytes_max = limits.bytes_max / RECENT_SHARE;
        Self {
            disk: Disk::new(limits.directory.clone(), recent_bytes_max),
            limits,
            entries: VecDeque::new(),
            first: 0,
            bytes: 0,
            growing: None,
            movable: VecDeque::new(),
            movable_bytes: 0,
            file_bytes: 0,
            floor: None,
            floor_time: None,
        }
    }

    /// The stream has begun, with commits from `from` on.
    pub(super) fn begin(&mut self, from: Lsn) {
        if self.floor.is_none() {
            self.floor = Some(Position::before(from));
        }
    }

    /// Positions have a new meaning.
    pub(super) fn restart(&mut self) {
        self.clear();
        (self.floor, self.floor_time) = (None, None);
    }

    /// Takes a part in. `besides`: bytes of memory that are used elsewhere and count here.
    pub(super) fn push(
        &mut self,
        now: Instant,
        part: TransactionPart,
        is_whole: bool,
        besides: usize,
    ) -> Kept {
        let (changes, bytes) = detach(part.changes);
        let kept = Kept {
            commit: part.commit,
            size: super::part::memory_of(part.size, changes.len()),
            changes: Arc::new(changes),
            last: part.last,
            is_whole,
        };
        let bytes = bytes.saturating_add(ENTRY_BYTES);
        self.bytes = self.bytes.saturating_add(bytes);
        self.entries.push_back(Entry::new(&kept, bytes, now));
        self.note_growth(kept.commit.lsn, bytes);
        for _ in 0..MOVES_AT_ONCE {
            if self.movable_bytes <= self.limits.transaction_bytes_max || !self.move_next(now) {
                break;
            }
        }
        self.bound(now, besides);
        kept
    }

    /// Notes whether the transaction of the part that came last is too large for memory.
    fn note_growth(&mut self, commit: Lsn, bytes: usize) {
        if self.limits.file_bytes_max == 0 {
            return;
        }
        let number = self.end().saturating_sub(1);
        let growing = self.growing.filter(|growing| growing.commit == commit);
        let mut growing = growing.unwrap_or(Growing {
            commit,
            first: number,
            bytes: 0,
        });
        growing.bytes = growing.bytes.saturating_add(bytes);
        if growing.bytes > self.limits.transaction_bytes_max {
            let first = growing.first.max(self.first);
            let behind = self.index_of(first).unwrap_or(0);
            let added: usize = self.entries.range(behind..).map(|entry| entry.bytes).sum();
            self.movable_bytes = self.movable_bytes.saturating_add(added);
            growing.first = self.end();
            match self.movable.back_mut() {
                Some(range) if range.end == first => range.end = growing.first,
                _ => self.movable.push_back(first..growing.first),
            }
        }
        self.growing = Some(growing);
    }

    /// Moves the oldest part that may to the file; whether there was one and it could be written.
    fn move_next(&mut self, now: Instant) -> bool {
        let next = self.movable.front().map(|range| range.start);
        let index = next.and_then(|number| self.index_of(number));
        let Some(entry) = index.and_then(|index| self.entries.get_mut(index)) else {
            return false;
        };
        let Content::Memory(changes) = &entry.content else {
            return false;
        };
        let Some(place) = self.disk.write(now, changes) else {
            return false;
        };
        let before = entry.bytes;
        entry.bytes = ENTRY_BYTES.saturating_add(place.memory());
        self.bytes = self.bytes.saturating_sub(before);
        self.bytes = self.bytes.saturating_add(entry.bytes);
        self.file_bytes = self.file_bytes.saturating_add(place.length());
        entry.content = Content::File(place);
        self.pass_movable(before);
        while self.file_bytes > self.limits.file_bytes_max && !self.entries.is_empty() {
            self.forget_first();
        }
        true
    }

    /// The first of the movable parts, of so many bytes, is none any more.
    fn pass_movable(&mut self, bytes: usize) {
        let Some(range) = self.movable.front_mut() else {
            return;
        };
        range.start = range.start.saturating_add(1);
        if range.is_empty() {
            self.movable.pop_front();
        }
        self.movable_bytes = self.movable_bytes.saturating_sub(bytes);
    }

    /// A transaction has no content: nobody can go past it.
    pub(super) fn cut(&mut self, commit: &Commit) {
        self.clear();
        self.floor = Some(Position::of(commit, u32::MAX));
        self.floor_time = self.floor_time.max(Some(commit.time));
    }

    /// Brings it back within the limits: what may move to the file does, then the oldest leave.
    pub(super) fn bound(&mut self, now: Instant, besides: usize) {
        self.disk.tidy(now);
        while let Some(entry) = self.entries.front() {
            let is_old = now.saturating_duration_since(entry.since) > self.limits.age_max;
            let is_over = self.bytes().saturating_add(besides) > self.limits.bytes_max;
            if !is_old && !is_over {
                break;
            }
            if is_old || !self.move_next(now) {
                self.forget_first();
            }
        }
    }

    fn forget_first(&mut self) {
        let Some(entry) = self.entries.pop_front() else {
            return;
        };
        if (self.movable.front()).is_some_and(|range| range.start == self.first) {
            self.pass_movable(entry.bytes);
        }
        self.first = self.first.saturating_add(1);
        self.bytes = self.bytes.saturating_sub(entry.bytes);
        if let Content::File(place) = &entry.content {
            self.file_bytes = self.file_bytes.saturating_sub(place.length());
            if self.file_bytes == 0 {
                self.disk.clear();
            }
        }
        self.floor = self.floor.max(Some(entry.end));
        self.floor_time = self.floor_time.max(Some(entry.commit.time));
    }

    fn clear(&mut self) {
        self.first = self.end();
        self.entries.clear();
        self.bytes = 0;
        self.growing = None;
        self.movable.clear();
        self.movable_bytes = 0;
        self.disk.clear();
        self.file_bytes = 0;
    }

    /// Bytes of memory.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes.saturating_add(self.disk.recent_bytes())
    }

    /// Bytes in the file.
    pub(super) const fn file_bytes(&self) -> usize {
        self.file_bytes
    }

    /// How often a part was read from the file.
    #[cfg(test)]
    pub(super) const fn reads(&self) -> u64 {
        self.disk.reads()
    }

    /// Whether everything after the position is here, or is still to come.
    pub(super) fn holds(&self, position: Position) -> bool {
        self.floor.is_some_and(|floor| position >= floor)
    }

    /// The oldest position that is held.
    pub(super) const fn floor(&self) -> Option<Position> {
        self.floor
    }

    /// The position before the first transaction that committed at `time` or later; `None` if none has yet.
    pub(super) fn before_time(&self, time: PgTime) -> Result<Option<Position>, TooOld> {
        // What was there before the first entry is not known after a start: it may have been as late as that.
        let first = self.entries.front().map(|entry| entry.commit.time);
        let known_from = self.floor_time.or(first).ok_or(TooOld)?;
        if time <= known_from {
            return Err(TooOld);
        }
        let found = self.entries.iter().find(|entry| entry.commit.time >= time);
        Ok(found.map(|entry| Position::before(entry.commit.lsn)))
    }

    /// Number of the first entry with something after the position.
    pub(super) fn number_after(&self, position: Position) -> u64 {
        let index = self.entries.partition_point(|entry| entry.end <= position);
        self.first
            .saturating_add(u64::try_from(index).unwrap_or(u64::MAX))
    }

    /// The newest position.
    pub(super) fn last(&self) -> Option<Position> {
        let last = self.entries.back().map(|entry| entry.end);
        last.or(self.floor)
    }

    /// The number that the next entry will have.
    pub(super) fn end(&self) -> u64 {
        self.first
            .saturating_add(u64::try_from(self.entries.len()).unwrap_or(u64::MAX))
    }

    /// The commit of the entry of this number, if it is here.
    pub(super) fn commit(&self, number: u64) -> Option<&Commit> {
        let entry = self.entries.get(self.index_of(number)?)?;
        Some(&entry.commit)
    }

    /// The entry of this number; `Ok(None)` if there is none yet. Reads it from the file if it is there, which blocks
    /// shortly; if that fails, nobody can go past it.
    pub(super) fn find(&mut self, now: Instant, number: u64) -> Result<Option<Found>, TooOld> {
        let index = self.index_of(number).ok_or(TooOld)?;
        let Some(entry) = self.entries.get(index) else {
            return Ok(None);
        };
        let read = match (&entry.content, entry.seen.upgrade()) {
            (Content::Memory(changes), _) => Ok((Arc::clone(changes), false)),
            (Content::File(_), Some(part)) => Ok((Arc::clone(&part.changes), false)),
            (Content::File(place), None) => self.disk.read(now, number, place),
        };
        match read {
            Ok((changes, was_read)) => Ok(Some(Found {
                kept: entry.keep(changes),
                was_read,
            })),
            Err(error) => {
                tracing::error!(%error, commit = %entry.commit.lsn, "cannot read the file of recent transactions");
                for _ in self.first..=number {
                    self.forget_first();
                }
                Err(TooOld)
            }
        }
    }

    /// The entry as somebody sees it at the moment.
    pub(super) fn seen(&self, number: u64) -> Option<Arc<Part>> {
        self.entries.get(self.index_of(number)?)?.seen.upgrade()
    }

    /// Keeps how somebody sees the entry, for as long as somebody does.
    pub(super) fn see(&mut self, number: u64, part: &Arc<Part>) {
        let index = self.index_of(number);
        if let Some(entry) = index.and_then(|index| self.entries.get_mut(index)) {
            entry.seen = Arc::downgrade(part);
        }
    }

    /// Where the entry of this number is, or would be; `None` if it is no longer here.
    fn index_of(&self, number: u64) -> Option<usize> {
        usize::try_from(number.checked_sub(self.first)?).ok()
    }
}

impl Entry {
    fn new(kept: &Kept, bytes: usize, since: Instant) -> Self {
        let order = match kept.changes.last() {
            Some(change) if !kept.last => change.order,
            _ => u32::MAX,
        };
        Self {
            commit: Arc::clone(&kept.commit),
            size: kept.size,
            last: kept.last,
            is_whole: kept.is_whole,
            end: Position::of(&kept.commit, order),
            content: Content::Memory(Arc::clone(&kept.changes)),
            bytes,
            since,
            seen: Weak::new(),
        }
    }

    fn keep(&self, changes: Arc<Vec<Change>>) -> Kept {
        Kept {
            commit: Arc::clone(&self.commit),
            changes,
            size: self.size,
            last: self.last,
            is_whole: self.is_whole,
        }
    }
}

/// Puts the tuples into memory of their own: buffers of the stream are not kept for them. Returns the bytes of all.
fn detach(mut changes: Vec<Change>) -> (Vec<Change>, usize) {
    let bytes = changes
        .iter_mut()
        .flat_map(tuples)
        .map(|tuple| tuple.size());
    let bytes: usize = bytes.sum();
    let mut block = BytesMut::with_capacity(bytes);
    for tuple in changes.iter_mut().flat_map(tuples) {
        *tuple = tuple.detach_into(&mut block);
    }
    changes.shrink_to_fit();
    let of_changes = changes.len().saturating_mul(size_of::<Change>());
    (changes, bytes.saturating_add(of_changes))
}

fn tuples(change: &mut Change) -> impl Iterator<Item = &mut Tuple> {
    let (new, old) = match &mut change.kind {
        ChangeKind::Insert { new } => (Some(new), None),
        ChangeKind::Update { old, new } => (Some(new), old.as_mut().map(|old| &mut old.tuple)),
        ChangeKind::Delete { old } => (None, Some(&mut old.tuple)),
        ChangeKind::Truncate => (None, None),
    };
    new.into_iter().chain(old)
}

#[cfg(test)]
mod tests;
