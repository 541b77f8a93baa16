//! What a binding's `snapshot` asks for (protocol.md §11): JSON goes in; limit and order, or the text that the subscriber is
//! told, come out.

use serde_json::{Map, Value};

/// The rows that are there when a binding begins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotWish {
    /// No more than so many rows, the first by `order`; never zero.
    pub limit: Option<u64>,
    /// By this column, then by the primary key.
    pub order: Option<SnapshotOrder>,
}

/// A column to sort by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotOrder {
    /// Its name as written; not yet looked up.
    pub column: Box<str>,
    /// From the greatest on.
    pub descending: bool,
}

const EXPECTED: &str =
    "Error parsing `snapshot`: expected true or {\"limit\": n, \"order\": \"column.asc\"}";
const WITH_SINCE: &str = "Error parsing `snapshot`: it cannot be used together with `since`";
const NEEDS_INSERT: &str =
    "Error parsing `snapshot`: its rows come as INSERT, which the binding's event leaves out";

impl SnapshotWish {
    /// What the object of a binding asks for; `None` without a `snapshot` that is true. `inserts`: whether the binding
    /// is sent INSERTs.
    ///
    /// # Errors
    /// The text for the subscriber.
    pub(super) fn parse(
        binding: &Map<String, Value>,
        inserts: bool,
    ) -> Result<Option<Self>, &'static str> {
        let wish = match binding.get("snapshot") {
            None | Some(Value::Null | Value::Bool(false)) => return Ok(None),
            Some(Value::Bool(true)) => Self::default(),
            Some(Value::Object(members)) => Self::parse_members(members).ok_or(EXPECTED)?,
            Some(Value::Number(_) | Value::String(_) | Value::Array(_)) => return Err(EXPECTED),
        };
        if binding.get("since").is_some_and(|since| !since.is_null()) {
            return Err(WITH_SINCE);
        }
        if !inserts {
            return Err(NEEDS_INSERT);
        }
        Ok(Some(wish))
    }

    fn parse_members(members: &Map<String, Value>) -> Option<Self> {
        let mut wish = Self::default();
        for (name, value) in members {
            match name.as_str() {
                "limit" => wish.limit = Some(value.as_u64().filter(|limit| *limit > 0)?),
                "order" => wish.order = Some(SnapshotOrder::parse(value.as_str()?)?),
                _ => return None,
            }
        }
        Some(wish)
    }
}

impl SnapshotOrder {
    /// `column.asc`, `column.desc`, or a column alone. What stands before the last dot is the column.
    fn parse(text: &str) -> Option<Self> {
        let (column, descending) = match text.rsplit_once('.') {
            Some((column, "asc")) => (column, false),
            Some((column, "desc")) => (column, true),
            _ => (text, false),
        };
        (!column.is_empty()).then(|| Self {
            column: column.into(),
            descending,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(binding: &Value) -> Result<Option<SnapshotWish>, &'static str> {
        SnapshotWish::parse(binding.as_object().unwrap(), true)
    }

    #[track_caller]
    fn check(snapshot: &Value, limit: Option<u64>, order: Option<(&str, bool)>) {
        let order = order.map(|(column, descending)| SnapshotOrder {
            column: column.into(),
            descending,
        });
        let expected = Ok(Some(SnapshotWish { limit, order }));
        assert_eq!(parse(&json!({"snapshot": snapshot})), expected);
    }

    #[test]
    fn all_rows_or_the_first_by_a_column() {
        check(&json!(true), None, None);
        check(&json!({}), None, None);
        check(&json!({"limit": 5}), Some(5), None);
        check(&json!({"order": "at.desc"}), None, Some(("at", true)));
        check(
            &json!({"limit": 1, "order": "a.b.asc"}),
            Some(1),
            Some(("a.b", false)),
        );
        check(&json!({"order": "at"}), None, Some(("at", false)));
        check(&json!({"order": "a.b"}), None, Some(("a.b", false)));
    }

    #[test]
    fn none_unless_asked_for() {
        for binding in [
            json!({}),
            json!({"snapshot": null}),
            json!({"snapshot": false, "since": 1}),
        ] {
            assert_eq!(parse(&binding), Ok(None), "{binding}");
        }
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for snapshot in [
            json!("true"),
            json!(1),
            json!([]),
            json!({"limit": 0}),
            json!({"limit": -1}),
            json!({"limit": 1.5}),
            json!({"limit": "5"}),
            json!({"limit": null}),
            json!({"order": ""}),
            json!({"order": ".asc"}),
            json!({"order": 1}),
            json!({"offset": 1}),
        ] {
            assert_eq!(
                parse(&json!({"snapshot": snapshot})),
                Err(EXPECTED),
                "{snapshot}"
            );
        }
        let both = json!({"snapshot": true, "since": "x"});
        assert_eq!(parse(&both), Err(WITH_SINCE));
        let binding = json!({"snapshot": true});
        let refused = SnapshotWish::parse(binding.as_object().unwrap(), false);
        assert_eq!(refused, Err(NEEDS_INSERT));
    }
}
