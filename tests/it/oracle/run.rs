//! One world: a database from a seed, a server before it, listeners, and transactions one at a time.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio_postgres::Client;
use tokio_util::task::TaskTracker;
use walcast::database::Database;
use walcast::testing::{App, AppOptions};

use super::claims::{Identity, ROLES};
use super::dice::Dice;
use super::judge::{self, Answer, Comparison, Fault, Past, Question};
use super::listener::Listener;
use super::model::Model;
use super::number_of;
use super::report::Tally;
use super::rows::{self, Change, Row};
use super::schema::{self, HELPERS};
use super::transactions::{self, Numbers, Script};

/// Attempts at something that Postgres may refuse.
const ATTEMPTS: usize = 6;
/// How long plans and tables may take to be in memory.
const PATIENCE: Duration = Duration::from_secs(20);

/// A world has as many, however slow the machine is.
const TRANSACTIONS_MIN: u64 = 12;
/// Verdicts that are stricter than Postgres' and shown.
const SAMPLES_MAX: usize = 2;
/// Differences that are shown of one transaction.
const SHOWN_MAX: usize = 4;

/// Transactions at once, at most.
const BURST_MAX: usize = 4;

/// Transactions of which the listeners have not been asked yet.
struct Committed {
    scripts: Vec<Script>,
    /// Of all of them, in order.
    changes: Vec<Change>,
    answers: judge::Answers,
    /// For the old rows, as of right before each transaction.
    before: judge::Answers,
    /// How many changes there were, and where the WAL was, after each transaction.
    ends: Vec<(usize, u64)>,
    /// Which of those who look back can be asked again about a change.
    backward: Vec<Option<usize>>,
}

impl Committed {
    /// Whether a listener was to see none of the versions that got this change's key.
    fn is_never_visible(&self, place: usize, number: usize) -> bool {
        let wanted = &self.changes[number];
        let row = wanted.new.as_ref().or(wanted.old.as_ref());
        let is_its = |change: &Change, version: &Option<Row>| {
            change.table == wanted.table
                && version.as_ref().map(|row| &row.key) == row.map(|row| &row.key)
        };
        let is_seen = |answers: &HashMap<usize, Answer>, number: usize| {
            answers.get(&number) == Some(&Answer::Visible)
        };
        (self.changes.iter().enumerate()).all(|(number, change)| {
            !(is_its(change, &change.new) && is_seen(&self.answers[place], number))
        })
    }

    /// The same for what was before this change, and the versions before that.
    fn was_never_visible(&self, place: usize, number: usize) -> bool {
        let wanted = &self.changes[number];
        let key = wanted.old.as_ref().map(|row| &row.key);
        (self.changes.iter().enumerate()).all(|(number, change)| {
            let is_its = |version: &Option<Row>| {
                change.table == wanted.table && version.as_ref().map(|row| &row.key) == key
            };
            let is_seen =
                |answers: &judge::Answers| answers[place].get(&number) == Some(&Answer::Visible);
            let shown = is_its(&change.new) && is_seen(&self.answers)
                || is_its(&change.old) && is_seen(&self.before);
            !shown
        })
    }

    fn new(listeners: usize) -> Self {
        Self {
            scripts: Vec::new(),
            changes: Vec::new(),
            answers: vec![HashMap::new(); listeners],
            before: vec![HashMap::new(); listeners],
            ends: Vec::new(),
            backward: Vec::new(),
        }
    }
}

/// How the old rows of a transaction are asked for.
enum Backward {
    /// With a snapshot that one of those who look back has taken before it.
    Snapshot(usize),
    /// Everything was asked before: what happens would not be hidden from a snapshot.
    Asked(Vec<HashMap<(u32, String), Answer>>),
}

pub(super) struct World {
    app: App,
    dice: Dice,
    numbers: Numbers,
    /// Writes, and reads the catalogs.
    writer: Client,
    /// Asks as others.
    asker: Client,
    /// Ask as others, with snapshots from before a transaction.
    backward: Vec<Client>,
    model: Model,
    listeners: Vec<Listener>,
    /// Is told of nothing but rows of `probe`.
    probe: Listener,
    probes: i64,
    next_identity: usize,
    /// Tables and roles whose plans are complete, as long as the schema stays as it is.
    planned: BTreeSet<(String, String)>,
    /// What changed the schema, as far as it succeeded.
    history: Vec<String>,
    seed: u64,
    pub(super) tally: Tally,
}

impl World {
    pub(super) async fn start(seed: u64, identities: usize) -> Self {
        let mut dice = Dice::new(seed);
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
        let mut backward = Vec::new();
        for _ in 0..BURST_MAX {
            backward.push(database.connect(&tracker, "oracle").await.unwrap());
        }
        // By the key's index: otherwise it depends on the plan whether other rows are looked at, which may raise. And as
        // in a session that asks for the first time: making a plan may raise as well, a cached one is not made again.
        for client in backward.iter().chain([&asker]) {
            client
                .batch_execute(
                    "set enable_seqscan = off; set plan_cache_mode = force_custom_plan;
                     set statement_timeout = '60s'",
                )
                .await
                .unwrap();
        }
        let mut history = Vec::new();
        let times = usize::try_from(number_of("WALCAST_ORACLE_TIMES", 1)).unwrap();
        let mut numbers = Numbers::new(times);
        for statement in schema::tables(&mut dice) {
            writer
                .batch_execute(&statement)
                .await
                .unwrap_or_else(|error| panic!("{statement}: {error:?}"));
            history.push(statement);
        }
        let mut model = Model::read(&writer, &ROLES).await;
        for helper in HELPERS {
            attempt(&writer, &mut history, || helper.create(&mut dice, &model)).await;
        }
        for statement in schema::row_security(&mut dice, &model) {
            writer.batch_execute(&statement).await.unwrap();
            history.push(statement);
        }
        for table in model.tables.iter().filter(|table| table.name != "bare") {
            for _ in 0..1 + dice.below(3) {
                let name = numbers.name(*dice.pick(&['a', 'k', 'z']));
                attempt(&writer, &mut history, || {
                    schema::policy(&mut dice, &model, table, &name)
                })
                .await;
            }
        }
        for statement in transactions::first_rows(&mut dice, &model, &mut numbers) {
            writer
                .batch_execute(&statement)
                .await
                .unwrap_or_else(|error| panic!("{statement}: {error:?}"));
        }
        model = Model::read(&writer, &ROLES).await;
        app.server.spawn();
        app.server.ready().await;
        let port = app.server.port();
        let expires_at = i64::try_from(
            std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .unwrap()
                .as_secs(),
        )
        .unwrap()
            + 100_000;
        let people: Vec<Identity> = (0..identities)
            .map(|number| Identity::random(&mut dice, number, expires_at))
            .collect();
        let listeners = join_all(
            people
                .into_iter()
                .map(|identity| Listener::join(port, identity, "app")),
        )
        .await;
        let reader = Identity {
            role: "authenticated",
            claims: json!({"role": "authenticated", "exp": expires_at}),
        };
        let probe = Listener::join(port, reader, "probe").await;
        Self {
            app,
            dice,
            numbers,
            writer,
            asker,
            backward,
            planned: BTreeSet::new(),
            model,
            listeners,
            probe,
            probes: 0,
            next_identity: identities,
            history,
            seed,
            tally: Tally::default(),
        }
    }

    /// Until the time is over, though not before there was something to judge; or until something differs.
    fn goes_on(&self, end: Instant) -> bool {
        self.tally.differences.is_empty()
            && (Instant::now() < end || self.tally.transactions < TRANSACTIONS_MIN)
    }

    /// Transactions for so long, counted from when all is loaded.
    pub(super) async fn run(&mut self, length: Duration) {
        self.settle().await;
        let end = Instant::now() + length;
        while self.goes_on(end) {
            let script = self.schema_script();
            self.transactions(vec![script]).await;
            // The first ones come while the server reads the schema anew.
            let settled = if self.dice.chance(75) { 1 } else { 4 };
            for number in 0..2 + self.dice.below(7) {
                if !self.goes_on(end) {
                    break;
                }
                if number == settled {
                    self.settle().await;
                }
                let count = if self.dice.chance(25) {
                    2 + self.dice.below(3)
                } else {
                    1
                };
                let scripts = (0..count).map(|_| self.rows_script()).collect();
                self.transactions(scripts).await;
            }
        }
        let compiled = self.verdicts("compiled").await;
        self.tally.compiled = compiled.iter().sum();
        self.tally.asked = self.verdicts("postgres").await.iter().sum();
        for reason in self.app.server.log().lines().filter_map(refusal) {
            *self.tally.refusals.entry(reason).or_default() += 1;
        }
    }

    /// Rows only, perhaps after a TRUNCATE.
    fn rows_script(&mut self) -> Script {
        let mut script = Script::default();
        if self.dice.chance(4) {
            let name = self
                .dice
                .pick(&["member", "team", "share", "profile", "logs"]);
            script.first.push(format!("truncate app.{name}"));
        }
        script
    }

    /// A change of the schema, perhaps with rows.
    fn schema_script(&mut self) -> Script {
        let mut script = Script::default();
        let count = 1 + self.dice.below(3);
        for _ in 0..count {
            let early = self.dice.chance(60);
            let statement = if early && self.dice.chance(35) {
                transactions::tables(&mut self.dice, &self.model, &mut self.numbers)
            } else {
                transactions::permissions(&mut self.dice, &self.model, &mut self.numbers)
            };
            let Some(statement) = statement else { continue };
            if early {
                script.first.push(statement);
            } else {
                script.last.push(statement);
            }
        }
        script
    }

    /// Transactions, each with all verdicts on it. Of several the server hears only when all of them have committed.
    async fn transactions(&mut self, scripts: Vec<Script>) {
        let compiled = self.verdicts("compiled").await[2];
        let asked = self.asked().await;
        let is_burst = scripts.len() > 1;
        if is_burst {
            self.app.server.signal(Signal::STOP);
        }
        let mut committed = Committed::new(self.listeners.len());
        for script in scripts {
            self.commit(script, &mut committed).await;
        }
        if is_burst {
            self.app.server.signal(Signal::CONT);
        }
        let number = self.app.fence().await;
        let Committed {
            changes, answers, ..
        } = &committed;
        let mut faults: Vec<(usize, Fault)> = Vec::new();
        let mut away = Vec::new();
        let mut pasts = Vec::new();
        for (place, listener) in self.listeners.iter_mut().enumerate() {
            let heard = listener.until(number).await;
            let comparison = Comparison {
                model: &self.model,
                role: listener.identity.role,
                changes,
                answers: &answers[place],
                before: &committed.before[place],
                ends: &committed.ends,
                does_more: committed.scripts.iter().any(Script::does_more),
                planned: &self.planned,
            };
            for (number, change) in changes.iter().enumerate() {
                if comparison.is_verdict(change) {
                    self.tally.count(&answers[place][&number]);
                }
            }
            if heard.is_late() {
                // Postgres did not answer in time: denied, and to be told so. Nothing can be compared.
                self.tally.late += 1;
                away.push(place);
                continue;
            }
            if let Some(reason) = &heard.ended {
                let reason = format!("the channel has ended: {reason}");
                faults.push((place, Fault::Wrong(None, reason)));
                away.push(place);
            }
            let mut past = Past::default();
            let found = comparison.faults(&heard, &mut past);
            pasts.push(past);
            faults.extend(found.into_iter().map(|fault| (place, fault)));
        }
        if is_burst && self.asked().await > asked {
            // Postgres answers for the present: versions that were superseded meanwhile are merged. What remains certain
            // is that nobody gets a row of which no version was visible.
            self.tally.merged += 1;
            faults.retain(|(place, fault)| match fault {
                Fault::Leaked(number) => committed.is_never_visible(*place, *number),
                Fault::LeakedOld(number) => committed.was_never_visible(*place, *number),
                Fault::Missed(_) | Fault::Wrong(..) => false,
            });
        } else {
            for past in &pasts {
                self.tally.past.add(past);
            }
        }
        let stricter = self.excuse(&committed, &mut faults, compiled).await;
        for client in &self.backward {
            client.batch_execute("rollback").await.unwrap();
        }
        if let Some(sample) = stricter
            && self.tally.samples.len() < SAMPLES_MAX
        {
            let sample = self.report(&committed, &[sample]).await;
            self.tally.samples.push(sample);
        }
        if !faults.is_empty() {
            let report = self.report(&committed, &faults).await;
            self.tally.differences.push(report);
        }
        for place in away {
            let identity = self.listeners[place]
                .identity
                .renumbered(self.next_identity);
            self.next_identity += 1;
            self.listeners[place] = Listener::join(self.app.server.port(), identity, "app").await;
        }
    }

    /// One transaction; Postgres is asked what everybody sees right after it, and what of it everybody saw right before.
    async fn commit(&mut self, mut script: Script, committed: &mut Committed) {
        let with_rows = !script.changes_schema() || self.dice.chance(60);
        let changes_schema = script.changes_schema();
        if changes_schema {
            self.planned.clear();
        }
        let backward = if !script.does_more() {
            let place = committed.scripts.len();
            self.backward[place]
                .batch_execute(
                    "begin isolation level repeatable read read only; select pg_current_snapshot()",
                )
                .await
                .unwrap();
            Backward::Snapshot(place)
        } else if with_rows {
            Backward::Asked(self.all_visible().await)
        } else {
            Backward::Asked(vec![HashMap::new(); self.listeners.len()])
        };
        let Some(before) = self.write(&mut script, with_rows).await else {
            if let Backward::Snapshot(place) = backward {
                let client = &self.backward[place];
                client.batch_execute("rollback").await.unwrap();
            }
            self.tally.refused += 1;
            return;
        };
        let until: i64 = self
            .writer
            .query_one(
                "select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint",
                &[],
            )
            .await
            .unwrap()
            .get(0);
        self.tally.schema_changes += u64::from(script.changes_schema());
        self.tally.transactions += 1;
        let after = rows::read(&self.writer, &self.model).await;
        let changes = rows::changes(&before, &after);
        let first = committed.changes.len();
        let numbered: Vec<(usize, &Change)> = (first..).zip(&changes).collect();
        let people = self.people();
        let questions = |version: fn(&Change) -> Option<&Row>| -> Vec<Question<'_>> {
            let asked = numbered.iter().filter_map(|(number, change)| {
                Some(Question {
                    number: *number,
                    table: change.table,
                    row: version(change)?,
                })
            });
            asked.collect()
        };
        let new = questions(|change| change.new.as_ref());
        let answers = judge::ask(&self.asker, &self.model, &people, &new).await;
        let old = questions(|change| change.old.as_ref());
        let before = match &backward {
            Backward::Snapshot(place) => {
                judge::ask_within(&self.backward[*place], &self.model, &people, &old).await
            }
            Backward::Asked(known) => (known.iter())
                .map(|known| {
                    let of = |asked: &Question<'_>| {
                        let answer = known.get(&(asked.table, asked.row.key.clone()))?;
                        Some((asked.number, answer.clone()))
                    };
                    old.iter().filter_map(of).collect()
                })
                .collect(),
        };
        let again = match backward {
            Backward::Snapshot(place) => Some(place),
            Backward::Asked(_) => None,
        };
        for (known, more) in committed.answers.iter_mut().zip(answers) {
            known.extend(more);
        }
        for (known, more) in committed.before.iter_mut().zip(before) {
            known.extend(more);
        }
        committed.backward.extend(changes.iter().map(|_| again));
        committed.changes.extend(changes);
        let end = (committed.changes.len(), u64::try_from(until).unwrap());
        committed.ends.push(end);
        committed.scripts.push(script);
    }

    fn people(&self) -> Vec<&Identity> {
        let listeners = self.listeners.iter();
        listeners.map(|listener| &listener.identity).collect()
    }

    /// What everybody sees of everything, by table and key.
    async fn all_visible(&self) -> Vec<HashMap<(u32, String), Answer>> {
        let rows = rows::read(&self.writer, &self.model).await;
        let questions: Vec<Question<'_>> = (rows.iter().enumerate())
            .map(|(number, ((table, _), row))| Question {
                number,
                table: *table,
                row,
            })
            .collect();
        let answers = judge::ask(&self.asker, &self.model, &self.people(), &questions).await;
        let by_key = |mut answers: HashMap<usize, Answer>| {
            let of = |asked: &Question<'_>| {
                let answer = answers.remove(&asked.number)?;
                Some(((asked.table, asked.row.key.clone()), answer))
            };
            questions.iter().filter_map(of).collect()
        };
        answers.into_iter().map(by_key).collect()
    }

    /// Runs a script; gives the rows as they were before its own changes of rows, and what ran. Nothing if Postgres refused.
    async fn write(&mut self, script: &mut Script, with_rows: bool) -> Option<rows::Rows> {
        self.writer.batch_execute("begin").await.unwrap();
        for statement in &script.first {
            if self.writer.batch_execute(statement).await.is_err() {
                self.writer.batch_execute("rollback").await.unwrap();
                return None;
            }
        }
        if script.changes_schema() {
            self.model = Model::read(&self.writer, &ROLES).await;
        }
        let before = rows::read(&self.writer, &self.model).await;
        if with_rows {
            let rids = rows::rids(&self.model, &before);
            script.rows =
                transactions::rows(&mut self.dice, &self.model, &rids, &mut self.numbers, true);
        }
        for statement in script.rows.iter().chain(&script.last) {
            if self.writer.batch_execute(statement).await.is_err() {
                self.writer.batch_execute("rollback").await.unwrap();
                self.model = Model::read(&self.writer, &ROLES).await;
                return None;
            }
        }
        if self.writer.batch_execute("commit").await.is_err() {
            self.model = Model::read(&self.writer, &ROLES).await;
            return None;
        }
        if script.changes_schema() {
            self.model = Model::read(&self.writer, &ROLES).await;
            self.history
                .extend(script.first.iter().chain(&script.last).cloned());
        }
        Some(before)
    }

    /// Takes away, and gives one of, what Postgres itself does not decide one way: where it depends on the plan, or on
    /// whether the session must make it first, whether a row raises, and where a part of an OR raises that a lucky plan
    /// does not evaluate. All of that only ever denies.
    async fn excuse(
        &mut self,
        committed: &Committed,
        faults: &mut Vec<(usize, Fault)>,
        raised_before: u64,
    ) -> Option<(usize, Fault)> {
        if faults.is_empty() {
            return None;
        }
        let changes = &committed.changes;
        let mut again = BTreeMap::new();
        for client in self.backward.iter().chain([&self.asker]) {
            client
                .batch_execute("set enable_seqscan = on")
                .await
                .unwrap();
        }
        for (place, fault) in faults.iter() {
            let (number, is_new) = match fault {
                Fault::Missed(number) => (*number, changes[*number].new.is_some()),
                Fault::Leaked(number) => (*number, true),
                Fault::LeakedOld(number) => (*number, false),
                Fault::Wrong(..) => continue,
            };
            let change = &changes[number];
            let version = if is_new { &change.new } else { &change.old };
            let Some(row) = version else { continue };
            let question = [Question {
                number,
                table: change.table,
                row,
            }];
            let identity = [&self.listeners[*place].identity];
            let client = match committed.backward[number] {
                _ if is_new => &self.asker,
                Some(client) => &self.backward[client],
                None => continue,
            };
            // A function's statement without parameters is planned once per session and role, whatever the claims are
            // then: what planning raises is not raised by who comes later.
            client.batch_execute("discard plans").await.unwrap();
            let answers = if is_new {
                judge::ask(client, &self.model, &identity, &question).await
            } else {
                judge::ask_within(client, &self.model, &identity, &question).await
            };
            again.insert((*place, number), answers[0].get(&number).cloned());
        }
        for client in self.backward.iter().chain([&self.asker]) {
            client
                .batch_execute("set enable_seqscan = off")
                .await
                .unwrap();
        }
        let mut excused = 0;
        faults.retain(|(place, fault)| {
            let depends = match fault {
                Fault::Missed(number) => {
                    matches!(again.get(&(*place, *number)), Some(Some(Answer::Raises(_))))
                }
                Fault::Leaked(number) | Fault::LeakedOld(number) => {
                    matches!(again.get(&(*place, *number)), Some(Some(Answer::Visible)))
                }
                Fault::Wrong(..) => false,
            };
            excused += u64::from(depends);
            !depends
        });
        self.tally.plan_dependent += excused;
        let missed = faults.iter().filter(|(_, fault)| matches!(fault, Fault::Missed(number) if changes[*number].new.is_some())).count();
        let missed = u64::try_from(missed).unwrap();
        let raised = self.verdicts("compiled").await[2] - raised_before;
        if missed > 0 && raised >= missed {
            let is_stricter = |fault: &Fault| matches!(fault, Fault::Missed(number) if changes[*number].new.is_some());
            self.tally.stricter += missed;
            let sample = faults.iter().find(|(_, fault)| is_stricter(fault)).cloned();
            faults.retain(|(_, fault)| !is_stricter(fault));
            return sample;
        }
        None
    }

    async fn report(&self, committed: &Committed, faults: &[(usize, Fault)]) -> String {
        let mut text = format!(
            "seed {}, transaction {}: {} differences\n",
            self.seed,
            self.tally.transactions,
            faults.len()
        );
        for (place, fault) in faults.iter().take(SHOWN_MAX) {
            let identity = &self.listeners[*place].identity;
            writeln!(text, "\n{fault:?} as {} {}", identity.role, identity.claims).unwrap();
            let number = match fault {
                Fault::Missed(number)
                | Fault::Leaked(number)
                | Fault::LeakedOld(number)
                | Fault::Wrong(Some(number), _) => *number,
                Fault::Wrong(None, _) => continue,
            };
            let change = &committed.changes[number];
            let table = self
                .model
                .tables
                .iter()
                .find(|table| table.oid == change.table)
                .unwrap();
            writeln!(text, "{} of {}: {:?}", change.kind(), table.name, change).unwrap();
            writeln!(
                text,
                "Postgres: {:?}, and before {:?}",
                committed.answers[*place].get(&number),
                committed.before[*place].get(&number)
            )
            .unwrap();
            let sql = format!(
                "select string_agg(format('  %s %s %s to %s using (%s)', policyname, permissive, cmd, roles, qual), e'\\n')
                 from pg_policies where schemaname = 'app' and tablename = '{}'",
                table.name
            );
            let policies: Option<String> = self.writer.query_one(&sql, &[]).await.unwrap().get(0);
            writeln!(
                text,
                "policies of {}:\n{}",
                table.name,
                policies.unwrap_or_default()
            )
            .unwrap();
        }
        for script in &committed.scripts {
            writeln!(text, "\ntransaction:").unwrap();
            for statement in script.first.iter().chain(&script.rows).chain(&script.last) {
                writeln!(text, "  {statement};").unwrap();
            }
        }
        if let Ok(path) = std::env::var("WALCAST_ORACLE_HISTORY") {
            std::fs::write(format!("{path}.log"), self.app.server.log()).unwrap();
            std::fs::write(path, self.history.join(";\n")).unwrap();
        }
        text
    }

    /// Waits until plans are made and the tables that they look into are loaded.
    async fn settle(&mut self) {
        let started = Instant::now();
        let mut quiet = 0;
        let mut tables = 0;
        while quiet < 2 && started.elapsed() < PATIENCE {
            let before: u64 = self.verdicts("compiled").await.iter().sum();
            self.probes += 1;
            self.writer
                .batch_execute(&format!("insert into probe.asked values ({})", self.probes))
                .await
                .unwrap();
            let number = self.app.fence().await;
            self.probe.until(number).await;
            for listener in &mut self.listeners {
                let heard = listener.until(number).await;
                assert!(
                    heard.changes.is_empty() && heard.ended.is_none(),
                    "{heard:?}"
                );
            }
            let is_compiled = self.verdicts("compiled").await.iter().sum::<u64>() > before;
            let now = self.figure("walcast_shadow_tables").await;
            quiet = if is_compiled && now == tables {
                quiet + 1
            } else {
                0
            };
            tables = now;
            if quiet < 2 {
                tokio::time::sleep(Duration::from_millis(30)).await;
            }
        }
        self.planned = self.plans().await;
        self.tally.settling += started.elapsed();
    }

    /// Tables and roles whose plans have all that they look into.
    async fn plans(&self) -> BTreeSet<(String, String)> {
        let state = self.app.server.get("/policy").await.unwrap().body;
        let state: Value = serde_json::from_str(&state).unwrap();
        let is_trusted = |name: &Value| {
            let mut shadows = state["shadows"].as_array().unwrap().iter();
            shadows.any(|shadow| shadow["table"] == *name && shadow["state"] == "trusted")
        };
        let plans = state["plans"].as_array().unwrap().iter();
        plans
            .filter(|plan| plan["compiled"] == true)
            .filter(|plan| plan["reads"].as_array().unwrap().iter().all(is_trusted))
            .filter_map(|plan| {
                let name = plan["table"].as_str()?.strip_prefix("app.")?;
                Some((name.to_owned(), plan["role"].as_str()?.to_owned()))
            })
            .collect()
    }

    /// Verdicts that were asked of Postgres.
    async fn asked(&self) -> u64 {
        let asked: u64 = self.verdicts("postgres").await.iter().sum();
        let merged = self.figure("walcast_changes_merged_total").await;
        asked + merged
    }

    async fn figure(&self, name: &str) -> u64 {
        let metrics = self.app.server.get("/metrics").await.unwrap().body;
        figure(&metrics, name)
    }

    /// Verdicts of a source: allowed, denied, raised.
    async fn verdicts(&self, source: &str) -> [u64; 3] {
        let metrics = self.app.server.get("/metrics").await.unwrap().body;
        ["allowed", "denied", "raised"].map(|result| {
            figure(
                &metrics,
                &format!("walcast_verdicts_total{{source=\"{source}\",result=\"{result}\"}}"),
            )
        })
    }
}

fn figure(metrics: &str, name: &str) -> u64 {
    metrics
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
        .unwrap_or_else(|| panic!("{name} is missing in:\n{metrics}"))
}

/// Why a table's policies are not compiled for a role, from a line of the server's log.
fn refusal(line: &str) -> Option<String> {
    let reason = line.split_once("reason=")?.1;
    Some(
        reason
            .split(" role=")
            .next()?
            .split(" table=")
            .next()?
            .to_owned(),
    )
}

/// Tries until Postgres takes one.
async fn attempt(client: &Client, history: &mut Vec<String>, mut make: impl FnMut() -> String) {
    for _ in 0..ATTEMPTS {
        let statement = make();
        if client.batch_execute(&statement).await.is_ok() {
            history.push(statement);
            return;
        }
    }
}
