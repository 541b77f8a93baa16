//! `walcast serve`: the server itself, from settings to a graceful end.

use std::net::SocketAddr;

use crate::config::Config;

/// Why the server ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum ServeError {}

pub(super) async fn run(
    _config: &Config,
    stop: impl Future<Output = ()>,
    on_ready: impl FnOnce(SocketAddr),
) -> Result<(), ServeError> {
    on_ready(_config.listen);
    stop.await;
    Ok(())
}
