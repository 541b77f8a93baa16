//! `jsonb` values and their text form.

use std::fmt;
use std::sync::Arc;

use super::SqlError;
use super::json_text::{Reader, Token};
use super::numeric::Numeric;

/// A `jsonb` value. `Eq` and `Hash` tell `1.0` from `1.00`; [`Json::canonical`] does not.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Json {
    /// JSON null: not SQL NULL.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number.
    Number(Numeric),
    /// A string.
    String(Arc<str>),
    /// An array.
    Array(Box<[Self]>),
    /// An object: keys distinct and in the order of jsonb (shorter first, then by bytes).
    Object(Box<[(Arc<str>, Self)]>),
}

impl Json {
    /// Reads JSON text as `jsonb_in` does; the last of equal keys wins.
    pub(crate) fn parse(text: &str) -> Result<Self, SqlError> {
        let mut reader = Reader::new(text, true)?;
        let value = Self::read(&mut reader, 0)?;
        reader.end()?;
        Ok(value)
    }

    fn read(reader: &mut Reader<'_>, depth: usize) -> Result<Self, SqlError> {
        let depth = super::json_text::deeper(depth)?;
        match reader.token() {
            Token::ObjectStart => {
                let mut members = Vec::new();
                reader.members(|reader, key| {
                    members.push((Arc::from(key), Self::read(reader, depth)?));
                    Ok(())
                })?;
                Ok(Self::object(members))
            }
            Token::ArrayStart => {
                let mut items = Vec::new();
                reader.items(|reader| {
                    items.push(Self::read(reader, depth)?);
                    Ok(())
                })?;
                Ok(Self::Array(items.into()))
            }
            Token::String => {
                let text = reader.take_string();
                reader.advance()?;
                Ok(Self::String(text.into()))
            }
            Token::Number => {
                let text = reader.lexeme().to_owned();
                reader.advance()?;
                Numeric::parse(&text).map(Self::Number)
            }
            Token::True | Token::False => {
                let value = reader.token() == Token::True;
                reader.advance()?;
                Ok(Self::Bool(value))
            }
            Token::Null => {
                reader.advance()?;
                Ok(Self::Null)
            }
            _ => Err(reader.invalid()),
        }
    }

    /// An object of these members; of equal keys the last one wins.
    #[must_use]
    pub fn object(mut members: Vec<(Arc<str>, Self)>) -> Self {
        members.reverse();
        members.sort_by(|(a, _), (b, _)| (a.len(), a).cmp(&(b.len(), b)));
        members.dedup_by(|(later, _), (earlier, _)| later == earlier);
        Self::Object(members.into())
    }

    /// The member of an object.
    #[must_use]
    pub fn member(&self, name: &str) -> Option<&Self> {
        let Self::Object(members) = self else {
            return None;
        };
        let place =
            members.binary_search_by(|(key, _)| (key.len(), &**key).cmp(&(name.len(), name)));
        members.get(place.ok()?).map(|(_, value)| value)
    }

    /// The element of an array; negative places count from the end.
    #[must_use]
    pub fn item(&self, place: i64) -> Option<&Self> {
        let Self::Array(items) = self else {
            return None;
        };
        let place = match usize::try_from(place) {
            Ok(place) => place,
            Err(_) => items
                .len()
                .checked_sub(usize::try_from(place.unsigned_abs()).ok()?)?,
        };
        items.get(place)
    }

    /// A scalar: no array and no object.
    #[must_use]
    pub const fn is_scalar(&self) -> bool {
        !matches!(self, Self::Array(_) | Self::Object(_))
    }

    /// The representative of all values that are equal.
    #[must_use]
    pub fn canonical(&self) -> Self {
        match self {
            Self::Number(number) => Self::Number(number.canonical()),
            Self::Array(items) => Self::Array(items.iter().map(Self::canonical).collect()),
            Self::Object(members) => {
                let members = members.iter();
                Self::Object(
                    members
                        .map(|(key, value)| (Arc::clone(key), value.canonical()))
                        .collect(),
                )
            }
            other => other.clone(),
        }
    }

    /// As `->>` gives it: strings without quotes; `None` for null.
    #[must_use]
    pub fn unquoted(&self) -> Option<Arc<str>> {
        match self {
            Self::Null => None,
            Self::String(text) => Some(Arc::clone(text)),
            other => Some(other.to_string().into()),
        }
    }
}

/// Appends a JSON string with its quotes.
pub(crate) fn quote(out: &mut impl fmt::Write, text: &str) -> fmt::Result {
    out.write_char('"')?;
    for character in text.chars() {
        match character {
            '"' => out.write_str("\\\"")?,
            '\\' => out.write_str("\\\\")?,
            '\u{8}' => out.write_str("\\b")?,
            '\u{c}' => out.write_str("\\f")?,
            '\n' => out.write_str("\\n")?,
            '\r' => out.write_str("\\r")?,
            '\t' => out.write_str("\\t")?,
            control if control < ' ' => write!(out, "\\u{:04x}", u32::from(control))?,
            other => out.write_char(other)?,
        }
    }
    out.write_char('"')
}

impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool(value) => write!(f, "{value}"),
            Self::Number(number) => number.fmt(f),
            Self::String(text) => quote(f, text),
            Self::Array(items) => {
                f.write_str("[")?;
                for (index, item) in items.iter().enumerate() {
                    f.write_str(if index == 0 { "" } else { ", " })?;
                    item.fmt(f)?;
                }
                f.write_str("]")
            }
            Self::Object(members) => {
                f.write_str("{")?;
                for (index, (key, value)) in members.iter().enumerate() {
                    f.write_str(if index == 0 { "" } else { ", " })?;
                    quote(f, key)?;
                    write!(f, ": {value}")?;
                }
                f.write_str("}")
            }
        }
    }
}
