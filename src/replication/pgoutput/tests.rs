#![allow(clippy::arithmetic_side_effects, reason = "sizes in tests are small")]

use proptest::collection::vec;
use proptest::prelude::*;

use crate::change::{Datum, TupleBuilder};
use crate::replication::encode::encode;

use super::*;

const XID: Option<Xid> = Some(Xid(7));

fn text() -> impl Strategy<Value = Box<str>> {
    "[^\\x00]{1,12}".prop_map(String::into_boxed_str)
}

fn tuple() -> impl Strategy<Value = Tuple> {
    let datum = prop_oneof![
        Just(None),
        Just(Some(None)),
        vec(any::<u8>(), 0..20).prop_map(|text| Some(Some(text))),
    ];
    vec(datum, 0..6).prop_map(|data| {
        let mut tuple = TupleBuilder::new();
        for datum in &data {
            tuple.push(match datum {
                None => Datum::Null,
                Some(None) => Datum::Unchanged,
                Some(Some(text)) => Datum::Text(text),
            });
        }
        tuple.build()
    })
}

fn old_tuple() -> impl Strategy<Value = OldTuple> {
    let kind = prop_oneof![Just(OldKind::Key), Just(OldKind::Full)];
    (kind, tuple()).prop_map(|(kind, tuple)| OldTuple { kind, tuple })
}

fn relation() -> impl Strategy<Value = Relation> {
    let identity = prop_oneof![
        Just(ReplicaIdentity::Default),
        Just(ReplicaIdentity::Nothing),
        Just(ReplicaIdentity::Full),
        Just(ReplicaIdentity::Index),
    ];
    let column = (text(), any::<u32>(), any::<i32>(), any::<bool>()).prop_map(
        |(name, type_oid, type_modifier, in_identity)| RelationColumn {
            name,
            type_oid,
            type_modifier,
            in_identity,
        },
    );
    (any::<u32>(), text(), text(), identity, vec(column, 0..8)).prop_map(
        |(oid, schema, name, identity, columns)| Relation {
            oid,
            schema,
            name,
            identity,
            columns: columns.into(),
        },
    )
}

fn row() -> impl Strategy<Value = RowKind> {
    prop_oneof![
        tuple().prop_map(|new| RowKind::Insert { new }),
        (proptest::option::of(old_tuple()), tuple())
            .prop_map(|(old, new)| RowKind::Update { old, new }),
        old_tuple().prop_map(|old| RowKind::Delete { old }),
    ]
}

fn commit_record() -> impl Strategy<Value = CommitRecord> {
    (any::<u64>(), any::<u64>(), any::<i64>()).prop_map(|(lsn, end_lsn, time)| CommitRecord {
        lsn: Lsn::new(lsn),
        end_lsn: Lsn::new(end_lsn),
        time: PgTime(time),
    })
}

/// A message, and whether it stands in a stream's piece.
fn message() -> impl Strategy<Value = (Message, bool)> {
    any::<bool>().prop_flat_map(|in_stream| {
        let xid = in_stream.then_some(Xid(9));
        let message = prop_oneof![
            (any::<u64>(), any::<i64>(), any::<u32>()).prop_map(|(lsn, time, xid)| {
                Message::Begin(Begin {
                    final_lsn: Lsn::new(lsn),
                    time: PgTime(time),
                    xid: Xid(xid),
                })
            }),
            commit_record().prop_map(Message::Commit),
            any::<u64>().prop_map(|lsn| Message::Origin {
                commit_lsn: Lsn::new(lsn)
            }),
            relation().prop_map(move |relation| Message::Relation { xid, relation }),
            any::<u32>().prop_map(move |oid| Message::Type { xid, oid }),
            (any::<u32>(), row()).prop_map(move |(relation, kind)| {
                Message::Row(RowChange {
                    xid,
                    relation,
                    kind,
                })
            }),
            vec(any::<u32>(), 0..9).prop_map(move |relations| Message::Truncate { xid, relations }),
            (any::<bool>(), any::<u64>(), text(), vec(any::<u8>(), 0..9)).prop_map(
                move |(transactional, lsn, prefix, content)| {
                    Message::Logical(LogicalMessage {
                        xid,
                        transactional,
                        lsn: Lsn::new(lsn),
                        prefix,
                        content: content.into(),
                    })
                }
            ),
            (any::<u32>(), any::<bool>()).prop_map(|(xid, first)| Message::StreamStart {
                xid: Xid(xid),
                first
            }),
            Just(Message::StreamStop),
            (any::<u32>(), commit_record()).prop_map(|(xid, commit)| Message::StreamCommit {
                xid: Xid(xid),
                commit
            }),
            (any::<u32>(), any::<u32>()).prop_map(|(xid, subxid)| Message::StreamAbort {
                xid: Xid(xid),
                subxid: Xid(subxid)
            }),
        ];
        (message, Just(in_stream))
    })
}

/// Bytes that a decoded message owns beside the buffer that it was read from.
fn owned_bytes(message: &Message) -> usize {
    match message {
        Message::Relation { relation, .. } => {
            let names = relation.columns.iter().map(|column| column.name.len());
            let columns = relation.columns.len() * size_of::<RelationColumn>();
            columns + names.sum::<usize>() + relation.schema.len() + relation.name.len()
        }
        Message::Truncate { relations, .. } => relations.capacity() * size_of::<Oid>(),
        Message::Logical(message) => message.prefix.len(),
        _ => 0,
    }
}

#[track_caller]
fn check_any_bytes(bytes: Bytes) {
    for in_stream in [false, true] {
        if let Ok(message) = decode(bytes.clone(), in_stream) {
            let allowed = 8 * bytes.len() + 64;
            assert!(owned_bytes(&message) <= allowed, "{message:?}");
        }
    }
}

proptest! {
    #[test]
    fn what_was_encoded_is_decoded((message, in_stream) in message()) {
        let bytes = encode(&message);
        prop_assert_eq!(decode(bytes, in_stream), Ok(message));
    }

    #[test]
    fn any_bytes_give_a_value_or_an_error(bytes in vec(any::<u8>(), 0..200)) {
        check_any_bytes(bytes.into());
    }

    #[test]
    fn any_bytes_after_a_tag_give_a_value_or_an_error(
        tag in proptest::sample::select(b"BCORYIUDTMSEcA".as_slice()),
        mut bytes in vec(prop_oneof![any::<u8>(), 0..4_u8, Just(b't'), Just(b'N')], 0..100),
    ) {
        bytes.insert(0, tag);
        check_any_bytes(bytes.into());
    }

    #[test]
    fn changed_messages_give_a_value_or_an_error(
        (message, _) in message(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = encode(&message).to_vec();
        for (index, byte) in changes {
            let index = index.index(bytes.len());
            bytes[index] = byte;
        }
        check_any_bytes(bytes.into());
    }

    #[test]
    fn every_proper_prefix_and_every_extension_is_refused((message, in_stream) in message()) {
        // An abort may end with where and when, in full.
        prop_assume!(!matches!(message, Message::StreamAbort { .. }));
        let bytes = encode(&message);
        for length in 0..bytes.len() {
            prop_assert!(decode(bytes.slice(..length), in_stream).is_err());
        }
        let longer = [&bytes[..], b"x"].concat();
        prop_assert!(decode(longer.into(), in_stream).is_err());
    }
}

#[track_caller]
fn check(bytes: &'static [u8], in_stream: bool, expected: Result<Message, DecodeError>) {
    assert_eq!(decode(Bytes::from_static(bytes), in_stream), expected);
}

#[test]
fn each_byte_of_an_insert_is_understood() {
    let mut new = TupleBuilder::new();
    new.push(Datum::Text(b"1"));
    new.push(Datum::Null);
    let new = new.build();
    let row = |xid| {
        Ok(Message::Row(RowChange {
            xid,
            relation: 16_384,
            kind: RowKind::Insert { new: new.clone() },
        }))
    };
    check(b"I\0\0\x40\0N\0\x02t\0\0\0\x011n", false, row(None));
    check(b"I\0\0\0\x07\0\0\x40\0N\0\x02t\0\0\0\x011n", true, row(XID));
}

#[test]
fn pg_catalog_is_spelled_out() {
    let bytes = Bytes::from_static(b"R\0\0\0\x01\0pg_class\0n\0\0");
    let Ok(Message::Relation { relation, .. }) = decode(bytes, false) else {
        panic!("a relation");
    };
    assert_eq!(
        (&*relation.schema, &*relation.name),
        ("pg_catalog", "pg_class")
    );
}

#[test]
fn counts_are_not_believed() {
    check(
        b"R\0\0\0\x01s\0t\0d\xff\xff\0a\0\0\0\0\x17\0\0\0\0",
        false,
        Err(DecodeError::Count { tag: 'R' }),
    );
    for count in [b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\x02"] {
        let bytes = [b"T".as_slice(), count, b"\0\0\0\0\x01"].concat();
        assert_eq!(
            decode(bytes.into(), false),
            Err(DecodeError::Count { tag: 'T' })
        );
    }
    check(
        b"M\0\0\0\0\0\0\0\0\0p\0\xff\xff\xff\xffx",
        false,
        Err(DecodeError::Truncated { tag: 'M' }),
    );
}

#[test]
fn names_that_are_no_utf8_are_refused() {
    check(
        b"R\0\0\0\x01\xff\0t\0d\0\0",
        false,
        Err(DecodeError::Encoding { tag: 'R' }),
    );
}

#[test]
fn messages_of_two_phase_commit_are_refused_by_name() {
    for tag in [b"b", b"P", b"K", b"r", b"p"] {
        check(tag, false, Err(DecodeError::TwoPhase(char::from(tag[0]))));
    }
}

#[test]
fn an_abort_may_say_where_and_when() {
    let abort = Message::StreamAbort {
        xid: Xid(1),
        subxid: Xid(2),
    };
    check(b"A\0\0\0\x01\0\0\0\x02", false, Ok(abort.clone()));
    check(
        b"A\0\0\0\x01\0\0\0\x02\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0\x04",
        false,
        Ok(abort),
    );
}

#[test]
fn an_empty_message_and_an_unknown_one_are_refused() {
    check(b"", false, Err(DecodeError::Truncated { tag: '\0' }));
    check(b"Z", false, Err(DecodeError::UnknownMessage('Z')));
}

/// What fuzzing found, and messages that a server sent, stay good for a value or an error.
#[test]
fn the_corpus_gives_values_or_errors() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/pgoutput");
    let mut count = 0;
    for file in std::fs::read_dir(directory).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        check_any_bytes(bytes.into());
        count += 1;
    }
    assert!(count > 0, "the corpus is there");
}
