//! One membership of a topic: from its join to its end (protocol.md §3, §7.4).
//!
//! Nothing of a channel goes out before its join reply. The reply waits, one after the other, for the permission of a
//! private channel, for what is to be replayed, and until the bindings are in force: SUBSCRIBED means that every later
//! commit arrives.

mod bindings;
mod broadcasts;
mod doubt;
mod early;
mod hearing;
mod permission;
mod presence;
mod sending;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::auth::{Claims, TokenError};
use crate::routing::RequestedBinding;
use crate::topic::{Room, Topic};

use self::bindings::Subscription;
pub(super) use self::early::{Early, Load};
use self::hearing::Hearing;
use self::permission::{Cause, Private};
use self::presence::Presence;
use super::code::ErrorCode;
use super::credentials::Credentials;
use super::frame::{self, End, QuotedTopic, Ref, Status, System};
use super::join::Join;
use super::output::{Entry, Output, Receives, RoomRequest, Tally};
use super::rate::{Rates, Subject};
use super::refusal::{self, Refusal};
use super::wire::Wire;
use super::{Notice, join};

/// How long a join without `wait` is left unanswered: shorter than the 10 s after which clients give up.
const REPLY_WITHIN: Duration = Duration::from_secs(8);

/// What is said to whose resume ID cannot be one (protocol.md §11).
const RESUME_IGNORED: &str =
    "The parameter resume is ignored: expected at least 32 characters of A-Z, a-z, 0-9, _ and -";

/// Whether the membership goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Fate {
    /// It does.
    Lives,
    /// It ended, and the client was told.
    Ended,
}

#[derive(Debug)]
enum Phase {
    /// The reply waits.
    Joining {
        /// No longer than this.
        until: Instant,
        /// The client asked for the wait, for this long.
        wait: Option<Duration>,
        /// What the reply waits for.
        stage: Stage,
    },
    /// The reply went out.
    Joined,
}

/// What the reply to a join waits for, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Whether the private topic may be read.
    Permission,
    /// Where it was when it was here before.
    Position,
    /// What was stored.
    Replay,
    /// The bindings.
    Bindings,
}

/// What a join that passed its checks begins with.
pub(super) struct Beginning {
    pub(super) membership: u32,
    pub(super) topic: Topic,
    pub(super) join_ref: Ref,
    pub(super) reference: Ref,
    pub(super) join: Join,
    pub(super) token: Arc<str>,
    pub(super) claims: Arc<Claims>,
    /// Join ref of the membership that this one ended: closed after the reply.
    pub(super) replaces: Option<Ref>,
}

/// One membership.
#[derive(Debug)]
pub(super) struct Channel {
    membership: u32,
    room: Arc<Room>,
    quoted: QuotedTopic,
    join_ref: Ref,
    reference: Ref,
    ack: bool,
    to_self: bool,
    replication_ready: bool,
    /// The join carried no token of its own.
    grace: bool,
    bindings: Vec<RequestedBinding>,
    subscription: Subscription,
    /// New claims were sent and not yet answered: a refusal may still speak of the old ones.
    identified: bool,
    phase: Phase,
    credentials: Credentials,
    /// Who counts with it what is limited for subjects.
    subject: Option<Arc<Subject>>,
    rates: Rates,
    presence: Presence,
    hearing: Hearing,
    /// What a private channel is allowed, and what waits for that.
    private: Option<Box<Private>>,
    /// What it gets in its room; `None` while it is in none.
    receives: Option<Receives>,
    /// Trouble that came before the reply.
    trouble: Option<Box<str>>,
    replaces: Option<Ref>,
    /// Pushes that wait for the reply.
    early: VecDeque<Early>,
}

impl Channel {
    /// Begins the membership: replies at once where nothing is to be waited for.
    pub(super) fn join(beginning: Beginning, wire: &mut Wire<'_>) -> Self {
        let join = beginning.join;
        let private = join
            .private
            .then(|| Box::new(Private::new(wire, beginning.membership, join.replay)));
        let mut channel = Self {
            membership: beginning.membership,
            quoted: QuotedTopic::new(beginning.topic.as_str()),
            room: Arc::new(Room {
                topic: beginning.topic,
                private: join.private,
            }),
            join_ref: beginning.join_ref,
            reference: beginning.reference,
            ack: join.ack,
            to_self: join.to_self,
            replication_ready: join.replication_ready,
            grace: join.token.is_none(),
            bindings: join.bindings,
            subscription: Subscription::None,
            identified: false,
            phase: Phase::Joining {
                until: wire.now.instant + join.wait.unwrap_or(REPLY_WITHIN),
                wait: join.wait,
                stage: Stage::Permission,
            },
            subject: wire.subject(&beginning.claims),
            credentials: Credentials::new(wire.now, beginning.token, beginning.claims),
            rates: Rates::default(),
            presence: Presence::new(join.presence, join.presence_key),
            hearing: Hearing::default(),
            private,
            receives: None,
            trouble: None,
            replaces: beginning.replaces,
            early: VecDeque::new(),
        };
        if channel.private.is_some() {
            channel.ask_read(wire, Cause::Join);
        } else if !channel.listen(wire, false) {
            channel.bind(wire);
        }
        channel
    }

    pub(super) fn topic(&self) -> &Topic {
        &self.room.topic
    }

    pub(super) fn join_ref(&self) -> &Ref {
        &self.join_ref
    }

    /// The token in force and its claims.
    pub(super) fn credentials(&self) -> (&Arc<str>, &Arc<Claims>) {
        (self.credentials.token(), self.credentials.claims())
    }

    pub(super) fn is_joined(&self) -> bool {
        matches!(self.phase, Phase::Joined)
    }

    /// Ends it for a newer join of the topic. A pending one is answered; the join ref of a joined one is for the newer
    /// join to close.
    pub(super) fn supersede(mut self, wire: &mut Wire<'_>) -> Option<Ref> {
        wire.push(Output::Park {
            membership: self.membership,
        });
        self.depart(wire);
        if self.is_joined() {
            return Some(self.join_ref);
        }
        let _ended = self.refuse(wire, &Refusal::Superseded);
        None
    }

    /// A `phx_leave` with the channel's join ref or none.
    pub(super) fn leave(mut self, wire: &mut Wire<'_>, reference: &Ref) {
        self.depart(wire);
        let joined = self.is_joined();
        if !joined {
            let _ended = self.refuse(wire, &Refusal::Left);
        }
        wire.reply((&self.join_ref, reference), &self.quoted, Status::Ok, "{}");
        if joined {
            wire.end(&self.join_ref, &self.quoted, End::Close);
        }
    }

    /// The socket is gone.
    pub(super) fn gone(mut self, wire: &mut Wire<'_>) {
        self.depart(wire);
    }

    /// The server is leaving: clients are to come back, so nothing is closed.
    pub(super) fn drain(&mut self, wire: &mut Wire<'_>) {
        if !self.is_joined() {
            self.answer(wire, &Refusal::Restarting);
            return;
        }
        let message = System {
            extension: "system",
            status: Status::Ok,
            message: "Server requested disconnect",
            channel: None,
        };
        wire.send(frame::system(
            wire.version,
            &Ref::null(),
            &self.quoted,
            &message,
        ));
    }

    /// What others have to say to the channel.
    pub(super) fn notice(&mut self, wire: &mut Wire<'_>, notice: Notice) -> Fate {
        match notice {
            Notice::Broadcast(message) => self.deliver(wire, message),
            Notice::PresenceDiff(diff) => self.deliver_diff(wire, &diff),
            Notice::PresenceState(state) => self.deliver_state(wire, &state),
            Notice::Answered { ticket, answer } => self.answered(wire, ticket, answer),
            Notice::Undecided { ticket } => {
                self.undecided(wire, ticket);
                Fate::Lives
            }
            Notice::Recheck(within) => {
                self.recheck_soon(wire, within);
                Fate::Lives
            }
            Notice::ReplicationReady(ready) => self.tell_replication(wire, ready),
            Notice::Listening { goes_on } => self.listening(wire, goes_on),
            Notice::Missed(message) => self.deliver_missed(wire, message),
            Notice::CaughtUp => {
                self.caught_up();
                Fate::Lives
            }
            Notice::Unheard(reason) => {
                self.unheard(wire, reason);
                Fate::Lives
            }
            // For the connection.
            Notice::HeardUpTo(_) | Notice::Mark(_) | Notice::Probe(_) | Notice::TakenOver => {
                Fate::Lives
            }
            Notice::Subscribed
            | Notice::Refused(_)
            | Notice::PositionRefused(_)
            | Notice::Unresumed(_)
            | Notice::Resync(_)
            | Notice::SnapshotComplete
            | Notice::SnapshotRefused(_)
            | Notice::PolicyTrouble(_) => self.pipeline_notice(wire, notice),
        }
    }

    /// An `access_token` event; `token` is no API key.
    pub(super) fn refresh(&mut self, wire: &mut Wire<'_>, token: String) -> Fate {
        match self.credentials.offer(wire.now.instant, token) {
            Some(token) => self.apply(wire, token),
            None => Fate::Lives,
        }
    }

    /// The promised time came, or an earlier one.
    pub(super) fn handle_timeout(&mut self, wire: &mut Wire<'_>) -> Fate {
        let now = wire.now.instant;
        if let Phase::Joining { until, wait, stage } = self.phase
            && until <= now
        {
            let why = match wait {
                Some(wait) if stage == Stage::Bindings => Refusal::SubscribeTimeout(wait),
                _ => Refusal::Initializing,
            };
            return self.refuse(wire, &why);
        }
        if let Some(token) = self.credentials.take_due(now)
            && self.apply(wire, token) == Fate::Ended
        {
            return Fate::Ended;
        }
        if let Some(seconds_ago) = self.credentials.recheck(wire.now)
            && self.expire(wire, seconds_ago) == Fate::Ended
        {
            return Fate::Ended;
        }
        if self.recheck_is_due(now) {
            self.recheck(wire);
        }
        self.doubt_is_due(wire);
        Fate::Lives
    }

    /// When [`Self::handle_timeout`] has something to do.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        let until = match self.phase {
            Phase::Joining { until, .. } => Some(until),
            Phase::Joined => None,
        };
        let recheck = self.private.as_ref().map(|private| private.next_timeout());
        [until, recheck, self.credentials.next_timeout()]
            .into_iter()
            .flatten()
            .min()
    }

    /// The last thing before the reply: asks for the bindings, if there are any.
    fn bind(&mut self, wire: &mut Wire<'_>) {
        if self.bindings.is_empty() {
            self.accept(wire);
            self.follow_up(wire);
        } else {
            self.stand_at(Stage::Bindings);
            self.subscribe(wire, self.grace);
        }
    }

    /// The reply now waits for this.
    fn stand_at(&mut self, next: Stage) {
        if let Phase::Joining { stage, .. } = &mut self.phase {
            *stage = next;
        }
    }

    /// Ends the bindings and leaves the room.
    fn depart(&mut self, wire: &mut Wire<'_>) {
        // What was refused is remembered there as well, for a token that may come.
        let follows = self.subscription != Subscription::None;
        if std::mem::take(&mut self.hearing).is_under_way() || follows {
            wire.push(Output::Unsubscribe {
                membership: self.membership,
            });
        }
        self.subscription = Subscription::None;
        if self.receives.take().is_some() {
            self.in_room(wire, RoomRequest::Leave);
        }
    }

    fn in_room(&self, wire: &mut Wire<'_>, request: RoomRequest) {
        wire.push(Output::Room {
            membership: self.membership,
            room: Arc::clone(&self.room),
            request,
        });
    }

    /// Enters the room, or receives something else there.
    fn enter(&mut self, wire: &mut Wire<'_>, receives: Receives) {
        if self.receives != Some(receives) {
            self.receives = Some(receives);
            let entry = self.entry(receives);
            self.in_room(wire, RoomRequest::Enter(entry));
        }
    }

    pub(super) fn entry(&self, receives: Receives) -> Entry {
        let private = self.private.as_ref();
        Entry {
            receives,
            asked: private.and_then(|private| private.doubt.confirmed()),
        }
    }

    /// What the channel is to receive.
    fn due(&self) -> Receives {
        match &self.private {
            // Public members get diffs whether they asked for presence or not.
            None => Receives {
                broadcasts: true,
                presence: true,
            },
            Some(private) => private.receives(self.presence.is_enabled()),
        }
    }

    /// Replies ok, and says whether that had not been done before.
    fn accept(&mut self, wire: &mut Wire<'_>) -> bool {
        if self.is_joined() {
            return false;
        }
        self.phase = Phase::Joined;
        wire.reply(
            (&self.join_ref, &self.reference),
            &self.quoted,
            Status::Ok,
            &join::response(&self.bindings),
        );
        wire.push(Output::Record(Tally::Joined));
        self.close_replaced(wire);
        self.replay(wire);
        self.catch_up(wire);
        self.ask_in_doubt(wire);
        true
    }

    /// What comes after the reply and what the bindings have to say.
    fn follow_up(&mut self, wire: &mut Wire<'_>) {
        if wire.resume_ignored {
            self.system(wire, "system", Status::Error, RESUME_IGNORED);
        }
        if self.replication_ready {
            wire.push(Output::AwaitReplication {
                membership: self.membership,
            });
        }
        if self.presence.is_enabled() && self.due().presence {
            self.in_room(wire, RoomRequest::State);
        }
    }

    fn tell_replication(&mut self, wire: &mut Wire<'_>, ready: bool) -> Fate {
        if !self.is_joined() || !self.replication_ready {
            return Fate::Lives;
        }
        self.replication_ready = false;
        if ready {
            let message = "Replication connection established";
            self.system(wire, "system", Status::Ok, message);
            return Fate::Lives;
        }
        self.close_with(wire, ErrorCode::ReplicationNotEstablished)
    }

    fn refuse(&mut self, wire: &mut Wire<'_>, why: &Refusal) -> Fate {
        if matches!(why, Refusal::Unauthorized { .. }) && wire.resumes {
            wire.push(Output::Forget {
                claims: Arc::clone(self.credentials.claims()),
                room: Arc::clone(&self.room),
            });
        } else if self.hearing.is_under_way() {
            // It will try again.
            wire.push(Output::Park {
                membership: self.membership,
            });
        }
        self.depart(wire);
        self.answer(wire, why);
        Fate::Ended
    }

    /// Answers a join that is not to be.
    fn answer(&mut self, wire: &mut Wire<'_>, why: &Refusal) {
        wire.refuse((&self.join_ref, &self.reference), &self.quoted, why);
        self.close_replaced(wire);
        self.reject_early(wire);
    }

    fn close_replaced(&mut self, wire: &mut Wire<'_>) {
        if let Some(join_ref) = self.replaces.take()
            // The same ref again would close the channel that was just joined.
            && join_ref != self.join_ref
        {
            wire.end(&join_ref, &self.quoted, End::Close);
        }
    }

    fn apply(&mut self, wire: &mut Wire<'_>, token: Arc<str>) -> Fate {
        let claims = match wire.verifier.verify(&token, wire.now.unix) {
            Ok(claims) => claims,
            Err(error) => return self.token_refused(wire, error),
        };
        self.subject = wire.subject(&claims);
        self.credentials.replace(wire.now, token, claims);
        match self.subscription {
            Subscription::None if self.hearing.is_under_way() => wire.push(Output::Identify {
                membership: self.membership,
                claims: Arc::clone(self.credentials.claims()),
            }),
            Subscription::None => {}
            Subscription::Refused => {
                if self.hearing.is_under_way() {
                    wire.push(Output::Identify {
                        membership: self.membership,
                        claims: Arc::clone(self.credentials.claims()),
                    });
                }
                self.subscribe(wire, false);
            }
            Subscription::Asked | Subscription::Live => {
                self.identified = true;
                wire.push(Output::Identify {
                    membership: self.membership,
                    claims: Arc::clone(self.credentials.claims()),
                });
            }
        }
        self.permissions_changed(wire);
        Fate::Lives
    }

    fn token_refused(&mut self, wire: &mut Wire<'_>, error: TokenError) -> Fate {
        let (text, code) = (error.system_message(), refusal::token_code(&error));
        self.end(wire, &Refusal::Token(error), &text, code)
    }

    /// The token has expired: its successor, if one is held, takes over now.
    fn expire(&mut self, wire: &mut Wire<'_>, seconds_ago: i64) -> Fate {
        if let Some(token) = self.credentials.take_held() {
            return self.apply(wire, token);
        }
        let why = Refusal::Expired { seconds_ago };
        let text = refusal::expired(seconds_ago);
        self.end(wire, &why, &text, ErrorCode::InvalidJwtToken)
    }

    /// Timers may be late; nothing must be shown to a token that has ended, or come from it.
    fn expire_late(&mut self, wire: &mut Wire<'_>) -> Fate {
        match self.credentials.expired(wire.now) {
            Some(seconds_ago) => self.expire(wire, seconds_ago),
            None => Fate::Lives,
        }
    }

    /// Ends the membership for good: refuses its join, or tells why it is closed.
    fn end(&mut self, wire: &mut Wire<'_>, why: &Refusal, text: &str, code: ErrorCode) -> Fate {
        if !self.is_joined() {
            return self.refuse(wire, why);
        }
        self.close(wire, text, code)
    }

    /// Closes for good, with the text of the code.
    fn close_with(&mut self, wire: &mut Wire<'_>, code: ErrorCode) -> Fate {
        self.close(wire, code.text(), code)
    }

    /// Tells why and closes for good.
    fn close(&mut self, wire: &mut Wire<'_>, message: &str, code: ErrorCode) -> Fate {
        self.depart(wire);
        self.system(wire, "system", Status::Error, message);
        wire.end(&self.join_ref, &self.quoted, End::Close);
        wire.count(code);
        Fate::Ended
    }

    fn system(&self, wire: &mut Wire<'_>, extension: &'static str, status: Status, message: &str) {
        let message = System {
            extension,
            status,
            message,
            channel: Some(self.room.topic.sub_topic()),
        };
        let text = frame::system(wire.version, &self.join_ref, &self.quoted, &message);
        wire.send(text);
    }
}
