//! Keys of rows, hashed, and which of them occur more than once in a transaction.
//!
//! Goes in: row changes with the descriptions of their tables. Comes out: keys that are equal exactly if they are of the
//! same row, however often its table is altered in between as long as the key's values stay. Never keeps a value.

use std::hash::{BuildHasher, Hasher, RandomState};

use crate::change::{Datum, OldTuple, Tuple};

use super::pgoutput::RowKind;
use super::relations::{Known, RowKey};

/// A row's key, hashed by a function that nobody outside can predict; 128 bits never collide by chance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct KeyHash(u64, u64);

/// The keys of a row before and after one change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keys {
    Insert(KeyHash),
    Update { old: KeyHash, new: KeyHash },
    Delete(KeyHash),
}

/// Makes [`Keys`].
#[derive(Default)]
pub(super) struct KeyHasher {
    states: [RandomState; 2],
}

impl KeyHasher {
    /// The keys of one change; `None` if a row of this relation has no (complete) key, and the change stands for
    /// itself.
    pub(super) fn keys(&self, known: &Known, kind: &RowKind) -> Option<Keys> {
        let hash = |tuple, fallback| self.hash(known, tuple, fallback);
        Some(match kind {
            RowKind::Insert { new } => Keys::Insert(hash(new, None)?),
            RowKind::Update { old: None, new } => {
                let key = hash(new, None)?;
                Keys::Update { old: key, new: key }
            }
            RowKind::Update {
                old: Some(old),
                new,
            } => Keys::Update {
                old: hash(&old.tuple, None)?,
                new: hash(new, Some(old))?,
            },
            RowKind::Delete { old } => Keys::Delete(hash(&old.tuple, None)?),
        })
    }

    /// Hash of the key in `tuple`; unchanged TOAST is taken from the version before.
    fn hash(&self, known: &Known, tuple: &Tuple, before: Option<&OldTuple>) -> Option<KeyHash> {
        let mut hashers = self.states.each_ref().map(BuildHasher::build_hasher);
        let mut write = |bytes: &[u8]| hashers.iter_mut().for_each(|hasher| hasher.write(bytes));
        write(&known.relation.oid.to_be_bytes());
        let mut write_datum = |position: usize, column: usize, datum: Datum<'_>| {
            let datum = match datum {
                Datum::Unchanged => before?.tuple.get(column)?,
                present => present,
            };
            match datum {
                Datum::Text(text) => {
                    // The length keeps neighbours apart.
                    write(&position.to_be_bytes());
                    write(&text.len().to_be_bytes());
                    write(text);
                }
                // NULL is what is not written, so that a column that is added is no other key.
                Datum::Null => {}
                Datum::Unchanged => return None,
            }
            Some(())
        };
        match &*known.key {
            RowKey::None => return None,
            RowKey::Whole => {
                for (column, datum) in tuple.iter().enumerate() {
                    write_datum(column, column, datum)?;
                }
            }
            RowKey::Columns(columns) => {
                let mut data = tuple.iter().enumerate();
                for (position, column) in columns.iter().enumerate() {
                    let (_, datum) = data.find(|(index, _)| index == column)?;
                    // By position in the key: columns may be dropped or added before it.
                    write_datum(position, *column, datum)?;
                }
            }
        }
        let [high, low] = hashers.map(|hasher| hasher.finish());
        Some(KeyHash(high, low))
    }
}

/// First pass: collects every key.
#[derive(Default)]
pub(super) struct Touches(Vec<KeyHash>);

impl Touches {
    /// Room for the keys of `changes` changes; more are taken too.
    pub(super) fn new(changes: usize) -> Self {
        Self(Vec::with_capacity(changes))
    }

    pub(super) fn touch(&mut self, keys: Keys) {
        match keys {
            Keys::Insert(key) | Keys::Delete(key) => self.0.push(key),
            Keys::Update { old, new } => {
                self.0.push(old);
                if old != new {
                    self.0.push(new);
                }
            }
        }
    }

    /// The keys that occur more than once.
    pub(super) fn contended(mut self) -> Contended {
        self.0.sort_unstable();
        let mut kept = 0;
        let mut index = 0;
        while let Some(key) = self.0.get(index).copied() {
            let rest = self.0.get(index..).unwrap_or_default();
            let count = rest.iter().take_while(|other| **other == key).count();
            if count > 1
                && let Some(slot) = self.0.get_mut(kept)
            {
                *slot = key;
                kept += 1;
            }
            index += count;
        }
        self.0.truncate(kept);
        self.0.shrink_to_fit();
        Contended(self.0)
    }
}

/// Keys that more than one change touches, ascending.
#[derive(Default)]
pub(super) struct Contended(Vec<KeyHash>);

impl Contended {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The number of `key` among them.
    pub(super) fn find(&self, key: KeyHash) -> Option<usize> {
        self.0.binary_search(&key).ok()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::change::{OldKind, Relation, RelationColumn, ReplicaIdentity, TupleBuilder};

    use super::*;

    fn known(key: RowKey) -> Known {
        let column = RelationColumn {
            name: "c".into(),
            type_oid: 25,
            type_modifier: -1,
            in_identity: true,
        };
        let relation = Relation {
            oid: 1,
            schema: "public".into(),
            name: "t".into(),
            identity: ReplicaIdentity::Full,
            columns: vec![column; 3].into(),
        };
        Known {
            relation: Arc::new(relation),
            key: Arc::new(key),
        }
    }

    fn tuple(data: &[Datum<'_>]) -> Tuple {
        let mut tuple = TupleBuilder::new();
        data.iter().for_each(|datum| tuple.push(*datum));
        tuple.build()
    }

    const A: Datum<'_> = Datum::Text(b"a");
    const B: Datum<'_> = Datum::Text(b"b");
    const NULL: Datum<'_> = Datum::Null;

    #[track_caller]
    fn check(key: RowKey, one: &[Datum<'_>], other: &[Datum<'_>], is_same: bool) {
        let (hasher, known) = (KeyHasher::default(), known(key));
        let [one, other] = [one, other].map(|data| {
            let new = tuple(data);
            hasher.keys(&known, &RowKind::Insert { new }).unwrap()
        });
        assert_eq!(one == other, is_same);
    }

    fn columns(columns: &[usize]) -> RowKey {
        RowKey::Columns(columns.into())
    }

    #[test]
    fn rows_are_told_apart_by_their_key() {
        check(columns(&[1]), &[A, B, A], &[B, B, NULL], true);
        check(columns(&[1]), &[A, A, A], &[A, B, A], false);
        check(columns(&[0, 1]), &[A, B], &[B, A], false);
        check(RowKey::Whole, &[A, B, NULL], &[A, B, A], false);
    }

    #[test]
    fn neighbours_do_not_run_into_each_other() {
        let (ab, empty) = (Datum::Text(b"ab"), Datum::Text(b""));
        check(columns(&[0, 1]), &[A, B], &[ab, empty], false);
        check(columns(&[0, 1]), &[A, NULL], &[NULL, A], false);
        check(RowKey::Whole, &[empty], &[NULL], false);
    }

    #[test]
    fn a_column_that_was_added_is_no_other_row() {
        check(RowKey::Whole, &[A, B], &[A, B, NULL], true);
    }

    #[test]
    fn an_unchanged_key_is_taken_from_the_old_tuple() {
        let (hasher, known) = (KeyHasher::default(), known(columns(&[0])));
        let old = OldTuple {
            kind: OldKind::Full,
            tuple: tuple(&[A, B]),
        };
        let new = tuple(&[Datum::Unchanged, A]);
        let update = RowKind::Update {
            old: Some(old),
            new,
        };
        let Some(Keys::Update { old, new }) = hasher.keys(&known, &update) else {
            panic!("an update with its keys");
        };
        assert_eq!(old, new);
    }

    #[test]
    fn a_key_that_is_not_known_makes_none() {
        let hasher = KeyHasher::default();
        let update = |new| RowKind::Update { old: None, new };
        let unchanged = update(tuple(&[Datum::Unchanged]));
        assert_eq!(hasher.keys(&known(columns(&[0])), &unchanged), None);
        let short = update(tuple(&[A]));
        assert_eq!(hasher.keys(&known(columns(&[2])), &short), None);
        assert_eq!(hasher.keys(&known(RowKey::None), &short), None);
    }

    #[test]
    fn only_keys_that_occur_more_than_once_are_contended() {
        let key = |n| KeyHash(n, n);
        let mut touches = Touches::new(4);
        touches.touch(Keys::Insert(key(1)));
        touches.touch(Keys::Update {
            old: key(2),
            new: key(2),
        });
        touches.touch(Keys::Update {
            old: key(3),
            new: key(1),
        });
        touches.touch(Keys::Delete(key(4)));
        let contended = touches.contended();
        assert_eq!(contended.len(), 1);
        assert_eq!(contended.find(key(1)), Some(0));
        assert_eq!(contended.find(key(2)), None);
    }
}
