//! One committed transaction, read back from the spool: its net effect, in parts.
//!
//! Reads the transaction once if its changes cannot concern the same row (one change, or inserts only), else up to
//! three times (`net_effect.rs` says why). Works in pieces of bounded size, so that the caller can look after its
//! socket, and never holds more than one part.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use crate::change::{Change, ChangeKind, Commit, Oid, Relation, TransactionPart, Tuple, Xid};

use super::assembler::AssembleError;
use super::merge::{self, is_full, is_incomplete};
use super::net_effect::{Chains, Net, NetEffect, NetKind, Place, Row};
use super::pgoutput::{self, Message, RowChange, RowKind};
use super::relations::{Known, Registry, Version, Versions};
use super::row_key::{KeyHasher, Touches};
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
    /// Row changes read in this pass.
    ordinal: u32,
    /// Changes that came out.
    emitted: u32,
    /// Tables of a truncation that are still to come out.
    truncating: VecDeque<Arc<Relation>>,
    /// Where net changes may still be shown.
    merging_at: Option<u64>,
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

/// One row change, read.
struct Read {
    kind: RowKind,
    /// Bytes of its message.
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
            emitted: 0,
            truncating: VecDeque::new(),
            merging_at: None,
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
            if let Some((change, size)) = self.next_waiting()? {
                if let Some(part) = self.add(change, size) {
                    return Ok(Replayed::Part(part));
                }
                budget = budget.saturating_sub(size);
                if budget == 0 {
                    return Ok(Replayed::Busy);
                }
                continue;
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
            Message::Relation { xid, relation } if !is_aborted(xid) => {
                self.versions.describe(relation, registry);
            }
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
                return Ok(self.row(relation, place, Read { kind, size }));
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
            match &self.stage {
                Stage::Touch(_) => {
                    self.truncated.insert(*oid, at);
                }
                Stage::Emit { .. } if self.truncated.get(oid).is_none_or(|last| *last == at) => {
                    let relation = self.version(version)?.relation.clone();
                    self.truncating.push_back(relation);
                }
                Stage::Follow { .. } | Stage::Emit { .. } => {}
            }
        }
        Ok(())
    }

    fn row(&mut self, oid: Oid, place: Place, read: Read) -> Option<TransactionPart> {
        let ordinal = self.ordinal;
        self.ordinal = ordinal.saturating_add(1);
        let known = self.versions.get(place.version)?;
        if self
            .truncated
            .get(&oid)
            .is_some_and(|last| place.at < *last)
        {
            return None;
        }
        match &mut self.stage {
            Stage::Touch(touches) => touches.touch(self.hasher.keys(known, &read.kind)?),
            Stage::Follow { chains, marks } => {
                let (has_old, is_incomplete) = match &read.kind {
                    RowKind::Insert { .. } => (false, false),
                    RowKind::Update { old, new } => (old.is_some(), is_incomplete(new)),
                    RowKind::Delete { .. } => (true, false),
                };
                let is_followed = chains.follow(Row {
                    place,
                    keys: self.hasher.keys(known, &read.kind)?,
                    has_old,
                    is_incomplete,
                });
                if is_followed {
                    marks.set(ordinal);
                }
            }
            Stage::Emit { marks, .. } if marks.is_set(ordinal) => self.merging_at = Some(place.at),
            Stage::Emit { .. } => {
                let relation = Arc::clone(&known.relation);
                let change = self.change(relation, read.kind.into());
                return self.add(change, read.size);
            }
        }
        None
    }

    /// A change that does not come straight from the message that was read last, and the bytes of its messages.
    fn next_waiting(&mut self) -> Result<Option<(Change, usize)>, AssembleError> {
        if let Some(relation) = self.truncating.pop_front() {
            return Ok(Some((self.change(relation, ChangeKind::Truncate), 0)));
        }
        let (Some(at), Stage::Emit { effect, .. }) = (self.merging_at, &mut self.stage) else {
            return Ok(None);
        };
        let Some(net) = effect.next_at(at) else {
            self.merging_at = None;
            return Ok(None);
        };
        let (relation, kind, size) = self.merge(net)?;
        Ok(Some((self.change(relation, kind), size)))
    }

    /// A row's net change, and the bytes of the messages that it was made from.
    fn merge(&self, net: Net) -> Result<(Arc<Relation>, ChangeKind, usize), AssembleError> {
        let last = self.read_row(net.last.at)?;
        let to = self.version(net.last.version)?;
        let mut size = last.size;
        let mut first = |place: Place| {
            let from = self.version(place.version)?;
            if place == net.last {
                return Ok((last.kind.clone(), from));
            }
            let first = self.read_row(place.at)?;
            size += first.size;
            Ok::<_, AssembleError>((first.kind, from))
        };
        let (relation, kind) = match net.kind {
            NetKind::Insert => {
                let new = self.complete(net, &last.kind, to)?;
                (&to.relation, ChangeKind::Insert { new })
            }
            NetKind::Update {
                first: place,
                same_key,
                is_exchanged,
            } => {
                let new = self.complete(net, &last.kind, to)?;
                // Whoever knows the row must not take what is left out from it.
                let is_other = is_exchanged && is_incomplete(&new);
                let old = match place.map(&mut first).transpose()? {
                    Some((first, from)) => {
                        merge::old_of_update(&first, from, to, same_key && !is_other)
                    }
                    None => None,
                };
                (&to.relation, ChangeKind::Update { old, new })
            }
            NetKind::Delete { first: place } => {
                let (first, from) = first(place)?;
                let old = merge::old_of_delete(&first, from);
                let old = old.ok_or(AssembleError::Spooled)?;
                (&from.relation, ChangeKind::Delete { old })
            }
        };
        Ok((Arc::clone(relation), kind, size))
    }

    /// The tuple of a row's last change, with unchanged TOAST taken from earlier versions where they have it.
    fn complete(&self, net: Net, last: &RowKind, to: &Known) -> Result<Tuple, AssembleError> {
        let (old, new) = match last {
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

    fn read_row(&self, at: u64) -> Result<Read, AssembleError> {
        let message = self.stored.read_at(at).map_err(AssembleError::Spool)?;
        let size = message.len();
        match pgoutput::decode(message, self.is_streamed)? {
            Message::Row(RowChange { kind, .. }) => Ok(Read { kind, size }),
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

    /// The next change that comes out.
    const fn change(&mut self, relation: Arc<Relation>, kind: ChangeKind) -> Change {
        let order = self.emitted;
        self.emitted = order.saturating_add(1);
        Change {
            relation,
            order,
            kind,
        }
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

impl From<RowKind> for ChangeKind {
    fn from(kind: RowKind) -> Self {
        match kind {
            RowKind::Insert { new } => Self::Insert { new },
            RowKind::Update { old, new } => Self::Update { old, new },
            RowKind::Delete { old } => Self::Delete { old },
        }
    }
}
