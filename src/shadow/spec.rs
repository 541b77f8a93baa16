//! What is wanted of a table: the columns that plans read, and the look-ups worth an index.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::policy::Reads;
use crate::policy::schema::{Column, Schema};
use crate::policy::value::{Oid, Types};

/// One table that plans look into, as the schema describes it that they were compiled against.
#[derive(Clone, Debug)]
pub struct Spec {
    /// `pg_class.oid`.
    pub table: Oid,
    /// Schema name, unquoted.
    pub schema: Box<str>,
    /// Table name, unquoted.
    pub name: Box<str>,
    /// All live columns in order.
    pub columns: Arc<[Column]>,
    /// Indexes of the columns that plans read.
    pub reads: BTreeSet<usize>,
    /// Sets of columns that are compared for equality.
    pub lookups: BTreeSet<Vec<usize>>,
    /// The types of that schema.
    pub types: Arc<Types>,
}

impl Spec {
    /// Unites what plans read. A table that the schema does not know is left out: it will never be trusted.
    #[must_use]
    pub fn all<'a>(schema: &Schema, reads: impl IntoIterator<Item = &'a Reads>) -> Vec<Self> {
        let mut specs: BTreeMap<Oid, Self> = BTreeMap::new();
        for reads in reads {
            for (oid, columns) in &reads.tables {
                let Some(table) = schema.tables.get(oid) else {
                    continue;
                };
                let spec = specs.entry(*oid).or_insert_with(|| Self {
                    table: *oid,
                    schema: table.schema.clone(),
                    name: table.name.clone(),
                    columns: Arc::clone(&table.columns),
                    reads: BTreeSet::new(),
                    lookups: BTreeSet::new(),
                    types: Arc::clone(&schema.types),
                });
                spec.reads.extend(columns);
            }
            for (oid, columns) in &reads.lookups {
                if let Some(spec) = specs.get_mut(oid) {
                    let mut columns = columns.clone();
                    columns.sort_unstable();
                    columns.dedup();
                    spec.reads.extend(&columns);
                    spec.lookups.insert(columns);
                }
            }
        }
        specs.into_values().collect()
    }

    /// Whether a shadow made for `self` serves `other` as well.
    pub(super) fn covers(&self, other: &Self) -> bool {
        let described = |columns: &Arc<[Column]>| -> Vec<(Box<str>, Oid, i32)> {
            let of = |column: &Column| (column.name.clone(), column.type_oid, column.typmod);
            columns.iter().map(of).collect()
        };
        self.table == other.table
            && (&self.schema, &self.name) == (&other.schema, &other.name)
            && described(&self.columns) == described(&other.columns)
            && self.reads.is_superset(&other.reads)
            && self.lookups.is_superset(&other.lookups)
    }
}
