//! A database with the messaging schema and a server in front of it.
//!
//! *io*: starts both.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicI64, Ordering};

use serde_json::Value;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::cluster::{Cluster, Session};
use super::server::Server;
use super::subscriber::Subscriber;

/// A table that everybody may read and every [`Subscriber`] is bound to: a row in it marks a point in commit order, so
/// that a test can say "nothing came" without waiting for nothing.
pub const FENCE_TABLE: &str = "fence.line";

const FENCE: &str = "
    create schema fence;
    create table fence.line (n bigint primary key);
    grant usage on schema fence to public;
    grant select on fence.line to public;
    alter publication supabase_realtime add table fence.line;
";

/// Each app holds some twenty connections and a slot; the shared cluster has room for many more, but a machine with
/// many cores should not prove it.
static RUNNING: Semaphore = Semaphore::const_new(8);

/// What an [`App`] is made of.
#[derive(Debug, Default)]
pub struct AppOptions<'a> {
    /// SQL that runs before the server starts, as superuser.
    pub schema: &'a str,
    /// Environment of the server.
    pub environment: &'a [(&'a str, &'a str)],
    /// Settings (`name=value`) of a private cluster; `None` uses the shared one.
    pub private: Option<&'a [&'a str]>,
}

#[derive(Debug)]
enum ClusterOf {
    Shared(&'static Cluster),
    Own(Box<Cluster>),
}

/// One test's world.
#[derive(Debug)]
pub struct App {
    /// The server process.
    pub server: Server,
    /// A session of the superuser.
    pub admin: Session,
    /// Name of the database.
    pub database: String,
    cluster: ClusterOf,
    fences: AtomicI64,
    _permit: SemaphorePermit<'static>,
}

impl App {
    /// A fresh database on the shared cluster, prepared by `walcast setup --messaging` and `schema`, and a server.
    pub async fn start(binary: &str, schema: &str) -> Self {
        let options = AppOptions {
            schema,
            ..AppOptions::default()
        };
        Self::start_with(binary, &options).await
    }

    /// As [`Self::start`], with everything chosen.
    pub async fn start_with(binary: &str, options: &AppOptions<'_>) -> Self {
        let mut app = Self::prepare(binary, options).await;
        app.server.spawn();
        app.server.ready().await;
        app
    }

    /// As [`Self::start_with`], but does not start the server yet.
    pub async fn prepare(binary: &str, options: &AppOptions<'_>) -> Self {
        let permit = RUNNING
            .acquire()
            .await
            .expect("the semaphore is never closed");
        let cluster = options.private.map_or_else(
            || ClusterOf::Shared(Cluster::shared()),
            |settings| ClusterOf::Own(Box::new(Cluster::start(settings))),
        );
        let binary = PathBuf::from(binary);
        let place = cluster.get();
        let database = place.database(|database| {
            setup(&binary, &place.url(database));
            place.psql(database, &[FENCE]).unwrap();
        });
        let admin = place.connect(&database).await;
        admin.run(options.schema).await;
        let url = place.url(&database);
        // Slot names are unique in a cluster, not in a database.
        let mut environment = vec![("WALCAST_SLOT", database.as_str())];
        environment.extend_from_slice(options.environment);
        let server = Server::prepare(&binary, &url, &environment);
        Self {
            server,
            admin,
            database,
            cluster,
            fences: AtomicI64::new(0),
            _permit: permit,
        }
    }

    /// The cluster of the database.
    #[must_use]
    pub fn cluster(&self) -> &Cluster {
        self.cluster.get()
    }

    /// Name of the replication slot.
    #[must_use]
    pub fn slot(&self) -> &str {
        &self.database
    }

    /// Another session of the superuser.
    pub async fn session(&self) -> Session {
        self.cluster().connect(&self.database).await
    }

    /// Runs SQL as superuser: one transaction, unless it says otherwise.
    #[track_caller]
    pub fn sql<'a>(&'a self, sql: &'a str) -> impl Future<Output = ()> + 'a {
        self.admin.run(sql)
    }

    /// Commits a fence and returns its number; see [`Subscriber::until`].
    pub async fn fence(&self) -> i64 {
        let number = self
            .fences
            .fetch_add(1, Ordering::Relaxed)
            .saturating_add(1);
        self.sql(&format!("insert into {FENCE_TABLE} values ({number})"))
            .await;
        number
    }

    /// Everything that a subscriber has got and will get of what is committed by now.
    pub async fn settled(&self, subscriber: &mut Subscriber) -> Vec<super::Change> {
        let fence = self.fence().await;
        subscriber.until(fence).await
    }

    /// A subscriber with a token; `bindings` is one binding or an array of them.
    pub async fn subscribe(&self, token: &str, bindings: Value) -> Subscriber {
        Subscriber::join(self.server.port(), Some(token), &bindings).await
    }
}

impl Drop for App {
    fn drop(&mut self) {
        // The fields are dropped after this; the server must let go of its slot first.
        self.server.end();
        if let ClusterOf::Shared(cluster) = self.cluster {
            cluster.drop_database(&self.database);
        }
    }
}

impl ClusterOf {
    fn get(&self) -> &Cluster {
        match self {
            Self::Shared(cluster) => cluster,
            Self::Own(cluster) => cluster,
        }
    }
}

/// `walcast setup --messaging`.
fn setup(binary: &Path, url: &str) {
    let output = Command::new(binary)
        .args(["setup", "--messaging"])
        .env("DATABASE_URL", url)
        .output()
        .expect("the binary exists");
    assert!(
        output.status.success(),
        "walcast setup --messaging: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
