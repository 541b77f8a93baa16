//! Which columns of a table are kept, how its rows are told apart, and which look-ups are fast.

use std::sync::Arc;

use super::row;
use crate::change::{Datum, Relation, ReplicaIdentity, Tuple};
use crate::policy::value::{self, Oid, Types, Value};

/// How the rows of one shadow are kept. Columns are named by their place among the kept ones.
#[derive(Debug)]
pub(super) struct Layout {
    /// The types that the values are of.
    pub(super) types: Arc<Types>,
    /// Live columns of the table.
    pub(super) width: usize,
    /// The kept ones, in the table's order.
    pub(super) columns: Box<[Kept]>,
    /// What an old tuple identifies its row by.
    pub(super) identity: Identity,
    /// Columns that rows are found by; the first finds the row of an old tuple.
    pub(super) indexes: Box<[IndexedBy]>,
}

/// A kept column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Kept {
    /// Its place among the table's live columns.
    pub(super) index: usize,
    /// Unquoted name.
    pub(super) name: Box<str>,
    /// Type.
    pub(super) type_oid: Oid,
    /// Type modifier.
    pub(super) typmod: i32,
    /// Plans read it; otherwise it only tells rows apart, and its type may be any.
    pub(super) is_read: bool,
}

/// What old tuples carry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Identity {
    /// These columns, which are unique together.
    Key(Box<[usize]>),
    /// All columns. Rows may be equal in those that are kept; which of them goes does not show.
    Whole,
}

/// The columns of one index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct IndexedBy {
    /// Ascending.
    pub(super) columns: Box<[usize]>,
    /// By the equality of the types, which is what look-ups mean; otherwise by bytes.
    pub(super) canonical: bool,
}

/// Why a change cannot be applied.
pub(super) type Trouble = Box<str>;

/// Where the kept columns stand in the tuples of one relation.
pub(super) type Mapping = Box<[usize]>;

impl Layout {
    /// Makes room for the look-ups that are by equality of known types.
    pub(super) fn new(
        types: Arc<Types>,
        width: usize,
        columns: Box<[Kept]>,
        identity: Identity,
        key: &[usize],
        lookups: &[Vec<usize>],
    ) -> Self {
        let indexed = |by: &[usize]| {
            let mut by = by.to_vec();
            by.sort_unstable();
            by.dedup();
            let canonical = by.iter().all(|place| {
                columns.get(*place).is_some_and(|column| {
                    column.is_read && value::equatable(&types, column.type_oid)
                })
            });
            IndexedBy {
                columns: by.into(),
                canonical,
            }
        };
        let all: Vec<usize> = (0..columns.len()).collect();
        let mut indexes = vec![indexed(if key.is_empty() { &all } else { key })];
        for lookup in lookups {
            let index = indexed(lookup);
            if index.canonical && !index.columns.is_empty() && !indexes.contains(&index) {
                indexes.push(index);
            }
        }
        Self {
            types,
            width,
            columns,
            identity,
            indexes: indexes.into(),
        }
    }

    /// Finds the kept columns in a relation.
    ///
    /// # Errors
    /// The table is another than the one that was loaded.
    pub(super) fn map(&self, relation: &Relation) -> Result<Mapping, Trouble> {
        let fits = match (&self.identity, relation.identity) {
            (Identity::Whole, ReplicaIdentity::Full) => true,
            (Identity::Key(key), ReplicaIdentity::Default | ReplicaIdentity::Index) => {
                let named = |place: &usize| Some(&*self.columns.get(*place)?.name);
                let in_identity = || relation.columns.iter().filter(|column| column.in_identity);
                in_identity().count() == key.len()
                    && in_identity()
                        .all(|column| key.iter().any(|place| named(place) == Some(&*column.name)))
            }
            _ => false,
        };
        if !fits {
            return Err("its replica identity has changed".into());
        }
        self.columns
            .iter()
            .map(|kept| {
                let place = relation.column(&kept.name);
                place
                    .filter(|place| {
                        relation.columns.get(*place).is_some_and(|column| {
                            (column.type_oid, column.type_modifier) == (kept.type_oid, kept.typmod)
                        })
                    })
                    .ok_or_else(|| format!("column {:?} has changed", kept.name).into())
            })
            .collect()
    }

    /// The kept columns of a tuple as a row.
    ///
    /// # Errors
    /// A value cannot be read.
    pub(super) fn row(&self, mapping: &Mapping, tuple: &Tuple) -> Result<Vec<u8>, Trouble> {
        let data: Vec<Datum<'_>> = tuple.iter().collect();
        self.encode(mapping.iter().map(|place| match data.get(*place) {
            Some(Datum::Null) => Ok(Field::Null),
            Some(Datum::Unchanged) => Ok(Field::Unchanged),
            Some(Datum::Text(text)) => match std::str::from_utf8(text) {
                Ok(text) => Ok(Field::Text(text)),
                Err(_not_utf8) => Err("a value that is no UTF-8".into()),
            },
            None => Err("a tuple that is too short".into()),
        }))
    }

    /// A row from the texts of the kept columns.
    ///
    /// # Errors
    /// A value cannot be read, or one is missing.
    pub(super) fn row_of_texts<'a>(
        &self,
        texts: impl Iterator<Item = Option<&'a str>>,
    ) -> Result<Vec<u8>, Trouble> {
        self.encode(texts.map(|text| Ok(text.map_or(Field::Null, Field::Text))))
    }

    fn encode<'a>(
        &self,
        fields: impl Iterator<Item = Result<Field<'a>, Trouble>>,
    ) -> Result<Vec<u8>, Trouble> {
        let mut encoded = Vec::new();
        let mut count = 0_usize;
        for (kept, field) in self.columns.iter().zip(fields) {
            count = count.saturating_add(1);
            match field? {
                Field::Null => row::push_null(&mut encoded),
                Field::Unchanged => row::push_unchanged(&mut encoded),
                Field::Text(text) if !kept.is_read => row::push_raw(&mut encoded, text),
                Field::Text(text) => row::push_text(&mut encoded, &self.types, kept.type_oid, text)
                    .map_err(|error| format!("column {:?} cannot be read: {error}", kept.name))?,
            }
        }
        if count == self.columns.len() {
            Ok(encoded)
        } else {
            Err("a row that is too short".into())
        }
    }

    /// The row as evaluators see it: all live columns, NULL where nothing is kept.
    pub(super) fn tuple(&self, encoded: &[u8]) -> Arc<[Value]> {
        let mut values = vec![Value::Null; self.width];
        for (kept, stored) in self.columns.iter().zip(row::columns(encoded)) {
            if let Some(value) = values.get_mut(kept.index).filter(|_| kept.is_read) {
                *value = stored.value(&self.types, kept.type_oid);
            }
        }
        values.into()
    }

    /// The place of a table's column among the kept ones that plans read.
    pub(super) fn place(&self, index: usize) -> Option<usize> {
        self.columns
            .iter()
            .position(|kept| kept.index == index && kept.is_read)
    }
}

enum Field<'a> {
    Null,
    Unchanged,
    Text(&'a str),
}
