//! Conditions that Postgres may come to evaluate where we would not: what raises there must be left to it.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use walcast::policy::builtin::Session;
use walcast::policy::schema::{Schema, load};
use walcast::policy::value::{Oid, Value};
use walcast::policy::{Tables, Tuple, Verdict, World, compile};
use walcast::testing::Cluster;

const SCHEMA: &str = "
    create role reader;
    create table note (id integer, word text, rank integer);
    create table folder (id integer primary key, parent integer);
    create table org (id integer primary key, word text);
    alter table note enable row level security;
    create function claim(name text) returns text language sql stable as
      $$ select nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> name $$;
    grant select on all tables in schema public to reader;";

/// A policy, and what it says of the row (1, 'x', 2) where there is no folder, and the organisations are (1, '7') and
/// (2, 'x'). The claim `level` is `none`.
const CASES: &[(&str, Said)] = &[
    // A condition of an inner join that reads no row is one of the whole query.
    (
        "not exists (select from folder f join org o on o.id = f.id and abs(claim('level')::int) > 0)",
        Said::Nothing,
    ),
    (
        "not exists (select from folder f join org o on o.id = f.id and abs(note.word::int) > 0)",
        Said::Nothing,
    ),
    (
        "not exists (select from folder f join org o on o.id = f.id and abs(note.rank) > 0)",
        Said::Yes,
    ),
    (
        "not exists (select from folder f join (org o join org p on abs(note.word::int) > 0) on o.id = f.id)",
        Said::Nothing,
    ),
    (
        "not exists (select from folder f join org o on note.rank = 0 and abs(note.word::int) > 0 and o.id = f.id)",
        Said::Yes,
    ),
    // Those that read no row stay in the order in which they are written, whatever they cost.
    (
        "not exists (select from folder f join org o on o.id = f.id and abs(claim('level')::int) > 0 and note.rank = 0)",
        Said::Nothing,
    ),
    (
        "not exists (select from folder f where abs(claim('level')::int) > 0 and note.rank = 0)",
        Said::Nothing,
    ),
    (
        "not exists (select from folder f where note.rank = 0 and abs(claim('level')::int) > 0)",
        Said::Yes,
    ),
    (
        "not exists (select from folder f join org o on o.id = f.id and abs(claim('level')::int) > 0 where note.rank = 0)",
        Said::Nothing,
    ),
    (
        "not exists (select from folder f join (select o.id from org o where abs(claim('level')::int) > 0) v on v.id = f.id where note.rank = 0)",
        Said::Nothing,
    ),
    // That of a left join may be evaluated, or not.
    (
        "not exists (select from folder f left join org o on o.id = f.id and abs(note.word::int) > 0)",
        Said::Nothing,
    ),
    (
        "not exists (select from folder f left join org o on o.id = f.id and abs(claim('level')::int) > 0 where o.id is null)",
        Said::Nothing,
    ),
    (
        "not exists (select from folder f left join (org o join org p on abs(note.word::int) > 0) on o.id = f.id)",
        Said::Nothing,
    ),
    (
        "not exists (select from folder f left join org o on o.id = f.id and note.rank > 0)",
        Said::Yes,
    ),
    (
        "not exists (select from org o left join folder f on f.id = o.id and note.rank < 0 where f.id is null)",
        Said::No,
    ),
    // Queries in FROM.
    (
        "not exists (select from folder f join (select o.id from org o where abs(note.word::int) > 0) v on v.id = f.id)",
        Said::Nothing,
    ),
    (
        "not exists (select from folder f join (select o.id, o.word::int as level from org o) v on v.id = f.id)",
        Said::Nothing,
    ),
    (
        "not exists (with v as (select o.id, o.word::int as level from org o) select from folder f join v on v.id = f.id)",
        Said::Nothing,
    ),
    // Conditions on one table of a join, with the row or without.
    (
        "not exists (select from folder f join org o on o.id = f.id where o.word::int > 0)",
        Said::Nothing,
    ),
    (
        "not exists (select from folder f join org o on o.id = f.id where 10 / (o.id - note.rank) > 0)",
        Said::Nothing,
    ),
    (
        "not exists (select from folder f join org o on o.id = f.id where 10 / (o.id - note.id) > 0 and o.id = note.rank)",
        Said::Yes,
    ),
    (
        "not exists (select from folder f join org o on o.word::int = f.id)",
        Said::Nothing,
    ),
    (
        "not exists (select from folder f join org o on o.id = f.id where o.id = note.word::int)",
        Said::Nothing,
    ),
    // Keys that cost less than what may raise lead past it; others do not.
    (
        "exists (select from org o where o.id = note.id and 10 / (o.id - note.rank) < 0)",
        Said::Yes,
    ),
    (
        "exists (select from org o where o.id = note.rank and 10 / (o.id - note.rank) < 0)",
        Said::Nothing,
    ),
    (
        "not exists (select from org o where o.id = abs(abs(abs(note.id))) and 10 / (o.id - note.rank) > 0)",
        Said::Nothing,
    ),
    (
        "exists (select from org o where 10 / (o.id - note.rank) < 0)",
        Said::Nothing,
    ),
    // A query inside of a query that the planner joins.
    (
        "not exists (select from folder f where exists (select from org o where o.id = f.id and o.id > abs(claim('level')::int)))",
        Said::Nothing,
    ),
    // What raises only for rows that are not there.
    (
        "not exists (select from folder f join org o on o.id = f.id where 10 / (f.id - note.rank) > 0)",
        Said::Yes,
    ),
];

/// Refused: Postgres may evaluate it for any of the tables' rows.
const REFUSED: &[&str] = &[
    "exists (select from org o join folder f on 10 / (o.id - f.id) > 0)",
    "exists (select from folder f where f.id in (select o.word::int from org o))",
    "exists (select from folder f join (select o.id from org o where abs(note.word::int) > 0) v on v.id = f.id where note.rank = 0)",
    "exists (select from folder f cross join lateral (select 10 / f.id as x) v where v.x = 1)",
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    Yes,
    No,
    /// Postgres must be asked.
    Nothing,
}

struct Memory(HashMap<Oid, Vec<Tuple>>);

impl Tables for Memory {
    fn scan(
        &self,
        table: Oid,
        keys: &[(usize, Value)],
        visit: &mut dyn FnMut(&Tuple) -> ControlFlow<()>,
    ) {
        let is_met = |row: &&Tuple| keys.iter().all(|(column, value)| row[*column] == *value);
        for row in self.0.get(&table).into_iter().flatten().filter(is_met) {
            if visit(row).is_break() {
                break;
            }
        }
    }
}

async fn with_policy(client: &tokio_postgres::Client, policy: &str) -> Schema {
    let sql = format!("drop policy if exists p on note; create policy p on note using ({policy});");
    client.batch_execute(&sql).await.unwrap();
    load(client, &["public"]).await.unwrap()
}

#[tokio::test]
async fn what_may_raise_in_another_order_is_left_to_postgres() {
    let cluster = Cluster::start(&["fsync=off"]);
    let database = cluster.empty_database();
    cluster.psql(&database, &[SCHEMA]).unwrap();
    let url = cluster.url(&database);
    let connected = tokio_postgres::connect(&url, tokio_postgres::NoTls);
    let (client, connection) = connected.await.unwrap();
    tokio::spawn(connection);
    let settings = [(
        "request.jwt.claims".into(),
        Arc::from(r#"{"level": "none"}"#),
    )]
    .into();
    let session = Session { now: 0, settings };
    let row = |id: i64, word: &str| Tuple::from([Value::Int(id), Value::text(word)]);
    let note = Tuple::from([Value::Int(1), Value::text("x"), Value::Int(2)]);
    let mut faults = Vec::new();
    for (policy, said) in CASES {
        let schema = with_policy(&client, policy).await;
        let oid = |name: &str| schema.table("public", name).unwrap().oid;
        let plan = match compile(&schema, oid("note"), schema.role("reader").unwrap()) {
            Ok(plan) => plan,
            Err(refusal) => {
                faults.push(format!("{policy}: {refusal}"));
                continue;
            }
        };
        let tables = Memory(HashMap::from([(
            oid("org"),
            vec![row(1, "7"), row(2, "x")],
        )]));
        let world = World {
            tables: &tables,
            session: &session,
            types: &schema.types,
        };
        let verdict = match plan.preflight(world) {
            Ok(()) => plan.judge(world, &note),
            Err(error) => Verdict::of_error(error),
        };
        let got = match &verdict {
            Verdict::Allow => Said::Yes,
            Verdict::Deny => Said::No,
            // What the planner evaluates is raised whatever the order.
            Verdict::Raised(_) | Verdict::Undecided(_) => Said::Nothing,
        };
        if got != *said {
            faults.push(format!("{policy}: {verdict:?}, not {said:?}"));
        }
    }
    for policy in REFUSED {
        let schema = with_policy(&client, policy).await;
        let note = schema.table("public", "note").unwrap().oid;
        if compile(&schema, note, schema.role("reader").unwrap()).is_ok() {
            faults.push(format!("{policy}: compiled"));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
