//! The statements of a snapshot, and a row of their answers as the stream would have carried it. Plain functions.
//!
//! Text is made of names from the catalog and of fixed words; what a client sent is a parameter.

use std::fmt::Write as _;
use std::sync::Arc;

use crate::catalog::{self, Access, Table};
use crate::change::{Datum, Relation, RelationColumn, ReplicaIdentity, Tuple, TupleBuilder};
use crate::database::quote_identifier;
use crate::pipeline::view::View;
use crate::routing::{SnapshotWish, TableFilter};

/// What the transaction begins with. No statement waits long for a lock: others would queue behind it. Planning the first
/// query anew takes several times as long as running it.
pub(super) const BEGIN: &str = "
    set local lock_timeout = '1s';
    set local plan_cache_mode = force_generic_plan;
    set local cursor_tuple_fraction = 1";

/// Settings of the subscriber, for the transaction. A generic plan would move the evaluation of stable expressions, and
/// with it which errors are raised (rls-semantics.md §10).
pub(super) const SETTINGS: &str = "select pg_catalog.set_config('plan_cache_mode', 'force_custom_plan', true), \
     pg_catalog.set_config('statement_timeout', $3, true), pg_catalog.set_config('request.jwt.claims', $2, true), \
     pg_catalog.set_config('role', $1, true)";

/// `$1` tables, `$2` publications. Whether a table is partitioned; on which condition its rows are published, `NULL` for
/// all; which of its columns are, as JSON lists. What versions before 15 do not have is read through `to_jsonb`.
pub(super) const FACTS: &str = "
    select c.oid, c.relkind = 'p',
        case when pg_catalog.count(*) = pg_catalog.count(pg_catalog.to_jsonb(v) ->> 'rowfilter') then
            pg_catalog.string_agg(pg_catalog.format('(%s)', pg_catalog.to_jsonb(v) ->> 'rowfilter'), ' or ') end,
        pg_catalog.jsonb_agg(pg_catalog.to_jsonb(v) -> 'attnames')::pg_catalog.text
    from pg_catalog.pg_class c
    join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    join pg_catalog.pg_publication_tables v on v.schemaname = n.nspname and v.tablename = c.relname
    where c.oid = any ($1) and v.pubname::pg_catalog.text = any ($2)
    group by c.oid, c.relkind";

/// `$1` tables, which the transaction has locked by reading them. Whether any of them was rewritten or truncated after the
/// snapshot: such a table looks empty to it (Postgres manual, "Caveats" of concurrency control). The scan of `pg_class`
/// speaks of the snapshot, the function of the present.
pub(super) const IS_REWRITTEN: &str = "
    with recursive parts (oid) as (
        select pg_catalog.unnest($1::pg_catalog.oid[])
        union
        select i.inhrelid from parts p join pg_catalog.pg_inherits i on i.inhparent = p.oid
    )
    select exists (
        select from parts p join pg_catalog.pg_class c on c.oid = p.oid
        where c.relkind = 'r' and c.relfilenode is distinct from pg_catalog.pg_relation_filenode(c.oid::pg_catalog.regclass))";

/// The snapshot, a position that is younger, the catalog's fingerprint (its two parameters), and the time in microseconds
/// since 1970.
pub(super) fn horizon() -> String {
    format!(
        "select pg_catalog.pg_current_snapshot()::pg_catalog.text, pg_catalog.pg_current_wal_insert_lsn()::pg_catalog.text, ({}),
            (pg_catalog.date_part('epoch', pg_catalog.transaction_timestamp()) * 1000000)::pg_catalog.int8",
        catalog::FINGERPRINT_SQL
    )
}

/// What the publications say of a table.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    pub(super) partitioned: bool,
    /// SQL over the table's columns.
    pub(super) row_filter: Option<String>,
    /// `None` for all.
    pub(super) columns: Option<Vec<String>>,
}

impl Facts {
    /// `lists` are the column lists of the publications, as a JSON array; a null in it means all columns.
    pub(super) fn new(partitioned: bool, row_filter: Option<String>, lists: &str) -> Self {
        let lists: Option<Vec<Option<Vec<String>>>> = serde_json::from_str(lists).ok();
        let lists: Option<Vec<Vec<String>>> = lists.unwrap_or_default().into_iter().collect();
        let columns = lists.map(|lists| lists.concat());
        Self {
            partitioned,
            row_filter,
            columns: columns.filter(|columns| !columns.is_empty()),
        }
    }
}

/// How one table is read for one binding.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) view: View,
    /// Columns of the relation that are sent.
    pub(super) sent: Arc<[bool]>,
    /// Columns of the relation that are read, in the order of the answer.
    read: Vec<usize>,
    pub(super) sql: String,
    /// All of type `text`.
    pub(super) parameters: Vec<String>,
}

impl Reading {
    pub(super) fn new(
        table: &Arc<Table>,
        access: &Access,
        facts: &Facts,
        filter: &TableFilter,
        wish: &SnapshotWish,
    ) -> Self {
        let view = view(table, facts);
        let sent = view.included(access, filter.columns.as_deref());
        let is_read = |index: &usize| {
            let name = view
                .relation
                .columns
                .get(*index)
                .map(|column| &*column.name);
            sent.get(*index).copied().unwrap_or(false)
                || filter.filter.columns().any(|column| Some(column) == name)
        };
        let read: Vec<usize> = (0..view.relation.columns.len()).filter(is_read).collect();
        let mut parameters = Vec::new();
        let sql = select(&view, &read, facts, filter, wish, &mut parameters);
        Self {
            view,
            sent,
            read,
            sql,
            parameters,
        }
    }

    /// The row as the stream would have carried it. Columns that are not read are neither sent nor tested.
    pub(super) fn tuple<'a>(&self, mut text: impl FnMut(usize) -> Option<&'a str>) -> Tuple {
        let mut builder = TupleBuilder::new();
        let mut answers = self.read.iter().enumerate().peekable();
        for index in 0..self.view.relation.columns.len() {
            let datum = match answers.next_if(|(_, read)| **read == index) {
                None => Datum::Unchanged,
                Some((place, _)) => match text(place) {
                    Some(text) => Datum::Text(text.as_bytes()),
                    None => Datum::Null,
                },
            };
            builder.push(datum);
        }
        builder.build()
    }

    /// Columns of an answer.
    pub(super) fn width(&self) -> usize {
        self.read.len()
    }
}

/// The table as the stream describes it.
pub(super) fn view(table: &Arc<Table>, facts: &Facts) -> View {
    let in_key = |index: &usize| table.primary_key.contains(index);
    let published = |name: &str| {
        let columns = facts.columns.as_ref();
        columns.is_none_or(|columns| columns.iter().any(|column| column == name))
    };
    let columns = table.columns.iter().enumerate();
    let columns = columns.filter(|(_, column)| !column.generated && published(&column.name));
    let relation = Relation {
        oid: table.oid,
        schema: table.schema.clone(),
        name: table.name.clone(),
        identity: table.identity,
        columns: columns
            .map(|(index, column)| RelationColumn {
                name: column.name.clone(),
                type_oid: column.type_oid,
                type_modifier: -1,
                in_identity: table.identity == ReplicaIdentity::Full || in_key(&index),
            })
            .collect(),
    };
    View::new(Arc::new(relation), Arc::clone(table))
}

fn select(
    view: &View,
    read: &[usize],
    facts: &Facts,
    filter: &TableFilter,
    wish: &SnapshotWish,
    parameters: &mut Vec<String>,
) -> String {
    let mut sql = String::from("select ");
    for (position, index) in read.iter().enumerate() {
        let Some(column) = view.relation.columns.get(*index) else {
            continue;
        };
        if position > 0 {
            sql.push_str(", ");
        }
        // The output function's text, unlike a cast; `is null` would be true for a composite value of NULLs.
        let name = quote_identifier(&column.name);
        let _infallible = write!(
            sql,
            "case pg_catalog.num_nulls(t.{name}) when 0 then pg_catalog.concat(t.{name}) end"
        );
    }
    // Children of a table that is not partitioned are tables of their own to the stream.
    let only = if facts.partitioned { "" } else { "only " };
    let _infallible = write!(
        sql,
        " from {only}{}.{} t where true",
        quote_identifier(&view.table.schema),
        quote_identifier(&view.table.name)
    );
    if let Some(condition) = &facts.row_filter {
        let _infallible = write!(sql, " and ({condition})");
    }
    filter.filter.restrict(&mut sql, "t", parameters);
    if wish.limit.is_some() || wish.order.is_some() {
        let key = view.table.primary_key.iter();
        let key = key.filter_map(|index| view.table.columns.get(*index));
        let key = key.map(|column| format!("t.{}", quote_identifier(&column.name)));
        let order = wish.order.iter().map(|order| {
            let direction = if order.descending { "desc" } else { "asc" };
            format!("t.{} {direction}", quote_identifier(&order.column))
        });
        let by: Vec<String> = order.chain(key).collect();
        let _infallible = write!(sql, " order by {}", by.join(", "));
    }
    if let Some(limit) = wish.limit {
        let _infallible = write!(sql, " limit {limit}");
    }
    sql
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::catalog::{Collation, Column, Published};
    use crate::routing::{Filter, SnapshotOrder};

    fn messages() -> Arc<Table> {
        let column = |name: &str, number, generated| Column {
            name: name.into(),
            number,
            type_oid: 25,
            collation: Collation::None,
            generated,
        };
        Arc::new(Table {
            oid: 7,
            schema: "pub\"lic".into(),
            name: "messages".into(),
            columns: [
                column("id", 1, false),
                column("made", 2, true),
                column("body", 3, false),
                column("secret", 4, false),
            ]
            .into(),
            primary_key: [0].into(),
            identity: ReplicaIdentity::Default,
            row_security: true,
            published: Published::default(),
            access: BTreeMap::new(),
        })
    }

    fn reading(facts: &Facts, wish: &SnapshotWish) -> Reading {
        let access = Access {
            columns: [true, true, true, false].into(),
            policies_apply: true,
        };
        let filter = TableFilter {
            filter: Filter::default(),
            columns: None,
        };
        Reading::new(&messages(), &access, facts, &filter, wish)
    }

    #[test]
    fn only_what_is_sent_is_read_and_names_are_quoted() {
        let text = |name: &str| {
            format!(
                "case pg_catalog.num_nulls(t.\"{name}\") when 0 then pg_catalog.concat(t.\"{name}\") end"
            )
        };
        let reading = reading(&Facts::default(), &SnapshotWish::default());
        assert_eq!(
            reading.sql,
            format!(
                "select {}, {} from only \"pub\"\"lic\".\"messages\" t where true",
                text("id"),
                text("body")
            )
        );
        let texts = [Some("1"), None];
        let tuple = reading.tuple(|place| texts[place]);
        let expected = [Datum::Text(b"1"), Datum::Null, Datum::Unchanged];
        assert_eq!(tuple.iter().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn order_limit_and_publication_are_followed() {
        let facts = Facts::new(
            true,
            Some("(id > '1'::text)".to_owned()),
            r#"[["id","secret"]]"#,
        );
        let wish = SnapshotWish {
            limit: Some(5),
            order: Some(SnapshotOrder {
                column: "bo\"dy".into(),
                descending: true,
            }),
        };
        let reading = reading(&facts, &wish);
        let (_, rest) = reading.sql.split_once(" from ").unwrap();
        assert_eq!(
            rest,
            "\"pub\"\"lic\".\"messages\" t where true and ((id > '1'::text)) order by t.\"bo\"\"dy\" desc, t.\"id\" limit 5"
        );
        assert_eq!(reading.width(), 1);
    }

    #[test]
    fn a_publication_without_a_list_publishes_all_columns() {
        for lists in ["null", "[null]", r#"[["id"],null]"#] {
            assert_eq!(Facts::new(false, None, lists).columns, None, "{lists}");
        }
        let both = Facts::new(false, None, r#"[["id"],["body"]]"#).columns;
        assert_eq!(both, Some(vec!["id".to_owned(), "body".to_owned()]));
    }
}
