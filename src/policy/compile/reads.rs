//! Which claims a plan reads: what subscribers must agree on to share verdicts.

use std::collections::BTreeSet;

use crate::policy::ir::{Code, Expr, Node, Routine, Statement, Step};
use crate::policy::value::{Oid, Value};

/// The setting that holds all claims.
pub(super) const CLAIMS: &str = "request.jwt.claims";
/// `current_setting`
const SETTING: &[Oid] = &[2077, 3294];
/// `jsonb -> text`, `jsonb ->> text`, `json -> text`, `json ->> text`
const MEMBER: &[Oid] = &[3478, 3214, 3947, 3948];

/// Names of the claims that are read, outermost members only; `None` if the claims are read as a whole.
pub(super) fn claims(qual: &Expr, routines: &[Routine]) -> Option<BTreeSet<Box<str>>> {
    let search = Search::through(qual, routines);
    (search.mentions == search.members).then_some(search.names)
}

/// Names of claims that an expression reads, as far as only members are used; for operators.
pub(in crate::policy) fn names(expr: &Expr, routines: &[Routine]) -> Vec<Box<str>> {
    Search::through(expr, routines).names.into_iter().collect()
}

#[derive(Default)]
struct Search {
    names: BTreeSet<Box<str>>,
    /// Places where the claims are read.
    mentions: usize,
    /// Those of them of which only a member is used.
    members: usize,
    /// Functions that are called, each once.
    routines: Vec<usize>,
}

impl Search {
    fn through(expr: &Expr, routines: &[Routine]) -> Self {
        let mut search = Self::default();
        search.expression(expr);
        let mut done = 0_usize;
        while let Some(index) = search.routines.get(done).copied() {
            done = done.saturating_add(1);
            if let Some(routine) = routines.get(index) {
                search.code(&routine.code);
            }
        }
        search
    }

    fn expression(&mut self, expr: &Expr) {
        expr.visit(0, &mut |expr, _| self.node(expr));
    }

    fn node(&mut self, expr: &Expr) {
        match &expr.node {
            Node::Routine { routine, .. } => self.called(*routine),
            Node::Call(_) if is_claims(expr) => self.mentions = self.mentions.saturating_add(1),
            Node::Call(call) if MEMBER.contains(&call.function) => {
                if let [
                    object,
                    Expr {
                        node: Node::Const(Value::Text(name)),
                        ..
                    },
                ] = call.arguments.as_slice()
                    && let Some(count) = object_of_claims(object)
                {
                    self.members = self.members.saturating_add(count);
                    self.names.insert((&**name).into());
                }
            }
            _ => {}
        }
        if let Some(query) = expr.subquery() {
            query.set_routines(&mut |routine| self.called(routine));
        }
    }

    fn called(&mut self, routine: usize) {
        if !self.routines.contains(&routine) {
            self.routines.push(routine);
        }
    }

    fn statement(&mut self, statement: &Statement) {
        statement.query.visit(0, &mut |expr, _| self.node(expr));
        statement
            .query
            .set_routines(&mut |routine| self.called(routine));
    }

    fn code(&mut self, code: &Code) {
        match code {
            Code::Pending | Code::Raise(_) => {}
            Code::Sql { statements, .. } => statements
                .iter()
                .for_each(|statement| self.statement(statement)),
            Code::Plpgsql(program) => self.steps(&program.body),
        }
    }

    fn steps(&mut self, steps: &[Step]) {
        for step in steps {
            match step {
                Step::Assign {
                    value: statement, ..
                }
                | Step::ReturnQuery(statement)
                | Step::Into {
                    query: statement, ..
                }
                | Step::Perform(statement)
                | Step::Return(Some((statement, _)))
                | Step::ReturnNext(Some((statement, _)))
                | Step::Leave(_, Some(statement)) => self.statement(statement),
                Step::Raise(_, statements) | Step::Notice(statements) => {
                    statements
                        .iter()
                        .for_each(|statement| self.statement(statement));
                }
                Step::If(branches, otherwise) => {
                    for (condition, body) in branches {
                        self.statement(condition);
                        self.steps(body);
                    }
                    self.steps(otherwise);
                }
                Step::ForQuery {
                    query: statement,
                    body,
                    ..
                }
                | Step::ForEach {
                    array: statement,
                    body,
                    ..
                } => {
                    self.statement(statement);
                    self.steps(body);
                }
                Step::Block { body, handlers } => {
                    self.steps(body);
                    handlers.iter().for_each(|(_, body)| self.steps(body));
                }
                Step::Return(None)
                | Step::ReturnNext(None)
                | Step::Leave(_, None)
                | Step::RaiseAgain => {}
            }
        }
    }
}

fn is_claims(expr: &Expr) -> bool {
    match &expr.node {
        Node::Call(call) if SETTING.contains(&call.function) => {
            match call.arguments.first().map(|name| &name.node) {
                Some(Node::Const(Value::Text(name))) => name.eq_ignore_ascii_case(CLAIMS),
                _ => true,
            }
        }
        _ => false,
    }
}

/// How often the claims are mentioned in an expression that is nothing but the object of the claims.
fn object_of_claims(expr: &Expr) -> Option<usize> {
    match &expr.node {
        Node::TextForm(inner) | Node::Relabel(inner) | Node::OfClaims(_, inner) => {
            object_of_claims(inner)
        }
        Node::NullIf(call) => match call.arguments.as_slice() {
            [
                object,
                Expr {
                    node: Node::Const(_),
                    ..
                },
            ] => object_of_claims(object),
            _ => None,
        },
        Node::Coalesce(list) => {
            let mut count = 0_usize;
            for item in list {
                let mentions = item.any(&mut |expr, _| {
                    is_claims(expr) || matches!(expr.node, Node::Routine { .. })
                });
                if mentions {
                    count = count.saturating_add(object_of_claims(item)?);
                }
            }
            (count > 0).then_some(count)
        }
        Node::Scalar(query) => object_of_claims(query.only_value()?),
        Node::Call(_) if is_claims(expr) => Some(1),
        _ => None,
    }
}
