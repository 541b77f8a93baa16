//! A raw realtime socket: sends and receives frames of either protocol version, and interprets nothing.
//!
//! *io*: a WebSocket.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::{HeaderName, HeaderValue};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use super::PATIENCE;

/// Shorter than the server's idle timeout (protocol.md §2.6), also on a busy machine.
const HEARTBEAT: Duration = Duration::from_secs(20);

/// The `vsn` of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// 1.0.0: objects.
    V1,
    /// 2.0.0: arrays.
    V2,
}

/// A frame from the server.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    /// Null in version 1, which has none.
    pub join_ref: Value,
    /// `ref`.
    pub reference: Value,
    /// With its `realtime:`.
    pub topic: String,
    /// `phx_reply`, `system`, …
    pub event: String,
    /// Whatever the event carries.
    pub payload: Value,
    /// The text as it came; empty for a binary frame.
    pub raw: String,
    /// A binary frame as it came. Its message is that of the stock client.
    pub binary: Option<Vec<u8>>,
}

/// What comes out of a socket.
#[derive(Clone, Debug, PartialEq)]
pub enum Received {
    /// A frame.
    Frame(Box<Frame>),
    /// The end: close code (`None` without a close frame) and reason.
    Closed(Option<u16>, String),
}

/// A connected socket.
#[derive(Debug)]
pub struct Socket {
    stream: WebSocketStream<MaybeTlsStream<TcpStream>>,
    version: Version,
    /// Frames that were read while another was looked for.
    skipped: VecDeque<Frame>,
    references: u64,
    heartbeats: u64,
    /// When the last one was sent.
    alive_at: Instant,
}

impl Socket {
    /// Connects with an API key (a token or one of the configured keys).
    ///
    /// # Panics
    ///
    /// If the upgrade is refused.
    pub async fn connect(port: u16, key: &str, version: Version) -> Self {
        let number = match version {
            Version::V1 => "1.0.0",
            Version::V2 => "2.0.0",
        };
        let path = format!("/realtime/v1/websocket?apikey={key}&vsn={number}");
        Self::upgrade(port, &path, &[]).await.unwrap()
    }

    /// Asks for an upgrade at any path, with any headers.
    ///
    /// # Errors
    ///
    /// Status and body of the refusal; status 0 if the connection was refused or lost.
    pub async fn upgrade(
        port: u16,
        path: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<Self, (u16, String)> {
        let version = if path.contains("vsn=2") {
            Version::V2
        } else {
            Version::V1
        };
        let mut request = format!("ws://127.0.0.1:{port}{path}")
            .into_client_request()
            .unwrap();
        for (name, value) in headers {
            let value = HeaderValue::from_str(value).unwrap();
            request
                .headers_mut()
                .insert(HeaderName::from_static(name), value);
        }
        let connected =
            tokio::time::timeout(PATIENCE, tokio_tungstenite::connect_async(request)).await;
        match connected.expect("the server answers an upgrade") {
            Ok((stream, _response)) => Ok(Self {
                stream,
                version,
                skipped: VecDeque::new(),
                references: 0,
                heartbeats: 0,
                alive_at: Instant::now(),
            }),
            Err(tungstenite::Error::Http(response)) => {
                let body = response.body().as_deref().unwrap_or_default();
                Err((
                    response.status().as_u16(),
                    String::from_utf8_lossy(body).into_owned(),
                ))
            }
            Err(error) => Err((0, error.to_string())),
        }
    }

    /// A `ref` that was not used yet.
    pub fn next_reference(&mut self) -> String {
        self.references = self.references.saturating_add(1);
        self.references.to_string()
    }

    /// Sends a message in the socket's version.
    pub async fn send(
        &mut self,
        join_ref: Option<&str>,
        reference: &str,
        topic: &str,
        event: &str,
        payload: &Value,
    ) {
        let text = self.encode(join_ref, reference, topic, event, payload);
        self.send_text(&text).await;
    }

    /// As [`Self::send`]; false if the connection is lost.
    pub async fn offer(
        &mut self,
        join_ref: Option<&str>,
        reference: &str,
        topic: &str,
        event: &str,
        payload: &Value,
    ) -> bool {
        let text = self.encode(join_ref, reference, topic, event, payload);
        self.try_send(Message::text(text)).await.is_ok()
    }

    /// Sends any text.
    pub async fn send_text(&mut self, text: &str) {
        self.try_send(Message::text(text)).await.unwrap();
    }

    /// Sends any bytes as a binary frame.
    pub async fn send_binary(&mut self, bytes: Vec<u8>) {
        self.try_send(Message::binary(bytes)).await.unwrap();
    }

    /// Sends a text that the server may refuse half-way by closing.
    pub async fn send_rejected(&mut self, text: String) {
        let _closed_meanwhile = self.try_send(Message::text(text)).await;
    }

    /// The next frame or the end; answers nothing, but keeps the socket alive with heartbeats.
    ///
    /// # Panics
    ///
    /// When nothing comes within [`PATIENCE`].
    pub async fn receive(&mut self) -> Received {
        if let Some(frame) = self.skipped.pop_front() {
            return Received::Frame(Box::new(frame));
        }
        self.read(PATIENCE).await
    }

    /// The next frame.
    ///
    /// # Panics
    ///
    /// When the server closes instead.
    pub async fn frame(&mut self) -> Frame {
        match self.receive().await {
            Received::Frame(frame) => *frame,
            Received::Closed(code, reason) => panic!("closed with {code:?} {reason:?}"),
        }
    }

    /// The next frame that `wanted` likes. Others stay, in order, for later calls.
    pub async fn find(&mut self, wanted: impl Fn(&Frame) -> bool) -> Frame {
        if let Some(place) = self.skipped.iter().position(&wanted) {
            return self
                .skipped
                .remove(place)
                .expect("the place was just found");
        }
        loop {
            match self.read(PATIENCE).await {
                Received::Frame(frame) if wanted(&frame) => return *frame,
                Received::Frame(frame) => self.skipped.push_back(*frame),
                Received::Closed(code, reason) => {
                    panic!("closed with {code:?} {reason:?} after {:#?}", self.skipped)
                }
            }
        }
    }

    /// The reply to `reference`.
    pub async fn reply(&mut self, reference: &str) -> Frame {
        self.find(|frame| frame.event == "phx_reply" && frame.reference == reference)
            .await
    }

    /// Sends a message and waits for its reply's payload.
    pub async fn ask(
        &mut self,
        join_ref: Option<&str>,
        topic: &str,
        event: &str,
        payload: &Value,
    ) -> Value {
        let reference = self.next_reference();
        self.send(join_ref, &reference, topic, event, payload).await;
        self.reply(&reference).await.payload
    }

    /// Proves that the socket lives and has nothing more to say now: the frames that came before a heartbeat's reply.
    pub async fn settle(&mut self) -> Vec<Frame> {
        let reference = self.next_reference();
        self.send(None, &reference, "phoenix", "heartbeat", &json!({}))
            .await;
        self.reply(&reference).await;
        self.skipped.drain(..).collect()
    }

    /// Waits for the end; frames before it are dropped. Gives the close code.
    pub async fn closed(&mut self) -> Option<u16> {
        loop {
            if let Received::Closed(code, _reason) = self.receive().await {
                return code;
            }
        }
    }

    /// Says goodbye and drops the connection.
    pub async fn close(mut self) {
        let _already_closed = self.stream.close(None).await;
    }

    /// Says goodbye as browsers do: reads on, and forgets, until the server has answered.
    pub async fn part(mut self) {
        let _already_closed = self.stream.close(None).await;
        let end = async { while let Some(Ok(_late)) = self.stream.next().await {} };
        let _timely = tokio::time::timeout(PATIENCE, end).await;
    }

    fn encode(
        &self,
        join_ref: Option<&str>,
        reference: &str,
        topic: &str,
        event: &str,
        payload: &Value,
    ) -> String {
        let message = match self.version {
            Version::V1 => {
                json!({"topic": topic, "event": event, "payload": payload, "ref": reference, "join_ref": join_ref})
            }
            Version::V2 => json!([join_ref, reference, topic, event, payload]),
        };
        message.to_string()
    }

    async fn try_send(&mut self, message: Message) -> Result<(), tungstenite::Error> {
        tokio::time::timeout(PATIENCE, self.stream.send(message))
            .await
            .expect("the server reads its socket")
    }

    async fn keep_alive(&mut self) {
        self.alive_at = Instant::now();
        self.heartbeats = self.heartbeats.saturating_add(1);
        let reference = format!("alive-{}", self.heartbeats);
        self.send(None, &reference, "phoenix", "heartbeat", &json!({}))
            .await;
    }

    async fn read(&mut self, patience: Duration) -> Received {
        // Answers to heartbeats and the server's pings are nothing that anybody waits for.
        let began = Instant::now();
        loop {
            // As clients do, also while they have much to read.
            if self.alive_at.elapsed() >= HEARTBEAT {
                self.keep_alive().await;
            }
            assert!(
                began.elapsed() <= patience,
                "nothing came; before: {:#?}",
                self.skipped
            );
            let Ok(message) = tokio::time::timeout(HEARTBEAT, self.stream.next()).await else {
                continue;
            };
            if let Some(received) = self.understand(message) {
                return received;
            }
        }
    }

    /// The next frame or the end, without a heartbeat meanwhile and without a limit of time.
    ///
    /// Cancel safe.
    pub async fn listen(&mut self) -> Received {
        loop {
            let message = self.stream.next().await;
            if let Some(received) = self.understand(message) {
                return received;
            }
        }
    }

    fn understand(&self, message: Option<Result<Message, tungstenite::Error>>) -> Option<Received> {
        match message {
            Some(Ok(Message::Text(text))) => {
                let frame = self.parse(text.as_str());
                let is_own = (frame.reference.as_str())
                    .is_some_and(|reference| reference.starts_with("alive-"));
                (!is_own).then(|| Received::Frame(Box::new(frame)))
            }
            Some(Ok(Message::Close(Some(close)))) => Some(Received::Closed(
                Some(close.code.into()),
                close.reason.to_string(),
            )),
            Some(Ok(Message::Close(None)) | Err(_)) | None => {
                Some(Received::Closed(None, String::new()))
            }
            Some(Ok(Message::Binary(bytes))) => {
                Some(Received::Frame(Box::new(self.parse_binary(bytes.to_vec()))))
            }
            Some(Ok(_ping_or_pong)) => None,
        }
    }

    fn parse_binary(&self, bytes: Vec<u8>) -> Frame {
        assert_eq!(self.version, Version::V2, "version 1 has no binary frames");
        let (topic, payload) = super::binary::decode(&bytes);
        Frame {
            join_ref: Value::Null,
            reference: Value::Null,
            topic,
            event: "broadcast".to_owned(),
            payload,
            raw: String::new(),
            binary: Some(bytes),
        }
    }

    #[track_caller]
    fn parse(&self, raw: &str) -> Frame {
        let value: Value = serde_json::from_str(raw).unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        match (self.version, value) {
            (Version::V1, Value::Object(object)) => {
                let keys: Vec<&str> = object.keys().map(String::as_str).collect();
                assert_eq!(
                    keys.len(),
                    4,
                    "version 1 has exactly topic, event, payload, ref: {raw}"
                );
                Frame {
                    join_ref: Value::Null,
                    reference: object["ref"].clone(),
                    topic: text(&object["topic"]),
                    event: text(&object["event"]),
                    payload: object["payload"].clone(),
                    raw: raw.to_owned(),
                    binary: None,
                }
            }
            (Version::V2, Value::Array(mut parts)) => {
                assert_eq!(parts.len(), 5, "version 2 has five elements: {raw}");
                Frame {
                    join_ref: parts[0].take(),
                    reference: parts[1].take(),
                    topic: text(&parts[2]),
                    event: text(&parts[3]),
                    payload: parts[4].take(),
                    raw: raw.to_owned(),
                    binary: None,
                }
            }
            (version, value) => panic!("not a frame of {version:?}: {value}"),
        }
    }
}
