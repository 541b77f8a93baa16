//! Promise 4: one bad thing hurts one thing.

use std::time::{Duration, Instant};

use serde_json::json;
use walcast::testing::{
    App, AppOptions, PUBLISHABLE_KEY, Received, Socket, Subscriber, Version, eventually,
    join_payload, user,
};

use crate::world::{
    ALICE, BOB, CAROL, SCHEMA, TALK, all, brief, contents, say, start, start_with, subscribe,
};

/// A policy under which those whose id begins with 5 raise, those with 6 sleep ten seconds, and everybody else sees all.
const MOODY: &str = "
    create table moody (id int primary key, body text);
    create function moody_check() returns boolean language plpgsql stable as $$
    begin
      if auth.uid()::text like '5%' then raise exception 'no' using errcode = 'P0042'; end if;
      if auth.uid()::text like '6%' then perform pg_sleep(10); end if;
      return true;
    end $$;
    alter table moody enable row level security;
    create policy \"moody\" on moody for select using (moody_check());
    grant select on moody to authenticated;
    alter publication supabase_realtime add table moody;
";

fn raising(n: u32) -> String {
    format!("50000000-0000-4000-8000-{n:012}")
}

fn sleeping(n: u32) -> String {
    format!("60000000-0000-4000-8000-{n:012}")
}

#[tokio::test]
async fn a_policy_that_raises_hurts_its_subscriber_and_is_told() {
    let app = start_with(MOODY).await;
    let mut poor = app
        .subscribe(&user(&raising(1)), json!([all("moody"), all("notes")]))
        .await;
    let mut alice = subscribe(&app, ALICE, "moody").await;
    app.sql("insert into moody values (1, 'one')").await;
    app.sql("insert into notes values (1, 'one', 1)").await;
    assert_eq!(brief(&[alice.change().await]), ["INSERT 1"]);
    let told = poor.system().await;
    assert_eq!(told["extension"], "postgres_changes");
    assert_eq!(told["status"], "error");
    assert_eq!(told["message"], "Row-level security check failed (P0042)");
    assert_eq!(told["channel"], "room");
    let changes = app.settled(&mut poor).await;
    assert_eq!(changes.len(), 1, "the other table goes on");
    assert_eq!(changes[0].data["table"], "notes");
    // Told once until it recovers.
    app.sql("insert into moody values (2, 'two')").await;
    assert_eq!(app.settled(&mut poor).await, []);
    assert!(
        poor.told.iter().all(|frame| frame.event != "system"),
        "{:#?}",
        poor.told
    );
    // It recovers.
    app.sql("create or replace function moody_check() returns boolean language sql stable as 'select true'").await;
    app.sql("insert into moody values (3, 'three')").await;
    assert_eq!(brief(&[poor.change().await]), ["INSERT 3"]);
}

#[tokio::test]
async fn a_subject_that_is_no_uuid_hurts_its_subscriber_alone() {
    let app = start().await;
    let mut odd = subscribe(&app, "no-uuid", "messages").await;
    let mut alice = subscribe(&app, ALICE, "messages").await;
    app.sql(&say(TALK, "hello")).await;
    assert_eq!(contents(&[alice.change().await]), ["hello"]);
    assert_eq!(
        odd.system().await["message"],
        "Row-level security check failed (22P02)"
    );
    assert_eq!(app.settled(&mut odd).await, []);
}

#[tokio::test]
async fn a_thousand_identities_whose_policy_sleeps_delay_nobody_else() {
    // Open transactions of sleepers would hold up the slots of other tests.
    let options = AppOptions {
        schema: &format!("{SCHEMA}{MOODY}"),
        environment: &[],
        private: Some(&[]),
    };
    let app = App::start_with(env!("CARGO_BIN_EXE_walcast"), &options).await;
    let mut sockets = Vec::new();
    for batch in 0..10 {
        let mut socket = Socket::connect(app.server.port(), PUBLISHABLE_KEY, Version::V2).await;
        for n in 0..100 {
            let reference = socket.next_reference();
            let payload = join_payload(&all("moody"), Some(&user(&sleeping(batch * 100 + n))));
            let topic = format!("realtime:{n}");
            socket
                .send(Some(&reference), &reference, &topic, "phx_join", &payload)
                .await;
        }
        for _ in 0..100 {
            let reply = socket.find(|frame| frame.event == "phx_reply").await;
            assert_eq!(reply.payload["status"], "ok", "{}", reply.raw);
        }
        sockets.push(socket);
    }
    let mut alice = subscribe(&app, ALICE, "moody").await;
    let mut bob = subscribe(&app, BOB, "notes").await;
    for n in 1..=20 {
        let started = Instant::now();
        app.sql(&format!(
            "insert into moody values ({n}, 'x'); insert into notes values ({n}, 'x', 1)"
        ))
        .await;
        assert_eq!(brief(&[alice.change().await]), [format!("INSERT {n}")]);
        assert_eq!(brief(&[bob.change().await]), [format!("INSERT {n}")]);
        // A wait behind a sleeper would cost ten seconds.
        assert!(
            started.elapsed() < Duration::from_secs(8),
            "{:?}",
            started.elapsed()
        );
    }
}

#[tokio::test]
async fn a_locked_table_holds_up_its_own_subscribers_only() {
    let app = start_with(
        "create table guarded (id int primary key);
         create table gate (who uuid primary key);
         insert into gate values ('a0000000-0000-4000-8000-000000000001');
         alter table guarded enable row level security;
         create policy \"through the gate\" on guarded for select
           using (exists (select from gate where who = auth.uid()));
         grant select on guarded, gate to authenticated;
         alter publication supabase_realtime add table guarded;",
    )
    .await;
    let mut alice = subscribe(&app, ALICE, "guarded").await;
    let mut crowd = Vec::new();
    for n in 0..20 {
        crowd.push(subscribe(&app, &raising(n), "guarded").await);
    }
    let mut bob = subscribe(&app, BOB, "messages").await;
    let admin = app.session().await;
    admin
        .run("begin; lock table gate in access exclusive mode")
        .await;
    app.sql("insert into guarded values (1)").await;
    for _ in 0..10 {
        app.sql(&say(TALK, "not held up")).await;
        assert_eq!(contents(&[bob.change().await]), ["not held up"]);
    }
    // Longer than any statement of a question may take: to wait for a lock is not to be slow.
    app.sql("select pg_sleep(3)").await;
    admin.run("rollback").await;
    assert_eq!(brief(&[alice.change().await]), ["INSERT 1"]);
    for outsider in &mut crowd {
        assert_eq!(app.settled(outsider).await, []);
    }
}

#[tokio::test]
async fn who_never_reads_delays_nobody_and_is_closed_in_the_end() {
    let options = AppOptions {
        schema: SCHEMA,
        environment: &[("WALCAST_SLOW_CONSUMER_TIMEOUT", "2s")],
        private: None,
    };
    let app = App::start_with(env!("CARGO_BIN_EXE_walcast"), &options).await;
    let mut stalled = subscribe(&app, CAROL, "notes").await;
    let mut alice = subscribe(&app, ALICE, "notes").await;
    // Far more than socket buffers hold.
    const ROUNDS: usize = 60;
    for n in 0..ROUNDS {
        app.sql(&format!(
            "insert into notes select {n} * 1000 + i, repeat('x', 1000), i from generate_series(1, 1000) as i"
        ))
        .await;
        let changes = alice.changes(1000).await;
        assert!(changes.last().unwrap().last);
    }
    assert!(
        app.server.peak_memory() < 300 * 1024 * 1024,
        "a stalled socket costs its cursor"
    );
    eventually("the server to give the stalled socket up", || async {
        let metrics = app.server.get("/metrics").await?.body;
        let connected = metrics
            .lines()
            .find(|line| line.starts_with("realtime_connections_connected"))?;
        connected.ends_with(" 1").then_some(())
    })
    .await;
    let mut received = 0;
    let code = loop {
        match stalled.socket.receive().await {
            Received::Frame(_) => received += 1,
            Received::Closed(code, _reason) => break code,
        }
    };
    assert!(received < ROUNDS * 1000);
    // The close frame may not fit behind what was never read.
    assert!(matches!(code, Some(1013) | None), "{code:?}");
}

#[tokio::test]
async fn a_slow_reader_gets_everything_at_its_own_pace() {
    let app = start().await;
    let mut slow = subscribe(&app, CAROL, "notes").await;
    let mut fast = subscribe(&app, ALICE, "notes").await;
    app.sql("insert into notes select i, repeat('x', 1000), i from generate_series(1, 20000) as i")
        .await;
    assert_eq!(fast.changes(20000).await.len(), 20000);
    for expected in 1..=20000 {
        assert_eq!(slow.change().await.record()["id"], expected);
    }
}

#[tokio::test]
async fn a_transaction_of_foreign_tables_or_a_bad_socket_disturbs_nobody() {
    let app = start_with("create table unpublished (id int, body text);").await;
    let mut alice = subscribe(&app, ALICE, "notes").await;
    app.sql(
        "insert into unpublished select n, repeat('x', 100) from generate_series(1, 50000) as n",
    )
    .await;
    for _ in 0..20 {
        let mut socket = Socket::connect(app.server.port(), PUBLISHABLE_KEY, Version::V2).await;
        socket
            .send_text("[\"1\",\"1\",\"realtime:x\",\"phx_join\"")
            .await;
        drop(socket);
    }
    app.sql("insert into notes values (1, 'one', 1)").await;
    assert_eq!(brief(&[alice.change().await]), ["INSERT 1"]);
}

#[tokio::test]
async fn an_open_question_of_one_identity_keeps_its_order() {
    // Alternating tables with and without row security: the second kind needs no question, but must not overtake.
    let app = start().await;
    let mut alice: Subscriber = app
        .subscribe(&user(ALICE), json!([all("messages"), all("notes")]))
        .await;
    for n in 1..=50 {
        app.sql(&say(TALK, &n.to_string())).await;
        app.sql(&format!("insert into notes values ({n}, 'note', {n})"))
            .await;
    }
    let changes = app.settled(&mut alice).await;
    let order: Vec<String> = changes
        .iter()
        .map(|change| {
            let number = if change.data["table"] == "notes" {
                &change.record()["id"]
            } else {
                &change.record()["content"]
            };
            format!(
                "{} {}",
                change.data["table"].as_str().unwrap(),
                number.to_string().trim_matches('"')
            )
        })
        .collect();
    let expected: Vec<String> = (1..=50)
        .flat_map(|n| [format!("messages {n}"), format!("notes {n}")])
        .collect();
    assert_eq!(order, expected);
}
