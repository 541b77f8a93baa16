//! Limits that settings put on channels: at the limit one is told with the documented words, and nobody else notices
//! (protocol.md §8.1).

use serde_json::{Value, json};
use walcast::testing::{App, Channel, PUBLISHABLE_KEY, Version, user};

use crate::world::{ALICE, BOB, join, join_with, start_with_environment};

const JSON: (&str, &str) = ("content-type", "application/json");

async fn app(setting: &str, value: &str) -> App {
    start_with_environment("", &[(setting, value)]).await
}

/// Says something often, and gives how often `hearer` hears it before it is removed, and why.
async fn overwhelm(hearer: &mut Channel, sender: &mut Channel) -> (usize, String) {
    for n in 0..200 {
        sender.say("count", &json!({"n": n})).await;
    }
    let mut heard = 0;
    loop {
        let frame = hearer.socket.frame().await;
        match frame.event.as_str() {
            "broadcast" => {
                assert_eq!(
                    frame.payload["payload"]["n"], heard,
                    "nothing is left out before"
                );
                heard += 1;
            }
            "system" => {
                let message = frame.payload["message"].as_str().unwrap().to_owned();
                let closed = hearer.socket.frame().await;
                assert_eq!(
                    (closed.event.as_str(), &closed.reference),
                    ("phx_close", &json!(hearer.join_ref))
                );
                return (heard, message);
            }
            _ => {}
        }
    }
}

#[tokio::test]
async fn a_channel_that_hears_too_much_is_removed() {
    // Over the first five seconds.
    let app = app("WALCAST_MESSAGES_PER_SECOND_PER_CHANNEL_MAX", "10").await;
    let mut hearer = join(&app, Version::V2, "room").await;
    let mut sender = join(&app, Version::V1, "room").await;
    let (heard, reason) = overwhelm(&mut hearer, &mut sender).await;
    assert_eq!(reason, "Too many messages per second");
    assert!((50..=100).contains(&heard), "{heard}");
    // The socket may join again.
    let again = Channel::join_on(hearer.socket, Version::V2, "another", &json!({}), None).await;
    assert!(again.is_ok());
}

#[tokio::test]
async fn a_subject_is_limited_wherever_it_is_connected() {
    let app = app("WALCAST_MESSAGES_PER_SECOND_PER_SUBJECT_MAX", "10").await;
    let (alice, bob) = (user(ALICE), user(BOB));
    let mut first = join_with(&app, Version::V2, "room", json!({}), Some(&alice)).await;
    let mut second = join_with(&app, Version::V2, "another", json!({}), Some(&alice)).await;
    let mut other = join_with(&app, Version::V2, "another", json!({}), Some(&bob)).await;
    let mut sender = join(&app, Version::V2, "room").await;
    let (_heard, reason) = overwhelm(&mut first, &mut sender).await;
    assert_eq!(reason, "Too many messages per second");
    let mut sender = join(&app, Version::V2, "another").await;
    sender.say("one more", &json!({})).await;
    assert_eq!(second.removed().await, "Too many messages per second");
    assert_eq!(other.heard_briefly().await.0, "one more");
    let bearer = format!("Bearer {alice}");
    let headers = [JSON, ("authorization", bearer.as_str())];
    let reply = app
        .server
        .post("/api/broadcast", &headers, br#"{"messages":[]}"#)
        .await;
    assert_eq!(
        (reply.status, reply.body.as_str()),
        (429, r#"{"message":"Too many requests"}"#)
    );
    let reply = app
        .server
        .post("/api/broadcast/room/events/e", &headers, b"{}")
        .await;
    assert_eq!(
        (reply.status, reply.body.as_str()),
        (429, r#"{"message":"You have exceeded your rate limit"}"#)
    );
    let reply = app
        .server
        .post(
            "/api/broadcast/another/events/e",
            &[JSON, ("apikey", PUBLISHABLE_KEY)],
            b"{}",
        )
        .await;
    assert_eq!(reply.status, 202, "{}", reply.body);
    assert_eq!(other.heard_briefly().await.0, "e");
}

#[tokio::test]
async fn a_channel_that_comes_and_goes_too_often_is_removed() {
    let app = start_with_environment(
        "",
        &[
            ("WALCAST_PRESENCE_EVENTS_PER_SECOND_PER_CHANNEL_MAX", "2"),
            ("WALCAST_PRESENCE_CALLS_MAX", "0"),
        ],
    )
    .await;
    let config = json!({"presence": {"key": "ann"}});
    let mut ann = join_with(&app, Version::V2, "room", config, None).await;
    let mut watcher = join(&app, Version::V1, "room").await;
    for n in 0..100 {
        let message = json!({"type": "presence", "event": "track", "payload": {"n": n}});
        ann.request("presence", &message).await;
    }
    let reason = ann.removed().await;
    assert_eq!(reason, "Too many presence messages per second");
    // Of who is gone, nothing is left; who hears of it in few diffs stays.
    watcher.attended_by(&[]).await;
    watcher.say("still here", &json!({})).await;
    assert!(
        watcher
            .socket
            .settle()
            .await
            .iter()
            .all(|frame| frame.event != "phx_close")
    );
}

#[tokio::test]
async fn the_size_of_a_payload_is_a_setting() {
    let app = app("WALCAST_PAYLOAD_BYTES_MAX", "1000").await;
    let acked = json!({"broadcast": {"ack": true}});
    let mut hearer = join(&app, Version::V2, "room").await;
    let payload = |length: usize| json!({"text": "x".repeat(length)});
    for version in [Version::V1, Version::V2] {
        let mut channel = join_with(&app, version, "room", acked.clone(), None).await;
        for (length, status) in [(900, "ok"), (1100, "error")] {
            let reference = channel.say("e", &payload(length)).await;
            assert_eq!(
                channel.socket.reply(&reference).await.payload["status"],
                status
            );
        }
        assert_eq!(hearer.heard_briefly().await.1, payload(900));
        let large: Value = json!({"type": "presence", "event": "track", "payload": payload(1100)});
        channel.request("presence", &large).await;
        assert_eq!(channel.removed().await, "Track message size exceeded");
    }
    let headers = [JSON, ("apikey", PUBLISHABLE_KEY)];
    for (length, status) in [(900, 202), (1100, 422)] {
        let body = payload(length).to_string();
        let reply = app
            .server
            .post("/api/broadcast/room/events/e", &headers, body.as_bytes())
            .await;
        assert_eq!(reply.status, status, "{}", reply.body);
    }
    assert_eq!(hearer.heard_briefly().await.1, payload(900));
}

#[tokio::test]
async fn presence_messages_of_a_channel_are_a_setting() {
    let app = app("WALCAST_PRESENCE_CALLS_MAX", "2").await;
    let mut ann = join(&app, Version::V2, "room").await;
    for n in 0..2 {
        assert_eq!(ann.track(&json!({"n": n})).await["status"], "ok");
    }
    ann.request("presence", &json!({"type": "presence", "event": "untrack"}))
        .await;
    assert_eq!(ann.removed().await, "Client presence rate limit exceeded");
}
