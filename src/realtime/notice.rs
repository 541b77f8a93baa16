//! What the pipeline tells a channel besides changes. Notices keep their place among the changes.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::broadcast::Broadcast;
use super::frame::{QuotedTopic, Version};
use super::output::Frame;
use super::request::{Answer, AskError};
use crate::change::Cursor;
use crate::routing::SinceError;
use crate::topic::Topic;

/// Something that a channel is told.
#[derive(Clone, Debug)]
pub enum Notice {
    /// Somebody said something in the channel's room.
    Broadcast(Arc<Broadcast>),
    /// Who is present has changed.
    PresenceDiff(Arc<PresenceDiff>),
    /// Who is present: everything that earlier diffs said, and nothing that a later one will.
    PresenceState(PresenceState),
    /// The answer to the `Ask` output with this ticket.
    Answered {
        /// Of the question.
        ticket: u32,
        /// What the database said.
        answer: Result<Answer, AskError>,
    },
    /// Who may read and send may have changed: permissions are to be looked at again, within this time.
    Recheck(Duration),
    /// The [`Ask::Reread`](super::Ask::Reread) with this ticket can be answered by the database only.
    Undecided {
        /// Of the question.
        ticket: u32,
    },
    /// Broadcasts from the database flow, or (false) did not begin to in time.
    ReplicationReady(bool),
    /// The bindings are in force: every change that commits after this was sent arrives. Comes once per subscribe,
    /// once per new token, and again when the set of tables behind a binding changes.
    Subscribed,
    /// The bindings can never be served as they are; the text is for the subscriber (protocol.md §4.5). Nothing
    /// further comes for the membership's bindings.
    Refused(String),
    /// A `since` that cannot be served (protocol.md §11). Nothing further comes.
    PositionRefused(PositionRefused),
    /// It could not go on where it was, and goes on live (protocol.md §11).
    Unresumed(ResyncReason),
    /// For the connection: everything up to here was said to the membership.
    Mark(Cursor),
    /// Where the channel begins to hear what the database says is settled.
    Listening {
        /// It goes on where it was, so that nothing need be replayed.
        goes_on: bool,
    },
    /// A broadcast from the database that was missed.
    Missed(Arc<Broadcast>),
    /// All that was missed has come: from here on the database is heard in the room.
    CaughtUp,
    /// Broadcasts from the database may have been missed; it goes on live.
    Unheard(ResyncReason),
    /// For the connection: everything that the database broadcast up to here was said to the membership.
    HeardUpTo(Cursor),
    /// For the connection: somebody asks for its session; does the peer still answer? With the number of the question.
    Probe(u64),
    /// For the connection: somebody else goes on with its session.
    TakenOver,
    /// Changes may have been lost; the channel must start over (protocol.md §11). Nothing further comes.
    Resync(ResyncReason),
    /// All rows that were there already have been sent; every change that they did not contain follows.
    SnapshotComplete,
    /// The rows that were there already cannot be sent. Nothing further comes for the membership's bindings.
    SnapshotRefused(SnapshotRefusal),
    /// Policies raise or time out for this identity, with this SQLSTATE; its changes of the table are withheld.
    PolicyTrouble(Box<str>),
}

/// Why changes cannot begin where a binding asks for it; the text is part of the wire (protocol.md §11).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PositionRefused {
    /// Neither a cursor nor a time.
    Malformed,
    /// Not retained, or of another series; the oldest one that is, if there is any.
    TooOld(Option<Cursor>),
}

impl fmt::Display for PositionRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed => SinceError.fmt(f),
            Self::TooOld(None) => f.write_str("PositionTooOld: no position is available yet"),
            Self::TooOld(Some(oldest)) => {
                write!(f, "PositionTooOld: oldest available position is {oldest}")
            }
        }
    }
}

/// Who came and who left, encoded once per protocol version.
#[derive(Debug)]
pub struct PresenceDiff {
    topic: QuotedTopic,
    /// `{"joins":{…},"leaves":{…}}`.
    payload: Box<str>,
    /// Keys that came or left, for counting.
    events: u32,
    v1: OnceLock<Frame>,
    v2: OnceLock<Frame>,
}

impl PresenceDiff {
    /// `payload` is the JSON object of protocol.md §6.3; `events` counts the metas in it.
    #[must_use]
    pub fn new(topic: &Topic, payload: String, events: u32) -> Self {
        Self {
            topic: QuotedTopic::new(topic.as_str()),
            payload: payload.into(),
            events,
            v1: OnceLock::new(),
            v2: OnceLock::new(),
        }
    }

    /// Metas that came or left.
    #[must_use]
    pub fn events(&self) -> u32 {
        self.events
    }

    /// Bytes that it keeps in memory, roughly.
    #[must_use]
    pub fn size(&self) -> usize {
        self.payload.len()
    }

    /// The frame for a receiver of this version. Cheap after the first call.
    #[must_use]
    pub fn frame(&self, version: Version) -> Frame {
        let cell = match version {
            Version::V1 => &self.v1,
            Version::V2 => &self.v2,
        };
        cell.get_or_init(|| super::frame::presence_diff(version, &self.topic, &self.payload))
            .clone()
    }
}

/// Who is present, as the JSON object of protocol.md §6.3: `{KEY:{"metas":[…]}}`. Shared by all who are told at once.
#[derive(Clone, Debug)]
pub struct PresenceState(pub Arc<str>);

/// Why a subscriber does not get the rows that are there already; the text is part of the wire (protocol.md §11).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapshotRefusal {
    /// The wish cannot be understood.
    Malformed(&'static str),
    /// There is more than may be sent.
    TooLarge(SnapshotLimit),
    /// A policy raised or timed out, with this SQLSTATE.
    Policy(Box<str>),
}

/// What was exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotLimit {
    /// More rows.
    Rows(u64),
    /// More bytes of payloads.
    Bytes(u64),
    /// Reading them took longer.
    Time(Duration),
}

impl fmt::Display for SnapshotLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rows(rows) => write!(f, "more than {rows} rows"),
            Self::Bytes(bytes) => write!(f, "more than {bytes} bytes"),
            Self::Time(time) => write!(f, "more than {} ms", time.as_millis()),
        }
    }
}

/// Why a channel must start over; the text is part of the wire (protocol.md §11).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ResyncReason {
    /// The log no longer holds the position.
    PositionGone,
    /// The slot was lost or dropped.
    SlotRecreated,
    /// The database is another one, or on another timeline.
    FailedOver,
    /// A transaction was larger than the spool.
    TransactionTooLarge,
    /// A verdict could not be taken in time.
    VerdictUnknown,
    /// The token was refreshed and held-back changes could not be judged again.
    IdentityChanged,
}

impl fmt::Display for ResyncReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PositionGone => "position no longer retained",
            Self::SlotRecreated => "replication slot was recreated",
            Self::FailedOver => "database failed over",
            Self::TransactionTooLarge => "transaction too large",
            Self::VerdictUnknown => "verdict could not be taken",
            Self::IdentityChanged => "identity changed",
        })
    }
}
