//! The binary frames of protocol 2.0.0 as clients write and read them: kind 3 out, kind 4 in (protocol.md §2.3).

use serde_json::{Map, Value};

/// How the payload of a binary frame is to be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    /// As it is.
    Binary,
    /// As JSON.
    #[default]
    Json,
}

/// A broadcast that a client pushes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Push<'a> {
    /// Empty: null.
    pub join_ref: &'a str,
    /// Empty: null.
    pub reference: &'a str,
    /// With its `realtime:`.
    pub topic: &'a str,
    /// What receivers listen to.
    pub event: &'a str,
    /// Empty or a JSON object.
    pub metadata: &'a str,
    /// Of the payload.
    pub encoding: Encoding,
    /// To the end of the frame.
    pub payload: &'a [u8],
}

impl Push<'_> {
    /// The frame of kind 3.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let strings = [
            self.join_ref,
            self.reference,
            self.topic,
            self.event,
            self.metadata,
        ];
        encode(3, &strings, self.encoding, self.payload)
    }
}

/// The frame of kind 4 that a receiver is to get, byte for byte.
#[must_use]
pub fn broadcast_frame(
    topic: &str,
    event: &str,
    metadata: &str,
    encoding: Encoding,
    payload: &[u8],
) -> Vec<u8> {
    encode(4, &[topic, event, metadata], encoding, payload)
}

fn encode(kind: u8, strings: &[&str], encoding: Encoding, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![kind];
    for string in strings {
        frame.push(u8::try_from(string.len()).unwrap());
    }
    frame.push(u8::from(encoding == Encoding::Json));
    for string in strings {
        frame.extend_from_slice(string.as_bytes());
    }
    frame.extend_from_slice(payload);
    frame
}

/// Topic and payload of a frame of kind 4, as the stock client makes them of it; raw bytes become an array of numbers.
///
/// # Panics
///
/// On anything that the stock client could not read.
pub(super) fn decode(frame: &[u8]) -> (String, Value) {
    assert_eq!(
        frame.first(),
        Some(&4),
        "clients read no other kind: {frame:?}"
    );
    let lengths = &frame[1..4];
    let mut rest = &frame[5..];
    let mut strings = lengths.iter().map(|length| {
        let (string, behind) = rest.split_at(usize::from(*length));
        rest = behind;
        String::from_utf8(string.to_vec()).unwrap()
    });
    let topic = strings.next().unwrap();
    let event = strings.next().unwrap();
    let metadata = strings.next().unwrap();
    drop(strings);
    let mut payload = Map::new();
    payload.insert("type".to_owned(), "broadcast".into());
    payload.insert("event".to_owned(), event.into());
    let data = match frame[4] {
        0 => rest.to_vec().into(),
        1 => serde_json::from_slice(rest).unwrap(),
        other => panic!("no encoding: {other}"),
    };
    payload.insert("payload".to_owned(), data);
    if !metadata.is_empty() {
        let meta = serde_json::from_str(&metadata).unwrap();
        payload.insert("meta".to_owned(), meta);
    }
    (topic, Value::Object(payload))
}
