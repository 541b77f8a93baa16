//! Subscribers come, change their token, and go.

use super::{Conductor, GRACE, Resolve};
use crate::auth::Claims;
use crate::change::Oid;
use crate::log::Posting;
use crate::pipeline::Command;
use crate::pipeline::hearing::Listener;
use crate::pipeline::lane::LaneId;
use crate::pipeline::replay::Replay;
use crate::pipeline::sessions::Farewell;
use crate::pipeline::subscriber::{Phase, Subscriber, SubscriberId};
use crate::realtime::{Notice, PositionRefused, ResyncReason, SnapshotRefusal};
use crate::routing::{Binding, BindingError, RequestedBinding, Since, Subscription};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

impl Conductor {
    /// A socket asks for something.
    pub(in crate::pipeline) fn handle_command(&mut self, now: Instant, command: Command) {
        match command {
            Command::Subscribe {
                connection,
                membership,
                outbox,
                claims,
                bindings,
                grace,
                resume,
            } => {
                let id = SubscriberId {
                    connection,
                    membership,
                };
                self.remove(id);
                let requested = bindings;
                let parsed: Result<Vec<Binding>, _> =
                    requested.iter().map(Binding::parse).collect();
                let until = if grace { now.checked_add(GRACE) } else { None };
                let (bindings, refusal) = match parsed {
                    Ok(bindings) => (bindings.into(), None),
                    Err(BindingError::Snapshot(text)) => {
                        outbox.push(Posting::Notice {
                            membership,
                            notice: Notice::SnapshotRefused(SnapshotRefusal::Malformed(text)),
                        });
                        return self.advance(now);
                    }
                    Err(error) => (Arc::default(), Some(error.to_string())),
                };
                let mut subscriber =
                    Subscriber::new(id, outbox, Arc::clone(&claims), bindings, until);
                let since = since(&requested);
                // A snapshot says all that was missed.
                let wishes = subscriber
                    .bindings
                    .iter()
                    .any(|binding| binding.snapshot.is_some());
                let resume = resume.filter(|_| !wishes);
                subscriber.resume = resume;
                if let Some(text) = refusal {
                    subscriber.phase = Phase::Refused;
                    subscriber.tell(Notice::Refused(text));
                }
                match since {
                    Ok(since) => subscriber.replay = Replay::new(since, resume.is_some()),
                    Err(refused) => return subscriber.tell(Notice::PositionRefused(refused)),
                }
                let refused = subscriber.phase == Phase::Refused;
                self.subscribers.insert(id, subscriber);
                if let Some(until) = until {
                    self.grace_ends.insert((until, id), ());
                }
                if !refused {
                    self.resolve(id, claims);
                }
            }
            Command::Identify {
                connection,
                membership,
                claims,
            } => {
                let id = SubscriberId {
                    connection,
                    membership,
                };
                self.rebind_hearing(now, id, &claims);
                if self
                    .subscribers
                    .get(&id)
                    .is_some_and(|subscriber| !subscriber.bindings.is_empty())
                {
                    self.resolve(id, claims);
                }
            }
            Command::Permit {
                outbox,
                membership,
                ticket,
                reader,
            } => outbox.push(self.permit(&reader, ticket, membership)),
            Command::Acknowledge {
                connection,
                what,
                positions,
            } => self.acknowledge(connection, what, &positions),
            Command::Answer {
                connection,
                question,
            } => {
                if !self.replaying.is_empty() {
                    self.answered.insert(connection, question);
                }
                self.hearing.answer(connection, question);
            }
            Command::Listen {
                connection,
                membership,
                outbox,
                claims,
                room,
                grace,
                replays,
                resume,
            } => {
                let id = SubscriberId {
                    connection,
                    membership,
                };
                let mut listener = Listener::new(id, outbox, claims, room, resume);
                listener.replays = replays;
                self.listen(now, listener, grace);
            }
            Command::Hear {
                connection,
                membership,
                unix_seconds,
            } => {
                let id = SubscriberId {
                    connection,
                    membership,
                };
                self.hear(now, id, unix_seconds);
            }
            Command::Heard {
                connection,
                what,
                positions,
            } => self.acknowledge_heard(connection, what, &positions),
            Command::Forget { claims, resume } => self.forget_hearing(&claims, resume),
            Command::Mark {
                connection,
                memberships,
            } => {
                self.mark(connection, &memberships);
                self.mark_heard(connection, &memberships);
            }
            Command::Park {
                connection,
                memberships,
                farewell,
            } => {
                for membership in memberships {
                    let id = SubscriberId {
                        connection,
                        membership,
                    };
                    self.park(now, id, farewell);
                    self.park_hearing(now, id, farewell);
                }
            }
            Command::Unsubscribe {
                connection,
                membership,
            } => {
                let id = SubscriberId {
                    connection,
                    membership,
                };
                // A join that was refused took a session whose peer has not heard of it, and comes again for it.
                match self.subscribers.get(&id) {
                    Some(subscriber) if subscriber.is_unannounced() => {
                        self.park(now, id, Farewell::Silent);
                    }
                    _ => self.remove(id),
                }
                self.leave_hearing(now, id);
            }
        }
        self.advance(now);
    }

    /// Has the bindings checked for these claims; they take effect with the answer.
    pub(super) fn resolve(&mut self, id: SubscriberId, claims: Arc<Claims>) {
        let ticket = self.number();
        let Some(subscriber) = self.subscribers.get_mut(&id) else {
            return;
        };
        subscriber.ticket = ticket;
        self.refusals.forget(id);
        let (role, bindings) = (claims.role.clone(), Arc::clone(&subscriber.bindings));
        subscriber.next_claims = Some(claims);
        self.resolve_queue.push_back(Resolve {
            subscriber: id,
            ticket,
            role,
            bindings,
            catalog: Arc::clone(&self.catalog),
        });
    }

    /// The database has agreed to bindings, or refused them with a text for the subscriber.
    pub(in crate::pipeline) fn handle_resolved(
        &mut self,
        now: Instant,
        ticket: u64,
        result: Result<Vec<Subscription>, String>,
    ) {
        self.resolving_again.remove(&ticket);
        if let Some(id) = self.resolving.remove(&ticket)
            && self
                .subscribers
                .get(&id)
                .is_some_and(|subscriber| subscriber.ticket == ticket)
        {
            match result {
                Ok(subscriptions) => self.accept(now, id, subscriptions),
                Err(text) => self.refuse(id, ticket, text),
            }
        }
        self.advance(now);
    }

    /// The database could not be asked about bindings; they are put back.
    pub(in crate::pipeline) fn handle_unresolved(&mut self, now: Instant, resolve: Resolve) {
        self.resolving.remove(&resolve.ticket);
        self.resolve_queue.push_back(resolve);
        self.advance(now);
    }

    pub(super) fn accept(
        &mut self,
        now: Instant,
        id: SubscriberId,
        subscriptions: Vec<Subscription>,
    ) {
        let mut owed = self.leave_lane(id);
        let Some(subscriber) = self.subscribers.get_mut(&id) else {
            return;
        };
        let tables = |subscriptions: &[Subscription]| -> BTreeSet<Oid> {
            subscriptions
                .iter()
                .flat_map(|subscription| subscription.tables.keys().copied())
                .collect()
        };
        let same_tables = tables(&subscriber.subscriptions) == tables(&subscriptions);
        subscriber.subscriptions = subscriptions;
        let mut new_token = false;
        if let Some(claims) = subscriber.next_claims.take() {
            new_token = !Arc::ptr_eq(&claims, &subscriber.claims);
            subscriber.claims = claims;
        }
        if new_token {
            self.rebind_session(id);
        }
        let Some(subscriber) = self.subscribers.get_mut(&id) else {
            return;
        };
        // What was held back for a snapshot will be in the one that is taken instead.
        let awaits = subscriber.snapshot.is_some();
        if awaits {
            owed.clear();
        }
        let announced = (subscriber.snapshot.as_ref()).is_none_or(|awaited| awaited.announced);
        match subscriber.phase {
            Phase::Resolving | Phase::Refused => {
                subscriber.has_own_lane = subscriber.wants_snapshot();
                subscriber.phase = Phase::Joining;
                subscriber.joining_since = self.next_number;
                self.joining.insert(id);
            }
            Phase::Joining => {}
            Phase::Replaying | Phase::Live if (!new_token && same_tables) || !announced => {}
            // Will be told once it may be told at all.
            Phase::Replaying if subscriber.is_unannounced() => {}
            Phase::Replaying | Phase::Live => subscriber.tell(Notice::Subscribed),
        }
        self.enter_lane(now, id);
        self.pay(now, id, owed, new_token);
        if awaits {
            self.want_snapshot(now, id);
        }
    }

    pub(super) fn remove(&mut self, id: SubscriberId) {
        self.leave_lane(id);
        self.joining.remove(&id);
        self.refusals.forget(id);
        self.sessions.end(id);
        let Some(subscriber) = self.subscribers.remove(&id) else {
            return;
        };
        if let Some(grace) = subscriber.grace {
            self.grace_ends.remove(&(grace.until, id));
        }
        if let Some((_, until)) = subscriber.joined {
            self.catching_up.remove(&(until, id));
        }
    }

    pub(super) fn resync(&mut self, id: SubscriberId, reason: ResyncReason) {
        let mut is_told = true;
        if let Some(subscriber) = self.subscribers.get_mut(&id) {
            // Before its join is answered the answer is that it should try again.
            is_told = !subscriber.is_unannounced();
            subscriber.tell(Notice::Resync(reason));
        }
        self.sessions.reset(id, is_told);
        self.remove(id);
    }

    pub(super) fn resync_lane(&mut self, id: LaneId, reason: ResyncReason, table: Option<Oid>) {
        let Some(lane) = self.lanes.get(&id) else {
            return;
        };
        let concerned = |subscriber: &SubscriberId| match (table, self.subscribers.get(subscriber))
        {
            (Some(table), Some(subscriber)) => subscriber.concerns(table),
            _ => true,
        };
        let subscribers: Vec<SubscriberId> =
            lane.subscribers.iter().copied().filter(concerned).collect();
        for subscriber in subscribers {
            self.resync(subscriber, reason);
        }
    }
}

/// From where on bindings want changes, by their numbers.
fn since(bindings: &[RequestedBinding]) -> Result<Vec<(u32, Since)>, PositionRefused> {
    let mut found = Vec::new();
    for binding in bindings {
        let since = Since::of(binding).map_err(|_neither| PositionRefused::Malformed)?;
        found.extend(since.map(|since| (binding.id, since)));
    }
    Ok(found)
}
