//! Rows before a transaction: whether an identity saw them, and what that decides.
//!
//! Pure. Postgres cannot be asked about rows that are gone. Only a compiled policy can tell, on what the stream carries of
//! the old row and in the tables as of right before the transaction. Where it cannot, no more than the key is told.

use super::lane::Lane;
use super::part::Part;
use super::verdicts::{Judgement, Sitting, Verdicts};
use crate::policy::Identity;

/// Whether an identity saw a row right before the transaction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum OldRow {
    /// Not known: no more than the key may be told.
    #[default]
    Unknown,
    /// It did.
    Seen,
    /// It did not.
    Unseen,
}

/// Judges the old rows of a part for the identity of one lane.
#[derive(Debug)]
pub(super) struct Past<'a> {
    verdicts: Option<(&'a mut Verdicts, Sitting, Identity)>,
    number: u64,
}

impl<'a> Past<'a> {
    /// Of a part that is being routed under `number`. What the lane knows of its session is lent until
    /// [`Self::give_back`].
    pub(super) fn of(
        verdicts: &'a mut Verdicts,
        lane: &mut Lane,
        part: &Part,
        number: u64,
    ) -> Self {
        let identity = &lane.key.identity;
        let judges = verdicts.may_judge(part, identity.role());
        let verdicts = judges.then(|| {
            let identity = identity.clone();
            (verdicts, std::mem::take(&mut lane.sitting), identity)
        });
        Self { verdicts, number }
    }

    /// Of a part that was routed under `number` before: the tables have moved on, and nothing can be told any more.
    pub(super) const fn gone(number: u64) -> Self {
        Self {
            verdicts: None,
            number,
        }
    }

    /// Whether the identity saw what change `index` has changed or deleted.
    pub(super) fn saw(&mut self, part: &Part, index: u32) -> OldRow {
        let Some((verdicts, sitting, identity)) = &mut self.verdicts else {
            return OldRow::Unknown;
        };
        match verdicts.judge_old(sitting, identity, part, self.number, index) {
            Some(Judgement::Allowed) => OldRow::Seen,
            Some(Judgement::Hidden) => OldRow::Unseen,
            // A SELECT would have shown nothing; but who raises is told of a DELETE as if nothing were known.
            Some(Judgement::Raised(_)) | None => OldRow::Unknown,
        }
    }

    /// Returns what was lent.
    pub(super) fn give_back(self, lane: &mut Lane) {
        if let Some((_, sitting, _)) = self.verdicts {
            lane.sitting = sitting;
        }
    }
}
