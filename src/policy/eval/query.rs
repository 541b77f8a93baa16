//! Queries to rows.

mod group;
mod order;
mod source;
#[cfg(test)]
mod tests;
mod with;

use std::cell::RefCell;
use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use super::{Machine, Scope, Tuple};
use crate::policy::builtin::Row;
use crate::policy::ir::{Body, Expr, Query, Select};
use crate::policy::value::{Array, Oid, SqlError, Value, canonical};
pub(super) use with::Withs;

type Flow = Result<ControlFlow<()>, SqlError>;
type Visit<'v> = &'v mut dyn FnMut(&[Value]) -> Flow;
type Rows = Vec<Option<Tuple>>;

impl Machine<'_> {
    /// Calls `visit` with the rows of a query, in its order if it has one.
    pub(super) fn run(
        &self,
        query: &Query,
        outer: &Scope<'_>,
        visit: Visit<'_>,
    ) -> Result<(), SqlError> {
        self.run_limited(query, outer, None, &[], visit)
    }

    /// Calls `visit` with the rows of a query for which columns of its tables equal these values.
    pub(super) fn run_probed(
        &self,
        query: &Query,
        outer: &Scope<'_>,
        probes: &[(usize, usize, Value)],
        visit: Visit<'_>,
    ) -> Result<(), SqlError> {
        self.run_limited(query, outer, None, probes, visit)
    }

    /// The first row; undecided if which one is first depends on the order of rows on disk.
    pub(super) fn first(&self, query: &Query, outer: &Scope<'_>) -> Result<Option<Row>, SqlError> {
        let mut found = None;
        self.run_limited(query, outer, Some(1), &[], &mut |row| {
            found = Some(row.into());
            Ok(ControlFlow::Break(()))
        })?;
        Ok(found)
    }

    fn run_limited(
        &self,
        query: &Query,
        outer: &Scope<'_>,
        most: Option<usize>,
        probes: &[(usize, usize, Value)],
        visit: Visit<'_>,
    ) -> Result<(), SqlError> {
        let withs = Withs {
            list: &query.with,
            done: RefCell::default(),
        };
        let mut scope = outer.inner(&[]);
        scope.probes = probes;
        if !query.with.is_empty() {
            scope.withs = Some(&withs);
        }
        let width = query.width;
        let plain = query.order_by.is_empty() && query.limit.is_none() && query.offset.is_none();
        if plain && most.is_none() {
            return self
                .body(query, &scope, &mut |row| {
                    visit(row.get(..width).unwrap_or(row))
                })
                .map(drop);
        }
        let bound = |bound: &Option<Expr>| -> Result<Option<usize>, SqlError> {
            match bound
                .as_ref()
                .map(|bound| self.eval(bound, &scope))
                .transpose()?
            {
                None | Some(Value::Null) => Ok(None),
                Some(Value::Int(count)) => usize::try_from(count)
                    .map(Some)
                    .map_err(|_negative| SqlError::new("2201W", "LIMIT must not be negative")),
                Some(_) => Err(SqlError::internal("LIMIT is a number")),
            }
        };
        let (limit, offset) = (bound(&query.limit)?, bound(&query.offset)?.unwrap_or(0));
        let mut rows: Vec<Row> = Vec::new();
        // Postgres may stop at the limit.
        let _flow = self
            .body(query, &scope, &mut |row| {
                rows.push(row.into());
                Ok(ControlFlow::Continue(()))
            })
            .map_err(may_not_be_met)?;
        self.sort(&query.order_by, &mut rows, &scope)?;
        if let Body::Select(select) = &query.body
            && select.distinct_on > 0
        {
            rows = self.distinct_on(query, select.distinct_on, rows, &scope)?;
        }
        let start = offset.min(rows.len());
        let count = limit.unwrap_or(usize::MAX).min(most.unwrap_or(usize::MAX));
        let end = start.saturating_add(count).min(rows.len());
        for edge in [start, end] {
            self.determined(query, &rows, edge, &scope)?;
        }
        for row in rows.get(start..end).unwrap_or_default() {
            if visit(row.get(..width).unwrap_or(row))?.is_break() {
                break;
            }
        }
        Ok(())
    }

    fn canonical_row(&self, types: &[Oid], row: &[Value]) -> Result<Row, SqlError> {
        row.iter()
            .zip(types)
            .map(|(value, type_oid)| canonical(self.world.types, *type_oid, value))
            .collect()
    }

    pub(super) fn rows_of(&self, query: &Query, scope: &Scope<'_>) -> Result<Vec<Row>, SqlError> {
        let mut rows = Vec::new();
        self.run(query, scope, &mut |row| {
            rows.push(row.into());
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(rows)
    }

    fn body(&self, query: &Query, scope: &Scope<'_>, visit: Visit<'_>) -> Flow {
        match &query.body {
            Body::Select(select) if select.distinct => {
                let mut seen: HashSet<Row> = HashSet::new();
                self.select(select, scope, &mut |row| {
                    if seen.insert(self.canonical_row(&query.types, row)?) {
                        visit(row)
                    } else {
                        Ok(ControlFlow::Continue(()))
                    }
                })
            }
            Body::Select(select) => self.select(select, scope, visit),
            Body::Union(left, right, all) => {
                // All rows of both sides come before the first one comes out, but for UNION ALL, which may stop before.
                let mut seen: HashSet<Row> = HashSet::new();
                let mut rows = Vec::new();
                for side in [left, right] {
                    let found = self.rows_of(side, scope).map_err(may_not_be_met)?;
                    for row in found {
                        if *all || seen.insert(self.canonical_row(&query.types, &row)?) {
                            rows.push(row);
                        }
                    }
                }
                for row in rows {
                    if visit(&row)?.is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                }
                Ok(ControlFlow::Continue(()))
            }
            Body::Intersect(left, right) | Body::Except(left, right) => {
                let wanted = matches!(query.body, Body::Intersect(..));
                let mut others: HashSet<Row> = HashSet::new();
                for row in self.rows_of(right, scope).map_err(may_not_be_met)? {
                    others.insert(self.canonical_row(&query.types, &row)?);
                }
                let mut seen: HashSet<Row> = HashSet::new();
                for row in self.rows_of(left, scope).map_err(may_not_be_met)? {
                    let key = self.canonical_row(&query.types, &row)?;
                    if others.contains(&key) == wanted
                        && seen.insert(key)
                        && visit(&row)?.is_break()
                    {
                        return Ok(ControlFlow::Break(()));
                    }
                }
                Ok(ControlFlow::Continue(()))
            }
            Body::Values(rows) => {
                for row in rows {
                    let row = self.eval_all(row, scope)?;
                    if visit(&row)?.is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                }
                Ok(ControlFlow::Continue(()))
            }
        }
    }

    /// Whether there is a row; what is selected is not evaluated where Postgres does not.
    pub(super) fn exists(&self, query: &Query, outer: &Scope<'_>) -> Result<bool, SqlError> {
        let mut found = false;
        match &query.body {
            Body::Select(select)
                if select.grouping.is_none()
                    && select.sets.is_empty()
                    && select.distinct_on == 0
                    && query.limit.is_none()
                    && query.offset.is_none() =>
            {
                let withs = Withs {
                    list: &query.with,
                    done: RefCell::default(),
                };
                let mut scope = outer.inner(&[]);
                if !query.with.is_empty() {
                    scope.withs = Some(&withs);
                }
                let _flow = self.each(select, &scope, &mut |_scope| {
                    found = true;
                    Ok(ControlFlow::Break(()))
                })?;
            }
            _ => {
                let limited = query.limit.is_some() || query.offset.is_some();
                let mut count = 0_usize;
                // Which rows a limit keeps makes no difference to their being there.
                if limited {
                    let mut query = query.clone();
                    query.order_by.clear();
                    let (limit, offset) = (query.limit.take(), query.offset.take());
                    let scope = outer.inner(&[]);
                    let number = |bound: Option<Expr>| -> Result<Option<i64>, SqlError> {
                        match bound.map(|bound| self.eval(&bound, &scope)).transpose()? {
                            Some(Value::Int(number)) if number < 0 => {
                                Err(SqlError::new("2201W", "LIMIT must not be negative"))
                            }
                            Some(Value::Int(number)) => Ok(Some(number)),
                            _ => Ok(None),
                        }
                    };
                    let (limit, offset) = (number(limit)?, number(offset)?.unwrap_or(0));
                    if limit == Some(0) {
                        return Ok(false);
                    }
                    self.run(&query, outer, &mut |_row| {
                        count = count.saturating_add(1);
                        found = i64::try_from(count).unwrap_or(i64::MAX) > offset;
                        Ok(if found {
                            ControlFlow::Break(())
                        } else {
                            ControlFlow::Continue(())
                        })
                    })?;
                } else {
                    self.run(query, outer, &mut |_row| {
                        found = true;
                        Ok(ControlFlow::Break(()))
                    })?;
                }
            }
        }
        Ok(found)
    }

    /// Calls `visit` with a scope for each combination of rows that passes.
    fn each(
        &self,
        select: &Select,
        scope: &Scope<'_>,
        visit: &mut dyn FnMut(&Scope<'_>) -> Flow,
    ) -> Flow {
        let mut rows: Rows = vec![None; select.items];
        let (gates, filter) = select
            .filter
            .split_at_checked(select.gates)
            .unwrap_or((&[], &select.filter));
        let around = Scope {
            rows: &rows,
            ..*scope
        };
        for part in &select.merged {
            self.eval(part, &around).map_err(may_not_be_met)?;
        }
        if !self.all_hold(gates, &around).map_err(may_not_be_met)? {
            return Ok(ControlFlow::Continue(()));
        }
        for invariant in &select.invariants {
            let scope = Scope {
                rows: &rows,
                ..*scope
            };
            self.eval(invariant, &scope).map_err(may_not_be_met)?;
        }
        if !select.ahead.is_empty() {
            self.look_ahead(&select.from, &select.ahead, &mut rows, scope)
                .map_err(may_not_be_met)?;
        }
        let mut is_enough = false;
        let flow = self.sources(&select.from, &mut rows, scope, &mut |rows| {
            let scope = Scope { rows, ..*scope };
            if !self.all_hold(filter, &scope).map_err(may_not_be_met)? || is_enough {
                return Ok(ControlFlow::Continue(()));
            }
            let flow = visit(&scope)?;
            is_enough = select.exhaustive && flow.is_break();
            Ok(if is_enough {
                ControlFlow::Continue(())
            } else {
                flow
            })
        });
        if select.exhaustive {
            let flow = flow.map_err(may_not_be_met)?;
            return Ok(if is_enough {
                ControlFlow::Break(())
            } else {
                flow
            });
        }
        flow
    }

    fn select(&self, select: &Select, scope: &Scope<'_>, visit: Visit<'_>) -> Flow {
        if let Some(grouping) = &select.grouping {
            return self.grouped(select, grouping, scope, visit);
        }
        self.each(select, scope, &mut |scope| {
            if select.sets.is_empty() {
                return visit(&self.eval_all(&select.targets, scope)?);
            }
            let mut sets = Vec::new();
            for set in &select.sets {
                sets.push(self.set(set, scope).map_err(may_not_be_met)?);
            }
            let longest = sets.iter().map(Vec::len).max().unwrap_or(0);
            for index in 0..longest {
                let slots: Vec<Value> = sets
                    .iter()
                    .map(|set| match set.get(index).map(|row| &**row) {
                        None => Value::Null,
                        Some([only]) => only.clone(),
                        Some(row) => Value::Record(row.into()),
                    })
                    .collect();
                let row = self.eval_all(
                    &select.targets,
                    &Scope {
                        slots: &slots,
                        ..*scope
                    },
                )?;
                if visit(&row)?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            Ok(ControlFlow::Continue(()))
        })
    }

    /// The elements of an array value.
    pub(super) fn elements(value: Value) -> Result<Option<Arc<Array>>, SqlError> {
        match value {
            Value::Array(array) => Ok(Some(array)),
            Value::Null => Ok(None),
            _ => Err(SqlError::internal("an array is expected")),
        }
    }
}

/// An error that Postgres raises only if its plan comes to evaluate what raises.
pub(super) fn may_not_be_met(error: SqlError) -> SqlError {
    if error.is_undecided() {
        return error;
    }
    SqlError::undecided(&format!(
        "whether Postgres comes to raise {}",
        error.sqlstate
    ))
}
