//! Broadcasts over the socket: who hears them, in which form, in which order (protocol.md §5.1, §5.2, §9).

use serde_json::{Value, json};
use walcast::testing::{
    App, Channel, Encoding, PUBLISHABLE_KEY, Push, Received, Socket, Version, broadcast_frame,
    service,
};

use crate::world::{join, join_with, start};

/// A frame as a receiver gets it.
#[derive(Debug, PartialEq)]
enum Wire {
    Text(String),
    Binary(Vec<u8>),
}

/// A text broadcast of this object in each version.
fn text_v1(topic: &str, object: &str) -> Wire {
    Wire::Text(format!(
        r#"{{"topic":"{topic}","event":"broadcast","payload":{object},"ref":null}}"#
    ))
}

fn text_v2(topic: &str, object: &str) -> Wire {
    Wire::Text(format!(r#"[null,null,"{topic}","broadcast",{object}]"#))
}

async fn next_wire(channel: &mut Channel) -> Wire {
    let frame = channel.heard().await;
    frame.binary.map_or(Wire::Text(frame.raw), Wire::Binary)
}

/// Has a channel of each version in `room1` and compares what it gets, byte for byte.
struct Matrix {
    app: App,
    old: Channel,
    new: Channel,
    marks: u32,
}

impl Matrix {
    const TOPIC: &str = "realtime:room1";

    async fn new() -> Self {
        let app = start().await;
        let old = join(&app, Version::V1, "room1").await;
        let new = join(&app, Version::V2, "room1").await;
        Self {
            app,
            old,
            new,
            marks: 0,
        }
    }

    /// What both versions are sent, up to a mark that comes over HTTP, hence in order after what is heard already.
    async fn check(&mut self, what: &str, old: Option<Wire>, new: Wire) {
        assert_eq!(next_wire(&mut self.new).await, new, "{what}");
        self.marks += 1;
        let mark = format!(
            r#"{{"messages":[{{"topic":"room1","event":"mark","payload":{{"n":{}}}}}]}}"#,
            self.marks
        );
        let headers = [
            ("apikey", PUBLISHABLE_KEY),
            ("content-type", "application/json"),
        ];
        let reply = self
            .app
            .server
            .post("/realtime/v1/api/broadcast", &headers, mark.as_bytes())
            .await;
        assert_eq!((reply.status, reply.body.as_str()), (202, ""));
        let mark = format!(
            r#"{{"event":"mark","payload":{{"n":{}}},"type":"broadcast"}}"#,
            self.marks
        );
        for expected in old.into_iter().chain([text_v1(Self::TOPIC, &mark)]) {
            assert_eq!(next_wire(&mut self.old).await, expected, "{what}");
        }
        assert_eq!(
            next_wire(&mut self.new).await,
            text_v2(Self::TOPIC, &mark),
            "{what}"
        );
    }
}

#[tokio::test]
async fn every_way_of_sending_over_a_socket_has_its_form_in_each_version() {
    let mut matrix = Matrix::new().await;
    let topic = Matrix::TOPIC;
    let mut v1 = join(&matrix.app, Version::V1, "room1").await;
    let mut v2 = join(&matrix.app, Version::V2, "room1").await;

    // Relayed as it is, whatever the numbers look like and whatever else is in it.
    let object = r#"{"type":"broadcast","event":"cursor","payload":{"x":1.50,"y":[1e3,null,"\u00e9 ü"]},"more":{"z":12345678901234567890}}"#;
    v1.socket
        .send_text(&format!(r#"{{"topic":"{topic}","event":"broadcast","payload":{object},"ref":"9","join_ref":"1"}}"#))
        .await;
    matrix
        .check(
            "version 1",
            Some(text_v1(topic, object)),
            text_v2(topic, object),
        )
        .await;
    assert_eq!(next_wire(&mut v2).await, text_v2(topic, object));
    v2.socket
        .send_text(&format!(r#"["1","9","{topic}","broadcast",{object}]"#))
        .await;
    matrix
        .check(
            "version 2, text",
            Some(text_v1(topic, object)),
            text_v2(topic, object),
        )
        .await;
    // Also an object that no client of this kind would send.
    v2.socket
        .send_text(&format!(r#"["1","9","{topic}","broadcast",{{"a":{{}}}}]"#))
        .await;
    matrix
        .check(
            "any shape",
            Some(text_v1(topic, r#"{"a":{}}"#)),
            text_v2(topic, r#"{"a":{}}"#),
        )
        .await;

    // Kind 3 with JSON: the example of the protocol's description.
    v2.socket
        .send_binary(b"\x03\x01\x01\x0e\x04\x00\x0113realtime:room1ping{\"n\":1}".to_vec())
        .await;
    matrix
        .check(
            "kind 3, JSON",
            Some(text_v1(
                topic,
                r#"{"event":"ping","payload":{"n":1},"type":"broadcast"}"#,
            )),
            Wire::Binary(b"\x04\x0e\x04\x00\x01realtime:room1ping{\"n\":1}".to_vec()),
        )
        .await;
    let payload = r#"{ "n" : 1.0, "ü": [] }"#;
    v2.push(&Push {
        event: "dé\"part",
        payload: payload.as_bytes(),
        metadata: r#"{"unknown":1}"#,
        ..Push::default()
    })
    .await;
    let object = format!(r#"{{"event":"dé\"part","payload":{payload},"type":"broadcast"}}"#);
    matrix
        .check(
            "kind 3, JSON, spaces and metadata",
            Some(text_v1(topic, &object)),
            Wire::Binary(broadcast_frame(
                topic,
                "dé\"part",
                "",
                Encoding::Json,
                payload.as_bytes(),
            )),
        )
        .await;

    // Kind 3 with bytes: version 1 gets nothing.
    for data in [&b"\xde\xad\x00\xff"[..], b"", b"{}"] {
        v2.push(&Push {
            event: "db",
            payload: data,
            encoding: Encoding::Binary,
            ..Push::default()
        })
        .await;
        matrix
            .check(
                "kind 3, bytes",
                None,
                Wire::Binary(broadcast_frame(topic, "db", "", Encoding::Binary, data)),
            )
            .await;
    }
}

#[tokio::test]
async fn every_way_of_sending_over_http_has_its_form_in_each_version() {
    let mut matrix = Matrix::new().await;
    let topic = Matrix::TOPIC;
    let json = [
        ("apikey", PUBLISHABLE_KEY),
        ("content-type", "application/json"),
    ];
    let bytes = [
        ("apikey", PUBLISHABLE_KEY),
        ("content-type", "application/octet-stream"),
    ];

    let batch = r#"{"messages":[{"topic":"room1","event":"cursor","payload":{"x":1}}]}"#;
    let reply = matrix
        .app
        .server
        .post("/api/broadcast", &json, batch.as_bytes())
        .await;
    assert_eq!(reply.status, 202, "{}", reply.body);
    let object = r#"{"event":"cursor","payload":{"x":1},"type":"broadcast"}"#;
    matrix
        .check(
            "batch",
            Some(text_v1(topic, object)),
            text_v2(topic, object),
        )
        .await;

    let batch = r#"{"messages":[{"id":"m-1","topic":"room1","event":"cursor","payload":{"x":2},"private":false}]}"#;
    let reply = matrix
        .app
        .server
        .post("/api/broadcast", &json, batch.as_bytes())
        .await;
    assert_eq!(reply.status, 202, "{}", reply.body);
    let object = r#"{"event":"cursor","payload":{"x":2},"type":"broadcast","meta":{"id":"m-1"}}"#;
    matrix
        .check(
            "batch with id",
            Some(text_v1(topic, object)),
            text_v2(topic, object),
        )
        .await;

    let path = "/realtime/v1/api/broadcast/room1/events/ping?apikey=ignored&vsn=2.0.0";
    let reply = matrix.app.server.post(path, &json, br#"{"n":1}"#).await;
    assert_eq!(reply.status, 202, "{}", reply.body);
    matrix
        .check(
            "single, JSON",
            Some(text_v1(
                topic,
                r#"{"event":"ping","payload":{"n":1},"type":"broadcast"}"#,
            )),
            Wire::Binary(broadcast_frame(
                topic,
                "ping",
                "",
                Encoding::Json,
                br#"{"n":1}"#,
            )),
        )
        .await;
    let reply = matrix.app.server.post(path, &json, b"[1,2]").await;
    assert_eq!(reply.status, 202, "{}", reply.body);
    matrix
        .check(
            "single, no object",
            Some(text_v1(
                topic,
                r#"{"event":"ping","payload":{"_json":[1,2]},"type":"broadcast"}"#,
            )),
            Wire::Binary(broadcast_frame(
                topic,
                "ping",
                "",
                Encoding::Json,
                br#"{"_json":[1,2]}"#,
            )),
        )
        .await;
    for data in [&b"\xde\xad\x00\xff"[..], b""] {
        let reply = matrix.app.server.post(path, &bytes, data).await;
        assert_eq!(reply.status, 202, "{}", reply.body);
        matrix
            .check(
                "single, bytes",
                None,
                Wire::Binary(broadcast_frame(topic, "ping", "", Encoding::Binary, data)),
            )
            .await;
    }
}

#[tokio::test]
async fn a_row_of_messages_has_its_form_in_each_version() {
    let mut matrix = Matrix::new().await;
    let topic = Matrix::TOPIC;
    matrix
        .app
        .sql(r#"insert into realtime.messages (id, topic, extension, event, payload, private)
                values ('c2f10000-0000-4000-8000-000000000001', 'room1', 'broadcast', 'INSERT', '{"n": 1}', false)"#)
        .await;
    let meta = r#"{"id":"c2f10000-0000-4000-8000-000000000001"}"#;
    // How the database prints its JSON is its own affair.
    let frame = matrix.new.heard().await;
    let binary = frame.binary.expect("a frame of kind 4");
    let head = broadcast_frame(topic, "INSERT", meta, Encoding::Json, b"");
    assert_eq!(binary[..head.len()], head);
    assert_eq!(frame.payload["payload"], json!({"n": 1}));
    let frame = matrix.old.heard().await;
    assert_eq!(frame.payload["payload"], json!({"n": 1}));
    let keys: Vec<&String> = frame.payload.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["event", "payload", "type", "meta"], "{}", frame.raw);
    assert_eq!(frame.payload["meta"].to_string(), meta);

    matrix
        .app
        .sql(r"insert into realtime.messages (id, topic, extension, event, binary_payload, private)
               values ('c2f10000-0000-4000-8000-000000000001', 'room1', 'broadcast', 'db', '\xdead', false)")
        .await;
    let expected = broadcast_frame(topic, "db", meta, Encoding::Binary, b"\xde\xad");
    matrix.check("bytes", None, Wire::Binary(expected)).await;
}

#[tokio::test]
async fn a_sender_hears_itself_only_if_it_asked_to() {
    let app = start().await;
    for version in [Version::V1, Version::V2] {
        let itself = json!({"broadcast": {"self": true}});
        let mut loud = join_with(&app, version, "room", itself, None).await;
        let mut quiet = join(&app, version, "room").await;
        loud.say("first", &json!({})).await;
        assert_eq!(loud.heard_briefly().await.0, "first");
        assert_eq!(quiet.heard_briefly().await.0, "first");
        quiet.say("second", &json!({})).await;
        assert_eq!(loud.heard_briefly().await.0, "second");
        loud.say("third", &json!({})).await;
        assert_eq!(loud.heard_briefly().await.0, "third");
        // Not its own second.
        assert_eq!(quiet.heard_briefly().await.0, "third");
    }
}

#[tokio::test]
async fn another_socket_of_the_same_user_hears_it() {
    let app = start().await;
    let token = service();
    let mut one = join_with(&app, Version::V2, "room", json!({}), Some(&token)).await;
    let mut other = join_with(&app, Version::V2, "room", json!({}), Some(&token)).await;
    one.say("hello", &json!({"n": 1})).await;
    assert_eq!(
        other.heard_briefly().await,
        ("hello".to_owned(), json!({"n": 1}))
    );
}

#[tokio::test]
async fn whoever_asks_for_acknowledgements_gets_them() {
    let app = start().await;
    let acked = json!({"broadcast": {"ack": true}});
    for version in [Version::V1, Version::V2] {
        // Nobody else is there.
        let mut channel = join_with(&app, version, "alone", acked.clone(), None).await;
        let reference = channel.say("ping", &json!({})).await;
        let reply = channel.socket.reply(&reference).await;
        let join_ref = &channel.join_ref;
        let expected = match version {
            Version::V1 => format!(
                r#"{{"topic":"realtime:alone","event":"phx_reply","payload":{{"status":"ok","response":{{}}}},"ref":"{reference}"}}"#
            ),
            Version::V2 => format!(
                r#"["{join_ref}","{reference}","realtime:alone","phx_reply",{{"status":"ok","response":{{}}}}]"#
            ),
        };
        assert_eq!(reply.raw, expected);
        let reference = channel.say_text("ping", &json!({})).await;
        assert_eq!(
            channel.socket.reply(&reference).await.payload,
            json!({"status": "ok", "response": {}})
        );

        let mut silent = join(&app, version, "alone").await;
        silent.say("ping", &json!({})).await;
        silent.say_text("ping", &json!({})).await;
        let told = silent.socket.settle().await;
        assert!(
            told.iter().all(|frame| frame.event != "phx_reply"),
            "{told:#?}"
        );
    }
}

#[tokio::test]
async fn what_is_too_large_is_refused_and_the_channel_lives_on() {
    let app = start().await;
    let mut hearer = join(&app, Version::V2, "room").await;
    let large = json!({"text": "x".repeat(3_100_000)});
    let refused = json!({"status": "error", "response": {"error": "payload_size_exceeded"}});
    for version in [Version::V1, Version::V2] {
        let acked = json!({"broadcast": {"ack": true}});
        let mut channel = join_with(&app, version, "room", acked, None).await;
        let reference = channel.say("large", &large).await;
        assert_eq!(channel.socket.reply(&reference).await.payload, refused);
        let reference = channel.say_text("large", &large).await;
        assert_eq!(channel.socket.reply(&reference).await.payload, refused);
        let mut silent = join(&app, version, "room").await;
        silent.say("large", &large).await;
        silent.say("small", &json!({})).await;
        assert_eq!(hearer.heard_briefly().await.0, "small");
    }
    // Large, but legal.
    let large = json!({"text": "x".repeat(2_900_000)});
    let mut channel = join(&app, Version::V2, "room").await;
    channel.say("large", &large).await;
    assert_eq!(hearer.heard_briefly().await, ("large".to_owned(), large));
}

#[tokio::test]
async fn what_one_sender_says_keeps_its_order() {
    const MESSAGES: u64 = 1000;
    let app = start().await;
    let mut receivers = Vec::new();
    for version in [Version::V1, Version::V2, Version::V2] {
        receivers.push(join(&app, version, "room").await);
    }
    let mut senders = Vec::new();
    for (index, version) in [Version::V1, Version::V2].into_iter().enumerate() {
        let mut sender = join(&app, version, "room").await;
        senders.push(tokio::spawn(async move {
            for n in 1..=MESSAGES {
                let payload = json!({"sender": index, "n": n});
                // Both forms take the same way.
                if n % 3 == 0 {
                    sender.say_text("count", &payload).await;
                } else {
                    sender.say("count", &payload).await;
                }
            }
            // Alive until all is sent.
            sender
        }));
    }
    for receiver in &mut receivers {
        let mut next = [1, 1];
        while next != [MESSAGES + 1; 2] {
            let (_event, payload) = receiver.heard_briefly().await;
            let sender = usize::try_from(payload["sender"].as_u64().unwrap()).unwrap();
            assert_eq!(payload["n"], next[sender], "of {sender}");
            next[sender] += 1;
        }
    }
    for sender in senders {
        sender.await.unwrap();
    }
}

#[tokio::test]
async fn public_and_private_rooms_of_one_name_are_separate() {
    let app = start().await;
    let token = service();
    let private = json!({"private": true});
    for version in [Version::V1, Version::V2] {
        let mut open = join_with(&app, version, "room", json!({}), Some(&token)).await;
        let mut closed = join_with(&app, version, "room", private.clone(), Some(&token)).await;
        let mut open_sender = join_with(&app, version, "room", json!({}), Some(&token)).await;
        let mut closed_sender =
            join_with(&app, version, "room", private.clone(), Some(&token)).await;
        let post = async |private: bool, event: &str| {
            let message =
                json!({"topic": "room", "event": event, "payload": {}, "private": private});
            let body = json!({"messages": [message]}).to_string();
            let bearer = format!("Bearer {token}");
            let headers = [
                ("authorization", bearer.as_str()),
                ("content-type", "application/json"),
            ];
            let reply = app
                .server
                .post("/api/broadcast", &headers, body.as_bytes())
                .await;
            assert_eq!(reply.status, 202, "{}", reply.body);
        };
        open_sender.say("open 1", &json!({})).await;
        assert_eq!(open.heard_briefly().await.0, "open 1");
        closed_sender.say("closed 1", &json!({})).await;
        assert_eq!(closed.heard_briefly().await.0, "closed 1");
        post(false, "open 2").await;
        post(true, "closed 2").await;
        app.sql("select realtime.send('{}', 'open 3', 'room', false), realtime.send('{}', 'closed 3', 'room')")
            .await;
        for (channel, name) in [(&mut open, "open"), (&mut closed, "closed")] {
            assert_eq!(channel.heard_briefly().await.0, format!("{name} 2"));
            assert_eq!(channel.heard_briefly().await.0, format!("{name} 3"));
        }
        let named = json!({"presence": {"key": "visitor"}});
        let mut visitor = join_with(&app, version, "room", named, Some(&token)).await;
        let tracked = visitor.track(&json!({"here": true})).await;
        assert_eq!(tracked["status"], "ok");
        open.attended_by(&[("visitor", &[json!({"here": true})])])
            .await;
        assert_eq!(closed.next("presence_state").await.payload, json!({}));
        let told = closed.socket.settle().await;
        assert!(told.is_empty(), "{told:#?}");
    }
}

#[tokio::test]
async fn names_of_topics_and_events_may_be_anything() {
    let app = start().await;
    let long = "r".repeat(200);
    for topic in ["a:b:c", "Räume/ß 日本", "%2F&?#\"\\", &long] {
        let mut old = join(&app, Version::V1, topic).await;
        let mut new = join(&app, Version::V2, topic).await;
        for event in ["e", "Ereignis ü\"", &long] {
            new.say(event, &json!({"n": 1})).await;
            assert_eq!(
                old.heard_briefly().await,
                (event.to_owned(), json!({"n": 1}))
            );
            old.say(event, &json!({"n": 2})).await;
            assert_eq!(
                new.heard_briefly().await,
                (event.to_owned(), json!({"n": 2}))
            );
        }
    }
    // Names are not folded.
    let mut upper = join(&app, Version::V2, "Room").await;
    let mut lower = join(&app, Version::V2, "room").await;
    let mut other = join(&app, Version::V2, "Room").await;
    lower.say("lower", &json!({})).await;
    lower.socket.settle().await;
    other.say("upper", &json!({})).await;
    assert_eq!(upper.heard_briefly().await.0, "upper");
}

#[tokio::test]
async fn what_cannot_be_framed_for_a_version_skips_it_and_hurts_nobody() {
    let app = start().await;
    let mut old = join(&app, Version::V1, "room").await;
    let mut new = join(&app, Version::V2, "room").await;
    let long = "e".repeat(300);
    let headers = [
        ("apikey", PUBLISHABLE_KEY),
        ("content-type", "application/json"),
    ];
    let path = format!("/api/broadcast/room/events/{long}");
    let reply = app.server.post(&path, &headers, b"{}").await;
    assert_eq!(reply.status, 202, "{}", reply.body);
    assert_eq!(old.heard_briefly().await.0, long);
    // As text it has no such limit.
    old.say(&long, &json!({"n": 1})).await;
    assert_eq!(new.heard_briefly().await, (long, json!({"n": 1})));
}

#[tokio::test]
async fn broadcasts_with_a_stale_or_missing_join_reference_are_served() {
    let app = start().await;
    let mut hearer = join(&app, Version::V2, "room").await;
    let acked = json!({"broadcast": {"ack": true}});
    let mut sender = join_with(&app, Version::V2, "room", acked, None).await;
    for (number, join_ref) in ["null", r#""stale""#].into_iter().enumerate() {
        let text = format!(
            r#"[{join_ref},"r{number}","realtime:room","broadcast",{{"type":"broadcast","event":"text","payload":{{}}}}]"#
        );
        sender.socket.send_text(&text).await;
        let reply = sender.socket.reply(&format!("r{number}")).await;
        assert_eq!(reply.join_ref, sender.join_ref.as_str(), "{}", reply.raw);
        assert_eq!(hearer.heard_briefly().await.0, "text");
    }
    for (number, join_ref) in ["", "stale"].into_iter().enumerate() {
        let reference = format!("b{number}");
        let push = Push {
            join_ref,
            reference: &reference,
            topic: "realtime:room",
            event: "binary",
            payload: b"{}",
            ..Push::default()
        };
        sender.socket.send_binary(push.encode()).await;
        let reply = sender.socket.reply(&reference).await;
        assert_eq!(reply.join_ref, sender.join_ref.as_str(), "{}", reply.raw);
        assert_eq!(hearer.heard_briefly().await.0, "binary");
    }
}

#[tokio::test]
async fn broken_binary_frames_are_dropped_and_the_socket_lives_on() {
    let app = start().await;
    let mut hearer = join(&app, Version::V2, "room").await;
    let mut sender = join(&app, Version::V2, "room").await;
    let whole = Push {
        join_ref: &sender.join_ref.clone(),
        reference: "9",
        topic: "realtime:room",
        event: "whole",
        payload: b"{}",
        ..Push::default()
    };
    let whole = whole.encode();
    for length in 0..whole.len() - 2 {
        sender.socket.send_binary(whole[..length].to_vec()).await;
    }
    // Lengths that run past the end, bytes that are no UTF-8, JSON that is none, kinds that are not for servers.
    for (place, byte) in [
        (1, 255),
        (3, 255),
        (4, 255),
        (5, 255),
        (9, 0xff),
        (0, 1),
        (0, 2),
        (0, 4),
        (0, 9),
        (0, 255),
    ] {
        let mut broken = whole.clone();
        broken[place] = byte;
        sender.socket.send_binary(broken).await;
    }
    let broken = Push {
        event: "broken",
        payload: b"{\"n\":",
        ..Push::default()
    };
    sender.push(&broken).await;
    sender.socket.send_binary(whole).await;
    assert_eq!(hearer.heard_briefly().await.0, "whole");
    let unknown = Push {
        reference: "10",
        topic: "realtime:elsewhere",
        event: "e",
        payload: b"{}",
        ..Push::default()
    };
    sender.socket.send_binary(unknown.encode()).await;
    let reply = sender.socket.reply("10").await.payload;
    assert_eq!(
        reply,
        json!({"status": "error", "response": {"reason": "unmatched topic"}})
    );
}

#[tokio::test]
async fn who_left_hears_nothing_and_who_joined_twice_hears_it_once() {
    let app = start().await;
    let mut sender = join(&app, Version::V2, "room").await;
    let gone = join(&app, Version::V2, "room").await;
    let mut gone = gone.leave().await;
    let mut twice = join(&app, Version::V2, "room").await;
    // Joins again without leaving.
    twice
        .socket
        .send_text(r#"["90","90","realtime:room","phx_join",{"config":{}}]"#)
        .await;
    twice.socket.reply("90").await;
    let closed = twice.next("phx_close").await;
    assert_eq!(closed.raw, r#"["1","1","realtime:room","phx_close",{}]"#);
    sender.say("first", &json!({})).await;
    sender.say("second", &json!({})).await;
    assert_eq!(twice.heard_briefly().await.0, "first");
    assert_eq!(twice.heard_briefly().await.0, "second");
    let told = gone.settle().await;
    assert!(
        told.iter().all(|frame| frame.event != "broadcast"),
        "{told:#?}"
    );
    // A late leave of the first membership does not end the second.
    twice
        .socket
        .send_text(r#"["1","91","realtime:room","phx_leave",{}]"#)
        .await;
    twice.socket.settle().await;
    sender.say("third", &json!({})).await;
    assert_eq!(twice.heard_briefly().await.0, "third");
}

#[tokio::test]
async fn who_reads_too_slowly_is_closed_and_never_skipped() {
    let app = start().await;
    let mut slow = join(&app, Version::V2, "room").await;
    let mut quick = join(&app, Version::V2, "room").await;
    let mut sender = join(&app, Version::V2, "room").await;
    let filler = "x".repeat(1_000_000);
    for n in 0..60 {
        sender
            .say("large", &json!({"n": n, "filler": filler}))
            .await;
        assert_eq!(quick.heard_briefly().await.1["n"], n);
    }
    let mut next = 0;
    let (code, reason) = loop {
        match slow.socket.receive().await {
            Received::Frame(frame) if frame.event == "broadcast" => {
                assert_eq!(frame.payload["payload"]["n"], next);
                next += 1;
            }
            Received::Frame(_) => {}
            Received::Closed(code, reason) => break (code, reason),
        }
    };
    assert!((8..60).contains(&next), "{next} messages of 1 MB");
    if code.is_some() {
        assert_eq!((code, reason.as_str()), (Some(1013), "slow consumer"));
    }
}

#[tokio::test]
async fn several_channels_of_a_socket_hear_their_own() {
    let app = start().await;
    let mut socket = Socket::connect(app.server.port(), PUBLISHABLE_KEY, Version::V2).await;
    for room in ["one", "two"] {
        let topic = format!("realtime:{room}");
        let reply = socket
            .ask(Some(room), &topic, "phx_join", &json!({"config": {}}))
            .await;
        assert_eq!(reply["status"], "ok");
    }
    for room in ["two", "one"] {
        let mut sender = join(&app, Version::V1, room).await;
        sender.say("hello", &json!({"to": room})).await;
        let heard = socket.find(|frame| frame.event == "broadcast").await;
        assert_eq!(heard.topic, format!("realtime:{room}"));
        assert_eq!(heard.payload["payload"]["to"], room);
        assert_eq!(heard.join_ref, Value::Null);
    }
}
