//! Compiles the policies of a table for a role: a [`Plan`] that answers as Postgres would, or a [`Refusal`].
//!
//! All of a table's policies for the role are compiled, with the row security of the tables that they look into and
//! the functions that they call, or nothing is. Follows rls-semantics.md.

mod ahead;
mod call;
mod coerce;
mod eager;
mod expression;
mod from;
mod guard;
mod lookup;
mod overload;
mod plpgsql;
mod query;
mod raise;
mod reads;
mod risk;
mod routine;
mod scope;
mod visit;

use std::collections::HashMap;
use std::sync::Arc;

use super::audience::derive;
use super::ir::{Collated, Expr, Node, Plan, Reads, Refusal, Routine};
use super::schema::{Column, Schema, Table};
use super::syntax::{self, SyntaxError};
use super::value::{Oid, SqlError, Value, oid, supported};
pub(super) use call::{is_moment, is_setting};
pub(super) use lookup::equated;
use raise::Library;
pub(super) use raise::{is_total_aggregate, is_total_set, returns};
pub(super) use reads::names as claim_names;
pub(super) use risk::{is_pattern, is_total};
use scope::{Frame, Item, Level};

/// Why an expression or statement is not compiled.
#[derive(Clone, Debug)]
enum Stop {
    /// We do not know what Postgres would do.
    Refuse(Box<str>),
    /// Postgres raises this whenever it plans or starts the statement.
    Raise(SqlError),
}

impl Stop {
    fn refuse<T>(reason: impl Into<Box<str>>) -> Result<T, Self> {
        Err(Self::Refuse(reason.into()))
    }

    fn raise<T>(sqlstate: &str, message: impl Into<Box<str>>) -> Result<T, Self> {
        Err(Self::Raise(SqlError::new(sqlstate, message)))
    }
}

impl From<SqlError> for Stop {
    fn from(error: SqlError) -> Self {
        if error.is_undecided() {
            Self::Refuse(error.message)
        } else {
            Self::Raise(error)
        }
    }
}

impl From<SyntaxError> for Stop {
    fn from(error: SyntaxError) -> Self {
        Self::Refuse(error.to_string().into())
    }
}

impl Expr {
    fn new(node: Node, type_oid: Oid) -> Self {
        Self {
            node,
            type_oid,
            typmod: -1,
            collation: Collated::NONE,
            unordered: false,
        }
    }

    fn boolean(node: Node) -> Self {
        Self::new(node, oid::BOOL)
    }

    fn truth(value: bool) -> Self {
        Self::boolean(Node::Const(Value::Bool(value)))
    }
}

/// Function, role, search path, types of the arguments.
type RoutineKey = (Oid, Oid, Vec<Box<str>>, Vec<Oid>);

struct Compiler<'a> {
    schema: &'a Schema,
    /// `current_user` of the code being compiled.
    role: Oid,
    /// `search_path` that functions without their own inherit.
    search_path: Vec<Box<str>>,
    routines: Vec<Routine>,
    compiled: HashMap<RoutineKey, usize>,
    /// Tables whose row security is being added to the present statement.
    rewriting: Vec<Oid>,
    frame: Frame,
    reads: Reads,
    withs: usize,
    depth: usize,
    /// What was found to be over claims alone.
    of_claims: Vec<String>,
    /// Calls of functions of the user's over constants, which the planner evaluates.
    folded: Vec<Expr>,
}

/// Compiles what `role` may read of a table.
///
/// # Errors
/// Something in the policies, or in what they need, is not understood exactly; Postgres must be asked.
pub fn compile(schema: &Schema, table: Oid, role: Oid) -> Result<Plan, Refusal> {
    plan(schema, table, role, |compiler, table| {
        // Names in policies are bound, but who asks for the table names it.
        if !schema.may_use(role, &table.schema) {
            let message = format!("permission denied for schema {}", table.schema);
            return Stop::raise("42501", message);
        }
        compiler.readable(table)?;
        let qual = compiler.row_security(table)?;
        Ok(qual.unwrap_or_else(|| Expr::truth(true)))
    })
}

/// Compiles one condition on a row of a table, as if it were a policy's, for those who want to know why a policy holds.
///
/// # Errors
/// As [`compile`].
pub fn compile_condition(
    schema: &Schema,
    table: Oid,
    role: Oid,
    condition: &str,
) -> Result<Plan, Refusal> {
    plan(schema, table, role, |compiler, table| {
        compiler.frame = Frame::bound(vec![Level::of(Item::table(table))]);
        compiler.rewriting.push(table.oid);
        compiler.qual(condition)
    })
}

fn plan(
    schema: &Schema,
    table: Oid,
    role: Oid,
    qual: impl FnOnce(&mut Compiler<'_>, &Arc<Table>) -> Result<Expr, Stop>,
) -> Result<Plan, Refusal> {
    let refuse = |reason: &str| Refusal {
        reason: reason.into(),
    };
    let table = schema
        .tables
        .get(&table)
        .ok_or_else(|| refuse("no such table"))?;
    if let Some(name) = &schema.unusual {
        return Err(refuse(&format!("an unusual value of the setting {name}")));
    }
    if !schema.roles.contains_key(&role) {
        return Err(refuse("no such role"));
    }
    let mut compiler = Compiler {
        schema,
        role,
        search_path: schema.search_path.clone(),
        routines: Vec::new(),
        compiled: HashMap::new(),
        rewriting: Vec::new(),
        frame: Frame::default(),
        reads: Reads::default(),
        withs: 0,
        depth: 0,
        of_claims: Vec::new(),
        folded: Vec::new(),
    };
    let qual = match compiler.asked(table) {
        Ok(()) => qual(&mut compiler, table),
        Err(stop) => Err(stop),
    };
    let qual = match qual {
        Ok(qual) => qual,
        Err(Stop::Raise(error)) => Expr::boolean(Node::Raise(error)),
        Err(Stop::Refuse(reason)) => return Err(Refusal { reason }),
    };
    let mut columns = std::collections::BTreeSet::new();
    let mut whole = false;
    qual.visit(0, &mut |expr, depth| match &expr.node {
        Node::Column {
            level,
            item: 0,
            column,
        } if *level == depth => {
            columns.insert(*column);
        }
        Node::WholeRow { level, item: 0 } if *level == depth => whole = true,
        _ => {}
    });
    if whole {
        columns.extend(0..table.columns.len());
    }
    let mut reads = compiler.reads;
    reads.columns = columns;
    reads.claims = reads::claims(&qual, &compiler.routines);
    let eager = eager::of_expression(&qual, false);
    let mut folded = compiler.folded;
    folded.extend(eager.perhaps);
    let eager = eager.certain;
    let audience = derive(
        schema,
        &qual,
        &eager,
        &compiler.routines,
        &mut reads.lookups,
    );
    Ok(Plan {
        audience,
        eager,
        folded,
        qual,
        routines: compiler.routines,
        reads,
    })
}

impl Compiler<'_> {
    /// The functions that are known so far.
    fn library(&self) -> Library<'_> {
        Library {
            schema: self.schema,
            routines: &self.routines,
        }
    }

    /// Raises unless the current role may name the table in a query and SELECT from it.
    fn asked(&self, table: &Table) -> Result<(), Stop> {
        if !self.schema.may_use(self.role, &table.schema) {
            return Stop::raise(
                "42501",
                format!("permission denied for schema {}", table.schema),
            );
        }
        self.readable(table)
    }

    /// Raises unless the current role may SELECT from the table.
    fn readable(&self, table: &Table) -> Result<(), Stop> {
        if table.readers.contains(&self.role) {
            return Ok(());
        }
        if table.column_readers.contains(&self.role) {
            return Stop::refuse("a table of which the role may read some columns only");
        }
        Stop::raise(
            "42501",
            format!("permission denied for table {}", table.name),
        )
    }

    /// The condition under which the current role sees a row of the table, as item 0 of level 0; `None`: always.
    fn row_security(&mut self, table: &Arc<Table>) -> Result<Option<Expr>, Stop> {
        if !table.row_security || self.schema.exempt(self.role, table) {
            return Ok(None);
        }
        let applies = |roles: &[Oid]| {
            roles
                .iter()
                .any(|role| *role == 0 || self.schema.has_privileges_of(self.role, *role))
        };
        let policies: Vec<_> = table
            .policies
            .iter()
            .filter(|policy| applies(&policy.roles))
            .collect();
        if !policies.iter().any(|policy| policy.permissive) {
            return Ok(Some(Expr::truth(false)));
        }
        let outer = std::mem::replace(
            &mut self.frame,
            Frame::bound(vec![Level::of(Item::table(table))]),
        );
        let sub = policies.iter().any(|policy| {
            policy
                .qual
                .as_deref()
                .is_some_and(|qual| qual.to_ascii_lowercase().contains("select"))
        });
        // As in the rewriter: a table whose policies hold a subselect must not be met again below.
        if sub && self.rewriting.contains(&table.oid) {
            self.frame = outer;
            return Stop::raise(
                "42P17",
                format!(
                    "infinite recursion detected in policy for relation \"{}\"",
                    table.name
                ),
            );
        }
        self.rewriting.push(table.oid);
        let mut permissive = Vec::new();
        let mut restrictive = Vec::new();
        let mut failure = None;
        // Postgres keeps a table's policies in reverse order of their names.
        for policy in policies.iter().rev() {
            // Without USING it neither shows nor hides anything.
            let Some(text) = &policy.qual else {
                continue;
            };
            let compiled = self.qual(text);
            match compiled {
                Ok(qual) if policy.permissive => permissive.push(qual),
                Ok(qual) => restrictive.push(qual),
                // A refusal weighs more than an error: we do not know what else is wrong.
                Err(stop) => match (&failure, &stop) {
                    (Some(Stop::Refuse(_)), _) | (Some(_), Stop::Raise(_)) => {}
                    _ => failure = Some(stop),
                },
            }
        }
        self.rewriting.pop();
        self.frame = outer;
        if let Some(stop) = failure {
            return Err(stop);
        }
        restrictive.reverse();
        restrictive.push(either(permissive));
        let mut parts = Vec::new();
        for qual in restrictive {
            let mut conjuncts = query::conjuncts(qual);
            self.order_by_cost(&mut conjuncts);
            parts.extend(conjuncts);
        }
        Ok(Some(both(parts)))
    }

    fn qual(&mut self, text: &str) -> Result<Expr, Stop> {
        let ast = syntax::expression(text)?;
        let qual = self.expression(&ast)?;
        let qual = self.boolean(qual)?;
        Ok(qual)
    }

    /// What a column gives; refused if the stream or a shadow may not carry it.
    fn column_expr(
        &self,
        level: usize,
        item: usize,
        column: usize,
        found: &Column,
    ) -> Result<Expr, Stop> {
        if found.generated {
            return Stop::refuse("a generated column");
        }
        if !supported(&self.schema.types, found.type_oid)
            && !self.schema.is_composite(found.type_oid)
        {
            return Stop::refuse(format!(
                "the type {}",
                self.schema.types.name(found.type_oid)
            ));
        }
        Ok(Expr {
            node: Node::Column {
                level,
                item,
                column,
            },
            type_oid: found.type_oid,
            typmod: found.typmod,
            collation: Collated::implicit(found.collation),
            unordered: false,
        })
    }
}

/// OR, with what Postgres folds before it looks for errors.
fn either(parts: Vec<Expr>) -> Expr {
    let mut flat = Vec::new();
    for part in parts {
        match part.node {
            Node::Or(inner) => flat.extend(inner),
            _ => flat.push(part),
        }
    }
    if flat
        .iter()
        .any(|part| matches!(part.node, Node::Const(Value::Bool(true))))
    {
        return Expr::truth(true);
    }
    flat.retain(|part| !matches!(part.node, Node::Const(Value::Bool(false))));
    match flat.len() {
        0 => Expr::truth(false),
        1 => flat.swap_remove(0),
        _ => Expr::boolean(Node::Or(flat)),
    }
}

/// AND, likewise.
fn both(parts: Vec<Expr>) -> Expr {
    let mut flat = Vec::new();
    for part in parts {
        match part.node {
            Node::And(inner) => flat.extend(inner),
            _ => flat.push(part),
        }
    }
    if flat
        .iter()
        .any(|part| matches!(part.node, Node::Const(Value::Bool(false))))
    {
        return Expr::truth(false);
    }
    flat.retain(|part| !matches!(part.node, Node::Const(Value::Bool(true))));
    match flat.len() {
        0 => Expr::truth(true),
        1 => flat.swap_remove(0),
        _ => Expr::boolean(Node::And(flat)),
    }
}
