//! How many messages a token's subject may send (protocol.md §8.1): an average over the last minute, or over the time since
//! the subject began, in steps of five seconds.
//!
//! Requests go in with the time, yes or no comes out. A subject that sends nothing for a minute is forgotten.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::http::HeaderName;

use crate::auth::Claims;

const BUCKETS: usize = 12;
const BUCKET: Duration = Duration::from_secs(5);
const WINDOW: Duration = Duration::from_secs(60);
/// Subjects told apart; what is beyond shares one count.
const SUBJECTS_MAX: usize = 100_000;

/// Where a subject stands, as answers tell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rate {
    /// Messages per second, on average and rounded down.
    pub(super) rolling: u32,
    /// Messages per second that are too many; 0 for no limit.
    pub(super) limit: u32,
}

/// Why a request is not served now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TooMany {
    /// The limit was reached when the request came.
    Requests,
    /// The limit was reached while the request was read.
    Messages,
    /// The request would go beyond the limit.
    Batch,
}

impl Rate {
    /// Whether so many messages may be sent; 0 asks whether it is worth reading any.
    ///
    /// # Errors
    /// They may not.
    pub(super) fn admit(self, count: usize) -> Result<(), TooMany> {
        if self.limit == 0 {
            return Ok(());
        }
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        if self.rolling >= self.limit {
            return Err(if count == 0 {
                TooMany::Requests
            } else {
                TooMany::Messages
            });
        }
        if self.rolling.saturating_add(count) > self.limit {
            return Err(TooMany::Batch);
        }
        Ok(())
    }

    /// The headers of every answer past the token.
    pub(super) fn headers(&self) -> [(HeaderName, u32); 3] {
        // No limit is told as the largest number that every client can hold.
        let limit = if self.limit == 0 {
            i32::MAX.unsigned_abs()
        } else {
            self.limit
        };
        [
            (HeaderName::from_static("x-rate-rolling"), self.rolling),
            (HeaderName::from_static("x-rate-limit"), limit),
            (
                HeaderName::from_static("x-rate-limit-remaining"),
                limit.saturating_sub(self.rolling),
            ),
        ]
    }
}

/// What subjects have sent.
#[derive(Debug)]
pub(in crate::server) struct Rates {
    /// Messages per second that are too many; 0 for no limit, and then nothing is kept.
    limit: u32,
    /// ≤ [`SUBJECTS_MAX`] and one.
    subjects: Mutex<HashMap<Subject, Window>>,
}

/// Role and subject; tokens without a subject share their role's.
type Subject = (Box<str>, Option<Box<str>>);

impl Rates {
    pub(in crate::server) fn new(limit: u32) -> Self {
        Self {
            limit,
            subjects: Mutex::default(),
        }
    }

    /// Counts `count` messages if they may be sent, and tells where the subject stood before them.
    ///
    /// # Errors
    /// They may not.
    pub(super) fn admit(
        &self,
        claims: &Claims,
        count: usize,
        now: Instant,
    ) -> Result<Rate, (Rate, TooMany)> {
        let mut rate = Rate {
            rolling: 0,
            limit: self.limit,
        };
        if self.limit == 0 {
            return Ok(rate);
        }
        let mut subjects = self.subjects.lock().unwrap_or_else(PoisonError::into_inner);
        let mut subject = (claims.role.clone(), claims.subject.clone());
        if subjects.len() >= SUBJECTS_MAX && !subjects.contains_key(&subject) {
            subjects.retain(|_, window| !window.is_idle(now));
            if subjects.len() >= SUBJECTS_MAX {
                subject = (Box::default(), None);
            }
        }
        let window = subjects.entry(subject).or_insert_with(|| Window::new(now));
        rate.rolling = window.average(now);
        rate.admit(count).map_err(|why| (rate, why))?;
        window.add(now, u32::try_from(count).unwrap_or(u32::MAX));
        Ok(rate)
    }
}

/// The last minute of one subject.
#[derive(Debug)]
struct Window {
    /// When the newest bucket began.
    begin: Instant,
    /// The newest first; 1 to [`BUCKETS`] of them.
    counts: VecDeque<u32>,
}

impl Window {
    fn new(now: Instant) -> Self {
        Self {
            begin: now,
            counts: VecDeque::from([0]),
        }
    }

    fn is_idle(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.begin) >= WINDOW
    }

    fn advance(&mut self, now: Instant) {
        if self.is_idle(now) {
            *self = Self::new(now);
        }
        while now.saturating_duration_since(self.begin) >= BUCKET {
            self.begin += BUCKET;
            self.counts.truncate(BUCKETS.saturating_sub(1));
            self.counts.push_front(0);
        }
    }

    fn add(&mut self, now: Instant, count: u32) {
        self.advance(now);
        if let Some(newest) = self.counts.front_mut() {
            *newest = newest.saturating_add(count);
        }
    }

    /// Per second, rounded down; the newest bucket counts whole.
    fn average(&mut self, now: Instant) -> u32 {
        self.advance(now);
        let sum: u64 = self.counts.iter().copied().map(u64::from).sum();
        let buckets = u64::try_from(self.counts.len()).unwrap_or(1);
        let seconds = buckets.saturating_mul(BUCKET.as_secs()).max(1);
        u32::try_from(sum / seconds).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    fn claims(subject: Option<&str>) -> Claims {
        Claims {
            json: "{}".into(),
            role: "anon".into(),
            subject: subject.map(Box::from),
            expires_at: None,
        }
    }

    #[test]
    fn the_limit_is_reached_at_its_number() {
        let check = |rolling, limit, count, wanted| {
            assert_eq!(Rate { rolling, limit }.admit(count), wanted);
        };
        check(9, 10, 0, Ok(()));
        check(9, 10, 1, Ok(()));
        check(9, 10, 2, Err(TooMany::Batch));
        check(10, 10, 0, Err(TooMany::Requests));
        check(10, 10, 1, Err(TooMany::Messages));
        check(u32::MAX, 0, usize::MAX, Ok(()));
        check(1, 10, usize::MAX, Err(TooMany::Batch));
    }

    #[test]
    fn the_headers_add_up() {
        let values = |rate: Rate| rate.headers().map(|(_, value)| value);
        let rate = |rolling, limit| Rate { rolling, limit };
        assert_eq!(values(rate(3, 10)), [3, 10, 7]);
        assert_eq!(values(rate(12, 10)), [12, 10, 0]);
        assert_eq!(values(rate(0, 0)), [0, 2_147_483_647, 2_147_483_647]);
    }

    #[test]
    fn a_minute_is_counted_and_then_forgotten() {
        let begin = clock::instant();
        let rates = Rates::new(2);
        let seconds = |seconds| begin + Duration::from_secs(seconds);
        let one = claims(Some("one"));
        let rolling = |now| match rates.admit(&one, 0, now) {
            Ok(rate) | Err((rate, _)) => rate.rolling,
        };
        for _ in 0..10 {
            assert!(rates.admit(&one, 1, seconds(0)).is_ok());
        }
        // Ten in five seconds are two per second.
        let refused = rates.admit(&one, 1, seconds(4)).unwrap_err();
        assert_eq!((refused.0.rolling, refused.1), (2, TooMany::Messages));
        assert!(rates.admit(&claims(None), 1, seconds(4)).is_ok());
        // The same in ten are one.
        assert_eq!(rolling(seconds(5)), 1);
        assert!(rates.admit(&one, 1, seconds(9)).is_ok());
        assert_eq!(rolling(seconds(10)), 0);
        for _ in 0..52 {
            assert!(rates.admit(&one, 1, seconds(55)).is_ok());
        }
        // 63 in a minute, of which ten are then too old.
        assert_eq!(rolling(seconds(59)), 1);
        assert_eq!(rolling(seconds(60)), 0);
        assert_eq!(rolling(seconds(114)), 0);
        for _ in 0..7 {
            assert!(rates.admit(&one, 1, seconds(114)).is_ok());
        }
        assert_eq!(rolling(seconds(114)), 0);
        // After a minute without any it begins anew, and five are one per second.
        for _ in 0..5 {
            assert!(rates.admit(&one, 1, seconds(200)).is_ok());
        }
        assert_eq!(rolling(seconds(200)), 1);
    }

    #[test]
    fn nothing_is_kept_without_a_limit() {
        let now = clock::instant();
        let rates = Rates::new(0);
        assert!(rates.admit(&claims(None), 1_000_000, now).is_ok());
        assert!(rates.subjects.lock().unwrap().is_empty());
    }

    #[test]
    fn there_is_a_limit_to_what_is_kept() {
        let now = clock::instant();
        let rates = Rates::new(1);
        let admit = |name: &str, now| rates.admit(&claims(Some(name)), 1, now).is_ok();
        for number in 0..SUBJECTS_MAX {
            assert!(admit(&number.to_string(), now));
        }
        // The others share what one may send.
        let others = (0..100).filter(|number| admit(&format!("other {number}"), now));
        assert_eq!(others.count(), 5);
        assert_eq!(rates.subjects.lock().unwrap().len(), SUBJECTS_MAX + 1);
        assert!(admit("late", now + WINDOW));
        assert_eq!(rates.subjects.lock().unwrap().len(), 1);
    }
}
