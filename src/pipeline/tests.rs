//! The conductor without a database: what Postgres would say is said by the test.

mod aside;
mod broadcasts;
mod epochs;
mod hearing;
mod old;
mod permissions;
mod plans;
mod questions;
mod refusals;
mod release;
mod replay;
mod resume;
mod simulation;
mod snapshots;
mod tables;
mod together;
mod tokens;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use serde_json::value::RawValue;

use tables::{
    MESSAGES, OPEN, PARTITION, ROOT, UNBOUND, catalog, delete, insert, key, relation, spoken,
    table, tuple, update,
};

use super::Command;
use super::conductor::{Ask, Conductor, Horizon, Output, Rules};
use super::snapshot::{SnapshotOutcome, SnapshotRequest, Taken};
use super::standing::{Pool, Timeouts};
use crate::auth::Claims;
use crate::change::{
    Change, ChangeKind, Commit, Epoch, Lsn, OldKind, OldTuple, PgTime, ReplicaIdentity,
    StreamEvent, TransactionPart, Xid,
};
use crate::log::{Allowance, Keeper, Limits, Log, Outbox, Posting};
use crate::policy::{Answer, Asked, Found, Trouble};
use crate::realtime::{Notice, ResyncReason};
use crate::routing::{Binding, Event, Filter, RequestedBinding, Subscription, TableFilter};

struct Bench {
    conductor: Conductor,
    log: Arc<Log>,
    now: Instant,
    outboxes: HashMap<u64, Arc<Outbox<Notice>>>,
    asked: Vec<Ask>,
    wants_horizon: bool,
    snapshots: Vec<SnapshotRequest>,
    /// Room for the rows of snapshots.
    allowance: Allowance,
    /// What was said, as `TOPIC PRIVATE ID`.
    said: Vec<String>,
    next_xid: u32,
    /// Order of the next change of the transaction that is under way.
    next_order: u32,
    /// Of the next join.
    resume: Option<super::Resume>,
    /// Of the catalog.
    fingerprint: &'static str,
    /// How often it was loaded.
    loads: u32,
    /// Under a catalog of this fingerprint no bindings are served.
    refuses_under: Option<&'static str>,
}

fn claims(role: &str, subject: &str) -> Arc<Claims> {
    Arc::new(Claims {
        json: format!("{{\"sub\":\"{subject}\"}}").into(),
        role: role.into(),
        subject: Some(subject.into()),
        expires_at: None,
    })
}

/// The transactions of a bench commit in the order of their xids.
fn commit(xid: u32) -> Arc<Commit> {
    let lsn = Lsn::new(u64::from(xid) * 10);
    Arc::new(Commit {
        epoch: Epoch(1),
        lsn,
        end_lsn: Lsn::new(lsn.bytes() + 5),
        time: PgTime(0),
        xid: Xid(xid),
    })
}

impl Bench {
    fn new() -> Self {
        Self::compiling(false)
    }

    /// With or without the stream going through the shadow; the schema that plans need is never known.
    fn compiling(compile: bool) -> Self {
        Self::begun(compile, Lsn::ZERO)
    }

    /// Begun when this was the end of the WAL.
    fn begun(compile: bool, end: Lsn) -> Self {
        let log = Arc::new(Log::new(Limits {
            memory_bytes_max: 1 << 20,
            bytes_max: 2 << 20,
            directory: std::env::temp_dir(),
        }));
        let allowance = Allowance::new(1 << 20);
        let rules = Rules {
            timeouts: Timeouts {
                proven: Duration::from_millis(500),
                new: Duration::from_millis(100),
                quarantine: Duration::from_secs(5),
            },
            connections: Pool::ALL.into_iter().map(|pool| (pool, 2)).collect(),
            withhold_deletes: false,
            broadcast_bytes_max: 1000,
            compile,
            shadow_bytes_max: 1 << 20,
            snapshot_bytes_max: 1 << 10,
            snapshot_allowance: allowance.clone(),
            history: super::history::Limits {
                bytes_max: 4 << 20,
                transaction_bytes_max: 1 << 20,
                file_bytes_max: 64 << 20,
                directory: std::env::temp_dir(),
                age_max: Duration::from_secs(3600),
            },
        };
        let mut bench = Self {
            conductor: Conductor::new(rules, Arc::clone(&log)),
            log,
            now: crate::clock::instant(),
            outboxes: HashMap::new(),
            asked: Vec::new(),
            wants_horizon: false,
            snapshots: Vec::new(),
            allowance,
            said: Vec::new(),
            next_xid: 100,
            next_order: 0,
            resume: None,
            fingerprint: "a",
            loads: 0,
            refuses_under: None,
        };
        bench.conductor.handle_connected(bench.now);
        bench.stream(StreamEvent::Started {
            epoch: Epoch(1),
            from: Lsn::ZERO,
            end,
            failed_over: false,
            messages: Some(5),
        });
        // Members may have been there before.
        bench.see_all();
        assert_eq!(std::mem::take(&mut bench.said), ["doubt"]);
        bench
    }

    /// Answers everything but questions and snapshots.
    fn turn(&mut self) {
        while let Some(output) = self.conductor.poll_output() {
            match output {
                Output::LoadCatalog => {
                    self.loads += 1;
                    let catalog = catalog(self.fingerprint);
                    self.conductor.handle_catalog(self.now, Some(catalog));
                }
                Output::Resolve(resolve) => {
                    let filter = TableFilter {
                        filter: Filter::default(),
                        columns: None,
                    };
                    let tables = HashMap::from([(MESSAGES, filter.clone()), (OPEN, filter)]);
                    let subscription = |binding: &Binding| Subscription {
                        id: binding.id,
                        event: Event::All,
                        left: false,
                        tables: tables.clone(),
                        snapshot: binding.snapshot.clone(),
                    };
                    let subscriptions = resolve.bindings.iter().map(subscription).collect();
                    let result = match self.refuses_under {
                        Some(old) if *resolve.catalog.fingerprint == *old => Err("no".to_owned()),
                        _ => Ok(subscriptions),
                    };
                    self.conductor
                        .handle_resolved(self.now, resolve.ticket, result);
                }
                Output::Ask(ask) => self.asked.push(ask),
                Output::TakeHorizon => self.wants_horizon = true,
                Output::Say { room, message, .. } => self.said.push(format!(
                    "{} {} {}",
                    room.topic.sub_topic(),
                    room.private,
                    message.id().unwrap_or("-")
                )),
                Output::Doubt => self.said.push("doubt".to_owned()),
                Output::DoubtSending => self.said.push("doubt sending".to_owned()),
                Output::TakeSnapshot(request) => self.snapshots.push(*request),
                Output::Poke
                | Output::Stored { .. }
                | Output::Torn
                | Output::Confirm(..)
                | Output::LoadShadow(_) => {}
            }
        }
    }

    fn stream(&mut self, event: StreamEvent) {
        self.conductor.handle_stream(self.now, event);
        self.turn();
    }

    fn part(&mut self, xid: u32, oid: u32, kinds: Vec<ChangeKind>, last: bool) {
        let changes = kinds.into_iter().zip(self.next_order..);
        let changes: Vec<Change> = changes
            .map(|(kind, order)| Change {
                relation: relation(oid),
                order,
                kind,
            })
            .collect();
        let next = changes.last().map_or(0, |change| change.order + 1);
        self.next_order = if last { 0 } else { next };
        let part = TransactionPart {
            commit: commit(xid),
            changes,
            size: 100,
            last,
        };
        self.stream(StreamEvent::Part(part));
    }

    /// One transaction of one change.
    fn commit(&mut self, oid: u32, kind: ChangeKind) {
        let xid = self.next_xid;
        self.next_xid += 1;
        self.part(xid, oid, vec![kind], true);
    }

    /// A snapshot that sees everything before `xmax`.
    fn horizon(&mut self, xmax: u32) {
        self.horizon_of(&format!("{xmax}:{xmax}:"), xmax);
    }

    /// A snapshot that sees what its text says.
    fn horizon_of(&mut self, snapshot: &str, xmax: u32) {
        assert!(
            std::mem::take(&mut self.wants_horizon),
            "no snapshot was wanted"
        );
        let horizon = Horizon {
            snapshot: snapshot.parse().unwrap(),
            insert_lsn: Lsn::new(u64::from(xmax) * 10),
            fingerprint: self.fingerprint.into(),
        };
        self.conductor.handle_horizon(self.now, Some(horizon));
        self.turn();
        while self.conductor.is_releasing() {
            self.conductor.go_on(self.now);
            self.turn();
        }
    }

    /// A snapshot that sees all that was committed so far.
    fn see_all(&mut self) {
        self.horizon(self.next_xid);
    }

    fn subscribe(&mut self, connection: u64, claims: Arc<Claims>, grace: bool) {
        let binding = r#"{"event":"*","schema":"public","table":"*"}"#;
        self.subscribe_with(connection, claims, grace, binding);
    }

    fn subscribe_with(&mut self, connection: u64, claims: Arc<Claims>, grace: bool, binding: &str) {
        let json = RawValue::from_string(binding.to_owned()).unwrap();
        let bindings = vec![RequestedBinding { id: 7, json }];
        self.subscribe_to(connection, claims, grace, bindings);
    }

    fn subscribe_to(
        &mut self,
        connection: u64,
        claims: Arc<Claims>,
        grace: bool,
        bindings: Vec<RequestedBinding>,
    ) {
        let outbox = Arc::new(Outbox::new());
        self.outboxes.insert(connection, Arc::clone(&outbox));
        let command = Command::Subscribe {
            connection,
            membership: 1,
            outbox,
            claims,
            bindings,
            grace,
            resume: self.resume.take(),
        };
        self.conductor.handle_command(self.now, command);
        self.turn();
    }

    /// A subscriber in force from now on.
    fn join(&mut self, connection: u64) {
        self.subscribe(
            connection,
            claims("authenticated", &connection.to_string()),
            false,
        );
        self.see_all();
        assert_eq!(self.read(connection), ["subscribed"]);
        for pool in Pool::ALL {
            if connection == 1 {
                self.conductor.handle_idle(self.now, pool);
                self.conductor.handle_idle(self.now, pool);
            }
        }
        self.turn();
    }

    /// What the connection has been sent, in short.
    fn read(&mut self, connection: u64) -> Vec<String> {
        let outbox = Arc::clone(&self.outboxes[&connection]);
        let mut read = Vec::new();
        while let Some(posting) = outbox.pop(1) {
            read.push(match posting {
                Posting::Notice {
                    notice: Notice::Subscribed,
                    ..
                } => "subscribed".to_owned(),
                Posting::Notice {
                    notice: Notice::SnapshotComplete,
                    ..
                } => "complete".to_owned(),
                Posting::Notice { notice, .. } => format!("{notice:?}"),
                Posting::Kept(run) => {
                    let payload = run.kept.read(run.first, 1).unwrap().remove(0);
                    format!("SNAPSHOT {}", std::str::from_utf8(&payload).unwrap())
                }
                Posting::Run(run) => {
                    let payload = self.log.read(run.part, run.first, 1).unwrap().remove(0);
                    let data: Value = serde_json::from_slice(&payload).unwrap();
                    let row = if data["type"] == "DELETE" {
                        &data["old_record"]
                    } else {
                        &data["record"]
                    };
                    let body = row["body"].as_str().unwrap_or("-");
                    let last = if run.last { "." } else { "" };
                    format!(
                        "{} {} {body}{last}",
                        data["type"].as_str().unwrap(),
                        row["id"]
                    )
                }
            });
        }
        read
    }

    /// The ids of the changes that the connection has been sent.
    fn ids(&mut self, connection: u64) -> Vec<String> {
        let outbox = Arc::clone(&self.outboxes[&connection]);
        let postings = std::iter::from_fn(|| outbox.pop(1));
        postings
            .filter_map(|posting| match posting {
                Posting::Run(run) => Some(run.ids.to_string()),
                Posting::Kept(run) => Some(run.ids.to_string()),
                Posting::Notice { .. } => None,
            })
            .collect()
    }

    /// Takes the only open question.
    fn question(&mut self) -> Ask {
        assert_eq!(self.asked.len(), 1, "one question is open");
        self.asked.remove(0)
    }

    fn answer(&mut self, ask: &Ask, found: &[Found]) {
        assert_eq!(ask.question.rows.len(), found.len());
        let answers = found
            .iter()
            .map(|found| Answer {
                found: *found,
                as_supposed: *found == Found::Same,
                predicates: Box::default(),
            })
            .collect();
        self.reply(ask, Ok(answers));
    }

    fn reply(&mut self, ask: &Ask, result: Result<Vec<Answer>, Trouble>) {
        self.reply_after(Duration::from_millis(1), ask, result);
    }

    fn reply_after(&mut self, took: Duration, ask: &Ask, result: Result<Vec<Answer>, Trouble>) {
        // Before the rows were read, the next transaction may have begun to commit.
        let read_before = Lsn::new(u64::from(self.next_xid) * 10 + 1);
        self.conductor.handle_answer(
            self.now,
            ask.lane,
            ask.pool,
            Some(Asked {
                result,
                read_before,
                took,
            }),
        );
        self.conductor.handle_idle(self.now, ask.pool);
        self.turn();
    }

    /// The stream reaches all that was committed so far.
    fn catch_up(&mut self) {
        let position = Lsn::new(u64::from(self.next_xid) * 10 + 1);
        self.stream(StreamEvent::Position(position));
    }
}
