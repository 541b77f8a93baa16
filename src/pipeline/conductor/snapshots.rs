//! Who waits for a snapshot, who gets the next one, and what becomes of it.
//!
//! A subscriber with a snapshot is in force from a horizon on, as all are, but open to nothing yet: what is released before
//! its snapshot is requested was shown by an earlier one and will be in it. From the request on, what is released waits in
//! a lane of the subscriber's own. Then the lane drops what the snapshot sees, by transaction, and goes on with the rest;
//! whatever order the transactions have in the WAL. The lane is its own because versions that a shared lane has merged
//! would be merged with such as the snapshot holds. Once it has caught up, the subscriber moves to the lane that it shares.

use super::{Conductor, Output};
use crate::catalog::Catalog;
use crate::change::Lsn;
use crate::log::Allowance;
use crate::pipeline::lane::LaneKey;
use crate::pipeline::snapshot::{
    Awaited, AwaitedState, Interest, SnapshotBinding, SnapshotCounts, SnapshotOutcome,
    SnapshotRequest, Taken,
};
use crate::pipeline::subscriber::{Phase, Subscriber, SubscriberId};
use crate::policy::Identity;
use crate::realtime::{Notice, SnapshotLimit, SnapshotRefusal};
use crate::routing::Binding;
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long an identity whose snapshot took too long stands behind the others.
const SUSPICION: Duration = Duration::from_secs(60);
/// Identities under suspicion; beyond, all are forgiven.
const SUSPECTS_MAX: usize = 10_000;
/// Turns that are kept however few subscribers there are.
const TURNS_MIN: usize = 1024;
/// Pause before looking again whether there is room for rows.
const ROOM_PAUSE: Duration = Duration::from_millis(100);
/// How often a subscriber's query may name what is no longer there; then it is a policy that names it.
const OUTDATED_MAX: u32 = 3;
/// Subscribers that are looked at after a release whether they can share a lane again.
const REJOIN_AT_ONCE: usize = 256;

/// Whose turn it is. Identities take turns, and those that took too long lately wait until nobody else does.
#[derive(Debug)]
pub(super) struct Snapshots {
    allowance: Allowance,
    bytes_max: usize,
    sound: Turns,
    suspected: Turns,
    suspects: HashMap<Identity, Instant>,
    /// Requests under way, and whether they are of suspects.
    running: HashMap<u64, (SubscriberId, bool)>,
    /// Connections that wait for a request.
    idle: usize,
    /// Connections ever seen at once.
    connections: usize,
    /// There is no room for rows before this.
    room_at: Option<Instant>,
    /// Subscribers in a lane of their own, for which nothing special remains but that.
    apart: BTreeSet<SubscriberId>,
    /// The last of them that was looked at.
    looked_at: Option<SubscriberId>,
    counts: SnapshotCounts,
}

/// Subscribers in turn by identity.
#[derive(Debug, Default)]
struct Turns {
    order: VecDeque<Identity>,
    waiting: HashMap<Identity, VecDeque<SubscriberId>>,
    /// Entries, of which some may speak of subscribers that have gone or had their turn.
    entries: usize,
}

impl Turns {
    fn push(&mut self, identity: &Identity, id: SubscriberId) {
        let waiting = self.waiting.entry(identity.clone()).or_default();
        if waiting.is_empty() {
            self.order.push_back(identity.clone());
        }
        waiting.push_back(id);
        self.entries = self.entries.saturating_add(1);
    }

    fn pop(&mut self) -> Option<SubscriberId> {
        let identity = self.order.pop_front()?;
        let waiting = self.waiting.get_mut(&identity)?;
        let id = waiting.pop_front();
        self.entries = self.entries.saturating_sub(1);
        if waiting.is_empty() {
            self.waiting.remove(&identity);
        } else {
            self.order.push_back(identity);
        }
        id
    }

    fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Drops the entries that are not wanted, and all but the first of each subscriber.
    fn retain(&mut self, wanted: impl Fn(SubscriberId) -> bool) {
        let mut seen = HashSet::new();
        self.waiting.retain(|_, waiting| {
            waiting.retain(|id| wanted(*id) && seen.insert(*id));
            !waiting.is_empty()
        });
        let waiting = &self.waiting;
        self.order.retain(|identity| waiting.contains_key(identity));
        self.entries = seen.len();
    }
}

impl Snapshots {
    pub(super) fn new(allowance: Allowance, bytes_max: usize) -> Self {
        Self {
            allowance,
            bytes_max,
            sound: Turns::default(),
            suspected: Turns::default(),
            suspects: HashMap::new(),
            running: HashMap::new(),
            idle: 0,
            connections: 0,
            room_at: None,
            apart: BTreeSet::new(),
            looked_at: None,
            counts: SnapshotCounts::default(),
        }
    }

    fn push(&mut self, now: Instant, identity: &Identity, id: SubscriberId) {
        let suspected = self
            .suspects
            .get(identity)
            .is_some_and(|until| *until > now);
        if suspected {
            self.suspected.push(identity, id);
        } else {
            self.sound.push(identity, id);
        }
    }

    /// The next in turn, and whether it is a suspect. Suspects leave a connection to others, if there are several.
    fn pop(&mut self) -> Option<(SubscriberId, bool)> {
        if let Some(id) = self.sound.pop() {
            return Some((id, false));
        }
        let suspects = self
            .running
            .values()
            .filter(|(_, suspect)| *suspect)
            .count();
        let may = suspects < self.connections.saturating_sub(1).max(1);
        may.then(|| self.suspected.pop())
            .flatten()
            .map(|id| (id, true))
    }

    fn suspect(&mut self, now: Instant, identity: Identity) {
        if self.suspects.len() >= SUSPECTS_MAX {
            self.suspects.retain(|_, until| *until > now);
        }
        if self.suspects.len() >= SUSPECTS_MAX {
            self.suspects.clear();
        }
        if let Some(until) = now.checked_add(SUSPICION) {
            self.suspects.insert(identity, until);
        }
    }

    /// When to look again for room.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.room_at.filter(|_| self.idle > 0)
    }

    pub(super) fn counts(&self) -> SnapshotCounts {
        self.counts
    }

    /// Bytes of rows that wait for their sockets, or are set aside for such.
    pub(super) fn kept_bytes(&self) -> usize {
        self.allowance.taken()
    }
}

impl Conductor {
    /// The subscriber is to have a snapshot, or another one than was begun.
    pub(super) fn want_snapshot(&mut self, now: Instant, id: SubscriberId) {
        let Some(subscriber) = self.subscribers.get_mut(&id) else {
            return;
        };
        let announced = subscriber.grace.is_some();
        match &mut subscriber.snapshot {
            None => {
                subscriber.snapshot = Some(Awaited {
                    announced,
                    outdated: 0,
                    state: AwaitedState::Wanted,
                });
                // The token that may follow is sent only after the reply.
                if announced {
                    subscriber.tell(Notice::Subscribed);
                }
            }
            Some(awaited) => {
                if awaited.is_running() {
                    let repeated = &mut self.snapshots.counts.repeated;
                    *repeated = repeated.saturating_add(1);
                }
                awaited.state = AwaitedState::Wanted;
            }
        }
        if let Some(lane) = subscriber.lane.and_then(|lane| self.lanes.get_mut(&lane)) {
            lane.clear();
            lane.is_paused = false;
        }
        if subscriber.grace.is_none() {
            let identity = Identity::new(Arc::clone(&subscriber.claims));
            self.snapshots.push(now, &identity, id);
            self.forget_turns();
        }
    }

    /// Keeps turns of those who have left from piling up while no connection is to be had.
    fn forget_turns(&mut self) {
        let turns_max = (self.subscribers.len().saturating_mul(2)).saturating_add(TURNS_MIN);
        let subscribers = &self.subscribers;
        let waits = |id| {
            let subscriber: Option<&Subscriber> = subscribers.get(&id);
            subscriber.is_some_and(|subscriber| subscriber.snapshot.is_some())
        };
        for turns in [&mut self.snapshots.sound, &mut self.snapshots.suspected] {
            if turns.entries > turns_max {
                turns.retain(waits);
            }
        }
    }

    /// Turns that are waited for.
    #[cfg(test)]
    pub(in crate::pipeline) fn snapshot_turns(&self) -> usize {
        let Snapshots {
            sound, suspected, ..
        } = &self.snapshots;
        sound.entries.saturating_add(suspected.entries)
    }

    /// No token came: the snapshot is for the identity at hand.
    pub(super) fn end_grace_of_snapshot(&mut self, now: Instant, id: SubscriberId) {
        let waits = self.subscribers.get(&id).is_some_and(|subscriber| {
            let awaited = subscriber.snapshot.as_ref();
            awaited.is_some_and(|awaited| !awaited.is_running())
        });
        if waits {
            self.want_snapshot(now, id);
        }
    }

    /// A connection can take a snapshot.
    pub(in crate::pipeline) fn handle_snapshot_idle(&mut self, now: Instant) {
        let snapshots = &mut self.snapshots;
        snapshots.idle = snapshots.idle.saturating_add(1);
        let all = snapshots.idle.saturating_add(snapshots.running.len());
        snapshots.connections = snapshots.connections.max(all);
        self.advance(now);
    }

    /// Requests as many snapshots as there are connections. Only between releases: what is released before a request is
    /// taken for visible in it.
    pub(super) fn request_snapshots(&mut self, now: Instant) {
        // Requests name columns of the catalog at hand.
        if self.catalog_loading || !self.resolving_again.is_empty() || !self.has_catalog {
            return;
        }
        if self.snapshots.room_at.is_some_and(|time| now < time) {
            return;
        }
        self.snapshots.room_at = None;
        while self.snapshots.idle > 0
            && !(self.snapshots.sound.is_empty() && self.snapshots.suspected.is_empty())
        {
            let Some(epoch) = self.epoch else { break };
            let Some(share) = self.snapshots.allowance.take(self.snapshots.bytes_max) else {
                self.snapshots.room_at = now.checked_add(ROOM_PAUSE);
                break;
            };
            let Some((id, suspect)) = self.snapshots.pop() else {
                break;
            };
            let position = (epoch, before(self.routed()));
            let ticket = self.number();
            let Some(subscriber) = self.subscribers.get_mut(&id) else {
                continue;
            };
            // New claims are still being looked at, and then it is its turn again.
            if subscriber.next_claims.is_some() || subscriber.phase != Phase::Live {
                continue;
            }
            let Some(awaited) = subscriber
                .snapshot
                .as_mut()
                .filter(|awaited| !awaited.is_running())
            else {
                continue;
            };
            let (interest, interested) = Interest::new();
            awaited.state = AwaitedState::Running {
                ticket,
                _interest: interested,
            };
            if let Some(lane) = subscriber.lane.and_then(|lane| self.lanes.get_mut(&lane)) {
                lane.is_paused = true;
            }
            let request = SnapshotRequest {
                ticket,
                identity: Identity::new(Arc::clone(&subscriber.claims)),
                catalog: Arc::clone(&self.catalog),
                bindings: bindings(subscriber, &self.catalog),
                position,
                share,
                interest,
            };
            self.snapshots.idle = self.snapshots.idle.saturating_sub(1);
            self.snapshots.running.insert(ticket, (id, suspect));
            self.outputs
                .push_back(Output::TakeSnapshot(Box::new(request)));
        }
    }

    /// A snapshot was taken, or not.
    pub(in crate::pipeline) fn handle_snapshot(
        &mut self,
        now: Instant,
        ticket: u64,
        identity: Identity,
        outcome: SnapshotOutcome,
    ) {
        let running = self.snapshots.running.remove(&ticket);
        let timed_out = match &outcome {
            SnapshotOutcome::Refused(SnapshotRefusal::Policy(state)) => **state == *"57014",
            SnapshotOutcome::Refused(SnapshotRefusal::TooLarge(limit)) => {
                matches!(limit, SnapshotLimit::Time(_))
            }
            _ => false,
        };
        if timed_out {
            self.snapshots.suspect(now, identity);
        }
        let waiting = running.map(|(id, _)| id).filter(|id| {
            let subscriber = self.subscribers.get(id);
            let awaited = subscriber.and_then(|subscriber| subscriber.snapshot.as_ref());
            awaited.is_some_and(|awaited| awaited.is(ticket))
        });
        if let Some(id) = waiting {
            match outcome {
                SnapshotOutcome::Taken(taken) => self.hand_over(now, id, &taken),
                SnapshotOutcome::Refused(why) => self.refuse_snapshot(id, why),
                SnapshotOutcome::Outdated(state) => self.outdated(now, id, state),
                SnapshotOutcome::Again => self.want_snapshot(now, id),
            }
        }
        self.advance(now);
    }

    /// The rows first, then what they do not hold.
    fn hand_over(&mut self, now: Instant, id: SubscriberId, taken: &Taken) {
        let Some(subscriber) = self.subscribers.get_mut(&id) else {
            return;
        };
        let announced = subscriber
            .snapshot
            .take()
            .is_some_and(|awaited| awaited.announced);
        if !announced {
            subscriber.tell(Notice::Subscribed);
        }
        for (binding, first, count) in &taken.runs {
            subscriber.post_kept(&taken.kept, *binding, *first, *count);
        }
        subscriber.tell(Notice::SnapshotComplete);
        let joined = (taken.snapshot.clone(), taken.insert_lsn);
        if let Some((_, until)) = subscriber.joined.replace(joined) {
            self.catching_up.remove(&(until, id));
        }
        self.catching_up.insert((taken.insert_lsn, id));
        self.snapshots.apart.insert(id);
        let counts = &mut self.snapshots.counts;
        counts.taken = counts.taken.saturating_add(1);
        let rows = u64::try_from(taken.kept.len()).unwrap_or(u64::MAX);
        counts.rows = counts.rows.saturating_add(rows);
        if let Some(lane_id) = subscriber.lane
            && let Some(lane) = self.lanes.get_mut(&lane_id)
        {
            lane.is_paused = false;
            lane.keep_only(&self.keys, |item| {
                !taken.snapshot.sees(item.part.commit.xid)
            });
            self.check_lane(now, lane_id);
        }
    }

    pub(super) fn refuse_snapshot(&mut self, id: SubscriberId, why: SnapshotRefusal) {
        let counts = &mut self.snapshots.counts;
        let count = match &why {
            SnapshotRefusal::TooLarge(_) => &mut counts.too_large,
            SnapshotRefusal::Policy(_) | SnapshotRefusal::Malformed(_) => &mut counts.failed,
        };
        *count = count.saturating_add(1);
        if let Some(subscriber) = self.subscribers.get_mut(&id) {
            subscriber.tell(Notice::SnapshotRefused(why));
        }
        self.remove(id);
    }

    fn outdated(&mut self, now: Instant, id: SubscriberId, state: Option<Box<str>>) {
        let Some(awaited) = self
            .subscribers
            .get_mut(&id)
            .and_then(|subscriber| subscriber.snapshot.as_mut())
        else {
            return;
        };
        match state {
            // When the rows were about to be read the catalog was that of the database. If it is not any more, the next
            // attempt will say so.
            Some(state) => {
                awaited.outdated = awaited.outdated.saturating_add(1);
                if awaited.outdated > OUTDATED_MAX {
                    return self.refuse_snapshot(id, SnapshotRefusal::Policy(state));
                }
            }
            None => self.load_catalog(),
        }
        self.want_snapshot(now, id);
    }

    /// Moves subscribers that have caught up to the lanes that they can share.
    pub(super) fn rejoin_lanes(&mut self, now: Instant) {
        let mut ready = Vec::new();
        let mut gone = Vec::new();
        let from = (self.snapshots.looked_at).map_or(Bound::Unbounded, Bound::Excluded);
        let some = self.snapshots.apart.range((from, Bound::Unbounded));
        let some: Vec<SubscriberId> = some.take(REJOIN_AT_ONCE).copied().collect();
        let more = some.len() == REJOIN_AT_ONCE;
        self.snapshots.looked_at = some.last().copied().filter(|_| more);
        for id in &some {
            match self.subscribers.get(id) {
                Some(subscriber) if subscriber.has_own_lane => {
                    if self.can_share(subscriber) {
                        ready.push(*id);
                    }
                }
                _ => gone.push(*id),
            }
        }
        for id in gone {
            self.snapshots.apart.remove(&id);
        }
        for id in ready {
            self.snapshots.apart.remove(&id);
            if let Some(subscriber) = self.subscribers.get_mut(&id) {
                subscriber.has_own_lane = false;
            }
            let _nothing = self.leave_lane(id);
            self.enter_lane(now, id);
        }
    }

    /// Whether nothing of what is on its way to the subscriber, in its own lane or in the one to share, depends on what came
    /// before.
    fn can_share(&self, subscriber: &Subscriber) -> bool {
        let own = subscriber.lane.and_then(|lane| self.lanes.get(&lane));
        let shared = self
            .lane_ids
            .get(&lane_key(subscriber, false))
            .and_then(|lane| self.lanes.get(lane));
        subscriber.phase == Phase::Live
            && subscriber.snapshot.is_none()
            && subscriber.joined.is_none()
            && subscriber.next_claims.is_none()
            && subscriber.is_between_transactions()
            && own.is_some_and(|lane| lane.is_quiet() && lane.troubles.is_empty())
            && shared.is_none_or(|lane| lane.is_quiet())
    }
}

/// The lane that a subscriber belongs to, by its claims and bindings.
pub(super) fn lane_key(subscriber: &Subscriber, alone: bool) -> LaneKey {
    let uncertain = subscriber.is_uncertain().then(|| {
        let bindings = subscriber.bindings.iter().map(Binding::describe);
        bindings.collect::<String>().into()
    });
    LaneKey {
        identity: Identity::new(Arc::clone(&subscriber.claims)),
        uncertain,
        alone: alone.then_some(subscriber.id),
    }
}

/// A position from which `since` would miss nothing that starts to commit at `routed` or later.
fn before(routed: Lsn) -> Lsn {
    Lsn::new(routed.bytes().saturating_sub(1))
}

/// The bindings that ask for a snapshot; equal ones share an id and count once.
fn bindings(subscriber: &Subscriber, catalog: &Catalog) -> Vec<SnapshotBinding> {
    let mut seen = HashSet::new();
    let mut found = Vec::new();
    for subscription in &subscriber.subscriptions {
        let Some(wish) = &subscription.snapshot else {
            continue;
        };
        if !seen.insert(subscription.id) {
            continue;
        }
        let mut tables: Vec<_> = (subscription.tables.iter())
            .map(|(oid, filter)| (*oid, filter.clone()))
            .collect();
        let name = |oid: &u32| {
            let table = catalog.tables.get(oid);
            table.map(|table| (&table.schema, &table.name))
        };
        tables.sort_by(|(left, _), (right, _)| name(left).cmp(&name(right)));
        found.push(SnapshotBinding {
            id: subscription.id,
            wish: wish.clone(),
            tables,
        });
    }
    found
}
