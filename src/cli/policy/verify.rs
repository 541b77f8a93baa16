//! Compares the verdicts of plans with what Postgres answers.

use std::fmt;

use tokio_postgres::Client;

use super::CoverageError;
use crate::policy::Plan;
use crate::policy::schema::Schema;

/// Counts over all entries.
#[derive(Debug, Default)]
pub(super) struct Tally {
    comparisons: u64,
    differences: Vec<String>,
}

impl Tally {
    pub(super) async fn compare(
        &mut self,
        _client: &Client,
        _schema: &Schema,
        _table: u32,
        _plans: &[(String, Plan)],
        _rows: usize,
        _entry: &str,
    ) -> Result<(), CoverageError> {
        Ok(())
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} comparisons, {} differences",
            self.comparisons,
            self.differences.len()
        )
    }
}
