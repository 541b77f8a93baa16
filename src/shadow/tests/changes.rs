//! One table, changes of all kinds.

use proptest::prelude::*;

use super::*;
use crate::shadow::State;

/// What happens to the model next; numbers are taken modulo what there is.
#[derive(Clone, Debug)]
struct Op {
    kind: u8,
    row: usize,
    id: i64,
    content: Content,
}

fn ops() -> impl Strategy<Value = Vec<Vec<Op>>> {
    let name = proptest::option::of("[ab]{0,2}");
    let content = (proptest::option::of(0_i64..3), name);
    let op = (0_u8..32, 0_usize..64, 0_i64..12, content).prop_map(|(kind, row, id, content)| Op {
        kind,
        row,
        id,
        content,
    });
    proptest::collection::vec(proptest::collection::vec(op, 1..4), 0..60)
}

/// The change that an operation means, applied to the model.
fn change(model: &mut BTreeMap<i64, Content>, full: bool, op: &Op) -> Option<ChangeKind> {
    let old_of = |id: i64, content: &Content| {
        if full {
            OldTuple {
                kind: OldKind::Full,
                tuple: tuple(id, content),
            }
        } else {
            key(id)
        }
    };
    let there = model.keys().copied().nth(op.row % model.len().max(1));
    Some(match (op.kind, there) {
        (0, _) => {
            model.clear();
            ChangeKind::Truncate
        }
        (1..12, Some(id)) => {
            let before = model.get(&id)?.clone();
            let keeps_name = op.kind < 4;
            let to = if op.kind.is_multiple_of(3) && !model.contains_key(&op.id) {
                op.id
            } else {
                id
            };
            let mut after = op.content.clone();
            if keeps_name {
                after.1.clone_from(&before.1);
            }
            let new = if keeps_name {
                tuple_without_name(to, &after)
            } else {
                tuple(to, &after)
            };
            let old = (full || to != id).then(|| old_of(id, &before));
            model.remove(&id);
            model.insert(to, after);
            ChangeKind::Update { old, new }
        }
        (12..20, Some(id)) => {
            let before = model.remove(&id)?;
            ChangeKind::Delete {
                old: old_of(id, &before),
            }
        }
        _ if model.contains_key(&op.id) => return None,
        _ => {
            model.insert(op.id, op.content.clone());
            ChangeKind::Insert {
                new: tuple(op.id, &op.content),
            }
        }
    })
}

#[track_caller]
fn check(shadow: &Shadow, spec: &Spec, model: &BTreeMap<i64, Content>) {
    check_rows(shadow, spec, model);
    let status = &shadow.status()[0];
    assert_eq!(status.rows, model.len());
    assert_eq!(status.bytes, shadow.bytes());
    assert_eq!(status.bytes == 0, model.is_empty());
}

#[track_caller]
fn check_rows(shadow: &impl Tables, spec: &Spec, model: &BTreeMap<i64, Content>) {
    let rows = |pass: &dyn Fn(&Content) -> bool| {
        let passing = model.iter().filter(|(_, content)| pass(content));
        sorted(passing.map(|(id, content)| shown(spec, *id, content)))
    };
    assert_eq!(sorted(scan(shadow, &[])), rows(&|_| true));
    for room in 0..3 {
        let by_room = (1, Value::Int(room));
        let found = scan(shadow, std::slice::from_ref(&by_room));
        assert_eq!(sorted(found), rows(&|row| row.0 == Some(room)));
        for name in ["", "a", "ab"] {
            let by_name = (2, Value::text(name));
            let found = scan(shadow, &[by_name, by_room.clone()]);
            let both = |row: &Content| row.0 == Some(room) && row.1.as_deref() == Some(name);
            assert_eq!(sorted(found), rows(&both));
        }
    }
}

fn run(reads: &[usize], identity: ReplicaIdentity, pk: &[i16], ops: &[Vec<Op>]) {
    let full = identity == ReplicaIdentity::Full;
    let spec = spec(reads);
    let facts = facts(&spec, if full { b'f' } else { b'd' }, pk);
    let relation = relation(identity);
    let mut shadow = trusted(spec.clone(), &facts, LIMITS);
    shadow.remember(true);
    let mut model = BTreeMap::new();
    for (at, transaction) in (20_u32..).zip(ops) {
        let before = model.clone();
        let kinds: Vec<ChangeKind> = (transaction.iter())
            .filter_map(|op| change(&mut model, full, op))
            .collect();
        let commit = commit(u64::from(at), at);
        let half = kinds.len() / 2;
        let (first, second) = kinds.split_at(half);
        shadow.apply(&part(&commit, &relation, 0, first.to_vec(), false));
        assert!(!shadow.is_trusted(&[TABLE], commit.lsn), "half of it");
        let order = u32::try_from(half).unwrap();
        // A reconnect brings the first part again.
        shadow.apply(&part(&commit, &relation, 0, first.to_vec(), false));
        shadow.apply(&part(&commit, &relation, order, second.to_vec(), true));
        shadow.apply(&part(&commit, &relation, order, second.to_vec(), true));
        assert!(
            shadow.is_trusted(&[TABLE], commit.lsn),
            "{:?}",
            shadow.status()
        );
        check(&shadow, &spec, &model);
        let truncated = kinds.contains(&ChangeKind::Truncate);
        assert_eq!(
            shadow.is_trusted_before(&[TABLE], commit.lsn),
            !truncated,
            "{kinds:?}"
        );
        if !truncated {
            check_rows(&shadow.before(), &spec, &before);
        }
    }
    let gone: Vec<ChangeKind> = (model.iter())
        .map(|(id, content)| ChangeKind::Delete {
            old: OldTuple {
                kind: if full { OldKind::Full } else { OldKind::Key },
                tuple: tuple(*id, content),
            },
        })
        .collect();
    shadow.apply(&part(&commit(9999, 9999), &relation, 0, gone, true));
    check(&shadow, &spec, &BTreeMap::new());
}

proptest! {
    #[test]
    fn a_shadow_equals_its_table(ops in ops()) {
        run(&[0, 1, 2], ReplicaIdentity::Default, &[1], &ops);
    }

    #[test]
    fn a_key_that_no_plan_reads_identifies_as_well(ops in ops()) {
        run(&[1, 2], ReplicaIdentity::Default, &[1], &ops);
    }

    #[test]
    fn old_rows_identify_with_or_without_a_key(ops in ops()) {
        run(&[1, 2], ReplicaIdentity::Full, &[1], &ops);
        run(&[1, 2], ReplicaIdentity::Full, &[], &ops);
    }
}

fn content(room: i64, name: &str) -> Content {
    (Some(room), Some(name.to_owned()))
}

/// Applies a change to a table with the row 1, and tells why that was wrong.
#[track_caller]
fn refused(kind: ChangeKind, relation: &Arc<Relation>) -> String {
    let spec = spec(&[0, 1, 2]);
    let mut shadow = trusted(spec.clone(), &facts(&spec, b'd', &[1]), LIMITS);
    let insert = ChangeKind::Insert {
        new: tuple(1, &content(1, "a")),
    };
    let sound = self::relation(ReplicaIdentity::Default);
    shadow.apply(&part(&commit(20, 20), &sound, 0, vec![insert], true));
    assert!(shadow.is_trusted(&[TABLE], Lsn::new(20)));
    shadow.apply(&part(&commit(21, 21), relation, 0, vec![kind], true));
    assert!(!shadow.is_trusted(&[TABLE], Lsn::new(21)));
    assert!(!shadow.is_trusted(&[TABLE], Lsn::new(20)));
    assert_eq!(shadow.bytes(), 0);
    match shadow.status().remove(0).state {
        State::Invalid { reason } => reason.into(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_does_not_fit_the_rows_invalidates() {
    let relation = relation(ReplicaIdentity::Default);
    let new = |id| tuple(id, &content(1, "a"));
    let row = |kind| refused(kind, &relation);
    assert_eq!(
        row(ChangeKind::Insert { new: new(1) }),
        "a row was inserted that was there"
    );
    assert_eq!(
        row(ChangeKind::Update {
            old: None,
            new: new(2)
        }),
        "a row was updated that was not there"
    );
    assert_eq!(
        row(ChangeKind::Delete { old: key(2) }),
        "a row was deleted that was not there"
    );
    assert_eq!(
        row(ChangeKind::Insert {
            new: tuple_without_name(2, &content(1, "a"))
        }),
        "a row was inserted in part"
    );
    assert_eq!(
        row(ChangeKind::Update {
            old: Some(key(1)),
            new: tuple_without_name(1, &content(1, "a"))
        }),
        "rows exchanged their keys"
    );
}

#[test]
fn another_description_of_the_table_invalidates() {
    let insert = || ChangeKind::Insert {
        new: tuple(2, &content(1, "a")),
    };
    let with = |edit: &dyn Fn(&mut Relation)| {
        let mut relation = (*relation(ReplicaIdentity::Default)).clone();
        edit(&mut relation);
        refused(insert(), &Arc::new(relation))
    };
    assert_eq!(
        with(&|relation| relation.columns[1].name = "other".into()),
        "the table has been altered"
    );
    assert_eq!(
        with(&|relation| relation.columns[2].type_oid = oid::UUID),
        "the table has been altered"
    );
    assert_eq!(
        with(&|relation| relation.columns[2].type_modifier = 14),
        "the table has been altered"
    );
    assert_eq!(
        with(&|relation| relation.identity = ReplicaIdentity::Full),
        "its replica identity has changed"
    );
    assert_eq!(
        with(&|relation| relation.columns.swap(0, 1)),
        "the table has been altered"
    );
}

#[test]
fn the_first_description_must_be_that_of_the_load() {
    let spec = spec(&[0, 1]);
    let layout = fit(&spec, &facts(&spec, b'd', &[1])).unwrap().layout;
    let map = |edit: &dyn Fn(&mut Relation)| {
        let mut relation = (*relation(ReplicaIdentity::Default)).clone();
        edit(&mut relation);
        layout.map(&relation).map_err(String::from)
    };
    assert_eq!(map(&|_| {}), Ok(Box::from([0, 1])));
    let swapped = map(&|relation| relation.columns.swap(0, 1));
    assert_eq!(swapped, Ok(Box::from([1, 0])));
    assert_eq!(
        map(&|relation| relation.columns[2].type_oid = 1),
        Ok(Box::from([0, 1]))
    );
    let changed = |name: &str| Err(format!("column {name:?} has changed"));
    let renamed = map(&|relation| relation.columns[1].name = "other".into());
    assert_eq!(renamed, changed("room"));
    let retyped = map(&|relation| relation.columns[1].type_oid = oid::UUID);
    assert_eq!(retyped, changed("room"));
    let narrowed = map(&|relation| relation.columns[0].type_modifier = 14);
    assert_eq!(narrowed, changed("id"));
    let identified = map(&|relation| relation.columns[1].in_identity = true);
    assert_eq!(
        identified,
        Err("its replica identity has changed".to_owned())
    );
}

#[test]
fn a_table_over_the_limit_is_dropped_and_its_memory_freed() {
    let spec = spec(&[0, 1, 2]);
    let limits = Limits {
        bytes_max: 20_000,
        ..LIMITS
    };
    let mut shadow = trusted(spec.clone(), &facts(&spec, b'd', &[1]), limits);
    let relation = relation(ReplicaIdentity::Default);
    let mut at = 20;
    while shadow.is_trusted(&[TABLE], Lsn::new(at)) || at == 20 {
        at += 1;
        let new = tuple(i64::try_from(at).unwrap(), &content(1, "a"));
        let xid = u32::try_from(at).unwrap();
        let insert = vec![ChangeKind::Insert { new }];
        shadow.apply(&part(&commit(at, xid), &relation, 0, insert, true));
        assert!(shadow.bytes() <= limits.bytes_max);
    }
    assert!(at > 60, "{at}");
    assert_eq!(shadow.status()[0].state, State::TooLarge);
    assert_eq!(shadow.bytes(), 0);
    assert!(shadow.loads().is_empty());
    shadow.invalidate(&[TABLE], "smaller now");
    assert_eq!(shadow.loads().len(), 1);
}

/// Inserts the rows `from..to` in one transaction at position `at`.
fn insert_many(shadow: &mut Shadow, at: u64, ids: std::ops::Range<i64>) {
    let relation = relation(ReplicaIdentity::Default);
    let new = |id| tuple(id, &content(1, "a"));
    let inserts = ids.map(|id| ChangeKind::Insert { new: new(id) }).collect();
    let commit = commit(at, u32::try_from(at).unwrap());
    shadow.apply(&part(&commit, &relation, 0, inserts, true));
    assert!(shadow.is_trusted(&[TABLE], Lsn::new(at)));
}

#[test]
fn the_past_is_that_before_the_last_transaction_and_no_other() {
    let spec = spec(&[0, 1, 2]);
    let mut shadow = trusted(spec.clone(), &facts(&spec, b'd', &[1]), LIMITS);
    insert_many(&mut shadow, 20, 0..3);
    assert!(
        !shadow.is_trusted_before(&[TABLE], Lsn::new(20)),
        "nobody had asked for it"
    );
    shadow.remember(true);
    insert_many(&mut shadow, 21, 3..5);
    assert!(shadow.is_trusted_before(&[TABLE], Lsn::new(21)));
    assert!(!shadow.is_trusted_before(&[TABLE], Lsn::new(20)));
    assert_eq!(scan(&shadow.before(), &[]).len(), 3);
    let remembered = shadow.sizes().bytes - shadow.bytes();
    assert!(remembered > 0);
    // The next one changes nothing here: before it is as after it.
    let relation = relation(ReplicaIdentity::Default);
    shadow.apply(&part(&commit(22, 22), &relation, 0, Vec::new(), true));
    assert!(shadow.is_trusted_before(&[TABLE], Lsn::new(22)));
    assert!(!shadow.is_trusted_before(&[TABLE], Lsn::new(21)));
    assert_eq!(scan(&shadow.before(), &[]).len(), 5);
    assert_eq!(shadow.sizes().bytes, shadow.bytes());
}

#[test]
fn a_transaction_over_the_limit_is_not_remembered_and_the_next_is() {
    let spec = spec(&[0, 1, 2]);
    let limits = Limits {
        undo_bytes_max: 20_000,
        ..LIMITS
    };
    let mut shadow = trusted(spec.clone(), &facts(&spec, b'd', &[1]), limits);
    shadow.remember(true);
    insert_many(&mut shadow, 20, 0..50);
    assert!(shadow.is_trusted_before(&[TABLE], Lsn::new(20)));
    insert_many(&mut shadow, 21, 50..1050);
    assert!(!shadow.is_trusted_before(&[TABLE], Lsn::new(21)));
    assert_eq!(shadow.sizes().bytes, shadow.bytes());
    insert_many(&mut shadow, 22, 1050..1051);
    assert!(shadow.is_trusted_before(&[TABLE], Lsn::new(22)));
    assert_eq!(scan(&shadow.before(), &[]).len(), 1050);
}

#[test]
fn a_transaction_that_came_while_the_table_was_loaded_has_no_past() {
    let spec = spec(&[0, 1, 2]);
    let facts = facts(&spec, b'd', &[1]);
    let mut shadow = Shadow::new(LIMITS);
    shadow.remember(true);
    shadow.want(vec![spec]);
    let request = shadow.loads().pop().unwrap();
    let relation = relation(ReplicaIdentity::Default);
    let insert = |id| ChangeKind::Insert {
        new: tuple(id, &content(1, "a")),
    };
    let commit = commit(20, 20);
    shadow.apply(&part(&commit, &relation, 0, vec![insert(1)], false));
    let snapshot = "20:20:".parse().unwrap();
    shadow.loaded(rows(&request, &facts, &snapshot, 15, []));
    shadow.apply(&part(&commit, &relation, 1, vec![insert(2)], true));
    assert!(shadow.is_trusted(&[TABLE], Lsn::new(20)));
    assert!(!shadow.is_trusted_before(&[TABLE], Lsn::new(20)));
    insert_many(&mut shadow, 21, 3..4);
    assert!(shadow.is_trusted_before(&[TABLE], Lsn::new(21)));
}

#[test]
fn partitions_move_their_root() {
    let spec = spec(&[0, 1, 2]);
    let mut facts = facts(&spec, b'd', &[1]);
    facts.kind = b'p';
    facts.leaves = BTreeSet::from([7, 8]);
    let leaf = |table| PublishedFacts {
        table,
        ..facts.published[0].clone()
    };
    facts.published = vec![leaf(7), leaf(8)];
    let mut shadow = trusted(spec.clone(), &facts, LIMITS);
    assert!(
        !shadow.is_trusted(&[TABLE], Lsn::new(1)),
        "the changes of unknown partitions were not retained"
    );
    let request = shadow.loads().pop().unwrap();
    let of = |oid| {
        let mut relation = (*relation(ReplicaIdentity::Default)).clone();
        relation.oid = oid;
        Arc::new(relation)
    };
    let insert = |id| ChangeKind::Insert {
        new: tuple(id, &content(1, "a")),
    };
    shadow.apply(&part(&commit(20, 20), &of(7), 0, vec![insert(1)], true));
    let snapshot = "20:20:".parse().unwrap();
    shadow.loaded(rows(&request, &facts, &snapshot, 15, []));
    assert!(shadow.is_trusted(&[TABLE], Lsn::new(20)));
    let moved = vec![ChangeKind::Delete { old: key(1) }];
    let mut across = part(&commit(21, 21), &of(7), 0, moved, true);
    across
        .changes
        .extend(part(&commit(21, 21), &of(8), 1, vec![insert(1)], true).changes);
    shadow.apply(&across);
    assert!(shadow.is_trusted(&[TABLE], Lsn::new(21)));
    assert_eq!(scan(&shadow, &[(0, Value::Int(1))]).len(), 1);
    let truncate = vec![ChangeKind::Truncate];
    shadow.apply(&part(&commit(22, 22), &of(7), 0, truncate, true));
    assert!(!shadow.is_trusted(&[TABLE], Lsn::new(22)));
}

#[test]
fn more_is_wanted_only_after_a_load_and_less_at_once() {
    let small = spec(&[1]);
    let facts = facts(&small, b'd', &[1]);
    let mut shadow = trusted(spec(&[0, 1, 2]), &facts, LIMITS);
    let relation = relation(ReplicaIdentity::Default);
    shadow.apply(&part(&commit(20, 20), &relation, 0, vec![], true));
    assert!(shadow.is_trusted(&[TABLE], Lsn::new(20)));
    shadow.want(vec![spec(&[1, 2])]);
    assert!(shadow.is_trusted(&[TABLE], Lsn::new(20)));
    shadow.want(vec![spec(&[0, 1, 2, 3])]);
    assert!(!shadow.is_trusted(&[TABLE], Lsn::new(20)));
    shadow.want(Vec::new());
    assert!(shadow.status().is_empty());
    assert!(shadow.is_trusted(&[], Lsn::new(20)));
}

/// Bytes for each membership; 150 are allowed.
#[test]
fn a_membership_takes_little_memory() {
    let uuid = |n: u32| {
        format!(
            "{n:08x}-0000-4000-8000-{:012x}",
            n.wrapping_mul(2_654_435_761)
        )
    };
    let load = |spec: Spec, key: &[i16], table: Vec<Vec<Option<String>>>| {
        let mut shadow = Shadow::new(LIMITS);
        let facts = facts(&spec, b'd', key);
        shadow.want(vec![spec]);
        let request = shadow.loads().pop().unwrap();
        shadow.loaded(rows(&request, &facts, &"10:10:".parse().unwrap(), 1, table));
        shadow.bytes()
    };
    let columns = [("user_id", oid::UUID), ("room_id", oid::UUID)];
    let members = load(
        spec_of(&columns, &[0, 1], &[&[0, 1], &[1]]),
        &[1, 2],
        (0..100_000)
            .map(|n| vec![Some(uuid(n)), Some(uuid(n / 10))])
            .collect(),
    );
    let columns = [("id", oid::UUID), ("participant_ids", oid::UUID_ARRAY)];
    let conversations = load(
        spec_of(&columns, &[0, 1], &[&[0]]),
        &[1],
        (0..50_000)
            .map(|n| {
                vec![
                    Some(uuid(n)),
                    Some(format!("{{{},{}}}", uuid(n), uuid(n + 1))),
                ]
            })
            .collect(),
    );
    println!(
        "bytes per membership: members {}, conversations of two {}",
        members / 100_000,
        conversations / 100_000
    );
    assert!(members / 100_000 <= 150, "{members}");
    assert!(conversations / 100_000 <= 150, "{conversations}");
}
