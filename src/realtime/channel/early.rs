//! Pushes that come before their join is answered (protocol.md §2.6): they wait for the reply, and are served after it in
//! the order in which they came. Where the join is refused, they are pushes to a topic that nobody joined.
//!
//! A token that nothing waits before counts at once, for the join as well. What waits is counted for the whole socket: who
//! sends more than that is refused its join, for no push is dropped alone.

use serde_json::value::RawValue;

use super::broadcasts::{WAITING_BYTES_MAX, WAITING_MAX};
use super::{Channel, Fate};
use crate::realtime::frame::{Payload, Ref};
use crate::realtime::join;
use crate::realtime::refusal::Refusal;
use crate::realtime::wire::Wire;

/// A push that waits for the reply.
#[derive(Debug)]
pub(in crate::realtime) struct Early {
    reference: Ref,
    push: Push,
}

#[derive(Debug)]
enum Push {
    Broadcast(Kept),
    Presence(Kept),
    Token(String),
    /// Nothing that a joined channel would answer.
    Nothing,
}

/// A payload that outlives its frame.
#[derive(Debug)]
enum Kept {
    Json(Box<RawValue>),
    Binary(Box<[u8]>),
    UserBroadcast {
        event: Box<str>,
        metadata: Box<str>,
        json: bool,
        data: Box<[u8]>,
    },
}

impl Kept {
    fn of(payload: &Payload<'_>) -> Self {
        match *payload {
            Payload::Json(json) => Self::Json(json.to_owned()),
            Payload::Binary(data) => Self::Binary(data.into()),
            Payload::UserBroadcast {
                event,
                metadata,
                json,
                data,
            } => Self::UserBroadcast {
                event: event.into(),
                metadata: metadata.into(),
                json,
                data: data.into(),
            },
        }
    }

    fn payload(&self) -> Payload<'_> {
        match self {
            Self::Json(json) => Payload::Json(json),
            Self::Binary(data) => Payload::Binary(data),
            Self::UserBroadcast {
                event,
                metadata,
                json,
                data,
            } => Payload::UserBroadcast {
                event,
                metadata,
                json: *json,
                data,
            },
        }
    }

    fn size(&self) -> usize {
        match self {
            Self::Json(json) => json.get().len(),
            Self::Binary(data) => data.len(),
            // An event and its metadata have at most 255 bytes each.
            Self::UserBroadcast { data, .. } => data.len(),
        }
    }
}

impl Early {
    pub(in crate::realtime) fn new(event: &str, reference: &Ref, payload: &Payload<'_>) -> Self {
        let push = match (event, payload) {
            ("broadcast", payload) => Push::Broadcast(Kept::of(payload)),
            ("presence", payload) => Push::Presence(Kept::of(payload)),
            ("access_token", Payload::Json(json)) => {
                join::access_token(json).map_or(Push::Nothing, Push::Token)
            }
            _ => Push::Nothing,
        };
        Self {
            reference: reference.clone(),
            push,
        }
    }

    fn size(&self) -> usize {
        match &self.push {
            Push::Broadcast(payload) | Push::Presence(payload) => payload.size(),
            Push::Token(token) => token.len(),
            Push::Nothing => 0,
        }
    }
}

/// What waits on a socket.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::realtime) struct Load {
    pushes: usize,
    bytes: usize,
}

impl Load {
    /// Of several channels.
    pub(in crate::realtime) fn of<'a>(channels: impl Iterator<Item = &'a Channel>) -> Self {
        let waiting = channels.flat_map(|channel| &channel.early);
        waiting.fold(Self::default(), |load, early| Self {
            pushes: load.pushes.saturating_add(1),
            bytes: load.bytes.saturating_add(early.size()),
        })
    }

    fn has_room_for(self, early: &Early) -> bool {
        let bytes = self.bytes.saturating_add(early.size());
        self.pushes == 0 || (self.pushes < WAITING_MAX && bytes <= WAITING_BYTES_MAX)
    }
}

impl Channel {
    /// Whether an event must wait for the reply.
    pub(in crate::realtime) fn is_early(&self, event: &str) -> bool {
        !self.is_joined() && (event != "access_token" || !self.early.is_empty())
    }

    /// Lets a push wait for the reply. `load` is what waits on the socket already.
    pub(in crate::realtime) fn wait_for_reply(
        &mut self,
        wire: &mut Wire<'_>,
        load: Load,
        early: Early,
    ) -> Fate {
        let fits = load.has_room_for(&early);
        self.early.push_back(early);
        if fits {
            Fate::Lives
        } else {
            self.refuse(wire, &Refusal::TooEarly)
        }
    }

    /// Whether pushes that have waited for the reply can be served.
    pub(in crate::realtime) fn has_early(&self) -> bool {
        self.is_joined() && !self.early.is_empty()
    }

    /// Serves the next of them.
    pub(in crate::realtime) fn serve_early(&mut self, wire: &mut Wire<'_>) -> Fate {
        let Some(Early { reference, push }) = self.early.pop_front() else {
            return Fate::Lives;
        };
        match push {
            Push::Broadcast(payload) => self.broadcast(wire, &reference, &payload.payload()),
            Push::Presence(payload) => self.presence(wire, &reference, &payload.payload()),
            Push::Token(token) => self.refresh(wire, token),
            Push::Nothing => Fate::Lives,
        }
    }

    /// The topic is not joined, or no longer: answers what waits.
    pub(in crate::realtime) fn reject_early(&mut self, wire: &mut Wire<'_>) {
        for Early { reference, .. } in std::mem::take(&mut self.early) {
            wire.unmatched(&reference, &self.quoted);
        }
    }
}
