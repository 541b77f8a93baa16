//! Transactions and their changes, as they committed.

use std::sync::Arc;

use super::{Epoch, Lsn, Oid, PgTime, Relation, Tuple, Xid};

/// Where and when a transaction committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// The series of positions that `lsn` belongs to.
    pub epoch: Epoch,
    /// Start of the commit record; orders transactions. Begin's "final LSN".
    pub lsn: Lsn,
    /// End of the commit record; what feedback confirms.
    pub end_lsn: Lsn,
    /// Commit time by the database's clock. Not monotone in `lsn`.
    pub time: PgTime,
    /// Top-level transaction id.
    pub xid: Xid,
}

/// A consecutive piece of one transaction's net effect. Small transactions are one part.
///
/// Invariant: the parts of a transaction arrive one after the other; exactly the last one has `last` set; a
/// transaction without a published change has no part at all.
#[derive(Clone, Debug)]
pub struct TransactionPart {
    /// The transaction that this is a piece of.
    pub commit: Arc<Commit>,
    /// Changes in the order of the WAL, at most one per row of the transaction (the net effect).
    pub changes: Vec<Change>,
    /// Bytes of WAL messages that the changes were decoded from; what memory limits count.
    pub size: usize,
    /// No further part follows.
    pub last: bool,
}

/// One row's change, or a truncation, in a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The table as described when the change was written.
    pub relation: Arc<Relation>,
    /// Order within the transaction: strictly increasing; gaps mean nothing.
    pub order: u32,
    /// What happened.
    pub kind: ChangeKind,
}

/// What happened to a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// A row appeared.
    Insert {
        /// The row.
        new: Tuple,
    },
    /// A row has another content.
    Update {
        /// The version before the transaction; `None` if the key did not change and the identity is not full. The key
        /// alone, although it did not change, says that what `new` leaves out is not what the row with this key held:
        /// rows have exchanged their keys.
        old: Option<OldTuple>,
        /// The version at the commit.
        new: Tuple,
    },
    /// A row is gone.
    Delete {
        /// The version before the transaction.
        old: OldTuple,
    },
    /// All rows of the table are gone.
    Truncate,
}

/// A row's version before the transaction, as far as the replica identity tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OldTuple {
    /// Whether `tuple` holds all columns or only those of the replica identity, the others being NULL.
    pub kind: OldKind,
    /// One datum per column of the relation.
    pub tuple: Tuple,
}

/// How much of the old version is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OldKind {
    /// The replica identity's columns.
    Key,
    /// All columns.
    Full,
}

/// What the replication stage hands down, in stream order.
#[derive(Clone, Debug)]
pub enum StreamEvent {
    /// Streaming began or began again. Sent before anything else and after each reconnect.
    Started {
        /// A change of epoch makes every earlier position meaningless.
        epoch: Epoch,
        /// Nothing that committed before this position follows.
        from: Lsn,
        /// The end of the WAL when it began.
        end: Lsn,
        /// With another epoch: the database is another one than before, on another timeline, or set back; its transaction
        /// ids may mean others.
        failed_over: bool,
        /// The publication by which rows of `realtime.messages` come from here on, if they do.
        messages: Option<Oid>,
    },
    /// A piece of a committed transaction.
    Part(TransactionPart),
    /// A committed transaction that could not be held; its content is lost to subscribers of `relations`.
    Skipped {
        /// The transaction.
        commit: Arc<Commit>,
        /// Tables it wrote; empty if even that is not known, which means all of them.
        relations: Vec<Oid>,
    },
    /// A logical decoding message (`pg_logical_emit_message`). A hint only: anybody may write one.
    Message {
        /// End of the record that carried it.
        lsn: Lsn,
        /// First argument of the function that wrote it.
        prefix: Box<str>,
    },
    /// Every commit that starts before this position has been handed down.
    Position(Lsn),
    /// The connection is lost and being made again; sent once per loss.
    Interrupted,
    /// After [`Self::Interrupted`]: what commits from now on may never come, and another epoch begins some time.
    GivenUp,
}
