//! What a transaction of a million rows takes: the peak of the server's memory, with a subscriber that reads all of it
//! and with none. Postgres streams the transaction while it runs, so that it has to wait on walcast's side.
//!
//! Target: less than 200 MB either way.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a benchmark prints and looks at the clock"
)]

use std::time::Instant;

use serde_json::json;
use walcast::testing::{App, AppOptions, anon};

const ROWS: usize = 1_000_000;

#[tokio::main]
async fn main() {
    println!("memory: one transaction of {ROWS} inserts");
    for is_read in [false, true] {
        measure(is_read).await;
    }
}

async fn measure(is_read: bool) {
    let options = AppOptions {
        schema: "create table notes (id int primary key, body text, n int);
                 grant select on notes to anon;
                 alter publication supabase_realtime add table notes;",
        environment: &[],
        // Small, so that the transaction is streamed while it runs.
        private: Some(&["logical_decoding_work_mem=4MB"]),
    };
    let app = App::start_with(env!("CARGO_BIN_EXE_walcast"), &options).await;
    let bindings = if is_read {
        json!({"event": "*", "schema": "public", "table": "notes"})
    } else {
        json!([])
    };
    let mut subscriber = app.subscribe(&anon(), bindings).await;
    let before = app.server.peak_memory();
    let started = Instant::now();
    let reading = async {
        let count = if is_read { ROWS } else { 0 };
        for _ in 0..count {
            subscriber.change().await;
        }
    };
    let insert = format!(
        "insert into notes select n, 'a row like many others, ' || n, n from generate_series(1, {ROWS}) as n"
    );
    let (_inserted, ()) = tokio::join!(app.sql(&insert), reading);
    let fence = app.fence().await;
    subscriber.until(fence).await;
    let mebibytes = |bytes: u64| bytes / 1024 / 1024;
    println!(
        "  {:14} peak {:4} MiB (before: {} MiB), through after {:.1?}",
        if is_read {
            "one reader"
        } else {
            "nobody reads"
        },
        mebibytes(app.server.peak_memory()),
        mebibytes(before),
        started.elapsed()
    );
}
