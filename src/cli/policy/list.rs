//! `walcast policy list`: what becomes of the policies of each published table, for each role.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;
use serde_json::{Value, json};
use tokio_postgres::Client;
use tokio_util::task::TaskTracker;

use super::memory::CLAIMS;
use crate::catalog;
use crate::database::{ConnectError, Database};
use crate::policy::schema::{self, Schema, Table};
use crate::policy::value::Oid;
use crate::policy::{Plan, Refusal, compile};
use crate::shadow::{Spec, misfit};

/// Roles that subscribers have unless told otherwise.
const ROLES: &[&str] = &["anon", "authenticated", "service_role"];

/// The command cannot go on.
#[derive(Debug, thiserror::Error)]
pub(in crate::cli) enum ListError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Schema(#[from] schema::LoadError),
    #[error(transparent)]
    Catalog(#[from] catalog::LoadError),
    #[error("cannot look into the catalog")]
    Query(#[from] tokio_postgres::Error),
    #[error("there is no role {0:?}")]
    Role(String),
}

/// One published table.
#[derive(Serialize)]
struct Listed {
    schema: Box<str>,
    table: Box<str>,
    roles: Vec<Line>,
}

/// What becomes of its policies for one role.
#[derive(Serialize)]
struct Line {
    role: String,
    #[serde(flatten)]
    outcome: Outcome,
}

#[derive(Serialize)]
#[serde(tag = "result", rename_all = "snake_case")]
enum Outcome {
    Compiled {
        reads: Vec<Looked>,
        /// `None`: all of them.
        claims: Option<Vec<Box<str>>>,
        settings: Vec<Setting>,
        time: bool,
    },
    AlwaysError {
        sqlstate: Box<str>,
        message: Box<str>,
    },
    AllRows,
    NoRows,
    PostgresIsAsked {
        reason: Box<str>,
    },
}

/// A table that the plan looks into.
#[derive(Serialize)]
struct Looked {
    schema: Box<str>,
    table: Box<str>,
    columns: Vec<Box<str>>,
    followed: bool,
    /// Why it cannot be followed.
    reason: Option<Box<str>>,
}

#[derive(Serialize)]
struct Setting {
    name: Box<str>,
    set: bool,
}

/// Compiles for every published table and role, and prints the outcomes as text or as JSON.
pub(in crate::cli) async fn list(
    database: &Database,
    publications: &[String],
    more: &[String],
    as_json: bool,
) -> Result<String, ListError> {
    let tasks = TaskTracker::new();
    let client = database.connect(&tasks, "walcast policy").await?;
    let path = super::search_path(&client).await?;
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    let schema = schema::load(&client, &path).await?;
    let published = catalog::load(&client, publications, false).await?;
    let mut roles: BTreeMap<&str, Oid> = BTreeMap::new();
    for name in ROLES {
        roles.extend(schema.role(name).map(|oid| (*name, oid)));
    }
    for name in more {
        let oid = schema.role(name);
        roles.insert(name, oid.ok_or_else(|| ListError::Role(name.clone()))?);
    }
    let login = login(&client, &schema).await?;
    let mut tables: Vec<&Table> = published
        .tables
        .keys()
        .filter_map(|oid| schema.tables.get(oid).map(|table| &**table))
        .collect();
    tables.sort_by_key(|table| (&table.schema, &table.name));
    let mut listed = Vec::new();
    for table in tables {
        let mut lines = Vec::new();
        for (name, role) in &roles {
            let outcome = match compile(&schema, table.oid, *role) {
                Err(Refusal { reason }) => Outcome::PostgresIsAsked { reason },
                Ok(plan) => outcome(&client, publications, &schema, login, &plan).await?,
            };
            lines.push(Line {
                role: (*name).to_owned(),
                outcome,
            });
        }
        listed.push(Listed {
            schema: table.schema.clone(),
            table: table.name.clone(),
            roles: lines,
        });
    }
    if as_json {
        let tables: Value = json!(listed);
        return Ok(format!("{tables:#}"));
    }
    if listed.is_empty() {
        return Ok(format!(
            "no table is published by {}",
            publications.join(", ")
        ));
    }
    let texts: Vec<String> = listed.iter().map(Listed::print).collect();
    Ok(texts.join("\n").trim_end().to_owned())
}

async fn login(client: &Client, schema: &Schema) -> Result<Option<Oid>, tokio_postgres::Error> {
    let row = client
        .query_one("select current_user::pg_catalog.text", &[])
        .await?;
    Ok(schema.role(row.try_get(0)?))
}

async fn outcome(
    client: &Client,
    publications: &[String],
    schema: &Schema,
    login: Option<Oid>,
    plan: &Plan,
) -> Result<Outcome, tokio_postgres::Error> {
    match plan.constant() {
        Some(Ok(true)) => return Ok(Outcome::AllRows),
        Some(Ok(false)) => return Ok(Outcome::NoRows),
        Some(Err(error)) => {
            return Ok(Outcome::AlwaysError {
                sqlstate: error.sqlstate.clone(),
                message: error.message.clone(),
            });
        }
        None => {}
    }
    let mut reads = Vec::new();
    for spec in Spec::all(schema, [&plan.reads]) {
        let reason = match unreadable(schema, login, &spec) {
            Some(reason) => Some(reason),
            None => misfit(client, publications, &spec).await?,
        };
        let name = |index: &usize| spec.columns.get(*index).map(|column| column.name.clone());
        reads.push(Looked {
            columns: spec.reads.iter().filter_map(name).collect(),
            followed: reason.is_none(),
            reason,
            schema: spec.schema,
            table: spec.name,
        });
    }
    let setting = |name: &str| Setting {
        name: name.into(),
        set: name == CLAIMS,
    };
    let claims = plan.reads.claims.as_ref();
    Ok(Outcome::Compiled {
        reads,
        claims: claims.map(|claims| claims.iter().cloned().collect()),
        settings: plan
            .reads
            .settings
            .iter()
            .map(|name| setting(name))
            .collect(),
        time: plan.reads.time,
    })
}

/// Why the login cannot read a table whole.
fn unreadable(schema: &Schema, login: Option<Oid>, spec: &Spec) -> Option<Box<str>> {
    let table = schema.tables.get(&spec.table)?;
    let login = login?;
    if !schema.may_use(login, &table.schema) || !table.readers.contains(&login) {
        return Some("the login may not read it".into());
    }
    if table.row_security && !schema.exempt(login, table) {
        return Some("the login sees only what policies show to it".into());
    }
    None
}

impl Listed {
    fn print(&self) -> String {
        let mut text = format!("{}.{}\n", self.schema, self.table);
        let width = self.roles.iter().map(|line| line.role.len()).max();
        for line in &self.roles {
            let role = format!("{:width$}", line.role, width = width.unwrap_or(0));
            let _infallible = writeln!(text, "  {role}  {}", line.outcome.headline());
            for (name, value) in line.outcome.details() {
                let _infallible = writeln!(text, "      {name:8}  {value}");
            }
        }
        text
    }
}

impl Outcome {
    fn headline(&self) -> String {
        match self {
            Self::Compiled { .. } => "compiled".to_owned(),
            Self::AlwaysError { sqlstate, message } => {
                format!("always error {sqlstate}: {message}")
            }
            Self::AllRows => "all rows".to_owned(),
            Self::NoRows => "no rows".to_owned(),
            Self::PostgresIsAsked { reason } => format!("Postgres is asked: {reason}"),
        }
    }

    fn details(&self) -> Vec<(&'static str, String)> {
        let Self::Compiled {
            reads,
            claims,
            settings,
            time,
        } = self
        else {
            return Vec::new();
        };
        let mut details = Vec::new();
        for read in reads {
            let columns = if read.columns.is_empty() {
                String::from("whether there are rows")
            } else {
                read.columns.join(", ")
            };
            let followed = match &read.reason {
                None => "can be followed".to_owned(),
                Some(reason) => format!("cannot be followed: {reason}"),
            };
            let table = format!("{}.{}", read.schema, read.table);
            details.push(("reads", format!("{table} ({columns}); {followed}")));
        }
        match claims {
            None => details.push(("claims", "all".to_owned())),
            Some(claims) if claims.is_empty() => {}
            Some(claims) => details.push(("claims", claims.join(", "))),
        }
        for setting in settings {
            let note = if setting.set {
                ""
            } else {
                "; walcast does not set it, so that it counts as unset"
            };
            details.push(("setting", format!("{}{note}", setting.name)));
        }
        if *time {
            details.push(("time", "decides as well".to_owned()));
        }
        details
    }
}
