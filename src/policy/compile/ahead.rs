//! What Postgres may evaluate before the rows that we would look at first: it joins tables in an order of its own.
//!
//! Whatever of that may raise is evaluated ahead of all rows, or on all of them; where it raises, Postgres is asked.

use std::collections::BTreeSet;

use super::lookup::may_be_inlined;
use super::raise::Library;
use super::{Compiler, Stop, risk};
use crate::policy::ir::{Body, Code, Expr, Join, Node, Query, SetCall, Source};

const LEAVES_OUT: &str = "a condition that may raise on rows that a subquery leaves out";

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
            parts.add(self.library(), condition);
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
        let library = self.library();
        let (mut own, mut merged) = (Vec::new(), Vec::new());
        let mut queries = Vec::new();
        let mut tables = BTreeSet::new();
        from.iter()
            .for_each(|source| items_of_tables(source, &mut tables));
        for condition in conditions {
            own.extend(risk::invariants(library, condition));
            // A table's own are tried only for rows that may come to them.
            let items = risk::own_items(condition);
            if items.len() != 1 || items.is_disjoint(&tables) {
                own.extend(risk::reserved(library, condition));
            }
            if let Some(query) = joined(condition) {
                if raises_on_rows(library, query) {
                    return Stop::refuse("a subquery of a subquery that may raise");
                }
                queries.push(query);
            }
        }
        let mut calls = Vec::new();
        from.iter()
            .for_each(|source| self.queries_of(source, &mut queries, &mut calls));
        for query in queries {
            of_query(query, &mut merged);
        }
        let is_odd = |query: &&Query| gates_of(query).iter().any(|part| library.is_fallible(part));
        if is_gated && calls.iter().any(is_odd) {
            return Stop::refuse(
                "a condition on no row of its own that may raise, further out or in a function",
            );
        }
        Ok((own, merged))
    }

    /// The queries in FROM that the planner may merge with the one around, and those of functions.
    fn queries_of<'s>(
        &'s self,
        source: &'s Source,
        queries: &mut Vec<&'s Query>,
        calls: &mut Vec<&'s Query>,
    ) {
        match source {
            Source::Query { query, .. } => queries.push(query),
            Source::With { index, .. } => {
                if let Some(query) = self.query_of_with(*index) {
                    let is_near =
                        self.frame.withs.iter().any(|with| {
                            with.index == *index && with.depth == self.frame.levels.len()
                        });
                    // What is named further in would stand under other levels there.
                    if is_near {
                        queries.push(query);
                    } else {
                        calls.push(query);
                    }
                }
            }
            Source::Set { call, .. } => calls.extend(self.query_of_call(call)),
            Source::Join { left, right, .. } => {
                self.queries_of(left, queries, calls);
                self.queries_of(right, queries, calls);
            }
            Source::Table(_) => {}
        }
    }

    fn query_of_with(&self, index: usize) -> Option<&Query> {
        let mut withs = self.frame.withs.iter();
        let found = withs.find(|with| with.index == index)?;
        found.query.as_deref()
    }

    /// The query of a function that the planner may put in place of the call.
    fn query_of_call(&self, call: &SetCall) -> Option<&Query> {
        let SetCall::Routine { routine, .. } = call else {
            return None;
        };
        let function = self.routine_function(*routine)?;
        match &self.routines.get(*routine)?.code {
            Code::Sql { statements, .. } if may_be_inlined(&function) && !function.strict => {
                match statements.as_slice() {
                    [only] => Some(&only.query),
                    _ => None,
                }
            }
            _ => None,
        }
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
                    if is_at_risk(item) && leaves_out(query) {
                        return Stop::refuse(LEAVES_OUT);
                    }
                    if is_join && raises(self.library(), query) {
                        if reads_around(query) {
                            return Stop::refuse("a lateral subquery that may raise");
                        }
                        ahead.insert(*item);
                    }
                }
                Source::With { item, index } => {
                    exhaustive |= is_at_risk(item);
                    if is_at_risk(item) && self.query_of_with(*index).is_some_and(leaves_out) {
                        return Stop::refuse(LEAVES_OUT);
                    }
                    if is_join {
                        ahead.insert(*item);
                    }
                }
                Source::Set { item, call, .. } => {
                    let is_of_tables = matches!(call, SetCall::Routine { .. });
                    exhaustive |= (is_join || is_of_tables) && is_at_risk(item);
                    if is_at_risk(item) && self.query_of_call(call).is_some_and(leaves_out) {
                        return Stop::refuse(LEAVES_OUT);
                    }
                    if is_join && !is_safe(self.library(), call) {
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

fn items_of_tables(source: &Source, items: &mut BTreeSet<usize>) {
    match source {
        Source::Table(table) => {
            items.insert(table.item);
        }
        Source::Join { left, right, .. } => {
            items_of_tables(left, items);
            items_of_tables(right, items);
        }
        Source::Query { .. } | Source::With { .. } | Source::Set { .. } => {}
    }
}

/// Whether a query leaves rows out that a condition from outside may still be evaluated on: the planner puts it beside the
/// query's own, and the cheapest is evaluated first.
fn leaves_out(query: &Query) -> bool {
    if query.limit.is_some() || query.offset.is_some() {
        return false;
    }
    match &query.body {
        Body::Select(select) => {
            let having = select.grouping.as_ref().and_then(|of| of.having.as_ref());
            let is_lone = matches!(
                select.from.as_slice(),
                [] | [Source::Table(_) | Source::With { .. } | Source::Set { .. }]
            );
            !select.filter.is_empty() || having.is_some() || !is_lone
        }
        Body::Union(left, right, _) => leaves_out(left) || leaves_out(right),
        Body::Intersect(..) | Body::Except(..) => true,
        Body::Values(_) => false,
    }
}

/// The conditions that read no row of the query.
fn gates_of(query: &Query) -> &[Expr] {
    match &query.body {
        Body::Select(select) => select.filter.get(..select.gates).unwrap_or_default(),
        _ => &[],
    }
}

/// What reads neither a row of the query nor one beside it, as it would stand outside of it.
fn of_query(query: &Query, found: &mut Vec<Expr>) {
    match &query.body {
        Body::Select(select) => {
            let gates = gates_of(query).iter();
            let alone = gates.chain(&select.merged).chain(&select.invariants);
            let alone = alone.filter(|part| risk::is_beyond(part, 1));
            found.extend(alone.map(|part| risk::lifted(part, 1)));
            select
                .from
                .iter()
                .for_each(|source| of_tables(source, found));
        }
        Body::Union(left, right, _) | Body::Intersect(left, right) | Body::Except(left, right) => {
            let (mut inside, outside) = (Vec::new(), found);
            of_query(left, &mut inside);
            of_query(right, &mut inside);
            let inside = inside.iter().filter(|part| risk::is_beyond(part, 1));
            outside.extend(inside.map(|part| risk::lifted(part, 1)));
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
fn raises(library: Library<'_>, query: &Query) -> bool {
    let mut raises = false;
    query.visit(0, &mut |expr, _| raises |= library.is_fallible(expr));
    raises
}

/// Whether something in a query may raise on rows that it reads.
fn raises_on_rows(library: Library<'_>, query: &Query) -> bool {
    let mut raises = false;
    query.visit(0, &mut |expr, depth| {
        raises |= library.raises_itself(expr)
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
fn is_safe(library: Library<'_>, call: &SetCall) -> bool {
    match call {
        SetCall::Scalar(expr) => !library.is_fallible(expr),
        SetCall::Builtin { .. } | SetCall::Routine { .. } => false,
    }
}
