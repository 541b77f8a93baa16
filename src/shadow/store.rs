//! The rows of one shadow and their indexes, in as little memory as goes, every byte counted.
//!
//! Rows lie side by side; the last one takes the place of one that goes. An index is a table from hashes to the first
//! row of a chain, and two links per row; rows of equal hashes share a chain and are told apart by whoever walks it.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, Hasher};
use std::ops::ControlFlow;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::layout::{Identity, IndexedBy, Layout, Trouble};
use super::row;
use crate::policy::value::{Value, canonical};

/// No row.
const NONE: u32 = u32::MAX;

/// The rows.
#[derive(Debug)]
pub(super) struct Store {
    layout: Arc<Layout>,
    rows: Vec<Box<[u8]>>,
    /// Bytes that the allocator holds for rows.
    heap: usize,
    indexes: Box<[Index]>,
    hasher: RandomState,
}

#[derive(Debug, Default)]
struct Index {
    heads: HashMap<u32, u32, RandomState>,
    /// One for each row.
    links: Vec<Link>,
}

/// The neighbours of a row in its chain.
#[derive(Clone, Copy, Debug)]
struct Link {
    previous: u32,
    next: u32,
}

impl Index {
    fn link(&mut self, id: u32, hash: u32) {
        let next = self.heads.insert(hash, id).unwrap_or(NONE);
        if let Some(link) = self.get_mut(next) {
            link.previous = id;
        }
        if let Some(link) = self.get_mut(id) {
            *link = Link {
                previous: NONE,
                next,
            };
        }
    }

    fn unlink(&mut self, id: u32, hash: u32) {
        let Some(Link { previous, next }) = self.get(id) else {
            return;
        };
        if let Some(link) = self.get_mut(previous) {
            link.next = next;
        } else if next == NONE {
            self.heads.remove(&hash);
        } else {
            self.heads.insert(hash, next);
        }
        if let Some(link) = self.get_mut(next) {
            link.previous = previous;
        }
    }

    /// The row `from`, of this hash and the last one, is called `to` from now on; nobody else is.
    fn rename_last(&mut self, from: u32, to: u32, hash: u32) {
        let Some(moved) = self.links.pop() else {
            return;
        };
        if from == to {
            return;
        }
        if let Some(link) = self.get_mut(moved.previous) {
            link.next = to;
        } else {
            self.heads.insert(hash, to);
        }
        if let Some(link) = self.get_mut(moved.next) {
            link.previous = to;
        }
        if let Some(link) = self.get_mut(to) {
            *link = moved;
        }
    }

    fn get(&self, id: u32) -> Option<Link> {
        self.links.get(place(id)).copied()
    }

    fn get_mut(&mut self, id: u32) -> Option<&mut Link> {
        self.links.get_mut(place(id))
    }

    fn chain(&self, hash: u32) -> impl Iterator<Item = u32> {
        let mut next = self.heads.get(&hash).copied().unwrap_or(NONE);
        std::iter::from_fn(move || {
            let id = next;
            next = self.get(id)?.next;
            Some(id)
        })
    }

    fn bytes(&self) -> usize {
        let links = self.links.capacity().saturating_mul(size_of::<Link>());
        links.saturating_add(bytes_of_map(self.heads.capacity()))
    }

    fn shrink(&mut self, rows: usize) {
        self.links.shrink_to(rows);
        self.heads.shrink_to(rows);
    }
}

/// [`NONE`] is no place: a store never has so many rows.
fn place(id: u32) -> usize {
    usize::try_from(id).unwrap_or(usize::MAX)
}

/// Bytes of a hash table from `u32` to `u32` (the standard library's: 7 of 8 buckets may be used, a byte of control
/// each).
fn bytes_of_map(capacity: usize) -> usize {
    let buckets = match capacity {
        0 => return 0,
        1..=3 => 4,
        4..=7 => 8,
        more => more
            .saturating_mul(8)
            .checked_div(7)
            .unwrap_or(more)
            .next_power_of_two(),
    };
    buckets.saturating_mul(9).saturating_add(16)
}

/// Bytes that an allocator takes for a row: 8 of its own, in steps of 16, at least 32 (glibc; others are close).
fn bytes_of_row(row: &[u8]) -> usize {
    row.len().saturating_add(8).next_multiple_of(16).max(32)
}

impl Store {
    /// Without rows, and without memory.
    pub(super) fn new(layout: Arc<Layout>) -> Self {
        Self {
            rows: Vec::new(),
            heap: 0,
            indexes: layout.indexes.iter().map(|_| Index::default()).collect(),
            hasher: RandomState::default(),
            layout,
        }
    }

    /// How its rows are kept.
    pub(super) const fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    /// Number of rows.
    pub(super) const fn len(&self) -> usize {
        self.rows.len()
    }

    /// Bytes of memory; 0 without rows.
    pub(super) fn bytes(&self) -> usize {
        let spine = self.rows.capacity().saturating_mul(size_of::<Box<[u8]>>());
        let indexes = self.indexes.iter().map(Index::bytes);
        spine
            .saturating_add(self.heap)
            .saturating_add(indexes.sum())
    }

    /// Adds a row.
    ///
    /// # Errors
    /// There is one with its key.
    pub(super) fn insert(&mut self, row: Vec<u8>) -> Result<(), Trouble> {
        if matches!(self.layout.identity, Identity::Key(_)) && self.find(&row).is_some() {
            return Err("a row was inserted that was there".into());
        }
        let id = u32::try_from(self.rows.len()).unwrap_or(NONE);
        if id == NONE {
            return Err("too many rows".into());
        }
        for (index, by) in self.indexes.iter_mut().zip(&self.layout.indexes) {
            index.links.push(Link {
                previous: NONE,
                next: NONE,
            });
            index.link(id, hash(&self.hasher, &self.layout, by, &row));
        }
        self.heap = self.heap.saturating_add(bytes_of_row(&row));
        self.rows.push(row.into());
        Ok(())
    }

    /// Puts `new` in the place of the row that `old` identifies; what `new` leaves out stays as it was. Returns the row
    /// before and the row after.
    ///
    /// # Errors
    /// No such row, or another one has the new key.
    pub(super) fn update(&mut self, old: &[u8], new: &[u8]) -> Result<(Box<[u8]>, &[u8]), Trouble> {
        let id = self
            .find(old)
            .ok_or("a row was updated that was not there")?;
        let before = self.rows.get(place(id)).ok_or("a row without a place")?;
        let mut after = Vec::with_capacity(new.len());
        for (new, old) in row::columns(new).zip(row::columns(before)) {
            let kept = if new.is_unchanged() { old } else { new };
            after.extend_from_slice(kept.bytes());
        }
        if matches!(self.layout.identity, Identity::Key(_))
            && self.find(&after).is_some_and(|other| other != id)
        {
            return Err("a row took the key of another".into());
        }
        for (index, by) in self.indexes.iter_mut().zip(&self.layout.indexes) {
            let from = hash(&self.hasher, &self.layout, by, before);
            let to = hash(&self.hasher, &self.layout, by, &after);
            if from != to {
                index.unlink(id, from);
                index.link(id, to);
            }
        }
        let freed = bytes_of_row(before);
        self.heap = self
            .heap
            .saturating_sub(freed)
            .saturating_add(bytes_of_row(&after));
        let row = self
            .rows
            .get_mut(place(id))
            .ok_or("a row without a place")?;
        let before = std::mem::replace(row, after.into());
        Ok((before, row))
    }

    /// Removes the row that `old` identifies, and returns it.
    ///
    /// # Errors
    /// No such row.
    pub(super) fn delete(&mut self, old: &[u8]) -> Result<Box<[u8]>, Trouble> {
        let id = self
            .find(old)
            .ok_or("a row was deleted that was not there")?;
        let last = u32::try_from(self.rows.len().saturating_sub(1)).unwrap_or(NONE);
        let (Some(row), Some(moved)) = (self.rows.get(place(id)), self.rows.last()) else {
            return Err("a row without a place".into());
        };
        for (index, by) in self.indexes.iter_mut().zip(&self.layout.indexes) {
            index.unlink(id, hash(&self.hasher, &self.layout, by, row));
            index.rename_last(last, id, hash(&self.hasher, &self.layout, by, moved));
        }
        let row = self.rows.swap_remove(place(id));
        self.heap = self.heap.saturating_sub(bytes_of_row(&row));
        self.give_back();
        Ok(row)
    }

    /// Removes all rows and frees their memory.
    pub(super) fn clear(&mut self) {
        *self = Self::new(Arc::clone(&self.layout));
    }

    /// Returns memory once three quarters are unused.
    fn give_back(&mut self) {
        let rows = self.rows.len();
        if rows == 0 {
            self.clear();
        } else if rows.saturating_mul(4) < self.rows.capacity() && self.rows.capacity() > 64 {
            let room = rows.saturating_mul(2);
            self.rows.shrink_to(room);
            self.indexes.iter_mut().for_each(|index| index.shrink(room));
        }
    }

    /// Calls `visit` with the rows whose columns equal the values, by the equality of their types.
    pub(super) fn scan(
        &self,
        keys: &[(usize, Value)],
        visit: &mut dyn FnMut(&Arc<[Value]>) -> ControlFlow<()>,
    ) {
        let _stopped = self.scan_rows(keys, &mut |row| visit(&self.layout.tuple(row)));
    }

    /// The same, with the rows as they are kept; whether `visit` has stopped it.
    pub(super) fn scan_rows(
        &self,
        keys: &[(usize, Value)],
        visit: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        // A key that is not kept, or not comparable, is left to the caller: more rows do no harm.
        let mut wanted: Vec<(usize, Value)> = Vec::with_capacity(keys.len());
        for (index, value) in keys {
            if let Some(place) = self.layout.place(*index)
                && let Some(column) = self.layout.columns.get(place)
                && let Ok(value) = canonical(&self.layout.types, column.type_oid, value)
                && !wanted.iter().any(|(other, _)| *other == place)
            {
                wanted.push((place, value));
            }
        }
        wanted.sort_unstable_by_key(|(place, _)| *place);
        let visit_row = |row: &[u8]| {
            if self.equals(row, &wanted) {
                visit(row)
            } else {
                ControlFlow::Continue(())
            }
        };
        let mut rows: Box<dyn Iterator<Item = &[u8]>> = match self.best(&wanted) {
            Some((index, hash)) => Box::new(
                index
                    .chain(hash)
                    .filter_map(|id| self.rows.get(place(id)).map(|row| &**row)),
            ),
            None => Box::new(self.rows.iter().map(|row| &**row)),
        };
        rows.try_for_each(visit_row)
    }

    /// The index that leaves fewest rows, and the hash to look for.
    fn best(&self, wanted: &[(usize, Value)]) -> Option<(&Index, u32)> {
        let value = |place: &usize| {
            let at = wanted
                .binary_search_by_key(place, |(place, _)| *place)
                .ok()?;
            wanted.get(at).map(|(_, value)| value)
        };
        let (index, by) = (self.indexes.iter().zip(&self.layout.indexes))
            .filter(|(_, by)| by.canonical && by.columns.iter().all(|place| value(place).is_some()))
            .max_by_key(|(_, by)| by.columns.len())?;
        let mut hasher = self.hasher.build_hasher();
        for value in by.columns.iter().filter_map(value) {
            value.hash(&mut hasher);
        }
        Some((index, fold(hasher.finish())))
    }

    fn equals(&self, row: &[u8], wanted: &[(usize, Value)]) -> bool {
        let mut columns = row::columns(row).enumerate();
        wanted.iter().all(|(place, value)| {
            let (Some((_, stored)), Some(kept)) = (
                columns.find(|(found, _)| found == place),
                self.layout.columns.get(*place),
            ) else {
                return false;
            };
            let stored = stored.value(&self.layout.types, kept.type_oid);
            canonical(&self.layout.types, kept.type_oid, &stored)
                .is_ok_and(|stored| stored == *value)
        })
    }

    /// How many rows are this one by the replica identity.
    pub(super) fn copies(&self, row: &[u8]) -> usize {
        let Some((by, index)) = self.layout.indexes.first().zip(self.indexes.first()) else {
            return 0;
        };
        if self.rows.is_empty() {
            return 0;
        }
        index
            .chain(hash(&self.hasher, &self.layout, by, row))
            .filter_map(|id| self.rows.get(place(id)))
            .filter(|other| self.is_same(other, row))
            .count()
    }

    /// The row that `old` identifies.
    fn find(&self, old: &[u8]) -> Option<u32> {
        let by = self.layout.indexes.first()?;
        let hash = hash(&self.hasher, &self.layout, by, old);
        self.indexes.first()?.chain(hash).find(|id| {
            self.rows
                .get(place(*id))
                .is_some_and(|row| self.is_same(row, old))
        })
    }

    /// Whether two rows are one by the replica identity.
    pub(super) fn is_same(&self, a: &[u8], b: &[u8]) -> bool {
        match &self.layout.identity {
            Identity::Whole => a == b,
            Identity::Key(key) => row::columns(a)
                .zip(row::columns(b))
                .enumerate()
                .all(|(place, (a, b))| !key.contains(&place) || a == b),
        }
    }
}

/// The columns of an index, hashed.
fn hash(hasher: &RandomState, layout: &Layout, by: &IndexedBy, row: &[u8]) -> u32 {
    let mut hasher = hasher.build_hasher();
    let mut columns = row::columns(row).enumerate();
    for place in &by.columns {
        let (Some((_, stored)), Some(kept)) = (
            columns.find(|(found, _)| found == place),
            layout.columns.get(*place),
        ) else {
            continue;
        };
        if by.canonical {
            let value = stored.value(&layout.types, kept.type_oid);
            // Cannot fail: the index is over types with a known equality.
            canonical(&layout.types, kept.type_oid, &value)
                .unwrap_or(Value::Null)
                .hash(&mut hasher);
        } else {
            stored.bytes().hash(&mut hasher);
        }
    }
    fold(hasher.finish())
}

/// The upper half, which is the better one.
fn fold(hash: u64) -> u32 {
    u32::try_from(hash >> 32).unwrap_or(NONE)
}
