//! Sessions of both kinds go through one store: its batches hold what has changed of either, and count for both.

use super::Conductor;
use crate::pipeline::positions::Taken;
use crate::pipeline::sessions::Batch;
use std::time::Instant;

impl Conductor {
    /// Nothing is known of earlier sessions, and nothing is stored.
    pub(in crate::pipeline) fn forget_sessions(&mut self, now: Instant) {
        self.sessions.forget_all(now);
        self.hearing.sessions.forget_all(now);
    }

    /// The store is ours.
    pub(in crate::pipeline) fn take_over_sessions(&mut self, now: Instant, taken: Taken) {
        let Taken {
            records,
            was_ours,
            doubt,
            stores,
        } = taken;
        let (heard, changed) = (records.into_iter()).partition(|record| record.place.is_of_room());
        let of = |records| Taken {
            records,
            was_ours,
            doubt,
            stores,
        };
        self.sessions.take_over(now, of(changed));
        self.hearing.sessions.take_over(now, of(heard));
    }

    /// Whether something is to be stored.
    pub(in crate::pipeline) fn has_changed_sessions(&self) -> bool {
        self.sessions.has_changed() || self.hearing.sessions.has_changed()
    }

    /// What has changed since the last call.
    pub(in crate::pipeline) fn take_changed_sessions(&mut self) -> Batch {
        let Batch {
            number,
            mut records,
            forgot,
        } = self.sessions.take_changed();
        let heard = self.hearing.sessions.take_changed();
        debug_assert_eq!(number, heard.number, "both are always taken");
        records.extend(heard.records);
        Batch {
            number,
            records,
            forgot: forgot || heard.forgot,
        }
    }

    /// Positions up to this batch were written down.
    pub(in crate::pipeline) fn handle_written(&mut self, now: Instant, batch: u64) {
        self.sessions.written(batch);
        self.hearing.sessions.written(batch);
        if !self.replaying.is_empty() {
            self.replay_at = Some(now);
            self.replay(now);
        }
        self.tell_stored();
        self.advance(now);
    }
}
