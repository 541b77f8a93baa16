//! How much trust an identity's questions have earned: who may hold up whom.
//!
//! An identity is new until Postgres has answered it quickly; new ones are tried with little time, so that one that
//! sleeps costs little. One that timed out is asked on connections of its own, with more time, less and less often.
//! Never more than one question of an identity is open.

use std::time::{Duration, Instant};

/// Connections that answer questions, in groups that do not wait for each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Pool {
    /// Identities that were answered quickly before.
    Proven,
    /// Identities that were not asked yet.
    New,
    /// Identities that timed out.
    Quarantine,
}

impl Pool {
    pub(super) const ALL: [Self; 3] = [Self::Proven, Self::New, Self::Quarantine];
}

/// Time limits of one statement, by pool.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timeouts {
    pub(super) proven: Duration,
    pub(super) new: Duration,
    pub(super) quarantine: Duration,
}

impl Timeouts {
    /// The time that a question of an identity with this standing gets. In quarantine it grows with each failure: who
    /// timed out by accident, under load, is not kept waiting by those who always do.
    pub(super) fn of(&self, pool: Pool, standing: Standing) -> Duration {
        match pool {
            Pool::Proven => self.proven,
            Pool::New => self.new,
            Pool::Quarantine => {
                let doublings = standing.failures().saturating_mul(2).min(16);
                self.new.saturating_mul(1 << doublings).min(self.quarantine)
            }
        }
    }
}

/// What is known about one identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Not answered yet.
    New,
    /// Answered within the time of [`Pool::New`].
    Proven,
    /// Timed out at least once since it was last answered quickly.
    Slow {
        /// Consecutive time-outs in quarantine.
        failures: u32,
        /// Not asked before; until then its changes are denied.
        not_before: Option<Instant>,
    },
}

/// Time-outs in quarantine after which the identity is not asked for a while. Where most time out the first will do, and
/// one who was never answered does not even get there.
const FAILURES_TO_PAUSE: u32 = 3;
/// The first such pause; doubles with each further time-out.
const PAUSE_MIN: Duration = Duration::from_secs(2);
const PAUSE_MAX: Duration = Duration::from_secs(300);

impl Standing {
    /// Where the next question goes; `None` while it must not be asked.
    pub(super) fn pool(self, now: Instant) -> Option<Pool> {
        match self {
            Self::New => Some(Pool::New),
            Self::Proven => Some(Pool::Proven),
            Self::Slow {
                not_before: Some(time),
                ..
            } if now < time => None,
            Self::Slow { .. } => Some(Pool::Quarantine),
        }
    }

    /// Consecutive failures; fewer go first.
    pub(super) const fn failures(self) -> u32 {
        match self {
            Self::New | Self::Proven => 0,
            Self::Slow { failures, .. } => failures,
        }
    }

    /// Whether others may be made to wait for this identity: its questions are known to end.
    pub(super) const fn is_sound(self) -> bool {
        match self {
            Self::New | Self::Proven => true,
            Self::Slow { .. } => false,
        }
    }

    /// After an answer that took `time`.
    pub(super) fn answered(&mut self, time: Duration, limits: &Timeouts) {
        *self = if time < limits.new {
            Self::Proven
        } else {
            Self::Slow {
                failures: 0,
                not_before: None,
            }
        };
    }

    /// After a time-out in `pool`. Returns whether that was the last word on the question.
    pub(super) fn timed_out(&mut self, pool: Pool, now: Instant, breaker: Breaker) -> bool {
        let (failures, tries) = match pool {
            Pool::Proven => (0, FAILURES_TO_PAUSE),
            Pool::New if breaker.is_open() => (0, 0),
            Pool::New => (0, FAILURES_TO_PAUSE),
            Pool::Quarantine if breaker.is_open() => (self.failures().saturating_add(1), 1),
            Pool::Quarantine => (self.failures().saturating_add(1), FAILURES_TO_PAUSE),
        };
        let not_before = failures.checked_sub(tries).and_then(|pauses| {
            let pause = PAUSE_MIN.saturating_mul(1 << pauses.min(16)).min(PAUSE_MAX);
            now.checked_add(pause)
        });
        *self = Self::Slow {
            failures,
            not_before,
        };
        not_before.is_some()
    }
}

/// The recent outcomes of one table and role: when most questions time out, new and proven identities alike are tried
/// with very little time, until answers come again.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Breaker {
    /// One bit per outcome, the newest lowest; set for a time-out.
    recent: u16,
}

/// Time-outs among the last sixteen questions that open the breaker.
const TIMEOUTS_TO_OPEN: u32 = 8;

impl Breaker {
    pub(super) const fn record(&mut self, timed_out: bool) {
        self.recent = self.recent << 1 | timed_out as u16;
    }

    pub(super) const fn is_open(self) -> bool {
        self.recent.count_ones() >= TIMEOUTS_TO_OPEN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Timeouts = Timeouts {
        proven: Duration::from_millis(250),
        new: Duration::from_millis(100),
        quarantine: Duration::from_secs(5),
    };

    #[test]
    fn who_times_out_is_asked_apart_and_less_and_less_often() {
        let start = crate::clock::instant();
        let mut standing = Standing::New;
        assert!(
            !standing.timed_out(Pool::New, start, Breaker::default()),
            "one more try, with more time"
        );
        assert_eq!(standing.pool(start), Some(Pool::Quarantine));
        assert!(!standing.timed_out(Pool::Quarantine, start, Breaker::default()));
        assert!(!standing.timed_out(Pool::Quarantine, start, Breaker::default()));
        assert!(standing.timed_out(Pool::Quarantine, start, Breaker::default()));
        assert_eq!(standing.pool(start + Duration::from_secs(1)), None);
        assert_eq!(
            standing.pool(start + Duration::from_secs(2)),
            Some(Pool::Quarantine)
        );
        for _ in 0..40 {
            assert!(standing.timed_out(Pool::Quarantine, start, Breaker::default()));
        }
        assert_eq!(standing.pool(start + PAUSE_MAX), Some(Pool::Quarantine));
        standing.answered(Duration::from_secs(1), &LIMITS);
        assert_eq!(
            standing.pool(start),
            Some(Pool::Quarantine),
            "slow, but answered"
        );
        standing.answered(Duration::from_millis(1), &LIMITS);
        assert_eq!(standing.pool(start), Some(Pool::Proven));
    }

    #[test]
    fn where_most_time_out_a_newcomer_that_does_is_not_asked_for_a_while() {
        let start = crate::clock::instant();
        let mut breaker = Breaker::default();
        (0..TIMEOUTS_TO_OPEN).for_each(|_| breaker.record(true));
        let mut standing = Standing::New;
        assert!(standing.timed_out(Pool::New, start, breaker));
        assert_eq!(standing.pool(start), None);
        assert_eq!(standing.pool(start + PAUSE_MIN), Some(Pool::Quarantine));
        let mut proven = Standing::Proven;
        assert!(!proven.timed_out(Pool::Proven, start, breaker));
    }

    #[test]
    fn time_in_quarantine_grows_up_to_its_limit() {
        let with = |failures| Standing::Slow {
            failures,
            not_before: None,
        };
        let times = [0, 1, 2, 3, 40].map(|failures| LIMITS.of(Pool::Quarantine, with(failures)));
        assert_eq!(
            times.map(|time| time.as_millis()),
            [100, 400, 1600, 5000, 5000]
        );
    }

    #[test]
    fn the_breaker_opens_and_closes_with_the_outcomes() {
        let mut breaker = Breaker::default();
        (0..7).for_each(|_| breaker.record(true));
        assert!(!breaker.is_open());
        breaker.record(true);
        assert!(breaker.is_open());
        (0..9).for_each(|_| breaker.record(false));
        assert!(!breaker.is_open());
    }
}
