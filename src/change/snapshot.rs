//! Snapshots: which transactions a reader sees.
//!
//! Follows the Postgres manual, "Transaction ID and Snapshot Information Functions". Transaction ids of the stream
//! have 32 bits and those of a snapshot 64; they are compared near the snapshot's `xmax`, which is right as long as
//! the two are less than 2³¹ transactions apart, as Postgres itself requires.

use std::str::FromStr;

use super::Xid;

/// The text form of `pg_current_snapshot()`, parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    xmin: u64,
    xmax: u64,
    /// In progress, ascending.
    running: Box<[u64]>,
}

/// The text is no snapshot such as `10:20:10,14,15`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a snapshot such as 10:20:10,14,15")]
pub struct ParseSnapshotError;

impl Snapshot {
    /// Whether the *committed* transaction `xid` is visible in this snapshot.
    #[must_use]
    pub fn sees(&self, xid: Xid) -> bool {
        let full = self.widen(xid);
        full < self.xmin || (full < self.xmax && self.running.binary_search(&full).is_err())
    }

    /// Whether every transaction that began no later than `xid` has ended and is visible if it committed.
    #[must_use]
    pub fn sees_all_to(&self, xid: Xid) -> bool {
        self.widen(xid) < self.xmin
    }

    fn widen(&self, xid: Xid) -> u64 {
        #[expect(
            clippy::as_conversions,
            reason = "the low 32 bits are meant; the difference wraps"
        )]
        let distance = xid.0.wrapping_sub(self.xmax as u32) as i32;
        self.xmax.saturating_add_signed(i64::from(distance))
    }
}

impl FromStr for Snapshot {
    type Err = ParseSnapshotError;

    fn from_str(text: &str) -> Result<Self, ParseSnapshotError> {
        let number = |digits: &str| {
            digits
                .parse::<u64>()
                .map_err(|_not_a_number| ParseSnapshotError)
        };
        let mut fields = text.splitn(3, ':');
        let mut field = || fields.next().ok_or(ParseSnapshotError);
        let (xmin, xmax, list) = (number(field()?)?, number(field()?)?, field()?);
        let mut running = match list {
            "" => Vec::new(),
            list => list.split(',').map(number).collect::<Result<Vec<_>, _>>()?,
        };
        running.sort_unstable();
        Ok(Self {
            xmin,
            xmax,
            running: running.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(snapshot: &str, visible: &[u32], hidden: &[u32]) {
        let snapshot: Snapshot = snapshot.parse().unwrap();
        for xid in visible {
            assert!(snapshot.sees(Xid(*xid)), "{xid} is visible");
        }
        for xid in hidden {
            assert!(!snapshot.sees(Xid(*xid)), "{xid} is hidden");
        }
    }

    #[test]
    fn what_ended_before_is_visible_and_what_runs_is_not() {
        check("10:20:10,14", &[3, 9, 11, 19], &[10, 14, 20, 21]);
        check("10:10:", &[9], &[10]);
    }

    #[test]
    fn everything_is_seen_before_what_runs_longest() {
        let snapshot: Snapshot = "10:20:10,14".parse().unwrap();
        assert!(snapshot.sees_all_to(Xid(9)));
        assert!(!snapshot.sees_all_to(Xid(10)));
        assert!(!snapshot.sees_all_to(Xid(11)));
    }

    #[test]
    fn ids_are_compared_across_the_wrap_of_32_bits() {
        check(
            "4294967290:4294967300:4294967298",
            &[4294967289, 4294967295, 3],
            &[2, 4, 5],
        );
    }

    #[test]
    fn what_is_no_snapshot_is_refused() {
        for text in ["", "1", "1:2", "a:2:", "1:2:x"] {
            assert_eq!(
                text.parse::<Snapshot>(),
                Err(ParseSnapshotError),
                "{text:?}"
            );
        }
    }
}
