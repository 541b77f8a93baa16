//! What a transaction did to rows, by looking at all of them before and after.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use tokio_postgres::Client;

use super::model::{Model, Table};
use super::transactions::Rids;

/// A row of a table.
#[derive(Clone, Debug)]
pub(super) struct Row {
    /// Where this version lies: an update always moves it.
    place: String,
    /// The key as a JSON array, as text.
    pub(super) key: String,
    /// All columns.
    pub(super) content: Value,
}

/// By table and `rid`, which no statement changes.
pub(super) type Rows = BTreeMap<(u32, i64), Row>;

/// What became of a row.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) table: u32,
    pub(super) old: Option<Row>,
    pub(super) new: Option<Row>,
}

impl Row {
    /// A row that lies nowhere.
    pub(super) fn new(key: &str, content: Value) -> Self {
        Self {
            place: String::new(),
            key: key.to_owned(),
            content,
        }
    }
}

impl Change {
    pub(super) const fn new(table: u32, old: Option<Row>, new: Option<Row>) -> Self {
        Self { table, old, new }
    }

    pub(super) fn kind(&self) -> &'static str {
        match (&self.old, &self.new) {
            (None, _) => "INSERT",
            (_, None) => "DELETE",
            _ => "UPDATE",
        }
    }
}

/// The key of a row of `alias` as a JSON array.
pub(super) fn key_expression(table: &Table) -> String {
    format!("jsonb_build_array({})::text", table.key.join(", "))
}

/// Reads all rows of all tables that are streamed.
pub(super) async fn read(client: &Client, model: &Model) -> Rows {
    let parts: Vec<String> = model
        .streamed()
        .map(|table| {
            format!(
                "select {}::oid, rid, ctid::text, {}, to_jsonb(x)::text from only app.{} x",
                table.oid,
                key_expression(table),
                table.name
            )
        })
        .collect();
    let mut rows = Rows::new();
    if parts.is_empty() {
        return rows;
    }
    for row in client.query(&parts.join(" union all "), &[]).await.unwrap() {
        let content: &str = row.get(4);
        let found = Row {
            place: row.get(2),
            key: row.get(3),
            content: serde_json::from_str(content).unwrap(),
        };
        let known = rows.insert((row.get(0), row.get(1)), found);
        assert!(known.is_none(), "two rows with one rid");
    }
    rows
}

/// The rows by table, for those who write statements.
pub(super) fn rids(model: &Model, rows: &Rows) -> Rids {
    let mut rids = Rids::new();
    for (oid, rid) in rows.keys() {
        if let Some(table) = model.tables.iter().find(|table| table.oid == *oid) {
            rids.entry(table.name.clone()).or_default().push(*rid);
            if table.is_partition {
                rids.entry("logs".to_owned()).or_default().push(*rid);
            }
        }
    }
    rids
}

/// The net effect: a key that one row left by its end and another took by its beginning is one change.
pub(super) fn changes(before: &Rows, after: &Rows) -> Vec<Change> {
    let ids: BTreeSet<&(u32, i64)> = before.keys().chain(after.keys()).collect();
    let mut changes: Vec<Change> = Vec::new();
    for id in ids {
        let (old, new) = (before.get(id), after.get(id));
        if let (Some(old), Some(new)) = (old, new)
            && old.place == new.place
        {
            continue;
        }
        changes.push(Change::new(id.0, old.cloned(), new.cloned()));
    }
    let mut merged: Vec<Change> = Vec::new();
    for change in changes {
        let partner = merged.iter_mut().find(|known| {
            known.table == change.table
                && match ((&known.old, &known.new), (&change.old, &change.new)) {
                    ((Some(old), None), (None, Some(new)))
                    | ((None, Some(new)), (Some(old), None)) => old.key == new.key,
                    _ => false,
                }
        });
        match partner {
            Some(known) => {
                known.old = known.old.take().or(change.old);
                known.new = known.new.take().or(change.new);
            }
            None => merged.push(change),
        }
    }
    merged
}
