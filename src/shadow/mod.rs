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
mod layout;
mod load;
mod print;
mod row;
mod spec;
mod store;
mod undo;
mod unseen;

#[cfg(test)]
pub(crate) mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::ControlFlow;
use std::sync::Arc;

use layout::{Mapping, Trouble};
use store::Store;
use undo::Undo;
use unseen::Unseen;

use crate::change::{
    Change, ChangeKind, Commit, Lsn, Oid, OldKind, Relation, Snapshot, TransactionPart, Tuple,
};
use crate::policy::Tables;
use crate::policy::value::Value;

pub use load::{load, misfit};
pub use print::{Prints, prints};
pub use spec::Spec;

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

/// Loads of one table that may fail one after the other because too many changes came meanwhile.
const OVERRUNS_MAX: u32 = 3;
/// The longest pause before a table that was too large is tried again, as a power of two of [`Shadow::reconsider`]s.
const OVERSIZED_DOUBLINGS: u32 = 6;

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

#[derive(Debug)]
struct Table {
    spec: Arc<Spec>,
    stage: Stage,
    /// What the last load must find and must have been described since; `None`: anything.
    print: Option<Box<str>>,
    /// How often it was over the limit since it was last described otherwise or emptied.
    oversized: u32,
    /// Loads that too many changes have spoiled, one after the other.
    overruns: u32,
    /// Loads that were begun since the table was last trusted.
    attempts: u32,
    /// Loads that were ever begun.
    loads: u64,
    /// Why the last one was, if it was not the first.
    why: Option<Box<str>>,
    /// Partitions whose changes are routed here.
    leaves: BTreeSet<Oid>,
}

#[derive(Debug)]
enum Stage {
    /// To be loaded, again if there is a reason.
    Wanted(Option<Box<str>>),
    Loading {
        generation: u64,
        retained: Vec<Retained>,
        bytes: usize,
    },
    Trusted(Box<Followed>),
    /// To be tried again at a later [`Shadow::reconsider`]: so many are left out.
    TooLarge(u32),
    Unfit(Box<str>),
}

/// A change that came while the table was being loaded.
#[derive(Debug)]
struct Retained {
    commit: Arc<Commit>,
    change: Change,
}

/// A table that moves with the stream.
#[derive(Debug)]
struct Followed {
    /// The first commit that it is exact for is at or after this position.
    from: Lsn,
    /// What it was loaded in: transactions that this sees are in the rows already. All of them are before `from`.
    snapshot: Snapshot,
    /// The last commit that changed it.
    changed: Lsn,
    /// The last that changed anything which is kept of it.
    altered: Lsn,
    store: Store,
    mappings: HashMap<Oid, (Arc<Relation>, Mapping)>,
}

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

/// A table to be loaded, by [`load`](load()).
#[derive(Clone, Debug)]
pub struct LoadRequest {
    /// What is wanted.
    pub spec: Arc<Spec>,
    /// Tells this load from earlier ones of the table.
    pub generation: u64,
    /// Loads of this table that were begun before, since it was last trusted: wait longer each time.
    pub attempt: u32,
    bytes_max: usize,
}

/// What came of a [`LoadRequest`].
#[derive(Debug)]
pub struct LoadResult {
    table: Oid,
    generation: u64,
    outcome: Outcome,
}

#[derive(Debug)]
enum Outcome {
    Rows(Loaded),
    TooLarge,
    Unfit(Box<str>),
    Failed(Box<str>),
}

#[derive(Debug)]
struct Loaded {
    snapshot: Snapshot,
    lsn: Lsn,
    store: Store,
    leaves: BTreeSet<Oid>,
    print: Box<str>,
}

impl LoadResult {
    /// A load that could not even begin.
    #[must_use]
    pub fn failed(request: &LoadRequest, reason: &str) -> Self {
        Self {
            table: request.spec.table,
            generation: request.generation,
            outcome: Outcome::Failed(reason.into()),
        }
    }
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

    /// Applies a part of a transaction. Parts come in the order of the stream; what comes again after a reconnect is
    /// applied once.
    pub fn apply(&mut self, part: &TransactionPart) {
        let commit = part.commit.lsn;
        let order = match self.last {
            Some(last) if commit < last.commit || (commit == last.commit && last.is_whole) => {
                return;
            }
            Some(last) if commit == last.commit => last.order,
            _ => {
                self.abandon();
                self.unseen.push(part.commit.xid);
                self.forget_all();
                None
            }
        };
        let fresh = |change: &&Change| order.is_none_or(|order| change.order > order);
        for change in part.changes.iter().filter(fresh) {
            self.change(&part.commit, change);
        }
        self.last = Some(Last {
            commit,
            order: part.changes.last().map(|change| change.order).max(order),
            is_whole: part.last,
        });
    }

    /// A transaction that began to come and never ended: its changes are not to be kept.
    fn abandon(&mut self) {
        if self.last.is_some_and(|last| !last.is_whole) {
            self.invalidate_all("a transaction came in part");
        }
    }

    fn change(&mut self, commit: &Arc<Commit>, change: &Change) {
        let Some(oid) = self.routes.get(&change.relation.oid).copied() else {
            return;
        };
        let Some(table) = self.tables.get_mut(&oid) else {
            return;
        };
        match &mut table.stage {
            Stage::Loading {
                retained, bytes, ..
            } => {
                let kept = Retained::new(commit, change);
                *bytes = bytes.saturating_add(kept.bytes());
                retained.push(kept);
                if *bytes > self.limits.retained_bytes_max {
                    table.overruns = table.overruns.saturating_add(1);
                    table.stage = if table.overruns < OVERRUNS_MAX {
                        Stage::Wanted(Some("too much changed while it was loaded".into()))
                    } else {
                        table.oversize()
                    };
                }
            }
            Stage::Trusted(followed) => {
                let before = followed.store.bytes();
                let mut undo = self.remembers.then(|| {
                    self.undo
                        .entry(oid)
                        .or_insert_with(|| followed.begin_undo(commit))
                });
                let undo_before = undo.as_ref().map_or(0, |undo| undo.bytes());
                let applied = followed.apply(oid, commit, change, undo.as_deref_mut());
                if let Some(undo) = undo {
                    let bytes = self.undo_bytes.saturating_sub(undo_before);
                    self.undo_bytes = bytes.saturating_add(undo.bytes());
                    if self.undo_bytes > self.limits.undo_bytes_max {
                        *undo = Undo::Unknown;
                        self.undo_bytes = bytes;
                    }
                }
                self.bytes = self
                    .bytes
                    .saturating_sub(before)
                    .saturating_add(followed.store.bytes());
                if let Err(reason) = applied {
                    table.stage = Stage::Wanted(Some(reason));
                    self.settle();
                }
                self.bound(oid);
            }
            Stage::TooLarge(_) if matches!(change.kind, ChangeKind::Truncate) => {
                table.invalidate("it was emptied");
            }
            Stage::Wanted(_) | Stage::TooLarge(_) | Stage::Unfit(_) => {}
        }
    }

    /// A transaction was read whose content is lost: the tables that it wrote (none means all) are loaded again.
    pub fn skipped(&mut self, commit: &Commit, relations: &[Oid]) {
        if self.last.is_some_and(|last| commit.lsn < last.commit) {
            return;
        }
        if self.last.is_some_and(|last| commit.lsn > last.commit) {
            self.abandon();
        }
        self.unseen.push(commit.xid);
        self.forget_all();
        self.last = Some(Last {
            commit: commit.lsn,
            order: None,
            is_whole: true,
        });
        if relations.is_empty() {
            self.invalidate_all("a transaction was too large to be read");
        } else {
            self.invalidate(relations, "a transaction was too large to be read");
        }
    }

    /// Positions have a new meaning, or changes may have been missed: everything is loaded again.
    pub fn restart(&mut self) {
        self.last = None;
        self.forget_all();
        self.invalidate_all("the stream began anew");
    }

    fn forget(&mut self, oid: Oid) {
        if let Some(undo) = self.undo.remove(&oid) {
            self.undo_bytes = self.undo_bytes.saturating_sub(undo.bytes());
        }
    }

    fn forget_all(&mut self) {
        self.undo.clear();
        self.undo_bytes = 0;
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

impl Table {
    /// To be loaded; in place of one that served another spec, if there was one.
    fn new(spec: Arc<Spec>, before: Option<Self>) -> Self {
        let loads = before.as_ref().map_or(0, |before| before.loads);
        let (why, leaves) = match before {
            None => (None, BTreeSet::new()),
            Some(Self { stage, leaves, .. }) => match stage {
                Stage::Wanted(Some(why)) => (Some(why), leaves),
                Stage::Wanted(None) => (None, leaves),
                Stage::Loading { .. }
                | Stage::Trusted(_)
                | Stage::TooLarge(_)
                | Stage::Unfit(_) => {
                    let why = "policies look into other columns of it";
                    (Some(why.into()), leaves)
                }
            },
        };
        Self {
            spec,
            stage: Stage::Wanted(why),
            print: None,
            oversized: 0,
            overruns: 0,
            attempts: 0,
            loads,
            why: None,
            leaves,
        }
    }

    fn invalidate(&mut self, reason: &str) {
        (self.overruns, self.oversized) = (0, 0);
        self.stage = Stage::Wanted(Some(reason.into()));
    }

    /// Over the limit, once more.
    fn oversize(&mut self) -> Stage {
        self.overruns = 0;
        self.oversized = self.oversized.saturating_add(1);
        Stage::TooLarge(1 << self.oversized.min(OVERSIZED_DOUBLINGS))
    }
}

impl Stage {
    fn state(&self) -> State {
        match self {
            Self::Wanted(None) => State::Wanted,
            Self::Wanted(Some(reason)) => State::Invalid {
                reason: reason.clone(),
            },
            Self::Loading { .. } => State::Loading,
            Self::Trusted(followed) => State::Trusted {
                from: followed.from,
            },
            Self::TooLarge(_) => State::TooLarge,
            Self::Unfit(reason) => State::Unfit {
                reason: reason.clone(),
            },
        }
    }
}

impl Retained {
    /// In memory of its own: the stream's buffers are not kept for it.
    fn new(commit: &Arc<Commit>, change: &Change) -> Self {
        let mut change = change.clone();
        match &mut change.kind {
            ChangeKind::Insert { new } => *new = new.detach(),
            ChangeKind::Update { old, new } => {
                *new = new.detach();
                if let Some(old) = old {
                    old.tuple = old.tuple.detach();
                }
            }
            ChangeKind::Delete { old } => old.tuple = old.tuple.detach(),
            ChangeKind::Truncate => {}
        }
        Self {
            commit: Arc::clone(commit),
            change,
        }
    }

    fn bytes(&self) -> usize {
        let tuples = match &self.change.kind {
            ChangeKind::Insert { new } => new.size(),
            ChangeKind::Update { old, new } => {
                let old = old.as_ref().map_or(0, |old| old.tuple.size());
                new.size().saturating_add(old)
            }
            ChangeKind::Delete { old } => old.tuple.size(),
            ChangeKind::Truncate => 0,
        };
        // Twice itself, because the list grows by doubling; and a commit, which few of them share.
        tuples
            .saturating_add(size_of::<Self>().saturating_mul(2))
            .saturating_add(size_of::<Commit>())
    }
}

impl Followed {
    /// What was loaded, and on top of it what came meanwhile.
    fn new(loaded: Loaded, retained: Vec<Retained>) -> Result<Self, Trouble> {
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
    fn begin_undo(&self, commit: &Commit) -> Undo {
        if self.changed == commit.lsn {
            Undo::Unknown
        } else {
            Undo::new(self.store.layout())
        }
    }

    /// Changes the rows of `table` itself, or of the partition that the change is of. `undo` remembers the rows that come
    /// and go.
    fn apply(
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

    fn update(
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
