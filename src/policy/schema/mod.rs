//! What the compiler must know of a database: an immutable picture of its types, tables, policies, functions,
//! operators, casts, roles and grants.
//!
//! Follows the Postgres manual, "System Catalogs". Loading it is `load`'s work.

mod collation;
mod load;
mod settings;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::value::{Oid, Types};

pub use load::{LoadError, load};

/// A database as the compiler sees it.
#[derive(Debug, Default)]
pub struct Schema {
    /// All types.
    pub types: Arc<Types>,
    /// Types by schema and name.
    pub type_names: HashMap<(Box<str>, Box<str>), Oid>,
    /// Tables, views and the like outside the system's schemas, by OID.
    pub tables: HashMap<Oid, Arc<Table>>,
    /// The same by schema and name.
    pub table_names: HashMap<(Box<str>, Box<str>), Oid>,
    /// Where the rows of a relation come from besides itself: its partitions and children, and what a view reads.
    pub sources: HashMap<Oid, Vec<Oid>>,
    /// What decides who may insert into `realtime.messages`, as `pg_get_expr` prints it under an empty search path.
    pub message_checks: Vec<Box<str>>,
    /// Functions that a view calls.
    pub view_functions: HashMap<Oid, Vec<Oid>>,
    /// Functions and aggregates by OID.
    pub functions: HashMap<Oid, Arc<Function>>,
    /// The same by name, in all schemas.
    pub function_names: HashMap<Box<str>, Vec<Arc<Function>>>,
    /// Operators by name, in all schemas.
    pub operators: HashMap<Box<str>, Vec<Arc<Operator>>>,
    /// Casts by source and target.
    pub casts: HashMap<(Oid, Oid), Cast>,
    /// Roles by OID.
    pub roles: HashMap<Oid, Role>,
    /// Schemas by name, with the roles that may use them.
    pub namespaces: HashMap<Box<str>, HashSet<Oid>>,
    /// Collations by OID.
    pub collations: HashMap<Oid, CollationKind>,
    /// `search_path` of the session that asks Postgres, `$user` left out.
    pub search_path: Vec<Box<str>>,
    /// Equality functions of the default operator classes, by type: what IN, DISTINCT and indexes mean.
    pub equality: HashMap<Oid, Oid>,
    /// Settings of applications that are named in policies and functions and have no value but one that is given to a
    /// single transaction; in lower case. Others may have a value from the database, the role or the server.
    pub unset: HashSet<Box<str>>,
    /// A setting with a value under which policies mean something else than usual.
    pub unusual: Option<Box<str>>,
}

/// How a collation compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CollationKind {
    /// By bytes.
    Bytes,
    /// By a locale; equality is by bytes, and ASCII letters have their usual cases.
    Locale,
    /// By a locale in which ASCII letters may have other cases, or that is not known; equality is by bytes.
    OddCases,
    /// Different texts may be equal.
    Nondeterministic,
}

/// A relation with columns.
#[derive(Clone, Debug)]
pub struct Table {
    /// `pg_class.oid`.
    pub oid: Oid,
    /// Schema name.
    pub schema: Box<str>,
    /// Name.
    pub name: Box<str>,
    /// `pg_class.relkind`.
    pub kind: u8,
    /// `pg_class.relpersistence` is permanent.
    pub permanent: bool,
    /// Other tables inherit from it or are its partitions.
    pub has_children: bool,
    /// Its row type.
    pub row_type: Oid,
    /// Owner.
    pub owner: Oid,
    /// Row security is enabled.
    pub row_security: bool,
    /// Row security applies to the owner as well.
    pub force_row_security: bool,
    /// Live columns in order.
    pub columns: Arc<[Column]>,
    /// Sets of columns that identify a row: valid unique indexes without expressions and predicates.
    pub keys: Vec<Key>,
    /// Its policies for reading, by name.
    pub policies: Vec<Policy>,
    /// Roles that may SELECT from all of it.
    pub readers: HashSet<Oid>,
    /// Roles that may SELECT some columns only.
    pub column_readers: HashSet<Oid>,
}

/// A unique key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Indexes into the table's columns.
    pub columns: BTreeSet<usize>,
    /// It is the primary key.
    pub primary: bool,
}

/// A column.
#[derive(Clone, Debug)]
pub struct Column {
    /// Unquoted name.
    pub name: Box<str>,
    /// `pg_attribute.attnum`.
    pub number: i16,
    /// Type.
    pub type_oid: Oid,
    /// Type modifier.
    pub typmod: i32,
    /// Collation; 0 if not collatable.
    pub collation: Oid,
    /// NOT NULL.
    pub not_null: bool,
    /// A generated column: the stream may not carry it.
    pub generated: bool,
}

/// A policy that concerns reading.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Name.
    pub name: Box<str>,
    /// Rows pass if any permissive policy says so, and all restrictive ones.
    pub permissive: bool,
    /// Roles; 0 is PUBLIC.
    pub roles: Vec<Oid>,
    /// Its USING expression as `pg_get_expr` prints it under an empty search path; without one the policy
    /// neither shows nor hides anything.
    pub qual: Option<Box<str>>,
}

/// A function, procedure or aggregate.
#[derive(Clone, Debug)]
pub struct Function {
    /// `pg_proc.oid`.
    pub oid: Oid,
    /// Schema name.
    pub schema: Box<str>,
    /// Name.
    pub name: Box<str>,
    /// Types of the input arguments.
    pub arguments: Box<[Oid]>,
    /// Names of the input arguments, if any has one.
    pub argument_names: Box<[Option<Box<str>>]>,
    /// Names and types of OUT, INOUT and TABLE arguments.
    pub outputs: Box<[(Box<str>, Oid)]>,
    /// Default expressions of the last arguments.
    pub defaults: Box<[Box<str>]>,
    /// Element type of a VARIADIC argument; 0 without.
    pub variadic: Oid,
    /// Return type.
    pub result: Oid,
    /// Returns a set.
    pub returns_set: bool,
    /// `f`, `p`, `a`, `w`.
    pub kind: u8,
    /// Language name.
    pub language: Box<str>,
    /// `prosrc`, or the SQL body.
    pub body: Box<str>,
    /// The body is stored as a parse tree, so that its names are bound.
    pub bound: bool,
    /// SECURITY DEFINER.
    pub definer: bool,
    /// Owner.
    pub owner: Oid,
    /// NULL for a NULL argument.
    pub strict: bool,
    /// `i`, `s`, `v`.
    pub volatility: u8,
    /// Its SET clauses, as `name=value`.
    pub config: Box<[Box<str>]>,
    /// Planner cost.
    pub cost: f32,
    /// Roles that may execute it; `None` for functions of the system that everybody may execute.
    pub executors: Option<HashSet<Oid>>,
}

/// An operator.
#[derive(Clone, Debug)]
pub struct Operator {
    /// Schema name.
    pub schema: Box<str>,
    /// Name.
    pub name: Box<str>,
    /// Left argument; 0 for prefix operators.
    pub left: Oid,
    /// Right argument.
    pub right: Oid,
    /// Result.
    pub result: Oid,
    /// Its function.
    pub function: Oid,
    /// Its selectivity is estimated from the values compared, so that the planner evaluates them.
    pub estimated: bool,
}

/// A cast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cast {
    /// `i` implicit, `a` assignment, `e` explicit.
    pub context: u8,
    /// `f` function, `i` text form, `b` none.
    pub method: u8,
    /// The function.
    pub function: Oid,
}

/// A role.
#[derive(Clone, Debug)]
pub struct Role {
    /// Name.
    pub name: Box<str>,
    /// Superuser.
    pub superuser: bool,
    /// BYPASSRLS.
    pub bypasses: bool,
    /// Roles whose privileges it has, itself included.
    pub privileges_of: HashSet<Oid>,
}

impl Schema {
    /// Finds a role by name.
    #[must_use]
    pub fn role(&self, name: &str) -> Option<Oid> {
        self.roles
            .iter()
            .find_map(|(oid, role)| (*role.name == *name).then_some(*oid))
    }

    /// Finds a table by schema and name.
    #[must_use]
    pub fn table(&self, schema: &str, name: &str) -> Option<&Arc<Table>> {
        let oid = self.table_names.get(&(schema.into(), name.into()))?;
        self.tables.get(oid)
    }

    /// Whether a role has the privileges of another.
    #[must_use]
    pub fn has_privileges_of(&self, role: Oid, other: Oid) -> bool {
        self.roles
            .get(&role)
            .is_some_and(|role| role.superuser || role.privileges_of.contains(&other))
    }

    /// Whether policies never apply to a role on a table.
    #[must_use]
    pub fn exempt(&self, role: Oid, table: &Table) -> bool {
        let Some(found) = self.roles.get(&role) else {
            return false;
        };
        found.superuser
            || found.bypasses
            || (!table.force_row_security && self.has_privileges_of(role, table.owner))
    }

    /// Whether a role may use a schema.
    #[must_use]
    pub fn may_use(&self, role: Oid, schema: &str) -> bool {
        schema == "pg_catalog"
            || self
                .namespaces
                .get(schema)
                .is_some_and(|users| users.contains(&role))
    }
}
