//! What can be wrong with a slot or with the server that holds it: one sentence each, with the SQL that mends it.
//!
//! Plain values; `walcast check` shows the same sentences as the health of a running server.

use crate::database::quote_identifier;

/// The slot cannot be used as it is, or the server cannot serve it.
#[derive(Debug, thiserror::Error)]
pub enum SlotError {
    /// The server is too old.
    #[error("PostgreSQL {found} is too old; walcast needs 14 or later")]
    Version {
        /// Its version.
        found: String,
    },
    /// The server is a standby.
    #[error("the server is a standby in recovery; name its primary in the database URL")]
    Standby,
    /// The WAL does not hold enough.
    #[error(
        "wal_level is {found}, and logical decoding needs logical; run: alter system set wal_level = logical, then \
         restart Postgres"
    )]
    WalLevel {
        /// As it is.
        found: String,
    },
    /// The role may not replicate.
    #[error(
        "role {role:?} may not use replication; run: alter role {} replication (on Amazon RDS: grant rds_replication \
         to {})",
        quote_identifier(role),
        quote_identifier(role)
    )]
    Role {
        /// The login role.
        role: String,
    },
    /// A publication is missing.
    #[error(
        "publication {name:?} does not exist; run: create publication {} for table …; then: alter publication {} add \
         table … as needed",
        quote_identifier(name),
        quote_identifier(name)
    )]
    Publication {
        /// Its name.
        name: String,
    },
    /// All slots are taken.
    #[error(
        "all {max} replication slots are in use; drop one with: select pg_drop_replication_slot(…), or run: alter \
         system set max_replication_slots = {}, then restart Postgres",
        .max.saturating_add(10)
    )]
    NoFreeSlot {
        /// `max_replication_slots`.
        max: i32,
    },
    /// All walsenders are taken.
    #[error(
        "all {max} WAL senders are in use; run: alter system set max_wal_senders = {}, then restart Postgres",
        .max.saturating_add(10)
    )]
    NoFreeSender {
        /// `max_wal_senders`.
        max: i32,
    },
    /// A slot of that name serves something else.
    #[error(
        "replication slot {slot:?} belongs to something else ({found}); choose another name, or run: select \
         pg_drop_replication_slot('{slot}')"
    )]
    Foreign {
        /// The slot.
        slot: String,
        /// What it is.
        found: String,
    },
    /// The slot reports prepared transactions, which walcast takes at their commit only.
    #[error(
        "replication slot {slot:?} has two_phase on; run: select pg_drop_replication_slot('{slot}')"
    )]
    TwoPhase {
        /// The slot.
        slot: String,
    },
    /// Another process reads it.
    #[error(
        "replication slot {slot:?} is held by process {pid}{}; this server stands by and takes over when it ends (to end \
         it: select pg_terminate_backend({pid}))",
        describe_application(.application)
    )]
    Held {
        /// The slot.
        slot: String,
        /// The walsender.
        pid: i32,
        /// What it says it is, if we may know.
        application: Option<String>,
    },
    /// Its WAL is gone.
    #[error(
        "replication slot {slot:?} is lost ({reason}); walcast creates it anew, and subscribers must start over. To keep \
         more WAL run: alter system set max_slot_wal_keep_size = …; select pg_reload_conf()"
    )]
    Lost {
        /// The slot.
        slot: String,
        /// Postgres's word for it.
        reason: String,
    },
    /// Its WAL will be gone at the next checkpoint.
    #[error(
        "replication slot {slot:?} has fallen behind max_slot_wal_keep_size and will be lost soon; run: alter system set \
         max_slot_wal_keep_size = …; select pg_reload_conf()"
    )]
    Unreserved {
        /// The slot.
        slot: String,
    },
    /// A query failed.
    #[error("cannot read or change replication slot {slot:?}")]
    Query {
        /// The slot.
        slot: String,
        /// What Postgres says.
        #[source]
        source: tokio_postgres::Error,
    },
    /// Postgres said something that we do not understand: our mistake.
    #[error("cannot understand what Postgres says about replication slot {slot:?}")]
    Answer {
        /// The slot.
        slot: String,
    },
}

fn describe_application(name: &Option<String>) -> String {
    name.as_ref()
        .map_or_else(String::new, |name| format!(" ({name:?})"))
}

/// Something to mend, found before it hurts.
#[derive(Debug)]
pub struct Finding {
    /// What, with the remedy.
    pub problem: SlotError,
    /// Whether nothing can be read as long as it is so.
    pub blocks: bool,
}
