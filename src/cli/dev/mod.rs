//! `walcast dev`: a private Postgres with demo data and a server before it, from nothing, on one machine.
//!
//! Everything it starts ends with it. What it leaves behind is one folder, which the next run takes up again.

mod cluster;
mod home;
mod programs;
mod welcome;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tokio_util::task::TaskTracker;

use super::output::{Mark, complain, report, say};
use super::serve::{self, ServeError};
use super::setup::{self, SetupError};
use super::signals::Signals;
use crate::auth::{Grant, MintError, mint};
use crate::clock;
use crate::config::{Config, ConfigError, Sources};
use crate::database::{ConnectError, Database, DatabaseUrlError};
use cluster::{Cluster, ClusterError};
use home::{Home, HomeError, random_secret};
use programs::{Programs, ProgramsError};
use welcome::{PEOPLE, Welcome};

/// The database with the demo data.
const DATABASE: &str = "walcast";
/// The demo data.
const DEMO: &str = include_str!("../../../sql/demo.sql");
/// Long enough for a browser tab left open over a week; each start mints new ones.
const TOKEN_SECONDS: i64 = 7 * 24 * 60 * 60;
/// Recovery after a crash, as for the start of the cluster.
const CONNECT_MAX: Duration = Duration::from_secs(60);

/// What the command line says.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) listen: Option<SocketAddr>,
    pub(super) reset: bool,
    pub(super) directory: Option<PathBuf>,
    pub(super) programs: Option<PathBuf>,
    pub(super) log_level: String,
}

/// Why there is no development server.
#[derive(Debug, thiserror::Error)]
pub(super) enum DevError {
    #[error(transparent)]
    Programs(#[from] ProgramsError),
    #[error(transparent)]
    Home(#[from] HomeError),
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Url(#[from] DatabaseUrlError),
    #[error("cannot prepare the demo database")]
    Demo(#[from] tokio_postgres::Error),
    #[error(transparent)]
    Setup(#[from] SetupError),
    #[error("the demo database could not be prepared; see above")]
    Incomplete,
    #[error(transparent)]
    Mint(#[from] MintError),
    #[error(transparent)]
    Settings(#[from] ConfigError),
    #[error(transparent)]
    Serve(#[from] ServeError),
    #[error("Postgres ended by itself; see {}", log.display())]
    PostgresEnded { log: PathBuf },
}

/// Runs until a signal asks it to stop, or Postgres ends.
///
/// Not cancel safe: it stops what it started on its own way out.
///
/// # Errors
/// Something could not be started; whatever was started before has been stopped again.
pub(super) async fn run(wanted: Wanted, mut signals: Signals) -> Result<(), DevError> {
    let home = Home::open(wanted.directory.as_deref())?;
    let programs = programs::find(wanted.programs.as_deref())?;
    if wanted.reset {
        cluster::reset(&home).await?;
    }
    say(&format!(
        "Starting Postgres {} in {} …",
        programs.major,
        home.folder.display()
    ));
    let mut cluster = cluster::start(&home, &programs).await?;
    let outcome = work(&home, &programs, &mut cluster, &wanted, &mut signals).await;
    say("Stopping …");
    cluster.stop().await;
    outcome
}

async fn work(
    home: &Home,
    programs: &Programs,
    cluster: &mut Cluster,
    wanted: &Wanted,
    signals: &mut Signals,
) -> Result<(), DevError> {
    let secrets = Secrets::keep(home)?;
    let (port, password) = (cluster.port, cluster.password.clone());
    let url = |database: &str| {
        format!(
            "postgres://{}:{password}@127.0.0.1:{port}/{database}?sslmode=disable",
            cluster::USER
        )
    };
    let (maintenance_url, database_url) = (url("postgres"), url(DATABASE));
    let prepared = tokio::select! {
        prepared = prepare(&maintenance_url, &database_url) => prepared,
        () = signals.stop() => return Ok(()),
    };
    prepared?;
    let config = config(&database_url, &secrets, wanted)?;
    if let Err(error) = super::diagnostics::start(&config) {
        complain(&error.to_string());
    }
    let tokens = tokens(&secrets.jwt_secret)?;
    let psql = programs.psql();
    let ended = std::cell::Cell::new(false);
    let stop = async {
        tokio::select! {
            () = signals.stop() => {}
            () = cluster.ended() => ended.set(true),
        }
    };
    let welcome = |address| {
        let welcome = Welcome {
            address,
            psql: &psql,
            database_url: &database_url,
            tokens: &tokens,
            publishable_key: &secrets.publishable_key,
            secret_key: &secrets.secret_key,
            jwt_secret: &secrets.jwt_secret,
        };
        say(&welcome.print());
    };
    serve::run(&config, stop, welcome).await?;
    if ended.get() {
        return Err(DevError::PostgresEnded {
            log: home.folder.join("postgres.log"),
        });
    }
    Ok(())
}

/// Made once and kept, so that pasted tokens and keys go on working after a restart.
struct Secrets {
    jwt_secret: String,
    publishable_key: String,
    secret_key: String,
}

impl Secrets {
    fn keep(home: &Home) -> Result<Self, HomeError> {
        Ok(Self {
            jwt_secret: home.keep("jwt-secret", random_secret)?,
            publishable_key: home.keep("publishable-key", || {
                format!("sb_publishable_{}", random_secret())
            })?,
            secret_key: home.keep("secret-key", || format!("sb_secret_{}", random_secret()))?,
        })
    }
}

/// Database, setup and demo data, each only where missing.
async fn prepare(maintenance: &str, target: &str) -> Result<(), DevError> {
    let tasks = TaskTracker::new();
    let client = connect(&Database::parse(maintenance)?, &tasks).await?;
    if client
        .query_opt(
            "select from pg_catalog.pg_database where datname = $1",
            &[&DATABASE],
        )
        .await?
        .is_none()
    {
        client.batch_execute("create database walcast").await?;
    }
    drop(client);
    let database = Database::parse(target)?;
    let publications = ["supabase_realtime".to_owned()];
    let plan = setup::Plan {
        publications: &publications,
        messaging: true,
        login: None,
    };
    let lines = setup::run(&database, &tasks, &plan).await?;
    let failures: Vec<_> = lines
        .into_iter()
        .filter(|line| line.mark == Mark::Failure)
        .collect();
    if !failures.is_empty() {
        report(&failures);
        return Err(DevError::Incomplete);
    }
    let client = database.connect(&tasks, "walcast dev").await?;
    client.batch_execute(DEMO).await?;
    Ok(())
}

/// Connects, waiting while Postgres recovers from a crash.
async fn connect(
    database: &Database,
    tasks: &TaskTracker,
) -> Result<tokio_postgres::Client, ConnectError> {
    let attempts = async {
        loop {
            match database.connect(tasks, "walcast dev").await {
                Err(error) if !error.is_misconfiguration() => {
                    tokio::time::sleep(Duration::from_millis(100)).await
                }
                outcome => return outcome,
            }
        }
    };
    match tokio::time::timeout(CONNECT_MAX, attempts).await {
        Ok(outcome) => outcome,
        // Once more for its error.
        Err(_elapsed) => database.connect(tasks, "walcast dev").await,
    }
}

fn config(database_url: &str, secrets: &Secrets, wanted: &Wanted) -> Result<Config, ConfigError> {
    let listen = wanted.listen.unwrap_or_else(free_address);
    let settings = [
        ("database_url", database_url.to_owned()),
        ("listen", listen.to_string()),
        ("jwt_secret", secrets.jwt_secret.clone()),
        ("publishable_key", secrets.publishable_key.clone()),
        ("secret_key", secrets.secret_key.clone()),
        ("log_level", wanted.log_level.clone()),
        // Nobody guesses keys here, and who mistypes one should not wait.
        ("error_delay", "0s".to_owned()),
    ];
    let flags: BTreeMap<String, Vec<String>> = settings
        .into_iter()
        .map(|(key, value)| (key.to_owned(), vec![value]))
        .collect();
    let parsed = Config::parse(&Sources {
        flags,
        ..Sources::default()
    });
    parsed.map_err(|errors| {
        errors
            .into_iter()
            .next()
            .unwrap_or(ConfigError::DatabaseMissing)
    })
}

/// Port 4000 on loopback, or the next that is free.
fn free_address() -> SocketAddr {
    let candidates = (4000..4100).map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    let free = |address: &SocketAddr| std::net::TcpListener::bind(address).is_ok();
    candidates
        .into_iter()
        .find(free)
        .unwrap_or(SocketAddr::from(([127, 0, 0, 1], 4000)))
}

fn tokens(secret: &str) -> Result<Vec<String>, MintError> {
    let now = clock::unix_seconds();
    PEOPLE
        .iter()
        .map(|person| {
            let grant = Grant {
                role: "authenticated",
                subject: Some(person.id),
                expires_at: now.saturating_add(TOKEN_SECONDS),
                extra: Some(&format!(r#"{{"email":"{}@example.com"}}"#, person.name)),
            };
            mint(secret, &grant)
        })
        .collect()
}
