//! Messages → committed transactions → [`StreamEvent`]s.
//!
//! Goes in: the messages of one walsender session, in order. Comes out: each committed transaction's net effect, in
//! parts; skipped transactions; hints; positions. Never hands down anything of a transaction before its commit, or of
//! an aborted (sub)transaction; never holds a large one in memory. Follows the Postgres manual, "Logical Streaming
//! Replication Protocol" and "Streaming of Large Transactions for Logical Decoding".
//!
//! Tuples that come out are slices of what the transaction waited in: one that is kept keeps 64 KiB alive, or its own
//! message if that is larger. [`Tuple::detach`](crate::change::Tuple::detach) what is kept for long.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;

use bytes::Bytes;

use crate::change::{Commit, Epoch, Lsn, Oid, StreamEvent, Xid};

use super::pgoutput::{self, Begin, CommitRecord, DecodeError, LogicalMessage, Message, RowKind};
pub use super::relations::KeyResolver;
use super::relations::Registry;
use super::replay::{Replay, Replayed};
use super::spool::Spool;
pub use super::spool::SpoolOptions;
use super::waiting::{Content, DescribedTables, Waiting, warn_skipped};

/// What an [`Assembler`] is made with.
#[derive(Clone)]
pub struct AssemblerOptions {
    /// The series of positions that the session's LSNs belong to.
    pub epoch: Epoch,
    /// Transactions whose commit record starts at or before this position were handed down already and are dropped.
    pub processed: Lsn,
    /// Tells the rows of tables with replica identity full apart.
    pub key_resolver: KeyResolver,
    /// Prefixes of the logical messages that come out as [`StreamEvent::Message`]; others are dropped. Of those in one
    /// transaction the last of each prefix comes out, before the first part.
    pub message_prefixes: Vec<Box<str>>,
    /// Where transactions wait for their commit.
    pub spool: SpoolOptions,
}

/// What one call of [`Assembler::poll`] came to.
#[derive(Debug)]
#[must_use]
pub enum Step {
    /// Hand this down, then poll again.
    Event(StreamEvent),
    /// A bounded piece of work is done (about 1 MiB of messages read) and more is left: poll again, but look after the
    /// socket and yield in between.
    Busy,
    /// Nothing is left: feed the next message.
    Idle,
}

/// The messages make no sense, or the spool failed. A new session must be made, then [`Assembler::reset`]; parts of a
/// transaction that was not finished are to be forgotten, it comes again from its beginning.
#[derive(Debug, thiserror::Error)]
pub enum AssembleError {
    /// The server sent bytes that are no message.
    #[error("cannot decode a replication message")]
    Decode(#[from] DecodeError),
    /// The server sent a message where the protocol has no place for it.
    #[error("unexpected replication message: {0}")]
    Unexpected(&'static str),
    /// The server sent a change of a table that it never described.
    #[error("the table with oid {0} was not described before its change")]
    UnknownRelation(Oid),
    /// A transaction that waited in a file cannot be read back.
    #[error("cannot read the spool")]
    Spool(#[source] io::Error),
    /// A transaction that waited is not what it was.
    #[error("the spool does not hold what was put there")]
    Spooled,
    /// [`Assembler::handle`] was called before [`Assembler::poll`] said [`Step::Idle`].
    #[error("a message was fed before the last one's events were taken")]
    NotIdle,
}

/// Puts messages together to committed transactions.
///
/// Invariant: at most one transaction is being read back; until that is over no message is taken.
pub struct Assembler {
    epoch: Epoch,
    processed: Lsn,
    message_prefixes: Vec<Box<str>>,
    registry: Registry,
    spool: Spool,
    /// The transaction between Begin and Commit.
    open: Option<(Begin, Waiting)>,
    /// Streamed transactions in progress, by top-level id.
    streams: HashMap<Xid, Waiting>,
    /// The transaction between Stream Start and Stream Stop.
    streaming: Option<Xid>,
    replay: Option<(Replay, DescribedTables)>,
    events: VecDeque<StreamEvent>,
    position: Lsn,
}

impl Assembler {
    /// An assembler for a session that is about to start.
    #[must_use]
    pub fn new(options: AssemblerOptions) -> Self {
        Self {
            epoch: options.epoch,
            processed: options.processed,
            message_prefixes: options.message_prefixes,
            registry: Registry::new(options.key_resolver),
            spool: Spool::new(options.spool),
            open: None,
            streams: HashMap::new(),
            streaming: None,
            replay: None,
            events: VecDeque::new(),
            position: Lsn::ZERO,
        }
    }

    /// Forgets everything but its limits: a new session begins, in which transactions whose commit record starts at or
    /// before `processed` are dropped.
    pub fn reset(&mut self, epoch: Epoch, processed: Lsn) {
        self.epoch = epoch;
        self.processed = processed;
        self.registry.clear();
        let open = self.open.take().map(|(_, waiting)| waiting);
        let streams = std::mem::take(&mut self.streams);
        for waiting in open.into_iter().chain(streams.into_values()) {
            self.forget(waiting);
        }
        if let Some((replay, _)) = self.replay.take() {
            self.spool.release(replay.into_stored());
        }
        self.streaming = None;
        self.events.clear();
        self.position = Lsn::ZERO;
    }

    /// Takes one message, the payload of one XLogData. Writes to a file if the transaction is large.
    ///
    /// # Errors
    /// The server broke the protocol, or [`Self::poll`] has not said [`Step::Idle`].
    pub fn handle(&mut self, message: Bytes) -> Result<(), AssembleError> {
        if self.replay.is_some() {
            return Err(AssembleError::NotIdle);
        }
        match pgoutput::decode(message.clone(), self.streaming.is_some())? {
            Message::Begin(begin) => self.begin(begin)?,
            Message::Commit(commit) => self.commit(commit)?,
            Message::StreamStart { xid, first } => self.stream_start(xid, first)?,
            Message::StreamStop => {
                let streamed = self.streaming.take();
                streamed.ok_or(AssembleError::Unexpected("stream stop without start"))?;
            }
            Message::StreamCommit { xid, commit } => self.stream_commit(xid, commit)?,
            Message::StreamAbort { xid, subxid } => self.stream_abort(xid, subxid)?,
            Message::Relation { xid, relation } => {
                let described = self.registry.describe(relation);
                let waiting = self.current()?;
                let oid = described.oid();
                waiting.described.insert(oid, (xid, described));
                self.keep(&message);
            }
            Message::Row(row) => {
                let waiting = self.current()?;
                waiting.write(row.relation);
                match row.kind {
                    RowKind::Insert { .. } => waiting.counts.inserts += 1,
                    RowKind::Update { .. } | RowKind::Delete { .. } => waiting.counts.others += 1,
                }
                self.keep(&message);
            }
            Message::Truncate { relations, .. } => {
                let waiting = self.current()?;
                for oid in relations {
                    waiting.write(oid);
                    waiting.counts.truncates += 1;
                }
                self.keep(&message);
            }
            Message::Logical(message) => self.logical_message(message)?,
            Message::Origin { .. } | Message::Type { .. } => {}
        }
        Ok(())
    }

    /// A keepalive arrived: the server has decoded everything before `wal_end`.
    pub fn handle_keepalive(&mut self, wal_end: Lsn) {
        // Inside a transaction its commit may already lie before `wal_end`.
        if !self.in_transaction() {
            self.move_to(wal_end);
        }
    }

    /// Whether a transaction has begun or committed that was not handed down to its end: then a keepalive's position
    /// must not be confirmed. Streamed ones that are still in progress do not count, they commit later.
    #[must_use]
    pub fn in_transaction(&self) -> bool {
        self.open.is_some() || self.replay.is_some()
    }

    /// What is to be handed down next. Reads from a file if the transaction was large.
    ///
    /// # Errors
    /// The spool cannot be read, or the server never described a table that it sent a change of.
    pub fn poll(&mut self) -> Result<Step, AssembleError> {
        if let Some(event) = self.events.pop_front() {
            return Ok(Step::Event(event));
        }
        let Some((replay, _)) = &mut self.replay else {
            return Ok(Step::Idle);
        };
        match replay.step(&self.registry)? {
            Replayed::Busy => Ok(Step::Busy),
            Replayed::Part(part) => {
                if part.last {
                    self.end_replay();
                }
                Ok(Step::Event(StreamEvent::Part(part)))
            }
            Replayed::Done => {
                let end_lsn = replay.commit().end_lsn;
                self.end_replay();
                self.move_to(end_lsn);
                self.poll()
            }
        }
    }

    fn end_replay(&mut self) {
        if let Some((replay, described)) = self.replay.take() {
            self.register(described);
            self.spool.release(replay.into_stored());
        }
    }

    fn begin(&mut self, begin: Begin) -> Result<(), AssembleError> {
        if self.open.is_some() || self.streaming.is_some() {
            return Err(AssembleError::Unexpected("begin inside a transaction"));
        }
        let content = if begin.final_lsn <= self.processed {
            Content::Duplicate
        } else {
            Content::Held(self.spool.open())
        };
        self.open = Some((begin, Waiting::new(content, false)));
        Ok(())
    }

    fn commit(&mut self, record: CommitRecord) -> Result<(), AssembleError> {
        let open = self.open.take();
        let (begin, waiting) = open.ok_or(AssembleError::Unexpected("commit without begin"))?;
        self.committed(begin.xid, record, waiting);
        Ok(())
    }

    fn stream_start(&mut self, xid: Xid, first: bool) -> Result<(), AssembleError> {
        if self.open.is_some() || self.streaming.is_some() {
            return Err(AssembleError::Unexpected(
                "stream start inside a transaction",
            ));
        }
        if first {
            let waiting = Waiting::new(Content::Held(self.spool.open()), true);
            if let Some(replaced) = self.streams.insert(xid, waiting) {
                self.forget(replaced);
            }
        } else if !self.streams.contains_key(&xid) {
            return Err(AssembleError::Unexpected(
                "a later piece of an unknown streamed transaction",
            ));
        }
        self.streaming = Some(xid);
        Ok(())
    }

    fn stream_commit(&mut self, xid: Xid, record: CommitRecord) -> Result<(), AssembleError> {
        self.outside_of_stream()?;
        let waiting = self.streams.remove(&xid);
        let mut waiting = waiting.ok_or(AssembleError::Unexpected(
            "commit of an unknown streamed transaction",
        ))?;
        if record.lsn <= self.processed {
            let content = std::mem::replace(&mut waiting.content, Content::Duplicate);
            if let Content::Held(held) = content {
                self.spool.release_held(held);
            }
        }
        self.committed(xid, record, waiting);
        Ok(())
    }

    fn stream_abort(&mut self, xid: Xid, subxid: Xid) -> Result<(), AssembleError> {
        self.outside_of_stream()?;
        if xid == subxid {
            if let Some(waiting) = self.streams.remove(&xid) {
                self.forget(waiting);
            }
        } else if let Some(waiting) = self.streams.get_mut(&xid) {
            waiting.aborted.insert(subxid);
            let described = &mut waiting.described;
            described.retain(|_, (xid, _)| *xid != Some(subxid));
        }
        Ok(())
    }

    const fn outside_of_stream(&self) -> Result<(), AssembleError> {
        match self.streaming {
            None => Ok(()),
            Some(_) => Err(AssembleError::Unexpected("an end inside a stream's piece")),
        }
    }

    fn committed(&mut self, xid: Xid, record: CommitRecord, waiting: Waiting) {
        let commit = Arc::new(Commit {
            epoch: self.epoch,
            lsn: record.lsn,
            end_lsn: record.end_lsn,
            time: record.time,
            xid,
        });
        let stored = match waiting.content {
            Content::Duplicate => {
                self.register(waiting.described);
                self.move_to(record.end_lsn);
                return;
            }
            Content::Skipped => None,
            Content::Held(held) => match self.spool.store(held) {
                Ok(stored) => Some(stored),
                Err(error) => {
                    warn_skipped(xid, &error);
                    None
                }
            },
        };
        for (prefix, lsn) in waiting.messages {
            self.events.push_back(StreamEvent::Message { lsn, prefix });
        }
        match stored {
            Some(stored) => {
                let (is_streamed, aborted) = (waiting.is_streamed, waiting.aborted);
                let replay = Replay::new(commit, stored, is_streamed, aborted, waiting.counts);
                self.replay = Some((replay, waiting.described));
            }
            None => {
                self.register(waiting.described);
                let relations = waiting.written.into_iter().collect();
                self.events
                    .push_back(StreamEvent::Skipped { commit, relations });
            }
        }
    }

    /// What a committed transaction described is in force for all others now.
    fn register(&mut self, described: DescribedTables) {
        for (_, described) in described.into_values() {
            self.registry.commit(described);
        }
    }

    fn forget(&mut self, waiting: Waiting) {
        if let Content::Held(held) = waiting.content {
            self.spool.release_held(held);
        }
    }

    fn move_to(&mut self, position: Lsn) {
        if position > self.position {
            self.position = position;
            self.events.push_back(StreamEvent::Position(position));
        }
    }

    fn logical_message(&mut self, message: LogicalMessage) -> Result<(), AssembleError> {
        let LogicalMessage { prefix, lsn, .. } = message;
        if !self.message_prefixes.contains(&prefix) {
            return Ok(());
        }
        if message.transactional {
            let messages = &mut self.current()?.messages;
            messages.retain(|(other, _)| *other != prefix);
            messages.push((prefix, lsn));
        } else {
            self.events.push_back(StreamEvent::Message { lsn, prefix });
        }
        Ok(())
    }

    /// The transaction that messages belong to now.
    fn current(&mut self) -> Result<&mut Waiting, AssembleError> {
        let waiting = match self.streaming {
            Some(xid) => self.streams.get_mut(&xid),
            None => self.open.as_mut().map(|(_, waiting)| waiting),
        };
        waiting.ok_or(AssembleError::Unexpected("a change outside a transaction"))
    }

    /// Adds a message to the transaction that it belongs to.
    fn keep(&mut self, message: &[u8]) {
        let current = match self.streaming {
            Some(xid) => self.streams.get_mut(&xid).map(|waiting| (xid, waiting)),
            None => self.open.as_mut().map(|(begin, w)| (begin.xid, w)),
        };
        if let Some((xid, waiting)) = current {
            waiting.with_held(xid, &mut self.spool, |spool, held| {
                spool.append(held, message)
            });
        }
        while self.spool.is_over() {
            let open = self.open.iter_mut().map(|(begin, w)| (begin.xid, w));
            let streams = self
                .streams
                .iter_mut()
                .map(|(xid, waiting)| (*xid, waiting));
            let largest = open
                .chain(streams)
                .max_by_key(|(_, waiting)| waiting.memory());
            match largest {
                Some((xid, waiting)) if waiting.memory() > 0 => {
                    waiting.with_held(xid, &mut self.spool, Spool::spill);
                }
                _ => break,
            }
        }
    }
}

#[cfg(test)]
mod tests;
