//! One connection that answers questions, one at a time.
//!
//! A subscriber's policies run as the subscriber, in a transaction that is always rolled back (protocol.md §7.5). All of a
//! question goes out at once, so that it costs one round trip. What is replayed and stored is read and written with the
//! rights of functions in schema `walcast` (`sql/message_functions.sql`).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{join, join3};
use tokio_postgres::error::{Severity, SqlState};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Error, Row, Statement};

use super::{Request, replay};
use crate::change::{Lsn, Snapshot};
use crate::log::Order;
use crate::realtime::{Answer, Ask, AskError, Stored, StoredData};

/// A prepared statement keeps the policies with which it was rewritten, also when a role loses BYPASSRLS.
const BEGIN: &str = "discard plans; begin isolation level read committed read write";

const SETTINGS: &str = "select pg_catalog.set_config('realtime.topic', $1, true), \
     pg_catalog.set_config('request.jwt.claims', $2, true), pg_catalog.set_config('request.jwt.claim.sub', $3, true), \
     pg_catalog.set_config('request.jwt.claim.role', $4, true), pg_catalog.set_config('request.headers', $5, true)";

const ROLE: &str = "select pg_catalog.set_config('role', $1, true)";

/// Whether the probes are made by the function, or by the login itself.
const HAS_PROBE_FUNCTION: &str = "select coalesce(pg_catalog.has_schema_privilege( \
        pg_catalog.to_regnamespace('walcast')::oid, 'usage') and pg_catalog.has_function_privilege( \
        pg_catalog.to_regprocedure('walcast.probe_messages(text, uuid, uuid)')::oid, 'execute'), false)";
const PROBE: &str = "select walcast.probe_messages($1, $2::text::uuid, $3::text::uuid)";
const PROBE_AS_LOGIN: &str = "insert into realtime.messages (id, topic, extension, inserted_at, updated_at) \
     select p.id, $1, p.extension, pg_catalog.now() at time zone 'utc', pg_catalog.now() at time zone 'utc' \
     from (values ($2::text::uuid, 'broadcast'), ($3::text::uuid, 'presence')) as p (id, extension) \
     where p.id is not null";

/// The conditions are leakproof, so that policies are asked about the probes and no other row.
const VISIBLE: &str = "select id = $1::text::uuid, id = $2::text::uuid from realtime.messages \
     where id in ($1::text::uuid, $2::text::uuid) and inserted_at = (pg_catalog.now() at time zone 'utc')";

const INSERT: &str = "insert into realtime.messages (topic, extension, inserted_at, updated_at) \
     values ($1, $2, pg_catalog.now() at time zone 'utc', pg_catalog.now() at time zone 'utc')";

/// One row at least, for the snapshot; the function is stable, so that it reads in that same one.
/// What the snapshot sees committed before the position, which is read after it. Not the end of what was written: the
/// walsender sends what was flushed.
const REPLAY: &str = "select m.id::text, m.event, m.payload, m.binary_payload, s.snapshot::text, \
       pg_catalog.pg_current_wal_flush_lsn()::text \
     from pg_catalog.pg_current_snapshot() as s (snapshot) left join walcast.replay_messages($1, $2, $3, null) \
       with ordinality as m (id, event, payload, binary_payload, place) on true \
     order by m.place";

const REPLAY_THESE: &str = "select m.id::text, m.event, m.payload, m.binary_payload \
     from walcast.replay_messages($1, $2, $3, $4::text[]::uuid[]) as m";

const STORE: &str = "select walcast.store_message($1::text::uuid, $2, $3, $4, $5, $6)::text";

/// What policies tell apart besides broadcast and presence (protocol.md §5.7).
const PERSISTENCE: &str = "persistence";

/// The last millisecond that Postgres and everybody else can read: the end of the year 9999.
const SINCE_MAX: i64 = 253_402_300_799_999;

/// The connection can no longer be used; the question has no answer.
#[derive(Debug)]
pub(super) struct Gone;

#[derive(Debug)]
pub(super) struct Asker {
    client: Client,
    /// How long a statement may take.
    timeout: Duration,
    /// In which order rows were committed, as far as that is known.
    order: Arc<Order>,
    statements: HashMap<&'static str, Statement>,
    /// Whether [`PROBE`] may be called; `None`: not looked for yet.
    has_probe_function: Option<bool>,
}

/// Where in a question Postgres raised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// In what walcast brings along.
    Ours,
    /// When becoming the subscriber's role.
    Role,
    /// As the subscriber, that is, in policies.
    Subscriber,
}

/// A question that failed.
#[derive(Debug)]
struct Failed {
    stage: Stage,
    error: Error,
}

fn ours(error: Error) -> Failed {
    Failed {
        stage: Stage::Ours,
        error,
    }
}

type Parameters<'a> = [&'a (dyn ToSql + Sync)];

impl Asker {
    /// Takes over a connection.
    pub(super) async fn new(
        client: Client,
        timeout: Duration,
        order: Arc<Order>,
    ) -> Result<Self, Error> {
        // A generic plan would move the evaluation of stable expressions, and with it which errors are raised.
        let settings = format!(
            "set plan_cache_mode = force_custom_plan; set statement_timeout = {}",
            timeout.as_millis().max(1)
        );
        client.batch_execute(&settings).await?;
        Ok(Self {
            client,
            timeout,
            order,
            statements: HashMap::new(),
            has_probe_function: None,
        })
    }

    pub(super) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Answers one question.
    ///
    /// Not cancel safe: after a dropped call the connection must be dropped too.
    pub(super) async fn ask(
        &mut self,
        request: &Request,
    ) -> Result<Result<Answer, AskError>, Gone> {
        let patience = self
            .timeout
            .saturating_mul(2)
            .saturating_add(Duration::from_secs(1));
        let remembers = !self.statements.is_empty();
        let mut asked = self.answer_within(patience, request).await?;
        // What was installed when the statements were prepared may be gone; what is there now may still answer.
        if remembers
            && let Err(failed) = &asked
            && trouble(failed)? == AskError::NotInstalled
        {
            self.statements.clear();
            self.has_probe_function = None;
            asked = self.answer_within(patience, request).await?;
        }
        let failed = match asked {
            Ok(answer) => return Ok(Ok(answer)),
            Err(failed) => failed,
        };
        // What is installed may have changed.
        self.statements.clear();
        self.has_probe_function = None;
        let error = trouble(&failed)?;
        tracing::debug!(
            error = &failed.error as &dyn std::error::Error,
            stage = ?failed.stage,
            "a question about realtime.messages failed"
        );
        Ok(Err(error))
    }

    async fn answer_within(
        &mut self,
        patience: Duration,
        request: &Request,
    ) -> Result<Result<Answer, Failed>, Gone> {
        tokio::time::timeout(patience, self.answer(request))
            .await
            .map_err(|_elapsed| Gone)
    }

    async fn answer(&mut self, request: &Request) -> Result<Answer, Failed> {
        match &request.ask {
            Ask::Read { presence } | Ask::Reread { presence } => {
                self.read(request, *presence).await
            }
            Ask::Write(extension) => {
                let may = self.may_insert(request, extension.as_str()).await?;
                Ok(Answer::Write(may))
            }
            Ask::Replay { since, limit } => self.replay(request, *since, *limit).await,
            Ask::Persist {
                storing,
                event,
                data,
                ttl_seconds,
            } => {
                let id = if self.may_insert(request, PERSISTENCE).await? {
                    let row = (storing.id(), &**event, data);
                    Some(self.store(request, row, *ttl_seconds).await?)
                } else {
                    None
                };
                Ok(Answer::Persisted(id))
            }
        }
    }

    async fn prepare(&mut self, sql: &'static str) -> Result<Statement, Failed> {
        if let Some(statement) = self.statements.get(sql) {
            return Ok(statement.clone());
        }
        let statement = self.client.prepare(sql).await.map_err(ours)?;
        self.statements.insert(sql, statement.clone());
        Ok(statement)
    }

    /// Probe rows are inserted by whoever may, and looked for by the subscriber.
    async fn read(&mut self, request: &Request, presence: bool) -> Result<Answer, Failed> {
        let topic = request.room.topic.sub_topic();
        let probe_sql = if self.has_probe_function().await? {
            PROBE
        } else {
            PROBE_AS_LOGIN
        };
        let probe = self.prepare(probe_sql).await?;
        let visible = self.prepare(VISIBLE).await?;
        let broadcast_id = random_id();
        let presence_id = presence.then(random_id);
        let probed = self
            .as_subscriber(
                request,
                Some((&probe, &[&topic, &broadcast_id, &presence_id])),
                (&visible, &[&broadcast_id, &presence_id]),
            )
            .await;
        let rows = match probed {
            Ok(rows) => rows,
            Err(failed) if is_denied(&failed) => Vec::new(),
            Err(failed) => return Err(failed),
        };
        let sees = |column: usize| {
            (rows.iter())
                .any(|row| matches!(row.try_get::<_, Option<bool>>(column), Ok(Some(true))))
        };
        Ok(Answer::Read {
            broadcast: sees(0),
            presence: sees(1),
        })
    }

    async fn has_probe_function(&mut self) -> Result<bool, Failed> {
        if let Some(has) = self.has_probe_function {
            return Ok(has);
        }
        let row = self
            .client
            .query_one(HAS_PROBE_FUNCTION, &[])
            .await
            .map_err(ours)?;
        let has = row.try_get(0).map_err(ours)?;
        self.has_probe_function = Some(has);
        Ok(has)
    }

    /// Whether the subscriber may insert a row with this extension.
    async fn may_insert(&mut self, request: &Request, extension: &str) -> Result<bool, Failed> {
        let topic = request.room.topic.sub_topic();
        let insert = self.prepare(INSERT).await?;
        let inserted = self
            .as_subscriber(request, None, (&insert, &[&topic, &extension]))
            .await;
        match inserted {
            Ok(_none) => Ok(true),
            Err(failed) if is_denied(&failed) => Ok(false),
            Err(failed) => Err(failed),
        }
    }

    /// Runs `before` as the login and `question` as the subscriber, in one round trip, and rolls both back.
    async fn as_subscriber(
        &mut self,
        request: &Request,
        before: Option<(&Statement, &Parameters<'_>)>,
        question: (&Statement, &Parameters<'_>),
    ) -> Result<Vec<Row>, Failed> {
        let settings = self.prepare(SETTINGS).await?;
        let role = self.prepare(ROLE).await?;
        let claims = &request.claims;
        let (topic, json, name) = (request.room.topic.sub_topic(), &*claims.json, &*claims.role);
        // "none" is no role: it would be the login.
        let name = if name == "none" { "" } else { name };
        let subject = claims.subject.as_deref().unwrap_or_default();
        let headers = &*request.headers;
        let values: [&(dyn ToSql + Sync); 5] = [&topic, &json, &subject, &name, &headers];
        let named: [&(dyn ToSql + Sync); 1] = [&name];
        let client = &self.client;
        let before = async {
            match before {
                Some((statement, parameters)) => {
                    client.query(statement, parameters).await.map(drop)
                }
                None => Ok(()),
            }
        };
        // Polled, and thereby sent, in this order. After an error Postgres answers the rest with errors, up to the
        // rollback, so that the question never has an answer that was given to another role.
        let prelude = join3(
            client.batch_execute(BEGIN),
            client.query(&settings, &values),
            before,
        );
        let question = join3(
            client.query(&role, &named),
            client.query(question.0, question.1),
            client.batch_execute("rollback"),
        );
        let ((begun, set, probed), (became, asked, left)) = join(prelude, question).await;
        begun.map_err(ours)?;
        set.map_err(ours)?;
        probed.map_err(ours)?;
        became.map_err(|error| Failed {
            stage: Stage::Role,
            error,
        })?;
        let rows = asked.map_err(|error| Failed {
            stage: Stage::Subscriber,
            error,
        })?;
        left.map_err(ours)?;
        Ok(rows)
    }

    /// Whether the channel may read was asked before.
    async fn replay(&mut self, request: &Request, since: i64, limit: u8) -> Result<Answer, Failed> {
        let replay = self.prepare(REPLAY).await?;
        let topic = request.room.topic.sub_topic();
        let (since, limit) = (since.clamp(0, SINCE_MAX), usize::from(limit));
        let count = i32::try_from(limit).unwrap_or(i32::MAX);
        let rows = self
            .client
            .query(&replay, &[&topic, &since, &count])
            .await
            .map_err(ours)?;
        let found = stored(&rows).map_err(ours)?;
        let Some((snapshot, position)) = rows.first().and_then(read_in) else {
            return Ok(Answer::Replayed {
                stored: found,
                snapshot: None,
            });
        };
        self.order.reach(position).await;
        let newest = self.order.newest(topic, &snapshot, limit);
        let mut more = Vec::new();
        // Of a transaction that began long ago the table alone does not tell that it is new.
        let missing = replay::missing(&found, &newest, limit);
        if !missing.is_empty() {
            let these = self.prepare(REPLAY_THESE).await?;
            let rows = self
                .client
                .query(&these, &[&topic, &since, &count, &missing])
                .await
                .map_err(ours)?;
            more = stored(&rows).map_err(ours)?;
        }
        Ok(Answer::Replayed {
            stored: replay::arrange(found, more, &newest, limit),
            snapshot: Some(snapshot),
        })
    }

    async fn store(
        &mut self,
        request: &Request,
        (id, event, data): (&str, &str, &StoredData),
        ttl_seconds: u32,
    ) -> Result<Box<str>, Failed> {
        let store = self.prepare(STORE).await?;
        let topic = request.room.topic.sub_topic();
        let (json, binary) = match data {
            // JSON is UTF-8; anything else is refused by the cast.
            StoredData::Json(json) => (Some(String::from_utf8_lossy(json)), None),
            StoredData::Binary(bytes) => (None, Some(&**bytes)),
        };
        let json = json.as_deref();
        let seconds = i32::try_from(ttl_seconds).unwrap_or(i32::MAX);
        let row = self
            .client
            .query_one(&store, &[&id, &topic, &event, &json, &binary, &seconds])
            .await
            .map_err(ours)?;
        let id: &str = row.try_get(0).map_err(ours)?;
        Ok(id.into())
    }
}

/// What was stored: all rows but one that only holds the snapshot.
fn stored(rows: &[Row]) -> Result<Vec<Stored>, Error> {
    let mut all = Vec::with_capacity(rows.len());
    for row in rows {
        let Some(id) = row.try_get::<_, Option<&str>>(0)? else {
            continue;
        };
        let text: Option<&str> = row.try_get(2)?;
        let data = match text {
            Some(json) => StoredData::Json(Bytes::copy_from_slice(json.as_bytes())),
            None => {
                let bytes: Option<&[u8]> = row.try_get(3)?;
                StoredData::Binary(Bytes::copy_from_slice(bytes.unwrap_or_default()))
            }
        };
        all.push(Stored {
            id: id.into(),
            event: row.try_get::<_, &str>(1)?.into(),
            data,
        });
    }
    Ok(all)
}

/// The snapshot of a replay, and the position before which everything committed that it sees.
fn read_in(row: &Row) -> Option<(Snapshot, Lsn)> {
    let snapshot = row.try_get::<_, &str>(4).ok()?.parse().ok()?;
    let position = row.try_get::<_, &str>(5).ok()?.parse().ok()?;
    Some((snapshot, position))
}

/// A random UUID (version 4) as 32 digits.
fn random_id() -> String {
    let bits: u128 = rand::random();
    let version = (bits & !(0xf << 76)) | (0x4 << 76);
    let variant = (version & !(0x3 << 62)) | (0x2 << 62);
    format!("{variant:032x}")
}

/// Whether somebody lacks a right: a policy says no, a grant is missing, or the role is none that we may become.
fn is_denied(failed: &Failed) -> bool {
    let Some(code) = failed.error.code() else {
        return false;
    };
    match failed.stage {
        Stage::Ours => false,
        Stage::Role => {
            *code == SqlState::INSUFFICIENT_PRIVILEGE
                || *code == SqlState::INVALID_PARAMETER_VALUE
                || *code == SqlState::UNDEFINED_OBJECT
        }
        Stage::Subscriber => *code == SqlState::INSUFFICIENT_PRIVILEGE,
    }
}

/// What an error says about the question; [`Gone`] if it says something about the connection instead.
fn trouble(failed: &Failed) -> Result<AskError, Gone> {
    let Some(error) = failed.error.as_db_error() else {
        return Err(Gone);
    };
    let code = error.code();
    // The session ends with these.
    if let Some(Severity::Fatal | Severity::Panic) = error.parsed_severity() {
        return Err(Gone);
    }
    // Postgres names no constraint when it finds no partition.
    let misses_partition = *code == SqlState::CHECK_VIOLATION
        && error.constraint().is_none()
        && error.schema() == Some("realtime")
        && error.table() == Some("messages");
    let is_installed = failed.stage != Stage::Ours
        || ![
            SqlState::UNDEFINED_TABLE,
            SqlState::INVALID_SCHEMA_NAME,
            SqlState::UNDEFINED_FUNCTION,
            SqlState::UNDEFINED_COLUMN,
            SqlState::INSUFFICIENT_PRIVILEGE,
        ]
        .contains(code);
    Ok(match code {
        _ if misses_partition => AskError::MissingPartition,
        _ if !is_installed => AskError::NotInstalled,
        code if *code == SqlState::QUERY_CANCELED || *code == SqlState::LOCK_NOT_AVAILABLE => {
            AskError::Cancelled
        }
        code if *code == SqlState::TOO_MANY_CONNECTIONS => AskError::TooManyConnections,
        code if *code == SqlState::READ_ONLY_SQL_TRANSACTION => AskError::Unreachable,
        _ => AskError::Policy(error.message().into()),
    })
}
