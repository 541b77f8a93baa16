//! Shadows against models: changes of all kinds, and loading while the world goes on.

mod altered;
mod changes;
mod loading;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use super::fit::{ColumnFacts, Facts, PublishedFacts, fit};
use super::load_request::{Loaded, Outcome};
use super::store::Store;
use super::{Limits, LoadRequest, LoadResult, Shadow, Spec};
use crate::change::{
    Change, ChangeKind, Commit, Datum, Epoch, Lsn, OldKind, OldTuple, PgTime, Relation,
    RelationColumn, ReplicaIdentity, Snapshot, TransactionPart, Tuple, TupleBuilder, Xid,
};
use crate::policy::Tables;
use crate::policy::schema::Column;
use crate::policy::value::{Kind, Oid, Type, Types, Value, oid};

/// The table: `id int8 primary key, room int8, name text, extra text`.
pub(crate) const TABLE: Oid = 20_000;
const COLUMNS: [(&str, Oid); 4] = [
    ("id", oid::INT8),
    ("room", oid::INT8),
    ("name", oid::TEXT),
    ("extra", oid::TEXT),
];

const LIMITS: Limits = Limits {
    bytes_max: 1 << 30,
    retained_bytes_max: 1 << 20,
    undo_bytes_max: 1 << 20,
};

fn types() -> Arc<Types> {
    let mut types = Types::default();
    let mut add = |oid, kind| types.insert(Arc::new(Type::plain(oid, kind)));
    for base in [oid::INT8, oid::TEXT, oid::UUID] {
        add(base, Kind::Base);
    }
    let element = oid::UUID;
    add(oid::UUID_ARRAY, Kind::Array { element });
    Arc::new(types)
}

fn spec_of(columns: &[(&str, Oid)], reads: &[usize], lookups: &[&[usize]]) -> Spec {
    Spec {
        table: TABLE,
        schema: "public".into(),
        name: "t".into(),
        columns: (columns.iter().zip(1..))
            .map(|((name, type_oid), number)| Column {
                name: (*name).into(),
                number,
                type_oid: *type_oid,
                typmod: -1,
                collation: 0,
                not_null: false,
                generated: false,
            })
            .collect(),
        reads: reads.iter().copied().collect(),
        lookups: lookups.iter().map(|lookup| lookup.to_vec()).collect(),
        types: types(),
    }
}

fn spec(reads: &[usize]) -> Spec {
    spec_of(&COLUMNS, reads, &[&[1], &[2], &[1, 2]])
}

fn facts(spec: &Spec, identity: u8, key: &[i16]) -> Facts {
    Facts {
        kind: b'r',
        permanent: true,
        identity,
        key: key.to_vec(),
        columns: (spec.columns.iter())
            .map(|column| ColumnFacts {
                name: column.name.clone(),
                number: column.number,
                type_oid: column.type_oid,
                typmod: column.typmod,
                generated: false,
            })
            .collect(),
        published: vec![PublishedFacts {
            table: TABLE,
            insert: true,
            update: true,
            delete: true,
            truncate: true,
            filtered: false,
            columns: None,
        }],
        ..Facts::default()
    }
}

fn relation(identity: ReplicaIdentity) -> Arc<Relation> {
    Arc::new(Relation {
        oid: TABLE,
        schema: "public".into(),
        name: "t".into(),
        identity,
        columns: (COLUMNS.iter())
            .map(|(name, type_oid)| RelationColumn {
                name: (*name).into(),
                type_oid: *type_oid,
                type_modifier: -1,
                in_identity: identity == ReplicaIdentity::Full || *name == "id",
            })
            .collect(),
    })
}

/// A row of the model: `room` and `name`.
type Content = (Option<i64>, Option<String>);

fn texts(id: i64, (room, name): &Content) -> [Option<String>; 4] {
    [
        Some(id.to_string()),
        room.map(|room| room.to_string()),
        name.clone(),
        Some("not kept".to_owned()),
    ]
}

fn tuple(id: i64, content: &Content) -> Tuple {
    let mut builder = TupleBuilder::new();
    for text in &texts(id, content) {
        builder.push(
            text.as_ref()
                .map_or(Datum::Null, |text| Datum::Text(text.as_bytes())),
        );
    }
    builder.build()
}

/// With the name left out as unchanged TOAST.
fn tuple_without_name(id: i64, content: &Content) -> Tuple {
    let mut builder = TupleBuilder::new();
    for (place, datum) in tuple(id, content).iter().enumerate() {
        builder.push(if place == 2 { Datum::Unchanged } else { datum });
    }
    builder.build()
}

fn key(id: i64) -> OldTuple {
    let mut builder = TupleBuilder::new();
    builder.push(Datum::Text(id.to_string().as_bytes()));
    (1..COLUMNS.len()).for_each(|_| builder.push(Datum::Null));
    OldTuple {
        kind: OldKind::Key,
        tuple: builder.build(),
    }
}

fn commit(lsn: u64, xid: u32) -> Arc<Commit> {
    Arc::new(Commit {
        epoch: Epoch(1),
        lsn: Lsn::new(lsn),
        end_lsn: Lsn::new(lsn + 1),
        time: PgTime(0),
        xid: Xid(xid),
    })
}

fn part(
    commit: &Arc<Commit>,
    relation: &Arc<Relation>,
    first: u32,
    kinds: Vec<ChangeKind>,
    last: bool,
) -> TransactionPart {
    TransactionPart {
        commit: Arc::clone(commit),
        changes: (first..)
            .zip(kinds)
            .map(|(order, kind)| Change {
                relation: Arc::clone(relation),
                order,
                kind,
            })
            .collect(),
        size: 0,
        last,
    }
}

/// What a loader would hand over.
fn rows(
    request: &LoadRequest,
    facts: &Facts,
    snapshot: &Snapshot,
    lsn: u64,
    rows: impl IntoIterator<Item = Vec<Option<String>>>,
) -> LoadResult {
    let found = fit(&request.spec, facts).unwrap();
    let mut store = Store::new(Arc::new(found.layout));
    for row in rows {
        let kept = store.layout().columns.iter();
        let texts: Vec<_> = kept.map(|kept| row[kept.index].as_deref()).collect();
        let row = store.layout().row_of_texts(texts.into_iter()).unwrap();
        store.insert(row).unwrap();
    }
    LoadResult {
        table: request.spec.table,
        generation: request.generation,
        outcome: Outcome::Rows(Loaded {
            snapshot: snapshot.clone(),
            lsn: Lsn::new(lsn),
            store,
            leaves: found.leaves,
            print: Box::default(),
        }),
    }
}

/// A shadow of an empty table that is trusted from position 1 on.
fn trusted(spec: Spec, facts: &Facts, limits: Limits) -> Shadow {
    let mut shadow = Shadow::new(limits);
    shadow.want(vec![spec]);
    let request = shadow.loads().pop().unwrap();
    let snapshot = "10:10:".parse().unwrap();
    shadow.loaded(rows(&request, facts, &snapshot, 1, []));
    shadow
}

/// What a scan visits.
fn scan(shadow: &impl Tables, keys: &[(usize, Value)]) -> Vec<Arc<[Value]>> {
    let mut found = Vec::new();
    shadow.scan(TABLE, keys, &mut |tuple| {
        found.push(Arc::clone(tuple));
        ControlFlow::Continue(())
    });
    found
}

/// The same as sorted texts.
fn sorted(rows: impl IntoIterator<Item = Arc<[Value]>>) -> Vec<String> {
    let mut rows: Vec<String> = rows.into_iter().map(|row| format!("{row:?}")).collect();
    rows.sort();
    rows
}

/// A model's row as a scan shows it.
fn shown(spec: &Spec, id: i64, (room, name): &Content) -> Arc<[Value]> {
    let all = [
        Value::Int(id),
        room.map_or(Value::Null, Value::Int),
        name.as_ref().map_or(Value::Null, |name| Value::text(name)),
        Value::text("not kept"),
    ];
    let show = |(index, value)| {
        if spec.reads.contains(&index) {
            value
        } else {
            Value::Null
        }
    };
    all.into_iter().enumerate().map(show).collect()
}

/// A loaded table for those who look into one: rows with these ids, read when every transaction of the tests was visible.
pub(crate) fn loaded(request: &LoadRequest, lsn: u64, ids: &[i64], print: &str) -> LoadResult {
    let facts = facts(&request.spec, b'd', &[1]);
    let content = (Some(1), None);
    let texts = ids.iter().map(|id| texts(*id, &content).to_vec());
    let snapshot = "1000:1000:".parse().unwrap();
    let mut result = rows(request, &facts, &snapshot, lsn, texts);
    if let Outcome::Rows(loaded) = &mut result.outcome {
        loaded.print = print.into();
    }
    result
}

/// The columns of the table, as a schema describes them.
pub(crate) fn columns() -> Arc<[Column]> {
    spec(&[]).columns
}

/// A part of one transaction that changes the table.
pub(crate) fn insertion(lsn: u64, xid: u32, id: i64) -> TransactionPart {
    let new = tuple(id, &(Some(1), None));
    let relation = relation(ReplicaIdentity::Default);
    part(
        &commit(lsn, xid),
        &relation,
        0,
        vec![ChangeKind::Insert { new }],
        true,
    )
}
