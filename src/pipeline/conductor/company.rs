//! Those who take a step through the past together, found by their lanes and by their tables; and who of all that go through it
//! waits for verdicts on which rows.
//!
//! Plain memory, of the company for as long as the step takes. Who is found by nothing has nothing to do with a change.

use std::collections::{BTreeSet, HashMap};

use foldhash::fast::RandomState;

use crate::change::Oid;
use crate::pipeline::lane::LaneId;
use crate::pipeline::subscriber::SubscriberId;
use crate::pipeline::view::RowKey;

/// Place of a walker in the company.
pub(super) type Place = usize;

/// Somebody who goes through the past.
#[derive(Debug)]
pub(super) struct Walker {
    pub(super) id: SubscriberId,
    pub(super) lane: LaneId,
    /// The tables in memory contain all that was visible when it joined: they say what is hidden from it now.
    pub(super) knows_now: bool,
    /// It was subscribed all the time: it is told what was deleted.
    pub(super) was_subscribed: bool,
}

/// Those of one role on one table.
#[derive(Debug, Default)]
struct Bound {
    /// All, in order.
    all: Vec<Place>,
    /// For whom nothing can be left out, in order.
    uncertain: Vec<Place>,
}

/// Rows that lanes wait for, or did.
#[derive(Debug, Default)]
pub(super) struct Awaited(HashMap<RowKey, Vec<LaneId>, RandomState>);

/// Rows beyond which it is made anew.
const AWAITED_MAX: usize = 200_000;

impl Awaited {
    /// A lane waits for verdicts on these rows.
    pub(super) fn add(&mut self, lane: LaneId, rows: impl IntoIterator<Item = RowKey>) {
        for row in rows {
            let lanes = self.0.entry(row).or_default();
            if lanes.last() != Some(&lane) {
                lanes.push(lane);
            }
        }
    }

    /// Who may wait for verdicts on versions of a row.
    pub(super) fn lanes(&self, row: Option<RowKey>) -> impl Iterator<Item = LaneId> + '_ {
        let lanes = row.and_then(|row| self.0.get(&row));
        lanes.into_iter().flatten().copied()
    }

    /// Whether nobody does.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether much of it may be of the past, so that it should be made anew.
    pub(super) fn is_large(&self) -> bool {
        self.0.len() > AWAITED_MAX
    }

    /// Forgets all.
    pub(super) fn clear(&mut self) {
        self.0 = HashMap::default();
    }
}

/// All who take the step.
#[derive(Debug, Default)]
pub(super) struct Company {
    walkers: Vec<Option<Walker>>,
    /// How many there are.
    size: usize,
    by_lane: HashMap<LaneId, Place, RandomState>,
    by_table: HashMap<Oid, Vec<(Box<str>, Bound)>, RandomState>,
    /// In the middle of a transaction.
    open: BTreeSet<Place>,
}

impl Company {
    /// Somebody comes along, of this role and with bindings on these tables.
    pub(super) fn join(
        &mut self,
        walker: Walker,
        role: &str,
        tables: impl IntoIterator<Item = Oid>,
    ) -> Place {
        let place = self.walkers.len();
        self.by_lane.insert(walker.lane, place);
        for table in tables {
            let roles = self.by_table.entry(table).or_default();
            let known = roles.iter().position(|(of, _)| **of == *role);
            let known = known.unwrap_or_else(|| {
                roles.push((role.into(), Bound::default()));
                roles.len().saturating_sub(1)
            });
            if let Some((_, bound)) = roles.get_mut(known) {
                add(&mut bound.all, place);
                if !walker.knows_now {
                    add(&mut bound.uncertain, place);
                }
            }
        }
        self.walkers.push(Some(walker));
        self.size = self.size.saturating_add(1);
        place
    }

    /// Somebody goes no further.
    pub(super) fn leave(&mut self, place: Place) {
        let walker = self.walkers.get_mut(place).and_then(Option::take);
        let Some(walker) = walker else { return };
        self.size = self.size.saturating_sub(1);
        self.by_lane.remove(&walker.lane);
        self.open.remove(&place);
        for (_, bound) in self.by_table.values_mut().flatten() {
            remove(&mut bound.all, place);
            remove(&mut bound.uncertain, place);
        }
    }

    /// Notes whether somebody is in the middle of a transaction.
    pub(super) fn note_open(&mut self, place: Place, is_open: bool) {
        if is_open && self.walkers.get(place).is_some_and(Option::is_some) {
            self.open.insert(place);
        } else {
            self.open.remove(&place);
        }
    }

    /// How many are there.
    pub(super) const fn len(&self) -> usize {
        self.size
    }

    /// Whether nobody is.
    pub(super) const fn is_empty(&self) -> bool {
        self.size == 0
    }

    /// Who is there.
    pub(super) fn places(&self) -> Vec<Place> {
        let there = self.walkers.iter().enumerate();
        let there = there.filter(|(_, walker)| walker.is_some());
        there.map(|(place, _)| place).collect()
    }

    /// The walker of a place, if it is still there.
    pub(super) fn walker(&self, place: Place) -> Option<&Walker> {
        self.walkers.get(place)?.as_ref()
    }

    /// Whose lane this is.
    pub(super) fn of_lane(&self, lane: LaneId) -> Option<Place> {
        self.by_lane.get(&lane).copied()
    }

    /// Whether anybody is bound to the table.
    pub(super) fn concerns(&self, table: Oid) -> bool {
        self.by_table.contains_key(&table)
    }

    /// Those of a role on a table.
    pub(super) fn bound(&self, table: Oid, role: &str) -> impl Iterator<Item = Place> + '_ {
        let bound = self.of(table, role);
        bound
            .into_iter()
            .flat_map(|bound| bound.all.iter().copied())
    }

    /// How many these are.
    pub(super) fn count(&self, table: Oid, role: &str) -> usize {
        self.of(table, role).map_or(0, |bound| bound.all.len())
    }

    /// Those among them for whom nothing can be left out.
    pub(super) fn uncertain(&self, table: Oid, role: &str) -> impl Iterator<Item = Place> + '_ {
        let bound = self.of(table, role);
        bound
            .into_iter()
            .flat_map(|bound| bound.uncertain.iter().copied())
    }

    /// Who is in the middle of a transaction.
    pub(super) fn open(&self) -> impl Iterator<Item = Place> + '_ {
        self.open.iter().copied()
    }

    fn of(&self, table: Oid, role: &str) -> Option<&Bound> {
        let roles = self.by_table.get(&table)?;
        let (_, bound) = roles.iter().find(|(of, _)| **of == *role)?;
        Some(bound)
    }
}

/// Places come in order; that of a table which several bindings name comes several times.
fn add(places: &mut Vec<Place>, place: Place) {
    if places.last() != Some(&place) {
        places.push(place);
    }
}

fn remove(places: &mut Vec<Place>, place: Place) {
    if let Ok(index) = places.binary_search(&place) {
        places.remove(index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: Oid = 7;
    const OTHER: Oid = 8;

    fn walker(connection: u64, knows_now: bool) -> Walker {
        Walker {
            id: SubscriberId {
                connection,
                membership: 1,
            },
            lane: connection + 100,
            knows_now,
            was_subscribed: false,
        }
    }

    #[test]
    fn who_left_is_found_by_nothing() {
        let mut company = Company::default();
        let first = company.join(walker(1, true), "a", [TABLE, TABLE, OTHER]);
        let second = company.join(walker(2, false), "a", [TABLE]);
        let third = company.join(walker(3, true), "b", [TABLE]);
        let bound =
            |company: &Company, role: &str| -> Vec<Place> { company.bound(TABLE, role).collect() };
        assert_eq!(bound(&company, "a"), [first, second]);
        assert_eq!(company.count(TABLE, "a"), 2);
        assert_eq!(company.uncertain(TABLE, "a").collect::<Vec<_>>(), [second]);
        assert_eq!(company.of_lane(102), Some(second));
        company.note_open(first, true);
        company.note_open(second, true);
        company.leave(second);
        assert_eq!(bound(&company, "a"), [first]);
        assert_eq!(company.uncertain(TABLE, "a").next(), None);
        assert_eq!(company.of_lane(102), None);
        assert_eq!(company.open().collect::<Vec<_>>(), [first]);
        company.note_open(second, true);
        assert_eq!(company.open().collect::<Vec<_>>(), [first]);
        company.note_open(first, false);
        assert_eq!(company.open().next(), None);
        assert_eq!(company.places(), [first, third]);
        assert!(company.concerns(OTHER) && !company.concerns(9));
        company.leave(first);
        company.leave(third);
        assert!(company.is_empty());
    }
}
