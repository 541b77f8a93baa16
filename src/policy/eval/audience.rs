//! Audiences of rows, and whose claims belong where.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use super::{Machine, Plan, Scope, Tables, Tuple, World};
use crate::policy::audience::{Form, Rows, Step};
use crate::policy::value::{Oid, SqlError, Value, canonical};

/// A value of a claim that a plan compares rows with: which comparison, and the representative of all values that are
/// equal by its type.
pub type ClaimKey = (usize, Value);

/// How many have a claim.
pub trait Weights {
    /// Identities under this key.
    fn weight(&self, key: &ClaimKey) -> usize;
}

/// Claims that lead to identities.
enum Found {
    Everybody,
    Keys(HashSet<ClaimKey>),
}

/// Whether to go on.
type Flow = Result<ControlFlow<()>, SqlError>;

/// Identities below which no narrower choice is looked for.
const FEW: usize = 16;

/// No tables: what is over claims alone reads none.
struct Nothing;

impl Tables for Nothing {
    fn scan(
        &self,
        _table: Oid,
        _keys: &[(usize, Value)],
        _visit: &mut dyn FnMut(&Tuple) -> ControlFlow<()>,
    ) {
    }
}

impl Plan {
    /// Whether rows lead to identities without all of them being judged.
    #[must_use]
    pub const fn has_audience(&self) -> bool {
        self.audience.is_narrow()
    }

    /// How rows lead to identities, for operators: `audience by sub via members(conversation_id)` or `evaluated per
    /// identity`.
    #[must_use]
    pub fn form(&self) -> &str {
        self.audience.description()
    }

    /// The keys under which an identity is to be found; `None` if every row may concern it.
    #[must_use]
    pub fn keys(&self, world: World<'_>) -> Option<Vec<ClaimKey>> {
        let world = World {
            tables: &Nothing,
            ..world
        };
        self.keys_of(world).ok()
    }

    fn keys_of(&self, world: World<'_>) -> Result<Vec<ClaimKey>, SqlError> {
        let machine = Machine::new(self, world);
        let scope = Scope::root(&[]);
        for guard in &self.audience.guards {
            machine.eval(guard, &scope)?;
        }
        let mut keys = Vec::new();
        for (index, term) in self.audience.terms.iter().enumerate() {
            let mut add = |value: &Value| -> Result<(), SqlError> {
                if !value.is_null() {
                    keys.push((index, canonical(world.types, term.type_oid, value)?));
                }
                Ok(())
            };
            match machine.eval(&term.value, &scope)? {
                Value::Array(array) if term.each => array.elements.iter().try_for_each(add)?,
                value => add(&value)?,
            }
        }
        Ok(keys)
    }

    /// Whom a row may concern: all others are denied, and nothing raises for them. `None`: everybody. The session of
    /// `world` has the time of the verdict and no settings.
    #[must_use]
    pub fn audience(
        &self,
        world: World<'_>,
        row: &Tuple,
        weights: &dyn Weights,
    ) -> Option<HashSet<ClaimKey>> {
        let machine = Machine::new(self, world);
        let rows = [Some(Arc::clone(row))];
        let scope = Scope {
            rows: &rows,
            ..Scope::root(&[])
        };
        for check in &self.audience.checks {
            machine.eval(check, &scope).ok()?;
        }
        match machine.found(&self.audience.form, &scope, weights) {
            Ok(Found::Keys(keys)) => Some(keys),
            Ok(Found::Everybody) | Err(_) => None,
        }
    }
}

impl Machine<'_> {
    fn found(
        &self,
        form: &Form,
        scope: &Scope<'_>,
        weights: &dyn Weights,
    ) -> Result<Found, SqlError> {
        self.step()?;
        let nobody = || Found::Keys(HashSet::new());
        Ok(match form {
            Form::Everybody => Found::Everybody,
            Form::Nobody => nobody(),
            Form::If(condition) => {
                if self.holds(condition, scope)? {
                    Found::Everybody
                } else {
                    nobody()
                }
            }
            Form::Equal { term, value } => {
                let value = self.eval(value, scope)?;
                Found::Keys(self.key(*term, &value)?.into_iter().collect())
            }
            Form::Member { term, array } => match Self::elements(self.eval(array, scope)?)? {
                Some(array) => {
                    let mut keys = HashSet::with_capacity(array.elements.len());
                    for element in &array.elements {
                        keys.extend(self.key(*term, element)?);
                    }
                    Found::Keys(keys)
                }
                None => nobody(),
            },
            Form::Any(forms) => {
                let mut union = HashSet::new();
                for form in forms {
                    match self.found(form, scope, weights)? {
                        Found::Everybody => return Ok(Found::Everybody),
                        Found::Keys(keys) => union.extend(keys),
                    }
                }
                Found::Keys(union)
            }
            Form::All(forms) => self.narrowest(forms, scope, weights)?,
            Form::Rows(rows) => self.over_rows(rows, scope, weights)?,
            Form::Routine { variables, inner } => {
                let size = variables.iter().map(|(place, _)| *place).max();
                let mut values = vec![Value::Null; size.map_or(0, |size| size.saturating_add(1))];
                for (place, value) in variables {
                    if let Some(entry) = values.get_mut(*place) {
                        *entry = self.eval(value, scope)?;
                    }
                }
                self.found(inner, &Scope::root(&values), weights)?
            }
            Form::Policy { item, inner } => {
                let own = [scope.rows.get(*item).cloned().flatten()];
                let scope = Scope {
                    rows: &own,
                    ..Scope::root(&[])
                };
                self.found(inner, &scope, weights)?
            }
        })
    }

    fn key(&self, term: usize, value: &Value) -> Result<Option<ClaimKey>, SqlError> {
        let type_oid = self
            .plan
            .audience
            .terms
            .get(term)
            .map_or(0, |term| term.type_oid);
        Ok(match value {
            Value::Null => None,
            value => Some((term, canonical(self.world.types, type_oid, value)?)),
        })
    }

    fn narrowest(
        &self,
        forms: &[Form],
        scope: &Scope<'_>,
        weights: &dyn Weights,
    ) -> Result<Found, SqlError> {
        let mut best: Option<(usize, HashSet<ClaimKey>)> = None;
        for form in forms {
            if best.as_ref().is_some_and(|(weight, _)| *weight <= FEW) {
                break;
            }
            let Found::Keys(keys) = self.found(form, scope, weights)? else {
                continue;
            };
            let weight = keys
                .iter()
                .fold(0_usize, |sum, key| sum.saturating_add(weights.weight(key)));
            if best.as_ref().is_none_or(|(known, _)| weight < *known) {
                best = Some((weight, keys));
            }
        }
        Ok(best.map_or(Found::Everybody, |(_, keys)| Found::Keys(keys)))
    }

    fn over_rows(
        &self,
        rows: &Rows,
        scope: &Scope<'_>,
        weights: &dyn Weights,
    ) -> Result<Found, SqlError> {
        let mut bound: Vec<Option<Tuple>> = vec![None; rows.items];
        let mut union = HashSet::new();
        let everybody = self.step_rows(&rows.steps, &mut bound, scope, &mut |bound| {
            let inner = scope.inner(bound);
            Ok(match self.found(&rows.inner, &inner, weights)? {
                Found::Everybody => ControlFlow::Break(()),
                Found::Keys(keys) => {
                    union.extend(keys);
                    ControlFlow::Continue(())
                }
            })
        })?;
        Ok(if everybody.is_break() {
            Found::Everybody
        } else {
            Found::Keys(union)
        })
    }

    /// Calls `next` for each combination of rows; a break ends it.
    fn step_rows(
        &self,
        steps: &[Step],
        bound: &mut Vec<Option<Tuple>>,
        scope: &Scope<'_>,
        next: &mut dyn FnMut(&[Option<Tuple>]) -> Flow,
    ) -> Flow {
        let Some((step, rest)) = steps.split_first() else {
            return next(bound);
        };
        let mut keys = Vec::with_capacity(step.keys.len());
        for (column, value) in &step.keys {
            match self.eval(value, &scope.inner(bound))? {
                // Nothing equals NULL.
                Value::Null => return Ok(ControlFlow::Continue(())),
                value => keys.push((*column, value)),
            }
        }
        let mut outcome = Ok(ControlFlow::Continue(()));
        self.world.tables.scan(step.table, &keys, &mut |tuple| {
            if let Err(error) = self.step() {
                outcome = Err(error);
                return ControlFlow::Break(());
            }
            if let Some(entry) = bound.get_mut(step.item) {
                *entry = Some(Arc::clone(tuple));
            }
            outcome = self.step_rows(rest, bound, scope, next);
            match &outcome {
                Ok(ControlFlow::Continue(())) => ControlFlow::Continue(()),
                _ => ControlFlow::Break(()),
            }
        });
        outcome
    }
}
