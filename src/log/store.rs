//! The payloads by part.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

/// The payloads that a posting names have left the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the payloads have left the log")]
pub struct Gone;

/// The recent payloads, in memory.
#[derive(Debug, Default)]
pub struct Log {
    parts: Mutex<BTreeMap<u64, Vec<Bytes>>>,
}

impl Log {
    /// Puts a part in.
    pub fn insert(&self, part: u64, payloads: Vec<Bytes>) {
        self.parts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(part, payloads);
    }

    /// Reads payloads of a part.
    ///
    /// # Errors
    /// The part has left the log: the reader has to be told to start over.
    pub fn read(&self, part: u64, first: u32, count: u32) -> Result<Vec<Bytes>, Gone> {
        let parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        let payloads = parts.get(&part).ok_or(Gone)?;
        let first = usize::try_from(first).map_err(|_too_large| Gone)?;
        let count = usize::try_from(count).map_err(|_too_large| Gone)?;
        Ok(payloads
            .get(first..first.saturating_add(count))
            .ok_or(Gone)?
            .to_vec())
    }
}
