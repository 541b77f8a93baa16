//! Questions to Postgres and their answers.
//!
//! The answer describes the present, not the commit, so that it counts only if the row that Postgres returns has the
//! content that is about to be sent (rls-semantics.md §10).

use std::sync::Arc;

use super::Identity;
use crate::catalog::Table;

/// May this identity see these rows of this table, now?
#[derive(Clone, Debug)]
pub struct Question {
    /// Who asks.
    pub identity: Identity,
    /// Where.
    pub table: Arc<Table>,
    /// Indexes into the table's columns that are read and compared: those about to be sent, key included.
    pub columns: Arc<[usize]>,
    /// What is asked, in stream order. The answer has one element for each.
    pub rows: Vec<Row>,
    /// Look also, with the login role's own eyes, whether rows that the identity does not see are there with the
    /// expected content: [`Found::Hidden`] instead of [`Found::Missing`]. Costs a second query.
    pub confirm_hidden: bool,
}

/// One thing that is asked about.
#[derive(Clone, Debug)]
pub struct Row {
    /// Text forms of the primary key's columns, in key order; `None` if only the predicates are asked.
    pub key: Option<Box<[Box<str>]>>,
    /// Expected text form of each of [`Question::columns`].
    pub content: Box<[Expected]>,
    /// Boolean expressions over values that walcast cannot decide by itself.
    pub predicates: Box<[Predicate]>,
}

/// What a column must read for the answer to be about the version that was asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// SQL NULL.
    Null,
    /// This text.
    Text(Box<[u8]>),
    /// Anything: the stream left the value out (unchanged TOAST), and it will not be sent either.
    Any,
    /// Anything, for the stream left the value out. The version before had this one, which is sent only if it reads so.
    Supposed(Box<[u8]>),
}

/// A boolean expression that Postgres evaluates; NULL counts as false.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Predicate {
    /// SQL over `$1 … $n`, each used as `text`. Made of catalog names and fixed text only.
    pub sql: Arc<str>,
    /// Values of the parameters.
    pub parameters: Box<[Option<Box<str>>]>,
}

/// What Postgres said to one [`Question`].
#[derive(Clone, Debug)]
pub struct Asked {
    /// An answer for each row, or one trouble for all of them.
    pub result: Result<Vec<Answer>, Trouble>,
    /// A position read *after* the rows: whatever superseded a row before it was read starts before this.
    pub read_before: crate::change::Lsn,
    /// How long Postgres took.
    pub took: std::time::Duration,
}

/// What Postgres said about one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What became of the key; [`Found::Same`] if none was asked about.
    pub found: Found,
    /// Every [`Expected::Supposed`] column reads as supposed.
    pub as_supposed: bool,
    /// Truth of each predicate.
    pub predicates: Box<[bool]>,
}

/// How the row looks to the identity now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Visible with the expected content.
    Same,
    /// Visible with another content: a later transaction has changed it.
    Different,
    /// Hidden, changed into something hidden, or gone.
    Missing,
    /// There with the expected content, and hidden.
    Hidden,
}

/// Why a question has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Postgres raised this SQLSTATE.
    Raised(Box<str>),
    /// The statement timeout ended it.
    TimedOut,
    /// Somebody holds a lock on a table that it reads.
    Locked,
}
