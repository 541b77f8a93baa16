//! What a run has come to.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::judge::{Answer, Past};

const REFUSALS_SHOWN: usize = 25;

/// Counts of one world or of several.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) transactions: u64,
    pub(super) schema_changes: u64,
    /// Transactions that Postgres refused.
    pub(super) refused: u64,
    pub(super) allowed: u64,
    pub(super) hidden: u64,
    pub(super) raised: u64,
    /// Verdicts that the server took in memory, by its own count, and those that it asked for.
    pub(super) compiled: u64,
    pub(super) asked: u64,
    /// Old rows under row-level security.
    pub(super) past: Past,
    /// Denied because a part of a condition raises that Postgres happened not to evaluate.
    pub(super) stricter: u64,
    /// Rows that Postgres shows under one plan and raises for under another.
    pub(super) plan_dependent: u64,
    /// Transactions at once that were compared in part only, because Postgres was asked about some of them.
    pub(super) merged: u64,
    /// Listeners whose question Postgres did not answer in time.
    pub(super) late: u64,
    /// Time spent waiting for plans and tables.
    pub(super) settling: Duration,
    /// Why tables were left to Postgres, and how often.
    pub(super) refusals: BTreeMap<String, u64>,
    pub(super) differences: Vec<String>,
    /// Verdicts that were stricter, for people to look at.
    pub(super) samples: Vec<String>,
}

impl Tally {
    pub(super) fn count(&mut self, answer: &Answer) {
        match answer {
            Answer::Visible => self.allowed += 1,
            Answer::Hidden => self.hidden += 1,
            Answer::Raises(_) => self.raised += 1,
        }
    }

    pub(super) const fn verdicts(&self) -> u64 {
        self.allowed + self.hidden + self.raised
    }

    /// How many of a hundred verdicts were taken in memory.
    pub(super) fn compiled_percent(&self) -> u64 {
        self.compiled * 100 / (self.compiled + self.asked).max(1)
    }

    /// The refusals, most frequent first.
    pub(super) fn refusals(&self) -> String {
        let mut list: Vec<_> = self.refusals.iter().collect();
        list.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        let lines = list
            .iter()
            .take(REFUSALS_SHOWN)
            .map(|(reason, count)| format!("  {count} {reason}"));
        lines.collect::<Vec<_>>().join("\n")
    }

    pub(super) fn add(&mut self, other: Self) {
        self.transactions += other.transactions;
        self.schema_changes += other.schema_changes;
        self.refused += other.refused;
        self.allowed += other.allowed;
        self.hidden += other.hidden;
        self.raised += other.raised;
        self.compiled += other.compiled;
        self.asked += other.asked;
        self.past.add(&other.past);
        self.stricter += other.stricter;
        self.plan_dependent += other.plan_dependent;
        self.merged += other.merged;
        self.late += other.late;
        self.settling += other.settling;
        for (reason, count) in other.refusals {
            *self.refusals.entry(reason).or_default() += count;
        }
        self.differences.extend(other.differences);
        self.samples.extend(other.samples);
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} transactions ({} changed the schema, {} more were refused), {} verdicts ({} allowed, {} hidden, {} raised), \
             {} % of them compiled ({} of {}), {} old rows judged ({} had to be) and {} not ({} had to be), {} stricter, {} depend on the plan, {} bursts compared in part, {} too late, {} s waited; {} differences",
            self.transactions,
            self.schema_changes,
            self.refused,
            self.verdicts(),
            self.allowed,
            self.hidden,
            self.raised,
            self.compiled_percent(),
            self.compiled,
            self.compiled + self.asked,
            self.past.judged,
            self.past.judged_by_plan,
            self.past.unjudged,
            self.past.unjudged_despite_plan,
            self.stricter,
            self.plan_dependent,
            self.merged,
            self.late,
            self.settling.as_secs(),
            self.differences.len()
        )
    }
}
