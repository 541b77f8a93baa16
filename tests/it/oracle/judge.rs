//! What Postgres says to each verdict, and what each listener should have heard.

use std::collections::HashMap;

use serde_json::{Map, Value, json};
use tokio_postgres::Client;

use super::claims::Identity;
use super::listener::Heard;
use super::model::{Access, Model, Table};
use super::rows::{Change, key_expression};

/// What a SELECT of one row gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Visible,
    Hidden,
    /// With its SQLSTATE.
    Raises(String),
}

/// Answers by identity, then by change.
pub(super) type Answers = Vec<HashMap<usize, Answer>>;

/// Asks for the new rows of these changes (by number), as everybody.
pub(super) async fn ask(
    client: &Client,
    model: &Model,
    identities: &[&Identity],
    changes: &[(usize, &Change)],
) -> Answers {
    let mut questions = Vec::new();
    let mut order = Vec::new();
    for table in &model.tables {
        let rows: Vec<(usize, &Value, &str)> = changes
            .iter()
            .filter(|(_, change)| change.table == table.oid)
            .filter_map(|(number, change)| {
                change
                    .new
                    .as_ref()
                    .map(|row| (*number, &row.content, row.key.as_str()))
            })
            .collect();
        if rows.is_empty() {
            continue;
        }
        let from = format!("from app.{}", table.name);
        let names = table.key.join(", ");
        let tuple = |content: &Value| {
            let values: Vec<String> = table
                .key
                .iter()
                .map(|name| literal(&content[name]))
                .collect();
            format!("({})", values.join(", "))
        };
        let tuples: Vec<String> = rows.iter().map(|(_, content, _)| tuple(content)).collect();
        let places: Vec<Value> = rows
            .iter()
            .map(|(_, content, key)| json!({"key": key, "one": format!("select 'v' {from} where ({names}) = {}", tuple(content))}))
            .collect();
        questions.push(json!({
            "all": format!("select array_agg({}) {from} where ({names}) in ({})", key_expression(table), tuples.join(", ")),
            "rows": places,
        }));
        order.extend(rows.iter().map(|(number, ..)| *number));
    }
    if questions.is_empty() {
        return vec![HashMap::new(); identities.len()];
    }
    let asked: Vec<Value> = identities
        .iter()
        .map(|identity| json!({"role": identity.role, "claims": identity.claims.to_string()}))
        .collect();
    client
        .batch_execute("begin isolation level repeatable read read only")
        .await
        .unwrap();
    let row = client
        .query_one(
            "select oracle.ask($1::text::jsonb, $2::text::jsonb)::text",
            &[
                &Value::Array(asked).to_string(),
                &Value::Array(questions).to_string(),
            ],
        )
        .await
        .unwrap();
    client.batch_execute("rollback").await.unwrap();
    let answers: Vec<Vec<String>> = serde_json::from_str(row.get(0)).unwrap();
    answers
        .into_iter()
        .map(|answers| {
            assert_eq!(answers.len(), order.len());
            let answers = answers.into_iter().map(|text| match text.as_str() {
                "v" => Answer::Visible,
                "" => Answer::Hidden,
                raised => Answer::Raises(raised.trim_start_matches('!').to_owned()),
            });
            order.iter().copied().zip(answers).collect()
        })
        .collect()
}

fn literal(value: &Value) -> String {
    match value {
        Value::String(text) => format!("'{}'", text.replace('\'', "''")),
        other => other.to_string(),
    }
}

/// How a listener's changes differ from what Postgres says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It should have got the change of this number.
    Missed(usize),
    /// It should not have got the change of this number.
    Leaked(usize),
    /// It got something else than the change of this number, or what was no change at all.
    Wrong(Option<usize>, String),
}

/// One listener's comparison.
pub(super) struct Comparison<'a> {
    pub(super) model: &'a Model,
    pub(super) role: &'a str,
    pub(super) changes: &'a [Change],
    pub(super) answers: &'a HashMap<usize, Answer>,
}

impl Comparison<'_> {
    fn table(&self, change: &Change) -> Option<&Table> {
        self.model
            .tables
            .iter()
            .find(|table| table.oid == change.table)
    }

    fn access(&self, table: &Table) -> Access {
        self.model
            .access
            .get(&(table.oid, self.role.to_owned()))
            .cloned()
            .unwrap_or_default()
    }

    /// Whether a policy of the table decides about the change for this role.
    pub(super) fn is_verdict(&self, change: &Change) -> bool {
        self.table(change).is_some_and(|table| {
            let access = self.access(table);
            change.new.is_some() && access.policies_apply && is_key_granted(table, &access)
        })
    }

    pub(super) fn faults(&self, heard: &Heard) -> Vec<Fault> {
        let mut faults = Vec::new();
        let mut left: Vec<&Value> = heard.changes.iter().collect();
        for (number, change) in self.changes.iter().enumerate() {
            let Some(table) = self.table(change) else {
                continue;
            };
            let access = self.access(table);
            let found = left
                .iter()
                .position(|data| is_about(data, table, &access, change))
                .map(|place| left.remove(place));
            let is_wanted = match &change.new {
                None => !access.columns.is_empty(),
                Some(_) if !is_key_granted(table, &access) => true,
                Some(_) => self.answers.get(&number) == Some(&Answer::Visible),
            };
            match found {
                None if is_wanted => faults.push(Fault::Missed(number)),
                None => {}
                Some(_) if !is_wanted => faults.push(Fault::Leaked(number)),
                Some(data) => {
                    if let Err(what) = check_content(data, table, &access, change) {
                        faults.push(Fault::Wrong(Some(number), format!("{what}: {data}")));
                    }
                }
            }
        }
        faults.extend(
            left.into_iter()
                .map(|data| Fault::Wrong(None, format!("no such change: {data}"))),
        );
        faults
    }
}

fn is_key_granted(table: &Table, access: &Access) -> bool {
    table.key.iter().all(|name| access.columns.contains(name))
}

/// Whether what a listener got is about the change.
fn is_about(data: &Value, table: &Table, access: &Access, change: &Change) -> bool {
    if data["table"] != table.name.as_str() || data["type"] != change.kind() {
        return false;
    }
    let key = |row: &Value| -> Vec<Value> {
        table
            .key
            .iter()
            .filter(|name| access.columns.contains(name))
            .map(|name| row[name.as_str()].clone())
            .collect()
    };
    match (&change.new, &change.old) {
        (Some(_), _) if !is_key_granted(table, access) => !data["errors"].is_null(),
        (Some(new), _) => key(&data["record"]) == key(&new.content),
        (None, Some(old)) => key(&data["old_record"]) == key(&old.content),
        (None, None) => false,
    }
}

fn check_content(
    data: &Value,
    table: &Table,
    access: &Access,
    change: &Change,
) -> Result<(), String> {
    let is_sent = |name: &str| access.columns.iter().any(|column| column == name);
    let sent: Vec<_> = table
        .columns
        .iter()
        .filter(|column| !column.generated && is_sent(&column.name))
        .collect();
    if let Some(new) = &change.new {
        if !is_key_granted(table, access) {
            let told = data["errors"] == json!(["Error 401: Unauthorized"])
                && data["record"] == json!({})
                && data["columns"] == json!([]);
            return if told {
                Ok(())
            } else {
                Err("content without a right to the key".to_owned())
            };
        }
        let mut record = Map::new();
        for column in &sent {
            let value = &new.content[&column.name];
            // Updates leave out what is stored apart and did not change.
            let is_large = value.as_str().is_some_and(|text| text.len() > 1500);
            if is_large && change.old.is_some() && data["record"].get(&column.name).is_none() {
                continue;
            }
            record.insert(column.name.clone(), value.clone());
        }
        if data["record"] != Value::Object(record.clone()) {
            return Err(format!("the record should be {}", Value::Object(record)));
        }
    }
    let columns: Vec<Value> = sent
        .iter()
        .map(|column| json!({"name": column.name, "type": column.type_name}))
        .collect();
    if data["columns"] != Value::Array(columns.clone()) {
        return Err(format!("the columns should be {}", Value::Array(columns)));
    }
    if !data["errors"].is_null() {
        return Err("an error".to_owned());
    }
    match &change.old {
        Some(old) => check_old(&data["old_record"], table, access, change, &old.content),
        None => Ok(()),
    }
}

/// Under row-level security the old row shows its key. Verdicts on old tuples, once there are any, are to be compared
/// here, with answers from before the transaction.
fn check_old(
    got: &Value,
    table: &Table,
    access: &Access,
    change: &Change,
    old: &Value,
) -> Result<(), String> {
    let hides = access.policies_apply || (change.new.is_none() && table.row_security);
    let mut wanted = Map::new();
    for column in &table.columns {
        let is_shown = table.key.contains(&column.name) || (table.identity_full && !hides);
        if is_shown && !column.generated && access.columns.contains(&column.name) {
            wanted.insert(column.name.clone(), old[&column.name].clone());
        }
    }
    let wanted = Value::Object(wanted);
    if *got == wanted {
        Ok(())
    } else {
        Err(format!("the old record should be {wanted}"))
    }
}

mod tests {
    use super::*;
    use crate::oracle::model::Column;
    use crate::oracle::rows::Row;

    fn model(columns: &[&str]) -> Model {
        let column = |name: &str| Column {
            name: name.to_owned(),
            type_name: "int4".to_owned(),
            kind: None,
            generated: false,
            not_null: false,
        };
        let table = Table {
            oid: 1,
            name: "items".to_owned(),
            is_root: false,
            is_partition: false,
            is_published: true,
            row_security: true,
            identity_full: false,
            columns: vec![column("id"), column("n")],
            key: vec!["id".to_owned()],
            policies: Vec::new(),
        };
        let access = Access {
            columns: columns.iter().map(|&name| name.to_owned()).collect(),
            policies_apply: true,
        };
        Model {
            tables: vec![table],
            access: [((1, "anon".to_owned()), access)].into(),
        }
    }

    fn row(id: i64, n: i64) -> Option<Row> {
        Some(Row::new(&format!("[{id}]"), json!({"id": id, "n": n})))
    }

    fn heard(kind: &str, record: Value, old: Value) -> Value {
        let columns = json!([{"name": "id", "type": "int4"}, {"name": "n", "type": "int4"}]);
        json!({"table": "items", "type": kind, "columns": columns, "record": record, "old_record": old, "errors": null})
    }

    #[track_caller]
    fn check(change: &Change, answer: Option<Answer>, heard: &[Value], expected: &[&str]) {
        let model = model(&["id", "n"]);
        let answers: HashMap<usize, Answer> =
            answer.map(|answer| (0, answer)).into_iter().collect();
        let comparison = Comparison {
            model: &model,
            role: "anon",
            changes: std::slice::from_ref(change),
            answers: &answers,
        };
        let heard = Heard {
            changes: heard.to_vec(),
            ..Heard::default()
        };
        let faults: Vec<String> = comparison
            .faults(&heard)
            .into_iter()
            .map(|fault| match fault {
                Fault::Missed(_) => "missed".to_owned(),
                Fault::Leaked(_) => "leaked".to_owned(),
                Fault::Wrong(number, _) => format!("wrong {number:?}"),
            })
            .collect();
        assert_eq!(faults, expected);
    }

    #[test]
    fn whatever_differs_is_noticed() {
        let inserted = Change::new(1, None, row(5, 1));
        let right = heard("INSERT", json!({"id": 5, "n": 1}), Value::Null);
        let visible = || Some(Answer::Visible);
        let raises = || Some(Answer::Raises("22P02".to_owned()));
        check(&inserted, visible(), std::slice::from_ref(&right), &[]);
        check(&inserted, visible(), &[], &["missed"]);
        check(&inserted, Some(Answer::Hidden), &[], &[]);
        check(&inserted, raises(), &[], &[]);
        check(
            &inserted,
            Some(Answer::Hidden),
            std::slice::from_ref(&right),
            &["leaked"],
        );
        check(
            &inserted,
            raises(),
            std::slice::from_ref(&right),
            &["leaked"],
        );
        check(
            &inserted,
            visible(),
            &[right.clone(), right],
            &["wrong None"],
        );
        let other = heard("INSERT", json!({"id": 5, "n": 2}), Value::Null);
        check(&inserted, visible(), &[other], &["wrong Some(0)"]);
        let updated = Change::new(1, row(5, 1), row(6, 1));
        let key = heard("UPDATE", json!({"id": 6, "n": 1}), json!({"id": 5}));
        check(&updated, visible(), &[key], &[]);
        let whole = heard("UPDATE", json!({"id": 6, "n": 1}), json!({"id": 5, "n": 1}));
        check(&updated, visible(), &[whole], &["wrong Some(0)"]);
        let deleted = Change::new(1, row(5, 1), None);
        check(
            &deleted,
            None,
            &[heard("DELETE", Value::Null, json!({"id": 5}))],
            &[],
        );
        check(&deleted, None, &[], &["missed"]);
    }
}
