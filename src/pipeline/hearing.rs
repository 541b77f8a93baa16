//! Who hears what the database broadcasts and may come back for it: how far each has got (protocol.md §11). Plain values.
//!
//! What is live reaches a listener in its room and never passes here; only what it missed does.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use super::history::Position;
use super::replay::Restoring;
use super::sessions::{Holder, NOWHERE, Resume, Sessions};
use super::subscriber::SubscriberId;
use crate::auth::Claims;
use crate::change::{Oid, PgTime};
use crate::log::{Outbox, Posting};
use crate::realtime::{Broadcast, Notice, ResyncReason};
use crate::topic::Room;

/// What a notice costs beside the message that it brings.
const NOTICE_BYTES: usize = 64;

/// How far a listener is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// It waits for a snapshot that was begun at this number or later.
    Asking(u64),
    /// It has a position, or waits for one, and goes on from there once its join was answered.
    Behind,
    /// Everything comes by itself.
    Live,
}

/// A membership that may come back for broadcasts from the database.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) id: SubscriberId,
    outbox: Arc<Outbox<Notice>>,
    pub(super) claims: Arc<Claims>,
    pub(super) room: Arc<Room>,
    pub(super) resume: Resume,
    /// It has stored broadcasts replayed unless it goes on where it was, and must know before its join is answered.
    pub(super) replays: bool,
    /// Until then a token may follow that says whose the session is.
    pub(super) grace: Option<Instant>,
    pub(super) stage: Stage,
    /// When its join was answered, by the wall clock; nothing is told before.
    pub(super) joined_at: Option<PgTime>,
    /// It knows whether it goes on where it was.
    pub(super) is_told: bool,
    /// It goes on where it was.
    pub(super) goes_on: bool,
    /// Its session is still to be found.
    pub(super) restoring: Option<Restoring>,
    /// Where the stream was when it asked.
    pub(super) first: Option<Position>,
    /// Number of the part in the history to go on with, and the index of the change in it.
    pub(super) next: (u64, usize),
    /// It has what stands here or before.
    pub(super) after: Option<Position>,
    /// It is to be told that it could not go on where it was.
    pub(super) unresumed: Option<ResyncReason>,
    /// It is among those that have their turn.
    pub(super) is_queued: bool,
}

impl Listener {
    pub(super) fn new(
        id: SubscriberId,
        outbox: Arc<Outbox<Notice>>,
        claims: Arc<Claims>,
        room: Arc<Room>,
        resume: Resume,
    ) -> Self {
        Self {
            id,
            outbox,
            claims,
            room,
            resume,
            replays: false,
            grace: None,
            stage: Stage::Asking(u64::MAX),
            joined_at: None,
            is_told: false,
            goes_on: false,
            restoring: None,
            first: None,
            next: (0, 0),
            after: None,
            unresumed: None,
            is_queued: false,
        }
    }

    /// Whose its session is.
    pub(super) fn holder(&self) -> Holder {
        Holder::new(&self.claims, self.resume.key)
    }

    /// Tells it something.
    pub(super) fn tell(&self, notice: Notice) {
        self.outbox.push(Posting::Notice {
            membership: self.id.membership,
            notice,
        });
    }

    /// Gives it what it has missed.
    pub(super) fn give(&self, message: Broadcast) {
        let bytes = message.size().saturating_add(NOTICE_BYTES);
        let notice = Notice::Missed(Arc::new(message));
        self.outbox.offer(self.id.membership, notice, bytes);
    }

    /// Bytes of notices that its connection has still to take.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.outbox.offered_bytes()
    }
}

/// All listeners and their sessions.
#[derive(Debug)]
pub(super) struct Hearing {
    pub(super) listeners: HashMap<SubscriberId, Listener>,
    pub(super) sessions: Sessions,
    /// Those that wait for a snapshot.
    pub(super) asking: BTreeSet<SubscriberId>,
    /// Those that have something to do, in turn; some may be gone.
    pub(super) busy: VecDeque<SubscriberId>,
    /// The next turn.
    pub(super) turn_at: Option<Instant>,
    /// When the stream may be asked again where it is.
    pub(super) poke_at: Option<Instant>,
    /// The last question that connections answered, while somebody asks.
    pub(super) answered: HashMap<u64, u64>,
    /// Those that are told how they begin once their session is stored.
    pub(super) untold: BTreeSet<SubscriberId>,
    /// By which publication rows of `realtime.messages` come, if they do; `None` before that was said.
    pub(super) publication: Option<Option<Oid>>,
    /// Not all of them may have come before this.
    pub(super) torn: Position,
}

impl Default for Hearing {
    fn default() -> Self {
        Self {
            listeners: HashMap::new(),
            sessions: Sessions::default(),
            asking: BTreeSet::new(),
            busy: VecDeque::new(),
            turn_at: None,
            poke_at: None,
            answered: HashMap::new(),
            untold: BTreeSet::new(),
            publication: None,
            torn: NOWHERE,
        }
    }
}

impl Hearing {
    /// The peer of a connection was there when this was asked.
    pub(super) fn answer(&mut self, connection: u64, question: u64) {
        if !self.busy.is_empty() {
            self.answered.insert(connection, question);
        }
    }

    /// Lets a listener have its turn soon.
    pub(super) fn queue(&mut self, now: Instant, id: SubscriberId) {
        if let Some(listener) = self.listeners.get_mut(&id)
            && !std::mem::replace(&mut listener.is_queued, true)
        {
            self.busy.push_back(id);
            self.turn_at = Some(self.turn_at.map_or(now, |at| at.min(now)));
        }
    }
}
