//! The order of leaving: stop accepting, tell the sockets, let them drain, then stop the pipeline.
//!
//! One tree of cancellation tokens and one tracker per stage. A part is given the token and the tracker of its stage
//! and never starts a task elsewhere, so that leaving waits for all of them.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Handles on the shutdown; cheap to clone, all clones are one.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    /// Cancelled first: no further connection is accepted.
    pub accepting: CancellationToken,
    /// Cancelled next: every socket tells its channels and closes with 1012.
    pub draining: CancellationToken,
    /// Cancelled when the grace time is over: sockets that are still there are dropped without a close frame.
    pub dropping: CancellationToken,
    /// Cancelled last: replication confirms what it may and leaves, and with it every connection to the database.
    pub pipeline: CancellationToken,
    /// The accept loop, HTTP connections and sockets.
    pub server_tasks: TaskTracker,
    /// Replication, pipeline and database connections.
    pub pipeline_tasks: TaskTracker,
}

/// What was left when the grace time was over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left {
    /// Tasks of the server that did not end in time.
    pub server_tasks: usize,
    /// Tasks of the pipeline that did not end in time.
    pub pipeline_tasks: usize,
}

impl Shutdown {
    /// Nothing is cancelled yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Goes through the whole order once. Takes at most twice `grace`: the sockets and the pipeline have it each.
    ///
    /// Not cancel safe: what was not stopped when it is dropped goes on.
    pub async fn run(&self, grace: Duration) -> Left {
        self.accepting.cancel();
        self.draining.cancel();
        self.server_tasks.close();
        let left_server = ended_within(&self.server_tasks, grace).await;
        self.dropping.cancel();

        self.pipeline.cancel();
        self.pipeline_tasks.close();
        let left_pipeline = ended_within(&self.pipeline_tasks, grace).await;
        Left {
            server_tasks: left_server,
            pipeline_tasks: left_pipeline,
        }
    }
}

/// Waits for the tasks and says how many there still are after `grace`.
async fn ended_within(tasks: &TaskTracker, grace: Duration) -> usize {
    match tokio::time::timeout(grace, tasks.wait()).await {
        Ok(()) => 0,
        Err(_elapsed) => tasks.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_pipeline_outlives_the_sockets() {
        let shutdown = Shutdown::new();
        let seen = shutdown.clone();
        shutdown.server_tasks.spawn(async move {
            seen.draining.cancelled().await;
            assert!(seen.accepting.is_cancelled());
            assert!(!seen.pipeline.is_cancelled());
        });
        let pipeline = shutdown.pipeline.clone();
        shutdown
            .pipeline_tasks
            .spawn(async move { pipeline.cancelled().await });
        let left = shutdown.run(Duration::from_secs(10)).await;
        assert_eq!((left.server_tasks, left.pipeline_tasks), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_socket_that_does_not_leave_is_not_waited_for_beyond_the_grace_time() {
        let shutdown = Shutdown::new();
        shutdown.server_tasks.spawn(std::future::pending::<()>());
        assert_eq!(shutdown.run(Duration::from_secs(10)).await.server_tasks, 1);
        assert!(shutdown.dropping.is_cancelled());
        assert!(shutdown.pipeline.is_cancelled());
    }
}
