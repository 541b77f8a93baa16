//! A piece of a transaction on its way through the lanes, and what has been rendered of it so far.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::{Bytes, BytesMut};

use super::history::Kept;
use super::lane::row_keys;
use super::view::{RowKey, RowKeys, View};
use crate::catalog::Catalog;
use crate::change::{Change, Commit};
use crate::log::Log;
use crate::realtime::payload::{
    CHANGE_BYTES_MAX, OldShape, RenderAs, Shape, Withheld, render, render_withheld,
};

/// A part of a transaction, shared by the lanes that have to judge it.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) commit: Arc<Commit>,
    pub(super) changes: Arc<Vec<Change>>,
    /// The relations of `changes` as the catalog sees them, by index of the change; `None` for tables that are no
    /// longer published.
    pub(super) views: Vec<Option<Arc<View>>>,
    /// Bytes of memory, roughly; at least one, so that limits count every part.
    pub(super) size: usize,
    /// No further part of the transaction follows.
    pub(super) last: bool,
    /// It is the only part of its transaction.
    pub(super) is_whole: bool,
    pub(super) catalog: Arc<Catalog>,
    /// Rows before and after each change, made at their first use: there may be thousands of lanes that ask.
    row_keys: OnceLock<Box<[BeforeAfter]>>,
    rendered: Mutex<Rendered>,
}

/// The row before a change and after it.
type BeforeAfter = (Option<RowKey>, Option<RowKey>);

#[derive(Debug, Default)]
struct Rendered {
    /// Number of this part in the log, once it has a payload.
    number: Option<u64>,
    places: HashMap<(u32, Variant), Option<u32>>,
    /// Where a payload is written before its length is known.
    scratch: Vec<u8>,
    /// What is left of the memory that further payloads are cut from: a part of a thousand changes asks the allocator
    /// for a few pieces that go together, not for a thousand that leave holes.
    room: BytesMut,
    /// Bytes of payloads so far.
    bytes: usize,
}

/// Bytes of payloads that are allocated at once.
const ROOM_BYTES: usize = 64 << 10;

/// Memory that changes take whose messages have `bytes`. Rows are often smaller than what describes them.
pub(super) fn memory_of(bytes: usize, changes: usize) -> usize {
    changes
        .saturating_mul(size_of::<Change>())
        .saturating_add(bytes)
        .max(1)
}

/// In which form a change is announced; equal variants of one change share one payload.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Variant {
    /// With content.
    Full {
        /// Which columns of the relation.
        columns: Arc<[bool]>,
        /// How much of the old version.
        old: OldShape,
        /// Under which type.
        render_as: RenderAs,
    },
    /// Without content.
    Withheld(Withheld),
}

/// Where a payload is in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) part: u64,
    pub(super) payload: u32,
}

impl Part {
    pub(super) fn new(kept: &Kept, views: Vec<Option<Arc<View>>>, catalog: Arc<Catalog>) -> Self {
        Self {
            commit: Arc::clone(&kept.commit),
            size: kept.size,
            changes: Arc::clone(&kept.changes),
            views,
            last: kept.last,
            is_whole: kept.is_whole,
            catalog,
            row_keys: OnceLock::new(),
            rendered: Mutex::default(),
        }
    }

    /// The same part under another catalog.
    pub(super) fn under(&self, views: Vec<Option<Arc<View>>>, catalog: Arc<Catalog>) -> Self {
        Self {
            commit: Arc::clone(&self.commit),
            changes: Arc::clone(&self.changes),
            views,
            size: self.size,
            last: self.last,
            is_whole: self.is_whole,
            catalog,
            row_keys: OnceLock::new(),
            rendered: Mutex::default(),
        }
    }

    /// The payload of change `index` in this form, rendered at its first use; `None` if there is none to send.
    pub(super) fn place(&self, log: &Log, index: u32, variant: Variant) -> Option<Place> {
        let (change, view) = self.change(index)?;
        let mut rendered = self.rendered.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (index, variant);
        if let Some(known) = rendered.places.get(&key) {
            return Some(Place {
                part: rendered.number?,
                payload: (*known)?,
            });
        }
        let payload = self.render(&mut rendered, change, view, &key.1);
        let place = payload.and_then(|payload| rendered.store(log, payload));
        rendered
            .places
            .insert(key, place.map(|place| place.payload));
        place
    }

    /// The payload of a change that a lane made of several versions; not shared.
    pub(super) fn place_merged(
        &self,
        log: &Log,
        change: &Change,
        view: &View,
        variant: &Variant,
    ) -> Option<Place> {
        let mut rendered = self.rendered.lock().unwrap_or_else(PoisonError::into_inner);
        let payload = self.render(&mut rendered, change, view, variant)?;
        rendered.store(log, payload)
    }

    /// The rows of change `index`, before and after; always made by the same `keys`.
    pub(super) fn row_keys(&self, keys: &RowKeys, index: u32) -> BeforeAfter {
        let all = self.row_keys.get_or_init(|| {
            let changes = self.changes.iter().zip(&self.views);
            changes
                .map(|(change, view)| match view {
                    Some(view) => row_keys(keys, change, view),
                    None => (None, None),
                })
                .collect()
        });
        usize::try_from(index)
            .ok()
            .and_then(|index| all.get(index).copied())
            .unwrap_or((None, None))
    }

    /// Whether what was rendered of it can still be read.
    pub(super) fn is_readable(&self, log: &Log) -> bool {
        let rendered = self.rendered.lock().unwrap_or_else(PoisonError::into_inner);
        rendered.number.is_none_or(|number| log.holds(number))
    }

    /// The change at `index` with its view.
    pub(super) fn change(&self, index: u32) -> Option<(&Change, &Arc<View>)> {
        let index = usize::try_from(index).ok()?;
        Some((self.changes.get(index)?, self.views.get(index)?.as_ref()?))
    }

    fn render(
        &self,
        rendered: &mut Rendered,
        change: &Change,
        view: &View,
        variant: &Variant,
    ) -> Option<Bytes> {
        let out = &mut rendered.scratch;
        out.clear();
        let some = match variant {
            Variant::Full {
                columns,
                old,
                render_as,
            } => {
                let shape = Shape {
                    columns,
                    key: &view.key_columns,
                    old: *old,
                    size_max: CHANGE_BYTES_MAX,
                };
                render(out, &self.catalog, &self.commit, change, &shape, *render_as)
            }
            Variant::Withheld(withheld) => {
                render_withheld(out, &self.commit, change, *withheld, RenderAs::AsWritten)
            }
        };
        some.then(|| rendered.cut())
    }
}

impl Rendered {
    fn store(&mut self, log: &Log, payload: Bytes) -> Option<Place> {
        let part = *self.number.get_or_insert_with(|| log.open());
        if let Ok(place) = log.append(part, payload.clone()) {
            return Some(Place {
                part,
                payload: place,
            });
        }
        // What was rendered before has left the log.
        self.places.clear();
        let part = *self.number.insert(log.open());
        let payload = log.append(part, payload).ok()?;
        Some(Place { part, payload })
    }

    /// What was written, in memory that payloads of this part share.
    fn cut(&mut self) -> Bytes {
        let length = self.scratch.len();
        if self.room.capacity() < length {
            // As much again as there is: the one payload of a small transaction takes its own length.
            self.room = BytesMut::with_capacity(self.bytes.min(ROOM_BYTES).max(length));
        }
        self.bytes = self.bytes.saturating_add(length);
        self.room.extend_from_slice(&self.scratch);
        self.room.split().freeze()
    }
}
