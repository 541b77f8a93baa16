//! Somebody who writes random transactions, through all failures. Each writer has rows and memberships of its own.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use rand::Rng;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use walcast::testing::Session;

use super::{PEOPLE, STABLE_TEAMS, TEAMS, person};

/// Rows that a writer keeps; beyond, it deletes many at once.
const ROWS_MAX: usize = 600;
const RANGE: i64 = 1_000_000_000;

pub(crate) struct Writer {
    pub(crate) number: i64,
    pub(crate) writers: i64,
    pub(crate) dice: StdRng,
    pub(crate) url: String,
    /// The rows that exist, with their teams.
    rows: BTreeMap<i64, i64>,
    members: BTreeMap<(i64, usize), bool>,
    /// Of ids and versions; never given twice.
    next: i64,
}

/// The net effect of one transaction, and its statements.
#[derive(Default)]
struct Draft {
    sql: String,
    puts: BTreeMap<i64, Put>,
    others: Vec<Value>,
}

/// What becomes of a row.
#[derive(Clone, Copy)]
struct Put {
    team: i64,
    version: i64,
    inserted: bool,
    /// The version that wrote the body, if one in this transaction did.
    body: Option<i64>,
}

impl Writer {
    pub(crate) fn new(number: i64, writers: i64, dice: StdRng, url: String) -> Self {
        Self {
            number,
            writers,
            dice,
            url,
            rows: BTreeMap::new(),
            members: BTreeMap::new(),
            next: number * RANGE,
        }
    }

    /// Writes until `end`; gives how many transactions were confirmed.
    pub(crate) async fn run(mut self, end: Instant, pause_max: Duration) -> u64 {
        let mut session: Option<Session> = None;
        let mut confirmed = 0;
        while Instant::now() < end {
            let Some(open) = &session else {
                session = self.connect().await;
                if session.is_none() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                continue;
            };
            let mut rows = self.rows.clone();
            let mut members = self.members.clone();
            let draft = self.draft(&mut rows, &mut members);
            if open.batch_execute(&draft).await.is_ok() {
                confirmed += 1;
                (self.rows, self.members) = (rows, members);
            } else {
                // It may have committed all the same.
                session = None;
            }
            let pause = pause_max.mul_f64(self.dice.random_range(0.0..1.0));
            tokio::time::sleep(pause).await;
        }
        confirmed
    }

    /// Connects and finds out what is there.
    async fn connect(&mut self) -> Option<Session> {
        let session = Session::try_connect(&self.url).await.ok()?;
        let own = format!("select id, team from docs where writer = {}", self.number);
        let rows = session.query(&own, &[]).await.ok()?;
        self.rows = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        let members = session
            .query("select team, person::text from members", &[])
            .await
            .ok()?;
        let known: Vec<(i64, String)> =
            members.iter().map(|row| (row.get(0), row.get(1))).collect();
        for team in STABLE_TEAMS + 1..TEAMS {
            for somebody in 0..PEOPLE {
                if (team + i64::try_from(somebody).unwrap()) % self.writers == self.number {
                    let is_in = known.contains(&(team, person(somebody)));
                    self.members.insert((team, somebody), is_in);
                }
            }
        }
        Some(session)
    }

    fn number(&mut self) -> i64 {
        self.next += 1;
        self.next
    }

    /// It tells which version wrote it.
    fn body(&mut self, version: i64) -> String {
        let length = match self.dice.random_range(0..100) {
            // Kept outside of the row, so that updates of other columns leave it out.
            0..4 => 9000,
            4..14 => 400,
            _ => 20,
        };
        let letter = self.dice.random_range('a'..='z');
        format!("{version} || repeat(' {letter}', {length})")
    }

    fn draft(
        &mut self,
        rows: &mut BTreeMap<i64, i64>,
        members: &mut BTreeMap<(i64, usize), bool>,
    ) -> String {
        let mut draft = Draft::default();
        if rows.len() > ROWS_MAX {
            let gone: Vec<i64> = rows.keys().copied().take(ROWS_MAX / 2).collect();
            for id in gone {
                self.delete(&mut draft, rows, id);
            }
        } else {
            for _deed in 0..self.dice.random_range(1..5) {
                self.deed(&mut draft, rows, members);
            }
        }
        let puts = (draft.puts.iter())
            .map(|(id, put)| json!(["put", id, put.team, put.version, put.inserted, put.body]));
        let entry: Vec<Value> = puts.chain(draft.others).collect();
        let entry = Value::from(entry);
        format!(
            "begin; {} insert into journal (entry) values ('{entry}'); commit",
            draft.sql
        )
    }

    fn deed(
        &mut self,
        draft: &mut Draft,
        rows: &mut BTreeMap<i64, i64>,
        members: &mut BTreeMap<(i64, usize), bool>,
    ) {
        let some = (!rows.is_empty()).then(|| {
            let place = self.dice.random_range(0..rows.len());
            *rows.keys().nth(place).unwrap()
        });
        match (self.dice.random_range(0..1000), some) {
            (0..700, Some(id)) if self.dice.random_bool(0.6) => {
                for _version in 0..self.dice.random_range(1..3) {
                    self.update(draft, rows, id);
                }
            }
            (0..700, _) => {
                let id = self.insert(draft, rows);
                match self.dice.random_range(0..10) {
                    0..2 => self.update(draft, rows, id),
                    2 => self.delete(draft, rows, id),
                    _ => {}
                }
            }
            (700..850, Some(id)) => self.delete(draft, rows, id),
            (850..930, _) => {
                let place = self.dice.random_range(0..members.len());
                let ((team, somebody), is_in) = members.iter_mut().nth(place).unwrap();
                *is_in = !*is_in;
                let sql = if *is_in {
                    format!(
                        "insert into members values ({team}, '{}');",
                        person(*somebody)
                    )
                } else {
                    format!(
                        "delete from members where team = {team} and person = '{}';",
                        person(*somebody)
                    )
                };
                draft.sql.push_str(&sql);
                draft.others.push(json!(["member", team, somebody, *is_in]));
            }
            (930..997, _) => {
                let id = self.number();
                let (number, body) = (self.number, self.body(id));
                write!(
                    draft.sql,
                    "savepoint s; insert into docs values ({id}, 0, {id}, {number}, {body}); rollback to s;"
                )
                .unwrap();
            }
            _ => {
                let count = self.dice.random_range(100..700);
                let (first, team) = (self.next + 1, self.team());
                self.next += count;
                write!(
                    draft.sql,
                    "insert into docs select n, {team}, n, {}, n || repeat(' many', 100)
                     from generate_series({first}::bigint, {}) as n;",
                    self.number, self.next
                )
                .unwrap();
                draft
                    .others
                    .push(json!(["bulk", first, count, team, first]));
                rows.extend((first..=self.next).map(|id| (id, team)));
            }
        }
    }

    fn team(&mut self) -> i64 {
        self.dice.random_range(0..TEAMS)
    }

    fn insert(&mut self, draft: &mut Draft, rows: &mut BTreeMap<i64, i64>) -> i64 {
        let (id, team) = (self.number(), self.team());
        let body = self.body(id);
        write!(
            draft.sql,
            "insert into docs values ({id}, {team}, {id}, {}, {body});",
            self.number
        )
        .unwrap();
        let put = Put {
            team,
            version: id,
            inserted: true,
            body: Some(id),
        };
        draft.puts.insert(id, put);
        rows.insert(id, team);
        id
    }

    fn update(&mut self, draft: &mut Draft, rows: &mut BTreeMap<i64, i64>, id: i64) {
        let version = self.number();
        let team = if self.dice.random_bool(0.15) {
            self.team()
        } else {
            rows[&id]
        };
        let in_bulk = draft.inserts_in_bulk(id);
        let earlier = draft.puts.get(&id).copied();
        let (body, written) = if self.dice.random_bool(0.5) {
            (self.body(version), Some(version))
        } else {
            let written = earlier.and_then(|earlier| earlier.body);
            ("body".to_owned(), written.or(in_bulk.then_some(id)))
        };
        write!(
            draft.sql,
            "update docs set team = {team}, version = {version}, body = {body} where id = {id};"
        )
        .unwrap();
        if in_bulk {
            draft.leave_out(id);
        }
        let put = Put {
            team,
            version,
            inserted: in_bulk || earlier.is_some_and(|earlier| earlier.inserted),
            body: written,
        };
        draft.puts.insert(id, put);
        rows.insert(id, team);
    }

    fn delete(&mut self, draft: &mut Draft, rows: &mut BTreeMap<i64, i64>, id: i64) {
        write!(draft.sql, "delete from docs where id = {id};").unwrap();
        rows.remove(&id);
        let appeared = draft.puts.remove(&id).is_some_and(|put| put.inserted);
        if draft.inserts_in_bulk(id) {
            draft.leave_out(id);
        } else if !appeared {
            draft.others.push(json!(["drop", id]));
        }
    }
}

impl Draft {
    fn bulk_of(&self, id: i64) -> Option<usize> {
        self.others.iter().position(|other| {
            let number = |place: usize| other[place].as_i64().unwrap();
            other[0] == "bulk" && (number(1)..number(1) + number(2)).contains(&id)
        })
    }

    fn inserts_in_bulk(&self, id: i64) -> bool {
        self.bulk_of(id).is_some()
    }

    /// Splits the bulk that a row is in around it.
    fn leave_out(&mut self, id: i64) {
        let Some(place) = self.bulk_of(id) else {
            return;
        };
        let bulk = self.others.remove(place);
        let number = |place: usize| bulk[place].as_i64().unwrap();
        let (first, count, team, version) = (number(1), number(2), number(3), number(4));
        let before = id - first;
        self.others
            .push(json!(["bulk", first, before, team, version]));
        let behind = json!([
            "bulk",
            id + 1,
            count - before - 1,
            team,
            version + before + 1
        ]);
        self.others.push(behind);
    }
}
