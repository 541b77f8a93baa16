//! Comparisons of the first types, settings, time, members of a JSON object.

use std::sync::Arc;

use super::{Builtin, Call};
use crate::policy::value::{Json, SqlError, Value, compare, oid};

const fn strict(eval: fn(&Call<'_>) -> Result<Value, SqlError>) -> Builtin {
    Builtin {
        strict: true,
        needs_bytewise: false,
        eval,
    }
}

static EQUAL: Builtin = strict(|call| same(call).map(Value::Bool));
static UNEQUAL: Builtin = strict(|call| same(call).map(|same| Value::Bool(!same)));
static LESS: Builtin = strict(|call| order(call).map(|order| Value::Bool(order.is_lt())));
static LESS_EQUAL: Builtin = strict(|call| order(call).map(|order| Value::Bool(order.is_le())));
static GREATER: Builtin = strict(|call| order(call).map(|order| Value::Bool(order.is_gt())));
static GREATER_EQUAL: Builtin = strict(|call| order(call).map(|order| Value::Bool(order.is_ge())));
static NOW: Builtin = strict(|call| Ok(Value::TimestampTz(call.session.now)));
static SETTING: Builtin = strict(|call| setting(call, false));
static SETTING_OR_NULL: Builtin =
    strict(|call| setting(call, matches!(call.args.get(1), Some(Value::Bool(true)))));
static MEMBER: Builtin = strict(|call| {
    Ok(member(call)?.map_or(Value::Null, |json| Value::Jsonb(Arc::new(json.clone()))))
});
static MEMBER_TEXT: Builtin = strict(|call| {
    Ok(match member(call)? {
        None | Some(Json::Null) => Value::Null,
        Some(Json::String(text)) => Value::Text(Arc::clone(text)),
        Some(other) => Value::text(&other.to_string()),
    })
});

pub(super) fn scalar(function: u32) -> Option<&'static Builtin> {
    Some(match function {
        60 | 62 | 63 | 65 | 67 | 240 | 467 | 474 | 852 | 1152 | 2956 | 3508 => &EQUAL,
        84 | 144 | 145 | 157 | 468 | 659 | 1153 | 2959 | 3509 => &UNEQUAL,
        66 | 469 | 1154 | 2954 => &LESS,
        149 | 471 | 1155 => &LESS_EQUAL,
        147 | 470 | 1157 => &GREATER,
        150 | 472 | 1156 => &GREATER_EQUAL,
        1299 | 2647 => &NOW,
        2077 => &SETTING,
        3294 => &SETTING_OR_NULL,
        3478 => &MEMBER,
        3214 => &MEMBER_TEXT,
        _ => return None,
    })
}

fn same(call: &Call<'_>) -> Result<bool, SqlError> {
    match call.args {
        [a, b] => Ok(a == b),
        _ => Err(SqlError::internal("a comparison takes two arguments")),
    }
}

fn order(call: &Call<'_>) -> Result<std::cmp::Ordering, SqlError> {
    match call.args {
        [a, b] => compare(
            call.types,
            call.arg_types.first().copied().unwrap_or(oid::UNKNOWN),
            a,
            b,
        ),
        _ => Err(SqlError::internal("a comparison takes two arguments")),
    }
}

fn setting(call: &Call<'_>, missing_ok: bool) -> Result<Value, SqlError> {
    let Some(Value::Text(name)) = call.args.first() else {
        return Err(SqlError::internal("a setting's name is text"));
    };
    match call.session.settings.get(&*name.to_ascii_lowercase()) {
        Some(value) => Ok(Value::Text(Arc::clone(value))),
        None if missing_ok => Ok(Value::Null),
        None => Err(SqlError::new(
            "42704",
            format!("unrecognized configuration parameter \"{name}\""),
        )),
    }
}

fn member<'a>(call: &'a Call<'_>) -> Result<Option<&'a Json>, SqlError> {
    match call.args {
        [Value::Jsonb(json), Value::Text(name)] => Ok(json.member(name)),
        _ => Err(SqlError::internal("-> takes jsonb and text")),
    }
}
