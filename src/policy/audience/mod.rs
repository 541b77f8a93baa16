//! Audiences: which claims a row may concern, read off its plan.
//!
//! A plan goes in; out comes what finds, for a row, the values of claims that somebody must have whom the plan does not
//! surely deny: `claim = f(row)` and `claim ∈ S(row)`, through the tables that the plan looks into. The set may be too
//! large, never too small: whoever is outside of it is denied, and nothing raises for them. Where that cannot be shown,
//! everybody is in it. Who is inside is judged by the plan itself.

mod derive;
mod function;
mod select;
mod sound;
mod traits;

use std::fmt::Write as _;

use super::ir::{Expr, Node};
use super::value::Oid;
pub(super) use derive::derive;
pub(super) use traits::is_over_claims;

/// How to find whom a row may concern.
#[derive(Clone, Debug)]
pub(crate) struct Audience {
    pub(crate) form: Form,
    pub(crate) terms: Vec<Term>,
    /// Over claims alone: for whom one raises, any row may raise.
    pub(crate) guards: Vec<Expr>,
    /// Over the row, whoever asks: if one raises, it does for everybody.
    pub(crate) checks: Vec<Expr>,
    description: Box<str>,
}

/// Something over claims alone that rows are compared with.
#[derive(Clone, Debug)]
pub(crate) struct Term {
    pub(crate) value: Expr,
    /// It is an array, each of whose elements counts.
    pub(crate) each: bool,
    /// The type by whose equality values are compared.
    pub(crate) type_oid: Oid,
    /// The claims that it reads, for operators.
    name: Box<str>,
}

/// Whom a row may concern. Expressions read the row, rows that were found on the way, and no claims.
#[derive(Clone, Debug)]
pub(crate) enum Form {
    Everybody,
    Nobody,
    /// Everybody, if this holds.
    If(Expr),
    /// Those whose term equals the value.
    Equal {
        term: usize,
        value: Expr,
    },
    /// Those whose term equals one of the array's elements.
    Member {
        term: usize,
        array: Expr,
    },
    /// The union.
    Any(Vec<Self>),
    /// Any one of them will do, and if one is nobody, all are. What costs least comes first.
    All(Vec<Self>),
    /// The union over the rows of a query.
    Rows(Box<Rows>),
    /// Inside of a function's body.
    Routine {
        /// Its variables that are known.
        variables: Vec<(usize, Expr)>,
        inner: Box<Self>,
    },
    /// Inside of the row security of a table of the query.
    Policy {
        item: usize,
        inner: Box<Self>,
    },
}

/// Rows that are found step by step.
#[derive(Clone, Debug)]
pub(crate) struct Rows {
    /// Tables of the query.
    pub(crate) items: usize,
    pub(crate) steps: Vec<Step>,
    pub(crate) inner: Form,
}

/// One table, by columns that equal what is known by then.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) item: usize,
    pub(crate) table: Oid,
    pub(crate) keys: Vec<(usize, Expr)>,
    name: Box<str>,
}

impl Audience {
    /// Whether anything is known.
    pub(crate) const fn is_narrow(&self) -> bool {
        !matches!(self.form, Form::Everybody)
    }

    /// For operators.
    pub(crate) fn description(&self) -> &str {
        &self.description
    }

    fn described(&self) -> Box<str> {
        let mut parts = Vec::new();
        self.form.describe(&self.terms, &mut Vec::new(), &mut parts);
        if !self.is_narrow() || parts.is_empty() {
            return "evaluated per identity".into();
        }
        let mut text = String::from("audience ");
        for (index, part) in parts.iter().enumerate() {
            if index > 0 {
                text.push_str(" or ");
            }
            text.push_str(part);
        }
        text.into()
    }
}

impl Form {
    /// What a choice between two begins with.
    fn rank(&self) -> u32 {
        match self {
            Self::Nobody => 0,
            Self::If(_) => 1,
            // The same claims whatever the row.
            Self::Equal { value, .. } if matches!(value.node, Node::Const(_)) => 100,
            Self::Equal { .. } => 2,
            Self::Member { .. } => 3,
            Self::Policy { inner, .. } | Self::Routine { inner, .. } => inner.rank(),
            Self::Any(list) | Self::All(list) => list.iter().map(Self::rank).max().unwrap_or(0),
            Self::Rows(rows) => rows.inner.rank().max(3).saturating_add(1),
            Self::Everybody => 1000,
        }
    }

    /// Whether it leads to some claims.
    fn is_finite(&self) -> bool {
        match self {
            Self::Nobody | Self::Equal { .. } | Self::Member { .. } => true,
            Self::If(_) | Self::Everybody => false,
            Self::Any(list) => list.iter().all(Self::is_finite),
            Self::All(list) => list.iter().any(Self::is_finite),
            Self::Rows(rows) => rows.inner.is_finite(),
            Self::Routine { inner, .. } | Self::Policy { inner, .. } => inner.is_finite(),
        }
    }

    fn union(forms: Vec<Self>) -> Self {
        let mut flat = Vec::new();
        for form in forms {
            match form {
                Self::Everybody => return Self::Everybody,
                Self::Nobody => {}
                Self::Any(list) => flat.extend(list),
                other => flat.push(other),
            }
        }
        match flat.len() {
            0 => Self::Nobody,
            1 => flat.swap_remove(0),
            _ => Self::Any(flat),
        }
    }

    fn intersection(forms: Vec<Self>) -> Self {
        let mut flat = Vec::new();
        for form in forms {
            match form {
                Self::Nobody => return Self::Nobody,
                Self::Everybody => {}
                Self::All(list) => flat.extend(list),
                other => flat.push(other),
            }
        }
        flat.sort_by_key(Self::rank);
        match flat.len() {
            0 => Self::Everybody,
            1 => flat.swap_remove(0),
            _ => Self::All(flat),
        }
    }

    fn describe(&self, terms: &[Term], via: &mut Vec<String>, parts: &mut Vec<String>) {
        let mut add = |part: String| {
            if !parts.contains(&part) {
                parts.push(part);
            }
        };
        match self {
            Self::Everybody | Self::Nobody => {}
            Self::If(_) => add("of everybody on some rows".to_owned()),
            Self::Equal { term, .. } | Self::Member { term, .. } => {
                let mut text = String::from("by ");
                text.push_str(terms.get(*term).map_or("", |term| &term.name));
                for (index, step) in via.iter().enumerate() {
                    let word = if index == 0 { "via" } else { "and" };
                    // Writing to a String does not fail.
                    let _ = write!(text, " {word} {step}");
                }
                add(text);
            }
            Self::Any(list) => list
                .iter()
                .for_each(|form| form.describe(terms, via, parts)),
            // All of them bound it, and the one that leads to claims says more.
            Self::All(list) => {
                let finite = list.iter().find(|form| form.is_finite());
                let all = finite.or_else(|| list.first());
                all.into_iter()
                    .for_each(|form| form.describe(terms, via, parts));
            }
            Self::Rows(rows) => {
                let before = via.len();
                via.extend(rows.steps.iter().map(|step| step.name.to_string()));
                rows.inner.describe(terms, via, parts);
                via.truncate(before);
            }
            Self::Routine { inner, .. } | Self::Policy { inner, .. } => {
                inner.describe(terms, via, parts);
            }
        }
    }
}
