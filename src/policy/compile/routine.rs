//! Functions of the user's: compiled once for the role, search path and argument types that they run with.

use std::sync::Arc;

use super::overload::{Context, is_polymorphic};
use super::scope::Variable;
use super::{Compiler, Stop, eager};
use crate::policy::ir::{Code, Collated, Expr, Hazard, Node, Query, Routine, SqlResult, Statement};
use crate::policy::schema::Function;
use crate::policy::syntax::{self, plpgsql, tree};
use crate::policy::value::{Oid, oid};

impl Compiler<'_> {
    /// The place of a function among the plan's routines, compiled for arguments of these types.
    pub(super) fn routine(
        &mut self,
        function: &Arc<Function>,
        given: &[Oid],
    ) -> Result<usize, Stop> {
        if function
            .executors
            .as_ref()
            .is_some_and(|executors| !executors.contains(&self.role))
        {
            return Stop::raise(
                "42501",
                format!("permission denied for function {}", function.name),
            );
        }
        if !matches!(&*function.language, "sql" | "plpgsql") {
            return Stop::refuse(format!("the function {}", self.signature(function)));
        }
        if is_polymorphic(function.result)
            || function
                .arguments
                .iter()
                .any(|found| is_polymorphic(*found))
        {
            return Stop::refuse(format!(
                "the polymorphic function {}",
                self.signature(function)
            ));
        }
        if function.variadic != 0 {
            return Stop::refuse(format!(
                "the variadic function {}",
                self.signature(function)
            ));
        }
        let role = if function.definer {
            function.owner
        } else {
            self.role
        };
        let path = self.path_of(function)?;
        let key = (function.oid, role, path.clone(), given.to_vec());
        if let Some(index) = self.compiled.get(&key) {
            return Ok(*index);
        }
        let index = self.routines.len();
        self.compiled.insert(key, index);
        self.routines.push(Routine {
            oid: function.oid,
            strict: function.strict,
            volatile: function.volatility == b'v',
            immutable: function.volatility == b'i',
            returns_set: function.returns_set,
            unordered: false,
            hazard: Hazard::UNKNOWN,
            code: Code::Pending,
        });
        let outer = (
            std::mem::replace(&mut self.role, role),
            std::mem::replace(&mut self.search_path, path.clone()),
            std::mem::take(&mut self.rewriting),
            std::mem::take(&mut self.frame),
        );
        self.frame.path = if function.bound { None } else { Some(path) };
        self.frame.function = Some(function.name.clone());
        for (place, type_oid) in given.iter().enumerate() {
            let type_oid = function.arguments.get(place).copied().unwrap_or(*type_oid);
            let name = function.argument_names.get(place).cloned().flatten();
            self.declare(name, type_oid, -1);
        }
        self.depth = self.depth.saturating_add(8);
        let code = match &*function.language {
            "sql" => self.sql_function(function),
            _ => self.plpgsql_function(function),
        };
        self.depth = self.depth.saturating_sub(8);
        (self.role, self.search_path, self.rewriting, self.frame) = outer;
        let code = match code {
            Ok(code) => code,
            Err(Stop::Raise(error)) => Code::Raise(error),
            Err(Stop::Refuse(reason)) => {
                return Stop::refuse(
                    format!("{reason} (in {}.{})", function.schema, function.name).replace(
                        &format!(" (in {0}.{1}) (in {0}.{1})", function.schema, function.name),
                        &format!(" (in {}.{})", function.schema, function.name),
                    ),
                );
            }
        };
        let hazard = match self.routines.get(index) {
            Some(routine) => self.library().hazard_of(routine, &code),
            None => Hazard::UNKNOWN,
        };
        if let Some(routine) = self.routines.get_mut(index) {
            routine.hazard = hazard;
            routine.unordered = match &code {
                Code::Sql { statements, .. } => statements
                    .last()
                    .is_some_and(|last| super::plpgsql::is_unordered(&last.query)),
                _ => false,
            };
            routine.code = code;
        }
        Ok(index)
    }

    pub(super) fn routine_function(&self, index: usize) -> Option<Arc<Function>> {
        let routine = self.routines.get(index)?;
        self.schema.functions.get(&routine.oid).map(Arc::clone)
    }

    /// Adds a variable; its index is that of its parameter.
    pub(super) fn declare(&mut self, name: Option<Box<str>>, type_oid: Oid, typmod: i32) -> usize {
        let collation = self
            .schema
            .types
            .find(type_oid)
            .map_or(0, |found| found.collation);
        self.frame.variables.push(Variable {
            name,
            type_oid,
            typmod,
            collation: Collated::implicit(collation),
            fields: None,
            unordered: false,
            hidden: false,
        });
        self.frame.variables.len().saturating_sub(1)
    }

    /// The search path inside of the function.
    fn path_of(&self, function: &Function) -> Result<Vec<Box<str>>, Stop> {
        let mut path = self.search_path.clone();
        for setting in &function.config {
            let Some((name, value)) = setting.split_once('=') else {
                return Stop::refuse("a setting of a function");
            };
            match name.to_ascii_lowercase().as_str() {
                "search_path" => path = parse_path(value)?,
                // How much time and memory it may take does not change what it answers.
                "statement_timeout"
                | "lock_timeout"
                | "work_mem"
                | "jit"
                | "plan_cache_mode"
                | "client_min_messages" => {}
                other => return Stop::refuse(format!("a function that sets {other}")),
            }
        }
        Ok(path)
    }

    fn sql_function(&mut self, function: &Function) -> Result<Code, Stop> {
        let queries = syntax::statements(&function.body)?;
        let mut statements = Vec::new();
        for query in &queries {
            let compiled = self.subquery(query)?;
            statements.push(compiled);
        }
        let result = match statements.last_mut() {
            _ if function.result == oid::VOID => SqlResult::Nothing,
            None => return Stop::refuse("a function without statements"),
            Some(last) => self.sql_result(function, last)?,
        };
        let statements = statements
            .into_iter()
            .map(|query| {
                let found = eager::of_query(&query, false);
                Statement {
                    query: Arc::new(query),
                    eager: found.certain,
                    perhaps: found.perhaps,
                }
            })
            .collect();
        Ok(Code::Sql { statements, result })
    }

    fn sql_result(&mut self, function: &Function, last: &mut Query) -> Result<SqlResult, Stop> {
        if function.returns_set
            && !(self.schema.is_composite(function.result) || function.outputs.len() > 1)
        {
            // Sets are converted row by row where they are read.
            let [found] = last.types.as_slice() else {
                return Stop::refuse("the result of a function");
            };
            let wanted = function.result;
            let slot = Expr::new(Node::Slot(0), *found);
            return Ok(SqlResult::Column(Box::new(self.coerce(
                slot,
                wanted,
                -1,
                Context::Assignment,
            )?)));
        }
        if self.schema.is_composite(function.result) || function.result == oid::RECORD {
            let columns = self.set_columns(function);
            if let ([only], false) = (last.types.as_slice(), columns.len() == 1)
                && *only == function.result
            {
                let slot = Expr::new(Node::Slot(0), *only);
                return Ok(SqlResult::Column(Box::new(slot)));
            }
            let same = columns.len() == last.types.len()
                && columns.iter().zip(&last.types).all(|(column, found)| {
                    column.type_oid == *found
                        || self.schema.types.base(column.type_oid) == self.schema.types.base(*found)
                });
            if !same {
                return Stop::refuse("a function whose row is converted");
            }
            return Ok(SqlResult::Row);
        }
        let [found] = last.types.as_slice() else {
            return Stop::refuse("the result of a function");
        };
        let slot = self.typed(Node::Slot(0), *found, -1);
        let cast = self.coerce(slot, function.result, -1, Context::Assignment)?;
        Ok(SqlResult::Column(Box::new(cast)))
    }

    fn plpgsql_function(&mut self, function: &Function) -> Result<Code, Stop> {
        let block = plpgsql::block(&function.body)?;
        let program = self.program(function, &block)?;
        Ok(Code::Plpgsql(Box::new(program)))
    }

    /// A statement with what the planner evaluates before it runs.
    pub(super) fn statement(&mut self, query: &tree::Query) -> Result<Statement, Stop> {
        let compiled = self.subquery(query);
        match compiled {
            Ok(query) => {
                let mut found = eager::of_query(&query, self.frame.plpgsql);
                if self.frame.plpgsql {
                    self.fold_parameters(&query, &mut found.perhaps);
                }
                Ok(Statement {
                    query: Arc::new(query),
                    eager: found.certain,
                    perhaps: found.perhaps,
                })
            }
            Err(stop) => Err(stop),
        }
    }

    /// Parts over constants and parameters that may raise: the planner evaluates them, wherever they stand, unless the plan is
    /// used again or there is no more than an expression.
    fn fold_parameters(&self, query: &Query, found: &mut Vec<Expr>) {
        let is_query = |expr: &Expr, _: usize| expr.subquery().is_some();
        if query
            .only_value()
            .is_some_and(|only| !only.any(&mut { is_query }))
        {
            return;
        }
        let library = self.library();
        query.walk(0, &mut |expr, _| {
            let is_constant = !expr.any(&mut |expr, _| {
                !library.is_constant(expr) && !matches!(expr.node, Node::Parameter(_))
            });
            if is_constant && library.is_fallible(expr) {
                found.push(expr.clone());
            }
            is_constant
        });
    }
}

/// `search_path` as stored: names separated by commas, quoted where needed.
fn parse_path(value: &str) -> Result<Vec<Box<str>>, Stop> {
    let mut path = Vec::new();
    for part in value.split(',') {
        let part = part.trim();
        let name = match part
            .strip_prefix('"')
            .and_then(|rest| rest.strip_suffix('"'))
        {
            Some(quoted) => quoted.to_owned(),
            None => part.to_ascii_lowercase(),
        };
        if name.contains('"') {
            return Stop::refuse("a search path with odd names");
        }
        // A schema of the role's name, and one of temporary objects, which nobody here has.
        if !matches!(name.as_str(), "" | "$user" | "pg_temp") {
            path.push(name.into());
        }
    }
    Ok(path)
}
