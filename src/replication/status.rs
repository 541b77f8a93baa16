//! How replication fares: what health, readiness and metrics show of it. Plain values.

use std::fmt;
use std::sync::atomic::AtomicU64;

/// What replication is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ReplicationState {
    /// Making a connection.
    #[default]
    Connecting,
    /// The slot is being created, which waits for the transactions that were open when it began.
    CreatingSlot {
        /// The processes whose transactions it waits for.
        waiting_for: Vec<i32>,
    },
    /// Another process holds the slot; this one takes over when it ends.
    Standby {
        /// The holder.
        pid: i32,
        /// One sentence.
        sentence: String,
    },
    /// Changes flow.
    Streaming,
    /// Nothing flows; tried again all the time.
    Failed {
        /// One sentence, with the remedy where there is one.
        sentence: String,
    },
}

/// State and warning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplicationStatus {
    /// What is being done.
    pub state: ReplicationState,
    /// While streaming: the publication of `realtime.messages` is read as well.
    pub messages: bool,
    /// One sentence about something that will go wrong if nothing is done, such as an old transaction that keeps WAL.
    pub warning: Option<String>,
}

impl fmt::Display for ReplicationState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connecting => f.write_str("connecting to the database"),
            Self::CreatingSlot { waiting_for } if waiting_for.is_empty() => {
                f.write_str("creating the replication slot")
            }
            Self::CreatingSlot { waiting_for } => {
                let pids: Vec<String> = waiting_for.iter().map(ToString::to_string).collect();
                let pids = pids.join(", ");
                write!(
                    f,
                    "creating the replication slot waits for the open transaction of process {pids}"
                )
            }
            Self::Standby { sentence, .. } | Self::Failed { sentence } => f.write_str(sentence),
            Self::Streaming => f.write_str("streaming"),
        }
    }
}

/// Numbers for metrics; each is written by one task and read by anybody.
#[derive(Debug, Default)]
pub struct ReplicationCounters {
    /// Bytes received from the server while streaming.
    pub received_bytes: AtomicU64,
    /// Transactions handed down, with changes or skipped.
    pub transactions: AtomicU64,
    /// Sessions that streamed.
    pub sessions: AtomicU64,
    /// Epochs that began after the first.
    pub epochs: AtomicU64,
    /// The server's last known position, as bytes.
    pub received_lsn: AtomicU64,
    /// Everything before this position was handed down, as bytes.
    pub position_lsn: AtomicU64,
    /// The position that was confirmed last, as bytes.
    pub confirmed_lsn: AtomicU64,
    /// Bytes of WAL between what is confirmed and the end, a few seconds old.
    pub lag_bytes: AtomicU64,
    /// Bytes of WAL that the server keeps for the slot, a few seconds old.
    pub retained_bytes: AtomicU64,
}
