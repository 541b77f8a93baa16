//! The stream comes in: epochs, parts, and what of them anybody is concerned with.

use super::{
    CLOSE_LOOK, CLOSE_LOOK_PAUSE, Conductor, Output, UNSEEN_LOOK, UNSEEN_LOOK_MANY, UNSEEN_MANY,
    Unseen, Waiting,
};
use crate::change::{Epoch, Lsn, StreamEvent, TransactionPart, Xid};
use crate::pipeline::history::Kept;
use crate::pipeline::subscriber::{Phase, Subscriber, SubscriberId};
use crate::realtime::ResyncReason;
use std::time::Instant;

impl Conductor {
    /// The stream went on.
    pub(in crate::pipeline) fn handle_stream(&mut self, now: Instant, event: StreamEvent) {
        match event {
            StreamEvent::Started {
                epoch,
                from,
                end,
                failed_over,
                messages,
            } => {
                let before = self.epoch;
                // The session before may not have read `realtime.messages`.
                if self.take_publication(now, messages) || before != Some(epoch) {
                    self.outputs.push_back(Output::Torn);
                }
                self.start_epoch(now, epoch, failed_over);
                self.history.begin(from);
                if before.is_some_and(|before| before != epoch) {
                    self.restart_hearing(now, failed_over);
                }
                // What is read again of an earlier process was said by it.
                self.says_from.get_or_insert(end);
            }
            StreamEvent::Interrupted => {
                self.streaming = false;
                self.was_away = true;
            }
            StreamEvent::GivenUp => self.give_up(now),
            // A hint only: anybody may write one. It makes us look, and the fingerprint tells.
            StreamEvent::Message { .. } => {
                self.look_closely(now);
            }
            StreamEvent::Position(position) => self.received = self.received.max(position),
            StreamEvent::Part(part) => self.receive_part(now, part),
            StreamEvent::Skipped { commit, relations } => {
                self.received = self.received.max(commit.end_lsn);
                self.wait(Waiting::Skipped { commit, relations });
            }
        }
        self.advance(now);
    }

    /// There is no slot, so what commits now never comes. Who joins meanwhile waits for the next epoch.
    fn give_up(&mut self, now: Instant) {
        let in_force =
            |subscriber: &&Subscriber| matches!(subscriber.phase, Phase::Live | Phase::Replaying);
        let in_force: Vec<SubscriberId> = (self.subscribers.values().filter(in_force))
            .map(|subscriber| subscriber.id)
            .collect();
        for id in in_force {
            self.resync(id, ResyncReason::SlotRecreated);
        }
        self.break_hearing(now, ResyncReason::SlotRecreated);
    }

    /// The catalog is looked at more often for a while.
    pub(super) fn look_closely(&mut self, now: Instant) {
        self.look_closely_until = now.checked_add(CLOSE_LOOK);
        self.look_at = self.look_at.map(|time| time.min(now + CLOSE_LOOK_PAUSE));
    }

    pub(super) fn start_epoch(&mut self, now: Instant, epoch: Epoch, failed_over: bool) {
        self.streaming = true;
        let before = self.epoch.replace(epoch);
        if before == Some(epoch) {
            return;
        }
        // Members may be older than the stream.
        self.doubt_once_seen(now);
        if before.is_none() {
            return;
        }
        // What has committed and nobody can see yet, as while a standby is waited for, may not come again, and who joins
        // before it is visible would miss it.
        if failed_over {
            self.unseen.clear();
        } else {
            for unseen in &mut self.unseen {
                unseen.lsn = None;
            }
            let given_up: Vec<Xid> = (self.waiting.iter())
                .map(|waiting| waiting.commit().xid)
                .collect();
            for xid in given_up {
                self.note_unseen(now, xid, None);
            }
        }
        self.waiting.clear();
        self.waiting_bytes = 0;
        self.continued = None;
        self.received_part = None;
        self.unfinished = None;
        self.unended.clear();
        self.received = Lsn::ZERO;
        self.confirmed = Lsn::ZERO;
        self.history.restart();
        self.catalog_from = None;
        self.regranted = None;
        self.wal_end = Lsn::ZERO;
        self.says_from = Some(Lsn::ZERO);
        if self.verdicts.restart(self.catalog_loading) {
            self.load_catalog();
        }
        let everybody: Vec<SubscriberId> = self.subscribers.keys().copied().collect();
        for id in everybody {
            self.resync(id, restarted(failed_over));
        }
    }

    /// A transaction was received that joins must not begin before.
    fn note_unseen(&mut self, now: Instant, xid: Xid, lsn: Option<Lsn>) {
        let newest = self.unseen.back();
        if newest.is_some_and(|newest| newest.xid == xid) {
            return;
        }
        let number = self.number();
        self.unseen.push_back(Unseen { number, xid, lsn });
        self.look_for_unseen(now);
    }

    pub(super) fn receive_part(&mut self, now: Instant, mut part: TransactionPart) {
        // After a reconnect a transaction that was handed down in part comes again from its beginning.
        let (next, is_first) = match self.received_part {
            Some((commit, next)) if commit == part.commit.lsn => (next, false),
            _ => (0, true),
        };
        part.changes.retain(|change| change.order >= next);
        let next = part
            .changes
            .last()
            .map_or(next, |change| change.order.saturating_add(1));
        self.received_part = (!part.last).then_some((part.commit.lsn, next));
        if part.changes.is_empty() && !part.last {
            return;
        }
        if part.last {
            self.counts.transactions = self.counts.transactions.saturating_add(1);
            self.received = self.received.max(part.commit.end_lsn);
        }
        self.counts.changes = self
            .counts
            .changes
            .saturating_add(u64::try_from(part.changes.len()).unwrap_or(u64::MAX));
        let continued = self.continued == Some(part.commit.lsn);
        let is_whole = is_first && part.last;
        if continued || self.is_interesting(&part) {
            // All further parts, or else nobody would hear of the transaction's end.
            self.continued = (!part.last).then_some(part.commit.lsn);
            return self.wait(Waiting::Part { part, is_whole });
        }
        // Also a part in the middle: who joins before the last one comes would miss it.
        self.note_unseen(now, part.commit.xid, Some(part.commit.lsn));
        // Plans may look into its tables, and somebody may come back for it. What is before it in the stream comes first;
        // nothing else need be waited for.
        if self.waiting.is_empty() && self.release.is_none() {
            self.verdicts.apply(&part);
            self.keep(now, part, is_whole);
        } else {
            self.wait(Waiting::Silent { part, is_whole });
        }
    }

    /// Has a snapshot taken before long if something was not seen in one.
    pub(super) fn look_for_unseen(&mut self, now: Instant) {
        let pause = match self.unseen.len() {
            0 => return self.unseen_at = None,
            few if few < UNSEEN_MANY => UNSEEN_LOOK,
            _ => UNSEEN_LOOK_MANY,
        };
        let at = now.checked_add(pause);
        self.unseen_at = self.unseen_at.min(at).or(at);
    }

    /// Adds a part to the recent past.
    pub(super) fn keep(&mut self, now: Instant, part: TransactionPart, is_whole: bool) -> Kept {
        let (in_memory, _) = self.log.bytes();
        self.unfinished = (!part.last).then_some(part.commit.lsn);
        self.history.push(now, part, is_whole, in_memory)
    }

    /// Whether anybody may be concerned. Tables that the catalog does not know yet may be anybody's, or new partitions of
    /// `realtime.messages`, whose rows concern rooms that are not known here; as do tables that decide who may read them. Who
    /// went through the beginning of a transaction must hear of its end.
    pub(super) fn is_interesting(&self, part: &TransactionPart) -> bool {
        let mut known = None;
        let is_awaited = !self.unended.is_empty();
        is_awaited
            || part.changes.iter().any(|change| {
                let oid = change.relation.oid;
                if known == Some(oid) {
                    return false;
                }
                known = Some(oid);
                self.addressees.concerns(oid)
                    || self.catalog.messages.contains(&oid)
                    || self.verdicts.decides_permissions(oid)
                    || !self.catalog.tables.contains_key(&oid)
                    || !self.resolving.is_empty()
                    || !self.resolve_queue.is_empty()
            })
    }

    pub(super) fn wait(&mut self, waiting: Waiting) {
        self.waiting_bytes = self.waiting_bytes.saturating_add(waiting.size());
        self.waiting.push_back(waiting);
    }
}

/// Why positions of the epoch before mean nothing.
pub(super) const fn restarted(failed_over: bool) -> ResyncReason {
    if failed_over {
        ResyncReason::FailedOver
    } else {
        ResyncReason::SlotRecreated
    }
}
