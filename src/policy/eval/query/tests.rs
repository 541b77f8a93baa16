//! What is left to Postgres because its order of evaluation is its own, on plans made by hand.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use crate::policy::audience::derive;
use crate::policy::builtin::Session;
use crate::policy::eval::{Tables, Tuple, Verdict, World};
use crate::policy::ir::{
    Body, Collated, Expr, Join, Node, Plan, Query, Reads, Reserved, Select, Source, TableSource,
    With,
};
use crate::policy::schema::Schema;
use crate::policy::value::{Oid, SqlError, Types, Value, oid};

/// A key and a flag.
const LEFT: Oid = 1;
const RIGHT: Oid = 2;

struct Memory(BTreeMap<Oid, Vec<Tuple>>);

impl Tables for Memory {
    fn scan(
        &self,
        table: Oid,
        keys: &[(usize, Value)],
        visit: &mut dyn FnMut(&Tuple) -> ControlFlow<()>,
    ) {
        let rows = self.0.get(&table).into_iter().flatten();
        for row in rows.filter(|row| is_met(row, keys)) {
            if visit(row).is_break() {
                break;
            }
        }
    }
}

fn is_met(row: &Tuple, keys: &[(usize, Value)]) -> bool {
    keys.iter()
        .all(|(column, value)| row.get(*column) == Some(value))
}

fn expr(node: Node) -> Expr {
    Expr {
        node,
        type_oid: oid::BOOL,
        typmod: -1,
        collation: Collated::NONE,
        unordered: false,
    }
}

fn column(level: usize, item: usize, column: usize) -> Expr {
    expr(Node::Column {
        level,
        item,
        column,
    })
}

fn number(number: i64) -> Expr {
    expr(Node::Const(Value::Int(number)))
}

fn raise() -> Expr {
    expr(Node::Raise(SqlError::new("22012", "division by zero")))
}

fn truth(value: bool) -> Expr {
    expr(Node::Const(Value::Bool(value)))
}

/// Raises where the flag is set, and is else true.
fn raises_if(flag: Expr) -> Expr {
    expr(Node::Case(
        vec![(flag, raise())],
        Some(Box::new(truth(true))),
    ))
}

fn table(item: usize, table: Oid) -> TableSource {
    TableSource {
        item,
        table,
        keys: Vec::new(),
        risky: Vec::new(),
        is_risky: false,
        invariants: Vec::new(),
        reserved: Reserved::default(),
        policy: None,
    }
}

fn select(from: Vec<Source>, items: usize) -> Select {
    Select {
        from,
        items,
        invariants: Vec::new(),
        merged: Vec::new(),
        ahead: BTreeSet::new(),
        exhaustive: false,
        filter: Vec::new(),
        gates: 0,
        grouping: None,
        targets: vec![number(1)],
        sets: Vec::new(),
        distinct: false,
        distinct_on: 0,
    }
}

fn join(kind: Join, left: TableSource, right: TableSource, on: Vec<Expr>) -> Source {
    Source::Join {
        kind,
        left: Box::new(Source::Table(left)),
        right: Box::new(Source::Table(right)),
        on,
    }
}

/// Judges the row (1, false) by `not exists (select)`, over a left table of these rows, and a right one.
fn judge(select: Select, left: &[(i64, bool)], right: &[(i64, bool)]) -> Verdict {
    judge_query(query(Body::Select(Box::new(select))), left, right)
}

fn query(body: Body) -> Query {
    Query {
        with: Vec::new(),
        body,
        order_by: Vec::new(),
        limit: None,
        offset: None,
        width: 1,
        types: vec![oid::INT4],
        names: vec!["x".into()],
        single: false,
    }
}

fn judge_query(query: Query, left: &[(i64, bool)], right: &[(i64, bool)]) -> Verdict {
    let qual = expr(Node::Not(Box::new(expr(Node::Exists(Arc::new(query))))));
    let plan = Plan {
        audience: derive(&Schema::default(), &qual, &[], &[], &mut BTreeSet::new()),
        qual,
        eager: Vec::new(),
        folded: Vec::new(),
        routines: Vec::new(),
        reads: Reads::default(),
    };
    let row = |(key, flag): &(i64, bool)| Tuple::from([Value::Int(*key), Value::Bool(*flag)]);
    let rows = |rows: &[(i64, bool)]| rows.iter().map(row).collect();
    let tables = Memory(BTreeMap::from([(LEFT, rows(left)), (RIGHT, rows(right))]));
    let world = World {
        tables: &tables,
        session: &Session::default(),
        types: &Types::default(),
    };
    plan.judge(world, &row(&(1, false)))
}

fn is_undecided(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Undecided(_))
}

#[test]
fn a_condition_that_reads_no_row_is_evaluated_although_there_is_none() {
    let with = |gate: Expr| Select {
        filter: vec![gate, truth(false)],
        gates: 1,
        ..select(vec![Source::Table(table(0, LEFT))], 1)
    };
    let of_the_row = || raises_if(column(1, 0, 1));
    assert!(is_undecided(&judge(with(raise()), &[], &[])));
    assert_eq!(judge(with(truth(true)), &[], &[]), Verdict::Allow);
    assert_eq!(judge(with(of_the_row()), &[], &[]), Verdict::Allow);
    // Nothing else is evaluated behind one that does not hold.
    let closed = Select {
        filter: vec![truth(false), raise()],
        invariants: vec![raise()],
        ..with(truth(false))
    };
    assert_eq!(judge(closed, &[(1, true)], &[]), Verdict::Allow);
    // But for what may stand before it.
    let merged = Select {
        merged: vec![raise()],
        ..with(truth(false))
    };
    assert!(is_undecided(&judge(merged, &[], &[])));
}

#[test]
fn parts_that_read_no_row_need_a_value_before_any_row() {
    let with = |invariant: Expr| Select {
        invariants: vec![invariant],
        ..select(vec![Source::Table(table(0, LEFT))], 1)
    };
    assert!(is_undecided(&judge(with(raise()), &[], &[])));
    assert!(is_undecided(&judge(with(raise()), &[(1, false)], &[])));
    assert_eq!(judge(with(truth(false)), &[], &[]), Verdict::Allow);
    assert_eq!(judge(with(truth(false)), &[(1, false)], &[]), Verdict::Deny);
}

#[test]
fn rows_that_raise_are_looked_at_although_another_one_is_enough_or_no_key_leads_to_them() {
    let risky = |keys: Vec<(usize, Expr)>| {
        let table = TableSource {
            risky: vec![raises_if(column(0, 0, 1))],
            is_risky: true,
            keys,
            ..table(0, LEFT)
        };
        select(vec![Source::Table(table)], 1)
    };
    let rows = [(1, false), (2, true)];
    assert!(is_undecided(&judge(risky(Vec::new()), &rows, &[])));
    assert_eq!(judge(risky(Vec::new()), &rows[..1], &[]), Verdict::Deny);
    // What is compared before keeps Postgres from them as well.
    let by_key = |key| risky(vec![(0, number(key))]);
    assert_eq!(judge(by_key(1), &rows, &[]), Verdict::Deny);
    assert!(is_undecided(&judge(by_key(2), &rows, &[])));
    assert_eq!(judge(by_key(3), &rows, &[]), Verdict::Allow);
}

#[test]
fn what_is_reserved_for_some_rows_leads_to_all_of_them_if_it_has_no_value() {
    let reserved = |part: Expr| {
        let condition = expr(Node::Case(
            vec![(column(0, 0, 1), part.clone())],
            Some(Box::new(truth(true))),
        ));
        let table = TableSource {
            keys: vec![(0, number(1))],
            reserved: Reserved {
                of_policy: Vec::new(),
                of_conditions: vec![(condition.clone(), vec![part])],
            },
            ..table(0, LEFT)
        };
        Select {
            filter: vec![condition],
            ..select(vec![Source::Table(table)], 1)
        }
    };
    let rows = [(1, false), (2, true)];
    assert!(is_undecided(&judge(reserved(raise()), &rows, &[])));
    assert_eq!(judge(reserved(truth(true)), &rows, &[]), Verdict::Deny);
    // None of the rows has it evaluated.
    assert_eq!(judge(reserved(raise()), &rows[..1], &[]), Verdict::Deny);
}

#[test]
fn a_table_further_right_is_read_although_there_is_nothing_to_join_it_with() {
    let joined = |kind: Join, ahead: &[usize]| {
        let risky = TableSource {
            risky: vec![raises_if(column(0, 1, 1))],
            is_risky: true,
            ..table(1, RIGHT)
        };
        Select {
            ahead: ahead.iter().copied().collect(),
            ..select(vec![join(kind, table(0, LEFT), risky, Vec::new())], 2)
        }
    };
    for kind in [Join::Inner, Join::Left] {
        let raising = judge(joined(kind, &[1]), &[], &[(1, false), (2, true)]);
        assert!(is_undecided(&raising), "{kind:?}");
        let fine = judge(joined(kind, &[1]), &[], &[(1, false)]);
        assert_eq!(fine, Verdict::Allow, "{kind:?}");
        let found = judge(joined(kind, &[1]), &[(1, false)], &[(1, false)]);
        assert_eq!(found, Verdict::Deny, "{kind:?}");
    }
}

#[test]
fn all_combinations_are_looked_at_where_more_than_the_needed_ones_may_raise() {
    let over = |exhaustive: bool| Select {
        filter: vec![raises_if(column(0, 1, 1))],
        exhaustive,
        ..select(
            vec![join(
                Join::Inner,
                table(0, LEFT),
                table(1, RIGHT),
                Vec::new(),
            )],
            2,
        )
    };
    let right = [(1, false), (2, true)];
    assert!(is_undecided(&judge(over(true), &[(1, false)], &right)));
    assert_eq!(judge(over(true), &[(1, false)], &right[..1]), Verdict::Deny);
    assert_eq!(judge(over(true), &[], &right), Verdict::Allow);
    assert_eq!(judge(over(false), &[(1, false)], &right), Verdict::Deny);
}

#[test]
fn a_recursive_query_over_rows_that_lead_back_to_themselves_is_left_to_postgres_soon() {
    let of_itself = || Select {
        targets: vec![column(0, 0, 0)],
        ..select(vec![Source::With { item: 0, index: 0 }], 1)
    };
    let step = query(Body::Select(Box::new(of_itself())));
    let endless = Query {
        with: vec![With {
            index: 0,
            query: Arc::new(query(Body::Values(vec![vec![number(1)]]))),
            recursive: Some((Arc::new(step), true)),
        }],
        ..query(Body::Select(Box::new(of_itself())))
    };
    assert_eq!(
        judge_query(endless, &[], &[]),
        Verdict::Undecided("a recursive query without an end".into())
    );
}
