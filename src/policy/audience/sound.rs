//! Whether anything in a plan may raise for somebody whom the audience leaves out.
//!
//! An error is the verdict of everybody for whom it is met, and they are told of it. What depends on claims alone is tried
//! once for each identity (a guard); what depends on the row alone, once for each row (a check). Everything else must
//! not raise on any value. What only leaves the order of rows open raises in no order.

use std::collections::HashMap;

use super::traits::Observer;
use crate::policy::compile::{is_pattern, is_total, is_total_aggregate, is_total_set, returns};
use crate::policy::ir::{
    Body, Code, Expr, IntoTarget, Node, Program, Query, Routine, Select, SetCall, Source,
    SqlResult, Statement, Step,
};
use crate::policy::schema::Schema;
use crate::policy::value::oid;

/// What must be tried.
pub(super) struct Sound<'a, 'o> {
    schema: &'a Schema,
    routines: &'a [Routine],
    observer: &'o mut Observer<'a>,
    pub(super) guards: Vec<Expr>,
    pub(super) checks: Vec<Expr>,
    known: HashMap<usize, bool>,
}

impl<'a, 'o> Sound<'a, 'o> {
    pub(super) fn new(schema: &'a Schema, observer: &'o mut Observer<'a>) -> Self {
        Self {
            schema,
            routines: observer.routines,
            observer,
            guards: Vec::new(),
            checks: Vec::new(),
            known: HashMap::new(),
        }
    }

    /// Whether an expression raises for nobody but whom guards and checks find. `top`: it stands outside of queries and
    /// functions, so that the only row is the protected one.
    pub(super) fn expression(&mut self, expr: &Expr, top: bool) -> bool {
        match expr.node {
            Node::Const(_)
            | Node::Column { .. }
            | Node::WholeRow { .. }
            | Node::Parameter(_)
            | Node::Slot(_)
            | Node::Grouped { .. } => return true,
            _ => {}
        }
        let traits = self.observer.of(expr);
        let alone = !traits.slots && !traits.other && traits.variables.is_empty();
        if alone && traits.rows.is_empty() && !traits.tables && !traits.time {
            keep(&mut self.guards, expr);
            return true;
        }
        // Cheaper than to try it on each row.
        let marks = (self.guards.len(), self.checks.len());
        if self.node(expr, top) {
            return true;
        }
        if top && alone && !traits.settings {
            self.guards.truncate(marks.0);
            self.checks.truncate(marks.1);
            keep(&mut self.checks, expr);
            return true;
        }
        false
    }

    fn node(&mut self, expr: &Expr, top: bool) -> bool {
        let own = match &expr.node {
            Node::Call(call) | Node::Distinct(call, _) | Node::NullIf(call) => {
                // A pattern of somebody's own may end in a backslash.
                let constant = call
                    .arguments
                    .last()
                    .is_some_and(|last| matches!(last.node, Node::Const(_)));
                is_total(self.schema, call) && (constant || !is_pattern(self.schema, call))
            }
            Node::Routine { routine, .. } => self.routine(*routine),
            Node::TextForm(_) => {
                matches!(expr.type_oid, oid::TEXT | oid::VARCHAR | oid::BPCHAR)
            }
            Node::AnyArray { test, .. } | Node::Elements(_, test) => self.expression(test, false),
            // Otherwise a second row raises.
            Node::Scalar(query) => query.single && self.query(query),
            Node::Exists(query) | Node::ArrayQuery(query) => self.query(query),
            Node::AnyQuery { test, query, .. } => self.expression(test, false) && self.query(query),
            Node::Raise(_) => false,
            _ => true,
        };
        own && expr
            .children()
            .into_iter()
            .all(|child| self.expression(child, top))
    }

    fn all<'e>(&mut self, list: impl IntoIterator<Item = &'e Expr>) -> bool {
        list.into_iter().all(|expr| self.expression(expr, false))
    }

    fn query(&mut self, query: &Query) -> bool {
        let withs = query.with.iter().all(|with| {
            self.query(&with.query)
                && with
                    .recursive
                    .as_ref()
                    .is_none_or(|(step, _)| self.query(step))
        });
        withs
            && self.all(query.order_by.iter().map(|key| &key.value))
            && self.all(query.limit.iter().chain(&query.offset))
            && match &query.body {
                Body::Select(select) => self.select(select),
                Body::Union(left, right, _)
                | Body::Intersect(left, right)
                | Body::Except(left, right) => self.query(left) && self.query(right),
                Body::Values(rows) => self.all(rows.iter().flatten()),
            }
    }

    fn select(&mut self, select: &Select) -> bool {
        let grouping = select.grouping.as_ref().is_none_or(|grouping| {
            self.all(&grouping.keys)
                && self.all(&grouping.having)
                && grouping.aggregates.iter().all(|call| {
                    is_total_aggregate(call)
                        && self.all(&call.arguments)
                        && self.all(&call.filter)
                        && self.all(call.order_by.iter().map(|key| &key.value))
                })
        });
        grouping
            && self.all(&select.invariants)
            && self.all(&select.merged)
            && self.all(&select.filter)
            && self.all(&select.targets)
            && select.sets.iter().all(|set| self.set(set))
            && select.from.iter().all(|source| self.source(source))
    }

    fn source(&mut self, source: &Source) -> bool {
        match source {
            Source::Table(table) => {
                self.all(table.keys.iter().map(|(_, value)| value))
                    && self.all(&table.risky)
                    && self.all(&table.invariants)
                    && self.all(table.policy.as_deref())
            }
            Source::Query { query, .. } => self.query(query),
            Source::With { .. } => true,
            Source::Set { call, .. } => self.set(call),
            Source::Join {
                left, right, on, ..
            } => self.all(on) && self.source(left) && self.source(right),
        }
    }

    fn set(&mut self, call: &SetCall) -> bool {
        match call {
            SetCall::Builtin {
                function,
                arguments,
                ..
            } => is_total_set(*function) && self.all(arguments),
            SetCall::Routine { routine, arguments } => {
                self.routine(*routine) && self.all(arguments)
            }
            SetCall::Scalar(inner) => self.expression(inner, false),
        }
    }

    fn routine(&mut self, index: usize) -> bool {
        if let Some(known) = self.known.get(&index) {
            return *known;
        }
        // A function that calls itself may do so without an end.
        self.known.insert(index, false);
        let found = self
            .routines
            .get(index)
            .is_some_and(|routine| match &routine.code {
                Code::Pending | Code::Raise(_) => false,
                Code::Sql { statements, result } => {
                    statements.iter().all(|statement| self.statement(statement))
                        && match result {
                            SqlResult::Column(cast) => self.expression(cast, false),
                            SqlResult::Nothing | SqlResult::Row => true,
                        }
                }
                Code::Plpgsql(program) => self.program(routine, program),
            });
        self.known.insert(index, found);
        found
    }

    fn statement(&mut self, statement: &Statement) -> bool {
        self.all(&statement.eager) && self.query(&statement.query)
    }

    fn program(&mut self, routine: &Routine, program: &Program) -> bool {
        let ends = routine.returns_set
            || program.returns_void
            || !program.outputs.is_empty()
            || returns(&program.body);
        ends && self.steps(&program.body)
    }

    fn steps(&mut self, steps: &[Step]) -> bool {
        steps.iter().all(|step| match step {
            Step::Assign { value, cast, .. }
            | Step::Return(Some((value, cast)))
            | Step::ReturnNext(Some((value, cast))) => self.value(value) && self.all([&**cast]),
            Step::If(branches, otherwise) => {
                branches
                    .iter()
                    .all(|(condition, body)| self.value(condition) && self.steps(body))
                    && self.steps(otherwise)
            }
            Step::Return(None) | Step::ReturnNext(None) => true,
            Step::ReturnQuery(statement) | Step::Perform(statement) => self.statement(statement),
            Step::Notice(list) => list.iter().all(|statement| self.value(statement)),
            Step::Into {
                query,
                strict,
                targets,
            } => {
                let casts = targets.iter().all(|target| match target {
                    IntoTarget::Variable { cast, .. } => self.expression(cast, false),
                    IntoTarget::Record { .. } => true,
                });
                !strict && casts && self.statement(query)
            }
            Step::Block { body, .. } => self.steps(body),
            Step::Raise(..)
            | Step::ForQuery { .. }
            | Step::ForEach { .. }
            | Step::Leave(..)
            | Step::RaiseAgain => false,
        })
    }

    /// A statement of which more than one row raises.
    fn value(&mut self, statement: &Statement) -> bool {
        statement.query.single && self.statement(statement)
    }
}

fn keep(list: &mut Vec<Expr>, expr: &Expr) {
    let text = format!("{:?}", expr.node);
    if !list.iter().any(|known| format!("{:?}", known.node) == text) {
        list.push(expr.clone());
    }
}
