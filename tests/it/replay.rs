//! Broadcasts from the database, replayed and stored ones (protocol.md §5.6, §5.7, §3.5).

use std::process::Command;

use rustix::process::Signal;
use serde_json::{Value, json};
use walcast::testing::{
    App, Channel, Encoding, Push, Version, broadcast_frame, eventually, service, user,
};

use crate::world::{ALICE, BOB, join, join_with, start, start_with};

/// Everybody with a session reads and writes; Alice may store as well; presence alone is to be read in `see`.
const POLICIES: &str = "
    create policy receive on realtime.messages for select to authenticated
      using (case realtime.topic() when 'see' then extension = 'presence' else true end);
    create policy send on realtime.messages for insert to authenticated
      with check (extension <> 'persistence' or auth.uid() = 'a0000000-0000-4000-8000-000000000001');
";

async fn join_replaying(app: &App, version: Version, room: &str, replay: Value) -> Channel {
    let config = json!({"private": true, "broadcast": {"replay": replay}});
    join_with(app, version, room, config, Some(&user(ALICE))).await
}

/// Runs `sql` and waits until its so many broadcasts were said, so that they do not come live.
async fn said(app: &App, room: &str, count: usize, sql: &str) {
    let config = json!({"private": true});
    let mut hearer = join_with(app, Version::V2, room, config, Some(&user(ALICE))).await;
    app.sql(sql).await;
    for _row in 0..count {
        hearer.heard().await;
    }
}

async fn refusal(app: &App, room: &str, config: Value) -> String {
    Channel::try_join(
        app.server.port(),
        Version::V2,
        room,
        &config,
        Some(&user(ALICE)),
    )
    .await
    .unwrap_err()
}

/// What was replayed, by `n`, up to a broadcast that follows now.
async fn replayed(app: &App, channel: &mut Channel) -> Vec<Value> {
    let topic = channel.topic.strip_prefix("realtime:").unwrap();
    let sql = format!("select realtime.send('{{}}', 'mark', '{topic}')");
    app.sql(&sql).await;
    let mut all = Vec::new();
    loop {
        let frame = channel.heard().await;
        if frame.payload["event"] == "mark" && frame.payload["meta"]["replayed"].is_null() {
            return all;
        }
        assert_eq!(frame.payload["meta"]["replayed"], true, "{}", frame.payload);
        if frame.payload["event"] != "mark" {
            all.push(frame.payload["payload"]["n"].clone());
        }
    }
}

#[tokio::test]
async fn committed_rows_are_broadcast_in_order_and_others_are_not() {
    let app = start().await;
    let mut old = join(&app, Version::V1, "room").await;
    let mut new = join(&app, Version::V2, "room").await;
    app.sql(r#"select realtime.send('{"n": 1}', 'first', 'room', false)"#)
        .await;
    app.sql(r#"begin; select realtime.send('{"n": 0}', 'rolled back', 'room', false); rollback"#)
        .await;
    app.sql(
        r#"begin;
           select realtime.send('{"n": 2}', 'second', 'room', false);
           select realtime.send('{"n": 3}', 'elsewhere', 'another', false);
           select realtime.send('{"n": 3}', 'private', 'room');
           insert into realtime.messages (topic, extension, payload, private) values ('room', 'broadcast', '{}', false);
           insert into realtime.messages (topic, extension, event, private) values ('room', 'broadcast', 'no payload', false);
           insert into realtime.messages (topic, extension, event, payload, private) values ('room', 'broadcast', 'n', '{}', null);
           insert into realtime.messages (topic, extension, event, payload, private, skip_broadcast)
             values ('room', 'broadcast', 'skipped', '{}', false, true);
           savepoint s; select realtime.send('{"n": 0}', 'rolled back', 'room', false); rollback to s;
           select realtime.send('{"n": 4}', 'third', 'room', false);
           commit"#,
    )
    .await;
    for (event, n) in [("first", 1), ("second", 2), ("third", 4)] {
        for channel in [&mut old, &mut new] {
            let frame = channel.heard().await.payload;
            assert_eq!(
                (&frame["event"], &frame["payload"]["n"]),
                (&json!(event), &json!(n))
            );
            // The row's id is in both places.
            assert_eq!(frame["meta"]["id"], frame["payload"]["id"]);
            assert_eq!(frame["meta"]["id"].as_str().map(str::len), Some(36));
        }
    }
    app.sql(r#"select realtime.send('{"id": 7}', 'own id', 'room', false)"#)
        .await;
    assert_eq!(old.heard_briefly().await.1, json!({"id": 7}));
    assert_eq!(new.heard_briefly().await.1, json!({"id": 7}));
    app.sql(r"select realtime.send_binary('\xdead', 'bytes', 'room', false)")
        .await;
    let frame = new.heard().await;
    let meta = frame.payload["meta"].to_string();
    let expected = broadcast_frame(
        "realtime:room",
        "bytes",
        &meta,
        Encoding::Binary,
        b"\xde\xad",
    );
    assert_eq!(frame.binary, Some(expected));
    app.sql("select realtime.send('{}', 'after', 'room', false)")
        .await;
    assert_eq!(
        old.heard_briefly().await.0,
        "after",
        "no bytes for version 1"
    );
}

#[tokio::test]
async fn triggers_broadcast_changes_to_private_channels() {
    let app = start_with(
        "create function tell() returns trigger language plpgsql security definer set search_path = '' as $$
           begin
             perform realtime.broadcast_changes('note:' || coalesce(new.id, old.id), tg_op, tg_op, tg_table_name, tg_table_schema, new, old);
             return null;
           end $$;
         create trigger tell after insert or update or delete on notes for each row execute function tell();
         create policy receive on realtime.messages for select to authenticated using (realtime.topic() = 'note:1');",
    )
    .await;
    let mut alice = join_with(
        &app,
        Version::V2,
        "note:1",
        json!({"private": true}),
        Some(&user(ALICE)),
    )
    .await;
    let mut service = join_with(
        &app,
        Version::V1,
        "note:1",
        json!({"private": true}),
        Some(&service()),
    )
    .await;
    app.sql("insert into notes values (1, 'one', 10), (2, 'two', 20)")
        .await;
    app.sql("update notes set body = 'uno' where id = 1").await;
    app.sql("delete from notes").await;
    let one = json!({"id": 1, "body": "one", "rank": 10});
    let uno = json!({"id": 1, "body": "uno", "rank": 10});
    for channel in [&mut alice, &mut service] {
        for (operation, record, old) in [
            ("INSERT", one.clone(), Value::Null),
            ("UPDATE", uno.clone(), one.clone()),
            ("DELETE", Value::Null, uno.clone()),
        ] {
            let (event, mut payload) = channel.heard_briefly().await;
            assert_eq!(event, operation);
            payload.as_object_mut().unwrap().remove("id");
            let expected = json!({"schema": "public", "table": "notes", "operation": operation, "record": record, "old_record": old});
            assert_eq!(payload, expected);
        }
    }
}

#[tokio::test]
async fn whoever_asks_is_told_when_broadcasts_from_the_database_flow() {
    let app = start().await;
    for (version, channel) in [(Version::V1, "one"), (Version::V2, "two")] {
        let config = json!({"broadcast": {"replication_ready": true}});
        let mut joined = join_with(&app, version, channel, config, None).await;
        let told = joined.next("system").await.payload;
        let expected = json!({"extension": "system", "status": "ok", "message": "Replication connection established", "channel": channel});
        assert_eq!(told, expected);
    }
}

#[tokio::test]
async fn a_crash_of_the_walsender_loses_no_broadcast() {
    let app = start().await;
    let mut channel = join(&app, Version::V2, "room").await;
    for n in 0..200 {
        app.sql(&format!(
            r#"select realtime.send('{{"n": {n}}}', 'count', 'room', false)"#
        ))
        .await;
        if n % 50 == 10 {
            let kill = format!(
                "select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = '{}' and active",
                app.slot()
            );
            app.admin.text(&kill).await;
        }
    }
    for n in 0..200 {
        assert_eq!(channel.heard_briefly().await.1["n"], n);
    }
}

#[tokio::test]
async fn the_newest_broadcasts_are_replayed_oldest_first() {
    let app = start_with(POLICIES).await;
    said(
        &app,
        "room",
        30,
        "do $$ begin for n in 1..30 loop
           perform realtime.send(jsonb_build_object('n', n), 'e', 'room');
           commit;
         end loop; end $$",
    )
    .await;
    // None of these count; the presence row and the one that expired are said all the same.
    said(
        &app,
        "room",
        2,
        r#"select realtime.send('{"n": 0}', 'e', 'another');
           select realtime.send('{"n": 0}', 'e', 'room', false);
           insert into realtime.messages (topic, extension, event, payload, private) values ('room', 'presence', 'e', '{"n": 0}', true);
           insert into realtime.messages (topic, extension, event, payload, private, expires_at)
             values ('room', 'broadcast', 'e', '{"n": 0}', true, now() at time zone 'utc' - interval '1 second')"#,
    )
    .await;
    for (room, replay, from, to) in [
        ("room", json!({"since": 0, "limit": 3}), 28, 30),
        ("room", json!({"since": 0, "limit": 25}), 6, 30),
    ] {
        for version in [Version::V1, Version::V2] {
            let mut channel = join_replaying(&app, version, room, replay.clone()).await;
            for n in from..=to {
                let frame = channel.heard().await;
                assert_eq!(frame.payload["payload"]["n"], n, "{replay}");
                assert_eq!(frame.payload["meta"]["replayed"], true);
            }
        }
    }
    // (The marks of other joins are rows as well: each room has its own.)
    for (number, (replay, count)) in [
        (json!({"since": 0}), 10),
        (json!({}), 10),
        (json!({"limit": 2}), 2),
        (json!({"since": 0, "limit": 0}), 1),
        (json!({"since": 0, "limit": -5}), 1),
        (json!({"since": 0, "limit": 1000}), 25),
        (json!({"since": 4_000_000_000_000_u64}), 0),
    ]
    .into_iter()
    .enumerate()
    {
        let room = format!("room {number}");
        let sql = format!(
            "insert into realtime.messages (topic, extension, event, payload, private)
             select '{room}', 'broadcast', 'e', jsonb_build_object('n', n), true from generate_series(1, 30) as n"
        );
        said(&app, &room, 30, &sql).await;
        let mut channel = join_replaying(&app, Version::V2, &room, replay.clone()).await;
        let expected: Vec<Value> = (31 - count..=30).map(Value::from).collect();
        assert_eq!(replayed(&app, &mut channel).await, expected, "{replay}");
    }
}

#[tokio::test]
async fn since_is_a_moment() {
    let app = start_with(POLICIES).await;
    said(
        &app,
        "room",
        5,
        r#"insert into realtime.messages (topic, extension, event, payload, private, inserted_at)
           select 'room', 'broadcast', 'e', jsonb_build_object('n', hours), true, now() at time zone 'utc' - make_interval(hours => hours)
           from generate_series(3, 0, -1) as hours;
           insert into realtime.messages (topic, extension, event, payload, private, inserted_at)
           values ('room', 'broadcast', 'e', '{"n": -1}', true, now() at time zone 'utc' + interval '10 minutes')"#,
    )
    .await;
    let since = app
        .admin
        .text("select (extract(epoch from now() - interval '90 minutes') * 1000)::bigint")
        .await
        .unwrap();
    let since: u64 = since.parse().unwrap();
    let mut channel = join_replaying(&app, Version::V2, "room", json!({"since": since})).await;
    assert_eq!(replayed(&app, &mut channel).await, [json!(1), json!(0)]);
}

#[tokio::test]
async fn replayed_frames_have_their_form_in_each_version() {
    let app = start_with(POLICIES).await;
    let (first, second) = (
        "c2f10000-0000-4000-8000-000000000001",
        "c2f10000-0000-4000-8000-000000000002",
    );
    let sql = format!(
        r#"insert into realtime.messages (id, topic, extension, event, payload, binary_payload, private) values
             ('{first}', 'room', 'broadcast', 'db', null, '\xdead', true);
           insert into realtime.messages (id, topic, extension, event, payload, binary_payload, private) values
             ('{second}', 'room', 'broadcast', 'json', '{{"n": 1}}', null, true)"#
    );
    said(&app, "room", 2, &sql).await;
    let meta = json!({"replayed": true, "id": second});
    let expected = json!({"event": "json", "payload": {"n": 1}, "type": "broadcast", "meta": meta});
    let mut new = join_replaying(&app, Version::V2, "room", json!({"since": 0})).await;
    let bytes = broadcast_frame(
        "realtime:room",
        "db",
        &format!(r#"{{"replayed":true,"id":"{first}"}}"#),
        Encoding::Binary,
        b"\xde\xad",
    );
    assert_eq!(new.heard().await.binary, Some(bytes));
    // JSON is text even in version 2.
    let frame = new.heard().await;
    assert_eq!(
        (frame.binary, frame.join_ref, frame.payload),
        (None, json!(new.join_ref), expected.clone())
    );
    let mut old = join_replaying(&app, Version::V1, "room", json!({"since": 0})).await;
    assert_eq!(old.heard().await.payload, expected);
}

#[tokio::test]
async fn replay_needs_valid_parameters_and_a_private_channel_one_may_hear() {
    let app = start_with(POLICIES).await;
    let invalid = "UnableToReplayMessages: Replay params are not valid";
    for replay in [
        json!({"since": "yesterday"}),
        json!({"since": 1.5}),
        json!({"since": 0, "limit": "many"}),
    ] {
        let config = json!({"private": true, "broadcast": {"replay": replay}});
        assert_eq!(refusal(&app, "room", config).await, invalid, "{replay}");
    }
    let public = "UnableToReplayMessages: Replay is not allowed for public channels";
    for replay in [json!({"since": 0}), Value::Null] {
        let config = json!({"broadcast": {"replay": replay}});
        assert_eq!(refusal(&app, "room", config).await, public, "{replay}");
    }
    let config = json!({"private": true, "broadcast": {"replay": {"since": 0}}, "presence": {"enabled": true}});
    assert_eq!(
        refusal(&app, "see", config).await,
        "Unauthorized: You do not have permissions to read from this Channel topic: see"
    );
}

#[tokio::test]
async fn between_what_was_replayed_and_what_comes_live_nothing_is_missing_or_doubled() {
    const ROWS: u64 = 400;
    let app = start_with(POLICIES).await;
    let writer = app.session().await;
    let writing = tokio::spawn(async move {
        for n in 1..=ROWS {
            writer
                .run(&format!(
                    r#"select realtime.send('{{"n": {n}}}', 'count', 'room')"#
                ))
                .await;
        }
    });
    let mut readers = Vec::new();
    for round in 0..12 {
        let version = if round % 2 == 0 {
            Version::V2
        } else {
            Version::V1
        };
        let mut channel =
            join_replaying(&app, version, "room", json!({"since": 0, "limit": 25})).await;
        readers.push(tokio::spawn(async move {
            let mut numbers = Vec::new();
            let mut replayed = 0;
            while numbers.last() != Some(&ROWS) {
                let frame = channel.heard().await;
                replayed += u64::from(frame.payload["meta"]["replayed"] == true);
                numbers.push(frame.payload["payload"]["n"].as_u64().unwrap());
            }
            (numbers, replayed)
        }));
    }
    writing.await.unwrap();
    let mut any_replayed = 0;
    for reader in readers {
        let (numbers, replayed) = reader.await.unwrap();
        let first = numbers[0];
        assert_eq!(numbers, (first..=ROWS).collect::<Vec<_>>());
        any_replayed += replayed;
    }
    assert!(any_replayed > 0);
}

#[tokio::test]
async fn what_was_committed_before_a_join_does_not_follow_its_replay() {
    let app = start_with(POLICIES).await;
    // The stream is interrupted, so that it is behind when the channel joins.
    let interrupt = format!(
        "select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = '{}'",
        app.slot()
    );
    app.admin.text(&interrupt).await;
    app.sql(
        "do $$ begin for n in 1..30 loop
           perform realtime.send(jsonb_build_object('n', n), 'e', 'room');
           commit;
         end loop; end $$",
    )
    .await;
    let replay = json!({"since": 0, "limit": 3});
    let mut channel = join_replaying(&app, Version::V2, "room", replay).await;
    assert_eq!(
        replayed(&app, &mut channel).await,
        [json!(28), json!(29), json!(30)]
    );
}

async fn persist(channel: &mut Channel, event: &str, metadata: &str) -> Value {
    let reference = channel
        .push(&Push {
            event,
            metadata,
            payload: br#"{"n":1}"#,
            ..Push::default()
        })
        .await;
    channel.socket.reply(&reference).await.payload
}

#[tokio::test]
async fn stored_broadcasts_are_heard_once_and_replayed_until_they_expire() {
    let app = start_with(POLICIES).await;
    let config = json!({"private": true, "broadcast": {"ack": true}});
    let mut hearer = join_with(
        &app,
        Version::V2,
        "room",
        json!({"private": true}),
        Some(&user(BOB)),
    )
    .await;
    let mut alice = join_with(
        &app,
        Version::V2,
        "room",
        config.clone(),
        Some(&user(ALICE)),
    )
    .await;
    let ok = json!({"status": "ok", "response": {}});
    for (event, metadata, seconds) in [
        ("default", r#"{"persist":true}"#, "259200"),
        ("minute", r#"{"persist":{"ttl":60}}"#, "60"),
        ("longest", r#"{"persist":{"ttl":259200}}"#, "259200"),
        ("shortest", r#"{"persist":{"ttl":1}}"#, "1"),
    ] {
        let reply = persist(&mut alice, event, metadata).await;
        let id = reply["response"]["id"]
            .as_str()
            .unwrap_or_else(|| panic!("{reply}"))
            .to_owned();
        assert_eq!(reply, json!({"status": "ok", "response": {"id": id}}));
        // Of several numbers that say the same, the row's are in UTC.
        let stored = format!(
            "select concat_ws(' ', topic, extension, event, private, skip_broadcast, payload, round(extract(epoch from expires_at - inserted_at)))
             from realtime.messages where id = '{id}'"
        );
        let expected = format!(r#"room broadcast {event} t t {{"n": 1}} {seconds}"#);
        assert_eq!(app.admin.text(&stored).await, Some(expected));
        let frame = hearer.heard().await;
        let heard = broadcast_frame("realtime:room", event, "", Encoding::Json, br#"{"n":1}"#);
        assert_eq!(frame.binary, Some(heard));
    }
    for metadata in [
        r#"{"persist":false}"#,
        r#"{"persist":null}"#,
        r#"{"other":true}"#,
    ] {
        assert_eq!(
            persist(&mut alice, "not stored", metadata).await,
            ok,
            "{metadata}"
        );
        assert_eq!(hearer.heard_briefly().await.0, "not stored");
    }
    let refused = json!({"status": "error", "response": {"error": "invalid_persist_ttl"}});
    for ttl in ["0", "259201", "-1", "1.5", r#""60""#, "null", "[]"] {
        let metadata = format!(r#"{{"persist":{{"ttl":{ttl}}}}}"#);
        assert_eq!(
            persist(&mut alice, "refused", &metadata).await,
            refused,
            "{ttl}"
        );
    }
    // Bob may speak, but not store.
    let mut bob = join_with(&app, Version::V2, "room", config, Some(&user(BOB))).await;
    assert_eq!(persist(&mut bob, "bob's", r#"{"persist":true}"#).await, ok);
    assert_eq!(hearer.heard_briefly().await.0, "bob's");
    app.sql("select realtime.send('{}', 'end', 'room')").await;
    assert_eq!(
        hearer.heard_briefly().await.0,
        "end",
        "nothing stored is broadcast again"
    );

    let replay = json!({"since": 0, "limit": 25});
    let events = eventually("the shortest to expire", || async {
        let mut late = join_replaying(&app, Version::V2, "room", replay.clone()).await;
        let mut events = Vec::new();
        while events.last().map(String::as_str) != Some("end") {
            events.push(late.heard_briefly().await.0);
        }
        (!events.contains(&"shortest".to_owned())).then_some(events)
    })
    .await;
    assert_eq!(events, ["default", "minute", "longest", "end"]);
}

/// The numbers that a channel hears, replayed and live, until it has heard so many and then the mark.
async fn numbers_until_mark(mut channel: Channel) -> Vec<u64> {
    let mut numbers = Vec::new();
    loop {
        let frame = channel.heard().await.payload;
        if frame["event"] == "mark" {
            return numbers;
        }
        numbers.push(frame["payload"]["n"].as_u64().unwrap());
    }
}

#[tokio::test]
async fn who_joins_while_broadcasts_are_stored_has_each_of_them_once() {
    const MESSAGES: u64 = 20;
    let app = start_with(POLICIES).await;
    for round in 0..8 {
        let room = format!("room {round}");
        let config = json!({"private": true, "broadcast": {"ack": true}});
        let mut alice = join_with(&app, Version::V2, &room, config, Some(&user(ALICE))).await;
        // The permission is asked for once, so that it does not hold up what follows.
        let first = persist(&mut alice, "count", r#"{"persist":true}"#).await;
        assert!(first["response"]["id"].is_string(), "{first}");
        let speaking = async {
            let mut asked = Vec::new();
            for n in 2..=MESSAGES {
                let payload = format!(r#"{{"n":{n}}}"#);
                let push = Push {
                    event: "count",
                    metadata: r#"{"persist":true}"#,
                    payload: payload.as_bytes(),
                    ..Push::default()
                };
                asked.push(alice.push(&push).await);
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
            for reference in asked {
                let reply = alice.socket.reply(&reference).await.payload;
                assert!(reply["response"]["id"].is_string(), "{reply}");
            }
        };
        let joining = async {
            let mut hearers = Vec::new();
            for number in 0..6 {
                let replay = json!({"since": 0, "limit": 25});
                let version = [Version::V1, Version::V2][number % 2];
                hearers.push(join_replaying(&app, version, &room, replay).await);
            }
            hearers
        };
        let ((), hearers) = tokio::join!(speaking, joining);
        let mark = format!("select realtime.send('{{}}', 'mark', '{room}')");
        app.sql(&mark).await;
        for hearer in hearers {
            let mut numbers = numbers_until_mark(hearer).await;
            // Several are stored at a time, so that their order is not that of their being said.
            numbers.sort_unstable();
            assert_eq!(numbers, (1..=MESSAGES).collect::<Vec<_>>(), "{room}");
        }
    }
}

#[tokio::test]
async fn what_is_replayed_has_the_order_of_the_commits() {
    let app = start_with(POLICIES).await;
    let send = |n: u64| format!(r#"select realtime.send('{{"n": {n}}}', 'e', 'room')"#);
    let (long, short) = (app.session().await, app.session().await);
    // It begins first, commits last but one, and has several messages.
    long.run(&format!("begin; {}", send(101))).await;
    for n in 1..=8 {
        short.run(&send(n)).await;
    }
    long.run(&send(102)).await;
    short.run(&format!("begin; {}", send(9))).await;
    long.run(&format!("{}; commit", send(103))).await;
    short.run("commit").await;
    let check = async |app: &App, limit: usize, wanted: &[u64]| {
        let replay = json!({"since": 0, "limit": limit});
        let mut channel = join_replaying(app, Version::V2, "room", replay).await;
        let mut numbers = Vec::new();
        for _message in wanted {
            let frame = channel.heard().await.payload;
            assert_eq!(frame["meta"]["replayed"], true, "{frame}");
            numbers.push(frame["payload"]["n"].as_u64().unwrap());
        }
        assert_eq!(numbers, wanted, "{limit}");
    };
    check(&app, 25, &[1, 2, 3, 4, 5, 6, 7, 8, 101, 102, 103, 9]).await;
    // By the times of the rows these would be others.
    check(&app, 4, &[101, 102, 103, 9]).await;
    check(&app, 1, &[9]).await;
    // A join that meets commits which the stream has yet to bring.
    for round in 0..20 {
        let (n, m) = (1000 + 2 * round, 1001 + 2 * round);
        long.run(&format!("begin; {}", send(n))).await;
        short.run(&format!("begin; {}; commit", send(m))).await;
        long.run("commit").await;
        check(&app, 2, &[m, n]).await;
    }
    // By their times the same rows have another order.
    let order = "select string_agg(payload ->> 'n', ' ' order by inserted_at, sequence) from realtime.messages where payload ->> 'n' in ('101', '9', '8')";
    assert_eq!(app.admin.text(order).await.as_deref(), Some("101 8 9"));
}

#[tokio::test]
async fn who_stands_up_again_knows_the_order_of_the_commits() {
    let mut app = start_with(POLICIES).await;
    let send = |n: u64| format!(r#"select realtime.send('{{"n": {n}}}', 'e', 'room')"#);
    let (long, short) = (app.session().await, app.session().await);
    let check = async |app: &App, wanted: &[u64]| {
        let replay = json!({"since": 0, "limit": 25});
        // The stream has come as far as the mark that is heard here.
        let mut other = join_replaying(app, Version::V2, "other", replay.clone()).await;
        replayed(app, &mut other).await;
        let mut channel = join_replaying(app, Version::V2, "room", replay).await;
        assert_eq!(json!(replayed(app, &mut channel).await), json!(wanted));
    };
    let overlap = async |first: u64| {
        long.run(&format!("begin; {}", send(first + 1))).await;
        short.run(&send(first)).await;
        long.run("commit").await;
    };
    overlap(1).await;
    check(&app, &[1, 2]).await;
    let kill = format!(
        "select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = '{}' and active",
        app.slot()
    );
    app.admin.text(&kill).await;
    overlap(3).await;
    check(&app, &[1, 2, 3, 4]).await;
    for signal in [Signal::KILL, Signal::TERM] {
        app.server.signal(signal);
        app.server.exit().await;
        app.server.spawn();
        app.server.ready().await;
        check(&app, &[1, 2, 3, 4]).await;
    }
    app.server.end();
}

#[tokio::test]
async fn http_stores_as_well() {
    let app = start_with(POLICIES).await;
    let mut hearer = join_with(
        &app,
        Version::V2,
        "room",
        json!({"private": true}),
        Some(&user(BOB)),
    )
    .await;
    let post = async |subject: &str, event: &str, query: &str| {
        let bearer = format!("Bearer {}", user(subject));
        let headers = [
            ("authorization", bearer.as_str()),
            ("content-type", "application/json"),
        ];
        let path = format!("/api/broadcast/room/events/{event}?private=true&{query}");
        app.server.post(&path, &headers, br#"{"n":1}"#).await.status
    };
    assert_eq!(post(ALICE, "stored", "persist=true").await, 202);
    assert_eq!(post(ALICE, "minute", "persist%5Bttl%5D=60").await, 202);
    assert_eq!(post(ALICE, "plain", "persist=false").await, 202);
    assert_eq!(post(BOB, "denied", "persist=true").await, 202);
    for ttl in ["0", "259201", "x", ""] {
        let status = post(ALICE, "refused", &format!("persist%5Bttl%5D={ttl}")).await;
        assert!((400..500).contains(&status), "{ttl}: {status}");
    }
    for event in ["stored", "minute", "plain", "denied"] {
        assert_eq!(hearer.heard_briefly().await.0, event);
    }
    let stored = eventually("the rows", || async {
        let sql = "select string_agg(event, ' ' order by inserted_at) from realtime.messages having count(*) >= 2";
        app.admin.text(sql).await
    })
    .await;
    assert_eq!(stored, "stored minute");
}

/// A walsender that does not run: the stream lags behind the tables.
struct Stopped(String);

impl Stopped {
    async fn walsender(app: &App) -> Self {
        let sql = format!(
            "select active_pid from pg_replication_slots where slot_name = '{}'",
            app.slot()
        );
        let pid = app.admin.text(&sql).await.unwrap();
        signal("-STOP", &pid);
        Self(pid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        signal("-CONT", &self.0);
    }
}

fn signal(signal: &str, pid: &str) {
    let sent = Command::new("kill").args([signal, pid]).status();
    assert!(sent.unwrap().success(), "kill {signal} {pid}");
}

#[tokio::test]
async fn a_stream_that_lags_behind_a_replay_repeats_nothing() {
    let app = start_with(POLICIES).await;
    let send = |n: u64| format!(r#"select realtime.send('{{"n": {n}}}', 'count', 'room')"#);
    for version in [Version::V1, Version::V2] {
        app.sql("delete from realtime.messages").await;
        // Nothing of what follows has come when the walsender stops.
        let late = app.session().await;
        late.run("begin").await;
        late.run(&send(0)).await;
        let stopped = Stopped::walsender(&app).await;
        for n in 1..=300 {
            app.sql(&send(n)).await;
        }
        let replay = json!({"since": 0, "limit": 25});
        let mut channel = join_replaying(&app, version, "room", replay).await;
        late.run("commit").await;
        for n in 301..=310 {
            app.sql(&send(n)).await;
        }
        drop(stopped);
        for n in 311..=320 {
            app.sql(&send(n)).await;
        }
        let (mut numbers, mut replayed) = (Vec::new(), 0);
        while numbers.last() != Some(&320) {
            let frame = channel.heard().await.payload;
            replayed += u64::from(frame["meta"]["replayed"] == true);
            numbers.push(frame["payload"]["n"].as_u64().unwrap());
        }
        // What was not committed when the others were read comes in its turn.
        let expected: Vec<u64> = (276..=300).chain([0]).chain(301..=320).collect();
        assert_eq!(numbers, expected);
        assert_eq!(replayed, 25);
    }
}
