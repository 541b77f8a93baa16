//! What is asked of a loader, and what it answers.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Spec;
use super::store::Store;
use crate::change::{Lsn, Oid, Snapshot};

/// A table to be loaded, by [`load`](super::load()).
#[derive(Clone, Debug)]
pub struct LoadRequest {
    /// What is wanted.
    pub spec: Arc<Spec>,
    /// Tells this load from earlier ones of the table.
    pub generation: u64,
    /// Loads of this table that were begun before, since it was last trusted: wait longer each time.
    pub attempt: u32,
    pub(super) bytes_max: usize,
}

/// What came of a [`LoadRequest`].
#[derive(Debug)]
pub struct LoadResult {
    pub(super) table: Oid,
    pub(super) generation: u64,
    pub(super) outcome: Outcome,
}

/// How it went.
#[derive(Debug)]
pub(super) enum Outcome {
    Rows(Loaded),
    TooLarge,
    Unfit(Box<str>),
    Failed(Box<str>),
}

/// A table as of a snapshot.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) snapshot: Snapshot,
    pub(super) lsn: Lsn,
    pub(super) store: Store,
    pub(super) leaves: BTreeSet<Oid>,
    pub(super) print: Box<str>,
}

impl LoadResult {
    /// A load that could not even begin.
    #[must_use]
    pub fn failed(request: &LoadRequest, reason: &str) -> Self {
        Self {
            table: request.spec.table,
            generation: request.generation,
            outcome: Outcome::Failed(reason.into()),
        }
    }
}
