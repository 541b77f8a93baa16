//! walcast from outside: the real binary, a real Postgres, real sockets. A module per promise.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "clippy.toml allows these in #[test] functions; this covers their helpers"
)]

mod audience;
mod broadcast;
mod catalog;
mod clients;
mod comparison;
mod compiled;
mod crowd;
mod database_broadcast;
mod delivery;
mod failover;
mod faults;
mod filter_values;
mod filters;
mod harness;
mod http_broadcast;
mod isolation;
mod large_past;
mod limits;
mod limits_and_change;
mod messages;
mod metrics;
mod old_tuples;
mod operations;
mod oracle;
mod past;
mod policies;
mod policy_commands;
mod policy_values;
mod presence;
mod private;
mod races;
mod rendering;
mod replay;
mod resume;
mod resume_broadcasts;
mod retention;
mod rolling;
mod shadow;
mod since;
mod slow;
mod snapshot;
mod subscribe;
mod throng;
mod values;
mod visibility;
mod wire_early;
mod wire_input;
mod world;
