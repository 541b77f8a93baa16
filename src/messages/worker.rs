//! Connections that take questions from the desk, each made anew when it breaks.

use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::asker::{Asker, Gone};
use super::desk::{BROKEN_MAX, Desk, Waiting};
use super::queue::Taken;
use crate::clock;
use crate::database::{ConnectError, Database};
use crate::log::Order;
use crate::metrics::{Histogram, QuestionTimes, observe};
use crate::realtime::{Ask, AskError};

/// How soon an idle worker notices that its connection has ended.
const LOOK: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub(super) struct Worker {
    pub(super) database: Database,
    pub(super) timeout: Duration,
    pub(super) order: Arc<Order>,
    pub(super) times: QuestionTimes,
    pub(super) desk: Arc<Desk>,
    pub(super) tasks: TaskTracker,
    pub(super) stop: CancellationToken,
}

impl Worker {
    /// Answers questions until the process stops.
    pub(super) async fn run(self) {
        while let Some(mut asker) = self.connect().await {
            self.desk.connected();
            self.serve(&mut asker).await;
            self.desk.disconnected();
        }
    }

    /// A connection, however long it takes; `None` when the process stops.
    async fn connect(&self) -> Option<Asker> {
        let pauses = ExponentialBuilder::default()
            .with_jitter()
            .with_min_delay(Duration::from_millis(50))
            .with_max_delay(Duration::from_secs(1))
            .without_max_times();
        let mut pauses = pauses.build();
        loop {
            match self.stop.run_until_cancelled(self.attempt()).await? {
                Ok(asker) => return Some(asker),
                Err(reason) => self.desk.away(&reason),
            }
            let pause = pauses.next().unwrap_or(Duration::from_secs(1));
            self.stop
                .run_until_cancelled(tokio::time::sleep(pause))
                .await?;
        }
    }

    async fn attempt(&self) -> Result<Asker, AskError> {
        let client = self.database.connect(&self.tasks, "walcast messages").await;
        let client = client.map_err(|error| {
            tracing::debug!(%error, "cannot connect to the database");
            match &error {
                ConnectError::Refused { sqlstate, .. } if sqlstate == "53300" => {
                    AskError::TooManyConnections
                }
                _ => AskError::Unreachable,
            }
        })?;
        Asker::new(client, self.timeout, Arc::clone(&self.order))
            .await
            .map_err(|error| {
                tracing::debug!(%error, "cannot set up the session for questions");
                AskError::Unreachable
            })
    }

    fn times(&self, ask: &Ask) -> &Histogram {
        match ask {
            Ask::Read { .. } | Ask::Reread { .. } => &self.times.read,
            Ask::Write(_) | Ask::Persist { .. } => &self.times.write,
            Ask::Replay { .. } => &self.times.replay,
        }
    }

    /// Returns when the connection is of no use any more, or the process stops.
    async fn serve(&self, asker: &mut Asker) {
        while !asker.is_closed() && !self.stop.is_cancelled() {
            let Some(Taken { who, item }) = self.desk.take() else {
                tokio::select! {
                    () = self.stop.cancelled() => return,
                    () = self.desk.work() => {}
                    () = tokio::time::sleep(LOOK) => {}
                }
                continue;
            };
            if item.request.reply.is_forsaken() {
                self.desk.done(&who, Duration::ZERO);
                continue;
            }
            let begun = clock::instant();
            let asked = self
                .stop
                .run_until_cancelled(asker.ask(&item.request))
                .await;
            let took = clock::instant().saturating_duration_since(begun);
            self.desk.done(&who, took);
            match asked {
                Some(Ok(answer)) => {
                    if answer.is_ok() {
                        observe(self.times(&item.request.ask), took);
                    }
                    if answer == Err(AskError::MissingPartition) {
                        self.desk.repair.notify_one();
                    }
                    item.request.reply.send(answer);
                }
                Some(Err(Gone)) => {
                    // What was stored, if it was, is not stored twice.
                    let broken = match item.request.ask {
                        Ask::Persist { .. } => BROKEN_MAX,
                        _ => item.broken,
                    };
                    self.desk.put_back(Waiting { broken, ..item });
                    return;
                }
                None => return,
            }
        }
    }
}
