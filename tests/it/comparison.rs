//! walcast held against Postgres itself, on a cluster whose roles and extensions nobody else changes meanwhile.

use std::sync::LazyLock;

use tokio::sync::{Mutex, MutexGuard};
use tokio_postgres::Client;
use tokio_util::task::TaskTracker;
use walcast::database::Database;
use walcast::testing::Cluster;

use crate::{catalog, filter_values, subscribe};

/// Contributed extensions whose types are compared.
const EXTENSIONS: [&str; 3] = ["citext", "hstore", "ltree"];

/// A superuser's session as walcast makes them, with an empty database; one at a time, because roles are the whole cluster's.
async fn alone() -> (MutexGuard<'static, Cluster>, Client) {
    static CLUSTER: LazyLock<Mutex<Cluster>> = LazyLock::new(|| Mutex::new(Cluster::start(&[])));
    let cluster = CLUSTER.lock().await;
    let database = Database::parse(&cluster.url(&cluster.empty_database())).unwrap();
    let session = database
        .connect(&TaskTracker::new(), "comparison")
        .await
        .unwrap();
    for extension in EXTENSIONS {
        let sql = "select exists (select from pg_available_extensions where name = $1)";
        let row = session.query_one(sql, &[&extension]).await.unwrap();
        assert!(
            row.get::<_, bool>(0),
            "the extension {extension} is missing: install the contributed extensions of this server \
             (apt-get install postgresql-contrib)"
        );
    }
    (cluster, session)
}

#[tokio::test]
async fn the_catalog_says_what_postgres_does() {
    let (_cluster, session) = alone().await;
    catalog::check_catalog_against_postgres(&session).await;
}

#[tokio::test]
async fn bindings_are_answered_as_documented() {
    let (_cluster, session) = alone().await;
    subscribe::check_subscribing(&session).await;
}

#[tokio::test]
async fn filters_decide_as_postgres_decides() {
    let (_cluster, session) = alone().await;
    let outcome = filter_values::check_filters_against_postgres(&session).await;
    assert!(
        outcome.differences.is_empty(),
        "{}",
        outcome.differences.join("\n")
    );
    println!(
        "{} rows agreed ({} asked), {} filters refused",
        outcome.agreed, outcome.asked, outcome.refused
    );
}
