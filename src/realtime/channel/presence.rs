//! Presence of a channel: what it tracks, and what it is told (protocol.md §6). Who is present is kept in the room.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

use super::broadcasts::Waiting;
use super::permission::Cause;
use super::{Channel, Fate};
use crate::realtime::code::ErrorCode;
use crate::realtime::frame::{self, Payload, Ref, Status};
use crate::realtime::notice::{PresenceDiff, PresenceState};
use crate::realtime::output::{Output, RoomRequest};
use crate::realtime::push::{self, Call};
use crate::realtime::rate::Counted;
use crate::realtime::request::Extension;
use crate::realtime::wire::Wire;

/// Calls are counted in windows of this length (protocol.md §6.4).
const CALLS_WINDOW: Duration = Duration::from_secs(30);

/// What a channel has to do with presence.
#[derive(Debug)]
pub(super) struct Presence {
    /// The join asked for it, or a call did.
    enabled: bool,
    /// As whom; made when it is first needed.
    key: Option<Arc<str>>,
    calls: u32,
    /// When they are counted anew.
    calls_end: Option<Instant>,
}

impl Presence {
    pub(super) fn new(enabled: bool, key: Option<Box<str>>) -> Self {
        Self {
            enabled,
            key: key.map(Arc::from),
            calls: 0,
            calls_end: None,
        }
    }

    pub(super) fn is_enabled(&self) -> bool {
        self.enabled
    }

    fn admit_call(&mut self, now: Instant, max: u32) -> bool {
        if self.calls_end.is_none_or(|end| end <= now) {
            self.calls_end = Some(now + CALLS_WINDOW);
            self.calls = 0;
        }
        self.calls = self.calls.saturating_add(1);
        max == 0 || self.calls <= max
    }

    fn key(&mut self, seed: &[u8; 16], membership: u32) -> Arc<str> {
        let key = self.key.get_or_insert_with(|| uuid(seed, membership));
        Arc::clone(key)
    }
}

/// A random UUID for a membership: the seed is random and no other socket's.
fn uuid(seed: &[u8; 16], membership: u32) -> Arc<str> {
    uuid_of(
        Sha256::new()
            .chain_update(seed)
            .chain_update(membership.to_be_bytes()),
    )
    .into()
}

/// The same for a message of a membership, by the question that stores it.
pub(super) fn message_uuid(seed: &[u8; 16], membership: u32, ticket: u32) -> Box<str> {
    uuid_of(
        Sha256::new()
            .chain_update(seed)
            .chain_update(membership.to_be_bytes())
            .chain_update(ticket.to_be_bytes()),
    )
    .into()
}

fn uuid_of(random: Sha256) -> String {
    let digest = random.finalize();
    let mut text = String::with_capacity(36);
    for (place, byte) in digest.iter().take(16).enumerate() {
        if matches!(place, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        // RFC 9562: version 4, variant 10.
        let byte = match place {
            6 => (byte & 0x0f) | 0x40,
            8 => (byte & 0x3f) | 0x80,
            _ => *byte,
        };
        // Writing into a String cannot fail.
        let _written = write!(text, "{byte:02x}");
    }
    text
}

impl Channel {
    /// A `presence` push, which is always answered.
    pub(in crate::realtime) fn presence(
        &mut self,
        wire: &mut Wire<'_>,
        reference: &Ref,
        payload: &Payload<'_>,
    ) -> Fate {
        if !self.is_joined() {
            return Fate::Lives;
        }
        if self.expire_late(wire) == Fate::Ended {
            return Fate::Ended;
        }
        let calls_max = wire.limits.presence_calls_max;
        if !self.presence.admit_call(wire.now.instant, calls_max) {
            return self.close_with(wire, ErrorCode::ClientPresenceRateLimitReached);
        }
        let subject = self.subject.as_deref();
        if !wire.admit(Counted::PresenceEvents, &mut self.rates, subject) {
            return self.close_with(wire, ErrorCode::PresenceRateLimitReached);
        }
        match push::call(payload) {
            Call::Nothing => self.answer_call(wire, reference, Status::Ok, "{}"),
            Call::Unknown => self.uncalled(wire, reference),
            Call::NoMap => {
                let response = r#"{"reason":"Presence track payload must be a map"}"#;
                self.answer_call(wire, reference, Status::Error, response);
            }
            Call::Track(payload) if payload.get().len() > wire.limits.payload_bytes_max => {
                return self.close_with(wire, ErrorCode::InvalidPresencePayload);
            }
            call @ (Call::Track(_) | Call::Untrack) => self.permit_call(wire, reference, call),
        }
        Fate::Lives
    }

    /// Does it, or lets it wait for its permission. Going needs none, and yet does not overtake coming.
    fn permit_call(&mut self, wire: &mut Wire<'_>, reference: &Ref, call: Call) {
        let untrack = matches!(call, Call::Untrack);
        let may_send = match &self.private {
            None => Some(true),
            Some(private) => {
                let goes = untrack && !private.sending.waits(Extension::Presence);
                goes.then_some(true)
                    .or_else(|| private.sending.may(Extension::Presence))
            }
        };
        match may_send {
            Some(true) => self.call(wire, reference, call),
            Some(false) => self.uncalled(wire, reference),
            None => {
                let reference = reference.clone();
                if let Err(waiting) = self.wait(wire, Waiting::Call { reference, call })
                    && let Waiting::Call { reference, .. } = *waiting
                {
                    self.uncalled(wire, &reference);
                }
            }
        }
    }

    /// Does what a call wants, which is permitted.
    pub(super) fn call(&mut self, wire: &mut Wire<'_>, reference: &Ref, call: Call) {
        self.answer_call(wire, reference, Status::Ok, "{}");
        let Call::Track(payload) = call else {
            self.in_room(wire, RoomRequest::Untrack);
            return;
        };
        let key = self.presence.key(wire.seed, self.membership);
        self.in_room(wire, RoomRequest::Track { key, payload });
        if !self.presence.enabled {
            self.presence.enabled = true;
            if self.private.is_some() {
                self.ask_read(wire, Cause::Recheck);
            } else {
                self.in_room(wire, RoomRequest::State);
            }
        }
    }

    /// A call that is not served.
    pub(super) fn uncalled(&self, wire: &mut Wire<'_>, reference: &Ref) {
        self.answer_call(wire, reference, Status::Error, "{}");
    }

    fn answer_call(&self, wire: &mut Wire<'_>, reference: &Ref, status: Status, response: &str) {
        wire.reply((&self.join_ref, reference), &self.quoted, status, response);
    }

    /// Who is present has changed.
    pub(super) fn deliver_diff(&mut self, wire: &mut Wire<'_>, diff: &Arc<PresenceDiff>) -> Fate {
        if !self.hears_presence() {
            return Fate::Lives;
        }
        if self.expire_late(wire) == Fate::Ended {
            return Fate::Ended;
        }
        let subject = self.subject.as_deref();
        if !wire.admit(Counted::PresenceEvents, &mut self.rates, subject) {
            return self.close_with(wire, ErrorCode::PresenceRateLimitReached);
        }
        let events = &mut wire.deliveries.presence_events;
        *events = events.saturating_add(u64::from(diff.events()));
        wire.push(Output::Send(diff.frame(wire.version)));
        Fate::Lives
    }

    /// Who is present.
    pub(super) fn deliver_state(&mut self, wire: &mut Wire<'_>, state: &PresenceState) -> Fate {
        if !self.hears_presence() {
            return Fate::Lives;
        }
        if self.expire_late(wire) == Fate::Ended {
            return Fate::Ended;
        }
        let text = frame::presence_state(wire.version, &self.join_ref, &self.quoted, &state.0);
        wire.send(text);
        Fate::Lives
    }

    fn hears_presence(&self) -> bool {
        self.is_joined() && self.receives.is_some_and(|receives| receives.presence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_is_one_and_differs_by_membership() {
        let (one, other) = (uuid(&[7; 16], 1), uuid(&[7; 16], 2));
        assert_ne!(one, other);
        assert_ne!(one, uuid(&[8; 16], 1));
        assert_eq!(one, uuid(&[7; 16], 1));
        let groups: Vec<usize> = one.split('-').map(str::len).collect();
        assert_eq!(groups, [8, 4, 4, 4, 12]);
        assert_ne!(message_uuid(&[7; 16], 1, 1), message_uuid(&[7; 16], 1, 2));
        assert_ne!(message_uuid(&[7; 16], 1, 1), message_uuid(&[7; 16], 2, 1));
        assert_eq!(one.as_bytes()[14], b'4');
        assert!(b"89ab".contains(&one.as_bytes()[19]));
    }
}
