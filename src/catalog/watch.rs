//! Looks at the fingerprint again and again (*io*), at a fraction of its cost.
//!
//! One connection goes in; out comes, for one moment, a snapshot, the end of the WAL and the fingerprint. As long as a
//! cheaper mark stays the same, so does the fingerprint (`sql::MARK`); only when it moves is the fingerprint read anew,
//! and then everything comes from that second statement. Never says an old fingerprint after a new one could be seen.

use tokio_postgres::types::Type as WireType;
use tokio_postgres::{Client, Error, Row, Statement};

use super::sql;
use crate::change::{Lsn, Oid, Snapshot};

/// What one look has found.
#[derive(Clone, Debug)]
pub struct Glance {
    /// The snapshot that the fingerprint was read in.
    pub snapshot: Snapshot,
    /// The end of the WAL, read after the snapshot was taken.
    pub insert_lsn: Lsn,
    /// As [`Catalog::fingerprint`](super::Catalog::fingerprint).
    pub fingerprint: Box<str>,
}

/// Statements on one connection, and what they found the last time.
#[derive(Debug)]
pub struct Watch {
    brief: Statement,
    full: Statement,
    for_plans: bool,
    known: Option<Known>,
}

#[derive(Debug)]
struct Known {
    mark: Box<str>,
    covered: Vec<Oid>,
    fingerprint: Box<str>,
}

/// The snapshot is the statement's own and therefore older than the position that is read while it runs.
const MOMENT: &str =
    "pg_catalog.pg_current_snapshot()::text, pg_catalog.pg_current_wal_insert_lsn()::text";

impl Watch {
    /// Prepares a connection, which is to be used for nothing else. `for_plans` as in [`load`](super::load()).
    ///
    /// # Errors
    /// The connection broke.
    pub async fn prepare(client: &Client, for_plans: bool) -> Result<Self, Error> {
        // Planning anew takes several times as long as running; nothing in the plans depends on the parameters. Catalogs
        // that change make Postgres plan again by itself. It cannot estimate these statements and would compile them.
        client
            .batch_execute("set plan_cache_mode = force_generic_plan; set jit = off")
            .await?;
        let brief = format!("select {MOMENT}, ({})", sql::MARK);
        let mark = sql::MARK.replace("$1", "(select covered.oids from covered)");
        let full = format!(
            "with covered (oids) as materialized ({}) select {MOMENT}, ({mark}), ({}), (select covered.oids from covered)",
            sql::COVERED,
            sql::FINGERPRINT_SQL,
        );
        Ok(Self {
            brief: client.prepare_typed(&brief, &[WireType::OID_ARRAY]).await?,
            full: client
                .prepare_typed(&full, &[WireType::TEXT_ARRAY, WireType::BOOL])
                .await?,
            for_plans,
            known: None,
        })
    }

    /// Looks now; `None` if the server answers in a form that is not understood.
    ///
    /// Not cancel safe: after a dropped call the connection still owes the answer.
    ///
    /// # Errors
    /// A statement failed.
    pub async fn look(
        &mut self,
        client: &Client,
        publications: &[&str],
    ) -> Result<Option<Glance>, Error> {
        if let Some(known) = &self.known {
            let row = client.query_one(&self.brief, &[&known.covered]).await?;
            if row.try_get::<_, &str>(2)? == &*known.mark {
                return glance(&row, known.fingerprint.clone());
            }
            self.known = None;
        }
        let row = client
            .query_one(&self.full, &[&publications, &self.for_plans])
            .await?;
        let known = Known {
            mark: row.try_get::<_, &str>(2)?.into(),
            fingerprint: row.try_get::<_, &str>(3)?.into(),
            covered: row.try_get(4)?,
        };
        let fingerprint = known.fingerprint.clone();
        self.known = Some(known);
        glance(&row, fingerprint)
    }
}

fn glance(row: &Row, fingerprint: Box<str>) -> Result<Option<Glance>, Error> {
    let (Ok(snapshot), Ok(insert_lsn)) = (
        row.try_get::<_, &str>(0)?.parse(),
        row.try_get::<_, &str>(1)?.parse(),
    ) else {
        return Ok(None);
    };
    Ok(Some(Glance {
        snapshot,
        insert_lsn,
        fingerprint,
    }))
}
