//! Promises 1 and 2 under faults: connections of clients and to Postgres are cut, delayed and silenced, walsenders killed,
//! Postgres and walcast stopped at any moment, while random transactions commit. In the end everything that every client
//! has received is held against a journal of what was committed.
//!
//! `make faults` runs it for minutes; `WALCAST_FAULTS_SECONDS`, `WALCAST_FAULTS_CLIENTS`, `WALCAST_FAULTS_CALM` (the longest
//! time between two cuts of one client, in milliseconds), `WALCAST_FAULTS_PAUSE` (the longest time between two transactions of
//! one writer) and `WALCAST_FAULTS_SEED` choose.
#![expect(clippy::print_stdout, reason = "a run tells its seed and its figures")]

mod client;
mod journal;
mod model;
mod story;
mod writer;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rustix::process::Signal;
use walcast::testing::{Cluster, Cut, Faults, Proxy, Server, Session, Version};

use client::{Circumstances, Client, Millis, ReturnBy, millis};
use journal::{PUBLIC, Truth, Who};
use model::{Check, Event, Fault, Findings, Interest};
use writer::Writer;

const BINARY: &str = env!("CARGO_BIN_EXE_walcast");

pub(crate) const PEOPLE: usize = 8;
/// Teams are 0, which is everybody's, those whose members stay the same, and those whose members come and go.
pub(crate) const TEAMS: i64 = 7;
pub(crate) const STABLE_TEAMS: i64 = 4;
const WRITERS: i64 = 4;
const SLOT: &str = "walcast_faults";
/// What was acknowledged so shortly before a kill may not have been written down: the answer to a heartbeat waits neither
/// for that nor for what is being released. Generous, for a busy machine.
const WRITTEN_WITHIN: Millis = 10_000;
/// All should have received the last transaction by then, also on a machine that is busy with other things.
const GIVE_UP_AFTER: Duration = Duration::from_secs(120);
/// Until then nothing is cut: who has not acknowledged anything yet cannot go on from there.
const SETTLES_IN: Duration = Duration::from_secs(3);
/// Versions of the last transaction begin here.
const END: i64 = 1 << 50;

const SCHEMA: &str = "
    create table members (team bigint, person uuid, primary key (team, person));
    create table docs (id bigint primary key, team bigint not null, version bigint not null, writer bigint not null, body text);
    alter table docs alter column body set storage external;
    create index on docs (writer);
    alter table docs enable row level security;
    create policy \"members read their team's\" on docs for select using (
      team = 0 or exists (select from members where members.team = docs.team and members.person = auth.uid()));
    grant select on docs, members to anon, authenticated, service_role;
    alter publication supabase_realtime add table docs, members;
    create table journal (n bigint generated always as identity primary key, entry text not null);
    create publication journal for table journal;
";

pub(crate) fn person(number: usize) -> String {
    format!("a0000000-0000-4000-8000-{number:012}")
}

/// What happens besides transactions.
#[derive(Clone, Copy, Debug)]
struct Weather {
    seconds: u64,
    seed: u64,
    clients: usize,
    calm_max: Duration,
    pause_max: Duration,
    /// With nothing, connections of clients last, as does walcast.
    return_by: ReturnBy,
}

impl Weather {
    fn spares_clients(&self) -> bool {
        self.return_by == ReturnBy::Nothing
    }
}

struct World {
    cluster: Cluster,
    database: String,
    /// Between walcast and Postgres.
    proxy: Proxy,
    server: Server,
    dice: StdRng,
    deeds: BTreeMap<&'static str, u64>,
    /// When walcast was killed.
    kills: Vec<Millis>,
    _state: tempfile::TempDir,
}

impl World {
    async fn start(weather: &Weather) -> Self {
        let cluster = Cluster::start(&["wal_sender_timeout=5s"]);
        let database = cluster.empty_database();
        let proxy = Proxy::start(cluster.port()).await;
        let direct = cluster.url(&database);
        let url = direct.replace(&cluster.port().to_string(), &proxy.port().to_string());
        let state = tempfile::tempdir().unwrap();
        let folder = state.path().to_str().unwrap().to_owned();
        let environment = [
            ("WALCAST_SLOT", SLOT),
            ("WALCAST_STATE_DIR", &folder),
            ("WALCAST_LOG_LEVEL", story::LOG_LEVEL),
            // A new process does not begin with everything that was ever written here.
            ("WALCAST_RESUME_WAL_BYTES_MAX", "8MiB"),
        ];
        let server = Server::prepare(Path::new(BINARY), &url, &environment);
        let output = server.command(&["setup", "--messaging"]);
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let mut world = Self {
            cluster,
            database,
            proxy,
            server,
            dice: StdRng::seed_from_u64(weather.seed),
            deeds: BTreeMap::new(),
            kills: Vec::new(),
            _state: state,
        };
        let session = world.session().await;
        session.run(SCHEMA).await;
        let create = format!(
            "select pg_create_logical_replication_slot('{}', 'pgoutput')",
            journal::NAME
        );
        session.run(&create).await;
        let mut members = Vec::new();
        let mut entry = Vec::new();
        for team in 1..TEAMS {
            for number in 0..PEOPLE {
                if world.dice.random_bool(0.5) {
                    members.push(format!("({team}, '{}')", person(number)));
                    entry.push(serde_json::json!(["member", team, number, true]));
                }
            }
        }
        session
            .run(&format!(
                "begin; insert into members values {}; insert into journal (entry) values ('{}'); commit",
                members.join(", "),
                serde_json::Value::from(entry)
            ))
            .await;
        world.server.spawn();
        world.server.ready().await;
        world
    }

    fn url(&self) -> String {
        self.cluster.url(&self.database)
    }

    async fn session(&self) -> Session {
        self.cluster.connect(&self.database).await
    }

    /// Who the clients are and what they ask for: some of everything.
    async fn clients(
        &mut self,
        weather: &Weather,
        circumstances: &Arc<Circumstances>,
    ) -> Vec<Client> {
        let mut clients = Vec::new();
        for number in 0..weather.clients {
            let who = match number % 8 {
                0 => Who::Anon,
                1 => Who::Service,
                _ => Who::Person(self.dice.random_range(0..PEOPLE)),
            };
            let mut interest = Interest::default();
            match self.dice.random_range(0..5) {
                0 => interest.inserts_only = true,
                // A team whose last row it will surely see.
                1 if who == Who::Service => interest.team = Some(self.dice.random_range(1..TEAMS)),
                1 => interest.team = Some(PUBLIC),
                _ => {}
            }
            let dice = StdRng::seed_from_u64(self.dice.random());
            let port = self.server.port();
            clients.push(Client::new(number, who, interest, port, dice, circumstances).await);
        }
        clients
    }

    /// Waits until changes flow again, or this time has come: on a busy machine faults alone would fill the time.
    async fn recover(&self, end: Instant) {
        let recovered = async {
            let is_ready =
                async || (self.server.get("/ready").await).is_some_and(|it| it.status == 200);
            while !is_ready().await {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let _timely = tokio::time::timeout_at(end.into(), recovered).await;
    }

    /// One fault; takes as long as it lasts.
    async fn harm(&mut self, spares_clients: bool) {
        let dice = &mut self.dice;
        let pause = Duration::from_millis(dice.random_range(50..700));
        let kinds = if spares_clients { 7 } else { 10 };
        let name = match dice.random_range(0..kinds) {
            0..2 => {
                let kill = format!(
                    "select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = '{SLOT}' and active"
                );
                let _nobody = self.session().await.batch_execute(&kill).await;
                "walsender killed"
            }
            2 => {
                self.proxy.cut(Cut::Reset);
                "connections to Postgres reset"
            }
            3 => {
                self.proxy.cut(Cut::Finish);
                "connections to Postgres ended"
            }
            4 => {
                self.proxy.set(Faults {
                    refuse: true,
                    ..Faults::default()
                });
                self.proxy.cut(Cut::Reset);
                tokio::time::sleep(pause).await;
                "Postgres unreachable"
            }
            5 => {
                self.proxy.set(Faults::random(dice));
                tokio::time::sleep(pause).await;
                // What was swallowed will never come.
                self.proxy.cut(Cut::Reset);
                "Postgres silent or slow"
            }
            6 => {
                self.cluster.stop(Signal::QUIT);
                self.cluster.resume();
                "Postgres stopped at once"
            }
            7 | 8 => {
                self.kills.push(millis());
                self.server.kill().await;
                self.server.spawn();
                "walcast killed"
            }
            _ => {
                self.server.signal(Signal::TERM);
                self.server.exit().await;
                self.server.spawn();
                "walcast replaced"
            }
        };
        self.proxy.set(Faults::default());
        *self.deeds.entry(name).or_default() += 1;
    }
}

/// Reads the journal until told that all is written.
async fn keep_journal(url: String, mut written: tokio::sync::oneshot::Receiver<()>) -> Truth {
    let mut truth = Truth::default();
    loop {
        let all = written.try_recv().is_ok();
        if let Ok(session) = Session::try_connect(&url).await {
            while journal::read(&session, &mut truth).await.is_ok() {
                if all {
                    return truth;
                }
                if !written.is_empty() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
        assert!(!all, "the journal can be read in the end");
    }
}

async fn run(weather: Weather) {
    let Weather { seconds, seed, .. } = weather;
    println!(
        "WALCAST_FAULTS_SECONDS={seconds} WALCAST_FAULTS_SEED={seed} WALCAST_FAULTS_CLIENTS={} WALCAST_FAULTS_CALM={} WALCAST_FAULTS_PAUSE={}",
        weather.clients,
        weather.calm_max.as_millis(),
        weather.pause_max.as_millis()
    );
    let mut world = World::start(&weather).await;
    let started = Instant::now();
    let end = started + Duration::from_secs(seconds);
    let circumstances = Arc::new(Circumstances {
        url: world.url(),
        return_by: weather.return_by,
        rude: (!weather.spares_clients()).then_some((started + SETTLES_IN, end)),
        calm_max: weather.calm_max,
        end: AtomicU64::new(0),
        give_up: end + GIVE_UP_AFTER,
    });
    let clients = world.clients(&weather, &circumstances).await;
    let clients: Vec<_> = clients
        .into_iter()
        .map(|client| tokio::spawn(client.run()))
        .collect();
    let writers: Vec<_> = (0..WRITERS)
        .map(|number| {
            let dice = StdRng::seed_from_u64(world.dice.random());
            let writer = Writer::new(number, WRITERS, dice, world.url());
            tokio::spawn(writer.run(end, weather.pause_max))
        })
        .collect();
    let (all_written, written) = tokio::sync::oneshot::channel();
    let truth = tokio::spawn(keep_journal(world.url(), written));

    tokio::time::sleep(SETTLES_IN).await;
    loop {
        let calm = Duration::from_millis(world.dice.random_range(500..4000));
        if Instant::now() + calm >= end {
            break;
        }
        tokio::time::sleep(calm).await;
        if world.dice.random_bool(0.7) {
            world.recover(end).await;
        }
        world.harm(weather.spares_clients()).await;
    }
    let mut transactions = 0;
    for writer in writers {
        transactions += writer.await.unwrap();
    }
    circumstances
        .end
        .store(END.unsigned_abs(), Ordering::Relaxed);
    let session = world.session().await;
    let rows = (0..TEAMS).map(|team| format!("({0}, {team}, {0}, -1, '{0} end')", END + team));
    let rows: Vec<String> = rows.collect();
    let puts: Vec<_> = (0..TEAMS)
        .map(|team| serde_json::json!(["put", END + team, team, END + team, true, END + team]))
        .collect();
    session
        .run(&format!(
            "begin; insert into docs values {}; insert into journal (entry) values ('{}'); commit",
            rows.join(", "),
            serde_json::Value::from(puts)
        ))
        .await;
    all_written.send(()).unwrap();
    let truth = truth.await.unwrap();
    let mut after = Vec::new();
    for client in clients {
        after.push(client.await.unwrap());
    }
    let metrics = world.server.get("/metrics").await.unwrap().body;
    let asked = asked(&metrics);
    let sum = judge(
        &weather,
        &world,
        &truth,
        &after,
        transactions,
        started,
        &metrics,
    );
    if weather.spares_clients() {
        // Compiled verdicts are those of the commit, however late they are taken.
        assert!(
            asked > 0 || (sum.merged, sum.uncertain) == (0, 0),
            "{sum:?}"
        );
    }
}

/// Rows that Postgres was asked about.
fn asked(metrics: &str) -> u64 {
    let verdicts = metrics.lines().filter(|line| {
        line.starts_with("walcast_verdicts_total") && line.contains("source=\"postgres\"")
    });
    verdicts
        .map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
        .sum()
}

fn judge(
    weather: &Weather,
    world: &World,
    truth: &Truth,
    clients: &[Client],
    transactions: u64,
    started: Instant,
    metrics: &str,
) -> Findings {
    let mut faults = Vec::new();
    let mut stories = Vec::new();
    let mut sum = Findings::default();
    let mut resyncs = BTreeMap::<String, u64>::new();
    let (mut disconnects, mut old_version) = (0, 0);
    for client in clients {
        let number = client.number;
        let undone = undone(&client.events, &client.times, &world.kills);
        let check = Check {
            who: client.who,
            interest: client.interest,
            truth,
            resumes: weather.return_by != ReturnBy::Since,
            times: &client.times,
            undone: &undone,
        };
        match check.run(&client.events, client.saw_end()) {
            Ok(findings) => {
                sum.changes += findings.changes;
                sum.duplicates += findings.duplicates;
                sum.repeated_late += findings.repeated_late;
                sum.merged += findings.merged;
                sum.uncertain += findings.uncertain;
                sum.bodiless += findings.bodiless;
            }
            Err(Fault { what, near }) => {
                let fault = format!("client {number}: {what}");
                stories.push((fault.clone(), client, near));
                faults.push(fault);
            }
        }
        if !client.saw_end() {
            stories.push((
                format!("client {number} at the end"),
                client,
                client.events.len(),
            ));
            faults.push(format!("client {number} never received the end"));
        }
        for surprise in &client.surprises {
            faults.push(format!("client {number} was told {surprise}"));
        }
        if weather.spares_clients() && !client.resyncs.is_empty() {
            let fault = format!("client {number} had to start over: {:?}", client.resyncs);
            let told =
                |(time, what): &(Millis, String)| what.starts_with("starts over").then_some(*time);
            let time = client.diary.iter().find_map(told).unwrap_or_default();
            let near = client.times.partition_point(|at| *at < time);
            stories.push((fault.clone(), client, near));
            faults.push(fault);
        }
        disconnects += client.disconnects;
        if client.version() == Version::V1 {
            old_version += client.disconnects;
        }
        for (reason, count) in &client.resyncs {
            *resyncs.entry(reason.clone()).or_default() += count;
        }
    }
    println!(
        "{:.0?}: {} transactions ({transactions} confirmed), {disconnects} disconnects ({old_version} of version 1), {sum:?}, \
         resyncs {resyncs:?}, faults {:?}",
        started.elapsed(),
        truth.transactions.len(),
        world.deeds
    );
    if !faults.is_empty() {
        story::tell(weather.seed, world, &stories, metrics);
    }
    assert!(
        faults.is_empty(),
        "{} faults, seed {}:\n{}",
        faults.len(),
        weather.seed,
        faults[..faults.len().min(10)].join("\n")
    );
    if !weather.spares_clients() {
        assert!(disconnects > 0 && sum.changes > 0);
    } else {
        assert_eq!(disconnects, 0, "connections of clients last");
        assert_eq!(sum.duplicates, 0);
    }
    sum
}

/// Acknowledgements, by the numbers of their events, that may have been lost with a kill. What a connection brought that was
/// made before the kill was said before it, however late it was noticed.
fn undone(events: &[Event], times: &[Millis], kills: &[Millis]) -> BTreeSet<usize> {
    let mut connected = 0;
    let mut undone = BTreeSet::new();
    for (number, (event, time)) in events.iter().zip(times).enumerate() {
        match event {
            Event::Connected => connected = *time,
            Event::Acknowledged(_) => {
                let span = connected..*time + WRITTEN_WITHIN;
                if kills.iter().any(|kill| span.contains(kill)) {
                    undone.insert(number);
                }
            }
            Event::Began { .. } | Event::Change { .. } | Event::Resync => {}
        }
    }
    undone
}

fn number_of(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap())
}

fn pause_max() -> Duration {
    // Unoptimized, the server should not be late with every transaction after a kill.
    let usual = if cfg!(debug_assertions) { 100 } else { 40 };
    Duration::from_millis(number_of("WALCAST_FAULTS_PAUSE", usual))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_of_postgres_alone_cost_connected_clients_nothing() {
    let weather = Weather {
        seconds: number_of("WALCAST_FAULTS_SECONDS", 10),
        seed: number_of("WALCAST_FAULTS_SEED", rand::random()),
        clients: 10,
        calm_max: Duration::ZERO,
        pause_max: pause_max(),
        return_by: ReturnBy::Nothing,
    };
    run(weather).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_back_with_a_position_misses_nothing_whatever_fails() {
    come_back(ReturnBy::Since, 8).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_resumes_misses_nothing_whatever_fails() {
    come_back(ReturnBy::Resume, 12).await;
}

async fn come_back(return_by: ReturnBy, seconds: u64) {
    let clients = number_of("WALCAST_FAULTS_CLIENTS", 10);
    let weather = Weather {
        seconds: number_of("WALCAST_FAULTS_SECONDS", seconds),
        seed: number_of("WALCAST_FAULTS_SEED", rand::random()),
        clients: usize::try_from(clients).unwrap(),
        calm_max: Duration::from_millis(number_of("WALCAST_FAULTS_CALM", 2000)),
        pause_max: pause_max(),
        return_by,
    };
    run(weather).await;
}
