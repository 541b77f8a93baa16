//! WAL that the slot holds back: little beside neighbours that write much, and never more than the limit allows.
//!
//! `WALCAST_RETENTION_MIB=500 cargo test --test it retention` writes so much instead of some 60 MiB.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use walcast::testing::{App, AppOptions, Installation, Session, Subscriber, eventually};

use crate::world::{ALICE, SCHEMA, brief, subscribe};

const MIB: u64 = 1 << 20;

/// In the test's database, and published by nobody.
const UNPUBLISHED: &str = "
    create table unpublished (body text);
    alter table unpublished alter column body set storage external;
";

/// About a mebibyte of WAL.
const WRITE: &str =
    "insert into unpublished select repeat('x', 8000) from generate_series(1, 128) as n";

fn mebibytes() -> u64 {
    std::env::var("WALCAST_RETENTION_MIB").map_or(60, |text| text.parse().unwrap())
}

/// A cluster of its own, whose slot may hold back so much.
async fn start(limit: u64) -> App {
    let limit = format!("{limit}MiB");
    let options = AppOptions {
        schema: &format!("{SCHEMA}{UNPUBLISHED}"),
        environment: &[
            ("WALCAST_RETAINED_WAL_BYTES_MAX", &limit),
            ("WALCAST_RESUME_WAL_BYTES_MAX", "2MiB"),
        ],
        private: Some(&[]),
    };
    App::start_with(env!("CARGO_BIN_EXE_walcast"), &options).await
}

/// The most that was ever held back while it watched, in bytes.
struct Watch {
    lag: Arc<AtomicU64>,
    retained: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<()>,
}

impl Watch {
    async fn start(app: &App) -> Self {
        let session = app.session().await;
        let sql = format!(
            "select coalesce(pg_current_wal_lsn() - confirmed_flush_lsn, 0)::int8,
               coalesce(pg_current_wal_lsn() - restart_lsn, 0)::int8
             from pg_replication_slots where slot_name = '{}'",
            app.slot()
        );
        let (lag, retained) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let stop = Arc::new(AtomicBool::new(false));
        let watch = (Arc::clone(&lag), Arc::clone(&retained), Arc::clone(&stop));
        let task = tokio::spawn(async move {
            let (lag, retained, stop) = watch;
            while !stop.load(Ordering::Relaxed) {
                for row in session.query(&sql, &[]).await.unwrap() {
                    lag.fetch_max(row.get::<_, i64>(0).unsigned_abs(), Ordering::Relaxed);
                    retained.fetch_max(row.get::<_, i64>(1).unsigned_abs(), Ordering::Relaxed);
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        Self {
            lag,
            retained,
            stop,
            task,
        }
    }

    /// In MiB: unconfirmed, and held back.
    async fn end(self) -> (u64, u64) {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap();
        let mebibytes = |bytes: &AtomicU64| bytes.load(Ordering::Relaxed) / MIB;
        (mebibytes(&self.lag), mebibytes(&self.retained))
    }
}

/// Bytes that the slot holds back now; none without a slot.
async fn retained(app: &App) -> u64 {
    let sql = format!(
        "select (pg_current_wal_lsn() - restart_lsn)::int8 from pg_replication_slots where slot_name = '{}'",
        app.slot()
    );
    let text = app.admin.text(&sql).await;
    text.map_or(0, |text| text.parse().unwrap())
}

/// Writes so many mebibytes at a steady pace. Checkpoints tell decoding which transactions are open, as a server does by
/// itself every 15 seconds.
async fn write(sessions: &[&Session], mebibytes: u64, per_second: u64) {
    let mut tick = tokio::time::interval(Duration::from_millis(1000 / per_second));
    for n in 0..mebibytes {
        tick.tick().await;
        let number = usize::try_from(n).unwrap();
        sessions[number % sessions.len()].run(WRITE).await;
        if n % (per_second / 2).max(1) == 0 {
            sessions[0].run("checkpoint").await;
        }
    }
}

async fn reason(subscriber: &mut Subscriber) -> String {
    assert!(
        !subscriber.closed().await,
        "phx_error, so that stock clients join again"
    );
    let told = subscriber.told.last().unwrap();
    told.payload["message"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn an_idle_table_keeps_no_wal_of_its_neighbours() {
    const LIMIT: u64 = 48;
    let app = start(LIMIT).await;
    let mut alice = subscribe(&app, ALICE, "notes").await;
    let other = app.cluster().empty_database();
    let other = app.cluster().connect(&other).await;
    other.run(UNPUBLISHED).await;
    let watch = Watch::start(&app).await;
    let own = app.session().await;
    write(&[&other, &own], mebibytes(), 12).await;
    let (lag, most) = watch.end().await;
    println!(
        "{} MiB written by neighbours: at most {lag} MiB unconfirmed, {most} MiB held back; the limit is {LIMIT} MiB",
        mebibytes()
    );
    assert!(
        lag < LIMIT && most < LIMIT,
        "{lag} MiB unconfirmed, {most} MiB held back"
    );
    app.sql("insert into notes values (1, 'at last', 1)").await;
    assert_eq!(brief(&app.settled(&mut alice).await), ["INSERT 1"]);
    assert!(
        !app.server.log().contains("given up"),
        "nobody had to start over"
    );
}

#[tokio::test]
async fn an_old_transaction_costs_the_slot_and_not_the_disk() {
    const LIMIT: u64 = 24;
    let app = start(LIMIT).await;
    let mut alice = subscribe(&app, ALICE, "notes").await;
    let other = app.cluster().empty_database();
    let other = app.cluster().connect(&other).await;
    other.run(UNPUBLISHED).await;
    let old = app.session().await;
    old.run("begin; insert into unpublished values ('old')")
        .await;
    let pid = old.text("select pg_backend_pid()").await.unwrap();
    // Decoding knows of it.
    other.run("checkpoint").await;

    // Over the limit it is said who holds the WAL back, and nobody has to start over for that.
    write(&[&other], LIMIT + LIMIT / 4, 12).await;
    eventually("the server to name the old transaction", || async {
        let ready = app.server.get("/ready").await?;
        let named = ready
            .body
            .contains(&format!("process {pid} has a transaction open"));
        (ready.status == 200 && named).then_some(())
    })
    .await;
    app.sql("insert into notes values (1, 'still here', 1)")
        .await;
    assert_eq!(brief(&app.settled(&mut alice).await), ["INSERT 1"]);

    // At twice the limit the slot is given up, and made anew when the old transaction lets it.
    let watch = Watch::start(&app).await;
    write(&[&other], mebibytes().max(2 * LIMIT), 15).await;
    let told = reason(&mut alice).await;
    assert_eq!(told, "Resync required: replication slot was recreated");
    eventually("the server to say what it waits for", || async {
        let ready = app.server.get("/ready").await?;
        let named = ready
            .body
            .contains(&format!("waits for the open transaction of process {pid}"));
        (ready.status == 503 && named).then_some(())
    })
    .await;
    let (_, most) = watch.end().await;
    println!(
        "at most {most} MiB held back beside an old transaction; the limits are {LIMIT} and {} MiB",
        2 * LIMIT
    );
    // What is written until the guard has looked and the slot is gone comes on top.
    assert!(most < 4 * LIMIT, "{most} MiB held back");

    old.run("rollback").await;
    eventually("the server to be ready by itself", || async {
        (app.server.get("/ready").await?.status == 200).then_some(())
    })
    .await;
    let mut alice = subscribe(&app, ALICE, "notes").await;
    app.sql("insert into notes values (2, 'again', 2)").await;
    assert_eq!(brief(&app.settled(&mut alice).await), ["INSERT 2"]);
    other.run("checkpoint").await;
    eventually("the WAL to be let go", || async {
        other.run("checkpoint").await;
        (retained(&app).await < LIMIT * MIB).then_some(())
    })
    .await;
}

/// Commits that wait for a standby which is away hold everything up, for nobody may see them yet.
#[tokio::test]
async fn what_cannot_be_delivered_is_given_up_before_the_disk_is_full() {
    const LIMIT: u64 = 12;
    let app = start(LIMIT).await;
    let mut alice = subscribe(&app, ALICE, "notes").await;
    let writer = app.session().await;
    writer.run("set synchronous_commit to local").await;
    set(&writer, "synchronous_standby_names", "nobody").await;
    let waiting = app.session().await;
    let commit = tokio::spawn(async move {
        waiting
            .run("insert into notes values (1, 'waits', 1)")
            .await;
    });
    eventually("the commit to wait", || async {
        let sql = "select pid from pg_stat_activity where wait_event = 'SyncRep' and query like '%waits%'";
        writer.text(sql).await
    })
    .await;
    give_up(&app, &writer, LIMIT).await;
    let told = reason(&mut alice).await;
    assert_eq!(told, "Resync required: replication slot was recreated");
    // A position behind the commit would lose it for whoever joins before it is visible.
    eventually("the server to say what it waits for", || async {
        let ready = app.server.get("/ready").await?;
        let waits = ready
            .body
            .contains("waits for the open transaction of process");
        (ready.status == 503 && waits).then_some(())
    })
    .await;

    set(&writer, "synchronous_standby_names", "").await;
    commit.await.unwrap();
    recovers(&app).await;
}

/// From PostgreSQL 17 on the slot itself may have to wait for a standby; then it cannot be moved forward either. Before that
/// nothing holds it, and nobody has to start over.
#[tokio::test]
async fn a_slot_that_waits_for_a_standby_is_given_up_too() {
    const LIMIT: u64 = 24;
    let app = start(LIMIT).await;
    let mut alice = subscribe(&app, ALICE, "notes").await;
    let writer = app.session().await;
    writer
        .run("select pg_create_physical_replication_slot('standby', true)")
        .await;
    let waits = Installation::find().major() >= 17;
    if waits {
        set(&writer, "synchronized_standby_slots", "standby").await;
    }
    give_up(&app, &writer, LIMIT).await;
    if waits {
        let told = reason(&mut alice).await;
        assert_eq!(told, "Resync required: replication slot was recreated");
        set(&writer, "synchronized_standby_slots", "").await;
    } else {
        app.sql("insert into notes values (1, 'one', 1)").await;
        assert_eq!(brief(&app.settled(&mut alice).await), ["INSERT 1"]);
    }
    recovers(&app).await;
}

async fn set(session: &Session, name: &str, value: &str) {
    session
        .run(&format!("alter system set {name} = '{value}'"))
        .await;
    session.run("select pg_reload_conf()").await;
    eventually("the setting to hold", || async {
        let now = session.text(&format!("show {name}")).await?;
        (now == value).then_some(())
    })
    .await;
}

/// Writes much, and looks at how much of it is held back.
async fn give_up(app: &App, writer: &Session, limit: u64) {
    let watch = Watch::start(app).await;
    write(&[writer], mebibytes(), 15).await;
    let (_, most) = watch.end().await;
    assert!(
        most < 3 * limit,
        "{most} MiB held back by a standby that is away; the limit is {limit} MiB"
    );
}

async fn recovers(app: &App) {
    eventually("the server to be ready by itself", || async {
        (app.server.get("/ready").await?.status == 200).then_some(())
    })
    .await;
    let mut alice = subscribe(app, ALICE, "notes").await;
    app.sql("insert into notes values (2, 'again', 2)").await;
    assert_eq!(brief(&app.settled(&mut alice).await), ["INSERT 2"]);
}

#[tokio::test]
async fn a_publication_that_is_dropped_and_made_again_under_writes_keeps_no_wal() {
    const LIMIT: u64 = 32;
    let app = start(LIMIT).await;
    let mut alice = subscribe(&app, ALICE, "notes").await;
    let (writer, other) = (app.session().await, app.session().await);
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let writing = tokio::spawn(async move {
        let mut id = 0;
        while !stopped.load(Ordering::Relaxed) {
            id += 1;
            let sql = format!("insert into notes values ({id}, repeat('x', 5000), {id})");
            writer.run(&sql).await;
        }
        id
    });
    alice.changes(10).await;
    let watch = Watch::start(&app).await;
    for _ in 0..2 {
        app.sql("drop publication supabase_realtime").await;
        write(&[&other], 4, 12).await;
        app.sql(
            "create publication supabase_realtime for table messages, conversations, notes, fence.line",
        )
        .await;
        write(&[&other], 4, 12).await;
    }
    assert_eq!(
        reason(&mut alice).await,
        "Resync required: replication slot was recreated"
    );
    let mut alice = subscribe(&app, ALICE, "notes").await;
    alice.changes(10).await;
    stop.store(true, Ordering::Relaxed);
    let last = writing.await.unwrap();
    let changes = app.settled(&mut alice).await;
    assert_eq!(changes.last().unwrap().record()["id"], last);
    write(&[&other], 4, 12).await;
    let (lag, most) = watch.end().await;
    println!("at most {lag} MiB unconfirmed, {most} MiB held back across two new publications");
    eventually("the WAL to be let go", || async {
        other.run("checkpoint").await;
        (retained(&app).await < LIMIT * MIB).then_some(())
    })
    .await;
}
