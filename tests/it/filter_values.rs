//! Filters against Postgres itself: for many types, operators and values, walcast must decide as Postgres does.

use serde_json::json;
use serde_json::value::to_raw_value;
use tokio_postgres::Client;
use tokio_postgres::types::Type as WireType;
use walcast::catalog::{Catalog, Table, load};
use walcast::change::{Datum, Relation, RelationColumn, TupleBuilder};
use walcast::policy::Predicate;
use walcast::routing::{Binding, Match, RequestedBinding, ResolveError, resolve};

/// A column type, values of it, and what they are compared with.
struct Samples {
    /// Type and collation, as in `create table`.
    column: &'static str,
    /// What values are cast to in a comparison.
    cast: &'static str,
    rows: &'static [&'static str],
    operands: &'static [&'static str],
}

const INTEGERS: &[&str] = &[
    "0", "1", "-1", "7", "32767", "-32768", "+5", " 5 ", "007", "-0",
];
const WORDS: &[&str] = &[
    "", " ", "a", "A", "b", "ab", "Ab", "aB", "a ", "a  ", " a", "ID", "id", "Id5", "iD", "ı", "I",
    "i", "straße", "STRASSE", "é", "É", "e\u{301}", "日本", "a%b", "a_b", "a\\b", "a\\", "%", "_",
    "Z", "z", "zz", "a,b", "(a)", "\"q\"",
];
const PATTERNS: &[&str] = &[
    "%", "_", "a%", "%b", "%a%", "a_", "__", "A%", "i%", "I_", "id%", "a\\%b", "a\\_b", "a\\\\b",
    "\\a", "%\\", "\\", "é%", "É", "_%_", "%a%b%", "", "日_", "stra%e", "a%%b", "I",
];
const EXPRESSIONS: &[&str] = &[
    "^a",
    "b$",
    "[aé]",
    ".",
    "",
    "(",
    "a{2,1}",
    "\\d",
    "id",
    "[[:upper:]]",
    "a|b",
];
const STAMPS: &[&str] = &[
    "2024-02-29 12:34:56.789",
    "2024-02-29",
    "infinity",
    "-infinity",
    "0044-03-15 00:00:00 BC",
    "0001-01-01 00:00:00",
    "99999-12-31 23:59:59.999999",
    "1970-01-01 00:00:00",
    "2024-02-29 12:34:56.78",
    "epoch",
];

fn samples() -> Vec<Samples> {
    let same = |column, values| Samples {
        column,
        cast: column,
        rows: values,
        operands: values,
    };
    let words = |column, cast| Samples {
        column,
        cast,
        rows: WORDS,
        operands: WORDS,
    };
    vec![
        same("int2", INTEGERS),
        same(
            "int4",
            &[
                "0",
                "1",
                "-1",
                "2147483647",
                "-2147483648",
                "42",
                "2147483648",
                "hey",
                "1.5",
                "",
            ],
        ),
        same(
            "int8",
            &[
                "0",
                "-1",
                "9007199254740993",
                "9223372036854775807",
                "-9223372036854775808",
                "0x10",
            ],
        ),
        same("oid", &["0", "1", "4294967295", "-1"]),
        same(
            "bool",
            &["t", "f", "true", "false", "yes", "off", "1", "maybe"],
        ),
        same(
            "uuid",
            &[
                "00000000-0000-0000-0000-000000000000",
                "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11",
                "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
                "{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a12}",
                "a0eebc999c0b4ef8bb6d6bb9bd380a11",
                "ffffffff-ffff-ffff-ffff-ffffffffffff",
                "nope",
            ],
        ),
        words("text", "text"),
        words("text collate \"C\"", "text"),
        words("text collate \"en-x-icu\"", "text"),
        words("text collate \"tr-x-icu\"", "text"),
        words("text collate walcast_filters.caseless", "text"),
        words("varchar", "varchar"),
        words("varchar(40) collate \"POSIX\"", "varchar"),
        words("char(5)", "bpchar"),
        words("char(5) collate \"C\"", "bpchar"),
        words("name", "name"),
        words("walcast_filters.short", "text"),
        same(
            "numeric",
            &[
                "0",
                "0.00",
                "-0",
                "1",
                "1.0",
                "1.50",
                "1.5",
                "-1.5",
                "100",
                "1e2",
                "99.999",
                "0.001",
                "NaN",
                "Infinity",
                "-Infinity",
                "123456789012345678901234567890.10",
                "123456789012345678901234567890.1",
                ".5",
                "abc",
            ],
        ),
        same(
            "float4",
            &[
                "0",
                "-0",
                "0.1",
                "1.5",
                "1e-45",
                "3.4e38",
                "NaN",
                "Infinity",
                "-Infinity",
                "16777217",
                "1e40",
            ],
        ),
        same(
            "float8",
            &[
                "0",
                "-0",
                "0.1",
                "0.1000000000000000055",
                "1e-300",
                "5e-324",
                "1e308",
                "NaN",
                "inf",
                "-inf",
                "9007199254740993",
            ],
        ),
        same(
            "date",
            &[
                "2024-02-29",
                "2024-03-01",
                "0044-03-15 BC",
                "infinity",
                "-infinity",
                "20000-01-01",
                "2024-02-30",
                "epoch",
            ],
        ),
        same(
            "time",
            &[
                "00:00",
                "24:00",
                "23:59:59.999999",
                "12:34:56.7",
                "12:34:56.70",
                "01:00 PM",
                "25:00",
            ],
        ),
        same("timetz", &["00:00+00", "01:00+01", "12:00-05:30"]),
        same("timestamp", STAMPS),
        same("timestamptz", STAMPS),
        same(
            "timestamptz(0)",
            &[
                "2024-02-29 12:34:56+02",
                "2024-02-29 10:34:56Z",
                "2024-02-29 12:34:56-00:30",
                "nonsense",
            ],
        ),
        same(
            "interval",
            &["1 day", "24:00", "1 month", "30 days", "-1 day"],
        ),
        same("money", &["1", "1.5", "-3"]),
        same(
            "walcast_filters.mood",
            &["sad", "ok", "happy", "Happy", "furious"],
        ),
        Samples {
            column: "walcast_filters.\"Odd \"\"type\"",
            cast: "int",
            rows: &["1", "2", "99"],
            operands: &["1", "2", "+2", "99", "x"],
        },
        Samples {
            column: "walcast_filters.nested",
            cast: "int",
            rows: &["1", "7"],
            operands: &["1", "7", "1000"],
        },
        same(
            "bytea",
            &[
                "\\x", "\\x00", "\\xdead", "\\xDEAD", "abc", "\\xff", "\\x00ff",
            ],
        ),
        same(
            "macaddr",
            &["08:00:2b:01:02:03", "08002b-010203", "ff:ff:ff:ff:ff:ff"],
        ),
        same(
            "macaddr8",
            &["08:00:2b:01:02:03:04:05", "08:00:2b:01:02:03"],
        ),
        Samples {
            column: "bit(3)",
            cast: "\"bit\"",
            rows: &["101", "000", "111"],
            operands: &["101", "10", "1010", "000", "2"],
        },
        same(
            "varbit",
            &["", "0", "1", "10", "01", "100000000", "000000001"],
        ),
        same(
            "jsonb",
            &[
                "1",
                "1.0",
                "{\"a\": 1}",
                "{ \"a\":1 }",
                "null",
                "\"x\"",
                "[1, 2]",
                "{",
            ],
        ),
        same("json", &["1", "{\"a\": 1}"]),
        same("xml", &["<a/>"]),
        same("point", &["(1,2)", "(1,3)"]),
        same("int4[]", &["{}", "{1,2}", "{1,NULL}", "{{1},{2}}", "{2}"]),
        same("text[]", &["{}", "{a,b}", "{\"a b\"}", "{NULL}"]),
        same("inet", &["10.0.0.1", "10.0.0.1/32", "10.0.0.0/8", "::1"]),
        same("cidr", &["10.0.0.0/8", "10.0.0.0/9"]),
        same("int4range", &["[1,5)", "[1,4]", "empty", "(,)"]),
        same("walcast_filters.pair", &["(1,x)", "(1,)", "(2,y)", "(,)"]),
        same("\"char\"", &["a", "b", ""]),
        same("pg_lsn", &["0/1", "16/B374D848"]),
        same("tsvector", &["a b", "b"]),
        // Types of extensions have operators of their own, in the extension's schema.
        words("walcast_filters.citext", "walcast_filters.citext"),
        same("walcast_filters.ltree", &["a.b", "a", "b", "a b"]),
        same(
            "walcast_filters.hstore",
            &["a=>1", "a=>1, b=>2", "b=>2,a=>1", "x"],
        ),
        same("walcast_filters.moods", &["{sad,ok}", "{}"]),
    ]
}

const COMPARISONS: &[(&str, &str)] = &[
    ("eq", "="),
    ("neq", "<>"),
    ("lt", "<"),
    ("lte", "<="),
    ("gt", ">"),
    ("gte", ">="),
    ("isdistinct", "is distinct from"),
];
const MATCHES: &[(&str, &str)] = &[
    ("like", "like"),
    ("ilike", "ilike"),
    ("match", "~"),
    ("imatch", "~*"),
];

const SETUP: &str = r#"
    drop publication if exists walcast_filters;
    drop schema if exists walcast_filters cascade;
    create schema walcast_filters;
    create type walcast_filters.mood as enum ('sad', 'happy');
    alter type walcast_filters.mood add value 'ok' before 'happy';
    create type walcast_filters.pair as (a int, b text);
    create domain walcast_filters.short as text check (length(value) < 30);
    create domain walcast_filters."Odd ""type" as int check (value < 100);
    create domain walcast_filters.nested as walcast_filters."Odd ""type";
    create domain walcast_filters.moods as walcast_filters.mood[];
    create extension citext schema walcast_filters;
    create extension ltree schema walcast_filters;
    create extension hstore schema walcast_filters;
    create collation walcast_filters.caseless (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
"#;

/// What the comparison showed.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Rows on which walcast and Postgres agreed.
    pub agreed: usize,
    /// Those of them for which walcast asked.
    pub asked: usize,
    /// Refused when subscribing; Postgres raises for them too, or could raise.
    pub refused: usize,
    /// Everything else.
    pub differences: Vec<String>,
}

/// Compares many filters with Postgres. The session must be a superuser's, with the settings that walcast gives its own
/// sessions; creates and replaces the schema `walcast_filters`.
pub(crate) async fn check_filters_against_postgres(client: &Client) -> Outcome {
    client.batch_execute(SETUP).await.unwrap();
    // For the plain comparisons only, which name no schema; what walcast asks does.
    client
        .batch_execute("set search_path = walcast_filters")
        .await
        .unwrap();
    let samples = samples();
    let mut names = Vec::new();
    for (number, sample) in samples.iter().enumerate() {
        let name = format!("walcast_filters.samples_{number}");
        let create = format!(
            "create table {name} (id int primary key, v {})",
            sample.column
        );
        client.batch_execute(&create).await.unwrap();
        let add = format!(
            "insert into {name} select $1::text::int, $2::text::{}",
            sample.cast
        );
        let mut id = 0;
        for value in sample.rows.iter().map(Some).chain([None]) {
            // Not all are values of the type; some are there to be refused.
            let parameters: [(&(dyn tokio_postgres::types::ToSql + Sync), WireType); 2] =
                [(&id.to_string(), WireType::TEXT), (&value, WireType::TEXT)];
            id += i32::from(client.query_typed(&add, &parameters).await.is_ok());
        }
        assert!(id > 1, "{}: no values", sample.column);
        names.push(name);
    }
    let publish = format!(
        "create publication walcast_filters for table {}",
        names.join(", ")
    );
    client.batch_execute(&publish).await.unwrap();
    let catalog = load(client, &["walcast_filters".to_owned()], false)
        .await
        .unwrap();
    let mut outcome = Outcome::default();
    for (number, sample) in samples.iter().enumerate() {
        check_samples(client, &catalog, number, sample, &mut outcome).await;
    }
    client.batch_execute("reset search_path").await.unwrap();
    outcome
}

async fn check_samples(
    client: &Client,
    catalog: &Catalog,
    number: usize,
    sample: &Samples,
    outcome: &mut Outcome,
) {
    let mut filters = Vec::new();
    for operand in sample.operands {
        for (name, operator) in COMPARISONS {
            filters.push((
                *name,
                (*operand).to_owned(),
                format!("v {operator} {}::{}", literal(operand), sample.cast),
            ));
        }
    }
    for (name, operator) in MATCHES {
        let patterns = if name.contains("like") {
            PATTERNS
        } else {
            EXPRESSIONS
        };
        for pattern in patterns {
            filters.push((
                *name,
                (*pattern).to_owned(),
                format!("v {operator} {}", literal(pattern)),
            ));
        }
    }
    for keyword in ["null", "true", "false", "unknown", "maybe"] {
        filters.push(("is", keyword.to_owned(), format!("v is {keyword}")));
    }
    for list in lists(sample.operands) {
        let array = format!("{{{}}}", &list[1..list.len() - 1]);
        filters.push((
            "in",
            list,
            format!("v = any ({}::{}[])", literal(&array), sample.cast),
        ));
    }
    for (name, value, expression) in filters {
        for negated in [false, true] {
            let not = if negated { "not." } else { "" };
            let quoted = if name == "in" {
                value.clone()
            } else {
                quote(&value)
            };
            let filter = format!("v={not}{name}.{quoted}");
            let sql_not = if negated { "not " } else { "" };
            let expected = format!(
                "select format('%s', v), num_nulls(v) = 1, coalesce({sql_not}({expression}), false)
                from walcast_filters.samples_{number}"
            );
            let context = format!("{} {filter}", sample.column);
            check_filter(
                client, catalog, number, &filter, &expected, &context, outcome,
            )
            .await;
        }
    }
}

async fn check_filter(
    client: &Client,
    catalog: &Catalog,
    number: usize,
    filter: &str,
    expected: &str,
    context: &str,
    outcome: &mut Outcome,
) {
    let binding = json!({"event": "*", "schema": "walcast_filters", "table": format!("samples_{number}"), "filter": filter});
    let requested = RequestedBinding {
        id: 1,
        json: to_raw_value(&binding).unwrap(),
    };
    let binding = match Binding::parse(&requested) {
        Ok(mut binding) => {
            // The name's `_` is a wildcard; exactly one table is meant here.
            binding.table = format!("samples{}{number}", '_').into();
            binding
        }
        Err(error) => {
            return outcome
                .differences
                .push(format!("{context}: not parsed: {error}"));
        }
    };
    let expected = client.query_typed(expected, &[]).await;
    let role = "postgres";
    let subscription = match resolve(client, catalog, role, &[binding]).await {
        Ok(mut subscriptions) => subscriptions.remove(0),
        Err(ResolveError::Refused(text)) => {
            let could_raise = expected.is_err()
                || text.contains("pattern must not end with escape")
                || text.contains("violates check constraint")
                || text.contains("boolean column")
                || text.contains("invalid value for is filter")
                || text.contains("too many values")
                // Without an operator of its own: Postgres casts the one to text, and means something else by `~` for the other.
                // The reference refuses both as well.
                || text.contains("text-compatible column type, got \"char\"")
                || text.contains("text-compatible column type, got ltree");
            if could_raise {
                outcome.refused += 1;
            } else {
                outcome
                    .differences
                    .push(format!("{context}: refused: {text}"));
            }
            return;
        }
        Err(error) => panic!("{context}: {error:?}"),
    };
    let table = catalog
        .tables
        .values()
        .find(|table| *table.name == *format!("samples_{number}"))
        .unwrap();
    let rows = match expected {
        Ok(rows) => rows,
        Err(error) => {
            return outcome.differences.push(format!(
                "{context}: accepted, but Postgres: {}",
                message(&error)
            ));
        }
    };
    let relation = relation(table);
    let filter = &subscription.tables[&table.oid].filter;
    for row in rows {
        let (text, null, expected): (String, bool, bool) = (row.get(0), row.get(1), row.get(2));
        let mut tuple = TupleBuilder::new();
        tuple.push(Datum::Text(b"1"));
        tuple.push(if null {
            Datum::Null
        } else {
            Datum::Text(text.as_bytes())
        });
        let found = match filter.matches(&relation, &tuple.build(), false) {
            Match::Yes => Ok(true),
            Match::No => Ok(false),
            Match::Ask(predicates) => {
                if filter.is_certain() {
                    outcome
                        .differences
                        .push(format!("{context} on {text:?}: asked although certain"));
                }
                outcome.asked += 1;
                ask(client, &predicates).await
            }
        };
        match found {
            Ok(found) if found == expected => outcome.agreed += 1,
            found => outcome.differences.push(format!(
                "{context} on {:?}: {found:?}, Postgres {expected}",
                if null { "NULL" } else { &text }
            )),
        }
    }
}

fn message(error: &tokio_postgres::Error) -> String {
    error
        .as_db_error()
        .map_or_else(|| error.to_string(), |raised| raised.message().to_owned())
}

async fn ask(client: &Client, predicates: &[Predicate]) -> Result<bool, String> {
    for predicate in predicates {
        let sql = format!("select coalesce({}, false)", predicate.sql);
        let parameters: Vec<_> = predicate
            .parameters
            .iter()
            .map(|value| value.as_deref())
            .collect();
        let typed: Vec<_> = parameters
            .iter()
            .map(|value| {
                (
                    value as &(dyn tokio_postgres::types::ToSql + Sync),
                    WireType::TEXT,
                )
            })
            .collect();
        let rows = client
            .query_typed(&sql, &typed)
            .await
            .map_err(|error| format!("{sql}: {}", message(&error)))?;
        if !rows[0].get::<_, bool>(0) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn relation(table: &Table) -> Relation {
    Relation {
        oid: table.oid,
        schema: table.schema.clone(),
        name: table.name.clone(),
        identity: table.identity,
        columns: (table.columns.iter())
            .map(|column| RelationColumn {
                name: column.name.clone(),
                type_oid: column.type_oid,
                type_modifier: -1,
                in_identity: &*column.name == "id",
            })
            .collect(),
    }
}

/// Lists after `in`: none, single ones, all, with NULL.
fn lists(operands: &[&str]) -> Vec<String> {
    let element = |value: &str| format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""));
    let mut lists = vec!["()".to_owned(), "(NULL)".to_owned()];
    lists.extend(
        operands
            .iter()
            .map(|operand| format!("({})", element(operand))),
    );
    for pair in operands.chunks(2) {
        let elements: Vec<_> = pair.iter().map(|operand| element(operand)).collect();
        lists.push(format!("({})", elements.join(",")));
        lists.push(format!("(NULL,{})", elements.join(",")));
    }
    lists
}

/// A value as the client's filter builder quotes it.
fn quote(value: &str) -> String {
    format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))
}

fn literal(value: &str) -> String {
    format!("E'{}'", value.replace('\\', "\\\\").replace('\'', "''"))
}
