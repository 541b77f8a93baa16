//! From an HTTP request to a socket (protocol.md §1.2, §1.3).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Json;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::{FromRequestParts as _, Query, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use tokio::select;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::sleep;

use super::Server;
use super::connection::{self, Accepted};
use super::meter::Written;
use crate::auth::Claims;
use crate::clock;
use crate::metrics::Code;
use crate::realtime::Version;

/// Buffer for inbound frames, per socket and for as long as it lives: heartbeats and joins are small.
const READ_BUFFER_BYTES: usize = 4 * 1024;
/// Outbound frames are gathered up to this before they are handed to the kernel.
const WRITE_BUFFER_BYTES: usize = 32 * 1024;

/// Longest value of a header that policies can read (protocol.md §8.1).
const HEADER_BYTES_MAX: usize = 4096;
/// Most bytes of all of them: a socket keeps them for as long as it lives.
const HEADERS_BYTES_MAX: usize = 16 * 1024;

/// A request that becomes no socket.
struct Refused {
    status: StatusCode,
    code: &'static str,
    message: String,
}

pub(super) async fn upgrade(State(server): State<Arc<Server>>, request: Request) -> Response {
    let (mut parts, _body) = request.into_parts();
    if parts.method != Method::GET {
        return StatusCode::BAD_REQUEST.into_response();
    }
    let query = Query::<Vec<(String, String)>>::try_from_uri(&parts.uri)
        .map(|Query(query)| query)
        .unwrap_or_default();
    let parameter = |name: &str| {
        query
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    };
    let Some(version) = Version::parse(parameter("vsn")) else {
        return StatusCode::FORBIDDEN.into_response();
    };
    let (token, claims, permit) = match admit(&server, &parts, parameter("apikey")) {
        Ok(admitted) => admitted,
        Err(refused) => return refuse(&server, refused).await,
    };
    let upgrade = match WebSocketUpgrade::from_request_parts(&mut parts, &server).await {
        Ok(upgrade) => upgrade,
        Err(rejection) => return rejection.into_response(),
    };
    let accepted = Accepted {
        number: server.connection_next.fetch_add(1, Ordering::Relaxed),
        version,
        token,
        claims,
        headers: extra_headers(&parts.headers),
        written: parts
            .extensions
            .get::<Written>()
            .cloned()
            .unwrap_or_default(),
        permit,
    };
    // The task is axum's; the token makes the shutdown wait for it all the same.
    let tracked = server.shutdown.server_tasks.token();
    upgrade
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(WRITE_BUFFER_BYTES)
        .max_message_size(server.options.frame_bytes_max)
        .max_frame_size(server.options.frame_bytes_max)
        .on_upgrade(async move |websocket| {
            connection::run(server, accepted, websocket).await;
            drop(tracked);
        })
}

/// The `x-*` headers as the JSON object that policies read (protocol.md §7.5). What is no text or too long is left out; of
/// equal names the last counts.
fn extra_headers(headers: &HeaderMap) -> Arc<str> {
    let mut object = serde_json::Map::new();
    let mut bytes = 0_usize;
    for (name, value) in headers {
        let Ok(value) = value.to_str() else {
            continue;
        };
        if !name.as_str().starts_with("x-") || value.len() > HEADER_BYTES_MAX {
            continue;
        }
        bytes = bytes
            .saturating_add(name.as_str().len())
            .saturating_add(value.len());
        if bytes <= HEADERS_BYTES_MAX {
            object.insert(name.as_str().to_owned(), value.into());
        }
    }
    serde_json::Value::Object(object).to_string().into()
}

/// Checks the token and takes one of the places.
fn admit(
    server: &Server,
    parts: &Parts,
    apikey: Option<&str>,
) -> Result<(Arc<str>, Arc<Claims>, OwnedSemaphorePermit), Refused> {
    let unauthorized = |message: String| Refused {
        status: StatusCode::UNAUTHORIZED,
        code: "401",
        message,
    };
    let header = parts
        .headers
        .get("x-api-key")
        .and_then(|value| value.to_str().ok());
    let token = header
        .or(apikey)
        .ok_or_else(|| unauthorized("API key is missing".into()))?;
    let claims = server
        .options
        .verifier
        .verify(token, clock::unix_seconds())
        .map_err(|error| unauthorized(error.connect_message()))?;
    let permit = Arc::clone(&server.sockets)
        .try_acquire_owned()
        .map_err(|_full| Refused {
            status: StatusCode::TOO_MANY_REQUESTS,
            code: "429",
            message: "Too many connected users".into(),
        })?;
    Ok((token.into(), claims, permit))
}

async fn refuse(server: &Server, refused: Refused) -> Response {
    let code = Code { code: refused.code };
    server
        .metrics
        .connections_refused
        .get_or_create(&code)
        .inc();
    select! {
        () = sleep(server.options.refusal_delay) => {}
        () = server.shutdown.draining.cancelled() => {}
    }
    (refused.status, Json(json!({"error": refused.message}))).into_response()
}
