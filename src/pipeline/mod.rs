//! Drives the stages (*io*): replication → release → verdicts → log and outboxes, one task each.
//!
//! Holds no rules of its own: the conductor decides, and this does. Follows design: a change is judged only after a
//! snapshot has shown its transaction. Never touches a socket of a subscriber.

mod addressees;
mod conductor;
mod hearing;
mod history;
mod knowledge;
mod lane;
mod ledger;
mod locks;
mod merge;
mod messages;
mod old;
mod part;
mod permissions;
mod positions;
mod replay;
mod sessions;
mod settle;
mod snapshot;
#[cfg(feature = "testing")]
pub mod stand;
mod standing;
mod state;
mod subscriber;
mod verdicts;
mod view;
mod workers;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::auth::Claims;
use crate::catalog::Catalog;
use crate::change::{Cursor, PgTime, StreamEvent};
use crate::clock;
use crate::database::Database;
use crate::log::{Allowance, Limits, Log, Order, Outbox};
use crate::metrics::{DatabaseBroadcasts, observe};
use crate::realtime::Notice;
use crate::replication::assembler::{KeyResolver, SpoolOptions};
use crate::replication::connection::{self, ReplicationOptions};
use crate::replication::slot::SlotOptions;
use crate::replication::status::{ReplicationCounters, ReplicationState, ReplicationStatus};
use crate::replication::stream::{Channels, Confirmed};
use crate::rooms::Rooms;
use crate::routing::RequestedBinding;
use crate::shadow::Sizes;
use crate::topic::Room;
pub use history::Limits as HistoryLimits;
pub use ledger::{TableWork, Work};
pub use messages::Unsendable;
pub use permissions::Reader;
pub use sessions::{Acknowledged, Farewell, KeyHash, Place, Resume};
pub use settle::Denied;
pub use snapshot::{SnapshotCounts, SnapshotLimits};
pub use state::{PlanState, PolicyState, ShadowState};
pub use verdicts::Judged;

use conductor::{Conductor, Counts, Output, Rules};
use positions::Positions;
use standing::{Pool, Timeouts};
use workers::{Done, Workers};

/// What a socket asks of the pipeline. Answers come as notices in the outbox.
#[derive(Debug)]
pub enum Command {
    /// A channel with bindings was joined. Replaces an earlier subscription of the same membership.
    Subscribe {
        /// The socket's number; never used twice.
        connection: u64,
        /// The membership's number on that socket.
        membership: u32,
        /// Where changes and notices go.
        outbox: Arc<Outbox<Notice>>,
        /// What the join's token claims.
        claims: Arc<Claims>,
        /// What the join asked for.
        bindings: Vec<RequestedBinding>,
        /// The join carried no token of its own: what its claims may not see is kept shortly for the token that may
        /// follow.
        grace: bool,
        /// What it may go on by if it was here before.
        resume: Option<Resume>,
    },
    /// The membership's token changed. Answered by [`Notice::Subscribed`] or [`Notice::Refused`].
    Identify {
        /// The socket's number.
        connection: u64,
        /// The membership's number.
        membership: u32,
        /// What the new token claims.
        claims: Arc<Claims>,
    },
    /// May a private topic be read? Answered by [`Notice::Answered`] or [`Notice::Undecided`].
    Permit {
        /// Where the answer goes.
        outbox: Arc<Outbox<Notice>>,
        /// The membership's number.
        membership: u32,
        /// Comes back with the answer.
        ticket: u32,
        /// By whom, and which.
        reader: Reader,
    },
    /// The peer of a connection was there when [`Notice::Probe`] asked this.
    Answer {
        /// The socket's number.
        connection: u64,
        /// The question's number.
        question: u64,
    },
    /// The peer of a connection has got so far.
    Acknowledge {
        /// The socket's number.
        connection: u64,
        /// What that means.
        what: Acknowledged,
        /// By membership.
        positions: Vec<(u32, Cursor)>,
    },
    /// A channel is to hear what the database broadcasts from where it was. Answered by [`Notice::Listening`].
    Listen {
        /// The socket's number.
        connection: u64,
        /// The membership's number on that socket.
        membership: u32,
        /// Where notices go.
        outbox: Arc<Outbox<Notice>>,
        /// What the join's token claims.
        claims: Arc<Claims>,
        /// The channel's topic.
        room: Arc<Room>,
        /// The join carried no token of its own.
        grace: bool,
        /// It has stored broadcasts replayed if it does not go on where it was.
        replays: bool,
        /// What it goes on by.
        resume: Resume,
    },
    /// The join of such a channel was answered, and it is in its room: what it missed may come.
    Hear {
        /// The socket's number.
        connection: u64,
        /// The membership's number.
        membership: u32,
        /// The time now.
        unix_seconds: i64,
    },
    /// The peer of a connection has got so far with broadcasts.
    Heard {
        /// The socket's number.
        connection: u64,
        /// What that means.
        what: Acknowledged,
        /// By membership.
        positions: Vec<(u32, Cursor)>,
    },
    /// Somebody may not read a topic: what it missed of it is nothing to come back for.
    Forget {
        /// Who.
        claims: Arc<Claims>,
        /// By what it would have gone on.
        resume: Resume,
    },
    /// Memberships are to be told how far they are, by [`Notice::Mark`] and [`Notice::HeardUpTo`].
    Mark {
        /// The socket's number.
        connection: u64,
        /// The memberships' numbers.
        memberships: Vec<u32>,
    },
    /// The socket is ending: its memberships may come back.
    Park {
        /// The socket's number.
        connection: u64,
        /// The memberships' numbers.
        memberships: Vec<u32>,
        /// How it ends.
        farewell: Farewell,
    },
    /// The channel was left.
    Unsubscribe {
        /// The socket's number.
        connection: u64,
        /// The membership's number.
        membership: u32,
    },
}

/// What sockets need of the pipeline.
#[derive(Clone, Debug)]
pub struct Handle {
    /// Requests; full means: wait.
    pub commands: mpsc::Sender<Command>,
    /// Operators who want to know what becomes of policies; full means: no answer.
    pub inquiries: mpsc::Sender<oneshot::Sender<PolicyState>>,
    /// The payloads that postings refer to.
    pub log: Arc<Log>,
    /// In which order rows of `realtime.messages` were committed.
    pub order: Arc<Order>,
    /// Whether changes flow.
    pub status: watch::Receiver<Status>,
    /// What replication counts.
    pub replication: Arc<ReplicationCounters>,
}

impl Handle {
    /// What becomes of policies just now; `None` if that cannot be told in time.
    ///
    /// Cancel safe.
    pub async fn policy_state(&self) -> Option<PolicyState> {
        let (reply, answer) = oneshot::channel();
        self.inquiries.try_send(reply).ok()?;
        tokio::time::timeout(INQUIRY_TIMEOUT, answer)
            .await
            .ok()?
            .ok()
    }
}

/// How the pipeline is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Changes flow.
    pub ready: bool,
    /// So do broadcasts from the database.
    pub broadcasts: bool,
    /// One sentence: why not, or what to worry about; empty when all is well.
    pub detail: String,
    /// What replication reports.
    pub replication: ReplicationStatus,
    /// What happened so far.
    pub totals: Totals,
}

/// Ever-rising counts, and sizes of the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Committed transactions received.
    pub transactions: u64,
    /// Microseconds between the commit of the last of them, by the database's clock, and its receipt, by ours.
    pub age_micros: u64,
    /// Row changes received, after net effects.
    pub changes: u64,
    /// Frames given to sockets.
    pub delivered: u64,
    /// Changes withheld from identities, by why.
    pub denied: Denied,
    /// Versions merged into later ones.
    pub merged: u64,
    /// Questions put to Postgres.
    pub questions: u64,
    /// Questions that were answered.
    pub answered: u64,
    /// Questions that raised.
    pub raised: u64,
    /// Questions that timed out.
    pub timed_out: u64,
    /// Questions that met a lock, and were put again later.
    pub locked: u64,
    /// Verdicts of compiled policies.
    pub compiled: Judged,
    /// Identities outside of a change's audience, which need no verdict.
    pub audience: Judged,
    /// Verdicts of Postgres.
    pub asked: Judged,
    /// The tables that compiled policies look into.
    pub shadow: Sizes,
    /// Rows of `realtime.messages` that were said in their rooms.
    pub broadcasts: u64,
    /// Rows of `realtime.messages` that could not be.
    pub unsendable: Unsendable,
    /// Memberships with bindings.
    pub subscribers: u64,
    /// Lanes: distinct identities, roughly.
    pub lanes: u64,
    /// Snapshots for joins that asked for one.
    pub snapshots: SnapshotCounts,
    /// Bytes of their rows that wait for their sockets, or are set aside for such.
    pub snapshot_bytes: u64,
    /// Bytes of payloads in memory.
    pub log_memory_bytes: u64,
    /// Bytes of payloads in the log's file.
    pub log_file_bytes: u64,
    /// Bytes of recent transactions in memory.
    pub history_bytes: u64,
    /// Bytes of recent transactions in a file.
    pub history_file_bytes: u64,
}

/// Settings of the pipeline.
#[derive(Clone, Debug)]
pub struct Options {
    /// The database.
    pub database: Database,
    /// Where broadcasts from the database are said, and who is to look at permissions again when policies change.
    pub rooms: Rooms,
    /// The replication slot and the publications that it serves.
    pub slot: SlotOptions,
    /// Where transactions wait for their commit.
    pub spool: SpoolOptions,
    /// Bounds of the log.
    pub log: Limits,
    /// Bounds of the recent past.
    pub history: HistoryLimits,
    /// Where positions of those who may come back outlive the process; `None`: they do not.
    pub state_directory: Option<PathBuf>,
    /// Connections for identities that are known to answer quickly.
    pub connections_proven: usize,
    /// Connections for identities that were not asked before.
    pub connections_new: usize,
    /// Connections for identities that timed out.
    pub connections_quarantine: usize,
    /// Time limit of a question to an identity that timed out before.
    pub statement_timeout: Duration,
    /// Whether a DELETE under row security is withheld altogether.
    pub withhold_deletes: bool,
    /// Whether policies are compiled; otherwise Postgres is asked for every verdict.
    pub compile: bool,
    /// Bytes of the tables that compiled policies look into.
    pub shadow_bytes_max: usize,
    /// Connections that read the rows that are there already.
    pub snapshot_connections: usize,
    /// How much of them one join may get.
    pub snapshot_limits: SnapshotLimits,
    /// Bytes of such rows that all sockets together may still have to read.
    pub snapshot_spool_bytes_max: usize,
    /// Bytes of the payload of a broadcast; rows of `realtime.messages` with more are not said.
    pub broadcast_bytes_max: usize,
    /// What is observed of broadcasts.
    pub database_broadcasts: DatabaseBroadcasts,
}

/// Time limit of a question to an identity that was answered quickly before.
const TIMEOUT_PROVEN: Duration = Duration::from_millis(500);
/// Time limit of a question to an identity that was not asked before.
const TIMEOUT_NEW: Duration = Duration::from_millis(150);

/// Prefix of the messages that the event triggers of `walcast setup` write (sql/event_triggers.sql).
const CATALOG_MESSAGE: &str = "walcast";

/// Parts between replication and the conductor; each at most about a mebibyte.
const EVENTS_MAX: usize = 16;
/// Requests of sockets that wait for the conductor.
const COMMANDS_MAX: usize = 1024;
/// Inquiries that wait for the conductor, and for how long.
const INQUIRIES_MAX: usize = 16;
const INQUIRY_TIMEOUT: Duration = Duration::from_secs(2);
/// Inputs handled before the conductor's task lets others run.
const BURST_MAX: usize = 64;

/// Starts the pipeline's tasks; they end when `stop` is cancelled.
#[must_use]
pub fn start(options: Options, tasks: &TaskTracker, stop: &CancellationToken) -> Handle {
    let log = Arc::new(Log::new(options.log.clone()));
    let (commands, commands_in) = mpsc::channel(COMMANDS_MAX);
    let (inquiries, inquiries_in) = mpsc::channel(INQUIRIES_MAX);
    let (status_out, status) = watch::channel(Status::default());
    let (events_out, events) = mpsc::channel(EVENTS_MAX);
    let (confirmed, confirmed_in) = watch::channel(Confirmed::NOTHING);
    let (replication_out, replication) = watch::channel(ReplicationStatus::default());
    let (catalog_out, catalog) = watch::channel(Arc::<Catalog>::default());
    let poke = Arc::new(Notify::new());
    let hang_up = Arc::new(Notify::new());
    let counters = Arc::new(ReplicationCounters::default());
    let channels = Channels {
        events: events_out,
        confirmed: confirmed_in,
        poke: Arc::clone(&poke),
        hang_up: Arc::clone(&hang_up),
        cancel: stop.clone(),
        counters: Arc::clone(&counters),
    };
    let replication_options = ReplicationOptions {
        database: options.database.clone(),
        slot: options.slot.clone(),
        application_name: "walcast".to_owned(),
        key_resolver: key_resolver(catalog),
        message_prefixes: vec![CATALOG_MESSAGE.into()],
        spool: options.spool.clone(),
    };
    tasks.spawn(connection::run(
        replication_options,
        channels,
        replication_out,
        tasks.clone(),
    ));
    let order = Arc::new(Order::new(Arc::clone(&poke)));
    let (workers, done) = Workers::start(&options, &hang_up, tasks, stop);
    let rules = Rules {
        timeouts: Timeouts {
            proven: TIMEOUT_PROVEN,
            new: TIMEOUT_NEW,
            quarantine: options.statement_timeout,
        },
        connections: HashMap::new(),
        withhold_deletes: options.withhold_deletes,
        broadcast_bytes_max: options.broadcast_bytes_max,
        compile: options.compile,
        shadow_bytes_max: options.shadow_bytes_max,
        snapshot_bytes_max: usize::try_from(options.snapshot_limits.bytes_max)
            .unwrap_or(usize::MAX),
        snapshot_allowance: Allowance::new(options.snapshot_spool_bytes_max),
        history: options.history,
    };
    let mut conductor = Conductor::new(rules, Arc::clone(&log));
    let directory = options.state_directory.as_deref();
    let positions = directory.map(|directory| Positions::start(directory, tasks));
    if positions.is_none() {
        // Nothing outlives the process, and what the one before knew is gone.
        let now = clock::instant();
        conductor.forget_sessions(now);
    }
    let driver = Driver {
        conductor,
        positions,
        log: Arc::clone(&log),
        workers,
        done,
        postponed: None,
        events,
        commands: commands_in,
        inquiries: inquiries_in,
        confirmed,
        replication,
        catalog: catalog_out,
        rooms: options.rooms,
        database_broadcasts: options.database_broadcasts,
        order: Arc::clone(&order),
        poke,
        status: status_out,
        waits_for_catalog: true,
        age_micros: 0,
    };
    tasks.spawn(driver.run(stop.clone()));
    Handle {
        commands,
        inquiries,
        log,
        order,
        status,
        replication: counters,
    }
}

/// The primary key by the newest catalog, where the stream does not tell it: under replica identity full every column
/// is marked as key.
fn key_resolver(catalog: watch::Receiver<Arc<Catalog>>) -> KeyResolver {
    Arc::new(move |relation| {
        let catalog = catalog.borrow();
        let marked = || {
            relation
                .columns
                .iter()
                .enumerate()
                .filter(|(_, column)| column.in_identity)
                .map(|(index, _)| index)
                .collect()
        };
        let Some(table) = catalog.tables.get(&relation.oid) else {
            return marked();
        };
        let names = table
            .primary_key
            .iter()
            .map(|index| table.columns.get(*index).map(|column| &*column.name));
        let columns: Option<Box<[usize]>> = names.map(|name| relation.column(name?)).collect();
        columns
            .filter(|columns| !columns.is_empty())
            .unwrap_or_else(marked)
    })
}

/// The conductor's task: hands in one input at a time and does what comes out.
struct Driver {
    conductor: Conductor,
    /// Where positions are written down.
    positions: Option<Positions>,
    log: Arc<Log>,
    workers: Workers,
    done: mpsc::Receiver<Done>,
    /// Taken from `done` when it could not be handled.
    postponed: Option<Done>,
    events: mpsc::Receiver<StreamEvent>,
    commands: mpsc::Receiver<Command>,
    inquiries: mpsc::Receiver<oneshot::Sender<PolicyState>>,
    confirmed: watch::Sender<Confirmed>,
    replication: watch::Receiver<ReplicationStatus>,
    catalog: watch::Sender<Arc<Catalog>>,
    rooms: Rooms,
    database_broadcasts: DatabaseBroadcasts,
    order: Arc<Order>,
    poke: Arc<Notify>,
    status: watch::Sender<Status>,
    waits_for_catalog: bool,
    /// See [`Totals::age_micros`].
    age_micros: u64,
}

enum Input {
    Event(StreamEvent),
    Command(Command),
    Inquiry(oneshot::Sender<PolicyState>),
    Done(Done),
    Replication,
    /// Positions up to this batch were written.
    Written(u64),
    Timeout,
    Stop,
}

impl Driver {
    async fn run(mut self, stop: CancellationToken) {
        let mut burst = 0_usize;
        self.drain();
        loop {
            match self.next_input(&stop).await {
                Input::Stop => break,
                Input::Event(event) => {
                    self.note_age(&event);
                    self.hold_positions(&event).await;
                    self.conductor.handle_stream(clock::instant(), event);
                }
                Input::Command(command) => self.conductor.handle_command(clock::instant(), command),
                Input::Inquiry(reply) => {
                    // Who asked may have gone.
                    let _gone = reply.send(self.conductor.policy_state());
                }
                Input::Done(done) => self.take(done),
                Input::Replication => {}
                Input::Written(batch) => self.conductor.handle_written(clock::instant(), batch),
                Input::Timeout => self.conductor.handle_timeout(clock::instant()),
            }
            self.drain();
            while self.conductor.is_releasing() {
                // Lets questions go out and answers come in, also on this very thread.
                tokio::task::yield_now().await;
                self.take_answers();
                self.conductor.go_on(clock::instant());
                self.drain();
            }
            self.write_down();
            self.report();
            burst = burst.saturating_add(1);
            if burst.is_multiple_of(BURST_MAX) {
                tokio::task::yield_now().await;
            }
        }
        // How far the sockets had got that have just left.
        while let Ok(command) = self.commands.try_recv() {
            if let Command::Acknowledge { .. } | Command::Heard { .. } | Command::Park { .. } =
                command
            {
                self.conductor.handle_command(clock::instant(), command);
            }
        }
        if let Some(positions) = self.positions.take() {
            positions
                .finish(self.conductor.take_changed_sessions())
                .await;
        }
    }

    /// Whose slot it is, theirs are the positions: they are read when the stream begins, and left when it is interrupted.
    async fn hold_positions(&mut self, event: &StreamEvent) {
        match event {
            StreamEvent::Interrupted => {
                self.write_down();
                if let Some(positions) = &mut self.positions {
                    positions.release().await;
                }
            }
            StreamEvent::Started { .. } => {
                if let Some(positions) = &mut self.positions {
                    let taken = positions.take().await;
                    let now = clock::instant();
                    self.conductor.take_over_sessions(now, taken);
                }
            }
            _ => {}
        }
    }

    /// Hands over what has changed of the sessions; while there is no room it gathers.
    fn write_down(&mut self) {
        if !self.conductor.has_changed_sessions() {
            return;
        }
        if let Some(positions) = &self.positions
            && let Some(write) = positions.room()
        {
            write(self.conductor.take_changed_sessions());
        }
    }

    fn note_age(&mut self, event: &StreamEvent) {
        if let StreamEvent::Part(part) = event
            && part.last
        {
            let age = clock::unix_micros().saturating_sub(part.commit.time.unix_micros());
            // Negative where the clocks disagree.
            self.age_micros = u64::try_from(age).unwrap_or(0);
        }
    }

    /// Cancel safe: nothing is lost of what was not returned.
    async fn next_input(&mut self, stop: &CancellationToken) -> Input {
        if let Some(done) = self.postponed.take() {
            return Input::Done(done);
        }
        let timeout = self.conductor.next_timeout();
        let positions = &mut self.positions;
        let written = async {
            match positions {
                Some(positions) => positions.wrote().await,
                None => std::future::pending().await,
            }
        };
        let wait = async {
            match timeout {
                Some(time) => tokio::time::sleep_until(time.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => Input::Stop,
            Some(done) = self.done.recv() => Input::Done(done),
            batch = written => Input::Written(batch),
            () = wait => Input::Timeout,
            Some(reply) = self.inquiries.recv() => Input::Inquiry(reply),
            Some(command) = self.commands.recv() => Input::Command(command),
            Ok(()) = self.replication.changed() => Input::Replication,
            Some(event) = self.events.recv(), if self.conductor.wants_stream() => Input::Event(event),
        }
    }

    /// Takes what may come in while a snapshot's transactions are being released. Anything else waits for the end.
    fn take_answers(&mut self) {
        while self.postponed.is_none()
            && let Ok(done) = self.done.try_recv()
        {
            if matches!(done, Done::Answer { .. } | Done::Idle(_)) {
                self.take(done);
                self.drain();
            } else {
                self.postponed = Some(done);
            }
        }
    }

    fn take(&mut self, done: Done) {
        let now = clock::instant();
        match done {
            Done::Connected => self.conductor.handle_connected(now),
            Done::Horizon(horizon) => self.conductor.handle_horizon(now, horizon),
            Done::Catalog(loaded) => {
                let (catalog, knowledge) = loaded.unzip();
                self.conductor.expect_knowledge(knowledge.flatten());
                self.waits_for_catalog = catalog.is_none();
                let mut policies_changed = false;
                if let Some(catalog) = &catalog {
                    let before = self.catalog.send_replace(Arc::clone(catalog));
                    // The one to begin with has none.
                    policies_changed =
                        !before.fingerprint.is_empty() && before.fingerprint != catalog.fingerprint;
                }
                self.conductor.handle_catalog(now, catalog);
                if policies_changed {
                    self.rooms.recheck(clock::instant());
                }
            }
            Done::Resolved { ticket, result } => {
                self.conductor.handle_resolved(now, ticket, result)
            }
            Done::Unresolved(resolve) => self.conductor.handle_unresolved(now, resolve),
            Done::Answer { lane, pool, asked } => {
                self.conductor.handle_answer(now, lane, pool, asked)
            }
            Done::Idle(pool) => self.conductor.handle_idle(now, pool),
            Done::SnapshotIdle => self.conductor.handle_snapshot_idle(now),
            Done::Snapshot {
                ticket,
                identity,
                outcome,
            } => (self.conductor).handle_snapshot(now, ticket, identity, outcome),
            Done::Shadow(result) => self.conductor.handle_shadow(now, result),
        }
    }

    /// Does what the conductor wants. Never waits: the conductor wants no more at once than there is room for.
    fn drain(&mut self) {
        while let Some(output) = self.conductor.poll_output() {
            match output {
                Output::TakeHorizon => self.workers.take_horizon(),
                Output::LoadCatalog => self.workers.load_catalog(),
                Output::Resolve(resolve) => self.workers.resolve(resolve),
                Output::Ask(ask) => self.workers.ask(ask),
                Output::LoadShadow(request) => self.workers.load_shadow(request),
                Output::TakeSnapshot(request) => self.workers.take_snapshot(request),
                Output::Poke => self.poke.notify_one(),
                Output::Doubt => self.rooms.doubt(clock::instant()),
                Output::DoubtSending => self.rooms.doubt_sending(),
                Output::Say {
                    room,
                    message,
                    committed,
                    inserted,
                } => {
                    self.rooms.say(&room, &message);
                    let now = clock::unix_micros();
                    let age = |time: PgTime| {
                        let micros = now.saturating_sub(time.unix_micros());
                        // Negative where the clocks disagree.
                        Duration::from_micros(u64::try_from(micros).unwrap_or(0))
                    };
                    let seen = &self.database_broadcasts;
                    observe(&seen.since_commit, age(committed));
                    if let Some(inserted) = inserted {
                        observe(&seen.since_insert, age(inserted));
                    }
                    seen.sizes.observe(message.payload_bytes());
                }
                Output::Stored {
                    topic,
                    id,
                    transaction,
                } => self.order.record(&topic, id, transaction),
                Output::Torn => self.order.forget(),
                Output::Confirm(epoch, lsn) => {
                    self.confirmed.send_replace(Confirmed { epoch, lsn });
                }
            }
        }
    }

    fn report(&self) {
        let replication = self.replication.borrow().clone();
        let streaming = replication.state == ReplicationState::Streaming;
        let ready = self.conductor.is_ready() && streaming;
        let broadcasts = ready && replication.messages;
        let reads = self.conductor.reads_messages();
        self.order.passed(reads, self.conductor.routed());
        let detail = match () {
            () if ready => replication.warning.clone().unwrap_or_default(),
            () if !streaming => replication.state.to_string(),
            () if self.waits_for_catalog => "the catalog of the database is being read".to_owned(),
            () => "replication is starting".to_owned(),
        };
        let totals = self.totals();
        self.status.send_if_modified(|status| {
            let changed =
                status.ready != ready || status.broadcasts != broadcasts || status.detail != detail;
            *status = Status {
                ready,
                broadcasts,
                detail,
                replication,
                totals,
            };
            changed
        });
    }

    fn totals(&self) -> Totals {
        let Counts {
            transactions,
            changes,
            settled,
            questions,
            answered,
            raised,
            timed_out,
            locked,
            broadcasts,
            asked,
            unsendable,
        } = self.conductor.counts();
        let (subscribers, lanes) = self.conductor.sizes();
        let (memory, file) = self.log.bytes();
        let (snapshots, snapshot_bytes) = self.conductor.snapshot_counts();
        let count = |size: usize| u64::try_from(size).unwrap_or(u64::MAX);
        let audience = self.conductor.passed_over();
        Totals {
            transactions,
            age_micros: self.age_micros,
            changes,
            delivered: settled.delivered,
            denied: Denied {
                not_visible: (settled.denied.not_visible).saturating_add(audience.denied),
                ..settled.denied
            },
            merged: settled.merged,
            questions,
            answered,
            raised,
            timed_out,
            locked,
            compiled: self.conductor.judged(),
            audience,
            asked,
            shadow: self.conductor.shadow_sizes(),
            broadcasts,
            unsendable,
            subscribers: count(subscribers),
            lanes: count(lanes),
            snapshots,
            snapshot_bytes: count(snapshot_bytes),
            log_memory_bytes: count(memory),
            log_file_bytes: count(file),
            history_bytes: count(self.conductor.history_bytes()),
            history_file_bytes: count(self.conductor.history_file_bytes()),
        }
    }
}

impl Pool {
    fn connections(self, options: &Options) -> usize {
        match self {
            Self::Proven => options.connections_proven,
            Self::New => options.connections_new,
            Self::Quarantine => options.connections_quarantine,
        }
    }
}
