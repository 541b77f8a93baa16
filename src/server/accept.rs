//! The accept loop and the HTTP connections before they become sockets.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::select;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::sleep;
use tracing::{debug, warn};

use super::Server;
use super::meter::Metered;

/// HTTP connections at a time, sockets not counted. Full means that further ones wait in the kernel's queue.
const HTTP_MAX: usize = 4096;
/// How long a client may take to send the head of a request, idle connections included.
const HEAD_TIMEOUT: Duration = Duration::from_secs(15);
/// Bytes of a request's head. Tokens stand in the query string, and may be longer than servers usually allow.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Pause after a failed accept: what fails is mostly a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);

pub(super) async fn accept(listener: TcpListener, server: &Arc<Server>, router: Router) {
    let slots = Arc::new(Semaphore::new(HTTP_MAX));
    let stop = &server.shutdown.accepting;
    loop {
        let slot = select! {
            () = stop.cancelled() => return,
            slot = Arc::clone(&slots).acquire_owned() => match slot {
                Ok(slot) => slot,
                Err(_closed) => return,
            },
        };
        let accepted = select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _peer)) => {
                let connection = connection(Arc::clone(server), router.clone(), stream, slot);
                server.shutdown.server_tasks.spawn(connection);
            }
            Err(error) => {
                warn!(%error, "cannot accept a connection");
                select! {
                    () = stop.cancelled() => return,
                    () = sleep(ACCEPT_PAUSE) => {}
                }
            }
        }
    }
}

/// One HTTP connection, until it ends or becomes a socket.
async fn connection(
    server: Arc<Server>,
    router: Router,
    stream: TcpStream,
    slot: OwnedSemaphorePermit,
) {
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%error, "cannot set TCP_NODELAY");
    }
    let stream = Metered::new(stream, Arc::clone(&server.metrics));
    let service = TowerToHyperService::new(router);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let ended = select! {
        ended = connection.as_mut() => ended,
        () = server.shutdown.draining.cancelled() => {
            connection.as_mut().graceful_shutdown();
            select! {
                ended = connection => ended,
                () = server.shutdown.dropping.cancelled() => Ok(()),
            }
        }
    };
    if let Err(error) = ended {
        debug!(%error, "HTTP connection failed");
    }
    drop(slot);
}
