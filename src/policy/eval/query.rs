//! Queries to rows.

use std::cell::{Cell, RefCell};
use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;
use std::rc::Rc;
use std::sync::Arc;

use super::{Machine, Scope, Tuple};
use crate::policy::builtin::{Call, Row};
use crate::policy::ir::{
    AggregateCall, Body, Expr, Grouping, Join, Query, Select, SetCall, SortKey, Source,
    TableSource, With,
};
use crate::policy::value::{Array, Oid, SqlError, Value, canonical, compare};

type Flow = Result<ControlFlow<()>, SqlError>;
type Visit<'v> = &'v mut dyn FnMut(&[Value]) -> Flow;
type Rows = Vec<Option<Tuple>>;

/// The WITH queries of a query, evaluated when first read.
pub(super) struct Withs<'s> {
    list: &'s [With],
    done: RefCell<HashMap<usize, Rc<Vec<Row>>>>,
}

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
        let _flow = self.body(query, &scope, &mut |row| {
            rows.push(row.into());
            Ok(ControlFlow::Continue(()))
        })?;
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

    /// Raises if rows on both sides of an edge could change places.
    fn determined(
        &self,
        query: &Query,
        rows: &[Row],
        edge: usize,
        scope: &Scope<'_>,
    ) -> Result<(), SqlError> {
        let (Some(before), Some(after)) = (
            edge.checked_sub(1).and_then(|place| rows.get(place)),
            rows.get(edge),
        ) else {
            return Ok(());
        };
        if self.order(&query.order_by, before, after, scope)? != Ordering::Equal {
            return Ok(());
        }
        for row in rows {
            let tied = self.order(&query.order_by, row, before, scope)? == Ordering::Equal;
            if tied && row.get(..query.width) != before.get(..query.width) {
                return Err(SqlError::undecided("which of several rows comes first"));
            }
        }
        Ok(())
    }

    fn distinct_on(
        &self,
        query: &Query,
        keys: usize,
        rows: Vec<Row>,
        scope: &Scope<'_>,
    ) -> Result<Vec<Row>, SqlError> {
        let leading = query.order_by.get(..keys).unwrap_or_default();
        let mut kept: Vec<Row> = Vec::new();
        for row in rows {
            let Some(last) = kept.last() else {
                kept.push(row);
                continue;
            };
            if self.order(leading, last, &row, scope)? != Ordering::Equal {
                kept.push(row);
            } else if self.order(&query.order_by, last, &row, scope)? == Ordering::Equal
                && last.get(..query.width) != row.get(..query.width)
            {
                return Err(SqlError::undecided("which of several rows comes first"));
            }
        }
        Ok(kept)
    }

    /// Sort keys read the row as the only table of their query.
    fn order(
        &self,
        keys: &[SortKey],
        a: &[Value],
        b: &[Value],
        scope: &Scope<'_>,
    ) -> Result<Ordering, SqlError> {
        let value = |key: &SortKey, row: &[Value]| {
            let rows = [Some(Tuple::from(row))];
            self.eval(&key.value, &scope.inner(&rows))
        };
        for key in keys {
            let order = match (value(key, a)?, value(key, b)?) {
                (Value::Null, Value::Null) => Ordering::Equal,
                (Value::Null, _) => {
                    if key.nulls_first {
                        Ordering::Less
                    } else {
                        Ordering::Greater
                    }
                }
                (_, Value::Null) => {
                    if key.nulls_first {
                        Ordering::Greater
                    } else {
                        Ordering::Less
                    }
                }
                (a, b) => {
                    let order = compare(self.world.types, key.value.type_oid, &a, &b)?;
                    if order != Ordering::Equal && !key.bytewise {
                        return Err(SqlError::undecided("the order of texts under a locale"));
                    }
                    if key.descending {
                        order.reverse()
                    } else {
                        order
                    }
                }
            };
            if order != Ordering::Equal {
                return Ok(order);
            }
        }
        Ok(Ordering::Equal)
    }

    fn sort(&self, keys: &[SortKey], rows: &mut [Row], scope: &Scope<'_>) -> Result<(), SqlError> {
        let failure = Cell::new(None);
        rows.sort_by(|a, b| {
            self.order(keys, a, b, scope).unwrap_or_else(|error| {
                failure.set(Some(error));
                Ordering::Equal
            })
        });
        failure.take().map_or(Ok(()), Err)
    }

    fn canonical_row(&self, types: &[Oid], row: &[Value]) -> Result<Row, SqlError> {
        row.iter()
            .zip(types)
            .map(|(value, type_oid)| canonical(self.world.types, *type_oid, value))
            .collect()
    }

    fn rows_of(&self, query: &Query, scope: &Scope<'_>) -> Result<Vec<Row>, SqlError> {
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
                let mut seen: HashSet<Row> = HashSet::new();
                let mut stopped = ControlFlow::Continue(());
                for side in [left, right] {
                    if stopped.is_break() {
                        break;
                    }
                    self.run(side, scope, &mut |row| {
                        if *all || seen.insert(self.canonical_row(&query.types, row)?) {
                            stopped = visit(row)?;
                        }
                        Ok(stopped)
                    })?;
                }
                Ok(stopped)
            }
            Body::Intersect(left, right) | Body::Except(left, right) => {
                let wanted = matches!(query.body, Body::Intersect(..));
                let mut others: HashSet<Row> = HashSet::new();
                for row in self.rows_of(right, scope)? {
                    others.insert(self.canonical_row(&query.types, &row)?);
                }
                let mut seen: HashSet<Row> = HashSet::new();
                for row in self.rows_of(left, scope)? {
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
        self.sources(&select.from, &mut rows, scope, &mut |rows| {
            let scope = Scope { rows, ..*scope };
            if self.all_hold(filter, &scope)? {
                visit(&scope)
            } else {
                Ok(ControlFlow::Continue(()))
            }
        })
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
                sets.push(self.set(set, scope)?);
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

    fn grouped(
        &self,
        select: &Select,
        grouping: &Grouping,
        scope: &Scope<'_>,
        visit: Visit<'_>,
    ) -> Flow {
        struct Group {
            keys: Vec<Value>,
            inputs: Vec<Vec<(Row, Row)>>,
        }
        let mut places: HashMap<Row, usize> = HashMap::new();
        let mut groups: Vec<Group> = Vec::new();
        let types: Vec<Oid> = grouping.keys.iter().map(|key| key.type_oid).collect();
        let _flow = self.each(select, scope, &mut |scope| {
            let keys = self.eval_all(&grouping.keys, scope)?;
            let place = *places
                .entry(self.canonical_row(&types, &keys)?)
                .or_insert_with(|| {
                    groups.push(Group {
                        keys,
                        inputs: vec![Vec::new(); grouping.aggregates.len()],
                    });
                    groups.len().saturating_sub(1)
                });
            let Some(group) = groups.get_mut(place) else {
                return Err(SqlError::internal("a group that is missing"));
            };
            for (aggregate, inputs) in grouping.aggregates.iter().zip(&mut group.inputs) {
                self.take_in(aggregate, inputs, scope)?;
            }
            Ok(ControlFlow::Continue(()))
        })?;
        if groups.is_empty() && grouping.keys.is_empty() {
            groups.push(Group {
                keys: Vec::new(),
                inputs: vec![Vec::new(); grouping.aggregates.len()],
            });
        }
        for group in groups {
            let mut aggregates = Vec::new();
            for (aggregate, inputs) in grouping.aggregates.iter().zip(group.inputs) {
                aggregates.push(self.aggregate(aggregate, inputs, scope)?);
            }
            let scope = Scope {
                group: Some((&group.keys, &aggregates)),
                ..*scope
            };
            if let Some(having) = &grouping.having
                && !self.holds(having, &scope)?
            {
                continue;
            }
            if visit(&self.eval_all(&select.targets, &scope)?)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn take_in(
        &self,
        aggregate: &AggregateCall,
        inputs: &mut Vec<(Row, Row)>,
        scope: &Scope<'_>,
    ) -> Result<(), SqlError> {
        if let Some(filter) = &aggregate.filter
            && !self.holds(filter, scope)?
        {
            return Ok(());
        }
        let values = self.eval_all(&aggregate.arguments, scope)?;
        if aggregate.aggregate.strict && values.iter().any(Value::is_null) {
            return Ok(());
        }
        let mut keys = Vec::new();
        for key in &aggregate.order_by {
            keys.push(self.eval(&key.value, scope)?);
        }
        inputs.push((values.into(), keys.into()));
        Ok(())
    }

    fn aggregate(
        &self,
        aggregate: &AggregateCall,
        mut inputs: Vec<(Row, Row)>,
        scope: &Scope<'_>,
    ) -> Result<Value, SqlError> {
        let _ = scope;
        if aggregate.distinct {
            let mut seen: HashSet<Row> = HashSet::new();
            let mut kept = Vec::new();
            for input in inputs {
                if seen.insert(self.canonical_row(&aggregate.types, &input.0)?) {
                    kept.push(input);
                }
            }
            inputs = kept;
        }
        if !aggregate.order_by.is_empty() {
            let failure = Cell::new(None);
            let mut tie = false;
            inputs.sort_by(|a, b| {
                let order = self
                    .key_order(&aggregate.order_by, &a.1, &b.1)
                    .unwrap_or_else(|error| {
                        failure.set(Some(error));
                        Ordering::Equal
                    });
                tie |= order == Ordering::Equal && a.0 != b.0;
                order
            });
            if let Some(error) = failure.take() {
                return Err(error);
            }
            if tie {
                return Err(SqlError::undecided("which of several rows comes first"));
            }
        }
        let rows: Vec<Row> = inputs.into_iter().map(|(values, _)| values).collect();
        let call = Call {
            args: &[],
            arg_types: &aggregate.types,
            result: aggregate.result,
            collation: aggregate.collation,
            types: self.world.types,
            session: self.world.session,
        };
        (aggregate.aggregate.eval)(&call, &rows)
    }

    fn key_order(&self, keys: &[SortKey], a: &[Value], b: &[Value]) -> Result<Ordering, SqlError> {
        for ((key, a), b) in keys.iter().zip(a).zip(b) {
            let order = match (a, b) {
                (Value::Null, Value::Null) => Ordering::Equal,
                (Value::Null, _) => {
                    if key.nulls_first {
                        Ordering::Less
                    } else {
                        Ordering::Greater
                    }
                }
                (_, Value::Null) => {
                    if key.nulls_first {
                        Ordering::Greater
                    } else {
                        Ordering::Less
                    }
                }
                (a, b) => {
                    let order = compare(self.world.types, key.value.type_oid, a, b)?;
                    if order != Ordering::Equal && !key.bytewise {
                        return Err(SqlError::undecided("the order of texts under a locale"));
                    }
                    if key.descending {
                        order.reverse()
                    } else {
                        order
                    }
                }
            };
            if order != Ordering::Equal {
                return Ok(order);
            }
        }
        Ok(Ordering::Equal)
    }

    /// Nests the tables of FROM, left to right.
    fn sources(
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
                let found = self.rows_of(query, &Scope { rows, ..*scope })?;
                for row in found {
                    if place(rows, *item, row.into())?.is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                }
                Ok(ControlFlow::Continue(()))
            }
            Source::With { item, index, .. } => {
                let found = self.with(*index, scope)?;
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
                let found = self.set(call, &Scope { rows, ..*scope })?;
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
                    if !self.all_hold(on, &Scope { rows, ..*scope })? {
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
        let mut keys = Vec::with_capacity(table.keys.len());
        for (column, value) in &table.keys {
            match self.eval(value, &Scope { rows, ..*scope })? {
                // Nothing equals NULL.
                Value::Null => return Ok(ControlFlow::Continue(())),
                value => keys.push((*column, value)),
            }
        }
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

    /// Whether what a row might come to has a value.
    fn is_reserved_fine(&self, table: &TableSource, rows: &Rows, scope: &Scope<'_>) -> bool {
        let of_conditions = table.reserved.of_conditions.iter();
        let mut of_conditions = of_conditions.flat_map(|(_, parts)| parts);
        let mut of_policy = table.reserved.of_policy.iter();
        of_policy.all(|part| self.eval(part, &Scope::root(&[])).is_ok())
            && of_conditions.all(|part| self.eval(part, &Scope { rows, ..*scope }).is_ok())
    }

    /// Looks at all rows, because some may raise: then Postgres must be asked whether it meets one of those.
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
        self.world.tables.scan(table.table, &[], &mut |tuple| {
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
            if !self.holds(
                policy,
                &Scope {
                    rows: &own,
                    ..Scope::root(&[])
                },
            )? {
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

    fn with(&self, index: usize, scope: &Scope<'_>) -> Result<Rc<Vec<Row>>, SqlError> {
        let mut around = Some(scope);
        while let Some(found) = around {
            let holder = found.withs.filter(|withs| {
                withs.done.borrow().contains_key(&index)
                    || withs.list.iter().any(|with| with.index == index)
            });
            if let Some(withs) = holder {
                if let Some(rows) = withs.done.borrow().get(&index) {
                    return Ok(Rc::clone(rows));
                }
                let Some(with) = withs.list.iter().find(|with| with.index == index) else {
                    return Err(SqlError::internal("a WITH query that is missing"));
                };
                let rows = Rc::new(self.with_rows(with, withs, found)?);
                withs.done.borrow_mut().insert(index, Rc::clone(&rows));
                return Ok(rows);
            }
            around = found.outer;
        }
        Err(SqlError::internal("a WITH query that is missing"))
    }

    fn with_rows(
        &self,
        with: &With,
        withs: &Withs<'_>,
        scope: &Scope<'_>,
    ) -> Result<Vec<Row>, SqlError> {
        let mut all = self.rows_of(&with.query, scope)?;
        let Some((step, keep)) = &with.recursive else {
            return Ok(all);
        };
        let mut seen: HashSet<Row> = HashSet::new();
        let types = &with.query.types;
        let mut fresh = |rows: Vec<Row>| -> Result<Vec<Row>, SqlError> {
            let mut kept = Vec::new();
            for row in rows {
                if *keep || seen.insert(self.canonical_row(types, &row)?) {
                    kept.push(row);
                }
            }
            Ok(kept)
        };
        all = fresh(all)?;
        let mut working = all.clone();
        while !working.is_empty() {
            self.step()?;
            withs.done.borrow_mut().insert(with.index, Rc::new(working));
            let rows = self.rows_of(step, scope);
            withs.done.borrow_mut().remove(&with.index);
            working = fresh(rows?)?;
            all.extend(working.iter().cloned());
        }
        Ok(all)
    }

    /// The rows of a set-returning function.
    fn set(&self, call: &SetCall, scope: &Scope<'_>) -> Result<Vec<Row>, SqlError> {
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
fn may_not_be_met(error: SqlError) -> SqlError {
    if error.is_undecided() {
        return error;
    }
    SqlError::undecided(&format!(
        "whether Postgres comes to raise {}",
        error.sqlstate
    ))
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
