//! `json`, which keeps its text: members, and making it from values.

use std::sync::Arc;

use super::jsonb::{key, place, text_in_json, texts};
use super::{Builtin, Call, lax, strict, unexpected};
use crate::policy::value::json_text::{Parts, is_number, parts};
use crate::policy::value::{Kind, Oid, SqlError, Types, Value, oid, output, quote_json};

pub(super) fn scalar(function: u32) -> Option<&'static Builtin> {
    reading(function).or_else(|| making(function))
}

/// One step of a path.
enum Step<'a> {
    Key(&'a str),
    Place(i64),
}

/// The text of a member or element; the last of equal keys counts.
fn step<'a>(text: &'a str, step: &Step<'_>) -> Result<Option<&'a str>, SqlError> {
    Ok(match (parts(text)?, step) {
        (Parts::Object(members), Step::Key(name)) => members
            .iter()
            .rev()
            .find(|(key, _)| key == name)
            .map(|(_, text)| *text),
        (Parts::Array(items), Step::Place(place)) => {
            let index = match usize::try_from(*place) {
                Ok(index) => Some(index),
                Err(_) => usize::try_from(place.unsigned_abs())
                    .ok()
                    .and_then(|back| items.len().checked_sub(back)),
            };
            index.and_then(|index| items.get(index)).copied()
        }
        _ => None,
    })
}

fn raw(text: Option<&str>) -> Value {
    text.map_or(Value::Null, |text| Value::Json(Arc::from(text)))
}

/// Strings without their quotes, JSON null as NULL.
pub(super) fn unquoted(text: Option<&str>) -> Result<Value, SqlError> {
    let Some(text) = text else {
        return Ok(Value::Null);
    };
    Ok(match parts(text)? {
        Parts::Null => Value::Null,
        Parts::String(text) => Value::text(&text),
        _ => Value::text(text),
    })
}

/// Follows `#>`: a step into an array is a number. With the text of the last value.
fn follow<'a>(call: &'a Call<'_>) -> Result<Option<&'a str>, SqlError> {
    let path: Vec<Option<&Arc<str>>> = match call.args.get(1..).unwrap_or_default() {
        [array @ Value::Array(_)] => texts(array)?,
        rest => rest
            .iter()
            .map(|value| match value {
                Value::Null => Ok(None),
                Value::Text(text) => Ok(Some(text)),
                _ => Err(unexpected()),
            })
            .collect::<Result<_, _>>()?,
    };
    let Some(path) = path.into_iter().collect::<Option<Vec<_>>>() else {
        return Ok(None);
    };
    // The whole text is read first, and its mistakes are errors wherever the path leads.
    parts(call.json(0)?)?;
    let mut text = call.json(0)?.trim_matches([' ', '\t', '\n', '\r']);
    for name in path {
        let found = match parts(text)? {
            Parts::Array(_) => match place(name) {
                Some(place) => step(text, &Step::Place(place))?,
                None => None,
            },
            _ => step(text, &Step::Key(name))?,
        };
        match found {
            Some(found) => text = found,
            None => return Ok(None),
        }
    }
    Ok(Some(text))
}

pub(super) fn kind(text: &str) -> Result<&'static str, SqlError> {
    Ok(match parts(text)? {
        Parts::Object(_) => "object",
        Parts::Array(_) => "array",
        Parts::String(_) => "string",
        Parts::Null => "null",
        Parts::Other(text) if text.starts_with(['t', 'f']) => "boolean",
        Parts::Other(_) => "number",
    })
}

fn reading(function: u32) -> Option<&'static Builtin> {
    Some(match function {
        3947 => strict!(|call| Ok(raw(step(call.json(0)?, &Step::Key(call.text(1)?))?))),
        3948 => strict!(|call| unquoted(step(call.json(0)?, &Step::Key(call.text(1)?))?)),
        3949 => strict!(|call| Ok(raw(step(call.json(0)?, &Step::Place(*call.int(1)?))?))),
        3950 => strict!(|call| unquoted(step(call.json(0)?, &Step::Place(*call.int(1)?))?)),
        3951 => strict!(|call| follow(call).map(raw)),
        3953 => strict!(|call| follow(call).and_then(unquoted)),
        3968 => strict!(|call| kind(call.json(0)?).map(Value::text)),
        3956 => strict!(|call| match parts(call.json(0)?)? {
            Parts::Array(items) => Ok(Value::Int(i64::try_from(items.len()).unwrap_or(0))),
            _ => Err(SqlError::new(
                "22023",
                "cannot get array length of a non-array"
            )),
        }),
        _ => return None,
    })
}

/// Appends a value as `to_json` writes it.
pub(super) fn write(
    out: &mut String,
    types: &Types,
    type_oid: Oid,
    value: &Value,
) -> Result<(), SqlError> {
    let base = types.base(type_oid);
    match (types.find(base).map(|found| &found.kind), value) {
        (_, Value::Null) => out.push_str("null"),
        (_, Value::Bool(value)) => out.push_str(if *value { "true" } else { "false" }),
        (_, Value::Int(_) | Value::Numeric(_) | Value::Float(_)) if base != oid::OID => {
            let text = output(types, base, value)?;
            if is_number(&text) {
                out.push_str(&text);
            } else {
                quoted(out, &text)?;
            }
        }
        (_, Value::Json(text)) => out.push_str(text),
        (_, Value::Jsonb(json)) => out.push_str(&json.to_string()),
        (Some(Kind::Array { element }), Value::Array(array)) => {
            let lengths: Vec<usize> = array
                .dimensions
                .iter()
                .filter_map(|(length, _)| usize::try_from(*length).ok())
                .collect();
            write_dimension(out, types, *element, &lengths, &array.elements)?;
        }
        (Some(Kind::Composite { fields, .. }), Value::Record(values)) => {
            out.push('{');
            for (index, (field, value)) in fields.iter().zip(values.iter()).enumerate() {
                if index > 0 {
                    out.push(',');
                }
                quoted(out, &field.name)?;
                out.push(':');
                write(out, types, field.type_oid, value)?;
            }
            out.push('}');
        }
        (_, value) => quoted(out, &text_in_json(types, base, value)?)?,
    }
    Ok(())
}

fn quoted(out: &mut String, text: &str) -> Result<(), SqlError> {
    quote_json(out, text).map_err(|_never| unexpected())
}

fn write_dimension(
    out: &mut String,
    types: &Types,
    element: Oid,
    lengths: &[usize],
    elements: &[Value],
) -> Result<(), SqlError> {
    out.push('[');
    match lengths {
        [_, inner @ ..] if !inner.is_empty() => {
            let size = inner.iter().product::<usize>().max(1);
            for (index, chunk) in elements.chunks(size).enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write_dimension(out, types, element, inner, chunk)?;
            }
        }
        _ => {
            for (index, value) in elements.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write(out, types, element, value)?;
            }
        }
    }
    out.push(']');
    Ok(())
}

fn written(call: &Call<'_>) -> Result<Value, SqlError> {
    let mut out = String::new();
    write(&mut out, call.types, call.type_of(0), call.any(0)?)?;
    Ok(Value::Json(out.into()))
}

fn build_object(call: &Call<'_>) -> Result<Value, SqlError> {
    if !call.args.len().is_multiple_of(2) {
        return Err(SqlError::new(
            "22023",
            "argument list must have even number of elements",
        ));
    }
    let mut out = String::from("{");
    let typed: Vec<_> = call
        .args
        .iter()
        .zip(call.arg_types.iter().copied())
        .collect();
    for (index, pair) in typed.chunks(2).enumerate() {
        if let [(name, name_type), (value, type_oid)] = pair {
            out.push_str(if index > 0 { ", " } else { "" });
            if name.is_null() {
                // Its SQLSTATE changed in PostgreSQL 16.
                return Err(SqlError::internal("null value not allowed for object key"));
            }
            quoted(&mut out, &key(call.types, *name_type, name)?)?;
            out.push_str(" : ");
            write(&mut out, call.types, *type_oid, value)?;
        }
    }
    out.push('}');
    Ok(Value::Json(out.into()))
}

fn build_array(call: &Call<'_>) -> Result<Value, SqlError> {
    let mut out = String::from("[");
    for (index, (value, type_oid)) in call
        .args
        .iter()
        .zip(call.arg_types.iter().copied())
        .enumerate()
    {
        out.push_str(if index > 0 { ", " } else { "" });
        write(&mut out, call.types, type_oid, value)?;
    }
    out.push(']');
    Ok(Value::Json(out.into()))
}

fn making(function: u32) -> Option<&'static Builtin> {
    Some(match function {
        3176 | 3153 | 3155 => strict!(written),
        3200 | 3201 => lax!(build_object),
        3198 | 3199 => lax!(build_array),
        _ => return None,
    })
}
