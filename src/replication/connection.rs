//! Keeps the stream going (io): slot, session, epoch, reconnects.
//!
//! In goes a database and a slot's name, out come [`StreamEvent`]s, for ever: a restart, a failover, a lost slot or a
//! publication that is missing for a while end a session, never the stream. Each session begins with
//! [`StreamEvent::Started`] and its loss is told by [`StreamEvent::Interrupted`]; whatever makes earlier positions
//! meaningless begins a new epoch. Changes are handed down once: what a new session repeats is dropped.

use std::convert::Infallible;
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::sleep;
use tokio_postgres::Client;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::change::{Epoch, Lsn, StreamEvent};
use crate::clock;
use crate::database::{ConnectError, Database};

use super::assembler::{Assembler, AssemblerOptions, KeyResolver, SpoolOptions};
use super::guard::{Guard, InForce, Intervention, Judgement, Ownership};
use super::incarnation::{self, Incarnations, System};
use super::messages::{self, MESSAGES_PUBLICATION, Sighting};
use super::progress::{Progress, Trail};
use super::session::{Session, SessionError};
use super::slot::{self, Publication, SlotError, SlotOptions, SlotState};
use super::status::{ReplicationState, ReplicationStatus};
use super::stream::{Channels, End, Memory, Stream};

/// Our walsender is ended by the server after so long without feedback: then a successor on another machine gets the
/// slot of one that vanished.
const WAL_SENDER_TIMEOUT: Duration = Duration::from_secs(10);

/// Feedback goes out at least so often: a few times within [`WAL_SENDER_TIMEOUT`].
const STATUS_INTERVAL: Duration = Duration::from_secs(2);

/// Pauses between attempts grow from the first to the second, with as much jitter again: short, because a restarted
/// database is back within seconds and one waiting client costs it nothing.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(2);

/// How long the holder of the slot may be a predecessor that is just ending; after that it is taken for alive.
const HELD_GRACE: Duration = Duration::from_secs(12);

/// How often a held slot is looked at.
const HELD_INTERVAL: Duration = Duration::from_millis(300);

/// How often the creation of a slot is looked at.
const CREATE_INTERVAL: Duration = Duration::from_secs(1);

/// A walsender of ours that does not let go of the slot by itself in this time is ended.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(3);

/// What to replicate.
pub struct ReplicationOptions {
    /// Where.
    pub database: Database,
    /// Through which slot.
    pub slot: SlotOptions,
    /// Shown in `pg_stat_activity` and `pg_stat_replication`.
    pub application_name: String,
    /// Tells rows apart within a transaction.
    pub key_resolver: KeyResolver,
    /// Prefixes of the logical messages to hand down.
    pub message_prefixes: Vec<Box<str>>,
    /// Where transactions wait for their commit.
    pub spool: SpoolOptions,
}

/// Nothing flows for now.
#[derive(Debug, thiserror::Error)]
enum ReplicationError {
    /// No connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The server or the slot is not as it must be.
    #[error(transparent)]
    Slot(#[from] SlotError),
    /// The session failed.
    #[error(transparent)]
    Session(#[from] SessionError),
}

/// Why an attempt ended.
enum Outcome {
    Ended(End),
    Failed(ReplicationError),
}

impl<E: Into<ReplicationError>> From<E> for Outcome {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

impl From<End> for Outcome {
    fn from(end: End) -> Self {
        Self::Ended(end)
    }
}

/// Replicates until cancelled or until nobody takes the events any more. Its tasks run on `tasks`.
///
/// Not cancel safe: cancel it through [`Channels::cancel`], so that the confirmed position reaches the server.
pub async fn run(
    options: ReplicationOptions,
    channels: Channels,
    status: watch::Sender<ReplicationStatus>,
    tasks: TaskTracker,
) {
    let (demand, interventions) = mpsc::channel(1);
    let (publications, began_with) = watch::channel(InForce::default());
    let ownership = Arc::new(Ownership::new());
    let announced = Arc::new(Notify::new());
    let guard = Guard {
        database: options.database.clone(),
        application_name: options.application_name.clone(),
        slot: options.slot.clone(),
        ownership: Arc::clone(&ownership),
        publications: began_with,
        announced: Arc::clone(&announced),
        poke: Arc::clone(&channels.poke),
        sighting: Sighting::default(),
        status: status.clone(),
        counters: Arc::clone(&channels.counters),
        interventions: demand,
    };
    let stop = channels.cancel.child_token();
    tasks.spawn(guard.watch(tasks.clone(), stop.clone()));
    let assembler = Assembler::new(AssemblerOptions {
        epoch: Epoch(0),
        processed: Lsn::ZERO,
        key_resolver: options.key_resolver,
        message_prefixes: options.message_prefixes,
        spool: options.spool,
    });
    let connection = Connection {
        incarnations: Incarnations::new(options.slot.name.clone()),
        database: options.database,
        slot: options.slot,
        application_name: options.application_name,
        tasks,
        channels,
        status,
        interventions,
        ownership,
        publications,
        announced,
        assembler,
        memory: Memory::NOTHING,
        past_missing_publication: false,
        reads_messages: false,
        messages_held_back: false,
        told_interrupted: true,
        told_given_up: false,
        system: None,
        failed_over: false,
    };
    connection.run().await;
    stop.cancel();
}

struct Connection {
    database: Database,
    slot: SlotOptions,
    application_name: String,
    tasks: TaskTracker,
    channels: Channels,
    status: watch::Sender<ReplicationStatus>,
    interventions: mpsc::Receiver<Intervention>,
    ownership: Arc<Ownership>,
    publications: watch::Sender<InForce>,
    /// Makes the guard look soon.
    announced: Arc<Notify>,
    incarnations: Incarnations,
    assembler: Assembler,
    memory: Memory,
    /// The stream failed at a moment of the WAL when a publication did not exist.
    past_missing_publication: bool,
    /// The last session read the publication of `realtime.messages` besides the configured ones.
    reads_messages: bool,
    /// That publication is not to be read before the guard says so: the stream may come past a moment of the WAL when it
    /// did not exist.
    messages_held_back: bool,
    /// No session is open as far as downstream knows.
    told_interrupted: bool,
    /// Downstream knows that the slot is gone.
    told_given_up: bool,
    /// The system of the session before.
    system: Option<System>,
    /// Since the session that downstream knows of, the system has become another one or was set back.
    failed_over: bool,
}

/// Where a session begins.
struct Beginning {
    /// Nothing before this position follows.
    from: Lsn,
    /// The end of the WAL.
    end: Lsn,
}

impl Connection {
    async fn run(mut self) {
        let mut pauses = pauses();
        loop {
            let sessions = self.channels.counters.sessions.load(Ordering::Relaxed);
            let outcome = match self.attempt().await {
                Ok(never) => match never {},
                Err(outcome) => outcome,
            };
            self.publications.send_replace(InForce::default());
            self.status
                .send_if_modified(|status| std::mem::take(&mut status.messages));
            if self.channels.counters.sessions.load(Ordering::Relaxed) != sessions {
                pauses = self::pauses();
            }
            let mut at_once = false;
            match outcome {
                Outcome::Ended(End::Cancelled | End::Abandoned) => return,
                Outcome::Ended(End::Intervention(intervention)) => {
                    at_once = intervention.concerns_messages();
                    self.intervene(intervention).await;
                }
                Outcome::Ended(End::Lost(error))
                | Outcome::Failed(ReplicationError::Session(error))
                    if self.is_missing_messages(&error) =>
                {
                    info!("the stream goes on without publication {MESSAGES_PUBLICATION:?}");
                    self.messages_held_back = true;
                    // The list must change whatever was handed down.
                    self.memory.torn = false;
                    at_once = true;
                }
                Outcome::Ended(End::Lost(error)) => {
                    self.past_missing_publication |= self.is_missing_publication(&error);
                    self.fail(&error);
                }
                Outcome::Ended(End::HungUp) => info!("the database is shutting down"),
                Outcome::Ended(End::Assembly(error)) => self.fail(&error),
                Outcome::Failed(error) => self.fail(&error),
            }
            // Nobody else should notice that broadcasts come or go. Does not repeat itself: the next session's list is
            // another one.
            if at_once {
                continue;
            }
            if !self.pause(pauses.next().unwrap_or(RETRY_MAX)).await {
                return;
            }
        }
    }

    /// Tells downstream once that the session is over, however long its queue is full, and waits; false if we are done.
    /// The guard is served meanwhile: the server's disk fills whatever downstream does.
    async fn pause(&mut self, pause: Duration) -> bool {
        if self.status.borrow().state == ReplicationState::Streaming {
            self.set_state(ReplicationState::Connecting);
        }
        loop {
            let intervention = tokio::select! {
                biased;
                () = self.channels.cancel.cancelled() => return false,
                Some(intervention) = self.interventions.recv() => intervention,
                room = self.channels.events.reserve(), if !self.told_interrupted => {
                    let Ok(room) = room else {
                        return false;
                    };
                    room.send(StreamEvent::Interrupted);
                    self.told_interrupted = true;
                    continue;
                }
                () = sleep(pause), if self.told_interrupted => return true,
            };
            self.intervene(intervention).await;
        }
    }

    /// One session from connecting to its end.
    async fn attempt(&mut self) -> Result<Infallible, Outcome> {
        let cancel = self.channels.cancel.clone();
        let client = tokio::select! {
            () = cancel.cancelled() => return Err(End::Cancelled.into()),
            client = self.database.connect(&self.tasks, &self.application_name) => client?,
        };
        let (confirmed, publications) = self.prepare_slot(&client).await?;
        let mut session = Session::open(&self.database, &self.application_name).await?;
        self.ownership.take(session.process_id);
        let Beginning { from, end } = self
            .begin_epoch(&client, &mut session, confirmed, &publications)
            .await?;
        let in_force = self.choose_publications(&client, publications).await?;
        drop(client);
        let timeout = WAL_SENDER_TIMEOUT.as_millis();
        session
            .query(&format!("set wal_sender_timeout to '{timeout}ms'"))
            .await?;
        session
            .start_streaming(&slot::start_command(
                &self.slot,
                from,
                in_force.messages.then_some(MESSAGES_PUBLICATION),
            ))
            .await?;
        self.assembler
            .reset(self.memory.epoch, self.memory.processed());
        self.channels
            .counters
            .sessions
            .fetch_add(1, Ordering::Relaxed);
        let epoch = self.memory.epoch;
        let messages = in_force.messages || self.slot.is_configured(MESSAGES_PUBLICATION);
        let messages_from = messages.then_some(in_force.messages_from);
        let trail = Trail {
            bytes_max: self.slot.trail_bytes(),
            from: self.memory.began,
        };
        info!(%epoch, %from, slot = self.slot.name, messages, "streaming");
        let publication = in_force.messages_oid.filter(|_| messages);
        self.publications.send_replace(in_force);
        // Downstream may be busy for longer than the server waits, so the loop that gives feedback sends this too.
        self.told_interrupted = false;
        self.told_given_up = false;
        let failed_over = std::mem::take(&mut self.failed_over);
        self.set_state(ReplicationState::Streaming);
        let stream = Stream {
            session: &mut session,
            assembler: &mut self.assembler,
            progress: Progress::new(confirmed, STATUS_INTERVAL, trail),
            memory: &mut self.memory,
            channels: &mut self.channels,
            interventions: &mut self.interventions,
            messages_from,
            status: &self.status,
            announced: &self.announced,
            blocked: None,
        };
        let end = stream
            .run(StreamEvent::Started {
                epoch,
                from,
                end,
                failed_over,
                messages: publication,
            })
            .await;
        session.close().await;
        Err(end.into())
    }

    /// A slot that nobody else holds, its confirmed position, and the publications.
    async fn prepare_slot(&mut self, client: &Client) -> Result<(Lsn, Vec<Publication>), Outcome> {
        let mut held: Option<(i32, std::time::Instant)> = None;
        loop {
            let slot = slot::load(client, &self.slot).await?;
            match &slot {
                None
                | Some(SlotState {
                    active_pid: None, ..
                }) => self.ownership.release(),
                Some(SlotState {
                    active_pid: Some(_),
                    ..
                }) => self.ownership.lose(),
            }
            let mut holder = None;
            for finding in slot::check(client, &self.slot).await? {
                match finding.problem {
                    held @ SlotError::Held { .. } => holder = Some(held),
                    problem if finding.blocks => return Err(problem.into()),
                    _ => {}
                }
            }
            if let Some(problem) = holder {
                self.stand_by(problem, &mut held).await?;
                continue;
            }
            match slot {
                // Whoever held it a moment ago is asked for again.
                Some(SlotState {
                    active_pid: Some(_),
                    ..
                }) => {}
                Some(SlotState {
                    lost: Some(reason), ..
                }) => {
                    warn!(
                        reason,
                        slot = self.slot.name,
                        "the slot is lost; dropping it to create it anew"
                    );
                    slot::drop(client, &self.slot).await?;
                }
                None => {
                    self.create_slot(client).await?;
                }
                Some(SlotState {
                    confirmed_flush: Some(confirmed),
                    ..
                }) => {
                    let publications = slot::publications(client, &self.slot).await?;
                    if std::mem::take(&mut self.past_missing_publication) {
                        if slot::waits_for_standbys(client, &self.slot).await? {
                            self.drop_slot(client).await?;
                            continue;
                        }
                        let confirmed = self.advance(client).await?;
                        return Ok((confirmed, publications));
                    }
                    return Ok((confirmed, publications));
                }
                // Creation was cut short a moment ago; the server is still cleaning up.
                Some(_) => sleep(HELD_INTERVAL).await,
            }
        }
    }

    /// Waits a little for the slot's holder to end.
    async fn stand_by(
        &mut self,
        problem: SlotError,
        held: &mut Option<(i32, std::time::Instant)>,
    ) -> Result<(), Outcome> {
        let SlotError::Held { pid, .. } = problem else {
            return Err(problem.into());
        };
        let now = clock::instant();
        let since = match *held {
            Some((same, since)) if same == pid => since,
            _ => {
                *held = Some((pid, now));
                now
            }
        };
        // A predecessor that was killed leaves a walsender for a moment, or until its own timeout if the machine died.
        if now.saturating_duration_since(since) >= HELD_GRACE {
            let sentence = problem.to_string();
            self.set_state(ReplicationState::Standby { pid, sentence });
        }
        tokio::select! {
            () = self.channels.cancel.cancelled() => Err(End::Cancelled.into()),
            () = sleep(HELD_INTERVAL) => Ok(()),
        }
    }

    /// Creates the slot on a session of its own, so that the wait can be told and ended.
    async fn create_slot(&mut self, client: &Client) -> Result<(), Outcome> {
        self.set_state(ReplicationState::CreatingSlot {
            waiting_for: Vec::new(),
        });
        let creator = self
            .database
            .connect(&self.tasks, &self.application_name)
            .await?;
        let row = creator
            .query_one("select pg_catalog.pg_backend_pid()", &[])
            .await;
        let pid: i32 = row
            .map_err(|source| SlotError::Query {
                slot: self.slot.name.clone(),
                source,
            })?
            .get(0);
        self.incarnations.renew(client).await?;
        self.ownership.take(pid);
        let created = {
            let options = self.slot.clone();
            let creation = slot::create(&creator, &options);
            tokio::pin!(creation);
            loop {
                tokio::select! {
                    biased;
                    created = &mut creation => break Ok(created),
                    () = self.channels.cancel.cancelled() => break Err(End::Cancelled),
                    Some(intervention) = self.interventions.recv() => {
                        break Err(End::Intervention(intervention));
                    }
                    () = sleep(CREATE_INTERVAL) => {}
                }
                let waiting_for = slot::blockers(client, &options, pid).await?;
                self.set_state(ReplicationState::CreatingSlot { waiting_for });
                // It may take as long as a transaction that somebody has forgotten. Without room, a second later.
                if self.memory.epoch != Epoch(0) && !self.told_given_up {
                    let told = self.channels.events.try_send(StreamEvent::GivenUp);
                    self.told_given_up = told.is_ok();
                }
            }
        };
        match created {
            Ok(Ok(from)) => {
                self.ownership.note_created(from);
                info!(%from, slot = self.slot.name, "created the replication slot");
                Ok(())
            }
            Ok(Err(error)) if slot::is_held(&error) => Ok(()),
            Ok(Err(error)) => Err(error.into()),
            Err(end) => {
                // The WAL since the creation began is kept as well: at the limit it begins again.
                slot::terminate(client, &self.slot, pid).await?;
                Err(end.into())
            }
        }
    }

    /// Moves the slot to the end of the WAL and begins a new incarnation.
    async fn advance(&mut self, client: &Client) -> Result<Lsn, SlotError> {
        // In this order: a crash in between costs a resynchronisation, the other way round it would cost changes.
        self.incarnations.renew(client).await?;
        let confirmed = slot::advance(client, &self.slot).await?;
        warn!(%confirmed, slot = self.slot.name, "moved the replication slot forward; subscribers must start over");
        Ok(confirmed)
    }

    /// Gives the slot up, and with it all positions.
    async fn drop_slot(&mut self, client: &Client) -> Result<(), SlotError> {
        self.incarnations.renew(client).await?;
        slot::drop(client, &self.slot).await
    }

    /// What the session is to read.
    async fn choose_publications(
        &mut self,
        client: &Client,
        configured: Vec<Publication>,
    ) -> Result<InForce, SlotError> {
        let look = messages::look(client, &self.slot).await?;
        if !self.memory.torn {
            self.reads_messages = look.oid.is_some()
                && !self.messages_held_back
                && !self.slot.is_configured(MESSAGES_PUBLICATION);
        }
        Ok(InForce {
            configured,
            messages: self.reads_messages,
            messages_oid: look.oid,
            messages_from: look.end,
        })
    }

    /// Finds out in which epoch the session's positions stand.
    async fn begin_epoch(
        &mut self,
        client: &Client,
        session: &mut Session,
        confirmed: Lsn,
        publications: &[Publication],
    ) -> Result<Beginning, Outcome> {
        let (system, end) = identify(session).await?;
        let before = self.system.replace(system);
        self.failed_over |=
            before.is_some_and(|before| before != system) || end < self.memory.wal_end;
        let oids = || {
            publications
                .iter()
                .filter_map(|publication| publication.oid)
        };
        let mut epoch = incarnation::fold(system, self.incarnations.load(client).await?, oids());
        if epoch == self.memory.epoch
            && (confirmed > self.memory.confirmed || end < self.memory.wal_end)
        {
            // Nobody but us confirms, so the slot was moved, or dropped and created, by others while we were away; or the
            // WAL ends earlier than it did, as after a restored copy of the files.
            warn!(
                slot = self.slot.name,
                "the replication slot was changed by others; subscribers must start over"
            );
            epoch = incarnation::fold(system, self.incarnations.renew(client).await?, oids());
        }
        if epoch != self.memory.epoch {
            if self.memory.epoch != Epoch(0) {
                self.channels
                    .counters
                    .epochs
                    .fetch_add(1, Ordering::Relaxed);
            }
            // The slot trails, and what was handed down means nothing to those who come later.
            let goes_on = self.memory.epoch != Epoch(0)
                && confirmed <= self.memory.confirmed
                && end >= self.memory.wal_end;
            let position = if goes_on {
                confirmed.max(self.memory.position)
            } else {
                confirmed
            };
            self.memory = Memory {
                epoch,
                position,
                confirmed,
                began: position,
                ..Memory::NOTHING
            };
            let counter = &self.channels.counters.position_lsn;
            counter.store(position.bytes(), Ordering::Relaxed);
        }
        Ok(Beginning {
            from: self.memory.position,
            end,
        })
    }

    /// Does to the slot what the guard demands; it will demand it again if that fails.
    async fn intervene(&mut self, intervention: Intervention) {
        let done = match intervention {
            Intervention::Restart => Ok(()),
            Intervention::TakeMessages | Intervention::LeaveMessages => {
                self.messages_held_back = intervention == Intervention::LeaveMessages;
                Ok(())
            }
            Intervention::Advance | Intervention::Recreate => self.give_up_changes().await,
        };
        if let Err(error) = done {
            self.fail(&error);
        }
        while self.interventions.try_recv().is_ok() {} // demands for what has just been done
    }

    async fn give_up_changes(&mut self) -> Result<(), ReplicationError> {
        let client = self
            .database
            .connect(&self.tasks, &self.application_name)
            .await?;
        let began = clock::instant();
        let demanded = loop {
            let Some(slot) = slot::load(&client, &self.slot).await? else {
                return Ok(());
            };
            let judged = (self.ownership).judge(&slot, self.slot.retained_wal_bytes_max);
            let Judgement::Demand(demanded) = judged else {
                return Ok(()); // the guard has looked at another slot, or at this one before it moved on
            };
            let Some(pid) = slot.active_pid else {
                break demanded;
            };
            if !self.ownership.covers(&slot) {
                return Ok(()); // another process has taken over, and watches over it now
            }
            if clock::instant().saturating_duration_since(began) > RELEASE_TIMEOUT {
                slot::terminate(&client, &self.slot, pid).await?;
            }
            sleep(HELD_INTERVAL).await;
        };
        self.ownership.release();
        // Behind the end of the WAL may be commits that wait for a standby: nobody sees them yet, so who joins would miss
        // them. A new slot begins behind them, too, but is there only when they are visible.
        if demanded == Intervention::Advance
            && !slot::waits_for_standbys(&client, &self.slot).await?
        {
            self.advance(&client).await?;
        } else {
            self.drop_slot(&client).await?;
        }
        Ok(())
    }

    /// Whether the stream cannot get past a moment when a publication did not exist.
    ///
    /// By code and name, because the message is in the server's language.
    fn is_missing_publication(&self, error: &SessionError) -> bool {
        let names_one = |name: &String| is_undefined(error, name);
        self.slot.publications.iter().any(names_one)
    }

    /// The same for the publication of `realtime.messages`. To be asked first: its name contains that of another.
    fn is_missing_messages(&self, error: &SessionError) -> bool {
        self.reads_messages && is_undefined(error, MESSAGES_PUBLICATION)
    }

    fn set_state(&self, state: ReplicationState) {
        self.status.send_if_modified(|status| {
            let changed = status.state != state;
            if changed
                && !matches!(
                    state,
                    ReplicationState::Streaming | ReplicationState::Connecting
                )
            {
                info!("{state}");
            }
            status.state = state;
            changed
        });
    }

    /// Says once what is wrong; a repetition of the same sentence is not said again.
    fn fail(&self, error: &dyn Error) {
        let mut sentence = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            let text = error.to_string();
            if !sentence.contains(&text) {
                sentence = format!("{sentence}: {text}");
            }
            cause = error.source();
        }
        self.set_state(ReplicationState::Failed { sentence });
    }
}

fn is_undefined(error: &SessionError, name: &str) -> bool {
    matches!(error, SessionError::Server(error) if error.sqlstate == "42704" && error.message.contains(name))
}

async fn identify(session: &mut Session) -> Result<(System, Lsn), SessionError> {
    let rows = session.query("IDENTIFY_SYSTEM").await?;
    let row = rows.into_iter().next().ok_or(SessionError::Unexpected)?;
    let mut fields = row.into_iter().map(Option::unwrap_or_default);
    let mut field = || fields.next().ok_or(SessionError::Unexpected);
    let (identifier, timeline, end) = (field()?, field()?, field()?);
    let system = System {
        identifier: identifier
            .parse()
            .map_err(|_no_number| SessionError::Unexpected)?,
        timeline: timeline
            .parse()
            .map_err(|_no_number| SessionError::Unexpected)?,
    };
    Ok((
        system,
        end.parse().map_err(|_no_lsn| SessionError::Unexpected)?,
    ))
}

fn pauses() -> ExponentialBackoff {
    ExponentialBuilder::new()
        .with_min_delay(RETRY_MIN)
        .with_max_delay(RETRY_MAX)
        .with_jitter()
        .without_max_times()
        .build()
}
