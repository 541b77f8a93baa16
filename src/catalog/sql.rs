//! The statements that read the system catalogs (Postgres manual, "System Catalogs"). Good for Postgres 14 to 18: what
//! differs between versions is read through `to_jsonb`, which leaves out what a version does not have.

/// Opens the snapshot. No statement here waits long for a lock: a table that is being altered is read soon again. The
/// planner cannot estimate these statements and would compile them, which takes ten times as long as running them.
pub(super) const BEGIN: &str = "
    begin isolation level repeatable read read only;
    set local lock_timeout = '2s';
    set local statement_timeout = '30s';
    set local search_path = '';
    set local jit = off";

/// One text that changes with anything a [`Catalog`](super::Catalog) is made from. `$1` is the publications' names,
/// `text[]`; the result is one row with one `text` column. Being a scalar query it can also stand, in parentheses, in a
/// select list.
///
/// Every catalog row counts by its `xmin`, which each change of a row renews; statistics are updated in place and do not
/// show. The sums do not depend on the order of rows. Of roles, which are a view without `xmin`, the attributes count.
///
/// `$2` says whether it covers what compiled policies depend on as well. They may call any function and depend on any type, operator and cast; of tables that are not published
/// they depend only on their being there, and on who may read them. Those are read without `xmin`, which would change
/// with every TRUNCATE of a table that nobody follows.
///
/// Which tables are published counts by the rows that say so as well: a table that leaves a publication and comes back,
/// or gets another row filter, has changes that the stream does not tell. Memberships of schemas, which versions before
/// 15 do not have, are found by what depends on a publication.
///
/// `realtime.messages` counts whether it is published or not, because its policies say who may join private channels.
/// `pg_inherits` is read as a table: Postgres' own functions for it would wait for whoever locks a partition.
pub const FINGERPRINT_SQL: &str = "
    with recursive messages (root, relid) as (
        select c.oid, c.oid
        from pg_catalog.pg_class c
        join pg_catalog.pg_namespace n on n.oid = c.relnamespace
        where n.nspname = 'realtime' and c.relname = 'messages' and c.relkind in ('r', 'p')
        union all
        select m.root, i.inhrelid from messages m join pg_catalog.pg_inherits i on i.inhparent = m.relid
    ), published as materialized (
        select p.oid as publication, g.relid
        from pg_catalog.pg_publication p
        cross join lateral pg_catalog.pg_get_publication_tables(p.pubname::pg_catalog.text) g
        where p.pubname::pg_catalog.text = any ($1::pg_catalog.text[])
    ), tables as materialized (
        select pg_catalog.array_agg(distinct relid) as oids
        from (select relid from published union all select root from messages) found
    ), composites as materialized (
        select pg_catalog.array_agg(found.relid) as oids
        from (
            select c.oid as relid from pg_catalog.pg_class c where c.oid >= 16384 and c.relkind = 'c'
            union
            select t.typrelid
            from pg_catalog.pg_attribute a
            join pg_catalog.pg_type own on own.oid = a.atttypid
            join pg_catalog.pg_type t on t.oid = case when own.typelem <> 0 then own.typelem else own.oid end
            where a.attrelid = any ((select oids from tables)::pg_catalog.oid[])
                and a.atttypid >= 16384 and t.typrelid <> 0
        ) found
    ), rows as (
        select pg_catalog.hash_record_extended(row(p.oid, p.xmin), 1) as hash
        from pg_catalog.pg_publication p where p.pubname::pg_catalog.text = any ($1::pg_catalog.text[])
        union all
        select pg_catalog.hash_record_extended(row(publication, relid), 2) from published
        union all
        select pg_catalog.hash_record_extended(row(c.oid, c.xmin), 3)
        from pg_catalog.pg_class c where c.oid = any ((select oids from tables)::pg_catalog.oid[])
        union all
        select pg_catalog.hash_record_extended(row(a.attrelid, a.attnum, a.xmin), 4)
        from pg_catalog.pg_attribute a
        where a.attnum > 0 and a.attrelid = any (
            (select tables.oids || composites.oids from tables, composites)::pg_catalog.oid[])
        union all
        select pg_catalog.hash_record_extended(row(i.indexrelid, i.xmin), 5)
        from pg_catalog.pg_index i
        where (i.indisprimary or i.indisunique) and i.indrelid = any ((select oids from tables)::pg_catalog.oid[])
        union all
        select pg_catalog.hash_record_extended(row(p.oid, p.xmin), 6)
        from pg_catalog.pg_policy p where p.polrelid = any ((select oids from tables)::pg_catalog.oid[])
        union all
        select pg_catalog.hash_record_extended(row(n.oid, n.xmin), 7)
        from pg_catalog.pg_namespace n where n.nspname !~ '^pg_(temp|toast)'
        union all
        select pg_catalog.hash_record_extended(row(t.oid, t.xmin), 8)
        from pg_catalog.pg_type t
        where t.oid >= 16384 and t.typnamespace not in (
            select n.oid from pg_catalog.pg_namespace n where n.nspname ~ '^pg_temp_')
        union all
        select pg_catalog.hash_record_extended(row(e.oid, e.xmin), 9) from pg_catalog.pg_enum e
        union all
        select pg_catalog.hash_record_extended(row(l.oid, l.xmin), 10)
        from pg_catalog.pg_collation l where l.oid >= 16384
        union all
        select pg_catalog.hash_record_extended(
            row(r.oid, r.rolname, r.rolsuper, r.rolinherit, r.rolbypassrls), 11)
        from pg_catalog.pg_roles r
        union all
        select pg_catalog.hash_record_extended(row(m.roleid, m.member, m.grantor, m.xmin), 12)
        from pg_catalog.pg_auth_members m
        union all
        select pg_catalog.hash_record_extended(row(d.oid, d.datdba), 13)
        from pg_catalog.pg_database d where d.datname = pg_catalog.current_database()
        union all
        select pg_catalog.hash_record_extended(row(root, relid), 14) from messages
        union all
        select pg_catalog.hash_record_extended(row(r.oid, r.xmin), 25)
        from pg_catalog.pg_publication p
        join pg_catalog.pg_publication_rel r on r.prpubid = p.oid
        where p.pubname::pg_catalog.text = any ($1::pg_catalog.text[])
        union all
        select pg_catalog.hash_record_extended(row(d.objid, d.xmin), 26)
        from pg_catalog.pg_publication p
        join pg_catalog.pg_depend d on d.refclassid = 'pg_catalog.pg_publication'::pg_catalog.regclass and d.refobjid = p.oid
        where d.classid <> 'pg_catalog.pg_publication_rel'::pg_catalog.regclass
            and p.pubname::pg_catalog.text = any ($1::pg_catalog.text[])
        union all
        select depended.hash from (
            select pg_catalog.hash_record_extended(row(c.oid, c.relname, c.relnamespace, c.relkind, c.relowner, c.relpersistence,
                c.relnatts, c.relispartition, c.relrowsecurity, c.relforcerowsecurity, c.relacl), 15)
            from pg_catalog.pg_class c
            where c.oid >= 16384 and c.relkind in ('r', 'p', 'v', 'm', 'f') and c.relpersistence <> 't'
            union all
            select pg_catalog.hash_record_extended(row(a.attrelid, a.attnum, a.xmin), 16)
            from pg_catalog.pg_attribute a
            where a.attnum > 0 and a.attrelid in (
                select p.polrelid from pg_catalog.pg_policy p where p.polrelid not in (select relid from messages)
                union
                select i.inhparent from pg_catalog.pg_inherits i where i.inhparent not in (select relid from messages))
            union all
            select pg_catalog.hash_record_extended(row(p.oid, p.xmin), 17)
            from pg_catalog.pg_policy p where p.polrelid not in (select relid from messages)
            union all
            select pg_catalog.hash_record_extended(row(f.oid, f.xmin), 18)
            from pg_catalog.pg_proc f where f.oid >= 16384
            union all
            select pg_catalog.hash_record_extended(row(o.oid, o.xmin), 19)
            from pg_catalog.pg_operator o where o.oid >= 16384
            union all
            select pg_catalog.hash_record_extended(row(c.oid, c.xmin), 20)
            from pg_catalog.pg_cast c where c.oid >= 16384
            union all
            select pg_catalog.hash_record_extended(row(o.oid, o.xmin), 21)
            from pg_catalog.pg_opclass o where o.oid >= 16384
            union all
            select pg_catalog.hash_record_extended(row(c.oid, c.xmin), 22)
            from pg_catalog.pg_constraint c where c.contypid >= 16384
            union all
            select pg_catalog.hash_record_extended(row(s.setdatabase, s.setrole, s.xmin), 23)
            from pg_catalog.pg_db_role_setting s
            where s.setdatabase in (0, (select d.oid from pg_catalog.pg_database d
                    where d.datname = pg_catalog.current_database()))
                and s.setrole in (0, (select r.oid from pg_catalog.pg_roles r where r.rolname = session_user))
            union all
            select pg_catalog.hash_record_extended(row(i.inhrelid, i.inhparent, i.inhseqno, i.xmin), 24)
            from pg_catalog.pg_inherits i
        ) depended (hash)
        where $2
    )
    select pg_catalog.concat_ws('.', pg_catalog.count(*), pg_catalog.sum(hash)) from rows";

/// A published table in [`FINGERPRINT_SQL`].
const WHOLE: &str = "row(c.oid, c.xmin), 3)";

/// The same by all that says what kind of table it is and who may read it. `relfilenode` is not among it, nor what VACUUM
/// writes. `realtime.messages` has no mark of access and counts whole.
const WITHOUT_FILE: &str = "row(c.oid,
            case when c.oid in (select relid from messages) then c.xmin end,
            c.relname, c.relnamespace, c.reltype, c.reloftype, c.relowner, c.relam, c.relkind, c.relpersistence, c.relnatts,
            c.relchecks, c.relhasrules, c.relhastriggers, c.relrowsecurity, c.relforcerowsecurity, c.relreplident,
            c.relispartition, c.relacl, c.reloptions), 3)";

/// As [`FINGERPRINT_SQL`], but a published table that has only got another file leaves it as it is, as TRUNCATE and VACUUM
/// FULL do. What was changed in its row of `pg_class` and changed back shows in its mark of access alone.
#[must_use]
pub fn core_sql() -> String {
    FINGERPRINT_SQL.replace(WHOLE, WITHOUT_FILE)
}

/// The relations whose columns the fingerprint covers, as one `oid[]`; `$1` as there. A few more do no harm.
pub(super) const COVERED: &str = "
    select array(
        select g.relid::pg_catalog.oid
        from pg_catalog.pg_publication p
        cross join lateral pg_catalog.pg_get_publication_tables(p.pubname::pg_catalog.text) g
        where p.pubname::pg_catalog.text = any ($1::pg_catalog.text[])
        union
        select p.polrelid from pg_catalog.pg_policy p
        union
        select i.inhparent from pg_catalog.pg_inherits i
        union
        select c.oid
        from pg_catalog.pg_class c
        join pg_catalog.pg_namespace n on n.oid = c.relnamespace
        where n.nspname = 'realtime' and c.relname = 'messages'
        union
        select c.oid from pg_catalog.pg_class c where c.oid >= 16384 and c.relkind = 'c'
        union
        select t.typrelid
        from pg_catalog.pg_attribute a
        join pg_catalog.pg_type own on own.oid = a.atttypid
        join pg_catalog.pg_type t on t.oid = case when own.typelem <> 0 then own.typelem else own.oid end
        where a.atttypid >= 16384 and t.typrelid <> 0)";

/// One text that changes at least whenever [`FINGERPRINT_SQL`]'s does, at a tenth of its cost: whole catalogs count by
/// the `xmin`s of their rows. `$1` is what [`COVERED`] gave under the fingerprint that is known.
///
/// A row that is new or changed has an `xmin` that was never seen before, and one that is gone leaves the list shorter.
/// The hash depends on the order: rows that others have moved, or a TRUNCATE of any table, change it as well, whereupon the
/// fingerprint decides. What belongs to temporary tables is left out. 6237 is `pg_publication_namespace`, which versions
/// before 15 do not have.
///
/// Every batch of changes waits for this. An aggregate costs Postgres more than the few rows of most catalogs, so that one
/// list serves all that have an `xmin`. Indexes of published tables are never the system's, and `pg_index` need not be read
/// whole.
pub(super) const MARK: &str = "
    select row(
        (select pg_catalog.hash_array_extended(pg_catalog.array_agg(x.xmin), 1) from (
            select p.xmin from pg_catalog.pg_publication p
            union all
            select r.xmin from pg_catalog.pg_publication_rel r
            union all
            select d.xmin from pg_catalog.pg_depend d where d.classid = 6237
            union all
            select c.xmin from pg_catalog.pg_class c
            where c.oid >= 16384 and c.relkind in ('r', 'p', 'v', 'm', 'f', 'c') and c.relpersistence <> 't'
            union all
            select a.xmin from pg_catalog.pg_attribute a
            where a.attnum > 0 and a.attrelid = any ($1::pg_catalog.oid[])
            union all
            select i.xmin from pg_catalog.pg_index i
            where i.indexrelid >= 16384 and i.indrelid = any ($1::pg_catalog.oid[])
            union all
            select i.xmin from pg_catalog.pg_inherits i
            union all
            select p.xmin from pg_catalog.pg_policy p
            union all
            select n.xmin from pg_catalog.pg_namespace n
            union all
            select t.xmin from pg_catalog.pg_type t
            where t.oid >= 16384 and t.typnamespace <> all (array(
                select n.oid from pg_catalog.pg_namespace n
                where pg_catalog.starts_with(n.nspname::pg_catalog.text, 'pg_temp_')))
            union all
            select e.xmin from pg_catalog.pg_enum e
            union all
            select l.xmin from pg_catalog.pg_collation l where l.oid >= 16384
            union all
            select m.xmin from pg_catalog.pg_auth_members m
            union all
            select d.xmin from pg_catalog.pg_database d where d.datname = pg_catalog.current_database()
            union all
            select f.xmin from pg_catalog.pg_proc f where f.oid >= 16384
            union all
            select o.xmin from pg_catalog.pg_operator o where o.oid >= 16384
            union all
            select c.xmin from pg_catalog.pg_cast c where c.oid >= 16384
            union all
            select o.xmin from pg_catalog.pg_opclass o where o.oid >= 16384
            union all
            select c.xmin from pg_catalog.pg_constraint c where c.contypid >= 16384
            union all
            select s.xmin from pg_catalog.pg_db_role_setting s
        ) x),
        (select pg_catalog.hash_array_extended(pg_catalog.array_agg(pg_catalog.hash_record_extended(
                row(r.oid, r.rolname, r.rolsuper, r.rolinherit, r.rolbypassrls), 2)), 2)
            from pg_catalog.pg_roles r)
    )::pg_catalog.text";

/// `$1` publications. A publication may be in several, and partitions stand for themselves or for their root, as each
/// publication says. The last columns are the table's mark of access: `xmin`s, as in [`MARK`], and memberships are everybody's.
pub(super) const TABLES: &str = "
    with published as (
        select g.relid,
            pg_catalog.bool_or(p.pubinsert) as insert, pg_catalog.bool_or(p.pubupdate) as update,
            pg_catalog.bool_or(p.pubdelete) as delete, pg_catalog.bool_or(p.pubtruncate) as truncate
        from pg_catalog.pg_publication p
        cross join lateral pg_catalog.pg_get_publication_tables(p.pubname::pg_catalog.text) g
        where p.pubname::pg_catalog.text = any ($1)
        group by g.relid
    )
    select c.oid, n.nspname::pg_catalog.text, c.relname::pg_catalog.text, c.relreplident::pg_catalog.text,
        c.relrowsecurity, p.insert, p.update, p.delete, p.truncate,
        pg_catalog.hash_record_extended(row(c.xmin, n.xmin, members.mark, columns.mark), 1),
        c.relfilenode
    from published p
    join pg_catalog.pg_class c on c.oid = p.relid
    join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    cross join (
        select pg_catalog.hash_array_extended(pg_catalog.array_agg(m.xmin order by m.roleid, m.member), 1)
        from pg_catalog.pg_auth_members m) members (mark)
    cross join lateral (
        select pg_catalog.hash_array_extended(pg_catalog.array_agg(a.xmin order by a.attnum), 1)
        from pg_catalog.pg_attribute a where a.attrelid = c.oid and a.attnum > 0) columns (mark)";

/// `realtime.messages` and its partitions, whose rows may be published in their own names.
pub(super) const MESSAGES: &str = "
    with recursive messages (relid) as (
        select c.oid
        from pg_catalog.pg_class c
        join pg_catalog.pg_namespace n on n.oid = c.relnamespace
        where n.nspname = 'realtime' and c.relname = 'messages' and c.relkind in ('r', 'p')
        union all
        select i.inhrelid from messages m join pg_catalog.pg_inherits i on i.inhparent = m.relid
    )
    select relid from messages";

/// `$1` tables.
pub(super) const COLUMNS: &str = "
    select a.attrelid, a.attnum, a.attname::pg_catalog.text, a.atttypid, a.attcollation, a.attgenerated <> ''
    from pg_catalog.pg_attribute a
    where a.attrelid = any ($1) and a.attnum > 0 and not a.attisdropped
    order by a.attrelid, a.attnum";

/// `$1` collations. The last columns describe the database, whose collation is `default`.
pub(super) const COLLATIONS: &str = "
    select l.oid, pg_catalog.format('%I.%I', n.nspname, l.collname), l.collprovider::pg_catalog.text,
        l.collisdeterministic, l.collcollate::pg_catalog.text, l.collctype::pg_catalog.text,
        pg_catalog.to_jsonb(l) ->> 'colllocale',
        coalesce(pg_catalog.to_jsonb(d) ->> 'datlocprovider', 'c'), d.datcollate::pg_catalog.text,
        d.datctype::pg_catalog.text, pg_catalog.to_jsonb(d) ->> 'datlocale',
        pg_catalog.pg_encoding_to_char(d.encoding)::pg_catalog.text
    from pg_catalog.pg_collation l
    join pg_catalog.pg_namespace n on n.oid = l.collnamespace
    join pg_catalog.pg_database d on d.datname = pg_catalog.current_database()
    where l.oid = any ($1)";

/// `$1` tables. Included columns are no part of a key.
pub(super) const PRIMARY_KEYS: &str = "
    select i.indrelid, k.number
    from pg_catalog.pg_index i
    cross join lateral pg_catalog.unnest(i.indkey::pg_catalog.int2[]) with ordinality as k (number, position)
    where i.indrelid = any ($1) and i.indisprimary and i.indisvalid and k.position <= i.indnkeyatts
    order by i.indrelid, k.position";

/// `$1` types; with all that they are made of. An array type is one that its element names as its own: `int2vector` and
/// its like have elements as well but another text form.
pub(super) const TYPES: &str = "
    with recursive parts (oid) as (
        select pg_catalog.unnest($1::pg_catalog.oid[])
        union
        select part.oid
        from parts
        join pg_catalog.pg_type t on t.oid = parts.oid
        cross join lateral (
            select t.typelem as oid where t.typelem <> 0
            union all
            select t.typbasetype where t.typtype = 'd'
            union all
            select a.atttypid from pg_catalog.pg_attribute a
            where t.typtype = 'c' and a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped
        ) part
    )
    select t.oid, t.typname::pg_catalog.text, pg_catalog.format('%I.%I', n.nspname, t.typname),
        t.typtype::pg_catalog.text, e.oid, e.typdelim::pg_catalog.text, t.typbasetype,
        case when t.typtype = 'e' then array(
            select l.enumlabel::pg_catalog.text from pg_catalog.pg_enum l
            where l.enumtypid = t.oid order by l.enumsortorder) end,
        case when t.typtype = 'c' then array(
            select a.attname::pg_catalog.text from pg_catalog.pg_attribute a
            where a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped order by a.attnum) end,
        case when t.typtype = 'c' then array(
            select a.atttypid from pg_catalog.pg_attribute a
            where a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped order by a.attnum) end
    from parts
    join pg_catalog.pg_type t on t.oid = parts.oid
    join pg_catalog.pg_namespace n on n.oid = t.typnamespace
    left join pg_catalog.pg_type e on e.oid = t.typelem and e.typarray = t.oid";

/// `$1` bound. Which roles the login role may become with `set role`: until 15 any that it is a member of, since then the
/// membership itself says so.
pub(super) const ROLES: &str = "
    select r.oid, r.rolname::pg_catalog.text, r.rolsuper or r.rolbypassrls
    from pg_catalog.pg_roles r
    where r.rolname !~ '^pg_' and pg_catalog.pg_has_role(current_user, r.oid,
        case when pg_catalog.current_setting('server_version_num')::pg_catalog.int4 >= 160000
        then 'set' else 'member' end)
    order by r.oid
    limit $1::pg_catalog.text::pg_catalog.int8";

/// `$1` tables, `$2` roles. Nothing for a role that may read nothing of a table. Columns are listed only where the whole
/// table is not granted. Policies apply as the manual's "Row Security Policies" says: not to superusers and roles with
/// BYPASSRLS, nor, without FORCE, to the owner and whoever has the owner's privileges.
pub(super) const ACCESS: &str = "
    with roles as materialized (
        select r.oid, r.rolsuper or r.rolbypassrls as exempt from pg_catalog.pg_roles r where r.oid = any ($2)
    )
    select r.oid, c.oid,
        c.relrowsecurity and not r.exempt
            and (c.relforcerowsecurity or not pg_catalog.pg_has_role(r.oid, c.relowner, 'usage')),
        case when pg_catalog.has_table_privilege(r.oid, c.oid, 'select') then null else array(
            select a.attnum from pg_catalog.pg_attribute a
            where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
                and pg_catalog.has_column_privilege(r.oid, c.oid, a.attnum, 'select')) end
    from roles r
    cross join pg_catalog.pg_class c
    where c.oid = any ($1)
        and pg_catalog.has_schema_privilege(r.oid, c.relnamespace, 'usage')
        and (pg_catalog.has_table_privilege(r.oid, c.oid, 'select')
            or pg_catalog.has_any_column_privilege(r.oid, c.oid, 'select'))";
