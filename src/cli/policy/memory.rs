//! Tables as plans read them, and the session that a plan is asked in.

use std::collections::{BTreeSet, HashMap};
use std::ops::ControlFlow;

use tokio_postgres::{Client, SimpleQueryMessage};

use crate::database::quote_identifier;
use crate::policy::builtin::Session;
use crate::policy::schema::{Schema, Table};
use crate::policy::value::{Oid, Value, canonical, input, supported};
use crate::policy::{Tables, Tuple};

/// The one setting that walcast sets for policies to read: the claims as JSON.
pub(super) const CLAIMS: &str = "request.jwt.claims";

/// Rows of some tables, as one snapshot shows them to the login.
pub(super) struct Memory<'a> {
    schema: &'a Schema,
    /// With their places (`ctid`).
    rows: HashMap<Oid, Vec<(String, Tuple)>>,
    /// Columns with values that are not understood although their types are; NULL stands in their place.
    pub(super) unread: BTreeSet<String>,
}

impl<'a> Memory<'a> {
    /// Reads tables whole; of a column that is not wanted, NULL.
    pub(super) async fn read<'t>(
        client: &Client,
        schema: &'a Schema,
        tables: impl IntoIterator<Item = (&'t Table, Option<&'t BTreeSet<usize>>)>,
    ) -> Result<Self, tokio_postgres::Error> {
        let mut memory = Self {
            schema,
            rows: HashMap::new(),
            unread: BTreeSet::new(),
        };
        for (table, wanted) in tables {
            let rows = memory.select(client, table, wanted, "").await?;
            memory.rows.insert(table.oid, rows);
        }
        Ok(memory)
    }

    /// The rows of a table behind a WHERE clause.
    pub(super) async fn select(
        &mut self,
        client: &Client,
        table: &Table,
        wanted: Option<&BTreeSet<usize>>,
        clause: &str,
    ) -> Result<Vec<(String, Tuple)>, tokio_postgres::Error> {
        let mut list = String::from("t.ctid");
        for (index, column) in table.columns.iter().enumerate() {
            let is_wanted = wanted.is_none_or(|wanted| wanted.contains(&index));
            list.push_str(", ");
            if is_wanted {
                list.push_str(&format!("t.{}", quote_identifier(&column.name)));
            } else {
                list.push_str("null");
            }
        }
        let sql = format!("select {list} from {} t {clause}", qualified(table));
        let mut rows = Vec::new();
        for message in client.simple_query(&sql).await? {
            let SimpleQueryMessage::Row(row) = message else {
                continue;
            };
            let types = &self.schema.types;
            let mut values = Vec::with_capacity(table.columns.len());
            for (column, index) in table.columns.iter().zip(1..) {
                let value = row
                    .get(index)
                    .map(|text| input(types, column.type_oid, -1, text));
                if matches!(value, Some(Err(_))) && supported(types, column.type_oid) {
                    let name = format!("{}.{}.{}", table.schema, table.name, column.name);
                    self.unread.insert(name);
                }
                values.push(value.and_then(Result::ok).unwrap_or(Value::Null));
            }
            rows.push((row.get(0).unwrap_or_default().to_owned(), values.into()));
        }
        Ok(rows)
    }

    pub(super) fn rows(&self, table: Oid) -> &[(String, Tuple)] {
        self.rows.get(&table).map_or(&[], Vec::as_slice)
    }
}

impl Tables for Memory<'_> {
    fn scan(
        &self,
        table: Oid,
        keys: &[(usize, Value)],
        visit: &mut dyn FnMut(&Tuple) -> ControlFlow<()>,
    ) {
        let types = &self.schema.types;
        let columns = self.schema.tables.get(&table).map(|found| &found.columns);
        let equal = |tuple: &Tuple| {
            keys.iter().all(|(column, key)| {
                let type_oid = columns
                    .and_then(|columns| columns.get(*column))
                    .map_or(0, |found| found.type_oid);
                let value = tuple
                    .get(*column)
                    .and_then(|value| canonical(types, type_oid, value).ok());
                value.is_some() && value == canonical(types, type_oid, key).ok()
            })
        };
        for (_, tuple) in self.rows(table).iter().filter(|(_, tuple)| equal(tuple)) {
            if visit(tuple).is_break() {
                return;
            }
        }
    }
}

/// The session of the present transaction, with these settings and nothing else.
pub(super) async fn session_of(
    client: &Client,
    settings: &[(String, String)],
) -> Result<Session, tokio_postgres::Error> {
    let now = client
        .query_one(
            "select (extract(epoch from pg_catalog.now()) * 1000000)::pg_catalog.int8 - 946684800000000",
            &[],
        )
        .await?;
    Ok(Session {
        now: now.try_get(0)?,
        settings: settings
            .iter()
            .map(|(name, value)| (name.as_str().into(), value.as_str().into()))
            .collect(),
    })
}

/// Schema and name, quoted.
pub(super) fn qualified(table: &Table) -> String {
    format!(
        "{}.{}",
        quote_identifier(&table.schema),
        quote_identifier(&table.name)
    )
}

/// A string constant; `standard_conforming_strings` is on.
pub(super) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
