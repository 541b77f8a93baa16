//! Broadcasts from the database that wait until it is certain that the channel may still read them.
//!
//! What decides who may read can change with any commit. A broadcast that committed after such a commit is passed on only
//! once a question put after it was answered, and never to who is denied then. What comes behind it waits as well, so
//! that the order stays. Follows design.md §4: a revocation counts from its commit on.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::broadcasts::{Pace, WAITING_BYTES_MAX, WAITING_MAX};
use super::permission::Cause;
use super::{Channel, Fate};
use crate::realtime::broadcast::Broadcast;
use crate::realtime::notice::ResyncReason;
use crate::realtime::wire::Wire;

/// Between two questions that only what waits gives rise to: memberships may be written all the time.
const PAUSE: Duration = Duration::from_millis(50);

/// What is known of the permission to read, and what waits to be.
#[derive(Debug, Default)]
pub(super) struct Doubt {
    /// When the question was put whose answer is in force.
    confirmed: Option<Instant>,
    /// When the last question was put.
    asked: Option<Instant>,
    /// When the next one is to be put for the sake of what waits.
    ask_at: Option<Instant>,
    held: VecDeque<Arc<Broadcast>>,
    held_bytes: usize,
}

impl Doubt {
    /// A question is being put.
    pub(super) fn ask(&mut self, now: Instant) {
        self.asked = Some(now);
        self.ask_at = None;
    }

    /// The question that was put then was answered with yes.
    pub(super) fn confirm(&mut self, asked: Instant) {
        self.confirmed = self.confirmed.max(Some(asked));
    }

    /// When the question was put whose answer is in force.
    pub(super) const fn confirmed(&self) -> Option<Instant> {
        self.confirmed
    }

    /// Whether a broadcast must wait.
    pub(super) fn holds(&self, message: &Broadcast) -> bool {
        !self.held.is_empty() || self.is_about(message)
    }

    fn is_about(&self, message: &Broadcast) -> bool {
        message
            .doubt()
            .is_some_and(|doubt| self.confirmed.is_none_or(|confirmed| confirmed < doubt))
    }

    /// Whether something waits.
    pub(super) fn is_holding(&self) -> bool {
        !self.held.is_empty()
    }

    /// Lets a broadcast wait.
    pub(super) fn keep(&mut self, message: Arc<Broadcast>) {
        self.held_bytes = self.held_bytes.saturating_add(message.size());
        self.held.push_back(message);
    }

    /// The next that need not wait any more.
    fn take(&mut self) -> Option<Arc<Broadcast>> {
        if self.is_about(self.held.front()?) {
            return None;
        }
        let message = self.held.pop_front()?;
        self.held_bytes = self.held_bytes.saturating_sub(message.size());
        Some(message)
    }

    pub(super) const fn next_timeout(&self) -> Option<Instant> {
        self.ask_at
    }
}

impl Channel {
    /// Whether a broadcast must wait.
    pub(super) fn is_in_doubt(&self, message: &Broadcast) -> bool {
        (self.private.as_ref()).is_some_and(|private| private.doubt.holds(message))
    }

    /// Lets a broadcast wait for the answer to a question that is put after what called it into doubt.
    pub(super) fn hold(&mut self, wire: &mut Wire<'_>, message: Arc<Broadcast>) -> Fate {
        let Some(private) = &mut self.private else {
            return Fate::Lives;
        };
        let doubt = &mut private.doubt;
        let bytes = doubt.held_bytes.saturating_add(message.size());
        let full = doubt.held.len() >= WAITING_MAX || bytes > WAITING_BYTES_MAX;
        if full && !doubt.held.is_empty() {
            return self.resync(wire, "system", ResyncReason::VerdictUnknown);
        }
        doubt.keep(message);
        self.ask_in_doubt(wire);
        Fate::Lives
    }

    /// Asks for the sake of what waits, if something does and no question is open.
    pub(super) fn ask_in_doubt(&mut self, wire: &mut Wire<'_>) {
        let now = wire.now.instant;
        let Some(private) = &mut self.private else {
            return;
        };
        let is_open = private.is_reading();
        let doubt = &mut private.doubt;
        if doubt.held.is_empty() || is_open {
            return;
        }
        let at = doubt.asked.map_or(now, |asked| asked + PAUSE);
        if at <= now {
            self.ask_read(wire, Cause::Recheck);
        } else {
            doubt.ask_at = Some(at);
        }
    }

    /// Asks if the time has come.
    pub(super) fn doubt_is_due(&mut self, wire: &mut Wire<'_>) {
        let Some(private) = &mut self.private else {
            return;
        };
        if private
            .doubt
            .ask_at
            .take_if(|at| *at <= wire.now.instant)
            .is_some()
        {
            self.ask_in_doubt(wire);
        }
    }

    /// Passes on what is certain now, and asks about the rest.
    pub(super) fn release(&mut self, wire: &mut Wire<'_>) -> Fate {
        while let Some(message) = (self.private.as_mut()).and_then(|private| private.doubt.take()) {
            if self.pass_on(wire, &message, Pace::Limited) == Fate::Ended {
                return Fate::Ended;
            }
        }
        self.ask_in_doubt(wire);
        Fate::Lives
    }
}
