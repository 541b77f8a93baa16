//! What a join asks for, parsed: the JSON object of a binding goes in, a [`Binding`] or the text that the subscriber is
//! told comes out (protocol.md §4.4, §4.5).
//!
//! Never looks at the database: whether a table or a column exists is the work of `resolve`. Keys that are not known
//! here are left alone.

use std::fmt::{self, Write as _};

use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::condition::{Condition, parse_conditions};
use super::inspect::{Strings, Term};
use super::pattern::Pattern;
use super::snapshot::SnapshotWish;

/// One element of a join's `postgres_changes`, parsed but not yet checked against the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// Number that the join reply gave it; distinct objects of one channel have distinct ids.
    pub id: u32,
    /// Which actions are delivered.
    pub event: Event,
    /// LIKE pattern for the schema's name, without an escape character; `*` alone is any.
    pub schema: Box<str>,
    /// LIKE pattern for the table's name, likewise.
    pub table: Box<str>,
    /// All of them must hold.
    pub conditions: Box<[Condition]>,
    /// Columns asked for, as written; `None` for all. Never empty.
    pub select: Option<Box<[Box<str>]>>,
    /// Whether rows that an UPDATE moves out of sight or out of the filter are announced (protocol.md §11).
    pub left: bool,
    /// The rows that are there already; `None` if only changes are asked for.
    pub snapshot: Option<SnapshotWish>,
}

/// The `event` of a binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// `*`, or anything that is no action.
    All,
    /// INSERT only.
    Insert,
    /// UPDATE only.
    Update,
    /// DELETE only.
    Delete,
}

/// A binding that can never be served; the text is what the subscriber is told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BindingError {
    /// What every server refuses, in a system message or, where the join waits, as its error (protocol.md §4.5).
    #[error("{0}")]
    Parameters(String),
    /// A malformed `snapshot`: a join error (protocol.md §11).
    #[error("{0}")]
    Snapshot(&'static str),
}

/// A binding as the join carried it.
#[derive(Clone, Debug)]
pub struct RequestedBinding {
    /// Number that the join reply gives it; never zero.
    pub id: u32,
    /// The JSON object, byte for byte.
    pub json: Box<RawValue>,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::All => "*",
            Self::Insert => "INSERT",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
        })
    }
}

impl Event {
    /// Anything that is no action means all of them, also a missing or wrongly typed one.
    fn parse(value: Option<&Value>) -> Self {
        let name = value.and_then(Value::as_str).unwrap_or("*");
        match name.to_uppercase().as_str() {
            "INSERT" => Self::Insert,
            "UPDATE" => Self::Update,
            "DELETE" => Self::Delete,
            _ => Self::All,
        }
    }
}

impl Binding {
    /// Parses one element of a join's `postgres_changes`.
    ///
    /// # Errors
    /// The element can never be served; the text goes to the subscriber.
    pub fn parse(requested: &RequestedBinding) -> Result<Self, BindingError> {
        // Valid, but nested too deeply to be taken apart.
        let value: Value = serde_json::from_str(requested.json.get())
            .map_err(|_depth| BindingError::Parameters(format!("{NO_PARAMS}<redacted>")))?;
        let Value::Object(object) = &value else {
            return Err(BindingError::Parameters(format!(
                "{NO_PARAMS}{}",
                Term(&value)
            )));
        };
        let select = parse_select(object)?;
        let (schema, table, filter) = place(object).ok_or_else(|| no_params(object, &value))?;
        let conditions = match filter {
            None => Box::default(),
            Some(filter) => parse_conditions(filter).map_err(|error| {
                BindingError::Parameters(format!("Error parsing `filter` params: {error}"))
            })?,
        };
        if select.is_some() && (schema == "*" || table == "*") {
            return Err(BindingError::Parameters(WILDCARD_SELECT.to_owned()));
        }
        let event = Event::parse(object.get("event"));
        let inserts = matches!(event, Event::All | Event::Insert);
        let snapshot = SnapshotWish::parse(object, inserts).map_err(BindingError::Snapshot)?;
        Ok(Self {
            id: requested.id,
            event,
            schema: schema.into(),
            table: table.into(),
            conditions,
            select,
            left: object.get("left") == Some(&Value::Bool(true)),
            snapshot,
        })
    }

    /// The bracketed parameters of an "Unable to subscribe" message (protocol.md §4.5).
    #[must_use]
    pub fn describe(&self) -> String {
        let mut text = format!(
            "[event: {}, schema: {}, table: {}, filters: [",
            self.event, self.schema, self.table
        );
        for (index, condition) in self.conditions.iter().enumerate() {
            if index > 0 {
                text.push_str(", ");
            }
            // Writing to a String does not fail.
            let _ = write!(text, "{condition}");
        }
        text.push_str("], select: ");
        match &self.select {
            None => text.push_str("nil"),
            Some(columns) => {
                let _ = write!(text, "{}", Strings(columns));
            }
        }
        text.push(']');
        text
    }

    /// Whether the binding asks for the table of this schema and name.
    #[must_use]
    pub fn names(&self, schema: &str, table: &str) -> bool {
        name_matches(&self.schema, schema) && name_matches(&self.table, table)
    }
}

const NO_PARAMS: &str = "No subscription params provided. Please provide at least a `schema` or `table` to subscribe to: ";
const WILDCARD_SELECT: &str = "Column selection is not supported for wildcard subscriptions. Provide an explicit schema and table name.";
const SELECT_LIST: &str = "Error parsing `select` params: expected a list of column name strings, e.g. select: [\"col1\", \"col2\"]";

fn no_params(object: &Map<String, Value>, value: &Value) -> BindingError {
    // Nobody's token may be repeated to whoever reads the channel's messages.
    if object.contains_key("user_token") || object.contains_key("auth_token") {
        return BindingError::Parameters(format!("{NO_PARAMS}<redacted>"));
    }
    BindingError::Parameters(format!("{NO_PARAMS}{}", Term(value)))
}

/// Schema, table and filter; `None` where one of the three is present but no string, or a filter has no table.
fn place(object: &Map<String, Value>) -> Option<(&str, &str, Option<&str>)> {
    let text = |key: &str| object.get(key).map(Value::as_str);
    match (text("schema"), text("table"), text("filter")) {
        (Some(Some(schema)), Some(Some(table)), Some(Some(filter))) => {
            Some((schema, table, Some(filter)))
        }
        (Some(Some(schema)), Some(Some(table)), None) => Some((schema, table, None)),
        (Some(Some(schema)), None, None) => Some((schema, "*", None)),
        (None, Some(Some(table)), None) => Some(("public", table, None)),
        _ => None,
    }
}

fn parse_select(object: &Map<String, Value>) -> Result<Option<Box<[Box<str>]>>, BindingError> {
    match object.get("select") {
        Some(Value::Array(items)) => {
            let names: Box<[Box<str>]> = items
                .iter()
                .filter_map(Value::as_str)
                .map(Into::into)
                .collect();
            Ok((!names.is_empty()).then_some(names))
        }
        Some(Value::String(_)) => Err(BindingError::Parameters(SELECT_LIST.to_owned())),
        _ => Ok(None),
    }
}

/// LIKE without an escape character: `_` is any one character, `%` any number of them, `*` alone anything at all.
fn name_matches(pattern: &str, name: &str) -> bool {
    if pattern == "*" {
        return true;
    }
    Pattern::without_escape(pattern).matches(name)
}

#[cfg(test)]
mod tests;
