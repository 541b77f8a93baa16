use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, crypto};

use super::*;

const NOW: i64 = 1_760_000_000;
const SECRET: &str = "a shared secret of at least 32 bytes";
/// The `oct` key of the key set.
const LISTED_SECRET: &str = "a symmetric key of the key set, 256 bits";
const JWKS: &str = include_str!("../../tests/keys/jwks.json");
const GOOD: &str = r#"{"role":"authenticated","exp":1760003600,"sub":"u1"}"#;
const ANON: &str = "sb_publishable_0123456789";
const SERVICE: &str = "sb_secret_0123456789abcd";

fn rsa() -> EncodingKey {
    EncodingKey::from_rsa_der(include_bytes!("../../tests/keys/rsa.der"))
}

fn p256() -> EncodingKey {
    EncodingKey::from_ec_der(include_bytes!("../../tests/keys/p256.der"))
}

fn p384() -> EncodingKey {
    EncodingKey::from_ec_der(include_bytes!("../../tests/keys/p384.der"))
}

fn ed25519() -> EncodingKey {
    EncodingKey::from_ed_der(include_bytes!("../../tests/keys/ed25519.der"))
}

fn shared() -> EncodingKey {
    EncodingKey::from_secret(SECRET.as_bytes())
}

fn listed() -> EncodingKey {
    EncodingKey::from_secret(LISTED_SECRET.as_bytes())
}

fn verifier() -> Verifier {
    let api_keys = ApiKeys {
        publishable: Some(ANON.to_owned()),
        secret: Some(SERVICE.to_owned()),
    };
    Verifier::new(Some(SECRET), Some(JWKS), api_keys).unwrap()
}

fn token(header: &str, claims: &str, key: &EncodingKey, algorithm: Algorithm) -> String {
    let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let message = format!("{}.{}", encode(header), encode(claims));
    let signature = crypto::sign(message.as_bytes(), key, algorithm).unwrap();
    format!("{message}.{signature}")
}

/// A token with these claims, signed as the shared secret signs.
fn with_claims(claims: &str) -> String {
    token(r#"{"alg":"HS256"}"#, claims, &shared(), Algorithm::HS256)
}

fn verify(token: &str) -> Result<Arc<Claims>, TokenError> {
    verifier().verify(token, NOW)
}

fn signer_error(kid: Option<&str>) -> TokenError {
    TokenError::Signer {
        kid: kid.map(Box::from),
    }
}

#[track_caller]
fn check_key(
    header: &str,
    key: &EncodingKey,
    algorithm: Algorithm,
    expected: Result<(), TokenError>,
) {
    let result = verify(&token(header, GOOD, key, algorithm)).map(|_claims| ());
    assert_eq!(result, expected, "{header}");
}

#[track_caller]
fn check_claims(claims: &str, expected: Result<i64, TokenError>) {
    let result = verify(&with_claims(claims)).map(|claims| claims.expires_at.unwrap());
    assert_eq!(result, expected, "{claims}");
}

#[test]
fn the_header_chooses_among_the_configured_keys() {
    use Algorithm::*;
    let ok = || Ok(());
    check_key(r#"{"alg":"HS256","typ":"JWT"}"#, &shared(), HS256, ok());
    check_key(r#"{"alg":"HS384"}"#, &shared(), HS384, ok());
    check_key(r#"{"alg":"HS512"}"#, &shared(), HS512, ok());
    check_key(r#"{"alg":"HS256","kid":"oct"}"#, &listed(), HS256, ok());
    check_key(r#"{"alg":"HS256","kid":"other"}"#, &shared(), HS256, ok());
    check_key(r#"{"alg":"HS256","kid":"rsa"}"#, &shared(), HS256, ok());
    check_key(r#"{"alg":"HS256","kid":7}"#, &shared(), HS256, ok());
    check_key(r#"{"alg":"RS256","kid":"rsa"}"#, &rsa(), RS256, ok());
    check_key(r#"{"alg":"RS384","kid":"rsa"}"#, &rsa(), RS384, ok());
    check_key(r#"{"alg":"RS512","kid":"rsa"}"#, &rsa(), RS512, ok());
    check_key(r#"{"alg":"ES256","kid":"p256"}"#, &p256(), ES256, ok());
    check_key(r#"{"alg":"ES384","kid":"p384"}"#, &p384(), ES384, ok());
    check_key(
        r#"{"alg":"EdDSA","kid":"ed25519"}"#,
        &ed25519(),
        EdDSA,
        ok(),
    );
    check_key(
        r#"{"alg":"Ed25519","kid":"ed25519"}"#,
        &ed25519(),
        EdDSA,
        ok(),
    );
}

#[test]
fn without_a_matching_key_there_is_no_signer() {
    use Algorithm::*;
    let without = |kid: Option<&str>| Err(signer_error(kid));
    check_key(r#"{"alg":"RS256"}"#, &rsa(), RS256, without(None));
    check_key(
        r#"{"alg":"RS256","kid":"p256"}"#,
        &rsa(),
        RS256,
        without(Some("p256")),
    );
    check_key(
        r#"{"alg":"RS256","kid":"oct"}"#,
        &rsa(),
        RS256,
        without(Some("oct")),
    );
    check_key(
        r#"{"alg":"ES256","kid":"rsa"}"#,
        &p256(),
        ES256,
        without(Some("rsa")),
    );
    check_key(
        r#"{"alg":"EdDSA","kid":"p256"}"#,
        &ed25519(),
        EdDSA,
        without(Some("p256")),
    );
    check_key(
        r#"{"alg":"PS256","kid":"rsa"}"#,
        &rsa(),
        PS256,
        without(Some("rsa")),
    );
    check_key(
        r#"{"alg":"ES512","kid":"p384"}"#,
        &p384(),
        ES384,
        without(Some("p384")),
    );
    check_key(
        r#"{"alg":"Ed448","kid":"ed25519"}"#,
        &ed25519(),
        EdDSA,
        without(Some("ed25519")),
    );
    check_key(r#"{"alg":"none"}"#, &shared(), HS256, without(None));
    check_key(r#"{"alg":"hs256"}"#, &shared(), HS256, without(None));
    check_key(r#"{"alg":null}"#, &shared(), HS256, without(None));
    check_key("{}", &shared(), HS256, without(None));
    let nothing = Verifier::new(None, None, ApiKeys::default()).unwrap();
    assert_eq!(
        nothing.verify(&with_claims(GOOD), NOW),
        Err(signer_error(None))
    );
}

#[test]
fn a_signature_of_another_key_or_algorithm_is_refused() {
    use Algorithm::*;
    let refused = || Err(TokenError::Signature);
    check_key(r#"{"alg":"HS256"}"#, &listed(), HS256, refused());
    check_key(r#"{"alg":"HS256"}"#, &shared(), HS384, refused());
    check_key(
        r#"{"alg":"HS256","kid":"oct"}"#,
        &shared(),
        HS256,
        refused(),
    );
    check_key(r#"{"alg":"ES256","kid":"p384"}"#, &p256(), ES256, refused());
    check_key(r#"{"alg":"ES384","kid":"p256"}"#, &p256(), ES256, refused());
    check_key(r#"{"alg":"RS256","kid":"rsa"}"#, &rsa(), PS256, refused());
    // The public key is no secret: as an HMAC key it must open nothing.
    let public = EncodingKey::from_secret(JWKS.as_bytes());
    check_key(r#"{"alg":"HS256","kid":"rsa"}"#, &public, HS256, refused());
}

#[test]
fn a_token_that_was_changed_is_refused() {
    let good = with_claims(GOOD);
    let (message, signature) = good.rsplit_once('.').unwrap();
    let other = with_claims(r#"{"role":"service_role","exp":1760003600}"#);
    let (other_message, _) = other.rsplit_once('.').unwrap();
    for token in [
        format!("{other_message}.{signature}"),
        format!("{message}."),
        format!("{message}.AAAA"),
        format!("{message}.!"),
        format!("{message}.{signature}A"),
        format!("{message}.{signature}="),
    ] {
        assert_eq!(verify(&token), Err(TokenError::Signature), "{token}");
    }
}

#[test]
fn what_is_no_token_is_malformed() {
    let encode = |text: &[u8]| URL_SAFE_NO_PAD.encode(text);
    let header = encode(br#"{"alg":"HS256"}"#);
    let good = encode(GOOD.as_bytes());
    for token in [
        String::new(),
        "abc".to_owned(),
        "..".to_owned(),
        format!("{header}.{good}"),
        format!("{header}.{good}.x.y"),
        format!("{header}.{}.x", encode(b"[]")),
        format!("{header}.{}.x", encode(b"7")),
        format!("{header}.{}.x", encode(b"not json")),
        format!("{header}.{}.x", encode(b"\xff")),
        format!("{header}.{}.x", encode("[".repeat(10_000).as_bytes())),
        format!("{header}.*.x"),
        format!("{}.{good}.x", encode(b"[]")),
        format!("{}.{good}.x", encode(b"\"HS256\"")),
        "%".to_owned(),
        "%zz.%e2%82.é".to_owned(),
    ] {
        assert_eq!(verify(&token), Err(TokenError::Malformed), "{token}");
    }
}

#[test]
fn role_and_expiration_are_required() {
    let missing = || Err(TokenError::MissingClaims);
    check_claims("{}", missing());
    check_claims(r#"{"exp":1760003600}"#, missing());
    check_claims(r#"{"role":"anon"}"#, missing());
    check_claims(r#"{"role":"anon","exp":null}"#, missing());
    check_claims(r#"{"role":null,"exp":1760003600}"#, missing());
    check_claims(r#"{"role":7,"exp":1760003600}"#, missing());
    check_claims(r#"{"role":"","exp":1760003600}"#, Ok(1_760_003_600));
    check_claims(
        r#"{"role":"any \"role\" at all","exp":1760003600}"#,
        Ok(1_760_003_600),
    );
}

#[test]
fn the_expiration_must_be_in_the_future_once_rounded() {
    let expired = |seconds| Err(TokenError::Expired { seconds });
    let invalid = || Err(TokenError::Expiration);
    let check = |exp: &str, expected| {
        check_claims(&format!(r#"{{"role":"anon","exp":{exp}}}"#), expected);
    };
    check("1760000001", Ok(1_760_000_001));
    check("1760000000", expired(0));
    check("1759999990", expired(10));
    check("0", expired(NOW));
    check("-1", expired(NOW + 1));
    check("1760000000.4", invalid());
    check("1760000000.5", Ok(1_760_000_001));
    check("1760000001.2", Ok(1_760_000_001));
    check("1760000001.0", Ok(1_760_000_001));
    check("1759999999.6", expired(0));
    check("1.76e9", expired(0));
    check("1e300", Ok(i64::MAX));
    check("99999999999999999999", Ok(i64::MAX));
    check("1e999", invalid());
    check(r#""1760003600""#, invalid());
    check("true", invalid());
    check("{}", invalid());
}

#[test]
fn other_registered_claims_are_not_read_but_iat_is_a_number() {
    let check = |claim: &str, expected| {
        check_claims(
            &format!(r#"{{"role":"anon","exp":1760003600,{claim}}}"#),
            expected,
        );
    };
    let ok = || Ok(1_760_003_600);
    check(r#""iat":1760000000"#, ok());
    check(r#""iat":1760000000.25"#, ok());
    check(r#""iat":9999999999"#, ok());
    check(r#""iat":"1760000000""#, Err(TokenError::Malformed));
    check(r#""iat":null"#, Err(TokenError::Malformed));
    check(r#""nbf":9999999999,"aud":["x"],"iss":7"#, ok());
}

#[test]
fn claims_are_kept_byte_for_byte_and_the_last_of_equal_keys_counts() {
    let json = "{ \"role\":\"anon\", \"role\":\"authenticated\",\"exp\":1,\"exp\":1760003600.0,\n\"sub\":\"a\",\"sub\":\"b\",\"n\":1.0,\"m\":1e2,\"é\":\"\\u00e9\"}";
    let claims = verify(&with_claims(json)).unwrap();
    let expected = Claims {
        json: json.into(),
        role: "authenticated".into(),
        subject: Some("b".into()),
        expires_at: Some(1_760_003_600),
    };
    assert_eq!(*claims, expected);
}

#[test]
fn a_subject_that_is_no_text_is_none() {
    for sub in ["null", "7", "[]", r#"{"a":1}"#] {
        let json = format!(r#"{{"role":"anon","exp":1760003600,"sub":{sub}}}"#);
        assert_eq!(verify(&with_claims(&json)).unwrap().subject, None, "{sub}");
    }
    assert_eq!(
        verify(&with_claims(GOOD)).unwrap().subject.as_deref(),
        Some("u1")
    );
}

#[test]
fn tokens_are_decoded_and_stripped_first() {
    let good = with_claims(GOOD);
    let (first, last) = good.split_at(20);
    for token in [
        format!(" {good}\n"),
        format!("{first}\r\n\t{last}"),
        format!("{first}%0A{last}"),
        good.replace('.', "%2E"),
        good.replace('.', "%2e"),
    ] {
        assert!(verify(&token).is_ok(), "{token}");
    }
    assert_eq!(verify(&format!("{good}%")), Err(TokenError::Signature));
}

#[test]
fn api_keys_stand_for_roles_and_do_not_expire() {
    for (key, role) in [(ANON, "anon"), (SERVICE, "service_role")] {
        let expected = Claims {
            json: format!(r#"{{"role":"{role}"}}"#).into(),
            role: role.into(),
            subject: None,
            expires_at: None,
        };
        assert_eq!(*verifier().verify(key, i64::MAX).unwrap(), expected);
    }
    for key in [
        "sb_",
        "sb_publishable_",
        "sb_publishable_01234567890",
        "sb_secret_0123456789abce",
    ] {
        assert!(Verifier::is_api_key(key));
        assert_eq!(verify(key), Err(TokenError::Malformed), "{key}");
    }
    assert!(!Verifier::is_api_key("eyJhbGciOiJIUzI1NiJ9.e30.x"));
    let nothing = Verifier::new(Some(SECRET), None, ApiKeys::default()).unwrap();
    assert_eq!(nothing.verify(ANON, NOW), Err(TokenError::Malformed));
}

#[test]
fn keys_that_cannot_be_used_are_refused_at_the_start() {
    #[track_caller]
    fn check(secret: Option<&str>, jwks: Option<&str>, publishable: Option<&str>, expected: &str) {
        let api_keys = ApiKeys {
            publishable: publishable.map(str::to_owned),
            secret: None,
        };
        let result = Verifier::new(secret, jwks, api_keys).map(|_verifier| ());
        assert_eq!(result.unwrap_err().to_string(), expected);
    }
    let jwks = |key: &str| format!(r#"{{"keys":[{key}]}}"#);
    let empty = "the JWT secret is empty; leave it out or set one of 32 bytes or more";
    check(Some(""), None, None, empty);
    for text in ["", "[]", "{}", r#"{"keys":[{}]}"#] {
        let expected = r#"the JWKS is not a JSON object such as {"keys":[…]}"#;
        check(None, Some(text), None, expected);
    }
    for (kty, key) in [
        ("RSA", r#"{"kid":"a","kty":"RSA","n":"AQAB"}"#),
        ("RSA", r#"{"kid":"a","kty":"RSA","n":"AQAB","e":"*"}"#),
        ("EC", r#"{"kid":"a","kty":"EC","crv":"P-256","x":"AQAB"}"#),
        ("OKP", r#"{"kid":"a","kty":"OKP","crv":"Ed25519"}"#),
        ("oct", r#"{"kid":"a","kty":"oct","k":"*"}"#),
        ("oct", r#"{"kid":"a","kty":"oct","k":""}"#),
    ] {
        let expected = format!("key \"a\" of the JWKS is not a usable {kty} key");
        check(None, Some(&jwks(key)), None, &expected);
    }
    for key in ["eyJ0123456789abcdef", "sb_"] {
        let expected = "the publishable key must start with sb_ and have at least 16 bytes";
        check(None, None, Some(key), expected);
    }
    let unused = jwks(
        r#"{"kty":"RSA","n":"AQAB"},{"kid":"b","kty":"OKP","crv":"Ed448","x":"AA"},{"kid":"c","kty":"new"}"#,
    );
    assert!(Verifier::new(None, Some(&unused), ApiKeys::default()).is_ok());
}

#[test]
fn errors_are_said_as_each_border_says_them() {
    let check = |error: TokenError, connect: &str, join: &str, system: &str| {
        assert_eq!(error.connect_message(), connect);
        assert_eq!(error.join_reason(), join);
        assert_eq!(error.system_message(), system);
    };
    check(
        TokenError::Malformed,
        "The token provided is not a valid JWT",
        "MalformedJWT: The token provided is not a valid JWT",
        "The token provided is not a valid JWT",
    );
    check(
        TokenError::Signature,
        "Failed to validate JWT signature",
        "JwtSignatureError: Failed to validate JWT signature",
        ":signature_error",
    );
    check(
        signer_error(None),
        "Failed to generate JWT signer, check your JWT secret or JWKS configuration",
        "JwtSignerError: Failed to generate JWT signer, check your JWT secret or JWKS configuration",
        "Failed to generate JWT signer, check your JWT secret or JWKS configuration",
    );
    check(
        signer_error(Some("k1")),
        "Failed to generate JWT signer for key ID (kid) \"k1\", check your JWT secret or JWKS configuration",
        "JwtSignerError: Failed to generate JWT signer for key ID (kid) \"k1\", check your JWT secret or JWKS configuration",
        "Failed to generate JWT signer for key ID (kid) \"k1\", check your JWT secret or JWKS configuration",
    );
    check(
        TokenError::MissingClaims,
        "Fields `role` and `exp` are required in JWT",
        "InvalidJWTToken: Fields `role` and `exp` are required in JWT",
        "Fields `role` and `exp` are required in JWT",
    );
    check(
        TokenError::Expired { seconds: 12 },
        "Token has expired",
        "InvalidJWTToken: Token has expired 12 seconds ago",
        "Token has expired 12 seconds ago",
    );
    check(
        TokenError::Expiration,
        "Token has expired",
        "InvalidJWTToken: Token expiration time is invalid",
        "Token expiration time is invalid",
    );
}

#[test]
fn a_minted_token_is_accepted() {
    let grant = Grant {
        role: "authenticated",
        subject: Some("u1"),
        expires_at: NOW + 60,
        extra: Some(r#"{"org":7,"role":"service_role","n":1.50}"#),
    };
    let claims = verify(&mint(SECRET, &grant).unwrap()).unwrap();
    assert_eq!(&*claims.role, "authenticated");
    assert_eq!(claims.subject.as_deref(), Some("u1"));
    assert_eq!(claims.expires_at, Some(NOW + 60));
    assert!(claims.json.contains(r#""n":1.50"#), "{}", claims.json);
    let grant = Grant {
        role: "anon",
        expires_at: NOW + 1,
        ..Grant::default()
    };
    let claims = verify(&mint(SECRET, &grant).unwrap()).unwrap();
    assert_eq!(&*claims.json, r#"{"role":"anon","exp":1760000001}"#);
    let broken = Grant {
        extra: Some("[]"),
        ..grant
    };
    assert!(matches!(mint(SECRET, &broken), Err(MintError::Extra(_))));
}
