//! Verdicts by table: how many of which kind, where they came from, and how long they took.
//!
//! Plain counts, read when somebody asks. Of a bounded number of tables; what is beyond counts together.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use serde::Serialize;

use super::verdicts::Judged;
use crate::catalog::Table;
use crate::change::Oid;

/// Tables that are counted by themselves.
const TABLES_MAX: usize = 200;
/// The name of all others.
const OTHER: &str = "other";

/// Where a verdict came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// A plan, evaluated for the identity.
    Compiled,
    /// A plan, for all that are outside of the change's audience at once.
    Audience,
    /// Postgres, as the identity.
    Postgres,
}

/// Verdicts of one source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Work {
    /// By result.
    #[serde(flatten)]
    pub judged: Judged,
    /// Microseconds spent on them: ours, or Postgres' own.
    pub micros: u64,
    #[serde(skip)]
    nanos: u64,
}

/// Verdicts on the rows of one table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TableWork {
    /// Schema and name, or `other`.
    pub table: Box<str>,
    /// Taken in memory.
    pub compiled: Work,
    /// Left out by audiences.
    pub audience: Work,
    /// Asked of Postgres.
    pub postgres: Work,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    tables: HashMap<Oid, TableWork>,
    other: TableWork,
}

impl Ledger {
    /// Adds verdicts of one source that were taken in `took`.
    pub(super) fn add(&mut self, table: &Table, source: Source, more: Judged, took: Duration) {
        let room = self.tables.len() < TABLES_MAX;
        let entry = match self.tables.get_mut(&table.oid) {
            Some(entry) => entry,
            None if room => self.tables.entry(table.oid).or_insert_with(|| TableWork {
                table: format!("{}.{}", table.schema, table.name).into(),
                ..TableWork::default()
            }),
            None => &mut self.other,
        };
        let work = match source {
            Source::Compiled => &mut entry.compiled,
            Source::Audience => &mut entry.audience,
            Source::Postgres => &mut entry.postgres,
        };
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        work.add(more, nanos);
    }

    /// By name.
    pub(super) fn tables(&self) -> Vec<TableWork> {
        // A table that was dropped and made again counts on.
        let mut named: BTreeMap<&str, TableWork> = BTreeMap::new();
        for work in self.tables.values() {
            let sum = named.entry(&work.table).or_default();
            sum.table.clone_from(&work.table);
            sum.compiled.add(work.compiled.judged, work.compiled.nanos);
            sum.audience.add(work.audience.judged, work.audience.nanos);
            sum.postgres.add(work.postgres.judged, work.postgres.nanos);
        }
        let mut tables: Vec<TableWork> = named.into_values().collect();
        if self.other != TableWork::default() {
            tables.push(TableWork {
                table: OTHER.into(),
                ..self.other.clone()
            });
        }
        tables
    }
}

impl Work {
    fn add(&mut self, more: Judged, nanos: u64) {
        self.judged.add(more);
        self.nanos = self.nanos.saturating_add(nanos);
        self.micros = self.nanos / 1000;
    }
}

impl Judged {
    /// So many were denied.
    pub(super) fn denials(identities: usize) -> Self {
        Self {
            denied: u64::try_from(identities).unwrap_or(u64::MAX),
            ..Self::default()
        }
    }

    /// Adds up.
    pub(super) fn add(&mut self, more: Self) {
        self.allowed = self.allowed.saturating_add(more.allowed);
        self.denied = self.denied.saturating_add(more.denied);
        self.raised = self.raised.saturating_add(more.raised);
        self.undecided = self.undecided.saturating_add(more.undecided);
    }

    /// What has come since an earlier reading.
    pub(super) const fn since(self, earlier: Self) -> Self {
        Self {
            allowed: self.allowed.saturating_sub(earlier.allowed),
            denied: self.denied.saturating_sub(earlier.denied),
            raised: self.raised.saturating_sub(earlier.raised),
            undecided: self.undecided.saturating_sub(earlier.undecided),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::ReplicaIdentity;

    fn table(oid: Oid) -> Table {
        Table {
            oid,
            schema: "public".into(),
            name: format!("t{oid}").into(),
            columns: Box::default(),
            primary_key: Box::default(),
            identity: ReplicaIdentity::Default,
            row_security: true,
            published: crate::catalog::Published::default(),
            access: BTreeMap::new(),
        }
    }

    #[test]
    fn verdicts_add_up_by_table_and_source_and_the_tables_are_bounded() {
        let mut ledger = Ledger::default();
        let one = Judged {
            allowed: 1,
            ..Judged::default()
        };
        for oid in 1..=202 {
            for _ in 0..2 {
                let took = Duration::from_nanos(1500);
                ledger.add(&table(oid), Source::Compiled, one, took);
            }
        }
        ledger.add(&table(1), Source::Postgres, one, Duration::from_millis(1));
        ledger.add(
            &table(1),
            Source::Audience,
            Judged::denials(7),
            Duration::ZERO,
        );
        let tables = ledger.tables();
        assert_eq!(tables.len(), 201);
        let of = |name: &str| tables.iter().find(|work| &*work.table == name).unwrap();
        let first = of("public.t1");
        assert_eq!(
            (first.compiled.judged.allowed, first.compiled.micros),
            (2, 3)
        );
        assert_eq!(
            (first.postgres.judged.allowed, first.postgres.micros),
            (1, 1000)
        );
        assert_eq!(first.audience.judged.denied, 7);
        assert_eq!(of("other").compiled.judged.allowed, 4);
    }
}
