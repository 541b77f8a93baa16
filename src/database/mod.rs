//! Connections to Postgres, and identifiers as SQL.

mod quote;

pub use quote::quote_identifier;
