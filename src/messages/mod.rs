//! The table `realtime.messages` (*io*): who may read and write a private topic, what is replayed, what is stored
//! (protocol.md §5.6, §5.7, §7.5); and its partitions.
//!
//! Questions go in with the claims of whoever asks; each gets one answer, in no particular order. Policies decide, as the
//! subscriber, and nothing that they do remains. Never broadcasts anything: rows come back through the slot.

mod asker;
mod desk;
mod partitions;
mod queue;
mod replay;
mod worker;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::auth::Claims;
use crate::database::Database;
use crate::log::{Order, Outbox};
use crate::metrics::QuestionTimes;
use crate::realtime::{Answer, Ask, AskError, Notice};
use crate::topic::Room;
use desk::Desk;
use partitions::Keeper;
use worker::Worker;

/// A question about a room.
#[derive(Debug)]
pub struct Request {
    /// As whom.
    pub claims: Arc<Claims>,
    /// `request.headers`: a JSON object (protocol.md §7.5).
    pub headers: Arc<str>,
    /// About which room.
    pub room: Arc<Room>,
    /// What.
    pub ask: Ask,
    /// Who wants to know.
    pub reply: Reply,
}

/// Where an answer goes.
#[derive(Debug)]
pub enum Reply {
    /// To a channel, as [`Notice::Answered`].
    Channel {
        /// The socket's outbox.
        outbox: Arc<Outbox<Notice>>,
        /// The membership on that socket.
        membership: u32,
        /// Of the question.
        ticket: u32,
    },
    /// To an HTTP request.
    Once(oneshot::Sender<Result<Answer, AskError>>),
}

/// What sockets and HTTP requests need.
#[derive(Clone, Debug)]
pub struct Messages {
    requests: mpsc::Sender<Request>,
}

/// Settings.
#[derive(Clone, Debug)]
pub struct Options {
    /// The database.
    pub database: Database,
    /// Connections that ask; one more is made now and then to look after the partitions.
    pub connections: usize,
    /// How long a policy may take; at least a millisecond.
    pub timeout: Duration,
    /// In which order rows were committed, as far as that is known.
    pub order: Arc<Order>,
    /// How long answers took.
    pub times: QuestionTimes,
}

/// Questions that may wait: a few seconds' work.
const REQUESTS_MAX: usize = 1024;

impl Messages {
    /// A handle, and where its questions arrive.
    #[must_use]
    pub fn new() -> (Self, mpsc::Receiver<Request>) {
        let (requests, waiting) = mpsc::channel(REQUESTS_MAX);
        (Self { requests }, waiting)
    }

    /// Asks; answers that it cannot if too many wait.
    pub fn ask(&self, request: Request) {
        if let Err(
            mpsc::error::TrySendError::Full(request) | mpsc::error::TrySendError::Closed(request),
        ) = self.requests.try_send(request)
        {
            request.reply.send(Err(AskError::Overloaded));
        }
    }
}

impl Reply {
    /// Whether nobody waits for the answer any more.
    fn is_forsaken(&self) -> bool {
        matches!(self, Self::Once(sender) if sender.is_closed())
    }

    /// Answers.
    pub(crate) fn send(self, answer: Result<Answer, AskError>) {
        match self {
            Self::Channel {
                outbox,
                membership,
                ticket,
            } => outbox.push(crate::log::Posting::Notice {
                membership,
                notice: Notice::Answered { ticket, answer },
            }),
            // The request may have ended meanwhile.
            Self::Once(sender) => drop(sender.send(answer)),
        }
    }
}

/// Starts the tasks; they end when `stop` is cancelled.
#[must_use]
pub fn start(options: &Options, tasks: &TaskTracker, stop: &CancellationToken) -> Messages {
    let (messages, requests) = Messages::new();
    let desk = Arc::new(Desk::new(options));
    tasks.spawn(Arc::clone(&desk).admit(requests, stop.clone()));
    for _connection in 0..options.connections.max(1) {
        let worker = Worker {
            database: options.database.clone(),
            timeout: options.timeout,
            order: Arc::clone(&options.order),
            times: options.times.clone(),
            desk: Arc::clone(&desk),
            tasks: tasks.clone(),
            stop: stop.clone(),
        };
        tasks.spawn(worker.run());
    }
    let keeper = Keeper {
        database: options.database.clone(),
        desk,
        tasks: tasks.clone(),
        stop: stop.clone(),
    };
    tasks.spawn(keeper.run());
    messages
}
