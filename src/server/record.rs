//! What sockets report and the pipeline counts, into the metrics.

use std::sync::atomic::Ordering;

use axum::http::StatusCode;

use crate::metrics::{
    Code, Metrics, OfPlan, OfTable, Outcome, Reason, Request, TableSource, TableVerdict, Verdict,
    raise, raise_seconds,
};
use crate::pipeline::{Handle, PolicyState};
use crate::realtime::{Deliveries, ErrorCode, ResyncReason, RoomRequest, Tally};
use crate::rooms::Sizes;

/// A socket was closed by us.
pub(super) fn closed(metrics: &Metrics, code: u16) {
    let label = Code {
        code: close_label(code),
    };
    metrics.connections_closed.get_or_create(&label).inc();
}

fn close_label(code: u16) -> &'static str {
    match code {
        1000 => "1000",
        1001 => "1001",
        1002 => "1002",
        1007 => "1007",
        1009 => "1009",
        1012 => "1012",
        1013 => "1013",
        _ => "other",
    }
}

/// A request to send over HTTP was answered.
pub(super) fn broadcast_request(metrics: &Metrics, endpoint: &'static str, status: StatusCode) {
    let label = Request {
        endpoint,
        status: status_label(status),
    };
    metrics.broadcast_requests.get_or_create(&label).inc();
}

fn status_label(status: StatusCode) -> &'static str {
    match status.as_u16() {
        202 => "202",
        400 => "400",
        401 => "401",
        403 => "403",
        408 => "408",
        413 => "413",
        415 => "415",
        422 => "422",
        429 => "429",
        500 => "500",
        503 => "503",
        _ => "other",
    }
}

/// Something that a socket counts.
pub(super) fn tally(metrics: &Metrics, tally: Tally) {
    let joined = |result| {
        let outcome = Outcome { result };
        metrics.channel_joined.get_or_create(&outcome).inc();
    };
    let error = |code: ErrorCode| {
        let code = Code { code: code.name() };
        metrics.channel_errors.get_or_create(&code).inc();
    };
    match tally {
        Tally::Joined => {
            metrics.channel_joins.inc();
            joined("ok");
        }
        Tally::JoinRefused(code) => {
            joined("error");
            error(code);
        }
        Tally::Error(code) => error(code),
        Tally::Resync(reason) => {
            let reason = Reason {
                reason: resync_label(reason),
            };
            metrics.resyncs.get_or_create(&reason).inc();
        }
        Tally::Changes(count) => {
            let count = u64::try_from(count).unwrap_or(u64::MAX);
            metrics.channel_db_events.inc_by(count);
        }
        Tally::Message => metrics.channel_events.inc(),
    }
}

/// What a socket was sent.
pub(super) fn deliveries(metrics: &Metrics, deliveries: Deliveries) {
    let Deliveries {
        broadcasts,
        presence_events,
    } = deliveries;
    // The counters are shared by all sockets: most turns have nothing to add.
    if broadcasts > 0 {
        metrics.broadcasts_delivered.inc_by(broadcasts);
    }
    if presence_events > 0 {
        metrics.channel_presence_events.inc_by(presence_events);
    }
}

/// What a membership does in its room.
pub(super) fn said(metrics: &Metrics, request: &RoomRequest) {
    match request {
        RoomRequest::Say { message, .. } => {
            metrics.broadcast_sizes.observe(message.payload_bytes());
        }
        RoomRequest::Track { payload, .. } => metrics.presence_sizes.observe(payload.get().len()),
        RoomRequest::Enter(_)
        | RoomRequest::EnterReplaying(_)
        | RoomRequest::Leave
        | RoomRequest::Untrack
        | RoomRequest::State => {}
    }
}

const fn resync_label(reason: ResyncReason) -> &'static str {
    match reason {
        ResyncReason::PositionGone => "position_gone",
        ResyncReason::SlotRecreated => "slot_recreated",
        ResyncReason::FailedOver => "failed_over",
        ResyncReason::TransactionTooLarge => "transaction_too_large",
        ResyncReason::VerdictUnknown => "verdict_unknown",
        ResyncReason::IdentityChanged => "identity_changed",
    }
}

/// Tables in memory that are shown by themselves.
const SHADOWS_MAX: usize = 200;
/// Plans that are.
const PLANS_MAX: usize = 400;

/// Brings what is counted by table up to date.
pub(super) fn refresh_tables(metrics: &Metrics, state: &PolicyState) {
    for work in &state.verdicts {
        for (source, work_of) in [
            ("compiled", work.compiled),
            ("audience", work.audience),
            ("postgres", work.postgres),
        ] {
            let judged = work_of.judged;
            for (result, count) in [
                ("allowed", judged.allowed),
                ("denied", judged.denied),
                ("raised", judged.raised),
                ("undecided", judged.undecided),
            ] {
                let table = work.table.to_string();
                let label = TableVerdict {
                    table,
                    source,
                    result,
                };
                raise(&metrics.table_verdicts.get_or_create(&label), count);
            }
            let table = work.table.to_string();
            let seconds = std::time::Duration::from_micros(work_of.micros).as_secs_f64();
            let label = TableSource { table, source };
            raise_seconds(
                &metrics.table_verdict_seconds.get_or_create(&label),
                seconds,
            );
        }
    }
    // Tables come and go.
    metrics.plans.clear();
    for (place, plan) in state.plans.iter().enumerate() {
        let (table, role) = if place < PLANS_MAX {
            (&*plan.table, &*plan.role)
        } else {
            ("other", "other")
        };
        let label = OfPlan {
            table: table.to_owned(),
            role: role.to_owned(),
            source: if plan.compiled {
                "compiled"
            } else {
                "postgres"
            },
        };
        metrics.plans.get_or_create(&label).inc();
    }
    metrics.table_shadow_rows.clear();
    metrics.table_shadow_bytes.clear();
    let size = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    for (place, shadow) in state.shadows.iter().enumerate() {
        let table = if place < SHADOWS_MAX {
            shadow.table.to_string()
        } else {
            "other".to_owned()
        };
        let label = OfTable { table };
        let rows = metrics.table_shadow_rows.get_or_create(&label);
        rows.inc_by(size(shadow.rows));
        drop(rows);
        let bytes = metrics.table_shadow_bytes.get_or_create(&label);
        bytes.inc_by(size(shadow.bytes));
    }
}

/// Brings what the pipeline counts up to date. Called when somebody reads the metrics; in between they rest.
pub(super) fn refresh(metrics: &Metrics, pipeline: &Handle, rooms: Sizes) {
    let (ready, broadcasts, totals) = {
        let status = pipeline.status.borrow();
        (status.ready, status.broadcasts, status.totals)
    };
    let gauge = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    metrics.ready.set(i64::from(ready));
    metrics.broadcasts_ready.set(i64::from(broadcasts));
    let size = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    let is_connected = metrics.connections_connected.get() > 0;
    metrics.tenants_connected.set(i64::from(is_connected));
    metrics.rooms.set(size(rooms.rooms));
    metrics.room_members.set(size(rooms.members));
    metrics.presences.set(size(rooms.tracked));
    metrics.subscribers.set(gauge(totals.subscribers));
    metrics.identities.set(gauge(totals.lanes));
    raise(&metrics.transactions, totals.transactions);
    raise(&metrics.changes_received, totals.changes);
    raise(&metrics.changes_delivered, totals.delivered);
    raise(&metrics.changes_merged, totals.merged);
    metrics.change_sizes.raise(&pipeline.log.sizes());
    let denied = totals.denied;
    for (reason, count) in [
        ("not_visible", denied.not_visible),
        ("policy_trouble", denied.policy_trouble),
        ("not_asked", denied.not_asked),
        ("no_primary_key", denied.no_primary_key),
        ("no_grant", denied.no_grant),
        ("delete", denied.delete),
    ] {
        raise(
            &metrics.changes_denied.get_or_create(&Reason { reason }),
            count,
        );
    }
    raise(&metrics.broadcasts_from_database, totals.broadcasts);
    let unsendable = totals.unsendable;
    for (reason, count) in [
        ("empty_topic", unsendable.empty_topic),
        ("too_large", unsendable.too_large),
        ("unreadable", unsendable.unreadable),
    ] {
        raise(
            &metrics
                .broadcasts_unsendable
                .get_or_create(&Reason { reason }),
            count,
        );
    }
    for (result, count) in [
        ("answered", totals.answered),
        ("raised", totals.raised),
        ("timed_out", totals.timed_out),
        ("locked", totals.locked),
    ] {
        raise(&metrics.questions.get_or_create(&Outcome { result }), count);
    }
    for (source, judged) in [
        ("compiled", totals.compiled),
        ("audience", totals.audience),
        ("postgres", totals.asked),
    ] {
        for (result, count) in [
            ("allowed", judged.allowed),
            ("denied", judged.denied),
            ("raised", judged.raised),
            ("undecided", judged.undecided),
        ] {
            let verdict = Verdict { source, result };
            raise(&metrics.verdicts.get_or_create(&verdict), count);
        }
    }
    let snapshots = totals.snapshots;
    for (result, count) in [
        ("taken", snapshots.taken),
        ("too_large", snapshots.too_large),
        ("failed", snapshots.failed),
        ("repeated", snapshots.repeated),
    ] {
        raise(&metrics.snapshots.get_or_create(&Outcome { result }), count);
    }
    raise(&metrics.snapshot_rows, snapshots.rows);
    metrics.snapshot_bytes.set(gauge(totals.snapshot_bytes));
    metrics.shadow_tables.set(size(totals.shadow.trusted));
    metrics.shadow_rows.set(size(totals.shadow.rows));
    metrics.shadow_bytes.set(size(totals.shadow.bytes));
    metrics.history_bytes.set(gauge(totals.history_bytes));
    metrics
        .history_file_bytes
        .set(gauge(totals.history_file_bytes));
    let (memory, file) = pipeline.log.bytes();
    let bytes = |size: usize| i64::try_from(size).unwrap_or(i64::MAX);
    metrics.log_bytes.set(bytes(memory));
    metrics.log_file_bytes.set(bytes(file));

    let replication = &pipeline.replication;
    let read = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    raise(
        &metrics.replication_bytes,
        read(&replication.received_bytes),
    );
    // The first session is no reconnect.
    let reconnects = read(&replication.sessions).saturating_sub(1);
    raise(&metrics.replication_reconnects, reconnects);
    raise(&metrics.replication_epochs, read(&replication.epochs));
    metrics
        .replication_lag_bytes
        .set(gauge(read(&replication.lag_bytes)));
    metrics
        .replication_lag_seconds
        .set(std::time::Duration::from_micros(totals.age_micros).as_secs_f64());
    metrics
        .retained_wal_bytes
        .set(gauge(read(&replication.retained_bytes)));
}
