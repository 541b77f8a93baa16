//! Versions of a row that are told as one.
//!
//! Pure. The last version counts, and what the row was before the first of them. A value that the last change leaves out as
//! unchanged is that of right before it: of its own old version, or of the version that it follows. The first old version may
//! have had another one, which is nobody's to see.

use crate::change::{
    Change, ChangeKind, Datum, OldKind, OldTuple, Relation, RelationColumn, Tuple, TupleBuilder,
};

/// The key before the change, if it was another one.
pub(super) fn old_key(change: &Change) -> Option<OldTuple> {
    match &change.kind {
        ChangeKind::Update { old, .. } => old.clone(),
        ChangeKind::Insert { .. } | ChangeKind::Delete { .. } | ChangeKind::Truncate => None,
    }
}

/// The change with the old version of the first version that was merged into it. The old version may have been written
/// under another description of the table; then only a key of the same width is taken over.
pub(super) fn with_first_old(change: &Change, first_old: Option<OldTuple>) -> Option<Change> {
    let first = first_old.filter(|old| old.tuple.len() == change.relation.columns.len())?;
    let kind = match &change.kind {
        ChangeKind::Update { new, old } => {
            let new = filled(new, old.as_ref(), &change.relation);
            let first = beside(first, &new, &change.relation)?;
            ChangeKind::Update {
                old: Some(first),
                new,
            }
        }
        ChangeKind::Delete { old } if old.kind == OldKind::Key || first.kind == OldKind::Full => {
            ChangeKind::Delete { old: first }
        }
        ChangeKind::Delete { .. } | ChangeKind::Insert { .. } | ChangeKind::Truncate => {
            return None;
        }
    };
    Some(Change {
        kind,
        ..change.clone()
    })
}

/// `new` with what it leaves out as unchanged, where its own old version has it.
fn filled(new: &Tuple, old: Option<&OldTuple>, relation: &Relation) -> Tuple {
    let Some(old) = old.filter(|_| leaves_out(new)) else {
        return new.clone();
    };
    let columns = old.tuple.iter().zip(&relation.columns);
    let known = columns.map(|(datum, column)| {
        let is_known = old.kind == OldKind::Full || column.in_identity;
        if is_known { datum } else { Datum::Unchanged }
    });
    with_left_out(new, known)
}

/// `new` with what it leaves out as unchanged taken from `known`, column by column.
fn with_left_out<'a>(new: &Tuple, known: impl Iterator<Item = Datum<'a>>) -> Tuple {
    let mut builder = TupleBuilder::new();
    for (datum, known) in new.iter().zip(known) {
        builder.push(match datum {
            Datum::Unchanged => known,
            datum => datum,
        });
    }
    builder.build()
}

/// Whether the change leaves a value out that its own old version does not have either.
pub(super) fn lacks_values(change: &Change) -> bool {
    match &change.kind {
        ChangeKind::Update { new, old } => {
            leaves_out(new) && leaves_out(&filled(new, old.as_ref(), &change.relation))
        }
        ChangeKind::Insert { .. } | ChangeKind::Delete { .. } | ChangeKind::Truncate => false,
    }
}

fn leaves_out(new: &Tuple) -> bool {
    new.iter().any(|datum| datum == Datum::Unchanged)
}

/// The row after the change, with what is left out as unchanged taken from the version that it follows.
pub(super) fn row_after(change: &Change, before: Option<&Tuple>) -> Option<Tuple> {
    let new = match &change.kind {
        ChangeKind::Insert { new } => new.clone(),
        ChangeKind::Update { new, old } => filled(new, old.as_ref(), &change.relation),
        ChangeKind::Delete { .. } | ChangeKind::Truncate => return None,
    };
    Some(match before {
        Some(before) if before.len() == new.len() && leaves_out(&new) => {
            with_left_out(&new, before.iter())
        }
        _ => new,
    })
}

/// The change with what it leaves out as unchanged taken from the version that it follows.
pub(super) fn completed(change: &Change, before: &Tuple) -> Option<Change> {
    let new = row_after(change, Some(before))?;
    match &change.kind {
        ChangeKind::Update { old, .. } => Some(Change {
            kind: ChangeKind::Update {
                old: old.clone(),
                new,
            },
            ..change.clone()
        }),
        ChangeKind::Insert { .. } | ChangeKind::Delete { .. } | ChangeKind::Truncate => None,
    }
}

/// An old version as far as none of its values would be taken for one that `new` leaves out; `None` if not even its key.
fn beside(old: OldTuple, new: &Tuple, relation: &Relation) -> Option<OldTuple> {
    let left_out = |index: usize| new.get(index) == Some(Datum::Unchanged);
    if !(0..relation.columns.len()).any(left_out) {
        return Some(old);
    }
    let is_in_doubt =
        |(index, column): (usize, &RelationColumn)| column.in_identity && left_out(index);
    if relation.columns.iter().enumerate().any(is_in_doubt) {
        return None;
    }
    let mut key = TupleBuilder::new();
    for (datum, column) in old.tuple.iter().zip(&relation.columns) {
        key.push(if column.in_identity {
            datum
        } else {
            Datum::Null
        });
    }
    Some(OldTuple {
        kind: OldKind::Key,
        tuple: key.build(),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::change::ReplicaIdentity;

    fn tuple<const N: usize>(data: [Datum<'_>; N]) -> Tuple {
        let mut builder = TupleBuilder::new();
        for datum in data {
            builder.push(datum);
        }
        builder.build()
    }

    const fn text(text: &str) -> Datum<'_> {
        Datum::Text(text.as_bytes())
    }

    /// An update of `(id, body)`, of which `id` is the key.
    fn update(identity: ReplicaIdentity, old: Option<OldTuple>, new: Tuple) -> Change {
        let column = |name: &str| RelationColumn {
            name: name.into(),
            type_oid: 25,
            type_modifier: -1,
            in_identity: name == "id" || identity == ReplicaIdentity::Full,
        };
        let relation = Relation {
            oid: 1,
            schema: "public".into(),
            name: "docs".into(),
            identity,
            columns: [column("id"), column("body")].into(),
        };
        Change {
            relation: Arc::new(relation),
            order: 0,
            kind: ChangeKind::Update { old, new },
        }
    }

    fn old(kind: OldKind, id: &str, body: Datum<'_>) -> Option<OldTuple> {
        let tuple = tuple([text(id), body]);
        Some(OldTuple { kind, tuple })
    }

    fn merged(change: &Change, first: Option<OldTuple>) -> Option<(OldTuple, Tuple)> {
        match with_first_old(change, first)?.kind {
            ChangeKind::Update { old, new } => Some((old.unwrap(), new)),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_the_last_version_leaves_out_is_of_right_before_it() {
        let own = old(OldKind::Full, "1", text("second"));
        let last = update(
            ReplicaIdentity::Full,
            own,
            tuple([text("1"), Datum::Unchanged]),
        );
        let first = old(OldKind::Full, "1", text("first"));
        let (old, new) = merged(&last, first.clone()).unwrap();
        assert_eq!(Some(old), first);
        assert_eq!(new, tuple([text("1"), text("second")]));
    }

    #[test]
    fn what_is_not_known_stays_unknown() {
        // The first version was written while the replica identity was full.
        let own = old(OldKind::Key, "2", Datum::Null);
        let last = update(
            ReplicaIdentity::Default,
            own,
            tuple([text("3"), Datum::Unchanged]),
        );
        let (kept, new) = merged(&last, old(OldKind::Full, "1", text("first"))).unwrap();
        assert_eq!(Some(kept), old(OldKind::Key, "1", Datum::Null));
        assert_eq!(new, tuple([text("3"), Datum::Unchanged]));
        // The key itself is left out.
        let last = update(
            ReplicaIdentity::Default,
            None,
            tuple([Datum::Unchanged, text("x")]),
        );
        assert_eq!(merged(&last, old(OldKind::Key, "1", Datum::Null)), None);
    }

    #[test]
    fn a_key_that_is_left_out_is_its_own() {
        let own = old(OldKind::Key, "2", Datum::Null);
        let last = update(
            ReplicaIdentity::Default,
            own,
            tuple([Datum::Unchanged, text("x")]),
        );
        let (kept, new) = merged(&last, old(OldKind::Key, "1", Datum::Null)).unwrap();
        assert_eq!(Some(kept), old(OldKind::Key, "1", Datum::Null));
        assert_eq!(new, tuple([text("2"), text("x")]));
    }
}
