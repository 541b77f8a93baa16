#![allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test may fail"
)]

use std::sync::Arc;

use proptest::prelude::*;

use super::cases::CASES;
use super::*;
use crate::catalog::Type;

/// OIDs of the types that `tests/it/rendering.sql` makes; an array's is that of its element and 100.
const MOOD: Oid = 100_000;
const POSITIVE: Oid = 100_001;
const SMALL_POSITIVE: Oid = 100_002;
const PRICES: Oid = 100_003;
const BLOB: Oid = 100_004;
const MOMENT: Oid = 100_005;
const DOCUMENT: Oid = 100_006;
const PAIR: Oid = 100_007;
const GOOD_PAIR: Oid = 100_008;
const ONE: Oid = 100_009;
const NOTHING: Oid = 100_010;
const NEST: Oid = 100_011;
const INTERVAL_RANGE: Oid = 100_012;
const ARRAY: Oid = 100;

fn catalog() -> Catalog {
    let composite = |fields: &[(&str, Oid)]| TypeKind::Composite {
        fields: fields
            .iter()
            .map(|(name, oid)| ((*name).into(), *oid))
            .collect(),
    };
    let domain = |base| TypeKind::Domain { base };
    let nest = composite(&[
        ("p", PAIR),
        ("list", PAIR + ARRAY),
        ("m", MOOD),
        ("j", 3802),
        ("t", 1184),
        ("n", 1700),
        ("y", 17),
        ("f", 1022),
        ("d", POSITIVE),
        ("v", 22),
    ]);
    let kinds = [
        (MOOD, "mood", TypeKind::Enum { labels: [].into() }),
        (POSITIVE, "positive", domain(23)),
        (SMALL_POSITIVE, "small_positive", domain(POSITIVE)),
        (PRICES, "prices", domain(1231)),
        (BLOB, "blob", domain(17)),
        (MOMENT, "moment", domain(1184)),
        (DOCUMENT, "document", domain(114)),
        (PAIR, "pair", composite(&[("a", 23), ("b", 25)])),
        (GOOD_PAIR, "good_pair", domain(PAIR)),
        (ONE, "one", composite(&[("the \"one\"", 23)])),
        (NOTHING, "nothing", composite(&[])),
        (NEST, "nest", nest),
        (INTERVAL_RANGE, "interval_range", TypeKind::Range),
    ];
    let mut catalog = Catalog::default();
    for (oid, name, kind) in kinds {
        let array = TypeKind::Array {
            element: oid,
            delimiter: b',',
        };
        let entries = [
            (oid, name.to_owned(), kind),
            (oid + ARRAY, format!("_{name}"), array),
        ];
        for (oid, name, kind) in entries {
            let found = Type {
                oid,
                sql_name: format!("walcast_rendering.{name}").into(),
                name: name.into(),
                kind,
            };
            catalog.types.insert(oid, Arc::new(found));
        }
    }
    catalog
}

/// The OID of a type as [`CASES`] names it.
fn oid(catalog: &Catalog, sql_name: &str) -> Oid {
    let (name, is_array) = match sql_name.strip_suffix("[]") {
        Some(element) => (element, true),
        None => (sql_name, false),
    };
    let name = name.split('(').next().unwrap();
    let name = match name {
        "\"char\"" => "char",
        "char" => "bpchar",
        name => name.trim_start_matches("walcast_rendering."),
    };
    let name = if is_array {
        format!("_{name}")
    } else {
        name.to_owned()
    };
    let defined = catalog.types.values().find(|found| *found.name == *name);
    let known = || (0..10_000).find(|oid| builtin(*oid).is_some_and(|(known, _)| known == name));
    defined
        .map(|found| found.oid)
        .or_else(known)
        .unwrap_or_else(|| panic!("type {sql_name} is unknown"))
}

fn rendered(catalog: &Catalog, oid: Oid, text: &[u8]) -> String {
    let mut out = Vec::new();
    Renderer::new(catalog).column(&mut out, oid, text);
    String::from_utf8(out).unwrap()
}

#[track_caller]
fn check(sql_name: &str, text: &str, expected: &str) {
    let catalog = catalog();
    let json = rendered(&catalog, oid(&catalog, sql_name), text.as_bytes());
    assert_eq!(json, expected, "{sql_name} {text}");
}

#[test]
fn values_are_rendered_as_postgres_renders_them() {
    let catalog = catalog();
    for (sql_name, text, expected) in CASES {
        let json = rendered(&catalog, oid(&catalog, sql_name), text.as_bytes());
        assert_eq!(json, *expected, "{sql_name} {text}");
    }
}

#[test]
fn a_text_that_is_not_of_its_type_is_a_string() {
    for (sql_name, text) in [
        ("bool", "true"),
        ("int4", ""),
        ("int4", "-"),
        ("int4", "01"),
        ("int4", "1 "),
        ("int4", "0x1"),
        ("float8", "1."),
        ("float8", ".5"),
        ("float8", "1e"),
        ("float8", "1e+"),
        ("float8", "inf"),
        ("numeric", "1,5"),
        ("timestamp", "a 'b'"),
        ("timestamp", " 1"),
        ("timestamptz", "x y"),
        ("json", ""),
        ("json", "{"),
        ("json", "[1,]"),
        ("json", "{\"a\":1,}"),
        ("json", "{a:1}"),
        ("json", "[1 2]"),
        ("json", "nul"),
        ("json", "01"),
        ("json", "1 1"),
        ("json", "'a'"),
        ("int4[]", "1"),
        ("int4[]", "{1"),
        ("int4[]", "{1}}"),
        ("int4[]", "{1,}"),
        ("int4[]", "[1:1]{1}"),
        ("int4[]", "{{{{{{{1}}}}}}}"),
        ("walcast_rendering.pair", "1,2"),
        ("walcast_rendering.pair", "(1)"),
        ("walcast_rendering.pair", "(1,2,3)"),
        ("walcast_rendering.pair", "(1,2"),
    ] {
        let mut expected = Vec::new();
        string(&mut expected, text.as_bytes());
        check(sql_name, text, str::from_utf8(&expected).unwrap());
    }
    check("json", "\"a\nb\"", r#""\"a\nb\"""#);
    check("text[]", r#"{"a}"#, r#""{\"a}""#);
    check("text[]", r"{a\b}", r#""{a\\b}""#);
    check("walcast_rendering.pair", r#"(1,"a)"#, r#""(1,\"a)""#);
    check("int4[]", "{1,x}", r#"[1,"x"]"#);
}

#[test]
fn what_is_no_utf8_is_replaced() {
    let catalog = Catalog::default();
    assert_eq!(rendered(&catalog, 25, b"a\xffb"), "\"a\u{fffd}b\"");
    assert_eq!(
        rendered(&catalog, 3802, b"\"\xff\""),
        "\"\\\"\u{fffd}\\\"\""
    );
    assert_eq!(
        rendered(&catalog, 1009, b"{a,\xff}"),
        "[\"a\",\"\u{fffd}\"]"
    );
}

#[test]
fn escapes_of_json_that_jsonb_would_refuse_stay_valid() {
    check("json", r#""\u0000""#, r#""\u0000""#);
    check("json", r#""\ud800""#, "\"\u{fffd}\"");
    check("json", r#""\udc00x""#, "\"\u{fffd}x\"");
    check("json", r#""\ud800\u0041""#, "\"\u{fffd}A\"");
    check("json", r#""\ud800\n""#, "\"\u{fffd}\\n\"");
}

#[test]
fn exponents_unfold_only_so_far() {
    check("json", "1e99999999", "1e99999999");
    check(
        "json",
        "-1e-99999999999999999999",
        "-1e-99999999999999999999",
    );
    let catalog = Catalog::default();
    let many = format!("[{}1]", "1e100000,".repeat(20));
    let json = rendered(&catalog, 114, many.as_bytes());
    assert!(json.starts_with("[1000"), "the first are unfolded");
    assert!(json.ends_with(",1e100000,1]"), "the last are not");
    assert!(json.len() < ZEROS_MAX + many.len() * 2);
}

#[test]
fn depth_costs_no_stack() {
    let catalog = Catalog::default();
    let nested = |depth| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    assert_eq!(
        rendered(&catalog, 3802, nested(512).as_bytes()),
        nested(512)
    );
    let deeper = nested(513);
    assert_eq!(
        rendered(&catalog, 3802, deeper.as_bytes()),
        format!("\"{deeper}\"")
    );
    let deepest = "{\"a\":".repeat(1_000_000);
    assert!(rendered(&catalog, 114, deepest.as_bytes()).starts_with('"'));
    let record = "(".repeat(1_000_000);
    assert!(rendered(&self::catalog(), ONE, record.as_bytes()).starts_with('"'));
}

#[test]
fn types_are_named_from_the_catalog_or_by_heart() {
    let catalog = catalog();
    let renderer = Renderer::new(&catalog);
    assert_eq!(renderer.type_name(20), "int8");
    assert_eq!(renderer.type_name(1009), "_text");
    assert_eq!(renderer.type_name(MOOD), "mood");
    assert_eq!(renderer.type_name(PAIR + ARRAY), "_pair");
    assert_eq!(renderer.type_name(999_999), "unknown");
    assert_eq!(rendered(&catalog, 999_999, b"{1,\"2\"}"), r#""{1,\"2\"}""#);
}

#[test]
fn a_torn_catalog_does_not_spin() {
    let mut catalog = Catalog::default();
    let cycle = Type {
        oid: 200_000,
        name: "cycle".into(),
        sql_name: "cycle".into(),
        kind: TypeKind::Domain { base: 200_000 },
    };
    catalog.types.insert(200_000, Arc::new(cycle));
    assert_eq!(rendered(&catalog, 200_000, b"1"), "\"1\"");
}

fn types() -> impl Strategy<Value = Oid> {
    let catalog = catalog();
    let names: std::collections::BTreeSet<&str> = CASES.iter().map(|(name, ..)| *name).collect();
    let oids: Vec<Oid> = names.into_iter().map(|name| oid(&catalog, name)).collect();
    prop::sample::select(oids)
}

/// Texts that look like something: pieces of the literals above, cut, joined and shuffled.
fn texts() -> impl Strategy<Value = Vec<u8>> {
    let tokens = prop::sample::select(
        [
            "{",
            "}",
            "[",
            "]",
            "(",
            ")",
            ",",
            ":",
            "\"",
            "\\",
            "\"\"",
            "\\\"",
            " ",
            "null",
            "NULL",
            "true",
            "t",
            "1",
            "-",
            ".",
            "0",
            "e",
            "+",
            "\\u",
            "d800",
            "0041",
            "a",
            "é",
            "\n",
            "\0",
            "2024-02-03 04:05:06",
            "+00",
            " BC",
            "infinity",
            "NaN",
            "\\x",
            "=",
            ";",
        ]
        .map(str::as_bytes)
        .to_vec(),
    );
    let joined = prop::collection::vec(tokens, 0..24).prop_map(|tokens| tokens.concat());
    let case = prop::sample::select(CASES).prop_map(|(_, text, _)| text.as_bytes().to_vec());
    let damaged = (case.clone(), any::<prop::sample::Index>(), any::<u8>()).prop_map(
        |(mut text, at, byte)| {
            if !text.is_empty() {
                let at = at.index(text.len());
                text[at] = byte;
            }
            text
        },
    );
    prop_oneof![
        joined,
        case,
        damaged,
        prop::collection::vec(any::<u8>(), 0..64)
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn any_bytes_of_any_type_are_valid_json(oid in types(), text in texts()) {
        let json = rendered(&catalog(), oid, &text);
        let parsed: Result<serde_json::Value, _> = serde_json::from_str(&json);
        prop_assert!(parsed.is_ok(), "{json}");
    }
}
