//! Memberships that wait for broadcasts from the database (protocol.md §3.5).
//!
//! Part of a connection, not a task of its own: nobody waits on most sockets, and then it costs an empty list.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::pipeline::Status;

/// protocol.md §3.5.
const PATIENCE: Duration = Duration::from_secs(60);

/// Who waits on one connection.
#[derive(Debug, Default)]
pub(super) struct Awaiting {
    /// There while somebody waits.
    status: Option<watch::Receiver<Status>>,
    /// Memberships and when they are told that it took too long, in that order.
    waiting: VecDeque<(u32, Instant)>,
}

impl Awaiting {
    /// Adds a membership. Beyond `waiting_max`, which no more can live at a time, the oldest is forgotten: it has left.
    pub(super) fn add(
        &mut self,
        now: Instant,
        membership: u32,
        status: &watch::Receiver<Status>,
        waiting_max: usize,
    ) {
        self.status.get_or_insert_with(|| status.clone());
        while self.waiting.len() >= waiting_max.max(1) {
            self.waiting.pop_front();
        }
        let until = now.checked_add(PATIENCE).unwrap_or(now);
        self.waiting.push_back((membership, until));
    }

    /// Waits until [`Self::answer`] may have an answer before its time; for ever while nobody waits.
    ///
    /// Cancel safe.
    pub(super) async fn wait(&mut self) {
        let flows = match &mut self.status {
            Some(status) => status.wait_for(|status| status.broadcasts).await.is_ok(),
            None => false,
        };
        if !flows {
            // The pipeline has ended; the connection hears of it otherwise.
            std::future::pending::<()>().await;
        }
    }

    /// When [`Self::answer`] has an answer at the latest.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.waiting.front().map(|(_, until)| *until)
    }

    /// A membership that can be told, and what; call until there is none.
    pub(super) fn answer(&mut self, now: Instant) -> Option<(u32, bool)> {
        let flows = self
            .status
            .as_ref()
            .is_some_and(|status| status.borrow().broadcasts);
        let (membership, _) = self
            .waiting
            .pop_front_if(|(_, until)| flows || *until <= now)?;
        if self.waiting.is_empty() {
            self.status = None;
        }
        Some((membership, flows))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    fn status(broadcasts: bool) -> Status {
        Status {
            broadcasts,
            ..Status::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn all_are_told_as_soon_as_broadcasts_flow() {
        let (pipeline, status_in) = watch::channel(status(false));
        let mut awaiting = Awaiting::default();
        let now = clock::instant();
        awaiting.add(now, 1, &status_in, 10);
        awaiting.add(now, 2, &status_in, 10);
        assert_eq!(awaiting.answer(now), None);
        let early = tokio::time::timeout(Duration::from_secs(1), awaiting.wait()).await;
        assert!(early.is_err(), "nothing has changed");
        pipeline.send_replace(status(true));
        awaiting.wait().await;
        assert_eq!(awaiting.answer(now), Some((1, true)));
        assert_eq!(awaiting.answer(now), Some((2, true)));
        assert_eq!(awaiting.answer(now), None);
        let idle = tokio::time::timeout(Duration::from_secs(1), awaiting.wait()).await;
        assert!(idle.is_err(), "nobody waits");
        // One that comes later is told at once.
        awaiting.add(now, 3, &status_in, 10);
        assert_eq!(awaiting.answer(now), Some((3, true)));
    }

    #[test]
    fn who_waited_a_minute_is_told_so() {
        let (_pipeline, status_in) = watch::channel(status(false));
        let mut awaiting = Awaiting::default();
        let now = clock::instant();
        awaiting.add(now, 1, &status_in, 10);
        awaiting.add(now + Duration::from_secs(1), 2, &status_in, 10);
        let due = awaiting.next_timeout().unwrap();
        assert_eq!(due, now + PATIENCE);
        assert_eq!(awaiting.answer(due), Some((1, false)));
        assert_eq!(awaiting.answer(due), None);
        assert_eq!(awaiting.next_timeout(), Some(due + Duration::from_secs(1)));
    }

    #[test]
    fn joining_and_leaving_does_not_make_the_list_longer() {
        let (_pipeline, status_in) = watch::channel(status(false));
        let mut awaiting = Awaiting::default();
        let now = clock::instant();
        for membership in 0..100 {
            awaiting.add(now, membership, &status_in, 3);
        }
        let left: Vec<_> = std::iter::from_fn(|| awaiting.answer(now + PATIENCE)).collect();
        assert_eq!(left, [(97, false), (98, false), (99, false)]);
    }
}
