//! Tokens made here: for `walcast token`, and for tests.

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Map, Value};

/// What a token grants.
#[derive(Clone, Copy, Debug, Default)]
pub struct Grant<'a> {
    /// The `role` claim: a database role.
    pub role: &'a str,
    /// The `sub` claim.
    pub subject: Option<&'a str>,
    /// The `exp` claim, in seconds since 1970.
    pub expires_at: i64,
    /// A JSON object of further claims; the three above win over claims of their names.
    pub extra: Option<&'a str>,
}

/// The token could not be made.
#[derive(Debug, thiserror::Error)]
pub enum MintError {
    /// The further claims are no JSON object.
    #[error("the extra claims are not a JSON object")]
    Extra(#[source] serde_json::Error),
    /// The library refused to sign.
    #[error("cannot sign the token")]
    Sign(#[source] jsonwebtoken::errors::Error),
}

/// A token for `grant`, signed with the shared secret (HS256).
///
/// # Errors
/// The further claims are no JSON object.
pub fn mint(secret: &str, grant: &Grant<'_>) -> Result<String, MintError> {
    let mut claims: Map<String, Value> = match grant.extra {
        Some(extra) => serde_json::from_str(extra).map_err(MintError::Extra)?,
        None => Map::new(),
    };
    claims.insert("role".to_owned(), grant.role.into());
    claims.insert("exp".to_owned(), grant.expires_at.into());
    if let Some(subject) = grant.subject {
        claims.insert("sub".to_owned(), subject.into());
    }
    let key = EncodingKey::from_secret(secret.as_bytes());
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key).map_err(MintError::Sign)
}
