//! What is refused of a call although the function is known: constants without a value, patterns, locales, rights.

use super::coerce::known;
use super::{Compiler, Stop};
use crate::policy::builtin::{self, Session, changes_cases, knows_pattern};
use crate::policy::ir::{BuiltinCall, Collated, DEFAULT_COLLATION, Expr, Node};
use crate::policy::schema::{CollationKind, Function};
use crate::policy::value::{Oid, Value};

impl Compiler<'_> {
    /// Refuses calls of constants that Postgres would evaluate while planning, if they have no value; and constant
    /// patterns that are left to Postgres on any row.
    pub(super) fn foldable(&self, call: &BuiltinCall, volatility: u8) -> Result<(), Stop> {
        let constants: Vec<Option<&Value>> = call.arguments.iter().map(constant).collect();
        if let Some(Some(Value::Text(pattern))) = constants.get(1)
            && !knows_pattern(call.function, pattern, call.collation)
        {
            return Stop::refuse(format!("the pattern {pattern}"));
        }
        let Some(values) = constants.into_iter().collect::<Option<Vec<_>>>() else {
            return Ok(());
        };
        if volatility != b'i' || call.builtin.strict && values.iter().any(|value| value.is_null()) {
            return Ok(());
        }
        let args: Vec<Value> = values.into_iter().cloned().collect();
        known((call.builtin.eval)(&builtin::Call {
            args: &args,
            arg_types: &call.types,
            result: call.result,
            collation: call.collation,
            types: &self.schema.types,
            session: &Session::default(),
        }))
    }

    /// Raises unless the current role may execute a function of the system; nearly all may be by everybody.
    pub(super) fn executable(&self, function: &Function) -> Result<(), Stop> {
        match &function.executors {
            Some(roles) if !roles.contains(&self.role) => {
                Stop::refuse(format!("no right to execute {}", function.name))
            }
            _ => Ok(()),
        }
    }

    /// Why the cases of letters are not known, if the function needs them: `I` is not everywhere the capital of `i`.
    pub(super) fn odd_cases(&self, function: Oid, collation: Collated) -> Option<&'static str> {
        match self.schema.collations.get(&collation.oid) {
            Some(CollationKind::Bytes | CollationKind::Locale) => None,
            _ => changes_cases(function)
                .then_some("the cases of letters under a locale with cases of its own"),
        }
    }

    /// Refuses a collation that does not follow a value through functions and subqueries: they are compiled as if
    /// under the default one.
    pub(super) fn usual(&self, collation: Collated) -> Result<(), Stop> {
        if collation.oid == 0 {
            return Ok(());
        }
        let rank = |oid: Oid| match self.schema.collations.get(&oid) {
            Some(CollationKind::Bytes) => 0,
            Some(CollationKind::Locale) => 1,
            Some(CollationKind::OddCases) => 2,
            Some(CollationKind::Nondeterministic) | None => 3,
        };
        if rank(collation.oid) > rank(DEFAULT_COLLATION) {
            return Stop::refuse("a collation that a function or a subquery hands on");
        }
        Ok(())
    }
}

/// The value of a constant, also under another name of its type.
fn constant(expr: &Expr) -> Option<&Value> {
    match &expr.node {
        Node::Const(value) => Some(value),
        Node::Relabel(inner) => constant(inner),
        _ => None,
    }
}
