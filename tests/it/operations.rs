//! Faults and operation: restarts, lost slots, missing publications, huge transactions, kills, checks.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use walcast::testing::{
    App, AppOptions, PUBLISHABLE_KEY, Received, Server, Session, Socket, Subscriber, Version,
    eventually, join_payload, user,
};

use crate::world::{
    ALICE, CAROL, SCHEMA, TALK, all, brief, contents, say, start, start_with_environment, subscribe,
};

const BINARY: &str = env!("CARGO_BIN_EXE_walcast");

/// An app on a cluster of its own.
async fn start_private(settings: &[&str]) -> App {
    App::start_with(
        BINARY,
        &AppOptions {
            schema: SCHEMA,
            environment: &[],
            private: Some(settings),
        },
    )
    .await
}

/// A writer that inserts into `notes` one row after the other, through failures: ids 1, 2, 3, … Returns the ids whose
/// commit was confirmed.
fn write_through_failures(url: String, rows: i64) -> tokio::task::JoinHandle<Vec<i64>> {
    tokio::spawn(async move {
        let mut session: Option<Session> = None;
        let mut confirmed = Vec::new();
        for id in 1..=rows {
            let sql =
                format!("insert into notes values ({id}, 'load', {id}) on conflict do nothing");
            loop {
                if session.is_none() {
                    session = Session::try_connect(&url).await.ok();
                }
                let done = match &session {
                    Some(open) => open.batch_execute(&sql).await.is_ok(),
                    None => false,
                };
                if done {
                    confirmed.push(id);
                    break;
                }
                session = None;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        confirmed
    })
}

/// Reads one channel to the fence, joining again whenever it is told to start over. Gives how often each id came between
/// two joins, and how many joins it took.
struct Reader {
    subscriber: Subscriber,
    joins: u32,
}

impl Reader {
    /// Ids that arrived, in order, until the fence; a `phx_error` ends the stretch and starts another.
    async fn until(&mut self, port: u16, fence: i64) -> Vec<Vec<i64>> {
        let mut stretches = vec![Vec::new()];
        loop {
            let frame = match self.subscriber.socket.receive().await {
                Received::Frame(frame) => frame,
                Received::Closed(code, reason) => panic!("closed with {code:?} {reason}"),
            };
            if frame.event == "phx_error" {
                self.subscriber = Subscriber::join(port, Some(&user(ALICE)), &all("notes")).await;
                self.joins += 1;
                stretches.push(Vec::new());
            } else if frame.event == "postgres_changes" {
                let data = &frame.payload["data"];
                if data["schema"] == "fence" {
                    if data["record"]["n"] == fence {
                        return stretches;
                    }
                } else if data["type"] == "INSERT" {
                    stretches
                        .last_mut()
                        .unwrap()
                        .push(data["record"]["id"].as_i64().unwrap());
                }
            }
        }
    }
}

#[track_caller]
fn assert_in_order_without_repetition(stretches: &[Vec<i64>]) {
    let mut previous = 0;
    for &id in stretches.iter().flatten() {
        assert!(id > previous, "{id} after {previous}");
        previous = id;
    }
}

#[tokio::test]
async fn a_restart_of_postgres_under_load_loses_and_repeats_nothing() {
    for signal in [Signal::INT, Signal::QUIT] {
        let app = start_private(&[]).await;
        let port = app.server.port();
        let mut reader = Reader {
            subscriber: subscribe(&app, ALICE, "notes").await,
            joins: 1,
        };
        let writing = write_through_failures(app.cluster().url(&app.database), 600);
        reader.subscriber.change().await;
        app.cluster().stop(signal);
        app.cluster().resume();
        let confirmed = writing.await.unwrap();
        let session = app.session().await;
        session.run("insert into fence.line values (1000)").await;
        let stretches = reader.until(port, 1000).await;
        assert_in_order_without_repetition(&stretches);
        assert_eq!(
            reader.joins, 1,
            "nothing was lost, so nobody has to start over"
        );
        let got: Vec<i64> = stretches.concat();
        // The first was taken above. A row whose confirmation was lost in the crash may have been written all the same.
        assert_eq!(got, confirmed[1..], "{signal:?}");
    }
}

#[tokio::test]
async fn a_killed_walsender_is_replaced_and_nothing_is_lost() {
    let app = start().await;
    let mut alice = subscribe(&app, ALICE, "notes").await;
    let writing = write_through_failures(app.cluster().url(&app.database), 500);
    for _ in 0..5 {
        alice.change().await;
        let slot = app.slot();
        eventually("the walsender", || async {
            let killed = format!("select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = '{slot}' and active");
            app.admin.text(&killed).await
        })
        .await;
    }
    writing.await.unwrap();
    let changes = app.settled(&mut alice).await;
    let ids: Vec<i64> = changes
        .iter()
        .map(|change| change.record()["id"].as_i64().unwrap())
        .collect();
    assert_eq!(ids, (6..=500).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_dropped_slot_is_recreated_and_everybody_starts_over() {
    let app = start().await;
    let mut alice = subscribe(&app, ALICE, "notes").await;
    app.sql("insert into notes values (1, 'before', 1)").await;
    assert_eq!(brief(&[alice.change().await]), ["INSERT 1"]);
    drop_slot(&app).await;
    assert!(
        !alice.closed().await,
        "phx_error, so that stock clients join again"
    );
    let told = alice.told.iter().map(|frame| {
        frame.payload["message"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    });
    let told: Vec<String> = told.collect();
    assert_eq!(told, ["Resync required: replication slot was recreated"]);
    let mut again = subscribe(&app, ALICE, "notes").await;
    app.sql("insert into notes values (2, 'after', 2)").await;
    assert_eq!(brief(&[again.change().await]), ["INSERT 2"]);
}

async fn drop_slot(app: &App) {
    let slot = app.slot().to_owned();
    eventually("the slot to be dropped", || async {
        app.admin
            .batch_execute(&format!(
                "select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = '{slot}' and active;
                 select pg_drop_replication_slot('{slot}')"
            ))
            .await
            .ok()
    })
    .await;
}

#[tokio::test]
async fn a_publication_dropped_and_recreated_under_writes_heals() {
    let app = start().await;
    let mut alice = subscribe(&app, ALICE, "notes").await;
    app.sql("insert into notes values (1, 'before', 1)").await;
    assert_eq!(brief(&[alice.change().await]), ["INSERT 1"]);
    app.sql("drop publication supabase_realtime").await;
    app.sql("insert into notes values (2, 'unpublished', 2)")
        .await;
    app.sql(
        "create publication supabase_realtime for table messages, conversations, notes, fence.line",
    )
    .await;
    app.sql("insert into notes values (3, 'after', 3)").await;
    // Either nothing was lost to this channel, or it is told to start over; but it is never left silent.
    let healed = loop {
        match alice.socket.receive().await {
            Received::Frame(frame) if frame.event == "phx_error" => break false,
            Received::Frame(frame) if frame.payload["data"]["record"]["id"] == 3 => break true,
            Received::Frame(_) => {}
            Received::Closed(code, reason) => panic!("{code:?} {reason}"),
        }
    };
    if !healed {
        alice = subscribe(&app, ALICE, "notes").await;
    }
    app.sql("insert into notes values (4, 'later', 4)").await;
    assert!(brief(&app.settled(&mut alice).await).contains(&"INSERT 4".to_owned()));
}

#[tokio::test]
async fn a_transaction_of_a_million_rows_fits_in_little_memory() {
    const ROWS: u64 = 1_000_000;
    const MEMORY_MAX: u64 = 200 * 1024 * 1024;
    // Small, so that the transaction is streamed while it runs.
    let options = AppOptions {
        schema: SCHEMA,
        // The past has a limit of its own.
        environment: &[("WALCAST_HISTORY_BYTES_MAX", "32MiB")],
        private: Some(&["logical_decoding_work_mem=4MB"]),
    };
    let app = App::start_with(BINARY, &options).await;
    let mut alice = subscribe(&app, ALICE, "notes").await;
    let started = Instant::now();
    let writer = app.session().await;
    let writing = tokio::spawn(async move {
        writer.run(&format!("insert into notes select n, 'a row like many others, ' || n, n from generate_series(1, {ROWS}) as n"))
            .await;
    });
    for expected in 1..=ROWS {
        let change = alice.change().await;
        assert_eq!(change.record()["id"].as_u64(), Some(expected));
        assert_eq!(change.last, expected == ROWS);
    }
    writing.await.unwrap();
    let peak = app.server.peak_memory();
    println!(
        "1M rows in {:.1?}; walcast's peak memory {} MiB",
        started.elapsed(),
        peak / 1024 / 1024
    );
    assert!(peak < MEMORY_MAX, "{} MiB", peak / 1024 / 1024);
}

#[tokio::test]
async fn a_killed_server_is_back_in_seconds_and_replays_nothing() {
    let mut app = start().await;
    let mut alice = subscribe(&app, ALICE, "notes").await;
    app.sql("insert into notes values (1, 'delivered', 1)")
        .await;
    assert_eq!(brief(&[alice.change().await]), ["INSERT 1"]);
    app.server.kill().await;
    app.sql("insert into notes values (2, 'nobody is joined', 2)")
        .await;
    let started = Instant::now();
    app.server.spawn();
    app.server.ready().await;
    assert!(
        started.elapsed() < Duration::from_secs(15),
        "{:?}",
        started.elapsed()
    );
    let mut alice = subscribe(&app, ALICE, "notes").await;
    app.sql("insert into notes values (3, 'after', 3)").await;
    assert_eq!(brief(&app.settled(&mut alice).await), ["INSERT 3"]);
}

#[tokio::test]
async fn a_server_killed_under_load_repeats_nothing_to_anyone() {
    let mut app = start().await;
    let writing = write_through_failures(app.cluster().url(&app.database), 10_000);
    let mut seen = BTreeMap::<i64, u32>::new();
    for _round in 0..3 {
        let mut alice = subscribe(&app, ALICE, "notes").await;
        for change in alice.changes(30).await {
            *seen
                .entry(change.record()["id"].as_i64().unwrap())
                .or_default() += 1;
        }
        app.server.kill().await;
        // What was sent before the kill still counts as received.
        while let Received::Frame(frame) = alice.socket.receive().await {
            if let Some(id) = frame.payload["data"]["record"]["id"].as_i64() {
                *seen.entry(id).or_default() += 1;
            }
        }
        app.server.spawn();
        app.server.ready().await;
    }
    writing.await.unwrap();
    let repeated: Vec<_> = seen.iter().filter(|(_, count)| **count > 1).collect();
    assert!(repeated.is_empty(), "{repeated:?}");
}

#[tokio::test]
async fn a_graceful_stop_asks_every_client_to_reconnect() {
    let mut app = start().await;
    let mut alice = subscribe(&app, ALICE, "notes").await;
    app.server.signal(Signal::TERM);
    let mut told = Vec::new();
    let code = loop {
        match alice.socket.receive().await {
            Received::Frame(frame) => told.push(*frame),
            Received::Closed(code, _reason) => break code,
        }
    };
    assert_eq!(code, Some(1012));
    assert!(
        told.iter().all(|frame| frame.event != "phx_close"),
        "clients would not join again: {told:#?}"
    );
    let told: Vec<&Value> = told
        .iter()
        .filter(|frame| frame.event == "system")
        .map(|frame| &frame.payload)
        .collect();
    assert_eq!(
        told,
        [&json!({"extension": "system", "status": "ok", "message": "Server requested disconnect"})]
    );
    let status = app.server.exit().await;
    assert!(status.success(), "{status:?}");
}

#[tokio::test]
async fn two_servers_share_a_slot_by_standing_by() {
    let mut app = start().await;
    let url = app.cluster().url(&app.database);
    let mut second = Server::prepare(BINARY.as_ref(), &url, &[("WALCAST_SLOT", app.slot())]);
    second.spawn();
    eventually("the second server to listen", || async {
        second.get("/ready").await
    })
    .await;
    let reply = second.get("/ready").await.unwrap();
    assert_eq!(reply.status, 503, "{reply:?}");
    // Its word comes once it knows.
    eventually("the sentence about the slot", || async {
        (second.log().contains(app.slot()) || second.get("/ready").await?.body.contains(app.slot()))
            .then_some(())
    })
    .await;
    let mut alice = subscribe(&app, ALICE, "notes").await;
    app.sql("insert into notes values (1, 'first serves', 1)")
        .await;
    assert_eq!(brief(&[alice.change().await]), ["INSERT 1"]);
    app.server.kill().await;
    second.ready().await;
    let mut alice = Subscriber::join(second.port(), Some(&user(ALICE)), &all("notes")).await;
    app.sql("insert into notes values (2, 'second serves', 1)")
        .await;
    assert_eq!(brief(&[alice.change().await]), ["INSERT 2"]);
    second.end();
}

/// Position that the slot's owner has confirmed.
async fn confirmed(app: &App) -> u64 {
    let sql = format!(
        "select (confirmed_flush_lsn - '0/0')::text from pg_replication_slots where slot_name = '{}'",
        app.slot()
    );
    app.admin.text(&sql).await.unwrap().parse().unwrap()
}

/// `replication::progress` points here: an idle slot must not keep the WAL of others.
#[tokio::test]
async fn idle_slot() {
    let app = start_with_environment("", &[("WALCAST_RESUME_WAL_BYTES_MAX", "0")]).await;
    app.sql("create table unpublished (n int, body text)").await;
    for _round in 0..3 {
        let before: u64 = app
            .admin
            .text("select (pg_current_wal_lsn() - '0/0')::text")
            .await
            .unwrap()
            .parse()
            .unwrap();
        app.sql("insert into unpublished select n, repeat('x', 1000) from generate_series(1, 2000) as n").await;
        eventually(
            "the slot to be confirmed past writes that nobody subscribes to",
            || async { (confirmed(&app).await > before).then_some(()) },
        )
        .await;
    }
}

#[tokio::test]
async fn long_transactions_elsewhere_delay_nothing() {
    let app = start_private(&[]).await;
    let holder = app.session().await;
    holder
        .run("begin; create table held (n int); insert into held values (1)")
        .await;
    let mut alice = subscribe(&app, ALICE, "messages").await;
    app.sql(&say(TALK, "while another transaction is open"))
        .await;
    assert_eq!(
        contents(&[alice.change().await]),
        ["while another transaction is open"]
    );
    holder.run("rollback").await;
}

#[tokio::test]
async fn check_names_what_is_wrong_and_serve_says_it_too() {
    let options = AppOptions {
        private: Some(&[]),
        ..AppOptions::default()
    };
    let mut app = App::prepare(BINARY, &options).await;
    app.cluster().stop(Signal::INT);
    app.cluster().resume_with(&["wal_level=replica"]);
    let output = app.server.command(&["check"]);
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(!output.status.success(), "{text}");
    assert!(text.contains("wal_level"), "{text}");
    assert!(
        text.to_lowercase().contains("alter system set wal_level"),
        "the SQL that mends it: {text}"
    );
    app.server.spawn();
    eventually("serve to say it", || async {
        app.server.log().contains("wal_level").then_some(())
    })
    .await;
}

#[tokio::test]
async fn check_passes_on_a_prepared_database_and_setup_is_idempotent() {
    let app = start().await;
    for arguments in [
        ["setup", "--messaging"].as_slice(),
        &["setup", "--messaging"],
        &["check"],
    ] {
        let output = app.server.command(arguments);
        let text = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(output.status.success(), "{arguments:?}: {text}");
    }
    app.sql("drop publication supabase_realtime").await;
    let output = app.server.command(&["check"]);
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stdout).to_lowercase();
    assert!(text.contains("create publication"), "{text}");
}

#[tokio::test]
async fn an_unreachable_database_is_one_sentence() {
    let app = start().await;
    let mut server = Server::prepare(BINARY.as_ref(), "postgres://nobody:x@127.0.0.1:1/none", &[]);
    server.spawn();
    eventually("the server to listen or end", || async {
        server
            .get("/ready")
            .await
            .map(|reply| assert_eq!(reply.status, 503))
            .or_else(|| server.log().contains("127.0.0.1").then_some(()))
    })
    .await;
    let output = server.command(&["check"]);
    assert!(!output.status.success());
    drop(app);
}

#[tokio::test]
async fn minted_tokens_open_channels() {
    let app = start().await;
    let output = app
        .server
        .command(&["token", "--role", "authenticated", "--sub", ALICE]);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let token = String::from_utf8(output.stdout).unwrap().trim().to_owned();
    let mut alice = app.subscribe(&token, all("messages")).await;
    app.sql(&say(TALK, "hello")).await;
    assert_eq!(contents(&[alice.change().await]), ["hello"]);
}

#[tokio::test]
async fn tls_is_used_as_sslmode_says() {
    let app = start_private(&[]).await;
    make_certificate(&app);
    let settings = [
        "ssl = on",
        "ssl_cert_file = 'server.crt'",
        "ssl_key_file = 'server.key'",
    ];
    for setting in settings {
        app.sql(&format!(
            "alter system set {}",
            setting.replacen(" = on", " = 'on'", 1)
        ))
        .await;
    }
    app.sql("select pg_reload_conf()").await;
    let url = app.cluster().url(&app.database);
    let certificate = app.cluster().data().join("server.crt");
    let copy = std::env::temp_dir().join(format!("walcast-test-{}.crt", std::process::id()));
    std::fs::copy(certificate, &copy).unwrap();
    let root = copy.display();
    for (options, fine) in [
        ("sslmode=disable".to_owned(), true),
        ("sslmode=prefer".to_owned(), true),
        ("sslmode=require".to_owned(), true),
        (format!("sslmode=verify-ca&sslrootcert={root}"), true),
        (format!("sslmode=verify-full&sslrootcert={root}"), true),
        ("sslmode=verify-full".to_owned(), false),
        ("sslmode=nonsense".to_owned(), false),
    ] {
        let url = format!("{url}?{options}");
        let server = Server::prepare(BINARY.as_ref(), &url, &[("WALCAST_SLOT", app.slot())]);
        let output = server.command(&["check"]);
        let text = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        assert_eq!(output.status.success(), fine, "{options}: {text}");
    }
    // The walsender's own client as well.
    let url = format!("{url}?sslmode=verify-full&sslrootcert={root}");
    let slot = format!("{}_tls", app.slot());
    let mut server = Server::start(BINARY.as_ref(), &url, &[("WALCAST_SLOT", &slot)]).await;
    let mut alice = Subscriber::join(server.port(), Some(&user(ALICE)), &all("notes")).await;
    app.sql("insert into notes values (1, 'encrypted', 1)")
        .await;
    assert_eq!(brief(&[alice.change().await]), ["INSERT 1"]);
    let plain = format!(
        "select count(*) from pg_stat_activity a join pg_stat_ssl s using (pid)
         where a.datname = '{}' and not s.ssl and a.backend_type = 'walsender' and query like '%{slot}%'",
        app.database
    );
    assert_eq!(app.admin.text(&plain).await.as_deref(), Some("0"));
    server.end();
    std::fs::remove_file(copy).unwrap();
}

/// A self-signed certificate for 127.0.0.1 in the data directory, owned by whoever runs Postgres.
fn make_certificate(app: &App) {
    let data = app.cluster().data();
    let script = "cd \"$1\" && openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1 \
                  -addext subjectAltName=IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE \
                  -keyout server.key -out server.crt 2>/dev/null \
                  && chmod 600 server.key && chown --reference=PG_VERSION server.key server.crt";
    let status = std::process::Command::new("sh")
        .args(["-c", script, "sh"])
        .arg(data)
        .status()
        .unwrap();
    assert!(
        status.success(),
        "openssl is missing; run: apt-get install openssl"
    );
}

#[tokio::test]
async fn a_login_role_with_the_documented_rights_is_enough() {
    let app = start_private(&[]).await;
    app.sql(
        "create role bridge login replication password 'bridge';
         grant anon, authenticated, service_role to bridge;
         grant usage on schema public, fence, walcast to bridge;
         grant select on all tables in schema public to bridge;
         grant select on all tables in schema fence to bridge;
         grant select, insert, update on all tables in schema walcast to bridge;",
    )
    .await;
    let url = app.cluster().url_as("bridge", "bridge", &app.database);
    let slot = format!("{}_bridge", app.slot());
    let mut server = Server::start(BINARY.as_ref(), &url, &[("WALCAST_SLOT", &slot)]).await;
    let mut alice = Subscriber::join(
        server.port(),
        Some(&user(ALICE)),
        &json!([all("messages"), all("notes")]),
    )
    .await;
    app.sql(&say(TALK, "hello")).await;
    app.sql("insert into notes values (1, 'one', 1)").await;
    let changes = alice.changes(2).await;
    assert_eq!(changes[0].record()["content"], "hello");
    assert_eq!(changes[1].record()["id"], 1);
    server.end();
}

#[tokio::test]
async fn several_publications_are_read() {
    let options = AppOptions {
        schema: &format!(
            "{SCHEMA} create table other (id int primary key); grant select on other to authenticated;
             create publication second for table other;"
        ),
        environment: &[("WALCAST_PUBLICATION", "supabase_realtime,second")],
        private: None,
    };
    let app = App::start_with(BINARY, &options).await;
    let mut alice = app
        .subscribe(&user(ALICE), json!([all("other"), all("notes")]))
        .await;
    app.sql("insert into other values (1)").await;
    app.sql("insert into notes values (2, 'two', 2)").await;
    assert_eq!(
        brief(&app.settled(&mut alice).await),
        ["INSERT 1", "INSERT 2"]
    );
}

#[tokio::test]
async fn many_sockets_and_channels_are_served() {
    let app = start().await;
    let mut sockets = Vec::new();
    for _ in 0..20 {
        let mut socket = Socket::connect(app.server.port(), PUBLISHABLE_KEY, Version::V2).await;
        for n in 0..20 {
            let reference = socket.next_reference();
            let payload = join_payload(&all("notes"), Some(&user(ALICE)));
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
        for _ in 0..20 {
            assert_eq!(
                socket.find(|frame| frame.event == "system").await.payload["status"],
                "ok"
            );
        }
        sockets.push(socket);
    }
    app.sql("insert into notes values (1, 'one', 1)").await;
    for socket in &mut sockets {
        for _ in 0..20 {
            let change = socket.find(|frame| frame.event == "postgres_changes").await;
            assert_eq!(change.payload["data"]["record"]["id"], 1);
        }
    }
}

/// The number behind a family's name and labels.
#[track_caller]
fn figure(metrics: &str, name: &str) -> f64 {
    metrics
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
        .unwrap_or_else(|| panic!("{name} is missing in:\n{metrics}"))
}

#[tokio::test]
async fn metrics_tell_what_was_delivered_and_what_withheld() {
    let app = start().await;
    let mut alice = subscribe(&app, ALICE, "messages").await;
    let mut carol = subscribe(&app, CAROL, "messages").await;
    let before = app.server.get("/metrics").await.unwrap().body;
    assert_eq!(
        figure(
            &before,
            "walcast_changes_denied_total{reason=\"not_visible\"}"
        ),
        0.0
    );
    app.sql(&say(TALK, "counted")).await;
    let fence = app.fence().await;
    assert_eq!(contents(&alice.until(fence).await), ["counted"]);
    assert!(carol.until(fence).await.is_empty());

    let after = app.server.get("/metrics").await.unwrap().body;
    assert_eq!(figure(&after, "walcast_ready"), 1.0);
    assert_eq!(
        figure(&after, "realtime_subscriptions_manager_subscribers"),
        2.0
    );
    assert_eq!(figure(&after, "walcast_identities"), 2.0);
    assert_eq!(figure(&after, "walcast_replication_reconnects_total"), 0.0);
    assert!(figure(&after, "walcast_log_bytes") > 0.0, "{after}");
    for (name, least) in [
        // The message, and the row of the fence.
        ("walcast_transactions_total", 2.0),
        ("walcast_changes_received_total", 2.0),
        // The message to alice, the fence to both.
        ("walcast_changes_delivered_total", 3.0),
        ("walcast_changes_denied_total{reason=\"not_visible\"}", 1.0),
        ("realtime_channel_db_events", 3.0),
        ("walcast_replication_received_bytes_total", 100.0),
    ] {
        let risen = figure(&after, name) - figure(&before, name);
        assert!(risen >= least, "{name} rose by {risen}:\n{after}");
    }

    // Whoever was asked about the message, for alice and for carol.
    let verdicts = |metrics: &str| {
        let of = |source: &str, result: &str| {
            let name = format!("walcast_verdicts_total{{source=\"{source}\",result=\"{result}\"}}");
            figure(metrics, &name)
        };
        let sources = ["compiled", "audience", "postgres"];
        sources.map(|source| of(source, "allowed") + of(source, "denied"))
    };
    let sum = |metrics: &str| verdicts(metrics).iter().sum::<f64>();
    assert_eq!(sum(&after) - sum(&before), 2.0);

    // Positions and what the slot retains are looked up every few seconds.
    eventually("the WAL that the slot retains", || async {
        let metrics = app.server.get("/metrics").await?.body;
        (figure(&metrics, "walcast_retained_wal_bytes") > 0.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_channel_that_must_start_over_is_counted_with_its_reason() {
    let app = start().await;
    let mut alice = subscribe(&app, ALICE, "messages").await;
    drop_slot(&app).await;
    alice.socket.find(|frame| frame.event == "phx_error").await;
    let metrics = app.server.get("/metrics").await.unwrap().body;
    let name = "walcast_resyncs_total{reason=\"slot_recreated\"}";
    assert_eq!(figure(&metrics, name), 1.0);
    assert_eq!(figure(&metrics, "walcast_replication_epochs_total"), 1.0);
    assert_eq!(
        figure(&metrics, "walcast_replication_reconnects_total"),
        1.0
    );
}
