//! Whether code may raise, and on what: on its arguments and the rows that it reads, or for the claims alone.
//!
//! Claims are the same for each row: what they raise is found out by trying once. Arguments and rows are not, so that
//! nothing is known of those that were not looked at.

use std::collections::BTreeSet;

use super::risk::depends_on_nothing;
use crate::policy::builtin;
use crate::policy::ir::{
    AggregateCall, Body, Code, Condition, Expr, Hazard, IntoTarget, Node, Program, Query, Routine,
    SetCall, Source, SqlResult, Statement, Step,
};
use crate::policy::schema::Schema;
use crate::policy::value::{Value, oid};

/// Aggregates that raise on no value: counts, least and greatest ones, sums and averages of integers, whether all or any,
/// bits, arrays, texts.
const TOTAL_AGGREGATES: &[u32] = &[
    2147, 2803, 2517, 2518, 2519, 2335, 3538, 2107, 2108, 2109, 2100, 2101, 2102, 2115, 2116, 2117,
    2118, 2119, 2120, 2122, 2123, 2124, 2126, 2127, 2128, 2129, 2130, 2131, 2132, 2133, 2134, 2135,
    2136, 2138, 2139, 2140, 2142, 2143, 2144, 2145, 2146, 2236, 2237, 2238, 2239, 2240, 2241,
];
/// `unnest(anyarray)`
const UNNEST: u32 = 2331;

/// Functions of the system and of the user's.
#[derive(Clone, Copy)]
pub(super) struct Library<'a> {
    pub(super) schema: &'a Schema,
    pub(super) routines: &'a [Routine],
}

impl Library<'_> {
    fn is_sound(&self, routine: usize) -> bool {
        let found = self.routines.get(routine);
        found.is_some_and(|found| found.hazard.is_none())
    }

    fn raises_on_values(&self, routine: usize) -> bool {
        let found = self.routines.get(routine);
        found.is_none_or(|found| found.hazard.on_values)
    }

    /// What of a function may raise for the claims alone.
    pub(super) fn of_claims(&self, routine: usize) -> &[Expr] {
        let found = self.routines.get(routine);
        found.map_or(&[], |found| &found.hazard.of_claims)
    }

    /// Whether the topmost part of an expression may raise, given values for what is below. Parts of functions that are over
    /// claims alone do not count.
    pub(super) fn raises_itself(self, expr: &Expr) -> bool {
        let inside = |test: &Expr| test.any(&mut |expr, _| self.raises_itself(expr));
        let own = match &expr.node {
            Node::Call(call) => !super::is_total(self.schema, call),
            Node::Routine { routine, .. } => self.raises_on_values(*routine),
            Node::TextForm(_) => !matches!(expr.type_oid, oid::TEXT | oid::VARCHAR | oid::BPCHAR),
            Node::AnyArray { test, .. } | Node::AnyQuery { test, .. } => inside(test),
            Node::Elements(_, each) => inside(each),
            // Otherwise a second row raises.
            Node::Scalar(query) => !query.single,
            Node::Raise(_) => true,
            _ => false,
        };
        own || expr
            .subquery()
            .is_some_and(|query| self.query_raises_itself(query))
    }

    /// Whether anything in an expression may raise, for claims too.
    pub(super) fn is_fallible(self, expr: &Expr) -> bool {
        expr.any(&mut |expr, _| {
            self.raises_itself(expr)
                || matches!(expr.node, Node::Routine { routine, .. } if !self.is_sound(routine))
        })
    }

    /// Whether the topmost part of an expression is as constant as what is below.
    pub(super) fn is_constant(self, expr: &Expr) -> bool {
        match &expr.node {
            Node::Column { .. }
            | Node::WholeRow { .. }
            | Node::Parameter(_)
            | Node::Slot(_)
            | Node::Grouped { .. } => false,
            Node::Call(call) => {
                let found = self.schema.functions.get(&call.function);
                found.is_none_or(|found| found.volatility == b'i')
            }
            Node::Routine { routine, .. } => {
                let found = self.routines.get(*routine);
                found.is_some_and(|found| found.immutable)
            }
            _ => expr.subquery().is_none(),
        }
    }

    /// Whether something in a query may raise beside its expressions.
    fn query_raises_itself(self, query: &Query) -> bool {
        let is_bound = |bound: &Expr| !matches!(bound.node, Node::Const(Value::Int(0..)));
        query.with.iter().any(|with| {
            let step = with.recursive.iter();
            self.query_raises_itself(&with.query)
                || step
                    .into_iter()
                    .any(|(step, _)| self.query_raises_itself(step))
        }) || query.limit.iter().chain(&query.offset).any(is_bound)
            || match &query.body {
                Body::Select(select) => {
                    let grouping = select.grouping.iter();
                    let mut aggregates = grouping.flat_map(|grouping| &grouping.aggregates);
                    aggregates.any(|call| !is_total_aggregate(call))
                        || select.sets.iter().any(|set| self.set_raises_itself(set))
                        || select
                            .from
                            .iter()
                            .any(|source| self.source_raises_itself(source))
                }
                Body::Union(left, right, _)
                | Body::Intersect(left, right)
                | Body::Except(left, right) => {
                    self.query_raises_itself(left) || self.query_raises_itself(right)
                }
                Body::Values(_) => false,
            }
    }

    fn source_raises_itself(self, source: &Source) -> bool {
        match source {
            Source::Table(_) | Source::With { .. } => false,
            Source::Query { query, .. } => self.query_raises_itself(query),
            Source::Set { call, .. } => self.set_raises_itself(call),
            Source::Join { left, right, .. } => {
                self.source_raises_itself(left) || self.source_raises_itself(right)
            }
        }
    }

    fn set_raises_itself(self, call: &SetCall) -> bool {
        match call {
            SetCall::Builtin { function, .. } => *function != UNNEST,
            SetCall::Routine { routine, .. } => !self.is_sound(*routine),
            SetCall::Scalar(_) => false,
        }
    }

    /// What may raise in a function with this body.
    pub(super) fn hazard_of(self, routine: &Routine, code: &Code) -> Hazard {
        let mut search = Search {
            library: self,
            on_values: false,
            of_claims: Vec::new(),
            known: BTreeSet::new(),
        };
        match code {
            Code::Pending | Code::Raise(_) => search.on_values = true,
            Code::Sql { statements, result } => {
                statements
                    .iter()
                    .for_each(|statement| search.statement(statement));
                if let SqlResult::Column(cast) = result {
                    search.expression(cast);
                }
            }
            Code::Plpgsql(program) => search.program(routine, program),
        }
        Hazard {
            on_values: search.on_values,
            of_claims: search.of_claims,
        }
    }
}

/// Whether an aggregate raises on no value of its types.
pub(in crate::policy) fn is_total_aggregate(call: &AggregateCall) -> bool {
    TOTAL_AGGREGATES
        .iter()
        .filter_map(|function| builtin::aggregate(*function))
        .any(|total| std::ptr::eq(total, call.aggregate))
}

/// Whether a set-returning function of the system raises on no value.
pub(in crate::policy) const fn is_total_set(function: u32) -> bool {
    function == UNNEST
}

/// Whether no way leads to the end.
pub(in crate::policy) fn returns(steps: &[Step]) -> bool {
    steps.iter().any(|step| match step {
        Step::Return(_) => true,
        Step::If(branches, otherwise) => {
            branches.iter().all(|(_, body)| returns(body)) && returns(otherwise)
        }
        Step::Block { body, handlers } => {
            returns(body) && handlers.iter().all(|(_, body)| returns(body))
        }
        _ => false,
    })
}

struct Search<'a> {
    library: Library<'a>,
    on_values: bool,
    of_claims: Vec<Expr>,
    /// What is in there, as text.
    known: BTreeSet<String>,
}

impl Search<'_> {
    fn keep(&mut self, part: &Expr) {
        if self.known.insert(format!("{:?}", part.node)) {
            self.of_claims.push(part.clone());
        }
    }

    fn node(&mut self, expr: &Expr) -> bool {
        let is_variable =
            |expr: &Expr, _: usize| matches!(expr.node, Node::Parameter(_) | Node::Slot(_));
        if depends_on_nothing(expr) && !expr.any(&mut { is_variable }) {
            if self.library.is_fallible(expr) {
                self.keep(expr);
            }
            return true;
        }
        self.on_values |= self.library.raises_itself(expr);
        if let Node::Routine { routine, .. } = expr.node {
            let library = self.library;
            library
                .of_claims(routine)
                .iter()
                .for_each(|part| self.keep(part));
        }
        false
    }

    fn expression(&mut self, expr: &Expr) {
        expr.walk(0, &mut |expr, _| self.node(expr));
    }

    fn statement(&mut self, statement: &Statement) {
        self.on_values |= self.library.query_raises_itself(&statement.query);
        statement.query.walk(0, &mut |expr, _| self.node(expr));
    }

    /// A statement of which more than one row raises.
    fn value(&mut self, statement: &Statement) {
        self.on_values |= !statement.query.single;
        self.statement(statement);
    }

    fn program(&mut self, routine: &Routine, program: &Program) {
        let ends = routine.returns_set
            || program.returns_void
            || !program.outputs.is_empty()
            || returns(&program.body);
        self.on_values |= !ends;
        self.steps(&program.body);
    }

    fn targets(&mut self, targets: &[IntoTarget]) {
        for target in targets {
            match target {
                IntoTarget::Variable { cast, .. } => self.expression(cast),
                IntoTarget::Record { .. } => {}
            }
        }
    }

    fn steps(&mut self, steps: &[Step]) {
        for step in steps {
            match step {
                Step::Assign { value, cast, .. }
                | Step::Return(Some((value, cast)))
                | Step::ReturnNext(Some((value, cast))) => {
                    self.value(value);
                    self.expression(cast);
                }
                Step::If(branches, otherwise) => {
                    for (condition, body) in branches {
                        self.value(condition);
                        self.steps(body);
                    }
                    self.steps(otherwise);
                }
                Step::Return(None) | Step::ReturnNext(None) | Step::Leave(_, None) => {}
                Step::Leave(_, Some(condition)) => self.value(condition),
                Step::ReturnQuery(statement) | Step::Perform(statement) => {
                    self.statement(statement);
                }
                Step::Notice(list) => list.iter().for_each(|statement| self.value(statement)),
                Step::Into {
                    query,
                    strict,
                    targets,
                } => {
                    self.on_values |= strict;
                    self.statement(query);
                    self.targets(targets);
                }
                Step::ForQuery {
                    query,
                    targets,
                    body,
                } => {
                    self.statement(query);
                    self.targets(targets);
                    self.steps(body);
                }
                Step::Block { body, handlers } => {
                    let catches_all = |(conditions, _): &(Vec<Condition>, Vec<Step>)| {
                        conditions.contains(&Condition::Others)
                    };
                    if !handlers.iter().any(catches_all) {
                        self.steps(body);
                    }
                    handlers.iter().for_each(|(_, body)| self.steps(body));
                }
                Step::Raise(..) | Step::ForEach { .. } | Step::RaiseAgain => self.on_values = true,
            }
        }
    }
}
