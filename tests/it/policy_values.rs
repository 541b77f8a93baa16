//! Values and built-in functions of policies against Postgres itself: every function that walcast knows, over values
//! chosen to be awkward, must give the same text or the same SQLSTATE. What walcast leaves to Postgres (`XX000`) is
//! counted, and must not be everything.

mod samples;

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use tokio_postgres::Client;
use walcast::policy::builtin::{self, Call, Collation, Session};
use walcast::policy::schema::{Function, Schema, load};
use walcast::policy::value::{
    Kind, Oid, SqlError, Value, compare, equal, input, oid, ordered, output, supported,
};
use walcast::testing::Cluster;

use samples::{FIELDS, INPUTS, LIKES, SCHEMA, pool};

/// Calls of one function with one choice of types.
const CALLS: usize = 80;

/// Functions with an argument that says how long the result is.
const LENGTHS: &[&str] = &[
    "lpad", "rpad", "repeat", "bit", "varbit", "bpchar", "varchar",
];

/// A question for Postgres and our answer.
struct Case {
    sql: String,
    ours: Result<Option<String>, SqlError>,
    /// What it is counted under.
    subject: String,
}

#[derive(Default)]
struct Outcome {
    agreed: usize,
    differences: Vec<String>,
    /// Left to Postgres, and all, by subject.
    refused: BTreeMap<String, (usize, usize)>,
}

async fn start() -> (walcast::testing::Session, Schema) {
    let cluster = Cluster::shared();
    let session = cluster.connect(&cluster.empty_database()).await;
    session.batch_execute(SCHEMA).await.unwrap();
    let schema = load(&session, &[]).await.unwrap();
    (session, schema)
}

/// A literal of a type.
fn literal(schema: &Schema, type_oid: Oid, text: Option<&str>) -> String {
    let quoted = text.map_or("null".to_owned(), |text| {
        format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
    });
    let found = schema.types.find(type_oid).unwrap();
    if type_oid == oid::BIT && text.is_some() {
        return quoted.replacen("E'", "B'", 1);
    }
    format!("{quoted}::{}.\"{}\"", found.schema, found.name)
}

fn session() -> Session {
    let settings = [
        ("app.tenant", "42"),
        ("request.jwt.claims", r#"{"sub": "x"}"#),
        ("app.empty", ""),
    ];
    Session {
        now: 0,
        settings: settings
            .into_iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect(),
    }
}

/// Asks Postgres and compares.
async fn judge(client: &Client, cases: Vec<Case>) -> Outcome {
    let mut outcome = Outcome::default();
    for batch in cases.chunks(2_000) {
        let sqls: Vec<&str> = batch.iter().map(|case| case.sql.as_str()).collect();
        let sql = "select n, walcast_values.try(sql) from unnest($1::text[]) with ordinality as q (sql, n) order by n";
        let rows = client.query(sql, &[&sqls]).await.unwrap();
        assert_eq!(rows.len(), batch.len());
        for (case, row) in batch.iter().zip(rows) {
            let theirs: Option<String> = row.get(1);
            let ours = match &case.ours {
                Ok(value) => value.as_ref().map(|text| format!("={text}")),
                Err(error) => Some(format!("!{}", error.sqlstate)),
            };
            let count = outcome.refused.entry(case.subject.clone()).or_default();
            count.1 += 1;
            if ours.as_deref() == Some("!XX000") {
                count.0 += 1;
            } else if ours == theirs {
                outcome.agreed += 1;
            } else {
                let message = case
                    .ours
                    .as_ref()
                    .err()
                    .map(ToString::to_string)
                    .unwrap_or_default();
                outcome.differences.push(format!(
                    "{}: Postgres {theirs:?}, walcast {ours:?} {message}  [{}]",
                    case.subject, case.sql
                ));
            }
        }
    }
    outcome
}

#[track_caller]
fn report(outcome: &Outcome) -> String {
    let refused: Vec<String> = outcome
        .refused
        .iter()
        .filter(|(_, (refused, _))| *refused > 0)
        .map(|(subject, (refused, all))| format!("{subject} {refused}/{all}"))
        .collect();
    let shown = &outcome.differences[..outcome.differences.len().min(300)];
    assert!(
        outcome.differences.is_empty(),
        "{} differences of {}:\n{}",
        outcome.differences.len(),
        outcome.agreed,
        shown.join("\n")
    );
    let silent: Vec<&String> = outcome
        .refused
        .iter()
        .filter(|(_, (refused, all))| refused == all)
        .map(|(subject, _)| subject)
        .collect();
    assert!(silent.is_empty(), "nothing is compared of {silent:?}");
    format!(
        "{} agreed; left to Postgres: {}",
        outcome.agreed,
        refused.join(", ")
    )
}

#[tokio::test]
async fn types_read_and_print_as_postgres_does() {
    let (session, schema) = start().await;
    let mut cases = Vec::new();
    for (written, type_oid, typmod, texts) in INPUTS {
        let type_oid = match *type_oid {
            0 => {
                schema.type_names[&(
                    "walcast_values".into(),
                    written.trim_start_matches("walcast_values.").into(),
                )]
            }
            found => found,
        };
        assert!(supported(&schema.types, type_oid), "{written}");
        for text in *texts {
            let ours = input(&schema.types, type_oid, *typmod, text)
                .and_then(|value| output(&schema.types, type_oid, &value).map(Some));
            let quoted = format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"));
            // A literal of a type with a length is cut as by a cast.
            let sql = format!("{quoted}::{written}");
            cases.push(Case {
                sql,
                ours,
                subject: (*written).to_owned(),
            });
        }
    }
    println!("{}", report(&judge(&session, cases).await));
}

/// The types of a call, polymorphic ones replaced by `element`.
fn resolved(schema: &Schema, declared: Oid, element: Oid) -> Option<Oid> {
    let name = &*schema.types.find(declared)?.name;
    Some(match name {
        "anyelement" | "anynonarray" | "anycompatible" | "anycompatiblenonarray" | "any" => element,
        "anyarray" | "anycompatiblearray" => schema.types.array_over(element)?,
        "anyenum" => schema.type_names[&("walcast_values".into(), "mood".into())],
        "record" => schema.type_names[&("walcast_values".into(), "pair".into())],
        _ => declared,
    })
}

/// Elements that polymorphic functions are tried with.
fn elements(schema: &Schema, function: &Function) -> Vec<Oid> {
    let is_polymorphic = function.arguments.iter().any(|argument| {
        let name = &*schema.types.find(*argument).unwrap().name;
        name.starts_with("any") && name != "anyenum"
    });
    let mood = schema.type_names[&("walcast_values".into(), "mood".into())];
    let pair = schema.type_names[&("walcast_values".into(), "pair".into())];
    if !is_polymorphic {
        return vec![oid::INT4];
    }
    let all = [
        oid::INT4,
        oid::TEXT,
        oid::NUMERIC,
        oid::UUID,
        oid::BOOL,
        oid::TIMESTAMPTZ,
        oid::FLOAT8,
        oid::JSONB,
        oid::BPCHAR,
        oid::DATE,
        oid::INTERVAL,
        oid::BYTEA,
        oid::JSON,
        mood,
        pair,
    ];
    all.into_iter().collect()
}

fn values(schema: &Schema, type_oid: Oid) -> Vec<(Option<&'static str>, Value)> {
    let mut values = vec![(None, Value::Null)];
    for text in pool(schema, type_oid) {
        if let Ok(value) = input(&schema.types, type_oid, -1, text) {
            values.push((Some(text), value));
        }
    }
    values
}

struct Argument {
    type_oid: Oid,
    sql: String,
    value: Value,
}

type Pools = BTreeMap<Oid, Vec<(Option<&'static str>, Value)>>;

fn argument(
    rng: &mut StdRng,
    schema: &Schema,
    pools: &mut Pools,
    type_oid: Oid,
    bytewise: bool,
) -> Option<Argument> {
    let values = pools
        .entry(type_oid)
        .or_insert_with(|| values(schema, type_oid));
    if values.len() < 2 {
        return None;
    }
    // NULLs are a tenth, not one in so many values.
    let values = if rng.random_bool(0.1) {
        &values[..1]
    } else {
        &values[1..]
    };
    let (text, value) = values.choose(rng)?.clone();
    let mut sql = literal(schema, type_oid, text);
    if bytewise
        && schema
            .types
            .find(type_oid)
            .is_some_and(|found| found.collation != 0)
    {
        sql.push_str(" collate \"C\"");
    }
    Some(Argument {
        type_oid,
        sql,
        value,
    })
}

/// Arguments that a function makes sense of.
fn preferred(function: &str, index: usize) -> Option<&'static [&'static str]> {
    Some(match (function, index) {
        ("date_part" | "extract" | "date_trunc", 0) => FIELDS,
        (
            "textlike" | "textnlike" | "like" | "notlike" | "bpcharlike" | "namelike"
            | "texticlike",
            1,
        ) => LIKES,
        ("timezone", 0) => &["UTC", "utc", "GMT", "Z"],
        ("encode" | "decode", 1) => &["hex", "base64", "escape", "HEX"],
        ("current_setting", 0) => &[
            "app.tenant",
            "App.Tenant",
            "app.none",
            "app.empty",
            "request.jwt.claims",
        ],
        ("interval_mul", 1) | ("mul_d_interval", 0) => &["0", "1", "-1", "2", "30", "1000"],
        ("regexp_replace", 3) => &["g", ""],
        ("timestamp" | "timestamptz" | "time" | "timetz", 1) => {
            &["0", "1", "2", "3", "4", "5", "6"]
        }
        _ => return None,
    })
}

fn run(
    schema: &Schema,
    function: &Function,
    arguments: &[Argument],
    result: Oid,
    bytewise: bool,
) -> Result<Option<String>, SqlError> {
    let found = builtin::scalar(function.oid).unwrap();
    if found.strict && arguments.iter().any(|argument| argument.value.is_null()) {
        return Ok(None);
    }
    let args: Vec<Value> = arguments
        .iter()
        .map(|argument| argument.value.clone())
        .collect();
    let arg_types: Vec<Oid> = arguments.iter().map(|argument| argument.type_oid).collect();
    let value = (found.eval)(&Call {
        args: &args,
        arg_types: &arg_types,
        result,
        collation: if bytewise {
            Collation::Bytes
        } else {
            Collation::Other
        },
        types: &schema.types,
        session: &session(),
    })?;
    if value.is_null() {
        return Ok(None);
    }
    output(&schema.types, result, &value).map(Some)
}

fn call_sql(function: &Function, arguments: &[Argument]) -> String {
    let is_list = |argument: &Argument| {
        function.variadic == oid::TEXT && argument.type_oid == oid::TEXT_ARRAY
    };
    let listed = arguments.iter().map(|argument| match is_list(argument) {
        true => format!("variadic {}", argument.sql),
        false => argument.sql.clone(),
    });
    let listed: Vec<String> = listed.collect();
    format!("pg_catalog.\"{}\"({})", function.name, listed.join(", "))
}

#[tokio::test]
async fn functions_answer_as_postgres_does() {
    let (session, schema) = start().await;
    let rng = &mut StdRng::seed_from_u64(7);
    let mut functions: Vec<&Function> = schema.functions.values().map(AsRef::as_ref).collect();
    functions.sort_by_key(|function| function.oid);
    // The time of the session is not Postgres' here.
    functions.retain(|function| {
        builtin::scalar(function.oid).is_some() && ![1299, 2647, 2648].contains(&function.oid)
    });
    let mut cases = Vec::new();
    let mut pools = Pools::new();
    for function in functions {
        let found = builtin::scalar(function.oid).unwrap();
        let subject = format!("{}({})", function.name, function.oid);
        // NULLs in a variable argument list are elements of an array that is not NULL.
        assert!(
            found.strict == function.strict || function.variadic != 0,
            "strictness of {subject}"
        );
        let elements = elements(&schema, function);
        let calls = if elements.len() > 1 { CALLS / 3 } else { CALLS };
        for element in elements {
            // An argument list with a variable end is filled with up to three more.
            for number in 0..calls {
                let bytewise = found.needs_bytewise || number % 2 == 1;
                let mut types: Vec<Oid> = function
                    .arguments
                    .iter()
                    .filter_map(|declared| resolved(&schema, *declared, element))
                    .collect();
                if function.variadic != 0 {
                    types.pop();
                    for _ in 0..rng.random_range(1..4) {
                        let kinds = [
                            oid::TEXT,
                            oid::INT4,
                            oid::BOOL,
                            oid::JSONB,
                            oid::TEXT_ARRAY,
                            oid::NUMERIC,
                            oid::TIMESTAMPTZ,
                        ];
                        let is_any = schema.types.name(function.variadic) == "any";
                        types.push(if is_any {
                            *kinds.choose(rng).unwrap()
                        } else {
                            function.variadic
                        });
                    }
                    // The list may also be written as one array.
                    if function.variadic == oid::TEXT && rng.random_bool(0.5) {
                        types.truncate(1);
                        types.push(oid::TEXT_ARRAY);
                    }
                }
                let arguments: Option<Vec<Argument>> = types
                    .iter()
                    .enumerate()
                    .map(|(index, type_oid)| {
                        let mut found = argument(rng, &schema, &mut pools, *type_oid, bytewise);
                        // Postgres would make values of gigabytes.
                        let is_number = |found: &Argument| {
                            matches!(
                                found.value,
                                Value::Int(_) | Value::Text(_) | Value::Float(_) | Value::Null
                            )
                        };
                        if let Some(texts) = preferred(&function.name, index)
                            && found.as_ref().is_some_and(is_number)
                            && [oid::INT4, oid::TEXT, oid::FLOAT8].contains(type_oid)
                            && rng.random_bool(0.9)
                        {
                            found = texts.choose(rng).map(|text| Argument {
                                type_oid: *type_oid,
                                sql: literal(&schema, *type_oid, Some(text)),
                                value: input(&schema.types, *type_oid, -1, text).unwrap(),
                            });
                        }
                        while LENGTHS.contains(&&*function.name)
                            && found
                                .as_ref()
                                .is_some_and(|found| matches!(found.value, Value::Int(70..)))
                        {
                            found = argument(rng, &schema, &mut pools, *type_oid, bytewise);
                        }
                        found
                    })
                    .collect();
                let arguments = arguments.unwrap_or_else(|| panic!("no values for {subject}"));
                let Some(result) = resolved(&schema, function.result, element) else {
                    continue;
                };
                let ours = run(&schema, function, &arguments, result, bytewise);
                // PG decides by the operator class whether a type can be compared at all.
                if ours
                    .as_ref()
                    .is_err_and(|error| &*error.message == "a type without a known equality")
                {
                    continue;
                }
                cases.push(Case {
                    sql: call_sql(function, &arguments),
                    ours,
                    subject: subject.clone(),
                });
            }
        }
    }
    println!("{} calls", cases.len());
    println!("{}", report(&judge(&session, cases).await));
}

/// Rows of arguments: their values, and as VALUES.
type Rows = (Vec<builtin::Row>, String);

fn rows(rng: &mut StdRng, schema: &Schema, pools: &mut Pools, types: &[Oid]) -> Option<Rows> {
    let count = rng.random_range(0..6);
    let mut rows = Vec::new();
    let mut listed = Vec::new();
    for _ in 0..count {
        let arguments: Option<Vec<Argument>> = types
            .iter()
            .map(|type_oid| argument(rng, schema, pools, *type_oid, false))
            .collect();
        let arguments = arguments?;
        listed.push(format!(
            "({})",
            arguments
                .iter()
                .map(|argument| argument.sql.as_str())
                .collect::<Vec<_>>()
                .join(", ")
        ));
        rows.push(
            arguments
                .into_iter()
                .map(|argument| argument.value)
                .collect(),
        );
    }
    let nulls: Vec<String> = types
        .iter()
        .map(|type_oid| literal(schema, *type_oid, None))
        .collect();
    // A row that is left out gives the columns their types.
    listed.push(format!("({})", nulls.join(", ")));
    Some((
        rows,
        format!(
            "(select * from (values {}) v limit {count}) v",
            listed.join(", ")
        ),
    ))
}

#[tokio::test]
async fn aggregates_answer_as_postgres_does() {
    let (session, schema) = start().await;
    let rng = &mut StdRng::seed_from_u64(11);
    let mut functions: Vec<&Function> = schema.functions.values().map(AsRef::as_ref).collect();
    functions.sort_by_key(|function| function.oid);
    functions.retain(|function| builtin::aggregate(function.oid).is_some());
    let mut cases = Vec::new();
    let mut pools = Pools::new();
    for function in functions {
        let found = builtin::aggregate(function.oid).unwrap();
        let subject = format!("{}({})", function.name, function.oid);
        let elements = elements(&schema, function);
        for element in elements {
            for _ in 0..CALLS / 2 {
                let types: Vec<Oid> = function
                    .arguments
                    .iter()
                    .filter_map(|declared| resolved(&schema, *declared, element))
                    .collect();
                let Some(result) = resolved(&schema, function.result, element) else {
                    continue;
                };
                if schema.types.element(result)
                    == schema.types.element(types.first().copied().unwrap_or(0))
                    && !supported(&schema.types, result)
                {
                    continue;
                }
                let Some((all, from)) = rows(rng, &schema, &mut pools, &types) else {
                    continue;
                };
                let columns: Vec<String> = (1..=types.len())
                    .map(|number| {
                        let collated = found.needs_bytewise
                            && types
                                .iter()
                                .any(|t| schema.types.find(*t).unwrap().collation != 0);
                        format!(
                            "v.column{number}{}",
                            if collated { " collate \"C\"" } else { "" }
                        )
                    })
                    .collect();
                let arguments = if columns.is_empty() {
                    "*".to_owned()
                } else {
                    columns.join(", ")
                };
                let from = if columns.is_empty() {
                    format!("generate_series(1, {}) v", all.len())
                } else {
                    from
                };
                let sql = format!(
                    "(select pg_catalog.\"{}\"({arguments}) from {from})",
                    function.name
                );
                let kept: Vec<builtin::Row> = all
                    .into_iter()
                    .filter(|row: &builtin::Row| !found.strict || !row.iter().any(Value::is_null))
                    .collect();
                let call = Call {
                    args: &[],
                    arg_types: &types,
                    result,
                    collation: Collation::Bytes,
                    types: &schema.types,
                    session: &self::session(),
                };
                let ours = (found.eval)(&call, &kept).and_then(|value| match value {
                    Value::Null => Ok(None),
                    value => output(&schema.types, result, &value).map(Some),
                });
                cases.push(Case {
                    sql,
                    ours,
                    subject: subject.clone(),
                });
            }
        }
    }
    println!("{}", report(&judge(&session, cases).await));
}

#[tokio::test]
async fn sets_hold_what_postgres_returns() {
    let (session, schema) = start().await;
    let rng = &mut StdRng::seed_from_u64(13);
    let mut functions: Vec<&Function> = schema.functions.values().map(AsRef::as_ref).collect();
    functions.sort_by_key(|function| function.oid);
    functions.retain(|function| builtin::set_returning(function.oid).is_some());
    let mut cases = Vec::new();
    let mut pools = Pools::new();
    for function in functions {
        let found = builtin::set_returning(function.oid).unwrap();
        let subject = format!("{}({})", function.name, function.oid);
        assert_eq!(found.strict, function.strict, "strictness of {subject}");
        for element in elements(&schema, function) {
            for _ in 0..CALLS / 2 {
                let types: Vec<Oid> = function
                    .arguments
                    .iter()
                    .filter_map(|declared| resolved(&schema, *declared, element))
                    .collect();
                let arguments: Option<Vec<Argument>> = types
                    .iter()
                    .map(|type_oid| argument(rng, &schema, &mut pools, *type_oid, false))
                    .collect();
                let Some(arguments) = arguments else { continue };
                let wide = |argument: &Argument| {
                    matches!(argument.value, Value::Int(100..) | Value::Int(..-100))
                };
                if arguments.iter().any(wide) {
                    continue;
                }
                let columns: Vec<Oid> = match &*function.outputs {
                    [] => vec![resolved(&schema, function.result, element).unwrap()],
                    outputs => outputs.iter().map(|(_, type_oid)| *type_oid).collect(),
                };
                let names: Vec<String> = (0..columns.len())
                    .map(|number| format!("c{number}"))
                    .collect();
                let printed: Vec<String> = names.iter().map(|name| {
                    format!("case when num_nulls(v.{name}) = 1 then '~' else format('%s', v.{name}) end")
                }).collect();
                // A row type becomes columns in FROM.
                let call = call_sql(function, &arguments);
                let is_row = matches!(
                    schema.types.find(columns[0]).unwrap().kind,
                    Kind::Composite { .. }
                );
                let from = if is_row {
                    format!("(select {call} as c0) v")
                } else {
                    format!("{call} as v ({})", names.join(", "))
                };
                let sql = format!(
                    "(select string_agg({}, '|') from {from})",
                    printed.join(" || ',' || ")
                );
                let args: Vec<Value> = arguments
                    .iter()
                    .map(|argument| argument.value.clone())
                    .collect();
                let call = Call {
                    args: &args,
                    arg_types: &types,
                    result: columns[0],
                    collation: Collation::Other,
                    types: &schema.types,
                    session: &self::session(),
                };
                let rows = if found.strict && args.iter().any(Value::is_null) {
                    Ok(Vec::new())
                } else {
                    (found.eval)(&call)
                };
                let ours = rows.and_then(|rows| {
                    let mut shown = Vec::new();
                    for row in &rows {
                        let fields: Result<Vec<String>, SqlError> = row
                            .iter()
                            .zip(&columns)
                            .map(|(value, type_oid)| match value {
                                Value::Null => Ok("~".to_owned()),
                                value => output(&schema.types, *type_oid, value),
                            })
                            .collect();
                        shown.push(fields?.join(","));
                    }
                    Ok((!shown.is_empty()).then(|| shown.join("|")))
                });
                cases.push(Case {
                    sql,
                    ours,
                    subject: subject.clone(),
                });
            }
        }
    }
    println!("{}", report(&judge(&session, cases).await));
}

#[tokio::test]
async fn equal_values_are_those_that_compare_equal() {
    let (_session, schema) = start().await;
    let mut pairs = 0;
    for item in schema.types.iter() {
        if !ordered(&schema.types, item.oid, true) || matches!(item.kind, Kind::Domain { .. }) {
            continue;
        }
        let values = values(&schema, item.oid);
        for (a_text, a) in values.iter().skip(1) {
            for (b_text, b) in values.iter().skip(1) {
                let (Ok(order), Ok(same)) = (
                    compare(&schema.types, item.oid, a, b),
                    equal(&schema.types, item.oid, a, b),
                ) else {
                    continue;
                };
                pairs += 1;
                assert_eq!(order.is_eq(), same, "{}: {a_text:?} {b_text:?}", item.name);
                assert_eq!(
                    compare(&schema.types, item.oid, b, a).unwrap(),
                    order.reverse()
                );
            }
        }
    }
    assert!(pairs > 5_000, "{pairs}");
}
