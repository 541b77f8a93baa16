//! What is due when, and the task that sees to it.
//!
//! *io*: it sleeps.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::select;
use tokio::sync::Notify;
use tokio::task::yield_now;
use tokio::time::sleep_until;
use tokio_util::sync::CancellationToken;

use super::Rooms;
use crate::clock;

/// Things by the time at which they are due.
#[derive(Debug)]
pub(super) struct Schedule<T> {
    due: Mutex<Due<T>>,
    /// Something was added that is due before everything else.
    earlier: Notify,
}

#[derive(Debug)]
struct Due<T> {
    /// With a number, because several may be due at one time.
    things: BTreeMap<(Instant, u64), T>,
    number: u64,
}

impl<T> Default for Schedule<T> {
    fn default() -> Self {
        Self {
            due: Mutex::new(Due {
                things: BTreeMap::new(),
                number: 0,
            }),
            earlier: Notify::new(),
        }
    }
}

impl<T> Schedule<T> {
    fn lock(&self) -> MutexGuard<'_, Due<T>> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, at: Instant, thing: T) {
        let is_first = {
            let mut due = self.lock();
            let key = (at, due.number);
            due.number = due.number.wrapping_add(1);
            due.things.insert(key, thing);
            due.things.first_key_value().map(|(first, _)| *first) == Some(key)
        };
        if is_first {
            self.earlier.notify_one();
        }
    }

    /// Something that is due by now.
    pub(super) fn take(&self, now: Instant) -> Option<T> {
        let mut due = self.lock();
        let first = due.things.first_entry()?;
        let (at, _) = *first.key();
        (at <= now).then(|| first.remove())
    }

    /// When the next is due.
    pub(super) fn next(&self) -> Option<Instant> {
        let due = self.lock();
        due.things.first_key_value().map(|((at, _), _)| *at)
    }

    /// Waits until something was added that is due before everything else. Cancel safe.
    pub(super) async fn wait(&self) {
        self.earlier.notified().await;
    }
}

/// Sends presence diffs when their time has come, until `stop` is cancelled.
///
/// Cancel safe: whoever runs it again continues.
pub async fn run(rooms: Rooms, stop: CancellationToken) {
    loop {
        let next = rooms.flush_due(clock::instant());
        // A flush may have taken a while, and the next may be due already.
        yield_now().await;
        let due = async {
            match next {
                Some(next) => sleep_until(next.into()).await,
                None => std::future::pending().await,
            }
        };
        select! {
            biased;
            () = stop.cancelled() => return,
            () = rooms.shared.registry.wait() => {}
            () = due => {}
        }
    }
}
