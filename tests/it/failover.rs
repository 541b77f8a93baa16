//! A standby takes over: the stream goes on from it, everybody is told to start over, and nothing is lost in silence.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use serde_json::json;
use tokio::task::JoinHandle;
use walcast::testing::{
    Cluster, Cut, Installation, Proxy, Received, Server, Session, Subscriber, eventually, user,
};

use crate::world::{ALICE, BOB, SCHEMA, TALK, all, contents, say};

const BINARY: &str = env!("CARGO_BIN_EXE_walcast");
const SLOT: &str = "walcast_failover";

/// First release with slots that standbys keep.
const FAILOVER_SLOTS: u32 = 17;

const FENCE: &str = "
    create schema fence; grant usage on schema fence to anon, authenticated, service_role;
    create table fence.line (n bigint primary key);
    grant select on fence.line to anon, authenticated, service_role;
    alter publication supabase_realtime add table fence.line;
";

/// A primary and its standby, and walcast behind an address that can be moved from one to the other.
struct World {
    primary: Cluster,
    standby: Cluster,
    database: String,
    proxy: Proxy,
    server: Server,
}

impl World {
    /// `primary` and `standby` are settings of theirs.
    async fn start(primary: &[&str], standby: &[&str]) -> Self {
        let primary = Cluster::start(primary);
        if Installation::find().major() >= FAILOVER_SLOTS {
            primary
                .psql(
                    "postgres",
                    &["select pg_create_physical_replication_slot('standby', true)"],
                )
                .unwrap();
        }
        let mut settings = vec!["hot_standby_feedback=on"];
        if Installation::find().major() >= FAILOVER_SLOTS {
            settings.extend(["primary_slot_name=standby", "sync_replication_slots=on"]);
        }
        settings.extend_from_slice(standby);
        let standby = primary.standby(&settings);
        let database = primary.empty_database();
        let proxy = Proxy::start(primary.port()).await;
        let url = primary
            .url(&database)
            .replace(&primary.port().to_string(), &proxy.port().to_string());
        // A standby takes a slot over only once the slot has moved past where the standby began to look at it.
        let environment = [
            ("WALCAST_SLOT", SLOT),
            ("WALCAST_RESUME_WAL_BYTES_MAX", "0"),
        ];
        let mut server = Server::prepare(Path::new(BINARY), &url, &environment);
        let output = server.command(&["setup", "--messaging"]);
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let session = primary.connect(&database).await;
        session.run(SCHEMA).await;
        session.run(FENCE).await;
        server.spawn();
        server.ready().await;
        Self {
            primary,
            standby,
            database,
            proxy,
            server,
        }
    }

    async fn join(&self, subject: &str, table: &str) -> Subscriber {
        Subscriber::join(self.server.port(), Some(&user(subject)), &all(table)).await
    }

    /// The standby has replayed what the primary has written.
    async fn is_level(&self) {
        let session = self.primary.connect(&self.database).await;
        let end = session.text("select pg_current_wal_lsn()").await.unwrap();
        let standby = self.standby.connect("postgres").await;
        eventually("the standby to follow", || async {
            let behind = format!("select pg_last_wal_replay_lsn() >= '{end}'::pg_lsn");
            (standby.text(&behind).await? == "t").then_some(())
        })
        .await;
    }
}

/// Waits for the end of the channel and gives the reason.
async fn told(subscriber: &mut Subscriber) -> Vec<String> {
    assert!(
        !subscriber.closed().await,
        "phx_error, so that stock clients join again"
    );
    let told = subscriber.told.iter();
    told.map(|frame| {
        frame.payload["message"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    })
    .collect()
}

/// Writes notes 1, 2, 3, … through the proxy, whoever is behind it, until told to stop.
async fn write(url: String, mut stop: tokio::sync::oneshot::Receiver<()>) -> i32 {
    let mut session: Option<Session> = None;
    let mut id = 0;
    while stop.try_recv().is_err() {
        if session.is_none() {
            session = Session::try_connect(&url).await.ok();
        }
        let sql = format!("insert into notes values ({}, 'load', 0)", id + 1);
        match &session {
            Some(open) => match open.batch_execute(&sql).await {
                Ok(()) => id += 1,
                // It was committed, and the answer was lost.
                Err(error) if error.code().is_some_and(|code| code.code() == "23505") => id += 1,
                Err(_) => session = None,
            },
            None => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
    id
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promoted_standby_is_told_as_a_failover_and_the_stream_goes_on() {
    let mut world = World::start(&[], &[]).await;
    let has_failover_slots = Installation::find().major() >= FAILOVER_SLOTS;
    if has_failover_slots {
        let standby = world.standby.connect("postgres").await;
        // The standby keeps a slot once the slot's transactions are behind it; the primary says so now and then.
        let primary = world.primary.connect(&world.database).await;
        eventually("the slot on the standby", || async {
            primary.run("checkpoint").await;
            let sql = format!(
                "select synced and not temporary and failover from pg_replication_slots where slot_name = '{SLOT}'"
            );
            (standby.text(&sql).await? == "t").then_some(())
        })
        .await;
    }
    let mut alice = world.join(ALICE, "notes").await;
    let mut bob = world.join(BOB, "messages").await;
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let url = world.primary.url(&world.database).replace(
        &world.primary.port().to_string(),
        &world.proxy.port().to_string(),
    );
    let writing = tokio::spawn(write(url, stopped));
    let before = alice.changes(50).await;
    let cursor = before.last().unwrap().data["cursor"].clone();

    // The address points to the standby for a while before it is promoted.
    world.primary.stop(rustix::process::Signal::QUIT);
    world.proxy.aim(world.standby.port());
    world.proxy.cut(Cut::Reset);
    eventually("the server to say that this is a standby", || async {
        let reply = world.server.get("/ready").await?;
        (reply.status == 503 && reply.body.contains("standby in recovery")).then_some(())
    })
    .await;
    world.standby.promote().await;

    for subscriber in [&mut alice, &mut bob] {
        assert_eq!(
            told(subscriber).await,
            ["Resync required: database failed over"]
        );
    }
    world.server.ready().await;

    // A position of the old primary is none of the new one.
    let mut since = all("notes");
    since["since"] = cursor;
    let payload = json!({"config": {"postgres_changes": [since]}, "access_token": user(ALICE)});
    let mut alice = world.join(ALICE, "notes").await;
    let refused = alice
        .socket
        .ask(Some("9"), "realtime:again", "phx_join", &payload)
        .await;
    assert_eq!(refused["status"], "error", "{refused}");
    assert!(refused.to_string().contains("PositionTooOld"), "{refused}");

    // As an application does: what is there, then what comes. Together they are everything.
    let session = world.standby.connect(&world.database).await;
    let rows = session.query("select id from notes", &[]).await.unwrap();
    let mut known: BTreeSet<i32> = rows.iter().map(|row| row.get(0)).collect();
    let mut bob = world.join(BOB, "messages").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    stop.send(()).unwrap();
    let last = writing.await.unwrap();
    session.run(&say(TALK, "from the new primary")).await;
    session.run("insert into fence.line values (1)").await;
    for change in alice.until(1).await {
        let id = change.record()["id"].as_i64().unwrap();
        known.insert(i32::try_from(id).unwrap());
    }
    let rows = session.query("select id from notes", &[]).await.unwrap();
    let there: BTreeSet<i32> = rows.iter().map(|row| row.get(0)).collect();
    assert!(there.contains(&last));
    assert_eq!(known, there);
    assert_eq!(contents(&bob.until(1).await), ["from the new primary"]);

    let metrics = world.server.get("/metrics").await.unwrap().body;
    assert!(
        metrics.contains("walcast_resyncs_total{reason=\"failed_over\"} 2"),
        "{metrics}"
    );
    // Where standbys keep the slot it is that one which is read on; elsewhere there was none.
    let log = world.server.log();
    let created = log.matches("created the replication slot").count();
    assert_eq!(created, if has_failover_slots { 1 } else { 2 });
}

/// A commit that waits for its standby, which is away; with a session, and somebody who would hear of it.
async fn commit_that_waits(world: &World) -> (Session, Subscriber, JoinHandle<()>) {
    let session = world.primary.connect(&world.database).await;
    session
        .run("alter system set synchronous_standby_names = 'standby'")
        .await;
    session.run("select pg_reload_conf()").await;
    world.is_level().await;
    let alice = world.join(ALICE, "notes").await;
    world.standby.stop(rustix::process::Signal::INT);
    let waiting = world.primary.connect(&world.database).await;
    let commit = tokio::spawn(async move {
        waiting
            .run("insert into notes values (1, 'waits', 0)")
            .await;
    });
    eventually("the commit to wait for its standby", || async {
        let sql = "select pid from pg_stat_activity where wait_event = 'SyncRep' and query like '%waits%'";
        session.text(sql).await
    })
    .await;
    (session, alice, commit)
}

/// A commit waits for its standby, which is away: it is in the WAL, and nobody may see it yet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_delivered_that_waits_for_a_standby_and_all_of_it_once_it_is_there() {
    let world = World::start(&[], &[]).await;
    let (session, mut alice, commit) = commit_that_waits(&world).await;
    // Visible at once, and behind it in the WAL.
    session
        .run("set synchronous_commit to local; insert into notes values (2, 'does not', 0)")
        .await;
    let bob_joins = world.join(BOB, "notes");
    let quiet = tokio::time::timeout(Duration::from_secs(2), alice.socket.listen()).await;
    assert!(quiet.is_err(), "{quiet:?}");
    drop(bob_joins);
    assert_eq!(
        session
            .text("select count(*) from notes where id = 1")
            .await
            .unwrap(),
        "0"
    );
    world.standby.resume();
    commit.await.unwrap();
    let changes = alice.changes(2).await;
    let ids: Vec<_> = changes
        .iter()
        .map(|change| &change.record()["id"])
        .collect();
    assert_eq!(ids, [1, 2]);
}

/// While commits wait for a standby the stream begins another series: who joins then may not miss them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_a_standby_is_not_lost_between_two_series() {
    let world = World::start(&[], &[]).await;
    let (session, mut alice, commit) = commit_that_waits(&world).await;
    // Another series: a publication that was dropped and made again is another one.
    session
        .run(
            "set synchronous_commit to local; begin; drop publication supabase_realtime;
             create publication supabase_realtime for table messages, conversations, notes, fence.line; commit",
        )
        .await;
    let told = told(&mut alice).await;
    assert_eq!(told, ["Resync required: replication slot was recreated"]);
    // Either what it reads after it has joined shows the row, or the row comes.
    let mut socket = walcast::testing::Socket::connect(
        world.server.port(),
        walcast::testing::PUBLISHABLE_KEY,
        walcast::testing::Version::V2,
    )
    .await;
    let payload = walcast::testing::join_payload(&all("notes"), Some(&user(ALICE)));
    socket
        .send(Some("1"), "1", "realtime:room", "phx_join", &payload)
        .await;
    let reader = world.primary.connect(&world.database).await;
    let mut commit = Some(commit);
    let mut seen = false;
    let row = "select count(*) from notes where id = 1";
    let deadline = tokio::time::Instant::now() + Duration::from_secs(3);
    // The join may be answered now or only when the standby is back.
    let mut joined = false;
    loop {
        match tokio::time::timeout_at(deadline, socket.listen()).await {
            Err(_elapsed) => break,
            Ok(Received::Closed(code, reason)) => panic!("{code:?} {reason}"),
            Ok(Received::Frame(frame)) => {
                if frame.payload["message"] == "Subscribed to PostgreSQL" {
                    joined = true;
                    seen = reader.text(row).await.unwrap() == "1";
                    break;
                }
            }
        }
    }
    world.standby.resume();
    commit.take().unwrap().await.unwrap();
    while !joined {
        let frame = socket.frame().await;
        if frame.payload["message"] == "Subscribed to PostgreSQL" {
            joined = true;
            seen = reader.text(row).await.unwrap() == "1";
        }
    }
    session.run("insert into fence.line values (1)").await;
    let mut came = false;
    loop {
        let frame = socket.frame().await;
        let data = &frame.payload["data"];
        if data["schema"] == "fence" {
            break;
        }
        came |= frame.event == "postgres_changes" && data["record"]["id"] == 1;
    }
    assert!(seen || came, "it was neither there nor did it come");
}
