//! Verdicts on rows of the past, as far as they need no question.
//!
//! A change of the past needs two allows, as of its commit and of now. A plan gives both at once where nothing that it looks
//! into has changed since. A single no is enough: most of the past is none of anybody's business, and to ask Postgres about
//! all of it, for each that comes back, would take longer than it took to happen.

use super::rows::judge_rows;
use super::{Conductor, Output, POKE_PAUSE};
use crate::change::{Lsn, Oid};
use crate::pipeline::lane::{ItemRow, Lane, LaneId, RowState, policies_ask};
use crate::pipeline::part::Part;
use crate::pipeline::subscriber::{Subscriber, SubscriberId};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How long a way through the past waits for the tables that policies look into, once the stream is not behind: they are
/// loaded when the first comes back after a start.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of WAL that the stream may have to read yet before it counts as behind.
const BEHIND: u64 = 64 << 10;

/// Whether what the stream has brought, up to `upto`, contains all that was visible when the lane's subscriber joined. Until
/// then the tables at hand are neither those of the commit nor those of now.
pub(super) fn knows_now(
    lane: &Lane,
    subscribers: &HashMap<SubscriberId, Subscriber>,
    upto: Lsn,
) -> bool {
    let alone = lane.key.alone.and_then(|id| subscribers.get(&id));
    let joined = alone.and_then(|subscriber| subscriber.joined.as_ref());
    joined.is_none_or(|(_, until)| *until <= upto)
}

/// Has Postgres confirm what plans have allowed as of a commit, but cannot for now.
pub(super) fn ask_allowed(rows: &mut [ItemRow], part: &Part, role: &str) {
    for row in rows {
        let is_by_policy = (part.change(row.change))
            .is_some_and(|(change, view)| policies_ask(change, view, role));
        if row.state == RowState::Allowed && is_by_policy {
            row.state = RowState::Unasked;
        }
    }
}

impl Conductor {
    /// Decides what can be decided without asking. Takes out what is hidden, unless an earlier version of the row is open.
    pub(super) fn judge_replayed(
        &mut self,
        lane_id: LaneId,
        part: &Part,
        number: u64,
        rows: &mut Vec<ItemRow>,
    ) -> Vec<(Oid, Option<Box<str>>)> {
        let upto = self.routed();
        let Some(lane) = self.lanes.get_mut(&lane_id) else {
            return Vec::new();
        };
        let knows_now = knows_now(lane, &self.subscribers, upto);
        let mut told = Vec::new();
        let denied = &mut self.counts.settled.denied.not_visible;
        rows.retain_mut(|row| {
            let Some((change, view)) = part.change(row.change) else {
                return true;
            };
            let role = lane.key.identity.role();
            if row.must_exist
                || !policies_ask(change, view, role)
                || !self.verdicts.is_timeless(view.table.oid, role)
            {
                return true;
            }
            // Behind a version that waits for its successor only Postgres says what becomes of both.
            let is_alone = lane.keeping == 0
                && row.state == RowState::Unasked
                && !lane.follows_open_row(&self.keys, part, row.change);
            let hides = knows_now
                && is_alone
                && self.verdicts.hides_now(
                    &mut lane.sitting,
                    &lane.key.identity,
                    part,
                    (number, row.change),
                    upto,
                );
            if hides {
                *denied = denied.saturating_add(1);
                return false;
            }
            let row = std::slice::from_mut(row);
            let verdicts = &mut self.verdicts;
            let ledger = &mut self.ledger;
            told.extend(judge_rows(verdicts, ledger, lane, part, number, row));
            if !knows_now {
                ask_allowed(row, part, lane.key.identity.role());
            }
            true
        });
        told.dedup();
        told
    }

    /// Hides rows of somebody's past that wait for a question, where the policies of now do. Whether there were any.
    pub(super) fn hide_unasked(&mut self, id: LaneId) -> bool {
        let upto = self.routed();
        let Some(lane) = self.lanes.get_mut(&id) else {
            return false;
        };
        if lane.key.alone.is_none() || !knows_now(lane, &self.subscribers, upto) {
            return false;
        }
        lane.hide_unasked(
            &self.keys,
            upto,
            |sitting, identity, (part, number), row| {
                let Some((change, view)) = part.change(row) else {
                    return false;
                };
                policies_ask(change, view, identity.role())
                    && (self.verdicts).hides_now(sitting, identity, part, (number, row), upto)
            },
        )
    }

    /// Whether the stream has much to bring that is older than a position.
    pub(super) fn is_behind(&self, position: Lsn) -> bool {
        position.bytes().saturating_sub(self.routed().bytes()) > BEHIND
    }

    /// Whether the tables that a subscriber's policies look into are on their way, and it has not waited for long.
    pub(super) fn waits_for_tables(&mut self, now: Instant, id: SubscriberId) -> bool {
        let upto = self.routed();
        // They are exact only once the stream has come to where they were loaded.
        let is_behind = self.is_behind(self.wal_end);
        let Some(subscriber) = self.subscribers.get(&id) else {
            return false;
        };
        let lane = subscriber.lane.and_then(|lane| self.lanes.get(&lane));
        let Some(role) = lane.map(|lane| lane.key.identity.role()) else {
            return false;
        };
        let verdicts = &self.verdicts;
        let mut tables = (subscriber.subscriptions.iter())
            .flat_map(|subscription| subscription.tables.keys().copied());
        let is_early = lane.is_some_and(|lane| !knows_now(lane, &self.subscribers, upto));
        let may_tell = |table| {
            (is_early && verdicts.is_timeless(table, role)) || verdicts.will_tell(table, role, upto)
        };
        if !tables.any(may_tell) {
            return false;
        }
        // Nothing may come by itself that says that the stream has got there.
        if is_early && self.poke_early_not_before.is_none_or(|time| time <= now) {
            self.poke_early_not_before = now.checked_add(POKE_PAUSE);
            self.outputs.push_back(Output::Poke);
        }
        let Some(replay) = self.replay_of(id) else {
            return false;
        };
        if is_behind {
            replay.patient_until = None;
            return true;
        }
        if replay.patient_until.is_none() {
            replay.patient_until = now.checked_add(PATIENCE);
        }
        replay.patient_until.is_some_and(|until| now < until)
    }
}
