//! What becomes of decided rows: delivery, denial, or merging with the version that superseded them.

use std::collections::HashMap;
use std::sync::Arc;

use super::lane::{Item, ItemRow, Lane, Pending, RowState, version_of};
use super::merge::{completed, old_key, with_first_old};
use super::old::OldRow;
use super::part::{Part, Variant};
use super::subscriber::{Phase, Post, Subscriber, SubscriberId};
use super::view::{RowKeys, View};
use crate::change::{Change, ChangeKind, Snapshot};
use crate::log::Log;
use crate::policy::{Found, Predicate};
use crate::realtime::payload::{OldShape, RenderAs, Withheld};

/// Rows settled, by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Settled {
    /// Frames posted.
    pub(super) delivered: u64,
    /// Rows withheld from an identity.
    pub(super) denied: Denied,
    /// Rows merged into a later version.
    pub(super) merged: u64,
}

/// Changes withheld from an identity, by why. A change withheld from two identities counts two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Denied {
    /// A SELECT by the identity does not show the row: hidden by a policy, or gone by then. Whoever is outside of the
    /// change's audience counts as well.
    pub not_visible: u64,
    /// A policy raised or timed out.
    pub policy_trouble: u64,
    /// Not asked: the identity times out, or the row has no key to ask by.
    pub not_asked: u64,
    /// The table has no primary key; subscribers were told of a change without content.
    pub no_primary_key: u64,
    /// The role may not read the whole key; subscribers were told likewise.
    pub no_grant: u64,
    /// A DELETE that settings withhold, or of which the role may read no column.
    pub delete: u64,
}

/// Everything that settling needs besides the lane.
pub(super) struct Desk<'a> {
    pub(super) log: &'a Log,
    pub(super) keys: &'a RowKeys,
    pub(super) subscribers: &'a mut HashMap<SubscriberId, Subscriber>,
    pub(super) settled: &'a mut Settled,
    /// Whether a DELETE under row security is withheld altogether.
    pub(super) withhold_deletes: bool,
}

impl Desk<'_> {
    /// Settles the decided items at the head of the lane.
    pub(super) fn settle(&mut self, lane: &mut Lane) {
        while let Some(item) = lane.pop_decided(self.keys) {
            for row in &item.rows {
                if let Some((change, view)) = item.part.change(row.change) {
                    self.settle_row(lane, &item, row, change, view);
                }
            }
            if item.ends {
                self.end(lane, &item);
            }
        }
    }

    /// Tells those whom the item concerns that its transaction is over. Others may be in the middle of one: what only one
    /// of them is given stands between the parts of what all get, and the other way round.
    fn end(&mut self, lane: &mut Lane, item: &Item) {
        lane.holding.retain(|id| {
            let Some(subscriber) = self.subscribers.get_mut(id) else {
                return false;
            };
            // Of an earlier time in this lane it is given again what it was owed, and the end with it.
            let is_given = item.number >= subscriber.entered;
            let is_for = item
                .only
                .map_or(subscriber.phase == Phase::Live, |only| only == *id);
            let is_over = is_given && is_for && !subscriber.keeps();
            if is_over {
                subscriber.end_transaction();
            }
            !is_over
        });
    }

    fn settle_row(
        &mut self,
        lane: &mut Lane,
        item: &Item,
        row: &ItemRow,
        change: &Change,
        view: &Arc<View>,
    ) {
        let earlier = if lane.pending.is_empty() {
            None
        } else {
            let (before, _) = item.part.row_keys(self.keys, row.change);
            before.and_then(|key| lane.pending.remove(&key))
        };
        match row.state {
            RowState::Allowed | RowState::Answered(Found::Same, _) => {
                self.deliver(lane, item, row, change, view, earlier)
            }
            RowState::Withheld(withheld) => {
                count(match withheld {
                    Withheld::NoPrimaryKey => &mut self.settled.denied.no_primary_key,
                    Withheld::Unauthorized => &mut self.settled.denied.no_grant,
                });
                self.withhold(lane, item, row, view, Variant::Withheld(withheld))
            }
            RowState::Answered(found @ (Found::Different | Found::Missing), read_before) => {
                let pending = Pending {
                    version: version_of(change, row),
                    inserted: earlier.as_ref().map_or(
                        matches!(change.kind, ChangeKind::Insert { .. }),
                        |earlier| earlier.inserted,
                    ),
                    first_old: earlier
                        .and_then(|earlier| earlier.first_old)
                        .or_else(|| old_key(change)),
                    read_before,
                    certain: found == Found::Different,
                    table: view.table.oid,
                };
                if let (_, Some(key)) = item.part.row_keys(self.keys, row.change) {
                    lane.pending.insert(key, pending);
                }
                if found == Found::Missing {
                    count(&mut self.settled.denied.not_visible);
                }
                self.keep(lane, item, row, found == Found::Different);
            }
            RowState::Answered(Found::Hidden, _) | RowState::Hidden => {
                count(&mut self.settled.denied.not_visible);
                self.leave(lane, item, row, view, earlier.as_ref());
                self.deny(lane, item, row);
            }
            RowState::Denied | RowState::Raised => {
                count(&mut self.settled.denied.policy_trouble);
                self.leave(lane, item, row, view, earlier.as_ref());
                self.deny(lane, item, row);
            }
            RowState::Refused => {
                count(&mut self.settled.denied.not_asked);
                self.leave(lane, item, row, view, earlier.as_ref());
                self.deny(lane, item, row);
            }
            RowState::Left => self.leave(lane, item, row, view, earlier.as_ref()),
            RowState::IfShown => self.delete_if_shown(lane, item, row, change, view, earlier),
            // Undecided rows cannot be here: the item would not have been popped.
            RowState::Unasked | RowState::Asked => {}
            RowState::Tracked => self.keep_behind(lane, item, row),
        }
    }

    fn deliver(
        &mut self,
        lane: &mut Lane,
        item: &Item,
        row: &ItemRow,
        change: &Change,
        view: &Arc<View>,
        earlier: Option<Pending>,
    ) {
        let Some(access) = view.table.access.get(lane.key.identity.role()) else {
            return;
        };
        let is_delete = matches!(change.kind, ChangeKind::Delete { .. });
        // What a lane has made of several versions was not judged.
        let saw_old = row.old == OldRow::Seen && earlier.is_none();
        let hides_old = access.policies_apply && !saw_old;
        if is_delete && ((self.withhold_deletes && hides_old) || !access.columns.contains(&true)) {
            count(&mut self.settled.denied.delete);
            return;
        }
        let mut merged = None;
        let mut render_as = RenderAs::AsWritten;
        if let Some(earlier) = earlier {
            let follows = row.follows.as_ref().filter(|_| row.is_confirmed);
            merged = follows.and_then(|follows| completed(change, follows));
            self.settled.merged = self.settled.merged.saturating_add(1);
            match (&change.kind, earlier.inserted) {
                // Told although its INSERT was not: who read the table once the subscription was in force may have seen
                // the row before it vanished.
                (ChangeKind::Delete { .. }, true) | (_, false) => {
                    let last = merged.as_ref().unwrap_or(change);
                    merged = with_first_old(last, earlier.first_old).or(merged);
                }
                (_, true) => render_as = RenderAs::Insert,
            }
        }
        // The wire says so of all tables with row security, whoever reads them.
        let key_only = hides_old
            || row.must_exist
            || (is_delete && view.table.row_security && !access.policies_apply);
        let truths: Vec<(Predicate, bool)> = row
            .predicates
            .iter()
            .cloned()
            .zip(row.truths.iter().copied())
            .collect();
        let post = Post {
            log: self.log,
            part: &item.part,
            index: row.change,
            view,
            access,
            merged: merged.as_ref(),
            render_as,
            old: if key_only {
                OldShape::KeyOnly
            } else {
                OldShape::Full
            },
            hides_old,
            truths: &truths,
        };
        let leaves = saw_old && !is_delete;
        let keys = self.keys;
        let what = post.merged.unwrap_or(change);
        let is_insert = render_as == RenderAs::Insert;
        self.give(lane, item, row.change, (what, is_insert), |subscriber| {
            let frames = subscriber.post(&post);
            if frames > 0 && !is_delete && subscriber.replay.is_some() {
                let (_, key) = item.part.row_keys(keys, row.change);
                if let (Some(replay), Some(key)) = (&mut subscriber.replay, key) {
                    replay.show(key);
                }
            }
            if leaves {
                frames.saturating_add(subscriber.post_left(&post, false))
            } else {
                frames
            }
        });
    }

    /// Tells those who ask for it that an UPDATE has moved a row out of their sight or out of their filters. Not where it
    /// is not known whether they saw it.
    fn leave(
        &mut self,
        lane: &mut Lane,
        item: &Item,
        row: &ItemRow,
        view: &View,
        earlier: Option<&Pending>,
    ) {
        let Some((change, _)) = item.part.change(row.change) else {
            return;
        };
        let Some(access) = view.table.access.get(lane.key.identity.role()) else {
            return;
        };
        let is_update = matches!(change.kind, ChangeKind::Update { .. });
        if !is_update || row.old != OldRow::Seen || earlier.is_some() {
            return;
        }
        let post = Post {
            log: self.log,
            part: &item.part,
            index: row.change,
            view,
            access,
            merged: None,
            render_as: RenderAs::Left,
            old: OldShape::KeyOnly,
            hides_old: true,
            truths: &[],
        };
        // Only what was judged as of the commit is known to be out of sight.
        let hidden = row.state == RowState::Hidden;
        self.give(lane, item, row.change, (change, false), |subscriber| {
            subscriber.post_left(&post, hidden)
        });
    }

    /// Posts to those of the lane who may be interested in a change, and counts the frames. What comes behind things that a
    /// subscriber keeps is kept as well.
    fn give(
        &mut self,
        lane: &mut Lane,
        item: &Item,
        index: u32,
        (change, any_event): (&Change, bool),
        mut post: impl FnMut(&mut Subscriber) -> usize,
    ) {
        let mut frames = 0_usize;
        let mut holding = Holding(std::mem::take(&mut lane.holding));
        let interested = lane.interested(change, any_event);
        for_receivers(&interested, item, self.subscribers, |subscriber| {
            if subscriber.keeps() {
                return subscriber.keep(&item.part, index, true);
            }
            frames = frames.saturating_add(holding.note(subscriber, &mut post));
        });
        lane.holding = holding.0;
        self.settled.delivered = self
            .settled
            .delivered
            .saturating_add(u64::try_from(frames).unwrap_or(u64::MAX));
    }

    /// A DELETE of the past. Nobody can say any more who saw the row.
    fn delete_if_shown(
        &mut self,
        lane: &mut Lane,
        item: &Item,
        row: &ItemRow,
        change: &Change,
        view: &Arc<View>,
        earlier: Option<Pending>,
    ) {
        let (key, _) = item.part.row_keys(self.keys, row.change);
        let only = item.only.or(lane.key.alone);
        let subscriber = only.and_then(|only| self.subscribers.get_mut(&only));
        let replay = subscriber.and_then(|subscriber| subscriber.replay.as_mut());
        let shown = replay
            .zip(key)
            .is_some_and(|(replay, key)| replay.take_shown(key));
        if shown {
            self.deliver(lane, item, row, change, view, earlier);
        } else {
            count(&mut self.settled.denied.delete);
        }
    }

    fn withhold(
        &mut self,
        lane: &mut Lane,
        item: &Item,
        row: &ItemRow,
        view: &View,
        variant: Variant,
    ) {
        let log = self.log;
        let mut holding = Holding(std::mem::take(&mut lane.holding));
        for_receivers(&lane.subscribers, item, self.subscribers, |subscriber| {
            if subscriber.grace.is_some() {
                subscriber.keep(&item.part, row.change, true);
            } else {
                holding.note(subscriber, |subscriber| {
                    subscriber.post_withheld(log, &item.part, row.change, view, variant.clone());
                });
            }
        });
        lane.holding = holding.0;
    }

    fn deny(&mut self, lane: &Lane, item: &Item, row: &ItemRow) {
        self.keep(lane, item, row, false);
    }

    /// Keeps a change for tokens that may follow. `shown`: the identity at hand may see what becomes of it.
    fn keep(&mut self, lane: &Lane, item: &Item, row: &ItemRow, shown: bool) {
        if lane.keeping == 0 {
            return;
        }
        for_receivers(&lane.subscribers, item, self.subscribers, |subscriber| {
            subscriber.keep(&item.part, row.change, shown)
        });
    }

    /// Keeps what ends the wait of an earlier version, where that one is kept.
    fn keep_behind(&mut self, lane: &Lane, item: &Item, row: &ItemRow) {
        if lane.keeping == 0 {
            return;
        }
        for_receivers(&lane.subscribers, item, self.subscribers, |subscriber| {
            if subscriber.keeps() {
                subscriber.keep(&item.part, row.change, true);
            }
        });
    }
}

fn count(counter: &mut u64) {
    *counter = counter.saturating_add(1);
}

/// Members of a lane that hold their last change back.
struct Holding(Vec<SubscriberId>);

impl Holding {
    /// Notes whether the subscriber has begun to.
    fn note<T>(
        &mut self,
        subscriber: &mut Subscriber,
        act: impl FnOnce(&mut Subscriber) -> T,
    ) -> T {
        let before = subscriber.holds();
        let done = act(subscriber);
        if !before && subscriber.holds() {
            self.0.push(subscriber.id);
        }
        done
    }
}

/// Those of some members of the lane that the item was routed for.
fn for_receivers(
    members: &[SubscriberId],
    item: &Item,
    subscribers: &mut HashMap<SubscriberId, Subscriber>,
    mut act: impl FnMut(&mut Subscriber),
) {
    for id in members {
        if item.only.is_some_and(|only| only != *id) {
            continue;
        }
        if let Some(subscriber) = subscribers.get_mut(id)
            && receives(subscriber, item.number, item.only.is_some(), &item.part)
        {
            act(subscriber);
        }
    }
}

/// Whether an item of this number is for the subscriber.
pub(super) fn receives(subscriber: &Subscriber, number: u64, only: bool, part: &Part) -> bool {
    if number < subscriber.entered {
        return false;
    }
    let sees = |joined: &Snapshot| joined.sees(part.commit.xid);
    if only {
        // Routed before; but a snapshot may have come meanwhile. Who goes through the past is given what is older.
        return subscriber.replay.is_some()
            || !subscriber
                .joined
                .as_ref()
                .is_some_and(|(joined, _)| sees(joined));
    }
    number >= subscriber.lane_since && subscriber.is_open_to(part)
}
