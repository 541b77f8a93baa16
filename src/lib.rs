//! walcast turns any Postgres into a realtime backend: it reads the write-ahead log, decides with the database's own
//! row-level-security policies who may see each committed change, and pushes it over WebSockets.
//!
//! A change passes through [`replication`], [`pipeline`] (which leans on [`catalog`], [`routing`] and [`policy`]), [`log`],
//! [`realtime`] and [`server`]. ARCHITECTURE.md has the map.

pub mod auth;
pub mod catalog;
pub mod change;
pub mod cli;
pub mod clock;
pub mod config;
pub mod database;
pub mod log;
pub mod messages;
pub mod metrics;
pub mod pipeline;
pub mod policy;
pub mod realtime;
pub mod replication;
pub mod rooms;
pub mod routing;
pub mod server;
pub mod shadow;
pub mod shutdown;
#[cfg(feature = "testing")]
pub mod testing;
pub mod topic;
pub mod websocket;
