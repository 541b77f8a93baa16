//! WAL → transactions.
