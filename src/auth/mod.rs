//! Tokens: what a subscriber proves about itself, and the claims that come of it.
//!
//! Follows protocol.md §7. Verification is computation only: keys are configuration, and the time is an argument.

mod claims;

pub use claims::Claims;
