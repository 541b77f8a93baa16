//! Sizes of payloads, counted by the bucket that they fall into.
//!
//! Sockets add to a kind of message without a lock. Where a payload passes anyway it is added to a plain value, which a kind
//! is brought up to when somebody reads the metrics.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::{MetricType, TypedMetric};

/// Upper bounds in bytes: up to what a payload may have by default.
const BOUNDS: [u32; 11] = [
    250, 500, 1000, 3000, 5000, 10_000, 25_000, 100_000, 500_000, 1_000_000, 3_000_000,
];
/// One more, for what is larger than all bounds.
const BUCKETS: usize = BOUNDS.len() + 1;

/// Numbers of payloads by their size, as a plain value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SizeCounts {
    buckets: [u64; BUCKETS],
    bytes: u64,
}

impl SizeCounts {
    /// Adds a payload.
    pub fn add(&mut self, bytes: usize) {
        if let Some(bucket) = self.buckets.get_mut(place(bytes)) {
            *bucket = bucket.saturating_add(1);
        }
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.bytes = self.bytes.saturating_add(bytes);
    }

    fn join(&mut self, other: &Self) {
        for (ours, theirs) in self.buckets.iter_mut().zip(other.buckets) {
            *ours = ours.saturating_add(theirs);
        }
        self.bytes = self.bytes.saturating_add(other.bytes);
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "a sum of bytes that is shown; exact up to nine petabytes"
    )]
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        let bounds = BOUNDS.iter().map(|bound| f64::from(*bound));
        let bounds = bounds.chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = bounds.zip(self.buckets).collect();
        let count = self.buckets.iter().sum();
        encoder.encode_histogram::<NoLabelSet>(self.bytes as f64, count, &buckets, None)
    }
}

fn place(bytes: usize) -> usize {
    BOUNDS.partition_point(|bound| usize::try_from(*bound).is_ok_and(|bound| bound < bytes))
}

/// Sizes of the payloads of one kind of message, each counted once however many are sent it. Clones are one.
#[derive(Clone, Debug, Default)]
pub struct PayloadSizes(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    buckets: [AtomicU64; BUCKETS],
    bytes: AtomicU64,
}

impl PayloadSizes {
    /// Adds a payload.
    pub fn observe(&self, bytes: usize) {
        if let Some(bucket) = self.0.buckets.get(place(bytes)) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.0.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Brings them up to what is counted elsewhere. They never go back.
    pub fn raise(&self, counts: &SizeCounts) {
        for (ours, theirs) in self.0.buckets.iter().zip(counts.buckets) {
            ours.fetch_max(theirs, Ordering::Relaxed);
        }
        self.0.bytes.fetch_max(counts.bytes, Ordering::Relaxed);
    }

    fn counts(&self) -> SizeCounts {
        let mut counts = SizeCounts {
            bytes: self.0.bytes.load(Ordering::Relaxed),
            ..SizeCounts::default()
        };
        for (count, bucket) in counts.buckets.iter_mut().zip(&self.0.buckets) {
            *count = bucket.load(Ordering::Relaxed);
        }
        counts
    }
}

impl EncodeMetric for PayloadSizes {
    fn encode(&self, encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        self.counts().encode(encoder)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

impl TypedMetric for PayloadSizes {
    const TYPE: MetricType = MetricType::Histogram;
}

/// The sizes of several kinds together.
#[derive(Debug)]
pub(super) struct AllSizes(pub(super) Vec<PayloadSizes>);

impl EncodeMetric for AllSizes {
    fn encode(&self, encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        let mut all = SizeCounts::default();
        for sizes in &self.0 {
            all.join(&sizes.counts());
        }
        all.encode(encoder)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_its_bucket() {
        let check = |bytes, wanted| assert_eq!(place(bytes), wanted, "{bytes}");
        check(0, 0);
        check(250, 0);
        check(251, 1);
        check(3_000_000, 10);
        check(3_000_001, 11);
        check(usize::MAX, 11);
    }

    #[test]
    fn what_is_counted_elsewhere_is_taken_over_once() {
        let sizes = PayloadSizes::default();
        let mut counted = SizeCounts::default();
        counted.add(100);
        counted.add(300);
        sizes.raise(&counted);
        sizes.raise(&counted);
        assert_eq!(sizes.counts(), counted);
        sizes.raise(&SizeCounts::default());
        assert_eq!(sizes.counts(), counted);
        counted.add(300);
        sizes.raise(&counted);
        assert_eq!(sizes.counts(), counted);
        let observed = PayloadSizes::default();
        for bytes in [100, 300, 300] {
            observed.observe(bytes);
        }
        assert_eq!(observed.counts(), counted);
    }
}
