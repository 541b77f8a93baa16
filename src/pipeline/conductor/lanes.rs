//! Lanes are entered and left, settled and bounded.

use super::replay::restrict;
use super::rows::{doubt_grants, is_among, routed_row};
use super::snapshots::lane_key;
use super::{
    Conductor, LANE_BYTES_MAX, LANE_ROWS_MAX, PAUSED_LANE_BYTES_MAX, PAUSED_LANE_ROWS_MAX,
    PENDING_MAX, SLOW_LANE_ROWS_MAX, SWEEP_PAUSE,
};
use crate::pipeline::lane::{Item, ItemRow, Lane, LaneId, RowState};
use crate::pipeline::old::OldRow;
use crate::pipeline::part::Part;
use crate::pipeline::settle::{Desk, receives};
use crate::pipeline::standing::Pool;
use crate::pipeline::subscriber::{Grace, KeptChange, Phase, Subscriber, SubscriberId};
use crate::realtime::ResyncReason;
use std::sync::Arc;
use std::time::Instant;

impl Conductor {
    pub(super) fn enter_lane(&mut self, now: Instant, id: SubscriberId) {
        let number = self.number();
        let Some(subscriber) = self.subscribers.get_mut(&id) else {
            return;
        };
        let alone = subscriber.has_own_lane || subscriber.replay.is_some();
        let key = lane_key(subscriber, alone);
        subscriber.lane_since = number;
        subscriber.entered = number;
        let replay = subscriber.replay.as_ref();
        let replay = replay.filter(|_| subscriber.phase == Phase::Replaying);
        let next = replay.and_then(|replay| self.history.commit(replay.next));
        let replayed = next.map(|commit| commit.lsn);
        let lane = *self.lane_ids.entry(key.clone()).or_insert(number);
        subscriber.lane = Some(lane);
        for subscription in &subscriber.subscriptions {
            for oid in subscription.tables.keys() {
                self.addressees.add(*oid, key.identity.role(), lane);
            }
        }
        let tables = (subscriber.subscriptions.iter())
            .flat_map(|subscription| subscription.tables.keys().copied());
        let role = key.identity.role();
        self.verdicts
            .plan(&self.catalog, tables.map(|oid| (oid, role)));
        if self.rules.compile {
            self.sweep_at = self.sweep_at.or_else(|| now.checked_add(SWEEP_PAUSE));
        }
        let entered = self
            .lanes
            .entry(lane)
            .or_insert_with(|| Lane::new(key.clone()));
        entered.enter(id, &self.subscribers);
        entered.replayed = replayed;
        let holds = self.subscribers.get(&id).is_some_and(Subscriber::holds);
        if holds && self.unfinished.is_some() {
            // What it holds back may have been the last of that transaction.
            self.unended.insert(lane);
        }
        self.check_lane(now, lane);
    }

    /// Drops plans that no lane needs.
    pub(super) fn sweep(&mut self, now: Instant) {
        let addressees = &self.addressees;
        self.verdicts
            .sweep(|oid, role| addressees.has_role(oid, role));
        self.sweep_at = now.checked_add(SWEEP_PAUSE);
    }

    /// Takes the subscriber out of its lane; returns what it was routed there and not yet given.
    pub(super) fn leave_lane(&mut self, id: SubscriberId) -> Vec<(Arc<Part>, u32)> {
        let Some(subscriber) = self.subscribers.get_mut(&id) else {
            return Vec::new();
        };
        let Some(lane_id) = subscriber.lane.take() else {
            return Vec::new();
        };
        let Some(lane) = self.lanes.get_mut(&lane_id) else {
            return Vec::new();
        };
        for subscription in &subscriber.subscriptions {
            for oid in subscription.tables.keys() {
                self.addressees
                    .remove(*oid, lane.key.identity.role(), lane_id);
            }
        }
        lane.leave(subscriber);
        let mut owed = Vec::new();
        for item in &lane.queue {
            let is_only = item.only.is_some();
            let for_me = item.only.is_none_or(|only| only == id)
                && receives(subscriber, item.number, is_only, &item.part);
            if for_me {
                owed.extend(
                    item.rows
                        .iter()
                        .map(|row| (Arc::clone(&item.part), row.change)),
                );
            }
        }
        for (number, part) in &lane.aside {
            if receives(subscriber, *number, false, part) {
                let changes = (0..).zip(part.changes.iter());
                owed.extend(changes.map(|(index, _)| (Arc::clone(part), index)));
            }
        }
        if lane.subscribers.is_empty() {
            let lane = self.lanes.remove(&lane_id);
            if let Some(lane) = lane {
                self.lane_ids.remove(&lane.key);
                if let Some((pool, place)) = lane.ready
                    && let Some(ready) = self.ready.get_mut(&pool)
                {
                    ready.remove(&place);
                }
            }
            self.full.remove(&lane_id);
            self.awaiting_successor.remove(&lane_id);
            self.outdated.forget(lane_id);
        }
        self.note_busy(lane_id);
        owed
    }

    /// Gives a subscriber in its new lane what it was owed in the old one, and what was kept for its new token.
    pub(super) fn pay(
        &mut self,
        now: Instant,
        id: SubscriberId,
        owed: Vec<(Arc<Part>, u32)>,
        new_token: bool,
    ) {
        let Some(subscriber) = self.subscribers.get_mut(&id) else {
            return;
        };
        let grace = if new_token {
            subscriber.grace.take()
        } else {
            None
        };
        if let Some(Grace { until, .. }) = &grace {
            self.grace_ends.remove(&(*until, id));
            self.end_grace(id);
        }
        if grace.as_ref().is_some_and(|grace| grace.overflowed) {
            return self.resync(id, ResyncReason::IdentityChanged);
        }
        let mut kept = grace.map_or_else(Vec::new, |grace| grace.kept);
        for change in &mut kept {
            change.shown = true;
        }
        self.give(now, id, kept, owed);
    }

    /// No token came: what was kept behind what may not be seen is given now.
    pub(super) fn give_up_grace(&mut self, now: Instant, id: SubscriberId, grace: Grace) {
        self.end_grace(id);
        if grace.lost {
            return self.resync(id, ResyncReason::VerdictUnknown);
        }
        let holds = self.subscribers.get(&id).is_some_and(Subscriber::holds);
        let is_owed = grace.kept.iter().any(|change| change.shown);
        if is_owed || (holds && !grace.kept.is_empty()) {
            let owed = self.leave_lane(id);
            self.enter_lane(now, id);
            self.give(now, id, grace.kept, owed);
        }
    }

    /// Gives a subscriber what was kept for it, and then what it was owed in another lane.
    fn give(
        &mut self,
        now: Instant,
        id: SubscriberId,
        kept: Vec<KeptChange>,
        owed: Vec<(Arc<Part>, u32)>,
    ) {
        let owed = owed.into_iter().map(|(part, index)| KeptChange {
            part,
            index,
            shown: true,
        });
        let mut rows = kept;
        rows.extend(owed);
        self.review(&mut rows);
        let Some(subscriber) = self.subscribers.get_mut(&id) else {
            return;
        };
        // The rest of a transaction that it goes through is still to be handed on.
        let replay = subscriber.replay.as_ref();
        let replay = replay.filter(|replay| subscriber.phase == Phase::Replaying && replay.is_open);
        let under_way = replay.and_then(|replay| self.history.commit(replay.next));
        let under_way = under_way.map(|commit| commit.lsn);
        // It was told the end of what it holds back where it comes from, and may not have heard. What is still kept may be
        // of the same transaction.
        if let Some(held) = subscriber.held_commit()
            && !subscriber.keeps()
            && ![self.unfinished, under_way].contains(&Some(held))
            && rows.iter().all(|change| change.part.commit.lsn != held)
        {
            subscriber.end_transaction();
        }
        let Some(lane_id) = subscriber.lane else {
            return;
        };
        self.catch_up(now, lane_id);
        let (Some(subscriber), Some(lane)) =
            (self.subscribers.get_mut(&id), self.lanes.get_mut(&lane_id))
        else {
            return;
        };
        let mut groups = rows
            .chunk_by(|one, next| Arc::ptr_eq(&one.part, &next.part))
            .peekable();
        while let Some(group) = groups.next() {
            let Some(KeptChange { part, .. }) = group.first() else {
                continue;
            };
            let commit = part.commit.lsn;
            let ends = match groups.peek().and_then(|next| next.first()) {
                Some(next) => next.part.commit.lsn != commit,
                None => self.unfinished != Some(commit) && under_way != Some(commit),
            };
            if self.unfinished == Some(commit) && !ends {
                self.unended.insert(lane_id);
            }
            let number = self.next_number;
            self.next_number = number.saturating_add(1);
            let catalog_from = self.catalog_from;
            let regranted = self.regranted.as_ref();
            let rows = group.iter().filter(|kept| kept.shown).filter_map(|kept| {
                let KeptChange { part, index, .. } = kept;
                let (change, view) = part.change(*index)?;
                let row = (change, &**view, *index);
                // The state before it is gone.
                let mut saw = || OldRow::Unknown;
                let follows = lane.follows_open_row(&self.keys, part, *index);
                let routed = routed_row(now, lane, &[&*subscriber], row, follows, &mut saw);
                let Some(mut row) = routed else {
                    return follows.then(|| ItemRow::new(*index, RowState::Tracked, Vec::new()));
                };
                let known = catalog_from.is_some_and(|from| part.commit.lsn >= from);
                if subscriber.is_past(&part.commit, change) {
                    let access = view.table.access.get(lane.key.identity.role());
                    let was_subscribed = subscriber.was_subscribed();
                    restrict(&mut row, change, view, access, (known, was_subscribed));
                } else if !known && is_among(regranted, view) {
                    doubt_grants(&mut row, change, view, lane.key.identity.role());
                }
                Some(row)
            });
            let rows: Vec<ItemRow> = rows.collect();
            if ends || !rows.is_empty() {
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
            }
        }
        self.check_lane(now, lane_id);
    }

    /// Puts parts that were routed under an older catalog under the one of now.
    fn review(&mut self, rows: &mut [KeptChange]) {
        let mut reviewed: Vec<(Arc<Part>, Arc<Part>)> = Vec::new();
        for KeptChange { part, .. } in rows {
            if Arc::ptr_eq(&part.catalog, &self.catalog) {
                continue;
            }
            let known = reviewed
                .iter()
                .find(|(old, _)| Arc::ptr_eq(old, part))
                .map(|(_, new)| Arc::clone(new));
            let new = known.unwrap_or_else(|| {
                let views = part
                    .changes
                    .iter()
                    .map(|change| self.view(&change.relation))
                    .collect();
                let new = Arc::new(part.under(views, Arc::clone(&self.catalog)));
                reviewed.push((Arc::clone(part), Arc::clone(&new)));
                new
            });
            *part = new;
        }
    }

    /// Settles what is decided, asks what is to be asked, and looks after the bounds.
    pub(super) fn check_lane(&mut self, now: Instant, id: LaneId) {
        let Some(lane) = self.lanes.get_mut(&id) else {
            return;
        };
        if lane.is_paused {
            return self.check_paused_lane(id);
        }
        let mut desk = Desk {
            log: &self.log,
            keys: &self.keys,
            subscribers: &mut self.subscribers,
            settled: &mut self.counts.settled,
            withhold_deletes: self.rules.withhold_deletes,
        };
        desk.settle(lane);
        if !lane.aside.is_empty() && !lane.is_untried() {
            self.catch_up(now, id);
            return self.check_lane(now, id);
        }
        // Nearly always, where policies are compiled.
        if lane.queue.is_empty() && lane.pending.is_empty() {
            self.awaiting_successor.remove(&id);
            self.full.remove(&id);
            return self.note_busy(id);
        }
        let Some(mut lane) = self.lanes.remove(&id) else {
            return;
        };
        let parked = self.locks.holds(id) || self.outdated.holds(id);
        if lane.has_question() && !parked {
            match lane.standing.pool(now) {
                // Errors are answered quickly, but searching for the row that raises takes many questions.
                Some(Pool::Proven) if lane.raises > 2 => self.make_ready(Pool::New, &mut lane, id),
                Some(pool) => self.make_ready(pool, &mut lane, id),
                None => {
                    lane.deny_unasked();
                    return self.put_back_and_check(now, id, lane);
                }
            }
        }
        if lane.pending.is_empty() {
            self.awaiting_successor.remove(&id);
        } else if self.awaiting_successor.insert(id) && self.poke_not_before.is_none() {
            self.poke_not_before = Some(now);
        }
        let sound = lane.standing.is_sound() && !parked;
        let full = |rows, bytes| lane.queued_rows > rows || lane.queued_bytes > bytes;
        if sound && full(LANE_ROWS_MAX, LANE_BYTES_MAX) {
            self.full.insert(id);
        } else {
            self.full.remove(&id);
        }
        let overflowed = (!sound && full(SLOW_LANE_ROWS_MAX, LANE_BYTES_MAX))
            || lane.pending.len() > PENDING_MAX;
        if overflowed {
            lane.clear();
        }
        self.lanes.insert(id, lane);
        self.note_busy(id);
        if overflowed {
            self.resync_lane(id, ResyncReason::VerdictUnknown, None);
        }
    }

    /// Whether every change must reach the lane from now on.
    pub(super) fn note_busy(&mut self, id: LaneId) {
        if self.lanes.get(&id).is_some_and(Lane::is_busy) {
            self.busy.insert(id);
        } else {
            self.busy.remove(&id);
        }
    }

    /// A member of a lane no longer waits for a token, and is still there.
    pub(super) fn end_grace(&mut self, id: SubscriberId) {
        let lane = self
            .subscribers
            .get(&id)
            .and_then(|subscriber| subscriber.lane);
        if let Some(lane_id) = lane
            && let Some(lane) = self.lanes.get_mut(&lane_id)
        {
            lane.keeping = lane.keeping.saturating_sub(1);
            self.note_busy(lane_id);
        }
    }

    /// The stream does not wait for a snapshot.
    fn check_paused_lane(&mut self, id: LaneId) {
        let Some(lane) = self.lanes.get_mut(&id) else {
            return;
        };
        let overflowed =
            lane.queued_rows > PAUSED_LANE_ROWS_MAX || lane.queued_bytes > PAUSED_LANE_BYTES_MAX;
        if overflowed {
            lane.clear();
        }
        self.note_busy(id);
        if overflowed {
            self.resync_lane(id, ResyncReason::VerdictUnknown, None);
        }
    }

    pub(super) fn put_back_and_check(&mut self, now: Instant, id: LaneId, lane: Lane) {
        self.lanes.insert(id, lane);
        self.check_lane(now, id);
    }

    pub(super) fn make_ready(&mut self, pool: Pool, lane: &mut Lane, id: LaneId) {
        if lane.ready.is_none() {
            let since = lane.queue.front().map_or(0, |item| item.number);
            let place = (lane.standing.failures(), since, id);
            lane.ready = Some((pool, place));
            self.ready.entry(pool).or_default().insert(place);
        }
    }
}
