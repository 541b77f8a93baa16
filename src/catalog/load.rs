//! Loads a [`Catalog`] from the database.
//!
//! *io*. The names of publications go in, the picture of what they publish comes out. Reads the system catalogs only, in
//! one read-only snapshot; writes nothing and needs no rights beyond connecting.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::slice;
use std::sync::Arc;

use tokio_postgres::types::{ToSql, Type as WireType};
use tokio_postgres::{Client, Row};
use tracing::warn;

use super::collation::{CollationFacts, DatabaseFacts};
use super::sql;
use super::{
    Access, AccessMark, Catalog, Collation, Column, Published, Role, Table, Type, TypeKind,
};
use crate::change::{Oid, ReplicaIdentity};

/// The picture could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A query failed; trying again may help.
    #[error("cannot read the system catalogs: {step}")]
    Query {
        /// What was being read.
        step: &'static str,
        /// What Postgres or the connection said.
        #[source]
        source: tokio_postgres::Error,
    },
}

/// Roles that are looked at. A superuser may become any role of the cluster, and each costs a look at every table; a role
/// beyond the bound is treated like one that may not be become.
const ROLES_MAX: usize = 2_000;

/// Takes a picture of what the publications of these names publish, in one REPEATABLE READ READ ONLY transaction.
///
/// A publication that does not exist contributes nothing. Privileges are read as of now, not of the snapshot, because
/// Postgres' own functions do so; where that makes the picture newer than its fingerprint, the next look at the
/// fingerprint tells. Not cancel safe: a call that is dropped leaves the connection inside its transaction.
///
/// # Errors
/// A query failed; the transaction is rolled back.
pub async fn load(
    client: &Client,
    publications: &[String],
    for_plans: bool,
) -> Result<Catalog, LoadError> {
    client
        .batch_execute(sql::BEGIN)
        .await
        .map_err(at("snapshot"))?;
    let catalog = read(client, publications, for_plans).await;
    let ended = client.batch_execute("rollback").await;
    let catalog = catalog?;
    ended.map_err(at("end of snapshot"))?;
    Ok(catalog)
}

fn at(step: &'static str) -> impl Fn(tokio_postgres::Error) -> LoadError {
    move |source| LoadError::Query { step, source }
}

/// The columns of each table, in attribute order.
type Columns = HashMap<Oid, Vec<Column>>;

async fn read(
    client: &Client,
    publications: &[String],
    for_plans: bool,
) -> Result<Catalog, LoadError> {
    let publications = publications.to_vec();
    let names: (&(dyn ToSql + Sync), WireType) = (&publications, WireType::TEXT_ARRAY);
    // First: what is read after it can only be newer.
    let fingerprint = query(
        client,
        "fingerprint",
        sql::FINGERPRINT_SQL,
        &[names.clone(), (&for_plans, WireType::BOOL)],
    )
    .await?;
    let messages = query(client, "broadcast messages", sql::MESSAGES, &[]).await?;
    let tables = query(client, "tables", sql::TABLES, &[names]).await?;
    let oids = column::<Oid>(&tables, 0).map_err(at("tables"))?;
    let oids: (&(dyn ToSql + Sync), WireType) = (&oids, WireType::OID_ARRAY);

    let columns = load_columns(client, &oids).await?;
    let keys = query(
        client,
        "primary keys",
        sql::PRIMARY_KEYS,
        slice::from_ref(&oids),
    )
    .await?;
    let types = load_types(client, &columns).await?;
    let roles = load_roles(client).await?;
    let access = load_access(client, &oids, &roles, &columns).await?;

    let mut catalog = Catalog {
        fingerprint: text(&fingerprint).map_err(at("fingerprint"))?,
        tables: assemble(&tables, columns, &keys, access).map_err(at("tables"))?,
        types,
        roles: BTreeMap::new(),
        access_marks: access_marks(&tables).map_err(at("tables"))?,
        messages: column::<Oid>(&messages, 0)
            .map_err(at("broadcast messages"))?
            .into_iter()
            .collect(),
    };
    for role in roles.into_values() {
        catalog.roles.insert(role.name, role.role);
    }
    Ok(catalog)
}

async fn query(
    client: &Client,
    step: &'static str,
    statement: &str,
    parameters: &[(&(dyn ToSql + Sync), WireType)],
) -> Result<Vec<Row>, LoadError> {
    client
        .query_typed(statement, parameters)
        .await
        .map_err(at(step))
}

fn column<T: for<'a> tokio_postgres::types::FromSql<'a>>(
    rows: &[Row],
    index: usize,
) -> Result<Vec<T>, tokio_postgres::Error> {
    rows.iter().map(|row| row.try_get(index)).collect()
}

fn text(rows: &[Row]) -> Result<Box<str>, tokio_postgres::Error> {
    let found = column::<Option<String>>(rows, 0)?.pop().flatten();
    Ok(found.unwrap_or_default().into())
}

async fn load_columns(
    client: &Client,
    tables: &(&(dyn ToSql + Sync), WireType),
) -> Result<Columns, LoadError> {
    const STEP: &str = "columns";
    let rows = query(client, STEP, sql::COLUMNS, slice::from_ref(tables)).await?;
    let used: BTreeSet<Oid> = column::<Oid>(&rows, 4)
        .map_err(at(STEP))?
        .into_iter()
        .collect();
    let collations = load_collations(client, &used).await?;
    let mut columns = Columns::new();
    for row in &rows {
        let read = || -> Result<_, tokio_postgres::Error> {
            let table: Oid = row.try_get(0)?;
            let collation: Oid = row.try_get(4)?;
            let column = Column {
                name: row.try_get::<_, &str>(2)?.into(),
                number: row.try_get(1)?,
                type_oid: row.try_get(3)?,
                collation: collations
                    .get(&collation)
                    .cloned()
                    .unwrap_or(Collation::None),
                generated: row.try_get(5)?,
            };
            Ok((table, column))
        };
        let (table, column) = read().map_err(at(STEP))?;
        columns.entry(table).or_default().push(column);
    }
    Ok(columns)
}

async fn load_collations(
    client: &Client,
    used: &BTreeSet<Oid>,
) -> Result<HashMap<Oid, Collation>, LoadError> {
    const STEP: &str = "collations";
    let used: Vec<Oid> = used.iter().copied().filter(|oid| *oid != 0).collect();
    let rows = query(
        client,
        STEP,
        sql::COLLATIONS,
        &[(&used, WireType::OID_ARRAY)],
    )
    .await?;
    rows.iter()
        .map(|row| {
            let facts = CollationFacts {
                name: row.try_get(1)?,
                provider: row.try_get(2)?,
                deterministic: row.try_get(3)?,
                order: row.try_get(4)?,
                case: row.try_get(5)?,
                locale: row.try_get(6)?,
            };
            let database = DatabaseFacts {
                provider: row.try_get(7)?,
                order: row.try_get(8)?,
                case: row.try_get(9)?,
                locale: row.try_get(10)?,
                encoding: row.try_get(11)?,
            };
            Ok((row.try_get(0)?, facts.collation(&database)))
        })
        .collect::<Result<_, tokio_postgres::Error>>()
        .map_err(at(STEP))
}

async fn load_types(
    client: &Client,
    columns: &Columns,
) -> Result<HashMap<Oid, Arc<Type>>, LoadError> {
    const STEP: &str = "types";
    let used: BTreeSet<Oid> = (columns.values().flatten())
        .map(|column| column.type_oid)
        .collect();
    let used: Vec<Oid> = used.into_iter().collect();
    let rows = query(client, STEP, sql::TYPES, &[(&used, WireType::OID_ARRAY)]).await?;
    rows.iter()
        .map(|row| {
            let oid = row.try_get(0)?;
            let found = Type {
                oid,
                name: row.try_get::<_, &str>(1)?.into(),
                sql_name: row.try_get::<_, &str>(2)?.into(),
                kind: type_kind(row)?,
            };
            Ok((oid, Arc::new(found)))
        })
        .collect::<Result<_, tokio_postgres::Error>>()
        .map_err(at(STEP))
}

fn type_kind(row: &Row) -> Result<TypeKind, tokio_postgres::Error> {
    if let Some(element) = row.try_get::<_, Option<Oid>>(4)? {
        let delimiter: Option<&str> = row.try_get(5)?;
        return Ok(TypeKind::Array {
            element,
            delimiter: delimiter
                .and_then(|text| text.bytes().next())
                .unwrap_or(b','),
        });
    }
    Ok(match row.try_get::<_, &str>(3)? {
        "d" => TypeKind::Domain {
            base: row.try_get(6)?,
        },
        "e" => {
            let labels: Vec<&str> = row.try_get(7)?;
            TypeKind::Enum {
                labels: labels.into_iter().map(Into::into).collect(),
            }
        }
        "c" => {
            let names: Vec<&str> = row.try_get(8)?;
            let types: Vec<Oid> = row.try_get(9)?;
            TypeKind::Composite {
                fields: names.into_iter().map(Into::into).zip(types).collect(),
            }
        }
        "r" => TypeKind::Range,
        "m" => TypeKind::Multirange,
        _ => TypeKind::Base,
    })
}

/// A role and its name.
struct NamedRole {
    name: Box<str>,
    role: Role,
}

async fn load_roles(client: &Client) -> Result<HashMap<Oid, NamedRole>, LoadError> {
    const STEP: &str = "roles";
    let bound = ROLES_MAX.saturating_add(1).to_string();
    let rows = query(client, STEP, sql::ROLES, &[(&bound, WireType::TEXT)]).await?;
    if rows.len() > ROLES_MAX {
        warn!(
            bound = ROLES_MAX,
            "the login role may become more roles than are looked at; later ones cannot subscribe"
        );
    }
    rows.iter()
        .take(ROLES_MAX)
        .map(|row| {
            let role = NamedRole {
                name: row.try_get::<_, &str>(1)?.into(),
                role: Role {
                    bypasses_row_security: row.try_get(2)?,
                },
            };
            Ok((row.try_get(0)?, role))
        })
        .collect::<Result<_, tokio_postgres::Error>>()
        .map_err(at(STEP))
}

/// What each role may read, by table.
type Grants = HashMap<Oid, BTreeMap<Box<str>, Access>>;

async fn load_access(
    client: &Client,
    tables: &(&(dyn ToSql + Sync), WireType),
    roles: &HashMap<Oid, NamedRole>,
    columns: &Columns,
) -> Result<Grants, LoadError> {
    const STEP: &str = "privileges";
    let oids: Vec<Oid> = roles.keys().copied().collect();
    let parameters = [tables.clone(), (&oids as _, WireType::OID_ARRAY)];
    let rows = query(client, STEP, sql::ACCESS, &parameters).await?;
    let mut grants = Grants::new();
    for row in &rows {
        let read = || -> Result<_, tokio_postgres::Error> {
            Ok((
                row.try_get::<_, Oid>(0)?,
                row.try_get::<_, Oid>(1)?,
                // A table that was dropped meanwhile has no answer; then everything is denied.
                row.try_get::<_, Option<bool>>(2)?.unwrap_or(true),
                row.try_get::<_, Option<Vec<i16>>>(3)?,
            ))
        };
        let (role, table, policies_apply, listed) = read().map_err(at(STEP))?;
        let (Some(role), Some(columns)) = (roles.get(&role), columns.get(&table)) else {
            continue;
        };
        let granted = |number: i16| (listed.as_ref()).is_none_or(|listed| listed.contains(&number));
        let access = Access {
            columns: columns
                .iter()
                .map(|column| granted(column.number))
                .collect(),
            policies_apply,
        };
        if access.columns.contains(&true) {
            let table = grants.entry(table).or_default();
            table.insert(role.name.clone(), access);
        }
    }
    Ok(grants)
}

fn access_marks(rows: &[Row]) -> Result<HashMap<Oid, AccessMark>, tokio_postgres::Error> {
    let mark = |row: &Row| {
        let mark = AccessMark {
            rights: row.try_get(9)?,
            file: row.try_get(10)?,
        };
        Ok((row.try_get(0)?, mark))
    };
    rows.iter().map(mark).collect()
}

fn assemble(
    rows: &[Row],
    mut columns: Columns,
    keys: &[Row],
    mut grants: Grants,
) -> Result<HashMap<Oid, Arc<Table>>, tokio_postgres::Error> {
    let mut numbers: HashMap<Oid, Vec<i16>> = HashMap::new();
    for row in keys {
        let table: Oid = row.try_get(0)?;
        numbers.entry(table).or_default().push(row.try_get(1)?);
    }
    rows.iter()
        .map(|row| {
            let oid: Oid = row.try_get(0)?;
            let columns = columns.remove(&oid).unwrap_or_default();
            // All columns of the key or none: half a key identifies nothing.
            let primary_key = (numbers.remove(&oid).unwrap_or_default().iter())
                .map(|number| columns.iter().position(|column| column.number == *number))
                .collect::<Option<Box<[usize]>>>()
                .unwrap_or_default();
            let table = Table {
                oid,
                schema: row.try_get::<_, &str>(1)?.into(),
                name: row.try_get::<_, &str>(2)?.into(),
                columns: columns.into(),
                primary_key,
                identity: match row.try_get::<_, &str>(3)? {
                    "f" => ReplicaIdentity::Full,
                    "i" => ReplicaIdentity::Index,
                    "n" => ReplicaIdentity::Nothing,
                    _ => ReplicaIdentity::Default,
                },
                row_security: row.try_get(4)?,
                published: Published {
                    insert: row.try_get(5)?,
                    update: row.try_get(6)?,
                    delete: row.try_get(7)?,
                    truncate: row.try_get(8)?,
                },
                access: grants.remove(&oid).unwrap_or_default(),
            };
            Ok((oid, Arc::new(table)))
        })
        .collect()
}
