//! 2,000 members come to one channel and are present, all at once: how long until everybody sees everybody, and what is
//! sent for it. Then one more comes and goes.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a benchmark prints and looks at the clock"
)]

use std::time::Instant;

use walcast::testing::{
    App, AppOptions, Counting, Crowd, CrowdOptions, Durations, UNLIMITED, allow_files,
    client_frame, crowd_join,
};

const MEMBERS: usize = 2_000;
const ROUNDS: usize = 20;

const OPTIONS: CrowdOptions = CrowdOptions {
    counting: Counting::Metas,
    receive_buffer: None,
};

#[tokio::main]
async fn main() {
    allow_files(2 * MEMBERS as u64);
    println!("presence: {MEMBERS} members of one channel");
    let options = AppOptions {
        schema: "",
        environment: UNLIMITED,
        private: Some(&[]),
    };
    let app = App::start_with(env!("CARGO_BIN_EXE_walcast"), &options).await;
    let crowd = Crowd::upgrade(app.server.port(), MEMBERS, OPTIONS).await;
    let join = crowd_join("realtime:crowd", true);
    let before = (crowd.frames(), crowd.bytes());
    let processor = app.server.processor_time();
    let started = Instant::now();
    crowd
        .send_all(|number| [join.clone(), track(number)].concat())
        .await;
    // Each learns of each exactly once: from the state or from a diff.
    let members = MEMBERS as u64;
    crowd.until(members * members).await;
    println!(
        "  all see all after {:.2?}; {} frames, {:.1} MB, {:.2?} of processor time",
        started.elapsed(),
        crowd.frames() - before.0,
        (crowd.bytes() - before.1) as f64 / 1e6,
        app.server.processor_time().saturating_sub(processor)
    );

    let mut seen = crowd.counted();
    let mut last = Durations::default();
    let untrack = client_frame(
        0x1,
        br#"["1","3","realtime:crowd","presence",{"type":"presence","event":"untrack"}]"#,
    );
    let processor = app.server.processor_time();
    for round in 0..ROUNDS {
        // Each meta that leaves or comes is told to everybody.
        let said = if round % 2 == 0 {
            untrack.clone()
        } else {
            track(0)
        };
        let started = Instant::now();
        crowd.send(0, &said).await;
        seen += members;
        crowd.until(seen).await;
        last.push(started.elapsed());
    }
    let each = app.server.processor_time().saturating_sub(processor) / (ROUNDS * MEMBERS) as u32;
    println!(
        "  one goes or comes: {each:.2?} of processor time per member; until the last knows {last}"
    );
}

fn track(number: usize) -> Vec<u8> {
    let track = format!(
        r#"["1","2","realtime:crowd","presence",{{"type":"presence","event":"track","payload":{{"user":"member {number}"}}}}]"#
    );
    client_frame(0x1, track.as_bytes())
}
