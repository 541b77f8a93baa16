//! The HTTP endpoints beside the socket (protocol.md §1.4).

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS, CONTENT_TYPE,
};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::{Server, bearer, record};
use crate::clock;

/// Alive: says nothing about the database.
pub(super) async fn healthcheck() -> &'static str {
    "ok"
}

/// Whether changes flow, and in one line why not.
pub(super) async fn ready(State(server): State<Arc<Server>>) -> (StatusCode, String) {
    if server.shutdown.draining.is_cancelled() {
        return (StatusCode::SERVICE_UNAVAILABLE, "shutting down\n".into());
    }
    let status = server.services.pipeline.status.borrow().clone();
    let code = if status.ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let detail = match (status.detail.as_str(), status.ready) {
        ("", true) => "ready",
        ("", false) => "starting",
        (detail, _) => detail,
    };
    (code, format!("{}\n", detail.replace(['\n', '\r'], " ")))
}

/// The metrics, to whom they are open.
pub(super) async fn metrics(State(server): State<Arc<Server>>, headers: HeaderMap) -> Response {
    if !is_open(&server, &headers) {
        return StatusCode::FORBIDDEN.into_response();
    }
    let services = &server.services;
    record::refresh(&server.metrics, &services.pipeline, services.rooms.sizes());
    if let Some(state) = services.pipeline.policy_state().await {
        record::refresh_tables(&server.metrics, &state);
    }
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(CONTENT_TYPE, kind)], server.metrics.encode()).into_response()
}

/// What becomes of policies, to whom the metrics are open.
pub(super) async fn policy(State(server): State<Arc<Server>>, headers: HeaderMap) -> Response {
    if !is_open(&server, &headers) {
        return StatusCode::FORBIDDEN.into_response();
    }
    match server.services.pipeline.policy_state().await {
        Some(state) => Json(state).into_response(),
        None => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

/// Whether the request may read what operators read.
fn is_open(server: &Server, headers: &HeaderMap) -> bool {
    server.options.metrics_secret.as_ref().is_none_or(|secret| {
        bearer::token(headers)
            .is_some_and(|token| bearer::is_signed(token, secret, clock::unix_seconds()))
    })
}

pub(super) async fn ping() -> Response {
    Json(json!({"message": "Success"})).into_response()
}

/// The health of the one tenant there is, whatever it is called: stock compose files ask for it with the `anon` key.
pub(super) async fn tenant_health(
    State(server): State<Arc<Server>>,
    headers: HeaderMap,
) -> Response {
    let verified = bearer::token(&headers).is_some_and(|token| {
        let verifier = &server.options.verifier;
        verifier.verify(token, clock::unix_seconds()).is_ok()
    });
    if !verified {
        return StatusCode::FORBIDDEN.into_response();
    }
    let ready = server.services.pipeline.status.borrow().ready;
    let data = json!({
        "healthy": ready,
        "db_connected": ready,
        "replication_connected": ready,
        "connected_cluster": server.metrics.connections_connected.get(),
        "region": "local",
        "node": "walcast",
    });
    Json(json!({"data": data})).into_response()
}

/// What a gateway would answer: any origin, `POST`, whatever headers are wanted.
pub(super) async fn preflight(headers: HeaderMap) -> Response {
    let wanted = headers
        .get(ACCESS_CONTROL_REQUEST_HEADERS)
        .cloned()
        .unwrap_or(HeaderValue::from_static("*"));
    let allowed = [
        (ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*")),
        (
            ACCESS_CONTROL_ALLOW_METHODS,
            HeaderValue::from_static("POST"),
        ),
        (ACCESS_CONTROL_ALLOW_HEADERS, wanted),
        (ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("86400")),
    ];
    (StatusCode::NO_CONTENT, allowed).into_response()
}
