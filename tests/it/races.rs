//! Promise 2 at its narrowest place: a row that is written the moment a join is answered arrives, whether the token came
//! with the join or right after the answer, as the newest clients send it.
//!
//! `WALCAST_RACES=10000 cargo test --test it races` runs so many.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use walcast::testing::{
    App, AppOptions, Durations, PUBLISHABLE_KEY, Session, Socket, Version, mint,
};

use crate::world::{ALICE, SCHEMA, TALK, all, say};

/// Who races at the same time, each with a socket and a session of its own.
const RACERS: usize = 8;

/// A token that no other race has: its identity is new to the server.
fn token(number: usize) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    mint(&json!({
        "role": "authenticated", "sub": ALICE, "exp": now.as_secs() + 3600, "race": number,
    }))
}

/// Whether the token comes after the join's answer.
const fn is_late(number: usize) -> bool {
    number.is_multiple_of(2)
}

/// Joins, writes as soon as that is answered, and waits for what was written. Gives how long the answer took.
async fn race(socket: &mut Socket, session: &Session, number: usize) -> Duration {
    let topic = format!("realtime:race-{number}");
    let (token, late) = (token(number), is_late(number));
    let mut payload = json!({"config": {"postgres_changes": [all("messages")]}});
    if !late {
        payload["access_token"] = Value::from(token.as_str());
    }
    let join_ref = socket.next_reference();
    let asked = Instant::now();
    socket
        .send(Some(&join_ref), &join_ref, &topic, "phx_join", &payload)
        .await;
    let reply = socket.reply(&join_ref).await.payload;
    let took = asked.elapsed();
    assert_eq!(reply["status"], "ok", "{reply}");
    let content = format!("race {number}");
    let write = say(TALK, &content);
    if late {
        let reference = socket.next_reference();
        let refresh = json!({"access_token": token});
        let send = socket.send(
            Some(&join_ref),
            &reference,
            &topic,
            "access_token",
            &refresh,
        );
        // In any order.
        tokio::join!(send, session.run(&write));
    } else {
        session.run(&write).await;
    }
    socket
        .find(|frame| {
            assert!(frame.event != "phx_error", "{}", frame.raw);
            frame.topic == topic && frame.payload["data"]["record"]["content"] == content.as_str()
        })
        .await;
    let reference = socket.next_reference();
    socket
        .send(Some(&join_ref), &reference, &topic, "phx_leave", &json!({}))
        .await;
    socket.reply(&reference).await;
    // What others wrote meanwhile.
    socket.settle().await;
    took
}

#[tokio::test]
async fn what_is_written_when_a_join_is_answered_arrives() {
    let races = std::env::var("WALCAST_RACES").map_or(300, |text| text.parse().unwrap());
    let options = AppOptions {
        schema: SCHEMA,
        // A racer joins as fast as it can.
        environment: &[("WALCAST_JOINS_PER_SECOND_PER_SOCKET_MAX", "0")],
        private: None,
    };
    let app = App::start_with(env!("CARGO_BIN_EXE_walcast"), &options).await;
    let next = Arc::new(AtomicUsize::new(0));
    let mut racers = tokio::task::JoinSet::new();
    for racer in 0..RACERS {
        let version = [Version::V1, Version::V2][racer % 2];
        let mut socket = Socket::connect(app.server.port(), PUBLISHABLE_KEY, version).await;
        let session = app.session().await;
        let next = Arc::clone(&next);
        racers.spawn(async move {
            let mut took = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= races {
                    return took;
                }
                let answer = race(&mut socket, &session, number).await;
                took.push((is_late(number), answer));
            }
        });
    }
    let (mut with, mut before) = (Durations::default(), Durations::default());
    while let Some(took) = racers.join_next().await {
        for (is_late, took) in took.unwrap() {
            let durations = if is_late { &mut before } else { &mut with };
            durations.push(took);
        }
    }
    println!(
        "{races} joins, {RACERS} at a time, from the join to its answer, after which nothing was missed:"
    );
    println!("  with the token        {with}");
    println!("  token after it        {before}");
}
