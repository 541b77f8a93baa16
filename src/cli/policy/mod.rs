//! `walcast policy`: what becomes of policies.
//!
//! `list` and `explain` look at a database as it is. `coverage` tells which of many policies are compiled, and whether they
//! answer as Postgres does: each entry of the file gets a database of its own, which is dropped again. Roles that it needs and that do not exist
//! are made under other names for the time of the run.

mod explain;
mod generate;
mod list;
mod live;
mod measure;
mod memory;
mod stage;
mod verify;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use serde::Deserialize;
use tokio_postgres::Client;
use tokio_util::task::TaskTracker;

use crate::database::{ConnectError, Database};
use crate::policy::schema::{LoadError, load};
use crate::policy::{Plan, compile};
pub(super) use explain::{Wanted, explain};
pub(super) use list::{Listing, list};
use stage::Stage;
use verify::Tally;

/// A schema with one policy in question.
#[derive(Debug, Deserialize)]
struct Entry {
    id: String,
    table: String,
    roles: Vec<String>,
    #[serde(default)]
    tables_sql: String,
    #[serde(default)]
    functions_sql: String,
    #[serde(default)]
    context_policies_sql: String,
    policy_sql: String,
}

/// The command cannot go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum CoverageError {
    #[error("cannot read {file}")]
    File {
        file: String,
        #[source]
        source: std::io::Error,
    },
    #[error("{file} is not an array of entries")]
    Format {
        file: String,
        #[source]
        source: serde_json::Error,
    },
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("cannot prepare a database for an entry")]
    Stage(#[from] tokio_postgres::Error),
    #[error(transparent)]
    Load(#[from] LoadError),
}

/// What became of an entry.
enum Outcome {
    Compiled,
    Refused(String),
    /// Its SQL does not run.
    Unusable(String),
}

/// Compiles every entry, and with `verify` compares verdicts.
pub(super) async fn coverage(
    database: &Database,
    file: &Path,
    verify: Option<usize>,
    only: Option<&str>,
) -> Result<String, CoverageError> {
    let shown = || file.display().to_string();
    let text = std::fs::read_to_string(file).map_err(|source| CoverageError::File {
        file: shown(),
        source,
    })?;
    let mut entries: Vec<Entry> =
        serde_json::from_str(&text).map_err(|source| CoverageError::Format {
            file: shown(),
            source,
        })?;
    entries.retain(|entry| only.is_none_or(|only| entry.id == only));
    let tasks = TaskTracker::new();
    let names = entries.iter().flat_map(|entry| &entry.roles);
    let mut stage = Stage::open(database, &tasks, names).await?;
    let mut outcomes = Vec::new();
    let mut tally = Tally::default();
    let mut failure = None;
    for entry in &entries {
        match one(&mut stage, entry, verify, &mut tally).await {
            Ok(outcome) => outcomes.push((entry.id.as_str(), outcome)),
            Err(error) => {
                failure = Some(error);
                break;
            }
        }
    }
    stage.close().await?;
    match failure {
        Some(error) => Err(error),
        None => Ok(report(&outcomes, verify.is_some().then_some(&tally))),
    }
}

async fn one(
    stage: &mut Stage<'_>,
    entry: &Entry,
    verify: Option<usize>,
    tally: &mut Tally,
) -> Result<Outcome, CoverageError> {
    let client = stage.fresh().await?;
    let table = match stage.prepare(&client, entry).await? {
        Ok(table) => table,
        Err(message) => return Ok(Outcome::Unusable(message)),
    };
    let schema = load(&client, &["public", "extensions"]).await?;
    let mut outcome = Outcome::Compiled;
    let mut plans: Vec<(String, Plan)> = Vec::new();
    for role in stage.roles_of(entry) {
        let Some(oid) = schema.role(&role) else {
            return Ok(Outcome::Unusable(format!("role {role} is missing")));
        };
        match compile(&schema, table, oid) {
            Ok(plan) => plans.push((role, plan)),
            Err(refusal) => outcome = Outcome::Refused(refusal.reason.into()),
        }
    }
    if let Some(rows) = verify {
        tally
            .compare(&client, &schema, table, &plans, rows, &entry.id)
            .await?;
    }
    Ok(outcome)
}

/// The schemas in which the login's sessions look for names; `$user` left out, which would depend on the role.
async fn search_path(client: &Client) -> Result<Vec<String>, tokio_postgres::Error> {
    let row = client
        .query_one(
            "select array(select s.name::pg_catalog.text
               from pg_catalog.unnest(pg_catalog.current_schemas(false)) with ordinality as s (name, place)
               where s.name <> current_user or pg_catalog.strpos(pg_catalog.current_setting('search_path'), '$user') = 0
               order by s.place)",
            &[],
        )
        .await?;
    row.try_get(0)
}

#[expect(
    clippy::cast_precision_loss,
    clippy::as_conversions,
    reason = "small counts, shown with one digit"
)]
fn report(outcomes: &[(&str, Outcome)], tally: Option<&Tally>) -> String {
    let compiled = outcomes
        .iter()
        .filter(|(_, outcome)| matches!(outcome, Outcome::Compiled))
        .count();
    let all = outcomes.len();
    let share = if all == 0 {
        100.0
    } else {
        compiled as f64 * 100.0 / all as f64
    };
    let mut text = format!("compiled {share:.1} % ({compiled} of {all})\n");
    let mut reasons: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for (id, outcome) in outcomes {
        let reason = match outcome {
            Outcome::Compiled => continue,
            Outcome::Refused(reason) => reason.clone(),
            Outcome::Unusable(message) => format!("does not load: {message}"),
        };
        reasons.entry(reason).or_default().push(id);
    }
    let mut reasons: Vec<(String, Vec<&str>)> = reasons.into_iter().collect();
    reasons.sort_by(|a, b| b.1.len().cmp(&a.1.len()).then_with(|| a.0.cmp(&b.0)));
    for (reason, ids) in reasons {
        let _ = write!(
            text,
            "\n{:4}  {reason}\n      {}\n",
            ids.len(),
            ids.join(", ")
        );
    }
    if let Some(tally) = tally {
        let _ = write!(text, "\n{tally}");
    }
    text
}
