//! GROUP BY and aggregates.

use std::cell::Cell;
use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;

use super::{Flow, Machine, Scope, Visit, may_not_be_met};
use crate::policy::builtin::{Call, Row};
use crate::policy::ir::{AggregateCall, Expr, Grouping, Select};
use crate::policy::value::{Oid, SqlError, Value};

impl Machine<'_> {
    pub(super) fn grouped(
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
        let is_one = groups.len() == 1;
        let mut rows = Vec::new();
        for group in groups {
            let mut aggregates = Vec::new();
            for (aggregate, inputs) in grouping.aggregates.iter().zip(group.inputs) {
                aggregates.push(self.aggregate(aggregate, inputs)?);
            }
            let scope = Scope {
                group: Some((&group.keys, &aggregates)),
                ..*scope
            };
            let row = self.row_of_group(grouping.having.as_ref(), &select.targets, &scope);
            // Postgres takes groups in an order of its own, and may stop at one.
            match row {
                Ok(row) => rows.extend(row),
                Err(error) if is_one => return Err(error),
                Err(error) => return Err(may_not_be_met(error)),
            }
        }
        for row in rows {
            if visit(&row)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn row_of_group(
        &self,
        having: Option<&Expr>,
        targets: &[Expr],
        scope: &Scope<'_>,
    ) -> Result<Option<Vec<Value>>, SqlError> {
        match having {
            Some(having) if !self.holds(having, scope)? => Ok(None),
            _ => self.eval_all(targets, scope).map(Some),
        }
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
    ) -> Result<Value, SqlError> {
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
}
