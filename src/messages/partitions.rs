//! Keeps partitions of `realtime.messages` ahead and drops old ones, by `walcast.keep_message_partitions()`.
//!
//! Where that function is missing somebody else looks after them.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::desk::Desk;
use crate::database::Database;

const KEEP: &str = "select walcast.keep_message_partitions()";
const SETTINGS: &str = "set statement_timeout = '10s'";

/// Partitions are made three days ahead.
const EVERY: Duration = Duration::from_secs(60 * 60);
/// After an attempt that did not reach the database.
const RETRY: Duration = Duration::from_secs(5);
/// Between two attempts, however often a partition is missed.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Keeper {
    pub(super) database: Database,
    pub(super) desk: Arc<Desk>,
    pub(super) tasks: TaskTracker,
    pub(super) stop: CancellationToken,
}

/// What came of one attempt.
enum Kept {
    Fully,
    /// Something is left to be done, for this reason.
    Partly(String),
    /// The database is away.
    Not,
}

impl Keeper {
    /// At once, every hour, and whenever a partition is missed.
    pub(super) async fn run(self) {
        let work = async {
            let mut told = String::new();
            loop {
                let (wait, trouble) = match self.keep().await {
                    Kept::Fully => (EVERY, String::new()),
                    Kept::Partly(trouble) => (EVERY, trouble),
                    Kept::Not => (RETRY, told.clone()),
                };
                if trouble != told && !trouble.is_empty() {
                    tracing::warn!("partitions of realtime.messages: {trouble}");
                }
                told = trouble;
                tokio::time::sleep(PAUSE).await;
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    () = self.desk.repair.notified() => {}
                }
            }
        };
        let _stopped: Option<()> = self.stop.run_until_cancelled(work).await;
    }

    async fn keep(&self) -> Kept {
        let connected = self
            .database
            .connect(&self.tasks, "walcast partitions")
            .await;
        let client = match connected {
            Ok(client) => client,
            Err(error) => {
                tracing::debug!(%error, "cannot connect to the database");
                return Kept::Not;
            }
        };
        let kept = async {
            client.batch_execute(SETTINGS).await?;
            let row = client.query_one(KEEP, &[]).await?;
            row.try_get::<_, Option<String>>(0)
        };
        match kept.await {
            Ok(None) => Kept::Fully,
            Ok(Some(trouble)) => Kept::Partly(trouble),
            Err(error) => match error.as_db_error() {
                Some(error) => Kept::Partly(format!("{error}; run walcast setup")),
                None => Kept::Not,
            },
        }
    }
}
