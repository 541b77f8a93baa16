//! A rolling restart: a server is told to leave, lets its sockets go, and a new process takes its place while writes go on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use walcast::testing::{App, AppOptions, PUBLISHABLE_KEY, Received, Socket, user};

use crate::world::{ALICE, SCHEMA, all};

const ROUNDS: usize = 3;
const TOPIC: &str = "realtime:rolling";
/// No row has this id but the last.
const LAST: i64 = 1 << 30;
/// From the start of a process to its readiness, with the catalog and the trail of a small database to read; unoptimized code
/// on a busy machine takes longer.
const READY_WITHIN: Duration = Duration::from_secs(if cfg!(debug_assertions) { 10 } else { 1 });
const BEAT: Duration = Duration::from_millis(100);
/// To let go of a few sockets.
const DRAINED_WITHIN: Duration = Duration::from_secs(10);

/// Somebody who joins, and joins again whenever the connection ends.
#[derive(Debug, Default)]
struct Story {
    /// The ids that each connection brought once it was subscribed.
    connections: Vec<Vec<i64>>,
    /// All that was said besides changes.
    told: Vec<String>,
    codes: Vec<Option<u16>>,
}

async fn follow(port: u16, resume: &str) -> Story {
    let path = format!("/realtime/v1/websocket?apikey={PUBLISHABLE_KEY}&vsn=2.0.0{resume}");
    let payload = json!({
        "config": {"postgres_changes": [all("notes")]},
        "access_token": user(ALICE),
    });
    let mut story = Story::default();
    loop {
        let Ok(mut socket) = Socket::upgrade(port, &path, &[]).await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        if (socket.offer(Some("1"), "1", TOPIC, "phx_join", &payload)).await {
            story.connections.push(Vec::new());
            if converse(&mut socket, &payload, &mut story).await {
                return story;
            }
        }
    }
}

/// One connection; true once the last row has come.
async fn converse(socket: &mut Socket, payload: &Value, story: &mut Story) -> bool {
    // As stock clients do: the next heartbeat only once the one before was answered.
    let (mut beat_at, mut is_open) = (Instant::now(), false);
    loop {
        if !is_open && beat_at <= Instant::now() {
            let nothing = json!({});
            let heartbeat = socket.offer(None, "beat", "phoenix", "heartbeat", &nothing);
            is_open = heartbeat.await;
        }
        let frame = match tokio::time::timeout(BEAT, socket.listen()).await {
            Ok(Received::Frame(frame)) => *frame,
            Ok(Received::Closed(code, _reason)) => {
                story.codes.push(code);
                return false;
            }
            Err(_elapsed) => continue,
        };
        match frame.event.as_str() {
            "postgres_changes" => {
                let id = frame.payload["data"]["record"]["id"].as_i64().unwrap();
                if id == LAST {
                    return true;
                }
                story.connections.last_mut().unwrap().push(id);
            }
            "phx_reply" if frame.reference == "beat" => {
                (beat_at, is_open) = (Instant::now() + BEAT, false);
            }
            "phx_reply" if frame.payload["status"] != "ok" => {
                let reason = &frame.payload["response"]["reason"];
                story.told.push(reason.to_string());
                tokio::time::sleep(Duration::from_millis(50)).await;
                let join = socket.offer(Some("1"), "1", TOPIC, "phx_join", payload);
                let _lost = join.await;
            }
            "phx_reply" | "presence_state" => {}
            "system" => story.told.push(frame.payload["message"].to_string()),
            _ => story.told.push(frame.raw),
        }
    }
}

/// Rows 1, 2, 3, … until told to stop.
async fn write(url: String, stop: Arc<AtomicBool>, written: Arc<AtomicI64>) {
    let session = walcast::testing::Session::try_connect(&url).await.unwrap();
    while !stop.load(Ordering::Relaxed) {
        let id = written.load(Ordering::Relaxed) + 1;
        let insert = format!("insert into notes values ({id}, 'rolling', 0)");
        session.batch_execute(&insert).await.unwrap();
        written.store(id, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_process_takes_over_and_nobody_is_told_anything_false() {
    let state = tempfile::tempdir().unwrap();
    let options = AppOptions {
        schema: SCHEMA,
        environment: &[("WALCAST_STATE_DIR", state.path().to_str().unwrap())],
        private: None,
    };
    let mut app = App::start_with(env!("CARGO_BIN_EXE_walcast"), &options).await;
    let port = app.server.port();
    let plain = tokio::spawn(follow(port, ""));
    let resumed = tokio::spawn(follow(port, "&resume=0f8fad5b-d9cb-469f-a165-70867728950e"));
    let (stop, written) = (Arc::<AtomicBool>::default(), Arc::<AtomicI64>::default());
    let url = app.cluster().url(&app.database);
    // Both are there, and the session is known, before there is anything to miss.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let writing = tokio::spawn(write(url, Arc::clone(&stop), Arc::clone(&written)));
    let mut quickest = Duration::MAX;
    for _round in 0..ROUNDS {
        tokio::time::sleep(Duration::from_millis(700)).await;
        let started = Instant::now();
        app.server.signal(Signal::TERM);
        let status = app.server.exit().await;
        assert!(status.success(), "{status:?}");
        assert!(
            started.elapsed() < DRAINED_WITHIN,
            "{:?}",
            started.elapsed()
        );
        let started = Instant::now();
        app.server.spawn();
        app.server.ready().await;
        quickest = quickest.min(started.elapsed());
    }
    assert!(quickest < READY_WITHIN, "{quickest:?}");
    tokio::time::sleep(Duration::from_millis(700)).await;
    stop.store(true, Ordering::Relaxed);
    writing.await.unwrap();
    let written = written.load(Ordering::Relaxed);
    // Those who come back by themselves may be on their way.
    tokio::time::sleep(Duration::from_secs(1)).await;
    app.sql(&format!("insert into notes values ({LAST}, 'last', 0)"))
        .await;
    let (plain, resumed) = (plain.await.unwrap(), resumed.await.unwrap());
    for (story, is_resumed) in [(&plain, false), (&resumed, true)] {
        // Also who came while the server was leaving.
        let all_asked = story.codes.iter().all(|code| *code == Some(1012));
        assert!(all_asked && story.codes.len() >= ROUNDS, "{story:?}");
        let is_expected = |told: &&String| {
            let says = |text| told.contains(text);
            says("Subscribed to PostgreSQL")
                || says("Server requested disconnect")
                || says("RealtimeRestarting")
                || says("InitializingProjectConnection")
                // The file of sessions is new: whose it was is not known.
                || is_resumed && says("Resync required: position no longer retained")
        };
        let false_news: Vec<_> = story
            .told
            .iter()
            .filter(|told| !is_expected(told))
            .collect();
        assert!(false_news.is_empty(), "{false_news:?}");
        for ids in &story.connections {
            assert!(ids.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{ids:?}");
        }
    }
    let resyncs = |story: &Story| {
        let told = story.told.iter();
        told.filter(|told| told.contains("Resync required")).count()
    };
    assert!(resyncs(&resumed) <= 1, "{:?}", resumed.told);
    let brought = |story: &Story| story.connections.concat();
    let mut once = brought(&resumed);
    once.sort_unstable();
    once.dedup();
    assert_eq!(once, (1..=written).collect::<Vec<_>>(), "nothing is missed");
    let ids = brought(&plain);
    assert!(
        ids.windows(2).all(|pair| pair[0] < pair[1]),
        "nothing comes twice"
    );
    let last = plain.connections.last().and_then(|ids| ids.last());
    assert_eq!(last, Some(&written), "changes flow again");
}
