//! What a request to the single endpoint says (protocol.md §5.5, §5.7): its path, query, content type and body.

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;

use super::batch::{BLANK, BatchError, is_object, listed, parse};
use crate::realtime::{Content, StoredData};

/// How long a stored message may live, and does by default.
const TTL_SECONDS_MAX: u32 = 259_200;

/// What the query asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Wishes {
    /// To the private room of that name.
    pub(super) private: bool,
    /// To be stored for this long.
    pub(super) ttl_seconds: Option<u32>,
}

/// What is wrong with a request; a text per field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct SingleErrors {
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "listed")]
    pub(super) topic: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "listed")]
    pub(super) payload: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "listed")]
    pub(super) event: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "listed")]
    pub(super) persist: Option<&'static str>,
}

impl Wishes {
    /// Reads the decoded pairs of a query; those that it does not know are ignored.
    ///
    /// # Errors
    /// What is wrong with `persist`.
    pub(super) fn parse(query: &[(String, String)]) -> Result<Self, &'static str> {
        let last = |name: &str| {
            let mut values = query.iter().rev().filter(|(key, _)| key == name);
            values.next().map(|(_, value)| value.as_str())
        };
        let private = last("private") == Some("true");
        let ttl_seconds = match (last("persist[ttl]"), last("persist")) {
            (Some(ttl), _) => Some(parse_ttl(ttl)?),
            (None, Some("true")) => Some(TTL_SECONDS_MAX),
            (None, None | Some("" | "false" | "null")) => None,
            (None, Some(_)) => return Err("is invalid"),
        };
        if ttl_seconds.is_some() && !private {
            return Err("can only be used on private channels");
        }
        Ok(Self {
            private,
            ttl_seconds,
        })
    }
}

/// Refused, not clamped: its sender would count on it.
fn parse_ttl(text: &str) -> Result<u32, &'static str> {
    let is_plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse()
        .ok()
        .filter(|seconds| is_plain && (1..=TTL_SECONDS_MAX).contains(seconds))
        .ok_or("ttl must be an integer from 1 to 259200")
}

/// What the body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Json,
    Binary,
}

impl Kind {
    /// By the value of the content type, if there is one; `None` for any other type.
    pub(super) fn parse(content_type: Option<&[u8]>) -> Option<Self> {
        let value = content_type.unwrap_or_default();
        let name = value.split(|byte| *byte == b';').next()?.trim_ascii();
        match name.to_ascii_lowercase().as_slice() {
            b"" | b"application/json" => Some(Self::Json),
            b"application/octet-stream" => Some(Self::Binary),
            _ => None,
        }
    }
}

/// The payload of a body.
///
/// # Errors
/// It is no JSON although it should be.
pub(super) fn parse_data(kind: Kind, body: Bytes) -> Result<StoredData, BatchError> {
    if kind == Kind::Binary {
        return Ok(StoredData::Binary(body));
    }
    let text = std::str::from_utf8(&body).map_err(|_binary| BatchError::Malformed)?;
    if text.trim_ascii().is_empty() {
        return Ok(StoredData::Json(Bytes::from_static(b"{}")));
    }
    let value = parse(text)?;
    Ok(StoredData::Json(if is_object(value) {
        body.slice_ref(value.get().as_bytes())
    } else {
        wrap(value)
    }))
}

/// Receivers always see an object.
fn wrap(value: &RawValue) -> Bytes {
    format!(r#"{{"_json":{}}}"#, value.get()).into()
}

/// What receivers are sent.
pub(super) fn content(event: &str, data: StoredData) -> Content {
    let event = event.into();
    match data {
        StoredData::Json(data) => Content::Json { event, data },
        StoredData::Binary(data) => Content::Binary { event, data },
    }
}

/// Bytes of a payload.
pub(super) fn size(data: &StoredData) -> usize {
    match data {
        StoredData::Json(data) | StoredData::Binary(data) => data.len(),
    }
}

/// What is wrong with an event's name.
pub(super) fn event_error(event: &str) -> Option<&'static str> {
    event.trim().is_empty().then_some(BLANK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn wishes(query: &[(&str, &str)], wanted: Result<(bool, Option<u32>), &str>) {
        let owned: Vec<_> = query
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        let seen = Wishes::parse(&owned).map(|wishes| (wishes.private, wishes.ttl_seconds));
        assert_eq!(seen, wanted, "{query:?}");
    }

    #[test]
    fn the_query() {
        let private = ("private", "true");
        wishes(&[], Ok((false, None)));
        wishes(&[("apikey", "x"), ("vsn", "2.0.0")], Ok((false, None)));
        wishes(&[private], Ok((true, None)));
        wishes(&[("private", "1")], Ok((false, None)));
        wishes(&[private, ("private", "false")], Ok((false, None)));
        wishes(&[private, ("persist", "true")], Ok((true, Some(259_200))));
        wishes(&[private, ("persist", "false")], Ok((true, None)));
        wishes(&[private, ("persist", "maybe")], Err("is invalid"));
        for ttl in ["1", "60", "259200"] {
            let seconds = ttl.parse().unwrap();
            wishes(&[private, ("persist[ttl]", ttl)], Ok((true, Some(seconds))));
        }
        let wrong = "ttl must be an integer from 1 to 259200";
        for ttl in ["", "0", "-1", "+1", "1.5", "259201", "99999999999", "x"] {
            wishes(&[private, ("persist[ttl]", ttl)], Err(wrong));
        }
        let public = "can only be used on private channels";
        wishes(&[("persist", "true")], Err(public));
        wishes(&[("persist[ttl]", "60")], Err(public));
        wishes(&[("persist", "false")], Ok((false, None)));
    }

    #[test]
    fn the_content_type() {
        let check = |value: Option<&str>, wanted| {
            assert_eq!(Kind::parse(value.map(str::as_bytes)), wanted, "{value:?}");
        };
        check(None, Some(Kind::Json));
        check(Some("Application/JSON; charset=utf-8"), Some(Kind::Json));
        check(Some("application/octet-stream"), Some(Kind::Binary));
        check(Some("application/jsonp"), None);
        check(Some("text/plain"), None);
    }

    #[track_caller]
    fn data(body: &'static str, wanted: &str) {
        let parsed = parse_data(Kind::Json, Bytes::from_static(body.as_bytes()));
        assert_eq!(
            parsed,
            Ok(StoredData::Json(wanted.to_owned().into())),
            "{body}"
        );
    }

    #[test]
    fn the_body() {
        data("", "{}");
        data(" \r\n", "{}");
        data(" {\"x\": 1.0 }\n", r#"{"x": 1.0 }"#);
        data("[1, 2]", r#"{"_json":[1, 2]}"#);
        data("null", r#"{"_json":null}"#);
        for body in ["{", "x", "{}{}"] {
            let parsed = parse_data(Kind::Json, body.into());
            assert_eq!(parsed, Err(BatchError::Malformed), "{body}");
        }
        let bytes = Bytes::from_static(b"\xff\0");
        let parsed = parse_data(Kind::Binary, bytes.clone());
        assert_eq!(parsed, Ok(StoredData::Binary(bytes)));
    }
}
