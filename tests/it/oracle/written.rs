//! Policies as people write them, and nasty ones (`written/policies.sql`), each on a table of its own, all in front of one
//! server: after each transaction Postgres is asked which of the rows everybody sees, and each listener must have got
//! exactly those.
//!
//! `WALCAST_WRITTEN_SECONDS` says how long at least, `WALCAST_WRITTEN_SEED` repeats the dice, `WALCAST_WRITTEN_ONLY` takes
//! the policies whose names begin so.

#![expect(clippy::print_stdout, reason = "a run tells its seed and its figures")]

mod values;

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::Value;
use tokio_postgres::Client;
use tokio_util::task::TaskTracker;
use walcast::database::Database;
use walcast::testing::{App, AppOptions, Cluster};

use super::claims::{Identity, ROLES};
use super::dice::Dice;
use super::judge::{self, Answer, Question};
use super::listener::Listener;
use super::model::Model;
use super::number_of;
use super::rows::{self, Change};
use super::schema;

/// What policies look into, then the policies behind `-- entry: name` lines, and what changes of them behind `-- then` lines.
/// Read when the test runs: people try more.
const FILES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/oracle/written");

const READERS: &str = "anon, authenticated, service_role, staff, guest, keeper, definer";
/// Differences that are shown.
const SHOWN_MAX: usize = 40;
/// How long plans and tables may take to be in memory.
const PATIENCE: Duration = Duration::from_secs(30);
/// Rows per table, about.
const ROWS_MAX: i64 = 20;
/// How many of the tables a transaction is about: Postgres must be asked about each of them, as everybody.
const TABLES_PERCENT: u32 = 40;
/// Transactions at least: few tables are left out by all of them.
const TRANSACTIONS: usize = 6;

/// A policy and the table that it is on.
struct Entry {
    name: String,
    table: String,
    sql: String,
    /// What comes later, one step after the other.
    then: Vec<String>,
}

fn file(name: &str) -> String {
    std::fs::read_to_string(format!("{FILES}/{name}")).unwrap()
}

fn entries(policies: &str, only: &str) -> Vec<Entry> {
    let parts = policies.split("-- entry: ").skip(1).enumerate();
    parts
        .map(|(number, part)| {
            let (name, sql) = part.split_once('\n').unwrap_or((part, ""));
            let table = format!("t{number:03}");
            let sql = sql
                .replace("%t.", &format!("{table}."))
                .replace("%t is", &format!("{table} is"))
                .replace("(%t)", &format!("({table})"))
                .replace("%t", &format!("app.{table}"))
                .replace("%n", &number.to_string());
            let name = name.to_owned();
            let mut steps = sql.split("-- then\n").map(str::to_owned);
            Entry {
                name,
                table,
                sql: steps.next().unwrap(),
                then: steps.collect(),
            }
        })
        .filter(|entry| entry.name.starts_with(only))
        .collect()
}

struct World {
    app: App,
    writer: Client,
    asker: Client,
    model: Model,
    entries: Vec<Entry>,
    listeners: Vec<Listener>,
    dice: Dice,
    rows: i64,
}

#[derive(Default)]
struct Tally {
    transactions: u64,
    allowed: u64,
    hidden: u64,
    raised: u64,
    /// Rows that Postgres shows under one plan and raises for under another.
    plan_dependent: u64,
    differences: BTreeMap<String, Vec<String>>,
}

impl World {
    async fn start(seed: u64, policies: &str, only: &str) -> Self {
        let options = AppOptions {
            schema: &format!("{} {}", schema::FRAME, schema::ASK),
            environment: &[
                ("WALCAST_VERDICTS", "compiled"),
                ("WALCAST_QUESTION_TIMEOUT", "20s"),
                ("WALCAST_LOG_LEVEL", "warn,walcast::pipeline::verdicts=info"),
            ],
            private: Some(&["fsync=off", "autovacuum=off"]),
        };
        let mut app = App::prepare(env!("CARGO_BIN_EXE_walcast"), &options).await;
        let database = Database::parse(&app.cluster().url(&app.database)).unwrap();
        let tracker = TaskTracker::new();
        let writer = database.connect(&tracker, "oracle").await.unwrap();
        let asker = database.connect(&tracker, "oracle").await.unwrap();
        asker
            .batch_execute("set enable_seqscan = off; set plan_cache_mode = force_custom_plan; set statement_timeout = '60s'")
            .await
            .unwrap();
        writer
            .batch_execute("drop type app.level; create type app.level as enum ('low', 'mid', 'high'); set check_function_bodies = off")
            .await
            .unwrap();
        writer
            .batch_execute(&file("schema.sql"))
            .await
            .unwrap_or_else(|error| panic!("{error:?}"));
        let lookups = "profiles, orgs, members, follows, blocks, rooms, seats, shares, grants, secrets, folders, config, notes_of_staff";
        let lookups: Vec<String> = lookups
            .split(", ")
            .map(|name| format!("app.{name}"))
            .collect();
        writer
            .batch_execute(&format!(
                "alter publication supabase_realtime add table {}; grant select on all tables in schema app to {READERS}",
                lookups.join(", ")
            ))
            .await
            .unwrap();
        let mut entries = entries(policies, only);
        entries.retain(|entry| {
            version_of(app.cluster()) >= 15 || !entry.sql.contains("security_invoker")
        });
        for entry in &entries {
            let table = &entry.table;
            let made = format!(
                "create table app.{table} (like app.note including all); alter table app.{table} enable row level security;
                 grant select on app.{table} to {READERS}; alter publication supabase_realtime add table app.{table}; {}",
                entry.sql
            );
            let made = writer.batch_execute(&made).await;
            made.unwrap_or_else(|error| panic!("{}: {error:?}", entry.name));
        }
        let mut dice = Dice::new(seed);
        for _ in 0..80 {
            let statement = values::upheaval(&mut dice);
            let done = writer.batch_execute(&statement).await;
            done.unwrap_or_else(|error| panic!("{statement}: {error:?}"));
        }
        let model = model(&writer).await;
        app.server.spawn();
        app.server.ready().await;
        let expires_at = 4_000_000_000;
        let port = app.server.port();
        let joins = values::identities(expires_at).into_iter();
        let listeners = join_all(joins.map(|who| Listener::join(port, who, "app"))).await;
        Self {
            app,
            writer,
            asker,
            model,
            entries,
            listeners,
            dice,
            rows: 0,
        }
    }

    fn statements(&mut self) -> Vec<String> {
        let mut made = Vec::new();
        for _ in 0..self.dice.below(3) {
            made.push(values::upheaval(&mut self.dice));
        }
        let all = self.entries.iter().map(|entry| &entry.table);
        let tables: Vec<&String> = all.filter(|_| self.dice.chance(TABLES_PERCENT)).collect();
        for _ in 0..1 + self.dice.below(2) {
            self.rows += 1;
            let row = values::row(&mut self.dice, self.rows);
            made.extend(
                tables
                    .iter()
                    .map(|table| format!("insert into app.{table} {row}")),
            );
        }
        if self.rows > 2 && self.dice.chance(60) {
            let sets = values::assignments(&mut self.dice);
            let id = 1 + self.dice.below(usize::try_from(self.rows).unwrap());
            let update = |table| format!("update app.{table} set {sets} where id = {id}");
            made.extend(tables.iter().map(update));
        }
        let oldest = self.rows - ROWS_MAX;
        if oldest > 0 {
            let delete = |table| format!("delete from app.{table} where id <= {oldest}");
            made.extend(tables.iter().map(delete));
        }
        made
    }

    /// What changes next, for all entries that have so many steps.
    fn step(&self, number: usize) -> Vec<String> {
        let entries = self.entries.iter();
        let steps = entries.filter_map(|entry| entry.then.get(number));
        steps.cloned().collect()
    }

    /// Changes policies, then rows, often in one transaction.
    async fn change(&mut self, number: usize, tally: &mut Tally) {
        let mut steps = self.step(number);
        let mut early = Vec::new();
        for step in std::mem::take(&mut steps) {
            // Rows that are written anew lie elsewhere, as updated ones do.
            let is_rewrite = step.contains(" alter column ") && step.contains(" type ");
            if is_rewrite || self.dice.chance(40) {
                early.push(step);
            } else {
                steps.push(step);
            }
        }
        for step in early {
            let done = self.writer.batch_execute(&step).await;
            done.unwrap_or_else(|error| panic!("{step}: {error:?}"));
        }
        self.after(steps, tally).await;
        self.transaction(tally).await;
        self.settle().await;
        self.transaction(tally).await;
    }

    async fn transaction(&mut self, tally: &mut Tally) {
        self.after(Vec::new(), tally).await;
    }

    /// One transaction that begins with these statements.
    async fn after(&mut self, mut statements: Vec<String>, tally: &mut Tally) {
        self.model = model(&self.writer).await;
        let before = rows::read(&self.writer, &self.model).await;
        statements.extend(self.statements());
        self.writer.batch_execute("begin").await.unwrap();
        for statement in &statements {
            let done = self.writer.batch_execute(statement).await;
            done.unwrap_or_else(|error| panic!("{statement}: {error:?}"));
        }
        self.writer.batch_execute("commit").await.unwrap();
        tally.transactions += 1;
        self.model = model(&self.writer).await;
        let after = rows::read(&self.writer, &self.model).await;
        let changes: Vec<Change> = rows::changes(&before, &after);
        let questions: Vec<Question<'_>> = (changes.iter().enumerate())
            .filter_map(|(number, change)| {
                let row = change.new.as_ref()?;
                Some(Question {
                    number,
                    table: change.table,
                    row,
                })
            })
            .collect();
        let people: Vec<&Identity> = self
            .listeners
            .iter()
            .map(|listener| &listener.identity)
            .collect();
        let answers = judge::ask(&self.asker, &self.model, &people, &questions).await;
        let fence = self.app.fence().await;
        let mut faults = Vec::new();
        for (place, listener) in self.listeners.iter_mut().enumerate() {
            let heard = listener.until(fence).await;
            assert!(heard.ended.is_none() && !heard.is_late(), "{heard:?}");
            let mut got: HashMap<(String, String, i64), usize> = HashMap::new();
            for data in &heard.changes {
                let name = |field: &str| data[field].as_str().unwrap().to_owned();
                if let Some(id) = data["record"]["id"].as_i64() {
                    *got.entry((name("table"), name("type"), id)).or_default() += 1;
                }
            }
            for question in &questions {
                let answer = &answers[place][&question.number];
                match answer {
                    Answer::Visible => tally.allowed += 1,
                    Answer::Hidden => tally.hidden += 1,
                    Answer::Raises(_) => tally.raised += 1,
                }
                let mut tables = self.model.tables.iter();
                let table = tables.find(|table| table.oid == question.table).unwrap();
                let kind = changes[question.number].kind().to_owned();
                let id = question.row.content["id"].as_i64().unwrap();
                let count = got
                    .get(&(table.name.clone(), kind, id))
                    .copied()
                    .unwrap_or(0);
                let wanted = usize::from(*answer == Answer::Visible);
                if count != wanted {
                    faults.push((place, *question, answer.clone(), count));
                }
            }
        }
        self.asker
            .batch_execute("set enable_seqscan = on")
            .await
            .unwrap();
        for (place, question, answer, count) in faults {
            let identity = &self.listeners[place].identity;
            let again = judge::ask(&self.asker, &self.model, &[identity], &[question]).await;
            let again = &again[0][&question.number];
            let depends = match (count, again) {
                (0, Answer::Raises(_)) => true,
                (_, Answer::Visible) => answer != Answer::Visible,
                _ => false,
            };
            if depends {
                tally.plan_dependent += 1;
                continue;
            }
            let mut tables = self.model.tables.iter();
            let table = tables.find(|table| table.oid == question.table).unwrap();
            let mut entries = self.entries.iter();
            let number = number_in(&table.name).unwrap();
            let entry = entries.find(|entry| entry.table == format!("t{number:03}"));
            let name = entry.unwrap().name.clone();
            let text = format!(
                "{} copies where Postgres says {answer:?}, as {} {}: {} {}",
                count, identity.role, identity.claims, table.name, question.row.content
            );
            tally.differences.entry(name).or_default().push(text);
        }
        self.asker
            .batch_execute("set enable_seqscan = off")
            .await
            .unwrap();
    }

    async fn state(&self) -> Value {
        let reply = self.app.server.get("/policy").await.unwrap().body;
        serde_json::from_str(&reply).unwrap()
    }

    /// Waits until the tables that policies look into are in memory.
    async fn settle(&self) {
        let started = Instant::now();
        let mut quiet = 0;
        while quiet < 5 && started.elapsed() < PATIENCE {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let state = self.state().await;
            let mut shadows = state["shadows"].as_array().unwrap().iter();
            let is_settled = state["knows_schema"] == true
                && !state["plans"].as_array().unwrap().is_empty()
                && shadows
                    .all(|shadow| matches!(shadow["state"].as_str(), Some("trusted" | "unfit")));
            quiet = if is_settled { quiet + 1 } else { 0 };
        }
    }

    /// Plans that find whom a row concerns.
    async fn audiences(&self) -> usize {
        let state = self.state().await;
        let plans = state["plans"].as_array().unwrap().iter();
        let forms = plans.filter(|plan| plan["compiled"] == true);
        forms
            .filter(|plan| plan["form"].as_str().unwrap().starts_with("audience by "))
            .count()
    }

    /// How each policy is judged for one of its roles: `compiled`, or why not.
    async fn outcomes(&self) -> BTreeMap<&str, String> {
        let state = self.state().await;
        let plans = state["plans"].as_array().unwrap();
        fn named<'a>(entry: &'a Entry, plans: &[Value]) -> (&'a str, String) {
            let name = format!("app.{}", entry.table);
            let own = plans.iter().filter(|plan| plan["table"] == name.as_str());
            let refused = own.filter_map(|plan| plan["reason"].as_str()).next();
            (&entry.name, refused.unwrap_or("compiled").to_owned())
        }
        let named = self.entries.iter().map(|entry| named(entry, plans));
        named.collect()
    }
}

/// The tables that policies are on.
async fn model(client: &Client) -> Model {
    let mut model = Model::read(client, &ROLES).await;
    model
        .tables
        .retain(|table| number_in(&table.name).is_some());
    model
}

/// The number of the policy that a table is there for.
fn number_in(table: &str) -> Option<usize> {
    let names = ["t", "leaf_", "rest_", "child_"];
    let mut digits = names.iter().filter_map(|name| table.strip_prefix(name));
    digits.find_map(|digits| digits.parse().ok())
}

fn version_of(cluster: &Cluster) -> u32 {
    let version = cluster
        .psql("postgres", &["show server_version_num"])
        .unwrap();
    version.trim().parse::<u32>().unwrap() / 10_000
}

#[tokio::test]
async fn written_policies_are_judged_as_postgres_judges_them() {
    check("policies.sql").await;
}

#[tokio::test]
async fn policies_that_change_are_judged_as_postgres_judges_them() {
    check("changes.sql").await;
}

async fn check(policies: &str) {
    let only = std::env::var("WALCAST_WRITTEN_ONLY").unwrap_or_default();
    let seed = number_of("WALCAST_WRITTEN_SEED", 7);
    let seconds = Duration::from_secs(number_of("WALCAST_WRITTEN_SECONDS", 1));
    let mut world = World::start(seed, &file(policies), &only).await;
    let mut tally = Tally::default();
    // The first transactions come while tables are loaded.
    world.transaction(&mut tally).await;
    world.settle().await;
    let begun = Instant::now();
    for _ in 0..TRANSACTIONS {
        world.transaction(&mut tally).await;
    }
    let mut step = 0;
    while !world.step(step).is_empty() {
        world.change(step, &mut tally).await;
        step += 1;
    }
    while begun.elapsed() < seconds {
        world.transaction(&mut tally).await;
    }
    let outcomes = world.outcomes().await;
    let compiled = outcomes
        .values()
        .filter(|outcome| *outcome == "compiled")
        .count();
    for (name, outcome) in outcomes
        .iter()
        .filter(|(_, outcome)| *outcome != "compiled")
    {
        println!("{name}: {outcome}");
    }
    println!(
        "WALCAST_WRITTEN_SEED={seed}: {compiled} of {} policies compiled; {} transactions, {} allowed, {} hidden, {} raised, {} depend on the plan; {} differences",
        outcomes.len(),
        tally.transactions,
        tally.allowed,
        tally.hidden,
        tally.raised,
        tally.plan_dependent,
        tally.differences.values().map(Vec::len).sum::<usize>()
    );
    for (name, texts) in tally.differences.iter().take(SHOWN_MAX) {
        println!("{} times {name}, as: {}", texts.len(), texts[0]);
    }
    assert!(
        world.audiences().await > 0,
        "the server tells of no audience"
    );
    assert!(tally.differences.is_empty(), "Postgres says otherwise");
    assert!(
        tally.allowed * 20 > tally.hidden,
        "hardly anything was allowed"
    );
}
