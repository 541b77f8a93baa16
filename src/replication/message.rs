//! The client's side of the streaming replication protocol: bytes ↔ values.
//!
//! Bytes of the server go in, [`ServerMessage`]s come out; queries and status updates are encoded. Never reads a
//! socket or a clock, never panics, and never waits for a message that is longer than it may be. Follows the Postgres
//! manual, "Message Formats" and "Streaming Replication Protocol". What a WAL message holds is `pgoutput.rs`'s affair.

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use fallible_iterator::FallibleIterator;
use postgres_protocol::message::backend::{self, ErrorFields};
use postgres_protocol::message::frontend;

use crate::change::{Lsn, PgTime};

use super::progress::Feedback;

/// Tag and length.
const HEADER_BYTES: usize = 5;

/// The longest message before the login is done: libpq's own limit for authentication requests and errors then.
pub const LOGIN_MESSAGE_BYTES_MAX: usize = 30_000;

/// The longest message afterwards: a row of 1 GiB, the longest that Postgres can hold, with its old version.
pub const MESSAGE_BYTES_MAX: usize = 0x7fff_fffe;

/// One message of the server.
#[derive(Debug)]
pub enum ServerMessage {
    /// A step of the login.
    Authentication(AuthenticationRequest),
    /// The process that serves the session.
    ProcessId(i32),
    /// A setting as it is now, such as `in_hot_standby`.
    Parameter {
        /// Its name.
        name: String,
        /// Its value.
        value: String,
    },
    /// The next query may be sent.
    Ready,
    /// A row of a query's answer; NULL is `None`.
    Row(Vec<Option<String>>),
    /// A query, or the streaming, came to its end.
    Complete,
    /// Streaming begins, both ways.
    CopyBoth,
    /// A message inside the streaming.
    CopyData(Bytes),
    /// The server ends the streaming.
    CopyDone,
    /// Something failed.
    Error(ServerError),
    /// Notices, column descriptions and the like.
    Other,
}

/// What the server wants for a login.
#[derive(Debug)]
pub enum AuthenticationRequest {
    /// Nothing more.
    Ok,
    /// The password.
    Cleartext,
    /// The password's MD5 hash with this salt.
    Md5([u8; 4]),
    /// One of these mechanisms.
    Sasl(Vec<String>),
    /// The mechanism's next challenge.
    SaslContinue(Bytes),
    /// The mechanism's proof that the server knows the password too.
    SaslFinal(Bytes),
    /// Kerberos and other methods that walcast does not speak.
    Unsupported,
}

/// An error of the server, in its own words.
#[derive(Clone, Debug, Default, PartialEq, Eq, thiserror::Error)]
#[error("{message} ({sqlstate})")]
pub struct ServerError {
    /// Manual, appendix "PostgreSQL Error Codes".
    pub sqlstate: String,
    /// The primary message.
    pub message: String,
}

/// The bytes break the protocol: the connection is of no further use.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    /// A length that no message can have, or more than may come now.
    #[error("a message of the server claims {0} bytes")]
    Length(u32),
    /// The message's content is no message.
    #[error("malformed message of the server")]
    Malformed(#[source] io::Error),
    /// The streaming carries something other than WAL and keepalives.
    #[error("malformed message inside the replication stream")]
    Stream,
}

/// Cuts the server's bytes into messages.
#[derive(Debug)]
pub struct Deframer {
    /// What arrived and is not cut yet; read into its end.
    pub buffer: BytesMut,
    /// Bytes that the next message may have, ≤ [`MESSAGE_BYTES_MAX`].
    pub message_bytes_max: usize,
}

impl Deframer {
    /// A deframer for a session that has not logged in yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            buffer: BytesMut::new(),
            message_bytes_max: LOGIN_MESSAGE_BYTES_MAX,
        }
    }

    /// The next whole message; `None` if more bytes are needed.
    ///
    /// # Errors
    /// The server broke the protocol.
    pub fn poll(&mut self) -> Result<Option<ServerMessage>, MessageError> {
        let Some((header, _)) = self.buffer.split_first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let [tag, length @ ..] = *header;
        let claimed = u32::from_be_bytes(length);
        let length = usize::try_from(claimed)
            .ok()
            .filter(|length| (4..=self.message_bytes_max).contains(length))
            .and_then(|length| length.checked_add(1))
            .ok_or(MessageError::Length(claimed))?;
        if self.buffer.len() < length {
            return Ok(None);
        }
        match tag {
            // The two that matter for speed, or that postgres-protocol does not know, are taken as they are.
            b'd' => {
                let mut message = self.buffer.split_to(length).freeze();
                message.advance(HEADER_BYTES);
                Ok(Some(ServerMessage::CopyData(message)))
            }
            b'W' => {
                self.buffer.advance(length);
                Ok(Some(ServerMessage::CopyBoth))
            }
            _ => {
                let message = backend::Message::parse(&mut self.buffer);
                message
                    .and_then(|message| message.map(describe).transpose())
                    .map_err(MessageError::Malformed)
            }
        }
    }
}

impl Default for Deframer {
    fn default() -> Self {
        Self::new()
    }
}

fn describe(message: backend::Message) -> io::Result<ServerMessage> {
    use backend::Message;
    let authentication = |request| Ok(ServerMessage::Authentication(request));
    match message {
        Message::AuthenticationOk => authentication(AuthenticationRequest::Ok),
        Message::AuthenticationCleartextPassword => {
            authentication(AuthenticationRequest::Cleartext)
        }
        Message::AuthenticationMd5Password(body) => {
            authentication(AuthenticationRequest::Md5(body.salt()))
        }
        Message::AuthenticationSasl(body) => {
            let mechanisms = body
                .mechanisms()
                .map(|name| Ok(name.to_owned()))
                .collect()?;
            authentication(AuthenticationRequest::Sasl(mechanisms))
        }
        Message::AuthenticationSaslContinue(body) => authentication(
            AuthenticationRequest::SaslContinue(Bytes::copy_from_slice(body.data())),
        ),
        Message::AuthenticationSaslFinal(body) => authentication(AuthenticationRequest::SaslFinal(
            Bytes::copy_from_slice(body.data()),
        )),
        Message::AuthenticationGss
        | Message::AuthenticationGssContinue(_)
        | Message::AuthenticationKerberosV5
        | Message::AuthenticationScmCredential
        | Message::AuthenticationSspi => authentication(AuthenticationRequest::Unsupported),
        Message::BackendKeyData(body) => Ok(ServerMessage::ProcessId(body.process_id())),
        Message::ParameterStatus(body) => Ok(ServerMessage::Parameter {
            name: body.name()?.to_owned(),
            value: body.value()?.to_owned(),
        }),
        Message::ReadyForQuery(_) => Ok(ServerMessage::Ready),
        Message::DataRow(body) => {
            let mut row = Vec::new();
            let mut ranges = body.ranges();
            while let Some(range) = ranges.next()? {
                let text = match range {
                    None => None,
                    Some(range) => {
                        Some(body.buffer().get(range).ok_or(io::ErrorKind::InvalidData)?)
                    }
                };
                row.push(text.map(|text| String::from_utf8_lossy(text).into_owned()));
            }
            Ok(ServerMessage::Row(row))
        }
        Message::CommandComplete(_) | Message::EmptyQueryResponse => Ok(ServerMessage::Complete),
        Message::CopyDone => Ok(ServerMessage::CopyDone),
        Message::ErrorResponse(body) => read_error(body.fields()).map(ServerMessage::Error),
        _ => Ok(ServerMessage::Other),
    }
}

fn read_error(mut fields: ErrorFields<'_>) -> io::Result<ServerError> {
    let mut error = ServerError::default();
    while let Some(field) = fields.next()? {
        let text = || String::from_utf8_lossy(field.value_bytes()).into_owned();
        match field.type_() {
            b'C' => error.sqlstate = text(),
            b'M' => error.message = text(),
            _ => {}
        }
    }
    Ok(error)
}

/// What a [`ServerMessage::CopyData`] carries while streaming.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamMessage {
    /// A message of the output plugin.
    XLogData {
        /// Where the data stands in the WAL; zero where that means nothing.
        start: Lsn,
        /// The message itself.
        data: Bytes,
    },
    /// Everything before `wal_end` has been decoded and what was to be sent of it has been.
    Keepalive {
        /// The server's position in the WAL.
        wal_end: Lsn,
        /// Silence would be taken for death.
        reply_requested: bool,
    },
}

impl StreamMessage {
    /// Decodes one CopyData of a walsender.
    ///
    /// # Errors
    /// The bytes are neither XLogData nor a keepalive.
    pub fn decode(mut bytes: Bytes) -> Result<Self, MessageError> {
        match bytes.try_get_u8() {
            Ok(b'w') => {
                let start = read_u64(&mut bytes)?;
                let _wal_end = read_u64(&mut bytes)?;
                let _sent_at = read_u64(&mut bytes)?;
                Ok(Self::XLogData {
                    start: Lsn::new(start),
                    data: bytes,
                })
            }
            Ok(b'k') => {
                let wal_end = read_u64(&mut bytes)?;
                let _sent_at = read_u64(&mut bytes)?;
                let reply_requested = bytes
                    .try_get_u8()
                    .map_err(|_too_short| MessageError::Stream)?;
                Ok(Self::Keepalive {
                    wal_end: Lsn::new(wal_end),
                    reply_requested: reply_requested != 0,
                })
            }
            Ok(_) | Err(_) => Err(MessageError::Stream),
        }
    }
}

fn read_u64(bytes: &mut Bytes) -> Result<u64, MessageError> {
    bytes
        .try_get_u64()
        .map_err(|_too_short| MessageError::Stream)
}

/// Appends a "Standby status update" to `out`. `reply_requested` has the server answer with a keepalive at once.
pub fn encode_status_update(
    feedback: Feedback,
    reply_requested: bool,
    now: PgTime,
    out: &mut BytesMut,
) {
    out.put_u8(b'd');
    out.put_u32(38); // this field, a tag, four numbers of 8 bytes, a flag
    out.put_u8(b'r');
    out.put_u64(feedback.written.bytes());
    out.put_u64(feedback.flushed.bytes());
    out.put_u64(feedback.flushed.bytes());
    out.put_i64(now.0);
    out.put_u8(u8::from(reply_requested));
}

/// Appends a simple query to `out`.
///
/// # Errors
/// The text holds a NUL character or is longer than a message can be.
pub fn encode_query(sql: &str, out: &mut BytesMut) -> Result<(), MessageError> {
    frontend::query(sql, out).map_err(MessageError::Malformed)
}

/// Appends the end of our side of the streaming.
pub fn encode_copy_done(out: &mut BytesMut) {
    frontend::copy_done(out);
}

/// Appends the end of the session.
pub fn encode_terminate(out: &mut BytesMut) {
    frontend::terminate(out);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn deframer(bytes: &[u8]) -> Deframer {
        Deframer {
            buffer: BytesMut::from(bytes),
            message_bytes_max: MESSAGE_BYTES_MAX,
        }
    }

    #[track_caller]
    fn check(bytes: &[u8], shown: &str) {
        for cut in 0..bytes.len() {
            assert!(
                deframer(&bytes[..cut]).poll().unwrap().is_none(),
                "cut at {cut}"
            );
        }
        let mut deframer = deframer(&[bytes, b"Z"].concat());
        let message = deframer.poll().unwrap().unwrap();
        assert_eq!(format!("{message:?}"), shown);
        assert_eq!(&deframer.buffer[..], b"Z");
    }

    #[test]
    fn messages_are_cut_at_their_length() {
        check(b"Z\0\0\0\x05I", "Ready");
        check(b"d\0\0\0\x07abc", r#"CopyData(b"abc")"#);
        check(b"W\0\0\0\x07\0\0\0", "CopyBoth");
        check(b"c\0\0\0\x04", "CopyDone");
        check(b"C\0\0\0\x07ok\0", "Complete");
        check(b"K\0\0\0\x0c\0\0\0\x07\0\0\0\x01", "ProcessId(7)");
        check(
            b"S\0\0\0\x08a\0b\0",
            r#"Parameter { name: "a", value: "b" }"#,
        );
        check(
            b"D\0\0\0\x10\0\x02\xff\xff\xff\xff\0\0\0\x02hi",
            r#"Row([None, Some("hi")])"#,
        );
        check(
            b"R\0\0\0\x0c\0\0\0\x05salt",
            "Authentication(Md5([115, 97, 108, 116]))",
        );
        check(
            b"R\0\0\0\x17\0\0\0\x0aSCRAM-SHA-256\0\0",
            r#"Authentication(Sasl(["SCRAM-SHA-256"]))"#,
        );
        check(
            b"E\0\0\0\x17SERROR\0C42704\0Mno\0\0",
            r#"Error(ServerError { sqlstate: "42704", message: "no" })"#,
        );
    }

    #[test]
    fn lengths_that_cannot_be_are_refused_before_anything_is_kept() {
        for bytes in [b"Z\0\0\0\x03", b"d\xff\xff\xff\xff", b"Z\x7f\xff\xff\xff"] {
            assert!(
                matches!(deframer(bytes).poll(), Err(MessageError::Length(_))),
                "{bytes:?}"
            );
        }
        let mut login = Deframer::new();
        login.buffer.extend_from_slice(b"R\0\x01\0\0");
        assert!(matches!(login.poll(), Err(MessageError::Length(65_536))));
    }

    #[test]
    fn stream_messages_are_wal_or_keepalives() {
        let wal = [b"w".as_slice(), &7_u64.to_be_bytes(), &[0; 16], b"data"].concat();
        let expected = StreamMessage::XLogData {
            start: Lsn::new(7),
            data: Bytes::from_static(b"data"),
        };
        assert_eq!(StreamMessage::decode(Bytes::from(wal)).unwrap(), expected);
        let keepalive = [b"k".as_slice(), &9_u64.to_be_bytes(), &[0; 8], &[1]].concat();
        let expected = StreamMessage::Keepalive {
            wal_end: Lsn::new(9),
            reply_requested: true,
        };
        assert_eq!(
            StreamMessage::decode(Bytes::from(keepalive.clone())).unwrap(),
            expected
        );
        for cut in 0..keepalive.len() {
            assert!(StreamMessage::decode(Bytes::copy_from_slice(&keepalive[..cut])).is_err());
        }
        assert!(StreamMessage::decode(Bytes::from_static(b"x")).is_err());
    }

    #[test]
    fn a_status_update_says_what_is_written_and_what_may_be_forgotten() {
        let feedback = Feedback {
            written: Lsn::new(0x0102),
            flushed: Lsn::new(0x01),
        };
        let mut out = BytesMut::new();
        encode_status_update(feedback, true, PgTime(5), &mut out);
        let expected = b"d\0\0\0\x26r\0\0\0\0\0\0\x01\x02\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x05\x01";
        assert_eq!(&out[..], expected);
    }

    proptest! {
        #[test]
        fn any_bytes_give_messages_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut deframer = deframer(&bytes);
            let mut before = deframer.buffer.len();
            while let Ok(Some(message)) = deframer.poll() {
                prop_assert!(deframer.buffer.len() < before);
                before = deframer.buffer.len();
                if let ServerMessage::CopyData(data) = message {
                    let _either = StreamMessage::decode(data);
                }
            }
        }

        #[test]
        fn any_body_of_a_known_message_gives_a_value_or_an_error(
            tag in proptest::sample::select(&b"RKSZDCcdWENT"[..]),
            body in proptest::collection::vec(any::<u8>(), 0..60),
        ) {
            let length = u32::try_from(body.len()).unwrap().strict_add(4).to_be_bytes();
            let _either = deframer(&[&[tag], &length[..], &body].concat()).poll();
        }
    }
}
