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
    create function number_of(word text) returns integer language plpgsql stable as $$ begin return word::integer; end $$;
    create function number_or_none(word text) returns integer language plpgsql stable as
      $$ begin return word::integer; exception when others then return null; end $$;
    create function fixed(word text) returns integer language plpgsql immutable as $$ begin return word::integer; end $$;
    create function is_above(n integer) returns boolean language sql stable security definer set search_path = public as
      $$ select claim('level')::integer > n $$;
    create function is_any(given text) returns boolean language plpgsql stable as
      $$ begin return exists (select from org o where o.id > 0 or given::integer > 0); end $$;
    create function is_any_number(given text) returns boolean language plpgsql stable as
      $$ begin return exists (select from org o where o.id > 0 or case when given ~ '^[0-9]+$' then given::integer > 0 end); end $$;
    create function words() returns table (id integer, n integer) language sql stable as
      $$ select o.id, o.word::integer from org o $$;
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
    // Functions of the user's, if there is something in them that may raise.
    (
        "exists (select from org o where number_of(o.word) > 0)",
        Said::Nothing,
    ),
    (
        "exists (select from org o where number_or_none(o.word) > 0)",
        Said::Yes,
    ),
    (
        "exists (select from org o where o.id = note.id and number_of(o.word) > 0)",
        Said::Nothing,
    ),
    (
        "not exists (select from folder f join org o on o.id = f.id where number_of(o.word) > 0)",
        Said::Nothing,
    ),
    (
        "not exists (select from folder f join org o on o.id = f.id where number_or_none(o.word) > 0)",
        Said::Yes,
    ),
    (
        "exists (select from org o where case when o.id = 1 then true else number_of(o.word) > 0 end)",
        Said::Nothing,
    ),
    (
        "not exists (select from org o where o.id = 9 and is_above(o.id))",
        Said::Nothing,
    ),
    (
        "not exists (select from words() w where w.id = 9)",
        Said::Nothing,
    ),
    // Parameters are constants to the planner, or not.
    ("is_any(note.word)", Said::Nothing),
    ("is_any_number(note.word)", Said::Yes),
    ("is_any(note.rank::text)", Said::Yes),
    // Those over constants are evaluated by the planner, wherever they stand.
    ("note.id = 1 or fixed('x') > 0", Said::Nothing),
    (
        "case when note.id = 1 then true else fixed('x') > 0 end",
        Said::Nothing,
    ),
    ("note.id = 1 or fixed('7') > 0", Said::Yes),
    ("note.id = 1 or number_of('x') > 0", Said::Yes),
    // A second row of a query for one value.
    (
        "exists (select from org o where (select p.word from org p where p.id >= o.id) = '7')",
        Said::Nothing,
    ),
    (
        "exists (select from org o where (select p.word from org p where p.id = o.id) = '7')",
        Said::Yes,
    ),
    // Parts inside of a query that not every row comes to.
    (
        "exists (select from org o where o.id = 1 or exists (select from folder f where f.id = o.id and f.id > abs(claim('level')::int)))",
        Said::Nothing,
    ),
    (
        "exists (select from org o where o.id = 1 or exists (select from folder f where f.id = o.id and f.id > abs(note.word::int)))",
        Said::Nothing,
    ),
    // All rows of a UNION and all groups may come before the first is seen.
    (
        "exists (select o.id from org o union select o.word::int from org o)",
        Said::Nothing,
    ),
    (
        "exists (select o.id from org o group by o.id, o.word having o.word::int > 0)",
        Said::Nothing,
    ),
    // Names of time zones are not compared, for all that the function is called `timezone`.
    (
        "exists (select from org o where o.id = 1 or timestamptz '2020-01-01' at time zone o.word > '2020-01-01')",
        Said::Nothing,
    ),
    // Conditions on no row inside of a query that the planner may merge with the one around.
    (
        "not exists (with v as (select f.id from folder f where abs(claim('level')::int) > 0) select from v where note.rank = 0)",
        Said::Nothing,
    ),
    (
        "not exists (with v as (select f.id from folder f where abs(note.word::int) > 0) select from v where note.rank = 0)",
        Said::Nothing,
    ),
    (
        "not exists (with v as (select f.id from folder f where abs(note.rank) > 0) select from v where note.rank = 0)",
        Said::Yes,
    ),
    (
        "not exists (select from folder f join (select o.id from org o where abs(note.word::int) > 0) v on v.id = f.id where note.rank = 0)",
        Said::Nothing,
    ),
    (
        "not exists (select from (select v.id from (select f.id from folder f where abs(note.word::int) > 0) v where note.id > 0) w where note.rank = 0)",
        Said::Nothing,
    ),
    (
        "not exists (select from (select f.id from folder f union all select o.id from org o where abs(note.word::int) > 0) v where note.rank = 0)",
        Said::Nothing,
    ),
    // An aggregate gives a row although it has none, unless there is something against that.
    (
        "(select count(*) from folder f where f.id = 1) = 0",
        Said::Yes,
    ),
    ("(select max(f.id) from folder f) is null", Said::Yes),
    (
        "exists (select max(f.id) from folder f where false)",
        Said::Yes,
    ),
    (
        "(select count(*) from folder f having count(*) > 0) is null",
        Said::Yes,
    ),
    ("exists (select 1 from folder f having true)", Said::Yes),
    (
        "not exists (select count(*) from folder f having false)",
        Said::Yes,
    ),
    ("(select count(*) from folder f limit 0) is null", Said::Yes),
    (
        "(select count(*) from folder f offset 1) is null",
        Said::Yes,
    ),
    (
        "note.id = 1 or (select count(*) from org o where o.word::int > 0) = 0",
        Said::Yes,
    ),
    (
        "(select count(*) from org o where o.word::int > 0) = 1",
        Said::Nothing,
    ),
    (
        "(select count(*) from org o where o.id = note.id and o.word::int > 0) = 1",
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
    "exists (select from org o join folder f on number_of(o.word || f.id::text) > 0)",
    "exists (select from (select o.word from org o where number_of(o.word) > 0) v where v.word::int > 0)",
    "exists (with v as (select o.word from org o where o.word <> 'x') select from v where v.word::int > 0)",
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
