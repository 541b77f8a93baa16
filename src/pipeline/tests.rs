//! The conductor without a database: what Postgres would say is said by the test.

mod old;
mod snapshots;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use serde_json::value::RawValue;

use super::Command;
use super::conductor::{Ask, Conductor, Horizon, Output, Rules};
use super::snapshot::{SnapshotOutcome, SnapshotRequest, Taken};
use super::standing::{Pool, Timeouts};
use crate::auth::Claims;
use crate::catalog::{Access, Catalog, Collation, Column, Published, Role, Table, Type, TypeKind};
use crate::change::{
    Change, ChangeKind, Commit, Datum, Epoch, Lsn, OldKind, OldTuple, PgTime, Relation,
    RelationColumn, ReplicaIdentity, StreamEvent, TransactionPart, Tuple, TupleBuilder, Xid,
};
use crate::log::{Allowance, Keeper, Limits, Log, Outbox, Posting};
use crate::policy::{Answer, Asked, Found, Trouble};
use crate::realtime::{Notice, ResyncReason};
use crate::routing::{Binding, Event, Filter, RequestedBinding, Subscription, TableFilter};

mod hearing;
mod replay;
mod resume;

const MESSAGES: u32 = 100;
const OPEN: u32 = 200;
/// Published, and nobody is bound to it.
const UNBOUND: u32 = 201;
/// `realtime.messages` and one of its partitions.
const ROOT: u32 = 300;
const PARTITION: u32 = 301;

mod simulation;

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
}

fn table(oid: u32, row_security: bool) -> Arc<Table> {
    let column = |name: &str, number, type_oid| Column {
        name: name.into(),
        number,
        type_oid,
        collation: Collation::None,
        generated: false,
    };
    let access = |policies_apply| Access {
        columns: [true, true].into(),
        policies_apply,
    };
    Arc::new(Table {
        oid,
        schema: "public".into(),
        name: if row_security { "messages" } else { "open" }.into(),
        columns: [column("id", 1, 20), column("body", 2, 25)].into(),
        primary_key: [0].into(),
        identity: ReplicaIdentity::Default,
        row_security,
        published: Published {
            insert: true,
            update: true,
            delete: true,
            truncate: true,
        },
        access: BTreeMap::from([
            ("authenticated".into(), access(row_security)),
            ("anon".into(), access(row_security)),
        ]),
    })
}

fn catalog(fingerprint: &str) -> Arc<Catalog> {
    let of_type = |oid, name: &str| {
        (
            oid,
            Arc::new(Type {
                oid,
                name: name.into(),
                sql_name: name.into(),
                kind: TypeKind::Base,
            }),
        )
    };
    Arc::new(Catalog {
        fingerprint: fingerprint.into(),
        tables: HashMap::from([
            (MESSAGES, table(MESSAGES, true)),
            (OPEN, table(OPEN, false)),
            (UNBOUND, table(UNBOUND, false)),
        ]),
        types: HashMap::from([of_type(20, "int8"), of_type(25, "text")]),
        messages: HashSet::from([ROOT, PARTITION]),
        roles: ["anon", "authenticated"]
            .into_iter()
            .map(|name| {
                (
                    name.into(),
                    Role {
                        bypasses_row_security: false,
                    },
                )
            })
            .collect(),
    })
}

fn relation(oid: u32) -> Arc<Relation> {
    if ![MESSAGES, OPEN, UNBOUND].contains(&oid) {
        return message_relation(oid);
    }
    let column = |name: &str, type_oid, in_identity| RelationColumn {
        name: name.into(),
        type_oid,
        type_modifier: -1,
        in_identity,
    };
    Arc::new(Relation {
        oid,
        schema: "public".into(),
        name: if oid == MESSAGES { "messages" } else { "open" }.into(),
        identity: ReplicaIdentity::Default,
        columns: [column("id", 20, true), column("body", 25, false)].into(),
    })
}

/// `realtime.messages`, as far as a broadcast needs it.
fn message_relation(oid: u32) -> Arc<Relation> {
    let column = |(name, type_oid): (&str, u32)| RelationColumn {
        name: name.into(),
        type_oid,
        type_modifier: -1,
        in_identity: name == "id",
    };
    let columns = [
        ("id", 2950),
        ("topic", 25),
        ("event", 25),
        ("private", 16),
        ("payload", 3802),
    ];
    Arc::new(Relation {
        oid,
        schema: "realtime".into(),
        name: "messages_2026_11_21".into(),
        identity: ReplicaIdentity::Default,
        columns: columns.into_iter().map(column).collect(),
    })
}

/// Something said by the database.
fn spoken(id: u64, topic: &str) -> ChangeKind {
    let mut builder = TupleBuilder::new();
    for text in [&id.to_string(), topic, "event", "t", "{}"] {
        builder.push(Datum::Text(text.as_bytes()));
    }
    ChangeKind::Insert {
        new: builder.build(),
    }
}

fn tuple(id: u64, body: &str) -> Tuple {
    let mut builder = TupleBuilder::new();
    builder.push(Datum::Text(id.to_string().as_bytes()));
    builder.push(Datum::Text(body.as_bytes()));
    builder.build()
}

fn key(id: u64) -> OldTuple {
    let mut builder = TupleBuilder::new();
    builder.push(Datum::Text(id.to_string().as_bytes()));
    builder.push(Datum::Null);
    OldTuple {
        kind: OldKind::Key,
        tuple: builder.build(),
    }
}

fn insert(id: u64, body: &str) -> ChangeKind {
    ChangeKind::Insert {
        new: tuple(id, body),
    }
}

fn update(id: u64, body: &str) -> ChangeKind {
    ChangeKind::Update {
        old: None,
        new: tuple(id, body),
    }
}

fn delete(id: u64) -> ChangeKind {
    ChangeKind::Delete { old: key(id) }
}

fn claims(role: &str, subject: &str) -> Arc<Claims> {
    Arc::new(Claims {
        json: format!("{{\"sub\":\"{subject}\"}}").into(),
        role: role.into(),
        subject: Some(subject.into()),
        expires_at: None,
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
        };
        bench.conductor.handle_connected(bench.now);
        bench.stream(StreamEvent::Started {
            epoch: Epoch(1),
            from: Lsn::ZERO,
            end,
        });
        bench
    }

    /// Answers everything but questions and snapshots.
    fn turn(&mut self) {
        while let Some(output) = self.conductor.poll_output() {
            match output {
                Output::LoadCatalog => self.conductor.handle_catalog(self.now, Some(catalog("a"))),
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
                    self.conductor
                        .handle_resolved(self.now, resolve.ticket, Ok(subscriptions));
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
        let lsn = Lsn::new(u64::from(xid) * 10);
        let commit = Commit {
            epoch: Epoch(1),
            lsn,
            end_lsn: Lsn::new(lsn.bytes() + 5),
            time: PgTime(0),
            xid: Xid(xid),
        };
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
            commit: Arc::new(commit),
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
            fingerprint: "a".into(),
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

#[test]
fn a_change_reaches_who_postgres_says_may_see_it() {
    let mut bench = Bench::new();
    bench.join(1);
    bench.commit(MESSAGES, insert(1, "hi"));
    assert!(
        bench.asked.is_empty(),
        "nothing is asked before a snapshot has shown the transaction"
    );
    bench.see_all();
    let ask = bench.question();
    assert_eq!(bench.read(1), [""; 0]);
    bench.answer(&ask, &[Found::Same]);
    assert_eq!(bench.read(1), ["INSERT 1 hi."]);
}

#[test]
fn what_grants_alone_decide_needs_no_question() {
    let mut bench = Bench::new();
    bench.join(1);
    bench.commit(OPEN, insert(1, "hi"));
    bench.see_all();
    assert_eq!(bench.read(1), ["INSERT 1 hi."]);
}

#[test]
fn a_transaction_that_the_snapshot_does_not_show_waits() {
    let mut bench = Bench::new();
    bench.join(1);
    bench.commit(OPEN, insert(1, "hi"));
    // A few looks at once, then after a pause.
    for _ in 0..4 {
        bench.horizon(100);
    }
    assert!(!bench.wants_horizon);
    assert_eq!(bench.read(1), [""; 0]);
    bench.now = bench.conductor.next_timeout().unwrap();
    bench.conductor.handle_timeout(bench.now);
    bench.turn();
    bench.see_all();
    assert_eq!(bench.read(1), ["INSERT 1 hi."]);
}

#[test]
fn a_subscription_begins_with_its_snapshot() {
    let mut bench = Bench::new();
    bench.join(1);
    bench.commit(OPEN, insert(1, "before"));
    bench.subscribe(2, claims("authenticated", "2"), false);
    // Begun before the subscription was there: it proves nothing about it.
    bench.horizon(100);
    bench.now += Duration::from_secs(1);
    bench.conductor.handle_timeout(bench.now);
    bench.turn();
    bench.horizon(101);
    bench.commit(OPEN, insert(2, "after"));
    bench.see_all();
    assert_eq!(bench.read(2), ["subscribed", "INSERT 2 after."]);
    assert_eq!(bench.read(1), ["INSERT 1 before.", "INSERT 2 after."]);
}

#[test]
fn the_stream_may_lag_behind_a_subscription() {
    let mut bench = Bench::new();
    bench.next_xid = 110;
    bench.join(1);
    bench.part(105, OPEN, vec![insert(1, "old news")], true);
    bench.part(120, OPEN, vec![insert(2, "news")], true);
    bench.horizon(130);
    assert_eq!(bench.read(1), ["INSERT 2 news."]);
}

#[test]
fn a_version_superseded_before_it_was_judged_is_merged_into_the_next() {
    let mut bench = Bench::new();
    bench.join(1);
    bench.commit(MESSAGES, insert(1, "one"));
    bench.see_all();
    let first = bench.question();
    bench.answer(&first, &[Found::Different]);
    bench.commit(MESSAGES, update(1, "two"));
    bench.see_all();
    let second = bench.question();
    bench.answer(&second, &[Found::Same]);
    assert_eq!(bench.read(1), ["INSERT 1 two."]);
}

#[test]
fn of_a_row_that_came_and_went_before_it_was_judged_the_end_is_told() {
    let mut bench = Bench::new();
    bench.join(1);
    bench.commit(MESSAGES, insert(1, "one"));
    bench.commit(MESSAGES, insert(2, "other"));
    bench.see_all();
    let ask = bench.question();
    bench.answer(&ask, &[Found::Missing, Found::Same]);
    bench.commit(MESSAGES, delete(1));
    bench.see_all();
    bench.commit(MESSAGES, delete(2));
    bench.see_all();
    // Who read the table meanwhile may show it.
    assert_eq!(
        bench.read(1),
        ["INSERT 2 other.", "DELETE 1 -.", "DELETE 2 -."]
    );
}

#[test]
fn what_is_owed_again_in_the_same_lane_comes_once() {
    let mut bench = Bench::new();
    bench.join(1);
    bench.subscribe(2, claims("anon", "-"), true);
    bench.see_all();
    bench.commit(MESSAGES, insert(1, "hi"));
    bench.see_all();
    let is_anon = |ask: &Ask| ask.question.identity.role() == "anon";
    let place = bench.asked.iter().position(is_anon).unwrap();
    let hidden = bench.asked.remove(place);
    bench.answer(&hidden, &[Found::Missing]);
    // Its token makes it another tab of the first one's user, whose question is still open; and comes twice.
    let open = bench.question();
    for _token in 0..2 {
        bench.conductor.handle_command(
            bench.now,
            Command::Identify {
                connection: 2,
                membership: 1,
                claims: claims("authenticated", "1"),
            },
        );
        bench.turn();
    }
    bench.answer(&open, &[Found::Same]);
    while let Some(ask) = bench.asked.pop() {
        bench.answer(&ask, &vec![Found::Same; ask.question.rows.len()]);
    }
    assert_eq!(bench.read(1), ["INSERT 1 hi."]);
    let mut read = bench.read(2);
    read.retain(|told| told != "subscribed");
    assert_eq!(read, ["INSERT 1 hi."]);
}

#[test]
fn who_joins_between_two_parts_of_a_transaction_does_not_get_the_second_alone() {
    let mut bench = Bench::new();
    let xid = bench.next_xid;
    bench.part(xid, OPEN, vec![insert(1, "first part")], false);
    bench.subscribe(1, claims("authenticated", "1"), false);
    bench.part(xid, OPEN, vec![insert(2, "second part")], true);
    bench.next_xid += 1;
    bench.horizon(xid);
    assert_eq!(bench.read(1), [""; 0], "it begins when it can see both");
    bench.now += Duration::from_secs(1);
    bench.conductor.handle_timeout(bench.now);
    bench.turn();
    bench.see_all();
    bench.commit(OPEN, insert(3, "later"));
    bench.see_all();
    assert_eq!(bench.read(1), ["subscribed", "INSERT 3 later."]);
}

#[test]
fn what_one_is_given_ends_nobody_elses_transaction() {
    let mut bench = Bench::new();
    bench.join(1);
    bench.subscribe(2, claims("anon", "-"), true);
    bench.see_all();
    bench.commit(MESSAGES, insert(1, "hi"));
    bench.see_all();
    for ask in std::mem::take(&mut bench.asked) {
        let is_anon = ask.question.identity.role() == "anon";
        bench.answer(&ask, &[if is_anon { Found::Missing } else { Found::Same }]);
    }
    assert_eq!(bench.read(1), ["INSERT 1 hi."]);
    let xid = bench.next_xid;
    bench.next_xid += 1;
    bench.part(xid, OPEN, vec![insert(5, "five")], false);
    bench.see_all();
    // It becomes another tab of the first one's user, and is given what was kept.
    bench.conductor.handle_command(
        bench.now,
        Command::Identify {
            connection: 2,
            membership: 1,
            claims: claims("authenticated", "1"),
        },
    );
    bench.turn();
    let ask = bench.question();
    bench.answer(&ask, &[Found::Same]);
    bench.part(xid, OPEN, vec![insert(6, "six")], true);
    bench.see_all();
    assert_eq!(bench.read(1), ["INSERT 5 five", "INSERT 6 six."]);
}

#[test]
fn what_waited_for_others_is_no_business_of_who_joins_later() {
    let mut bench = Bench::new();
    bench.join(1);
    bench.commit(MESSAGES, insert(1, "before"));
    bench.see_all();
    let open = bench.question();
    bench.subscribe(2, claims("authenticated", "1"), false);
    bench.see_all();
    bench.catch_up();
    bench.commit(OPEN, insert(2, "after"));
    bench.see_all();
    bench.answer(&open, &[Found::Same]);
    assert_eq!(bench.read(1), ["INSERT 1 before.", "INSERT 2 after."]);
    assert_eq!(bench.read(2), ["subscribed", "INSERT 2 after."]);
}

#[test]
fn what_committed_under_other_grants_is_asked_about() {
    let mut bench = Bench::new();
    bench.join(1);
    let mut regranted = Arc::into_inner(catalog("b")).unwrap();
    let mut open = Arc::into_inner(table(OPEN, false)).unwrap();
    open.access.remove("anon");
    regranted.tables.insert(OPEN, Arc::new(open));
    let regranted = Arc::new(regranted);
    let horizon = |bench: &mut Bench| {
        assert!(std::mem::take(&mut bench.wants_horizon));
        let horizon = Horizon {
            snapshot: format!("{0}:{0}:", bench.next_xid).parse().unwrap(),
            insert_lsn: Lsn::new(u64::from(bench.next_xid) * 10),
            fingerprint: "b".into(),
        };
        bench.conductor.handle_horizon(bench.now, Some(horizon));
    };
    bench.commit(OPEN, insert(1, "then"));
    horizon(&mut bench);
    while let Some(output) = bench.conductor.poll_output() {
        match output {
            Output::LoadCatalog => bench
                .conductor
                .handle_catalog(bench.now, Some(Arc::clone(&regranted))),
            Output::TakeHorizon => bench.wants_horizon = true,
            _ => {}
        }
    }
    horizon(&mut bench);
    bench.turn();
    let ask = bench.question();
    bench.answer(&ask, &[Found::Missing]);
    bench.commit(OPEN, insert(2, "now"));
    horizon(&mut bench);
    bench.turn();
    assert_eq!(bench.read(1), ["INSERT 2 now."]);
}

#[test]
fn a_hidden_row_is_no_loss_and_an_unconfirmed_one_is() {
    let mut bench = Bench::new();
    bench.join(1);
    bench.commit(MESSAGES, insert(1, "hidden"));
    bench.see_all();
    let ask = bench.question();
    bench.answer(&ask, &[Found::Missing]);
    bench.catch_up();
    assert_eq!(bench.read(1), [""; 0]);
    bench.commit(MESSAGES, insert(2, "rewritten"));
    bench.see_all();
    let ask = bench.question();
    bench.answer(&ask, &[Found::Different]);
    bench.catch_up();
    assert_eq!(
        bench.read(1),
        [format!(
            "{:?}",
            Notice::Resync(ResyncReason::VerdictUnknown)
        )]
    );
}

#[test]
fn the_last_change_of_a_transaction_is_marked_across_parts() {
    let mut bench = Bench::new();
    bench.join(1);
    bench.part(100, OPEN, vec![insert(1, "a"), insert(2, "b")], false);
    bench.part(100, OPEN, vec![insert(3, "c")], false);
    bench.part(100, 999, vec![insert(4, "unpublished")], true);
    bench.horizon(101);
    assert_eq!(bench.read(1), ["INSERT 1 a", "INSERT 2 b", "INSERT 3 c."]);
}

#[test]
fn a_transaction_that_comes_again_after_a_reconnect_goes_on_where_it_was() {
    let mut bench = Bench::new();
    bench.join(1);
    bench.part(100, OPEN, vec![insert(1, "a"), insert(2, "b")], false);
    bench.stream(StreamEvent::Interrupted);
    bench.stream(StreamEvent::Started {
        epoch: Epoch(1),
        from: Lsn::ZERO,
        end: Lsn::ZERO,
    });
    bench.next_order = 0;
    bench.part(
        100,
        OPEN,
        vec![insert(1, "a"), insert(2, "b"), insert(3, "c")],
        true,
    );
    bench.horizon(101);
    assert_eq!(bench.read(1), ["INSERT 1 a", "INSERT 2 b", "INSERT 3 c."]);
}

#[test]
fn the_row_that_raises_is_found_and_the_others_are_delivered() {
    let mut bench = Bench::new();
    bench.join(1);
    bench.part(
        100,
        MESSAGES,
        vec![insert(1, "good"), insert(2, "bad")],
        true,
    );
    bench.horizon(101);
    let both = bench.question();
    bench.reply(&both, Err(Trouble::Raised("22P02".into())));
    let good = bench.question();
    bench.answer(&good, &[Found::Same]);
    let bad = bench.question();
    assert_eq!(bad.question.rows.len(), 1);
    bench.reply(&bad, Err(Trouble::Raised("22P02".into())));
    let told = format!("{:?}", Notice::PolicyTrouble("22P02".into()));
    assert_eq!(bench.read(1), [told, "INSERT 1 good.".to_owned()]);
}

#[test]
fn only_a_question_of_few_rows_tells_that_an_identity_is_slow() {
    for (rows, pool) in [(10, Pool::Proven), (1, Pool::Quarantine)] {
        let mut bench = Bench::new();
        bench.join(1);
        let inserts = (0..rows).map(|id| insert(id, "one of them")).collect();
        bench.part(100, MESSAGES, inserts, true);
        bench.horizon(101);
        let ask = bench.question();
        let same = Answer {
            found: Found::Same,
            predicates: Box::default(),
        };
        let answers = vec![same; ask.question.rows.len()];
        bench.reply_after(Duration::from_secs(1), &ask, Ok(answers));
        bench.part(101, MESSAGES, vec![insert(100, "next")], true);
        bench.horizon(102);
        assert_eq!(bench.question().pool, pool, "after a question of {rows}");
    }
}

#[test]
fn who_times_out_is_asked_apart_and_then_told() {
    let mut bench = Bench::new();
    bench.join(1);
    bench.join(2);
    bench.commit(MESSAGES, insert(1, "hi"));
    bench.see_all();
    assert_eq!(bench.asked.len(), 2);
    let (slow, sound) = (bench.asked.remove(0), bench.asked.remove(0));
    bench.reply(&slow, Err(Trouble::TimedOut));
    bench.answer(&sound, &[Found::Same]);
    assert_eq!(bench.read(2), ["INSERT 1 hi."]);
    for _ in 0..3 {
        let again = bench.question();
        assert_eq!(again.pool, Pool::Quarantine);
        bench.reply(&again, Err(Trouble::TimedOut));
    }
    let told = format!("{:?}", Notice::PolicyTrouble("57014".into()));
    assert_eq!(bench.read(1), [told]);
    bench.commit(MESSAGES, insert(2, "while away"));
    bench.see_all();
    let sound = bench.question();
    assert_eq!(sound.pool, Pool::Proven, "only the sound one is asked");
    bench.answer(&sound, &[Found::Same]);
    // Asked again after its pause, and answered: what was denied in between may have been visible.
    bench.now += Duration::from_secs(3);
    bench.commit(MESSAGES, insert(3, "back"));
    bench.see_all();
    assert_eq!(bench.asked.len(), 2);
    let back = bench
        .asked
        .iter()
        .position(|ask| ask.pool == Pool::Quarantine)
        .unwrap();
    let back = bench.asked.remove(back);
    bench.answer(&back, &[Found::Same]);
    assert_eq!(
        bench.read(1).last(),
        Some(&format!(
            "{:?}",
            Notice::Resync(ResyncReason::VerdictUnknown)
        ))
    );
}

#[test]
fn who_asks_about_a_locked_table_waits_apart() {
    let mut bench = Bench::new();
    bench.join(1);
    bench.join(2);
    bench.commit(MESSAGES, insert(1, "hi"));
    bench.see_all();
    for ask in std::mem::take(&mut bench.asked) {
        bench.reply(&ask, Err(Trouble::Locked));
    }
    assert!(bench.asked.is_empty(), "not asked again at once");
    bench.now = bench.conductor.next_timeout().unwrap();
    bench.conductor.handle_timeout(bench.now);
    bench.turn();
    let first = bench.question();
    bench.answer(&first, &[Found::Same]);
    let second = bench.question();
    bench.answer(&second, &[Found::Same]);
    assert_eq!(bench.read(1), ["INSERT 1 hi."]);
    assert_eq!(bench.read(2), ["INSERT 1 hi."]);
}

#[test]
fn a_broken_connection_only_delays_the_question() {
    let mut bench = Bench::new();
    bench.join(1);
    bench.commit(MESSAGES, insert(1, "hi"));
    bench.see_all();
    let ask = bench.question();
    bench
        .conductor
        .handle_answer(bench.now, ask.lane, ask.pool, None);
    bench.turn();
    let again = bench.question();
    bench.answer(&again, &[Found::Same]);
    assert_eq!(bench.read(1), ["INSERT 1 hi."]);
}

#[test]
fn a_token_right_after_the_join_is_given_what_came_before_it() {
    let mut bench = Bench::new();
    bench.join(1);
    bench.subscribe(2, claims("anon", "nobody"), true);
    bench.see_all();
    assert_eq!(bench.read(2), ["subscribed"]);
    bench.commit(MESSAGES, insert(1, "between"));
    bench.see_all();
    for ask in std::mem::take(&mut bench.asked) {
        bench.answer(&ask, &[Found::Hidden]);
    }
    assert_eq!(bench.read(2), [""; 0]);
    let command = Command::Identify {
        connection: 2,
        membership: 1,
        claims: claims("authenticated", "2"),
    };
    bench.conductor.handle_command(bench.now, command);
    bench.turn();
    let ask = bench.question();
    assert_eq!(ask.question.identity.role(), "authenticated");
    bench.answer(&ask, &[Found::Same]);
    assert_eq!(bench.read(2), ["subscribed", "INSERT 1 between."]);
}

#[test]
fn a_new_token_takes_over_what_is_still_undecided() {
    let mut bench = Bench::new();
    bench.join(1);
    bench.commit(MESSAGES, insert(1, "hi"));
    bench.see_all();
    let old = bench.question();
    let command = Command::Identify {
        connection: 1,
        membership: 1,
        claims: claims("authenticated", "new"),
    };
    bench.conductor.handle_command(bench.now, command);
    bench.turn();
    let new = bench.question();
    bench.answer(&old, &[Found::Same]);
    assert_eq!(
        bench.read(1),
        ["subscribed"],
        "the old token no longer counts"
    );
    bench.answer(&new, &[Found::Same]);
    assert_eq!(bench.read(1), ["INSERT 1 hi."]);
}

#[test]
fn another_epoch_makes_everybody_start_over() {
    let mut bench = Bench::new();
    bench.join(1);
    bench.stream(StreamEvent::Started {
        epoch: Epoch(1),
        from: Lsn::ZERO,
        end: Lsn::ZERO,
    });
    assert_eq!(bench.read(1), [""; 0], "a reconnect is no new epoch");
    bench.stream(StreamEvent::Started {
        epoch: Epoch(2),
        from: Lsn::ZERO,
        end: Lsn::ZERO,
    });
    assert_eq!(
        bench.read(1),
        [format!("{:?}", Notice::Resync(ResyncReason::SlotRecreated))]
    );
}

#[test]
fn a_crowd_is_gone_through_in_pieces_and_everybody_gets_everything_in_order() {
    const CROWD: u64 = 300;
    let mut bench = Bench::new();
    for connection in 1..=CROWD {
        bench.join(connection);
    }
    // The second and the third find lanes that wait for an answer to the first.
    for row in ["one", "two", "three"] {
        bench.commit(MESSAGES, insert(1, row));
        bench.see_all();
    }
    while let Some(ask) = bench.asked.pop() {
        let found = vec![Found::Same; ask.question.rows.len()];
        bench.answer(&ask, &found);
    }
    for connection in 1..=CROWD {
        let told = ["INSERT 1 one.", "INSERT 1 two.", "INSERT 1 three."];
        assert_eq!(bench.read(connection), told);
    }
}

#[test]
fn what_the_database_says_is_said_once_it_is_visible_and_in_order() {
    let mut bench = Bench::new();
    bench.commit(ROOT, spoken(1, "a"));
    bench.commit(PARTITION, spoken(2, "b"));
    assert!(bench.said.is_empty(), "no snapshot has shown it");
    bench.horizon(101);
    assert_eq!(bench.said, ["a true 1"]);
    bench.see_all();
    assert_eq!(bench.said, ["a true 1", "b true 2"]);
}

#[test]
fn a_row_of_another_table_or_another_action_says_nothing() {
    let mut bench = Bench::new();
    bench.join(1);
    let ChangeKind::Insert { new } = spoken(1, "a") else {
        panic!("not an insert")
    };
    bench.commit(ROOT, ChangeKind::Update { old: None, new });
    bench.commit(ROOT, ChangeKind::Truncate);
    bench.commit(OPEN, insert(1, "hi"));
    bench.commit(ROOT, spoken(2, ""));
    bench.see_all();
    assert!(bench.said.is_empty(), "{:?}", bench.said);
    assert_eq!(bench.conductor.counts().unsendable.empty_topic, 1);
    assert_eq!(
        bench.read(1),
        ["INSERT 1 hi."],
        "nothing of the other table"
    );
}

#[test]
fn a_partition_that_the_catalog_does_not_know_yet_waits_for_it() {
    let mut bench = Bench::new();
    bench.commit(999, spoken(1, "a"));
    assert!(bench.wants_horizon, "it may be a new partition");
}

#[test]
fn broadcasts_wait_for_no_lane() {
    let mut bench = Bench::new();
    bench.join(1);
    bench.commit(MESSAGES, insert(1, "slow"));
    bench.see_all();
    let ask = bench.question();
    bench.commit(ROOT, spoken(1, "a"));
    bench.see_all();
    assert_eq!(bench.said, ["a true 1"]);
    bench.answer(&ask, &[Found::Same]);
    assert_eq!(bench.read(1), ["INSERT 1 slow."]);
}

#[test]
fn a_large_transaction_is_said_a_little_at_a_time_and_confirmed_after_it() {
    let mut bench = Bench::new();
    let many = (0..100).map(|id| spoken(id, "a")).collect();
    bench.part(100, ROOT, many, true);
    bench.next_xid = 101;
    assert!(std::mem::take(&mut bench.wants_horizon));
    let horizon = Horizon {
        snapshot: "101:101:".parse().unwrap(),
        insert_lsn: Lsn::new(1010),
        fingerprint: "a".into(),
    };
    bench.conductor.handle_horizon(bench.now, Some(horizon));
    let mut said = 0;
    let mut turns = 0;
    loop {
        let mut outputs = Vec::new();
        while let Some(output) = bench.conductor.poll_output() {
            outputs.push(output);
        }
        let is_say = |output: &&Output| matches!(output, Output::Say { .. });
        let now = outputs.iter().filter(is_say).count();
        assert!(now <= 32, "{now} at once");
        said += now;
        let confirmed = outputs
            .iter()
            .any(|output| matches!(output, Output::Confirm(..)));
        assert_eq!(confirmed, said == 100);
        turns += 1;
        if !bench.conductor.is_releasing() {
            break;
        }
        bench.conductor.go_on(bench.now);
    }
    assert_eq!((said, turns), (100, 4));
}

#[test]
fn policies_are_looked_at_also_while_nothing_happens() {
    let mut bench = Bench::new();
    assert!(!bench.wants_horizon);
    bench.now = bench.conductor.next_timeout().unwrap();
    bench.conductor.handle_timeout(bench.now);
    bench.turn();
    assert!(bench.wants_horizon, "somebody may be in a private room");
}

#[test]
fn what_concerns_nobody_but_plans_waits_for_what_is_before_it_and_for_no_snapshot() {
    let mut bench = Bench::compiling(true);
    bench.subscribe(1, claims("authenticated", "1"), false);
    bench.see_all();
    assert_eq!(bench.read(1), ["subscribed"]);
    let nobodys = |bench: &mut Bench| {
        let xid = bench.next_xid;
        bench.next_xid += 1;
        bench.part(xid, UNBOUND, vec![insert(1, "x")], true);
    };
    nobodys(&mut bench);
    assert!(!bench.wants_horizon, "nobody waits for it");
    bench.commit(OPEN, insert(1, "a"));
    let seen = bench.next_xid;
    nobodys(&mut bench);
    assert!(bench.wants_horizon);
    bench.horizon(seen);
    assert_eq!(bench.read(1), ["INSERT 1 a."]);
    assert!(!bench.wants_horizon, "nothing waits any more");
    nobodys(&mut bench);
    assert!(!bench.wants_horizon);
    bench.commit(OPEN, insert(2, "b"));
    bench.see_all();
    assert_eq!(bench.read(1), ["INSERT 2 b."]);
}

#[test]
fn tables_that_nobody_needs_any_more_leave_the_memory_in_time() {
    let mut bench = Bench::compiling(true);
    let known = super::verdicts::tests::looking("a", MESSAGES, "authenticated");
    bench.conductor.expect_knowledge(Some(known));
    bench
        .conductor
        .handle_catalog(bench.now, Some(catalog("a")));
    bench.subscribe(1, claims("authenticated", "alice"), false);
    let sizes = |bench: &Bench| {
        let state = bench.conductor.policy_state();
        (state.plans.len(), state.shadows.len())
    };
    assert_eq!(sizes(&bench), (1, 1));
    bench.conductor.handle_command(
        bench.now,
        Command::Unsubscribe {
            connection: 1,
            membership: 1,
        },
    );
    let mut steps = 0;
    let left = bench.now;
    while sizes(&bench) != (0, 0) {
        bench.now = bench.conductor.next_timeout().unwrap().max(bench.now);
        bench.conductor.handle_timeout(bench.now);
        steps += 1;
        assert!(steps < 100);
    }
    let took = bench.now.duration_since(left);
    assert!(took > Duration::from_secs(20) && took < Duration::from_secs(120));
}
