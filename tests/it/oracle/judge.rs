//! What Postgres says to each verdict, and what each listener should have heard.

use std::collections::{BTreeSet, HashMap};

use serde_json::{Map, Value, json};
use tokio_postgres::Client;

use super::claims::Identity;
use super::listener::Heard;
use super::model::{Access, Model, Table};
use super::old::{Told, check_old, is_whole_told};
use super::rows::{Change, Row, key_expression};

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

/// A version of a row that is asked about.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question<'a> {
    /// Whatever the answers are to be found by.
    pub(super) number: usize,
    pub(super) table: u32,
    pub(super) row: &'a Row,
}

/// Asks for these versions, as everybody.
pub(super) async fn ask(
    client: &Client,
    model: &Model,
    identities: &[&Identity],
    rows: &[Question<'_>],
) -> Answers {
    client
        .batch_execute("begin isolation level repeatable read read only")
        .await
        .unwrap();
    let answers = ask_within(client, model, identities, rows).await;
    client.batch_execute("rollback").await.unwrap();
    answers
}

/// The same in a transaction that is under way, perhaps for long. It keeps no locks of it.
pub(super) async fn ask_within(
    client: &Client,
    model: &Model,
    identities: &[&Identity],
    rows: &[Question<'_>],
) -> Answers {
    let mut questions = Vec::new();
    let mut order = Vec::new();
    for table in &model.tables {
        let rows: Vec<&Question<'_>> = rows.iter().filter(|row| row.table == table.oid).collect();
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
        let tuples: Vec<String> = rows.iter().map(|asked| tuple(&asked.row.content)).collect();
        let places: Vec<Value> = rows
            .iter()
            .map(|asked| {
                let tuple = tuple(&asked.row.content);
                json!({"key": asked.row.key, "one": format!("select 'v' {from} where ({names}) = {tuple}")})
            })
            .collect();
        questions.push(json!({
            "all": format!("select array_agg({}) {from} where ({names}) in ({})", key_expression(table), tuples.join(", ")),
            "rows": places,
        }));
        order.extend(rows.iter().map(|asked| asked.number));
    }
    if questions.is_empty() {
        return vec![HashMap::new(); identities.len()];
    }
    let asked: Vec<Value> = identities
        .iter()
        .map(|identity| json!({"role": identity.role, "claims": identity.claims.to_string()}))
        .collect();
    client.batch_execute("savepoint asked").await.unwrap();
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
    client
        .batch_execute("rollback to asked; release asked")
        .await
        .unwrap();
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
    /// It was shown what the change of this number did away with, and had not seen it.
    LeakedOld(usize),
    /// It got something else than the change of this number, or what was no change at all.
    Wrong(Option<usize>, String),
}

/// What became of old rows, where that can be told from what came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Past {
    /// Told to those only who had seen them.
    pub(super) judged: u64,
    /// Told as keys, whoever had seen them.
    pub(super) unjudged: u64,
    /// The same of those that the server had a plan, all tables and the whole old row for.
    pub(super) judged_by_plan: u64,
    pub(super) unjudged_despite_plan: u64,
}

impl Past {
    pub(super) const fn add(&mut self, other: &Self) {
        self.judged += other.judged;
        self.unjudged += other.unjudged;
        self.judged_by_plan += other.judged_by_plan;
        self.unjudged_despite_plan += other.unjudged_despite_plan;
    }
}

/// One listener's comparison.
pub(super) struct Comparison<'a> {
    pub(super) model: &'a Model,
    pub(super) role: &'a str,
    pub(super) changes: &'a [Change],
    pub(super) answers: &'a HashMap<usize, Answer>,
    /// The answers for old rows, from before their transactions.
    pub(super) before: &'a HashMap<usize, Answer>,
    /// Where transactions end in the WAL, and with them the changes before these numbers.
    pub(super) ends: &'a [(usize, u64)],
    /// They did more than change rows.
    pub(super) does_more: bool,
    /// Tables and roles whose plans were complete before the transactions.
    pub(super) planned: &'a BTreeSet<(String, String)>,
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

    /// Whether what a listener got is of the transaction that the change of this number is of.
    fn is_of(&self, data: &Value, number: usize) -> bool {
        let Some(commit) = data["commit_lsn"].as_str().and_then(position) else {
            return true;
        };
        let mut from = 0;
        for (end, until) in self.ends {
            if number < *end {
                return (from..*until).contains(&commit);
            }
            from = *until;
        }
        true
    }

    /// Notes what became of old rows as well.
    pub(super) fn faults(&self, heard: &Heard, past: &mut Past) -> Vec<Fault> {
        let mut faults = Vec::new();
        let mut left: Vec<&Value> = heard.changes.iter().collect();
        for (number, change) in self.changes.iter().enumerate() {
            let Some(table) = self.table(change) else {
                continue;
            };
            let access = self.access(table);
            let found = left
                .iter()
                .position(|data| self.is_of(data, number) && is_about(data, table, &access, change))
                .map(|place| left.remove(place));
            let before = self.before.get(&number);
            let told = match found {
                Some(data) => match check_content(data, table, &access, change, self.does_more) {
                    Ok(told) => told,
                    Err(what) => {
                        let may_be = change.new.is_none() || self.is_wanted(number, table, &access);
                        faults.push(if may_be {
                            Fault::Wrong(Some(number), format!("{what}: {data}"))
                        } else {
                            Fault::Leaked(number)
                        });
                        continue;
                    }
                },
                None => Told::Nothing,
            };
            let is_told = told != Told::Nothing;
            if change.new.is_some() {
                let is_wanted = self.is_wanted(number, table, &access);
                if is_told != is_wanted {
                    faults.push(if is_told {
                        Fault::Leaked(number)
                    } else {
                        Fault::Missed(number)
                    });
                    continue;
                }
            } else if access.columns.is_empty() {
                if is_told {
                    faults.push(Fault::Leaked(number));
                }
                continue;
            } else if !is_told && !access.policies_apply {
                faults.push(Fault::Missed(number));
                continue;
            }
            // Without a right to the key Postgres cannot be asked for the row.
            if change.old.is_none() || !is_key_granted(table, &access) {
                continue;
            }
            let is_seen = before == Some(&Answer::Visible);
            if told == Told::Whole && !is_seen {
                faults.push(Fault::LeakedOld(number));
            } else if !is_told && change.new.is_none() && (is_seen || before.is_none()) {
                faults.push(Fault::Missed(number));
            } else if access.policies_apply {
                self.note(past, (table, &access), change, told, before);
            }
        }
        faults.extend(
            left.into_iter()
                .map(|data| Fault::Wrong(None, format!("no such change: {data}"))),
        );
        faults
    }

    fn is_wanted(&self, number: usize, table: &Table, access: &Access) -> bool {
        !is_key_granted(table, access) || self.answers.get(&number) == Some(&Answer::Visible)
    }

    /// Whether the old row was judged, where that can be told from what came.
    fn note(
        &self,
        past: &mut Past,
        (table, access): (&Table, &Access),
        change: &Change,
        told: Told,
        before: Option<&Answer>,
    ) {
        let is_judged = match (before, &change.new) {
            (Some(Answer::Hidden), None) => told == Told::Nothing,
            (Some(Answer::Visible), _) if is_whole_told(table, access) => told == Told::Whole,
            _ => return,
        };
        let plan = (table.name.clone(), self.role.to_owned());
        let is_planned = u64::from(table.identity_full && self.planned.contains(&plan));
        if is_judged {
            past.judged += 1;
            past.judged_by_plan += is_planned;
        } else {
            past.unjudged += 1;
            past.unjudged_despite_plan += is_planned;
        }
    }
}

/// Bytes from the beginning of the WAL.
fn position(text: &str) -> Option<u64> {
    let (high, low) = text.split_once('/')?;
    let half = |text| u64::from_str_radix(text, 16).ok();
    Some((half(high)? << 32) | half(low)?)
}

pub(super) fn is_key_granted(table: &Table, access: &Access) -> bool {
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
    doubts_grants: bool,
) -> Result<Told, String> {
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
                Ok(Told::Either)
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
        Some(old) => {
            let told = &data["old_record"];
            check_old(told, table, access, (change, &old.content), doubts_grants)
        }
        None => Ok(Told::Either),
    }
}

mod tests {
    use super::*;
    use crate::oracle::model::Column;
    use crate::oracle::rows::Row;

    fn model(columns: &[&str], identity_full: bool) -> Model {
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
            identity_full,
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
        check_past(change, (answer, None), false, heard, expected, (0, 0));
    }

    #[track_caller]
    fn check_past(
        change: &Change,
        (answer, before): (Option<Answer>, Option<Answer>),
        identity_full: bool,
        heard: &[Value],
        expected: &[&str],
        noted: (u64, u64),
    ) {
        let model = model(&["id", "n"], identity_full);
        let first = |answer: Option<Answer>| -> HashMap<usize, Answer> {
            answer.map(|answer| (0, answer)).into_iter().collect()
        };
        let comparison = Comparison {
            model: &model,
            role: "anon",
            changes: std::slice::from_ref(change),
            answers: &first(answer),
            before: &first(before),
            ends: &[(1, 100)],
            does_more: false,
            planned: &BTreeSet::new(),
        };
        let heard = Heard {
            changes: heard.to_vec(),
            ..Heard::default()
        };
        let mut past = Past::default();
        let faults: Vec<String> = comparison
            .faults(&heard, &mut past)
            .into_iter()
            .map(|fault| match fault {
                Fault::Missed(_) => "missed".to_owned(),
                Fault::Leaked(_) => "leaked".to_owned(),
                Fault::LeakedOld(_) => "leaked old".to_owned(),
                Fault::Wrong(number, _) => format!("wrong {number:?}"),
            })
            .collect();
        assert_eq!(faults, expected);
        assert_eq!((past.judged, past.unjudged), noted);
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
        let gone = heard("DELETE", Value::Null, json!({"id": 5}));
        check(&deleted, None, std::slice::from_ref(&gone), &[]);
        check(&deleted, None, &[], &["missed"]);
        let mut of_another = gone;
        of_another["commit_lsn"] = "0/FF".into();
        check(&deleted, None, &[of_another], &["missed", "wrong None"]);
    }

    #[test]
    fn old_rows_are_for_those_who_saw_them() {
        let seen = || Some(Answer::Visible);
        let unseen = || Some(Answer::Hidden);
        let raises = || Some(Answer::Raises("22P02".to_owned()));
        let deleted = Change::new(1, row(5, 1), None);
        let key = [heard("DELETE", Value::Null, json!({"id": 5}))];
        let whole = [heard("DELETE", Value::Null, json!({"id": 5, "n": 1}))];
        let other = [heard("DELETE", Value::Null, json!({"id": 5, "n": 2}))];
        let check = |before: Option<Answer>, heard: &[Value], expected: &[&str], noted| {
            check_past(&deleted, (None, before), true, heard, expected, noted);
        };
        check(seen(), &whole, &[], (1, 0));
        check(seen(), &key, &[], (0, 1));
        check(seen(), &[], &["missed"], (0, 0));
        check(seen(), &other, &["wrong Some(0)"], (0, 0));
        check(unseen(), &[], &[], (1, 0));
        check(unseen(), &key, &[], (0, 1));
        for before in [unseen(), raises(), None] {
            check(before, &whole, &["leaked old"], (0, 0));
        }
        check(raises(), &[], &[], (0, 0));
        check(raises(), &key, &[], (0, 0));
        let updated = Change::new(1, row(5, 1), row(5, 2));
        let update = |old: Value| [heard("UPDATE", json!({"id": 5, "n": 2}), old)];
        let key = update(json!({"id": 5}));
        let whole = update(json!({"id": 5, "n": 1}));
        let check = |before: Option<Answer>, heard: &[Value], expected: &[&str], noted| {
            check_past(&updated, (seen(), before), true, heard, expected, noted);
        };
        check(seen(), &whole, &[], (1, 0));
        check(seen(), &key, &[], (0, 1));
        check(unseen(), &key, &[], (0, 0));
        check(unseen(), &whole, &["leaked old"], (0, 0));
        check(seen(), &[], &["missed"], (0, 0));
        check_past(
            &updated,
            (unseen(), seen()),
            true,
            &whole,
            &["leaked"],
            (0, 0),
        );
    }
}
