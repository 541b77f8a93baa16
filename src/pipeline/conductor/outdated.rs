//! Questions that name what is not there, as Postgres says. Either the catalog at hand is old, or the policy itself names it:
//! a function that reads a column which was renamed, for one.
//!
//! The next snapshot tells which it is. Only the lane that asked waits for that, for whoever has such a policy may raise with
//! every change.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::Conductor;
use crate::change::Oid;
use crate::pipeline::lane::LaneId;
use crate::pipeline::snapshot::OUTDATED;

/// Lanes whose question named what is not there.
#[derive(Debug, Default)]
pub(super) struct Outdated {
    /// They wait for a snapshot that began from this number on, with the table that they asked about.
    waiting: BTreeMap<LaneId, (u64, Oid)>,
    /// Tables that they asked about under the catalog at hand, which was the database's own after the question. It has been
    /// answered for none of these since.
    confirmed: BTreeSet<(LaneId, Oid)>,
}

impl Outdated {
    /// Whether somebody waits for a snapshot.
    pub(super) fn wait(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether the lane waits for one.
    pub(super) fn holds(&self, lane: LaneId) -> bool {
        self.waiting.contains_key(&lane)
    }

    /// A question of the lane raised. Returns whether it is put again, after a snapshot that begins from `number` on; if not,
    /// it is the policy that raises.
    pub(super) fn raised(&mut self, lane: LaneId, table: Oid, state: &str, number: u64) -> bool {
        let asks_again = OUTDATED.contains(&state) && !self.confirmed.contains(&(lane, table));
        if asks_again {
            self.waiting.insert(lane, (number, table));
        }
        asks_again
    }

    /// A question of the lane about this table was answered.
    pub(super) fn answered(&mut self, lane: LaneId, table: Oid) {
        self.confirmed.remove(&(lane, table));
    }

    /// The lane is gone.
    pub(super) fn forget(&mut self, lane: LaneId) {
        self.waiting.remove(&lane);
        let tables = (lane, Oid::MIN)..=(lane, Oid::MAX);
        self.confirmed.extract_if(tables, |_| true).for_each(drop);
    }
}

impl Conductor {
    /// A snapshot has shown that the catalog at hand is that of the database: whose question came before it asks once more.
    pub(super) fn confirm_outdated(&mut self, now: Instant) {
        let begun = self.horizon_ticket;
        let outdated = &mut self.outdated;
        let confirmed = (outdated.waiting).extract_if(.., |_, (since, _)| *since <= begun);
        let confirmed: Vec<(LaneId, Oid)> =
            confirmed.map(|(lane, (_, table))| (lane, table)).collect();
        outdated.confirmed.extend(&confirmed);
        for (lane, _) in confirmed {
            self.check_lane(now, lane);
        }
    }

    /// Another catalog is at hand: all ask again.
    pub(super) fn renew_outdated(&mut self, now: Instant) {
        let outdated = std::mem::take(&mut self.outdated);
        for lane in outdated.waiting.into_keys() {
            self.check_lane(now, lane);
        }
    }
}
