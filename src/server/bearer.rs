//! The tokens of HTTP requests.

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode};
use serde::Deserialize;

/// The token of the request.
pub(super) fn token(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// The token of a request that sends broadcasts: `Authorization: Bearer`, else the header `apikey`; both may also hold an
/// API key (protocol.md §5.4, §7.3).
pub(super) fn token_or_key(headers: &HeaderMap) -> Option<&str> {
    token(headers)
        .filter(|token| !token.is_empty())
        .or_else(|| headers.get("apikey")?.to_str().ok())
}

/// Whether `token` is signed with `secret` and has not expired. Its other claims say nothing that matters.
pub(super) fn is_signed(token: &str, secret: &str, unix_now: i64) -> bool {
    #[derive(Deserialize)]
    struct Expiry {
        #[serde(default)]
        exp: Option<f64>,
    }
    let mut validation = Validation::new(Algorithm::HS256);
    validation.algorithms = vec![Algorithm::HS256, Algorithm::HS384, Algorithm::HS512];
    // The library would read the clock by itself.
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    validation.required_spec_claims.clear();
    let key = DecodingKey::from_secret(secret.as_bytes());
    #[expect(
        clippy::cast_precision_loss,
        reason = "seconds are exact in an f64 for 285 million years"
    )]
    let now = unix_now as f64;
    decode::<Expiry>(token, &key, &validation)
        .is_ok_and(|data| data.claims.exp.is_none_or(|exp| exp > now))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{Grant, mint};

    #[test]
    fn only_a_token_of_the_secret_counts_and_only_until_it_expires() {
        let grant = Grant {
            role: "metrics",
            expires_at: 100,
            ..Grant::default()
        };
        let token = mint("right", &grant).unwrap();
        assert!(is_signed(&token, "right", 99));
        assert!(!is_signed(&token, "right", 100));
        assert!(!is_signed(&token, "wrong", 99));
        assert!(!is_signed("nonsense", "right", 99));
        let key = jsonwebtoken::EncodingKey::from_secret(b"right");
        let header = jsonwebtoken::Header::new(Algorithm::HS512);
        let forever = jsonwebtoken::encode(&header, &serde_json::json!({}), &key).unwrap();
        assert!(is_signed(&forever, "right", 99));
    }

    #[test]
    fn the_scheme_is_case_insensitive() {
        let headers = |value: &str| HeaderMap::from_iter([(AUTHORIZATION, value.parse().unwrap())]);
        assert_eq!(token(&headers("Bearer x")), Some("x"));
        assert_eq!(token(&headers("bearer  x ")), Some("x"));
        assert_eq!(token(&headers("Basic x")), None);
        assert_eq!(token(&HeaderMap::new()), None);
    }

    #[test]
    fn a_bearer_token_wins_over_the_key() {
        let headers = |authorization: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, authorization.parse().unwrap());
            headers.insert("apikey", "key".parse().unwrap());
            headers
        };
        assert_eq!(token_or_key(&headers("Bearer x")), Some("x"));
        assert_eq!(token_or_key(&headers("Basic x")), Some("key"));
        assert_eq!(token_or_key(&headers("")), Some("key"));
        assert_eq!(token_or_key(&HeaderMap::new()), None);
    }
}
