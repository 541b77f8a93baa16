//! One WebSocket: frames and notices in, frames and requests out (protocol.md §2).
//!
//! Answers at once whatever can be: a heartbeat never waits for a join. Knows no network, clock or database; the shell
//! hands in one input, drains the outputs, and calls back when the time comes.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::auth::{Claims, Verifier};
use crate::topic::{Topic, TopicError};

use super::channel::{Beginning, Channel, Early, Fate, Load};
use super::frame::{self, Message, Payload, QuotedTopic, Ref, Status, Version};
use super::input::{Input, Now};
use super::join::{self, Join};
use super::output::{Deliveries, Output, Tally};
use super::rate::{Counted, PerSecond, Rates, Subject, Subjects};
use super::refusal::Refusal;
use super::wire::Wire;

/// Limits of one socket; the defaults are those of protocol.md §8.1 where it has one, and generous where it has one that
/// is somebody's plan.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Channels at a time.
    pub channels_max: usize,
    /// `postgres_changes` elements of one join. The protocol has no number; a client that needs more wants a filter.
    pub bindings_max: usize,
    /// Bytes of a topic; channels keep theirs.
    pub topic_bytes_max: usize,
    /// Without an inbound frame for this long, the socket is closed (protocol.md §2.6).
    pub idle_timeout: Duration,
    /// Bytes of the payload of a broadcast or of what is tracked.
    pub payload_bytes_max: usize,
    /// Broadcasts, sent and delivered.
    pub messages: PerSecond,
    /// Joins; the limit per channel means nothing.
    pub joins: PerSecond,
    /// Presence calls, and diffs delivered.
    pub presence_events: PerSecond,
    /// Presence calls of one channel in 30 s; 0 for any number.
    pub presence_calls_max: u32,
    /// Permissions of a private channel are looked at again after this time at the latest.
    pub recheck_interval: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            channels_max: 100,
            bindings_max: 1000,
            topic_bytes_max: 4096,
            idle_timeout: Duration::from_secs(60),
            // 3000 kB, and some room for what is around them.
            payload_bytes_max: 3_000_500,
            messages: PerSecond::default(),
            joins: PerSecond {
                socket: 100,
                ..PerSecond::default()
            },
            presence_events: PerSecond::default(),
            presence_calls_max: 5,
            recheck_interval: Duration::from_secs(60),
        }
    }
}

/// What a socket begins with.
#[derive(Clone, Debug)]
pub struct Opening {
    /// As the client asked for it.
    pub version: Version,
    /// What it may do.
    pub limits: Limits,
    /// Verifies the tokens of joins and refreshes.
    pub verifier: Arc<Verifier>,
    /// Shared by all sockets.
    pub subjects: Arc<Subjects>,
    /// Random, and no other socket's.
    pub seed: [u8; 16],
    /// The connection's token.
    pub token: Arc<str>,
    /// What it proves.
    pub claims: Arc<Claims>,
    /// It came with a resume ID that cannot be one; channels are told.
    pub resume_ignored: bool,
}

/// One WebSocket.
pub struct Socket {
    version: Version,
    limits: Limits,
    verifier: Arc<Verifier>,
    subjects: Arc<Subjects>,
    seed: [u8; 16],
    token: Arc<str>,
    claims: Arc<Claims>,
    /// By membership, so in the order of their joins; ≤ `channels_max`.
    channels: BTreeMap<u32, Channel>,
    membership_next: u32,
    outputs: VecDeque<Output>,
    deliveries: Deliveries,
    idle_until: Instant,
    /// Not later than the first time of a channel.
    channels_timeout: Option<Instant>,
    rates: Rates,
    /// Of the last join, so that its counts outlive the channel.
    subject: Option<Arc<Subject>>,
    resume_ignored: bool,
    resumes: bool,
    closed: bool,
}

impl Socket {
    /// A socket whose connection has proved its claims.
    #[must_use]
    pub fn new(now: Now, opening: Opening) -> Self {
        Self {
            version: opening.version,
            idle_until: now.instant + opening.limits.idle_timeout,
            limits: opening.limits,
            verifier: opening.verifier,
            subjects: opening.subjects,
            seed: opening.seed,
            token: opening.token,
            claims: opening.claims,
            channels: BTreeMap::new(),
            membership_next: 1,
            outputs: VecDeque::new(),
            deliveries: Deliveries::default(),
            channels_timeout: None,
            rates: Rates::default(),
            subject: None,
            resume_ignored: opening.resume_ignored,
            resumes: false,
            closed: false,
        }
    }

    /// The same, which may come back: channels go on where they were.
    #[must_use]
    pub fn resuming(self) -> Self {
        Self {
            resumes: true,
            ..self
        }
    }

    /// Whether a membership was sent all broadcasts that have reached it.
    #[must_use]
    pub fn has_passed_all_on(&self, membership: u32) -> bool {
        let channel = self.channels.get(&membership);
        channel.is_some_and(Channel::has_passed_all_on)
    }

    /// Something happened.
    pub fn handle(&mut self, now: Now, input: Input<'_>) {
        if let Input::Gone = input {
            self.closed = true;
            for (_, channel) in std::mem::take(&mut self.channels) {
                channel.gone(&mut self.wire(now));
            }
            return;
        }
        if self.closed {
            return;
        }
        match input {
            Input::Text(text) => {
                self.alive(now);
                let message = frame::decode_text(self.version, text);
                self.message(now, message.as_ref());
            }
            Input::Binary(bytes) => {
                self.alive(now);
                let message = frame::decode_binary(self.version, bytes);
                self.message(now, message.as_ref());
            }
            Input::Control => self.alive(now),
            Input::Notice { membership, notice } => {
                self.with(now, membership, |channel, wire| {
                    channel.notice(wire, notice)
                });
            }
            Input::Changes {
                membership,
                ids,
                payloads,
                last,
            } => self.with(now, membership, |channel, wire| {
                channel.changes(wire, ids, payloads, last)
            }),
            Input::DoubtSending => {
                for channel in self.channels.values_mut() {
                    channel.doubt_sending();
                }
            }
            Input::Drain => {
                let (channels, mut wire) = self.split(now);
                for channel in channels.values_mut() {
                    channel.drain(&mut wire);
                }
                self.close(1012, "server is restarting");
            }
            Input::Gone => {}
        }
    }

    /// The promised time came; calling early is harmless.
    pub fn handle_timeout(&mut self, now: Now) {
        if self.closed {
            return;
        }
        if self.idle_until <= now.instant {
            self.close(1000, "idle");
            return;
        }
        let due: Vec<u32> = self
            .channels
            .iter()
            .filter(|(_, channel)| channel.next_timeout().is_some_and(|at| at <= now.instant))
            .map(|(membership, _)| *membership)
            .collect();
        for membership in due {
            self.with(now, membership, Channel::handle_timeout);
        }
        self.channels_timeout = self
            .channels
            .values()
            .filter_map(Channel::next_timeout)
            .min();
    }

    /// When to call [`Self::handle_timeout`].
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        if self.closed {
            return None;
        }
        [self.channels_timeout, Some(self.idle_until)]
            .into_iter()
            .flatten()
            .min()
    }

    /// The next thing to do, until `None`.
    #[must_use]
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// What was sent since the last call.
    #[must_use]
    pub fn take_deliveries(&mut self) -> Deliveries {
        std::mem::take(&mut self.deliveries)
    }

    /// Channels, pending ones included.
    #[must_use]
    pub fn channels(&self) -> usize {
        self.channels.len()
    }

    fn alive(&mut self, now: Now) {
        self.idle_until = now.instant + self.limits.idle_timeout;
    }

    fn message(&mut self, now: Now, message: Option<&Message<'_>>) {
        let Some(message) = message else {
            return;
        };
        self.outputs.push_back(Output::Record(Tally::Message));
        match (&*message.topic, &*message.event) {
            ("phoenix", "heartbeat") => {
                self.wire(now).reply(
                    (&Ref::null(), &message.reference),
                    &QuotedTopic::new("phoenix"),
                    Status::Ok,
                    "{}",
                );
                self.outputs.push_back(Output::Beat);
            }
            (topic, "phx_join") => match Topic::parse(topic) {
                Ok(topic) => self.join(now, topic, message),
                Err(TopicError::Empty) => {
                    let (join_ref, reference) = refs(message);
                    self.wire(now).refuse(
                        (&join_ref, &reference),
                        &QuotedTopic::new(topic),
                        &Refusal::TopicNameRequired,
                    );
                }
                Err(TopicError::Prefix) => self.unmatched(now, message),
            },
            (topic, event) => match self.find(topic) {
                Some(membership) => self.event(now, membership, event, message),
                None if event == "phx_leave" => self.wire(now).reply(
                    (&message.join_ref, &message.reference),
                    &QuotedTopic::new(topic),
                    Status::Ok,
                    "{}",
                ),
                None => self.unmatched(now, message),
            },
        }
    }

    fn unmatched(&mut self, now: Now, message: &Message<'_>) {
        let topic = QuotedTopic::new(&message.topic);
        self.wire(now).unmatched(&message.reference, &topic);
    }

    /// An event on a topic that is joined or about to be. Unknown ones have no answer.
    fn event(&mut self, now: Now, membership: u32, event: &str, message: &Message<'_>) {
        let channel = self.channels.get(&membership);
        match event {
            "phx_leave" => self.leave(now, membership, message),
            _ if channel.is_some_and(|channel| channel.is_early(event)) => {
                let load = Load::of(self.channels.values());
                let early = Early::new(event, &message.reference, &message.payload);
                self.with(now, membership, |channel, wire| {
                    channel.wait_for_reply(wire, load, early)
                });
            }
            "access_token" => {
                if let Payload::Json(payload) = message.payload
                    && let Some(token) = join::access_token(payload)
                {
                    self.with(now, membership, |channel, wire| {
                        channel.refresh(wire, token)
                    });
                }
            }
            "broadcast" => self.with(now, membership, |channel, wire| {
                channel.broadcast(wire, &message.reference, &message.payload)
            }),
            "presence" => self.with(now, membership, |channel, wire| {
                channel.presence(wire, &message.reference, &message.payload)
            }),
            _ => {}
        }
    }

    fn leave(&mut self, now: Now, membership: u32, message: &Message<'_>) {
        let stale = |channel: &Channel| {
            !message.join_ref.is_null() && message.join_ref != *channel.join_ref()
        };
        if self.channels.get(&membership).is_some_and(stale) {
            // Of a membership that a newer join has ended: it must not end the newer one.
            return;
        }
        if let Some(channel) = self.channels.remove(&membership) {
            channel.leave(&mut self.wire(now), &message.reference);
        }
    }

    fn join(&mut self, now: Now, topic: Topic, message: &Message<'_>) {
        let (join_ref, reference) = refs(message);
        // Whatever becomes of the new join, the client has given the old membership up.
        let replaces = self
            .find(topic.as_str())
            .and_then(|membership| self.channels.remove(&membership))
            .and_then(|channel| channel.supersede(&mut self.wire(now)));
        let wanted = match self.check(now, &topic, message) {
            Ok(wanted) => wanted,
            Err(why) => {
                let quoted = QuotedTopic::new(topic.as_str());
                let version = self.version;
                let mut wire = self.wire(now);
                wire.refuse((&join_ref, &reference), &quoted, &why);
                if let Some(old) = replaces.filter(|old| *old != join_ref) {
                    wire.send(frame::end(version, &old, &quoted, frame::End::Close));
                }
                if why == Refusal::TooManyJoins {
                    self.close(1001, "too many joins");
                }
                return;
            }
        };
        let membership = self.membership_next;
        self.membership_next = membership.wrapping_add(1);
        let beginning = Beginning {
            membership,
            topic,
            join_ref,
            reference,
            join: wanted.join,
            token: wanted.token,
            claims: wanted.claims,
            replaces,
        };
        let channel = Channel::join(beginning, &mut self.wire(now));
        self.plan(channel.next_timeout());
        self.channels.insert(membership, channel);
    }

    /// The checks of a join, in the order of protocol.md §3.7.
    fn check(&mut self, now: Now, topic: &Topic, message: &Message<'_>) -> Result<Wanted, Refusal> {
        if topic.as_str().len() > self.limits.topic_bytes_max {
            return Err(Refusal::TopicTooLong {
                max: self.limits.topic_bytes_max,
            });
        }
        if !self.admit_join(
            now,
            PerSecond {
                subject: 0,
                ..self.limits.joins
            },
            None,
        ) {
            return Err(Refusal::TooManyJoins);
        }
        if self.channels.len() >= self.limits.channels_max {
            return Err(Refusal::TooManyChannels);
        }
        let payload = match message.payload {
            Payload::Json(payload) => Some(payload),
            Payload::Binary(_) | Payload::UserBroadcast { .. } => None,
        };
        let join = Join::parse(payload, self.limits.bindings_max).map_err(Refusal::Payload)?;
        let (token, claims) = match &join.token {
            Some(token) => self.identify(now, token)?,
            None => (Arc::clone(&self.token), self.own_claims(now)?),
        };
        let subject = self.wire(now).subject(&claims);
        let of_subject = PerSecond {
            subject: self.limits.joins.subject,
            ..PerSecond::default()
        };
        let admitted = self.admit_join(now, of_subject, subject.as_deref());
        self.subject = subject;
        if !admitted {
            return Err(Refusal::TooManyJoins);
        }
        if join.replay.is_some() && !join.private {
            return Err(Refusal::ReplayOnPublic);
        }
        Ok(Wanted {
            join,
            token,
            claims,
        })
    }

    fn admit_join(&mut self, now: Now, limit: PerSecond, subject: Option<&Subject>) -> bool {
        let rates = &mut self.rates;
        super::rate::admit(Counted::Joins, now.instant, limit, rates, None, subject)
    }

    fn identify(&self, now: Now, token: &str) -> Result<(Arc<str>, Arc<Claims>), Refusal> {
        let claims = self
            .verifier
            .verify(token, now.unix)
            .map_err(Refusal::Token)?;
        // Channels of a socket mostly share their token: keep it once.
        let shared = self
            .channels
            .values()
            .map(Channel::credentials)
            .chain([(&self.token, &self.claims)])
            .find(|(held, _)| ***held == *token);
        Ok(match shared {
            Some((token, claims)) => (Arc::clone(token), Arc::clone(claims)),
            None => (token.into(), claims),
        })
    }

    /// The connection's claims, unless they have expired since it was made.
    fn own_claims(&self, now: Now) -> Result<Arc<Claims>, Refusal> {
        match self.claims.expires_at {
            Some(expires_at) if expires_at <= now.unix => Err(Refusal::Expired {
                seconds_ago: now.unix.saturating_sub(expires_at),
            }),
            _ => Ok(Arc::clone(&self.claims)),
        }
    }

    fn find(&self, topic: &str) -> Option<u32> {
        // At most a hundred, and messages from clients are few.
        self.channels
            .iter()
            .find(|(_, channel)| channel.topic().as_str() == topic)
            .map(|(membership, _)| *membership)
    }

    /// Lets a channel act, and then serve what has waited for its reply; forgets it if it ended.
    fn with(
        &mut self,
        now: Now,
        membership: u32,
        act: impl FnOnce(&mut Channel, &mut Wire<'_>) -> Fate,
    ) {
        let (channels, mut wire) = self.split(now);
        let Some(channel) = channels.get_mut(&membership) else {
            return;
        };
        let mut fate = act(channel, &mut wire);
        while fate == Fate::Lives && channel.has_early() {
            fate = channel.serve_early(&mut wire);
        }
        let timeout = match fate {
            Fate::Lives => channel.next_timeout(),
            Fate::Ended => {
                channel.reject_early(&mut wire);
                channels.remove(&membership);
                None
            }
        };
        self.plan(timeout);
    }

    fn plan(&mut self, timeout: Option<Instant>) {
        self.channels_timeout = [self.channels_timeout, timeout].into_iter().flatten().min();
    }

    fn split(&mut self, now: Now) -> (&mut BTreeMap<u32, Channel>, Wire<'_>) {
        let wire = Wire {
            version: self.version,
            now,
            limits: &self.limits,
            verifier: &self.verifier,
            subjects: &self.subjects,
            seed: &self.seed,
            resume_ignored: self.resume_ignored,
            resumes: self.resumes,
            rates: &mut self.rates,
            deliveries: &mut self.deliveries,
            outputs: &mut self.outputs,
        };
        (&mut self.channels, wire)
    }

    fn wire(&mut self, now: Now) -> Wire<'_> {
        self.split(now).1
    }

    fn close(&mut self, code: u16, reason: &'static str) {
        self.closed = true;
        self.outputs.push_back(Output::Close { code, reason });
    }
}

/// A join that passed its checks.
struct Wanted {
    join: Join,
    token: Arc<str>,
    claims: Arc<Claims>,
}

/// The refs of a join. Some clients send no join ref with it and mean its ref, as `phx_close` would be ignored without.
fn refs(message: &Message<'_>) -> (Ref, Ref) {
    let join_ref = if message.join_ref.is_null() {
        &message.reference
    } else {
        &message.join_ref
    };
    (join_ref.clone(), message.reference.clone())
}
