//! What compiled policies need to know of the database (*io*): the schema, and from which commit on it holds.
//!
//! Read right after a catalog, and only good together with it: the fingerprint is read again at the end, and must be the
//! catalog's still.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use tokio_postgres::types::{ToSql, Type as WireType};
use tokio_postgres::{Client, Error};

use crate::catalog;
use crate::change::{Lsn, Oid};
use crate::policy::schema::{self, Schema};
use crate::shadow::{self, Prints};

/// The state of the database under one fingerprint.
#[derive(Debug)]
pub(super) struct Knowledge {
    /// Of the catalog that it goes with.
    pub(super) fingerprint: Box<str>,
    /// The same without what a TRUNCATE of a published table moves.
    pub(super) core: Box<str>,
    /// All that the compiler needs.
    pub(super) schema: Schema,
    /// It was so when this was the end of the WAL. For a commit from here on, which is released under the same
    /// fingerprint, it was so at that commit.
    pub(super) from: Lsn,
    /// Settings that functions and policies name and that have no value in a session of the login role.
    pub(super) unset: HashSet<Box<str>>,
    /// `search_path` of a session names the schema of the current role.
    pub(super) searches_user: bool,
    /// Tells which tables were altered since they were read.
    pub(super) prints: Arc<Prints>,
}

/// Names of settings that are looked at.
const NAMES_MAX: usize = 5_000;

/// `$1` names in lower case. A value may come from the server's files, the database or the login role; those of the last
/// two hold for sessions that begin later.
const UNSET: &str = "
    select named.name
    from pg_catalog.unnest($1::pg_catalog.text[]) named (name)
    where pg_catalog.current_setting(named.name, true) is null
      and not exists (
        select from pg_catalog.pg_db_role_setting s
        cross join lateral pg_catalog.unnest(s.setconfig) c (setting)
        where pg_catalog.lower(pg_catalog.split_part(c.setting, '=', 1)) = named.name
      )";

/// Reads it; `None` if the database is no longer what the fingerprint stands for, or its session is of a kind that is not
/// understood.
///
/// Not cancel safe: a dropped call leaves the connection inside a transaction.
pub(super) async fn load(
    client: &Client,
    publications: &[String],
    fingerprint: &str,
) -> Result<Option<Knowledge>, Error> {
    let path = client
        .query_typed("select pg_catalog.current_setting('search_path')", &[])
        .await?;
    let path: Option<&str> = path.first().and_then(|row| row.try_get(0).ok());
    let Some(path) = path.and_then(search_path) else {
        return Ok(None);
    };
    let searches_user = path.contains(&"$user");
    let path: Vec<&str> = path.into_iter().filter(|name| *name != "$user").collect();
    let schema = match schema::load(client, &path).await {
        Ok(schema) => schema,
        Err(schema::LoadError(error)) => return Err(error),
    };
    let names: Vec<String> = named_settings(&schema).into_iter().collect();
    let names: (&(dyn ToSql + Sync), WireType) = (&names, WireType::TEXT_ARRAY);
    // A setting that only a superuser may see makes this fail: then the value of none is known.
    let unset = match client.query_typed(UNSET, &[names]).await {
        Ok(rows) => rows
            .iter()
            .filter_map(|row| row.try_get::<_, &str>(0).ok().map(Into::into))
            .collect(),
        Err(error) if client.is_closed() => return Err(error),
        Err(_refused) => HashSet::new(),
    };
    let tables: Vec<Oid> = (schema.tables.values())
        .filter(|table| table.permanent && matches!(table.kind, b'r' | b'p'))
        .map(|table| table.oid)
        .collect();
    let prints = Arc::new(shadow::prints(client, publications, &tables).await?);
    let publications = publications.to_vec();
    let publications: (&(dyn ToSql + Sync), WireType) = (&publications, WireType::TEXT_ARRAY);
    // The snapshot is the statement's own and therefore older than the position.
    let again = format!(
        "select ({}), pg_catalog.pg_current_wal_insert_lsn()::text, ({})",
        catalog::FINGERPRINT_SQL,
        catalog::core_sql(),
    );
    let rows = client
        .query_typed(&again, &[publications, (&true, WireType::BOOL)])
        .await?;
    let Some(row) = rows.first() else {
        return Ok(None);
    };
    if row.try_get::<_, &str>(0)? != fingerprint {
        return Ok(None);
    }
    let Ok(from) = row.try_get::<_, &str>(1)?.parse::<Lsn>() else {
        return Ok(None);
    };
    Ok(Some(Knowledge {
        fingerprint: fingerprint.into(),
        core: row.try_get::<_, &str>(2)?.into(),
        schema,
        from,
        unset,
        searches_user,
        prints,
    }))
}

/// The names of a `search_path`; `None` if one is spelt in a way that is not understood.
fn search_path(text: &str) -> Option<Vec<&str>> {
    let plain = |name: &&str| {
        !name.is_empty()
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$')
    };
    let name = |name| -> Option<&str> {
        let name = str::trim(name);
        let quoted = name
            .strip_prefix('"')
            .and_then(|name| name.strip_suffix('"'));
        match quoted {
            Some(name) => Some(name).filter(plain),
            None => Some(name)
                .filter(plain)
                .filter(|name| !name.bytes().any(|byte| byte.is_ascii_uppercase())),
        }
    };
    if text.trim().is_empty() || text.trim() == "\"\"" {
        return Some(Vec::new());
    }
    text.split(',').map(name).collect()
}

/// Whatever looks like the name of a custom setting in the functions and policies of users.
fn named_settings(schema: &Schema) -> BTreeSet<String> {
    let bodies = schema
        .functions
        .values()
        .filter(|function| function.oid >= 16384)
        .map(|function| &*function.body);
    let quals = schema
        .tables
        .values()
        .flat_map(|table| &table.policies)
        .filter_map(|policy| policy.qual.as_deref());
    bodies
        .chain(quals)
        .flat_map(|text| text.split('\''))
        .filter(|piece| is_custom(piece))
        .map(str::to_ascii_lowercase)
        .take(NAMES_MAX)
        .collect()
}

fn is_custom(name: &str) -> bool {
    let is_word = |word: &str| {
        !word.is_empty()
            && !word.starts_with(|c: char| c.is_ascii_digit())
            && word
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$')
    };
    name.contains('.') && name.len() < 128 && name.split('.').all(is_word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn search_paths_are_read_or_refused() {
        let read = |text| search_path(text).map(|names| names.join(" "));
        assert_eq!(
            read("\"$user\", public, extensions").as_deref(),
            Some("$user public extensions")
        );
        assert_eq!(read("\"\"").as_deref(), Some(""));
        assert_eq!(read("\"a,b\", public"), None);
        assert_eq!(read("Public"), None);
    }

    #[test]
    fn custom_settings_are_told_from_other_texts() {
        assert!(is_custom("request.jwt.claim.sub"));
        for other in ["public", "a b.c", "1.5", ".a", "a..b", ""] {
            assert!(!is_custom(other), "{other}");
        }
    }
}
