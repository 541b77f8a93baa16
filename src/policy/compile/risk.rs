//! Which parts of conditions may raise although no row gets as far as them in our order of evaluation.
//!
//! Postgres chooses an order of its own: a condition on one table may be evaluated on each of its rows, what depends on
//! no row at any time. Where some order raises, Postgres must be asked.

use std::collections::BTreeSet;

use super::raise::Library;
use crate::policy::ir::{BuiltinCall, Expr, Node};
use crate::policy::schema::Schema;
use crate::policy::value::{Oid, oid};

/// Functions of the system that raise on no value of their types; what is not here may.
const SAFE: &[&str] = &[
    "lower",
    "upper",
    "length",
    "btrim",
    "ltrim",
    "rtrim",
    "array_length",
    "cardinality",
    "arraycontains",
    "arraycontained",
    "arrayoverlap",
    "string_to_array",
    "starts_with",
    "concat",
    "textcat",
    "jsonb_exists",
    "jsonb_exists_any",
    "jsonb_exists_all",
    "jsonb_contains",
    "jsonb_contained",
    "jsonb_typeof",
    "jsonb_object_field",
    "jsonb_object_field_text",
    "jsonb_array_element",
    "jsonb_array_element_text",
    "jsonb_extract_path",
    "jsonb_extract_path_text",
    "json_object_field",
    "json_object_field_text",
    "now",
    "array_to_string",
    "replace",
];

/// Safe with a pattern that depends on no row: others may end in a backslash.
const LIKE: &[&str] = &["textlike", "textnlike", "texticlike", "texticnlike"];

/// Casts between numbers that lose nothing.
const WIDENING: &[Oid] = &[235, 313, 316, 481, 482, 754, 1740, 1781, 1782];

/// Whether evaluation on some row may raise. What depends on no row is left to [`invariants`] and [`reserved`].
pub(super) fn may_raise(library: Library<'_>, expr: &Expr) -> bool {
    expr.any(&mut |expr, _| library.raises_itself(expr) && !depends_on_nothing(expr))
}

/// Whether evaluation on some row of its own query may raise.
pub(super) fn may_raise_on_own(library: Library<'_>, expr: &Expr) -> bool {
    expr.any(&mut |expr, depth| {
        library.raises_itself(expr)
            && expr.any(&mut |expr, further| reads_own(expr, depth.saturating_add(further)))
    })
}

/// Parts of a condition that may raise on rows of its own query, by table.
#[derive(Debug, Default)]
pub(super) struct Parts {
    /// Of one table: evaluated by Postgres as early as it likes.
    pub(super) of_tables: Vec<(usize, Expr)>,
    /// Something needs rows of several tables.
    pub(super) is_across: bool,
}

impl Parts {
    pub(super) fn add(&mut self, library: Library<'_>, expr: &Expr) {
        if !may_raise_on_own(library, expr) {
            return;
        }
        let own = own_items(expr);
        if let (Some(item), 1) = (own.first(), own.len()) {
            self.of_tables.push((*item, expr.clone()));
            return;
        }
        let is_whole = is_in_order(expr) || expr.subquery().is_some();
        self.is_across |= is_whole || library.raises_itself(expr);
        if !is_whole {
            let children = expr.children().into_iter();
            children.for_each(|child| self.add(library, child));
        }
    }
}

/// The tables of its own query that an expression reads.
pub(super) fn own_items(expr: &Expr) -> BTreeSet<usize> {
    let mut items = BTreeSet::new();
    expr.visit(0, &mut |expr, depth| match expr.node {
        Node::Column { level, item, .. } | Node::WholeRow { level, item } if level == depth => {
            items.insert(item);
        }
        _ => {}
    });
    items
}

/// Whether this is a row of the query that is `depth` queries further out.
fn reads_own(expr: &Expr, depth: usize) -> bool {
    match expr.node {
        Node::Column { level, .. } | Node::WholeRow { level, .. } => level == depth,
        _ => false,
    }
}

/// Whether an expression reads no row of its own query.
pub(super) fn is_from_outside(expr: &Expr) -> bool {
    !expr.any(&mut |expr, depth| reads_own(expr, depth))
}

/// Whether the call itself raises on no value of its types.
pub(in crate::policy) fn is_total(schema: &Schema, call: &BuiltinCall) -> bool {
    schema
        .functions
        .get(&call.function)
        .is_some_and(|function| {
            let name = &*function.name;
            // `timezone` ends like one, but is none; regular expressions may be none.
            let comparison = call.result == oid::BOOL
                && !name.contains("regex")
                && ["eq", "ne", "lt", "le", "gt", "ge"]
                    .iter()
                    .any(|end| name.ends_with(end));
            let like =
                LIKE.contains(&name) && call.arguments.last().is_some_and(depends_on_nothing);
            comparison || like || SAFE.contains(&name) || WIDENING.contains(&call.function)
        })
}

/// Whether the call matches its last argument as a pattern.
pub(in crate::policy) fn is_pattern(schema: &Schema, call: &BuiltinCall) -> bool {
    schema
        .functions
        .get(&call.function)
        .is_none_or(|function| LIKE.contains(&&*function.name))
}

pub(super) fn depends_on_nothing(expr: &Expr) -> bool {
    !expr.any(&mut |expr, depth| match expr.node {
        Node::Column { level, .. } | Node::WholeRow { level, .. } | Node::Grouped { level, .. } => {
            level >= depth
        }
        Node::Slot(_) => depth == 0,
        _ => false,
    })
}

/// Whether a condition reads this table and no other of its query.
pub(super) fn concerns(condition: &Expr, table: usize) -> bool {
    let items = own_items(condition);
    items.len() == 1 && items.contains(&table)
}

/// Whether a condition reads this table and no other, of queries around either.
pub(super) fn concerns_only(condition: &Expr, table: usize) -> bool {
    let mut own = false;
    let other = condition.any(&mut |expr, depth| match expr.node {
        Node::Column { level, item, .. } | Node::WholeRow { level, item } if level >= depth => {
            own |= level == depth && item == table;
            level > depth || item != table
        }
        _ => false,
    });
    own && !other
}

/// Whether a condition reads no row of its own query, and may be evaluated once.
pub(super) fn is_gate(condition: &Expr) -> bool {
    !condition.any(&mut |expr, depth| match &expr.node {
        Node::Column { level, .. } | Node::WholeRow { level, .. } => *level == depth,
        Node::Grouped { .. } | Node::Slot(_) => depth == 0,
        Node::Call(call) => call.volatile,
        Node::Routine { volatile, .. } => *volatile,
        _ => false,
    })
}

/// The largest parts that read no row of their query and are more than a constant; those that depend on rows further
/// out only if they may raise.
pub(super) fn invariants(library: Library<'_>, condition: &Expr) -> Vec<Expr> {
    let mut found = Vec::new();
    collect(library, condition, &mut found);
    found
}

fn collect(library: Library<'_>, expr: &Expr, found: &mut Vec<Expr>) {
    let is_alone = depends_on_nothing(expr);
    if is_alone || is_gate(expr) {
        if !is_trivial(expr) && (is_alone || library.is_fallible(expr)) {
            found.push(expr.clone());
        }
    } else if !is_in_order(expr) {
        let children = expr.children().into_iter();
        children.for_each(|child| collect(library, child, found));
    }
}

/// Parts that read no row of their query and may raise, but stand where only some rows have them evaluated, queries and
/// functions included. A row that is not looked at might be one of these.
pub(super) fn reserved(library: Library<'_>, condition: &Expr) -> Vec<Expr> {
    let mut found = Vec::new();
    collect_reserved(library, condition, false, &mut found);
    found
}

fn collect_reserved(library: Library<'_>, expr: &Expr, is_inside: bool, found: &mut Vec<Expr>) {
    if depends_on_nothing(expr) || is_gate(expr) {
        if is_inside && !is_trivial(expr) && library.is_fallible(expr) {
            found.push(expr.clone());
        }
        return;
    }
    if let Node::Routine { routine, .. } = expr.node {
        found.extend(library.of_claims(routine).iter().cloned());
    }
    if let Some(query) = expr.subquery() {
        query.walk(1, &mut |expr, depth| {
            if is_beyond(expr, depth) {
                if !is_trivial(expr) && library.is_fallible(expr) {
                    found.push(lifted(expr, depth));
                }
                return true;
            }
            if let Node::Routine { routine, .. } = expr.node {
                found.extend(library.of_claims(routine).iter().cloned());
            }
            false
        });
    }
    let is_inside = is_inside || is_in_order(expr);
    let children = expr.children().into_iter();
    children.for_each(|child| collect_reserved(library, child, is_inside, found));
}

/// Whether an expression that stands `depth` queries further in reads no row of the query out there, nor of those between.
pub(super) fn is_beyond(expr: &Expr, depth: usize) -> bool {
    !expr.any(&mut |expr, further| match &expr.node {
        Node::Column { level, .. } | Node::WholeRow { level, .. } => {
            *level >= further && *level <= further.saturating_add(depth)
        }
        Node::Grouped { .. } | Node::Slot(_) => further == 0,
        Node::Call(call) => call.volatile,
        Node::Routine { volatile, .. } => *volatile,
        _ => false,
    })
}

/// Such an expression as it would stand in the query out there.
pub(super) fn lifted(expr: &Expr, depth: usize) -> Expr {
    let mut lifted = expr.clone();
    lifted.change(0, &mut |expr, further| {
        if let Node::Column { level, .. } | Node::WholeRow { level, .. } = &mut expr.node
            && *level > further
        {
            *level = level.saturating_sub(depth);
        }
        false
    });
    lifted
}

fn is_trivial(expr: &Expr) -> bool {
    matches!(
        expr.node,
        Node::Const(_) | Node::Parameter(_) | Node::Raise(_) | Node::Array(_)
    )
}

/// What is evaluated in order keeps what stands further right from being evaluated.
const fn is_in_order(expr: &Expr) -> bool {
    matches!(
        expr.node,
        Node::Case(..) | Node::Coalesce(_) | Node::NullIf(_)
    )
}
