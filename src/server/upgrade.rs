//! From an HTTP request to a socket (protocol.md §1.2, §1.3).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Json;
use axum::extract::{Query, Request, State};
use axum::http::header::{
    CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use serde_json::json;
use sha1::{Digest as _, Sha1};
use tokio::select;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::sleep;
use tracing::debug;

use super::Server;
use super::acks::Wish;
use super::connection::{self, Accepted};
use super::headers;
use super::meter::Metered;
use super::websocket::WebSocket;
use crate::auth::Claims;
use crate::clock;
use crate::metrics::{Code, observe};
use crate::realtime::Version;

/// What an accepted key is hashed with (RFC 6455, section 1.3).
const ACCEPT: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// A request that becomes no socket.
struct Refused {
    status: StatusCode,
    code: &'static str,
    message: String,
}

impl Refused {
    /// Policies would miss some of them.
    fn headers() -> Self {
        Self {
            status: StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            code: "431",
            message: format!(
                "The headers x-* have more than {} bytes",
                headers::EXTRA_BYTES_MAX
            ),
        }
    }
}

pub(super) async fn upgrade(State(server): State<Arc<Server>>, request: Request) -> Response {
    let begun = clock::instant();
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
    let Some(headers) = headers::extra(&parts.headers) else {
        return refuse(&server, Refused::headers()).await;
    };
    let (token, claims, permit) = match admit(&server, &parts, parameter("apikey")) {
        Ok(admitted) => admitted,
        Err(refused) => return refuse(&server, refused).await,
    };
    let (answer, upgrade) = match handshake(&mut parts) {
        Ok(handshake) => handshake,
        Err((status, reason)) => {
            return (status, [(SEC_WEBSOCKET_VERSION, "13")], reason).into_response();
        }
    };
    let wish = Wish::parse(parameter("resume"), parameter("resume_ack"));
    let accepted = Accepted {
        number: server.connection_next.fetch_add(1, Ordering::Relaxed),
        version,
        token,
        claims,
        headers,
        resume_ignored: wish.is_err(),
        resume: wish.unwrap_or_default(),
        permit,
    };
    let tasks = server.shutdown.server_tasks.clone();
    let took = clock::instant().saturating_duration_since(begun);
    observe(&server.metrics.connected_in, took);
    tasks.spawn(serve(server, accepted, upgrade));
    answer
}

/// Serves the socket once the answer was written.
async fn serve(server: Arc<Server>, accepted: Accepted, upgrade: OnUpgrade) {
    let upgraded = match upgrade.await {
        Ok(upgraded) => upgraded,
        Err(error) => return debug!(%error, "the upgrade fails"),
    };
    let Ok(parts) = upgraded.downcast::<TokioIo<Metered>>() else {
        return debug!("the connection is not one of the listener's");
    };
    let stream = parts.io.into_inner();
    let websocket = WebSocket::new(stream, &parts.read_buf, server.options.frame_bytes_max);
    // Its memory is not to be kept for as long as the socket lives.
    drop(parts.read_buf);
    connection::run(server, accepted, websocket).await;
}

/// The answer to a handshake, or why it is none (RFC 6455, section 4.2).
fn handshake(parts: &mut Parts) -> Result<(Response, OnUpgrade), (StatusCode, &'static str)> {
    let bad = |reason| (StatusCode::BAD_REQUEST, reason);
    let headers = &parts.headers;
    if !has_word(headers, CONNECTION, "upgrade") || !has_word(headers, UPGRADE, "websocket") {
        return Err(bad("this is for WebSockets\n"));
    }
    let version = headers.get(SEC_WEBSOCKET_VERSION);
    if version.is_none_or(|version| version != "13") {
        let reason = "WebSockets are spoken in version 13\n";
        return Err((StatusCode::UPGRADE_REQUIRED, reason));
    }
    let key = headers.get(SEC_WEBSOCKET_KEY);
    let key = key.ok_or(bad("a WebSocket needs a key\n"))?;
    let hash = Sha1::new()
        .chain_update(key)
        .chain_update(ACCEPT)
        .finalize();
    let answer = [
        (CONNECTION, "upgrade".to_owned()),
        (UPGRADE, "websocket".to_owned()),
        (SEC_WEBSOCKET_ACCEPT, STANDARD.encode(hash)),
    ];
    let upgrade = parts.extensions.remove::<OnUpgrade>();
    let upgrade = upgrade.ok_or(bad("this connection cannot be upgraded\n"))?;
    let answer = (StatusCode::SWITCHING_PROTOCOLS, answer).into_response();
    Ok((answer, upgrade))
}

/// Whether a header is a list with this word in it, however it is written.
fn has_word(headers: &HeaderMap, name: HeaderName, word: &str) -> bool {
    let values = headers.get_all(name).into_iter();
    let mut words = values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    words.any(|found| found.trim().eq_ignore_ascii_case(word))
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
