//! Aggregates over the values of all rows.

use std::cmp::Ordering;
use std::sync::Arc;

use super::json::write;
use super::jsonb::{key, to_json};
use super::{Aggregate, Call, Row, unexpected};
use crate::policy::value::{Array, Json, Numeric, Oid, SqlError, Value, compare, oid, ordered};

/// An aggregate.
macro_rules! over {
    ($strict:expr, $bytewise:expr, $eval:expr) => {{
        static FOUND: Aggregate = Aggregate {
            strict: $strict,
            needs_bytewise: $bytewise,
            eval: $eval,
        };
        Some(&FOUND)
    }};
}

pub(super) fn aggregate(function: u32) -> Option<&'static Aggregate> {
    match function {
        2147 => over!(true, false, |_, rows| Ok(count(rows))),
        2803 => over!(false, false, |_, rows| Ok(count(rows))),
        // text, bpchar, arrays
        2129 | 2244 | 2050 => over!(true, true, |call, rows| extreme(
            call,
            rows,
            Ordering::Greater
        )),
        2145 | 2245 | 2051 => over!(true, true, |call, rows| extreme(call, rows, Ordering::Less)),
        2115..=2118 | 2122..=2124 | 2126..=2128 | 2130 | 3526 | 2119 | 2120 => {
            over!(true, false, |call, rows| extreme(
                call,
                rows,
                Ordering::Greater
            ))
        }
        2131..=2134 | 2138..=2140 | 2142..=2144 | 2146 | 3527 | 2135 | 2136 => {
            over!(true, false, |call, rows| extreme(
                call,
                rows,
                Ordering::Less
            ))
        }
        2107..=2109 | 2114 => over!(true, false, sum),
        2100..=2103 => over!(true, false, average),
        2517 | 2519 => over!(true, false, |_, rows| truth(rows, false)),
        2518 => over!(true, false, |_, rows| truth(rows, true)),
        2335 => over!(false, false, |_, rows| {
            let elements = rows
                .iter()
                .map(|row| first(row).cloned())
                .collect::<Result<Vec<_>, _>>()?;
            Ok(if elements.is_empty() {
                Value::Null
            } else {
                Value::Array(Arc::new(Array::one_dimension(elements)))
            })
        }),
        3538 => over!(false, false, joined),
        2236 | 2238 | 2240 => over!(true, false, |_, rows| folded(rows, |a, b| a & b)),
        2237 | 2239 | 2241 => over!(true, false, |_, rows| folded(rows, |a, b| a | b)),
        3267 => over!(false, false, |call, rows| {
            let items = rows
                .iter()
                .map(|row| to_json(call.types, type_of(call, 0), first(row)?));
            let items = items.collect::<Result<Box<[Json]>, _>>()?;
            Ok(if items.is_empty() {
                Value::Null
            } else {
                Value::Jsonb(Arc::new(Json::Array(items)))
            })
        }),
        3270 => over!(false, false, object),
        3175 => over!(false, false, |call, rows| {
            let mut out = String::from("[");
            for (index, row) in rows.iter().enumerate() {
                // Composite values and arrays stand on lines of their own.
                let value = first(row)?;
                let separator = match value {
                    _ if index == 0 => "",
                    Value::Array(_) | Value::Record(_) => ", \n ",
                    _ => ", ",
                };
                out.push_str(separator);
                write(&mut out, call.types, type_of(call, 0), value)?;
            }
            out.push(']');
            Ok(if rows.is_empty() {
                Value::Null
            } else {
                Value::Json(out.into())
            })
        }),
        _ => None,
    }
}

fn type_of(call: &Call<'_>, index: usize) -> Oid {
    call.arg_types.get(index).copied().unwrap_or(0)
}

fn first(row: &Row) -> Result<&Value, SqlError> {
    row.first().ok_or_else(unexpected)
}

fn count(rows: &[Row]) -> Value {
    Value::Int(i64::try_from(rows.len()).unwrap_or(i64::MAX))
}

/// The greatest or least value; of equal ones Postgres keeps the first or the last, so they must look the same.
fn extreme(call: &Call<'_>, rows: &[Row], wanted: Ordering) -> Result<Value, SqlError> {
    if !ordered(call.types, type_of(call, 0), true) {
        return Err(SqlError::internal("a type without a known order"));
    }
    let mut best: Option<&Value> = None;
    for row in rows {
        let value = first(row)?;
        best = match best {
            None => Some(value),
            Some(found) => match compare(call.types, type_of(call, 0), value, found)? {
                Ordering::Equal if value != found => {
                    return Err(SqlError::internal(
                        "the extreme of values that are equal but look different",
                    ));
                }
                order if order == wanted => Some(value),
                _ => Some(found),
            },
        };
    }
    Ok(best.cloned().unwrap_or(Value::Null))
}

fn number(value: &Value) -> Result<Numeric, SqlError> {
    match value {
        Value::Int(value) => Ok(Numeric::from(*value)),
        Value::Numeric(number) => Ok(number.clone()),
        _ => Err(unexpected()),
    }
}

fn total(rows: &[Row]) -> Result<Numeric, SqlError> {
    rows.iter()
        .try_fold(Numeric::from(0), |sum, row| sum.add(&number(first(row)?)?))
}

fn sum(call: &Call<'_>, rows: &[Row]) -> Result<Value, SqlError> {
    if rows.is_empty() {
        return Ok(Value::Null);
    }
    let sum = total(rows)?;
    if call.result == oid::NUMERIC {
        return Ok(Value::Numeric(sum));
    }
    sum.to_integer(i64::MIN, i64::MAX, "bigint").map(Value::Int)
}

fn average(_: &Call<'_>, rows: &[Row]) -> Result<Value, SqlError> {
    let count = i64::try_from(rows.len()).unwrap_or(i64::MAX);
    if count == 0 {
        return Ok(Value::Null);
    }
    total(rows)?
        .divide(&Numeric::from(count))
        .map(Value::Numeric)
}

/// Whether any (`wanted`: true) or all are true.
fn truth(rows: &[Row], wanted: bool) -> Result<Value, SqlError> {
    if rows.is_empty() {
        return Ok(Value::Null);
    }
    let found = rows
        .iter()
        .any(|row| row.first() == Some(&Value::Bool(wanted)));
    Ok(Value::Bool(found == wanted))
}

fn folded(rows: &[Row], combine: fn(i64, i64) -> i64) -> Result<Value, SqlError> {
    let mut result = None;
    for row in rows {
        let Value::Int(value) = first(row)? else {
            return Err(unexpected());
        };
        result = Some(result.map_or(*value, |result| combine(result, *value)));
    }
    Ok(result.map_or(Value::Null, Value::Int))
}

/// Texts with delimiters; the delimiter of the first text is not used.
fn joined(_: &Call<'_>, rows: &[Row]) -> Result<Value, SqlError> {
    let mut out: Option<String> = None;
    for row in rows {
        match &**row {
            [Value::Null, _] => {}
            [Value::Text(text), delimiter] => match &mut out {
                None => out = Some(text.to_string()),
                Some(out) => {
                    if let Value::Text(delimiter) = delimiter {
                        out.push_str(delimiter);
                    }
                    out.push_str(text);
                }
            },
            _ => return Err(unexpected()),
        }
    }
    Ok(out.map_or(Value::Null, |out| Value::text(&out)))
}

fn object(call: &Call<'_>, rows: &[Row]) -> Result<Value, SqlError> {
    let mut members = Vec::new();
    for row in rows {
        let [name, value] = &**row else {
            return Err(unexpected());
        };
        if name.is_null() {
            return Err(SqlError::new("22023", "field name must not be null"));
        }
        let name = key(call.types, type_of(call, 0), name)?;
        members.push((name, to_json(call.types, type_of(call, 1), value)?));
    }
    Ok(if rows.is_empty() {
        Value::Null
    } else {
        Value::Jsonb(Arc::new(Json::object(members)))
    })
}
