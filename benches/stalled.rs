//! What sockets that stop reading cost: 1,000 of them among 1,000 that read, while rows are inserted. Memory of the server
//! for each, and how long until the last healthy socket has a row, with them and without, in turns.
//!
//! Target: less than 100 KB each, and p99 with them at most twice the p99 without.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a benchmark prints and looks at the clock"
)]

use std::time::{Duration, Instant};

use walcast::testing::{
    App, AppOptions, Counting, Crowd, CrowdOptions, Durations, allow_files, client_frame,
};

const SOCKETS: usize = 1000;
const ROUNDS: usize = 3;
const INSERTS_PER_ROUND: u64 = 60;
const PERIOD: Duration = Duration::from_millis(50);
/// Written at once when the others have stopped reading: more than the buffers of the system hold for each.
const BURST: u64 = 100;

const SCHEMA: &str = "
    create table notes (id bigint generated always as identity primary key, body text);
    grant select on notes to anon;
    alter publication supabase_realtime add table notes;
";

struct Bench {
    app: App,
    healthy: Crowd,
    /// Rows that each of them has had.
    rows: u64,
}

#[tokio::main]
async fn main() {
    allow_files(8 * SOCKETS as u64);
    let options = AppOptions {
        schema: SCHEMA,
        // They are to be there, and not to be closed.
        environment: &[("WALCAST_SLOW_CONSUMER_TIMEOUT", "10min")],
        private: Some(&[]),
    };
    let app = App::start_with(env!("CARGO_BIN_EXE_walcast"), &options).await;
    let healthy = join(&app, None).await;
    let mut bench = Bench {
        app,
        healthy,
        rows: 0,
    };
    println!(
        "stalled: {SOCKETS} healthy sockets at {} rows a second, without and with {SOCKETS} that do not read, {ROUNDS} rounds of \
         {INSERTS_PER_ROUND} rows each way",
        1000 / PERIOD.as_millis()
    );
    bench.measure(INSERTS_PER_ROUND / 3).await;
    let (mut without, mut with) = (Durations::default(), Durations::default());
    for round in 0..ROUNDS {
        let calm = bench.measure(INSERTS_PER_ROUND).await;
        let stalled = join(&bench.app, Some(4096)).await;
        bench.measure(INSERTS_PER_ROUND / 3).await;
        stalled.until(INSERTS_PER_ROUND / 3 * SOCKETS as u64).await;
        let before = bench.app.server.memory();
        stalled.set_reading(false);
        bench.insert(BURST).await;
        let hurt = bench.measure(INSERTS_PER_ROUND).await;
        let after = bench.app.server.memory();
        let unread = (BURST + INSERTS_PER_ROUND) * SOCKETS as u64 - stalled.counted()
            + INSERTS_PER_ROUND / 3 * SOCKETS as u64;
        println!(
            "  round {round}: without {calm}\n           with    {hurt}\n           {:.1} KB for each stalled socket ({} MiB for all), \
             which has {} rows of 4 KB to read",
            after.saturating_sub(before) as f64 / 1000.0 / SOCKETS as f64,
            after.saturating_sub(before) >> 20,
            unread / SOCKETS as u64
        );
        drop(stalled);
        without.append(calm);
        with.append(hurt);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    println!("  without  {without}\n  with     {with}");
    let times = with.percentile(99).as_secs_f64() / without.percentile(99).as_secs_f64();
    println!("  p99 {times:.2} x (target 2.00)");
}

async fn join(app: &App, receive_buffer: Option<u32>) -> Crowd {
    let options = CrowdOptions {
        counting: Counting::Changes,
        receive_buffer,
    };
    let crowd = Crowd::upgrade(app.server.port(), SOCKETS, options).await;
    let join = r#"["1","1","realtime:notes","phx_join",{"config":{"broadcast":{"ack":false,"self":false},"presence":{"enabled":false},"postgres_changes":[{"event":"INSERT","schema":"public","table":"notes"}],"private":false}}]"#;
    crowd.ask_all(|_| client_frame(0x1, join.as_bytes())).await;
    crowd
}

impl Bench {
    async fn insert(&mut self, rows: u64) {
        let sql = format!(
            "insert into notes (body) select repeat('x', 4000) from generate_series(1, {rows})"
        );
        self.app.sql(&sql).await;
        self.rows += rows;
        self.healthy.until(self.rows * SOCKETS as u64).await;
    }

    /// Until the last of the healthy sockets has each row.
    async fn measure(&mut self, rows: u64) -> Durations {
        self.healthy.keep_alive().await;
        let mut durations = Durations::default();
        let mut tick = tokio::time::interval(PERIOD);
        for _ in 0..rows {
            tick.tick().await;
            let sent = Instant::now();
            self.insert(1).await;
            durations.push(sent.elapsed());
        }
        durations
    }
}
