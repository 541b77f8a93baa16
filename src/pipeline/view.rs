//! How the catalog sees a relation of the stream: which of its columns are which, and what identifies a row.
//!
//! A change is rendered with the columns that it was written with, while grants, keys and questions follow the catalog
//! of now. What cannot be brought together is left out.

use std::hash::BuildHasher as _;
use std::sync::Arc;

use crate::catalog::{Access, Table};
use crate::change::{Datum, Relation, ReplicaIdentity, Tuple};

/// A relation and the published table that it is a picture of.
#[derive(Debug)]
pub(super) struct View {
    pub(super) relation: Arc<Relation>,
    pub(super) table: Arc<Table>,
    /// For each column of the relation, its position in the table; `None` if the table no longer has it.
    columns: Box<[Option<usize>]>,
    /// Columns of the relation that are the primary key, in key order; `None` if the table has none or it is not in
    /// the relation.
    pub(super) key: Option<Box<[usize]>>,
    /// Whether each column of the relation belongs to the primary key.
    pub(super) key_columns: Box<[bool]>,
}

/// Identifies a row of a table: two independent hashes of table and key, keyed at random.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct RowKey(u64, u64);

/// Makes [`RowKey`]s.
#[derive(Debug, Default)]
pub(super) struct RowKeys(
    foldhash::quality::RandomState,
    foldhash::quality::RandomState,
);

impl View {
    pub(super) fn new(relation: Arc<Relation>, table: Arc<Table>) -> Self {
        let columns = match_columns(&relation, &table);
        let position = |wanted: &usize| {
            columns
                .iter()
                .position(|column| column.as_ref() == Some(wanted))
        };
        let found: Option<Box<[usize]>> = table.primary_key.iter().map(position).collect();
        // A key column that was renamed or dropped since is still marked in the stream.
        let flagged = || -> Box<[usize]> {
            let columns = relation.columns.iter().enumerate();
            columns
                .filter(|(_, column)| column.in_identity)
                .map(|(index, _)| index)
                .collect()
        };
        let key = match relation.identity {
            _ if table.primary_key.is_empty() => None,
            ReplicaIdentity::Default => found.or_else(|| Some(flagged())),
            ReplicaIdentity::Full | ReplicaIdentity::Index | ReplicaIdentity::Nothing => found,
        };
        let key = key.filter(|key| !key.is_empty());
        let in_key = |index: usize| key.as_ref().is_some_and(|key| key.contains(&index));
        let key_columns = (0..relation.columns.len()).map(in_key).collect();
        Self {
            relation,
            table,
            columns,
            key,
            key_columns,
        }
    }

    /// Which columns of the relation a role may be sent: those that it may SELECT and that `selected` names; key
    /// columns whether named or not.
    pub(super) fn included(&self, access: &Access, selected: Option<&[Box<str>]>) -> Arc<[bool]> {
        let all = access.columns.iter().all(|granted| *granted);
        let included = |(index, column): (usize, &Option<usize>)| {
            let granted = match column {
                Some(column) => access.columns.get(*column).copied().unwrap_or(false),
                // Not there any more, so nobody can grant or revoke it; the whole table was granted.
                None => all && !access.columns.is_empty(),
            };
            let name = self.relation.columns.get(index).map(|column| &column.name);
            let wanted = selected.is_none_or(|names| name.is_some_and(|name| names.contains(name)));
            granted && (wanted || self.key_columns.get(index).copied().unwrap_or(false))
        };
        self.columns.iter().enumerate().map(included).collect()
    }

    /// Whether the role may SELECT the whole primary key.
    pub(super) fn key_granted(&self, access: &Access) -> bool {
        self.table
            .primary_key
            .iter()
            .all(|column| access.columns.get(*column).copied().unwrap_or(false))
    }

    /// Position in the relation of the table's column `column`.
    pub(super) fn relation_column(&self, column: usize) -> Option<usize> {
        self.columns.iter().position(|found| *found == Some(column))
    }

    /// Positions in the table of the included columns of the relation.
    pub(super) fn table_columns<'a>(
        &'a self,
        included: &'a [bool],
    ) -> impl Iterator<Item = usize> + 'a {
        self.columns
            .iter()
            .zip(included)
            .filter(|(_, included)| **included)
            .filter_map(|(column, _)| *column)
    }

    /// The key's text forms in this tuple; `None` without a key, or if the tuple lacks part of it.
    pub(super) fn key_of(&self, tuple: &Tuple) -> Option<Box<[Box<str>]>> {
        let text = |index: &usize| match tuple.get(*index)? {
            Datum::Text(text) => std::str::from_utf8(text).ok().map(Box::from),
            Datum::Null | Datum::Unchanged => None,
        };
        self.key.as_ref()?.iter().map(text).collect()
    }
}

impl RowKeys {
    /// The row of `view`'s table that `tuple` is a version of.
    pub(super) fn of(&self, view: &View, tuple: &Tuple) -> Option<RowKey> {
        let key = view.key_of(tuple)?;
        let whole = (view.table.oid, key);
        Some(RowKey(self.0.hash_one(&whole), self.1.hash_one(&whole)))
    }
}

/// By name; if names differ but count and types agree, columns were renamed, and position tells.
fn match_columns(relation: &Relation, table: &Table) -> Box<[Option<usize>]> {
    let by_name: Box<[_]> = relation
        .columns
        .iter()
        .map(|column| table.column(&column.name))
        .collect();
    if by_name.iter().all(Option::is_some) {
        return by_name;
    }
    let stored: Vec<usize> = (0..table.columns.len())
        .filter(|index| {
            table
                .columns
                .get(*index)
                .is_some_and(|column| !column.generated)
        })
        .collect();
    let same_types = stored.len() == relation.columns.len()
        && stored.iter().zip(&relation.columns).all(|(index, column)| {
            table
                .columns
                .get(*index)
                .is_some_and(|found| found.type_oid == column.type_oid)
        });
    if same_types {
        stored.into_iter().map(Some).collect()
    } else {
        by_name
    }
}
