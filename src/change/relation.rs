//! Relations: tables as the stream described them at one moment.

use super::Oid;

/// A table as a Relation message described it; in force for the changes that follow it in the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relation {
    /// `pg_class.oid`.
    pub oid: Oid,
    /// Schema name, unquoted; `pg_catalog` arrives as the empty string and is spelled out here.
    pub schema: Box<str>,
    /// Table name, unquoted.
    pub name: Box<str>,
    /// What old tuples carry.
    pub identity: ReplicaIdentity,
    /// Columns in attribute order, without dropped ones and without generated ones that are not published.
    pub columns: Box<[RelationColumn]>,
}

impl Relation {
    /// Position of the column `name` in this relation's tuples.
    #[must_use]
    pub fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| &*column.name == name)
    }
}

/// One column of a [`Relation`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelationColumn {
    /// Unquoted name.
    pub name: Box<str>,
    /// `pg_attribute.atttypid`.
    pub type_oid: Oid,
    /// `pg_attribute.atttypmod`; -1 for none.
    pub type_modifier: i32,
    /// Whether the column is part of the replica identity; set on every column under [`ReplicaIdentity::Full`].
    pub in_identity: bool,
}

/// What the stream carries of a row's old version (Postgres manual, `alter table … replica identity`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaIdentity {
    /// The primary key.
    Default,
    /// Nothing.
    Nothing,
    /// All columns.
    Full,
    /// The columns of a chosen unique index.
    Index,
}
