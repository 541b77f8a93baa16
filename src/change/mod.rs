//! The vocabulary of everything below the WAL: positions, relations, tuples, changes, transactions.
//!
//! Plain values. Nothing here reads a clock, a socket or a catalog.

mod cursor;
mod lsn;
mod relation;
mod snapshot;
mod transaction;
mod tuple;

use std::fmt;

pub use cursor::{Cursor, ParseCursorError};
pub use lsn::{Lsn, ParseLsnError};
pub use relation::{Relation, RelationColumn, ReplicaIdentity};
pub use snapshot::{ParseSnapshotError, Snapshot};
pub use transaction::{
    Change, ChangeKind, Commit, OldKind, OldTuple, StreamEvent, TransactionPart,
};
pub use tuple::{Datum, Tuple, TupleBuilder, TupleError};

/// A Postgres object identifier.
pub type Oid = u32;

/// A 32 bit transaction id, as the stream carries it; wraps around.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Xid(pub u32);

/// A series of comparable positions: system identifier, timeline and slot incarnation, folded into one number.
///
/// Positions of different epochs cannot be compared: after a failover, a restore or a new slot the same LSN is
/// another place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A Postgres timestamp: microseconds since 2000-01-01 00:00:00 UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PgTime(pub i64);

impl PgTime {
    /// Microseconds between the Unix epoch and the Postgres epoch.
    const UNIX_OFFSET_MICROS: i64 = 946_684_800_000_000;

    /// Microseconds since 1970-01-01 00:00:00 UTC.
    #[must_use]
    pub const fn unix_micros(self) -> i64 {
        self.0.saturating_add(Self::UNIX_OFFSET_MICROS)
    }

    /// The same instant from microseconds since 1970-01-01 00:00:00 UTC.
    #[must_use]
    pub const fn from_unix_micros(micros: i64) -> Self {
        Self(micros.saturating_sub(Self::UNIX_OFFSET_MICROS))
    }
}
