//! What the login role of the server needs of the database, and what of it is missing. `setup` grants it, `check` names it.

use tokio_postgres::Client;

use crate::database::quote_identifier;

/// The roles that subscribers' tokens name.
pub(super) const SUBSCRIBER_ROLES: [&str; 3] = ["anon", "authenticated", "service_role"];

/// One thing that the login role needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Need {
    /// A noun, to follow "found" or "missing".
    pub(super) what: String,
    pub(super) held: bool,
    /// The statement that grants it.
    pub(super) grant: String,
}

/// What `login`, which exists, needs to read and to ask.
///
/// # Errors
/// The catalog cannot be read.
pub(super) async fn needs(
    client: &Client,
    login: &str,
    publications: &[String],
) -> Result<Vec<Need>, tokio_postgres::Error> {
    let quoted = quote_identifier(login);
    let mut needs = memberships(client, login, &quoted).await?;
    needs.extend(own_schema(client, login, &quoted).await?);
    needs.extend(messages_schema(client, login, &quoted).await?);
    needs.extend(message_functions(client, login, &quoted).await?);
    needs.extend(tables(client, login, &quoted, publications).await?);
    Ok(needs)
}

/// REPLICATION, which managed services lend through a role of theirs. What looks at the slot checks it as well.
///
/// # Errors
/// The catalog cannot be read.
pub(super) async fn replication(
    client: &Client,
    login: &str,
) -> Result<Need, tokio_postgres::Error> {
    let row = client
        .query_one(
            "select r.rolreplication or r.rolsuper or exists (select from pg_catalog.pg_roles as lent \
                where lent.rolname = 'rds_replication' and pg_catalog.pg_has_role(r.oid, lent.oid, 'MEMBER')) \
             from pg_catalog.pg_roles as r where r.rolname = $1",
            &[&login],
        )
        .await?;
    Ok(Need {
        what: format!("{login}: REPLICATION"),
        held: row.get(0),
        grant: format!("alter role {} replication;", quote_identifier(login)),
    })
}

/// Postgres manual, "SET ROLE": membership, from Postgres 16 on granted with its SET option.
async fn memberships(
    client: &Client,
    login: &str,
    quoted: &str,
) -> Result<Vec<Need>, tokio_postgres::Error> {
    let roles: Vec<&str> = SUBSCRIBER_ROLES.to_vec();
    let rows = client
        .query(
            "select r.rolname::text, pg_catalog.pg_has_role($1, r.oid, \
                case when pg_catalog.current_setting('server_version_num')::int >= 160000 then 'SET' else 'MEMBER' end) \
             from pg_catalog.pg_roles as r where r.rolname = any ($2::text[]) order by r.rolname",
            &[&login, &roles],
        )
        .await?;
    let need = |row: &tokio_postgres::Row| {
        let role: String = row.get(0);
        Need {
            what: format!("{login}: may become {role}"),
            held: row.get(1),
            grant: format!("grant {} to {quoted};", quote_identifier(&role)),
        }
    };
    Ok(rows.iter().map(need).collect())
}

async fn own_schema(
    client: &Client,
    login: &str,
    quoted: &str,
) -> Result<Option<Need>, tokio_postgres::Error> {
    let row = client
        .query_opt(
            "select pg_catalog.has_schema_privilege($1, n.oid, 'usage') \
                and coalesce(pg_catalog.has_table_privilege($1, pg_catalog.to_regclass('walcast.slots'), 'select') \
                and pg_catalog.has_table_privilege($1, pg_catalog.to_regclass('walcast.slots'), 'insert') \
                and pg_catalog.has_table_privilege($1, pg_catalog.to_regclass('walcast.slots'), 'update'), false) \
             from pg_catalog.pg_namespace as n where n.nspname = 'walcast'",
            &[&login],
        )
        .await?;
    Ok(row.map(|row| Need {
        what: format!("{login}: reads and writes walcast.slots"),
        held: row.get(0),
        grant: format!(
            "grant usage on schema walcast to {quoted}; grant select, insert, update, delete on walcast.slots to {quoted};"
        ),
    }))
}

/// Names are looked up by the login before it becomes a subscriber. Where it inherits nothing it needs this itself.
async fn messages_schema(
    client: &Client,
    login: &str,
    quoted: &str,
) -> Result<Option<Need>, tokio_postgres::Error> {
    let row = client
        .query_opt(
            "select pg_catalog.has_schema_privilege($1, n.oid, 'usage') \
             from pg_catalog.pg_namespace as n where n.nspname = 'realtime'",
            &[&login],
        )
        .await?;
    Ok(row.map(|row| Need {
        what: format!("{login}: USAGE on schema realtime"),
        held: row.get(0),
        grant: format!("grant usage on schema realtime to {quoted};"),
    }))
}

/// The functions of `sql/message_functions.sql`, as far as they exist; `check` names those that do not.
async fn message_functions(
    client: &Client,
    login: &str,
    quoted: &str,
) -> Result<Vec<Need>, tokio_postgres::Error> {
    let rows = client
        .query(
            "select p.oid::pg_catalog.regprocedure::text, pg_catalog.has_function_privilege($1, p.oid, 'execute') \
                and pg_catalog.has_schema_privilege($1, p.pronamespace, 'usage') \
             from pg_catalog.pg_proc as p where p.pronamespace = pg_catalog.to_regnamespace('walcast')::oid \
                and p.proname in ('keep_message_partitions', 'probe_messages', 'replay_messages', 'store_message') \
             order by 1",
            &[&login],
        )
        .await?;
    let need = |row: &tokio_postgres::Row| {
        let function: String = row.get(0);
        Need {
            what: format!("{login}: EXECUTE on {function}"),
            held: row.get(1),
            grant: format!(
                "grant usage on schema walcast to {quoted}; grant execute on function {function} to {quoted};"
            ),
        }
    };
    Ok(rows.iter().map(need).collect())
}

async fn tables(
    client: &Client,
    login: &str,
    quoted: &str,
    publications: &[String],
) -> Result<Vec<Need>, tokio_postgres::Error> {
    let rows = client
        .query(
            "select distinct n.nspname::text, c.relname::text, \
                pg_catalog.has_schema_privilege($1, n.oid, 'usage') and pg_catalog.has_table_privilege($1, c.oid, 'select') \
             from pg_catalog.pg_publication_tables as t \
             join pg_catalog.pg_namespace as n on n.nspname = t.schemaname \
             join pg_catalog.pg_class as c on c.relnamespace = n.oid and c.relname = t.tablename \
             where t.pubname = any ($2) order by 1, 2",
            &[&login, &publications],
        )
        .await?;
    let need = |row: &tokio_postgres::Row| {
        let (schema, table): (String, String) = (row.get(0), row.get(1));
        let (schema_quoted, table_quoted) = (quote_identifier(&schema), quote_identifier(&table));
        Need {
            what: format!("{login}: SELECT on {schema}.{table}"),
            held: row.get(2),
            grant: format!(
                "grant usage on schema {schema_quoted} to {quoted}; grant select on {schema_quoted}.{table_quoted} to {quoted};"
            ),
        }
    };
    Ok(rows.iter().map(need).collect())
}

/// Published tables whose rows row-level security hides from `login` itself. Nothing that is served today needs to see
/// them: each question is asked as the subscriber.
///
/// # Errors
/// The catalog cannot be read.
pub(super) async fn hidden_tables(
    client: &Client,
    login: &str,
    publications: &[String],
) -> Result<Vec<String>, tokio_postgres::Error> {
    let rows = client
        .query(
            "select distinct t.schemaname || '.' || t.tablename \
             from pg_catalog.pg_publication_tables as t \
             join pg_catalog.pg_namespace as n on n.nspname = t.schemaname \
             join pg_catalog.pg_class as c on c.relnamespace = n.oid and c.relname = t.tablename \
             join pg_catalog.pg_roles as r on r.rolname = $1 \
             where t.pubname = any ($2) and c.relrowsecurity and not r.rolsuper and not r.rolbypassrls \
                and (c.relforcerowsecurity or not pg_catalog.pg_has_role(r.oid, c.relowner, 'USAGE')) \
             order by 1",
            &[&login, &publications],
        )
        .await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}
