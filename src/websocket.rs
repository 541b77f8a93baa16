//! The WebSocket protocol as a server speaks it: bytes in, messages out; and the heads of frames that go out (RFC 6455,
//! sections 5 to 7).
//!
//! Offers no extension, so reserved bits are an error. Keeps nothing but a message whose end has not come. Never writes a
//! payload: what many receive is shared by all of them.
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use bytes::{Buf as _, Bytes, BytesMut};

/// The most that a control frame carries.
const CONTROL_BYTES_MAX: usize = 125;
/// The longest head of a frame that goes out.
const HEAD_BYTES_MAX: usize = 10;

/// What a client sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// A text message.
    Text(String),
    /// A binary message.
    Binary(Bytes),
    /// To be answered by a pong with the same bytes.
    Ping(Bytes),
    /// The answer to a ping of ours, with its bytes, or to none.
    Pong(Bytes),
    /// To be answered by a close frame with the same code. Nothing may follow.
    Close(Option<u16>),
}

/// Why a client cannot be understood any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The message, or the part of it that has come, is longer than allowed.
    #[error("the message is too large")]
    TooLarge,
    /// A text that is none.
    #[error("a text is not UTF-8")]
    NotUtf8,
    /// A frame that may not be, or not here.
    #[error("the frames break the protocol")]
    Protocol,
}

/// The first four bits of interest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opcode {
    /// More of a message.
    Continuation,
    /// A text, or its beginning.
    Text,
    /// Bytes, or their beginning.
    Binary,
    /// The end.
    Close,
    /// Are you there?
    Ping,
    /// I am.
    Pong,
}

impl Opcode {
    const fn decode(bits: u8) -> Option<Self> {
        match bits {
            0x0 => Some(Self::Continuation),
            0x1 => Some(Self::Text),
            0x2 => Some(Self::Binary),
            0x8 => Some(Self::Close),
            0x9 => Some(Self::Ping),
            0xa => Some(Self::Pong),
            _ => None,
        }
    }

    const fn bits(self) -> u8 {
        match self {
            Self::Continuation => 0x0,
            Self::Text => 0x1,
            Self::Binary => 0x2,
            Self::Close => 0x8,
            Self::Ping => 0x9,
            Self::Pong => 0xa,
        }
    }

    const fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }
}

/// The head of a whole frame that goes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    bytes: [u8; HEAD_BYTES_MAX],
    length: u8,
}

impl Head {
    /// The head of a frame with a payload of `length` bytes.
    #[must_use]
    pub fn new(opcode: Opcode, length: usize) -> Self {
        let first = 0x80 | opcode.bits();
        let mut bytes = [0; HEAD_BYTES_MAX];
        let length = match (u8::try_from(length), u16::try_from(length)) {
            (Ok(short @ ..=125), _) => {
                bytes = [first, short, 0, 0, 0, 0, 0, 0, 0, 0];
                2
            }
            (_, Ok(medium)) => {
                let [a, b] = medium.to_be_bytes();
                bytes = [first, 126, a, b, 0, 0, 0, 0, 0, 0];
                4
            }
            _ => {
                let long = u64::try_from(length).unwrap_or(u64::MAX).to_be_bytes();
                if let Some(rest) = bytes.last_chunk_mut() {
                    *rest = long;
                }
                if let Some(start) = bytes.first_chunk_mut() {
                    *start = [first, 127];
                }
                10
            }
        };
        Self { bytes, length }
    }

    /// As it stands on the wire.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes
            .get(..usize::from(self.length))
            .unwrap_or_default()
    }
}

/// The head of a frame that came in.
#[derive(Clone, Copy, Debug)]
struct Incoming {
    is_final: bool,
    opcode: Opcode,
    mask: [u8; 4],
    length: usize,
}

/// A message whose end has not come.
#[derive(Debug)]
struct Fragments {
    is_text: bool,
    bytes: BytesMut,
}

/// Turns bytes into messages. After an error nothing further can be understood.
#[derive(Debug)]
pub struct Decoder {
    message_bytes_max: usize,
    /// The frame whose payload is awaited.
    frame: Option<Incoming>,
    fragments: Option<Fragments>,
}

impl Decoder {
    /// A decoder for messages of at most so many bytes.
    #[must_use]
    pub const fn new(message_bytes_max: usize) -> Self {
        Self {
            message_bytes_max,
            frame: None,
            fragments: None,
        }
    }

    /// Takes the next message from the front of `buffer`; `None` if more bytes are needed.
    ///
    /// # Errors
    ///
    /// The peer breaks the protocol or a limit; close, saying so.
    pub fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Message>, DecodeError> {
        loop {
            let frame = match self.frame {
                Some(frame) => frame,
                None => match self.head(buffer)? {
                    Some(frame) => *self.frame.insert(frame),
                    None => return Ok(None),
                },
            };
            if buffer.len() < frame.length {
                return Ok(None);
            }
            self.frame = None;
            let mut payload = buffer.split_to(frame.length);
            unmask(&mut payload, frame.mask);
            if let Some(message) = self.frame(frame, payload)? {
                return Ok(Some(message));
            }
        }
    }

    /// Takes the head of a frame, if it is complete, and checks whatever can be checked without its payload.
    fn head(&self, buffer: &mut BytesMut) -> Result<Option<Incoming>, DecodeError> {
        let Some((&[first, second], rest)) = buffer.split_first_chunk() else {
            return Ok(None);
        };
        let (length, rest) = match second & 0x7f {
            126 => match rest.split_first_chunk() {
                Some((bytes, rest)) => (u64::from(u16::from_be_bytes(*bytes)), rest),
                None => return Ok(None),
            },
            127 => match rest.split_first_chunk() {
                Some((bytes, rest)) => (u64::from_be_bytes(*bytes), rest),
                None => return Ok(None),
            },
            short => (u64::from(short), rest),
        };
        // Clients must mask (section 5.1).
        if first & 0x70 != 0 || second & 0x80 == 0 {
            return Err(DecodeError::Protocol);
        }
        let Some((mask, rest)) = rest.split_first_chunk() else {
            return Ok(None);
        };
        let frame = Incoming {
            is_final: first & 0x80 != 0,
            opcode: Opcode::decode(first & 0x0f).ok_or(DecodeError::Protocol)?,
            mask: *mask,
            length: usize::try_from(length).unwrap_or(usize::MAX),
        };
        let taken = buffer.len().saturating_sub(rest.len());
        self.check(frame)?;
        buffer.advance(taken);
        Ok(Some(frame))
    }

    fn check(&self, frame: Incoming) -> Result<(), DecodeError> {
        if frame.opcode.is_control() {
            return if frame.is_final && frame.length <= CONTROL_BYTES_MAX {
                Ok(())
            } else {
                Err(DecodeError::Protocol)
            };
        }
        // Nothing else may begin before a message has ended.
        if (frame.opcode == Opcode::Continuation) != self.fragments.is_some() {
            return Err(DecodeError::Protocol);
        }
        let before = self
            .fragments
            .as_ref()
            .map_or(0, |before| before.bytes.len());
        if before.saturating_add(frame.length) > self.message_bytes_max {
            return Err(DecodeError::TooLarge);
        }
        Ok(())
    }

    fn frame(
        &mut self,
        frame: Incoming,
        payload: BytesMut,
    ) -> Result<Option<Message>, DecodeError> {
        let is_text = match frame.opcode {
            Opcode::Ping => return Ok(Some(Message::Ping(payload.freeze()))),
            Opcode::Pong => return Ok(Some(Message::Pong(payload.freeze()))),
            Opcode::Close => return close(&payload).map(Some),
            Opcode::Text => true,
            Opcode::Binary | Opcode::Continuation => false,
        };
        let message = match self.fragments.take() {
            Some(mut before) => {
                before.bytes.unsplit(payload);
                before
            }
            None => Fragments {
                is_text,
                bytes: payload,
            },
        };
        if !frame.is_final {
            self.fragments = Some(message);
            return Ok(None);
        }
        let bytes = message.bytes;
        if !message.is_text {
            return Ok(Some(Message::Binary(bytes.freeze())));
        }
        match String::from_utf8(bytes.into()) {
            Ok(text) => Ok(Some(Message::Text(text))),
            Err(_bytes) => Err(DecodeError::NotUtf8),
        }
    }
}

/// The payload of a close frame: nothing, or a code and a reason (section 7.4).
fn close(payload: &[u8]) -> Result<Message, DecodeError> {
    if payload.is_empty() {
        return Ok(Message::Close(None));
    }
    let (code, reason) = payload.split_first_chunk().ok_or(DecodeError::Protocol)?;
    let code = u16::from_be_bytes(*code);
    // The others are reserved, or never stand in a frame.
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(DecodeError::Protocol);
    }
    match std::str::from_utf8(reason) {
        Ok(_reason) => Ok(Message::Close(Some(code))),
        Err(_bytes) => Err(DecodeError::NotUtf8),
    }
}

/// Section 5.3. Whole words at a time, as most of a payload is.
fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    let [a, b, c, d] = mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, rest) = payload.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip([a, b, c, d, a, b, c]) {
        *byte ^= mask;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAX: usize = 100_000;

    /// A frame of a client.
    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mask = [0x12, 0x34, 0x56, 0x78];
        let head = Head::new(Opcode::Text, payload.len());
        let mut bytes = head.as_bytes().to_vec();
        bytes[0] = first;
        bytes[1] |= 0x80;
        bytes.extend_from_slice(&mask);
        bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(a, b)| a ^ b));
        bytes
    }

    /// Everything that comes of `bytes`, which arrive in pieces of `size`.
    fn decode(bytes: &[u8], size: usize) -> (Vec<Message>, Option<DecodeError>) {
        let mut decoder = Decoder::new(MAX);
        let mut buffer = BytesMut::new();
        let mut messages = Vec::new();
        for piece in bytes.chunks(size) {
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

    #[track_caller]
    fn check(frames: &[Vec<u8>], expected: &[Message], error: Option<DecodeError>) {
        let bytes = frames.concat();
        for size in [1, 3, bytes.len()] {
            assert_eq!(decode(&bytes, size), (expected.to_vec(), error));
        }
    }

    fn text(text: &str) -> Message {
        Message::Text(text.into())
    }

    #[test]
    fn messages_are_put_together_and_control_frames_stand_between() {
        check(
            &[
                frame(0x01, "gr\u{fc}".as_bytes().split_at(3).0),
                frame(0x89, b"?"),
                frame(0x00, &"\u{fc}".as_bytes()[1..]),
                frame(0x80, b"n"),
                frame(0x82, b"\xff"),
                frame(0x8a, b""),
                frame(0x81, b""),
                frame(0x88, b"\x03\xe8bye"),
            ],
            &[
                Message::Ping(Bytes::from_static(b"?")),
                text("gr\u{fc}n"),
                Message::Binary(Bytes::from_static(b"\xff")),
                Message::Pong(Bytes::new()),
                text(""),
                Message::Close(Some(1000)),
            ],
            None,
        );
        check(&[frame(0x88, b"")], &[Message::Close(None)], None);
    }

    #[test]
    fn payloads_of_every_kind_of_length() {
        for length in [0, 1, 7, 8, 9, 125, 126, 65_535, 65_536, MAX] {
            let payload = "y".repeat(length);
            let (messages, error) = decode(&frame(0x81, payload.as_bytes()), usize::MAX);
            assert_eq!((messages, error), (vec![text(&payload)], None));
        }
    }

    #[test]
    fn what_breaks_the_protocol_is_refused() {
        let unmasked = vec![0x81, 0x01, b'x'];
        for broken in [
            vec![unmasked],
            vec![frame(0xc1, b"x")],
            vec![frame(0x83, b"x")],
            vec![frame(0x8b, b"x")],
            vec![frame(0x80, b"x")],
            vec![frame(0x01, b"x"), frame(0x81, b"x")],
            vec![frame(0x09, b"x")],
            vec![frame(0x89, &[0; 126])],
            vec![frame(0x88, b"\x03")],
            vec![frame(0x88, b"\x03\xed")],
            vec![frame(0x88, b"\x13\x88")],
        ] {
            check(&broken, &[], Some(DecodeError::Protocol));
        }
        check(&[frame(0x81, b"\xff")], &[], Some(DecodeError::NotUtf8));
        check(
            &[frame(0x88, b"\x03\xe8\xff")],
            &[],
            Some(DecodeError::NotUtf8),
        );
    }

    #[test]
    fn what_is_too_large_is_refused_by_its_head() {
        let large = frame(0x81, &vec![b'x'; MAX + 1]);
        check(&[large[..20].to_vec()], &[], Some(DecodeError::TooLarge));
        let half = frame(0x01, &vec![b'x'; MAX]);
        let rest = frame(0x80, b"x");
        let (messages, error) = decode(&[half, rest].concat(), usize::MAX);
        assert_eq!((messages, error), (vec![], Some(DecodeError::TooLarge)));
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces_give_the_same(bytes in proptest::collection::vec(any::<u8>(), 0..200), size in 1_usize..20) {
            prop_assert_eq!(decode(&bytes, size), decode(&bytes, 1));
        }

        #[test]
        fn what_clients_send_arrives(parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 1..5), size in 1_usize..50) {
            let last = parts.len().saturating_sub(1);
            let frames: Vec<u8> = parts
                .iter()
                .enumerate()
                .flat_map(|(n, part)| {
                    let opcode = if n == 0 { 0x02 } else { 0x00 };
                    let end = if n == last { 0x80 } else { 0x00 };
                    frame(opcode | end, part)
                })
                .collect();
            let whole = Message::Binary(parts.concat().into());
            prop_assert_eq!(decode(&frames, size), (vec![whole], None));
        }
    }
}
