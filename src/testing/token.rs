//! Tokens signed with the tests' shared secret.
//!
//! *io*: reads the clock.

use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::{EncodingKey, Header};
use serde_json::{Value, json};

/// The shared secret of every test server.
pub const JWT_SECRET: &str = "a-secret-of-at-least-thirty-two-characters";
/// Stands for `{"role":"anon"}`.
pub const PUBLISHABLE_KEY: &str = "sb_publishable_of_the_tests";
/// Stands for `{"role":"service_role"}`.
pub const SECRET_KEY: &str = "sb_secret_of_the_tests";

/// Signs claims with HS256.
#[must_use]
pub fn mint(claims: &Value) -> String {
    jsonwebtoken::encode(
        &Header::default(),
        claims,
        &EncodingKey::from_secret(JWT_SECRET.as_bytes()),
    )
    .unwrap()
}

/// A token of role `authenticated` for this subject, valid for an hour.
#[must_use]
pub fn user(subject: &str) -> String {
    expiring(subject, 3600)
}

/// A token of role `authenticated` that expires in so many seconds (negative: has expired).
#[must_use]
pub fn expiring(subject: &str, seconds: i64) -> String {
    mint(
        &json!({"role": "authenticated", "sub": subject, "exp": unix_now().saturating_add(seconds)}),
    )
}

/// A token of role `anon`, valid for an hour.
#[must_use]
pub fn anon() -> String {
    mint(&json!({"role": "anon", "exp": unix_now().saturating_add(3600)}))
}

/// A token of role `service_role`, valid for an hour.
#[must_use]
pub fn service() -> String {
    mint(&json!({"role": "service_role", "exp": unix_now().saturating_add(3600)}))
}

fn unix_now() -> i64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(elapsed.as_secs()).unwrap()
}
