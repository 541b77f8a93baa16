//! Where questions wait for a connection.
//!
//! Being full means that the newest question is answered at once, with [`AskError::Overloaded`]; being without any
//! connection, that all are, with the reason.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::queue::{Queue, Share, Shares, Taken, Who};
use super::{Options, REQUESTS_MAX, Request};
use crate::clock;
use crate::realtime::AskError;

/// How often waiting questions are looked at.
const TICK: Duration = Duration::from_millis(250);
/// How long a question may wait for its turn. Clients give a join ten seconds.
const PATIENCE: Duration = Duration::from_secs(5);
/// Connections that may break under one question before it is given up.
pub(super) const BROKEN_MAX: u8 = 8;

#[derive(Debug)]
pub(super) struct Desk {
    state: Mutex<State>,
    /// There may be a question to take.
    work: Notify,
    /// A partition is missing.
    pub(super) repair: Notify,
}

#[derive(Debug)]
struct State {
    queue: Queue<Waiting>,
    connections: usize,
    /// Why the last attempt to connect failed.
    away: Option<AskError>,
}

/// A question that waits.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) request: Request,
    /// Connections that broke under it.
    pub(super) broken: u8,
}

impl Desk {
    pub(super) fn new(options: &Options) -> Self {
        let queue = Queue::new(Shares {
            waiting_max: REQUESTS_MAX,
            person: Share {
                waiting_max: REQUESTS_MAX / 4,
                under_way_max: options.connections.div_ceil(2).max(1),
            },
            crowd: Share {
                waiting_max: REQUESTS_MAX / 4 * 3,
                under_way_max: options.connections.saturating_sub(1).max(1),
            },
            under_way_slow_max: (options.connections / 2).max(1),
            slow: options.timeout / 2,
            memory: Duration::from_secs(60),
        });
        Self {
            state: Mutex::new(State {
                queue,
                connections: 0,
                away: None,
            }),
            work: Notify::new(),
            repair: Notify::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in questions, and answers those that have waited too long.
    pub(super) async fn admit(
        self: Arc<Self>,
        mut requests: mpsc::Receiver<Request>,
        stop: CancellationToken,
    ) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                request = requests.recv() => match request {
                    Some(request) => self.put(Waiting { request, broken: 0 }),
                    None => return,
                },
                _tick = ticks.tick() => self.expire(),
            }
        }
    }

    fn put(&self, waiting: Waiting) {
        let refused = {
            let mut state = self.state();
            match &state.away {
                Some(reason) if state.connections == 0 => Some((waiting, reason.clone())),
                _ => {
                    let who = Who::new(&waiting.request.claims);
                    let refused = state.queue.push(clock::instant(), who, waiting).err();
                    refused.map(|waiting| (waiting, AskError::Overloaded))
                }
            }
        };
        match refused {
            Some((waiting, reason)) => waiting.request.reply.send(Err(reason)),
            None => self.work.notify_one(),
        }
    }

    fn expire(&self) {
        let (late, reason) = {
            let mut state = self.state();
            let reason = if state.connections == 0 {
                AskError::Unreachable
            } else {
                AskError::Overloaded
            };
            (state.queue.expire(clock::instant(), PATIENCE), reason)
        };
        for waiting in late {
            waiting.request.reply.send(Err(reason.clone()));
        }
    }

    /// A question that may be asked now.
    pub(super) fn take(&self) -> Option<Taken<Waiting>> {
        let mut state = self.state();
        let taken = state.queue.take(clock::instant());
        if taken.is_some() && state.queue.waiting() > 0 {
            // A notification wakes one worker, even if it was given for several questions.
            self.work.notify_one();
        }
        taken
    }

    /// A question that was taken is off the connection.
    pub(super) fn done(&self, who: &Who, took: Duration) {
        let mut state = self.state();
        state.queue.done(clock::instant(), who, took);
        if state.queue.waiting() > 0 {
            self.work.notify_one();
        }
    }

    /// Its connection broke: once more, on another. A few may break at once, as when an administrator ends sessions.
    pub(super) fn put_back(&self, waiting: Waiting) {
        if waiting.broken >= BROKEN_MAX {
            waiting.request.reply.send(Err(AskError::Unreachable));
        } else {
            self.put(Waiting {
                broken: waiting.broken.saturating_add(1),
                ..waiting
            });
        }
    }

    /// Until there may be something to take.
    pub(super) async fn work(&self) {
        self.work.notified().await;
    }

    pub(super) fn connected(&self) {
        let mut state = self.state();
        state.connections = state.connections.saturating_add(1);
        state.away = None;
    }

    pub(super) fn disconnected(&self) {
        let mut state = self.state();
        state.connections = state.connections.saturating_sub(1);
    }

    /// An attempt to connect failed. Without any connection nobody waits for the next one.
    pub(super) fn away(&self, reason: &AskError) {
        let waiting = {
            let mut state = self.state();
            state.away = Some(reason.clone());
            if state.connections == 0 {
                state.queue.drain()
            } else {
                Vec::new()
            }
        };
        for waiting in waiting {
            waiting.request.reply.send(Err(reason.clone()));
        }
    }
}
