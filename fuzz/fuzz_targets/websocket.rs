//! Any bytes give the same messages and the same error however they are cut, and no message is larger than allowed.

#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use walcast::websocket::{DecodeError, Decoder, Message};

const MESSAGE_BYTES_MAX: usize = 1000;

fn decode(pieces: &[&[u8]]) -> (Vec<Message>, Option<DecodeError>) {
    let mut decoder = Decoder::new(MESSAGE_BYTES_MAX);
    let mut buffer = BytesMut::new();
    let mut messages = Vec::new();
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            match decoder.decode(&mut buffer) {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(error) => return (messages, Some(error)),
            }
        }
    }
    (messages, None)
}

fuzz_target!(|data: &[u8]| {
    let whole = decode(&[data]);
    let first = data.first().copied().unwrap_or_default();
    let cut = usize::from(first).min(data.len());
    assert_eq!(whole, decode(&[&data[..cut], &data[cut..]]));
    for message in whole.0 {
        let length = match message {
            Message::Text(text) => text.len(),
            Message::Binary(bytes) | Message::Ping(bytes) | Message::Pong(bytes) => bytes.len(),
            Message::Close(_) => 0,
        };
        assert!(length <= MESSAGE_BYTES_MAX);
    }
});
