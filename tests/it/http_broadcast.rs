//! Broadcasts over HTTP: every status and body (protocol.md §5.4, §5.5).

use serde_json::{Value, json};
use walcast::testing::{
    App, Channel, HttpReply, PUBLISHABLE_KEY, SECRET_KEY, Version, anon, expiring, mint, service,
    user,
};

use crate::world::{ALICE, BOB, join, join_with, start, start_with};

const JSON: (&str, &str) = ("content-type", "application/json");
const BYTES: (&str, &str) = ("content-type", "application/octet-stream");
const KEY: (&str, &str) = ("apikey", PUBLISHABLE_KEY);
const UNAUTHORIZED: &str = r#"{"message":"Unauthorized"}"#;
const OVERSIZE: usize = 3_100_000;

/// Alice may speak in `room`; nobody else, and nobody elsewhere. In `raises` the question itself fails.
const POLICIES: &str = "
    create function raises() returns boolean language plpgsql as $$ begin raise 'no'; end $$;
    create policy speak on realtime.messages for insert to authenticated
      with check (case realtime.topic()
        when 'room' then auth.uid() = 'a0000000-0000-4000-8000-000000000001' and extension = 'broadcast'
        when 'raises' then raises()
        else false end);
    create policy hear on realtime.messages for select to authenticated using (true);
";

fn message(event: &str, private: bool) -> Value {
    json!({"topic": "room", "event": event, "payload": {}, "private": private})
}

async fn batch(app: &App, headers: &[(&str, &str)], messages: &[Value]) -> HttpReply {
    let body = json!({"messages": messages}).to_string();
    post(app, "/api/broadcast", headers, body.as_bytes()).await
}

/// A POST; whatever the answer is, browsers may read it.
async fn post(app: &App, path: &str, headers: &[(&str, &str)], body: &[u8]) -> HttpReply {
    let reply = app.server.post(path, headers, body).await;
    assert_eq!(
        header(&reply, "access-control-allow-origin"),
        Some("*"),
        "{}",
        reply.headers
    );
    reply
}

fn header<'a>(reply: &'a HttpReply, name: &str) -> Option<&'a str> {
    reply.headers.lines().find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then_some(value.trim())
    })
}

#[track_caller]
fn check(what: &str, reply: &HttpReply, status: u16, body: &str) {
    assert_eq!(
        (reply.status, reply.body.as_str()),
        (status, body),
        "{what}"
    );
}

async fn hears(channel: &mut Channel, events: &[&str]) {
    for event in events {
        assert_eq!(channel.heard_briefly().await.0, *event);
    }
}

#[tokio::test]
async fn only_a_valid_token_or_key_may_send() {
    let app = start().await;
    let mut hearer = join(&app, Version::V2, "room").await;
    let foreign =
        "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJyb2xlIjoiYW5vbiIsImV4cCI6OTk5OTk5OTk5OX0.AAAA";
    let without_role = mint(&json!({"exp": 9_999_999_999_u64}));
    let expired = expiring(ALICE, -10);
    for (what, token) in [
        ("a bad signature", foreign),
        ("no token at all", "nonsense"),
        ("an unknown key", "sb_publishable_of_another"),
        ("without role", &without_role),
        ("expired", &expired),
    ] {
        let bearer = format!("Bearer {token}");
        for credentials in [
            vec![JSON, ("apikey", token)],
            // The bearer wins.
            vec![JSON, KEY, ("authorization", &bearer)],
        ] {
            let reply = batch(&app, &credentials, &[message("stolen", false)]).await;
            check(what, &reply, 401, UNAUTHORIZED);
            let reply = post(
                &app,
                "/api/broadcast/room/events/stolen",
                &credentials,
                b"{}",
            )
            .await;
            check(what, &reply, 401, UNAUTHORIZED);
        }
    }
    for path in ["/api/broadcast", "/api/broadcast/room/events/stolen"] {
        let reply = post(&app, path, &[JSON], br#"{"messages":[]}"#).await;
        check("nothing", &reply, 401, UNAUTHORIZED);
    }

    let anon = anon();
    let alice = user(ALICE);
    let mut sent = Vec::new();
    for (number, (name, value)) in [
        ("apikey", PUBLISHABLE_KEY.to_owned()),
        ("apikey", SECRET_KEY.to_owned()),
        ("apikey", anon.clone()),
        ("authorization", format!("Bearer {PUBLISHABLE_KEY}")),
        ("authorization", format!("Bearer {alice}")),
        ("Authorization", format!("bearer {anon}")),
    ]
    .into_iter()
    .enumerate()
    {
        let reply = batch(
            &app,
            &[JSON, (name, &value)],
            &[message(&format!("{number}"), false)],
        )
        .await;
        check(&value, &reply, 202, "");
        let path = format!("/api/broadcast/room/events/{number}");
        let reply = post(&app, &path, &[JSON, (name, &value)], b"{}").await;
        check(&value, &reply, 202, "");
        sent.extend([number.to_string(), number.to_string()]);
    }
    let sent: Vec<&str> = sent.iter().map(String::as_str).collect();
    hears(&mut hearer, &sent).await;
}

#[tokio::test]
async fn a_batch_is_sent_whole_or_not_at_all() {
    let app = start().await;
    let mut hearer = join(&app, Version::V2, "room").await;
    let headers = [JSON, KEY];
    let blank = r#"{"errors":{"messages":["can't be blank"]}}"#;
    for body in ["{}", r#"{"messages":[]}"#, r#"{"messages":null}"#] {
        let reply = post(&app, "/api/broadcast", &headers, body.as_bytes()).await;
        check(body, &reply, 422, blank);
    }
    let reply = batch(
        &app,
        &headers,
        &[json!({"topic": "room"}), message("not sent", false)],
    )
    .await;
    let errors: Value = serde_json::from_str(&reply.body).unwrap();
    let expected = json!({"errors": {"messages": [{"payload": ["can't be blank"], "event": ["can't be blank"]}, {}]}});
    assert_eq!((reply.status, errors), (422, expected));
    let reply = batch(
        &app,
        &headers,
        &[
            message("not sent", false),
            json!({"event": "e", "payload": {}}),
        ],
    )
    .await;
    let errors: Value = serde_json::from_str(&reply.body).unwrap();
    assert_eq!(
        (reply.status, errors),
        (
            422,
            json!({"errors": {"messages": [{}, {"topic": ["can't be blank"]}]}})
        )
    );
    let large = json!({"topic": "room", "event": "e", "payload": {"text": "x".repeat(OVERSIZE)}});
    let reply = batch(&app, &headers, &[message("not sent", false), large]).await;
    check(
        "oversize",
        &reply,
        422,
        r#"{"errors":{"messages":[{},{"payload":["Payload size exceeds tenant limit"]}]}}"#,
    );
    // Other types of body, or no JSON, are refused in some way, and nothing is sent.
    for body in [
        "{",
        "[]",
        "7",
        r#"{"messages":{}}"#,
        r#"{"messages":[7]}"#,
        r#"{"messages":[{"topic":"room","event":"e","payload":7}]}"#,
    ] {
        let reply = post(&app, "/api/broadcast", &headers, body.as_bytes()).await;
        assert!(
            (400..500).contains(&reply.status),
            "{body}: {}",
            reply.status
        );
    }
    let several: Vec<Value> = ["1", "2", "3"]
        .into_iter()
        .map(|event| message(event, false))
        .collect();
    let reply = batch(&app, &headers, &several).await;
    check("several", &reply, 202, "");
    for name in ["x-rate-rolling", "x-rate-limit", "x-rate-limit-remaining"] {
        assert!(header(&reply, name).is_some(), "{name}: {}", reply.headers);
    }
    hears(&mut hearer, &["1", "2", "3"]).await;
}

#[tokio::test]
async fn private_messages_of_a_batch_are_dropped_without_permission() {
    let app = start_with(POLICIES).await;
    let (alice, bob, service) = (user(ALICE), user(BOB), service());
    let private = json!({"private": true});
    let mut member = join_with(&app, Version::V2, "room", private, Some(&alice)).await;
    let mut public = join(&app, Version::V2, "room").await;
    let bearer = |token: &str| format!("Bearer {token}");
    let both = [message("public", false), message("private", true)];
    for (token, heard) in [
        (&bob, false),
        (&alice, true),
        (&service, true),
        (&anon(), false),
    ] {
        let reply = batch(&app, &[JSON, ("authorization", &bearer(token))], &both).await;
        check("batch", &reply, 202, "");
        hears(&mut public, &["public"]).await;
        if heard {
            hears(&mut member, &["private"]).await;
        }
    }
    let reply = batch(&app, &[JSON, ("apikey", SECRET_KEY)], &both).await;
    check("secret key", &reply, 202, "");
    hears(&mut public, &["public"]).await;
    // The two before it were Bob's and a stranger's: dropped.
    hears(&mut member, &["private"]).await;
    let told = member.socket.settle().await;
    assert!(
        told.iter().all(|frame| frame.event != "broadcast"),
        "{told:#?}"
    );
}

#[tokio::test]
async fn a_single_private_message_needs_permission() {
    let app = start_with(POLICIES).await;
    let (alice, bob) = (user(ALICE), user(BOB));
    let private = json!({"private": true});
    let mut member = join_with(&app, Version::V2, "room", private, Some(&alice)).await;
    let post_as = async |token: &str, topic: &str, event: &str| {
        let bearer = format!("Bearer {token}");
        let path = format!("/api/broadcast/{topic}/events/{event}?private=true");
        post(&app, &path, &[JSON, ("authorization", &bearer)], b"{}").await
    };
    check(
        "bob",
        &post_as(&bob, "room", "bob").await,
        403,
        UNAUTHORIZED,
    );
    check(
        "anon",
        &post_as(&anon(), "room", "anon").await,
        403,
        UNAUTHORIZED,
    );
    check(
        "elsewhere",
        &post_as(&alice, "elsewhere", "e").await,
        403,
        UNAUTHORIZED,
    );
    check(
        "raising policy",
        &post_as(&alice, "raises", "e").await,
        422,
        r#"{"message":"RLS policy error"}"#,
    );
    check("alice", &post_as(&alice, "room", "alice").await, 202, "");
    check(
        "service",
        &post_as(&service(), "room", "service").await,
        202,
        "",
    );
    hears(&mut member, &["alice", "service"]).await;
    // Permissions are the database's: they count from the next request on.
    app.sql("drop policy speak on realtime.messages").await;
    check(
        "dropped",
        &post_as(&alice, "room", "late").await,
        403,
        UNAUTHORIZED,
    );
}

#[tokio::test]
async fn a_single_message_says_what_is_wrong_with_it() {
    let app = start().await;
    let mut hearer = join(&app, Version::V2, "room").await;
    let path = "/realtime/v1/api/broadcast/room/events/e";
    let unsupported =
        r#"{"error":"Unsupported Media Type. Use application/json or application/octet-stream"}"#;
    for content_type in ["text/plain", "multipart/form-data; boundary=x"] {
        let reply = post(&app, path, &[KEY, ("content-type", content_type)], b"{}").await;
        check(content_type, &reply, 415, unsupported);
    }
    let oversize = r#"{"errors":{"payload":["Payload size exceeds tenant limit"]}}"#;
    let large = json!({"text": "x".repeat(OVERSIZE)}).to_string();
    check(
        "JSON",
        &post(&app, path, &[KEY, JSON], large.as_bytes()).await,
        422,
        oversize,
    );
    check(
        "bytes",
        &post(&app, path, &[KEY, BYTES], large.as_bytes()).await,
        422,
        oversize,
    );
    for query in [
        "persist=true",
        "persist%5Bttl%5D=60",
        "private=false&persist=true",
    ] {
        let reply = post(&app, &format!("{path}?{query}"), &[KEY, JSON], b"{}").await;
        check(
            query,
            &reply,
            422,
            r#"{"errors":{"persist":["can only be used on private channels"]}}"#,
        );
    }
    let reply = post(&app, path, &[KEY, JSON], b"{").await;
    assert!((400..500).contains(&reply.status), "{}", reply.status);
    let huge = vec![b'x'; 9_000_000];
    let reply = app.server.post(path, &[KEY, BYTES], &huge).await;
    assert_eq!(reply.status, 413, "{}", reply.body);

    // Without a type it is JSON; with parameters it is what it says.
    for headers in [
        vec![KEY],
        vec![KEY, ("content-type", "application/json; charset=utf-8")],
    ] {
        check("type", &post(&app, path, &headers, b"{}").await, 202, "");
        hears(&mut hearer, &["e"]).await;
    }
    for wrong in [
        "/api/broadcast/room",
        "/api/broadcast/room/events",
        "/api/broadcast/room/events/e/more",
    ] {
        let reply = app.server.post(wrong, &[KEY, JSON], b"{}").await;
        assert_eq!(reply.status, 404, "{wrong}");
    }
    let reply = app.server.request("GET", path, &[KEY]).await.unwrap();
    assert!([404, 405].contains(&reply.status), "{}", reply.status);
}

#[tokio::test]
async fn names_in_the_path_are_percent_encoded() {
    let app = start().await;
    for (topic, event, path) in [
        ("a:b/c", "x y", "a%3Ab%2Fc/events/x%20y"),
        ("Räume ß", "ü+1", "R%C3%A4ume%20%C3%9F/events/%C3%BC%2B1"),
        ("100%", "?#&", "100%25/events/%3F%23%26"),
        ("plus+", "a+b", "plus+/events/a+b"),
    ] {
        let mut hearer = join(&app, Version::V2, topic).await;
        let path = format!("/api/broadcast/{path}?apikey=x&vsn=2.0.0&unknown");
        check(
            topic,
            &post(&app, &path, &[KEY, JSON], b"{}").await,
            202,
            "",
        );
        hears(&mut hearer, &[event]).await;
    }
}

#[tokio::test]
async fn browsers_may_ask_first() {
    let app = start().await;
    for path in [
        "/api/broadcast",
        "/realtime/v1/api/broadcast",
        "/realtime/v1/api/broadcast/a%3Ab/events/e",
    ] {
        let wanted = "authorization,apikey,content-type,x-client-info,traceparent";
        let headers = [
            ("origin", "https://example.org"),
            ("access-control-request-method", "POST"),
            ("access-control-request-headers", wanted),
        ];
        let reply = app.server.request("OPTIONS", path, &headers).await.unwrap();
        assert!(
            [200, 204].contains(&reply.status),
            "{path}: {}",
            reply.status
        );
        assert_eq!(header(&reply, "access-control-allow-origin"), Some("*"));
        assert!(
            header(&reply, "access-control-allow-methods")
                .unwrap()
                .contains("POST")
        );
        let allowed = header(&reply, "access-control-allow-headers")
            .unwrap()
            .to_lowercase();
        for name in wanted.split(',') {
            assert!(allowed.contains(name), "{name}: {allowed}");
        }
    }
}
