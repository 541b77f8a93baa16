//! What is there now: tables, columns, keys, policies, functions, read from the catalogs after each change of them.

use std::collections::BTreeMap;

use tokio_postgres::Client;

use super::dice::Kind;

/// A table of schema `app`, or a partition.
#[derive(Clone, Debug)]
pub(super) struct Table {
    pub(super) oid: u32,
    pub(super) name: String,
    /// A table with partitions: it holds no rows of its own.
    pub(super) is_root: bool,
    pub(super) is_partition: bool,
    pub(super) is_published: bool,
    pub(super) row_security: bool,
    pub(super) identity_full: bool,
    pub(super) columns: Vec<Column>,
    /// Names, in key order.
    pub(super) key: Vec<String>,
    pub(super) policies: Vec<String>,
}

#[derive(Clone, Debug)]
pub(super) struct Column {
    pub(super) name: String,
    /// `pg_type.typname`.
    pub(super) type_name: String,
    pub(super) kind: Option<Kind>,
    pub(super) generated: bool,
    pub(super) not_null: bool,
}

/// What a role may do with a table.
#[derive(Clone, Debug, Default)]
pub(super) struct Access {
    pub(super) columns: Vec<String>,
    pub(super) policies_apply: bool,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    pub(super) tables: Vec<Table>,
    /// By table and role.
    pub(super) access: BTreeMap<(u32, String), Access>,
}

const TABLES: &str = "
    select c.oid, c.relname::text, c.relkind = 'p', c.relispartition, c.relrowsecurity, c.relreplident = 'f',
      exists (select from pg_catalog.pg_publication_tables p
        where p.pubname = 'supabase_realtime' and p.schemaname = 'app' and p.tablename = c.relname),
      array(select a.attname::text from pg_catalog.pg_index i
        cross join lateral unnest(i.indkey::int2[]) with ordinality k (number, place)
        join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum = k.number
        where i.indrelid = c.oid and i.indisprimary order by k.place),
      array(select p.polname::text from pg_catalog.pg_policy p where p.polrelid = c.oid order by 1)
    from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    where n.nspname = 'app' and c.relkind in ('r', 'p') order by c.relname";

const COLUMNS: &str = "
    select a.attrelid, a.attname::text, t.typname::text, pg_catalog.format_type(a.atttypid, a.atttypmod),
      a.attgenerated <> '', a.attnotnull
    from pg_catalog.pg_attribute a join pg_catalog.pg_class c on c.oid = a.attrelid
    join pg_catalog.pg_namespace n on n.oid = c.relnamespace join pg_catalog.pg_type t on t.oid = a.atttypid
    where n.nspname = 'app' and c.relkind in ('r', 'p') and a.attnum > 0 and not a.attisdropped
    order by a.attrelid, a.attnum";

const ACCESS: &str = "
    select c.oid, r.rolname::text,
      c.relrowsecurity and not (r.rolsuper or r.rolbypassrls)
        and (c.relforcerowsecurity or not pg_catalog.pg_has_role(r.oid, c.relowner, 'usage')),
      array(select a.attname::text from pg_catalog.pg_attribute a
        where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
          and pg_catalog.has_schema_privilege(r.oid, n.oid, 'usage')
          and pg_catalog.has_column_privilege(r.oid, c.oid, a.attnum, 'select'))
    from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    cross join pg_catalog.pg_roles r
    where n.nspname = 'app' and c.relkind in ('r', 'p') and r.rolname::text = any ($1)";

impl Model {
    /// Reads it anew.
    pub(super) async fn read(client: &Client, roles: &[&str]) -> Self {
        let mut tables: Vec<Table> = Vec::new();
        for row in client.query(TABLES, &[]).await.unwrap() {
            tables.push(Table {
                oid: row.get(0),
                name: row.get(1),
                is_root: row.get(2),
                is_partition: row.get(3),
                row_security: row.get(4),
                identity_full: row.get(5),
                is_published: row.get(6),
                key: row.get(7),
                policies: row.get(8),
                columns: Vec::new(),
            });
        }
        for row in client.query(COLUMNS, &[]).await.unwrap() {
            let oid: u32 = row.get(0);
            let table = tables.iter_mut().find(|table| table.oid == oid).unwrap();
            table.columns.push(Column {
                name: row.get(1),
                type_name: row.get(2),
                kind: Kind::of(row.get(3)),
                generated: row.get(4),
                not_null: row.get(5),
            });
        }
        let mut access = BTreeMap::new();
        for row in client.query(ACCESS, &[&roles]).await.unwrap() {
            let found = Access {
                policies_apply: row.get(2),
                columns: row.get(3),
            };
            access.insert((row.get(0), row.get(1)), found);
        }
        Self { tables, access }
    }

    pub(super) fn table(&self, name: &str) -> Option<&Table> {
        self.tables.iter().find(|table| table.name == name)
    }

    /// Tables whose rows come through the stream under their own name.
    pub(super) fn streamed(&self) -> impl Iterator<Item = &Table> {
        self.tables
            .iter()
            .filter(|table| table.is_published && !table.is_root)
    }
}

impl Table {
    /// Tables that others look into; their own policies call no function.
    pub(super) fn is_base(&self) -> bool {
        matches!(
            self.name.as_str(),
            "member" | "team" | "profile" | "share" | "hidden"
        )
    }
}
