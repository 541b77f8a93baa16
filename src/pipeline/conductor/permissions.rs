//! Permissions of private topics: when they are in doubt, and what is known of them without a question.

use super::{Conductor, Output};
use crate::change::{Oid, TransactionPart};
use crate::log::Posting;
use crate::pipeline::permissions::{Permitted, Reader};
use crate::realtime::{Answer, Notice};
use std::time::Instant;

impl Conductor {
    /// A part has been released, before anything that it says is said: whoever was allowed to read before must ask again if
    /// it has changed what decides that.
    pub(super) fn look_at_permissions(&mut self, now: Instant, part: &TransactionPart) {
        if self.verdicts.may_change_permissions(part) {
            self.doubt_permissions(now);
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
