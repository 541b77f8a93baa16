//! Which names mean what at a place in the code.

use std::sync::Arc;

use crate::policy::ir::{AggregateCall, Collated, Query, SetCall};
use crate::policy::schema::{Column, Table};
use crate::policy::value::{Field, Oid};

/// A function's body, or a policy's expression.
#[derive(Clone, Debug, Default)]
pub(super) struct Frame {
    /// Queries around, outermost first.
    pub(super) levels: Vec<Level>,
    pub(super) variables: Vec<Variable>,
    /// Names bound by WITH, innermost last.
    pub(super) withs: Vec<WithName>,
    /// Where unqualified names are looked for; `None` in text that was printed by Postgres, where they are the
    /// system's.
    pub(super) path: Option<Vec<Box<str>>>,
    pub(super) plpgsql: bool,
    /// The function's name qualifies its parameters.
    pub(super) function: Option<Box<str>>,
}

#[derive(Clone, Debug)]
pub(super) struct Variable {
    /// Lower block names hide upper ones: the last one counts.
    pub(super) name: Option<Box<str>>,
    pub(super) type_oid: Oid,
    pub(super) typmod: i32,
    pub(super) collation: Collated,
    /// Columns of a `record`, once known.
    pub(super) fields: Option<Arc<[Field]>>,
    pub(super) unordered: bool,
    /// No longer in scope.
    pub(super) hidden: bool,
}

#[derive(Clone, Debug)]
pub(super) struct WithName {
    pub(super) name: Box<str>,
    pub(super) index: usize,
    pub(super) columns: Vec<Column>,
    /// `None` of a recursive one, which is never merged with the query around.
    pub(super) query: Option<Arc<Query>>,
    /// How many queries were around, with the one that it belongs to.
    pub(super) depth: usize,
}

/// A query.
#[derive(Clone, Debug, Default)]
pub(super) struct Level {
    pub(super) items: Vec<Item>,
    /// Items below this place cannot be seen: they stand left of a subquery without LATERAL.
    pub(super) sealed: bool,
    /// Aggregates found so far, where they may stand.
    pub(super) aggregates: Option<Vec<AggregateCall>>,
    /// Set-returning functions found so far, where they may stand.
    pub(super) sets: Option<Vec<SetCall>>,
}

/// A table in FROM.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) alias: Box<str>,
    /// Schema of a table without alias.
    pub(super) schema: Option<Box<str>>,
    pub(super) columns: Arc<[Column]>,
    /// Columns that a USING clause merged into those of a table further left.
    pub(super) merged: Vec<Box<str>>,
    /// Row type, if it is a table.
    pub(super) row_type: Oid,
    /// A function of one column without a row type: its name means the column.
    pub(super) scalar: bool,
    /// The table that is looked into; 0 without.
    pub(super) table: Oid,
}

impl Frame {
    /// A place for text that Postgres printed.
    pub(super) fn bound(levels: Vec<Level>) -> Self {
        Self {
            levels,
            ..Self::default()
        }
    }
}

impl Level {
    pub(super) fn of(item: Item) -> Self {
        Self {
            items: vec![item],
            ..Self::default()
        }
    }
}

impl Item {
    pub(super) fn table(table: &Table) -> Self {
        Self {
            alias: table.name.clone(),
            schema: Some(table.schema.clone()),
            columns: Arc::clone(&table.columns),
            merged: Vec::new(),
            row_type: table.row_type,
            scalar: false,
            table: table.oid,
        }
    }
}
