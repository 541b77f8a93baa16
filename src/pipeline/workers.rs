//! The connections behind the conductor (*io*): one for snapshots, one for catalogs and bindings, some for questions.
//!
//! Each worker owns its connection and makes it anew when it breaks, at growing intervals; what it was doing goes back
//! to the conductor.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use backon::{BackoffBuilder as _, ExponentialBuilder};
use tokio::sync::{Notify, mpsc};
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Options;
use super::conductor::{Ask, Horizon, Resolve};
use super::knowledge::{self, Knowledge};
use super::lane::LaneId;
use super::snapshot::{Place, SnapshotOutcome, SnapshotRequest, Taker};
use super::standing::Pool;
use crate::catalog::{self, Catalog, Watch};
use crate::clock;
use crate::database::Database;
use crate::policy::{AskError, Asked, Asker, Identity};
use crate::routing::{self, ResolveError, Subscription};
use crate::shadow::{self, LoadRequest, LoadResult};

/// What a worker has done.
pub(super) enum Done {
    /// The database can be asked; the catalog at hand may be old.
    Connected,
    Horizon(Option<Horizon>),
    Catalog(Option<(Arc<Catalog>, Option<Box<Knowledge>>)>),
    Shadow(LoadResult),
    Resolved {
        ticket: u64,
        result: Result<Vec<Subscription>, String>,
    },
    Unresolved(Resolve),
    Answer {
        lane: LaneId,
        pool: Pool,
        asked: Option<Asked>,
    },
    /// A connection of the pool can take a question.
    Idle(Pool),
    Snapshot {
        ticket: u64,
        identity: Identity,
        outcome: SnapshotOutcome,
    },
    /// A connection can take a snapshot.
    SnapshotIdle,
}

/// Where the conductor's wishes go. Every queue has room for all that the conductor can want at once.
pub(super) struct Workers {
    horizons: mpsc::Sender<()>,
    lookups: mpsc::Sender<Lookup>,
    shadows: mpsc::Sender<LoadRequest>,
    questions: Vec<(Pool, Arc<Desk<Ask>>)>,
    snapshots: Arc<Desk<Box<SnapshotRequest>>>,
}

/// The idle connections of a pool. The one that was idle for the shortest time is asked first: what it has cached is
/// still at hand.
struct Desk<T>(Mutex<Vec<mpsc::Sender<T>>>);

impl<T> Default for Desk<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> Desk<T> {
    fn add(&self, worker: mpsc::Sender<T>) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(worker);
    }

    fn take(&self) -> Option<mpsc::Sender<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }
}

enum Lookup {
    Catalog,
    Resolve(Resolve),
}

/// A query for one snapshot must not take longer; it is a look at shared memory.
const HORIZON_TIMEOUT: Duration = Duration::from_secs(10);
/// The session of look-ups.
const LOOKUP_SETTINGS: &str = "set statement_timeout = '2s'";
/// A catalog load or a look-up of bindings.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(60);
/// Loading a table that policies look into.
const SHADOW_TIMEOUT: Duration = Duration::from_secs(300);
/// Pauses before it is tried again.
const SHADOW_PAUSE_MIN: Duration = Duration::from_millis(20);
const SHADOW_PAUSE_MAX: Duration = Duration::from_secs(10);
/// More than the conductor ever has under way.
const QUEUE_MAX: usize = 256;

impl Workers {
    pub(super) fn start(
        options: &Options,
        hang_up: &Arc<Notify>,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> (Self, mpsc::Receiver<Done>) {
        let (done, done_in) = mpsc::channel(QUEUE_MAX);
        let worker = |name: &'static str| Worker {
            database: options.database.clone(),
            name,
            hang_up: Arc::clone(hang_up),
            tasks: tasks.clone(),
            stop: stop.clone(),
            done: done.clone(),
        };
        let (horizons, horizons_in) = mpsc::channel(QUEUE_MAX);
        let publications: Arc<[String]> = options.slot.publications.clone().into();
        tasks.spawn(worker("walcast horizon").take_horizons(
            horizons_in,
            Arc::clone(&publications),
            options.compile,
        ));
        let (lookups, lookups_in) = mpsc::channel(QUEUE_MAX);
        tasks.spawn(worker("walcast catalog").look_up(
            lookups_in,
            Arc::clone(&publications),
            options.compile,
        ));
        let (shadows, shadows_in) = mpsc::channel(QUEUE_MAX);
        if options.compile {
            let publications = Arc::clone(&publications);
            tasks.spawn(worker("walcast shadow").load_shadows(shadows_in, publications));
        }
        let snapshots = Arc::new(Desk::default());
        let place = Place {
            publications,
            compile: options.compile,
            limits: options.snapshot_limits,
            directory: options.log.directory.clone(),
        };
        for _ in 0..options.snapshot_connections.max(1) {
            let desk = Arc::clone(&snapshots);
            tasks.spawn(worker("walcast snapshots").take_snapshots(desk, place.clone()));
        }
        let mut questions = Vec::new();
        for pool in Pool::ALL {
            let desk = Arc::new(Desk::default());
            for _ in 0..pool.connections(options).max(1) {
                tasks.spawn(worker("walcast questions").answer(pool, Arc::clone(&desk)));
            }
            questions.push((pool, desk));
        }
        (
            Self {
                horizons,
                lookups,
                shadows,
                questions,
                snapshots,
            },
            done_in,
        )
    }

    pub(super) fn take_horizon(&self) {
        send(&self.horizons, ());
    }

    pub(super) fn load_catalog(&self) {
        send(&self.lookups, Lookup::Catalog);
    }

    pub(super) fn load_shadow(&self, request: LoadRequest) {
        send(&self.shadows, request);
    }

    pub(super) fn take_snapshot(&self, request: Box<SnapshotRequest>) {
        if let Some(worker) = self.snapshots.take() {
            send(&worker, request);
        }
    }

    pub(super) fn resolve(&self, resolve: Resolve) {
        send(&self.lookups, Lookup::Resolve(resolve));
    }

    pub(super) fn ask(&self, ask: Ask) {
        let desk = self.questions.iter().find(|(pool, _)| *pool == ask.pool);
        if let Some(worker) = desk.and_then(|(_, desk)| desk.take()) {
            send(&worker, ask);
        }
    }
}

/// Full or closed queues mean that the process is ending: the conductor never has more under way than fits.
fn send<T>(queue: &mpsc::Sender<T>, item: T) {
    if let Err(error) = queue.try_send(item) {
        tracing::debug!(%error, "a worker no longer takes work");
    }
}

struct Worker {
    database: Database,
    name: &'static str,
    /// Told when the server takes no sessions: it may be shutting down and waiting for the one that streams.
    hang_up: Arc<Notify>,
    tasks: TaskTracker,
    stop: CancellationToken,
    done: mpsc::Sender<Done>,
}

impl Worker {
    /// A connection, however long it takes; `None` when the process stops.
    async fn connect(&self) -> Option<Client> {
        let pauses = ExponentialBuilder::default()
            .with_jitter()
            .with_min_delay(Duration::from_millis(50))
            .with_max_delay(Duration::from_secs(1))
            .without_max_times();
        let mut pauses = pauses.build();
        loop {
            let attempt = self
                .stop
                .run_until_cancelled(self.database.connect(&self.tasks, self.name))
                .await?;
            match attempt {
                Ok(client) => return Some(client),
                Err(error) => {
                    tracing::debug!(%error, worker = self.name, "cannot connect to the database");
                    if error.is_closing_or_opening() {
                        self.hang_up.notify_waiters();
                    }
                }
            }
            let pause = pauses.next().unwrap_or(Duration::from_secs(1));
            self.stop
                .run_until_cancelled(tokio::time::sleep(pause))
                .await?;
        }
    }

    /// False when nobody listens any more.
    async fn report(&self, done: Done) -> bool {
        self.done.send(done).await.is_ok()
    }

    async fn take_horizons(
        self,
        mut requests: mpsc::Receiver<()>,
        publications: Arc<[String]>,
        compile: bool,
    ) {
        while let Some(client) = self.connect().await {
            if !self.report(Done::Connected).await {
                return;
            }
            let mut watch = match Watch::prepare(&client, compile).await {
                Ok(watch) => watch,
                Err(error) => {
                    tracing::warn!(%error, "cannot prepare the snapshot query");
                    if self
                        .stop
                        .run_until_cancelled(tokio::time::sleep(Duration::from_secs(1)))
                        .await
                        .is_none()
                    {
                        return;
                    }
                    continue;
                }
            };
            loop {
                let Some(Some(())) = self.stop.run_until_cancelled(requests.recv()).await else {
                    return;
                };
                let query = take_horizon(&mut watch, &client, &publications);
                let horizon = tokio::time::timeout(HORIZON_TIMEOUT, query)
                    .await
                    .ok()
                    .flatten();
                let failed = horizon.is_none();
                if !self.report(Done::Horizon(horizon)).await {
                    return;
                }
                if failed {
                    break;
                }
            }
        }
    }

    async fn look_up(
        self,
        mut requests: mpsc::Receiver<Lookup>,
        publications: Arc<[String]>,
        compile: bool,
    ) {
        while let Some(client) = self.connect().await {
            // One subscriber's filter must not keep the others' waiting; reading the catalog sets a limit of its own.
            if let Err(error) = client.batch_execute(LOOKUP_SETTINGS).await {
                tracing::debug!(%error, "cannot set up the session for look-ups");
                continue;
            }
            loop {
                let Some(Some(lookup)) = self.stop.run_until_cancelled(requests.recv()).await
                else {
                    return;
                };
                let mut broken = false;
                let done = match lookup {
                    Lookup::Catalog => {
                        let loaded = tokio::time::timeout(
                            LOOKUP_TIMEOUT,
                            catalog::load(&client, &publications, compile),
                        )
                        .await;
                        let loaded = loaded.map_err(|elapsed| tracing::warn!(%elapsed, "reading the catalog took too long")).ok();
                        let loaded = loaded.and_then(|loaded| {
                            loaded
                                .map_err(|error| {
                                    tracing::warn!(
                                        error = &error as &dyn std::error::Error,
                                        "cannot read the catalog"
                                    )
                                })
                                .ok()
                        });
                        match loaded {
                            None => Done::Catalog(None),
                            Some(loaded) => {
                                let (known, sound) = if compile {
                                    learn(&client, &publications, &loaded).await
                                } else {
                                    (None, true)
                                };
                                broken = !sound;
                                Done::Catalog(Some((Arc::new(loaded), known)))
                            }
                        }
                    }
                    Lookup::Resolve(resolve) => {
                        let resolved = routing::resolve(
                            &client,
                            &resolve.catalog,
                            &resolve.role,
                            &resolve.bindings,
                        );
                        match tokio::time::timeout(LOOKUP_TIMEOUT, resolved).await {
                            Ok(Ok(subscriptions)) => Done::Resolved {
                                ticket: resolve.ticket,
                                result: Ok(subscriptions),
                            },
                            Ok(Err(ResolveError::Refused(text))) => Done::Resolved {
                                ticket: resolve.ticket,
                                result: Err(text),
                            },
                            Ok(Err(ResolveError::Unavailable(error))) => {
                                tracing::warn!(%error, "cannot look up a subscription");
                                Done::Unresolved(resolve)
                            }
                            Err(_elapsed) => Done::Unresolved(resolve),
                        }
                    }
                };
                let failed = matches!(done, Done::Unresolved(_) | Done::Catalog(None));
                if !self.report(done).await {
                    return;
                }
                if failed || broken || client.is_closed() {
                    break;
                }
            }
        }
    }

    /// Loads tables, one at a time; those that failed before wait for their turn.
    async fn load_shadows(
        self,
        mut requests: mpsc::Receiver<LoadRequest>,
        publications: Arc<[String]>,
    ) {
        let mut waiting: Vec<(Instant, LoadRequest)> = Vec::new();
        while let Some(client) = self.connect().await {
            loop {
                let next = (waiting.iter().enumerate())
                    .min_by_key(|(_, (due, _))| *due)
                    .map(|(index, (due, _))| (index, *due));
                let due = async {
                    match next {
                        Some((index, due)) => {
                            tokio::time::sleep_until(due.into()).await;
                            index
                        }
                        None => std::future::pending().await,
                    }
                };
                let index = tokio::select! {
                    biased;
                    () = self.stop.cancelled() => return,
                    request = requests.recv() => {
                        let Some(request) = request else { return };
                        let due = clock::instant() + shadow_pause(request.attempt);
                        waiting.push((due, request));
                        continue;
                    }
                    index = due => index,
                };
                let (_, request) = waiting.swap_remove(index);
                let failed = request.clone();
                let load = shadow::load(&client, &publications, request);
                let load = tokio::time::timeout(SHADOW_TIMEOUT, load);
                let Some(loaded) = self.stop.run_until_cancelled(load).await else {
                    return;
                };
                let timed_out = loaded.is_err();
                let result = loaded
                    .unwrap_or_else(|_elapsed| LoadResult::failed(&failed, "it took too long"));
                if !self.report(Done::Shadow(result)).await {
                    return;
                }
                if timed_out || client.is_closed() {
                    break;
                }
            }
        }
    }

    async fn take_snapshots(self, desk: Arc<Desk<Box<SnapshotRequest>>>, place: Place) {
        let (requests, mut requests_in) = mpsc::channel(1);
        while let Some(client) = self.connect().await {
            let mut taker = match Taker::new(client, place.clone()).await {
                Ok(taker) => taker,
                Err(error) => {
                    tracing::debug!(%error, "cannot set up a session for snapshots");
                    continue;
                }
            };
            loop {
                desk.add(requests.clone());
                if !self.report(Done::SnapshotIdle).await {
                    return;
                }
                let Some(Some(request)) = self.stop.run_until_cancelled(requests_in.recv()).await
                else {
                    return;
                };
                let (ticket, identity) = (request.ticket, request.identity.clone());
                let take = taker.take(*request);
                let Some((outcome, is_good)) = self.stop.run_until_cancelled(take).await else {
                    return;
                };
                let done = Done::Snapshot {
                    ticket,
                    identity,
                    outcome,
                };
                if !self.report(done).await {
                    return;
                }
                if !is_good {
                    break;
                }
            }
        }
    }

    async fn answer(self, pool: Pool, desk: Arc<Desk<Ask>>) {
        let (asks, mut asks_in) = mpsc::channel(1);
        while let Some(client) = self.connect().await {
            let Ok(mut asker) = Asker::new(client).await else {
                continue;
            };
            loop {
                desk.add(asks.clone());
                if !self.report(Done::Idle(pool)).await {
                    return;
                }
                let Some(Some(Ask {
                    lane,
                    timeout,
                    question,
                    catalog,
                    ..
                })) = self.stop.run_until_cancelled(asks_in.recv()).await
                else {
                    return;
                };
                let mut told = false;
                let early = |asked| {
                    let answer = Done::Answer {
                        lane,
                        pool,
                        asked: Some(asked),
                    };
                    told = self.done.try_send(answer).is_ok();
                };
                let asked = asker.ask(&question, &catalog, timeout, early).await;
                if let Err(error) = &asked {
                    let source = std::error::Error::source(error)
                        .map(ToString::to_string)
                        .unwrap_or_default();
                    tracing::debug!(%error, source, "a question is put again");
                }
                let failed = matches!(asked, Err(AskError::Connection(_) | AskError::Silent));
                if !told {
                    let answer = Done::Answer {
                        lane,
                        pool,
                        asked: asked.ok(),
                    };
                    if !self.report(answer).await {
                        return;
                    }
                }
                if failed {
                    break;
                }
            }
        }
    }
}

/// What compiled policies need, of the same state as the catalog, and whether the connection can still be used.
async fn learn(
    client: &Client,
    publications: &[String],
    catalog: &Catalog,
) -> (Option<Box<Knowledge>>, bool) {
    let learnt = knowledge::load(client, publications, &catalog.fingerprint);
    match tokio::time::timeout(LOOKUP_TIMEOUT, learnt).await {
        Ok(Ok(known)) => (known.map(Box::new), true),
        Ok(Err(error)) => {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "cannot read what compiled policies need; Postgres is asked instead"
            );
            (None, false)
        }
        Err(_elapsed) => {
            tracing::warn!(
                "reading what compiled policies need took too long; Postgres is asked instead"
            );
            (None, false)
        }
    }
}

/// Pause before a load that follows failed ones.
fn shadow_pause(attempt: u32) -> Duration {
    match attempt.checked_sub(1) {
        None => Duration::ZERO,
        Some(doublings) => SHADOW_PAUSE_MIN
            .saturating_mul(1 << doublings.min(16))
            .min(SHADOW_PAUSE_MAX),
    }
}

async fn take_horizon(
    watch: &mut Watch,
    client: &Client,
    publications: &Arc<[String]>,
) -> Option<Horizon> {
    let publications: Vec<&str> = publications.iter().map(String::as_str).collect();
    let glance = watch
        .look(client, &publications)
        .await
        .map_err(|error| tracing::debug!(%error, "cannot take a snapshot"))
        .ok()??;
    Some(Horizon {
        snapshot: glance.snapshot,
        insert_lsn: glance.insert_lsn,
        fingerprint: glance.fingerprint,
    })
}
