//! Takes a snapshot: one request, one transaction, as the subscriber.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::TryStreamExt as _;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type as WireType};
use tokio_postgres::{Client, IsolationLevel, Portal, Row, Statement, Transaction};

use super::query::{BEGIN, FACTS, Facts, IS_REWRITTEN, Reading, SETTINGS, horizon, view};
use super::{Interest, SnapshotBinding, SnapshotLimits, SnapshotOutcome, SnapshotRequest, Taken};
use crate::catalog::{Access, Catalog, Table};
use crate::change::{Change, ChangeKind, Commit, Oid, PgTime, Tuple, TupleBuilder, Xid};
use crate::clock;
use crate::log::Keeper;
use crate::pipeline::view::View;
use crate::realtime::payload::{
    CHANGE_BYTES_MAX, OldShape, RenderAs, Shape, Withheld, mark_snapshot, render, render_withheld,
};
use crate::realtime::{SnapshotLimit, SnapshotRefusal};
use crate::routing::{Match, SnapshotWish, TableFilter};

/// Rows that are fetched at once: after as many it shows that nobody waits any more.
const FETCH: i32 = 500;
/// What beginning and ending a snapshot may take besides reading its rows.
const OVERHEAD: Duration = Duration::from_secs(10);
/// SQLSTATE of a statement that its timeout ended.
const QUERY_CANCELED: &str = "57014";
/// SQLSTATEs of a query that names what is not there: undefined table, column, object, changed result type.
pub(in crate::pipeline) const OUTDATED: [&str; 4] = ["42P01", "42703", "42704", "0A000"];

/// A connection that takes snapshots, one at a time.
pub(in crate::pipeline) struct Taker {
    client: Client,
    horizon: Statement,
    settings: Statement,
    place: Place,
}

/// What all snapshots have in common.
#[derive(Clone)]
pub(in crate::pipeline) struct Place {
    pub(in crate::pipeline) publications: Arc<[String]>,
    /// Whether the catalog's fingerprint covers what compiled policies need.
    pub(in crate::pipeline) compile: bool,
    pub(in crate::pipeline) limits: SnapshotLimits,
    /// Where rows wait that memory has no room for.
    pub(in crate::pipeline) directory: PathBuf,
}

/// Why there is no snapshot.
enum Stop {
    /// The connection is as good as before.
    With(SnapshotOutcome),
    /// An answer was broken off, or the connection is broken.
    Midway(SnapshotOutcome),
}

impl From<tokio_postgres::Error> for Stop {
    fn from(error: tokio_postgres::Error) -> Self {
        tracing::debug!(%error, "a snapshot fails");
        let code = match error.code() {
            Some(code) if !error.is_closed() => code,
            _ => return Self::Midway(SnapshotOutcome::Again),
        };
        if code.code().starts_with("57P") || code.code().starts_with("08") {
            return Self::Midway(SnapshotOutcome::Again);
        }
        let retried = [
            SqlState::LOCK_NOT_AVAILABLE,
            SqlState::T_R_SERIALIZATION_FAILURE,
            SqlState::T_R_DEADLOCK_DETECTED,
        ];
        Self::With(match code.code() {
            _ if retried.contains(code) => SnapshotOutcome::Again,
            code if OUTDATED.contains(&code) => SnapshotOutcome::Outdated(Some(code.into())),
            code => SnapshotOutcome::Refused(SnapshotRefusal::Policy(code.into())),
        })
    }
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        tracing::error!(%error, "cannot keep the rows of a snapshot");
        Self::With(SnapshotOutcome::Again)
    }
}

impl Taker {
    /// Takes over a connection.
    ///
    /// # Errors
    /// The connection is broken.
    pub(in crate::pipeline) async fn new(
        client: Client,
        place: Place,
    ) -> Result<Self, tokio_postgres::Error> {
        let horizon = client.prepare(&horizon()).await?;
        let settings = client.prepare(SETTINGS).await?;
        Ok(Self {
            client,
            horizon,
            settings,
            place,
        })
    }

    /// Answers one request. False: the connection must be made anew.
    ///
    /// Not cancel safe: a dropped call leaves the connection inside a transaction.
    pub(in crate::pipeline) async fn take(
        &mut self,
        request: SnapshotRequest,
    ) -> (SnapshotOutcome, bool) {
        let patience = self.place.limits.time_max.saturating_mul(2) + OVERHEAD;
        match tokio::time::timeout(patience, self.read(request)).await {
            Ok(Ok(taken)) => (SnapshotOutcome::Taken(taken), true),
            Ok(Err(Stop::With(outcome))) => (outcome, true),
            Ok(Err(Stop::Midway(outcome))) => (outcome, false),
            Err(_elapsed) => (SnapshotOutcome::Again, false),
        }
    }

    async fn read(&mut self, request: SnapshotRequest) -> Result<Taken, Stop> {
        let Place {
            publications,
            compile,
            limits,
            directory,
        } = self.place.clone();
        let transaction = (self.client.build_transaction())
            .isolation_level(IsolationLevel::RepeatableRead)
            .read_only(true)
            .start()
            .await?;
        transaction.batch_execute(BEGIN).await?;
        // This statement takes the snapshot.
        let names: Vec<&str> = publications.iter().map(String::as_str).collect();
        let seen = transaction
            .query_one(&self.horizon, &[&names, &compile])
            .await?;
        let text = |column: usize| seen.try_get::<_, &str>(column);
        if text(2)? != &*request.catalog.fingerprint {
            return Err(Stop::With(SnapshotOutcome::Outdated(None)));
        }
        let (Ok(snapshot), Ok(insert_lsn)) = (text(0)?.parse(), text(1)?.parse()) else {
            return Err(Stop::With(SnapshotOutcome::Again));
        };
        let (epoch, lsn) = request.position;
        let commit = Commit {
            epoch,
            lsn,
            end_lsn: lsn,
            time: PgTime::from_unix_micros(seen.try_get(3)?),
            xid: Xid(0),
        };
        let tables = tables(&request.bindings);
        let facts = facts(&transaction, &tables, &names).await?;
        let milliseconds = limits.time_max.as_millis().to_string();
        let (role, claims) = (request.identity.role(), request.identity.claims());
        let set: [&(dyn ToSql + Sync); 3] = [&role, &claims, &milliseconds];
        transaction.query(&self.settings, &set).await?;

        let mut rows = Rows {
            transaction: &transaction,
            catalog: &request.catalog,
            commit,
            limits,
            deadline: clock::instant() + limits.time_max,
            interest: &request.interest,
            keeper: Keeper::new(directory, request.share),
            scratch: Vec::new(),
        };
        let mut runs = Vec::with_capacity(request.bindings.len());
        for binding in &request.bindings {
            let first = rows.keeper.len();
            for (oid, filter) in &binding.tables {
                let facts = facts.get(oid).cloned().unwrap_or_default();
                rows.read_table(*oid, role, &facts, filter, &binding.wish)
                    .await?;
            }
            let count = rows.keeper.len().saturating_sub(first);
            let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
            if count > 0 {
                runs.push((binding.id, number(first), number(count)));
            }
        }
        let kept = rows.keeper.finish()?;
        let rewritten = transaction.query_one(IS_REWRITTEN, &[&tables]).await?;
        if rewritten.try_get(0)? {
            return Err(Stop::With(SnapshotOutcome::Again));
        }
        transaction.rollback().await?;
        Ok(Taken {
            snapshot,
            insert_lsn,
            kept: Arc::new(kept),
            runs,
        })
    }
}

fn tables(bindings: &[SnapshotBinding]) -> Vec<Oid> {
    let tables = bindings.iter().flat_map(|binding| &binding.tables);
    tables.map(|(oid, _)| *oid).collect()
}

async fn facts(
    transaction: &Transaction<'_>,
    tables: &[Oid],
    publications: &[&str],
) -> Result<HashMap<Oid, Facts>, Stop> {
    let mut facts = HashMap::new();
    for row in transaction.query(FACTS, &[&tables, &publications]).await? {
        let lists: Option<&str> = row.try_get(3)?;
        let of_table = Facts::new(row.try_get(1)?, row.try_get(2)?, lists.unwrap_or("null"));
        facts.insert(row.try_get(0)?, of_table);
    }
    Ok(facts)
}

/// The rows as they are read, and everything that they are read with.
struct Rows<'a> {
    transaction: &'a Transaction<'a>,
    catalog: &'a Catalog,
    /// Stands for all transactions that the snapshot sees.
    commit: Commit,
    limits: SnapshotLimits,
    deadline: Instant,
    interest: &'a Interest,
    keeper: Keeper,
    scratch: Vec<u8>,
}

impl Rows<'_> {
    async fn read_table(
        &mut self,
        oid: Oid,
        role: &str,
        facts: &Facts,
        filter: &TableFilter,
        wish: &SnapshotWish,
    ) -> Result<(), Stop> {
        let Some(table) = self.catalog.tables.get(&oid) else {
            return Err(Stop::With(SnapshotOutcome::Outdated(None)));
        };
        let access = match readable(table, role) {
            Ok(access) => access,
            Err(withheld) => return self.announce(table, facts, withheld),
        };
        let reading = Reading::new(table, access, facts, filter, wish);
        let before = self.keeper.len();
        let read = self.read_rows(table, access, &reading, filter).await;
        read.map_err(|stop| match stop {
            Stop::With(outcome) => Stop::With(self.explain(outcome, access, before)),
            Stop::Midway(outcome) => Stop::Midway(self.explain(outcome, access, before)),
        })
    }

    /// What took too long: a policy, if it let nothing through at all.
    fn explain(&self, outcome: SnapshotOutcome, access: &Access, before: usize) -> SnapshotOutcome {
        let slow = SnapshotRefusal::Policy(QUERY_CANCELED.into());
        let came = self.keeper.len() > before;
        match outcome {
            SnapshotOutcome::Refused(why) if why == slow && (came || !access.policies_apply) => {
                let limit = SnapshotLimit::Time(self.limits.time_max);
                SnapshotOutcome::Refused(SnapshotRefusal::TooLarge(limit))
            }
            outcome => outcome,
        }
    }

    async fn read_rows(
        &mut self,
        table: &Table,
        access: &Access,
        reading: &Reading,
        filter: &TableFilter,
    ) -> Result<(), Stop> {
        let types = vec![WireType::TEXT; reading.parameters.len()];
        let parameters: Vec<&(dyn ToSql + Sync)> = (reading.parameters.iter())
            .map(|value| value as &(dyn ToSql + Sync))
            .collect();
        let prepare = self.transaction.prepare_typed(&reading.sql, &types);
        let statement = self.in_time(prepare).await?;
        let bind = self.transaction.bind(&statement, &parameters);
        let portal = self.in_time(bind).await?;
        while self.fetch(&portal, table, access, reading, filter).await? {
            if self.interest.is_lost() {
                return Err(Stop::With(SnapshotOutcome::Again));
            }
        }
        Ok(())
    }

    /// Whether there may be more.
    async fn fetch(
        &mut self,
        portal: &Portal,
        table: &Table,
        access: &Access,
        reading: &Reading,
        filter: &TableFilter,
    ) -> Result<bool, Stop> {
        let fetch = self.transaction.query_portal_raw(portal, FETCH);
        let rows = self.in_time(fetch).await?;
        let mut rows = std::pin::pin!(rows);
        let mut fetched = 0_i32;
        while let Some(row) = self.in_time(rows.try_next()).await? {
            fetched = fetched.saturating_add(1);
            let tuple = tuple(reading, &row)?;
            self.add(table, access, reading, filter, tuple)?;
        }
        Ok(fetched >= FETCH)
    }

    /// Waits for the database, and no longer than the snapshot may take.
    async fn in_time<T>(
        &self,
        wait: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, Stop> {
        let waited = tokio::time::timeout_at(self.deadline.into(), wait).await;
        match waited {
            Ok(result) => Ok(result?),
            Err(_elapsed) => {
                let slow = SnapshotRefusal::Policy(QUERY_CANCELED.into());
                Err(Stop::Midway(SnapshotOutcome::Refused(slow)))
            }
        }
    }

    fn add(
        &mut self,
        table: &Table,
        access: &Access,
        reading: &Reading,
        filter: &TableFilter,
        tuple: Tuple,
    ) -> Result<(), Stop> {
        let change = Change {
            relation: Arc::clone(&reading.view.relation),
            order: 0,
            kind: ChangeKind::Insert { new: tuple },
        };
        // Postgres has answered by sending the row: everything that it may be asked is in the query.
        match filter.matches(&change, table, access.policies_apply) {
            Match::Yes | Match::Ask(_) => {}
            Match::No => return Ok(()),
        }
        let shape = Shape {
            columns: &reading.sent,
            key: &reading.view.key_columns,
            old: OldShape::KeyOnly,
            size_max: CHANGE_BYTES_MAX,
        };
        self.scratch.clear();
        let out = &mut self.scratch;
        if render(
            out,
            self.catalog,
            &self.commit,
            &change,
            &shape,
            RenderAs::AsWritten,
        ) {
            self.keep()?;
        }
        Ok(())
    }

    /// Says that the table's rows cannot be shown, whatever they are (protocol.md §4.6).
    fn announce(
        &mut self,
        table: &Arc<Table>,
        facts: &Facts,
        withheld: Withheld,
    ) -> Result<(), Stop> {
        let View { relation, .. } = view(table, facts);
        let change = Change {
            relation,
            order: 0,
            kind: ChangeKind::Insert {
                new: TupleBuilder::new().build(),
            },
        };
        self.scratch.clear();
        let out = &mut self.scratch;
        if render_withheld(out, &self.commit, &change, withheld, RenderAs::AsWritten) {
            self.keep()?;
        }
        Ok(())
    }

    fn keep(&mut self) -> Result<(), Stop> {
        mark_snapshot(&mut self.scratch);
        let number = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        let bytes = (self.keeper.bytes()).saturating_add(number(self.scratch.len()));
        let exceeded = if number(self.keeper.len()) >= self.limits.rows_max {
            Some(SnapshotLimit::Rows(self.limits.rows_max))
        } else if bytes > self.limits.bytes_max {
            Some(SnapshotLimit::Bytes(self.limits.bytes_max))
        } else {
            None
        };
        if let Some(limit) = exceeded {
            let refusal = SnapshotRefusal::TooLarge(limit);
            return Err(Stop::With(SnapshotOutcome::Refused(refusal)));
        }
        Ok(self.keeper.append(&self.scratch)?)
    }
}

/// What the role may read of the table, if its rows can be told apart by it.
fn readable<'a>(table: &'a Table, role: &str) -> Result<&'a Access, Withheld> {
    if table.primary_key.is_empty() {
        return Err(Withheld::NoPrimaryKey);
    }
    let access = table.access.get(role).filter(|access| {
        let mut key = table.primary_key.iter();
        key.all(|column| access.columns.get(*column).copied().unwrap_or(false))
    });
    access.ok_or(Withheld::Unauthorized)
}

fn tuple(reading: &Reading, row: &Row) -> Result<Tuple, Stop> {
    let mut texts = Vec::with_capacity(reading.width());
    for column in 0..reading.width() {
        texts.push(row.try_get::<_, Option<&str>>(column)?);
    }
    Ok(reading.tuple(|place| texts.get(place).copied().flatten()))
}
