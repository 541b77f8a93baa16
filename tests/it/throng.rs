//! A chat under load: many people with rights of their own, steady inserts, updates and deletes, people who are added and
//! removed, and a server that is replaced meanwhile. In the end all that everybody got is held against what was committed,
//! and that against what Postgres shows each of them.
//!
//! `WALCAST_THRONG_SECONDS`, `_SOCKETS`, `_PEOPLE`, `_CONVERSATIONS`, `_RATE` (transactions a second), `_RESTARTS` and `_SEED`
//! choose; `make faults` runs it large.
#![expect(clippy::print_stdout, reason = "a run tells its seed and its figures")]

mod guest;
mod ledger;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rustix::process::Signal;
use serde_json::json;
use walcast::testing::{App, AppOptions, Durations, Server, Session, allow_files};

use guest::{Guest, ReturnBy};
use ledger::{Ledger, Sum, Writer};

/// Writers; each has the conversations whose numbers leave its own when divided by this.
const WRITERS: usize = 4;

/// Fences of the end begin here.
const END: i64 = 1 << 40;

const SCHEMA: &str = "alter table messages replica identity full;";

pub(crate) fn person(number: usize) -> String {
    format!("a0000000-0000-4000-8000-{number:012}")
}

pub(crate) fn conversation(number: usize) -> String {
    format!("f0000000-0000-4000-8000-{number:012}")
}

#[derive(Clone, Copy, Debug)]
struct Size {
    people: usize,
    conversations: usize,
    sockets: usize,
    seconds: usize,
    rate: usize,
    restarts: usize,
    seed: u64,
}

impl Size {
    fn chosen(restarts: usize) -> Self {
        let of = |name: &str, default: usize| {
            std::env::var(format!("WALCAST_THRONG_{name}"))
                .map_or(default, |text| text.parse().unwrap())
        };
        let seed = std::env::var("WALCAST_THRONG_SEED");
        Self {
            people: of("PEOPLE", 200),
            conversations: of("CONVERSATIONS", 40),
            sockets: of("SOCKETS", 60),
            seconds: of("SECONDS", 5),
            rate: of("RATE", 100),
            restarts: restarts * of("RESTARTS", 1),
            seed: seed.map_or_else(|_unset| rand::random(), |text| text.parse().unwrap()),
        }
    }
}

/// Who takes part at first: mostly a few people, sometimes many.
fn audiences(size: &Size, dice: &mut StdRng) -> Vec<BTreeSet<usize>> {
    let one = |_number| {
        let count = match dice.random_range(0..10) {
            0..6 => dice.random_range(2..8),
            6..9 => dice.random_range(8..40),
            _ => dice.random_range(40..150),
        };
        (0..count)
            .map(|_| dice.random_range(0..size.people))
            .collect()
    };
    (0..size.conversations).map(one).collect()
}

async fn populate(session: &Session, audiences: &[BTreeSet<usize>]) {
    let rows = audiences.iter().enumerate().map(|(number, audience)| {
        let people: Vec<String> = audience.iter().map(|number| person(*number)).collect();
        let (id, people) = (conversation(number), people.join(","));
        format!("('{id}', 'group', '{{{people}}}')")
    });
    let rows: Vec<String> = rows.collect();
    for rows in rows.chunks(100) {
        let rows = rows.join(",");
        let sql = format!("insert into conversations (id, type, participant_ids) values {rows}");
        session.run(&sql).await;
    }
}

/// As an upgrade of the server does.
async fn replace(server: &mut Server) {
    server.signal(Signal::TERM);
    let status = server.exit().await;
    assert!(status.success(), "{status:?}");
    server.spawn();
    server.ready().await;
}

async fn run(size: Size) {
    println!("{size:?}");
    allow_files(20_000);
    let mut dice = StdRng::seed_from_u64(size.seed);
    let state = tempfile::tempdir().unwrap();
    let folder = state.path().to_str().unwrap().to_owned();
    let options = AppOptions {
        schema: SCHEMA,
        environment: &[
            ("WALCAST_STATE_DIR", &folder),
            // So that memory is seen to stay what it is.
            ("WALCAST_HISTORY_BYTES_MAX", "32MiB"),
        ],
        private: Some(&[]),
    };
    let mut app = App::prepare(env!("CARGO_BIN_EXE_walcast"), &options).await;
    let audiences = audiences(&size, &mut dice);
    populate(&app.admin, &audiences).await;
    // Twice: the first server knows of no sessions, and cannot tell new ones from lost ones.
    app.server.spawn();
    app.server.ready().await;
    replace(&mut app.server).await;

    let began = Instant::now();
    let mut guests = tokio::task::JoinSet::new();
    let (arrived, mut arrivals) = tokio::sync::mpsc::channel(size.sockets);
    for number in 0..size.sockets {
        let mut guest = Guest::invite(number, &size, &audiences, &mut dice);
        let (port, arrived) = (app.server.port(), arrived.clone());
        guests.spawn(async move {
            // Not all at once: they come over a second or so per thousand.
            tokio::time::sleep(Duration::from_millis(number as u64)).await;
            guest.stay(port, arrived).await;
            guest
        });
    }
    for _ in 0..size.sockets {
        arrivals.recv().await.unwrap();
    }
    let memory_before = app.server.memory();
    println!(
        "{} sockets joined after {:.1?}",
        size.sockets,
        began.elapsed()
    );

    let began = Instant::now();
    let until = began + Duration::from_secs(size.seconds as u64);
    let pause = Duration::from_secs_f64(WRITERS as f64 / size.rate as f64);
    let mut writers = tokio::task::JoinSet::new();
    for number in 0..WRITERS {
        let seed = dice.random();
        let writer = Writer::new(number, WRITERS, size.people, &audiences, seed);
        let (session, witness) = (app.session().await, app.session().await);
        writers.spawn(writer.write(session, witness, until, pause));
    }
    let mut memory = Vec::new();
    let mut replaced = Vec::new();
    let step = Duration::from_secs_f64(size.seconds as f64 / (size.restarts + 1) as f64);
    for restart in 0..=size.restarts {
        let stretch = began + step.mul_f64((restart + 1) as f64);
        while Instant::now() < stretch {
            let rest = stretch.saturating_duration_since(Instant::now());
            tokio::time::sleep(rest.min(Duration::from_secs(5))).await;
            memory.push(app.server.memory() >> 20);
        }
        if restart < size.restarts {
            replace(&mut app.server).await;
            replaced.push(Instant::now());
            let fence = replaced.len();
            app.sql(&format!("insert into fence.line values ({fence})"))
                .await;
        }
    }
    let mut books = Vec::new();
    while let Some(writer) = writers.join_next().await {
        books.push(writer.unwrap());
    }
    let wrote = began.elapsed();
    let ledger = Ledger::new(books);
    let mut fence = END;
    let mut left = Vec::new();
    let ended = Instant::now();
    let given_up = ended + Duration::from_secs(60);
    while !guests.is_empty() && Instant::now() < given_up {
        fence += 1;
        app.sql(&format!("insert into fence.line values ({fence})"))
            .await;
        let second = tokio::time::sleep(Duration::from_secs(1));
        tokio::pin!(second);
        loop {
            tokio::select! {
                Some(guest) = guests.join_next() => left.push(guest.unwrap()),
                () = &mut second => break,
            }
            if guests.is_empty() {
                break;
            }
        }
    }
    assert!(guests.is_empty(), "{} never saw the end", guests.len());
    println!("everybody saw the end after {:.1?}", ended.elapsed());
    for (fence, replaced) in (1..).zip(&replaced) {
        let came = left.iter().flat_map(|guest| &guest.fences);
        let came = came.filter(|(number, _)| *number == fence);
        let mut came: Vec<Duration> = came.map(|(_, at)| *at - *replaced).collect();
        came.sort_unstable();
        let last = came.last().copied().unwrap_or_default();
        println!(
            "{} had all that came before a replaced server within {last:.1?}",
            came.len()
        );
    }
    judge(&size, &app, &ledger, &left, wrote, memory_before, &memory).await;
}

async fn judge(
    size: &Size,
    app: &App,
    ledger: &Ledger,
    guests: &[Guest],
    wrote: Duration,
    memory_before: u64,
    memory: &[u64],
) {
    let mut faults = Vec::new();
    let mut sum = Sum::default();
    let mut latencies = Durations::default();
    let mut told = BTreeMap::<String, usize>::new();
    for guest in guests {
        match ledger.check(guest) {
            Ok(findings) => sum.add(&findings),
            Err(fault) => faults.push(format!(
                "guest {} ({:?}): {fault}",
                guest.number, guest.return_by
            )),
        }
        // Who goes on where it was is behind at first.
        if guest.stays.len() == 1 || guest.return_by == ReturnBy::Nothing {
            for latency in ledger.latencies(guest) {
                latencies.push(latency);
            }
        }
        for text in &guest.told {
            *told.entry(text.clone()).or_default() += 1;
        }
    }
    // What everybody should have got is what Postgres shows.
    let session = app.session().await;
    let mut dice = StdRng::seed_from_u64(size.seed);
    for _ in 0..40 {
        let reader = dice.random_range(0..size.people);
        let claims = json!({"sub": person(reader), "role": "authenticated"});
        session
            .run(&format!(
                "begin; set local request.jwt.claims = '{claims}'; set local role authenticated"
            ))
            .await;
        let rows = session
            .query("select content from messages", &[])
            .await
            .unwrap();
        session.run("rollback").await;
        let shown: BTreeSet<String> = rows.iter().map(|row| row.get(0)).collect();
        assert_eq!(shown, ledger.visible_to(reader), "person {reader}");
    }
    let lives: usize = guests.iter().map(|guest| guest.stays.len()).sum();
    println!(
        "{} changes in {wrote:.1?} ({} looked at as somebody), {} sockets with {lives} connections: {sum:?}, told {told:?}",
        ledger.len(),
        ledger.witnessed(),
        guests.len(),
    );
    println!("INSERT sent to change received: {latencies}");
    println!(
        "resident MiB: {} before, then {memory:?}",
        memory_before >> 20
    );
    assert!(
        faults.is_empty(),
        "{} faults, seed {}:\n{}\n{}",
        faults.len(),
        size.seed,
        faults[..faults.len().min(10)].join("\n"),
        app.server
            .log()
            .lines()
            .rev()
            .take(20)
            .collect::<Vec<_>>()
            .join("\n"),
    );
    assert!(sum.received > 0);
    assert!(told.is_empty(), "{told:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everybody_gets_what_a_select_would_show_and_nothing_else() {
    run(Size::chosen(0)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn also_while_the_server_is_replaced() {
    run(Size::chosen(2)).await;
}
