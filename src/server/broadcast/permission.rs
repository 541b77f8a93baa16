//! Whether the sender of a request may send to private rooms (protocol.md §5.4, §7.5).

use std::sync::Arc;
use std::time::Duration;

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
