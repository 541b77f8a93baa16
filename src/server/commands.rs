//! The commands of one socket on their way to the pipeline.
//!
//! While the pipeline has no room they wait here, so that the socket goes on answering. When this is full the socket
//! takes no further frames: each brings a few commands at most.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::sync::mpsc::error::SendError;
use tokio::sync::mpsc::{OwnedPermit, Sender};

use crate::pipeline::Command;

/// Commands that may wait before inbound frames do: more than leaving every channel takes.
const COMMANDS_MAX: usize = 256;

type Reserve = Pin<Box<dyn Future<Output = Result<OwnedPermit<Command>, SendError<()>>> + Send>>;

/// Commands in order, none of them lost.
pub(super) struct Commands {
    sender: Sender<Command>,
    waiting: VecDeque<Command>,
    /// The place in the pipeline's queue for the first of them.
    reserve: Option<Reserve>,
}

impl Commands {
    pub(super) fn new(sender: Sender<Command>) -> Self {
        Self {
            sender,
            waiting: VecDeque::new(),
            reserve: None,
        }
    }

    pub(super) fn push(&mut self, command: Command) {
        self.waiting.push_back(command);
    }

    pub(super) fn is_full(&self) -> bool {
        self.waiting.len() >= COMMANDS_MAX
    }

    /// Hands over what the pipeline has room for; keeps the place in its queue for the rest.
    ///
    /// # Errors
    /// The pipeline is gone.
    pub(super) fn poll_send(&mut self, cx: &mut Context<'_>) -> Result<(), SendError<()>> {
        while !self.waiting.is_empty() {
            let sender = &self.sender;
            let reserve = self
                .reserve
                .get_or_insert_with(|| Box::pin(sender.clone().reserve_owned()));
            let Poll::Ready(permit) = reserve.as_mut().poll(cx) else {
                return Ok(());
            };
            self.reserve = None;
            let permit = permit?;
            if let Some(command) = self.waiting.pop_front() {
                let _sender = permit.send(command);
            }
        }
        Ok(())
    }

    /// Everything that waits, leaving nothing.
    pub(super) fn take(&mut self) -> Self {
        self.reserve = None;
        Self {
            sender: self.sender.clone(),
            waiting: std::mem::take(&mut self.waiting),
            reserve: None,
        }
    }

    /// Hands over all of them, or as many as a pipeline takes that is leaving.
    ///
    /// Not cancel safe: what was not handed over is lost.
    pub(super) async fn send_all(self) {
        for command in self.waiting {
            if self.sender.send(command).await.is_err() {
                return;
            }
        }
    }
}
