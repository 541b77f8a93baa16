//! Filters, selects and wildcards decide as Postgres would (protocol.md §4.4 and §4.5).

use serde_json::{Value, json};
use walcast::testing::{App, Subscriber, user};

use crate::world::{ALICE, all, brief, filtered, start, start_with};

const THINGS: &str = "
    create type mood as enum ('sad', 'ok', 'happy');
    create table things (
      id int primary key, name text, amount numeric, yes boolean, day date, at timestamptz, who uuid, mood mood,
      short char(4), tags text[], small int2, real float8, doc jsonb, address inet, code varchar(10), \"odd name\" text);
    grant select on things to authenticated;
    alter publication supabase_realtime add table things;
";

/// Rows 1 to 5; row 5 is all NULL but its key.
const ROWS: &str = "
    insert into things values
     (1, 'apple', 1.5, true, '2024-01-01', '2024-01-01 12:00+00', 'a0000000-0000-4000-8000-000000000001', 'sad',
      'ab', '{x,y}', 1, 0.5, '{\"a\":1}', '10.0.0.1', 'A1', 'plain'),
     (2, 'Banana', 1.50, false, '2024-02-01', '2024-02-01 12:00+00', 'b0000000-0000-4000-8000-000000000002', 'ok',
      'cd', '{}', 2, 'NaN', '{\"a\":2}', '10.0.0.2', 'B2', 'with, comma'),
     (3, 'a%b_c', 20, true, '2024-03-01', 'infinity', 'b0000000-0000-4000-8000-000000000003', 'happy',
      'ab  ', '{y,x}', -3, 1e10, '[]', '::1', 'C(3)', 'with \"quotes\" and \\ backslash'),
     (4, 'äpfel', -7, null, '2024-04-01', '-infinity', null, null, '', null, 4, '-0', null, null, '', ''),
     (5, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null);
";

/// Filter, ids that match.
const CASES: &[(&str, &[i32])] = &[
    ("id=eq.2", &[2]),
    ("id=eq. 2 ", &[2]),
    ("id=neq.2", &[1, 3, 4, 5]),
    ("id=lt.3", &[1, 2]),
    ("id=lte.3", &[1, 2, 3]),
    ("id=gt.3", &[4, 5]),
    ("id=gte.3", &[3, 4, 5]),
    ("id=in.(1,3,9)", &[1, 3]),
    ("id=not.in.(1,3)", &[2, 4, 5]),
    ("id=not.eq.2", &[1, 3, 4, 5]),
    ("id=isdistinct.2", &[1, 3, 4, 5]),
    ("id=not.isdistinct.2", &[2]),
    ("name=eq.apple", &[1]),
    ("name=neq.apple", &[2, 3, 4]),
    ("name=not.eq.apple", &[2, 3, 4]),
    ("name=isdistinct.apple", &[2, 3, 4, 5]),
    ("name=in.(apple,\"a%b_c\")", &[1, 3]),
    ("name=in.(apple,NULL)", &[1]),
    ("name=not.in.(apple,NULL)", &[]),
    ("name=like.a%", &[1, 3]),
    ("name=like.%p%l%", &[1, 4]),
    ("name=like.a\\%b%", &[3]),
    ("name=like._pple", &[1]),
    ("name=like._pfel", &[4]),
    ("name=not.like.a%", &[2, 4]),
    ("name=ilike.b%", &[2]),
    ("name=ilike.APPLE", &[1]),
    ("name=match.^a", &[1, 3]),
    ("name=match.(an){2}", &[2]),
    ("name=imatch.^B", &[2]),
    ("name=not.match.^a", &[2, 4]),
    ("name=is.null", &[5]),
    ("name=not.is.null", &[1, 2, 3, 4]),
    ("amount=eq.1.5", &[1, 2]),
    ("amount=gt.1.49", &[1, 2, 3]),
    ("amount=lt.0", &[4]),
    ("amount=in.(1.500,20)", &[1, 2, 3]),
    ("yes=eq.true", &[1, 3]),
    ("yes=eq.t", &[1, 3]),
    ("yes=is.true", &[1, 3]),
    ("yes=is.false", &[2]),
    ("yes=is.unknown", &[4, 5]),
    ("yes=not.is.true", &[2, 4, 5]),
    ("day=gte.2024-02-15", &[3, 4]),
    ("day=eq.2024-02-01", &[2]),
    ("at=gt.2024-01-15T00:00:00Z", &[2, 3]),
    ("at=eq.2024-01-01T13:00:00+01:00", &[1]),
    ("at=eq.infinity", &[3]),
    ("who=eq.A0000000-0000-4000-8000-000000000001", &[1]),
    (
        "who=in.(b0000000-0000-4000-8000-000000000002,b0000000-0000-4000-8000-000000000003)",
        &[2, 3],
    ),
    ("mood=eq.ok", &[2]),
    ("mood=gt.sad", &[2, 3]),
    ("mood=gte.happy", &[3]),
    ("short=eq.ab", &[1, 3]),
    ("tags=eq.\"{x,y}\"", &[1]),
    ("small=gt.0", &[1, 2, 4]),
    ("real=eq.NaN", &[2]),
    ("real=gt.1", &[2, 3]),
    ("real=eq.0", &[4]),
    ("doc=eq.{\"a\": 1.0}", &[1]),
    ("address=eq.10.0.0.1", &[1]),
    ("address=lt.10.0.0.2", &[1]),
    ("code=eq.C(3)", &[3]),
    ("code=eq.", &[4]),
    ("odd name=eq.\"with, comma\"", &[2]),
    (
        "odd name=eq.\"with \\\"quotes\\\" and \\\\ backslash\"",
        &[3],
    ),
    ("id=gt.1,id=lt.4", &[2, 3]),
    ("name=like.a%,yes=is.true,amount=gte.2", &[3]),
    ("", &[1, 2, 3, 4, 5]),
    ("   ", &[1, 2, 3, 4, 5]),
];

#[tokio::test]
async fn every_operator_matches_what_postgres_matches() {
    let app = start_with(THINGS).await;
    let bindings: Vec<Value> = CASES
        .iter()
        .map(|(filter, _)| filtered("things", filter))
        .collect();
    let mut subscriber = app.subscribe(&user(ALICE), json!(bindings)).await;
    let ids = subscriber.ids.clone();
    app.sql(ROWS).await;
    let changes = app.settled(&mut subscriber).await;
    let mut wrong = Vec::new();
    for (number, (filter, expected)) in CASES.iter().enumerate() {
        let got: Vec<i64> = changes
            .iter()
            .filter(|change| change.ids.contains(&ids[number]))
            .map(|change| change.record()["id"].as_i64().unwrap())
            .collect();
        let expected: Vec<i64> = expected.iter().map(|&id| i64::from(id)).collect();
        if got != expected {
            wrong.push(format!("{filter}: {got:?} instead of {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn filters_decide_each_action_on_the_right_row() {
    let app = start_with("alter table notes replica identity full;").await;
    app.sql("insert into notes values (1, 'in', 1), (2, 'out', 2)")
        .await;
    let mut subscriber = app
        .subscribe(&user(ALICE), filtered("notes", "body=eq.in"))
        .await;
    app.sql("update notes set body = 'in' where id = 2").await;
    app.sql("update notes set body = 'out' where id = 1").await;
    app.sql("delete from notes where id = 1").await;
    app.sql("delete from notes where id = 2").await;
    let changes = app.settled(&mut subscriber).await;
    assert_eq!(
        brief(&changes),
        ["UPDATE 2", "DELETE 2"],
        "updates by the new row, deletes by the old one"
    );
}

#[tokio::test]
async fn a_delete_without_the_filtered_column_does_not_match() {
    let app = start().await;
    app.sql("insert into notes values (1, 'in', 1)").await;
    let mut by_body = app
        .subscribe(&user(ALICE), filtered("notes", "body=eq.in"))
        .await;
    let mut by_not = app
        .subscribe(&user(ALICE), filtered("notes", "body=not.eq.other"))
        .await;
    let mut by_key = app
        .subscribe(&user(ALICE), filtered("notes", "id=eq.1"))
        .await;
    app.sql("delete from notes").await;
    let fence = app.fence().await;
    assert_eq!(brief(&by_body.until(fence).await), [""; 0]);
    assert_eq!(brief(&by_not.until(fence).await), [""; 0]);
    assert_eq!(brief(&by_key.until(fence).await), ["DELETE 1"]);
}

#[tokio::test]
async fn filters_hold_under_row_security() {
    let app = start_with(
        "alter table notes enable row level security;
         create policy \"even\" on notes for select using (id % 2 = 0);",
    )
    .await;
    let mut subscriber = app
        .subscribe(&user(ALICE), filtered("notes", "rank=gte.3"))
        .await;
    app.sql("insert into notes select n, 'note', n from generate_series(1, 8) as n")
        .await;
    let changes = app.settled(&mut subscriber).await;
    assert_eq!(brief(&changes), ["INSERT 4", "INSERT 6", "INSERT 8"]);
}

#[tokio::test]
async fn one_frame_carries_all_ids_that_match() {
    let app = start().await;
    let bindings = json!([
        all("notes"),
        filtered("notes", "id=eq.1"),
        {"event": "UPDATE", "schema": "public", "table": "notes"},
        {"event": "insert", "schema": "public"},
        {"event": "*", "schema": "*"},
        {"event": "nonsense", "schema": "pub_ic", "table": "not%"},
        {"table": "notes"},
        all("notes"),
    ]);
    let mut subscriber = app.subscribe(&user(ALICE), bindings).await;
    let ids = subscriber.ids.clone();
    assert_eq!(ids[0], ids[7], "identical objects share a number");
    app.sql("insert into notes values (1, 'one', 1)").await;
    let changes = app.settled(&mut subscriber).await;
    assert_eq!(changes.len(), 1);
    let mut got = changes[0].ids.clone();
    got.sort_unstable();
    got.dedup();
    let mut expected = [ids[0], ids[1], ids[3], ids[4], ids[5], ids[6]].to_vec();
    expected.sort_unstable();
    assert_eq!(got, expected);
}

#[tokio::test]
async fn selects_send_the_selected_columns_and_the_key() {
    let app = start_with("alter table notes replica identity full;").await;
    let bindings = json!([
        {"event": "*", "schema": "public", "table": "notes", "select": ["body"]},
        {"event": "*", "schema": "public", "table": "notes", "select": ["rank", 7]},
        {"event": "*", "schema": "public", "table": "notes", "select": []},
        {"event": "*", "schema": "public", "table": "notes", "select": ["body"], "filter": "rank=eq.10"},
    ]);
    let mut subscriber = app.subscribe(&user(ALICE), bindings).await;
    let ids = subscriber.ids.clone();
    app.sql("insert into notes values (1, 'one', 10)").await;
    app.sql("update notes set rank = 11").await;
    let changes = app.settled(&mut subscriber).await;
    let by = |id: i64, kind: &str| {
        let mut found = changes
            .iter()
            .filter(|change| change.ids.contains(&id) && change.kind() == kind);
        (
            found
                .next()
                .unwrap_or_else(|| panic!("{kind} for {id}: {changes:#?}")),
            found.count(),
        )
    };
    assert_eq!(
        by(ids[0], "INSERT").0.record(),
        &json!({"id": 1, "body": "one"})
    );
    assert_eq!(
        by(ids[0], "INSERT").0.data["columns"],
        json!([{"name": "id", "type": "int4"}, {"name": "body", "type": "text"}])
    );
    assert_eq!(
        by(ids[1], "INSERT").0.record(),
        &json!({"id": 1, "rank": 10})
    );
    assert_eq!(
        by(ids[2], "INSERT").0.record(),
        &json!({"id": 1, "body": "one", "rank": 10})
    );
    assert!(
        by(ids[0], "INSERT").0.ids.contains(&ids[3]),
        "the same columns travel in one frame"
    );
    assert_eq!(
        by(ids[0], "UPDATE").0.old_record(),
        &json!({"id": 1, "body": "one"})
    );
    assert_eq!(changes.len(), 6, "one frame per distinct set of columns");
}

/// Joins with one binding and gives the first `system` message.
async fn refused(app: &App, binding: Value) -> String {
    let socket = walcast::testing::Socket::connect(
        app.server.port(),
        walcast::testing::PUBLISHABLE_KEY,
        walcast::testing::Version::V2,
    )
    .await;
    let mut socket = socket;
    let payload = json!({"config": {"postgres_changes": [binding]}, "access_token": user(ALICE)});
    let reply = socket
        .ask(Some("1"), "realtime:room", "phx_join", &payload)
        .await;
    assert_eq!(
        reply["status"], "ok",
        "without `wait` a bad binding does not fail the join: {reply}"
    );
    let frame = socket.find(|frame| frame.event == "system").await;
    assert_eq!(frame.payload["extension"], "postgres_changes");
    assert_eq!(frame.payload["status"], "error", "{}", frame.payload);
    assert_eq!(frame.payload["channel"], "room");
    assert_eq!(frame.join_ref, "1");
    frame.payload["message"].as_str().unwrap().to_owned()
}

const PARSE: &str = "Error parsing `filter` params: ";

#[tokio::test]
async fn bad_bindings_have_their_documented_texts() {
    let app = start_with(&format!(
        "{THINGS} create table unpublished (id int primary key);"
    ))
    .await;
    let on = |filter: &str| filtered("things", filter);
    let many = format!(
        "id=in.({})",
        (0..101)
            .map(|n| n.to_string())
            .collect::<Vec<_>>()
            .join(",")
    );
    let exact: &[(Value, String)] = &[
        (on("undefined"), format!("{PARSE}[\"undefined\"]")),
        (on("id=foo.hey"), format!("{PARSE}[\"foo\", \"hey\"]")),
        (on("id=in.1,2"), format!("{PARSE}`in` filter value must be wrapped by parentheses")),
        (on("id=eq.1,"), format!("{PARSE}filter must not contain empty segments (check for extra commas)")),
        (on("id=eq.1,,id=eq.2"), format!("{PARSE}filter must not contain empty segments (check for extra commas)")),
        (
            json!({"event": "*", "schema": "public", "table": "things", "select": "id"}),
            "Error parsing `select` params: expected a list of column name strings, e.g. select: [\"col1\", \"col2\"]".to_owned(),
        ),
        (
            json!({"event": "*", "schema": "public", "table": "*", "select": ["id"]}),
            "Column selection is not supported for wildcard subscriptions. Provide an explicit schema and table name.".to_owned(),
        ),
        (
            json!({"event": "INSERT", "schema": "public", "table": "unpublished"}),
            "Unable to subscribe to changes with given parameters. Please check Realtime is enabled for the given connect \
             parameters: [event: INSERT, schema: public, table: unpublished, filters: [], select: nil]".to_owned(),
        ),
        (
            on("notacolumn=eq.123"),
            "Unable to subscribe to changes with given parameters. An exception happened so please check your connect \
             parameters: [event: *, schema: public, table: things, filters: [{\"notacolumn\", \"eq\", \"123\", false}], select: nil]. \
             Exception: ERROR P0001 (raise_exception) invalid column for filter notacolumn".to_owned(),
        ),
    ];
    for (binding, expected) in exact {
        assert_eq!(&refused(&app, binding.clone()).await, expected, "{binding}");
    }
    let ends: &[(Value, &str)] = &[
        (
            on(&many),
            "(raise_exception) too many values for `in` filter. Maximum 100",
        ),
        (
            on("yes=is.maybe"),
            "(raise_exception) invalid value for is filter: must be null, true, false, or unknown",
        ),
        (
            on("id=is.true"),
            "(raise_exception) is true filter requires a boolean column, got integer",
        ),
        (
            on("id=like.1%"),
            "(raise_exception) operator like requires a text-compatible column type, got integer",
        ),
        (
            on("id=eq.hey"),
            "ERROR 22P02 (invalid_text_representation) invalid input syntax for type integer: \"hey\"",
        ),
        (
            on("mood=eq.nosuch"),
            "ERROR 22P02 (invalid_text_representation) invalid input value for enum mood: \"nosuch\"",
        ),
        (
            json!({"event": "*", "schema": "public", "table": "things", "select": ["nosuch"]}),
            "(raise_exception) invalid column for select nosuch",
        ),
    ];
    for (binding, expected) in ends {
        let text = refused(&app, binding.clone()).await;
        assert!(text.ends_with(expected), "{binding}: {text}");
    }
    let starts: &[(Value, &str)] = &[
        (
            json!({"event": "*"}),
            "No subscription params provided. Please provide at least a `schema` or `table` to subscribe to: %{",
        ),
        (
            json!({"event": "*", "schema": "public", "table": "things", "filter": null}),
            "No subscription params provided. Please provide at least a `schema` or `table` to subscribe to: %{",
        ),
        (
            on("name=match.("),
            "Unable to subscribe to changes with given parameters. An exception happened",
        ),
    ];
    for (binding, expected) in starts {
        let text = refused(&app, binding.clone()).await;
        assert!(text.starts_with(expected), "{binding}: {text}");
    }
    assert!(
        refused(&app, on("name=match.("))
            .await
            .contains("invalid regular expression for match filter")
    );
}

/// Values and names that try to leave their place. Each is either refused at the subscription or matches as Postgres
/// would; the server and other subscribers live on.
#[tokio::test]
async fn hostile_filters_are_refused_or_harmless() {
    let app = start_with(THINGS).await;
    let mut witness: Subscriber = app.subscribe(&user(ALICE), all("things")).await;
    app.sql("insert into things (id, name) values (1, 'before')")
        .await;
    assert_eq!(brief(&[witness.change().await]), ["INSERT 1"]);
    for filter in [
        "name=like.abc\\",
        "name=ilike.\\",
        "name=eq.'; drop table things; --",
        "name=in.(\"'); drop table things; --\")",
        "name=in.({},\\,\")",
        "name=in.(((",
        "name; drop table things; --=eq.1",
        "\"name\"=eq.1",
        "name\"; select pg_sleep(100); --=eq.1",
        "id=eq.(select 1)",
        "id=in.(1,2) or true",
        "doc=eq.{\"a\": 1}}",
        "tags=eq.{{}",
        "name=match.(((((((((((a+)+)+)+)+)+)+)+)+)+)+$",
        "name=match.[[:nosuch:]]",
        "id=eq.99999999999999999999",
        "amount=eq.1e999999",
        "at=eq.now",
        "ctid=eq.(0,1)",
        "tableoid=eq.1",
    ] {
        let mut socket = walcast::testing::Socket::connect(
            app.server.port(),
            walcast::testing::PUBLISHABLE_KEY,
            walcast::testing::Version::V2,
        )
        .await;
        let payload = json!({"config": {"postgres_changes": [filtered("things", filter)]}, "access_token": user(ALICE)});
        let reply = socket
            .ask(Some("1"), "realtime:room", "phx_join", &payload)
            .await;
        assert_eq!(reply["status"], "ok", "{filter}");
        let frame = socket.find(|frame| frame.event == "system").await;
        assert!(frame.payload["message"].is_string(), "{filter}");
    }
    app.sql("insert into things (id, name) values (2, 'after')")
        .await;
    assert_eq!(brief(&[witness.change().await]), ["INSERT 2"]);
}

#[tokio::test]
async fn equality_on_a_type_without_it_is_refused() {
    let app = start_with(
        "create table plain (id int primary key, doc json);
         grant select on plain to authenticated;
         alter publication supabase_realtime add table plain;",
    )
    .await;
    let text = refused(&app, filtered("plain", "doc=eq.{}")).await;
    assert!(
        text.starts_with("Unable to subscribe to changes with given parameters."),
        "{text}"
    );
}
