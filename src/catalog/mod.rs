//! What the database says about the published tables: columns, types, keys, grants, row security.
//!
//! A [`Catalog`] is an immutable picture taken in one snapshot; a change of the database makes a new one. Loading it is
//! `load`'s work. Follows the Postgres manual, "System Catalogs".

mod collation;
mod load;
mod sql;
mod watch;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use crate::change::{Oid, ReplicaIdentity};

pub use load::{LoadError, load};
pub use sql::{FINGERPRINT_SQL, core_sql};
pub use watch::{Glance, Watch};

/// Everything known about the published tables as of one snapshot.
#[derive(Debug, Default)]
pub struct Catalog {
    /// Changes whenever something that this picture was made from changes; compared as a whole, never parsed.
    pub fingerprint: Box<str>,
    /// Published tables by `pg_class.oid`.
    pub tables: HashMap<Oid, Arc<Table>>,
    /// Types of their columns, and whatever those types are made of, by `pg_type.oid`.
    pub types: HashMap<Oid, Arc<Type>>,
    /// Names of all roles that the login role may become.
    pub roles: BTreeMap<Box<str>, Role>,
    /// Of published tables, by `pg_class.oid`.
    pub access_marks: HashMap<Oid, AccessMark>,
    /// `realtime.messages` and its partitions by `pg_class.oid`; in `tables` only if a configured publication has them.
    pub messages: HashSet<Oid>,
}

/// Tells grants and row security of a table that were changed and changed back, though the table looks the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AccessMark {
    /// A hash of the `xmin`s of the rows that they come from. Whatever else is altered in these rows moves it as well.
    pub rights: i64,
    /// `pg_class.relfilenode`, which a TRUNCATE changes, or a rewrite.
    pub file: Oid,
}

/// A role of the cluster that the login role may become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Role {
    /// Superuser or BYPASSRLS: policies never apply.
    pub bypasses_row_security: bool,
}

/// A published table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// `pg_class.oid`; the relation OID of its changes.
    pub oid: Oid,
    /// Schema name, unquoted.
    pub schema: Box<str>,
    /// Table name, unquoted.
    pub name: Box<str>,
    /// Live columns in attribute order, generated ones included.
    pub columns: Box<[Column]>,
    /// Primary key: indexes into `columns` in key order; empty without one.
    pub primary_key: Box<[usize]>,
    /// What old tuples carry.
    pub identity: ReplicaIdentity,
    /// `pg_class.relrowsecurity`.
    pub row_security: bool,
    /// Which actions any of our publications publishes.
    pub published: Published,
    /// What each role may read; a role that is not here may read nothing.
    pub access: BTreeMap<Box<str>, Access>,
}

/// The `publish` flags of the publications that hold a table, united.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Published {
    /// INSERT is published.
    pub insert: bool,
    /// UPDATE is published.
    pub update: bool,
    /// DELETE is published.
    pub delete: bool,
    /// TRUNCATE is published.
    pub truncate: bool,
}

/// A live column of a published table.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Column {
    /// Unquoted name.
    pub name: Box<str>,
    /// `pg_attribute.attnum`.
    pub number: i16,
    /// `pg_attribute.atttypid`.
    pub type_oid: Oid,
    /// What is known about the column's collation.
    pub collation: Collation,
    /// `generated always as … stored` or virtual.
    pub generated: bool,
}

/// A column's collation, as far as comparisons need to know it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Collation {
    /// The type has none.
    None,
    /// Bytewise order and ASCII-only case mapping: `C` or `POSIX`, by name or as the database's default.
    C,
    /// Equality is equality of bytes; order and case mapping are the operating system's or ICU's.
    Deterministic {
        /// Schema-qualified, quoted name for a `collate` clause.
        name: Box<str>,
    },
    /// Not even equality is certain.
    Nondeterministic {
        /// Schema-qualified, quoted name for a `collate` clause.
        name: Box<str>,
    },
}

/// What one role may read of one table, by grants and attributes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// Whether the role may SELECT each of [`Table::columns`]; all false without USAGE on the schema.
    pub columns: Box<[bool]>,
    /// Whether policies decide about rows: row security is on, and the role is neither exempt by attribute nor as
    /// owner (without FORCE).
    pub policies_apply: bool,
}

/// A data type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Type {
    /// `pg_type.oid`.
    pub oid: Oid,
    /// `pg_type.typname`: `int8`, `_text`, `timestamptz`.
    pub name: Box<str>,
    /// The name as SQL spells it (`format_type`), qualified and quoted so that it can stand in a cast under any
    /// `search_path`.
    pub sql_name: Box<str>,
    /// How values are made up.
    pub kind: TypeKind,
}

/// How the values of a type are made up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TypeKind {
    /// A base type; what its text means follows from the OID.
    Base,
    /// A true array.
    Array {
        /// Element type.
        element: Oid,
        /// `pg_type.typdelim` of the element: `,` but for `box`.
        delimiter: u8,
    },
    /// Labels, in `enumsortorder`.
    Enum {
        /// The labels.
        labels: Box<[Box<str>]>,
    },
    /// Another type under constraints.
    Domain {
        /// The type below, itself perhaps a domain.
        base: Oid,
    },
    /// A row type.
    Composite {
        /// Name and type of each live attribute, in order.
        fields: Box<[(Box<str>, Oid)]>,
    },
    /// A range.
    Range,
    /// A multirange.
    Multirange,
}

impl Catalog {
    /// What `role` may read of the table `oid`; `None` if the table is not published or the role may read none of it.
    #[must_use]
    pub fn access(&self, oid: Oid, role: &str) -> Option<(&Arc<Table>, &Access)> {
        let table = self.tables.get(&oid)?;
        Some((table, table.access.get(role)?))
    }

    /// The type below all domains; `None` if the catalog does not know it.
    #[must_use]
    pub fn base_type(&self, mut oid: Oid) -> Option<&Arc<Type>> {
        // Postgres allows domains over domains but no cycle; the bound keeps a torn picture from spinning.
        for _ in 0..32 {
            let found = self.types.get(&oid)?;
            match found.kind {
                TypeKind::Domain { base } => oid = base,
                TypeKind::Base
                | TypeKind::Array { .. }
                | TypeKind::Enum { .. }
                | TypeKind::Composite { .. }
                | TypeKind::Range
                | TypeKind::Multirange => return Some(found),
            }
        }
        None
    }
}

impl Table {
    /// Position of the column `name` in [`Table::columns`].
    #[must_use]
    pub fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| &*column.name == name)
    }
}
