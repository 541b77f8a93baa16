//! What a channel asks about `realtime.messages`: permissions, replay, persistence (protocol.md §5.6, §5.7, §7.5).

use std::sync::Arc;

use bytes::Bytes;

use super::broadcast::Storing;
use crate::change::Snapshot;

/// The two values of `realtime.messages.extension` that policies tell apart; storing asks for a third.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Extension {
    /// Broadcasts.
    Broadcast,
    /// Presence.
    Presence,
}

impl Extension {
    /// The value of the column.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Broadcast => "broadcast",
            Self::Presence => "presence",
        }
    }
}

/// A question of one channel about its sub-topic.
#[derive(Clone, Debug)]
pub enum Ask {
    /// May it receive? Presence is looked at only if asked for.
    Read {
        /// Whether presence is wanted.
        presence: bool,
    },
    /// May it still receive, as [`Ask::Read`]? What walcast knows itself will do.
    Reread {
        /// Whether presence is wanted.
        presence: bool,
    },
    /// May it send?
    Write(Extension),
    /// The newest stored broadcasts.
    Replay {
        /// Milliseconds since 1970; older rows are left out.
        since: i64,
        /// 1 to 25.
        limit: u8,
    },
    /// Store a broadcast that was delivered already.
    Persist {
        /// Held until it is answered; knows the row's id.
        storing: Arc<Storing>,
        /// The event.
        event: Box<str>,
        /// The payload.
        data: StoredData,
        /// 1 to 259,200.
        ttl_seconds: u32,
    },
}

/// The answer to an [`Ask`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// To [`Ask::Read`] and [`Ask::Reread`].
    Read {
        /// Broadcasts may be received.
        broadcast: bool,
        /// Presence may be received.
        presence: bool,
    },
    /// To [`Ask::Write`].
    Write(bool),
    /// To [`Ask::Replay`].
    Replayed {
        /// Oldest first, in the order of their commits.
        stored: Vec<Stored>,
        /// What they were read in; unknown, ids alone tell them from what comes live.
        snapshot: Option<Snapshot>,
    },
    /// To [`Ask::Persist`]: the id of the row; `None` where no policy allows it.
    Persisted(Option<Box<str>>),
}

/// A broadcast that was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The row's id.
    pub id: Box<str>,
    /// The event.
    pub event: Box<str>,
    /// The payload.
    pub data: StoredData,
}

/// The payload of a stored broadcast.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoredData {
    /// JSON text.
    Json(Bytes),
    /// Raw bytes.
    Binary(Bytes),
}

/// Why there is no answer. Texts and codes are those of protocol.md §3.7, §5.2, §5.5 and §7.4.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// A policy raised; the text is Postgres's.
    #[error("{0}")]
    Policy(Box<str>),
    /// A policy took too long, or the query was cancelled.
    #[error("the query was cancelled")]
    Cancelled,
    /// `realtime.messages` has no partition for today.
    #[error("realtime.messages has no partition for now; run walcast setup")]
    MissingPartition,
    /// `realtime.messages` is not installed; run `walcast setup`.
    #[error("realtime.messages is not installed; run walcast setup")]
    NotInstalled,
    /// The database cannot be reached.
    #[error("the database cannot be reached")]
    Unreachable,
    /// The database has no connection left.
    #[error("the database has no connection left")]
    TooManyConnections,
    /// More questions wait than may.
    #[error("too many questions wait")]
    Overloaded,
}
