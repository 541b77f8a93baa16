//! Syntax of queries to plans.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::overload::Context;
use super::scope::{Item, Level, WithName};
use super::{Compiler, Stop, both, risk};
use crate::policy::builtin::Collation;
use crate::policy::ir::{
    Body, Expr, Grouping, Join, Node, Query, Select, SetCall, SortKey, Source, TableSource, With,
};
use crate::policy::schema::{Column, Function, Table};
use crate::policy::syntax::tree::{
    Alias, Ast, Body as BodyAst, Call, Condition, Cte, From, JoinKind, Query as QueryAst,
    Select as SelectAst, SetOperator, Sort, Target,
};
use crate::policy::value::{Kind, Oid, oid};

fn column(name: &str, type_oid: Oid, typmod: i32, collation: Oid) -> Column {
    Column {
        name: name.into(),
        number: 0,
        type_oid,
        typmod,
        collation,
        not_null: false,
        generated: false,
    }
}

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
        self.frame.withs.push(WithName {
            name: cte.name.as_str().into(),
            index,
            columns,
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
            query: Arc::new(query),
            recursive: step,
        })
    }

    fn level(&mut self) -> Result<&mut Level, Stop> {
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
            let place = match self.output(&names, &sort.value) {
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
        let mut invariants = Vec::new();
        if !from.is_empty() {
            invariants.extend(conditions.iter().flat_map(risk::invariants));
        }
        let mut single = from.is_empty() && sets.is_empty();
        single |= grouping
            .as_ref()
            .is_some_and(|grouping| grouping.keys.is_empty());
        for source in &mut from {
            assign_keys(self, source, &conditions);
        }
        let only = self.level()?.items.first().map_or(0, |item| item.table);
        if let [Source::Table(table)] = from.as_slice() {
            let found = self.schema.tables.get(&only);
            let fixed: BTreeSet<usize> = table.keys.iter().map(|(column, _)| *column).collect();
            single |= sets.is_empty()
                && found.is_some_and(|found| {
                    found.keys.iter().any(|key| key.columns.is_subset(&fixed))
                });
        }
        self.order_by_cost(&mut conditions);
        let mut query = Query::of(
            Body::Select(Box::new(Select {
                from,
                items,
                invariants,
                filter: conditions,
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

    fn from(&mut self, ast: &From) -> Result<Source, Stop> {
        match ast {
            From::Table(name, alias) => self.from_table(name, alias),
            From::Query(query, alias, lateral) => {
                let level = self.level()?;
                let sealed = std::mem::replace(&mut level.sealed, !lateral);
                let query = self.subquery(query);
                self.level()?.sealed = sealed;
                let query = query?;
                if (0..query.width).any(|column| super::plpgsql::column_unordered(&query, column)) {
                    return Stop::refuse("an array whose order is not determined");
                }
                let columns = query
                    .types
                    .iter()
                    .zip(&query.names)
                    .map(|(type_oid, name)| {
                        let collation = self
                            .schema
                            .types
                            .find(*type_oid)
                            .map_or(0, |found| found.collation);
                        column(name, *type_oid, -1, collation)
                    });
                let columns = columns.collect();
                let item = self.add_item("", alias, columns, 0, 0)?;
                Ok(Source::Query {
                    item,
                    query: Arc::new(query),
                })
            }
            From::Function(call, alias, ordinality) => self.from_function(call, alias, *ordinality),
            From::Join(kind, left, right, condition) => {
                self.from_join(*kind, left, right, condition)
            }
        }
    }

    fn add_item(
        &mut self,
        name: &str,
        alias: &Alias,
        mut columns: Vec<Column>,
        row_type: Oid,
        table: Oid,
    ) -> Result<usize, Stop> {
        if !alias.types.is_empty() || alias.columns.len() > columns.len() {
            return Stop::refuse("a list of column definitions");
        }
        for (column, name) in columns.iter_mut().zip(&alias.columns) {
            column.name = name.as_str().into();
        }
        let alias = alias.name.as_deref().unwrap_or(name);
        let level = self.level()?;
        if level
            .items
            .iter()
            .any(|item| *item.alias == *alias && !alias.is_empty())
        {
            return Stop::refuse("two tables of one name");
        }
        level.items.push(Item {
            alias: alias.into(),
            schema: None,
            columns: columns.into(),
            merged: Vec::new(),
            row_type,
            scalar: false,
            table,
        });
        Ok(level.items.len().saturating_sub(1))
    }

    fn from_table(&mut self, name: &[String], alias: &Alias) -> Result<Source, Stop> {
        if let [only] = name {
            let with = self
                .frame
                .withs
                .iter()
                .rev()
                .find(|with| *with.name == **only)
                .cloned();
            if let Some(with) = with {
                let width = with.columns.len();
                let item = self.add_item(only, alias, with.columns, 0, 0)?;
                return Ok(Source::With {
                    item,
                    index: with.index,
                    width,
                });
            }
        }
        let table = self.find_table(name)?;
        match table.kind {
            b'r' | b'p' => {}
            b'v' => return Stop::refuse("a view"),
            b'm' => return Stop::refuse("a materialized view"),
            _ => return Stop::refuse("a foreign table"),
        }
        if !table.permanent || (table.kind == b'r' && table.has_children) {
            return Stop::refuse("a table that is unlogged or has children");
        }
        self.readable(&table)?;
        self.reads.tables.entry(table.oid).or_default();
        let policy = self.row_security(&table)?.map(Arc::new);
        let item = self.add_item(
            &table.name,
            alias,
            table.columns.to_vec(),
            table.row_type,
            table.oid,
        )?;
        if alias.name.is_none()
            && let Some(item) = self.level()?.items.last_mut()
        {
            item.schema = Some(table.schema.clone());
        }
        Ok(Source::Table(TableSource {
            item,
            table: table.oid,
            keys: Vec::new(),
            risky: Vec::new(),
            invariants: policy
                .iter()
                .flat_map(|policy| risk::invariants(policy))
                .collect(),
            policy,
        }))
    }

    pub(super) fn find_table(&mut self, name: &[String]) -> Result<Arc<Table>, Stop> {
        let system =
            |schema: &str| matches!(schema, "pg_catalog" | "information_schema" | "pg_toast");
        let found = match name {
            [schema, name] => {
                if system(schema) {
                    return Stop::refuse("a table of the system");
                }
                if self.frame.path.is_some() && !self.schema.may_use(self.role, schema) {
                    if !self.schema.namespaces.contains_key(schema.as_str()) {
                        return Stop::raise(
                            "42P01",
                            format!("relation \"{schema}.{name}\" does not exist"),
                        );
                    }
                    return Stop::raise("42501", format!("permission denied for schema {schema}"));
                }
                self.schema.table(schema, name)
            }
            [name] => {
                if name.starts_with("pg_") {
                    return Stop::refuse("a table of the system");
                }
                if self
                    .search_schemas()
                    .iter()
                    .any(|schema| &**schema == "information_schema")
                {
                    return Stop::refuse("a table of the system");
                }
                self.search_schemas()
                    .iter()
                    .find_map(|schema| self.schema.table(schema, name))
            }
            _ => None,
        };
        match (found, &self.frame.path) {
            (Some(table), _) => Ok(Arc::clone(table)),
            (None, Some(_)) => Stop::raise(
                "42P01",
                format!("relation \"{}\" does not exist", name.join(".")),
            ),
            (None, None) => Stop::refuse(format!("the table {}", name.join("."))),
        }
    }

    fn from_function(
        &mut self,
        call: &Call,
        alias: &Alias,
        ordinality: bool,
    ) -> Result<Source, Stop> {
        if !alias.types.is_empty() {
            return Stop::refuse("a list of column definitions");
        }
        self.frame
            .levels
            .last_mut()
            .map(|level| level.sets = Some(Vec::new()));
        let value = self.call(call);
        let sets = self.level()?.sets.take().unwrap_or_default();
        let value = value?;
        let name = call.name.last().map_or("", String::as_str);
        let (set, mut columns, row_type, scalar, single) =
            match (&value.node, sets.into_iter().next()) {
                (Node::Slot(_), Some(set)) => {
                    let function = match &set {
                        SetCall::Builtin { function, .. } => {
                            self.schema.functions.get(function).map(Arc::clone)
                        }
                        SetCall::Routine { routine, .. } => self.routine_function(*routine),
                        SetCall::Scalar(_) => None,
                    };
                    let Some(function) = function else {
                        return Stop::refuse("a set-returning function");
                    };
                    let mut columns = self.set_columns(&function);
                    let scalar = columns.is_empty() || self.is_scalar_set(&function);
                    if scalar {
                        let collation = self
                            .schema
                            .types
                            .find(value.type_oid)
                            .map_or(0, |found| found.collation);
                        columns = vec![column(
                            alias.name.as_deref().unwrap_or(name),
                            value.type_oid,
                            -1,
                            collation,
                        )];
                    }
                    let row_type = if self.schema.is_composite(function.result) {
                        function.result
                    } else {
                        0
                    };
                    (set, columns, row_type, scalar, false)
                }
                (_, None) => {
                    let collation = value.collation.oid;
                    if self.schema.is_composite(value.type_oid) || value.type_oid == oid::RECORD {
                        return Stop::refuse("a function that returns a row, in FROM");
                    }
                    let columns = vec![column(
                        alias.name.as_deref().unwrap_or(name),
                        value.type_oid,
                        value.typmod,
                        collation,
                    )];
                    (SetCall::Scalar(Box::new(value)), columns, 0, true, true)
                }
                _ => return Stop::refuse("a set-returning function inside another expression"),
            };
        if ordinality {
            columns.push(column("ordinality", oid::INT8, -1, 0));
        }
        let item = self.add_item(name, alias, columns, row_type, 0)?;
        if let Some(found) = self.level()?.items.last_mut() {
            found.scalar = scalar && !ordinality;
        }
        Ok(Source::Set {
            item,
            call: set,
            ordinality,
            single,
        })
    }

    /// Columns of a set-returning function's rows; none for a plain value.
    pub(super) fn set_columns(&self, function: &Function) -> Vec<Column> {
        let collation = |type_oid: Oid| {
            self.schema
                .types
                .find(type_oid)
                .map_or(0, |found| found.collation)
        };
        if !function.outputs.is_empty() {
            let outputs = function.outputs.iter();
            return outputs
                .map(|(name, type_oid)| column(name, *type_oid, -1, collation(*type_oid)))
                .collect();
        }
        match self
            .schema
            .types
            .find(function.result)
            .map(|found| &found.kind)
        {
            Some(Kind::Composite { fields, .. }) => fields
                .iter()
                .map(|field| {
                    column(
                        &field.name,
                        field.type_oid,
                        field.typmod,
                        collation(field.type_oid),
                    )
                })
                .collect(),
            _ => vec![column(
                &function.name,
                function.result,
                -1,
                collation(function.result),
            )],
        }
    }

    fn is_scalar_set(&self, function: &Function) -> bool {
        function.outputs.len() <= 1
            && !self.schema.is_composite(function.result)
            && !(function.outputs.len() == 1 && !super::call::is_of_the_system(function))
    }

    fn from_join(
        &mut self,
        kind: JoinKind,
        left: &From,
        right: &From,
        condition: &Condition,
    ) -> Result<Source, Stop> {
        let first = self.level()?.items.len();
        let left = self.from(left)?;
        let middle = self.level()?.items.len();
        let right = self.from(right)?;
        let last = self.level()?.items.len();
        let on = match condition {
            Condition::None => Vec::new(),
            Condition::On(on) => {
                let on = self.expression(on)?;
                let on = self.boolean(on)?;
                conjuncts(on)
            }
            Condition::Using(columns) => {
                if kind != JoinKind::Inner && kind != JoinKind::Left {
                    return Stop::refuse("USING in an outer join");
                }
                let mut on = Vec::new();
                for name in columns {
                    let left = self.column_of_items(first, middle, name)?;
                    let right_expr = self.column_of_items(middle, last, name)?;
                    let test = self.equality(left, right_expr)?;
                    on.push(self.boolean(test)?);
                    for item in self.level()?.items.iter_mut().skip(middle) {
                        item.merged.push(name.as_str().into());
                    }
                }
                on
            }
        };
        let mut on = on;
        self.order_by_cost(&mut on);
        let (kind, left, right) = match kind {
            JoinKind::Inner => (Join::Inner, left, right),
            JoinKind::Left => (Join::Left, left, right),
            JoinKind::Right => return Stop::refuse("RIGHT JOIN"),
            JoinKind::Full => return Stop::refuse("FULL JOIN"),
        };
        Ok(Source::Join {
            kind,
            left: Box::new(left),
            right: Box::new(right),
            on,
        })
    }

    fn column_of_items(&mut self, first: usize, last: usize, name: &str) -> Result<Expr, Stop> {
        let items = &self.level()?.items;
        let mut found = None;
        for (index, item) in items
            .iter()
            .enumerate()
            .skip(first)
            .take(last.saturating_sub(first))
        {
            if item.merged.iter().any(|merged| **merged == *name) {
                continue;
            }
            if let Some((place, column)) = item
                .columns
                .iter()
                .enumerate()
                .find(|(_, column)| *column.name == *name)
            {
                if found.is_some() {
                    return Stop::refuse("USING of an ambiguous column");
                }
                found = Some((index, place, column.clone()));
            }
        }
        let Some((item, place, column)) = found else {
            return Stop::refuse("USING of a column that does not exist");
        };
        self.note_column(0, item, place);
        self.column_expr(0, item, place, &column)
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

    /// As the planner does: what costs least is evaluated first.
    pub(super) fn order_by_cost(&self, conditions: &mut [Expr]) {
        conditions.sort_by(|a, b| self.cost(a).total_cmp(&self.cost(b)));
    }

    fn cost(&self, expr: &Expr) -> f64 {
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
                Node::Routine { .. } => 100.0,
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

/// Finds the columns of each table that are compared with what is known before it is read.
fn assign_keys(compiler: &mut Compiler<'_>, source: &mut Source, conditions: &[Expr]) {
    match source {
        Source::Table(table) => {
            let alone = |condition: &&Expr| risk::concerns_only(condition, table.item);
            let raises = |condition: &&Expr| risk::may_raise(compiler.schema, condition);
            table.risky = conditions
                .iter()
                .filter(alone)
                .filter(raises)
                .cloned()
                .collect();
            let policy = table.policy.as_deref();
            if !table.risky.is_empty()
                || policy.is_some_and(|policy| risk::may_raise(compiler.schema, policy))
            {
                return;
            }
            for condition in conditions {
                if let Some((column, value)) = key_of(compiler, table.item, condition)
                    && !table.keys.iter().any(|(known, _)| *known == column)
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
            let all: Vec<Expr> = conditions.iter().chain(&*on).cloned().collect();
            assign_keys(compiler, left, &all);
            assign_keys(compiler, right, &all);
        }
        Source::Join {
            kind: Join::Left,
            left,
            right,
            on,
        } => {
            assign_keys(compiler, left, conditions);
            assign_keys(compiler, right, on);
        }
        Source::Query { .. } | Source::With { .. } | Source::Set { .. } => {}
    }
}

/// `column = value` with the default equality of the column's type, where the value needs no later table.
fn key_of(compiler: &Compiler<'_>, item: usize, condition: &Expr) -> Option<(usize, Expr)> {
    let Node::Call(call) = &condition.node else {
        return None;
    };
    let [left, right] = call.arguments.as_slice() else {
        return None;
    };
    for (side, other) in [(left, right), (right, left)] {
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
            item: found,
            column,
        } = plain.node
        else {
            continue;
        };
        let base = compiler.schema.types.base(side.type_oid);
        let equal = compiler.schema.equality.get(&base) == Some(&call.function);
        let known = !other.any(&mut |expr, depth| match expr.node {
            Node::Column {
                level, item: place, ..
            }
            | Node::WholeRow { level, item: place } => level == depth && place >= item,
            _ => false,
        });
        let light = !other.any(&mut |expr, _| expr.subquery().is_some());
        if found == item
            && equal
            && known
            && light
            && compiler.schema.types.base(other.type_oid) == base
        {
            return Some((column, other.clone()));
        }
    }
    None
}

fn mentions(query: &QueryAst, name: &str) -> bool {
    // A name that is only spelt alike makes the query look recursive, which at worst refuses it.
    format!("{query:?}").contains(&format!("{name:?}"))
}
