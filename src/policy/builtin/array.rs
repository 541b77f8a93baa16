//! Arrays: shape, members, sets, joins with text.

use std::sync::Arc;

use super::{Builtin, Call, lax, strict, unexpected};
use crate::policy::value::{Array, Oid, SqlError, Value, canonical, equatable, output};

pub(super) fn scalar(function: u32) -> Option<&'static Builtin> {
    shape(function)
        .or_else(|| sets(function))
        .or_else(|| growing(function))
        .or_else(|| searching(function))
        .or_else(|| with_text(function))
}

pub(super) fn list(elements: Vec<Value>) -> Value {
    Value::Array(Arc::new(Array::one_dimension(elements)))
}

fn dimension<'a>(call: &'a Call<'_>) -> Result<Option<&'a (i32, i32)>, SqlError> {
    let number = usize::try_from(*call.int(1)?)
        .ok()
        .and_then(|number| number.checked_sub(1));
    Ok(number.and_then(|number| call.array(0).ok()?.dimensions.get(number)))
}

fn or_null(number: Option<i32>) -> Value {
    number.map_or(Value::Null, |number| Value::Int(i64::from(number)))
}

fn shape(function: u32) -> Option<&'static Builtin> {
    Some(match function {
        2176 => strict!(|call| Ok(or_null(dimension(call)?.map(|(length, _)| *length)))),
        2091 => strict!(|call| Ok(or_null(dimension(call)?.map(|(_, low)| *low)))),
        2092 => strict!(|call| Ok(or_null(
            dimension(call)?.map(|(length, low)| low + length - 1)
        ))),
        3179 => strict!(|call| Ok(Value::Int(
            i64::try_from(call.array(0)?.elements.len()).unwrap_or(0)
        ))),
        748 => strict!(|call| {
            let count = i32::try_from(call.array(0)?.dimensions.len()).ok();
            Ok(or_null(count.filter(|count| *count > 0)))
        }),
        747 => strict!(|call| {
            let bounds = call.array(0)?.dimensions.iter();
            let text: String = bounds
                .map(|(length, low)| format!("[{low}:{}]", low + length - 1))
                .collect();
            Ok(if text.is_empty() {
                Value::Null
            } else {
                Value::text(&text)
            })
        }),
        _ => return None,
    })
}

/// The elements of an array in a form whose equality is the type's; NULLs left out.
fn members(call: &Call<'_>, index: usize) -> Result<Vec<Value>, SqlError> {
    let element = comparable(call)?;
    let elements = call
        .array(index)?
        .elements
        .iter()
        .filter(|value| !value.is_null());
    elements
        .map(|value| canonical(call.types, element, value))
        .collect()
}

/// The element type, if it can be compared: Postgres says so even where nothing is compared.
fn comparable(call: &Call<'_>) -> Result<Oid, SqlError> {
    let element = call.element(0)?;
    if equatable(call.types, element) {
        return Ok(element);
    }
    Err(SqlError::new(
        "42883",
        "could not identify an equality operator",
    ))
}

/// As [`comparable`], for functions that say so only when something is compared.
fn searchable(call: &Call<'_>) -> Result<Oid, SqlError> {
    comparable(call)
        .map_err(|_never| SqlError::internal("a search among values that cannot be compared"))
}

/// Whether all of `b` are in `a`.
fn contains(call: &Call<'_>, a: usize, b: usize) -> Result<Value, SqlError> {
    let inside = members(call, a)?;
    let wanted = members(call, b)?;
    let has_null = call.array(b)?.elements.iter().any(Value::is_null);
    Ok(Value::Bool(
        !has_null && wanted.iter().all(|value| inside.contains(value)),
    ))
}

fn sets(function: u32) -> Option<&'static Builtin> {
    Some(match function {
        2747 => strict!(|call| {
            let (a, b) = (members(call, 0)?, members(call, 1)?);
            Ok(Value::Bool(a.iter().any(|value| b.contains(value))))
        }),
        2748 => strict!(|call| contains(call, 0, 1)),
        2749 => strict!(|call| contains(call, 1, 0)),
        _ => return None,
    })
}

fn incompatible() -> SqlError {
    SqlError::new("2202E", "cannot concatenate incompatible arrays")
}

fn concatenated(a: &Array, b: &Array) -> Result<Array, SqlError> {
    let ((a_dimensions, b_dimensions), total) = (
        (&*a.dimensions, &*b.dimensions),
        |length: i32, more: i32| length.checked_add(more).ok_or_else(unexpected),
    );
    if a_dimensions.is_empty() && !b_dimensions.is_empty() {
        return Ok(b.clone());
    }
    if b_dimensions.is_empty() {
        return Ok(a.clone());
    }
    let mut dimensions;
    match (a_dimensions, b_dimensions) {
        ([(a_length, low), a_rest @ ..], [(b_length, _), b_rest @ ..])
            if a_dimensions.len() == b_dimensions.len() =>
        {
            if a_rest != b_rest {
                return Err(incompatible());
            }
            dimensions = vec![(total(*a_length, *b_length)?, *low)];
            dimensions.extend(a_rest);
        }
        (_, [(length, low), rest @ ..]) if a_dimensions.len() + 1 == b_dimensions.len() => {
            if a_dimensions != rest {
                return Err(incompatible());
            }
            dimensions = vec![(total(*length, 1)?, *low)];
            dimensions.extend(rest);
        }
        ([(length, low), rest @ ..], _) if a_dimensions.len() == b_dimensions.len() + 1 => {
            if rest != b_dimensions {
                return Err(incompatible());
            }
            dimensions = vec![(total(*length, 1)?, *low)];
            dimensions.extend(rest);
        }
        _ => return Err(incompatible()),
    }
    Ok(Array {
        dimensions: dimensions.into(),
        elements: a.elements.iter().chain(&b.elements).cloned().collect(),
    })
}

/// Puts a value before or behind an array of one dimension; NULL is an empty array.
fn grown(array: &Value, value: &Value, at_front: bool) -> Result<Value, SqlError> {
    let (mut elements, low) = match array {
        Value::Null => (Vec::new(), 1),
        Value::Array(array) => match &*array.dimensions {
            [] => (Vec::new(), 1),
            [(_, low)] => (array.elements.to_vec(), *low),
            _ => {
                return Err(SqlError::new(
                    "22000",
                    "argument must be empty or one-dimensional array",
                ));
            }
        },
        _ => return Err(unexpected()),
    };
    elements.insert(if at_front { 0 } else { elements.len() }, value.clone());
    let mut grown = Array::one_dimension(elements);
    for dimension in &mut grown.dimensions {
        dimension.1 = low;
    }
    Ok(Value::Array(Arc::new(grown)))
}

fn growing(function: u32) -> Option<&'static Builtin> {
    Some(match function {
        378 => lax!(|call| grown(call.any(0)?, call.any(1)?, false)),
        379 => lax!(|call| grown(call.any(1)?, call.any(0)?, true)),
        383 => lax!(|call| match (call.any(0)?, call.any(1)?) {
            (Value::Null, other) | (other, Value::Null) => Ok(other.clone()),
            (Value::Array(a), Value::Array(b)) => Ok(Value::Array(Arc::new(concatenated(a, b)?))),
            _ => Err(unexpected()),
        }),
        _ => return None,
    })
}

/// The places (from the array's lower bound on) of elements that are not distinct from a value.
fn places(call: &Call<'_>, from: Option<i64>) -> Result<Vec<i64>, SqlError> {
    let element = searchable(call)?;
    let array = call.array(0)?;
    let low = match &*array.dimensions {
        [] => return Ok(Vec::new()),
        [(_, low)] => i64::from(*low),
        _ => {
            return Err(SqlError::new(
                "0A000",
                "searching for elements in multidimensional arrays is not supported",
            ));
        }
    };
    let wanted = canonical(call.types, element, call.any(1)?)?;
    let mut places = Vec::new();
    for (value, place) in array.elements.iter().zip(low..) {
        if from.is_none_or(|from| place >= from) && canonical(call.types, element, value)? == wanted
        {
            places.push(place);
        }
    }
    Ok(places)
}

fn searching(function: u32) -> Option<&'static Builtin> {
    Some(match function {
        3277 => lax!(|call| {
            if call.any(0)?.is_null() {
                return Ok(Value::Null);
            }
            Ok(places(call, None)?
                .first()
                .map_or(Value::Null, |place| Value::Int(*place)))
        }),
        3278 => lax!(|call| {
            if call.any(0)?.is_null() {
                return Ok(Value::Null);
            }
            let from = match call.any(2)? {
                Value::Int(from) => *from,
                _ if call.array(0)?.dimensions.is_empty() => return Ok(Value::Null),
                _ if call.array(0)?.dimensions.len() > 1 => {
                    return places(call, None).map(|_| Value::Null);
                }
                // A search for NULL where there is none ends before.
                _ if call.any(1)?.is_null()
                    && !call.array(0)?.elements.iter().any(Value::is_null) =>
                {
                    return Ok(Value::Null);
                }
                _ => return Err(SqlError::new("22004", "initial position must not be null")),
            };
            Ok(places(call, Some(from))?
                .first()
                .map_or(Value::Null, |place| Value::Int(*place)))
        }),
        3279 => lax!(|call| {
            if call.any(0)?.is_null() {
                return Ok(Value::Null);
            }
            Ok(list(
                places(call, None)?.into_iter().map(Value::Int).collect(),
            ))
        }),
        3167 => lax!(|call| replaced(call, None)),
        3168 => lax!(|call| replaced(call, Some(call.any(2)?))),
        _ => return None,
    })
}

/// Without the elements that are not distinct from a value, or with another in their place.
fn replaced(call: &Call<'_>, with: Option<&Value>) -> Result<Value, SqlError> {
    let Value::Array(array) = call.any(0)? else {
        return Ok(Value::Null);
    };
    let element = searchable(call)?;
    if with.is_none() && array.dimensions.len() > 1 {
        return Err(SqlError::new(
            "0A000",
            "removing elements from multidimensional arrays is not supported",
        ));
    }
    let wanted = canonical(call.types, element, call.any(1)?)?;
    let mut elements = Vec::with_capacity(array.elements.len());
    for value in &array.elements {
        if canonical(call.types, element, value)? != wanted {
            elements.push(value.clone());
        } else if let Some(with) = with {
            elements.push(with.clone());
        }
    }
    if elements.len() == array.elements.len() {
        return Ok(Value::Array(Arc::new(Array {
            dimensions: array.dimensions.clone(),
            elements: elements.into(),
        })));
    }
    let low = array.dimensions.first().map_or(1, |(_, low)| *low);
    let mut removed = Array::one_dimension(elements);
    for dimension in &mut removed.dimensions {
        dimension.1 = low;
    }
    Ok(Value::Array(Arc::new(removed)))
}

/// The parts of a text between delimiters; without a delimiter, its characters.
pub(super) fn parts(call: &Call<'_>) -> Result<Option<Vec<Value>>, SqlError> {
    let Value::Text(text) = call.any(0)? else {
        return Ok(None);
    };
    let parts: Vec<String> = match call.any(1)? {
        _ if text.is_empty() => Vec::new(),
        Value::Text(delimiter) if delimiter.is_empty() => vec![text.to_string()],
        Value::Text(delimiter) => text.split(&**delimiter).map(str::to_owned).collect(),
        _ => text.chars().map(String::from).collect(),
    };
    let null = match call.args.get(2) {
        Some(Value::Text(null)) => Some(null),
        _ => None,
    };
    let value = |part: String| {
        if null.is_some_and(|null| **null == part) {
            Value::Null
        } else {
            Value::text(&part)
        }
    };
    Ok(Some(parts.into_iter().map(value).collect()))
}

fn joined(call: &Call<'_>) -> Result<Value, SqlError> {
    let (Value::Array(array), Value::Text(delimiter)) = (call.any(0)?, call.any(1)?) else {
        return Ok(Value::Null);
    };
    let null = match call.args.get(2) {
        Some(Value::Text(null)) => Some(null.to_string()),
        _ => None,
    };
    let element = call.element(0)?;
    let mut parts = Vec::new();
    for value in &array.elements {
        if value.is_null() {
            parts.extend(null.clone());
        } else {
            parts.push(output(call.types, element, value)?);
        }
    }
    Ok(Value::text(&parts.join(delimiter)))
}

fn with_text(function: u32) -> Option<&'static Builtin> {
    Some(match function {
        376 | 394 => lax!(|call| Ok(parts(call)?.map_or(Value::Null, list))),
        395 => strict!(joined),
        384 => lax!(joined),
        _ => return None,
    })
}
