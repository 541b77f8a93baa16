//! `walcast token`: a signed token for development and tests.

use std::time::Duration;

use serde_json::{Map, Value};

use crate::auth::{Grant, MintError, mint};
use crate::config::{Config, Secret};

/// What the token says.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) role: String,
    pub(super) subject: Option<String>,
    /// How long it is valid.
    pub(super) lifetime: Duration,
    /// `NAME=JSON`, each.
    pub(super) claims: Vec<String>,
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub(super) enum TokenCommandError {
    #[error("no secret to sign with: set WALCAST_JWT_SECRET")]
    NoSecret,
    #[error("--claim {claim}: expected NAME=JSON, such as org=7 or name='\"ann\"'")]
    Claim { claim: String },
    #[error(transparent)]
    Mint(#[from] MintError),
}

/// Signs the token with the shared secret.
///
/// # Errors
/// The operator gave no secret, or a claim that is no JSON.
pub(super) fn make(
    config: &Config,
    wanted: &Wanted,
    unix_now: i64,
) -> Result<String, TokenCommandError> {
    let secret = config
        .jwt_secret
        .as_ref()
        .map(Secret::expose)
        .ok_or(TokenCommandError::NoSecret)?;
    let mut extra = Map::new();
    extra.insert("iat".to_owned(), unix_now.into());
    for claim in &wanted.claims {
        let (name, value) = parse(claim).ok_or_else(|| TokenCommandError::Claim {
            claim: claim.clone(),
        })?;
        extra.insert(name, value);
    }
    let lifetime = i64::try_from(wanted.lifetime.as_secs()).unwrap_or(i64::MAX);
    let grant = Grant {
        role: &wanted.role,
        subject: wanted.subject.as_deref(),
        expires_at: unix_now.saturating_add(lifetime),
        extra: Some(&Value::Object(extra).to_string()),
    };
    Ok(mint(secret, &grant)?)
}

fn parse(claim: &str) -> Option<(String, Value)> {
    let (name, json) = claim.split_once('=')?;
    if name.is_empty() {
        return None;
    }
    Some((name.to_owned(), serde_json::from_str(json).ok()?))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::auth::{ApiKeys, Verifier};
    use crate::config::Sources;

    const SECRET: &str = "a secret that is long enough for a test";

    fn config() -> Config {
        let environment = BTreeMap::from([("WALCAST_JWT_SECRET".to_owned(), SECRET.to_owned())]);
        Config::parse(&Sources {
            environment,
            ..Sources::default()
        })
        .expect("valid")
    }

    fn wanted(claims: &[&str]) -> Wanted {
        Wanted {
            role: "authenticated".to_owned(),
            subject: Some("ann".to_owned()),
            lifetime: Duration::from_secs(60),
            claims: claims.iter().map(|claim| (*claim).to_owned()).collect(),
        }
    }

    #[test]
    fn the_server_accepts_what_was_made_here() {
        let token = make(&config(), &wanted(&["org=7", r#"name="x""#]), 1_000).expect("a token");
        let verifier = Verifier::new(Some(SECRET), None, ApiKeys::default()).expect("keys");
        let claims = verifier.verify(&token, 1_030).expect("accepted");
        assert_eq!(
            (&*claims.role, claims.subject.as_deref(), claims.expires_at),
            ("authenticated", Some("ann"), Some(1_060))
        );
        assert!(
            claims.json.contains(r#""org":7"#) && claims.json.contains(r#""name":"x""#),
            "{}",
            claims.json
        );
        assert!(verifier.verify(&token, 1_061).is_err());
    }

    #[test]
    fn a_claim_that_is_no_json_is_refused_with_an_example() {
        for wrong in ["org", "=1", "org=acme"] {
            let error = make(&config(), &wanted(&[wrong]), 0).expect_err("refused");
            assert!(
                error
                    .to_string()
                    .starts_with(&format!("--claim {wrong}: expected NAME=JSON")),
                "{error}"
            );
        }
    }

    #[test]
    fn without_a_secret_there_is_no_token() {
        let config = Config::parse(&Sources::default()).expect("valid");
        assert!(matches!(
            make(&config, &wanted(&[]), 0),
            Err(TokenCommandError::NoSecret)
        ));
    }
}
