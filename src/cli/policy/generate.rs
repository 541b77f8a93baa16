//! Rows and claims that make conditions hit: few values, shared by all tables and claims.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Map, Value, json};

use crate::policy::schema::{Column, Schema, Table};
use crate::policy::value::{Kind, Oid, Types, oid};

const USERS: &[&str] = &[
    "10000000-0000-4000-8000-000000000001",
    "20000000-0000-4000-8000-000000000002",
    "30000000-0000-4000-8000-000000000003",
    "40000000-0000-4000-8000-000000000004",
];

/// A source of values.
pub(super) struct Generator {
    random: StdRng,
    /// Literals of the policies and functions.
    words: Vec<String>,
}

impl Generator {
    pub(super) fn new(seed: &str, schema: &Schema) -> Self {
        let number = seed.bytes().fold(7_u64, |sum, byte| {
            sum.wrapping_mul(31).wrapping_add(u64::from(byte))
        });
        let policies = schema.tables.values().flat_map(|table| &table.policies);
        let quals = policies.filter_map(|policy| policy.qual.as_deref());
        let mut functions: Vec<_> = schema
            .functions
            .values()
            .filter(|function| function.oid >= 16384)
            .collect();
        functions.sort_by_key(|function| function.oid);
        let mut words: Vec<String> = Vec::new();
        let bodies = functions
            .into_iter()
            .filter(|function| matches!(&*function.language, "sql" | "plpgsql"));
        for text in quals.chain(bodies.map(|function| &*function.body)) {
            let literals = text.split('\'').skip(1).step_by(2);
            words.extend(literals.filter(|word| word.len() < 60).map(str::to_owned));
        }
        words.sort();
        words.dedup();
        words.truncate(60);
        Self {
            random: StdRng::seed_from_u64(number),
            words,
        }
    }

    fn pick<'a>(&mut self, list: &[&'a str]) -> &'a str {
        list.choose(&mut self.random).copied().unwrap_or("")
    }

    pub(super) fn user(&mut self) -> &'static str {
        self.pick(USERS)
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.random.random_range(0..100) < percent
    }

    pub(super) fn word(&mut self) -> String {
        if self.words.is_empty() || self.chance(10) {
            return self
                .pick(&["a", "b", "", "1", "true", "admin", "public"])
                .to_owned();
        }
        self.words
            .choose(&mut self.random)
            .cloned()
            .unwrap_or_default()
    }

    fn text(&mut self) -> String {
        match self.random.random_range(0..8) {
            0..=3 => self.word(),
            4 => self.user().to_owned(),
            5 => format!("{}/{}/{}", self.word(), self.user(), self.word()),
            6 => format!("{}/{}.png", self.user(), self.word()),
            _ => format!("{}:{}", self.word(), self.user()),
        }
    }

    pub(super) fn json(&mut self, depth: u32) -> Value {
        match self.random.random_range(0..if depth == 0 { 6 } else { 9 }) {
            0 => Value::Null,
            1 => json!(self.chance(50)),
            2 => json!(self.random.random_range(0..4)),
            3 => json!(self.user()),
            4 | 5 => json!(self.word()),
            6 => Value::Array(
                (0..self.random.random_range(0..4))
                    .map(|_| self.json(depth.saturating_sub(1)))
                    .collect(),
            ),
            _ => self.object(depth.saturating_sub(1)),
        }
    }

    pub(super) fn object(&mut self, depth: u32) -> Value {
        let count = self.random.random_range(0..6);
        let mut members = Map::new();
        for _ in 0..count {
            members.insert(self.word(), self.json(depth));
        }
        Value::Object(members)
    }

    /// A value in text form; `None` is NULL.
    pub(super) fn value(
        &mut self,
        types: &Types,
        type_oid: Oid,
        typmod: i32,
        nullable: bool,
    ) -> Option<String> {
        if nullable && self.chance(12) {
            return None;
        }
        match types.find(type_oid).map(|found| &found.kind) {
            Some(Kind::Enum { labels }) => {
                return labels.choose(&mut self.random).map(ToString::to_string);
            }
            Some(Kind::Domain { base, typmod, .. }) => {
                return self.value(types, *base, *typmod, false);
            }
            Some(Kind::Array { element }) => {
                let count = self.random.random_range(0..4);
                let mut items = Vec::new();
                for _ in 0..count {
                    items.push(match self.value(types, *element, -1, true) {
                        None => "NULL".to_owned(),
                        Some(text) => {
                            format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
                        }
                    });
                }
                return Some(format!("{{{}}}", items.join(",")));
            }
            _ => {}
        }
        Some(match type_oid {
            oid::BOOL => self.pick(&["t", "f"]).to_owned(),
            oid::INT2 | oid::INT4 | oid::INT8 | oid::OID => {
                self.pick(&["0", "1", "2", "3", "10", "-1"]).to_owned()
            }
            oid::NUMERIC => self.pick(&["0", "1", "1.0", "2.50", "100"]).to_owned(),
            oid::FLOAT4 | oid::FLOAT8 => self.pick(&["0", "1", "1.5", "-2"]).to_owned(),
            oid::UUID => self.user().to_owned(),
            oid::TIMESTAMPTZ | oid::TIMESTAMP => self
                .pick(&[
                    "2020-01-01 00:00:00+00",
                    "2125-06-01 12:30:00+00",
                    "infinity",
                    "2026-01-01 00:00:00.5+00",
                    "2100-01-01 00:00:00+00",
                ])
                .to_owned(),
            oid::DATE => self
                .pick(&["2020-01-01", "2125-06-01", "2026-11-21", "2100-01-01"])
                .to_owned(),
            oid::TIME | oid::TIMETZ => self.pick(&["08:00:00", "23:59:59"]).to_owned(),
            oid::INTERVAL => self.pick(&["1 day", "1 mon", "-2 hours", "0"]).to_owned(),
            oid::JSON | oid::JSONB => self.json(2).to_string(),
            oid::BYTEA => "\\x00ff".to_owned(),
            oid::BIT | oid::VARBIT => {
                let length = usize::try_from(typmod).unwrap_or(8).min(512);
                (0..length)
                    .map(|_| if self.chance(50) { '1' } else { '0' })
                    .collect()
            }
            oid::VARCHAR | oid::BPCHAR => {
                let text = self.text();
                match usize::try_from(typmod.saturating_sub(4)) {
                    Ok(length) if typmod > 0 => text.chars().take(length).collect(),
                    _ => text,
                }
            }
            oid::TEXT | oid::NAME => self.text(),
            _ => return None,
        })
    }

    /// A row of a table: values in text form of the columns that can be set.
    pub(super) fn row<'t>(
        &mut self,
        schema: &Schema,
        table: &'t Table,
    ) -> Vec<(&'t Column, Option<String>)> {
        let columns = table.columns.iter().filter(|column| !column.generated);
        columns
            .map(|column| {
                let value = self.value(
                    &schema.types,
                    column.type_oid,
                    column.typmod,
                    !column.not_null,
                );
                let value = value.or_else(|| column.not_null.then(|| "0".to_owned()));
                (column, value)
            })
            .collect()
    }

    /// Settings of one session; all the names are set, to '' if to nothing.
    pub(super) fn session(&mut self, number: usize, names: &[&str]) -> Vec<(String, String)> {
        let mut settings = Vec::new();
        let claims = self.claims(number);
        for name in names {
            let value = match *name {
                "request.jwt.claims" => claims.clone(),
                "realtime.topic" => format!(
                    "{}{}",
                    self.word().trim_matches(['^', '%', '$']),
                    if self.chance(60) { self.user() } else { "" }
                ),
                "request.headers" => {
                    json!({self.word(): self.word(), "x": self.user()}).to_string()
                }
                name if name.starts_with("request.jwt.claim") => match number {
                    0..=12 => String::new(),
                    _ => match name.rsplit('.').next() {
                        Some("sub") => self.user().to_owned(),
                        _ => self.word(),
                    },
                },
                _ => match self.random.random_range(0..6) {
                    0 => String::new(),
                    1 => self.word(),
                    2 => self.pick(&["0", "1", "2", "true", "false"]).to_owned(),
                    _ => self.user().to_owned(),
                },
            };
            settings.push(((*name).to_owned(), value));
        }
        settings
    }

    fn claims(&mut self, number: usize) -> String {
        let role = self.pick(&["authenticated", "anon", "service_role"]);
        match number {
            0 => String::new(),
            1 => json!({"role": "anon"}).to_string(),
            2 => json!({"role": "authenticated", "sub": "nobody"}).to_string(),
            3 => json!({"role": "authenticated", "sub": ""}).to_string(),
            4 => json!({"role": "authenticated", "sub": null}).to_string(),
            5 => "no json".to_owned(),
            6..=9 => {
                let user = USERS.get(number.saturating_sub(6)).copied().unwrap_or("");
                json!({"role": "authenticated", "sub": user, "email": self.word(), "aud": "authenticated"}).to_string()
            }
            _ => {
                let mut claims = self.object(3);
                if let Value::Object(members) = &mut claims {
                    members.insert("sub".to_owned(), json!(self.user()));
                    members.insert("role".to_owned(), json!(role));
                    for name in ["app_metadata", "user_metadata"] {
                        let inner = self.object(2);
                        members.insert(name.to_owned(), inner);
                    }
                }
                claims.to_string()
            }
        }
    }
}
