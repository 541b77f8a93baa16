use proptest::prelude::*;

use super::*;
use crate::change::{RelationColumn, ReplicaIdentity, TupleBuilder};
use crate::routing::value::oid;

fn relation() -> Relation {
    let column = |name: &str, type_oid, in_identity| RelationColumn {
        name: name.into(),
        type_oid,
        type_modifier: -1,
        in_identity,
    };
    Relation {
        oid: 1,
        schema: "public".into(),
        name: "t".into(),
        identity: ReplicaIdentity::Default,
        columns: Box::new([
            column("id", oid::INT8, true),
            column("body", oid::TEXT, false),
        ]),
    }
}

fn tuple(id: Datum<'_>, body: Datum<'_>) -> Tuple {
    let mut builder = TupleBuilder::new();
    builder.push(id);
    builder.push(body);
    builder.build()
}

fn test(column: &str, type_oid: Oid, family: Family, operator: Operator, operand: Operand) -> Test {
    Test {
        column: column.into(),
        type_oid,
        family,
        operator,
        negated: false,
        operand,
        question: Some(Question {
            sql: "$1 = $2".into(),
            value: "value".into(),
        }),
    }
}

fn id_equals(value: i64) -> Test {
    test(
        "id",
        oid::INT8,
        Family::Integer,
        Operator::Eq,
        Operand::One(Value::Integer(value)),
    )
}

fn body(operator: Operator, order: TextOrder, value: &str) -> Test {
    let operand = match operator {
        Operator::Like => Operand::Like(Pattern::with_escape(value).unwrap()),
        Operator::Ilike => Operand::Ilike(Caseless::compile(value).unwrap()),
        _ => Operand::One(Value::Text(value.into())),
    };
    test("body", oid::TEXT, Family::Text(order), operator, operand)
}

/// What one test says about the row `(5, body)`.
#[track_caller]
fn check(test: Test, value: Datum<'_>, expected: &str) {
    let filter = Filter::new(vec![test]);
    let found = match filter.matches(&relation(), &tuple(Datum::Text(b"5"), value), false) {
        Match::Yes => "yes",
        Match::No => "no",
        Match::Ask(predicates) => {
            assert!(!predicates.is_empty());
            assert!(!filter.is_certain());
            "ask"
        }
    };
    assert_eq!(found, expected);
}

#[test]
fn all_conditions_must_hold() {
    let row = tuple(Datum::Text(b"5"), Datum::Text(b"x"));
    let matches = |tests| Filter::new(tests).matches(&relation(), &row, false);
    assert_eq!(matches(vec![]), Match::Yes);
    assert_eq!(
        matches(vec![id_equals(5), body(Operator::Eq, TextOrder::C, "x")]),
        Match::Yes
    );
    assert_eq!(
        matches(vec![id_equals(5), body(Operator::Eq, TextOrder::C, "y")]),
        Match::No
    );
    // What cannot be decided is not asked when another condition fails anyway.
    assert_eq!(
        matches(vec![
            body(Operator::Lt, TextOrder::Unknown, "y"),
            id_equals(6)
        ]),
        Match::No
    );
    let asked = matches(vec![
        body(Operator::Lt, TextOrder::Unknown, "y"),
        id_equals(5),
    ]);
    assert!(
        matches!(asked, Match::Ask(predicates) if predicates.len() == 1
        && *predicates[0].parameters == [Some("x".into()), Some("value".into())])
    );
}

#[test]
fn a_value_that_is_not_there_never_matches() {
    for negated in [false, true] {
        for operator in [Operator::Eq, Operator::IsDistinct, Operator::Like] {
            let test = Test {
                negated,
                ..body(operator, TextOrder::C, "x")
            };
            check(test.clone(), Datum::Unchanged, "no");
            let filter = Filter::new(vec![test]);
            let key = tuple(Datum::Text(b"5"), Datum::Null);
            assert_eq!(
                filter.matches(&relation(), &key, true),
                Match::No,
                "not part of the key"
            );
            let mut other = relation();
            other.columns[1].name = "renamed".into();
            assert_eq!(
                filter.matches(&other, &key, false),
                Match::No,
                "the column is gone"
            );
            let mut other = relation();
            other.columns[1].type_oid = oid::INT8;
            assert_eq!(
                filter.matches(&other, &key, false),
                Match::No,
                "the column has another type"
            );
        }
    }
    let filter = Filter::new(vec![id_equals(5)]);
    assert_eq!(
        filter.matches(&relation(), &tuple(Datum::Text(b"5"), Datum::Null), true),
        Match::Yes
    );
    let mut older = relation();
    older.columns[0].type_oid = oid::INT4;
    assert_eq!(
        filter.matches(&older, &tuple(Datum::Text(b"5"), Datum::Null), false),
        Match::Yes
    );
}

#[test]
fn null_is_neither_equal_nor_different() {
    for negated in [false, true] {
        for operator in [
            Operator::Eq,
            Operator::Neq,
            Operator::Lt,
            Operator::Like,
            Operator::Ilike,
        ] {
            check(
                Test {
                    negated,
                    ..body(operator, TextOrder::C, "x")
                },
                Datum::Null,
                "no",
            );
        }
    }
    check(
        body(Operator::IsDistinct, TextOrder::C, "x"),
        Datum::Null,
        "yes",
    );
    check(
        Test {
            negated: true,
            ..body(Operator::IsDistinct, TextOrder::C, "x")
        },
        Datum::Null,
        "no",
    );
    let is = |keyword| {
        test(
            "body",
            oid::TEXT,
            Family::Text(TextOrder::C),
            Operator::Is,
            Operand::Is(keyword),
        )
    };
    check(is(Keyword::Null), Datum::Null, "yes");
    check(is(Keyword::Null), Datum::Text(b""), "no");
    check(
        Test {
            negated: true,
            ..is(Keyword::Null)
        },
        Datum::Text(b""),
        "yes",
    );
    check(is(Keyword::NullRow), Datum::Text(b"(,)"), "yes");
    check(is(Keyword::NullRow), Datum::Text(b"(,x)"), "no");
    check(
        Test {
            negated: true,
            ..is(Keyword::True)
        },
        Datum::Null,
        "yes",
    );
}

#[test]
fn lists_know_null() {
    let list = |items: &[Option<i64>], negated| {
        let items = items.iter().map(|item| item.map(Value::Integer)).collect();
        let test = test(
            "id",
            oid::INT8,
            Family::Integer,
            Operator::In,
            Operand::Any(items),
        );
        Test { negated, ..test }
    };
    let matches =
        |test, id| Filter::new(vec![test]).matches(&relation(), &tuple(id, Datum::Null), false);
    let five = Datum::Text(b"5");
    assert_eq!(matches(list(&[Some(4), Some(5)], false), five), Match::Yes);
    assert_eq!(matches(list(&[Some(4)], true), five), Match::Yes);
    assert_eq!(matches(list(&[None, Some(5)], false), five), Match::Yes);
    assert_eq!(matches(list(&[None, Some(4)], false), five), Match::No);
    assert_eq!(matches(list(&[None, Some(4)], true), five), Match::No);
    assert_eq!(matches(list(&[Some(4)], true), Datum::Null), Match::No);
    // Nothing is compared: Postgres says false even of NULL.
    assert_eq!(matches(list(&[], false), Datum::Null), Match::No);
    assert_eq!(matches(list(&[], true), Datum::Null), Match::Yes);
}

#[test]
fn text_is_ordered_only_under_c() {
    check(
        body(Operator::Lt, TextOrder::C, "b"),
        Datum::Text(b"a"),
        "yes",
    );
    check(
        body(Operator::Lt, TextOrder::C, "a"),
        Datum::Text(b"B"),
        "yes",
    );
    check(
        body(Operator::Lt, TextOrder::Unknown, "b"),
        Datum::Text(b"a"),
        "ask",
    );
    check(
        body(Operator::Eq, TextOrder::Unknown, "a"),
        Datum::Text(b"a"),
        "yes",
    );
}

#[test]
fn case_is_ignored_where_letters_are_certain() {
    let ilike = |order, pattern| body(Operator::Ilike, order, pattern);
    check(
        ilike(TextOrder::Unknown, "he%"),
        Datum::Text(b"HELLO"),
        "yes",
    );
    check(ilike(TextOrder::Unknown, "x%"), Datum::Text(b"HELLO"), "no");
    // Turkish collations hold that `i` is not the small form of `I`.
    check(ilike(TextOrder::Unknown, "id"), Datum::Text(b"ID"), "ask");
    check(ilike(TextOrder::Unknown, "Id"), Datum::Text(b"iD"), "ask");
    check(ilike(TextOrder::Unknown, "ID"), Datum::Text(b"ID"), "yes");
    check(ilike(TextOrder::C, "id"), Datum::Text(b"ID"), "yes");
    check(
        ilike(TextOrder::Unknown, "e%"),
        Datum::Text("É".as_bytes()),
        "ask",
    );
    check(ilike(TextOrder::C, "é%"), Datum::Text("É".as_bytes()), "no");
}

#[test]
fn a_character_is_counted_only_where_it_is_a_byte() {
    check(
        body(Operator::Like, TextOrder::Unknown, "_"),
        Datum::Text(b"a"),
        "yes",
    );
    check(
        body(Operator::Like, TextOrder::Unknown, "_"),
        Datum::Text("é".as_bytes()),
        "ask",
    );
    check(
        body(Operator::Like, TextOrder::Unknown, "%é"),
        Datum::Text("aé".as_bytes()),
        "yes",
    );
}

#[test]
fn costly_patterns_are_left_to_postgres() {
    let text = vec![b'a'; 1 << 20];
    let pattern = format!("%{}b%", "a_".repeat(100));
    check(
        body(Operator::Like, TextOrder::C, &pattern),
        Datum::Text(&text),
        "ask",
    );
    let literal = format!("%{}b%", "a".repeat(200));
    check(
        body(Operator::Like, TextOrder::C, &literal),
        Datum::Text(&text),
        "no",
    );
}

#[test]
fn text_that_is_no_text_never_matches() {
    check(
        Test {
            negated: true,
            ..body(Operator::Eq, TextOrder::C, "x")
        },
        Datum::Text(b"\xff"),
        "no",
    );
}

proptest! {
    #[test]
    fn any_tuple_is_decided(id in any::<Option<Vec<u8>>>(), text in any::<Option<Vec<u8>>>()) {
        let datum = |value: &Option<Vec<u8>>| value.clone();
        let (id, text) = (datum(&id), datum(&text));
        let filter = Filter::new(vec![id_equals(5), body(Operator::Ilike, TextOrder::Unknown, "a_%")]);
        let row = tuple(
            id.as_deref().map_or(Datum::Null, Datum::Text),
            text.as_deref().map_or(Datum::Null, Datum::Text),
        );
        let _ = filter.matches(&relation(), &row, false);
    }
}
