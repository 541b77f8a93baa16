//! Syntax of expressions to typed expressions.

use std::sync::Arc;

use super::overload::Context;
use super::scope::Level;
use super::{Compiler, Stop, both, either};
use crate::policy::ir::{Collated, Expr, Node, Query};
use crate::policy::syntax::tree::{Ast, Name, Query as QueryAst};
use crate::policy::value::{Field, Kind, Oid, Value, equatable, input, oid, ordered};

/// Nesting of compiled code, functions included, beyond which we give up.
const DEPTH_MAX: usize = 120;

const SYSTEM_COLUMNS: &[&str] = &["ctid", "xmin", "xmax", "cmin", "cmax", "tableoid"];

impl Compiler<'_> {
    pub(super) fn expression(&mut self, ast: &Ast) -> Result<Expr, Stop> {
        if self.depth >= DEPTH_MAX {
            return Stop::refuse("an expression nested too deeply");
        }
        self.depth = self.depth.saturating_add(1);
        let compiled = self.expression_inner(ast);
        self.depth = self.depth.saturating_sub(1);
        compiled
    }

    fn condition(&mut self, ast: &Ast) -> Result<Expr, Stop> {
        let condition = self.expression(ast)?;
        self.boolean(condition)
    }

    fn expression_inner(&mut self, ast: &Ast) -> Result<Expr, Stop> {
        Ok(match ast {
            Ast::Null => Expr::new(Node::Const(Value::Null), oid::UNKNOWN),
            Ast::Bool(value) => Expr::truth(*value),
            Ast::Number(text) => self.number(text)?,
            Ast::String(text) => Expr::new(Node::Const(Value::text(text)), oid::UNKNOWN),
            Ast::Bits(base, digits) => {
                let text = if *base == 'x' {
                    format!("x{digits}")
                } else {
                    digits.clone()
                };
                let value = input(&self.schema.types, oid::BIT, -1, &text);
                match value {
                    Ok(value) => Expr::new(Node::Const(value), oid::BIT),
                    Err(_unsupported) => return Stop::refuse("a bit string"),
                }
            }
            Ast::Parameter(number) => match number.checked_sub(1) {
                Some(index) => self.variable(index)?,
                None => return Stop::refuse("the parameter $0"),
            },
            Ast::Name(name) => self.name(name)?,
            Ast::Star(prefix) => match prefix.as_slice() {
                [table] => self.whole_row(table)?,
                _ => return Stop::refuse("* where one value is expected"),
            },
            Ast::And(parts) => both(
                parts
                    .iter()
                    .map(|part| self.condition(part))
                    .collect::<Result<_, _>>()?,
            ),
            Ast::Or(parts) => either(
                parts
                    .iter()
                    .map(|part| self.condition(part))
                    .collect::<Result<_, _>>()?,
            ),
            Ast::Not(inner) => {
                let inner = self.condition(inner)?;
                match inner.node {
                    Node::Const(Value::Bool(value)) => Expr::truth(!value),
                    _ => Expr::boolean(Node::Not(Box::new(inner))),
                }
            }
            Ast::IsNull(inner, negated) => {
                let inner = self.expression(inner)?;
                if self.schema.is_composite(inner.type_oid) || inner.type_oid == oid::RECORD {
                    // True only if all fields are NULL, negated only if none is: evaluation knows rows.
                }
                Expr::boolean(Node::IsNull(Box::new(inner), *negated))
            }
            Ast::IsTruth(inner, truth, negated) => {
                let inner = self.condition(inner)?;
                Expr::boolean(Node::IsTruth(Box::new(inner), *truth, *negated))
            }
            Ast::Distinct(left, right, negated) => {
                let (left, right) = (self.expression(left)?, self.expression(right)?);
                let test = self.equality(left, right)?;
                match test.node {
                    Node::Call(call) => Expr::boolean(Node::Distinct(call, *negated)),
                    _ => return Stop::refuse("IS DISTINCT FROM with an equality of the user's"),
                }
            }
            Ast::Unary(operator, inner) => {
                if let ([minus], Ast::Number(text)) = (operator.as_slice(), &**inner)
                    && minus == "-"
                {
                    return self.number(&format!("-{text}"));
                }
                let inner = self.expression(inner)?;
                self.operator(operator, None, inner)?
            }
            Ast::Binary(operator, left, right) => self.binary(operator, left, right)?,
            Ast::InList(left, list, negated) => self.in_list(left, list, *negated)?,
            Ast::InQuery(left, query, negated) => {
                let operator = vec!["=".to_owned()];
                let found = self.any_query(&operator, false, left, query)?;
                if *negated {
                    Expr::boolean(Node::Not(Box::new(found)))
                } else {
                    found
                }
            }
            Ast::Quantified(operator, all, left, right) => match &**right {
                // `= any ((select array))` has two parentheses and is an array.
                Ast::Query(query) => self.any_query(operator, *all, left, query)?,
                array => self.any_array(operator, *all, left, array)?,
            },
            Ast::Case(operand, branches, otherwise) => {
                self.case(operand.as_deref(), branches, otherwise.as_deref())?
            }
            Ast::Coalesce(list) => {
                let list = self.list(list)?;
                let (list, common) = self.unify(list, "COALESCE")?;
                let collation = Self::combine(&list);
                let unordered = list.iter().any(|expr| expr.unordered);
                Expr {
                    collation,
                    unordered,
                    ..Expr::new(Node::Coalesce(list), common)
                }
            }
            Ast::NullIf(left, right) => {
                let (left, right) = (self.expression(left)?, self.expression(right)?);
                let test = self.equality(left, right)?;
                let Node::Call(call) = test.node else {
                    return Stop::refuse("NULLIF with an equality of the user's");
                };
                let Some(first) = call.arguments.first() else {
                    return Stop::refuse("NULLIF");
                };
                let (type_oid, collation) = (first.type_oid, first.collation);
                Expr {
                    collation,
                    ..Expr::new(Node::NullIf(call), type_oid)
                }
            }
            Ast::Extreme(greatest, list) => {
                let list = self.list(list)?;
                let (list, common) = self.unify(list, "GREATEST or LEAST")?;
                let collation = Self::combine(&list);
                let bytewise = self.class(collation)? == crate::policy::builtin::Collation::Bytes;
                if !ordered(&self.schema.types, common, bytewise) {
                    return Stop::refuse(format!(
                        "the order of {}",
                        self.schema.types.name(common)
                    ));
                }
                Expr {
                    collation,
                    ..Expr::new(Node::Extreme(*greatest, list), common)
                }
            }
            Ast::Array(list) => self.array(list, None)?,
            Ast::ArrayQuery(query) => {
                let compiled = self.subquery(query)?;
                let [element] = compiled.types.as_slice() else {
                    return Stop::refuse("ARRAY of a query with several columns");
                };
                let Some(array) = self.schema.types.array_over(*element) else {
                    return Stop::refuse("an array of that type");
                };
                let unordered = compiled.order_by.is_empty() && !compiled.single;
                let mut expr = self.typed(Node::ArrayQuery(Arc::new(compiled)), array, -1);
                expr.unordered = unordered;
                expr
            }
            Ast::Row(list) => {
                let list = self.list(list)?;
                let list = list
                    .into_iter()
                    .map(|expr| self.settle(expr))
                    .collect::<Result<_, _>>()?;
                Expr::new(Node::Row(list), oid::RECORD)
            }
            Ast::Exists(query) => {
                let compiled = self.subquery(query)?;
                Expr::boolean(Node::Exists(Arc::new(compiled)))
            }
            Ast::Query(query) => {
                let compiled = self.subquery(query)?;
                let ([type_oid], Some(collation)) =
                    (compiled.types.as_slice(), query_collation(&compiled))
                else {
                    return Stop::refuse(
                        "a subquery with several columns where one value is expected",
                    );
                };
                let type_oid = *type_oid;
                let unordered = super::plpgsql::is_unordered(&compiled);
                Expr {
                    collation,
                    unordered,
                    ..Expr::new(Node::Scalar(Arc::new(compiled)), type_oid)
                }
            }
            Ast::Cast(inner, named) => {
                let (target, typmod) = self.find_type(named)?;
                if let (Ast::Array(list), Some(element)) =
                    (&**inner, self.schema.types.element(target))
                {
                    let array = self.array(list, Some((element, typmod)))?;
                    return self.coerce(array, target, typmod, Context::Explicit);
                }
                let inner = self.expression(inner)?;
                self.coerce(inner, target, typmod, Context::Explicit)?
            }
            Ast::Collate(inner, name) => {
                let inner = self.expression(inner)?;
                let inner = self.settle(inner)?;
                let collation = match name.last().map(String::as_str) {
                    Some("C") => 950,
                    Some("POSIX") => 951,
                    Some("default") => 100,
                    _ => return Stop::refuse("COLLATE with a locale"),
                };
                Expr {
                    collation: Collated {
                        oid: collation,
                        explicit: true,
                    },
                    ..inner
                }
            }
            Ast::Subscript(inner, index) => self.subscript(inner, index)?,
            Ast::Slice(inner, lower, upper) => {
                let inner = self.expression(inner)?;
                let Some(_) = self.schema.types.element(inner.type_oid) else {
                    return Stop::refuse("a slice of something other than an array");
                };
                let mut bound = |bound: &Option<Box<Ast>>| -> Result<Option<Box<Expr>>, Stop> {
                    let Some(bound) = bound else {
                        return Ok(None);
                    };
                    let bound = self.expression(bound)?;
                    Ok(Some(Box::new(self.coerce(
                        bound,
                        oid::INT4,
                        -1,
                        Context::Assignment,
                    )?)))
                };
                let (lower, upper) = (bound(lower)?, bound(upper)?);
                if inner.unordered {
                    return Stop::refuse("an array whose order is not determined");
                }
                let (type_oid, typmod, collation) = (
                    self.schema.types.base(inner.type_oid),
                    inner.typmod,
                    inner.collation,
                );
                Expr {
                    typmod,
                    collation,
                    ..Expr::new(Node::Slice(Box::new(inner), lower, upper), type_oid)
                }
            }
            Ast::Field(inner, name) => {
                let inner = self.expression(inner)?;
                self.field(inner, name, None)?
            }
            Ast::Call(call) => self.call(call)?,
            Ast::Session(name, precision) => self.session(name, *precision)?,
        })
    }

    fn number(&self, text: &str) -> Result<Expr, Stop> {
        let type_oid = match text.parse::<i64>() {
            Ok(value) if i32::try_from(value).is_ok() => oid::INT4,
            Ok(_) => oid::INT8,
            Err(_) => oid::NUMERIC,
        };
        match input(&self.schema.types, type_oid, -1, text) {
            Ok(value) => Ok(Expr::new(Node::Const(value), type_oid)),
            Err(_unsupported) => Stop::refuse("a number with decimals"),
        }
    }

    fn session(&mut self, name: &str, precision: Option<i32>) -> Result<Expr, Stop> {
        Ok(match name {
            "current_user" | "user" | "current_role" => {
                let role = self
                    .schema
                    .roles
                    .get(&self.role)
                    .map_or("", |role| &*role.name);
                self.typed(Node::Const(Value::text(role)), oid::NAME, -1)
            }
            "current_timestamp" if precision.is_none() => {
                self.call_function(1299, Vec::new(), false)?
            }
            "current_date" => {
                let now = self.call_function(1299, Vec::new(), false)?;
                self.coerce(now, oid::DATE, -1, Context::Explicit)?
            }
            "localtimestamp" if precision.is_none() => {
                let now = self.call_function(1299, Vec::new(), false)?;
                self.coerce(now, oid::TIMESTAMP, -1, Context::Explicit)?
            }
            "localtime" if precision.is_none() => {
                let now = self.call_function(1299, Vec::new(), false)?;
                self.coerce(now, oid::TIME, -1, Context::Explicit)?
            }
            _ => return Stop::refuse(name.to_ascii_uppercase()),
        })
    }

    pub(super) fn variable(&mut self, index: usize) -> Result<Expr, Stop> {
        let Some(found) = self.frame.variables.get(index) else {
            return Stop::refuse("a parameter that does not exist");
        };
        Ok(Expr {
            node: Node::Parameter(index),
            type_oid: found.type_oid,
            typmod: found.typmod,
            collation: found.collation,
            unordered: found.unordered,
        })
    }

    fn find_variable(&self, name: &str) -> Option<usize> {
        let mut variables = self.frame.variables.iter().enumerate().rev();
        variables
            .find(|(_, found)| !found.hidden && found.name.as_deref() == Some(name))
            .map(|(index, _)| index)
    }

    /// A name of one or more parts: column, row, variable, field.
    fn name(&mut self, name: &Name) -> Result<Expr, Stop> {
        let (column, variable) = match name.as_slice() {
            [only] => (self.column(None, only)?, self.find_variable(only)),
            [first, second] => {
                let column = self.column(Some((None, first)), second)?;
                let is_function = self.frame.function.as_deref() == Some(first.as_str());
                let variable = match is_function {
                    true => self.find_variable(second),
                    false => self.find_variable(first),
                };
                if let (None, Some(variable), false) = (&column, variable, is_function) {
                    let fields = self
                        .frame
                        .variables
                        .get(variable)
                        .and_then(|found| found.fields.clone());
                    let row = self.variable(variable)?;
                    return self.field(row, second, fields.as_deref());
                }
                (column, variable)
            }
            [schema, table, column] => (self.column(Some((Some(schema), table)), column)?, None),
            _ => return Stop::refuse("a name of many parts"),
        };
        match (column, variable) {
            (Some(_), Some(_)) if self.frame.plpgsql => Stop::raise(
                "42702",
                format!("column reference \"{}\" is ambiguous", name.join(".")),
            ),
            (Some(column), _) => Ok(column),
            (None, Some(variable)) => self.variable(variable),
            (None, None) => {
                if name
                    .last()
                    .is_some_and(|last| SYSTEM_COLUMNS.contains(&last.as_str()))
                {
                    return Stop::refuse("a system column");
                }
                match self.frame.path {
                    Some(_) => Stop::raise(
                        "42703",
                        format!("column \"{}\" does not exist", name.join(".")),
                    ),
                    None => Stop::refuse(format!("the name {}", name.join("."))),
                }
            }
        }
    }

    /// The column that a name means, from the innermost query outwards.
    fn column(
        &mut self,
        table: Option<(Option<&str>, &str)>,
        name: &str,
    ) -> Result<Option<Expr>, Stop> {
        for (level, scope) in self.frame.levels.iter().rev().enumerate() {
            if scope.sealed {
                continue;
            }
            let mut found = None;
            for (index, item) in scope.items.iter().enumerate() {
                if let Some((schema, table)) = table {
                    let schema_fits =
                        schema.is_none_or(|schema| item.schema.as_deref() == Some(schema));
                    if *item.alias != *table || !schema_fits {
                        continue;
                    }
                } else if item.merged.iter().any(|merged| **merged == *name) {
                    continue;
                }
                for (place, column) in item.columns.iter().enumerate() {
                    if *column.name == *name {
                        if found.is_some() {
                            return Stop::raise(
                                "42702",
                                format!("column reference \"{name}\" is ambiguous"),
                            );
                        }
                        found =
                            Some((self.column_expr(level, index, place, column)?, index, place));
                    }
                }
            }
            if let Some((found, item, place)) = found {
                self.note_column(level, item, place);
                return Ok(Some(found));
            }
            // A table's name alone is its row.
            if table.is_none()
                && let Some((index, item)) = scope
                    .items
                    .iter()
                    .enumerate()
                    .find(|(_, item)| *item.alias == *name)
            {
                if item.scalar {
                    let Some(column) = item.columns.first() else {
                        return Stop::refuse("a function without columns");
                    };
                    return self.column_expr(level, index, 0, column).map(Some);
                }
                if item.row_type == 0 {
                    return Stop::refuse("the row of a subquery");
                }
                if item.columns.iter().any(|column| column.generated) {
                    return Stop::refuse("a generated column");
                }
                let (row_type, width) = (item.row_type, item.columns.len());
                for place in 0..width {
                    self.note_column(level, index, place);
                }
                return Ok(Some(Expr::new(
                    Node::WholeRow { level, item: index },
                    row_type,
                )));
            }
        }
        Ok(None)
    }

    /// `table.*` where one value is expected: the row.
    fn whole_row(&mut self, table: &str) -> Result<Expr, Stop> {
        for (level, scope) in self.frame.levels.iter().rev().enumerate() {
            if scope.sealed {
                continue;
            }
            let Some((index, item)) = scope
                .items
                .iter()
                .enumerate()
                .find(|(_, item)| *item.alias == *table)
            else {
                continue;
            };
            if item.row_type == 0 || item.columns.iter().any(|column| column.generated) {
                return Stop::refuse("the row of something other than a plain table");
            }
            let (row_type, width) = (item.row_type, item.columns.len());
            for place in 0..width {
                self.note_column(level, index, place);
            }
            return Ok(Expr::new(Node::WholeRow { level, item: index }, row_type));
        }
        Stop::refuse("the row of a table that is not there")
    }

    /// A field of a row.
    pub(super) fn field(
        &mut self,
        row: Expr,
        name: &str,
        known: Option<&[Field]>,
    ) -> Result<Expr, Stop> {
        let types = Arc::clone(&self.schema.types);
        let fields: &[Field] = match (
            known,
            types
                .find(types.base(row.type_oid))
                .map(|found| &found.kind),
        ) {
            (Some(fields), _) => fields,
            (None, Some(Kind::Composite { fields, .. })) => fields,
            _ => return Stop::refuse(format!("the field {name} of a record")),
        };
        let Some((index, field)) = fields
            .iter()
            .enumerate()
            .find(|(_, field)| *field.name == *name)
        else {
            return match self.frame.path {
                Some(_) if known.is_none() => {
                    Stop::raise("42703", format!("column \"{name}\" not found"))
                }
                _ => Stop::refuse(format!("the field {name}")),
            };
        };
        self.known(field.type_oid)?;
        if let Some(Kind::Composite { relation, .. }) = types
            .find(types.base(row.type_oid))
            .map(|found| &found.kind)
            && let Some(table) = self.schema.tables.get(relation)
            && let Some(column) = table.columns.iter().find(|column| *column.name == *name)
        {
            self.usual(Collated::implicit(column.collation))?;
        }
        Ok(self.typed(
            Node::Field(Box::new(row), index),
            field.type_oid,
            field.typmod,
        ))
    }

    fn binary(&mut self, operator: &Name, left: &Ast, right: &Ast) -> Result<Expr, Stop> {
        if let (Ast::Row(lefts), Ast::Row(rights)) = (left, right) {
            let equal = operator.last().map(String::as_str);
            if lefts.len() != rights.len() || !matches!(equal, Some("=" | "<>")) {
                return Stop::refuse("a comparison of rows");
            }
            let mut parts = Vec::new();
            for (left, right) in lefts.iter().zip(rights) {
                let (left, right) = (self.expression(left)?, self.expression(right)?);
                let part = self.operator(operator, Some(left), right)?;
                parts.push(self.boolean(part)?);
            }
            return Ok(if equal == Some("=") {
                both(parts)
            } else {
                either(parts)
            });
        }
        // `x = null` is an operator like any other.
        let (left, right) = (self.expression(left)?, self.expression(right)?);
        self.operator(operator, Some(left), right)
    }

    fn in_list(&mut self, left: &Ast, list: &[Ast], negated: bool) -> Result<Expr, Stop> {
        let operator: Name = vec![if negated { "<>" } else { "=" }.to_owned()];
        if matches!(left, Ast::Row(_)) {
            let parts = list
                .iter()
                .map(|item| self.binary(&operator, left, item))
                .collect::<Result<Vec<_>, _>>()?;
            return Ok(if negated { both(parts) } else { either(parts) });
        }
        let left_expr = self.expression(left)?;
        let items = self.list(list)?;
        let free = |expr: &Expr| {
            !expr.any(&mut |expr, _| {
                matches!(expr.node, Node::Column { .. } | Node::WholeRow { .. })
            })
        };
        if items.len() > 1 && items.iter().all(free) {
            let mut given: Vec<Oid> = vec![left_expr.type_oid];
            given.extend(items.iter().map(|item| item.type_oid));
            let array = self
                .schema
                .common_type(&given)
                .and_then(|common| Some((common, self.schema.types.array_over(common)?)));
            if let Some((common, array)) = array {
                let items = items
                    .into_iter()
                    .map(|item| self.coerce(item, common, -1, Context::Implicit))
                    .collect::<Result<Vec<_>, _>>()?;
                let collation = Self::combine(&items);
                let array = Expr {
                    collation,
                    ..Expr::new(Node::Array(items), array)
                };
                return self.any_array_of(&operator, negated, left_expr, array);
            }
        }
        let mut parts = Vec::new();
        for item in items {
            let part = self.operator(&operator, Some(left_expr.clone()), item)?;
            parts.push(self.boolean(part)?);
        }
        Ok(if negated { both(parts) } else { either(parts) })
    }

    fn any_array(
        &mut self,
        operator: &Name,
        all: bool,
        left: &Ast,
        right: &Ast,
    ) -> Result<Expr, Stop> {
        let (left, right) = (self.expression(left)?, self.expression(right)?);
        self.any_array_of(operator, all, left, right)
    }

    fn any_array_of(
        &mut self,
        operator: &Name,
        all: bool,
        left: Expr,
        right: Expr,
    ) -> Result<Expr, Stop> {
        let element = if right.type_oid == oid::UNKNOWN {
            oid::UNKNOWN
        } else {
            match self.schema.types.element(right.type_oid) {
                Some(element) => element,
                None => return Stop::refuse("ANY over something other than an array"),
            }
        };
        let slot = Expr {
            collation: right.collation,
            ..Expr::new(Node::Slot(1), element)
        };
        let (slot, right) = if element == oid::UNKNOWN {
            let Some(array) = self.schema.types.array_over(left.type_oid) else {
                return Stop::refuse("ANY over a literal");
            };
            let right = self.coerce(right, array, -1, Context::Implicit)?;
            (Expr::new(Node::Slot(1), left.type_oid), right)
        } else {
            (slot, right)
        };
        if left.unordered {
            return Stop::refuse("an array whose order is not determined");
        }
        let (test, estimated) = self.slot_test(operator, &left, slot)?;
        Ok(Expr::boolean(Node::AnyArray {
            all,
            left: Box::new(left),
            right: Box::new(right),
            test: Box::new(test),
            estimated,
        }))
    }

    fn any_query(
        &mut self,
        operator: &Name,
        all: bool,
        left: &Ast,
        query: &QueryAst,
    ) -> Result<Expr, Stop> {
        let left = match left {
            Ast::Row(list) => self.list(list)?,
            other => vec![self.expression(other)?],
        };
        let query = self.subquery(query)?;
        if query.types.len() != left.len() {
            return Stop::refuse("a subquery with another number of columns");
        }
        if left.len() > 1 && operator.last().map(String::as_str) != Some("=") {
            return Stop::refuse("a comparison of rows");
        }
        let collations = query_collations(&query);
        let width = left.len();
        let mut tests = Vec::new();
        for (index, expr) in left.iter().enumerate() {
            let type_oid = query.types.get(index).copied().unwrap_or(oid::UNKNOWN);
            let collation = collations.get(index).copied().unwrap_or(Collated::NONE);
            let right = Expr {
                collation,
                ..Expr::new(Node::Slot(width.saturating_add(index)), type_oid)
            };
            let mut slot = expr.clone();
            if expr.type_oid != oid::UNKNOWN {
                slot.node = Node::Slot(index);
            }
            let test = self.operator(operator, Some(slot), right)?;
            tests.push(self.boolean(test)?);
        }
        let probes = if all {
            Vec::new()
        } else {
            self.probes(&left, &tests, &query)
        };
        Ok(Expr::boolean(Node::AnyQuery {
            all,
            left,
            test: Box::new(both(tests)),
            query: Arc::new(query),
            probes,
        }))
    }

    fn case(
        &mut self,
        operand: Option<&Ast>,
        branches: &[(Ast, Ast)],
        otherwise: Option<&Ast>,
    ) -> Result<Expr, Stop> {
        let operand = match operand {
            Some(operand) => {
                let operand = self.expression(operand)?;
                Some(self.settle(operand)?)
            }
            None => None,
        };
        let mut conditions = Vec::new();
        let mut results = Vec::new();
        for (condition, result) in branches {
            let condition = self.expression(condition)?;
            conditions.push(match &operand {
                Some(operand) => {
                    let test = self.equality(operand.clone(), condition)?;
                    self.boolean(test)?
                }
                None => self.boolean(condition)?,
            });
            results.push(self.expression(result)?);
        }
        results.push(match otherwise {
            Some(otherwise) => self.expression(otherwise)?,
            None => Expr::new(Node::Const(Value::Null), oid::UNKNOWN),
        });
        let (mut results, common) = self.unify(results, "CASE")?;
        let collation = Self::combine(&results);
        let unordered = results.iter().any(|expr| expr.unordered);
        let otherwise = results.pop().map(Box::new);
        let branches = conditions.into_iter().zip(results).collect();
        Ok(Expr {
            collation,
            unordered,
            ..Expr::new(Node::Case(branches, otherwise), common)
        })
    }

    fn array(&mut self, list: &[Ast], wanted: Option<(Oid, i32)>) -> Result<Expr, Stop> {
        let items = match wanted {
            Some((element, typmod)) => list
                .iter()
                .map(|item| match item {
                    Ast::Array(inner) => self.array(inner, Some((element, typmod))),
                    other => {
                        let item = self.expression(other)?;
                        self.coerce(item, element, typmod, Context::Explicit)
                    }
                })
                .collect::<Result<Vec<_>, _>>()?,
            None => self.list(list)?,
        };
        let (items, common) = match wanted {
            Some((element, _)) if list.iter().all(|item| !matches!(item, Ast::Array(_))) => {
                (items, element)
            }
            _ => self.unify(items, "an array's elements")?,
        };
        if self.schema.types.element(common).is_some() {
            return Stop::refuse("an array of several dimensions");
        }
        let Some(array) = self.schema.types.array_over(common) else {
            return Stop::refuse("an array of that type");
        };
        let collation = Self::combine(&items);
        Ok(Expr {
            collation,
            ..Expr::new(Node::Array(items), array)
        })
    }

    fn subscript(&mut self, inner: &Ast, index: &Ast) -> Result<Expr, Stop> {
        let mut indexes = vec![index];
        let mut inner = inner;
        while let Ast::Subscript(deeper, index) = inner {
            indexes.insert(0, &**index);
            inner = &**deeper;
        }
        let array = self.expression(inner)?;
        let Some(element) = self.schema.types.element(array.type_oid) else {
            return Stop::refuse("a subscript of something other than an array");
        };
        if array.unordered {
            return Stop::refuse("an array whose order is not determined");
        }
        let mut places = Vec::new();
        for index in indexes {
            let index = self.expression(index)?;
            places.push(self.coerce(index, oid::INT4, -1, Context::Assignment)?);
        }
        let (typmod, collation) = (array.typmod, array.collation);
        Ok(Expr {
            typmod,
            collation,
            ..Expr::new(Node::Subscript(Box::new(array), places), element)
        })
    }

    /// A query inside of an expression.
    pub(super) fn subquery(&mut self, query: &QueryAst) -> Result<Query, Stop> {
        self.frame.levels.push(Level::default());
        let compiled = self.query(query);
        self.frame.levels.pop();
        compiled
    }

    /// Refuses DISTINCT, UNION, GROUP BY over types without a known equality.
    pub(super) fn distinguishable(&self, types: &[Oid]) -> Result<(), Stop> {
        match types
            .iter()
            .find(|found| !equatable(&self.schema.types, **found))
        {
            Some(found) => Stop::refuse(format!("equality of {}", self.schema.types.name(*found))),
            None => Ok(()),
        }
    }
}

fn query_collations(query: &Query) -> Vec<Collated> {
    match &query.body {
        crate::policy::ir::Body::Select(select) => select
            .targets
            .iter()
            .take(query.width)
            .map(|target| target.collation)
            .collect(),
        crate::policy::ir::Body::Union(left, ..)
        | crate::policy::ir::Body::Intersect(left, _)
        | crate::policy::ir::Body::Except(left, _) => query_collations(left),
        crate::policy::ir::Body::Values(rows) => rows
            .first()
            .map(|row| row.iter().map(|expr| expr.collation).collect())
            .unwrap_or_default(),
    }
}

fn query_collation(query: &Query) -> Option<Collated> {
    match query_collations(query).as_slice() {
        [only] => Some(*only),
        _ => None,
    }
}
