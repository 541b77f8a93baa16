use std::sync::Arc;

use crate::change::{
    Change, ChangeKind, Datum, OldKind, OldTuple, PgTime, Relation, RelationColumn,
    ReplicaIdentity, TransactionPart, Tuple, TupleBuilder,
};
use crate::replication::encode::encode;
use crate::replication::pgoutput::RowChange;

use super::*;

mod model;

const TABLE: Oid = 16_384;
const OTHER: Oid = 16_385;

fn options() -> AssemblerOptions {
    AssemblerOptions {
        epoch: Epoch(1),
        processed: Lsn::ZERO,
        key_resolver: Arc::new(|_: &Relation| Box::default()),
        message_prefixes: vec!["walcast".into()],
        spool: SpoolOptions::new(std::env::temp_dir()),
    }
}

/// Limits under which everything goes to files at once.
fn in_files() -> AssemblerOptions {
    let mut options = options();
    options.spool.transaction_memory_max = 0;
    options
}

/// The column `k` is the key also where the replica identity is full.
fn by_key(mut options: AssemblerOptions) -> AssemblerOptions {
    options.key_resolver =
        Arc::new(|relation: &Relation| relation.column("k").into_iter().collect());
    options
}

/// A table of text columns; those whose name begins with `k` are the identity.
fn relation(oid: Oid, identity: ReplicaIdentity, columns: &[&str]) -> Relation {
    let column = |name: &&str| RelationColumn {
        name: (*name).into(),
        type_oid: 25,
        type_modifier: -1,
        in_identity: name.starts_with('k') || identity == ReplicaIdentity::Full,
    };
    Relation {
        oid,
        schema: "public".into(),
        name: format!("t{oid}").into(),
        identity,
        columns: columns.iter().map(column).collect(),
    }
}

/// A tuple from words: `-` is NULL, `~` is unchanged.
fn tuple(words: &str) -> Tuple {
    let mut tuple = TupleBuilder::new();
    for word in words.split_whitespace() {
        tuple.push(match word {
            "-" => Datum::Null,
            "~" => Datum::Unchanged,
            text => Datum::Text(text.as_bytes()),
        });
    }
    tuple.build()
}

fn words(tuple: &Tuple) -> String {
    let word = |datum| match datum {
        Datum::Null => "-".to_owned(),
        Datum::Unchanged => "~".to_owned(),
        Datum::Text(text) => String::from_utf8(text.to_vec()).unwrap(),
    };
    let words: Vec<_> = tuple.iter().map(word).collect();
    words.join(" ")
}

fn key(words: &str) -> OldTuple {
    OldTuple {
        kind: OldKind::Key,
        tuple: tuple(words),
    }
}

fn full(words: &str) -> OldTuple {
    OldTuple {
        kind: OldKind::Full,
        tuple: tuple(words),
    }
}

fn insert(new: &str) -> RowKind {
    RowKind::Insert { new: tuple(new) }
}

fn update(new: &str) -> RowKind {
    RowKind::Update {
        old: None,
        new: tuple(new),
    }
}

fn update_from(old: OldTuple, new: &str) -> RowKind {
    RowKind::Update {
        old: Some(old),
        new: tuple(new),
    }
}

const fn delete(old: OldTuple) -> RowKind {
    RowKind::Delete { old }
}

fn describe_in(xid: Option<u32>, relation: Relation) -> Message {
    let xid = xid.map(Xid);
    Message::Relation { xid, relation }
}

fn describe(identity: ReplicaIdentity, columns: &[&str]) -> Message {
    describe_in(None, relation(TABLE, identity, columns))
}

fn row_in(xid: Option<u32>, relation: Oid, kind: RowKind) -> Message {
    Message::Row(RowChange {
        xid: xid.map(Xid),
        relation,
        kind,
    })
}

fn row(kind: RowKind) -> Message {
    row_in(None, TABLE, kind)
}

fn truncate(relations: &[Oid]) -> Message {
    Message::Truncate {
        xid: None,
        relations: relations.to_vec(),
    }
}

fn record(lsn: u64) -> CommitRecord {
    CommitRecord {
        lsn: Lsn::new(lsn),
        end_lsn: Lsn::new(lsn + 8),
        time: PgTime(5),
    }
}

/// A whole transaction that commits at `lsn`.
fn transaction(lsn: u64, content: Vec<Message>) -> Vec<Message> {
    let begin = Message::Begin(Begin {
        final_lsn: Lsn::new(lsn),
        time: PgTime(5),
        xid: Xid(700),
    });
    let mut messages = vec![begin];
    messages.extend(content);
    messages.push(Message::Commit(record(lsn)));
    messages
}

/// A piece of a streamed transaction.
fn piece(xid: u32, first: bool, content: Vec<Message>) -> Vec<Message> {
    let xid = Xid(xid);
    let mut messages = vec![Message::StreamStart { xid, first }];
    messages.extend(content);
    messages.push(Message::StreamStop);
    messages
}

const fn stream_commit(xid: u32, lsn: u64, end_lsn: u64) -> Message {
    let commit = CommitRecord {
        lsn: Lsn::new(lsn),
        end_lsn: Lsn::new(end_lsn),
        time: PgTime(5),
    };
    let xid = Xid(xid);
    Message::StreamCommit { xid, commit }
}

const fn stream_abort(xid: u32, subxid: u32) -> Message {
    Message::StreamAbort {
        xid: Xid(xid),
        subxid: Xid(subxid),
    }
}

fn drain(assembler: &mut Assembler) -> Vec<StreamEvent> {
    let mut events = Vec::new();
    loop {
        match assembler.poll().unwrap() {
            Step::Event(event) => events.push(event),
            Step::Busy => {}
            Step::Idle => return events,
        }
    }
}

fn feed(assembler: &mut Assembler, messages: &[Message]) -> Vec<StreamEvent> {
    let mut events = Vec::new();
    for message in messages {
        assembler.handle(encode(message)).unwrap();
        events.extend(drain(assembler));
    }
    events
}

fn print_change(change: &Change) -> String {
    let old = |old: &OldTuple| match old.kind {
        OldKind::Key => format!("key({})", words(&old.tuple)),
        OldKind::Full => format!("full({})", words(&old.tuple)),
    };
    match &change.kind {
        ChangeKind::Insert { new } => format!("insert {}", words(new)),
        ChangeKind::Update { old: None, new } => format!("update {}", words(new)),
        ChangeKind::Update { old: Some(o), new } => format!("update {} to {}", old(o), words(new)),
        ChangeKind::Delete { old: o } => format!("delete {}", old(o)),
        ChangeKind::Truncate => format!("truncate {}", change.relation.name),
    }
}

fn print(event: &StreamEvent) -> String {
    match event {
        StreamEvent::Part(part) => {
            let changes: Vec<_> = part.changes.iter().map(print_change).collect();
            let last = if part.last { "" } else { " ..." };
            format!("{}: {}{last}", part.commit.lsn.bytes(), changes.join(", "))
        }
        StreamEvent::Skipped { commit, relations } => {
            format!("{}: skipped {relations:?}", commit.lsn.bytes())
        }
        StreamEvent::Message { lsn, prefix } => format!("message {prefix} {}", lsn.bytes()),
        StreamEvent::Position(lsn) => format!("position {}", lsn.bytes()),
        other => format!("{other:?}"),
    }
}

#[track_caller]
fn check_with(options: AssemblerOptions, messages: &[Message], expected: &[&str]) {
    let mut assembler = Assembler::new(options);
    let events = feed(&mut assembler, messages);
    let printed: Vec<_> = events.iter().map(print).collect();
    assert_eq!(printed, expected);
    assert!(assembler.spool.is_unused(), "nothing is held any more");
}

/// The same from memory and from files.
#[track_caller]
fn check(messages: &[Message], expected: &[&str]) {
    check_with(options(), messages, expected);
    check_with(in_files(), messages, expected);
}

/// One transaction on a table with the columns `k v big`.
#[track_caller]
fn check_net(identity: ReplicaIdentity, rows: Vec<RowKind>, expected: &str) {
    let mut content = vec![describe(identity, &["k", "v", "big"])];
    content.extend(rows.into_iter().map(row));
    let expected = match expected {
        "" => "position 108".to_owned(),
        changes => format!("100: {changes}"),
    };
    check(&transaction(100, content), &[&expected]);
}

#[track_caller]
fn check_default(rows: Vec<RowKind>, expected: &str) {
    check_net(ReplicaIdentity::Default, rows, expected);
}

#[test]
fn a_transaction_comes_out_at_its_commit() {
    let mut assembler = Assembler::new(options());
    let messages = transaction(
        100,
        vec![
            describe(ReplicaIdentity::Default, &["k", "v"]),
            row(insert("1 a")),
            row(insert("2 b")),
        ],
    );
    let (commit, before) = messages.split_last().unwrap();
    assert!(feed(&mut assembler, before).is_empty());
    assert!(assembler.in_transaction());
    let events = feed(&mut assembler, std::slice::from_ref(commit));
    let [StreamEvent::Part(part)] = &events[..] else {
        panic!("one part: {events:?}");
    };
    let expected = Commit {
        epoch: Epoch(1),
        lsn: Lsn::new(100),
        end_lsn: Lsn::new(108),
        time: PgTime(5),
        xid: Xid(700),
    };
    assert_eq!((&*part.commit, part.last), (&expected, true));
    assert_eq!(print(&events[0]), "100: insert 1 a, insert 2 b");
    assert!(!assembler.in_transaction());
}

#[test]
fn a_transaction_without_row_changes_moves_the_position_only() {
    check(&transaction(100, vec![]), &["position 108"]);
    let hint = |transactional, prefix: &str| {
        Message::Logical(LogicalMessage {
            xid: None,
            transactional,
            lsn: Lsn::new(77),
            prefix: prefix.into(),
            content: Bytes::new(),
        })
    };
    check(
        &transaction(100, vec![hint(true, "walcast"), hint(true, "other")]),
        &["message walcast 77", "position 108"],
    );
    check(
        &[hint(false, "walcast"), hint(false, "other")],
        &["message walcast 77"],
    );
}

#[test]
fn keepalives_move_the_position_outside_of_transactions_only() {
    let mut assembler = Assembler::new(options());
    assembler.handle_keepalive(Lsn::new(50));
    assembler.handle_keepalive(Lsn::new(40));
    assert_eq!(drain(&mut assembler).len(), 1);
    feed(&mut assembler, &transaction(100, vec![])[..1]);
    assembler.handle_keepalive(Lsn::new(200));
    assert!(drain(&mut assembler).is_empty());
}

#[test]
fn insert_and_update_are_an_insert_of_the_last_version() {
    check_default(
        vec![insert("1 a -"), update("1 b -"), update("1 c -")],
        "insert 1 c -",
    );
    check_default(
        vec![insert("1 a -"), update_from(key("1 - -"), "2 a -")],
        "insert 2 a -",
    );
}

#[test]
fn two_updates_are_one() {
    check_default(vec![update("1 a -"), update("1 b -")], "update 1 b -");
    check_net(
        ReplicaIdentity::Full,
        vec![
            update_from(full("1 a -"), "1 b -"),
            update_from(full("1 b -"), "1 c -"),
        ],
        "update full(1 a -) to 1 c -",
    );
}

#[test]
fn insert_and_delete_are_nothing() {
    check_default(vec![insert("1 a -"), delete(key("1 - -"))], "");
    check_default(
        vec![
            insert("1 a -"),
            update_from(key("1 - -"), "2 a -"),
            delete(key("2 - -")),
            insert("3 c -"),
        ],
        "insert 3 c -",
    );
}

#[test]
fn update_and_delete_are_a_delete_of_the_first_version() {
    check_default(
        vec![update("1 a -"), delete(key("1 - -"))],
        "delete key(1 - -)",
    );
    check_default(
        vec![update_from(key("1 - -"), "2 a -"), delete(key("2 - -"))],
        "delete key(1 - -)",
    );
    check_net(
        ReplicaIdentity::Full,
        vec![update_from(full("1 a -"), "1 b -"), delete(full("1 b -"))],
        "delete full(1 a -)",
    );
}

#[test]
fn a_key_that_is_freed_and_taken_again_is_an_update() {
    check_default(vec![delete(key("1 - -")), insert("1 b -")], "update 1 b -");
    // Without a key each tuple is its own row.
    check_net(
        ReplicaIdentity::Full,
        vec![delete(full("1 a -")), insert("1 b -")],
        "delete full(1 a -), insert 1 b -",
    );
    check_default(
        vec![delete(key("1 - -")), insert("1 b -"), delete(key("1 - -"))],
        "delete key(1 - -)",
    );
    // The insert comes before the row that had the key is deleted under its new one.
    check_default(
        vec![
            update_from(key("1 - -"), "9 a -"),
            insert("1 b -"),
            delete(key("9 - -")),
        ],
        "update 1 b -",
    );
}

#[test]
fn with_a_key_from_the_catalog_full_rows_are_told_apart_by_it() {
    let content = vec![
        describe(ReplicaIdentity::Full, &["k", "v"]),
        row(delete(full("1 a"))),
        row(insert("1 b")),
    ];
    check_with(
        by_key(options()),
        &transaction(100, content),
        &["100: update full(1 a) to 1 b"],
    );
}

#[test]
fn key_changes_are_followed() {
    check_default(
        vec![
            update("1 b -"),
            update_from(key("1 - -"), "2 b -"),
            update_from(key("2 - -"), "3 b -"),
        ],
        "update key(1 - -) to 3 b -",
    );
    // There and back again.
    check_default(
        vec![
            update_from(key("1 - -"), "2 b -"),
            update_from(key("2 - -"), "1 b -"),
        ],
        "update 1 b -",
    );
    // Each makes room for the next.
    check_default(
        vec![
            update_from(key("3 - -"), "4 c -"),
            update_from(key("2 - -"), "3 b -"),
            update_from(key("1 - -"), "2 a -"),
        ],
        "update key(3 - -) to 4 c -, update key(2 - -) to 3 b -, update key(1 - -) to 2 a -",
    );
}

#[test]
fn a_row_that_takes_another_rows_key_is_shown_after_it() {
    check_default(
        vec![
            update_from(key("2 - -"), "3 b ~"),
            insert("2 x y"),
            update("3 c ~"),
        ],
        "update key(2 - -) to 3 c ~, insert 2 x y",
    );
    check_default(
        vec![
            update_from(key("3 - -"), "4 c -"),
            update_from(key("2 - -"), "3 b -"),
            insert("2 x y"),
            update("4 d -"),
            insert("7 z -"),
            update("7 w -"),
        ],
        "update key(3 - -) to 4 d -, update key(2 - -) to 3 b -, insert 2 x y, insert 7 w -",
    );
}

#[test]
fn keys_that_are_swapped_are_shown_as_two_changed_rows() {
    check_default(
        vec![
            update_from(key("1 - -"), "0 a -"),
            update_from(key("2 - -"), "1 b -"),
            update_from(key("0 - -"), "2 a -"),
        ],
        "update 1 b -, update 2 a -",
    );
    let rows = [
        update_from(full("1 a x"), "0 a ~"),
        update_from(full("2 b y"), "1 b ~"),
        update_from(full("0 a x"), "2 a ~"),
    ];
    let mut content = vec![describe(ReplicaIdentity::Full, &["k", "v", "big"])];
    content.extend(rows.map(row));
    check_with(
        by_key(options()),
        &transaction(100, content),
        &["100: update full(1 a x) to 1 b y, update full(2 b y) to 2 a x"],
    );
}

#[test]
fn unchanged_toast_is_filled_from_earlier_versions() {
    check_default(
        vec![insert("1 a x"), update("1 b ~"), update("1 c ~")],
        "insert 1 c x",
    );
    check_default(
        vec![update("1 a x"), update("1 b ~"), update("1 ~ ~")],
        "update 1 b x",
    );
    check_default(vec![update("1 a ~"), update("1 b ~")], "update 1 b ~");
}

#[test]
fn a_truncation_drops_what_the_transaction_wrote_before() {
    let content = vec![
        describe(ReplicaIdentity::Default, &["k", "v"]),
        describe_in(None, relation(OTHER, ReplicaIdentity::Default, &["k"])),
        row(insert("1 a")),
        row(update("2 b")),
        row_in(None, OTHER, insert("1")),
        truncate(&[TABLE]),
        row(insert("1 c")),
        truncate(&[TABLE]),
        row(insert("1 d")),
    ];
    check(
        &transaction(100, content),
        &["100: insert 1, truncate t16384, insert 1 d"],
    );
    let both = vec![
        describe(ReplicaIdentity::Default, &["k"]),
        describe_in(None, relation(OTHER, ReplicaIdentity::Default, &["k"])),
        truncate(&[OTHER, TABLE]),
    ];
    check(
        &transaction(100, both),
        &["100: truncate t16385, truncate t16384"],
    );
}

#[test]
fn without_an_identity_changes_stand_for_themselves() {
    let content = vec![
        describe(ReplicaIdentity::Nothing, &["v"]),
        row(insert("a")),
        row(insert("a")),
        row(update("b")),
    ];
    check(
        &transaction(100, content),
        &["100: insert a, insert a, update b"],
    );
}

#[test]
fn rows_that_cannot_be_told_apart_are_counted() {
    check_net(
        ReplicaIdentity::Full,
        vec![
            insert("1 a -"),
            insert("1 a -"),
            delete(full("1 a -")),
            insert("2 b -"),
        ],
        "insert 1 a -, insert 2 b -",
    );
}

#[test]
fn a_table_that_is_altered_in_between_keeps_names_and_types_apart() {
    let content = |last: Vec<RowKind>| {
        let mut content = vec![
            describe(ReplicaIdentity::Full, &["k", "v"]),
            row(update_from(full("1 a"), "1 b")),
            row(update_from(full("2 a"), "2 b")),
            describe(ReplicaIdentity::Full, &["new", "k", "v"]),
        ];
        content.extend(last.into_iter().map(row));
        transaction(100, content)
    };
    check_with(
        by_key(options()),
        &content(vec![
            update_from(full("- 1 b"), "n 1 c"),
            delete(full("- 2 b")),
        ]),
        &["100: update key(- 1 -) to n 1 c, delete full(2 a)"],
    );
}

#[test]
fn changes_are_decoded_with_the_relation_in_force_where_they_stand() {
    let mut messages = transaction(
        100,
        vec![
            describe(ReplicaIdentity::Default, &["k", "v"]),
            row(insert("1 a")),
        ],
    );
    messages.extend(transaction(
        200,
        vec![
            row(insert("2 b")),
            describe(ReplicaIdentity::Default, &["k", "v", "w"]),
            row(insert("3 c d")),
        ],
    ));
    messages.extend(transaction(300, vec![row(insert("4 e f"))]));
    let events = feed(&mut Assembler::new(options()), &messages);
    let columns: Vec<Vec<usize>> = events
        .iter()
        .map(|event| match event {
            StreamEvent::Part(part) => {
                let columns = part.changes.iter().map(|c| c.relation.columns.len());
                columns.collect()
            }
            other => panic!("a part: {other:?}"),
        })
        .collect();
    assert_eq!(columns, [vec![2], vec![2, 3], vec![3]]);
}

#[test]
fn a_change_of_a_table_that_was_never_described_is_an_error() {
    let mut assembler = Assembler::new(options());
    for message in transaction(100, vec![row(insert("1"))]) {
        assembler.handle(encode(&message)).unwrap();
    }
    assert!(matches!(
        assembler.poll(),
        Err(AssembleError::UnknownRelation(TABLE))
    ));
}

#[test]
fn messages_out_of_place_are_errors() {
    let unexpected = [
        vec![row(insert("1"))],
        vec![Message::Commit(record(100))],
        vec![Message::StreamStop],
        vec![stream_commit(1, 2, 3)],
        vec![Message::StreamStart {
            xid: Xid(1),
            first: false,
        }],
        [
            &transaction(100, vec![])[..1],
            &transaction(100, vec![])[..1],
        ]
        .concat(),
    ];
    for messages in unexpected {
        let mut assembler = Assembler::new(options());
        let (last, before) = messages.split_last().unwrap();
        feed(&mut assembler, before);
        assert!(
            matches!(
                assembler.handle(encode(last)),
                Err(AssembleError::Unexpected(_))
            ),
            "{last:?}"
        );
    }
}

#[test]
fn the_next_message_waits_until_the_last_ones_events_are_taken() {
    let mut assembler = Assembler::new(options());
    let content = vec![describe(ReplicaIdentity::Default, &["k"]), row(insert("1"))];
    for message in transaction(100, content) {
        assembler.handle(encode(&message)).unwrap();
    }
    let next = encode(&transaction(200, vec![])[0]);
    assert!(matches!(
        assembler.handle(next.clone()),
        Err(AssembleError::NotIdle)
    ));
    drain(&mut assembler);
    assembler.handle(next).unwrap();
}

#[test]
fn what_was_processed_before_is_dropped_but_its_descriptions_count() {
    let mut assembler = Assembler::new(options());
    assembler.reset(Epoch(2), Lsn::new(100));
    let mut messages = transaction(
        100,
        vec![describe(ReplicaIdentity::Default, &["k"]), row(insert("1"))],
    );
    messages.extend(transaction(101, vec![row(insert("2"))]));
    let piece = piece(
        9,
        true,
        vec![
            describe_in(Some(9), relation(OTHER, ReplicaIdentity::Default, &["k"])),
            row_in(Some(9), OTHER, insert("3")),
        ],
    );
    messages.splice(0..0, piece);
    messages.push(stream_commit(9, 99, 100));
    messages.extend(transaction(111, vec![row_in(None, OTHER, insert("4"))]));
    let events = feed(&mut assembler, &messages);
    let printed: Vec<_> = events.iter().map(print).collect();
    assert_eq!(
        printed,
        ["position 108", "101: insert 2", "111: insert 4"],
        "only what is new"
    );
}

#[test]
fn a_new_session_begins_from_nothing() {
    let mut assembler = Assembler::new(in_files());
    let streamed = vec![
        describe_in(Some(9), relation(TABLE, ReplicaIdentity::Default, &["k"])),
        row_in(Some(9), TABLE, insert("1")),
    ];
    feed(&mut assembler, &piece(9, true, streamed));
    let content = vec![describe(ReplicaIdentity::Default, &["k"]), row(insert("1"))];
    for message in transaction(100, content.clone()) {
        assembler.handle(encode(&message)).unwrap();
    }
    assembler.reset(Epoch(1), Lsn::ZERO);
    assert!(assembler.spool.is_unused());
    let events = feed(&mut assembler, &transaction(100, content));
    assert_eq!(print(&events[0]), "100: insert 1");
}

#[test]
fn streamed_pieces_wait_for_their_commit_and_aborted_subtransactions_are_left_out() {
    let table = |xid| describe_in(Some(xid), relation(TABLE, ReplicaIdentity::Default, &["k"]));
    let mut messages = piece(9, true, vec![table(9), row_in(Some(9), TABLE, insert("1"))]);
    messages.extend(piece(
        20,
        true,
        vec![table(20), row_in(Some(20), TABLE, insert("5"))],
    ));
    messages.extend(piece(9, false, vec![row_in(Some(10), TABLE, insert("2"))]));
    messages.push(stream_abort(9, 10));
    messages.extend(piece(9, false, vec![row_in(Some(11), TABLE, insert("3"))]));
    messages.extend(transaction(
        50,
        vec![describe(ReplicaIdentity::Default, &["k"]), row(insert("7"))],
    ));
    messages.push(stream_abort(20, 20));
    messages.push(stream_commit(9, 100, 108));
    check(&messages, &["50: insert 7", "100: insert 1, insert 3"]);
}

#[test]
fn the_description_of_an_aborted_transaction_replaces_nothing() {
    let columns = |count: usize| &["k", "v", "w"][..count];
    let describe = |xid, count| {
        describe_in(
            xid,
            relation(TABLE, ReplicaIdentity::Default, columns(count)),
        )
    };
    // (abort of the whole transaction or of the subtransaction) → columns afterwards
    for (end, expected) in [
        (vec![stream_abort(9, 9)], 1),
        (vec![stream_abort(9, 10), stream_commit(9, 100, 108)], 1),
        (vec![stream_commit(9, 100, 108)], 3),
    ] {
        let mut messages = transaction(50, vec![describe(None, 1), row(insert("1"))]);
        let changed = vec![
            describe(Some(10), 3),
            row_in(Some(10), TABLE, insert("2 - -")),
        ];
        messages.extend(piece(9, true, changed));
        messages.extend(end);
        messages.extend(transaction(200, vec![row(insert("3"))]));
        let events = feed(&mut Assembler::new(options()), &messages);
        let Some(StreamEvent::Part(last)) = events.last() else {
            panic!("a part: {events:?}");
        };
        assert_eq!(last.changes[0].relation.columns.len(), expected);
    }
}

#[test]
fn an_older_description_never_replaces_a_newer_one() {
    let describe = |xid, columns: &[&str]| {
        describe_in(xid, relation(TABLE, ReplicaIdentity::Default, columns))
    };
    let streamed = vec![
        describe(Some(9), &["k"]),
        row_in(Some(9), TABLE, insert("1")),
    ];
    let mut messages = piece(9, true, streamed);
    messages.extend(transaction(
        50,
        vec![describe(None, &["k", "v"]), row(insert("2 b"))],
    ));
    messages.push(stream_commit(9, 100, 108));
    messages.extend(transaction(200, vec![row(insert("3 c"))]));
    let events = feed(&mut Assembler::new(options()), &messages);
    let columns: Vec<_> = events
        .iter()
        .map(|event| match event {
            StreamEvent::Part(part) => part.changes[0].relation.columns.len(),
            other => panic!("a part: {other:?}"),
        })
        .collect();
    assert_eq!(columns, [2, 1, 2]);
}

#[test]
fn a_transaction_over_the_limit_is_skipped_and_its_tables_are_named() {
    let mut options = in_files();
    options.spool.file_bytes_max = 200;
    let many = (0..50).map(|i| row(insert(&i.to_string())));
    let content = [describe(ReplicaIdentity::Default, &["k"])]
        .into_iter()
        .chain(many)
        .collect();
    let mut messages = transaction(100, content);
    messages.extend(transaction(200, vec![row(insert("1"))]));
    check_with(
        options,
        &messages,
        &["100: skipped [16384]", "200: insert 1"],
    );
}

fn parts(events: Vec<StreamEvent>) -> Vec<TransactionPart> {
    let part = |event| match event {
        StreamEvent::Part(part) => part,
        other => panic!("a part: {other:?}"),
    };
    events.into_iter().map(part).collect()
}

#[test]
fn large_transactions_come_in_parts_of_bounded_size() {
    let rows = (0..2_500).map(|i| row(insert(&i.to_string())));
    let content = [describe(ReplicaIdentity::Default, &["k"])]
        .into_iter()
        .chain(rows)
        .chain([row(update("7"))])
        .collect();
    let parts = parts(feed(
        &mut Assembler::new(options()),
        &transaction(100, content),
    ));
    let lengths: Vec<_> = parts.iter().map(|p| (p.changes.len(), p.last)).collect();
    assert_eq!(lengths, [(1_000, false), (1_000, false), (500, true)]);
    let orders: Vec<_> = parts
        .iter()
        .flat_map(|part| part.changes.iter().map(|change| change.order))
        .collect();
    assert!(orders.is_sorted_by(|a, b| a < b));
}

#[test]
fn parts_are_bounded_in_bytes() {
    let large = "x".repeat(400_000);
    let rows = (0..5).map(|i| row(insert(&format!("{i} {large}"))));
    let content = [describe(ReplicaIdentity::Default, &["k", "v"])]
        .into_iter()
        .chain(rows)
        .collect();
    let parts = parts(feed(
        &mut Assembler::new(options()),
        &transaction(100, content),
    ));
    let lengths: Vec<_> = parts.iter().map(|part| part.changes.len()).collect();
    assert_eq!(lengths, [2, 2, 1]);
    assert!(parts.iter().all(|part| part.size <= 1 << 20));
}

#[test]
fn the_largest_transaction_goes_to_a_file_when_all_together_are_too_large() {
    let mut options = options();
    options.spool.memory_max = 1_000;
    let mut assembler = Assembler::new(options);
    let table = |xid| describe_in(Some(xid), relation(TABLE, ReplicaIdentity::Default, &["k"]));
    let fill = |xid, count: u32| {
        let rows = (0..count).map(|i| row_in(Some(xid), TABLE, insert(&i.to_string())));
        piece(xid, true, [table(xid)].into_iter().chain(rows).collect())
    };
    feed(&mut assembler, &fill(1, 5));
    feed(&mut assembler, &fill(2, 100));
    assert!(assembler.spool.memory() <= 1_000);
    assert!(
        assembler.streams[&Xid(1)].memory() > 0,
        "the small one stays"
    );
    let events = feed(&mut assembler, &[stream_commit(2, 100, 108)]);
    assert_eq!(parts(events)[0].changes.len(), 100);
}

/// Feeds what the fuzz target `assembler` feeds: messages, each after two bytes of length.
fn feed_corpus(assembler: &mut Assembler, data: &[u8]) -> Vec<StreamEvent> {
    let (mut rest, mut events) = (data, Vec::new());
    while let Some((length, after)) = rest.split_first_chunk::<2>() {
        let length = usize::from(u16::from_be_bytes(*length)).min(after.len());
        let (message, after) = after.split_at(length);
        rest = after;
        if assembler.handle(Bytes::copy_from_slice(message)).is_err() {
            assembler.reset(Epoch(1), Lsn::ZERO);
        }
        loop {
            match assembler.poll() {
                Ok(Step::Event(event)) => events.push(event),
                Ok(Step::Busy) => {}
                Ok(Step::Idle) => break,
                Err(_) => assembler.reset(Epoch(1), Lsn::ZERO),
            }
        }
    }
    events
}

#[test]
fn the_corpus_gives_events_or_errors() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/assembler");
    for file in std::fs::read_dir(directory).unwrap() {
        let data = std::fs::read(file.unwrap().path()).unwrap();
        feed_corpus(&mut Assembler::new(options()), &data);
    }
}

#[test]
fn messages_of_a_real_server_come_out_as_its_transactions() {
    let plain = include_bytes!("../../../fuzz/corpus/assembler/plain");
    let events = feed_corpus(&mut Assembler::new(options()), plain);
    let printed: Vec<_> = events.iter().map(print).collect();
    insta::assert_snapshot!(printed.join("\n"));
    let toast = include_bytes!("../../../fuzz/corpus/assembler/toast_and_origin");
    let events = feed_corpus(&mut Assembler::new(options()), toast);
    let printed: Vec<_> = events.iter().map(print).collect();
    insta::assert_snapshot!(printed.join("\n").replace(&"x".repeat(3_000), "(3000 x)"));
}
