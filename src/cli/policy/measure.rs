//! What policies would cost a server: the memory of the tables that they look into, and the time of a verdict. Both are
//! measured here, by loading those tables and judging some rows.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::json;
use tokio_postgres::Client;

use super::memory::{CLAIMS, Memory, session_of};
use crate::clock;
use crate::policy::schema::{Schema, Table};
use crate::policy::value::Oid;
use crate::policy::{Plan, Reads, World};
use crate::shadow::{self, Limits, Shadow, Spec, State, Status};

/// Times that a table is tried: its partitions become known at the first.
const LOADS_MAX: usize = 3;
/// Rows that are judged, again and again for so long.
const SAMPLE_ROWS: usize = 200;
const SAMPLE_TIME: Duration = Duration::from_millis(20);
/// Who asks in the sample: no policy is known to treat this subject in a special way.
const SUBJECT: &str = "00000000-0000-4000-8000-000000000000";

/// All tables that some plans look into, in memory.
#[derive(Debug)]
pub(super) struct Loaded {
    shadow: Shadow,
    status: HashMap<Oid, Status>,
}

impl Loaded {
    /// Loads them one after the other, as a server does, and within its limit.
    pub(super) async fn load<'a>(
        client: &Client,
        publications: &[String],
        schema: &Schema,
        reads: impl IntoIterator<Item = &'a Reads>,
        bytes_max: usize,
    ) -> Self {
        let mut shadow = Shadow::new(Limits {
            bytes_max,
            retained_bytes_max: bytes_max,
            undo_bytes_max: 0,
        });
        shadow.want(Spec::all(schema, reads));
        for _ in 0..LOADS_MAX {
            for request in shadow.loads() {
                shadow.loaded(shadow::load(client, publications, request).await);
            }
        }
        let status = shadow.status().into_iter();
        Self {
            status: status.map(|status| (status.table, status)).collect(),
            shadow,
        }
    }

    /// Bytes of all that fits.
    pub(super) const fn bytes(&self) -> usize {
        self.shadow.bytes()
    }

    /// Rows and bytes of a table that fits.
    pub(super) fn size(&self, table: Oid) -> Option<(usize, usize)> {
        let status = self.status.get(&table)?;
        matches!(status.state, State::Trusted { .. }).then_some((status.rows, status.bytes))
    }

    /// The table does not fit beside those before it.
    pub(super) fn is_over_the_limit(&self, table: Oid) -> bool {
        let status = self.status.get(&table);
        status.is_some_and(|status| status.state == State::TooLarge)
    }

    /// Microseconds per verdict, over some rows of the table for one made-up subject; `None` where there are no rows, or
    /// a table that the plan looks into is not in memory.
    pub(super) async fn micros(
        &self,
        client: &Client,
        schema: &Schema,
        table: &Table,
        role: &str,
        plan: &Plan,
    ) -> Option<Cost> {
        if !plan
            .reads
            .tables
            .keys()
            .all(|oid| self.size(*oid).is_some())
        {
            return None;
        }
        let wanted = Some(&plan.reads.columns);
        let mut memory = Memory::read(client, schema, []).await.ok()?;
        let clause = format!("limit {SAMPLE_ROWS}");
        let rows = memory.select(client, table, wanted, &clause).await.ok()?;
        let claims = json!({"sub": SUBJECT, "role": role}).to_string();
        let session = session_of(client, &[(CLAIMS.to_owned(), claims)])
            .await
            .ok()?;
        let world = World {
            tables: &self.shadow,
            session: &session,
            types: &schema.types,
        };
        let began = clock::instant();
        let mut verdicts = 0_u32;
        while !rows.is_empty() && began.elapsed() < SAMPLE_TIME {
            for (_, row) in &rows {
                let _verdict = plan.judge(world, row);
                verdicts = verdicts.saturating_add(1);
            }
        }
        let took = began.elapsed();
        (verdicts > 0).then(|| Cost {
            micros: took.as_secs_f64() * 1e6 / f64::from(verdicts),
            rows: rows.len(),
        })
    }
}

/// What a verdict takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cost {
    pub(super) micros: f64,
    /// Different rows that were judged.
    pub(super) rows: usize,
}
