//! Functions of the user's: what a call says about its arguments and the claims.

use super::Form;
use super::derive::{Around, Binding, Derivation, Wanted, put, slot};
use crate::policy::ir::{Code, Expr, IntoTarget, Node, Query, SqlResult, Step};

/// Functions inside of each other that are looked into.
const DEPTH_MAX: usize = 16;

impl Derivation<'_> {
    /// For whom a function may give a value for which `wanted`, over it as slot 0, is true.
    pub(super) fn routine(
        &mut self,
        index: usize,
        arguments: &[Expr],
        wanted: Wanted,
        around: &Around,
    ) -> Form {
        let Some(routine) = self.observer.routines.get(index) else {
            return Form::Everybody;
        };
        if self.inside.len() >= DEPTH_MAX || self.inside.contains(&index) {
            return Form::Everybody;
        }
        let mut bindings = Vec::new();
        let mut variables = Vec::new();
        for (place, argument) in arguments.iter().enumerate() {
            bindings.push(if self.is_known(argument, around) {
                variables.push((place, argument.clone()));
                Binding::Known
            } else {
                match self.over_claims(argument, around) {
                    Some(claim) => Binding::Claims(claim),
                    None => Binding::Unknown,
                }
            });
        }
        if let Code::Plpgsql(program) = &routine.code {
            bindings.resize(bindings.len().max(program.variables), Binding::Unknown);
            // What is assigned to is not followed.
            for assigned in assigned(&program.body) {
                if let Some(binding) = bindings.get_mut(assigned) {
                    *binding = Binding::Unknown;
                }
            }
            variables.retain(|(place, _)| matches!(bindings.get(*place), Some(Binding::Known)));
        }
        // What stands around the call is not seen inside: it comes along in variables of its own.
        let Some(wanted) = wanted.map(|wanted| {
            let mut wanted = wanted;
            let is_whole = self.carry(&mut wanted, around, &mut bindings, &mut variables);
            is_whole.then_some(wanted)
        }) else {
            return Form::Everybody;
        };
        let Some(wanted) = wanted else {
            return Form::Everybody;
        };
        let inside = Around {
            levels: vec![Vec::new()],
            variables: bindings,
        };
        self.inside.push(index);
        let inner = match &routine.code {
            Code::Sql {
                statements,
                result: SqlResult::Column(cast),
            } => match statements.last() {
                Some(last) => {
                    let mut wanted = wanted;
                    put(&mut wanted, std::slice::from_ref(cast));
                    self.query(&last.query, &Some(wanted), &inside)
                }
                None => Form::Nobody,
            },
            Code::Plpgsql(program) if program.outputs.is_empty() => {
                self.steps(&program.body, &wanted, &inside)
            }
            Code::Sql { .. } | Code::Plpgsql(_) | Code::Raise(_) | Code::Pending => Form::Everybody,
        };
        self.inside.pop();
        match inner {
            Form::Everybody => Form::Everybody,
            Form::Nobody => Form::Nobody,
            inner => Form::Routine {
                variables,
                inner: Box::new(inner),
            },
        }
    }

    /// Replaces what is known around a call by variables; false if something else is left.
    fn carry(
        &mut self,
        expr: &mut Expr,
        around: &Around,
        bindings: &mut Vec<Binding>,
        variables: &mut Vec<(usize, Expr)>,
    ) -> bool {
        if matches!(expr.node, Node::Slot(_) | Node::Const(_)) {
            return true;
        }
        let traits = self.observer.of(expr);
        if !traits.slots {
            if self.is_known(expr, around) {
                let place = bindings.len();
                bindings.push(Binding::Known);
                variables.push((place, expr.clone()));
                expr.node = Node::Parameter(place);
                return true;
            }
            if let Some(claim) = self.over_claims(expr, around) {
                expr.node = claim.node;
                return true;
            }
            return false;
        }
        if expr.subquery().is_some() {
            return false;
        }
        let children = expr.children_mut();
        let mut whole = true;
        for child in children {
            whole = whole && self.carry(child, around, bindings, variables);
        }
        whole
    }

    /// For whom a PL/pgSQL function may return such a value.
    fn steps(&mut self, steps: &[Step], wanted: &Expr, around: &Around) -> Form {
        let mut forms = Vec::new();
        for step in steps {
            match step {
                Step::Return(None) => break,
                Step::Return(Some((statement, cast))) => {
                    forms.push(self.returned(&statement.query, cast, wanted, around));
                    break;
                }
                Step::ReturnNext(Some((statement, cast))) => {
                    forms.push(self.returned(&statement.query, cast, wanted, around));
                }
                Step::ReturnQuery(statement) => {
                    forms.push(self.query(&statement.query, &Some(wanted.clone()), around));
                }
                Step::If(branches, otherwise) => {
                    for (condition, body) in branches {
                        let holds = slot(0, wanted);
                        let both = vec![
                            self.query(&condition.query, &Some(holds), around),
                            self.steps(body, wanted, around),
                        ];
                        forms.push(Form::intersection(both));
                    }
                    forms.push(self.steps(otherwise, wanted, around));
                }
                Step::Block { body, .. } => forms.push(self.steps(body, wanted, around)),
                Step::Assign { .. } | Step::Into { .. } | Step::Perform(_) | Step::Notice(_) => {}
                Step::Raise(..)
                | Step::RaiseAgain
                | Step::ReturnNext(None)
                | Step::ForQuery { .. }
                | Step::ForEach { .. }
                | Step::Leave(..) => return Form::Everybody,
            }
        }
        Form::union(forms)
    }

    fn returned(&mut self, query: &Query, cast: &Expr, wanted: &Expr, around: &Around) -> Form {
        let mut wanted = wanted.clone();
        put(&mut wanted, std::slice::from_ref(cast));
        self.query(query, &Some(wanted), around)
    }
}

/// Variables that are assigned to.
fn assigned(steps: &[Step]) -> Vec<usize> {
    let mut found = Vec::new();
    for step in steps {
        match step {
            Step::Assign { variable, .. } => found.push(*variable),
            Step::Into { targets, .. } => found.extend(targets.iter().map(|target| match target {
                IntoTarget::Variable { variable, .. } | IntoTarget::Record { variable, .. } => {
                    *variable
                }
            })),
            Step::If(branches, otherwise) => {
                branches
                    .iter()
                    .for_each(|(_, body)| found.extend(assigned(body)));
                found.extend(assigned(otherwise));
            }
            Step::Block { body, handlers } => {
                found.extend(assigned(body));
                handlers
                    .iter()
                    .for_each(|(_, body)| found.extend(assigned(body)));
            }
            _ => {}
        }
    }
    found
}
