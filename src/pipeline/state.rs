//! What becomes of policies in a running server, for operators: plans, the tables that they look into, and what verdicts
//! cost. Plain data.

use serde::Serialize;

use super::ledger::TableWork;

/// All of it, as of one moment.
#[derive(Clone, Debug, Default, Serialize)]
pub struct PolicyState {
    /// Policies are compiled at all (`verdicts = compiled`).
    pub compiles: bool,
    /// The schema of the database has been read; until then Postgres is asked.
    pub knows_schema: bool,
    /// Bytes of the tables that are looked into.
    pub shadow_bytes: usize,
    /// The limit of these.
    pub shadow_bytes_max: usize,
    /// One for each table and role with subscribers to which policies apply.
    pub plans: Vec<PlanState>,
    /// The tables that plans look into.
    pub shadows: Vec<ShadowState>,
    /// Verdicts so far.
    pub verdicts: Vec<TableWork>,
}

/// What became of a table's policies for a role.
#[derive(Clone, Debug, Serialize)]
pub struct PlanState {
    /// Schema and name.
    pub table: Box<str>,
    /// The role.
    pub role: Box<str>,
    /// They are judged in memory while the tables of `reads` can be looked into.
    pub compiled: bool,
    /// Why they are not.
    pub reason: Option<Box<str>>,
    /// How rows lead to identities, as `walcast policy list` tells it.
    pub form: Option<Box<str>>,
    /// Tables that are looked into.
    pub reads: Vec<Box<str>>,
}

/// A table that plans look into.
#[derive(Clone, Debug, Serialize)]
pub struct ShadowState {
    /// Schema and name.
    pub table: Box<str>,
    /// `wanted`, `loading`, `trusted`, `invalid`, `too large` or `unfit`.
    pub state: &'static str,
    /// Why it cannot be looked into.
    pub reason: Option<Box<str>>,
    /// Exact from this position on.
    pub exact_from: Option<String>,
    /// Rows in memory.
    pub rows: usize,
    /// Their bytes, with indexes; of a table being loaded, those of the changes that came meanwhile.
    pub bytes: usize,
    /// How often it was loaded.
    pub loads: u64,
    /// Why it was loaded the last time, if not for the first.
    pub loaded_again_because: Option<Box<str>>,
}
