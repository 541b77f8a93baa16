//! `jsonb`: members, containment, changes, and making it from values.

use std::sync::Arc;

use super::number::bounds;
use super::{Builtin, Call, lax, strict, unexpected};
use crate::policy::value::moment::{date_text, timestamp_text};
use crate::policy::value::{Json, Kind, Numeric, Oid, SqlError, Types, Value, oid, output};

pub(super) fn scalar(function: u32) -> Option<&'static Builtin> {
    reading(function)
        .or_else(|| changing(function))
        .or_else(|| making(function))
        .or_else(|| converting(function))
}

fn value(json: Json) -> Value {
    Value::Jsonb(Arc::new(json))
}

fn found(json: Option<&Json>) -> Value {
    json.map_or(Value::Null, |json| value(json.clone()))
}

fn found_text(json: Option<&Json>) -> Value {
    json.and_then(Json::unquoted)
        .map_or(Value::Null, Value::Text)
}

/// The elements of a text array, and NULLs.
pub(super) fn texts(value: &Value) -> Result<Vec<Option<&Arc<str>>>, SqlError> {
    let Value::Array(array) = value else {
        return Err(unexpected());
    };
    let elements = array.elements.iter();
    elements
        .map(|element| match element {
            Value::Null => Ok(None),
            Value::Text(text) => Ok(Some(text)),
            _ => Err(unexpected()),
        })
        .collect()
}

/// The path of `#>`, or of a function that takes it as an array or one by one.
pub(super) fn path<'a>(call: &'a Call<'_>) -> Result<Option<Vec<&'a Arc<str>>>, SqlError> {
    match call.args.get(1..).unwrap_or_default() {
        [array @ Value::Array(_)] => Ok(texts(array)?.into_iter().collect()),
        rest => rest
            .iter()
            .map(|value| match value {
                Value::Null => Ok(None),
                Value::Text(text) => Ok(Some(text)),
                _ => Err(unexpected()),
            })
            .collect(),
    }
}

/// A place in an array as C's `strtol` reads it.
pub(super) fn place(text: &str) -> Option<i64> {
    let trimmed = text.trim_start_matches(crate::policy::value::scalar::is_space);
    trimmed.parse::<i32>().ok().map(i64::from)
}

fn follow<'a>(json: &'a Json, path: &[&Arc<str>]) -> Option<&'a Json> {
    path.iter().try_fold(json, |json, step| match json {
        Json::Array(_) => json.item(place(step)?),
        other => other.member(step),
    })
}

/// A scalar is stored as an array of one element, and answers as one.
fn element(json: &Json, place: i64) -> Option<&Json> {
    if json.is_scalar() && matches!(place, 0 | -1) {
        Some(json)
    } else {
        json.item(place)
    }
}

fn exists(json: &Json, key: &str) -> bool {
    match json {
        Json::Object(_) => json.member(key).is_some(),
        Json::Array(items) => items
            .iter()
            .any(|item| matches!(item, Json::String(text) if **text == *key)),
        Json::String(text) => **text == *key,
        _ => false,
    }
}

/// Whether `b` is within `a`; at the top an array also contains its primitives.
fn contains(a: &Json, b: &Json, top: bool) -> bool {
    match (a, b) {
        (Json::Object(_), Json::Object(members)) => members
            .iter()
            .all(|(key, b)| a.member(key).is_some_and(|a| contains(a, b, false))),
        (Json::Array(items), Json::Array(wanted)) => wanted
            .iter()
            .all(|b| items.iter().any(|a| contains(a, b, false))),
        (Json::Array(items), b) if top && b.is_scalar() => {
            items.iter().any(|a| contains(a, b, false))
        }
        (Json::Number(a), Json::Number(b)) => a.compare(b).is_eq(),
        (a, b) => a.is_scalar() && a == b,
    }
}

fn any_key(call: &Call<'_>, all: bool) -> Result<Value, SqlError> {
    let json = call.jsonb(0)?;
    let keys = texts(call.any(1)?)?;
    let mut keys = keys.into_iter().flatten();
    Ok(Value::Bool(if all {
        keys.all(|key| exists(json, key))
    } else {
        keys.any(|key| exists(json, key))
    }))
}

pub(super) const fn kind(json: &Json) -> &'static str {
    match json {
        Json::Null => "null",
        Json::Bool(_) => "boolean",
        Json::Number(_) => "number",
        Json::String(_) => "string",
        Json::Array(_) => "array",
        Json::Object(_) => "object",
    }
}

fn reading(function: u32) -> Option<&'static Builtin> {
    Some(match function {
        3478 => strict!(|call| Ok(found(call.jsonb(0)?.member(call.text(1)?)))),
        3214 => strict!(|call| Ok(found_text(call.jsonb(0)?.member(call.text(1)?)))),
        3215 => strict!(|call| Ok(found(element(call.jsonb(0)?, *call.int(1)?)))),
        3216 => strict!(|call| Ok(found_text(element(call.jsonb(0)?, *call.int(1)?)))),
        3217 => strict!(
            |call| Ok(path(call)?.map_or(Value::Null, |path| match call.jsonb(0) {
                Ok(json) => found(follow(json, &path)),
                Err(_) => Value::Null,
            }))
        ),
        3940 => strict!(
            |call| Ok(path(call)?.map_or(Value::Null, |path| match call.jsonb(0) {
                Ok(json) => found_text(follow(json, &path)),
                Err(_) => Value::Null,
            }))
        ),
        4046 => strict!(|call| Ok(Value::Bool(contains(call.jsonb(0)?, call.jsonb(1)?, true)))),
        4050 => strict!(|call| Ok(Value::Bool(contains(call.jsonb(1)?, call.jsonb(0)?, true)))),
        4047 => strict!(|call| Ok(Value::Bool(exists(call.jsonb(0)?, call.text(1)?)))),
        4048 => strict!(|call| any_key(call, false)),
        4049 => strict!(|call| any_key(call, true)),
        3210 => strict!(|call| Ok(Value::text(kind(call.jsonb(0)?)))),
        3207 => strict!(|call| match &**call.jsonb(0)? {
            Json::Array(items) => Ok(Value::Int(i64::try_from(items.len()).unwrap_or(0))),
            _ => Err(SqlError::new(
                "22023",
                "cannot get array length of a non-array"
            )),
        }),
        _ => return None,
    })
}

fn concatenated(a: &Json, b: &Json) -> Json {
    let items = |json: &Json| match json {
        Json::Array(items) => items.to_vec(),
        other => vec![other.clone()],
    };
    match (a, b) {
        (Json::Object(a), Json::Object(b)) => Json::object(a.iter().chain(b).cloned().collect()),
        (a, b) => Json::Array(items(a).into_iter().chain(items(b)).collect()),
    }
}

fn invalid_delete(what: &str) -> SqlError {
    SqlError::new("22023", format!("cannot delete from {what}"))
}

fn without(json: &Json, keys: &[&Arc<str>]) -> Result<Json, SqlError> {
    match json {
        Json::Object(members) => Ok(Json::Object(
            members
                .iter()
                .filter(|(key, _)| !keys.contains(&key))
                .cloned()
                .collect(),
        )),
        Json::Array(items) => {
            let gone = |item: &&Json| matches!(item, Json::String(text) if keys.contains(&text));
            Ok(Json::Array(
                items.iter().filter(|item| !gone(item)).cloned().collect(),
            ))
        }
        _ => Err(invalid_delete("scalar")),
    }
}

fn without_nulls(json: &Json) -> Json {
    match json {
        Json::Object(members) => Json::Object(
            members
                .iter()
                .filter(|(_, value)| *value != Json::Null)
                .map(|(key, value)| (Arc::clone(key), without_nulls(value)))
                .collect(),
        ),
        Json::Array(items) => Json::Array(items.iter().map(without_nulls).collect()),
        other => other.clone(),
    }
}

fn changing(function: u32) -> Option<&'static Builtin> {
    Some(match function {
        3301 => strict!(|call| Ok(value(concatenated(call.jsonb(0)?, call.jsonb(1)?)))),
        3302 => strict!(|call| without(call.jsonb(0)?, &[call.text(1)?]).map(value)),
        // Strict, but for the elements of a variable argument list.
        3343 => lax!(|call| {
            let [Value::Jsonb(json), keys @ ..] = call.args else {
                return Ok(Value::Null);
            };
            if keys.len() == 1 && keys.iter().all(Value::is_null) {
                return Ok(Value::Null);
            }
            let keys = match keys {
                [Value::Array(array)] if array.dimensions.len() > 1 => {
                    return Err(SqlError::new("2202E", "wrong number of array subscripts"));
                }
                [keys @ Value::Array(_)] => texts(keys)?.into_iter().flatten().collect(),
                keys => keys
                    .iter()
                    .filter_map(|key| match key {
                        Value::Text(key) => Some(key),
                        _ => None,
                    })
                    .collect::<Vec<_>>(),
            };
            if json.is_scalar() {
                return Err(invalid_delete("scalar"));
            }
            without(json, &keys).map(value)
        }),
        3303 => strict!(|call| match &**call.jsonb(0)? {
            Json::Array(items) => {
                let at = *call.int(1)?;
                let at = match usize::try_from(at) {
                    Ok(at) => Some(at),
                    Err(_) => usize::try_from(at.unsigned_abs())
                        .ok()
                        .and_then(|back| items.len().checked_sub(back)),
                };
                let kept = items
                    .iter()
                    .enumerate()
                    .filter(|(index, _)| Some(*index) != at);
                Ok(value(Json::Array(
                    kept.map(|(_, item)| item.clone()).collect(),
                )))
            }
            Json::Object(_) => Err(invalid_delete("object using integer index")),
            _ => Err(invalid_delete("scalar")),
        }),
        // PostgreSQL 18 has a second argument.
        3262 => strict!(|call| match call.args {
            [Value::Jsonb(json)] => Ok(value(without_nulls(json))),
            [Value::Jsonb(json), Value::Bool(false)] => Ok(value(without_nulls(json))),
            _ => Err(SqlError::internal(
                "removing nulls from arrays is left to Postgres"
            )),
        }),
        _ => return None,
    })
}

/// A value as `to_jsonb` makes it.
pub(super) fn to_json(types: &Types, type_oid: Oid, value: &Value) -> Result<Json, SqlError> {
    let base = types.base(type_oid);
    Ok(match (types.find(base).map(|found| &found.kind), value) {
        (_, Value::Null) => Json::Null,
        (_, Value::Bool(value)) => Json::Bool(*value),
        (_, Value::Int(_)) if base == oid::OID => Json::String(output(types, base, value)?.into()),
        (_, Value::Int(value)) => Json::Number(Numeric::from(*value)),
        (_, Value::Numeric(number @ Numeric::Finite(_))) => Json::Number(number.clone()),
        (_, Value::Float(bits)) if f64::from_bits(*bits).is_finite() => {
            Json::Number(Numeric::parse(&output(types, base, value)?)?)
        }
        (_, Value::Json(text)) => Json::parse(text)?,
        (_, Value::Jsonb(json)) => (**json).clone(),
        (Some(Kind::Array { element }), Value::Array(array)) => {
            let lengths: Vec<usize> = array
                .dimensions
                .iter()
                .filter_map(|(length, _)| usize::try_from(*length).ok())
                .collect();
            let items = array
                .elements
                .iter()
                .map(|item| to_json(types, *element, item));
            nested(items.collect::<Result<_, _>>()?, &lengths)
        }
        (Some(Kind::Composite { fields, .. }), Value::Record(values)) => {
            let members = fields.iter().zip(values.iter());
            let members = members.map(|(field, value)| {
                Ok((
                    Arc::from(&*field.name),
                    to_json(types, field.type_oid, value)?,
                ))
            });
            Json::object(members.collect::<Result<_, SqlError>>()?)
        }
        (_, value) => Json::String(text_in_json(types, base, value)?.into()),
    })
}

/// Text forms within JSON: moments have a T.
pub(super) fn text_in_json(types: &Types, base: Oid, value: &Value) -> Result<String, SqlError> {
    Ok(match value {
        Value::Date(date) => date_text(*date),
        Value::Timestamp(micros) => timestamp_text(*micros, 'T', ""),
        Value::TimestampTz(micros) => timestamp_text(*micros, 'T', "+00:00"),
        other => output(types, base, other)?,
    })
}

/// Elements in row-major order as arrays within arrays.
fn nested(items: Vec<Json>, lengths: &[usize]) -> Json {
    let mut items = items;
    for length in lengths.iter().skip(1).rev() {
        items = items
            .chunks((*length).max(1))
            .map(|chunk| Json::Array(chunk.into()))
            .collect();
    }
    Json::Array(items.into())
}

/// The key of a built object.
pub(super) fn key(types: &Types, type_oid: Oid, value: &Value) -> Result<Arc<str>, SqlError> {
    let is_scalar = !matches!(
        value,
        Value::Array(_) | Value::Record(_) | Value::Json(_) | Value::Jsonb(_)
    );
    if !is_scalar {
        return Err(SqlError::new(
            "22023",
            "key value must be scalar, not array, composite, or json",
        ));
    }
    Ok(match value {
        Value::Bool(value) => Arc::from(if *value { "true" } else { "false" }),
        other => text_in_json(types, types.base(type_oid), other)?.into(),
    })
}

fn build_object(call: &Call<'_>) -> Result<Value, SqlError> {
    if !call.args.len().is_multiple_of(2) {
        return Err(SqlError::new(
            "22023",
            "argument list must have even number of elements",
        ));
    }
    let mut members = Vec::new();
    let typed: Vec<_> = call
        .args
        .iter()
        .zip(call.arg_types.iter().copied())
        .collect();
    for pair in typed.chunks(2) {
        if let [(name, name_type), (member, type_oid)] = pair {
            if name.is_null() {
                return Err(SqlError::new("22023", "argument: key must not be null"));
            }
            members.push((
                key(call.types, *name_type, name)?,
                to_json(call.types, *type_oid, member)?,
            ));
        }
    }
    Ok(value(Json::object(members)))
}

fn making(function: u32) -> Option<&'static Builtin> {
    Some(match function {
        3787 => strict!(|call| to_json(call.types, call.type_of(0), call.any(0)?).map(value)),
        3273 | 3274 => lax!(build_object),
        3271 | 3272 => lax!(|call| {
            let items = call.args.iter().zip(call.arg_types.iter().copied());
            let items = items.map(|(item, type_oid)| to_json(call.types, type_oid, item));
            Ok(value(Json::Array(items.collect::<Result<_, _>>()?)))
        }),
        _ => return None,
    })
}

fn number<'a>(call: &'a Call<'_>, kind_wanted: &str) -> Result<&'a Numeric, SqlError> {
    match &**call.jsonb(0)? {
        Json::Number(number) => Ok(number),
        // An error up to PostgreSQL 17, NULL from then on.
        Json::Null => Err(SqlError::internal(
            "a cast of a JSON null depends on the version of Postgres",
        )),
        other => Err(SqlError::new(
            "22023",
            format!("cannot cast jsonb {} to type {kind_wanted}", kind(other)),
        )),
    }
}

fn converting(function: u32) -> Option<&'static Builtin> {
    Some(match function {
        3449 => strict!(|call| Ok(Value::Numeric(number(call, "numeric")?.clone()))),
        3556 => strict!(|call| match &**call.jsonb(0)? {
            Json::Bool(value) => Ok(Value::Bool(*value)),
            _ => number(call, "boolean").and_then(|_| Err(SqlError::new(
                "22023",
                "cannot cast jsonb number to type boolean"
            ))),
        }),
        3450..=3452 => strict!(|call| {
            let (least, most, kind) = bounds(call.result);
            number(call, kind)?
                .to_integer(least, most, kind)
                .map(Value::Int)
        }),
        2580 | 3453 => strict!(|call| {
            let number = number(call, "double precision")?;
            let value = crate::policy::value::scalar::float(
                &number.to_string(),
                call.result == oid::FLOAT4,
            )?;
            Ok(Value::Float(crate::policy::value::scalar::float_bits(
                value,
            )))
        }),
        _ => return None,
    })
}
