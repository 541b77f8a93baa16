//! Integers: arithmetic, bits, conversions.

use super::{Builtin, Call, strict};
use crate::policy::value::{SqlError, Value, oid};

pub(super) fn scalar(function: u32) -> Option<&'static Builtin> {
    Some(match function {
        // +
        176 | 177 | 178 | 179 | 463 | 837 | 841 | 1274 | 1278 => {
            strict!(|call| fit(call, call.int(0)?.checked_add(*call.int(1)?)))
        }
        // -
        180 | 181 | 182 | 183 | 464 | 838 | 942 | 1275 | 1279 => {
            strict!(|call| fit(call, call.int(0)?.checked_sub(*call.int(1)?)))
        }
        // *
        141 | 152 | 170 | 171 | 465 | 839 | 943 | 1276 | 1280 => {
            strict!(|call| fit(call, call.int(0)?.checked_mul(*call.int(1)?)))
        }
        // /
        153 | 154 | 172 | 173 | 466 | 840 | 948 | 1277 | 1281 => {
            strict!(|call| fit(call, call.int(0)?.checked_div(divisor(call)?)))
        }
        // %
        155 | 156 | 945 | 940 | 941 | 947 => {
            strict!(|call| fit(
                call,
                Some(call.int(0)?.checked_rem(divisor(call)?).unwrap_or(0))
            ))
        }
        // unary minus, plus, absolute value
        212 | 213 | 462 => strict!(|call| fit(call, call.int(0)?.checked_neg())),
        1910..=1912 => strict!(|call| fit(call, Some(*call.int(0)?))),
        1396..=1398 | 1230 | 1251 | 1253 => strict!(|call| fit(call, call.int(0)?.checked_abs())),
        // & | # ~
        1892 | 1898 | 1904 => strict!(|call| fit(call, Some(call.int(0)? & call.int(1)?))),
        1893 | 1899 | 1905 => strict!(|call| fit(call, Some(call.int(0)? | call.int(1)?))),
        1894 | 1900 | 1906 => strict!(|call| fit(call, Some(call.int(0)? ^ call.int(1)?))),
        1895 | 1901 | 1907 => strict!(|call| fit(call, Some(!*call.int(0)?))),
        // larger, smaller
        768 | 770 | 1236 | 1965 => strict!(|call| fit(call, Some(*call.int(0)?.max(call.int(1)?)))),
        769 | 771 | 1237 | 1966 => strict!(|call| fit(call, Some(*call.int(0)?.min(call.int(1)?)))),
        // conversions between integers, oid, bool
        313 | 314 | 480 | 481 | 714 | 754 | 1287 => strict!(|call| fit(call, Some(*call.int(0)?))),
        1288 => strict!(|call| fit(call, Some(*call.int(0)?))),
        2558 => strict!(|call| Ok(Value::Int(i64::from(*call.bool(0)?)))),
        2557 => strict!(|call| Ok(Value::Bool(*call.int(0)? != 0))),
        // to_hex
        2089 => strict!(|call| Ok(Value::text(&format!("{:x}", call.int(0)? & 0xffff_ffff)))),
        2090 => strict!(|call| Ok(Value::text(&format!("{:x}", call.int(0)?)))),
        _ => return None,
    })
}

fn divisor(call: &Call<'_>) -> Result<i64, SqlError> {
    match *call.int(1)? {
        0 => Err(SqlError::new("22012", "division by zero")),
        divisor => Ok(divisor),
    }
}

/// The result, if its type holds it.
fn fit(call: &Call<'_>, value: Option<i64>) -> Result<Value, SqlError> {
    let (least, most) = match call.result {
        oid::INT2 => (i64::from(i16::MIN), i64::from(i16::MAX)),
        oid::INT4 => (i64::from(i32::MIN), i64::from(i32::MAX)),
        oid::OID => (0, i64::from(u32::MAX)),
        _ => (i64::MIN, i64::MAX),
    };
    value
        .filter(|value| (least..=most).contains(value))
        .map(Value::Int)
        .ok_or_else(|| SqlError::new("22003", "integer out of range"))
}
