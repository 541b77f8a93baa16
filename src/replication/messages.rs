//! The publication of `realtime.messages`, which is read besides the configured ones whenever it exists (io).
//!
//! It may come and go while the slot lives: `walcast setup` may run late, and a slot that trails its creation cannot be
//! read with it, because the server looks publications up as of each transaction. In go looks at the database, out comes
//! whether the next session may name it. Never part of the epoch: a gap in what it brings concerns only those who come back
//! for it.

use tokio_postgres::Client;

use crate::change::{Lsn, Oid};

use super::slot::{SlotError, SlotOptions};

/// Its name, which projects made by others have as well.
pub const MESSAGES_PUBLICATION: &str = "supabase_realtime_messages_publication";

/// What one look at the database says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Look {
    /// Changes when it is dropped and created again; `None` if it does not exist.
    pub(super) oid: Option<Oid>,
    /// Every transaction before this one has ended.
    xmin: u64,
    /// The first transaction that had not begun.
    xmax: u64,
    /// The end of the flushed WAL, read after the snapshot was taken: what the snapshot sees committed before it, except
    /// with `synchronous_commit = off`; then the stream may fail once more, and goes on without.
    pub(super) end: Lsn,
}

#[cfg(test)]
impl Look {
    /// While no transaction is open.
    pub(super) fn quiet(oid: Option<Oid>, end: u64) -> Self {
        Self {
            oid,
            xmin: 10,
            xmax: 10,
            end: Lsn::new(end),
        }
    }
}

/// Looks once, in one snapshot.
///
/// # Errors
/// The query failed.
pub(super) async fn look(client: &Client, options: &SlotOptions) -> Result<Look, SlotError> {
    let sql = "select (select p.oid from pg_catalog.pg_publication as p where p.pubname = $1::text), \
        pg_catalog.pg_snapshot_xmin(s.snapshot)::text, pg_catalog.pg_snapshot_xmax(s.snapshot)::text, \
        pg_catalog.pg_current_wal_flush_lsn()::text \
        from (select pg_catalog.pg_current_snapshot() as snapshot) as s";
    let row = client
        .query_one(sql, &[&MESSAGES_PUBLICATION])
        .await
        .map_err(|source| SlotError::Query {
            slot: options.name.clone(),
            source,
        })?;
    let misunderstood = || SlotError::Answer {
        slot: options.name.clone(),
    };
    let number = |column: usize| {
        let text: String = row.get(column);
        text.parse::<u64>().map_err(|_no_number| misunderstood())
    };
    let end: String = row.get(3);
    Ok(Look {
        oid: row.get(0),
        xmin: number(1)?,
        xmax: number(2)?,
        end: end.parse().map_err(|_no_lsn| misunderstood())?,
    })
}

/// A publication that was seen and is not read yet.
#[derive(Debug, Default)]
pub(super) struct Sighting(Option<Seen>);

#[derive(Debug)]
struct Seen {
    oid: Oid,
    /// Transactions that began before may not know of the publication.
    xmax: u64,
    /// From here on, no commit is of such a transaction.
    safe_from: Option<Lsn>,
}

impl Sighting {
    /// Whether every transaction that a new session would decode knows the publication. `reached` is where it would
    /// begin, read before the look.
    pub(super) fn is_safe(&mut self, look: &Look, reached: Option<Lsn>) -> bool {
        let Some(oid) = look.oid else {
            self.forget();
            return false;
        };
        if self.0.as_ref().is_none_or(|seen| seen.oid != oid) {
            self.0 = Some(Seen {
                oid,
                xmax: look.xmax,
                safe_from: None,
            });
        }
        let Some(seen) = &mut self.0 else {
            return false;
        };
        if look.xmin >= seen.xmax {
            seen.safe_from.get_or_insert(look.end);
        }
        seen.safe_from
            .is_some_and(|from| reached.is_some_and(|reached| reached >= from))
    }

    /// Only the position is waited for.
    pub(super) fn waits_for_confirmation(&self) -> bool {
        self.0.as_ref().is_some_and(|seen| seen.safe_from.is_some())
    }

    pub(super) fn is_under_way(&self) -> bool {
        self.0.is_some()
    }

    pub(super) fn forget(&mut self) {
        self.0 = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(oid: Oid, xmin: u64, xmax: u64, end: u64) -> Look {
        Look {
            oid: Some(oid),
            xmin,
            xmax,
            end: Lsn::new(end),
        }
    }

    fn at(lsn: u64) -> Option<Lsn> {
        Some(Lsn::new(lsn))
    }

    #[test]
    fn a_slot_that_trails_the_creation_is_waited_for() {
        let mut sighting = Sighting::default();
        assert!(!sighting.is_safe(&seen(1, 10, 10, 100), at(99)));
        assert!(sighting.waits_for_confirmation());
        assert!(!sighting.is_safe(&seen(1, 12, 12, 200), at(99)));
        // The first position counts, or else a busy database would never be done.
        assert!(sighting.is_safe(&seen(1, 12, 13, 300), at(100)));
    }

    #[test]
    fn a_transaction_that_is_older_than_the_publication_is_waited_for() {
        let mut sighting = Sighting::default();
        assert!(!sighting.is_safe(&seen(1, 5, 10, 100), at(100)));
        assert!(!sighting.is_safe(&seen(1, 9, 20, 200), at(200)));
        assert!(!sighting.waits_for_confirmation());
        assert!(!sighting.is_safe(&seen(1, 10, 30, 300), at(200)));
        assert!(sighting.is_safe(&seen(1, 15, 40, 400), at(300)));
    }

    #[test]
    fn another_publication_of_the_same_name_begins_anew() {
        let mut sighting = Sighting::default();
        assert!(sighting.is_safe(&seen(1, 10, 10, 100), at(100)));
        assert!(!sighting.is_safe(&seen(2, 11, 11, 110), at(100)));
        let gone = Look {
            oid: None,
            ..seen(2, 12, 12, 120)
        };
        assert!(!sighting.is_safe(&gone, at(200)));
        assert!(!sighting.is_under_way());
    }
}
