//! `walcast serve`: the server itself, from settings to a graceful end.
//!
//! It listens at once and says on `/ready` that it is not; what stands in the way is said in one sentence each. What time
//! may mend (a database that restarts, a slot that somebody else holds) is waited for. What only an operator can mend ends
//! the process, so that a supervisor notices.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rand::Rng as _;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use super::check;
use super::output::{Line, Mark, sentence};
use super::verifier::{self, VerifierError};
use crate::config::{Config, ConfigError, Deletes, Secret, VerdictSource};
use crate::database::{Database, DatabaseUrlError};
use crate::log;
use crate::messages;
use crate::metrics::Metrics;
use crate::pipeline::{self, SnapshotLimits, Status};
use crate::realtime::{self, PerSecond};
use crate::replication::assembler::SpoolOptions;
use crate::replication::slot::SlotOptions;
use crate::replication::status::ReplicationState;
use crate::rooms::{self, Rooms};
use crate::server::{self, ServerOptions, Services};
use crate::shutdown::Shutdown;

/// The wait before the second attempt to reach the database; doubled each time.
const RETRY_MIN: Duration = Duration::from_millis(200);
/// The longest wait between two attempts.
const RETRY_MAX: Duration = Duration::from_secs(5);

/// Why the server did not start, or ended by itself.
#[derive(Debug, thiserror::Error)]
pub(super) enum ServeError {
    #[error(transparent)]
    Settings(#[from] ConfigError),
    #[error(transparent)]
    Url(#[from] DatabaseUrlError),
    #[error(transparent)]
    Verifier(#[from] VerifierError),
    #[error("cannot listen on {address}; choose another with WALCAST_LISTEN")]
    Listen {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("{}", problems.iter().map(problem).collect::<Vec<_>>().join("\nwalcast: "))]
    Misconfigured { problems: Vec<Line> },
}

/// A problem and what mends it.
fn problem(line: &Line) -> String {
    let mut text = line.text.clone();
    for remedy in &line.remedy {
        text.push_str("\n  ");
        text.push_str(remedy);
    }
    text
}

/// Serves until `stop` or until a misconfiguration is found, then leaves gracefully. `on_ready` is called once, with the
/// address, when changes flow for the first time.
///
/// Not cancel safe: the way out is `stop`.
///
/// # Errors
/// What the operator must mend.
pub(super) async fn run(
    config: &Config,
    stop: impl Future<Output = ()>,
    on_ready: impl FnOnce(SocketAddr),
) -> Result<(), ServeError> {
    let database = Database::parse(config.database_url()?.expose())?;
    let verifier = Arc::new(verifier::make(config)?);
    let failed = |source| ServeError::Listen {
        address: config.listen,
        source,
    };
    let listener = TcpListener::bind(config.listen).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    info!(%address, database = database.name(), "listening");

    let shutdown = Shutdown::new();
    let rooms = Rooms::new();
    // Sockets that leave are told of to those that are still there.
    shutdown
        .pipeline_tasks
        .spawn(rooms::run(rooms.clone(), shutdown.pipeline.clone()));
    let metrics = Arc::new(Metrics::new());
    let handle = pipeline::start(
        pipeline_options(config, database.clone(), rooms.clone(), &metrics),
        &shutdown.pipeline_tasks,
        &shutdown.pipeline,
    );
    let messages = messages::start(
        &messages::Options {
            database: database.clone(),
            connections: config.message_connections,
            timeout: config.message_timeout,
            order: Arc::clone(&handle.order),
            times: metrics.question_times.clone(),
        },
        &shutdown.pipeline_tasks,
        &shutdown.pipeline,
    );
    let status = handle.status.clone();
    shutdown.server_tasks.spawn(server::serve(
        listener,
        server_options(config, verifier),
        Services {
            pipeline: handle,
            rooms,
            messages,
        },
        shutdown.clone(),
        metrics,
    ));

    let outcome = tokio::select! {
        () = stop => Ok(()),
        problems = misconfiguration(&database, &shutdown.pipeline_tasks, config) => {
            Err(ServeError::Misconfigured { problems })
        }
        never = narrate(status, || on_ready(address)) => match never {},
    };
    info!("stopping: no further connections; sockets are told to reconnect");
    let left = shutdown.run(config.drain_grace).await;
    if left.server_tasks > 0 || left.pipeline_tasks > 0 {
        warn!(
            server_tasks = left.server_tasks,
            pipeline_tasks = left.pipeline_tasks,
            "not everything ended within the grace time"
        );
    }
    outcome
}

/// Tells diagnostics when changes begin and cease to flow. Cancel safe.
async fn narrate(
    mut status: watch::Receiver<Status>,
    on_ready: impl FnOnce(),
) -> std::convert::Infallible {
    let mut on_ready = Some(on_ready);
    let mut told = String::new();
    loop {
        let Status {
            ready,
            detail,
            replication,
            ..
        } = status.borrow_and_update().clone();
        if ready && let Some(on_ready) = on_ready.take() {
            on_ready();
        }
        let news = if ready {
            "changes flow"
        } else {
            detail.as_str()
        };
        if news != told {
            match replication.state {
                ReplicationState::Failed { .. } | ReplicationState::Standby { .. } => {
                    warn!("not ready: {news}");
                }
                // Steps on the way, of which a server that was never ready has several.
                _ if !ready && on_ready.is_some() => info!("not ready yet: {news}"),
                _ if !ready => warn!("not ready: {news}"),
                _ => info!("{news}"),
            }
            told = news.to_owned();
        }
        if status.changed().await.is_err() {
            // The pipeline has ended, which only a shutdown makes it do.
            std::future::pending::<()>().await;
        }
    }
}

/// Waits for the database and looks at what `check` calls failures. Returns only if an operator must do something. Cancel
/// safe.
async fn misconfiguration(database: &Database, tasks: &TaskTracker, config: &Config) -> Vec<Line> {
    let mut wait = RETRY_MIN;
    loop {
        match look(database, tasks, config).await {
            Look::Fine => std::future::pending().await,
            Look::Wrong(problems) => return problems,
            Look::Later => {}
        }
        // Jitter, so that several servers do not come back in step.
        let jitter = rand::rng().random_range(0.5..1.0);
        tokio::time::sleep(wait.mul_f64(jitter)).await;
        wait = wait.saturating_mul(2).min(RETRY_MAX);
    }
}

enum Look {
    Fine,
    Wrong(Vec<Line>),
    /// The database is away; the pipeline says so.
    Later,
}

async fn look(database: &Database, tasks: &TaskTracker, config: &Config) -> Look {
    let client = match database.connect(tasks, "walcast start").await {
        Ok(client) => client,
        Err(error) if error.is_misconfiguration() => {
            return Look::Wrong(vec![Line::new(Mark::Failure, sentence(&error))]);
        }
        Err(_) => return Look::Later,
    };
    let Ok(problems) = check::blocking(&client, &slot_options(config)).await else {
        return Look::Later;
    };
    if !problems.is_empty() {
        return Look::Wrong(problems);
    }
    // Nothing of this keeps everybody from being served, so it is said and no more.
    for line in check::essentials(&client, config).await.unwrap_or_default() {
        if line.mark == Mark::Failure {
            warn!("{}", problem(&line));
        }
    }
    Look::Fine
}

/// What is read through which slot.
pub(super) fn slot_options(config: &Config) -> SlotOptions {
    SlotOptions {
        name: config.slot.clone(),
        publications: config.publications.clone(),
        // Only made use of where the server has them, and harmless where no standby does.
        failover: true,
        retained_wal_bytes_max: config.retained_wal_bytes_max,
        trail_bytes_max: config.resume_wal_bytes_max,
    }
}

fn pipeline_options(
    config: &Config,
    database: Database,
    rooms: Rooms,
    metrics: &Metrics,
) -> pipeline::Options {
    let directory = config
        .spool_directory
        .clone()
        .unwrap_or_else(large_temporary_files);
    let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    pipeline::Options {
        database,
        rooms,
        slot: slot_options(config),
        spool: SpoolOptions {
            file_bytes_max: config.spool_bytes_max,
            ..SpoolOptions::new(directory.clone())
        },
        log: log::Limits {
            memory_bytes_max: size(config.change_log_memory_bytes_max),
            bytes_max: size(config.change_log_bytes_max),
            directory: directory.clone(),
        },
        connections_proven: config.question_connections,
        connections_new: config.question_connections_new,
        connections_quarantine: config.question_connections_quarantine,
        statement_timeout: config.question_timeout,
        withhold_deletes: config.deletes == Deletes::Withhold,
        compile: config.verdicts == VerdictSource::Compiled,
        shadow_bytes_max: config.shadow_bytes_max,
        snapshot_connections: config.snapshot_connections,
        snapshot_limits: SnapshotLimits {
            rows_max: u64::try_from(config.snapshot_rows_max).unwrap_or(u64::MAX),
            bytes_max: config.snapshot_bytes_max,
            time_max: config.snapshot_timeout,
        },
        snapshot_spool_bytes_max: size(config.snapshot_spool_bytes_max),
        state_directory: config.state_dir.clone(),
        history: pipeline::HistoryLimits {
            bytes_max: size(config.history_bytes_max),
            transaction_bytes_max: size(config.history_bytes_max / 4),
            file_bytes_max: size(config.history_spool_bytes_max),
            directory,
            age_max: config.history_age_max,
        },
        broadcast_bytes_max: config.payload_bytes_max,
        database_broadcasts: metrics.database_broadcasts.clone(),
    }
}

/// `/tmp` is often kept in memory, which is what a spool is to save.
fn large_temporary_files() -> PathBuf {
    let usual = Path::new("/var/tmp");
    if usual.is_dir() {
        usual.to_owned()
    } else {
        std::env::temp_dir()
    }
}

fn server_options(config: &Config, verifier: Arc<crate::auth::Verifier>) -> ServerOptions {
    ServerOptions {
        limits: realtime::Limits {
            channels_max: config.channels_per_socket_max,
            payload_bytes_max: config.payload_bytes_max,
            messages: PerSecond {
                socket: config.messages_per_second_per_socket_max,
                channel: config.messages_per_second_per_channel_max,
                subject: config.messages_per_second_per_subject_max,
            },
            joins: PerSecond {
                socket: config.joins_per_second_per_socket_max,
                channel: 0,
                subject: config.joins_per_second_per_subject_max,
            },
            presence_events: PerSecond {
                socket: config.presence_events_per_second_per_socket_max,
                channel: config.presence_events_per_second_per_channel_max,
                subject: config.presence_events_per_second_per_subject_max,
            },
            presence_calls_max: config.presence_calls_max,
            recheck_interval: config.permission_recheck_interval,
            ..realtime::Limits::default()
        },
        metrics_secret: config
            .metrics_secret
            .as_ref()
            .map(|secret: &Secret| secret.expose().to_owned()),
        sockets_max: config.sockets_max,
        refusal_delay: config.error_delay,
        stall_timeout: config.slow_consumer_timeout,
        ..ServerOptions::new(verifier)
    }
}
