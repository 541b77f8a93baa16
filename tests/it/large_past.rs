//! A transaction larger than the memory for the past: who comes back from before it gets all of it, and what was before it.

use serde_json::{Value, json};
use walcast::testing::{
    App, AppOptions, Change, PUBLISHABLE_KEY, Socket, Subscriber, eventually, user,
};

use crate::resume::handle_all;
use crate::since::refused;
use crate::world::{ALICE, BOB, LONG_TRAIL, SCHEMA, TALK, all, contents, say, subscribe};

const ID: &str = "6d0f4d5c-2f4b-4f0e-8a51-0c1f7a0d2b9e";
const ROWS: i64 = 20_000;
/// Several times less than what the rows take.
const SMALL: [(&str, &str); 2] = [
    ("WALCAST_HISTORY_BYTES_MAX", "1MiB"),
    ("WALCAST_CHANGE_LOG_MEMORY_BYTES_MAX", "64KiB"),
];

async fn start(environment: &[(&str, &str)]) -> App {
    let environment = [environment, &SMALL, &LONG_TRAIL].concat();
    let options = AppOptions {
        schema: SCHEMA,
        environment: &environment,
        private: None,
    };
    App::start_with(env!("CARGO_BIN_EXE_walcast"), &options).await
}

/// Both tables, in one channel.
fn both() -> Value {
    json!([all("messages"), all("notes")])
}

async fn come_back(app: &App) -> Subscriber {
    let path = format!("/realtime/v1/websocket?apikey={PUBLISHABLE_KEY}&vsn=2.0.0&resume={ID}");
    let socket = Socket::upgrade(app.server.port(), &path, &[])
        .await
        .unwrap();
    Subscriber::join_on(socket, "realtime:room", Some(&user(ALICE)), &both()).await
}

/// Something small, then far too much, then something small; from before it.
async fn commit_all(app: &App) -> String {
    let mut bob = subscribe(app, BOB, "messages").await;
    app.sql(&say(TALK, "mark")).await;
    let from = bob.change().await.data["cursor"]
        .as_str()
        .unwrap()
        .to_owned();
    app.sql(&say(TALK, "shortly before")).await;
    app.sql(&format!(
        "insert into notes select n, repeat('x', 200), n from generate_series(1, {ROWS}) as n"
    ))
    .await;
    app.sql(&say(TALK, "after")).await;
    // By then it has gone by.
    assert_eq!(contents(&bob.changes(2).await), ["shortly before", "after"]);
    from
}

async fn in_file(app: &App) -> u64 {
    let metrics = app.server.get("/metrics").await.unwrap().body;
    let line = metrics
        .lines()
        .find_map(|line| line.strip_prefix("walcast_history_file_bytes "));
    line.unwrap().parse().unwrap()
}

#[track_caller]
fn assert_is_all(changes: &[Change]) {
    let ends = [
        changes.first(),
        changes.get(changes.len() - 2),
        changes.last(),
    ];
    let ends = ends.map(|change| change.unwrap().clone());
    assert_eq!(changes.len(), usize::try_from(ROWS).unwrap() + 3);
    assert_eq!(contents(&ends), ["shortly before", "after", "live"]);
    let rows = &changes[1..changes.len() - 2];
    let ids = rows
        .iter()
        .map(|change| change.record()["id"].as_i64().unwrap());
    assert!(ids.eq(1..=ROWS));
    let lasts = rows.iter().filter(|change| change.last).count();
    assert!(lasts == 1 && rows.last().unwrap().last);
}

#[tokio::test]
async fn it_comes_back_whole_with_what_was_before_it() {
    for verdicts in ["postgres", "compiled"] {
        let app = start(&[("WALCAST_VERDICTS", verdicts)]).await;
        let mut alice = come_back(&app).await;
        handle_all(&app, &mut alice).await;
        drop(alice);
        let from = commit_all(&app).await;
        eventually("parts in the file", async || {
            (in_file(&app).await > 1 << 20).then_some(())
        })
        .await;
        let mut alice = come_back(&app).await;
        let mut since = both();
        for binding in since.as_array_mut().unwrap() {
            binding["since"] = from.as_str().into();
        }
        let mut bob = app.subscribe(&user(BOB), since).await;
        app.sql(&say(TALK, "live")).await;
        assert_eq!(contents(&[alice.change().await]), ["mark"], "{verdicts}");
        let count = usize::try_from(ROWS).unwrap() + 3;
        assert_is_all(&alice.changes(count).await);
        assert_is_all(&bob.changes(count).await);
        assert!(alice.told.is_empty(), "{:?}", alice.told);
    }
}

#[tokio::test]
async fn without_a_file_it_drives_out_all_that_was_before_it() {
    let app = start(&[("WALCAST_HISTORY_SPOOL_BYTES_MAX", "0")]).await;
    let from = commit_all(&app).await;
    assert_eq!(in_file(&app).await, 0);
    let mut binding = all("messages");
    binding["since"] = from.as_str().into();
    let reason = refused(&app, ALICE, &binding).await;
    assert!(reason.starts_with("PositionTooOld"), "{reason}");
}
