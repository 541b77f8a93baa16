//! What a private channel may send (protocol.md §5.3, §6.4): asked when it first sends, kept until the token or what decides
//! it changes, and asked again now and then.
//!
//! What is pushed after a doubt is settled by the answer to a question that was put after it, and by no other. What was
//! pushed before it need not wait for that, so that doubts in a row keep nobody from speaking.

use std::collections::VecDeque;

use super::broadcasts::{WAITING_BYTES_MAX, WAITING_MAX, Waiting};
use super::{Channel, Fate};
use crate::realtime::code::AckError;
use crate::realtime::request::{Answer, Ask, AskError, Extension};
use crate::realtime::wire::Wire;

/// Whether something may be sent.
#[derive(Debug, Default)]
struct Write {
    known: Option<bool>,
    /// The doubts before the question to which that is the answer.
    as_of: u64,
    /// The question that is open.
    asked: Option<Asked>,
    /// What decides it may have changed while the question was open.
    ask_again: bool,
}

/// A question about sending that is open.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    ticket: u32,
    extension: Extension,
    /// The doubts before it.
    as_of: u64,
}

/// What a private channel may send, and what waits to know.
#[derive(Debug, Default)]
pub(super) struct Sending {
    broadcast: Write,
    presence: Write,
    /// How often it was called into doubt.
    doubts: u64,
    /// Broadcasts and presence calls that wait for their permission, with the doubts before them.
    waiting: VecDeque<(u64, Waiting)>,
    waiting_bytes: usize,
}

impl Sending {
    fn write(&mut self, extension: Extension) -> &mut Write {
        match extension {
            Extension::Broadcast => &mut self.broadcast,
            Extension::Presence => &mut self.presence,
        }
    }

    /// Whether this may be sent, if that is known and nothing waits that was sent before.
    pub(super) fn may(&self, extension: Extension) -> Option<bool> {
        let write = match extension {
            Extension::Broadcast => &self.broadcast,
            Extension::Presence => &self.presence,
        };
        let is_certain = write.as_of == self.doubts && !self.waits(extension);
        write.known.filter(|_| is_certain)
    }

    /// Whether something waits for this permission.
    pub(super) fn waits(&self, extension: Extension) -> bool {
        let mut waiting = self.waiting.iter();
        waiting.any(|(_, waiting)| waiting.extension() == extension)
    }

    /// Lets a push wait, behind those that came before. Given back if too much waits.
    fn wait(&mut self, waiting: Waiting) -> Result<(), Box<Waiting>> {
        let bytes = self.waiting_bytes.saturating_add(waiting.size());
        let full = self.waiting.len() >= WAITING_MAX || bytes > WAITING_BYTES_MAX;
        if full && !self.waiting.is_empty() {
            return Err(Box::new(waiting));
        }
        self.waiting_bytes = bytes;
        self.waiting.push_back((self.doubts, waiting));
        Ok(())
    }

    /// Takes what the answer to this question settles.
    fn take_settled(&mut self, asked: Asked) -> Vec<Waiting> {
        let (mut settled, mut rest) = (Vec::new(), VecDeque::new());
        for (doubts, waiting) in std::mem::take(&mut self.waiting) {
            if waiting.extension() == asked.extension && doubts <= asked.as_of {
                settled.push(waiting);
            } else {
                rest.push_back((doubts, waiting));
            }
        }
        self.waiting_bytes = rest.iter().map(|(_, waiting)| waiting.size()).sum();
        self.waiting = rest;
        settled
    }

    /// Nothing is known any more. Returns what something waits for.
    pub(super) fn forget(&mut self) -> Vec<Extension> {
        let extensions = [Extension::Broadcast, Extension::Presence];
        for extension in extensions {
            *self.write(extension) = Write::default();
        }
        let waits = extensions.into_iter();
        waits.filter(|extension| self.waits(*extension)).collect()
    }

    /// What decides it may have changed: what is known counts no more.
    pub(super) fn doubt(&mut self) {
        self.doubts = self.doubts.saturating_add(1);
    }

    /// What is to be asked again, to be sure.
    pub(super) fn recheck(&mut self) -> Vec<Extension> {
        let mut allowed = Vec::new();
        for extension in [Extension::Broadcast, Extension::Presence] {
            let write = self.write(extension);
            if write.asked.is_some() {
                write.ask_again = true;
            } else if write.known == Some(true) {
                allowed.push(extension);
            } else {
                // Who was denied asks when it sends again.
                write.known = None;
            }
        }
        allowed
    }

    /// Takes the question with this ticket, if it is open.
    pub(super) fn take_asked(&mut self, ticket: u32) -> Option<Asked> {
        [&mut self.broadcast, &mut self.presence]
            .into_iter()
            .find_map(|write| write.asked.take_if(|asked| asked.ticket == ticket))
    }
}

impl Channel {
    /// Lets a push wait for its permission, behind those that came before. Given back if too much waits.
    pub(super) fn wait(
        &mut self,
        wire: &mut Wire<'_>,
        waiting: Waiting,
    ) -> Result<(), Box<Waiting>> {
        let Some(private) = &mut self.private else {
            return Err(Box::new(waiting));
        };
        let extension = waiting.extension();
        private.sending.wait(waiting)?;
        self.ask_write(wire, extension);
        Ok(())
    }

    /// Asks whether this may be sent, unless that is asked already.
    pub(super) fn ask_write(&mut self, wire: &mut Wire<'_>, extension: Extension) {
        let Some(private) = &mut self.private else {
            return;
        };
        let as_of = private.sending.doubts;
        if private.sending.write(extension).asked.is_some() {
            return;
        }
        let ticket = private.ticket();
        private.sending.write(extension).asked = Some(Asked {
            ticket,
            extension,
            as_of,
        });
        self.ask_as(wire, ticket, Ask::Write(extension));
    }

    /// Who may send may have changed: what is pushed from now on waits until that is known.
    pub(in crate::realtime) fn doubt_sending(&mut self) {
        if let Some(private) = &mut self.private {
            private.sending.doubt();
        }
    }

    pub(super) fn write_answered(
        &mut self,
        wire: &mut Wire<'_>,
        asked: Asked,
        answer: Result<Answer, AskError>,
    ) -> Fate {
        let Some(private) = &mut self.private else {
            return Fate::Lives;
        };
        let extension = asked.extension;
        let write = private.sending.write(extension);
        let is_old = std::mem::take(&mut write.ask_again);
        let verdict = match answer {
            Ok(Answer::Write(allowed)) => {
                // Who was denied asks when it sends again.
                write.known = Some(allowed).filter(|allowed| *allowed || !is_old);
                write.as_of = asked.as_of;
                Ok(allowed)
            }
            Err(error) => {
                if matches!(error, AskError::Policy(_)) {
                    write.known = None;
                } else if write.known == Some(true) {
                    private.retry_recheck(wire);
                }
                Err(error)
            }
            // An answer to another question.
            Ok(_) => Err(AskError::Unreachable),
        };
        let settled = private.sending.take_settled(asked);
        let is_allowed = private.sending.write(extension).known == Some(true);
        let asks_again = (is_old && is_allowed) || private.sending.waits(extension);
        for waiting in settled {
            match waiting {
                Waiting::Broadcast { reference, said } => match &verdict {
                    Ok(true) => self.say(wire, &reference, said),
                    Ok(false) => self.unsent(wire, &reference, AckError::Unauthorized),
                    Err(error) => self.unsent(wire, &reference, error.into()),
                },
                Waiting::Call { reference, call } => match &verdict {
                    Ok(true) => self.call(wire, &reference, call),
                    Ok(false) | Err(_) => self.uncalled(wire, &reference),
                },
            }
        }
        if asks_again {
            self.ask_write(wire, extension);
        }
        Fate::Lives
    }
}
