//! The transactions of the recent past, in the order of the stream: what those who come back go through again.
//!
//! Released parts go in; they come out by number, and positions are looked up. Bounded by bytes and by age: the oldest
//! leave, and positions before them are no longer retained. Whoever asks for one is told, never given the rest as if it
//! were all. Knows no subscriber.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::part::Part;
use crate::change::{Change, ChangeKind, Commit, Cursor, Lsn, PgTime, TransactionPart, Tuple};
use bytes::BytesMut;

/// How much of the past is kept.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of memory, the log's included.
    pub bytes_max: usize,
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

#[derive(Debug)]
struct Entry {
    kept: Kept,
    bytes: usize,
    since: Instant,
    /// As somebody sees it who goes through it at the moment.
    seen: Weak<Part>,
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
    bytes: usize,
    /// Everything after this position is here; `None` before the stream has begun.
    floor: Option<Position>,
    /// The latest commit that is no longer here; `None` if not known.
    floor_time: Option<PgTime>,
}

/// Memory of an entry besides its changes, roughly: the commit, the shared vector's head, the place in the queue.
const ENTRY_BYTES: usize = size_of::<Entry>() + size_of::<Commit>() + 64;

impl History {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            entries: VecDeque::new(),
            first: 0,
            bytes: 0,
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
        self.entries.push_back(Entry {
            kept: kept.clone(),
            bytes,
            since: now,
            seen: Weak::new(),
        });
        self.bound(now, besides);
        kept
    }

    /// A transaction has no content: nobody can go past it.
    pub(super) fn cut(&mut self, commit: &Commit) {
        self.clear();
        self.floor = Some(Position::of(commit, u32::MAX));
        self.floor_time = self.floor_time.max(Some(commit.time));
    }

    /// Lets go of what is over the limits.
    pub(super) fn bound(&mut self, now: Instant, besides: usize) {
        while let Some(entry) = self.entries.front()
            && (self.bytes.saturating_add(besides) > self.limits.bytes_max
                || now.saturating_duration_since(entry.since) > self.limits.age_max)
        {
            self.forget_first();
        }
    }

    fn forget_first(&mut self) {
        let Some(Entry { kept, bytes, .. }) = self.entries.pop_front() else {
            return;
        };
        self.first = self.first.saturating_add(1);
        self.bytes = self.bytes.saturating_sub(bytes);
        self.floor = self.floor.max(Some(kept.end()));
        self.floor_time = self.floor_time.max(Some(kept.commit.time));
    }

    fn clear(&mut self) {
        let count = u64::try_from(self.entries.len()).unwrap_or(u64::MAX);
        self.first = self.first.saturating_add(count);
        self.entries.clear();
        self.bytes = 0;
    }

    /// Bytes of memory.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
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
        let first = self.entries.front().map(|entry| entry.kept.commit.time);
        let known_from = self.floor_time.or(first).ok_or(TooOld)?;
        if time <= known_from {
            return Err(TooOld);
        }
        let found = self
            .entries
            .iter()
            .find(|entry| entry.kept.commit.time >= time);
        Ok(found.map(|entry| Position::before(entry.kept.commit.lsn)))
    }

    /// Number of the first entry with something after the position.
    pub(super) fn number_after(&self, position: Position) -> u64 {
        let index = self
            .entries
            .partition_point(|entry| entry.kept.end() <= position);
        self.first
            .saturating_add(u64::try_from(index).unwrap_or(u64::MAX))
    }

    /// The newest position.
    pub(super) fn last(&self) -> Option<Position> {
        let last = self.entries.back().map(|entry| entry.kept.end());
        last.or(self.floor)
    }

    /// The number that the next entry will have.
    pub(super) fn end(&self) -> u64 {
        self.first
            .saturating_add(u64::try_from(self.entries.len()).unwrap_or(u64::MAX))
    }

    /// The entry of this number; `Ok(None)` if there is none yet.
    pub(super) fn get(&self, number: u64) -> Result<Option<&Kept>, TooOld> {
        let index = number.checked_sub(self.first).ok_or(TooOld)?;
        let index = usize::try_from(index).map_err(|_large| TooOld)?;
        Ok(self.entries.get(index).map(|entry| &entry.kept))
    }

    /// The entry as somebody sees it at the moment.
    pub(super) fn seen(&self, number: u64) -> Option<Arc<Part>> {
        let index = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.entries.get(index)?.seen.upgrade()
    }

    /// Keeps how somebody sees the entry, for as long as somebody does.
    pub(super) fn see(&mut self, number: u64, part: &Arc<Part>) {
        let index = number
            .checked_sub(self.first)
            .and_then(|index| usize::try_from(index).ok());
        if let Some(entry) = index.and_then(|index| self.entries.get_mut(index)) {
            entry.seen = Arc::downgrade(part);
        }
    }
}

impl Kept {
    /// After its last change; after the whole transaction if this is the end of it.
    pub(super) fn end(&self) -> Position {
        let order = match self.changes.last() {
            Some(change) if !self.last => change.order,
            _ => u32::MAX,
        };
        Position::of(&self.commit, order)
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
mod tests {
    use super::*;
    use crate::change::{Datum, Epoch, Relation, ReplicaIdentity, TupleBuilder, Xid};

    fn part(lsn: u64, changes: u32, last: bool) -> TransactionPart {
        let relation = Arc::new(Relation {
            oid: 1,
            schema: "public".into(),
            name: "t".into(),
            identity: ReplicaIdentity::Default,
            columns: [].into(),
        });
        let mut builder = TupleBuilder::new();
        builder.push(Datum::Text(b"0123456789"));
        let new = builder.build();
        let change = |order| Change {
            relation: Arc::clone(&relation),
            order,
            kind: ChangeKind::Insert { new: new.clone() },
        };
        TransactionPart {
            commit: Arc::new(Commit {
                epoch: Epoch(1),
                lsn: Lsn::new(lsn),
                end_lsn: Lsn::new(lsn + 1),
                time: PgTime(i64::try_from(lsn).unwrap()),
                xid: Xid(7),
            }),
            changes: (0..changes).map(change).collect(),
            size: 100,
            last,
        }
    }

    fn position(lsn: u64, order: u32) -> Position {
        Position {
            lsn: Lsn::new(lsn),
            order,
        }
    }

    fn history(bytes_max: usize) -> History {
        let mut history = History::new(Limits {
            bytes_max,
            age_max: Duration::from_secs(60),
        });
        history.begin(Lsn::new(100));
        history
    }

    #[test]
    fn positions_are_held_from_the_beginning_on() {
        let now = crate::clock::instant();
        let mut history = history(1 << 20);
        assert!(!history.holds(position(99, 7)));
        assert!(history.holds(position(99, u32::MAX)));
        history.push(now, part(100, 2, true), true, 0);
        history.push(now, part(200, 3, true), true, 0);
        assert_eq!(history.number_after(position(99, u32::MAX)), 0);
        assert_eq!(history.number_after(position(100, 0)), 0);
        // The end of a transaction is something that comes after its last change.
        assert_eq!(history.number_after(position(100, 1)), 0);
        assert_eq!(history.number_after(position(150, 0)), 1);
        assert_eq!(history.number_after(position(300, 0)), 2);
        assert_eq!(history.get(2).map(|kept| kept.is_none()), Ok(true));
    }

    #[test]
    fn what_leaves_takes_its_positions_along() {
        let now = crate::clock::instant();
        let mut history = history(3000);
        for lsn in 1..=20 {
            history.push(now, part(lsn * 100, 1, true), true, 0);
            assert!(history.bytes() <= 3000);
        }
        assert!(!history.holds(position(100, 0)));
        assert!(history.holds(position(2000, 0)));
        let floor = history.floor().unwrap();
        assert!(history.holds(floor));
        assert_eq!(history.get(0).map(|_| ()), Err(TooOld));
        let before = history.bytes();
        history.bound(now, 2500);
        assert!(history.bytes() < before, "the log counts as well");
        history.bound(now + Duration::from_secs(61), 0);
        assert_eq!(history.bytes(), 0);
        assert!(history.holds(position(2000, u32::MAX)));
    }

    #[test]
    fn a_time_is_the_place_before_the_first_commit_that_is_as_late() {
        let now = crate::clock::instant();
        let mut history = history(1 << 20);
        assert_eq!(history.before_time(PgTime(150)), Err(TooOld));
        for lsn in [100, 300, 200, 400] {
            let mut part = part(400, 1, true);
            part.commit = Arc::new(Commit {
                time: PgTime(lsn),
                lsn: Lsn::new(1000 + history.end()),
                ..(*part.commit).clone()
            });
            history.push(now, part, true, 0);
        }
        assert_eq!(history.before_time(PgTime(100)), Err(TooOld));
        let before = |lsn| Ok(Some(position(lsn, u32::MAX)));
        assert_eq!(history.before_time(PgTime(101)), before(1000));
        assert_eq!(history.before_time(PgTime(200)), before(1000));
        assert_eq!(history.before_time(PgTime(301)), before(1002));
        assert_eq!(history.before_time(PgTime(401)), Ok(None));
    }

    #[test]
    fn nobody_goes_past_a_transaction_without_content() {
        let now = crate::clock::instant();
        let mut history = history(1 << 20);
        history.push(now, part(100, 1, true), true, 0);
        history.cut(&part(200, 0, true).commit);
        assert!(!history.holds(position(150, 0)));
        assert!(history.holds(position(200, u32::MAX)));
        history.push(now, part(300, 1, true), true, 0);
        assert_eq!(history.number_after(position(250, 0)), 1);
        assert!(history.get(1).is_ok_and(|kept| kept.is_some()));
    }
}
