//! Functions that return sets.

use std::sync::Arc;

use super::array::parts as split_text;
use super::json::unquoted;
use super::pattern::split;
use super::{Call, Row, SetReturning};
use crate::policy::value::json_text::{Parts, parts};
use crate::policy::value::{Json, SqlError, Value};

/// Rows beyond this are refused.
const ROWS_MAX: usize = 100_000;

/// A strict function that returns a set.
macro_rules! rows {
    ($strict:expr, $eval:expr) => {{
        static FOUND: SetReturning = SetReturning {
            strict: $strict,
            eval: $eval,
        };
        Some(&FOUND)
    }};
}

pub(super) fn set_returning(function: u32) -> Option<&'static SetReturning> {
    match function {
        2331 => rows!(true, |call| Ok(call
            .array(0)?
            .elements
            .iter()
            .cloned()
            .map(one)
            .collect())),
        3219 => rows!(true, |call| {
            Ok(elements(call)?
                .iter()
                .map(|item| one(Value::Jsonb(Arc::new(item.clone()))))
                .collect())
        }),
        3465 => rows!(true, |call| Ok(elements(call)?
            .iter()
            .map(|item| one(text(item)))
            .collect())),
        3931 => rows!(true, |call| {
            Ok(members(call)?
                .iter()
                .map(|(key, _)| one(Value::Text(Arc::clone(key))))
                .collect())
        }),
        3208 => rows!(true, |call| {
            let row = |(key, value): &(Arc<str>, Json)| -> Row {
                [
                    Value::Text(Arc::clone(key)),
                    Value::Jsonb(Arc::new(value.clone())),
                ]
                .into()
            };
            Ok(members(call)?.iter().map(row).collect())
        }),
        3932 => rows!(true, |call| {
            let row = |(key, value): &(Arc<str>, Json)| -> Row {
                [Value::Text(Arc::clone(key)), text(value)].into()
            };
            Ok(members(call)?.iter().map(row).collect())
        }),
        3955 => rows!(true, |call| match parts(call.json(0)?)? {
            Parts::Array(items) => Ok(items
                .into_iter()
                .map(|item| one(Value::Json(Arc::from(item))))
                .collect()),
            _ => Err(no_array()),
        }),
        3969 => rows!(true, |call| match parts(call.json(0)?)? {
            Parts::Array(items) => items
                .into_iter()
                .map(|item| unquoted(Some(item)).map(one))
                .collect(),
            _ => Err(no_array()),
        }),
        3957 => rows!(true, |call| match parts(call.json(0)?)? {
            Parts::Object(members) => Ok(members
                .into_iter()
                .map(|(key, _)| one(Value::text(&key)))
                .collect()),
            _ => Err(no_object()),
        }),
        2765 => rows!(true, |call| Ok(split(call)?.into_iter().map(one).collect())),
        6160 | 6161 => rows!(false, |call| {
            Ok(split_text(call)?
                .unwrap_or_default()
                .into_iter()
                .map(one)
                .collect())
        }),
        1066..=1069 => rows!(true, series),
        1192 => rows!(true, |call| {
            let number = usize::try_from(*call.int(1)?)
                .ok()
                .and_then(|number| number.checked_sub(1));
            let bounds =
                number.and_then(|number| call.array(0).ok()?.dimensions.get(number).copied());
            let (length, low) = bounds.unwrap_or((0, 1));
            Ok((0..length)
                .map(|place| one(Value::Int(i64::from(low + place))))
                .collect())
        }),
        _ => None,
    }
}

fn one(value: Value) -> Row {
    [value].into()
}

fn text(json: &Json) -> Value {
    json.unquoted().map_or(Value::Null, Value::Text)
}

fn no_array() -> SqlError {
    SqlError::new("22023", "cannot extract elements from a non-array")
}

fn no_object() -> SqlError {
    SqlError::new("22023", "cannot take the members of a non-object")
}

fn elements<'a>(call: &'a Call<'_>) -> Result<&'a [Json], SqlError> {
    match &**call.jsonb(0)? {
        Json::Array(items) => Ok(items),
        _ => Err(no_array()),
    }
}

fn members<'a>(call: &'a Call<'_>) -> Result<&'a [(Arc<str>, Json)], SqlError> {
    match &**call.jsonb(0)? {
        Json::Object(members) => Ok(members),
        _ => Err(no_object()),
    }
}

fn series(call: &Call<'_>) -> Result<Vec<Row>, SqlError> {
    let (start, end) = (*call.int(0)?, *call.int(1)?);
    let step = if call.args.len() > 2 {
        *call.int(2)?
    } else {
        1
    };
    if step == 0 {
        return Err(SqlError::new("22023", "step size cannot equal zero"));
    }
    let mut found = Vec::new();
    let mut next = Some(start);
    while let Some(value) = next.filter(|value| {
        if step > 0 {
            *value <= end
        } else {
            *value >= end
        }
    }) {
        if found.len() >= ROWS_MAX {
            return Err(SqlError::internal("a series this long is left to Postgres"));
        }
        found.push(one(Value::Int(value)));
        next = value.checked_add(step);
    }
    Ok(found)
}
