//! The one place between a member that does something and the members that hear of it.
//!
//! Whatever has effects on other members is a [`Said`] and goes through [`Bus::publish`]. Who enters, who receives what and
//! who asks for the state concerns this node only and never passes here.

use std::sync::Arc;
use std::time::Instant;

use super::MemberId;
use super::meta::Meta;
use super::registry::Registry;
use crate::realtime::Broadcast;
use crate::topic::Room;

/// What the members of a room are to hear, wherever they are.
#[derive(Clone, Debug)]
pub(super) enum Said {
    /// A broadcast.
    Broadcast {
        message: Arc<Broadcast>,
        /// Its sender, where it does not want to hear itself.
        except: Option<MemberId>,
    },
    /// A member is present as `meta` and as nothing else, or no longer. Each node makes its own diffs of this.
    Presence {
        member: MemberId,
        meta: Option<Arc<Meta>>,
        /// When it was heard here.
        at: Instant,
    },
}

/// Carries what is said to every node with members of the room, in the order of each sender.
#[derive(Debug, Default)]
pub(super) enum Bus {
    /// This node is the only one: what is said is heard here, and has been when publishing returns.
    #[default]
    Alone,
}

impl Bus {
    pub(super) fn publish(&self, registry: &Registry, room: &Room, said: Said) {
        match self {
            Self::Alone => registry.hear(room, said),
        }
    }
}
