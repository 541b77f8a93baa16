//! Somebody who listens, comes back when the connection ends, and keeps what came.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use rand::Rng;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use walcast::testing::{Frame, PUBLISHABLE_KEY, Received, Socket, Version, join_payload, user};

use super::ledger::Deed;
use super::{END, Size, conversation, person};

const TOPIC: &str = "realtime:chat";

/// Shorter than the server's patience with silent sockets.
const HEARTBEAT: Duration = Duration::from_secs(20);

/// How a guest goes on after its connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReturnBy {
    /// It begins anew.
    Nothing,
    /// By the newest cursor.
    Since,
    /// By a session's id.
    Resume,
}

/// A change as it came.
#[derive(Clone, Debug)]
pub(super) struct Arrival {
    pub(super) mark: String,
    /// Position of the commit.
    pub(super) lsn: u64,
    pub(super) at: Instant,
    /// A deletion that shows nothing but the key: all who are subscribed may hear of it.
    pub(super) is_bare: bool,
}

/// One connection.
#[derive(Clone, Debug)]
pub(super) struct Stay {
    /// When the bindings were in force for certain.
    pub(super) subscribed_at: Instant,
    pub(super) received: Vec<Arrival>,
    /// It lasted to the end.
    pub(super) is_last: bool,
    /// It goes on where the one before ended.
    pub(super) continues: bool,
}

#[derive(Debug)]
pub(super) struct Guest {
    pub(super) number: usize,
    pub(super) person: usize,
    pub(super) return_by: ReturnBy,
    /// The only conversation that it asks for.
    only: Option<usize>,
    version: Version,
    cursor: Option<String>,
    pub(super) stays: Vec<Stay>,
    /// When each fence came.
    pub(super) fences: Vec<(i64, Instant)>,
    /// Whatever was said that should not have been.
    pub(super) told: Vec<String>,
}

impl Guest {
    pub(super) fn invite(
        number: usize,
        size: &Size,
        audiences: &[BTreeSet<usize>],
        dice: &mut StdRng,
    ) -> Self {
        let home = dice.random_range(0..size.conversations);
        // Mostly somebody who takes part somewhere.
        let person = if dice.random_bool(0.9) {
            let place = dice.random_range(0..audiences[home].len());
            *audiences[home].iter().nth(place).unwrap()
        } else {
            dice.random_range(0..size.people)
        };
        Self {
            number,
            person,
            return_by: [ReturnBy::Nothing, ReturnBy::Since, ReturnBy::Resume][number % 3],
            only: dice.random_bool(0.3).then_some(home),
            version: [Version::V2, Version::V2, Version::V1][dice.random_range(0..3)],
            cursor: None,
            stays: Vec::new(),
            fences: Vec::new(),
            told: Vec::new(),
        }
    }

    pub(super) fn wants(&self, conversation: usize, deed: Deed) -> bool {
        match self.only {
            Some(only) => only == conversation && deed != Deed::Members,
            None => true,
        }
    }

    pub(super) fn is_filtered(&self) -> bool {
        self.only.is_some()
    }

    fn bindings(&self) -> Value {
        let mut bindings = match self.only {
            Some(only) => vec![json!({
                "event": "*", "schema": "public", "table": "messages",
                "filter": format!("conversation_id=eq.{}", conversation(only)),
            })],
            None => vec![
                json!({"event": "*", "schema": "public", "table": "messages"}),
                json!({"event": "UPDATE", "schema": "public", "table": "conversations"}),
            ],
        };
        if self.return_by == ReturnBy::Since
            && let Some(cursor) = &self.cursor
        {
            for binding in &mut bindings {
                binding["since"] = cursor.as_str().into();
            }
        }
        Value::from(bindings)
    }

    /// Listens until the fence of the end, whatever happens to the server. Says once that it has joined.
    pub(super) async fn stay(&mut self, port: u16, arrived: tokio::sync::mpsc::Sender<usize>) {
        let mut arrived = Some(arrived);
        loop {
            if let Some(mut socket) = self.join(port).await {
                if let Some(arrived) = arrived.take() {
                    arrived.send(self.number).await.unwrap();
                }
                if self.listen(&mut socket).await {
                    socket.close().await;
                    return;
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn join(&mut self, port: u16) -> Option<Socket> {
        let number = match self.version {
            Version::V1 => "1.0.0",
            Version::V2 => "2.0.0",
        };
        let mut path = format!("/realtime/v1/websocket?apikey={PUBLISHABLE_KEY}&vsn={number}");
        if self.return_by == ReturnBy::Resume {
            path.push_str(&format!(
                "&resume=0f8fad5b-d9cb-469f-a165-{:012}",
                self.number
            ));
        }
        let mut socket = Socket::upgrade(port, &path, &[]).await.ok()?;
        let token = user(&person(self.person));
        let payload = join_payload(&self.bindings(), Some(&token));
        if !socket
            .offer(Some("1"), "1", TOPIC, "phx_join", &payload)
            .await
        {
            return None;
        }
        // What comes before the bindings are in force for certain counts as well.
        let mut stay = Stay {
            subscribed_at: Instant::now(),
            received: Vec::new(),
            is_last: false,
            continues: match self.return_by {
                ReturnBy::Nothing => false,
                ReturnBy::Since => self.cursor.is_some(),
                ReturnBy::Resume => !self.stays.is_empty(),
            },
        };
        loop {
            match socket.receive().await {
                Received::Closed(..) => {
                    self.keep(stay);
                    return None;
                }
                Received::Frame(frame) if frame.event == "phx_reply" => {
                    let reply = frame.payload.to_string();
                    // Nobody is served yet: once more, from the same place.
                    if reply.contains("RealtimeRestarting") {
                        return None;
                    }
                    if frame.payload["status"] != "ok" {
                        self.told.push(reply);
                        self.cursor = None;
                        return None;
                    }
                }
                Received::Frame(frame)
                    if frame.payload["message"] == "Subscribed to PostgreSQL" =>
                {
                    stay.subscribed_at = Instant::now();
                    self.stays.push(stay);
                    return Some(socket);
                }
                Received::Frame(frame) => {
                    if let Some(false) = self.take(&mut stay, &frame) {
                        self.keep(stay);
                        return None;
                    }
                }
            }
        }
    }

    /// A connection that ended before the bindings were in force may have brought something all the same.
    fn keep(&mut self, stay: Stay) {
        if !stay.received.is_empty() {
            self.stays.push(stay);
        }
    }

    /// Until the fence of the end (true), or the end of the connection.
    async fn listen(&mut self, socket: &mut Socket) -> bool {
        let mut stay = self.stays.pop().unwrap();
        let mut beat = tokio::time::interval(HEARTBEAT);
        let ended = loop {
            tokio::select! {
                received = socket.listen() => match received {
                    Received::Closed(..) => break false,
                    Received::Frame(frame) => if let Some(ended) = self.take(&mut stay, &frame) {
                        break ended;
                    },
                },
                _ = beat.tick() => {
                    if !socket.offer(None, "alive-1", "phoenix", "heartbeat", &json!({})).await {
                        break false;
                    }
                }
            }
        };
        stay.is_last = ended;
        self.stays.push(stay);
        ended
    }

    /// Whether this is the end: true if all has come, false if it has to come back.
    fn take(&mut self, stay: &mut Stay, frame: &Frame) -> Option<bool> {
        let data = &frame.payload["data"];
        match frame.event.as_str() {
            "postgres_changes" => {}
            "phx_error" => return Some(false),
            "system" => {
                let text = frame.payload["message"].as_str().unwrap_or_default();
                let expected = ["Subscribed to PostgreSQL", "Server requested disconnect"];
                if !expected.contains(&text) {
                    self.told.push(text.to_owned());
                }
                return None;
            }
            _ => return None,
        }
        if let Some(cursor) = data["cursor"].as_str() {
            self.cursor = Some(cursor.to_owned());
        }
        if data["schema"] == "fence" {
            let number = data["record"]["n"].as_i64().unwrap();
            self.fences.push((number, Instant::now()));
            return (number > END).then_some(true);
        }
        let text = |value: &Value| value.as_str().unwrap_or("(none)").to_owned();
        let mark = match (
            data["table"].as_str().unwrap(),
            data["type"].as_str().unwrap(),
        ) {
            ("messages", "DELETE") => format!("gone {}", text(&data["old_record"]["id"])),
            ("messages", _) => text(&data["record"]["content"]),
            _ => text(&data["record"]["title"]),
        };
        let lsn = position(data["commit_lsn"].as_str().unwrap());
        let old = data["old_record"].as_object();
        stay.received.push(Arrival {
            is_bare: mark.starts_with("gone") && old.is_some_and(|old| old.len() == 1),
            mark,
            lsn,
            at: Instant::now(),
        });
        None
    }
}

fn position(text: &str) -> u64 {
    let (high, low) = text.split_once('/').unwrap();
    let of = |text: &str| u64::from_str_radix(text, 16).unwrap();
    (of(high) << 32) | of(low)
}
