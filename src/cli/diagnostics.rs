//! Diagnostics: `tracing` events on standard error, as text or JSON.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::config::{Config, LogFormat};

/// The filter of `log_level` cannot be parsed.
#[derive(Debug, thiserror::Error)]
#[error(
    "log_level: expected error, warn, info, debug, trace or a filter such as info,walcast=debug"
)]
pub(super) struct FilterError(#[source] tracing_subscriber::filter::ParseError);

/// Starts writing. Later calls change nothing.
///
/// # Errors
/// The filter is not one.
pub(super) fn start(config: &Config) -> Result<(), FilterError> {
    let filter = EnvFilter::builder()
        .parse(&config.log_level)
        .map_err(FilterError)?;
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    // An error means that somebody has installed a subscriber already, whose choice stands.
    drop(match config.log_format {
        LogFormat::Text => subscriber
            .with_ansi(std::io::stderr().is_terminal())
            .try_init(),
        LogFormat::Json => subscriber.json().flatten_event(true).try_init(),
    });
    Ok(())
}
