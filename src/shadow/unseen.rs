//! Transactions that were consumed and that no snapshot has been known to see yet.
//!
//! The stream may carry a commit before other sessions see it: the server writes it to the WAL first.

use std::collections::VecDeque;

use crate::change::{Snapshot, Xid};

/// Transactions that are remembered one by one; at ten thousand a second, those of six seconds.
const REMEMBERED_MAX: usize = 65_536;

/// In the order of the stream.
#[derive(Debug, Default)]
pub(super) struct Unseen {
    xids: VecDeque<Consumed>,
    /// Of the forgotten ones the latest to begin, and the last load that began before any of them was consumed.
    forgotten: Option<Consumed>,
    /// The last load that began.
    generation: u64,
}

/// A transaction, and the last load that had begun when it was consumed.
#[derive(Clone, Copy, Debug)]
struct Consumed {
    xid: Xid,
    generation: u64,
}

impl Unseen {
    /// A transaction begins to be consumed.
    pub(super) fn push(&mut self, xid: Xid) {
        if self.xids.len() >= REMEMBERED_MAX
            && let Some(oldest) = self.xids.pop_front()
        {
            let is_later = |than: Consumed| oldest.xid.0.wrapping_sub(than.xid.0) < 1 << 31;
            if let Some(forgotten) = &mut self.forgotten {
                if is_later(*forgotten) {
                    forgotten.xid = oldest.xid;
                }
            } else {
                self.forgotten = Some(oldest);
            }
        }
        self.xids.push_back(Consumed {
            xid,
            generation: self.generation,
        });
    }

    /// Loads up to this one begin; what is consumed from here on is retained for them.
    pub(super) fn mark(&mut self, generation: u64) {
        self.generation = generation;
    }

    /// Whether a snapshot sees everything that was consumed before a load began.
    pub(super) fn all_seen(&self, load: u64, snapshot: &Snapshot) -> bool {
        let is_earlier = |consumed: &&Consumed| consumed.generation < load;
        // Whether each of the forgotten is seen is not known: they must all be older than whatever still runs.
        self.forgotten
            .iter()
            .filter(is_earlier)
            .all(|forgotten| snapshot.sees_all_to(forgotten.xid))
            && self
                .xids
                .iter()
                .take_while(is_earlier)
                .all(|consumed| snapshot.sees(consumed.xid))
    }

    /// What this snapshot sees, all later ones see. Loads up to `loading` have snapshots of their own, perhaps earlier.
    pub(super) fn forget(&mut self, snapshot: &Snapshot, loading: u64) {
        self.xids
            .retain(|consumed| consumed.generation < loading || !snapshot.sees(consumed.xid));
        self.forgotten = self.forgotten.filter(|forgotten| {
            forgotten.generation < loading || !snapshot.sees_all_to(forgotten.xid)
        });
    }
}
