//! Verdicts: who may see a change.
//!
//! A transaction goes in; per change and identity comes out either a decision or a question to Postgres, whose answer
//! is a later input. Never hears of sockets, topics or filters' text.

pub mod builtin;
mod fallback;
mod identity;
mod question;
pub mod schema;
mod syntax;
pub mod value;

pub use fallback::{AskError, Asker};
pub use identity::Identity;
pub use question::{Answer, Asked, Expected, Found, Predicate, Question, Row, Trouble};
