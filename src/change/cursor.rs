//! Cursors: how far a subscriber has got, in a form that it can keep and hand back (protocol.md §11).

use std::fmt;
use std::str::FromStr;

use super::{Epoch, Lsn};

/// The position of one change: epoch, commit, and order within the transaction.
///
/// The text form is opaque to subscribers: `<epoch>-<commit_lsn>-<order>`, three hexadecimal numbers of fixed width, so
/// that cursors of one epoch sort as texts do. 42 characters; the wire promises at most 64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cursor {
    /// The series of positions that `commit_lsn` belongs to.
    pub epoch: Epoch,
    /// Start of the commit record.
    pub commit_lsn: Lsn,
    /// [`Change::order`](super::Change::order) of the change.
    pub order: u32,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}-{:016x}-{:08x}",
            self.epoch,
            self.commit_lsn.bytes(),
            self.order
        )
    }
}

/// The text was not printed by [`Cursor`]'s `Display`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a cursor")]
pub struct ParseCursorError;

impl FromStr for Cursor {
    type Err = ParseCursorError;

    fn from_str(text: &str) -> Result<Self, ParseCursorError> {
        let mut fields = text.splitn(3, '-');
        let mut number = |digits: usize| {
            fields
                .next()
                .filter(|field| field.len() == digits)
                .filter(|field| {
                    field
                        .bytes()
                        .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
                })
                .and_then(|field| u64::from_str_radix(field, 16).ok())
                .ok_or(ParseCursorError)
        };
        Ok(Self {
            epoch: Epoch(number(16)?),
            commit_lsn: Lsn::new(number(16)?),
            order: u32::try_from(number(8)?).map_err(|_too_wide| ParseCursorError)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips_and_is_short() {
        for (epoch, lsn, order) in [(0, 0, 0), (u64::MAX, u64::MAX, u32::MAX), (7, 0x16, 300)] {
            let cursor = Cursor {
                epoch: Epoch(epoch),
                commit_lsn: Lsn::new(lsn),
                order,
            };
            let text = cursor.to_string();
            assert_eq!(text.len(), 42);
            assert_eq!(text.parse(), Ok(cursor));
        }
    }

    #[test]
    fn cursors_of_one_epoch_sort_as_texts() {
        let text = |lsn, order| {
            Cursor {
                epoch: Epoch(1),
                commit_lsn: Lsn::new(lsn),
                order,
            }
            .to_string()
        };
        assert!(text(9, 300) < text(16, 2));
        assert!(text(16, 2) < text(16, 10));
    }

    #[test]
    fn what_is_no_cursor_is_refused() {
        let good = "0000000000000001-0000000000000002-00000003";
        assert!(good.parse::<Cursor>().is_ok());
        for text in [
            "",
            "1-2-3",
            "000000000000000A-0000000000000002-00000003",
            "+00000000000000a-0000000000000002-00000003",
            "0000000000000001-0000000000000002-000000003",
            "0000000000000001-0000000000000002-00000003-",
            "0000000000000001-0000000000000002",
        ] {
            assert_eq!(text.parse::<Cursor>(), Err(ParseCursorError), "{text:?}");
        }
    }
}
