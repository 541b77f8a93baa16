//! One membership of a topic: from its join to its end (protocol.md §3, §7.4).
//!
//! Nothing of a channel goes out before its join reply, and the reply of a join with bindings waits until they are in
//! force: SUBSCRIBED means that every later commit arrives.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::auth::{Claims, TokenError, Verifier};
use crate::routing::RequestedBinding;
use crate::topic::Topic;

use super::credentials::Credentials;
use super::frame::{self, End, QuotedTopic, Ref, Status, System};
use super::output::{Output, Tally};
use super::refusal::{self, Refusal};
use super::wire::Wire;
use super::{Notice, join};

/// How long a join without `wait` is left unanswered: shorter than the 10 s after which clients give up.
const REPLY_WITHIN: Duration = Duration::from_secs(8);

/// Whether the membership goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Fate {
    /// It does.
    Lives,
    /// It ended, and the client was told.
    Ended,
}

/// How far the bindings are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Subscription {
    /// There are none.
    None,
    /// Asked for and not yet answered.
    Asked,
    /// In force.
    Live,
    /// Refused. New claims ask again: a client that joins before it has its user's token is refused for `anon` first.
    Refused,
}

#[derive(Debug)]
enum Phase {
    /// The reply waits.
    Joining {
        /// No longer than this.
        until: Instant,
        /// The client asked for the wait, for this long.
        wait: Option<Duration>,
    },
    /// The reply went out.
    Joined,
}

/// What a join that passed its checks begins with.
pub(super) struct Beginning {
    pub(super) membership: u32,
    pub(super) topic: Topic,
    pub(super) join_ref: Ref,
    pub(super) reference: Ref,
    pub(super) ack: bool,
    pub(super) bindings: Vec<RequestedBinding>,
    pub(super) wait: Option<Duration>,
    pub(super) token: Arc<str>,
    pub(super) claims: Arc<Claims>,
    /// The join carried no token of its own.
    pub(super) grace: bool,
    /// Join ref of the membership that this one ended: closed after the reply.
    pub(super) replaces: Option<Ref>,
}

/// One membership.
#[derive(Debug)]
pub(super) struct Channel {
    membership: u32,
    topic: Topic,
    quoted: QuotedTopic,
    join_ref: Ref,
    reference: Ref,
    ack: bool,
    bindings: Vec<RequestedBinding>,
    subscription: Subscription,
    /// New claims were sent and not yet answered: a refusal may still speak of the old ones.
    identified: bool,
    phase: Phase,
    credentials: Credentials,
    /// Trouble that came before the reply.
    trouble: Option<Box<str>>,
    replaces: Option<Ref>,
}

impl Channel {
    /// Begins the membership: replies at once without bindings, else asks for them.
    pub(super) fn join(beginning: Beginning, wire: &mut Wire<'_>) -> Self {
        let mut channel = Self {
            membership: beginning.membership,
            quoted: QuotedTopic::new(beginning.topic.as_str()),
            topic: beginning.topic,
            join_ref: beginning.join_ref,
            reference: beginning.reference,
            ack: beginning.ack,
            bindings: beginning.bindings,
            subscription: Subscription::None,
            identified: false,
            phase: Phase::Joining {
                until: wire.now.instant + beginning.wait.unwrap_or(REPLY_WITHIN),
                wait: beginning.wait,
            },
            credentials: Credentials::new(wire.now, beginning.token, beginning.claims),
            trouble: None,
            replaces: beginning.replaces,
        };
        if channel.bindings.is_empty() {
            channel.accept(wire);
        } else {
            channel.subscribe(wire, beginning.grace);
        }
        channel
    }

    pub(super) fn topic(&self) -> &Topic {
        &self.topic
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
        self.unsubscribe(wire);
        if self.is_joined() {
            return Some(self.join_ref);
        }
        let _ended = self.refuse(wire, &Refusal::Superseded);
        None
    }

    /// A `phx_leave` with the channel's join ref or none.
    pub(super) fn leave(mut self, wire: &mut Wire<'_>, reference: &Ref) {
        self.unsubscribe(wire);
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
        self.unsubscribe(wire);
    }

    /// The server is leaving: clients are to come back, so nothing is closed.
    pub(super) fn drain(&mut self, wire: &mut Wire<'_>) {
        if !self.is_joined() {
            let _ended = self.refuse(wire, &Refusal::Restarting);
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

    /// What the pipeline says.
    pub(super) fn notice(&mut self, wire: &mut Wire<'_>, notice: Notice) -> Fate {
        if self.subscription == Subscription::None {
            return Fate::Lives;
        }
        match notice {
            Notice::Broadcast(_)
            | Notice::PresenceDiff(_)
            | Notice::PresenceState(_)
            | Notice::Answered { .. }
            | Notice::Recheck
            | Notice::ReplicationReady(_) => Fate::Lives,
            Notice::Subscribed => {
                self.subscription = Subscription::Live;
                self.identified = false;
                self.accept(wire);
                self.system(wire, POSTGRES, Status::Ok, "Subscribed to PostgreSQL");
                if let Some(state) = self.trouble.take() {
                    self.policy_trouble(wire, &state);
                }
                Fate::Lives
            }
            Notice::Refused(text) => self.refused(wire, text),
            Notice::Resync(reason) => {
                self.subscription = Subscription::None;
                if !self.is_joined() {
                    return self.refuse(wire, &Refusal::Initializing);
                }
                wire.outputs
                    .push_back(Output::Record(Tally::Resync(reason)));
                let message = format!("Resync required: {reason}");
                self.system(wire, POSTGRES, Status::Error, &message);
                wire.end(&self.join_ref, &self.quoted, End::Error);
                Fate::Ended
            }
            Notice::PolicyTrouble(state) => {
                if self.is_joined() {
                    self.policy_trouble(wire, &state);
                } else {
                    self.trouble = Some(state);
                }
                Fate::Lives
            }
        }
    }

    /// Changes, in order. `last`: the last of them is the last of its transaction for this channel.
    pub(super) fn changes(
        &mut self,
        wire: &mut Wire<'_>,
        verifier: &Verifier,
        ids: &str,
        payloads: &[Bytes],
        last: bool,
    ) -> Fate {
        if !self.is_joined() || self.subscription != Subscription::Live {
            return Fate::Lives;
        }
        // Timers may be late, rows must not be shown to a token that has ended.
        if let Some(seconds_ago) = self.credentials.expired(wire.now)
            && self.expire(wire, verifier, seconds_ago) == Fate::Ended
        {
            return Fate::Ended;
        }
        for (index, payload) in payloads.iter().enumerate() {
            let Ok(data) = std::str::from_utf8(payload) else {
                return self.notice(wire, Notice::Resync(super::ResyncReason::VerdictUnknown));
            };
            let last = last && index.saturating_add(1) == payloads.len();
            wire.send(frame::postgres_changes(
                wire.version,
                &self.quoted,
                ids,
                data,
                last,
            ));
        }
        wire.outputs
            .push_back(Output::Record(Tally::Changes(payloads.len())));
        Fate::Lives
    }

    /// A `broadcast` push: nothing is relayed yet, and only who asked for acknowledgements is told.
    pub(super) fn broadcast(&self, wire: &mut Wire<'_>, reference: &Ref) {
        if self.is_joined() && self.ack {
            self.unsupported(wire, reference, "Broadcast is not supported yet");
        }
    }

    /// A `presence` push, which is always answered.
    pub(super) fn presence(&self, wire: &mut Wire<'_>, reference: &Ref) {
        if self.is_joined() {
            self.unsupported(wire, reference, "Presence is not supported yet");
        }
    }

    fn unsupported(&self, wire: &mut Wire<'_>, reference: &Ref, reason: &str) {
        let response = format!(r#"{{"reason":{}}}"#, frame::quote(reason));
        wire.reply(
            (&self.join_ref, reference),
            &self.quoted,
            Status::Error,
            &response,
        );
    }

    /// An `access_token` event; `token` is no API key.
    pub(super) fn refresh(
        &mut self,
        wire: &mut Wire<'_>,
        verifier: &Verifier,
        token: String,
    ) -> Fate {
        match self.credentials.offer(wire.now.instant, token) {
            Some(token) => self.apply(wire, verifier, token),
            None => Fate::Lives,
        }
    }

    /// The promised time came, or an earlier one.
    pub(super) fn handle_timeout(&mut self, wire: &mut Wire<'_>, verifier: &Verifier) -> Fate {
        if let Phase::Joining { until, wait } = self.phase
            && until <= wire.now.instant
        {
            self.unsubscribe(wire);
            let why = wait.map_or(Refusal::Initializing, Refusal::SubscribeTimeout);
            return self.refuse(wire, &why);
        }
        if let Some(token) = self.credentials.take_due(wire.now.instant)
            && self.apply(wire, verifier, token) == Fate::Ended
        {
            return Fate::Ended;
        }
        if let Some(seconds_ago) = self.credentials.recheck(wire.now) {
            return self.expire(wire, verifier, seconds_ago);
        }
        Fate::Lives
    }

    /// When [`Self::handle_timeout`] has something to do.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        let until = match self.phase {
            Phase::Joining { until, .. } => Some(until),
            Phase::Joined => None,
        };
        [until, self.credentials.next_timeout()]
            .into_iter()
            .flatten()
            .min()
    }

    fn subscribe(&mut self, wire: &mut Wire<'_>, grace: bool) {
        self.subscription = Subscription::Asked;
        self.identified = false;
        wire.outputs.push_back(Output::Subscribe {
            membership: self.membership,
            claims: Arc::clone(self.credentials.claims()),
            bindings: self.bindings.clone(),
            grace,
        });
    }

    fn unsubscribe(&mut self, wire: &mut Wire<'_>) {
        if matches!(self.subscription, Subscription::Asked | Subscription::Live) {
            wire.outputs.push_back(Output::Unsubscribe {
                membership: self.membership,
            });
        }
        self.subscription = Subscription::None;
    }

    /// Replies ok, unless that was done.
    fn accept(&mut self, wire: &mut Wire<'_>) {
        if self.is_joined() {
            return;
        }
        self.phase = Phase::Joined;
        wire.reply(
            (&self.join_ref, &self.reference),
            &self.quoted,
            Status::Ok,
            &join::response(&self.bindings),
        );
        wire.outputs.push_back(Output::Record(Tally::Joined));
        self.close_replaced(wire);
    }

    fn refuse(&mut self, wire: &mut Wire<'_>, why: &Refusal) -> Fate {
        wire.refuse((&self.join_ref, &self.reference), &self.quoted, why);
        self.close_replaced(wire);
        Fate::Ended
    }

    fn close_replaced(&mut self, wire: &mut Wire<'_>) {
        if let Some(join_ref) = self.replaces.take()
            // The same ref again would close the channel that was just joined.
            && join_ref != self.join_ref
        {
            wire.end(&join_ref, &self.quoted, End::Close);
        }
    }

    fn refused(&mut self, wire: &mut Wire<'_>, text: String) -> Fate {
        if self.identified {
            self.subscribe(wire, false);
            return Fate::Lives;
        }
        self.subscription = Subscription::Refused;
        if let Phase::Joining { wait: Some(_), .. } = self.phase {
            return self.refuse(wire, &Refusal::Configuration(text));
        }
        self.accept(wire);
        self.system(wire, POSTGRES, Status::Error, &text);
        wire.outputs.push_back(Output::Record(Tally::SystemError(
            "UnableToSubscribeToPostgres",
        )));
        Fate::Lives
    }

    fn policy_trouble(&self, wire: &mut Wire<'_>, state: &str) {
        let message = format!("Row-level security check failed ({state})");
        self.system(wire, POSTGRES, Status::Error, &message);
        wire.outputs
            .push_back(Output::Record(Tally::SystemError("RlsPolicyError")));
    }

    fn apply(&mut self, wire: &mut Wire<'_>, verifier: &Verifier, token: Arc<str>) -> Fate {
        let claims = match verifier.verify(&token, wire.now.unix) {
            Ok(claims) => claims,
            Err(error) => return self.token_refused(wire, error),
        };
        self.credentials.replace(wire.now, token, claims);
        match self.subscription {
            Subscription::None => {}
            Subscription::Refused => self.subscribe(wire, false),
            Subscription::Asked | Subscription::Live => {
                self.identified = true;
                wire.outputs.push_back(Output::Identify {
                    membership: self.membership,
                    claims: Arc::clone(self.credentials.claims()),
                });
            }
        }
        Fate::Lives
    }

    fn token_refused(&mut self, wire: &mut Wire<'_>, error: TokenError) -> Fate {
        self.unsubscribe(wire);
        if !self.is_joined() {
            return self.refuse(wire, &Refusal::Token(error));
        }
        self.close(wire, &error.system_message(), Refusal::Token(error).code())
    }

    /// The token has expired: its successor, if one is held, takes over now.
    fn expire(&mut self, wire: &mut Wire<'_>, verifier: &Verifier, seconds_ago: i64) -> Fate {
        if let Some(token) = self.credentials.take_held() {
            return self.apply(wire, verifier, token);
        }
        self.unsubscribe(wire);
        if !self.is_joined() {
            return self.refuse(wire, &Refusal::Expired { seconds_ago });
        }
        self.close(wire, &refusal::expired(seconds_ago), "InvalidJWTToken")
    }

    /// Tells why and closes for good.
    fn close(&mut self, wire: &mut Wire<'_>, message: &str, code: &'static str) -> Fate {
        self.system(wire, "system", Status::Error, message);
        wire.end(&self.join_ref, &self.quoted, End::Close);
        wire.outputs
            .push_back(Output::Record(Tally::SystemError(code)));
        Fate::Ended
    }

    fn system(&self, wire: &mut Wire<'_>, extension: &'static str, status: Status, message: &str) {
        let message = System {
            extension,
            status,
            message,
            channel: Some(self.topic.sub_topic()),
        };
        let text = frame::system(wire.version, &self.join_ref, &self.quoted, &message);
        wire.send(text);
    }
}

/// The extension of the system messages about changes.
const POSTGRES: &str = "postgres_changes";
