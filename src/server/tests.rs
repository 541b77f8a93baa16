//! Sockets over loopback, with a pipeline that only the test drives.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use super::{ServerOptions, Services, serve};
use crate::auth::{ApiKeys, Grant, Verifier, mint};
use crate::clock;
use crate::log::{self, Log, Order, Outbox, Posting, Run};
use crate::messages::{Messages, Request};
use crate::metrics::{Code, Metrics};
use crate::pipeline::{Command, Handle, Status};
use crate::realtime::{Answer, Ask, Broadcast, Content, Limits, Notice};
use crate::rooms::{self, Rooms};
use crate::shutdown::Shutdown;
use crate::topic::{Room, Topic};

pub(super) const SECRET: &str = "a secret of at least thirty-two bytes";
pub(super) const KEY: &str = "sb_publishable_test";
/// Longer than anything here takes, and shorter than anyone's patience.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

pub(super) struct Fixture {
    pub(super) address: SocketAddr,
    commands: mpsc::Receiver<Command>,
    log: Arc<Log>,
    status: watch::Sender<Status>,
    shutdown: Shutdown,
    pub(super) metrics: Arc<Metrics>,
    pub(super) rooms: Rooms,
    /// What sockets ask about private topics.
    pub(super) questions: mpsc::Receiver<Request>,
}

impl Drop for Fixture {
    fn drop(&mut self) {
        for token in [&self.shutdown.accepting, &self.shutdown.dropping] {
            token.cancel();
        }
    }
}

type Client = WebSocketStream<MaybeTlsStream<TcpStream>>;

pub(super) fn options() -> ServerOptions {
    let keys = ApiKeys {
        publishable: Some(KEY.into()),
        secret: None,
    };
    let verifier = Verifier::new(Some(SECRET), None, keys).unwrap();
    ServerOptions {
        refusal_delay: Duration::ZERO,
        ..ServerOptions::new(Arc::new(verifier))
    }
}

/// Makes part `number` of an empty log.
fn insert(log: &Log, number: u64, payloads: Vec<Bytes>) {
    while log.open() < number {}
    for payload in payloads {
        log.append(number, payload).unwrap();
    }
}

pub(super) async fn start(options: ServerOptions) -> Fixture {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, commands) = mpsc::channel(4);
    let (status, receiver) = watch::channel(Status::default());
    let (inquiries, _nobody_asks) = mpsc::channel(1);
    let handle = Handle {
        inquiries,
        commands: sender,
        log: Arc::new(Log::new(log::Limits {
            memory_bytes_max: usize::MAX,
            bytes_max: usize::MAX,
            directory: std::env::temp_dir(),
        })),
        order: Arc::new(Order::new(Arc::default())),
        status: receiver,
        replication: Arc::default(),
    };
    let (messages, questions) = Messages::new();
    let log = Arc::clone(&handle.log);
    let shutdown = Shutdown::new();
    let metrics = Arc::new(Metrics::new());
    let rooms = Rooms::new();
    let flushing = rooms::run(rooms.clone(), shutdown.pipeline.clone());
    shutdown.pipeline_tasks.spawn(flushing);
    let serving = serve(
        listener,
        options,
        Services {
            pipeline: handle,
            rooms: rooms.clone(),
            messages,
        },
        shutdown.clone(),
        Arc::clone(&metrics),
    );
    shutdown.server_tasks.spawn(serving);
    Fixture {
        address,
        commands,
        log,
        status,
        shutdown,
        metrics,
        rooms,
        questions,
    }
}

impl Fixture {
    fn url(&self) -> String {
        format!(
            "ws://{}/realtime/v1/websocket?apikey={KEY}&vsn=2.0.0",
            self.address
        )
    }

    async fn connect(&self) -> Client {
        connect_async(self.url()).await.unwrap().0
    }

    /// The next command, as `subscribe 1` and its like, and the outbox if it brings one.
    async fn command(&mut self) -> (String, Option<Arc<Outbox<Notice>>>) {
        match timeout(PATIENCE, self.commands.recv())
            .await
            .unwrap()
            .unwrap()
        {
            Command::Subscribe {
                membership, outbox, ..
            } => (format!("subscribe {membership}"), Some(outbox)),
            Command::Identify { membership, .. } => (format!("identify {membership}"), None),
            Command::Unsubscribe { membership, .. } => (format!("unsubscribe {membership}"), None),
            Command::Permit {
                membership,
                ticket,
                outbox,
                ..
            } => (format!("permit {membership}.{ticket}"), Some(outbox)),
            Command::Acknowledge { .. }
            | Command::Answer { .. }
            | Command::Heard { .. }
            | Command::Listen { .. }
            | Command::Hear { .. }
            | Command::Forget { .. }
            | Command::Mark { .. }
            | Command::Park { .. } => {
                panic!("the socket has no resume ID")
            }
        }
    }

    /// Joins `realtime:a` with a binding; the outbox is the test's to fill.
    async fn join(&mut self, client: &mut Client) -> Arc<Outbox<Notice>> {
        say(client, JOIN).await;
        let (command, outbox) = self.command().await;
        assert_eq!(command, "subscribe 1");
        let outbox = outbox.unwrap();
        outbox.push(notice(Notice::Subscribed));
        assert!(hear(client).await.contains(r#""status":"ok""#));
        assert!(hear(client).await.contains("Subscribed to PostgreSQL"));
        outbox
    }

    /// A request with these headers: the status line, the headers and the body.
    async fn http(&self, request: &str, headers: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let head = format!("{request} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }
}

const JOIN: &str = r#"["1","1","realtime:a","phx_join",{"config":{"presence":{"enabled":false},"postgres_changes":[{"event":"*","schema":"public","table":"t"}]}}]"#;
const HEARTBEAT: &str = r#"[null,"5","phoenix","heartbeat",{}]"#;
const HEARTBEAT_REPLY: &str = r#"[null,"5","phoenix","phx_reply",{"status":"ok","response":{}}]"#;

fn notice(notice: Notice) -> Posting<Notice> {
    Posting::Notice {
        membership: 1,
        notice,
    }
}

fn run(part: u64, count: u32) -> Posting<Notice> {
    Posting::Run(Run {
        part,
        first: 0,
        count,
        membership: 1,
        ids: "[7]".into(),
        last: true,
    })
}

async fn say(client: &mut Client, text: &str) {
    client.send(Message::text(text)).await.unwrap();
}

async fn hear(client: &mut Client) -> String {
    match timeout(PATIENCE, client.next()).await.unwrap() {
        Some(Ok(Message::Text(text))) => text.as_str().to_owned(),
        other => panic!("no text: {other:?}"),
    }
}

/// The close code and reason that comes next.
async fn hear_close(client: &mut Client) -> (u16, String) {
    match timeout(PATIENCE, client.next()).await.unwrap() {
        Some(Ok(Message::Close(Some(CloseFrame { code, reason })))) => {
            (code.into(), reason.as_str().to_owned())
        }
        other => panic!("no close: {other:?}"),
    }
}

#[tokio::test]
async fn changes_follow_the_join_reply() {
    let mut fixture = start(options()).await;
    let mut client = fixture.connect().await;
    let outbox = fixture.join(&mut client).await;
    assert_eq!(fixture.metrics.connections_connected.get(), 1);
    insert(
        &fixture.log,
        3,
        vec![r#"{"n":1}"#.into(), r#"{"n":2}"#.into()],
    );
    outbox.push(run(3, 2));
    assert_eq!(
        hear(&mut client).await,
        r#"[null,null,"realtime:a","postgres_changes",{"ids":[7],"data":{"n":1}}]"#
    );
    assert_eq!(
        hear(&mut client).await,
        r#"[null,null,"realtime:a","postgres_changes",{"ids":[7],"last":true,"data":{"n":2}}]"#
    );
    assert_eq!(fixture.metrics.channel_db_events.count(), 2);
    client.close(None).await.unwrap();
    assert_eq!(fixture.command().await.0, "unsubscribe 1");
}

#[tokio::test]
async fn questions_bring_the_headers_along_and_hold_up_nobody() {
    let mut fixture = start(options()).await;
    let mut request = fixture.url().into_client_request().unwrap();
    for (name, value) in [("x-team", "red\"s"), ("other", "no")] {
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    let long = "x".repeat(5000);
    request
        .headers_mut()
        .insert("x-long", long.parse().unwrap());
    let (mut client, _response) = connect_async(request).await.unwrap();
    say(
        &mut client,
        r#"["1","1","realtime:a","phx_join",{"config":{"private":true}}]"#,
    )
    .await;
    let question = timeout(PATIENCE, fixture.questions.recv())
        .await
        .unwrap()
        .unwrap();
    let headers: serde_json::Value = serde_json::from_str(&question.headers).unwrap();
    assert_eq!(
        headers,
        serde_json::json!({"x-team": "red\"s", "x-long": long})
    );
    assert_eq!(&*question.claims.role, "anon");
    assert!(question.room.private);
    assert!(matches!(question.ask, Ask::Read { presence: true }));
    say(&mut client, HEARTBEAT).await;
    assert_eq!(hear(&mut client).await, HEARTBEAT_REPLY);
    question.reply.send(Ok(Answer::Read {
        broadcast: false,
        presence: false,
    }));
    assert!(hear(&mut client).await.contains("Unauthorized: "));
    assert!(
        fixture
            .metrics
            .encode()
            .contains(r#"realtime_channel_error{code="Unauthorized"} 1"#)
    );
}

#[tokio::test]
async fn a_burst_of_broadcasts_arrives_whole_and_in_order() {
    const COUNT: usize = 10_000;
    let mut fixture = start(options()).await;
    let mut client = fixture.connect().await;
    let outbox = fixture.join(&mut client).await;
    let topic = Topic::parse("realtime:a").unwrap();
    for number in 0..COUNT {
        let content = Content::Json {
            event: "e".into(),
            data: number.to_string().into(),
        };
        let message = Broadcast::new(topic.clone(), content, None);
        outbox.push(notice(Notice::Broadcast(Arc::new(message))));
    }
    for number in 0..COUNT {
        match timeout(PATIENCE, client.next()).await.unwrap() {
            Some(Ok(Message::Binary(bytes))) => {
                let expected = format!("realtime:ae{number}");
                assert_eq!(&bytes[..5], [4, 10, 1, 0, 1]);
                assert_eq!(&bytes[5..], expected.as_bytes());
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(fixture.metrics.broadcasts_delivered.get(), 10_000);
}

#[tokio::test]
async fn a_peer_that_reads_no_broadcasts_is_closed_and_nobody_else() {
    const JOIN_ROOM: &str =
        r#"["1","1","realtime:room","phx_join",{"config":{"presence":{"enabled":false}}}]"#;
    const LARGE: usize = 2_000_000;
    let fixture = start(options()).await;
    let mut slow = fixture.connect().await;
    let mut quick = fixture.connect().await;
    for client in [&mut slow, &mut quick] {
        say(client, JOIN_ROOM).await;
        assert!(hear(client).await.contains(r#""status":"ok""#));
    }
    let topic = Topic::parse("realtime:room").unwrap();
    let room = Room {
        topic: topic.clone(),
        private: false,
    };
    let metrics = Arc::clone(&fixture.metrics);
    let closed = || {
        let code = Code { code: "1013" };
        metrics.connections_closed.get_or_create(&code).get()
    };
    let mut said: u8 = 0;
    while closed() == 0 {
        assert!(
            said < 100,
            "{LARGE} bytes each, and the socket is still there"
        );
        let content = Content::Binary {
            event: "e".into(),
            data: vec![said; LARGE].into(),
        };
        let message = Broadcast::new(topic.clone(), content, None);
        fixture.rooms.say(&room, &Arc::new(message));
        // Who reads is skipped nothing.
        match timeout(PATIENCE, quick.next()).await.unwrap() {
            Some(Ok(Message::Binary(bytes))) => assert_eq!(bytes.last(), Some(&said)),
            other => panic!("{other:?}"),
        }
        said += 1;
    }
    // Not before as much waits as any legal message has.
    assert!(usize::from(said) * LARGE > 8 << 20, "{said}");
    say(&mut quick, HEARTBEAT).await;
    assert_eq!(hear(&mut quick).await, HEARTBEAT_REPLY);
    assert_eq!(fixture.rooms.sizes().members, 1);
    let told = fixture.http("GET /metrics", "").await;
    for line in [
        "walcast_rooms 1",
        "walcast_room_members 1",
        "walcast_presences 0",
    ] {
        assert!(told.contains(&format!("\n{line}\n")), "{told}");
    }
    // What was under way may still be read: from the first on, none left out.
    let mut next = 0;
    loop {
        match timeout(PATIENCE, slow.next()).await.unwrap() {
            Some(Ok(Message::Binary(bytes))) => {
                assert_eq!(bytes.last(), Some(&next));
                next += 1;
            }
            Some(Ok(Message::Close(Some(CloseFrame { code, reason })))) => {
                assert_eq!((u16::from(code), reason.as_str()), (1013, "slow consumer"));
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(next < said);
}

#[tokio::test]
async fn who_waits_for_replication_is_told() {
    let fixture = start(options()).await;
    let mut client = fixture.connect().await;
    let join = |topic: &str| {
        format!(
            r#"["1","1","realtime:{topic}","phx_join",{{"config":{{"broadcast":{{"replication_ready":true}},"presence":{{"enabled":false}}}}}}]"#
        )
    };
    say(&mut client, &join("a")).await;
    assert!(hear(&mut client).await.contains(r#""status":"ok""#));
    say(&mut client, HEARTBEAT).await;
    assert_eq!(hear(&mut client).await, HEARTBEAT_REPLY);
    fixture
        .status
        .send_modify(|status| status.broadcasts = true);
    let established = "Replication connection established";
    assert!(hear(&mut client).await.contains(established));
    // Once it flows, who asks is told at once.
    say(&mut client, &join("b")).await;
    assert!(hear(&mut client).await.contains(r#""status":"ok""#));
    assert!(hear(&mut client).await.contains(established));
}

#[tokio::test]
async fn a_vanished_peer_is_unsubscribed() {
    let mut fixture = start(options()).await;
    let mut client = fixture.connect().await;
    let _outbox = fixture.join(&mut client).await;
    drop(client);
    assert_eq!(fixture.command().await.0, "unsubscribe 1");
}

#[tokio::test]
async fn heartbeats_are_answered_while_the_pipeline_takes_no_command() {
    let mut fixture = start(options()).await;
    let mut client = fixture.connect().await;
    // More joins than the queue holds, and nobody reads it.
    for number in 0..20 {
        say(
            &mut client,
            &JOIN.replace("realtime:a", &format!("realtime:{number}")),
        )
        .await;
    }
    say(&mut client, HEARTBEAT).await;
    assert_eq!(hear(&mut client).await, HEARTBEAT_REPLY);
    for number in 1..=20 {
        assert_eq!(fixture.command().await.0, format!("subscribe {number}"));
    }
}

#[tokio::test]
async fn malformed_frames_are_ignored() {
    let fixture = start(options()).await;
    let mut client = fixture.connect().await;
    for text in ["", "nonsense", "[]", "{}", "[1,2,3,4,5]"] {
        say(&mut client, text).await;
    }
    client.send(Message::binary(vec![3, 255, 0])).await.unwrap();
    client.send(Message::Ping(Bytes::new())).await.unwrap();
    say(&mut client, HEARTBEAT).await;
    let pong = timeout(PATIENCE, client.next()).await.unwrap();
    assert!(matches!(pong, Some(Ok(Message::Pong(_)))), "{pong:?}");
    assert_eq!(hear(&mut client).await, HEARTBEAT_REPLY);
}

#[tokio::test]
async fn a_message_that_is_too_large_closes() {
    let fixture = start(ServerOptions {
        frame_bytes_max: 1000,
        ..options()
    })
    .await;
    let mut client = fixture.connect().await;
    say(&mut client, &"x".repeat(1000)).await;
    say(&mut client, HEARTBEAT).await;
    assert_eq!(hear(&mut client).await, HEARTBEAT_REPLY);
    say(&mut client, &"x".repeat(1001)).await;
    assert_eq!(hear_close(&mut client).await.0, 1009);
}

#[tokio::test]
async fn the_default_limit_is_five_million_bytes() {
    let fixture = start(options()).await;
    let mut client = fixture.connect().await;
    say(&mut client, &"x".repeat(5_000_000)).await;
    say(&mut client, HEARTBEAT).await;
    assert_eq!(hear(&mut client).await, HEARTBEAT_REPLY);
    // The server stops reading in the middle, so that sending may fail or wait.
    let (mut sink, mut stream) = client.split();
    let sending = sink.send(Message::text("x".repeat(5_000_001)));
    let close = async {
        loop {
            match stream.next().await {
                Some(Ok(Message::Close(Some(frame)))) => return u16::from(frame.code),
                Some(Ok(_)) => {}
                other => panic!("no close: {other:?}"),
            }
        }
    };
    let code = timeout(PATIENCE, async {
        tokio::select! {
            code = close => code,
            (_sent, ()) = async { (sending.await, std::future::pending::<()>().await) } => 0,
        }
    });
    assert_eq!(code.await.unwrap(), 1009);
}

#[tokio::test]
async fn silence_closes() {
    let limits = Limits {
        idle_timeout: Duration::from_millis(50),
        ..Limits::default()
    };
    let fixture = start(ServerOptions {
        limits,
        ..options()
    })
    .await;
    let mut client = fixture.connect().await;
    assert_eq!(hear_close(&mut client).await, (1000, "idle".into()));
}

#[tokio::test]
async fn a_leaving_server_says_so_and_waits_for_its_sockets() {
    let mut fixture = start(options()).await;
    let mut client = fixture.connect().await;
    let _outbox = fixture.join(&mut client).await;
    let shutdown = fixture.shutdown.clone();
    let (left, ()) = tokio::join!(shutdown.run(PATIENCE), async {
        assert_eq!(
            hear(&mut client).await,
            r#"[null,null,"realtime:a","system",{"extension":"system","status":"ok","message":"Server requested disconnect"}]"#
        );
        assert_eq!(hear_close(&mut client).await.0, 1012);
        assert!(client.next().await.is_none());
        assert_eq!(fixture.command().await.0, "unsubscribe 1");
    });
    assert_eq!(left.server_tasks, 0);
    assert!(TcpStream::connect(fixture.address).await.is_err());
}

/// Numbered payloads of 10 kB.
fn large(count: u32) -> Vec<Bytes> {
    (0..count)
        .map(|number| format!(r#"{{"number":{number},"text":"{}"}}"#, "x".repeat(10_000)).into())
        .collect()
}

#[tokio::test]
async fn a_large_transaction_closes_no_reader() {
    let mut fixture = start(ServerOptions {
        stall_timeout: Duration::from_secs(2),
        ..options()
    })
    .await;
    let mut client = fixture.connect().await;
    let outbox = fixture.join(&mut client).await;
    insert(&fixture.log, 1, large(3000));
    outbox.push(run(1, 3000));
    let mut answered = false;
    for number in 0..3000 {
        if number == 100 {
            say(&mut client, HEARTBEAT).await;
        }
        let mut frame = hear(&mut client).await;
        if frame == HEARTBEAT_REPLY {
            answered = true;
            frame = hear(&mut client).await;
        }
        assert!(frame.contains(&format!(r#""data":{{"number":{number},"#)));
        assert_eq!(frame.contains(r#""last":true"#), number == 2999);
    }
    assert!(answered, "the heartbeat had to wait for all changes");
}

#[tokio::test]
async fn a_peer_that_reads_nothing_is_closed_and_nobody_else() {
    let mut fixture = start(ServerOptions {
        stall_timeout: Duration::from_millis(100),
        ..options()
    })
    .await;
    let mut client = fixture.connect().await;
    let outbox = fixture.join(&mut client).await;
    let mut other = fixture.connect().await;
    insert(&fixture.log, 1, large(3000));
    outbox.push(run(1, 3000));
    assert_eq!(fixture.command().await.0, "unsubscribe 1");
    say(&mut other, HEARTBEAT).await;
    assert_eq!(hear(&mut other).await, HEARTBEAT_REPLY);
    let slow = fixture.metrics.encode();
    assert!(
        slow.contains(r#"walcast_connections_closed_total{code="1013"} 1"#),
        "{slow}"
    );
    // What was under way may still be read, then the close frame if it found room.
    let closed = timeout(PATIENCE, async {
        loop {
            match client.next().await {
                Some(Ok(Message::Close(frame))) => return frame.map(|frame| u16::from(frame.code)),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Some(1013),
            }
        }
    });
    assert_eq!(closed.await.unwrap(), Some(1013));
}

#[tokio::test]
async fn a_reader_whose_place_is_gone_is_closed() {
    let mut fixture = start(options()).await;
    let mut client = fixture.connect().await;
    let outbox = fixture.join(&mut client).await;
    outbox.push(run(99, 1));
    let slow = (1013, "slow consumer".to_owned());
    assert_eq!(hear_close(&mut client).await, slow);
}

#[tokio::test]
async fn a_pipeline_that_is_gone_sends_its_clients_away() {
    let mut fixture = start(options()).await;
    let mut client = fixture.connect().await;
    let _outbox = fixture.join(&mut client).await;
    fixture.commands.close();
    say(&mut client, &JOIN.replace("realtime:a", "realtime:b")).await;
    assert_eq!(hear_close(&mut client).await.0, 1012);
}

/// The answer to an upgrade that is refused.
async fn refused(url: String) -> (u16, String) {
    match connect_async(url).await {
        Err(tungstenite::Error::Http(response)) => {
            let status = response.status().as_u16();
            let body = response.into_body().unwrap_or_default();
            (status, String::from_utf8(body).unwrap())
        }
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test]
async fn upgrades_are_refused_with_the_reason() {
    let fixture = start(ServerOptions {
        sockets_max: 1,
        ..options()
    })
    .await;
    let address = fixture.address;
    let url = |query: &str| format!("ws://{address}/socket/websocket?{query}");
    let token = |expires_in: i64, secret: &str| {
        let grant = Grant {
            role: "anon",
            expires_at: clock::unix_seconds() + expires_in,
            ..Grant::default()
        };
        mint(secret, &grant).unwrap()
    };
    let check = async |query: &str, status: u16, body: &str| {
        assert_eq!(
            refused(url(query)).await,
            (status, body.to_owned()),
            "{query}"
        );
    };
    check("", 401, r#"{"error":"API key is missing"}"#).await;
    let malformed = r#"{"error":"The token provided is not a valid JWT"}"#;
    check("apikey=nonsense", 401, malformed).await;
    let late = token(-10, SECRET);
    check(
        &format!("apikey={late}"),
        401,
        r#"{"error":"Token has expired"}"#,
    )
    .await;
    let forged = token(60, "another secret of enough bytes!!");
    let signature = r#"{"error":"Failed to validate JWT signature"}"#;
    check(&format!("apikey={forged}"), 401, signature).await;
    check(&format!("apikey={KEY}&vsn=3.0.0"), 403, "").await;
    check(&format!("apikey={KEY}&vsn=x"), 403, "").await;
    let good = token(60, SECRET);
    let held = connect_async(url(&format!("eventsPerSecond=10&apikey={good}"))).await;
    let full = r#"{"error":"Too many connected users"}"#;
    check(&format!("apikey={KEY}"), 429, full).await;
    drop(held);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_takes_its_time() {
    let fixture = start(ServerOptions {
        refusal_delay: Duration::from_secs(2),
        ..options()
    })
    .await;
    let begin = clock::instant();
    let answer = fixture.http("GET /socket/websocket", "").await;
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    assert!(clock::instant() - begin >= Duration::from_secs(2));
}

#[tokio::test]
async fn the_header_wins_over_the_query() {
    let fixture = start(options()).await;
    let path = format!("GET /socket/websocket?apikey={KEY}");
    let answer = fixture.http(&path, "x-api-key: nonsense\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    let upgrade = format!(
        "upgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nx-api-key: {KEY}\r\n"
    );
    let mut stream = TcpStream::connect(fixture.address).await.unwrap();
    let head = format!(
        "GET /socket/websocket?apikey=nonsense HTTP/1.1\r\nhost: x\r\n{upgrade}sec-websocket-extensions: permessage-deflate\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = [0; 1024];
    let length = stream.read(&mut answer).await.unwrap();
    let answer = String::from_utf8_lossy(&answer[..length]).to_lowercase();
    assert!(answer.starts_with("http/1.1 101"), "{answer}");
    assert!(!answer.contains("permessage-deflate"));
    let post = fixture.http("POST /socket/websocket", "").await;
    assert!(post.starts_with("HTTP/1.1 400"), "{post}");
}

#[tokio::test]
async fn health_and_readiness() {
    let fixture = start(options()).await;
    let alive = fixture.http("GET /healthcheck", "").await;
    assert!(
        alive.starts_with("HTTP/1.1 200") && alive.ends_with("\r\n\r\nok"),
        "{alive}"
    );
    let starting = fixture.http("GET /ready", "").await;
    assert!(starting.starts_with("HTTP/1.1 503"), "{starting}");
    assert!(starting.ends_with("\r\n\r\nstarting\n"));
    fixture.status.send_modify(|status| {
        status.ready = true;
        status.detail = "changes flow\nsince noon".into();
    });
    let ready = fixture.http("GET /ready", "").await;
    assert!(ready.starts_with("HTTP/1.1 200"), "{ready}");
    assert!(
        ready.ends_with("\r\n\r\nchanges flow since noon\n"),
        "{ready}"
    );
    let path = "GET /api/tenants/realtime-dev/health";
    let forbidden = fixture.http(path, "").await;
    assert!(forbidden.starts_with("HTTP/1.1 403"), "{forbidden}");
    let healthy = fixture
        .http(path, &format!("authorization: Bearer {KEY}\r\n"))
        .await;
    assert!(healthy.contains(r#"{"data":{"healthy":true,"#), "{healthy}");
    let ping = fixture.http("GET /realtime/v1/api/ping", "").await;
    assert!(ping.ends_with(r#"{"message":"Success"}"#), "{ping}");
}

#[tokio::test]
async fn metrics_are_open_unless_there_is_a_secret() {
    let fixture = start(options()).await;
    let open = fixture.http("GET /metrics", "").await;
    assert!(
        open.starts_with("HTTP/1.1 200") && open.contains("# EOF"),
        "{open}"
    );
    let fixture = start(ServerOptions {
        metrics_secret: Some("metrics".into()),
        ..options()
    })
    .await;
    let shut = fixture.http("GET /metrics", "").await;
    assert!(
        shut.starts_with("HTTP/1.1 403") && shut.ends_with("\r\n\r\n"),
        "{shut}"
    );
    let grant = Grant {
        role: "metrics",
        expires_at: clock::unix_seconds() + 60,
        ..Grant::default()
    };
    let token = mint("metrics", &grant).unwrap();
    let headers = format!("authorization: Bearer {token}\r\n");
    let open = fixture.http("GET /metrics", &headers).await;
    assert!(open.starts_with("HTTP/1.1 200"), "{open}");
}

#[tokio::test]
async fn browsers_may_ask_for_broadcasts() {
    let fixture = start(options()).await;
    for path in [
        "/api/broadcast?apikey=x&vsn=2.0.0",
        "/realtime/v1/api/broadcast/a%3Ab%2Fc/events/e",
    ] {
        let wanted = "access-control-request-headers: apikey,x-client-info\r\n";
        let preflight = fixture.http(&format!("OPTIONS {path}"), wanted).await;
        assert!(preflight.starts_with("HTTP/1.1 204"), "{preflight}");
        for header in [
            "access-control-allow-origin: *",
            "access-control-allow-methods: POST",
            "access-control-allow-headers: apikey,x-client-info",
        ] {
            assert!(preflight.contains(header), "{preflight}");
        }
    }
}

#[tokio::test]
async fn counters_of_the_pipeline_never_go_back() {
    let fixture = start(options()).await;
    for transactions in [3, 2] {
        fixture.status.send_modify(|status| {
            status.totals.transactions = transactions;
            status.totals.subscribers = transactions;
        });
        let metrics = fixture.http("GET /metrics", "").await;
        let wanted = [
            "walcast_transactions_total 3\n".to_owned(),
            format!("realtime_subscriptions_manager_subscribers {transactions}\n"),
        ];
        for line in wanted {
            assert!(metrics.contains(&line), "{metrics}");
        }
    }
}
