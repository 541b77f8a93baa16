//! Conversions between types, and names of types.

use std::sync::Arc;

use super::overload::{Context, Path};
use super::{Compiler, Stop};
use crate::policy::ir::{Collated, DEFAULT_COLLATION, Expr, Node};
use crate::policy::syntax::tree::TypeName;
use crate::policy::value::{Kind, Oid, SqlError, Value, input, oid, output, supported};

/// Refuses a constant expression that has no value: Postgres may raise while it plans, on any number of rows.
pub(super) fn known(value: Result<Value, SqlError>) -> Result<(), Stop> {
    match value {
        Ok(_) => Ok(()),
        Err(error) if error.is_undecided() => Stop::refuse(error.message),
        Err(error) => Stop::refuse(format!("a constant that raises: {}", error.message)),
    }
}

impl Compiler<'_> {
    /// Converts an expression; `typmod` is applied as the context does.
    pub(super) fn coerce(
        &mut self,
        expr: Expr,
        to: Oid,
        typmod: i32,
        context: Context,
    ) -> Result<Expr, Stop> {
        let types = Arc::clone(&self.schema.types);
        if expr.type_oid == to && (typmod == -1 || typmod == expr.typmod) {
            return Ok(expr);
        }
        if let Some(Kind::Domain {
            constrained: true, ..
        }) = types.find(to).map(|found| &found.kind)
        {
            return Stop::refuse(format!(
                "a value made for the domain {}, which has constraints",
                types.name(to)
            ));
        }
        let (target, typmod) = match types.find(to).map(|found| &found.kind) {
            Some(Kind::Domain { typmod: own, .. }) => (types.base(to), *own),
            _ => (to, typmod),
        };
        if let (Node::Const(value), oid::UNKNOWN) = (&expr.node, expr.type_oid) {
            if !supported(&types, target) {
                return Stop::refuse(format!("the type {}", types.name(target)));
            }
            let value = match value {
                // Implicit lengths never cut; explicit ones and those of literals do by the same function.
                Value::Text(text) => input(&types, target, typmod, text)?,
                other => other.clone(),
            };
            return Ok(self.typed(Node::Const(value), to, typmod));
        }
        if expr.type_oid == oid::UNKNOWN && target != oid::TEXT {
            // A parameter or column of unknown type: only literals have it in practice.
            return Stop::refuse("a value of unknown type");
        }
        if to == oid::RECORD
            && (self.schema.is_composite(expr.type_oid) || expr.type_oid == oid::RECORD)
        {
            return Ok(expr);
        }
        let Some(path) = self.schema.path(expr.type_oid, target, context) else {
            let message = format!(
                "cannot cast type {} to {}",
                types.name(expr.type_oid),
                types.name(to)
            );
            return match self.frame.path {
                None => Stop::refuse(message),
                Some(_) if matches!(expr.type_oid, oid::RECORD | oid::UNKNOWN) => {
                    Stop::refuse(message)
                }
                Some(_) => Stop::raise("42846", message),
            };
        };
        let converted = self.along(expr, &path, target, typmod, context)?;
        let mut converted = if typmod != -1 && converted.typmod != typmod {
            self.apply_length(converted, target, typmod, context)?
        } else {
            converted
        };
        converted.type_oid = to;
        Ok(converted)
    }

    fn along(
        &mut self,
        expr: Expr,
        path: &Path,
        to: Oid,
        typmod: i32,
        context: Context,
    ) -> Result<Expr, Stop> {
        if !supported(&self.schema.types, to) {
            return Stop::refuse(format!("the type {}", self.schema.types.name(to)));
        }
        let collation = self.collation_after(&expr, to);
        let unordered = expr.unordered;
        let node = match path {
            Path::Relabel => {
                // Of the same type otherwise: only its name changes, and its length stays known.
                let typmod = if self.schema.types.base(expr.type_oid) == self.schema.types.base(to)
                {
                    expr.typmod
                } else {
                    -1
                };
                return Ok(Expr {
                    node: Node::Relabel(Box::new(expr)),
                    type_oid: to,
                    typmod,
                    collation,
                    unordered,
                });
            }
            Path::Function(function) => {
                let explicit = context == Context::Explicit;
                let takes = self
                    .schema
                    .functions
                    .get(function)
                    .map_or(1, |found| found.arguments.len());
                let mut arguments = vec![expr];
                let extra = [
                    Expr::new(Node::Const(Value::Int(i64::from(typmod))), oid::INT4),
                    Expr::truth(explicit),
                ];
                arguments.extend(extra.into_iter().take(takes.saturating_sub(1)));
                let mut call = self.call_function(*function, arguments, false)?;
                if takes > 1 {
                    call.typmod = typmod;
                }
                return Ok(call);
            }
            Path::TextForm => {
                if !supported(&self.schema.types, expr.type_oid) {
                    return Stop::refuse(format!(
                        "the type {}",
                        self.schema.types.name(expr.type_oid)
                    ));
                }
                if let Node::Const(value) = &expr.node
                    && !value.is_null()
                {
                    let types = &self.schema.types;
                    let read = output(types, expr.type_oid, value)
                        .and_then(|text| input(types, to, -1, &text));
                    known(read)?;
                }
                Node::TextForm(Box::new(expr))
            }
            Path::Elements(inner) => {
                let types = Arc::clone(&self.schema.types);
                let (Some(from), Some(into)) = (types.element(expr.type_oid), types.element(to))
                else {
                    return Stop::refuse("a conversion of arrays");
                };
                let slot = Expr {
                    collation,
                    ..Expr::new(Node::Slot(0), from)
                };
                let each = self.along(slot, inner, into, typmod, context)?;
                Node::Elements(Box::new(expr), Box::new(each))
            }
        };
        Ok(Expr {
            node,
            type_oid: to,
            typmod: -1,
            collation,
            unordered,
        })
    }

    fn apply_length(
        &mut self,
        expr: Expr,
        target: Oid,
        typmod: i32,
        context: Context,
    ) -> Result<Expr, Stop> {
        let types = Arc::clone(&self.schema.types);
        if let Some(element) = types.element(target) {
            if !self.schema.casts.contains_key(&(element, element)) {
                return Ok(expr);
            }
            let collation = expr.collation;
            let slot = Expr {
                collation,
                ..Expr::new(Node::Slot(0), element)
            };
            let each = self.apply_length(slot, element, typmod, context)?;
            let unordered = expr.unordered;
            let node = Node::Elements(Box::new(expr), Box::new(each));
            return Ok(Expr {
                node,
                type_oid: target,
                typmod,
                collation,
                unordered,
            });
        }
        let Some(cast) = self.schema.casts.get(&(target, target)).copied() else {
            return Ok(expr);
        };
        let takes = self
            .schema
            .functions
            .get(&cast.function)
            .map_or(2, |found| found.arguments.len());
        let mut arguments = vec![
            expr,
            Expr::new(Node::Const(Value::Int(i64::from(typmod))), oid::INT4),
        ];
        if takes > 2 {
            arguments.push(Expr::truth(context == Context::Explicit));
        }
        let mut call = self.call_function(cast.function, arguments, false)?;
        call.typmod = typmod;
        Ok(call)
    }

    fn collation_after(&self, expr: &Expr, to: Oid) -> Collated {
        match self
            .schema
            .types
            .find(to)
            .map_or(0, |found| found.collation)
        {
            0 => Collated::NONE,
            _ if expr.collation.oid != 0 => expr.collation,
            own => Collated::implicit(own),
        }
    }

    /// An expression with the default collation of its type.
    pub(super) fn typed(&self, node: Node, type_oid: Oid, typmod: i32) -> Expr {
        let collation = self
            .schema
            .types
            .find(type_oid)
            .map_or(0, |found| found.collation);
        Expr {
            typmod,
            collation: Collated::implicit(collation),
            ..Expr::new(node, type_oid)
        }
    }

    /// A literal that found no use as anything else is text.
    pub(super) fn settle(&mut self, expr: Expr) -> Result<Expr, Stop> {
        if expr.type_oid == oid::UNKNOWN {
            return self.coerce(expr, oid::TEXT, -1, Context::Implicit);
        }
        Ok(expr)
    }

    pub(super) fn boolean(&mut self, expr: Expr) -> Result<Expr, Stop> {
        if expr.type_oid != oid::UNKNOWN && self.schema.types.base(expr.type_oid) != oid::BOOL {
            return Stop::refuse("a condition that is not boolean");
        }
        self.coerce(expr, oid::BOOL, -1, Context::Assignment)
    }

    /// A written type: its OID and modifier.
    pub(super) fn find_type(&mut self, named: &TypeName) -> Result<(Oid, i32), Stop> {
        let shown = named.name.join(".");
        if let Some(percent) = &named.percent {
            return self.type_of_other(named, percent);
        }
        let found = match named.name.as_slice() {
            [name] => {
                // `serial` is no type of values.
                let paths = self.search_schemas();
                paths.iter().find_map(|schema| {
                    self.schema
                        .type_names
                        .get(&(schema.clone(), name.as_str().into()))
                })
            }
            [schema, name] => {
                if self.frame.path.is_some() && !self.schema.may_use(self.role, schema) {
                    return Stop::raise("42501", format!("permission denied for schema {schema}"));
                }
                self.schema
                    .type_names
                    .get(&(schema.as_str().into(), name.as_str().into()))
            }
            _ => None,
        };
        let Some(type_oid) = found.copied() else {
            return match self.frame.path {
                Some(_) => Stop::raise("42704", format!("type \"{shown}\" does not exist")),
                None => Stop::refuse(format!("the type {shown}")),
            };
        };
        let typmod = match (type_oid, named.modifiers.as_slice()) {
            (_, []) => -1,
            (oid::VARCHAR | oid::BPCHAR, [length]) => length.saturating_add(4),
            (oid::BIT | oid::VARBIT, [length]) => *length,
            (oid::TIMESTAMP | oid::TIMESTAMPTZ | oid::TIME | oid::TIMETZ, [digits]) => *digits,
            (oid::NUMERIC, [precision]) => precision.saturating_mul(65536).saturating_add(4),
            (oid::NUMERIC, [precision, scale]) => precision
                .saturating_mul(65536)
                .saturating_add(scale & 0x7ff)
                .saturating_add(4),
            _ => return Stop::refuse(format!("a modifier of the type {shown}")),
        };
        if !named.array {
            return Ok((type_oid, typmod));
        }
        match self.schema.types.array_over(type_oid) {
            Some(array) => Ok((array, typmod)),
            None => Stop::refuse(format!("an array of {shown}")),
        }
    }

    /// `table%ROWTYPE`, `table.column%TYPE`, `variable%TYPE`.
    fn type_of_other(&mut self, named: &TypeName, percent: &str) -> Result<(Oid, i32), Stop> {
        if percent == "rowtype" {
            return Ok((self.find_table(&named.name)?.row_type, -1));
        }
        if let [name] = named.name.as_slice() {
            let variable = self
                .frame
                .variables
                .iter()
                .rev()
                .find(|found| found.name.as_deref() == Some(name.as_str()));
            if let Some(variable) = variable {
                return Ok((variable.type_oid, variable.typmod));
            }
        }
        if let Some((column, table)) = named.name.split_last() {
            let table = self.find_table(table)?;
            if let Some(found) = table.columns.iter().find(|found| *found.name == **column) {
                return Ok((found.type_oid, found.typmod));
            }
        }
        Stop::refuse("%TYPE of something unknown")
    }

    /// Schemas in which unqualified names are looked for.
    pub(super) fn search_schemas(&self) -> Vec<Box<str>> {
        let system: Box<str> = "pg_catalog".into();
        match &self.frame.path {
            None => vec![system],
            Some(path) => {
                let mut schemas = Vec::new();
                if !path.contains(&system) {
                    schemas.push(system);
                }
                schemas.extend(
                    path.iter()
                        .filter(|schema| self.schema.may_use(self.role, schema))
                        .cloned(),
                );
                schemas
            }
        }
    }

    /// The collation that a call of these arguments uses.
    pub(super) fn combine(arguments: &[Expr]) -> Collated {
        let mut combined = Collated::NONE;
        for found in arguments
            .iter()
            .map(|argument| argument.collation)
            .filter(|found| found.oid != 0)
        {
            combined = match (combined, found) {
                (Collated { oid: 0, .. }, found) => found,
                (a, b) if a.explicit && b.explicit && a.oid != b.oid => Collated {
                    oid: crate::policy::ir::CONFLICT,
                    explicit: true,
                },
                (a, _) if a.explicit => a,
                (_, b) if b.explicit => b,
                (a, b) if a.oid == b.oid => a,
                (a, b) if a.oid == DEFAULT_COLLATION => b,
                (a, b) if b.oid == DEFAULT_COLLATION => a,
                _ => Collated::implicit(crate::policy::ir::CONFLICT),
            };
        }
        combined
    }
}
