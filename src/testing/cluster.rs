//! A private Postgres cluster on a loopback port.
//!
//! *io*: starts Postgres, connects to it.

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio_postgres::NoTls;

use super::PATIENCE;
use super::installation::{Installation, PASSWORD};
use super::leash::{Leash, Tether, free_port};

/// What every test cluster runs with; the rest is Postgres' default, above all `synchronous_commit = on`.
const SETTINGS: &[&str] = &[
    "listen_addresses=127.0.0.1",
    "unix_socket_directories=",
    "wal_level=logical",
    "fsync=off",
    "full_page_writes=off",
    "max_connections=500",
    "max_replication_slots=100",
    "max_wal_senders=100",
    "max_logical_replication_workers=0",
    "shared_buffers=128MB",
    "max_wal_size=4GB",
    "log_min_messages=warning",
];

/// A running (or stopped) cluster; it ends and its files go when this is dropped or the process ends.
#[derive(Debug)]
pub struct Cluster {
    postmaster: Mutex<Option<Leash>>,
    folder: PathBuf,
    port: u16,
    settings: Vec<String>,
    /// Databases made so far, for their names.
    databases: AtomicU32,
    template: OnceLock<()>,
}

impl Cluster {
    /// Starts a cluster of its own; `settings` (`name=value`) override the harness' defaults.
    #[must_use]
    pub fn start(settings: &[&str]) -> Self {
        let installation = Installation::find();
        let folder = installation.run_folder();
        installation.copy_template(&folder.join("data"));
        let settings = settings.iter().map(|&setting| setting.to_owned());
        Self::begin(folder, settings.collect())
    }

    /// Starts Postgres on the files in `folder`.
    fn begin(folder: PathBuf, settings: Vec<String>) -> Self {
        let mut cluster = Self {
            postmaster: Mutex::new(None),
            folder,
            port: 0,
            settings,
            databases: AtomicU32::new(0),
            template: OnceLock::new(),
        };
        // Between choosing a port and listening on it somebody else may take it.
        for _attempt in 0..5 {
            cluster.port = free_port();
            if cluster.try_start(&[]) {
                return cluster;
            }
        }
        panic!("Postgres does not start: {}", cluster.log());
    }

    /// The cluster that most tests of this process share, each with a database of its own.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Cluster> = OnceLock::new();
        SHARED.get_or_init(|| Self::start(&[]))
    }

    /// Loopback port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The data directory.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Connection string of a database, as the superuser.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        self.url_as("postgres", PASSWORD, database)
    }

    /// Connection string of a database, as anybody.
    #[must_use]
    pub fn url_as(&self, user: &str, password: &str, database: &str) -> String {
        format!(
            "postgres://{user}:{password}@127.0.0.1:{}/{database}",
            self.port
        )
    }

    /// A session of the superuser.
    pub async fn connect(&self, database: &str) -> Session {
        Session::connect(&self.url(database)).await
    }

    /// What Postgres logged.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// Runs SQL with `psql`, each string in a transaction of its own, and gives what it printed (unaligned, tuples
    /// only). Blocks the thread.
    pub fn psql(&self, database: &str, statements: &[&str]) -> Result<String, String> {
        let mut command = Command::new(Installation::find().bin.join("psql"));
        command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"]);
        for statement in statements {
            command.arg("-c").arg(statement);
        }
        let output = command.arg(self.url(database)).output().expect("psql runs");
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    /// A new database: a copy of one that `prepare` was run on the first time. Returns its name.
    pub fn database(&self, prepare: impl FnOnce(&str)) -> String {
        self.template.get_or_init(|| {
            self.psql("postgres", &["create database prepared"])
                .unwrap();
            prepare("prepared");
        });
        self.create_database("prepared")
    }

    /// A new database without anything in it. Returns its name.
    pub fn empty_database(&self) -> String {
        self.create_database("template1")
    }

    fn create_database(&self, template: &str) -> String {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let create = format!("create database {name} template {template}");
        self.psql("postgres", &[&create]).unwrap();
        name
    }

    /// Drops a database with its replication slots, whoever still uses them. Does nothing if the cluster is down.
    pub fn drop_database(&self, name: &str) {
        let slots = self.psql(
            "postgres",
            &[&format!(
                "select slot_name from pg_replication_slots where database = '{name}'"
            )],
        );
        for slot in slots.unwrap_or_default().lines() {
            self.drop_slot(name, slot);
        }
        let drop = format!("drop database if exists {name} with (force)");
        let _down = self.psql("postgres", &[&drop]);
    }

    /// Drops a replication slot, whoever still uses it. Does nothing if the cluster is down.
    pub fn drop_slot(&self, database: &str, slot: &str) {
        // A walsender takes a moment to leave its slot after it was told to go.
        let sql = format!(
            "do $$ begin
               for i in 1..200 loop
                 begin
                   perform pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = '{slot}';
                   perform pg_drop_replication_slot('{slot}');
                   exit;
                 exception
                   when object_in_use then perform pg_sleep(0.02);
                   when undefined_object then exit;
                 end;
               end loop;
             end $$"
        );
        let _down = self.psql(database, &[&sql]);
    }

    /// Stops Postgres and waits for its end: `INT` is the manual's fast shutdown, `QUIT` the immediate one.
    pub fn stop(&self, signal: Signal) {
        let mut postmaster = self
            .postmaster
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(leash) = postmaster.as_mut() {
            leash.signal(signal);
            let asked = Instant::now();
            while leash.exited().is_none() {
                // An immediate shutdown that meets a backend at its start has been seen to wait for it for ever.
                if signal == Signal::QUIT && asked.elapsed() > PATIENCE / 3 {
                    leash.signal(Signal::KILL);
                }
                assert!(
                    asked.elapsed() < PATIENCE,
                    "Postgres does not stop: {}",
                    self.log()
                );
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        *postmaster = None;
    }

    /// A streaming standby: a copy of the files, for which this cluster stops for a moment. `settings` are its own.
    #[must_use]
    pub fn standby(&self, settings: &[&str]) -> Self {
        let installation = Installation::find();
        let folder = installation.run_folder();
        self.stop(Signal::INT);
        installation.copy(&self.data(), &folder.join("data"));
        self.resume();
        std::fs::write(folder.join("data/standby.signal"), "").expect("the folder is ours");
        let source = format!(
            "primary_conninfo=host=127.0.0.1 port={} user=postgres password={PASSWORD} dbname=postgres application_name=standby",
            self.port
        );
        let settings = self
            .settings
            .iter()
            .map(String::as_str)
            .chain(settings.iter().copied());
        let settings = settings.chain([source.as_str()]).map(str::to_owned);
        Self::begin(folder, settings.collect())
    }

    /// Makes a standby a cluster of its own, and waits until it is.
    pub async fn promote(&self) {
        let session = self.connect("postgres").await;
        let promoted = session.text("select pg_promote(true, 60)").await;
        assert_eq!(promoted.as_deref(), Some("t"), "{}", self.log());
    }

    /// Starts a stopped cluster again, on the same port.
    pub fn resume(&self) {
        self.resume_with(&[]);
    }

    /// As [`Self::resume`], with settings for this time.
    pub fn resume_with(&self, settings: &[&str]) {
        assert!(
            self.try_start(settings),
            "Postgres does not start: {}",
            self.log()
        );
    }

    fn try_start(&self, settings: &[&str]) -> bool {
        let installation = Installation::find();
        let data = self.data();
        let mut arguments = vec![
            "-D".to_owned(),
            data.display().to_string(),
            "-p".to_owned(),
            self.port.to_string(),
        ];
        for setting in SETTINGS
            .iter()
            .copied()
            .chain(self.settings.iter().map(String::as_str))
            .chain(settings.iter().copied())
        {
            arguments.push("-c".to_owned());
            arguments.push(setting.to_owned());
        }
        let mut leash = Leash::start(
            &installation.bin.join("postgres"),
            arguments,
            &[],
            &Tether {
                log: &self.folder.join("log"),
                signal: "QUIT",
                remove: Some(&self.folder),
                account: installation.account,
            },
        );
        let started = Instant::now();
        while !is_ready(&data) {
            assert!(
                started.elapsed() < Duration::from_secs(60),
                "Postgres does not get ready: {}",
                self.log()
            );
            if leash.exited().is_some() {
                return false;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        *self
            .postmaster
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(leash);
        true
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        *self
            .postmaster
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = None;
        let _removed_by_leash = std::fs::remove_dir_all(&self.folder);
    }
}

/// Line 8 of the pid file is the postmaster's state; `pg_ctl -w` reads the same.
fn is_ready(data: &Path) -> bool {
    std::fs::read_to_string(data.join("postmaster.pid")).is_ok_and(|text| {
        text.lines()
            .nth(7)
            .is_some_and(|state| state.trim() == "ready")
    })
}

/// A connection to Postgres with its driver task; both end with it.
#[derive(Debug)]
pub struct Session {
    client: tokio_postgres::Client,
    driver: tokio::task::JoinHandle<()>,
}

impl Session {
    /// Connects without TLS.
    ///
    /// # Panics
    ///
    /// If Postgres does not take the connection.
    pub async fn connect(url: &str) -> Self {
        Self::try_connect(url).await.unwrap()
    }

    /// Connects without TLS.
    ///
    /// # Errors
    ///
    /// What Postgres or the network said.
    pub async fn try_connect(url: &str) -> Result<Self, tokio_postgres::Error> {
        let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
        let driver = tokio::spawn(async move {
            let _ended = connection.await;
        });
        Ok(Self { client, driver })
    }

    /// Runs statements separated by semicolons: one transaction, unless they say otherwise.
    ///
    /// # Panics
    ///
    /// If Postgres refuses, with the statements.
    #[track_caller]
    pub fn run<'a>(&'a self, sql: &'a str) -> impl Future<Output = ()> + 'a {
        let caller = std::panic::Location::caller();
        async move {
            if let Err(error) = self.client.batch_execute(sql).await {
                panic!("{caller}: {sql}: {error:?}");
            }
        }
    }

    /// The first column of the first row, as text.
    pub async fn text(&self, sql: &str) -> Option<String> {
        let messages = self.client.simple_query(sql).await.unwrap();
        messages.iter().find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        })
    }
}

impl Deref for Session {
    type Target = tokio_postgres::Client;

    fn deref(&self) -> &Self::Target {
        &self.client
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.driver.abort();
    }
}
