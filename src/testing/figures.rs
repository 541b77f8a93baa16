//! Durations, collected and summed up.

use std::fmt;
use std::time::Duration;

/// A sample of durations.
#[derive(Clone, Debug, Default)]
pub struct Durations(Vec<Duration>);

impl Durations {
    /// Adds one.
    pub fn push(&mut self, duration: Duration) {
        self.0.push(duration);
    }

    /// Adds all of another sample.
    pub fn append(&mut self, mut other: Self) {
        self.0.append(&mut other.0);
    }

    /// The value that `percent` (0 to 100) of the sample do not exceed.
    ///
    /// # Panics
    ///
    /// On an empty sample.
    #[must_use]
    pub fn percentile(&self, percent: usize) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let rank = sorted.len().saturating_mul(percent).div_ceil(100).max(1);
        sorted[rank.saturating_sub(1)]
    }
}

impl fmt::Display for Durations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let milliseconds = |percent| self.percentile(percent).as_secs_f64() * 1e3;
        write!(
            f,
            "p50 {:7.2} ms   p90 {:7.2} ms   p99 {:7.2} ms   max {:7.2} ms   ({} samples)",
            milliseconds(50),
            milliseconds(90),
            milliseconds(99),
            milliseconds(100),
            self.0.len()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_of_the_sample() {
        let mut durations = Durations::default();
        for milliseconds in (1..=100).rev() {
            durations.push(Duration::from_millis(milliseconds));
        }
        for percent in [1, 50, 99, 100] {
            assert_eq!(
                durations.percentile(percent),
                Duration::from_millis(percent as u64)
            );
        }
    }
}
