//! Walks over compiled expressions and the queries inside of them.

use std::sync::Arc;

use crate::policy::ir::{Body, Expr, Node, Query, SetCall, Source};

impl Expr {
    /// The expressions directly below, those inside of queries left out.
    pub(crate) fn children_mut(&mut self) -> Vec<&mut Self> {
        match &mut self.node {
            Node::Const(_)
            | Node::Column { .. }
            | Node::WholeRow { .. }
            | Node::Parameter(_)
            | Node::Slot(_)
            | Node::Grouped { .. }
            | Node::Exists(_)
            | Node::Scalar(_)
            | Node::ArrayQuery(_)
            | Node::Raise(_) => Vec::new(),
            Node::Call(call) | Node::Distinct(call, _) | Node::NullIf(call) => {
                call.arguments.iter_mut().collect()
            }
            Node::Routine {
                arguments: list, ..
            }
            | Node::And(list)
            | Node::Or(list)
            | Node::Coalesce(list)
            | Node::Extreme(_, list)
            | Node::Array(list)
            | Node::Row(list)
            | Node::AnyQuery { left: list, .. } => list.iter_mut().collect(),
            Node::Not(inner)
            | Node::IsNull(inner, _)
            | Node::IsTruth(inner, ..)
            | Node::Field(inner, _)
            | Node::Relabel(inner)
            | Node::OfClaims(_, inner)
            | Node::TextForm(inner)
            | Node::Arranged(inner)
            | Node::Elements(inner, _) => vec![&mut **inner],
            Node::AnyArray { left, right, .. } => vec![&mut **left, &mut **right],
            Node::Case(branches, otherwise) => branches
                .iter_mut()
                .flat_map(|(condition, result)| [condition, result])
                .chain(otherwise.iter_mut().map(|inner| &mut **inner))
                .collect(),
            Node::Subscript(inner, indexes) => std::iter::once(&mut **inner)
                .chain(indexes.iter_mut())
                .collect(),
            Node::Slice(inner, lower, upper) => std::iter::once(&mut **inner)
                .chain(lower.iter_mut().map(|inner| &mut **inner))
                .chain(upper.iter_mut().map(|inner| &mut **inner))
                .collect(),
        }
    }

    /// The same, for reading.
    pub(crate) fn children(&self) -> Vec<&Self> {
        match &self.node {
            Node::Const(_)
            | Node::Column { .. }
            | Node::WholeRow { .. }
            | Node::Parameter(_)
            | Node::Slot(_)
            | Node::Grouped { .. }
            | Node::Exists(_)
            | Node::Scalar(_)
            | Node::ArrayQuery(_)
            | Node::Raise(_) => Vec::new(),
            Node::Call(call) | Node::Distinct(call, _) | Node::NullIf(call) => {
                call.arguments.iter().collect()
            }
            Node::Routine {
                arguments: list, ..
            }
            | Node::And(list)
            | Node::Or(list)
            | Node::Coalesce(list)
            | Node::Extreme(_, list)
            | Node::Array(list)
            | Node::Row(list)
            | Node::AnyQuery { left: list, .. } => list.iter().collect(),
            Node::Not(inner)
            | Node::IsNull(inner, _)
            | Node::IsTruth(inner, ..)
            | Node::Field(inner, _)
            | Node::Relabel(inner)
            | Node::OfClaims(_, inner)
            | Node::TextForm(inner)
            | Node::Arranged(inner)
            | Node::Elements(inner, _) => vec![&**inner],
            Node::AnyArray { left, right, .. } => vec![&**left, &**right],
            Node::Case(branches, otherwise) => branches
                .iter()
                .flat_map(|(condition, result)| [condition, result])
                .chain(otherwise.iter().map(|inner| &**inner))
                .collect(),
            Node::Subscript(inner, indexes) => std::iter::once(&**inner).chain(indexes).collect(),
            Node::Slice(inner, lower, upper) => std::iter::once(&**inner)
                .chain(lower.iter().map(|inner| &**inner))
                .chain(upper.iter().map(|inner| &**inner))
                .collect(),
        }
    }

    /// The query directly inside, if there is one.
    pub(crate) fn subquery(&self) -> Option<&Arc<Query>> {
        match &self.node {
            Node::Exists(query)
            | Node::Scalar(query)
            | Node::ArrayQuery(query)
            | Node::AnyQuery { query, .. } => Some(query),
            _ => None,
        }
    }

    fn subquery_mut(&mut self) -> Option<&mut Query> {
        match &mut self.node {
            Node::Exists(query)
            | Node::Scalar(query)
            | Node::ArrayQuery(query)
            | Node::AnyQuery { query, .. } => Some(Arc::make_mut(query)),
            _ => None,
        }
    }

    /// Visits this and everything below, queries included; `depth` tells how many queries further in.
    pub(crate) fn visit(&self, depth: usize, f: &mut dyn FnMut(&Self, usize)) {
        self.walk(depth, &mut |expr, depth| {
            f(expr, depth);
            false
        });
    }

    /// The same from the top; what `f` answers `true` to is not descended into.
    pub(crate) fn walk(&self, depth: usize, f: &mut dyn FnMut(&Self, usize) -> bool) {
        if f(self, depth) {
            return;
        }
        for child in self.children() {
            child.walk(depth, f);
        }
        if let Some(query) = self.subquery() {
            query.walk(depth.saturating_add(1), f);
        }
    }

    /// Changes everything from the top; what `f` answers `true` to is not descended into.
    pub(crate) fn change(&mut self, depth: usize, f: &mut dyn FnMut(&mut Self, usize) -> bool) {
        if f(self, depth) {
            return;
        }
        for child in self.children_mut() {
            child.change(depth, f);
        }
        if let Some(query) = self.subquery_mut() {
            query.change(depth.saturating_add(1), f);
        }
    }

    /// Whether anything inside answers `true`.
    pub(crate) fn any(&self, f: &mut dyn FnMut(&Self, usize) -> bool) -> bool {
        let mut found = false;
        self.visit(0, &mut |expr, depth| found = found || f(expr, depth));
        found
    }
}

impl SetCall {
    fn expressions_mut(&mut self) -> Vec<&mut Expr> {
        match self {
            Self::Builtin { arguments, .. } | Self::Routine { arguments, .. } => {
                arguments.iter_mut().collect()
            }
            Self::Scalar(inner) => vec![&mut **inner],
        }
    }

    pub(super) fn expressions(&self) -> Vec<&Expr> {
        match self {
            Self::Builtin { arguments, .. } | Self::Routine { arguments, .. } => {
                arguments.iter().collect()
            }
            Self::Scalar(inner) => vec![&**inner],
        }
    }
}

/// Expressions of a FROM item, with how many queries further in they stand, and the queries in it. Row security of
/// tables is left out: it sees nothing of the outside.
fn source_parts<'a>(
    source: &'a Source,
    expressions: &mut Vec<&'a Expr>,
    queries: &mut Vec<&'a Arc<Query>>,
) {
    match source {
        Source::Table(table) => expressions.extend(table.keys.iter().map(|(_, key)| key)),
        Source::Query { query, .. } => queries.push(query),
        Source::With { .. } => {}
        Source::Set { call, .. } => expressions.extend(call.expressions()),
        Source::Join {
            left, right, on, ..
        } => {
            expressions.extend(on);
            source_parts(left, expressions, queries);
            source_parts(right, expressions, queries);
        }
    }
}

fn change_source(source: &mut Source, depth: usize, f: &mut dyn FnMut(&mut Expr, usize) -> bool) {
    match source {
        Source::Table(table) => {
            let reserved = table.reserved.of_conditions.iter_mut();
            let reserved =
                reserved.flat_map(|(condition, parts)| parts.iter_mut().chain([condition]));
            let keys = table.keys.iter_mut().map(|(_, key)| key);
            let all = keys.chain(&mut table.risky).chain(reserved);
            all.for_each(|expr| expr.change(depth, f));
        }
        Source::Query { query, .. } => Arc::make_mut(query).change(depth.saturating_add(1), f),
        Source::With { .. } => {}
        Source::Set { call, .. } => {
            for expr in call.expressions_mut() {
                expr.change(depth, f);
            }
        }
        Source::Join {
            left, right, on, ..
        } => {
            on.iter_mut().for_each(|expr| expr.change(depth, f));
            change_source(left, depth, f);
            change_source(right, depth, f);
        }
    }
}

impl Source {
    /// The policies of the tables.
    fn policies(&self) -> Vec<&Expr> {
        match self {
            Self::Table(table) => table.policy.iter().map(|policy| &**policy).collect(),
            Self::Join { left, right, .. } => left
                .policies()
                .into_iter()
                .chain(right.policies())
                .collect(),
            Self::Query { .. } | Self::With { .. } | Self::Set { .. } => Vec::new(),
        }
    }

    /// Set-returning functions and queries.
    fn sets<'a>(&'a self, sets: &mut Vec<&'a SetCall>, queries: &mut Vec<&'a Arc<Query>>) {
        match self {
            Self::Set { call, .. } => sets.push(call),
            Self::Query { query, .. } => queries.push(query),
            Self::Join { left, right, .. } => {
                left.sets(sets, queries);
                right.sets(sets, queries);
            }
            Self::Table(_) | Self::With { .. } => {}
        }
    }
}

impl Query {
    /// The expression of a query that is nothing but `select expression`.
    pub(crate) fn only_value(&self) -> Option<&Expr> {
        let plain = self.with.is_empty() && self.limit.is_none() && self.offset.is_none();
        match &self.body {
            Body::Select(select)
                if plain
                    && select.from.is_empty()
                    && select.filter.is_empty()
                    && select.grouping.is_none()
                    && select.sets.is_empty() =>
            {
                match select.targets.as_slice() {
                    [only] => Some(only),
                    _ => None,
                }
            }
            _ => None,
        }
    }

    /// Calls `f` with the set-returning functions of the user's in this query and those that it is made of.
    pub(crate) fn set_routines(&self, f: &mut dyn FnMut(usize)) {
        let mut queries: Vec<&Arc<Self>> = Vec::new();
        let mut sets = Vec::new();
        for with in &self.with {
            queries.push(&with.query);
            queries.extend(with.recursive.iter().map(|(query, _)| query));
        }
        match &self.body {
            Body::Select(select) => {
                sets.extend(&select.sets);
                select
                    .from
                    .iter()
                    .for_each(|source| source.sets(&mut sets, &mut queries));
            }
            Body::Union(left, right, _)
            | Body::Intersect(left, right)
            | Body::Except(left, right) => {
                queries.extend([left, right]);
            }
            Body::Values(_) => {}
        }
        for set in sets {
            if let SetCall::Routine { routine, .. } = set {
                f(*routine);
            }
        }
        queries.into_iter().for_each(|query| query.set_routines(f));
    }

    pub(crate) fn visit(&self, depth: usize, f: &mut dyn FnMut(&Expr, usize)) {
        self.walk(depth, &mut |expr, depth| {
            f(expr, depth);
            false
        });
    }

    /// The same; what `f` answers `true` to is not descended into.
    pub(crate) fn walk(&self, depth: usize, f: &mut dyn FnMut(&Expr, usize) -> bool) {
        for with in &self.with {
            with.query.walk(depth.saturating_add(1), f);
            if let Some((query, _)) = &with.recursive {
                query.walk(depth.saturating_add(1), f);
            }
        }
        match &self.body {
            Body::Select(select) => {
                let mut expressions = Vec::new();
                let mut queries = Vec::new();
                for source in &select.from {
                    source_parts(source, &mut expressions, &mut queries);
                }
                expressions.extend(&select.filter);
                expressions.extend(&select.targets);
                for set in &select.sets {
                    expressions.extend(set.expressions());
                }
                if let Some(grouping) = &select.grouping {
                    expressions.extend(&grouping.keys);
                    expressions.extend(&grouping.having);
                    for aggregate in &grouping.aggregates {
                        expressions.extend(&aggregate.arguments);
                        expressions.extend(&aggregate.filter);
                        expressions.extend(aggregate.order_by.iter().map(|key| &key.value));
                    }
                }
                expressions.into_iter().for_each(|expr| expr.walk(depth, f));
                queries
                    .into_iter()
                    .for_each(|query| query.walk(depth.saturating_add(1), f));
                // No column in a table's policy can mean one out here: the depth is beyond all levels.
                for policy in select.from.iter().flat_map(Source::policies) {
                    policy.walk(usize::MAX / 2, f);
                }
            }
            Body::Union(left, right, _)
            | Body::Intersect(left, right)
            | Body::Except(left, right) => {
                left.walk(depth.saturating_add(1), f);
                right.walk(depth.saturating_add(1), f);
            }
            Body::Values(rows) => rows.iter().flatten().for_each(|expr| expr.walk(depth, f)),
        }
        self.limit
            .iter()
            .chain(&self.offset)
            .for_each(|expr| expr.walk(depth, f));
    }

    pub(crate) fn change(&mut self, depth: usize, f: &mut dyn FnMut(&mut Expr, usize) -> bool) {
        let deeper = depth.saturating_add(1);
        for with in &mut self.with {
            Arc::make_mut(&mut with.query).change(deeper, f);
            if let Some((query, _)) = &mut with.recursive {
                Arc::make_mut(query).change(deeper, f);
            }
        }
        match &mut self.body {
            Body::Select(select) => {
                for source in &mut select.from {
                    change_source(source, depth, f);
                }
                select
                    .filter
                    .iter_mut()
                    .chain(&mut select.invariants)
                    .chain(&mut select.merged)
                    .for_each(|expr| expr.change(depth, f));
                select
                    .targets
                    .iter_mut()
                    .for_each(|expr| expr.change(depth, f));
                for set in &mut select.sets {
                    set.expressions_mut()
                        .into_iter()
                        .for_each(|expr| expr.change(depth, f));
                }
                if let Some(grouping) = &mut select.grouping {
                    grouping
                        .keys
                        .iter_mut()
                        .for_each(|expr| expr.change(depth, f));
                    grouping
                        .having
                        .iter_mut()
                        .for_each(|expr| expr.change(depth, f));
                    for aggregate in &mut grouping.aggregates {
                        aggregate
                            .arguments
                            .iter_mut()
                            .for_each(|expr| expr.change(depth, f));
                        aggregate
                            .filter
                            .iter_mut()
                            .for_each(|expr| expr.change(depth, f));
                        aggregate
                            .order_by
                            .iter_mut()
                            .for_each(|key| key.value.change(depth, f));
                    }
                }
            }
            Body::Union(left, right, _)
            | Body::Intersect(left, right)
            | Body::Except(left, right) => {
                Arc::make_mut(left).change(deeper, f);
                Arc::make_mut(right).change(deeper, f);
            }
            Body::Values(rows) => rows
                .iter_mut()
                .flatten()
                .for_each(|expr| expr.change(depth, f)),
        }
        self.limit
            .iter_mut()
            .chain(&mut self.offset)
            .for_each(|expr| expr.change(depth, f));
    }
}
