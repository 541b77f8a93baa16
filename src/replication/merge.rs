//! Puts the tuples of a net change together from the versions that a transaction wrote of one row.
//!
//! Never takes a value from a column that has another name or type there: between two versions of the row the table
//! may have been altered. What cannot be carried over is left unknown.

use crate::change::{Datum, OldKind, OldTuple, Relation, Tuple, TupleBuilder};

use super::pgoutput::RowKind;
use super::relations::{Known, RowKey};

/// `new` with what it leaves out as unchanged taken from an earlier version of the row, where that has it.
pub(super) fn fill(
    new: Tuple,
    relation: &Relation,
    earlier: &Tuple,
    described: &Relation,
) -> Tuple {
    if !is_incomplete(&new) {
        return new;
    }
    let mut filled = TupleBuilder::new();
    for (index, datum) in new.iter().enumerate() {
        filled.push(match datum {
            Datum::Unchanged => corresponding(relation, index, described)
                .and_then(|index| earlier.get(index))
                .unwrap_or(Datum::Unchanged),
            present => present,
        });
    }
    filled.build()
}

/// The old version of a row whose first change in the transaction was `first`, written under `from`, as the old tuple
/// of an update that is shown under `to`.
///
/// Where the table was altered in between only the key is carried over, and nothing if even that is not the same.
pub(super) fn old_of_update(
    first: &RowKind,
    from: &Known,
    to: &Known,
    same_key: bool,
) -> Option<OldTuple> {
    let old = old_of_delete(first, from)?;
    if old.kind == OldKind::Key && same_key {
        return None;
    }
    if from.relation.columns == to.relation.columns {
        return Some(old);
    }
    let RowKey::Columns(key) = &*to.key else {
        return None;
    };
    let carry = |index: usize| {
        if !key.contains(&index) {
            return Some(Datum::Null);
        }
        let earlier = corresponding(&to.relation, index, &from.relation)?;
        old.tuple.get(earlier)
    };
    let mut tuple = TupleBuilder::new();
    for index in 0..to.relation.columns.len() {
        tuple.push(carry(index)?);
    }
    Some(OldTuple {
        kind: OldKind::Key,
        tuple: tuple.build(),
    })
}

/// The old version of a row whose first change in the transaction was `first`, under the same description. `None` if
/// the row did not exist before.
pub(super) fn old_of_delete(first: &RowKind, described: &Known) -> Option<OldTuple> {
    match first {
        RowKind::Insert { .. } => None,
        RowKind::Delete { old } | RowKind::Update { old: Some(old), .. } => Some(old.clone()),
        // The key did not change: it is in the new version.
        RowKind::Update { old: None, new } => Some(OldTuple {
            kind: OldKind::Key,
            tuple: key_of(new, &described.key),
        }),
    }
}

fn key_of(tuple: &Tuple, key: &RowKey) -> Tuple {
    let mut only = TupleBuilder::new();
    for (index, datum) in tuple.iter().enumerate() {
        only.push(match key {
            RowKey::Columns(columns) if columns.contains(&index) => datum,
            _ => Datum::Null,
        });
    }
    only.build()
}

/// Where the column `index` of `relation` stands in another version of that relation.
fn corresponding(relation: &Relation, index: usize, other: &Relation) -> Option<usize> {
    let column = relation.columns.get(index)?;
    let is_same = |candidate: usize| {
        other.columns.get(candidate).is_some_and(|candidate| {
            (&candidate.name, candidate.type_oid, candidate.type_modifier)
                == (&column.name, column.type_oid, column.type_modifier)
        })
    };
    if is_same(index) {
        return Some(index);
    }
    other.column(&column.name).filter(|found| is_same(*found))
}

/// Whether a tuple leaves out unchanged TOAST.
pub(super) fn is_incomplete(tuple: &Tuple) -> bool {
    tuple.iter().any(|datum| datum == Datum::Unchanged)
}

/// Whether an old tuple holds every column.
pub(super) fn is_full(old: &OldTuple) -> bool {
    old.kind == OldKind::Full
}
