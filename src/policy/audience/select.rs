//! Queries: from rows that are known to the rows that they point to, and on until something is compared with claims.

use std::collections::BTreeSet;

use super::derive::{Around, Derivation, Wanted, further_in, put};
use super::{Form, Rows, Step};
use crate::policy::compile::equated;
use crate::policy::ir::{Body, Expr, Join, Node, Query, Select, SetCall, Source, TableSource};

impl Derivation<'_> {
    /// For whom the query may have a row that is `wanted`.
    pub(super) fn query(&mut self, query: &Query, wanted: &Wanted, around: &Around) -> Form {
        if !query.with.is_empty() {
            return Form::Everybody;
        }
        let further = || match wanted {
            None => Some(None),
            Some(wanted) => {
                let mut wanted = wanted.clone();
                keep_slots(&mut wanted).then_some(Some(wanted))
            }
        };
        match &query.body {
            Body::Select(select) => self.select(select, wanted, around),
            Body::Union(left, right, _) => {
                let (Some(wanted), inner) = (further(), inner(around, 0)) else {
                    return Form::Everybody;
                };
                let forms = vec![
                    self.query(left, &wanted, &inner),
                    self.query(right, &wanted, &inner),
                ];
                nested(Form::union(forms))
            }
            Body::Intersect(left, _) | Body::Except(left, _) => {
                let (Some(wanted), inner) = (further(), inner(around, 0)) else {
                    return Form::Everybody;
                };
                nested(self.query(left, &wanted, &inner))
            }
            Body::Values(rows) => {
                let Some(wanted) = wanted else {
                    return Form::Everybody;
                };
                let inner = inner(around, 0);
                let forms = rows.iter().map(|row| {
                    let mut wanted = wanted.clone();
                    put(&mut wanted, row);
                    self.form(&wanted, &inner)
                });
                nested(Form::union(forms.collect()))
            }
        }
    }

    fn select(&mut self, select: &Select, wanted: &Wanted, around: &Around) -> Form {
        let inside = inner(around, select.items);
        if let Some(grouping) = &select.grouping {
            // Without keys there is a row even over none.
            if grouping.keys.is_empty() {
                return Form::Everybody;
            }
        }
        // `select f()`: the rows of a function of the user's.
        if let ([], [SetCall::Routine { routine, arguments }], Some(wanted)) =
            (select.from.as_slice(), select.sets.as_slice(), wanted)
            && let [target] = select.targets.as_slice()
            && matches!(target.node, Node::Slot(0))
        {
            return nested(self.routine(*routine, arguments, Some(wanted.clone()), &inside));
        }
        let mut conditions: Vec<Expr> = select.filter.clone();
        let mut tables = Vec::new();
        for source in &select.from {
            gather(source, &mut tables, &mut conditions);
        }
        if let Some(wanted) = wanted {
            let mut wanted = wanted.clone();
            put(&mut wanted, &select.targets);
            match wanted.node {
                Node::And(parts) => conditions.extend(parts),
                _ => conditions.push(wanted),
            }
        }
        self.walk(&tables, &conditions, inside, select.items)
    }

    /// Goes from table to table until the conditions lead to claims.
    fn walk(
        &mut self,
        tables: &[&TableSource],
        conditions: &[Expr],
        mut inside: Around,
        items: usize,
    ) -> Form {
        let mut steps: Vec<Step> = Vec::new();
        loop {
            let mut forms: Vec<Form> = conditions
                .iter()
                .map(|condition| self.form(condition, &inside))
                .collect();
            for table in tables {
                if steps.iter().any(|step| step.item == table.item)
                    && let Some(policy) = &table.policy
                {
                    forms.push(self.policy(table.item, policy));
                }
            }
            let inner = Form::intersection(forms);
            let left: Vec<&&TableSource> = tables
                .iter()
                .filter(|table| steps.iter().all(|step| step.item != table.item))
                .collect();
            if inner.is_finite() || left.is_empty() {
                return match inner {
                    Form::Everybody => Form::Everybody,
                    Form::Nobody => Form::Nobody,
                    inner => Form::Rows(Box::new(Rows {
                        items,
                        steps,
                        inner,
                    })),
                };
            }
            let found = left
                .iter()
                .map(|table| (self.keys(table, conditions, &inside), **table))
                .max_by_key(|(keys, _)| keys.len());
            let Some((keys, table)) = found else {
                return Form::Everybody;
            };
            // Only from the start: with rows of other tables at hand it would be gone through for each of them.
            if keys.is_empty() && !steps.is_empty() {
                return Form::Everybody;
            }
            if let Some(entry) = inside
                .levels
                .last_mut()
                .and_then(|level| level.get_mut(table.item))
            {
                *entry = true;
            }
            let columns: BTreeSet<usize> = keys.iter().map(|(column, _)| *column).collect();
            let known = self.schema.tables.get(&table.table);
            let names = columns.iter().filter_map(|column| {
                let column = known?.columns.get(*column)?;
                Some(&*column.name)
            });
            let names: Vec<&str> = names.collect();
            let name = known.map_or("", |known| &known.name);
            let name = if names.is_empty() {
                name.to_owned()
            } else {
                format!("{name}({})", names.join(", "))
            };
            if !columns.is_empty() {
                self.lookups
                    .insert((table.table, columns.into_iter().collect()));
            }
            steps.push(Step {
                item: table.item,
                table: table.table,
                keys,
                name: name.into(),
            });
        }
    }

    fn policy(&mut self, item: usize, policy: &Expr) -> Form {
        let own = Around {
            levels: vec![vec![true]],
            variables: Vec::new(),
        };
        match self.form(policy, &own) {
            Form::Everybody => Form::Everybody,
            Form::Nobody => Form::Nobody,
            inner => Form::Policy {
                item,
                inner: Box::new(inner),
            },
        }
    }

    /// Columns of the table that must equal what is known.
    fn keys(
        &mut self,
        table: &TableSource,
        conditions: &[Expr],
        inside: &Around,
    ) -> Vec<(usize, Expr)> {
        let mut keys: Vec<(usize, Expr)> = Vec::new();
        for condition in conditions {
            for (item, column, other) in equated(self.schema, condition) {
                if item == table.item
                    && keys.iter().all(|(known, _)| *known != column)
                    && self.is_known(other, inside)
                {
                    keys.push((column, other.clone()));
                }
            }
        }
        keys
    }
}

/// A query without steps, around a form that stands one query further in.
fn nested(inner: Form) -> Form {
    match inner {
        Form::Everybody => Form::Everybody,
        Form::Nobody => Form::Nobody,
        inner => Form::Rows(Box::new(Rows {
            items: 0,
            steps: Vec::new(),
            inner,
        })),
    }
}

/// One query further in.
fn inner(around: &Around, items: usize) -> Around {
    let mut inner = around.clone();
    inner.levels.push(vec![false; items]);
    inner
}

/// [`further_in`] for a condition over the targets of a query.
fn keep_slots(expr: &mut Expr) -> bool {
    match expr.node {
        Node::Slot(_) => true,
        _ if has_slots(expr) => {
            expr.subquery().is_none() && expr.children_mut().into_iter().all(keep_slots)
        }
        _ => further_in(expr),
    }
}

fn has_slots(expr: &Expr) -> bool {
    expr.any(&mut |expr, depth| depth == 0 && matches!(expr.node, Node::Slot(_)))
}

/// The tables of inner joins, with their conditions. What else stands in FROM has no rows that are known.
fn gather<'s>(source: &'s Source, tables: &mut Vec<&'s TableSource>, conditions: &mut Vec<Expr>) {
    match source {
        Source::Table(table) => tables.push(table),
        Source::Join {
            kind: Join::Inner,
            left,
            right,
            on,
        } => {
            conditions.extend(on.iter().cloned());
            gather(left, tables, conditions);
            gather(right, tables, conditions);
        }
        Source::Join {
            kind: Join::Left,
            left,
            ..
        } => gather(left, tables, conditions),
        Source::Query { .. } | Source::With { .. } | Source::Set { .. } => {}
    }
}
