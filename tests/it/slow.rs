//! Who does not read is closed with the documented code, keeps its place, and misses nothing when it comes back.

use std::time::Duration;

use walcast::testing::{
    App, AppOptions, PUBLISHABLE_KEY, Received, Socket, Subscriber, eventually, user,
};

use crate::world::{ALICE, SCHEMA, all};

const TOPIC: &str = "realtime:room";

async fn come(app: &App, id: &str) -> Subscriber {
    let path = format!("/realtime/v1/websocket?apikey={PUBLISHABLE_KEY}&vsn=2.0.0&resume={id}");
    let socket = Socket::upgrade(app.server.port(), &path, &[])
        .await
        .unwrap();
    Subscriber::join_on(socket, TOPIC, Some(&user(ALICE)), &all("notes")).await
}

fn id(change: &walcast::testing::Change) -> i64 {
    change.record()["id"].as_i64().unwrap()
}

#[tokio::test]
async fn who_is_closed_as_slow_goes_on_where_it_was() {
    const ROWS: i64 = 40_000;
    let options = AppOptions {
        schema: SCHEMA,
        environment: &[("WALCAST_SLOW_CONSUMER_TIMEOUT", "1s")],
        private: None,
    };
    let app = App::start_with(env!("CARGO_BIN_EXE_walcast"), &options).await;
    let session = "0f8fad5b-d9cb-469f-a165-70867728950e";
    let mut alice = come(&app, session).await;
    app.sql("insert into notes select n, 'read', n from generate_series(1, 1000) as n")
        .await;
    let read = alice.changes(1000).await;
    assert_eq!(read.last().map(id), Some(1000));

    // Far more than the buffers of both ends hold; from now on it reads nothing.
    for first in (1001..=ROWS).step_by(1000) {
        app.sql(&format!(
            "insert into notes select n, repeat('x', 1000), n from generate_series({first}, {first} + 999) as n"
        ))
        .await;
    }
    eventually("the socket to be given up", || async {
        let metrics = app.server.get("/metrics").await?.body;
        metrics
            .contains("walcast_connections_closed_total{code=\"1013\"} 1")
            .then_some(())
    })
    .await;
    let mut last = 1000;
    let (code, reason) = loop {
        match alice.socket.receive().await {
            Received::Closed(code, reason) => break (code, reason),
            Received::Frame(frame) => {
                if let Some(id) = frame.payload["data"]["record"]["id"].as_i64() {
                    assert_eq!(id, last + 1, "in order and without a gap to the end");
                    last = id;
                }
            }
        }
    };
    // The close frame may not fit behind what was never read.
    assert!(
        matches!(
            (code, reason.as_str()),
            (Some(1013), "slow consumer") | (None, _)
        ),
        "{code:?} {reason}"
    );
    assert!(last < ROWS, "it was slow");

    let mut alice = come(&app, session).await;
    app.sql("insert into notes values (0, 'live', 0)").await;
    let fence = app.fence().await;
    let changes = tokio::time::timeout(Duration::from_secs(60), alice.until(fence))
        .await
        .unwrap();
    let ids: Vec<i64> = changes.iter().map(id).collect();
    let (live, missed) = ids.split_last().unwrap();
    assert_eq!(*live, 0);
    let first = missed[0];
    assert!(
        first <= last + 1,
        "it had read to {last}, and goes on at {first}"
    );
    assert_eq!(missed, (first..=ROWS).collect::<Vec<_>>());
    assert!(alice.told.is_empty(), "{:?}", alice.told);
}
