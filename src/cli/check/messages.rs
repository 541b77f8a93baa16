//! What `walcast check` says about `realtime.messages`: broadcasts from the database, and private channels.

use tokio_postgres::{Client, Error};

use crate::cli::login::SUBSCRIBER_ROLES;
use crate::cli::output::{Line, Mark};
use crate::cli::setup::PARTITION_PRESENT;

/// What somebody would miss.
struct Lack {
    what: &'static str,
    remedy: &'static str,
    /// A boolean SQL expression.
    present: &'static str,
}

const LACKS: &[Lack] = &[
    Lack {
        what: "today's partition of realtime.messages is missing: nothing can be broadcast from the database, and private \
               channels are closed",
        remedy: "select walcast.keep_message_partitions();",
        present: PARTITION_PRESENT,
    },
    Lack {
        what: "publication supabase_realtime_messages_publication does not exist: broadcasts from the database are not \
               delivered",
        remedy: "create publication supabase_realtime_messages_publication for table realtime.messages\n  \
                 with (publish = 'insert', publish_via_partition_root = true);",
        present: "exists (select from pg_catalog.pg_publication where pubname = 'supabase_realtime_messages_publication')",
    },
    Lack {
        what: "publication supabase_realtime_messages_publication leaves out realtime.messages",
        remedy: "alter publication supabase_realtime_messages_publication add table realtime.messages;",
        present: "not exists (select from pg_catalog.pg_publication where pubname = 'supabase_realtime_messages_publication') \
                  or exists (select from pg_catalog.pg_publication_tables as t \
                     where t.pubname = 'supabase_realtime_messages_publication' and t.schemaname = 'realtime' \
                     and t.tablename like 'messages%')",
    },
    Lack {
        what: "functions of sql/messages.sql are missing: applications cannot broadcast with realtime.send and its like",
        remedy: "walcast setup",
        present: "pg_catalog.to_regprocedure('realtime.topic()') is not null \
                  and pg_catalog.to_regprocedure('realtime.send(jsonb, text, text, boolean)') is not null \
                  and pg_catalog.to_regprocedure('realtime.send_binary(bytea, text, text, boolean)') is not null \
                  and pg_catalog.to_regprocedure( \
                    'realtime.broadcast_changes(text, text, text, text, text, record, record, text)') is not null",
    },
    Lack {
        what: "functions of sql/message_functions.sql are missing: nothing is replayed or stored, and nobody looks after the \
               partitions of realtime.messages",
        remedy: "walcast setup",
        present: "pg_catalog.to_regprocedure('walcast.keep_message_partitions()') is not null \
                  and pg_catalog.to_regprocedure('walcast.probe_messages(text, uuid, uuid)') is not null \
                  and pg_catalog.to_regprocedure('walcast.replay_messages(text, bigint, integer, uuid[])') is not null \
                  and pg_catalog.to_regprocedure('walcast.store_message(uuid, text, text, text, bytea, integer)') is not null",
    },
    Lack {
        what: "row-level security is off on realtime.messages: everybody may use every private channel",
        remedy: "alter table realtime.messages enable row level security;",
        present: "select relrowsecurity from pg_catalog.pg_class where oid = pg_catalog.to_regclass('realtime.messages')",
    },
];

/// Everything about `realtime.messages`.
///
/// # Errors
/// The catalog cannot be read.
pub(super) async fn look(client: &Client) -> Result<Vec<Line>, Error> {
    if !holds(
        client,
        "pg_catalog.to_regclass('realtime.messages') is not null",
    )
    .await?
    {
        let text = "table realtime.messages does not exist: no private channels, no broadcasts from the database";
        return Ok(vec![Line::new(Mark::Warning, text).remedy("walcast setup")]);
    }
    let mut lines = Vec::new();
    for lack in LACKS {
        if !holds(client, lack.present).await? {
            lines.push(Line::new(Mark::Warning, lack.what).remedy(lack.remedy));
        }
    }
    lines.extend(rights(client).await?);
    if lines.is_empty() {
        lines.push(Line::new(Mark::Fine, "table realtime.messages"));
    }
    let closed = "select relrowsecurity and not exists (select from pg_catalog.pg_policy as p where p.polrelid = c.oid) \
                  from pg_catalog.pg_class as c where c.oid = pg_catalog.to_regclass('realtime.messages')";
    if holds(client, closed).await? {
        let text = "realtime.messages has no policies: private channels are closed to everybody but service_role";
        let remedy = "create policy \"…\" on realtime.messages for select to authenticated using (topic = …);";
        lines.push(Line::new(Mark::Note, text).remedy(remedy));
    }
    Ok(lines)
}

/// Subscriber roles that may not even ask.
async fn rights(client: &Client) -> Result<Option<Line>, Error> {
    let names: Vec<&str> = SUBSCRIBER_ROLES.to_vec();
    let rows = client
        .query(
            "select r.rolname::text from pg_catalog.pg_roles as r \
             where r.rolname = any ($1::text[]) and not ( \
                pg_catalog.has_schema_privilege(r.oid, pg_catalog.to_regnamespace('realtime')::oid, 'usage') \
                and pg_catalog.has_table_privilege(r.oid, pg_catalog.to_regclass('realtime.messages'), 'select') \
                and pg_catalog.has_table_privilege(r.oid, pg_catalog.to_regclass('realtime.messages'), 'insert')) \
             order by 1",
            &[&names],
        )
        .await?;
    let roles: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    let roles = roles.join(", ");
    Ok((!roles.is_empty()).then(|| {
        let text = format!("private channels are closed to {roles}: realtime.messages is not granted to them");
        Line::new(Mark::Warning, text).remedy(format!(
            "grant usage on schema realtime to {roles}; grant select, insert, update on realtime.messages to {roles};"
        ))
    }))
}

async fn holds(client: &Client, expression: &str) -> Result<bool, Error> {
    let question = format!("select coalesce(({expression}), false)");
    Ok(client.query_one(&question, &[]).await?.get(0))
}
