//! `numeric` and floats: arithmetic and conversions.

use super::{Builtin, Call, strict};
use crate::policy::value::scalar::{float, float_bits};
use crate::policy::value::{Numeric, SqlError, Value, oid, with_typmod};

pub(super) fn scalar(function: u32) -> Option<&'static Builtin> {
    numeric(function)
        .or_else(|| floating(function))
        .or_else(|| converting(function))
}

fn numeric(function: u32) -> Option<&'static Builtin> {
    Some(match function {
        1724 => strict!(|call| call.numeric(0)?.add(call.numeric(1)?).map(Value::Numeric)),
        1725 => strict!(|call| call
            .numeric(0)?
            .subtract(call.numeric(1)?)
            .map(Value::Numeric)),
        1726 => strict!(|call| call
            .numeric(0)?
            .multiply(call.numeric(1)?)
            .map(Value::Numeric)),
        1727 => strict!(|call| call
            .numeric(0)?
            .divide(call.numeric(1)?)
            .map(Value::Numeric)),
        1728 | 1729 => strict!(|call| call
            .numeric(0)?
            .remainder(call.numeric(1)?)
            .map(Value::Numeric)),
        1704 | 1705 => strict!(|call| Ok(Value::Numeric(call.numeric(0)?.abs()))),
        1771 => strict!(|call| Ok(Value::Numeric(call.numeric(0)?.negated()))),
        1915 => strict!(|call| Ok(Value::Numeric(call.numeric(0)?.clone()))),
        1706 => strict!(|call| {
            Ok(Value::Numeric(
                call.numeric(0)?
                    .signum()
                    .map_or(Numeric::Nan, Numeric::from),
            ))
        }),
        1707 => strict!(|call| call
            .numeric(0)?
            .at_scale(*call.int(1)?, true)
            .map(Value::Numeric)),
        1708 => strict!(|call| call.numeric(0)?.at_scale(0, true).map(Value::Numeric)),
        1709 => strict!(|call| call
            .numeric(0)?
            .at_scale(*call.int(1)?, false)
            .map(Value::Numeric)),
        1710 => strict!(|call| call.numeric(0)?.at_scale(0, false).map(Value::Numeric)),
        1711 | 2167 => strict!(|call| call.numeric(0)?.integral(true).map(Value::Numeric)),
        1712 => strict!(|call| call.numeric(0)?.integral(false).map(Value::Numeric)),
        3281 => strict!(|call| {
            let scale = call
                .numeric(0)?
                .scale()
                .and_then(|scale| i64::try_from(scale).ok());
            Ok(scale.map_or(Value::Null, Value::Int))
        }),
        5043 => strict!(|call| Ok(Value::Numeric(call.numeric(0)?.canonical()))),
        _ => return None,
    })
}

/// A float as the result's type holds it, or the error of an operation that left its range.
fn fit(call: &Call<'_>, value: f64, infinite: bool, zero: bool) -> Result<Value, SqlError> {
    let value = if call.result == oid::FLOAT4 {
        single(value)
    } else {
        value
    };
    if value.is_infinite() && !infinite {
        return Err(SqlError::new("22003", "value out of range: overflow"));
    }
    if value == 0.0 && !zero {
        return Err(SqlError::new("22003", "value out of range: underflow"));
    }
    Ok(Value::Float(float_bits(value)))
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "rounding to real is what is asked for"
)]
fn single(value: f64) -> f64 {
    f64::from(value as f32)
}

fn operands(call: &Call<'_>) -> Result<(f64, f64, bool), SqlError> {
    let (a, b) = (call.float(0)?, call.float(1)?);
    Ok((a, b, a.is_infinite() || b.is_infinite()))
}

fn floating(function: u32) -> Option<&'static Builtin> {
    Some(match function {
        204 | 218 | 281 | 285 => strict!(|call| {
            let (a, b, infinite) = operands(call)?;
            fit(call, a + b, infinite, true)
        }),
        205 | 219 | 282 | 286 => strict!(|call| {
            let (a, b, infinite) = operands(call)?;
            fit(call, a - b, infinite, true)
        }),
        202 | 216 | 279 | 283 => strict!(|call| {
            let (a, b, infinite) = operands(call)?;
            fit(call, a * b, infinite, a == 0.0 || b == 0.0)
        }),
        203 | 217 | 280 | 284 => strict!(|call| {
            let (a, b, infinite) = operands(call)?;
            if b == 0.0 && !a.is_nan() {
                return Err(SqlError::new("22012", "division by zero"));
            }
            fit(call, a / b, infinite, a == 0.0 || b.is_infinite())
        }),
        206 | 220 => strict!(|call| Ok(Value::Float(float_bits(-call.float(0)?)))),
        1913 | 1914 => strict!(|call| Ok(Value::Float(float_bits(call.float(0)?)))),
        207 | 221 | 1394 | 1395 => {
            strict!(|call| Ok(Value::Float(float_bits(call.float(0)?.abs()))))
        }
        228 | 1342 => {
            strict!(|call| Ok(Value::Float(float_bits(call.float(0)?.round_ties_even()))))
        }
        229 | 1343 => strict!(|call| Ok(Value::Float(float_bits(call.float(0)?.trunc())))),
        2308 | 2320 => strict!(|call| Ok(Value::Float(float_bits(call.float(0)?.ceil())))),
        2309 => strict!(|call| Ok(Value::Float(float_bits(call.float(0)?.floor())))),
        2310 => strict!(|call| {
            let value = call.float(0)?;
            let sign = if value > 0.0 {
                1.0
            } else if value < 0.0 {
                -1.0
            } else {
                0.0
            };
            Ok(Value::Float(float_bits(sign)))
        }),
        230 | 1344 => strict!(|call| {
            let value = call.float(0)?;
            if value < 0.0 {
                return Err(SqlError::new(
                    "2201F",
                    "cannot take square root of a negative number",
                ));
            }
            Ok(Value::Float(float_bits(value.sqrt())))
        }),
        _ => return None,
    })
}

fn converting(function: u32) -> Option<&'static Builtin> {
    Some(match function {
        // integers to numeric and to floats
        1740 | 1781 | 1782 => strict!(|call| Ok(Value::Numeric(Numeric::from(*call.int(0)?)))),
        235 | 236 | 316 | 318 | 482 | 652 => strict!(|call| {
            let value = float(&call.int(0)?.to_string(), call.result == oid::FLOAT4)?;
            Ok(Value::Float(float_bits(value)))
        }),
        // numeric to integers and floats
        1744 | 1779 | 1783 => strict!(|call| {
            let (least, most, kind) = bounds(call.result);
            call.numeric(0)?
                .to_integer(least, most, kind)
                .map(Value::Int)
        }),
        1745 | 1746 => strict!(|call| {
            let value = float(&call.numeric(0)?.to_string(), call.result == oid::FLOAT4)?;
            Ok(Value::Float(float_bits(value)))
        }),
        1703 => strict!(|call| {
            let typmod = i32::try_from(*call.int(1)?).unwrap_or(-1);
            with_typmod(call.types, oid::NUMERIC, typmod, call.any(0)?.clone(), true)
        }),
        // floats to integers, numeric and each other
        237 | 238 | 317 | 319 | 483 | 653 => strict!(|call| {
            let (least, most, kind) = bounds(call.result);
            let rounded = call.float(0)?.round_ties_even();
            let text = format!("{rounded:.0}").parse::<i64>();
            text.ok()
                .filter(|value| (least..=most).contains(value))
                .map(Value::Int)
                .ok_or_else(|| SqlError::new("22003", format!("{kind} out of range")))
        }),
        1742 => strict!(|call| from_float(call.float(0)?, 6).map(Value::Numeric)),
        1743 => strict!(|call| from_float(call.float(0)?, 15).map(Value::Numeric)),
        311 => strict!(|call| Ok(call.any(0)?.clone())),
        312 => strict!(|call| {
            let value = call.float(0)?;
            fit(call, value, value.is_infinite(), value == 0.0)
        }),
        _ => return None,
    })
}

pub(super) const fn bounds(type_oid: u32) -> (i64, i64, &'static str) {
    match type_oid {
        oid::INT2 => (-32_768, 32_767, "smallint"),
        oid::INT4 => (-2_147_483_648, 2_147_483_647, "integer"),
        _ => (i64::MIN, i64::MAX, "bigint"),
    }
}

/// A float with so many significant digits.
fn from_float(value: f64, digits: usize) -> Result<Numeric, SqlError> {
    if value.is_nan() {
        return Ok(Numeric::Nan);
    }
    if value.is_infinite() {
        return Ok(Numeric::Infinite(value < 0.0));
    }
    // As C's %.*g prints it: without trailing zeros.
    let text = format!("{value:.*e}", digits - 1);
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let mantissa = match mantissa.contains('.') {
        true => mantissa.trim_end_matches('0').trim_end_matches('.'),
        false => mantissa,
    };
    Numeric::parse(&format!("{mantissa}e{exponent}"))
}
