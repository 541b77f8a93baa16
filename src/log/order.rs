//! In which order the newest rows of `realtime.messages` were committed: no column says so, for a row's time is that of its
//! transaction's beginning.
//!
//! Ids go in as the stream hands them down; the order of a topic's newest ids comes out. Never keeps a payload. Being full
//! means that the oldest ids are forgotten; a gap in the stream, that all are: what is not known counts as older than what
//! is, and has the order of the table.
//!
//! *io*: who asks may wait for the stream.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::timeout;

use crate::change::{Lsn, Snapshot, Xid};

/// Ids of one topic: more than are replayed at once, because some of them may have expired.
const TOPIC_MAX: usize = 64;
/// Ids of all topics; some 6 MB.
const IDS_MAX: usize = 65_536;
/// How long a replay waits for the stream, which is behind by milliseconds as a rule.
const PATIENCE: Duration = Duration::from_millis(250);
/// How often the stream is asked where it is meanwhile.
const ASK_PAUSE: Duration = Duration::from_millis(20);

/// The order in which the newest rows of `realtime.messages` were committed.
#[derive(Debug)]
pub struct Order {
    recent: Mutex<Recent>,
    stream: watch::Sender<Stream>,
    /// Asks the stream where it is.
    poke: Arc<Notify>,
}

/// How far the stream has got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Stream {
    /// It carries the rows of `realtime.messages`.
    flows: bool,
    /// Every commit that starts before this was recorded.
    position: Lsn,
    /// Somebody waited in vain since it last moved.
    stands: bool,
}

/// The id of a row: a UUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RowId(u128);

/// The text is no UUID as Postgres writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a UUID such as c2f10000-0000-4000-8000-000000000000")]
pub struct ParseRowIdError;

impl FromStr for RowId {
    type Err = ParseRowIdError;

    fn from_str(text: &str) -> Result<Self, ParseRowIdError> {
        let mut groups = text.split('-');
        let lengths = [8, 4, 4, 4, 12];
        let mut number = 0_u128;
        for length in lengths {
            let group = groups.next().filter(|group| group.len() == length);
            let digits = u64::from_str_radix(group.ok_or(ParseRowIdError)?, 16);
            let digits = digits.map_err(|_no_digits| ParseRowIdError)?;
            number = (number << (4 * length)) | u128::from(digits);
        }
        if groups.next().is_some() {
            return Err(ParseRowIdError);
        }
        Ok(Self(number))
    }
}

/// 32 digits, which Postgres reads.
impl fmt::Display for RowId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

#[derive(Debug, Default)]
struct Recent {
    hasher: RandomState,
    /// By the hash of the topic: two that have the same one only know less far back.
    topics: HashMap<u64, VecDeque<Entry>>,
    /// Every entry that was made, oldest first, with its topic; some may be gone.
    made: VecDeque<(u64, u64)>,
    next: u64,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    number: u64,
    id: RowId,
    transaction: Xid,
}

impl Recent {
    fn record(&mut self, topic: &str, id: RowId, transaction: Xid) {
        let topic = self.hasher.hash_one(topic);
        let entries = self.topics.entry(topic).or_default();
        // A transaction of which a part was handed down comes again after a loss of the connection.
        if entries.iter().any(|entry| entry.id == id) {
            return;
        }
        let number = self.next;
        self.next = number.wrapping_add(1);
        entries.push_back(Entry {
            number,
            id,
            transaction,
        });
        if entries.len() > TOPIC_MAX {
            entries.pop_front();
        }
        self.made.push_back((number, topic));
        if self.made.len() > IDS_MAX
            && let Some((number, topic)) = self.made.pop_front()
            && let Some(entries) = self.topics.get_mut(&topic)
        {
            entries.pop_front_if(|entry| entry.number == number);
            if entries.is_empty() {
                self.topics.remove(&topic);
            }
        }
    }

    fn newest(&self, topic: &str, snapshot: &Snapshot, count: usize) -> Vec<RowId> {
        let topic = self.hasher.hash_one(topic);
        let entries = self.topics.get(&topic).into_iter().flatten();
        let seen = entries
            .rev()
            .filter(|entry| snapshot.sees(entry.transaction));
        let mut newest: Vec<RowId> = seen.take(count).map(|entry| entry.id).collect();
        newest.reverse();
        newest
    }
}

impl Order {
    /// Knows nothing yet. `poke` asks the stream where it is.
    #[must_use]
    pub fn new(poke: Arc<Notify>) -> Self {
        Self {
            recent: Mutex::default(),
            stream: watch::Sender::default(),
            poke,
        }
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The row of this id came next in the stream.
    pub fn record(&self, topic: &str, id: RowId, transaction: Xid) {
        self.recent().record(topic, id, transaction);
    }

    /// Rows may have been committed that are never recorded.
    pub fn forget(&self) {
        *self.recent() = Recent::default();
    }

    /// Every commit that starts before `position` was recorded, if its rows come in the stream at all.
    pub fn passed(&self, flows: bool, position: Lsn) {
        self.stream.send_if_modified(|stream| {
            let moved = stream.flows != flows || stream.position != position;
            if moved {
                *stream = Stream {
                    flows,
                    position,
                    stands: false,
                };
            }
            moved
        });
    }

    /// Waits until everything is recorded that committed before `position`; a moment at most, and not at all while the stream
    /// does not move.
    ///
    /// Cancel safe.
    pub async fn reach(&self, position: Lsn) {
        let mut stream = self.stream.subscribe();
        let ends = |stream: &Stream| !stream.flows || stream.stands || stream.position >= position;
        let reached = timeout(PATIENCE, async {
            while !ends(&stream.borrow()) {
                self.poke.notify_one();
                drop(timeout(ASK_PAUSE, stream.wait_for(ends)).await);
            }
        });
        if reached.await.is_err() {
            self.stream.send_modify(|stream| stream.stands = true);
        }
    }

    /// The newest ids of a topic that the snapshot sees, at most `count`; the oldest first.
    #[must_use]
    pub fn newest(&self, topic: &str, snapshot: &Snapshot, count: usize) -> Vec<RowId> {
        self.recent().newest(topic, snapshot, count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    fn order() -> Order {
        Order::new(Arc::default())
    }

    fn snapshot(text: &str) -> Snapshot {
        text.parse().unwrap()
    }

    #[track_caller]
    fn check(order: &Order, topic: &str, seen: &str, count: usize, wanted: &[u128]) {
        let newest = order.newest(topic, &snapshot(seen), count);
        let newest: Vec<u128> = newest.into_iter().map(|id| id.0).collect();
        assert_eq!(newest, wanted, "{topic} {seen} {count}");
    }

    #[test]
    fn ids_are_read_as_postgres_writes_them() {
        let text = "c2f10000-0000-4000-8000-0000000000ff";
        let id: RowId = text.parse().unwrap();
        assert_eq!(id.to_string(), text.replace('-', ""));
        for wrong in [
            "",
            "c2f1",
            "c2f10000-0000-4000-8000-0000000000ff-",
            "c2f10000-0000-4000-8000-0000000000f",
            "c2f10000000040008000-0000000000ff",
            "g2f10000-0000-4000-8000-0000000000ff",
        ] {
            assert_eq!(wrong.parse::<RowId>(), Err(ParseRowIdError), "{wrong}");
        }
    }

    #[test]
    fn the_newest_of_a_topic_come_in_the_order_of_the_stream_as_far_as_a_snapshot_sees() {
        let order = order();
        for (topic, id, transaction) in [("a", 3, 10), ("b", 9, 11), ("a", 1, 12), ("a", 2, 11)] {
            order.record(topic, RowId(id), Xid(transaction));
        }
        // Twice, after a reconnect.
        order.record("a", RowId(3), Xid(10));
        check(&order, "a", "20:20:", 9, &[3, 1, 2]);
        check(&order, "a", "20:20:", 2, &[1, 2]);
        check(&order, "a", "12:13:12", 9, &[3, 2]);
        check(&order, "b", "20:20:", 9, &[9]);
        check(&order, "c", "20:20:", 9, &[]);
        order.forget();
        check(&order, "a", "20:20:", 9, &[]);
    }

    #[test]
    fn the_oldest_are_forgotten() {
        let order = order();
        let of_one: Vec<u128> = (0..200).collect();
        for id in &of_one {
            order.record("busy", RowId(*id), Xid(5));
        }
        check(&order, "busy", "20:20:", 1000, &of_one[200 - TOPIC_MAX..]);
        for id in 0..IDS_MAX as u128 - 1 {
            order.record(&format!("topic {}", id / 8), RowId(id), Xid(5));
        }
        check(&order, "busy", "20:20:", 1000, &[199]);
        check(&order, "topic 0", "20:20:", 1, &[7]);
        for id in 0..9 {
            order.record("last", RowId(id), Xid(5));
        }
        check(&order, "busy", "20:20:", 1000, &[]);
        check(&order, "topic 0", "20:20:", 1000, &[]);
        check(
            &order,
            "topic 1",
            "20:20:",
            1000,
            &[8, 9, 10, 11, 12, 13, 14, 15],
        );
        let recent = order.recent();
        let kept: usize = recent.topics.values().map(VecDeque::len).sum();
        assert_eq!(kept, IDS_MAX);
        assert!(recent.topics.values().all(|entries| !entries.is_empty()));
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_the_stream_asks_it_and_does_not_wait_for_one_that_stands() {
        let poke = Arc::new(Notify::new());
        let order = Arc::new(Order::new(Arc::clone(&poke)));
        let reach = async |position: u64| {
            let before = tokio::time::Instant::from_std(clock::instant());
            order.reach(Lsn::new(position)).await;
            before
        };
        // Nothing comes in the stream.
        let _at_once = timeout(Duration::ZERO, reach(9)).await.unwrap();
        order.passed(true, Lsn::new(5));
        let _at_once = timeout(Duration::ZERO, reach(5)).await.unwrap();
        let waiting = {
            let order = Arc::clone(&order);
            async move { order.reach(Lsn::new(6)).await }
        };
        let answering = async {
            poke.notified().await;
            order.passed(true, Lsn::new(7));
        };
        timeout(ASK_PAUSE, async { tokio::join!(waiting, answering) })
            .await
            .unwrap();
        // It stands: one waits, those that come later do not.
        assert!(timeout(PATIENCE - ASK_PAUSE, reach(8)).await.is_err());
        let _in_vain = timeout(2 * PATIENCE, reach(8)).await.unwrap();
        let _at_once = timeout(Duration::ZERO, reach(9)).await.unwrap();
        order.passed(true, Lsn::new(8));
        assert!(timeout(PATIENCE - ASK_PAUSE, reach(9)).await.is_err());
    }
}
