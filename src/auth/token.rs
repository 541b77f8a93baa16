//! Verification of tokens: JSON Web Tokens and the keys that stand for a role.
//!
//! Never accepts a token whose algorithm has no key of its type: the header chooses among the configured keys, and
//! nothing else. `aud`, `iss` and `nbf` are not read. Follows protocol.md §7.1 to §7.3; RFC 7515, "JWS Compact
//! Serialization".

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, crypto};
use serde_json::{Map, Value};

use super::claims::Claims;
use super::keys::{API_KEY_PREFIX, ApiKeys, KeyError, KeySet, KeyType};

/// Verifies tokens with a fixed set of keys.
pub struct Verifier {
    secret: Option<DecodingKey>,
    key_set: KeySet,
    api_keys: ApiKeys,
}

/// Never shows a key.
impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").finish_non_exhaustive()
    }
}

/// Why a token is not accepted. [`connect_message`](Self::connect_message), [`join_reason`](Self::join_reason) and
/// [`system_message`](Self::system_message) say it at the three borders; the texts are part of the wire.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not three base64url segments with JSON objects in them, or a claim of the wrong type; also a key of the `sb_`
    /// kind that is not ours.
    #[error("The token provided is not a valid JWT")]
    Malformed,
    /// The key that the header chooses did not sign this.
    #[error("Failed to validate JWT signature")]
    Signature,
    /// The header chooses no key that we have, or an algorithm that is not accepted.
    #[error("{}", signer_text(kid.as_deref()))]
    Signer {
        /// The header's `kid`.
        kid: Option<Box<str>>,
    },
    /// `role` or `exp` is missing, or `role` is no text.
    #[error("Fields `role` and `exp` are required in JWT")]
    MissingClaims,
    /// Too late.
    #[error("Token has expired {seconds} seconds ago")]
    Expired {
        /// Seconds since `exp`; not negative.
        seconds: i64,
    },
    /// `exp` is no number, or not in the future once it is rounded.
    #[error("Token expiration time is invalid")]
    Expiration,
}

impl TokenError {
    /// The `error` of the body that refuses a WebSocket upgrade or an HTTP request, always with status 401
    /// (protocol.md §1.3).
    #[must_use]
    pub fn connect_message(&self) -> String {
        match self {
            Self::Expired { .. } | Self::Expiration => "Token has expired".to_owned(),
            Self::Malformed | Self::Signature | Self::Signer { .. } | Self::MissingClaims => {
                self.to_string()
            }
        }
    }

    /// The `reason` of a join's error reply (protocol.md §3.7).
    #[must_use]
    pub fn join_reason(&self) -> String {
        let code = match self {
            Self::Malformed => "MalformedJWT",
            Self::Signature => "JwtSignatureError",
            Self::Signer { .. } => "JwtSignerError",
            Self::MissingClaims | Self::Expired { .. } | Self::Expiration => "InvalidJWTToken",
        };
        format!("{code}: {self}")
    }

    /// The `message` of the `system` message that closes a channel after an `access_token` event (protocol.md §7.4).
    #[must_use]
    pub fn system_message(&self) -> String {
        match self {
            Self::Signature => ":signature_error".to_owned(),
            Self::Malformed
            | Self::Signer { .. }
            | Self::MissingClaims
            | Self::Expired { .. }
            | Self::Expiration => self.to_string(),
        }
    }
}

fn signer_text(kid: Option<&str>) -> String {
    const REMEDY: &str = "check your JWT secret or JWKS configuration";
    match kid {
        Some(kid) => {
            format!("Failed to generate JWT signer for key ID (kid) \"{kid}\", {REMEDY}")
        }
        None => format!("Failed to generate JWT signer, {REMEDY}"),
    }
}

impl Verifier {
    /// A verifier with the shared secret (its bytes as they are), the key set (`{"keys":[…]}`), and the keys that
    /// stand for roles. Without any key it accepts nothing.
    ///
    /// # Errors
    /// A key cannot be used; the operator must mend the configuration.
    pub fn new(
        secret: Option<&str>,
        jwks: Option<&str>,
        api_keys: ApiKeys,
    ) -> Result<Self, KeyError> {
        if secret == Some("") {
            return Err(KeyError::EmptySecret);
        }
        api_keys.check()?;
        Ok(Self {
            secret: secret.map(|secret| DecodingKey::from_secret(secret.as_bytes())),
            key_set: jwks.map(KeySet::parse).transpose()?.unwrap_or_default(),
            api_keys,
        })
    }

    /// Whether `token` is of the kind that stands for a role instead of carrying claims. Such values are ignored in
    /// joins and `access_token` events (protocol.md §7.3).
    #[must_use]
    pub fn is_api_key(token: &str) -> bool {
        token.starts_with(API_KEY_PREFIX)
    }

    /// The claims of `token` at the time `unix_now`, in seconds.
    ///
    /// # Errors
    /// The token is not accepted; its sender must bring another.
    pub fn verify(&self, token: &str, unix_now: i64) -> Result<Arc<Claims>, TokenError> {
        let token = clean(token);
        if Self::is_api_key(&token) {
            return self.verify_api_key(&token);
        }
        let (message, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let (header, payload) = message.split_once('.').ok_or(TokenError::Malformed)?;
        let header = object(&text(header)?)?;
        let json = text(payload)?;
        let claims = object(&json)?;
        let (algorithm, key) = self.choose(&header)?;
        // An error means that the signature is no base64url, or that the key cannot have made one.
        if !crypto::verify(signature, message.as_bytes(), key, algorithm).unwrap_or(false) {
            return Err(TokenError::Signature);
        }
        let (role, expires_at) = check(&claims, unix_now)?;
        Ok(Arc::new(Claims {
            role: role.into(),
            subject: claims.get("sub").and_then(Value::as_str).map(Box::from),
            expires_at: Some(expires_at),
            json: json.into(),
        }))
    }

    fn verify_api_key(&self, key: &str) -> Result<Arc<Claims>, TokenError> {
        let role = self.api_keys.role(key).ok_or(TokenError::Malformed)?;
        Ok(Arc::new(Claims {
            json: format!("{{\"role\":\"{role}\"}}").into(),
            role: role.into(),
            subject: None,
            expires_at: None,
        }))
    }

    /// The one key that may verify a token with this header (protocol.md §7.2).
    fn choose(&self, header: &Map<String, Value>) -> Result<(Algorithm, &DecodingKey), TokenError> {
        let kid = header.get("kid").and_then(Value::as_str);
        let alg = header.get("alg").and_then(Value::as_str);
        let chosen = alg.and_then(accepted).and_then(|(algorithm, key_type)| {
            let listed = kid.and_then(|kid| self.key_set.key(kid, key_type));
            let shared = match key_type {
                KeyType::Symmetric => self.secret.as_ref(),
                KeyType::Rsa | KeyType::EllipticCurve | KeyType::OctetKeyPair => None,
            };
            Some((algorithm, listed.or(shared)?))
        });
        chosen.ok_or_else(|| TokenError::Signer {
            kid: kid.map(Box::from),
        })
    }
}

/// The algorithms that walcast verifies. ES512 and Ed448, which the reference also lists, are beyond the library.
fn accepted(alg: &str) -> Option<(Algorithm, KeyType)> {
    Some(match alg {
        "HS256" => (Algorithm::HS256, KeyType::Symmetric),
        "HS384" => (Algorithm::HS384, KeyType::Symmetric),
        "HS512" => (Algorithm::HS512, KeyType::Symmetric),
        "RS256" => (Algorithm::RS256, KeyType::Rsa),
        "RS384" => (Algorithm::RS384, KeyType::Rsa),
        "RS512" => (Algorithm::RS512, KeyType::Rsa),
        "ES256" => (Algorithm::ES256, KeyType::EllipticCurve),
        "ES384" => (Algorithm::ES384, KeyType::EllipticCurve),
        "EdDSA" | "Ed25519" => (Algorithm::EdDSA, KeyType::OctetKeyPair),
        _ => return None,
    })
}

/// Role and expiration. Who signed a token is known here, so that the answers may be precise.
fn check(claims: &Map<String, Value>, unix_now: i64) -> Result<(&str, i64), TokenError> {
    let role = claims.get("role").and_then(Value::as_str);
    let exp = claims.get("exp").filter(|exp| !exp.is_null());
    let (role, exp) = role.zip(exp).ok_or(TokenError::MissingClaims)?;
    if claims.get("iat").is_some_and(|iat| !iat.is_number()) {
        return Err(TokenError::Malformed);
    }
    let exp = Seconds::of(exp).ok_or(TokenError::Expiration)?;
    if exp.floor < unix_now || (exp.floor == unix_now && exp.floor == exp.ceiling) {
        return Err(TokenError::Expired {
            seconds: unix_now.saturating_sub(exp.rounded),
        });
    }
    if exp.rounded <= unix_now {
        return Err(TokenError::Expiration);
    }
    Ok((role, exp.rounded))
}

/// A time that may have decimals.
struct Seconds {
    floor: i64,
    rounded: i64,
    ceiling: i64,
}

impl Seconds {
    fn of(value: &Value) -> Option<Self> {
        if let Some(whole) = value.as_i64() {
            return Some(Self {
                floor: whole,
                rounded: whole,
                ceiling: whole,
            });
        }
        let seconds = value.as_f64().filter(|seconds| seconds.is_finite())?;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "saturates, and so far away nothing else matters"
        )]
        let whole = |seconds: f64| seconds as i64;
        Some(Self {
            floor: whole(seconds.floor()),
            rounded: whole(seconds.round()),
            ceiling: whole(seconds.ceil()),
        })
    }
}

/// Tokens come percent-encoded from query strings and with line breaks from terminals (protocol.md §7.1).
fn clean(token: &str) -> Cow<'_, str> {
    let is_clean = |byte: &u8| *byte != b'%' && !byte.is_ascii_whitespace();
    if token.as_bytes().iter().all(is_clean) {
        return Cow::Borrowed(token);
    }
    let digit = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
    let mut cleaned = Vec::with_capacity(token.len());
    let mut rest = token.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        let escaped = match (byte, digit(after.first()), digit(after.get(1))) {
            (b'%', Some(high), Some(low)) => u8::try_from(high * 16 + low).ok(),
            _ => None,
        };
        if escaped.is_some() {
            rest = rest.get(2..).unwrap_or_default();
        }
        cleaned.push(escaped.unwrap_or(*byte));
    }
    cleaned.retain(|byte| !byte.is_ascii_whitespace());
    Cow::Owned(String::from_utf8_lossy(&cleaned).into_owned())
}

/// The bytes that a base64url text without padding stands for.
pub(super) fn base64url(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}

fn text(segment: &str) -> Result<String, TokenError> {
    let bytes = base64url(segment).ok_or(TokenError::Malformed)?;
    String::from_utf8(bytes).map_err(|_no_text| TokenError::Malformed)
}

/// Of equal keys the last counts, as it does to Postgres' `json` operators.
fn object(json: &str) -> Result<Map<String, Value>, TokenError> {
    serde_json::from_str(json).map_err(|_no_object| TokenError::Malformed)
}
