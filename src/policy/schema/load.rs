//! Loads a [`Schema`] (*io*): a handful of queries in one snapshot.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use tokio_postgres::{Client, Row};

use super::{
    Cast, Column, Function, Key, Operator, Policy, Role, Schema, Table, collation, settings,
};
use crate::policy::value::{Field, Kind, Oid, Type, Types};

/// The catalog cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the database's schema")]
pub struct LoadError(#[from] pub tokio_postgres::Error);

const TYPES: &str = "
    select t.oid, n.nspname::text, t.typname::text, t.typtype::text, t.typcategory::text, t.typispreferred,
      t.typcollation, t.typarray, t.typdelim::text, t.typelem,
      t.typsubscript = 'pg_catalog.array_subscript_handler'::pg_catalog.regproc, t.typbasetype, t.typtypmod,
      t.typnotnull or exists (select from pg_catalog.pg_constraint c where c.contypid = t.oid), t.typrelid,
      (select pg_catalog.array_agg(e.enumlabel::text order by e.enumsortorder)
        from pg_catalog.pg_enum e where e.enumtypid = t.oid),
      (select pg_catalog.array_agg(a.attname::text order by a.attnum) from pg_catalog.pg_attribute a
        where a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped),
      (select pg_catalog.array_agg(a.atttypid order by a.attnum) from pg_catalog.pg_attribute a
        where a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped),
      (select pg_catalog.array_agg(a.atttypmod order by a.attnum) from pg_catalog.pg_attribute a
        where a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped)
    from pg_catalog.pg_type t join pg_catalog.pg_namespace n on n.oid = t.typnamespace";

const TABLES: &str = "
    select c.oid, n.nspname::text, c.relname::text, c.relkind::text, c.relpersistence = 'p', c.relhassubclass,
      c.reltype, c.relowner, c.relrowsecurity, c.relforcerowsecurity,
      (select pg_catalog.array_agg(r.oid) from pg_catalog.pg_roles r
        where pg_catalog.has_table_privilege(r.oid, c.oid, 'select')),
      (select pg_catalog.array_agg(r.oid) from pg_catalog.pg_roles r
        where pg_catalog.has_any_column_privilege(r.oid, c.oid, 'select')
          and not pg_catalog.has_table_privilege(r.oid, c.oid, 'select'))
    from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    where c.relkind in ('r', 'p', 'v', 'm', 'f')
      and n.nspname <> 'information_schema' and n.nspname !~ '^pg_(catalog|toast|temp_|toast_temp_)'";

const COLUMNS: &str = "
    select a.attrelid, a.attname::text, a.attnum, a.atttypid, a.atttypmod, a.attcollation, a.attnotnull,
      a.attgenerated <> ''
    from pg_catalog.pg_attribute a
    where a.attnum > 0 and not a.attisdropped and a.attrelid = any ($1) order by a.attrelid, a.attnum";

const KEYS: &str = "
    select i.indrelid, i.indkey::smallint[], i.indnkeyatts, i.indisprimary
    from pg_catalog.pg_index i
    where i.indisunique and i.indisvalid and i.indimmediate and i.indpred is null and i.indexprs is null
      and i.indrelid = any ($1)";

const POLICIES: &str = "
    select p.polrelid, p.polname::text, p.polpermissive, p.polroles, pg_catalog.pg_get_expr(p.polqual, p.polrelid)
    from pg_catalog.pg_policy p where p.polcmd in ('r', '*') order by p.polrelid, p.polname";

/// What decides who may insert into `realtime.messages`. Without WITH CHECK, USING is it.
const MESSAGE_CHECKS: &str = "
    select pg_catalog.pg_get_expr(coalesce(p.polwithcheck, p.polqual), p.polrelid)
    from pg_catalog.pg_policy p
    where p.polcmd in ('a', '*') and coalesce(p.polwithcheck, p.polqual) is not null
      and p.polrelid = pg_catalog.to_regclass('realtime.messages') order by p.polname";

/// A view depends on what its rule names (Postgres manual, "pg_depend").
const SOURCES: &str = "
    select i.inhparent, i.inhrelid, false from pg_catalog.pg_inherits i
    union
    select v.oid, d.refobjid, d.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass
    from pg_catalog.pg_class v
    join pg_catalog.pg_rewrite r on r.ev_class = v.oid
    join pg_catalog.pg_depend d on d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass and d.objid = r.oid
    where v.relkind = 'v' and v.oid >= 16384 and d.refobjid <> v.oid
      and d.refclassid in ('pg_catalog.pg_class'::pg_catalog.regclass, 'pg_catalog.pg_proc'::pg_catalog.regclass)";

const FUNCTIONS: &str = "
    select p.oid, n.nspname::text, p.proname::text, p.proargtypes::oid[], p.proargnames::text[],
      p.proallargtypes::oid[], p.proargmodes::text[], p.provariadic, p.prorettype, p.proretset, p.prokind::text,
      l.lanname::text, case when p.prosqlbody is null then p.prosrc else pg_catalog.pg_get_function_sqlbody(p.oid) end,
      p.prosqlbody is not null, p.prosecdef, p.proowner, p.proisstrict, p.provolatile::text, p.proconfig, p.procost,
      case when p.pronargdefaults > 0 then
        (select pg_catalog.array_agg(pg_catalog.pg_get_function_arg_default(p.oid, i.number) order by i.number)
          from pg_catalog.generate_series(1, coalesce(pg_catalog.array_length(p.proallargtypes, 1), p.pronargs)) i (number)
          where pg_catalog.pg_get_function_arg_default(p.oid, i.number) is not null) end,
      case when p.oid >= 16384 or p.proacl is not null then
        (select pg_catalog.array_agg(r.oid) from pg_catalog.pg_roles r
          where pg_catalog.has_function_privilege(r.oid, p.oid, 'execute')) end
    from pg_catalog.pg_proc p
    join pg_catalog.pg_namespace n on n.oid = p.pronamespace
    join pg_catalog.pg_language l on l.oid = p.prolang";

const OPERATORS: &str = "
    select n.nspname::text, o.oprname::text, o.oprleft, o.oprright, o.oprresult, o.oprcode::oid,
      o.oprrest <> 0 and o.oprrest::pg_catalog.oid not in (select p.oid from pg_catalog.pg_proc p
        where p.proname in ('contsel', 'areasel', 'positionsel') and p.pronamespace = 'pg_catalog'::pg_catalog.regnamespace)
    from pg_catalog.pg_operator o join pg_catalog.pg_namespace n on n.oid = o.oprnamespace";

const CASTS: &str = "select castsource, casttarget, castcontext::text, castmethod::text, castfunc from pg_catalog.pg_cast";

const ROLES: &str = "
    select r.oid, r.rolname::text, r.rolsuper, r.rolbypassrls,
      (select pg_catalog.array_agg(o.oid) from pg_catalog.pg_roles o where pg_catalog.pg_has_role(r.oid, o.oid, 'usage'))
    from pg_catalog.pg_roles r";

const NAMESPACES: &str = "
    select n.nspname::text, (select pg_catalog.array_agg(r.oid) from pg_catalog.pg_roles r
      where pg_catalog.has_schema_privilege(r.oid, n.oid, 'usage')) from pg_catalog.pg_namespace n";

/// What differs between versions is read through `to_jsonb`, which leaves out what a version does not have.
const COLLATIONS: &str = "
    select c.oid, c.collisdeterministic, s.provider, pg_catalog.array_remove(s.names, null)
    from pg_catalog.pg_collation c
    join pg_catalog.pg_database d on d.datname = pg_catalog.current_database()
    cross join lateral (
      select coalesce(pg_catalog.to_jsonb(d) ->> 'datlocprovider', 'c'),
          array[d.datcollate::text, d.datctype::text, pg_catalog.to_jsonb(d) ->> 'datlocale',
            pg_catalog.to_jsonb(d) ->> 'daticulocale'] where c.collprovider = 'd'
      union all
      select c.collprovider::text, array[c.collcollate::text, c.collctype::text, pg_catalog.to_jsonb(c) ->> 'colllocale',
          pg_catalog.to_jsonb(c) ->> 'colliculocale'] where c.collprovider <> 'd') s (provider, names)";

/// Equality of each type's default b-tree operator class, hash if there is none.
const EQUALITY: &str = "
    select distinct on (c.opcintype) c.opcintype, o.oprcode::oid
    from pg_catalog.pg_opclass c
    join pg_catalog.pg_am m on m.oid = c.opcmethod and m.amname in ('btree', 'hash')
    join pg_catalog.pg_amop a on a.amopfamily = c.opcfamily and a.amoplefttype = c.opcintype
      and a.amoprighttype = c.opcintype and a.amopstrategy = case m.amname when 'btree' then 3 else 1 end
    join pg_catalog.pg_operator o on o.oid = a.amopopr
    where c.opcdefault order by c.opcintype, m.amname";

/// Reads everything in one snapshot. `search_path` is the one of the session that asks Postgres.
///
/// Not cancel safe: a dropped call leaves the connection inside a transaction.
///
/// # Errors
/// The connection broke, or may not read the catalog.
pub async fn load(client: &Client, search_path: &[&str]) -> Result<Schema, LoadError> {
    client
        .batch_execute(
            "begin isolation level repeatable read read only; set local search_path = ''",
        )
        .await?;
    let schema = read(client, search_path).await;
    let left = client.batch_execute("rollback").await;
    let schema = schema?;
    left?;
    Ok(schema)
}

async fn read(client: &Client, search_path: &[&str]) -> Result<Schema, LoadError> {
    let mut schema = Schema {
        search_path: search_path.iter().map(|name| (*name).into()).collect(),
        ..Schema::default()
    };
    let mut types = Types::default();
    for row in client.query(TYPES, &[]).await? {
        let item = type_of(&row)?;
        schema
            .type_names
            .insert((item.schema.clone(), item.name.clone()), item.oid);
        types.insert(Arc::new(item));
    }
    schema.types = Arc::new(types);
    for table in tables(client).await? {
        schema
            .table_names
            .insert((table.schema.clone(), table.name.clone()), table.oid);
        schema.tables.insert(table.oid, Arc::new(table));
    }
    for row in client.query(MESSAGE_CHECKS, &[]).await? {
        schema.message_checks.push(text(&row, 0)?);
    }
    for row in client.query(SOURCES, &[]).await? {
        let is_function: bool = row.try_get(2)?;
        let of = if is_function {
            &mut schema.view_functions
        } else {
            &mut schema.sources
        };
        of.entry(row.try_get(0)?).or_default().push(row.try_get(1)?);
    }
    for row in client.query(FUNCTIONS, &[]).await? {
        let function = Arc::new(function(&row)?);
        let overloads = schema
            .function_names
            .entry(function.name.clone())
            .or_default();
        overloads.push(Arc::clone(&function));
        schema.functions.insert(function.oid, function);
    }
    for row in client.query(OPERATORS, &[]).await? {
        let operator = Operator {
            schema: text(&row, 0)?,
            name: text(&row, 1)?,
            left: row.try_get(2)?,
            right: row.try_get(3)?,
            result: row.try_get(4)?,
            function: row.try_get(5)?,
            estimated: row.try_get(6)?,
        };
        let overloads = schema.operators.entry(operator.name.clone()).or_default();
        overloads.push(Arc::new(operator));
    }
    for row in client.query(CASTS, &[]).await? {
        let cast = Cast {
            context: letter(&row, 2)?,
            method: letter(&row, 3)?,
            function: row.try_get(4)?,
        };
        schema
            .casts
            .insert((row.try_get(0)?, row.try_get(1)?), cast);
    }
    for row in client.query(ROLES, &[]).await? {
        let role = Role {
            name: text(&row, 1)?,
            superuser: row.try_get(2)?,
            bypasses: row.try_get(3)?,
            privileges_of: oids(&row, 4)?,
        };
        schema.roles.insert(row.try_get(0)?, role);
    }
    for row in client.query(NAMESPACES, &[]).await? {
        schema.namespaces.insert(text(&row, 0)?, oids(&row, 1)?);
    }
    for row in client.query(COLLATIONS, &[]).await? {
        let names: Vec<&str> = row.try_get(3)?;
        let kind = collation::kind(row.try_get(1)?, letter(&row, 2)?, &names);
        schema.collations.insert(row.try_get(0)?, kind);
    }
    for row in client.query(EQUALITY, &[]).await? {
        schema.equality.insert(row.try_get(0)?, row.try_get(1)?);
    }
    settings::read(client, &mut schema).await?;
    Ok(schema)
}

fn text(row: &Row, index: usize) -> Result<Box<str>, tokio_postgres::Error> {
    row.try_get::<_, &str>(index).map(Into::into)
}

fn letter(row: &Row, index: usize) -> Result<u8, tokio_postgres::Error> {
    let text = row.try_get::<_, &str>(index)?;
    Ok(text.as_bytes().first().copied().unwrap_or(0))
}

fn oids(row: &Row, index: usize) -> Result<HashSet<Oid>, tokio_postgres::Error> {
    let list = row.try_get::<_, Option<Vec<Oid>>>(index)?;
    Ok(list.unwrap_or_default().into_iter().collect())
}

fn type_of(row: &Row) -> Result<Type, tokio_postgres::Error> {
    let is_array: bool = row.try_get(10)?;
    let kind = match (letter(row, 3)?, is_array) {
        (b'b', true) => Kind::Array {
            element: row.try_get(9)?,
        },
        (b'b', false) => Kind::Base,
        (b'd', _) => Kind::Domain {
            base: row.try_get(11)?,
            typmod: row.try_get(12)?,
            constrained: row.try_get(13)?,
        },
        (b'e', _) => {
            let labels = row
                .try_get::<_, Option<Vec<String>>>(15)?
                .unwrap_or_default();
            Kind::Enum {
                labels: labels.into_iter().map(Arc::from).collect(),
            }
        }
        (b'c', _) => {
            let names = row
                .try_get::<_, Option<Vec<String>>>(16)?
                .unwrap_or_default();
            let kinds = row.try_get::<_, Option<Vec<Oid>>>(17)?.unwrap_or_default();
            let typmods = row.try_get::<_, Option<Vec<i32>>>(18)?.unwrap_or_default();
            let fields = names.into_iter().zip(kinds).zip(typmods);
            Kind::Composite {
                relation: row.try_get(14)?,
                fields: fields
                    .map(|((name, type_oid), typmod)| Field {
                        name: name.into(),
                        type_oid,
                        typmod,
                    })
                    .collect(),
            }
        }
        (b'r' | b'm', _) => Kind::Range,
        _ => Kind::Pseudo,
    };
    Ok(Type {
        oid: row.try_get(0)?,
        schema: text(row, 1)?,
        name: text(row, 2)?,
        kind,
        category: letter(row, 4)?,
        preferred: row.try_get(5)?,
        collation: row.try_get(6)?,
        array: row.try_get(7)?,
        delimiter: letter(row, 8)?,
    })
}

async fn tables(client: &Client) -> Result<Vec<Table>, LoadError> {
    let rows = client.query(TABLES, &[]).await?;
    let oids_of = rows
        .iter()
        .map(|row| row.try_get(0))
        .collect::<Result<Vec<Oid>, _>>()?;
    let mut columns: HashMap<Oid, Vec<Column>> = HashMap::new();
    for row in client.query(COLUMNS, &[&oids_of]).await? {
        columns.entry(row.try_get(0)?).or_default().push(Column {
            name: text(&row, 1)?,
            number: row.try_get(2)?,
            type_oid: row.try_get(3)?,
            typmod: row.try_get(4)?,
            collation: row.try_get(5)?,
            not_null: row.try_get(6)?,
            generated: row.try_get(7)?,
        });
    }
    let mut keys: HashMap<Oid, Vec<Key>> = HashMap::new();
    for row in client.query(KEYS, &[&oids_of]).await? {
        let table: Oid = row.try_get(0)?;
        let numbers: Vec<i16> = row.try_get(1)?;
        let length = usize::try_from(row.try_get::<_, i16>(2)?).unwrap_or(0);
        let columns = columns.get(&table).map_or(&[][..], Vec::as_slice);
        let places: BTreeSet<usize> = numbers
            .iter()
            .take(length)
            .filter_map(|number| columns.iter().position(|column| column.number == *number))
            .collect();
        if places.len() == length {
            let primary = row.try_get(3)?;
            keys.entry(table).or_default().push(Key {
                columns: places,
                primary,
            });
        }
    }
    let mut policies: HashMap<Oid, Vec<Policy>> = HashMap::new();
    for row in client.query(POLICIES, &[]).await? {
        policies.entry(row.try_get(0)?).or_default().push(Policy {
            name: text(&row, 1)?,
            permissive: row.try_get(2)?,
            roles: row.try_get(3)?,
            qual: row.try_get::<_, Option<&str>>(4)?.map(Into::into),
        });
    }
    let mut tables = Vec::with_capacity(rows.len());
    for row in &rows {
        let oid: Oid = row.try_get(0)?;
        tables.push(Table {
            oid,
            schema: text(row, 1)?,
            name: text(row, 2)?,
            kind: letter(row, 3)?,
            permanent: row.try_get(4)?,
            has_children: row.try_get(5)?,
            row_type: row.try_get(6)?,
            owner: row.try_get(7)?,
            row_security: row.try_get(8)?,
            force_row_security: row.try_get(9)?,
            columns: columns.remove(&oid).unwrap_or_default().into(),
            keys: keys.remove(&oid).unwrap_or_default(),
            policies: policies.remove(&oid).unwrap_or_default(),
            readers: oids(row, 10)?,
            column_readers: oids(row, 11)?,
        });
    }
    Ok(tables)
}

fn function(row: &Row) -> Result<Function, tokio_postgres::Error> {
    let arguments: Vec<Oid> = row.try_get(3)?;
    let names = row
        .try_get::<_, Option<Vec<String>>>(4)?
        .unwrap_or_default();
    let all = row.try_get::<_, Option<Vec<Oid>>>(5)?;
    let modes = row.try_get::<_, Option<Vec<String>>>(6)?;
    let name_at = |index: usize| names.get(index).filter(|name| !name.is_empty());
    let all_types = all.unwrap_or_else(|| arguments.clone());
    let mut argument_names = Vec::new();
    let mut outputs = Vec::new();
    for (index, type_oid) in all_types.iter().enumerate() {
        let mode = modes
            .as_ref()
            .and_then(|modes| modes.get(index))
            .map_or("i", String::as_str);
        if matches!(mode, "i" | "b" | "v") {
            argument_names.push(name_at(index).map(|name| name.as_str().into()));
        }
        if matches!(mode, "o" | "b" | "t") {
            let name = name_at(index).map_or_else(
                || format!("column{}", outputs.len().saturating_add(1)),
                Clone::clone,
            );
            outputs.push((name.into(), *type_oid));
        }
    }
    let defaults = row
        .try_get::<_, Option<Vec<String>>>(20)?
        .unwrap_or_default();
    let config = row
        .try_get::<_, Option<Vec<String>>>(18)?
        .unwrap_or_default();
    Ok(Function {
        oid: row.try_get(0)?,
        schema: text(row, 1)?,
        name: text(row, 2)?,
        arguments: arguments.into(),
        argument_names: argument_names.into(),
        outputs: outputs.into(),
        variadic: row.try_get(7)?,
        result: row.try_get(8)?,
        returns_set: row.try_get(9)?,
        kind: letter(row, 10)?,
        language: text(row, 11)?,
        body: row
            .try_get::<_, Option<&str>>(12)?
            .unwrap_or_default()
            .into(),
        bound: row.try_get(13)?,
        definer: row.try_get(14)?,
        owner: row.try_get(15)?,
        strict: row.try_get(16)?,
        volatility: letter(row, 17)?,
        config: config.into_iter().map(Into::into).collect(),
        cost: row.try_get(19)?,
        defaults: defaults.into_iter().map(Into::into).collect(),
        executors: match row.try_get::<_, Option<Vec<Oid>>>(21)? {
            Some(list) => Some(list.into_iter().collect()),
            None if row.try_get::<_, Oid>(0)? >= 16384 => Some(HashSet::new()),
            None => None,
        },
    })
}
