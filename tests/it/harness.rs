//! The harness itself: clusters start, restart and leave nothing behind.

use rustix::process::Signal;
use walcast::testing::Cluster;

#[tokio::test]
async fn a_cluster_keeps_its_rows_and_its_port_through_a_crash() {
    let cluster = Cluster::start(&["max_wal_senders=3"]);
    let session = cluster.connect("postgres").await;
    session.run("create table kept (n int)").await;
    session.run("insert into kept values (1)").await;
    assert_eq!(
        session.text("show max_wal_senders").await.as_deref(),
        Some("3")
    );
    let port = cluster.port();
    cluster.stop(Signal::QUIT);
    cluster.resume();
    assert_eq!(cluster.port(), port);
    let session = cluster.connect("postgres").await;
    assert_eq!(
        session.text("select n from kept").await.as_deref(),
        Some("1")
    );
}

#[tokio::test]
async fn a_dropped_cluster_leaves_no_files_and_no_process() {
    let cluster = Cluster::start(&[]);
    let data = cluster.data();
    let pid = std::fs::read_to_string(data.join("postmaster.pid")).unwrap();
    let pid = pid.lines().next().unwrap().to_owned();
    drop(cluster);
    assert!(!data.exists());
    assert!(!std::path::Path::new("/proc").join(pid).exists());
}

#[tokio::test]
async fn databases_are_copies_of_one_that_was_prepared() {
    let cluster = Cluster::start(&[]);
    let prepare = |database: &str| {
        cluster
            .psql(database, &["create table prepared (n int)"])
            .unwrap();
    };
    let first = cluster.database(prepare);
    let second = cluster.database(prepare);
    assert_ne!(first, second);
    for database in [first, second] {
        let session = cluster.connect(&database).await;
        session.run("select pg_create_logical_replication_slot(current_database() || '_slot', 'pgoutput')").await;
        session.run("insert into prepared values (1)").await;
        cluster.drop_database(&database);
    }
    let left = cluster.psql("postgres", &["select count(*) from pg_replication_slots"]);
    assert_eq!(left.as_deref(), Ok("0"));
}
