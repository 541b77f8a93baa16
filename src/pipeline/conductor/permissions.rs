//! Permissions of private topics: when they are in doubt, and what is known of them without a question. A doubt about reading
//! is one about sending as well.

use super::{CLOSE_LOOK_PAUSE, Conductor, Output};
use crate::change::{Oid, TransactionPart};
use crate::log::Posting;
use crate::pipeline::permissions::{Permitted, Reader};
use crate::realtime::{Answer, Notice};
use std::time::Instant;

impl Conductor {
    /// A part has been released, before anything that it says is said: whoever was allowed to read or send before must ask
    /// again if it has changed what decides that.
    pub(super) fn look_at_permissions(&mut self, now: Instant, part: &TransactionPart) {
        if self.verdicts.may_change_permissions(part) {
            self.doubt_permissions(now);
        } else if self.verdicts.may_change_sending(part) {
            self.outputs.push_back(Output::DoubtSending);
        }
    }

    /// The same for a transaction that could not be read; without relations it may have changed anything.
    pub(super) fn look_at_skipped(&mut self, now: Instant, relations: &[Oid]) {
        let decides = |oid: &Oid| self.verdicts.decides_permissions(*oid);
        let any = relations.is_empty() && self.verdicts.knows_permissions();
        if any || relations.iter().any(decides) {
            self.doubt_permissions(now);
        }
    }

    fn doubt_permissions(&mut self, now: Instant) {
        self.doubt = Some(now);
        self.outputs.push_back(Output::Doubt);
    }

    /// Something may have gone by that decides permissions, and that nobody has looked at: whoever was allowed to read before
    /// must ask again, once a snapshot shows what was received up to now.
    pub(super) fn doubt_once_seen(&mut self, now: Instant) {
        self.doubt_at = Some(self.number());
        self.look_at = Some(now);
    }

    /// What decides permissions is known anew. Members are told of another catalog by themselves, and ask the database: that
    /// leaves what it may not show yet.
    pub(super) fn permissions_renewed(
        &mut self,
        now: Instant,
        is_other: bool,
        is_known_again: bool,
    ) {
        let is_unseen = is_other && !self.unseen.is_empty();
        if is_unseen || (is_known_again && !is_other) {
            self.doubt_once_seen(now);
        }
    }

    /// A snapshot was taken.
    pub(super) fn look_at_unseen(&mut self, now: Instant) {
        let Some(number) = self.doubt_at else {
            return;
        };
        if self
            .unseen
            .front()
            .is_none_or(|unseen| unseen.number >= number)
        {
            self.doubt_at = None;
            self.doubt_permissions(now);
        } else {
            self.look_at = now.checked_add(CLOSE_LOOK_PAUSE);
        }
    }

    /// What is known of a permission as of what was released last; nothing while the stream or the catalog lags behind.
    pub(super) fn permit(&self, reader: &Reader, ticket: u32, membership: u32) -> Posting<Notice> {
        let permitted = if self.streaming && self.has_catalog && !self.catalog_loading {
            self.verdicts.permit(reader)
        } else {
            None
        };
        let notice = match permitted {
            Some(Permitted {
                broadcast,
                presence,
            }) => Notice::Answered {
                ticket,
                answer: Ok(Answer::Read {
                    broadcast,
                    presence,
                }),
            },
            None => Notice::Undecided { ticket },
        };
        Posting::Notice { membership, notice }
    }
}
