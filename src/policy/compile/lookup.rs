//! How tables are looked into: by which columns, and what is evaluated first.

use std::collections::BTreeSet;

use super::ahead::Risk;
use super::{Compiler, risk};
use crate::policy::ir::{Body, Expr, Join, Node, Probe, Query, Source, TableSource};
use crate::policy::schema::{Function, Schema};
use crate::policy::value::{Oid, oid};

impl Compiler<'_> {
    /// As the planner does: what costs least is evaluated first.
    pub(super) fn order_by_cost(&self, conditions: &mut [Expr]) {
        conditions.sort_by(|a, b| self.cost(a).total_cmp(&self.cost(b)));
    }

    pub(super) fn cost(&self, expr: &Expr) -> f64 {
        let of = |function: Oid| {
            self.schema
                .functions
                .get(&function)
                .map_or(1.0, |found| f64::from(found.cost))
        };
        let mut cost = 0.0;
        expr.visit(0, &mut |expr, depth| {
            if depth > 0 {
                return;
            }
            cost += match &expr.node {
                Node::Call(call) | Node::Distinct(call, _) | Node::NullIf(call) => {
                    of(call.function)
                }
                Node::Routine { routine, .. } => self.cost_of_routine(*routine),
                Node::TextForm(_) => 2.0,
                Node::AnyArray { right, .. } => match &right.node {
                    #[expect(
                        clippy::cast_precision_loss,
                        clippy::as_conversions,
                        reason = "an estimate"
                    )]
                    Node::Array(items) => 0.5 * items.len() as f64,
                    _ => 5.0,
                },
                Node::Exists(_) | Node::Scalar(_) | Node::ArrayQuery(_) | Node::AnyQuery { .. } => {
                    10_000.0
                }
                _ => 0.0,
            };
        });
        cost
    }

    fn cost_of_routine(&self, routine: usize) -> f64 {
        match self.routine_function(routine) {
            // Postgres may put its body in place of the call: whatever that costs.
            Some(found) if may_be_inlined(&found) && found.strict => 1.0,
            Some(found) => f64::from(found.cost),
            None => 1.0,
        }
    }
}

/// Whether Postgres may put the body of a function in place of a call: one in SQL that runs as whoever calls it, with
/// nothing set.
pub(super) fn may_be_inlined(function: &Function) -> bool {
    &*function.language == "sql" && !function.definer && function.config.is_empty()
}

impl Compiler<'_> {
    /// What of `left = any (query)` can be looked up. The answer must be the same as over all rows: no NULL among what is
    /// selected, and nothing that could raise on a row that is left out.
    pub(super) fn probes(&mut self, left: &[Expr], tests: &[Expr], query: &Query) -> Vec<Probe> {
        let plain = query.with.is_empty() && query.limit.is_none() && query.offset.is_none();
        let Body::Select(select) = &query.body else {
            return Vec::new();
        };
        let may_raise = |condition: &Expr| risk::may_raise(self.library(), condition);
        if !plain
            || !left.iter().all(is_plain)
            || select.grouping.is_some()
            || !select.sets.is_empty()
            || select.distinct_on > 0
            || select.exhaustive
            || select.filter.iter().any(may_raise)
        {
            return Vec::new();
        }
        let mut tables = Vec::new();
        if !select.from.iter().all(|source| inner(source, &mut tables)) {
            return Vec::new();
        }
        let mut probes = Vec::new();
        for (index, test) in tests.iter().enumerate() {
            let Some(target) = select.targets.get(index) else {
                return Vec::new();
            };
            let Some((item, column)) = self.selected(target, &tables) else {
                return Vec::new();
            };
            if self.is_equality(test, target) {
                probes.push(Probe {
                    left: index,
                    item,
                    column,
                });
            }
        }
        probes.retain(|probe| {
            tables.iter().any(|table| {
                table.item == probe.item
                    && !table.is_risky
                    && table.keys.iter().all(|(column, _)| *column != probe.column)
            })
        });
        for table in tables {
            let mut columns: BTreeSet<usize> =
                table.keys.iter().map(|(column, _)| *column).collect();
            let known = columns.len();
            let own = probes.iter().filter(|probe| probe.item == table.item);
            columns.extend(own.map(|probe| probe.column));
            if columns.len() > known {
                let lookup = (table.table, columns.into_iter().collect());
                self.reads.lookups.insert(lookup);
            }
        }
        probes
    }

    /// The column that is selected, if it is one of these tables' and never NULL.
    fn selected(&self, target: &Expr, tables: &[&TableSource]) -> Option<(usize, usize)> {
        let Node::Column {
            level: 0,
            item,
            column,
        } = unrelabelled(target).node
        else {
            return None;
        };
        let table = tables.iter().find(|table| table.item == item)?;
        let columns = &self.schema.tables.get(&table.table)?.columns;
        columns
            .get(column)
            .filter(|column| column.not_null)
            .map(|_| (item, column))
    }

    /// Whether the test is by the default equality of the type.
    fn is_equality(&self, test: &Expr, target: &Expr) -> bool {
        let Node::Call(call) = &test.node else {
            return false;
        };
        let base = self.schema.types.base(target.type_oid);
        let of_slot = |argument: &Expr| matches!(unrelabelled(argument).node, Node::Slot(_));
        self.schema.equality.get(&base) == Some(&call.function)
            && call.arguments.iter().all(of_slot)
            && call
                .arguments
                .iter()
                .all(|argument| self.schema.types.base(argument.type_oid) == base)
    }
}

/// Below a change of the type's name from `varchar` to `text`.
fn unrelabelled(expr: &Expr) -> &Expr {
    match &expr.node {
        Node::Relabel(inner) if inner.type_oid == oid::VARCHAR && expr.type_oid == oid::TEXT => {
            inner
        }
        _ => expr,
    }
}

/// A value that is there without being computed.
fn is_plain(value: &Expr) -> bool {
    matches!(
        unrelabelled(value).node,
        Node::Column { .. } | Node::Parameter(_)
    )
}

/// The tables of inner joins; false if there is anything else.
fn inner<'a>(source: &'a Source, tables: &mut Vec<&'a TableSource>) -> bool {
    match source {
        Source::Table(table) => {
            tables.push(table);
            true
        }
        Source::Join {
            kind: Join::Inner,
            left,
            right,
            ..
        } => inner(left, tables) && inner(right, tables),
        Source::Join { .. } | Source::Query { .. } | Source::With { .. } | Source::Set { .. } => {
            false
        }
    }
}

/// Finds the columns of each table that are compared with what is known before it is read. `all`: every condition of the
/// query, those of joins too; `risks`: what of them may raise.
pub(super) fn assign_keys(
    compiler: &mut Compiler<'_>,
    source: &mut Source,
    conditions: &[Expr],
    all: &[Expr],
    risks: &[Risk],
) {
    match source {
        Source::Table(table) => {
            let least = assess(compiler, table, all, risks);
            for condition in conditions {
                if let Some((column, value)) = key_of(compiler, table.item, condition)
                    && !table.keys.iter().any(|(known, _)| *known == column)
                    && least.is_none_or(|least| {
                        risk::is_from_outside(&value) && compiler.cost(condition) < least
                    })
                {
                    table.keys.push((column, value));
                }
            }
            if !table.keys.is_empty() {
                let columns: BTreeSet<usize> =
                    table.keys.iter().map(|(column, _)| *column).collect();
                compiler
                    .reads
                    .lookups
                    .insert((table.table, columns.into_iter().collect()));
            }
        }
        Source::Join {
            kind: Join::Inner,
            left,
            right,
            on,
        } => {
            let inner: Vec<Expr> = conditions.iter().chain(&*on).cloned().collect();
            assign_keys(compiler, left, &inner, all, risks);
            assign_keys(compiler, right, &inner, all, risks);
        }
        Source::Join {
            kind: Join::Left,
            left,
            right,
            on,
        } => {
            assign_keys(compiler, left, conditions, all, risks);
            assign_keys(compiler, right, on, all, risks);
        }
        Source::Query { .. } | Source::With { .. } | Source::Set { .. } => {}
    }
}

/// What of a table's rows may raise. Gives what a comparison must cost less than to be made before; `None`: nothing
/// raises.
fn assess(
    compiler: &Compiler<'_>,
    table: &mut TableSource,
    all: &[Expr],
    risks: &[Risk],
) -> Option<f64> {
    let library = compiler.library();
    let own = |condition: &&Expr| risk::concerns(condition, table.item);
    table.reserved.of_conditions = all
        .iter()
        .filter(own)
        .map(|condition| (condition.clone(), risk::reserved(library, condition)))
        .filter(|(_, parts)| !parts.is_empty())
        .collect();
    let own = risks.iter().filter(|risk| risk.item == table.item);
    table.risky = own.clone().map(|risk| risk.expr.clone()).collect();
    let policy = table.policy.as_deref();
    let of_policy = policy.filter(|policy| risk::may_raise(library, policy));
    let costs = own.map(|risk| risk.before).chain(of_policy.map(|_| 0.0));
    let least = costs.min_by(f64::total_cmp);
    table.is_risky = least.is_some();
    least
}

/// `column = value` with the default equality of the column's type, where the value needs no later table.
pub(super) fn key_of(
    compiler: &Compiler<'_>,
    item: usize,
    condition: &Expr,
) -> Option<(usize, Expr)> {
    for (found, column, other) in equated(compiler.schema, condition) {
        let known = !other.any(&mut |expr, depth| match expr.node {
            Node::Column {
                level, item: place, ..
            }
            | Node::WholeRow { level, item: place } => level == depth && place >= item,
            _ => false,
        });
        let light = !other.any(&mut |expr, _| expr.subquery().is_some());
        if found == item && known && light {
            return Some((column, other.clone()));
        }
    }
    None
}

/// What a condition says to be equal, by the default equality of the type, to columns of the query's own tables: item, column
/// and the other side.
pub(in crate::policy) fn equated<'e>(
    schema: &'e Schema,
    condition: &'e Expr,
) -> impl Iterator<Item = (usize, usize, &'e Expr)> {
    let call = match &condition.node {
        Node::Call(call) => Some(call),
        _ => None,
    };
    let sides = call.and_then(|call| match call.arguments.as_slice() {
        [left, right] => Some((call, [(left, right), (right, left)])),
        _ => None,
    });
    sides.into_iter().flat_map(move |(call, sides)| {
        sides.into_iter().filter_map(move |(side, other)| {
            let plain = match &side.node {
                Node::Relabel(inner)
                    if inner.type_oid == oid::VARCHAR && side.type_oid == oid::TEXT =>
                {
                    inner
                }
                _ => side,
            };
            let Node::Column {
                level: 0,
                item,
                column,
            } = plain.node
            else {
                return None;
            };
            let base = schema.types.base(side.type_oid);
            let is_equality = schema.equality.get(&base) == Some(&call.function)
                && schema.types.base(other.type_oid) == base;
            is_equality.then_some((item, column, other))
        })
    })
}
