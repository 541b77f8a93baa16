//! The pipeline's decisions without its stream and its sockets, for benchmarks and tests (*io*, feature `testing`).
//!
//! A real database gives the catalog, the policies, the tables that they look into, and answers; transactions are made
//! up, and count as visible at once. Their rows need not be in the database unless Postgres is asked about them.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "only tests and benchmarks run this code; a surprise is their failure"
)]

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;
use tokio_postgres::Client;
use tokio_util::task::TaskTracker;

use super::conductor::{Ask, Conductor, Horizon, Output, Rules};
use super::standing::{Pool, Timeouts};
use super::{Command, Judged, knowledge};
use crate::auth::Claims;
use crate::catalog::{self, Catalog};
use crate::change::{
    Change, ChangeKind, Commit, Datum, Epoch, Lsn, OldKind, OldTuple, PgTime, Relation,
    RelationColumn, StreamEvent, TransactionPart, Tuple, TupleBuilder, Xid,
};
use crate::clock;
use crate::database::Database;
use crate::log::{Allowance, Limits, Log, Outbox, Posting};
use crate::policy::Asker;
use crate::realtime::Notice;
use crate::routing::{RequestedBinding, resolve};
use crate::shadow::{self, Sizes};

/// Begins far from what the database has: what is made up is younger than every snapshot.
const XID: u32 = 1_000_000_000;
const LSN: u64 = 1 << 60;

/// A conductor with a database.
#[derive(Debug)]
pub struct Stand {
    conductor: Box<Conductor>,
    log: Arc<Log>,
    client: Client,
    asker: Asker,
    publications: Vec<String>,
    compile: bool,
    catalog: Arc<Catalog>,
    outboxes: BTreeMap<u64, Arc<Outbox<Notice>>>,
    relations: HashMap<String, Arc<Relation>>,
    /// Type modifiers by table and column.
    modifiers: HashMap<(u32, String), i32>,
    next_xid: u32,
    wants_horizon: bool,
}

/// What was counted so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    /// Frames given to sockets.
    pub delivered: u64,
    /// Verdicts of compiled policies.
    pub compiled: Judged,
    /// Identities outside of an audience.
    pub audience: Judged,
    /// Verdicts of Postgres.
    pub asked: Judged,
    /// Lanes.
    pub lanes: usize,
    /// The tables in memory.
    pub shadow: Sizes,
}

impl Stand {
    /// Connects to a database that was set up. `compile`: policies are compiled; otherwise Postgres is asked.
    ///
    /// # Panics
    /// If the database cannot be used.
    pub async fn open(database: &Database, compile: bool) -> Self {
        let tasks = TaskTracker::new();
        let client = database.connect(&tasks, "walcast stand").await.unwrap();
        let asker = database.connect(&tasks, "walcast questions").await.unwrap();
        let log = Arc::new(Log::new(Limits {
            memory_bytes_max: 16 << 20,
            bytes_max: 64 << 20,
            directory: std::env::temp_dir(),
        }));
        let rules = Rules {
            timeouts: Timeouts {
                proven: Duration::from_secs(5),
                new: Duration::from_secs(5),
                quarantine: Duration::from_secs(5),
            },
            connections: Pool::ALL.into_iter().map(|pool| (pool, 1)).collect(),
            withhold_deletes: false,
            broadcast_bytes_max: 1000,
            compile,
            shadow_bytes_max: 4 << 30,
            history: super::history::Limits {
                bytes_max: 1 << 20,
                transaction_bytes_max: 1 << 20,
                file_bytes_max: 0,
                directory: std::env::temp_dir(),
                age_max: Duration::from_secs(60),
            },
            snapshot_bytes_max: 0,
            snapshot_allowance: Allowance::new(0),
        };
        let mut stand = Self {
            conductor: Box::new(Conductor::new(rules, Arc::clone(&log))),
            log,
            client,
            asker: Asker::new(asker).await.unwrap(),
            publications: vec!["supabase_realtime".to_owned()],
            compile,
            catalog: Arc::default(),
            outboxes: BTreeMap::new(),
            relations: HashMap::new(),
            modifiers: HashMap::new(),
            next_xid: XID,
            wants_horizon: false,
        };
        stand.conductor.handle_connected(clock::instant());
        let started = StreamEvent::Started {
            epoch: Epoch(1),
            from: Lsn::ZERO,
            end: Lsn::ZERO,
            failed_over: false,
            messages: None,
        };
        stand.conductor.handle_stream(clock::instant(), started);
        stand.settle().await;
        stand
    }

    /// A channel is joined on a socket of this number. `claims` is a JSON object, `binding` what supabase-js sends.
    pub async fn subscribe(
        &mut self,
        socket: u64,
        role: &str,
        claims: &str,
        binding: &str,
        grace: bool,
    ) {
        let outbox = Arc::new(Outbox::new());
        self.outboxes.insert(socket, Arc::clone(&outbox));
        let json = RawValue::from_string(binding.to_owned()).unwrap();
        let command = Command::Subscribe {
            connection: socket,
            membership: 1,
            outbox,
            claims: claims_of(role, claims),
            bindings: vec![RequestedBinding { id: 1, json }],
            grace,
            resume: None,
        };
        self.conductor.handle_command(clock::instant(), command);
        self.settle().await;
    }

    /// The channel on this socket gets another token.
    pub async fn identify(&mut self, socket: u64, role: &str, claims: &str) {
        let command = Command::Identify {
            connection: socket,
            membership: 1,
            claims: claims_of(role, claims),
        };
        self.conductor.handle_command(clock::instant(), command);
        self.settle().await;
    }

    /// The channel on this socket is left.
    pub async fn unsubscribe(&mut self, socket: u64) {
        self.outboxes.remove(&socket);
        let command = Command::Unsubscribe {
            connection: socket,
            membership: 1,
        };
        self.conductor.handle_command(clock::instant(), command);
        self.settle().await;
    }

    /// A transaction that inserts one row for each list of values in text form, in the order of the columns.
    pub fn insert(&mut self, table: &str, rows: &[Vec<Option<&str>>]) {
        let kinds = rows
            .iter()
            .map(|row| ChangeKind::Insert { new: tuple(row) });
        self.commit(table, kinds.collect());
    }

    /// A transaction that updates one row to these values.
    pub fn update(&mut self, table: &str, row: &[Option<&str>]) {
        let new = tuple(row);
        self.commit(table, vec![ChangeKind::Update { old: None, new }]);
    }

    /// A transaction that deletes the row with this key, which comes first.
    pub fn delete(&mut self, table: &str, key: &str) {
        let columns = self.relation(table).columns.len();
        let mut row = vec![None; columns];
        if let Some(first) = row.first_mut() {
            *first = Some(key);
        }
        let old = OldTuple {
            kind: OldKind::Key,
            tuple: tuple(&row),
        };
        self.commit(table, vec![ChangeKind::Delete { old }]);
    }

    fn commit(&mut self, table: &str, kinds: Vec<ChangeKind>) {
        let relation = self.relation(table);
        let xid = self.next_xid;
        self.next_xid = xid.saturating_add(1);
        let lsn = lsn_of(xid);
        let changes = kinds.into_iter().zip(0_u32..).map(|(kind, order)| Change {
            relation: Arc::clone(&relation),
            order,
            kind,
        });
        let part = TransactionPart {
            commit: Arc::new(Commit {
                epoch: Epoch(1),
                lsn,
                end_lsn: Lsn::new(lsn.bytes().saturating_add(5)),
                time: PgTime(0),
                xid: Xid(xid),
            }),
            changes: changes.collect(),
            size: 200,
            last: true,
        };
        self.conductor
            .handle_stream(clock::instant(), StreamEvent::Part(part));
    }

    /// Everything committed so far becomes visible; without a question to Postgres.
    pub fn release(&mut self) {
        while let Some(output) = self.conductor.poll_output() {
            self.note(&output);
        }
        self.see();
    }

    /// As [`Stand::release`], and whatever must be asked is.
    ///
    /// # Panics
    /// If Postgres cannot be asked.
    pub async fn settle(&mut self) {
        loop {
            let Some(output) = self.conductor.poll_output() else {
                if self.see() {
                    continue;
                }
                return;
            };
            self.note(&output);
            let now = clock::instant();
            match output {
                Output::LoadCatalog => self.load_catalog().await,
                Output::Resolve(wanted) => {
                    let found = resolve(
                        &self.client,
                        &wanted.catalog,
                        &wanted.role,
                        &wanted.bindings,
                    )
                    .await
                    .map_err(|error| error.to_string());
                    self.conductor.handle_resolved(now, wanted.ticket, found);
                }
                Output::LoadShadow(request) => {
                    let result = shadow::load(&self.client, &self.publications, request).await;
                    self.conductor.handle_shadow(now, result);
                }
                Output::Ask(ask) => self.ask(ask).await,
                Output::TakeHorizon
                | Output::Poke
                | Output::Say { .. }
                | Output::Stored { .. }
                | Output::Torn
                | Output::TakeSnapshot(_)
                | Output::Doubt
                | Output::DoubtSending
                | Output::Confirm(..) => {}
            }
        }
    }

    fn note(&mut self, output: &Output) {
        self.wants_horizon |= matches!(output, Output::TakeHorizon);
    }

    /// Takes a snapshot that sees everything, if one is wanted.
    fn see(&mut self) -> bool {
        if !std::mem::take(&mut self.wants_horizon) {
            return false;
        }
        let xmax = self.next_xid;
        let horizon = Horizon {
            snapshot: format!("{xmax}:{xmax}:").parse().unwrap(),
            insert_lsn: lsn_of(xmax),
            fingerprint: self.catalog.fingerprint.clone(),
        };
        let now = clock::instant();
        self.conductor.handle_horizon(now, Some(horizon));
        while self.conductor.is_releasing() {
            self.conductor.go_on(now);
        }
        true
    }

    async fn load_catalog(&mut self) {
        let catalog = catalog::load(&self.client, &self.publications, self.compile)
            .await
            .unwrap();
        let known = if self.compile {
            knowledge::load(&self.client, &self.publications, &catalog.fingerprint)
                .await
                .unwrap()
        } else {
            None
        };
        const MODIFIERS: &str = "
            select a.attrelid, a.attname::text, a.atttypmod
            from pg_catalog.pg_attribute a join pg_catalog.pg_class c on c.oid = a.attrelid
            where c.relkind in ('r', 'p')";
        self.modifiers.clear();
        for row in self.client.query(MODIFIERS, &[]).await.unwrap() {
            self.modifiers.insert((row.get(0), row.get(1)), row.get(2));
        }
        self.relations.clear();
        self.catalog = Arc::new(catalog);
        self.conductor.expect_knowledge(known.map(Box::new));
        self.conductor
            .handle_catalog(clock::instant(), Some(Arc::clone(&self.catalog)));
    }

    async fn ask(&mut self, ask: Ask) {
        let asked = self
            .asker
            .ask(&ask.question, &ask.catalog, ask.timeout, |_early| {})
            .await
            .unwrap();
        let now = clock::instant();
        self.conductor
            .handle_answer(now, ask.lane, ask.pool, Some(asked));
        self.conductor.handle_idle(now, ask.pool);
    }

    /// Takes what waits for a socket: how many changes, and what it was told besides.
    pub fn read(&mut self, socket: u64) -> (u32, Vec<String>) {
        let mut changes = 0_u32;
        let mut told = Vec::new();
        let outbox = self.outboxes.get(&socket);
        while let Some(posting) = outbox.and_then(|outbox| outbox.pop(u32::MAX)) {
            match posting {
                Posting::Kept(_) => {}
                Posting::Run(run) => changes = changes.saturating_add(run.count),
                Posting::Notice { notice, .. } => told.push(format!("{notice:?}")),
            }
        }
        (changes, told)
    }

    /// What was counted.
    #[must_use]
    pub fn counted(&self) -> Counted {
        let counts = self.conductor.counts();
        Counted {
            delivered: counts.settled.delivered,
            compiled: self.conductor.judged(),
            audience: self.conductor.passed_over(),
            asked: counts.asked,
            lanes: self.conductor.sizes().1,
            shadow: self.conductor.shadow_sizes(),
        }
    }

    /// Bytes of payloads in memory and in the log's file.
    #[must_use]
    pub fn log_bytes(&self) -> (usize, usize) {
        self.log.bytes()
    }

    fn relation(&mut self, name: &str) -> Arc<Relation> {
        if let Some(known) = self.relations.get(name) {
            return Arc::clone(known);
        }
        let table = self.catalog.tables.values();
        let table = table
            .filter(|table| &*table.schema == "public")
            .find(|table| &*table.name == name)
            .unwrap_or_else(|| panic!("{name} is not published"));
        let columns = table
            .columns
            .iter()
            .enumerate()
            .map(|(index, column)| RelationColumn {
                name: column.name.clone(),
                type_oid: column.type_oid,
                type_modifier: self
                    .modifiers
                    .get(&(table.oid, column.name.to_string()))
                    .copied()
                    .unwrap_or(-1),
                in_identity: table.primary_key.contains(&index),
            });
        let relation = Arc::new(Relation {
            oid: table.oid,
            schema: table.schema.clone(),
            name: table.name.clone(),
            identity: table.identity,
            columns: columns.collect(),
        });
        self.relations
            .insert(name.to_owned(), Arc::clone(&relation));
        relation
    }
}

fn lsn_of(xid: u32) -> Lsn {
    Lsn::new(LSN.saturating_add(u64::from(xid).saturating_mul(16)))
}

fn claims_of(role: &str, json: &str) -> Arc<Claims> {
    Arc::new(Claims {
        json: json.into(),
        role: role.into(),
        subject: None,
        expires_at: None,
    })
}

fn tuple(row: &[Option<&str>]) -> Tuple {
    let mut builder = TupleBuilder::new();
    for value in row {
        builder.push(match value {
            Some(text) => Datum::Text(text.as_bytes()),
            None => Datum::Null,
        });
    }
    builder.build()
}
