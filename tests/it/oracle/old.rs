//! What may be told of rows that are no more.
//!
//! Under row-level security there are two answers: the old row was judged, and is shown to those who saw it right before the
//! transaction; or it was not, and its key is all that anybody is shown.

use serde_json::{Map, Value};

use super::model::{Access, Table};
use super::rows::Change;

/// What a listener was told of an old row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// It was told of nothing.
    Nothing,
    /// The key alone.
    Key,
    /// All that the role may read, and more than the key.
    Whole,
    /// There is no more to tell than the key, or nothing.
    Either,
}

/// Which of the two an old row is. `doubts_grants`: who might read the table before the transaction may be another one than
/// who may after it.
pub(super) fn check_old(
    got: &Value,
    table: &Table,
    access: &Access,
    (change, old): (&Change, &Value),
    doubts_grants: bool,
) -> Result<Told, String> {
    let key = shown(table, access, old, false);
    let whole = shown(table, access, old, true);
    // The wire says so of deletes in tables with row security, whoever reads them.
    let hides = change.new.is_none() && table.row_security && !access.policies_apply;
    if *got == key && key == whole {
        return Ok(Told::Either);
    }
    if *got == key && (hides || access.policies_apply || doubts_grants) {
        return Ok(Told::Key);
    }
    if *got == whole && !hides {
        return Ok(Told::Whole);
    }
    Err(format!("the old record should be {key} or {whole}"))
}

/// Whether more than the key may be told of old rows.
pub(super) fn is_whole_told(table: &Table, access: &Access) -> bool {
    let more = (table.columns.iter()).any(|column| {
        !column.generated
            && !table.key.contains(&column.name)
            && access.columns.contains(&column.name)
    });
    table.identity_full && more
}

fn shown(table: &Table, access: &Access, old: &Value, all: bool) -> Value {
    let columns = table.columns.iter().filter(|column| {
        let is_shown = table.key.contains(&column.name) || (all && table.identity_full);
        is_shown && !column.generated && access.columns.contains(&column.name)
    });
    let shown: Map<String, Value> = columns
        .map(|column| (column.name.clone(), old[&column.name].clone()))
        .collect();
    Value::Object(shown)
}
