//! What the planner evaluates before any row is looked at: `explain` raises it, and so must what comes before verdicts.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use walcast::policy::builtin::Session;
use walcast::policy::schema::load;
use walcast::policy::value::Value;
use walcast::policy::{Tables, Tuple, Verdict, World, compile};
use walcast::testing::Cluster;

const CLAIMS: &str = r#"{"level": "none"}"#;

const SCHEMA: &str = "
    create role reader;
    create table note (id integer, word text, rank integer, open boolean);
    create table folder (id integer primary key, parent integer, word text);
    create table org (id integer primary key, parent integer, word text);
    create table secret (id integer, word text);
    alter table note enable row level security;
    alter table secret enable row level security;
    create function level() returns integer language sql stable as
      $$ select (nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'level')::integer $$;
    create function checked() returns integer language plpgsql stable as $$ begin return level(); end $$;
    create function checked_of(n integer) returns integer language plpgsql stable as $$ begin return level() + n; end $$;
    create function fickle() returns integer language plpgsql volatile as $$ begin return level(); end $$;
    grant select on all tables in schema public to reader;";

/// The claim `level` is no number. Operands of one table, of several, of none.
const POLICIES: &[&str] = &[
    "open or rank = level()",
    "open or rank = checked()",
    "open or level() = rank",
    "open or rank = (select level())",
    "open or rank = fickle()",
    "open or rank = checked_of(1)",
    "open or rank = checked_of(rank)",
    "open or level() > 0",
    "open or rank + id = level()",
    "open or rank + 1 = level() + 1",
    "open or rank in (1, level())",
    "open or rank = any (array[1, level()])",
    "open or rank = coalesce(id, level())",
    "open or rank = coalesce(1, level())",
    "open or rank = coalesce(level(), id)",
    "open or rank = case when open then level() else 1 end",
    "open or rank = case when 1 = 1 then 2 else level() end",
    "open or rank is distinct from level()",
    "open or (rank > level()) is true",
    "open or not rank > level()",
    "case when open then true else rank = level() end",
    "coalesce(open, rank = level())",
    "open or exists (select from folder f where f.id = level())",
    "open or exists (select from folder f where note.rank = level())",
    "open or exists (select from folder f where f.id + note.rank = level())",
    "open or exists (select from folder f where f.id = note.rank + level())",
    "open or exists (select from folder f, org o where f.id + o.id = level())",
    "open or exists (select from folder f, org o where f.id = o.id + level())",
    "open or exists (select from folder f, org o where f.id = o.id and o.parent = level())",
    "open or exists (select from folder f, org o where f.id = o.id and f.parent + o.parent > level())",
    "open or exists (select from folder f join org o on f.id + o.id = level())",
    "open or exists (select from folder f join org o on f.id = o.id and o.parent > level())",
    "open or exists (select from folder f left join org o on f.id = o.id and o.parent > level())",
    "open or exists (select from folder f left join org o on f.id = o.id where coalesce(o.parent, f.parent) = level())",
    "open or exists (select from folder f left join org o on f.id + o.id = level())",
    "open or exists (select from folder f, org o, folder g where f.id + o.id + g.id = level())",
    "open or exists (select from folder f, lateral (select o.id + f.id as n from org o) v where v.n = level())",
    "open or exists (select from folder f, (select o.id + 1 as n from org o) v where v.n = level())",
    "open or exists (select from (select max(o.id) as n from org o) v where v.n = level())",
    "open or exists (select from folder f where f.id in (select o.id from org o where o.parent = level()))",
    "open or exists (select from folder f where exists (select from org o where o.id = f.id and o.parent + f.parent = level()))",
    "open or exists (select from folder f where f.parent = (select o.id from org o where o.parent = level()))",
    "open or (select count(*) from folder f, org o where f.id + o.id = level()) > 0",
    "open or (select count(*) from folder f group by f.parent having f.parent = level()) > 0",
    "open or (select count(*) from folder f having count(*) = level()) > 0",
    "open or rank in (select f.id from folder f where f.parent = level())",
    "open or level() in (select f.id from folder f)",
    "open or exists (with v as (select f.id from folder f where f.parent = level()) select from v)",
    "open or exists (with v as materialized (select f.id from folder f where f.parent = level()) select from v)",
    "open or exists (with v as (select f.id from folder f) select from v, org o where v.id + o.id = level())",
    "open or exists (with v as (select f.id from folder f) select from v where v.id = level())",
    "open or exists (select f.id from folder f where f.id = level() union select 1)",
    "open or exists (select from secret s where s.id = level())",
    "open or exists (select from secret s join folder f on f.id = s.id where f.parent = level())",
    "open or exists (select from folder f left join secret s on f.id = s.id where f.parent = level())",
    "open or exists (select from folder f where f.id = level() and false)",
];

struct Nothing;

impl Tables for Nothing {
    fn scan(
        &self,
        _table: u32,
        _keys: &[(usize, Value)],
        _visit: &mut dyn FnMut(&Tuple) -> ControlFlow<()>,
    ) {
    }
}

#[tokio::test]
async fn what_the_planner_evaluates_is_evaluated_before_verdicts() {
    let cluster = Cluster::start(&["fsync=off"]);
    let database = cluster.empty_database();
    cluster.psql(&database, &[SCHEMA]).unwrap();
    let url = cluster.url(&database);
    let connected = tokio_postgres::connect(&url, tokio_postgres::NoTls);
    let (client, connection) = connected.await.unwrap();
    tokio::spawn(connection);
    let settings = BTreeMap::from([("request.jwt.claims".into(), CLAIMS.into())]);
    let session = Session { now: 0, settings };
    let mut faults = Vec::new();
    let (mut raised, mut refused) = (0, 0);
    for policy in POLICIES {
        let sql =
            format!("drop policy if exists p on note; create policy p on note using ({policy});");
        client
            .batch_execute(&sql)
            .await
            .unwrap_or_else(|error| panic!("{policy}: {error:?}"));
        let sql = format!(
            "begin; select set_config('request.jwt.claims', '{CLAIMS}', true); set local role reader; explain select from note"
        );
        let raises = client.batch_execute(&sql).await.is_err();
        client.batch_execute("rollback").await.unwrap();
        let schema = load(&client, &["public"]).await.unwrap();
        let note = schema.table("public", "note").unwrap().oid;
        // What may raise over several tables is refused, which is as good.
        let Ok(plan) = compile(&schema, note, schema.role("reader").unwrap()) else {
            refused += 1;
            continue;
        };
        let world = World {
            tables: &Nothing,
            session: &session,
            types: &schema.types,
        };
        raised += usize::from(raises);
        // Postgres may be asked instead.
        let is_right = match plan.preflight(world).map_err(Verdict::of_error) {
            Ok(()) => !raises,
            Err(Verdict::Undecided(_)) => true,
            Err(_) => raises,
        };
        if !is_right {
            faults.push(format!(
                "{policy}: Postgres {}",
                if raises { "raises" } else { "plans it" }
            ));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(refused < POLICIES.len() / 4, "{refused}");
    assert!(raised > 10 && raised < POLICIES.len() - 10, "{raised}");
}
