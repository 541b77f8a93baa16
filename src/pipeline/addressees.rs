//! Which lanes a change concerns: by table and role, and among those by the claims that the policies compare rows with.
//!
//! Plain memory. A lane whose identity cannot be placed by its claims is found by every change, so that nobody is passed
//! over in doubt.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::lane::LaneId;
use crate::change::Oid;
use crate::policy::{ClaimKey, Weights};

/// All lanes with a subscriber on some table.
#[derive(Debug, Default)]
pub(super) struct Addressees(HashMap<Oid, HashMap<Box<str>, Group>>);

/// The lanes of one role on one table.
#[derive(Debug, Default)]
pub(super) struct Group {
    /// How many bindings of its subscribers are on the table.
    lanes: BTreeMap<LaneId, usize>,
    directory: Option<Directory>,
}

/// Where identities are found by their claims.
#[derive(Debug)]
struct Directory {
    /// The plan whose comparisons these are.
    plan: u64,
    /// Not placed yet.
    fresh: BTreeSet<LaneId>,
    places: HashMap<LaneId, Vec<ClaimKey>>,
    by_key: HashMap<ClaimKey, BTreeSet<LaneId>>,
    /// Found by every change.
    always: BTreeSet<LaneId>,
}

impl Addressees {
    /// A binding of the lane's is on the table.
    pub(super) fn add(&mut self, table: Oid, role: &str, lane: LaneId) {
        let roles = self.0.entry(table).or_default();
        if !roles.contains_key(role) {
            roles.insert(role.into(), Group::default());
        }
        if let Some(group) = roles.get_mut(role) {
            group.add(lane);
        }
    }

    /// One such binding is gone.
    pub(super) fn remove(&mut self, table: Oid, role: &str, lane: LaneId) {
        let Some(roles) = self.0.get_mut(&table) else {
            return;
        };
        if let Some(group) = roles.get_mut(role) {
            group.remove(lane);
            if group.lanes.is_empty() {
                roles.remove(role);
            }
        }
        if roles.is_empty() {
            self.0.remove(&table);
        }
    }

    /// Whether anybody is bound to the table.
    pub(super) fn concerns(&self, table: Oid) -> bool {
        self.0.contains_key(&table)
    }

    /// Whether anybody of the role is.
    pub(super) fn has_role(&self, table: Oid, role: &str) -> bool {
        self.0
            .get(&table)
            .is_some_and(|roles| roles.contains_key(role))
    }

    /// All tables with the roles of their subscribers.
    pub(super) fn tables_and_roles(&self) -> impl Iterator<Item = (Oid, &str)> {
        self.0
            .iter()
            .flat_map(|(table, roles)| roles.keys().map(|role| (*table, &**role)))
    }

    /// The lanes on a table, by role.
    pub(super) fn of(&mut self, table: Oid) -> impl Iterator<Item = (&str, &mut Group)> {
        self.0
            .get_mut(&table)
            .into_iter()
            .flatten()
            .map(|(role, group)| (&**role, group))
    }
}

impl Group {
    fn add(&mut self, lane: LaneId) {
        let count = self.lanes.entry(lane).or_default();
        *count = count.saturating_add(1);
        if *count == 1
            && let Some(directory) = &mut self.directory
        {
            directory.fresh.insert(lane);
        }
    }

    fn remove(&mut self, lane: LaneId) {
        let Some(count) = self.lanes.get_mut(&lane) else {
            return;
        };
        *count = count.saturating_sub(1);
        if *count == 0 {
            self.lanes.remove(&lane);
            if let Some(directory) = &mut self.directory {
                directory.remove(lane);
            }
        }
    }

    /// All of them, in order.
    pub(super) fn lanes(&self) -> impl Iterator<Item = LaneId> {
        self.lanes.keys().copied()
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.lanes.len()
    }

    /// Whether the lane is one of them.
    pub(super) fn contains(&self, lane: LaneId) -> bool {
        self.lanes.contains_key(&lane)
    }

    /// Places every lane that is not yet placed for this plan; `keys` answers `None` for one that every row may concern.
    pub(super) fn place(
        &mut self,
        plan: u64,
        mut keys: impl FnMut(LaneId) -> Option<Vec<ClaimKey>>,
    ) {
        let directory = match &mut self.directory {
            Some(directory) if directory.plan == plan => directory,
            other => other.insert(Directory {
                plan,
                fresh: self.lanes.keys().copied().collect(),
                places: HashMap::new(),
                by_key: HashMap::new(),
                always: BTreeSet::new(),
            }),
        };
        while let Some(lane) = directory.fresh.pop_first() {
            directory.insert(lane, keys(lane));
        }
    }

    /// The lanes under any of these keys, and those that are always found.
    pub(super) fn under(&self, keys: impl IntoIterator<Item = ClaimKey>) -> BTreeSet<LaneId> {
        let Some(directory) = &self.directory else {
            return self.lanes.keys().copied().collect();
        };
        let mut found = directory.always.clone();
        for key in keys {
            found.extend(directory.by_key.get(&key).into_iter().flatten());
        }
        found
    }
}

impl Weights for Group {
    fn weight(&self, key: &ClaimKey) -> usize {
        let directory = self.directory.as_ref();
        directory
            .and_then(|directory| directory.by_key.get(key))
            .map_or(0, BTreeSet::len)
    }
}

impl Directory {
    fn insert(&mut self, lane: LaneId, keys: Option<Vec<ClaimKey>>) {
        let Some(keys) = keys else {
            self.always.insert(lane);
            return;
        };
        for key in &keys {
            self.by_key.entry(key.clone()).or_default().insert(lane);
        }
        self.places.insert(lane, keys);
    }

    fn remove(&mut self, lane: LaneId) {
        self.fresh.remove(&lane);
        self.always.remove(&lane);
        for key in self.places.remove(&lane).unwrap_or_default() {
            if let Some(lanes) = self.by_key.get_mut(&key) {
                lanes.remove(&lane);
                if lanes.is_empty() {
                    self.by_key.remove(&key);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::value::Value;

    const TABLE: Oid = 7;

    fn key(text: &str) -> ClaimKey {
        (0, Value::text(text))
    }

    fn group(addressees: &mut Addressees) -> &mut Group {
        addressees.of(TABLE).next().unwrap().1
    }

    #[test]
    fn lanes_are_found_by_their_claims_as_they_come_and_go() {
        let mut all = Addressees::default();
        for lane in [1, 2, 3] {
            all.add(TABLE, "authenticated", lane);
        }
        all.add(TABLE, "authenticated", 1);
        let names = |lane: LaneId| match lane {
            1 => Some(vec![key("alice")]),
            2 => Some(vec![key("bob"), key("staff")]),
            3 => None,
            _ => Some(vec![key("alice"), key("staff")]),
        };
        group(&mut all).place(9, names);
        let found = |all: &mut Addressees, of: &str| -> Vec<LaneId> {
            group(all).under([key(of)]).into_iter().collect()
        };
        assert_eq!(found(&mut all, "alice"), [1, 3]);
        assert_eq!(found(&mut all, "nobody"), [3]);
        all.add(TABLE, "authenticated", 4);
        group(&mut all).place(9, names);
        assert_eq!(found(&mut all, "staff"), [2, 3, 4]);
        assert_eq!(group(&mut all).weight(&key("staff")), 2);
        all.remove(TABLE, "authenticated", 1);
        assert_eq!(found(&mut all, "alice"), [1, 3, 4], "one binding is left");
        all.remove(TABLE, "authenticated", 1);
        all.remove(TABLE, "authenticated", 3);
        assert_eq!(found(&mut all, "alice"), [4]);
        // Another plan compares with something else.
        group(&mut all).place(10, |_lane| Some(vec![key("x")]));
        assert_eq!(found(&mut all, "x"), [2, 4]);
        for lane in [2, 4] {
            all.remove(TABLE, "authenticated", lane);
        }
        assert!(!all.concerns(TABLE));
    }
}
