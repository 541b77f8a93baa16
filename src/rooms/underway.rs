//! What was said and is being stored. Who joins to have stored messages replayed may find such a one neither among them nor
//! live: it was said before the join, and is stored after the replay is read.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::realtime::{Broadcast, Storing};
use crate::topic::Room;

/// Messages that are being stored, of all rooms, in the order in which they were said; some perhaps are no longer. As many as
/// may be asked of the database at once, and those that were since the last was added.
#[derive(Debug, Default)]
pub(super) struct UnderWay {
    messages: Mutex<Vec<(Room, Weak<Storing>)>>,
}

impl UnderWay {
    fn messages(&self) -> MutexGuard<'_, Vec<(Room, Weak<Storing>)>> {
        self.messages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A message is about to be said and stored.
    pub(super) fn add(&self, room: &Room, storing: &Arc<Storing>) {
        let mut messages = self.messages();
        messages.retain(|(_, storing)| storing.strong_count() > 0);
        messages.push((room.clone(), Arc::downgrade(storing)));
    }

    /// What is being stored of a room.
    pub(super) fn of(&self, room: &Room) -> Vec<Arc<Broadcast>> {
        let messages = self.messages();
        let of_room = messages.iter().filter(|(other, _)| other == room);
        let held = of_room.filter_map(|(_, storing)| storing.upgrade());
        held.map(|storing| Arc::clone(storing.message())).collect()
    }
}
