//! What a client pushes before its join is answered waits for the answer, whatever the database is asked meanwhile
//! (protocol.md §2.6).

use serde_json::{Value, json};
use walcast::testing::{App, Frame, PUBLISHABLE_KEY, Push, Socket, Version, user};

use crate::world::{ALICE, BOB, all, join_with, start_with};

/// Every question takes a while.
const POLICIES: &str = "
    create function slowly(result boolean) returns boolean language plpgsql as $$
      begin perform pg_sleep(0.2); return result; end $$;
    create policy receive on realtime.messages for select to authenticated using (slowly(realtime.topic() = 'room'));
    create policy send on realtime.messages for insert to authenticated with check (slowly(true));
";

/// Sends a join and, without waiting for anything, what belongs after it: references 2 to 5.
async fn join_and_push(
    app: &App,
    version: Version,
    topic: &str,
    config: &Value,
    subject: &str,
) -> Socket {
    let mut socket = Socket::connect(app.server.port(), PUBLISHABLE_KEY, version).await;
    let payload = json!({"config": config, "access_token": user(subject)});
    socket
        .send(Some("1"), "1", topic, "phx_join", &payload)
        .await;
    match version {
        Version::V1 => {
            let message = json!({"type": "broadcast", "event": "first", "payload": {"n": 1}});
            socket
                .send(Some("1"), "2", topic, "broadcast", &message)
                .await;
        }
        Version::V2 => {
            let push = Push {
                join_ref: "1",
                reference: "2",
                topic,
                event: "first",
                payload: br#"{"n":1}"#,
                ..Push::default()
            };
            socket.send_binary(push.encode()).await;
        }
    }
    let track = json!({"type": "presence", "event": "track", "payload": {"n": 2}});
    socket.send(Some("1"), "3", topic, "presence", &track).await;
    socket
        .send(Some("1"), "4", topic, "unheard_of", &json!({}))
        .await;
    let message = json!({"type": "broadcast", "event": "second", "payload": {"n": 3}});
    socket.send(None, "5", topic, "broadcast", &message).await;
    socket
}

/// The frames up to the reply to `last`.
async fn until_reply(socket: &mut Socket, last: &str) -> Vec<Frame> {
    let mut frames = Vec::new();
    loop {
        let frame = socket.frame().await;
        let is_last = frame.event == "phx_reply" && frame.reference == last;
        frames.push(frame);
        if is_last {
            return frames;
        }
    }
}

fn replies(frames: &[Frame]) -> Vec<(&str, &Value)> {
    let replies = frames.iter().filter(|frame| frame.event == "phx_reply");
    replies
        .map(|frame| (frame.reference.as_str().unwrap(), &frame.payload))
        .collect()
}

#[tokio::test]
async fn pushes_that_follow_a_join_at_once_are_served_after_its_reply() {
    let app = start_with(POLICIES).await;
    let ok = json!({"status": "ok", "response": {}});
    for (version, private) in [
        (Version::V1, false),
        (Version::V2, false),
        (Version::V1, true),
        (Version::V2, true),
    ] {
        let mut config = json!({"private": private, "broadcast": {"ack": true}, "presence": {"enabled": true, "key": "bob"}});
        let mut hearer = join_with(
            &app,
            Version::V2,
            "room",
            config.clone(),
            Some(&user(ALICE)),
        )
        .await;
        config["postgres_changes"] = json!([all("notes")]);
        let mut socket = join_and_push(&app, version, "realtime:room", &config, BOB).await;
        let mut frames = until_reply(&mut socket, "5").await;
        if replies(&frames).len() < 4 {
            // Broadcasts and presence are asked about apart.
            frames.extend(until_reply(&mut socket, "3").await);
        }
        assert_eq!(frames[0].event, "phx_reply", "{frames:#?}");
        let mut replies = replies(&frames);
        assert_eq!(replies[0].0, "1");
        assert_eq!(replies[0].1["status"], "ok");
        replies.sort_by_key(|(reference, _)| *reference);
        assert_eq!(replies[1..], [("2", &ok), ("3", &ok), ("5", &ok)]);
        let place = |event: &str, reference: &str| {
            let mut frames = frames.iter();
            frames.position(|frame| frame.event == event && frame.reference == reference)
        };
        assert!(place("phx_reply", "2") < place("phx_reply", "5"));
        let heard = [hearer.heard_briefly().await, hearer.heard_briefly().await];
        assert_eq!(
            heard,
            [
                ("first".to_owned(), json!({"n": 1})),
                ("second".to_owned(), json!({"n": 3}))
            ]
        );
        hearer.attended_by(&[("bob", &[json!({"n": 2})])]).await;
    }
}

#[tokio::test]
async fn a_refused_join_leaves_them_on_a_topic_that_nobody_joined() {
    let app = start_with(POLICIES).await;
    for version in [Version::V1, Version::V2] {
        let config = json!({"private": true, "broadcast": {"ack": true}});
        let mut socket = join_and_push(&app, version, "realtime:other", &config, BOB).await;
        let frames = until_reply(&mut socket, "5").await;
        let replies = replies(&frames);
        let unmatched = json!({"status": "error", "response": {"reason": "unmatched topic"}});
        assert_eq!(replies[0].0, "1");
        assert_eq!(replies[0].1["status"], "error");
        let expected = ["2", "3", "4", "5"].map(|reference| (reference, &unmatched));
        assert_eq!(replies[1..], expected);
        assert_eq!(socket.settle().await, []);
    }
}
