//! What clients push to a channel: broadcasts (protocol.md §5.1, §5.7) and presence calls (§6.2). Payloads in, meaning out.

use bytes::Bytes;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::broadcast::Content;
use super::frame::Payload;
use super::join::{object, text};

/// The `ttl` of a stored broadcast, if the client names none, and the longest that it can name.
const TTL_SECONDS_MAX: u32 = 259_200;

/// What a broadcast holds; `None` if it is not what its frame says.
pub(super) fn content(payload: &Payload<'_>) -> Option<Content> {
    match *payload {
        Payload::Json(json) => is_object(json).then(|| Content::Object(json.to_owned())),
        // No client sends these; what would be an object in a text frame is one here.
        Payload::Binary(data) => {
            let json: &RawValue = serde_json::from_slice(data).ok()?;
            is_object(json).then(|| Content::Object(json.to_owned()))
        }
        Payload::UserBroadcast {
            event,
            json: true,
            data,
            ..
        } => {
            let text = std::str::from_utf8(data).ok()?;
            let _valid: IgnoredAny = serde_json::from_str(text).ok()?;
            Some(Content::Json {
                event: event.into(),
                data: Bytes::copy_from_slice(data),
            })
        }
        Payload::UserBroadcast {
            event,
            json: false,
            data,
            ..
        } => Some(Content::Binary {
            event: event.into(),
            data: Bytes::copy_from_slice(data),
        }),
    }
}

/// Bytes of the payload.
pub(super) fn size(payload: &Payload<'_>) -> usize {
    match *payload {
        Payload::Json(json) => json.get().len(),
        Payload::Binary(data) | Payload::UserBroadcast { data, .. } => data.len(),
    }
}

/// Whether a broadcast is to be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Persist {
    No,
    /// For so many seconds.
    For(u32),
    /// Asked for in a way that is refused.
    Invalid,
}

/// What the metadata of a kind 3 frame says about storing; everything else in it is ignored.
pub(super) fn persist(payload: &Payload<'_>) -> Persist {
    let Payload::UserBroadcast { metadata, .. } = *payload else {
        return Persist::No;
    };
    let metadata: Option<&RawValue> = serde_json::from_str(metadata).ok();
    let Some(metadata) = object(metadata) else {
        return Persist::No;
    };
    let Some(persist) = metadata.get("persist") else {
        return Persist::No;
    };
    match persist.get() {
        "null" | "false" => return Persist::No,
        "true" => return Persist::For(TTL_SECONDS_MAX),
        _ => {}
    }
    let Some(options) = object(Some(persist)) else {
        return Persist::Invalid;
    };
    match options.get("ttl") {
        None => Persist::For(TTL_SECONDS_MAX),
        Some(ttl) => match serde_json::from_str::<u32>(ttl.get()) {
            Ok(ttl @ 1..=TTL_SECONDS_MAX) => Persist::For(ttl),
            Ok(_) | Err(_) => Persist::Invalid,
        },
    }
}

/// What a presence push wants.
#[derive(Clone, Debug)]
pub(super) enum Call {
    /// To be present with this JSON object.
    Track(Box<RawValue>),
    /// To be present no longer.
    Untrack,
    /// Nothing: it names no event.
    Nothing,
    /// To be present with something that is no object.
    NoMap,
    /// Something that presence does not know.
    Unknown,
}

/// Reads a presence push.
pub(super) fn call(payload: &Payload<'_>) -> Call {
    let Payload::Json(json) = *payload else {
        return Call::Unknown;
    };
    let Some(call) = object(Some(json)) else {
        return Call::Unknown;
    };
    let Some(event) = call.get("event") else {
        return Call::Nothing;
    };
    let event = text(Some(event)).unwrap_or_default();
    if event.eq_ignore_ascii_case("untrack") {
        return Call::Untrack;
    }
    if !event.eq_ignore_ascii_case("track") {
        return Call::Unknown;
    }
    match call.get("payload") {
        Some(payload) if is_object(payload) => Call::Track((*payload).to_owned()),
        Some(_other) => Call::NoMap,
        None => RawValue::from_string("{}".to_owned()).map_or(Call::NoMap, Call::Track),
    }
}

fn is_object(json: &RawValue) -> bool {
    json.get().starts_with('{')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(metadata: &'static str, json: bool, data: &'static [u8]) -> Payload<'static> {
        Payload::UserBroadcast {
            event: "e",
            metadata,
            json,
            data,
        }
    }

    #[test]
    fn json_must_be_json() {
        let check = |data, valid| assert_eq!(content(&user("", true, data)).is_some(), valid);
        check(b"{}", true);
        check(b" [1, null] ", true);
        check(b"\"x\"", true);
        check(b"", false);
        check(b"{", false);
        check(b"{} {}", false);
        check(b"\"\xff\"", false);
        assert!(content(&user("", false, b"\xff")).is_some());
        assert!(content(&user("", false, b"")).is_some());
        assert!(content(&Payload::Binary(br#" {"event":"e"} "#)).is_some());
        assert!(content(&Payload::Binary(b"7")).is_none());
    }

    #[test]
    fn what_is_stored() {
        let check = |metadata, expected| {
            assert_eq!(
                persist(&user(metadata, true, b"{}")),
                expected,
                "{metadata}"
            );
        };
        check("", Persist::No);
        check("nonsense", Persist::No);
        check("[]", Persist::No);
        check("{}", Persist::No);
        check(r#"{"other":1}"#, Persist::No);
        check(r#"{"persist":false}"#, Persist::No);
        check(r#"{"persist":null}"#, Persist::No);
        check(r#"{"persist":true,"other":1}"#, Persist::For(259_200));
        check(r#"{"persist":{}}"#, Persist::For(259_200));
        check(r#"{"persist":{"ttl":1}}"#, Persist::For(1));
        check(r#"{"persist":{"ttl":259200}}"#, Persist::For(259_200));
        for invalid in [
            r#"{"persist":{"ttl":0}}"#,
            r#"{"persist":{"ttl":-1}}"#,
            r#"{"persist":{"ttl":259201}}"#,
            r#"{"persist":{"ttl":1.5}}"#,
            r#"{"persist":{"ttl":"60"}}"#,
            r#"{"persist":{"ttl":null}}"#,
            r#"{"persist":"yes"}"#,
            r#"{"persist":60}"#,
        ] {
            check(invalid, Persist::Invalid);
        }
    }
}
