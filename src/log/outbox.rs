//! What one connection has still to read.
//!
//! Changes are references only: a posting names payloads in the log and does not hold them. Notices that hold memory are
//! offered with their size, and are bounded.
//!
//! *io*: its reader waits on a notification.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::Kept;

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

/// A run of consecutive payloads that are kept for one membership.
#[derive(Clone, Debug)]
pub struct KeptRun {
    /// The payloads; they go with the last run that names them.
    pub kept: Arc<Kept>,
    /// First payload.
    pub first: u32,
    /// How many payloads; never zero.
    pub count: u32,
    /// The channel membership on the connection that reads.
    pub membership: u32,
    /// The `ids` array of the frames, as JSON text.
    pub ids: Arc<str>,
}

impl PartialEq for KeptRun {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.kept, &other.kept)
            && (self.first, self.count, self.membership)
                == (other.first, other.count, other.membership)
            && self.ids == other.ids
    }
}

impl Eq for KeptRun {}

/// One thing to read, in the order in which it was decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Posting<N> {
    /// Payloads of the log.
    Run(Run),
    /// Payloads that are kept for this membership.
    Kept(KeptRun),
    /// Something else that has its place in the order.
    Notice {
        /// The channel membership that it is for.
        membership: u32,
        /// What it says.
        notice: N,
    },
}

/// Bytes of offered notices that may wait. The largest legal frame has to fit beside what a peer of ordinary speed has not
/// taken yet; the HTTP endpoint takes about 8 MB.
const OFFERED_BYTES_MAX: usize = 16 << 20;

/// Postings for which an empty queue keeps its memory.
const CAPACITY_KEPT: usize = 64;

/// What one connection has still to read: filled by the pipeline and by rooms, emptied by the connection.
///
/// Bounded twice. Postings of parts that have left the log are refused when read, and the connection closed. Offered notices
/// have a limit in bytes: one that does not fit is dropped with all that are offered later, and the connection closed.
#[derive(Debug)]
pub struct Outbox<N> {
    waiting: Mutex<Waiting<N>>,
    /// Bytes of offered notices that may wait; a notice that is larger still fits if no other waits.
    offered_bytes_max: usize,
    /// Set once, for good.
    overflowed: AtomicBool,
    overflow: Notify,
    filled: Notify,
}

#[derive(Debug)]
struct Waiting<N> {
    entries: VecDeque<Entry<N>>,
    /// The sum of the entries' bytes.
    offered_bytes: usize,
    /// The sum of the runs' payloads.
    payloads: u64,
}

/// A posting as it waits; no larger than the posting itself.
#[derive(Debug)]
enum Entry<N> {
    Run(Run),
    Kept(KeptRun),
    Notice {
        membership: u32,
        /// Given back when it is taken; zero unless it was offered.
        bytes: u32,
        notice: N,
    },
}

impl<N> Default for Outbox<N> {
    fn default() -> Self {
        Self::with_limit(OFFERED_BYTES_MAX)
    }
}

impl<N> Outbox<N> {
    /// An empty outbox with room for 16 MiB of offered notices.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty outbox with room for so many bytes of offered notices.
    #[must_use]
    pub fn with_limit(offered_bytes_max: usize) -> Self {
        Self {
            waiting: Mutex::new(Waiting {
                entries: VecDeque::new(),
                offered_bytes: 0,
                payloads: 0,
            }),
            offered_bytes_max,
            overflowed: AtomicBool::new(false),
            overflow: Notify::new(),
            filled: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting<N>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a posting at the end and wakes the reader. A run that continues the last one joins it.
    pub fn push(&self, posting: Posting<N>) {
        self.lock().push(posting);
        self.filled.notify_one();
    }

    /// Adds a notice that keeps `bytes` in memory until it is read, unless too many bytes wait already: then the outbox has
    /// overflowed, takes no further ones, and its reader is woken, to be closed as slow.
    pub fn offer(&self, membership: u32, notice: N, bytes: usize) {
        if self.has_overflowed() {
            return;
        }
        let counted = u32::try_from(bytes).unwrap_or(u32::MAX);
        {
            let mut waiting = self.lock();
            let sum = waiting.offered_bytes.saturating_add(bytes);
            if waiting.offered_bytes > 0 && sum > self.offered_bytes_max {
                // Under the lock: what another thread offers from now on has no place behind a gap.
                self.overflowed.store(true, Ordering::Relaxed);
                self.overflow.notify_one();
            } else if !self.has_overflowed() {
                waiting.offer(membership, notice, counted);
            }
        }
        self.filled.notify_one();
    }

    /// Whether a notice did not fit.
    #[must_use]
    pub fn has_overflowed(&self) -> bool {
        self.overflowed.load(Ordering::Relaxed)
    }

    /// Whether there is nothing to take.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lock().entries.is_empty()
    }

    /// Payloads that wait.
    #[must_use]
    pub fn payloads(&self) -> u64 {
        self.lock().payloads
    }

    /// Bytes of offered notices that wait.
    #[must_use]
    pub fn offered_bytes(&self) -> usize {
        self.lock().offered_bytes
    }

    /// Takes the oldest posting; a run of more than `payloads_max` payloads is split, its rest staying in front.
    #[must_use]
    pub fn pop(&self, payloads_max: u32) -> Option<Posting<N>> {
        self.lock().pop(payloads_max)
    }

    /// Waits until something was pushed since the last wait. May wake without a posting to take.
    ///
    /// Cancel safe.
    pub async fn wait(&self) {
        self.filled.notified().await;
    }

    /// Waits until a notice does not fit: for a reader that takes nothing at the moment. Tells it once.
    ///
    /// Cancel safe.
    pub async fn wait_overflow(&self) {
        self.overflow.notified().await;
    }
}

impl<N> Waiting<N> {
    fn push(&mut self, posting: Posting<N>) {
        if let Posting::Run(run) = &posting {
            self.payloads = self.payloads.saturating_add(u64::from(run.count));
        }
        let entry = match (self.entries.back_mut(), posting) {
            (Some(Entry::Run(back)), Posting::Run(run)) if back.is_continued_by(&run) => {
                back.count = back.count.saturating_add(run.count);
                back.last = run.last;
                return;
            }
            (_, Posting::Run(run)) => Entry::Run(run),
            (_, Posting::Kept(run)) => Entry::Kept(run),
            (_, Posting::Notice { membership, notice }) => Entry::Notice {
                membership,
                bytes: 0,
                notice,
            },
        };
        self.entries.push_back(entry);
    }

    fn offer(&mut self, membership: u32, notice: N, bytes: u32) {
        self.offered_bytes = self.offered_bytes.saturating_add(size(bytes));
        self.entries.push_back(Entry::Notice {
            membership,
            bytes,
            notice,
        });
    }

    fn pop(&mut self, payloads_max: u32) -> Option<Posting<N>> {
        if let Some(Entry::Run(run)) = self.entries.front_mut()
            && run.count > payloads_max
        {
            let head = Run {
                count: payloads_max,
                last: false,
                ..run.clone()
            };
            run.first = run.first.saturating_add(payloads_max);
            run.count = run.count.saturating_sub(payloads_max);
            self.payloads = self.payloads.saturating_sub(u64::from(payloads_max));
            return Some(Posting::Run(head));
        }
        if let Some(Entry::Kept(run)) = self.entries.front_mut()
            && run.count > payloads_max
        {
            let head = KeptRun {
                count: payloads_max,
                ..run.clone()
            };
            run.first = run.first.saturating_add(payloads_max);
            run.count = run.count.saturating_sub(payloads_max);
            return Some(Posting::Kept(head));
        }
        let entry = self.entries.pop_front()?;
        if self.entries.is_empty() && self.entries.capacity() > CAPACITY_KEPT {
            self.entries = VecDeque::new();
        }
        Some(match entry {
            Entry::Run(run) => {
                self.payloads = self.payloads.saturating_sub(u64::from(run.count));
                Posting::Run(run)
            }
            Entry::Kept(run) => Posting::Kept(run),
            Entry::Notice {
                membership,
                bytes,
                notice,
            } => {
                self.offered_bytes = self.offered_bytes.saturating_sub(size(bytes));
                Posting::Notice { membership, notice }
            }
        })
    }
}

fn size(bytes: u32) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
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
        assert_eq!(outbox.payloads(), 6);
        assert_eq!(outbox.pop(4), Some(run(0, 4, false)));
        assert_eq!(outbox.payloads(), 2);
        assert_eq!(outbox.pop(4), Some(run(4, 1, true)));
        assert_eq!(outbox.pop(4), Some(run(5, 1, false)));
        assert_eq!(outbox.pop(4), None);
    }

    fn notice(number: u32) -> Posting<u32> {
        Posting::Notice {
            membership: 1,
            notice: number,
        }
    }

    #[test]
    fn notices_and_changes_are_one_queue() {
        let outbox = Outbox::new();
        outbox.push(run(0, 1, false));
        outbox.offer(1, (), 10);
        outbox.push(run(1, 1, false));
        assert_eq!(outbox.pop(9), Some(run(0, 1, false)));
        let posting = Posting::Notice {
            membership: 1,
            notice: (),
        };
        assert_eq!(outbox.pop(9), Some(posting));
        assert_eq!(outbox.pop(9), Some(run(1, 1, false)));
    }

    #[test]
    fn what_does_not_fit_overflows_for_good() {
        let outbox = Outbox::with_limit(10);
        outbox.offer(1, 1, 4);
        outbox.offer(1, 2, 6);
        assert!(!outbox.has_overflowed());
        outbox.offer(1, 3, 1);
        assert!(outbox.has_overflowed());
        assert_eq!(outbox.pop(9), Some(notice(1)));
        assert_eq!(outbox.pop(9), Some(notice(2)));
        outbox.offer(1, 4, 1);
        assert_eq!(outbox.pop(9), None);
        assert!(outbox.has_overflowed());
        // What is no offer is still told.
        outbox.push(notice(5));
        assert_eq!(outbox.pop(9), Some(notice(5)));
    }

    #[test]
    fn what_was_taken_no_longer_counts() {
        let outbox = Outbox::with_limit(10);
        for number in 0..100 {
            outbox.offer(1, number, 9);
            outbox.push(notice(1000));
            assert_eq!(outbox.pop(9), Some(notice(number)));
            assert_eq!(outbox.pop(9), Some(notice(1000)));
        }
        assert!(!outbox.has_overflowed());
    }

    #[test]
    fn a_notice_larger_than_the_limit_fits_if_it_is_alone() {
        let outbox = Outbox::with_limit(10);
        outbox.push(notice(0));
        outbox.offer(1, 1, 1000);
        assert!(!outbox.has_overflowed());
        outbox.offer(1, 2, 0);
        assert!(outbox.has_overflowed());
        assert_eq!(outbox.pop(9), Some(notice(0)));
        assert_eq!(outbox.pop(9), Some(notice(1)));
        assert_eq!(outbox.pop(9), None);
    }

    #[tokio::test]
    async fn overflowing_wakes_the_reader() {
        let outbox = Outbox::with_limit(1);
        outbox.offer(1, 1, 1);
        outbox.wait().await;
        outbox.offer(1, 2, 1);
        outbox.wait().await;
        assert!(outbox.has_overflowed());
    }

    #[test]
    fn a_burst_gives_its_memory_back() {
        let outbox = Outbox::new();
        for number in 0..10_000 {
            outbox.offer(1, number, 1);
        }
        while outbox.pop(9).is_some() {}
        assert!(outbox.lock().entries.capacity() <= CAPACITY_KEPT);
        assert_eq!(outbox.lock().offered_bytes, 0);
    }

    #[test]
    fn the_size_of_a_notice_takes_no_room_in_the_queue() {
        assert!(size_of::<Entry<[u64; 4]>>() <= size_of::<Posting<[u64; 4]>>());
    }
}
