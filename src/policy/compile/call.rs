//! Calls: operators, built-in functions, functions of the user's, aggregates.

use std::sync::Arc;

use super::overload::{Candidate, Context, is_polymorphic};
use super::reads::CLAIMS;
use super::{Compiler, Stop};
use crate::policy::audience::is_over_claims;
use crate::policy::builtin::{Collation, aggregate, scalar, set_returning};
use crate::policy::ir::{
    AggregateCall, BuiltinCall, CONFLICT, Code, Collated, Expr, Node, SetCall, SortKey, SqlResult,
};
use crate::policy::schema::{CollationKind, Function};
use crate::policy::syntax::tree::{Ast, Call, Name};
use crate::policy::value::{Oid, Value, equatable, oid, supported};

/// Functions whose value is the current moment.
const MOMENT: &[Oid] = &[1299, 2647, 2648, 2649];

/// Whether a function reads the time.
pub(in crate::policy) fn is_moment(function: Oid) -> bool {
    MOMENT.contains(&function)
}

/// `current_setting`
const SETTING: &[Oid] = &[2077, 3294];

/// Whether a function reads a setting.
pub(in crate::policy) fn is_setting(function: Oid) -> bool {
    SETTING.contains(&function)
}

/// Functions to which the order of an array's elements makes no difference.
const INSENSITIVE: &[&str] = &[
    "arraycontains",
    "arraycontained",
    "arrayoverlap",
    "cardinality",
    "array_length",
    "array_upper",
    "array_ndims",
];

impl Compiler<'_> {
    /// `left op right`, or `op right`.
    pub(super) fn operator(
        &mut self,
        name: &Name,
        left: Option<Expr>,
        right: Expr,
    ) -> Result<Expr, Stop> {
        let (operator, schemas) = self.operator_name(name)?;
        let given = left.as_ref().map(|left| left.type_oid);
        let Some(found) = self
            .schema
            .find_operator(&operator, given, right.type_oid, &schemas)
        else {
            return Stop::refuse(format!(
                "the operator {} {operator} {}",
                given.map_or_else(String::new, |given| self.schema.types.name(given)),
                self.schema.types.name(right.type_oid)
            ));
        };
        let declared: Vec<Oid> = left
            .iter()
            .map(|_| found.left)
            .chain([found.right])
            .collect();
        let arguments: Vec<Expr> = left.into_iter().chain([right]).collect();
        let arguments = self.convert_arguments(&declared, arguments, found.result)?;
        let mut call = self.call_function(found.function, arguments, false)?;
        if let Node::Call(inner) = &mut call.node {
            inner.estimated = found.estimated;
        }
        Ok(call)
    }

    fn operator_name(&self, name: &Name) -> Result<(String, Vec<Box<str>>), Stop> {
        match name.as_slice() {
            [operator] => Ok((operator.clone(), self.search_schemas())),
            [schema, operator] => Ok((operator.clone(), vec![schema.as_str().into()])),
            _ => Stop::refuse("the name of an operator"),
        }
    }

    /// Brings arguments to the declared types, polymorphic ones resolved.
    fn convert_arguments(
        &mut self,
        declared: &[Oid],
        arguments: Vec<Expr>,
        result: Oid,
    ) -> Result<Vec<Expr>, Stop> {
        let given: Vec<Oid> = arguments.iter().map(|argument| argument.type_oid).collect();
        let Some((wanted, _)) = self.schema.resolve_polymorphic(declared, &given, result) else {
            return Stop::refuse("polymorphic arguments");
        };
        arguments
            .into_iter()
            .zip(wanted)
            .map(|(argument, wanted)| {
                let wanted = if wanted == oid::UNKNOWN {
                    oid::TEXT
                } else {
                    wanted
                };
                // An array type stands for a domain over it, and the like.
                if is_polymorphic(wanted) {
                    Ok(argument)
                } else {
                    self.coerce(argument, wanted, -1, Context::Implicit)
                }
            })
            .collect()
    }

    /// A call as written.
    pub(super) fn call(&mut self, call: &Call) -> Result<Expr, Stop> {
        let shown = call.name.join(".");
        let (name, schemas) = self.function_name(&call.name)?;
        let mut arguments = Vec::new();
        let mut names = Vec::new();
        let overloads = self.schema.function_names.get(name.as_str());
        let is_aggregate = overloads
            .into_iter()
            .flatten()
            .any(|found| found.kind == b'a' && schemas.contains(&found.schema));
        // Arguments of an aggregate see no further aggregates.
        let outer = if is_aggregate {
            self.frame
                .levels
                .last_mut()
                .and_then(|level| level.aggregates.take())
        } else {
            None
        };
        let compiled = call.arguments.iter().try_for_each(|argument| {
            arguments.push(self.expression(&argument.value)?);
            names.push(argument.name.clone());
            Ok::<(), Stop>(())
        });
        let mut keys = Vec::new();
        let mut filter = None;
        let rest = compiled.and_then(|()| {
            for sort in &call.order_by {
                let value = self.expression(&sort.value)?;
                let value = self.settle(value)?;
                keys.push(self.sort_key(value, sort)?);
            }
            if let Some(condition) = &call.filter {
                let condition = self.expression(condition)?;
                filter = Some(self.boolean(condition)?);
            }
            Ok(())
        });
        if let (Some(aggregates), Some(level)) = (outer, self.frame.levels.last_mut()) {
            level.aggregates = Some(aggregates);
        }
        rest?;
        let given: Vec<Oid> = arguments.iter().map(|argument| argument.type_oid).collect();
        let candidates = self
            .schema
            .candidates(&name, &schemas, &names, call.variadic);
        if candidates.is_empty() && overloads.is_none() && self.frame.path.is_some() {
            return Stop::raise("42883", format!("function {shown} does not exist"));
        }
        let chosen = self
            .schema
            .choose(&candidates, &given)
            .and_then(|index| candidates.get(index));
        let Some(chosen) = chosen else {
            if overloads
                .is_some_and(|found| found.iter().all(|found| !schemas.contains(&found.schema)))
                && self.frame.path.is_some()
            {
                return Stop::raise("42883", format!("function {shown} does not exist"));
            }
            return Stop::refuse(format!("which function {shown} is meant"));
        };
        if call.variadic {
            return Stop::refuse(format!("an array as VARIADIC arguments of {shown}"));
        }
        let arguments = self.arrange(chosen, arguments)?;
        let function = Arc::clone(&chosen.function);
        match function.kind {
            b'a' => self.aggregate(&function, call, arguments, keys, filter),
            b'f' if keys.is_empty() && filter.is_none() && !call.distinct && !call.star => {
                let set = function.returns_set;
                let expanded = chosen.expanded;
                if set {
                    let call = self.set_call(&function, arguments)?;
                    let type_oid = self.set_type(&function, &call);
                    let Some(sets) = self
                        .frame
                        .levels
                        .last_mut()
                        .and_then(|level| level.sets.as_mut())
                    else {
                        return Stop::refuse("a set where one value is expected");
                    };
                    sets.push(call);
                    let slot = sets.len().saturating_sub(1);
                    return Ok(self.typed(Node::Slot(slot), type_oid, -1));
                }
                self.call_function(function.oid, arguments, expanded)
            }
            _ => Stop::refuse(format!("the call of {shown}")),
        }
    }

    fn set_type(&self, function: &Function, call: &SetCall) -> Oid {
        match call {
            SetCall::Builtin { result, .. } => *result,
            _ => function.result,
        }
    }

    fn function_name(&mut self, name: &Name) -> Result<(String, Vec<Box<str>>), Stop> {
        match name.as_slice() {
            [name] => Ok((name.clone(), self.search_schemas())),
            [schema, name] => {
                if self.frame.path.is_some() {
                    if !self.schema.namespaces.contains_key(schema.as_str()) {
                        return Stop::raise("3F000", format!("schema \"{schema}\" does not exist"));
                    }
                    if !self.schema.may_use(self.role, schema) {
                        return Stop::raise(
                            "42501",
                            format!("permission denied for schema {schema}"),
                        );
                    }
                }
                Ok((name.clone(), vec![schema.as_str().into()]))
            }
            _ => Stop::refuse("a name of three parts"),
        }
    }

    /// Arguments in the function's order, defaults added, variadic ones last.
    fn arrange(&mut self, chosen: &Candidate, arguments: Vec<Expr>) -> Result<Vec<Expr>, Stop> {
        let function = &chosen.function;
        let given = arguments.len();
        let mut declared = chosen.types.clone();
        let mut ordered: Vec<(usize, Expr)> =
            chosen.places.iter().copied().zip(arguments).collect();
        if !chosen.expanded {
            let first_default = function
                .arguments
                .len()
                .saturating_sub(function.defaults.len());
            for place in 0..function.arguments.len() {
                if chosen.places.contains(&place) {
                    continue;
                }
                let Some(text) = place
                    .checked_sub(first_default)
                    .and_then(|index| function.defaults.get(index))
                else {
                    return Stop::refuse("a default that is missing");
                };
                let ast = crate::policy::syntax::expression(text)?;
                let frame = std::mem::take(&mut self.frame);
                let value = self.expression(&ast);
                self.frame = frame;
                ordered.push((place, value?));
            }
            ordered.sort_by_key(|(place, _)| *place);
            declared = function.arguments.to_vec();
        }
        debug_assert!(ordered.len() >= given, "arguments are only added");
        let arguments = ordered.into_iter().map(|(_, value)| value).collect();
        self.convert_arguments(&declared, arguments, function.result)
    }

    /// A call of the function with this OID; arguments are of the types that it takes.
    pub(super) fn call_function(
        &mut self,
        function: Oid,
        arguments: Vec<Expr>,
        expanded: bool,
    ) -> Result<Expr, Stop> {
        let Some(found) = self.schema.functions.get(&function).map(Arc::clone) else {
            return Stop::refuse(format!("function {function}"));
        };
        let given: Vec<Oid> = arguments.iter().map(|argument| argument.type_oid).collect();
        let declared: Vec<Oid> = if expanded {
            let mut declared = found.arguments.to_vec();
            declared.pop();
            declared.resize(given.len(), found.variadic);
            declared
        } else {
            found.arguments.to_vec()
        };
        let Some((_, result)) = self
            .schema
            .resolve_polymorphic(&declared, &given, found.result)
        else {
            return Stop::refuse(format!("the result of {}", found.name));
        };
        let collation = Self::combine(&arguments);
        let builtin = if is_of_the_system(&found) {
            scalar(function)
        } else {
            None
        };
        let Some(builtin) = builtin else {
            return self.routine_call(&found, arguments, result);
        };
        let class = self.class(collation)?;
        if class == Collation::Other && builtin.needs_bytewise {
            return Stop::refuse(format!(
                "the order of texts under a locale ({})",
                found.name
            ));
        }
        self.executable(&found)?;
        if let Some(reason) = self.odd_cases(function, collation) {
            return Stop::refuse(format!("{reason} ({})", found.name));
        }
        for type_oid in given.iter().chain([&result]) {
            self.known(*type_oid)?;
        }
        let arguments = if INSENSITIVE.contains(&&*found.name) {
            arguments
        } else {
            arguments.into_iter().map(arranged).collect()
        };
        if SETTING.contains(&function) {
            match arguments.first().map(|name| &name.node) {
                Some(Node::Const(Value::Text(name))) if name.contains('.') => {
                    let name: Box<str> = name.to_ascii_lowercase().into();
                    if &*name != CLAIMS && !self.schema.unset.contains(&name) {
                        return Stop::refuse(format!(
                            "the setting {name}, which has a value outside of any request"
                        ));
                    }
                    self.reads.settings.insert(name);
                }
                _ => return Stop::refuse("a setting that is not the application's own"),
            }
        }
        if MOMENT.contains(&function) {
            self.reads.time = true;
        }
        if matches!(
            &*found.name,
            "array_eq" | "array_ne" | "record_eq" | "record_ne"
        ) {
            for type_oid in &given {
                if !equatable(&self.schema.types, *type_oid) {
                    return Stop::refuse(format!(
                        "equality of {}",
                        self.schema.types.name(*type_oid)
                    ));
                }
            }
        }
        let call = BuiltinCall {
            function,
            builtin,
            arguments,
            types: given.into(),
            result,
            collation: class,
            estimated: false,
            volatile: found.volatility == b'v',
        };
        self.foldable(&call, found.volatility)?;
        let result_collation = match self
            .schema
            .types
            .find(result)
            .map_or(0, |found| found.collation)
        {
            0 => Collated::NONE,
            own if collation.oid == 0 => Collated::implicit(own),
            _ => collation,
        };
        Ok(Expr {
            node: Node::Call(Box::new(call)),
            type_oid: result,
            typmod: -1,
            collation: result_collation,
            unordered: false,
        })
    }

    /// Refuses types that the library does not carry.
    pub(super) fn known(&self, type_oid: Oid) -> Result<(), Stop> {
        if supported(&self.schema.types, type_oid)
            || self.schema.is_composite(type_oid)
            || matches!(type_oid, oid::RECORD | oid::VOID)
        {
            return Ok(());
        }
        Stop::refuse(format!("the type {}", self.schema.types.name(type_oid)))
    }

    pub(super) fn class(&self, collation: Collated) -> Result<Collation, Stop> {
        match collation.oid {
            0 => Ok(Collation::None),
            CONFLICT => Stop::refuse("conflicting collations"),
            other => match self.schema.collations.get(&other) {
                Some(CollationKind::Bytes) => Ok(Collation::Bytes),
                Some(CollationKind::Locale | CollationKind::OddCases) => Ok(Collation::Other),
                Some(CollationKind::Nondeterministic) | None => {
                    Stop::refuse("a nondeterministic collation")
                }
            },
        }
    }

    /// A function of the user's, or one of the system that is written in SQL.
    fn routine_call(
        &mut self,
        function: &Arc<Function>,
        arguments: Vec<Expr>,
        result: Oid,
    ) -> Result<Expr, Stop> {
        if function.returns_set {
            return Stop::refuse("a set where one value is expected");
        }
        self.usual(Self::combine(&arguments))?;
        let arguments: Vec<Expr> = arguments.into_iter().map(arranged).collect();
        let given: Vec<Oid> = arguments.iter().map(|argument| argument.type_oid).collect();
        let routine = self.routine(function, &given)?;
        if let Some(inlined) = self.inlined(function, routine, &arguments) {
            self.fold(&inlined);
            return Ok(self.known_by_claims(Expr {
                type_oid: result,
                ..inlined
            }));
        }
        let found = self.routines.get(routine);
        let (volatile, unordered) =
            found.map_or((true, true), |found| (found.volatile, found.unordered));
        let mut call = self.typed(
            Node::Routine {
                routine,
                arguments,
                volatile,
            },
            result,
            -1,
        );
        call.unordered = unordered;
        self.fold(&call);
        Ok(self.known_by_claims(call))
    }

    /// Notes what of a call the planner may evaluate: it raises then, whether or not a row comes to it.
    fn fold(&mut self, call: &Expr) {
        let mut found = Vec::new();
        let library = self.library();
        call.walk(0, &mut |expr, _| {
            let is_constant = !expr.any(&mut |expr, _| !library.is_constant(expr));
            if is_constant && library.is_fallible(expr) {
                found.push(expr.clone());
            }
            is_constant
        });
        self.folded.append(&mut found);
    }

    /// Notes that a call needs to be evaluated once only, if it reads nothing but claims.
    fn known_by_claims(&mut self, call: Expr) -> Expr {
        if matches!(call.node, Node::Const(_)) || !is_over_claims(&call, &self.routines) {
            return call;
        }
        let text = format!("{:?}", call.node);
        let known = self.of_claims.iter().position(|known| *known == text);
        let index = known.unwrap_or_else(|| {
            self.of_claims.push(text);
            self.of_claims.len().saturating_sub(1)
        });
        Expr {
            node: Node::OfClaims(index, Box::new(call.clone())),
            ..call
        }
    }

    /// The body in place of the call, where Postgres does so: errors then surface as if it was written there.
    fn inlined(&self, function: &Function, routine: usize, arguments: &[Expr]) -> Option<Expr> {
        if &*function.language != "sql"
            || function.definer
            || !function.config.is_empty()
            || function.strict
        {
            return None;
        }
        let Code::Sql {
            statements,
            result: SqlResult::Column(cast),
        } = &self.routines.get(routine)?.code
        else {
            return None;
        };
        let [statement] = statements.as_slice() else {
            return None;
        };
        let query = &statement.query;
        let crate::policy::ir::Body::Select(select) = &query.body else {
            return None;
        };
        let plain = select.from.is_empty()
            && select.filter.is_empty()
            && select.grouping.is_none()
            && select.sets.is_empty()
            && !select.distinct
            && query.with.is_empty()
            && query.limit.is_none()
            && query.offset.is_none()
            && query.order_by.is_empty();
        let [target] = select.targets.as_slice() else {
            return None;
        };
        let heavy = |expr: &Expr, _: usize| {
            expr.subquery().is_some()
                || matches!(&expr.node, Node::Routine { .. })
                || matches!(&expr.node, Node::Call(call) if call.volatile)
        };
        let mut uses = vec![0_usize; arguments.len()];
        target.visit(0, &mut |expr, _| {
            if let Node::Parameter(index) = expr.node
                && let Some(count) = uses.get_mut(index)
            {
                *count = count.saturating_add(1);
            }
        });
        let volatile = |expr: &Expr, _: usize| match &expr.node {
            Node::Call(call) => call.volatile,
            Node::Routine { volatile, .. } => *volatile,
            _ => false,
        };
        let repeated = arguments
            .iter()
            .zip(&uses)
            .any(|(argument, uses)| *uses != 1 && argument.any(&mut { heavy }));
        if !plain
            || target.any(&mut |expr, _| expr.subquery().is_some())
            || (function.volatility != b'v' && target.any(&mut { volatile }))
            || repeated
        {
            return None;
        }
        let mut substitute = |expr: &mut Expr, _: usize| {
            let Node::Parameter(index) = expr.node else {
                return false;
            };
            if let Some(argument) = arguments.get(index) {
                *expr = argument.clone();
            }
            true
        };
        let mut body = target.clone();
        body.change(0, &mut substitute);
        let mut whole = (**cast).clone();
        whole.change(0, &mut |expr, _| {
            let slot = matches!(expr.node, Node::Slot(0));
            if slot {
                *expr = body.clone();
            }
            slot
        });
        Some(whole)
    }

    /// A call that returns a set.
    pub(super) fn set_call(
        &mut self,
        function: &Arc<Function>,
        arguments: Vec<Expr>,
    ) -> Result<SetCall, Stop> {
        let given: Vec<Oid> = arguments.iter().map(|argument| argument.type_oid).collect();
        if arguments.iter().any(|argument| argument.unordered) && &*function.name != "unnest" {
            return Stop::refuse("an array whose order is not determined");
        }
        if is_of_the_system(function)
            && let Some(set) = set_returning(function.oid)
        {
            let Some((_, result)) =
                self.schema
                    .resolve_polymorphic(&function.arguments, &given, function.result)
            else {
                return Stop::refuse(format!("the result of {}", function.name));
            };
            for type_oid in &given {
                self.known(*type_oid)?;
            }
            let collation = self.class(Self::combine(&arguments))?;
            return Ok(SetCall::Builtin {
                function: function.oid,
                set,
                arguments,
                types: given.into(),
                result,
                collation,
            });
        }
        self.usual(Self::combine(&arguments))?;
        let routine = self.routine(function, &given)?;
        Ok(SetCall::Routine { routine, arguments })
    }

    fn aggregate(
        &mut self,
        function: &Arc<Function>,
        call: &Call,
        arguments: Vec<Expr>,
        order_by: Vec<SortKey>,
        filter: Option<Expr>,
    ) -> Result<Expr, Stop> {
        let Some(found) = aggregate(function.oid) else {
            return Stop::refuse(format!("the aggregate {}", self.signature(function)));
        };
        let given: Vec<Oid> = arguments.iter().map(|argument| argument.type_oid).collect();
        let Some((_, result)) =
            self.schema
                .resolve_polymorphic(&function.arguments, &given, function.result)
        else {
            return Stop::refuse(format!("the result of {}", function.name));
        };
        let collation = Self::combine(&arguments);
        let class = self.class(collation)?;
        if class == Collation::Other && found.needs_bytewise {
            return Stop::refuse(format!(
                "the order of texts under a locale ({})",
                function.name
            ));
        }
        for type_oid in given.iter().chain([&result]) {
            self.known(*type_oid)?;
        }
        if call.distinct
            && !given
                .iter()
                .all(|given| equatable(&self.schema.types, *given))
        {
            return Stop::refuse("DISTINCT over a type without equality");
        }
        let local = arguments.is_empty()
            || arguments.iter().any(|argument| {
                argument.any(&mut |expr, depth| matches!(expr.node, Node::Column { level, .. } | Node::WholeRow { level, .. } if level == depth))
            });
        let outer = arguments.iter().any(|argument| {
            argument.any(&mut |expr, depth| matches!(expr.node, Node::Column { level, .. } | Node::WholeRow { level, .. } if level > depth))
        });
        if outer && !local {
            return Stop::refuse("an aggregate of an outer query");
        }
        let ordered = !order_by.is_empty();
        let sensitive = matches!(
            &*function.name,
            "array_agg"
                | "string_agg"
                | "json_agg"
                | "jsonb_agg"
                | "json_object_agg"
                | "jsonb_object_agg"
        );
        let Some(aggregates) = self
            .frame
            .levels
            .last_mut()
            .and_then(|level| level.aggregates.as_mut())
        else {
            return Stop::refuse("an aggregate where none may stand");
        };
        if sensitive && !ordered && &*function.name != "array_agg" {
            return Stop::refuse(format!("{} without ORDER BY", function.name));
        }
        aggregates.push(AggregateCall {
            aggregate: found,
            arguments,
            types: given.into(),
            result,
            collation: class,
            distinct: call.distinct,
            order_by,
            filter,
        });
        let index = aggregates.len().saturating_sub(1);
        let mut expr = self.typed(Node::Grouped { level: 0, index }, result, -1);
        expr.unordered = sensitive;
        if collation.oid != 0 && expr.collation.oid != 0 {
            expr.collation = collation;
        }
        Ok(expr)
    }

    /// A function's name with the types of its arguments and its OID, for lists of what is missing.
    pub(super) fn signature(&self, function: &Function) -> String {
        let types: Vec<String> = function
            .arguments
            .iter()
            .map(|found| self.schema.types.name(*found))
            .collect();
        let name = match &*function.schema {
            "pg_catalog" => function.name.to_string(),
            other => format!("{other}.{}", function.name),
        };
        format!("{name}({}) [{}]", types.join(", "), function.oid)
    }

    /// A comparison by an operator of a list: `left op right` over slots 0 and 1.
    pub(super) fn slot_test(
        &mut self,
        operator: &Name,
        left: &Expr,
        right: Expr,
    ) -> Result<(Expr, bool), Stop> {
        let mut slot = left.clone();
        if !matches!(left.node, Node::Const(_)) || left.type_oid != oid::UNKNOWN {
            slot.node = Node::Slot(0);
        }
        let test = self.operator(operator, Some(slot), right)?;
        let estimated = matches!(&test.node, Node::Call(call) if call.estimated);
        Ok((self.boolean(test)?, estimated))
    }

    /// The equality of a type's default operator class, over two expressions of it.
    pub(super) fn equality(&mut self, left: Expr, right: Expr) -> Result<Expr, Stop> {
        self.operator(&vec!["=".to_owned()], Some(left), right)
    }

    /// `coalesce` and its like: all of one type.
    pub(super) fn unify(
        &mut self,
        expressions: Vec<Expr>,
        what: &str,
    ) -> Result<(Vec<Expr>, Oid), Stop> {
        let given: Vec<Oid> = expressions.iter().map(|expr| expr.type_oid).collect();
        let Some(common) = self.schema.common_type(&given) else {
            return Stop::refuse(format!("the common type of {what}"));
        };
        let converted = expressions
            .into_iter()
            .map(|expr| self.coerce(expr, common, -1, Context::Implicit))
            .collect::<Result<_, _>>()?;
        Ok((converted, common))
    }

    pub(super) fn list(&mut self, list: &[Ast]) -> Result<Vec<Expr>, Stop> {
        list.iter().map(|ast| self.expression(ast)).collect()
    }
}

pub(super) fn is_of_the_system(function: &Function) -> bool {
    function.oid < 16384
}

/// Lets an array in no certain order pass only where its order cannot matter.
fn arranged(expr: Expr) -> Expr {
    if !expr.unordered {
        return expr;
    }
    Expr {
        type_oid: expr.type_oid,
        typmod: expr.typmod,
        collation: expr.collation,
        unordered: false,
        node: Node::Arranged(Box::new(expr)),
    }
}
