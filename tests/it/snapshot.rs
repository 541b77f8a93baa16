//! `snapshot: true`: the rows that are there, then every change that they do not hold, each once.

mod interleavings;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use walcast::testing::{
    App, Change, PUBLISHABLE_KEY, Socket, Subscriber, Version, eventually, join_payload, user,
};

use crate::world::{
    ALICE, BOB, CAROL, DIARY, TALK, all, contents, filtered, say, start, start_with,
    start_with_environment,
};

/// The binding with `snapshot`.
fn with(mut binding: Value, snapshot: Value) -> Value {
    binding["snapshot"] = snapshot;
    binding
}

fn now(table: &str) -> Value {
    with(all(table), json!(true))
}

/// What the join is refused with.
async fn refusal(app: &App, token: &str, bindings: &Value) -> String {
    let mut socket = Socket::connect(app.server.port(), PUBLISHABLE_KEY, Version::V2).await;
    let join_ref = socket.next_reference();
    let payload = join_payload(bindings, Some(token));
    socket
        .send(
            Some(&join_ref),
            &join_ref,
            "realtime:room",
            "phx_join",
            &payload,
        )
        .await;
    let reply = socket.reply(&join_ref).await.payload;
    assert_eq!(reply["status"], "error", "{reply}");
    reply["response"]["reason"].as_str().unwrap().to_owned()
}

fn ids(rows: &[Change]) -> Vec<i64> {
    rows.iter()
        .map(|row| row.record()["id"].as_i64().unwrap())
        .collect()
}

#[tokio::test]
async fn everybody_gets_the_rows_that_they_may_see_and_then_the_changes() {
    let app = start().await;
    app.sql(&format!(
        "{} {}",
        say(TALK, "old talk"),
        say(DIARY, "old diary")
    ))
    .await;
    let mut alice = app.subscribe(&user(ALICE), now("messages")).await;
    let mut carol = app.subscribe(&user(CAROL), now("messages")).await;
    let mut nobody = app
        .subscribe(
            &user("d0000000-0000-4000-8000-000000000009"),
            now("messages"),
        )
        .await;
    assert_eq!(contents(&alice.snapshot().await), ["old talk"]);
    assert_eq!(contents(&carol.snapshot().await), ["old diary"]);
    assert!(nobody.snapshot().await.is_empty());
    app.sql(&format!(
        "{} {}",
        say(TALK, "new talk"),
        say(DIARY, "new diary")
    ))
    .await;
    let fence = app.fence().await;
    assert_eq!(contents(&alice.until(fence).await), ["new talk"]);
    assert_eq!(contents(&carol.until(fence).await), ["new diary"]);
    assert!(nobody.until(fence).await.is_empty());
    app.sql("delete from messages where content = 'old talk'")
        .await;
    let deleted = app.settled(&mut alice).await;
    assert_eq!(deleted[0].kind(), "DELETE");
}

const KINDS: &str = "
    create type mood as enum ('sad', 'glad');
    create domain plain as numeric(10, 2);
    create type pair as (a int, b text);
    create table kinds (id int primary key, amount numeric, price plain, yes boolean, doc jsonb, raw json, tags text[], at timestamptz,
      day date, fixed char(5), bits bytea, feeling mood, two pair, span int4range, real real, nothing text,
      doubled int generated always as (id * 2) stored);
    grant select on kinds to authenticated;
    alter publication supabase_realtime add table kinds;
    create function kind(n int) returns void language sql as $$
      insert into public.kinds values (n, 1.50, 2.5, true, '{\"b\": 1, \"a\": [null]}', '{\"b\": 1}', '{x,\"y z\",null}',
        '2024-02-03 04:05:06.789+00', '2024-02-03', 'ab', '\\xdeadbeef', 'glad', '(1,two)', '[1,5)', 0.1, null) $$;
";

#[tokio::test]
async fn a_row_looks_the_same_as_when_it_is_inserted() {
    let app = start_with(KINDS).await;
    app.sql("select kind(1)").await;
    let mut subscriber = app.subscribe(&user(ALICE), now("kinds")).await;
    let rows = subscriber.snapshot().await;
    app.sql("select kind(1 + 1)").await;
    let live = subscriber.change().await;
    let mut row = rows[0].data.clone();
    let mut change = live.data.clone();
    assert_eq!(row["record"]["id"], 1);
    assert_eq!(change["record"]["id"], 2);
    for data in [&mut row, &mut change] {
        data["record"]["id"] = Value::Null;
        for key in ["commit_lsn", "cursor", "commit_timestamp"] {
            assert!(data[key].is_string(), "{key}");
            data[key] = Value::Null;
        }
    }
    assert_eq!(row["snapshot"], true);
    row.as_object_mut().unwrap().remove("snapshot");
    assert_eq!(row, change);
}

const RANKED: &str = "
    create table ranked (id int primary key, body text, rank int, secret text, flag boolean);
    insert into ranked select n, 'Body ' || n, -n, 'hidden', case n % 3 when 0 then true when 1 then false end
      from generate_series(1, 9) n;
    alter table ranked enable row level security;
    create policy most on ranked for select to authenticated using (id <> 5);
    grant select (id, body, rank, flag) on ranked to authenticated;
    alter publication supabase_realtime add table ranked;
";

#[tokio::test]
async fn filters_columns_order_and_limit_hold() {
    let app = start_with(RANKED).await;
    let cases = [
        ("", json!(true), vec![1, 2, 3, 4, 6, 7, 8, 9]),
        ("id=eq.4", json!(true), vec![4]),
        ("id=in.(2,5,7)", json!(true), vec![2, 7]),
        ("id=gt.6,rank=neq.-8", json!(true), vec![7, 9]),
        ("body=like.%7", json!(true), vec![7]),
        ("body=ilike.body 8", json!(true), vec![8]),
        ("body=match.[12]$", json!(true), vec![1, 2]),
        ("flag=is.true", json!(true), vec![3, 6, 9]),
        ("flag=is.null", json!({"order": "id"}), vec![2, 8]),
        (
            "flag=isdistinct.true",
            json!({"order": "id.asc"}),
            vec![1, 2, 4, 7, 8],
        ),
        (
            "flag=not.isdistinct.true",
            json!({"order": "id.desc"}),
            vec![9, 6, 3],
        ),
        (
            "flag=not.is.null",
            json!({"order": "rank", "limit": 2}),
            vec![9, 7],
        ),
        ("", json!({"order": "rank.asc", "limit": 3}), vec![9, 8, 7]),
        ("", json!({"order": "flag.desc", "limit": 3}), vec![2, 8, 3]),
        ("", json!({"limit": 2}), vec![1, 2]),
    ];
    for (filter, snapshot, expected) in cases {
        let binding = match filter {
            "" => all("ranked"),
            filter => filtered("ranked", filter),
        };
        let mut subscriber = app
            .subscribe(&user(ALICE), with(binding, snapshot.clone()))
            .await;
        let rows = subscriber.snapshot().await;
        let mut found = ids(&rows);
        if snapshot == true {
            found.sort_unstable();
        }
        assert_eq!(found, expected, "{filter} {snapshot}");
        for row in rows {
            assert!(row.record().get("secret").is_none(), "{row:?}");
            assert_eq!(row.data["columns"].as_array().unwrap().len(), 4);
        }
    }
    let mut binding = with(all("ranked"), json!({"limit": 1}));
    binding["select"] = json!(["body"]);
    let mut subscriber = app.subscribe(&user(ALICE), binding).await;
    let rows = subscriber.snapshot().await;
    assert_eq!(rows[0].record(), &json!({"id": 1, "body": "Body 1"}));
}

#[tokio::test]
async fn each_binding_gets_its_own_rows() {
    let app = start_with(RANKED).await;
    app.sql("insert into notes values (1, 'note', 1)").await;
    let bindings = json!([
        with(filtered("ranked", "id=lt.3"), json!({"order": "id"})),
        with(all("notes"), json!(true)),
        all("conversations"),
        with(filtered("ranked", "id=eq.2"), json!(true)),
        with(filtered("ranked", "id=eq.2"), json!(true)),
    ]);
    let mut subscriber = app.subscribe(&user(ALICE), bindings).await;
    let known = subscriber.ids.clone();
    assert_eq!(known[3], known[4]);
    let rows: Vec<(i64, i64)> = subscriber
        .snapshot()
        .await
        .iter()
        .map(|row| (row.ids[0], row.record()["id"].as_i64().unwrap()))
        .collect();
    let expected = [(known[0], 1), (known[0], 2), (known[1], 1), (known[3], 2)];
    assert_eq!(rows, expected);
}

#[tokio::test]
async fn partitions_children_and_publications_are_followed() {
    let app = start_with(
        "create table parted (id int primary key, body text) partition by range (id);
         create table parted_1 partition of parted for values from (0) to (10);
         create table parted_2 partition of parted for values from (10) to (20);
         insert into parted values (1, 'a'), (11, 'b');
         create table parent (id int primary key, body text);
         create table child (primary key (id)) inherits (parent);
         insert into parent values (1, 'parent');
         insert into child values (2, 'child');
         grant select on parted, parted_1, parted_2, parent, child to authenticated;
         alter publication supabase_realtime add table parted, parent, child;",
    )
    .await;
    let rows = async |table: &str| {
        let binding = with(all(table), json!({"order": "id"}));
        let mut subscriber = app.subscribe(&user(ALICE), binding).await;
        ids(&subscriber.snapshot().await)
    };
    assert_eq!(rows("parted_1").await, [1]);
    assert_eq!(rows("parent").await, [1]);
    assert_eq!(rows("child").await, [2]);
    app.sql("alter publication supabase_realtime set (publish_via_partition_root = true)")
        .await;
    eventually("the root is published", || async {
        let binding = with(all("parted"), json!({"order": "id"}));
        let token = user(ALICE);
        let mut subscriber = Subscriber::try_join(app.server.port(), &token, &binding).await?;
        assert_eq!(ids(&subscriber.snapshot().await), [1, 11]);
        Some(())
    })
    .await;
}

#[tokio::test]
async fn rows_and_columns_that_are_not_published_are_not_shown() {
    let app = start_with(
        "create table part_of (id int primary key, body text, inner_text text);
         insert into part_of values (1, 'no', 'x'), (2, 'yes', 'x');
         grant select on part_of to authenticated;
         alter publication supabase_realtime add table part_of (id, body) where (id > 1);",
    )
    .await;
    let mut subscriber = app.subscribe(&user(ALICE), now("part_of")).await;
    let rows = subscriber.snapshot().await;
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].record(), &json!({"id": 2, "body": "yes"}));
}

#[tokio::test]
async fn what_cannot_be_shown_is_said_once_per_table() {
    let app = start_with(
        "create schema mixed;
         grant usage on schema mixed to authenticated, anon;
         create table mixed.a (id int primary key);
         create table mixed.keyless (id int);
         create table mixed.locked (id int primary key);
         create table mixed.secret_key (id int primary key, body text);
         insert into mixed.a values (1);
         insert into mixed.keyless values (1), (2);
         insert into mixed.locked values (1), (2);
         insert into mixed.secret_key values (1, 'x'), (2, 'y');
         grant select on mixed.a, mixed.keyless to authenticated;
         grant select (body) on mixed.secret_key to authenticated;
         alter publication supabase_realtime add table mixed.a, mixed.keyless, mixed.locked, mixed.secret_key;",
    )
    .await;
    let binding = json!({"event": "INSERT", "schema": "mixed", "snapshot": true});
    let mut subscriber = app.subscribe(&user(ALICE), binding).await;
    let rows = subscriber.snapshot().await;
    let told: Vec<String> = rows
        .iter()
        .map(|row| {
            format!(
                "{} {} {}",
                row.data["table"],
                row.record(),
                row.data["errors"]
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            "\"a\" {\"id\":1} null",
            "\"keyless\" {} [\"Error 400: Bad Request, no primary key\"]",
            "\"locked\" {} [\"Error 401: Unauthorized\"]",
            "\"secret_key\" {} [\"Error 401: Unauthorized\"]",
        ]
    );
}

#[tokio::test]
async fn malformed_wishes_are_join_errors() {
    let app = start_with(RANKED).await;
    let token = user(ALICE);
    let expected = "RealtimeDisabledForConfiguration: Error parsing `snapshot`: expected true or {\"limit\": n, \"order\": \"column.asc\"}";
    for snapshot in [
        json!("yes"),
        json!(1),
        json!({"limit": 0}),
        json!({"offset": 1}),
    ] {
        let told = refusal(&app, &token, &with(all("notes"), snapshot)).await;
        assert_eq!(told, expected);
    }
    let mut both = now("notes");
    both["since"] = json!("2024-01-01T00:00:00Z");
    assert!(refusal(&app, &token, &both).await.contains("`since`"));
    let mut updates = now("notes");
    updates["event"] = json!("UPDATE");
    assert!(refusal(&app, &token, &updates).await.contains("INSERT"));

    // A column that the role may not read does not exist for it, nor does SQL.
    for column in ["secret", "nothing", "id; drop table notes", "id\" desc --"] {
        let mut payload =
            join_payload(&with(all("ranked"), json!({"order": column})), Some(&token));
        payload["config"]["postgres_changes_options"] = json!({"wait": true});
        let mut socket = Socket::connect(app.server.port(), PUBLISHABLE_KEY, Version::V2).await;
        socket
            .send(Some("1"), "1", "realtime:room", "phx_join", &payload)
            .await;
        let reply = socket.reply("1").await.payload;
        let reason = reply["response"]["reason"].as_str().unwrap();
        let told = format!("ERROR P0001 (raise_exception) invalid column for order {column}");
        assert!(reason.ends_with(&told), "{reason}");
    }
}

#[tokio::test]
async fn what_is_too_large_is_refused() {
    let environment = [
        ("WALCAST_SNAPSHOT_ROWS_MAX", "10"),
        ("WALCAST_SNAPSHOT_BYTES_MAX", "8KiB"),
        ("WALCAST_SNAPSHOT_TIMEOUT", "700ms"),
        ("WALCAST_SNAPSHOT_CONNECTIONS", "1"),
    ];
    let app = start_with_environment(
        "insert into notes select n, 'x', n from generate_series(1, 11) n;
         create table large (id int primary key, body text);
         insert into large select n, repeat('x', 3000) from generate_series(1, 4) n;
         create table slow (id int primary key);
         insert into slow select generate_series(1, 9);
         create function pause(n int) returns boolean language plpgsql as
           $$ begin perform pg_sleep(case n when 1 then 0 else 0.4 end); return true; end $$;
         alter table slow enable row level security;
         create policy slow on slow for select to authenticated using (pause(id));
         create policy never on slow as restrictive for select to authenticated using (id < 100);
         grant select on large, slow to authenticated;
         alter publication supabase_realtime add table large, slow;",
        &environment,
    )
    .await;
    let token = user(ALICE);
    let rows = refusal(&app, &token, &now("notes")).await;
    assert_eq!(rows, "SnapshotTooLarge: more than 10 rows");
    let bytes = refusal(&app, &token, &now("large")).await;
    assert_eq!(bytes, "SnapshotTooLarge: more than 8192 bytes");
    let slow = refusal(&app, &token, &now("slow")).await;
    assert!(
        [
            "SnapshotTooLarge: more than 700 ms",
            "SnapshotFailed: Row-level security check failed (57014)"
        ]
        .contains(&slow.as_str()),
        "{slow}"
    );
    // Less than that is no trouble.
    let binding = with(all("notes"), json!({"limit": 10, "order": "id.desc"}));
    let mut subscriber = app.subscribe(&token, binding).await;
    assert_eq!(
        ids(&subscriber.snapshot().await),
        [11, 10, 9, 8, 7, 6, 5, 4, 3, 2]
    );
    let metrics = app.server.get("/metrics").await.unwrap().body;
    assert!(
        metrics.contains("walcast_snapshots_total{result=\"taken\"} 1\n"),
        "{metrics}"
    );
    assert!(metrics.contains("walcast_snapshot_rows_total 10\n"));
}

#[tokio::test]
async fn a_policy_that_raises_or_sleeps_hurts_nobody_else() {
    let app = start_with_environment(
        &format!(
            "insert into notes values (1, 'one', 1);
             create table fragile (id int primary key);
             insert into fragile values (1);
             create function temper() returns boolean language plpgsql stable as $$ begin
               if auth.uid() = '{ALICE}' then perform pg_sleep(60); end if;
               if auth.uid() = '{BOB}' then raise division_by_zero; end if;
               return true; end $$;
             alter table fragile enable row level security;
             create policy temper on fragile for select to authenticated using (temper());
             grant select on fragile to authenticated;
             alter publication supabase_realtime add table fragile;"
        ),
        &[("WALCAST_SNAPSHOT_TIMEOUT", "1s")],
    )
    .await;
    let (alice, bob) = (user(ALICE), user(BOB));
    let (binding, started) = (now("fragile"), Instant::now());
    let (asleep, raised, ()) = tokio::join!(
        refusal(&app, &alice, &binding),
        refusal(&app, &bob, &binding),
        async {
            let mut carol = app.subscribe(&user(CAROL), now("fragile")).await;
            assert_eq!(ids(&carol.snapshot().await), [1]);
            let mut other = app.subscribe(&user(CAROL), now("notes")).await;
            assert_eq!(ids(&other.snapshot().await), [1]);
            assert!(started.elapsed() < Duration::from_secs(10));
        }
    );
    let failed = |state: &str| format!("SnapshotFailed: Row-level security check failed ({state})");
    assert_eq!(asleep, failed("57014"));
    assert_eq!(raised, failed("22012"));
}

/// Joins as newest clients may: without a token.
async fn join_without_token(app: &App, bindings: &Value) -> Subscriber {
    Subscriber::join(app.server.port(), None, bindings).await
}

#[tokio::test]
async fn a_token_that_follows_the_join_decides() {
    let app = start().await;
    app.sql(&format!("{} {}", say(TALK, "talk"), say(DIARY, "diary")))
        .await;
    let mut late = join_without_token(&app, &now("messages")).await;
    late.set_token(&user(ALICE)).await;
    assert_eq!(contents(&late.snapshot().await), ["talk"]);
    // Without one, the connection's key does, after a while.
    let mut never = join_without_token(&app, &now("messages")).await;
    let shown = |changes: &[Change]| {
        changes
            .iter()
            .any(|change| !change.record()["content"].is_null())
    };
    assert!(!shown(&never.snapshot().await));
    app.sql(&say(TALK, "more")).await;
    let fence = app.fence().await;
    assert_eq!(contents(&late.until(fence).await), ["more"]);
    assert!(!shown(&never.until(fence).await));
}

#[tokio::test]
async fn a_token_that_changes_meanwhile_gets_its_own_rows() {
    let app = start_with(&format!(
        "create table owned (id int primary key, owner uuid);
         insert into owned values (1, '{ALICE}'), (2, '{BOB}');
         create function slowly(owner uuid) returns boolean language plpgsql stable as $$ begin
           if auth.uid() = '{ALICE}' then perform pg_sleep(1); end if;
           return owner = auth.uid(); end $$;
         alter table owned enable row level security;
         create policy own on owned for select to authenticated using (slowly(owner));
         grant select on owned to authenticated;
         alter publication supabase_realtime add table owned;"
    ))
    .await;
    let mut socket = Socket::connect(app.server.port(), PUBLISHABLE_KEY, Version::V2).await;
    let payload = join_payload(&now("owned"), Some(&user(ALICE)));
    let topic = "realtime:room";
    socket
        .send(Some("1"), "1", topic, "phx_join", &payload)
        .await;
    let reading = "select count(*) from pg_stat_activity where wait_event = 'PgSleep' and datname = current_database()";
    eventually("the policy is asked", || async {
        (app.admin.text(reading).await.as_deref() == Some("1")).then_some(())
    })
    .await;
    let token = json!({"access_token": user(BOB)});
    socket
        .send(Some("1"), "2", topic, "access_token", &token)
        .await;
    let mut rows = Vec::new();
    loop {
        let frame = socket.frame().await;
        match frame.event.as_str() {
            "phx_reply" => assert_eq!(frame.payload["status"], "ok"),
            "postgres_changes" => rows.push(frame.payload["data"]["record"]["id"].clone()),
            _ if frame.payload["message"] == "Snapshot complete" => break,
            _ => {}
        }
    }
    assert_eq!(rows, [2]);
    let metrics = app.server.get("/metrics").await.unwrap().body;
    assert!(
        metrics.contains("walcast_snapshots_total{result=\"repeated\"} 1\n"),
        "{metrics}"
    );
}

#[tokio::test]
async fn a_channel_that_is_joined_already_is_told_and_joins_again() {
    let app = start_with_environment(
        "insert into notes select n, 'x', n from generate_series(1, 11) n;",
        &[("WALCAST_SNAPSHOT_ROWS_MAX", "10")],
    )
    .await;
    let mut late = join_without_token(&app, &now("notes")).await;
    late.set_token(&user(ALICE)).await;
    assert!(!late.closed().await, "it is to join again");
    let told = late.told.last().unwrap();
    assert_eq!(told.payload["status"], "error");
    assert_eq!(
        told.payload["message"],
        "SnapshotTooLarge: more than 10 rows"
    );
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_nothing_in_the_database() {
    let app = start_with(
        "insert into notes select n, repeat('x', 4000), n from generate_series(1, 6000) n;",
    )
    .await;
    let token = user(ALICE);
    let mut socket = Socket::connect(app.server.port(), PUBLISHABLE_KEY, Version::V2).await;
    let payload = join_payload(&now("notes"), Some(&token));
    socket
        .send(Some("1"), "1", "realtime:room", "phx_join", &payload)
        .await;
    eventually("rows wait on disk", || async {
        let metrics = app.server.get("/metrics").await.unwrap().body;
        let taken = metrics.contains("walcast_snapshots_total{result=\"taken\"} 1\n");
        taken.then_some(())
    })
    .await;
    let held = "select count(*) from pg_stat_activity
        where application_name = 'walcast snapshots' and (state <> 'idle' or backend_xmin is not null)";
    eventually("the connections are free", || async {
        (app.admin.text(held).await.as_deref() == Some("0")).then_some(())
    })
    .await;
    // What happens meanwhile comes after it.
    app.sql("update notes set body = 'y' where id = 1").await;
    let mut rows = BTreeSet::new();
    loop {
        let frame = socket.frame().await;
        match frame.event.as_str() {
            "postgres_changes" => {
                let data = &frame.payload["data"];
                if data["type"] == "UPDATE" {
                    assert_eq!(data["record"]["body"], "y");
                    break;
                }
                assert_eq!(data["snapshot"], true);
                assert!(rows.insert(data["record"]["id"].as_i64().unwrap()));
            }
            "system" if frame.payload["message"] == "Snapshot complete" => {
                assert_eq!(rows.len(), 6_000);
            }
            _ => {}
        }
    }
    eventually("the disk is free", || async {
        let metrics = app.server.get("/metrics").await.unwrap().body;
        metrics.contains("walcast_snapshot_bytes 0\n").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_table_that_is_emptied_and_filled_never_looks_empty() {
    let app = start_with("insert into notes select n, 'x', n from generate_series(1, 50) n;").await;
    let end = Instant::now() + Duration::from_secs(3);
    let session = app.session().await;
    let churn = async {
        while Instant::now() < end {
            session
                .run("begin; truncate notes; insert into notes select n, 'x', n from generate_series(1, 50) n; commit")
                .await;
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    };
    let read = async {
        let mut count = 0;
        while Instant::now() < end {
            let mut subscriber = app.subscribe(&user(ALICE), now("notes")).await;
            assert_eq!(subscriber.snapshot().await.len(), 50);
            count += 1;
        }
        count
    };
    let ((), count) = tokio::join!(churn, read);
    assert!(count > 0);
}
