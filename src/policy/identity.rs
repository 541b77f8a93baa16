//! Identities: all that a verdict may depend on besides the row.

use std::sync::Arc;

use crate::auth::Claims;

/// Subscribers with equal identities always get equal verdicts. Without compiled policies that is the whole token.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity(Arc<Claims>);

impl Identity {
    /// The identity of whoever presented these claims.
    #[must_use]
    pub fn new(claims: Arc<Claims>) -> Self {
        Self(claims)
    }

    /// The database role under which policies are judged.
    #[must_use]
    pub fn role(&self) -> &str {
        &self.0.role
    }

    /// The claims as JSON text, for `request.jwt.claims`.
    #[must_use]
    pub fn claims(&self) -> &str {
        &self.0.json
    }
}
