//! What Postgres evaluates while planning: operands whose values it needs for an estimate.
//!
//! An error in one of them is an error of the whole statement, on any number of rows (rls-semantics.md §5).

use std::collections::BTreeSet;

use crate::policy::ir::{Body, Expr, Join, Node, Query, Source};
use crate::policy::value::Value;

/// What is found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Evaluated in any case.
    pub(super) certain: Vec<Expr>,
    /// Evaluated if there is an index for it, if a join is not left out, if a condition on groups is moved, if parameters
    /// are known.
    pub(super) perhaps: Vec<Expr>,
}

impl Found {
    fn push(&mut self, place: Place, expr: Expr) {
        // A plan that is used again knows no parameters.
        let is_of_call = expr.any(&mut |expr, _| matches!(expr.node, Node::Parameter(_)));
        if place.perhaps || is_of_call {
            self.perhaps.push(expr);
        } else {
            self.certain.push(expr);
        }
    }
}

/// Where a condition stands.
#[derive(Clone, Copy)]
struct Place {
    /// It may be that the planner does not come to it.
    perhaps: bool,
    /// The values of parameters are known to the planner (PL/pgSQL).
    parameters: bool,
    /// How many queries further out the row is that a policy is about; `None`: there is none. Subqueries of policies are
    /// never merged into what is around them, so that there the row is nothing that could be estimated.
    row: Option<usize>,
}

impl Place {
    fn in_doubt(self) -> Self {
        Self {
            perhaps: true,
            ..self
        }
    }

    fn inside(self) -> Self {
        Self {
            row: self.row.map(|row| row.saturating_add(1)),
            ..self
        }
    }
}

/// What is evaluated ahead of a policy's expression.
pub(super) fn of_expression(qual: &Expr, parameters: bool) -> Found {
    let mut found = Found::default();
    let place = Place {
        perhaps: false,
        parameters,
        row: Some(0),
    };
    condition(qual, place, &mut found);
    found
}

/// What is evaluated ahead of a query of a function. `parameters`: their values are known to the planner (PL/pgSQL).
pub(super) fn of_query(query: &Query, parameters: bool) -> Found {
    let mut found = Found::default();
    let place = Place {
        perhaps: false,
        parameters,
        row: None,
    };
    of_inner(query, place, &mut found);
    found
}

fn of_inner(query: &Query, place: Place, found: &mut Found) {
    for with in &query.with {
        of_inner(&with.query, place.inside(), found);
        if let Some((step, _)) = &with.recursive {
            of_inner(step, place.inside(), found);
        }
    }
    match &query.body {
        Body::Select(select) => {
            // From version 17 on the planner estimates nothing of a table that a constant keeps from having rows; no version
            // does where the condition as a whole is one.
            let is_empty =
                select.filter.iter().any(may_be_never) || select.from.iter().any(has_none);
            let place = if is_empty { place.in_doubt() } else { place };
            select
                .from
                .iter()
                .for_each(|source| of_source(source, place, found));
            select
                .filter
                .iter()
                .for_each(|part| condition(part, place, found));
            for target in &select.targets {
                inner_queries(target, place, found);
            }
            if let Some(grouping) = &select.grouping {
                grouping
                    .keys
                    .iter()
                    .for_each(|key| inner_queries(key, place, found));
                grouping
                    .having
                    .iter()
                    .for_each(|part| condition(part, place.in_doubt(), found));
                for aggregate in &grouping.aggregates {
                    let inside = aggregate.arguments.iter().chain(&aggregate.filter);
                    inside.for_each(|part| inner_queries(part, place, found));
                }
            }
        }
        Body::Union(left, right, _) | Body::Intersect(left, right) | Body::Except(left, right) => {
            of_inner(left, place.inside(), found);
            of_inner(right, place.inside(), found);
        }
        Body::Values(rows) => rows
            .iter()
            .flatten()
            .for_each(|value| inner_queries(value, place, found)),
    }
}

/// Whether a condition is a constant that shows no row.
fn is_never(condition: &Expr) -> bool {
    match &condition.node {
        Node::Const(Value::Bool(false) | Value::Null) => true,
        Node::And(parts) => parts.iter().any(is_never),
        _ => false,
    }
}

/// The same once the values of parameters are known: of two, one of them NULL, only NULL may be left.
fn may_be_never(condition: &Expr) -> bool {
    is_never(condition)
        || condition
            .any(&mut |expr, _| matches!(expr.node, Node::Parameter(_) | Node::Const(Value::Null)))
}

/// Whether constants keep a table here from having rows.
fn has_none(source: &Source) -> bool {
    match source {
        Source::Table(table) => table.policy.as_deref().is_some_and(is_never),
        Source::Join {
            left, right, on, ..
        } => has_none(left) || has_none(right) || on.iter().any(may_be_never),
        Source::Query { .. } | Source::With { .. } | Source::Set { .. } => false,
    }
}

fn of_source(source: &Source, place: Place, found: &mut Found) {
    match source {
        Source::Table(table) => {
            if let Some(policy) = &table.policy {
                let place = Place {
                    perhaps: place.perhaps,
                    parameters: false,
                    row: Some(0),
                };
                condition(policy, place, found);
            }
        }
        Source::Query { query, .. } => of_inner(query, place.inside(), found),
        Source::With { .. } | Source::Set { .. } => {}
        Source::Join {
            kind,
            left,
            right,
            on,
        } => {
            of_source(left, place, found);
            // The planner leaves out a left join that makes no difference.
            let place = match kind {
                Join::Inner => place,
                Join::Left => place.in_doubt(),
            };
            on.iter().for_each(|part| condition(part, place, found));
            of_source(right, place, found);
        }
    }
}

/// Queries inside of an expression that is itself not estimated.
fn inner_queries(expr: &Expr, place: Place, found: &mut Found) {
    if let Some(query) = expr.subquery() {
        of_inner(query, place.inside(), found);
    }
    for child in expr.children() {
        inner_queries(child, place, found);
    }
}

fn condition(expr: &Expr, place: Place, found: &mut Found) {
    match &expr.node {
        Node::And(parts) | Node::Or(parts) => {
            parts.iter().for_each(|part| condition(part, place, found))
        }
        Node::Not(inner)
        | Node::IsTruth(inner, ..)
        | Node::Relabel(inner)
        | Node::OfClaims(_, inner) => condition(inner, place, found),
        Node::Call(call) | Node::Distinct(call, _) => {
            if let ([left, right], true) = (
                call.arguments.as_slice(),
                call.estimated || matches!(expr.node, Node::Distinct(..)),
            ) {
                match (reads_rows(left, place), reads_rows(right, place)) {
                    (true, false) if !spans_tables(left) => estimate(right, place, found),
                    (false, true) if !spans_tables(right) => estimate(left, place, found),
                    (false, false) => {}
                    // A side is estimated if the other one is looked up by an index.
                    _ => {
                        estimate(left, place.in_doubt(), found);
                        estimate(right, place.in_doubt(), found);
                    }
                }
            }
            inner_queries(expr, place, found);
        }
        Node::AnyArray {
            left,
            right,
            estimated,
            ..
        } => {
            if *estimated {
                estimate(left, place, found);
                estimate(right, place, found);
            }
            inner_queries(expr, place, found);
        }
        _ => inner_queries(expr, place, found),
    }
}

/// Whether an operand has rows that the planner could know statistics of.
fn reads_rows(expr: &Expr, place: Place) -> bool {
    let row = place.row.filter(|row| *row > 0);
    expr.any(&mut |expr, depth| match expr.node {
        Node::Column { level, .. } | Node::WholeRow { level, .. } => {
            level >= depth && Some(level.saturating_sub(depth)) != row
        }
        Node::Grouped { .. } => depth == 0,
        _ => false,
    })
}

/// Whether an operand is of several tables: the planner knows no statistics of their join yet.
fn spans_tables(expr: &Expr) -> bool {
    let mut tables = BTreeSet::new();
    expr.visit(0, &mut |expr, depth| match expr.node {
        Node::Column { level, item, .. } | Node::WholeRow { level, item } if level == depth => {
            tables.insert(item);
        }
        _ => {}
    });
    tables.len() > 1
}

/// The largest parts that depend on nothing but claims and settings.
fn estimate(expr: &Expr, place: Place, found: &mut Found) {
    if !depends(expr, place) {
        let trivial = matches!(expr.node, Node::Const(_) | Node::Parameter(_));
        if !trivial {
            found.push(place, expr.clone());
        }
        return;
    }
    match &expr.node {
        Node::Coalesce(list) => of_coalesce(expr, list, place, found),
        Node::Case(branches, otherwise) => {
            of_case(expr, branches, otherwise.as_deref(), place, found);
        }
        _ => {
            for child in expr.children() {
                estimate(child, place, found);
            }
        }
    }
}

fn depends(expr: &Expr, place: Place) -> bool {
    expr.any(&mut |expr, _| match &expr.node {
        Node::Column { .. } | Node::WholeRow { .. } | Node::Grouped { .. } | Node::Slot(_) => true,
        Node::Parameter(_) => !place.parameters,
        Node::Call(call) => call.volatile,
        Node::Routine { volatile, .. } => *volatile,
        Node::Exists(_) | Node::Scalar(_) | Node::ArrayQuery(_) | Node::AnyQuery { .. } => true,
        _ => false,
    })
}

/// The planner goes past arguments that it does not know, up to the first one that it finds a value for.
fn of_coalesce(expr: &Expr, list: &[Expr], place: Place, found: &mut Found) {
    let mut known = Vec::new();
    for argument in list {
        if depends(argument, place) {
            estimate(argument, place, found);
        } else {
            known.push(argument.clone());
        }
    }
    if !known.is_empty() {
        let node = Node::Coalesce(known);
        let known = Expr {
            node,
            ..expr.clone()
        };
        found.push(place, known);
    }
}

/// The planner takes a branch if it knows the conditions up to there; behind one that it does not know, every branch.
fn of_case(
    expr: &Expr,
    branches: &[(Expr, Expr)],
    otherwise: Option<&Expr>,
    place: Place,
    found: &mut Found,
) {
    let results = branches.iter().map(|(_, result)| result).chain(otherwise);
    if branches
        .iter()
        .any(|(condition, _)| depends(condition, place))
    {
        for part in results.chain(branches.iter().map(|(condition, _)| condition)) {
            estimate(part, place, found);
        }
        return;
    }
    let mut known = |result: &Expr| {
        if !depends(result, place) {
            return result.clone();
        }
        estimate(result, place, found);
        Expr {
            node: Node::Const(Value::Null),
            ..result.clone()
        }
    };
    let branches = branches
        .iter()
        .map(|(condition, result)| (condition.clone(), known(result)))
        .collect();
    let otherwise = otherwise.map(|result| Box::new(known(result)));
    let known = Expr {
        node: Node::Case(branches, otherwise),
        ..expr.clone()
    };
    found.push(place, known);
}
