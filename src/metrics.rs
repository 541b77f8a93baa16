//! What is counted, as typed handles; names, units and labels stand here and nowhere else.
//!
//! Families that dashboards for this field already know keep their names (protocol.md §8.3), also where OpenMetrics
//! would add `_total`; those are exposed as untyped. Everything else begins with `walcast_`.

mod sizes;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, EncodeMetric, MetricEncoder, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
pub use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::{MetricType, TypedMetric};
use prometheus_client::registry::{Registry, Unit};

use self::sizes::AllSizes;
pub use self::sizes::{PayloadSizes, SizeCounts};

/// A counter whose name has no `_total`, as the field's dashboards expect it.
#[derive(Clone, Debug, Default)]
pub struct Plain(Counter);

impl Plain {
    /// Adds one.
    pub fn inc(&self) {
        self.0.inc();
    }

    /// Adds `count`.
    pub fn inc_by(&self, count: u64) {
        self.0.inc_by(count);
    }

    /// The count so far.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.get()
    }
}

impl EncodeMetric for Plain {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        encoder.encode_gauge(&self.0.get())
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

impl TypedMetric for Plain {
    const TYPE: MetricType = MetricType::Unknown;
}

/// Brings a counter up to a count that is kept elsewhere. It never goes back.
pub fn raise(counter: &Counter, count: u64) {
    counter.inner().fetch_max(count, Ordering::Relaxed);
}

/// Upper bounds in milliseconds: finely where a healthy server is, coarsely up to where nobody waits any more.
const LATENCY_BUCKETS: [f64; 14] = [
    1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10_000.0,
    60_000.0,
];

/// Upper bounds in milliseconds of what takes no time as a rule.
const HANDLING_BUCKETS: [f64; 11] = [
    0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0, 20.0, 100.0, 500.0, 2000.0,
];

/// Adds a duration to a histogram of milliseconds.
pub fn observe(histogram: &Histogram, time: Duration) {
    histogram.observe(time.as_secs_f64() * 1000.0);
}

/// What is observed of a broadcast from the database. Clones are one.
#[derive(Clone, Debug)]
pub struct DatabaseBroadcasts {
    /// Milliseconds between its commit and its being said, by the two machines' clocks.
    pub since_commit: Histogram,
    /// The same from its `inserted_at` on.
    pub since_insert: Histogram,
    /// Its payload.
    pub sizes: PayloadSizes,
}

/// How long the database took for questions about `realtime.messages`, in milliseconds. Clones are one.
#[derive(Clone, Debug)]
pub struct QuestionTimes {
    /// Whether somebody may read.
    pub read: Histogram,
    /// Whether somebody may send, and what is stored once that is known.
    pub write: Histogram,
    /// What was stored.
    pub replay: Histogram,
}

/// The label of a family by kind of message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct MessageType {
    /// From a closed set.
    pub message_type: &'static str,
}

/// The label of a family by kind of error: a code of protocol.md §8.2, or a close code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Code {
    /// From a closed set; never a text that a client sent.
    pub code: &'static str,
}

/// The label of a family by outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Outcome {
    /// From a closed set.
    pub result: &'static str,
}

/// The labels of a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Verdict {
    /// From a closed set.
    pub source: &'static str,
    /// From a closed set.
    pub result: &'static str,
}

/// The label of a family by table.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OfTable {
    /// Schema and name, of a bounded number of tables; `other` for the rest.
    pub table: String,
}

/// The labels of what became of a table's policies for a role.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OfPlan {
    /// Schema and name, of a bounded number of tables; `other` for the rest.
    pub table: String,
    /// The role, or `other`.
    pub role: String,
    /// `compiled` or `postgres`.
    pub source: &'static str,
}

/// The labels of the verdicts on one table.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct TableVerdict {
    /// As [`OfTable`].
    pub table: String,
    /// From a closed set.
    pub source: &'static str,
    /// From a closed set.
    pub result: &'static str,
}

/// The labels of the time that verdicts on one table took.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct TableSource {
    /// As [`OfTable`].
    pub table: String,
    /// From a closed set.
    pub source: &'static str,
}

/// The label of a family by why something was withheld.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Reason {
    /// From a closed set.
    pub reason: &'static str,
}

/// The label of a family by HTTP endpoint and status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Request {
    /// From a closed set; never a path.
    pub endpoint: &'static str,
    /// From a closed set.
    pub status: &'static str,
}

/// All metrics. Handles are shared and may be written from anywhere.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,

    /// Sockets with at least one channel.
    pub connections_connected: Gauge,
    /// Open sockets, with or without channels.
    pub connections_active: Gauge,
    /// Most sockets that may be open.
    pub connections_max: Gauge,
    /// Sockets ever accepted.
    pub connections: Plain,
    /// Sockets refused before the upgrade, by HTTP status.
    pub connections_refused: Family<Code, Counter>,
    /// Sockets that the server closed, by close code.
    pub connections_closed: Family<Code, Counter>,

    /// Joins answered with ok.
    pub channel_joins: Plain,
    /// Joins by outcome.
    pub channel_joined: Family<Outcome, Plain>,
    /// What went wrong for channels, by code (docs/errors.md).
    pub channel_errors: Family<Code, Plain>,
    /// Messages received from clients.
    pub channel_events: Plain,
    /// Requests to send broadcasts over HTTP.
    pub broadcast_requests: Family<Request, Counter>,
    /// Change frames written to sockets.
    pub channel_db_events: Plain,
    /// Broadcast frames written to sockets.
    pub broadcasts_delivered: Counter,
    /// Metas that came or left, each time that a socket was told.
    pub channel_presence_events: Plain,
    /// Rooms with members.
    pub rooms: Gauge,
    /// Channels that are in a room.
    pub room_members: Gauge,
    /// Those of them that are present.
    pub presences: Gauge,
    /// 1 while a socket has a channel, else 0: there is one tenant.
    pub tenants_connected: Gauge,
    /// Milliseconds from a request to the answer that makes it a socket.
    pub connected_in: Histogram,
    /// Milliseconds that messages from clients took, without what the database is asked.
    pub handled_in: Histogram,
    /// Payloads of broadcasts from sockets and over HTTP.
    pub broadcast_sizes: PayloadSizes,
    /// What is tracked.
    pub presence_sizes: PayloadSizes,
    /// Row changes, each as it was encoded for somebody.
    pub change_sizes: PayloadSizes,
    payload_sizes: Family<MessageType, PayloadSizes>,
    /// Bytes read from sockets, framing included.
    pub input_bytes: Plain,
    /// Bytes written to sockets, framing included.
    pub output_bytes: Plain,

    /// Channel memberships with bindings.
    pub subscribers: Gauge,
    /// Distinct identities among them.
    pub identities: Gauge,
    /// Changes decoded from the stream, after the net effect of their transactions.
    pub changes_received: Counter,
    /// Changes posted to memberships: one change to ten memberships counts ten.
    pub changes_delivered: Counter,
    /// Changes of one row that were delivered as one, because the row had moved on when Postgres was asked.
    pub changes_merged: Counter,
    /// Changes withheld from an identity, by why.
    pub changes_denied: Family<Reason, Counter>,
    /// Questions that Postgres answered or failed to answer, by outcome.
    pub questions: Family<Outcome, Counter>,
    /// Verdicts, each about one change and one identity, by where they came from and what they were.
    pub verdicts: Family<Verdict, Counter>,
    /// Tables that compiled policies look into and that can be looked into now.
    pub shadow_tables: Gauge,
    /// Their rows.
    pub shadow_rows: Gauge,
    /// Bytes of these rows and their indexes.
    pub shadow_bytes: Gauge,
    /// The policies of tables with subscribers, by role and by what judges them.
    pub plans: Family<OfPlan, Gauge>,
    /// Verdicts by table, where they came from and what they were.
    pub table_verdicts: Family<TableVerdict, Counter>,
    /// Seconds that they took: ours in memory, Postgres' own for questions.
    pub table_verdict_seconds: Family<TableSource, Counter<f64, AtomicU64>>,
    /// Rows in memory of each table that compiled policies look into.
    pub table_shadow_rows: Family<OfTable, Gauge>,
    /// Bytes of these rows and their indexes.
    pub table_shadow_bytes: Family<OfTable, Gauge>,
    /// Snapshots for joins that asked for one, by outcome.
    pub snapshots: Family<Outcome, Counter>,
    /// Rows of snapshots that were handed over.
    pub snapshot_rows: Counter,
    /// Bytes of such rows that wait for their sockets, or are set aside for such.
    pub snapshot_bytes: Gauge,
    /// Channels told to start over, by why.
    pub resyncs: Family<Reason, Counter>,
    /// Transactions consumed.
    pub transactions: Counter,

    /// Rows of `realtime.messages` that were said in their rooms.
    pub broadcasts_from_database: Counter,
    /// Rows of `realtime.messages` that could not be, by why.
    pub broadcasts_unsendable: Family<Reason, Counter>,
    /// How they were said.
    pub database_broadcasts: DatabaseBroadcasts,
    /// Questions about `realtime.messages`.
    pub question_times: QuestionTimes,

    /// Bytes received from Postgres while streaming.
    pub replication_bytes: Counter,
    /// Bytes of WAL between the server's end and what was confirmed; a few seconds old.
    pub replication_lag_bytes: Gauge,
    /// Seconds between the commit of the last transaction and its receipt, by the two machines' clocks.
    pub replication_lag_seconds: Gauge<f64, AtomicU64>,
    /// Bytes of WAL that the slot keeps on the server; a few seconds old.
    pub retained_wal_bytes: Gauge,
    /// Times that the replication connection was made anew.
    pub replication_reconnects: Counter,
    /// Times that positions began anew: a lost slot, a failover, a restored database.
    pub replication_epochs: Counter,
    /// 1 while changes flow, else 0.
    pub ready: Gauge,
    /// 1 while broadcasts from the database flow, else 0.
    pub broadcasts_ready: Gauge,
    /// Bytes of payloads in memory.
    pub log_bytes: Gauge,
    /// Bytes of payloads that memory had no room for.
    pub log_file_bytes: Gauge,
    /// Bytes of recent transactions in memory.
    pub history_bytes: Gauge,
    /// Bytes of recent transactions that are too large for it.
    pub history_file_bytes: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Registers every family.
    #[must_use]
    pub fn new() -> Self {
        let mut metrics = Self::unregistered();
        let mut registry = std::mem::take(&mut metrics.registry);
        metrics.register_sockets(&mut registry);
        metrics.register_pipeline(&mut registry);
        metrics.registry = registry;
        metrics
    }

    fn unregistered() -> Self {
        let payload_sizes: Family<MessageType, PayloadSizes> = Family::default();
        let sizes = |message_type| {
            payload_sizes
                .get_or_create(&MessageType { message_type })
                .clone()
        };
        let latency = || Histogram::new(LATENCY_BUCKETS);
        let broadcast_sizes = sizes("broadcast");
        Self {
            registry: Registry::default(),
            connections_connected: Gauge::default(),
            connections_active: Gauge::default(),
            connections_max: Gauge::default(),
            connections: Plain::default(),
            connections_refused: Family::default(),
            connections_closed: Family::default(),
            channel_joins: Plain::default(),
            channel_joined: Family::default(),
            channel_errors: Family::default(),
            channel_events: Plain::default(),
            broadcast_requests: Family::default(),
            channel_db_events: Plain::default(),
            broadcasts_delivered: Counter::default(),
            channel_presence_events: Plain::default(),
            rooms: Gauge::default(),
            room_members: Gauge::default(),
            presences: Gauge::default(),
            input_bytes: Plain::default(),
            output_bytes: Plain::default(),
            subscribers: Gauge::default(),
            changes_received: Counter::default(),
            changes_delivered: Counter::default(),
            changes_denied: Family::default(),
            questions: Family::default(),
            verdicts: Family::default(),
            shadow_tables: Gauge::default(),
            shadow_rows: Gauge::default(),
            shadow_bytes: Gauge::default(),
            plans: Family::default(),
            table_verdicts: Family::default(),
            table_verdict_seconds: Family::default(),
            table_shadow_rows: Family::default(),
            table_shadow_bytes: Family::default(),
            snapshots: Family::default(),
            snapshot_rows: Counter::default(),
            snapshot_bytes: Gauge::default(),
            resyncs: Family::default(),
            transactions: Counter::default(),
            replication_lag_bytes: Gauge::default(),
            replication_lag_seconds: Gauge::default(),
            retained_wal_bytes: Gauge::default(),
            replication_reconnects: Counter::default(),
            ready: Gauge::default(),
            broadcasts_ready: Gauge::default(),
            broadcasts_from_database: Counter::default(),
            broadcasts_unsendable: Family::default(),
            database_broadcasts: DatabaseBroadcasts {
                since_commit: latency(),
                since_insert: latency(),
                sizes: broadcast_sizes.clone(),
            },
            question_times: QuestionTimes {
                read: latency(),
                write: latency(),
                replay: latency(),
            },
            tenants_connected: Gauge::default(),
            connected_in: latency(),
            handled_in: Histogram::new(HANDLING_BUCKETS),
            broadcast_sizes,
            presence_sizes: sizes("presence"),
            change_sizes: sizes("postgres_changes"),
            payload_sizes,
            changes_merged: Counter::default(),
            identities: Gauge::default(),
            replication_bytes: Counter::default(),
            replication_epochs: Counter::default(),
            log_bytes: Gauge::default(),
            log_file_bytes: Gauge::default(),
            history_bytes: Gauge::default(),
            history_file_bytes: Gauge::default(),
        }
    }

    #[rustfmt::skip]
    fn register_sockets(&self, to: &mut Registry) {
        to.register("realtime_connections_connected", "Sockets with at least one channel", self.connections_connected.clone());
        to.register("phoenix_connections_active", "Open sockets", self.connections_active.clone());
        to.register("phoenix_connections_max", "Most sockets that may be open", self.connections_max.clone());
        to.register("phoenix_connections_total", "Sockets ever accepted", self.connections.clone());
        to.register("walcast_connections_refused", "Sockets refused before the upgrade, by HTTP status", self.connections_refused.clone());
        to.register("walcast_connections_closed", "Sockets closed by the server, by close code", self.connections_closed.clone());
        to.register("realtime_channel_joins", "Joins answered with ok", self.channel_joins.clone());
        to.register("phoenix_channel_joined_total", "Joins by outcome", self.channel_joined.clone());
        to.register("realtime_channel_error", "Join errors and system errors by code", self.channel_errors.clone());
        to.register("realtime_channel_events", "Messages received from clients", self.channel_events.clone());
        to.register("walcast_broadcast_requests", "Requests to send broadcasts over HTTP, by endpoint and status", self.broadcast_requests.clone());
        to.register("realtime_channel_db_events", "Change frames written to sockets", self.channel_db_events.clone());
        to.register("walcast_broadcasts_delivered", "Broadcast frames written to sockets", self.broadcasts_delivered.clone());
        to.register("realtime_channel_presence_events", "Presence metas that came or left, each time that a socket was told", self.channel_presence_events.clone());
        to.register("walcast_rooms", "Rooms with members", self.rooms.clone());
        to.register("walcast_room_members", "Channels that are in a room", self.room_members.clone());
        to.register("walcast_presences", "Channels that are present in their room", self.presences.clone());
        to.register("realtime_channel_input_bytes", "Bytes read from sockets", self.input_bytes.clone());
        to.register("realtime_channel_output_bytes", "Bytes written to sockets", self.output_bytes.clone());
        to.register("realtime_payload_size", "Bytes of payloads", self.all_sizes());
        to.register("realtime_tenants_payload_size", "Bytes of payloads by kind of message", self.payload_sizes.clone());
        to.register("phoenix_socket_connected_duration_milliseconds", "From a request to its answer", self.connected_in.clone());
        to.register("phoenix_channel_handled_in_duration_milliseconds", "Time that messages from clients took", self.handled_in.clone());
        self.register_globals(to);
    }

    fn all_sizes(&self) -> AllSizes {
        let kinds = [
            &self.broadcast_sizes,
            &self.presence_sizes,
            &self.change_sizes,
        ];
        AllSizes(kinds.map(Clone::clone).into())
    }

    /// What is counted per tenant, per node and over all of them: there is one of each.
    #[rustfmt::skip]
    fn register_globals(&self, to: &mut Registry) {
        to.register("realtime_connections_connected_cluster", "Sockets with at least one channel", self.connections_connected.clone());
        to.register("realtime_connections_global_connected", "Sockets with at least one channel", self.connections_connected.clone());
        to.register("realtime_connections_global_connected_cluster", "Sockets with at least one channel", self.connections_connected.clone());
        to.register("realtime_tenants_connected", "1 while a socket has a channel", self.tenants_connected.clone());
        to.register("realtime_channel_global_joins", "Joins answered with ok", self.channel_joins.clone());
        to.register("realtime_channel_global_events", "Messages received from clients", self.channel_events.clone());
        to.register("realtime_channel_global_presence_events", "Presence metas that came or left, each time that a socket was told", self.channel_presence_events.clone());
        to.register("realtime_channel_global_db_events", "Change frames written to sockets", self.channel_db_events.clone());
        to.register("realtime_channel_global_input_bytes", "Bytes read from sockets", self.input_bytes.clone());
        to.register("realtime_channel_global_output_bytes", "Bytes written to sockets", self.output_bytes.clone());
        to.register("realtime_channel_global_error", "Join errors and system errors by code", self.channel_errors.clone());
    }

    #[rustfmt::skip]
    fn register_pipeline(&self, to: &mut Registry) {
        to.register("realtime_subscriptions_manager_subscribers", "Channel memberships with bindings", self.subscribers.clone());
        to.register("walcast_changes_received", "Changes decoded from the stream", self.changes_received.clone());
        to.register("walcast_changes_delivered", "Changes posted to memberships", self.changes_delivered.clone());
        to.register("walcast_identities", "Distinct identities of subscribers", self.identities.clone());
        to.register("walcast_changes_merged", "Changes delivered as part of a later one of their row", self.changes_merged.clone());
        to.register("walcast_changes_denied", "Changes withheld from an identity, by reason", self.changes_denied.clone());
        to.register("walcast_questions", "Questions to Postgres that ended, by outcome", self.questions.clone());
        to.register("walcast_verdicts", "Verdicts on one change for one identity, by source and result; audience: passed over", self.verdicts.clone());
        to.register("walcast_shadow_tables", "Tables that compiled policies can look into", self.shadow_tables.clone());
        to.register("walcast_shadow_rows", "Rows of these tables in memory", self.shadow_rows.clone());
        to.register_with_unit("walcast_shadow", "Rows of these tables and their indexes", Unit::Bytes, self.shadow_bytes.clone());
        to.register("walcast_plans", "Policies of a table for a role with subscribers, by what judges them", self.plans.clone());
        to.register("walcast_table_verdicts", "Verdicts by table, source and result", self.table_verdicts.clone());
        to.register_with_unit("walcast_table_verdict", "Time that verdicts took, by table and source", Unit::Seconds, self.table_verdict_seconds.clone());
        to.register("walcast_table_shadow_rows", "Rows in memory, by the table that compiled policies look into", self.table_shadow_rows.clone());
        to.register_with_unit("walcast_table_shadow", "These rows and their indexes, by table", Unit::Bytes, self.table_shadow_bytes.clone());
        to.register("walcast_snapshots", "Snapshots for joins that asked for one, by outcome", self.snapshots.clone());
        to.register("walcast_snapshot_rows", "Rows of snapshots that were handed over", self.snapshot_rows.clone());
        to.register_with_unit("walcast_snapshot", "Rows of snapshots that wait for their sockets, or are set aside for such", Unit::Bytes, self.snapshot_bytes.clone());
        to.register("walcast_resyncs", "Channels told to start over, by reason", self.resyncs.clone());
        to.register("walcast_transactions", "Transactions consumed", self.transactions.clone());
        to.register("walcast_broadcasts_from_database", "Rows of realtime.messages that were broadcast", self.broadcasts_from_database.clone());
        to.register("walcast_broadcasts_unsendable", "Rows of realtime.messages that could not be broadcast, by reason", self.broadcasts_unsendable.clone());
        to.register("realtime_tenants_broadcast_from_database_latency_committed_at", "Milliseconds from the commit of a broadcast to its rooms", self.database_broadcasts.since_commit.clone());
        to.register("realtime_tenants_broadcast_from_database_latency_inserted_at", "Milliseconds from inserted_at of a broadcast to its rooms", self.database_broadcasts.since_insert.clone());
        to.register("realtime_tenants_replay", "Milliseconds that the database took for what is replayed", self.question_times.replay.clone());
        to.register("realtime_tenants_read_authorization_check", "Milliseconds that the database took to say who may read", self.question_times.read.clone());
        to.register("realtime_tenants_write_authorization_check", "Milliseconds that the database took to say who may send, and to store that", self.question_times.write.clone());
        to.register_with_unit("walcast_replication_lag", "WAL that is not confirmed yet", Unit::Bytes, self.replication_lag_bytes.clone());
        to.register_with_unit("walcast_replication_lag", "Age of the last transaction when it was received", Unit::Seconds, self.replication_lag_seconds.clone());
        to.register_with_unit("walcast_retained_wal", "WAL that the slot keeps on the server", Unit::Bytes, self.retained_wal_bytes.clone());
        to.register("walcast_replication_reconnects", "Times that the replication connection was made anew", self.replication_reconnects.clone());
        to.register("walcast_replication_epochs", "Times that positions began anew", self.replication_epochs.clone());
        to.register_with_unit("walcast_replication_received", "Received from Postgres while streaming", Unit::Bytes, self.replication_bytes.clone());
        to.register("walcast_ready", "1 while changes flow", self.ready.clone());
        to.register("walcast_broadcasts_ready", "1 while broadcasts from the database flow", self.broadcasts_ready.clone());
        to.register_with_unit("walcast_log", "Payloads in memory", Unit::Bytes, self.log_bytes.clone());
        to.register_with_unit("walcast_history", "Recent transactions in memory", Unit::Bytes, self.history_bytes.clone());
        to.register_with_unit("walcast_history_file", "Recent transactions that are too large for memory", Unit::Bytes, self.history_file_bytes.clone());
        to.register_with_unit("walcast_log_file", "Payloads that memory had no room for", Unit::Bytes, self.log_file_bytes.clone());
    }

    /// The OpenMetrics text of all families.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut out = String::new();
        // Writing into a String cannot fail; what was written is the best answer if a metric's own code says it did.
        let _written = text::encode(&mut out, &self.registry);
        out
    }
}

/// Brings a counter of seconds up to a sum that is kept elsewhere. It never goes back.
pub fn raise_seconds(counter: &Counter<f64, AtomicU64>, seconds: f64) {
    let missing = seconds - counter.get();
    if missing > 0.0 {
        counter.inc_by(missing);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_names_are_exposed_without_a_suffix() {
        let metrics = Metrics::new();
        metrics.channel_joins.inc_by(3);
        metrics
            .channel_errors
            .get_or_create(&Code {
                code: "Unauthorized",
            })
            .inc();
        metrics.changes_received.inc();
        let text = metrics.encode();
        assert!(text.contains("\nrealtime_channel_joins 3\n"), "{text}");
        assert!(text.contains("\nrealtime_channel_error{code=\"Unauthorized\"} 1\n"));
        assert!(text.contains("\nwalcast_changes_received_total 1\n"));
        assert!(text.contains("\nwalcast_replication_lag_bytes 0\n"));
    }
}
