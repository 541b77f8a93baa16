//! The bindings of a channel: whether they are in force, and what comes of them (protocol.md §3.4, §4, §11).

use std::sync::Arc;

use bytes::Bytes;

use super::{Channel, Fate, Phase};
use crate::realtime::Notice;
use crate::realtime::code::ErrorCode;
use crate::realtime::frame::{self, End, Status};
use crate::realtime::notice::{ResyncReason, SnapshotRefusal};
use crate::realtime::output::{Output, Tally};
use crate::realtime::refusal::Refusal;
use crate::realtime::wire::Wire;

/// The extension of the system messages about changes.
pub(super) const POSTGRES: &str = "postgres_changes";

/// How far the bindings are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Subscription {
    /// There are none.
    None,
    /// Asked for and not yet answered.
    Asked,
    /// In force.
    Live,
    /// Refused. New claims ask again: a client that joins before it has its user's token is refused for `anon` first.
    Refused,
}

impl Channel {
    /// What the pipeline says besides changes.
    pub(super) fn pipeline_notice(&mut self, wire: &mut Wire<'_>, notice: Notice) -> Fate {
        if self.subscription == Subscription::None {
            // Of a subscription that has ended meanwhile.
            return Fate::Lives;
        }
        match notice {
            Notice::Subscribed => {
                self.subscription = Subscription::Live;
                self.identified = false;
                let first = self.accept(wire);
                self.system(wire, POSTGRES, Status::Ok, "Subscribed to PostgreSQL");
                if let Some(state) = self.trouble.take() {
                    self.policy_trouble(wire, &state);
                }
                if first {
                    self.follow_up(wire);
                }
                Fate::Lives
            }
            Notice::Refused(text) => self.refused(wire, text),
            Notice::PositionRefused(why) => {
                self.subscription = Subscription::None;
                self.depart(wire);
                if !self.is_joined() {
                    return self.refuse(wire, &Refusal::Position(why));
                }
                self.system(wire, POSTGRES, Status::Error, &why.to_string());
                wire.end(&self.join_ref, &self.quoted, End::Error);
                Fate::Ended
            }
            Notice::Resync(reason) => {
                self.subscription = Subscription::None;
                self.resync(wire, POSTGRES, reason)
            }
            Notice::SnapshotComplete => {
                if self.is_joined() {
                    self.system(wire, POSTGRES, Status::Ok, "Snapshot complete");
                }
                Fate::Lives
            }
            Notice::SnapshotRefused(why) => self.snapshot_refused(wire, &why),
            Notice::Unresumed(reason) => {
                self.tell_unresumed(wire, reason);
                Fate::Lives
            }
            Notice::PolicyTrouble(state) => {
                if self.is_joined() {
                    self.policy_trouble(wire, &state);
                } else {
                    self.trouble = Some(state);
                }
                Fate::Lives
            }
            Notice::Broadcast(_)
            | Notice::PresenceDiff(_)
            | Notice::PresenceState(_)
            | Notice::Answered { .. }
            | Notice::Recheck(_)
            | Notice::Undecided { .. }
            | Notice::Mark(_)
            | Notice::Listening { .. }
            | Notice::Missed(_)
            | Notice::CaughtUp
            | Notice::Unheard(_)
            | Notice::HeardUpTo(_)
            | Notice::Probe(_)
            | Notice::TakenOver
            | Notice::ReplicationReady(_) => Fate::Lives,
        }
    }

    /// Something is lost: the client is told to join again.
    pub(super) fn resync(
        &mut self,
        wire: &mut Wire<'_>,
        extension: &'static str,
        reason: ResyncReason,
    ) -> Fate {
        // What of it can go on when it joins again does.
        wire.push(Output::Park {
            membership: self.membership,
        });
        self.depart(wire);
        if !self.is_joined() {
            return self.refuse(wire, &Refusal::Initializing);
        }
        wire.push(Output::Record(Tally::Resync(reason)));
        let message = format!("Resync required: {reason}");
        self.system(wire, extension, Status::Error, &message);
        wire.end(&self.join_ref, &self.quoted, End::Error);
        Fate::Ended
    }

    /// Changes, in order. `last`: the last of them is the last of its transaction for this channel.
    pub(in crate::realtime) fn changes(
        &mut self,
        wire: &mut Wire<'_>,
        ids: &str,
        payloads: &[Bytes],
        last: bool,
    ) -> Fate {
        if !self.is_joined() || self.subscription != Subscription::Live {
            return Fate::Lives;
        }
        if self.expire_late(wire) == Fate::Ended {
            return Fate::Ended;
        }
        for (index, payload) in payloads.iter().enumerate() {
            let Ok(data) = std::str::from_utf8(payload) else {
                return self.notice(wire, Notice::Resync(ResyncReason::VerdictUnknown));
            };
            let last = last && index.saturating_add(1) == payloads.len();
            wire.send(frame::postgres_changes(
                wire.version,
                &self.quoted,
                ids,
                data,
                last,
            ));
        }
        wire.push(Output::Record(Tally::Changes(payloads.len())));
        Fate::Lives
    }

    /// Asks for them.
    pub(super) fn subscribe(&mut self, wire: &mut Wire<'_>, grace: bool) {
        self.subscription = Subscription::Asked;
        self.identified = false;
        wire.push(Output::Subscribe {
            membership: self.membership,
            claims: Arc::clone(self.credentials.claims()),
            bindings: self.bindings.clone(),
            grace,
            room: Arc::clone(&self.room),
        });
    }

    fn refused(&mut self, wire: &mut Wire<'_>, text: String) -> Fate {
        if self.identified {
            self.subscribe(wire, false);
            return Fate::Lives;
        }
        self.subscription = Subscription::Refused;
        if let Phase::Joining { wait: Some(_), .. } = self.phase {
            return self.refuse(wire, &Refusal::Configuration(text));
        }
        let first = self.accept(wire);
        self.system(wire, POSTGRES, Status::Error, &text);
        wire.count(ErrorCode::UnableToSubscribeToPostgres);
        if first {
            self.follow_up(wire);
        }
        Fate::Lives
    }

    /// A join that waits for the snapshot is refused. A channel that is joined already, because its token came later, is told
    /// and has to join again.
    fn snapshot_refused(&mut self, wire: &mut Wire<'_>, why: &SnapshotRefusal) -> Fate {
        if self.identified {
            self.subscribe(wire, false);
            return Fate::Lives;
        }
        self.subscription = Subscription::None;
        let refusal = Refusal::Snapshot(why.clone());
        if !self.is_joined() {
            return self.refuse(wire, &refusal);
        }
        self.depart(wire);
        match why {
            SnapshotRefusal::Policy(state) => self.policy_trouble(wire, state),
            SnapshotRefusal::Malformed(_) | SnapshotRefusal::TooLarge(_) => {
                self.system(wire, POSTGRES, Status::Error, &refusal.to_string());
                wire.count(refusal.code());
            }
        }
        wire.end(&self.join_ref, &self.quoted, End::Error);
        Fate::Ended
    }

    fn policy_trouble(&self, wire: &mut Wire<'_>, state: &str) {
        let message = format!("Row-level security check failed ({state})");
        self.system(wire, POSTGRES, Status::Error, &message);
        wire.count(ErrorCode::RlsPolicyError);
    }
}
