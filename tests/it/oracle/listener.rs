//! A subscriber to everything in schema `app`, on a socket of its own.

use serde_json::{Value, json};
use walcast::testing::{PUBLISHABLE_KEY, Received, Socket, Version, join_payload, mint};

use super::claims::Identity;

#[derive(Debug)]
pub(super) struct Listener {
    pub(super) identity: Identity,
    socket: Socket,
    fence: i64,
}

/// What came before a fence.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// The `data` objects of changes.
    pub(super) changes: Vec<Value>,
    /// SQLSTATEs of policies that raised.
    pub(super) raised: Vec<String>,
    /// Anything else: the channel has ended, for this reason.
    pub(super) ended: Option<String>,
}

impl Heard {
    /// Whether a question was not answered in time (SQLSTATE of a statement that its timeout ended).
    pub(super) fn is_late(&self) -> bool {
        self.raised.iter().any(|state| state == "57014")
    }
}

impl Listener {
    pub(super) async fn join(port: u16, identity: Identity, schema: &str) -> Self {
        let mut socket = Socket::connect(port, PUBLISHABLE_KEY, Version::V2).await;
        let token = mint(&identity.claims);
        let bindings = json!({"event": "*", "schema": schema});
        let payload = join_payload(&bindings, Some(&token));
        socket
            .send(Some("1"), "1", "realtime:oracle", "phx_join", &payload)
            .await;
        let reply = socket.reply("1").await.payload;
        assert_eq!(reply["status"], "ok", "{identity:?}: {reply}");
        let fence = reply["response"]["postgres_changes"][1]["id"]
            .as_i64()
            .unwrap();
        let system = socket.find(|frame| frame.event == "system").await;
        assert_eq!(
            system.payload["message"], "Subscribed to PostgreSQL",
            "{identity:?}: {}",
            system.raw
        );
        Self {
            identity,
            socket,
            fence,
        }
    }

    /// Everything up to the fence of this number.
    pub(super) async fn until(&mut self, number: i64) -> Heard {
        let mut heard = Heard::default();
        loop {
            let mut frame = match self.socket.receive().await {
                Received::Frame(frame) => *frame,
                Received::Closed(code, reason) => {
                    heard.ended = Some(format!("closed with {code:?} {reason}"));
                    return heard;
                }
            };
            match frame.event.as_str() {
                "postgres_changes" => {
                    let is_fence = frame.payload["ids"]
                        .as_array()
                        .unwrap()
                        .iter()
                        .any(|id| id.as_i64() == Some(self.fence));
                    if !is_fence {
                        heard.changes.push(frame.payload["data"].take());
                    } else if frame.payload["data"]["record"]["n"].as_i64() == Some(number) {
                        return heard;
                    }
                }
                "system" => {
                    let message = frame.payload["message"].as_str().unwrap_or_default();
                    match message.strip_prefix("Row-level security check failed (") {
                        Some(state) => heard.raised.push(state.trim_end_matches(')').to_owned()),
                        None if message == "Subscribed to PostgreSQL" => {}
                        None => heard.ended = Some(message.to_owned()),
                    }
                }
                "phx_error" | "phx_close" => {
                    let reason = heard.ended.take().unwrap_or_default();
                    heard.ended = Some(format!("{}: {reason}", frame.event));
                    return heard;
                }
                _ => {}
            }
        }
    }
}
