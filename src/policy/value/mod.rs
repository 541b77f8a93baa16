//! Values of SQL types, and what a type can do with them: text to value, value to text, equality, order.
//!
//! A value does not know its type; whoever handles it does. Follows the Postgres manual, "Data Types", and
//! rls-semantics.md §6. What is not listed as supported is refused when a policy is compiled, never guessed.

mod array;
mod interval;
mod json;
pub(super) mod json_text;
pub(super) mod moment;
mod numeric;
pub(super) mod scalar;
mod text;
mod typing;

use std::cmp::Ordering;
use std::sync::Arc;

pub use crate::change::Oid;
pub use array::Array;
pub use json::Json;
pub(super) use json::quote as quote_json;
pub use numeric::{Decimal, Numeric};
use scalar::{depends_on_version, is_space, newer_number};
pub use typing::{Field, Kind, Type, Types, oid};

/// A value of some SQL type.
///
/// `Eq` and `Hash` are of the representation; [`canonical`] makes them agree with the type's equality.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Value {
    /// SQL NULL, of any type.
    Null,
    /// `boolean`.
    Bool(bool),
    /// `smallint`, `integer`, `bigint`, `oid` and its aliases.
    Int(i64),
    /// `numeric`.
    Numeric(Numeric),
    /// `real` (kept rounded to it) and `double precision`, as bits.
    Float(u64),
    /// `text`, `varchar`, `bpchar` (blanks kept), `name`, `citext`, an enum's label, and literals without a type.
    Text(Arc<str>),
    /// `bytea`.
    Bytes(Arc<[u8]>),
    /// `uuid`.
    Uuid([u8; 16]),
    /// `date`: days since 2000-01-01; `i32::MIN` and `i32::MAX` are the infinities.
    Date(i32),
    /// `time`: microseconds since midnight.
    Time(i64),
    /// `timetz`: microseconds since midnight, and the zone in seconds west of Greenwich.
    TimeTz(i64, i32),
    /// `timestamp`: microseconds since 2000-01-01; `i64::MIN` and `i64::MAX` are the infinities.
    Timestamp(i64),
    /// `timestamptz`: the same in UTC.
    TimestampTz(i64),
    /// `interval`.
    Interval(Interval),
    /// `json`, as written.
    Json(Arc<str>),
    /// `jsonb`.
    Jsonb(Arc<Json>),
    /// An array of any type.
    Array(Arc<Array>),
    /// `bit` and `varbit`: one byte, 0 or 1, for each bit.
    Bits(Arc<[u8]>),
    /// A row.
    Record(Arc<[Self]>),
}

/// An `interval`; its three parts are independent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Interval {
    /// Months.
    pub months: i32,
    /// Days.
    pub days: i32,
    /// Microseconds.
    pub micros: i64,
}

impl Value {
    /// A text value.
    #[must_use]
    pub fn text(text: &str) -> Self {
        Self::Text(Arc::from(text))
    }

    /// Whether this is SQL NULL.
    #[must_use]
    pub const fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }
}

/// An error that Postgres would raise.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message} ({sqlstate})")]
pub struct SqlError {
    /// Its SQLSTATE.
    pub sqlstate: Box<str>,
    /// Its message; for operators, never for subscribers.
    pub message: Box<str>,
}

impl SqlError {
    /// An error with this SQLSTATE.
    #[must_use]
    pub fn new(sqlstate: &str, message: impl Into<Box<str>>) -> Self {
        Self {
            sqlstate: sqlstate.into(),
            message: message.into(),
        }
    }

    /// What Postgres would answer depends on something that we do not know, such as the order of rows on disk: ask it.
    #[must_use]
    pub fn undecided(what: &str) -> Self {
        Self::new("UNDEC", what)
    }

    /// Whether only Postgres can tell.
    #[must_use]
    pub fn is_undecided(&self) -> bool {
        matches!(&*self.sqlstate, "UNDEC" | "XX000")
    }

    /// What the library does not know, or a mistake of ours: never an answer, Postgres must be asked.
    #[must_use]
    pub fn internal(message: &str) -> Self {
        Self::new("XX000", message)
    }
}

/// Reads a value as the type's input function does, then applies the type modifier (-1: none) as an explicit cast
/// does.
///
/// # Errors
/// Whatever the input function raises; `XX000` for types that are not supported.
pub fn input(types: &Types, type_oid: Oid, typmod: i32, text: &str) -> Result<Value, SqlError> {
    text::input(types, type_oid, typmod, text)
}

/// Applies a type modifier as an explicit cast or (`explicit` false) an assignment does.
///
/// # Errors
/// The value does not fit; `XX000` for modifiers that are not supported.
pub fn with_typmod(
    types: &Types,
    type_oid: Oid,
    typmod: i32,
    value: Value,
    explicit: bool,
) -> Result<Value, SqlError> {
    text::with_typmod(types, types.base(type_oid), typmod, value, explicit)
}

/// Prints a value (not NULL) as the type's output function does, with UTC and the default settings of the session.
///
/// # Errors
/// `XX000` for types that are not supported.
pub fn output(types: &Types, type_oid: Oid, value: &Value) -> Result<String, SqlError> {
    text::output(types, type_oid, value)
}

/// Whether values of this type can be read, printed and carried. Says nothing about equality and order.
#[must_use]
pub fn supported(types: &Types, type_oid: Oid) -> bool {
    text::supported(types, type_oid)
}

/// Whether [`compare`] knows the order of this type's default b-tree operator class. `bytewise`: the collation orders
/// text by bytes (C or POSIX).
#[must_use]
pub fn ordered(types: &Types, type_oid: Oid, bytewise: bool) -> bool {
    text::ordered(types, type_oid, bytewise)
}

/// Whether [`equal`] and [`canonical`] know the equality of this type's default b-tree or hash operator class, under
/// deterministic collations.
#[must_use]
pub fn equatable(types: &Types, type_oid: Oid) -> bool {
    text::equatable(types, type_oid)
}

/// Compares two values that are not NULL by the type's default b-tree operator class; text by bytes.
///
/// # Errors
/// `XX000` for types without a known order.
pub fn compare(types: &Types, type_oid: Oid, a: &Value, b: &Value) -> Result<Ordering, SqlError> {
    text::compare(types, type_oid, a, b)
}

/// Whether two values that are not NULL are equal by the type's default operator class.
///
/// # Errors
/// `XX000` for types without a known equality.
pub fn equal(types: &Types, type_oid: Oid, a: &Value, b: &Value) -> Result<bool, SqlError> {
    Ok(canonical(types, type_oid, a)? == canonical(types, type_oid, b)?)
}

/// The representative of all values equal to this one by the type's default operator class: their `Eq` and `Hash` are
/// the type's equality. NULL is its own representative.
///
/// # Errors
/// `XX000` for types without a known equality.
pub fn canonical(types: &Types, type_oid: Oid, value: &Value) -> Result<Value, SqlError> {
    text::canonical(types, type_oid, value)
}
