//! SQL text → syntax tree: expressions, queries, bodies of functions.
//!
//! Understands a closed grammar, by the precedence of Postgres's own; what it does not know is an error, so that
//! nothing is ever read as something else. Follows the Postgres manual, "SQL Syntax" and "PL/pgSQL".

mod expression;
mod lexer;
mod parser;
pub(crate) mod plpgsql;
mod query;
pub(crate) mod tree;

pub(crate) use parser::{expression, statements};

/// The text is nothing that we can read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct SyntaxError(Box<str>);

impl SyntaxError {
    fn new(what: impl Into<Box<str>>) -> Self {
        Self(what.into())
    }
}
