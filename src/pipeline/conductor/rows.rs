//! The rows of a part as a lane sees them before Postgres is asked. Plain functions.

use super::aside::can_be_put_aside;
use crate::catalog::Access;
use crate::change::{Change, ChangeKind, Oid, OldKind, OldTuple};
use crate::clock;
use crate::pipeline::lane::{ItemRow, Lane, RowState, policies_ask};
use crate::pipeline::ledger::{Ledger, Source};
use crate::pipeline::old::{OldRow, Past};
use crate::pipeline::part::Part;
use crate::pipeline::settle::receives;
use crate::pipeline::subscriber::{Subscriber, SubscriberId};
use crate::pipeline::verdicts::{Judged, Judgement, Verdicts};
use crate::pipeline::view::{RowKeys, View};
use crate::realtime::payload::Withheld;
use std::collections::{BTreeSet, HashMap};
use std::time::Instant;

/// Which changes of a part may concern a lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Visit {
    /// Any.
    All,
    /// These indexes, ascending.
    Some(Vec<u32>),
}

impl Default for Visit {
    fn default() -> Self {
        Self::Some(Vec::new())
    }
}

impl Visit {
    pub(super) fn add(&mut self, index: u32) {
        match self {
            Self::All => {}
            Self::Some(indexes) => indexes.push(index),
        }
    }

    /// The changes among `count`.
    fn indexes(&self, count: usize) -> Box<dyn Iterator<Item = u32> + '_> {
        match self {
            Self::All => Box::new(0..u32::try_from(count).unwrap_or(u32::MAX)),
            Self::Some(indexes) => Box::new(indexes.iter().copied()),
        }
    }
}

/// The rows of a part that concern a lane.
pub(super) fn routed_rows(
    now: Instant,
    lane: &Lane,
    subscribers: &HashMap<SubscriberId, Subscriber>,
    keys: &RowKeys,
    (part, number): (&Part, u64),
    visit: &Visit,
    past: &mut Past<'_>,
) -> Vec<ItemRow> {
    let receiving = |ids: &[SubscriberId]| -> Vec<&Subscriber> {
        ids.iter()
            .filter_map(|id| subscribers.get(id))
            .filter(|subscriber| receives(subscriber, number, false, part))
            .collect()
    };
    // Few enough to be gone through for each change.
    let all = lane.index.is_none().then(|| receiving(&lane.subscribers));
    let mut rows = Vec::new();
    if all.as_ref().is_some_and(Vec::is_empty) {
        return rows;
    }
    // Rows of this very part count as open for later rows of it only once pushed; a net effect has one row per key.
    for index in visit.indexes(part.changes.len()) {
        let Some((change, view)) = part.change(index) else {
            continue;
        };
        let follows = lane.follows_open_row(keys, part, index);
        let some;
        let members = match &all {
            Some(all) => all,
            None => {
                let access = view.table.access.get(lane.key.identity.role());
                some = if withheld(change, view, access).is_some() {
                    receiving(&lane.subscribers)
                } else {
                    receiving(&lane.interested(change, follows))
                };
                &some
            }
        };
        let mut saw = || past.saw(part, index);
        let row = routed_row(now, lane, members, (change, view, index), follows, &mut saw);
        if let Some(row) = row {
            rows.push(row);
        } else if follows {
            rows.push(ItemRow::new(index, RowState::Tracked, Vec::new()));
        }
    }
    rows
}

/// What a part is for all lanes of one role.
#[derive(Clone, Copy, Debug)]
pub(super) struct Nature {
    /// It is small, and nothing in it goes without asking Postgres.
    pub(super) is_asked: bool,
    /// Likewise, and the lane's identity may read whatever it needs to be asked for.
    pub(super) is_for_later: bool,
}

impl Nature {
    pub(super) fn of(part: &Part, role: &str, verdicts: &Verdicts, knows_grants: bool) -> Self {
        let all = |holds: &dyn Fn(&Change, &View) -> bool| {
            (part.changes.iter().zip(&part.views))
                .all(|(change, view)| view.as_ref().is_some_and(|view| holds(change, view)))
        };
        let is_asked = part.changes.len() <= FEW_CHANGES
            && !verdicts.may_judge(part, role)
            && all(&|change, view| policies_ask(change, view, role));
        Self {
            is_asked,
            is_for_later: is_asked
                && knows_grants
                && can_be_put_aside(part)
                && all(&|change, view| {
                    withheld(change, view, view.table.access.get(role)).is_none()
                }),
        }
    }
}

/// Whether a part of which everything must be asked is denied to the whole lane without a look at it: the identity must not
/// be asked for the moment, or times out and waits for its turn with another row. A thousand such lanes should cost next to
/// nothing.
pub(super) fn is_denied_unseen(now: Instant, lane: &Lane, part: &Part) -> bool {
    if !lane.pending.is_empty() || lane.keeping > 0 {
        return false;
    }
    if lane.queue.is_empty() {
        return lane.standing.pool(now).is_none();
    }
    let mut views = part.views.iter().flatten();
    !lane.standing.is_sound() && views.all(|view| lane.times_out(view.table.oid))
}

/// Changes of a part that are worth a look whether all of them must be asked.
pub(super) const FEW_CHANGES: usize = 16;

/// A change as a row for `members`, if any of them wants it. `any_event`: it may become another action by merging. `saw` says
/// whether the lane's identity saw the row before the transaction.
pub(super) fn routed_row(
    now: Instant,
    lane: &Lane,
    members: &[&Subscriber],
    (change, view, index): (&Change, &View, u32),
    any_event: bool,
    saw: &mut dyn FnMut() -> OldRow,
) -> Option<ItemRow> {
    let access = view.table.access.get(lane.key.identity.role());
    if let Some(withheld) = withheld(change, view, access) {
        // Told whatever the filter: nobody can say what the row holds (protocol.md §4.6).
        let wanted = (members.iter()).any(|member| member.wants_kind(view.table.oid, &change.kind));
        return wanted.then(|| ItemRow::new(index, RowState::Withheld(withheld), Vec::new()));
    }
    let apply = access.is_some_and(|access| access.policies_apply);
    let wants = |hides_old: bool| {
        let mut predicates = Vec::new();
        let mut wanted = false;
        for member in members {
            wanted |= member.wants(change, view, hides_old, any_event, &mut predicates);
        }
        (wanted, predicates)
    };
    let leaves = || members.iter().any(|member| member.wants_left(change, view));
    let (mut wanted, mut predicates) = wants(apply);
    let mut old = OldRow::Unknown;
    match &change.kind {
        ChangeKind::Delete { .. } if apply && (wanted || wants(false).0) => {
            old = saw();
            if old == OldRow::Seen {
                (wanted, predicates) = wants(false);
            }
        }
        ChangeKind::Update { old: tuple, .. } => {
            let left = leaves();
            let tells = |old: &OldTuple| old.kind == OldKind::Full;
            if !apply {
                old = OldRow::Seen;
            } else if left || (wanted && tuple.as_ref().is_some_and(tells)) {
                old = saw();
            }
            if left && !wanted && old == OldRow::Seen {
                return Some(ItemRow::new(index, RowState::Left, Vec::new()).with_old(old));
            }
        }
        ChangeKind::Insert { .. } | ChangeKind::Delete { .. } | ChangeKind::Truncate => {}
    }
    let state = match &change.kind {
        ChangeKind::Truncate => return None,
        ChangeKind::Delete { .. } if old == OldRow::Unseen => RowState::Hidden,
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
    if !matches!(state, RowState::Unasked | RowState::Refused) {
        predicates.clear();
    }
    wanted.then(|| ItemRow::new(index, state, predicates).with_old(old))
}

/// Decides what can be decided without asking: rows whose only question is the policy. Returns the tables whose policies
/// raised, with the first SQLSTATE, and those that a verdict came for.
pub(super) fn judge_rows(
    verdicts: &mut Verdicts,
    ledger: &mut Ledger,
    lane: &mut Lane,
    part: &Part,
    number: u64,
    rows: &mut [ItemRow],
) -> Vec<(Oid, Option<Box<str>>)> {
    let mut told: Vec<(Oid, Option<Box<str>>)> = Vec::new();
    for row in rows {
        if !matches!(row.state, RowState::Unasked | RowState::Refused) || !row.predicates.is_empty()
        {
            continue;
        }
        let Some((change, view)) = part.change(row.change) else {
            continue;
        };
        if !policies_ask(change, view, lane.key.identity.role()) {
            continue;
        }
        let before = (verdicts.judged(), clock::instant());
        let judgement = verdicts.judge(
            &mut lane.sitting,
            &lane.key.identity,
            part,
            number,
            row.change,
        );
        let more = verdicts.judged().since(before.0);
        if more != Judged::default() {
            let took = clock::instant().saturating_duration_since(before.1);
            ledger.add(&view.table, Source::Compiled, more, took);
        }
        let Some(judgement) = judgement else {
            continue;
        };
        let (state, raised) = match judgement {
            Judgement::Allowed => (RowState::Allowed, None),
            Judgement::Hidden => (RowState::Hidden, None),
            Judgement::Raised(state) => (RowState::Raised, Some(state)),
        };
        row.state = state;
        let table = view.table.oid;
        let news = raised.is_some() || lane.troubles.contains_key(&table);
        if news
            && told
                .last()
                .is_none_or(|last| *last != (table, raised.clone()))
        {
            told.push((table, raised));
        }
    }
    told
}

/// Takes back what the grants at hand cannot allow by themselves: of a commit that may be older than they are, Postgres is
/// asked whether the row can be seen now with this very content. Who may see a table today may not be shown what it held
/// when it was closed.
pub(super) fn doubt_grants(row: &mut ItemRow, change: &Change, view: &View, role: &str) {
    let access = view.table.access.get(role);
    if access.is_some_and(|access| access.policies_apply)
        || !matches!(row.state, RowState::Allowed | RowState::Unasked)
    {
        return;
    }
    match &change.kind {
        ChangeKind::Insert { new } | ChangeKind::Update { new, .. } => {
            row.must_exist = true;
            row.state = if view.key_of(new).is_some() {
                RowState::Unasked
            } else {
                RowState::Refused
            };
        }
        // Anybody is told of its key, and nobody of more.
        ChangeKind::Delete { .. } => row.must_exist = true,
        ChangeKind::Truncate => {}
    }
}

/// Whether the table is one of these; `None`: any is.
pub(super) fn is_among(tables: Option<&BTreeSet<Oid>>, view: &View) -> bool {
    tables.is_none_or(|tables| tables.contains(&view.table.oid))
}

/// Why a new row is announced without its content, if it is (protocol.md §4.6).
pub(super) fn withheld(change: &Change, view: &View, access: Option<&Access>) -> Option<Withheld> {
    match change.kind {
        ChangeKind::Delete { .. } | ChangeKind::Truncate => None,
        ChangeKind::Insert { .. } | ChangeKind::Update { .. } => {
            if view.table.primary_key.is_empty() {
                Some(Withheld::NoPrimaryKey)
            } else {
                let granted = access.is_some_and(|access| view.key_granted(access));
                (!granted).then_some(Withheld::Unauthorized)
            }
        }
    }
}
