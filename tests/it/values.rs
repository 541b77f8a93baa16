//! Values are rendered as the server at hand renders them: our JSON of its text forms against its own `to_jsonb`.

use std::collections::HashMap;
use std::sync::Arc;

use tokio_postgres::{Client, SimpleQueryMessage};
use walcast::catalog::{Catalog, Type, TypeKind};
use walcast::change::{
    Change, ChangeKind, Commit, Datum, Epoch, Lsn, Oid, PgTime, Relation, RelationColumn,
    ReplicaIdentity, TupleBuilder, Xid,
};
use walcast::realtime::payload::{CHANGE_BYTES_MAX, OldShape, RenderAs, Shape, render};
use walcast::testing::Cluster;

#[path = "../../src/realtime/render/cases.rs"]
mod cases;

const SCHEMA: &str = include_str!("rendering.sql");

/// The settings of walcast's own sessions, and a locale for `money`.
const SETTINGS: &str =
    "set datestyle = 'ISO'; set intervalstyle = 'postgres'; set timezone = 'UTC';
    set extra_float_digits = 1; set bytea_output = 'hex'; set lc_monetary = 'C';
    set client_min_messages = 'warning';";

/// Values that nobody thought of: a type, and an expression over `i` (1 to 1000) and `random()`.
const RANDOM: &[(&str, &str)] = &[
    ("float8", "((random() - 0.5) * 10 ^ (random() * 600 - 300))"),
    ("float4", "((random() - 0.5) * 10 ^ (random() * 70 - 35))"),
    (
        "float8[]",
        "array[random(), 1 / random(), -random() * 1e-7, 'NaN', null]",
    ),
    (
        "numeric",
        "(round((random() * 10 ^ (random() * 30))::numeric, (random() * 20)::int4))",
    ),
    ("int8", "((random() - 0.5) * 1.8e19)"),
    (
        "timestamp",
        "'epoch'::timestamp + (random() - 0.5) * interval '8000 years'",
    ),
    (
        "timestamptz",
        "'epoch'::timestamptz + (random() - 0.5) * interval '8000 years'",
    ),
    (
        "timestamptz",
        "'epoch'::timestamptz + round(random() * 1e9) * interval '1 ms'",
    ),
    ("date", "'epoch'::date + ((random() - 0.5) * 3e6)::int4"),
    (
        "interval",
        "(random() - 0.5) * interval '20 years 3 days 04:05:06'",
    ),
    (
        "text",
        "(select string_agg(chr((1 + random() * 250)::int4), '') from generate_series(0, i % 40))",
    ),
    (
        "text[]",
        "(select array_agg(nullif(chr((31 + random() * 100)::int4) || repeat(' ', n % 2), '!')) from generate_series(0, i % 9) n)",
    ),
    (
        "json",
        "(select json_object_agg(chr(97 + (random() * 5)::int4) || repeat('é', n % 3), row(n, chr((1 + random() * 126)::int4), random() * 10 ^ n)) from generate_series(0, i % 9) n)",
    ),
    (
        "jsonb",
        "(select jsonb_object_agg(md5(n::text), array[[n, -n], [random(), n * 1e30]]) from generate_series(0, i % 9) n)",
    ),
    ("bytea", "decode(md5(i::text), 'hex')"),
    (
        "tstzrange",
        "tstzrange('epoch', 'epoch'::timestamptz + random() * interval '8000 years')",
    ),
    (
        "walcast_rendering.pair",
        "row(i, chr((31 + random() * 100)::int4) || chr((31 + random() * 100)::int4))",
    ),
    (
        "walcast_rendering.pair[]",
        "array[row(i, chr((31 + random() * 100)::int4)), row(null, chr((31 + random() * 100)::int4))]::walcast_rendering.pair[]",
    ),
];

/// Every value of the table of cases, and a thousand random ones per kind.
#[tokio::test]
async fn values_are_rendered_as_to_jsonb_renders_them() {
    let cluster = Cluster::shared();
    let client = &*cluster.connect(&cluster.empty_database()).await;
    client.batch_execute(SCHEMA).await.unwrap();
    client.batch_execute(SETTINGS).await.unwrap();
    let catalog = catalog(client).await;
    let mut compared = 0;
    for (sql_type, text, expected) in cases::CASES {
        let quoted = text.replace('\'', "''");
        let source = format!("(select '{quoted}'::{sql_type} as x) as v");
        for value in values(client, sql_type, &source).await {
            assert_eq!(value.text, *text, "{sql_type}: the text form");
            assert_eq!(
                value.json, *expected,
                "{sql_type} {text}: the server's JSON"
            );
            value.check(&catalog);
            compared += 1;
        }
    }
    client.batch_execute("select setseed(0.5)").await.unwrap();
    for (sql_type, expression) in RANDOM {
        let source = format!(
            "(select ({expression})::{sql_type} as x from generate_series(1, 1000) i) as v"
        );
        for value in values(client, sql_type, &source).await {
            value.check(&catalog);
            compared += 1;
        }
    }
    println!("{compared} values agree");
}

/// A value as the server has it.
struct Value {
    oid: Oid,
    text: String,
    /// Compact.
    json: String,
}

impl Value {
    #[track_caller]
    fn check(&self, catalog: &Catalog) {
        let rendered = rendered(catalog, self.oid, &self.text);
        assert_eq!(
            rendered, self.json,
            "type {}, text {:?}",
            self.oid, self.text
        );
    }
}

/// The values `x` of `source`, with the JSON that protocol.md §4.2 wants of a column.
async fn values(client: &Client, sql_type: &str, source: &str) -> Vec<Value> {
    let json = match sql_type {
        "bytea" | "walcast_rendering.blob" => "to_jsonb(encode(x, 'hex'))",
        "float4" | "float8" | "numeric" => {
            "case when x::text in ('NaN', 'Infinity', '-Infinity') then 'null' else to_jsonb(x) end"
        }
        _ => "to_jsonb(x)",
    };
    let query = format!(
        "select '{sql_type}'::regtype::oid, format('%s', x), ({json})::text from {source} where x is distinct from null"
    );
    let rows = client.simple_query(&query).await.unwrap();
    let value = |row: SimpleQueryMessage| match row {
        SimpleQueryMessage::Row(row) => Some(Value {
            oid: row.get(0).unwrap().parse().unwrap(),
            text: row.get(1).unwrap().to_owned(),
            json: compact(row.get(2).unwrap()),
        }),
        _ => None,
    };
    rows.into_iter().filter_map(value).collect()
}

/// `jsonb` prints blanks after colons and commas.
fn compact(json: &str) -> String {
    serde_json::from_str::<serde_json::Value>(json)
        .unwrap()
        .to_string()
}

/// What the value becomes in a column of an inserted row.
fn rendered(catalog: &Catalog, oid: Oid, text: &str) -> String {
    let column = RelationColumn {
        name: "x".into(),
        type_oid: oid,
        type_modifier: -1,
        in_identity: true,
    };
    let relation = Relation {
        oid: 1,
        schema: "public".into(),
        name: "t".into(),
        identity: ReplicaIdentity::Default,
        columns: [column].into(),
    };
    let mut new = TupleBuilder::new();
    new.push(Datum::Text(text.as_bytes()));
    let change = Change {
        relation: Arc::new(relation),
        order: 0,
        kind: ChangeKind::Insert { new: new.build() },
    };
    let commit = Commit {
        epoch: Epoch(0),
        lsn: Lsn::ZERO,
        end_lsn: Lsn::ZERO,
        time: PgTime(0),
        xid: Xid(0),
    };
    let shape = Shape {
        columns: &[true],
        key: &[true],
        old: OldShape::Full,
        size_max: CHANGE_BYTES_MAX,
    };
    let mut out = Vec::new();
    assert!(render(
        &mut out,
        catalog,
        &commit,
        &change,
        &shape,
        RenderAs::AsWritten
    ));
    let data: HashMap<&str, &serde_json::value::RawValue> = serde_json::from_slice(&out).unwrap();
    let record: HashMap<&str, &serde_json::value::RawValue> =
        serde_json::from_str(data["record"].get()).unwrap();
    record["x"].get().to_owned()
}

/// The types of `rendering.sql`.
async fn catalog(client: &Client) -> Catalog {
    const TYPES: &str = "select t.oid, t.typname::text, t.typtype::text, t.typelem, t.typbasetype,
            t.typelem <> 0 and t.typcategory = 'A' as is_array,
            array(select a.attname::text from pg_attribute a where a.attrelid = t.typrelid
                and a.attnum > 0 and not a.attisdropped order by a.attnum),
            array(select a.atttypid from pg_attribute a where a.attrelid = t.typrelid
                and a.attnum > 0 and not a.attisdropped order by a.attnum)
        from pg_type t where t.typnamespace = 'walcast_rendering'::regnamespace";
    let mut catalog = Catalog::default();
    for row in client.query(TYPES, &[]).await.unwrap() {
        let oid: Oid = row.get(0);
        let name: &str = row.get(1);
        let kind = match row.get::<_, &str>(2) {
            "d" => TypeKind::Domain { base: row.get(4) },
            "c" => {
                let (names, oids): (Vec<&str>, Vec<Oid>) = (row.get(6), row.get(7));
                let fields = std::iter::zip(names, oids);
                TypeKind::Composite {
                    fields: fields.map(|(name, oid)| (name.into(), oid)).collect(),
                }
            }
            "e" => TypeKind::Enum { labels: [].into() },
            "r" => TypeKind::Range,
            "m" => TypeKind::Multirange,
            _ if row.get(5) => TypeKind::Array {
                element: row.get(3),
                delimiter: b',',
            },
            _ => TypeKind::Base,
        };
        let found = Type {
            oid,
            name: name.into(),
            sql_name: name.into(),
            kind,
        };
        catalog.types.insert(oid, Arc::new(found));
    }
    catalog
}
