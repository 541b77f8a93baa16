//! Rows as bytes: the kept columns one after the other, each a tag and what belongs to it.
//!
//! Text of the stream goes in, bytes come out, and values from bytes. Common types take about as many bytes as in
//! Postgres; every other value is kept as the text that it came as and read again when it is looked at. Equal texts
//! make equal bytes, so that keys can be compared without being read.

use std::sync::Arc;

use crate::policy::value::{self, Array, Oid, SqlError, Types, Value};

const NULL: u8 = 0;
/// Left out by the stream; never in a stored row.
const UNCHANGED: u8 = 1;
const FALSE: u8 = 2;
const TRUE: u8 = 3;
const INT: u8 = 4;
const UUID: u8 = 5;
const TEXT: u8 = 6;
const TIMESTAMPTZ: u8 = 7;
const TIMESTAMP: u8 = 8;
const DATE: u8 = 9;
/// One dimension from 1: a count, then the elements.
const ARRAY: u8 = 10;
/// The text form of any other value.
const RAW: u8 = 11;

/// Adds SQL NULL.
pub(super) fn push_null(row: &mut Vec<u8>) {
    row.push(NULL);
}

/// Adds the mark of a value that the stream left out.
pub(super) fn push_unchanged(row: &mut Vec<u8>) {
    row.push(UNCHANGED);
}

/// Adds text that nobody reads as a value.
pub(super) fn push_raw(row: &mut Vec<u8>, text: &str) {
    row.push(RAW);
    push_bytes(row, text.as_bytes());
}

/// Adds a value from its text form.
///
/// # Errors
/// The text is no value of the type.
pub(super) fn push_text(
    row: &mut Vec<u8>,
    types: &Types,
    type_oid: Oid,
    text: &str,
) -> Result<(), SqlError> {
    // Without the modifier: what the table holds fits it already.
    let value = value::input(types, type_oid, -1, text)?;
    let start = row.len();
    if !push_value(row, &value) {
        row.truncate(start);
        push_raw(row, text);
    }
    Ok(())
}

/// False if the value has no form of its own; what was added then means nothing.
fn push_value(row: &mut Vec<u8>, value: &Value) -> bool {
    match value {
        Value::Null => row.push(NULL),
        Value::Bool(false) => row.push(FALSE),
        Value::Bool(true) => row.push(TRUE),
        Value::Int(number) => {
            row.push(INT);
            push_number(row, zigzag(*number));
        }
        Value::Uuid(bytes) => {
            row.push(UUID);
            row.extend_from_slice(bytes);
        }
        Value::Text(text) => {
            row.push(TEXT);
            push_bytes(row, text.as_bytes());
        }
        Value::TimestampTz(micros) => {
            row.push(TIMESTAMPTZ);
            row.extend_from_slice(&micros.to_le_bytes());
        }
        Value::Timestamp(micros) => {
            row.push(TIMESTAMP);
            row.extend_from_slice(&micros.to_le_bytes());
        }
        Value::Date(days) => {
            row.push(DATE);
            row.extend_from_slice(&days.to_le_bytes());
        }
        Value::Array(array) => {
            let is_plain = match &*array.dimensions {
                [] => array.elements.is_empty(),
                [(_, lower)] => *lower == 1,
                _ => false,
            };
            row.push(ARRAY);
            push_number(row, u64::try_from(array.elements.len()).unwrap_or(u64::MAX));
            // An array inside an array is a type of its own (a domain over one); its text form will do.
            return is_plain
                && array.elements.iter().all(|element| {
                    !matches!(element, Value::Array(_)) && push_value(row, element)
                });
        }
        Value::Numeric(_)
        | Value::Float(_)
        | Value::Bytes(_)
        | Value::Time(_)
        | Value::TimeTz(..)
        | Value::Interval(_)
        | Value::Json(_)
        | Value::Jsonb(_)
        | Value::Bits(_)
        | Value::Record(_) => return false,
    }
    true
}

fn push_bytes(row: &mut Vec<u8>, bytes: &[u8]) {
    push_number(row, u64::try_from(bytes.len()).unwrap_or(u64::MAX));
    row.extend_from_slice(bytes);
}

/// Seven bits to a byte, lowest first.
fn push_number(row: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        let [low, ..] = number.to_le_bytes();
        row.push(low | 0x80);
        number >>= 7;
    }
    let [low, ..] = number.to_le_bytes();
    row.push(low);
}

const fn zigzag(number: i64) -> u64 {
    (number.cast_unsigned() << 1) ^ (number >> 63).cast_unsigned()
}

const fn unzigzag(number: u64) -> i64 {
    (number >> 1).cast_signed() ^ -(number & 1).cast_signed()
}

/// One column of a stored row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stored<'a>(&'a [u8]);

impl<'a> Stored<'a> {
    /// Its bytes, tag and all: equal bytes are the same text.
    pub(super) const fn bytes(self) -> &'a [u8] {
        self.0
    }

    /// Whether the stream left it out.
    pub(super) fn is_unchanged(self) -> bool {
        self.0.first() == Some(&UNCHANGED)
    }

    /// The value. NULL if the bytes are none, which cannot be: they were made from one.
    pub(super) fn value(self, types: &Types, type_oid: Oid) -> Value {
        take_value(&mut { self.0 }, types, type_oid).unwrap_or(Value::Null)
    }
}

/// The columns of a row.
pub(super) fn columns(row: &[u8]) -> impl Iterator<Item = Stored<'_>> {
    let mut rest = row;
    std::iter::from_fn(move || {
        let before = rest;
        skip(&mut rest)?;
        before
            .get(..before.len().saturating_sub(rest.len()))
            .map(Stored)
    })
}

fn skip(rest: &mut &[u8]) -> Option<()> {
    let fixed = match take(rest, 1)? {
        [NULL | UNCHANGED | FALSE | TRUE] => 0,
        [INT] => {
            take_number(rest)?;
            0
        }
        [UUID] => 16,
        [TIMESTAMPTZ | TIMESTAMP] => 8,
        [DATE] => 4,
        [TEXT | RAW] => usize::try_from(take_number(rest)?).ok()?,
        [ARRAY] => {
            for _ in 0..take_number(rest)? {
                skip(rest)?;
            }
            0
        }
        _ => return None,
    };
    take(rest, fixed).map(drop)
}

fn take_value(rest: &mut &[u8], types: &Types, type_oid: Oid) -> Option<Value> {
    Some(match take(rest, 1)? {
        [NULL | UNCHANGED] => Value::Null,
        [FALSE] => Value::Bool(false),
        [TRUE] => Value::Bool(true),
        [INT] => Value::Int(unzigzag(take_number(rest)?)),
        [UUID] => Value::Uuid(take_array(rest)?),
        [TEXT] => Value::Text(Arc::from(take_str(rest)?)),
        [TIMESTAMPTZ] => Value::TimestampTz(i64::from_le_bytes(take_array(rest)?)),
        [TIMESTAMP] => Value::Timestamp(i64::from_le_bytes(take_array(rest)?)),
        [DATE] => Value::Date(i32::from_le_bytes(take_array(rest)?)),
        [ARRAY] => {
            let element = types.element(type_oid)?;
            let count = take_number(rest)?;
            // No more room than there are bytes: each element has at least one.
            let mut elements = Vec::with_capacity(usize::try_from(count).ok()?.min(rest.len()));
            for _ in 0..count {
                elements.push(take_value(rest, types, element)?);
            }
            Value::Array(Arc::new(Array::one_dimension(elements)))
        }
        [RAW] => value::input(types, type_oid, -1, take_str(rest)?).ok()?,
        _ => return None,
    })
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some(taken)
}

fn take_array<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    take(rest, N)?.try_into().ok()
}

fn take_str<'a>(rest: &mut &'a [u8]) -> Option<&'a str> {
    let length = usize::try_from(take_number(rest)?).ok()?;
    std::str::from_utf8(take(rest, length)?).ok()
}

fn take_number(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let [byte] = take_array(rest)?;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::value::{Kind, Type, oid};

    fn types() -> Types {
        let mut types = Types::default();
        let mut add = |oid, kind| types.insert(Arc::new(Type::plain(oid, kind)));
        for base in [
            oid::BOOL,
            oid::INT8,
            oid::TEXT,
            oid::UUID,
            oid::JSONB,
            oid::TIMESTAMPTZ,
        ] {
            add(base, Kind::Base);
        }
        for (array, element) in [(oid::UUID_ARRAY, oid::UUID), (oid::TEXT_ARRAY, oid::TEXT)] {
            add(array, Kind::Array { element });
        }
        types
    }

    #[test]
    fn values_come_back_as_they_were_read() {
        let types = types();
        let uuid = "a0000000-0000-4000-8000-000000000001";
        let two = format!("{{{uuid},NULL}}");
        let cases: [(Oid, &str, usize); 13] = [
            (oid::BOOL, "t", 1),
            (oid::BOOL, "f", 1),
            (oid::INT8, "0", 2),
            (oid::INT8, "-64", 2),
            (oid::INT8, "9223372036854775807", 11),
            (oid::INT8, "-9223372036854775808", 11),
            (oid::TEXT, "", 2),
            (oid::TEXT, "grüße", 9),
            (oid::UUID, uuid, 17),
            (oid::UUID_ARRAY, &two, 2 + 17 + 1),
            (oid::TEXT_ARRAY, "{}", 2),
            (oid::TIMESTAMPTZ, "2024-02-29 12:00:00.5+00", 9),
            (oid::JSONB, r#"{"a": [1, null]}"#, 18),
        ];
        let mut row = Vec::new();
        for (type_oid, text, length) in cases {
            let before = row.len();
            push_text(&mut row, &types, type_oid, text).unwrap();
            assert_eq!(row.len() - before, length, "{text}");
        }
        push_null(&mut row);
        push_unchanged(&mut row);
        let stored: Vec<Stored<'_>> = columns(&row).collect();
        assert_eq!(stored.len(), cases.len() + 2);
        for (stored, (type_oid, text, _)) in stored.iter().zip(cases) {
            let expected = value::input(&types, type_oid, -1, text).unwrap();
            assert_eq!(stored.value(&types, type_oid), expected, "{text}");
            assert!(!stored.is_unchanged());
        }
        assert_eq!(stored[13].value(&types, oid::TEXT), Value::Null);
        assert!(stored[14].is_unchanged());
    }

    #[test]
    fn what_is_no_value_is_refused() {
        let mut row = Vec::new();
        assert!(push_text(&mut row, &types(), oid::UUID, "x").is_err());
    }
}
