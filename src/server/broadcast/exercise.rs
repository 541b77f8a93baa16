//! The entry for fuzzers: any bytes, as the bodies of both endpoints.

use bytes::Bytes;
use serde_json::Value;

use super::answer::Answer;
use super::batch::{BatchError, BatchLimits, parse_batch};
use super::single::{Kind, parse_data};
use crate::realtime::StoredData;

/// Parses `data` as the body of each endpoint.
///
/// Panics only if walcast has a bug: on any bytes, where an object that receivers would see has not the parts that it must
/// have, or where an answer is no JSON.
pub fn exercise(data: &[u8]) {
    let limits = BatchLimits {
        messages_max: 100,
        payload_bytes_max: 1000,
        topic_bytes_max: 100,
    };
    let given = serde_json::from_slice::<Value>(data).ok();
    match parse_batch(data, limits) {
        Ok(messages) => {
            let listed = given
                .as_ref()
                .and_then(|given| given["messages"].as_array());
            // Strict parsers bound the depth of what they keep; payloads are only passed over.
            let listed = listed.map(Vec::len);
            assert!(listed.is_none_or(|listed| listed == messages.len()));
            assert!(!messages.is_empty() && messages.len() <= limits.messages_max);
            for message in messages {
                let object = message.object.get();
                assert!(object.starts_with(r#"{"event":""#));
                assert!(object.contains(r#","payload":{"#));
                assert!(object.contains(r#","type":"broadcast""#) && object.ends_with('}'));
                assert!(serde_json::from_str::<serde::de::IgnoredAny>(object).is_ok());
                assert!(!message.room.topic.sub_topic().is_empty());
            }
        }
        Err(error) => {
            if let BatchError::Messages(errors) = &error {
                assert!(!errors.is_empty() && errors.len() <= limits.messages_max);
            }
            let answer = Answer::batch(&error);
            assert!(serde_json::from_str::<Value>(&answer.body).is_ok());
        }
    }
    if let Ok(StoredData::Json(json)) = parse_data(Kind::Json, Bytes::copy_from_slice(data)) {
        assert!(json.starts_with(b"{") && json.ends_with(b"}"));
        assert!(serde_json::from_slice::<serde::de::IgnoredAny>(&json).is_ok());
    }
}
