//! The channels of one socket that want to know when broadcasts from the database flow (protocol.md §3.5).
//!
//! They flow through the slot that changes flow through.

use std::future::pending;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::pipeline::Status;

/// How long a channel waits.
const WITHIN: Duration = Duration::from_secs(60);

/// Channels that wait; mostly none.
#[derive(Default)]
pub(super) struct Awaiting {
    status: Option<watch::Receiver<Status>>,
    /// Memberships, and how long they wait; also those that have left meanwhile, so at most the joins of a minute.
    members: Vec<(u32, Instant)>,
}

impl Awaiting {
    /// The membership waits from now on.
    pub(super) fn add(&mut self, membership: u32, now: Instant, status: &watch::Receiver<Status>) {
        let status = self.status.get_or_insert_with(|| status.clone());
        // What the channel is told first is the status as it is.
        status.mark_changed();
        self.members.push((membership, now + WITHIN));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// When [`Self::take`] has something to say although nothing happened.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.members.iter().map(|(_, until)| *until).min()
    }

    /// Waits for another status.
    ///
    /// Cancel safe.
    pub(super) async fn changed(&mut self) {
        let changed = match &mut self.status {
            Some(status) => status.changed().await.is_ok(),
            None => false,
        };
        if !changed {
            // The pipeline is gone, and the socket is told so elsewhere.
            pending::<()>().await;
        }
    }

    /// Those who need wait no longer, and whether broadcasts flow.
    pub(super) fn take(&mut self, now: Instant) -> Vec<(u32, bool)> {
        if self.is_empty() {
            return Vec::new();
        }
        let ready = self
            .status
            .as_ref()
            .is_some_and(|status| status.borrow().ready);
        let done = self
            .members
            .extract_if(.., |(_, until)| ready || *until <= now);
        done.map(|(membership, _)| (membership, ready)).collect()
    }
}
