//! `jsonb` and `numeric`.

use std::sync::Arc;

/// A `numeric` value: exact, with its display scale.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Numeric(pub(super) Box<str>);

/// A `jsonb` value.
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
    /// Reads JSON text; the last of equal keys wins.
    pub(super) fn parse(text: &str) -> Option<Self> {
        Some(Self::from_serde(serde_json::from_str(text).ok()?))
    }

    fn from_serde(value: serde_json::Value) -> Self {
        use serde_json::Value as Serde;
        match value {
            Serde::Null => Self::Null,
            Serde::Bool(value) => Self::Bool(value),
            Serde::Number(number) => Self::Number(Numeric(number.to_string().into())),
            Serde::String(text) => Self::String(text.into()),
            Serde::Array(items) => Self::Array(items.into_iter().map(Self::from_serde).collect()),
            Serde::Object(members) => {
                let mut members: Vec<(Arc<str>, Self)> = members
                    .into_iter()
                    .map(|(key, value)| (key.into(), Self::from_serde(value)))
                    .collect();
                members.sort_by(|(a, _), (b, _)| (a.len(), a).cmp(&(b.len(), b)));
                Self::Object(members.into())
            }
        }
    }

    /// The member of an object.
    #[must_use]
    pub fn member(&self, name: &str) -> Option<&Self> {
        match self {
            Self::Object(members) => members
                .iter()
                .find_map(|(key, value)| (**key == *name).then_some(value)),
            _ => None,
        }
    }
}

impl std::fmt::Display for Json {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool(value) => write!(f, "{value}"),
            Self::Number(number) => f.write_str(&number.0),
            Self::String(text) => {
                write!(f, "{}", serde_json::Value::String(text.to_string()))
            }
            Self::Array(items) => {
                f.write_str("[")?;
                for (index, item) in items.iter().enumerate() {
                    let separator = if index == 0 { "" } else { ", " };
                    write!(f, "{separator}{item}")?;
                }
                f.write_str("]")
            }
            Self::Object(members) => {
                f.write_str("{")?;
                for (index, (key, value)) in members.iter().enumerate() {
                    let separator = if index == 0 { "" } else { ", " };
                    let key = serde_json::Value::String(key.to_string());
                    write!(f, "{separator}{key}: {value}")?;
                }
                f.write_str("}")
            }
        }
    }
}
