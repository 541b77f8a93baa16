//! HTTP headers as policies read them (protocol.md §7.5): a JSON object with lower-case names. Plain functions.
//!
//! Of several by one name the last counts. None is left out: a policy that looks for a header must not be told that it is
//! not there.

use std::sync::Arc;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Map, Value};

/// Most bytes of the names and values of a handshake's `x-*` headers: a socket keeps them for as long as it lives. Those of
/// other requests are limited by the head that they stand in.
pub(super) const EXTRA_BYTES_MAX: usize = 16 * 1024;

/// All headers of a request.
pub(super) fn all(headers: &HeaderMap) -> Arc<str> {
    json(headers.iter())
}

/// The `x-*` headers of a handshake; `None` if there is too much of them.
pub(super) fn extra(headers: &HeaderMap) -> Option<Arc<str>> {
    let extra = || (headers.iter()).filter(|(name, _)| name.as_str().starts_with("x-"));
    let bytes = extra().fold(0_usize, |bytes, (name, value)| {
        bytes
            .saturating_add(name.as_str().len())
            .saturating_add(value.len())
    });
    (bytes <= EXTRA_BYTES_MAX).then(|| json(extra()))
}

fn json<'a>(headers: impl Iterator<Item = (&'a HeaderName, &'a HeaderValue)>) -> Arc<str> {
    let pairs = headers.map(|(name, value)| {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        (name.as_str().to_owned(), Value::String(value))
    });
    Value::Object(pairs.collect::<Map<_, _>>())
        .to_string()
        .into()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        headers
    }

    #[test]
    fn headers_become_one_object() {
        let headers = headers(&[
            ("x-a", "1"),
            ("x-b", "\"q\""),
            ("host", "h"),
            ("x-a", "2"),
            ("x-c", "Zürich"),
        ]);
        let parsed = |json: &str| serde_json::from_str::<Value>(json).unwrap();
        let mut expected = json!({"x-a": "2", "x-b": "\"q\"", "x-c": "Zürich"});
        assert_eq!(parsed(&extra(&headers).unwrap()), expected);
        expected["host"] = "h".into();
        assert_eq!(parsed(&all(&headers)), expected);
    }

    #[test]
    fn a_handshake_brings_all_of_its_headers_or_too_many() {
        let of = |bytes: usize| "v".repeat(bytes);
        let long = headers(&[("x-long", &of(EXTRA_BYTES_MAX - 6)), ("cookie", &of(9000))]);
        assert!(extra(&long).unwrap().len() > EXTRA_BYTES_MAX);
        let longer = headers(&[("x-long", &of(EXTRA_BYTES_MAX - 5))]);
        assert_eq!(extra(&longer), None);
        let many = headers(&[("x-a", &of(9000)), ("x-b", &of(9000))]);
        assert_eq!(extra(&many), None);
        assert_eq!(extra(&HeaderMap::new()).as_deref(), Some("{}"));
    }
}
