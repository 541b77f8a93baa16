//! What a call reads of the session: settings and time.

use std::sync::Arc;

use super::{Builtin, Call, strict};
use crate::policy::value::{SqlError, Value};

pub(super) fn scalar(function: u32) -> Option<&'static Builtin> {
    Some(match function {
        // now, transaction_timestamp; one query is one statement.
        1299 | 2647 | 2648 => strict!(|call| Ok(Value::TimestampTz(call.session.now))),
        2077 => strict!(|call| setting(call, false)),
        3294 => strict!(|call| setting(call, *call.bool(1)?)),
        _ => return None,
    })
}

fn setting(call: &Call<'_>, missing_ok: bool) -> Result<Value, SqlError> {
    let name = call.text(0)?.to_ascii_lowercase();
    match call.session.settings.get(&*name) {
        Some(value) => Ok(Value::Text(Arc::clone(value))),
        // Names without a point are Postgres' own settings, which have values that are not known here.
        None if !name.contains('.') => Err(SqlError::internal(&format!(
            "the setting \"{name}\" is left to Postgres"
        ))),
        None if missing_ok => Ok(Value::Null),
        None => Err(SqlError::new(
            "42704",
            format!("unrecognized configuration parameter \"{name}\""),
        )),
    }
}
