//! What troubled subscribers cost a healthy one: its latencies at 100 inserts a second without them and with them (one
//! whose policy raises, a thousand whose policy sleeps ten seconds, one that never reads its socket), in turns.
//!
//! Target: p99 with them at most 1.5 times the p99 without.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a benchmark prints and looks at the clock"
)]

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use walcast::testing::{
    App, AppOptions, Durations, PUBLISHABLE_KEY, Socket, Subscriber, Version, join_payload, user,
};

const HEALTHY: &str = "a0000000-0000-4000-8000-000000000001";
const SLEEPERS: u32 = 1000;
const CHANNELS_PER_SOCKET: u32 = 100;
const ROUNDS: usize = 4;
const INSERTS_PER_ROUND: usize = 500;

const SCHEMA: &str = "
    create table moody (id bigint generated always as identity primary key, body text);
    create function moody_check() returns boolean language plpgsql stable as $$
    begin
      if auth.uid()::text like '5%' then raise exception 'no'; end if;
      if auth.uid()::text like '6%' then perform pg_sleep(10); end if;
      return true;
    end $$;
    alter table moody enable row level security;
    create policy \"moody\" on moody for select using (moody_check());
    grant select on moody to authenticated;
    alter publication supabase_realtime add table moody;
";

fn bindings() -> Value {
    json!({"event": "INSERT", "schema": "public", "table": "moody"})
}

#[tokio::main]
async fn main() {
    let options = AppOptions {
        schema: SCHEMA,
        environment: &[],
        private: Some(&[]),
    };
    let app = App::start_with(env!("CARGO_BIN_EXE_walcast"), &options).await;
    let mut healthy = app.subscribe(&user(HEALTHY), bindings()).await;
    measure(&app, &mut healthy, 100).await;
    let mut without = Durations::default();
    let mut with = Durations::default();
    println!(
        "isolation: a healthy subscriber at 100 inserts/s, {ROUNDS} rounds of {INSERTS_PER_ROUND} inserts each way"
    );
    for round in 0..ROUNDS {
        let calm = measure(&app, &mut healthy, INSERTS_PER_ROUND).await;
        let troubled = Troubled::join(&app).await;
        let hurt = measure(&app, &mut healthy, INSERTS_PER_ROUND).await;
        drop(troubled);
        println!("  round {round}: without {calm}");
        println!("           with    {hurt}");
        without.append(calm);
        with.append(hurt);
        // Questions of the sleepers may still be running; they belong to the other side.
        tokio::time::sleep(Duration::from_secs(11)).await;
    }
    println!("  without  {without}");
    println!("  with     {with}");
    let times = with.percentile(99).as_secs_f64() / without.percentile(99).as_secs_f64();
    println!("  p99 {times:.2} x (target 1.50)");
}

struct Troubled {
    _raising: Subscriber,
    /// Joined and never read again.
    _stalled: Subscriber,
    _sleeping: Vec<Socket>,
}

impl Troubled {
    async fn join(app: &App) -> Self {
        let mut sleeping = Vec::new();
        for first in (0..SLEEPERS).step_by(CHANNELS_PER_SOCKET as usize) {
            let mut socket = Socket::connect(app.server.port(), PUBLISHABLE_KEY, Version::V2).await;
            for n in first..first + CHANNELS_PER_SOCKET {
                let reference = socket.next_reference();
                let token = user(&format!("60000000-0000-4000-8000-{n:012}"));
                let payload = join_payload(&bindings(), Some(&token));
                socket
                    .send(
                        Some(&reference),
                        &reference,
                        &format!("realtime:{n}"),
                        "phx_join",
                        &payload,
                    )
                    .await;
            }
            for _ in 0..CHANNELS_PER_SOCKET {
                let reply = socket.find(|frame| frame.event == "phx_reply").await;
                assert_eq!(reply.payload["status"], "ok", "{}", reply.raw);
            }
            sleeping.push(socket);
        }
        Self {
            _raising: app
                .subscribe(&user("50000000-0000-4000-8000-000000000001"), bindings())
                .await,
            _stalled: app
                .subscribe(&user("a0000000-0000-4000-8000-000000000002"), bindings())
                .await,
            _sleeping: sleeping,
        }
    }
}

async fn measure(app: &App, healthy: &mut Subscriber, inserts: usize) -> Durations {
    let mut durations = Durations::default();
    // A socket without a sign of life is closed as idle.
    let reference = healthy.socket.next_reference();
    (healthy.socket)
        .send(None, &reference, "phoenix", "heartbeat", &json!({}))
        .await;
    let mut tick = tokio::time::interval(Duration::from_millis(10));
    for _ in 0..inserts {
        tick.tick().await;
        let sent = Instant::now();
        app.sql("insert into moody (body) values (repeat('x', 200))")
            .await;
        healthy.change().await;
        durations.push(sent.elapsed());
    }
    durations
}
