//! Bindings become subscriptions: names are looked up in the catalog, values are cast by Postgres.
//!
//! *io*. Bindings, a role and the catalog go in; subscriptions, or the text that the subscriber is told, come out
//! (protocol.md §4.5). Values reach the database as parameters only; nothing is written.

use std::collections::HashMap;

use tokio_postgres::types::Type as WireType;
use tokio_postgres::{Client, Row};

use super::comparison::{Comparison, symbol};
use super::filter::{Caseless, Keyword, Operand, Question, Test};
use super::pattern::{DanglingEscape, Pattern};
use super::sqlstate::condition_name;
use super::value::{Family, Value, is_plain_text, oid};
use super::{Binding, Condition, Filter, Operator, Subscription, TableFilter};
use crate::catalog::{Access, Catalog, Column, Table, Type, TypeKind};
use crate::change::Oid;

/// Why bindings did not become subscriptions.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// A binding can never be served as it is; the text is for the subscriber (protocol.md §4.5).
    #[error("{0}")]
    Refused(String),
    /// The database could not be asked; trying again may help.
    #[error("cannot ask the database about a subscription")]
    Unavailable(#[source] tokio_postgres::Error),
}

/// Elements of a list after `in`.
const LIST_MAX: usize = 100;

/// Checks `bindings` for `role` against the catalog and, where a value has to be understood, against Postgres. Most
/// bindings need no query: plain numbers, texts and uuids are understood here.
///
/// Cancel safe: every statement stands alone.
///
/// # Errors
/// The first binding that cannot be served, or trouble with the database.
pub async fn resolve(
    client: &Client,
    catalog: &Catalog,
    role: &str,
    bindings: &[Binding],
) -> Result<Vec<Subscription>, ResolveError> {
    let mut resolver = Resolver {
        client,
        catalog,
        role,
        known: HashMap::new(),
    };
    let mut subscriptions = Vec::with_capacity(bindings.len());
    for binding in bindings {
        subscriptions.push(resolver.resolve(binding).await?);
    }
    Ok(subscriptions)
}

struct Resolver<'a> {
    client: &'a Client,
    catalog: &'a Catalog,
    role: &'a str,
    /// What Postgres has already said: a wildcard puts the same condition on many tables.
    known: HashMap<(Column, Condition), Test>,
}

/// Why one condition cannot be served.
enum Trouble {
    /// A rule of the protocol; the reference raises it as an exception of its own.
    Rule(String),
    /// Postgres raised an error about the value: SQLSTATE and message.
    Raised(String, String),
    Unavailable(tokio_postgres::Error),
}

impl Trouble {
    fn told(self, binding: &Binding) -> ResolveError {
        let (sqlstate, message) = match self {
            Self::Rule(message) => ("P0001".to_owned(), message),
            Self::Raised(sqlstate, message) => (sqlstate, message),
            Self::Unavailable(source) => return ResolveError::Unavailable(source),
        };
        ResolveError::Refused(format!(
            "Unable to subscribe to changes with given parameters. An exception happened so please check your connect parameters: {}. Exception: ERROR {sqlstate} ({}) {message}",
            binding.describe(),
            condition_name(&sqlstate),
        ))
    }
}

/// Errors about what was asked are the subscriber's; errors about the server's state are nobody's.
impl From<tokio_postgres::Error> for Trouble {
    fn from(error: tokio_postgres::Error) -> Self {
        let Some(raised) = error.as_db_error() else {
            return Self::Unavailable(error);
        };
        let sqlstate = raised.code().code();
        match sqlstate.get(..2) {
            Some("0A" | "21" | "22" | "23" | "42" | "54") => {
                // Operators are named with their schema here; the reference names them without.
                let message = raised.message().replace(" pg_catalog.", " ");
                Self::Raised(sqlstate.to_owned(), message)
            }
            _ => Self::Unavailable(error),
        }
    }
}

impl Resolver<'_> {
    async fn resolve(&mut self, binding: &Binding) -> Result<Subscription, ResolveError> {
        let catalog = self.catalog;
        let mut tables: Vec<_> = (catalog.tables.values())
            .filter(|table| binding.names(&table.schema, &table.name))
            .collect();
        if tables.is_empty() {
            return Err(ResolveError::Refused(format!(
                "Unable to subscribe to changes with given parameters. Please check Realtime is enabled for the given connect parameters: {}",
                binding.describe()
            )));
        }
        // The first error is told, so that the order of tables shows.
        tables.sort_by(|left, right| (&left.schema, &left.name).cmp(&(&right.schema, &right.name)));
        let mut filters = HashMap::with_capacity(tables.len());
        if !catalog.roles.contains_key(self.role) {
            return Err(self.refuse_role().await.told(binding));
        }
        for table in tables {
            let filter = (self.filter_table(binding, table).await)
                .map_err(|trouble| trouble.told(binding))?;
            filters.insert(table.oid, filter);
        }
        Ok(Subscription {
            id: binding.id,
            event: binding.event,
            tables: filters,
        })
    }

    /// Says why the role is not among those that may subscribe.
    async fn refuse_role(&self) -> Trouble {
        const SQL: &str = "select 1 from pg_catalog.pg_roles where rolname = $1";
        match self.ask(SQL, &[Some(self.role)]).await {
            Err(trouble) => trouble,
            Ok(rows) if rows.is_empty() => Trouble::Raised(
                "42704".to_owned(),
                format!("role \"{}\" does not exist", self.role),
            ),
            Ok(_) => Trouble::Raised(
                "42501".to_owned(),
                format!("permission denied to set role \"{}\"", self.role),
            ),
        }
    }

    async fn filter_table(
        &mut self,
        binding: &Binding,
        table: &Table,
    ) -> Result<TableFilter, Trouble> {
        let access = table.access.get(self.role);
        let mut tests = Vec::with_capacity(binding.conditions.len());
        for condition in &binding.conditions {
            let column = readable(table, access, &condition.column).ok_or_else(|| {
                Trouble::Rule(format!("invalid column for filter {}", condition.column))
            })?;
            let key = (column.clone(), condition.clone());
            let test = match self.known.get(&key) {
                Some(test) => test.clone(),
                None => {
                    let test = self.understand(column, condition).await?;
                    self.known.insert(key, test.clone());
                    test
                }
            };
            tests.push(test);
        }
        if let Some(select) = &binding.select {
            for name in select {
                if readable(table, access, name).is_none() {
                    return Err(Trouble::Rule(format!("invalid column for select {name}")));
                }
            }
        }
        Ok(TableFilter {
            filter: Filter::new(tests),
            columns: binding
                .select
                .as_deref()
                .map(|select| selected(table, select)),
        })
    }

    /// Understands one condition's value as the column's type would.
    async fn understand(&self, column: &Column, condition: &Condition) -> Result<Test, Trouble> {
        let (Some(own), Some(base)) = (
            self.catalog.types.get(&column.type_oid),
            self.catalog.base_type(column.type_oid),
        ) else {
            return Err(Trouble::Rule(format!(
                "failed to lookup type for column {}",
                condition.column
            )));
        };
        let subject = Subject {
            column,
            own,
            base,
            family: Family::of(self.catalog, column),
        };
        let (operand, question) = match condition.operator {
            Operator::Is => (self.keyword(&subject, &condition.value).await?, None),
            Operator::Like | Operator::Ilike => self.pattern(&subject, condition).await?,
            Operator::Match | Operator::Imatch => self.expression(&subject, condition).await?,
            Operator::In => self.list(&subject, condition).await?,
            Operator::Eq
            | Operator::Neq
            | Operator::Lt
            | Operator::Lte
            | Operator::Gt
            | Operator::Gte
            | Operator::IsDistinct => self.value(&subject, condition).await?,
        };
        Ok(Test {
            column: condition.column.clone(),
            type_oid: column.type_oid,
            family: subject.family,
            operator: condition.operator,
            negated: condition.negated,
            operand,
            question,
        })
    }

    async fn keyword(&self, subject: &Subject<'_>, value: &str) -> Result<Operand, Trouble> {
        let keyword = match value {
            "null" => {
                return Ok(Operand::Is(match subject.base.kind {
                    TypeKind::Composite { .. } => Keyword::NullRow,
                    _ => Keyword::Null,
                }));
            }
            "true" => Keyword::True,
            "false" => Keyword::False,
            "unknown" => Keyword::Unknown,
            _ => {
                return Err(Trouble::Rule(
                    "invalid value for is filter: must be null, true, false, or unknown".to_owned(),
                ));
            }
        };
        if subject.base.oid != oid::BOOL {
            let name = self.type_name(subject.column.type_oid).await?;
            return Err(Trouble::Rule(format!(
                "is {value} filter requires a boolean column, got {name}"
            )));
        }
        Ok(Operand::Is(keyword))
    }

    async fn value(
        &self,
        subject: &Subject<'_>,
        condition: &Condition,
    ) -> Result<Understood, Trouble> {
        let accepted = subject
            .family
            .accept(subject.column.type_oid, &condition.value);
        if let Some(value) = accepted {
            let question = subject.question(condition, "pg_catalog", &condition.value);
            return Ok((Operand::One(value), question));
        }
        let sql = format!(
            "select pg_catalog.format('%s', ($1::pg_catalog.text)::{})",
            subject.own.sql_name
        );
        let rows = self.ask(&sql, &[Some(&condition.value)]).await?;
        let canonical = first_text(&rows)?.unwrap_or_default();
        let schema = self.operator_schema(subject, condition.operator).await?;
        let question = subject.question(condition, &schema, &canonical);
        match subject.family.parse(&canonical) {
            Some(value) => Ok((Operand::One(value), question)),
            None => self.foreign(question, Some(&canonical)).await,
        }
    }

    async fn list(
        &self,
        subject: &Subject<'_>,
        condition: &Condition,
    ) -> Result<Understood, Trouble> {
        // A set-returning function in the select list keeps rows of composite types whole.
        let sql = format!(
            "select case when pg_catalog.num_nulls(e) = 0 then pg_catalog.format('%s', e) end
             from (select pg_catalog.unnest(($1::pg_catalog.text)::{}[]) as e) as elements",
            subject.own.sql_name
        );
        let rows = self.ask(&sql, &[Some(&condition.value)]).await?;
        if rows.len() > LIST_MAX {
            return Err(Trouble::Rule(format!(
                "too many values for `in` filter. Maximum {LIST_MAX}"
            )));
        }
        let mut items = Vec::with_capacity(rows.len());
        for row in &rows {
            items.push(row.try_get::<_, Option<String>>(0)?);
        }
        let schema = self.operator_schema(subject, condition.operator).await?;
        let question = subject.question(condition, &schema, &condition.value);
        let understood = items
            .iter()
            .map(|item| match item {
                None => Some(None),
                Some(text) => subject.family.parse(text).map(Some),
            })
            .collect::<Option<Box<[Option<Value>]>>>();
        if let (Some(items), false) = (&understood, subject.family == Family::Opaque) {
            return Ok((Operand::Any(items.clone()), question));
        }
        let row = items.iter().flatten().next().map(String::as_str);
        let (operand, question) = self.foreign(question, row).await?;
        // Without an element but NULL there is nothing to compare, whatever the type.
        Ok((understood.map_or(operand, Operand::Any), question))
    }

    async fn pattern(
        &self,
        subject: &Subject<'_>,
        condition: &Condition,
    ) -> Result<Understood, Trouble> {
        let support = self.text_operator(subject, condition.operator).await?;
        let question =
            subject.question_as(condition, &support.schema, &support.right, &condition.value);
        // Postgres raises this only once a row gets so far; by then nobody could be told.
        let dangling = |DanglingEscape| {
            Trouble::Raised(
                "22025".to_owned(),
                "LIKE pattern must not end with escape character".to_owned(),
            )
        };
        let like = Pattern::with_escape(&condition.value).map_err(dangling)?;
        let certain = subject.family.text_order().is_some();
        let question = if certain && is_plain_text(&condition.value) {
            question
        } else {
            let (operand, question) = self.foreign(question, Some("")).await?;
            if !certain {
                return Ok((operand, question));
            }
            question
        };
        let operand = match condition.operator {
            Operator::Like => Operand::Like(like),
            _ => Operand::Ilike(Caseless::compile(&condition.value).map_err(dangling)?),
        };
        Ok((operand, question))
    }

    async fn expression(
        &self,
        subject: &Subject<'_>,
        condition: &Condition,
    ) -> Result<Understood, Trouble> {
        let support = self.text_operator(subject, condition.operator).await?;
        // Any text will do: what is compiled is the expression.
        const SQL: &str = "select '' operator(pg_catalog.~) $1::pg_catalog.text";
        if let Err(trouble) = self.ask(SQL, &[Some(&condition.value)]).await {
            return Err(match trouble {
                Trouble::Raised(_, message) => Trouble::Rule(format!(
                    "invalid regular expression for {} filter: {message}",
                    condition.operator.name()
                )),
                other => other,
            });
        }
        let question =
            subject.question_as(condition, &support.schema, &support.right, &condition.value);
        self.foreign(question, Some("")).await
    }

    /// A condition that only Postgres can decide, once it has agreed to decide it for `row`: some operators raise only
    /// when they meet a value.
    async fn foreign(
        &self,
        question: Option<Question>,
        row: Option<&str>,
    ) -> Result<Understood, Trouble> {
        if let Some(question) = &question {
            let sql = format!("select {}", question.sql);
            self.ask(&sql, &[row, Some(&question.value)]).await?;
        }
        Ok((Operand::Foreign, question))
    }

    /// The schema of the operator that compares two values of a type: extensions bring their own.
    async fn operator_schema(
        &self,
        subject: &Subject<'_>,
        operator: Operator,
    ) -> Result<String, Trouble> {
        if subject.family != Family::Opaque || subject.base.oid < FIRST_USER_OID {
            return Ok("pg_catalog".to_owned());
        }
        const SQL: &str = "
            select n.nspname::pg_catalog.text
            from pg_catalog.pg_operator o join pg_catalog.pg_namespace n on n.oid = o.oprnamespace
            where o.oprname = $1 and o.oprresult = 16
              and o.oprleft = $2::pg_catalog.text::pg_catalog.oid and o.oprright = o.oprleft
            order by o.oid limit 1";
        let name = symbol(operator).unwrap_or_default();
        let rows = self
            .ask(SQL, &[Some(name), Some(&subject.base.oid.to_string())])
            .await?;
        Ok(first_text(&rows)?.unwrap_or_else(|| "pg_catalog".to_owned()))
    }

    /// The operator that matches a column with a pattern.
    async fn text_operator(
        &self,
        subject: &Subject<'_>,
        operator: Operator,
    ) -> Result<Support, Trouble> {
        const TEXT: &str = "pg_catalog.text";
        let support = |schema: &str, right: &str| Support {
            schema: schema.to_owned(),
            right: right.to_owned(),
        };
        let found = match subject.base.oid {
            oid::TEXT | oid::VARCHAR | oid::BPCHAR | oid::NAME => Some(support("pg_catalog", TEXT)),
            oid::BYTEA if operator == Operator::Like => {
                Some(support("pg_catalog", &subject.base.sql_name))
            }
            other if other >= FIRST_USER_OID => {
                const SQL: &str = "
                    select n.nspname::pg_catalog.text, o.oprright = o.oprleft
                    from pg_catalog.pg_operator o
                    join pg_catalog.pg_namespace n on n.oid = o.oprnamespace
                    where o.oprname = $1 and o.oprresult = 16
                      and o.oprleft = $2::pg_catalog.text::pg_catalog.oid and o.oprright in (o.oprleft, 25)
                    order by o.oprright = o.oprleft desc, o.oid limit 1";
                let name = symbol(operator).unwrap_or_default();
                let rows = self
                    .ask(SQL, &[Some(name), Some(&other.to_string())])
                    .await?;
                match rows.first() {
                    None => None,
                    Some(row) => {
                        let same: bool = row.try_get(1)?;
                        let right = if same { &*subject.base.sql_name } else { TEXT };
                        Some(support(&row.try_get::<_, String>(0)?, right))
                    }
                }
            }
            _ => None,
        };
        match found {
            Some(found) => Ok(found),
            None => {
                let name = self.type_name(subject.column.type_oid).await?;
                Err(Trouble::Rule(format!(
                    "operator {} requires a text-compatible column type, got {name}",
                    operator.name()
                )))
            }
        }
    }

    /// The type's name as messages spell it: `integer`, `character varying`.
    async fn type_name(&self, type_oid: Oid) -> Result<String, Trouble> {
        const SQL: &str =
            "select pg_catalog.format_type($1::pg_catalog.text::pg_catalog.oid, null)";
        let rows = self.ask(SQL, &[Some(&type_oid.to_string())]).await?;
        Ok(first_text(&rows)?.unwrap_or_default())
    }

    /// One statement over text parameters, in one round trip.
    async fn ask(&self, sql: &str, parameters: &[Option<&str>]) -> Result<Vec<Row>, Trouble> {
        let parameters: Vec<_> = (parameters.iter())
            .map(|value| {
                (
                    value as &(dyn tokio_postgres::types::ToSql + Sync),
                    WireType::TEXT,
                )
            })
            .collect();
        Ok(self.client.query_typed(sql, &parameters).await?)
    }
}

/// A condition's value, and how Postgres is asked about rows.
type Understood = (Operand, Option<Question>);

/// OIDs from here on belong to objects that users and extensions made (Postgres source, "FirstNormalObjectId").
const FIRST_USER_OID: Oid = 16_384;

/// An operator that takes a pattern on its right.
struct Support {
    schema: String,
    /// SQL name of the right type.
    right: String,
}

/// The column of a condition.
struct Subject<'a> {
    column: &'a Column,
    /// The column's type.
    own: &'a Type,
    /// The type below its domains.
    base: &'a Type,
    family: Family,
}

impl Subject<'_> {
    fn question(&self, condition: &Condition, schema: &str, value: &str) -> Option<Question> {
        // A domain over an array has arrays of its own; what it is made of has none.
        let right = match condition.operator {
            Operator::In => &self.own.sql_name,
            _ => &self.base.sql_name,
        };
        self.question_as(condition, schema, right, value)
    }

    fn question_as(
        &self,
        condition: &Condition,
        schema: &str,
        right: &str,
        value: &str,
    ) -> Option<Question> {
        let comparison = Comparison {
            left: self.base,
            right,
            collation: &self.column.collation,
            schema,
        };
        let sql = comparison.sql(condition.operator, condition.negated)?;
        Some(Question {
            sql: sql.into(),
            value: value.into(),
        })
    }
}

/// The column of this name, if the role may read it.
fn readable<'a>(table: &'a Table, access: Option<&Access>, name: &str) -> Option<&'a Column> {
    let index = table.column(name)?;
    let granted = access?.columns.get(index).copied().unwrap_or(false);
    if granted {
        table.columns.get(index)
    } else {
        None
    }
}

/// Names of the columns to be sent: those asked for and the primary key's, in attribute order.
fn selected(table: &Table, select: &[Box<str>]) -> Box<[Box<str>]> {
    (table.columns.iter().enumerate())
        .filter(|(index, column)| {
            select.contains(&column.name) || table.primary_key.contains(index)
        })
        .map(|(_, column)| column.name.clone())
        .collect()
}

fn first_text(rows: &[Row]) -> Result<Option<String>, tokio_postgres::Error> {
    rows.first().map_or(Ok(None), |row| row.try_get(0))
}
