//! A temporary database for each entry.

use std::collections::{BTreeMap, BTreeSet};

use tokio_postgres::Client;
use tokio_util::task::TaskTracker;

use super::{CoverageError, Entry};
use crate::database::{Database, quote_identifier};

const PLATFORM: &str = include_str!("platform.sql");
const AUTH: &str = include_str!("../../../sql/auth.sql");

/// Extensions that policies and defaults use, where the server has them.
const EXTENSIONS: &[&str] = &["pgcrypto", "uuid-ossp", "citext"];

pub(super) struct Stage<'a> {
    database: &'a Database,
    tasks: &'a TaskTracker,
    keeper: Client,
    name: String,
    /// Roles made for this run, by the names that entries use.
    made: BTreeMap<String, String>,
}

impl<'a> Stage<'a> {
    pub(super) async fn open(
        database: &'a Database,
        tasks: &'a TaskTracker,
        roles: impl Iterator<Item = &String>,
    ) -> Result<Self, CoverageError> {
        let keeper = database.connect(tasks, "walcast policy").await?;
        let name = format!("walcast_coverage_{}", std::process::id());
        let mut wanted: BTreeSet<&str> = ["anon", "authenticated", "service_role"].into();
        wanted.extend(roles.map(String::as_str).filter(|role| *role != "public"));
        let mut made = BTreeMap::new();
        for role in wanted {
            let found = keeper
                .query(
                    "select from pg_catalog.pg_roles where rolname = $1",
                    &[&role],
                )
                .await?;
            if found.is_empty() {
                let other = format!("{name}_{role}");
                let bypass = if role == "service_role" {
                    " bypassrls"
                } else {
                    ""
                };
                let sql = format!(
                    "create role {} nologin noinherit{bypass}",
                    quote_identifier(&other)
                );
                keeper.batch_execute(&sql).await?;
                made.insert(role.to_owned(), other);
            }
        }
        let stage = Self {
            database,
            tasks,
            keeper,
            name,
            made,
        };
        let template = stage.template();
        stage.create(&template, "template0").await?;
        let client = database
            .named(&template)
            .connect(tasks, "walcast policy")
            .await?;
        stage.furnish(&client).await?;
        Ok(stage)
    }

    /// What every entry finds in place.
    async fn furnish(&self, client: &Client) -> Result<(), CoverageError> {
        client.batch_execute("create schema extensions").await?;
        for extension in EXTENSIONS {
            let available = client
                .query(
                    "select from pg_catalog.pg_available_extensions where name = $1",
                    &[extension],
                )
                .await?;
            if !available.is_empty() {
                let sql = format!(
                    "create extension {} schema extensions",
                    quote_identifier(extension)
                );
                client.batch_execute(&sql).await?;
            }
        }
        client.batch_execute(PLATFORM).await?;
        Ok(client.batch_execute(&self.auth()).await?)
    }

    fn template(&self) -> String {
        format!("{}_template", self.name)
    }

    async fn create(&self, name: &str, template: &str) -> Result<(), CoverageError> {
        self.drop_database(name).await?;
        let (name, template) = (quote_identifier(name), quote_identifier(template));
        let sql = format!("create database {name} template {template}");
        Ok(self.keeper.batch_execute(&sql).await?)
    }

    pub(super) async fn close(self) -> Result<(), CoverageError> {
        self.drop_database(&self.name).await?;
        self.drop_database(&self.template()).await?;
        for role in self.made.values() {
            self.keeper
                .batch_execute(&format!("drop role {}", quote_identifier(role)))
                .await?;
        }
        Ok(())
    }

    async fn drop_database(&self, name: &str) -> Result<(), CoverageError> {
        let name = quote_identifier(name);
        let sql = format!("drop database if exists {name} with (force)");
        Ok(self.keeper.batch_execute(&sql).await?)
    }

    /// An empty database in place of the one before.
    pub(super) async fn fresh(&self) -> Result<Client, CoverageError> {
        self.create(&self.name, &self.template()).await?;
        Ok(self
            .database
            .named(&self.name)
            .connect(self.tasks, "walcast policy")
            .await?)
    }

    /// The roles that an entry's verdicts are for.
    pub(super) fn roles_of(&self, entry: &Entry) -> Vec<String> {
        let mut roles = BTreeSet::new();
        for role in &entry.roles {
            match role.as_str() {
                "public" => roles.extend(["anon", "authenticated"]),
                other => {
                    roles.insert(other);
                }
            }
        }
        roles
            .into_iter()
            .map(|role| self.role(role).to_owned())
            .collect()
    }

    fn role<'s>(&'s self, role: &'s str) -> &'s str {
        self.made.get(role).map_or(role, String::as_str)
    }

    /// Runs the entry's SQL and finds the table; the text says why it does not run.
    pub(super) async fn prepare(
        &self,
        client: &Client,
        entry: &Entry,
    ) -> Result<Result<u32, String>, CoverageError> {
        client
            .batch_execute("set search_path = public, extensions; set check_function_bodies = off")
            .await?;
        let parts = [
            &entry.tables_sql,
            &entry.functions_sql,
            &entry.context_policies_sql,
            &entry.policy_sql,
        ];
        for part in parts {
            if let Err(error) = client.batch_execute(&self.renamed(part)).await {
                let Some(error) = error.as_db_error() else {
                    return Err(error.into());
                };
                return Ok(Err(error.message().to_owned()));
            }
        }
        let found = client
            .query_opt(
                "select p.polrelid, n.nspname::text from pg_catalog.pg_policy p
                 join pg_catalog.pg_class c on c.oid = p.polrelid
                 join pg_catalog.pg_namespace n on n.oid = c.relnamespace
                 where c.relname = $1 order by p.oid desc limit 1",
                &[&entry
                    .table
                    .rsplit('.')
                    .next()
                    .unwrap_or_default()
                    .trim_matches('"')],
            )
            .await?;
        let Some(found) = found else {
            return Ok(Err(format!("no policy on {}", entry.table)));
        };
        let schema: String = found.get(1);
        let mut sql = String::new();
        for schema in ["public", &schema] {
            for role in ["anon", "authenticated", "service_role"]
                .into_iter()
                .chain(entry.roles.iter().map(String::as_str))
            {
                if role == "public" {
                    continue;
                }
                let (schema, role) = (quote_identifier(schema), quote_identifier(self.role(role)));
                sql.push_str(&format!(
                    "grant usage on schema {schema} to {role}; grant select on all tables in schema {schema} to {role};"
                ));
            }
        }
        for role in ["anon", "authenticated", "service_role"] {
            sql.push_str(&format!(
                "grant usage on schema extensions to {};",
                quote_identifier(self.role(role))
            ));
        }
        sql.push_str("reset search_path");
        client.batch_execute(&sql).await?;
        Ok(Ok(found.get(0)))
    }

    /// The SQL with the names of roles that were made for this run, where roles are named: behind TO.
    fn renamed(&self, sql: &str) -> String {
        let mut text = sql.to_owned();
        for (role, other) in &self.made {
            let other = quote_identifier(other);
            for written in [quote_identifier(role), role.clone()] {
                for before in [" TO ", " to ", ", "] {
                    for after in [" ", ";", ",", "\n"] {
                        let new = format!("{before}{other}{after}");
                        text = text.replace(&format!("{before}{written}{after}"), &new);
                    }
                }
            }
        }
        text
    }

    /// The functions over claims, granted to the roles that there are.
    fn auth(&self) -> String {
        self.made
            .iter()
            .fold(AUTH.to_owned(), |text, (role, other)| {
                text.replace(&format!("'{role}'"), &format!("'{other}'"))
            })
    }
}
