//! What routing keeps of a binding once the database has agreed to it.

use std::collections::HashMap;

use super::{Event, Filter, Match};
use crate::catalog::Table;
use crate::change::{Change, ChangeKind, Datum, Oid, OldKind};

/// A binding with the tables that it concerns.
#[derive(Clone, Debug)]
pub struct Subscription {
    /// The binding's number.
    pub id: u32,
    /// Which actions are delivered.
    pub event: Event,
    /// The published tables that the binding names, by `pg_class.oid`. Never empty.
    pub tables: HashMap<Oid, TableFilter>,
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
        match (self.event, kind) {
            (_, ChangeKind::Truncate) => false,
            (Event::All, _)
            | (Event::Insert, ChangeKind::Insert { .. })
            | (Event::Update, ChangeKind::Update { .. })
            | (Event::Delete, ChangeKind::Delete { .. }) => true,
            (Event::Insert | Event::Update | Event::Delete, _) => false,
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
}
