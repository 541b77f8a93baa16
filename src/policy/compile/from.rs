//! Syntax of FROM to sources of rows.

use std::sync::Arc;

use super::query::conjuncts;
use super::scope::Item;
use super::{Compiler, Stop, risk};
use crate::policy::ir::{Expr, Join, Node, Reserved, SetCall, Source, TableSource};
use crate::policy::schema::{Column, Function, Table};
use crate::policy::syntax::tree::{Alias, Call, Condition, From, JoinKind};
use crate::policy::value::{Kind, Oid, oid};

pub(super) fn column(name: &str, type_oid: Oid, typmod: i32, collation: Oid) -> Column {
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
    pub(super) fn from(&mut self, ast: &From) -> Result<Source, Stop> {
        match ast {
            From::Table(name, alias) => self.read_table(name, alias),
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
            From::Function(call, alias, ordinality) => self.read_function(call, alias, *ordinality),
            From::Join(kind, left, right, condition) => {
                self.read_join(*kind, left, right, condition)
            }
        }
    }

    pub(super) fn add_item(
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

    pub(super) fn read_table(&mut self, name: &[String], alias: &Alias) -> Result<Source, Stop> {
        if let [only] = name {
            let with = self
                .frame
                .withs
                .iter()
                .rev()
                .find(|with| *with.name == **only)
                .cloned();
            if let Some(with) = with {
                let item = self.add_item(only, alias, with.columns, 0, 0)?;
                return Ok(Source::With {
                    item,
                    index: with.index,
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
            is_risky: false,
            invariants: policy
                .iter()
                .flat_map(|policy| risk::invariants(self.library(), policy))
                .collect(),
            reserved: Reserved {
                of_policy: policy
                    .iter()
                    .flat_map(|policy| risk::reserved(self.library(), policy))
                    .collect(),
                of_conditions: Vec::new(),
            },
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

    pub(super) fn read_function(
        &mut self,
        call: &Call,
        alias: &Alias,
        ordinality: bool,
    ) -> Result<Source, Stop> {
        if !alias.types.is_empty() {
            return Stop::refuse("a list of column definitions");
        }
        self.level()?.sets = Some(Vec::new());
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

    pub(super) fn is_scalar_set(&self, function: &Function) -> bool {
        match function.outputs.len() {
            0 => !self.schema.is_composite(function.result),
            1 => {
                super::call::is_of_the_system(function)
                    && !self.schema.is_composite(function.result)
            }
            _ => false,
        }
    }

    pub(super) fn read_join(
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
        let (mut on, mut others): (Vec<_>, Vec<_>) = on.into_iter().partition(risk::is_gate);
        self.order_by_cost(&mut others);
        on.append(&mut others);
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

    pub(super) fn column_of_items(
        &mut self,
        first: usize,
        last: usize,
        name: &str,
    ) -> Result<Expr, Stop> {
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
}
