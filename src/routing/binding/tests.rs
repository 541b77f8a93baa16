use proptest::prelude::*;
use serde_json::json;
use serde_json::value::to_raw_value;

use super::*;
use crate::routing::Operator;

fn parse(value: &Value) -> Result<Binding, String> {
    let requested = RequestedBinding {
        id: 7,
        json: to_raw_value(value).unwrap(),
    };
    Binding::parse(&requested).map_err(|error| error.to_string())
}

/// The filter's conditions as the reference prints them, or the message.
#[track_caller]
fn check_filter(filter: &str, expected: &str) {
    let binding = parse(&json!({"schema": "public", "table": "t", "filter": filter}));
    let found = match &binding {
        Ok(binding) => binding
            .conditions
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(" "),
        Err(message) => message.clone(),
    };
    assert_eq!(found, expected, "{filter}");
}

#[track_caller]
fn check_place(value: &Value, expected: Option<(&str, &str)>) {
    let binding = parse(value);
    let found = binding
        .as_ref()
        .ok()
        .map(|binding| (&*binding.schema, &*binding.table));
    assert_eq!(found, expected, "{value}");
    if let Err(message) = binding {
        assert!(
            message.starts_with("No subscription params provided. "),
            "{message}"
        );
    }
}

#[test]
fn a_table_a_schema_or_both_are_named() {
    check_place(
        &json!({"event": "*", "schema": "public", "table": "t"}),
        Some(("public", "t")),
    );
    check_place(&json!({"schema": "public"}), Some(("public", "*")));
    check_place(&json!({"table": "t"}), Some(("public", "t")));
    check_place(
        &json!({"schema": "*", "table": "*", "filter": "id=eq.1"}),
        Some(("*", "*")),
    );
    check_place(&json!({}), None);
    check_place(&json!({"filter": "id=eq.1"}), None);
    check_place(&json!({"schema": "public", "filter": "id=eq.1"}), None);
    check_place(&json!({"table": "t", "filter": "id=eq.1"}), None);
    check_place(&json!({"schema": "public", "table": null}), None);
    check_place(
        &json!({"schema": "public", "table": "t", "filter": null}),
        None,
    );
    check_place(&json!({"schema": 1, "table": "t"}), None);
    check_place(&json!("public"), None);
}

#[test]
fn what_is_not_understood_is_shown_as_the_reference_shows_it() {
    let check = |value: Value, expected: &str| {
        let message = parse(&value).unwrap_err();
        assert_eq!(message, format!("{NO_PARAMS}{expected}"));
    };
    check(json!({}), "%{}");
    check(
        json!({"table": null, "event": "INSERT"}),
        r#"%{"event" => "INSERT", "table" => nil}"#,
    );
    check(
        json!({"schema": true, "a\"b": [1, 2.5, "x", {}], "b": "#{x}\n", "c": [104, 105], "d": -7}),
        r##"%{"a\"b" => [1, 2.5, "x", %{}], "b" => "\#{x}\n", "c" => ~c"hi", "d" => -7, "schema" => true}"##,
    );
    check(json!({"user_token": "secret"}), "<redacted>");
    check(json!({"auth_token": null, "event": "*"}), "<redacted>");
}

#[test]
fn events_are_actions_in_any_case_or_everything() {
    for (event, expected) in [
        (json!("*"), Event::All),
        (json!("insert"), Event::Insert),
        (json!("Update"), Event::Update),
        (json!("DELETE"), Event::Delete),
        (json!("TRUNCATE"), Event::All),
        (json!(null), Event::All),
        (json!(5), Event::All),
    ] {
        assert_eq!(
            parse(&json!({"event": event, "schema": "s"}))
                .unwrap()
                .event,
            expected,
            "{event}"
        );
    }
    assert_eq!(parse(&json!({"schema": "s"})).unwrap().event, Event::All);
}

#[test]
fn only_true_asks_for_rows_that_leave() {
    let left = |left: Value| {
        let binding = parse(&json!({"schema": "public", "table": "t", "left": left})).unwrap();
        binding.left
    };
    assert!(left(json!(true)));
    for other in [json!(false), json!(null), json!("true"), json!(1)] {
        assert!(!left(other.clone()), "{other}");
    }
    assert!(!parse(&json!({"table": "t"})).unwrap().left);
}

#[test]
fn selected_columns_are_a_list_of_strings_on_a_named_table() {
    let select = |select: Value, table: &str| {
        parse(&json!({"schema": "public", "table": table, "select": select}))
            .map(|binding| binding.select)
    };
    let names: Box<[Box<str>]> = Box::new(["a".into(), "b".into()]);
    assert_eq!(select(json!(["a", 5, null, "b"]), "t"), Ok(Some(names)));
    assert_eq!(select(json!([]), "t"), Ok(None));
    assert_eq!(select(json!([1]), "*"), Ok(None));
    assert_eq!(select(json!(null), "t"), Ok(None));
    assert_eq!(select(json!({}), "t"), Ok(None));
    assert_eq!(
        select(json!("a"), "t").unwrap_err(),
        "Error parsing `select` params: expected a list of column name strings, e.g. select: [\"col1\", \"col2\"]"
    );
    assert_eq!(
        select(json!(["a"]), "*").unwrap_err(),
        "Column selection is not supported for wildcard subscriptions. Provide an explicit schema and table name."
    );
    assert_eq!(
        parse(&json!({"schema": "public", "select": ["a"]})).unwrap_err(),
        "Column selection is not supported for wildcard subscriptions. Provide an explicit schema and table name."
    );
}

#[test]
fn filters_are_conditions_joined_by_commas() {
    check_filter("", "");
    check_filter("  \t", "");
    check_filter("id=eq.5", r#"{"id", "eq", "5", false}"#);
    check_filter(
        " id=not.gt.5 , a=is.null ",
        r#"{"id", "gt", "5", true} {"a", "is", "null", false}"#,
    );
    check_filter("a=eq.x=y.z", r#"{"a", "eq", "x=y.z", false}"#);
    check_filter("a=eq.", r#"{"a", "eq", "", false}"#);
    check_filter(
        "a=in.(1,2,3),b=lt.4",
        r#"{"a", "in", "{1,2,3}", false} {"b", "lt", "4", false}"#,
    );
    check_filter("a=in.()", r#"{"a", "in", "{}", false}"#);
    check_filter(
        r#"a=in.("x,)y",z)"#,
        r#"{"a", "in", "{\"x,)y\",z}", false}"#,
    );
    check_filter("a=not.isdistinct.1", r#"{"a", "isdistinct", "1", true}"#);
    check_filter(
        "a=eq.x),b=eq.(y",
        r#"{"a", "eq", "x)", false} {"b", "eq", "(y", false}"#,
    );
    check_filter("a=eq.(x,y)", r#"{"a", "eq", "(x,y)", false}"#);
}

#[test]
fn quoted_values_lose_their_quotes_and_escapes() {
    check_filter(r#"a=eq."x,y""#, r#"{"a", "eq", "x,y", false}"#);
    check_filter(r#"a=eq."x\"\\y""#, r#"{"a", "eq", "x\"\\y", false}"#);
    check_filter(r#"a=eq." x ""#, r#"{"a", "eq", " x ", false}"#);
    check_filter(r#"a=eq."x"y"#, r#"{"a", "eq", "\"x\"y", false}"#);
    check_filter(
        r#"a=eq.x"y,b=eq.1"#,
        r#"{"a", "eq", "x\"y", false} {"b", "eq", "1", false}"#,
    );
    check_filter(r#"a=eq."x"#, r#"{"a", "eq", "\"x", false}"#);
    check_filter(r#"a=eq."x\"#, r#"{"a", "eq", "\"x\\", false}"#);
    check_filter(r#"a=eq."é\é""#, r#"{"a", "eq", "éé", false}"#);
}

#[test]
fn malformed_filters_are_answered_with_the_references_words() {
    check_filter(
        "undefined",
        r#"Error parsing `filter` params: ["undefined"]"#,
    );
    check_filter(
        "id=foo.hey",
        r#"Error parsing `filter` params: ["foo", "hey"]"#,
    );
    check_filter("id=EQ.1", r#"Error parsing `filter` params: ["EQ", "1"]"#);
    check_filter("id=eq", r#"Error parsing `filter` params: ["eq"]"#);
    check_filter("id=not.eq", r#"Error parsing `filter` params: ["eq"]"#);
    check_filter(
        "id=not.not.eq.1",
        r#"Error parsing `filter` params: ["not", "eq.1"]"#,
    );
    check_filter(
        "id=in.1,2",
        "Error parsing `filter` params: `in` filter value must be wrapped by parentheses",
    );
    check_filter(
        "id=in.(",
        "Error parsing `filter` params: `in` filter value must be wrapped by parentheses",
    );
    for filter in ["id=eq.1,", ",", "id=eq.1,,a=eq.2", " , id=eq.1"] {
        check_filter(
            filter,
            "Error parsing `filter` params: filter must not contain empty segments (check for extra commas)",
        );
    }
}

#[test]
fn a_binding_is_described_as_the_reference_does() {
    let describe = |value: Value| parse(&value).unwrap().describe();
    assert_eq!(
        describe(json!({"event": "INSERT", "schema": "public"})),
        "[event: INSERT, schema: public, table: *, filters: [], select: nil]"
    );
    assert_eq!(
        describe(json!({"schema": "public", "table": "test", "filter": "notacolumn=eq.123"})),
        r#"[event: *, schema: public, table: test, filters: [{"notacolumn", "eq", "123", false}], select: nil]"#
    );
    assert_eq!(
        describe(
            json!({"table": "test", "select": ["a", "b"], "schema": "public", "filter": "a=in.(x,y),b=not.eq.1"})
        ),
        r#"[event: *, schema: public, table: test, filters: [{"a", "in", "{x,y}", false}, {"b", "eq", "1", true}], select: ["a", "b"]]"#
    );
}

#[test]
fn names_are_patterns() {
    let names = |schema: &str, table: &str| {
        parse(&json!({"schema": schema, "table": table}))
            .unwrap()
            .names("public", "my_table")
    };
    assert!(names("public", "my_table"));
    assert!(names("*", "*"));
    assert!(names("pub%", "my%"));
    assert!(names("_ublic", "________"));
    assert!(!names("public", "_______"));
    assert!(!names("Public", "my_table"));
    assert!(!names("public", "my\\_table"));
    assert!(!names("public*", "*"));
    let binding = parse(&json!({"schema": "public", "table": "my_table"})).unwrap();
    assert!(
        binding.names("public", "my-table"),
        "an underscore is a wildcard"
    );
}

#[test]
fn other_keys_are_left_alone() {
    let binding = parse(&json!({
        "event": "INSERT", "schema": "public", "table": "t", "since": 5, "snapshot": null, "left": true, "id": "x",
    }));
    assert_eq!(binding.unwrap().id, 7);
}

#[test]
fn operators_are_known_by_their_names() {
    for name in "eq neq lt lte gt gte in like ilike match imatch is isdistinct".split(' ') {
        assert_eq!(Operator::parse(name).map(Operator::name), Some(name));
    }
}

#[test]
fn there_is_a_bound_on_conditions() {
    let filter = vec!["a=eq.1"; 101].join(",");
    check_filter(
        &filter,
        "Error parsing `filter` params: too many conditions. Maximum 100",
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn any_filter_is_parsed_or_refused(filter in "[ab=.,()\"\\\\ éneqlikt]{0,40}") {
        let _ = parse(&json!({"schema": "public", "table": "t", "filter": filter}));
    }

    #[test]
    fn any_text_is_parsed_or_refused(schema: String, table: String, filter: String, select: Vec<String>) {
        let binding = parse(&json!({"schema": schema, "table": table, "filter": filter, "select": select}));
        if let Ok(binding) = binding {
            let _ = binding.describe();
            let _ = binding.names("public", "t");
        }
    }

    #[test]
    fn what_the_clients_builder_quotes_comes_back(value: String) {
        let quoted = format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""));
        let binding = parse(&json!({"schema": "s", "table": "t", "filter": format!("a=eq.{quoted},b=is.null")}));
        let binding = binding.unwrap();
        prop_assert_eq!(&*binding.conditions[0].value, value.as_str());
        prop_assert_eq!(binding.conditions.len(), 2);
    }
}
