//! Who is in which room, who is present there, and what is said (protocol.md §5.1, §6).
//!
//! Requests of memberships and messages of other senders go in, with the time; notices in the members' outboxes come out. A
//! room is a topic and a privacy class. Nothing here waits: a connection takes its notices at the pace of its socket, and an
//! outbox that overflows is its connection's matter. What other nodes would have to hear passes through one place
//! (`bus.rs`), so that nothing else knows whether this node is alone.

mod bus;
mod doubt;
mod members;
mod meta;
mod presence;
mod registry;
mod schedule;
mod underway;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::log::Outbox;
use crate::realtime::{Broadcast, Entry, Notice, RoomRequest, Storing};
use crate::topic::Room;
use bus::{Bus, Said};
use doubt::{Telling, Tellings};
use members::NOTICE_BYTES;
use meta::{Meta, Refs};
use registry::Registry;
use underway::UnderWay;

pub use registry::Sizes;
pub use schedule::run;

/// A channel membership on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MemberId {
    /// The socket's number; never used twice.
    pub connection: u64,
    /// The membership's number on that socket.
    pub membership: u32,
}

/// All rooms of this node; clones are one.
///
/// Within a room all members hear everything in the same order, and from one sender in the order in which it spoke.
#[derive(Clone, Debug, Default)]
pub struct Rooms {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    registry: Registry,
    bus: Bus,
    refs: Refs,
    tellings: Tellings,
    /// How often something has changed that may decide who may send to private topics.
    sending_doubts: AtomicU64,
    under_way: UnderWay,
}

/// Over which private memberships ask again once policies have changed.
const SPREAD: Duration = Duration::from_secs(1);

impl Rooms {
    /// No rooms yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Does what a membership wants in its room. Never waits.
    ///
    /// Only a member is present or told who is: before `Enter` and after `Leave` such requests have no effect, so that nobody
    /// stays present after leaving. A member that does not receive presence is not told the state either. The requests of one
    /// membership come one after the other.
    pub fn handle(
        &self,
        now: Instant,
        member: MemberId,
        outbox: &Arc<Outbox<Notice>>,
        room: &Arc<Room>,
        request: RoomRequest,
    ) {
        let registry = &self.shared.registry;
        match request {
            RoomRequest::Enter(entry) => self.enter(member, outbox, room, entry),
            RoomRequest::EnterReplaying(entry) => {
                self.enter(member, outbox, room, entry);
                // Afterwards: what is added later is said to it as a member. Some may come both ways.
                for message in self.shared.under_way.of(room) {
                    let bytes = message.size().saturating_add(NOTICE_BYTES);
                    outbox.offer(member.membership, Notice::Broadcast(message), bytes);
                }
            }
            RoomRequest::Leave => {
                if registry.leave(member, room) {
                    self.tell_presence(now, room, member, None);
                }
            }
            RoomRequest::Say {
                message,
                to_self,
                storing,
            } => {
                if let Some(storing) = storing {
                    self.shared.under_way.add(room, &storing);
                }
                let except = (!to_self).then_some(member);
                self.publish(room, Said::Broadcast { message, except });
            }
            RoomRequest::Track { key, payload } => {
                let meta = Arc::new(Meta::new(&key, self.shared.refs.next(), &payload));
                if registry.track(member, room, &meta) {
                    self.tell_presence(now, room, member, Some(meta));
                }
            }
            RoomRequest::Untrack => {
                if registry.untrack(member, room) {
                    self.tell_presence(now, room, member, None);
                }
            }
            RoomRequest::State => registry.tell_state(member, room),
        }
    }

    fn enter(
        &self,
        member: MemberId,
        outbox: &Arc<Outbox<Notice>>,
        room: &Arc<Room>,
        entry: Entry,
    ) {
        let Shared {
            registry, tellings, ..
        } = &*self.shared;
        registry.enter(member, outbox, room, entry.receives);
        // Afterwards: what changes later is told to it as a member.
        if entry.asked.is_some_and(|asked| tellings.since(asked)) {
            let notice = Notice::Recheck(Duration::ZERO);
            outbox.offer(member.membership, notice, NOTICE_BYTES);
        }
    }

    /// Says something that no member said: over HTTP, or from the database. All members hear it.
    pub fn say(&self, room: &Room, message: &Arc<Broadcast>) {
        let message = Arc::clone(message);
        let except = None;
        self.publish(room, Said::Broadcast { message, except });
    }

    /// The same with a message that is being stored as long as `storing` is held.
    pub fn say_stored(&self, room: &Room, storing: &Arc<Storing>) {
        self.shared.under_way.add(room, storing);
        self.say(room, storing.message());
    }

    /// Tells every private membership to look at its permissions again; they spread that over a second.
    pub fn recheck(&self, now: Instant) {
        self.doubt_sending();
        // Before they are told, as in `doubt`: who enters meanwhile hears of it in one way or the other.
        self.shared.tellings.note(now);
        self.shared.registry.recheck(SPREAD);
    }

    /// Something has committed that may decide who may read private topics: all private memberships are told to look at
    /// their permissions again, at once unless they are many or were told just now.
    pub fn doubt(&self, now: Instant) {
        self.doubt_sending();
        let registry = &self.shared.registry;
        match self.shared.tellings.doubt(now, registry.sizes().members) {
            Telling::Now(within) => registry.recheck(within),
            Telling::Later => registry.wake(),
        }
    }

    /// The same about who may send and nothing else. Nobody is told: each connection looks at [`Self::sending_doubts`]
    /// before it takes a frame.
    pub fn doubt_sending(&self) {
        self.shared.sending_doubts.fetch_add(1, Ordering::Release);
    }

    /// How often there was a doubt that concerns who may send: one about reading does as well.
    #[must_use]
    pub fn sending_doubts(&self) -> u64 {
        self.shared.sending_doubts.load(Ordering::Acquire)
    }

    /// Sends the presence diffs whose time has come, of a few rooms at most, tells what [`Self::doubt`] has put off, and
    /// says when to call again: at once if more is due. Calling early is harmless.
    #[must_use]
    pub fn flush_due(&self, now: Instant) -> Option<Instant> {
        let Shared {
            registry, tellings, ..
        } = &*self.shared;
        if let Some(Telling::Now(within)) = tellings.take(now, registry.sizes().members) {
            registry.recheck(within);
        }
        let next = registry.flush_due(now);
        next.into_iter().chain(tellings.next()).min()
    }

    /// How much there is.
    #[must_use]
    pub fn sizes(&self) -> Sizes {
        self.shared.registry.sizes()
    }

    /// The member is present as `meta`, or not any more.
    fn tell_presence(&self, at: Instant, room: &Room, member: MemberId, meta: Option<Arc<Meta>>) {
        self.publish(room, Said::Presence { member, meta, at });
    }

    fn publish(&self, room: &Room, said: Said) {
        self.shared.bus.publish(&self.shared.registry, room, said);
    }
}

/// Entries for which a map keeps its memory.
const CAPACITY_KEPT: usize = 64;

/// Gives memory back once most of it is unused; costs a constant per removed entry.
fn shrink<K: Eq + Hash, V>(map: &mut HashMap<K, V>) {
    if map.capacity() > CAPACITY_KEPT && map.len() < map.capacity() / 4 {
        map.shrink_to(map.len().saturating_mul(2));
    }
}
