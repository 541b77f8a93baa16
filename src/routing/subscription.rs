//! What routing keeps of a binding once the database has agreed to it.

use std::collections::HashMap;

use super::{Event, Filter, Match, SnapshotWish};
use crate::catalog::Table;
use crate::change::{Change, ChangeKind, Datum, Oid, OldKind};

/// A binding with the tables that it concerns.
#[derive(Clone, Debug)]
pub struct Subscription {
    /// The binding's number.
    pub id: u32,
    /// Which actions are delivered.
    pub event: Event,
    /// Whether rows that leave are announced, as DELETE.
    pub left: bool,
    /// The published tables that the binding names, by `pg_class.oid`. Never empty.
    pub tables: HashMap<Oid, TableFilter>,
    /// The rows that are there already are asked for as well. Its column is one of every table, and the role may read it.
    pub snapshot: Option<SnapshotWish>,
}

/// What a subscription wants of one table.
#[derive(Clone, Debug)]
pub struct TableFilter {
    /// Conditions on the row.
    pub filter: Filter,
    /// Names of the columns to be sent, in attribute order: those selected and the primary key's. `None` for all that
    /// the role may read.
    pub columns: Option<Box<[Box<str>]>>,
}

impl Subscription {
    /// Whether the subscription wants this kind of change; nobody is sent a TRUNCATE.
    #[must_use]
    pub const fn wants(&self, kind: &ChangeKind) -> bool {
        self.event.wants(kind)
    }

    /// Whether the subscription wants to hear of rows that leave. Clients give a DELETE to no other bindings.
    #[must_use]
    pub const fn wants_left(&self) -> bool {
        self.left && matches!(self.event, Event::All | Event::Delete)
    }
}

impl Event {
    /// Whether this kind of change is delivered; nobody is sent a TRUNCATE.
    pub(super) const fn wants(self, kind: &ChangeKind) -> bool {
        match (self, kind) {
            (_, ChangeKind::Truncate) => false,
            (Self::All, _)
            | (Self::Insert, ChangeKind::Insert { .. })
            | (Self::Update, ChangeKind::Update { .. })
            | (Self::Delete, ChangeKind::Delete { .. }) => true,
            (Self::Insert | Self::Update | Self::Delete, _) => false,
        }
    }
}

impl TableFilter {
    /// Whether a change passes the filter: INSERT and UPDATE by the new row, DELETE by the old one.
    ///
    /// A value that an UPDATE left in TOAST is read from the old row where that is known in full. Where policies apply
    /// to the reader, a deleted row is tested on the primary key alone: nobody has judged whether the reader could see
    /// it, and the rest must not be found out by filters either.
    #[must_use]
    pub fn matches(&self, change: &Change, table: &Table, policies_apply: bool) -> Match {
        let relation = &change.relation;
        match &change.kind {
            ChangeKind::Insert { new } => self.filter.matches(relation, new, false),
            ChangeKind::Update { old, new } => {
                let full = old.as_ref().filter(|old| old.kind == OldKind::Full);
                self.filter.test(relation, |index| match new.get(index) {
                    Some(Datum::Unchanged) => full.and_then(|old| old.tuple.get(index)),
                    datum => datum,
                })
            }
            ChangeKind::Delete { old } => {
                let key_only = old.kind == OldKind::Key;
                self.filter.test(relation, |index| {
                    let column = relation.columns.get(index)?;
                    let in_key = || {
                        (table.primary_key.iter())
                            .filter_map(|&index| table.columns.get(index))
                            .any(|key| key.name == column.name)
                    };
                    if (key_only && !column.in_identity) || (policies_apply && !in_key()) {
                        return None;
                    }
                    old.tuple.get(index)
                })
            }
            ChangeKind::Truncate => Match::No,
        }
    }

    /// Whether the row passed the filter before an UPDATE, as far as the stream tells what it was; false if that is not
    /// certain. Without an old tuple the replica identity's columns did not change.
    #[must_use]
    pub fn passed_before(&self, change: &Change) -> bool {
        let ChangeKind::Update { old, new } = &change.kind else {
            return false;
        };
        let relation = &change.relation;
        let (tuple, all_known) = match old {
            Some(old) => (&old.tuple, old.kind == OldKind::Full),
            None => (new, false),
        };
        let passed = self.filter.test(relation, |index| {
            let column = relation.columns.get(index)?;
            if all_known || column.in_identity {
                tuple.get(index)
            } else {
                None
            }
        });
        passed == Match::Yes
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::catalog::{Collation, Column, Published};
    use crate::change::{OldTuple, Relation, RelationColumn, ReplicaIdentity, Tuple, TupleBuilder};
    use crate::routing::Operator;
    use crate::routing::filter::{Operand, Test};
    use crate::routing::value::{Family, TextOrder, Value};

    const TEXT: Oid = 25;

    fn relation(identity: ReplicaIdentity) -> Arc<Relation> {
        let column = |name: &str| RelationColumn {
            name: name.into(),
            type_oid: TEXT,
            type_modifier: -1,
            in_identity: name == "id" || identity == ReplicaIdentity::Full,
        };
        Arc::new(Relation {
            oid: 1,
            schema: "public".into(),
            name: "t".into(),
            identity,
            columns: Box::new([column("id"), column("body")]),
        })
    }

    fn table() -> Table {
        let column = |name: &str, number| Column {
            name: name.into(),
            number,
            type_oid: TEXT,
            collation: Collation::C,
            generated: false,
        };
        Table {
            oid: 1,
            schema: "public".into(),
            name: "t".into(),
            columns: Box::new([column("id", 1), column("body", 2)]),
            primary_key: Box::new([0]),
            identity: ReplicaIdentity::Default,
            row_security: true,
            published: Published::default(),
            access: Default::default(),
        }
    }

    fn tuple(columns: [Datum<'_>; 2]) -> Tuple {
        let mut builder = TupleBuilder::new();
        for column in columns {
            builder.push(column);
        }
        builder.build()
    }

    /// A filter for x in a column.
    fn filter(column: &str) -> TableFilter {
        let test = Test {
            column: column.into(),
            type_oid: TEXT,
            family: Family::Text(TextOrder::C),
            operator: Operator::Eq,
            negated: false,
            operand: Operand::One(Value::Text("x".into())),
            question: None,
        };
        TableFilter {
            filter: Filter::new(vec![test]),
            columns: None,
        }
    }

    fn change(identity: ReplicaIdentity, kind: ChangeKind) -> Change {
        Change {
            relation: relation(identity),
            order: 0,
            kind,
        }
    }

    #[track_caller]
    fn check(
        column: &str,
        identity: ReplicaIdentity,
        kind: ChangeKind,
        policies_apply: bool,
        expected: Match,
    ) {
        let change = change(identity, kind);
        let found = filter(column).matches(&change, &table(), policies_apply);
        assert_eq!(found, expected);
    }

    const X: Datum<'static> = Datum::Text(b"x");
    const Y: Datum<'static> = Datum::Text(b"y");

    #[test]
    fn an_update_is_tested_on_its_new_row() {
        let update = |old: Option<[Datum<'_>; 2]>, kind, new| ChangeKind::Update {
            old: old.map(|old| OldTuple {
                kind,
                tuple: tuple(old),
            }),
            new: tuple(new),
        };
        let full = ReplicaIdentity::Full;
        check(
            "body",
            full,
            update(Some([X, X]), OldKind::Full, [X, Y]),
            true,
            Match::No,
        );
        check(
            "body",
            full,
            update(Some([X, Y]), OldKind::Full, [X, X]),
            true,
            Match::Yes,
        );
        // A value that stayed in TOAST is the old row's, if that is known.
        check(
            "body",
            full,
            update(Some([X, X]), OldKind::Full, [X, Datum::Unchanged]),
            true,
            Match::Yes,
        );
        let key = update(Some([X, Datum::Null]), OldKind::Key, [X, Datum::Unchanged]);
        check("body", ReplicaIdentity::Default, key, false, Match::No);
        check(
            "body",
            full,
            update(None, OldKind::Full, [X, Datum::Unchanged]),
            false,
            Match::No,
        );
    }

    #[test]
    fn a_delete_is_tested_on_what_may_be_known_of_its_old_row() {
        let delete = |kind, old| ChangeKind::Delete {
            old: OldTuple {
                kind,
                tuple: tuple(old),
            },
        };
        let (default, full) = (ReplicaIdentity::Default, ReplicaIdentity::Full);
        check(
            "id",
            default,
            delete(OldKind::Key, [X, Datum::Null]),
            true,
            Match::Yes,
        );
        check(
            "body",
            default,
            delete(OldKind::Key, [X, Datum::Null]),
            false,
            Match::No,
        );
        check(
            "body",
            full,
            delete(OldKind::Full, [X, X]),
            false,
            Match::Yes,
        );
        // Whether the reader could see the row was not judged: the filter must not tell what was in it.
        check("body", full, delete(OldKind::Full, [X, X]), true, Match::No);
        check("id", full, delete(OldKind::Full, [X, X]), true, Match::Yes);
    }

    #[track_caller]
    fn check_before(column: &str, identity: ReplicaIdentity, kind: ChangeKind, expected: bool) {
        let change = change(identity, kind);
        assert_eq!(filter(column).passed_before(&change), expected);
    }

    #[test]
    fn a_row_passed_before_only_as_far_as_the_stream_tells() {
        let update = |old: Option<(OldKind, [Datum<'_>; 2])>, new| ChangeKind::Update {
            old: old.map(|(kind, old)| OldTuple {
                kind,
                tuple: tuple(old),
            }),
            new: tuple(new),
        };
        let (default, full) = (ReplicaIdentity::Default, ReplicaIdentity::Full);
        let moved = |old, new| update(Some((OldKind::Full, old)), new);
        check_before("body", full, moved([X, X], [X, Y]), true);
        check_before("body", full, moved([X, Y], [X, X]), false);
        // Without an old tuple only the key is known, because it did not change.
        check_before("body", default, update(None, [X, X]), false);
        check_before("id", default, update(None, [X, Y]), true);
        check_before("id", default, update(None, [Y, X]), false);
        let key = |old| Some((OldKind::Key, [old, Datum::Null]));
        check_before("id", default, update(key(X), [Y, X]), true);
        check_before("id", default, update(key(Y), [X, X]), false);
        check_before("body", default, update(key(X), [Y, X]), false);
        let deleted = ChangeKind::Delete {
            old: OldTuple {
                kind: OldKind::Full,
                tuple: tuple([X, X]),
            },
        };
        check_before("body", full, deleted, false);
    }

    #[test]
    fn only_those_who_are_given_deletes_hear_of_rows_that_leave() {
        for (event, left, expected) in [
            (Event::All, true, true),
            (Event::Delete, true, true),
            (Event::Update, true, false),
            (Event::Insert, true, false),
            (Event::All, false, false),
        ] {
            let subscription = Subscription {
                id: 1,
                event,
                left,
                tables: HashMap::new(),
                snapshot: None,
            };
            assert_eq!(subscription.wants_left(), expected, "{event:?}");
        }
    }

    #[test]
    fn subscriptions_want_their_own_actions() {
        let changes = [
            ChangeKind::Insert { new: tuple([X, X]) },
            ChangeKind::Update {
                old: None,
                new: tuple([X, X]),
            },
            ChangeKind::Delete {
                old: OldTuple {
                    kind: OldKind::Full,
                    tuple: tuple([X, X]),
                },
            },
            ChangeKind::Truncate,
        ];
        for (event, expected) in [
            (Event::All, [true, true, true, false]),
            (Event::Insert, [true, false, false, false]),
            (Event::Update, [false, true, false, false]),
            (Event::Delete, [false, false, true, false]),
        ] {
            let subscription = Subscription {
                id: 1,
                event,
                left: true,
                tables: HashMap::new(),
                snapshot: None,
            };
            assert_eq!(
                changes.each_ref().map(|kind| subscription.wants(kind)),
                expected
            );
        }
    }
}
