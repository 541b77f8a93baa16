//! How many messages a token's subject may send (protocol.md §8.1): one average for requests and sockets.
//!
//! Requests go in with the time, yes or no comes out. A subject that sends nothing for a minute is forgotten, unless a socket
//! holds it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::http::HeaderName;

use crate::auth::Claims;
use crate::realtime::{Counted, Subject, Subjects};

/// Over which averages are taken.
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

    /// The headers of every answer.
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

/// What subjects have sent, over HTTP and on sockets together. Tokens without a subject share their role's count, which
/// sockets do not have.
#[derive(Debug)]
pub(in crate::server) struct Rates {
    /// Messages per second that are too many; 0 for no limit, and then nothing is kept.
    limit: u32,
    subjects: Arc<Subjects>,
    roles: Arc<Subjects>,
    /// ≤ [`SUBJECTS_MAX`] and one. A count lasts only while somebody holds its subject, and requests end at once.
    held: Mutex<HashMap<Name, Held>>,
}

/// Who shares a count.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Name {
    Subject(Box<str>),
    Role(Box<str>),
}

#[derive(Debug)]
struct Held {
    subject: Arc<Subject>,
    until: Instant,
}

impl Rates {
    pub(in crate::server) fn new(limit: u32, subjects: Arc<Subjects>) -> Self {
        Self {
            limit,
            subjects,
            roles: Subjects::new(),
            held: Mutex::default(),
        }
    }

    /// Where somebody stands who has not said who it is.
    pub(super) const fn of_nobody(&self) -> Rate {
        Rate {
            rolling: 0,
            limit: self.limit,
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
        let mut rate = self.of_nobody();
        if self.limit == 0 {
            return Ok(rate);
        }
        let subject = self.hold(claims, now);
        rate.rolling = u32::try_from(subject.average(Counted::Messages, now)).unwrap_or(u32::MAX);
        rate.admit(count).map_err(|why| (rate, why))?;
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        if !subject.admit(Counted::Messages, now, self.limit, count) {
            // Others were faster.
            return Err((rate, TooMany::Messages));
        }
        Ok(rate)
    }

    /// Whoever counts for these claims, held for a minute from now.
    fn hold(&self, claims: &Claims, now: Instant) -> Arc<Subject> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let mut name = match &claims.subject {
            Some(subject) => Name::Subject(subject.clone()),
            None => Name::Role(claims.role.clone()),
        };
        if held.get(&name).is_some_and(|entry| entry.until <= now) {
            held.remove(&name);
        }
        if held.len() >= SUBJECTS_MAX && !held.contains_key(&name) {
            held.retain(|_, entry| entry.until > now);
            if held.len() >= SUBJECTS_MAX {
                name = Name::Role(Box::default());
            }
        }
        let entry = held.entry(name).or_insert_with_key(|name| Held {
            subject: match name {
                Name::Subject(subject) => self.subjects.subject(subject),
                Name::Role(role) => self.roles.subject(role),
            },
            until: now,
        });
        entry.until = now + WINDOW;
        Arc::clone(&entry.subject)
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
        let rates = Rates::new(2, Subjects::new());
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
    fn sockets_and_requests_count_together() {
        let now = clock::instant();
        let subjects = Subjects::new();
        let rates = Rates::new(2, Arc::clone(&subjects));
        let socket = subjects.subject("one");
        assert!(socket.admit(Counted::Messages, now, 2, 5));
        let rolling = |name| rates.admit(&claims(name), 0, now).unwrap().rolling;
        assert_eq!(rolling(Some("one")), 1);
        // Neither another subject nor a role of the name of one.
        assert_eq!(rolling(Some("other")), 0);
        let role = subjects.subject("anon");
        assert!(role.admit(Counted::Messages, now, 2, 5));
        assert_eq!(rolling(None), 0);
        for _ in 0..5 {
            assert!(rates.admit(&claims(Some("one")), 1, now).is_ok());
        }
        assert!(!socket.admit(Counted::Messages, now, 2, 1));
        // A socket that comes within the minute finds the count.
        drop(socket);
        assert!(!subjects.subject("one").admit(Counted::Messages, now, 2, 1));
    }

    #[test]
    fn nothing_is_kept_without_a_limit() {
        let now = clock::instant();
        let rates = Rates::new(0, Subjects::new());
        assert!(rates.admit(&claims(None), 1_000_000, now).is_ok());
        assert!(rates.held.lock().unwrap().is_empty());
    }

    #[test]
    fn there_is_a_limit_to_what_is_kept() {
        let now = clock::instant();
        let rates = Rates::new(1, Subjects::new());
        let admit = |name: &str, now| rates.admit(&claims(Some(name)), 1, now).is_ok();
        for number in 0..SUBJECTS_MAX {
            assert!(admit(&number.to_string(), now));
        }
        // The others share what one may send.
        let others = (0..100).filter(|number| admit(&format!("other {number}"), now));
        assert_eq!(others.count(), 5);
        assert_eq!(rates.held.lock().unwrap().len(), SUBJECTS_MAX + 1);
        assert!(admit("late", now + WINDOW));
        assert_eq!(rates.held.lock().unwrap().len(), 1);
    }
}
