//! The replication slot's life and what it needs of the server (io).
//!
//! In goes an ordinary client, out come findings, each one sentence with the SQL that mends it, and the slot as it
//! stands. Never drops or moves a slot that another process holds, nor one that is not ours by plugin and database.
//! Follows the Postgres manual, "Logical Decoding", "pg_replication_slots" and "Replication Management Functions".

use std::fmt::Write;

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::change::{Lsn, Oid};
use crate::database::quote_identifier;

mod problem;

pub use problem::{Finding, SlotError};

/// The plugin of every slot of ours.
const PLUGIN: &str = "pgoutput";

/// Oldest release whose pgoutput streams transactions in progress.
const SERVER_VERSION_MIN: i32 = 140_000;

/// First release with failover slots.
const FAILOVER_SLOTS_VERSION: i32 = 170_000;

/// What is read through which slot.
#[derive(Clone, Debug)]
pub struct SlotOptions {
    /// Lower-case letters, digits and underscores.
    pub name: String,
    /// Not empty; each must exist before the slot is created.
    pub publications: Vec<String>,
    /// On PostgreSQL 17 and later, whether a slot that we create is kept up to date on standbys too.
    pub failover: bool,
    /// Bytes of WAL that the slot may keep: at half a warning, at the limit it moves forward (where commits wait for standbys:
    /// it is created anew), at twice the limit it is created anew.
    pub retained_wal_bytes_max: u64,
    /// Bytes of WAL that are confirmed late, so that whoever begins at the slot's position reads them again; a quarter of
    /// the limit above at most.
    pub trail_bytes_max: u64,
}

impl SlotOptions {
    /// Bytes of WAL that are confirmed late.
    #[must_use]
    pub(super) fn trail_bytes(&self) -> u64 {
        self.trail_bytes_max.min(self.retained_wal_bytes_max / 4)
    }

    /// Whether the publication is one of the configured ones.
    #[must_use]
    pub fn is_configured(&self, publication: &str) -> bool {
        self.publications.iter().any(|name| name == publication)
    }
}

/// A slot as `pg_replication_slots` shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlotState {
    /// The process that reads it, or creates it.
    pub active_pid: Option<i32>,
    /// Everything that committed before is done with; `None` while it is being created.
    pub confirmed_flush: Option<Lsn>,
    /// WAL from here on is kept.
    pub restart: Option<Lsn>,
    /// Bytes of WAL that are kept for it.
    pub retained_bytes: u64,
    /// Bytes between what is confirmed and the end of the WAL.
    pub lag_bytes: u64,
    /// Why it can no longer be read, if so.
    pub lost: Option<String>,
    /// Its WAL goes at the next checkpoint.
    pub unreserved: bool,
    /// It reports prepared transactions.
    pub two_phase: bool,
    /// What it is, if it is none of ours.
    pub foreign: Option<String>,
}

/// A publication as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    /// Its name.
    pub name: String,
    /// Changes when it is dropped and created again; `None` if it does not exist.
    pub oid: Option<Oid>,
}

/// All that stands between `options` and a stream, not only the first thing.
///
/// # Errors
/// A query failed; what was found until then is of no use.
pub async fn check(client: &Client, options: &SlotOptions) -> Result<Vec<Finding>, SlotError> {
    let slot = load(client, options).await?;
    let mut findings = check_server(client, options, slot.as_ref()).await?;
    for publication in publications(client, options).await? {
        if publication.oid.is_none() {
            findings.push(Finding {
                problem: SlotError::Publication {
                    name: publication.name,
                },
                blocks: true,
            });
        }
    }
    if let Some(slot) = slot {
        findings.extend(check_slot(client, options, &slot).await?);
    }
    Ok(findings)
}

async fn check_server(
    client: &Client,
    options: &SlotOptions,
    slot: Option<&SlotState>,
) -> Result<Vec<Finding>, SlotError> {
    // Managed services lend the attribute through a role of theirs.
    let sql = "select current_setting('wal_level'), current_setting('server_version'), \
        current_setting('server_version_num')::int4, pg_catalog.pg_is_in_recovery(), \
        current_setting('max_replication_slots')::int4, (select count(*) from pg_catalog.pg_replication_slots)::int4, \
        current_setting('max_wal_senders')::int4, (select count(*) from pg_catalog.pg_stat_replication)::int4, \
        current_user::text, \
        exists (select from pg_catalog.pg_roles as r where r.rolname = current_user \
            and (r.rolsuper or r.rolreplication)) \
        or exists (select from pg_catalog.pg_roles as r where r.rolname = 'rds_replication' \
            and pg_catalog.pg_has_role(r.oid, 'member'))";
    let row = client
        .query_one(sql, &[])
        .await
        .map_err(|source| failed(options, source))?;
    let mut findings = Vec::new();
    let mut block = |problem| {
        findings.push(Finding {
            problem,
            blocks: true,
        });
    };
    if row.get::<_, i32>(2) < SERVER_VERSION_MIN {
        block(SlotError::Version { found: row.get(1) });
    }
    if row.get(3) {
        block(SlotError::Standby);
    }
    let wal_level: String = row.get(0);
    if wal_level != "logical" {
        block(SlotError::WalLevel { found: wal_level });
    }
    if !row.get::<_, bool>(9) {
        block(SlotError::Role { role: row.get(8) });
    }
    let (slots_max, slots): (i32, i32) = (row.get(4), row.get(5));
    if slot.is_none() && slots >= slots_max {
        block(SlotError::NoFreeSlot { max: slots_max });
    }
    let (senders_max, senders): (i32, i32) = (row.get(6), row.get(7));
    if slot.is_none_or(|slot| slot.active_pid.is_none()) && senders >= senders_max {
        block(SlotError::NoFreeSender { max: senders_max });
    }
    Ok(findings)
}

async fn check_slot(
    client: &Client,
    options: &SlotOptions,
    slot: &SlotState,
) -> Result<Vec<Finding>, SlotError> {
    let name = || options.name.clone();
    let mut findings = Vec::new();
    let mut find = |problem, blocks| findings.push(Finding { problem, blocks });
    if let Some(found) = &slot.foreign {
        let found = found.clone();
        find(
            SlotError::Foreign {
                slot: name(),
                found,
            },
            true,
        );
    }
    if slot.two_phase {
        find(SlotError::TwoPhase { slot: name() }, true);
    }
    if let Some(reason) = &slot.lost {
        let reason = reason.clone();
        find(
            SlotError::Lost {
                slot: name(),
                reason,
            },
            false,
        );
    }
    if slot.unreserved {
        find(SlotError::Unreserved { slot: name() }, false);
    }
    if let Some(pid) = slot.active_pid {
        let application = application_of(client, options, pid).await?;
        let slot = name();
        find(
            SlotError::Held {
                slot,
                pid,
                application,
            },
            true,
        );
    }
    Ok(findings)
}

/// What process `pid` says it is.
async fn application_of(
    client: &Client,
    options: &SlotOptions,
    pid: i32,
) -> Result<Option<String>, SlotError> {
    let sql = "select application_name from pg_catalog.pg_stat_activity where pid = $1 and application_name <> ''";
    let row = client
        .query_opt(sql, &[&pid])
        .await
        .map_err(|source| failed(options, source))?;
    Ok(row.and_then(|row| row.get(0)))
}

/// The publications of `options`, in order.
///
/// # Errors
/// The query failed.
pub async fn publications(
    client: &Client,
    options: &SlotOptions,
) -> Result<Vec<Publication>, SlotError> {
    let sql = "select wanted.name, p.oid from unnest($1::text[]) with ordinality as wanted (name, place) \
        left join pg_catalog.pg_publication as p on p.pubname = wanted.name order by wanted.place";
    let rows = client
        .query(sql, &[&options.publications])
        .await
        .map_err(|source| failed(options, source))?;
    Ok(rows
        .iter()
        .map(|row| Publication {
            name: row.get(0),
            oid: row.get(1),
        })
        .collect())
}

/// The slot as it stands; `None` if there is none.
///
/// # Errors
/// The query failed.
pub async fn load(client: &Client, options: &SlotOptions) -> Result<Option<SlotState>, SlotError> {
    // Columns that newer releases added are read through JSON, so that one query serves all.
    let sql = "select s.active_pid, s.confirmed_flush_lsn::text, s.restart_lsn::text, \
        coalesce(pg_catalog.pg_wal_lsn_diff(w.lsn, s.restart_lsn), 0)::int8, \
        coalesce(pg_catalog.pg_wal_lsn_diff(w.lsn, s.confirmed_flush_lsn), 0)::int8, \
        coalesce(s.wal_status, ''), coalesce(s.two_phase, false), \
        s.plugin::text, s.database::text, s.temporary, current_database()::text, \
        pg_catalog.to_jsonb(s) ->> 'invalidation_reason', \
        coalesce((pg_catalog.to_jsonb(s) ->> 'conflicting')::bool, false) \
        from pg_catalog.pg_replication_slots as s \
        cross join (select case when pg_catalog.pg_is_in_recovery() then pg_catalog.pg_last_wal_replay_lsn() \
            else pg_catalog.pg_current_wal_lsn() end as lsn) as w where s.slot_name = $1::text";
    let row = client
        .query_opt(sql, &[&options.name])
        .await
        .map_err(|source| failed(options, source))?;
    let Some(row) = row else {
        return Ok(None);
    };
    let lsn = |index: usize| {
        let text: Option<String> = row.get(index);
        let parsed = text.map(|text| text.parse::<Lsn>()).transpose();
        parsed.map_err(|_no_lsn| misunderstood(options))
    };
    let bytes = |index: usize| u64::try_from(row.get::<_, i64>(index)).unwrap_or(0);
    let (status, reason): (String, Option<String>) = (row.get(5), row.get(11));
    let lost = match reason {
        Some(reason) => Some(reason),
        None if status == "lost" => Some("wal_removed".to_owned()),
        None if row.get(12) => Some("conflicting with recovery".to_owned()),
        None => None,
    };
    let (plugin, database): (Option<String>, Option<String>) = (row.get(7), row.get(8));
    let ours = plugin.as_deref() == Some(PLUGIN)
        && database == row.get::<_, Option<String>>(10)
        && !row.get::<_, bool>(9);
    let foreign = (!ours).then(|| match (plugin, database) {
        (Some(plugin), Some(database)) => format!("plugin {plugin}, database {database:?}"),
        _ => "physical replication".to_owned(),
    });
    Ok(Some(SlotState {
        active_pid: row.get(0),
        confirmed_flush: lsn(1)?,
        restart: lsn(2)?,
        retained_bytes: bytes(3),
        lag_bytes: bytes(4),
        lost,
        unreserved: status == "unreserved",
        two_phase: row.get(6),
        foreign,
    }))
}

/// Creates the slot; waits for every transaction of the cluster that is open now.
///
/// The session asks Postgres to look whether we are still there, so that a creation that nobody waits for ends.
///
/// # Errors
/// The query failed; there is no slot then. Not cancel safe: the server goes on creating for some seconds.
pub async fn create(client: &Client, options: &SlotOptions) -> Result<Lsn, SlotError> {
    let failed = |source| failed(options, source);
    client
        .batch_execute("set client_connection_check_interval to '2s'")
        .await
        .map_err(failed)?;
    let row = client
        .query_one("select current_setting('server_version_num')::int4", &[])
        .await
        .map_err(failed)?;
    let mut sql =
        "select lsn::text from pg_catalog.pg_create_logical_replication_slot($1, $2, false, false"
            .to_owned();
    if options.failover && row.get::<_, i32>(0) >= FAILOVER_SLOTS_VERSION {
        sql.push_str(", true");
    }
    sql.push(')');
    let row = client
        .query_one(&sql, &[&options.name, &PLUGIN])
        .await
        .map_err(failed)?;
    row.get::<_, String>(0)
        .parse()
        .map_err(|_no_lsn| misunderstood(options))
}

/// Drops the slot, which nobody may hold.
///
/// # Errors
/// The query failed, for example because somebody holds it.
pub async fn drop(client: &Client, options: &SlotOptions) -> Result<(), SlotError> {
    let sql = "select pg_catalog.pg_drop_replication_slot(slot_name) from pg_catalog.pg_replication_slots \
        where slot_name = $1::text";
    client
        .execute(sql, &[&options.name])
        .await
        .map_err(|source| failed(options, source))?;
    Ok(())
}

/// Moves the slot, which nobody may hold, to the end of the WAL: what lies between is never delivered.
///
/// # Errors
/// The query failed, for example because somebody holds the slot.
pub async fn advance(client: &Client, options: &SlotOptions) -> Result<Lsn, SlotError> {
    // A publication that we see may have been created by a commit that is not flushed yet (synchronous_commit = off),
    // and a slot moves no further than the flushed WAL; one commit that waits for its flush brings the other with it.
    let sql = "begin; set local synchronous_commit to local; \
        select pg_catalog.pg_logical_emit_message(true, 'walcast.flush', ''); commit";
    client
        .batch_execute(sql)
        .await
        .map_err(|source| failed(options, source))?;
    let sql = "select end_lsn::text from pg_catalog.pg_replication_slot_advance($1, pg_catalog.pg_current_wal_flush_lsn())";
    let row = client
        .query_one(sql, &[&options.name])
        .await
        .map_err(|source| failed(options, source))?;
    row.get::<_, String>(0)
        .parse()
        .map_err(|_no_lsn| misunderstood(options))
}

/// Whether a standby may hold commits back, so that they are in the WAL long before they are visible, or the slot, which then
/// cannot be moved either.
///
/// # Errors
/// The query failed.
pub(super) async fn waits_for_standbys(
    client: &Client,
    options: &SlotOptions,
) -> Result<bool, SlotError> {
    // The second is there from PostgreSQL 17 on.
    let sql = "select current_setting('synchronous_standby_names') <> '' \
        or coalesce(current_setting('synchronized_standby_slots', true), '') <> ''";
    let row = client
        .query_one(sql, &[])
        .await
        .map_err(|source| failed(options, source))?;
    Ok(row.get(0))
}

/// Ends a walsender of ours, or one that creates our slot.
///
/// # Errors
/// The query failed.
pub async fn terminate(client: &Client, options: &SlotOptions, pid: i32) -> Result<(), SlotError> {
    client
        .execute("select pg_catalog.pg_terminate_backend($1)", &[&pid])
        .await
        .map_err(|source| failed(options, source))?;
    Ok(())
}

/// The processes that the creation of the slot by `pid` waits for.
///
/// # Errors
/// The query failed.
pub async fn blockers(
    client: &Client,
    options: &SlotOptions,
    pid: i32,
) -> Result<Vec<i32>, SlotError> {
    let row = client
        .query_one("select pg_catalog.pg_blocking_pids($1)", &[&pid])
        .await
        .map_err(|source| failed(options, source))?;
    Ok(row.get(0))
}

/// The process with the oldest transaction of the cluster, which is what keeps `restart_lsn` from moving.
///
/// Read from the locks that each transaction holds on its own id, which every role may see.
///
/// # Errors
/// The query failed.
pub async fn oldest_transaction(
    client: &Client,
    options: &SlotOptions,
) -> Result<Option<i32>, SlotError> {
    let sql = "select pid from pg_catalog.pg_locks where locktype = 'transactionid' and mode = 'ExclusiveLock' \
        and granted and pid <> pg_catalog.pg_backend_pid() order by pg_catalog.age(transactionid) desc limit 1";
    let row = client
        .query_opt(sql, &[])
        .await
        .map_err(|source| failed(options, source))?;
    Ok(row.and_then(|row| row.get(0)))
}

/// The command that streams from `position` on, or from the slot's confirmed position if that is later, with publications
/// besides the configured ones.
#[must_use]
pub(super) fn start_command(options: &SlotOptions, position: Lsn, besides: Option<&str>) -> String {
    let mut names = String::new();
    for publication in options
        .publications
        .iter()
        .map(String::as_str)
        .chain(besides)
    {
        let comma = if names.is_empty() { "" } else { "," };
        // The list is a string literal that holds identifiers; writing to a String cannot fail.
        let _ = write!(
            names,
            "{comma}{}",
            quote_identifier(publication).replace('\'', "''")
        );
    }
    format!(
        "START_REPLICATION SLOT {} LOGICAL {position} (proto_version '2', publication_names '{names}', messages 'true', \
         streaming 'on')",
        quote_identifier(&options.name)
    )
}

/// Whether `error` says that the slot is in somebody else's hands.
#[must_use]
pub(super) fn is_held(error: &SlotError) -> bool {
    match error {
        SlotError::Held { .. } => true,
        SlotError::Query { source, .. } => source.code() == Some(&SqlState::OBJECT_IN_USE),
        _ => false,
    }
}

fn failed(options: &SlotOptions, source: tokio_postgres::Error) -> SlotError {
    SlotError::Query {
        slot: options.name.clone(),
        source,
    }
}

fn misunderstood(options: &SlotOptions) -> SlotError {
    SlotError::Answer {
        slot: options.name.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_the_start_command_are_quoted_twice_over() {
        let options = SlotOptions {
            name: "walcast".to_owned(),
            publications: vec!["a".to_owned()],
            failover: true,
            retained_wal_bytes_max: 0,
            trail_bytes_max: 0,
        };
        let expected = "START_REPLICATION SLOT \"walcast\" LOGICAL 0/7 (proto_version '2', publication_names \
            '\"a\",\"it''s \"\"b\"\"\"', messages 'true', streaming 'on')";
        assert_eq!(
            start_command(&options, Lsn::new(7), Some("it's \"b\"")),
            expected
        );
    }

    #[test]
    fn problems_come_with_the_sql_that_mends_them() {
        let role = "b\"x".to_owned();
        let shown = SlotError::Role { role }.to_string();
        assert!(
            shown.contains(r#"alter role "b""x" replication"#),
            "{shown}"
        );
        assert!(
            SlotError::NoFreeSlot { max: 10 }
                .to_string()
                .contains("max_replication_slots = 20")
        );
    }
}
