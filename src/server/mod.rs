//! The server (io): HTTP and WebSockets on one listener (protocol.md §1).
//!
//! A listener and the pipeline's handle go in; sockets are served until the shutdown says otherwise. Holds no rule of
//! the protocol beyond HTTP: what is said on a socket is decided in [`crate::realtime`]. Never speaks TLS.

mod accept;
mod acks;
mod api;
mod awaiting;
mod bearer;
mod broadcast;
mod commands;
mod connection;
mod headers;
mod meter;
mod output;
mod record;
mod upgrade;
mod websocket;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use axum::Router;
use axum::routing::{any, get, post};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

#[cfg(feature = "testing")]
pub use self::broadcast::exercise as exercise_broadcast;
use crate::auth::Verifier;
use crate::messages::Messages;
use crate::metrics::Metrics;
use crate::pipeline;
use crate::realtime::{Limits, Subjects};
use crate::rooms::Rooms;
use crate::shutdown::Shutdown;

/// What the operator decides.
#[derive(Clone)]
pub struct ServerOptions {
    /// Limits of each socket.
    pub limits: Limits,
    /// Verifies the tokens of connections, joins and refreshes.
    pub verifier: Arc<Verifier>,
    /// Signs the tokens that may read `/metrics` and `/policy`; open without.
    pub metrics_secret: Option<String>,
    /// Sockets at a time; further ones get 429.
    pub sockets_max: usize,
    /// Bytes of a message from a client; longer ones close with 1009 (protocol.md §1.2).
    pub frame_bytes_max: usize,
    /// How long a refused upgrade is kept waiting, so that guessing is slow (protocol.md §1.3).
    pub refusal_delay: Duration,
    /// A socket that takes no byte for this long while some are waiting is closed with 1013.
    pub stall_timeout: Duration,
}

impl ServerOptions {
    /// The defaults.
    #[must_use]
    pub fn new(verifier: Arc<Verifier>) -> Self {
        Self {
            limits: Limits::default(),
            verifier,
            metrics_secret: None,
            sockets_max: 100_000,
            frame_bytes_max: 5_000_000,
            refusal_delay: Duration::from_secs(2),
            stall_timeout: Duration::from_secs(30),
        }
    }
}

/// What sockets and HTTP requests are served with.
#[derive(Clone, Debug)]
pub struct Services {
    /// Row changes.
    pub pipeline: pipeline::Handle,
    /// Broadcasts and presence.
    pub rooms: Rooms,
    /// Permissions, replay and storage of private topics.
    pub messages: Messages,
}

/// What all connections share.
struct Server {
    options: ServerOptions,
    services: Services,
    shutdown: Shutdown,
    metrics: Arc<Metrics>,
    /// One permit per socket.
    sockets: Arc<Semaphore>,
    connection_next: AtomicU64,
    /// What may be sent over HTTP.
    rates: broadcast::Rates,
    /// The space for what HTTP requests bring.
    bodies: Semaphore,
    /// Whom sockets share their limits with, and HTTP its own.
    subjects: Arc<Subjects>,
}

/// Accepts connections until [`Shutdown::accepting`] is cancelled. Connections and sockets run on
/// [`Shutdown::server_tasks`] and outlive this.
///
/// Cancel safe.
pub async fn serve(
    listener: TcpListener,
    options: ServerOptions,
    services: Services,
    shutdown: Shutdown,
    metrics: Arc<Metrics>,
) {
    metrics
        .connections_max
        .set(i64::try_from(options.sockets_max).unwrap_or(i64::MAX));
    let subjects = Subjects::new();
    let server = Arc::new(Server {
        sockets: Arc::new(Semaphore::new(
            options.sockets_max.min(Semaphore::MAX_PERMITS),
        )),
        rates: broadcast::Rates::new(options.limits.messages.subject, Arc::clone(&subjects)),
        bodies: broadcast::space(),
        options,
        services,
        shutdown,
        metrics,
        connection_next: AtomicU64::new(1),
        subjects,
    });
    accept::accept(listener, &server, router(Arc::clone(&server))).await;
}

/// Every path at both of its places: as clients ask for it, and as gateways rewrite it.
fn router(server: Arc<Server>) -> Router {
    let api = Router::new()
        .route("/ping", get(api::ping))
        .route("/tenants/{id}/health", get(api::tenant_health))
        .route("/broadcast", post(broadcast::batch).options(api::preflight))
        .route(
            "/broadcast/{topic}/events/{event}",
            post(broadcast::single).options(api::preflight),
        );
    Router::new()
        .route("/socket/websocket", any(upgrade::upgrade))
        .route("/socket/websocket/", any(upgrade::upgrade))
        .route("/realtime/v1/websocket", any(upgrade::upgrade))
        .route("/realtime/v1/websocket/", any(upgrade::upgrade))
        .nest("/api", api.clone())
        .nest("/realtime/v1/api", api)
        .route("/healthcheck", get(api::healthcheck))
        .route("/ready", get(api::ready))
        .route("/metrics", get(api::metrics))
        // There is one region and one tenant; scrapers of such servers ask for each.
        .route("/metrics/{region}", get(api::metrics))
        .route("/tenant-metrics", get(api::metrics))
        .route("/tenant-metrics/{region}", get(api::metrics))
        .route("/policy", get(api::policy))
        .with_state(server)
}
