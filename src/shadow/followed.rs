//! A table that is followed: its rows, moved by each change.

use std::collections::HashMap;
use std::sync::Arc;

use super::layout::{Mapping, Trouble};
use super::load_request::Loaded;
use super::row;
use super::store::Store;
use super::table::Retained;
use super::undo::Undo;
use crate::change::{Change, ChangeKind, Commit, Lsn, Oid, OldKind, Relation, Snapshot, Tuple};

/// A table that moves with the stream.
#[derive(Debug)]
pub(super) struct Followed {
    /// The first commit that it is exact for is at or after this position.
    pub(super) from: Lsn,
    /// What it was loaded in: transactions that this sees are in the rows already. All of them are before `from`.
    pub(super) snapshot: Snapshot,
    /// The last commit that changed it.
    pub(super) changed: Lsn,
    /// The last that changed anything which is kept of it.
    pub(super) altered: Lsn,
    pub(super) store: Store,
    pub(super) mappings: HashMap<Oid, (Arc<Relation>, Mapping)>,
}

impl Followed {
    /// What was loaded, and on top of it what came meanwhile.
    pub(super) fn new(loaded: Loaded, retained: Vec<Retained>) -> Result<Self, Trouble> {
        let mut followed = Self {
            from: loaded.lsn,
            snapshot: loaded.snapshot,
            changed: Lsn::ZERO,
            altered: Lsn::ZERO,
            store: loaded.store,
            mappings: HashMap::new(),
        };
        for Retained { commit, change } in retained {
            let oid = change.relation.oid;
            let table = if loaded.leaves.contains(&oid) { 0 } else { oid };
            followed.apply(table, &commit, &change, None)?;
        }
        Ok(followed)
    }

    /// What this transaction is about to change. Nothing is known of what it has changed already, while the table was
    /// being loaded or nobody asked.
    pub(super) fn begin_undo(&self, commit: &Commit) -> Undo {
        if self.changed == commit.lsn {
            Undo::Unknown
        } else {
            Undo::new(self.store.layout())
        }
    }

    /// Changes the rows of `table` itself, or of the partition that the change is of. `undo` remembers the rows that come
    /// and go.
    pub(super) fn apply(
        &mut self,
        table: Oid,
        commit: &Commit,
        change: &Change,
        undo: Option<&mut Undo>,
    ) -> Result<(), Trouble> {
        if commit.lsn < self.from && self.snapshot.sees(commit.xid) {
            return Ok(());
        }
        self.changed = commit.lsn;
        let relation = &change.relation;
        if matches!(change.kind, ChangeKind::Truncate) {
            if relation.oid != table {
                return Err("a partition was truncated".into());
            }
            self.altered = commit.lsn;
            self.store.clear();
            if let Some(undo) = undo {
                *undo = Undo::Unknown;
            }
            return Ok(());
        }
        let layout = Arc::clone(self.store.layout());
        let known = self.mappings.get(&relation.oid);
        if !known.is_some_and(|(known, _)| Arc::ptr_eq(known, relation)) {
            // A column that was dropped and added again looks the same but holds other values.
            if known.is_some_and(|(known, _)| known.columns != relation.columns) {
                return Err("the table has been altered".into());
            }
            let mapping = layout.map(relation)?;
            self.mappings
                .insert(relation.oid, (Arc::clone(relation), mapping));
        }
        let (_, mapping) = self.mappings.get(&relation.oid).ok_or("no mapping")?;
        let row = |tuple: &Tuple| layout.row(mapping, tuple);
        match &change.kind {
            ChangeKind::Insert { new } => {
                let new = row(new)?;
                if row::columns(&new).any(row::Stored::is_unchanged) {
                    return Err("a row was inserted in part".into());
                }
                self.altered = commit.lsn;
                if let Some(undo) = undo {
                    undo.came(&new);
                }
                self.store.insert(new)
            }
            ChangeKind::Update { old: None, new } => {
                let new = row(new)?;
                self.update(commit, (&new, &new), undo)
            }
            ChangeKind::Update {
                old: Some(old),
                new,
            } => {
                let (kind, old, new) = (old.kind, row(&old.tuple)?, row(new)?);
                // The row has got this key from another one, and with it a content that the stream leaves out
                // (`replication::net_effect`, on keys that are exchanged in a circle).
                if kind == OldKind::Key
                    && self.store.is_same(&old, &new)
                    && row::columns(&new).any(row::Stored::is_unchanged)
                {
                    return Err("rows exchanged their keys".into());
                }
                self.update(commit, (&old, &new), undo)
            }
            ChangeKind::Delete { old } => {
                let gone = self.store.delete(&row(&old.tuple)?)?;
                self.altered = commit.lsn;
                if let Some(undo) = undo {
                    undo.went(&gone);
                }
                Ok(())
            }
            ChangeKind::Truncate => Ok(()),
        }
    }

    pub(super) fn update(
        &mut self,
        commit: &Commit,
        (old, new): (&[u8], &[u8]),
        undo: Option<&mut Undo>,
    ) -> Result<(), Trouble> {
        let (before, after) = self.store.update(old, new)?;
        if *before != *after {
            self.altered = commit.lsn;
            if let Some(undo) = undo {
                undo.went(&before);
                undo.came(after);
            }
        }
        Ok(())
    }
}
