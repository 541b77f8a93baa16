//! How often something happens (protocol.md §8.1): averages over a minute, of a socket, a channel or a token's subject.
//!
//! What happens and when goes in; whether it is too often comes out. Nothing is kept where nothing is limited.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

/// Buckets of an average.
const BUCKETS: usize = 12;
/// The length of one.
const BUCKET: Duration = Duration::from_secs(5);

/// How often something happens: the average per second over the last minute, or over the time since it began.
#[derive(Clone, Debug)]
pub struct Rate {
    begin: Instant,
    /// Number of the newest bucket, counted from the beginning.
    newest: u64,
    /// Bucket `n` stands at `n` modulo their number.
    buckets: [u32; BUCKETS],
    sum: u64,
}

impl Rate {
    /// Nothing has happened yet.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            begin: now,
            newest: 0,
            buckets: [0; BUCKETS],
            sum: 0,
        }
    }

    /// It happened so many times.
    pub fn add(&mut self, now: Instant, count: u32) {
        self.advance(now);
        let place = place(self.newest);
        if let Some(bucket) = self.buckets.get_mut(place) {
            let before = *bucket;
            *bucket = bucket.saturating_add(count);
            self.sum = self
                .sum
                .saturating_add(u64::from(bucket.saturating_sub(before)));
        }
    }

    /// Whether the average is `per_second` or more.
    #[must_use]
    pub fn reaches(&mut self, now: Instant, per_second: u32) -> bool {
        self.advance(now);
        self.sum >= u64::from(per_second).saturating_mul(self.seconds())
    }

    /// The average per second, rounded down.
    #[must_use]
    pub fn average(&mut self, now: Instant) -> u64 {
        self.advance(now);
        self.sum.checked_div(self.seconds()).unwrap_or_default()
    }

    /// Seconds that the buckets span; the newest counts whole.
    fn seconds(&self) -> u64 {
        let most = u64::try_from(BUCKETS).unwrap_or(u64::MAX);
        self.newest
            .saturating_add(1)
            .min(most)
            .saturating_mul(BUCKET.as_secs())
    }

    /// Forgets the buckets that are older than a minute.
    fn advance(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.begin).as_secs();
        let newest = passed.checked_div(BUCKET.as_secs()).unwrap_or_default();
        if newest <= self.newest {
            return;
        }
        let most = u64::try_from(BUCKETS).unwrap_or(u64::MAX);
        let new = newest.saturating_sub(self.newest).min(most);
        for back in 0..new {
            if let Some(bucket) = self.buckets.get_mut(place(newest.saturating_sub(back))) {
                self.sum = self.sum.saturating_sub(u64::from(*bucket));
                *bucket = 0;
            }
        }
        self.newest = newest;
    }
}

fn place(bucket: u64) -> usize {
    let most = u64::try_from(BUCKETS).unwrap_or(u64::MAX);
    bucket
        .checked_rem(most)
        .and_then(|place| usize::try_from(place).ok())
        .unwrap_or_default()
}

/// A limit on averages per second; 0 means none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PerSecond {
    /// Of one socket.
    pub socket: u32,
    /// Of one channel.
    pub channel: u32,
    /// Of all sockets and requests with tokens of one subject.
    pub subject: u32,
}

impl PerSecond {
    pub(super) fn is_none(self) -> bool {
        self == Self::default()
    }
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    /// Broadcasts, each when it is sent and each time that it is delivered.
    Messages,
    /// Joins.
    Joins,
    /// Presence calls, and diffs each time that one is delivered.
    PresenceEvents,
}

/// What somebody does; each made when it is first needed, for there is one of these per socket and channel.
#[derive(Debug, Default)]
pub(super) struct Rates {
    messages: Option<Box<Rate>>,
    joins: Option<Box<Rate>>,
    presence_events: Option<Box<Rate>>,
}

impl Rates {
    fn of(&mut self, counted: Counted, now: Instant) -> &mut Rate {
        let rate = match counted {
            Counted::Messages => &mut self.messages,
            Counted::Joins => &mut self.joins,
            Counted::PresenceEvents => &mut self.presence_events,
        };
        rate.get_or_insert_with(|| Box::new(Rate::new(now)))
    }

    fn reaches(&mut self, counted: Counted, now: Instant, limit: u32) -> bool {
        limit > 0 && self.of(counted, now).reaches(now, limit)
    }

    fn add(&mut self, counted: Counted, now: Instant, limit: u32, count: u32) {
        if limit > 0 {
            self.of(counted, now).add(now, count);
        }
    }
}

/// Counts one more, unless a limit is reached already.
pub(super) fn admit(
    counted: Counted,
    now: Instant,
    limit: PerSecond,
    socket: &mut Rates,
    channel: Option<&mut Rates>,
    subject: Option<&Subject>,
) -> bool {
    if limit.is_none() {
        return true;
    }
    let mut unlimited = Rates::default();
    let channel = channel.unwrap_or(&mut unlimited);
    if socket.reaches(counted, now, limit.socket)
        || channel.reaches(counted, now, limit.channel)
        || !subject.is_none_or(|subject| subject.admit(counted, now, limit.subject, 1))
    {
        return false;
    }
    socket.add(counted, now, limit.socket, 1);
    channel.add(counted, now, limit.channel, 1);
    true
}

/// The subject of tokens, wherever they are used.
#[derive(Debug)]
pub struct Subject {
    name: Arc<str>,
    registry: Weak<Subjects>,
    rates: Mutex<Rates>,
}

impl Subject {
    /// Counts `count` more and says true, unless the average has reached `per_second` already; 0 is no limit.
    #[must_use]
    pub fn admit(&self, counted: Counted, now: Instant, per_second: u32, count: u32) -> bool {
        if per_second == 0 {
            return true;
        }
        let mut rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        let admitted = !rates.reaches(counted, now, per_second);
        if admitted {
            rates.add(counted, now, per_second, count);
        }
        admitted
    }

    /// The average per second, rounded down.
    #[must_use]
    pub fn average(&self, counted: Counted, now: Instant) -> u64 {
        let mut rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        rates.of(counted, now).average(now)
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        if let Some(registry) = self.registry.upgrade() {
            registry.forget(&self.name);
        }
    }
}

/// The subjects that somebody holds.
#[derive(Debug, Default)]
pub struct Subjects {
    /// Bounded by who holds them: each socket a few, and HTTP those of the last minute.
    entries: Mutex<HashMap<Arc<str>, Weak<Subject>>>,
}

impl Subjects {
    /// Nobody yet.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// The subject of this name, shared by all who ask while one of them holds it.
    #[must_use]
    pub fn subject(self: &Arc<Self>, name: &str) -> Arc<Subject> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let name: Arc<str> = name.into();
        let new = |name| {
            Arc::new(Subject {
                name,
                registry: Arc::downgrade(self),
                rates: Mutex::default(),
            })
        };
        match entries.entry(Arc::clone(&name)) {
            Entry::Occupied(mut entry) => entry.get().upgrade().unwrap_or_else(|| {
                let subject = new(name);
                entry.insert(Arc::downgrade(&subject));
                subject
            }),
            Entry::Vacant(entry) => {
                let subject = new(name);
                entry.insert(Arc::downgrade(&subject));
                subject
            }
        }
    }

    fn forget(&self, name: &str) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        // Somebody may have come back meanwhile.
        if entries
            .get(name)
            .is_some_and(|entry| entry.strong_count() == 0)
        {
            entries.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(
        clippy::disallowed_methods,
        reason = "an instant to count from, nothing waits"
    )]
    fn begin() -> Instant {
        Instant::now()
    }

    #[test]
    fn an_average_trips_at_the_limit_and_clears_below() {
        let begin = begin();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut rate = Rate::new(begin);
        rate.add(at(0), 49);
        assert!(!rate.reaches(at(4), 10));
        rate.add(at(4), 1);
        assert!(rate.reaches(at(4), 10));
        assert_eq!(rate.average(at(4)), 10);
        // The same fifty, in ten seconds.
        assert!(!rate.reaches(at(5), 10));
        assert_eq!(rate.average(at(5)), 5);
        rate.add(at(5), 50);
        assert!(rate.reaches(at(9), 10));
    }

    #[test]
    fn what_is_older_than_a_minute_is_forgotten() {
        let begin = begin();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut rate = Rate::new(begin);
        rate.add(at(0), 600);
        assert!(rate.reaches(at(59), 10));
        assert!(!rate.reaches(at(60), 1));
        rate.add(at(61), 7);
        assert!(!rate.reaches(at(10_000), 1));
        assert_eq!(rate.sum, 0);
    }

    #[test]
    fn the_sum_is_that_of_the_last_twelve_buckets() {
        let begin = begin();
        let mut rate = Rate::new(begin);
        let mut counts: Vec<u64> = Vec::new();
        for step in 0..100u32 {
            // Some buckets are skipped.
            let bucket = u64::from(step) + u64::from(step / 7) * 2;
            let bucket_at = usize::try_from(bucket).unwrap();
            counts.resize(bucket_at + 1, 0);
            counts[bucket_at] += u64::from(step);
            rate.add(begin + BUCKET * u32::try_from(bucket).unwrap(), step);
            let last: u64 = counts.iter().rev().take(BUCKETS).sum();
            assert_eq!(rate.sum, last, "step {step}");
        }
    }

    #[test]
    fn each_holder_has_its_own_limit() {
        let now = begin();
        let limit = |socket, channel, subject| PerSecond {
            socket,
            channel,
            subject,
        };
        let check = |limit: PerSecond, admitted: usize| {
            let (mut socket, mut channel) = (Rates::default(), Rates::default());
            let subjects = Subjects::new();
            let subject = subjects.subject("ann");
            let count = (0..100)
                .filter(|_| {
                    let subject = Some(&*subject);
                    let channel = Some(&mut channel);
                    admit(Counted::Messages, now, limit, &mut socket, channel, subject)
                })
                .count();
            assert_eq!(count, admitted, "{limit:?}");
        };
        check(limit(0, 0, 0), 100);
        check(limit(2, 0, 0), 10);
        check(limit(0, 3, 0), 15);
        check(limit(5, 0, 1), 5);
        check(limit(4, 3, 2), 10);
    }

    #[test]
    fn a_subject_is_shared_while_it_is_held() {
        let now = begin();
        let subjects = Subjects::new();
        let (one, other) = (subjects.subject("ann"), subjects.subject("ann"));
        assert!(one.admit(Counted::Joins, now, 1, 5));
        assert!(!other.admit(Counted::Joins, now, 1, 1));
        assert!(other.admit(Counted::Messages, now, 1, 1));
        assert!(subjects.subject("bob").admit(Counted::Joins, now, 1, 1));
        assert_eq!(subjects.entries.lock().unwrap().len(), 1);
        drop(one);
        drop(other);
        assert!(subjects.entries.lock().unwrap().is_empty());
    }
}
