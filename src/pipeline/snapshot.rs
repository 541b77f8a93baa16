//! Snapshots for subscribers: the rows that are there already, read as the subscriber.
//!
//! A [`SnapshotRequest`] comes from the conductor; a connection of its own answers it in one REPEATABLE READ transaction, at the speed
//! of the database, into payloads that are kept for the subscriber. Neither the connection nor the database's snapshot
//! waits for a socket. Never decides what a subscriber gets besides: that is the conductor's, by the snapshot that comes
//! back.

mod query;
mod take;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::catalog::Catalog;
use crate::change::{Epoch, Lsn, Oid, Snapshot};
use crate::log::{Kept, Share};
use crate::policy::Identity;
use crate::realtime::SnapshotRefusal;
use crate::routing::{SnapshotWish, TableFilter};

pub(super) use take::{OUTDATED, Place, Taker};

/// How much a join may be sent of what is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotLimits {
    /// Rows of all bindings together.
    pub rows_max: u64,
    /// Bytes of their payloads.
    pub bytes_max: u64,
    /// Time that reading them may take.
    pub time_max: Duration,
}

/// What became of snapshots; ever rising.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SnapshotCounts {
    /// Snapshots that were taken and handed over.
    pub taken: u64,
    /// Their rows.
    pub rows: u64,
    /// Snapshots that had more than may be sent.
    pub too_large: u64,
    /// Snapshots during which a policy raised or timed out.
    pub failed: u64,
    /// Times that one was begun again: a token or the catalog changed, or a lock was in the way.
    pub repeated: u64,
}

/// Somebody's wish for the rows that are there.
#[derive(Debug)]
pub(super) struct SnapshotRequest {
    /// Comes back with the outcome.
    pub(super) ticket: u64,
    /// Who reads.
    pub(super) identity: Identity,
    /// What the tables look like.
    pub(super) catalog: Arc<Catalog>,
    /// Distinct by id, in the order of the join.
    pub(super) bindings: Vec<SnapshotBinding>,
    /// Everything that starts to commit before this will be visible.
    pub(super) position: (Epoch, Lsn),
    /// Room for the payloads.
    pub(super) share: Share,
    pub(super) interest: Interest,
}

/// A binding that asks for a snapshot.
#[derive(Clone, Debug)]
pub(super) struct SnapshotBinding {
    pub(super) id: u32,
    pub(super) wish: SnapshotWish,
    /// In the order of their names.
    pub(super) tables: Vec<(Oid, TableFilter)>,
}

/// What became of a request.
#[derive(Debug)]
pub(super) enum SnapshotOutcome {
    /// The rows as of a snapshot.
    Taken(Taken),
    /// There will be none; the text is for the subscriber.
    Refused(SnapshotRefusal),
    /// The catalog is another one by now; perhaps, if a SQLSTATE says so, only in a policy.
    Outdated(Option<Box<str>>),
    /// Something was in the way: a lock, a rewritten table, a broken connection.
    Again,
}

/// The rows that are there, and as of when.
#[derive(Debug)]
pub(super) struct Taken {
    /// The rows hold exactly the transactions that this sees.
    pub(super) snapshot: Snapshot,
    /// Read after the snapshot was taken.
    pub(super) insert_lsn: Lsn,
    pub(super) kept: Arc<Kept>,
    /// Binding, first payload and number of payloads, in the order of the join.
    pub(super) runs: Vec<(u32, u32, u32)>,
}

/// A snapshot that a subscriber waits for.
#[derive(Debug)]
pub(super) struct Awaited {
    /// The subscriber was told that it is in force: its token was to come after the join's reply.
    pub(super) announced: bool,
    /// How often its query named what is not there.
    pub(super) outdated: u32,
    pub(super) state: AwaitedState,
}

#[derive(Debug)]
pub(super) enum AwaitedState {
    /// Nothing need be kept for the subscriber: what is released before the snapshot is taken will be in it.
    Wanted,
    /// Being taken. What is released meanwhile waits in the subscriber's own lane.
    Running {
        ticket: u64,
        /// Tells whoever reads when nobody waits any more.
        _interest: Interested,
    },
}

/// Whether somebody still waits for an outcome.
#[derive(Debug)]
pub(super) struct Interest(Arc<AtomicBool>);

/// The other side of an [`Interest`]: somebody does, until this is dropped.
#[derive(Debug)]
pub(super) struct Interested(Arc<AtomicBool>);

impl Interest {
    pub(super) fn new() -> (Self, Interested) {
        let lost = Arc::new(AtomicBool::new(false));
        (Self(Arc::clone(&lost)), Interested(lost))
    }

    fn is_lost(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Interested {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Awaited {
    pub(super) fn is_running(&self) -> bool {
        matches!(self.state, AwaitedState::Running { .. })
    }

    /// Whether this is the request that is under way.
    pub(super) fn is(&self, wanted: u64) -> bool {
        matches!(self.state, AwaitedState::Running { ticket, .. } if ticket == wanted)
    }
}
