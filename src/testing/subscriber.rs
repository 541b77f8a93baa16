//! One channel with bindings on a socket of its own.
//!
//! *io*: reads a socket.

use serde_json::{Value, json};

use super::socket::{Frame, Received, Socket, Version};

/// A row change as a subscriber got it.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// The bindings that matched, by the numbers of the join reply.
    pub ids: Vec<i64>,
    /// The last of its transaction for this channel.
    pub last: bool,
    /// The `data` object.
    pub data: Value,
}

impl Change {
    /// `INSERT`, `UPDATE`, `DELETE`.
    #[must_use]
    pub fn kind(&self) -> &str {
        self.data["type"].as_str().unwrap()
    }

    /// The `record`; null if absent.
    #[must_use]
    pub fn record(&self) -> &Value {
        &self.data["record"]
    }

    /// The `old_record`; null if absent.
    #[must_use]
    pub fn old_record(&self) -> &Value {
        &self.data["old_record"]
    }

    /// Type and the value of one column: of the new row, or of the old one if there is no new.
    #[must_use]
    pub fn brief(&self, column: &str) -> (String, Value) {
        let row = if self.kind() == "DELETE" {
            self.old_record()
        } else {
            self.record()
        };
        (self.kind().to_owned(), row[column].clone())
    }
}

/// A channel that is subscribed.
#[derive(Debug)]
pub struct Subscriber {
    /// The socket, for anything out of the ordinary.
    pub socket: Socket,
    /// The channel's topic, with `realtime:`.
    pub topic: String,
    /// Its join reference.
    pub join_ref: String,
    /// Numbers of the bindings in the order asked for.
    pub ids: Vec<i64>,
    /// What the channel was told besides changes since the last look: `system`, `phx_error`, `phx_close` frames.
    pub told: Vec<Frame>,
    fence_id: i64,
}

/// The payload of a join with these bindings and, as last binding, the fence.
#[must_use]
pub fn join_payload(bindings: &Value, token: Option<&str>) -> Value {
    let mut bindings = bindings
        .as_array()
        .cloned()
        .unwrap_or_else(|| vec![bindings.clone()]);
    bindings.push(json!({"event": "INSERT", "schema": "fence", "table": "line"}));
    let mut payload = json!({"config": {
        "broadcast": {"ack": false, "self": false},
        "presence": {"key": "", "enabled": false},
        "private": false,
        "postgres_changes": bindings,
    }});
    if let Some(token) = token {
        payload["access_token"] = token.into();
    }
    payload
}

impl Subscriber {
    /// Connects with the publishable key, joins with a token (or without) and waits until the bindings are in force.
    /// `bindings` is one binding or an array of them.
    ///
    /// # Panics
    ///
    /// If the join or a binding is refused.
    pub async fn join(port: u16, token: Option<&str>, bindings: &Value) -> Self {
        let socket = Socket::connect(port, super::token::PUBLISHABLE_KEY, Version::V2).await;
        Self::join_on(socket, "realtime:room", token, bindings).await
    }

    /// As [`Self::join`]; `None` if the join or a binding is refused.
    pub async fn try_join(port: u16, token: &str, bindings: &Value) -> Option<Self> {
        let mut socket = Socket::connect(port, super::token::PUBLISHABLE_KEY, Version::V2).await;
        let mut payload = join_payload(bindings, Some(token));
        payload["config"]["postgres_changes_options"] = json!({"wait": true});
        let join_ref = socket.next_reference();
        socket
            .send(
                Some(&join_ref),
                &join_ref,
                "realtime:trial",
                "phx_join",
                &payload,
            )
            .await;
        let reply = socket.reply(&join_ref).await.payload;
        if reply["status"] != "ok" {
            return None;
        }
        Some(Self::join(port, Some(token), bindings).await)
    }

    /// As [`Self::join`], on a socket that exists.
    pub async fn join_on(
        mut socket: Socket,
        topic: &str,
        token: Option<&str>,
        bindings: &Value,
    ) -> Self {
        let join_ref = socket.next_reference();
        let payload = join_payload(bindings, token);
        socket
            .send(Some(&join_ref), &join_ref, topic, "phx_join", &payload)
            .await;
        let reply = socket.reply(&join_ref).await.payload;
        assert_eq!(reply["status"], "ok", "{reply}");
        let mut ids: Vec<i64> = reply["response"]["postgres_changes"]
            .as_array()
            .unwrap()
            .iter()
            .map(|binding| binding["id"].as_i64().unwrap())
            .collect();
        let fence_id = ids.pop().unwrap();
        let mut subscriber = Self {
            socket,
            topic: topic.to_owned(),
            join_ref,
            ids,
            told: Vec::new(),
            fence_id,
        };
        let first = subscriber.system().await;
        assert_eq!(first["message"], "Subscribed to PostgreSQL", "{first}");
        subscriber
    }

    /// The next `system` message of the channel. Changes before it stay for later.
    pub async fn system(&mut self) -> Value {
        let topic = self.topic.clone();
        self.socket
            .find(|frame| frame.event == "system" && frame.topic == topic)
            .await
            .payload
    }

    /// Everything that comes before `Snapshot complete`: the rows that were there when it joined.
    ///
    /// # Panics
    ///
    /// If what comes is no such row.
    pub async fn snapshot(&mut self) -> Vec<Change> {
        let mut rows = Vec::new();
        loop {
            let frame = self.socket.frame().await;
            match frame.event.as_str() {
                "postgres_changes" => {
                    let row = parse_change(frame.payload);
                    assert_eq!(row.data["snapshot"], true, "{row:?}");
                    assert_eq!((row.kind(), row.last), ("INSERT", false), "{row:?}");
                    rows.push(row);
                }
                "system" if frame.payload["message"] == "Snapshot complete" => {
                    assert_eq!(frame.payload["status"], "ok");
                    return rows;
                }
                "phx_error" | "phx_close" => {
                    panic!("{}; told before: {:#?}", frame.raw, self.told)
                }
                _ => self.told.push(frame),
            }
        }
    }

    /// The next change; fences are passed over.
    pub async fn change(&mut self) -> Change {
        loop {
            let change = self.any_change().await;
            if !self.is_fence(&change) {
                return change;
            }
        }
    }

    /// The next `count` changes.
    pub async fn changes(&mut self, count: usize) -> Vec<Change> {
        let mut changes = Vec::with_capacity(count);
        while changes.len() < count {
            changes.push(self.change().await);
        }
        changes
    }

    /// Everything that comes before this fence ([`super::App::fence`]): what is not in it never comes.
    pub async fn until(&mut self, fence: i64) -> Vec<Change> {
        let mut changes = Vec::new();
        loop {
            let change = self.any_change().await;
            if !self.is_fence(&change) {
                changes.push(change);
            } else if change.record()["n"].as_i64() == Some(fence) {
                return changes;
            }
        }
    }

    /// Waits for `phx_close` (true) or `phx_error` (false) of this channel, keeping the `system` messages before it in
    /// [`Self::told`]. Changes before it are dropped.
    pub async fn closed(&mut self) -> bool {
        loop {
            let frame = self.socket.frame().await;
            if frame.topic != self.topic {
                continue;
            }
            match frame.event.as_str() {
                "phx_close" | "phx_error" => {
                    assert_eq!(frame.reference, self.join_ref.as_str(), "{}", frame.raw);
                    return frame.event == "phx_close";
                }
                "system" => self.told.push(frame),
                _ => {}
            }
        }
    }

    /// Sends a new token; the answer, if any, comes as a `system` message.
    pub async fn set_token(&mut self, token: &str) {
        let reference = self.socket.next_reference();
        let payload = json!({"access_token": token});
        self.socket
            .send(
                Some(&self.join_ref),
                &reference,
                &self.topic,
                "access_token",
                &payload,
            )
            .await;
    }

    async fn any_change(&mut self) -> Change {
        loop {
            let frame = match self.socket.receive().await {
                Received::Frame(frame) => *frame,
                Received::Closed(code, reason) => {
                    panic!(
                        "closed with {code:?} {reason:?}; told before: {:#?}",
                        self.told
                    )
                }
            };
            match frame.event.as_str() {
                "postgres_changes" => return parse_change(frame.payload),
                "phx_error" | "phx_close" => panic!("{}; told before: {:#?}", frame.raw, self.told),
                _ => self.told.push(frame),
            }
        }
    }

    fn is_fence(&self, change: &Change) -> bool {
        change.ids.contains(&self.fence_id)
    }
}

/// Reads the payload of a `postgres_changes` frame.
pub(super) fn parse_change(mut payload: Value) -> Change {
    Change {
        ids: payload["ids"]
            .as_array()
            .unwrap()
            .iter()
            .map(|id| id.as_i64().unwrap())
            .collect(),
        last: payload["last"] == true,
        data: payload["data"].take(),
    }
}
