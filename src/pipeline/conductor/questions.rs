//! Questions go to the pools; their answers, errors and time-outs come back.

use super::{Ask, BREAKER_TIMEOUT, Conductor, Output};
use crate::change::Oid;
use crate::pipeline::lane::{Asking, LaneId, QUERY_CANCELED, RowState};
use crate::pipeline::ledger::Source;
use crate::pipeline::standing::Pool;
use crate::pipeline::subscriber::{Subscriber, SubscriberId};
use crate::pipeline::verdicts::Judged;
use crate::pipeline::view::View;
use crate::policy::{Answer, Asked, Found, Trouble};
use crate::realtime::{Notice, ResyncReason};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

impl Conductor {
    pub(super) fn ask_what_is_ready(&mut self, now: Instant) {
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
                // Much may have become known since the rows came: after a start most are none of anybody's business.
                if self.hide_unasked(id) {
                    self.check_lane(now, id);
                    continue;
                }
                let Some(lane) = self.lanes.get_mut(&id) else {
                    continue;
                };
                let subscribers = &self.subscribers;
                let members = lane.subscribers.clone();
                let role: Box<str> = lane.key.identity.role().into();
                let Some(question) =
                    lane.question(|view| sent_columns(subscribers, &members, &role, view))
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
                    _ => self.rules.timeouts.of(pool, lane.standing),
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
    pub(in crate::pipeline) fn handle_idle(&mut self, now: Instant, pool: Pool) {
        let idle = self.idle.entry(pool).or_default();
        *idle = idle.saturating_add(1);
        self.advance(now);
    }

    /// A question was answered; `None` if the connection broke and it must be asked again.
    pub(in crate::pipeline) fn handle_answer(
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
                Some(asked) if asked.result == Err(Trouble::Locked) => {
                    self.counts.locked = self.counts.locked.saturating_add(1);
                    lane.answer_all(&asking, RowState::Unasked);
                    self.locks.park(now, asking.table, lane_id);
                }
                Some(asked) => {
                    self.take_answer(now, lane_id, pool, &asking, asked);
                    for parked in self.locks.release(asking.table) {
                        self.check_lane(now, parked);
                    }
                }
            }
        }
        self.check_lane(now, lane_id);
        self.advance(now);
    }

    pub(super) fn take_answer(
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
        let breaker = (self.breakers)
            .entry((asking.table, lane.key.identity.role().into()))
            .or_default();
        breaker.record(timed_out);
        let breaker = *breaker;
        // A question of many rows takes its time, and the next one will have fewer; an identity is slow if a few take long.
        let few = asking.rows.len() <= FEW_ROWS;
        let took = if few { asked.took } else { Duration::ZERO };
        let before = self.counts.asked;
        let (table, spent) = (asking.table, asked.took);
        match asked.result {
            Ok(answers) => {
                self.counts.answered = self.counts.answered.saturating_add(1);
                lane.answer(asking, asked.read_before, &answers);
                lane.standing.answered(took, &timeouts);
                lane.raises = 0;
                lane.fit_question(asked.took);
                self.outdated.answered(lane_id, table);
                count_answers(&mut self.counts.asked, &answers);
                self.recovered(lane_id, asking.table);
            }
            Err(Trouble::Raised(state)) => {
                self.counts.raised = self.counts.raised.saturating_add(1);
                lane.raises = lane.raises.saturating_add(1);
                lane.standing.answered(took, &timeouts);
                if self
                    .outdated
                    .raised(lane_id, table, &state, self.next_number)
                {
                    lane.answer_all(asking, RowState::Unasked);
                } else if asking.rows.len() > 1 {
                    lane.rows_max = asking.rows.len() / 2;
                    lane.answer_all(asking, RowState::Unasked);
                } else {
                    lane.answer_all(asking, RowState::Denied);
                    let raised = &mut self.counts.asked.raised;
                    *raised = raised.saturating_add(1);
                    self.tell_trouble(lane_id, asking.table, state);
                }
            }
            // Its lane was parked.
            Err(Trouble::Locked) => {}
            Err(Trouble::TimedOut) => {
                self.counts.timed_out = self.counts.timed_out.saturating_add(1);
                if !few {
                    // Many rows take their time; that says nothing about the identity yet.
                    lane.rows_max = (asking.rows.len() / 8).max(1);
                    lane.answer_all(asking, RowState::Unasked);
                } else if lane.standing.timed_out(pool, now, breaker) {
                    lane.answer_all(asking, RowState::Denied);
                    lane.deny_unasked();
                    self.tell_trouble(lane_id, asking.table, QUERY_CANCELED.into());
                } else {
                    lane.answer_all(asking, RowState::Unasked);
                }
            }
        }
        if let Some(table) = self.catalog.tables.get(&table) {
            let more = self.counts.asked.since(before);
            self.ledger.add(table, Source::Postgres, more, spent);
        }
    }

    /// A verdict came for a table.
    pub(super) fn recovered(&mut self, lane_id: LaneId, table: Oid) {
        let Some(lane) = self.lanes.get_mut(&lane_id) else {
            return;
        };
        let recovered = lane.troubles.remove(&table);
        // While it timed out, changes were denied without a verdict; a raised error was one.
        if recovered.is_some_and(|state| *state == *QUERY_CANCELED) {
            self.resync_lane(lane_id, ResyncReason::VerdictUnknown, Some(table));
        }
    }

    pub(super) fn tell_trouble(&mut self, lane_id: LaneId, table: Oid, state: Box<str>) {
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
}

fn count_answers(judged: &mut Judged, answers: &[Answer]) {
    for answer in answers {
        let count = match answer.found {
            Found::Same => &mut judged.allowed,
            Found::Missing | Found::Hidden => &mut judged.denied,
            Found::Different => &mut judged.undecided,
        };
        *count = count.saturating_add(1);
    }
}

/// Rows that any sound policy judges within the time of a question.
pub(super) const FEW_ROWS: usize = 4;

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
