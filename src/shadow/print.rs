//! What tells whether a table was altered (*io*): one text per table that changes with every DDL on it, on its
//! partitions, on the types of its columns, and with what the publications say of it.
//!
//! Two equal texts mean that nothing of the kind happened between them: all that may change rows or their form without an
//! event counts by `xmin`s, OIDs and file numbers, which never come back. (Names and the replica identity may; the stream
//! tells of a relation under another one.) TRUNCATE changes the text as well; what concerns other tables, grants, policies,
//! functions and roles does not.

use std::collections::HashMap;

use tokio_postgres::types::{ToSql, Type as WireType};
use tokio_postgres::{Client, Error};

use crate::policy::value::Oid;

/// One per table.
pub type Prints = HashMap<Oid, Box<str>>;

/// `$1` publications, `$2` tables. `pg_inherits` is read as a table: Postgres' own functions for it would wait for whoever
/// locks a partition. A column of a type that users made depends on all such types that are no tables: few databases have
/// many, and they seldom change.
const PRINTS: &str = "
    with recursive tree (root, relid) as (
        select r.oid, r.oid from pg_catalog.unnest($2::pg_catalog.oid[]) r (oid)
        union
        select t.root, i.inhrelid from tree t join pg_catalog.pg_inherits i on i.inhparent = t.relid
    ), published as materialized (
        select p.oid, p.xmin as version from pg_catalog.pg_publication p
        where p.pubname::pg_catalog.text = any ($1::pg_catalog.text[])
    ), everywhere as materialized (
        select pg_catalog.concat_ws('.',
            (select pg_catalog.hash_array_extended(pg_catalog.array_agg(
                pg_catalog.hash_record_extended(row(p.oid, p.version), 1) order by p.oid), 1) from published p),
            (select pg_catalog.hash_array_extended(pg_catalog.array_agg(
                pg_catalog.hash_record_extended(row(d.objid, d.xmin), 2) order by d.objid), 2)
            from published p
            join pg_catalog.pg_depend d on d.refclassid = 'pg_catalog.pg_publication'::pg_catalog.regclass
                and d.refobjid = p.oid and d.classid <> 'pg_catalog.pg_publication_rel'::pg_catalog.regclass)) as print
    ), types as materialized (
        select pg_catalog.concat_ws('.',
            (select pg_catalog.hash_array_extended(pg_catalog.array_agg(
                pg_catalog.hash_record_extended(row(t.oid, t.xmin), 3) order by t.oid), 3)
            from pg_catalog.pg_type t
            where t.oid >= 16384 and (t.typtype in ('d', 'e', 'r', 'm')
                or t.typtype = 'b' and t.typcategory <> 'A'
                or t.typtype = 'c' and (select c.relkind = 'c' from pg_catalog.pg_class c where c.oid = t.typrelid))),
            (select pg_catalog.hash_array_extended(pg_catalog.array_agg(e.xmin order by e.oid), 4)
            from pg_catalog.pg_enum e where e.oid >= 16384),
            (select pg_catalog.hash_array_extended(pg_catalog.array_agg(c.xmin order by c.oid), 5)
            from pg_catalog.pg_constraint c where c.contypid >= 16384),
            (select pg_catalog.hash_array_extended(pg_catalog.array_agg(a.xmin order by a.attrelid, a.attnum), 6)
            from pg_catalog.pg_attribute a
            where a.attnum > 0 and a.attrelid in (
                select c.oid from pg_catalog.pg_class c where c.relkind = 'c' and c.oid >= 16384
                union
                select e.typrelid
                from pg_catalog.pg_attribute u
                join pg_catalog.pg_type t on t.oid = u.atttypid
                join pg_catalog.pg_type e on e.oid = case when t.typelem <> 0 then t.typelem else t.oid end
                where u.attrelid in (select tree.relid from tree) and u.atttypid >= 16384 and e.typrelid <> 0))) as print
    )
    select found.root, pg_catalog.concat_ws('.', (select everywhere.print from everywhere),
        pg_catalog.string_agg(found.print, '.' order by found.kind))
    from (
        select t.root, 7 as kind, pg_catalog.hash_array_extended(pg_catalog.array_agg(pg_catalog.hash_record_extended(
            row(c.oid, c.relfilenode, c.relname, c.relnamespace, c.relkind, c.relpersistence, c.relreplident,
                c.relispartition), 7) order by c.oid), 7)::pg_catalog.text as print
        from tree t join pg_catalog.pg_class c on c.oid = t.relid group by t.root
        union all
        select t.root, 8, pg_catalog.hash_array_extended(
            pg_catalog.array_agg(a.xmin order by a.attrelid, a.attnum), 8)::pg_catalog.text
        from tree t join pg_catalog.pg_attribute a on a.attrelid = t.relid and a.attnum > 0 group by t.root
        union all
        select t.root, 9, pg_catalog.hash_array_extended(
            pg_catalog.array_agg(i.xmin order by i.indexrelid), 9)::pg_catalog.text
        from tree t join pg_catalog.pg_index i on i.indrelid = t.relid and (i.indisprimary or i.indisreplident)
        group by t.root
        union all
        select t.root, 10, pg_catalog.hash_array_extended(pg_catalog.array_agg(pg_catalog.hash_record_extended(
            row(i.inhrelid, i.inhparent, i.xmin), 10) order by i.inhrelid, i.inhparent), 10)::pg_catalog.text
        from tree t join pg_catalog.pg_inherits i on i.inhrelid = t.relid group by t.root
        union all
        select t.root, 11, pg_catalog.hash_array_extended(pg_catalog.array_agg(pg_catalog.hash_record_extended(
            row(m.oid, m.xmin), 11) order by m.oid), 11)::pg_catalog.text
        from tree t
        join pg_catalog.pg_publication_rel m on m.prrelid = t.relid
        join published p on p.oid = m.prpubid group by t.root
        union all
        select distinct t.root, 12, (select types.print from types)
        from tree t join pg_catalog.pg_attribute a on a.attrelid = t.relid and a.attnum > 0 and a.atttypid >= 16384
    ) found
    group by found.root";

/// Reads them in the transaction at hand. A table that does not exist has none.
///
/// # Errors
/// The query failed.
pub async fn prints(
    client: &Client,
    publications: &[String],
    tables: &[Oid],
) -> Result<Prints, Error> {
    let publications = publications.to_vec();
    let tables = tables.to_vec();
    let parameters: [(&(dyn ToSql + Sync), WireType); 2] = [
        (&publications, WireType::TEXT_ARRAY),
        (&tables, WireType::OID_ARRAY),
    ];
    let rows = client.query_typed(PRINTS, &parameters).await?;
    rows.iter()
        .map(|row| Ok((row.try_get(0)?, row.try_get::<_, &str>(1)?.into())))
        .collect()
}
