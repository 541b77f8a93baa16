//! `walcast policy explain`: whether a subscriber sees a row, and why, beside what Postgres answers.
//!
//! Row, looked-up tables and Postgres' answer are of one snapshot.

use std::collections::BTreeSet;
use std::fmt::{self, Write as _};

use serde_json::{Map, Value as Json, json};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, SimpleQueryMessage};
use tokio_util::task::TaskTracker;

use super::memory::{CLAIMS, Memory, literal, qualified, session_of};
use crate::database::{ConnectError, Database, quote_identifier};
use crate::policy::schema::{self, Policy, Schema, Table};
use crate::policy::value::{Oid, SqlError, Value, output};
use crate::policy::{
    Parts, Plan, Refusal, Tuple, Verdict, World, compile, compile_condition, parts,
};
use crate::shadow::Spec;

/// Rows that policies hide from the login must raise, not be left out.
const BEGIN: &str = "
    begin isolation level repeatable read read only;
    set local standard_conforming_strings = on;
    set local row_security = off;
    set local lock_timeout = '1s'";

const KEY: &str = "
    select a.attname::pg_catalog.text
    from pg_catalog.pg_index i
    cross join lateral pg_catalog.unnest(i.indkey::pg_catalog.int2[]) with ordinality as k (number, position)
    join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.number
    where i.indrelid = $1 and i.indisprimary and k.position <= i.indnkeyatts
    order by k.position";

/// Characters of a value that are shown.
const VALUE_CHARS_MAX: usize = 60;

/// The question, as it was written.
pub(in crate::cli) struct Wanted {
    pub(in crate::cli) table: String,
    pub(in crate::cli) key: String,
    pub(in crate::cli) subject: Option<String>,
    pub(in crate::cli) role: Option<String>,
    pub(in crate::cli) claims: Option<String>,
}

/// The answer.
pub(in crate::cli) struct Explained {
    pub(in crate::cli) text: String,
    /// Postgres does not contradict.
    pub(in crate::cli) agrees: bool,
}

/// There is no answer.
#[derive(Debug, thiserror::Error)]
pub(in crate::cli) enum ExplainError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Schema(#[from] schema::LoadError),
    #[error("cannot ask Postgres")]
    Query(#[from] tokio_postgres::Error),
    #[error("--claims is no JSON object")]
    Claims,
    #[error("there is no table {0}")]
    Table(String),
    #[error("there is no role {0:?}")]
    Role(String),
    #[error("{0} has no primary key, so that no row of it can be named")]
    Keyless(String),
    #[error("the key of {table} is ({columns}); {found} values are given")]
    KeyLength {
        table: String,
        columns: String,
        found: usize,
    },
    #[error("cannot read {table} as the login of DATABASE_URL")]
    Login {
        table: String,
        #[source]
        source: tokio_postgres::Error,
    },
    #[error("{table} has no row with {key}")]
    Missing { table: String, key: String },
    #[error("{role} may not read {table}; run: {remedy}")]
    Grant {
        role: String,
        table: String,
        remedy: String,
    },
    #[error("the login of DATABASE_URL may not become {role}")]
    Become {
        role: String,
        #[source]
        source: tokio_postgres::Error,
    },
}

/// What a condition says.
enum Truth {
    Is(Option<bool>),
    Raised(SqlError),
    /// Only Postgres can tell.
    Unknown(Box<str>),
}

/// What Postgres says.
enum Seen {
    Visible,
    Hidden,
    Raised { sqlstate: String, message: String },
}

/// A condition and its plan.
struct Condition {
    text: Box<str>,
    plan: Result<Plan, Refusal>,
}

/// A policy that applies.
struct Applied<'a> {
    policy: &'a Policy,
    /// `None` without USING.
    whole: Option<Condition>,
    /// Joined by OR if true, by AND if false.
    parts: Option<(bool, Vec<Condition>)>,
}

/// Answers.
pub(in crate::cli) async fn explain(
    database: &Database,
    wanted: &Wanted,
) -> Result<Explained, ExplainError> {
    let (claims, role) = claims(wanted)?;
    let tasks = TaskTracker::new();
    let client = database.connect(&tasks, "walcast policy").await?;
    let path = super::search_path(&client).await?;
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    let schema = schema::load(&client, &path).await?;
    let (namespace, name) = wanted
        .table
        .split_once('.')
        .unwrap_or(("public", &wanted.table));
    let table = schema.table(namespace, name);
    let table = table.ok_or_else(|| ExplainError::Table(format!("{namespace}.{name}")))?;
    let role_oid = schema.role(&role);
    let role_oid = role_oid.ok_or_else(|| ExplainError::Role(role.clone()))?;
    granted(&schema, table, role_oid, &role)?;
    let key = key(&client, table, &wanted.key).await?;
    let asked = Asked {
        schema: &schema,
        table,
        role: &role,
        role_oid,
        claims,
        key,
    };
    client.batch_execute(BEGIN).await?;
    let explained = asked.explain(&client).await;
    let left = client.batch_execute("rollback").await;
    let explained = explained?;
    left?;
    Ok(explained)
}

/// The claims with everything that has an option of its own, and the role.
fn claims(wanted: &Wanted) -> Result<(String, String), ExplainError> {
    let mut claims: Map<String, Json> = match &wanted.claims {
        None => Map::new(),
        Some(text) => serde_json::from_str(text).map_err(|_not_one| ExplainError::Claims)?,
    };
    if let Some(subject) = &wanted.subject {
        claims.insert("sub".to_owned(), json!(subject));
    }
    let named = claims.get("role").and_then(Json::as_str);
    let role = wanted.role.as_deref().or(named).unwrap_or("authenticated");
    let role = role.to_owned();
    claims.insert("role".to_owned(), json!(role));
    Ok((Json::Object(claims).to_string(), role))
}

/// Whether the role may ask at all.
fn granted(schema: &Schema, table: &Table, oid: Oid, role: &str) -> Result<(), ExplainError> {
    let grantee = quote_identifier(role);
    let remedy = if !schema.may_use(oid, &table.schema) {
        let namespace = quote_identifier(&table.schema);
        format!("grant usage on schema {namespace} to {grantee};")
    } else if !table.readers.contains(&oid) && !table.column_readers.contains(&oid) {
        format!("grant select on {} to {grantee};", qualified(table))
    } else {
        return Ok(());
    };
    Err(ExplainError::Grant {
        role: role.to_owned(),
        table: shown(table),
        remedy,
    })
}

/// The columns of the primary key and their values.
async fn key(
    client: &Client,
    table: &Table,
    text: &str,
) -> Result<Vec<(String, String)>, ExplainError> {
    let columns: Vec<String> = client
        .query(KEY, &[&table.oid])
        .await?
        .iter()
        .map(|row| row.try_get(0))
        .collect::<Result<_, _>>()?;
    // A single value may hold commas.
    let values: Vec<&str> = match columns.len() {
        0 => return Err(ExplainError::Keyless(shown(table))),
        1 => vec![text],
        _ => text.split(',').collect(),
    };
    if values.len() != columns.len() {
        return Err(ExplainError::KeyLength {
            table: shown(table),
            columns: columns.join(", "),
            found: values.len(),
        });
    }
    let values = values.into_iter().map(str::to_owned);
    Ok(columns.into_iter().zip(values).collect())
}

/// Enough of a value to tell it from others.
fn shortened(value: String) -> String {
    match value.char_indices().nth(VALUE_CHARS_MAX) {
        Some((end, _)) => format!("{}…", value.get(..end).unwrap_or_default()),
        None => value,
    }
}

fn shown(table: &Table) -> String {
    format!("{}.{}", table.schema, table.name)
}

/// The question, found in the schema.
struct Asked<'a> {
    schema: &'a Schema,
    table: &'a Table,
    role: &'a str,
    role_oid: Oid,
    claims: String,
    key: Vec<(String, String)>,
}

impl Asked<'_> {
    async fn explain(&self, client: &Client) -> Result<Explained, ExplainError> {
        let plan = compile(self.schema, self.table.oid, self.role_oid);
        let applied = match &plan {
            Ok(_) => self.applied(),
            Err(_) => Vec::new(),
        };
        let of_policies = applied.iter().flat_map(Applied::plans);
        let plans: Vec<&Plan> = plan.iter().chain(of_policies).collect();
        let login = |source| ExplainError::Login {
            table: shown(self.table),
            source,
        };
        let mut memory = self.looked_up(client, &plans).await?;
        let columns: BTreeSet<usize> = plans
            .iter()
            .flat_map(|plan| plan.reads.columns.iter().copied())
            .collect();
        let rows = memory
            .select(client, self.table, Some(&columns), &self.clause())
            .await
            .map_err(login)?;
        let Some((_, row)) = rows.first() else {
            return Err(ExplainError::Missing {
                table: shown(self.table),
                key: self.shown_key(),
            });
        };
        let settings = [(CLAIMS.to_owned(), self.claims.clone())];
        let session = session_of(client, &settings).await?;
        let world = World {
            tables: &memory,
            session: &session,
            types: &self.schema.types,
        };
        let seen = self.ask(client).await?;
        let mut text = format!(
            "{}, {}, for {} with the claims {}\n\n",
            shown(self.table),
            self.shown_key(),
            self.role,
            self.claims
        );
        text.push_str(&self.read_values(row, &columns));
        let agrees = match &plan {
            Err(refusal) => {
                let _infallible = write!(
                    text,
                    "walcast   asks Postgres: {refusal}\nPostgres  {seen}\n"
                );
                self.print_texts(&mut text);
                true
            }
            Ok(plan) => {
                let verdict = verdict(plan, world, row);
                self.print(&mut text, &verdict, &seen, &applied, (world, row));
                agree(&verdict, &seen)
            }
        };
        for column in &memory.unread {
            let _infallible = writeln!(text, "\nnote: a value of {column} was not understood");
        }
        let text = text.trim_end().to_owned();
        Ok(Explained { text, agrees })
    }

    /// The row, as far as plans read it.
    fn read_values(&self, row: &Tuple, columns: &BTreeSet<usize>) -> String {
        let shown = |index: &usize| {
            let column = self.table.columns.get(*index)?;
            let value = match row.get(*index)? {
                Value::Null => "null".to_owned(),
                value => output(&self.schema.types, column.type_oid, value).ok()?,
            };
            Some(format!("{} = {}", column.name, shortened(value)))
        };
        let shown: Vec<String> = columns.iter().filter_map(shown).collect();
        if shown.is_empty() {
            return String::new();
        }
        format!("row       {}\n", shown.join(", "))
    }

    /// The tables that plans look into, of the columns that they read.
    async fn looked_up(
        &self,
        client: &Client,
        plans: &[&Plan],
    ) -> Result<Memory<'_>, ExplainError> {
        let specs = Spec::all(self.schema, plans.iter().map(|plan| &plan.reads));
        let mut tables = Vec::new();
        for spec in &specs {
            if let Some(table) = self.schema.tables.get(&spec.table) {
                tables.push((&**table, Some(&spec.reads)));
            }
        }
        let names: Vec<String> = tables.iter().map(|(table, _)| shown(table)).collect();
        Memory::read(client, self.schema, tables)
            .await
            .map_err(|source| ExplainError::Login {
                table: names.join(", "),
                source,
            })
    }

    fn clause(&self) -> String {
        let equal = |(column, value): &(String, String)| {
            format!("t.{} = {}", quote_identifier(column), literal(value))
        };
        let conditions: Vec<String> = self.key.iter().map(equal).collect();
        format!("where {}", conditions.join(" and "))
    }

    fn shown_key(&self) -> String {
        let equal = |(column, value): &(String, String)| format!("{column} = {value}");
        let parts: Vec<String> = self.key.iter().map(equal).collect();
        parts.join(", ")
    }

    /// Whether policies decide at all.
    fn is_exempt(&self) -> bool {
        !self.table.row_security || self.schema.exempt(self.role_oid, self.table)
    }

    fn policies(&self) -> impl Iterator<Item = &Policy> {
        let applies = |policy: &&Policy| {
            let has =
                |role: &Oid| *role == 0 || self.schema.has_privileges_of(self.role_oid, *role);
            !self.is_exempt() && policy.roles.iter().any(has)
        };
        self.table.policies.iter().filter(applies)
    }

    fn applied(&self) -> Vec<Applied<'_>> {
        let condition = |text: &str| Condition {
            text: text.into(),
            plan: compile_condition(self.schema, self.table.oid, self.role_oid, text),
        };
        let conditions = |texts: &[Box<str>]| texts.iter().map(|text| condition(text)).collect();
        self.policies()
            .map(|policy| Applied {
                policy,
                whole: policy.qual.as_deref().map(condition),
                parts: match policy.qual.as_deref().and_then(parts) {
                    None => None,
                    Some(Parts::Any(texts)) => Some((true, conditions(&texts))),
                    Some(Parts::All(texts)) => Some((false, conditions(&texts))),
                },
            })
            .collect()
    }

    /// Asks Postgres as the subscriber; the transaction is of no more use afterwards.
    async fn ask(&self, client: &Client) -> Result<Seen, ExplainError> {
        let role = client
            .batch_execute(&format!(
                "set local row_security = on; set local statement_timeout = '10s';
                 select pg_catalog.set_config({}, {}, true), pg_catalog.set_config('role', {}, true)",
                literal(CLAIMS),
                literal(&self.claims),
                literal(self.role)
            ))
            .await;
        role.map_err(|source| ExplainError::Become {
            role: self.role.to_owned(),
            source,
        })?;
        let sql = format!("select from {} t {}", qualified(self.table), self.clause());
        match client.simple_query(&sql).await {
            Ok(messages) => {
                let is_row = |message| matches!(message, &SimpleQueryMessage::Row(_));
                Ok(if messages.iter().any(is_row) {
                    Seen::Visible
                } else {
                    Seen::Hidden
                })
            }
            Err(error) => match error.as_db_error() {
                Some(found) => Ok(Seen::Raised {
                    sqlstate: found.code().code().to_owned(),
                    message: found.message().to_owned(),
                }),
                None => Err(error.into()),
            },
        }
    }

    fn print(
        &self,
        text: &mut String,
        verdict: &Verdict,
        seen: &Seen,
        applied: &[Applied<'_>],
        (world, row): (World<'_>, &Tuple),
    ) {
        let printed = match verdict {
            Verdict::Allow => "allow".to_owned(),
            Verdict::Deny => "deny".to_owned(),
            Verdict::Raised(error) => format!("error {}: {}", error.sqlstate, error.message),
            Verdict::Undecided(reason) => format!("asks Postgres: {reason}"),
        };
        let because = self.because(verdict, applied, (world, row));
        let _infallible = write!(
            text,
            "walcast   {printed}\nPostgres  {seen}\nbecause   {because}\n"
        );
        if !agree(verdict, seen) {
            text.push_str("\nTHEY DIFFER: a mistake of walcast's; please report it.\n");
        } else if matches!((verdict, seen), (Verdict::Raised(_), Seen::Visible)) {
            text.push_str(
                "\nPostgres happened not to evaluate what raises; walcast does not rely on that.\n",
            );
        }
        for one in applied {
            one.print(text, (world, row));
        }
    }

    fn because(
        &self,
        verdict: &Verdict,
        applied: &[Applied<'_>],
        (world, row): (World<'_>, &Tuple),
    ) -> String {
        if !self.table.row_security {
            return "row-level security is not enabled".to_owned();
        }
        if self.is_exempt() {
            return format!(
                "policies do not apply to {}: superuser, BYPASSRLS, or the owner",
                self.role
            );
        }
        if !applied.iter().any(|one| one.policy.permissive) {
            return format!("no permissive policy applies to {}", self.role);
        }
        let truth = |one: &Applied<'_>| one.whole.as_ref().map(|whole| whole.truth(world, row));
        let named =
            |one: &Applied<'_>| format!("the {} policy {:?}", kind(one.policy), one.policy.name);
        match verdict {
            Verdict::Allow => applied
                .iter()
                .find(|one| {
                    one.policy.permissive && matches!(truth(one), Some(Truth::Is(Some(true))))
                })
                .map(|one| format!("{} is true", named(one))),
            Verdict::Deny => {
                let hides = |truth| matches!(truth, Some(Truth::Is(None | Some(false))));
                let restrictive = applied
                    .iter()
                    .find(|one| !one.policy.permissive && hides(truth(one)));
                restrictive.map_or_else(
                    || Some("no permissive policy is true".to_owned()),
                    |one| Some(format!("{} is not true", named(one))),
                )
            }
            Verdict::Raised(_) => applied
                .iter()
                .find(|one| matches!(truth(one), Some(Truth::Raised(_))))
                .map(|one| format!("{} raises", named(one))),
            Verdict::Undecided(_) => None,
        }
        .unwrap_or_else(|| "of the policies below".to_owned())
    }

    /// The policies alone, where nothing is known about them.
    fn print_texts(&self, text: &mut String) {
        for policy in self.policies() {
            let _infallible = write!(
                text,
                "\n{} policy {:?}\n  {}\n",
                kind(policy),
                policy.name,
                indented(policy.qual.as_deref().unwrap_or("(without USING)"))
            );
        }
    }
}

fn kind(policy: &Policy) -> &'static str {
    if policy.permissive {
        "permissive"
    } else {
        "restrictive"
    }
}

fn indented(text: &str) -> String {
    text.replace('\n', "\n      ")
}

fn verdict(plan: &Plan, world: World<'_>, row: &Tuple) -> Verdict {
    match plan.preflight(world) {
        Ok(()) => plan.judge(world, row),
        Err(error) => Verdict::of_error(error),
    }
}

/// An error denies; and Postgres may not get as far as to what raises (rls-semantics.md §5).
fn agree(verdict: &Verdict, seen: &Seen) -> bool {
    match (verdict, seen) {
        (_, Seen::Raised { sqlstate, .. }) if sqlstate == SqlState::QUERY_CANCELED.code() => true,
        (Verdict::Undecided(_) | Verdict::Raised(_), _) | (Verdict::Allow, Seen::Visible) => true,
        (Verdict::Allow, _) | (Verdict::Deny, Seen::Visible) => false,
        (Verdict::Deny, _) => true,
    }
}

impl Condition {
    fn truth(&self, world: World<'_>, row: &Tuple) -> Truth {
        let plan = match &self.plan {
            Ok(plan) => plan,
            Err(refusal) => return Truth::Unknown(refusal.reason.clone()),
        };
        let truth = plan.preflight(world).and_then(|()| plan.truth(world, row));
        match truth.map_err(Verdict::of_error) {
            Ok(truth) => Truth::Is(truth),
            Err(Verdict::Raised(error)) => Truth::Raised(error),
            Err(Verdict::Undecided(reason)) => Truth::Unknown(reason),
            Err(Verdict::Allow | Verdict::Deny) => Truth::Is(None),
        }
    }
}

impl Applied<'_> {
    fn plans(&self) -> impl Iterator<Item = &Plan> {
        let parts = self.parts.iter().flat_map(|(_, parts)| parts);
        let conditions = self.whole.iter().chain(parts);
        conditions.filter_map(|condition| condition.plan.as_ref().ok())
    }

    fn print(&self, text: &mut String, (world, row): (World<'_>, &Tuple)) {
        let (kind, name) = (kind(self.policy), &self.policy.name);
        let Some(whole) = &self.whole else {
            let _infallible = write!(
                text,
                "\n{kind} policy {name:?}: without USING it neither shows nor hides\n"
            );
            return;
        };
        let truth = whole.truth(world, row);
        let _infallible = write!(
            text,
            "\n{kind} policy {name:?}: {truth}\n  {}\n",
            indented(&whole.text)
        );
        let Some((any, parts)) = &self.parts else {
            return;
        };
        let values: Vec<(Truth, &str)> = parts
            .iter()
            .map(|part| (part.truth(world, row), &*part.text))
            .collect();
        let shown: Vec<_> = values
            .iter()
            .filter(|(part, _)| decides(&truth, part, *any))
            .collect();
        let joined = if *any { "OR" } else { "AND" };
        let count = parts.len();
        let _infallible = writeln!(text, "  decided by, of {count} parts joined by {joined}:");
        for (value, part) in shown {
            let _infallible = writeln!(text, "    {value}  {}", indented(part));
        }
    }
}

/// Whether a part is a reason for what the whole says.
fn decides(whole: &Truth, part: &Truth, any: bool) -> bool {
    match (whole, part) {
        (Truth::Is(Some(whole)), Truth::Is(part)) if *whole == any => *part == Some(any),
        (Truth::Is(None), Truth::Is(part)) => part.is_none(),
        (Truth::Is(Some(_)), Truth::Is(_))
        | (Truth::Raised(_), Truth::Raised(_))
        | (Truth::Unknown(_), Truth::Unknown(_)) => true,
        (Truth::Is(_) | Truth::Raised(_) | Truth::Unknown(_), _) => false,
    }
}

impl fmt::Display for Truth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Is(Some(truth)) => write!(f, "{truth}"),
            Self::Is(None) => f.write_str("null"),
            Self::Raised(error) => write!(f, "error {}: {}", error.sqlstate, error.message),
            Self::Unknown(reason) => write!(f, "not known: {reason}"),
        }
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Visible => f.write_str("allow"),
            Self::Hidden => f.write_str("deny"),
            Self::Raised { sqlstate, message } => write!(f, "error {sqlstate}: {message}"),
        }
    }
}
