//! The pipeline's decisions: which transactions are released, who is asked what, what reaches whom.
//!
//! A state machine without I/O: the stream, commands, snapshots, catalogs and answers come in; questions, look-ups and
//! confirmations go out. Payloads go to the log and references to them into outboxes, which are memory.
//!
//! Invariants: nothing is judged before a snapshot has shown its transaction and the catalog of that very moment is the
//! one at hand; what is released is released in the order of the stream; a subscription is told that it is in force
//! only after such a snapshot, and gets exactly the transactions that the snapshot did not show.

mod aside;
mod company;
mod hearing;
mod lanes;
mod membership;
mod outdated;
mod past;
mod permissions;
mod questions;
mod refusals;
mod release;
mod replay;
mod resume;
mod rows;
mod snapshots;
mod store;
mod stream;
mod walk;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::addressees::Addressees;
use super::hearing::Hearing;
use super::history::{self, History};
use super::knowledge::Knowledge;
use super::lane::{LaneId, LaneKey, Lanes};
use super::ledger::Ledger;
use super::locks::Locks;
use super::messages::Unsendable;
use super::part::memory_of;
use super::sessions::Sessions;
use super::settle::Settled;
use super::snapshot::{SnapshotCounts, SnapshotRequest};
use super::standing::{Breaker, Pool, Timeouts};
use super::state::PolicyState;
use super::subscriber::{Subscriber, SubscriberId};
use super::verdicts::{Judged, Verdicts};
use super::view::{RowKeys, View};
use crate::catalog::Catalog;
use crate::change::{Commit, Epoch, Lsn, Oid, PgTime, Snapshot, TransactionPart, Xid};
use crate::log::{Allowance, Log, RowId};
use crate::policy::Question;
use crate::realtime::{Broadcast, ResyncReason};
use crate::routing::Binding;
use crate::shadow::{LoadRequest, LoadResult, Sizes};
use crate::topic::Room;

/// Settings of the conductor.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    /// Time limits of questions.
    pub(super) timeouts: Timeouts,
    /// Connections per pool.
    pub(super) connections: HashMap<Pool, usize>,
    /// Whether a DELETE under row security is withheld altogether.
    pub(super) withhold_deletes: bool,
    /// Bytes of the payload of a broadcast from the database.
    pub(super) broadcast_bytes_max: usize,
    /// Whether policies are compiled.
    pub(super) compile: bool,
    /// Bytes of the tables that compiled policies look into.
    pub(super) shadow_bytes_max: usize,
    /// Bytes of the rows of one snapshot.
    pub(super) snapshot_bytes_max: usize,
    /// Bytes of the rows of all snapshots that sockets still read.
    pub(super) snapshot_allowance: Allowance,
    /// Bounds of the recent past.
    pub(super) history: history::Limits,
}

/// Rows that wait in one sound lane before the stream waits for it.
const LANE_ROWS_MAX: usize = 10_000;
/// Rows that may wait in the lane of an identity that times out, which the stream does not wait for: there may be
/// thousands of them. Beyond, its subscribers start over.
const SLOW_LANE_ROWS_MAX: usize = 4096;
/// Bytes of the parts that wait in one lane, likewise.
const LANE_BYTES_MAX: usize = 16 << 20;
/// Rows, and bytes of parts, that may wait in the lane of a subscriber whose snapshot is being taken, which the stream does
/// not wait for: what a busy database writes in a few seconds. Beyond, the subscriber starts over.
const PAUSED_LANE_ROWS_MAX: usize = 100_000;
const PAUSED_LANE_BYTES_MAX: usize = 64 << 20;
/// Bytes of transactions that may wait for their snapshot before the stream waits: what comes in a few milliseconds.
const WAITING_BYTES_MAX: usize = 16 << 20;
/// Rows of one lane whose successor may be outstanding.
const PENDING_MAX: usize = 200_000;
/// Transactions received and not yet seen in a snapshot, of which subscriptions must hear. Beyond, the stream waits.
const UNSEEN_MAX: usize = 16_384;
/// So many are worth a snapshot at once.
const UNSEEN_MANY: usize = UNSEEN_MAX / 4;
/// So long the slot holds them back before a snapshot is taken for their sake alone, and when they are many.
const UNSEEN_LOOK: Duration = Duration::from_secs(1);
const UNSEEN_LOOK_MANY: Duration = Duration::from_millis(10);
/// Time of a question of a new identity while its table mostly times out.
const BREAKER_TIMEOUT: Duration = Duration::from_millis(20);
/// How long a join without a token of its own waits for one.
pub(super) const GRACE: Duration = Duration::from_secs(2);
/// Resolutions under way at once.
const RESOLVING_MAX: usize = 16;
/// Snapshots without a pause, and pauses between them, while a transaction is not visible yet. The committing backend needs a
/// processor, and the shortest pause takes longer than several looks.
const UNSEEN_RETRIES: u32 = 8;
const UNSEEN_PAUSE_MIN: Duration = Duration::from_millis(1);
const UNSEEN_PAUSE_MAX: Duration = Duration::from_millis(50);
/// Pause between looks at the catalog while nothing happens: changes without an event trigger are noticed so late.
const LOOK_PAUSE: Duration = Duration::from_secs(10);
/// The same while a change was announced, and for how long.
const CLOSE_LOOK_PAUSE: Duration = Duration::from_millis(100);
const CLOSE_LOOK: Duration = Duration::from_secs(1);
/// Pause before the schema is read again that could not be.
const LEARN_PAUSE: Duration = Duration::from_secs(30);
/// Pause between looks for plans that nobody needs; those go at the second. Longer than clients take to come back.
const SWEEP_PAUSE: Duration = Duration::from_secs(30);
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
    /// Load a table that compiled policies look into.
    LoadShadow(LoadRequest),
    /// Read the rows that are there already.
    TakeSnapshot(Box<SnapshotRequest>),
    /// Ask the stream for its position.
    Poke,
    /// Something has committed that may decide who may read private topics.
    Doubt,
    /// Something has committed that may decide who may send to private topics, and not who may read.
    DoubtSending,
    /// Say something in a room, for the database.
    Say {
        /// Where.
        room: Room,
        /// What.
        message: Arc<Broadcast>,
        /// When it committed, by the database's clock.
        committed: PgTime,
        /// Its `inserted_at`, if that can be read.
        inserted: Option<PgTime>,
    },
    /// A row of `realtime.messages` came next that may be replayed.
    Stored {
        /// The channel, without "realtime:".
        topic: Box<str>,
        /// The row's id.
        id: RowId,
        /// Which committed it.
        transaction: Xid,
    },
    /// Rows of `realtime.messages` may have been committed that never come.
    Torn,
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
    pub(super) answered: u64,
    pub(super) raised: u64,
    pub(super) timed_out: u64,
    pub(super) locked: u64,
    /// Broadcasts from the database.
    pub(super) broadcasts: u64,
    /// Verdicts of Postgres.
    pub(super) asked: Judged,
    /// Rows that could not become one.
    pub(super) unsendable: Unsendable,
}

/// Something of the stream that waits for its snapshot.
#[derive(Debug)]
enum Waiting {
    Part {
        part: TransactionPart,
        /// It is the only part of its transaction.
        is_whole: bool,
    },
    /// Concerned no subscriber when it came; only plans may look into its tables. Waits for nothing but what is before it, so that it
    /// is never the first of what waits.
    Silent {
        part: TransactionPart,
        is_whole: bool,
    },
    Skipped {
        commit: Arc<Commit>,
        relations: Vec<Oid>,
    },
}

/// A transaction that nobody has asked about yet, and that may not be visible.
#[derive(Clone, Copy, Debug)]
struct Unseen {
    number: u64,
    xid: Xid,
    /// Where it comes again after a restart; `None`: it is of an epoch that is over.
    lsn: Option<Lsn>,
}

impl Waiting {
    fn commit(&self) -> &Arc<Commit> {
        match self {
            Self::Part { part, .. } | Self::Silent { part, .. } => &part.commit,
            Self::Skipped { commit, .. } => commit,
        }
    }

    fn size(&self) -> usize {
        match self {
            Self::Part { part, .. } | Self::Silent { part, .. } => {
                memory_of(part.size, part.changes.len())
            }
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
    catching_up: BTreeSet<(Lsn, SubscriberId)>,
    lanes: Lanes,
    lane_ids: HashMap<LaneKey, LaneId>,
    /// Lanes by the tables of their subscribers.
    addressees: Addressees,
    /// Lanes that every change of their tables must reach, whoever may see it: something waits in them, subscribers were
    /// told of trouble, or what is hidden is kept for a token that may follow.
    busy: BTreeSet<LaneId>,
    /// Lanes that hold the stream up.
    full: HashSet<LaneId>,
    /// Lanes with superseded rows.
    awaiting_successor: BTreeSet<LaneId>,
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
    release: Option<release::Release>,
    /// The transaction that is being received, if somebody is concerned.
    continued: Option<Lsn>,
    /// The transaction that was received in part, and the order of its next change.
    received_part: Option<(Lsn, u32)>,
    /// The transaction that was released in part.
    unfinished: Option<Lsn>,
    /// When to look at the catalog's fingerprint although nothing waits.
    look_at: Option<Instant>,
    /// Until then a change of the catalog is expected: one was announced, and may not be visible yet.
    look_closely_until: Option<Instant>,
    /// Lanes that were given parts of a transaction and not its end.
    unended: BTreeSet<LaneId>,
    /// Received and not seen in a snapshot, but of no interest to anybody then.
    unseen: VecDeque<Unseen>,
    /// When a snapshot is taken for their sake.
    unseen_at: Option<Instant>,
    horizon_open: bool,
    /// Joins before this number were there when the open horizon query began.
    horizon_ticket: u64,
    horizon_not_before: Option<Instant>,
    horizon_pause: Duration,
    /// Looks without a pause since something was released.
    horizon_retries: u32,
    resolve_queue: VecDeque<Resolve>,
    refusals: refusals::Refusals,
    outdated: outdated::Outdated,
    resolving: HashMap<u64, SubscriberId>,
    /// Releases wait until these are resolved against the new catalog.
    resolving_again: HashSet<u64>,
    grace_ends: BTreeMap<(Instant, SubscriberId), ()>,
    ready: BTreeMap<Pool, BTreeSet<(u32, u64, LaneId)>>,
    idle: HashMap<Pool, usize>,
    /// Tables that cannot be asked about for the moment.
    locks: Locks,
    breakers: HashMap<(Oid, Box<str>), Breaker>,
    /// Every commit that starts before this was received.
    received: Lsn,
    confirmed: Lsn,
    poke_not_before: Option<Instant>,
    /// The same for those whose way through the past waits for the stream.
    poke_early_not_before: Option<Instant>,
    next_number: u64,
    views: HashMap<Oid, Arc<View>>,
    outputs: VecDeque<Output>,
    counts: Counts,
    verdicts: Verdicts,
    ledger: Ledger,
    /// When something was last released that may decide who may read private topics.
    doubt: Option<Instant>,
    /// Permissions are called into doubt once everything before this number was seen in a snapshot.
    doubt_at: Option<u64>,
    snapshots: snapshots::Snapshots,
    /// When the schema is read again that could not be.
    learn_at: Option<Instant>,
    /// When plans that nobody needs are looked for.
    sweep_at: Option<Instant>,
    history: Box<History>,
    /// Those who go through the past.
    replaying: VecDeque<SubscriberId>,
    /// Where the last step of these ended.
    walked: walk::Whereabouts,
    /// The rows that their lanes wait for.
    awaited: company::Awaited,
    /// Those who have, and are not done with it.
    rejoining: VecDeque<SubscriberId>,
    /// The next turn.
    replay_at: Option<Instant>,
    /// Who may come back.
    sessions: Sessions,
    /// The last question that connections answered, while somebody asks.
    answered: HashMap<u64, u64>,
    /// Whatever committed here or later did so under the catalog at hand.
    catalog_from: Option<Lsn>,
    /// Tables that somebody may have been given or taken between that catalog and the one before; `None`: any.
    regranted: Option<BTreeSet<Oid>>,
    /// The stream was away since the catalog was last found to be current.
    was_away: bool,
    /// No commit that is visible to us starts after this.
    wal_end: Lsn,
    /// Broadcasts of earlier commits were said before this process began, or concerned nobody.
    says_from: Option<Lsn>,
    /// Who may come back for broadcasts.
    hearing: Box<Hearing>,
}

impl Conductor {
    pub(super) fn new(rules: Rules, log: Arc<Log>) -> Self {
        let idle = rules.connections.clone();
        let history = rules.history.clone();
        let verdicts = Verdicts::new(rules.compile, rules.shadow_bytes_max);
        let allowance = rules.snapshot_allowance.clone();
        let snapshots = snapshots::Snapshots::new(allowance, rules.snapshot_bytes_max);
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
            lanes: Lanes::default(),
            lane_ids: HashMap::new(),
            addressees: Addressees::default(),
            busy: BTreeSet::new(),
            full: HashSet::new(),
            awaiting_successor: BTreeSet::new(),
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            release: None,
            continued: None,
            received_part: None,
            unfinished: None,
            look_at: None,
            look_closely_until: None,
            unended: BTreeSet::new(),
            unseen: VecDeque::new(),
            unseen_at: None,
            horizon_open: false,
            horizon_ticket: 0,
            horizon_not_before: None,
            horizon_pause: UNSEEN_PAUSE_MIN,
            horizon_retries: 0,
            resolve_queue: VecDeque::new(),
            refusals: refusals::Refusals::default(),
            outdated: outdated::Outdated::default(),
            resolving: HashMap::new(),
            resolving_again: HashSet::new(),
            grace_ends: BTreeMap::new(),
            ready: BTreeMap::new(),
            idle,
            locks: Locks::default(),
            breakers: HashMap::new(),
            received: Lsn::ZERO,
            confirmed: Lsn::ZERO,
            poke_not_before: None,
            poke_early_not_before: None,
            next_number: 1,
            views: HashMap::new(),
            outputs: VecDeque::new(),
            counts: Counts::default(),
            verdicts,
            ledger: Ledger::default(),
            doubt: None,
            doubt_at: None,
            snapshots,
            learn_at: None,
            sweep_at: None,
            history: Box::new(History::new(history)),
            replaying: VecDeque::new(),
            walked: (0, 0),
            awaited: company::Awaited::default(),
            rejoining: VecDeque::new(),
            replay_at: None,
            sessions: Sessions::default(),
            answered: HashMap::new(),
            catalog_from: None,
            regranted: None,
            was_away: false,
            wal_end: Lsn::ZERO,
            says_from: None,
            hearing: Box::default(),
        }
    }

    /// Takes the next thing to do.
    pub(super) fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Whether the stream should be read on: false while sound lanes or the releases lag behind.
    pub(super) fn wants_stream(&self) -> bool {
        self.full.is_empty()
            && self.waiting_bytes < WAITING_BYTES_MAX
            && self.unseen.len() < UNSEEN_MAX
    }

    /// Whether changes flow.
    pub(super) fn is_ready(&self) -> bool {
        self.has_catalog && self.streaming
    }

    pub(super) fn counts(&self) -> Counts {
        self.counts
    }

    /// Verdicts that needed no question.
    pub(super) fn judged(&self) -> Judged {
        self.verdicts.judged()
    }

    /// What becomes of policies, for operators.
    pub(super) fn policy_state(&self) -> PolicyState {
        PolicyState {
            verdicts: self.ledger.tables(),
            ..self.verdicts.state()
        }
    }

    /// Identities that needed no verdict: they are outside of a change's audience.
    pub(super) fn passed_over(&self) -> Judged {
        self.verdicts.passed_over()
    }

    /// Who may come back.
    #[cfg(test)]
    pub(super) fn sessions(&mut self) -> &mut Sessions {
        &mut self.sessions
    }

    /// The same of those who hear what the database says.
    #[cfg(test)]
    pub(super) fn heard_sessions(&mut self) -> &mut Sessions {
        &mut self.hearing.sessions
    }

    /// Bytes of recent transactions.
    pub(super) fn history_bytes(&self) -> usize {
        self.history.bytes()
    }

    /// Bytes of recent transactions in the file.
    pub(super) fn history_file_bytes(&self) -> usize {
        self.history.file_bytes()
    }

    /// How often a part of the past was read from the file.
    #[cfg(test)]
    pub(super) fn history_reads(&self) -> u64 {
        self.history.reads()
    }

    /// The tables that compiled policies look into.
    pub(super) fn shadow_sizes(&self) -> Sizes {
        self.verdicts.sizes()
    }

    /// What became of snapshots, and the bytes of rows that wait for their sockets.
    pub(super) fn snapshot_counts(&self) -> (SnapshotCounts, usize) {
        (self.snapshots.counts(), self.snapshots.kept_bytes())
    }

    /// A table was loaded, or could not be.
    pub(super) fn handle_shadow(&mut self, now: Instant, result: LoadResult) {
        self.verdicts.loaded(result);
        self.advance(now);
    }

    /// What was read together with the catalog that comes next.
    pub(super) fn expect_knowledge(&mut self, knowledge: Option<Box<Knowledge>>) {
        self.verdicts.expect(knowledge);
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
        let may_look = self.may_take_horizon();
        let horizon = self.horizon_not_before.filter(|_| may_look);
        let poke = self
            .poke_not_before
            .filter(|_| !self.awaiting_successor.is_empty());
        let look = self.look_at.filter(|_| may_look && self.needs_catalog());
        let unseen = self.unseen_at.filter(|_| may_look && self.streaming);
        let unseen = unseen.map(|at| self.horizon_not_before.map_or(at, |not| at.max(not)));
        let locks = self.locks.next_timeout();
        let room = self.snapshots.next_timeout();
        let replay = self.replay_at;
        [
            grace,
            horizon,
            poke,
            look,
            unseen,
            locks,
            room,
            self.sweep_at,
            replay,
            self.hearing.turn_at,
        ]
        .into_iter()
        .flatten()
        .min()
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
            let subscriber = self.subscribers.get_mut(&id);
            if let Some(grace) = subscriber.and_then(|subscriber| subscriber.grace.take()) {
                self.give_up_grace(now, id, grace);
            }
            self.end_grace_of_snapshot(now, id);
        }
        for lane in self.locks.due(now) {
            self.check_lane(now, lane);
        }
        if self.sweep_at.is_some_and(|time| time <= now) {
            self.sweep(now);
        }
        self.replay(now);
        self.hear_on(now);
        self.advance(now);
    }

    /// Does whatever has become possible.
    fn advance(&mut self, now: Instant) {
        // Not everybody has been routed yet what counts as routed below.
        if self.release.is_some() {
            return self.ask_what_is_ready(now);
        }
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
        while self.streaming
            && let Some(request) = self.verdicts.next_load()
        {
            self.outputs.push_back(Output::LoadShadow(request));
        }
        self.take_horizon(now);
        self.expire_pending(now);
        self.log.settle();
        self.request_snapshots(now);
        let (in_memory, _) = self.log.bytes();
        self.history.bound(now, in_memory);
        self.ask_what_is_ready(now);
        self.confirm();
    }

    /// Whether somebody depends on the catalog although nothing happens. Members of private channels are not known here.
    fn needs_catalog(&self) -> bool {
        !self.subscribers.is_empty() || !self.catalog.messages.is_empty()
    }

    /// False while an answer is awaited that comes before the next snapshot.
    fn may_take_horizon(&self) -> bool {
        !self.horizon_open && !self.catalog_loading && self.resolving_again.is_empty()
    }

    fn take_horizon(&mut self, now: Instant) {
        let joins = !self.joining.is_empty() || !self.hearing.asking.is_empty();
        let joining = (self.streaming && joins) || self.refusals.wait() || self.outdated.wait();
        let look = self.needs_catalog() && self.look_at.is_some_and(|time| time <= now);
        let unseen = self.streaming && self.unseen_at.is_some_and(|time| time <= now);
        if !self.may_take_horizon()
            || self.horizon_not_before.is_some_and(|time| now < time)
            || (self.has_catalog && self.waiting.is_empty() && !joining && !look && !unseen)
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
            self.note_busy(id);
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
    pub(super) fn routed(&self) -> Lsn {
        self.waiting
            .front()
            .map_or(self.received, |waiting| waiting.commit().lsn)
    }

    fn confirm(&mut self) {
        let routed = self.routed();
        // Nor what is not known to be visible: whoever joins after a restart may not see it, and it must come again.
        let unseen = self.unseen.iter().find_map(|unseen| unseen.lsn);
        let done = unseen.map_or(routed, |unseen| unseen.min(routed));
        if let Some(epoch) = self.epoch
            && done > self.confirmed
        {
            self.confirmed = done;
            self.outputs.push_back(Output::Confirm(epoch, done));
        }
    }

    fn number(&mut self) -> u64 {
        let number = self.next_number;
        self.next_number = number.saturating_add(1);
        number
    }
}
