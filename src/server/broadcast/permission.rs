//! Whether the sender of a request may send to private rooms (protocol.md §5.4, §7.5).

use std::sync::Arc;
use std::time::Duration;

use axum::http::HeaderMap;
use serde_json::{Map, Value};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::auth::Claims;
use crate::messages::{Messages, Reply, Request};
use crate::realtime::{Answer, Ask, AskError};
use crate::topic::Room;

/// Longer than the database takes for any question that it answers at all.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Who sends.
pub(super) struct Sender<'a> {
    pub(super) messages: &'a Messages,
    pub(super) claims: Arc<Claims>,
    /// `request.headers`.
    pub(super) headers: Arc<str>,
}

impl Sender<'_> {
    /// Asks about a room; `None` if nobody answers.
    pub(super) async fn ask(&self, room: Arc<Room>, ask: Ask) -> Option<Result<Answer, AskError>> {
        let (reply, answer) = oneshot::channel();
        self.messages.ask(Request {
            claims: Arc::clone(&self.claims),
            headers: Arc::clone(&self.headers),
            room,
            ask,
            reply: Reply::Once(reply),
        });
        timeout(TIMEOUT, answer).await.ok()?.ok()
    }
}

/// All headers as a JSON object with lower-case names; of several by one name the last counts.
pub(super) fn headers_json(headers: &HeaderMap) -> Arc<str> {
    let pairs = headers.iter().map(|(name, value)| {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        (name.as_str().to_owned(), Value::String(value))
    });
    Value::Object(pairs.collect::<Map<_, _>>())
        .to_string()
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_become_one_object() {
        let mut headers = HeaderMap::new();
        for (name, value) in [("x-a", "1"), ("x-b", "\"q\""), ("x-a", "2")] {
            headers.append(name, value.parse().unwrap());
        }
        assert_eq!(&*headers_json(&headers), r#"{"x-a":"2","x-b":"\"q\""}"#);
    }
}
