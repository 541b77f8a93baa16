//! `walcast setup`: prepares a database for `walcast serve`. Looks first, makes what is missing, looks again, and says what
//! became of each object. What exists is never changed, so it is safe on a database in use and safe to repeat.

mod objects;

use tokio_postgres::{Client, IsolationLevel};
use tokio_util::task::TaskTracker;

use super::login;
use super::output::{Line, Mark, sentence};
use crate::database::{ConnectError, Database};
pub(super) use objects::PARTITION_PRESENT;
use objects::{
    AUTH, CHANNEL_POLICIES, EVENT_TRIGGERS, MESSAGE_FUNCTIONS, MESSAGES, MESSAGING,
    MESSAGING_POLICIES, OWN_SCHEMA, PUBLICATION, ROLES, Script,
};

/// How long a statement waits for somebody else's lock before setup gives up on it.
const LOCK_TIMEOUT: &str = "set local lock_timeout = '10s'";

/// What `--messaging` adds.
const CHAT: [&Script; 3] = [&MESSAGING, &MESSAGING_POLICIES, &CHANNEL_POLICIES];

/// What to prepare.
#[derive(Clone, Debug)]
pub(super) struct Plan<'a> {
    /// Publications to make where missing; the first takes the messaging tables. Never empty.
    pub(super) publications: &'a [String],
    /// Whether to add the messaging schema and its policies.
    pub(super) messaging: bool,
    /// The role that the server logs in as; `None` is the role of this session.
    pub(super) login: Option<&'a str>,
}

/// Setup could not look at the database. What it could not *make* is a line of its report.
#[derive(Debug, thiserror::Error)]
pub(super) enum SetupError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("cannot read the catalog")]
    Catalog(#[from] tokio_postgres::Error),
    #[error(
        "there is no role {login:?}; as a superuser run: create role {} login replication password '…';",
        crate::database::quote_identifier(login)
    )]
    NoLogin { login: String },
}

/// Prepares the database; one line per object, in the order in which they were looked at.
///
/// # Errors
/// The database cannot be reached or read.
pub(super) async fn run(
    database: &Database,
    tasks: &TaskTracker,
    plan: &Plan<'_>,
) -> Result<Vec<Line>, SetupError> {
    let mut client = database.connect(tasks, "walcast setup").await?;
    let mut lines = Vec::new();
    let first = plan
        .publications
        .first()
        .map_or("supabase_realtime", String::as_str);
    for script in [&ROLES, &AUTH, &OWN_SCHEMA] {
        lines.extend(apply(&mut client, script, first).await?);
    }
    lines.extend(service_role(&client).await?);
    // Publications come before any slot: a slot cannot be read across a moment without them.
    for publication in plan.publications {
        lines.extend(apply(&mut client, &PUBLICATION, publication).await?);
    }
    for script in [&MESSAGES, &MESSAGE_FUNCTIONS] {
        lines.extend(apply(&mut client, script, first).await?);
    }
    if plan.messaging {
        for script in CHAT {
            lines.extend(apply(&mut client, script, first).await?);
        }
    }
    lines.extend(grant_needs(&client, plan).await?);
    lines.extend(apply(&mut client, &EVENT_TRIGGERS, first).await?);
    lines.extend(server_settings(&client).await?);
    Ok(lines)
}

/// All that `run` would run, for an administrator who wants to read it first.
pub(super) fn script(plan: &Plan<'_>) -> String {
    let first = plan
        .publications
        .first()
        .map_or("supabase_realtime", String::as_str);
    let mut text = String::from(
        "-- Run in the database that walcast is to serve, as a superuser. Safe to run twice.\n\n",
    );
    let name_publication = |name: &str| {
        format!(
            "set walcast.publication = '{}';\n",
            name.replace('\'', "''")
        )
    };
    for script in [&ROLES, &AUTH, &OWN_SCHEMA] {
        text.push_str(script.sql);
        text.push('\n');
    }
    for publication in plan.publications {
        text.push_str(&name_publication(publication));
        text.push_str(PUBLICATION.sql);
        text.push('\n');
    }
    for script in [&MESSAGES, &MESSAGE_FUNCTIONS] {
        text.push_str(script.sql);
        text.push('\n');
    }
    if plan.messaging {
        text.push_str(&name_publication(first));
        for script in CHAT {
            text.push_str(script.sql);
            text.push('\n');
        }
    }
    text.push_str(EVENT_TRIGGERS.sql);
    text
}

/// Runs one script unless all that it makes is there.
async fn apply(
    client: &mut Client,
    script: &Script,
    publication: &str,
) -> Result<Vec<Line>, SetupError> {
    let before = look(client, script, publication).await?;
    if before.iter().all(|present| *present) {
        return Ok(script
            .objects
            .iter()
            .map(|object| Line::new(Mark::Found, object.title(publication)))
            .collect());
    }
    let problem = execute(client, script.sql, publication)
        .await
        .err()
        .map(|error| sentence(&error));
    let after = look(client, script, publication).await?;
    let mut lines = Vec::new();
    for (object, (before, after)) in script.objects.iter().zip(before.into_iter().zip(after)) {
        let title = object.title(publication);
        lines.push(match (before, after) {
            (true, _) => Line::new(Mark::Found, title),
            (false, true) => Line::new(Mark::Created, title),
            (false, false) => {
                let reason = problem.as_deref().unwrap_or("it exists in another form");
                Line::new(script.when_missing, format!("{title} is missing: {reason}"))
                    .remedy(object.remedy(publication))
            }
        });
    }
    Ok(lines)
}

async fn execute(
    client: &mut Client,
    sql: &str,
    publication: &str,
) -> Result<(), tokio_postgres::Error> {
    let transaction = client
        .build_transaction()
        .isolation_level(IsolationLevel::ReadCommitted)
        .start()
        .await?;
    transaction.batch_execute(LOCK_TIMEOUT).await?;
    transaction
        .execute(
            "select pg_catalog.set_config('walcast.publication', $1, true)",
            &[&publication],
        )
        .await?;
    transaction.batch_execute(sql).await?;
    transaction.commit().await
}

async fn look(
    client: &Client,
    script: &Script,
    publication: &str,
) -> Result<Vec<bool>, tokio_postgres::Error> {
    let mut present = Vec::with_capacity(script.objects.len());
    for object in script.objects {
        let question = format!("select coalesce(({}), false), $1::text", object.present);
        present.push(client.query_one(&question, &[&publication]).await?.get(0));
    }
    Ok(present)
}

/// service_role bypasses policies only where whoever created it could say so.
async fn service_role(client: &Client) -> Result<Option<Line>, tokio_postgres::Error> {
    let question = "select from pg_catalog.pg_roles where rolname = 'service_role' and not (rolbypassrls or rolsuper)";
    Ok(client.query_opt(question, &[]).await?.map(|_row| {
        Line::new(
            Mark::Warning,
            "service_role does not bypass row-level security: it sees what policies show to it",
        )
        .remedy("alter role service_role bypassrls;")
    }))
}

async fn grant_needs(client: &Client, plan: &Plan<'_>) -> Result<Vec<Line>, SetupError> {
    let current: String = client
        .query_one("select current_user::text", &[])
        .await?
        .get(0);
    let login = plan.login.unwrap_or(&current);
    if client
        .query_opt(
            "select from pg_catalog.pg_roles where rolname = $1",
            &[&login],
        )
        .await?
        .is_none()
    {
        return Err(SetupError::NoLogin {
            login: login.to_owned(),
        });
    }
    let mut lines = Vec::new();
    let mut needs = vec![login::replication(client, login).await?];
    needs.extend(login::needs(client, login, plan.publications).await?);
    for need in needs {
        if need.held {
            lines.push(Line::new(Mark::Found, need.what));
            continue;
        }
        lines.push(match client.batch_execute(&need.grant).await {
            Ok(()) => Line::new(Mark::Created, need.what),
            Err(error) => Line::new(
                Mark::Failure,
                format!("{} is missing: {}", need.what, sentence(&error)),
            )
            .remedy(need.grant),
        });
    }
    let hidden = login::hidden_tables(client, login, plan.publications).await?;
    if !hidden.is_empty() {
        let text = format!(
            "row-level security hides {} from {login} itself; each question is asked as the subscriber, so serving needs \
             no more; to read these tables as {login} it would need BYPASSRLS",
            hidden.join(", ")
        );
        lines.push(Line::new(Mark::Note, text));
    }
    Ok(lines)
}

/// What only the server's administrator can change, because it takes a restart.
async fn server_settings(client: &Client) -> Result<Option<Line>, tokio_postgres::Error> {
    let level: String = client
        .query_one("select pg_catalog.current_setting('wal_level')", &[])
        .await?
        .get(0);
    Ok((level != "logical").then(|| {
        Line::new(
            Mark::Warning,
            format!(
                "wal_level is {level}; walcast needs logical, which takes a restart of Postgres"
            ),
        )
        .remedy("alter system set wal_level = 'logical';  -- then restart Postgres")
    }))
}
