//! Broadcasts from the database on a socket that may come back: what was missed comes first (protocol.md §11).
//!
//! The channel is in its room while it catches up, and leaves what the database says there aside: it comes again, in its
//! place. What clients say is no part of this.

use std::collections::VecDeque;
use std::sync::Arc;

use super::bindings::POSTGRES;
use super::broadcasts::Pace;
use super::{Channel, Fate, Stage};
use crate::realtime::broadcast::Broadcast;
use crate::realtime::frame::Status;
use crate::realtime::notice::ResyncReason;
use crate::realtime::output::{Output, RoomRequest, Tally};
use crate::realtime::wire::Wire;

/// Stored broadcasts of which it is remembered that they were heard, while their rows may still come.
const STORED_MAX: usize = 1024;

/// How far it is with what it missed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Progress {
    /// It is not one that comes back.
    #[default]
    None,
    /// The pipeline looks for its position.
    Asked,
    /// That is settled; nothing comes before the reply.
    Settled,
    /// What was missed is coming.
    Behind,
    /// The room is heard.
    Live,
}

/// What a channel keeps of what it hears.
#[derive(Debug, Default)]
pub(super) struct Hearing {
    progress: Progress,
    /// Ids of what clients said and have stored, heard while it was behind.
    stored: VecDeque<Box<str>>,
    /// It was told that it could not go on where it was.
    pub(super) told: bool,
}

impl Hearing {
    /// Whether the pipeline knows of it.
    pub(super) fn is_under_way(&self) -> bool {
        self.progress != Progress::None
    }
}

impl Channel {
    /// Asks for its position, if it may come back and hears broadcasts; whether it did.
    pub(super) fn listen(&mut self, wire: &mut Wire<'_>, replays: bool) -> bool {
        if !wire.resumes || !self.due().broadcasts {
            return false;
        }
        self.stand_at(Stage::Position);
        self.hearing.progress = Progress::Asked;
        wire.push(Output::Listen {
            membership: self.membership,
            claims: Arc::clone(self.credentials.claims()),
            room: Arc::clone(&self.room),
            grace: self.grace,
            replays,
        });
        true
    }

    /// Its position is settled: the join goes on.
    pub(super) fn listening(&mut self, wire: &mut Wire<'_>, goes_on: bool) -> Fate {
        if self.hearing.progress != Progress::Asked || self.is_joined() {
            return Fate::Lives;
        }
        self.hearing.progress = Progress::Settled;
        if goes_on {
            self.bind(wire);
        } else {
            self.prepare(wire);
        }
        Fate::Lives
    }

    /// Enters the room, and lets come what was missed. What is being stored may have been said before, and its row come too
    /// late to be among that.
    pub(super) fn catch_up(&mut self, wire: &mut Wire<'_>) {
        let receives = self.due();
        if self.hearing.progress == Progress::Settled {
            if self.receives.is_none() && self.private.is_some() {
                self.receives = Some(receives);
                let entry = self.entry(receives);
                self.in_room(wire, RoomRequest::EnterReplaying(entry));
            }
            self.enter(wire, receives);
            self.hearing.progress = Progress::Behind;
            wire.push(Output::Hear {
                membership: self.membership,
            });
        }
        self.enter(wire, receives);
    }

    /// It has all that was missed.
    pub(super) fn caught_up(&mut self) {
        if self.hearing.progress == Progress::Behind {
            self.hearing = Hearing {
                progress: Progress::Live,
                ..Hearing::default()
            };
        }
    }

    /// Whether what was said in the room comes again, in its place.
    pub(super) fn comes_again(&mut self, message: &Broadcast) -> bool {
        let is_behind = matches!(
            self.hearing.progress,
            Progress::Asked | Progress::Settled | Progress::Behind
        );
        if is_behind && let Some(id) = message.stored_id() {
            if self.hearing.stored.len() >= STORED_MAX {
                self.hearing.stored.pop_front();
            }
            self.hearing.stored.push_back(id.into());
        }
        is_behind && message.cursor().is_some()
    }

    /// Something that was missed.
    pub(super) fn deliver_missed(&mut self, wire: &mut Wire<'_>, message: Arc<Broadcast>) -> Fate {
        let is_wanted = self.receives.is_some_and(|receives| receives.broadcasts);
        if self.hearing.progress != Progress::Behind || !is_wanted {
            return Fate::Lives;
        }
        let was_heard = |id: &str| self.hearing.stored.iter().any(|stored| **stored == *id);
        if message.id().is_some_and(was_heard) {
            self.has_heard(wire, &message);
            return Fate::Lives;
        }
        if self.is_in_doubt(&message) {
            return self.hold(wire, message);
        }
        self.pass_on(wire, &message, Pace::Free)
    }

    /// Notes that a broadcast from the database needs not come again.
    pub(super) fn has_heard(&self, wire: &mut Wire<'_>, message: &Broadcast) {
        if self.hearing.is_under_way()
            && let Some(cursor) = message.cursor()
        {
            wire.push(Output::Heard {
                membership: self.membership,
                cursor,
            });
        }
    }

    /// Whether all that reached the channel was passed on.
    pub(in crate::realtime) fn has_passed_all_on(&self) -> bool {
        !(self.private.as_ref()).is_some_and(|private| private.doubt.is_holding())
    }

    /// Something may have been missed; the channel goes on.
    pub(super) fn unheard(&mut self, wire: &mut Wire<'_>, reason: ResyncReason) {
        if self.hearing.is_under_way() && self.is_joined() {
            if self.hearing.progress == Progress::Live {
                // Whatever was told before was about something else.
                self.hearing.told = false;
            }
            self.tell_unresumed(wire, reason);
        }
    }

    /// Tells that it could not go on where it was; once, whether changes or broadcasts are the reason.
    pub(super) fn tell_unresumed(&mut self, wire: &mut Wire<'_>, reason: ResyncReason) {
        if std::mem::replace(&mut self.hearing.told, true) {
            return;
        }
        wire.push(Output::Record(Tally::Resync(reason)));
        let extension = if self.bindings.is_empty() {
            "system"
        } else {
            POSTGRES
        };
        let message = format!("Resync required: {reason}");
        self.system(wire, extension, Status::Error, &message);
    }
}
