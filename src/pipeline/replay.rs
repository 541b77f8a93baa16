//! What a subscriber keeps of going through the past: from where on each of its bindings wants changes, how far it has
//! got, and what it was shown on the way. Plain values.

use std::collections::HashSet;
use std::time::Instant;

use super::history::Position;
use super::subscriber::SubscriberId;
use super::view::RowKey;
use crate::change::{Commit, PgTime, Snapshot};
use crate::realtime::Notice;
use crate::routing::Since;

/// Rows of which it is remembered that they were shown. Beyond, their deletion is withheld.
const SHOWN_MAX: usize = 100_000;

/// A subscriber's way through the past.
#[derive(Debug, Default)]
pub(super) struct Replay {
    /// From where on each binding wants changes, by its number. Other bindings want what comes after the join.
    pub(super) starts: Vec<(u32, Start)>,
    /// Number of the part in the history to go on with.
    pub(super) next: u64,
    /// Index of the change in it.
    pub(super) change: usize,
    /// Changes of the transaction under way were handed on, and not its end.
    pub(super) is_open: bool,
    /// The first of `starts` that is a position.
    pub(super) first: Option<Position>,
    /// It was subscribed all the time that it goes through: what was deleted is told.
    pub(super) was_subscribed: bool,
    /// What is to be said once its session is stored: first of all that the subscription is in force. `None`: that was.
    pub(super) unsaid: Option<Vec<Notice>>,
    /// Its session is still to be found.
    pub(super) restoring: Option<Restoring>,
    /// Up to here the changes are of the past; what comes later is live.
    pub(super) until: Option<Position>,
    /// It waits no longer for the tables that its policies look into; `None`: it has not waited.
    pub(super) patient_until: Option<Instant>,
    /// Rows under row security that it was shown on the way.
    shown: HashSet<RowKey>,
}

/// From where on a binding wants changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// As it was asked for.
    Asked(Since),
    /// What comes after this position.
    After(Position),
    /// What committed at this time or later: nothing that is received did.
    From(PgTime),
}

/// A session is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Restoring {
    /// No longer than this.
    pub(super) until: Instant,
    /// Who has it, and the question that was put to it.
    pub(super) asked: Option<(SubscriberId, u64)>,
}

impl Replay {
    /// A way for these bindings; `None` if none of them asks for one, unless a session may.
    pub(super) fn new(
        since: impl IntoIterator<Item = (u32, Since)>,
        has_session: bool,
    ) -> Option<Box<Self>> {
        let asked = since.into_iter();
        let starts: Vec<_> = asked.map(|(id, since)| (id, Start::Asked(since))).collect();
        (has_session || !starts.is_empty()).then(|| {
            Box::new(Self {
                starts,
                ..Self::default()
            })
        })
    }

    /// Whether binding `id` wants a change of this commit. `joined` sees what is older than the join.
    pub(super) fn wants(
        &self,
        id: u32,
        commit: &Commit,
        order: u32,
        joined: Option<&Snapshot>,
    ) -> bool {
        let is_new = joined.is_none_or(|snapshot| !snapshot.sees(commit.xid));
        match self.starts.iter().find(|(binding, _)| *binding == id) {
            None => is_new,
            Some((_, Start::After(position))) => Position::of(commit, order) > *position,
            Some((_, Start::From(time))) => is_new || commit.time >= *time,
            Some((_, Start::Asked(_))) => false,
        }
    }

    /// Whether any binding may want something of this commit. After a restart the stream brings much again that those who
    /// come back have had, and it would be asked about in vain.
    pub(super) fn may_want(&self, commit: &Commit, joined: Option<&Snapshot>) -> bool {
        let is_new = joined.is_none_or(|snapshot| !snapshot.sees(commit.xid));
        let reaches = |(_, start): &(u32, Start)| match start {
            Start::After(position) => Position::of(commit, u32::MAX) > *position,
            Start::From(time) => commit.time >= *time,
            Start::Asked(_) => false,
        };
        is_new || self.starts.iter().any(reaches)
    }

    /// Whether a change is of the past.
    pub(super) fn covers(&self, commit: &Commit, order: u32) -> bool {
        self.until
            .is_none_or(|until| Position::of(commit, order) <= until)
    }

    /// A row was shown.
    pub(super) fn show(&mut self, row: RowKey) {
        if self.shown.len() < SHOWN_MAX {
            self.shown.insert(row);
        }
    }

    /// Whether the row was shown.
    pub(super) fn was_shown(&self, row: RowKey) -> bool {
        self.shown.contains(&row)
    }

    /// Whether the row was shown; it is gone now.
    pub(super) fn take_shown(&mut self, row: RowKey) -> bool {
        self.shown.remove(&row)
    }
}
