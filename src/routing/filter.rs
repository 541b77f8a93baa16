//! Does a row pass a filter? A relation and a tuple go in; yes, no, or questions for Postgres come out.
//!
//! Never guesses: what walcast does not decide exactly as Postgres would, it asks; a value that the change does not
//! carry never matches (protocol.md §4.5).

use std::cmp::Ordering;
use std::sync::Arc;

use super::Operator;
use super::pattern::{DanglingEscape, Pattern};
use super::value::{Family, TextOrder, Value};
use crate::change::{Datum, Oid, Relation, Tuple};
use crate::policy::Predicate;

/// All conditions that one subscription puts on the rows of one table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Filter {
    pub(super) tests: Box<[Test]>,
}

/// Whether a row passes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Match {
    /// It passes.
    Yes,
    /// It does not, or cannot be known to.
    No,
    /// It passes if all of these hold; never empty.
    Ask(Vec<Predicate>),
}

/// One condition, its value understood.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Test {
    /// Name of the column.
    pub(super) column: Box<str>,
    /// The column's type when the value was understood.
    pub(super) type_oid: Oid,
    /// How the column's texts are read.
    pub(super) family: Family,
    /// How the column is compared.
    pub(super) operator: Operator,
    /// Whether the contrary is wanted.
    pub(super) negated: bool,
    /// What it is compared with.
    pub(super) operand: Operand,
    /// How Postgres is asked; `None` where that is never needed.
    pub(super) question: Option<Question>,
}

/// The SQL of a condition and the value that it takes besides the row's.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Question {
    /// Boolean expression over `$1`, the row's value, and `$2`.
    pub(super) sql: Arc<str>,
    /// `$2`.
    pub(super) value: Box<str>,
}

/// What a column is compared with.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Operand {
    /// One value.
    One(Value),
    /// The elements of a list; `None` for NULL.
    Any(Box<[Option<Value>]>),
    /// A pattern of LIKE.
    Like(Pattern),
    /// A pattern of ILIKE.
    Ilike(Caseless),
    /// The keyword after IS.
    Is(Keyword),
    /// Something that only Postgres understands.
    Foreign,
}

/// A keyword after IS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Keyword {
    /// `null`
    Null,
    /// `null` on a composite type, for which a row of NULLs alone counts as well.
    NullRow,
    /// `true`
    True,
    /// `false`
    False,
    /// `unknown`
    Unknown,
}

/// A pattern in lower case.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Caseless {
    /// As nearly all collations lower ASCII letters.
    plain: Pattern,
    /// As Turkic ones do, for which `I` is not the capital of `i`; `None` if the pattern is not ASCII only and case
    /// mapping therefore not known.
    dotless: Option<Pattern>,
}

/// What a condition says about a row.
enum Truth {
    True,
    False,
    Null,
    /// Only Postgres knows.
    Unknown,
}

/// Steps that matching one pattern may take here; beyond, Postgres is asked, which has a statement timeout. About 10 ms.
const PATTERN_STEPS_MAX: usize = 4 << 20;

impl Filter {
    /// A filter that is passed when all of `tests` hold.
    pub(super) fn new(tests: Vec<Test>) -> Self {
        Self {
            tests: tests.into(),
        }
    }

    /// All that must hold.
    pub(super) fn tests(&self) -> &[Test] {
        &self.tests
    }

    /// Whether every row passes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tests.is_empty()
    }

    /// Whether [`Filter::matches`] never answers [`Match::Ask`].
    #[must_use]
    pub fn is_certain(&self) -> bool {
        self.tests.iter().all(Test::is_certain)
    }

    /// Whether `tuple`, described by `relation`, passes. With `key_only` only the replica identity's columns are
    /// known.
    #[must_use]
    pub fn matches(&self, relation: &Relation, tuple: &Tuple, key_only: bool) -> Match {
        self.test(relation, |index| {
            let column = relation.columns.get(index)?;
            if key_only && !column.in_identity {
                return None;
            }
            tuple.get(index)
        })
    }

    /// [`Filter::matches`] over columns read through `read`, which answers `None` for a value that is not known.
    pub(super) fn test<'a>(
        &self,
        relation: &Relation,
        read: impl Fn(usize) -> Option<Datum<'a>>,
    ) -> Match {
        let mut asked = Vec::new();
        for test in &self.tests {
            let Some(index) = test.place(relation) else {
                return Match::No;
            };
            let text = match read(index) {
                None | Some(Datum::Unchanged) => return Match::No,
                Some(Datum::Null) => None,
                // Postgres sends valid UTF-8 unless the database is SQL_ASCII; then nothing is known about the value.
                Some(Datum::Text(text)) => match std::str::from_utf8(text) {
                    Ok(text) => Some(text),
                    Err(_) => return Match::No,
                },
            };
            match (test.truth(text), test.negated) {
                (Truth::True, false) | (Truth::False, true) => {}
                (Truth::True, true) | (Truth::False, false) | (Truth::Null, _) => return Match::No,
                (Truth::Unknown, _) => match test.ask(text) {
                    Some(predicate) => asked.push(predicate),
                    None => return Match::No,
                },
            }
        }
        if asked.is_empty() {
            Match::Yes
        } else {
            Match::Ask(asked)
        }
    }
}

impl Test {
    /// Position of the column; `None` if it is gone or its texts mean something else than the value was cast to.
    fn place(&self, relation: &Relation) -> Option<usize> {
        let index = relation.column(&self.column)?;
        let found = relation.columns.get(index)?.type_oid;
        (found == self.type_oid || super::value::are_alike(found, self.type_oid)).then_some(index)
    }

    fn is_certain(&self) -> bool {
        match &self.operand {
            Operand::Is(_) => true,
            Operand::One(_) => self.family.is_total() && self.decides_order(),
            Operand::Any(items) => items.is_empty() || self.family.is_total(),
            Operand::Like(pattern) => !pattern.counts_characters(),
            Operand::Ilike(_) | Operand::Foreign => false,
        }
    }

    const fn decides_order(&self) -> bool {
        match self.operator {
            Operator::Lt | Operator::Lte | Operator::Gt | Operator::Gte => self.family.is_ordered(),
            _ => true,
        }
    }

    fn ask(&self, text: Option<&str>) -> Option<Predicate> {
        let question = self.question.as_ref()?;
        Some(Predicate {
            sql: Arc::clone(&question.sql),
            parameters: Box::new([text.map(Into::into), Some(question.value.clone())]),
        })
    }

    /// What the condition, without its `not`, says about a value.
    fn truth(&self, text: Option<&str>) -> Truth {
        match (&self.operand, text) {
            (Operand::Is(keyword), text) => keyword.holds(text).into(),
            // No element is compared, so that not even NULL makes it unknown.
            (Operand::Any(items), _) if items.is_empty() => Truth::False,
            (_, None) if self.operator == Operator::IsDistinct => Truth::True,
            (_, None) => Truth::Null,
            (Operand::One(value), Some(text)) => self.compare(text, value),
            (Operand::Any(items), Some(text)) => self.find(text, items),
            (Operand::Like(pattern), Some(text)) => match_pattern(pattern, text),
            (Operand::Ilike(pattern), Some(text)) => pattern.truth(text, self.family.text_order()),
            (Operand::Foreign, Some(_)) => Truth::Unknown,
        }
    }

    fn compare(&self, text: &str, value: &Value) -> Truth {
        if !self.decides_order() {
            return Truth::Unknown;
        }
        let Some(order) = self.family.compare(text, value) else {
            return Truth::Unknown;
        };
        match self.operator {
            Operator::Eq => order == Ordering::Equal,
            Operator::Neq | Operator::IsDistinct => order != Ordering::Equal,
            Operator::Lt => order == Ordering::Less,
            Operator::Lte => order != Ordering::Greater,
            Operator::Gt => order == Ordering::Greater,
            Operator::Gte => order != Ordering::Less,
            Operator::In
            | Operator::Like
            | Operator::Ilike
            | Operator::Match
            | Operator::Imatch
            | Operator::Is => return Truth::Unknown,
        }
        .into()
    }

    fn find(&self, text: &str, items: &[Option<Value>]) -> Truth {
        let mut missed = Truth::False;
        for item in items {
            match item {
                None => missed = Truth::Null,
                Some(value) => match self.family.compare(text, value) {
                    Some(Ordering::Equal) => return Truth::True,
                    Some(Ordering::Less | Ordering::Greater) => {}
                    None => return Truth::Unknown,
                },
            }
        }
        missed
    }
}

impl Keyword {
    fn holds(self, text: Option<&str>) -> bool {
        match self {
            Self::Null | Self::Unknown => text.is_none(),
            // A field that is NULL prints as nothing at all.
            Self::NullRow => {
                text.is_none_or(|text| text.bytes().all(|byte| b"(,)".contains(&byte)))
            }
            Self::True => text == Some("t"),
            Self::False => text == Some("f"),
        }
    }
}

impl Caseless {
    /// Compiles a pattern of ILIKE.
    pub(super) fn compile(pattern: &str) -> Result<Self, DanglingEscape> {
        let lower = pattern.to_ascii_lowercase();
        let dotless = (pattern.is_ascii())
            .then(|| Pattern::with_escape(&lower_dotless(pattern)))
            .transpose()?;
        Ok(Self {
            plain: Pattern::with_escape(&lower)?,
            dotless,
        })
    }

    fn truth(&self, text: &str, order: Option<TextOrder>) -> Truth {
        let plain = || match_pattern(&self.plain, &text.to_ascii_lowercase());
        match (order, &self.dotless) {
            (Some(TextOrder::C), _) => plain(),
            (Some(TextOrder::Unknown), Some(dotless)) if text.is_ascii() => {
                // `dotless` holds letters that are not ASCII, but the server would see as many characters.
                let turkic = dotless.cost(text.len()) <= PATTERN_STEPS_MAX
                    && dotless.matches(&lower_dotless(text));
                match (plain(), turkic) {
                    (Truth::True, true) => Truth::True,
                    (Truth::False, false) => Truth::False,
                    _ => Truth::Unknown,
                }
            }
            _ => Truth::Unknown,
        }
    }
}

/// ASCII text in lower case as Turkish has it.
fn lower_dotless(text: &str) -> String {
    text.replace('I', "ı").to_ascii_lowercase()
}

fn match_pattern(pattern: &Pattern, text: &str) -> Truth {
    let counts = pattern.counts_characters() && !text.is_ascii();
    if counts || pattern.cost(text.len()) > PATTERN_STEPS_MAX {
        return Truth::Unknown;
    }
    pattern.matches(text).into()
}

impl From<bool> for Truth {
    fn from(value: bool) -> Self {
        if value { Self::True } else { Self::False }
    }
}

#[cfg(test)]
mod tests;
