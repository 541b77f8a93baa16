//! From which commit on plans hold.
//!
//! Pure. What is known of the database was read at a moment, and holds from there on. It held before as well if it is what
//! was known then, but for tables that something has happened to meanwhile: a TRUNCATE makes walcast read everything anew
//! and changes no verdict on other tables.

use std::collections::HashMap;

use crate::catalog::{AccessMark, Catalog};
use crate::change::{Lsn, Oid};
use crate::pipeline::knowledge::Knowledge;

/// Since when what is known has held.
#[derive(Debug)]
pub(super) struct Since {
    /// As [`Knowledge::core`].
    core: Box<str>,
    /// Of all tables but those below.
    from: Lsn,
    /// As [`Catalog::access_marks`].
    marks: HashMap<Oid, AccessMark>,
    /// Published tables whose mark has moved since, with the position from which on they have the new one.
    moved: HashMap<Oid, Lsn>,
}

impl Since {
    /// The same after the database was read anew, together with this catalog.
    pub(super) fn renewed(before: Option<Self>, knowledge: &Knowledge, catalog: &Catalog) -> Self {
        let marks = catalog.access_marks.clone();
        let is_same = |before: &Self| before.core == knowledge.core;
        match before.filter(is_same) {
            Some(before) => {
                let mut moved = before.moved;
                let others = marks.keys().chain(before.marks.keys());
                let others = others.filter(|oid| marks.get(oid) != before.marks.get(oid));
                moved.extend(others.map(|oid| (*oid, knowledge.from)));
                Self {
                    core: before.core,
                    from: before.from,
                    marks,
                    moved,
                }
            }
            None => Self {
                core: knowledge.core.clone(),
                from: knowledge.from,
                marks,
                moved: HashMap::new(),
            },
        }
    }

    /// Whether what is known held at a commit, for most tables.
    pub(super) fn reaches(&self, commit: Lsn) -> bool {
        commit >= self.from
    }

    /// Whether it held for this table.
    pub(super) fn reaches_for(&self, table: Oid, commit: Lsn) -> bool {
        self.reaches(commit) && self.moved.get(&table).is_none_or(|from| commit >= *from)
    }
}
