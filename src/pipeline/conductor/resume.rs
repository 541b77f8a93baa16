//! Those who come back: what a join with a resume ID goes on from (protocol.md §11), and how far everybody has got.
//!
//! A session is nobody's for as long as its socket is away. Who comes back goes through the past from the position that
//! was acknowledged last; what was deleted meanwhile is told as well, for the session was subscribed when it happened. A session that somebody
//! may still hold, or that is another subject's, is waited for while the past waits.

use super::Conductor;
use crate::change::Cursor;
use crate::pipeline::history::Position;
use crate::pipeline::replay::{Restoring, Start};
use crate::pipeline::sessions::{Acknowledged, Claim, Farewell, Holder, NOWHERE};
use crate::pipeline::subscriber::{Phase, SubscriberId};
use crate::realtime::{Notice, PositionRefused, ResyncReason};
use std::time::{Duration, Instant};

/// How long a session is waited for that somebody else may hold, or a token that it takes.
const PATIENCE: Duration = Duration::from_secs(2);

impl Conductor {
    /// A join with a resume ID has its snapshot. The subscriber is told that it is subscribed, unless it is refused.
    pub(super) fn begin_session(
        &mut self,
        now: Instant,
        id: SubscriberId,
    ) -> Result<(), PositionRefused> {
        let Some(claim) = self.claim(now, id) else {
            return Ok(());
        };
        if matches!(claim, Claim::New | Claim::Unknown) {
            self.find_beginning(id)?;
        }
        let Some(subscriber) = self.subscribers.get_mut(&id) else {
            return Ok(());
        };
        subscriber.phase = Phase::Replaying;
        if let Some(replay) = &mut subscriber.replay {
            replay.unsaid = Some(Vec::new());
        }
        self.take_claim(now, id, claim);
        self.announce(id);
        Ok(())
    }

    /// Tells a subscriber that it is subscribed, unless its session would not outlive a crash of ours yet: who comes back after
    /// one, and is not known, is taken for somebody new. Whether it was told.
    pub(super) fn announce(&mut self, id: SubscriberId) -> bool {
        let Some(subscriber) = self.subscribers.get_mut(&id) else {
            return true;
        };
        let place = subscriber.resume.map(|resume| resume.place);
        let is_stored = place.is_none_or(|place| self.sessions.is_stored(place));
        let replay = subscriber.replay.as_mut();
        let Some(replay) = replay.filter(|replay| replay.unsaid.is_some()) else {
            return true;
        };
        if is_stored {
            let unsaid = replay.unsaid.take().unwrap_or_default();
            subscriber.tell(Notice::Subscribed);
            for notice in unsaid {
                subscriber.tell(notice);
            }
        }
        is_stored
    }

    /// Tells a subscriber something that comes after the news that it is subscribed.
    fn say_to(&mut self, id: SubscriberId, notice: Notice) {
        let Some(subscriber) = self.subscribers.get_mut(&id) else {
            return;
        };
        let replay = subscriber.replay.as_mut();
        match replay.and_then(|replay| replay.unsaid.as_mut()) {
            Some(unsaid) => unsaid.push(notice),
            None => subscriber.tell(notice),
        }
    }

    fn claim(&mut self, now: Instant, id: SubscriberId) -> Option<Claim> {
        let subscriber = self.subscribers.get(&id)?;
        let resume = subscriber.resume?;
        let holder = Holder::new(&subscriber.claims, resume.key);
        Some(self.sessions.claim(now, resume.place, holder, id))
    }

    fn take_claim(&mut self, now: Instant, id: SubscriberId, claim: Claim) {
        tracing::debug!(
            connection = id.connection,
            membership = id.membership,
            ?claim,
            floor = ?self.history.floor(),
            last = ?self.history.last(),
            wal_end = %self.wal_end,
            "a join asks for its session"
        );
        match claim {
            Claim::Position(cursor) => self.go_on_from(now, id, cursor),
            Claim::New => self.begin_anew(now, id, None),
            Claim::Unknown => self.begin_anew(now, id, Some(ResyncReason::PositionGone)),
            Claim::Held(owner) => self.ask_owner(now, id, owner),
            Claim::Differs => self.wait_for_session(now, id, None),
        }
    }

    /// Asks whether the peer of a session's owner still answers.
    fn ask_owner(&mut self, now: Instant, id: SubscriberId, owner: SubscriberId) {
        let question = self.number();
        let asked = self.subscribers.get_mut(&owner);
        let resume = asked.as_ref().and_then(|asked| asked.resume);
        if resume.is_some_and(|resume| resume.by_heartbeat) {
            // Whether it is there is known only after its next heartbeats.
            return match self.sessions.share(now, owner, id) {
                Some(cursor) => self.go_on_from(now, id, cursor),
                None => self.begin_anew(now, id, Some(ResyncReason::PositionGone)),
            };
        }
        if let Some(asked) = asked {
            asked.tell(Notice::Probe(question));
        }
        self.wait_for_session(now, id, Some((owner, question)));
    }

    fn wait_for_session(
        &mut self,
        now: Instant,
        id: SubscriberId,
        asked: Option<(SubscriberId, u64)>,
    ) {
        let (end, last) = (self.history.end(), self.history.last());
        if let Some(replay) = self.replay_of(id) {
            if replay.restoring.is_none() {
                (replay.next, replay.first) = (end, last);
                replay.starts.clear();
            }
            replay.restoring = now
                .checked_add(PATIENCE)
                .map(|until| Restoring { until, asked });
        }
    }

    fn waits_for_session(&self, id: SubscriberId) -> bool {
        let replay = self.subscribers.get(&id).and_then(|it| it.replay.as_ref());
        replay.is_some_and(|replay| replay.restoring.is_some())
    }

    /// The connection of a subscriber has ended, which may come back.
    pub(super) fn park(&mut self, now: Instant, id: SubscriberId, farewell: Farewell) {
        let subscriber = self.subscribers.get(&id);
        let has_heard = subscriber.is_some_and(|subscriber| !subscriber.is_unannounced());
        let resume = subscriber.and_then(|subscriber| subscriber.resume);
        if let Some(resume) = resume.filter(|_| has_heard && self.waits_for_session(id)) {
            self.sessions.lend(resume.place);
        }
        self.sessions.park(now, id, farewell);
        self.remove(id);
    }

    /// Looks again after the session of somebody who waits for it; whether it still does.
    pub(super) fn restore(&mut self, now: Instant, id: SubscriberId) -> bool {
        let restoring = self.replay_of(id).and_then(|replay| replay.restoring);
        let Some(Restoring { until, asked }) = restoring else {
            return false;
        };
        let Some(claim) = self.claim(now, id) else {
            return false;
        };
        let is_over = until <= now;
        match claim {
            Claim::Held(owner) => {
                let question = asked.filter(|(asked, _)| *asked == owner);
                let Some((_, question)) = question else {
                    self.ask_owner(now, id, owner);
                    return self.waits_for_session(id);
                };
                let answered = self.answered.get(&owner.connection);
                if answered.is_some_and(|answered| *answered >= question) {
                    // Both are there. This one has a session of its own from now on; whether it had one before is not known
                    // where sessions were taken over.
                    let place = self.subscribers.get(&id).and_then(|it| it.resume);
                    let is_lent = place.is_some_and(|resume| self.sessions.is_lent(resume.place));
                    self.begin_anew(now, id, is_lent.then_some(ResyncReason::PositionGone));
                } else if is_over {
                    self.sessions.park(now, owner, Farewell::Silent);
                    if let Some(owner) = self.subscribers.get_mut(&owner) {
                        owner.tell(Notice::TakenOver);
                    }
                    self.remove(owner);
                    let claim = self.claim(now, id).unwrap_or(Claim::Unknown);
                    self.take_claim(now, id, claim);
                } else {
                    return true;
                }
            }
            Claim::Differs if !is_over => return true,
            Claim::Differs => self.begin_anew(now, id, Some(ResyncReason::IdentityChanged)),
            Claim::Position(_) | Claim::New | Claim::Unknown => self.take_claim(now, id, claim),
        }
        false
    }

    /// Goes on from a position, if everything after it is there.
    fn go_on_from(&mut self, now: Instant, id: SubscriberId, cursor: Cursor) {
        let position = Position::from(cursor);
        let is_known = Some(cursor.epoch) == self.epoch
            && self.history.holds(position)
            && cursor.commit_lsn <= self.wal_end;
        if !is_known {
            return self.begin_anew(now, id, Some(ResyncReason::PositionGone));
        }
        let next = self.history.number_after(position);
        let Some(subscriber) = self.subscribers.get_mut(&id) else {
            return;
        };
        let bindings = subscriber.bindings.iter();
        let starts = bindings.map(|binding| (binding.id, Start::After(position)));
        let starts: Vec<_> = starts.collect();
        if let Some(replay) = &mut subscriber.replay {
            (replay.starts, replay.next, replay.change) = (starts, next, 0);
            replay.was_subscribed = true;
            replay.restoring = None;
        }
    }

    /// A session begins where the subscriber does. With a reason it is told that it might have gone on.
    fn begin_anew(&mut self, now: Instant, id: SubscriberId, reason: Option<ResyncReason>) {
        let last = self.history.last();
        if let Some(reason) = reason {
            self.say_to(id, Notice::Unresumed(reason));
        }
        let Some(subscriber) = self.subscribers.get_mut(&id) else {
            return;
        };
        let mut from = last;
        if let Some(replay) = &mut subscriber.replay {
            let is_asked = |start: &Start| matches!(start, Start::Asked(_));
            let was_asked = replay.starts.iter().any(|(_, start)| is_asked(start));
            if was_asked || replay.starts.is_empty() && replay.first.is_none() {
                // Its session could have spared it the past that the bindings name.
                replay.starts.clear();
                replay.next = self.history.end();
            }
            // What it goes through now came after its join: it waited for a token, or for its session.
            replay.was_subscribed |= replay.starts.is_empty();
            replay.restoring = None;
            from = replay.first.or(from);
        }
        let Some(resume) = subscriber.resume else {
            return;
        };
        let holder = Holder::new(&subscriber.claims, resume.key);
        let (Some(epoch), Some(from)) = (self.epoch, from) else {
            return;
        };
        let cursor = |position: Position| Cursor {
            epoch,
            commit_lsn: position.lsn,
            order: position.order,
        };
        // What it was told may be lost with its connection, until the mark behind it was acknowledged.
        tracing::debug!(
            connection = id.connection,
            membership = id.membership,
            from = %cursor(from),
            ?reason,
            "a session begins"
        );
        let known = if reason.is_some() { NOWHERE } else { from };
        if reason.is_some() {
            self.say_to(id, Notice::Mark(cursor(from)));
        }
        let begins = (resume.place, holder);
        self.sessions.begin(now, begins, id, cursor(known));
    }

    /// The token that followed a join without one has come.
    pub(super) fn rebind_session(&mut self, id: SubscriberId) {
        let Some(subscriber) = self.subscribers.get(&id) else {
            return;
        };
        if let (Some(resume), true) = (subscriber.resume, subscriber.grace.is_some()) {
            let holder = Holder::new(&subscriber.claims, resume.key);
            self.sessions.rebind(id, holder);
        }
    }

    /// The peer of a connection has got so far.
    pub(super) fn acknowledge(
        &mut self,
        connection: u64,
        what: Acknowledged,
        positions: &[(u32, Cursor)],
    ) {
        for (membership, cursor) in positions {
            let id = SubscriberId {
                connection,
                membership: *membership,
            };
            let subscriber = self.subscribers.get(&id);
            // What is kept for a token that may come is older than what was sent.
            if subscriber.is_some_and(|subscriber| subscriber.grace.is_none()) {
                self.sessions.acknowledge(id, what, *cursor);
            }
        }
    }

    /// Puts marks into the outboxes of memberships: everything up to there was said.
    pub(super) fn mark(&mut self, connection: u64, memberships: &[u32]) {
        for membership in memberships {
            let id = SubscriberId {
                connection,
                membership: *membership,
            };
            if !self.sessions.has(id) {
                continue;
            }
            let Some(position) = self.said_up_to(id) else {
                continue;
            };
            if let (Some(epoch), Some(subscriber)) = (self.epoch, self.subscribers.get_mut(&id)) {
                subscriber.tell(Notice::Mark(Cursor {
                    epoch,
                    commit_lsn: position.lsn,
                    order: position.order,
                }));
            }
        }
    }

    /// Up to where everything was said to a subscriber; `None` while that cannot be told.
    fn said_up_to(&self, id: SubscriberId) -> Option<Position> {
        let subscriber = self.subscribers.get(&id)?;
        let lane = self.lanes.get(&subscriber.lane?)?;
        let is_quiet = lane.queue.is_empty() && lane.pending.is_empty() && !subscriber.holds();
        // A mark must not pass what is still to be said with the news that it is subscribed.
        let has_heard = !subscriber.is_unannounced() && subscriber.grace.is_none();
        if !is_quiet || !has_heard || self.release.is_some() {
            return None;
        }
        match (subscriber.phase, &subscriber.replay) {
            (Phase::Live, _) => Some(Position::before(self.routed())),
            (Phase::Replaying, Some(replay)) if replay.restoring.is_none() => {
                let commit = self.history.commit(replay.next)?;
                Some(Position::before(commit.lsn))
            }
            _ => None,
        }
    }
}
