//! Subscribers by what their filters compare rows with: those whose `eq` or `in` cannot match a change are not looked at.
//!
//! Pure. Finds everybody whose binding may match, and some others: whether it does is for [`super::TableFilter::matches`].

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;

use super::filter::{Filter, Operand};
use super::value::{Family, Value};
use super::{Event, Operator, Subscription};
use crate::change::{Change, ChangeKind, Datum, Oid, OldKind};

/// Subscribers, named by `K`, by their bindings.
#[derive(Debug)]
pub struct Index<K>(HashMap<Oid, Vec<ByEvent<K>>>);

/// The bindings of one table for one event.
#[derive(Debug)]
struct ByEvent<K> {
    event: Event,
    /// Looked at for every change.
    scanned: BTreeSet<K>,
    columns: Vec<ByColumn<K>>,
}

/// Those that compare one column.
#[derive(Debug)]
struct ByColumn<K> {
    column: Box<str>,
    family: Family,
    values: HashMap<Value, BTreeSet<K>>,
}

impl<K> Default for Index<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Copy + Ord + Hash> Index<K> {
    /// Adds a subscriber with all that it asks for.
    pub fn insert(&mut self, key: K, subscriptions: &[Subscription]) {
        for subscription in subscriptions {
            let event = event_of(subscription);
            for (table, filter) in &subscription.tables {
                let events = self.0.entry(*table).or_default();
                let place = events
                    .iter()
                    .position(|by| by.event == event)
                    .unwrap_or_else(|| {
                        events.push(ByEvent::new(event));
                        events.len().saturating_sub(1)
                    });
                if let Some(by) = events.get_mut(place) {
                    by.insert(key, LookedUp::of(subscription, &filter.filter));
                }
            }
        }
    }

    /// Removes a subscriber that was added with these.
    pub fn remove(&mut self, key: K, subscriptions: &[Subscription]) {
        for subscription in subscriptions {
            for (table, filter) in &subscription.tables {
                let Some(events) = self.0.get_mut(table) else {
                    continue;
                };
                for by in events.iter_mut() {
                    if by.event == event_of(subscription) {
                        by.remove(key, LookedUp::of(subscription, &filter.filter));
                    }
                }
                events.retain(|by| !by.is_empty());
                if events.is_empty() {
                    self.0.remove(table);
                }
            }
        }
    }

    /// All whose bindings may match the change. `any_event`: whatever the action is that they ask for.
    #[must_use]
    pub fn candidates(&self, change: &Change, any_event: bool) -> BTreeSet<K> {
        let mut found = BTreeSet::new();
        let events = self.0.get(&change.relation.oid);
        for by in events.into_iter().flatten() {
            if any_event || by.event.wants(&change.kind) {
                found.extend(&by.scanned);
                for column in &by.columns {
                    column.find(change, &mut found);
                }
            }
        }
        found
    }
}

impl<K: Copy + Ord + Hash> ByEvent<K> {
    const fn new(event: Event) -> Self {
        Self {
            event,
            scanned: BTreeSet::new(),
            columns: Vec::new(),
        }
    }

    fn is_empty(&self) -> bool {
        self.scanned.is_empty() && self.columns.is_empty()
    }

    fn insert(&mut self, key: K, looked_up: Option<LookedUp<'_>>) {
        let Some(looked_up) = looked_up else {
            self.scanned.insert(key);
            return;
        };
        let place = self
            .columns
            .iter()
            .position(|by| looked_up.is_in(by))
            .unwrap_or_else(|| {
                self.columns.push(ByColumn {
                    column: looked_up.column.into(),
                    family: looked_up.family.clone(),
                    values: HashMap::new(),
                });
                self.columns.len().saturating_sub(1)
            });
        if let Some(by) = self.columns.get_mut(place) {
            for value in looked_up.values {
                by.values.entry(value.clone()).or_default().insert(key);
            }
        }
    }

    fn remove(&mut self, key: K, looked_up: Option<LookedUp<'_>>) {
        let Some(looked_up) = looked_up else {
            self.scanned.remove(&key);
            return;
        };
        for by in &mut self.columns {
            if looked_up.is_in(by) {
                for value in &looked_up.values {
                    if let Some(keys) = by.values.get_mut(*value) {
                        keys.remove(&key);
                        if keys.is_empty() {
                            by.values.remove(*value);
                        }
                    }
                }
            }
        }
        self.columns.retain(|by| !by.values.is_empty());
    }
}

impl<K: Copy + Ord + Hash> ByColumn<K> {
    fn find(&self, change: &Change, found: &mut BTreeSet<K>) {
        let Some(index) = change.relation.column(&self.column) else {
            return;
        };
        let text = match &change.kind {
            ChangeKind::Insert { new } => new.get(index),
            ChangeKind::Update { old, new } => match new.get(index) {
                Some(Datum::Unchanged) => old
                    .as_ref()
                    .filter(|old| old.kind == OldKind::Full)
                    .and_then(|old| old.tuple.get(index)),
                datum => datum,
            },
            // A value that filters must not see matches none of them.
            ChangeKind::Delete { old } => old.tuple.get(index),
            ChangeKind::Truncate => None,
        };
        // NULL and what is not known pass no comparison.
        let Some(Datum::Text(text)) = text else {
            return;
        };
        let Ok(text) = std::str::from_utf8(text) else {
            return;
        };
        match self.family.parse(text) {
            Some(value) => found.extend(self.values.get(&value).into_iter().flatten()),
            None => found.extend(self.values.values().flatten()),
        }
    }
}

/// The event under which a subscription is found. Who asks for rows that leave is concerned by any UPDATE, whatever it
/// writes.
fn event_of(subscription: &Subscription) -> Event {
    if subscription.wants_left() {
        Event::All
    } else {
        subscription.event
    }
}

/// The comparison that a filter is found by: each of its conditions must hold, so that one is enough.
struct LookedUp<'a> {
    column: &'a str,
    family: &'a Family,
    values: Vec<&'a Value>,
}

impl<'a> LookedUp<'a> {
    fn of(subscription: &Subscription, filter: &'a Filter) -> Option<Self> {
        if subscription.wants_left() {
            return None;
        }
        filter.tests().iter().find_map(|test| {
            let values: Vec<&Value> = match (&test.operand, test.operator) {
                (Operand::One(value), Operator::Eq) => vec![value],
                (Operand::Any(items), Operator::In) => items.iter().flatten().collect(),
                _ => return None,
            };
            // Without a value nothing would be left to remove; it never matches.
            let plain = !test.negated && test.family != Family::Opaque && !values.is_empty();
            plain.then_some(Self {
                column: &test.column,
                family: &test.family,
                values,
            })
        })
    }

    fn is_in<K>(&self, by: &ByColumn<K>) -> bool {
        *by.column == *self.column && by.family == *self.family
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::change::{OldTuple, Relation, RelationColumn, ReplicaIdentity, Tuple, TupleBuilder};
    use crate::routing::TableFilter;
    use crate::routing::filter::Test;

    const ROOMS: Oid = 1;

    fn relation() -> Arc<Relation> {
        let column = |name: &str, type_oid| RelationColumn {
            name: name.into(),
            type_oid,
            type_modifier: -1,
            in_identity: true,
        };
        Arc::new(Relation {
            oid: ROOMS,
            schema: "public".into(),
            name: "t".into(),
            identity: ReplicaIdentity::Full,
            columns: Box::new([column("room", 23), column("body", 25)]),
        })
    }

    fn tuple(columns: [Datum<'_>; 2]) -> Tuple {
        let mut builder = TupleBuilder::new();
        columns.into_iter().for_each(|column| builder.push(column));
        builder.build()
    }

    fn change(kind: ChangeKind) -> Change {
        Change {
            relation: relation(),
            order: 0,
            kind,
        }
    }

    fn insert(room: &str) -> Change {
        change(ChangeKind::Insert {
            new: tuple([Datum::Text(room.as_bytes()), Datum::Null]),
        })
    }

    fn room(operator: Operator, operand: Operand, negated: bool) -> Test {
        Test {
            column: "room".into(),
            type_oid: 23,
            family: Family::Integer,
            operator,
            negated,
            operand,
            question: None,
        }
    }

    fn wants(event: Event, tests: Vec<Test>) -> Vec<Subscription> {
        let filter = TableFilter {
            filter: Filter::new(tests),
            columns: None,
        };
        vec![Subscription {
            id: 1,
            snapshot: None,
            left: false,
            event,
            tables: HashMap::from([(ROOMS, filter)]),
        }]
    }

    fn eq(number: i64) -> Test {
        room(Operator::Eq, Operand::One(Value::Integer(number)), false)
    }

    fn found(index: &Index<u32>, change: &Change) -> Vec<u32> {
        index.candidates(change, false).into_iter().collect()
    }

    #[test]
    fn who_compares_with_another_value_is_not_looked_at() {
        let items = [Some(Value::Integer(1)), None, Some(Value::Integer(3))];
        let all = [
            (1, wants(Event::All, vec![eq(1)])),
            (2, wants(Event::Insert, vec![eq(2)])),
            (
                3,
                wants(
                    Event::All,
                    vec![room(Operator::In, Operand::Any(items.into()), false)],
                ),
            ),
            (4, wants(Event::All, Vec::new())),
            (
                5,
                wants(
                    Event::All,
                    vec![room(Operator::Eq, Operand::One(Value::Integer(1)), true)],
                ),
            ),
            (6, wants(Event::Delete, vec![eq(1)])),
        ];
        let mut index = Index::default();
        for (key, subscriptions) in &all {
            index.insert(*key, subscriptions);
        }
        assert_eq!(found(&index, &insert("1")), [1, 3, 4, 5]);
        assert_eq!(found(&index, &insert("2")), [2, 4, 5]);
        assert_eq!(found(&index, &insert("9")), [4, 5]);
        let unreadable: Vec<u32> = found(&index, &insert("odd"));
        assert_eq!(unreadable, [1, 2, 3, 4, 5], "in doubt all are looked at");
        assert_eq!(
            index.candidates(&insert("1"), true),
            BTreeSet::from([1, 3, 4, 5, 6])
        );
        for (key, subscriptions) in &all {
            index.remove(*key, subscriptions);
        }
        assert!(index.0.is_empty());
    }

    #[test]
    fn nobody_is_missed_whose_filter_matches() {
        let text = |text: &'static str| Datum::Text(text.as_bytes());
        let old = |kind, columns| OldTuple {
            kind,
            tuple: tuple(columns),
        };
        let changes = [
            insert("1"),
            change(ChangeKind::Insert {
                new: tuple([Datum::Null, text("x")]),
            }),
            change(ChangeKind::Update {
                old: Some(old(OldKind::Full, [text("1"), Datum::Null])),
                new: tuple([Datum::Unchanged, text("x")]),
            }),
            change(ChangeKind::Update {
                old: Some(old(OldKind::Key, [text("2"), Datum::Null])),
                new: tuple([text("1"), text("x")]),
            }),
            change(ChangeKind::Delete {
                old: old(OldKind::Full, [text("2"), text("x")]),
            }),
        ];
        let filters = [
            vec![],
            vec![eq(1)],
            vec![eq(2)],
            vec![room(Operator::Neq, Operand::One(Value::Integer(1)), false)],
            vec![
                room(Operator::Gt, Operand::One(Value::Integer(0)), false),
                eq(1),
            ],
            vec![room(Operator::In, Operand::Any([None].into()), false)],
            vec![room(Operator::In, Operand::Any([].into()), true)],
        ];
        for filter in filters {
            let subscriptions = wants(Event::All, filter);
            let mut index = Index::default();
            index.insert(0_u32, &subscriptions);
            for change in &changes {
                let matches = subscriptions.iter().any(|subscription| {
                    let filter = &subscription.tables[&ROOMS].filter;
                    let read = |place| match &change.kind {
                        ChangeKind::Insert { new } => new.get(place),
                        ChangeKind::Update { old, new } => match new.get(place) {
                            Some(Datum::Unchanged) => {
                                let old = old.as_ref()?;
                                (old.kind == OldKind::Full).then(|| old.tuple.get(place))?
                            }
                            datum => datum,
                        },
                        ChangeKind::Delete { old } => old.tuple.get(place),
                        ChangeKind::Truncate => None,
                    };
                    filter.test(&change.relation, read) != crate::routing::Match::No
                });
                if matches {
                    assert_eq!(found(&index, change), [0], "{change:?} {subscriptions:?}");
                }
            }
        }
    }
}
