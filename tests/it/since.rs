//! `since`: what was missed comes first, and only what may still be seen.

use serde_json::Value;
use walcast::testing::{App, PUBLISHABLE_KEY, Socket, Subscriber, Version, join_payload, user};

use crate::world::{
    ALICE, BOB, CAROL, LONG_TRAIL, TALK, all, contents, say, start_with_environment, subscribe,
};

/// Every action on a table, from a position or a time on.
fn since(table: &str, from: &str) -> Value {
    let mut binding = all(table);
    binding["since"] = from.into();
    binding
}

fn cursor(change: &walcast::testing::Change) -> String {
    change.data["cursor"].as_str().unwrap().to_owned()
}

async fn start(verdicts: &str) -> App {
    let environment = [&[("WALCAST_VERDICTS", verdicts)], &LONG_TRAIL[..]].concat();
    start_with_environment("", &environment).await
}

/// The reason with which a join is refused.
pub(crate) async fn refused(app: &App, subject: &str, binding: &Value) -> String {
    let mut socket = Socket::connect(app.server.port(), PUBLISHABLE_KEY, Version::V2).await;
    let reference = socket.next_reference();
    let payload = join_payload(binding, Some(&user(subject)));
    socket
        .send(
            Some(&reference),
            &reference,
            "realtime:room",
            "phx_join",
            &payload,
        )
        .await;
    let reply = socket.reply(&reference).await.payload;
    assert_eq!(reply["status"], "error", "{reply}");
    reply["response"]["reason"].as_str().unwrap().to_owned()
}

async fn join_since(app: &App, subject: &str, from: &str) -> Subscriber {
    app.subscribe(&user(subject), since("messages", from)).await
}

async fn what_was_missed_comes_first(verdicts: &str) {
    let app = start(verdicts).await;
    let mut alice = subscribe(&app, ALICE, "messages").await;
    app.sql(&say(TALK, "the first that is retained")).await;
    app.sql("select pg_catalog.pg_sleep(0.01)").await;
    for text in ["one", "two", "three"] {
        app.sql(&say(TALK, text)).await;
    }
    alice.change().await;
    let first = alice.change().await;
    assert_eq!(alice.changes(2).await.len(), 2);
    let from = cursor(&first);
    let mut bob = join_since(&app, BOB, &from).await;
    let mut carol = join_since(&app, CAROL, &from).await;
    app.sql(&say(TALK, "four")).await;
    let got = app.settled(&mut bob).await;
    assert_eq!(contents(&got), ["two", "three", "four"]);
    assert!(got.iter().all(|change| change.last));
    assert_eq!(contents(&app.settled(&mut carol).await), [""; 0]);
    // A time, written as a client writes it.
    let time = first.data["commit_timestamp"].as_str().unwrap().to_owned();
    let mut later = join_since(&app, BOB, &time).await;
    let got = app.settled(&mut later).await;
    assert_eq!(contents(&got), ["one", "two", "three", "four"]);
}

#[tokio::test]
async fn what_was_missed_comes_first_as_postgres_says() {
    what_was_missed_comes_first("postgres").await;
}

#[tokio::test]
async fn what_was_missed_comes_first_as_plans_say() {
    what_was_missed_comes_first("compiled").await;
}

#[tokio::test]
async fn a_long_text_comes_with_the_row_although_its_last_version_left_it_alone() {
    for verdicts in ["postgres", "compiled"] {
        let environment = [&[("WALCAST_VERDICTS", verdicts)], &LONG_TRAIL[..]].concat();
        let external = "alter table messages alter column content set storage external;";
        let app = start_with_environment(external, &environment).await;
        let mut alice = subscribe(&app, ALICE, "messages").await;
        app.sql(&say(TALK, "mark")).await;
        let from = cursor(&alice.change().await);
        let long = "long".repeat(3000);
        app.sql(&say(TALK, &long)).await;
        let mut between = join_since(&app, BOB, &from).await;
        assert_eq!(between.change().await.record()["content"], long);
        for change in ["is_read = true", "created_at = now()"] {
            let sql = format!("update messages set {change} where length(content) > 4");
            app.sql(&sql).await;
        }
        let mut bob = join_since(&app, BOB, &from).await;
        let got = app.settled(&mut bob).await;
        let told = got.iter().map(|change| (change.kind(), change.record()));
        let length = |row: &Value| row["content"].as_str().map(str::len);
        let told: Vec<_> = told.map(|(kind, row)| (kind, length(row))).collect();
        // Postgres shows the last version only, so that they come as one; plans judge each by itself.
        let all = [("INSERT", Some(12_000)), ("UPDATE", None), ("UPDATE", None)];
        let expected = if verdicts == "postgres" {
            &all[..1]
        } else {
            &all
        };
        assert_eq!(told, expected, "{verdicts}");
    }
}

#[tokio::test]
async fn who_was_added_later_does_not_learn_what_was_deleted_before() {
    for verdicts in ["postgres", "compiled"] {
        let app = start(verdicts).await;
        let mut alice = subscribe(&app, ALICE, "messages").await;
        app.sql(&say(TALK, "mark")).await;
        let from = cursor(&alice.change().await);
        app.sql(&say(TALK, "gone")).await;
        app.sql(&say(TALK, "here")).await;
        app.sql("delete from messages where content = 'gone'").await;
        app.sql(&format!(
            "update conversations set participant_ids = participant_ids || '{CAROL}'::uuid"
        ))
        .await;
        let mut carol = join_since(&app, CAROL, &from).await;
        let got = app.settled(&mut carol).await;
        assert_eq!(contents(&got), ["here"], "{verdicts}: {got:#?}");
    }
}

#[tokio::test]
async fn who_was_removed_gets_nothing_of_before() {
    for verdicts in ["postgres", "compiled"] {
        let app = start(verdicts).await;
        let mut alice = subscribe(&app, ALICE, "messages").await;
        app.sql(&say(TALK, "mark")).await;
        let from = cursor(&alice.change().await);
        app.sql(&say(TALK, "no longer his")).await;
        app.sql(&format!(
            "update conversations set participant_ids = array_remove(participant_ids, '{BOB}')"
        ))
        .await;
        let mut bob = join_since(&app, BOB, &from).await;
        assert_eq!(
            contents(&app.settled(&mut bob).await),
            [""; 0],
            "{verdicts}"
        );
    }
}

#[tokio::test]
async fn positions_outlive_a_kill_and_a_stop() {
    let mut app = start("compiled").await;
    let mut alice = subscribe(&app, ALICE, "messages").await;
    app.sql(&say(TALK, "mark")).await;
    let from = cursor(&alice.change().await);
    app.sql(&say(TALK, "before")).await;
    alice.change().await;
    app.server.kill().await;
    app.sql(&say(TALK, "meanwhile")).await;
    app.server.spawn();
    app.server.ready().await;
    let mut bob = join_since(&app, BOB, &from).await;
    app.sql(&say(TALK, "after")).await;
    let got = app.settled(&mut bob).await;
    assert_eq!(contents(&got), ["before", "meanwhile", "after"]);
    app.server.signal(rustix::process::Signal::TERM);
    app.server.exit().await;
    app.server.spawn();
    app.server.ready().await;
    let mut bob = join_since(&app, BOB, &from).await;
    let got = app.settled(&mut bob).await;
    assert_eq!(contents(&got), ["before", "meanwhile", "after"]);
}

#[tokio::test]
async fn what_cannot_be_had_is_refused() {
    let app = start("compiled").await;
    let mut alice = subscribe(&app, ALICE, "messages").await;
    app.sql(&say(TALK, "mark")).await;
    let from = cursor(&alice.change().await);
    let refused = async |from: &str| refused(&app, ALICE, &since("messages", from)).await;
    assert_eq!(
        refused("yesterday").await,
        "Error parsing `since`: expected a cursor or an RFC 3339 timestamp"
    );
    let (epoch, rest) = from.split_at(16);
    for from in [
        format!("0000000000000001{rest}"),
        format!("{epoch}-0000000000000001-00000000"),
        format!("{epoch}-ffffffffffffffff-00000000"),
        "2001-01-01T00:00:00Z".to_owned(),
    ] {
        let reason = refused(&from).await;
        let oldest = reason
            .strip_prefix("PositionTooOld: oldest available position is ")
            .unwrap_or_else(|| panic!("{reason}"));
        assert_eq!(oldest.split_at(16).0, epoch);
        // It is one to begin with.
        let _joined = join_since(&app, ALICE, oldest).await;
    }
}

#[tokio::test]
async fn a_large_past_goes_through_at_the_pace_of_its_reader() {
    let app = start("compiled").await;
    let mut alice = subscribe(&app, ALICE, "notes").await;
    app.sql("insert into notes values (0, 'mark', 0)").await;
    let from = cursor(&alice.change().await);
    app.sql("insert into notes select n, repeat('x', 200), n from generate_series(1, 20000) as n")
        .await;
    let mut bob = app.subscribe(&user(BOB), since("notes", &from)).await;
    app.sql("insert into notes values (20001, 'live', 0)").await;
    let got = bob.changes(20_001).await;
    let ids = got
        .iter()
        .map(|change| change.record()["id"].as_i64().unwrap());
    assert!(ids.eq(1..=20_001));
    let last: Vec<usize> = (0..got.len()).filter(|index| got[*index].last).collect();
    assert_eq!(last, [19_999, 20_000]);
}

/// The WAL that is read again after a restart holds nobody up.
#[tokio::test]
async fn the_trail_delays_neither_readiness_nor_joins() {
    let mut app = start("compiled").await;
    for round in 0..4 {
        app.sql(&format!(
            "insert into notes select n, repeat('x', 300), 0 from generate_series({0}, {0} + 24999) as n",
            round * 25_000 + 1
        ))
        .await;
    }
    app.sql("insert into notes values (0, 'mark', 0)").await;
    app.server.kill().await;
    let started = std::time::Instant::now();
    app.server.spawn();
    app.server.ready().await;
    let mut alice = subscribe(&app, ALICE, "notes").await;
    let took = started.elapsed();
    assert!(took < std::time::Duration::from_secs(5), "{took:?}");
    app.sql("insert into notes values (-1, 'live', 0)").await;
    let got = app.settled(&mut alice).await;
    assert_eq!(got.len(), 1, "nothing of before is delivered");
    let confirmed = format!(
        "select (pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn) > 10000000)::text from pg_replication_slots where slot_name = '{}'",
        app.slot()
    );
    assert_eq!(app.admin.text(&confirmed).await.as_deref(), Some("true"));
}
