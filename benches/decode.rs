//! How fast a backlog is read: 500,000 inserts through `walcast serve` against `pg_recvlogical -f /dev/null`, both from a
//! copy of one slot that was made before the inserts, in turns.
//!
//! walcast's time is from the start of the process until a row committed after the backlog is in a subscriber's hands,
//! less the same for a slot without backlog. Target: at least 0.9 of pg_recvlogical's rate.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a benchmark prints and looks at the clock"
)]

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;
use walcast::testing::{App, AppOptions, Installation, Server, Subscriber};

const ROWS: u32 = 500_000;
const ROWS_PER_TRANSACTION: u32 = 1000;
const ROUNDS: usize = 3;

#[tokio::main]
async fn main() {
    let binary = env!("CARGO_BIN_EXE_walcast");
    let options = AppOptions {
        schema: "create table backlog (id int primary key, who uuid default gen_random_uuid(), body text, at timestamptz default now());
                 grant select on backlog to anon;
                 alter publication supabase_realtime add table backlog;",
        environment: &[],
        private: Some(&["max_replication_slots=20"]),
    };
    let app = App::prepare(binary, &options).await;
    let origin = "select pg_create_logical_replication_slot('origin', 'pgoutput')";
    app.sql(origin).await;
    copy(&app, "origin", "empty").await;
    let url = app.cluster().url(&app.database);
    let idle = walcast_time(&app, binary, &url, "empty").await;
    app.sql(&format!(
        "do $$ begin
           for t in 0 .. {ROWS} / {ROWS_PER_TRANSACTION} - 1 loop
             insert into backlog (id, body)
               select t * {ROWS_PER_TRANSACTION} + n, 'a line of text that somebody wrote, number ' || n
               from generate_series(1, {ROWS_PER_TRANSACTION}) as n;
             commit;
           end loop;
         end $$"
    ))
    .await;
    let end = app
        .admin
        .text("select pg_current_wal_insert_lsn()")
        .await
        .unwrap();
    println!(
        "decode: {ROWS} inserts in transactions of {ROWS_PER_TRANSACTION}; start-up without backlog {idle:.2?}"
    );
    let mut peers = Vec::new();
    let mut ours = Vec::new();
    for round in 0..ROUNDS {
        let slot = format!("peer_{round}");
        copy(&app, "origin", &slot).await;
        peers.push(recvlogical_time(&url, &slot, &end));
        app.sql(&format!("select pg_drop_replication_slot('{slot}')"))
            .await;
        let slot = format!("ours_{round}");
        copy(&app, "origin", &slot).await;
        ours.push(
            walcast_time(&app, binary, &url, &slot)
                .await
                .saturating_sub(idle),
        );
        println!(
            "  round {round}: pg_recvlogical {:.2?}   walcast {:.2?}",
            peers[round], ours[round]
        );
    }
    let rate = |times: &[Duration]| f64::from(ROWS) / times.iter().min().unwrap().as_secs_f64();
    let (peer, our) = (rate(&peers), rate(&ours));
    println!("  pg_recvlogical {peer:9.0} rows/s");
    println!(
        "  walcast        {our:9.0} rows/s   {:.2} of the peer (target 0.90)",
        our / peer
    );
}

async fn copy(app: &App, from: &str, to: &str) {
    app.sql(&format!(
        "select pg_copy_logical_replication_slot('{from}', '{to}')"
    ))
    .await;
}

async fn walcast_time(app: &App, binary: &str, url: &str, slot: &str) -> Duration {
    let started = Instant::now();
    let mut server = Server::start(binary.as_ref(), url, &[("WALCAST_SLOT", slot)]).await;
    let mut subscriber = Subscriber::join(server.port(), None, &json!([])).await;
    let fence = app.fence().await;
    subscriber.until(fence).await;
    let time = started.elapsed();
    server.end();
    app.cluster().drop_slot(&app.database, slot);
    time
}

fn recvlogical_time(url: &str, slot: &str, end: &str) -> Duration {
    let started = Instant::now();
    let status = Command::new(Installation::find().bin.join("pg_recvlogical"))
        .args([
            "--start",
            "--no-loop",
            "-f",
            "/dev/null",
            "-d",
            url,
            "--slot",
            slot,
            "--endpos",
            end,
        ])
        .args([
            "-o",
            "proto_version=2",
            "-o",
            "streaming=on",
            "-o",
            "publication_names=supabase_realtime",
        ])
        .stderr(Stdio::inherit())
        .status()
        .expect("pg_recvlogical is installed beside postgres");
    assert!(status.success());
    started.elapsed()
}
