//! The verifier of tokens, made from the settings.

use std::path::PathBuf;

use crate::auth::{ApiKeys, KeyError, Verifier};
use crate::config::{Config, Jwks, Secret};

/// The keys cannot be used; the operator mends the setting.
#[derive(Debug, thiserror::Error)]
pub(super) enum VerifierError {
    #[error("WALCAST_JWKS: cannot read {}", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// Reads the key file if there is one, and checks all keys.
///
/// # Errors
/// The file or a key cannot be used.
pub(super) fn make(config: &Config) -> Result<Verifier, VerifierError> {
    let owned = |secret: &Option<Secret>| secret.as_ref().map(|secret| secret.expose().to_owned());
    let jwks = match &config.jwks {
        None => None,
        Some(Jwks::Inline(json)) => Some(json.expose().to_owned()),
        Some(Jwks::File(path)) => {
            let read = std::fs::read_to_string(path);
            Some(read.map_err(|source| VerifierError::File {
                path: path.clone(),
                source,
            })?)
        }
    };
    let api_keys = ApiKeys {
        publishable: owned(&config.publishable_key),
        secret: owned(&config.secret_key),
    };
    Ok(Verifier::new(
        config.jwt_secret.as_ref().map(Secret::expose),
        jwks.as_deref(),
        api_keys,
    )?)
}
