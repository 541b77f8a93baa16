//! Loads a table (*io*): what the catalogs say of it and its rows, in one snapshot.
//!
//! Follows the Postgres manual, "LOCK" and "Data Consistency Checks at the Application Level". The table is locked
//! before the snapshot is taken: a snapshot that is older than a TRUNCATE or a rewrite would find the table empty.

use tokio_postgres::types::{ToSql, Type as WireType};
use tokio_postgres::{Client, Row, SimpleQueryMessage};

use super::fit::{ColumnFacts, Facts, Misfit, PublishedFacts, fit};
use super::load_request::{LoadRequest, LoadResult, Loaded, Outcome};
use super::print::prints;
use super::spec::Spec;
use super::store::Store;
use crate::change::{Lsn, Snapshot};
use crate::database::quote_identifier;
use crate::policy::value::Oid;

/// No statement waits long for a lock: others would queue behind it. Rows that policies hide must raise, not be left
/// out.
const BEGIN: &str = "
    begin isolation level repeatable read read only;
    set local lock_timeout = '1s';
    set local search_path = '';
    set local row_security = off;
    set local jit = off";

const TABLE: &str = "
    select c.relkind::pg_catalog.text, c.relpersistence = 'p', c.oid < 16384 or n.nspname in ('pg_catalog', 'information_schema'),
      c.relispartition,
      c.relkind <> 'p' and exists (select from pg_catalog.pg_inherits h where h.inhparent = c.oid),
      c.relreplident::pg_catalog.text,
      exists (select from pg_catalog.pg_partition_tree(c.oid) p join pg_catalog.pg_class l on l.oid = p.relid
        where p.isleaf and c.relkind = 'p'
          and (l.relreplident <> c.relreplident or l.relkind <> 'r' or l.relpersistence <> 'p')),
      array(select k.number
        from pg_catalog.pg_index i
        cross join lateral pg_catalog.unnest(i.indkey::pg_catalog.int2[]) with ordinality as k (number, position)
        where i.indrelid = c.oid and i.indisvalid and i.indimmediate and k.position <= i.indnkeyatts
          and case c.relreplident when 'i' then i.indisreplident else i.indisprimary end
        order by k.position),
      array(select p.relid::pg_catalog.oid from pg_catalog.pg_partition_tree(c.oid) p where p.isleaf and c.relkind = 'p')
    from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    where c.oid = $1";

const COLUMNS: &str = "
    select a.attname::pg_catalog.text, a.attnum, a.atttypid, a.atttypmod, a.attgenerated <> ''
    from pg_catalog.pg_attribute a
    where a.attrelid = $1 and a.attnum > 0 and not a.attisdropped order by a.attnum";

/// `$1` publications, `$2` tables. What versions before 15 do not have is read through `to_jsonb`.
const PUBLISHED: &str = "
    select g.relid::pg_catalog.oid, p.pubinsert, p.pubupdate, p.pubdelete, p.pubtruncate,
      pg_catalog.to_jsonb(g) ->> 'qual' is not null, pg_catalog.to_jsonb(g) ->> 'attrs'
    from pg_catalog.pg_publication p
    cross join lateral pg_catalog.pg_get_publication_tables(p.pubname::pg_catalog.text) g
    where p.pubname::pg_catalog.text = any ($1::pg_catalog.text[]) and g.relid = any ($2::pg_catalog.oid[])";

/// Rows that are read at once.
const CHUNK: u32 = 5_000;

/// Loads one table. The session must have begun with [`SESSION_SETTINGS`](crate::database::SESSION_SETTINGS), as the
/// stream does, and its role must read the whole table.
///
/// Not cancel safe: a dropped call leaves the connection inside its transaction.
pub async fn load(client: &Client, publications: &[String], request: LoadRequest) -> LoadResult {
    let outcome = read(client, publications, &request).await;
    let left = client.batch_execute("rollback").await;
    let outcome = match (outcome, left) {
        (Ok(outcome), Ok(())) => outcome,
        (Err(error), _) | (_, Err(error)) => Outcome::Failed(describe(&error)),
    };
    LoadResult {
        table: request.spec.table,
        generation: request.generation,
        outcome,
    }
}

/// Why a table could not be followed, if it were wanted; `None`: nothing is against it. Reads the catalogs only.
///
/// # Errors
/// A query failed.
pub async fn misfit(
    client: &Client,
    publications: &[String],
    spec: &Spec,
) -> Result<Option<Box<str>>, tokio_postgres::Error> {
    let Some(facts) = facts(client, publications, spec.table).await? else {
        return Ok(Some("it is gone".into()));
    };
    Ok(match fit(spec, &facts) {
        Ok(_) => None,
        Err(Misfit::Unfit(reason)) => Some(reason),
        Err(Misfit::Outdated) => Some("it has changed meanwhile".into()),
    })
}

fn describe(error: &tokio_postgres::Error) -> Box<str> {
    match error.as_db_error() {
        Some(error) => format!("{} ({})", error.message(), error.code().code()).into(),
        None => error.to_string().into(),
    }
}

async fn read(
    client: &Client,
    publications: &[String],
    request: &LoadRequest,
) -> Result<Outcome, tokio_postgres::Error> {
    let spec = &request.spec;
    let table = format!(
        "{}.{}",
        quote_identifier(&spec.schema),
        quote_identifier(&spec.name)
    );
    client.batch_execute(BEGIN).await?;
    client
        .batch_execute(&format!("lock table {table} in access share mode"))
        .await?;
    let Some(snapshot) = text(client, "select pg_catalog.pg_current_snapshot()::text").await?
    else {
        return Ok(Outcome::Failed("no snapshot".into()));
    };
    let lsn = text(
        client,
        "select pg_catalog.pg_current_wal_insert_lsn()::text",
    )
    .await?;
    let (Ok(snapshot), Some(Ok(lsn))) = (
        snapshot.parse::<Snapshot>(),
        lsn.map(|lsn| lsn.parse::<Lsn>()),
    ) else {
        return Ok(Outcome::Failed("an unknown form of snapshot".into()));
    };
    let print = prints(client, publications, &[spec.table]).await?;
    let Some(facts) = facts(client, publications, spec.table).await? else {
        return Ok(Outcome::Failed("the table is gone".into()));
    };
    let found = match fit(spec, &facts) {
        Ok(found) => found,
        Err(Misfit::Unfit(reason)) => return Ok(Outcome::Unfit(reason)),
        Err(Misfit::Outdated) => {
            return Ok(Outcome::Failed("the table has changed meanwhile".into()));
        }
    };
    let names: Vec<String> = (found.layout.columns.iter())
        .map(|kept| format!("t.{}", quote_identifier(&kept.name)))
        .collect();
    let width = names.len();
    client
        .batch_execute(&format!(
            "declare walcast_shadow no scroll cursor for select {} from {table} t",
            names.join(", ")
        ))
        .await?;
    let mut store = Store::new(found.layout.into());
    loop {
        let chunk = client
            .simple_query(&format!("fetch forward {CHUNK} from walcast_shadow"))
            .await?;
        let mut is_end = true;
        for message in chunk {
            let SimpleQueryMessage::Row(row) = message else {
                continue;
            };
            is_end = false;
            let texts = (0..width).map(|column| row.get(column));
            let added = store.layout().row_of_texts(texts);
            if let Err(reason) = added.and_then(|row| store.insert(row)) {
                return Ok(Outcome::Failed(reason));
            }
        }
        if store.bytes() > request.bytes_max {
            return Ok(Outcome::TooLarge);
        }
        if is_end {
            break;
        }
    }
    Ok(Outcome::Rows(Loaded {
        snapshot,
        lsn,
        store,
        leaves: found.leaves,
        print: print.into_values().next().unwrap_or_default(),
    }))
}

async fn text(client: &Client, sql: &str) -> Result<Option<String>, tokio_postgres::Error> {
    let messages = client.simple_query(sql).await?;
    Ok(messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    }))
}

async fn facts(
    client: &Client,
    publications: &[String],
    table: Oid,
) -> Result<Option<Facts>, tokio_postgres::Error> {
    let oid: (&(dyn ToSql + Sync), WireType) = (&table, WireType::OID);
    let rows = client
        .query_typed(TABLE, std::slice::from_ref(&oid))
        .await?;
    let Some(row) = rows.first() else {
        return Ok(None);
    };
    let leaves: Vec<Oid> = row.try_get(8)?;
    let names = publications.to_vec();
    let mut tables = leaves.clone();
    tables.push(table);
    let parameters: [(&(dyn ToSql + Sync), WireType); 2] = [
        (&names, WireType::TEXT_ARRAY),
        (&tables, WireType::OID_ARRAY),
    ];
    let published = client.query_typed(PUBLISHED, &parameters).await?;
    let columns = client
        .query_typed(COLUMNS, std::slice::from_ref(&oid))
        .await?;
    Ok(Some(Facts {
        kind: letter(row, 0)?,
        permanent: row.try_get(1)?,
        system: row.try_get(2)?,
        partition: row.try_get(3)?,
        inherited: row.try_get(4)?,
        identity: letter(row, 5)?,
        has_odd_leaves: row.try_get(6)?,
        key: row.try_get(7)?,
        columns: columns.iter().map(column).collect::<Result<_, _>>()?,
        leaves: leaves.into_iter().collect(),
        published: published
            .iter()
            .map(publication)
            .collect::<Result<_, _>>()?,
    }))
}

fn letter(row: &Row, index: usize) -> Result<u8, tokio_postgres::Error> {
    let text: &str = row.try_get(index)?;
    Ok(text.bytes().next().unwrap_or_default())
}

fn column(row: &Row) -> Result<ColumnFacts, tokio_postgres::Error> {
    Ok(ColumnFacts {
        name: row.try_get::<_, &str>(0)?.into(),
        number: row.try_get(1)?,
        type_oid: row.try_get(2)?,
        typmod: row.try_get(3)?,
        generated: row.try_get(4)?,
    })
}

fn publication(row: &Row) -> Result<PublishedFacts, tokio_postgres::Error> {
    // An int2vector, as JSON or as text: the numbers are all that is needed.
    let list: Option<&str> = row.try_get(6)?;
    let numbers = |list: &str| {
        list.split(|c: char| !c.is_ascii_digit())
            .filter_map(|number| number.parse().ok())
            .collect()
    };
    Ok(PublishedFacts {
        table: row.try_get(0)?,
        insert: row.try_get(1)?,
        update: row.try_get(2)?,
        delete: row.try_get(3)?,
        truncate: row.try_get(4)?,
        filtered: row.try_get(5)?,
        columns: list.map(numbers),
    })
}
