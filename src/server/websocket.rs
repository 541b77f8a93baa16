//! A WebSocket on a TCP connection: messages in, frames out.
//!
//! Frames share their payloads with other sockets and go to the kernel as they are, many at a time. Nothing is kept while
//! nothing is under way: ten thousand silent sockets have no buffers.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};

use super::meter::{Metered, Written};
use crate::websocket::{DecodeError, Decoder, Head, Message, Opcode};

/// Bytes that are read at a time.
const CHUNK_BYTES: usize = 16 * 1024;
/// Frames that are written at a time: two parts each, of 1,024 that the kernel takes.
const BATCH_FRAMES: usize = 128;
/// Frames for which a queue keeps its memory when it is empty.
pub(super) const QUEUE_KEPT: usize = 8;

/// A frame to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// Text; always UTF-8.
    Text(Bytes),
    /// Binary.
    Binary(Bytes),
    /// To be answered by the peer with the same bytes, at most 125.
    Ping(Bytes),
    /// The end, with its code and reason.
    Close(u16, &'static str),
}

impl Frame {
    /// Bytes of the payload.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Text(payload) | Self::Binary(payload) | Self::Ping(payload) => payload.len(),
            Self::Close(_, reason) => reason.len().saturating_add(2),
        }
    }
}

/// Why a socket cannot go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("the connection failed")]
    Connection(#[from] io::Error),
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

/// What is left to write of a frame.
#[derive(Debug)]
struct Outgoing {
    head: Head,
    /// Bytes of the head that were written.
    begun: usize,
    payload: Bytes,
}

impl Outgoing {
    fn new(opcode: Opcode, payload: Bytes) -> Self {
        Self {
            head: Head::new(opcode, payload.len()),
            begun: 0,
            payload,
        }
    }

    fn close(code: Option<u16>, reason: &str) -> Self {
        let code = code.map(u16::to_be_bytes);
        let payload = [
            code.as_ref().map_or(&[][..], |code| code),
            reason.as_bytes(),
        ];
        Self::new(Opcode::Close, payload.concat().into())
    }

    fn head(&self) -> &[u8] {
        self.head.as_bytes().get(self.begun..).unwrap_or_default()
    }

    /// Takes what was written off; gives how much of it was of later frames, and whether this one is done.
    fn advance(&mut self, written: usize) -> (usize, bool) {
        let of_head = written.min(self.head().len());
        self.begun = self.begun.saturating_add(of_head);
        let written = written.saturating_sub(of_head);
        let of_payload = written.min(self.payload.len());
        self.payload.advance(of_payload);
        let done = self.head().is_empty() && self.payload.is_empty();
        (written.saturating_sub(of_payload), done)
    }
}

/// A connected socket.
pub(super) struct WebSocket {
    stream: Metered,
    decoder: Decoder,
    /// Came in and is not decoded yet.
    inbound: BytesMut,
    /// On their way to the kernel.
    outbound: VecDeque<Outgoing>,
    /// The answer to the latest ping.
    answer: Option<Outgoing>,
    /// Nothing is read any more: the peer said goodbye, is gone, or broke the protocol.
    ended: bool,
    /// A close frame is on its way; nothing may follow it.
    closing: bool,
}

impl WebSocket {
    /// A socket on a connection of which `read` was read too much.
    pub(super) fn new(stream: Metered, read: &[u8], message_bytes_max: usize) -> Self {
        Self {
            stream,
            decoder: Decoder::new(message_bytes_max),
            inbound: BytesMut::from(read),
            outbound: VecDeque::new(),
            answer: None,
            ended: false,
            closing: false,
        }
    }

    /// Counts what the kernel takes.
    pub(super) fn written(&self) -> Written {
        self.stream.written()
    }

    /// The next message; pings and the peer's goodbye are answered by themselves. Ends with the connection, or after the
    /// peer's goodbye.
    pub(super) fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Message, Error>>> {
        if self.answer.is_some() {
            // What cannot be written now is written later.
            if let Poll::Ready(Err(error)) = self.poll_flush(cx) {
                return Poll::Ready(Some(Err(error.into())));
            }
        }
        while !self.ended {
            match self.decoder.decode(&mut self.inbound) {
                Ok(Some(message)) => {
                    self.answer(&message);
                    return Poll::Ready(Some(Ok(message)));
                }
                Ok(None) => {}
                Err(error) => {
                    self.end();
                    return Poll::Ready(Some(Err(error.into())));
                }
            }
            if self.inbound.is_empty() {
                self.inbound = BytesMut::new();
            }
            match ready!(self.poll_read(cx)) {
                Ok(0) => self.end(),
                Ok(_) => {}
                Err(error) => {
                    self.end();
                    return Poll::Ready(Some(Err(error.into())));
                }
            }
        }
        Poll::Ready(None)
    }

    /// Reads and forgets what comes, until the peer has closed the connection.
    pub(super) fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.end();
        loop {
            match ready!(self.poll_read(cx)) {
                Ok(0) | Err(_) => return Poll::Ready(()),
                Ok(_) => self.inbound.clear(),
            }
        }
    }

    /// Whether frames may be added; otherwise waits until some were written.
    pub(super) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.outbound.len() < BATCH_FRAMES {
            return Poll::Ready(Ok(()));
        }
        self.poll_flush(cx)
    }

    /// Adds a frame. After a close frame, the answer to the peer's included, there are no others.
    pub(super) fn push(&mut self, frame: Frame) {
        if self.closing {
            return;
        }
        self.outbound.push_back(match frame {
            Frame::Text(payload) => Outgoing::new(Opcode::Text, payload),
            Frame::Binary(payload) => Outgoing::new(Opcode::Binary, payload),
            Frame::Ping(payload) => Outgoing::new(Opcode::Ping, payload),
            Frame::Close(code, reason) => {
                self.closing = true;
                Outgoing::close(Some(code), reason)
            }
        });
    }

    /// Writes everything. Ready once the kernel has taken it.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            self.place_answer();
            if self.outbound.is_empty() {
                break;
            }
            ready!(self.poll_write(cx))?;
        }
        self.outbound.shrink_to(QUEUE_KEPT);
        Poll::Ready(Ok(()))
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut chunk = [const { MaybeUninit::uninit() }; CHUNK_BYTES];
        let mut chunk = ReadBuf::uninit(&mut chunk);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut chunk))?;
        self.inbound.extend_from_slice(chunk.filled());
        Poll::Ready(Ok(chunk.filled().len()))
    }

    /// Writes once: as many frames as the kernel takes.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut parts = [IoSlice::new(&[]); 2 * BATCH_FRAMES];
        let mut count = 0_usize;
        let frames = self.outbound.iter();
        let filled = frames.flat_map(|frame| [frame.head(), &frame.payload]);
        for (place, part) in parts.iter_mut().zip(filled.filter(|part| !part.is_empty())) {
            *place = IoSlice::new(part);
            count = count.saturating_add(1);
        }
        let parts = parts.get(..count).unwrap_or_default();
        let mut written = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, parts))?;
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        while let Some(frame) = self.outbound.front_mut() {
            let (rest, done) = frame.advance(written);
            if !done {
                break;
            }
            written = rest;
            self.outbound.pop_front();
        }
        Poll::Ready(Ok(()))
    }

    /// An answer goes before the frames that wait, and after one that was begun.
    fn place_answer(&mut self) {
        if let Some(answer) = self.answer.take() {
            let is_begun = self.outbound.front().is_some_and(|frame| frame.begun > 0);
            self.outbound.insert(usize::from(is_begun), answer);
        }
    }

    fn answer(&mut self, message: &Message) {
        if let Message::Close(_) = message {
            self.end();
        }
        match message {
            _ if self.closing => {}
            // Of many pings only the latest need be answered (RFC 6455, section 5.5.3).
            Message::Ping(payload) => {
                self.answer = Some(Outgoing::new(Opcode::Pong, payload.clone()));
            }
            Message::Close(code) => {
                self.closing = true;
                self.outbound.push_back(Outgoing::close(*code, ""));
            }
            Message::Text(_) | Message::Binary(_) | Message::Pong(_) => {}
        }
    }

    fn end(&mut self) {
        self.ended = true;
        self.inbound = BytesMut::new();
    }
}
