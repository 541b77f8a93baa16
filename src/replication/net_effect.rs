//! The net effect of a transaction: which of its changes are shown, and put together from which.
//!
//! Only what a reader could see at the commit may be shown, but the stream carries every intermediate version. Goes in:
//! the keys of a transaction's changes, in order, twice. Comes out: for each change whether it stands for itself, is
//! dropped, or ends a row's history in the transaction and with what it is merged. Never looks at tuples beyond their
//! keys (`merge.rs` puts tuples together).
//!
//! First pass ([`Touches`](super::row_key::Touches)): which keys occur more than once? 16 bytes per touched key; a large
//! statement touches each once and is done. Second pass ([`Chains`]), only over changes with such a key: a *chain*
//! follows one row through its versions and key changes, from what it was before the transaction (nothing, if inserted)
//! to what it is after (nothing, if deleted). About 100 bytes for each row that is changed more than once.
//!
//! At the end the chains are put in an order in which they make sense one after the other:
//! - a key that was freed by a DELETE and taken by an INSERT is one UPDATE;
//! - a row that takes a key which another row began with is shown after that one. So a net change stands at the row's
//!   last change or, rarely, later;
//! - where rows exchange their keys in a circle (by way of a temporary key, a step that is not shown) there is no such
//!   order, and each *key* is shown to change its content instead of each row its key. What such a row leaves out as
//!   unchanged TOAST stays unknown, unless the replica identity is full; the change then carries the old key, which
//!   otherwise only a change of the key does.
//!
//! So the output, applied one by one by key, leads from the state before to the state after, and no key occurs twice as
//! the old or twice as the new one.

use super::relations::Version;
use super::row_key::{Contended, Keys};

/// Where a change stands: the place of its message, and the version of its relation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) at: u64,
    pub(super) version: Version,
}

/// A version of a row whose tuple can fill what a later one leaves out as unchanged.
#[derive(Clone, Copy, Debug)]
struct Source {
    place: Place,
    /// The next older one, in [`Chains::sources`].
    older: Id,
}

/// An index that may be missing, in four bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Id(u32);

impl Id {
    const NONE: Self = Self(u32::MAX);

    /// Transactions of 2³² changes do not get here: see `Assembler`.
    fn new(index: usize) -> Self {
        u32::try_from(index).map_or(Self::NONE, Self)
    }

    fn index(self) -> usize {
        match self {
            Self::NONE => usize::MAX,
            Self(index) => usize::try_from(index).unwrap_or(usize::MAX),
        }
    }
}

/// What a row was before the transaction.
#[derive(Clone, Copy, Debug)]
struct Beginning {
    /// Where its first change stands; [`NOWHERE`] if the row did not exist.
    place: Place,
    /// Its key among the contended ones.
    key: Id,
    /// Whether the first change carries an old tuple.
    has_old: bool,
}

/// A place that no change has.
const NOWHERE: Place = Place {
    at: u64::MAX,
    version: Version::MAX,
};

impl Beginning {
    fn place(self) -> Option<Place> {
        (self.place != NOWHERE).then_some(self.place)
    }
}

/// One row's way through the transaction.
#[derive(Clone, Copy, Debug)]
struct Chain {
    beginning: Beginning,
    /// The last change.
    last: Place,
    /// Where it is shown, and how many others are shown there before it.
    shown_at: u64,
    rank: u32,
    /// The key after the last change among the contended ones; none if the row is deleted.
    key: Id,
    /// Newest of the versions that the last tuple needs to be complete.
    source: Id,
    /// The chain that held the same key when this one took it: two rows that cannot be told apart.
    below: Id,
    is_deleted: bool,
    /// Whether `shown_at` is final.
    is_placed: bool,
    /// Whether it has got the beginning of another row.
    is_exchanged: bool,
}

/// Second pass: follows the rows behind contended keys.
pub(super) struct Chains {
    contended: Contended,
    chains: Vec<Chain>,
    sources: Vec<Source>,
    /// The chain that holds a contended key now.
    holders: Vec<Id>,
}

/// One change of the second pass.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    pub(super) place: Place,
    pub(super) keys: Keys,
    /// Whether an update or delete carries an old tuple.
    pub(super) has_old: bool,
    /// Whether the new tuple leaves out unchanged TOAST.
    pub(super) is_incomplete: bool,
}

/// What one row's history comes to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Net {
    /// The row's last change.
    pub(super) last: Place,
    pub(super) kind: NetKind,
    shown_at: u64,
    rank: u32,
    source: Id,
}

/// What is shown of a row's history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NetKind {
    /// The last tuple appeared.
    Insert,
    /// The last tuple replaced what `first` found.
    Update {
        /// The row's first change. `None`: nothing is known of the old version but its key, which is the new one's.
        first: Option<Place>,
        /// Whether the key is the same.
        same_key: bool,
        /// Whether the key had another row's content: rows have exchanged their keys in a circle.
        is_exchanged: bool,
    },
    /// What `first` found is gone.
    Delete {
        /// The row's first change.
        first: Place,
    },
}

impl Chains {
    pub(super) fn new(contended: Contended) -> Self {
        Self {
            holders: vec![Id::NONE; contended.len()],
            contended,
            chains: Vec::new(),
            sources: Vec::new(),
        }
    }

    /// Takes the next change; false if it stands for itself, because nothing else touches its keys.
    pub(super) fn follow(&mut self, row: Row) -> bool {
        let (old, new) = match row.keys {
            Keys::Insert(new) => (None, Some(new)),
            Keys::Update { old, new } => (Some(old), Some(new)),
            Keys::Delete(old) => (Some(old), None),
        };
        let find = |key| self.contended.find(key).map_or(Id::NONE, Id::new);
        let old = old.map(find);
        let new = new.map(find);
        if [old, new].into_iter().flatten().all(|id| id == Id::NONE) {
            return false;
        }
        let chain = match old {
            None => None,
            Some(key) => self.take(key),
        };
        let id = chain.unwrap_or_else(|| self.begin(row, old));
        self.go_on(id, row, new, chain.is_some());
        true
    }

    /// The chain that holds `key`, which lets go of it.
    fn take(&mut self, key: Id) -> Option<Id> {
        let holder = self.holders.get_mut(key.index())?;
        let id = *holder;
        let chain = self.chains.get_mut(id.index())?;
        *holder = std::mem::replace(&mut chain.below, Id::NONE);
        Some(id)
    }

    /// A chain for a row that no earlier change touched; `old` is its key unless it is being inserted.
    fn begin(&mut self, row: Row, old: Option<Id>) -> Id {
        let id = Id::new(self.chains.len());
        self.chains.push(Chain {
            beginning: Beginning {
                place: old.map_or(NOWHERE, |_| row.place),
                key: old.unwrap_or(Id::NONE),
                has_old: row.has_old,
            },
            last: row.place,
            shown_at: row.place.at,
            rank: 0,
            key: Id::NONE,
            source: Id::NONE,
            below: Id::NONE,
            is_deleted: false,
            is_placed: false,
            is_exchanged: false,
        });
        id
    }

    /// `row` is the latest change of the chain `id` and gives it the key `new`, or none.
    fn go_on(&mut self, id: Id, row: Row, new: Option<Id>, has_earlier: bool) {
        let Some(chain) = self.chains.get_mut(id.index()) else {
            return;
        };
        if !row.is_incomplete {
            chain.source = Id::NONE;
        } else if has_earlier {
            let source = Source {
                place: chain.last,
                older: chain.source,
            };
            chain.source = Id::new(self.sources.len());
            self.sources.push(source);
        }
        chain.last = row.place;
        chain.shown_at = row.place.at;
        chain.key = new.unwrap_or(Id::NONE);
        chain.is_deleted = new.is_none();
        if let Some(holder) = self.holders.get_mut(chain.key.index()) {
            chain.below = std::mem::replace(holder, id);
        }
    }

    /// What is shown of all that was followed.
    pub(super) fn finish(mut self) -> NetEffect {
        self.put_in_order();
        (self.contended, self.holders) = <_>::default();
        // Collects into the memory of the chains.
        let mut nets: Vec<Net> = self.chains.into_iter().filter_map(Chain::net).collect();
        nets.sort_unstable_by_key(|net| (net.shown_at, net.rank));
        NetEffect {
            nets,
            next: 0,
            sources: self.sources,
        }
    }

    /// See the module's description. A row waits for at most one other, and at most one waits for it: the chains form
    /// lines and circles.
    fn put_in_order(&mut self) {
        let beginners = self.beginners();
        for index in 0..self.chains.len() {
            let first = Id::new(index);
            if self.giver(first, &beginners).is_none() {
                self.place_line(first, &beginners);
            }
        }
        for index in 0..self.chains.len() {
            self.turn_circle(Id::new(index), &beginners);
        }
    }

    /// The chains that began with each contended key, after chains that freed a key for good have left theirs to the
    /// row that was inserted there.
    fn beginners(&mut self) -> Vec<Id> {
        let mut beginners = vec![Id::NONE; self.holders.len()];
        for (index, chain) in self.chains.iter().enumerate() {
            if let Some(beginner) = beginners.get_mut(chain.beginning.key.index()) {
                *beginner = Id::new(index);
            }
        }
        for (beginner, holder) in beginners.iter_mut().zip(&self.holders) {
            let pair = [beginner.index(), holder.index()];
            let Ok([freed, taken]) = self.chains.get_disjoint_mut(pair) else {
                continue;
            };
            if freed.is_deleted && taken.beginning.place().is_none() {
                std::mem::swap(&mut freed.beginning, &mut taken.beginning);
                *beginner = *holder;
            }
        }
        beginners
    }

    /// The chain that began with the key that the chain `id` ends with.
    fn giver(&self, id: Id, beginners: &[Id]) -> Option<Id> {
        let key = self.chains.get(id.index())?.key.index();
        let (holder, beginner) = (*self.holders.get(key)?, *beginners.get(key)?);
        (holder == id && beginner != id && beginner != Id::NONE).then_some(beginner)
    }

    /// The chain that ends with the key that the chain `id` began with.
    fn taker(&self, id: Id, beginners: &[Id]) -> Option<Id> {
        let key = self.chains.get(id.index())?.beginning.key.index();
        let (holder, beginner) = (*self.holders.get(key)?, *beginners.get(key)?);
        (beginner == id && holder != id && holder != Id::NONE).then_some(holder)
    }

    /// Places `first`, which waits for nobody, and behind it those that wait for it.
    fn place_line(&mut self, first: Id, beginners: &[Id]) {
        let (mut next, mut earliest) = (Some(first), (0, 0));
        while let Some(chain) = next.and_then(|id| self.chains.get_mut(id.index())) {
            (chain.shown_at, chain.rank) = earliest.max((chain.shown_at, 0));
            earliest = (chain.shown_at, chain.rank.saturating_add(1));
            chain.is_placed = true;
            next = next.and_then(|id| self.taker(id, beginners));
        }
    }

    /// Gives each row of the circle that `start` belongs to, if any, the beginning that belongs to its last key.
    fn turn_circle(&mut self, start: Id, beginners: &[Id]) {
        let mut current = start;
        while self
            .chains
            .get(current.index())
            .is_some_and(|chain| !chain.is_placed)
        {
            let giver = self.giver(current, beginners);
            if let Some(chain) = self.chains.get_mut(current.index()) {
                chain.is_placed = true;
            }
            let Some(giver) = giver.filter(|giver| *giver != start) else {
                break;
            };
            // After the last exchange `start`'s own beginning has gone round to the one that takes its key.
            let pair = [current.index(), giver.index()];
            if let Ok([taken, given]) = self.chains.get_disjoint_mut(pair) {
                std::mem::swap(&mut taken.beginning, &mut given.beginning);
                (taken.is_exchanged, given.is_exchanged) = (true, true);
            }
            current = giver;
        }
    }
}

impl Chain {
    fn net(self) -> Option<Net> {
        let kind = match (self.beginning.place(), self.is_deleted) {
            (None, true) => return None,
            (None, false) => NetKind::Insert,
            (Some(first), true) => NetKind::Delete { first },
            (Some(first), false) => {
                let same_key = self.key != Id::NONE && self.key == self.beginning.key;
                let has_old = self.beginning.has_old || !same_key || self.is_exchanged;
                NetKind::Update {
                    first: has_old.then_some(first),
                    same_key,
                    is_exchanged: self.is_exchanged,
                }
            }
        };
        Some(Net {
            last: self.last,
            kind,
            shown_at: self.shown_at,
            rank: self.rank,
            source: self.source,
        })
    }
}

/// What is shown of the changes that do not stand for themselves; asked for each of them in order, until `None`.
#[derive(Default)]
pub(super) struct NetEffect {
    nets: Vec<Net>,
    next: usize,
    sources: Vec<Source>,
}

impl NetEffect {
    /// What else is shown at `at`.
    pub(super) fn next_at(&mut self, at: u64) -> Option<Net> {
        let net = *self.nets.get(self.next)?;
        (net.shown_at == at).then(|| {
            self.next += 1;
            net
        })
    }

    /// The earlier versions that can complete the last tuple, newest first.
    pub(super) fn sources(&self, net: Net) -> impl Iterator<Item = Place> {
        let mut next = net.source;
        std::iter::from_fn(move || {
            let source = self.sources.get(next.index())?;
            next = source.older;
            Some(source.place)
        })
    }
}
