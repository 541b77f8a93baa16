//! What is put aside for lanes that wait for their first answer.
//!
//! There may be thousands of them, and most may wait for a policy that times out. What comes meanwhile is looked at when
//! the answer is there: not at all if it was none, and in one go otherwise. Only what nothing but answers decide is put
//! aside, and nothing is added to a lane before. The first question is thereby one of few rows, whose time-out tells that
//! the identity is slow.

use super::questions::FEW_ROWS;
use super::rows::{Visit, routed_rows};
use super::{Conductor, LANE_BYTES_MAX};
use crate::pipeline::lane::{Item, Lane, LaneId};
use crate::pipeline::old::Past;
use crate::pipeline::part::Part;
use std::sync::Arc;
use std::time::Instant;

/// Parts that are put aside for one lane. Beyond, they are looked at: only then is known how many of their rows wait.
const ASIDE_MAX: usize = 1024;
/// Bytes of such a part; larger ones are rare.
const PART_BYTES_MAX: usize = LANE_BYTES_MAX / ASIDE_MAX;

/// Whether lanes may keep a reference to the part instead of what they want of it.
pub(super) fn can_be_put_aside(part: &Part) -> bool {
    part.is_whole && part.size <= PART_BYTES_MAX
}

/// Puts a part of which everything must be asked aside for a lane if the lane waits for its first answer. Returns whether it
/// did. No plan may judge the part, and the grants at hand must be those of its commit.
pub(super) fn put_aside(lane: &mut Lane, number: u64, part: &Arc<Part>) -> bool {
    let rows = lane.queued_rows.saturating_add(part.changes.len());
    let is_put_aside = lane.is_untried()
        && rows > FEW_ROWS
        && lane.aside.len() < ASIDE_MAX
        && lane.key.alone.is_none()
        && lane.pending.is_empty()
        && lane.holding.is_empty()
        && lane.keeping == 0;
    if is_put_aside {
        lane.aside.push((number, Arc::clone(part)));
    }
    is_put_aside
}

impl Conductor {
    /// Goes through what was put aside for a lane.
    pub(super) fn catch_up(&mut self, now: Instant, id: LaneId) {
        let Some(lane) = self.lanes.get_mut(&id) else {
            return;
        };
        let aside = std::mem::take(&mut lane.aside);
        // As all that comes from now on.
        if lane.standing.pool(now).is_none() {
            let count = u64::try_from(aside.len()).unwrap_or(u64::MAX);
            let denied = &mut self.counts.settled.denied.not_asked;
            *denied = denied.saturating_add(count);
            return;
        }
        for (number, part) in aside {
            let rows = routed_rows(
                now,
                lane,
                &self.subscribers,
                &self.keys,
                (&part, number),
                &Visit::All,
                &mut Past::gone(number),
            );
            if rows.is_empty() {
                continue;
            }
            let undecided = rows.iter().filter(|row| row.state.is_open()).count();
            let item = Item {
                number,
                only: None,
                ends: part.last,
                part,
                rows,
                undecided,
            };
            lane.push(&self.keys, item);
        }
    }
}
