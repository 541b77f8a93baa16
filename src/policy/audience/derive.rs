//! From a plan to its audience: which conditions bind claims to the row.
//!
//! Only what makes a condition true counts: NULL and false are alike here.

use std::collections::BTreeSet;

use super::sound::Sound;
use super::traits::Observer;
use super::{Audience, Form, Term};
use crate::policy::compile::claim_names;
use crate::policy::ir::{BuiltinCall, Expr, Node, Routine};
use crate::policy::schema::Schema;
use crate::policy::value::{Oid, Value, equatable, oid};

/// Equality between integers of different widths.
const INTEGER_EQUALITY: &[Oid] = &[158, 159, 852, 474, 1850, 1856];
/// `anyarray @> anyarray`, `<@`, `&&`
const CONTAINS: Oid = 2748;
const CONTAINED: Oid = 2749;
const OVERLAPS: Oid = 2750;
/// Expressions over claims in one plan; each is evaluated for each identity.
const TERMS_MAX: usize = 64;

/// Reads the audience of a plan off it: its condition, what is evaluated ahead of it, its functions. Adds the look-ups
/// that finding it takes.
pub(in crate::policy) fn derive(
    schema: &Schema,
    qual: &Expr,
    eager: &[Expr],
    routines: &[Routine],
    lookups: &mut BTreeSet<(Oid, Vec<usize>)>,
) -> Audience {
    let mut observer = Observer::new(routines);
    let mut sound = Sound::new(schema, &mut observer);
    let is_sound =
        sound.expression(qual, true) && eager.iter().all(|expr| sound.expression(expr, false));
    let (guards, checks) = (sound.guards, sound.checks);
    let mut derivation = Derivation {
        schema,
        observer,
        terms: Vec::new(),
        lookups: BTreeSet::new(),
        inside: Vec::new(),
    };
    let form = if is_sound {
        let row = Around {
            levels: vec![vec![true]],
            variables: Vec::new(),
        };
        derivation.form(qual, &row)
    } else {
        Form::Everybody
    };
    let mut audience = Audience {
        form,
        terms: derivation.terms,
        guards,
        checks,
        description: Box::default(),
    };
    if audience.terms.len() > TERMS_MAX {
        audience.form = Form::Everybody;
    }
    if audience.is_narrow() {
        lookups.extend(derivation.lookups);
    } else {
        audience.terms.clear();
        audience.guards.clear();
        audience.checks.clear();
    }
    audience.description = audience.described();
    audience
}

/// What is known of a variable of a function.
#[derive(Clone, Debug)]
pub(super) enum Binding {
    /// Its value, once a row is there.
    Known,
    /// This expression over claims alone.
    Claims(Expr),
    Unknown,
}

/// What is known around an expression.
#[derive(Clone, Debug)]
pub(super) struct Around {
    /// Which tables of which query have a row, innermost query last.
    pub(super) levels: Vec<Vec<bool>>,
    pub(super) variables: Vec<Binding>,
}

/// What a query's rows must satisfy: over its targets as slots, besides what stands around it.
pub(super) type Wanted = Option<Expr>;

pub(super) struct Derivation<'a> {
    pub(super) schema: &'a Schema,
    pub(super) observer: Observer<'a>,
    terms: Vec<Term>,
    pub(super) lookups: BTreeSet<(Oid, Vec<usize>)>,
    /// Functions that are being looked into.
    pub(super) inside: Vec<usize>,
}

impl Derivation<'_> {
    /// Whether the value is known without claims.
    pub(super) fn is_known(&mut self, expr: &Expr, around: &Around) -> bool {
        let traits = self.observer.of(expr);
        !traits.settings
            && !traits.slots
            && !traits.other
            && traits.rows.iter().all(|(outer, item)| {
                let place = around.levels.len().checked_sub(outer.saturating_add(1));
                place
                    .and_then(|place| around.levels.get(place)?.get(*item))
                    .copied()
                    .unwrap_or(false)
            })
            && traits
                .variables
                .iter()
                .all(|index| matches!(around.variables.get(*index), Some(Binding::Known)))
    }

    /// The expression over claims alone that this is.
    pub(super) fn over_claims(&mut self, expr: &Expr, around: &Around) -> Option<Expr> {
        let traits = self.observer.of(expr);
        if traits.slots
            || traits.other
            || traits.time
            || traits.tables
            || !traits.rows.is_empty()
            || !traits
                .variables
                .iter()
                .all(|index| matches!(around.variables.get(*index), Some(Binding::Claims(_))))
        {
            return None;
        }
        let mut whole = expr.clone();
        whole.change(0, &mut |expr, _| {
            let Node::Parameter(index) = expr.node else {
                return false;
            };
            if let Some(Binding::Claims(value)) = around.variables.get(index) {
                *expr = value.clone();
            }
            true
        });
        Some(whole)
    }

    fn term(&mut self, value: Expr, each: bool, type_oid: Oid) -> usize {
        let text = format!("{:?}", value.node);
        let known = self.terms.iter().position(|term| {
            term.each == each
                && term.type_oid == type_oid
                && format!("{:?}", term.value.node) == text
        });
        known.unwrap_or_else(|| {
            let names = claim_names(&value, self.observer.routines);
            let name = if names.is_empty() {
                "claims".to_owned()
            } else {
                names.join(" and ")
            };
            self.terms.push(Term {
                value,
                each,
                type_oid,
                name: name.into(),
            });
            self.terms.len().saturating_sub(1)
        })
    }

    /// For whom the condition may be true.
    pub(super) fn form(&mut self, expr: &Expr, around: &Around) -> Form {
        match &expr.node {
            Node::Const(Value::Bool(true)) => return Form::Everybody,
            Node::Const(_) => return Form::Nobody,
            Node::And(parts) => {
                let forms = parts.iter().map(|part| self.form(part, around)).collect();
                return Form::intersection(forms);
            }
            Node::Or(parts) | Node::Coalesce(parts) => {
                let forms = parts.iter().map(|part| self.form(part, around)).collect();
                return Form::union(forms);
            }
            Node::IsTruth(inner, Some(true), false) | Node::Relabel(inner) => {
                return self.form(inner, around);
            }
            _ => {}
        }
        if self.is_known(expr, around) {
            return Form::If(expr.clone());
        }
        if let Some(whole) = self.over_claims(expr, around) {
            let term = self.term(whole, false, oid::BOOL);
            return Form::Equal {
                term,
                value: Expr {
                    node: Node::Const(Value::Bool(true)),
                    ..expr.clone()
                },
            };
        }
        match &expr.node {
            Node::Case(branches, otherwise) => {
                let mut forms = Vec::new();
                for (condition, result) in branches {
                    let both = vec![self.form(condition, around), self.form(result, around)];
                    forms.push(Form::intersection(both));
                }
                forms.extend(otherwise.iter().map(|result| self.form(result, around)));
                Form::union(forms)
            }
            Node::Call(call) => self.call(expr, call, around),
            Node::AnyArray {
                all: false,
                left,
                right,
                test,
                ..
            } => self.any_array(expr, left, right, test, around),
            Node::AnyQuery {
                all: false,
                left,
                test,
                query,
                ..
            } => {
                let Some(wanted) = inside_of_query(test, left) else {
                    return Form::Everybody;
                };
                self.query(query, &Some(wanted), around)
            }
            Node::Exists(query) => self.query(query, &None, around),
            Node::Scalar(query) => self.query(query, &Some(slot(0, expr)), around),
            Node::Routine {
                routine, arguments, ..
            } => self.routine(*routine, arguments, Some(slot(0, expr)), around),
            _ => Form::Everybody,
        }
    }

    /// Whether this is the equality of a type, so that equal values have one representative.
    fn is_equality(&self, call: &BuiltinCall) -> bool {
        let base = |place: usize| {
            call.arguments
                .get(place)
                .map_or(0, |argument| self.schema.types.base(argument.type_oid))
        };
        if INTEGER_EQUALITY.contains(&call.function) {
            return true;
        }
        base(0) == base(1)
            && self
                .schema
                .equality
                .values()
                .any(|oid| *oid == call.function)
            && equatable(&self.schema.types, base(0))
    }

    fn call(&mut self, expr: &Expr, call: &BuiltinCall, around: &Around) -> Form {
        let [left, right] = call.arguments.as_slice() else {
            return Form::Everybody;
        };
        match call.function {
            CONTAINS => return self.contains(call, left, right, around),
            CONTAINED => return self.contains(call, right, left, around),
            OVERLAPS => return self.overlaps(left, right, around),
            _ => {}
        }
        if !self.is_equality(call) {
            return Form::Everybody;
        }
        for (side, other) in [(left, right), (right, left)] {
            if let Some(claim) = self.over_claims(side, around)
                && self.is_known(other, around)
            {
                let term = self.term(claim, false, side.type_oid);
                return Form::Equal {
                    term,
                    value: other.clone(),
                };
            }
        }
        self.lifted(expr, &[left, right], around)
    }

    /// A comparison with what a query or a function gives: some row of it compares so.
    fn lifted(&mut self, expr: &Expr, sides: &[&Expr], around: &Around) -> Form {
        for (place, side) in sides.iter().enumerate() {
            let mut template = expr.clone();
            match &side.node {
                Node::Scalar(query) | Node::ArrayQuery(query) => {
                    if matches!(side.node, Node::ArrayQuery(_)) {
                        continue;
                    }
                    let mut others = template.children_mut();
                    for (index, child) in others.iter_mut().enumerate() {
                        if index == place {
                            **child = slot(0, side);
                        } else if !further_in(child) {
                            return Form::Everybody;
                        }
                    }
                    return self.query(query, &Some(template), around);
                }
                Node::Routine {
                    routine, arguments, ..
                } => {
                    if let Some(child) = template.children_mut().get_mut(place) {
                        **child = slot(0, side);
                    }
                    return self.routine(*routine, arguments, Some(template), around);
                }
                _ => {}
            }
        }
        Form::Everybody
    }

    fn any_array(
        &mut self,
        expr: &Expr,
        left: &Expr,
        right: &Expr,
        test: &Expr,
        around: &Around,
    ) -> Form {
        let Node::Call(call) = &test.node else {
            return Form::Everybody;
        };
        let of_slots = call
            .arguments
            .iter()
            .all(|argument| matches!(argument.node, Node::Slot(_)));
        if !self.is_equality(call) {
            return Form::Everybody;
        }
        if of_slots {
            if let Some(claim) = self.over_claims(left, around)
                && self.is_known(right, around)
            {
                let term = self.term(claim, false, left.type_oid);
                return Form::Member {
                    term,
                    array: right.clone(),
                };
            }
            if let Some(element) = self.schema.types.element(right.type_oid)
                && self.is_known(left, around)
                && let Some(claim) = self.over_claims(right, around)
            {
                let term = self.term(claim, true, element);
                return Form::Equal {
                    term,
                    value: left.clone(),
                };
            }
        }
        match &right.node {
            Node::Array(list) => {
                let forms = list.iter().map(|element| {
                    let mut equal = test.clone();
                    put(&mut equal, &[left.clone(), element.clone()]);
                    self.form(&equal, around)
                });
                Form::union(forms.collect())
            }
            Node::ArrayQuery(query) => {
                let left = [left.clone()];
                match inside_of_query(test, &left) {
                    Some(wanted) => self.query(query, &Some(wanted), around),
                    None => Form::Everybody,
                }
            }
            _ => self.lifted(expr, &[left, right], around),
        }
    }

    /// Every element of the inner array is one of the outer one's.
    fn contains(
        &mut self,
        call: &BuiltinCall,
        outer: &Expr,
        inner: &Expr,
        around: &Around,
    ) -> Form {
        let Node::Array(list) = &inner.node else {
            return Form::Everybody;
        };
        if !self.is_known(outer, around) {
            return Form::Everybody;
        }
        let Some(element) = self.element_of(outer) else {
            return Form::Everybody;
        };
        let mut forms = Vec::new();
        let mut known = Vec::new();
        for item in list {
            if self.is_known(item, around) {
                known.push(item.clone());
            } else if let Some(claim) = self.over_claims(item, around) {
                let term = self.term(claim, false, element);
                forms.push(Form::Member {
                    term,
                    array: outer.clone(),
                });
            }
        }
        if !known.is_empty() {
            let inner = Expr {
                node: Node::Array(known),
                ..inner.clone()
            };
            let arguments = if call.function == CONTAINS {
                vec![outer.clone(), inner]
            } else {
                vec![inner, outer.clone()]
            };
            forms.push(Form::If(Expr {
                node: Node::Call(Box::new(BuiltinCall {
                    arguments,
                    ..call.clone()
                })),
                type_oid: oid::BOOL,
                typmod: -1,
                ..outer.clone()
            }));
        }
        Form::intersection(forms)
    }

    /// Some element of the one array is one of the other's.
    fn overlaps(&mut self, left: &Expr, right: &Expr, around: &Around) -> Form {
        for (side, other) in [(left, right), (right, left)] {
            if let Some(element) = self.element_of(side)
                && self.is_known(other, around)
                && let Some(claim) = self.over_claims(side, around)
            {
                let term = self.term(claim, true, element);
                return Form::Member {
                    term,
                    array: other.clone(),
                };
            }
        }
        Form::Everybody
    }

    fn element_of(&self, array: &Expr) -> Option<Oid> {
        let element = self.schema.types.element(array.type_oid)?;
        equatable(&self.schema.types, element).then_some(element)
    }
}

/// Slot `index`, of the type of another expression.
pub(super) fn slot(index: usize, like: &Expr) -> Expr {
    Expr {
        node: Node::Slot(index),
        ..like.clone()
    }
}

/// Puts values in place of slots.
pub(super) fn put(expr: &mut Expr, values: &[Expr]) {
    expr.change(0, &mut |expr, depth| {
        let Node::Slot(index) = expr.node else {
            return false;
        };
        if depth == 0
            && let Some(value) = values.get(index)
        {
            *expr = value.clone();
        }
        true
    });
}

/// The test of `left = any (query)` as a condition inside of the query, its targets as slots; `None` if the left side
/// cannot be moved there.
fn inside_of_query(test: &Expr, left: &[Expr]) -> Option<Expr> {
    let mut values = Vec::new();
    for value in left {
        let mut value = value.clone();
        if !further_in(&mut value) {
            return None;
        }
        values.push(value);
    }
    let targets = values.len();
    let mut wanted = test.clone();
    wanted.change(0, &mut |expr, depth| {
        let Node::Slot(index) = expr.node else {
            return false;
        };
        if depth == 0 {
            match values.get(index) {
                Some(value) => *expr = value.clone(),
                None => expr.node = Node::Slot(index.saturating_sub(targets)),
            }
        }
        true
    });
    Some(wanted)
}

/// Makes an expression mean the same one query further in; false if it cannot.
pub(super) fn further_in(expr: &mut Expr) -> bool {
    let mut whole = true;
    expr.change(0, &mut |expr, depth| {
        match &mut expr.node {
            Node::Column { level, .. } | Node::WholeRow { level, .. } if *level >= depth => {
                *level = level.saturating_add(1);
            }
            Node::Slot(_) | Node::Grouped { .. } if depth == 0 => whole = false,
            _ => {}
        }
        false
    });
    whole
}
