//! The members of one room on this node, and what reaches their outboxes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::meta::Meta;
use super::presence::{Due, Presence, window};
use super::{MemberId, shrink};
use crate::log::Outbox;
use crate::realtime::{Broadcast, Notice, PresenceDiff, PresenceState, Receives};
use crate::topic::Topic;

/// What a notice costs in an outbox beside the message that it shares with others, so that small ones are bounded too.
pub(super) const NOTICE_BYTES: usize = 64;

/// The members of one room. Whoever holds it alone decides the order in which all of them hear.
#[derive(Debug)]
pub(super) struct Members {
    topic: Topic,
    members: HashMap<MemberId, Member>,
    /// Made when somebody is present for the first time.
    presence: Option<Box<Presence>>,
    /// It was empty and is being removed; who wants to enter needs another.
    closed: bool,
}

#[derive(Debug)]
struct Member {
    outbox: Arc<Outbox<Notice>>,
    receives: Receives,
    tracked: Option<Arc<Meta>>,
}

/// What a member that left leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Left {
    /// It was present.
    pub(super) tracked: bool,
    /// It was the last: the room takes nobody any more.
    pub(super) last: bool,
}

/// What tracking has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tracking {
    /// Nothing: it says what was said before, or no member says it.
    Unchanged,
    /// The member was not present before.
    First,
    /// The member was present as something else.
    Again,
}

impl Members {
    pub(super) fn new(topic: Topic) -> Self {
        Self {
            topic,
            members: HashMap::new(),
            presence: None,
            closed: false,
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Whether it was no member before.
    pub(super) fn enter(
        &mut self,
        id: MemberId,
        outbox: &Arc<Outbox<Notice>>,
        receives: Receives,
    ) -> bool {
        if let Some(member) = self.members.get_mut(&id) {
            member.receives = receives;
            return false;
        }
        let member = Member {
            outbox: Arc::clone(outbox),
            receives,
            tracked: None,
        };
        self.members.insert(id, member);
        true
    }

    pub(super) fn leave(&mut self, id: MemberId) -> Option<Left> {
        let member = self.members.remove(&id)?;
        shrink(&mut self.members);
        self.closed = self.members.is_empty();
        Some(Left {
            tracked: member.tracked.is_some(),
            last: self.closed,
        })
    }

    /// Notes what the member is present as.
    pub(super) fn track(&mut self, id: MemberId, meta: &Arc<Meta>) -> Tracking {
        let Some(member) = self.members.get_mut(&id) else {
            return Tracking::Unchanged;
        };
        match member.tracked.replace(Arc::clone(meta)) {
            Some(before) if before.says_the_same_as(meta) => {
                member.tracked = Some(before);
                Tracking::Unchanged
            }
            Some(_) => Tracking::Again,
            None => Tracking::First,
        }
    }

    /// Whether the member was present until now.
    pub(super) fn untrack(&mut self, id: MemberId) -> bool {
        let member = self.members.get_mut(&id);
        member.is_some_and(|member| member.tracked.take().is_some())
    }

    pub(super) fn broadcast(&self, message: &Arc<Broadcast>, except: Option<MemberId>) {
        let bytes = message.size().saturating_add(NOTICE_BYTES);
        for (id, member) in &self.members {
            if member.receives.broadcasts && except != Some(*id) {
                let notice = Notice::Broadcast(Arc::clone(message));
                member.outbox.offer(id.membership, notice, bytes);
            }
        }
    }

    pub(super) fn recheck(&self, within: Duration) {
        for (id, member) in &self.members {
            let outbox = &member.outbox;
            outbox.offer(id.membership, Notice::Recheck(within), NOTICE_BYTES);
        }
    }

    /// A member, of this node or another, is present as `meta` or not any more. Returns when [`Self::end_window`] is to be
    /// called.
    pub(super) fn presence_changed(
        &mut self,
        now: Instant,
        id: MemberId,
        meta: Option<Arc<Meta>>,
    ) -> Option<Instant> {
        let presence = self.presence.get_or_insert_default();
        presence.set(id, meta);
        let due = presence.due(now);
        self.tell(now, due)
    }

    /// The time of [`Self::presence_changed`] has come. Returns when to call again.
    pub(super) fn end_window(&mut self, now: Instant) -> Option<Instant> {
        let due = self.presence.as_mut()?.due_at_end(now);
        self.tell(now, due)
    }

    fn tell(&mut self, now: Instant, due: Due) -> Option<Instant> {
        match due {
            Due::Nothing => {}
            Due::At(at) => return Some(at),
            Due::Now => {
                let until = now + window(self.members.len());
                let diff = self.presence.as_mut()?.flush(until);
                let diff = Arc::new(PresenceDiff::new(&self.topic, diff.payload, diff.events));
                let bytes = diff.size().saturating_add(NOTICE_BYTES);
                for (id, member) in &self.members {
                    if member.receives.presence {
                        let notice = Notice::PresenceDiff(Arc::clone(&diff));
                        member.outbox.offer(id.membership, notice, bytes);
                    }
                }
            }
        }
        None
    }

    /// Tells the member who is present as of the last diff; the next one continues from there.
    pub(super) fn tell_state(&mut self, id: MemberId) {
        let Some(member) = self.members.get(&id) else {
            return;
        };
        if member.receives.presence {
            let state = match &mut self.presence {
                Some(presence) => presence.state(),
                None => Arc::from("{}"),
            };
            let bytes = state.len().saturating_add(NOTICE_BYTES);
            let notice = Notice::PresenceState(PresenceState(state));
            member.outbox.offer(id.membership, notice, bytes);
        }
    }
}
