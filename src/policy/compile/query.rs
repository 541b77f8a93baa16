//! Syntax of queries to plans.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::ahead::{conditions_of_joins, take_gates};
use super::from::column;
use super::lookup::{assign_keys, key_of};
use super::overload::Context;
use super::scope::{Level, WithName};
use super::{Compiler, Stop, both, risk};
use crate::policy::builtin::Collation;
use crate::policy::ir::{Body, Expr, Grouping, Node, Query, Select, SortKey, Source, With};
use crate::policy::schema::Column;
use crate::policy::syntax::tree::{
    Ast, Body as BodyAst, Cte, Query as QueryAst, Select as SelectAst, SetOperator, Sort, Target,
};
use crate::policy::value::{Oid, oid};

impl Compiler<'_> {
    /// Compiles a query whose level is the innermost one.
    pub(super) fn query(&mut self, ast: &QueryAst) -> Result<Query, Stop> {
        let known = self.frame.withs.len();
        let mut with = Vec::new();
        for cte in &ast.with {
            let compiled = self.with(cte, ast.recursive);
            match compiled {
                Ok(compiled) => with.push(compiled),
                Err(stop) => {
                    self.frame.withs.truncate(known);
                    return Err(stop);
                }
            }
        }
        let compiled = self.query_body(ast);
        self.frame.withs.truncate(known);
        let mut query = compiled?;
        query.with = with;
        let mut bound = |bound: &Option<Ast>| -> Result<Option<Expr>, Stop> {
            let Some(bound) = bound else {
                return Ok(None);
            };
            let bound = self.expression(bound)?;
            Ok(Some(self.coerce(
                bound,
                oid::INT8,
                -1,
                Context::Assignment,
            )?))
        };
        query.limit = bound(&ast.limit)?;
        query.offset = bound(&ast.offset)?;
        Ok(query)
    }

    fn query_body(&mut self, ast: &QueryAst) -> Result<Query, Stop> {
        match &ast.body {
            BodyAst::Select(select) => self.select(select, &ast.order_by),
            BodyAst::Values(rows) => {
                let mut columns: Vec<Vec<Expr>> = Vec::new();
                for row in rows {
                    for (index, value) in row.iter().enumerate() {
                        let value = self.expression(value)?;
                        match columns.get_mut(index) {
                            Some(column) => column.push(value),
                            None => columns.push(vec![value]),
                        }
                    }
                }
                if columns.iter().any(|column| column.len() != rows.len())
                    || !ast.order_by.is_empty()
                {
                    return Stop::refuse("VALUES");
                }
                let mut types = Vec::new();
                let mut by_row: Vec<Vec<Expr>> = vec![Vec::new(); rows.len()];
                for column in columns {
                    let (column, common) = self.unify(column, "VALUES")?;
                    types.push(common);
                    for (row, value) in by_row.iter_mut().zip(column) {
                        row.push(value);
                    }
                }
                let names = (1..=types.len())
                    .map(|number| format!("column{number}").into())
                    .collect();
                Ok(Query::of(Body::Values(by_row), types, names))
            }
            BodyAst::Set(operator, all, left, right) => {
                self.set_operation(*operator, *all, left, right, &ast.order_by)
            }
        }
    }

    fn set_operation(
        &mut self,
        operator: SetOperator,
        all: bool,
        left: &QueryAst,
        right: &QueryAst,
        order_by: &[Sort],
    ) -> Result<Query, Stop> {
        let (mut left, mut right) = (self.subquery(left)?, self.subquery(right)?);
        let types = self.unify_queries(&mut left, &mut right)?;
        if !all || operator != SetOperator::Union {
            self.distinguishable(&types)?;
        }
        let names = left.names.clone();
        let (left, right) = (Arc::new(left), Arc::new(right));
        let body = match (operator, all) {
            (SetOperator::Union, all) => Body::Union(left, right, all),
            (SetOperator::Intersect, false) => Body::Intersect(left, right),
            (SetOperator::Except, false) => Body::Except(left, right),
            _ => return Stop::refuse("INTERSECT ALL or EXCEPT ALL"),
        };
        let mut query = Query::of(body, types, names);
        for sort in order_by {
            let Some(place) = self.output(&query.names, &sort.value) else {
                return Stop::refuse("ORDER BY of a UNION");
            };
            let type_oid = query.types.get(place).copied().unwrap_or(oid::TEXT);
            let value = self.typed(
                Node::Column {
                    level: 0,
                    item: 0,
                    column: place,
                },
                type_oid,
                -1,
            );
            let key = self.sort_key(value, sort)?;
            query.order_by.push(key);
        }
        Ok(query)
    }

    /// Brings the columns of two queries to common types.
    fn unify_queries(&mut self, left: &mut Query, right: &mut Query) -> Result<Vec<Oid>, Stop> {
        if left.width != right.width {
            return Stop::refuse("UNION of different widths");
        }
        let mut types = Vec::new();
        for (a, b) in left.types.clone().into_iter().zip(right.types.clone()) {
            let Some(common) = self.schema.common_type(&[a, b]) else {
                return Stop::refuse("the common type of UNION");
            };
            types.push(common);
        }
        for query in [left, right] {
            self.convert_outputs(query, &types)?;
        }
        Ok(types)
    }

    fn convert_outputs(&mut self, query: &mut Query, types: &[Oid]) -> Result<(), Stop> {
        if query.types == types {
            return Ok(());
        }
        let Body::Select(select) = &mut query.body else {
            return Stop::refuse("UNION of different types");
        };
        if select.distinct || !query.order_by.is_empty() {
            return Stop::refuse("UNION of different types");
        }
        for (target, wanted) in select.targets.iter_mut().zip(types) {
            *target = self.coerce(target.clone(), *wanted, -1, Context::Implicit)?;
        }
        query.types = types.to_vec();
        Ok(())
    }

    fn with(&mut self, cte: &Cte, recursive: bool) -> Result<With, Stop> {
        let refers = recursive && mentions(&cte.query, &cte.name);
        let index = self.withs;
        self.withs = self.withs.saturating_add(1);
        let (first, second, all) = match (&cte.query.body, refers) {
            (BodyAst::Set(SetOperator::Union, all, first, second), true) => {
                (&**first, Some(&**second), *all)
            }
            (_, true) => return Stop::refuse("a recursive WITH that is no UNION"),
            (_, false) => (&cte.query, None, false),
        };
        if second.is_some()
            && (!cte.query.order_by.is_empty()
                || cte.query.limit.is_some()
                || cte.query.offset.is_some())
        {
            return Stop::refuse("a recursive WITH with ORDER BY or LIMIT");
        }
        let query = self.subquery(first)?;
        if (0..query.width).any(|column| super::plpgsql::column_unordered(&query, column)) {
            return Stop::refuse("an array whose order is not determined");
        }
        let columns: Vec<Column> = query
            .types
            .iter()
            .zip(&query.names)
            .enumerate()
            .map(|(place, (type_oid, name))| {
                let name = cte.columns.get(place).map_or(&**name, String::as_str);
                let collation = self
                    .schema
                    .types
                    .find(*type_oid)
                    .map_or(0, |found| found.collation);
                column(name, *type_oid, -1, collation)
            })
            .collect();
        let types = query.types.clone();
        let query = Arc::new(query);
        self.frame.withs.push(WithName {
            name: cte.name.as_str().into(),
            index,
            columns,
            query: second.is_none().then(|| Arc::clone(&query)),
            depth: self.frame.levels.len(),
        });
        let mut step = None;
        if let Some(second) = second {
            let mut second = self.subquery(second)?;
            if !all {
                self.distinguishable(&types)?;
            }
            self.convert_outputs(&mut second, &types)?;
            step = Some((Arc::new(second), all));
        }
        Ok(With {
            index,
            query,
            recursive: step,
        })
    }

    pub(super) fn level(&mut self) -> Result<&mut Level, Stop> {
        match self.frame.levels.last_mut() {
            Some(level) => Ok(level),
            None => Stop::refuse("a query without a place"),
        }
    }

    fn select(&mut self, ast: &SelectAst, order_by: &[Sort]) -> Result<Query, Stop> {
        let mut from = Vec::new();
        let mut conditions = Vec::new();
        for item in &ast.from {
            from.push(self.from(item)?);
        }
        if let Some(filter) = &ast.filter {
            let filter = self.expression(filter)?;
            let filter = self.boolean(filter)?;
            conditions.extend(conjuncts(filter));
        }
        let mut keys = Vec::new();
        for key in &ast.group_by {
            let by_output = self.group_output(ast, key);
            let key = self.expression(by_output.unwrap_or(key))?;
            keys.push(self.settle(key)?);
        }
        self.distinguishable(&keys.iter().map(|key| key.type_oid).collect::<Vec<_>>())?;
        let level = self.level()?;
        level.aggregates = Some(Vec::new());
        level.sets = Some(Vec::new());
        let mut targets = Vec::new();
        let mut names: Vec<Box<str>> = Vec::new();
        for target in &ast.targets {
            self.target(target, &mut targets, &mut names)?;
        }
        let sets = self.level()?.sets.take().unwrap_or_default();
        let width = targets.len();
        let having = match &ast.having {
            Some(having) => {
                let having = self.expression(having)?;
                Some(self.boolean(having)?)
            }
            None => None,
        };
        let mut sorts = Vec::new();
        for sort in order_by {
            let same = ast
                .targets
                .iter()
                .position(|target| target.value == sort.value);
            let stars = ast
                .targets
                .iter()
                .any(|target| matches!(target.value, Ast::Star(_)));
            let same = same.filter(|_| !stars);
            let place = match self.output(&names, &sort.value).or(same) {
                Some(place) => place,
                None => {
                    let value = self.expression(&sort.value)?;
                    targets.push(self.settle(value)?);
                    targets.len().saturating_sub(1)
                }
            };
            let value = targets.get(place).cloned();
            let value = value.map(|value| Expr {
                node: Node::Column {
                    level: 0,
                    item: 0,
                    column: place,
                },
                ..value
            });
            let Some(value) = value else {
                return Stop::refuse("ORDER BY");
            };
            sorts.push(self.sort_key(value, sort)?);
        }
        let aggregates = self.level()?.aggregates.take().unwrap_or_default();
        for target in &targets {
            self.usual(target.collation)?;
        }
        let types: Vec<Oid> = targets
            .iter()
            .take(width)
            .map(|target| target.type_oid)
            .collect();
        let (distinct, distinct_on) = match &ast.distinct {
            None => (false, 0),
            Some(on) if on.is_empty() => {
                self.distinguishable(&types)?;
                if targets.len() > width {
                    return Stop::refuse("DISTINCT ordered by something that is not selected");
                }
                (true, 0)
            }
            // The keys must be the first of ORDER BY, so that counting them is enough.
            Some(on) if on.len() <= sorts.len() => {
                for (on, sort) in on.iter().zip(order_by) {
                    if on != &sort.value {
                        return Stop::refuse("DISTINCT ON");
                    }
                }
                (false, on.len())
            }
            Some(_) => return Stop::refuse("DISTINCT ON"),
        };
        let grouping = if keys.is_empty() && aggregates.is_empty() && having.is_none() {
            None
        } else {
            let mut having = having;
            for expr in targets.iter_mut().chain(&mut having) {
                group(expr, &keys)?;
            }
            if !sets.is_empty() {
                return Stop::refuse("a set-returning function beside an aggregate");
            }
            Some(Grouping {
                keys,
                aggregates,
                having,
            })
        };
        let items = self.level()?.items.len();
        // Postgres keeps those that read no row in the order in which they are written, those of joins first.
        let mut filter = Vec::new();
        let mut gates = 0;
        if !from.is_empty() {
            for source in &mut from {
                take_gates(source, &mut filter);
            }
            let (first, others): (Vec<_>, Vec<_>) = conditions.into_iter().partition(risk::is_gate);
            filter.extend(first);
            gates = filter.len();
            conditions = others;
        }
        self.order_by_cost(&mut conditions);
        let mut all = if from.is_empty() {
            Vec::new()
        } else {
            conditions.clone()
        };
        filter.append(&mut conditions);
        let conditions = filter;
        for source in &from {
            conditions_of_joins(source, &mut all);
        }
        let (invariants, merged) = self.invariants(&from, &all, gates > 0)?;
        let risks = self.risks(&all)?;
        let mut single = from.is_empty() && sets.is_empty();
        single |= grouping
            .as_ref()
            .is_some_and(|grouping| grouping.keys.is_empty());
        for source in &mut from {
            assign_keys(self, source, &conditions, &all, &risks);
        }
        let (ahead, exhaustive) = self.ahead(&from, &risks)?;
        let only = self.level()?.items.first().map_or(0, |item| item.table);
        if let [Source::Table(table)] = from.as_slice() {
            let found = self.schema.tables.get(&only);
            let fixed: BTreeSet<usize> = conditions
                .iter()
                .filter_map(|condition| key_of(self, table.item, condition))
                .map(|(column, _)| column)
                .collect();
            single |= sets.is_empty()
                && found.is_some_and(|found| {
                    found.keys.iter().any(|key| key.columns.is_subset(&fixed))
                });
        }
        let mut query = Query::of(
            Body::Select(Box::new(Select {
                from,
                items,
                invariants,
                merged,
                ahead,
                exhaustive,
                filter: conditions,
                gates,
                grouping,
                targets,
                sets,
                distinct,
                distinct_on,
            })),
            types,
            names,
        );
        query.order_by = sorts;
        query.width = width;
        query.single = single;
        Ok(query)
    }

    /// `group by 1` and `group by alias` mean an output column, unless a column has that name.
    fn group_output<'b>(&mut self, ast: &'b SelectAst, key: &Ast) -> Option<&'b Ast> {
        match key {
            Ast::Number(number) => {
                let place = number.parse::<usize>().ok()?.checked_sub(1)?;
                ast.targets.get(place).map(|target| &target.value)
            }
            Ast::Name(name) => {
                let [name] = name.as_slice() else {
                    return None;
                };
                let is_column = self.frame.levels.last().is_some_and(|level| {
                    level
                        .items
                        .iter()
                        .any(|item| item.columns.iter().any(|column| *column.name == **name))
                });
                if is_column {
                    return None;
                }
                let mut named = ast
                    .targets
                    .iter()
                    .filter(|target| target.alias.as_deref() == Some(name));
                named.next().map(|target| &target.value)
            }
            _ => None,
        }
    }

    /// The place of an output column that ORDER BY names.
    fn output(&self, names: &[Box<str>], key: &Ast) -> Option<usize> {
        match key {
            Ast::Number(number) => number
                .parse::<usize>()
                .ok()?
                .checked_sub(1)
                .filter(|place| *place < names.len()),
            Ast::Name(name) => match name.as_slice() {
                [name] => {
                    let mut places = names
                        .iter()
                        .enumerate()
                        .filter(|(_, found)| ***found == **name);
                    let (place, _) = places.next()?;
                    places.next().is_none().then_some(place)
                }
                _ => None,
            },
            _ => None,
        }
    }

    pub(super) fn sort_key(&mut self, value: Expr, sort: &Sort) -> Result<SortKey, Stop> {
        let bytewise = self.class(value.collation)? != Collation::Other;
        if !crate::policy::value::ordered(&self.schema.types, value.type_oid, true) {
            return Stop::refuse(format!(
                "the order of {}",
                self.schema.types.name(value.type_oid)
            ));
        }
        Ok(SortKey {
            value,
            descending: sort.descending,
            nulls_first: sort.nulls_first.unwrap_or(sort.descending),
            bytewise,
        })
    }

    fn target(
        &mut self,
        target: &Target,
        targets: &mut Vec<Expr>,
        names: &mut Vec<Box<str>>,
    ) -> Result<(), Stop> {
        if let Ast::Star(prefix) = &target.value {
            let level = self.level()?;
            let mut found = Vec::new();
            for (index, item) in level.items.iter().enumerate() {
                let wanted =
                    prefix.is_empty() || prefix.last().is_some_and(|last| *item.alias == **last);
                if !item.merged.is_empty() && wanted {
                    return Stop::refuse("* over a join with USING");
                }
                if wanted {
                    let columns = item.columns.iter().cloned().enumerate();
                    found.extend(columns.map(|(place, column)| (index, place, column)));
                }
            }
            if found.is_empty() {
                return Stop::refuse("* without a table");
            }
            for (item, place, column) in found {
                targets.push(self.column_expr(0, item, place, &column)?);
                self.note_column(0, item, place);
                names.push(column.name.clone());
            }
            return Ok(());
        }
        let value = self.expression(&target.value)?;
        targets.push(self.settle(value)?);
        names.push(match &target.alias {
            Some(alias) => alias.as_str().into(),
            None => output_name(&target.value).into(),
        });
        Ok(())
    }

    /// Remembers that a column of a looked-up table is used.
    pub(super) fn note_column(&mut self, level: usize, item: usize, column: usize) {
        let place = self.frame.levels.len().checked_sub(level.saturating_add(1));
        let table = place
            .and_then(|place| self.frame.levels.get(place))
            .and_then(|level| level.items.get(item))
            .map_or(0, |item| item.table);
        if let Some(columns) = self.reads.tables.get_mut(&table) {
            columns.insert(column);
        }
    }
}

impl Query {
    pub(super) fn of(body: Body, types: Vec<Oid>, names: Vec<Box<str>>) -> Self {
        Self {
            with: Vec::new(),
            body,
            order_by: Vec::new(),
            limit: None,
            offset: None,
            width: types.len(),
            types,
            names,
            single: false,
        }
    }
}

/// The parts of a condition that must all hold.
pub(super) fn conjuncts(condition: Expr) -> Vec<Expr> {
    match both(vec![condition]) {
        Expr {
            node: Node::And(parts),
            ..
        } => parts,
        other => vec![other],
    }
}

/// The name of an output column without alias.
fn output_name(ast: &Ast) -> &str {
    match ast {
        Ast::Name(name) => name.last().map_or("?column?", String::as_str),
        Ast::Field(_, name) => name,
        Ast::Call(call) => call.name.last().map_or("?column?", String::as_str),
        Ast::Cast(inner, named) => match output_name(inner) {
            "?column?" => named.name.last().map_or("?column?", String::as_str),
            name => name,
        },
        Ast::Coalesce(_) => "coalesce",
        Ast::Case(..) => "case",
        Ast::Exists(_) => "exists",
        Ast::Array(_) | Ast::ArrayQuery(_) => "array",
        Ast::Collate(inner, _) | Ast::Subscript(inner, _) => output_name(inner),
        Ast::Session(name, _) => name,
        _ => "?column?",
    }
}

/// Puts group keys in place of what equals them; what else reads the rows of a group has no single value.
fn group(expr: &mut Expr, keys: &[Expr]) -> Result<(), Stop> {
    let shown: Vec<String> = keys.iter().map(|key| format!("{:?}", key.node)).collect();
    let mut loose = false;
    expr.change(0, &mut |expr, depth| {
        if depth == 0 {
            let own = format!("{:?}", expr.node);
            if let Some(index) = shown.iter().position(|key| *key == own) {
                // Keys stand before the aggregates, marked by the level.
                expr.node = Node::Grouped { level: 1, index };
                return true;
            }
        }
        match expr.node {
            Node::Column { level, .. } | Node::WholeRow { level, .. } if level == depth => {
                loose = true
            }
            _ => {}
        }
        false
    });
    if loose {
        return Stop::refuse("a column that is neither grouped nor aggregated");
    }
    Ok(())
}

fn mentions(query: &QueryAst, name: &str) -> bool {
    // A name that is only spelt alike makes the query look recursive, which at worst refuses it.
    format!("{query:?}").contains(&format!("{name:?}"))
}
