//! Snapshots and catalogs: what they release, what they begin, and to which lanes it goes.

use super::aside::put_aside;
use super::past::ask_allowed;
use super::replay::restrict;
use super::rows::{
    Nature, Visit, doubt_grants, is_among, is_denied_unseen, judge_rows, routed_rows,
};
use super::{
    CLOSE_LOOK_PAUSE, Conductor, Horizon, LEARN_PAUSE, LOOK_PAUSE, Output, UNSEEN_PAUSE_MAX,
    UNSEEN_PAUSE_MIN, UNSEEN_RETRIES, Waiting,
};
use crate::auth::Claims;
use crate::catalog::{Catalog, Table};
use crate::change::{Lsn, Oid, Relation};
use crate::clock;
use crate::pipeline::history::Kept;
use crate::pipeline::lane::{Item, Lane, LaneId};
use crate::pipeline::ledger::Source;
use crate::pipeline::messages::{broadcast_of, committed, inserted_at, replayable};
use crate::pipeline::old::Past;
use crate::pipeline::part::Part;
use crate::pipeline::subscriber::{Phase, Subscriber, SubscriberId, must_resolve};
use crate::pipeline::verdicts::Judged;
use crate::pipeline::view::{RowKeys, View};
use crate::realtime::{Notice, ResyncReason};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

/// Lanes that are gone through at once although they do not keep up; some hundred microseconds.
const LANES_AT_ONCE: usize = 64;
/// Broadcasts that are said at once; each may have thousands of receivers.
const SAYS_AT_ONCE: usize = 32;

/// What one snapshot releases, under way.
#[derive(Debug)]
pub(super) struct Release {
    horizon: Horizon,
    /// Something was released.
    released: bool,
    /// Where the part that was routed last must still go.
    rest: Option<Routing>,
    /// The part whose broadcasts are being said.
    saying: Option<Saying>,
}

/// A part with rows of `realtime.messages`.
#[derive(Debug)]
struct Saying {
    part: Arc<Part>,
    /// Index of the next change to look at.
    next: usize,
}

/// A part on its way to lanes.
#[derive(Debug)]
pub(super) struct Routing {
    number: u64,
    part: Arc<Part>,
    /// Those that it has not reached, and what of it concerns them.
    lanes: Vec<(LaneId, Visit)>,
    /// Lanes that must hear of the transaction's end even if the part does not concern them.
    unended: BTreeSet<LaneId>,
}

impl Conductor {
    /// A horizon query came back; `None` if it failed and must be made again.
    pub(in crate::pipeline) fn handle_horizon(&mut self, now: Instant, horizon: Option<Horizon>) {
        self.horizon_open = false;
        let pause = if self.look_closely_until.is_some_and(|until| now < until) {
            CLOSE_LOOK_PAUSE
        } else {
            LOOK_PAUSE
        };
        self.look_at = now.checked_add(pause);
        if let Some(horizon) = &horizon {
            (self.unseen).retain(|unseen| !horizon.snapshot.sees(unseen.xid));
        }
        match horizon {
            None => self.pause_horizon(now),
            Some(horizon)
                if !self.has_catalog || horizon.fingerprint != self.catalog.fingerprint =>
            {
                self.load_catalog()
            }
            Some(_) if self.learns(now) => self.load_catalog(),
            Some(horizon) => {
                self.verdicts.seen(&horizon.snapshot);
                self.catalog_from.get_or_insert(horizon.insert_lsn);
                self.was_away = false;
                self.wal_end = self.wal_end.max(horizon.insert_lsn);
                self.look_at_unseen(now);
                self.unseen_at = None;
                self.look_for_unseen(now);
                self.release = Some(Release {
                    horizon,
                    released: false,
                    rest: None,
                    saying: None,
                });
                return self.go_on(now);
            }
        }
        self.advance(now);
    }

    pub(super) fn load_catalog(&mut self) {
        if !self.catalog_loading {
            self.catalog_loading = true;
            self.outputs.push_back(Output::LoadCatalog);
        }
    }

    /// The database can be asked (again): the catalog at hand may be old.
    pub(in crate::pipeline) fn handle_connected(&mut self, now: Instant) {
        self.load_catalog();
        self.advance(now);
    }

    /// A catalog was loaded; `None` if that failed and must be tried again.
    pub(in crate::pipeline) fn handle_catalog(
        &mut self,
        now: Instant,
        catalog: Option<Arc<Catalog>>,
    ) {
        self.catalog_loading = false;
        let Some(catalog) = catalog else {
            self.has_catalog = false;
            self.pause_horizon(now);
            return;
        };
        let before = std::mem::replace(&mut self.catalog, Arc::clone(&catalog));
        let first = !std::mem::replace(&mut self.has_catalog, true);
        let is_other = before.fingerprint != catalog.fingerprint;
        if is_other {
            self.note_grants(&before);
        }
        self.views.clear();
        let is_known_again = self.verdicts.renew(&catalog);
        if is_known_again {
            self.verdicts
                .plan(&catalog, self.addressees.tables_and_roles());
        }
        self.look_at = self.look_at.or_else(|| now.checked_add(LOOK_PAUSE));
        self.permissions_renewed(now, is_other, is_known_again);
        if self.doubt_at.is_some() {
            self.look_at = Some(now);
        }
        let outdated = |subscriber: &&Subscriber| {
            let resolved = matches!(
                subscriber.phase,
                Phase::Joining | Phase::Replaying | Phase::Live
            ) || self.resolving.contains_key(&subscriber.ticket);
            resolved && (first || must_resolve(subscriber, &before, &catalog))
        };
        let outdated: Vec<(SubscriberId, Arc<Claims>)> = (self.subscribers.values())
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
        self.check_refusals_again();
        self.renew_outdated(now);
        for (id, claims) in outdated {
            self.resolve(id, claims);
            if let Some(subscriber) = self.subscribers.get(&id) {
                self.resolving_again.insert(subscriber.ticket);
            }
        }
        self.advance(now);
    }

    /// Notes of which tables others may read rows or columns than under the catalog before, or might have meanwhile. What
    /// committed between the two is judged by the new one where both agree; and not where the stream was away, for then much
    /// may have come and gone.
    fn note_grants(&mut self, before: &Catalog) {
        let now = &self.catalog;
        let moved = |oid: &Oid| {
            let marks = [before, &**now].map(|catalog| catalog.access_marks.get(oid).copied());
            let [before, now] = marks.map(Option::unwrap_or_default);
            before.rights != now.rights && before.file == now.file
        };
        let is_same = |oid: &Oid, table: &Table| {
            let same = |before: &Arc<Table>| {
                // The mark moves with whatever is altered; a table that is another one now says what was, as does its file.
                let is_explained = !moved(oid) || **before != *table;
                (before.row_security, &before.access) == (table.row_security, &table.access)
                    && is_explained
            };
            before.tables.get(oid).is_some_and(same)
        };
        let differing = (now.tables.iter())
            .filter(|(oid, table)| !is_same(oid, table))
            .map(|(oid, _)| *oid);
        let is_first = self.catalog_from.take().is_some();
        if self.was_away {
            self.regranted = None;
        } else if is_first {
            self.regranted = Some(differing.collect());
        } else if let Some(regranted) = &mut self.regranted {
            regranted.extend(differing);
        }
    }

    /// The commit is visible within microseconds as a rule, so that a few more looks at once find it sooner than a pause.
    pub(super) fn pause_horizon(&mut self, now: Instant) {
        if self.horizon_retries < UNSEEN_RETRIES {
            self.horizon_retries = self.horizon_retries.saturating_add(1);
            self.horizon_not_before = None;
            return;
        }
        self.horizon_not_before = now.checked_add(self.horizon_pause);
        self.horizon_pause = self.horizon_pause.saturating_mul(2).min(UNSEEN_PAUSE_MAX);
    }

    /// Whether [`Conductor::go_on`] has something to do. Meanwhile only answers may come in, and idle connections.
    pub(in crate::pipeline) fn is_releasing(&self) -> bool {
        self.release.is_some()
    }

    /// Goes on with what a snapshot has released. Interrupts itself after the lanes that keep up, and then after some of
    /// the others at a time: there may be thousands, and nobody's questions and answers should wait for them. Likewise
    /// after some broadcasts.
    pub(in crate::pipeline) fn go_on(&mut self, now: Instant) {
        let Some(mut release) = self.release.take() else {
            return;
        };
        let mut says = SAYS_AT_ONCE;
        loop {
            if let Some(mut rest) = release.rest.take() {
                let some = rest.lanes.len().min(LANES_AT_ONCE);
                let some: Vec<(LaneId, Visit)> = rest.lanes.drain(..some).collect();
                self.route_to(now, &rest, &some);
                release.rest = (!rest.lanes.is_empty()).then_some(rest);
            }
            release.saying = release
                .saying
                .take()
                .and_then(|saying| self.say(saying, &mut says));
            if release.rest.is_some() || release.saying.is_some() {
                self.release = Some(release);
                return self.ask_what_is_ready(now);
            }
            // Part by part: what one snapshot releases of a large transaction may be many times the log's memory.
            self.log.settle();
            let snapshot = &release.horizon.snapshot;
            let Some(waiting) = self.waiting.pop_front_if(|waiting| {
                matches!(waiting, Waiting::Silent { .. }) || snapshot.sees(waiting.commit().xid)
            }) else {
                break;
            };
            release.released = true;
            self.waiting_bytes = self.waiting_bytes.saturating_sub(waiting.size());
            match waiting {
                Waiting::Silent { part, is_whole } if !self.is_interesting(&part) => {
                    self.verdicts.apply(&part);
                    self.keep(now, part, is_whole);
                }
                // Who came back while it waited, and has gone through all that was kept, wants it as well.
                Waiting::Silent { part, is_whole } | Waiting::Part { part, is_whole } => {
                    self.verdicts.apply(&part);
                    self.look_at_permissions(now, &part);
                    let kept = self.keep(now, part, is_whole);
                    let part = self.view_part(&kept);
                    // Before the lanes, which are none of their business.
                    let saying = Saying {
                        part: Arc::clone(&part),
                        next: 0,
                    };
                    release.saying = self.say(saying, &mut says);
                    release.rest = self.route(now, part);
                }
                Waiting::Skipped { commit, relations } => {
                    self.verdicts.skipped(&commit, &relations);
                    self.look_at_skipped(now, &relations);
                    self.outputs.push_back(Output::Torn);
                    self.history.cut(&commit);
                    self.skip(&relations);
                    self.skip_broadcasts(now, &relations);
                }
            }
            if release.rest.is_some() {
                self.release = Some(release);
                return self.ask_what_is_ready(now);
            }
        }
        self.end_release(now, &release);
        self.advance(now);
    }

    fn end_release(&mut self, now: Instant, release: &Release) {
        let Release {
            horizon, released, ..
        } = release;
        self.horizon_not_before = None;
        if *released || self.waiting.is_empty() {
            self.horizon_pause = UNSEEN_PAUSE_MIN;
            self.horizon_retries = 0;
        } else {
            self.pause_horizon(now);
        }
        self.tell_refusals();
        self.confirm_outdated(now);
        if self.streaming {
            self.begin_joins(now, horizon);
            self.begin_hearing(now);
        }
        let routed = self.routed();
        let (subscribers, lanes) = (&mut self.subscribers, &self.lanes);
        let passed = self.catching_up.iter().copied();
        let mut passed: Vec<(Lsn, SubscriberId)> =
            passed.take_while(|(until, _)| *until <= routed).collect();
        passed.retain(|(until, id)| {
            let Some(subscriber) = subscribers.get_mut(id) else {
                return true;
            };
            // What was routed may still wait in the lane.
            let lane = subscriber.lane.and_then(|lane| lanes.get(&lane));
            let settled = lane.map_or(routed, |lane| lane.settled_before(routed));
            let is_done = subscriber.phase != Phase::Replaying && *until <= settled;
            if is_done {
                subscriber.joined = None;
            }
            is_done
        });
        for done in passed {
            self.catching_up.remove(&done);
        }
        self.rejoin_lanes(now);
    }

    /// Subscriptions that were there when the query began are in force from its snapshot on.
    pub(super) fn begin_joins(&mut self, now: Instant, horizon: &Horizon) {
        // A transaction that was received before, concerned nobody then and is not in the snapshot would be missed.
        let unseen = (self.unseen.front()).map_or(u64::MAX, |unseen| unseen.number);
        let begun = self.horizon_ticket;
        let number = self.number();
        let subscribers = &mut self.subscribers;
        let catching_up = &mut self.catching_up;
        let mut wanted = Vec::new();
        let mut from_the_past = Vec::new();
        self.joining.retain(|id| {
            let Some(subscriber) = subscribers.get_mut(id) else {
                return false;
            };
            if subscriber.joining_since > begun.min(unseen) {
                return true;
            }
            // What waits in its lane was routed for others, and stays theirs also when the snapshot is needed no more.
            subscriber.lane_since = number;
            subscriber.joined = Some((horizon.snapshot.clone(), horizon.insert_lsn));
            catching_up.insert((horizon.insert_lsn, *id));
            if subscriber.replay.is_some() {
                from_the_past.push(*id);
                return false;
            }
            subscriber.phase = Phase::Live;
            if subscriber.wants_snapshot() {
                wanted.push(*id);
            } else {
                subscriber.tell(Notice::Subscribed);
            }
            false
        });
        for id in wanted {
            self.want_snapshot(now, id);
        }
        if !self.joining.is_empty() && unseen < u64::MAX && self.horizon_not_before.is_none() {
            self.horizon_not_before = now.checked_add(UNSEEN_PAUSE_MIN);
        }
        for id in from_the_past {
            self.begin_replay(now, id);
        }
    }

    pub(super) fn skip(&mut self, relations: &[Oid]) {
        let concerned = |subscriber: &&Subscriber| {
            matches!(subscriber.phase, Phase::Live | Phase::Replaying)
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

    /// Says what the part's rows of `realtime.messages` say, up to `room` of them; returns what is left.
    fn say(&mut self, mut saying: Saying, room: &mut usize) -> Option<Saying> {
        if self.catalog.messages.is_empty() {
            return None;
        }
        let part = Arc::clone(&saying.part);
        let was_said = self.says_from.is_some_and(|from| part.commit.lsn < from);
        for change in part.changes.get(saying.next..).unwrap_or_default() {
            if self.catalog.messages.contains(&change.relation.oid) {
                let Some(left) = room.checked_sub(1) else {
                    return Some(saying);
                };
                *room = left;
                if let Some((topic, id)) = replayable(change) {
                    self.outputs.push_back(Output::Stored {
                        topic: topic.into(),
                        id,
                        transaction: part.commit.xid,
                    });
                }
                match broadcast_of(change, self.rules.broadcast_bytes_max) {
                    _ if was_said => {}
                    Ok(None) => {}
                    Ok(Some((room, message))) => {
                        self.counts.broadcasts = self.counts.broadcasts.saturating_add(1);
                        let message = committed(message, &part.commit, change.order);
                        self.outputs.push_back(Output::Say {
                            room,
                            message: Arc::new(message.in_doubt_since(self.doubt)),
                            committed: part.commit.time,
                            inserted: inserted_at(change),
                        });
                    }
                    Err(fault) => self.counts.unsendable.count(fault),
                }
            }
            saying.next = saying.next.saturating_add(1);
        }
        None
    }

    /// The part as the catalog of now sees it.
    pub(super) fn view_part(&mut self, kept: &Kept) -> Arc<Part> {
        let views: Vec<Option<Arc<View>>> = kept
            .changes
            .iter()
            .map(|change| self.view(&change.relation))
            .collect();
        Arc::new(Part::new(kept, views, Arc::clone(&self.catalog)))
    }

    /// Hands a released part to the lanes that it concerns and that keep up; returns it with the others.
    pub(super) fn route(&mut self, now: Instant, part: Arc<Part>) -> Option<Routing> {
        let number = self.number();
        let mut lanes = self.concerned(&part, number);
        let unended = if part.last {
            std::mem::take(&mut self.unended)
        } else {
            BTreeSet::new()
        };
        let found: BTreeSet<LaneId> = match unended.len() {
            0 => BTreeSet::new(),
            _ => lanes.iter().map(|(lane, _)| *lane).collect(),
        };
        let not_found = unended.difference(&found);
        lanes.extend(not_found.map(|lane| (*lane, Visit::Some(Vec::new()))));
        self.unfinished = (!part.last).then_some(part.commit.lsn);
        let few = lanes.len() <= LANES_AT_ONCE;
        let keeps_up =
            |(id, _): &(LaneId, Visit)| few || self.lanes.get(id).is_some_and(Lane::keeps_up);
        let (first, later) = lanes.into_iter().partition(keeps_up);
        let first: Vec<(LaneId, Visit)> = first;
        let routing = Routing {
            number,
            part,
            lanes: later,
            unended,
        };
        self.route_to(now, &routing, &first);
        (!routing.lanes.is_empty()).then_some(routing)
    }

    /// The lanes that a part concerns, and by which changes.
    fn concerned(&mut self, part: &Part, number: u64) -> Vec<(LaneId, Visit)> {
        let mut visits: BTreeMap<LaneId, Visit> = BTreeMap::new();
        // There may be thousands, nearly always of one group and therefore in order.
        let mut all: Vec<LaneId> = Vec::new();
        // By table and role: those lanes that must be visited in any case, or `None` once all are.
        let mut known: Vec<(Oid, Box<str>, Option<BTreeSet<LaneId>>)> = Vec::new();
        for (index, (change, view)) in (0_u32..).zip(part.changes.iter().zip(&part.views)) {
            let Some(view) = view else { continue };
            let oid = change.relation.oid;
            for (role, group) in self.addressees.of(oid) {
                let place =
                    (known.iter()).position(|(table, of, _)| *table == oid && **of == *role);
                if let Some((_, _, None)) = place.and_then(|place| known.get(place)) {
                    continue;
                }
                // Who may not read the key is told so whatever the row holds.
                let narrows = (view.table.access.get(role))
                    .is_some_and(|access| access.policies_apply && view.key_granted(access));
                let begun = clock::instant();
                let found = narrows
                    .then(|| {
                        self.verdicts
                            .audience(part, number, index, role, group, &mut self.lanes)
                    })
                    .flatten();
                let Some(found) = found else {
                    all.extend(group.lanes());
                    match place.and_then(|place| known.get_mut(place)) {
                        Some((.., visited)) => *visited = None,
                        None => known.push((oid, role.into(), None)),
                    }
                    continue;
                };
                let place = place.unwrap_or_else(|| {
                    let (lanes, keys) = (&self.lanes, &self.keys);
                    let is_concerned = |lane: &LaneId| {
                        group.contains(*lane)
                            && (lanes.get(lane)).is_some_and(|lane| hears_of(lane, keys, part))
                    };
                    let busy = self.busy.iter().copied();
                    let busy = busy.filter(is_concerned).collect();
                    known.push((oid, role.into(), Some(busy)));
                    known.len().saturating_sub(1)
                });
                let Some((_, _, Some(busy))) = known.get(place) else {
                    continue;
                };
                let seen = found.union(busy).count();
                let denied = Judged::denials(group.len().saturating_sub(seen));
                self.verdicts.pass_over(denied);
                let took = clock::instant().saturating_duration_since(begun);
                self.ledger.add(&view.table, Source::Audience, denied, took);
                for lane in found {
                    visits.entry(lane).or_default().add(index);
                }
            }
        }
        let busy = known.into_iter().filter_map(|(.., busy)| busy).flatten();
        all.extend(busy);
        if !all.is_sorted() {
            all.sort_unstable();
        }
        all.dedup();
        let is_among_all = |lane: &LaneId| all.binary_search(lane).is_ok();
        visits.retain(|lane, _| !is_among_all(lane));
        let all = all.into_iter().map(|lane| (lane, Visit::All));
        visits.into_iter().chain(all).collect()
    }

    fn route_to(&mut self, now: Instant, routing: &Routing, lanes: &[(LaneId, Visit)]) {
        let Routing {
            number,
            part,
            unended,
            ..
        } = routing;
        let knows_grants = self.knows_grants_of(part);
        let mut natures: Vec<(Box<str>, Nature)> = Vec::new();
        for (id, visit) in lanes {
            let Some(lane) = self.lanes.get_mut(id) else {
                continue;
            };
            let role = lane.key.identity.role();
            let known = natures.iter().find(|(of, _)| **of == *role);
            let nature = match known {
                Some((_, nature)) => *nature,
                None => {
                    let nature = Nature::of(part, role, &self.verdicts, knows_grants);
                    natures.push((role.into(), nature));
                    nature
                }
            };
            if !unended.contains(id) && nature.is_asked {
                if is_denied_unseen(now, lane, part) {
                    let denied = &mut self.counts.settled.denied.not_asked;
                    *denied = denied.saturating_add(1);
                    continue;
                }
                if nature.is_for_later && *visit == Visit::All && put_aside(lane, *number, part) {
                    continue;
                }
            }
            self.catch_up(now, *id);
            let Some(lane) = self.lanes.get_mut(id) else {
                continue;
            };
            let mut past = Past::of(&mut self.verdicts, lane, part, *number);
            let mut rows = routed_rows(
                now,
                lane,
                &self.subscribers,
                &self.keys,
                (part, *number),
                visit,
                &mut past,
            );
            past.give_back(lane);
            if !knows_grants {
                for row in &mut rows {
                    if let Some((change, view)) = part.change(row.change)
                        && is_among(self.regranted.as_ref(), view)
                    {
                        doubt_grants(row, change, view, lane.key.identity.role());
                    }
                }
            }
            // Released after the history was gone through, but older than the join: of the past all the same.
            let alone = lane.key.alone.and_then(|id| self.subscribers.get(&id));
            let of_the_past = alone.filter(|subscriber| {
                subscriber.replay.is_some() && !subscriber.is_after_join(&part.commit)
            });
            if let Some(subscriber) = of_the_past {
                let was_subscribed = subscriber.was_subscribed();
                let role = lane.key.identity.role();
                for row in &mut rows {
                    if let Some((change, view)) = part.change(row.change) {
                        let access = view.table.access.get(role);
                        restrict(row, change, view, access, (knows_grants, was_subscribed));
                    }
                }
            }
            // The last part is handed on even without rows: subscribers hold their last change back until they know
            // that it was the last.
            if rows.is_empty() && !unended.contains(id) {
                continue;
            }
            if !part.last {
                self.unended.insert(*id);
            }
            let told = judge_rows(
                &mut self.verdicts,
                &mut self.ledger,
                lane,
                part,
                *number,
                &mut rows,
            );
            if of_the_past.is_some() {
                ask_allowed(&mut rows, part, lane.key.identity.role());
            }
            let undecided = rows.iter().filter(|row| row.state.is_open()).count();
            lane.push(
                &self.keys,
                Item {
                    number: *number,
                    part: Arc::clone(part),
                    only: None,
                    ends: part.last,
                    rows,
                    undecided,
                },
            );
            for (table, raised) in told {
                match raised {
                    Some(state) => self.tell_trouble(*id, table, state),
                    None => self.recovered(*id, table),
                }
            }
            self.check_lane(now, *id);
        }
    }

    /// Whether the schema must be read for want of one.
    fn learns(&mut self, now: Instant) -> bool {
        if !self.verdicts.lacks_knowledge() {
            return false;
        }
        let due = self.learn_at.is_some_and(|time| time <= now);
        if due || self.learn_at.is_none() {
            self.learn_at = now.checked_add(LEARN_PAUSE);
        }
        due
    }

    pub(super) fn view(&mut self, relation: &Arc<Relation>) -> Option<Arc<View>> {
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
}

/// Whether a part matters to a lane in which something waits, whoever may see the part: there may be thousands of these lanes,
/// after everybody came back at once.
fn hears_of(lane: &Lane, keys: &RowKeys, part: &Part) -> bool {
    let count = u32::try_from(part.changes.len()).unwrap_or(u32::MAX);
    lane.hears_all() || (0..count).any(|index| lane.follows_open_row(keys, part, index))
}
