//! WAL → committed transactions.
//!
//! Message bytes of one logical replication slot go in, [`StreamEvent`](crate::change::StreamEvent)s come out: whole
//! committed transactions in parts of bounded size, each with its net effect applied. Never shows anything of a
//! transaction before its commit, nor of one that aborted.

pub mod assembler;
#[cfg(any(test, feature = "testing"))]
pub mod encode;
mod merge;
mod net_effect;
pub mod pgoutput;
pub mod progress;
mod relations;
mod replay;
mod row_key;
mod spool;
mod waiting;
