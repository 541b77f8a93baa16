//! Old rows, judged by a compiled policy without a database.

use std::sync::Arc;

use super::*;
use crate::change::{Datum, TupleBuilder};
use crate::pipeline::knowledge::Knowledge;
use crate::policy::Expected;
use crate::policy::schema::{self, Policy, Schema};
use crate::policy::value::{Kind, Type, Types, oid};

/// The role's OID.
const ROLE: u32 = 16_385;

/// A database in which a policy says who sees a row of `messages`; known of commits from `from` on.
pub(super) fn knowledge(qual: &str, from: Lsn) -> Box<Knowledge> {
    let mut types = Types::default();
    let mut schema = Schema::default();
    for (type_oid, name, category) in [
        (oid::INT8, "int8", b'N'),
        (oid::TEXT, "text", b'S'),
        (oid::BOOL, "bool", b'B'),
    ] {
        types.insert(Arc::new(Type {
            name: name.into(),
            category,
            collation: if type_oid == oid::TEXT { 100 } else { 0 },
            ..Type::plain(type_oid, Kind::Base)
        }));
        let name = ("pg_catalog".into(), name.into());
        schema.type_names.insert(name, type_oid);
    }
    schema.types = Arc::new(types);
    let column = |name: &str, number, type_oid| schema::Column {
        name: name.into(),
        number,
        type_oid,
        typmod: -1,
        collation: if type_oid == oid::TEXT { 100 } else { 0 },
        not_null: false,
        generated: false,
    };
    let table = schema::Table {
        oid: MESSAGES,
        schema: "public".into(),
        name: "messages".into(),
        kind: b'r',
        permanent: true,
        has_children: false,
        row_type: 0,
        owner: 10,
        row_security: true,
        force_row_security: false,
        columns: [column("id", 1, oid::INT8), column("body", 2, oid::TEXT)].into(),
        keys: Vec::new(),
        policies: vec![Policy {
            name: "p".into(),
            permissive: true,
            roles: vec![0],
            qual: Some(qual.into()),
        }],
        readers: HashSet::from([ROLE]),
        column_readers: HashSet::new(),
    };
    schema.tables.insert(MESSAGES, Arc::new(table));
    let role = schema::Role {
        name: "authenticated".into(),
        superuser: false,
        bypasses: false,
        privileges_of: HashSet::from([ROLE]),
    };
    schema.roles.insert(ROLE, role);
    let users = HashSet::from([ROLE]);
    schema.namespaces.insert("public".into(), users.clone());
    schema.namespaces.insert("pg_catalog".into(), users);
    schema.collations.insert(100, schema::CollationKind::Locale);
    for (oid, name, arguments, result) in [
        (67, "texteq", [oid::TEXT, oid::TEXT], oid::BOOL),
        (3294, "current_setting", [oid::TEXT, oid::BOOL], oid::TEXT),
    ] {
        let function = Arc::new(system_function(oid, name, arguments, result));
        schema
            .function_names
            .insert(name.into(), vec![Arc::clone(&function)]);
        schema.functions.insert(oid, function);
    }
    let equals = schema::Operator {
        schema: "pg_catalog".into(),
        name: "=".into(),
        left: oid::TEXT,
        right: oid::TEXT,
        result: oid::BOOL,
        function: 67,
        estimated: true,
    };
    schema.operators.insert("=".into(), vec![Arc::new(equals)]);
    schema.equality.insert(oid::TEXT, 67);
    Box::new(Knowledge {
        fingerprint: "a".into(),
        core: Box::default(),
        schema,
        from,
        unset: HashSet::new(),
        searches_user: false,
        prints: Arc::default(),
    })
}

fn system_function(oid: u32, name: &str, arguments: [u32; 2], result: u32) -> schema::Function {
    schema::Function {
        oid,
        schema: "pg_catalog".into(),
        name: name.into(),
        arguments: arguments.into(),
        argument_names: [].into(),
        outputs: [].into(),
        defaults: [].into(),
        variadic: 0,
        result,
        returns_set: false,
        kind: b'f',
        language: "internal".into(),
        body: name.into(),
        bound: false,
        definer: false,
        owner: 10,
        strict: true,
        volatility: b's',
        config: [].into(),
        cost: 1.0,
        executors: None,
    }
}

/// One subscriber, in force, and policies that are compiled: a row is seen if its body says so.
fn begun() -> Bench {
    let mut bench = Bench::compiling(true);
    let knowledge = knowledge("(body)::boolean", Lsn::ZERO);
    bench.conductor.expect_knowledge(Some(knowledge));
    bench
        .conductor
        .handle_catalog(bench.now, Some(catalog("a")));
    bench.turn();
    bench.see_all();
    bench.join(1);
    bench
}

impl Bench {
    /// One transaction of one change of `messages`, of which the stream tells the whole old row.
    fn commit_full(&mut self, kind: ChangeKind) {
        let xid = self.next_xid;
        self.next_xid += 1;
        let mut relation = (*relation(MESSAGES)).clone();
        relation.identity = ReplicaIdentity::Full;
        for column in &mut relation.columns {
            column.in_identity = true;
        }
        self.stream(StreamEvent::Part(TransactionPart {
            commit: commit(xid),
            changes: vec![Change {
                relation: Arc::new(relation),
                order: 0,
                kind,
            }],
            size: 100,
            last: true,
        }));
    }
}

fn full(id: u64, body: &str) -> OldTuple {
    OldTuple {
        kind: OldKind::Full,
        tuple: tuple(id, body),
    }
}

#[test]
fn a_delete_is_judged_on_the_row_that_went() {
    let mut bench = begun();
    for (id, body) in [(1, "t"), (2, "f"), (3, "x")] {
        bench.commit_full(ChangeKind::Delete {
            old: full(id, body),
        });
    }
    bench.see_all();
    assert!(bench.asked.is_empty());
    // A policy that raises says nothing about who saw it: the wire's rule holds.
    assert_eq!(bench.read(1), ["DELETE 1 t.", "DELETE 3 -."]);
    // So it does with the key alone.
    bench.commit(MESSAGES, delete(4));
    bench.see_all();
    assert_eq!(bench.read(1), ["DELETE 4 -."]);
}

#[test]
fn an_update_is_shown_by_its_new_row_whatever_the_old_one_was() {
    let mut bench = begun();
    for (old, new) in [("t", "t"), ("f", "t"), ("t", "f"), ("f", "f")] {
        bench.commit_full(ChangeKind::Update {
            old: Some(full(1, old)),
            new: tuple(1, new),
        });
    }
    bench.see_all();
    assert!(bench.asked.is_empty());
    assert_eq!(bench.read(1), ["UPDATE 1 t.", "UPDATE 1 t."]);
}

/// An update that leaves the body out as unchanged.
fn leaving_out(old: OldTuple) -> ChangeKind {
    let mut new = TupleBuilder::new();
    new.push(Datum::Text(b"1"));
    new.push(Datum::Unchanged);
    ChangeKind::Update {
        old: Some(old),
        new: new.build(),
    }
}

#[test]
fn postgres_is_asked_about_all_that_is_sent_also_where_the_update_leaves_it_out() {
    let mut bench = Bench::new();
    bench.join(1);
    bench.commit_full(leaving_out(full(1, "secret")));
    bench.commit_full(leaving_out(full(1, "public")));
    bench.see_all();
    let ask = bench.question();
    let bodies = ask.question.rows.iter().map(|row| row.content.last());
    let bodies: Vec<_> = bodies.collect();
    let expected = ["secret", "public"].map(|text| Expected::Text(text.as_bytes().into()));
    assert_eq!(bodies, [Some(&expected[0]), Some(&expected[1])]);
    // Told as one, with the content that was confirmed.
    bench.answer(&ask, &[Found::Different, Found::Same]);
    assert_eq!(bench.read(1), ["UPDATE 1 public."]);
}
