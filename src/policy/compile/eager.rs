//! What Postgres evaluates while planning: operands whose values it needs for an estimate.
//!
//! An error in one of them is an error of the whole statement, on any number of rows (rls-semantics.md §5).

use crate::policy::ir::{Body, Expr, Node, Query, Source};

/// What is evaluated ahead of a policy's expression.
pub(super) fn of_expression(qual: &Expr, parameters: bool) -> Vec<Expr> {
    let mut found = Vec::new();
    condition(qual, parameters, &mut found);
    found
}

/// What is evaluated ahead of a query. `parameters`: their values are known to the planner (PL/pgSQL).
pub(super) fn of_query(query: &Query, parameters: bool, found: &mut Vec<Expr>) {
    for with in &query.with {
        of_query(&with.query, parameters, found);
        if let Some((step, _)) = &with.recursive {
            of_query(step, parameters, found);
        }
    }
    match &query.body {
        Body::Select(select) => {
            select
                .from
                .iter()
                .for_each(|source| of_source(source, parameters, found));
            select
                .filter
                .iter()
                .for_each(|part| condition(part, parameters, found));
            for target in &select.targets {
                inner_queries(target, parameters, found);
            }
            if let Some(grouping) = &select.grouping {
                grouping
                    .keys
                    .iter()
                    .for_each(|key| inner_queries(key, parameters, found));
                grouping
                    .having
                    .iter()
                    .for_each(|part| condition(part, parameters, found));
                for aggregate in &grouping.aggregates {
                    let inside = aggregate.arguments.iter().chain(&aggregate.filter);
                    inside.for_each(|part| inner_queries(part, parameters, found));
                }
            }
        }
        Body::Union(left, right, _) | Body::Intersect(left, right) | Body::Except(left, right) => {
            of_query(left, parameters, found);
            of_query(right, parameters, found);
        }
        Body::Values(rows) => rows
            .iter()
            .flatten()
            .for_each(|value| inner_queries(value, parameters, found)),
    }
}

fn of_source(source: &Source, parameters: bool, found: &mut Vec<Expr>) {
    match source {
        Source::Table(table) => {
            if let Some(policy) = &table.policy {
                condition(policy, false, found);
            }
        }
        Source::Query { query, .. } => of_query(query, parameters, found),
        Source::With { .. } | Source::Set { .. } => {}
        Source::Join {
            left, right, on, ..
        } => {
            on.iter()
                .for_each(|part| condition(part, parameters, found));
            of_source(left, parameters, found);
            of_source(right, parameters, found);
        }
    }
}

/// Queries inside of an expression that is itself not estimated.
fn inner_queries(expr: &Expr, parameters: bool, found: &mut Vec<Expr>) {
    if let Some(query) = expr.subquery() {
        of_query(query, parameters, found);
    }
    for child in expr.children() {
        inner_queries(child, parameters, found);
    }
}

fn condition(expr: &Expr, parameters: bool, found: &mut Vec<Expr>) {
    match &expr.node {
        Node::And(parts) | Node::Or(parts) => parts
            .iter()
            .for_each(|part| condition(part, parameters, found)),
        Node::Not(inner)
        | Node::IsTruth(inner, ..)
        | Node::Relabel(inner)
        | Node::OfClaims(_, inner) => condition(inner, parameters, found),
        Node::Call(call) | Node::Distinct(call, _) => {
            if let ([left, right], true) = (
                call.arguments.as_slice(),
                call.estimated || matches!(expr.node, Node::Distinct(..)),
            ) {
                match (reads_rows(left), reads_rows(right)) {
                    (true, false) => estimate(right, parameters, found),
                    (false, true) => estimate(left, parameters, found),
                    _ => {}
                }
            }
            inner_queries(expr, parameters, found);
        }
        Node::AnyArray {
            left,
            right,
            estimated,
            ..
        } => {
            if *estimated {
                estimate(left, parameters, found);
                estimate(right, parameters, found);
            }
            inner_queries(expr, parameters, found);
        }
        _ => inner_queries(expr, parameters, found),
    }
}

fn reads_rows(expr: &Expr) -> bool {
    expr.any(&mut |expr, depth| match expr.node {
        Node::Column { level, .. } | Node::WholeRow { level, .. } => level >= depth,
        _ => false,
    })
}

/// The largest parts that depend on nothing but claims and settings.
fn estimate(expr: &Expr, parameters: bool, found: &mut Vec<Expr>) {
    let depends = expr.any(&mut |expr, _| match &expr.node {
        Node::Column { .. } | Node::WholeRow { .. } | Node::Grouped { .. } | Node::Slot(_) => true,
        Node::Parameter(_) => !parameters,
        Node::Call(call) => call.volatile,
        Node::Routine { volatile, .. } => *volatile,
        Node::Exists(_) | Node::Scalar(_) | Node::ArrayQuery(_) | Node::AnyQuery { .. } => true,
        _ => false,
    });
    if !depends {
        let trivial = matches!(expr.node, Node::Const(_) | Node::Parameter(_));
        if !trivial {
            found.push(expr.clone());
        }
        return;
    }
    // Both branches of a CASE are not taken at once.
    if matches!(expr.node, Node::Case(..) | Node::Coalesce(_)) {
        return;
    }
    for child in expr.children() {
        estimate(child, parameters, found);
    }
}
