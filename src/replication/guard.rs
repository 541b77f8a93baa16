//! Watches the WAL that the server keeps for our slot (io).
//!
//! In go the slot as the server shows it and a limit, out come warnings and, at the limit, a demand: give up the changes
//! rather than fill the database's disk. Never touches the slot itself, and demands nothing while another process holds
//! it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio::time::timeout;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::change::{Lsn, Oid};
use crate::database::Database;

use super::messages::{self, Look, MESSAGES_PUBLICATION, Sighting};
use super::slot::{self, Publication, SlotError, SlotOptions, SlotState};
use super::status::{ReplicationCounters, ReplicationState, ReplicationStatus};

/// How often the slot is looked at at the least: one cheap query.
const INTERVAL_MAX: Duration = Duration::from_secs(5);

/// And at the most.
const INTERVAL_MIN: Duration = Duration::from_millis(500);

/// More than even a fast disk writes in a second: between two looks no more than the limit should be written.
const WRITTEN_PER_SECOND_MAX: u64 = 1 << 30;

/// The same while the publication of `realtime.messages` is about to be read: somebody may be waiting for broadcasts. Never
/// more often, also when changes of the catalog are announced.
const SIGHTING_INTERVAL: Duration = Duration::from_secs(1);

/// One look must not take longer.
const LOOK_TIMEOUT: Duration = Duration::from_secs(10);

/// In [`Ownership`]: another process holds the slot, or we do not know yet.
const NOT_OURS: i32 = -1;

/// In [`Ownership`]: nobody holds the slot, so it is ours to repair.
const FREE: i32 = 0;

/// Whose slot it is, as the connection last saw it.
#[derive(Debug)]
pub(super) struct Ownership {
    holder: AtomicI32,
    /// Where the slot that we have created begins; zero if we found it.
    created: AtomicU64,
}

impl Ownership {
    pub(super) const fn new() -> Self {
        Self {
            holder: AtomicI32::new(NOT_OURS),
            created: AtomicU64::new(0),
        }
    }

    /// We have created the slot, and it begins here.
    pub(super) fn note_created(&self, from: Lsn) {
        self.created.store(from.bytes(), Ordering::Relaxed);
    }

    /// What must be done to this slot, going by the WAL that is kept for it.
    pub(super) fn judge(&self, slot: &SlotState, retained_wal_bytes_max: u64) -> Judgement {
        let created = Lsn::new(self.created.load(Ordering::Relaxed));
        judge(slot, created, retained_wal_bytes_max)
    }

    /// Process `pid` reads or creates it for us.
    pub(super) fn take(&self, pid: i32) {
        self.holder.store(pid, Ordering::Relaxed);
    }

    /// Nobody holds it.
    pub(super) fn release(&self) {
        self.holder.store(FREE, Ordering::Relaxed);
    }

    /// Another process holds it.
    pub(super) fn lose(&self) {
        self.holder.store(NOT_OURS, Ordering::Relaxed);
    }

    /// Whether nobody else holds the slot.
    pub(super) fn covers(&self, slot: &SlotState) -> bool {
        match self.holder.load(Ordering::Relaxed) {
            NOT_OURS => false,
            pid => slot.active_pid.is_none_or(|active| active == pid),
        }
    }
}

/// What must be done to the slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Intervention {
    /// Move it to the end of the WAL.
    Advance,
    /// Drop it and create it anew.
    Recreate,
    /// Leave it, but begin another session: the publications are not those that it began with.
    Restart,
    /// Likewise, with the publication of `realtime.messages`.
    TakeMessages,
    /// Likewise, without it.
    LeaveMessages,
}

impl Intervention {
    /// Whether subscribers must start over.
    pub(super) const fn gives_up_changes(self) -> bool {
        match self {
            Self::Advance | Self::Recreate => true,
            Self::Restart | Self::TakeMessages | Self::LeaveMessages => false,
        }
    }

    /// Whether it is about the publication of `realtime.messages` only.
    pub(super) const fn concerns_messages(self) -> bool {
        matches!(self, Self::TakeMessages | Self::LeaveMessages)
    }
}

/// The publications that a session reads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct InForce {
    /// The configured ones; empty while there is no session.
    pub(super) configured: Vec<Publication>,
    /// Whether it reads that of `realtime.messages` besides.
    pub(super) messages: bool,
    /// That publication as it was at the session's beginning.
    pub(super) messages_oid: Option<Oid>,
    /// Where the WAL ended then: whoever has come so far knows that the publication can be read.
    pub(super) messages_from: Lsn,
}

/// What one look says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Judgement {
    Fine,
    /// More than half of the limit.
    Warn,
    /// Over the limit, and not for want of confirmation: an old transaction.
    HeldBack,
    Demand(Intervention),
}

fn judge(slot: &SlotState, created: Lsn, retained_wal_bytes_max: u64) -> Judgement {
    let limit = retained_wal_bytes_max;
    // A new slot keeps the WAL that was written while its creation waited until Postgres logs the running transactions next
    // (every 15 s). Creating it once more would not free it sooner, and would cost everybody's positions.
    let goes_by_itself = slot
        .restart
        .map_or(0, |restart| created.bytes().saturating_sub(restart.bytes()));
    let retained_bytes = slot.retained_bytes.saturating_sub(goes_by_itself);
    if slot.lag_bytes >= limit {
        Judgement::Demand(Intervention::Advance)
    } else if retained_bytes >= limit.saturating_mul(2) {
        // Moving forward does not help: what keeps the WAL is the oldest transaction that was open then.
        Judgement::Demand(Intervention::Recreate)
    } else if retained_bytes >= limit {
        Judgement::HeldBack
    } else if retained_bytes >= limit / 2 {
        Judgement::Warn
    } else {
        Judgement::Fine
    }
}

/// The task that looks.
pub(super) struct Guard {
    pub(super) database: Database,
    pub(super) application_name: String,
    pub(super) slot: SlotOptions,
    pub(super) ownership: Arc<Ownership>,
    /// The publications that the session in force began with.
    pub(super) publications: watch::Receiver<InForce>,
    /// The database has announced a change of its catalog. A hint only: anybody may write one.
    pub(super) announced: Arc<Notify>,
    /// Asks the server where it is, so that the confirmed position moves on.
    pub(super) poke: Arc<Notify>,
    /// The publication of `realtime.messages`, if it is there and not read.
    pub(super) sighting: Sighting,
    pub(super) status: watch::Sender<ReplicationStatus>,
    pub(super) counters: Arc<ReplicationCounters>,
    /// Room for one demand: another one waits until it is met.
    pub(super) interventions: mpsc::Sender<Intervention>,
}

impl Guard {
    /// Looks every few seconds until cancelled.
    pub(super) async fn watch(mut self, tasks: TaskTracker, cancel: CancellationToken) {
        let mut client = None;
        let interval = interval(self.slot.retained_wal_bytes_max);
        loop {
            let is_under_way = self.sighting.is_under_way();
            let wait = async {
                tokio::time::sleep(SIGHTING_INTERVAL.min(interval)).await;
                if !is_under_way {
                    let rest = interval.saturating_sub(SIGHTING_INTERVAL);
                    drop(timeout(rest, self.announced.notified()).await);
                }
            };
            tokio::select! {
                () = cancel.cancelled() => return,
                () = wait => {}
            }
            let look = async {
                if client.as_ref().is_none_or(Client::is_closed) {
                    client = Some(
                        self.database
                            .connect(&tasks, &self.application_name)
                            .await
                            .ok()?,
                    );
                }
                Some(self.look(client.as_ref()?).await)
            };
            // The connection says itself, and louder, that the database is away.
            match timeout(LOOK_TIMEOUT, look).await {
                Ok(None) => {}
                Ok(Some(Ok(()))) => {}
                Ok(Some(Err(error))) => {
                    debug!(
                        error = &error as &dyn std::error::Error,
                        "cannot look at the replication slot"
                    );
                    client = None;
                }
                Err(_elapsed) => client = None,
            }
        }
    }

    async fn look(&mut self, client: &Client) -> Result<(), SlotError> {
        let Some(slot) = slot::load(client, &self.slot).await? else {
            return Ok(());
        };
        self.counters
            .retained_bytes
            .store(slot.retained_bytes, Ordering::Relaxed);
        self.counters
            .lag_bytes
            .store(slot.lag_bytes, Ordering::Relaxed);
        if !self.ownership.covers(&slot) {
            self.warn(None);
            return Ok(());
        }
        if let Some(intervention) = self.look_at_publications(client, &slot).await? {
            let _waits_already = self.interventions.try_send(intervention);
        }
        let (retained, limit) = (
            mebibytes(slot.retained_bytes),
            mebibytes(self.slot.retained_wal_bytes_max),
        );
        let name = &self.slot.name;
        let keeps = format!(
            "replication slot {name:?} keeps {retained} MiB of WAL; the limit is {limit} MiB"
        );
        match (self.ownership).judge(&slot, self.slot.retained_wal_bytes_max) {
            Judgement::Fine => self.warn(None),
            Judgement::Warn => self.warn(Some(format!(
                "{keeps}, where it is moved forward and subscribers start over"
            ))),
            Judgement::HeldBack => {
                let because = match slot::oldest_transaction(client, &self.slot).await? {
                    Some(pid) => format!(
                        "process {pid} has a transaction open; run: select pg_terminate_backend({pid})"
                    ),
                    None => "a prepared transaction is open; see pg_prepared_xacts".to_owned(),
                };
                self.warn(Some(format!("{keeps}, because {because}")));
            }
            Judgement::Demand(intervention) => {
                if self.interventions.try_send(intervention).is_ok() {
                    warn!(
                        ?intervention,
                        "{keeps}, so it is given up, and subscribers must start over"
                    );
                }
            }
        }
        Ok(())
    }

    /// From PostgreSQL 18 on a publication that is missing raises nothing in the stream: its changes are just not there.
    async fn look_at_publications(
        &mut self,
        client: &Client,
        slot: &SlotState,
    ) -> Result<Option<Intervention>, SlotError> {
        let in_force = self.publications.borrow().clone();
        if in_force.configured.is_empty()
            || self.status.borrow().state != ReplicationState::Streaming
        {
            return Ok(None);
        }
        if slot::publications(client, &self.slot).await? != in_force.configured {
            return Ok(Some(Intervention::Restart));
        }
        if self.slot.is_configured(MESSAGES_PUBLICATION) {
            return Ok(None);
        }
        // Before the look; the slot trails this position.
        let position = Lsn::new(self.counters.position_lsn.load(Ordering::Relaxed));
        let look = messages::look(client, &self.slot).await?;
        let reached = slot.confirmed_flush.max(Some(position));
        let demand = demand_for_messages(&in_force, &look, reached, &mut self.sighting);
        if demand.is_none() && self.sighting.waits_for_confirmation() {
            self.poke.notify_one();
        }
        Ok(demand)
    }

    fn warn(&self, warning: Option<String>) {
        self.status.send_if_modified(|status| {
            let changed = status.warning != warning;
            if let (None, Some(warning)) = (&status.warning, &warning) {
                warn!("{warning}");
            }
            status.warning = warning;
            changed
        });
    }
}

/// What must be done so that the publication of `realtime.messages` is read if it exists and not if it does not.
fn demand_for_messages(
    in_force: &InForce,
    look: &Look,
    reached: Option<Lsn>,
    sighting: &mut Sighting,
) -> Option<Intervention> {
    if in_force.messages {
        sighting.forget();
        // A session that went on within a torn transaction may have begun without it.
        (look.oid.is_none() || look.oid != in_force.messages_oid)
            .then_some(Intervention::LeaveMessages)
    } else {
        sighting
            .is_safe(look, reached)
            .then_some(Intervention::TakeMessages)
    }
}

fn interval(retained_wal_bytes_max: u64) -> Duration {
    let millis = retained_wal_bytes_max.saturating_mul(1000) / WRITTEN_PER_SECOND_MAX;
    Duration::from_millis(millis).clamp(INTERVAL_MIN, INTERVAL_MAX)
}

const fn mebibytes(bytes: u64) -> u64 {
    bytes >> 20
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(retained_bytes: u64, lag_bytes: u64, expected: Judgement) {
        let slot = SlotState {
            retained_bytes,
            lag_bytes,
            ..SlotState::default()
        };
        assert_eq!(judge(&slot, Lsn::ZERO, 100), expected);
    }

    #[test]
    fn a_slot_is_moved_where_that_helps_and_created_anew_where_not() {
        check(49, 49, Judgement::Fine);
        check(50, 0, Judgement::Warn);
        check(100, 99, Judgement::HeldBack);
        check(199, 0, Judgement::HeldBack);
        check(100, 100, Judgement::Demand(Intervention::Advance));
        check(500, 100, Judgement::Demand(Intervention::Advance));
        check(200, 99, Judgement::Demand(Intervention::Recreate));
    }

    #[test]
    fn what_was_written_while_a_slot_was_created_is_not_held_against_it() {
        let mut slot = SlotState {
            retained_bytes: 390,
            restart: Some(Lsn::new(1000)),
            ..SlotState::default()
        };
        let judged = |slot: &SlotState| judge(slot, Lsn::new(1300), 100);
        assert_eq!(judged(&slot), Judgement::Warn);
        slot.retained_bytes = 500;
        assert_eq!(judged(&slot), Judgement::Demand(Intervention::Recreate));
        slot.restart = Some(Lsn::new(1300));
        slot.retained_bytes = 200;
        assert_eq!(judged(&slot), Judgement::Demand(Intervention::Recreate));
    }

    #[test]
    fn a_small_limit_is_looked_after_more_often() {
        assert_eq!(interval(16 << 20), INTERVAL_MIN);
        assert_eq!(interval(1 << 30), Duration::from_secs(1));
        assert_eq!(interval(4 << 30), Duration::from_secs(4));
        assert_eq!(interval(u64::MAX), INTERVAL_MAX);
    }

    #[test]
    fn the_publication_of_messages_is_left_when_it_goes_and_taken_when_it_is_safe() {
        let mut sighting = Sighting::default();
        let mut demand = |messages, began_with, found, confirmed| {
            let in_force = InForce {
                messages,
                messages_oid: began_with,
                ..InForce::default()
            };
            let reached = Some(Lsn::new(confirmed));
            demand_for_messages(&in_force, &Look::quiet(found, 100), reached, &mut sighting)
        };
        assert_eq!(demand(true, Some(1), Some(1), 0), None);
        let leave = Some(Intervention::LeaveMessages);
        assert_eq!(demand(true, Some(1), None, 0), leave);
        assert_eq!(demand(true, Some(1), Some(2), 0), leave);
        assert_eq!(demand(true, None, None, 0), leave);
        assert_eq!(demand(false, None, None, 100), None);
        assert_eq!(demand(false, None, Some(2), 99), None);
        let take = Some(Intervention::TakeMessages);
        assert_eq!(demand(false, None, Some(2), 100), take);
    }

    #[test]
    fn nothing_is_demanded_of_a_slot_that_another_process_holds() {
        let ownership = Ownership::new();
        let (free, held) = (
            SlotState::default(),
            SlotState {
                active_pid: Some(7),
                ..SlotState::default()
            },
        );
        assert!(!ownership.covers(&free) && !ownership.covers(&held));
        ownership.release();
        assert!(ownership.covers(&free) && !ownership.covers(&held));
        ownership.take(7);
        assert!(ownership.covers(&free) && ownership.covers(&held));
        ownership.lose();
        assert!(!ownership.covers(&held));
    }
}
