//! What a membership is present as, and the references that tell one version of it from the next.

use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserializer as _;
use serde::de::{MapAccess, Visitor};
use serde_json::value::RawValue;

/// The keys that are ours in a meta.
const REFS: [&str; 2] = ["phx_ref", "phx_ref_prev"];

/// One version of what a membership tracks.
#[derive(Debug)]
pub(super) struct Meta {
    /// The presence key, as a JSON string.
    key: Box<str>,
    /// Unique for ever; needs no escaping.
    phx_ref: Box<str>,
    /// What follows the reference in the JSON object: nothing, or a comma and the payload's members.
    rest: Box<str>,
}

impl Meta {
    /// `payload` is a JSON object. Its members are kept as they are written, but for those whose names are ours.
    pub(super) fn new(key: &str, phx_ref: Box<str>, payload: &RawValue) -> Self {
        Self {
            key: quoted(key).into(),
            phx_ref,
            rest: rest(payload.get()).into(),
        }
    }

    /// The presence key, as a JSON string.
    pub(super) fn key(&self) -> &str {
        &self.key
    }

    pub(super) fn phx_ref(&self) -> &str {
        &self.phx_ref
    }

    /// Whether tracking `other` instead would change nothing but the reference. Texts are compared: members in another order
    /// are a change.
    pub(super) fn says_the_same_as(&self, other: &Self) -> bool {
        self.key == other.key && self.rest == other.rest
    }

    /// Writes the JSON object (protocol.md §6.3). `previous` is the reference of the version that this one replaces.
    pub(super) fn write(&self, json: &mut String, previous: Option<&str>) {
        json.push_str(r#"{"phx_ref":""#);
        json.push_str(&self.phx_ref);
        if let Some(previous) = previous {
            json.push_str(r#"","phx_ref_prev":""#);
            json.push_str(previous);
        }
        json.push('"');
        json.push_str(&self.rest);
        json.push('}');
    }
}

/// What is written after the reference. Parsing names as JSON finds them however they are escaped: of two members with one
/// name clients would take the later, which is not ours.
fn rest(payload: &str) -> String {
    let members = serde_json::Deserializer::from_str(payload)
        .deserialize_map(Members)
        .unwrap_or_default();
    if members
        .iter()
        .any(|(name, _)| REFS.contains(&name.as_str()))
    {
        let mut rest = String::new();
        for (name, value) in &members {
            if !REFS.contains(&name.as_str()) {
                rest.push(',');
                rest.push_str(&quoted(name));
                rest.push(':');
                rest.push_str(value.get());
            }
        }
        return rest;
    }
    let inner = payload
        .trim()
        .strip_prefix('{')
        .and_then(|text| text.strip_suffix('}'))
        .unwrap_or_default()
        .trim();
    if inner.is_empty() {
        String::new()
    } else {
        format!(",{inner}")
    }
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// The members of an object in their order, repeated names included.
struct Members;

impl<'de> Visitor<'de> for Members {
    type Value = Vec<(String, &'de RawValue)>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = map.next_entry()? {
            members.push(member);
        }
        Ok(members)
    }
}

/// Makes references that no other process and no earlier run has made: a random number, the same for all, and a count.
#[derive(Debug)]
pub(super) struct Refs {
    /// Eleven characters, so that what follows cannot be confused with it.
    base: String,
    next: AtomicU64,
}

impl Default for Refs {
    fn default() -> Self {
        Self::new(rand::random())
    }
}

impl Refs {
    pub(super) fn new(base: u64) -> Self {
        Self {
            base: URL_SAFE_NO_PAD.encode(base.to_be_bytes()),
            next: AtomicU64::new(1),
        }
    }

    pub(super) fn next(&self) -> Box<str> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let digits: Vec<u8> = number
            .to_be_bytes()
            .into_iter()
            .skip_while(|digit| *digit == 0)
            .collect();
        let mut text = self.base.clone();
        URL_SAFE_NO_PAD.encode_string(digits, &mut text);
        text.into()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[track_caller]
    fn check(payload: &str, previous: Option<&str>, expected: &str) {
        let payload = RawValue::from_string(payload.to_owned()).unwrap();
        let mut json = String::new();
        Meta::new("k", "R".into(), &payload).write(&mut json, previous);
        assert_eq!(json, expected);
        serde_json::from_str::<serde_json::Value>(&json).unwrap();
    }

    #[test]
    fn a_payload_is_written_as_it_came() {
        check("{}", None, r#"{"phx_ref":"R"}"#);
        check("{ }", None, r#"{"phx_ref":"R"}"#);
        check(r#"{"a":1}"#, None, r#"{"phx_ref":"R","a":1}"#);
        check(
            r#"{"\u0061" : 1.0e2, "a":{"phx_ref":"}"} }"#,
            None,
            r#"{"phx_ref":"R","\u0061" : 1.0e2, "a":{"phx_ref":"}"}}"#,
        );
        check(
            r#"{"a":1}"#,
            Some("Q"),
            r#"{"phx_ref":"R","phx_ref_prev":"Q","a":1}"#,
        );
    }

    #[test]
    fn nobody_chooses_a_reference() {
        check(r#"{"phx_ref":"x"}"#, None, r#"{"phx_ref":"R"}"#);
        check(
            r#"{"a":"\"","phx_ref":"x","b" : [1, 2],"b":2}"#,
            None,
            r#"{"phx_ref":"R","a":"\"","b":[1, 2],"b":2}"#,
        );
        check(
            r#"{"\u0070hx_ref":"x","phx_ref_prev":"y","ä\n":1}"#,
            Some("Q"),
            r#"{"phx_ref":"R","phx_ref_prev":"Q","ä\n":1}"#,
        );
    }

    #[test]
    fn references_differ_within_and_between_runs() {
        let (here, elsewhere) = (Refs::new(1), Refs::new(2));
        let mut seen = BTreeSet::new();
        for _ in 0..70_000 {
            for text in [here.next(), elsewhere.next()] {
                assert!(
                    text.chars()
                        .all(|c| c.is_ascii_alphanumeric() || "-_".contains(c))
                );
                assert!(seen.insert(text));
            }
        }
    }
}
