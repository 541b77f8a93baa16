//! Verdicts in memory: as of the commit, in agreement with Postgres, and without a question.

use rustix::process::Signal;
use serde_json::json;
use walcast::testing::{App, AppOptions, Subscriber, eventually, user};

use crate::world::{
    ALICE, BOB, CAROL, DIARY, SCHEMA, TALK, all, brief, contents, say, start_with_environment,
    subscribe,
};

pub(crate) const COMPILED: &[(&str, &str)] = &[("WALCAST_VERDICTS", "compiled")];

async fn figure(app: &App, name: &str) -> f64 {
    let metrics = app.server.get("/metrics").await.unwrap().body;
    metrics
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
        .unwrap_or_else(|| panic!("{name} is missing in:\n{metrics}"))
}

/// A cluster of its own: roles that other tests make would have everything read again.
async fn start_alone() -> App {
    let options = AppOptions {
        schema: SCHEMA,
        environment: COMPILED,
        private: Some(&["fsync=off"]),
    };
    App::start_with(env!("CARGO_BIN_EXE_walcast"), &options).await
}

/// Waits until so many tables can be looked into, and for some time: a server that has just begun makes partitions.
pub(crate) async fn shadowed(app: &App, tables: f64) {
    let mut quiet = 0;
    while quiet < 15 {
        eventually("the tables that policies look into", || async {
            (figure(app, "walcast_shadow_tables").await >= tables).then_some(())
        })
        .await;
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        let still = figure(app, "walcast_shadow_tables").await >= tables;
        quiet = if still { quiet + 1 } else { 0 };
    }
}

/// Verdicts of this source, whatever they were.
async fn verdicts(app: &App, source: &str) -> f64 {
    let mut sum = 0.0;
    for result in ["allowed", "denied", "raised"] {
        let name = format!("walcast_verdicts_total{{source=\"{source}\",result=\"{result}\"}}");
        sum += figure(app, &name).await;
    }
    sum
}

fn participants(conversation: &str, people: &[&str]) -> String {
    format!(
        "update conversations set participant_ids = '{{{}}}' where id = '{conversation}';",
        people.join(",")
    )
}

#[tokio::test]
async fn nothing_is_asked_where_the_policies_are_understood() {
    let app = start_alone().await;
    let mut alice = subscribe(&app, ALICE, "messages").await;
    let mut bob = subscribe(&app, BOB, "messages").await;
    let mut carol = subscribe(&app, CAROL, "messages").await;
    shadowed(&app, 1.0).await;
    for source in ["compiled", "audience"] {
        assert_eq!(verdicts(&app, source).await, 0.0);
    }
    for _ in 0..10 {
        app.sql(&say(TALK, "talk")).await;
        app.sql(&say(DIARY, "diary")).await;
    }
    let fence = app.fence().await;
    assert_eq!(contents(&alice.until(fence).await), ["talk"; 10]);
    assert_eq!(contents(&bob.until(fence).await), ["talk"; 10]);
    assert_eq!(contents(&carol.until(fence).await), ["diary"; 10]);
    // Whoever takes no part in the conversation is not even looked at.
    assert_eq!(verdicts(&app, "compiled").await, 30.0);
    assert_eq!(verdicts(&app, "audience").await, 30.0);
    assert_eq!(verdicts(&app, "postgres").await, 0.0);
    assert_eq!(
        figure(&app, "walcast_questions_total{result=\"answered\"}").await,
        0.0
    );
}

#[tokio::test]
async fn the_setting_leaves_every_verdict_to_postgres() {
    let app = start_with_environment("", &[("WALCAST_VERDICTS", "postgres")]).await;
    let mut alice = subscribe(&app, ALICE, "messages").await;
    app.sql(&say(TALK, "talk")).await;
    assert_eq!(contents(&app.settled(&mut alice).await), ["talk"]);
    assert_eq!(verdicts(&app, "postgres").await, 1.0);
    assert_eq!(verdicts(&app, "compiled").await, 0.0);
}

#[tokio::test]
async fn memberships_count_from_their_own_commit_on_and_no_longer() {
    let app = start_alone().await;
    let mut alice = subscribe(&app, ALICE, "messages").await;
    let mut carol = subscribe(&app, CAROL, "messages").await;
    shadowed(&app, 1.0).await;
    // The message comes first in the stream.
    app.sql(&format!(
        "begin; {} {} commit",
        say(TALK, "with carol"),
        participants(TALK, &[ALICE, CAROL])
    ))
    .await;
    app.sql(&format!(
        "begin; insert into conversations (id, type, participant_ids)
           values ('f0000000-0000-4000-8000-00000000000c', 'group', '{{{CAROL}}}'); {} commit",
        say("f0000000-0000-4000-8000-00000000000c", "in a new one")
    ))
    .await;
    app.sql(&participants(TALK, &[ALICE])).await;
    app.sql(&say(TALK, "without carol")).await;
    app.sql(&format!(
        "begin; {} {} commit",
        participants(TALK, &[ALICE, CAROL]),
        say(TALK, "back")
    ))
    .await;
    app.sql(
        "delete from conversations where id = 'f0000000-0000-4000-8000-00000000000c' and false",
    )
    .await;
    let fence = app.fence().await;
    assert_eq!(
        contents(&alice.until(fence).await),
        ["with carol", "without carol", "back"]
    );
    assert_eq!(
        contents(&carol.until(fence).await),
        ["with carol", "in a new one", "back"]
    );
    assert_eq!(verdicts(&app, "postgres").await, 0.0);
}

#[tokio::test]
async fn a_verdict_is_as_of_the_commit_however_late_it_is_taken() {
    let mut app = start_alone().await;
    let mut alice = subscribe(&app, ALICE, "messages").await;
    let mut bob = subscribe(&app, BOB, "messages").await;
    let mut carol = subscribe(&app, CAROL, "messages").await;
    shadowed(&app, 1.0).await;
    app.server.signal(Signal::STOP);
    app.sql(&say(TALK, "before")).await;
    app.sql(&participants(TALK, &[ALICE, CAROL])).await;
    app.sql(&say(TALK, "between")).await;
    app.sql(&participants(TALK, &[BOB])).await;
    app.sql(&say(TALK, "after")).await;
    app.server.signal(Signal::CONT);
    let fence = app.fence().await;
    assert_eq!(contents(&alice.until(fence).await), ["before", "between"]);
    assert_eq!(contents(&bob.until(fence).await), ["before", "after"]);
    assert_eq!(contents(&carol.until(fence).await), ["between"]);
    assert_eq!(verdicts(&app, "postgres").await, 0.0);
}

#[tokio::test]
async fn after_a_membership_is_gone_nothing_later_arrives_whoever_judges() {
    for source in ["compiled", "postgres"] {
        let options = AppOptions {
            schema: SCHEMA,
            environment: &[("WALCAST_VERDICTS", source)],
            private: Some(&["fsync=off"]),
        };
        let app = App::start_with(env!("CARGO_BIN_EXE_walcast"), &options).await;
        let mut alice = subscribe(&app, ALICE, "messages").await;
        let mut bob = subscribe(&app, BOB, "messages").await;
        if source == "compiled" {
            shadowed(&app, 1.0).await;
        }
        app.sql(&say(TALK, "before")).await;
        assert_eq!(contents(&app.settled(&mut bob).await), ["before"]);
        let writer = app.session().await;
        writer
            .run(&format!(
                "{} {}",
                say(TALK, "just before"),
                participants(TALK, &[ALICE])
            ))
            .await;
        for _ in 0..20 {
            writer.run(&say(TALK, "after")).await;
            writer
                .run("update messages set content = 'changed after' where content like '%before'")
                .await;
        }
        let fence = app.fence().await;
        let changes = bob.until(fence).await;
        let got = contents(&changes);
        // Postgres answers for the moment when it is asked, which may be later than the commit, never earlier.
        assert!(got.iter().all(|got| *got == "just before"), "{got:?}");
        // The last version of what Postgres was asked about too late stands for those before.
        let expected = 1 + 20 + 1;
        let changes = alice.until(fence).await;
        assert!(changes.len() >= expected, "{}", changes.len());
        let asked = verdicts(&app, "postgres").await;
        assert_eq!(asked > 0.0, source == "postgres");
    }
}

/// What a person sees of these messages now, by asking Postgres; nothing if that raises.
async fn seen(app: &App, person: &str, contents: &[String]) -> Vec<String> {
    let (client, connection) =
        tokio_postgres::connect(&app.cluster().url(&app.database), tokio_postgres::NoTls)
            .await
            .unwrap();
    let driver = tokio::spawn(connection);
    let claims = json!({"sub": person, "role": "authenticated"});
    client
        .batch_execute(&format!(
            "set request.jwt.claims = '{claims}'; set role authenticated"
        ))
        .await
        .unwrap();
    let sql = "select content from messages where content = any ($1) order by content";
    let rows = client.query(sql, &[&contents]).await;
    drop(client);
    driver.await.unwrap().unwrap();
    rows.map(|rows| rows.iter().map(|row| row.get(0)).collect())
        .unwrap_or_default()
}

/// Statements that change who sees what, some of them in ways of which the stream carries no row. Nobody but Carol ever
/// sees her diary.
const STATEMENTS: &[&str] = &[
    "select 1",
    "create table muted (person uuid primary key);
     alter publication supabase_realtime add table muted;
     grant select on muted to authenticated;
     create function muted_people() returns setof uuid language sql stable set search_path = ''
       as $$ select person from public.muted $$;
     create policy muted on messages as restrictive using (auth.uid() not in (select muted_people()))",
    "insert into muted values ('b0000000-0000-4000-8000-000000000002')",
    "alter table muted alter column person type uuid using 'a0000000-0000-4000-8000-000000000001'::uuid",
    "truncate muted",
    "insert into muted values ('a0000000-0000-4000-8000-000000000001')",
    "alter table muted disable row level security; alter table muted enable row level security",
    "alter table muted disable row level security",
    "revoke select on muted from authenticated",
    "grant select on muted to authenticated",
    "alter publication supabase_realtime drop table muted; delete from muted",
    "alter publication supabase_realtime add table muted",
    "create function allowed(c uuid) returns boolean language sql stable security definer set search_path = ''
       as $$ select exists (select 1 from public.conversations x where x.id = c and auth.uid() = x.participant_ids[1]) $$;
     drop policy muted on messages; drop table muted;
     create policy allowed on messages as restrictive using (allowed(conversation_id))",
    "create or replace function allowed(c uuid) returns boolean language sql stable security definer set search_path = ''
       as $$ select exists (select 1 from public.conversations x where x.id = c and auth.uid() = x.participant_ids[2]) $$",
    "create or replace function allowed(c uuid) returns boolean language plpgsql as
       $$ begin return c is not null and random() >= 0; end $$",
    "update conversations set participant_ids = array_remove(participant_ids, 'b0000000-0000-4000-8000-000000000002')
       where id = 'f0000000-0000-4000-8000-00000000000a'",
    "drop policy allowed on messages",
    "alter policy \"participants read the messages of their conversations\" on messages using (false)",
    "alter policy \"participants read the messages of their conversations\" on messages
       using (conversation_id in (select id from conversations where auth.uid() = any (participant_ids)))",
    "update conversations set participant_ids = '{a0000000-0000-4000-8000-000000000001,b0000000-0000-4000-8000-000000000002}'
       where id = 'f0000000-0000-4000-8000-00000000000a'",
    "alter table conversations rename column participant_ids to people",
    "alter table conversations rename column people to participant_ids",
    "alter table messages add column note text default 'n'",
    "alter table messages drop column note",
];

#[tokio::test]
async fn who_sees_what_under_ddl_is_what_postgres_says() {
    let app = start_with_environment("", COMPILED).await;
    let people = [ALICE, BOB, CAROL];
    let mut subscribers: Vec<Subscriber> = Vec::new();
    for person in people {
        subscribers.push(subscribe(&app, person, "messages").await);
    }
    shadowed(&app, 1.0).await;
    let writer = app.session().await;
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let writing = async move {
        while stopped.try_recv().is_err() {
            writer.run(&say(DIARY, "diary")).await;
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    };
    let checking = async {
        for (number, statement) in STATEMENTS.iter().enumerate() {
            app.sql(statement).await;
            let mut said: Vec<String> = Vec::new();
            for place in 0..3 {
                let content = format!("{number}.{place}");
                app.sql(&say(TALK, &content)).await;
                said.push(content);
                // Also once it is all in memory again.
                if place == 1 {
                    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
                }
            }
            let fence = app.fence().await;
            for (person, subscriber) in people.iter().zip(&mut subscribers) {
                let changes = subscriber.until(fence).await;
                let got: Vec<&str> = contents(&changes)
                    .into_iter()
                    .filter(|content| *person != CAROL || *content != "diary")
                    .collect();
                let expected = seen(&app, person, &said).await;
                assert_eq!(got, expected, "{person} after {statement}");
            }
        }
        stop.send(()).unwrap();
    };
    tokio::join!(writing, checking);
    assert!(verdicts(&app, "compiled").await > 100.0);
}

#[tokio::test]
async fn policies_that_are_not_understood_are_asked_of_postgres() {
    let app = start_with_environment(
        "create table odd (id int primary key, owner uuid);
         grant select on odd to authenticated;
         alter table odd enable row level security;
         create policy p on odd using (owner = auth.uid() and random() >= 0);
         alter publication supabase_realtime add table odd;",
        COMPILED,
    )
    .await;
    let mut alice = app
        .subscribe(&user(ALICE), json!([all("odd"), all("messages")]))
        .await;
    shadowed(&app, 1.0).await;
    app.sql(&format!("insert into odd values (1, '{ALICE}')"))
        .await;
    app.sql(&format!("insert into odd values (2, '{BOB}')"))
        .await;
    assert_eq!(brief(&app.settled(&mut alice).await), ["INSERT 1"]);
    assert_eq!(verdicts(&app, "postgres").await, 2.0);
    assert_eq!(verdicts(&app, "compiled").await, 0.0);
}

#[tokio::test]
async fn a_row_that_raises_is_denied_and_told_and_the_next_is_not() {
    let app = start_with_environment(
        "create table risky (id int primary key, word text);
         grant select on risky to authenticated;
         alter table risky enable row level security;
         create policy p on risky using (word::int > 0);
         alter publication supabase_realtime add table risky;",
        COMPILED,
    )
    .await;
    let mut alice = app.subscribe(&user(ALICE), all("risky")).await;
    app.sql("insert into risky values (1, 'x')").await;
    let told = alice.system().await;
    assert!(told.to_string().contains("22P02"), "{told}");
    app.sql("insert into risky values (2, '2'), (3, '-1')")
        .await;
    assert_eq!(brief(&app.settled(&mut alice).await), ["INSERT 2"]);
}
