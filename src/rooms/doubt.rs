//! When private members are told to look at their permissions again because something has changed that decides them.
//!
//! Who was asked about before that and enters after it is told when it enters: no answer that is older than a change counts
//! for longer than it takes to ask again. All others are told at once as a rule. Whatever decides permissions may be written all the time, and each telling makes every private member
//! ask: so the next waits until the one before had time to be answered, and stands for all that has changed meanwhile.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Members that may ask in the same moment.
const AT_ONCE_MAX: usize = 100;
/// What a question may take of the database, where there are more of them.
const QUESTION: Duration = Duration::from_millis(1);
/// Members that are told wait no longer than this.
const WITHIN_MAX: Duration = Duration::from_secs(10);
/// Between two tellings at least.
const PAUSE_MIN: Duration = Duration::from_millis(100);

/// The tellings of all rooms.
#[derive(Debug, Default)]
pub(super) struct Tellings {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// When something last changed.
    changed: Option<Instant>,
    /// No telling before.
    not_before: Option<Instant>,
    /// When the next is due.
    due: Option<Instant>,
}

/// What is to be done about a doubt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Telling {
    /// Tell everybody to ask within this time.
    Now(Duration),
    /// A telling is to come.
    Later,
}

impl Tellings {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something has changed by now, and whoever is a member is told in another way.
    pub(super) fn note(&self, now: Instant) {
        self.lock().note(now);
    }

    /// Whether something has changed since a question was put.
    pub(super) fn since(&self, asked: Instant) -> bool {
        self.lock().changed.is_some_and(|changed| asked <= changed)
    }

    /// Something has changed; `members` may have to ask.
    pub(super) fn doubt(&self, now: Instant, members: usize) -> Telling {
        let mut state = self.lock();
        state.note(now);
        match state.not_before {
            Some(time) if now < time => {
                state.due = Some(time);
                Telling::Later
            }
            _ => state.tell(now, members),
        }
    }

    /// Takes the telling that is due by now.
    pub(super) fn take(&self, now: Instant, members: usize) -> Option<Telling> {
        let mut state = self.lock();
        state.due.filter(|due| *due <= now)?;
        Some(state.tell(now, members))
    }

    /// When the next is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.lock().due
    }
}

impl State {
    fn note(&mut self, now: Instant) {
        self.changed = self.changed.max(Some(now));
    }

    fn tell(&mut self, now: Instant, members: usize) -> Telling {
        let within = if members <= AT_ONCE_MAX {
            Duration::ZERO
        } else {
            let members = u32::try_from(members).unwrap_or(u32::MAX);
            QUESTION.saturating_mul(members).min(WITHIN_MAX)
        };
        self.due = None;
        self.not_before = now.checked_add(within.max(PAUSE_MIN));
        Telling::Now(within)
    }
}
