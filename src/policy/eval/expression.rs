//! Expressions to values.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::query::may_not_be_met;
use super::{Machine, Scope};
use crate::policy::builtin::Call;
use crate::policy::ir::{Body, BuiltinCall, Expr, Node, Probe, Query};
use crate::policy::value::{Array, SqlError, Value, compare, input, output};

const fn truth(value: Option<bool>) -> Value {
    match value {
        Some(value) => Value::Bool(value),
        None => Value::Null,
    }
}

fn logical(value: &Value) -> Result<Option<bool>, SqlError> {
    match value {
        Value::Bool(value) => Ok(Some(*value)),
        Value::Null => Ok(None),
        _ => Err(SqlError::internal("a condition that is not boolean")),
    }
}

impl Machine<'_> {
    pub(super) fn eval(&self, expr: &Expr, scope: &Scope<'_>) -> Result<Value, SqlError> {
        self.step()?;
        Ok(match &expr.node {
            Node::Const(value) => value.clone(),
            Node::Column {
                level,
                item,
                column,
            } => match self.row(scope, *level, *item)? {
                Some(row) => row
                    .get(*column)
                    .cloned()
                    .ok_or_else(|| SqlError::internal("a row that is too short"))?,
                None => Value::Null,
            },
            Node::WholeRow { level, item } => self
                .row(scope, *level, *item)?
                .map_or(Value::Null, |row| Value::Record(Arc::clone(row))),
            Node::Parameter(index) => scope
                .variables
                .get(*index)
                .cloned()
                .ok_or_else(|| SqlError::internal("a variable that is missing"))?,
            Node::Slot(index) => scope
                .slots
                .get(*index)
                .cloned()
                .ok_or_else(|| SqlError::internal("a value that is missing"))?,
            Node::Grouped { level, index } => {
                let (keys, aggregates) = scope
                    .group
                    .ok_or_else(|| SqlError::internal("an aggregate outside of a group"))?;
                let list = if *level == 1 { keys } else { aggregates };
                list.get(*index)
                    .cloned()
                    .ok_or_else(|| SqlError::internal("an aggregate that is missing"))?
            }
            Node::Call(call) => self.call(call, scope)?,
            Node::Routine {
                routine, arguments, ..
            } => {
                let arguments = self.eval_all(arguments, scope)?;
                self.routine(*routine, arguments)?
            }
            Node::OfClaims(index, inner) => self.of_claims(*index, inner)?,
            Node::And(parts) => {
                let mut result = Some(true);
                for part in parts {
                    match logical(&self.eval(part, scope)?)? {
                        Some(false) => return Ok(Value::Bool(false)),
                        Some(true) => {}
                        None => result = None,
                    }
                }
                truth(result)
            }
            Node::Or(parts) => {
                let mut result = Some(false);
                for part in parts {
                    match logical(&self.eval(part, scope)?)? {
                        Some(true) => return Ok(Value::Bool(true)),
                        Some(false) => {}
                        None => result = None,
                    }
                }
                truth(result)
            }
            Node::Not(inner) => truth(logical(&self.eval(inner, scope)?)?.map(|value| !value)),
            Node::IsNull(inner, negated) => {
                let value = self.eval(inner, scope)?;
                Value::Bool(match &value {
                    // A row is NULL if all of its fields are, and not NULL if none is.
                    Value::Record(fields) => fields.iter().all(|field| field.is_null() != *negated),
                    other => other.is_null() != *negated,
                })
            }
            Node::IsTruth(inner, wanted, negated) => {
                let value = logical(&self.eval(inner, scope)?)?;
                Value::Bool((value == *wanted) != *negated)
            }
            Node::Distinct(call, negated) => {
                let arguments = self.eval_all(&call.arguments, scope)?;
                let distinct = match arguments.as_slice() {
                    [Value::Null, Value::Null] => false,
                    [Value::Null, _] | [_, Value::Null] => true,
                    _ => self.apply(call, &arguments)? != Value::Bool(true),
                };
                Value::Bool(distinct != *negated)
            }
            Node::NullIf(call) => {
                let arguments = self.eval_all(&call.arguments, scope)?;
                match arguments.as_slice() {
                    [first, second] if !first.is_null() && !second.is_null() => {
                        if self.apply(call, &arguments)? == Value::Bool(true) {
                            Value::Null
                        } else {
                            first.clone()
                        }
                    }
                    [first, _] => first.clone(),
                    _ => return Err(SqlError::internal("NULLIF takes two arguments")),
                }
            }
            Node::AnyArray {
                all,
                left,
                right,
                test,
                ..
            } => self.any_array(*all, left, right, test, scope)?,
            Node::Case(branches, otherwise) => {
                for (condition, result) in branches {
                    if self.holds(condition, scope)? {
                        return self.eval(result, scope);
                    }
                }
                match otherwise {
                    Some(otherwise) => self.eval(otherwise, scope)?,
                    None => Value::Null,
                }
            }
            Node::Coalesce(list) => {
                for item in list {
                    let value = self.eval(item, scope)?;
                    if !value.is_null() {
                        return Ok(value);
                    }
                }
                Value::Null
            }
            Node::Extreme(greatest, list) => {
                let mut best = Value::Null;
                for item in list {
                    let value = self.eval(item, scope)?;
                    let better = match (&best, &value) {
                        (_, Value::Null) => false,
                        (Value::Null, _) => true,
                        (best, value) => {
                            let order = compare(self.world.types, expr.type_oid, value, best)?;
                            if *greatest {
                                order.is_gt()
                            } else {
                                order.is_lt()
                            }
                        }
                    };
                    if better {
                        best = value;
                    }
                }
                best
            }
            Node::Array(list) => {
                Value::Array(Arc::new(Array::one_dimension(self.eval_all(list, scope)?)))
            }
            Node::Row(list) => Value::Record(self.eval_all(list, scope)?.into()),
            Node::Field(inner, index) => match self.eval(inner, scope)? {
                Value::Record(fields) => fields
                    .get(*index)
                    .cloned()
                    .ok_or_else(|| SqlError::internal("a row that is too short"))?,
                Value::Null => Value::Null,
                _ => return Err(SqlError::internal("a field of something other than a row")),
            },
            Node::Subscript(array, indexes) => self.subscript(array, indexes, scope)?,
            Node::Slice(array, lower, upper) => {
                self.slice(array, lower.as_deref(), upper.as_deref(), scope)?
            }
            Node::Relabel(inner) => self.eval(inner, scope)?,
            Node::Arranged(inner) => match self.eval(inner, scope)? {
                Value::Array(array)
                    if array
                        .elements
                        .windows(2)
                        .any(|pair| pair.first() != pair.last()) =>
                {
                    return Err(SqlError::undecided("the order of an array's elements"));
                }
                other => other,
            },
            Node::TextForm(inner) => match self.eval(inner, scope)? {
                Value::Null => Value::Null,
                value => {
                    let text = output(self.world.types, inner.type_oid, &value)?;
                    input(self.world.types, expr.type_oid, -1, &text)?
                }
            },
            Node::Elements(array, each) => match self.eval(array, scope)? {
                Value::Array(array) => {
                    let mut elements = Vec::with_capacity(array.elements.len());
                    for element in &array.elements {
                        let slots = [element.clone()];
                        elements.push(self.eval(
                            each,
                            &Scope {
                                slots: &slots,
                                ..*scope
                            },
                        )?);
                    }
                    Value::Array(Arc::new(Array {
                        dimensions: array.dimensions.clone(),
                        elements: elements.into(),
                    }))
                }
                other => other,
            },
            Node::Exists(query) => Value::Bool(self.exists(query, scope)?),
            Node::Scalar(query) => {
                let mut found = None;
                self.run(query, scope, &mut |row| {
                    if found.is_some() {
                        return Err(SqlError::new(
                            "21000",
                            "more than one row returned by a subquery used as an expression",
                        ));
                    }
                    found = row.first().cloned();
                    Ok(ControlFlow::Continue(()))
                })?;
                found.unwrap_or(Value::Null)
            }
            Node::ArrayQuery(query) => {
                let mut elements = Vec::new();
                self.run(query, scope, &mut |row| {
                    elements.extend(row.first().cloned());
                    Ok(ControlFlow::Continue(()))
                })?;
                Value::Array(Arc::new(Array::one_dimension(elements)))
            }
            Node::AnyQuery {
                all,
                left,
                test,
                query,
                probes,
            } => {
                if let Some(found) = self.probe(left, test, query, probes, scope)? {
                    return Ok(Value::Bool(found));
                }
                // Postgres may read all rows into a hash table first: whatever can raise there must.
                let early = match &query.body {
                    Body::Select(select) => select
                        .targets
                        .iter()
                        .all(|target| matches!(target.node, Node::Column { .. })),
                    _ => false,
                };
                let mut values: Option<Vec<Value>> = None;
                let mut decided = None;
                let mut result = Some(*all);
                self.run(query, scope, &mut |row| {
                    if decided.is_some() {
                        return Ok(ControlFlow::Continue(()));
                    }
                    let lefts = match &values {
                        Some(lefts) => lefts,
                        None => values.insert(self.eval_all(left, scope)?),
                    };
                    let slots: Vec<Value> = lefts.iter().chain(row.iter()).cloned().collect();
                    match logical(&self.eval(
                        test,
                        &Scope {
                            slots: &slots,
                            ..*scope
                        },
                    )?)? {
                        Some(found) if found != *all => {
                            decided = Some(found);
                            return Ok(if early {
                                ControlFlow::Break(())
                            } else {
                                ControlFlow::Continue(())
                            });
                        }
                        Some(_) => {}
                        None => result = None,
                    }
                    Ok(ControlFlow::Continue(()))
                })
                .map_err(may_not_be_met)?;
                truth(decided.or(result))
            }
            Node::Raise(error) => return Err(error.clone()),
        })
    }

    /// Whether `(left …) = ANY (query)` holds, if that can be told from the rows that the left side points to.
    fn probe(
        &self,
        left: &[Expr],
        test: &Expr,
        query: &Query,
        probes: &[Probe],
        scope: &Scope<'_>,
    ) -> Result<Option<bool>, SqlError> {
        if probes.is_empty() {
            return Ok(None);
        }
        let lefts = self.eval_all(left, scope)?;
        if lefts.iter().any(Value::is_null) {
            return Ok(None);
        }
        let probes: Vec<(usize, usize, Value)> = probes
            .iter()
            .filter_map(|probe| Some((probe.item, probe.column, lefts.get(probe.left)?.clone())))
            .collect();
        let mut found = false;
        let mut slots = lefts;
        let width = slots.len();
        self.run_probed(query, scope, &probes, &mut |row| {
            slots.truncate(width);
            slots.extend_from_slice(row);
            let tested = Scope {
                slots: &slots,
                ..*scope
            };
            found = found || self.holds(test, &tested)?;
            Ok(if found {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            })
        })?;
        Ok(Some(found))
    }

    fn row<'s>(
        &self,
        scope: &'s Scope<'s>,
        level: usize,
        item: usize,
    ) -> Result<Option<&'s super::Tuple>, SqlError> {
        let mut found = scope;
        for _ in 0..level {
            found = found
                .outer
                .ok_or_else(|| SqlError::internal("a query that is missing"))?;
        }
        let row = found
            .rows
            .get(item)
            .ok_or_else(|| SqlError::internal("a table that is missing"))?;
        Ok(row.as_ref())
    }

    pub(super) fn eval_all(
        &self,
        list: &[Expr],
        scope: &Scope<'_>,
    ) -> Result<Vec<Value>, SqlError> {
        list.iter().map(|expr| self.eval(expr, scope)).collect()
    }

    fn call(&self, call: &BuiltinCall, scope: &Scope<'_>) -> Result<Value, SqlError> {
        let arguments = self.eval_all(&call.arguments, scope)?;
        if call.builtin.strict && arguments.iter().any(Value::is_null) {
            return Ok(Value::Null);
        }
        self.apply(call, &arguments)
    }

    fn apply(&self, call: &BuiltinCall, arguments: &[Value]) -> Result<Value, SqlError> {
        (call.builtin.eval)(&Call {
            args: arguments,
            arg_types: &call.types,
            result: call.result,
            collation: call.collation,
            types: self.world.types,
            session: self.world.session,
        })
    }

    fn any_array(
        &self,
        all: bool,
        left: &Expr,
        right: &Expr,
        test: &Expr,
        scope: &Scope<'_>,
    ) -> Result<Value, SqlError> {
        let left = self.eval(left, scope)?;
        let array = match self.eval(right, scope)? {
            Value::Array(array) => array,
            Value::Null => return Ok(Value::Null),
            _ => return Err(SqlError::internal("ANY over something other than an array")),
        };
        let mut result = Some(all);
        let mut slots = [left, Value::Null];
        // Nearly always a comparison of just these two.
        let plain = match &test.node {
            Node::Call(call) if call.builtin.strict => match call.arguments.as_slice() {
                [first, second]
                    if matches!(first.node, Node::Slot(0))
                        && matches!(second.node, Node::Slot(1)) =>
                {
                    Some(call)
                }
                _ => None,
            },
            _ => None,
        };
        for element in &array.elements {
            let [_, second] = &mut slots;
            *second = element.clone();
            let found = match plain {
                Some(call) => {
                    self.step()?;
                    if slots.iter().any(Value::is_null) {
                        Value::Null
                    } else {
                        self.apply(call, &slots)?
                    }
                }
                None => self.eval(
                    test,
                    &Scope {
                        slots: &slots,
                        ..*scope
                    },
                )?,
            };
            match logical(&found)? {
                Some(found) if found != all => return Ok(Value::Bool(found)),
                Some(_) => {}
                None => result = None,
            }
        }
        Ok(truth(result))
    }

    fn subscript(
        &self,
        array: &Expr,
        indexes: &[Expr],
        scope: &Scope<'_>,
    ) -> Result<Value, SqlError> {
        let array = self.eval(array, scope)?;
        let indexes = self.eval_all(indexes, scope)?;
        let Value::Array(array) = array else {
            return Ok(Value::Null);
        };
        if array.dimensions.len() != indexes.len() {
            return Ok(Value::Null);
        }
        let mut place = 0_i64;
        for ((length, lower), index) in array.dimensions.iter().zip(&indexes) {
            let Value::Int(index) = index else {
                return Ok(Value::Null);
            };
            let offset = index.saturating_sub(i64::from(*lower));
            if offset < 0 || offset >= i64::from(*length) {
                return Ok(Value::Null);
            }
            place = place
                .saturating_mul(i64::from(*length))
                .saturating_add(offset);
        }
        let found = usize::try_from(place)
            .ok()
            .and_then(|place| array.elements.get(place));
        Ok(found.cloned().unwrap_or(Value::Null))
    }

    fn slice(
        &self,
        array: &Expr,
        lower: Option<&Expr>,
        upper: Option<&Expr>,
        scope: &Scope<'_>,
    ) -> Result<Value, SqlError> {
        let array = self.eval(array, scope)?;
        let bound = |bound: Option<&Expr>| bound.map(|bound| self.eval(bound, scope)).transpose();
        let (lower, upper) = (bound(lower)?, bound(upper)?);
        let Value::Array(array) = array else {
            return Ok(Value::Null);
        };
        let [(length, first)] = &*array.dimensions else {
            if array.dimensions.is_empty() {
                return Ok(Value::Array(array));
            }
            return Err(SqlError::undecided(
                "a slice of an array of several dimensions",
            ));
        };
        let first = i64::from(*first);
        let last = first.saturating_add(i64::from(*length)).saturating_sub(1);
        let number = |value: Option<Value>, default: i64| match value {
            None => Some(default),
            Some(Value::Int(value)) => Some(value),
            Some(_) => None,
        };
        let (Some(lower), Some(upper)) = (number(lower, first), number(upper, last)) else {
            return Ok(Value::Null);
        };
        let (lower, upper) = (lower.max(first), upper.min(last));
        let skip = usize::try_from(lower.saturating_sub(first)).unwrap_or(usize::MAX);
        let take = usize::try_from(upper.saturating_sub(lower).saturating_add(1)).unwrap_or(0);
        let elements = array
            .elements
            .iter()
            .skip(skip)
            .take(take)
            .cloned()
            .collect();
        Ok(Value::Array(Arc::new(Array::one_dimension(elements))))
    }
}
