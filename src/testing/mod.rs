//! The harness of the tests and benchmarks (feature `testing`): private Postgres clusters, the real `walcast` binary as
//! a child process, raw WebSocket clients, tokens.
//!
//! It treats walcast as a stranger does: through its command line, its sockets and the database, never through its
//! types. Whatever goes wrong here is a failed test, hence it panics with what it knows.
//!
//! *io*: starts processes, listens to the clock.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "only tests and benchmarks run this code; a surprise is their failure"
)]

mod app;
mod attendance;
mod binary;
mod channel;
mod cluster;
mod crowd;
mod figures;
mod installation;
mod leash;
mod proxy;
mod server;
mod socket;
mod subscriber;
mod token;

pub use app::{App, AppOptions, FENCE_TABLE};
pub use attendance::Attendance;
pub use binary::{Encoding, Push, broadcast_frame};
pub use channel::Channel;
pub use cluster::{Cluster, Session};
pub use crowd::{
    Counting, Crowd, CrowdOptions, UNLIMITED, allow_files, client_frame, crowd_join, numbered,
    server_frame,
};
pub use figures::Durations;
pub use installation::Installation;
pub use leash::{Leash, free_port};
pub use proxy::{Cut, Direction, Faults, Proxy, ProxyCounts};
pub use server::{HttpReply, Server, processor_time};
pub use socket::{Frame, Received, Socket, Version};
pub use subscriber::{Change, Subscriber, join_payload};
pub use token::{JWT_SECRET, PUBLISHABLE_KEY, SECRET_KEY, anon, expiring, mint, service, user};

use std::future::Future;
use std::time::{Duration, Instant};

/// How long anything that must happen may take before the test fails. Generous: test machines are busy.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Repeats `probe` every 20 ms until it gives a value.
///
/// # Panics
///
/// After [`PATIENCE`], naming what was waited for.
pub async fn eventually<T, F>(what: &str, mut probe: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let started = Instant::now();
    loop {
        if let Some(value) = probe().await {
            return value;
        }
        assert!(started.elapsed() < PATIENCE, "gave up waiting for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
