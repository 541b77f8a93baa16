//! `walcast policy list`: what becomes of the policies of each published table, for each role.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;

use serde::Serialize;
use serde_json::{Value, json};
use tokio_postgres::Client;
use tokio_util::task::TaskTracker;

use super::live::{self, LiveError};
use super::measure::Loaded;
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
    #[error(transparent)]
    Live(#[from] LiveError),
}

/// What is to be listed.
#[derive(Clone, Copy, Debug)]
pub(in crate::cli) struct Listing<'a> {
    pub(in crate::cli) publications: &'a [String],
    /// Besides the usual ones.
    pub(in crate::cli) roles: &'a [String],
    pub(in crate::cli) as_json: bool,
    /// The limit of the tables that are looked into.
    pub(in crate::cli) shadow_bytes_max: usize,
    /// A running server that is asked as well, and the secret of those who may.
    pub(in crate::cli) live: Option<SocketAddr>,
    pub(in crate::cli) metrics_secret: Option<&'a str>,
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
        /// How verdicts are taken.
        form: Box<str>,
        reads: Vec<Looked>,
        /// `None`: all of them.
        claims: Option<Vec<Box<str>>>,
        settings: Vec<Setting>,
        time: bool,
        /// Microseconds per verdict, measured over so many rows.
        verdict_micros: Option<f64>,
        verdict_rows: usize,
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
    /// What it takes in memory, if it fits.
    rows: Option<usize>,
    bytes: Option<usize>,
}

#[derive(Serialize)]
struct Setting {
    name: Box<str>,
    set: bool,
}

/// Compiles for every published table and role, and prints the outcomes as text or as JSON.
pub(in crate::cli) async fn list(
    database: &Database,
    listing: Listing<'_>,
) -> Result<String, ListError> {
    let Listing {
        publications,
        roles: more,
        as_json,
        shadow_bytes_max,
        ..
    } = listing;
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
    let mut planned = Vec::new();
    for table in tables {
        let plans: Vec<_> = (roles.iter())
            .map(|(name, role)| (*name, compile(&schema, table.oid, *role)))
            .collect();
        planned.push((table, plans));
    }
    let plans = planned.iter().flat_map(|(_, plans)| plans);
    let reads = plans.filter_map(|(_, plan)| Some(&plan.as_ref().ok()?.reads));
    let loaded = Loaded::load(&client, publications, &schema, reads, shadow_bytes_max).await;
    let view = Viewed {
        client: &client,
        publications,
        schema: &schema,
        login,
        loaded: &loaded,
        shadow_bytes_max,
    };
    let mut listed = Vec::new();
    for (table, plans) in &planned {
        let mut lines = Vec::new();
        for (name, plan) in plans {
            let outcome = match plan {
                Err(Refusal { reason }) => Outcome::PostgresIsAsked {
                    reason: reason.clone(),
                },
                Ok(plan) => view.outcome(table, name, plan).await?,
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
    let live = match listing.live {
        Some(address) => Some(live::ask(address, listing.metrics_secret).await?),
        None => None,
    };
    if as_json {
        let tables: Value = json!(listed);
        return Ok(match live {
            Some(live) => format!("{:#}", json!({"tables": tables, "running": live})),
            None => format!("{tables:#}"),
        });
    }
    let mut texts: Vec<String> = listed.iter().map(Listed::print).collect();
    if listed.is_empty() {
        let names = publications.join(", ");
        texts.push(format!("no table is published by {names}\n"));
    } else {
        let bytes = loaded.bytes();
        texts.push(format!(
            "memory of the tables that are looked into: {bytes} of {shadow_bytes_max} bytes (shadow_bytes_max)\n"
        ));
    }
    texts.extend(live.as_ref().map(live::print));
    Ok(texts.join("\n").trim_end().to_owned())
}

/// What outcomes are made from.
struct Viewed<'a> {
    client: &'a Client,
    publications: &'a [String],
    schema: &'a Schema,
    login: Option<Oid>,
    loaded: &'a Loaded,
    shadow_bytes_max: usize,
}

async fn login(client: &Client, schema: &Schema) -> Result<Option<Oid>, tokio_postgres::Error> {
    let row = client
        .query_one("select current_user::pg_catalog.text", &[])
        .await?;
    Ok(schema.role(row.try_get(0)?))
}

impl Viewed<'_> {
    async fn outcome(
        &self,
        table: &Table,
        role: &str,
        plan: &Plan,
    ) -> Result<Outcome, tokio_postgres::Error> {
        let Self {
            client,
            schema,
            loaded,
            ..
        } = self;
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
            let reason = match unreadable(schema, self.login, &spec) {
                Some(reason) => Some(reason),
                None => misfit(client, self.publications, &spec).await?,
            };
            let over = || -> Box<str> {
                let max = self.shadow_bytes_max;
                format!("over the limit: it does not fit into shadow_bytes_max = {max} beside the others").into()
            };
            let reason = reason.or_else(|| loaded.is_over_the_limit(spec.table).then(over));
            let (rows, bytes) = loaded.size(spec.table).unzip();
            let name = |index: &usize| spec.columns.get(*index).map(|column| column.name.clone());
            reads.push(Looked {
                columns: spec.reads.iter().filter_map(name).collect(),
                followed: reason.is_none(),
                reason,
                rows,
                bytes,
                schema: spec.schema,
                table: spec.name,
            });
        }
        let setting = |name: &str| Setting {
            name: name.into(),
            set: name == CLAIMS,
        };
        let claims = plan.reads.claims.as_ref();
        let cost = loaded.micros(client, schema, table, role, plan).await;
        Ok(Outcome::Compiled {
            form: plan.form().into(),
            verdict_micros: cost.map(|cost| cost.micros),
            verdict_rows: cost.map_or(0, |cost| cost.rows),
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
            Self::Compiled { form, .. } => format!("compiled, {form}"),
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
            verdict_micros,
            verdict_rows,
            form: _,
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
                None => match (read.rows, read.bytes) {
                    (Some(rows), Some(bytes)) => {
                        format!("can be followed: {rows} rows, {bytes} bytes")
                    }
                    _ => "can be followed".to_owned(),
                },
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
        if let Some(micros) = verdict_micros {
            let rows = if *verdict_rows == 1 {
                "one row".to_owned()
            } else {
                format!("{verdict_rows} rows")
            };
            details.push((
                "cost",
                format!("{micros:.1} µs per verdict, measured here over {rows}"),
            ));
        }
        details
    }
}
