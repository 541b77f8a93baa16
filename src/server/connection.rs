//! One WebSocket: drives a [`Socket`] between the network and the pipeline.
//!
//! Inbound frames and notices go in, one at a time; what comes out is sent, or asked of the pipeline. Changes are taken
//! from the log at the pace of the peer: a little is under way, the rest waits in the log. A peer that takes nothing
//! for a set time, whose place in the log is gone, or for whom more broadcasts wait than may, is closed as slow; a large
//! transaction alone closes nobody.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{sleep_until, timeout};
use tokio::{join, select};
use tracing::{Instrument as _, debug, debug_span};

use super::Server;
use super::acks::{Acks, Pong, Reached, Wish};
use super::awaiting::Awaiting;
use super::commands::Commands;
use super::output::Outbound;
use super::record;
use super::websocket::{self, WebSocket};
use crate::auth::Claims;
use crate::clock;
use crate::log::{Gone, Outbox, Posting};
use crate::messages::{Reply, Request};
use crate::metrics::observe;
use crate::pipeline::{Acknowledged, Command, Farewell, Reader};
use crate::realtime::{Ask, Frame, Input, Notice, Now, Opening, Output, Socket, Version};
use crate::rooms::MemberId;
use crate::websocket::{DecodeError, Message};

/// Payloads that are read from the log at once, and so at most kept by a socket that does not move.
const PAYLOADS_MAX: u32 = 32;
/// How long a close frame and the answer to it may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the connection is kept for a peer that could not be understood: it is still sending, and would see a reset
/// instead of the close frame.
const LINGER: Duration = Duration::from_secs(1);

/// What the upgrade has found out.
pub(super) struct Accepted {
    pub(super) number: u64,
    pub(super) version: Version,
    pub(super) token: Arc<str>,
    pub(super) claims: Arc<Claims>,
    /// The handshake's `x-*` headers, as a JSON object.
    pub(super) headers: Arc<str>,
    /// What it may go on by when it comes back.
    pub(super) resume: Option<Wish>,
    /// It came with a resume ID that cannot be one.
    pub(super) resume_ignored: bool,
    pub(super) permit: OwnedSemaphorePermit,
}

/// Serves one socket to its end.
///
/// Not cancel safe: the pipeline would not be told of the end.
pub(super) async fn run(server: Arc<Server>, mut accepted: Accepted, websocket: WebSocket) {
    let span = debug_span!("socket", number = accepted.number);
    let metrics = Arc::clone(&server.metrics);
    metrics.connections.inc();
    metrics.connections_active.inc();
    let wish = accepted.resume.take();
    let mut connection = Connection::new(server, &accepted, wish, websocket);
    async {
        let end = connection.serve().await;
        connection.finish(end).await;
    }
    .instrument(span)
    .await;
    metrics.connections_active.dec();
    drop(accepted.permit);
}

/// Why serving ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The peer cannot be reached.
    Gone,
    /// The peer said goodbye.
    Left,
    /// We leave, with this code and reason.
    Close(u16, &'static str),
    /// There is no time for a close frame.
    Drop,
}

impl End {
    /// protocol.md §11.
    const SLOW: Self = Self::Close(1013, "slow consumer");
    /// Another socket goes on where this one was, which did not answer.
    const TAKEN_OVER: Self = Self::Close(1001, "resumed by another socket");
}

/// What woke the connection.
enum Event {
    /// Everything under way was taken.
    Flushed,
    Frame(Message),
    End(End),
    /// Something is in the outbox, or too much is.
    Posted,
    /// Broadcasts from the database flow.
    Replicating,
    Timer,
    Drain,
}

/// Payloads that were read and not yet sent.
struct Reading {
    membership: u32,
    ids: Arc<str>,
    /// The last of them is the last of its transaction.
    last: bool,
    payloads: Vec<Bytes>,
    next: usize,
}

struct Connection {
    server: Arc<Server>,
    number: u64,
    websocket: WebSocket,
    socket: Socket,
    outbox: Arc<Outbox<Notice>>,
    outbound: Outbound,
    reading: Option<Reading>,
    commands: Commands,
    /// What the peer has acknowledged, if it may come back.
    acks: Option<Box<Acks>>,
    /// Who waits for broadcasts from the database.
    awaiting: Awaiting,
    headers: Arc<str>,
    end: Option<End>,
    /// How often there was a doubt about who may send, as far as channels know.
    sending_doubts: u64,
    drained: bool,
    /// Counted among the sockets with channels.
    counted: bool,
}

fn now() -> Now {
    Now {
        instant: clock::instant(),
        unix: clock::unix_seconds(),
    }
}

impl Connection {
    fn new(
        server: Arc<Server>,
        accepted: &Accepted,
        wish: Option<Wish>,
        websocket: WebSocket,
    ) -> Self {
        let opening = Opening {
            version: accepted.version,
            limits: server.options.limits,
            verifier: Arc::clone(&server.options.verifier),
            subjects: Arc::clone(&server.subjects),
            seed: rand::random(),
            token: Arc::clone(&accepted.token),
            claims: Arc::clone(&accepted.claims),
            resume_ignored: accepted.resume_ignored,
        };
        let acks = wish.map(|wish| Acks::new(clock::instant(), wish, &accepted.token));
        let socket = Socket::new(now(), opening);
        let socket = if acks.is_some() {
            socket.resuming()
        } else {
            socket
        };
        let commands = Commands::new(server.services.pipeline.commands.clone());
        let outbound = Outbound::new(websocket.written());
        Self {
            server,
            number: accepted.number,
            websocket,
            socket,
            outbox: Arc::default(),
            outbound,
            reading: None,
            commands,
            acks: acks.map(Box::new),
            awaiting: Awaiting::default(),
            headers: Arc::clone(&accepted.headers),
            end: None,
            sending_doubts: 0,
            drained: false,
            counted: false,
        }
    }

    async fn serve(&mut self) -> End {
        let outbox = Arc::clone(&self.outbox);
        let shutdown = self.server.shutdown.clone();
        let mut timer = std::pin::pin!(sleep_until(self.deadline()));
        // For good: all sockets wait for the same two, and would stand in line to take their names in and out with every turn.
        let mut dropping = std::pin::pin!(shutdown.dropping.cancelled());
        let mut draining = std::pin::pin!(shutdown.draining.cancelled());
        loop {
            self.fill();
            self.count_channels();
            if let Some(end) = self.end {
                return end;
            }
            let deadline = self.deadline();
            // A timer that is too early costs one turn; moving it with every frame would cost more.
            if deadline < timer.deadline() || timer.is_elapsed() {
                timer.as_mut().reset(deadline);
            }
            let room = self.outbound.room() > 0;
            let drained = self.drained;
            // Not of `self`, which the network needs meanwhile.
            let mut awaiting = std::mem::take(&mut self.awaiting);
            let event = select! {
                biased;
                // What woke the socket most likely, so that nothing else is looked at before it is taken. The others have
                // their turn when no more was posted meanwhile, or there is no room for it.
                () = outbox.wait(), if room => Event::Posted,
                () = dropping.as_mut() => Event::End(End::Drop),
                () = draining.as_mut(), if !drained => Event::Drain,
                () = timer.as_mut() => Event::Timer,
                event = poll_fn(|cx| self.poll_network(cx)) => event,
                () = outbox.wait_overflow(), if !room => Event::Posted,
                () = awaiting.wait() => Event::Replicating,
            };
            self.awaiting = awaiting;
            match event {
                Event::Flushed | Event::Posted => {}
                Event::Frame(message) => self.receive(&message),
                Event::End(end) => return end,
                Event::Timer => self.handle_timeout(),
                Event::Replicating => self.tell_replicating(),
                Event::Drain => {
                    self.drained = true;
                    self.handle(Input::Drain);
                }
            }
        }
    }

    fn handle_timeout(&mut self) {
        let now = now();
        self.socket.handle_timeout(now);
        self.take_outputs();
        self.ping_if_due(now.instant);
        self.tell_replicating();
        let stall = self.server.options.stall_timeout;
        let stalled = self.outbound.stalled_since(now.instant);
        if stalled.is_some_and(|since| since + stall <= now.instant) {
            self.end = Some(End::SLOW);
        }
    }

    /// Answers those who wait for broadcasts from the database, as far as there is an answer.
    fn tell_replicating(&mut self) {
        self.hear_of_replication();
        self.take_outputs();
    }

    /// The same, without what follows from it.
    fn hear_of_replication(&mut self) {
        while let Some((membership, flows)) = self.awaiting.answer(clock::instant()) {
            let notice = Notice::ReplicationReady(flows);
            let input = Input::Notice { membership, notice };
            self.socket.handle(now(), input);
        }
    }

    /// When something has to be done although nothing happens.
    fn deadline(&mut self) -> tokio::time::Instant {
        let now = clock::instant();
        let options = &self.server.options;
        let stall = self
            .outbound
            .stalled_since(now)
            .map(|since| since + options.stall_timeout);
        let deadline = [
            self.socket.next_timeout(),
            stall,
            self.awaiting.next_timeout(),
            self.acks.as_ref().and_then(|acks| acks.next_timeout()),
        ]
        .into_iter()
        .flatten()
        .min();
        deadline.unwrap_or(now + options.limits.idle_timeout).into()
    }

    fn receive(&mut self, message: &Message) {
        match message {
            Message::Text(text) => self.take_message(Input::Text(text)),
            Message::Binary(bytes) => self.take_message(Input::Binary(bytes)),
            Message::Ping(_) => self.handle(Input::Control),
            Message::Pong(payload) => self.take_pong(payload),
            // The answer is on its way by itself.
            Message::Close(_) => self.end = Some(End::Left),
        }
    }

    fn take_message(&mut self, input: Input<'_>) {
        let begun = now();
        let doubts = self.server.services.rooms.sending_doubts();
        if std::mem::replace(&mut self.sending_doubts, doubts) != doubts {
            self.handle_at(begun, Input::DoubtSending);
        }
        self.handle_at(begun, input);
        let took = clock::instant().saturating_duration_since(begun.instant);
        observe(&self.server.metrics.handled_in, took);
    }

    /// Positions move on by pongs and heartbeats; so do those of channels where nothing happens.
    fn ping_if_due(&mut self, now: std::time::Instant) {
        let connection = self.number;
        let Some(acks) = &mut self.acks else {
            return;
        };
        if let Some(ping) = acks.poll_ping(now) {
            self.outbound.push(websocket::Frame::Ping(ping));
            let memberships = acks.memberships();
            self.commands.push(Command::Mark {
                connection,
                memberships,
            });
        }
    }

    fn probe(&mut self, now: std::time::Instant, question: u64) {
        if let Some(acks) = &mut self.acks {
            let ping = acks.probe(now, question);
            self.outbound.push(websocket::Frame::Ping(ping));
        }
    }

    /// The answer to a ping of ours is no sign of life of the application.
    fn take_pong(&mut self, payload: &[u8]) {
        let connection = self.number;
        match &mut self.acks {
            None => self.handle(Input::Control),
            Some(acks) => {
                let Some(Pong { reached, answers }) = acks.pong(payload) else {
                    return;
                };
                self.acknowledge(Acknowledged::Received, reached);
                if let Some(question) = answers {
                    self.commands.push(Command::Answer {
                        connection,
                        question,
                    });
                }
            }
        }
    }

    fn acknowledge(&mut self, what: Acknowledged, reached: Reached) {
        let connection = self.number;
        let Reached {
            changes: positions,
            broadcasts,
        } = reached;
        self.commands.push(Command::Acknowledge {
            connection,
            what,
            positions,
        });
        if !broadcasts.is_empty() {
            self.commands.push(Command::Heard {
                connection,
                what,
                positions: broadcasts,
            });
        }
    }

    fn take_beat(&mut self) {
        let connection = self.number;
        if let Some(acks) = &mut self.acks {
            let (reached, memberships) = (acks.beat(), acks.memberships());
            self.acknowledge(Acknowledged::Processed, reached);
            self.commands.push(Command::Mark {
                connection,
                memberships,
            });
        }
    }

    /// Whoever comes back goes on where it was.
    fn park(&mut self, end: End) {
        let connection = self.number;
        let Some(acks) = self.acks.take() else {
            return;
        };
        let farewell = match end {
            _ if acks.by_heartbeat() => Farewell::Silent,
            End::Left => Farewell::Said,
            // It has not said a word for long.
            End::Close(1000 | 1001, _) | End::Gone | End::Drop => Farewell::Silent,
            End::Close(..) => Farewell::Said,
        };
        let memberships = acks.memberships();
        if !memberships.is_empty() {
            self.commands.push(Command::Park {
                connection,
                memberships,
                farewell,
            });
        }
    }

    fn handle(&mut self, input: Input<'_>) {
        self.handle_at(now(), input);
    }

    fn handle_at(&mut self, now: Now, input: Input<'_>) {
        self.socket.handle(now, input);
        self.take_outputs();
    }

    fn take_outputs(&mut self) {
        let connection = self.number;
        while let Some(output) = self.socket.poll_output() {
            match output {
                Output::Send(frame) => self.outbound.push(match frame {
                    Frame::Text(text) => websocket::Frame::Text(text.into()),
                    Frame::SharedText(text) => websocket::Frame::Text(text),
                    Frame::Binary(bytes) => websocket::Frame::Binary(bytes),
                }),
                Output::Subscribe {
                    membership,
                    claims,
                    bindings,
                    grace,
                    room,
                } => {
                    debug!(membership, topic = room.topic.as_str(), "asks for changes");
                    let acks = self.acks.as_mut();
                    let resume = acks.map(|acks| acks.join(membership, &room, &bindings));
                    self.commands.push(Command::Subscribe {
                        connection,
                        membership,
                        outbox: Arc::clone(&self.outbox),
                        claims,
                        bindings,
                        grace,
                        resume,
                    });
                }
                Output::Listen {
                    membership,
                    claims,
                    room,
                    grace,
                    replays,
                } => {
                    if let Some(acks) = &mut self.acks {
                        let resume = acks.listen(membership, &room);
                        self.commands.push(Command::Listen {
                            connection,
                            membership,
                            outbox: Arc::clone(&self.outbox),
                            claims,
                            room,
                            grace,
                            replays,
                            resume,
                        });
                    }
                }
                Output::Hear { membership } => self.commands.push(Command::Hear {
                    connection,
                    membership,
                    unix_seconds: clock::unix_seconds(),
                }),
                Output::Heard { membership, cursor } => {
                    if let Some(acks) = &mut self.acks {
                        acks.heard(membership, cursor);
                    }
                }
                Output::Forget { claims, room } => {
                    if let Some(acks) = &self.acks {
                        let resume = acks.of_room(&room);
                        self.commands.push(Command::Forget { claims, resume });
                    }
                }
                Output::Beat => self.take_beat(),
                Output::Identify { membership, claims } => {
                    self.commands.push(Command::Identify {
                        connection,
                        membership,
                        claims,
                    });
                }
                Output::Park { membership } => {
                    if self.acks.is_some() {
                        self.commands.push(Command::Park {
                            connection,
                            memberships: vec![membership],
                            farewell: Farewell::Silent,
                        });
                    }
                }
                Output::Unsubscribe { membership } => {
                    if let Some(acks) = &mut self.acks {
                        acks.leave(membership);
                    }
                    self.commands.push(Command::Unsubscribe {
                        connection,
                        membership,
                    });
                }
                Output::Room {
                    membership,
                    room,
                    request,
                } => {
                    let member = MemberId {
                        connection,
                        membership,
                    };
                    record::said(&self.server.metrics, &request);
                    let rooms = &self.server.services.rooms;
                    rooms.handle(clock::instant(), member, &self.outbox, &room, request);
                }
                Output::Ask {
                    membership,
                    ticket,
                    claims,
                    room,
                    ask: Ask::Reread { presence },
                } => self.commands.push(Command::Permit {
                    outbox: Arc::clone(&self.outbox),
                    membership,
                    ticket,
                    reader: Reader {
                        claims,
                        headers: Arc::clone(&self.headers),
                        sub_topic: room.topic.sub_topic().into(),
                        presence,
                    },
                }),
                Output::Ask {
                    membership,
                    ticket,
                    claims,
                    room,
                    ask,
                } => self.server.services.messages.ask(Request {
                    claims,
                    headers: Arc::clone(&self.headers),
                    room,
                    ask,
                    reply: Reply::Channel {
                        outbox: Arc::clone(&self.outbox),
                        membership,
                        ticket,
                    },
                }),
                Output::AwaitReplication { membership } => {
                    self.awaiting.add(
                        clock::instant(),
                        membership,
                        &self.server.services.pipeline.status,
                        self.server.options.limits.channels_max,
                    );
                    // Before the room says who is present, as protocol.md §3.3 has it, if there is nothing to wait for.
                    self.hear_of_replication();
                }
                Output::Close { code, reason } => self.end = Some(End::Close(code, reason)),
                Output::Record(tally) => record::tally(&self.server.metrics, tally),
            }
        }
    }

    /// Takes postings while there is room: changes from the log, notices as they are. What fits goes out in one flush.
    fn fill(&mut self) {
        if self.outbox.has_overflowed() {
            self.end = Some(End::SLOW);
        }
        // Many notices, one look at the clocks.
        let now = now();
        while self.end.is_none() && self.outbound.room() > 0 {
            if let Some(reading) = self.reading.take() {
                self.send_changes(now, reading);
                continue;
            }
            match self.outbox.pop(PAYLOADS_MAX) {
                None => break,
                Some(Posting::Notice { membership, notice }) => match notice {
                    Notice::Mark(cursor) => {
                        if let Some(acks) = &mut self.acks {
                            acks.reach(membership, cursor);
                        }
                    }
                    Notice::HeardUpTo(cursor) => {
                        // What waits for an answer was not said yet.
                        if let Some(acks) = &mut self.acks
                            && self.socket.has_passed_all_on(membership)
                        {
                            acks.hear_up_to(membership, cursor);
                        }
                    }
                    Notice::Probe(question) => self.probe(now.instant, question),
                    Notice::TakenOver => self.end = Some(End::TAKEN_OVER),
                    notice => {
                        self.handle_at(now, Input::Notice { membership, notice });
                        if let Some(ping) =
                            (self.acks.as_mut()).and_then(|acks| acks.poll_due(now.instant))
                        {
                            self.outbound.push(websocket::Frame::Ping(ping));
                        }
                    }
                },
                Some(Posting::Run(run)) => {
                    let log = &self.server.services.pipeline.log;
                    let payloads = log.read(run.part, run.first, run.count);
                    self.take_payloads(payloads, run.membership, run.ids, run.last);
                }
                Some(Posting::Kept(run)) => {
                    let payloads = run.kept.read(run.first, run.count);
                    self.take_payloads(payloads, run.membership, run.ids, false);
                }
            }
        }
        record::deliveries(&self.server.metrics, self.socket.take_deliveries());
    }

    fn take_payloads(
        &mut self,
        payloads: Result<Vec<Bytes>, Gone>,
        membership: u32,
        ids: Arc<str>,
        last: bool,
    ) {
        match payloads {
            Ok(payloads) => {
                self.reading = Some(Reading {
                    membership,
                    ids,
                    last,
                    payloads,
                    next: 0,
                });
            }
            Err(gone) => {
                debug!(%gone, "too slow");
                self.end = Some(End::SLOW);
            }
        }
    }

    /// Sends as many payloads as there is room for, and at least one: a frame of any size fits.
    fn send_changes(&mut self, now: Now, reading: Reading) {
        let mut room = self.outbound.room();
        let rest = reading.payloads.get(reading.next..).unwrap_or_default();
        let fitting = rest
            .iter()
            .take_while(|payload| {
                let fits = room > 0;
                room = room.saturating_sub(payload.len());
                fits
            })
            .count();
        let (fit, later) = rest.split_at_checked(fitting).unwrap_or((rest, &[]));
        let done = later.is_empty();
        let changes = Input::Changes {
            membership: reading.membership,
            ids: &reading.ids,
            payloads: fit,
            last: reading.last && done,
        };
        self.handle_at(now, changes);
        if let (Some(acks), Some(payload)) = (&mut self.acks, fit.last()) {
            acks.sent(reading.membership, payload, fit.len());
            if let Some(ping) = acks.poll_ping(now.instant) {
                self.outbound.push(websocket::Frame::Ping(ping));
            }
        }
        if !done {
            let next = reading.next.saturating_add(fitting);
            self.reading = Some(Reading { next, ..reading });
        }
    }

    /// Commands out, frames out, frames in; in this order, and each as far as it goes.
    fn poll_network(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        if self.commands.poll_send(cx).is_err() {
            // The pipeline is gone: nothing can be promised any more, and clients come back by themselves.
            return Poll::Ready(Event::End(End::Close(1012, "server is restarting")));
        }
        if !self.outbound.is_empty() {
            // Postings are waited for only while there is room.
            let had_room = self.outbound.room() > 0;
            match self.outbound.poll_flush(&mut self.websocket, cx) {
                Poll::Ready(Ok(())) if had_room && self.has_nothing_to_send() => {}
                Poll::Ready(Ok(())) => return Poll::Ready(Event::Flushed),
                Poll::Ready(Err(error)) => {
                    debug!(%error, "cannot write");
                    return Poll::Ready(Event::End(End::Gone));
                }
                Poll::Pending => {}
            }
        }
        if !self.outbound.has_room_for_replies() || self.commands.is_full() {
            return Poll::Pending;
        }
        self.websocket.poll_next(cx).map(|message| match message {
            Some(Ok(message)) => Event::Frame(message),
            Some(Err(error)) => Event::End(failed(&error)),
            None => Event::End(End::Gone),
        })
    }

    /// Whether [`Self::fill`] would find nothing.
    fn has_nothing_to_send(&self) -> bool {
        self.reading.is_none() && self.outbox.is_empty()
    }

    /// Tells the pipeline, and says goodbye.
    async fn finish(&mut self, end: End) {
        debug!(?end, "socket ends");
        self.reading = None;
        self.park(end);
        self.handle(Input::Gone);
        self.count_channels();
        if let End::Close(code, reason) = end {
            record::closed(&self.server.metrics, code);
            self.outbound.push(websocket::Frame::Close(code, reason));
        }
        // Meanwhile the peer may take its time.
        let tell = self.commands.take().send_all();
        let dropping = self.server.shutdown.dropping.clone();
        select! {
            ((), _timely) = async { join!(tell, timeout(CLOSE_TIMEOUT, self.part(end))) } => {}
            () = dropping.cancelled() => {}
        }
    }

    /// Sends what is under way and waits for the peer to leave.
    async fn part(&mut self, end: End) {
        let flushed = poll_fn(|cx| self.outbound.poll_flush(&mut self.websocket, cx)).await;
        if flushed.is_err() || end == End::Drop {
            return;
        }
        if let End::Close(1002 | 1007 | 1009, _) = end {
            let drained = poll_fn(|cx| self.websocket.poll_drain(cx));
            let _timely = timeout(LINGER, drained).await;
            return;
        }
        while let Some(Ok(_late)) = poll_fn(|cx| self.websocket.poll_next(cx)).await {}
    }

    /// Keeps the gauge of sockets with channels.
    fn count_channels(&mut self) {
        let has_channels = self.socket.channels() > 0;
        if has_channels != self.counted {
            self.counted = has_channels;
            let gauge = &self.server.metrics.connections_connected;
            let _before = if has_channels {
                gauge.inc()
            } else {
                gauge.dec()
            };
        }
    }
}

/// What an error of the WebSocket means for the peer.
fn failed(error: &websocket::Error) -> End {
    debug!(%error, "socket failed");
    match error {
        websocket::Error::Connection(_) => End::Gone,
        websocket::Error::Decode(DecodeError::TooLarge) => End::Close(1009, "frame too large"),
        websocket::Error::Decode(DecodeError::NotUtf8) => End::Close(1007, "text is not UTF-8"),
        websocket::Error::Decode(DecodeError::Protocol) => End::Close(1002, "protocol error"),
    }
}
