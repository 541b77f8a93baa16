//! PL/pgSQL to steps.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::overload::{Context, Path};
use super::{Compiler, Stop};
use crate::policy::ir::{
    Body, Condition, Expr, IntoTarget, Node, Program, Query, Select, Statement, Step,
};
use crate::policy::schema::Function;
use crate::policy::syntax::plpgsql as ast;
use crate::policy::syntax::tree::{self, Name};
use crate::policy::value::{Field, Kind, Oid, SqlError, Value, oid};

/// SQLSTATEs of the conditions that functions name; what is not here is refused.
const CONDITIONS: &[(&str, &str)] = &[
    ("invalid_text_representation", "22P02"),
    ("no_data_found", "P0002"),
    ("too_many_rows", "P0003"),
    ("raise_exception", "P0001"),
    ("undefined_table", "42P01"),
    ("undefined_column", "42703"),
    ("undefined_function", "42883"),
    ("undefined_object", "42704"),
    ("insufficient_privilege", "42501"),
    ("division_by_zero", "22012"),
    ("numeric_value_out_of_range", "22003"),
    ("datetime_field_overflow", "22008"),
    ("invalid_datetime_format", "22007"),
    ("null_value_not_allowed", "22004"),
    ("invalid_parameter_value", "22023"),
    ("invalid_json_text", "22032"),
    ("data_exception", "22"),
    ("case_not_found", "20000"),
    ("check_violation", "23514"),
    ("unique_violation", "23505"),
    ("foreign_key_violation", "23503"),
    ("invalid_authorization_specification", "28000"),
    ("cardinality_violation", "21000"),
];

impl Compiler<'_> {
    pub(super) fn program(
        &mut self,
        function: &Function,
        block: &ast::Block,
    ) -> Result<Program, Stop> {
        self.frame.plpgsql = true;
        let mut outputs = Vec::new();
        for (name, type_oid) in &*function.outputs {
            let known = self
                .frame
                .variables
                .iter()
                .position(|found| found.name.as_deref() == Some(&**name));
            outputs.push(match known {
                Some(index) => index,
                None => self.declare(Some(name.clone()), *type_oid, -1),
            });
        }
        let found = self.declare(Some("found".into()), oid::BOOL, -1);
        let mut compiling = Compiling {
            function,
            outputs: &outputs,
            in_handler: false,
        };
        let body = self.block(block, &mut compiling)?;
        Ok(Program {
            variables: self.frame.variables.len(),
            outputs,
            found,
            body: vec![body],
            returns_void: function.result == oid::VOID,
        })
    }

    fn block(&mut self, block: &ast::Block, within: &mut Compiling<'_>) -> Result<Step, Stop> {
        let first = self.frame.variables.len();
        let mut body = Vec::new();
        for declaration in &block.declarations {
            self.declaration(declaration, &mut body)?;
        }
        let last = self.frame.variables.len();
        let mut inner = self.steps(&block.statements, within)?;
        // Defaults are evaluated outside of what the handlers guard.
        let mut handlers = Vec::new();
        for (conditions, statements) in &block.handlers {
            let conditions = conditions
                .iter()
                .map(|name| condition(name))
                .collect::<Result<_, _>>()?;
            let outer = std::mem::replace(&mut within.in_handler, true);
            let steps = self.steps(statements, within);
            within.in_handler = outer;
            handlers.push((conditions, steps?));
        }
        if handlers.is_empty() {
            body.append(&mut inner);
        } else {
            body.push(Step::Block {
                body: inner,
                handlers,
            });
        }
        for variable in self.frame.variables.iter_mut().take(last).skip(first) {
            variable.hidden = true;
        }
        Ok(Step::Block {
            body,
            handlers: Vec::new(),
        })
    }

    fn declaration(
        &mut self,
        declaration: &ast::Declaration,
        body: &mut Vec<Step>,
    ) -> Result<(), Stop> {
        let name: Box<str> = declaration.name.as_str().into();
        if let Some(alias) = &declaration.alias_for {
            let index = match alias {
                tree::Ast::Parameter(number) => number.checked_sub(1),
                tree::Ast::Name(alias) => match alias.as_slice() {
                    [alias] => self.frame.variables.iter().rposition(|found| {
                        !found.hidden && found.name.as_deref() == Some(alias.as_str())
                    }),
                    _ => None,
                },
                _ => None,
            };
            let variable = index.and_then(|index| self.frame.variables.get_mut(index));
            return match variable {
                Some(variable) if variable.name.is_none() => {
                    variable.name = Some(name);
                    Ok(())
                }
                _ => Stop::refuse("an alias of a variable"),
            };
        }
        let Some(named) = &declaration.type_name else {
            return Stop::refuse("a variable without a type");
        };
        if declaration.not_null {
            return Stop::refuse("a variable that must not be NULL");
        }
        let is_record =
            matches!(named.name.as_slice(), [only] if only == "record") && named.percent.is_none();
        let (type_oid, typmod) = if is_record {
            (oid::RECORD, -1)
        } else {
            self.find_type(named)?
        };
        self.known(type_oid)?;
        let default = match &declaration.default {
            Some(default) => Some(self.value(default, type_oid, typmod)?),
            None => None,
        };
        let variable = self.declare(Some(name), type_oid, typmod);
        let (value, cast, unordered) = match default {
            Some(default) => default,
            None => {
                let null = Expr::new(Node::Const(Value::Null), type_oid);
                (plain(null), Expr::new(Node::Slot(0), type_oid), false)
            }
        };
        if let Some(variable) = self.frame.variables.get_mut(variable) {
            variable.unordered = unordered;
        }
        body.push(Step::Assign {
            variable,
            value,
            cast: Box::new(cast),
        });
        Ok(())
    }

    /// A statement; one that always raises becomes a query that does.
    fn runnable(&mut self, query: &tree::Query) -> Result<Statement, Stop> {
        match self.statement(query) {
            Ok(statement) => Ok(statement),
            Err(Stop::Raise(error)) => Ok(plain(Expr::new(Node::Raise(error), oid::UNKNOWN))),
            Err(stop) => Err(stop),
        }
    }

    /// A query of one value, with its conversion by assignment, and whether an array's order is unknown.
    fn value(
        &mut self,
        query: &tree::Query,
        to: Oid,
        typmod: i32,
    ) -> Result<(Statement, Expr, bool), Stop> {
        let statement = self.runnable(query)?;
        let [found] = statement.query.types.as_slice() else {
            return Ok((
                plain(Expr::new(
                    Node::Raise(SqlError::new("42601", "a query with several columns")),
                    to,
                )),
                Expr::new(Node::Slot(0), to),
                false,
            ));
        };
        let found = *found;
        let cast = self.assignment(found, to, typmod)?;
        let unordered = is_unordered(&statement.query);
        Ok((statement, cast, unordered))
    }

    fn assignment(&mut self, from: Oid, to: Oid, typmod: i32) -> Result<Expr, Stop> {
        let slot = self.typed(Node::Slot(0), from, -1);
        if from == oid::UNKNOWN {
            return Ok(Expr::new(Node::Slot(0), to));
        }
        if to == oid::RECORD || from == to && typmod == -1 {
            return Ok(slot);
        }
        match self.schema.path(from, to, Context::Assignment) {
            Some(_) => self.coerce(slot, to, typmod, Context::Assignment),
            None if typmod == -1
                && self.schema.path(from, to, Context::Explicit) != Some(Path::Relabel) =>
            {
                self.known(from)?;
                self.known(to)?;
                if self.schema.is_composite(to) || self.schema.is_composite(from) {
                    return Stop::refuse("an assignment between rows");
                }
                Ok(self.typed(Node::TextForm(Box::new(slot)), to, -1))
            }
            None => Stop::refuse("an assignment between these types"),
        }
    }

    fn steps(
        &mut self,
        statements: &[ast::Statement],
        within: &mut Compiling<'_>,
    ) -> Result<Vec<Step>, Stop> {
        let mut steps = Vec::new();
        for statement in statements {
            self.step(statement, within, &mut steps)?;
        }
        Ok(steps)
    }

    fn condition_of(&mut self, query: &tree::Query) -> Result<Statement, Stop> {
        let (statement, cast, _) = self.value(query, oid::BOOL, -1)?;
        if !matches!(cast.node, Node::Slot(0)) {
            return Stop::refuse("a condition that is not boolean");
        }
        Ok(statement)
    }

    fn step(
        &mut self,
        statement: &ast::Statement,
        within: &mut Compiling<'_>,
        steps: &mut Vec<Step>,
    ) -> Result<(), Stop> {
        let step = match statement {
            ast::Statement::Nothing => return Ok(()),
            ast::Statement::Block(block) => self.block(block, within)?,
            ast::Statement::Assign(target, value) => self.assign(target, value)?,
            ast::Statement::If(branches, otherwise) => {
                let mut compiled = Vec::new();
                for (condition, body) in branches {
                    let condition = self.condition_of(condition)?;
                    compiled.push((condition, self.steps(body, within)?));
                }
                Step::If(compiled, self.steps(otherwise, within)?)
            }
            ast::Statement::Case(operand, branches, otherwise) => {
                let mut compiled = Vec::new();
                for (conditions, body) in branches {
                    let tests = conditions.iter().map(|condition| match operand {
                        Some(operand) => tree::Ast::Binary(
                            vec!["=".to_owned()],
                            Box::new(operand.clone()),
                            Box::new(condition.clone()),
                        ),
                        None => condition.clone(),
                    });
                    let test = tree::Query::of(tree::Ast::Or(tests.collect()));
                    let test = self.condition_of(&test)?;
                    compiled.push((test, self.steps(body, within)?));
                }
                let otherwise = match otherwise {
                    Some(otherwise) => self.steps(otherwise, within)?,
                    None => vec![Step::Raise(
                        SqlError::new("20000", "case not found"),
                        Vec::new(),
                    )],
                };
                Step::If(compiled, otherwise)
            }
            ast::Statement::Return(value) => self.return_step(value.as_ref(), within)?,
            ast::Statement::ReturnQuery(query) => {
                let statement = self.runnable(query)?;
                let columns = self.set_columns(within.function);
                if !is_raising(&statement) && columns.len() != statement.query.types.len() {
                    return Stop::refuse("RETURN QUERY of another width");
                }
                for (column, found) in columns.iter().zip(&statement.query.types) {
                    if self.schema.types.base(column.type_oid) != self.schema.types.base(*found)
                        && *found != oid::UNKNOWN
                    {
                        return Stop::refuse("RETURN QUERY of other types");
                    }
                }
                Step::ReturnQuery(statement)
            }
            ast::Statement::ReturnNext(None) => Step::ReturnNext(None),
            ast::Statement::ReturnNext(Some(value)) => {
                if self.schema.is_composite(within.function.result) {
                    return Stop::refuse("RETURN NEXT of a row");
                }
                let (statement, cast, _) = self.value(value, within.function.result, -1)?;
                Step::ReturnNext(Some((statement, Box::new(cast))))
            }
            ast::Statement::Raise(level, arguments, condition) => {
                return self.raise(level, arguments, condition.as_deref(), within, steps);
            }
            ast::Statement::Query(query) => match &query.into {
                Some(into) => {
                    let statement = self.runnable(query)?;
                    let targets = self.targets(&into.targets, &statement)?;
                    Step::Into {
                        query: statement,
                        strict: into.strict,
                        targets,
                    }
                }
                None => Step::Raise(
                    SqlError::new("42601", "query has no destination for result data"),
                    Vec::new(),
                ),
            },
            ast::Statement::Perform(query) => Step::Perform(self.runnable(query)?),
            ast::Statement::ForQuery(target, query, body) => {
                let statement = self.runnable(query)?;
                let targets = self.targets(std::slice::from_ref(target), &statement)?;
                Step::ForQuery {
                    query: statement,
                    targets,
                    body: self.steps(body, within)?,
                }
            }
            ast::Statement::ForEach(target, array, body) => {
                let array = self.runnable(array)?;
                let variable = self.target_variable(target)?;
                let element = array
                    .query
                    .types
                    .first()
                    .and_then(|found| self.schema.types.element(*found));
                let (Some(element), Some(found)) = (element, self.frame.variables.get(variable))
                else {
                    return Stop::refuse("FOREACH over something other than an array");
                };
                let (to, typmod) = (found.type_oid, found.typmod);
                let cast = self.assignment(element, to, typmod)?;
                if is_unordered(&array.query) {
                    return Stop::refuse("a loop over an array whose order is not determined");
                }
                Step::ForEach {
                    variable,
                    array,
                    cast: Box::new(cast),
                    body: self.steps(body, within)?,
                }
            }
            ast::Statement::Leave(goes_on, condition) => {
                let condition = match condition {
                    Some(condition) => Some(self.condition_of(condition)?),
                    None => None,
                };
                Step::Leave(*goes_on, condition)
            }
        };
        steps.push(step);
        Ok(())
    }

    fn target_variable(&self, target: &Name) -> Result<usize, Stop> {
        let name = match target.as_slice() {
            [name] => name,
            [function, name] if self.frame.function.as_deref() == Some(function.as_str()) => name,
            _ => return Stop::refuse("an assignment to a part of a variable"),
        };
        let place = self
            .frame
            .variables
            .iter()
            .rposition(|found| !found.hidden && found.name.as_deref() == Some(name.as_str()));
        match place {
            Some(place) => Ok(place),
            None => Stop::refuse(format!("the variable {name}")),
        }
    }

    fn assign(&mut self, target: &Name, value: &tree::Query) -> Result<Step, Stop> {
        let variable = self.target_variable(target)?;
        let Some(found) = self.frame.variables.get(variable) else {
            return Stop::refuse("a variable");
        };
        let (to, typmod) = (found.type_oid, found.typmod);
        if to == oid::RECORD {
            return Stop::refuse("an assignment of a record");
        }
        let (value, cast, unordered) = self.value(value, to, typmod)?;
        if let Some(found) = self.frame.variables.get_mut(variable) {
            found.unordered |= unordered;
        }
        Ok(Step::Assign {
            variable,
            value,
            cast: Box::new(cast),
        })
    }

    fn return_step(
        &mut self,
        value: Option<&tree::Query>,
        within: &Compiling<'_>,
    ) -> Result<Step, Stop> {
        let function = within.function;
        let Some(value) = value else {
            return Ok(Step::Return(None));
        };
        if function.returns_set || function.outputs.len() > 1 || !within.outputs.is_empty() {
            return Stop::refuse("RETURN with a value in a function with OUT arguments");
        }
        if function.result == oid::VOID {
            return Stop::refuse("RETURN with a value in a function that returns nothing");
        }
        if self.schema.is_composite(function.result) || function.result == oid::RECORD {
            return Stop::refuse("a function that returns a row");
        }
        let (statement, cast, unordered) = self.value(value, function.result, -1)?;
        if unordered {
            return Stop::refuse("an array whose order is not determined, returned by a function");
        }
        Ok(Step::Return(Some((statement, Box::new(cast)))))
    }

    fn targets(&mut self, names: &[Name], statement: &Statement) -> Result<Vec<IntoTarget>, Stop> {
        if is_raising(statement) {
            return Ok(Vec::new());
        }
        let types = statement.query.types.clone();
        if let [only] = names {
            let variable = self.target_variable(only)?;
            let found = self
                .frame
                .variables
                .get(variable)
                .map_or(oid::TEXT, |found| found.type_oid);
            let composite = match self.schema.types.find(found).map(|found| &found.kind) {
                Some(Kind::Composite { fields, .. }) => Some(Arc::clone(fields)),
                _ => None,
            };
            if found == oid::RECORD || composite.is_some() {
                let fields: Arc<[Field]> = statement
                    .query
                    .names
                    .iter()
                    .zip(&types)
                    .map(|(name, type_oid)| Field {
                        name: name.clone(),
                        type_oid: *type_oid,
                        typmod: -1,
                    })
                    .collect();
                if let Some(expected) = composite {
                    let same = expected.len() == fields.len()
                        && expected
                            .iter()
                            .zip(fields.iter())
                            .all(|(a, b)| a.type_oid == b.type_oid);
                    if !same {
                        return Stop::refuse("a row of other columns into a variable");
                    }
                } else if let Some(variable) = self.frame.variables.get_mut(variable) {
                    if variable
                        .fields
                        .as_ref()
                        .is_some_and(|known| *known != fields)
                    {
                        return Stop::refuse("a record of changing columns");
                    }
                    variable.fields = Some(fields);
                }
                return Ok(vec![IntoTarget::Record {
                    variable,
                    width: types.len(),
                }]);
            }
        }
        let mut targets = Vec::new();
        for (column, name) in names.iter().enumerate() {
            let variable = self.target_variable(name)?;
            let Some(found) = self.frame.variables.get(variable) else {
                return Stop::refuse("a variable");
            };
            let (to, typmod) = (found.type_oid, found.typmod);
            if to == oid::RECORD {
                return Stop::refuse("a record among several targets");
            }
            let from = types.get(column).copied().unwrap_or(oid::UNKNOWN);
            let cast = self.assignment(from, to, typmod)?;
            if column_unordered(&statement.query, column)
                && let Some(found) = self.frame.variables.get_mut(variable)
            {
                found.unordered = true;
            }
            targets.push(IntoTarget::Variable {
                variable,
                column,
                cast: Box::new(cast),
            });
        }
        Ok(targets)
    }

    fn raise(
        &mut self,
        level: &str,
        arguments: &[tree::Query],
        condition: Option<&str>,
        within: &Compiling<'_>,
        steps: &mut Vec<Step>,
    ) -> Result<(), Stop> {
        if level == "again" {
            if !within.in_handler {
                return Stop::refuse("RAISE without anything to raise");
            }
            steps.push(Step::RaiseAgain);
            return Ok(());
        }
        let mut statements = Vec::new();
        for argument in arguments {
            let text = |ast: &tree::Query| match &ast.body {
                tree::Body::Select(select) => match select.targets.as_slice() {
                    [target] => match &target.value {
                        // The caught error's text and code: shown, never looked at.
                        tree::Ast::Name(name) => {
                            within.in_handler
                                && matches!(name.as_slice(), [only] if only == "sqlerrm" || only == "sqlstate")
                        }
                        tree::Ast::String(_) => true,
                        _ => false,
                    },
                    _ => false,
                },
                _ => false,
            };
            if !text(argument) {
                statements.push(self.runnable(argument)?);
            }
        }
        if level == "exception" {
            let state = match condition {
                None => "P0001".to_owned(),
                Some(name)
                    if name.len() == 5
                        && name
                            .chars()
                            .all(|c| c.is_ascii_uppercase() || c.is_ascii_digit()) =>
                {
                    name.to_owned()
                }
                Some(name) => match CONDITIONS.iter().find(|(known, _)| *known == name) {
                    Some((_, state)) if state.len() == 5 => (*state).to_owned(),
                    _ => return Stop::refuse(format!("the condition {name}")),
                },
            };
            steps.push(Step::Raise(
                SqlError::new(&state, "raised by a function"),
                statements,
            ));
        } else {
            steps.push(Step::Notice(statements));
        }
        Ok(())
    }
}

struct Compiling<'a> {
    function: &'a Function,
    outputs: &'a [usize],
    in_handler: bool,
}

fn condition(name: &str) -> Result<Condition, Stop> {
    if name == "others" {
        return Ok(Condition::Others);
    }
    if let Some((_, state)) = CONDITIONS.iter().find(|(known, _)| *known == name) {
        return Ok(Condition::State((*state).into()));
    }
    if name.len() == 5
        && name
            .chars()
            .all(|c| c.is_ascii_uppercase() || c.is_ascii_digit())
    {
        return Ok(Condition::State(name.into()));
    }
    Stop::refuse(format!("the condition {name}"))
}

/// `select value`, without tables.
fn plain(value: Expr) -> Statement {
    let types = vec![value.type_oid];
    let select = Select {
        from: Vec::new(),
        items: 0,
        gates: 0,
        merged: Vec::new(),
        ahead: BTreeSet::new(),
        exhaustive: false,
        invariants: Vec::new(),
        filter: Vec::new(),
        grouping: None,
        targets: vec![value],
        sets: Vec::new(),
        distinct: false,
        distinct_on: 0,
    };
    let mut query = Query::of(
        Body::Select(Box::new(select)),
        types,
        vec!["?column?".into()],
    );
    query.single = true;
    Statement {
        query: Arc::new(query),
        eager: Vec::new(),
        perhaps: Vec::new(),
    }
}

fn is_raising(statement: &Statement) -> bool {
    match &statement.query.body {
        Body::Select(select) => matches!(
            select.targets.as_slice(),
            [Expr {
                node: Node::Raise(_),
                ..
            }]
        ),
        _ => false,
    }
}

pub(super) fn column_unordered(query: &Query, column: usize) -> bool {
    match &query.body {
        Body::Select(select) => select
            .targets
            .get(column)
            .is_some_and(|target| target.unordered),
        Body::Union(left, right, _) => {
            column_unordered(left, column) || column_unordered(right, column)
        }
        _ => false,
    }
}

/// Whether the first column is an array in no certain order.
pub(super) fn is_unordered(query: &Query) -> bool {
    column_unordered(query, 0)
}
