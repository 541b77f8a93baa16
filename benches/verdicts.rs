//! What a change costs by its audience and by its bystanders: processor time of release, verdicts, routing and settling
//! for writes to one conversation of ten people who are all connected, among more and more people who are not in it.
//! In one process and one thread, with the policies of policies/messaging.sql and the tables that they look into read from
//! a real Postgres; replication and sockets are left out. The peer asks Postgres for every verdict.
//!
//! Targets: processor time at 10,000 subscribers at most 2 times that at 10; 20,000 changes a second; a million verdicts
//! a second, counted as changes times identities; 150 bytes of memory for each membership.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::as_conversions,
    clippy::cast_precision_loss,
    reason = "a benchmark prints and looks at the clock"
)]

use std::time::{Duration, Instant};

use walcast::database::Database;
use walcast::pipeline::stand::Stand;
use walcast::testing::{App, AppOptions};

const CONVERSATIONS: usize = 1000;
const PARTICIPANTS: usize = 10;
const SUBSCRIBERS: [usize; 4] = [10, 100, 1000, 10_000];
/// Subscribers for whom Postgres is asked.
const ASKED: usize = 100;
const CHANGES: usize = 10_000;
const CHANGES_ASKED: usize = 200;
/// Transactions that one snapshot releases.
const BATCH: usize = 50;
const CONVERSATIONS_LARGE: usize = 100_000;

const BINDING: &str = r#"{"event":"*","schema":"public","table":"messages"}"#;

/// Conversation `n` has the people `10 n` to `10 n + 9`; of the 20,000 people half are in none.
fn conversations(count: usize) -> String {
    format!(
        "insert into public.conversations (id, type, participant_ids)
         select ('00000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid, 'group',
           (select array_agg(('a0000000-0000-4000-8000-' || lpad((n * {PARTICIPANTS} + m)::text, 12, '0'))::uuid)
            from generate_series(0, {PARTICIPANTS} - 1) m)
         from generate_series(0, {count} - 1) n"
    )
}

/// The same memberships as rows of a table.
const MEMBERS: &str = "
    create table public.members (conversation_id uuid, user_id uuid, primary key (conversation_id, user_id));
    alter table public.members enable row level security;
    create policy \"own\" on public.members using (user_id = auth.uid());
    create table public.posts (id int primary key, conversation_id uuid);
    alter table public.posts enable row level security;
    create policy \"members\" on public.posts using (exists (
      select from public.members m where m.conversation_id = posts.conversation_id and m.user_id = auth.uid()));
    grant select on public.members, public.posts to authenticated;
    alter publication supabase_realtime add table public.members, public.posts;
    insert into public.members select id, unnest(participant_ids) from public.conversations";

fn person(number: usize) -> String {
    format!(r#"{{"sub":"a0000000-0000-4000-8000-{number:012}","role":"authenticated"}}"#)
}

fn message(number: usize) -> [String; 3] {
    [
        format!("e0000000-0000-4000-8000-{number:012}"),
        "00000000-0000-4000-8000-000000000000".to_owned(),
        "a0000000-0000-4000-8000-000000000000".to_owned(),
    ]
}

fn columns(message: &[String; 3]) -> Vec<Option<&str>> {
    let [id, conversation, sender] = message;
    let time = Some("2026-01-01 00:00:00+00");
    let text = "What is written in a message of ordinary length, perhaps.";
    vec![
        Some(id),
        Some(conversation),
        Some(sender),
        Some("user"),
        Some(text),
        Some("text"),
        Some("f"),
        time,
    ]
}

/// Processor time of this thread.
fn processor_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    let nanos = text.split_whitespace().next().unwrap();
    Duration::from_nanos(nanos.parse().unwrap())
}

async fn subscribed(database: &Database, compile: bool, people: usize) -> Stand {
    let mut stand = Stand::open(database, compile).await;
    for number in 0..people {
        let claims = person(number);
        stand
            .subscribe(number as u64, "authenticated", &claims, BINDING, false)
            .await;
    }
    (0..people).for_each(|number| drop(stand.read(number as u64)));
    stand
}

/// Takes what the recipients were sent; the bystanders have nothing.
fn read(stand: &mut Stand) -> u64 {
    let recipients = 0..PARTICIPANTS as u64;
    recipients
        .map(|number| u64::from(stand.read(number).0))
        .sum()
}

/// Commits and releases the changes; returns processor time and how many frames came out.
fn write(stand: &mut Stand, first: usize, changes: usize) -> (Duration, u64) {
    let messages: Vec<[String; 3]> = (first..first + changes).map(message).collect();
    let mut frames = 0;
    let before = processor_time();
    for batch in messages.chunks(BATCH) {
        for message in batch {
            stand.insert("messages", &[columns(message)]);
        }
        stand.release();
        frames += read(stand);
    }
    (processor_time() - before, frames)
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let options = AppOptions {
        schema: &conversations(CONVERSATIONS),
        environment: &[],
        private: Some(&[]),
    };
    let app = App::prepare(env!("CARGO_BIN_EXE_walcast"), &options).await;
    let database = Database::parse(&app.cluster().url(app.slot())).unwrap();
    println!(
        "verdicts: {CHANGES} messages to one of {CONVERSATIONS} conversations, its {PARTICIPANTS} people connected, {BATCH} transactions a snapshot"
    );
    let mut first = None;
    let mut last = (0.0, 0.0);
    for people in SUBSCRIBERS {
        let mut stand = subscribed(&database, true, people).await;
        let _warm = write(&mut stand, 0, CHANGES / 10);
        let before = stand.counted();
        let (time, frames) = write(&mut stand, CHANGES, CHANGES);
        let after = stand.counted();
        assert_eq!(frames, (CHANGES * PARTICIPANTS) as u64);
        assert_eq!(after.asked, before.asked);
        let micros = time.as_secs_f64() * 1e6 / CHANGES as f64;
        let rate = CHANGES as f64 / time.as_secs_f64();
        let judged = after.compiled.allowed + after.compiled.denied
            - before.compiled.allowed
            - before.compiled.denied;
        println!(
            "  {people:>6} subscribers: {micros:6.1} us a change, {rate:8.0} changes/s, {:.1} identities judged and {:.0} passed over a change, {:.2} million verdicts/s",
            judged as f64 / CHANGES as f64,
            (after.audience.denied - before.audience.denied) as f64 / CHANGES as f64,
            rate * people as f64 / 1e6,
        );
        first.get_or_insert(micros);
        last = (micros, rate);
    }
    let people = SUBSCRIBERS[SUBSCRIBERS.len() - 1];
    println!(
        "  {people} subscribers cost {:.2} x what {} cost (target 2.00); {:.0} changes/s (target 20000); {:.2} million verdicts/s (target 1.00)",
        last.0 / first.unwrap(),
        SUBSCRIBERS[0],
        last.1,
        last.1 * people as f64 / 1e6,
    );
    Box::pin(peer(&app, &database)).await;
    memory(&app, &database).await;
}

/// The same for some subscribers with every verdict asked of Postgres; the time that passes, since the work is Postgres'.
async fn peer(app: &App, database: &Database) {
    let mut stand = subscribed(database, false, ASKED).await;
    let messages: Vec<[String; 3]> = (0..CHANGES_ASKED).map(message).collect();
    let mut time = Duration::ZERO;
    for batch in messages.chunks(BATCH) {
        for message in batch {
            let [id, conversation, sender] = message;
            app.sql(&format!(
                "insert into public.messages (id, conversation_id, sender_id, sender_type, content, created_at)
                 values ('{id}', '{conversation}', '{sender}', 'user',
                   'What is written in a message of ordinary length, perhaps.', '2026-01-01 00:00:00+00')"
            ))
            .await;
        }
        let started = Instant::now();
        for message in batch {
            stand.insert("messages", &[columns(message)]);
        }
        stand.settle().await;
        time += started.elapsed();
    }
    assert_eq!(read(&mut stand), (CHANGES_ASKED * PARTICIPANTS) as u64);
    let rate = CHANGES_ASKED as f64 / time.as_secs_f64();
    println!(
        "  asking Postgres, {ASKED} subscribers, one connection: {:.0} us a change, {rate:.0} changes/s, {:.4} million verdicts/s",
        1e6 / rate,
        rate * ASKED as f64 / 1e6,
    );
}

async fn memory(app: &App, database: &Database) {
    app.sql("truncate public.messages, public.conversations")
        .await;
    app.sql(&conversations(CONVERSATIONS_LARGE)).await;
    app.sql(MEMBERS).await;
    let memberships = (CONVERSATIONS_LARGE * PARTICIPANTS) as f64;
    let posts = BINDING.replace("messages", "posts");
    for (binding, kept) in [(BINDING, "as arrays"), (&posts, "as rows")] {
        if binding != BINDING {
            // Policies of private topics look into them, whoever is subscribed.
            app.sql("truncate public.messages, public.conversations")
                .await;
        }
        let mut stand = Stand::open(database, true).await;
        stand
            .subscribe(0, "authenticated", &person(0), binding, false)
            .await;
        let shadow = stand.counted().shadow;
        assert_eq!(shadow.tables, shadow.trusted);
        println!(
            "  {CONVERSATIONS_LARGE} conversations, memberships {kept}: {} rows, {:.1} MB, {:.0} bytes a membership (target 150)",
            shadow.rows,
            shadow.bytes as f64 / 1e6,
            shadow.bytes as f64 / memberships,
        );
    }
}
