//! Verdicts: who may see a change.
//!
//! A transaction goes in; per change and identity comes out either a decision or a question to Postgres, whose answer
//! is a later input. Never hears of sockets, topics or filters' text.

mod audience;
pub mod builtin;
mod compile;
mod eval;
mod fallback;
mod identity;
mod ir;
mod question;
pub mod schema;
mod syntax;
pub mod value;

pub use compile::{compile, compile_condition};
pub use eval::{ClaimKey, KnownClaims, Tables, Tuple, Verdict, Weights, World};
pub use fallback::{AskError, Asker};
pub use identity::Identity;
pub use ir::{Plan, Reads, Refusal};
pub use question::{Answer, Asked, Expected, Found, Predicate, Question, Row, Trouble};
pub use syntax::{Parts, parts};
