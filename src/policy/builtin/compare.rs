//! Comparisons: each function is one of six questions about one of a few kinds of pairs.

use std::cmp::Ordering;

use super::{Builtin, Call, bytewise, strict, unexpected};
use crate::policy::value::moment::timestamp_of_date;
use crate::policy::value::{SqlError, Value, compare, equal, equatable, ordered};

/// Fields: equal, not equal, less, less or equal, greater, greater or equal.
type Family = [u32; 6];

/// Comparisons whose result no collation changes.
const PLAIN: &[Family] = &[
    [60, 84, 56, 1691, 57, 1692],         // bool
    [61, 70, 1246, 72, 73, 74],           // "char"
    [63, 145, 64, 148, 146, 151],         // int2
    [65, 144, 66, 149, 147, 150],         // int4
    [467, 468, 469, 471, 470, 472],       // int8
    [158, 164, 160, 166, 162, 168],       // int2, int4
    [159, 165, 161, 167, 163, 169],       // int4, int2
    [1850, 1851, 1852, 1854, 1853, 1855], // int2, int8
    [1856, 1857, 1858, 1860, 1859, 1861], // int8, int2
    [852, 853, 854, 856, 855, 857],       // int4, int8
    [474, 475, 476, 478, 477, 479],       // int8, int4
    [184, 185, 716, 717, 1638, 1639],     // oid
    [287, 288, 289, 290, 291, 292],       // float4
    [293, 294, 295, 296, 297, 298],       // float8
    [299, 300, 301, 302, 303, 304],       // float4, float8
    [305, 306, 307, 308, 309, 310],       // float8, float4
    [1718, 1719, 1722, 1723, 1720, 1721], // numeric
    [1086, 1091, 1087, 1088, 1089, 1090], // date
    [1145, 1106, 1102, 1103, 1104, 1105], // time
    [1352, 1353, 1354, 1355, 1357, 1356], // timetz
    [2052, 2053, 2054, 2055, 2057, 2056], // timestamp
    [1152, 1153, 1154, 1155, 1157, 1156], // timestamptz
    [1162, 1163, 1164, 1165, 1167, 1166], // interval
    [2340, 2343, 2338, 2339, 2341, 2342], // date, timestamp
    [2353, 2356, 2351, 2352, 2354, 2355], // date, timestamptz
    [2366, 2369, 2364, 2365, 2367, 2368], // timestamp, date
    [2522, 2525, 2520, 2521, 2523, 2524], // timestamp, timestamptz
    [2379, 2382, 2377, 2378, 2380, 2381], // timestamptz, date
    [2529, 2532, 2527, 2528, 2530, 2531], // timestamptz, timestamp
    [1581, 1582, 1595, 1594, 1593, 1592], // bit
    [1666, 1667, 1671, 1670, 1669, 1668], // varbit
    [1948, 1953, 1949, 1950, 1951, 1952], // bytea
    [2956, 2959, 2954, 2955, 2958, 2957], // uuid
    [3508, 3509, 3510, 3512, 3511, 3513], // enums
];

/// Comparisons whose order depends on a collation.
const COLLATED: &[Family] = &[
    [67, 157, 740, 741, 742, 743],        // text
    [1048, 1053, 1049, 1050, 1051, 1052], // bpchar
    [62, 659, 655, 656, 657, 658],        // name
    [240, 245, 241, 242, 244, 243],       // name, text
    [247, 252, 248, 249, 251, 250],       // text, name
    [744, 390, 391, 393, 392, 396],       // arrays
    [2981, 2982, 2983, 2985, 2984, 2986], // rows
    [0, 0, 2160, 2161, 2164, 2163],       // text by bytes, whatever the collation
    [0, 0, 2174, 2175, 2178, 2177],       // bpchar by bytes
];

pub(super) fn scalar(function: u32) -> Option<&'static Builtin> {
    if function == 0 {
        return None;
    }
    let place = |families: &[Family]| {
        families
            .iter()
            .find_map(|family| family.iter().position(|oid| *oid == function))
    };
    match place(PLAIN) {
        Some(0) => return Some(strict!(|call| same(call).map(Value::Bool))),
        Some(1) => return Some(strict!(|call| same(call).map(|same| Value::Bool(!same)))),
        Some(2) => {
            return Some(strict!(
                |call| order(call).map(|order| Value::Bool(order.is_lt()))
            ));
        }
        Some(3) => {
            return Some(strict!(
                |call| order(call).map(|order| Value::Bool(order.is_le()))
            ));
        }
        Some(4) => {
            return Some(strict!(
                |call| order(call).map(|order| Value::Bool(order.is_gt()))
            ));
        }
        Some(_) => {
            return Some(strict!(
                |call| order(call).map(|order| Value::Bool(order.is_ge()))
            ));
        }
        None => {}
    }
    Some(match place(COLLATED) {
        Some(0) => strict!(|call| same(call).map(Value::Bool)),
        Some(1) => strict!(|call| same(call).map(|same| Value::Bool(!same))),
        Some(2) => bytewise!(|call| order(call).map(|order| Value::Bool(order.is_lt()))),
        Some(3) => bytewise!(|call| order(call).map(|order| Value::Bool(order.is_le()))),
        Some(4) => bytewise!(|call| order(call).map(|order| Value::Bool(order.is_gt()))),
        Some(_) => bytewise!(|call| order(call).map(|order| Value::Bool(order.is_ge()))),
        None => match function {
            4043 => strict!(|call| same(call).map(Value::Bool)),
            4038 => strict!(|call| same(call).map(|same| Value::Bool(!same))),
            _ => return None,
        },
    })
}

fn same(call: &Call<'_>) -> Result<bool, SqlError> {
    let (a, b) = (call.any(0)?, call.any(1)?);
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => Ok(a == b),
        (Value::Uuid(a), Value::Uuid(b)) => Ok(a == b),
        _ if std::mem::discriminant(a) == std::mem::discriminant(b) => {
            comparable(call)?;
            equal(call.types, call.type_of(0), a, b)
        }
        _ => order(call).map(Ordering::is_eq),
    }
}

fn order(call: &Call<'_>) -> Result<Ordering, SqlError> {
    let (a, b) = (call.any(0)?, call.any(1)?);
    if std::mem::discriminant(a) == std::mem::discriminant(b) {
        comparable(call)?;
        if !ordered(call.types, call.type_of(0), true) {
            return Err(SqlError::internal("a type without a known order"));
        }
        return compare(call.types, call.type_of(0), a, b);
    }
    Ok(instant(a)?.cmp(&instant(b)?))
}

/// Postgres refuses what has no equality only when elements or columns come to be compared.
fn comparable(call: &Call<'_>) -> Result<(), SqlError> {
    if equatable(call.types, call.type_of(0)) {
        return Ok(());
    }
    Err(SqlError::internal(
        "a comparison of values that cannot be compared",
    ))
}

/// A date or timestamp as microseconds in UTC, also beyond what a timestamp can have.
fn instant(value: &Value) -> Result<i128, SqlError> {
    match value {
        Value::Timestamp(micros) | Value::TimestampTz(micros) => Ok(i128::from(*micros)),
        Value::Date(date) => match timestamp_of_date(*date) {
            Ok(micros) => Ok(i128::from(micros)),
            // Later than every timestamp, but not infinite.
            Err(_) => Ok(i128::from(i64::MAX) - 1),
        },
        _ => Err(unexpected()),
    }
}
