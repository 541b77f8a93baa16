//! The text of a `filter`, parsed into conditions (protocol.md §4.5).
//!
//! Text goes in, conditions or the message after "Error parsing `filter` params: " comes out. Whether a value suits its
//! column is decided later, by the database.

use std::fmt;

use super::inspect::{Strings, Text};

/// One `column=[not.]operator.value` of a filter.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Condition {
    /// Unquoted column name, as written.
    pub column: Box<str>,
    /// How the column is compared.
    pub operator: Operator,
    /// What it is compared with, unquoted; a Postgres array literal for [`Operator::In`].
    pub value: Box<str>,
    /// Whether `not.` stood before the operator.
    pub negated: bool,
}

/// The operators of filters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operator {
    /// `=`
    Eq,
    /// `<>`
    Neq,
    /// `<`
    Lt,
    /// `<=`
    Lte,
    /// `>`
    Gt,
    /// `>=`
    Gte,
    /// `= any (array)`
    In,
    /// `like`
    Like,
    /// `ilike`
    Ilike,
    /// `~`
    Match,
    /// `~*`
    Imatch,
    /// `is`, followed by a keyword
    Is,
    /// `is distinct from`
    IsDistinct,
}

impl Operator {
    /// The name in a filter.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Eq => "eq",
            Self::Neq => "neq",
            Self::Lt => "lt",
            Self::Lte => "lte",
            Self::Gt => "gt",
            Self::Gte => "gte",
            Self::In => "in",
            Self::Like => "like",
            Self::Ilike => "ilike",
            Self::Match => "match",
            Self::Imatch => "imatch",
            Self::Is => "is",
            Self::IsDistinct => "isdistinct",
        }
    }

    /// The operator of this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        [
            Self::Eq,
            Self::Neq,
            Self::Lt,
            Self::Lte,
            Self::Gt,
            Self::Gte,
            Self::In,
            Self::Like,
            Self::Ilike,
            Self::Match,
            Self::Imatch,
            Self::Is,
            Self::IsDistinct,
        ]
        .into_iter()
        .find(|operator| operator.name() == name)
    }
}

/// As the reference prints it: `{"id", "eq", "5", false}`.
impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{{{}, \"{}\", {}, {}}}",
            Text(&self.column),
            self.operator.name(),
            Text(&self.value),
            self.negated
        )
    }
}

/// Conditions of one filter: each is tested on every row and may cost a question when subscribing. As many as the list
/// after `in` may have elements.
const CONDITIONS_MAX: usize = 100;

/// Parses the whole text of a filter; blank text holds no condition.
///
/// # Errors
/// What follows "Error parsing `filter` params: ".
pub(super) fn parse_conditions(filter: &str) -> Result<Box<[Condition]>, String> {
    let filter = filter.trim();
    if filter.is_empty() {
        return Ok(Box::default());
    }
    let segments = split(filter);
    if segments.len() > CONDITIONS_MAX {
        return Err(format!("too many conditions. Maximum {CONDITIONS_MAX}"));
    }
    segments.into_iter().map(parse_condition).collect()
}

/// Splits at commas outside parentheses and quotes. A quote opens only where a value or a list element begins.
fn split(filter: &str) -> Vec<&str> {
    let mut segments = Vec::new();
    let mut start = 0;
    let mut depth = 0_usize;
    let mut quoted = false;
    let mut previous = None;
    let mut characters = filter.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' if quoted => {
                characters.next();
            }
            '"' if quoted => quoted = false,
            _ if quoted => {}
            '"' if matches!(previous, Some('.' | '(' | ',')) => quoted = true,
            '(' => depth = depth.saturating_add(1),
            // An unbalanced one is an ordinary character.
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                segments.push(&filter[start..at]);
                start = at.saturating_add(1);
                previous = None;
                continue;
            }
            _ => {}
        }
        previous = Some(character);
    }
    segments.push(&filter[start..]);
    segments
}

fn parse_condition(segment: &str) -> Result<Condition, String> {
    let segment = segment.trim();
    if segment.is_empty() {
        return Err("filter must not contain empty segments (check for extra commas)".to_owned());
    }
    let (column, rest) = segment
        .split_once('=')
        .ok_or_else(|| Strings(&[segment]).to_string())?;
    let (negated, rest) = match rest.strip_prefix("not.") {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    let (name, value) = rest
        .split_once('.')
        .ok_or_else(|| Strings(&[rest]).to_string())?;
    let operator = Operator::parse(name).ok_or_else(|| Strings(&[name, value]).to_string())?;
    let value = if operator == Operator::In {
        let items = value
            .strip_prefix('(')
            .and_then(|value| value.strip_suffix(')'))
            .ok_or("`in` filter value must be wrapped by parentheses")?;
        format!("{{{items}}}")
    } else {
        unquote(value).unwrap_or_else(|| value.to_owned())
    };
    Ok(Condition {
        column: column.into(),
        operator,
        value: value.into(),
        negated,
    })
}

/// The content of a value that stands wholly in double quotes; `None` for any other.
fn unquote(value: &str) -> Option<String> {
    let mut characters = value.strip_prefix('"')?.chars();
    let mut content = String::with_capacity(value.len());
    while let Some(character) = characters.next() {
        match character {
            '"' => return characters.as_str().is_empty().then_some(content),
            '\\' => match characters.next() {
                Some(escaped) => content.push(escaped),
                // Not closed: the whole value is literal.
                None => return None,
            },
            other => content.push(other),
        }
    }
    None
}
