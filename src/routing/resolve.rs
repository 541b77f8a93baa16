//! Bindings become subscriptions: names are looked up in the catalog, values are cast by Postgres.
//!
//! *io*. Bindings, a role and the catalog go in; subscriptions, or the text that the subscriber is told, come out
//! (protocol.md §4.5). Values reach the database as parameters only; nothing is written.

use std::collections::HashMap;

use tokio_postgres::Client;

use super::filter::Test;
use super::interpret::{Interpreter, Trouble};
use super::sqlstate::condition_name;
use super::{Binding, Condition, Filter, Subscription, TableFilter};
use crate::catalog::{Access, Catalog, Column, Table};

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
        interpreter: Interpreter { client, catalog },
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
    interpreter: Interpreter<'a>,
    role: &'a str,
    /// What Postgres has already said: a wildcard puts the same condition on many tables.
    known: HashMap<(Column, Condition), Test>,
}

/// What the subscriber is told of one binding's trouble.
fn told(trouble: Trouble, binding: &Binding) -> ResolveError {
    let (sqlstate, message) = match trouble {
        Trouble::Rule(message) => ("P0001".to_owned(), message),
        Trouble::Raised(sqlstate, message) => (sqlstate, message),
        Trouble::Unavailable(source) => return ResolveError::Unavailable(source),
    };
    ResolveError::Refused(format!(
        "Unable to subscribe to changes with given parameters. An exception happened so please check your connect parameters: {}. Exception: ERROR {sqlstate} ({}) {message}",
        binding.describe(),
        condition_name(&sqlstate),
    ))
}

impl Resolver<'_> {
    async fn resolve(&mut self, binding: &Binding) -> Result<Subscription, ResolveError> {
        let catalog = self.interpreter.catalog;
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
            return Err(told(self.refuse_role().await, binding));
        }
        for table in tables {
            let filter = (self.filter_table(binding, table).await)
                .map_err(|trouble| told(trouble, binding))?;
            filters.insert(table.oid, filter);
        }
        Ok(Subscription {
            id: binding.id,
            event: binding.event,
            left: binding.left,
            tables: filters,
            snapshot: binding.snapshot.clone(),
        })
    }

    /// Says why the role is not among those that may subscribe.
    async fn refuse_role(&self) -> Trouble {
        const SQL: &str = "select 1 from pg_catalog.pg_roles where rolname = $1";
        match self.interpreter.ask(SQL, &[Some(self.role)]).await {
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
                    let test = self.interpreter.understand(column, condition).await?;
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
        let order = binding
            .snapshot
            .as_ref()
            .and_then(|wish| wish.order.as_ref());
        if let Some(order) = order
            && readable(table, access, &order.column).is_none()
        {
            return Err(Trouble::Rule(format!(
                "invalid column for order {}",
                order.column
            )));
        }
        Ok(TableFilter {
            filter: Filter::new(tests),
            columns: binding
                .select
                .as_deref()
                .map(|select| selected(table, select)),
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
