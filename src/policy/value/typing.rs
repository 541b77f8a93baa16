//! The types of a database.

use std::collections::HashMap;
use std::sync::Arc;

use super::Oid;

/// The types that a schema knows.
#[derive(Debug, Default)]
pub struct Types {
    map: HashMap<Oid, Arc<Type>>,
}

/// One type.
#[derive(Clone, Debug)]
pub struct Type {
    /// `pg_type.oid`.
    pub oid: Oid,
    /// Schema name, unquoted.
    pub schema: Box<str>,
    /// `pg_type.typname`.
    pub name: Box<str>,
    /// What it is made of.
    pub kind: Kind,
    /// `pg_type.typcategory`.
    pub category: u8,
    /// `pg_type.typispreferred`.
    pub preferred: bool,
    /// Default collation of the type; 0 if it is not collatable.
    pub collation: Oid,
    /// The array type over this one; 0 without.
    pub array: Oid,
    /// Separates array elements in text form.
    pub delimiter: u8,
}

#[cfg(test)]
impl Type {
    /// A type with nothing particular about it.
    pub(crate) fn plain(oid: Oid, kind: Kind) -> Self {
        Self {
            oid,
            schema: "pg_catalog".into(),
            name: format!("type{oid}").into(),
            kind,
            category: b'U',
            preferred: false,
            collation: 0,
            array: 0,
            delimiter: b',',
        }
    }
}

/// What a type is made of.
#[derive(Clone, Debug)]
pub enum Kind {
    /// A type with representations of its own.
    Base,
    /// A true array type (`typsubscript` is the array handler and of variable length).
    Array {
        /// Type of its elements.
        element: Oid,
    },
    /// A domain.
    Domain {
        /// The type below, perhaps a domain itself.
        base: Oid,
        /// Modifier of the type below.
        typmod: i32,
        /// It or a domain below it has CHECK constraints or NOT NULL.
        constrained: bool,
    },
    /// An enumeration.
    Enum {
        /// Labels in their order.
        labels: Arc<[Arc<str>]>,
    },
    /// A row type.
    Composite {
        /// The table that it belongs to, if it is a table's row type or stand-alone: `pg_type.typrelid`.
        relation: Oid,
        /// Its live columns.
        fields: Arc<[Field]>,
    },
    /// Ranges, multiranges: not supported.
    Range,
    /// `record`, `anyelement`, `void` and the like.
    Pseudo,
}

/// A column of a row type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Unquoted name.
    pub name: Box<str>,
    /// Its type.
    pub type_oid: Oid,
    /// Its modifier.
    pub typmod: i32,
}

impl Types {
    /// Adds or replaces a type.
    pub fn insert(&mut self, item: Arc<Type>) {
        self.map.insert(item.oid, item);
    }

    /// Finds a type.
    #[must_use]
    pub fn find(&self, oid: Oid) -> Option<&Arc<Type>> {
        self.map.get(&oid)
    }

    /// All types, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Type>> {
        self.map.values()
    }

    /// The type below all domains.
    #[must_use]
    pub fn base(&self, mut type_oid: Oid) -> Oid {
        while let Some(Kind::Domain { base, .. }) = self.find(type_oid).map(|found| &found.kind) {
            type_oid = *base;
        }
        type_oid
    }

    /// Type of an array's elements, also below a domain.
    #[must_use]
    pub fn element(&self, type_oid: Oid) -> Option<Oid> {
        match self.find(self.base(type_oid)).map(|found| &found.kind) {
            Some(Kind::Array { element }) => Some(*element),
            _ => None,
        }
    }

    /// The array type over a type.
    #[must_use]
    pub fn array_over(&self, type_oid: Oid) -> Option<Oid> {
        self.find(type_oid)
            .map(|found| found.array)
            .filter(|array| *array != 0)
    }

    /// Name for operators.
    #[must_use]
    pub fn name(&self, type_oid: Oid) -> String {
        match self.find(type_oid) {
            Some(found) if &*found.schema == "pg_catalog" => found.name.to_string(),
            Some(found) => format!("{}.{}", found.schema, found.name),
            None => format!("type {type_oid}"),
        }
    }
}

/// OIDs of built-in types, fixed in `pg_type.dat`.
pub mod oid {
    #![allow(missing_docs, reason = "each is named as its type")]
    use super::Oid;

    pub const BOOL: Oid = 16;
    pub const BYTEA: Oid = 17;
    pub const CHAR: Oid = 18;
    pub const NAME: Oid = 19;
    pub const INT8: Oid = 20;
    pub const INT2: Oid = 21;
    pub const INT4: Oid = 23;
    pub const TEXT: Oid = 25;
    pub const OID: Oid = 26;
    pub const JSON: Oid = 114;
    pub const FLOAT4: Oid = 700;
    pub const FLOAT8: Oid = 701;
    pub const UNKNOWN: Oid = 705;
    pub const BPCHAR: Oid = 1042;
    pub const VARCHAR: Oid = 1043;
    pub const DATE: Oid = 1082;
    pub const TIME: Oid = 1083;
    pub const TIMESTAMP: Oid = 1114;
    pub const TIMESTAMPTZ: Oid = 1184;
    pub const INTERVAL: Oid = 1186;
    pub const TIMETZ: Oid = 1266;
    pub const BIT: Oid = 1560;
    pub const VARBIT: Oid = 1562;
    pub const NUMERIC: Oid = 1700;
    pub const RECORD: Oid = 2249;
    pub const ANYARRAY: Oid = 2277;
    pub const VOID: Oid = 2278;
    pub const ANYELEMENT: Oid = 2283;
    pub const ANYNONARRAY: Oid = 2776;
    pub const UUID: Oid = 2950;
    pub const ANYENUM: Oid = 3500;
    pub const JSONB: Oid = 3802;
    pub const ANYRANGE: Oid = 3831;
    pub const ANYCOMPATIBLE: Oid = 5077;
    pub const ANYCOMPATIBLEARRAY: Oid = 5078;
    pub const ANYCOMPATIBLENONARRAY: Oid = 5079;
    pub const ANYCOMPATIBLERANGE: Oid = 5080;
    pub const INT4_ARRAY: Oid = 1007;
    pub const TEXT_ARRAY: Oid = 1009;
    pub const UUID_ARRAY: Oid = 2951;
}
