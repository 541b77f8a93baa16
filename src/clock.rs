//! The only file that reads clocks; everyone else is given the time.
//!
//! Instants follow tokio's clock, so that a test that pauses it moves them too.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Reads the monotonic clock.
#[must_use]
#[expect(
    clippy::disallowed_methods,
    reason = "this is the file that reads clocks"
)]
pub fn instant() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Reads the wall clock: microseconds since 1970, the resolution of Postgres' own timestamps.
#[must_use]
#[expect(
    clippy::disallowed_methods,
    reason = "this is the file that reads clocks"
)]
pub fn unix_micros() -> i64 {
    // A clock before 1970 is as wrong as one that stands at it.
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| {
            i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
        })
}

/// Reads the wall clock: whole seconds since 1970, rounded down, as tokens count.
#[must_use]
pub fn unix_seconds() -> i64 {
    unix_micros().div_euclid(1_000_000)
}
