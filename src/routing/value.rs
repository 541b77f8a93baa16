//! Values of the types that walcast compares by itself, read from their text form (rls-semantics.md §6).
//!
//! A type and a text go in, a value that is ordered as Postgres orders it comes out. What is not certain to be ordered
//! the same way everywhere has no [`Family`] but [`Family::Opaque`].

use std::cmp::Ordering;

use super::moment::Moment;
use super::numeric::Numeric;
use crate::catalog::{Catalog, Collation, Column, TypeKind};
use crate::change::Oid;

/// How the texts of a column are to be understood.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Family {
    /// `smallint`, `integer`, `bigint`, `oid`.
    Integer,
    /// `boolean`: `f` before `t`.
    Boolean,
    /// Types whose text form is one-to-one and ordered like its bytes: `uuid`, `bytea`, `bit`, `macaddr`.
    Bytes,
    /// `text`, `varchar`, `name`.
    Text(TextOrder),
    /// `char(n)`: as text, but trailing blanks do not count.
    Padded(TextOrder),
    /// `numeric`.
    Numeric,
    /// `real`.
    Real,
    /// `double precision`.
    Double,
    /// `date`.
    Date,
    /// `time`.
    Time,
    /// `timestamp`.
    Timestamp,
    /// `timestamptz`.
    Timestamptz,
    /// An enum; ordered as its labels are.
    Enum(Box<[Box<str>]>),
    /// Anything else: only Postgres can compare it.
    Opaque,
}

/// How far a collation lets texts be compared here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum TextOrder {
    /// Bytewise, and case mapping concerns ASCII letters only.
    C,
    /// Equality is equality of bytes; order and case mapping are not known.
    Unknown,
}

/// A value of a known [`Family`]; the derived order is Postgres' within one family.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Value {
    /// A whole number, a truth value, or the position of a label.
    Integer(i64),
    /// Bytes in their text form.
    Text(Box<str>),
    /// A `numeric`.
    Numeric(Numeric),
    /// A floating-point number by its place in the order of all of them.
    Float(u64),
    /// A date or time.
    Moment(Moment),
}

/// `pg_type.oid` of the types that are built in (Postgres manual, "Data Types"; the numbers never change).
pub(super) mod oid {
    use crate::change::Oid;

    pub(in crate::routing) const BOOL: Oid = 16;
    pub(in crate::routing) const BYTEA: Oid = 17;
    pub(in crate::routing) const NAME: Oid = 19;
    pub(in crate::routing) const INT8: Oid = 20;
    pub(in crate::routing) const INT2: Oid = 21;
    pub(in crate::routing) const INT4: Oid = 23;
    pub(in crate::routing) const TEXT: Oid = 25;
    pub(in crate::routing) const OID: Oid = 26;
    pub(in crate::routing) const FLOAT4: Oid = 700;
    pub(in crate::routing) const FLOAT8: Oid = 701;
    pub(in crate::routing) const MACADDR8: Oid = 774;
    pub(in crate::routing) const MACADDR: Oid = 829;
    pub(in crate::routing) const BPCHAR: Oid = 1042;
    pub(in crate::routing) const VARCHAR: Oid = 1043;
    pub(in crate::routing) const DATE: Oid = 1082;
    pub(in crate::routing) const TIME: Oid = 1083;
    pub(in crate::routing) const TIMESTAMP: Oid = 1114;
    pub(in crate::routing) const TIMESTAMPTZ: Oid = 1184;
    pub(in crate::routing) const BIT: Oid = 1560;
    pub(in crate::routing) const VARBIT: Oid = 1562;
    pub(in crate::routing) const NUMERIC: Oid = 1700;
    pub(in crate::routing) const UUID: Oid = 2950;
}

impl Family {
    /// How the values of a column compare. Domains are what they are made of.
    pub(super) fn of(catalog: &Catalog, column: &Column) -> Self {
        let Some(base) = catalog.base_type(column.type_oid) else {
            return Self::Opaque;
        };
        if let TypeKind::Enum { labels } = &base.kind {
            return Self::Enum(labels.clone());
        }
        let text_order = match column.collation {
            Collation::C => Some(TextOrder::C),
            Collation::Deterministic { .. } => Some(TextOrder::Unknown),
            Collation::None | Collation::Nondeterministic { .. } => None,
        };
        match base.oid {
            oid::INT2 | oid::INT4 | oid::INT8 | oid::OID => Self::Integer,
            oid::BOOL => Self::Boolean,
            oid::BYTEA | oid::UUID | oid::MACADDR | oid::MACADDR8 | oid::BIT | oid::VARBIT => {
                Self::Bytes
            }
            oid::TEXT | oid::VARCHAR | oid::NAME => text_order.map_or(Self::Opaque, Self::Text),
            oid::BPCHAR => text_order.map_or(Self::Opaque, Self::Padded),
            oid::NUMERIC => Self::Numeric,
            oid::FLOAT4 => Self::Real,
            oid::FLOAT8 => Self::Double,
            oid::DATE => Self::Date,
            oid::TIME => Self::Time,
            oid::TIMESTAMP => Self::Timestamp,
            oid::TIMESTAMPTZ => Self::Timestamptz,
            _ => Self::Opaque,
        }
    }

    /// Reads a text form; `None` for text that the family does not print, and for opaque values.
    pub(super) fn parse(&self, text: &str) -> Option<Value> {
        Some(match self {
            Self::Integer => Value::Integer(text.parse().ok()?),
            Self::Boolean => Value::Integer(match text {
                "f" => 0,
                "t" => 1,
                _ => return None,
            }),
            Self::Bytes | Self::Text(_) => Value::Text(text.into()),
            Self::Padded(_) => Value::Text(text.trim_end_matches(' ').into()),
            Self::Numeric => Value::Numeric(Numeric::parse(text)?),
            Self::Real => Value::Float(float_place(f64::from(text.parse::<f32>().ok()?))),
            Self::Double => Value::Float(float_place(text.parse().ok()?)),
            Self::Date => Value::Moment(Moment::date(text)?),
            Self::Time => Value::Moment(Moment::time(text)?),
            Self::Timestamp => Value::Moment(Moment::timestamp(text)?),
            Self::Timestamptz => Value::Moment(Moment::timestamptz(text)?),
            Self::Enum(labels) => {
                let position = labels.iter().position(|label| &**label == text)?;
                Value::Integer(i64::try_from(position).ok()?)
            }
            Self::Opaque => return None,
        })
    }

    /// How `text` compares with `operand`; `None` if `text` cannot be read.
    pub(super) fn compare(&self, text: &str, operand: &Value) -> Option<Ordering> {
        if let (Self::Bytes | Self::Text(_), Value::Text(operand)) = (self, operand) {
            return Some(text.cmp(operand));
        }
        Some(self.parse(text)?.cmp(operand))
    }

    /// Whether `<` and `>` are decided here, not only `=`.
    pub(super) const fn is_ordered(&self) -> bool {
        !matches!(
            self,
            Self::Text(TextOrder::Unknown) | Self::Padded(TextOrder::Unknown) | Self::Opaque
        )
    }

    /// Whether every text that Postgres prints can be read.
    pub(super) const fn is_total(&self) -> bool {
        // A label may be added to an enum after the catalog was read.
        !matches!(self, Self::Enum(_) | Self::Opaque)
    }

    /// The collation's powers, for families of text.
    pub(super) const fn text_order(&self) -> Option<TextOrder> {
        match self {
            Self::Text(order) | Self::Padded(order) => Some(*order),
            _ => None,
        }
    }

    /// The value of an input that surely means the same to Postgres, so that it need not be asked; `None` for all
    /// others, which may still be valid. `type_oid` is the column's own type: a domain has constraints to ask about.
    pub(super) fn accept(&self, type_oid: Oid, input: &str) -> Option<Value> {
        let within = |min: i64, max: i64| {
            let value: i64 = input.parse().ok()?;
            // Only the form that is also printed: no sign, zeros or blanks to argue about.
            let canonical = value.to_string() == input && (min..=max).contains(&value);
            canonical.then_some(Value::Integer(value))
        };
        match type_oid {
            oid::INT2 => within(i16::MIN.into(), i16::MAX.into()),
            oid::INT4 => within(i32::MIN.into(), i32::MAX.into()),
            oid::INT8 => within(i64::MIN, i64::MAX),
            oid::OID => within(0, u32::MAX.into()),
            oid::BOOL => match input {
                "false" | "f" => Some(Value::Integer(0)),
                "true" | "t" => Some(Value::Integer(1)),
                _ => None,
            },
            oid::UUID => is_plain_uuid(input).then(|| self.parse(input))?,
            oid::TEXT | oid::VARCHAR | oid::BPCHAR => {
                is_plain_text(input).then(|| self.parse(input))?
            }
            _ => None,
        }
    }
}

/// Text that every database can hold. No text holds a zero byte, and not every server encoding has all characters;
/// Postgres has messages for both.
pub(super) fn is_plain_text(text: &str) -> bool {
    text.is_ascii() && !text.contains('\0')
}

/// Whether texts of two types mean the same, so that a condition on one can be tested on the other: rows written before
/// `alter table … alter column … type` are judged after it.
pub(super) const fn are_alike(left: Oid, right: Oid) -> bool {
    const fn kin(type_oid: Oid) -> u8 {
        match type_oid {
            oid::INT2 | oid::INT4 | oid::INT8 => 1,
            oid::TEXT | oid::VARCHAR => 2,
            _ => 0,
        }
    }
    kin(left) != 0 && kin(left) == kin(right)
}

/// The form in which Postgres prints a uuid.
fn is_plain_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(index, byte)| match index {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
        })
}

/// A number's place in Postgres' order of floating-point numbers: -0 equals 0, NaN equals itself and is the greatest
/// (Postgres manual, "Floating-Point Types").
fn float_place(value: f64) -> u64 {
    if value.is_nan() {
        return u64::MAX;
    }
    let bits = if value == 0.0 { 0 } else { value.to_bits() };
    const SIGN: u64 = 1 << 63;
    if bits & SIGN == 0 { bits | SIGN } else { !bits }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_ordered_as_in_postgres() {
        let ascending = [
            "-Infinity",
            "-1e308",
            "-1.5",
            "-1e-300",
            "0",
            "1e-300",
            "1.5",
            "1e308",
            "Infinity",
            "NaN",
        ];
        let places: Vec<_> = ascending
            .iter()
            .map(|text| Family::Double.parse(text).unwrap())
            .collect();
        assert!(places.is_sorted_by(|left, right| left < right));
        assert_eq!(Family::Double.parse("-0"), Family::Double.parse("0"));
        assert_eq!(Family::Real.parse("0.1"), Family::Real.parse("0.1"));
    }

    #[test]
    fn only_plain_inputs_are_accepted_unasked() {
        let accept = |oid, text| Family::Integer.accept(oid, text);
        assert_eq!(accept(oid::INT4, "5"), Some(Value::Integer(5)));
        assert_eq!(accept(oid::INT4, "-5"), Some(Value::Integer(-5)));
        for text in ["+5", " 5", "05", "-0", "5.0", "", "2147483648", "hey"] {
            assert_eq!(accept(oid::INT4, text), None, "{text}");
        }
        assert!(
            Family::Bytes
                .accept(oid::UUID, "0187a4e2-0000-7000-8000-00000000abcd")
                .is_some()
        );
        assert!(
            Family::Bytes
                .accept(oid::UUID, "0187A4E2-0000-7000-8000-00000000abcd")
                .is_none()
        );
        for (text, plain) in [("a b", true), ("a\0b", false), ("é", false)] {
            let accepted = Family::Text(TextOrder::C).accept(oid::TEXT, text);
            assert_eq!(accepted.is_some(), plain, "{text}");
        }
    }
}
