//! Joins beside writers of every kind: what a client holds in the end is what it may see, and nothing came twice.
//!
//! `WALCAST_SNAPSHOT_SECONDS=60 cargo test --test it snapshot` runs it for a minute; `WALCAST_SNAPSHOT_SEED` repeats the dice.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use walcast::testing::{App, AppOptions, Change, Session, Subscriber, user};

use super::now;
use crate::world::{ALICE, BOB, CAROL, SCHEMA};

const ITEMS: &str = "
    create table groups (id int primary key, member uuid);
    insert into groups values (1, 'a0000000-0000-4000-8000-000000000001'), (2, 'b0000000-0000-4000-8000-000000000002');
    create table items (id int primary key, owner int, body text);
    alter table items enable row level security;
    create policy own on items for select to authenticated
      using (owner in (select g.id from groups g where g.member = auth.uid()));
    create table open_items (id int primary key, owner int, body text);
    grant select on groups, items, open_items to authenticated;
    alter publication supabase_realtime add table groups, items, open_items;
    insert into items select n, n % 3, 'old' from generate_series(1, 40) n;
    insert into open_items select n, n % 3, 'old' from generate_series(1, 40) n;
";

/// Rows by table and id.
type State = BTreeMap<(String, i64), String>;

/// What a client knows, by what it was sent.
#[derive(Debug, Default)]
struct Model {
    rows: State,
}

impl Model {
    fn apply(&mut self, change: &Change) -> Result<(), String> {
        let table = change.data["table"].as_str().unwrap().to_owned();
        let key = |row: &Value| (table.clone(), row["id"].as_i64().unwrap());
        let body = change.record()["body"].to_string();
        match change.kind() {
            "INSERT" => match self.rows.insert(key(change.record()), body) {
                Some(_) => Err("it is there already".to_owned()),
                None => Ok(()),
            },
            "UPDATE" => {
                let before = self.rows.remove(&key(change.old_record()));
                self.rows.insert(key(change.record()), body);
                before.map(|_| ()).ok_or("it was not there".to_owned())
            }
            _ => {
                let before = self.rows.remove(&key(change.old_record()));
                // Under row-level security everybody hears of deletions.
                let known = before.is_some() || table == "items";
                known.then_some(()).ok_or("it was not there".to_owned())
            }
        }
    }
}

/// What a person sees now, by asking Postgres.
async fn seen(session: &Session, person: &str) -> State {
    let claims = json!({"sub": person, "role": "authenticated"});
    session
        .run(&format!(
            "begin; set local request.jwt.claims = '{claims}'; set local role authenticated"
        ))
        .await;
    let mut state = State::new();
    for table in ["items", "open_items"] {
        let rows = session
            .query(&format!("select id, to_json(body)::text from {table}"), &[])
            .await
            .unwrap();
        for row in rows {
            let id: i32 = row.get(0);
            state.insert((table.to_owned(), i64::from(id)), row.get(1));
        }
    }
    session.run("rollback").await;
    state
}

/// Statements of one transaction. Owners stay: rows that move out of sight are not announced.
fn transaction(dice: &mut StdRng) -> String {
    let mut sql = String::from("begin;");
    for _ in 0..dice.random_range(1..4) {
        let table = ["items", "open_items"][dice.random_range(0..2)];
        let id = dice.random_range(1..60);
        let body = dice.random_range(0..1_000_000);
        sql.push_str(&match dice.random_range(0..10) {
            0..3 => format!(
                "insert into {table} values ({id}, {id} % 3, '{body}') on conflict do nothing;"
            ),
            3..7 => format!("update {table} set body = '{body}' where id = {id};"),
            7 => format!(
                "update {table} set id = {id} + 100 where id = {id}
                   and not exists (select from {table} where id = {id} + 100);"
            ),
            _ => format!("delete from {table} where id in ({id}, {id} + 100);"),
        });
    }
    sql.push_str(if dice.random_bool(0.1) {
        "rollback"
    } else {
        "commit"
    });
    sql
}

/// Commits until `end`, as fast as it goes; what collides is somebody else's.
async fn write(session: &Session, mut dice: StdRng, end: Instant) -> u64 {
    let mut committed = 0;
    while Instant::now() < end {
        match session.batch_execute(&transaction(&mut dice)).await {
            Ok(()) => committed += 1,
            Err(_collision) => session.run("rollback").await,
        }
    }
    committed
}

async fn join(app: &App, person: &str, dice: &mut StdRng, until: Instant) -> (Subscriber, Model) {
    let span = until.saturating_duration_since(Instant::now());
    tokio::time::sleep(span.mul_f64(dice.random_range(0.0..0.8))).await;
    let bindings = json!([now("items"), now("open_items")]);
    let mut subscriber = app.subscribe(&user(person), bindings).await;
    let mut model = Model::default();
    for row in subscriber.snapshot().await {
        if let Err(why) = model.apply(&row) {
            panic!("{why}: {row:?}");
        }
    }
    (subscriber, model)
}

fn number_of(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap())
}

/// Joins, and transactions beside them.
async fn interleave(verdicts: &str, seconds: u64, seed: u64) -> (u64, u64) {
    let environment = [
        ("WALCAST_VERDICTS", verdicts),
        ("WALCAST_SNAPSHOT_CONNECTIONS", "3"),
    ];
    let options = AppOptions {
        schema: &format!("{SCHEMA}{ITEMS}"),
        environment: &environment,
        private: Some(&["wal_writer_delay=20ms"]),
    };
    let app = App::start_with(env!("CARGO_BIN_EXE_walcast"), &options).await;
    let mut dice = StdRng::seed_from_u64(seed);
    let mut writers = Vec::new();
    for setting in ["off", "off", "local", "on"] {
        let session = app.session().await;
        session
            .run(&format!("set synchronous_commit = {setting}"))
            .await;
        writers.push(session);
    }
    app.sql("set synchronous_commit = local").await;
    let end = Instant::now() + Duration::from_secs(seconds);
    let (mut joins, mut committed) = (0, 0);
    while Instant::now() < end {
        // Who commits as it should waits for a standby that is not there; everybody else overtakes.
        let delayed = dice.random_bool(0.5);
        if delayed {
            app.sql("alter system set synchronous_standby_names = 'missing'")
                .await;
            app.sql("select pg_reload_conf()").await;
        }
        let until = Instant::now() + Duration::from_millis(dice.random_range(80..250));
        let writing = writers
            .iter()
            .map(|session| write(session, StdRng::seed_from_u64(dice.random()), until));
        let writing = futures_util::future::join_all(writing.collect::<Vec<_>>());
        let people = (0..12).map(|n| [ALICE, BOB, CAROL][n % 3]);
        let joining = people.map(|person| {
            let (app, mut dice) = (&app, StdRng::seed_from_u64(dice.random()));
            async move { (person, join(app, person, &mut dice, until).await) }
        });
        let joining = futures_util::future::join_all(joining.collect::<Vec<_>>());
        let release = async {
            tokio::time::sleep_until(until.into()).await;
            if delayed {
                app.sql("alter system reset synchronous_standby_names")
                    .await;
                app.sql("select pg_reload_conf()").await;
            }
        };
        let (written, joined, ()) = tokio::join!(writing, joining, release);
        committed += written.iter().sum::<u64>();
        let fence = app.fence().await;
        for (person, (mut subscriber, mut model)) in joined {
            joins += 1;
            let held = model.rows.clone();
            let changes = subscriber.until(fence).await;
            for change in &changes {
                if let Err(why) = model.apply(change) {
                    panic!(
                        "{verdicts} {seed}: {why} for {person}: {change:?}\nheld: {held:#?}\nall: {changes:#?}"
                    );
                }
            }
            assert_eq!(
                model.rows,
                seen(&app.admin, person).await,
                "{verdicts} {seed}: {person} held {held:#?}, then came {changes:#?}"
            );
        }
    }
    assert!(committed > 100);
    (joins, committed)
}

#[tokio::test]
async fn whatever_commits_meanwhile_is_had_once() {
    let seconds = number_of("WALCAST_SNAPSHOT_SECONDS", 16);
    let seed = number_of("WALCAST_SNAPSHOT_SEED", rand::random());
    println!("WALCAST_SNAPSHOT_SECONDS={seconds} WALCAST_SNAPSHOT_SEED={seed}");
    let asked = interleave("postgres", seconds / 2, seed);
    let compiled = interleave("compiled", seconds / 2, seed);
    let (asked, compiled) = tokio::join!(asked, compiled);
    println!("joins and transactions: asked {asked:?}, compiled {compiled:?}");
    assert!(asked.0 > 20 && compiled.0 > 20);
}
