//! From the INSERT to the client at 100 inserts a second: walcast, without and with a policy to ask, against a trigger
//! that sends NOTIFY to a bare client. The three take turns, so that they meet the same machine.
//!
//! A time runs from sending the INSERT until the client has the change. Target for the table with a policy: p50 at most
//! 2 ms over the peer, p99 at most 3 times the peer's.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a benchmark prints and looks at the clock"
)]

use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use serde_json::json;
use tokio::task::JoinSet;
use tokio_postgres::{AsyncMessage, NoTls};
use walcast::testing::{App, AppOptions, Durations, Subscriber, user};

const ALICE: &str = "a0000000-0000-4000-8000-000000000001";
const PERIOD: Duration = Duration::from_millis(10);
const SECONDS: u64 = 10;

#[tokio::main]
async fn main() {
    let schema = format!(
        "insert into conversations (id, type, participant_ids) values ('f0000000-0000-4000-8000-00000000000a', 'x', '{{{ALICE}}}');
         create table notes (id int primary key, body text);
         grant select on notes to authenticated;
         alter publication supabase_realtime add table notes;
         create table peer (id int primary key, body text);
         create function tell() returns trigger language plpgsql as
           $$ begin perform pg_notify('peer', new.id::text); return null; end $$;
         create trigger tell after insert on peer for each row execute function tell();"
    );
    let options = AppOptions {
        schema: &schema,
        environment: &[],
        private: Some(&[]),
    };
    let app = App::start_with(env!("CARGO_BIN_EXE_walcast"), &options).await;
    let on = |table: &str| json!({"event": "INSERT", "schema": "public", "table": table});
    let notes = app.subscribe(&user(ALICE), on("notes")).await;
    let messages = app.subscribe(&user(ALICE), on("messages")).await;

    let (listener, mut connection) =
        tokio_postgres::connect(&app.cluster().url(&app.database), NoTls)
            .await
            .unwrap();
    let (told, mut notified) = tokio::sync::mpsc::channel(1000);
    tokio::spawn(async move {
        let mut messages = stream::poll_fn(move |context| connection.poll_message(context));
        while let Some(Ok(message)) = messages.next().await {
            if let AsyncMessage::Notification(_) = message {
                told.send(Instant::now()).await.unwrap();
            }
        }
    });
    listener.batch_execute("listen peer").await.unwrap();

    let mut readers = JoinSet::new();
    let mut arrivals = |mut subscriber: Subscriber| {
        let (sender, receiver) = tokio::sync::mpsc::channel(1000);
        readers.spawn(async move {
            loop {
                subscriber.change().await;
                if sender.send(Instant::now()).await.is_err() {
                    return;
                }
            }
        });
        receiver
    };
    let mut open = arrivals(notes);
    let mut asked = arrivals(messages);

    let session = app.session().await;
    let mut of_peer = Durations::default();
    let mut of_open = Durations::default();
    let mut of_asked = Durations::default();
    let mut tick = tokio::time::interval(PERIOD / 3);
    for n in 0..SECONDS * 100 {
        let turns = [
            (
                format!("insert into peer values ({n}, 'x')"),
                &mut notified,
                &mut of_peer,
            ),
            (
                format!("insert into notes values ({n}, 'x')"),
                &mut open,
                &mut of_open,
            ),
            (
                format!(
                    "insert into messages (conversation_id, sender_id, sender_type, content)
                     values ('f0000000-0000-4000-8000-00000000000a', '{ALICE}', 'user', '{n}')"
                ),
                &mut asked,
                &mut of_asked,
            ),
        ];
        for (sql, arrival, times) in turns {
            tick.tick().await;
            let sent = Instant::now();
            session.batch_execute(&sql).await.unwrap();
            times.push(arrival.recv().await.unwrap().duration_since(sent));
        }
    }
    // Before the server ends, which they would take for a failure.
    readers.shutdown().await;
    println!("latency: INSERT sent to change received, 100 inserts/s of each kind for {SECONDS} s");
    println!("  NOTIFY to a bare client   {of_peer}");
    println!("  walcast, no policy        {of_open}");
    println!("  walcast, policy asked     {of_asked}");
    let over =
        of_asked.percentile(50).as_secs_f64() * 1e3 - of_peer.percentile(50).as_secs_f64() * 1e3;
    let times = of_asked.percentile(99).as_secs_f64() / of_peer.percentile(99).as_secs_f64();
    println!(
        "  p50 {over:+.2} ms over the peer (target +2.00), p99 {times:.1} x the peer (target 3.0)"
    );
}
