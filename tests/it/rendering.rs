//! Every type of protocol.md §4.2, checked literally.

use serde_json::json;
use walcast::testing::user;

use crate::world::{ALICE, all, start_with};

/// Column type, SQL value, JSON as sent, type name as sent.
const CASES: &[(&str, &str, &str, &str)] = &[
    ("int2", "-32768", "-32768", "int2"),
    ("int4", "2147483647", "2147483647", "int4"),
    ("int8", "9007199254740993", "9007199254740993", "int8"),
    ("float4", "1.5", "1.5", "float4"),
    ("float8", "0.1", "0.1", "float8"),
    ("float8", "1e300", "1e+300", "float8"),
    ("float8", "'NaN'", "null", "float8"),
    ("float4", "'-Infinity'", "null", "float4"),
    ("numeric", "1.50", "1.50", "numeric"),
    (
        "numeric(32,2)",
        "123456789012345678901234567890.10",
        "123456789012345678901234567890.10",
        "numeric",
    ),
    ("numeric", "'NaN'", "null", "numeric"),
    ("numeric", "'Infinity'", "null", "numeric"),
    ("bool", "true", "true", "bool"),
    ("bool", "false", "false", "bool"),
    (
        "text",
        r#"E'a"b\\c\nd\u0001\u00e4'"#,
        r#""a\"b\\c\nd\u0001ä""#,
        "text",
    ),
    ("text", "''", r#""""#, "text"),
    ("text", "null", "null", "text"),
    ("varchar(20)", "'short'", r#""short""#, "varchar"),
    ("char(5)", "'ab'", r#""ab   ""#, "bpchar"),
    ("name", "'a name'", r#""a name""#, "name"),
    (
        "uuid",
        "'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'",
        r#""a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11""#,
        "uuid",
    ),
    ("bit(3)", "B'101'", r#""101""#, "bit"),
    ("bit varying(8)", "B'0110'", r#""0110""#, "varbit"),
    ("oid", "42", r#""42""#, "oid"),
    ("bytea", r"'\xDEADBEEF'", r#""deadbeef""#, "bytea"),
    ("bytea", "''", r#""""#, "bytea"),
    ("date", "'2024-02-03'", r#""2024-02-03""#, "date"),
    ("date", "'infinity'", r#""infinity""#, "date"),
    ("time", "'01:02:03.5'", r#""01:02:03.5""#, "time"),
    ("timetz", "'01:02:03+02'", r#""01:02:03+02""#, "timetz"),
    (
        "timestamp",
        "'2024-02-03 04:05:06.789'",
        r#""2024-02-03T04:05:06.789""#,
        "timestamp",
    ),
    ("timestamp", "'-infinity'", r#""-infinity""#, "timestamp"),
    (
        "timestamptz",
        "'2024-02-03 04:05:06.789+02'",
        r#""2024-02-03T02:05:06.789+00:00""#,
        "timestamptz",
    ),
    ("timestamptz", "'infinity'", r#""infinity""#, "timestamptz"),
    (
        "interval",
        "'1 day 02:03:04'",
        r#""1 day 02:03:04""#,
        "interval",
    ),
    ("money", "12.34", r#""$12.34""#, "money"),
    (
        "json",
        r#"'{"b":1, "a":2, "b":3}'"#,
        r#"{"a": 2, "b": 3}"#,
        "json",
    ),
    ("json", "'\"x\"'", r#""x""#, "json"),
    (
        "jsonb",
        r#"'{"n":1.10,"l":[null,true]}'"#,
        r#"{"l": [null, true], "n": 1.10}"#,
        "jsonb",
    ),
    ("jsonb", "'null'", "null", "jsonb"),
    ("xml", "'<a/>'", r#""<a/>""#, "xml"),
    ("tsvector", "'cat:1 dog'", r#""'cat':1 'dog'""#, "tsvector"),
    ("inet", "'10.0.0.1/8'", r#""10.0.0.1/8""#, "inet"),
    ("cidr", "'10.0.0.0/8'", r#""10.0.0.0/8""#, "cidr"),
    (
        "macaddr",
        "'08:00:2b:01:02:03'",
        r#""08:00:2b:01:02:03""#,
        "macaddr",
    ),
    ("point", "'(1,2.5)'", r#""(1,2.5)""#, "point"),
    ("box", "'(1,1),(0,0)'", r#""(1,1),(0,0)""#, "box"),
    ("mood", "'so so'", r#""so so""#, "mood"),
    ("positive", "7", "7", "positive"),
    ("pair", "row(1, 'x y')", r#"{"a": 1, "b": "x y"}"#, "pair"),
    (
        "pair",
        "row(null, null)",
        r#"{"a": null, "b": null}"#,
        "pair",
    ),
    ("int4range", "'[1,5)'", r#""[1,5)""#, "int4range"),
    ("int4range", "'empty'", r#""empty""#, "int4range"),
    (
        "int4multirange",
        "'{[1,3),[5,7)}'",
        r#""{[1,3),[5,7)}""#,
        "int4multirange",
    ),
    (
        "tstzrange",
        "'[2024-01-01 00:00+00,)'",
        r#""[\"2024-01-01 00:00:00+00\",)""#,
        "tstzrange",
    ),
    ("int4[]", "'{1,null,3}'", "[1, null, 3]", "_int4"),
    ("int4[]", "'{{1,2},{3,4}}'", "[[1, 2], [3, 4]]", "_int4"),
    ("int4[]", "'{}'", "[]", "_int4"),
    ("int4[]", "'[2:3]={7,8}'", "[7, 8]", "_int4"),
    (
        "text[]",
        r#"E'{a,"b c","d\\"e",NULL,"NULL",""}'"#,
        r#"["a", "b c", "d\"e", null, "NULL", ""]"#,
        "_text",
    ),
    ("float8[]", "'{1.5,NaN}'", r#"[1.5, "NaN"]"#, "_float8"),
    ("numeric[]", "'{1.50,NaN}'", r#"[1.50, "NaN"]"#, "_numeric"),
    (
        "bytea[]",
        r#"array['\xde'::bytea]"#,
        r#"["\\xde"]"#,
        "_bytea",
    ),
    ("bool[]", "'{t,f}'", "[true, false]", "_bool"),
    (
        "timestamptz[]",
        "'{2024-02-03 04:05:06+00}'",
        r#"["2024-02-03T04:05:06+00:00"]"#,
        "_timestamptz",
    ),
    (
        "timestamp[]",
        "'{2024-02-03 04:05:06}'",
        r#"["2024-02-03T04:05:06"]"#,
        "_timestamp",
    ),
    (
        "jsonb[]",
        r#"array['{"a":1}'::jsonb]"#,
        r#"[{"a": 1}]"#,
        "_jsonb",
    ),
    (
        "mood[]",
        "'{sad,\"so so\"}'",
        r#"["sad", "so so"]"#,
        "_mood",
    ),
    (
        "pair[]",
        "array[row(1,'x')::pair]",
        r#"[{"a": 1, "b": "x"}]"#,
        "_pair",
    ),
];

const TYPES: &str = "
    create type mood as enum ('sad', 'so so', 'happy');
    create domain positive as int4 check (value > 0);
    create type pair as (a int, b text);
";

#[tokio::test]
async fn every_type_is_rendered_as_written() {
    let columns: Vec<String> = CASES
        .iter()
        .enumerate()
        .map(|(number, (column_type, ..))| format!("c{number} {column_type}"))
        .collect();
    let app = start_with(&format!(
        "{TYPES} create table kinds (id int primary key, {});
         grant select on kinds to authenticated;
         alter publication supabase_realtime add table kinds;",
        columns.join(", ")
    ))
    .await;
    let mut subscriber = app.subscribe(&user(ALICE), all("kinds")).await;
    let values: Vec<String> = CASES
        .iter()
        .map(|(column_type, value, ..)| format!("({value})::{column_type}"))
        .collect();
    app.sql(&format!(
        "insert into kinds values (1, {})",
        values.join(", ")
    ))
    .await;
    let change = subscriber.change().await;
    let mut wrong = Vec::new();
    for (number, (column_type, value, expected, type_name)) in CASES.iter().enumerate() {
        // Parsed with arbitrary precision, so that 1.50 and 1.5 differ.
        let expected: serde_json::Value = serde_json::from_str(expected).unwrap();
        let got = &change.record()[format!("c{number}")];
        // Of a float the value counts: 1e+300 and its three hundred digits are the same.
        let same_float = type_name.starts_with("float")
            && got.as_f64().is_some()
            && got.as_f64() == expected.as_f64();
        if *got != expected && !same_float {
            wrong.push(format!(
                "{column_type} {value}: {got} instead of {expected}"
            ));
        }
        let column = &change.data["columns"][number + 1];
        if *column != json!({"name": format!("c{number}"), "type": type_name}) {
            wrong.push(format!("{column_type}: column {column}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn the_data_object_has_the_documented_keys() {
    let app = start_with("").await;
    let mut subscriber = app.subscribe(&user(ALICE), all("notes")).await;
    app.sql("insert into notes values (1, 'one', 10); update notes set rank = 11; delete from notes where id = 1;").await;
    // One transaction: insert, update and delete of one row are nothing.
    app.sql("insert into notes values (2, 'two', 20)").await;
    app.sql("update notes set rank = 21").await;
    app.sql("delete from notes").await;
    let changes = subscriber.changes(3).await;
    let keys = |index: usize| {
        let mut keys: Vec<&str> = changes[index]
            .data
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        keys.sort_unstable();
        keys
    };
    let always = [
        "columns",
        "commit_lsn",
        "commit_timestamp",
        "cursor",
        "errors",
        "schema",
        "table",
        "type",
    ];
    let with = |more: &[&'static str]| {
        let mut keys = [&always, more].concat();
        keys.sort_unstable();
        keys
    };
    assert_eq!(keys(0), with(&["record"]));
    assert_eq!(keys(1), with(&["record", "old_record"]));
    assert_eq!(keys(2), with(&["old_record"]));
    for change in &changes {
        assert_eq!(change.data["errors"], json!(null));
        assert_eq!(change.data["schema"], "public");
        assert_eq!(change.data["table"], "notes");
        assert!(change.last, "each transaction has one change");
        let lsn = change.data["commit_lsn"].as_str().unwrap();
        assert!(lsn.split_once('/').is_some_and(|(high, low)| {
            u32::from_str_radix(high, 16).is_ok() && u32::from_str_radix(low, 16).is_ok()
        }));
        assert!((1..=64).contains(&change.data["cursor"].as_str().unwrap().len()));
        let time = change.data["commit_timestamp"].as_str().unwrap();
        assert_eq!(
            (time.len(), &time[10..11], &time[19..20], &time[23..]),
            (24, "T", ".", "Z")
        );
    }
}

#[tokio::test]
async fn names_and_texts_of_any_kind_survive() {
    let app = start_with(
        "create schema \"my schema\";
         create table \"my schema\".\"odd, \"\"name\"\".\" (\"the key\" int primary key, \"päivä\" text);
         grant usage on schema \"my schema\" to authenticated;
         grant select on all tables in schema \"my schema\" to authenticated;
         alter publication supabase_realtime add table \"my schema\".\"odd, \"\"name\"\".\";",
    )
    .await;
    let binding = json!({"event": "*", "schema": "my schema", "table": "odd, \"name\".", "filter": "päivä=eq.😀"});
    let mut subscriber = app.subscribe(&user(ALICE), binding).await;
    app.sql("insert into \"my schema\".\"odd, \"\"name\"\".\" values (1, 'sun'), (2, '😀')")
        .await;
    let change = subscriber.change().await;
    assert_eq!(change.data["schema"], "my schema");
    assert_eq!(change.data["table"], "odd, \"name\".");
    assert_eq!(change.record(), &json!({"the key": 2, "päivä": "😀"}));
}

#[tokio::test]
async fn too_large_changes_carry_error_413_and_their_short_values() {
    let app = start_with("").await;
    let mut subscriber = app.subscribe(&user(ALICE), all("notes")).await;
    app.sql("insert into notes values (1, repeat('x', 2000000), 7)")
        .await;
    let change = subscriber.change().await;
    assert_eq!(
        change.data["errors"],
        json!(["Error 413: Payload Too Large"])
    );
    assert_eq!(change.record(), &json!({"id": 1, "rank": 7}));
    assert_eq!(change.kind(), "INSERT");
    assert!(change.data["commit_timestamp"].is_string());
}
