//! The entry for fuzzers: any bytes, cut into frames, go through a socket of each version.
//!
//! *io*: looks at the clock once, for an instant to begin with.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use crate::auth::{ApiKeys, Claims, Verifier};
use crate::topic::Topic;

use super::broadcast::{Broadcast, Content};
use super::frame::{self, Version};
use super::input::{Input, Now};
use super::notice::{Notice, PresenceDiff, PresenceState};
use super::output::{Frame, Output, RoomRequest};
use super::rate::{PerSecond, Subjects};
use super::request::{Answer, Ask, AskError, Stored, StoredData};
use super::socket::{Limits, Opening, Socket};

/// Hands `data` to a socket of each version: frames between `0xff` bytes, text where they are text. Joins and questions are
/// answered, and the room gives back what it is told. Time begins at `begin`.
///
/// Panics only if walcast has a bug: on any bytes, or where a frame that goes out is neither JSON nor of kind 4.
pub fn exercise(begin: Instant, data: &[u8]) {
    for version in [Version::V1, Version::V2] {
        // Also as they are, whatever the socket makes of them.
        let _message = frame::decode_binary(version, data);
        let Ok(verifier) = Verifier::new(None, None, ApiKeys::default()) else {
            return;
        };
        converse(version, Arc::new(verifier), begin, data);
    }
}

/// Encodes a broadcast whose event, id and data are cut from `data` at its first bytes, for both versions.
///
/// Panics only if walcast has a bug: where a frame is neither JSON nor of kind 4.
pub fn exercise_broadcast(data: &[u8]) {
    let Some((&[event, id], rest)) = data.split_first_chunk() else {
        return;
    };
    let cut = |at: u8, of: &'_ [u8]| -> (String, Vec<u8>) {
        let (head, rest) = of.split_at(usize::from(at).min(of.len()));
        (String::from_utf8_lossy(head).into_owned(), rest.to_vec())
    };
    let (event, rest) = cut(event, rest);
    let (id, rest) = cut(id, &rest);
    let Ok(topic) = Topic::parse(&format!("realtime:{event}x")) else {
        return;
    };
    let json = std::str::from_utf8(&rest)
        .ok()
        .and_then(|text| serde_json::from_str::<&RawValue>(text).ok());
    let mut contents = vec![Content::Binary {
        event: event.clone().into(),
        data: rest.clone().into(),
    }];
    if let Some(json) = json {
        contents.push(Content::Object(json.to_owned()));
        contents.push(Content::Json {
            event: event.into(),
            data: rest.clone().into(),
        });
    }
    for content in contents {
        let id = (!id.is_empty()).then(|| id.as_str().into());
        let broadcast = Broadcast::new(topic.clone(), content, id);
        for version in [Version::V1, Version::V2] {
            if let Some(frame) = broadcast.frame(version) {
                check(version, &frame);
            }
        }
    }
}

/// A frame as clients can decode it.
fn check(version: Version, frame: &Frame) {
    match frame {
        Frame::Text(text) => assert!(serde_json::from_str::<IgnoredAny>(text).is_ok(), "{text}"),
        Frame::SharedText(bytes) => {
            let text = std::str::from_utf8(bytes);
            assert!(
                text.is_ok_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok()),
                "{bytes:?}"
            );
        }
        Frame::Binary(bytes) => {
            assert_eq!(version, Version::V2, "{bytes:?}");
            assert!(is_kind_4(bytes), "{bytes:?}");
        }
    }
}

/// Whether the frame is of kind 4 as protocol.md §2.3 lays it out.
fn is_kind_4(bytes: &[u8]) -> bool {
    let Some((&[4, topic, event, metadata, encoding], rest)) = bytes.split_first_chunk() else {
        return false;
    };
    let mut rest = rest;
    let mut headers = [topic, event, metadata].map(|length| {
        let (header, after) = rest.split_at_checked(usize::from(length))?;
        rest = after;
        std::str::from_utf8(header).ok()
    });
    let json = |text: &str| serde_json::from_str::<IgnoredAny>(text).is_ok();
    let metadata = headers
        .last_mut()
        .and_then(Option::take)
        .is_some_and(|text| text.is_empty() || json(text));
    let topic = headers.first().copied().flatten();
    let data = match encoding {
        0 => true,
        1 => std::str::from_utf8(rest).is_ok_and(json),
        _ => false,
    };
    metadata && data && topic.is_some_and(|topic| topic.starts_with("realtime:"))
}

/// What a database may say. Which of it depends on the ticket and the time, so that a run can be repeated.
fn answer(ask: &Ask, which: u64) -> Result<Answer, AskError> {
    let stored = |number: u64, data| Stored {
        id: number.to_string().into(),
        event: "e".into(),
        data,
    };
    match (which % 5, ask) {
        (0, _) => Err(AskError::Cancelled),
        (1, _) => Err(AskError::Policy("no".into())),
        (_, Ask::Read { presence }) => Ok(Answer::Read {
            broadcast: !which.is_multiple_of(7),
            presence: *presence && !which.is_multiple_of(3),
        }),
        (_, Ask::Write(_)) => Ok(Answer::Write(!which.is_multiple_of(7))),
        (2, Ask::Replay { .. }) => Ok(Answer::Replayed {
            stored: Vec::new(),
            snapshot: "10:20:10,14".parse().ok(),
        }),
        (_, Ask::Replay { .. }) => Ok(Answer::Replayed {
            stored: vec![
                stored(1, StoredData::Json(Bytes::from_static(b"{}"))),
                stored(2, StoredData::Binary(Bytes::from_static(b"\xff"))),
            ],
            snapshot: None,
        }),
        (_, Ask::Persist { .. }) => Ok(Answer::Persisted(Some("3".into()))),
    }
}

/// What a room with only this member makes of a request, and what others may say in it.
fn reflect(room: &Topic, request: RoomRequest) -> Vec<Notice> {
    match request {
        RoomRequest::Enter(_) => {
            let content = Content::Json {
                event: "e".into(),
                data: Bytes::from_static(b"{}"),
            };
            let message = Broadcast::new(room.clone(), content, Some("1".into()));
            vec![Notice::Broadcast(Arc::new(message))]
        }
        RoomRequest::Say { message, .. } => vec![Notice::Broadcast(message)],
        RoomRequest::Track { key, payload } => {
            let joins = format!(
                r#"{{"joins":{{{}:{{"metas":[{}]}}}},"leaves":{{}}}}"#,
                frame::quote(&key),
                payload.get()
            );
            vec![Notice::PresenceDiff(Arc::new(PresenceDiff::new(
                room, joins, 1,
            )))]
        }
        RoomRequest::State => vec![Notice::PresenceState(PresenceState("{}".into()))],
        RoomRequest::Leave | RoomRequest::Untrack => Vec::new(),
    }
}

fn converse(version: Version, verifier: Arc<Verifier>, begin: Instant, data: &[u8]) {
    let mut now = Now {
        instant: begin,
        unix: 0,
    };
    let claims = Arc::new(Claims {
        json: r#"{"role":"anon"}"#.into(),
        role: "anon".into(),
        subject: Some("ann".into()),
        expires_at: Some(60),
    });
    let limits = Limits {
        messages: PerSecond {
            socket: 9,
            channel: 7,
            subject: 5,
        },
        recheck_interval: Duration::from_secs(7),
        ..Limits::default()
    };
    let opening = Opening {
        version,
        limits,
        verifier,
        subjects: Subjects::new(),
        seed: [0; 16],
        token: "sb_x".into(),
        claims,
        resume_ignored: false,
    };
    let mut socket = Socket::new(now, opening);
    let mut asked = 0_u64;
    for bytes in data.split(|byte| *byte == 0xff) {
        match std::str::from_utf8(bytes) {
            // The kinds of binary frames are no characters of any text frame.
            Ok(text) if bytes.first().is_none_or(|kind| *kind > 8) => {
                socket.handle(now, Input::Text(text));
            }
            Ok(_) | Err(_) => socket.handle(now, Input::Binary(bytes)),
        }
        while let Some(output) = socket.poll_output() {
            let (membership, notices) = match output {
                Output::Send(frame) => {
                    check(version, &frame);
                    continue;
                }
                Output::Subscribe { membership, .. } => (membership, vec![Notice::Subscribed]),
                Output::Room {
                    membership,
                    room,
                    request,
                } => (membership, reflect(&room.topic, request)),
                Output::Ask {
                    membership,
                    ticket,
                    ask,
                    ..
                } => {
                    asked = asked.wrapping_add(1);
                    let answer = answer(&ask, asked.wrapping_mul(0x9e37_79b9).rotate_right(7));
                    (membership, vec![Notice::Answered { ticket, answer }])
                }
                Output::AwaitReplication { membership } => (
                    membership,
                    vec![Notice::ReplicationReady(asked.is_multiple_of(2))],
                ),
                _ => continue,
            };
            for notice in notices {
                socket.handle(now, Input::Notice { membership, notice });
            }
        }
        now.instant += Duration::from_secs(1);
        now.unix += 1;
        socket.handle_timeout(now);
    }
    socket.handle(now, Input::Gone);
}
