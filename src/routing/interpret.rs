//! The value of a condition, understood as the column's type understands it.
//!
//! *io*. A column and a condition go in; a test on rows, or why there can be none, comes out (protocol.md §4.5). Postgres
//! is asked to cast the value and keeps the word on which operators exist; plain values are understood without it.

use tokio_postgres::types::Type as WireType;
use tokio_postgres::{Client, Row};

use super::comparison::{Comparison, symbol};
use super::filter::{Caseless, Keyword, Operand, Question, Test};
use super::pattern::{DanglingEscape, Pattern};
use super::value::{Family, Value, is_plain_text, oid};
use super::{Condition, Operator};
use crate::catalog::{Catalog, Column, Type, TypeKind};
use crate::change::Oid;

/// Elements of a list after `in`.
const LIST_MAX: usize = 100;

/// Understands values with the help of a catalog and a database.
pub(super) struct Interpreter<'a> {
    pub(super) client: &'a Client,
    pub(super) catalog: &'a Catalog,
}

/// Why one condition cannot be served.
pub(super) enum Trouble {
    /// A rule of the protocol; the reference raises it as an exception of its own.
    Rule(String),
    /// Postgres raised an error about the value: SQLSTATE and message.
    Raised(String, String),
    Unavailable(tokio_postgres::Error),
}

/// Errors about what was asked are the subscriber's; errors about the server's state are nobody's. Which codes those are
/// has to be listed: input functions of extensions raise whatever they like, also "internal error".
impl From<tokio_postgres::Error> for Trouble {
    fn from(error: tokio_postgres::Error) -> Self {
        const STATE_CLASSES: [&str; 11] = [
            "08", "25", "26", "28", "3D", "40", "53", "55", "57", "58", "F0",
        ];
        let Some(raised) = error.as_db_error() else {
            return Self::Unavailable(error);
        };
        let sqlstate = raised.code().code();
        let about_state = STATE_CLASSES
            .iter()
            .any(|class| sqlstate.starts_with(class));
        // Whose value takes too long is told so; trying again would only take as long again.
        let about_state = about_state && sqlstate != "57014";
        if about_state || matches!(sqlstate, "XX001" | "XX002") {
            return Self::Unavailable(error);
        }
        // Operators are named with their schema here; the reference names them without.
        let message = raised.message().replace(" pg_catalog.", " ");
        Self::Raised(sqlstate.to_owned(), message)
    }
}

impl Interpreter<'_> {
    /// Understands one condition's value as the column's type would.
    pub(super) async fn understand(
        &self,
        column: &Column,
        condition: &Condition,
    ) -> Result<Test, Trouble> {
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
    pub(super) async fn ask(
        &self,
        sql: &str,
        parameters: &[Option<&str>],
    ) -> Result<Vec<Row>, Trouble> {
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

fn first_text(rows: &[Row]) -> Result<Option<String>, tokio_postgres::Error> {
    rows.first().map_or(Ok(None), |row| row.try_get(0))
}
