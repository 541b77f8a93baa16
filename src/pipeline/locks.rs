//! Tables that somebody holds a lock on: who asks about them waits apart, so that only they wait.
//!
//! A question that meets a lock comes back at once (`lock_timeout`). Its lane is parked; from time to time one of the
//! table's lanes tries again, and the first that is answered sets the others free.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use super::lane::LaneId;
use crate::change::Oid;

/// Pause before the first new attempt; doubles up to the longest.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// The tables that are locked as far as is known.
#[derive(Debug, Default)]
pub(super) struct Locks {
    tables: HashMap<Oid, Lock>,
}

#[derive(Debug)]
struct Lock {
    /// When to try again.
    until: Instant,
    pause: Duration,
    lanes: BTreeSet<LaneId>,
}

impl Locks {
    /// A lane's question met a lock on the table.
    pub(super) fn park(&mut self, now: Instant, table: Oid, lane: LaneId) {
        let lock = self.tables.entry(table).or_insert_with(|| Lock {
            until: now.checked_add(PAUSE_MIN).unwrap_or(now),
            pause: PAUSE_MIN,
            lanes: BTreeSet::new(),
        });
        lock.lanes.insert(lane);
    }

    /// Whether the lane waits for a lock.
    pub(super) fn holds(&self, lane: LaneId) -> bool {
        self.tables.values().any(|lock| lock.lanes.contains(&lane))
    }

    /// The lanes that may go on because a question about the table was answered.
    pub(super) fn release(&mut self, table: Oid) -> BTreeSet<LaneId> {
        self.tables
            .remove(&table)
            .map_or_else(BTreeSet::new, |lock| lock.lanes)
    }

    /// The lanes that try again now, one for each table.
    pub(super) fn due(&mut self, now: Instant) -> Vec<LaneId> {
        let mut due = Vec::new();
        for lock in self.tables.values_mut().filter(|lock| lock.until <= now) {
            if let Some(lane) = lock.lanes.pop_first() {
                due.push(lane);
                lock.pause = lock.pause.saturating_mul(2).min(PAUSE_MAX);
                lock.until = now.checked_add(lock.pause).unwrap_or(now);
            }
        }
        due
    }

    /// When [`Locks::due`] has something.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        let waiting = self.tables.values().filter(|lock| !lock.lanes.is_empty());
        waiting.map(|lock| lock.until).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn one_lane_tries_again_and_frees_the_others() {
        let start = clock::instant();
        let mut locks = Locks::default();
        locks.park(start, 7, 1);
        locks.park(start, 7, 2);
        locks.park(start, 7, 3);
        assert!(locks.holds(2));
        assert_eq!(locks.due(start), [0; 0]);
        let first = locks.next_timeout().unwrap();
        assert_eq!(locks.due(first), [1]);
        locks.park(first, 7, 1);
        let second = locks.next_timeout().unwrap();
        assert!(second - first > first - start, "less and less often");
        assert_eq!(locks.due(second), [1]);
        assert_eq!(locks.release(7), BTreeSet::from([2, 3]));
        assert_eq!(locks.next_timeout(), None);
    }
}
