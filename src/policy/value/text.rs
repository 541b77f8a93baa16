//! Text forms, equality and order of the first types: boolean, integers, text, uuid, timestamptz, enums, their arrays.

use std::cmp::Ordering;
use std::sync::Arc;

use super::typing::oid;
use super::{Array, Json, Kind, Oid, SqlError, Types, Value};

pub(super) fn supported(types: &Types, type_oid: Oid) -> bool {
    let base = types.base(type_oid);
    match types.find(base).map(|found| &found.kind) {
        Some(Kind::Array { element }) => supported(types, *element),
        Some(Kind::Enum { .. }) => true,
        Some(Kind::Base) => is_base(base) || base == oid::JSONB,
        _ => base == oid::UNKNOWN,
    }
}

const fn is_base(base: Oid) -> bool {
    matches!(
        base,
        oid::BOOL
            | oid::INT2
            | oid::INT4
            | oid::INT8
            | oid::TEXT
            | oid::VARCHAR
            | oid::NAME
            | oid::UUID
            | oid::TIMESTAMPTZ
    )
}

pub(super) fn equatable(types: &Types, type_oid: Oid) -> bool {
    let base = types.base(type_oid);
    match types.find(base).map(|found| &found.kind) {
        Some(Kind::Array { element }) => equatable(types, *element),
        Some(Kind::Enum { .. }) => true,
        Some(Kind::Base) => is_base(base),
        _ => false,
    }
}

pub(super) fn ordered(types: &Types, type_oid: Oid, bytewise: bool) -> bool {
    let base = types.base(type_oid);
    match types.find(base).map(|found| &found.kind) {
        Some(Kind::Enum { .. }) => true,
        Some(Kind::Base) => {
            is_base(base) && (bytewise || !matches!(base, oid::TEXT | oid::VARCHAR))
        }
        _ => false,
    }
}

pub(super) fn canonical(types: &Types, type_oid: Oid, value: &Value) -> Result<Value, SqlError> {
    if value.is_null() || equatable(types, type_oid) {
        return Ok(value.clone());
    }
    Err(SqlError::internal("a type without a known equality"))
}

pub(super) fn compare(
    types: &Types,
    type_oid: Oid,
    a: &Value,
    b: &Value,
) -> Result<Ordering, SqlError> {
    let base = types.base(type_oid);
    if let Some(Kind::Enum { labels }) = types.find(base).map(|found| &found.kind) {
        let place = |value: &Value| match value {
            Value::Text(text) => labels.iter().position(|label| label == text),
            _ => None,
        };
        return Ok(place(a).cmp(&place(b)));
    }
    match (a, b) {
        (Value::Bool(a), Value::Bool(b)) => Ok(a.cmp(b)),
        (Value::Int(a), Value::Int(b)) | (Value::TimestampTz(a), Value::TimestampTz(b)) => {
            Ok(a.cmp(b))
        }
        (Value::Text(a), Value::Text(b)) => Ok(a.as_bytes().cmp(b.as_bytes())),
        (Value::Uuid(a), Value::Uuid(b)) => Ok(a.cmp(b)),
        _ => Err(SqlError::internal("a type without a known order")),
    }
}

pub(super) fn input(
    types: &Types,
    type_oid: Oid,
    typmod: i32,
    text: &str,
) -> Result<Value, SqlError> {
    let base = types.base(type_oid);
    match types.find(base).map(|found| &found.kind) {
        Some(Kind::Array { element }) => return array(types, *element, typmod, text),
        Some(Kind::Enum { labels }) => {
            return match labels.iter().find(|label| ***label == *text) {
                Some(label) => Ok(Value::Text(Arc::clone(label))),
                None => Err(invalid("enum", text)),
            };
        }
        _ => {}
    }
    match base {
        oid::BOOL => boolean(text)
            .map(Value::Bool)
            .ok_or_else(|| invalid("boolean", text)),
        oid::INT2 => integer(text, i64::from(i16::MIN), i64::from(i16::MAX), "smallint"),
        oid::INT4 => integer(text, i64::from(i32::MIN), i64::from(i32::MAX), "integer"),
        oid::INT8 => integer(text, i64::MIN, i64::MAX, "bigint"),
        oid::TEXT | oid::VARCHAR | oid::NAME | oid::UNKNOWN => Ok(Value::text(text)),
        oid::UUID => uuid(text)
            .map(Value::Uuid)
            .ok_or_else(|| invalid("uuid", text)),
        oid::JSONB => Json::parse(text)
            .map(|json| Value::Jsonb(Arc::new(json)))
            .ok_or_else(|| invalid("json", text)),
        oid::TIMESTAMPTZ => timestamptz(text).map(Value::TimestampTz).ok_or_else(|| {
            SqlError::new(
                "22007",
                "invalid input syntax for type timestamp with time zone",
            )
        }),
        _ => Err(SqlError::internal("a type that is not supported")),
    }
}

pub(super) fn output(types: &Types, type_oid: Oid, value: &Value) -> Result<String, SqlError> {
    match value {
        Value::Bool(value) => Ok(if *value { "t" } else { "f" }.to_owned()),
        Value::Int(value) => Ok(value.to_string()),
        Value::Text(text) => Ok(text.to_string()),
        Value::Jsonb(json) => Ok(json.to_string()),
        Value::Uuid(bytes) => {
            let mut text = String::with_capacity(36);
            for (index, byte) in bytes.iter().enumerate() {
                if matches!(index, 4 | 6 | 8 | 10) {
                    text.push('-');
                }
                text.push_str(&format!("{byte:02x}"));
            }
            Ok(text)
        }
        _ => Err(SqlError::internal(&format!(
            "no text form of {}",
            types.name(type_oid)
        ))),
    }
}

fn invalid(kind: &str, text: &str) -> SqlError {
    SqlError::new(
        "22P02",
        format!("invalid input syntax for type {kind}: \"{text}\""),
    )
}

fn boolean(text: &str) -> Option<bool> {
    let text = text
        .trim_matches(|c: char| c.is_ascii_whitespace() || c == '\x0b')
        .to_ascii_lowercase();
    let is = |word: &str, least: usize| text.len() >= least && word.starts_with(&text);
    if is("true", 1) || is("yes", 1) || text == "on" || text == "1" {
        Some(true)
    } else if is("false", 1) || is("no", 1) || is("off", 2) || text == "0" {
        Some(false)
    } else {
        None
    }
}

fn integer(text: &str, least: i64, most: i64, kind: &str) -> Result<Value, SqlError> {
    let trimmed = text.trim_matches(|c: char| c.is_ascii_whitespace() || c == '\x0b');
    let digits = trimmed.strip_prefix(['+', '-']).unwrap_or(trimmed);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(invalid(kind, text));
    }
    match trimmed.parse::<i64>() {
        Ok(value) if (least..=most).contains(&value) => Ok(Value::Int(value)),
        _ => Err(SqlError::new(
            "22003",
            format!("value \"{text}\" is out of range for type {kind}"),
        )),
    }
}

/// Hexadecimal digits with hyphens after any group of four, perhaps in braces.
fn uuid(text: &str) -> Option<[u8; 16]> {
    let inner = match text.strip_prefix('{') {
        Some(rest) => rest.strip_suffix('}')?,
        None => text,
    };
    let mut bytes = [0; 16];
    let mut digits = inner.bytes().peekable();
    for (index, byte) in bytes.iter_mut().enumerate() {
        let high = char::from(digits.next()?).to_digit(16)?;
        let low = char::from(digits.next()?).to_digit(16)?;
        *byte = u8::try_from(high * 16 + low).ok()?;
        if index % 2 == 1 && index < 15 && digits.peek() == Some(&b'-') {
            digits.next();
        }
    }
    digits.next().is_none().then_some(bytes)
}

/// The form that the stream and the loader see: `YYYY-MM-DD hh:mm:ss[.ffffff]+00`.
fn timestamptz(text: &str) -> Option<i64> {
    match text {
        "infinity" => return Some(i64::MAX),
        "-infinity" => return Some(i64::MIN),
        _ => {}
    }
    let number = |from: usize, to: usize| text.get(from..to)?.parse::<i64>().ok();
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let rest = text.get(19..)?.strip_suffix("+00")?;
    let micros = match rest.strip_prefix('.') {
        Some(digits) if digits.len() <= 6 => format!("{digits:0<6}").parse::<i64>().ok()?,
        None if rest.is_empty() => 0,
        _ => return None,
    };
    let (y, m) = if month <= 2 {
        (year - 1, month + 9)
    } else {
        (year, month - 3)
    };
    let era = y.div_euclid(400);
    let of_era = y.rem_euclid(400);
    let of_year = (153 * m + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 730_425;
    Some((((days * 24 + hour) * 60 + minute) * 60 + second) * 1_000_000 + micros)
}

/// Arrays of one dimension, as output functions write them.
fn array(types: &Types, element: Oid, typmod: i32, text: &str) -> Result<Value, SqlError> {
    let malformed = || SqlError::new("22P02", format!("malformed array literal: \"{text}\""));
    let inner = text
        .trim()
        .strip_prefix('{')
        .and_then(|rest| rest.strip_suffix('}'))
        .ok_or_else(malformed)?;
    let mut elements = Vec::new();
    let mut characters = inner.chars().peekable();
    while characters.peek().is_some() {
        let mut item = String::new();
        let mut quoted = false;
        if characters.next_if_eq(&'"').is_some() {
            quoted = true;
            loop {
                match characters.next().ok_or_else(malformed)? {
                    '"' => break,
                    '\\' => item.push(characters.next().ok_or_else(malformed)?),
                    other => item.push(other),
                }
            }
        } else {
            while let Some(next) = characters.next_if(|next| *next != ',') {
                if matches!(next, '{' | '}' | '"' | '\\') {
                    return Err(malformed());
                }
                item.push(next);
            }
        }
        elements.push(if !quoted && item.trim().eq_ignore_ascii_case("null") {
            Value::Null
        } else if !quoted && item.trim().is_empty() {
            return Err(malformed());
        } else {
            let item = if quoted { &*item } else { item.trim() };
            input(types, element, typmod, item)?
        });
        if characters.next_if_eq(&',').is_some() {
            if characters.peek().is_none() {
                return Err(malformed());
            }
        } else if characters.peek().is_some() {
            return Err(malformed());
        }
    }
    Ok(Value::Array(Arc::new(Array::one_dimension(elements))))
}
