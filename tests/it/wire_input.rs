//! Whatever comes in over HTTP and sockets has its documented answer, and none of it hurts the server.

use serde_json::{Value, json};
use walcast::testing::{
    App, Frame, PUBLISHABLE_KEY, Received, SECRET_KEY, Socket, Version, anon, expiring, mint, user,
};

use crate::world::{ALICE, all, brief, start, start_with, subscribe};

async fn socket(app: &App, version: Version) -> Socket {
    Socket::connect(app.server.port(), PUBLISHABLE_KEY, version).await
}

async fn join(socket: &mut Socket, topic: &str, config: Value, token: &str) -> Value {
    let payload = json!({"config": config, "access_token": token});
    socket.ask(Some("j"), topic, "phx_join", &payload).await
}

#[tokio::test]
async fn frames_have_the_shape_of_their_version() {
    let app = start().await;
    let raw = |frame: Frame| frame.raw;
    let mut new = socket(&app, Version::V2).await;
    new.send_text(r#"[null,"5","phoenix","heartbeat",{}]"#)
        .await;
    assert_eq!(
        raw(new.frame().await),
        r#"[null,"5","phoenix","phx_reply",{"status":"ok","response":{}}]"#
    );
    new.send_text(r#"["1","1","realtime:room1","phx_join",{"config":{}}]"#)
        .await;
    let reply = r#"["1","1","realtime:room1","phx_reply",{"status":"ok","response":{"postgres_changes":[]}}]"#;
    assert_eq!(
        raw(new.find(|frame| frame.event == "phx_reply").await),
        reply
    );
    new.send_text(r#"["1","9","realtime:room1","phx_leave",{}]"#)
        .await;
    let reply = new.find(|frame| frame.event == "phx_reply").await;
    assert_eq!(
        raw(reply),
        r#"["1","9","realtime:room1","phx_reply",{"status":"ok","response":{}}]"#
    );
    assert_eq!(
        raw(new.find(|frame| frame.event == "phx_close").await),
        r#"["1","1","realtime:room1","phx_close",{}]"#
    );

    let mut old = socket(&app, Version::V1).await;
    old.send_text(r#"{"topic":"phoenix","event":"heartbeat","payload":{},"ref":"5"}"#)
        .await;
    let value: Value = serde_json::from_str(&raw(old.frame().await)).unwrap();
    assert_eq!(
        value,
        json!({"topic": "phoenix", "event": "phx_reply", "payload": {"status": "ok", "response": {}}, "ref": "5"})
    );
    old.send_text(
        r#"{"topic":"realtime:room1","event":"phx_join","payload":{},"ref":"1","join_ref":"1"}"#,
    )
    .await;
    let reply = old.reply("1").await;
    assert_eq!(
        reply.payload,
        json!({"status": "ok", "response": {"postgres_changes": []}})
    );
    old.send_text(
        r#"{"topic":"realtime:room1","event":"phx_leave","payload":{},"ref":"2","join_ref":"1"}"#,
    )
    .await;
    assert_eq!(old.reply("2").await.payload["status"], "ok");
    assert_eq!(
        old.find(|frame| frame.event == "phx_close").await.reference,
        "1"
    );
}

#[tokio::test]
async fn the_join_reply_echoes_each_binding_byte_for_byte_and_precedes_everything() {
    let app = start().await;
    for version in [Version::V1, Version::V2] {
        let mut socket = socket(&app, version).await;
        let bindings = r#"[{"event":"*","schema":"public","table":"notes","extra":{"b":1.50,"a":[null]}},null,{"event":"INSERT","schema":"public"}]"#;
        let payload = format!(
            r#"{{"config":{{"presence":{{"enabled":false}},"postgres_changes":{bindings}}},"access_token":"{}"}}"#,
            anon()
        );
        let text = match version {
            Version::V1 => {
                format!(
                    r#"{{"topic":"realtime:r","event":"phx_join","payload":{payload},"ref":"7","join_ref":"7"}}"#
                )
            }
            Version::V2 => format!(r#"["7","7","realtime:r","phx_join",{payload}]"#),
        };
        socket.send_text(&text).await;
        let first = socket.frame().await;
        assert_eq!(
            (first.event.as_str(), first.reference.as_str()),
            ("phx_reply", Some("7"))
        );
        let echoed = first.payload["response"]["postgres_changes"]
            .as_array()
            .unwrap();
        assert_eq!(echoed.len(), 2, "null elements are dropped");
        let mut ids = Vec::new();
        for (element, keys) in echoed.iter().zip([5, 3]) {
            let id = element["id"].as_u64().unwrap();
            assert!(id > 0);
            ids.push(id);
            assert_eq!(
                element.as_object().unwrap().len(),
                keys,
                "absent keys stay absent: {element}"
            );
        }
        assert_ne!(ids[0], ids[1]);
        assert!(
            first.raw.contains(r#""extra":{"b":1.50,"a":[null]}"#),
            "verbatim: {}",
            first.raw
        );
        let second = socket.frame().await;
        assert_eq!(
            second.payload,
            json!({"extension": "postgres_changes", "status": "ok", "message": "Subscribed to PostgreSQL", "channel": "r"})
        );
        app.sql("insert into notes values (1, 'one', 1); delete from notes")
            .await;
        app.sql("insert into notes values (2, 'two', 2)").await;
        let change = socket.frame().await;
        assert_eq!(change.event, "postgres_changes");
        assert_eq!(change.reference, Value::Null);
        assert_eq!(change.join_ref, Value::Null);
        let mut got: Vec<u64> = change.payload["ids"]
            .as_array()
            .unwrap()
            .iter()
            .map(|id| id.as_u64().unwrap())
            .collect();
        got.sort_unstable();
        ids.sort_unstable();
        assert_eq!(got, ids);
        app.sql("delete from notes").await;
    }
}

#[tokio::test]
async fn malformed_frames_are_dropped_and_the_socket_stays_open() {
    let app = start().await;
    for version in [Version::V1, Version::V2] {
        let mut socket = socket(&app, version).await;
        for text in [
            "",
            "nonsense",
            "null",
            "17",
            "[]",
            "{}",
            r#"["1","1","realtime:x","phx_join"]"#,
            r#"{"topic":"realtime:x","event":"phx_join","payload":{}}"#,
            r#"[1,2,3,4,5]"#,
            r#"["1","1",null,"phx_join",{}]"#,
            r#"{"topic":7,"event":"phx_join","payload":{},"ref":"1"}"#,
            "[\"1\",\"1\",\"realtime:x\",\"phx_join\",{}",
            r#"["1","1","realtime:x","nosuchevent",{}]{"#,
        ] {
            socket.send_text(text).await;
        }
        for bytes in [
            vec![],
            vec![3],
            vec![3, 255, 255, 255, 255, 255, 1, 0],
            vec![9; 100],
            vec![4, 1, 1, 0, 0, 65],
        ] {
            socket.send_binary(bytes).await;
        }
        socket.send_text(&"[".repeat(100_000)).await;
        let before = socket.settle().await;
        assert_eq!(before, [], "none of these has an answer");
    }
}

#[tokio::test]
async fn oversized_frames_close_the_socket() {
    let app = start().await;
    let mut witness = subscribe(&app, ALICE, "notes").await;
    let mut big = socket(&app, Version::V2).await;
    let text = format!(
        r#"[null,"1","phoenix","heartbeat",{{"x":"{}"}}]"#,
        "x".repeat(5_000_001)
    );
    big.send_rejected(text).await;
    let code = big.closed().await;
    assert!(
        code == Some(1009) || code.is_none(),
        "{code:?}: the close frame may be lost behind unread input"
    );
    let mut legal = socket(&app, Version::V2).await;
    let text = format!(
        r#"[null,"1","phoenix","heartbeat",{{"x":"{}"}}]"#,
        "x".repeat(4_900_000)
    );
    legal.send_text(&text).await;
    assert_eq!(legal.reply("1").await.payload["status"], "ok");
    app.sql("insert into notes values (1, 'one', 1)").await;
    assert_eq!(brief(&[witness.change().await]), ["INSERT 1"]);
}

#[tokio::test]
async fn unknown_events_and_unmatched_topics_have_their_answers() {
    let app = start().await;
    let mut socket = socket(&app, Version::V2).await;
    let unmatched = json!({"status": "error", "response": {"reason": "unmatched topic"}});
    assert_eq!(
        socket
            .ask(Some("1"), "realtime:absent", "anything", &json!({}))
            .await,
        unmatched
    );
    assert_eq!(
        socket
            .ask(Some("1"), "other:absent", "phx_join", &json!({}))
            .await,
        unmatched
    );
    let left = json!({"status": "ok", "response": {}});
    assert_eq!(
        socket
            .ask(Some("1"), "realtime:absent", "phx_leave", &json!({}))
            .await,
        left
    );
    let nameless = socket
        .ask(Some("1"), "realtime:", "phx_join", &json!({"config": {}}))
        .await;
    assert_eq!(
        nameless["response"]["reason"],
        "TopicNameRequired: You must provide a topic name"
    );
    assert_eq!(
        join(&mut socket, "realtime:a:b:c", json!({}), &anon()).await["status"],
        "ok"
    );
    socket
        .send(
            Some("j"),
            "u1",
            "realtime:a:b:c",
            "nosuchevent",
            &json!({"x": 1}),
        )
        .await;
    socket
        .send(
            Some("j"),
            "u2",
            "realtime:a:b:c",
            "postgres_changes",
            &json!({}),
        )
        .await;
    socket
        .send(
            Some("j"),
            "u3",
            "realtime:a:b:c",
            "access_token",
            &json!({"access_token": 7}),
        )
        .await;
    let answers: Vec<Frame> = socket
        .settle()
        .await
        .into_iter()
        .filter(|frame| frame.event != "presence_state")
        .collect();
    assert_eq!(answers, [], "no reply, and the channel stays");
    assert_eq!(
        socket
            .ask(Some("j"), "realtime:a:b:c", "phx_leave", &json!({}))
            .await["status"],
        "ok"
    );
}

#[tokio::test]
async fn wrongly_typed_fields_fall_back_to_their_defaults() {
    let app = start().await;
    let mut socket = socket(&app, Version::V2).await;
    for (number, config) in [
        json!(null),
        json!({"postgres_changes": null, "presence": null, "broadcast": null}),
        json!({"postgres_changes": [null], "presence": {"key": 7, "enabled": "TRUE"}, "private": "False"}),
        json!({"broadcast": {"ack": "nonsense", "self": 3}, "presence": "x"}),
        json!({"postgres_changes": "x"}),
        json!({"postgres_changes_options": {"wait": "yes", "timeout": -1}}),
    ]
    .into_iter()
    .enumerate()
    {
        let topic = format!("realtime:{number}");
        let reply = join(&mut socket, &topic, config.clone(), &anon()).await;
        assert_eq!(reply["status"], "ok", "{config}: {reply}");
        assert_eq!(reply["response"]["postgres_changes"], json!([]), "{config}");
    }
    for config in [json!("x"), json!([1]), json!(7)] {
        let reply = join(&mut socket, "realtime:bad", config.clone(), &anon()).await;
        assert_eq!(reply["status"], "error", "{config}");
        assert!(
            reply["response"]["reason"]
                .as_str()
                .unwrap()
                .starts_with("UnknownErrorOnChannel: "),
            "{reply}"
        );
    }
}

#[tokio::test]
async fn joins_with_bad_tokens_say_why() {
    let app = start().await;
    let mut socket = socket(&app, Version::V2).await;
    let other_key = {
        let token = user(ALICE);
        let (signed, _signature) = token.rsplit_once('.').unwrap();
        format!("{signed}.{}", "A".repeat(43))
    };
    for (token, expected) in [
        (
            "nonsense".to_owned(),
            "MalformedJWT: The token provided is not a valid JWT",
        ),
        (
            other_key,
            "JwtSignatureError: Failed to validate JWT signature",
        ),
        (
            mint(&json!({"sub": ALICE, "exp": 4_000_000_000_u64})),
            "InvalidJWTToken: Fields `role` and `exp` are required in JWT",
        ),
        (
            mint(&json!({"role": "authenticated"})),
            "InvalidJWTToken: Fields `role` and `exp` are required in JWT",
        ),
    ] {
        let reply = join(&mut socket, "realtime:room", json!({}), &token).await;
        assert_eq!(
            reply,
            json!({"status": "error", "response": {"reason": expected}})
        );
    }
    let reply = join(
        &mut socket,
        "realtime:room",
        json!({}),
        &expiring(ALICE, -30),
    )
    .await;
    let reason = reply["response"]["reason"].as_str().unwrap();
    assert!(
        reason.starts_with("InvalidJWTToken: Token has expired 3")
            && reason.ends_with(" seconds ago"),
        "{reason}"
    );
    for ignored in ["sb_publishable_other", "sb_anything"] {
        assert_eq!(
            join(&mut socket, "realtime:room", json!({}), ignored).await["status"],
            "ok",
            "{ignored}"
        );
    }
}

#[tokio::test]
async fn roles_that_do_not_exist_fail_the_subscription() {
    let app = start().await;
    let mut socket = socket(&app, Version::V2).await;
    let token = mint(&json!({"role": "nosuchrole", "exp": 4_000_000_000_u64}));
    let config = json!({"postgres_changes": [all("notes")]});
    let reply = join(&mut socket, "realtime:room", config, &token).await;
    if reply["status"] == "ok" {
        let told = socket.find(|frame| frame.event == "system").await;
        assert_eq!(told.payload["status"], "error", "{}", told.raw);
        assert_eq!(told.payload["extension"], "postgres_changes");
    }
    let token = mint(&json!({"role": "postgres", "exp": 4_000_000_000_u64}));
    // A token may name any role that the login role may become; what it sees is that role's business. It must not hurt.
    join(
        &mut socket,
        "realtime:other",
        json!({"postgres_changes": [all("notes")]}),
        &token,
    )
    .await;
    let mut alice = subscribe(&app, ALICE, "notes").await;
    app.sql("insert into notes values (1, 'one', 1)").await;
    assert_eq!(brief(&[alice.change().await]), ["INSERT 1"]);
}

#[tokio::test]
async fn upgrades_are_refused_with_a_reason() {
    let app = start().await;
    let port = app.server.port();
    let expired = expiring(ALICE, -5);
    for (path, status, body) in [
        (
            "/realtime/v1/websocket?vsn=2.0.0".to_owned(),
            401,
            r#"{"error":"API key is missing"}"#,
        ),
        (
            format!("/realtime/v1/websocket?apikey={expired}&vsn=2.0.0"),
            401,
            r#"{"error":"Token has expired"}"#,
        ),
        (
            "/realtime/v1/websocket?apikey=x&vsn=2.0.0".to_owned(),
            401,
            r#"{"error":"The token provided is not a valid JWT"}"#,
        ),
        (
            format!("/realtime/v1/websocket?apikey={PUBLISHABLE_KEY}&vsn=3.0.0"),
            403,
            "",
        ),
        (
            format!("/realtime/v1/websocket?apikey={PUBLISHABLE_KEY}&vsn=x"),
            403,
            "",
        ),
    ] {
        let refusal = Socket::upgrade(port, &path, &[]).await.err();
        assert_eq!(refusal, Some((status, body.to_owned())), "{path}");
    }
    for path in [
        format!("/socket/websocket?apikey={PUBLISHABLE_KEY}"),
        format!("/realtime/v1/websocket/?apikey={PUBLISHABLE_KEY}&vsn=2.0.0"),
        format!(
            "/realtime/v1/websocket?apikey={}&vsn=2.0.0&eventsPerSecond=10&log_level=info&token=x",
            user(ALICE)
        ),
        format!("/realtime/v1/websocket?apikey={SECRET_KEY}&vsn=1.0.0"),
    ] {
        let mut socket = Socket::upgrade(port, &path, &[]).await.unwrap();
        assert_eq!(socket.settle().await, []);
    }
    let mut socket = Socket::upgrade(
        port,
        "/realtime/v1/websocket?apikey=x",
        &[("x-api-key", PUBLISHABLE_KEY)],
    )
    .await
    .unwrap();
    assert_eq!(socket.settle().await, []);
    // Policies read them: none is left out.
    let path = format!("/realtime/v1/websocket?apikey={PUBLISHABLE_KEY}");
    let refusal = Socket::upgrade(port, &path, &[("x-long", &"v".repeat(17_000))]).await;
    let body = r#"{"error":"The headers x-* have more than 16384 bytes"}"#;
    assert_eq!(refusal.err(), Some((431, body.to_owned())));
}

#[tokio::test]
async fn rejoining_a_live_topic_replaces_the_membership() {
    let app = start().await;
    let mut socket = socket(&app, Version::V2).await;
    let payload = json!({"config": {"postgres_changes": [all("notes")]}, "access_token": anon()});
    socket
        .send(Some("1"), "1", "realtime:room", "phx_join", &payload)
        .await;
    assert_eq!(socket.reply("1").await.payload["status"], "ok");
    socket.find(|frame| frame.event == "system").await;
    socket
        .send(Some("2"), "2", "realtime:room", "phx_join", &payload)
        .await;
    let mut events = Vec::new();
    while events.last().is_none_or(|(event, _)| event != "phx_close") {
        let frame = socket.frame().await;
        events.push((frame.event, frame.reference));
    }
    let reply = events
        .iter()
        .position(|event| *event == ("phx_reply".to_owned(), json!("2")))
        .unwrap();
    let close = events
        .iter()
        .position(|event| *event == ("phx_close".to_owned(), json!("1")))
        .unwrap();
    assert!(reply < close, "{events:?}");
    socket
        .find(|frame| frame.event == "system" && frame.payload["status"] == "ok")
        .await;
    // A late leave with the old reference must not end the new membership.
    socket
        .send(Some("1"), "3", "realtime:room", "phx_leave", &json!({}))
        .await;
    app.sql("insert into notes values (1, 'one', 1)").await;
    let change = socket.find(|frame| frame.event == "postgres_changes").await;
    assert_eq!(change.payload["data"]["record"]["id"], 1);
    app.sql("insert into notes values (2, 'two', 2)").await;
    let change = socket.find(|frame| frame.event == "postgres_changes").await;
    assert_eq!(
        change.payload["data"]["record"]["id"], 2,
        "once, not once per membership"
    );
}

#[tokio::test]
async fn leaving_ends_the_changes_but_not_the_socket() {
    let app = start().await;
    let mut alice = subscribe(&app, ALICE, "notes").await;
    let reply = alice
        .socket
        .ask(
            Some(&alice.join_ref.clone()),
            "realtime:room",
            "phx_leave",
            &json!({}),
        )
        .await;
    assert_eq!(reply["status"], "ok");
    alice.socket.find(|frame| frame.event == "phx_close").await;
    let mut witness = subscribe(&app, ALICE, "notes").await;
    app.sql("insert into notes values (1, 'one', 1)").await;
    assert_eq!(brief(&app.settled(&mut witness).await), ["INSERT 1"]);
    assert_eq!(
        alice.socket.settle().await,
        [],
        "the socket lives and nothing came"
    );
}

#[tokio::test]
async fn waiting_joins_answer_when_the_bindings_are_in_force() {
    let app = start().await;
    let mut socket = socket(&app, Version::V2).await;
    let options = json!({"wait": true, "timeout": 5000});
    let config = json!({"postgres_changes": [all("notes")], "postgres_changes_options": options});
    assert_eq!(
        join(&mut socket, "realtime:good", config, &anon()).await["status"],
        "ok"
    );
    assert_eq!(
        socket.frame().await.payload["message"],
        "Subscribed to PostgreSQL"
    );
    let config = json!({"postgres_changes": [crate::world::filtered("notes", "undefined")], "postgres_changes_options": options});
    let reply = join(&mut socket, "realtime:bad", config, &anon()).await;
    assert_eq!(
        reply["response"]["reason"],
        "RealtimeDisabledForConfiguration: Error parsing `filter` params: [\"undefined\"]"
    );
}

#[tokio::test]
async fn http_endpoints_answer() {
    let app = start().await;
    let server = &app.server;
    let health = server.get("/healthcheck").await.unwrap();
    assert_eq!((health.status, health.body.as_str()), (200, "ok"));
    assert_eq!(server.get("/ready").await.unwrap().status, 200);
    let metrics = server.get("/metrics").await.unwrap();
    assert_eq!(metrics.status, 200);
    assert!(metrics.body.contains("# TYPE "), "{}", metrics.body);
    for path in [
        "/metrics/us-east-1",
        "/tenant-metrics",
        "/tenant-metrics/us-east-1",
    ] {
        let metrics = server.get(path).await.unwrap();
        assert_eq!(metrics.status, 200, "{path}");
        assert!(metrics.body.contains("# TYPE "), "{path}");
    }
    assert_eq!(server.get("/nosuch").await.unwrap().status, 404);
    let preflight = server
        .request(
            "OPTIONS",
            "/realtime/v1/api/broadcast",
            &[
                ("origin", "https://app.example"),
                ("access-control-request-method", "POST"),
                (
                    "access-control-request-headers",
                    "authorization,apikey,traceparent",
                ),
            ],
        )
        .await
        .unwrap();
    assert!((200..300).contains(&preflight.status), "{preflight:?}");
    let headers = preflight.headers.to_lowercase();
    assert!(
        headers.contains("access-control-allow-origin: *"),
        "{headers}"
    );
    assert!(
        headers.contains("access-control-allow-methods") && headers.contains("post"),
        "{headers}"
    );
    assert!(
        headers.contains("traceparent") || headers.contains("access-control-allow-headers: *"),
        "{headers}"
    );
}

#[tokio::test]
async fn the_metrics_secret_closes_the_metrics() {
    let options = walcast::testing::AppOptions {
        environment: &[(
            "WALCAST_METRICS_SECRET",
            "a-metrics-secret-of-thirty-two-bytes",
        )],
        ..Default::default()
    };
    let app = App::start_with(env!("CARGO_BIN_EXE_walcast"), &options).await;
    assert_eq!(app.server.get("/metrics").await.unwrap().status, 403);
    assert_eq!(app.server.get("/healthcheck").await.unwrap().status, 200);
}

#[tokio::test]
async fn names_with_sql_in_them_are_names() {
    let app = start_with(
        "create table \"x\"\"; drop table notes; --\" (\"id'; --\" int primary key, \"$1\" text);
         alter table \"x\"\"; drop table notes; --\" enable row level security;
         create policy \"all\" on \"x\"\"; drop table notes; --\" for select using (true);
         grant select on \"x\"\"; drop table notes; --\" to authenticated;
         alter publication supabase_realtime add table \"x\"\"; drop table notes; --\";",
    )
    .await;
    let table = "x\"; drop table notes; --";
    let binding = json!({"event": "*", "schema": "public", "table": table, "filter": "id'; --=eq.1", "select": ["$1"]});
    let mut alice = app.subscribe(&user(ALICE), binding).await;
    app.sql("insert into \"x\"\"; drop table notes; --\" values (1, 'one')")
        .await;
    let change = alice.change().await;
    assert_eq!(change.data["table"], table);
    assert_eq!(change.record(), &json!({"id'; --": 1, "$1": "one"}));
    assert_eq!(
        app.admin
            .text("select count(*) from notes")
            .await
            .as_deref(),
        Some("0")
    );
}

#[tokio::test]
async fn a_flood_of_joins_and_leaves_leaves_nothing_behind() {
    let app = start().await;
    let mut socket = socket(&app, Version::V2).await;
    let payload = json!({"config": {"postgres_changes": [all("notes")]}, "access_token": anon()});
    for n in 0..200 {
        let reference = format!("r{n}");
        socket
            .send(
                Some(&reference),
                &reference,
                "realtime:room",
                "phx_join",
                &payload,
            )
            .await;
        socket
            .send(
                Some(&reference),
                &format!("l{n}"),
                "realtime:room",
                "phx_leave",
                &json!({}),
            )
            .await;
    }
    loop {
        match socket.receive().await {
            Received::Frame(frame) if frame.reference == "l199" => break,
            Received::Frame(_) => {}
            Received::Closed(code, reason) => panic!("{code:?} {reason}"),
        }
    }
    let mut alice = subscribe(&app, ALICE, "notes").await;
    app.sql("insert into notes values (1, 'one', 1)").await;
    assert_eq!(brief(&[alice.change().await]), ["INSERT 1"]);
    let late = socket.settle().await;
    assert!(
        late.iter().all(|frame| frame.event != "postgres_changes"),
        "{late:#?}"
    );
}
