//! Drives the stages. What the server needs of it: commands in, postings and a status out.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use crate::auth::Claims;
use crate::log::{Log, Outbox};
use crate::realtime::Notice;
use crate::routing::RequestedBinding;

/// What a socket asks of the pipeline.
#[derive(Debug)]
pub enum Command {
    /// A membership wants changes; answered by `Notice::Subscribed` or `Notice::Refused` in the outbox.
    Subscribe {
        /// Number of the socket.
        connection: u64,
        /// Number of the membership on the socket.
        membership: u32,
        /// Where the answers and the changes go.
        outbox: Arc<Outbox<Notice>>,
        /// As whom.
        claims: Arc<Claims>,
        /// What is asked for; never empty.
        bindings: Vec<RequestedBinding>,
        /// The join carried no token of its own: one may follow (design.md §5).
        grace: bool,
    },
    /// The same bindings under new claims; answered by `Notice::Subscribed`.
    Identify {
        /// Number of the socket.
        connection: u64,
        /// Number of the membership on the socket.
        membership: u32,
        /// As whom from now on.
        claims: Arc<Claims>,
    },
    /// The membership ended. Also sent for memberships that the pipeline ended itself.
    Unsubscribe {
        /// Number of the socket.
        connection: u64,
        /// Number of the membership on the socket.
        membership: u32,
    },
}

/// How the server reaches the pipeline.
#[derive(Clone, Debug)]
pub struct Handle {
    /// Bounded; full means wait.
    pub commands: mpsc::Sender<Command>,
    /// Where postings are read.
    pub log: Arc<Log>,
    /// Whether changes flow.
    pub status: watch::Receiver<Status>,
}

/// Whether changes flow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Changes flow.
    pub ready: bool,
    /// One line for the operator: why not, or since when.
    pub detail: String,
}
