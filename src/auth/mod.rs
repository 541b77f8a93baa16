//! Tokens: what a subscriber proves about itself, and the claims that come of it.
//!
//! A token and the time go in; [`Claims`] or a [`TokenError`] come out. Follows protocol.md §7. Verification is
//! computation only: keys are configuration, and the time is an argument. Nothing here knows which roles the database
//! has.

mod claims;
mod keys;
mod mint;
mod token;

#[cfg(test)]
mod tests;

pub use claims::Claims;
pub use keys::{ApiKeys, KeyError};
pub use mint::{Grant, MintError, mint};
pub use token::{TokenError, Verifier};
