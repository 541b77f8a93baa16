#![allow(missing_docs)]
use crate::change::*;
use std::sync::Arc;
use tokio::sync::*;
#[derive(Clone, Debug)]
pub struct Options {
    pub publications: Vec<String>,
}
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplicationStatus;
impl ReplicationStatus {
    pub fn is_streaming(&self) -> bool {
        true
    }
}
impl std::fmt::Display for ReplicationStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("")
    }
}
pub struct Stage {
    pub options: Options,
    pub database: crate::database::Database,
    pub key_resolver: KeyResolver,
    pub events: mpsc::Sender<StreamEvent>,
    pub confirmed: watch::Receiver<Lsn>,
    pub poke: Arc<Notify>,
    pub status: watch::Sender<ReplicationStatus>,
    pub tasks: tokio_util::task::TaskTracker,
    pub stop: tokio_util::sync::CancellationToken,
}
pub type KeyResolver = Arc<dyn Fn(&Relation) -> Box<[usize]> + Send + Sync>;
pub async fn run(_: Stage) {}
