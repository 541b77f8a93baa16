//! WAL → committed transactions.
//!
//! Message bytes of one logical replication slot go in, [`StreamEvent`](crate::change::StreamEvent)s come out: whole
//! committed transactions in parts of bounded size, each with its net effect applied. Never shows anything of a
//! transaction before its commit, nor of one that aborted.

pub mod assembler;
pub mod connection;
#[cfg(any(test, feature = "testing"))]
pub mod encode;
mod guard;
mod incarnation;
pub mod login;
mod merge;
pub mod message;
pub mod messages;
mod net_effect;
pub mod pgoutput;
pub mod progress;
mod relations;
mod replay;
mod row_key;
mod session;
pub mod slot;
mod spool;
pub mod status;
pub mod stream;
mod waiting;
