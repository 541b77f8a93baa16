//! What a connection costs in memory: 10,000 sockets with a channel each that say nothing, and the same sockets after each
//! was sent 200 messages of 1 KB, which it read only when all were said.
//!
//! Counted is the resident set of the server, so nothing that the kernel keeps for the sockets. Targets: 12 KB idle, 20 KB
//! some seconds after the burst.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a benchmark prints and looks at the clock"
)]

use std::time::{Duration, Instant};

use walcast::testing::{
    App, AppOptions, Counting, Crowd, CrowdOptions, UNLIMITED, allow_files, client_frame,
    crowd_join, numbered,
};

const SOCKETS: usize = 10_000;
const MESSAGES: u64 = 200;
const MESSAGE_BYTES: usize = 1024;
/// Small, so that little of the burst fits into the kernel.
const RECEIVE_BUFFER: u32 = 8 * 1024;
/// How long after the burst memory is looked at.
const PAUSE: Duration = Duration::from_secs(5);

#[tokio::main]
async fn main() {
    allow_files(SOCKETS as u64 + 1000);
    println!("connections: {SOCKETS} sockets, one channel each");
    let options = AppOptions {
        schema: "",
        environment: UNLIMITED,
        private: Some(&[]),
    };
    let app = App::start_with(env!("CARGO_BIN_EXE_walcast"), &options).await;
    let empty = app.server.memory();
    let report = |what: &str, memory: u64| {
        let each = memory.saturating_sub(empty) as f64 / SOCKETS as f64 / 1024.0;
        println!("  {what:34} {each:6.2} KiB per connection");
    };
    let mut options = CrowdOptions {
        counting: Counting::Numbers,
        receive_buffer: Some(RECEIVE_BUFFER),
    };
    let crowd = Crowd::upgrade(app.server.port(), SOCKETS, options).await;
    report("connected", app.server.memory());
    let join = crowd_join("realtime:crowd", false);
    crowd.ask_all(|_number| join.clone()).await;
    tokio::time::sleep(PAUSE).await;
    report("joined", app.server.memory());
    crowd.keep_alive().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    report("after a ping on each", app.server.memory());

    options.receive_buffer = None;
    let speaker = Crowd::upgrade(app.server.port(), 1, options).await;
    speaker.ask_all(|_number| join.clone()).await;
    crowd.set_reading(false);
    let started = Instant::now();
    for number in 0..MESSAGES {
        let text = numbered(MESSAGE_BYTES, number);
        let push = format!(
            r#"["1","2","realtime:crowd","broadcast",{{"type":"broadcast","event":"burst","payload":{{"body":"{text}"}}}}]"#
        );
        speaker.send(0, &client_frame(0x1, push.as_bytes())).await;
    }
    // Answered after everything before it was taken.
    speaker
        .ask_all(|_number| client_frame(0x1, br#"[null,"3","phoenix","heartbeat",{}]"#))
        .await;
    report("burst, nothing read yet", app.server.memory());
    crowd.set_reading(true);
    crowd.until(SOCKETS as u64 * MESSAGES).await;
    println!("  {:34} {:.1?}", "burst read after", started.elapsed());
    report("peak", app.server.peak_memory());
    tokio::time::sleep(PAUSE).await;
    report("after the burst", app.server.memory());
}
