//! Verdicts without a database: what is known of it is made up, and a table is loaded by hand.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;
use crate::auth::Claims;
use crate::catalog::{
    Access, AccessMark, Collation, Column as CatalogColumn, Published, Table as Picture,
};
use crate::change::{
    Epoch, Lsn, PgTime, Relation, RelationColumn, ReplicaIdentity, TupleBuilder, Xid,
};
use crate::pipeline::history::Kept;
use crate::policy::schema::{Column, Policy, Role, Schema, Table};
use crate::policy::value::{Kind, Type, Types, oid};
use crate::shadow::Prints;
use crate::shadow::tests::{TABLE as LOOKED, columns, insertion, loaded};

/// `memo (id int8 primary key, open bool)`.
const MEMO: Oid = 30_000;
const READER: Oid = 40_000;

/// Where policies say whether memos are open, and whether anything stands in the other table.
const OPEN: &str = "open";
const LOOKS: &str = "(open AND (EXISTS ( SELECT 1\n   FROM public.t)))";

fn types() -> Arc<Types> {
    let mut types = Types::default();
    for base in [oid::INT8, oid::INT4, oid::TEXT, oid::BOOL] {
        types.insert(Arc::new(Type::plain(base, Kind::Base)));
    }
    Arc::new(types)
}

fn table(oid: Oid, name: &str, columns: Arc<[Column]>, qual: Option<&str>) -> Arc<Table> {
    Arc::new(Table {
        oid,
        schema: "public".into(),
        name: name.into(),
        kind: b'r',
        permanent: true,
        has_children: false,
        row_type: 0,
        owner: 10,
        row_security: qual.is_some(),
        force_row_security: false,
        columns,
        keys: Vec::new(),
        policies: qual
            .map(|qual| Policy {
                name: "p".into(),
                permissive: true,
                roles: vec![0],
                qual: Some(qual.into()),
            })
            .into_iter()
            .collect(),
        readers: HashSet::from([READER]),
        column_readers: HashSet::new(),
    })
}

/// A database with this policy on memos.
fn knowledge(fingerprint: &str, qual: &str, print: &str) -> Box<Knowledge> {
    described(fingerprint, (MEMO, "reader"), qual, print)
}

/// A database in which a role reads a table whose policy looks into another one.
pub(in crate::pipeline) fn looking(fingerprint: &str, table: Oid, role: &str) -> Box<Knowledge> {
    described(fingerprint, (table, role), LOOKS, "1")
}

fn described(
    fingerprint: &str,
    (number, role): (Oid, &str),
    qual: &str,
    print: &str,
) -> Box<Knowledge> {
    let column = |name: &str, place, type_oid| Column {
        name: name.into(),
        number: place,
        type_oid,
        typmod: -1,
        collation: 0,
        not_null: false,
        generated: false,
    };
    let memo = [column("id", 1, oid::INT8), column("open", 2, oid::BOOL)];
    let tables = [
        table(number, "memo", memo.into(), Some(qual)),
        table(LOOKED, "t", columns(), None),
    ];
    let mut schema = Schema {
        types: types(),
        search_path: vec!["public".into()],
        roles: HashMap::from([(
            READER,
            Role {
                name: role.into(),
                superuser: false,
                bypasses: false,
                privileges_of: HashSet::from([READER]),
            },
        )]),
        namespaces: HashMap::from([("public".into(), HashSet::from([READER]))]),
        ..Schema::default()
    };
    for table in tables {
        let name = (table.schema.clone(), table.name.clone());
        schema.table_names.insert(name, table.oid);
        schema.tables.insert(table.oid, table);
    }
    Box::new(Knowledge {
        fingerprint: fingerprint.into(),
        core: "core".into(),
        schema,
        from: Lsn::new(100),
        unset: HashSet::new(),
        searches_user: false,
        prints: Arc::new(Prints::from([(LOOKED, print.into())])),
    })
}

fn catalog(fingerprint: &str) -> Arc<Catalog> {
    let column = |name: &str, number, type_oid| CatalogColumn {
        name: name.into(),
        number,
        type_oid,
        collation: Collation::None,
        generated: false,
    };
    let access = Access {
        columns: [true, true].into(),
        policies_apply: true,
    };
    let memo = Picture {
        oid: MEMO,
        schema: "public".into(),
        name: "memo".into(),
        columns: [column("id", 1, oid::INT8), column("open", 2, oid::BOOL)].into(),
        primary_key: [0].into(),
        identity: ReplicaIdentity::Default,
        row_security: true,
        published: Published {
            insert: true,
            update: true,
            delete: true,
            truncate: true,
        },
        access: BTreeMap::from([("reader".into(), access)]),
    };
    Arc::new(Catalog {
        fingerprint: fingerprint.into(),
        tables: HashMap::from([(MEMO, Arc::new(memo))]),
        ..Catalog::default()
    })
}

/// A transaction at a position that inserts a memo.
fn memo(catalog: &Arc<Catalog>, lsn: u64, open: Option<&str>, is_whole: bool) -> Part {
    let column = |name: &str, type_oid| RelationColumn {
        name: name.into(),
        type_oid,
        type_modifier: -1,
        in_identity: name == "id",
    };
    let relation = Arc::new(Relation {
        oid: MEMO,
        schema: "public".into(),
        name: "memo".into(),
        identity: ReplicaIdentity::Default,
        columns: [column("id", oid::INT8), column("open", oid::BOOL)].into(),
    });
    let mut builder = TupleBuilder::new();
    builder.push(Datum::Text(b"1"));
    builder.push(open.map_or(Datum::Unchanged, |open| Datum::Text(open.as_bytes())));
    let change = Change {
        relation: Arc::clone(&relation),
        order: 0,
        kind: ChangeKind::Insert {
            new: builder.build(),
        },
    };
    let view = catalog
        .tables
        .get(&MEMO)
        .map(|table| Arc::new(View::new(relation, Arc::clone(table))));
    let kept = Kept {
        commit: Arc::new(Commit {
            epoch: Epoch(1),
            lsn: Lsn::new(lsn),
            end_lsn: Lsn::new(lsn + 1),
            time: PgTime(0),
            xid: Xid(u32::try_from(lsn).unwrap()),
        }),
        changes: Arc::new(vec![change]),
        size: 1,
        last: true,
        is_whole,
    };
    Part::new(&kept, vec![view], Arc::clone(catalog))
}

struct Bench {
    verdicts: Verdicts,
    catalog: Arc<Catalog>,
    routed: u64,
}

fn reader() -> Identity {
    Identity::new(Arc::new(Claims {
        json: "{}".into(),
        role: "reader".into(),
        subject: None,
        expires_at: None,
    }))
}

impl Bench {
    fn new(qual: &str) -> Self {
        let mut bench = Self {
            verdicts: Verdicts::new(true, 1 << 20),
            catalog: Arc::default(),
            routed: 0,
        };
        bench.renew("a", Some(knowledge("a", qual, "1")));
        bench
    }

    fn renew(&mut self, fingerprint: &str, knowledge: Option<Box<Knowledge>>) -> bool {
        self.catalog = catalog(fingerprint);
        self.verdicts.expect(knowledge);
        let renewed = self.verdicts.renew(&self.catalog);
        self.verdicts.plan(&self.catalog, [(MEMO, "reader")]);
        renewed
    }

    fn load(&mut self, ids: &[i64], print: &str) -> bool {
        let Some(request) = self.verdicts.next_load() else {
            return false;
        };
        self.verdicts.loaded(loaded(&request, 100, ids, print));
        true
    }

    fn judge(&mut self, part: &Part) -> Option<Judgement> {
        self.routed += 1;
        let (identity, mut sitting) = (reader(), Sitting::default());
        self.verdicts
            .judge(&mut sitting, &identity, part, self.routed, 0)
    }

    /// Whether the memo is hidden now that everything before `upto` was applied.
    fn hides(&mut self, part: &Part, upto: u64) -> bool {
        self.routed += 1;
        let (identity, mut sitting) = (reader(), Sitting::default());
        let (routed, upto) = (self.routed, Lsn::new(upto));
        let verdicts = &mut self.verdicts;
        verdicts.hides_now(&mut sitting, &identity, part, (routed, 0), upto)
    }

    /// The verdict on an open memo at this position, after everything before it.
    fn at(&mut self, lsn: u64) -> Option<Judgement> {
        let part = memo(&self.catalog, lsn, Some("t"), true);
        self.verdicts.apply(&TransactionPart {
            commit: Arc::clone(&part.commit),
            changes: Vec::new(),
            size: 0,
            last: true,
        });
        self.judge(&part)
    }
}

#[test]
fn a_row_is_judged_by_the_policy_and_what_cannot_be_is_left_to_postgres() {
    let mut bench = Bench::new(OPEN);
    assert_eq!(bench.at(100), Some(Judgement::Allowed));
    let closed = memo(&bench.catalog, 101, Some("f"), true);
    assert_eq!(bench.judge(&closed), Some(Judgement::Hidden));
    // A value that the stream leaves out, or that is none of its type.
    for open in [None, Some("maybe")] {
        let part = memo(&bench.catalog, 102, open, true);
        assert_eq!(bench.judge(&part), None, "{open:?}");
    }
    let in_parts = memo(&bench.catalog, 103, Some("t"), false);
    assert_eq!(bench.judge(&in_parts), None);
    let judged = bench.verdicts.judged();
    assert_eq!(
        (judged.allowed, judged.denied, judged.undecided),
        (1, 1, 2),
        "a transaction in parts is never looked at"
    );
}

#[test]
fn what_is_known_counts_from_its_position_on_and_under_its_fingerprint_only() {
    let mut bench = Bench::new(OPEN);
    assert_eq!(bench.at(99), None, "before the schema was read");
    assert_eq!(bench.at(100), Some(Judgement::Allowed));
    let later = memo(&catalog("b"), 101, Some("t"), true);
    assert_eq!(bench.judge(&later), None, "released under another catalog");
    // The catalog changes, and what belongs to it could not be read.
    assert!(!bench.renew("b", None));
    assert!(bench.verdicts.lacks_knowledge());
    assert_eq!(bench.at(102), None);
    // It is of yet another one.
    assert!(!bench.renew("c", Some(knowledge("b", OPEN, "1"))));
    assert_eq!(bench.at(103), None);
    assert!(bench.renew("d", Some(knowledge("d", "(NOT open)", "1"))));
    assert_eq!(bench.at(104), Some(Judgement::Hidden));
    assert!(
        !bench.renew("d", Some(knowledge("d", OPEN, "1"))),
        "the same again"
    );
    assert_eq!(bench.at(105), Some(Judgement::Hidden));
}

/// What is known of a database that is the same but for what a TRUNCATE moves, from this position on.
fn read_again(fingerprint: &str, core: &str, from: u64) -> Box<Knowledge> {
    Box::new(Knowledge {
        core: core.into(),
        from: Lsn::new(from),
        ..*knowledge(fingerprint, LOOKS, "1")
    })
}

#[test]
fn a_truncate_elsewhere_leaves_verdicts_as_of_the_commit() {
    let mut bench = Bench::new(LOOKS);
    assert!(bench.load(&[1], "1"));
    assert_eq!(bench.at(150), Some(Judgement::Allowed));
    let marked = |fingerprint: &str, oid| {
        let mut catalog = Arc::into_inner(catalog(fingerprint)).unwrap();
        let mark = AccessMark { rights: 1, file: 1 };
        catalog.access_marks.insert(oid, mark);
        Arc::new(catalog)
    };
    let again = |bench: &mut Bench, catalog, core, from| {
        bench.catalog = catalog;
        let fingerprint = bench.catalog.fingerprint.clone();
        let knowledge = read_again(&fingerprint, core, from);
        bench.verdicts.expect(Some(knowledge));
        assert!(bench.verdicts.renew(&bench.catalog));
        bench.verdicts.plan(&bench.catalog, [(MEMO, "reader")]);
    };
    again(&mut bench, marked("b", 5), "core", 300);
    assert_eq!(bench.at(200), Some(Judgement::Allowed));
    // What could not be read in between makes no difference.
    assert!(!bench.renew("c", None));
    assert_eq!(bench.at(210), None);
    again(&mut bench, marked("d", 5), "core", 310);
    assert_eq!(bench.at(220), Some(Judgement::Allowed));
    // The table itself, or one that its policy looks into: what was there before is not known.
    for (fingerprint, oid, from) in [("e", MEMO, 400), ("f", LOOKED, 600)] {
        again(&mut bench, marked(fingerprint, oid), "core", from);
        assert_eq!(bench.at(from - 50), None);
        assert_eq!(bench.at(from), Some(Judgement::Allowed));
    }
    // Anything else may have been altered.
    again(&mut bench, marked("g", 5), "another core", 800);
    assert_eq!(bench.at(750), None);
    assert_eq!(bench.at(800), Some(Judgement::Allowed));
    // A mark that is gone has moved as well.
    let (catalog, from) = (catalog("h"), 900);
    again(&mut bench, catalog, "another core", from);
    assert_eq!(bench.at(850), Some(Judgement::Allowed));
}

#[test]
fn knowledge_from_before_an_epoch_is_void() {
    let mut bench = Bench::new(OPEN);
    assert!(bench.verdicts.restart(true));
    assert!(!bench.renew("b", Some(knowledge("b", OPEN, "1"))));
    assert_eq!(bench.at(200), None);
    assert!(bench.renew("c", Some(knowledge("c", OPEN, "1"))));
    assert_eq!(bench.at(201), Some(Judgement::Allowed));
}

#[test]
fn a_table_that_is_looked_into_must_be_exact_as_of_the_commit() {
    let mut bench = Bench::new(LOOKS);
    assert_eq!(bench.at(100), None, "not loaded yet");
    assert!(bench.load(&[], "1"));
    assert_eq!(bench.at(101), Some(Judgement::Hidden));
    bench.verdicts.apply(&insertion(102, 102, 1));
    assert_eq!(bench.at(103), Some(Judgement::Allowed));
    let earlier = memo(&bench.catalog, 101, Some("t"), true);
    assert_eq!(bench.judge(&earlier), None, "the table has moved on");
}

#[test]
fn what_is_hidden_now_is_known_whenever_it_was_written() {
    let mut bench = Bench::new(LOOKS);
    // Before the schema was read, and before the table was.
    let early = memo(&bench.catalog, 50, Some("t"), true);
    let soon = |bench: &Bench, upto| bench.verdicts.will_tell(MEMO, "reader", Lsn::new(upto));
    assert!(soon(&bench, 200), "the table is to be loaded");
    assert!(!bench.hides(&early, 200));
    assert!(bench.load(&[], "1"));
    assert!(soon(&bench, 99), "the stream has not come to where it was");
    assert!(!bench.hides(&early, 99));
    assert!(!soon(&bench, 100));
    assert!(bench.hides(&early, 100));
    assert_eq!(bench.judge(&early), None, "nor is it more than hidden");
    let in_parts = memo(&bench.catalog, 50, Some("t"), false);
    assert!(bench.hides(&in_parts, 100));
    for unknown in [None, Some("maybe")] {
        let part = memo(&bench.catalog, 50, unknown, true);
        assert!(!bench.hides(&part, 100), "{unknown:?}");
    }
    // A transaction that was applied in part is nobody's state.
    let mut part = insertion(102, 102, 1);
    part.last = false;
    bench.verdicts.apply(&part);
    assert!(!bench.hides(&early, 102));
    part.last = true;
    bench.verdicts.apply(&part);
    assert!(!bench.hides(&early, 103), "it may be seen now");
    let closed = memo(&bench.catalog, 50, Some("f"), true);
    assert!(bench.hides(&closed, 103));
    let other = memo(&catalog("b"), 50, Some("f"), true);
    assert!(!bench.hides(&other, 103), "seen under another catalog");
}

#[test]
fn a_new_catalog_has_only_altered_tables_read_again() {
    let mut bench = Bench::new(LOOKS);
    assert!(bench.load(&[1], "1"));
    assert_eq!(bench.at(101), Some(Judgement::Allowed));
    // Another policy, and the same table.
    assert!(bench.renew(
        "b",
        Some(knowledge(
            "b",
            "(EXISTS ( SELECT 1\n   FROM public.t))",
            "1"
        ))
    ));
    assert_eq!(bench.at(102), Some(Judgement::Allowed));
    assert!(!bench.load(&[], "1"), "nothing is to be read");
    // Not even while nothing is known, during which the stream goes on.
    assert!(!bench.renew("c", None));
    assert_eq!(bench.at(103), None);
    assert!(bench.renew("d", Some(knowledge("d", LOOKS, "1"))));
    assert_eq!(bench.at(104), Some(Judgement::Allowed));
    // The table was altered.
    assert!(bench.renew("e", Some(knowledge("e", LOOKS, "2"))));
    assert_eq!(bench.at(105), None);
    assert!(bench.load(&[], "2"));
    assert_eq!(bench.at(106), Some(Judgement::Hidden));
    let state = bench.verdicts.state();
    assert_eq!(state.shadows.len(), 1);
    assert!(state.shadows.iter().all(|shadow| shadow.loads == 2));
}

#[test]
fn plans_that_nobody_needs_go_and_their_tables_with_them() {
    let mut bench = Bench::new(LOOKS);
    assert!(bench.load(&[1], "1"));
    bench.verdicts.sweep(|_, _| true);
    bench.verdicts.sweep(|_, _| false);
    assert_eq!(bench.at(101), Some(Judgement::Allowed), "for a while");
    bench.verdicts.sweep(|_, _| true);
    bench.verdicts.sweep(|_, _| false);
    assert_eq!(bench.verdicts.sizes().tables, 1);
    bench.verdicts.sweep(|_, _| false);
    assert_eq!(bench.verdicts.sizes(), Sizes::default());
    assert_eq!(bench.at(102), None);
    // Somebody comes back.
    bench.verdicts.plan(&bench.catalog, [(MEMO, "reader")]);
    assert!(bench.load(&[1], "1"));
    assert_eq!(bench.at(103), Some(Judgement::Allowed));
}

#[test]
fn a_policy_is_not_compiled_for_a_session_that_may_be_another() {
    let refused = |change: fn(&mut Knowledge), qual: &str| -> Box<str> {
        let mut knowledge = knowledge("b", qual, "1");
        change(&mut knowledge);
        let mut bench = Bench::new(OPEN);
        assert!(bench.renew("b", Some(knowledge)));
        assert_eq!(bench.at(101), None);
        let plans = bench.verdicts.state().plans;
        let [plan] = plans.as_slice() else {
            panic!("{plans:?}")
        };
        assert!(!plan.compiled);
        plan.reason.clone().unwrap()
    };
    let reason = refused(
        |knowledge| {
            knowledge.searches_user = true;
            let users = HashSet::from([READER]);
            knowledge.schema.namespaces.insert("reader".into(), users);
        },
        OPEN,
    );
    assert_eq!(&*reason, "a schema of the role's name is searched");
    let reason = refused(|knowledge| knowledge.schema.roles.clear(), OPEN);
    assert_eq!(&*reason, "no such role");
    let reason = refused(
        |knowledge| {
            let memo = knowledge.schema.tables.get_mut(&MEMO).unwrap();
            Arc::make_mut(memo).readers.clear();
        },
        OPEN,
    );
    assert!(reason.starts_with("the policies always raise"), "{reason}");
    let reason = refused(|_| {}, "unheard_of(open)");
    assert!(!reason.is_empty());
}
