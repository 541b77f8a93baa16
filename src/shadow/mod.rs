//! Shadows: the tables that policies look into, in memory, moved by the stream.
//!
//! Specs of tables and parts of transactions go in; the rows of each table as of a commit come out, to plans, through
//! [`Tables`]. Follows design.md §4 and rls-semantics.md §9. Never answers for a table that it is not sure of:
//! [`Shadow::is_trusted`] is to be asked first.
//!
//! A table is loaded while the stream goes on. From the moment that [`Shadow::loads`] asks for it (P) its changes are
//! retained. The loader reads it in one snapshot, and after that the end of the WAL (L). Of the retained transactions
//! those are applied that the snapshot does not see, whatever their positions; the result is exact as of each commit
//! from L on. A transaction that was consumed before P and that the snapshot does not see either would be lost: then
//! loading begins again. That happens because the stream may carry a commit before others see it.
//!
//! DDL changes rows of which the stream says nothing. Each table is read together with its print, and stays only while
//! [`Shadow::describe`] gives the same one.

mod fit;
mod followed;
mod layout;
mod load;
mod load_request;
mod print;
mod row;
mod spec;
mod status;
mod store;
mod stream;
mod table;
mod undo;
mod unseen;

#[cfg(test)]
pub(crate) mod tests;

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;
use std::sync::Arc;

use followed::Followed;
use load_request::Outcome;
use table::{Stage, Table};
use undo::Undo;
use unseen::Unseen;

use crate::change::{Lsn, Oid, Snapshot};
use crate::policy::Tables;
use crate::policy::value::Value;

pub use load::{load, misfit};
pub use load_request::{LoadRequest, LoadResult};
pub use print::{Prints, prints};
pub use spec::Spec;
pub use status::{Sizes, State, Status};

/// How much memory shadows may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of all tables' rows and indexes.
    pub bytes_max: usize,
    /// Bytes of changes that are retained for one table while it is being loaded.
    pub retained_bytes_max: usize,
    /// Bytes of what is remembered of the tables before the last transaction.
    pub undo_bytes_max: usize,
}

/// All shadowed tables.
#[derive(Debug)]
pub struct Shadow {
    limits: Limits,
    tables: BTreeMap<Oid, Table>,
    /// Whose changes are which table's.
    routes: HashMap<Oid, Oid>,
    unseen: Unseen,
    /// The last transaction that was consumed, wholly or not.
    last: Option<Last>,
    generation: u64,
    /// Bytes of all tables' rows and indexes.
    bytes: usize,
    /// Of the database as it is known; `None`: nobody tells.
    prints: Option<Arc<Prints>>,
    /// Whether somebody asks for the tables as of before a transaction.
    remembers: bool,
    /// What the last transaction has changed, by table, if that is remembered.
    undo: BTreeMap<Oid, Undo>,
    /// Bytes of `undo`.
    undo_bytes: usize,
}

/// How far the stream has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Last {
    commit: Lsn,
    /// The last change.
    order: Option<u32>,
    is_whole: bool,
}

impl Shadow {
    /// Without tables.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            tables: BTreeMap::new(),
            routes: HashMap::new(),
            unseen: Unseen::default(),
            last: None,
            generation: 0,
            bytes: 0,
            remembers: false,
            undo: BTreeMap::new(),
            undo_bytes: 0,
            prints: None,
        }
    }

    /// Takes what the database is known to be now. What was altered since it was last described is loaded again; all
    /// other tables stay as they are.
    pub fn describe(&mut self, prints: &Arc<Prints>) {
        for (oid, table) in &mut self.tables {
            let now = prints.get(oid).cloned().unwrap_or_default();
            let stays = match &table.stage {
                Stage::Wanted(_) => true,
                Stage::Loading { .. }
                | Stage::Trusted(_)
                | Stage::TooLarge(_)
                | Stage::Unfit(_) => table.print.as_ref() == Some(&now),
            };
            if !stays {
                table.invalidate("the table, a type of its columns or its publication was altered");
            }
        }
        self.prints = Some(Arc::clone(prints));
        self.settle();
    }

    /// Tables that were too large are tried again, each time after twice as many calls.
    pub fn reconsider(&mut self) {
        for table in self.tables.values_mut() {
            if let Stage::TooLarge(left) = &mut table.stage {
                match left.checked_sub(1) {
                    Some(fewer) => *left = fewer,
                    None => table.stage = Stage::Wanted(Some("it was over the limit".into())),
                }
            }
        }
    }

    /// Whether the tables will be asked for as of before a transaction ([`Shadow::before`]).
    pub fn remember(&mut self, remembers: bool) {
        self.remembers = remembers;
    }

    /// Replaces what is wanted. A table that already serves its new spec stays as it is, one that no spec names is
    /// dropped.
    pub fn want(&mut self, specs: Vec<Spec>) {
        let mut old = std::mem::take(&mut self.tables);
        for spec in specs {
            let oid = spec.table;
            let known = old.remove(&oid);
            let table = match known {
                Some(mut table) if table.spec.covers(&spec) => {
                    // The next load reads with the types of today.
                    table.spec = Arc::new(Spec {
                        reads: table.spec.reads.clone(),
                        lookups: table.spec.lookups.clone(),
                        ..spec
                    });
                    table
                }
                known => Table::new(Arc::new(spec), known),
            };
            self.tables.insert(oid, table);
        }
        // What is left of them is no longer wanted.
        if !old.is_empty() {
            for table in self.tables.values_mut() {
                if matches!(table.stage, Stage::TooLarge(_)) {
                    table.stage = Stage::Wanted(Some("memory has become free".into()));
                }
            }
        }
        self.settle();
    }

    /// Tables to be loaded, each once: from now on their changes are retained.
    pub fn loads(&mut self) -> Vec<LoadRequest> {
        let bytes_max = self.limits.bytes_max.saturating_sub(self.bytes);
        let mut requests = Vec::new();
        for (oid, table) in &mut self.tables {
            let Stage::Wanted(why) = &mut table.stage else {
                continue;
            };
            table.why = why.take();
            table.loads = table.loads.saturating_add(1);
            table.print =
                (self.prints.as_ref()).map(|prints| prints.get(oid).cloned().unwrap_or_default());
            self.generation = self.generation.saturating_add(1);
            table.stage = Stage::Loading {
                generation: self.generation,
                retained: Vec::new(),
                bytes: 0,
            };
            requests.push(LoadRequest {
                spec: Arc::clone(&table.spec),
                generation: self.generation,
                attempt: table.attempts,
                bytes_max,
            });
            table.attempts = table.attempts.saturating_add(1);
        }
        if !requests.is_empty() {
            // What was consumed up to here is not retained.
            self.unseen.mark(self.generation);
        }
        requests
    }

    /// Takes what a load has come to.
    pub fn loaded(&mut self, result: LoadResult) {
        self.forget(result.table);
        let Some(table) = self.tables.get_mut(&result.table) else {
            return;
        };
        let retained = match &mut table.stage {
            Stage::Loading {
                generation,
                retained,
                ..
            } if *generation == result.generation => std::mem::take(retained),
            // Of an earlier load: something has happened since.
            _ => return,
        };
        let snapshot = match &result.outcome {
            Outcome::Rows(loaded) => Some(loaded.snapshot.clone()),
            Outcome::TooLarge | Outcome::Unfit(_) | Outcome::Failed(_) => None,
        };
        table.stage = match result.outcome {
            Outcome::TooLarge => table.oversize(),
            Outcome::Unfit(reason) => Stage::Unfit(reason),
            Outcome::Failed(reason) => Stage::Wanted(Some(reason)),
            Outcome::Rows(loaded) if !self.unseen.all_seen(result.generation, &loaded.snapshot) => {
                Stage::Wanted(Some(
                    "a transaction had been read that was not visible yet".into(),
                ))
            }
            Outcome::Rows(loaded)
                if (table.print.as_ref()).is_some_and(|print| *print != loaded.print) =>
            {
                Stage::Wanted(Some("it was altered before it was loaded".into()))
            }
            Outcome::Rows(loaded) if loaded.leaves != table.leaves => {
                // Their changes were not retained.
                table.leaves = loaded.leaves;
                Stage::Wanted(Some("its partitions have changed".into()))
            }
            Outcome::Rows(loaded) => match Followed::new(loaded, retained) {
                Ok(followed) => {
                    (table.overruns, table.attempts) = (0, 0);
                    Stage::Trusted(Box::new(followed))
                }
                Err(reason) => Stage::Wanted(Some(reason)),
            },
        };
        if let Some(snapshot) = snapshot {
            self.seen(&snapshot);
        }
        self.settle();
        self.bound(result.table);
    }

    /// Any snapshot of the database, taken just now: what it sees need not be remembered. Loads begin again less often
    /// if it is told from time to time.
    pub fn seen(&mut self, snapshot: &Snapshot) {
        // The snapshots of loads under way may be older.
        let loading = self.tables.values().filter_map(|table| match &table.stage {
            Stage::Loading { generation, .. } => Some(*generation),
            Stage::Wanted(_) | Stage::Trusted(_) | Stage::TooLarge(_) | Stage::Unfit(_) => None,
        });
        self.unseen.forget(snapshot, loading.max().unwrap_or(0));
    }

    /// Loads these tables (or roots of these partitions) again: something about them has changed that the stream does
    /// not tell, such as DDL.
    pub fn invalidate(&mut self, oids: &[Oid], reason: &str) {
        for oid in oids {
            let oid = self.routes.get(oid).unwrap_or(oid);
            if let Some(table) = self.tables.get_mut(oid) {
                table.invalidate(reason);
            }
        }
        self.settle();
    }

    /// Loads all tables again.
    pub fn invalidate_all(&mut self, reason: &str) {
        for table in self.tables.values_mut() {
            table.invalidate(reason);
        }
        self.settle();
    }

    /// Whether these tables are now exactly as of a commit: the commit was consumed whole, and nothing later changed
    /// them. Without this, what [`Tables`] tells of them means nothing.
    #[must_use]
    pub fn is_trusted(&self, tables: &[Oid], commit: Lsn) -> bool {
        let Some(last) = self.last else {
            return tables.is_empty();
        };
        let is_consumed = commit < last.commit || (commit == last.commit && last.is_whole);
        tables.is_empty()
            || is_consumed
                && tables.iter().all(|oid| {
                    self.followed(*oid).is_some_and(|followed| {
                        followed.from <= commit && followed.changed <= commit
                    })
                })
    }

    /// Whether these tables are exact as of the last transaction that was consumed.
    #[must_use]
    pub fn is_current(&self, tables: &[Oid]) -> bool {
        tables.is_empty()
            || self
                .last
                .is_some_and(|last| self.is_trusted(tables, last.commit))
    }

    /// Whether these tables are exact as of a moment when everything that commits before `upto` was consumed, and nothing
    /// in part.
    #[must_use]
    pub fn is_exact(&self, tables: &[Oid], upto: Lsn) -> bool {
        tables.is_empty()
            || self.last.is_none_or(|last| last.is_whole)
                && tables.iter().all(|oid| {
                    let followed = self.followed(*oid);
                    followed.is_some_and(|followed| followed.from <= upto)
                })
    }

    /// Whether these tables, if they are not exact, soon are.
    #[must_use]
    pub fn is_coming(&self, tables: &[Oid]) -> bool {
        tables.iter().all(|oid| {
            let stage = self.tables.get(oid).map(|table| &table.stage);
            matches!(
                stage,
                Some(Stage::Wanted(_) | Stage::Loading { .. } | Stage::Trusted(_))
            )
        })
    }

    /// The table that a relation's changes are of: its root, for a partition that is known as one.
    #[must_use]
    pub fn root_of(&self, relation: Oid) -> Oid {
        self.routes.get(&relation).copied().unwrap_or(relation)
    }

    /// Whether a commit that was consumed may have changed what is kept of a relation's table; true where nobody knows: what
    /// was loaded may contain the change already.
    #[must_use]
    pub fn may_be_altered(&self, relation: Oid, commit: Lsn) -> bool {
        let followed = self.followed(self.root_of(relation));
        followed.is_none_or(|followed| commit < followed.from || followed.altered >= commit)
    }

    /// Whether [`Shadow::before`] gives these tables exactly as of right before a commit: it was the last one that was
    /// consumed, wholly and while the tables were followed, and what it changed is remembered.
    #[must_use]
    pub fn is_trusted_before(&self, tables: &[Oid], commit: Lsn) -> bool {
        let is_last = || {
            self.last
                .is_some_and(|last| last.commit == commit && last.is_whole)
        };
        let is_known = |oid: &Oid| {
            let is_unchanged = || {
                self.followed(*oid)
                    .is_some_and(|followed| followed.changed < commit)
            };
            self.undo.get(oid).map_or_else(is_unchanged, Undo::is_known)
        };
        tables.is_empty()
            || (is_last() && self.is_trusted(tables, commit) && tables.iter().all(is_known))
    }

    /// The tables as of right before the last transaction.
    #[must_use]
    pub const fn before(&self) -> Before<'_> {
        Before(self)
    }

    /// How much memory it may take.
    #[must_use]
    pub const fn limits(&self) -> Limits {
        self.limits
    }

    /// Bytes of all tables' rows and indexes.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    fn followed(&self, oid: Oid) -> Option<&Followed> {
        match &self.tables.get(&oid)?.stage {
            Stage::Trusted(followed) => Some(followed),
            Stage::Wanted(_) | Stage::Loading { .. } | Stage::TooLarge(_) | Stage::Unfit(_) => None,
        }
    }

    /// Counts and routes anew after tables came, went or fell.
    fn settle(&mut self) {
        self.bytes = 0;
        self.routes.clear();
        for (oid, table) in &self.tables {
            self.routes.insert(*oid, *oid);
            for leaf in &table.leaves {
                self.routes.insert(*leaf, *oid);
            }
            if let Stage::Trusted(followed) = &table.stage {
                self.bytes = self.bytes.saturating_add(followed.store.bytes());
            }
        }
    }

    /// Drops a table that has brought the sum over the limit.
    fn bound(&mut self, oid: Oid) {
        if self.bytes <= self.limits.bytes_max {
            return;
        }
        if let Some(table) = self.tables.get_mut(&oid)
            && matches!(table.stage, Stage::Trusted(_))
        {
            table.stage = table.oversize();
            self.settle();
        }
    }
}

impl Tables for Shadow {
    fn scan(
        &self,
        table: Oid,
        keys: &[(usize, Value)],
        visit: &mut dyn FnMut(&crate::policy::Tuple) -> ControlFlow<()>,
    ) {
        if let Some(followed) = self.followed(table) {
            followed.store.scan(keys, visit);
        }
    }
}

/// The tables of a [`Shadow`] as of right before the last transaction.
#[derive(Clone, Copy, Debug)]
pub struct Before<'a>(&'a Shadow);

impl Tables for Before<'_> {
    fn scan(
        &self,
        table: Oid,
        keys: &[(usize, Value)],
        visit: &mut dyn FnMut(&crate::policy::Tuple) -> ControlFlow<()>,
    ) {
        match (self.0.undo.get(&table), self.0.followed(table)) {
            (Some(undo), Some(followed)) => undo.scan(&followed.store, keys, visit),
            _ => self.0.scan(table, keys, visit),
        }
    }
}
