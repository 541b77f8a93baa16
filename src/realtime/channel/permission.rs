//! What a private channel may do (protocol.md §7.5), above all read: asked when it joins, kept until the token or the
//! policies change, and asked again now and then.
//!
//! Only one question about reading is open at a time, and one about sending per extension (`sending.rs`). An answer to a question that
//! was put as somebody else counts for nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::broadcasts::Replaying;
use super::doubt::Doubt;
use super::sending::Sending;
use super::{Channel, Fate, Phase, Stage};
use crate::realtime::code::ErrorCode;
use crate::realtime::frame::Ref;
use crate::realtime::join::ReplayRequest;
use crate::realtime::output::{Output, Receives, RoomRequest};
use crate::realtime::refusal::{self, Refusal};
use crate::realtime::request::{Answer, Ask, AskError};
use crate::realtime::wire::Wire;

/// When a question that was not answered is put again.
const RETRY: Duration = Duration::from_secs(5);

/// Why the permission to read is asked for; a later one is the stricter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Cause {
    /// To be sure. Without an answer the member stays.
    Recheck,
    /// The token changed. Without an answer the channel is closed.
    Token,
    /// The join waits for it. Without an answer it is refused.
    Join,
}

/// What may be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Read {
    broadcast: bool,
    presence: bool,
}

/// A question about reading that is open.
#[derive(Clone, Copy, Debug)]
struct Reading {
    ticket: u32,
    cause: Cause,
    since: Instant,
}

/// What a private channel may do, and what waits to know.
#[derive(Debug)]
pub(super) struct Private {
    ticket_next: u32,
    read: Read,
    /// The question that is open.
    reading: Option<Reading>,
    /// Policies changed while it was open.
    read_again: bool,
    pub(super) sending: Sending,
    /// Broadcasts that are being stored, and the refs of those who are told.
    pub(super) persisting: BTreeMap<u32, Option<Ref>>,
    pub(super) replay: Option<ReplayRequest>,
    pub(super) replaying: Replaying,
    pub(super) doubt: Doubt,
    recheck_at: Instant,
    /// Random, for the times of rechecks.
    jitter: u64,
}

impl Private {
    pub(super) fn new(wire: &Wire<'_>, membership: u32, replay: Option<ReplayRequest>) -> Self {
        let (half, _) = wire.seed.split_first_chunk().unwrap_or((&[0; 8], &[]));
        let mut private = Self {
            ticket_next: 1,
            read: Read::default(),
            reading: None,
            read_again: false,
            sending: Sending::default(),
            persisting: BTreeMap::new(),
            replay,
            replaying: Replaying::default(),
            doubt: Doubt::default(),
            recheck_at: wire.now.instant,
            jitter: u64::from_le_bytes(*half) ^ u64::from(membership),
        };
        private.plan_recheck(wire);
        private
    }

    /// When something is to be asked.
    pub(super) fn next_timeout(&self) -> Instant {
        let doubt = self.doubt.next_timeout();
        doubt.map_or(self.recheck_at, |at| at.min(self.recheck_at))
    }

    pub(super) fn is_reading(&self) -> bool {
        self.reading.is_some()
    }

    pub(super) fn receives(&self, presence: bool) -> Receives {
        Receives {
            broadcasts: self.read.broadcast,
            presence: presence && self.read.presence,
        }
    }

    pub(super) fn ticket(&mut self) -> u32 {
        let ticket = self.ticket_next;
        self.ticket_next = ticket.wrapping_add(1);
        ticket
    }

    fn plan_recheck(&mut self, wire: &Wire<'_>) {
        self.recheck_at = self.later(wire, wire.limits.recheck_interval);
    }

    /// There was no answer: the next question comes sooner.
    pub(super) fn retry_recheck(&mut self, wire: &Wire<'_>) {
        let soon = self.later(wire, wire.limits.recheck_interval.min(RETRY));
        self.recheck_at = self.recheck_at.min(soon);
    }

    /// At a time of its own within this time: ten thousand at once would keep the database from everything else.
    fn recheck_soon(&mut self, now: Instant, within: Duration) {
        self.jitter = scramble(self.jitter);
        let spread = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
        let delay = self.jitter.checked_rem(spread).unwrap_or_default();
        self.recheck_at = self.recheck_at.min(now + Duration::from_millis(delay));
    }

    /// Between three quarters of this time and all of it, so that channels which joined together do not ask together.
    fn later(&mut self, wire: &Wire<'_>, time: Duration) -> Instant {
        self.jitter = scramble(self.jitter);
        let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(4);
        let early = self.jitter.checked_rem(millis / 4).unwrap_or_default();
        wire.now.instant + Duration::from_millis(millis.saturating_sub(early))
    }
}

/// The mixing step of SplitMix64.
fn scramble(seed: u64) -> u64 {
    let mut mixed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

impl Channel {
    /// Asks the database about the topic, as the token in force; the ticket comes back with the answer.
    pub(super) fn ask(&mut self, wire: &mut Wire<'_>, ask: Ask) -> u32 {
        let Some(private) = &mut self.private else {
            return 0;
        };
        let ticket = private.ticket();
        self.ask_as(wire, ticket, ask);
        ticket
    }

    /// Asks under a ticket that was taken before.
    pub(super) fn ask_as(&self, wire: &mut Wire<'_>, ticket: u32, ask: Ask) {
        wire.push(Output::Ask {
            membership: self.membership,
            ticket,
            claims: Arc::clone(self.credentials.claims()),
            room: Arc::clone(&self.room),
            ask,
        });
    }

    /// Asks whether the topic may be read.
    pub(super) fn ask_read(&mut self, wire: &mut Wire<'_>, cause: Cause) {
        let presence = self.presence.is_enabled();
        let Some(private) = &mut self.private else {
            return;
        };
        let mut cause = cause;
        let now = wire.now.instant;
        if let Some(open) = private.reading {
            // A question that was lost must not keep a permission alive.
            let lost = open.since + wire.limits.recheck_interval <= now;
            if cause == Cause::Recheck && !lost {
                // The answer may be older than what has changed.
                private.read_again = true;
                return;
            }
            cause = cause.max(open.cause);
        }
        private.read_again = false;
        private.doubt.ask(now);
        let ask = if cause == Cause::Recheck {
            Ask::Reread { presence }
        } else {
            Ask::Read { presence }
        };
        let ticket = self.ask(wire, ask);
        if let Some(private) = &mut self.private {
            private.reading = Some(Reading {
                ticket,
                cause,
                since: now,
            });
        }
    }

    /// What walcast knows does not answer the question: the database must.
    pub(super) fn undecided(&mut self, wire: &mut Wire<'_>, ticket: u32) {
        let presence = self.presence.is_enabled();
        let reading = (self.private.as_ref()).and_then(|private| private.reading);
        let Some(open) = reading.filter(|open| open.ticket == ticket) else {
            return;
        };
        let ticket = self.ask(wire, Ask::Read { presence });
        if let Some(private) = &mut self.private {
            private.reading = Some(Reading { ticket, ..open });
        }
    }

    /// The token is another one: all that was allowed is asked anew.
    pub(super) fn permissions_changed(&mut self, wire: &mut Wire<'_>) {
        let Some(private) = &mut self.private else {
            return;
        };
        let waiting = private.sending.forget();
        self.ask_read(wire, Cause::Token);
        for extension in waiting {
            self.ask_write(wire, extension);
        }
    }

    pub(super) fn recheck_is_due(&self, now: Instant) -> bool {
        self.private
            .as_ref()
            .is_some_and(|private| private.recheck_at <= now)
    }

    /// Who may read and send may have changed.
    pub(super) fn recheck_soon(&mut self, wire: &mut Wire<'_>, within: Duration) {
        self.doubt_sending();
        let Some(private) = &mut self.private else {
            return;
        };
        private.recheck_soon(wire.now.instant, within);
        if self.recheck_is_due(wire.now.instant) {
            self.recheck(wire);
        }
    }

    /// Asks again. Until the answers are there, what was allowed and is not in doubt stays so.
    pub(super) fn recheck(&mut self, wire: &mut Wire<'_>) {
        let Some(private) = &mut self.private else {
            return;
        };
        private.plan_recheck(wire);
        let allowed = private.sending.recheck();
        self.ask_read(wire, Cause::Recheck);
        for extension in allowed {
            self.ask_write(wire, extension);
        }
    }

    /// An answer from the database.
    pub(super) fn answered(
        &mut self,
        wire: &mut Wire<'_>,
        ticket: u32,
        answer: Result<Answer, AskError>,
    ) -> Fate {
        let Some(private) = &mut self.private else {
            return Fate::Lives;
        };
        if let Some(reading) = private.reading
            && reading.ticket == ticket
        {
            private.reading = None;
            return self.read_answered(wire, reading, answer);
        }
        if let Some(asked) = private.sending.take_asked(ticket) {
            return self.write_answered(wire, asked, answer);
        }
        if let Some(reference) = private.persisting.remove(&ticket) {
            self.persisted(wire, reference.as_ref(), answer);
            return Fate::Lives;
        }
        self.replay_answered(wire, ticket, answer)
    }

    fn read_answered(
        &mut self,
        wire: &mut Wire<'_>,
        Reading { cause, since, .. }: Reading,
        answer: Result<Answer, AskError>,
    ) -> Fate {
        let Some(private) = &mut self.private else {
            return Fate::Lives;
        };
        let sub_topic: Box<str> = self.room.topic.sub_topic().into();
        let unauthorized = Refusal::Unauthorized {
            sub_topic: sub_topic.clone(),
        };
        let denied = refusal::unauthorized(&sub_topic);
        let read = match answer {
            Ok(Answer::Read {
                broadcast,
                presence,
            }) => Read {
                broadcast,
                presence,
            },
            Err(AskError::Policy(_)) => Read::default(),
            Err(_) if cause == Cause::Recheck => {
                wire.count(ErrorCode::UnableToSetPolicies);
                private.retry_recheck(wire);
                return self.reread(wire);
            }
            Err(error) => {
                let text = refusal::question_text(&sub_topic, &error);
                let code = refusal::question_code(&error);
                return self.end(wire, &Refusal::Question(error), &text, code);
            }
            // An answer to another question.
            Ok(_) => return Fate::Lives,
        };
        let before = std::mem::replace(&mut private.read, read);
        private.doubt.confirm(since);
        let wants_replay = matches!(
            private.replay,
            Some(ReplayRequest::Since { .. } | ReplayRequest::Invalid)
        );
        let joining = match self.phase {
            Phase::Joining { stage, .. } => Some(stage),
            Phase::Joined => None,
        };
        if read == Read::default() || (joining.is_some() && wants_replay && !read.broadcast) {
            return self.end(wire, &unauthorized, &denied, ErrorCode::Unauthorized);
        }
        if joining == Some(Stage::Permission) {
            return self.permitted(wire);
        }
        if (before.broadcast && !read.broadcast) || (before.presence && !read.presence) {
            let text = refusal::no_longer(&sub_topic);
            return self.end(wire, &unauthorized, &text, ErrorCode::Unauthorized);
        }
        if joining.is_none() {
            let before = self.receives;
            let due = self.due();
            self.enter(wire, due);
            if due.presence && before.is_some_and(|before| !before.presence) {
                self.in_room(wire, RoomRequest::State);
            }
            if self.release(wire) == Fate::Ended {
                return Fate::Ended;
            }
        }
        self.reread(wire)
    }

    /// Asks again what may have changed while it was asked.
    fn reread(&mut self, wire: &mut Wire<'_>) -> Fate {
        if self
            .private
            .as_ref()
            .is_some_and(|private| private.read_again)
        {
            self.ask_read(wire, Cause::Recheck);
        }
        Fate::Lives
    }

    /// The join may go on.
    fn permitted(&mut self, wire: &mut Wire<'_>) -> Fate {
        match self.private.as_ref().and_then(|private| private.replay) {
            Some(ReplayRequest::Invalid) => return self.refuse(wire, &Refusal::ReplayParams),
            replay => {
                let replays = matches!(replay, Some(ReplayRequest::Since { .. }));
                if !self.listen(wire, replays) {
                    self.prepare(wire);
                }
            }
        }
        self.reread(wire)
    }

    /// The join goes on without a position to go on from.
    pub(super) fn prepare(&mut self, wire: &mut Wire<'_>) {
        match self.private.as_ref().and_then(|private| private.replay) {
            Some(ReplayRequest::Since { since, limit }) => self.ask_replay(wire, since, limit),
            Some(ReplayRequest::Invalid | ReplayRequest::Null) | None => self.bind(wire),
        }
    }
}
