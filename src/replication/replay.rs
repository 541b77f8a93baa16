//! One committed transaction, read back from the spool: its net effect, in parts.
//!
//! Reads the transaction once if its changes cannot concern the same row (one change, or inserts only), else up to
//! three times (`net_effect.rs` says why). Works in pieces of bounded size, so that the caller can look after its
//! socket, and never holds more than one part.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use crate::change::{Change, ChangeKind, Commit, Oid, TransactionPart, Tuple, Xid};

use super::assembler::AssembleError;
use super::merge;
use super::net_effect::{
    Chains, KeyHasher, Net, NetEffect, NetKind, Place, Row, Touches, is_full, is_incomplete,
};
use super::pgoutput::{self, Message, RowChange, RowKind};
use super::relations::{Known, Registry, Version, Versions};
use super::spool::{Position, Stored};

/// Changes in one part.
const PART_CHANGES_MAX: usize = 1_000;

/// Bytes of messages in one part; a single change may be larger.
const PART_BYTES_MAX: usize = 1 << 20;

/// Bytes of messages that one step reads; a millisecond or so.
const STEP_BYTES: usize = 1 << 20;

/// What one [`Replay::step`] came to.
pub(super) enum Replayed {
    /// The next part; the last one if it says so.
    Part(TransactionPart),
    /// A piece of work is done, more is left.
    Busy,
    /// It is over; no part came since the last one that said so, or none at all.
    Done,
}

/// What a transaction wrote, counted as it arrived.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) inserts: u64,
    /// Updates and deletes.
    pub(super) others: u64,
    /// Truncated tables.
    pub(super) truncates: u64,
}

impl Counts {
    pub(super) const fn total(self) -> u64 {
        self.inserts + self.others + self.truncates
    }

    const fn is_plain(self) -> bool {
        self.total() <= 1 || (self.others == 0 && self.truncates == 0)
    }
}

/// A committed transaction being read.
pub(super) struct Replay {
    commit: Arc<Commit>,
    stored: Stored,
    is_streamed: bool,
    aborted: HashSet<Xid>,
    position: Position,
    versions: Versions,
    hasher: KeyHasher,
    /// The last truncation of each table: earlier changes of it are dropped.
    truncated: HashMap<Oid, u64>,
    stage: Stage,
    /// Changes read in this pass.
    ordinal: u32,
    /// Changes of a truncation that names many tables.
    waiting: VecDeque<Change>,
    part: Vec<Change>,
    part_size: usize,
}

enum Stage {
    Touch(Touches),
    Follow { chains: Chains, marks: Marks },
    Emit { effect: NetEffect, marks: Marks },
}

/// One bit for each change of the transaction: whether it does not stand for itself.
#[derive(Default)]
struct Marks(Vec<u64>);

impl Marks {
    fn set(&mut self, ordinal: u32) {
        let word = usize::try_from(ordinal / u64::BITS).unwrap_or(usize::MAX);
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        if let Some(word) = self.0.get_mut(word) {
            *word |= 1 << (ordinal % u64::BITS);
        }
    }

    fn is_set(&self, ordinal: u32) -> bool {
        let word = usize::try_from(ordinal / u64::BITS).unwrap_or(usize::MAX);
        let word = self.0.get(word).copied().unwrap_or(0);
        word & (1 << (ordinal % u64::BITS)) != 0
    }
}

/// One row change in the course of a pass.
struct Read {
    place: Place,
    kind: RowKind,
    size: usize,
}

impl Replay {
    pub(super) fn new(
        commit: Arc<Commit>,
        stored: Stored,
        is_streamed: bool,
        aborted: HashSet<Xid>,
        counts: Counts,
    ) -> Self {
        let stage = if counts.is_plain() {
            Stage::Emit {
                effect: NetEffect::default(),
                marks: Marks::default(),
            }
        } else {
            let rows = counts.inserts + counts.others;
            Stage::Touch(Touches::new(usize::try_from(rows).unwrap_or(0)))
        };
        Self {
            commit,
            stored,
            is_streamed,
            aborted,
            position: Position::default(),
            versions: Versions::default(),
            hasher: KeyHasher::default(),
            truncated: HashMap::new(),
            stage,
            ordinal: 0,
            waiting: VecDeque::new(),
            part: Vec::new(),
            part_size: 0,
        }
    }

    /// The transaction.
    pub(super) const fn commit(&self) -> &Arc<Commit> {
        &self.commit
    }

    /// Gives the spool its own back.
    pub(super) fn into_stored(self) -> Stored {
        self.stored
    }

    /// Goes on until something is to be handed down, or for about [`STEP_BYTES`].
    ///
    /// # Errors
    /// The spool cannot be read, or the server never described a table that it sent a change of.
    pub(super) fn step(&mut self, registry: &Registry) -> Result<Replayed, AssembleError> {
        let mut budget = STEP_BYTES;
        loop {
            while let Some(change) = self.waiting.pop_front() {
                if let Some(part) = self.add(change, 0) {
                    return Ok(Replayed::Part(part));
                }
            }
            let next = self.stored.next(&mut self.position);
            let Some((at, message)) = next.map_err(AssembleError::Spool)? else {
                if self.end_pass() {
                    return Ok(Replayed::Busy);
                }
                return Ok(self.take_part(true).map_or(Replayed::Done, Replayed::Part));
            };
            let size = message.len();
            if let Some(part) = self.read(at, message, registry)? {
                return Ok(Replayed::Part(part));
            }
            budget = budget.saturating_sub(size);
            if budget == 0 {
                return Ok(Replayed::Busy);
            }
        }
    }

    /// Begins the next pass, if there is one.
    fn end_pass(&mut self) -> bool {
        let emit = |effect, marks| Stage::Emit { effect, marks };
        let over = emit(NetEffect::default(), Marks::default());
        self.stage = match std::mem::replace(&mut self.stage, over) {
            Stage::Touch(touches) => {
                let contended = touches.contended();
                if contended.is_empty() {
                    emit(NetEffect::default(), Marks::default())
                } else {
                    let (chains, marks) = (Chains::new(contended), Marks::default());
                    Stage::Follow { chains, marks }
                }
            }
            Stage::Follow { chains, marks } => emit(chains.finish(), marks),
            Stage::Emit { .. } => return false,
        };
        self.position = Position::default();
        self.versions.restart();
        self.ordinal = 0;
        true
    }

    fn read(
        &mut self,
        at: u64,
        message: Bytes,
        registry: &Registry,
    ) -> Result<Option<TransactionPart>, AssembleError> {
        let size = message.len();
        let is_aborted = |xid: Option<Xid>| xid.is_some_and(|xid| self.aborted.contains(&xid));
        match pgoutput::decode(message, self.is_streamed)? {
            Message::Relation { relation, .. } => self.versions.describe(relation, registry),
            Message::Truncate { xid, relations } if !is_aborted(xid) => {
                self.truncate(at, &relations, registry)?;
            }
            Message::Row(RowChange {
                xid,
                relation,
                kind,
            }) if !is_aborted(xid) => {
                let version = self.find(relation, registry)?;
                let place = Place { at, version };
                return self.row(relation, Read { place, kind, size });
            }
            _ => {}
        }
        Ok(None)
    }

    fn truncate(
        &mut self,
        at: u64,
        relations: &[Oid],
        registry: &Registry,
    ) -> Result<(), AssembleError> {
        for oid in relations {
            let version = self.find(*oid, registry)?;
            let order = self.count();
            match &self.stage {
                Stage::Touch(_) => {
                    self.truncated.insert(*oid, at);
                }
                Stage::Emit { .. } if self.truncated.get(oid).is_none_or(|last| *last == at) => {
                    if let Some(known) = self.versions.get(version) {
                        self.waiting.push_back(Change {
                            relation: Arc::clone(&known.relation),
                            order,
                            kind: ChangeKind::Truncate,
                        });
                    }
                }
                Stage::Follow { .. } | Stage::Emit { .. } => {}
            }
        }
        Ok(())
    }

    fn row(&mut self, oid: Oid, read: Read) -> Result<Option<TransactionPart>, AssembleError> {
        let ordinal = self.count();
        let Some(known) = self.versions.get(read.place.version) else {
            return Ok(None);
        };
        if self
            .truncated
            .get(&oid)
            .is_some_and(|last| read.place.at < *last)
        {
            return Ok(None);
        }
        match &mut self.stage {
            Stage::Touch(touches) => {
                if let Some(keys) = self.hasher.keys(known, &read.kind) {
                    touches.touch(keys);
                }
            }
            Stage::Follow { chains, marks } => {
                if let Some(keys) = self.hasher.keys(known, &read.kind) {
                    let (has_old, is_incomplete) = match &read.kind {
                        RowKind::Insert { .. } => (false, false),
                        RowKind::Update { old, new } => (old.is_some(), is_incomplete(new)),
                        RowKind::Delete { .. } => (true, false),
                    };
                    let place = read.place;
                    if chains.follow(Row {
                        place,
                        keys,
                        has_old,
                        is_incomplete,
                    }) {
                        marks.set(ordinal);
                    }
                }
            }
            Stage::Emit { effect, marks } => {
                let (change, size) = if marks.is_set(ordinal) {
                    let Some(net) = effect.at(read.place.at) else {
                        return Ok(None);
                    };
                    self.merge(net, read, ordinal)?
                } else {
                    let size = read.size;
                    let relation = Arc::clone(&known.relation);
                    let kind = read.kind.into();
                    (
                        Change {
                            relation,
                            order: ordinal,
                            kind,
                        },
                        size,
                    )
                };
                return Ok(self.add(change, size));
            }
        }
        Ok(None)
    }

    /// The net change that ends with `read`, and the bytes of the messages that it was made from.
    fn merge(&self, net: Net, read: Read, order: u32) -> Result<(Change, usize), AssembleError> {
        let to = self.version(read.place.version)?;
        let mut size = read.size;
        let mut first = |place: Place| {
            if place == read.place {
                return Ok((read.kind.clone(), to));
            }
            let first = self.read_row(place.at)?;
            size += first.size;
            Ok::<_, AssembleError>((first.kind, self.version(place.version)?))
        };
        let (kind, known) = match net.kind {
            NetKind::Insert => {
                let new = self.complete(net, &read, to)?;
                (ChangeKind::Insert { new }, to)
            }
            NetKind::Update {
                first: place,
                same_key,
            } => {
                let old = match place {
                    None => None,
                    Some(place) => {
                        let (first, from) = first(place)?;
                        merge::old_of_update(&first, from, to, same_key)
                    }
                };
                let new = self.complete(net, &read, to)?;
                (ChangeKind::Update { old, new }, to)
            }
            NetKind::Delete { first: place } => {
                let (first, from) = first(place)?;
                let old = merge::old_of_delete(&first, from);
                let old = old.ok_or(AssembleError::Spooled)?;
                (ChangeKind::Delete { old }, from)
            }
        };
        let relation = Arc::clone(&known.relation);
        Ok((
            Change {
                relation,
                order,
                kind,
            },
            size,
        ))
    }

    /// The new tuple of `read`, with unchanged TOAST taken from earlier versions of the row where they have it.
    fn complete(&self, net: Net, read: &Read, to: &Known) -> Result<Tuple, AssembleError> {
        let (old, new) = match &read.kind {
            RowKind::Insert { new } => (None, new),
            RowKind::Update { old, new } => (old.as_ref(), new),
            RowKind::Delete { .. } => return Err(AssembleError::Spooled),
        };
        let mut new = new.clone();
        // Its own old tuple is the version right before it; the one that is shown may be of another row.
        if let Some(old) = old.filter(|old| is_full(old)) {
            new = merge::fill(new, &to.relation, &old.tuple, &to.relation);
        }
        let Stage::Emit { effect, .. } = &self.stage else {
            return Ok(new);
        };
        for place in effect.sources(net) {
            if !is_incomplete(&new) {
                break;
            }
            let from = self.version(place.version)?;
            let (RowKind::Insert { new: earlier } | RowKind::Update { new: earlier, .. }) =
                self.read_row(place.at)?.kind
            else {
                return Err(AssembleError::Spooled);
            };
            new = merge::fill(new, &to.relation, &earlier, &from.relation);
        }
        Ok(new)
    }

    fn read_row(&self, at: u64) -> Result<RowAt, AssembleError> {
        let message = self.stored.read_at(at).map_err(AssembleError::Spool)?;
        let size = message.len();
        match pgoutput::decode(message, self.is_streamed)? {
            Message::Row(RowChange { kind, .. }) => Ok(RowAt { kind, size }),
            _ => Err(AssembleError::Spooled),
        }
    }

    fn version(&self, version: Version) -> Result<&Known, AssembleError> {
        self.versions.get(version).ok_or(AssembleError::Spooled)
    }

    fn find(&mut self, oid: Oid, registry: &Registry) -> Result<Version, AssembleError> {
        let version = self.versions.find(oid, registry);
        version.ok_or(AssembleError::UnknownRelation(oid))
    }

    /// The number of the change being read.
    const fn count(&mut self) -> u32 {
        let ordinal = self.ordinal;
        self.ordinal = ordinal.saturating_add(1);
        ordinal
    }

    /// Adds a change to the part; comes back with the part before it if that is full.
    fn add(&mut self, change: Change, size: usize) -> Option<TransactionPart> {
        let is_full = self.part.len() >= PART_CHANGES_MAX || self.part_size + size > PART_BYTES_MAX;
        let part = if is_full { self.take_part(false) } else { None };
        self.part.push(change);
        self.part_size += size;
        part
    }

    fn take_part(&mut self, last: bool) -> Option<TransactionPart> {
        if self.part.is_empty() {
            return None;
        }
        Some(TransactionPart {
            commit: Arc::clone(&self.commit),
            changes: std::mem::take(&mut self.part),
            size: std::mem::take(&mut self.part_size),
            last,
        })
    }
}

struct RowAt {
    kind: RowKind,
    size: usize,
}

impl From<RowKind> for ChangeKind {
    fn from(kind: RowKind) -> Self {
        match kind {
            RowKind::Insert { new } => Self::Insert { new },
            RowKind::Update { old, new } => Self::Update { old, new },
            RowKind::Delete { old } => Self::Delete { old },
        }
    }
}
