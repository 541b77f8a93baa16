//! FROM: tables, functions and joins, one combination of rows at a time.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use super::{Flow, Machine, Rows, Scope, Tuple, may_not_be_met};
use crate::policy::builtin::{Call, Row};
use crate::policy::ir::{Join, SetCall, Source, TableSource};
use crate::policy::value::{SqlError, Value};

impl Machine<'_> {
    /// Nests the tables of FROM, left to right.
    pub(super) fn sources(
        &self,
        sources: &[Source],
        rows: &mut Rows,
        scope: &Scope<'_>,
        next: &mut dyn FnMut(&mut Rows) -> Flow,
    ) -> Flow {
        match sources.split_first() {
            None => next(rows),
            Some((first, rest)) => self.source(first, rows, scope, &mut |rows| {
                self.sources(rest, rows, scope, next)
            }),
        }
    }

    /// Reads what Postgres may read before the tables that stand further left: it may raise whatever those hold.
    pub(super) fn look_ahead(
        &self,
        sources: &[Source],
        ahead: &BTreeSet<usize>,
        rows: &mut Rows,
        scope: &Scope<'_>,
    ) -> Result<(), SqlError> {
        for source in sources {
            match source {
                Source::Join { left, right, .. } => {
                    for side in [left, right] {
                        self.look_ahead(std::slice::from_ref(side), ahead, rows, scope)?;
                    }
                    continue;
                }
                Source::Table(TableSource { item, .. })
                | Source::Query { item, .. }
                | Source::With { item, .. }
                | Source::Set { item, .. } => {
                    if !ahead.contains(item) {
                        continue;
                    }
                }
            }
            let _flow = match source {
                Source::Table(table)
                    if !table.is_risky && self.is_reserved_fine(table, rows, scope) =>
                {
                    continue;
                }
                source => {
                    self.source(source, rows, scope, &mut |_| Ok(ControlFlow::Continue(())))?
                }
            };
            clear(source, rows);
        }
        Ok(())
    }

    fn source(
        &self,
        source: &Source,
        rows: &mut Rows,
        scope: &Scope<'_>,
        next: &mut dyn FnMut(&mut Rows) -> Flow,
    ) -> Flow {
        let mut place = |rows: &mut Rows, item: usize, row: Tuple| {
            if let Some(entry) = rows.get_mut(item) {
                *entry = Some(row);
            }
            next(rows)
        };
        match source {
            Source::Table(table) => self.table(table, rows, scope, next),
            Source::Query { item, query } => {
                let found = self.rows_of(query, &Scope { rows, ..*scope });
                let found = found.map_err(may_not_be_met)?;
                for row in found {
                    if place(rows, *item, row.into())?.is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                }
                Ok(ControlFlow::Continue(()))
            }
            Source::With { item, index, .. } => {
                let found = self.with(*index, scope).map_err(may_not_be_met)?;
                for row in found.iter() {
                    if place(rows, *item, Tuple::from(&**row))?.is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                }
                Ok(ControlFlow::Continue(()))
            }
            Source::Set {
                item,
                call,
                ordinality,
                single,
            } => {
                let found = self.set(call, &Scope { rows, ..*scope });
                let found = match call {
                    // The planner may put its query in place of the call.
                    SetCall::Routine { .. } => found.map_err(may_not_be_met)?,
                    SetCall::Builtin { .. } | SetCall::Scalar(_) => found?,
                };
                debug_assert!(
                    !*single || found.len() == 1,
                    "a plain function returns one row"
                );
                for (row, number) in found.into_iter().zip(1_i64..) {
                    let mut row = Vec::from(row);
                    if *ordinality {
                        row.push(Value::Int(number));
                    }
                    if place(rows, *item, row.into())?.is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                }
                Ok(ControlFlow::Continue(()))
            }
            Source::Join {
                kind,
                left,
                right,
                on,
            } => self.source(left, rows, scope, &mut |rows| {
                let mut matched = false;
                let flow = self.source(right, rows, scope, &mut |rows| {
                    let holds = self.all_hold(on, &Scope { rows, ..*scope });
                    if !holds.map_err(may_not_be_met)? {
                        return Ok(ControlFlow::Continue(()));
                    }
                    matched = true;
                    next(rows)
                })?;
                if flow.is_break() || matched || *kind == Join::Inner {
                    return Ok(flow);
                }
                clear(right, rows);
                next(rows)
            }),
        }
    }

    fn table(
        &self,
        table: &TableSource,
        rows: &mut Rows,
        scope: &Scope<'_>,
        next: &mut dyn FnMut(&mut Rows) -> Flow,
    ) -> Flow {
        for invariant in &table.invariants {
            self.eval(invariant, &Scope::root(&[]))
                .map_err(may_not_be_met)?;
        }
        if table.is_risky || !self.is_reserved_fine(table, rows, scope) {
            return self.every_row(table, rows, scope, next);
        }
        let Some(mut keys) = self.keys(table, rows, scope).map_err(may_not_be_met)? else {
            return Ok(ControlFlow::Continue(()));
        };
        let probes = scope.probes.iter();
        let own = probes.filter(|(item, ..)| *item == table.item);
        keys.extend(own.map(|(_, column, value)| (*column, value.clone())));
        let mut outcome = Ok(ControlFlow::Continue(()));
        self.world.tables.scan(table.table, &keys, &mut |tuple| {
            outcome = self.table_row(table, tuple, rows, scope, next);
            match &outcome {
                Ok(ControlFlow::Continue(())) => ControlFlow::Continue(()),
                _ => ControlFlow::Break(()),
            }
        });
        outcome
    }

    /// What the columns must equal; none if that is NULL, which nothing equals.
    fn keys(
        &self,
        table: &TableSource,
        rows: &Rows,
        scope: &Scope<'_>,
    ) -> Result<Option<Vec<(usize, Value)>>, SqlError> {
        let mut keys = Vec::with_capacity(table.keys.len());
        for (column, value) in &table.keys {
            match self.eval(value, &Scope { rows, ..*scope })? {
                Value::Null => return Ok(None),
                value => keys.push((*column, value)),
            }
        }
        Ok(Some(keys))
    }

    /// Whether what a row might come to has a value.
    fn is_reserved_fine(&self, table: &TableSource, rows: &Rows, scope: &Scope<'_>) -> bool {
        let of_conditions = table.reserved.of_conditions.iter();
        let mut of_conditions = of_conditions.flat_map(|(_, parts)| parts);
        let mut of_policy = table.reserved.of_policy.iter();
        of_policy.all(|part| self.eval(part, &Scope::root(&[])).is_ok())
            && of_conditions.all(|part| self.eval(part, &Scope { rows, ..*scope }).is_ok())
    }

    /// Looks at all rows that Postgres may look at, because some may raise: then it must be asked whether it meets one of
    /// those.
    fn every_row(
        &self,
        table: &TableSource,
        rows: &mut Rows,
        scope: &Scope<'_>,
        next: &mut dyn FnMut(&mut Rows) -> Flow,
    ) -> Flow {
        let conditions = table.reserved.of_conditions.iter();
        let risky = conditions.map(|(condition, _)| condition.clone());
        let all = TableSource {
            risky: table.risky.iter().cloned().chain(risky).collect(),
            ..table.clone()
        };
        let mut is_enough = false;
        let mut raised = None;
        let keys = if table.is_risky {
            let keys = self.keys(table, rows, scope).map_err(may_not_be_met)?;
            let Some(keys) = keys else {
                return Ok(ControlFlow::Continue(()));
            };
            keys
        } else {
            Vec::new()
        };
        self.world.tables.scan(table.table, &keys, &mut |tuple| {
            let visited = self.table_row(&all, tuple, rows, scope, &mut |rows| {
                is_enough = is_enough || next(rows)?.is_break();
                Ok(ControlFlow::Continue(()))
            });
            match visited {
                Ok(_) => ControlFlow::Continue(()),
                Err(error) => {
                    raised = Some(error);
                    ControlFlow::Break(())
                }
            }
        });
        match raised {
            Some(error) => Err(may_not_be_met(error)),
            None if is_enough => Ok(ControlFlow::Break(())),
            None => Ok(ControlFlow::Continue(())),
        }
    }

    fn table_row(
        &self,
        table: &TableSource,
        tuple: &Tuple,
        rows: &mut Rows,
        scope: &Scope<'_>,
        next: &mut dyn FnMut(&mut Rows) -> Flow,
    ) -> Flow {
        self.step()?;
        if let Some(policy) = &table.policy {
            let own = [Some(Arc::clone(tuple))];
            let holds = self.holds(
                policy,
                &Scope {
                    rows: &own,
                    ..Scope::root(&[])
                },
            );
            if !holds.map_err(may_not_be_met)? {
                return Ok(ControlFlow::Continue(()));
            }
        }
        if let Some(entry) = rows.get_mut(table.item) {
            *entry = Some(Arc::clone(tuple));
        }
        for condition in &table.risky {
            self.eval(condition, &Scope { rows, ..*scope })?;
        }
        next(rows)
    }

    /// The rows of a set-returning function.
    pub(super) fn set(&self, call: &SetCall, scope: &Scope<'_>) -> Result<Vec<Row>, SqlError> {
        match call {
            SetCall::Builtin {
                set,
                arguments,
                types,
                result,
                collation,
                ..
            } => {
                let arguments = self.eval_all(arguments, scope)?;
                if set.strict && arguments.iter().any(Value::is_null) {
                    return Ok(Vec::new());
                }
                (set.eval)(&Call {
                    args: &arguments,
                    arg_types: types,
                    result: *result,
                    collation: *collation,
                    types: self.world.types,
                    session: self.world.session,
                })
            }
            SetCall::Routine {
                routine, arguments, ..
            } => {
                let arguments = self.eval_all(arguments, scope)?;
                self.routine_rows(*routine, arguments)
            }
            SetCall::Scalar(expr) => Ok(vec![Box::from([self.eval(expr, scope)?])]),
        }
    }
}

/// Tables that found no match are NULL.
fn clear(source: &Source, rows: &mut Rows) {
    match source {
        Source::Table(TableSource { item, .. })
        | Source::Query { item, .. }
        | Source::With { item, .. }
        | Source::Set { item, .. } => {
            if let Some(entry) = rows.get_mut(*item) {
                *entry = None;
            }
        }
        Source::Join { left, right, .. } => {
            clear(left, rows);
            clear(right, rows);
        }
    }
}
