//! Asks Postgres (*io*): one question, one transaction, as the subscriber.
//!
//! The transaction is read-only and rolled back; role and claims are set for it alone (rls-semantics.md §10). Rows are
//! found by primary key and read as text, so that they can be compared with what the stream said. Never decides
//! anything: who is asked, when, with which timeout is the pipeline's business.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::time::Duration;

use futures_util::future::{TryFutureExt as _, join, join_all};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, SimpleQueryMessage, Statement};

use super::question::{Answer, Asked, Expected, Found, Question, Row, Trouble};
use crate::catalog::{Catalog, Table};
use crate::change::Lsn;
use crate::clock;
use crate::database::quote_identifier;

/// Rows of a table with a key of several columns that one statement asks about. Statements are prepared for exactly 1
/// and exactly this many, so that few plans serve all.
const COMPOSITE_ROWS: usize = 32;

/// Prepared statements kept per connection.
const STATEMENTS_MAX: usize = 256;

/// A generic plan would move the evaluation of stable expressions, and with it which errors are raised
/// (rls-semantics.md §10). A lock would keep the connection from those who ask about other tables.
const SESSION: &str = "set plan_cache_mode = force_custom_plan; set lock_timeout = '50ms'";

/// A prepared statement keeps the policies with which it was rewritten, and is rewritten for most changes, but not when a
/// role loses BYPASSRLS.
const FORGET: &str = "discard plans";

/// Settings that every question sets for its transaction.
const SETTINGS: &str = "select pg_catalog.set_config('statement_timeout', $3, true), \
     pg_catalog.set_config('request.jwt.claims', $2, true), pg_catalog.set_config('role', $1, true)";

/// The end of the WAL: whatever superseded the rows of a question was written before.
const POSITION: &str = "select pg_catalog.pg_current_wal_insert_lsn()::text";
/// The same after leaving the transaction, which may have failed.
const ROLLBACK_POSITION: &str = "rollback; select pg_catalog.pg_current_wal_insert_lsn()::text";

/// The end of all WAL.
const NEVER: Lsn = Lsn::new(u64::MAX);

/// A connection that answers questions, one at a time.
#[derive(Debug)]
pub struct Asker {
    client: Client,
    statements: HashMap<String, Statement>,
    /// Of the catalog that the plans were made under.
    fingerprint: Box<str>,
}

/// The connection can no longer be used; the question has no answer yet.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The connection broke.
    #[error("cannot ask Postgres")]
    Connection(#[source] tokio_postgres::Error),
    /// Postgres neither answered nor kept its statement timeout.
    #[error("Postgres did not answer in time")]
    Silent,
}

impl Asker {
    /// Takes over a connection.
    ///
    /// # Errors
    /// The connection is broken, or refuses the session's settings.
    pub async fn new(client: Client) -> Result<Self, AskError> {
        client
            .batch_execute(SESSION)
            .await
            .map_err(AskError::Connection)?;
        Ok(Self {
            client,
            statements: HashMap::new(),
            fingerprint: Box::default(),
        })
    }

    /// Asks one question with a limit on each statement's time. If every row is as expected, `early` is told before the
    /// connection is ready for the next question, and the return value says the same once more.
    ///
    /// Not cancel safe: a dropped call leaves the connection inside a transaction.
    ///
    /// # Errors
    /// Only if the connection must be made anew; whatever Postgres says to the question is an answer.
    pub async fn ask(
        &mut self,
        question: &Question,
        catalog: &Catalog,
        timeout: Duration,
        early: impl FnOnce(Asked),
    ) -> Result<Asked, AskError> {
        let patience = timeout
            .saturating_mul(3)
            .saturating_add(Duration::from_secs(10));
        tokio::time::timeout(
            patience,
            self.ask_patiently(question, catalog, timeout, early),
        )
        .await
        .map_err(|_elapsed| AskError::Silent)?
    }

    async fn ask_patiently(
        &mut self,
        question: &Question,
        catalog: &Catalog,
        timeout: Duration,
        early: impl FnOnce(Asked),
    ) -> Result<Asked, AskError> {
        let begun = clock::instant();
        let same = |answers: &[Answer]| {
            if answers.iter().all(|answer| answer.found == Found::Same) {
                early(Asked {
                    result: Ok(answers.to_vec()),
                    read_before: NEVER,
                    took: clock::instant().saturating_duration_since(begun),
                });
            }
        };
        let (answers, read_before) = match self.plan(question, catalog).await {
            Ok(plan) => self.run(question, &plan, timeout, same).await,
            Err(error) => (Err(error), self.position(POSITION).await),
        };
        let result = match answers {
            Ok(answers) => Ok(answers),
            Err(error) => Err(trouble(error)?),
        };
        Ok(Asked {
            result,
            read_before: read_before.map_err(AskError::Connection)?,
            took: clock::instant().saturating_duration_since(begun),
        })
    }

    /// Runs `sql`, whose last statement asks for the end of the WAL.
    async fn position(&self, sql: &str) -> Result<Lsn, tokio_postgres::Error> {
        let messages = self.client.simple_query(sql).await?;
        let text = messages.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        });
        // An unreadable position counts as the end of all WAL: nothing is then taken for final too early.
        Ok(text.and_then(|text| text.parse().ok()).unwrap_or(NEVER))
    }

    /// Prepares what the question needs, outside the transaction.
    async fn plan(
        &mut self,
        question: &Question,
        catalog: &Catalog,
    ) -> Result<Vec<Step>, tokio_postgres::Error> {
        if self.statements.len() > STATEMENTS_MAX {
            self.statements.clear();
        }
        if self.fingerprint != catalog.fingerprint {
            self.client.batch_execute(FORGET).await?;
            // One whose columns have other types now would raise for ever.
            self.statements.clear();
            self.fingerprint = catalog.fingerprint.clone();
        }
        let mut steps = Vec::new();
        let keyed: Vec<usize> = (0..question.rows.len())
            .filter(|row| question.rows.get(*row).is_some_and(|row| row.key.is_some()))
            .collect();
        let single = question.table.primary_key.len() == 1;
        let sizes = |rest: usize| match rest {
            _ if single => rest,
            0..COMPOSITE_ROWS => 1,
            _ => COMPOSITE_ROWS,
        };
        let mut rest = keyed.as_slice();
        while !rest.is_empty() {
            let (chunk, after) = rest.split_at(sizes(rest.len()).min(rest.len()));
            rest = after;
            let sql = if single {
                select_by_key(question, catalog)
            } else {
                select_by_keys(question, catalog, chunk.len())
            };
            let parameters = if single {
                array_of_keys(question, chunk)
            } else {
                list_of_keys(question, chunk)
            };
            steps.push(Step {
                statement: self.prepare(sql).await?,
                parameters,
                kind: StepKind::Rows,
            });
        }
        for (index, row) in question
            .rows
            .iter()
            .enumerate()
            .filter(|(_, row)| !row.predicates.is_empty())
        {
            let (sql, parameters) = predicates(row);
            steps.push(Step {
                statement: self.prepare(sql).await?,
                parameters,
                kind: StepKind::Predicates { row: index },
            });
        }
        Ok(steps)
    }

    async fn prepare(&mut self, sql: String) -> Result<Statement, tokio_postgres::Error> {
        if let Some(statement) = self.statements.get(&sql) {
            return Ok(statement.clone());
        }
        let statement = self.client.prepare(&sql).await?;
        self.statements.insert(sql, statement.clone());
        Ok(statement)
    }

    /// Puts the question, and leaves the transaction also after an error. Then tells the end of the WAL.
    async fn run(
        &mut self,
        question: &Question,
        steps: &[Step],
        timeout: Duration,
        same: impl FnOnce(&[Answer]),
    ) -> (
        Result<Vec<Answer>, tokio_postgres::Error>,
        Result<Lsn, tokio_postgres::Error>,
    ) {
        let settings = match self.prepare(SETTINGS.to_owned()).await {
            Ok(settings) => settings,
            Err(error) => return (Err(error), self.position(POSITION).await),
        };
        let read = self.read(question, &settings, steps, timeout);
        let leave = self.position(ROLLBACK_POSITION);
        match steps {
            // All in one round trip; polled, and thereby sent, in this order.
            [_single] if !question.confirm_hidden => {
                let read = read.inspect_ok(|answers| same(answers));
                join(read, leave).await
            }
            _ => (read.await, leave.await),
        }
    }

    /// Sends everything at once and reads the answers in order.
    async fn read(
        &self,
        question: &Question,
        settings: &Statement,
        steps: &[Step],
        timeout: Duration,
    ) -> Result<Vec<Answer>, tokio_postgres::Error> {
        let milliseconds = timeout.as_millis().to_string();
        let (role, claims) = (question.identity.role(), question.identity.claims());
        let begin = self
            .client
            .batch_execute("begin isolation level repeatable read read only");
        let set: [&(dyn ToSql + Sync); 3] = [&role, &claims, &milliseconds];
        let set = self.client.query(settings, &set);
        let selects = join_all(steps.iter().map(|step| async move {
            let parameters: Vec<&(dyn ToSql + Sync)> =
                step.parameters.iter().map(Parameter::as_sql).collect();
            self.client.query(&step.statement, &parameters).await
        }));
        // The three are polled, and thereby sent, in this order.
        let (begun, set, selected) = futures_util::future::join3(begin, set, selects).await;
        begun?;
        set?;
        let mut reading = Reading::new(question);
        for (step, rows) in steps.iter().zip(selected) {
            reading.take(&step.kind, &rows?);
        }
        if question.confirm_hidden && reading.misses() {
            let milliseconds: &(dyn ToSql + Sync) = &milliseconds;
            self.client
                .query(settings, &[&"none", &"", milliseconds])
                .await?;
            let mut seen = Reading::new(question);
            for step in steps
                .iter()
                .filter(|step| matches!(step.kind, StepKind::Rows))
            {
                let parameters: Vec<&(dyn ToSql + Sync)> =
                    step.parameters.iter().map(Parameter::as_sql).collect();
                seen.take(
                    &step.kind,
                    &self.client.query(&step.statement, &parameters).await?,
                );
            }
            reading.hide(&seen);
        }
        Ok(reading.answers)
    }
}

/// One statement of a question.
struct Step {
    statement: Statement,
    parameters: Vec<Parameter>,
    kind: StepKind,
}

enum StepKind {
    Rows,
    Predicates { row: usize },
}

enum Parameter {
    Text(Option<String>),
    Texts(Vec<String>),
}

impl Parameter {
    fn as_sql(&self) -> &(dyn ToSql + Sync) {
        match self {
            Self::Text(text) => text,
            Self::Texts(texts) => texts,
        }
    }
}

/// The answers so far.
struct Reading<'a> {
    question: &'a Question,
    answers: Vec<Answer>,
    /// Rows asked about, by key text.
    by_key: HashMap<Vec<&'a str>, Vec<usize>>,
}

impl<'a> Reading<'a> {
    fn new(question: &'a Question) -> Self {
        let mut by_key: HashMap<Vec<&str>, Vec<usize>> = HashMap::new();
        for (index, row) in question.rows.iter().enumerate() {
            if let Some(key) = &row.key {
                by_key
                    .entry(key.iter().map(|column| &**column).collect())
                    .or_default()
                    .push(index);
            }
        }
        let answer = |row: &Row| Answer {
            found: if row.key.is_some() {
                Found::Missing
            } else {
                Found::Same
            },
            as_supposed: false,
            predicates: vec![false; row.predicates.len()].into(),
        };
        Self {
            question,
            answers: question.rows.iter().map(answer).collect(),
            by_key,
        }
    }

    fn take(&mut self, kind: &StepKind, rows: &[tokio_postgres::Row]) {
        match kind {
            StepKind::Rows => rows.iter().for_each(|row| self.take_row(row)),
            StepKind::Predicates { row: index } => {
                let (Some(row), Some(answer)) = (rows.first(), self.answers.get_mut(*index)) else {
                    return;
                };
                for (column, truth) in answer.predicates.iter_mut().enumerate() {
                    *truth = row
                        .try_get::<_, Option<bool>>(column)
                        .ok()
                        .flatten()
                        .unwrap_or(false);
                }
            }
        }
    }

    fn take_row(&mut self, row: &tokio_postgres::Row) {
        let text = |column: usize| row.try_get::<_, Option<&str>>(column).ok().flatten();
        let width = self.question.table.primary_key.len();
        let Some(key) = (0..width).map(text).collect::<Option<Vec<&str>>>() else {
            return;
        };
        for index in self.by_key.get(&key).into_iter().flatten() {
            let (Some(asked), Some(answer)) =
                (self.question.rows.get(*index), self.answers.get_mut(*index))
            else {
                continue;
            };
            let content = || asked.content.iter().zip(width..);
            let reads =
                |column, bytes: &[u8]| text(column).is_some_and(|text| text.as_bytes() == bytes);
            let same = content().all(|(expected, column)| match expected {
                Expected::Any | Expected::Supposed(_) => true,
                Expected::Null => text(column).is_none(),
                Expected::Text(bytes) => reads(column, bytes),
            });
            answer.found = if same { Found::Same } else { Found::Different };
            answer.as_supposed = content().all(|(expected, column)| match expected {
                Expected::Supposed(bytes) => reads(column, bytes),
                Expected::Any | Expected::Null | Expected::Text(_) => true,
            });
        }
    }

    fn misses(&self) -> bool {
        self.answers
            .iter()
            .any(|answer| answer.found == Found::Missing)
    }

    fn hide(&mut self, seen: &Self) {
        for (answer, seen) in self.answers.iter_mut().zip(&seen.answers) {
            if answer.found == Found::Missing && seen.found == Found::Same {
                answer.found = Found::Hidden;
            }
        }
    }
}

/// What an error says about the question; `Err` if it says something about the connection instead.
fn trouble(error: tokio_postgres::Error) -> Result<Trouble, AskError> {
    match error.code() {
        _ if error.is_closed() => Err(AskError::Connection(error)),
        Some(code) if *code == SqlState::QUERY_CANCELED => Ok(Trouble::TimedOut),
        Some(code) if *code == SqlState::LOCK_NOT_AVAILABLE => Ok(Trouble::Locked),
        // The server is going down or was told to end this session; the session ends with it.
        Some(code) if code.code().starts_with("57P") || code.code().starts_with("08") => {
            Err(AskError::Connection(error))
        }
        Some(code) => Ok(Trouble::Raised(code.code().into())),
        None => Err(AskError::Connection(error)),
    }
}

/// The output function's text of a column; unlike a cast it is what the stream carries (`bool`, `char(n)`).
fn output_text(sql: &mut String, column: &str) {
    let name = quote_identifier(column);
    // `is null` would be true for a composite value of NULLs.
    let _infallible = write!(
        sql,
        "case pg_catalog.num_nulls(t.{name}) when 0 then pg_catalog.concat(t.{name}) end"
    );
}

fn select(question: &Question) -> String {
    let table = &question.table;
    let mut sql = String::from("select ");
    let columns = table
        .primary_key
        .iter()
        .chain(question.columns.iter())
        .filter_map(|index| table.columns.get(*index));
    for (position, column) in columns.enumerate() {
        if position > 0 {
            sql.push_str(", ");
        }
        output_text(&mut sql, &column.name);
    }
    let _infallible = write!(
        sql,
        " from {}.{} t where ",
        quote_identifier(&table.schema),
        quote_identifier(&table.name)
    );
    sql
}

/// The key column's name and type as SQL. A type that the catalog does not know compares as text, which finds nothing
/// wrongly.
fn key_column(table: &Table, catalog: &Catalog, index: usize) -> (String, String) {
    let Some(column) = table.columns.get(index) else {
        return (String::from("null"), String::from("text"));
    };
    let name = format!("t.{}", quote_identifier(&column.name));
    match catalog.types.get(&column.type_oid) {
        Some(found) => (name, found.sql_name.to_string()),
        None => (format!("{name}::text"), String::from("text")),
    }
}

/// One parameter: all keys. A parameter is no column, so that the comparison may use the index although the policy is a
/// security barrier (Postgres manual, "Rules and Privileges").
fn select_by_key(question: &Question, catalog: &Catalog) -> String {
    let mut sql = select(question);
    let index = question
        .table
        .primary_key
        .first()
        .copied()
        .unwrap_or(usize::MAX);
    let (name, type_name) = key_column(&question.table, catalog, index);
    let _infallible = write!(sql, "{name} = any ($1::text[]::{type_name}[])");
    sql
}

fn select_by_keys(question: &Question, catalog: &Catalog, rows: usize) -> String {
    let mut sql = select(question);
    let mut parameter = 0_usize;
    for row in 0..rows {
        sql.push_str(if row == 0 { "(" } else { " or (" });
        for (position, index) in question.table.primary_key.iter().enumerate() {
            parameter = parameter.saturating_add(1);
            let (name, type_name) = key_column(&question.table, catalog, *index);
            let and = if position == 0 { "" } else { " and " };
            let _infallible = write!(sql, "{and}{name} = ${parameter}::text::{type_name}");
        }
        sql.push(')');
    }
    sql
}

fn keys<'a>(question: &'a Question, chunk: &'a [usize]) -> impl Iterator<Item = &'a [Box<str>]> {
    chunk
        .iter()
        .filter_map(|index| question.rows.get(*index)?.key.as_deref())
}

fn array_of_keys(question: &Question, chunk: &[usize]) -> Vec<Parameter> {
    vec![Parameter::Texts(
        keys(question, chunk)
            .filter_map(|key| key.first())
            .map(ToString::to_string)
            .collect(),
    )]
}

fn list_of_keys(question: &Question, chunk: &[usize]) -> Vec<Parameter> {
    keys(question, chunk)
        .flatten()
        .map(|column| Parameter::Text(Some(column.to_string())))
        .collect()
}

/// All predicates of a row in one statement; parameters are renumbered one after the other.
fn predicates(row: &Row) -> (String, Vec<Parameter>) {
    let mut sql = String::from("select ");
    let mut parameters = Vec::new();
    for (position, predicate) in row.predicates.iter().enumerate() {
        if position > 0 {
            sql.push_str(", ");
        }
        sql.push_str(&renumber(&predicate.sql, parameters.len()));
        parameters.extend(
            predicate
                .parameters
                .iter()
                .map(|value| Parameter::Text(value.as_deref().map(str::to_owned))),
        );
    }
    (sql, parameters)
}

/// Adds `by` to every `$n` of `sql`; predicates hold no string constants in which a `$` could mean itself.
fn renumber(sql: &str, by: usize) -> String {
    let mut pieces = sql.split('$');
    let mut out = String::from(pieces.next().unwrap_or_default());
    for piece in pieces {
        let digits = piece.bytes().take_while(u8::is_ascii_digit).count();
        let (number, rest) = piece.split_at(digits);
        match number.parse::<usize>() {
            Ok(number) => {
                let _infallible = write!(out, "${}{rest}", number.saturating_add(by));
            }
            Err(_not_a_parameter) => {
                let _infallible = write!(out, "${piece}");
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_of_predicates_are_numbered_on() {
        assert_eq!(
            renumber(
                "($1::text)::int4 operator(pg_catalog.<) ($2::text)::int4",
                10
            ),
            "($11::text)::int4 operator(pg_catalog.<) ($12::text)::int4"
        );
    }
}
