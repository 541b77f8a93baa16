//! How many messages a token's subject may send (protocol.md §8.1): an average over the last minute, in steps of five
//! seconds.
//!
//! Requests go in with the time, yes or no comes out. An identity that sends nothing for a minute is forgotten.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::http::HeaderName;

use crate::auth::Claims;

const BUCKETS: usize = 12;
const BUCKET: Duration = Duration::from_secs(5);
const WINDOW_SECONDS: u32 = 60;
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
    begin: Instant,
    /// ≤ [`SUBJECTS_MAX`] and one.
    subjects: Mutex<HashMap<Subject, Window>>,
}

/// Role and subject; tokens without a subject share their role's.
type Subject = (Box<str>, Option<Box<str>>);

impl Rates {
    pub(in crate::server) fn new(limit: u32, now: Instant) -> Self {
        Self {
            limit,
            begin: now,
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
        let bucket = now.saturating_duration_since(self.begin).as_secs() / BUCKET.as_secs();
        let mut subjects = self.subjects.lock().unwrap_or_else(PoisonError::into_inner);
        let mut subject = (claims.role.clone(), claims.subject.clone());
        if subjects.len() >= SUBJECTS_MAX && !subjects.contains_key(&subject) {
            subjects.retain(|_, window| window.is_fresh(bucket));
            if subjects.len() >= SUBJECTS_MAX {
                subject = (Box::default(), None);
            }
        }
        let window = subjects.entry(subject).or_default();
        window.advance(bucket);
        rate.rolling = window.sum() / WINDOW_SECONDS;
        rate.admit(count).map_err(|why| (rate, why))?;
        window.count(u32::try_from(count).unwrap_or(u32::MAX));
        Ok(rate)
    }
}

/// The last minute of one subject.
#[derive(Debug, Default)]
struct Window {
    /// The newest first.
    counts: [u32; BUCKETS],
    /// Number of the newest bucket.
    newest: u64,
}

impl Window {
    fn is_fresh(&self, bucket: u64) -> bool {
        let age = usize::try_from(bucket.saturating_sub(self.newest));
        age.is_ok_and(|age| age < BUCKETS)
    }

    fn advance(&mut self, bucket: u64) {
        if !self.is_fresh(bucket) {
            self.counts = [0; BUCKETS];
            self.newest = bucket;
        }
        while self.newest < bucket {
            self.counts.rotate_right(1);
            self.newest = self.newest.saturating_add(1);
            if let Some(newest) = self.counts.first_mut() {
                *newest = 0;
            }
        }
    }

    fn count(&mut self, count: u32) {
        if let Some(newest) = self.counts.first_mut() {
            *newest = newest.saturating_add(count);
        }
    }

    fn sum(&self) -> u32 {
        self.counts
            .iter()
            .fold(0, |sum, count| sum.saturating_add(*count))
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
        let rates = Rates::new(2, begin);
        let seconds = |seconds| begin + Duration::from_secs(seconds);
        let one = claims(Some("one"));
        let rolling = |now| match rates.admit(&one, 0, now) {
            Ok(rate) | Err((rate, _)) => rate.rolling,
        };
        for now in 0..30 {
            assert!(rates.admit(&one, 2, seconds(now)).is_ok());
        }
        assert_eq!(rolling(seconds(30)), 1);
        for now in 30..60 {
            for _ in 0..2 {
                assert!(rates.admit(&one, 1, seconds(now)).is_ok());
            }
        }
        let refused = rates.admit(&one, 1, seconds(59)).unwrap_err();
        assert_eq!((refused.0.rolling, refused.1), (2, TooMany::Messages));
        assert!(rates.admit(&claims(None), 1, seconds(59)).is_ok());
        assert_eq!(rolling(seconds(59)), 2);
        assert_eq!(rolling(seconds(64)), 1);
        assert_eq!(rolling(seconds(130)), 0);
        assert!(rates.admit(&one, 2, seconds(130)).is_ok());
    }

    #[test]
    fn nothing_is_kept_without_a_limit() {
        let now = clock::instant();
        let rates = Rates::new(0, now);
        assert!(rates.admit(&claims(None), 1_000_000, now).is_ok());
        assert!(rates.subjects.lock().unwrap().is_empty());
    }
}
