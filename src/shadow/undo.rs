//! What one transaction has changed of a table, so that the table can be looked at as of before.
//!
//! The rows that have come and those that have gone are kept beside the table. Nothing is moved: a look at the past passes
//! over the first and adds the second. Beyond a limit nothing is known of the past, and nothing is told of it.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use super::layout::Layout;
use super::store::Store;
use crate::policy::Tuple;
use crate::policy::value::Value;

/// The difference that a transaction has made.
#[derive(Debug)]
pub(super) enum Undo {
    /// The table before is the table now, without `fresh` and with `gone`.
    Known {
        /// Rows that were not there before.
        fresh: Store,
        /// Rows that are no longer there.
        gone: Store,
    },
    /// What was before cannot be told.
    Unknown,
}

impl Undo {
    /// Nothing has changed yet.
    pub(super) fn new(layout: &Arc<Layout>) -> Self {
        Self::Known {
            fresh: Store::new(Arc::clone(layout)),
            gone: Store::new(Arc::clone(layout)),
        }
    }

    pub(super) const fn is_known(&self) -> bool {
        matches!(self, Self::Known { .. })
    }

    /// Bytes of memory.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Known { fresh, gone } => fresh.bytes().saturating_add(gone.bytes()),
            Self::Unknown => 0,
        }
    }

    /// A row has come.
    pub(super) fn came(&mut self, row: &[u8]) {
        if let Self::Known { fresh, .. } = self
            && fresh.insert(row.to_vec()).is_err()
        {
            *self = Self::Unknown;
        }
    }

    /// A row has gone.
    pub(super) fn went(&mut self, row: &[u8]) {
        if let Self::Known { fresh, gone } = self
            // What came and went in between was never there for those who look at the past.
            && fresh.delete(row).is_err()
            && gone.insert(row.to_vec()).is_err()
        {
            *self = Self::Unknown;
        }
    }

    /// [`Store::scan`] of the table as it was, given the table as it is.
    pub(super) fn scan(
        &self,
        now: &Store,
        keys: &[(usize, Value)],
        visit: &mut dyn FnMut(&Tuple) -> ControlFlow<()>,
    ) {
        let Self::Known { fresh, gone } = self else {
            return;
        };
        // Without a key rows may be equal, of which as many are passed over as have come.
        let mut passed: HashMap<Box<[u8]>, usize> = HashMap::new();
        let layout = now.layout();
        let stopped = now.scan_rows(keys, &mut |row| {
            let copies = fresh.copies(row);
            if copies > 0 {
                let passed = passed.entry(row.into()).or_default();
                if *passed < copies {
                    *passed = passed.saturating_add(1);
                    return ControlFlow::Continue(());
                }
            }
            visit(&layout.tuple(row))
        });
        if stopped.is_continue() {
            gone.scan(keys, visit);
        }
    }
}
