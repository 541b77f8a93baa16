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

    /// Wakes [`Self::wait`].
    pub(super) fn wake(&self) {
        self.earlier.notify_one();
    }

    /// Waits until something was added that is due before everything else. Cancel safe.
    pub(super) async fn wait(&self) {
        self.earlier.notified().await;
    }
}

/// Sends presence diffs, and tells members to ask again, when the time has come, until `stop` is cancelled.
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use serde_json::value::RawValue;
    use tokio_util::task::TaskTracker;

    use super::*;
    use crate::log::Outbox;
    use crate::realtime::{Entry, Notice, Receives, RoomRequest};
    use crate::rooms::MemberId;
    use crate::topic::{Room, Topic};

    fn track(key: &str) -> RoomRequest {
        RoomRequest::Track {
            key: key.into(),
            payload: RawValue::from_string("{}".to_owned()).unwrap(),
        }
    }

    #[test]
    fn what_is_due_first_comes_first() {
        let (schedule, now) = (Schedule::default(), clock::instant());
        let after = |milliseconds| now + Duration::from_millis(milliseconds);
        for (at, thing) in [(20, "b"), (10, "a"), (20, "c")] {
            schedule.add(after(at), thing);
        }
        assert_eq!(schedule.take(after(9)), None);
        assert_eq!(schedule.next(), Some(after(10)));
        let taken: Vec<&str> = std::iter::from_fn(|| schedule.take(after(20))).collect();
        assert_eq!(taken, ["a", "b", "c"]);
        assert_eq!(schedule.next(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_task_sends_what_is_due_and_ends() {
        let (rooms, outbox) = (Rooms::new(), Arc::new(Outbox::<Notice>::new()));
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        tasks.spawn(run(rooms.clone(), stop.clone()));
        let room = Arc::new(Room {
            topic: Topic::of_sub_topic("a").unwrap(),
            private: false,
        });
        let member = MemberId {
            connection: 1,
            membership: 1,
        };
        let everything = Receives {
            broadcasts: true,
            presence: true,
        };
        for request in [
            RoomRequest::Enter(Entry::open(everything)),
            track("told at once"),
            track("told later"),
        ] {
            // The task is asleep, without anything to wait for, when the window opens.
            tokio::time::sleep(Duration::from_millis(1)).await;
            rooms.handle(clock::instant(), member, &outbox, &room, request);
        }
        assert!(outbox.pop(1).is_some());
        assert!(outbox.pop(1).is_none());
        tokio::time::sleep(Duration::from_millis(60)).await;
        assert!(outbox.pop(1).is_some());
        stop.cancel();
        tasks.close();
        tasks.wait().await;
    }
}
