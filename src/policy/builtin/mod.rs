//! Built-in functions of Postgres by their `pg_proc` OID, which are fixed in `pg_proc.dat`.
//!
//! Operators are their functions; casts with a function as well. What is not here is refused by name when a policy is
//! compiled. A strict function is never called with a NULL argument: the caller returns NULL.

mod aggregate;
mod array;
mod bits;
mod compare;
mod integer;
mod json;
mod jsonb;
mod moment;
mod number;
mod pattern;
mod regex;
mod session;
mod sets;
mod text;

use std::sync::Arc;

use super::value::{Array, Interval, Json, Numeric, Oid, SqlError, Types, Value};

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
    pub settings: std::collections::BTreeMap<Box<str>, Arc<str>>,
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
    session::scalar(function)
        .or_else(|| compare::scalar(function))
        .or_else(|| integer::scalar(function))
        .or_else(|| number::scalar(function))
        .or_else(|| text::scalar(function))
        .or_else(|| pattern::scalar(function))
        .or_else(|| bits::scalar(function))
        .or_else(|| moment::scalar(function))
        .or_else(|| array::scalar(function))
        .or_else(|| jsonb::scalar(function))
        .or_else(|| json::scalar(function))
}

/// The aggregate with this OID, if it is known.
#[must_use]
pub fn aggregate(function: Oid) -> Option<&'static Aggregate> {
    aggregate::aggregate(function)
}

/// The set-returning function with this OID, if it is known.
#[must_use]
pub fn set_returning(function: Oid) -> Option<&'static SetReturning> {
    sets::set_returning(function)
}

/// Whether a function can answer for this pattern, its second argument; true if it takes none. Patterns that are not
/// constant raise `XX000` when they are met.
#[must_use]
pub fn knows_pattern(function: Oid, pattern: &str, collation: Collation) -> bool {
    pattern::knows(function, pattern, collation)
}

/// Whether the answer of a function depends on which letters are the cases of each other.
#[must_use]
pub const fn changes_cases(function: Oid) -> bool {
    text::changes_cases(function) || pattern::is_caseless(function)
}

/// A strict function.
macro_rules! strict {
    ($eval:expr) => {{
        static FOUND: super::Builtin = super::Builtin {
            strict: true,
            needs_bytewise: false,
            eval: $eval,
        };
        &FOUND
    }};
}

/// A strict function that knows the order of text by bytes only.
macro_rules! bytewise {
    ($eval:expr) => {{
        static FOUND: super::Builtin = super::Builtin {
            strict: true,
            needs_bytewise: true,
            eval: $eval,
        };
        &FOUND
    }};
}

/// A function that is called with NULLs as well.
macro_rules! lax {
    ($eval:expr) => {{
        static FOUND: super::Builtin = super::Builtin {
            strict: false,
            needs_bytewise: false,
            eval: $eval,
        };
        &FOUND
    }};
}

use {bytewise, lax, strict};

fn unexpected() -> SqlError {
    SqlError::internal("an argument of another type than the function takes")
}

/// One method for each kind of argument.
macro_rules! arguments {
    ($($name:ident $kind:ident $result:ty;)*) => {
        impl Call<'_> {
            $(fn $name(&self, index: usize) -> Result<$result, SqlError> {
                match self.args.get(index) {
                    Some(Value::$kind(value)) => Ok(value),
                    _ => Err(unexpected()),
                }
            })*
        }
    };
}

arguments! {
    bool Bool &bool;
    int Int &i64;
    numeric Numeric &Numeric;
    text Text &Arc<str>;
    bytes Bytes &Arc<[u8]>;
    bits Bits &Arc<[u8]>;
    date Date &i32;
    interval Interval &Interval;
    json Json &Arc<str>;
    jsonb Jsonb &Arc<Json>;
    array Array &Arc<Array>;
}

impl Call<'_> {
    fn any(&self, index: usize) -> Result<&Value, SqlError> {
        self.args.get(index).ok_or_else(unexpected)
    }

    fn float(&self, index: usize) -> Result<f64, SqlError> {
        match self.args.get(index) {
            Some(Value::Float(bits)) => Ok(f64::from_bits(*bits)),
            _ => Err(unexpected()),
        }
    }

    fn type_of(&self, index: usize) -> Oid {
        self.arg_types.get(index).copied().unwrap_or(0)
    }

    /// Type of the elements of an array argument.
    fn element(&self, index: usize) -> Result<Oid, SqlError> {
        self.types
            .element(self.type_of(index))
            .ok_or_else(unexpected)
    }
}
