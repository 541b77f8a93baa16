//! Messages → committed transactions → [`StreamEvent`]s.
//!
//! Goes in: the messages of one walsender session, in order. Comes out: each committed transaction's net effect, in
//! parts; skipped transactions; hints; positions. Never hands down anything of a transaction before its commit, or of
//! an aborted (sub)transaction. Follows the Postgres manual, "Logical Streaming Replication Protocol" and "Streaming
//! of Large Transactions for Logical Decoding".

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use crate::change::{Epoch, Lsn, Relation, StreamEvent};

use super::pgoutput::DecodeError;

/// The columns that make a row of a relation the same row: positions in [`Relation::columns`].
///
/// None for "no known key": then with replica identity full the whole old tuple is the key, and otherwise each change
/// stands for itself. Only keys of constraints that are checked immediately may be named: under a deferrable one two
/// rows can hold the same key for a while.
pub type KeyResolver = Arc<dyn Fn(&Relation) -> Box<[usize]> + Send + Sync>;

/// What an [`Assembler`] is made with.
#[derive(Clone)]
pub struct AssemblerOptions {
    /// The series of positions that the session's LSNs belong to.
    pub epoch: Epoch,
    /// Commits that start at or before this position were handed down already and are dropped.
    pub processed: Lsn,
    /// Tells rows apart.
    pub key_resolver: KeyResolver,
    /// Prefixes of the logical messages that come out as [`StreamEvent::Message`]; others are dropped.
    pub message_prefixes: Vec<Box<str>>,
    /// Where transactions wait for their commit.
    pub spool: SpoolOptions,
}

/// Limits of what waits for its commit.
#[derive(Clone, Debug)]
pub struct SpoolOptions {
    /// Where files are made (unlinked at once: a crash leaves nothing).
    pub directory: PathBuf,
    /// Bytes of one transaction in memory; beyond, it goes to a file.
    pub transaction_memory_max: usize,
    /// Bytes of all transactions in memory; beyond, the largest goes to a file.
    pub memory_max: usize,
    /// Bytes of all files; beyond, the transaction that would grow is skipped.
    pub file_bytes_max: u64,
}

/// What one call of [`Assembler::poll`] came to.
#[derive(Debug)]
pub enum Step {
    /// Hand this down, then poll again.
    Event(StreamEvent),
    /// A bounded piece of work is done (about 1 MiB of messages) and more is left: poll again, but look after the
    /// socket and yield in between.
    Busy,
    /// Nothing is left: feed the next message.
    Idle,
}

/// The messages make no sense, or the spool failed. The session must be made anew, then [`Assembler::reset`].
#[derive(Debug, thiserror::Error)]
pub enum AssembleError {
    /// The server sent bytes that are no message.
    #[error("cannot decode a replication message")]
    Decode(#[from] DecodeError),
}

/// Puts messages together to committed transactions.
pub struct Assembler {
    options: AssemblerOptions,
}

impl Assembler {
    /// An assembler for a session that is about to start.
    #[must_use]
    pub fn new(options: AssemblerOptions) -> Self {
        Self { options }
    }

    /// Forgets everything but the options: a new session begins. Commits at or before `processed` will be dropped.
    pub fn reset(&mut self, epoch: Epoch, processed: Lsn) {
        self.options.epoch = epoch;
        self.options.processed = processed;
    }

    /// Takes one message (the payload of one XLogData). Only after [`Self::poll`] said [`Step::Idle`].
    ///
    /// # Errors
    /// The server broke the protocol or the spool failed: reconnect.
    pub fn handle(&mut self, message: Bytes) -> Result<(), AssembleError> {
        super::pgoutput::decode(message, false)?;
        Ok(())
    }

    /// A keepalive arrived: everything before `wal_end` has been decoded by the server. May make a
    /// [`StreamEvent::Position`].
    pub fn handle_keepalive(&mut self, wal_end: Lsn) {
        let _ = wal_end;
    }

    /// Whether a transaction is between its Begin and its Commit, or has parts that were not polled yet: then a
    /// keepalive's position says nothing.
    #[must_use]
    pub fn in_transaction(&self) -> bool {
        false
    }

    /// The next event. Blocks for file access of a spooled transaction only.
    ///
    /// # Errors
    /// The spool could not be read, or what it holds makes no sense: reconnect.
    pub fn poll(&mut self) -> Result<Step, AssembleError> {
        Ok(Step::Idle)
    }
}
