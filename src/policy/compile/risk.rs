//! Which parts of conditions may raise although no row gets as far as them in our order of evaluation.
//!
//! Postgres chooses an order of its own: a condition on one table may be evaluated on each of its rows, what depends on
//! no row at any time. Where some order raises, Postgres must be asked.

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

/// Whether evaluation on some row may raise. Functions of the user's count as safe: what they raise they mostly raise
/// for the claims, which [`invariants`] covers.
pub(super) fn may_raise(schema: &Schema, expr: &Expr) -> bool {
    let mut raises = false;
    expr.visit(0, &mut |expr, depth| {
        if depth > 0 {
            return;
        }
        raises |= match &expr.node {
            Node::Call(call) => {
                !call.arguments.iter().all(depends_on_nothing) && !is_total(schema, call)
            }
            Node::TextForm(inner) => {
                !depends_on_nothing(inner)
                    && !matches!(expr.type_oid, oid::TEXT | oid::VARCHAR | oid::BPCHAR)
            }
            _ => false,
        };
    });
    raises
}

/// Whether the call itself raises on no value of its types.
pub(in crate::policy) fn is_total(schema: &Schema, call: &BuiltinCall) -> bool {
    schema
        .functions
        .get(&call.function)
        .is_some_and(|function| {
            let name = &*function.name;
            let comparison = ["eq", "ne", "lt", "le", "gt", "ge"]
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

fn depends_on_nothing(expr: &Expr) -> bool {
    !expr.any(&mut |expr, depth| match expr.node {
        Node::Column { level, .. } | Node::WholeRow { level, .. } | Node::Grouped { level, .. } => {
            level >= depth
        }
        Node::Slot(_) => depth == 0,
        _ => false,
    })
}

/// Whether a condition reads this table and no other.
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

/// The largest parts that depend on no row and are more than a constant.
pub(super) fn invariants(condition: &Expr) -> Vec<Expr> {
    let mut found = Vec::new();
    collect(condition, &mut found);
    found
}

fn collect(expr: &Expr, found: &mut Vec<Expr>) {
    if depends_on_nothing(expr) {
        if !is_trivial(expr) {
            found.push(expr.clone());
        }
    } else if !is_in_order(expr) {
        let children = expr.children().into_iter();
        children.for_each(|child| collect(child, found));
    }
}

/// Parts that depend on no row and may raise, but stand where only some rows have them evaluated. A row that is not
/// looked at might be one of these.
pub(super) fn reserved(schema: &Schema, condition: &Expr) -> Vec<Expr> {
    let mut found = Vec::new();
    collect_reserved(schema, condition, false, &mut found);
    found
}

fn collect_reserved(schema: &Schema, expr: &Expr, is_inside: bool, found: &mut Vec<Expr>) {
    if depends_on_nothing(expr) {
        if is_inside && !is_trivial(expr) && is_fallible(schema, expr) {
            found.push(expr.clone());
        }
        return;
    }
    let is_inside = is_inside || is_in_order(expr);
    let children = expr.children().into_iter();
    children.for_each(|child| collect_reserved(schema, child, is_inside, found));
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

fn is_fallible(schema: &Schema, expr: &Expr) -> bool {
    expr.any(&mut |expr, _| match &expr.node {
        Node::Call(call) => !is_total(schema, call),
        Node::TextForm(_) => !matches!(expr.type_oid, oid::TEXT | oid::VARCHAR | oid::BPCHAR),
        Node::Routine { .. } | Node::Scalar(_) => true,
        _ => false,
    })
}
