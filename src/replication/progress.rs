//! What may be confirmed to the server, and when.
//!
//! Goes in: positions received, handed down and processed, keepalives, the time. Comes out: feedback that is due. Never
//! confirms a commit that downstream still needs replayed, and never moves backwards. Follows the Postgres manual,
//! "Streaming Replication Protocol", "Standby status update".

use std::time::{Duration, Instant};

use crate::change::Lsn;

/// Shortest time between two status updates that nobody asked for.
const FEEDBACK_INTERVAL_MIN: Duration = Duration::from_secs(1);

/// One status update for the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feedback {
    /// Last WAL position received; ≥ `flushed`.
    pub written: Lsn,
    /// The server may forget everything before this position. An *end* LSN.
    pub flushed: Lsn,
}

/// WAL that is kept although it was processed: another process that begins at the slot's position reads it again, and so
/// knows what was delivered shortly before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trail {
    /// At most so much.
    pub bytes_max: u64,
    /// Nothing before this position is of use: another series of positions ended there.
    pub from: Lsn,
}

/// How far the stream has come: received, handed down, processed.
#[derive(Clone, Debug)]
pub struct Progress {
    status_interval: Duration,
    trail: Trail,
    start: Lsn,
    received: Lsn,
    handed_down: Lsn,
    processed: Lsn,
    sent: Option<(Instant, Feedback)>,
    reply_requested: bool,
}

impl Progress {
    /// Progress of a session that starts at `start`, which was confirmed before. Feedback goes out at least every
    /// `status_interval`, and trails by `trail`.
    #[must_use]
    pub const fn new(start: Lsn, status_interval: Duration, trail: Trail) -> Self {
        Self {
            status_interval,
            trail,
            start,
            received: start,
            handed_down: start,
            processed: start,
            sent: None,
            reply_requested: false,
        }
    }

    /// WAL up to `wal_end` arrived (XLogData).
    pub fn receive(&mut self, wal_end: Lsn) {
        self.received = self.received.max(wal_end);
    }

    /// A keepalive arrived. `in_transaction`: see [`Assembler::in_transaction`](super::assembler::Assembler::in_transaction).
    pub fn receive_keepalive(&mut self, wal_end: Lsn, reply_requested: bool, in_transaction: bool) {
        self.receive(wal_end);
        self.reply_requested |= reply_requested;
        if !in_transaction && self.is_idle() {
            self.processed = self.processed.max(wal_end);
        }
    }

    /// A transaction that ends at `end_lsn` went downstream; until [`Self::process`] says so it must stay replayable.
    pub fn hand_down(&mut self, end_lsn: Lsn) {
        self.handed_down = self.handed_down.max(end_lsn);
    }

    /// Downstream no longer needs anything before `end_lsn` replayed.
    pub fn process(&mut self, end_lsn: Lsn) {
        self.processed = self.processed.max(end_lsn);
    }

    /// Whether downstream is done with everything that it was handed.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.processed >= self.handed_down
    }

    /// What would be sent now.
    #[must_use]
    pub fn feedback(&self) -> Feedback {
        Feedback {
            written: self.received.max(self.processed),
            flushed: self.flushed(),
        }
    }

    fn flushed(&self) -> Lsn {
        let trailing = self.processed.bytes().saturating_sub(self.trail.bytes_max);
        Lsn::new(trailing)
            .max(self.trail.from)
            .min(self.processed)
            .max(self.start)
    }

    /// When [`Self::poll_feedback`] will have something to send; `None` for at once.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        let (sent_at, sent) = self.sent?;
        if self.reply_requested {
            return None;
        }
        let interval = if sent == self.feedback() {
            self.status_interval
        } else {
            FEEDBACK_INTERVAL_MIN.min(self.status_interval)
        };
        sent_at.checked_add(interval)
    }

    /// The status update that is due at `now`, if one is. It counts as sent.
    #[must_use]
    pub fn poll_feedback(&mut self, now: Instant) -> Option<Feedback> {
        if self.next_timeout().is_some_and(|due| now < due) {
            return None;
        }
        let feedback = self.feedback();
        self.sent = Some((now, feedback));
        self.reply_requested = false;
        Some(feedback)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(10);

    #[expect(
        clippy::disallowed_methods,
        reason = "an Instant can be had from nowhere else; the tests only add to it"
    )]
    fn instant() -> Instant {
        Instant::now()
    }

    fn flushed(progress: &Progress) -> u64 {
        progress.feedback().flushed.bytes()
    }

    fn progress() -> Progress {
        trailing(0, 0)
    }

    fn trailing(bytes_max: u64, from: u64) -> Progress {
        let trail = Trail {
            bytes_max,
            from: Lsn::new(from),
        };
        Progress::new(Lsn::new(100), INTERVAL, trail)
    }

    #[test]
    fn the_trail_is_confirmed_late_and_never_backwards() {
        let mut progress = trailing(50, 0);
        progress.process(Lsn::new(120));
        assert_eq!(flushed(&progress), 100);
        progress.process(Lsn::new(220));
        assert_eq!(flushed(&progress), 170);
        assert_eq!(progress.feedback().written, Lsn::new(220));
        assert!(progress.is_idle());
    }

    #[test]
    fn what_another_series_left_behind_is_no_trail() {
        let mut progress = trailing(1000, 300);
        progress.process(Lsn::new(200));
        assert_eq!(flushed(&progress), 200);
        progress.process(Lsn::new(400));
        assert_eq!(flushed(&progress), 300);
    }

    #[test]
    fn what_was_handed_down_is_confirmed_only_when_processed() {
        let mut progress = progress();
        progress.receive(Lsn::new(220));
        progress.hand_down(Lsn::new(220));
        assert_eq!(flushed(&progress), 100);
        assert_eq!(progress.feedback().written, Lsn::new(220));
        progress.process(Lsn::new(220));
        assert_eq!(flushed(&progress), 220);
    }

    #[test]
    fn keepalives_are_confirmed_when_nothing_is_pending() {
        let mut progress = progress();
        progress.receive_keepalive(Lsn::new(300), false, false);
        assert_eq!(flushed(&progress), 300);
        progress.hand_down(Lsn::new(400));
        progress.receive_keepalive(Lsn::new(500), false, false);
        assert_eq!(flushed(&progress), 300);
        progress.process(Lsn::new(400));
        assert_eq!(flushed(&progress), 400);
        progress.receive_keepalive(Lsn::new(500), false, false);
        assert_eq!(flushed(&progress), 500);
    }

    #[test]
    fn a_keepalive_inside_a_transaction_confirms_nothing() {
        let mut progress = progress();
        progress.receive_keepalive(Lsn::new(300), false, true);
        assert_eq!(flushed(&progress), 100);
    }

    #[test]
    fn nothing_moves_backwards() {
        let mut progress = progress();
        progress.receive_keepalive(Lsn::new(300), false, false);
        progress.process(Lsn::new(200));
        progress.receive(Lsn::new(50));
        progress.receive_keepalive(Lsn::new(7), false, false);
        assert_eq!(
            progress.feedback(),
            Feedback {
                written: Lsn::new(300),
                flushed: Lsn::new(300)
            }
        );
    }

    #[test]
    fn a_position_processed_beyond_what_was_received_counts_as_written() {
        let mut progress = progress();
        progress.process(Lsn::new(900));
        assert_eq!(progress.feedback().written, Lsn::new(900));
    }

    #[test]
    fn feedback_is_due_after_a_second_when_something_changed_and_else_after_the_interval() {
        let start = instant();
        let mut progress = progress();
        assert!(progress.poll_feedback(start).is_some(), "first one at once");
        assert_eq!(progress.poll_feedback(start), None);
        assert_eq!(progress.next_timeout(), Some(start + INTERVAL));
        progress.process(Lsn::new(200));
        assert_eq!(
            progress.next_timeout(),
            Some(start + Duration::from_secs(1))
        );
        assert_eq!(
            progress.poll_feedback(start + Duration::from_millis(999)),
            None
        );
        let second = start + Duration::from_secs(1);
        assert!(progress.poll_feedback(second).is_some());
        assert_eq!(progress.poll_feedback(second + INTERVAL / 2), None);
        assert!(progress.poll_feedback(second + INTERVAL).is_some());
    }

    #[test]
    fn a_requested_reply_is_due_at_once_and_once() {
        let start = instant();
        let mut progress = progress();
        assert!(progress.poll_feedback(start).is_some());
        progress.receive_keepalive(Lsn::new(1), true, true);
        assert!(progress.poll_feedback(start).is_some());
        assert_eq!(progress.poll_feedback(start), None);
    }
}
