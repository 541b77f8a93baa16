//! A transaction that waits for its commit: its messages in the spool, and what is known of them meanwhile.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::change::{Lsn, Oid, Xid};

use super::relations::Described;
use super::replay::Counts;
use super::spool::{Held, Spool, SpoolError};

/// A transaction that waits for its commit.
pub(super) struct Waiting {
    pub(super) content: Content,
    pub(super) is_streamed: bool,
    pub(super) counts: Counts,
    /// Tables it wrote, also in subtransactions that rolled back.
    pub(super) written: BTreeSet<Oid>,
    /// The table written last; spares a look into `written`.
    pub(super) written_last: Option<Oid>,
    /// Subtransactions that rolled back.
    pub(super) aborted: HashSet<Xid>,
    /// The last version of each table that it described, and in which subtransaction: for the time after its commit.
    pub(super) described: DescribedTables,
    /// Logical messages, at most one for each prefix.
    pub(super) messages: Vec<(Box<str>, Lsn)>,
}

/// Versions of tables, each with the subtransaction that it came in.
pub(super) type DescribedTables = HashMap<Oid, (Option<Xid>, Described)>;

/// What is kept of a transaction's changes.
pub(super) enum Content {
    /// All of them.
    Held(Held),
    /// Nothing: it was handed down in an earlier session.
    Duplicate,
    /// Nothing: it exceeded a limit.
    Skipped,
}

impl Waiting {
    pub(super) fn new(content: Content, is_streamed: bool) -> Self {
        Self {
            content,
            is_streamed,
            counts: Counts::default(),
            written: BTreeSet::new(),
            written_last: None,
            aborted: HashSet::new(),
            described: HashMap::new(),
            messages: Vec::new(),
        }
    }

    pub(super) fn write(&mut self, oid: Oid) {
        if self.written_last != Some(oid) {
            self.written_last = Some(oid);
            self.written.insert(oid);
        }
    }

    pub(super) fn memory(&self) -> usize {
        match &self.content {
            Content::Held(held) => held.memory(),
            Content::Duplicate | Content::Skipped => 0,
        }
    }

    /// Does something to what is held; if that fails the transaction is given up.
    pub(super) fn with_held(
        &mut self,
        xid: Xid,
        spool: &mut Spool,
        work: impl FnOnce(&mut Spool, &mut Held) -> Result<(), SpoolError>,
    ) {
        let Content::Held(held) = &mut self.content else {
            return;
        };
        // The order of changes has 32 bits.
        let is_too_long = self.counts.total() > u64::from(u32::MAX);
        let done = if is_too_long {
            Err(SpoolError::TooManyChanges)
        } else {
            work(spool, held)
        };
        if let Err(error) = done {
            warn_skipped(xid, &error);
            if let Content::Held(held) = std::mem::replace(&mut self.content, Content::Skipped) {
                spool.release_held(held);
            }
        }
    }
}

pub(super) fn warn_skipped(xid: Xid, error: &SpoolError) {
    let cause = std::error::Error::source(error).map(ToString::to_string);
    tracing::warn!(xid = xid.0, %error, cause, "a transaction is too large to be held; it will be skipped");
}
