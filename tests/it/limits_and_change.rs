//! Limits and change in the middle of the stream: policies that come and go, tables that grow, shrink and vanish, rights
//! that are taken away, connections that break. Whoever may not see a row does not get it, whoever may does, and the
//! server can say what happened.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use walcast::testing::{App, AppOptions, Session, Subscriber, eventually, user};

use crate::world::{ALICE, BOB, CAROL, all, contents};

/// Posts are read by the people of their room. Alice is in the first, Bob in the second, Carol in both and in the third.
const SCHEMA: &str = "
    create table rooms (id int, kind int, people uuid[], note text, primary key (id, kind)) partition by list (kind);
    create table rooms_1 partition of rooms for values in (1);
    create table rooms_2 partition of rooms for values in (2);
    create table rooms_3 partition of rooms for values in (3);
    create table posts (id bigint generated always as identity primary key, room int, content text);
    create table noise (id int primary key);
    grant select on rooms, posts, noise to authenticated;
    insert into rooms values
      (1, 1, '{a0000000-0000-4000-8000-000000000001,c0000000-0000-4000-8000-000000000003}'),
      (2, 2, '{b0000000-0000-4000-8000-000000000002,c0000000-0000-4000-8000-000000000003}'),
      (3, 3, '{c0000000-0000-4000-8000-000000000003}');
    alter table posts enable row level security;
    create policy readers on posts using (exists (
      select from rooms r where r.id = posts.room and auth.uid() = any (r.people)));
    alter publication supabase_realtime add table rooms, posts;
";

const PEOPLE: [&str; 3] = [ALICE, BOB, CAROL];

/// A cluster of its own: roles that other tests make would have everything read again.
async fn start(more: &str, environment: &[(&str, &str)]) -> App {
    let mut settings = vec![("WALCAST_VERDICTS", "compiled")];
    settings.extend_from_slice(environment);
    let options = AppOptions {
        schema: &format!("{SCHEMA}{more}"),
        environment: &settings,
        private: Some(&["fsync=off"]),
    };
    App::start_with(env!("CARGO_BIN_EXE_walcast"), &options).await
}

async fn policy_state(app: &App) -> Value {
    let reply = app.server.get("/policy").await.unwrap();
    serde_json::from_str(&reply.body).unwrap_or_else(|error| panic!("{error}: {}", reply.body))
}

/// What the server says of a table that policies look into.
async fn shadow(app: &App, table: &str) -> Value {
    let state = policy_state(app).await;
    let shadows = state["shadows"].as_array().unwrap();
    let found = shadows.iter().find(|shadow| shadow["table"] == table);
    found.cloned().unwrap_or_default()
}

/// Waits until the table is in this state.
async fn shadow_in(app: &App, table: &str, state: &str) -> Value {
    eventually(&format!("{table} to be {state}"), || async {
        Some(shadow(app, table).await).filter(|shadow| shadow["state"] == state)
    })
    .await
}

/// Verdicts of this source that were taken on posts.
async fn verdicts(app: &App, source: &str) -> u64 {
    let state = policy_state(app).await;
    let works = state["verdicts"].as_array().unwrap();
    let work = works.iter().find(|work| work["table"] == "public.posts");
    let count = |result: &str| {
        work.and_then(|work| work[source][result].as_u64())
            .unwrap_or(0)
    };
    count("allowed") + count("denied") + count("raised")
}

async fn subscribe_all(app: &App) -> Vec<Subscriber> {
    let mut subscribers = Vec::new();
    for person in PEOPLE {
        subscribers.push(app.subscribe(&user(person), all("posts")).await);
    }
    subscribers
}

fn post(room: i32, content: &str) -> String {
    format!("insert into posts (room, content) values ({room}, '{content}')")
}

/// A session that reads as a person.
struct Reader(tokio_postgres::Client);

impl Reader {
    async fn new(app: &App, person: &str) -> Self {
        let url = app.cluster().url(&app.database);
        let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls)
            .await
            .unwrap();
        let _driver = tokio::spawn(connection);
        let claims = json!({"sub": person, "role": "authenticated"});
        let settings = format!(
            "set request.jwt.claims = '{claims}'; set role authenticated; set plan_cache_mode = force_custom_plan"
        );
        client.batch_execute(&settings).await.unwrap();
        Self(client)
    }

    /// What the person sees of these posts now; nothing if that raises.
    async fn sees(&self, said: &[String]) -> Vec<String> {
        let list = said.iter().map(|content| format!("'{content}'"));
        let list = list.collect::<Vec<_>>().join(",");
        let sql = format!("select content from posts where content in ({list}) order by content");
        match self.0.simple_query(&sql).await {
            Ok(messages) => messages
                .iter()
                .filter_map(|message| match message {
                    tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
                    _ => None,
                })
                .collect(),
            Err(_raised) => Vec::new(),
        }
    }
}

/// The contents of posts that a test has said itself.
fn ours(changes: &[walcast::testing::Change]) -> Vec<String> {
    let mut found: Vec<String> = (contents(changes).into_iter())
        .filter(|content| *content != "noise")
        .map(str::to_owned)
        .collect();
    found.sort();
    found
}

/// No two posts say the same.
static SAID: AtomicU32 = AtomicU32::new(0);

/// Posts after each statement reach exactly those who see them by a SELECT, at once and a little later, while somebody
/// else writes posts and rooms all the time.
async fn check_statements(app: &App, subscribers: &mut [Subscriber], statements: &[&str]) {
    let writer = app.session().await;
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let writing = async move {
        let mut number = 100;
        while stopped.try_recv().is_err() {
            number += 1;
            // The table may be gone.
            let _may_fail = writer
                .batch_execute(&format!(
                    "insert into rooms (id, kind, people) values ({number}, 3, '{{{CAROL}}}')"
                ))
                .await;
            writer.run(&post(3, "noise")).await;
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    };
    let checking = async {
        let mut readers = Vec::new();
        for person in PEOPLE {
            readers.push(Reader::new(app, person).await);
        }
        for statement in statements {
            let number = SAID.fetch_add(1, Ordering::Relaxed);
            app.sql(statement).await;
            let mut said: Vec<String> = Vec::new();
            for place in 0..3 {
                for room in [1, 2] {
                    let content = format!("{number:04}.{place}.{room}");
                    app.sql(&post(room, &content)).await;
                    said.push(content);
                }
                // Also once it is all in memory again.
                if place == 1 {
                    tokio::time::sleep(Duration::from_millis(400)).await;
                }
            }
            let fence = app.fence().await;
            for ((person, reader), subscriber) in PEOPLE.iter().zip(&readers).zip(&mut *subscribers)
            {
                let got = ours(&subscriber.until(fence).await);
                let expected = reader.sees(&said).await;
                assert_eq!(got, expected, "{person} after {statement}");
            }
        }
        stop.send(()).unwrap();
    };
    tokio::join!(writing, checking);
}

const BACK: &str = "update rooms set people = case id
      when 1 then '{a0000000-0000-4000-8000-000000000001,c0000000-0000-4000-8000-000000000003}'::uuid[]
      else '{b0000000-0000-4000-8000-000000000002,c0000000-0000-4000-8000-000000000003}'::uuid[] end where id in (1, 2)";

#[tokio::test]
async fn ddl_under_load_hides_and_shows_what_a_select_would() {
    let app = start("", &[]).await;
    let mut subscribers = subscribe_all(&app).await;
    shadow_in(&app, "public.rooms", "trusted").await;
    let statements = [
        "select 1",
        // A policy that does not compile, in and out.
        "create policy chance on posts as restrictive using (random() >= 0)",
        "drop policy chance on posts",
        // Rows that go and come without an event.
        "alter table rooms detach partition rooms_2",
        "update rooms_2 set people = '{}'",
        "alter table rooms attach partition rooms_2 for values in (2)",
        BACK,
        "drop policy readers on posts;
         alter table rooms alter column people type uuid[] using array['a0000000-0000-4000-8000-000000000001'::uuid];
         create policy readers on posts using (exists (
           select from rooms r where r.id = posts.room and auth.uid() = any (r.people)))",
        BACK,
        "alter publication supabase_realtime drop table rooms; update rooms set people = '{}' where id = 1;
         alter publication supabase_realtime add table rooms",
        BACK,
        "truncate rooms_1",
        "insert into rooms values (1, 1, '{a0000000-0000-4000-8000-000000000001}')",
        // Names.
        "alter table rooms rename column people to members",
        "alter table rooms rename column members to people",
        // Rights.
        "revoke select on rooms from authenticated",
        "grant select on rooms to authenticated",
        "create role staff; drop policy readers on posts;
         create policy readers on posts to staff using (exists (
           select from rooms r where r.id = posts.room and auth.uid() = any (r.people)));
         grant staff to authenticated",
        "revoke staff from authenticated",
        "grant staff to authenticated",
        "alter policy readers on posts to public",
    ];
    check_statements(&app, &mut subscribers, &statements).await;
    assert!(verdicts(&app, "compiled").await > 100);
    shadow_in(&app, "public.rooms", "trusted").await;
    let metrics = app.server.get("/metrics").await.unwrap().body;
    let figure = |name: &str| -> f64 {
        let line = metrics.lines().find_map(|line| line.strip_prefix(name));
        let line = line.unwrap_or_else(|| panic!("{name} is missing in\n{metrics}"));
        line.trim().parse().unwrap()
    };
    let posts = "table=\"public.posts\"";
    for source in ["compiled", "postgres"] {
        let count = format!(
            "walcast_table_verdicts_total{{{posts},source=\"{source}\",result=\"allowed\"}}"
        );
        assert!(figure(&count) > 0.0);
        let seconds = format!("walcast_table_verdict_seconds_total{{{posts},source=\"{source}\"}}");
        assert!(figure(&seconds) > 0.0);
    }
    let left_out =
        format!("walcast_table_verdicts_total{{{posts},source=\"audience\",result=\"denied\"}}");
    assert!(figure(&left_out) > 0.0);
    let plan = format!("walcast_plans{{{posts},role=\"authenticated\",source=\"compiled\"}}");
    assert!(figure(&plan) > 0.0);
    assert!(figure("walcast_table_shadow_rows{table=\"public.rooms\"}") > 3.0);
    assert!(figure("walcast_table_shadow_bytes{table=\"public.rooms\"}") > 100.0);
}

#[tokio::test]
async fn functions_and_tables_that_change_under_load_hide_and_show_what_a_select_would() {
    let app = start(
        "create function may_read(room int) returns boolean language sql stable as
           $$ select exists (select from public.rooms r where r.id = $1 and auth.uid() = any (r.people)) $$;
         alter policy readers on posts using (may_read(room));",
        &[],
    )
    .await;
    let mut subscribers = subscribe_all(&app).await;
    shadow_in(&app, "public.rooms", "trusted").await;
    let again = "create table rooms (id int, kind int, people uuid[], primary key (id, kind));
        grant select on rooms to authenticated;
        insert into rooms values (1, 1, '{b0000000-0000-4000-8000-000000000002}');
        alter publication supabase_realtime add table rooms";
    let statements = [
        "select 1",
        "create or replace function may_read(room int) returns boolean language sql stable as
           $$ select exists (select from public.rooms r where r.id = $1 and auth.uid() = r.people[1]) $$",
        "create or replace function may_read(room int) returns boolean language plpgsql as
           $$ begin return room = 1 and random() >= 0; end $$",
        "create or replace function may_read(room int) returns boolean language sql stable security definer set search_path = '' as
           $$ select exists (select from public.rooms r where r.id = $1 and auth.uid() = any (r.people)) $$",
        "alter function may_read(int) security invoker",
        "alter table rooms rename column people to members",
        "alter table rooms rename column members to people",
        "drop table rooms",
        again,
        "update rooms set people = '{a0000000-0000-4000-8000-000000000001}' where id = 1",
        "alter publication supabase_realtime set table posts, fence.line, rooms where (kind = 1)",
        "delete from rooms where id = 1",
        "alter publication supabase_realtime set table posts, fence.line, rooms",
        "insert into rooms values (2, 2, '{b0000000-0000-4000-8000-000000000002}')",
    ];
    check_statements(&app, &mut subscribers, &statements).await;
    assert!(verdicts(&app, "compiled").await > 50);
    shadow_in(&app, "public.rooms", "trusted").await;
}

#[tokio::test]
async fn only_a_table_that_was_altered_is_loaded_again() {
    let app = start("", &[]).await;
    let mut subscribers = subscribe_all(&app).await;
    shadow_in(&app, "public.rooms", "trusted").await;
    // A server that has just begun makes partitions.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let loads = shadow_in(&app, "public.rooms", "trusted").await["loads"].clone();
    let unrelated = [
        "create role visitor",
        "create policy p on noise using (true)",
        "alter table noise enable row level security",
        "create table more (id int primary key); alter publication supabase_realtime add table more",
        "create function f() returns int language sql as 'select 1'",
        "create policy second on posts using (false)",
        "grant select on rooms to visitor",
        "grant authenticated to visitor",
        "create type mood as enum ('a')",
        "analyze rooms",
        "create temporary table passing (id int primary key)",
    ];
    check_statements(&app, &mut subscribers, &unrelated).await;
    let after = shadow_in(&app, "public.rooms", "trusted").await;
    assert_eq!(after["loads"], loads, "{after}");
    for altering in [
        "alter table rooms add column extra int",
        "alter publication supabase_realtime drop table rooms; alter publication supabase_realtime add table rooms",
        "vacuum full rooms_1",
    ] {
        let before = shadow_in(&app, "public.rooms", "trusted").await["loads"].as_u64();
        app.sql(altering).await;
        check_statements(&app, &mut subscribers, &["select 1"]).await;
        let after = shadow_in(&app, "public.rooms", "trusted").await;
        assert!(after["loads"].as_u64() > before, "{altering}: {after}");
        let why = after["loaded_again_because"].as_str().unwrap_or_default();
        assert!(why.contains("alter"), "{altering}: {after}");
    }
}

#[tokio::test]
async fn a_table_over_the_limit_is_left_to_postgres_until_it_fits_again() {
    let app = start("", &[("WALCAST_SHADOW_BYTES_MAX", "256kB")]).await;
    let mut subscribers = subscribe_all(&app).await;
    shadow_in(&app, "public.rooms", "trusted").await;
    check_statements(&app, &mut subscribers, &["select 1"]).await;
    assert!(verdicts(&app, "compiled").await > 0);
    let fill = "insert into rooms select n, 3, array_fill(gen_random_uuid(), array[20]) from generate_series(1000, 4000) n";
    app.sql(fill).await;
    let told = shadow_in(&app, "public.rooms", "too large").await;
    let printed = app.server.command(&["policy", "list", "--live"]);
    let printed = String::from_utf8(printed.stdout).unwrap();
    for expected in [
        "public.rooms (id, people); cannot be followed: over the limit",
        "table   public.rooms too large: it does not fit into shadow_bytes_max",
        "plan    public.posts for authenticated: compiled",
        "verdict public.posts compiled: ",
    ] {
        assert!(printed.contains(expected), "{expected:?} in\n{printed}");
    }
    assert!(
        told["reason"]
            .as_str()
            .unwrap()
            .contains("shadow_bytes_max"),
        "{told}"
    );
    let state = policy_state(&app).await;
    assert_eq!(state["shadow_bytes"], 0, "{state}");
    let before = verdicts(&app, "postgres").await;
    check_statements(&app, &mut subscribers, &["select 1", BACK]).await;
    assert!(verdicts(&app, "postgres").await > before);
    app.sql("truncate rooms_3").await;
    shadow_in(&app, "public.rooms", "trusted").await;
    let before = verdicts(&app, "compiled").await;
    check_statements(
        &app,
        &mut subscribers,
        &["select 1", "update rooms set people = '{}' where id = 1"],
    )
    .await;
    assert!(verdicts(&app, "compiled").await > before);
}

async fn terminate_walsender(app: &App) {
    let slot = app.slot();
    app.sql(&format!(
        "select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = '{slot}' and active"
    ))
    .await;
}

#[tokio::test]
async fn memberships_that_change_while_the_stream_is_broken_count() {
    let app = start("", &[]).await;
    let mut subscribers = subscribe_all(&app).await;
    shadow_in(&app, "public.rooms", "trusted").await;
    for round in 0..4 {
        terminate_walsender(&app).await;
        let people = if round % 2 == 0 { BOB } else { ALICE };
        let change = format!("update rooms set people = '{{{people}}}' where id = 1");
        check_statements(&app, &mut subscribers, &[&change]).await;
    }
    // Positions begin anew: everybody starts over, and tables are read anew.
    let slot = app.slot().to_owned();
    eventually("the slot to be dropped", || async {
        let drop = format!("select pg_drop_replication_slot('{slot}')");
        terminate_walsender(&app).await;
        app.admin.batch_execute(&drop).await.ok()
    })
    .await;
    app.sql(&format!(
        "update rooms set people = '{{{BOB}}}' where id = 1"
    ))
    .await;
    for subscriber in &mut subscribers {
        assert!(!subscriber.closed().await);
    }
    let mut subscribers = subscribe_all(&app).await;
    check_statements(&app, &mut subscribers, &["select 1", BACK]).await;
    shadow_in(&app, "public.rooms", "trusted").await;
    let before = verdicts(&app, "compiled").await;
    check_statements(&app, &mut subscribers, &["select 1"]).await;
    assert!(verdicts(&app, "compiled").await > before);
}

#[tokio::test]
async fn an_idle_transaction_elsewhere_delays_no_load() {
    let app = start("", &[]).await;
    let mut subscribers = subscribe_all(&app).await;
    shadow_in(&app, "public.rooms", "trusted").await;
    let elsewhere = Session::connect(&app.cluster().url("postgres")).await;
    elsewhere
        .run("begin; create temporary table t (id int)")
        .await;
    let before = shadow(&app, "public.rooms").await["loads"].as_u64();
    app.sql("alter table rooms add column extra int").await;
    check_statements(&app, &mut subscribers, &["select 1"]).await;
    let after = shadow_in(&app, "public.rooms", "trusted").await;
    assert!(
        after["loads"].as_u64() > before,
        "{after} {}",
        policy_state(&app).await
    );
    let before = verdicts(&app, "compiled").await;
    check_statements(&app, &mut subscribers, &[BACK]).await;
    assert!(verdicts(&app, "compiled").await > before);
    elsewhere.run("commit").await;
}

#[tokio::test]
async fn what_is_truncated_or_dropped_before_it_was_judged_leaks_nothing() {
    let mut app = start("", &[]).await;
    let mut subscribers = subscribe_all(&app).await;
    shadow_in(&app, "public.rooms", "trusted").await;
    for (number, statement) in [
        "truncate posts",
        "truncate rooms",
        "drop table rooms cascade",
    ]
    .iter()
    .enumerate()
    {
        app.server.signal(Signal::STOP);
        app.sql(&post(1, &format!("{number}.first"))).await;
        app.sql(&post(2, &format!("{number}.second"))).await;
        app.sql(statement).await;
        app.sql(&post(1, &format!("{number}.third"))).await;
        app.server.signal(Signal::CONT);
        let fence = app.fence().await;
        for (person, subscriber) in PEOPLE.iter().zip(&mut subscribers) {
            let got = ours(&subscriber.until(fence).await);
            // Never of somebody else's room, whatever became of the tables; as of the commit, or withheld.
            let foreign = match *person {
                ALICE => ".second",
                BOB => ".first",
                _ => "nothing",
            };
            assert!(
                got.iter().all(|content| !content.ends_with(foreign)),
                "{person}: {got:?}"
            );
            if number > 0 {
                assert!(
                    got.iter().all(|content| !content.ends_with(".third")),
                    "{person}: {got:?}"
                );
            }
        }
        if number == 1 {
            app.sql(
                "insert into rooms values (1, 1, '{a0000000-0000-4000-8000-000000000001}'),
                   (2, 2, '{b0000000-0000-4000-8000-000000000002}')",
            )
            .await;
        }
        check_statements(&app, &mut subscribers, &["select 1"]).await;
    }
}

#[tokio::test]
async fn a_transaction_too_large_to_be_read_has_its_tables_read_again() {
    let environment = [("WALCAST_SPOOL_BYTES_MAX", "64kB")];
    let app = start("", &environment).await;
    let mut subscribers = subscribe_all(&app).await;
    shadow_in(&app, "public.rooms", "trusted").await;
    let before = shadow(&app, "public.rooms").await["loads"].as_u64();
    app.sql(&format!(
        "begin; update rooms set people = '{{{BOB}}}' where id = 1;
         insert into rooms select n, 3, '{{{CAROL}}}', repeat('x', 1000) from generate_series(10000, 60000) n; commit"
    ))
    .await;
    let after = eventually("the tables to be read again", || async {
        let shadow = shadow(&app, "public.rooms").await;
        let again = shadow["loads"].as_u64() > before && shadow["state"] == "trusted";
        again.then_some(shadow)
    })
    .await;
    let why = after["loaded_again_because"].as_str().unwrap_or_default();
    assert!(why.contains("too large to be read"), "{after}");
    check_statements(&app, &mut subscribers, &["select 1", BACK]).await;
}
