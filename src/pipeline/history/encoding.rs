//! Changes as bytes, for those that wait in a file, and back: exactly what went in comes out.
//!
//! Relations stay in memory, shared with the other parts that name them; a change names its own by number. Tuples are the
//! bytes that they are in the stream. For this process alone: nothing here outlives it.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::{Buf, Bytes};

use crate::change::{Change, ChangeKind, OldKind, OldTuple, Relation, Tuple};

const INSERT: u8 = 0;
const UPDATE: u8 = 1;
const UPDATE_OF_KEY: u8 = 2;
const UPDATE_OF_FULL: u8 = 3;
const DELETE_OF_KEY: u8 = 4;
const DELETE_OF_FULL: u8 = 5;
const TRUNCATE: u8 = 6;

/// Bytes of a change besides its tuples: relation, order, kind.
const HEAD_BYTES: usize = 4 + 4 + 1;
/// Bytes of a tuple besides its columns.
const TUPLE_HEAD_BYTES: usize = 2;

/// The bytes of all changes, and the relations that they name.
pub(super) fn encode(changes: &[Change]) -> (Vec<u8>, Box<[Arc<Relation>]>) {
    let length = changes.iter().map(length_of).fold(4, usize::saturating_add);
    let mut out = Vec::with_capacity(length);
    put_number(&mut out, changes.len());
    let mut relations: Vec<Arc<Relation>> = Vec::new();
    let mut known: HashMap<*const Relation, usize> = HashMap::new();
    for change in changes {
        let number = *known
            .entry(Arc::as_ptr(&change.relation))
            .or_insert_with(|| {
                relations.push(Arc::clone(&change.relation));
                relations.len().saturating_sub(1)
            });
        put_number(&mut out, number);
        out.extend_from_slice(&change.order.to_be_bytes());
        put_kind(&mut out, &change.kind);
    }
    (out, relations.into())
}

/// The changes that `bytes` were made of; `None` if they were not made here.
pub(super) fn decode(mut bytes: Bytes, relations: &[Arc<Relation>]) -> Option<Vec<Change>> {
    let count = usize::try_from(bytes.try_get_u32().ok()?).ok()?;
    // Each takes that much at least.
    let mut changes = Vec::with_capacity(count.min(bytes.len() / HEAD_BYTES));
    for _ in 0..count {
        let number = usize::try_from(bytes.try_get_u32().ok()?).ok()?;
        let relation = Arc::clone(relations.get(number)?);
        let order = bytes.try_get_u32().ok()?;
        let kind = take_kind(&mut bytes)?;
        changes.push(Change {
            relation,
            order,
            kind,
        });
    }
    bytes.is_empty().then_some(changes)
}

fn length_of(change: &Change) -> usize {
    let of_tuple = |tuple: &Tuple| tuple.size().saturating_add(TUPLE_HEAD_BYTES);
    let tuples = match &change.kind {
        ChangeKind::Insert { new } | ChangeKind::Update { old: None, new } => of_tuple(new),
        ChangeKind::Update {
            old: Some(old),
            new,
        } => of_tuple(&old.tuple).saturating_add(of_tuple(new)),
        ChangeKind::Delete { old } => of_tuple(&old.tuple),
        ChangeKind::Truncate => 0,
    };
    tuples.saturating_add(HEAD_BYTES)
}

/// Of changes and of their relations there are fewer than orders, which have 32 bits.
fn put_number(out: &mut Vec<u8>, number: usize) {
    let number = u32::try_from(number).unwrap_or(u32::MAX);
    out.extend_from_slice(&number.to_be_bytes());
}

fn put_kind(out: &mut Vec<u8>, kind: &ChangeKind) {
    match kind {
        ChangeKind::Insert { new } => {
            out.push(INSERT);
            put_tuple(out, new);
        }
        ChangeKind::Update { old: None, new } => {
            out.push(UPDATE);
            put_tuple(out, new);
        }
        ChangeKind::Update {
            old: Some(old),
            new,
        } => {
            out.push(match old.kind {
                OldKind::Key => UPDATE_OF_KEY,
                OldKind::Full => UPDATE_OF_FULL,
            });
            put_tuple(out, &old.tuple);
            put_tuple(out, new);
        }
        ChangeKind::Delete { old } => {
            out.push(match old.kind {
                OldKind::Key => DELETE_OF_KEY,
                OldKind::Full => DELETE_OF_FULL,
            });
            put_tuple(out, &old.tuple);
        }
        ChangeKind::Truncate => out.push(TRUNCATE),
    }
}

fn take_kind(bytes: &mut Bytes) -> Option<ChangeKind> {
    let kind = bytes.try_get_u8().ok()?;
    Some(match kind {
        INSERT => ChangeKind::Insert {
            new: take_tuple(bytes)?,
        },
        UPDATE => ChangeKind::Update {
            old: None,
            new: take_tuple(bytes)?,
        },
        UPDATE_OF_KEY => ChangeKind::Update {
            old: Some(take_old(bytes, OldKind::Key)?),
            new: take_tuple(bytes)?,
        },
        UPDATE_OF_FULL => ChangeKind::Update {
            old: Some(take_old(bytes, OldKind::Full)?),
            new: take_tuple(bytes)?,
        },
        DELETE_OF_KEY => ChangeKind::Delete {
            old: take_old(bytes, OldKind::Key)?,
        },
        DELETE_OF_FULL => ChangeKind::Delete {
            old: take_old(bytes, OldKind::Full)?,
        },
        TRUNCATE => ChangeKind::Truncate,
        _ => return None,
    })
}

fn put_tuple(out: &mut Vec<u8>, tuple: &Tuple) {
    out.extend_from_slice(&tuple.columns().to_be_bytes());
    out.extend_from_slice(tuple.raw());
}

fn take_tuple(bytes: &mut Bytes) -> Option<Tuple> {
    let columns = bytes.try_get_u16().ok()?;
    Tuple::parse(columns, bytes).ok()
}

fn take_old(bytes: &mut Bytes, kind: OldKind) -> Option<OldTuple> {
    let tuple = take_tuple(bytes)?;
    Some(OldTuple { kind, tuple })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::{Datum, ReplicaIdentity, TupleBuilder};
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn a_tuple() -> impl Strategy<Value = Tuple> {
        let datum = prop_oneof![
            Just(None),
            Just(Some(None)),
            vec(any::<u8>(), 0..20).prop_map(|text| Some(Some(text))),
        ];
        vec(datum, 0..6).prop_map(|columns| {
            let mut builder = TupleBuilder::new();
            for column in &columns {
                builder.push(match column {
                    None => Datum::Null,
                    Some(None) => Datum::Unchanged,
                    Some(Some(text)) => Datum::Text(text),
                });
            }
            builder.build()
        })
    }

    fn an_old() -> impl Strategy<Value = OldTuple> {
        (any::<bool>(), a_tuple()).prop_map(|(is_full, tuple)| OldTuple {
            kind: if is_full { OldKind::Full } else { OldKind::Key },
            tuple,
        })
    }

    fn a_kind() -> impl Strategy<Value = ChangeKind> {
        prop_oneof![
            a_tuple().prop_map(|new| ChangeKind::Insert { new }),
            (proptest::option::of(an_old()), a_tuple())
                .prop_map(|(old, new)| ChangeKind::Update { old, new }),
            an_old().prop_map(|old| ChangeKind::Delete { old }),
            Just(ChangeKind::Truncate),
        ]
    }

    /// Two of them say the same: a table that was described again.
    fn relations() -> [Arc<Relation>; 3] {
        ["a", "b", "b"].map(|name| {
            Arc::new(Relation {
                oid: 1,
                schema: "public".into(),
                name: name.into(),
                identity: ReplicaIdentity::Default,
                columns: [].into(),
            })
        })
    }

    fn some_changes() -> impl Strategy<Value = Vec<Change>> {
        let relations = relations();
        vec((0..3_usize, any::<u32>(), a_kind()), 0..8).prop_map(move |changes| {
            let change = |(relation, order, kind): (usize, u32, ChangeKind)| Change {
                relation: Arc::clone(&relations[relation]),
                order,
                kind,
            };
            changes.into_iter().map(change).collect()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn what_was_encoded_is_decoded(changes in some_changes()) {
            let (bytes, relations) = encode(&changes);
            let expected: usize = changes.iter().map(length_of).sum();
            prop_assert_eq!(bytes.len(), expected + 4, "the room was taken at once");
            let decoded = decode(bytes.into(), &relations);
            prop_assert_eq!(decoded.as_ref(), Some(&changes));
            for (one, other) in decoded.iter().flatten().zip(&changes) {
                prop_assert!(Arc::ptr_eq(&one.relation, &other.relation));
            }
        }

        #[test]
        fn what_is_cut_off_or_longer_is_refused(changes in some_changes(), at in any::<usize>()) {
            let (mut bytes, relations) = encode(&changes);
            bytes.push(0);
            let bytes = Bytes::from(bytes);
            prop_assert_eq!(decode(bytes.clone(), &relations), None);
            let whole = bytes.len() - 1;
            prop_assert_eq!(decode(bytes.slice(..at % whole), &relations), None);
        }

        #[test]
        fn any_bytes_are_decoded_or_refused(bytes in vec(any::<u8>(), 0..64)) {
            let _ = decode(bytes.into(), &relations());
        }
    }
}
