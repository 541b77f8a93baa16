//! WAL → committed transactions.
//!
//! Message bytes of one logical replication slot go in, [`StreamEvent`](crate::change::StreamEvent)s come out: whole
//! committed transactions in parts of bounded size, each with its net effect applied. Never shows anything of a
//! transaction before its commit, nor of one that aborted.

pub mod assembler;
pub mod connection;
mod guard;
mod incarnation;
pub mod login;
pub mod message;
pub mod pgoutput;
pub mod progress;
mod session;
pub mod slot;
pub mod status;
pub mod stream;
