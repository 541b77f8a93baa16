//! What Postgres may evaluate before the rows that we would look at first: it joins tables in an order of its own.
//!
//! Whatever of that may raise is evaluated ahead of all rows, or on all of them; where it raises, Postgres is asked.

use std::collections::BTreeSet;

use super::{Compiler, Stop, risk};
use crate::policy::ir::{Body, Expr, Join, Node, Query, SetCall, Source};
use crate::policy::schema::Schema;

/// A part of a condition that reads one table of its query and may raise.
#[derive(Debug)]
pub(super) struct Risk {
    pub(super) item: usize,
    pub(super) expr: Expr,
    /// What costs less is evaluated before.
    pub(super) before: f64,
}

impl Compiler<'_> {
    /// What of the conditions of a query may raise on its rows, by table.
    pub(super) fn risks(&self, all: &[Expr]) -> Result<Vec<Risk>, Stop> {
        let mut risks = Vec::new();
        for condition in all {
            let mut parts = risk::Parts::default();
            parts.add(self.schema, condition);
            if parts.is_across {
                return Stop::refuse("a condition over several tables that may raise");
            }
            let is_join = risk::own_items(condition).len() > 1;
            // As the planner sees it a subquery is dear.
            let is_dear = condition.any(&mut |expr, _| expr.subquery().is_some());
            risks.extend(parts.of_tables.into_iter().map(|(item, expr)| {
                let before = if is_join {
                    f64::INFINITY
                } else if !is_dear && risk::concerns_only(condition, item) {
                    0.0
                } else {
                    self.cost(condition)
                };
                Risk { item, expr, before }
            }));
        }
        Ok(risks)
    }

    /// Parts of the conditions, and of queries that the planner may merge with this one, that are evaluated before any row
    /// is looked at. `is_gated`: conditions that read no row are to be evaluated before.
    pub(super) fn invariants(
        &self,
        from: &[Source],
        conditions: &[Expr],
        is_gated: bool,
    ) -> Result<(Vec<Expr>, Vec<Expr>), Stop> {
        let (mut own, mut merged) = (Vec::new(), Vec::new());
        let mut queries = Vec::new();
        for condition in conditions {
            own.extend(risk::invariants(self.schema, condition));
            if let Some(query) = joined(condition) {
                if raises_on_rows(self.schema, query) {
                    return Stop::refuse("a subquery of a subquery that may raise");
                }
                queries.push(query);
            }
        }
        from.iter()
            .for_each(|source| queries_of(source, &mut queries));
        for query in queries {
            of_query(query, &mut merged);
            let of_rows = |part: &Expr| {
                !risk::depends_on_nothing(part) && risk::is_fallible(self.schema, part)
            };
            if is_gated && gates_of(query).iter().any(of_rows) {
                return Stop::refuse("a subquery's condition on no row of its own that may raise");
            }
        }
        Ok((own, merged))
    }

    /// The sources that Postgres may read before what stands further left, and whether more rows than are needed may
    /// raise.
    pub(super) fn ahead(
        &self,
        from: &[Source],
        risks: &[Risk],
    ) -> Result<(BTreeSet<usize>, bool), Stop> {
        let mut leaves = Vec::new();
        from.iter().for_each(|source| of_join(source, &mut leaves));
        let is_join = leaves.len() > 1;
        let mut ahead = BTreeSet::new();
        let mut exhaustive = false;
        for (place, leaf) in leaves.into_iter().enumerate() {
            let is_at_risk = |item: &usize| risks.iter().any(|risk| risk.item == *item);
            match leaf {
                Source::Table(table) => {
                    if place > 0 && (table.is_risky || !table.reserved.is_empty()) {
                        ahead.insert(table.item);
                    }
                }
                Source::Query { item, query } => {
                    exhaustive |= is_at_risk(item);
                    if is_join && raises(self.schema, query) {
                        if reads_around(query) {
                            return Stop::refuse("a lateral subquery that may raise");
                        }
                        ahead.insert(*item);
                    }
                }
                Source::With { item, .. } => {
                    exhaustive |= is_at_risk(item);
                    if is_join {
                        ahead.insert(*item);
                    }
                }
                Source::Set { item, call, .. } => {
                    exhaustive |= is_join && is_at_risk(item);
                    if is_join && !is_safe(self.schema, call) {
                        if call.expressions().into_iter().all(risk::is_from_outside) {
                            ahead.insert(*item);
                        } else {
                            exhaustive = true;
                        }
                    }
                }
                Source::Join { .. } => {}
            }
        }
        Ok((ahead, exhaustive))
    }
}

/// Takes conditions out of inner joins that read no row: Postgres makes no difference to those behind WHERE.
pub(super) fn take_gates(source: &mut Source, conditions: &mut Vec<Expr>) {
    let Source::Join {
        kind,
        left,
        right,
        on,
    } = source
    else {
        return;
    };
    take_gates(left, conditions);
    if *kind == Join::Inner {
        take_gates(right, conditions);
        let (gates, others) = std::mem::take(on).into_iter().partition(risk::is_gate);
        *on = others;
        conditions.extend::<Vec<Expr>>(gates);
    }
}

/// The conditions of joins.
pub(super) fn conditions_of_joins(source: &Source, found: &mut Vec<Expr>) {
    if let Source::Join {
        left, right, on, ..
    } = source
    {
        found.extend(on.iter().cloned());
        conditions_of_joins(left, found);
        conditions_of_joins(right, found);
    }
}

/// The query of a condition that the planner may turn into a join.
fn joined(condition: &Expr) -> Option<&Query> {
    match &condition.node {
        Node::Exists(query)
        | Node::AnyQuery {
            query, all: false, ..
        } => Some(query),
        Node::Not(inner) => match &inner.node {
            Node::Exists(query) => Some(query),
            _ => None,
        },
        _ => None,
    }
}

/// The queries in FROM.
fn queries_of<'s>(source: &'s Source, queries: &mut Vec<&'s Query>) {
    match source {
        Source::Query { query, .. } => queries.push(query),
        Source::Join { left, right, .. } => {
            queries_of(left, queries);
            queries_of(right, queries);
        }
        Source::Table(_) | Source::With { .. } | Source::Set { .. } => {}
    }
}

/// The conditions that read no row of the query.
fn gates_of(query: &Query) -> &[Expr] {
    match &query.body {
        Body::Select(select) => select.filter.get(..select.gates).unwrap_or_default(),
        _ => &[],
    }
}

/// What depends on nothing.
fn of_query(query: &Query, found: &mut Vec<Expr>) {
    match &query.body {
        Body::Select(select) => {
            let gates = gates_of(query).iter();
            let alone = gates.chain(&select.merged).chain(&select.invariants);
            let alone = alone.filter(|part| risk::depends_on_nothing(part));
            found.extend(alone.cloned());
            select
                .from
                .iter()
                .for_each(|source| of_tables(source, found));
        }
        Body::Union(left, right, _) | Body::Intersect(left, right) | Body::Except(left, right) => {
            of_query(left, found);
            of_query(right, found);
        }
        Body::Values(_) => {}
    }
}

fn of_tables(source: &Source, found: &mut Vec<Expr>) {
    match source {
        Source::Table(table) => found.extend(table.invariants.iter().cloned()),
        Source::Join { left, right, .. } => {
            of_tables(left, found);
            of_tables(right, found);
        }
        Source::Query { .. } | Source::With { .. } | Source::Set { .. } => {}
    }
}

fn of_join<'s>(source: &'s Source, leaves: &mut Vec<&'s Source>) {
    match source {
        Source::Join { left, right, .. } => {
            of_join(left, leaves);
            of_join(right, leaves);
        }
        leaf => leaves.push(leaf),
    }
}

/// Whether something in a query may raise.
fn raises(schema: &Schema, query: &Query) -> bool {
    let mut raises = false;
    query.visit(0, &mut |expr, _| {
        raises |= risk::raises_itself(schema, expr)
    });
    raises
}

/// Whether something in a query may raise on rows that it reads.
fn raises_on_rows(schema: &Schema, query: &Query) -> bool {
    let mut raises = false;
    query.visit(0, &mut |expr, depth| {
        raises |= risk::raises_itself(schema, expr)
            && expr.any(&mut |expr, further| match expr.node {
                Node::Column { level, .. } | Node::WholeRow { level, .. } => {
                    level >= further && level <= further.saturating_add(depth)
                }
                _ => false,
            });
    });
    raises
}

/// Whether a query in FROM reads tables beside it.
fn reads_around(query: &Query) -> bool {
    let mut reads = false;
    query.visit(1, &mut |expr, depth| {
        reads |= match expr.node {
            Node::Column { level, .. } | Node::WholeRow { level, .. } => level == depth,
            _ => false,
        };
    });
    reads
}

/// A plain value that raises for nothing.
fn is_safe(schema: &Schema, call: &SetCall) -> bool {
    match call {
        SetCall::Scalar(expr) => !risk::is_fallible(schema, expr),
        SetCall::Builtin { .. } | SetCall::Routine { .. } => false,
    }
}
