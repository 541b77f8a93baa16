//! `walcast check`: looks for everything that keeps changes from flowing, or lets them flow to the wrong people, and prints
//! the SQL that mends each. Changes nothing.

mod messages;

use tokio_postgres::{Client, Error};

use super::login::{self, SUBSCRIBER_ROLES};
use super::output::{Line, Mark, sentence};
use super::verifier;
use crate::clock;
use crate::config::{Config, Deletes};
use crate::database::quote_identifier;
use crate::replication::slot::{self, SlotError, SlotOptions};

/// RFC 7518 section 3.2: a key of an HS256 signature has 256 bits or more.
const SECRET_BYTES_MIN: usize = 32;
/// Tokens expire by our clock and commit times come from the database's.
const SKEW_MAX_MICROS: i64 = 2_000_000;

/// What keeps every change from flowing and does not go away by itself. `serve` ends over these.
///
/// # Errors
/// Postgres cannot be asked.
pub(super) async fn blocking(client: &Client, slot: &SlotOptions) -> Result<Vec<Line>, SlotError> {
    let findings = slot::check(client, slot).await?.into_iter();
    let lasting = findings.filter(|finding| finding.blocks && lasts(&finding.problem));
    Ok(lasting
        .map(|finding| Line::new(Mark::Failure, sentence(&finding.problem)))
        .collect())
}

/// Whether waiting cannot help: others may let go of slots and senders, and a standby may be promoted.
fn lasts(problem: &SlotError) -> bool {
    match problem {
        SlotError::Version { .. }
        | SlotError::WalLevel { .. }
        | SlotError::Role { .. }
        | SlotError::Publication { .. }
        | SlotError::Foreign { .. }
        | SlotError::TwoPhase { .. } => true,
        SlotError::Standby
        | SlotError::NoFreeSlot { .. }
        | SlotError::NoFreeSender { .. }
        | SlotError::Held { .. }
        | SlotError::Lost { .. }
        | SlotError::Unreserved { .. }
        | SlotError::Query { .. }
        | SlotError::Answer { .. } => false,
    }
}

/// Everything between the database and a stream, also what time may mend.
///
/// # Errors
/// Postgres cannot be asked.
pub(super) async fn replication(
    client: &Client,
    slot: &SlotOptions,
) -> Result<Vec<Line>, SlotError> {
    let findings = slot::check(client, slot).await?;
    if findings.is_empty() {
        return Ok(vec![Line::new(
            Mark::Fine,
            format!("the server can stream through slot {:?}", slot.name),
        )]);
    }
    let line = |finding: slot::Finding| {
        let mark = match &finding.problem {
            // Most likely by the very server that is being checked.
            SlotError::Held { .. } => Mark::Note,
            _ if finding.blocks => Mark::Failure,
            _ => Mark::Warning,
        };
        Line::new(mark, sentence(&finding.problem))
    };
    Ok(findings.into_iter().map(line).collect())
}

/// Publications and the login role's rights.
///
/// # Errors
/// The catalog cannot be read.
pub(super) async fn essentials(client: &Client, config: &Config) -> Result<Vec<Line>, Error> {
    let mut lines = publications(client, &config.publications).await?;
    let current = current_user(client).await?;
    for need in login::needs(client, &current, &config.publications).await? {
        lines.push(if need.held {
            Line::new(Mark::Fine, need.what)
        } else {
            Line::new(Mark::Failure, format!("{} is missing", need.what)).remedy(need.grant)
        });
    }
    Ok(lines)
}

/// The rest: roles, functions, tables, clocks.
///
/// # Errors
/// The catalog cannot be read.
pub(super) async fn advice(client: &Client, config: &Config) -> Result<Vec<Line>, Error> {
    let mut lines = roles(client).await?;
    lines.extend(functions(client).await?);
    lines.extend(event_triggers(client).await?);
    lines.extend(tables(client, config).await?);
    lines.extend(messages::look(client).await?);
    lines.push(skew(client).await?);
    Ok(lines)
}

/// What can be said without a database: the keys.
pub(super) fn keys(config: &Config) -> Vec<Line> {
    let mut lines = Vec::new();
    if let Err(error) = config.verification_key() {
        lines.push(Line::new(Mark::Failure, error.to_string()));
        return lines;
    }
    if let Err(error) = verifier::make(config) {
        lines.push(Line::new(Mark::Failure, sentence(&error)));
        return lines;
    }
    match &config.jwt_secret {
        Some(secret) if secret.expose().len() < SECRET_BYTES_MIN => lines.push(
            Line::new(
                Mark::Warning,
                format!("the JWT secret has {} bytes; shorter than {SECRET_BYTES_MIN} it can be guessed", secret.expose().len()),
            )
            .remedy("openssl rand -hex 32"),
        ),
        Some(_) => lines.push(Line::new(Mark::Fine, "the JWT secret is long enough")),
        None => lines.push(Line::new(Mark::Fine, "tokens are verified without a shared secret")),
    }
    lines
}

async fn current_user(client: &Client) -> Result<String, Error> {
    Ok(client
        .query_one("select current_user::text", &[])
        .await?
        .get(0))
}

async fn publications(client: &Client, names: &[String]) -> Result<Vec<Line>, Error> {
    let mut lines = Vec::new();
    for name in names {
        let row = client
            .query_opt(
                "select pubinsert, pubupdate, pubdelete, pubtruncate, \
                    (select pg_catalog.count(*) from pg_catalog.pg_publication_tables as t where t.pubname = p.pubname) \
                 from pg_catalog.pg_publication as p where pubname = $1",
                &[name],
            )
            .await?;
        let quoted = quote_identifier(name);
        let Some(row) = row else {
            // Said by what looks at the slot.
            continue;
        };
        let actions = ["insert", "update", "delete", "truncate"];
        let missing: Vec<&str> = (0..)
            .zip(actions)
            .filter(|(column, _)| !row.get::<usize, bool>(*column))
            .map(|(_, a)| a)
            .collect();
        let tables: i64 = row.get(4);
        if tables == 0 {
            let line = Line::new(
                Mark::Warning,
                format!("publication {name:?} has no tables, so nothing is delivered"),
            );
            lines.push(line.remedy(format!("alter publication {quoted} add table …;")));
        } else if missing.is_empty() {
            lines.push(Line::new(
                Mark::Fine,
                format!("publication {name:?} publishes {tables} tables"),
            ));
        } else {
            let line = Line::new(
                Mark::Warning,
                format!("publication {name:?} leaves out {}", missing.join(", ")),
            );
            lines.push(line.remedy(format!(
                "alter publication {quoted} set (publish = 'insert, update, delete, truncate');"
            )));
        }
    }
    Ok(lines)
}

async fn roles(client: &Client) -> Result<Vec<Line>, Error> {
    let names: Vec<&str> = SUBSCRIBER_ROLES.to_vec();
    let rows = client
        .query(
            "select w.name, r.oid is not null, coalesce(r.rolbypassrls or r.rolsuper, false) \
             from pg_catalog.unnest($1::text[]) as w (name) left join pg_catalog.pg_roles as r on r.rolname = w.name",
            &[&names],
        )
        .await?;
    let mut lines = Vec::new();
    for row in rows {
        let (name, exists, bypasses): (&str, bool, bool) = (row.get(0), row.get(1), row.get(2));
        lines.push(match (name, exists, bypasses) {
            (_, false, _) => Line::new(Mark::Failure, format!("role {name} does not exist"))
                .remedy("walcast setup"),
            ("service_role", true, false) => Line::new(
                Mark::Warning,
                "service_role does not bypass row-level security: it sees what policies show to it",
            )
            .remedy("alter role service_role bypassrls;"),
            ("anon" | "authenticated", true, true) => Line::new(
                Mark::Failure,
                format!("role {name} bypasses row-level security: its subscribers see every row"),
            )
            .remedy(format!("alter role {name} nobypassrls;")),
            _ => Line::new(Mark::Fine, format!("role {name}")),
        });
    }
    Ok(lines)
}

async fn functions(client: &Client) -> Result<Vec<Line>, Error> {
    let mut lines = Vec::new();
    for name in ["auth.uid()", "auth.role()", "auth.email()", "auth.jwt()"] {
        let row = client
            .query_one(
                "select pg_catalog.to_regprocedure($1) is not null",
                &[&name],
            )
            .await?;
        lines.push(if row.get(0) {
            Line::new(Mark::Fine, format!("function {name}"))
        } else {
            Line::new(
                Mark::Warning,
                format!("function {name} does not exist; policies that call it raise"),
            )
            .remedy("walcast setup")
        });
    }
    Ok(lines)
}

async fn event_triggers(client: &Client) -> Result<Vec<Line>, Error> {
    let row = client
        .query_one(
            "select pg_catalog.count(*) from pg_catalog.pg_event_trigger \
             where evtname in ('walcast_ddl', 'walcast_drop') and evtenabled = 'A'",
            &[],
        )
        .await?;
    let installed: i64 = row.get(0);
    Ok(vec![if installed == 2 {
        Line::new(Mark::Fine, "schema changes are announced by event triggers")
    } else {
        Line::new(Mark::Warning, "no event triggers: schema changes are noticed by comparing the catalog with each batch")
            .remedy("as a superuser: walcast setup")
    }])
}

/// A published table, as far as it can be set up wrongly.
struct PublishedTable {
    name: String,
    quoted: String,
    row_security: bool,
    policies: i64,
    key_types: Vec<String>,
    readers: Vec<String>,
}

async fn tables(client: &Client, config: &Config) -> Result<Vec<Line>, Error> {
    let names: Vec<&str> = SUBSCRIBER_ROLES.to_vec();
    let rows = client
        .query(
            "select n.nspname::text, c.relname::text, c.relrowsecurity, \
                (select pg_catalog.count(*) from pg_catalog.pg_policy as p where p.polrelid = c.oid and p.polcmd in ('r', '*')), \
                array(select pg_catalog.format_type(a.atttypid, null) from pg_catalog.pg_index as i \
                      join pg_catalog.pg_attribute as a on a.attrelid = i.indrelid and a.attnum = any (i.indkey) \
                      where i.indrelid = c.oid and i.indisprimary), \
                array(select r.rolname::text from pg_catalog.pg_roles as r where r.rolname = any ($2::text[]) \
                      and pg_catalog.has_schema_privilege(r.oid, n.oid, 'usage') \
                      and pg_catalog.has_any_column_privilege(r.oid, c.oid, 'select') order by 1) \
             from pg_catalog.pg_class as c join pg_catalog.pg_namespace as n on n.oid = c.relnamespace \
             where exists (select from pg_catalog.pg_publication_tables as t \
                           where t.pubname = any ($1) and t.schemaname = n.nspname and t.tablename = c.relname) \
             order by 1, 2",
            &[&config.publications, &names],
        )
        .await?;
    let mut lines = Vec::new();
    for row in rows {
        let (schema, table): (String, String) = (row.get(0), row.get(1));
        let table = PublishedTable {
            name: format!("{schema}.{table}"),
            quoted: format!("{}.{}", quote_identifier(&schema), quote_identifier(&table)),
            row_security: row.get(2),
            policies: row.get(3),
            key_types: row.get(4),
            readers: row.get(5),
        };
        let problems = table.problems(config.deletes);
        if problems.is_empty() {
            lines.push(Line::new(Mark::Fine, format!("table {}", table.name)));
        }
        lines.extend(problems);
    }
    Ok(lines)
}

impl PublishedTable {
    fn problems(&self, deletes: Deletes) -> Vec<Line> {
        let Self { name, quoted, .. } = self;
        let mut lines = Vec::new();
        let mut warn = |text: String, remedy: String| {
            lines.push(Line::new(Mark::Warning, text).remedy(remedy))
        };
        if self.key_types.is_empty() {
            warn(
                format!(
                    "{name} has no primary key: under row-level security its changes are not delivered"
                ),
                format!("alter table {quoted} add primary key (…);"),
            );
        }
        if self.readers.is_empty() {
            warn(
                format!("no subscriber role may read {name}: nobody receives its changes"),
                format!("grant select on {quoted} to authenticated;"),
            );
        }
        if !self.row_security && self.readers.iter().any(|reader| reader != "service_role") {
            warn(
                format!(
                    "row-level security is off on {name}: {} see every row",
                    self.readers.join(", ")
                ),
                format!("alter table {quoted} enable row level security;"),
            );
        }
        if self.row_security && self.policies == 0 {
            warn(
                format!(
                    "{name} has row-level security but no policy for reading: nobody sees a row"
                ),
                format!("create policy \"…\" on {quoted} for select using (…);"),
            );
        }
        let meaningless =
            |name: &String| matches!(name.as_str(), "uuid" | "bigint" | "integer" | "smallint");
        if self.row_security && deletes == Deletes::Key && !self.key_types.iter().all(meaningless) {
            warn(
                format!(
                    "the key of {name} ({}) may carry meaning, and a DELETE shows it to every subscriber of the table",
                    self.key_types.join(", ")
                ),
                "WALCAST_DELETES=withhold, or a key of type uuid or bigint".to_owned(),
            );
        }
        lines
    }
}

/// The difference between the two clocks; half of the way there and back is taken for the way there.
async fn skew(client: &Client) -> Result<Line, Error> {
    let before = clock::unix_micros();
    let row = client
        .query_one(
            "select (extract(epoch from pg_catalog.clock_timestamp()) * 1000000)::bigint",
            &[],
        )
        .await?;
    let after = clock::unix_micros();
    let theirs: i64 = row.get(0);
    let ours = before.midpoint(after);
    let skew = theirs.saturating_sub(ours);
    let milliseconds = skew / 1000;
    Ok(if skew.abs() > SKEW_MAX_MICROS {
        Line::new(
            Mark::Warning,
            format!(
                "the database's clock is {milliseconds} ms away from ours; tokens expire by ours"
            ),
        )
        .remedy("synchronise both clocks (NTP)")
    } else {
        Line::new(
            Mark::Fine,
            format!("the clocks agree ({milliseconds} ms apart)"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> PublishedTable {
        PublishedTable {
            name: "public.t".to_owned(),
            quoted: "\"public\".\"t\"".to_owned(),
            row_security: true,
            policies: 1,
            key_types: vec!["uuid".to_owned()],
            readers: vec!["authenticated".to_owned()],
        }
    }

    #[track_caller]
    fn check(table: &PublishedTable, expected: &[&str]) {
        let texts: Vec<String> = table
            .problems(Deletes::Key)
            .into_iter()
            .map(|line| line.text)
            .collect();
        assert_eq!(texts.len(), expected.len(), "{texts:?}");
        for (text, expected) in texts.iter().zip(expected) {
            assert!(text.contains(expected), "{text}");
        }
    }

    #[test]
    fn each_way_to_set_a_table_up_wrongly_is_named() {
        check(&table(), &[]);
        check(
            &PublishedTable {
                key_types: vec![],
                ..table()
            },
            &["no primary key"],
        );
        check(
            &PublishedTable {
                readers: vec![],
                ..table()
            },
            &["nobody receives"],
        );
        check(
            &PublishedTable {
                policies: 0,
                ..table()
            },
            &["no policy"],
        );
        check(
            &PublishedTable {
                row_security: false,
                ..table()
            },
            &["is off"],
        );
        check(
            &PublishedTable {
                key_types: vec!["text".to_owned()],
                ..table()
            },
            &["may carry meaning"],
        );
        let trusted = vec!["service_role".to_owned()];
        check(
            &PublishedTable {
                row_security: false,
                readers: trusted,
                ..table()
            },
            &[],
        );
    }

    #[test]
    fn keys_that_are_withheld_may_carry_meaning() {
        let table = PublishedTable {
            key_types: vec!["text".to_owned()],
            ..table()
        };
        assert_eq!(table.problems(Deletes::Withhold), []);
    }
}
