//! Of those who come back Postgres is asked only about what they may be shown: what policies hide now is hidden of the past.

use serde_json::Value;
use walcast::testing::{App, user};

use crate::world::{ALICE, DIARY, TALK, all, contents, say, start};

/// Rows that Postgres was asked about.
async fn asked(app: &App) -> u64 {
    let metrics = app.server.get("/metrics").await.unwrap().body;
    let verdicts = metrics.lines().filter(|line| {
        line.starts_with("walcast_verdicts_total") && line.contains("source=\"postgres\"")
    });
    verdicts
        .map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
        .sum()
}

/// Commits much that is none of Alice's business and one message that is; returns a cursor of before.
async fn miss(app: &App) -> Value {
    let mut alice = app.subscribe(&user(ALICE), all("messages")).await;
    app.sql(&say(TALK, "first")).await;
    let first = alice.change().await;
    drop(alice);
    for n in 0..100 {
        app.sql(&say(DIARY, &format!("secret {n}"))).await;
    }
    app.sql(&say(TALK, "missed")).await;
    first.data["cursor"].clone()
}

async fn comes_back(app: &App, cursor: Value) {
    let mut binding = all("messages");
    binding["since"] = cursor;
    let mut alice = app.subscribe(&user(ALICE), binding).await;
    let got = app.settled(&mut alice).await;
    assert_eq!(contents(&got), ["missed"]);
}

#[tokio::test]
async fn postgres_is_asked_only_about_what_may_be_seen() {
    let app = start().await;
    let cursor = miss(&app).await;
    // From now on the policy's table is no longer that of the commits.
    app.sql(&format!(
        "update conversations set participant_ids = participant_ids || '{ALICE}'::uuid where id = '{TALK}'"
    ))
    .await;
    app.sql(&say(DIARY, "secret")).await;
    let before = asked(&app).await;
    comes_back(&app, cursor).await;
    let more = asked(&app).await - before;
    assert!((1..10).contains(&more), "{more} rows");
}

#[tokio::test]
async fn so_it_is_by_a_new_process() {
    let mut app = start().await;
    let cursor = miss(&app).await;
    app.server.kill().await;
    app.server.spawn();
    app.server.ready().await;
    comes_back(&app, cursor).await;
    let asked = asked(&app).await;
    assert!((1..10).contains(&asked), "{asked} rows");
}
