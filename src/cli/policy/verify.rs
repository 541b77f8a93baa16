//! Compares the verdicts of plans with what Postgres answers: each row, for many claims, as the role in question.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use tokio_postgres::{Client, SimpleQueryMessage};

use super::CoverageError;
use super::generate::Generator;
use super::memory::{Memory, literal, session_of};
use crate::database::quote_identifier;
use crate::policy::builtin::Session;
use crate::policy::schema::{Schema, Table};
use crate::policy::value::Oid;
use crate::policy::{ClaimKey, Plan, Verdict, Weights, World};

/// Sessions that are compared for each plan.
const SESSIONS: usize = 18;

/// Policies whose differences are shown, one of each; all are counted.
const SHOWN_MAX: usize = 20;

/// Counts over all entries.
#[derive(Debug, Default)]
pub(super) struct Tally {
    comparisons: u64,
    allowed: u64,
    raised: u64,
    undecided: u64,
    /// Denied by an error where Postgres happened not to evaluate what raises.
    stricter: u64,
    /// The policies of these.
    is_strict: BTreeSet<String>,
    /// Queries that Postgres did not finish in time.
    skipped: u64,
    /// Rows that need not be judged for everybody, and identities that they leave out.
    bounded: u64,
    outside: u64,
    /// By policy: how many, and the first.
    differences: BTreeMap<String, (u64, String)>,
    notes: BTreeSet<String>,
}

/// Weights that make all choices between audiences be taken.
struct Sway(Cell<usize>);

impl Weights for Sway {
    fn weight(&self, _key: &ClaimKey) -> usize {
        self.0.set(self.0.get().wrapping_mul(31).wrapping_add(7));
        self.0.get().checked_rem(100).unwrap_or(0)
    }
}

/// What Postgres says about a row.
enum Seen {
    Visible,
    Hidden,
    Raised(String),
    Unknown,
}

impl Tally {
    pub(super) async fn compare(
        &mut self,
        client: &Client,
        schema: &Schema,
        table: Oid,
        plans: &[(String, Plan)],
        rows: usize,
        entry: &str,
    ) -> Result<(), CoverageError> {
        let Some(table) = schema.tables.get(&table) else {
            return Ok(());
        };
        let mut generator = Generator::new(entry, schema);
        client
            .batch_execute("set timezone = 'UTC'; set statement_timeout = '5s'; set search_path = public, extensions")
            .await?;
        fill(client, schema, &mut generator, rows).await?;
        let tables = schema
            .tables
            .values()
            .filter(|table| matches!(table.kind, b'r' | b'p'));
        let memory = Memory::read(client, schema, tables.map(|table| (&**table, None))).await?;
        let mut names: BTreeSet<&str> = ["request.jwt.claims", "request.jwt.claim.sub"].into();
        for (_, plan) in plans {
            names.extend(plan.reads.settings.iter().map(|name| &**name));
        }
        let names: Vec<&str> = names.into_iter().collect();
        for number in 0..=SESSIONS {
            // The first session has never set anything.
            let settings = match number.checked_sub(1) {
                None => Vec::new(),
                Some(number) => generator.session(number, &names),
            };
            for (role, plan) in plans {
                self.session(client, schema, table, &memory, role, plan, &settings, entry)
                    .await?;
            }
        }
        Ok(())
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "one comparison has that many sides"
    )]
    async fn session(
        &mut self,
        client: &Client,
        schema: &Schema,
        table: &Table,
        memory: &Memory<'_>,
        role: &str,
        plan: &Plan,
        settings: &[(String, String)],
        entry: &str,
    ) -> Result<(), CoverageError> {
        let mut begin = "begin isolation level repeatable read read only;".to_owned();
        for (name, value) in settings {
            begin.push_str(&format!(
                "select pg_catalog.set_config({}, {}, true);",
                literal(name),
                literal(value)
            ));
        }
        begin.push_str(&format!("set local role {}", quote_identifier(role)));
        client.batch_execute(&begin).await?;
        let session = session_of(client, settings).await?;
        let seen = ask(client, table, memory).await;
        client.batch_execute("rollback").await?;
        let world = World {
            tables: memory,
            session: &session,
            types: &schema.types,
        };
        let ready = plan.preflight(world);
        let keys = plan.keys(world);
        let nobody = Session {
            now: session.now,
            ..Session::default()
        };
        for (number, (place, tuple)) in memory.rows(table.oid).iter().enumerate() {
            let world_of_all = World {
                session: &nobody,
                ..world
            };
            let audience = plan.audience(world_of_all, tuple, &Sway(Cell::new(number)));
            let is_outside = match (&keys, &audience) {
                (Some(keys), Some(audience)) => {
                    self.bounded = self.bounded.saturating_add(1);
                    !keys.iter().any(|key| audience.contains(key))
                }
                _ => false,
            };
            let verdict = match &ready {
                Ok(()) => plan.judge(world, tuple),
                Err(error) => Verdict::of_error(error.clone()),
            };
            let context =
                || format!("{entry} as {role}, row {place} {tuple:?}, settings {settings:?}");
            let seen = seen.get(place).unwrap_or(&Seen::Hidden);
            self.count(entry, seen, &verdict, context);
            if is_outside {
                self.outside = self.outside.saturating_add(1);
                if matches!(seen, Seen::Visible)
                    || matches!(verdict, Verdict::Allow | Verdict::Raised(_))
                {
                    let what = format!("outside of the audience: {verdict:?}: {}", context());
                    self.differs(entry, what);
                }
            }
        }
        Ok(())
    }

    fn differs(&mut self, entry: &str, what: String) {
        let entry = self.differences.entry(entry.to_owned());
        let (times, _) = entry.or_insert((0, what));
        *times = times.saturating_add(1);
    }

    fn count(&mut self, entry: &str, seen: &Seen, verdict: &Verdict, context: impl Fn() -> String) {
        if matches!(seen, Seen::Unknown) {
            self.skipped = self.skipped.saturating_add(1);
            return;
        }
        self.comparisons = self.comparisons.saturating_add(1);
        match (seen, verdict) {
            (_, Verdict::Undecided(reason)) => {
                self.undecided = self.undecided.saturating_add(1);
                self.notes.insert(format!("undecided: {reason}"));
            }
            (Seen::Visible, Verdict::Allow) => self.allowed = self.allowed.saturating_add(1),
            (Seen::Raised(_), Verdict::Raised(_)) => self.raised = self.raised.saturating_add(1),
            (Seen::Visible, Verdict::Raised(error)) => {
                self.stricter = self.stricter.saturating_add(1);
                if self.is_strict.insert(entry.to_owned()) && self.notes.len() < 30 {
                    self.notes
                        .insert(format!("stricter: {error}: {}", context()));
                }
            }
            (Seen::Hidden | Seen::Raised(_), Verdict::Deny | Verdict::Raised(_)) => {}
            (Seen::Visible, verdict) => {
                self.differs(entry, format!("missed: {verdict:?}: {}", context()));
            }
            (Seen::Hidden, _) => self.differs(entry, format!("LEAKED (hidden): {}", context())),
            (Seen::Raised(message), _) => {
                self.differs(entry, format!("LEAKED ({message}): {}", context()));
            }
            (Seen::Unknown, _) => {}
        }
    }
}

/// Puts rows into every table; those that constraints refuse are left out.
async fn fill(
    client: &Client,
    schema: &Schema,
    generator: &mut Generator,
    rows: usize,
) -> Result<(), CoverageError> {
    client
        .batch_execute("set session_replication_role = replica")
        .await?;
    let mut tables: Vec<&Arc<Table>> = schema
        .tables
        .values()
        .filter(|table| matches!(table.kind, b'r' | b'p'))
        .collect();
    tables.sort_by_key(|table| table.oid);
    for table in tables {
        for _ in 0..rows {
            let mut names = Vec::new();
            let mut values = Vec::new();
            for (column, value) in generator.row(schema, table) {
                names.push(quote_identifier(&column.name));
                values.push(value.map_or_else(|| "null".to_owned(), |value| literal(&value)));
            }
            let sql = format!(
                "insert into {}.{} ({}) overriding system value values ({})",
                quote_identifier(&table.schema),
                quote_identifier(&table.name),
                names.join(", "),
                values.join(", ")
            );
            let inserted = client.batch_execute(&sql).await;
            if let Err(error) = inserted
                && error.as_db_error().is_none()
            {
                return Err(error.into());
            }
        }
    }
    client
        .batch_execute("reset session_replication_role")
        .await?;
    Ok(())
}

/// What the present role sees, by the place of each row.
async fn ask(client: &Client, table: &Table, memory: &Memory<'_>) -> BTreeMap<String, Seen> {
    let name = format!(
        "{}.{}",
        quote_identifier(&table.schema),
        quote_identifier(&table.name)
    );
    let places = memory
        .rows(table.oid)
        .iter()
        .map(|(place, _)| place.clone());
    let mut seen: BTreeMap<String, Seen> = places.map(|place| (place, Seen::Hidden)).collect();
    let savepoint = client.batch_execute("savepoint before").await;
    if savepoint.is_err() {
        return seen;
    }
    // Not `ctid` in the select list: reading it needs a grant on the whole table, as reading rows does.
    if let Ok(messages) = client
        .simple_query(&format!("select ctid from {name}"))
        .await
    {
        for message in messages {
            if let SimpleQueryMessage::Row(row) = message {
                seen.insert(row.get(0).unwrap_or_default().to_owned(), Seen::Visible);
            }
        }
        return seen;
    }
    for (place, seen) in &mut seen {
        let sql =
            format!("rollback to savepoint before; select 1 from {name} where ctid = '{place}'");
        *seen = match client.simple_query(&sql).await {
            Ok(messages) => {
                let visible = messages
                    .iter()
                    .any(|message| matches!(message, SimpleQueryMessage::Row(_)));
                if visible { Seen::Visible } else { Seen::Hidden }
            }
            Err(error) => match error.as_db_error() {
                Some(error) if error.code().code() == "57014" => Seen::Unknown,
                Some(error) => Seen::Raised(error.message().to_owned()),
                None => Seen::Unknown,
            },
        };
    }
    seen
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} comparisons, {} differences ({} allowed by both, {} raised by both, {} stricter, {} undecided, {} skipped)",
            self.comparisons,
            self.differences
                .values()
                .map(|(times, _)| times)
                .sum::<u64>(),
            self.allowed,
            self.raised,
            self.stricter,
            self.undecided,
            self.skipped
        )?;
        writeln!(
            f,
            "{} of them by audience, which left {} out",
            self.bounded, self.outside
        )?;
        for (times, first) in self.differences.values().take(SHOWN_MAX) {
            writeln!(f, "{times} times {first}")?;
        }
        for note in &self.notes {
            writeln!(f, "note: {note}")?;
        }
        Ok(())
    }
}
