//! One channel without bindings on a socket of its own: broadcasts, presence.
//!
//! *io*: reads a socket.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::attendance::Attendance;
use super::binary::Push;
use super::socket::{Frame, Received, Socket, Version};

/// A channel that is joined.
#[derive(Debug)]
pub struct Channel {
    /// The socket, for anything out of the ordinary.
    pub socket: Socket,
    /// With its `realtime:`.
    pub topic: String,
    /// Its join reference.
    pub join_ref: String,
    /// Who is present, as far as was read.
    pub attendance: Attendance,
    version: Version,
}

impl Channel {
    /// Joins on a socket of its own that carries the publishable key; `config` is that of the join.
    ///
    /// # Panics
    ///
    /// If the join is refused.
    pub async fn join(
        port: u16,
        version: Version,
        sub_topic: &str,
        config: &Value,
        token: Option<&str>,
    ) -> Self {
        let joined = Self::try_join(port, version, sub_topic, config, token).await;
        joined.unwrap_or_else(|reason| panic!("{sub_topic}: {reason}"))
    }

    /// As [`Self::join`].
    ///
    /// # Errors
    ///
    /// The reason of a refusal.
    pub async fn try_join(
        port: u16,
        version: Version,
        sub_topic: &str,
        config: &Value,
        token: Option<&str>,
    ) -> Result<Self, String> {
        let socket = Socket::connect(port, super::token::PUBLISHABLE_KEY, version).await;
        Self::join_on(socket, version, sub_topic, config, token).await
    }

    /// As [`Self::try_join`], on a socket that exists.
    ///
    /// # Errors
    ///
    /// The reason of a refusal.
    pub async fn join_on(
        mut socket: Socket,
        version: Version,
        sub_topic: &str,
        config: &Value,
        token: Option<&str>,
    ) -> Result<Self, String> {
        let topic = format!("realtime:{sub_topic}");
        let join_ref = socket.next_reference();
        let payload = json!({"config": config, "access_token": token});
        socket
            .send(Some(&join_ref), &join_ref, &topic, "phx_join", &payload)
            .await;
        let reply = socket.reply(&join_ref).await.payload;
        if reply["status"] != "ok" {
            return Err(reply["response"]["reason"].as_str().unwrap().to_owned());
        }
        assert_eq!(reply["response"], json!({"postgres_changes": []}));
        Ok(Self {
            socket,
            topic,
            join_ref,
            attendance: Attendance::default(),
            version,
        })
    }

    /// Broadcasts as the stock client of this version does: an object in version 1, kind 3 in version 2. Waits for nothing;
    /// gives the reference.
    pub async fn say(&mut self, event: &str, payload: &Value) -> String {
        match self.version {
            Version::V1 => self.say_text(event, payload).await,
            Version::V2 => {
                let payload = payload.to_string();
                self.push(&Push {
                    event,
                    payload: payload.as_bytes(),
                    ..Push::default()
                })
                .await
            }
        }
    }

    /// Broadcasts an object as text, in either version.
    pub async fn say_text(&mut self, event: &str, payload: &Value) -> String {
        let message = json!({"type": "broadcast", "event": event, "payload": payload});
        self.request("broadcast", &message).await
    }

    /// Sends a frame of kind 3, with references and topic of this channel.
    pub async fn push(&mut self, push: &Push<'_>) -> String {
        let reference = self.socket.next_reference();
        let frame = Push {
            join_ref: &self.join_ref,
            reference: &reference,
            topic: &self.topic,
            ..*push
        };
        self.socket.send_binary(frame.encode()).await;
        reference
    }

    /// Tracks an object and gives the payload of the reply.
    pub async fn track(&mut self, payload: &Value) -> Value {
        let message = json!({"type": "presence", "event": "track", "payload": payload});
        let reference = self.request("presence", &message).await;
        self.socket.reply(&reference).await.payload
    }

    /// Tracks nothing more and gives the payload of the reply.
    pub async fn untrack(&mut self) -> Value {
        let message = json!({"type": "presence", "event": "untrack"});
        let reference = self.request("presence", &message).await;
        self.socket.reply(&reference).await.payload
    }

    /// Sends a new token, which is never replied to.
    pub async fn set_token(&mut self, token: &str) {
        let message = json!({"access_token": token});
        self.request("access_token", &message).await;
    }

    /// Leaves and waits until the server has said goodbye.
    pub async fn leave(mut self) -> Socket {
        let reference = self.request("phx_leave", &json!({})).await;
        let reply = self.socket.reply(&reference).await.payload;
        assert_eq!(reply, json!({"status": "ok", "response": {}}));
        let topic = self.topic;
        self.socket
            .find(|frame| frame.event == "phx_close" && frame.topic == topic)
            .await;
        self.socket
    }

    /// Sends a message of any event and gives its reference.
    pub async fn request(&mut self, event: &str, payload: &Value) -> String {
        let reference = self.socket.next_reference();
        self.socket
            .send(
                Some(&self.join_ref),
                &reference,
                &self.topic,
                event,
                payload,
            )
            .await;
        reference
    }

    /// The next broadcast.
    pub async fn heard(&mut self) -> Frame {
        self.next("broadcast").await
    }

    /// The next broadcast's event and payload.
    pub async fn heard_briefly(&mut self) -> (String, Value) {
        let mut payload = self.heard().await.payload;
        let event = payload["event"].as_str().unwrap().to_owned();
        (event, payload["payload"].take())
    }

    /// The next frame of this channel with this event; others stay.
    pub async fn next(&mut self, event: &str) -> Frame {
        let topic = self.topic.clone();
        self.socket
            .find(|frame| frame.event == event && frame.topic == topic)
            .await
    }

    /// Reads presence until it is as expected: by key, the tracked objects as text, sorted.
    ///
    /// # Panics
    ///
    /// When nothing more comes, with what was seen last.
    pub async fn attended_by(&mut self, expected: &[(&str, &[Value])]) {
        let expected: BTreeMap<String, Vec<String>> = expected
            .iter()
            .map(|(key, metas)| {
                let mut texts: Vec<String> = metas.iter().map(Value::to_string).collect();
                texts.sort();
                ((*key).to_owned(), texts)
            })
            .collect();
        while !self.attendance.synced() || self.attendance.view() != expected {
            let topic = self.topic.clone();
            let seen = format!("{:?}", self.attendance.view());
            let next = self
                .socket
                .find(|frame| frame.event.starts_with("presence_") && frame.topic == topic);
            let frame = tokio::time::timeout(super::PATIENCE, next)
                .await
                .unwrap_or_else(|_elapsed| panic!("expected {expected:?}, seen {seen}"));
            self.notice(&frame);
        }
    }

    /// Takes a frame into [`Self::attendance`] if it is about presence.
    pub fn notice(&mut self, frame: &Frame) {
        match frame.event.as_str() {
            "presence_state" => self.attendance.state(&frame.payload),
            "presence_diff" => self.attendance.diff(&frame.payload),
            _ => {}
        }
    }

    /// Waits until the server ends the channel, and gives what it said about it.
    ///
    /// # Panics
    ///
    /// If it gives no reason, or asks the client to join again.
    pub async fn removed(&mut self) -> String {
        let mut told = None;
        loop {
            let frame = match self.socket.receive().await {
                Received::Frame(frame) => *frame,
                Received::Closed(code, reason) => panic!("closed with {code:?} {reason:?}"),
            };
            if frame.topic != self.topic {
                continue;
            }
            match frame.event.as_str() {
                "system" if frame.payload["status"] == "error" => {
                    assert_eq!(frame.payload["extension"], "system", "{}", frame.payload);
                    let channel = self.topic.strip_prefix("realtime:").unwrap();
                    assert_eq!(frame.payload["channel"], channel, "{}", frame.payload);
                    told = frame.payload["message"].as_str().map(str::to_owned);
                }
                "phx_close" => {
                    assert_eq!(frame.reference, self.join_ref.as_str(), "{}", frame.raw);
                    return told.expect("a reason before phx_close");
                }
                "phx_error" => panic!("{}; told before: {told:?}", frame.raw),
                _ => {}
            }
        }
    }
}
