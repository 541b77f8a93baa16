//! Which life of the slot this is, and the epoch that follows from it (io: reads and writes `walcast.slots`).
//!
//! In goes a client, out comes an [`Epoch`]. Two positions with the same epoch are comparable; whatever makes them
//! otherwise (a slot created anew, moved forward, or changed by others) renews the incarnation first. The incarnation
//! is kept in the table that `walcast setup` creates, so that it survives a restart of walcast; where that table cannot
//! be used it lasts as long as this process.

use rand::Rng;
use sha2::{Digest, Sha256};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use tracing::info;

use crate::change::{Epoch, Oid};

use super::slot::SlotError;

/// The system that a session is connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct System {
    /// `IDENTIFY_SYSTEM`'s `systemid`.
    pub(super) identifier: u64,
    /// Its `timeline`.
    pub(super) timeline: u32,
}

/// Where the incarnation of a slot is kept.
#[derive(Debug)]
pub(super) struct Incarnations {
    slot: String,
    /// Stands in where the table cannot be used.
    local: i64,
    /// That this is so has been said.
    told: bool,
}

impl Incarnations {
    pub(super) fn new(slot: String) -> Self {
        Self {
            slot,
            local: random(),
            told: false,
        }
    }

    /// The incarnation in force; begins one if the table holds none.
    pub(super) async fn load(&mut self, client: &Client) -> Result<i64, SlotError> {
        let sql = "select incarnation from walcast.slots where slot_name = $1";
        match client.query_opt(sql, &[&self.slot]).await {
            Ok(Some(row)) => Ok(row.get(0)),
            Ok(None) => self.renew(client).await,
            Err(error) => self.fall_back(error),
        }
    }

    /// Begins another incarnation: earlier positions no longer mean anything.
    pub(super) async fn renew(&mut self, client: &Client) -> Result<i64, SlotError> {
        self.local = self.local.wrapping_add(1);
        // A standby that is away must not keep the slot from being mended. If this is lost in a failover, then with it the
        // timeline.
        client
            .batch_execute("set synchronous_commit to local")
            .await
            .map_err(|source| SlotError::Query {
                slot: self.slot.clone(),
                source,
            })?;
        // Counting on from a random number: a table that was dropped and made again does not repeat old incarnations.
        let sql = "insert into walcast.slots (slot_name, incarnation) values ($1, $2) on conflict (slot_name) \
            do update set incarnation = walcast.slots.incarnation + 1, created_at = now() returning incarnation";
        match client.query_one(sql, &[&self.slot, &random()]).await {
            Ok(row) => Ok(row.get(0)),
            Err(error) => self.fall_back(error),
        }
    }

    fn fall_back(&mut self, error: tokio_postgres::Error) -> Result<i64, SlotError> {
        let unusable = [
            SqlState::UNDEFINED_TABLE,
            SqlState::INVALID_SCHEMA_NAME,
            SqlState::INSUFFICIENT_PRIVILEGE,
        ];
        if !error.code().is_some_and(|code| unusable.contains(code)) {
            return Err(SlotError::Query {
                slot: self.slot.clone(),
                source: error,
            });
        }
        if !self.told {
            self.told = true;
            info!(
                "table walcast.slots cannot be used, so positions do not outlive this process; run: walcast setup"
            );
        }
        Ok(self.local)
    }
}

/// From 0 to 2⁶², so that counting on never ends.
fn random() -> i64 {
    rand::rng().random_range(0..1 << 62)
}

/// One number for all that makes positions comparable; never zero.
///
/// The publications count too: what was written while one of them did not exist is not in the stream, and from
/// PostgreSQL 18 on the server says so in its own log only.
pub(super) fn fold(
    system: System,
    incarnation: i64,
    publications: impl IntoIterator<Item = Oid>,
) -> Epoch {
    let mut hash = Sha256::new();
    hash.update(system.identifier.to_be_bytes());
    hash.update(system.timeline.to_be_bytes());
    hash.update(incarnation.to_be_bytes());
    for oid in publications {
        hash.update(oid.to_be_bytes());
    }
    let digest: [u8; 32] = hash.finalize().into();
    let number = digest
        .iter()
        .take(8)
        .fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
    Epoch(number.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_makes_another_epoch() {
        let system = System {
            identifier: 7,
            timeline: 1,
        };
        let other = System {
            identifier: 8,
            ..system
        };
        let promoted = System {
            timeline: 2,
            ..system
        };
        let epoch = fold(system, 5, [1, 2]);
        assert_eq!(epoch, fold(system, 5, [1, 2]));
        for another in [
            fold(system, 6, [1, 2]),
            fold(other, 5, [1, 2]),
            fold(promoted, 5, [1, 2]),
            fold(system, 5, [1, 3]),
            fold(system, 5, [1]),
        ] {
            assert_ne!(epoch, another);
        }
    }
}
