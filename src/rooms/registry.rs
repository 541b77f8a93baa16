//! The rooms of this node and who is in them.
//!
//! Two kinds of locks, never held together: of a part of the rooms, while one is looked up, and of one room. A room that
//! became empty is closed first, under its own lock, and taken out afterwards.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::bus::Said;
use super::members::{Members, Tracking};
use super::meta::Meta;
use super::schedule::Schedule;
use super::{MemberId, shrink};
use crate::log::Outbox;
use crate::realtime::{Notice, Receives};
use crate::topic::Room;

/// Parts of the rooms beside the first; together more than there are cores, so that two seldom want the same.
const SHARDS_BESIDE: usize = 31;

/// Rooms whose diffs are sent in one go: with thousands of members each takes about a millisecond.
const FLUSHES_MAX: usize = 8;

/// A room's members; outlives the room where somebody is about to look.
type Place = Arc<Mutex<Members>>;

type Shard = Mutex<HashMap<Arc<Room>, Place>>;

/// All rooms of this node.
#[derive(Debug, Default)]
pub(super) struct Registry {
    first: Shard,
    beside: [Shard; SHARDS_BESIDE],
    hasher: RandomState,
    schedule: Schedule<Place>,
    rooms: AtomicUsize,
    members: AtomicUsize,
    tracked: AtomicUsize,
}

/// How much there is on this node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Rooms with members.
    pub rooms: usize,
    /// Members of all rooms.
    pub members: usize,
    /// Members that are present.
    pub tracked: usize,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn add(count: &AtomicUsize) {
    count.fetch_add(1, Ordering::Relaxed);
}

fn subtract(count: &AtomicUsize) {
    count.fetch_sub(1, Ordering::Relaxed);
}

impl Registry {
    pub(super) fn sizes(&self) -> Sizes {
        Sizes {
            rooms: self.rooms.load(Ordering::Relaxed),
            members: self.members.load(Ordering::Relaxed),
            tracked: self.tracked.load(Ordering::Relaxed),
        }
    }

    pub(super) fn enter(
        &self,
        member: MemberId,
        outbox: &Arc<Outbox<Notice>>,
        room: &Arc<Room>,
        receives: Receives,
    ) {
        loop {
            let place = self.find_or_make(room);
            let mut members = lock(&place);
            if !members.is_closed() {
                if members.enter(member, outbox, receives) {
                    add(&self.members);
                }
                return;
            }
            drop(members);
            // Its last member has not come to this yet.
            self.remove(room, &place);
        }
    }

    /// Whether the member was present.
    pub(super) fn leave(&self, member: MemberId, room: &Room) -> bool {
        let Some(place) = self.find(room) else {
            return false;
        };
        let Some(left) = lock(&place).leave(member) else {
            return false;
        };
        subtract(&self.members);
        if left.tracked {
            subtract(&self.tracked);
        }
        if left.last {
            self.remove(room, &place);
        }
        left.tracked
    }

    /// Whether others are to be told.
    pub(super) fn track(&self, member: MemberId, room: &Room, meta: &Arc<Meta>) -> bool {
        let Some(place) = self.find(room) else {
            return false;
        };
        let tracking = lock(&place).track(member, meta);
        if tracking == Tracking::First {
            add(&self.tracked);
        }
        tracking != Tracking::Unchanged
    }

    /// Whether others are to be told.
    pub(super) fn untrack(&self, member: MemberId, room: &Room) -> bool {
        let place = self.find(room);
        let was_tracked = place.is_some_and(|place| lock(&place).untrack(member));
        if was_tracked {
            subtract(&self.tracked);
        }
        was_tracked
    }

    pub(super) fn tell_state(&self, member: MemberId, room: &Room) {
        if let Some(place) = self.find(room) {
            lock(&place).tell_state(member);
        }
    }

    /// Lets the members of this node hear what somebody said, here or elsewhere.
    pub(super) fn hear(&self, room: &Room, said: Said) {
        let Some(place) = self.find(room) else {
            return;
        };
        match said {
            Said::Broadcast { message, except } => lock(&place).broadcast(&message, except),
            Said::Presence { member, meta, at } => {
                let due = lock(&place).presence_changed(at, member, meta);
                if let Some(due) = due {
                    self.schedule.add(due, place);
                }
            }
        }
    }

    /// Tells all members of private rooms to look at their permissions again within this time.
    pub(super) fn recheck(&self, within: Duration) {
        for shard in self.beside.iter().chain([&self.first]) {
            let places: Vec<Place> = lock(shard)
                .iter()
                .filter(|(room, _)| room.private)
                .map(|(_, place)| Arc::clone(place))
                .collect();
            for place in places {
                lock(&place).recheck(within);
            }
        }
    }

    pub(super) fn flush_due(&self, now: Instant) -> Option<Instant> {
        for _ in 0..FLUSHES_MAX {
            let Some(place) = self.schedule.take(now) else {
                break;
            };
            let again = lock(&place).end_window(now);
            if let Some(again) = again {
                self.schedule.add(again, place);
            }
        }
        self.schedule.next()
    }

    /// Something else is due that [`Self::wait`] is to be woken for.
    pub(super) fn wake(&self) {
        self.schedule.wake();
    }

    /// Waits until something is due earlier than was known. Cancel safe.
    pub(super) async fn wait(&self) {
        self.schedule.wait().await;
    }

    fn shard(&self, room: &Room) -> &Shard {
        let shards = u64::try_from(SHARDS_BESIDE)
            .unwrap_or(u64::MAX)
            .saturating_add(1);
        let number = self.hasher.hash_one(room).checked_rem(shards).unwrap_or(0);
        let number = usize::try_from(number).unwrap_or(usize::MAX);
        // One number more than there are beside the first is the first's.
        self.beside.get(number).unwrap_or(&self.first)
    }

    fn find(&self, room: &Room) -> Option<Place> {
        lock(self.shard(room)).get(room).cloned()
    }

    fn find_or_make(&self, room: &Arc<Room>) -> Place {
        let mut shard = lock(self.shard(room));
        let place = shard.entry(Arc::clone(room)).or_insert_with(|| {
            add(&self.rooms);
            Arc::new(Mutex::new(Members::new(room.topic.clone())))
        });
        Arc::clone(place)
    }

    /// Removes a room that was closed, unless it is gone already and others have made it anew.
    fn remove(&self, room: &Room, closed: &Place) {
        let mut shard = lock(self.shard(room));
        if shard
            .get(room)
            .is_some_and(|place| Arc::ptr_eq(place, closed))
        {
            shard.remove(room);
            shrink(&mut shard);
            subtract(&self.rooms);
        }
    }
}
