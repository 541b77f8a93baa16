//! What operators are told of shadowed tables.

use super::{Shadow, Stage};
use crate::change::{Lsn, Oid};

/// What is known about a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Not loaded yet.
    Wanted,
    /// Being loaded.
    Loading,
    /// Moves with the stream; exact from this position on.
    Trusted {
        /// End of the WAL when it had been loaded.
        from: Lsn,
    },
    /// To be loaded again.
    Invalid {
        /// Why.
        reason: Box<str>,
    },
    /// Over a limit: Postgres is asked instead, until it is emptied, altered or reconsidered.
    TooLarge,
    /// Cannot be followed: Postgres is asked instead, until the table is altered.
    Unfit {
        /// Why.
        reason: Box<str>,
    },
}

/// One table for operators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// `pg_class.oid`.
    pub table: Oid,
    /// Schema name, unquoted.
    pub schema: Box<str>,
    /// Table name, unquoted.
    pub name: Box<str>,
    /// How it is.
    pub state: State,
    /// Rows in memory.
    pub rows: usize,
    /// Bytes of rows, indexes and retained changes.
    pub bytes: usize,
    /// Loads that were begun.
    pub loads: u64,
    /// Why the last of them was, if it was not the first.
    pub why: Option<Box<str>>,
}

/// How much there is of all tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Tables that are wanted.
    pub tables: usize,
    /// Those that can be looked into.
    pub trusted: usize,
    /// Their rows.
    pub rows: usize,
    /// Bytes of their rows and indexes, and of what is remembered of earlier ones.
    pub bytes: usize,
}

impl Shadow {
    /// All tables, by OID.
    #[must_use]
    pub fn status(&self) -> Vec<Status> {
        self.tables
            .iter()
            .map(|(oid, table)| {
                let (rows, bytes) = match &table.stage {
                    Stage::Trusted(followed) => (followed.store.len(), followed.store.bytes()),
                    Stage::Loading { bytes, .. } => (0, *bytes),
                    Stage::Wanted(_) | Stage::TooLarge(_) | Stage::Unfit(_) => (0, 0),
                };
                Status {
                    table: *oid,
                    schema: table.spec.schema.clone(),
                    name: table.spec.name.clone(),
                    state: table.stage.state(),
                    rows,
                    bytes,
                    loads: table.loads,
                    why: table.why.clone(),
                }
            })
            .collect()
    }

    /// How much there is of all tables.
    #[must_use]
    pub fn sizes(&self) -> Sizes {
        let mut sizes = Sizes {
            tables: self.tables.len(),
            bytes: self.bytes.saturating_add(self.undo_bytes),
            ..Sizes::default()
        };
        for table in self.tables.values() {
            if let Stage::Trusted(followed) = &table.stage {
                sizes.trusted = sizes.trusted.saturating_add(1);
                sizes.rows = sizes.rows.saturating_add(followed.store.len());
            }
        }
        sizes
    }
}
