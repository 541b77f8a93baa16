//! Frames of the Phoenix protocol, both versions (protocol.md §2): bytes to messages and messages to text.
//!
//! Anything malformed is `None` and nothing more: the protocol drops it silently. Payloads stay the text that they
//! were; change payloads are copied into frames and never parsed again. Kinds 0 to 2 are never sent.

use std::borrow::Cow;
use std::fmt::Write as _;

use bytes::Bytes;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::output::Frame;

/// Longest ref, in bytes of JSON text. What binary headers can carry, plus quotes; channels keep theirs.
const REF_BYTES_MAX: usize = 257;

/// The `vsn` of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// 1.0: objects, no `join_ref` from the server.
    V1,
    /// 2.0: arrays, and binary frames for broadcasts.
    V2,
}

impl Version {
    /// Parses the `vsn` parameter: anything that matches `~>1.0.0` or `~>2.0.0`; absent means 1.0.0.
    #[must_use]
    pub fn parse(vsn: Option<&str>) -> Option<Self> {
        let Some(vsn) = vsn else {
            return Some(Self::V1);
        };
        let mut numbers = vsn.split('.');
        let major = numbers.next()?;
        let minor = numbers.next()?;
        let patch = numbers.next()?;
        if numbers.next().is_some() || minor != "0" || patch.parse::<u32>().is_err() {
            return None;
        }
        match major {
            "1" => Some(Self::V1),
            "2" => Some(Self::V2),
            _ => None,
        }
    }
}

/// A ref as JSON text: a string, a number or null, at most 257 bytes. Opaque, and echoed as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ref(Box<str>);

impl Ref {
    const NULL: &'static str = "null";

    /// No ref.
    #[must_use]
    pub fn null() -> Self {
        Self(Self::NULL.into())
    }

    /// Takes JSON text; `None` if it is too long or no scalar.
    fn parse(json: &str) -> Option<Self> {
        let scalar = matches!(json.as_bytes().first()?, b'"' | b'-' | b'0'..=b'9' | b'n');
        (scalar && json.len() <= REF_BYTES_MAX).then(|| Self(json.into()))
    }

    /// From a header of a binary frame, where empty means null.
    fn from_header(text: &str) -> Self {
        if text.is_empty() {
            Self::null()
        } else {
            Self(quote(text).into())
        }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_null(&self) -> bool {
        &*self.0 == Self::NULL
    }

    fn as_json(&self) -> &str {
        &self.0
    }
}

/// What a client sent.
#[derive(Clone, Debug)]
pub struct Message<'a> {
    /// The join that it believes in.
    pub join_ref: Ref,
    /// What a reply must carry.
    pub reference: Ref,
    /// The topic, with its prefix.
    pub topic: Cow<'a, str>,
    /// The event.
    pub event: Cow<'a, str>,
    /// The payload.
    pub payload: Payload<'a>,
}

/// The payload of a message, not looked into.
#[derive(Clone, Copy, Debug)]
pub enum Payload<'a> {
    /// JSON text.
    Json(&'a RawValue),
    /// The data of a binary kind 0 frame.
    Binary(&'a [u8]),
    /// A broadcast of a binary kind 3 frame.
    UserBroadcast {
        /// The event that receivers see.
        event: &'a str,
        /// Empty, or JSON for the server alone.
        metadata: &'a str,
        /// The data is JSON, else raw bytes.
        json: bool,
        /// The data, unchecked.
        data: &'a [u8],
    },
}

/// Decodes a text frame.
#[must_use]
pub fn decode_text(version: Version, text: &str) -> Option<Message<'_>> {
    match version {
        Version::V1 => decode_object(text),
        Version::V2 => decode_array(text),
    }
}

fn decode_object(text: &str) -> Option<Message<'_>> {
    #[derive(Deserialize)]
    struct Object<'a> {
        #[serde(borrow)]
        topic: Cow<'a, str>,
        #[serde(borrow)]
        event: Cow<'a, str>,
        #[serde(borrow)]
        payload: &'a RawValue,
        #[serde(borrow, rename = "ref")]
        reference: &'a RawValue,
        #[serde(borrow, default)]
        join_ref: Option<&'a RawValue>,
    }
    // A derived struct would take an array as well.
    if !text.trim_start().starts_with('{') {
        return None;
    }
    let object: Object<'_> = serde_json::from_str(text).ok()?;
    Some(Message {
        join_ref: object
            .join_ref
            .map_or_else(|| Some(Ref::null()), |json| Ref::parse(json.get()))?,
        reference: Ref::parse(object.reference.get())?,
        topic: object.topic,
        event: object.event,
        payload: Payload::Json(object.payload),
    })
}

fn decode_array(text: &str) -> Option<Message<'_>> {
    let Five(join_ref, reference, topic, event, payload) = serde_json::from_str(text).ok()?;
    Some(Message {
        join_ref: Ref::parse(join_ref.get())?,
        reference: Ref::parse(reference.get())?,
        topic,
        event,
        payload: Payload::Json(payload),
    })
}

/// Five elements and whatever follows them.
struct Five<'a>(
    &'a RawValue,
    &'a RawValue,
    Cow<'a, str>,
    Cow<'a, str>,
    &'a RawValue,
);

/// A string that borrows where it can; a bare `Cow` never does inside a sequence.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Five<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Elements;
        impl<'de> Visitor<'de> for Elements {
            type Value = Five<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an array of at least five elements")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Five<'de>, A::Error> {
                let short = || serde::de::Error::custom("fewer than five elements");
                let five = Five(
                    seq.next_element()?.ok_or_else(short)?,
                    seq.next_element()?.ok_or_else(short)?,
                    seq.next_element::<Text<'de>>()?.ok_or_else(short)?.0,
                    seq.next_element::<Text<'de>>()?.ok_or_else(short)?.0,
                    seq.next_element()?.ok_or_else(short)?,
                );
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(five)
            }
        }
        deserializer.deserialize_seq(Elements)
    }
}

/// Decodes a binary frame; version 1 has none.
#[must_use]
pub fn decode_binary(version: Version, bytes: &[u8]) -> Option<Message<'_>> {
    if version == Version::V1 {
        return None;
    }
    let (&kind, rest) = bytes.split_first()?;
    match kind {
        0 => decode_push(rest),
        3 => decode_user_broadcast(rest),
        _ => None,
    }
}

/// Kind 0: four lengths, then join_ref, ref, topic, event, data.
fn decode_push(bytes: &[u8]) -> Option<Message<'_>> {
    let (&[join_ref, reference, topic, event], rest) = bytes.split_first_chunk()?;
    let (join_ref, rest) = split_header(rest, join_ref)?;
    let (reference, rest) = split_header(rest, reference)?;
    let (topic, rest) = split_header(rest, topic)?;
    let (event, data) = split_header(rest, event)?;
    Some(Message {
        join_ref: Ref::from_header(join_ref),
        reference: Ref::from_header(reference),
        topic: topic.into(),
        event: event.into(),
        payload: Payload::Binary(data),
    })
}

/// Kind 3: five lengths and the encoding, then join_ref, ref, topic, user event, metadata, data.
fn decode_user_broadcast(bytes: &[u8]) -> Option<Message<'_>> {
    let (&[join_ref, reference, topic, event, metadata, encoding], rest) =
        bytes.split_first_chunk()?;
    let (join_ref, rest) = split_header(rest, join_ref)?;
    let (reference, rest) = split_header(rest, reference)?;
    let (topic, rest) = split_header(rest, topic)?;
    let (event, rest) = split_header(rest, event)?;
    let (metadata, data) = split_header(rest, metadata)?;
    Some(Message {
        join_ref: Ref::from_header(join_ref),
        reference: Ref::from_header(reference),
        topic: topic.into(),
        event: "broadcast".into(),
        payload: Payload::UserBroadcast {
            event,
            metadata,
            json: encoding != 0,
            data,
        },
    })
}

fn split_header(bytes: &[u8], length: u8) -> Option<(&str, &[u8])> {
    let (header, rest) = bytes.split_at_checked(usize::from(length))?;
    // Clients before 2.110.4 wrote non-ASCII topics as they should not; such a frame is dropped.
    Some((std::str::from_utf8(header).ok()?, rest))
}

/// A topic as JSON text, quoted once per channel instead of once per frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuotedTopic(Box<str>);

impl QuotedTopic {
    /// Quotes a topic with its prefix.
    #[must_use]
    pub fn new(topic: &str) -> Self {
        Self(quote(topic).into())
    }
}

/// The two outcomes of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Done.
    Ok,
    /// Not done; the response says why.
    Error,
}

impl Status {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Error => "error",
        }
    }
}

/// A `phx_reply`. `response` is JSON text.
#[must_use]
pub fn reply(
    version: Version,
    (join_ref, reference): (&Ref, &Ref),
    topic: &QuotedTopic,
    status: Status,
    response: &str,
) -> String {
    let payload = format!(
        r#"{{"status":"{}","response":{response}}}"#,
        status.as_str()
    );
    encode(version, (join_ref, reference), topic, "phx_reply", &payload)
}

/// A `phx_close` (final) or `phx_error` (retried): `ref` is the join ref, or clients ignore it.
#[must_use]
pub fn end(version: Version, join_ref: &Ref, topic: &QuotedTopic, end: End) -> String {
    let event = match end {
        End::Close => "phx_close",
        End::Error => "phx_error",
    };
    encode(version, (join_ref, join_ref), topic, event, "{}")
}

/// How a membership ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The client forgets the channel.
    Close,
    /// The client joins again.
    Error,
}

/// A `system` message.
#[derive(Clone, Copy, Debug)]
pub struct System<'a> {
    /// `postgres_changes` or `system`.
    pub extension: &'static str,
    /// Whether it is good news.
    pub status: Status,
    /// Shown to developers.
    pub message: &'a str,
    /// The sub-topic, where the message has one.
    pub channel: Option<&'a str>,
}

/// Encodes a `system` message.
#[must_use]
pub fn system(
    version: Version,
    join_ref: &Ref,
    topic: &QuotedTopic,
    system: &System<'_>,
) -> String {
    let mut payload = format!(
        r#"{{"extension":"{}","status":"{}","message":{}"#,
        system.extension,
        system.status.as_str(),
        quote(system.message)
    );
    if let Some(channel) = system.channel {
        payload.push_str(r#","channel":"#);
        payload.push_str(&quote(channel));
    }
    payload.push('}');
    encode(version, (join_ref, &Ref::null()), topic, "system", &payload)
}

/// A `postgres_changes` message: `ids` is a JSON array, `data` a JSON object, both copied as they are.
#[must_use]
pub fn postgres_changes(
    version: Version,
    topic: &QuotedTopic,
    ids: &str,
    data: &str,
    last: bool,
) -> String {
    let last = if last { r#","last":true"# } else { "" };
    let topic = &topic.0;
    let mut out = String::with_capacity(
        topic
            .len()
            .saturating_add(ids.len())
            .saturating_add(data.len())
            .saturating_add(96),
    );
    // Writing into a String cannot fail.
    let _written = match version {
        Version::V1 => write!(
            out,
            r#"{{"topic":{topic},"event":"postgres_changes","payload":{{"ids":{ids}{last},"data":{data}}},"ref":null}}"#
        ),
        Version::V2 => write!(
            out,
            r#"[null,null,{topic},"postgres_changes",{{"ids":{ids}{last},"data":{data}}}]"#
        ),
    };
    out
}

/// A `broadcast` message as text; `object` is a JSON object.
#[must_use]
pub fn broadcast(version: Version, join_ref: &Ref, topic: &QuotedTopic, object: &str) -> String {
    encode(
        version,
        (join_ref, &Ref::null()),
        topic,
        "broadcast",
        object,
    )
}

/// Kind 4: four lengths and the encoding, then topic, user event, metadata, data. `None` if a header has more than 255 bytes.
#[must_use]
pub fn user_broadcast(
    topic: &str,
    event: &str,
    metadata: &str,
    json: bool,
    data: &[u8],
) -> Option<Bytes> {
    let length = |header: &str| u8::try_from(header.len()).ok();
    let lengths = [length(topic)?, length(event)?, length(metadata)?];
    let headers = [topic, event, metadata];
    let mut out = Vec::with_capacity(
        headers
            .iter()
            .map(|header| header.len())
            .sum::<usize>()
            .saturating_add(data.len())
            .saturating_add(5),
    );
    out.push(4);
    out.extend_from_slice(&lengths);
    out.push(u8::from(json));
    for header in headers {
        out.extend_from_slice(header.as_bytes());
    }
    out.extend_from_slice(data);
    Some(out.into())
}

/// A `presence_state` message; `payload` is a JSON object.
#[must_use]
pub fn presence_state(
    version: Version,
    join_ref: &Ref,
    topic: &QuotedTopic,
    payload: &str,
) -> String {
    let refs = (join_ref, &Ref::null());
    encode(version, refs, topic, "presence_state", payload)
}

/// A `presence_diff` message; `payload` is a JSON object.
#[must_use]
pub fn presence_diff(version: Version, topic: &QuotedTopic, payload: &str) -> Frame {
    let refs = (&Ref::null(), &Ref::null());
    Frame::SharedText(encode(version, refs, topic, "presence_diff", payload).into())
}

fn encode(
    version: Version,
    (join_ref, reference): (&Ref, &Ref),
    topic: &QuotedTopic,
    event: &'static str,
    payload: &str,
) -> String {
    let (reference, topic) = (reference.as_json(), &topic.0);
    match version {
        Version::V1 => format!(
            r#"{{"topic":{topic},"event":"{event}","payload":{payload},"ref":{reference}}}"#
        ),
        Version::V2 => format!(
            r#"[{},{reference},{topic},"{event}",{payload}]"#,
            join_ref.as_json()
        ),
    }
}

/// A text as a JSON string.
#[must_use]
pub fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len().saturating_add(2));
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            control if u32::from(control) < 0x20 => {
                let _written = write!(out, "\\u{:04x}", u32::from(control));
            }
            other => out.push(other),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_text(version: Version, text: &str, expected: Option<(&str, &str, &str, &str, &str)>) {
        let message = decode_text(version, text);
        let seen = message.as_ref().map(|message| {
            let Payload::Json(payload) = message.payload else {
                panic!("text carries JSON");
            };
            (
                message.join_ref.as_json(),
                message.reference.as_json(),
                &*message.topic,
                &*message.event,
                payload.get(),
            )
        });
        assert_eq!(seen, expected, "{text}");
    }

    #[test]
    fn version_1_is_an_object() {
        let check = |text, expected| check_text(Version::V1, text, expected);
        check(
            r#"{"topic":"realtime:a","event":"phx_join","payload":{ "x": 1 },"ref":"1","join_ref":"1"}"#,
            Some((
                r#""1""#,
                r#""1""#,
                "realtime:a",
                "phx_join",
                r#"{ "x": 1 }"#,
            )),
        );
        check(
            r#" {"ref":null,"payload":null,"event":"e","topic":"t","more":[[]]} "#,
            Some(("null", "null", "t", "e", "null")),
        );
        check(r#"{"topic":"t","event":"e","payload":{}}"#, None);
        check(r#"{"topic":"t","event":"e","payload":{},"ref":[]}"#, None);
        check(r#"{"topic":null,"event":"e","payload":{},"ref":"1"}"#, None);
        check(r#"["t","e",{},"1",null]"#, None);
        check("", None);
        check("{", None);
        check("null", None);
    }

    #[test]
    fn version_2_is_an_array_of_at_least_five() {
        let check = |text, expected| check_text(Version::V2, text, expected);
        check(
            r#"["1","2","realtime:\u0061","e",{"a":"\ud800"}]"#,
            Some((r#""1""#, r#""2""#, "realtime:a", "e", r#"{"a":"\ud800"}"#)),
        );
        check(
            r#"[null,5,"phoenix","heartbeat",{},{},[1]]"#,
            Some(("null", "5", "phoenix", "heartbeat", "{}")),
        );
        check(r#"[null,"5","phoenix","heartbeat"]"#, None);
        check(r#"[null,{},"phoenix","heartbeat",{}]"#, None);
        check(r#"[null,"5",7,"heartbeat",{}]"#, None);
        check(r#"{"topic":"t","event":"e","payload":{},"ref":"1"}"#, None);
        check(r#"[null,"5","phoenix","heartbeat",{}"#, None);
        let long = format!(r#"[null,"{}","phoenix","heartbeat",{{}}]"#, "1".repeat(256));
        check(&long, None);
        let deep = format!(
            r#"[null,"1","t","e",{}{}]"#,
            "[".repeat(9999),
            "]".repeat(9999)
        );
        assert!(decode_text(Version::V2, &deep).is_some());
    }

    #[test]
    fn a_user_broadcast_has_seven_bytes_before_its_headers() {
        let bytes = [
            &[3, 1, 1, 14, 4, 0, 1][..], // kind, J, R, T, E, M, encoding
            b"13",                       // join_ref, ref
            b"realtime:room1",           // topic
            b"ping",                     // user event
            br#"{"n":1}"#,               // payload
        ]
        .concat();
        let message = decode_binary(Version::V2, &bytes).unwrap();
        assert_eq!(message.join_ref.as_json(), r#""1""#);
        assert_eq!(message.reference.as_json(), r#""3""#);
        assert_eq!(message.topic, "realtime:room1");
        assert_eq!(message.event, "broadcast");
        let Payload::UserBroadcast {
            event,
            metadata,
            json,
            data,
        } = message.payload
        else {
            panic!("{message:?}");
        };
        assert_eq!(
            (event, metadata, json, data),
            ("ping", "", true, &br#"{"n":1}"#[..])
        );
        for length in 0..28 {
            assert!(decode_binary(Version::V2, &bytes[..length.min(24)]).is_none());
        }
        assert!(decode_binary(Version::V1, &bytes).is_none());
    }

    #[test]
    fn a_push_has_five_bytes_before_its_headers() {
        let bytes = b"\x00\x00\x01\x01\x01rte\x01\x02";
        let message = decode_binary(Version::V2, bytes).unwrap();
        assert!(message.join_ref.is_null());
        assert_eq!(message.reference.as_json(), r#""r""#);
        assert_eq!((&*message.topic, &*message.event), ("t", "e"));
        assert!(matches!(message.payload, Payload::Binary(&[1, 2])));
        assert!(decode_binary(Version::V2, b"\x00\x00\x00\x01\x00\xff").is_none());
        assert!(decode_binary(Version::V2, b"\x04").is_none());
        assert!(decode_binary(Version::V2, b"").is_none());
    }

    #[test]
    fn the_worked_examples_of_the_protocol() {
        let (null, one, five) = (
            Ref::null(),
            Ref::parse(r#""1""#).unwrap(),
            Ref::parse(r#""5""#).unwrap(),
        );
        let (phoenix, room) = (
            QuotedTopic::new("phoenix"),
            QuotedTopic::new("realtime:room1"),
        );
        assert_eq!(
            reply(Version::V2, (&null, &five), &phoenix, Status::Ok, "{}"),
            r#"[null,"5","phoenix","phx_reply",{"status":"ok","response":{}}]"#
        );
        assert_eq!(
            reply(Version::V1, (&null, &five), &phoenix, Status::Ok, "{}"),
            r#"{"topic":"phoenix","event":"phx_reply","payload":{"status":"ok","response":{}},"ref":"5"}"#
        );
        assert_eq!(
            end(Version::V2, &one, &room, End::Error),
            r#"["1","1","realtime:room1","phx_error",{}]"#
        );
        assert_eq!(
            end(Version::V1, &one, &room, End::Close),
            r#"{"topic":"realtime:room1","event":"phx_close","payload":{},"ref":"1"}"#
        );
        let message = System {
            extension: "system",
            status: Status::Error,
            message: "Too many messages per second",
            channel: Some("room1"),
        };
        assert_eq!(
            system(Version::V2, &one, &room, &message),
            r#"["1",null,"realtime:room1","system",{"extension":"system","status":"error","message":"Too many messages per second","channel":"room1"}]"#
        );
        assert_eq!(
            postgres_changes(
                Version::V2,
                &room,
                "[97245710]",
                r#"{"schema":"public"}"#,
                false
            ),
            r#"[null,null,"realtime:room1","postgres_changes",{"ids":[97245710],"data":{"schema":"public"}}]"#
        );
        assert_eq!(
            postgres_changes(Version::V1, &room, "[1,2]", "{}", true),
            r#"{"topic":"realtime:room1","event":"postgres_changes","payload":{"ids":[1,2],"last":true,"data":{}},"ref":null}"#
        );
    }

    #[test]
    fn only_1_0_and_2_0_are_spoken() {
        let check = |vsn, expected| assert_eq!(Version::parse(vsn), expected, "{vsn:?}");
        check(None, Some(Version::V1));
        check(Some("1.0.0"), Some(Version::V1));
        check(Some("2.0.0"), Some(Version::V2));
        check(Some("2.0.7"), Some(Version::V2));
        check(Some("2.1.0"), None);
        check(Some("3.0.0"), None);
        check(Some("2"), None);
        check(Some(""), None);
        check(Some("2.0.0.0"), None);
        check(Some("x"), None);
    }

    #[test]
    fn quoting_agrees_with_json() {
        for text in ["", "a\"b\\c", "\u{0}\u{1f}\n\r\t\u{7f}é\u{2028}😀"] {
            let parsed: String = serde_json::from_str(&quote(text)).unwrap();
            assert_eq!(parsed, text);
        }
    }
}
