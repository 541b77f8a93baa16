//! Evaluates plans: a row, claims, looked-up tables and the time go in, a [`Verdict`] comes out.
//!
//! Pure: reads no clock and does no I/O. Every evaluation has a budget; beyond it Postgres is asked.

mod audience;
mod expression;
mod program;
mod query;

use std::cell::{Cell, RefCell};
use std::ops::ControlFlow;
use std::sync::Arc;

use super::builtin::Session;
use super::ir::{Expr, Plan};
use super::value::{Oid, SqlError, Types, Value};
pub use audience::{ClaimKey, Weights};

/// A row of a table: its live columns in order.
pub type Tuple = Arc<[Value]>;

/// The tables that plans look into, as of one moment.
pub trait Tables {
    /// Calls `visit` with every row of a table whose columns equal the given values, by the equality of the columns'
    /// types ([`canonical`](super::value::canonical)); more rows do no harm. The values are not NULL.
    fn scan(
        &self,
        table: Oid,
        keys: &[(usize, Value)],
        visit: &mut dyn FnMut(&Tuple) -> ControlFlow<()>,
    );
}

/// The answer for one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The subscriber sees the row.
    Allow,
    /// It does not.
    Deny,
    /// Postgres would raise this: nothing is seen.
    Raised(SqlError),
    /// Only Postgres can tell.
    Undecided(Box<str>),
}

/// Nodes that one verdict may evaluate.
const STEPS_MAX: u64 = 5_000_000;
/// Calls of functions inside of each other.
const DEPTH_MAX: usize = 64;

/// What a plan is evaluated against.
#[derive(Clone, Copy)]
pub struct World<'a> {
    /// Looked-up tables.
    pub tables: &'a dyn Tables,
    /// Claims, settings, time.
    pub session: &'a Session,
    /// The types of the schema that the plan was compiled against.
    pub types: &'a Types,
}

impl std::fmt::Debug for World<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World")
            .field("session", &self.session)
            .finish_non_exhaustive()
    }
}

impl Plan {
    /// What Postgres evaluates while it plans the query: to be asked once for each session. An error denies all rows.
    ///
    /// # Errors
    /// The query as a whole raises, or only Postgres can tell.
    pub fn preflight(&self, world: World<'_>) -> Result<(), SqlError> {
        let machine = Machine::new(self, world);
        let scope = Scope::root(&[]);
        for expr in &self.folded {
            machine.eval(expr, &scope).map_err(query::may_not_be_met)?;
        }
        self.eager
            .iter()
            .try_for_each(|expr| machine.eval(expr, &scope).map(drop))
    }

    /// Judges one row. Assumes that [`Self::preflight`] passed.
    #[must_use]
    pub fn judge(&self, world: World<'_>, row: &Tuple) -> Verdict {
        Verdict::of_truth(self.truth(world, row))
    }

    /// As [`Self::judge`], with what is known of the identity by this very plan.
    #[must_use]
    pub fn judge_knowing(&self, world: World<'_>, row: &Tuple, known: &KnownClaims) -> Verdict {
        let mut machine = Machine::new(self, world);
        machine.shared = Some(known);
        Verdict::of_truth(machine.truth(row))
    }

    /// What the condition says about one row: true, false, or `None` for NULL. Assumes that [`Self::preflight`] passed.
    ///
    /// # Errors
    /// The condition raises, or only Postgres can tell ([`Verdict::of_error`]).
    pub fn truth(&self, world: World<'_>, row: &Tuple) -> Result<Option<bool>, SqlError> {
        Machine::new(self, world).truth(row)
    }
}

impl Verdict {
    fn of_truth(truth: Result<Option<bool>, SqlError>) -> Self {
        match truth {
            Ok(Some(true)) => Self::Allow,
            Ok(_) => Self::Deny,
            Err(error) => Self::of_error(error),
        }
    }

    /// What an error means for a row, or for all rows if it came from [`Plan::preflight`].
    #[must_use]
    pub fn of_error(error: SqlError) -> Self {
        if error.is_undecided() {
            Self::Undecided(error.message)
        } else {
            Self::Raised(error)
        }
    }
}

/// Values of expressions over claims alone: of one identity, by one plan.
#[derive(Debug, Default)]
pub struct KnownClaims(RefCell<Vec<Option<Value>>>);

impl KnownClaims {
    fn get(&self, index: usize) -> Option<Value> {
        self.0.borrow().get(index).cloned().flatten()
    }

    fn set(&self, index: usize, value: Value) {
        let mut known = self.0.borrow_mut();
        if known.len() <= index {
            known.resize(index.saturating_add(1), None);
        }
        if let Some(entry) = known.get_mut(index) {
            *entry = Some(value);
        }
    }
}

struct Machine<'a> {
    plan: &'a Plan,
    /// Remembered beyond this evaluation.
    shared: Option<&'a KnownClaims>,
    known: KnownClaims,
    world: World<'a>,
    steps: Cell<u64>,
    depth: Cell<usize>,
}

/// What expressions see: the rows of their query, and of those around.
#[derive(Clone, Copy)]
struct Scope<'s> {
    outer: Option<&'s Self>,
    rows: &'s [Option<Tuple>],
    slots: &'s [Value],
    /// Group keys and aggregates.
    group: Option<(&'s [Value], &'s [Value])>,
    variables: &'s [Value],
    withs: Option<&'s query::Withs<'s>>,
    /// What columns of the query's own tables must equal for a row to matter: table, column, value.
    probes: &'s [(usize, usize, Value)],
}

impl<'s> Scope<'s> {
    const fn root(variables: &'s [Value]) -> Self {
        Self {
            outer: None,
            rows: &[],
            slots: &[],
            group: None,
            variables,
            withs: None,
            probes: &[],
        }
    }

    /// One query further in.
    const fn inner(&'s self, rows: &'s [Option<Tuple>]) -> Self {
        Self {
            outer: Some(self),
            rows,
            slots: &[],
            group: None,
            variables: self.variables,
            withs: None,
            probes: &[],
        }
    }
}

impl<'a> Machine<'a> {
    const fn new(plan: &'a Plan, world: World<'a>) -> Self {
        Self {
            plan,
            shared: None,
            known: KnownClaims(RefCell::new(Vec::new())),
            world,
            steps: Cell::new(0),
            depth: Cell::new(0),
        }
    }

    fn truth(&self, row: &Tuple) -> Result<Option<bool>, SqlError> {
        let rows = [Some(Arc::clone(row))];
        let scope = Scope {
            rows: &rows,
            ..Scope::root(&[])
        };
        Ok(match self.eval(&self.plan.qual, &scope)? {
            Value::Bool(truth) => Some(truth),
            _ => None,
        })
    }

    /// A value that claims alone decide.
    fn of_claims(&self, index: usize, expr: &Expr) -> Result<Value, SqlError> {
        let known = self.shared.unwrap_or(&self.known);
        if let Some(value) = known.get(index) {
            return Ok(value);
        }
        let value = self.eval(expr, &Scope::root(&[]))?;
        known.set(index, value.clone());
        Ok(value)
    }

    fn step(&self) -> Result<(), SqlError> {
        let steps = self.steps.get().saturating_add(1);
        self.steps.set(steps);
        if steps > STEPS_MAX {
            return Err(SqlError::undecided("a verdict that takes too long"));
        }
        Ok(())
    }

    /// True; NULL counts as false.
    fn holds(&self, condition: &Expr, scope: &Scope<'_>) -> Result<bool, SqlError> {
        Ok(self.eval(condition, scope)? == Value::Bool(true))
    }

    fn all_hold(&self, conditions: &[Expr], scope: &Scope<'_>) -> Result<bool, SqlError> {
        for condition in conditions {
            if !self.holds(condition, scope)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
