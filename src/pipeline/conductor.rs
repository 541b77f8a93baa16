//! The pipeline's decisions: which transactions are released, who is asked what, what reaches whom.
//!
//! A state machine without I/O: the stream, commands, snapshots, catalogs and answers come in; questions, look-ups and
//! confirmations go out. Payloads go to the log and references to them into outboxes, which are memory.
//!
//! Invariants: nothing is judged before a snapshot has shown its transaction and the catalog of that very moment is the
//! one at hand; what is released is released in the order of the stream; a subscription is told that it is in force
//! only after such a snapshot, and gets exactly the transactions that the snapshot did not show.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Command;
use super::lane::{
    Asking, Item, ItemRow, Lane, LaneId, LaneKey, QUESTION_ROWS_MAX, RowState, policies_ask,
};
use super::part::Part;
use super::settle::{Desk, Settled, receives};
use super::standing::{Breaker, Pool, Timeouts};
use super::subscriber::{Grace, Phase, Subscriber, SubscriberId, must_resolve};
use super::view::{RowKeys, View};
use crate::catalog::Catalog;
use crate::change::{
    Change, ChangeKind, Commit, Epoch, Lsn, Oid, Relation, Snapshot, StreamEvent, TransactionPart,
    Xid,
};
use crate::log::Log;
use crate::policy::{Asked, Identity, Predicate, Question, Trouble};
use crate::realtime::payload::Withheld;
use crate::realtime::{Notice, ResyncReason};
use crate::routing::{Binding, Subscription};

/// Settings of the conductor.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    /// Time limits of questions.
    pub(super) timeouts: Timeouts,
    /// Connections per pool.
    pub(super) connections: HashMap<Pool, usize>,
    /// Whether a DELETE under row security is withheld altogether.
    pub(super) withhold_deletes: bool,
}

/// Rows that may wait in one lane. A sound lane makes the stream wait at half of it; another one is resynchronised.
const LANE_ROWS_MAX: usize = 20_000;
/// Bytes that may wait in one lane, likewise.
const LANE_BYTES_MAX: usize = 32 << 20;
/// Bytes of transactions that may wait for their snapshot before the stream waits.
const WAITING_BYTES_MAX: usize = 32 << 20;
/// Rows of one lane whose successor may be outstanding.
const PENDING_MAX: usize = 200_000;
/// Transactions received and not yet seen in a snapshot, of which subscriptions must hear.
const UNSEEN_MAX: usize = 4096;
/// Time of a question of a new identity while its table mostly times out.
const BREAKER_TIMEOUT: Duration = Duration::from_millis(20);
/// How long a join without a token of its own waits for one.
const GRACE: Duration = Duration::from_secs(2);
/// Resolutions under way at once.
const RESOLVING_MAX: usize = 16;
/// Pauses between snapshots while a transaction is not visible yet.
const UNSEEN_PAUSE_MIN: Duration = Duration::from_millis(1);
const UNSEEN_PAUSE_MAX: Duration = Duration::from_millis(50);
/// Pause between requests for the stream's position.
const POKE_PAUSE: Duration = Duration::from_millis(100);

/// What the shell must do.
#[derive(Debug)]
pub(super) enum Output {
    /// Take a snapshot, the WAL position and the catalog's fingerprint, in one query begun after this.
    TakeHorizon,
    /// Load the catalog.
    LoadCatalog,
    /// Check bindings against the database.
    Resolve(Resolve),
    /// Ask Postgres.
    Ask(Ask),
    /// Ask the stream for its position.
    Poke,
    /// Everything before this position of this epoch is done with.
    Confirm(Epoch, Lsn),
}

/// Bindings to be checked for a role.
#[derive(Debug)]
pub(super) struct Resolve {
    pub(super) subscriber: SubscriberId,
    pub(super) ticket: u64,
    pub(super) role: Box<str>,
    pub(super) bindings: Arc<[Binding]>,
    pub(super) catalog: Arc<Catalog>,
}

/// A question for one of the pools.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) lane: LaneId,
    pub(super) pool: Pool,
    pub(super) timeout: Duration,
    pub(super) question: Question,
    pub(super) catalog: Arc<Catalog>,
}

/// What one horizon query read.
#[derive(Clone, Debug)]
pub(super) struct Horizon {
    pub(super) snapshot: Snapshot,
    /// Read after the snapshot was taken.
    pub(super) insert_lsn: Lsn,
    pub(super) fingerprint: Box<str>,
}

/// Counters, ever rising.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) transactions: u64,
    pub(super) changes: u64,
    pub(super) settled: Settled,
    pub(super) questions: u64,
    pub(super) raised: u64,
    pub(super) timed_out: u64,
    pub(super) resyncs: u64,
}

/// Something of the stream that waits for its snapshot.
#[derive(Debug)]
enum Waiting {
    Part(TransactionPart),
    Skipped {
        commit: Arc<Commit>,
        relations: Vec<Oid>,
    },
}

impl Waiting {
    fn commit(&self) -> &Arc<Commit> {
        match self {
            Self::Part(part) => &part.commit,
            Self::Skipped { commit, .. } => commit,
        }
    }

    fn size(&self) -> usize {
        match self {
            Self::Part(part) => part.size.max(1),
            Self::Skipped { .. } => 1,
        }
    }
}

/// The pipeline's state.
#[derive(Debug)]
pub(super) struct Conductor {
    rules: Rules,
    log: Arc<Log>,
    keys: RowKeys,
    catalog: Arc<Catalog>,
    /// The catalog at hand is one of the database; false until the first was loaded.
    has_catalog: bool,
    catalog_loading: bool,
    epoch: Option<Epoch>,
    streaming: bool,
    subscribers: HashMap<SubscriberId, Subscriber>,
    /// Those that wait for a snapshot to begin with.
    joining: BTreeSet<SubscriberId>,
    /// Those for which some transactions of the stream are older than their beginning.
    catching_up: BTreeSet<SubscriberId>,
    lanes: HashMap<LaneId, Lane>,
    lane_ids: HashMap<LaneKey, LaneId>,
    /// Lanes with a subscriber on the table, and how many.
    by_table: HashMap<Oid, HashMap<LaneId, usize>>,
    /// Lanes that hold the stream up.
    full: HashSet<LaneId>,
    /// Lanes with superseded rows.
    awaiting_successor: BTreeSet<LaneId>,
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
    /// The transaction that is being received, if somebody is concerned.
    continued: Option<Lsn>,
    /// Lanes that were given parts of a transaction and not its end.
    unended: BTreeSet<LaneId>,
    /// Received and not seen in a snapshot, but of no interest to anybody then.
    unseen: VecDeque<(u64, Xid)>,
    horizon_open: bool,
    /// Joins before this number were there when the open horizon query began.
    horizon_ticket: u64,
    horizon_not_before: Option<Instant>,
    horizon_pause: Duration,
    resolve_queue: VecDeque<Resolve>,
    resolving: HashMap<u64, SubscriberId>,
    /// Releases wait until these are resolved against the new catalog.
    resolving_again: HashSet<u64>,
    grace_ends: BTreeMap<(Instant, SubscriberId), ()>,
    ready: BTreeMap<Pool, BTreeSet<(u32, u64, LaneId)>>,
    idle: HashMap<Pool, usize>,
    breakers: HashMap<(Oid, Box<str>), Breaker>,
    /// Every commit that starts before this was received.
    received: Lsn,
    confirmed: Lsn,
    poke_not_before: Option<Instant>,
    next_number: u64,
    views: HashMap<Oid, Arc<View>>,
    outputs: VecDeque<Output>,
    counts: Counts,
}

impl Conductor {
    pub(super) fn new(rules: Rules, log: Arc<Log>) -> Self {
        let idle = rules.connections.clone();
        Self {
            rules,
            log,
            keys: RowKeys::default(),
            catalog: Arc::default(),
            has_catalog: false,
            catalog_loading: false,
            epoch: None,
            streaming: false,
            subscribers: HashMap::new(),
            joining: BTreeSet::new(),
            catching_up: BTreeSet::new(),
            lanes: HashMap::new(),
            lane_ids: HashMap::new(),
            by_table: HashMap::new(),
            full: HashSet::new(),
            awaiting_successor: BTreeSet::new(),
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            continued: None,
            unended: BTreeSet::new(),
            unseen: VecDeque::new(),
            horizon_open: false,
            horizon_ticket: 0,
            horizon_not_before: None,
            horizon_pause: UNSEEN_PAUSE_MIN,
            resolve_queue: VecDeque::new(),
            resolving: HashMap::new(),
            resolving_again: HashSet::new(),
            grace_ends: BTreeMap::new(),
            ready: BTreeMap::new(),
            idle,
            breakers: HashMap::new(),
            received: Lsn::ZERO,
            confirmed: Lsn::ZERO,
            poke_not_before: None,
            next_number: 1,
            views: HashMap::new(),
            outputs: VecDeque::new(),
            counts: Counts::default(),
        }
    }

    /// Takes the next thing to do.
    pub(super) fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Whether the stream should be read on: false while sound lanes or the releases lag behind.
    pub(super) fn wants_stream(&self) -> bool {
        self.full.is_empty() && self.waiting_bytes < WAITING_BYTES_MAX
    }

    /// Whether changes flow.
    pub(super) fn is_ready(&self) -> bool {
        self.has_catalog && self.streaming
    }

    pub(super) fn counts(&self) -> Counts {
        self.counts
    }

    /// Memberships with bindings, and lanes.
    pub(super) fn sizes(&self) -> (usize, usize) {
        (self.subscribers.len(), self.lanes.len())
    }

    /// When to call [`Conductor::handle_timeout`].
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        let grace = self
            .grace_ends
            .first_key_value()
            .map(|((until, _), ())| *until);
        let horizon = self.horizon_not_before.filter(|_| !self.horizon_open);
        let poke = self
            .poke_not_before
            .filter(|_| !self.awaiting_successor.is_empty());
        [grace, horizon, poke].into_iter().flatten().min()
    }

    /// The promised time came.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        while let Some(((until, id), ())) = self
            .grace_ends
            .first_key_value()
            .map(|(key, ())| (*key, ()))
        {
            if until > now {
                break;
            }
            self.grace_ends.remove(&(until, id));
            if let Some(subscriber) = self.subscribers.get_mut(&id) {
                subscriber.grace = None;
            }
        }
        self.advance(now);
    }

    // ---- the stream

    /// The stream went on.
    pub(super) fn handle_stream(&mut self, now: Instant, event: StreamEvent) {
        match event {
            StreamEvent::Started { epoch, .. } => self.start_epoch(epoch),
            StreamEvent::Interrupted => self.streaming = false,
            // Hints only: the fingerprint that comes with every snapshot tells of any change.
            StreamEvent::Message { .. } => {}
            StreamEvent::Position(position) => self.received = self.received.max(position),
            StreamEvent::Part(part) => self.receive_part(part),
            StreamEvent::Skipped { commit, relations } => {
                self.received = self.received.max(commit.end_lsn);
                self.wait(Waiting::Skipped { commit, relations });
            }
        }
        self.advance(now);
    }

    fn start_epoch(&mut self, epoch: Epoch) {
        self.streaming = true;
        let before = self.epoch.replace(epoch);
        if before.is_none_or(|before| before == epoch) {
            return;
        }
        self.waiting.clear();
        self.waiting_bytes = 0;
        self.continued = None;
        self.unended.clear();
        self.unseen.clear();
        self.received = Lsn::ZERO;
        self.confirmed = Lsn::ZERO;
        let everybody: Vec<SubscriberId> = self.subscribers.keys().copied().collect();
        for id in everybody {
            self.resync(id, ResyncReason::SlotRecreated);
        }
    }

    fn receive_part(&mut self, part: TransactionPart) {
        if part.last {
            self.counts.transactions = self.counts.transactions.saturating_add(1);
            self.received = self.received.max(part.commit.end_lsn);
        }
        self.counts.changes = self
            .counts
            .changes
            .saturating_add(u64::try_from(part.changes.len()).unwrap_or(u64::MAX));
        let continued = self.continued == Some(part.commit.lsn);
        if continued || self.is_interesting(&part) {
            // All further parts, or else nobody would hear of the transaction's end.
            self.continued = (!part.last).then_some(part.commit.lsn);
            self.wait(Waiting::Part(part));
        } else if part.last {
            if self.unseen.len() >= UNSEEN_MAX {
                self.unseen.pop_front();
            }
            let number = self.number();
            self.unseen.push_back((number, part.commit.xid));
        }
    }

    /// Whether anybody may be concerned. Tables that the catalog does not know yet may be anybody's.
    fn is_interesting(&self, part: &TransactionPart) -> bool {
        if self.subscribers.is_empty() {
            return false;
        }
        let mut known = None;
        part.changes.iter().any(|change| {
            let oid = change.relation.oid;
            if known == Some(oid) {
                return false;
            }
            known = Some(oid);
            self.by_table.contains_key(&oid)
                || !self.catalog.tables.contains_key(&oid)
                || !self.resolving.is_empty()
                || !self.resolve_queue.is_empty()
        })
    }

    fn wait(&mut self, waiting: Waiting) {
        self.waiting_bytes = self.waiting_bytes.saturating_add(waiting.size());
        self.waiting.push_back(waiting);
    }

    // ---- commands

    /// A socket asks for something.
    pub(super) fn handle_command(&mut self, now: Instant, command: Command) {
        match command {
            Command::Subscribe {
                connection,
                membership,
                outbox,
                claims,
                bindings,
                grace,
            } => {
                let id = SubscriberId {
                    connection,
                    membership,
                };
                self.remove(id);
                let parsed: Result<Vec<Binding>, _> = bindings.iter().map(Binding::parse).collect();
                let until = if grace { now.checked_add(GRACE) } else { None };
                let (bindings, refusal) = match parsed {
                    Ok(bindings) => (bindings.into(), None),
                    Err(error) => (Arc::default(), Some(error.to_string())),
                };
                let mut subscriber =
                    Subscriber::new(id, outbox, Arc::clone(&claims), bindings, until);
                if let Some(text) = refusal {
                    subscriber.phase = Phase::Refused;
                    subscriber.tell(Notice::Refused(text));
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
                if self
                    .subscribers
                    .get(&id)
                    .is_some_and(|subscriber| !subscriber.bindings.is_empty())
                {
                    self.resolve(id, claims);
                }
            }
            Command::Unsubscribe {
                connection,
                membership,
            } => self.remove(SubscriberId {
                connection,
                membership,
            }),
        }
        self.advance(now);
    }

    /// Has the bindings checked for these claims; they take effect with the answer.
    fn resolve(&mut self, id: SubscriberId, claims: Arc<crate::auth::Claims>) {
        let ticket = self.number();
        let Some(subscriber) = self.subscribers.get_mut(&id) else {
            return;
        };
        subscriber.ticket = ticket;
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
    pub(super) fn handle_resolved(
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
                Err(text) => self.refuse(id, text),
            }
        }
        self.advance(now);
    }

    /// The database could not be asked about bindings; they are put back.
    pub(super) fn handle_unresolved(&mut self, now: Instant, resolve: Resolve) {
        self.resolving.remove(&resolve.ticket);
        self.resolve_queue.push_back(resolve);
        self.advance(now);
    }

    fn accept(&mut self, now: Instant, id: SubscriberId, subscriptions: Vec<Subscription>) {
        let owed = self.leave_lane(id);
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
        match subscriber.phase {
            Phase::Resolving | Phase::Refused => {
                subscriber.phase = Phase::Joining;
                subscriber.joining_since = self.next_number;
                self.joining.insert(id);
            }
            Phase::Joining => {}
            Phase::Live if !new_token && same_tables => {}
            Phase::Live => subscriber.tell(Notice::Subscribed),
        }
        self.enter_lane(now, id);
        self.pay(now, id, owed, new_token);
    }

    fn refuse(&mut self, id: SubscriberId, text: String) {
        self.leave_lane(id);
        self.joining.remove(&id);
        let Some(subscriber) = self.subscribers.get_mut(&id) else {
            return;
        };
        subscriber.subscriptions.clear();
        subscriber.phase = Phase::Refused;
        subscriber.next_claims = None;
        subscriber.tell(Notice::Refused(text));
    }

    fn remove(&mut self, id: SubscriberId) {
        self.leave_lane(id);
        self.joining.remove(&id);
        self.catching_up.remove(&id);
        if let Some(subscriber) = self.subscribers.remove(&id)
            && let Some(grace) = subscriber.grace
        {
            self.grace_ends.remove(&(grace.until, id));
        }
    }

    fn resync(&mut self, id: SubscriberId, reason: ResyncReason) {
        if let Some(subscriber) = self.subscribers.get_mut(&id) {
            subscriber.tell(Notice::Resync(reason));
            self.counts.resyncs = self.counts.resyncs.saturating_add(1);
        }
        self.remove(id);
    }

    fn resync_lane(&mut self, id: LaneId, reason: ResyncReason, table: Option<Oid>) {
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

    // ---- lanes

    fn enter_lane(&mut self, now: Instant, id: SubscriberId) {
        let number = self.number();
        let Some(subscriber) = self.subscribers.get_mut(&id) else {
            return;
        };
        let uncertain = subscriber.is_uncertain().then(|| {
            subscriber
                .bindings
                .iter()
                .map(Binding::describe)
                .collect::<String>()
                .into()
        });
        let key = LaneKey {
            identity: Identity::new(Arc::clone(&subscriber.claims)),
            uncertain,
        };
        subscriber.lane_since = number;
        let lane = *self.lane_ids.entry(key.clone()).or_insert(number);
        subscriber.lane = Some(lane);
        for subscription in &subscriber.subscriptions {
            for oid in subscription.tables.keys() {
                let count = self
                    .by_table
                    .entry(*oid)
                    .or_default()
                    .entry(lane)
                    .or_default();
                *count = count.saturating_add(1);
            }
        }
        self.lanes
            .entry(lane)
            .or_insert_with(|| Lane::new(key))
            .subscribers
            .push(id);
        self.check_lane(now, lane);
    }

    /// Takes the subscriber out of its lane; returns what it was routed there and not yet given.
    fn leave_lane(&mut self, id: SubscriberId) -> Vec<(Arc<Part>, u32)> {
        let Some(subscriber) = self.subscribers.get_mut(&id) else {
            return Vec::new();
        };
        let Some(lane_id) = subscriber.lane.take() else {
            return Vec::new();
        };
        for subscription in &subscriber.subscriptions {
            for oid in subscription.tables.keys() {
                if let Some(lanes) = self.by_table.get_mut(oid) {
                    if let Some(count) = lanes.get_mut(&lane_id) {
                        *count = count.saturating_sub(1);
                        if *count == 0 {
                            lanes.remove(&lane_id);
                        }
                    }
                    if lanes.is_empty() {
                        self.by_table.remove(oid);
                    }
                }
            }
        }
        let Some(lane) = self.lanes.get_mut(&lane_id) else {
            return Vec::new();
        };
        lane.subscribers.retain(|member| *member != id);
        let mut owed = Vec::new();
        for item in &lane.queue {
            let for_me = item.only.map_or_else(
                || receives(subscriber, item.number, false, &item.part),
                |only| only == id,
            );
            if for_me {
                owed.extend(
                    item.rows
                        .iter()
                        .map(|row| (Arc::clone(&item.part), row.change)),
                );
            }
        }
        if lane.subscribers.is_empty() {
            let lane = self.lanes.remove(&lane_id);
            if let Some(lane) = lane {
                self.lane_ids.remove(&lane.key);
                if let Some((pool, place)) = lane.ready
                    && let Some(ready) = self.ready.get_mut(&pool)
                {
                    ready.remove(&place);
                }
            }
            self.full.remove(&lane_id);
            self.awaiting_successor.remove(&lane_id);
        }
        owed
    }

    /// Gives a subscriber in its new lane what it was owed in the old one, and what was kept for its new token.
    fn pay(
        &mut self,
        now: Instant,
        id: SubscriberId,
        owed: Vec<(Arc<Part>, u32)>,
        new_token: bool,
    ) {
        let Some(subscriber) = self.subscribers.get_mut(&id) else {
            return;
        };
        let grace = if new_token {
            subscriber.grace.take()
        } else {
            None
        };
        if let Some(Grace { until, .. }) = &grace {
            self.grace_ends.remove(&(*until, id));
        }
        if grace.as_ref().is_some_and(|grace| grace.overflowed) {
            return self.resync(id, ResyncReason::IdentityChanged);
        }
        let mut rows = grace.map_or_else(Vec::new, |grace| grace.kept);
        rows.extend(owed);
        self.review(&mut rows);
        let Some(subscriber) = self.subscribers.get_mut(&id) else {
            return;
        };
        let Some(lane_id) = subscriber.lane else {
            return;
        };
        let Some(lane) = self.lanes.get_mut(&lane_id) else {
            return;
        };
        for group in rows.chunk_by(|(part, _), (next, _)| Arc::ptr_eq(part, next)) {
            let Some((part, _)) = group.first() else {
                continue;
            };
            let number = self.next_number;
            self.next_number = number.saturating_add(1);
            let rows = group.iter().filter_map(|(part, index)| {
                let (change, view) = part.change(*index)?;
                let mut predicates = Vec::new();
                let wanted = subscriber.wants(
                    change,
                    view,
                    lane_policies_apply(lane, view),
                    false,
                    &mut predicates,
                );
                wanted.then(|| item_row(now, lane, change, view, *index, predicates))
            });
            let rows: Vec<ItemRow> = rows.collect();
            if !rows.is_empty() {
                let undecided = rows.iter().filter(|row| row.state.is_open()).count();
                lane.push(
                    &self.keys,
                    Item {
                        number,
                        part: Arc::clone(part),
                        only: Some(id),
                        rows,
                        undecided,
                    },
                );
            }
        }
        self.check_lane(now, lane_id);
    }

    /// Puts parts that were routed under an older catalog under the one of now.
    fn review(&mut self, rows: &mut [(Arc<Part>, u32)]) {
        let mut reviewed: Vec<(Arc<Part>, Arc<Part>)> = Vec::new();
        for (part, _) in rows {
            if Arc::ptr_eq(&part.catalog, &self.catalog) {
                continue;
            }
            let known = reviewed
                .iter()
                .find(|(old, _)| Arc::ptr_eq(old, part))
                .map(|(_, new)| Arc::clone(new));
            let new = known.unwrap_or_else(|| {
                let views = part
                    .changes
                    .iter()
                    .map(|change| self.view(&change.relation))
                    .collect();
                let new = Arc::new(part.under(views, Arc::clone(&self.catalog)));
                reviewed.push((Arc::clone(part), Arc::clone(&new)));
                new
            });
            *part = new;
        }
    }

    /// Settles what is decided, asks what is to be asked, and looks after the bounds.
    fn check_lane(&mut self, now: Instant, id: LaneId) {
        let Some(mut lane) = self.lanes.remove(&id) else {
            return;
        };
        let mut desk = Desk {
            log: &self.log,
            keys: &self.keys,
            subscribers: &mut self.subscribers,
            settled: &mut self.counts.settled,
            withhold_deletes: self.rules.withhold_deletes,
        };
        desk.settle(&mut lane);
        if lane.has_question() {
            match lane.standing.pool(now) {
                // Errors are answered quickly, but searching for the row that raises takes many questions.
                Some(Pool::Proven) if lane.raises > 2 => self.make_ready(Pool::New, &mut lane, id),
                Some(pool) => self.make_ready(pool, &mut lane, id),
                None => {
                    lane.deny_unasked();
                    return self.put_back_and_check(now, id, lane);
                }
            }
        }
        if lane.pending.is_empty() {
            self.awaiting_successor.remove(&id);
        } else if self.awaiting_successor.insert(id) && self.poke_not_before.is_none() {
            self.poke_not_before = Some(now);
        }
        let full = |share: usize| {
            lane.queued_rows > LANE_ROWS_MAX / share || lane.queued_bytes > LANE_BYTES_MAX / share
        };
        if lane.standing.is_sound() && full(2) {
            self.full.insert(id);
        } else {
            self.full.remove(&id);
        }
        let overflowed = (!lane.standing.is_sound() && full(1)) || lane.pending.len() > PENDING_MAX;
        if overflowed {
            lane.clear();
        }
        self.lanes.insert(id, lane);
        if overflowed {
            self.resync_lane(id, ResyncReason::VerdictUnknown, None);
        }
    }

    fn put_back_and_check(&mut self, now: Instant, id: LaneId, lane: Lane) {
        self.lanes.insert(id, lane);
        self.check_lane(now, id);
    }

    fn make_ready(&mut self, pool: Pool, lane: &mut Lane, id: LaneId) {
        if lane.ready.is_none() {
            let since = lane.queue.front().map_or(0, |item| item.number);
            let place = (lane.standing.failures(), since, id);
            lane.ready = Some((pool, place));
            self.ready.entry(pool).or_default().insert(place);
        }
    }

    // ---- questions

    fn ask_what_is_ready(&mut self, now: Instant) {
        // Questions name columns of the catalog at hand.
        if self.catalog_loading || !self.resolving_again.is_empty() {
            return;
        }
        for pool in Pool::ALL {
            while self.idle.get(&pool).is_some_and(|idle| *idle > 0) {
                let Some((_, _, id)) = self.ready.get_mut(&pool).and_then(BTreeSet::pop_first)
                else {
                    break;
                };
                let Some(lane) = self.lanes.get_mut(&id) else {
                    continue;
                };
                lane.ready = None;
                if lane.asking.is_some() {
                    continue;
                }
                let subscribers = &self.subscribers;
                let members = lane.subscribers.clone();
                let role: Box<str> = lane.key.identity.role().into();
                let Some(question) =
                    lane.question(now, |view| sent_columns(subscribers, &members, &role, view))
                else {
                    continue;
                };
                let breaker = self
                    .breakers
                    .get(&(question.table.oid, role))
                    .copied()
                    .unwrap_or_default();
                let timeout = match pool {
                    Pool::New if breaker.is_open() => BREAKER_TIMEOUT,
                    _ => self.rules.timeouts.of(pool),
                };
                self.counts.questions = self.counts.questions.saturating_add(1);
                if let Some(idle) = self.idle.get_mut(&pool) {
                    *idle = idle.saturating_sub(1);
                }
                self.outputs.push_back(Output::Ask(Ask {
                    lane: id,
                    pool,
                    timeout,
                    question,
                    catalog: Arc::clone(&self.catalog),
                }));
            }
        }
    }

    /// A connection of the pool can take a question again.
    pub(super) fn handle_idle(&mut self, now: Instant, pool: Pool) {
        let idle = self.idle.entry(pool).or_default();
        *idle = idle.saturating_add(1);
        self.advance(now);
    }

    /// A question was answered; `None` if the connection broke and it must be asked again.
    pub(super) fn handle_answer(
        &mut self,
        now: Instant,
        lane_id: LaneId,
        pool: Pool,
        asked: Option<Asked>,
    ) {
        if let Some(lane) = self.lanes.get_mut(&lane_id)
            && let Some(asking) = lane.asking.take()
        {
            match asked {
                None => lane.answer_all(&asking, RowState::Unasked),
                Some(asked) => self.take_answer(now, lane_id, pool, &asking, asked),
            }
        }
        self.check_lane(now, lane_id);
        self.advance(now);
    }

    fn take_answer(
        &mut self,
        now: Instant,
        lane_id: LaneId,
        pool: Pool,
        asking: &Asking,
        asked: Asked,
    ) {
        let timeouts = self.rules.timeouts;
        let Some(lane) = self.lanes.get_mut(&lane_id) else {
            return;
        };
        let timed_out = asked.result == Err(Trouble::TimedOut);
        self.breakers
            .entry((asking.table, lane.key.identity.role().into()))
            .or_default()
            .record(timed_out);
        match asked.result {
            Ok(answers) => {
                lane.answer(asking, asked.read_before, &answers);
                lane.standing
                    .answered(now.saturating_duration_since(asking.asked_at), &timeouts);
                lane.raises = 0;
                lane.rows_max = lane.rows_max.saturating_mul(2).min(QUESTION_ROWS_MAX);
                let recovered = lane.troubles.remove(&asking.table);
                // While it timed out, changes were denied without a verdict; a raised error was one.
                if recovered.is_some_and(|state| *state == *QUERY_CANCELED) {
                    self.resync_lane(lane_id, ResyncReason::VerdictUnknown, Some(asking.table));
                }
            }
            Err(Trouble::Raised(state)) => {
                self.counts.raised = self.counts.raised.saturating_add(1);
                lane.raises = lane.raises.saturating_add(1);
                lane.standing
                    .answered(now.saturating_duration_since(asking.asked_at), &timeouts);
                if lane.raises <= CATALOG_RETRIES_MAX && OUTDATED.contains(&&*state) {
                    lane.answer_all(asking, RowState::Unasked);
                    self.load_catalog();
                } else if asking.rows.len() > 1 {
                    lane.rows_max = asking.rows.len() / 2;
                    lane.answer_all(asking, RowState::Unasked);
                } else {
                    lane.answer_all(asking, RowState::Denied);
                    self.tell_trouble(lane_id, asking.table, state);
                }
            }
            Err(Trouble::TimedOut) => {
                self.counts.timed_out = self.counts.timed_out.saturating_add(1);
                if lane.standing.timed_out(pool, now) {
                    lane.answer_all(asking, RowState::Denied);
                    lane.deny_unasked();
                    self.tell_trouble(lane_id, asking.table, QUERY_CANCELED.into());
                } else {
                    lane.answer_all(asking, RowState::Unasked);
                }
            }
        }
    }

    fn tell_trouble(&mut self, lane_id: LaneId, table: Oid, state: Box<str>) {
        let Some(lane) = self.lanes.get_mut(&lane_id) else {
            return;
        };
        if lane.troubles.insert(table, state.clone()).is_some() {
            return;
        }
        for id in &lane.subscribers {
            if let Some(subscriber) = self.subscribers.get_mut(id)
                && subscriber.concerns(table)
            {
                subscriber.tell(Notice::PolicyTrouble(state.clone()));
            }
        }
    }

    // ---- snapshots, catalogs, releases

    /// A horizon query came back; `None` if it failed and must be made again.
    pub(super) fn handle_horizon(&mut self, now: Instant, horizon: Option<Horizon>) {
        self.horizon_open = false;
        match horizon {
            None => self.pause_horizon(now),
            Some(horizon)
                if !self.has_catalog || horizon.fingerprint != self.catalog.fingerprint =>
            {
                self.load_catalog()
            }
            Some(horizon) => self.release(now, &horizon),
        }
        self.advance(now);
    }

    fn load_catalog(&mut self) {
        if !self.catalog_loading {
            self.catalog_loading = true;
            self.outputs.push_back(Output::LoadCatalog);
        }
    }

    /// The database can be asked (again): the catalog at hand may be old.
    pub(super) fn handle_connected(&mut self, now: Instant) {
        self.load_catalog();
        self.advance(now);
    }

    /// A catalog was loaded; `None` if that failed and must be tried again.
    pub(super) fn handle_catalog(&mut self, now: Instant, catalog: Option<Arc<Catalog>>) {
        self.catalog_loading = false;
        let Some(catalog) = catalog else {
            self.has_catalog = false;
            self.pause_horizon(now);
            return;
        };
        let before = std::mem::replace(&mut self.catalog, Arc::clone(&catalog));
        let first = !std::mem::replace(&mut self.has_catalog, true);
        self.views.clear();
        for resolve in &mut self.resolve_queue {
            resolve.catalog = Arc::clone(&catalog);
        }
        let outdated = |subscriber: &&Subscriber| {
            let resolved = matches!(subscriber.phase, Phase::Joining | Phase::Live)
                || self.resolving.contains_key(&subscriber.ticket);
            resolved && (first || must_resolve(subscriber, &before, &catalog))
        };
        let outdated: Vec<(SubscriberId, Arc<crate::auth::Claims>)> = (self.subscribers.values())
            .filter(outdated)
            .map(|subscriber| {
                (
                    subscriber.id,
                    subscriber
                        .next_claims
                        .clone()
                        .unwrap_or_else(|| Arc::clone(&subscriber.claims)),
                )
            })
            .collect();
        for (id, claims) in outdated {
            self.resolve(id, claims);
            if let Some(subscriber) = self.subscribers.get(&id) {
                self.resolving_again.insert(subscriber.ticket);
            }
        }
        self.advance(now);
    }

    fn pause_horizon(&mut self, now: Instant) {
        self.horizon_not_before = now.checked_add(self.horizon_pause);
        self.horizon_pause = self.horizon_pause.saturating_mul(2).min(UNSEEN_PAUSE_MAX);
    }

    fn release(&mut self, now: Instant, horizon: &Horizon) {
        self.unseen.retain(|(_, xid)| !horizon.snapshot.sees(*xid));
        let mut released = false;
        while let Some(waiting) = self
            .waiting
            .pop_front_if(|waiting| horizon.snapshot.sees(waiting.commit().xid))
        {
            released = true;
            self.waiting_bytes = self.waiting_bytes.saturating_sub(waiting.size());
            match waiting {
                Waiting::Part(part) => self.route(now, part),
                Waiting::Skipped { relations, .. } => self.skip(&relations),
            }
        }
        self.horizon_not_before = None;
        if released || self.waiting.is_empty() {
            self.horizon_pause = UNSEEN_PAUSE_MIN;
        } else {
            self.pause_horizon(now);
        }
        if self.streaming {
            self.begin_joins(now, horizon);
        }
        let routed = self.routed();
        let subscribers = &mut self.subscribers;
        self.catching_up.retain(|id| {
            let Some(subscriber) = subscribers.get_mut(id) else {
                return false;
            };
            let behind = subscriber
                .joined
                .as_ref()
                .is_some_and(|(_, until)| *until > routed);
            if !behind {
                subscriber.joined = None;
            }
            behind
        });
        self.log.settle();
    }

    /// Subscriptions that were there when the query began are in force from its snapshot on.
    fn begin_joins(&mut self, now: Instant, horizon: &Horizon) {
        // A transaction that was received before, concerned nobody then and is not in the snapshot would be missed.
        let unseen = self.unseen.front().map_or(u64::MAX, |(number, _)| *number);
        let begun = self.horizon_ticket;
        let subscribers = &mut self.subscribers;
        let catching_up = &mut self.catching_up;
        self.joining.retain(|id| {
            let Some(subscriber) = subscribers.get_mut(id) else {
                return false;
            };
            if subscriber.joining_since > begun.min(unseen) {
                return true;
            }
            subscriber.phase = Phase::Live;
            subscriber.joined = Some((horizon.snapshot.clone(), horizon.insert_lsn));
            catching_up.insert(*id);
            subscriber.tell(Notice::Subscribed);
            false
        });
        if !self.joining.is_empty() && unseen < u64::MAX && self.horizon_not_before.is_none() {
            self.horizon_not_before = now.checked_add(UNSEEN_PAUSE_MIN);
        }
    }

    fn skip(&mut self, relations: &[Oid]) {
        let concerned = |subscriber: &&Subscriber| {
            subscriber.phase == Phase::Live
                && (relations.is_empty() || relations.iter().any(|oid| subscriber.concerns(*oid)))
        };
        let concerned: Vec<SubscriberId> = self
            .subscribers
            .values()
            .filter(concerned)
            .map(|subscriber| subscriber.id)
            .collect();
        for id in concerned {
            self.resync(id, ResyncReason::TransactionTooLarge);
        }
    }

    /// Hands a released part to the lanes that it concerns.
    fn route(&mut self, now: Instant, part: TransactionPart) {
        let views: Vec<Option<Arc<View>>> = part
            .changes
            .iter()
            .map(|change| self.view(&change.relation))
            .collect();
        let part = Arc::new(Part::new(part, views, Arc::clone(&self.catalog)));
        let oids: BTreeSet<Oid> = part
            .changes
            .iter()
            .map(|change| change.relation.oid)
            .collect();
        let mut lanes: BTreeSet<LaneId> = oids
            .iter()
            .filter_map(|oid| self.by_table.get(oid))
            .flat_map(|lanes| lanes.keys().copied())
            .collect();
        let unended = if part.last {
            std::mem::take(&mut self.unended)
        } else {
            BTreeSet::new()
        };
        lanes.extend(&unended);
        let number = self.number();
        for id in lanes {
            let Some(lane) = self.lanes.get_mut(&id) else {
                continue;
            };
            let rows = routed_rows(now, lane, &self.subscribers, &self.keys, &part, number);
            // The last part is handed on even without rows: subscribers hold their last change back until they know
            // that it was the last.
            if rows.is_empty() && !unended.contains(&id) {
                continue;
            }
            if !part.last {
                self.unended.insert(id);
            }
            let undecided = rows.iter().filter(|row| row.state.is_open()).count();
            lane.push(
                &self.keys,
                Item {
                    number,
                    part: Arc::clone(&part),
                    only: None,
                    rows,
                    undecided,
                },
            );
            self.check_lane(now, id);
        }
    }

    fn view(&mut self, relation: &Arc<Relation>) -> Option<Arc<View>> {
        if let Some(view) = self.views.get(&relation.oid)
            && (Arc::ptr_eq(&view.relation, relation) || view.relation == *relation)
        {
            return Some(Arc::clone(view));
        }
        let table = self.catalog.tables.get(&relation.oid)?;
        let view = Arc::new(View::new(Arc::clone(relation), Arc::clone(table)));
        self.views.insert(relation.oid, Arc::clone(&view));
        Some(view)
    }

    // ---- progress

    /// Does whatever has become possible.
    fn advance(&mut self, now: Instant) {
        while self.resolving.len() < RESOLVING_MAX && self.has_catalog {
            let Some(resolve) = self.resolve_queue.pop_front() else {
                break;
            };
            let current = self
                .subscribers
                .get(&resolve.subscriber)
                .is_some_and(|subscriber| subscriber.ticket == resolve.ticket);
            if !current {
                self.resolving_again.remove(&resolve.ticket);
                continue;
            }
            self.resolving.insert(resolve.ticket, resolve.subscriber);
            self.outputs.push_back(Output::Resolve(Resolve {
                catalog: Arc::clone(&self.catalog),
                ..resolve
            }));
        }
        self.take_horizon(now);
        self.expire_pending(now);
        self.ask_what_is_ready(now);
        self.confirm();
    }

    fn take_horizon(&mut self, now: Instant) {
        let joining = self.streaming && !self.joining.is_empty();
        let blocked = self.horizon_open || self.catalog_loading || !self.resolving_again.is_empty();
        if blocked
            || self.horizon_not_before.is_some_and(|time| now < time)
            || (self.has_catalog && self.waiting.is_empty() && !joining)
        {
            return;
        }
        if !self.has_catalog {
            return self.load_catalog();
        }
        self.horizon_open = true;
        self.horizon_not_before = None;
        self.horizon_ticket = self.number();
        self.outputs.push_back(Output::TakeHorizon);
    }

    /// A superseded row whose successor should have come by now either was hidden, or cannot be judged at all.
    fn expire_pending(&mut self, now: Instant) {
        if self.awaiting_successor.is_empty() {
            self.poke_not_before = None;
            return;
        }
        let routed = self.routed();
        let mut lost = Vec::new();
        let mut done = Vec::new();
        for id in &self.awaiting_successor {
            let Some(lane) = self.lanes.get_mut(id) else {
                continue;
            };
            let settled = lane.settled_before(routed);
            lane.pending.retain(|_, pending| {
                let expired = pending.read_before <= settled;
                if expired && pending.certain {
                    lost.push((*id, pending.table));
                }
                !expired
            });
            if lane.pending.is_empty() {
                done.push(*id);
            }
        }
        for id in done {
            self.awaiting_successor.remove(&id);
        }
        for (id, table) in lost {
            self.resync_lane(id, ResyncReason::VerdictUnknown, Some(table));
        }
        if !self.awaiting_successor.is_empty()
            && self.poke_not_before.is_none_or(|time| time <= now)
        {
            self.poke_not_before = now.checked_add(POKE_PAUSE);
            self.outputs.push_back(Output::Poke);
        }
    }

    /// Every commit that starts before this was handed to the lanes.
    fn routed(&self) -> Lsn {
        self.waiting
            .front()
            .map_or(self.received, |waiting| waiting.commit().lsn)
    }

    fn confirm(&mut self) {
        let routed = self.routed();
        if let Some(epoch) = self.epoch
            && routed > self.confirmed
        {
            self.confirmed = routed;
            self.outputs.push_back(Output::Confirm(epoch, routed));
        }
    }

    fn number(&mut self) -> u64 {
        let number = self.next_number;
        self.next_number = number.saturating_add(1);
        number
    }
}

/// SQLSTATEs of a question that names what is no longer there: undefined table, column, object, changed result type.
const OUTDATED: [&str; 4] = ["42P01", "42703", "42704", "0A000"];
/// How often such a question is put again after loading the catalog; then it is the policy that names it.
const CATALOG_RETRIES_MAX: u32 = 3;

/// SQLSTATE of a statement that its timeout ended.
const QUERY_CANCELED: &str = "57014";

/// The rows of a part that concern a lane.
fn routed_rows(
    now: Instant,
    lane: &Lane,
    subscribers: &HashMap<SubscriberId, Subscriber>,
    keys: &RowKeys,
    part: &Part,
    number: u64,
) -> Vec<ItemRow> {
    let members: Vec<&Subscriber> = (lane.subscribers.iter())
        .filter_map(|id| subscribers.get(id))
        .filter(|subscriber| receives(subscriber, number, false, part))
        .collect();
    let mut rows = Vec::new();
    if members.is_empty() {
        return rows;
    }
    // Rows of this very part count as open for later rows of it only once pushed; a net effect has one row per key.
    for (index, (change, view)) in part.changes.iter().zip(&part.views).enumerate() {
        let (Some(view), Ok(index)) = (view, u32::try_from(index)) else {
            continue;
        };
        let follows = lane.follows_open_row(keys, change, view);
        let apply = lane_policies_apply(lane, view);
        let mut predicates = Vec::new();
        let mut wanted = false;
        for subscriber in &members {
            wanted |= subscriber.wants(change, view, apply, follows, &mut predicates);
        }
        if wanted {
            rows.push(item_row(now, lane, change, view, index, predicates));
        } else if follows {
            rows.push(ItemRow {
                change: index,
                state: RowState::Tracked,
                predicates: Box::default(),
                truths: Box::default(),
            });
        }
    }
    rows
}

fn lane_policies_apply(lane: &Lane, view: &View) -> bool {
    view.table
        .access
        .get(lane.key.identity.role())
        .is_some_and(|access| access.policies_apply)
}

/// A row as grants alone see it.
fn item_row(
    now: Instant,
    lane: &Lane,
    change: &Change,
    view: &View,
    index: u32,
    predicates: Vec<Predicate>,
) -> ItemRow {
    let access = view.table.access.get(lane.key.identity.role());
    let state = match &change.kind {
        ChangeKind::Truncate => RowState::Tracked,
        ChangeKind::Insert { .. } | ChangeKind::Update { .. }
            if view.table.primary_key.is_empty() =>
        {
            RowState::Withheld(Withheld::NoPrimaryKey)
        }
        ChangeKind::Insert { .. } | ChangeKind::Update { .. }
            if access.is_none_or(|access| !view.key_granted(access)) =>
        {
            RowState::Withheld(Withheld::Unauthorized)
        }
        ChangeKind::Insert { new } | ChangeKind::Update { new, .. }
            if policies_ask(change, view, lane.key.identity.role()) =>
        {
            if view.key_of(new).is_none() || lane.standing.pool(now).is_none() {
                RowState::Refused
            } else {
                RowState::Unasked
            }
        }
        ChangeKind::Insert { .. } | ChangeKind::Update { .. } | ChangeKind::Delete { .. }
            if !predicates.is_empty() =>
        {
            RowState::Unasked
        }
        ChangeKind::Insert { .. } | ChangeKind::Update { .. } | ChangeKind::Delete { .. } => {
            RowState::Allowed
        }
    };
    let predicates = if state == RowState::Unasked {
        predicates
    } else {
        Vec::new()
    };
    ItemRow {
        change: index,
        state,
        predicates: predicates.into(),
        truths: Box::default(),
    }
}

/// Columns of the view's table that any member of a lane is sent.
fn sent_columns(
    subscribers: &HashMap<SubscriberId, Subscriber>,
    members: &[SubscriberId],
    role: &str,
    view: &View,
) -> Arc<[usize]> {
    let Some(access) = view.table.access.get(role) else {
        return Arc::default();
    };
    let mut columns = BTreeSet::new();
    for subscriber in members
        .iter()
        .filter_map(|id| subscribers.get(id))
        .filter(|subscriber| subscriber.concerns(view.table.oid))
    {
        let included = view.included(access, subscriber.selected(view.table.oid).as_deref());
        columns.extend(view.table_columns(&included));
    }
    columns.into_iter().collect()
}
