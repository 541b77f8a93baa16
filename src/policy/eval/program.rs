//! Functions of the user's.

use std::ops::ControlFlow;

use super::query::may_not_be_met;
use super::{DEPTH_MAX, Machine, Scope};
use crate::policy::builtin::Row;
use crate::policy::ir::{
    Code, Condition, Expr, IntoTarget, Program, Routine, SqlResult, Statement, Step,
};
use crate::policy::value::{SqlError, Value};

/// What a step leads to.
enum Flow {
    Next,
    Return(Value),
    Exit,
    Continue,
}

/// A running PL/pgSQL function.
struct Run<'r> {
    program: &'r Program,
    variables: Vec<Value>,
    rows: Vec<Row>,
    caught: Vec<SqlError>,
}

/// Rows in one batch, converted.
enum Outcome {
    Value(Value),
    Rows(Vec<Row>),
}

impl Machine<'_> {
    /// A function's one value.
    pub(super) fn routine(&self, index: usize, arguments: Vec<Value>) -> Result<Value, SqlError> {
        let routine = self.find(index)?;
        if routine.strict && arguments.iter().any(Value::is_null) {
            return Ok(Value::Null);
        }
        match self.enter(routine, arguments)? {
            Outcome::Value(value) => Ok(value),
            Outcome::Rows(_) => Err(SqlError::internal("a set where one value is expected")),
        }
    }

    /// A function's rows.
    pub(super) fn routine_rows(
        &self,
        index: usize,
        arguments: Vec<Value>,
    ) -> Result<Vec<Row>, SqlError> {
        let routine = self.find(index)?;
        if routine.strict && arguments.iter().any(Value::is_null) {
            return Ok(Vec::new());
        }
        match self.enter(routine, arguments)? {
            Outcome::Rows(rows) => Ok(rows),
            Outcome::Value(value) => Ok(vec![Box::from([value])]),
        }
    }

    fn find(&self, index: usize) -> Result<&Routine, SqlError> {
        self.plan
            .routines
            .get(index)
            .ok_or_else(|| SqlError::internal("a function that is missing"))
    }

    fn enter(&self, routine: &Routine, arguments: Vec<Value>) -> Result<Outcome, SqlError> {
        let depth = self.depth.get();
        if depth >= DEPTH_MAX {
            return Err(SqlError::new("54001", "stack depth limit exceeded"));
        }
        self.depth.set(depth.saturating_add(1));
        let outcome = match &routine.code {
            Code::Pending => Err(SqlError::internal("a function that was not compiled")),
            Code::Raise(error) => Err(error.clone()),
            Code::Sql { statements, result } => self.sql(routine, statements, result, &arguments),
            Code::Plpgsql(program) => self.plpgsql(routine, program, arguments),
        };
        self.depth.set(depth);
        outcome
    }

    fn sql(
        &self,
        routine: &Routine,
        statements: &[Statement],
        result: &SqlResult,
        arguments: &[Value],
    ) -> Result<Outcome, SqlError> {
        let scope = Scope::root(arguments);
        let Some((last, before)) = statements.split_last() else {
            return Ok(Outcome::Value(Value::Null));
        };
        for statement in before {
            self.exhaust(statement, &scope)?;
        }
        self.before(last, &scope)?;
        let convert = |row: &[Value]| -> Result<Row, SqlError> {
            match result {
                SqlResult::Nothing => Ok(Box::from([Value::Null])),
                SqlResult::Row => Ok(row.into()),
                SqlResult::Column(cast) => {
                    let slots = [row.first().cloned().unwrap_or(Value::Null)];
                    Ok(Box::from([self.eval(
                        cast,
                        &Scope {
                            slots: &slots,
                            ..scope
                        },
                    )?]))
                }
            }
        };
        if routine.returns_set {
            let mut rows = Vec::new();
            self.run(&last.query, &scope, &mut |row| {
                rows.push(convert(row)?);
                Ok(ControlFlow::Continue(()))
            })?;
            return Ok(Outcome::Rows(rows));
        }
        let Some(first) = self.first(&last.query, &scope)? else {
            return Ok(Outcome::Value(Value::Null));
        };
        let row = convert(&first)?;
        Ok(Outcome::Value(match (result, &*row) {
            (SqlResult::Row, row) => Value::Record(row.into()),
            (_, [only]) => only.clone(),
            _ => Value::Null,
        }))
    }

    /// What the planner evaluates.
    fn before(&self, statement: &Statement, scope: &Scope<'_>) -> Result<(), SqlError> {
        for expr in &statement.perhaps {
            self.eval(expr, scope).map_err(may_not_be_met)?;
        }
        statement
            .eager
            .iter()
            .try_for_each(|expr| self.eval(expr, scope).map(drop))
    }

    fn exhaust(&self, statement: &Statement, scope: &Scope<'_>) -> Result<bool, SqlError> {
        self.before(statement, scope)?;
        let mut found = false;
        self.run(&statement.query, scope, &mut |_row| {
            found = true;
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(found)
    }

    fn plpgsql(
        &self,
        routine: &Routine,
        program: &Program,
        arguments: Vec<Value>,
    ) -> Result<Outcome, SqlError> {
        let mut variables = arguments;
        variables.resize(program.variables, Value::Null);
        let mut run = Run {
            program,
            variables,
            rows: Vec::new(),
            caught: Vec::new(),
        };
        run.set(program.found, Value::Bool(false));
        let flow = self.steps(&mut run, &program.body)?;
        if routine.returns_set {
            return Ok(Outcome::Rows(run.rows));
        }
        match flow {
            Flow::Return(value) if program.outputs.is_empty() => Ok(Outcome::Value(value)),
            Flow::Next | Flow::Return(_) if !program.outputs.is_empty() => {
                let outputs = run.outputs();
                Ok(Outcome::Value(match &*outputs {
                    [only] => only.clone(),
                    _ => Value::Record(outputs.into()),
                }))
            }
            Flow::Next if program.returns_void => Ok(Outcome::Value(Value::Null)),
            _ => Err(SqlError::new(
                "2F005",
                "control reached end of function without RETURN",
            )),
        }
    }

    fn steps(&self, run: &mut Run<'_>, steps: &[Step]) -> Result<Flow, SqlError> {
        for step in steps {
            self.step()?;
            match self.one(run, step)? {
                Flow::Next => {}
                flow => return Ok(flow),
            }
        }
        Ok(Flow::Next)
    }

    /// The first column of a statement's first row, converted.
    fn value(
        &self,
        run: &Run<'_>,
        statement: &Statement,
        cast: Option<&Expr>,
    ) -> Result<Value, SqlError> {
        let scope = Scope::root(&run.variables);
        self.before(statement, &scope)?;
        let mut found: Option<Value> = None;
        self.run(&statement.query, &scope, &mut |row| {
            if found.is_some() {
                return Err(SqlError::new("21000", "query returned more than one row"));
            }
            found = Some(row.first().cloned().unwrap_or(Value::Null));
            Ok(ControlFlow::Continue(()))
        })?;
        let slots = [found.unwrap_or(Value::Null)];
        match cast {
            Some(cast) => self.eval(
                cast,
                &Scope {
                    slots: &slots,
                    ..scope
                },
            ),
            None => {
                let [value] = slots;
                Ok(value)
            }
        }
    }

    fn one(&self, run: &mut Run<'_>, step: &Step) -> Result<Flow, SqlError> {
        match step {
            Step::Assign {
                variable,
                value,
                cast,
            } => {
                let value = self.value(run, value, Some(cast))?;
                run.set(*variable, value);
            }
            Step::If(branches, otherwise) => {
                for (condition, body) in branches {
                    if self.value(run, condition, None)? == Value::Bool(true) {
                        return self.steps(run, body);
                    }
                }
                return self.steps(run, otherwise);
            }
            Step::Return(None) => return Ok(Flow::Return(Value::Null)),
            Step::Return(Some((statement, cast))) => {
                return Ok(Flow::Return(self.value(run, statement, Some(cast))?));
            }
            Step::ReturnQuery(statement) => {
                let scope = Scope::root(&run.variables);
                self.before(statement, &scope)?;
                let mut rows = Vec::new();
                self.run(&statement.query, &scope, &mut |row| {
                    rows.push(row.into());
                    Ok(ControlFlow::Continue(()))
                })?;
                let found = Value::Bool(!rows.is_empty());
                run.rows.append(&mut rows);
                run.set(run.program.found, found);
            }
            Step::ReturnNext(None) => {
                let outputs = run.outputs();
                run.rows.push(outputs);
            }
            Step::ReturnNext(Some((statement, cast))) => {
                let value = self.value(run, statement, Some(cast))?;
                run.rows.push(Box::from([value]));
            }
            Step::Raise(error, arguments) => {
                for argument in arguments {
                    self.value(run, argument, None)?;
                }
                return Err(error.clone());
            }
            Step::Notice(arguments) => {
                for argument in arguments {
                    self.value(run, argument, None)?;
                }
            }
            Step::Into {
                query,
                strict,
                targets,
            } => self.into(run, query, *strict, targets)?,
            Step::Perform(statement) => {
                let found = self.exhaust(statement, &Scope::root(&run.variables))?;
                run.set(run.program.found, Value::Bool(found));
            }
            Step::ForQuery {
                query,
                targets,
                body,
            } => {
                let scope = Scope::root(&run.variables);
                self.before(query, &scope)?;
                let rows = self.rows_of(&query.query, &scope);
                // The loop may end before it comes to the row that raises.
                let rows = rows.map_err(may_not_be_met)?;
                if rows.len() > 1 && query.query.order_by.is_empty() {
                    return Err(SqlError::undecided("the order of a loop's rows"));
                }
                let some = !rows.is_empty();
                for row in rows {
                    self.store(run, targets, Some(&row))?;
                    match self.steps(run, body)? {
                        Flow::Next | Flow::Continue => {}
                        Flow::Exit => break,
                        flow @ Flow::Return(_) => return Ok(flow),
                    }
                }
                run.set(run.program.found, Value::Bool(some));
            }
            Step::ForEach {
                variable,
                array,
                cast,
                body,
            } => {
                let Some(array) = Self::elements(self.value(run, array, None)?)? else {
                    return Err(SqlError::new(
                        "22004",
                        "FOREACH expression must not be null",
                    ));
                };
                for element in &array.elements {
                    self.assign(run, *variable, cast, element.clone())?;
                    match self.steps(run, body)? {
                        Flow::Next | Flow::Continue => {}
                        Flow::Exit => break,
                        flow @ Flow::Return(_) => return Ok(flow),
                    }
                }
                run.set(run.program.found, Value::Bool(!array.elements.is_empty()));
            }
            Step::Leave(goes_on, condition) => {
                let leaves = match condition {
                    Some(condition) => self.value(run, condition, None)? == Value::Bool(true),
                    None => true,
                };
                if leaves {
                    return Ok(if *goes_on { Flow::Continue } else { Flow::Exit });
                }
            }
            Step::Block { body, handlers } => return self.block(run, body, handlers),
            Step::RaiseAgain => {
                let error = run.caught.last().cloned();
                return Err(error.unwrap_or_else(|| SqlError::internal("nothing to raise again")));
            }
        }
        Ok(Flow::Next)
    }

    fn block(
        &self,
        run: &mut Run<'_>,
        body: &[Step],
        handlers: &[(Vec<Condition>, Vec<Step>)],
    ) -> Result<Flow, SqlError> {
        let depth = self.depth.get();
        let error = match self.steps(run, body) {
            Ok(flow) => return Ok(flow),
            Err(error) => error,
        };
        self.depth.set(depth);
        // Never taken for something that Postgres would have caught: our own mistakes and limits.
        if handlers.is_empty() || error.is_undecided() {
            return Err(error);
        }
        if &*error.sqlstate == "54001" {
            let caught = format!("an error that a function would catch: {}", error.message);
            return Err(SqlError::undecided(&caught));
        }
        let catches = |condition: &Condition| match condition {
            Condition::Others => !matches!(&*error.sqlstate, "57014" | "P0004"),
            Condition::State(state) => error.sqlstate.starts_with(&**state),
        };
        let Some((_, steps)) = handlers
            .iter()
            .find(|(conditions, _)| conditions.iter().any(catches))
        else {
            return Err(error);
        };
        // What was returned before the error stays: rows of RETURN NEXT belong to no subtransaction.
        run.caught.push(error);
        let flow = self.steps(run, steps);
        run.caught.pop();
        flow
    }

    fn into(
        &self,
        run: &mut Run<'_>,
        statement: &Statement,
        strict: bool,
        targets: &[IntoTarget],
    ) -> Result<(), SqlError> {
        let scope = Scope::root(&run.variables);
        self.before(statement, &scope)?;
        let row = if strict {
            let mut found: Option<Row> = None;
            self.run(&statement.query, &scope, &mut |row| {
                if found.is_some() {
                    return Err(SqlError::new("P0003", "query returned more than one row"));
                }
                found = Some(row.into());
                Ok(ControlFlow::Continue(()))
            })?;
            if found.is_none() {
                return Err(SqlError::new("P0002", "query returned no rows"));
            }
            found
        } else {
            self.first(&statement.query, &scope)?
        };
        self.store(run, targets, row.as_deref())?;
        run.set(run.program.found, Value::Bool(row.is_some()));
        Ok(())
    }

    /// Sets a variable to a value, cast to its type.
    fn assign(
        &self,
        run: &mut Run<'_>,
        variable: usize,
        cast: &Expr,
        value: Value,
    ) -> Result<(), SqlError> {
        let slots = [value];
        let scope = Scope {
            slots: &slots,
            ..Scope::root(&run.variables)
        };
        let value = self.eval(cast, &scope)?;
        run.set(variable, value);
        Ok(())
    }

    fn store(
        &self,
        run: &mut Run<'_>,
        targets: &[IntoTarget],
        row: Option<&[Value]>,
    ) -> Result<(), SqlError> {
        for target in targets {
            match target {
                IntoTarget::Variable {
                    variable,
                    column,
                    cast,
                } => {
                    let value = row
                        .and_then(|row| row.get(*column))
                        .cloned()
                        .unwrap_or(Value::Null);
                    self.assign(run, *variable, cast, value)?;
                }
                IntoTarget::Record { variable, width } => {
                    // Without a row all fields are NULL, and so is the record.
                    let fields = match row {
                        Some(row) => row.into(),
                        None => vec![Value::Null; *width].into(),
                    };
                    run.set(*variable, Value::Record(fields));
                }
            }
        }
        Ok(())
    }
}

impl Run<'_> {
    fn set(&mut self, variable: usize, value: Value) {
        if let Some(entry) = self.variables.get_mut(variable) {
            *entry = value;
        }
    }

    fn outputs(&self) -> Row {
        let outputs = self.program.outputs.iter();
        outputs
            .map(|place| self.variables.get(*place).cloned().unwrap_or(Value::Null))
            .collect()
    }
}
