//! Those who come back for broadcasts from the database (protocol.md §11): they go through the history from where they
//! were, and are live where it ends.
//!
//! A listener is in its room before it asks, and takes nothing of the database from there until it is told that it has
//! caught up: whatever was released before comes from the history, whatever is released later from the room. Whether it
//! may read a private topic is its channel's matter, which asks anew for what committed after something that decides it.

use super::stream::restarted;
use super::{Conductor, GRACE, Output, POKE_PAUSE};
use crate::auth::Claims;
use crate::change::{Cursor, Oid, PgTime};
use crate::pipeline::hearing::{Listener, Stage};
use crate::pipeline::history::{Found, Kept, Position};
use crate::pipeline::messages::{committed, is_of, missed};
use crate::pipeline::replay::Restoring;
use crate::pipeline::sessions::{Acknowledged, Claim, Farewell, Holder, NOWHERE, Resume};
use crate::pipeline::subscriber::SubscriberId;
use crate::realtime::{Notice, ResyncReason};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a session is waited for that somebody else may hold, or a token that it takes.
const PATIENCE: Duration = Duration::from_secs(2);
/// Changes looked at before others have their turn; well below a millisecond.
const LOOKS_MAX: usize = 1000;
/// Changes that might have been looked at while a part is read from the file.
const READ_LOOKS: usize = 200;
/// Listeners that have their turn at once.
const TURNS_MAX: usize = 32;
/// Bytes of what was missed that may wait in an outbox, far below what makes a peer slow.
const POSTED_BYTES_MAX: usize = 1 << 20;
/// Until the next turn.
const PAUSE: Duration = Duration::from_millis(1);
/// The same while everybody waits.
const BLOCKED_PAUSE: Duration = Duration::from_millis(10);

/// What one turn came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    Goes,
    Waits,
    Done,
}

impl Conductor {
    /// A channel wants to hear what the database says, from where it was.
    pub(super) fn listen(&mut self, now: Instant, mut listener: Listener, grace: bool) {
        let id = listener.id;
        self.end_hearing(id);
        listener.stage = Stage::Asking(self.next_number);
        listener.grace = now.checked_add(GRACE).filter(|_| grace);
        self.hearing.listeners.insert(id, listener);
        self.hearing.asking.insert(id);
    }

    /// Its join was answered: from now on it may be told something.
    pub(super) fn hear(&mut self, now: Instant, id: SubscriberId, unix_seconds: i64) {
        if let Some(listener) = self.hearing.listeners.get_mut(&id) {
            let micros = unix_seconds.saturating_mul(1_000_000);
            listener.joined_at = Some(PgTime::from_unix_micros(micros));
            self.hearing.queue(now, id);
        }
    }

    /// The channel was left.
    pub(super) fn end_hearing(&mut self, id: SubscriberId) {
        self.hearing.sessions.end(id);
        self.hearing.asking.remove(&id);
        self.hearing.untold.remove(&id);
        self.hearing.listeners.remove(&id);
    }

    /// The channel was left, or its join refused: then it comes again for what it has not heard of.
    pub(super) fn leave_hearing(&mut self, now: Instant, id: SubscriberId) {
        let listener = self.hearing.listeners.get(&id);
        if listener.is_some_and(|listener| listener.joined_at.is_none()) {
            self.park_hearing(now, id, Farewell::Silent);
        } else {
            self.end_hearing(id);
        }
    }

    /// Its socket ended, or it joins again.
    pub(super) fn park_hearing(&mut self, now: Instant, id: SubscriberId, farewell: Farewell) {
        let listener = self.hearing.listeners.get(&id);
        if let Some(listener) = listener.filter(|it| it.is_told && it.restoring.is_some()) {
            self.hearing.sessions.lend(listener.resume.place);
        }
        self.hearing.sessions.park(now, id, farewell);
        self.end_hearing(id);
    }

    /// Who may read the topic no longer has nothing to come back for.
    pub(super) fn forget_hearing(&mut self, claims: &Claims, resume: Resume) {
        let holder = Holder::new(claims, resume.key);
        self.hearing.sessions.forget(resume.place, holder);
    }

    /// The token that followed a join without one has come.
    pub(super) fn rebind_hearing(&mut self, now: Instant, id: SubscriberId, claims: &Arc<Claims>) {
        let Some(listener) = self.hearing.listeners.get_mut(&id) else {
            return;
        };
        listener.claims = Arc::clone(claims);
        if listener.grace.is_some_and(|until| now <= until) {
            let holder = listener.holder();
            self.hearing.sessions.rebind(id, holder);
        }
    }

    /// The peer of a connection has heard so much.
    pub(super) fn acknowledge_heard(
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
            self.hearing.sessions.acknowledge(id, what, *cursor);
        }
    }

    /// Puts marks into the outboxes of memberships: everything up to there was said.
    pub(super) fn mark_heard(&self, connection: u64, memberships: &[u32]) {
        for membership in memberships {
            let id = SubscriberId {
                connection,
                membership: *membership,
            };
            let listener = self.hearing.listeners.get(&id);
            if let (Some(listener), Some(position)) = (listener, self.heard_up_to(id))
                && let Some(mark) = self.cursor(position)
            {
                listener.tell(Notice::HeardUpTo(mark));
            }
        }
    }

    /// Up to where everything was said to a listener; `None` while that cannot be told.
    fn heard_up_to(&self, id: SubscriberId) -> Option<Position> {
        let listener = self.hearing.listeners.get(&id)?;
        match listener.stage {
            Stage::Live if self.release.is_none() => Some(Position::before(self.routed())),
            Stage::Behind if listener.is_under_way() => {
                let commit = self.history.commit(listener.next.0)?;
                Some(Position::before(commit.lsn))
            }
            _ => None,
        }
    }

    fn cursor(&self, position: Position) -> Option<Cursor> {
        Some(Cursor {
            epoch: self.epoch?,
            commit_lsn: position.lsn,
            order: position.order,
        })
    }

    /// A snapshot was taken: the positions of those that were there when it was begun are found.
    pub(super) fn begin_hearing(&mut self, now: Instant) {
        // What has committed before the epoch and nobody can see yet is never said: who is told that it listens before that is
        // visible would miss it.
        let mut given_up = self.unseen.iter().filter(|unseen| unseen.lsn.is_none());
        let given_up = given_up.next().map_or(u64::MAX, |unseen| unseen.number);
        let begun = self.horizon_ticket.min(given_up);
        let asks = |id: &&SubscriberId| {
            let listener = self.hearing.listeners.get(id);
            listener.is_some_and(
                |listener| matches!(listener.stage, Stage::Asking(since) if since <= begun),
            )
        };
        let ready: Vec<SubscriberId> = self.hearing.asking.iter().filter(asks).copied().collect();
        for id in ready {
            self.hearing.asking.remove(&id);
            let (end, last) = (self.history.end(), self.history.last());
            if let Some(listener) = self.hearing.listeners.get_mut(&id) {
                (listener.stage, listener.next, listener.first) = (Stage::Behind, (end, 0), last);
            }
            if let Some(claim) = self.claim_hearing(now, id) {
                self.take_hearing(now, id, claim);
            }
        }
    }

    fn claim_hearing(&mut self, now: Instant, id: SubscriberId) -> Option<Claim> {
        let listener = self.hearing.listeners.get(&id)?;
        let (place, holder) = (listener.resume.place, listener.holder());
        Some(self.hearing.sessions.claim(now, place, holder, id))
    }

    fn take_hearing(&mut self, now: Instant, id: SubscriberId, claim: Claim) {
        match claim {
            Claim::Position(cursor) => self.go_on_hearing(now, id, cursor),
            Claim::New => self.hear_anew(now, id, None),
            Claim::Unknown => self.hear_anew(now, id, Some(ResyncReason::PositionGone)),
            Claim::Held(owner) => return self.ask_hearing_owner(now, id, owner),
            Claim::Differs => {
                let replays = (self.hearing.listeners.get(&id)).is_some_and(|who| who.replays);
                if !replays {
                    return self.wait_for_hearing(now, id, None);
                }
                // A token follows the answer to the join, which waits for the replay.
                self.hear_anew(now, id, Some(ResyncReason::IdentityChanged));
            }
        }
        self.tell_listening(id);
    }

    /// Asks whether the peer of a session's owner still answers.
    fn ask_hearing_owner(&mut self, now: Instant, id: SubscriberId, owner: SubscriberId) {
        let question = self.number();
        let asked = self.hearing.listeners.get(&owner);
        if asked.is_some_and(|asked| asked.resume.by_heartbeat) {
            // Whether it is there is known only after its next heartbeats.
            match self.hearing.sessions.share(now, owner, id) {
                Some(cursor) => self.go_on_hearing(now, id, cursor),
                None => self.hear_anew(now, id, Some(ResyncReason::PositionGone)),
            }
            return self.tell_listening(id);
        }
        if let Some(asked) = asked {
            asked.tell(Notice::Probe(question));
        }
        self.wait_for_hearing(now, id, Some((owner, question)));
    }

    fn wait_for_hearing(
        &mut self,
        now: Instant,
        id: SubscriberId,
        asked: Option<(SubscriberId, u64)>,
    ) {
        let Some(listener) = self.hearing.listeners.get_mut(&id) else {
            return;
        };
        listener.restoring = now
            .checked_add(PATIENCE)
            .map(|until| Restoring { until, asked });
        let replays = listener.replays;
        self.hearing.queue(now, id);
        if !replays {
            self.tell_listening(id);
        }
    }

    /// Lets the join go on, unless its session would not outlive a crash of ours yet: who comes back after one, and is not
    /// known, is taken for somebody new.
    fn tell_listening(&mut self, id: SubscriberId) {
        let place = (self.hearing.listeners.get(&id)).map(|listener| listener.resume.place);
        if place.is_some_and(|place| !self.hearing.sessions.is_stored(place)) {
            self.hearing.untold.insert(id);
            return;
        }
        self.hearing.untold.remove(&id);
        if let Some(listener) = self.hearing.listeners.get_mut(&id)
            && !std::mem::replace(&mut listener.is_told, true)
        {
            let goes_on = listener.goes_on;
            listener.tell(Notice::Listening { goes_on });
        }
    }

    /// Some sessions were stored.
    pub(super) fn tell_stored(&mut self) {
        for id in std::mem::take(&mut self.hearing.untold) {
            self.tell_listening(id);
        }
    }

    fn waits_for_hearing(&self, id: SubscriberId) -> bool {
        let listener = self.hearing.listeners.get(&id);
        listener.is_some_and(|listener| listener.restoring.is_some())
    }

    /// Looks again after the session of somebody who waits for it; whether it still does.
    fn restore_hearing(&mut self, now: Instant, id: SubscriberId) -> bool {
        let listener = self.hearing.listeners.get(&id);
        let Some(Restoring { until, asked }) = listener.and_then(|listener| listener.restoring)
        else {
            return false;
        };
        let Some(claim) = self.claim_hearing(now, id) else {
            return false;
        };
        let is_over = until <= now;
        match claim {
            Claim::Held(owner) => {
                let question = asked.filter(|(asked, _)| *asked == owner);
                let Some((_, question)) = question else {
                    self.ask_hearing_owner(now, id, owner);
                    return self.waits_for_hearing(id);
                };
                let answered = self.hearing.answered.get(&owner.connection);
                if answered.is_some_and(|answered| *answered >= question) {
                    // Both are there. This one has a session of its own from now on; whether it had one before is not known
                    // where sessions were taken over.
                    let place = (self.hearing.listeners.get(&id)).map(|it| it.resume.place);
                    let is_lent = place.is_some_and(|place| self.hearing.sessions.is_lent(place));
                    self.hear_anew(now, id, is_lent.then_some(ResyncReason::PositionGone));
                } else if is_over {
                    if let Some(owner) = self.hearing.listeners.get(&owner) {
                        owner.tell(Notice::TakenOver);
                    }
                    self.park_hearing(now, owner, Farewell::Silent);
                    let claim = self.claim_hearing(now, id).unwrap_or(Claim::Unknown);
                    self.take_hearing(now, id, claim);
                } else {
                    return true;
                }
            }
            Claim::Differs if !is_over => return true,
            Claim::Differs => self.hear_anew(now, id, Some(ResyncReason::IdentityChanged)),
            Claim::Position(_) | Claim::New | Claim::Unknown => self.take_hearing(now, id, claim),
        }
        let waits = self.waits_for_hearing(id);
        if !waits {
            self.tell_listening(id);
        }
        waits
    }

    /// Goes on from a position, if everything after it is there.
    fn go_on_hearing(&mut self, now: Instant, id: SubscriberId, cursor: Cursor) {
        let position = Position::from(cursor);
        let is_known = Some(cursor.epoch) == self.epoch
            && self.history.holds(position)
            && position >= self.hearing.torn
            && cursor.commit_lsn <= self.wal_end.max(self.received);
        if !is_known {
            return self.hear_anew(now, id, Some(ResyncReason::PositionGone));
        }
        let next = self.history.number_after(position);
        if let Some(listener) = self.hearing.listeners.get_mut(&id) {
            (listener.next, listener.after) = ((next, 0), Some(position));
            (listener.goes_on, listener.restoring) = (true, None);
            listener.unresumed = None;
        }
    }

    /// A session begins where the listener asked. With a reason it is told that it might have gone on.
    fn hear_anew(&mut self, now: Instant, id: SubscriberId, reason: Option<ResyncReason>) {
        let last = self.history.last();
        let Some(listener) = self.hearing.listeners.get_mut(&id) else {
            return;
        };
        let reason = reason.or(listener.unresumed);
        (listener.goes_on, listener.restoring, listener.after) = (false, None, None);
        listener.unresumed = reason;
        let begins = (listener.resume.place, listener.holder());
        let from = listener.first.or(last);
        // What it is told may be lost with its connection, until the mark behind it was acknowledged.
        let known = from.map(|from| if reason.is_some() { NOWHERE } else { from });
        if let Some(cursor) = known.and_then(|known| self.cursor(known)) {
            self.hearing.sessions.begin(now, begins, id, cursor);
        }
    }

    /// The next turn of those who have something to do, if it is time.
    pub(super) fn hear_on(&mut self, now: Instant) {
        if self.hearing.turn_at.is_none_or(|at| at > now) || self.release.is_some() {
            return;
        }
        let mut looks = LOOKS_MAX;
        let mut waits = true;
        for _ in 0..self.hearing.busy.len().min(TURNS_MAX) {
            let Some(id) = self.hearing.busy.pop_front() else {
                break;
            };
            let turn = self.hear_some(now, id, &mut looks);
            waits &= turn == Turn::Waits;
            if turn != Turn::Done {
                self.hearing.busy.push_back(id);
            } else if let Some(listener) = self.hearing.listeners.get_mut(&id) {
                listener.is_queued = false;
            }
            if looks == 0 {
                break;
            }
        }
        let pause = if waits { BLOCKED_PAUSE } else { PAUSE };
        self.hearing.turn_at = if self.hearing.busy.is_empty() {
            self.hearing.answered.clear();
            None
        } else {
            now.checked_add(pause)
        };
    }

    fn hear_some(&mut self, now: Instant, id: SubscriberId, looks: &mut usize) -> Turn {
        while *looks > 0 {
            if self.restore_hearing(now, id) {
                return Turn::Waits;
            }
            let is_silent_still = self.is_silent_still();
            let Some(listener) = self.hearing.listeners.get_mut(&id) else {
                return Turn::Done;
            };
            let (Stage::Behind, Some(joined_at)) = (listener.stage, listener.joined_at) else {
                return Turn::Done;
            };
            let number = listener.next.0;
            if let Some(reason) = listener.unresumed.take() {
                let from = listener.first;
                listener.tell(Notice::Unheard(reason));
                if let Some(mark) = from.and_then(|from| self.cursor(from))
                    && let Some(listener) = self.hearing.listeners.get(&id)
                {
                    listener.tell(Notice::HeardUpTo(mark));
                }
                continue;
            }
            if listener.waiting_bytes() >= POSTED_BYTES_MAX {
                return Turn::Waits;
            }
            match self.history.find(now, number) {
                Err(_too_old) => {
                    (listener.next, listener.first) =
                        ((self.history.end(), 0), self.history.last());
                    self.hear_anew(now, id, Some(ResyncReason::PositionGone));
                }
                Ok(None) if is_silent_still => {
                    self.ask_position(now);
                    return Turn::Waits;
                }
                Ok(None) => {
                    listener.stage = Stage::Live;
                    listener.tell(Notice::CaughtUp);
                    return Turn::Done;
                }
                Ok(Some(Found { kept, was_read })) => {
                    self.hear_chunk(id, &kept, joined_at, looks);
                    if was_read {
                        *looks = looks.saturating_sub(READ_LOOKS);
                    }
                }
            }
        }
        Turn::Goes
    }

    /// Whether what comes in the stream was said by an earlier process, and is not said again.
    fn is_silent_still(&self) -> bool {
        self.says_from.is_some_and(|from| self.routed() < from)
    }

    /// An idle server says where it is only when asked.
    fn ask_position(&mut self, now: Instant) {
        if self.hearing.poke_at.is_none_or(|at| at <= now) {
            self.hearing.poke_at = now.checked_add(POKE_PAUSE);
            self.outputs.push_back(Output::Poke);
        }
    }

    /// Gives a listener what some changes of a part say in its room.
    fn hear_chunk(&mut self, id: SubscriberId, kept: &Kept, now: PgTime, looks: &mut usize) {
        let Some(listener) = self.hearing.listeners.get_mut(&id) else {
            return;
        };
        let (number, from) = listener.next;
        let mut next = from;
        for change in kept.changes.get(from..).unwrap_or_default() {
            if *looks == 0 || listener.waiting_bytes() >= POSTED_BYTES_MAX {
                break;
            }
            *looks = looks.saturating_sub(1);
            next = next.saturating_add(1);
            let is_new = (listener.after)
                .is_none_or(|after| Position::of(&kept.commit, change.order) > after);
            if !is_new
                || !self.catalog.messages.contains(&change.relation.oid)
                || !is_of(change, &listener.room)
            {
                continue;
            }
            // One that cannot be said was counted when it came.
            if let Ok(Some(message)) = missed(change, self.rules.broadcast_bytes_max, now) {
                let message = committed(message, &kept.commit, change.order);
                listener.give(message.in_doubt_since(self.doubt));
            }
        }
        // A part without changes costs a look as well.
        *looks = looks.saturating_sub(1);
        listener.next = if next >= kept.changes.len() {
            (number.saturating_add(1), 0)
        } else {
            (number, next)
        };
    }

    /// Whether the stream has rows of `realtime.messages`, if only when it goes on.
    pub(in crate::pipeline) fn reads_messages(&self) -> bool {
        self.hearing.publication.flatten().is_some()
    }

    /// Rows of `realtime.messages` come by this publication from now on, or do not.
    ///
    /// Returns whether it is another than before, or the first.
    pub(super) fn take_publication(&mut self, now: Instant, publication: Option<Oid>) -> bool {
        let before = self.hearing.publication.replace(publication);
        if let Some(before) = before
            && before != publication
        {
            self.hearing.torn = Position::before(self.received);
            if before.is_some() {
                self.break_hearing(now, ResyncReason::PositionGone);
            }
        }
        before != Some(publication)
    }

    /// The positions of before mean nothing any more.
    pub(super) fn restart_hearing(&mut self, now: Instant, failed_over: bool) {
        self.hearing.torn = NOWHERE;
        self.break_hearing(now, restarted(failed_over));
    }

    /// A transaction could not be read that may have said something.
    pub(super) fn skip_broadcasts(&mut self, now: Instant, relations: &[Oid]) {
        let messages = &self.catalog.messages;
        if relations.is_empty() || relations.iter().any(|oid| messages.contains(oid)) {
            self.break_hearing(now, ResyncReason::TransactionTooLarge);
        }
    }

    /// Broadcasts may be lost to everybody who listens.
    pub(super) fn break_hearing(&mut self, now: Instant, reason: ResyncReason) {
        let listeners = self.hearing.listeners.values();
        let begun = listeners.filter(|listener| !matches!(listener.stage, Stage::Asking(_)));
        let begun: Vec<SubscriberId> = begun.map(|listener| listener.id).collect();
        let (end, last) = (self.history.end(), self.history.last());
        for id in begun {
            let Some(listener) = self.hearing.listeners.get_mut(&id) else {
                continue;
            };
            (listener.next, listener.first) = ((end, 0), last);
            if listener.restoring.is_some() {
                // Told unless its session is found, and has all that is needed.
                listener.unresumed = Some(reason);
                continue;
            }
            let is_live = listener.stage == Stage::Live;
            self.hear_anew(now, id, Some(reason));
            if is_live && let Some(listener) = self.hearing.listeners.get_mut(&id) {
                // The next mark is behind all that was said before, which may still be on its way.
                listener.unresumed = None;
                listener.tell(Notice::Unheard(reason));
            }
        }
    }
}

impl Listener {
    /// Whether it goes through the history, and has heard whatever stands before its place in it.
    fn is_under_way(&self) -> bool {
        self.joined_at.is_some() && self.restoring.is_none() && self.unresumed.is_none()
    }
}
