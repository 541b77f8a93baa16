//! The streaming itself (io): from the socket through the assembler to the pipeline, and feedback the other way.
//!
//! One loop owns the socket. It reads only while downstream takes what it has, and sends feedback all the time: a server
//! that hears nothing ends the session, and the queue downstream may stay full for long. Follows the Postgres manual,
//! "Streaming Replication Protocol".

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::change::{Epoch, Lsn, PgTime, StreamEvent};
use crate::clock;

use super::assembler::{AssembleError, Assembler, Step};
use super::guard::Intervention;
use super::message::{ServerMessage, StreamMessage, encode_status_update};
use super::progress::Progress;
use super::session::{Session, SessionError};
use super::status::{ReplicationCounters, ReplicationStatus};

/// The loop looks at the time at least this often.
const TICK: Duration = Duration::from_secs(1);

/// After so long without a word the server is asked for one.
const SILENCE_ASK: Duration = Duration::from_secs(10);

/// After so long it is given up. Long, because PostgreSQL 14 says nothing while it decodes a large transaction of tables
/// that are not published; a machine that vanished is noticed by TCP keepalives much sooner.
const SILENCE_MAX: Duration = Duration::from_secs(300);

/// What downstream no longer needs replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Confirmed {
    /// The series that `lsn` belongs to; ignored unless it is the one in force.
    pub epoch: Epoch,
    /// An end LSN, or a position from [`StreamEvent::Position`].
    pub lsn: Lsn,
}

impl Confirmed {
    /// Nothing yet: what the channel begins with.
    pub const NOTHING: Self = Self {
        epoch: Epoch(0),
        lsn: Lsn::ZERO,
    };
}

/// What replication is connected with.
pub struct Channels {
    /// Where the events go. Full means wait: feedback goes on, reading does not.
    pub events: mpsc::Sender<StreamEvent>,
    /// How far downstream has got. Never moves backwards within an epoch.
    pub confirmed: watch::Receiver<Confirmed>,
    /// Asks the server where it is; the answer comes as a [`StreamEvent::Position`] unless a transaction is under way.
    pub poke: Arc<Notify>,
    /// Lets go of the server, which is shutting down and waits for everything it sent to be confirmed; downstream cannot
    /// confirm what it can no longer ask the database about. What was handed down in part comes again.
    pub hang_up: Arc<Notify>,
    /// Ends it all: the last confirmed position is sent first.
    pub cancel: CancellationToken,
    /// Numbers for metrics.
    pub counters: Arc<ReplicationCounters>,
}

/// How far it has come, across sessions.
#[derive(Debug)]
pub(super) struct Memory {
    pub(super) epoch: Epoch,
    /// Every commit that starts before this position has been handed down whole.
    pub(super) position: Lsn,
    /// The furthest position that the server has claimed.
    pub(super) wal_end: Lsn,
    /// Highest position that was ever confirmed.
    pub(super) confirmed: Lsn,
    /// Where the epoch began for us: WAL before it is of no use to those who come later.
    pub(super) began: Lsn,
    /// A transaction was handed down in part. When it comes again it must be made of the same changes, because downstream
    /// goes on by their order.
    pub(super) torn: bool,
}

impl Memory {
    /// Before the first session.
    pub(super) const NOTHING: Self = Self {
        epoch: Epoch(0),
        position: Lsn::ZERO,
        wal_end: Lsn::ZERO,
        confirmed: Lsn::ZERO,
        began: Lsn::ZERO,
        torn: false,
    };

    /// Commits that start at or before this position need not come again. A crash of the server may set the slot back
    /// behind what it confirmed, so a session can begin before it.
    pub(super) fn processed(&self) -> Lsn {
        Lsn::new(self.position.bytes().saturating_sub(1))
    }
}

/// Why a stream ended.
#[derive(Debug)]
pub(super) enum End {
    /// We were asked to.
    Cancelled,
    /// Nobody takes the events any more.
    Abandoned,
    /// The guard wants something done to the slot.
    Intervention(Intervention),
    /// The server is shutting down.
    HungUp,
    /// The connection is lost.
    Lost(SessionError),
    /// What the server sent makes no sense, or the spool failed.
    Assembly(AssembleError),
}

impl From<SessionError> for End {
    fn from(error: SessionError) -> Self {
        Self::Lost(error)
    }
}

impl From<AssembleError> for End {
    fn from(error: AssembleError) -> Self {
        Self::Assembly(error)
    }
}

/// What keeps the loop from going on at once.
enum Wait {
    /// Nothing: other tasks go first, then on.
    Nobody,
    /// More bytes.
    Server,
    /// Room in the queue for what is blocked.
    Downstream,
}

/// One streaming session.
pub(super) struct Stream<'a> {
    pub(super) session: &'a mut Session,
    pub(super) assembler: &'a mut Assembler,
    pub(super) progress: Progress,
    pub(super) memory: &'a mut Memory,
    pub(super) channels: &'a mut Channels,
    pub(super) interventions: &'a mut mpsc::Receiver<Intervention>,
    /// From this position on it is certain that rows of `realtime.messages` come; to be told in `status`.
    pub(super) messages_from: Option<Lsn>,
    pub(super) status: &'a watch::Sender<ReplicationStatus>,
    /// Told of every [`StreamEvent::Message`].
    pub(super) announced: &'a Notify,
    /// The event that there was no room for; whatever ends the session, it goes before all that is left.
    pub(super) blocked: Option<StreamEvent>,
}

impl Stream<'_> {
    /// Hands down `first`, then streams until something ends it. After a loss, what arrived whole has been handed down.
    pub(super) async fn run(mut self, first: StreamEvent) -> End {
        let end = match self.pump(first).await {
            Ok(never) => match never {},
            Err(end) => end,
        };
        match end {
            // Transactions that are committed are here to their last part; without this they would be torn.
            End::Lost(error) => match self.drain().await {
                Ok(()) => End::Lost(error),
                Err(end) => end,
            },
            End::Intervention(intervention) if !intervention.gives_up_changes() => {
                match self.drain().await {
                    Ok(()) => End::Intervention(intervention),
                    Err(end) => end,
                }
            }
            End::Cancelled => {
                // What downstream confirmed up to the last moment spares the next start that much.
                self.take_confirmed();
                let feedback = self.progress.feedback();
                self.memory.confirmed = self.memory.confirmed.max(feedback.flushed);
                encode_status_update(feedback, false, now_pg(), self.session.outgoing());
                End::Cancelled
            }
            end => end,
        }
    }

    async fn pump(&mut self, first: StreamEvent) -> Result<Infallible, End> {
        let mut heard = clock::instant();
        let mut asked = heard;
        self.blocked = Some(first);
        // An idle server says where it is only when asked.
        let mut ask = self.messages_from.is_some();
        loop {
            // Not waited for: what is confirmed goes out with the next feedback, which has a time of its own.
            self.take_confirmed();
            let wait = match self.blocked.take() {
                None => self.work()?,
                Some(event) => self.hand_down(event)?,
            };
            if self
                .messages_from
                .take_if(|from| self.memory.position >= *from)
                .is_some()
            {
                self.status
                    .send_if_modified(|status| !std::mem::replace(&mut status.messages, true));
            }
            let now = clock::instant();
            if matches!(wait, Wait::Server) {
                let silent = now.saturating_duration_since(heard);
                if silent > SILENCE_MAX {
                    return Err(SessionError::Silent.into());
                }
                ask |= silent > SILENCE_ASK && now.saturating_duration_since(asked) > SILENCE_ASK;
            } else {
                heard = now; // what we do not read cannot be heard
            }
            if ask {
                asked = now;
            }
            self.give_feedback(now, std::mem::take(&mut ask)).await?;
            let tick = now.checked_add(TICK);
            let due = self
                .progress
                .next_timeout()
                .into_iter()
                .chain(tick)
                .min()
                .unwrap_or(now);
            let due = tokio::time::sleep_until(due.max(now).into());
            tokio::select! {
                biased;
                () = self.channels.cancel.cancelled() => return Err(End::Cancelled),
                Some(intervention) = self.interventions.recv() => return Err(End::Intervention(intervention)),
                () = self.channels.hang_up.notified() => return Err(End::HungUp),
                () = self.channels.poke.notified() => ask = true,
                () = tokio::task::yield_now(), if matches!(wait, Wait::Nobody) => {}
                room = self.channels.events.reserve(), if matches!(wait, Wait::Downstream) => {
                    // The room is given back and taken again by `hand_down`: nobody else sends into this queue.
                    drop(room.map_err(|_closed| End::Abandoned)?);
                }
                count = self.session.fill(), if matches!(wait, Wait::Server) => {
                    let count = u64::try_from(count?).unwrap_or(u64::MAX);
                    self.channels.counters.received_bytes.fetch_add(count, Ordering::Relaxed);
                    heard = clock::instant();
                }
                () = due => {}
            }
        }
    }

    /// Hands down what is here, up to a bounded piece of work.
    fn work(&mut self) -> Result<Wait, End> {
        loop {
            match self.assembler.poll()? {
                Step::Event(event) => match self.hand_down(event)? {
                    Wait::Nobody => {}
                    wait => return Ok(wait),
                },
                Step::Busy => return Ok(Wait::Nobody),
                // Bounded by what one read brings.
                Step::Idle => match self.session.poll()? {
                    Some(message) => self.take(message)?,
                    None => return Ok(Wait::Server),
                },
            }
        }
    }

    fn take(&mut self, message: ServerMessage) -> Result<(), End> {
        match message {
            ServerMessage::CopyData(bytes) => {
                match StreamMessage::decode(bytes).map_err(SessionError::from)? {
                    StreamMessage::XLogData { start, data } => {
                        self.progress.receive(start);
                        self.assembler.handle(data)?;
                    }
                    StreamMessage::Keepalive {
                        wal_end,
                        reply_requested,
                    } => {
                        let in_transaction = self.assembler.in_transaction();
                        self.progress
                            .receive_keepalive(wal_end, reply_requested, in_transaction);
                        self.assembler.handle_keepalive(wal_end);
                        self.memory.position = self.memory.position.max(wal_end);
                        self.note_position();
                        self.channels
                            .counters
                            .received_lsn
                            .store(wal_end.bytes(), Ordering::Relaxed);
                    }
                }
            }
            ServerMessage::Error(error) => return Err(SessionError::Server(error).into()),
            ServerMessage::CopyDone | ServerMessage::Complete | ServerMessage::Ready => {
                return Err(SessionError::Ended.into());
            }
            ServerMessage::Other | ServerMessage::Parameter { .. } => {}
            ServerMessage::Authentication(_)
            | ServerMessage::ProcessId(_)
            | ServerMessage::Row(_)
            | ServerMessage::CopyBoth => return Err(SessionError::Unexpected.into()),
        }
        Ok(())
    }

    /// Sends `event`, or keeps it if there is no room.
    fn hand_down(&mut self, event: StreamEvent) -> Result<Wait, End> {
        let room = match self.channels.events.try_reserve() {
            Ok(room) => room,
            Err(TrySendError::Full(())) => {
                self.blocked = Some(event);
                return Ok(Wait::Downstream);
            }
            Err(TrySendError::Closed(())) => return Err(End::Abandoned),
        };
        let done = match &event {
            StreamEvent::Part(part) => Some((Arc::clone(&part.commit), part.last)),
            StreamEvent::Skipped { commit, .. } => Some((Arc::clone(commit), true)),
            StreamEvent::Position(position) => {
                self.memory.position = self.memory.position.max(*position);
                self.note_position();
                None
            }
            StreamEvent::Message { .. } => {
                self.announced.notify_one();
                None
            }
            StreamEvent::Started { .. } | StreamEvent::Interrupted | StreamEvent::GivenUp => None,
        };
        if let Some((commit, last)) = done {
            self.memory.torn = !last;
            // Before it is sent: a keepalive must not confirm what downstream has only begun with.
            self.progress.hand_down(commit.end_lsn);
            if last {
                self.memory.position = self.memory.position.max(commit.end_lsn);
                self.note_position();
                self.memory.wal_end = self.memory.wal_end.max(commit.end_lsn);
                self.channels
                    .counters
                    .transactions
                    .fetch_add(1, Ordering::Relaxed);
            }
        }
        room.send(event);
        Ok(Wait::Nobody)
    }

    /// A session that began now would begin here.
    fn note_position(&self) {
        let position = self.memory.position.bytes();
        let counter = &self.channels.counters.position_lsn;
        counter.store(position, Ordering::Relaxed);
    }

    /// Hands down what the assembler still holds.
    async fn drain(&mut self) -> Result<(), End> {
        loop {
            let event = match self.blocked.take() {
                Some(event) => event,
                None => match self.assembler.poll()? {
                    Step::Event(event) => event,
                    Step::Busy => {
                        tokio::task::yield_now().await;
                        continue;
                    }
                    Step::Idle => return Ok(()),
                },
            };
            if let Wait::Downstream = self.hand_down(event)? {
                tokio::select! {
                    biased;
                    () = self.channels.cancel.cancelled() => return Err(End::Cancelled),
                    Some(intervention) = self.interventions.recv() => {
                        // The others only begin another session, which follows anyhow; the guard asks again if need be.
                        if intervention.gives_up_changes() {
                            return Err(End::Intervention(intervention));
                        }
                    }
                    room = self.channels.events.reserve() => drop(room.map_err(|_closed| End::Abandoned)?),
                }
            }
        }
    }

    fn take_confirmed(&mut self) {
        let confirmed = *self.channels.confirmed.borrow_and_update();
        if confirmed.epoch == self.memory.epoch {
            self.progress.process(confirmed.lsn);
        }
    }

    async fn give_feedback(&mut self, now: Instant, ask: bool) -> Result<(), End> {
        let due = self.progress.poll_feedback(now);
        if due.is_none() && !ask {
            return Ok(());
        }
        let feedback = due.unwrap_or_else(|| self.progress.feedback());
        self.memory.confirmed = self.memory.confirmed.max(feedback.flushed);
        let counters = &self.channels.counters;
        counters
            .confirmed_lsn
            .store(feedback.flushed.bytes(), Ordering::Relaxed);
        encode_status_update(feedback, ask, now_pg(), self.session.outgoing());
        Ok(self.session.flush().await?)
    }
}

fn now_pg() -> PgTime {
    PgTime::from_unix_micros(clock::unix_micros())
}
