//! The tables that the conductor is told of, and rows of them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use crate::catalog::{Access, Catalog, Collation, Column, Published, Role, Table, Type, TypeKind};
use crate::change::{
    ChangeKind, Datum, OldKind, OldTuple, Relation, RelationColumn, ReplicaIdentity, Tuple,
    TupleBuilder,
};

pub(super) const MESSAGES: u32 = 100;
pub(super) const OPEN: u32 = 200;
/// Published, and nobody is bound to it.
pub(super) const UNBOUND: u32 = 201;
/// `realtime.messages` and one of its partitions.
pub(super) const ROOT: u32 = 300;
pub(super) const PARTITION: u32 = 301;

pub(super) fn table(oid: u32, row_security: bool) -> Arc<Table> {
    let column = |name: &str, number, type_oid| Column {
        name: name.into(),
        number,
        type_oid,
        collation: Collation::None,
        generated: false,
    };
    let access = |policies_apply| Access {
        columns: [true, true].into(),
        policies_apply,
    };
    Arc::new(Table {
        oid,
        schema: "public".into(),
        name: if row_security { "messages" } else { "open" }.into(),
        columns: [column("id", 1, 20), column("body", 2, 25)].into(),
        primary_key: [0].into(),
        identity: ReplicaIdentity::Default,
        row_security,
        published: Published {
            insert: true,
            update: true,
            delete: true,
            truncate: true,
        },
        access: BTreeMap::from([
            ("authenticated".into(), access(row_security)),
            ("anon".into(), access(row_security)),
        ]),
    })
}

pub(super) fn catalog(fingerprint: &str) -> Arc<Catalog> {
    let of_type = |oid, name: &str| {
        (
            oid,
            Arc::new(Type {
                oid,
                name: name.into(),
                sql_name: name.into(),
                kind: TypeKind::Base,
            }),
        )
    };
    Arc::new(Catalog {
        fingerprint: fingerprint.into(),
        tables: HashMap::from([
            (MESSAGES, table(MESSAGES, true)),
            (OPEN, table(OPEN, false)),
            (UNBOUND, table(UNBOUND, false)),
        ]),
        types: HashMap::from([of_type(20, "int8"), of_type(25, "text")]),
        access_marks: HashMap::new(),
        messages: HashSet::from([ROOT, PARTITION]),
        roles: ["anon", "authenticated"]
            .into_iter()
            .map(|name| {
                (
                    name.into(),
                    Role {
                        bypasses_row_security: false,
                    },
                )
            })
            .collect(),
    })
}

pub(super) fn relation(oid: u32) -> Arc<Relation> {
    if ![MESSAGES, OPEN, UNBOUND].contains(&oid) {
        return message_relation(oid);
    }
    let column = |name: &str, type_oid, in_identity| RelationColumn {
        name: name.into(),
        type_oid,
        type_modifier: -1,
        in_identity,
    };
    Arc::new(Relation {
        oid,
        schema: "public".into(),
        name: if oid == MESSAGES { "messages" } else { "open" }.into(),
        identity: ReplicaIdentity::Default,
        columns: [column("id", 20, true), column("body", 25, false)].into(),
    })
}

/// `realtime.messages`, as far as a broadcast needs it.
fn message_relation(oid: u32) -> Arc<Relation> {
    let column = |(name, type_oid): (&str, u32)| RelationColumn {
        name: name.into(),
        type_oid,
        type_modifier: -1,
        in_identity: name == "id",
    };
    let columns = [
        ("id", 2950),
        ("topic", 25),
        ("event", 25),
        ("private", 16),
        ("payload", 3802),
    ];
    Arc::new(Relation {
        oid,
        schema: "realtime".into(),
        name: "messages_2026_11_21".into(),
        identity: ReplicaIdentity::Default,
        columns: columns.into_iter().map(column).collect(),
    })
}

/// Something said by the database.
pub(super) fn spoken(id: u64, topic: &str) -> ChangeKind {
    let mut builder = TupleBuilder::new();
    for text in [&id.to_string(), topic, "event", "t", "{}"] {
        builder.push(Datum::Text(text.as_bytes()));
    }
    ChangeKind::Insert {
        new: builder.build(),
    }
}

pub(super) fn tuple(id: u64, body: &str) -> Tuple {
    let mut builder = TupleBuilder::new();
    builder.push(Datum::Text(id.to_string().as_bytes()));
    builder.push(Datum::Text(body.as_bytes()));
    builder.build()
}

pub(super) fn key(id: u64) -> OldTuple {
    let mut builder = TupleBuilder::new();
    builder.push(Datum::Text(id.to_string().as_bytes()));
    builder.push(Datum::Null);
    OldTuple {
        kind: OldKind::Key,
        tuple: builder.build(),
    }
}

pub(super) fn insert(id: u64, body: &str) -> ChangeKind {
    ChangeKind::Insert {
        new: tuple(id, body),
    }
}

pub(super) fn update(id: u64, body: &str) -> ChangeKind {
    ChangeKind::Update {
        old: None,
        new: tuple(id, body),
    }
}

pub(super) fn delete(id: u64) -> ChangeKind {
    ChangeKind::Delete { old: key(id) }
}
