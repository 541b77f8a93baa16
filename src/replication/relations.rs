//! Which description of a table is in force for which change.
//!
//! Follows the server's own book-keeping (it sends a Relation message when it believes that the receiver lacks it): one
//! that came inside a streamed transaction is in force for that transaction at once and for all others from its commit
//! on. It is forgotten if the transaction or the subtransaction that it came in rolls back: the server then forgets
//! having sent it, too, and sends it again where it is needed. Of two versions the one that was sent later wins,
//! whatever the order of the commits.

use std::collections::HashMap;
use std::sync::Arc;

use crate::change::{Oid, Relation, ReplicaIdentity};

/// The key of a relation whose replica identity is full, from the catalog: positions in [`Relation::columns`].
///
/// Empty for "no known key": then the whole old tuple is the key. Only a key whose constraint is checked immediately
/// may be named: under a deferrable one two rows can hold the same key for a while. Under every other replica identity
/// the key is the identity's columns, and nobody is asked.
pub type KeyResolver = Arc<dyn Fn(&Relation) -> Box<[usize]> + Send + Sync>;

/// What makes a row of a relation the same row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RowKey {
    /// Unknown: each change stands for itself.
    None,
    /// All columns: replica identity full without a key.
    Whole,
    /// These columns, ascending.
    Columns(Box<[usize]>),
}

impl RowKey {
    fn of(relation: &Relation, resolver: &KeyResolver) -> Self {
        let mut columns = match relation.identity {
            ReplicaIdentity::Nothing => return Self::None,
            ReplicaIdentity::Full => resolver(relation).into_vec(),
            // Only these are in the old tuples, whatever other keys there are.
            ReplicaIdentity::Default | ReplicaIdentity::Index => {
                let flagged = relation.columns.iter().enumerate();
                flagged
                    .filter_map(|(index, column)| column.in_identity.then_some(index))
                    .collect()
            }
        };
        columns.retain(|index| *index < relation.columns.len());
        columns.sort_unstable();
        columns.dedup();
        match (columns.is_empty(), relation.identity) {
            (false, _) => Self::Columns(columns.into()),
            (true, ReplicaIdentity::Full) => Self::Whole,
            (true, _) => Self::None,
        }
    }
}

/// One version of a relation.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) relation: Arc<Relation>,
    pub(super) key: Arc<RowKey>,
}

/// A version and when it was sent, relative to the others.
#[derive(Clone, Debug)]
pub(super) struct Described {
    sequence: u64,
    known: Known,
}

impl Described {
    pub(super) fn oid(&self) -> Oid {
        self.known.relation.oid
    }
}

/// The versions that are in force outside of transactions in progress.
pub(super) struct Registry {
    resolver: KeyResolver,
    committed: HashMap<Oid, Described>,
    sequence: u64,
}

impl Registry {
    pub(super) fn new(resolver: KeyResolver) -> Self {
        Self {
            resolver,
            committed: HashMap::new(),
            sequence: 0,
        }
    }

    /// A new session: the server sends everything again.
    pub(super) fn clear(&mut self) {
        self.committed.clear();
    }

    /// A Relation message arrived.
    pub(super) fn describe(&mut self, relation: Relation) -> Described {
        self.sequence += 1;
        Described {
            sequence: self.sequence,
            known: self.know(relation),
        }
    }

    /// The transaction that `described` came in has committed.
    pub(super) fn commit(&mut self, described: Described) {
        let oid = described.oid();
        match self.committed.get(&oid) {
            Some(newer) if newer.sequence > described.sequence => {}
            _ => {
                self.committed.insert(oid, described);
            }
        }
    }

    fn get(&self, oid: Oid) -> Option<&Known> {
        self.committed.get(&oid).map(|described| &described.known)
    }

    /// Shares the committed version where it says the same.
    fn know(&self, relation: Relation) -> Known {
        match self.get(relation.oid) {
            Some(known) if *known.relation == relation => known.clone(),
            _ => Known {
                key: Arc::new(RowKey::of(&relation, &self.resolver)),
                relation: Arc::new(relation),
            },
        }
    }
}

/// A number of a version in [`Versions`].
pub(super) type Version = u32;

/// The versions that one committed transaction was written under, while it is read (several times) from its start.
#[derive(Default)]
pub(super) struct Versions {
    all: Vec<Known>,
    by_oid: HashMap<Oid, Vec<Version>>,
    in_force: HashMap<Oid, Version>,
    /// The last answer of [`Self::find`]: neighbouring changes mostly are of one table.
    last: Option<(Oid, Version)>,
}

impl Versions {
    /// The transaction is read from its start again. Versions keep their numbers.
    pub(super) fn restart(&mut self) {
        self.in_force.clear();
        self.last = None;
    }

    /// A Relation message stands here.
    pub(super) fn describe(&mut self, relation: Relation, registry: &Registry) {
        let oid = relation.oid;
        self.last = None;
        let same = |version: &&Version| {
            let known = self.get(**version);
            known.is_some_and(|known| *known.relation == relation)
        };
        let seen = self.by_oid.get(&oid);
        let seen = seen.and_then(|versions| versions.iter().rev().find(same));
        let version = match seen {
            Some(version) => *version,
            None => self.add(registry.know(relation)),
        };
        self.in_force.insert(oid, version);
    }

    /// The version in force for the table `oid` here.
    pub(super) fn find(&mut self, oid: Oid, registry: &Registry) -> Option<Version> {
        if let Some((last, version)) = self.last
            && last == oid
        {
            return Some(version);
        }
        let version = match self.in_force.get(&oid) {
            Some(version) => *version,
            None => {
                let version = self.add(registry.get(oid)?.clone());
                self.in_force.insert(oid, version);
                version
            }
        };
        self.last = Some((oid, version));
        Some(version)
    }

    pub(super) fn get(&self, version: Version) -> Option<&Known> {
        self.all.get(usize::try_from(version).ok()?)
    }

    fn add(&mut self, known: Known) -> Version {
        let versions = self.by_oid.entry(known.relation.oid).or_default();
        let same = |version: &&Version| {
            let index = usize::try_from(**version).unwrap_or(usize::MAX);
            let other = self.all.get(index);
            other.is_some_and(|other| Arc::ptr_eq(&other.relation, &known.relation))
        };
        if let Some(version) = versions.iter().rev().find(same) {
            return *version;
        }
        let version = Version::try_from(self.all.len()).unwrap_or(Version::MAX);
        versions.push(version);
        self.all.push(known);
        version
    }
}

#[cfg(test)]
mod tests {
    use crate::change::RelationColumn;

    use super::*;

    fn relation(identity: ReplicaIdentity, in_identity: [bool; 3]) -> Relation {
        let column = |in_identity| RelationColumn {
            name: "c".into(),
            type_oid: 25,
            type_modifier: -1,
            in_identity,
        };
        Relation {
            oid: 1,
            schema: "public".into(),
            name: "t".into(),
            identity,
            columns: in_identity.map(column).into(),
        }
    }

    #[track_caller]
    fn key_of(identity: ReplicaIdentity, in_identity: [bool; 3], from_catalog: &[usize]) -> RowKey {
        let from_catalog: Box<[usize]> = from_catalog.into();
        let resolver: KeyResolver = Arc::new(move |_: &Relation| from_catalog.clone());
        RowKey::of(&relation(identity, in_identity), &resolver)
    }

    #[test]
    fn the_key_is_what_old_tuples_carry() {
        let flags = [true, false, true];
        for identity in [ReplicaIdentity::Default, ReplicaIdentity::Index] {
            let key = key_of(identity, flags, &[1]);
            assert_eq!(key, RowKey::Columns([0, 2].into()));
        }
        assert_eq!(
            key_of(ReplicaIdentity::Nothing, [false; 3], &[1]),
            RowKey::None
        );
        assert_eq!(
            key_of(ReplicaIdentity::Default, [false; 3], &[1]),
            RowKey::None
        );
    }

    #[test]
    fn with_replica_identity_full_the_catalog_names_the_key() {
        let full = |from_catalog| key_of(ReplicaIdentity::Full, [true; 3], from_catalog);
        assert_eq!(full(&[2, 1, 1]), RowKey::Columns([1, 2].into()));
        assert_eq!(full(&[]), RowKey::Whole);
        assert_eq!(full(&[7]), RowKey::Whole, "a column that is not there");
    }

    #[test]
    fn versions_keep_their_numbers_when_read_again() {
        let resolver: KeyResolver = Arc::new(|_: &Relation| Box::default());
        let mut registry = Registry::new(resolver);
        let [first, second] = [true, false].map(|k| relation(ReplicaIdentity::Default, [k; 3]));
        let described = registry.describe(first.clone());
        registry.commit(described);
        let mut versions = Versions::default();
        let mut passes = Vec::new();
        for _ in 0..2 {
            let mut numbers = vec![versions.find(1, &registry)];
            for relation in [&second, &first, &second] {
                versions.describe(relation.clone(), &registry);
                numbers.push(versions.find(1, &registry));
            }
            passes.push(numbers);
            versions.restart();
        }
        assert_eq!(passes[0], [Some(0), Some(1), Some(0), Some(1)]);
        assert_eq!(passes[0], passes[1]);
        assert_eq!(versions.find(2, &registry), None);
    }
}
