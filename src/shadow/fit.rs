//! Whether a table can be followed.
//!
//! What the catalogs say of a table and its publications goes in, its [`Layout`] or the reason against it comes out.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::layout::{Identity, Kept, Layout};
use super::spec::Spec;
use crate::policy::value::{self, Oid};

/// The catalogs about one table, in the snapshot that its rows are read in.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    /// `pg_class.relkind`.
    pub(super) kind: u8,
    /// `pg_class.relpersistence` is permanent.
    pub(super) permanent: bool,
    /// It belongs to the system.
    pub(super) system: bool,
    /// It is a partition of another table.
    pub(super) partition: bool,
    /// Tables inherit from it (not its partitions).
    pub(super) inherited: bool,
    /// `pg_class.relreplident`.
    pub(super) identity: u8,
    /// A partition has another one, or is foreign or not permanent.
    pub(super) has_odd_leaves: bool,
    /// Attribute numbers of the replica identity's index, of the primary key if it is all columns.
    pub(super) key: Vec<i16>,
    /// Live columns in order.
    pub(super) columns: Vec<ColumnFacts>,
    /// Partitions that hold rows.
    pub(super) leaves: BTreeSet<Oid>,
    /// What our publications say of it and of its partitions.
    pub(super) published: Vec<PublishedFacts>,
}

#[derive(Clone, Debug)]
pub(super) struct ColumnFacts {
    pub(super) name: Box<str>,
    pub(super) number: i16,
    pub(super) type_oid: Oid,
    pub(super) typmod: i32,
    pub(super) generated: bool,
}

/// A table in a publication.
#[derive(Clone, Debug)]
pub(super) struct PublishedFacts {
    pub(super) table: Oid,
    pub(super) insert: bool,
    pub(super) update: bool,
    pub(super) delete: bool,
    pub(super) truncate: bool,
    pub(super) filtered: bool,
    /// Attribute numbers, if there is a list.
    pub(super) columns: Option<Vec<i16>>,
}

/// A table that can be followed.
#[derive(Debug)]
pub(super) struct Fit {
    pub(super) layout: Layout,
    /// Relations whose changes are the table's: its partitions, unless changes carry the table's own OID.
    pub(super) leaves: BTreeSet<Oid>,
}

/// Why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Misfit {
    /// Until somebody changes the table or the publication.
    Unfit(Box<str>),
    /// The spec is of another time than the database.
    Outdated,
}

/// Judges.
pub(super) fn fit(spec: &Spec, facts: &Facts) -> Result<Fit, Misfit> {
    let unfit = |reason: &str| Err(Misfit::Unfit(reason.into()));
    if facts.system {
        return unfit("it belongs to the system");
    }
    if !matches!(facts.kind, b'r' | b'p') || !facts.permanent {
        return unfit("it is not an ordinary table");
    }
    if facts.partition {
        return unfit("it is a partition, whose changes may come under another table's name");
    }
    if facts.inherited {
        return unfit("other tables inherit from it");
    }
    if !is_described(spec, facts) {
        return Err(Misfit::Outdated);
    }
    let leaves = routes(spec.table, facts)?;
    let mut key = Vec::new();
    for number in &facts.key {
        match facts
            .columns
            .iter()
            .position(|column| column.number == *number)
        {
            Some(index) => key.push(index),
            None => return Err(Misfit::Outdated),
        }
    }
    match facts.identity {
        b'f' => {}
        b'd' | b'i' if !key.is_empty() => {}
        b'd' => return unfit("it has no primary key"),
        b'i' => return unfit("the index of its replica identity is gone"),
        _ => return unfit("it has no replica identity"),
    }
    if facts.has_odd_leaves || (facts.kind == b'p' && facts.identity == b'i') {
        return unfit("its partitions differ from it in kind or replica identity");
    }
    let columns = kept(spec, facts, &key)?;
    let places = |indexes: &[usize]| -> Vec<usize> {
        let place = |index: &usize| columns.iter().position(|kept| kept.index == *index);
        indexes.iter().filter_map(place).collect()
    };
    let key = places(&key);
    let lookups: Vec<Vec<usize>> = spec.lookups.iter().map(|lookup| places(lookup)).collect();
    let identity = match facts.identity {
        b'f' => Identity::Whole,
        _ => Identity::Key(key.clone().into()),
    };
    Ok(Fit {
        layout: Layout::new(
            Arc::clone(&spec.types),
            spec.columns.len(),
            columns,
            identity,
            &key,
            &lookups,
        ),
        leaves,
    })
}

fn is_described(spec: &Spec, facts: &Facts) -> bool {
    spec.columns.len() == facts.columns.len()
        && spec.columns.iter().zip(&facts.columns).all(|(a, b)| {
            (&*a.name, a.number, a.type_oid, a.typmod) == (&*b.name, b.number, b.type_oid, b.typmod)
        })
}

/// The partitions whose changes come under their own OIDs.
fn routes(table: Oid, facts: &Facts) -> Result<BTreeSet<Oid>, Misfit> {
    let unfit = |reason: &str| Err(Misfit::Unfit(reason.into()));
    let is_complete = |oid: Oid| {
        let mut any = (false, false, false, false);
        for entry in facts.published.iter().filter(|entry| entry.table == oid) {
            any.0 |= entry.insert;
            any.1 |= entry.update;
            any.2 |= entry.delete;
            any.3 |= entry.truncate;
        }
        any == (true, true, true, true)
    };
    let is_published = |oid: Oid| facts.published.iter().any(|entry| entry.table == oid);
    if facts.published.iter().any(|entry| entry.filtered) {
        return unfit("a publication filters its rows");
    }
    // Changes of partitions come under the OID of the root if any publication says so. But a TRUNCATE of one partition
    // does not come at all then (tests/it/shadow.rs).
    if facts.kind == b'p' && is_published(table) {
        return unfit(
            "it is published via its root (publish_via_partition_root), where a TRUNCATE of one partition does not show",
        );
    }
    let (tables, leaves) = if is_published(table) {
        (BTreeSet::from([table]), BTreeSet::new())
    } else {
        let has_list = |entry: &PublishedFacts| entry.columns.is_some();
        if facts.published.iter().any(has_list) {
            return unfit("a publication lists columns of its partitions");
        }
        (facts.leaves.clone(), facts.leaves.clone())
    };
    if tables.is_empty() || !tables.iter().all(|oid| is_published(*oid)) {
        return unfit("it is not published");
    }
    if !tables.iter().all(|oid| is_complete(*oid)) {
        return unfit("it is not published with insert, update, delete and truncate");
    }
    Ok(leaves)
}

/// The columns that are read, and those of the key.
fn kept(spec: &Spec, facts: &Facts, key: &[usize]) -> Result<Box<[Kept]>, Misfit> {
    let unfit = |name: &str, reason: &str| {
        Err(Misfit::Unfit(
            format!("its column {name:?} {reason}").into(),
        ))
    };
    let mut kept = Vec::new();
    for (index, column) in facts.columns.iter().enumerate() {
        let is_read = spec.reads.contains(&index);
        if !is_read && !key.contains(&index) {
            continue;
        }
        let is_published = |list: &Vec<i16>| list.contains(&column.number);
        if !(facts.published.iter())
            .filter_map(|entry| entry.columns.as_ref())
            .all(is_published)
        {
            return unfit(&column.name, "is not published");
        }
        if column.generated {
            return unfit(&column.name, "is generated");
        }
        if is_read && !value::supported(&spec.types, column.type_oid) {
            return unfit(&column.name, "is of a type that is not supported");
        }
        kept.push(Kept {
            index,
            name: column.name.clone(),
            type_oid: column.type_oid,
            typmod: column.typmod,
            is_read,
        });
    }
    Ok(kept.into())
}
