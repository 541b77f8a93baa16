//! A step through the past, taken by all who stand at the same place.
//!
//! After a restart everybody comes back at once, and most of what they go through is none of their business. So a change is
//! looked at once for all of them: where the policies of now say whose claims it may concern, only those people look at it
//! for themselves, with those who wait for verdicts on the same row. All others would have hidden it by the same policies
//! and tables, one by one (`past.rs`). What nobody can tell of is looked at by everybody.
//!
//! The steps go round: from where the last one ended to the end of the past, and then from whoever is furthest behind.

use super::company::{Company, Place, Walker};
use super::past::knows_now;
use super::replay::{POSTED_MAX, QUEUED_MAX};
use super::{Conductor, LANE_BYTES_MAX};
use crate::change::{Change, ChangeKind};
use crate::clock;
use crate::pipeline::history::{Found, Kept};
use crate::pipeline::lane::Lanes;
use crate::pipeline::ledger::Source;
use crate::pipeline::part::Part;
use crate::pipeline::replay::Replay;
use crate::pipeline::subscriber::{Phase, Subscriber, SubscriberId};
use crate::pipeline::verdicts::Judged;
use crate::pipeline::view::RowKey;
use crate::realtime::ResyncReason;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::iter::Peekable;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a step may cost before others have their turn; and then they have half as long.
const LOOKS_MAX: usize = 2000;
/// What a look takes, or so: the clock is not asked, so that a simulation does the same each time.
const LOOK: Duration = Duration::from_micros(3);
/// To find whom a change concerns.
const FIND_LOOKS: usize = 4;
/// To hand it to one of them.
const VISIT_LOOKS: usize = 2;
/// To read a part from the file.
const READ_LOOKS: usize = 200;
/// So many changes that concern nobody cost one.
const UNCONCERNED: usize = 8;
/// Changes handed on at once.
const CHUNK_MAX: usize = 250;
/// Those who are considered for a step.
const WALKERS_MAX: usize = 4096;
/// Those who take one: what concerns all of them should not take long either.
const COMPANY_MAX: usize = 2048;

/// Number of a part in the history, and index of a change in it.
pub(super) type Whereabouts = (u64, usize);

/// What somebody who goes through the past comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stand {
    /// It may go on from here.
    At(Whereabouts),
    /// Its session comes first.
    Waits,
    /// It is live, or gone.
    Done,
}

/// Some changes of a part, for all who stand before the first of them.
#[derive(Debug)]
struct Stretch {
    /// Number of the part in the history.
    number: u64,
    kept: Kept,
    /// Indexes of the changes.
    changes: Range<usize>,
    /// Nothing of the transaction follows.
    ends: bool,
}

/// What a step came to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Walked {
    /// Nobody could go on.
    pub(super) waits: bool,
    /// An estimate.
    pub(super) took: Duration,
}

impl Conductor {
    /// Takes a step.
    pub(super) fn walk(&mut self, now: Instant) -> Walked {
        let mut standing = Vec::new();
        for _ in 0..self.replaying.len().min(WALKERS_MAX) {
            let Some(id) = self.replaying.pop_front() else {
                break;
            };
            match self.stand_of(now, id) {
                Stand::At(at) => standing.push((at, id)),
                Stand::Waits => {}
                Stand::Done => continue,
            }
            self.replaying.push_back(id);
        }
        standing.sort_unstable();
        standing.dedup();
        if self.awaited.is_large() {
            self.forget_awaited();
        }
        let from = standing.partition_point(|(at, _)| *at < self.walked);
        let ahead = standing.get(from..).unwrap_or_default();
        let mut coming = ahead.iter().copied().peekable();
        let mut company = Company::default();
        let mut at = self.walked;
        let mut looks = LOOKS_MAX;
        let mut done = HashSet::new();
        while looks > 0 {
            self.gather(now, &mut company, &mut coming, &mut at);
            if company.is_empty() {
                // Round again.
                at = (0, 0);
                break;
            }
            let found = match self.history.find(now, at.0) {
                Ok(found) => found,
                Err(_too_old) => {
                    for place in company.places() {
                        if let Some(walker) = company.walker(place) {
                            let id = walker.id;
                            company.leave(place);
                            done.insert(id);
                            self.resync(id, ResyncReason::PositionGone);
                        }
                    }
                    continue;
                }
            };
            let Some(Found { kept, was_read }) = found else {
                self.arrive(now, &mut company, at, &mut done);
                continue;
            };
            if was_read {
                looks = looks.saturating_sub(READ_LOOKS);
            }
            let next_in_part = coming.peek().filter(|((number, _), _)| *number == at.0);
            let until = next_in_part.map_or(usize::MAX, |((_, change), _)| *change);
            at = self.pass(now, &mut company, (at, until), kept, &mut looks);
        }
        for place in company.places() {
            self.stay(&mut company, place, at);
        }
        let moved = at != self.walked || !done.is_empty();
        self.walked = at;
        self.replaying.retain(|id| !done.contains(id));
        if self.replaying.is_empty() && !self.awaited.is_empty() {
            self.forget_awaited();
        }
        let spent = u32::try_from(LOOKS_MAX.saturating_sub(looks)).unwrap_or(u32::MAX);
        Walked {
            waits: !moved,
            took: LOOK.saturating_mul(spent),
        }
    }

    /// Which rows are waited for is found anew.
    fn forget_awaited(&mut self) {
        self.awaited.clear();
        for lane in self.lanes.values_mut() {
            lane.opened = None;
        }
    }

    /// What becomes of somebody who goes through the past.
    fn stand_of(&mut self, now: Instant, id: SubscriberId) -> Stand {
        let is_settled = |replay: &Replay| replay.restoring.is_none() && replay.unsaid.is_none();
        let replay = self.subscribers.get(&id).and_then(|it| it.replay.as_ref());
        if !replay.is_some_and(|replay| is_settled(replay)) {
            // A session that begins only now must be stored first.
            let waits = self.restore(now, id);
            if !self.announce(id) || waits {
                return Stand::Waits;
            }
        }
        let Some(subscriber) = self.subscribers.get(&id) else {
            return Stand::Done;
        };
        match (subscriber.phase, &subscriber.replay) {
            (Phase::Replaying, Some(replay)) => Stand::At((replay.next, replay.change)),
            _ => Stand::Done,
        }
    }

    /// Has those join who stand where the company is. If there is none yet, it is where the next one stands who may go on.
    fn gather(
        &mut self,
        now: Instant,
        company: &mut Company,
        coming: &mut Peekable<impl Iterator<Item = (Whereabouts, SubscriberId)>>,
        at: &mut Whereabouts,
    ) {
        while let Some((place, id)) =
            coming.next_if(|(place, _)| company.is_empty() || *place <= *at)
        {
            if company.len() >= COMPANY_MAX || !self.may_go_on(id) || self.waits_for_tables(now, id)
            {
                continue;
            }
            if company.is_empty() {
                *at = place;
            }
            self.take_along(company, id);
        }
    }

    /// Whether there is room for more of the past, and it is known for whom.
    fn may_go_on(&self, id: SubscriberId) -> bool {
        let Some(subscriber) = self.subscribers.get(&id) else {
            return false;
        };
        // A token that may follow says who is to be judged.
        let waits = subscriber.phase != Phase::Replaying
            || subscriber.replay.is_none()
            || subscriber.grace.is_some()
            || subscriber.next_claims.is_some()
            || subscriber.posted() >= POSTED_MAX;
        let lane = subscriber.lane.and_then(|lane| self.lanes.get(&lane));
        let has_room = lane.is_some_and(|lane| {
            lane.queued_rows < QUEUED_MAX && lane.queued_bytes < LANE_BYTES_MAX / 2
        });
        !waits && has_room
    }

    fn take_along(&mut self, company: &mut Company, id: SubscriberId) {
        let Some(subscriber) = self.subscribers.get(&id) else {
            return;
        };
        let Some((lane_id, lane)) = subscriber
            .lane
            .and_then(|lane| Some((lane, self.lanes.get(&lane)?)))
        else {
            return;
        };
        let walker = Walker {
            id,
            lane: lane_id,
            knows_now: knows_now(lane, &self.subscribers, self.routed())
                && lane.key.alone == Some(id)
                && lane.keeping == 0,
            was_subscribed: subscriber.was_subscribed(),
        };
        let tables = (subscriber.subscriptions.iter())
            .flat_map(|subscription| subscription.tables.keys().copied());
        let place = company.join(walker, lane.key.identity.role(), tables);
        if let Some(lane) = self.lanes.get_mut(&lane_id) {
            self.awaited.add(lane_id, lane.take_opened());
        }
        let is_open = subscriber
            .replay
            .as_ref()
            .is_some_and(|replay| replay.is_open);
        company.note_open(place, is_open);
    }

    /// There is nothing more to go through, for now or for good.
    fn arrive(
        &mut self,
        now: Instant,
        company: &mut Company,
        at: Whereabouts,
        done: &mut HashSet<SubscriberId>,
    ) {
        for place in company.places() {
            let Some(walker) = company.walker(place) else {
                continue;
            };
            let id = walker.id;
            self.stay(company, place, at);
            if !self.is_before_join(id) {
                done.insert(id);
                self.go_live(now, id);
                self.rejoining.push_back(id);
            }
        }
    }

    /// Leaves somebody behind who is here.
    fn stay(&mut self, company: &mut Company, place: Place, (number, change): Whereabouts) {
        let Some(walker) = company.walker(place) else {
            return;
        };
        let (id, lane) = (walker.id, walker.lane);
        company.leave(place);
        let subscriber = self.subscribers.get_mut(&id);
        let Some(subscriber) = subscriber.filter(|it| it.phase == Phase::Replaying) else {
            return;
        };
        let Some(replay) = &mut subscriber.replay else {
            return;
        };
        let before = (replay.next, replay.change);
        (replay.next, replay.change) = (number, change);
        // The last of what it has been through.
        let last = if change == 0 {
            number.saturating_sub(1)
        } else {
            number
        };
        if before < (number, change)
            && let Some(commit) = self.history.commit(last)
            && let Some(lane) = self.lanes.get_mut(&lane)
        {
            lane.replayed = Some(commit.lsn);
        }
    }

    /// Goes past some changes of a part, up to index `until` of them; returns where the company is then.
    fn pass(
        &mut self,
        now: Instant,
        company: &mut Company,
        (at, until): (Whereabouts, usize),
        kept: Kept,
        looks: &mut usize,
    ) -> Whereabouts {
        let (number, from) = at;
        let count = kept.changes.len();
        let upto = until.min(from.saturating_add(CHUNK_MAX)).min(count);
        let concerned = |change: &Change| company.concerns(change.relation.oid);
        let changes = kept.changes.get(from..upto).unwrap_or_default();
        let is_concerned = changes.iter().any(concerned) || company.open().next().is_some();
        // A part without changes costs a look as well.
        *looks = looks.saturating_sub(1);
        if !is_concerned {
            *looks = looks.saturating_sub(upto.saturating_sub(from) / UNCONCERNED);
            return after(number, upto, count);
        }
        let part = self.see(number, &kept);
        let item = self.number();
        let mut visits: BTreeMap<Place, Vec<u32>> = BTreeMap::new();
        let mut next = from;
        // At least one, or nobody gets on.
        while next < upto && (next == from || *looks > 0) {
            if let Ok(index) = u32::try_from(next) {
                let found = self.found(company, &part, (item, index));
                let cost = found.len().saturating_mul(VISIT_LOOKS);
                *looks = looks.saturating_sub(cost.saturating_add(FIND_LOOKS));
                for place in found {
                    visits.entry(place).or_default().push(index);
                }
            }
            next = next.saturating_add(1);
        }
        let stretch = Stretch {
            number,
            ends: next >= count && kept.last,
            changes: from..next,
            kept,
        };
        if stretch.ends {
            for place in company.open() {
                visits.entry(place).or_default();
            }
        }
        for (place, indexes) in visits {
            self.visit(now, company, place, &stretch, (item, &part), &indexes);
        }
        after(number, next, count)
    }

    /// Who must look at change `index` of a part for themselves.
    fn found(
        &mut self,
        company: &Company,
        part: &Part,
        (item, index): (u64, u32),
    ) -> BTreeSet<Place> {
        let mut found = BTreeSet::new();
        let Some((change, view)) = part.change(index) else {
            return found;
        };
        let oid = change.relation.oid;
        if !company.concerns(oid) {
            return found;
        }
        let begun = clock::instant();
        let upto = self.routed();
        let is_delete = matches!(change.kind, ChangeKind::Delete { .. });
        let (before, after) = if is_delete || !self.awaited.is_empty() {
            part.row_keys(&self.keys, index)
        } else {
            (None, None)
        };
        let mut hidden = 0_usize;
        for (role, group) in self.addressees.of(oid) {
            let access = view.table.access.get(role);
            let applies = access.is_some_and(|access| access.policies_apply);
            // Who may not read the key is told so whatever the row holds.
            let narrows = applies && access.is_some_and(|access| view.key_granted(access));
            if is_delete && applies {
                for place in company.bound(oid, role) {
                    let Some(walker) = company.walker(place) else {
                        continue;
                    };
                    if walker.was_subscribed
                        || may_have_been_shown(walker, before, &self.lanes, &self.subscribers)
                    {
                        found.insert(place);
                    } else {
                        let denied = &mut self.counts.settled.denied.delete;
                        *denied = denied.saturating_add(1);
                    }
                }
                continue;
            }
            let audience = match &change.kind {
                ChangeKind::Insert { .. } | ChangeKind::Update { .. } if narrows => self
                    .verdicts
                    .audience_now(part, (item, index), role, group, &mut self.lanes, upto),
                ChangeKind::Insert { .. }
                | ChangeKind::Update { .. }
                | ChangeKind::Delete { .. }
                | ChangeKind::Truncate => None,
            };
            let Some(audience) = audience else {
                found.extend(company.bound(oid, role));
                continue;
            };
            let places = audience
                .into_iter()
                .filter_map(|lane| company.of_lane(lane));
            let mut some: BTreeSet<Place> = places.collect();
            some.extend(company.uncertain(oid, role));
            let seen = some.len();
            hidden = hidden.saturating_add(company.count(oid, role).saturating_sub(seen));
            found.append(&mut some);
        }
        let denied = Judged::denials(hidden);
        self.verdicts.pass_over(denied);
        let took = clock::instant().saturating_duration_since(begun);
        self.ledger.add(&view.table, Source::Audience, denied, took);
        let awaiting = self.awaited.lanes(before).chain(self.awaited.lanes(after));
        found.extend(awaiting.filter_map(|lane| company.of_lane(lane)));
        found
    }

    /// Has somebody look at changes that may concern it.
    fn visit(
        &mut self,
        now: Instant,
        company: &mut Company,
        place: Place,
        stretch: &Stretch,
        (item, part): (u64, &Arc<Part>),
        indexes: &[u32],
    ) {
        let Some(walker) = company.walker(place) else {
            return;
        };
        let (id, lane_id) = (walker.id, walker.lane);
        let Some(subscriber) = self.subscribers.get(&id) else {
            return company.leave(place);
        };
        let commit = &stretch.kept.commit;
        let goes_through = |index: &u32| {
            let change = part.change(*index);
            change.is_some_and(|(change, _)| subscriber.goes_through(commit, change))
        };
        let indexes: Vec<u32> = indexes.iter().copied().filter(goes_through).collect();
        let rows = if indexes.is_empty() {
            Vec::new()
        } else {
            self.replayed_rows(now, id, part, &indexes)
        };
        self.hand_on(now, id, part, (item, stretch.ends), rows);
        if let Some(lane) = self.lanes.get_mut(&lane_id) {
            self.awaited.add(lane_id, lane.take_opened());
        }
        let replay = self.subscribers.get(&id).and_then(|it| it.replay.as_ref());
        company.note_open(place, replay.is_some_and(|replay| replay.is_open));
        if !self.may_go_on(id) {
            let count = stretch.kept.changes.len();
            let at = after(stretch.number, stretch.changes.end, count);
            self.stay(company, place, at);
        }
    }
}

/// Whether somebody may have been shown a row of the past, which is deleted. What is settled is known; what waits may still
/// come to be shown.
fn may_have_been_shown(
    walker: &Walker,
    row: Option<RowKey>,
    lanes: &Lanes,
    subscribers: &HashMap<SubscriberId, Subscriber>,
) -> bool {
    let is_settled = (lanes.get(&walker.lane))
        .is_some_and(|lane| lane.queue.is_empty() && !lane.has_open_rows());
    let replay = subscribers
        .get(&walker.id)
        .and_then(|it| it.replay.as_ref());
    let was_shown = replay
        .zip(row)
        .is_some_and(|(replay, row)| replay.was_shown(row));
    !is_settled || was_shown
}

/// Where somebody is who has been through `next` of `count` changes of a part.
const fn after(number: u64, next: usize, count: usize) -> Whereabouts {
    if next >= count {
        (number.saturating_add(1), 0)
    } else {
        (number, next)
    }
}
