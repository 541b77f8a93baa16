//! Broadcasts of a channel: sent, delivered, replayed and stored (protocol.md §5).

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::presence::message_uuid;
use super::{Channel, Fate, Phase, Stage};
use crate::change::Snapshot;
use crate::realtime::broadcast::{Broadcast, Content, Storing};
use crate::realtime::code::{AckError, ErrorCode};
use crate::realtime::frame::{Payload, Ref, Status, quote};
use crate::realtime::output::{Output, Receives, RoomRequest};
use crate::realtime::push::{self, Call, Persist};
use crate::realtime::rate::Counted;
use crate::realtime::refusal::Refusal;
use crate::realtime::request::{Answer, Ask, AskError, Extension, Stored, StoredData};
use crate::realtime::wire::Wire;

/// Most pushes of a channel that wait for their permission, and most broadcasts that wait for a replay.
pub(super) const WAITING_MAX: usize = 1024;
/// Most bytes of them, unless one alone has more.
pub(super) const WAITING_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Most broadcasts of a channel that are being stored; further ones are not.
const PERSISTING_MAX: usize = 256;
/// How long the stream may lag behind a replay. Another server may take over and count its transactions anew, so that what a
/// snapshot says about them does not hold for ever.
const SNAPSHOT_HOLDS: Duration = Duration::from_secs(600);

/// Whether the limits of messages count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// They do.
    Limited,
    /// Several come together that were said one after the other.
    Free,
}

/// A broadcast to be sent.
#[derive(Debug)]
pub(super) struct Said {
    content: Content,
    /// For how long it is stored.
    ttl_seconds: Option<u32>,
    size: usize,
}

/// A push that waits for its permission.
#[derive(Debug)]
pub(super) enum Waiting {
    Broadcast { reference: Ref, said: Said },
    Call { reference: Ref, call: Call },
}

impl Waiting {
    pub(super) fn extension(&self) -> Extension {
        match self {
            Self::Broadcast { .. } => Extension::Broadcast,
            Self::Call { .. } => Extension::Presence,
        }
    }

    pub(super) fn size(&self) -> usize {
        match self {
            Self::Broadcast { said, .. } => said.size,
            Self::Call {
                call: Call::Track(payload),
                ..
            } => payload.get().len(),
            Self::Call { .. } => 0,
        }
    }
}

/// What is to be replayed, and what comes meanwhile.
#[derive(Debug, Default)]
pub(super) struct Replaying {
    ticket: Option<u32>,
    stored: Vec<Stored>,
    live: Vec<Arc<Broadcast>>,
    live_bytes: usize,
    /// What the rows were read in, and until when that counts.
    snapshot: Option<(Snapshot, Instant)>,
    /// Ids that were replayed and have not come again, or may once more.
    ids: Vec<Box<str>>,
}

impl Replaying {
    /// Whether this was replayed, or is older than what was. A client's broadcast was if its id was; it comes again once at
    /// most. A row was if its transaction had committed: the stream may lag behind the table.
    fn has_passed(&mut self, now: Instant, message: &Broadcast) -> bool {
        if let (Some((snapshot, until)), Some(transaction)) =
            (&self.snapshot, message.transaction())
            && now < *until
        {
            return snapshot.sees(transaction);
        }
        if self.ids.is_empty() {
            return false;
        }
        let place = message
            .id()
            .and_then(|id| self.ids.iter().position(|shown| **shown == *id));
        // What was being stored when the channel joined may come twice.
        if let Some(place) = place
            && message.stored_id().is_none()
        {
            let _shown = self.ids.swap_remove(place);
        }
        place.is_some()
    }
}

impl Replaying {
    /// Whether this came before. What was being stored when the channel joined may come twice.
    fn is_kept(&self, message: &Broadcast) -> bool {
        let id = message.stored_id();
        id.is_some() && self.live.iter().any(|kept| kept.stored_id() == id)
    }
}

impl Channel {
    /// A `broadcast` push.
    pub(in crate::realtime) fn broadcast(
        &mut self,
        wire: &mut Wire<'_>,
        reference: &Ref,
        payload: &Payload<'_>,
    ) -> Fate {
        if !self.is_joined() {
            return Fate::Lives;
        }
        if self.expire_late(wire) == Fate::Ended {
            return Fate::Ended;
        }
        if !wire.admit(Counted::Messages, &mut self.rates, self.subject.as_deref()) {
            return self.close_with(wire, ErrorCode::MessagePerSecondRateLimitReached);
        }
        match self.understand(wire, payload) {
            Ok(said) => self.send(wire, reference, said),
            Err(error) => self.unsent(wire, reference, error),
        }
        Fate::Lives
    }

    fn understand(&self, wire: &Wire<'_>, payload: &Payload<'_>) -> Result<Said, AckError> {
        let size = push::size(payload);
        if size > wire.limits.payload_bytes_max {
            return Err(AckError::PayloadSizeExceeded);
        }
        // A public channel stores nothing, whatever the metadata says.
        let ttl_seconds = match push::persist(payload) {
            _ if !self.room.private => None,
            Persist::No => None,
            Persist::For(seconds) => Some(seconds),
            Persist::Invalid => return Err(AckError::InvalidPersistTtl),
        };
        let content = push::content(payload).ok_or(AckError::UnableToHandleBroadcast)?;
        Ok(Said {
            content,
            ttl_seconds,
            size,
        })
    }

    /// Says it, or lets it wait for its permission.
    fn send(&mut self, wire: &mut Wire<'_>, reference: &Ref, said: Said) {
        let may_send = match &self.private {
            None => Some(true),
            Some(private) => private.sending.may(Extension::Broadcast),
        };
        match may_send {
            Some(true) => self.say(wire, reference, said),
            Some(false) => self.unsent(wire, reference, AckError::Unauthorized),
            None => {
                let reference = reference.clone();
                if let Err(waiting) = self.wait(wire, Waiting::Broadcast { reference, said })
                    && let Waiting::Broadcast { reference, .. } = *waiting
                {
                    self.unsent(wire, &reference, AckError::IncreaseConnectionPool);
                }
            }
        }
    }

    /// Says it in the room, and has it stored if that is wanted.
    pub(super) fn say(&mut self, wire: &mut Wire<'_>, reference: &Ref, said: Said) {
        let wanted = said
            .ttl_seconds
            .and_then(|ttl| Some((ttl, stored(&said.content)?)));
        let message = Broadcast::new(self.room.topic.clone(), said.content, None);
        let ticket = match &mut self.private {
            Some(private) if wanted.is_some() && private.persisting.len() < PERSISTING_MAX => {
                Some(private.ticket())
            }
            _ => None,
        };
        let (Some((ttl_seconds, (event, data))), Some(ticket)) = (wanted, ticket) else {
            if said.ttl_seconds.is_some() {
                wire.count(ErrorCode::UnableToPersistMessage);
            }
            self.say_in_room(wire, Arc::new(message), None);
            return self.acknowledge(wire, reference, Status::Ok, "{}");
        };
        let id = message_uuid(wire.seed, self.membership, ticket);
        let message = Arc::new(message.stored_as(id));
        let storing = Arc::new(Storing::new(Arc::clone(&message)));
        self.say_in_room(wire, message, Some(Arc::clone(&storing)));
        let told = self.ack.then(|| reference.clone());
        if let Some(private) = &mut self.private {
            private.persisting.insert(ticket, told);
        }
        self.ask_as(
            wire,
            ticket,
            Ask::Persist {
                storing,
                event,
                data,
                ttl_seconds,
            },
        );
    }

    fn say_in_room(
        &self,
        wire: &mut Wire<'_>,
        message: Arc<Broadcast>,
        storing: Option<Arc<Storing>>,
    ) {
        self.in_room(
            wire,
            RoomRequest::Say {
                message,
                to_self: self.to_self,
                storing,
            },
        );
    }

    /// A broadcast was stored, or not: it was delivered all the same.
    pub(super) fn persisted(
        &self,
        wire: &mut Wire<'_>,
        reference: Option<&Ref>,
        answer: Result<Answer, AskError>,
    ) {
        let response = match answer {
            Ok(Answer::Persisted(Some(id))) => format!(r#"{{"id":{}}}"#, quote(&id)),
            Ok(_) => "{}".to_owned(),
            Err(_) => {
                wire.count(ErrorCode::UnableToPersistMessage);
                "{}".to_owned()
            }
        };
        if let Some(reference) = reference {
            self.acknowledge(wire, reference, Status::Ok, &response);
        }
    }

    /// A broadcast that is not sent; who did not ask for acknowledgements is not told.
    pub(super) fn unsent(&self, wire: &mut Wire<'_>, reference: &Ref, error: AckError) {
        wire.count(ErrorCode::UnableToHandleBroadcast);
        let response = format!(r#"{{"error":"{}"}}"#, error.name());
        self.acknowledge(wire, reference, Status::Error, &response);
    }

    fn acknowledge(&self, wire: &mut Wire<'_>, reference: &Ref, status: Status, response: &str) {
        if self.ack {
            wire.reply((&self.join_ref, reference), &self.quoted, status, response);
        }
    }

    /// Somebody said something in the room.
    pub(super) fn deliver(&mut self, wire: &mut Wire<'_>, message: Arc<Broadcast>) -> Fate {
        if !self.receives.is_some_and(|receives| receives.broadcasts) || self.comes_again(&message)
        {
            return Fate::Lives;
        }
        if !self.is_joined() {
            return self.keep(wire, message);
        }
        if self.is_in_doubt(&message) {
            return self.hold(wire, message);
        }
        self.pass_on(wire, &message, Pace::Limited)
    }

    /// Sends a broadcast that the channel may read.
    pub(super) fn pass_on(&mut self, wire: &mut Wire<'_>, message: &Broadcast, pace: Pace) -> Fate {
        if self.expire_late(wire) == Fate::Ended {
            return Fate::Ended;
        }
        if let Some(private) = &mut self.private
            && private.replaying.has_passed(wire.now.instant, message)
        {
            self.has_heard(wire, message);
            return Fate::Lives;
        }
        let Some(frame) = message.frame(wire.version) else {
            self.has_heard(wire, message);
            return Fate::Lives;
        };
        if pace == Pace::Limited
            && !wire.admit(Counted::Messages, &mut self.rates, self.subject.as_deref())
        {
            return self.close_with(wire, ErrorCode::MessagePerSecondRateLimitReached);
        }
        wire.deliveries.broadcasts = wire.deliveries.broadcasts.saturating_add(1);
        wire.push(Output::Send(frame));
        self.has_heard(wire, message);
        Fate::Lives
    }

    /// Asks for what was stored. The channel is in its room before, so that nothing is missed in between.
    pub(super) fn ask_replay(&mut self, wire: &mut Wire<'_>, since: i64, limit: u8) {
        self.stand_at(Stage::Replay);
        let receives = Receives {
            broadcasts: true,
            presence: false,
        };
        if self.receives != Some(receives) {
            self.receives = Some(receives);
            let entry = self.entry(receives);
            self.in_room(wire, RoomRequest::EnterReplaying(entry));
        }
        let ticket = self.ask(wire, Ask::Replay { since, limit });
        if let Some(private) = &mut self.private {
            private.replaying.ticket = Some(ticket);
        }
    }

    pub(super) fn replay_answered(
        &mut self,
        wire: &mut Wire<'_>,
        ticket: u32,
        answer: Result<Answer, AskError>,
    ) -> Fate {
        let Some(private) = &mut self.private else {
            return Fate::Lives;
        };
        if private.replaying.ticket != Some(ticket) {
            return Fate::Lives;
        }
        private.replaying.ticket = None;
        let Ok(Answer::Replayed { stored, snapshot }) = answer else {
            return self.refuse(wire, &Refusal::ReplayFailed);
        };
        let until = wire.now.instant + SNAPSHOT_HOLDS;
        private.replaying.stored = stored;
        private.replaying.snapshot = snapshot.map(|snapshot| (snapshot, until));
        self.bind(wire);
        Fate::Lives
    }

    /// Keeps what is said before the join is answered.
    fn keep(&mut self, wire: &mut Wire<'_>, message: Arc<Broadcast>) -> Fate {
        let Some(private) = &mut self.private else {
            return Fate::Lives;
        };
        let replaying = &mut private.replaying;
        if replaying.has_passed(wire.now.instant, &message) || replaying.is_kept(&message) {
            return Fate::Lives;
        }
        replaying.live_bytes = replaying.live_bytes.saturating_add(message.size());
        let full = replaying.live.len() >= WAITING_MAX || replaying.live_bytes > WAITING_BYTES_MAX;
        if full && !replaying.live.is_empty() {
            // The client joins again, and finds what was stored meanwhile.
            return self.refuse(wire, &Refusal::ReplayFailed);
        }
        replaying.live.push(message);
        Fate::Lives
    }

    /// What was stored, oldest first, then what was said since it was asked for.
    pub(super) fn replay(&mut self, wire: &mut Wire<'_>) {
        let Some(private) = &mut self.private else {
            return;
        };
        let replaying = &mut private.replaying;
        let topic = &self.room.topic;
        for stored in std::mem::take(&mut replaying.stored) {
            if let Some(frame) = stored.frame(wire.version, &self.join_ref, topic, &self.quoted) {
                wire.deliveries.broadcasts = wire.deliveries.broadcasts.saturating_add(1);
                wire.push(Output::Send(frame));
            }
            replaying.ids.push(stored.id);
        }
        replaying.live_bytes = 0;
        let mut live = std::mem::take(&mut replaying.live).into_iter();
        while let Some(message) = live.next() {
            if private.doubt.holds(&message) {
                private.doubt.keep(message);
                live.for_each(|message| private.doubt.keep(message));
                break;
            }
            if !replaying.has_passed(wire.now.instant, &message)
                && let Some(frame) = message.frame(wire.version)
            {
                wire.deliveries.broadcasts = wire.deliveries.broadcasts.saturating_add(1);
                wire.push(Output::Send(frame));
                replaying.ids.extend(message.stored_id().map(Box::from));
            }
        }
        debug_assert!(matches!(self.phase, Phase::Joined));
    }
}

/// The event and the payload as they are stored.
fn stored(content: &Content) -> Option<(Box<str>, StoredData)> {
    match content {
        Content::Object(_) => None,
        Content::Json { event, data } => Some((event.clone(), StoredData::Json(data.clone()))),
        Content::Binary { event, data } => Some((event.clone(), StoredData::Binary(data.clone()))),
    }
}
