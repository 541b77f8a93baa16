//! One shadowed table: where it stands between being wanted and being followed.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::followed::Followed;
use super::{Spec, State};
use crate::change::{Change, ChangeKind, Commit, Oid};

/// The longest pause before a table that was too large is tried again, as a power of two of [`Shadow::reconsider`](super::Shadow::reconsider)s.
const OVERSIZED_DOUBLINGS: u32 = 6;

/// A table and how it is.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) spec: Arc<Spec>,
    pub(super) stage: Stage,
    /// What the last load must find and must have been described since; `None`: anything.
    pub(super) print: Option<Box<str>>,
    /// How often it was over the limit since it was last described otherwise or emptied.
    pub(super) oversized: u32,
    /// Loads that too many changes have spoiled, one after the other.
    pub(super) overruns: u32,
    /// Loads that were begun since the table was last trusted.
    pub(super) attempts: u32,
    /// Loads that were ever begun.
    pub(super) loads: u64,
    /// Why the last one was, if it was not the first.
    pub(super) why: Option<Box<str>>,
    /// Partitions whose changes are routed here.
    pub(super) leaves: BTreeSet<Oid>,
}

#[derive(Debug)]
pub(super) enum Stage {
    /// To be loaded, again if there is a reason.
    Wanted(Option<Box<str>>),
    Loading {
        generation: u64,
        retained: Vec<Retained>,
        bytes: usize,
    },
    Trusted(Box<Followed>),
    /// To be tried again at a later [`Shadow::reconsider`](super::Shadow::reconsider): so many are left out.
    TooLarge(u32),
    Unfit(Box<str>),
}

/// A change that came while the table was being loaded.
#[derive(Debug)]
pub(super) struct Retained {
    pub(super) commit: Arc<Commit>,
    pub(super) change: Change,
}

impl Table {
    /// To be loaded; in place of one that served another spec, if there was one.
    pub(super) fn new(spec: Arc<Spec>, before: Option<Self>) -> Self {
        let loads = before.as_ref().map_or(0, |before| before.loads);
        let (why, leaves) = match before {
            None => (None, BTreeSet::new()),
            Some(Self { stage, leaves, .. }) => match stage {
                Stage::Wanted(Some(why)) => (Some(why), leaves),
                Stage::Wanted(None) => (None, leaves),
                Stage::Loading { .. }
                | Stage::Trusted(_)
                | Stage::TooLarge(_)
                | Stage::Unfit(_) => {
                    let why = "policies look into other columns of it";
                    (Some(why.into()), leaves)
                }
            },
        };
        Self {
            spec,
            stage: Stage::Wanted(why),
            print: None,
            oversized: 0,
            overruns: 0,
            attempts: 0,
            loads,
            why: None,
            leaves,
        }
    }

    pub(super) fn invalidate(&mut self, reason: &str) {
        (self.overruns, self.oversized) = (0, 0);
        self.stage = Stage::Wanted(Some(reason.into()));
    }

    /// Over the limit, once more.
    pub(super) fn oversize(&mut self) -> Stage {
        self.overruns = 0;
        self.oversized = self.oversized.saturating_add(1);
        Stage::TooLarge(1 << self.oversized.min(OVERSIZED_DOUBLINGS))
    }
}

impl Stage {
    pub(super) fn state(&self) -> State {
        match self {
            Self::Wanted(None) => State::Wanted,
            Self::Wanted(Some(reason)) => State::Invalid {
                reason: reason.clone(),
            },
            Self::Loading { .. } => State::Loading,
            Self::Trusted(followed) => State::Trusted {
                from: followed.from,
            },
            Self::TooLarge(_) => State::TooLarge,
            Self::Unfit(reason) => State::Unfit {
                reason: reason.clone(),
            },
        }
    }
}

impl Retained {
    /// In memory of its own: the stream's buffers are not kept for it.
    pub(super) fn new(commit: &Arc<Commit>, change: &Change) -> Self {
        let mut change = change.clone();
        match &mut change.kind {
            ChangeKind::Insert { new } => *new = new.detach(),
            ChangeKind::Update { old, new } => {
                *new = new.detach();
                if let Some(old) = old {
                    old.tuple = old.tuple.detach();
                }
            }
            ChangeKind::Delete { old } => old.tuple = old.tuple.detach(),
            ChangeKind::Truncate => {}
        }
        Self {
            commit: Arc::clone(commit),
            change,
        }
    }

    pub(super) fn bytes(&self) -> usize {
        let tuples = match &self.change.kind {
            ChangeKind::Insert { new } => new.size(),
            ChangeKind::Update { old, new } => {
                let old = old.as_ref().map_or(0, |old| old.tuple.size());
                new.size().saturating_add(old)
            }
            ChangeKind::Delete { old } => old.tuple.size(),
            ChangeKind::Truncate => 0,
        };
        // Twice itself, because the list grows by doubling; and a commit, which few of them share.
        tuples
            .saturating_add(size_of::<Self>().saturating_mul(2))
            .saturating_add(size_of::<Commit>())
    }
}
