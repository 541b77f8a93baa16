//! What the compiler must leave to Postgres, and how the missing right to read a table shows.

use std::ops::ControlFlow;
use std::sync::Arc;

use tokio_postgres::Client;
use walcast::policy::builtin::Session;
use walcast::policy::schema::{Schema, load};
use walcast::policy::value::{Oid, Value};
use walcast::policy::{Plan, Refusal, Tables, Tuple, Verdict, World, compile};
use walcast::testing::Cluster;

/// What every case begins with; `note` is the protected table.
const START: &str = "
    create table note (id integer, word text, words text[], turkish text collate \"tr-x-icu\",
      english text collate \"en-x-icu\", shown boolean);
    create table other (id integer, word text);
    alter table note enable row level security;";

struct Nothing;

impl Tables for Nothing {
    fn scan(&self, _: Oid, _: &[(usize, Value)], _: &mut dyn FnMut(&Tuple) -> ControlFlow<()>) {}
}

/// A session of its own in a database made by `START` and this SQL.
async fn session(cluster: &Cluster, sql: &str) -> Client {
    let database = cluster.empty_database();
    let sql = sql.replace("<database>", &database);
    cluster.psql(&database, &[START, &sql]).unwrap();
    connect(&cluster.url(&database)).await
}

async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls)
        .await
        .unwrap();
    tokio::spawn(connection);
    client
}

/// What a session sees after this policy, and no other, was put on `note`.
async fn with_policy(client: &Client, policy: &str) -> Schema {
    let sql = format!("drop policy if exists p on note; create policy p on note using ({policy});");
    client.batch_execute(&sql).await.unwrap();
    load(client, &["public"]).await.unwrap()
}

fn compiled(schema: &Schema, role: &str) -> Result<Plan, Refusal> {
    let table = schema.table("public", "note").unwrap().oid;
    compile(schema, table, schema.role(role).unwrap())
}

/// Asserts which policies compile for `reader`: those without a reason do, the others are refused with it.
async fn assert_refused(cluster: &Cluster, before: &str, cases: &[(&str, Option<&str>)]) {
    let _created = cluster.psql("postgres", &["create role reader"]);
    let client = session(
        cluster,
        &format!("{before} grant select on note to reader;"),
    )
    .await;
    for (policy, reason) in cases {
        let found = compiled(&with_policy(&client, policy).await, "reader");
        match (found, reason) {
            (Ok(_), None) => {}
            (Err(refusal), Some(reason)) => {
                assert!(refusal.reason.contains(reason), "{policy}: {refusal}");
            }
            (found, _) => panic!("{policy}: {:?}", found.map(|_| "compiled")),
        }
    }
}

fn judge(plan: &Plan, schema: &Schema, row: &[Value]) -> Verdict {
    let session = Session::default();
    let world = World {
        tables: &Nothing,
        session: &session,
        types: &schema.types,
    };
    match plan.preflight(world) {
        Ok(()) => plan.judge(world, &Arc::from(row)),
        Err(error) => Verdict::of_error(error),
    }
}

#[tokio::test]
async fn constants_that_the_library_cannot_read_are_refused() {
    let cluster = Cluster::start(&["fsync=off"]);
    let f = |body: &str| {
        format!("create function f() returns boolean language sql stable as $$ select {body} $$;")
    };
    for (body, reason) in [
        ("current_date > 'tomorrow'::date", Some("tomorrow")),
        ("'1'::text::integer = 1", None),
        ("'x'::text::integer = 1", Some("a constant that raises")),
        ("1 / 0 = 1", Some("a constant that raises")),
        ("repeat('x', 100000) = 'x'", Some("left to Postgres")),
    ] {
        assert_refused(&cluster, &f(body), &[("f()", reason)]).await;
    }
}

#[tokio::test]
async fn what_is_left_to_postgres_is_caught_by_no_function_and_hidden_by_no_condition() {
    let cluster = Cluster::start(&["fsync=off", "max_connections=20"]);
    cluster.psql("postgres", &["create role reader"]).unwrap();
    let undecided = |verdict: Verdict| matches!(verdict, Verdict::Undecided(_));
    let caught = "create function f(word text) returns boolean language plpgsql stable as $$
        begin return lower(word) <> 'x'; exception when others then return true; end $$;";
    let row = |word: &str, shown: bool| {
        let null = Value::Null;
        [
            Value::Int(1),
            Value::text(word),
            null.clone(),
            null.clone(),
            null,
            Value::Bool(shown),
        ]
    };
    let client = session(
        &cluster,
        &format!("{caught} grant select on note to reader;"),
    )
    .await;
    for policy in [
        "f(word)",
        "lower(word) is distinct from 'x' or shown",
        "coalesce(lower(word) = 'x', true)",
        "case when lower(word) = 'x' then false else true end",
        "not (lower(word) = 'x' and not shown)",
    ] {
        let schema = with_policy(&client, policy).await;
        let plan = compiled(&schema, "reader").unwrap();
        assert!(
            undecided(judge(&plan, &schema, &row("\u{c4}", true))),
            "{policy}"
        );
        assert_eq!(
            judge(&plan, &schema, &row("Y", true)),
            match policy {
                "coalesce(lower(word) = 'x', true)" => Verdict::Deny,
                _ => Verdict::Allow,
            },
            "{policy}"
        );
    }
}

#[tokio::test]
async fn constant_patterns_are_understood_or_refused() {
    let cluster = Cluster::start(&["fsync=off"]);
    assert_refused(
        &cluster,
        "",
        &[
            ("word ~ '^[0-9a-f]{8}$'", None),
            ("word ~ '(a)\\1'", Some("the pattern (a)\\1")),
            ("word !~* '(?=x)y'", Some("the pattern (?=x)y")),
            ("word ~* '\u{e4}'", Some("the pattern")),
            ("word ilike '%\u{e4}%'", Some("the pattern")),
            ("word like '%\u{e4}%'", None),
            ("regexp_replace(word, '(a)', '') = 'b'", Some("the pattern")),
            ("word ~ english", None),
        ],
    )
    .await;
}

#[tokio::test]
async fn cases_of_letters_under_odd_locales_are_refused() {
    let cluster = Cluster::start(&["fsync=off"]);
    let cases = Some("with cases of its own");
    let handed = Some("hands on");
    let helper = "create function f(word text) returns boolean language sql stable as
        $$ select lower(word) = 'i' $$;";
    assert_refused(
        &cluster,
        helper,
        &[
            ("turkish = 'I'", None),
            ("turkish like 'I%'", None),
            ("lower(word) = 'i' and lower(english) = 'i'", None),
            ("lower(turkish) = 'i'", cases),
            ("upper(turkish) = 'I'", cases),
            ("turkish ilike 'i%'", cases),
            ("turkish ~* '^i'", cases),
            ("lower(word collate \"C\") = 'i'", None),
            ("initcap(english) = 'I'", Some("under a locale (initcap)")),
            ("f(word)", None),
            ("f(turkish)", handed),
            (
                "exists (select 1 from (select turkish as t) s where lower(s.t) = 'i')",
                handed,
            ),
        ],
    )
    .await;
}

#[tokio::test]
async fn the_databases_own_locale_counts() {
    let cluster = Cluster::start(&["fsync=off"]);
    cluster
        .psql(
            "postgres",
            &["create database turkish template template0 locale_provider icu icu_locale 'tr'"],
        )
        .unwrap();
    let sql = format!("{START} create policy p on note using (lower(word) = 'i');");
    let _created = cluster.psql("postgres", &["create role reader"]);
    cluster
        .psql("turkish", &[&sql, "grant select on note to reader"])
        .unwrap();
    let client = connect(&cluster.url("turkish")).await;
    let schema = load(&client, &["public"]).await.unwrap();
    let refusal = compiled(&schema, "reader").unwrap_err();
    assert!(
        refusal.reason.contains("with cases of its own"),
        "{refusal}"
    );
}

#[tokio::test]
async fn arrays_as_variadic_arguments_are_refused() {
    let cluster = Cluster::start(&["fsync=off"]);
    let refused = Some("an array as VARIADIC arguments");
    assert_refused(
        &cluster,
        "",
        &[
            ("concat(word, 'x') = 'x'", None),
            ("concat(variadic words) = 'x'", refused),
            ("concat_ws(',', variadic words) = 'x'", refused),
            ("format('%s', variadic words) = 'x'", refused),
            ("jsonb_build_array(variadic words) = '[]'", refused),
            ("jsonb_build_object(variadic words) = '{}'", refused),
            ("num_nulls(variadic words) = 1", refused),
        ],
    )
    .await;
}

#[tokio::test]
async fn settings_with_values_of_the_database_or_the_login_are_refused() {
    let cluster = Cluster::start(&["fsync=off", "app.server=x"]);
    let set = "alter database <database> set app.database = 'x';
        alter role postgres set app.login = ''; alter role all in database <database> set \"App.All\" = 'x';
        alter database <database> set request.jwt.claims = '{}';
        do $$ begin create role bystander; exception when duplicate_object then null; end $$;
        alter role bystander set app.bystander = 'x';
        create or replace function f() returns text language sql stable as
          $$ select current_setting('app.database', true) $$;";
    let foreign = Some("which has a value outside of any request");
    assert_refused(
        &cluster,
        set,
        &[
            ("word = current_setting('app.free', true)", None),
            ("word = current_setting('app.bystander', true)", None),
            ("word = current_setting('request.jwt.claims', true)", None),
            ("word = current_setting('app.server', true)", foreign),
            ("word = current_setting('App.Database', true)", foreign),
            ("word = current_setting('app.login', true)", foreign),
            ("word = current_setting('app.all', true)", foreign),
            ("word = (select f())", foreign),
        ],
    )
    .await;
    assert_refused(
        &cluster,
        "alter database <database> set transform_null_equals = on;",
        &[("true", Some("the setting transform_null_equals"))],
    )
    .await;
}

#[tokio::test]
async fn missing_grants_are_errors_and_grants_of_columns_are_refused() {
    let cluster = Cluster::start(&["fsync=off"]);
    cluster.psql("postgres", &["create role reader"]).unwrap();
    let look = "exists (select 1 from other o where o.id = note.id)";
    let columns = Err("some columns only");
    let denied = Ok(Some("42501"));
    for (grants, policy, wanted) in [
        ("grant select on note, other to reader", look, Ok(None)),
        ("grant select on note to reader", look, denied),
        ("grant select on other to reader", look, denied),
        (
            "grant select on note to reader; grant select (id) on other to reader",
            look,
            columns,
        ),
        ("grant select (id) on note to reader", "true", columns),
        ("grant insert on note to reader", "true", denied),
        (
            "grant select on note to reader; revoke usage on schema public from public",
            "true",
            denied,
        ),
        // The row's own columns need no right, and a shared owner's function looks with the owner's.
        ("grant select on note to reader", "word = 'x'", Ok(None)),
        ("grant select on note to reader", "f()", Ok(None)),
        (
            "grant select on note to reader; revoke execute on function md5(text) from public",
            "md5(word) = 'x'",
            Err("no right to execute md5"),
        ),
    ] {
        let sql = format!(
            "create function f() returns boolean language sql stable security definer set search_path = ''
               as $$ select exists (select 1 from public.other) $$;
             {grants};"
        );
        let schema = with_policy(&session(&cluster, &sql).await, policy).await;
        match (compiled(&schema, "reader"), wanted) {
            (Ok(plan), Ok(wanted)) => {
                let raised = plan.constant().and_then(Result::err);
                assert_eq!(
                    raised.map(|error| &*error.sqlstate),
                    wanted,
                    "{grants}: {policy}"
                );
            }
            (Err(refusal), Err(reason)) => {
                assert!(refusal.reason.contains(reason), "{grants}: {refusal}");
            }
            (found, _) => panic!("{grants}: {policy}: {:?}", found.map(|_| "compiled")),
        }
    }
}
