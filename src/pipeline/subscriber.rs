//! One channel membership with bindings: what it asked for, how far it has got, what it is owed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use super::lane::LaneId;
use super::part::{Part, Place, Variant};
use super::replay::Replay;
use super::sessions::Resume;
use super::snapshot::Awaited;
use super::view::View;
use crate::auth::Claims;
use crate::catalog::{Access, Catalog};
use crate::change::{Change, ChangeKind, Commit, Lsn, Snapshot};
use crate::log::{Kept, KeptRun, Outbox, Posting, Run};
use crate::policy::Predicate;
use crate::realtime::Notice;
use crate::realtime::payload::{OldShape, RenderAs};
use crate::routing::{Binding, Event, Match, Subscription, TableFilter};

/// A connection and a channel membership on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct SubscriberId {
    pub(super) connection: u64,
    pub(super) membership: u32,
}

/// A membership with bindings.
#[derive(Debug)]
pub(super) struct Subscriber {
    pub(super) id: SubscriberId,
    outbox: Arc<Outbox<Notice>>,
    /// Those in force.
    pub(super) claims: Arc<Claims>,
    /// Those of a newer token, for which the bindings are still being checked.
    pub(super) next_claims: Option<Arc<Claims>>,
    pub(super) bindings: Arc<[Binding]>,
    /// The bindings as the database agreed to them; empty until then.
    pub(super) subscriptions: Vec<Subscription>,
    pub(super) phase: Phase,
    /// The newest request to resolve the bindings; answers to older ones are void.
    pub(super) ticket: u64,
    /// Snapshots that began from this number on may begin the subscription.
    pub(super) joining_since: u64,
    pub(super) lane: Option<LaneId>,
    /// Items of the lane before this number were routed before the membership was in the lane.
    pub(super) lane_since: u64,
    /// Items of the lane before this number are of an earlier time in the same lane, whatever they say: what it was owed
    /// then it was given again.
    pub(super) entered: u64,
    /// Commits that this snapshot sees are older than the subscription; needed until the stream has passed the
    /// position.
    pub(super) joined: Option<(Snapshot, Lsn)>,
    /// What it may go on by when it comes back.
    pub(super) resume: Option<Resume>,
    /// Its way through the past, until it is done with it.
    pub(super) replay: Option<Box<Replay>>,
    pub(super) grace: Option<Grace>,
    /// The snapshot that it waits for.
    pub(super) snapshot: Option<Awaited>,
    /// It shares no lane.
    pub(super) has_own_lane: bool,
    /// The newest run, not yet posted because it may be the last of its transaction, with where that commits.
    held: Option<(Lsn, Run)>,
    /// Texts of `ids` arrays.
    ids: HashMap<Vec<u32>, Arc<str>>,
}

/// How far a subscription has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The database is checking the bindings for the first time.
    Resolving,
    /// Waiting for a snapshot that marks the beginning.
    Joining,
    /// Goes through the past; live changes come after it.
    Replaying,
    /// Changes flow.
    Live,
    /// The bindings cannot be served for this role.
    Refused,
}

/// Newest clients join with the connection's key and send their token right after the reply: what that key may not see
/// is kept until then, and all that comes after it, so that nothing overtakes it.
#[derive(Debug)]
pub(super) struct Grace {
    pub(super) until: Instant,
    pub(super) kept: Vec<KeptChange>,
    /// Something did not fit.
    pub(super) overflowed: bool,
    /// Something did not fit that the connection's key may see.
    pub(super) lost: bool,
}

/// A change that is kept for a token that may come.
#[derive(Debug)]
pub(super) struct KeptChange {
    pub(super) part: Arc<Part>,
    pub(super) index: u32,
    /// The connection's key may see it.
    pub(super) shown: bool,
}

/// Changes kept for a token that may come; beyond, the subscriber must start over when it comes.
const KEPT_MAX: usize = 10_000;
/// The same of those that the connection's key may see: beyond, the subscriber must start over in any case.
const KEPT_SHOWN_MAX: usize = 2 * KEPT_MAX;

/// A change that reaches a subscriber, with the bindings that it matched.
struct Matched {
    /// Names of the selected columns; `None` for all.
    columns: Option<Box<[Box<str>]>>,
    ids: Vec<u32>,
}

impl Subscriber {
    pub(super) fn new(
        id: SubscriberId,
        outbox: Arc<Outbox<Notice>>,
        claims: Arc<Claims>,
        bindings: Arc<[Binding]>,
        grace: Option<Instant>,
    ) -> Self {
        Self {
            id,
            outbox,
            claims,
            next_claims: None,
            bindings,
            subscriptions: Vec::new(),
            phase: Phase::Resolving,
            ticket: 0,
            joining_since: 0,
            lane: None,
            lane_since: 0,
            entered: 0,
            joined: None,
            resume: None,
            replay: None,
            grace: grace.map(|until| Grace {
                until,
                kept: Vec::new(),
                overflowed: false,
                lost: false,
            }),
            snapshot: None,
            has_own_lane: false,
            held: None,
            ids: HashMap::new(),
        }
    }

    /// Tells the membership something. What ends the subscription comes after all changes that were decided before; the
    /// rest does not wait for the change that is held back.
    pub(super) fn tell(&mut self, notice: Notice) {
        match notice {
            Notice::Resync(_)
            | Notice::Refused(_)
            | Notice::PositionRefused(_)
            | Notice::SnapshotRefused(_) => {
                if let Some((_, run)) = self.held.take() {
                    self.outbox.push(Posting::Run(run));
                }
            }
            _ => {}
        }
        self.outbox.push(Posting::Notice {
            membership: self.id.membership,
            notice,
        });
    }

    /// Whether this part of a transaction may concern the subscriber at all.
    pub(super) fn is_open_to(&self, part: &Part) -> bool {
        let has_begun = match &self.replay {
            None => self.is_after_join(&part.commit),
            Some(replay) => {
                let joined = self.joined.as_ref().map(|(snapshot, _)| snapshot);
                replay.may_want(&part.commit, joined)
            }
        };
        self.phase == Phase::Live
            && self.snapshot.as_ref().is_none_or(Awaited::is_running)
            && has_begun
    }

    /// Whether a commit is newer than the subscription.
    pub(super) fn is_after_join(&self, commit: &Commit) -> bool {
        let seen = |(snapshot, _): &(Snapshot, Lsn)| snapshot.sees(commit.xid);
        !self.joined.as_ref().is_some_and(seen)
    }

    /// Whether a binding wants changes of where this one stands.
    fn has_begun(&self, binding: u32, commit: &Commit, order: u32) -> bool {
        let joined = self.joined.as_ref().map(|(snapshot, _)| snapshot);
        self.replay
            .as_ref()
            .is_none_or(|replay| replay.wants(binding, commit, order, joined))
    }

    /// Whether a change of the past may be for any of the bindings.
    pub(super) fn goes_through(&self, commit: &Commit, change: &Change) -> bool {
        self.filters(change.relation.oid)
            .any(|(subscription, _)| self.has_begun(subscription.id, commit, change.order))
    }

    /// Whether the change is of the past, and must be judged as such.
    pub(super) fn is_past(&self, commit: &Commit, change: &Change) -> bool {
        // Also what is released after it has gone through the past, and is older than the join.
        self.replay.as_ref().is_some_and(|replay| {
            replay.covers(commit, change.order) || !self.is_after_join(commit)
        })
    }

    /// Whether it was not told yet that its subscription is in force.
    pub(super) fn is_unannounced(&self) -> bool {
        self.replay
            .as_ref()
            .is_some_and(|replay| replay.unsaid.is_some())
    }

    /// Whether it was subscribed all the time that it goes through.
    pub(super) fn was_subscribed(&self) -> bool {
        self.replay
            .as_ref()
            .is_some_and(|replay| replay.was_subscribed)
    }

    /// Whether a change is held back because it may be the last of its transaction.
    pub(super) const fn holds(&self) -> bool {
        self.held.is_some()
    }

    /// Where the transaction commits whose last change is held back.
    pub(super) fn held_commit(&self) -> Option<Lsn> {
        self.held.as_ref().map(|(commit, _)| *commit)
    }

    /// Payloads that its connection has still to take.
    pub(super) fn posted(&self) -> u64 {
        self.outbox.payloads()
    }

    /// The filters of this subscriber on one table.
    pub(super) fn filters(&self, oid: u32) -> impl Iterator<Item = (&Subscription, &TableFilter)> {
        self.subscriptions
            .iter()
            .filter_map(move |subscription| Some((subscription, subscription.tables.get(&oid)?)))
    }

    /// Whether any binding is about the table.
    pub(super) fn concerns(&self, oid: u32) -> bool {
        self.filters(oid).next().is_some()
    }

    /// Whether some filter of this subscriber may need Postgres to decide it.
    pub(super) fn is_uncertain(&self) -> bool {
        self.subscriptions.iter().any(|subscription| {
            subscription
                .tables
                .values()
                .any(|table| !table.filter.is_certain())
        })
    }

    /// Whether any binding on the table wants this kind of change, whatever its filter.
    pub(super) fn wants_kind(&self, oid: u32, kind: &ChangeKind) -> bool {
        self.filters(oid)
            .any(|(subscription, _)| subscription.wants(kind))
    }

    /// Whether a change matches any binding; predicates that must be asked first are added to `asked`. `any_event`
    /// leaves the action aside: the change may become another one by merging.
    pub(super) fn wants(
        &self,
        change: &Change,
        view: &View,
        policies_apply: bool,
        any_event: bool,
        asked: &mut Vec<Predicate>,
    ) -> bool {
        let mut wanted = false;
        for (subscription, table) in self.filters(view.table.oid) {
            if !any_event && !subscription.wants(&change.kind) {
                continue;
            }
            match table.matches(change, &view.table, policies_apply) {
                Match::Yes => wanted = true,
                Match::No => {}
                Match::Ask(predicates) => {
                    wanted = true;
                    for predicate in predicates {
                        if !asked.contains(&predicate) {
                            asked.push(predicate);
                        }
                    }
                }
            }
        }
        wanted
    }

    /// Whether any binding is to be told if the row leaves with this change: it passed the binding's filter before.
    pub(super) fn wants_left(&self, change: &Change, view: &View) -> bool {
        self.filters(view.table.oid)
            .any(|(subscription, table)| subscription.wants_left() && table.passed_before(change))
    }

    /// Keeps a change for the token that may follow: one that the connection's own key may not see, or one after such
    /// (`shown`).
    pub(super) fn keep(&mut self, part: &Arc<Part>, index: u32, shown: bool) {
        let Some(grace) = &mut self.grace else { return };
        if self.snapshot.is_some() {
            return;
        }
        let is_same = |kept: &&mut KeptChange| kept.index == index && Arc::ptr_eq(&kept.part, part);
        if let Some(same) = grace.kept.last_mut().filter(is_same) {
            same.shown |= shown;
        } else if grace.kept.len() < if shown { KEPT_SHOWN_MAX } else { KEPT_MAX } {
            grace.kept.push(KeptChange {
                part: Arc::clone(part),
                index,
                shown,
            });
        } else {
            grace.overflowed = true;
            grace.lost |= shown;
        }
    }

    /// Whether something is kept, so that nothing may be given that comes after it.
    pub(super) fn keeps(&self) -> bool {
        (self.grace.as_ref()).is_some_and(|grace| !grace.kept.is_empty())
    }

    /// Names of the columns that any binding on the table sends; `None` for all.
    pub(super) fn selected(&self, oid: u32) -> Option<Vec<Box<str>>> {
        let mut names = Vec::new();
        for (_, table) in self.filters(oid) {
            names.extend(table.columns.as_ref()?.iter().cloned());
        }
        Some(names)
    }

    /// Posts an allowed change to the bindings that it matches: one frame for each set of selected columns. Returns
    /// how many.
    pub(super) fn post(&mut self, post: &Post<'_>) -> usize {
        let matched = self.matched(post);
        let count = matched.len();
        for Matched { columns, ids } in matched {
            let columns = post.view.included(post.access, columns.as_deref());
            let variant = Variant::Full {
                columns,
                old: post.old,
                render_as: post.render_as,
            };
            let place = match post.merged {
                Some(change) => post
                    .part
                    .place_merged(post.log, change, post.view, &variant),
                None => post.part.place(post.log, post.index, variant),
            };
            if let Some(place) = place {
                self.hold(place, &ids, post.part.commit.lsn);
            }
        }
        count
    }

    /// Tells the bindings that ask for it that a row which the subscriber saw before has left: out of sight (`hidden`), or
    /// out of the binding's filter. Returns the number of frames.
    pub(super) fn post_left(&mut self, post: &Post<'_>, hidden: bool) -> usize {
        let Some((change, _)) = post.part.change(post.index) else {
            return 0;
        };
        let mut left: Vec<Matched> = Vec::new();
        for (subscription, table) in self.filters(post.view.table.oid) {
            let is_out = || {
                let passes = table.matches(change, &post.view.table, post.hides_old);
                hidden || passes == Match::No
            };
            if subscription.wants_left() && table.passed_before(change) && is_out() {
                add_matched(&mut left, table, subscription.id);
            }
        }
        let count = left.len();
        for Matched { columns, ids } in left {
            let variant = Variant::Full {
                columns: post.view.included(post.access, columns.as_deref()),
                old: OldShape::KeyOnly,
                render_as: RenderAs::Left,
            };
            if let Some(place) = post.part.place(post.log, post.index, variant) {
                self.hold(place, &ids, post.part.commit.lsn);
            }
        }
        count
    }

    /// Posts a change without its content, to all bindings on the table (protocol.md §4.6).
    pub(super) fn post_withheld(
        &mut self,
        log: &crate::log::Log,
        part: &Part,
        index: u32,
        view: &View,
        variant: Variant,
    ) {
        let Some(change) = part.change(index).map(|(change, _)| change) else {
            return;
        };
        let wanting = self.filters(view.table.oid).filter(|(subscription, _)| {
            subscription.wants(&change.kind)
                && self.has_begun(subscription.id, &part.commit, change.order)
        });
        let ids: Vec<u32> = wanting.map(|(subscription, _)| subscription.id).collect();
        if ids.is_empty() {
            return;
        }
        if let Some(place) = part.place(log, index, variant) {
            self.hold(place, &ids, part.commit.lsn);
        }
    }

    /// No further change of the transaction comes: what is held was the last one.
    pub(super) fn end_transaction(&mut self) {
        if let Some((_, run)) = self.held.take() {
            self.outbox.push(Posting::Run(Run { last: true, ..run }));
        }
    }

    /// Whether no change is held back because it may be the last of its transaction.
    pub(super) fn is_between_transactions(&self) -> bool {
        self.held.is_none()
    }

    /// Whether any binding asks for the rows that are there already.
    pub(super) fn wants_snapshot(&self) -> bool {
        let mut subscriptions = self.subscriptions.iter();
        subscriptions.any(|subscription| subscription.snapshot.is_some())
    }

    /// Posts rows of a snapshot to a binding.
    pub(super) fn post_kept(&mut self, kept: &Arc<Kept>, binding: u32, first: u32, count: u32) {
        let run = KeptRun {
            kept: Arc::clone(kept),
            first,
            count,
            membership: self.id.membership,
            ids: self.text_of(&[binding]),
        };
        self.outbox.push(Posting::Kept(run));
    }

    /// The `ids` array of these bindings.
    fn text_of(&mut self, ids: &[u32]) -> Arc<str> {
        match self.ids.get(ids) {
            Some(text) => Arc::clone(text),
            None => {
                let numbers: Vec<String> = ids.iter().map(ToString::to_string).collect();
                let text: Arc<str> = format!("[{}]", numbers.join(",")).into();
                self.ids.insert(ids.to_vec(), Arc::clone(&text));
                text
            }
        }
    }

    fn hold(&mut self, place: Place, ids: &[u32], commit: Lsn) {
        let ids = self.text_of(ids);
        let run = Run {
            part: place.part,
            first: place.payload,
            count: 1,
            membership: self.id.membership,
            ids,
            last: false,
        };
        if let Some((of, before)) = self.held.replace((commit, run)) {
            let last = of != commit;
            self.outbox.push(Posting::Run(Run { last, ..before }));
        }
    }

    fn matched(&self, post: &Post<'_>) -> Vec<Matched> {
        let change = post
            .merged
            .or_else(|| post.part.change(post.index).map(|(change, _)| change));
        let Some(change) = change else {
            return Vec::new();
        };
        let mut matched: Vec<Matched> = Vec::new();
        for (subscription, table) in self.filters(post.view.table.oid) {
            let passes = match table.matches(change, &post.view.table, post.hides_old) {
                Match::Yes => true,
                Match::No => false,
                Match::Ask(predicates) => predicates.iter().all(|predicate| {
                    post.truths
                        .iter()
                        .any(|(known, truth)| known == predicate && *truth)
                }),
            };
            let wanted = match (post.render_as, &change.kind) {
                (RenderAs::Insert, ChangeKind::Update { .. }) => {
                    matches!(subscription.event, Event::All | Event::Insert)
                }
                _ => subscription.wants(&change.kind),
            };
            let has_begun = self.has_begun(subscription.id, &post.part.commit, change.order);
            if !passes || !wanted || !has_begun {
                continue;
            }
            add_matched(&mut matched, table, subscription.id);
        }
        matched
    }
}

fn add_matched(matched: &mut Vec<Matched>, table: &TableFilter, id: u32) {
    match matched
        .iter_mut()
        .find(|known| known.columns == table.columns)
    {
        Some(known) => known.ids.push(id),
        None => matched.push(Matched {
            columns: table.columns.clone(),
            ids: vec![id],
        }),
    }
}

/// An allowed change on its way to subscribers.
pub(super) struct Post<'a> {
    pub(super) log: &'a crate::log::Log,
    pub(super) part: &'a Part,
    pub(super) index: u32,
    pub(super) view: &'a View,
    pub(super) access: &'a Access,
    /// What several superseded versions became together; `None` for the change as it was written.
    pub(super) merged: Option<&'a Change>,
    pub(super) render_as: RenderAs,
    pub(super) old: OldShape,
    /// Filters may not tell what a deleted row held, but for its key.
    pub(super) hides_old: bool,
    /// What Postgres said to the filters' predicates.
    pub(super) truths: &'a [(Predicate, bool)],
}

/// Whether something that bindings were checked against has changed between two catalogs.
pub(super) fn must_resolve(subscriber: &Subscriber, before: &Catalog, after: &Catalog) -> bool {
    let role = &*subscriber.claims.role;
    if before.roles.contains_key(role) != after.roles.contains_key(role) {
        return true;
    }
    let named = |catalog: &Catalog| -> usize {
        catalog
            .tables
            .values()
            .filter(|table| {
                subscriber
                    .bindings
                    .iter()
                    .any(|binding| binding.names(&table.schema, &table.name))
            })
            .count()
    };
    let tables = subscriber
        .subscriptions
        .iter()
        .flat_map(|subscription| subscription.tables.keys());
    let changed = |oid: &u32| match (before.tables.get(oid), after.tables.get(oid)) {
        (Some(before), Some(after)) => {
            before.columns != after.columns
                || before.primary_key != after.primary_key
                || (&before.schema, &before.name) != (&after.schema, &after.name)
                || before.access.get(role) != after.access.get(role)
        }
        _ => true,
    };
    tables.into_iter().any(changed) || named(before) != named(after)
}
