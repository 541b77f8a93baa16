//! One broadcast, encoded once per protocol version however many receive it (protocol.md §5.1).

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use bytes::Bytes;
use serde_json::value::RawValue;

use super::frame::{self, QuotedTopic, Ref, Version};
use super::output::Frame;
use super::request::{Stored, StoredData};
use crate::change::{Cursor, Xid};
use crate::topic::Topic;

/// What was sent.
#[derive(Clone, Debug)]
pub enum Content {
    /// A JSON object that is relayed verbatim, as text in both versions: a push of version 1, a text push of version 2, or
    /// a message of the HTTP batch endpoint, whose object the endpoint has put together.
    Object(Box<RawValue>),
    /// An event with JSON data: kind 3 with encoding 1, the single HTTP endpoint, or a row of `realtime.messages`. Text in
    /// version 1, kind 4 in version 2.
    Json {
        /// The event that receivers see.
        event: Box<str>,
        /// Valid JSON text.
        data: Bytes,
    },
    /// An event with raw bytes: kind 4 in version 2; version 1 receives nothing.
    Binary {
        /// The event that receivers see.
        event: Box<str>,
        /// The bytes.
        data: Bytes,
    },
}

/// A broadcast on its way to the members of a room.
#[derive(Debug)]
pub struct Broadcast {
    topic: QuotedTopic,
    raw_topic: Topic,
    content: Content,
    /// `meta.id`: of a row of `realtime.messages`, or given by the sender over HTTP.
    id: Option<Box<str>>,
    /// The id of the row as which it is stored besides; receivers do not see it.
    stored_as: Option<Box<str>>,
    /// Which committed it, if it is a row of `realtime.messages`.
    transaction: Option<Xid>,
    /// Where it stands in the stream, likewise.
    cursor: Option<Cursor>,
    /// Permissions that were asked for earlier may not hold for it.
    doubt: Option<Instant>,
    v1: OnceLock<Option<Frame>>,
    v2: OnceLock<Option<Frame>>,
}

impl Broadcast {
    /// A broadcast on `topic`.
    #[must_use]
    pub fn new(topic: Topic, content: Content, id: Option<Box<str>>) -> Self {
        Self {
            topic: QuotedTopic::new(topic.as_str()),
            raw_topic: topic,
            content,
            id,
            stored_as: None,
            transaction: None,
            cursor: None,
            doubt: None,
            v1: OnceLock::new(),
            v2: OnceLock::new(),
        }
    }

    /// The same, which is to be stored as the row of this id.
    #[must_use]
    pub fn stored_as(self, id: Box<str>) -> Self {
        Self {
            stored_as: Some(id),
            ..self
        }
    }

    /// The same as a row that this transaction committed.
    #[must_use]
    pub fn committed_by(self, transaction: Xid) -> Self {
        Self {
            transaction: Some(transaction),
            ..self
        }
    }

    /// The same as a row at this place of the stream.
    #[must_use]
    pub fn committed_at(self, cursor: Cursor) -> Self {
        Self {
            cursor: Some(cursor),
            ..self
        }
    }

    /// Where it stands in the stream, if it is a row.
    #[must_use]
    pub fn cursor(&self) -> Option<Cursor> {
        self.cursor
    }

    /// Which transaction committed it, if it is a row.
    #[must_use]
    pub fn transaction(&self) -> Option<Xid> {
        self.transaction
    }

    /// The same, with the time at which permissions to read were last called into question before it was committed.
    #[must_use]
    pub fn in_doubt_since(self, doubt: Option<Instant>) -> Self {
        Self { doubt, ..self }
    }

    /// Who receives it must have been allowed to read by an answer to a question that was put at or after this time.
    #[must_use]
    pub fn doubt(&self) -> Option<Instant> {
        self.doubt
    }

    /// The id of the row as which it is stored besides, if it is.
    #[must_use]
    pub fn stored_id(&self) -> Option<&str> {
        self.stored_as.as_deref()
    }

    /// The id by which a replayed copy is recognised.
    #[must_use]
    pub fn id(&self) -> Option<&str> {
        self.stored_as.as_deref().or(self.id.as_deref())
    }

    /// Bytes of its payload; of an object all that was sent.
    #[must_use]
    pub fn payload_bytes(&self) -> usize {
        match &self.content {
            Content::Object(object) => object.get().len(),
            Content::Json { data, .. } | Content::Binary { data, .. } => data.len(),
        }
    }

    /// Bytes that it keeps in memory, roughly, whatever the number of its receivers.
    #[must_use]
    pub fn size(&self) -> usize {
        let data = match &self.content {
            Content::Object(object) => object.get().len(),
            Content::Json { event, data } | Content::Binary { event, data } => {
                event.len().saturating_add(data.len())
            }
        };
        data.saturating_add(self.raw_topic.as_str().len())
    }

    /// The frame for a receiver of this version; `None` where that version does not receive it, or cannot frame it
    /// (protocol.md §9 number 13). Cheap after the first call.
    #[must_use]
    pub fn frame(&self, version: Version) -> Option<Frame> {
        let cell = match version {
            Version::V1 => &self.v1,
            Version::V2 => &self.v2,
        };
        cell.get_or_init(|| self.encode(version)).clone()
    }

    fn encode(&self, version: Version) -> Option<Frame> {
        let text = |object: &str| {
            let text = frame::broadcast(version, &Ref::null(), &self.topic, object);
            Some(Frame::SharedText(text.into()))
        };
        match (&self.content, version) {
            (Content::Object(object), _) => text(object.get()),
            (Content::Json { event, data }, Version::V1) => {
                text(&object(event, data, self.meta().as_deref())?)
            }
            (Content::Binary { .. }, Version::V1) => None,
            (Content::Json { event, data }, Version::V2) => self.kind_4(event, true, data),
            (Content::Binary { event, data }, Version::V2) => self.kind_4(event, false, data),
        }
    }

    fn kind_4(&self, event: &str, json: bool, data: &[u8]) -> Option<Frame> {
        let metadata = self.meta().unwrap_or_default();
        frame::user_broadcast(self.raw_topic.as_str(), event, &metadata, json, data)
            .map(Frame::Binary)
    }

    fn meta(&self) -> Option<String> {
        self.id
            .as_ref()
            .map(|id| format!(r#"{{"id":{}}}"#, frame::quote(id)))
    }
}

/// A broadcast that was said and is being stored. Somebody must hold it until it is: whoever joins meanwhile may find it
/// neither live nor among what is replayed.
pub struct Storing {
    message: Arc<Broadcast>,
}

impl Storing {
    /// Of a message that has an id to be stored as.
    #[must_use]
    pub fn new(message: Arc<Broadcast>) -> Self {
        Self { message }
    }

    /// What was said.
    #[must_use]
    pub fn message(&self) -> &Arc<Broadcast> {
        &self.message
    }

    /// The row's id.
    #[must_use]
    pub fn id(&self) -> &str {
        self.message.id().unwrap_or_default()
    }
}

/// Shows nothing of what was said.
impl fmt::Debug for Storing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Storing")
    }
}

impl Stored {
    /// The frame with which it is replayed to the membership of this join ref; `None` where the version does not receive it
    /// (protocol.md §5.6). JSON is text in both versions.
    pub(super) fn frame(
        &self,
        version: Version,
        join_ref: &Ref,
        topic: &Topic,
        quoted: &QuotedTopic,
    ) -> Option<Frame> {
        let meta = format!(r#"{{"replayed":true,"id":{}}}"#, frame::quote(&self.id));
        match (&self.data, version) {
            (StoredData::Json(data), _) => {
                let object = object(&self.event, data, Some(&meta))?;
                let text = frame::broadcast(version, join_ref, quoted, &object);
                Some(Frame::Text(text))
            }
            (StoredData::Binary(_), Version::V1) => None,
            (StoredData::Binary(data), Version::V2) => {
                frame::user_broadcast(topic.as_str(), &self.event, &meta, false, data)
                    .map(Frame::Binary)
            }
        }
    }
}

/// The object of a text frame; `None` if the data is no text.
fn object(event: &str, data: &[u8], meta: Option<&str>) -> Option<String> {
    let data = std::str::from_utf8(data).ok()?;
    let event = frame::quote(event);
    let meta = meta.map_or_else(String::new, |meta| format!(r#","meta":{meta}"#));
    Some(format!(
        r#"{{"event":{event},"payload":{data},"type":"broadcast"{meta}}}"#
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(json: &str) -> Box<RawValue> {
        RawValue::from_string(json.into()).unwrap()
    }

    fn broadcast(content: Content, id: Option<&str>) -> Broadcast {
        let topic = Topic::parse("realtime:room1").unwrap();
        Broadcast::new(topic, content, id.map(Into::into))
    }

    fn json(event: &str, data: &'static str) -> Content {
        Content::Json {
            event: event.into(),
            data: Bytes::from_static(data.as_bytes()),
        }
    }

    fn binary(event: &str, data: &'static [u8]) -> Content {
        Content::Binary {
            event: event.into(),
            data: Bytes::from_static(data),
        }
    }

    fn text(text: &'static str) -> Option<Frame> {
        Some(Frame::SharedText(Bytes::from_static(text.as_bytes())))
    }

    #[test]
    fn an_object_is_text_in_both_versions_and_verbatim() {
        let broadcast = broadcast(
            Content::Object(raw(r#"{"type":"broadcast", "event":"cursor","more":1.00}"#)),
            Some("elsewhere"),
        );
        assert_eq!(
            broadcast.frame(Version::V1),
            text(
                r#"{"topic":"realtime:room1","event":"broadcast","payload":{"type":"broadcast", "event":"cursor","more":1.00},"ref":null}"#
            )
        );
        assert_eq!(
            broadcast.frame(Version::V2),
            text(
                r#"[null,null,"realtime:room1","broadcast",{"type":"broadcast", "event":"cursor","more":1.00}]"#
            )
        );
    }

    #[test]
    fn json_is_text_in_version_1_and_kind_4_in_version_2() {
        let plain = broadcast(json("ping", r#"{"n":1}"#), None);
        assert_eq!(
            plain.frame(Version::V1),
            text(
                r#"{"topic":"realtime:room1","event":"broadcast","payload":{"event":"ping","payload":{"n":1},"type":"broadcast"},"ref":null}"#
            )
        );
        let bytes = [
            &[4, 14, 4, 0, 1][..], // kind, T, E, M, encoding
            b"realtime:room1",     // topic
            b"ping",               // user event
            br#"{"n":1}"#,         // payload
        ];
        assert_eq!(
            plain.frame(Version::V2),
            Some(Frame::Binary(bytes.concat().into()))
        );

        let named = broadcast(json("e\"", "[]"), Some("x"));
        assert_eq!(
            named.frame(Version::V1),
            text(
                r#"{"topic":"realtime:room1","event":"broadcast","payload":{"event":"e\"","payload":[],"type":"broadcast","meta":{"id":"x"}},"ref":null}"#
            )
        );
        let bytes = [
            &[4, 14, 2, 10, 1][..],
            b"realtime:room1",
            b"e\"",
            br#"{"id":"x"}"#,
            b"[]",
        ];
        assert_eq!(
            named.frame(Version::V2),
            Some(Frame::Binary(bytes.concat().into()))
        );
    }

    #[test]
    fn raw_bytes_reach_version_2_alone() {
        let broadcast = broadcast(binary("db", &[0xde, 0xad]), Some("x"));
        assert_eq!(broadcast.frame(Version::V1), None);
        let bytes = [
            &[4, 14, 2, 10, 0][..],
            b"realtime:room1",
            b"db",
            br#"{"id":"x"}"#,
            &[0xde, 0xad],
        ];
        assert_eq!(
            broadcast.frame(Version::V2),
            Some(Frame::Binary(bytes.concat().into()))
        );
    }

    #[test]
    fn what_binary_headers_cannot_carry_reaches_version_1_alone() {
        let check = |event: &str, id: Option<&str>, framed| {
            let broadcast = broadcast(json(event, "{}"), id);
            assert!(broadcast.frame(Version::V1).is_some());
            assert_eq!(broadcast.frame(Version::V2).is_some(), framed);
        };
        check(&"e".repeat(255), None, true);
        check(&"e".repeat(256), None, false);
        // Bytes count, not characters.
        check(&"é".repeat(128), None, false);
        check("e", Some(&"x".repeat(246)), true);
        check("e", Some(&"x".repeat(247)), false);
    }

    #[test]
    fn a_replayed_row_says_so() {
        let topic = Topic::parse("realtime:room1").unwrap();
        let quoted = QuotedTopic::new(topic.as_str());
        let frame = |data, version| {
            let stored = Stored {
                id: "x".into(),
                event: "db".into(),
                data,
            };
            stored.frame(version, &Ref::null(), &topic, &quoted)
        };
        let json = StoredData::Json(Bytes::from_static(b"{}"));
        assert_eq!(
            frame(json, Version::V2),
            Some(Frame::Text(
                r#"[null,null,"realtime:room1","broadcast",{"event":"db","payload":{},"type":"broadcast","meta":{"replayed":true,"id":"x"}}]"#.into()
            ))
        );
        let binary = StoredData::Binary(Bytes::from_static(&[7]));
        assert_eq!(frame(binary.clone(), Version::V1), None);
        let bytes = [
            &[4, 14, 2, 26, 0][..],
            b"realtime:room1",
            b"db",
            br#"{"replayed":true,"id":"x"}"#,
            &[7],
        ];
        assert_eq!(
            frame(binary, Version::V2),
            Some(Frame::Binary(bytes.concat().into()))
        );
    }
}
