//! Those who go through the past: from a position in the history to its end, and from there on live.
//!
//! What they go through they get as they would have, and only if they still may: a change needs an allow as of its commit,
//! and one of now. A compiled plan gives both at once where nothing that it looks into has changed since. Otherwise
//! Postgres is asked, and says what can be seen now with this very content. A DELETE says what was there before, which nobody can
//! be asked about: it is told to those who were shown the row on the way.
//!
//! Bounded by what waits in the lane and in the outbox; goes on when the time comes, a little at a time.

use super::Conductor;
use super::rows::routed_row;
use super::walk::Walked;
use crate::catalog::Access;
use crate::change::{Change, ChangeKind, Cursor};
use crate::pipeline::history::{Kept, Position};
use crate::pipeline::lane::{Item, ItemRow, RowState};
use crate::pipeline::old::OldRow;
use crate::pipeline::part::Part;
use crate::pipeline::replay::{Replay, Start};
use crate::pipeline::subscriber::{Phase, SubscriberId};
use crate::pipeline::view::View;
use crate::realtime::{Notice, PositionRefused};
use crate::routing::Since;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Rows that may wait in the lane.
pub(super) const QUEUED_MAX: usize = 1000;
/// Payloads that may wait in the outbox: the log must hold them until they are read.
pub(super) const POSTED_MAX: u64 = 2000;
/// Subscribers that look for a lane with others at once.
const TURNS_MAX: usize = 32;
/// Until the next turn.
const PAUSE: Duration = Duration::from_millis(1);
/// The same while everybody waits for a peer or for Postgres.
const BLOCKED_PAUSE: Duration = Duration::from_millis(10);

/// The same while some only wait for a lane with others.
const REJOIN_PAUSE: Duration = Duration::from_millis(50);

/// What one turn came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// Something must be taken or answered first.
    Waits,
    /// It is live, or gone.
    Done,
}

impl Conductor {
    /// The snapshot of a join was taken: the subscriber may begin with the past.
    pub(super) fn begin_replay(&mut self, now: Instant, id: SubscriberId) {
        let Some(subscriber) = self.subscribers.get_mut(&id) else {
            return;
        };
        let begun = if subscriber.resume.is_some() {
            self.begin_session(now, id)
        } else {
            self.find_beginning(id)
        };
        let Some(subscriber) = self.subscribers.get_mut(&id) else {
            return;
        };
        if let Err(refused) = begun {
            subscriber.tell(Notice::PositionRefused(refused));
            return self.remove(id);
        }
        if subscriber.phase != Phase::Replaying {
            subscriber.phase = Phase::Replaying;
            subscriber.tell(Notice::Subscribed);
        }
        self.replaying.push_back(id);
        self.replay_at = Some(now);
    }

    /// Finds out where in the past a subscriber begins.
    pub(super) fn find_beginning(&mut self, id: SubscriberId) -> Result<(), PositionRefused> {
        let subscriber = self.subscribers.get_mut(&id);
        let Some(mut replay) = subscriber.and_then(|subscriber| subscriber.replay.take()) else {
            return Ok(());
        };
        let first = self.find_starts(&mut replay)?;
        replay.first = first;
        replay.next = first.map_or(self.history.end(), |position| {
            self.history.number_after(position)
        });
        if let Some(subscriber) = self.subscribers.get_mut(&id) {
            subscriber.replay = Some(replay);
        }
        Ok(())
    }

    pub(super) fn replay_of(&mut self, id: SubscriberId) -> Option<&mut Replay> {
        self.subscribers.get_mut(&id)?.replay.as_deref_mut()
    }

    /// Turns what was asked for into positions; returns the first. `None`: there is nothing to go through yet.
    fn find_starts(&self, replay: &mut Replay) -> Result<Option<Position>, PositionRefused> {
        let too_old = || {
            let oldest = self.epoch.zip(self.history.floor());
            PositionRefused::TooOld(oldest.map(|(epoch, floor)| Cursor {
                epoch,
                commit_lsn: floor.lsn,
                order: floor.order,
            }))
        };
        let mut first = None;
        for (_, start) in &mut replay.starts {
            let found = match *start {
                Start::After(position) => Some(position),
                Start::From(_) => None,
                Start::Asked(Since::Time(time)) => self
                    .history
                    .before_time(time)
                    .map_err(|_too_old| too_old())?,
                Start::Asked(Since::Cursor(cursor)) => {
                    let position = Position::from(cursor);
                    // One that nobody can have been given is not ours either.
                    let is_known = Some(cursor.epoch) == self.epoch
                        && self.history.holds(position)
                        && cursor.commit_lsn <= self.wal_end;
                    Some(is_known.then_some(position).ok_or_else(too_old)?)
                }
            };
            *start = match (found, *start) {
                (Some(position), _) => Start::After(position),
                (None, Start::Asked(Since::Time(time))) => Start::From(time),
                (None, other) => other,
            };
            first = match (first, found) {
                (Some(one), Some(other)) => Some(Position::min(one, other)),
                (one, other) => one.or(other),
            };
        }
        Ok(first)
    }

    /// The next turn of those who go through the past, if it is time.
    pub(super) fn replay(&mut self, now: Instant) {
        if self.replay_at.is_none_or(|time| time > now) || self.release.is_some() {
            return;
        }
        if !self.replaying.is_empty() {
            // Who may see the past is asked of now: a change of the catalog should be noticed soon.
            self.look_closely(now);
        }
        let Walked { waits, took } = self.walk(now);
        for _ in 0..self.rejoining.len().min(TURNS_MAX) {
            if let Some(id) = self.rejoining.pop_front()
                && self.rejoin_lane(now, id) == Turn::Waits
            {
                self.rejoining.push_back(id);
            }
        }
        // Whatever comes meanwhile has its turn first, and half as long.
        let pause = if waits { BLOCKED_PAUSE } else { PAUSE };
        let pause = pause.max(took / 2).saturating_add(took);
        self.replay_at = match (self.replaying.is_empty(), self.rejoining.is_empty()) {
            (false, _) => now.checked_add(pause),
            (true, false) => now.checked_add(REJOIN_PAUSE),
            (true, true) => None,
        };
        if self.replaying.is_empty() {
            self.answered.clear();
        }
    }

    /// Puts rows of a part of the past into the subscriber's lane, as the item of this number.
    pub(super) fn hand_on(
        &mut self,
        now: Instant,
        id: SubscriberId,
        part: &Arc<Part>,
        (number, ends): (u64, bool),
        mut rows: Vec<ItemRow>,
    ) {
        let Some(subscriber) = self.subscribers.get_mut(&id) else {
            return;
        };
        let (Some(replay), Some(lane_id)) = (&mut subscriber.replay, subscriber.lane) else {
            return;
        };
        let is_open = replay.is_open;
        // Whoever holds a change back must hear that it was the last.
        let must_hear = ends && is_open;
        if rows.is_empty() && !must_hear {
            return;
        }
        let told = self.judge_replayed(lane_id, part, number, &mut rows);
        if rows.is_empty() && !must_hear {
            return;
        }
        let (Some(lane), Some(subscriber)) =
            (self.lanes.get_mut(&lane_id), self.subscribers.get_mut(&id))
        else {
            return;
        };
        if let Some(replay) = &mut subscriber.replay {
            replay.is_open = !ends;
        }
        let undecided = rows.iter().filter(|row| row.state.is_open()).count();
        lane.push(
            &self.keys,
            Item {
                number,
                part: Arc::clone(part),
                only: Some(id),
                ends,
                rows,
                undecided,
            },
        );
        for (table, raised) in told {
            match raised {
                Some(state) => self.tell_trouble(lane_id, table, state),
                None => self.recovered(lane_id, table),
            }
        }
        self.check_lane(now, lane_id);
    }

    /// The rows of a part of the past for one subscriber.
    pub(super) fn replayed_rows(
        &mut self,
        now: Instant,
        id: SubscriberId,
        part: &Part,
        indexes: &[u32],
    ) -> Vec<ItemRow> {
        let is_known = self.knows_grants_of(part);
        let Some(subscriber) = self.subscribers.get(&id) else {
            return Vec::new();
        };
        let Some(lane) = subscriber.lane.and_then(|lane| self.lanes.get(&lane)) else {
            return Vec::new();
        };
        let row = |index: &u32| {
            let (change, view) = part.change(*index)?;
            let follows = lane.follows_open_row(&self.keys, part, *index);
            let row = (change, &**view, *index);
            // The state before it is gone.
            let mut saw = || OldRow::Unknown;
            match routed_row(now, lane, &[subscriber], row, follows, &mut saw) {
                Some(mut row) => {
                    let access = view.table.access.get(lane.key.identity.role());
                    let was_subscribed = subscriber.was_subscribed();
                    restrict(&mut row, change, view, access, (is_known, was_subscribed));
                    Some(row)
                }
                None if follows => Some(ItemRow::new(*index, RowState::Tracked, Vec::new())),
                None => None,
            }
        };
        indexes.iter().filter_map(row).collect()
    }

    /// Whether the grants at hand were those of the part's commit.
    pub(super) fn knows_grants_of(&self, part: &Part) -> bool {
        self.catalog_from
            .is_some_and(|from| part.commit.lsn >= from)
    }

    /// A part of the history as the catalog of now sees it; shared by those who go through it at the same time.
    pub(super) fn see(&mut self, number: u64, kept: &Kept) -> Arc<Part> {
        if let Some(part) = self.history.seen(number)
            && Arc::ptr_eq(&part.catalog, &self.catalog)
            && part.is_readable(&self.log)
        {
            return part;
        }
        let part = self.view_part(kept);
        self.history.see(number, &part);
        part
    }

    /// Whether much is still to come that is older than the subscriber's join, as after a start. It is gone through at the
    /// subscriber's pace, or the stream would wait for it.
    pub(super) fn is_before_join(&self, id: SubscriberId) -> bool {
        let subscriber = self.subscribers.get(&id);
        let joined = subscriber.and_then(|subscriber| subscriber.joined.as_ref());
        joined.is_some_and(|(_, until)| self.is_behind(*until))
    }

    /// There is nothing more to go through: what is released from now on comes by itself.
    pub(super) fn go_live(&mut self, now: Instant, id: SubscriberId) {
        let number = self.number();
        let end = self.history.last();
        let unfinished = self.unfinished.is_some();
        let Some(subscriber) = self.subscribers.get_mut(&id) else {
            return;
        };
        subscriber.phase = Phase::Live;
        subscriber.lane_since = number;
        let mut is_open = false;
        if let Some(replay) = &mut subscriber.replay {
            replay.until = end;
            is_open = replay.is_open;
        }
        let Some(lane_id) = subscriber.lane else {
            return;
        };
        if is_open && unfinished {
            self.unended.insert(lane_id);
        }
        if let Some(lane) = self.lanes.get_mut(&lane_id) {
            lane.replayed = None;
            lane.opened = None;
        }
        self.check_lane(now, lane_id);
    }

    /// Nothing of the past is outstanding any more: the subscriber may share a lane with its like.
    fn rejoin_lane(&mut self, now: Instant, id: SubscriberId) -> Turn {
        let Some(subscriber) = self.subscribers.get_mut(&id) else {
            return Turn::Done;
        };
        let lane = subscriber.lane.and_then(|lane| self.lanes.get(&lane));
        let is_quiet = lane.is_none_or(|lane| {
            lane.queue.is_empty() && lane.pending.is_empty() && lane.asking.is_none()
        });
        if !is_quiet || subscriber.joined.is_some() || subscriber.next_claims.is_some() {
            return Turn::Waits;
        }
        subscriber.replay = None;
        // Its lane is empty, so that nothing is owed.
        let _nothing = self.leave_lane(id);
        self.enter_lane(now, id);
        Turn::Done
    }
}

/// Takes back what a row of the past must not be allowed without a look.
pub(super) fn restrict(
    row: &mut ItemRow,
    change: &Change,
    view: &View,
    access: Option<&Access>,
    (knows_grants, was_subscribed): (bool, bool),
) {
    if matches!(row.state, RowState::Withheld(_)) {
        return;
    }
    let applies = access.is_some_and(|access| access.policies_apply);
    if !applies && knows_grants {
        return;
    }
    match &change.kind {
        // As it would have been told at the time.
        ChangeKind::Delete { .. } if was_subscribed => {}
        ChangeKind::Delete { .. } => {
            row.state = if row.predicates.is_empty() {
                RowState::IfShown
            } else {
                row.predicates = Box::default();
                RowState::Hidden
            };
        }
        ChangeKind::Insert { new } | ChangeKind::Update { new, .. } => {
            if view.key_of(new).is_none() {
                row.predicates = Box::default();
                row.state = RowState::Refused;
            } else if row.state == RowState::Allowed {
                row.state = RowState::Unasked;
            }
            row.must_exist = !applies;
        }
        ChangeKind::Truncate => {}
    }
}
