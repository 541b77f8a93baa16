//! How the stream moves the tables.

use std::sync::Arc;

use super::table::{Retained, Stage};
use super::undo::Undo;
use super::{Last, Shadow};
use crate::change::{Change, ChangeKind, Commit, Oid, TransactionPart};

/// Loads of one table that may fail one after the other because too many changes came meanwhile.
const OVERRUNS_MAX: u32 = 3;

impl Shadow {
    /// Applies a part of a transaction. Parts come in the order of the stream; what comes again after a reconnect is
    /// applied once.
    pub fn apply(&mut self, part: &TransactionPart) {
        let commit = part.commit.lsn;
        let order = match self.last {
            Some(last) if commit < last.commit || (commit == last.commit && last.is_whole) => {
                return;
            }
            Some(last) if commit == last.commit => last.order,
            _ => {
                self.abandon();
                self.unseen.push(part.commit.xid);
                self.forget_all();
                None
            }
        };
        let fresh = |change: &&Change| order.is_none_or(|order| change.order > order);
        for change in part.changes.iter().filter(fresh) {
            self.change(&part.commit, change);
        }
        self.last = Some(Last {
            commit,
            order: part.changes.last().map(|change| change.order).max(order),
            is_whole: part.last,
        });
    }

    /// A transaction that began to come and never ended: its changes are not to be kept.
    fn abandon(&mut self) {
        if self.last.is_some_and(|last| !last.is_whole) {
            self.invalidate_all("a transaction came in part");
        }
    }

    fn change(&mut self, commit: &Arc<Commit>, change: &Change) {
        let Some(oid) = self.routes.get(&change.relation.oid).copied() else {
            return;
        };
        let Some(table) = self.tables.get_mut(&oid) else {
            return;
        };
        match &mut table.stage {
            Stage::Loading {
                retained, bytes, ..
            } => {
                let kept = Retained::new(commit, change);
                *bytes = bytes.saturating_add(kept.bytes());
                retained.push(kept);
                if *bytes > self.limits.retained_bytes_max {
                    table.overruns = table.overruns.saturating_add(1);
                    table.stage = if table.overruns < OVERRUNS_MAX {
                        Stage::Wanted(Some("too much changed while it was loaded".into()))
                    } else {
                        table.oversize()
                    };
                }
            }
            Stage::Trusted(followed) => {
                let before = followed.store.bytes();
                let mut undo = self.remembers.then(|| {
                    self.undo
                        .entry(oid)
                        .or_insert_with(|| followed.begin_undo(commit))
                });
                let undo_before = undo.as_ref().map_or(0, |undo| undo.bytes());
                let applied = followed.apply(oid, commit, change, undo.as_deref_mut());
                if let Some(undo) = undo {
                    let bytes = self.undo_bytes.saturating_sub(undo_before);
                    self.undo_bytes = bytes.saturating_add(undo.bytes());
                    if self.undo_bytes > self.limits.undo_bytes_max {
                        *undo = Undo::Unknown;
                        self.undo_bytes = bytes;
                    }
                }
                self.bytes = self
                    .bytes
                    .saturating_sub(before)
                    .saturating_add(followed.store.bytes());
                if let Err(reason) = applied {
                    table.stage = Stage::Wanted(Some(reason));
                    self.settle();
                }
                self.bound(oid);
            }
            Stage::TooLarge(_) if matches!(change.kind, ChangeKind::Truncate) => {
                table.invalidate("it was emptied");
            }
            Stage::Wanted(_) | Stage::TooLarge(_) | Stage::Unfit(_) => {}
        }
    }

    /// A transaction was read whose content is lost: the tables that it wrote (none means all) are loaded again.
    pub fn skipped(&mut self, commit: &Commit, relations: &[Oid]) {
        if self.last.is_some_and(|last| commit.lsn < last.commit) {
            return;
        }
        if self.last.is_some_and(|last| commit.lsn > last.commit) {
            self.abandon();
        }
        self.unseen.push(commit.xid);
        self.forget_all();
        self.last = Some(Last {
            commit: commit.lsn,
            order: None,
            is_whole: true,
        });
        if relations.is_empty() {
            self.invalidate_all("a transaction was too large to be read");
        } else {
            self.invalidate(relations, "a transaction was too large to be read");
        }
    }

    /// Positions have a new meaning, or changes may have been missed: everything is loaded again.
    pub fn restart(&mut self) {
        self.last = None;
        self.forget_all();
        self.invalidate_all("the stream began anew");
    }

    pub(super) fn forget(&mut self, oid: Oid) {
        if let Some(undo) = self.undo.remove(&oid) {
            self.undo_bytes = self.undo_bytes.saturating_sub(undo.bytes());
        }
    }

    fn forget_all(&mut self) {
        self.undo.clear();
        self.undo_bytes = 0;
    }
}
