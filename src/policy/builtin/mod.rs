//! Built-in functions of Postgres by their `pg_proc` OID, which are fixed in `pg_proc.dat`.
//!
//! Operators are their functions; casts with a function as well. What is not here is refused by name when a policy is
//! compiled. A strict function is never called with a NULL argument: the caller returns NULL.

mod core;

use super::value::{Oid, SqlError, Types, Value};

/// One call of a built-in function.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// Evaluated arguments; the elements of a VARIADIC argument that was not passed as an array stand at the end.
    pub args: &'a [Value],
    /// Their types, polymorphic ones resolved.
    pub arg_types: &'a [Oid],
    /// Type of the result, resolved.
    pub result: Oid,
    /// The collation that the call was compiled for.
    pub collation: Collation,
    /// The types of the database.
    pub types: &'a Types,
    /// Who asks, and when.
    pub session: &'a Session,
}

/// How text is compared in one call. Equality is by bytes under all of them; others are refused when compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Collation {
    /// No argument is collatable.
    None,
    /// C or POSIX: order is by bytes, and only ASCII letters have cases.
    Bytes,
    /// Any other deterministic collation: order is unknown, cases are known for ASCII only.
    Other,
}

/// What a verdict depends on besides the row and the tables.
#[derive(Clone, Debug, Default)]
pub struct Session {
    /// Start of the reader's transaction: microseconds since 2000-01-01 in UTC. The time zone is always UTC.
    pub now: i64,
    /// Custom settings that have a value, by their lower-case names: `request.jwt.claims`, `request.jwt.claim.sub` ….
    pub settings: std::collections::BTreeMap<Box<str>, std::sync::Arc<str>>,
}

/// One value for each argument or column.
pub type Row = Box<[Value]>;

/// A function of one row.
#[derive(Clone, Copy, Debug)]
pub struct Builtin {
    /// NULL for a NULL argument, without a call.
    pub strict: bool,
    /// Text arguments are ordered, or their cases changed: only safe under [`Collation::Bytes`], or if the function
    /// itself answers with an error for what it cannot know. `true`: refuse it under [`Collation::Other`].
    pub needs_bytewise: bool,
    /// The work.
    pub eval: fn(&Call<'_>) -> Result<Value, SqlError>,
}

/// An aggregate function. The caller leaves out NULLs if `strict`, removes duplicates for DISTINCT, and sorts.
#[derive(Clone, Copy, Debug)]
pub struct Aggregate {
    /// Rows with a NULL in any argument are left out.
    pub strict: bool,
    /// As for [`Builtin`].
    pub needs_bytewise: bool,
    /// The result over all rows; `Call::args` is empty, each row holds one value for each argument.
    pub eval: fn(&Call<'_>, &[Row]) -> Result<Value, SqlError>,
}

/// A function that returns a set of rows.
#[derive(Clone, Copy, Debug)]
pub struct SetReturning {
    /// No rows for a NULL argument.
    pub strict: bool,
    /// The rows; one value for each output column.
    pub eval: fn(&Call<'_>) -> Result<Vec<Row>, SqlError>,
}

/// The function with this OID, if it is known.
#[must_use]
pub fn scalar(function: Oid) -> Option<&'static Builtin> {
    core::scalar(function)
}

/// The aggregate with this OID, if it is known.
#[must_use]
pub const fn aggregate(_function: Oid) -> Option<&'static Aggregate> {
    None
}

/// The set-returning function with this OID, if it is known.
#[must_use]
pub const fn set_returning(_function: Oid) -> Option<&'static SetReturning> {
    None
}
