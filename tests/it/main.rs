//! walcast from outside: the real binary, a real Postgres, real sockets. A module per promise.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "clippy.toml allows these in #[test] functions; this covers their helpers"
)]

mod catalog;
mod clients;
mod comparison;
mod delivery;
mod filter_values;
mod filters;
mod harness;
mod isolation;
mod operations;
mod rendering;
mod shadow;
mod subscribe;
mod values;
mod visibility;
mod wire_input;
mod world;
