//! Both endpoints over loopback, with a database that the test plays.

mod delivery;

use std::net::SocketAddr;

use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::*;
use crate::auth::{Grant, mint};
use crate::messages::Request as Question;
use crate::realtime::{Answer as Said, AskError, Limits, PerSecond};
use crate::server::ServerOptions;
use crate::server::tests::{Fixture, KEY, PATIENCE, SECRET, options, start};

const BATCH: &str = "/api/broadcast";
const ONE: &str = r#"{"messages":[{"topic":"a","event":"e","payload":{}}]}"#;
const SINGLE: &str = "/api/broadcast/a/events/e";
const JSON: &str = "content-type: application/json\r\n";

/// What came back.
#[derive(Debug)]
struct Reply {
    status: u16,
    head: String,
    body: String,
}

impl Reply {
    #[track_caller]
    fn is(&self, status: u16, body: &str) {
        assert_eq!(
            (self.status, self.body.as_str()),
            (status, body),
            "{}",
            self.head
        );
        let any = "\r\naccess-control-allow-origin: *\r\n";
        assert!(self.head.contains(any), "{}", self.head);
        let has_type = self.head.contains("\r\ncontent-type: application/json\r\n");
        assert_eq!(has_type, !body.is_empty(), "{}", self.head);
    }

    /// A body with one text under `message`.
    #[track_caller]
    fn says(&self, status: u16, message: &str) {
        self.is(status, &format!(r#"{{"message":"{message}"}}"#));
    }

    #[track_caller]
    fn has_rate(&self, rolling: u32, limit: u32, remaining: u32) {
        for header in [
            format!("\r\nx-rate-rolling: {rolling}\r\n"),
            format!("\r\nx-rate-limit: {limit}\r\n"),
            format!("\r\nx-rate-limit-remaining: {remaining}\r\n"),
        ] {
            assert!(self.head.contains(&header), "{}", self.head);
        }
    }
}

/// A request as it stands on the wire, but for its length.
async fn request(address: SocketAddr, path: &str, headers: &str, body: &[u8]) -> Reply {
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n",
        body.len()
    );
    let talk = async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(body).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    reply(&timeout(PATIENCE, talk).await.unwrap())
}

fn reply(answer: &str) -> Reply {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    Reply {
        status: head["HTTP/1.1 ".len()..][..3].parse().unwrap(),
        head: format!("{}\r\n", head.to_ascii_lowercase()),
        body: body.to_owned(),
    }
}

/// With the publishable key.
async fn post(address: SocketAddr, path: &str, headers: &str, body: &str) -> Reply {
    let headers = format!("apikey: {KEY}\r\n{headers}");
    request(address, path, &headers, body.as_bytes()).await
}

fn token(subject: &str, expires_in: i64) -> String {
    let grant = Grant {
        role: "authenticated",
        subject: Some(subject),
        expires_at: clock::unix_seconds() + expires_in,
        ..Grant::default()
    };
    mint(SECRET, &grant).unwrap()
}

/// The next question.
async fn question(fixture: &mut Fixture) -> Question {
    let question = timeout(PATIENCE, fixture.questions.recv()).await;
    question.unwrap().unwrap()
}

/// Sends to the single endpoint while the database gives these answers to as many questions.
async fn single_with<const N: usize>(
    fixture: &mut Fixture,
    path: &str,
    body: &str,
    answers: [Result<Said, AskError>; N],
) -> (Reply, Vec<String>) {
    let address = fixture.address;
    tokio::join!(post(address, path, JSON, body), async {
        let mut asked = Vec::new();
        for answer in answers {
            let Question {
                room, ask, reply, ..
            } = question(fixture).await;
            asked.push(format!("{} {} {ask:?}", room.topic, room.private));
            reply.send(answer);
        }
        asked
    })
}

#[tokio::test]
async fn a_batch_is_accepted_at_both_paths() {
    let fixture = start(options()).await;
    for path in [
        BATCH,
        "/realtime/v1/api/broadcast",
        "/api/broadcast?apikey=x&vsn=2.0.0",
    ] {
        let reply = post(fixture.address, path, JSON, ONE).await;
        reply.is(202, "");
        reply.has_rate(0, 2_147_483_647, 2_147_483_647);
    }
    assert_eq!(fixture.metrics.channel_events.count(), 3);
    let metrics = fixture.metrics.encode();
    let counted = r#"walcast_broadcast_requests_total{endpoint="batch",status="202"} 3"#;
    assert!(metrics.contains(counted), "{metrics}");
}

#[tokio::test]
async fn tokens_and_keys_open_both_endpoints() {
    let fixture = start(options()).await;
    let good = token("s", 60);
    let late = token("s", -60);
    let check = async |headers: &str, is_open: bool| {
        for (path, body) in [(BATCH, ONE), (SINGLE, "{}")] {
            let reply = request(fixture.address, path, headers, body.as_bytes()).await;
            if is_open {
                reply.is(202, "");
            } else {
                reply.says(401, "Unauthorized");
                reply.has_rate(0, 2_147_483_647, 2_147_483_647);
            }
        }
    };
    check("", false).await;
    check(&format!("authorization: Bearer {good}\r\n"), true).await;
    check(&format!("authorization: bearer {KEY}\r\n"), true).await;
    check(&format!("apikey: {good}\r\n"), true).await;
    check(&format!("apikey: {KEY}\r\n"), true).await;
    check(&format!("x-api-key: {KEY}\r\n"), false).await;
    check("authorization: Bearer sb_publishable_other\r\n", false).await;
    let both = |token: &str| format!("authorization: Bearer {token}\r\napikey: {KEY}\r\n");
    check(&both(&late), false).await;
    check(&both("nonsense"), false).await;
    check(&both(&good), true).await;
}

#[tokio::test]
async fn a_batch_with_a_wrong_message_is_refused_whole() {
    let fixture = start(options()).await;
    let address = fixture.address;
    let check = async |body: &str, status: u16, wanted: &str| {
        let reply = post(address, BATCH, JSON, body).await;
        reply.is(status, wanted);
        reply.has_rate(0, 2_147_483_647, 2_147_483_647);
    };
    let blank = r#"{"errors":{"messages":["can't be blank"]}}"#;
    check("", 422, blank).await;
    check("{}", 422, blank).await;
    check(r#"{"messages":[]}"#, 422, blank).await;
    let invalid = r#"{"errors":{"messages":["is invalid"]}}"#;
    check(r#"{"messages":7}"#, 422, invalid).await;
    check(
        r#"{"messages":[{"topic":"a"},{"topic":"a","event":"e","payload":{}}]}"#,
        422,
        r#"{"errors":{"messages":[{"payload":["can't be blank"],"event":["can't be blank"]},{}]}}"#,
    )
    .await;
    let malformed = r#"{"message":"Malformed request"}"#;
    check("{", 400, malformed).await;
    assert_eq!(fixture.metrics.channel_events.count(), 0);
}

#[tokio::test]
async fn payloads_have_the_limit_of_sockets() {
    let fixture = start(options()).await;
    let payload = |size: usize| format!(r#"{{"x":"{}"}}"#, "x".repeat(size - 8));
    for (size, batch, single) in [
        (3_000_500, "", ""),
        (
            3_000_501,
            r#"{"errors":{"messages":[{"payload":["Payload size exceeds tenant limit"]}]}}"#,
            r#"{"errors":{"payload":["Payload size exceeds tenant limit"]}}"#,
        ),
    ] {
        let payload = payload(size);
        let status = if batch.is_empty() { 202 } else { 422 };
        let body = ONE.replace("{}", &payload);
        let reply = post(fixture.address, BATCH, JSON, &body).await;
        reply.is(status, batch);
        let reply = post(fixture.address, SINGLE, JSON, &payload).await;
        reply.is(status, single);
        let binary = "content-type: application/octet-stream\r\n";
        let reply = post(fixture.address, SINGLE, binary, &payload).await;
        reply.is(status, single);
    }
}

#[tokio::test]
async fn a_body_that_is_too_long_is_refused() {
    let fixture = start(options()).await;
    let refused = r#"{"message":"Request Entity Too Large"}"#;
    let long = " ".repeat(8_000_001);
    post(fixture.address, BATCH, JSON, &long)
        .await
        .is(413, refused);
    post(fixture.address, SINGLE, JSON, &long)
        .await
        .is(413, refused);
    // Of what would never end, nothing is read.
    let head = format!(
        "POST {BATCH} HTTP/1.1\r\nhost: x\r\nconnection: close\r\napikey: {KEY}\r\ncontent-length: 99999999999\r\n\r\n"
    );
    let mut stream = TcpStream::connect(fixture.address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    reply(&answer).is(413, refused);
    post(fixture.address, SINGLE, JSON, &long[1..])
        .await
        .is(202, "");
}

#[tokio::test]
async fn a_batch_asks_once_for_each_private_topic() {
    let mut fixture = start(options()).await;
    let address = fixture.address;
    let message = |topic: &str, private: bool| {
        format!(r#"{{"topic":"{topic}","event":"e","payload":{{}},"private":{private}}}"#)
    };
    let messages = [
        message("a", true),
        message("b", true),
        message("a", true),
        message("a", false),
        message("c", true),
        message("d", true),
    ];
    let body = format!(r#"{{"messages":[{}]}}"#, messages.join(","));
    let bearer = format!("authorization: Bearer {}\r\nX-Mark: 1\r\n", token("me", 60));
    let (reply, ()) = tokio::join!(post(address, BATCH, &bearer, &body), async {
        // All are asked before any is answered.
        let mut questions = Vec::new();
        for _ in 0..4 {
            questions.push(question(&mut fixture).await);
        }
        let told = fixture.metrics.channel_events.count();
        assert_eq!(told, 1, "public messages wait for nothing");
        for question in questions {
            assert_eq!(question.claims.subject.as_deref(), Some("me"));
            let headers: serde_json::Value = serde_json::from_str(&question.headers).unwrap();
            assert_eq!(headers["x-mark"], "1");
            assert_eq!(headers["apikey"], KEY);
            assert!(question.room.private);
            assert!(matches!(question.ask, Ask::Write(Extension::Broadcast)));
            match question.room.topic.sub_topic() {
                "a" => question.reply.send(Ok(Said::Write(true))),
                "b" => question.reply.send(Ok(Said::Write(false))),
                "c" => question.reply.send(Err(AskError::Unreachable)),
                _ => drop(question.reply),
            }
        }
    });
    reply.is(202, "");
    assert!(fixture.questions.try_recv().is_err());
    // The public one, and the two that were allowed.
    assert_eq!(fixture.metrics.channel_events.count(), 3);
}

#[tokio::test]
async fn few_questions_of_a_batch_are_open_at_a_time() {
    let mut fixture = start(options()).await;
    let address = fixture.address;
    let message =
        |topic| format!(r#"{{"topic":"{topic}","event":"e","payload":{{}},"private":true}}"#);
    let messages: Vec<_> = (0..50).map(message).collect();
    let body = format!(r#"{{"messages":[{}]}}"#, messages.join(","));
    let (reply, ()) = tokio::join!(post(address, BATCH, "", &body), async {
        let mut open = Vec::new();
        for _ in 0..QUESTIONS_MAX {
            open.push(question(&mut fixture).await);
        }
        for _ in 0..50 - QUESTIONS_MAX {
            assert!(fixture.questions.try_recv().is_err());
            let answered = open.pop().unwrap();
            answered.reply.send(Ok(Said::Write(true)));
            open.push(question(&mut fixture).await);
        }
        for answered in open {
            answered.reply.send(Ok(Said::Write(true)));
        }
    });
    reply.is(202, "");
    assert_eq!(fixture.metrics.channel_events.count(), 50);
}

#[tokio::test]
async fn a_batch_of_far_too_many_messages_is_refused() {
    let fixture = start(options()).await;
    let message = r#"{"topic":"a","event":"e","payload":{}}"#;
    let messages = vec![message; BATCH_MESSAGES_MAX + 1].join(",");
    let body = format!(r#"{{"messages":[{messages}]}}"#);
    let reply = post(fixture.address, BATCH, JSON, &body).await;
    reply.says(
        429,
        "Too many messages to broadcast, please reduce the batch size",
    );
    assert_eq!(fixture.metrics.channel_events.count(), 0);
}

#[tokio::test]
async fn one_message_is_accepted_in_each_form() {
    let fixture = start(options()).await;
    for headers in [
        "",
        JSON,
        "content-type: application/json; charset=utf-8\r\n",
        "content-type: application/octet-stream\r\n",
    ] {
        for body in ["", "{}", "[1]"] {
            for path in [
                SINGLE,
                "/realtime/v1/api/broadcast/a%3Ab%2Fc/events/e?x=%zz&private=no",
            ] {
                let reply = post(fixture.address, path, headers, body).await;
                reply.is(202, "");
                reply.has_rate(0, 2_147_483_647, 2_147_483_647);
            }
        }
    }
    assert_eq!(fixture.metrics.channel_events.count(), 24);
    let metrics = fixture.metrics.encode();
    let counted = r#"walcast_broadcast_requests_total{endpoint="single",status="202"} 24"#;
    assert!(metrics.contains(counted), "{metrics}");
}

#[tokio::test]
async fn one_message_that_is_wrong_is_refused() {
    let fixture = start(options()).await;
    let address = fixture.address;
    let other = "content-type: text/plain\r\n";
    let unsupported =
        r#"{"error":"Unsupported Media Type. Use application/json or application/octet-stream"}"#;
    post(address, SINGLE, other, "{}")
        .await
        .is(415, unsupported);
    post(address, SINGLE, JSON, "{")
        .await
        .says(400, "Malformed request");
    let no_text = "/api/broadcast/%ff/events/e";
    post(address, no_text, JSON, "{}")
        .await
        .says(400, "Malformed request");
    let check = async |path: &str, errors: &str| {
        let reply = post(address, path, JSON, "{}").await;
        reply.is(422, &format!(r#"{{"errors":{errors}}}"#));
    };
    check(
        "/api/broadcast/%20/events/%20",
        r#"{"topic":["can't be blank"],"event":["can't be blank"]}"#,
    )
    .await;
    let long = format!("/api/broadcast/{}/events/e", "x".repeat(5000));
    check(&long, r#"{"topic":["is too long"]}"#).await;
    let public = r#"{"persist":["can only be used on private channels"]}"#;
    check(&format!("{SINGLE}?persist=true"), public).await;
    check(
        &format!("{SINGLE}?persist%5Bttl%5D=60&private=false"),
        public,
    )
    .await;
    let ttl = r#"{"persist":["ttl must be an integer from 1 to 259200"]}"#;
    check(&format!("{SINGLE}?private=true&persist[ttl]=0"), ttl).await;
    check(
        &format!("{SINGLE}?private=true&persist%5Bttl%5D=259201"),
        ttl,
    )
    .await;
    let empty = r#"{"topic":["can't be blank"]}"#;
    check("/api/broadcast//events/e", empty).await;
    assert_eq!(fixture.metrics.channel_events.count(), 0);
}

#[tokio::test]
async fn one_private_message_needs_permission() {
    let mut fixture = start(options()).await;
    let path = "/api/broadcast/a%3Ab%2Fc/events/e?private=true";
    let allowed = [Ok(Said::Write(true))];
    let (reply, asked) = single_with(&mut fixture, path, "{}", allowed).await;
    reply.is(202, "");
    assert_eq!(asked, ["realtime:a:b/c true Write(Broadcast)"]);
    assert_eq!(fixture.metrics.channel_events.count(), 1);

    let denied = [Ok(Said::Write(false))];
    let (reply, _) = single_with(&mut fixture, path, "{}", denied).await;
    reply.says(403, "Unauthorized");
    for (error, status, text) in [
        (AskError::Policy("secret".into()), 422, "RLS policy error"),
        (AskError::Cancelled, 422, "Query canceled"),
        (
            AskError::MissingPartition,
            422,
            "Missing messages partition",
        ),
        (AskError::Unreachable, 422, "Tenant database unavailable"),
        (
            AskError::TooManyConnections,
            422,
            "Tenant database has too many connections",
        ),
        (AskError::Overloaded, 429, "Connection pool exhausted"),
        (AskError::NotInstalled, 500, "Unable to authorize broadcast"),
    ] {
        let (reply, _) = single_with(&mut fixture, path, "{}", [Err(error)]).await;
        reply.says(status, text);
    }
    let address = fixture.address;
    let silence = async { drop(question(&mut fixture).await) };
    let (reply, ()) = tokio::join!(post(address, path, JSON, "{}"), silence);
    reply.says(500, "RPC error");
    assert_eq!(fixture.metrics.channel_events.count(), 1);
}

#[tokio::test]
async fn what_was_said_is_stored_if_wanted() {
    let mut fixture = start(options()).await;
    let write = || Ok(Said::Write(true));
    let stored = [
        (
            "persist=true",
            Ok(Said::Persisted(Some("id".into()))),
            259_200,
        ),
        ("persist[ttl]=60", Ok(Said::Persisted(None)), 60),
        ("persist%5Bttl%5D=1", Err(AskError::Unreachable), 1),
    ];
    for (query, answer, ttl) in stored {
        let path = format!("{SINGLE}?private=true&{query}");
        let answers = [write(), answer];
        let (reply, asked) = single_with(&mut fixture, &path, " [1] ", answers).await;
        reply.is(202, "");
        let wanted = format!(
            r#"realtime:a true Persist {{ storing: Storing, event: "e", data: Json(b"{{\"_json\":[1]}}"), ttl_seconds: {ttl} }}"#
        );
        assert_eq!(asked[1..], [wanted], "{query}");
    }
    assert_eq!(fixture.metrics.channel_events.count(), 3);
    let path = format!("{SINGLE}?private=true&persist=true");
    let (reply, asked) = single_with(&mut fixture, &path, "{}", [Ok(Said::Write(false))]).await;
    reply.says(403, "Unauthorized");
    assert_eq!(asked.len(), 1);
    assert!(fixture.questions.try_recv().is_err());
}

#[tokio::test]
async fn a_subject_that_sends_too_much_is_refused() {
    let fixture = start(ServerOptions {
        limits: Limits {
            messages: PerSecond {
                subject: 2,
                ..PerSecond::default()
            },
            ..Limits::default()
        },
        ..options()
    })
    .await;
    let message = r#"{"topic":"a","event":"e","payload":{}}"#;
    let batch = |count: usize| format!(r#"{{"messages":[{}]}}"#, vec![message; count].join(","));
    let address = fixture.address;
    let bearer = |subject| format!("authorization: Bearer {}\r\n", token(subject, 60));
    let me = bearer("me");
    let too_large = "Too many messages to broadcast, please reduce the batch size";
    let reply = post(address, BATCH, &me, &batch(3)).await;
    reply.says(429, too_large);
    reply.has_rate(0, 2, 2);
    for _ in 0..5 {
        post(address, BATCH, &me, &batch(1)).await.is(202, "");
    }
    // Five within five seconds are one per second.
    let reply = post(address, BATCH, &me, &batch(2)).await;
    reply.says(429, too_large);
    reply.has_rate(1, 2, 1);
    for _ in 0..5 {
        post(address, SINGLE, &me, "{}").await.is(202, "");
    }
    let reply = post(address, BATCH, &me, &batch(1)).await;
    reply.says(429, "Too many requests");
    reply.has_rate(2, 2, 0);
    let reply = post(address, SINGLE, &me, "{}").await;
    reply.says(429, "You have exceeded your rate limit");
    reply.has_rate(2, 2, 0);
    post(address, SINGLE, &bearer("other"), "{}")
        .await
        .is(202, "");
}

#[tokio::test]
async fn a_body_that_takes_long_to_come_meets_what_was_sent_meanwhile() {
    let fixture = start(ServerOptions {
        limits: Limits {
            messages: PerSecond {
                subject: 1,
                ..PerSecond::default()
            },
            ..Limits::default()
        },
        ..options()
    })
    .await;
    let head = format!(
        "POST {BATCH} HTTP/1.1\r\nhost: x\r\nconnection: close\r\napikey: {KEY}\r\nexpect: 100-continue\r\ncontent-length: {}\r\n\r\n",
        ONE.len()
    );
    let mut stream = TcpStream::connect(fixture.address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut go_on = [0; 25];
    stream.read_exact(&mut go_on).await.unwrap();
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    for _ in 0..5 {
        post(fixture.address, SINGLE, JSON, "{}").await.is(202, "");
    }
    stream.write_all(ONE.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    reply(&answer).says(429, "You have exceeded your rate limit");
}

proptest! {
    #[test]
    fn any_bytes_are_parsed_or_refused(data in proptest::collection::vec(any::<u8>(), 0..64)) {
        exercise(&data);
    }

    #[test]
    fn any_messages_are_parsed_or_refused(
        parts in proptest::collection::vec(proptest::sample::select(PARTS), 0..24)
    ) {
        exercise(parts.concat().as_bytes());
        exercise(format!(r#"{{"messages":[{}]}}"#, parts.concat()).as_bytes());
        let object = format!(r#"{{"messages":[{{"topic":"a","event":"e","payload":{{}},{}}}]}}"#, parts.concat());
        exercise(object.as_bytes());
    }
}

/// What bodies are made of.
const PARTS: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    " ",
    "null",
    "true",
    "1.5e3",
    "\"\"",
    "\"a\"",
    "\"messages\"",
    "\"topic\"",
    "\"event\"",
    "\"payload\"",
    "\"private\"",
    "\"id\"",
    "\"\\ud800\"",
    "\"é\\n\"",
    "\"topic\":\"a\"",
    "\"event\":\"e\"",
    "\"payload\":{}",
    "\"private\":\"1\"",
    "\"id\":\"7\"",
];
