//! Promise 2: every visible change arrives once, in commit order, as its transaction left it.

use std::collections::HashSet;

use serde_json::{Value, json};
use walcast::testing::{App, Change, Subscriber, expiring, user};

use crate::world::{
    ALICE, BOB, TALK, all, brief, contents, filtered, say, start, start_with, subscribe,
};

/// Runs SQL and gives what an unfiltered subscriber of `notes` got of it.
async fn outcome(app: &App, subscriber: &mut Subscriber, sql: &str) -> Vec<Change> {
    app.sql(sql).await;
    app.settled(subscriber).await
}

/// Types and records of changes; of a DELETE, the old record.
fn rows(changes: &[Change]) -> Vec<(String, Value)> {
    changes
        .iter()
        .map(|change| {
            let row = if change.kind() == "DELETE" {
                change.old_record()
            } else {
                change.record()
            };
            (change.kind().to_owned(), row.clone())
        })
        .collect()
}

fn note(id: i32, body: &str, rank: i32) -> Value {
    json!({"id": id, "body": body, "rank": rank})
}

#[tokio::test]
async fn a_row_written_several_times_in_a_transaction_arrives_as_its_net_effect() {
    let app = start_with("alter table notes replica identity full;").await;
    app.sql("insert into notes select n, 'old', n from generate_series(100, 120) as n")
        .await;
    let mut alice = subscribe(&app, ALICE, "notes").await;
    let insert = |row: Value| ("INSERT".to_owned(), row);
    let update = |row: Value| ("UPDATE".to_owned(), row);
    let delete = |row: Value| ("DELETE".to_owned(), row);
    let cases: Vec<(&str, Vec<(String, Value)>)> = vec![
        (
            "insert into notes values (1, 'a', 1); update notes set body = 'b' where id = 1;
             update notes set rank = 2 where id = 1",
            vec![insert(note(1, "b", 2))],
        ),
        (
            "update notes set body = 'x' where id = 100; update notes set rank = 7 where id = 100",
            vec![update(note(100, "x", 7))],
        ),
        (
            "insert into notes values (2, 'a', 1); delete from notes where id = 2",
            vec![],
        ),
        (
            "insert into notes values (3, 'a', 1); update notes set body = 'b' where id = 3; delete from notes where id = 3",
            vec![],
        ),
        (
            "update notes set body = 'x' where id = 101; delete from notes where id = 101",
            vec![delete(note(101, "old", 101))],
        ),
        (
            "insert into notes values (4, 'a', 1); update notes set id = 5 where id = 4",
            vec![insert(note(5, "a", 1))],
        ),
        (
            // Deleted and inserted again: for a reader of before and after, the row has changed.
            "delete from notes where id = 102; insert into notes values (102, 'again', 1)",
            vec![delete(note(102, "old", 102)), insert(note(102, "again", 1))],
        ),
        (
            "update notes set id = 203 where id = 103; update notes set body = 'moved' where id = 203",
            vec![update(note(203, "moved", 103))],
        ),
    ];
    for (sql, expected) in cases {
        let changes = outcome(&app, &mut alice, sql).await;
        let got = rows(&changes);
        // For delete + insert one UPDATE says the same; both are a net effect.
        let as_update = expected.len() == 2 && got == [update(expected[1].1.clone())];
        assert!(
            got == expected || as_update,
            "{sql}: {got:?} instead of {expected:?}"
        );
    }
}

#[tokio::test]
async fn updates_carry_the_first_old_version_of_the_transaction() {
    let app = start_with(
        "alter table notes replica identity full; insert into notes values (1, 'first', 1);",
    )
    .await;
    let mut alice = subscribe(&app, ALICE, "notes").await;
    app.sql("update notes set body = 'second'; update notes set body = 'third'; update notes set id = 2").await;
    let changes = app.settled(&mut alice).await;
    assert_eq!(changes.len(), 1);
    assert_eq!(changes[0].old_record(), &note(1, "first", 1));
    assert_eq!(changes[0].record(), &note(2, "third", 1));
}

#[tokio::test]
async fn keys_that_change_hands_are_followed() {
    let app = start_with("insert into notes values (1, 'one', 1), (2, 'two', 2);").await;
    let mut alice = subscribe(&app, ALICE, "notes").await;
    app.sql("update notes set id = 9 where id = 1; update notes set id = 1 where id = 2; update notes set id = 2 where id = 9")
        .await;
    let changes = app.settled(&mut alice).await;
    let mut last: Vec<(i64, String)> = changes
        .iter()
        .filter(|change| change.kind() != "DELETE")
        .map(|change| {
            let record = change.record();
            (
                record["id"].as_i64().unwrap(),
                record["body"].as_str().unwrap().to_owned(),
            )
        })
        .collect();
    last.sort();
    assert_eq!(
        last,
        [(1, "two".to_owned()), (2, "one".to_owned())],
        "{changes:#?}"
    );
    assert!(
        changes.iter().all(|change| change.record()["id"] != 9),
        "the passing key was never committed"
    );
}

#[tokio::test]
async fn savepoints_and_exception_blocks_leave_only_what_was_kept() {
    let app = start().await;
    let mut alice = subscribe(&app, ALICE, "notes").await;
    let changes = outcome(
        &app,
        &mut alice,
        "begin;
         insert into notes values (1, 'kept', 1);
         savepoint a; insert into notes values (2, 'undone', 1); update notes set body = 'undone' where id = 1; rollback to a;
         savepoint b; insert into notes values (3, 'kept', 1); release b;
         savepoint c; savepoint d; insert into notes values (4, 'undone', 1); release d; rollback to c;
         update notes set rank = 2 where id = 3;
         commit",
    )
    .await;
    assert_eq!(
        rows(&changes),
        [
            ("INSERT".to_owned(), note(1, "kept", 1)),
            ("INSERT".to_owned(), note(3, "kept", 2))
        ]
    );
    let changes = outcome(
        &app,
        &mut alice,
        "do $$ begin
           insert into notes values (10, 'kept', 1);
           begin insert into notes values (11, 'undone', 1); insert into notes values (10, 'twice', 1);
           exception when unique_violation then insert into notes values (12, 'instead', 1); end;
           begin update notes set rank = 5 where id = 12; exception when others then null; end;
         end $$",
    )
    .await;
    assert_eq!(
        rows(&changes),
        [
            ("INSERT".to_owned(), note(10, "kept", 1)),
            ("INSERT".to_owned(), note(12, "instead", 5))
        ]
    );
    app.sql("begin; insert into notes values (20, 'undone', 1); rollback")
        .await;
    assert_eq!(brief(&app.settled(&mut alice).await), [""; 0]);
}

#[tokio::test]
async fn savepoints_count_under_row_security_too() {
    let app = start().await;
    let mut alice = subscribe(&app, ALICE, "messages").await;
    let sql = format!(
        "begin; {} savepoint a; {} rollback to a; savepoint b; {} update messages set is_read = true; release b; commit",
        say(TALK, "first"),
        say(TALK, "undone"),
        say(TALK, "second")
    );
    let changes = outcome(&app, &mut alice, &sql).await;
    assert_eq!(contents(&changes), ["first", "second"]);
    assert!(
        changes
            .iter()
            .all(|change| change.kind() == "INSERT" && change.record()["is_read"] == true)
    );
}

#[tokio::test]
async fn ddl_between_two_changes_of_a_transaction_shows_in_the_second_alone() {
    let app = start().await;
    let mut alice = subscribe(&app, ALICE, "notes").await;
    let changes = outcome(
        &app,
        &mut alice,
        "begin;
         insert into notes values (1, 'before', 1);
         alter table notes add column extra text default 'd';
         insert into notes values (2, 'after', 2, 'x');
         alter table notes drop column body;
         insert into notes values (3, 3, 'y');
         alter table notes rename column rank to place;
         insert into notes values (4, 4, 'z');
         commit;",
    )
    .await;
    assert_eq!(
        brief(&changes),
        ["INSERT 1", "INSERT 2", "INSERT 3", "INSERT 4"]
    );
    assert_eq!(
        changes[0].record(),
        &json!({"id": 1, "body": "before", "rank": 1})
    );
    assert_eq!(
        changes[1].record(),
        &json!({"id": 2, "body": "after", "rank": 2, "extra": "x"})
    );
    assert_eq!(
        changes[2].record(),
        &json!({"id": 3, "rank": 3, "extra": "y"})
    );
    assert_eq!(
        changes[3].record(),
        &json!({"id": 4, "place": 4, "extra": "z"})
    );
    app.sql(
        "alter table notes alter column place type text; insert into notes values (5, 'five', 'w')",
    )
    .await;
    assert_eq!(
        alice.change().await.record(),
        &json!({"id": 5, "place": "five", "extra": "w"})
    );
}

#[tokio::test]
async fn a_renamed_and_a_recreated_table_are_told_apart() {
    let app = start().await;
    let mut alice = app
        .subscribe(&user(ALICE), json!({"event": "*", "schema": "public"}))
        .await;
    app.sql("alter table notes rename to scraps; insert into scraps values (1, 'renamed', 1)")
        .await;
    assert_eq!(alice.change().await.data["table"], "scraps");
    app.sql(
        "drop table scraps; create table scraps (id text primary key); grant select on scraps to authenticated;
         alter publication supabase_realtime add table scraps; insert into scraps values ('new')",
    )
    .await;
    let change = alice.change().await;
    assert_eq!(
        (change.kind(), change.record()),
        ("INSERT", &json!({"id": "new"}))
    );
}

#[tokio::test]
async fn changes_arrive_in_commit_order_with_growing_cursors() {
    let app = start().await;
    let mut alice = subscribe(&app, ALICE, "notes").await;
    // Begun first, committed last.
    let late = app.session().await;
    late.run("begin").await;
    late.run("insert into notes values (1, 'late', 1)").await;
    app.sql("insert into notes values (2, 'early', 1), (3, 'early', 1)")
        .await;
    late.run("insert into notes values (4, 'late', 1)").await;
    late.run("commit").await;
    app.sql("insert into notes select n, 'bulk', n from generate_series(10, 1500) as n")
        .await;
    let changes = app.settled(&mut alice).await;
    let ids: Vec<i64> = changes
        .iter()
        .map(|change| change.record()["id"].as_i64().unwrap())
        .collect();
    let expected: Vec<i64> = [2, 3, 1, 4].into_iter().chain(10..=1500).collect();
    assert_eq!(ids, expected);
    let cursors: HashSet<&str> = changes
        .iter()
        .map(|change| change.data["cursor"].as_str().unwrap())
        .collect();
    assert_eq!(
        cursors.len(),
        changes.len(),
        "every change has a cursor of its own"
    );
    let lasts: Vec<usize> = (0..changes.len())
        .filter(|&place| changes[place].last)
        .collect();
    assert_eq!(lasts, [1, 3, changes.len() - 1]);
    assert_eq!(changes[0].data["commit_lsn"], changes[1].data["commit_lsn"]);
    assert_ne!(changes[1].data["commit_lsn"], changes[2].data["commit_lsn"]);
}

#[tokio::test]
async fn subscribed_means_that_every_later_commit_arrives() {
    let app = start().await;
    let writer = app.session().await;
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stopped = stop.clone();
    let writing = tokio::spawn(async move {
        let mut n = 0;
        while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
            n += 1;
            writer
                .run(&format!("insert into notes values ({n}, 'note', {n})"))
                .await;
        }
    });
    for _ in 0..20 {
        let mut alice = subscribe(&app, ALICE, "notes").await;
        let committed = app
            .admin
            .text("select coalesce(max(id), 0) from notes")
            .await
            .unwrap();
        let committed: i64 = committed.parse().unwrap();
        let first = alice.change().await.record()["id"].as_i64().unwrap();
        assert!(
            first <= committed + 1,
            "subscribed, then {committed} was committed, but {first} came first"
        );
        let mut previous = first;
        for change in alice.changes(20).await {
            let id = change.record()["id"].as_i64().unwrap();
            assert_eq!(id, previous + 1, "a gap or a repetition");
            previous = id;
        }
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    writing.await.unwrap();
}

#[tokio::test]
async fn a_row_changed_again_at_once_is_never_dropped_for_it() {
    let app = start().await;
    let mut alice = subscribe(&app, ALICE, "messages").await;
    let mut statements = String::new();
    for n in 0..50 {
        statements.push_str(&say(TALK, &format!("m{n}")));
        for round in 1..=5 {
            statements.push_str(&format!(
                "update messages set message_type = 't{round}' where content = 'm{n}';"
            ));
        }
    }
    // Each statement is a transaction of its own, faster than verdicts can be asked.
    let session = app.session().await;
    for statement in statements.split_inclusive(';') {
        session.run(statement).await;
    }
    let changes = app.settled(&mut alice).await;
    for n in 0..50 {
        let of_row: Vec<&Change> = changes
            .iter()
            .filter(|change| change.record()["content"] == format!("m{n}"))
            .collect();
        assert_eq!(
            of_row.first().map(|change| change.kind()),
            Some("INSERT"),
            "m{n}"
        );
        assert_eq!(
            of_row.last().unwrap().record()["message_type"],
            "t5",
            "m{n} ends with its last version"
        );
        assert!(
            of_row[1..].iter().all(|change| change.kind() == "UPDATE"),
            "m{n}"
        );
    }
}

#[tokio::test]
async fn replica_identities_decide_what_is_known_of_the_old_row() {
    let app = start_with(
        "create unique index notes_rank on notes (rank); alter table notes alter column rank set not null;
         insert into notes values (1, 'a', 10);",
    )
    .await;
    let mut alice = subscribe(&app, ALICE, "notes").await;
    app.sql("update notes set body = 'b'").await;
    assert_eq!(
        alice.change().await.old_record(),
        &json!({"id": 1}),
        "default: the key, though unchanged"
    );
    app.sql("update notes set id = 2").await;
    assert_eq!(
        alice.change().await.old_record(),
        &json!({"id": 1}),
        "default: the key as it was"
    );
    app.sql("alter table notes replica identity full").await;
    app.sql("update notes set body = 'c'").await;
    assert_eq!(alice.change().await.old_record(), &note(2, "b", 10));
    app.sql("alter table notes replica identity using index notes_rank")
        .await;
    app.sql("update notes set rank = 11").await;
    assert_eq!(
        alice.change().await.old_record(),
        &json!({"rank": 10}),
        "index: its columns"
    );
    app.sql("delete from notes").await;
    assert_eq!(alice.change().await.old_record(), &json!({"rank": 11}));
}

#[tokio::test]
async fn unchanged_toast_is_absent_or_filled_from_the_old_row() {
    let app = start_with(
        "alter table notes alter column body set storage external;
         insert into notes values (1, repeat('x', 10000), 1);",
    )
    .await;
    let mut alice = subscribe(&app, ALICE, "notes").await;
    app.sql("update notes set rank = 2").await;
    let change = alice.change().await;
    assert_eq!(change.record(), &json!({"id": 1, "rank": 2}));
    assert_eq!(
        change.data["columns"].as_array().unwrap().len(),
        3,
        "the column is still listed"
    );
    app.sql("alter table notes replica identity full").await;
    app.sql("update notes set rank = 3").await;
    let change = alice.change().await;
    assert_eq!(change.record()["body"].as_str().map(str::len), Some(10000));
    app.sql("alter table notes replica identity default").await;
    app.sql("begin; update notes set body = repeat('y', 10000); update notes set rank = 4; commit")
        .await;
    let change = alice.change().await;
    assert_eq!(change.record()["rank"], 4);
    let body = change.record()["body"].as_str();
    assert_eq!(
        body.map(|body| &body[..1]),
        Some("y"),
        "the value came earlier in the same transaction"
    );
}

#[tokio::test]
async fn unchanged_toast_under_row_security_does_not_hinder() {
    let app = start_with("alter table messages alter column content set storage external;").await;
    app.sql(&say(TALK, &"x".repeat(10000))).await;
    let mut alice = subscribe(&app, ALICE, "messages").await;
    app.sql("update messages set is_read = true").await;
    let change = alice.change().await;
    assert_eq!(change.record()["is_read"], true);
    assert!(change.record().get("content").is_none());
}

#[tokio::test]
async fn tables_without_primary_key_have_their_documented_answers() {
    let app = start_with(
        "create table loose (n int, t text); alter table loose replica identity full;
         grant select on loose to authenticated; alter publication supabase_realtime add table loose;",
    )
    .await;
    let mut alice = subscribe(&app, ALICE, "loose").await;
    let mut filtered = app
        .subscribe(&user(ALICE), filtered("loose", "n=eq.77"))
        .await;
    app.sql("insert into loose values (1, 'a')").await;
    app.sql("update loose set t = 'b'").await;
    app.sql("delete from loose").await;
    let changes = app.settled(&mut alice).await;
    assert_eq!(
        changes.iter().map(Change::kind).collect::<Vec<_>>(),
        ["INSERT", "UPDATE", "DELETE"]
    );
    for change in &changes[..2] {
        assert_eq!(
            change.data["errors"],
            json!(["Error 400: Bad Request, no primary key"])
        );
        assert_eq!(change.record(), &json!({}));
        assert_eq!(change.data["columns"], json!([]));
        assert_eq!(change.data["commit_timestamp"], Value::Null);
    }
    assert_eq!(changes[2].old_record(), &json!({"n": 1, "t": "b"}));
    assert_eq!(changes[2].data["errors"], Value::Null);
    let regardless = app.settled(&mut filtered).await;
    assert_eq!(
        regardless.iter().map(Change::kind).collect::<Vec<_>>(),
        ["INSERT", "UPDATE"],
        "the error passes every filter"
    );
    app.sql("alter table loose enable row level security").await;
    app.sql("insert into loose values (2, 'c')").await;
    app.sql("delete from loose").await;
    let changes = app.settled(&mut alice).await;
    assert_eq!(
        changes.last().unwrap().old_record(),
        &json!({}),
        "under row security: key columns only, and there are none"
    );
}

#[tokio::test]
async fn partitions_follow_the_publication() {
    let app = start_with(
        "create table parted (id int primary key, t text) partition by range (id);
         create table parted_low partition of parted for values from (0) to (100);
         create table parted_high partition of parted for values from (100) to (200);
         grant select on parted, parted_low, parted_high to authenticated;
         alter publication supabase_realtime add table parted;",
    )
    .await;
    let mut alice = app
        .subscribe(&user(ALICE), json!({"event": "*", "schema": "public"}))
        .await;
    app.sql("insert into parted values (1, 'low'), (101, 'high')")
        .await;
    let tables: Vec<Value> = alice
        .changes(2)
        .await
        .iter()
        .map(|change| change.data["table"].clone())
        .collect();
    assert_eq!(tables, ["parted_low", "parted_high"]);
    app.sql("alter publication supabase_realtime set (publish_via_partition_root = true)")
        .await;
    app.sql("insert into parted values (2, 'low')").await;
    assert_eq!(alice.change().await.data["table"], "parted");
}

#[tokio::test]
async fn truncate_is_not_delivered_and_disturbs_nothing() {
    let app = start().await;
    let mut alice = subscribe(&app, ALICE, "notes").await;
    app.sql("insert into notes values (1, 'one', 1)").await;
    app.sql("truncate notes").await;
    app.sql("insert into notes values (1, 'again', 1)").await;
    assert_eq!(
        brief(&app.settled(&mut alice).await),
        ["INSERT 1", "INSERT 1"]
    );
}

#[tokio::test]
async fn generated_defaults_and_triggers_show_as_committed() {
    let app = start_with(
        "create table logged (id int generated always as identity primary key, body text, touched int default 0);
         create function touch() returns trigger language plpgsql as $$ begin new.touched := new.touched + 1; return new; end $$;
         create trigger touch before insert or update on logged for each row execute function touch();
         grant select on logged to authenticated; alter publication supabase_realtime add table logged;",
    )
    .await;
    let mut alice = subscribe(&app, ALICE, "logged").await;
    app.sql("insert into logged (body) values ('a')").await;
    app.sql("insert into logged (body) values ('a') on conflict do nothing; update logged set body = 'b' where id = 1").await;
    let changes = app.settled(&mut alice).await;
    assert_eq!(
        changes[0].record(),
        &json!({"id": 1, "body": "a", "touched": 1})
    );
    assert!(
        changes
            .iter()
            .any(|change| change.record() == &json!({"id": 1, "body": "b", "touched": 2}))
    );
}

#[tokio::test]
async fn prepared_transactions_arrive_when_they_commit() {
    let options = walcast::testing::AppOptions {
        schema: crate::world::SCHEMA,
        environment: &[],
        private: Some(&["max_prepared_transactions=5"]),
    };
    let app = App::start_with(env!("CARGO_BIN_EXE_walcast"), &options).await;
    let mut alice = subscribe(&app, ALICE, "notes").await;
    app.sql("begin; insert into notes values (1, 'prepared', 1); prepare transaction 'p'")
        .await;
    app.sql("begin; insert into notes values (2, 'undone', 1); prepare transaction 'q'")
        .await;
    assert_eq!(brief(&app.settled(&mut alice).await), [""; 0]);
    app.sql("rollback prepared 'q'").await;
    app.sql("commit prepared 'p'").await;
    assert_eq!(brief(&app.settled(&mut alice).await), ["INSERT 1"]);
}

#[tokio::test]
async fn a_token_that_follows_its_join_counts_from_the_join_on() {
    let app = start().await;
    let mut alice = Subscriber::join(app.server.port(), None, &all("messages")).await;
    let mut bob = subscribe(&app, BOB, "messages").await;
    app.sql(&say(TALK, "committed in between")).await;
    // The row has been judged for the connection's key by the time that another has it.
    assert_eq!(contents(&[bob.change().await]), ["committed in between"]);
    // The connection's key may not see it, and nothing is said about it.
    let told = alice.socket.settle().await;
    assert!(told.is_empty(), "{told:#?}");
    alice.set_token(&user(ALICE)).await;
    app.sql(&say(TALK, "afterwards")).await;
    let changes = app.settled(&mut alice).await;
    assert_eq!(contents(&changes), ["committed in between", "afterwards"]);
}

#[tokio::test]
async fn held_back_changes_are_not_shown_to_the_wrong_user() {
    let app = start().await;
    let mut stranger = Subscriber::join(app.server.port(), None, &all("messages")).await;
    app.sql(&say(TALK, "private")).await;
    stranger
        .set_token(&user("d0000000-0000-4000-8000-000000000004"))
        .await;
    let subscribed = stranger.system().await;
    assert_eq!(subscribed["message"], "Subscribed to PostgreSQL");
    assert_eq!(contents(&app.settled(&mut stranger).await), [""; 0]);
}

#[tokio::test]
async fn a_new_token_takes_effect_and_is_confirmed() {
    let app = start_with(&format!(
        "update conversations set participant_ids = '{{{BOB}}}' where id = '{TALK}';"
    ))
    .await;
    let mut subscriber = subscribe(&app, ALICE, "messages").await;
    app.sql(&say(TALK, "for bob alone")).await;
    assert_eq!(contents(&app.settled(&mut subscriber).await), [""; 0]);
    subscriber.set_token(&user(BOB)).await;
    assert_eq!(
        subscriber.system().await["message"],
        "Subscribed to PostgreSQL"
    );
    app.sql(&say(TALK, "to bob")).await;
    assert_eq!(contents(&app.settled(&mut subscriber).await), ["to bob"]);
}

#[tokio::test]
async fn an_expired_token_ends_its_channel_alone() {
    let app = start().await;
    let socket = walcast::testing::Socket::connect(
        app.server.port(),
        walcast::testing::PUBLISHABLE_KEY,
        walcast::testing::Version::V2,
    )
    .await;
    let mut alice = Subscriber::join_on(
        socket,
        "realtime:one",
        Some(&expiring(ALICE, 3)),
        &all("notes"),
    )
    .await;
    let payload = json!({"config": {}, "access_token": user(BOB)});
    let reply = alice
        .socket
        .ask(Some("other"), "realtime:two", "phx_join", &payload)
        .await;
    assert_eq!(reply["status"], "ok");
    assert!(
        alice.closed().await,
        "phx_close, so that the client does not rejoin with the same token"
    );
    let told = alice.told.pop().unwrap().payload;
    assert_eq!(told["extension"], "system");
    assert_eq!(told["status"], "error");
    assert_eq!(told["channel"], "one");
    let message = told["message"].as_str().unwrap();
    let seconds = message
        .strip_prefix("Token has expired ")
        .and_then(|rest| rest.strip_suffix(" seconds ago"));
    assert!(
        seconds.is_some_and(|seconds| seconds.parse::<u32>().is_ok()),
        "{message}"
    );
    let left = alice
        .socket
        .ask(Some("other"), "realtime:two", "phx_leave", &json!({}))
        .await;
    assert_eq!(left["status"], "ok", "socket and other channels live on");
}

#[tokio::test]
async fn a_bad_token_ends_the_channel_and_a_publishable_key_is_ignored() {
    let app = start().await;
    let mut alice = subscribe(&app, ALICE, "notes").await;
    alice.set_token("sb_publishable_something").await;
    app.sql("insert into notes values (1, 'one', 1)").await;
    assert_eq!(brief(&app.settled(&mut alice).await), ["INSERT 1"]);
    alice.set_token("nonsense").await;
    assert!(alice.closed().await);
    assert_eq!(
        alice.told.pop().unwrap().payload["message"],
        "The token provided is not a valid JWT"
    );
}

#[tokio::test]
async fn tables_added_to_the_publication_are_announced_and_followed() {
    let app = start_with(
        "create table later (id int primary key); grant select on later to authenticated;",
    )
    .await;
    let mut alice = app
        .subscribe(&user(ALICE), json!({"event": "*", "schema": "public"}))
        .await;
    app.sql("alter publication supabase_realtime add table later")
        .await;
    assert_eq!(alice.system().await["message"], "Subscribed to PostgreSQL");
    app.sql("insert into later values (1)").await;
    assert_eq!(alice.change().await.data["table"], "later");
    app.sql("alter publication supabase_realtime drop table later")
        .await;
    assert_eq!(alice.system().await["message"], "Subscribed to PostgreSQL");
    app.sql("insert into later values (2)").await;
    assert_eq!(brief(&app.settled(&mut alice).await), [""; 0]);
}

#[tokio::test]
async fn many_rows_of_one_transaction_reach_ten_readers_in_order() {
    const ROWS: i64 = 100_000;
    let app = start_with(
        "insert into conversations (type, participant_ids)
         select 'crowd', array_agg(('a0000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid)
         from generate_series(1, 10) as n;
         alter table notes enable row level security;
         create policy \"participants\" on notes for select
           using (exists (select from conversations where auth.uid() = any (participant_ids)));",
    )
    .await;
    let mut readers = tokio::task::JoinSet::new();
    let mut subscribers = Vec::new();
    for n in 1..=10 {
        subscribers
            .push(subscribe(&app, &format!("a0000000-0000-4000-8000-{n:012}"), "notes").await);
    }
    for mut reader in subscribers {
        readers.spawn(async move {
            for expected in 1..=ROWS {
                let change = reader.change().await;
                assert_eq!(change.record()["id"].as_i64(), Some(expected));
                assert_eq!(change.last, expected == ROWS, "change {expected}");
            }
        });
    }
    app.sql(&format!(
        "insert into notes select n, 'note ' || n, n from generate_series(1, {ROWS}) as n"
    ))
    .await;
    while let Some(read) = readers.join_next().await {
        read.unwrap();
    }
}

#[tokio::test]
async fn a_table_is_there_for_who_subscribes_right_after_it_was_published() {
    let app = start().await;
    for round in 0..10 {
        let table = format!("new_{round}");
        app.sql(&format!(
            "create table {table} (id int primary key, body text); grant select on {table} to authenticated;
             alter publication supabase_realtime add table {table}"
        ))
        .await;
        // Joining fails unless it is told that it is subscribed.
        let mut alice = subscribe(&app, ALICE, &table).await;
        let sql = format!("insert into {table} values (1, 'a')");
        assert_eq!(brief(&outcome(&app, &mut alice, &sql).await), ["INSERT 1"]);
        // The same for a column, which only a filter names.
        app.sql(&format!("alter table {table} add column tag text"))
            .await;
        let mut bob = app
            .subscribe(&user(BOB), filtered(&table, "tag=eq.b"))
            .await;
        let sql = format!("insert into {table} values (2, 'a', 'a'), (3, 'b', 'b')");
        assert_eq!(brief(&outcome(&app, &mut bob, &sql).await), ["INSERT 3"]);
    }
}
