//! A lane: the changes that wait for one identity's verdicts, in order.
//!
//! Nothing overtakes within a lane, and no lane waits for another. A lane asks one question at a time. A version that
//! was superseded before Postgres could judge it is merged into its successor by the rule of net effects, so that it is
//! never merely dropped (design: an answer describes the present).

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::merge::{lacks_values, row_after};
use super::old::OldRow;
use super::part::Part;
use super::standing::{Pool, Standing};
use super::subscriber::{Subscriber, SubscriberId};
use super::verdicts::Sitting;
use super::view::{RowKey, RowKeys, View};
use crate::change::{Change, ChangeKind, Datum, Lsn, Oid, OldKind, OldTuple, Relation, Tuple};
use crate::policy::{Answer, Expected, Found, Identity, Predicate, Question, Row};
use crate::realtime::payload::Withheld;
use crate::routing::Index;

/// Names a lane; never used twice.
pub(super) type LaneId = u64;

/// Rows in one question.
const QUESTION_ROWS_MAX: usize = 1000;
/// Rows in the first question of a lane, whose policy may be of any cost.
const QUESTION_ROWS_FIRST: usize = 64;
/// A question that took less could have had more rows; one that took twice as long should have had fewer.
const QUESTION_TIME: Duration = Duration::from_millis(40);
/// Bytes of tuples in one question.
const QUESTION_BYTES_MAX: usize = 1 << 20;
/// Subscribers beyond which filters are looked up instead of being gone through.
const SCANNED_MAX: usize = 16;
/// Superseded or missing rows beyond which a question also asks whether the row is there at all.
const CONFIRM_FROM: usize = 1000;

/// All lanes. Their ids are ours, so that nobody can make them collide.
pub(super) type Lanes = HashMap<LaneId, Lane, foldhash::fast::RandomState>;

/// Who shares a lane: subscribers with equal identities, apart from those with filters that Postgres must decide, who
/// share one only with their like.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct LaneKey {
    pub(super) identity: Identity,
    /// The bindings of subscribers whose filters are not certain.
    pub(super) uncertain: Option<Arc<str>>,
    /// The one subscriber of a lane that nobody shares: what is outstanding there, of the past or beside a snapshot, must not be
    /// merged with others' changes.
    pub(super) alone: Option<SubscriberId>,
}

/// The changes that wait for one identity's verdicts.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) key: LaneKey,
    pub(super) subscribers: Vec<SubscriberId>,
    /// The same by what they ask for, once they are many.
    pub(super) index: Option<Index<SubscriberId>>,
    /// Those that hold their last change back until the transaction ends.
    pub(super) holding: Vec<SubscriberId>,
    pub(super) queue: VecDeque<Item>,
    /// Rows in `queue`.
    pub(super) queued_rows: usize,
    /// Sizes of the parts in `queue`.
    pub(super) queued_bytes: usize,
    /// Parts that it has not been through yet, by number; never without something in `queue`. See `conductor/aside.rs`.
    pub(super) aside: Vec<(u64, Arc<Part>)>,
    /// Nothing is settled or asked: what waits may be in the snapshot that is being taken.
    pub(super) is_paused: bool,
    pub(super) asking: Option<Asking>,
    /// Where the lane waits for a connection: fewest failures first, then longest waiting.
    pub(super) ready: Option<(Pool, (u32, u64, LaneId))>,
    pub(super) standing: Standing,
    /// Questions in a row that Postgres refused to answer.
    pub(super) raises: u32,
    /// Rows in the next question; halved to find the row that raises.
    pub(super) rows_max: usize,
    /// Tables whose policies raise or time out, with the SQLSTATE that subscribers were told.
    pub(super) troubles: HashMap<Oid, Box<str>>,
    /// Subscribers for whom what is hidden is kept.
    pub(super) keeping: usize,
    /// For verdicts that need no question.
    pub(super) sitting: Sitting,
    /// Rows with a verdict outstanding.
    open: HashMap<RowKey, Open>,
    /// Rows that came to be `open`, for who goes through the past; `None`: they are not noted.
    pub(super) opened: Option<Vec<RowKey>>,
    /// Versions whose successor is to come.
    pub(super) pending: HashMap<RowKey, Pending>,
    /// The subscriber has gone through the past up to this commit; `None` if there is nothing more to go through.
    pub(super) replayed: Option<Lsn>,
}

/// SQLSTATE of a statement that its timeout ended.
pub(super) const QUERY_CANCELED: &str = "57014";

/// What a lane has to judge of one part.
#[derive(Debug)]
pub(super) struct Item {
    /// Rises with every part that is routed.
    pub(super) number: u64,
    pub(super) part: Arc<Part>,
    /// For this subscriber only: changes to be judged again after its token changed.
    pub(super) only: Option<SubscriberId>,
    /// No further change of the transaction follows for those that this is for.
    pub(super) ends: bool,
    pub(super) rows: Vec<ItemRow>,
    /// Rows whose answer is outstanding.
    pub(super) undecided: usize,
}

/// One change in an [`Item`].
#[derive(Debug)]
pub(super) struct ItemRow {
    /// Index of the change in the part.
    pub(super) change: u32,
    pub(super) state: RowState,
    pub(super) old: OldRow,
    /// The row must be there with this content although no policy asks for it.
    pub(super) must_exist: bool,
    /// The version that the change follows, if it leaves out values of it that this lane may not have told.
    pub(super) follows: Option<Tuple>,
    /// Postgres has confirmed these values.
    pub(super) is_confirmed: bool,
    pub(super) predicates: Box<[Predicate]>,
    pub(super) truths: Box<[bool]>,
}

/// Versions of a row with a verdict outstanding.
#[derive(Debug, Default)]
struct Open {
    count: u32,
    /// The last of them: the number of its item, and its index there.
    last: (u64, usize),
}

/// What is known about a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RowState {
    /// Grants alone decide: allowed.
    Allowed,
    /// Grants alone decide: told without content.
    Withheld(Withheld),
    /// Matches no filter; here only because an earlier version of the row is open.
    Tracked,
    /// Passes no filter any more; here for those who are told that rows leave.
    Left,
    /// To be asked.
    Unasked,
    /// Asked.
    Asked,
    /// Answered; the position bounds whatever superseded the row.
    Answered(Found, Lsn),
    /// Asked, and raised or timed out; or no longer asked because another row of the identity did.
    Denied,
    /// Decided without asking: the identity did not see the row when it committed.
    Hidden,
    /// Decided without asking: a SELECT would have raised.
    Raised,
    /// Denied without being asked: the identity must not be, or the row cannot be found by key.
    Refused,
    /// A DELETE of the past: told to those who were shown the row before.
    IfShown,
}

impl ItemRow {
    pub(super) fn new(change: u32, state: RowState, predicates: Vec<Predicate>) -> Self {
        Self {
            change,
            state,
            old: OldRow::Unknown,
            must_exist: false,
            follows: None,
            is_confirmed: false,
            predicates: predicates.into(),
            truths: Box::default(),
        }
    }

    pub(super) fn with_old(self, old: OldRow) -> Self {
        Self { old, ..self }
    }
}

impl RowState {
    pub(super) const fn is_open(self) -> bool {
        matches!(self, Self::Unasked | Self::Asked)
    }
}

/// A question on its way.
#[derive(Debug)]
pub(super) struct Asking {
    /// Item number and row index of each row of the question.
    pub(super) rows: Vec<(u64, usize)>,
    pub(super) table: Oid,
}

/// A version that was superseded, or perhaps was, before it was judged.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    /// The subscriber has not seen the row before: the successor is announced as an INSERT.
    pub(super) inserted: bool,
    /// The row before the first pending version, if its key differed.
    pub(super) first_old: Option<OldTuple>,
    /// The version itself, as far as it is known, and its columns.
    pub(super) version: Option<(Arc<Relation>, Tuple)>,
    /// The successor starts before this position.
    pub(super) read_before: Lsn,
    /// There is a successor: Postgres showed another content. Otherwise the row may just be hidden.
    pub(super) certain: bool,
    pub(super) table: Oid,
}

impl Lane {
    pub(super) fn new(key: LaneKey) -> Self {
        Self {
            key,
            subscribers: Vec::new(),
            index: None,
            holding: Vec::new(),
            queue: VecDeque::new(),
            queued_rows: 0,
            queued_bytes: 0,
            aside: Vec::new(),
            is_paused: false,
            asking: None,
            ready: None,
            standing: Standing::New,
            raises: 0,
            rows_max: QUESTION_ROWS_FIRST,
            troubles: HashMap::new(),
            keeping: 0,
            sitting: Sitting::default(),
            open: HashMap::new(),
            opened: None,
            pending: HashMap::new(),
            replayed: None,
        }
    }

    /// Whether changes go through it as they come.
    pub(super) fn keeps_up(&self) -> bool {
        match self.standing {
            Standing::Proven => true,
            // Its table may have no policies, so that it is never asked.
            Standing::New => self.queue.is_empty(),
            Standing::Slow { .. } => false,
        }
    }

    /// Whether it waits for its first answer.
    pub(super) fn is_untried(&self) -> bool {
        self.standing == Standing::New && !self.queue.is_empty()
    }

    /// Whether changes that its identity may not see matter to it all the same: they follow one that waits, show that
    /// trouble is over, or are kept.
    pub(super) fn is_busy(&self) -> bool {
        !self.queue.is_empty()
            || !self.open.is_empty()
            || !self.pending.is_empty()
            || !self.troubles.is_empty()
            || !self.holding.is_empty()
            || self.keeping > 0
    }

    /// Adds a subscriber.
    pub(super) fn enter(
        &mut self,
        id: SubscriberId,
        subscribers: &HashMap<SubscriberId, Subscriber>,
    ) {
        self.subscribers.push(id);
        let asks = |id: &SubscriberId| Some((*id, &*subscribers.get(id)?.subscriptions));
        match &mut self.index {
            Some(index) => {
                if let Some((id, subscriptions)) = asks(&id) {
                    index.insert(id, subscriptions);
                }
            }
            None if self.subscribers.len() > SCANNED_MAX => {
                let mut index = Index::default();
                for (id, subscriptions) in self.subscribers.iter().filter_map(asks) {
                    index.insert(id, subscriptions);
                }
                self.index = Some(index);
            }
            None => {}
        }
        if let Some(subscriber) = subscribers.get(&id) {
            if subscriber.holds() {
                self.holding.push(id);
            }
            if subscriber.grace.is_some() {
                self.keeping = self.keeping.saturating_add(1);
            }
        }
    }

    /// Removes a subscriber, which still asks for what it asked for when it came.
    pub(super) fn leave(&mut self, subscriber: &Subscriber) {
        self.subscribers.retain(|member| *member != subscriber.id);
        self.holding.retain(|member| *member != subscriber.id);
        if let Some(index) = &mut self.index {
            index.remove(subscriber.id, &subscriber.subscriptions);
        }
        if self.subscribers.len() <= SCANNED_MAX / 2 {
            self.index = None;
        }
        if subscriber.grace.is_some() {
            self.keeping = self.keeping.saturating_sub(1);
        }
    }

    /// Those of its subscribers whose filters a change may pass.
    pub(super) fn interested(&self, change: &Change, any_event: bool) -> Cow<'_, [SubscriberId]> {
        match &self.index {
            Some(index) => index.candidates(change, any_event).into_iter().collect(),
            None => Cow::Borrowed(&self.subscribers),
        }
    }

    /// Whether a verdict on an earlier version of one of the change's rows is outstanding.
    pub(super) fn follows_open_row(&self, keys: &RowKeys, part: &Part, index: u32) -> bool {
        if self.open.is_empty() && self.pending.is_empty() {
            return false;
        }
        let (before, after) = part.row_keys(keys, index);
        let is_open = |key: Option<RowKey>| {
            key.is_some_and(|key| self.open.contains_key(&key) || self.pending.contains_key(&key))
        };
        is_open(before) || is_open(after)
    }

    /// Whether a verdict on any row is outstanding, or a successor.
    pub(super) fn has_open_rows(&self) -> bool {
        !self.open.is_empty() || !self.pending.is_empty()
    }

    /// Rows that came to wait for a verdict since the last call; all that wait for one, or for a successor, if they were not
    /// noted.
    pub(super) fn take_opened(&mut self) -> Vec<RowKey> {
        if let Some(opened) = &mut self.opened {
            return std::mem::take(opened);
        }
        self.opened = Some(Vec::new());
        self.open
            .keys()
            .chain(self.pending.keys())
            .copied()
            .collect()
    }

    /// Whether what happens to other rows matters to it as well: it shows that trouble is over, ends what is held back, is
    /// kept, or may be of a row that it has not come to.
    pub(super) fn hears_all(&self) -> bool {
        !self.troubles.is_empty()
            || !self.holding.is_empty()
            || !self.aside.is_empty()
            || self.keeping > 0
    }

    pub(super) fn push(&mut self, keys: &RowKeys, mut item: Item) {
        if self.has_open_rows() {
            self.find_followed(keys, &mut item);
        }
        for (index, row) in item.rows.iter().enumerate() {
            if row.state.is_open()
                && let (_, Some(key)) = item.part.row_keys(keys, row.change)
            {
                let open = self.open.entry(key).or_default();
                open.count = open.count.saturating_add(1);
                open.last = (item.number, index);
                if open.count == 1
                    && let Some(opened) = &mut self.opened
                {
                    opened.push(key);
                }
            }
        }
        self.queued_rows = self.queued_rows.saturating_add(item.rows.len());
        self.queued_bytes = self.queued_bytes.saturating_add(item.part.size);
        self.queue.push_back(item);
    }

    /// Finds the versions that changes follow which leave values out. Only Postgres can confirm these, also where a plan or
    /// grants alone have allowed the row.
    fn find_followed(&self, keys: &RowKeys, item: &mut Item) {
        for row in &mut item.rows {
            let Some((change, view)) = item.part.change(row.change) else {
                continue;
            };
            let is_allowed = row.state == RowState::Allowed;
            if (row.state.is_open() || is_allowed)
                && lacks_values(change)
                && let (Some(key), _) = item.part.row_keys(keys, row.change)
                && let Some((relation, version)) = self.last_version(key)
                && relation == change.relation
            {
                row.follows = Some(version);
                if is_allowed {
                    row.state = RowState::Unasked;
                    row.must_exist |= !policies_ask(change, view, self.key.identity.role());
                    item.undecided = item.undecided.saturating_add(1);
                }
            }
        }
    }

    /// The last version of a row that waits here, and its columns.
    fn last_version(&self, key: RowKey) -> Option<(Arc<Relation>, Tuple)> {
        let Some(open) = self.open.get(&key) else {
            return self.pending.get(&key)?.version.clone();
        };
        let (number, index) = open.last;
        let place = self.queue.binary_search_by_key(&number, |item| item.number);
        let item = self.queue.get(place.ok()?)?;
        let row = item.rows.get(index)?;
        version_of(item.part.change(row.change)?.0, row)
    }

    /// Takes the first item if all its rows are decided.
    pub(super) fn pop_decided(&mut self, keys: &RowKeys) -> Option<Item> {
        if self.queue.front()?.undecided > 0 {
            return None;
        }
        let item = self.queue.pop_front()?;
        self.queued_rows = self.queued_rows.saturating_sub(item.rows.len());
        self.queued_bytes = self.queued_bytes.saturating_sub(item.part.size);
        if !self.open.is_empty() {
            for row in &item.rows {
                let (_, key) = item.part.row_keys(keys, row.change);
                self.close(key, row.state);
            }
        }
        Some(item)
    }

    fn close(&mut self, key: Option<RowKey>, state: RowState) {
        // Only rows that were open are counted; the other states were decided when the item came.
        if !matches!(state, RowState::Answered(..) | RowState::Denied) {
            return;
        }
        let Some(key) = key else { return };
        if let Some(open) = self.open.get_mut(&key) {
            open.count = open.count.saturating_sub(1);
            if open.count == 0 {
                self.open.remove(&key);
            }
        }
    }

    /// Whether something is there to be asked and nothing is being asked.
    pub(super) fn has_question(&self) -> bool {
        self.asking.is_none()
            && self
                .queue
                .iter()
                .any(|item| item.rows.iter().any(|row| row.state == RowState::Unasked))
    }

    /// Hides unasked rows that `is_hidden` says so of, as if Postgres had, up to as many others as make a question. Not where
    /// several versions of a row are open: only Postgres says what becomes of all. Whether there were any.
    pub(super) fn hide_unasked(
        &mut self,
        keys: &RowKeys,
        upto: Lsn,
        mut is_hidden: impl FnMut(&mut Sitting, &Identity, (&Part, u64), u32) -> bool,
    ) -> bool {
        let mut others = 0;
        let mut any = false;
        for item in &mut self.queue {
            for row in &mut item.rows {
                if row.state != RowState::Unasked || row.must_exist {
                    continue;
                }
                let (before, after) = item.part.row_keys(keys, row.change);
                let count = |key: Option<RowKey>| {
                    let open = key.and_then(|key| self.open.get(&key));
                    open.map_or(0, |open| open.count)
                };
                let waits =
                    |key: Option<RowKey>| key.is_some_and(|key| self.pending.contains_key(&key));
                let is_alone = count(after) <= 1
                    && (before == after || count(before) == 0)
                    && !waits(before)
                    && !waits(after);
                let hides = is_alone
                    && is_hidden(
                        &mut self.sitting,
                        &self.key.identity,
                        (&item.part, item.number),
                        row.change,
                    );
                if hides {
                    row.state = RowState::Answered(Found::Hidden, upto);
                    item.undecided = item.undecided.saturating_sub(1);
                    any = true;
                } else {
                    others += 1;
                    if others > self.rows_max {
                        return any;
                    }
                }
            }
        }
        any
    }

    /// The next question: unasked rows of one table, oldest first. `columns` gives the columns of the table that are
    /// about to be sent.
    pub(super) fn question(&mut self, columns: impl Fn(&View) -> Arc<[usize]>) -> Option<Question> {
        let mut question: Option<Question> = None;
        let mut asking = Asking {
            rows: Vec::new(),
            table: 0,
        };
        let mut bytes = 0_usize;
        'items: for item in &mut self.queue {
            for (index, row) in item
                .rows
                .iter_mut()
                .enumerate()
                .filter(|(_, row)| row.state == RowState::Unasked)
            {
                let Some((change, view)) = item.part.change(row.change) else {
                    continue;
                };
                let question = question.get_or_insert_with(|| {
                    asking.table = view.table.oid;
                    Question {
                        identity: self.key.identity.clone(),
                        table: Arc::clone(&view.table),
                        columns: columns(view),
                        rows: Vec::new(),
                        confirm_hidden: self.pending.len() > CONFIRM_FROM,
                    }
                });
                // Another catalog's columns may stand elsewhere.
                if !Arc::ptr_eq(&question.table, &view.table)
                    || question.rows.len() >= self.rows_max
                    || bytes > QUESTION_BYTES_MAX
                {
                    break 'items;
                }
                bytes = bytes.saturating_add(item.part.size / item.part.changes.len().max(1));
                let about_row =
                    row.must_exist || policies_ask(change, view, self.key.identity.role());
                (question.rows).push(asked_row(change, view, &question.columns, row, about_row));
                asking.rows.push((item.number, index));
                row.state = RowState::Asked;
            }
        }
        self.asking = question.is_some().then_some(asking);
        question
    }

    /// Sizes the next question by the time that the last one took.
    pub(super) fn fit_question(&mut self, took: Duration) {
        if took < QUESTION_TIME {
            self.rows_max = self.rows_max.saturating_mul(2).min(QUESTION_ROWS_MAX);
        } else if took > QUESTION_TIME.saturating_mul(2) {
            self.rows_max = (self.rows_max / 2).max(1);
        }
    }

    /// Puts the outcome of the open question where it belongs.
    pub(super) fn answer(&mut self, asking: &Asking, read_before: Lsn, answers: &[Answer]) {
        for ((item, row), answer) in asking.rows.iter().zip(answers) {
            self.decide(
                *item,
                *row,
                RowState::Answered(answer.found, read_before),
                Some(answer),
            );
        }
    }

    /// Gives all rows of the open question this state.
    pub(super) fn answer_all(&mut self, asking: &Asking, state: RowState) {
        for (item, row) in &asking.rows {
            self.decide(*item, *row, state, None);
        }
    }

    /// Whether the subscribers were told that their policy on the table times out, and it was not answered since.
    pub(super) fn times_out(&self, table: Oid) -> bool {
        self.troubles
            .get(&table)
            .is_some_and(|state| **state == *QUERY_CANCELED)
    }

    /// Denies what is still to be asked.
    pub(super) fn deny_unasked(&mut self) {
        for item in &mut self.queue {
            for row in item
                .rows
                .iter_mut()
                .filter(|row| row.state == RowState::Unasked)
            {
                row.state = RowState::Denied;
                item.undecided = item.undecided.saturating_sub(1);
            }
        }
    }

    fn decide(&mut self, item: u64, row: usize, state: RowState, answer: Option<&Answer>) {
        let Ok(position) = self.queue.binary_search_by_key(&item, |item| item.number) else {
            return;
        };
        let Some(item) = self.queue.get_mut(position) else {
            return;
        };
        let Some(row) = item.rows.get_mut(row) else {
            return;
        };
        row.state = state;
        if let Some(answer) = answer {
            row.truths.clone_from(&answer.predicates);
            row.is_confirmed = answer.as_supposed;
        }
        if !state.is_open() {
            item.undecided = item.undecided.saturating_sub(1);
        }
    }

    /// Drops the items that are not wanted. None of them may have been asked about.
    pub(super) fn keep_only(&mut self, keys: &RowKeys, wanted: impl Fn(&Item) -> bool) {
        let items = std::mem::take(&mut self.queue);
        self.clear();
        for item in items.into_iter().filter(wanted) {
            self.push(keys, item);
        }
    }

    /// Whether nothing waits, and nothing that was settled waits for a successor.
    pub(super) fn is_quiet(&self) -> bool {
        self.queue.is_empty() && self.pending.is_empty() && self.asking.is_none()
    }

    /// Drops everything that waits; the answer to an open question will find nothing.
    pub(super) fn clear(&mut self) {
        self.queue.clear();
        self.aside.clear();
        self.queued_rows = 0;
        self.queued_bytes = 0;
        self.open.clear();
        self.pending.clear();
    }

    /// Every commit that starts before this is settled here, given that all before `routed` were routed.
    pub(super) fn settled_before(&self, routed: Lsn) -> Lsn {
        // What a lane has of its own is settled for its only subscriber when the past is.
        let is_alone = self.key.alone.is_some();
        let mut queued = self.queue.iter();
        let queued = queued.find(|item| is_alone || item.only.is_none());
        let waits = queued.map(|item| &item.part);
        waits
            .or(self.aside.first().map(|(_, part)| part))
            .map_or(self.replayed.unwrap_or(routed), |part| part.commit.lsn)
            .min(routed)
    }
}

/// The row before and after the change; the same unless the key changed. A DELETE has no row after, an INSERT none
/// before: the one that is there stands for both.
pub(super) fn row_keys(
    keys: &RowKeys,
    change: &Change,
    view: &View,
) -> (Option<RowKey>, Option<RowKey>) {
    match &change.kind {
        ChangeKind::Insert { new } => {
            let key = keys.of(view, new);
            (key, key)
        }
        ChangeKind::Update { old, new } => {
            let after = keys.of(view, new);
            let before = old.as_ref().and_then(|old| keys.of(view, &old.tuple));
            (before.or(after), after)
        }
        ChangeKind::Delete { old } => {
            let key = keys.of(view, &old.tuple);
            (key, key)
        }
        ChangeKind::Truncate => (None, None),
    }
}

/// Whether Postgres must be asked about the row itself: policies apply, and there is a row to look at.
pub(super) fn policies_ask(change: &Change, view: &View, role: &str) -> bool {
    let apply = view
        .table
        .access
        .get(role)
        .is_some_and(|access| access.policies_apply);
    apply
        && matches!(
            change.kind,
            ChangeKind::Insert { .. } | ChangeKind::Update { .. }
        )
}

/// What the old row of an update has in a column, which is sent where the new one leaves it out as unchanged. What the stream
/// does not tell is not sent.
fn known_before(change: &Change, index: usize) -> Option<Datum<'_>> {
    let ChangeKind::Update { old: Some(old), .. } = &change.kind else {
        return None;
    };
    let is_known = old.kind == OldKind::Full || change.relation.columns.get(index)?.in_identity;
    old.tuple.get(index).filter(|_| is_known)
}

/// The row after a change as far as it is known, and its columns.
pub(super) fn version_of(change: &Change, row: &ItemRow) -> Option<(Arc<Relation>, Tuple)> {
    let version = row_after(change, row.follows.as_ref())?;
    Some((Arc::clone(&change.relation), version))
}

fn asked_row(
    change: &Change,
    view: &View,
    columns: &[usize],
    row: &ItemRow,
    about_row: bool,
) -> Row {
    let new = match &change.kind {
        ChangeKind::Insert { new } | ChangeKind::Update { new, .. } if about_row => Some(new),
        ChangeKind::Insert { .. }
        | ChangeKind::Update { .. }
        | ChangeKind::Delete { .. }
        | ChangeKind::Truncate => None,
    };
    let key = new.and_then(|new| view.key_of(new));
    let supposed = |column: usize| {
        let text = (row.follows.as_ref()?.get(view.relation_column(column)?)?).text()?;
        Some(Expected::Supposed(text.into()))
    };
    let content = |column: &usize| match new
        .zip(view.relation_column(*column))
        .and_then(|(new, index)| new.get(index))
    {
        Some(Datum::Text(text)) => Expected::Text(text.into()),
        Some(Datum::Null) => Expected::Null,
        Some(Datum::Unchanged) => match view
            .relation_column(*column)
            .and_then(|index| known_before(change, index))
        {
            Some(Datum::Text(text)) => Expected::Text(text.into()),
            Some(Datum::Null) => Expected::Null,
            Some(Datum::Unchanged) | None => supposed(*column).unwrap_or(Expected::Any),
        },
        // Added since: it is not sent, so it need not be the same.
        None => Expected::Any,
    };
    let content = if key.is_some() {
        columns.iter().map(content).collect()
    } else {
        Box::default()
    };
    Row {
        key,
        content,
        predicates: row.predicates.clone(),
    }
}
