//! Bindings that the catalog at hand does not allow. It may have been old when they came: whoever publishes a table and
//! subscribes to it in the next moment must not be told, for good, that there is none.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Conductor;
use crate::auth::Claims;
use crate::pipeline::subscriber::{Phase, SubscriberId};
use crate::realtime::Notice;

/// Refusals that nobody was told yet.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    /// Of those who are subscribed only.
    held: BTreeMap<SubscriberId, Held>,
    /// Bindings whose ticket is older may have been checked against the catalog before.
    current_since: u64,
}

#[derive(Debug)]
struct Held {
    text: String,
    /// Whose bindings they are, to have them checked again.
    claims: Arc<Claims>,
    /// Snapshots that began from this number on tell whether the catalog was current.
    since: u64,
}

impl Refusals {
    /// Somebody waits for a snapshot.
    pub(super) fn wait(&self) -> bool {
        !self.held.is_empty()
    }

    /// Another answer is on its way, or nobody is there to be told.
    pub(super) fn forget(&mut self, id: SubscriberId) {
        self.held.remove(&id);
    }
}

impl Conductor {
    /// Bindings that were checked are not served. From now on nothing is delivered; the subscriber is told when a snapshot
    /// has shown that they were checked against the current catalog.
    pub(super) fn refuse(&mut self, id: SubscriberId, ticket: u64, text: String) {
        self.leave_lane(id);
        self.joining.remove(&id);
        let since = self.next_number;
        let Some(subscriber) = self.subscribers.get_mut(&id) else {
            return;
        };
        subscriber.subscriptions.clear();
        subscriber.snapshot = None;
        subscriber.phase = Phase::Refused;
        let claims =
            (subscriber.next_claims.take()).unwrap_or_else(|| Arc::clone(&subscriber.claims));
        if ticket < self.refusals.current_since {
            return self.resolve(id, claims);
        }
        let held = Held {
            text,
            claims,
            since,
        };
        self.refusals.held.insert(id, held);
    }

    /// A snapshot has shown that the catalog at hand is that of the database.
    pub(super) fn tell_refusals(&mut self) {
        let begun = self.horizon_ticket;
        let told = (self.refusals.held).extract_if(.., |_, held| held.since <= begun);
        for (id, held) in told {
            if let Some(subscriber) = self.subscribers.get_mut(&id) {
                subscriber.tell(Notice::Refused(held.text));
            }
        }
    }

    /// Another catalog is at hand: what the one before did not allow is checked again.
    pub(super) fn check_refusals_again(&mut self) {
        self.refusals.current_since = self.number();
        for (id, held) in std::mem::take(&mut self.refusals.held) {
            self.resolve(id, held.claims);
        }
    }
}
