use std::sync::Arc;

use super::*;
use crate::change::{Epoch, Lsn, RelationColumn, ReplicaIdentity, TupleBuilder, Xid};

/// Columns of the table that the tests change: key, two values, and one that may be TOASTed.
const COLUMNS: [(&str, u32); 4] = [("id", 20), ("task", 25), ("done", 16), ("notes", 3802)];
const ALL: [bool; 4] = [true; 4];
const KEY: [bool; 4] = [true, false, false, false];

fn relation(identity: ReplicaIdentity, in_identity: [bool; 4]) -> Arc<Relation> {
    let columns =
        iter::zip(COLUMNS, in_identity).map(|((name, type_oid), in_identity)| RelationColumn {
            name: name.into(),
            type_oid,
            type_modifier: -1,
            in_identity,
        });
    Arc::new(Relation {
        oid: 16_400,
        schema: "public".into(),
        name: "todos".into(),
        identity,
        columns: columns.collect(),
    })
}

/// Values by column; `~` is unchanged TOAST, `-` is NULL.
fn tuple(values: [&str; 4]) -> Tuple {
    let mut builder = TupleBuilder::new();
    for value in values {
        builder.push(match value {
            "~" => Datum::Unchanged,
            "-" => Datum::Null,
            text => Datum::Text(text.as_bytes()),
        });
    }
    builder.build()
}

fn old(kind: OldKind, values: [&str; 4]) -> OldTuple {
    OldTuple {
        kind,
        tuple: tuple(values),
    }
}

fn update(old: Option<OldTuple>, new: [&str; 4]) -> ChangeKind {
    ChangeKind::Update {
        old,
        new: tuple(new),
    }
}

fn insert(new: [&str; 4]) -> ChangeKind {
    ChangeKind::Insert { new: tuple(new) }
}

fn commit() -> Commit {
    Commit {
        epoch: Epoch(0xe),
        lsn: Lsn::new(0x16_B374_D848),
        end_lsn: Lsn::new(0x16_B374_D878),
        time: PgTime::from_unix_micros(1_787_320_996_123_999),
        xid: Xid(7),
    }
}

fn shape() -> Shape<'static> {
    Shape {
        columns: &ALL,
        key: &KEY,
        old: OldShape::Full,
        size_max: CHANGE_BYTES_MAX,
    }
}

fn change(identity: ReplicaIdentity, kind: ChangeKind) -> Change {
    let in_identity = match identity {
        ReplicaIdentity::Default => KEY,
        ReplicaIdentity::Full => ALL,
        ReplicaIdentity::Nothing => [false; 4],
        ReplicaIdentity::Index => [false, true, false, false],
    };
    Change {
        relation: relation(identity, in_identity),
        order: 3,
        kind,
    }
}

fn rendered(change: &Change, shape: &Shape<'_>, render_as: RenderAs) -> String {
    let mut out = Vec::new();
    assert!(render(
        &mut out,
        &Catalog::default(),
        &commit(),
        change,
        shape,
        render_as
    ));
    let text = String::from_utf8(out).unwrap();
    let _: serde_json::Value = serde_json::from_str(&text).unwrap();
    text
}

/// Checks one key of the `data` object; `None` for a key that must be absent.
#[track_caller]
fn check(text: &str, key: &str, expected: Option<&str>) {
    let data: std::collections::BTreeMap<String, Box<serde_json::value::RawValue>> =
        serde_json::from_str(text).unwrap();
    assert_eq!(data.get(key).map(|value| value.get()), expected, "{text}");
}

#[track_caller]
fn check_old(identity: ReplicaIdentity, kind: ChangeKind, old: OldShape, expected: &str) {
    let shape = Shape { old, ..shape() };
    let text = rendered(&change(identity, kind), &shape, RenderAs::AsWritten);
    check(&text, "old_record", Some(expected));
}

#[test]
fn each_kind_of_change_has_its_keys_in_order() {
    let identity = ReplicaIdentity::Default;
    let inserted = change(identity, insert(["1", "new", "t", "{\"a\": 1}"]));
    insta::assert_snapshot!(
        rendered(&inserted, &shape(), RenderAs::AsWritten),
        @r#"{"schema":"public","table":"todos","type":"INSERT","commit_timestamp":"2026-08-21T14:03:16.123Z","columns":[{"name":"id","type":"int8"},{"name":"task","type":"text"},{"name":"done","type":"bool"},{"name":"notes","type":"jsonb"}],"record":{"id":1,"task":"new","done":true,"notes":{"a":1}},"errors":null,"commit_lsn":"16/B374D848","cursor":"000000000000000e-00000016b374d848-00000003"}"#
    );
    let updated = change(identity, update(None, ["1", "new", "f", "-"]));
    insta::assert_snapshot!(
        rendered(&updated, &shape(), RenderAs::AsWritten),
        @r#"{"schema":"public","table":"todos","type":"UPDATE","commit_timestamp":"2026-08-21T14:03:16.123Z","columns":[{"name":"id","type":"int8"},{"name":"task","type":"text"},{"name":"done","type":"bool"},{"name":"notes","type":"jsonb"}],"record":{"id":1,"task":"new","done":false,"notes":null},"old_record":{"id":1},"errors":null,"commit_lsn":"16/B374D848","cursor":"000000000000000e-00000016b374d848-00000003"}"#
    );
    let deleted = ChangeKind::Delete {
        old: old(OldKind::Key, ["1", "-", "-", "-"]),
    };
    insta::assert_snapshot!(
        rendered(&change(identity, deleted), &shape(), RenderAs::AsWritten),
        @r#"{"schema":"public","table":"todos","type":"DELETE","commit_timestamp":"2026-08-21T14:03:16.123Z","columns":[{"name":"id","type":"int8"},{"name":"task","type":"text"},{"name":"done","type":"bool"},{"name":"notes","type":"jsonb"}],"old_record":{"id":1},"errors":null,"commit_lsn":"16/B374D848","cursor":"000000000000000e-00000016b374d848-00000003"}"#
    );
}

#[test]
fn a_truncation_is_nothing() {
    let mut out = Vec::new();
    let truncated = change(ReplicaIdentity::Default, ChangeKind::Truncate);
    let catalog = Catalog::default();
    assert!(!render(
        &mut out,
        &catalog,
        &commit(),
        &truncated,
        &shape(),
        RenderAs::AsWritten
    ));
    assert!(!render_withheld(
        &mut out,
        &commit(),
        &truncated,
        Withheld::Unauthorized,
        RenderAs::AsWritten
    ));
    assert_eq!(out, b"");
}

#[test]
fn the_old_record_of_an_update_follows_the_replica_identity() {
    use ReplicaIdentity::{Default, Full, Index, Nothing};
    let new = ["1", "new", "t", "-"];
    let key = |values| Some(old(OldKind::Key, values));
    let full = || Some(old(OldKind::Full, ["9", "old", "f", "[]"]));
    let all = r#"{"id":9,"task":"old","done":false,"notes":[]}"#;
    check_old(Default, update(None, new), OldShape::Full, r#"{"id":1}"#);
    check_old(Default, update(None, new), OldShape::KeyOnly, r#"{"id":1}"#);
    let moved = || update(key(["9", "-", "-", "-"]), new);
    check_old(Default, moved(), OldShape::Full, r#"{"id":9}"#);
    check_old(Default, moved(), OldShape::KeyOnly, r#"{"id":9}"#);
    check_old(Full, update(full(), new), OldShape::Full, all);
    check_old(Full, update(full(), new), OldShape::KeyOnly, r#"{"id":9}"#);
    let indexed = || update(key(["-", "old", "-", "-"]), new);
    check_old(
        Index,
        update(None, new),
        OldShape::Full,
        r#"{"task":"new"}"#,
    );
    check_old(Index, indexed(), OldShape::Full, r#"{"task":"old"}"#);
    check_old(Index, indexed(), OldShape::KeyOnly, "{}");
    check_old(Nothing, update(None, new), OldShape::Full, "{}");
}

#[test]
fn the_old_record_of_a_delete_is_what_the_stream_tells_or_the_key() {
    use ReplicaIdentity::{Default, Full, Index, Nothing};
    let delete = |old| ChangeKind::Delete { old };
    let key = |values| delete(old(OldKind::Key, values));
    let full = || delete(old(OldKind::Full, ["9", "old", "f", "-"]));
    let all = r#"{"id":9,"task":"old","done":false,"notes":null}"#;
    check_old(
        Default,
        key(["9", "-", "-", "-"]),
        OldShape::Full,
        r#"{"id":9}"#,
    );
    check_old(
        Default,
        key(["9", "-", "-", "-"]),
        OldShape::KeyOnly,
        r#"{"id":9}"#,
    );
    check_old(Full, full(), OldShape::Full, all);
    check_old(Full, full(), OldShape::KeyOnly, r#"{"id":9}"#);
    check_old(
        Index,
        key(["-", "old", "-", "-"]),
        OldShape::Full,
        r#"{"task":"old"}"#,
    );
    check_old(Index, key(["-", "old", "-", "-"]), OldShape::KeyOnly, "{}");
    check_old(Nothing, key(["-", "-", "-", "-"]), OldShape::Full, "{}");
}

#[test]
fn without_a_primary_key_key_only_is_nothing() {
    let shape = Shape {
        key: &[],
        old: OldShape::KeyOnly,
        ..shape()
    };
    let deleted = ChangeKind::Delete {
        old: old(OldKind::Full, ["9", "old", "f", "-"]),
    };
    let text = rendered(
        &change(ReplicaIdentity::Full, deleted),
        &shape,
        RenderAs::AsWritten,
    );
    check(&text, "old_record", Some("{}"));
}

#[test]
fn columns_outside_the_shape_appear_nowhere() {
    let kind = update(
        Some(old(OldKind::Full, ["1", "secret", "f", "[\"secret\"]"])),
        ["1", "secret", "t", "~"],
    );
    let updated = change(ReplicaIdentity::Full, kind);
    for columns in [[true, false, true, false].as_slice(), &[true, false, true]] {
        let shape = Shape { columns, ..shape() };
        let text = rendered(&updated, &shape, RenderAs::AsWritten);
        assert!(!text.contains("secret") && !text.contains("task") && !text.contains("notes"));
        check(&text, "record", Some(r#"{"id":1,"done":true}"#));
        check(&text, "old_record", Some(r#"{"id":1,"done":false}"#));
    }
    let hidden_key = Shape {
        columns: &[false, true, false, false],
        old: OldShape::KeyOnly,
        ..shape()
    };
    let text = rendered(&updated, &hidden_key, RenderAs::AsWritten);
    check(&text, "old_record", Some("{}"));
    let nothing = Shape {
        columns: &[],
        ..shape()
    };
    let text = rendered(&updated, &nothing, RenderAs::AsWritten);
    check(&text, "columns", Some("[]"));
    check(&text, "record", Some("{}"));
}

#[test]
fn unchanged_toast_comes_from_a_full_old_row_or_is_absent() {
    let new = ["1", "new", "t", "~"];
    let kind = update(Some(old(OldKind::Full, ["1", "old", "f", "[1]"])), new);
    let text = rendered(
        &change(ReplicaIdentity::Full, kind),
        &shape(),
        RenderAs::AsWritten,
    );
    let filled = r#"{"id":1,"task":"new","done":true,"notes":[1]}"#;
    check(&text, "record", Some(filled));
    let absent = r#"{"id":1,"task":"new","done":true}"#;
    for kind in [
        update(None, new),
        update(Some(old(OldKind::Key, ["9", "-", "-", "-"])), new),
        update(Some(old(OldKind::Full, ["1", "old", "f", "~"])), new),
    ] {
        let text = rendered(
            &change(ReplicaIdentity::Default, kind),
            &shape(),
            RenderAs::AsWritten,
        );
        check(&text, "record", Some(absent));
        assert!(text.contains(r#"{"name":"notes","type":"jsonb"}"#));
    }
}

#[test]
fn an_unchanged_key_that_is_toasted_comes_from_the_old_key() {
    let kind = update(
        Some(old(OldKind::Key, ["7", "-", "-", "-"])),
        ["~", "new", "t", "~"],
    );
    let text = rendered(
        &change(ReplicaIdentity::Default, kind),
        &shape(),
        RenderAs::AsWritten,
    );
    check(
        &text,
        "record",
        Some(r#"{"id":7,"task":"new","done":true}"#),
    );
}

#[test]
fn a_merged_change_is_announced_as_insert_without_an_old_record() {
    let kind = update(
        Some(old(OldKind::Full, ["1", "old", "f", "[1]"])),
        ["1", "new", "t", "~"],
    );
    let text = rendered(
        &change(ReplicaIdentity::Full, kind),
        &shape(),
        RenderAs::Insert,
    );
    check(&text, "type", Some("\"INSERT\""));
    check(
        &text,
        "record",
        Some(r#"{"id":1,"task":"new","done":true,"notes":[1]}"#),
    );
    check(&text, "old_record", None);
}

#[test]
fn a_change_that_is_too_large_keeps_its_small_values() {
    let long = "x".repeat(63);
    let just_fits = "x".repeat(62);
    let kind = update(
        Some(old(OldKind::Full, ["1", &just_fits, "f", "[1]"])),
        ["1", &long, "t", "[1]"],
    );
    let updated = change(ReplicaIdentity::Full, kind);
    let size = match &updated.kind {
        ChangeKind::Update {
            old: Some(old),
            new,
        } => old.tuple.size() + new.size(),
        _ => 0,
    };
    let limited = |size_max| Shape {
        size_max,
        ..shape()
    };
    let text = rendered(&updated, &limited(size), RenderAs::AsWritten);
    check(&text, "errors", Some("null"));
    let text = rendered(&updated, &limited(size - 1), RenderAs::AsWritten);
    check(&text, "errors", Some(r#"["Error 413: Payload Too Large"]"#));
    check(&text, "record", Some(r#"{"id":1,"done":true,"notes":[1]}"#));
    let old_record = format!(r#"{{"id":1,"task":"{just_fits}","done":false,"notes":[1]}}"#);
    check(&text, "old_record", Some(&old_record));
    let padded = format!("[{}1]", " ".repeat(4000));
    let huge = "x".repeat(1 << 20);
    let inserted = change(ReplicaIdentity::Full, insert(["1", &huge, "t", &padded]));
    let text = rendered(&inserted, &shape(), RenderAs::AsWritten);
    check(&text, "record", Some(r#"{"id":1,"done":true,"notes":[1]}"#));
    let first_is_large = change(ReplicaIdentity::Full, insert([&huge, "a", "-", "-"]));
    let text = rendered(&first_is_large, &shape(), RenderAs::AsWritten);
    check(
        &text,
        "record",
        Some(r#"{"task":"a","done":null,"notes":null}"#),
    );
}

#[test]
fn what_nobody_may_see_is_announced_without_content() {
    let withheld = |kind, withheld, render_as| {
        let mut out = Vec::new();
        let change = change(ReplicaIdentity::Default, kind);
        let written = render_withheld(&mut out, &commit(), &change, withheld, render_as);
        assert_eq!(written, !out.is_empty());
        String::from_utf8(out).unwrap()
    };
    let row = ["1", "secret", "t", "-"];
    insta::assert_snapshot!(
        withheld(insert(row), Withheld::NoPrimaryKey, RenderAs::AsWritten),
        @r#"{"schema":"public","table":"todos","type":"INSERT","commit_timestamp":null,"columns":[],"record":{},"errors":["Error 400: Bad Request, no primary key"],"commit_lsn":"16/B374D848","cursor":"000000000000000e-00000016b374d848-00000003"}"#
    );
    insta::assert_snapshot!(
        withheld(update(None, row), Withheld::Unauthorized, RenderAs::AsWritten),
        @r#"{"schema":"public","table":"todos","type":"UPDATE","commit_timestamp":null,"columns":[],"record":{},"old_record":{},"errors":["Error 401: Unauthorized"],"commit_lsn":"16/B374D848","cursor":"000000000000000e-00000016b374d848-00000003"}"#
    );
    let merged = withheld(update(None, row), Withheld::Unauthorized, RenderAs::Insert);
    check(&merged, "type", Some("\"INSERT\""));
    check(&merged, "old_record", None);
    let delete = ChangeKind::Delete {
        old: old(OldKind::Key, ["1", "-", "-", "-"]),
    };
    assert_eq!(
        withheld(delete, Withheld::Unauthorized, RenderAs::AsWritten),
        ""
    );
}

#[test]
fn names_are_escaped() {
    let relation = Relation {
        oid: 1,
        schema: "a\"b".into(),
        name: "c\\d".into(),
        identity: ReplicaIdentity::Default,
        columns: [RelationColumn {
            name: "é\n".into(),
            type_oid: 999_999,
            type_modifier: -1,
            in_identity: true,
        }]
        .into(),
    };
    let mut builder = TupleBuilder::new();
    builder.push(Datum::Text(b"\xff"));
    let change = Change {
        relation: Arc::new(relation),
        order: 0,
        kind: ChangeKind::Insert {
            new: builder.build(),
        },
    };
    let text = rendered(&change, &shape(), RenderAs::AsWritten);
    check(&text, "schema", Some(r#""a\"b""#));
    check(&text, "table", Some(r#""c\\d""#));
    check(
        &text,
        "columns",
        Some(r#"[{"name":"é\n","type":"unknown"}]"#),
    );
    check(&text, "record", Some("{\"é\\n\":\"\u{fffd}\"}"));
}

#[test]
fn commit_timestamps_have_three_digits_cut_off() {
    #[track_caller]
    fn check(unix_micros: i64, expected: &str) {
        let mut out = Vec::new();
        timestamp(&mut out, PgTime::from_unix_micros(unix_micros));
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
    check(0, "1970-01-01T00:00:00.000Z");
    check(1_704_067_199_999_999, "2023-12-31T23:59:59.999Z");
    check(1_709_164_800_000_000, "2024-02-29T00:00:00.000Z");
    check(1_709_251_200_001_000, "2024-03-01T00:00:00.001Z");
    check(951_782_400_000_000, "2000-02-29T00:00:00.000Z");
    check(4_107_542_400_000_000, "2100-03-01T00:00:00.000Z");
    check(-1, "1969-12-31T23:59:59.999Z");
    let mut out = Vec::new();
    for extreme in [i64::MIN, i64::MAX] {
        timestamp(&mut out, PgTime(extreme));
    }
}

#[test]
fn a_row_that_leaves_is_a_delete_of_its_old_key_and_nothing_else() {
    let leaves = |identity, kind, expected: &str| {
        let change = change(identity, kind);
        for old in [OldShape::Full, OldShape::KeyOnly] {
            let shape = Shape { old, ..shape() };
            let text = rendered(&change, &shape, RenderAs::Left);
            check(&text, "type", Some("\"DELETE\""));
            check(&text, "left", Some("true"));
            check(&text, "old_record", Some(expected));
            check(&text, "record", None);
            check(&text, "errors", Some("null"));
            assert!(!text.contains("secret"), "{text}");
        }
    };
    let new = ["1", "secret", "t", "-"];
    let full = old(OldKind::Full, ["1", "before", "f", "-"]);
    leaves(
        ReplicaIdentity::Full,
        update(Some(full), new),
        r#"{"id":1}"#,
    );
    leaves(ReplicaIdentity::Default, update(None, new), r#"{"id":1}"#);
    // The key that the subscriber knows, not the one that it must not.
    let key = old(OldKind::Key, ["7", "-", "-", "-"]);
    leaves(
        ReplicaIdentity::Default,
        update(Some(key), new),
        r#"{"id":7}"#,
    );
    let moved = old(OldKind::Full, ["7", "before", "f", "-"]);
    leaves(
        ReplicaIdentity::Full,
        update(Some(moved), new),
        r#"{"id":7}"#,
    );
    // Columns of another identity say nothing about the key.
    leaves(ReplicaIdentity::Index, update(None, new), "{}");
    // How large the row has become is nobody's business.
    let large = "secret".repeat(200);
    let size_max = Shape {
        size_max: 64,
        ..shape()
    };
    let grown = change(
        ReplicaIdentity::Default,
        update(None, ["1", &large, "t", "-"]),
    );
    let text = rendered(&grown, &size_max, RenderAs::Left);
    check(&text, "errors", Some("null"));
}

#[test]
fn only_an_update_can_leave() {
    let mut out = Vec::new();
    let update = change(ReplicaIdentity::Default, update(None, ["1", "a", "t", "-"]));
    for withheld in [Withheld::NoPrimaryKey, Withheld::Unauthorized] {
        assert!(!render_withheld(
            &mut out,
            &commit(),
            &update,
            withheld,
            RenderAs::Left
        ));
    }
    assert!(out.is_empty());
}
