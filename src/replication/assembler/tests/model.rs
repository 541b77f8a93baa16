//! Random transactions against a model: a map from keys to rows, and what a reader sees of it before and after.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// One row: where it comes from, its small column and its large one.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stored {
    /// Stays with the row through key changes.
    lineage: u32,
    small: u32,
    large: u32,
}

type Table = BTreeMap<u8, Stored>;

/// A statement that may or may not apply.
#[derive(Clone, Debug)]
enum Operation {
    Insert(u8),
    /// Another key (or the same), and whether the large column changes too.
    Update(u8, u8, bool),
    Delete(u8),
    Truncate,
}

/// Statements of one subtransaction, and whether it rolls back.
type Section = (Vec<Operation>, bool);

/// A message with its subtransaction, and whether that rolls back.
type Written = (u32, Message, bool);

fn operation() -> impl Strategy<Value = Operation> {
    let key = || 0..6_u8;
    prop_oneof![
        4 => key().prop_map(Operation::Insert),
        4 => (key(), any::<bool>()).prop_map(|(k, large)| Operation::Update(k, k, large)),
        6 => (key(), key(), any::<bool>()).prop_map(|(k, n, large)| Operation::Update(k, n, large)),
        4 => key().prop_map(Operation::Delete),
        1 => Just(Operation::Truncate),
    ]
}

fn sections() -> impl Strategy<Value = Vec<Section>> {
    vec((vec(operation(), 0..12), prop::bool::weighted(0.3)), 1..4)
}

/// A table as a transaction changes it, and the messages that a server sends of that.
struct Writer {
    table: Table,
    identity: ReplicaIdentity,
    next: u32,
}

impl Writer {
    fn new(identity: ReplicaIdentity) -> Self {
        let row = |key: u8| {
            let lineage = u32::from(key);
            let (small, large) = (lineage, 1_000 + lineage);
            let row = Stored {
                lineage,
                small,
                large,
            };
            (key, row)
        };
        Self {
            table: [0, 1, 2].map(row).into(),
            identity,
            next: 100,
        }
    }

    fn old(&self, key: u8, row: &Stored) -> OldTuple {
        match self.identity {
            ReplicaIdentity::Full => full(&format!("{key} {} {}", row.small, row.large)),
            _ => super::key(&format!("{key} - -")),
        }
    }

    /// The message of an operation; `None` if it fails or matches no row.
    fn apply(&mut self, oid: Oid, operation: &Operation) -> Option<Message> {
        self.next += 1;
        let small = self.next;
        let kind = match *operation {
            Operation::Insert(key) => {
                if self.table.contains_key(&key) {
                    return None;
                }
                let row = Stored {
                    lineage: small,
                    small,
                    large: small + 1_000,
                };
                let new = insert(&format!("{key} {} {}", row.small, row.large));
                self.table.insert(key, row);
                new
            }
            Operation::Update(key, new_key, is_large) => {
                if key != new_key && self.table.contains_key(&new_key) {
                    return None;
                }
                let row = self.table.remove(&key)?;
                let is_full = self.identity == ReplicaIdentity::Full;
                let old = (is_full || key != new_key).then(|| self.old(key, &row));
                let large = if is_large { small + 1_000 } else { row.large };
                let shown = match is_large {
                    true => large.to_string(),
                    false => "~".to_owned(),
                };
                let new = tuple(&format!("{new_key} {small} {shown}"));
                let row = Stored {
                    small,
                    large,
                    ..row
                };
                self.table.insert(new_key, row);
                RowKind::Update { old, new }
            }
            Operation::Delete(key) => {
                let row = self.table.remove(&key)?;
                delete(self.old(key, &row))
            }
            Operation::Truncate => {
                self.table.clear();
                return Some(truncate(&[oid]));
            }
        };
        Some(row_in(None, oid, kind))
    }

    /// The messages of a transaction, also those that roll back.
    fn write(&mut self, oid: Oid, xid: u32, sections: &[Section]) -> Vec<Written> {
        let mut messages = Vec::new();
        for (subxid, (operations, is_aborted)) in (xid..).zip(sections) {
            // The top-level transaction rolls back only as a whole.
            let is_aborted = *is_aborted && subxid != xid;
            let before = self.table.clone();
            for operation in operations {
                let message = self.apply(oid, operation);
                messages.extend(message.map(|message| (subxid, message, is_aborted)));
            }
            if is_aborted {
                self.table = before;
            }
        }
        messages
    }
}

fn described(oid: Oid, identity: ReplicaIdentity) -> Relation {
    relation(oid, identity, &["k", "v", "big"])
}

/// The transaction as a server sends it after its commit.
fn committed(oid: Oid, identity: ReplicaIdentity, written: &[Written]) -> Vec<Message> {
    let kept = written.iter().filter(|(_, _, is_aborted)| !is_aborted);
    let mut content = vec![describe_in(None, described(oid, identity))];
    content.extend(kept.map(|(_, message, _)| message.clone()));
    transaction(100, content)
}

/// The pieces of the transaction as a server streams it, and the aborts.
fn streamed(
    oid: Oid,
    identity: ReplicaIdentity,
    xid: u32,
    written: &[Written],
    piece_length: usize,
) -> Vec<Vec<Message>> {
    let describe = describe_in(Some(xid), described(oid, identity));
    let mut pieces = vec![piece(xid, true, vec![describe])];
    let in_stream = |(subxid, message, _): &Written| match message.clone() {
        Message::Row(change) => row_in(Some(*subxid), oid, change.kind),
        Message::Truncate { relations, .. } => Message::Truncate {
            xid: Some(Xid(*subxid)),
            relations,
        },
        other => panic!("not written: {other:?}"),
    };
    for chunk in written.chunks(piece_length) {
        pieces.push(piece(xid, false, chunk.iter().map(in_stream).collect()));
    }
    let mut aborted: Vec<u32> = written
        .iter()
        .filter_map(|(subxid, _, is_aborted)| is_aborted.then_some(*subxid))
        .collect();
    aborted.dedup();
    let aborts = aborted.iter().map(|subxid| stream_abort(xid, *subxid));
    pieces.push(aborts.collect());
    pieces
}

fn changes(events: Vec<StreamEvent>) -> Vec<Change> {
    let changes = events.into_iter().filter_map(|event| match event {
        StreamEvent::Part(part) => Some(part.changes),
        _ => None,
    });
    changes.flatten().collect()
}

fn number(datum: Option<Datum<'_>>) -> Option<u32> {
    let text = datum?.text()?;
    std::str::from_utf8(text).unwrap().parse().ok()
}

fn key_in(tuple: &Tuple) -> u8 {
    u8::try_from(number(tuple.get(0)).unwrap()).unwrap()
}

/// The old key and old tuple, and the new tuple, of a row change.
fn sides(kind: &ChangeKind) -> (Option<(u8, Option<&OldTuple>)>, Option<&Tuple>) {
    match kind {
        ChangeKind::Truncate => (None, None),
        ChangeKind::Insert { new } => (None, Some(new)),
        ChangeKind::Update { old: None, new } => (Some((key_in(new), None)), Some(new)),
        ChangeKind::Update { old: Some(o), new } => (Some((key_in(&o.tuple), Some(o))), Some(new)),
        ChangeKind::Delete { old } => (Some((key_in(&old.tuple), Some(old))), None),
    }
}

/// Applies the changes one by one to what a reader saw before.
#[track_caller]
fn check_effect(before: &Table, after: &Table, changes: &[Change]) {
    let mut table = before.clone();
    let (mut old_keys, mut new_keys) = (Vec::new(), Vec::new());
    let mut order = None;
    for change in changes {
        assert!(order < Some(change.order), "the order increases");
        order = Some(change.order);
        if change.kind == ChangeKind::Truncate {
            assert!(old_keys.is_empty() && new_keys.is_empty());
            table.clear();
        }
        let (old, new) = sides(&change.kind);
        let tells_old =
            old.is_some_and(|(_, tuple)| tuple.is_some_and(|old| old.kind == OldKind::Key));
        let mut old_row = None;
        if let Some((key, tuple)) = old {
            old_keys.push(key);
            let row = table.remove(&key).expect("the old row is there");
            assert_eq!(Some(&row), before.get(&key), "the old row is from before");
            if let Some(old) = tuple.filter(|old| old.kind == OldKind::Full) {
                let expected = format!("{key} {} {}", row.small, row.large);
                assert_eq!(words(&old.tuple), expected);
            }
            old_row = Some(row);
        }
        if let Some(new) = new {
            let key = key_in(new);
            new_keys.push(key);
            let expected = after.get(&key).expect("only rows at the commit are shown");
            assert_eq!(number(new.get(1)), Some(expected.small));
            match number(new.get(2)) {
                Some(large) => assert_eq!(large, expected.large),
                None => {
                    let old = old_row.expect("an inserted row is complete");
                    // Where keys go round in a circle the value is of another row, unknown to the stream.
                    if old.lineage == expected.lineage {
                        assert_eq!(old.large, expected.large, "unchanged");
                    } else {
                        assert!(tells_old, "an old key says that it is another row's");
                    }
                    if tells_old && old_keys.last() == Some(&key) {
                        assert_ne!(old.lineage, expected.lineage, "the key's own row");
                    }
                }
            }
            let taken = table.insert(key, expected.clone());
            assert_eq!(taken, None, "the new key is free");
        }
    }
    assert_eq!(&table, after);
    for mut keys in [old_keys, new_keys] {
        let count = keys.len();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), count, "one change for each row");
    }
}

fn identities() -> impl Strategy<Value = ReplicaIdentity> {
    prop_oneof![Just(ReplicaIdentity::Default), Just(ReplicaIdentity::Full)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_500))]

    #[test]
    fn the_net_effect_leads_from_what_was_seen_before_to_what_is_seen_after(
        identity in identities(),
        operations in vec(operation(), 0..30),
    ) {
        let mut writer = Writer::new(identity);
        let before = writer.table.clone();
        let written = writer.write(TABLE, 700, &[(operations, false)]);
        let events = feed(
            &mut Assembler::new(by_key(options())),
            &committed(TABLE, identity, &written),
        );
        check_effect(&before, &writer.table, &changes(events));
    }

    #[test]
    fn streamed_or_not_the_same_comes_out(
        identity in identities(),
        first in sections(),
        second in sections(),
        interleaving in vec(any::<bool>(), 0..20),
        piece_length in 1..8_usize,
        is_in_files in any::<bool>(),
    ) {
        let options = || by_key(if is_in_files { in_files() } else { options() });
        let mut assembler = Assembler::new(options());
        let mut expected = Vec::new();
        let mut pieces = Vec::new();
        for (oid, xid, sections) in [(TABLE, 700, &first), (OTHER, 800, &second)] {
            let mut writer = Writer::new(identity);
            let before = writer.table.clone();
            let written = writer.write(oid, xid, sections);
            let plain = changes(feed(
                &mut Assembler::new(options()),
                &committed(oid, identity, &written),
            ));
            check_effect(&before, &writer.table, &plain);
            expected.push(plain);
            pieces.push(streamed(oid, identity, xid, &written, piece_length).into_iter());
        }
        let (mut ones, mut others) = (pieces.remove(0), pieces.remove(0));
        for is_first in interleaving {
            let next = if is_first { ones.next() } else { others.next() };
            prop_assert!(feed(&mut assembler, &next.unwrap_or_default()).is_empty());
        }
        for piece in ones.chain(others) {
            prop_assert!(feed(&mut assembler, &piece).is_empty());
        }
        let second = changes(feed(&mut assembler, &[stream_commit(800, 100, 108)]));
        let first = changes(feed(&mut assembler, &[stream_commit(700, 200, 208)]));
        prop_assert_eq!(vec![first, second], expected);
        prop_assert!(assembler.spool.is_unused());
    }
}
