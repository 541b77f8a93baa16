//! Values: a type's text form in, the JSON that Postgres' `to_jsonb` makes of the value out (protocol.md §4.2).
//!
//! Nothing fails: a text that does not have its type's form, as after a change of the column's type, becomes a JSON
//! string. The output is valid JSON for any bytes. Its size is bounded by a small multiple of the text's, and the
//! stack does not grow with the text.
//!
//! Casts to `json` that extensions define (`hstore`, PostGIS) are not followed: such values are strings of their text.

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

mod array;
mod builtin;
mod json;
mod number;
mod record;
mod scan;
mod text;
mod time;

#[cfg(test)]
mod cases;
#[cfg(test)]
mod tests;

use builtin::builtin;
pub(super) use text::string;

use crate::catalog::{Catalog, TypeKind};
use crate::change::Oid;

/// Name of a type that the catalog does not hold: it was dropped after the change was written.
const UNKNOWN_TYPE: &str = "unknown";

/// Zeros that exponents may unfold into, per record: `1e300` is 301 digits to `jsonb`. Beyond it numbers keep their
/// exponent, which is the same number to every JSON parser, so that a row of short texts cannot become a huge payload.
const ZEROS_MAX: usize = 1024 * 1024;

/// Arrays of composites of arrays and so on. Each level of Postgres' quoting doubles the quotes of those within, so
/// that real values stay far below.
const NESTING_MAX: u8 = 32;

/// What the text of a type is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form<'a> {
    /// `t` or `f`.
    Bool,
    /// `int2`, `int4`, `int8`.
    Integer,
    /// `numeric`, `float4`, `float8`.
    Decimal,
    /// `\x` and hexadecimal digits.
    Bytea,
    /// Date and time with a space between.
    Timestamp,
    /// The same with an offset.
    TimestampTz,
    /// `json`, `jsonb`.
    Json,
    /// An array literal.
    Array {
        /// Element type.
        element: Oid,
        /// Between elements.
        delimiter: u8,
    },
    /// `int2vector`, `oidvector`: elements with spaces between.
    Vector {
        /// Element type.
        element: Oid,
    },
    /// A row literal.
    Composite(&'a [(Box<str>, Oid)]),
    /// Anything whose JSON is a string of its text.
    Text,
}

/// The text does not have the form of its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Malformed;

/// Where a value stands: the reference treats a column's own value differently from one inside an array or row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// The value of a column.
    Column,
    /// Inside an array or a composite value.
    Nested,
}

/// Renders the values of one record.
pub(super) struct Renderer<'a> {
    catalog: &'a Catalog,
    zeros_left: usize,
    nesting: u8,
}

impl<'a> Renderer<'a> {
    pub(super) const fn new(catalog: &'a Catalog) -> Self {
        Self {
            catalog,
            zeros_left: ZEROS_MAX,
            nesting: 0,
        }
    }

    /// `pg_type.typname`; `unknown` for a type that the catalog does not hold.
    pub(super) fn type_name(&self, oid: Oid) -> &'a str {
        match builtin(oid) {
            Some((name, _)) => name,
            None => self
                .catalog
                .types
                .get(&oid)
                .map_or(UNKNOWN_TYPE, |found| &found.name),
        }
    }

    /// Appends the JSON of a column's value.
    pub(super) fn column(&mut self, out: &mut Vec<u8>, oid: Oid, text: &[u8]) {
        self.value(out, oid, text, Place::Column);
    }

    /// Appends the JSON of an array's element or a composite's field.
    fn nested(&mut self, out: &mut Vec<u8>, oid: Oid, text: &[u8]) {
        self.value(out, oid, text, Place::Nested);
    }

    fn value(&mut self, out: &mut Vec<u8>, oid: Oid, text: &[u8], place: Place) {
        let start = out.len();
        if self.write(out, self.form(oid), text, place) == Err(Malformed) {
            out.truncate(start);
            string(out, text);
        }
    }

    fn write(
        &mut self,
        out: &mut Vec<u8>,
        form: Form<'_>,
        text: &[u8],
        place: Place,
    ) -> Result<(), Malformed> {
        match form {
            Form::Text => string(out, text),
            Form::Bool => match text {
                b"t" => out.extend_from_slice(b"true"),
                b"f" => out.extend_from_slice(b"false"),
                _ => return Err(Malformed),
            },
            Form::Integer => number::integer(out, text)?,
            Form::Decimal => match (text, place) {
                (b"NaN" | b"Infinity" | b"-Infinity", Place::Column) => {
                    out.extend_from_slice(b"null");
                }
                _ => number::decimal(out, text, &mut self.zeros_left)?,
            },
            Form::Bytea => match place {
                Place::Column => string(out, text.strip_prefix(b"\\x").unwrap_or(text)),
                Place::Nested => string(out, text),
            },
            Form::Timestamp => time::timestamp(out, text)?,
            Form::TimestampTz => time::timestamptz(out, text)?,
            Form::Json => json::json(out, text, &mut self.zeros_left)?,
            Form::Array { element, delimiter } => {
                let list = array::Array { element, delimiter };
                self.descend(|renderer| array::array(renderer, out, list, text))?;
            }
            Form::Vector { element } => array::vector(self, out, element, text),
            Form::Composite(fields) => {
                self.descend(|renderer| record::record(renderer, out, fields, text))?;
            }
        }
        Ok(())
    }

    fn descend(
        &mut self,
        into: impl FnOnce(&mut Self) -> Result<(), Malformed>,
    ) -> Result<(), Malformed> {
        if self.nesting >= NESTING_MAX {
            return Err(Malformed);
        }
        self.nesting = self.nesting.saturating_add(1);
        let result = into(self);
        self.nesting = self.nesting.saturating_sub(1);
        result
    }

    /// The form of a type, seen through domains.
    fn form(&self, mut oid: Oid) -> Form<'a> {
        // Postgres allows domains over domains but no cycle; the bound keeps a torn picture from spinning.
        for _ in 0..32 {
            if let Some((_, form)) = builtin(oid) {
                return form;
            }
            let Some(found) = self.catalog.types.get(&oid) else {
                return Form::Text;
            };
            match &found.kind {
                TypeKind::Domain { base } => oid = *base,
                TypeKind::Array { element, delimiter } => {
                    return Form::Array {
                        element: *element,
                        delimiter: *delimiter,
                    };
                }
                TypeKind::Composite { fields } => return Form::Composite(fields),
                TypeKind::Base | TypeKind::Enum { .. } | TypeKind::Range | TypeKind::Multirange => {
                    return Form::Text;
                }
            }
        }
        Form::Text
    }
}
