//! The keys that tokens are verified with: a shared secret, a key set, and two keys that are no tokens at all.
//!
//! Text from the configuration in, keys that can be used out. Follows protocol.md §7.2 and §7.3; RFC 7517, "JSON Web
//! Key (JWK) Format".

use std::fmt;
use std::hint::black_box;

use jsonwebtoken::DecodingKey;
use serde::Deserialize;

/// Keys that stand for a role instead of carrying claims (protocol.md §7.3); the reference leaves them to its gateway.
#[derive(Clone, Default)]
pub struct ApiKeys {
    /// `sb_publishable_…`: the role `anon`.
    pub publishable: Option<String>,
    /// `sb_secret_…`: the role `service_role`.
    pub secret: Option<String>,
}

/// Never shows a key.
impl fmt::Debug for ApiKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKeys").finish_non_exhaustive()
    }
}

/// The configured keys cannot be used. The operator's mistake; no message holds key material.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Anybody could sign with it.
    #[error("the JWT secret is empty; leave it out or set one of 32 bytes or more")]
    EmptySecret,
    /// The text is no key set.
    #[error("the JWKS is not a JSON object such as {{\"keys\":[…]}}")]
    KeySet(#[source] serde_json::Error),
    /// A key of a known type misses its parts, or they are not base64url without padding.
    #[error("key {kid:?} of the JWKS is not a usable {kty} key")]
    Key {
        /// Its `kid`.
        kid: String,
        /// Its `kty`.
        kty: String,
    },
    /// Such a key would be taken for a token, or match a token's beginning.
    #[error("the {name} key must start with sb_ and have at least {API_KEY_BYTES_MIN} bytes")]
    ApiKey {
        /// `publishable` or `secret`.
        name: &'static str,
    },
}

/// `sb_` and something that is not guessed by hand. Real keys have more than 40 bytes.
const API_KEY_BYTES_MIN: usize = 16;

/// How every key of [`ApiKeys`] starts, and no token.
pub(super) const API_KEY_PREFIX: &str = "sb_";

/// The `kty` of a key (RFC 7518, "Parameters for Elliptic Curve Keys" and its neighbours; RFC 8037).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeyType {
    Symmetric,
    Rsa,
    EllipticCurve,
    /// Ed25519; walcast verifies no Ed448.
    OctetKeyPair,
}

/// The usable keys of a key set.
#[derive(Clone, Default)]
pub(super) struct KeySet {
    keys: Vec<(String, KeyType, DecodingKey)>,
}

impl KeySet {
    /// Keys without `kid`, of other types and of curves that cannot be verified are left out: no token can choose them.
    pub(super) fn parse(text: &str) -> Result<Self, KeyError> {
        let set: JsonKeySet = serde_json::from_str(text).map_err(KeyError::KeySet)?;
        let mut keys = Vec::new();
        for key in set.keys {
            let Some(kid) = key.kid.clone() else {
                continue;
            };
            match key.decode() {
                Some(Some((key_type, key))) => keys.push((kid, key_type, key)),
                Some(None) => {}
                None => return Err(KeyError::Key { kid, kty: key.kty }),
            }
        }
        Ok(Self { keys })
    }

    pub(super) fn key(&self, kid: &str, key_type: KeyType) -> Option<&DecodingKey> {
        self.keys
            .iter()
            .find(|(id, of_type, _)| id == kid && *of_type == key_type)
            .map(|(_, _, key)| key)
    }
}

#[derive(Deserialize)]
struct JsonKeySet {
    keys: Vec<JsonKey>,
}

#[derive(Deserialize)]
struct JsonKey {
    kid: Option<String>,
    kty: String,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
    k: Option<String>,
}

impl JsonKey {
    /// `None` if the key is broken, `Some(None)` if walcast has no use for its type.
    #[expect(
        clippy::option_option,
        reason = "the two absences are told apart once, in KeySet::parse"
    )]
    fn decode(&self) -> Option<Option<(KeyType, DecodingKey)>> {
        let crv = self.crv.as_deref();
        let (key_type, key) = match &*self.kty {
            "oct" => {
                let secret = super::token::base64url(self.k.as_deref()?)?;
                if secret.is_empty() {
                    return None;
                }
                (KeyType::Symmetric, Ok(DecodingKey::from_secret(&secret)))
            }
            "RSA" => (
                KeyType::Rsa,
                DecodingKey::from_rsa_components(self.n.as_deref()?, self.e.as_deref()?),
            ),
            "EC" if matches!(crv, Some("P-256" | "P-384")) => (
                KeyType::EllipticCurve,
                DecodingKey::from_ec_components(self.x.as_deref()?, self.y.as_deref()?),
            ),
            "OKP" if crv == Some("Ed25519") => (
                KeyType::OctetKeyPair,
                DecodingKey::from_ed_components(self.x.as_deref()?),
            ),
            _ => return Some(None),
        };
        Some(Some((key_type, key.ok()?)))
    }
}

impl ApiKeys {
    pub(super) fn check(&self) -> Result<(), KeyError> {
        let named = [("publishable", &self.publishable), ("secret", &self.secret)];
        for (name, key) in named {
            let usable =
                |key: &String| key.starts_with(API_KEY_PREFIX) && key.len() >= API_KEY_BYTES_MIN;
            if key.as_ref().is_some_and(|key| !usable(key)) {
                return Err(KeyError::ApiKey { name });
            }
        }
        Ok(())
    }

    /// The role that `key` stands for.
    pub(super) fn role(&self, key: &str) -> Option<&'static str> {
        let is = |known: &Option<String>| known.as_ref().is_some_and(|known| equal(known, key));
        match (is(&self.secret), is(&self.publishable)) {
            (true, _) => Some("service_role"),
            (false, true) => Some("anon"),
            (false, false) => None,
        }
    }
}

/// Compares without telling by its duration how much of `given` is right; lengths may be known.
fn equal(known: &str, given: &str) -> bool {
    let difference = std::iter::zip(known.bytes(), given.bytes())
        .fold(0, |difference, (a, b)| black_box(difference | (a ^ b)));
    known.len() == given.len() && black_box(difference) == 0
}
