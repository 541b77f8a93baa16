//! What an expression depends on.

use std::collections::HashMap;

use crate::policy::compile::{is_moment, is_setting};
use crate::policy::ir::{
    Body, Code, Expr, IntoTarget, Node, Query, Routine, Source, SqlResult, Statement, Step,
};

/// Whether an expression has one value for an identity, whatever the row, the tables and the time.
pub(in crate::policy) fn is_over_claims(expr: &Expr, routines: &[Routine]) -> bool {
    let traits = Observer::new(routines).of(expr);
    traits.settings
        && traits.rows.is_empty()
        && traits.variables.is_empty()
        && !(traits.slots || traits.time || traits.tables || traits.other)
}

/// What an expression depends on besides constants.
#[derive(Clone, Debug, Default)]
pub(super) struct Traits {
    /// Rows outside of the expression: how many queries further out, which table.
    pub(super) rows: Vec<(usize, usize)>,
    /// Variables of the function.
    pub(super) variables: Vec<usize>,
    /// Values that the surrounding node provides.
    pub(super) slots: bool,
    /// Claims and other settings.
    pub(super) settings: bool,
    /// The time.
    pub(super) time: bool,
    /// Tables.
    pub(super) tables: bool,
    /// Anything else.
    pub(super) other: bool,
}

/// Looks at expressions; what functions depend on is remembered.
#[derive(Debug)]
pub(super) struct Observer<'a> {
    pub(super) routines: &'a [Routine],
    known: HashMap<usize, Traits>,
}

impl<'a> Observer<'a> {
    pub(super) fn new(routines: &'a [Routine]) -> Self {
        Self {
            routines,
            known: HashMap::new(),
        }
    }

    /// What the expression depends on.
    pub(super) fn of(&mut self, expr: &Expr) -> Traits {
        let mut traits = Traits::default();
        let mut called = Vec::new();
        each(expr, &mut |expr, depth, in_test| {
            traits.node(expr, depth, in_test, &mut called);
        });
        self.called(&mut traits, called);
        traits
    }

    fn called(&mut self, traits: &mut Traits, called: Vec<usize>) {
        for routine in called {
            let found = self.of_routine(routine);
            traits.settings |= found.settings;
            traits.time |= found.time;
            traits.tables |= found.tables;
            traits.other |= found.other;
        }
    }

    /// What a function depends on besides its arguments.
    fn of_routine(&mut self, index: usize) -> Traits {
        if let Some(found) = self.known.get(&index) {
            return found.clone();
        }
        // Whoever calls itself is not understood.
        let opaque = Traits {
            settings: true,
            time: true,
            tables: true,
            other: true,
            ..Traits::default()
        };
        self.known.insert(index, opaque.clone());
        let Some(routine) = self.routines.get(index) else {
            return opaque;
        };
        let mut traits = Traits::default();
        let mut called = Vec::new();
        parts(&routine.code, &mut |part| {
            let statement = match part {
                Part::Statement(statement) => statement,
                Part::Cast(cast) => {
                    cast.visit(1, &mut |expr, depth| {
                        traits.node(expr, depth, true, &mut called);
                    });
                    return;
                }
            };
            traits.tables |= reads_tables(&statement.query);
            statement
                .query
                .set_routines(&mut |routine| called.push(routine));
            statement.query.visit(0, &mut |expr, depth| {
                let inner = depth.saturating_add(1);
                traits.node(expr, inner, true, &mut called);
                tests(expr, inner, &mut |expr, depth| {
                    traits.node(expr, depth, true, &mut called);
                });
            });
        });
        traits.rows.clear();
        traits.variables.clear();
        traits.slots = false;
        self.called(&mut traits, called);
        self.known.insert(index, traits.clone());
        traits
    }
}

impl Traits {
    fn node(&mut self, expr: &Expr, depth: usize, in_test: bool, called: &mut Vec<usize>) {
        match &expr.node {
            Node::Column { level, item, .. } | Node::WholeRow { level, item }
                if *level >= depth =>
            {
                self.rows.push((level.saturating_sub(depth), *item));
            }
            Node::Parameter(index) => self.variables.push(*index),
            Node::Slot(_) if !in_test => self.slots = true,
            Node::Grouped { .. } if depth == 0 => self.other = true,
            Node::Call(call) => {
                self.settings |= is_setting(call.function);
                self.time |= is_moment(call.function);
                self.other |= call.volatile;
            }
            Node::Routine { routine, .. } => called.push(*routine),
            _ => {}
        }
        if let Some(query) = expr.subquery() {
            self.tables |= reads_tables(query);
            query.set_routines(&mut |routine| called.push(routine));
        }
    }
}

/// Visits an expression and everything below, also what compares the elements of arrays and the rows of queries.
pub(super) fn each(expr: &Expr, f: &mut dyn FnMut(&Expr, usize, bool)) {
    expr.visit(0, &mut |expr, depth| {
        f(expr, depth, false);
        tests(expr, depth, &mut |expr, depth| f(expr, depth, true));
    });
}

fn tests(expr: &Expr, depth: usize, f: &mut dyn FnMut(&Expr, usize)) {
    match &expr.node {
        Node::AnyArray { test, .. } | Node::AnyQuery { test, .. } | Node::Elements(_, test) => {
            test.visit(depth, f);
        }
        _ => {}
    }
}

/// Whether the query itself reads a table, queries inside of its expressions left out.
fn reads_tables(query: &Query) -> bool {
    if !query.with.is_empty() {
        return true;
    }
    match &query.body {
        Body::Select(select) => !select
            .from
            .iter()
            .all(|source| matches!(source, Source::Set { .. })),
        Body::Union(left, right, _) | Body::Intersect(left, right) | Body::Except(left, right) => {
            reads_tables(left) || reads_tables(right)
        }
        Body::Values(_) => false,
    }
}

/// What a function is made of.
pub(super) enum Part<'a> {
    Statement(&'a Statement),
    /// A conversion of what a statement gave.
    Cast(&'a Expr),
}

/// Calls `f` with all parts of a function.
pub(super) fn parts(code: &Code, f: &mut dyn FnMut(Part<'_>)) {
    match code {
        Code::Pending | Code::Raise(_) => {}
        Code::Sql { statements, result } => {
            statements
                .iter()
                .for_each(|statement| f(Part::Statement(statement)));
            if let SqlResult::Column(cast) = result {
                f(Part::Cast(cast));
            }
        }
        Code::Plpgsql(program) => steps(&program.body, f),
    }
}

fn steps(list: &[Step], f: &mut dyn FnMut(Part<'_>)) {
    for step in list {
        match step {
            Step::Assign { value, cast, .. } => {
                f(Part::Statement(value));
                f(Part::Cast(cast));
            }
            Step::Return(Some((value, cast))) | Step::ReturnNext(Some((value, cast))) => {
                f(Part::Statement(value));
                f(Part::Cast(cast));
            }
            Step::Into { query, targets, .. } => {
                f(Part::Statement(query));
                casts(targets, f);
            }
            Step::ReturnQuery(statement)
            | Step::Perform(statement)
            | Step::Leave(_, Some(statement)) => f(Part::Statement(statement)),
            Step::Raise(_, list) | Step::Notice(list) => {
                list.iter()
                    .for_each(|statement| f(Part::Statement(statement)));
            }
            Step::If(branches, otherwise) => {
                for (condition, body) in branches {
                    f(Part::Statement(condition));
                    steps(body, f);
                }
                steps(otherwise, f);
            }
            Step::ForQuery {
                query,
                targets,
                body,
            } => {
                f(Part::Statement(query));
                casts(targets, f);
                steps(body, f);
            }
            Step::ForEach {
                array, cast, body, ..
            } => {
                f(Part::Statement(array));
                f(Part::Cast(cast));
                steps(body, f);
            }
            Step::Block { body, handlers } => {
                steps(body, f);
                handlers.iter().for_each(|(_, body)| steps(body, f));
            }
            Step::Return(None)
            | Step::ReturnNext(None)
            | Step::Leave(_, None)
            | Step::RaiseAgain => {}
        }
    }
}

fn casts(targets: &[IntoTarget], f: &mut dyn FnMut(Part<'_>)) {
    for target in targets {
        if let IntoTarget::Variable { cast, .. } = target {
            f(Part::Cast(cast));
        }
    }
}
