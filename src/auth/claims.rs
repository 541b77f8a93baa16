//! The content of an accepted token.

/// The claims of an accepted token, kept as the JSON text that was signed: policies read them with Postgres' own JSON
/// operators, to which `1.0` and `1` are different texts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Claims {
    /// The JSON object, byte for byte.
    pub json: Box<str>,
    /// The `role` claim: a database role.
    pub role: Box<str>,
    /// The `sub` claim, if it is a string.
    pub subject: Option<Box<str>>,
    /// The `exp` claim in seconds since 1970, rounded; `None` only for configured keys, which do not expire.
    pub expires_at: Option<i64>,
}
