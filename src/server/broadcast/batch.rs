//! The body of the batch endpoint (protocol.md §5.4). Bytes in, messages or what is wrong with each out.
//!
//! Payloads are relayed as they were written. Of keys that stand twice the last counts, as in the parsers of the field.

use std::fmt;

use serde::de::{Deserializer as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Serialize, Serializer};
use serde_json::value::{RawValue, to_raw_value};

use crate::realtime::{Broadcast, Content};
use crate::topic::{Room, Topic};

pub(super) const BLANK: &str = "can't be blank";
pub(super) const INVALID: &str = "is invalid";
pub(super) const TOO_LARGE: &str = "Payload size exceeds tenant limit";

/// Bounds of a batch.
#[derive(Clone, Copy, Debug)]
pub(super) struct BatchLimits {
    /// Messages of a body.
    pub(super) messages_max: usize,
    /// Bytes of a payload as it was written.
    pub(super) payload_bytes_max: usize,
    /// Bytes of a topic, its prefix included.
    pub(super) topic_bytes_max: usize,
}

/// A message that may be sent, if its sender may.
#[derive(Debug)]
pub(super) struct Message {
    /// Where to.
    pub(super) room: Room,
    /// What receivers see: `event`, `payload`, `type` and perhaps `meta`, in this order.
    pub(super) object: Box<RawValue>,
    /// By which receivers recognise it.
    pub(super) id: Option<Box<str>>,
}

impl Message {
    /// What the members of the room are sent.
    #[must_use]
    pub(super) fn broadcast(self) -> Broadcast {
        Broadcast::new(self.room.topic, Content::Object(self.object), self.id)
    }
}

/// Why no message of a batch is sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum BatchError {
    /// The body is no JSON.
    Malformed,
    /// There is no list of messages, or an empty one.
    Blank,
    /// The messages are no list of objects.
    Invalid,
    /// There are more messages than a batch may have.
    TooMany,
    /// What is wrong with each message, in their order.
    Messages(Vec<MessageErrors>),
}

/// What is wrong with one message; a text per field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct MessageErrors {
    /// With the topic.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "listed")]
    pub(super) topic: Option<&'static str>,
    /// With the payload.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "listed")]
    pub(super) payload: Option<&'static str>,
    /// With the event.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "listed")]
    pub(super) event: Option<&'static str>,
    /// With the privacy class.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "listed")]
    pub(super) private: Option<&'static str>,
    /// With the id.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "listed")]
    pub(super) id: Option<&'static str>,
}

/// Every field has a list of texts on the wire; there is never more than one.
pub(super) fn listed<S: Serializer>(
    text: &Option<&'static str>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(text)
}

/// The messages of a body.
///
/// # Errors
/// Something is wrong with at least one; nothing is to be sent.
pub(super) fn parse_batch(body: &[u8], limits: BatchLimits) -> Result<Vec<Message>, BatchError> {
    let text = std::str::from_utf8(body).map_err(|_binary| BatchError::Malformed)?;
    if text.trim_ascii().is_empty() {
        return Err(BatchError::Blank);
    }
    let body = parse(text)?;
    if !is_object(body) {
        return Err(BatchError::Blank);
    }
    let [messages] = fields(body, ["messages"])?;
    let Some(messages) = messages.filter(|messages| !is_null(messages)) else {
        return Err(BatchError::Blank);
    };
    let messages = elements(messages, limits.messages_max)?;
    if messages.is_empty() {
        return Err(BatchError::Blank);
    }
    let count = messages.len();
    let mut read = Vec::with_capacity(count);
    let mut errors = Vec::new();
    for (place, message) in messages.into_iter().enumerate() {
        if !is_object(message) {
            return Err(BatchError::Invalid);
        }
        match parse_message(message, limits)? {
            Ok(message) => read.push(message),
            Err(wrong) => {
                // Those in between are fine.
                errors.resize(place, MessageErrors::default());
                errors.push(wrong);
            }
        }
    }
    if errors.is_empty() {
        return Ok(read);
    }
    errors.resize(count, MessageErrors::default());
    Err(BatchError::Messages(errors))
}

fn parse_message(
    message: &RawValue,
    limits: BatchLimits,
) -> Result<Result<Message, MessageErrors>, BatchError> {
    let [topic, payload, event, private, id] =
        fields(message, ["topic", "payload", "event", "private", "id"])?;
    let topic = text(topic)
        .and_then(|topic| topic.ok_or(BLANK))
        .and_then(|topic| parse_topic(&topic, limits.topic_bytes_max));
    let payload = parse_payload(payload, limits.payload_bytes_max);
    let event = text(event).and_then(|event| event.ok_or(BLANK));
    let private = flag(private);
    let id = text(id);
    Ok(match (topic, payload, event, private, id) {
        (Ok(topic), Ok(payload), Ok(event), Ok(private), Ok(id)) => Ok(Message {
            room: Room { topic, private },
            object: object(&event, payload, id.as_deref())?,
            id: id.map(String::into_boxed_str),
        }),
        (topic, payload, event, private, id) => Err(MessageErrors {
            topic: topic.err(),
            payload: payload.err(),
            event: event.err(),
            private: private.err(),
            id: id.err(),
        }),
    })
}

/// The topic of a sub-topic that a request names.
pub(super) fn parse_topic(sub_topic: &str, bytes_max: usize) -> Result<Topic, &'static str> {
    let topic = Topic::of_sub_topic(sub_topic).ok_or(BLANK)?;
    // Nobody can have joined a longer one.
    if topic.as_str().len() > bytes_max {
        return Err("is too long");
    }
    Ok(topic)
}

fn parse_payload(payload: Option<&RawValue>, bytes_max: usize) -> Result<&RawValue, &'static str> {
    match payload {
        Some(payload) if is_object(payload) => {
            if payload.get().len() > bytes_max {
                return Err(TOO_LARGE);
            }
            Ok(payload)
        }
        Some(payload) if !is_null(payload) => Err(INVALID),
        _ => Err(BLANK),
    }
}

/// The object that receivers see.
fn object(event: &str, payload: &RawValue, id: Option<&str>) -> Result<Box<RawValue>, BatchError> {
    #[derive(Serialize)]
    struct Object<'a> {
        event: &'a str,
        payload: &'a RawValue,
        #[serde(rename = "type")]
        kind: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        meta: Option<Meta<'a>>,
    }
    #[derive(Serialize)]
    struct Meta<'a> {
        id: &'a str,
    }
    let object = Object {
        event,
        payload,
        kind: "broadcast",
        meta: id.map(|id| Meta { id }),
    };
    to_raw_value(&object).map_err(|_never| BatchError::Malformed)
}

/// A text, `None` where it is absent, null or white space.
fn text(value: Option<&RawValue>) -> Result<Option<String>, &'static str> {
    let Some(value) = value.filter(|value| !is_null(value)) else {
        return Ok(None);
    };
    let text: String = serde_json::from_str(value.get()).map_err(|_other| INVALID)?;
    Ok((!text.trim().is_empty()).then_some(text))
}

/// A truth value, false where it is absent. Some SDKs write it as text.
fn flag(value: Option<&RawValue>) -> Result<bool, &'static str> {
    match value.map(RawValue::get) {
        Some("true" | r#""true""# | r#""1""#) => Ok(true),
        None | Some("null" | "false" | r#""false""# | r#""0""# | r#""""#) => Ok(false),
        Some(_) => Err(INVALID),
    }
}

/// Any JSON text.
pub(super) fn parse(text: &str) -> Result<&RawValue, BatchError> {
    serde_json::from_str(text).map_err(|_broken| BatchError::Malformed)
}

pub(super) fn is_object(value: &RawValue) -> bool {
    value.get().starts_with('{')
}

fn is_null(value: &RawValue) -> bool {
    value.get() == "null"
}

/// The values of these keys of an object; all others are passed over without being kept.
fn fields<'a, const N: usize>(
    object: &'a RawValue,
    names: [&'static str; N],
) -> Result<[Option<&'a RawValue>; N], BatchError> {
    struct Fields<const N: usize>([&'static str; N]);
    impl<'de, const N: usize> Visitor<'de> for Fields<N> {
        type Value = [Option<&'de RawValue>; N];

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut found = [None; N];
            while let Some(key) = map.next_key::<String>()? {
                let place = std::iter::zip(self.0, &mut found).find(|(name, _)| *name == key);
                match place {
                    Some((_, place)) => *place = Some(map.next_value()?),
                    None => map.next_value::<IgnoredAny>().map(drop)?,
                }
            }
            Ok(found)
        }
    }
    serde_json::Deserializer::from_str(object.get())
        .deserialize_map(Fields(names))
        .map_err(|_broken| BatchError::Malformed)
}

/// The elements of a list of at most `count_max`.
fn elements(list: &RawValue, count_max: usize) -> Result<Vec<&RawValue>, BatchError> {
    struct Elements(usize);
    impl<'de> Visitor<'de> for Elements {
        /// `None` where there are too many.
        type Value = Option<Vec<&'de RawValue>>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            let mut found = Vec::new();
            while found.len() < self.0 {
                match list.next_element()? {
                    Some(element) => found.push(element),
                    None => return Ok(Some(found)),
                }
            }
            let mut found = Some(found);
            while list.next_element::<IgnoredAny>()?.is_some() {
                found = None;
            }
            Ok(found)
        }
    }
    serde_json::Deserializer::from_str(list.get())
        .deserialize_seq(Elements(count_max))
        .map_err(|_no_list| BatchError::Invalid)?
        .ok_or(BatchError::TooMany)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: BatchLimits = BatchLimits {
        messages_max: 3,
        payload_bytes_max: 20,
        topic_bytes_max: 20,
    };

    /// Checks the room and the object of each message.
    #[track_caller]
    fn check(messages: &str, wanted: &[(&str, bool, &str)]) {
        let body = format!(r#"{{"messages":{messages}}}"#);
        let parsed = parse_batch(body.as_bytes(), LIMITS).unwrap();
        let seen: Vec<_> = parsed
            .iter()
            .map(|message| {
                let Room { topic, private } = &message.room;
                (topic.as_str(), *private, message.object.get())
            })
            .collect();
        assert_eq!(seen, wanted, "{messages}");
    }

    /// Checks the errors of the messages as JSON.
    #[track_caller]
    fn refused(messages: &str, wanted: &str) {
        let body = format!(r#"{{"messages":{messages}}}"#);
        match parse_batch(body.as_bytes(), LIMITS) {
            Err(BatchError::Messages(errors)) => {
                assert_eq!(
                    serde_json::to_string(&errors).unwrap(),
                    wanted,
                    "{messages}"
                );
            }
            other => panic!("{messages}: {other:?}"),
        }
    }

    #[test]
    fn messages_become_objects_and_payloads_stay_as_they_are() {
        check(
            r#"[{"topic":"a:b/c","event":"e","payload":{ "x":1.00,"x":2 }}]"#,
            &[(
                "realtime:a:b/c",
                false,
                r#"{"event":"e","payload":{ "x":1.00,"x":2 },"type":"broadcast"}"#,
            )],
        );
        check(
            r#"[{"private":true,"id":"7","extra":[{}],"payload":{},"event":"\u00e9\"","topic":"a"},
                {"topic":"b","payload":{},"event":"e","private":"false","id":null}]"#,
            &[
                (
                    "realtime:a",
                    true,
                    r#"{"event":"é\"","payload":{},"type":"broadcast","meta":{"id":"7"}}"#,
                ),
                (
                    "realtime:b",
                    false,
                    r#"{"event":"e","payload":{},"type":"broadcast"}"#,
                ),
            ],
        );
    }

    #[test]
    fn the_last_of_two_equal_keys_counts() {
        check(
            r#"[],"messages":[{"topic":"a","event":"e","event":"f","payload":{}}]"#,
            &[(
                "realtime:a",
                false,
                r#"{"event":"f","payload":{},"type":"broadcast"}"#,
            )],
        );
    }

    #[test]
    fn every_message_has_its_errors() {
        refused(
            r#"[{"topic":"a"},{"payload":{}},{"topic":"a","event":"e","payload":{}}]"#,
            r#"[{"payload":["can't be blank"],"event":["can't be blank"]},{"topic":["can't be blank"],"event":["can't be blank"]},{}]"#,
        );
        refused(
            r#"[{"topic":"a","event":"e","payload":{}},{"topic":" ","event":"","payload":null},{}]"#,
            r#"[{},{"topic":["can't be blank"],"payload":["can't be blank"],"event":["can't be blank"]},{"topic":["can't be blank"],"payload":["can't be blank"],"event":["can't be blank"]}]"#,
        );
        refused(
            r#"[{"topic":1,"event":{},"payload":[],"private":2,"id":3}]"#,
            r#"[{"topic":["is invalid"],"payload":["is invalid"],"event":["is invalid"],"private":["is invalid"],"id":["is invalid"]}]"#,
        );
    }

    #[test]
    fn payloads_and_topics_have_a_limit() {
        let message = |topic: usize, payload: usize| {
            format!(
                r#"[{{"topic":"{}","event":"e","payload":{{"x":"{}"}}}}]"#,
                "t".repeat(topic - "realtime:".len()),
                "x".repeat(payload - r#"{"x":""}"#.len())
            )
        };
        let at_the_limit = format!(r#"{{"messages":{}}}"#, message(20, 20));
        assert!(parse_batch(at_the_limit.as_bytes(), LIMITS).is_ok());
        refused(
            &message(20, 21),
            r#"[{"payload":["Payload size exceeds tenant limit"]}]"#,
        );
        refused(&message(21, 20), r#"[{"topic":["is too long"]}]"#);
    }

    #[test]
    fn lists_that_are_none() {
        let check = |body: &str, wanted: BatchError| {
            assert_eq!(
                parse_batch(body.as_bytes(), LIMITS).unwrap_err(),
                wanted,
                "{body}"
            );
        };
        for body in [
            "",
            " \n",
            "{}",
            "[]",
            "7",
            r#"{"messages":null}"#,
            r#"{"messages":[]}"#,
        ] {
            check(body, BatchError::Blank);
        }
        for body in [
            r#"{"messages":7}"#,
            r#"{"messages":{}}"#,
            r#"{"messages":[[]]}"#,
        ] {
            check(body, BatchError::Invalid);
        }
        for body in [
            "{",
            "nonsense",
            r#"{"messages":[{]}"#,
            r#"{"\ud800":1}"#,
            "{}{}",
        ] {
            check(body, BatchError::Malformed);
        }
        let malformed = parse_batch(b"{\"\xff\":1}", LIMITS).unwrap_err();
        assert_eq!(malformed, BatchError::Malformed);
        check(r#"{"messages":[{},{},{},{}]}"#, BatchError::TooMany);
    }
}
