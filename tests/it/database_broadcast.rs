//! Rows of `realtime.messages`: said in their rooms whatever becomes of the publication, which never costs anybody a row
//! change.

use std::time::Duration;

use serde_json::json;
use walcast::testing::{
    App, AppOptions, PUBLISHABLE_KEY, Server, Session, Socket, Version, eventually,
};

use crate::world::{ALICE, SCHEMA, brief, subscribe};

const BINARY: &str = env!("CARGO_BIN_EXE_walcast");

/// As much of the table as the stream needs, where setup has not made it: partitions by day, and no publication.
const TABLE: &str = "
    create schema if not exists realtime;
    create table if not exists realtime.messages (
        id uuid not null default gen_random_uuid(), topic text not null, extension text not null, payload jsonb, binary_payload bytea,
        event text, private boolean default false, inserted_at timestamp not null default now(),
        updated_at timestamp not null default now(), skip_broadcast boolean not null default false,
        expires_at timestamp, primary key (id, inserted_at)
    ) partition by range (inserted_at);
    do $$
        declare day date;
        begin
            for day in select d::date from generate_series(current_date - 1, current_date + 2, '1 day') as d loop
                execute format('create table if not exists realtime.%I partition of realtime.messages '
                    'for values from (%L) to (%L)', to_char(day, '\"messages_\"YYYY_MM_DD'), day, day + 1);
            end loop;
        end;
    $$;
    drop publication if exists supabase_realtime_messages_publication;";

const PUBLICATION: &str = "
    create publication supabase_realtime_messages_publication for table realtime.messages
        with (publish = 'insert', publish_via_partition_root = true);";

/// A server whose database has [`TABLE`], and what `more` says.
async fn start(more: &str) -> App {
    App::start(BINARY, &format!("{SCHEMA}{TABLE}{more}")).await
}

/// The same on a cluster of its own, whose other slots a large transaction does not keep waiting.
async fn start_private(more: &str) -> App {
    let options = AppOptions {
        schema: &format!("{SCHEMA}{TABLE}{more}"),
        environment: &[],
        private: Some(&[]),
    };
    App::start_with(BINARY, &options).await
}

fn speak(topic: &str, payload: &str) -> String {
    format!(
        "insert into realtime.messages (topic, extension, event, private, payload)
         values ('{topic}', 'broadcast', 'greeting', false, '{payload}');"
    )
}

/// The number behind a family's name; 0 while there is none.
async fn figure(server: &Server, name: &str) -> u64 {
    let metrics = server.get("/metrics").await.unwrap().body;
    metrics
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
        .unwrap_or(0)
}

async fn said(app: &App) -> u64 {
    figure(&app.server, "walcast_broadcasts_from_database_total").await
}

async fn flows(app: &App) -> bool {
    figure(&app.server, "walcast_broadcasts_ready").await == 1
}

async fn until_said(app: &App, count: u64) {
    eventually("the broadcasts", || async {
        let now = said(app).await;
        assert!(now <= count, "{now} were said");
        (now == count).then_some(())
    })
    .await;
}

async fn until_flows(app: &App) {
    eventually("broadcasts to flow", || async {
        flows(app).await.then_some(())
    })
    .await;
}

#[tokio::test]
async fn rows_are_said_in_whichever_name_they_are_published() {
    let app = start(PUBLICATION).await;
    until_flows(&app).await;
    // Nobody is subscribed to anything.
    app.sql(&speak("a", "{}")).await;
    until_said(&app, 1).await;
    app.sql(
        "alter publication supabase_realtime_messages_publication set (publish_via_partition_root = false)",
    )
    .await;
    app.sql(&speak("a", "{}")).await;
    until_said(&app, 2).await;
    app.sql(
        "create table realtime.of_another_name partition of realtime.messages for values from ('2100-01-01') to ('2100-01-02');
         insert into realtime.messages (topic, extension, event, private, payload, inserted_at)
         values ('a', 'broadcast', 'e', true, '{}', '2100-01-01')",
    )
    .await;
    until_said(&app, 3).await;
    app.sql(
        "insert into realtime.messages (topic, extension, event, private, payload, skip_broadcast) values
           ('a', 'broadcast', 'e', true, '{}', true), ('a', 'broadcast', null, true, '{}', false),
           ('a', 'broadcast', 'e', null, '{}', false), ('a', 'broadcast', 'e', true, null, false),
           ('', 'broadcast', 'e', true, '{}', false);
         update realtime.messages set topic = 'b';
         delete from realtime.messages;
         insert into realtime.messages (topic, extension, event, private, binary_payload) values ('a', 'broadcast', 'e', true, '\\x00ff')",
    )
    .await;
    until_said(&app, 4).await;
    assert_eq!(
        figure(
            &app.server,
            "walcast_broadcasts_unsendable_total{reason=\"empty_topic\"}"
        )
        .await,
        1
    );
    let latency = "realtime_tenants_broadcast_from_database_latency_committed_at_count";
    assert_eq!(figure(&app.server, latency).await, 4);
}

#[tokio::test]
async fn a_large_transaction_of_broadcasts_holds_nobody_up() {
    const ROWS: u64 = 100_000;
    let app = start_private(PUBLICATION).await;
    until_flows(&app).await;
    let mut alice = subscribe(&app, ALICE, "notes").await;
    app.sql(&format!(
        "insert into realtime.messages (topic, extension, event, private, payload)
         select 'a', 'broadcast', 'e', false, jsonb_build_object('n', n, 'text', repeat('x', 200)) from generate_series(1, {ROWS}) as n"
    ))
    .await;
    app.sql("insert into notes values (1, 'after it', 1)").await;
    assert_eq!(brief(&[alice.change().await]), ["INSERT 1"]);
    until_said(&app, ROWS).await;
    let peak = app.server.peak_memory() >> 20;
    assert!(peak < 200, "{peak} MiB");
}

/// Inserts into `notes` and, if there, `realtime.messages`, one transaction after the other until told to stop. Returns the
/// last id.
fn write(
    session: Session,
    stop: tokio_util::sync::CancellationToken,
) -> tokio::task::JoinHandle<u64> {
    tokio::spawn(async move {
        for id in 1.. {
            if stop.is_cancelled() {
                return id - 1;
            }
            session
                .run(&format!(
                    "begin; {} insert into notes values ({id}, 'a', 1); {} commit;",
                    speak("a", "{}"),
                    speak("b", "{}")
                ))
                .await;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        0
    })
}

/// Every row change came once and in order, and nobody was told to start over.
async fn assert_undisturbed(app: &App, alice: &mut walcast::testing::Subscriber, last: u64) {
    let changes = app.settled(alice).await;
    let expected: Vec<String> = (1..=last).map(|id| format!("INSERT {id}")).collect();
    assert_eq!(brief(&changes), expected);
    assert!(alice.told.is_empty(), "{:?}", alice.told);
    let epochs = figure(&app.server, "walcast_replication_epochs_total").await;
    assert_eq!(epochs, 0);
    let log = app.server.log();
    assert!(!log.contains("start over"), "{log}");
    assert!(!log.contains("not ready: "), "{log}");
}

#[tokio::test]
async fn a_publication_that_appears_is_read_without_disturbing_anybody() {
    let app = start("").await;
    let mut alice = subscribe(&app, ALICE, "notes").await;
    let stop = tokio_util::sync::CancellationToken::new();
    let writer = write(app.session().await, stop.clone());
    // A transaction that began before the publication did; decoding its row with the publication would fail.
    let old = app.session().await;
    old.run("begin; insert into notes values (-2, 'old', 1)")
        .await;
    app.sql(PUBLICATION).await;
    // The server looks as soon as the publication is announced, and every second while something is to come.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(!flows(&app).await, "an old transaction is open");
    old.run("delete from notes where id = -2; commit").await;
    until_flows(&app).await;
    let before = said(&app).await;
    eventually("broadcasts", || async {
        (said(&app).await > before).then_some(())
    })
    .await;
    stop.cancel();
    let last = writer.await.unwrap();
    assert_undisturbed(&app, &mut alice, last).await;
    assert!(!app.server.log().contains("goes on without publication"));
}

#[tokio::test]
async fn a_publication_dropped_and_made_again_under_writes_disturbs_nobody() {
    let app = start(PUBLICATION).await;
    until_flows(&app).await;
    let mut alice = subscribe(&app, ALICE, "notes").await;
    let stop = tokio_util::sync::CancellationToken::new();
    let writer = write(app.session().await, stop.clone());
    for pause in [0, 50, 300] {
        app.sql("drop publication supabase_realtime_messages_publication")
            .await;
        tokio::time::sleep(Duration::from_millis(pause)).await;
        app.sql(PUBLICATION).await;
        eventually("the loss", || async { (!flows(&app).await).then_some(()) }).await;
        until_flows(&app).await;
        let before = said(&app).await;
        eventually("broadcasts", || async {
            (said(&app).await > before).then_some(())
        })
        .await;
    }
    stop.cancel();
    let last = writer.await.unwrap();
    assert_undisturbed(&app, &mut alice, last).await;
}

/// A session that ends in the middle of a transaction goes on in it, by the order of its changes; with another list of
/// publications that order is another one.
#[tokio::test]
async fn a_publication_dropped_during_a_large_transaction_tears_nothing() {
    const ROWS: u64 = 300_000;
    let app = start_private(PUBLICATION).await;
    until_flows(&app).await;
    let mut alice = subscribe(&app, ALICE, "notes").await;
    app.sql(&format!(
        "insert into realtime.messages (topic, extension, event, private, payload)
         select 'a', 'broadcast', 'e', false, '{{}}' from generate_series(1, 1000);
         insert into notes select n, 'a', 1 from generate_series(1, {ROWS}) as n"
    ))
    .await;
    let _first = alice.change().await;
    app.sql("drop publication supabase_realtime_messages_publication")
        .await;
    for expected in 2..=ROWS {
        let change = alice.change().await;
        assert_eq!(change.record()["id"].as_u64(), Some(expected));
        assert_eq!(change.last, expected == ROWS);
    }
    eventually("the loss", || async { (!flows(&app).await).then_some(()) }).await;
    let next = ROWS + 1;
    app.sql(&format!("insert into notes values ({next}, 'a', 1)"))
        .await;
    assert_eq!(alice.change().await.record()["id"].as_u64(), Some(next));
    assert_eq!(said(&app).await, 1000);
}

#[tokio::test]
async fn a_slot_that_trails_the_publication_goes_on_without_it_for_a_while() {
    let mut app = start("").await;
    app.server.kill().await;
    let incarnation = "select incarnation::text from walcast.slots";
    let before = app.admin.text(incarnation).await;
    app.sql("insert into notes values (1, 'older than the publication', 1)")
        .await;
    app.sql(PUBLICATION).await;
    app.sql(&speak("a", "{}")).await;
    app.server.spawn();
    app.server.ready().await;
    until_flows(&app).await;
    app.sql(&speak("a", "{}")).await;
    eventually("a broadcast", || async {
        (said(&app).await > 0).then_some(())
    })
    .await;
    let log = app.server.log();
    assert!(log.contains("goes on without publication"), "{log}");
    assert!(!log.contains("moved the replication slot forward"), "{log}");
    assert_eq!(app.admin.text(incarnation).await, before);
}

#[tokio::test]
async fn sockets_hear_what_the_database_says_in_commit_order() {
    let app = start(PUBLICATION).await;
    until_flows(&app).await;
    let mut socket = Socket::connect(app.server.port(), PUBLISHABLE_KEY, Version::V1).await;
    let join = json!({"config": {"broadcast": {"replication_ready": true}}});
    let reply = socket
        .ask(Some("1"), "realtime:room", "phx_join", &join)
        .await;
    assert_eq!(reply["status"], "ok");
    let ready = socket.find(|frame| frame.event == "system").await;
    assert_eq!(
        ready.payload,
        json!({"extension": "system", "status": "ok", "message": "Replication connection established", "channel": "room"})
    );
    let id = "c2f10000-0000-4000-8000-000000000000";
    app.sql(&format!(
        "insert into realtime.messages (id, topic, extension, event, private, payload) values
           ('{id}', 'room', 'broadcast', 'INSERT', false, '{{\"n\": 1}}'), (default, 'room', 'broadcast', 'INSERT', true, '{{\"n\": 2}}'),
           (default, 'other', 'broadcast', 'INSERT', false, '{{\"n\": 3}}'), (default, 'room', 'broadcast', 'INSERT', false, '{{\"n\": 4}}')"
    ))
    .await;
    let first = socket.find(|frame| frame.event == "broadcast").await;
    assert_eq!(
        first.payload,
        json!({"event": "INSERT", "payload": {"n": 1}, "type": "broadcast", "meta": {"id": id}})
    );
    let second = socket.find(|frame| frame.event == "broadcast").await;
    assert_eq!(second.payload["payload"], json!({"n": 4}));
}

#[tokio::test]
async fn who_need_not_wait_for_broadcasts_is_told_so_before_who_is_present() {
    let app = start(PUBLICATION).await;
    until_flows(&app).await;
    let mut socket = Socket::connect(app.server.port(), PUBLISHABLE_KEY, Version::V2).await;
    let join = json!({"config": {"broadcast": {"replication_ready": true}, "presence": {"enabled": true}}});
    socket
        .send(Some("1"), "1", "realtime:room", "phx_join", &join)
        .await;
    let mut events = Vec::new();
    for _ in 0..3 {
        events.push(socket.frame().await.event);
    }
    assert_eq!(events, ["phx_reply", "system", "presence_state"]);
}

#[tokio::test]
async fn who_waits_for_broadcasts_is_told_when_they_flow() {
    let app = start("").await;
    let mut socket = Socket::connect(app.server.port(), PUBLISHABLE_KEY, Version::V2).await;
    let join = json!({"config": {"broadcast": {"replication_ready": true}, "presence": {"enabled": false}}});
    let reply = socket
        .ask(Some("1"), "realtime:room", "phx_join", &join)
        .await;
    assert_eq!(reply["status"], "ok");
    assert_eq!(socket.settle().await.len(), 0, "nothing flows");
    app.sql(PUBLICATION).await;
    let ready = socket.find(|frame| frame.event == "system").await;
    assert_eq!(ready.payload["status"], "ok");
    assert!(flows(&app).await);
}
