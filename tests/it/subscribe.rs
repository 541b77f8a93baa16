//! Bindings that become subscriptions, and what is said to those that do not (protocol.md §4.4, §4.5).

use serde_json::value::to_raw_value;
use serde_json::{Value, json};
use tokio_postgres::Client;
use walcast::catalog::{Catalog, load};
use walcast::routing::{Binding, RequestedBinding, ResolveError, Subscription, resolve};

const SETUP: &str = r#"
    drop publication if exists walcast_subscribe;
    drop schema if exists walcast_subscribe cascade;
    drop role if exists walcast_subscriber, walcast_stranger;
    create schema walcast_subscribe;
    create role walcast_subscriber;
    grant usage on schema walcast_subscribe to walcast_subscriber;
    create type walcast_subscribe.mood as enum ('sad');
    create domain walcast_subscribe.small as int check (value < 10);
    create table walcast_subscribe.test (
        id int, details text, secret text, flag bool, doc json, state walcast_subscribe.mood, size walcast_subscribe.small,
        code varchar(5), place point, "odd name" int, primary key (id));
    create table walcast_subscribe.other (id int primary key, details text);
    create table walcast_subscribe.unpublished (id int primary key);
    grant select (id, details, flag, doc, state, size, code, place, "odd name") on walcast_subscribe.test to walcast_subscriber;
    grant select on walcast_subscribe.other to walcast_subscriber;
    create publication walcast_subscribe for table walcast_subscribe.test, walcast_subscribe.other;
"#;

const RAISED: &str = "Unable to subscribe to changes with given parameters. An exception happened so please check your connect parameters: ";

/// Checks what each binding is answered. The session must be a superuser's; creates and replaces the schema
/// `walcast_subscribe`.
pub(crate) async fn check_subscribing(client: &Client) {
    client.batch_execute(SETUP).await.unwrap();
    let catalog = load(client, &["walcast_subscribe".to_owned()], false)
        .await
        .unwrap();
    check_exceptions(client, &catalog).await;
    check_tables(client, &catalog).await;
    check_roles(client, &catalog).await;
    let long = format!("id=in.({})", vec!["1"; 100].join(","));
    assert!(
        subscribe(client, &catalog, "walcast_subscriber", test(&long))
            .await
            .is_ok()
    );
}

/// Filters on the table `test`, and how the exception that they raise ends.
async fn check_exceptions(client: &Client, catalog: &Catalog) {
    let long = format!("id=in.({})", vec!["1"; 101].join(","));
    for (filter, tail) in [
        (
            "notacolumn=eq.123",
            "P0001 (raise_exception) invalid column for filter notacolumn",
        ),
        (
            "secret=eq.x",
            "P0001 (raise_exception) invalid column for filter secret",
        ),
        (
            "ID=eq.1",
            "P0001 (raise_exception) invalid column for filter ID",
        ),
        (
            "id=eq.hey",
            r#"22P02 (invalid_text_representation) invalid input syntax for type integer: "hey""#,
        ),
        (
            "id=eq.",
            r#"22P02 (invalid_text_representation) invalid input syntax for type integer: """#,
        ),
        (
            "id=eq.2147483648",
            r#"22003 (numeric_value_out_of_range) value "2147483648" is out of range for type integer"#,
        ),
        (
            "id=in.(1,x)",
            r#"22P02 (invalid_text_representation) invalid input syntax for type integer: "x""#,
        ),
        (
            "id=in.({1)",
            r#"22P02 (invalid_text_representation) malformed array literal: "{{1}""#,
        ),
        (
            &long,
            "P0001 (raise_exception) too many values for `in` filter. Maximum 100",
        ),
        (
            "id=is.maybe",
            "P0001 (raise_exception) invalid value for is filter: must be null, true, false, or unknown",
        ),
        (
            "id=is.true",
            "P0001 (raise_exception) is true filter requires a boolean column, got integer",
        ),
        (
            "code=is.unknown",
            "P0001 (raise_exception) is unknown filter requires a boolean column, got character varying",
        ),
        (
            "id=like.1%",
            "P0001 (raise_exception) operator like requires a text-compatible column type, got integer",
        ),
        (
            "flag=not.imatch.1",
            "P0001 (raise_exception) operator imatch requires a text-compatible column type, got boolean",
        ),
        (
            "state=ilike.sad",
            "P0001 (raise_exception) operator ilike requires a text-compatible column type, got walcast_subscribe.mood",
        ),
        (
            "details=match.(",
            "P0001 (raise_exception) invalid regular expression for match filter: invalid regular expression: parentheses () not balanced",
        ),
        (
            "details=like.a\\",
            "22025 (invalid_escape_sequence) LIKE pattern must not end with escape character",
        ),
        (
            "details=not.ilike.\\\\\\",
            "22025 (invalid_escape_sequence) LIKE pattern must not end with escape character",
        ),
        (
            "doc=eq.{}",
            "42883 (undefined_function) operator does not exist: json = json",
        ),
        (
            "place=eq.(1,2)",
            "42883 (undefined_function) operator does not exist: point = point",
        ),
        (
            "state=eq.glad",
            r#"22P02 (invalid_text_representation) invalid input value for enum walcast_subscribe.mood: "glad""#,
        ),
        (
            "size=eq.10",
            "23514 (check_violation) value for domain walcast_subscribe.small violates check constraint \"small_check\"",
        ),
        (
            "details=eq.a\0",
            "22021 (character_not_in_repertoire) invalid byte sequence for encoding \"UTF8\": 0x00",
        ),
        (
            "details=eq.x,id=eq.hey",
            r#"22P02 (invalid_text_representation) invalid input syntax for type integer: "hey""#,
        ),
        (
            "details=eq.'; drop table test; --,id=eq.\" 5x\"",
            r#"22P02 (invalid_text_representation) invalid input syntax for type integer: " 5x""#,
        ),
    ] {
        let binding = test(filter);
        let described = parse(&binding).describe();
        let refused = subscribe(client, catalog, "walcast_subscriber", binding)
            .await
            .unwrap_err();
        assert_eq!(
            refused,
            format!("{RAISED}{described}. Exception: ERROR {tail}"),
            "{filter}"
        );
    }
    let unknown =
        json!({"schema": "walcast_subscribe", "table": "test", "select": ["id", "secret"]});
    assert_eq!(
        subscribe(client, catalog, "walcast_subscriber", unknown)
            .await
            .unwrap_err(),
        format!(
            "{RAISED}[event: *, schema: walcast_subscribe, table: test, filters: [], select: [\"id\", \"secret\"]]. \
             Exception: ERROR P0001 (raise_exception) invalid column for select secret"
        )
    );
}

async fn check_tables(client: &Client, catalog: &Catalog) {
    for (binding, expected) in [
        (json!({"schema": "walcast_subscribe"}), 2),
        (json!({"schema": "*", "table": "*"}), 2),
        (json!({"schema": "walcast\\_%", "table": "*"}), 0),
        (json!({"schema": "walcast_%", "table": "te__"}), 1),
        (
            json!({"schema": "walcast_subscribe", "table": "unpublished"}),
            0,
        ),
        (json!({"schema": "walcast_subscribe", "table": "TEST"}), 0),
        (json!({"table": "test"}), 0),
        (
            json!({"schema": "*", "table": "*", "filter": "details=eq.x"}),
            2,
        ),
    ] {
        let described = parse(&binding).describe();
        let found = subscribe(client, catalog, "walcast_subscriber", binding).await;
        match found {
            Ok(subscription) => assert_eq!(subscription.tables.len(), expected, "{described}"),
            Err(text) => {
                assert_eq!(expected, 0, "{text}");
                assert_eq!(
                    text,
                    format!(
                        "Unable to subscribe to changes with given parameters. Please check Realtime is enabled for the \
                         given connect parameters: {described}"
                    )
                );
            }
        }
    }
    // A wildcard's filter must suit every table.
    let wild = json!({"schema": "walcast_subscribe", "filter": "flag=eq.true", "table": "*"});
    let text = subscribe(client, catalog, "walcast_subscriber", wild)
        .await
        .unwrap_err();
    assert!(
        text.ends_with("ERROR P0001 (raise_exception) invalid column for filter flag"),
        "{text}"
    );

    let selected = json!({"schema": "walcast_subscribe", "table": "test", "select": ["odd name", "details", "details"]});
    let subscription = subscribe(client, catalog, "walcast_subscriber", selected)
        .await
        .unwrap();
    let columns = subscription
        .tables
        .values()
        .next()
        .unwrap()
        .columns
        .as_deref()
        .unwrap();
    assert_eq!(
        columns.iter().map(|name| &**name).collect::<Vec<_>>(),
        ["id", "details", "odd name"]
    );
}

async fn check_roles(client: &Client, catalog: &Catalog) {
    let text = subscribe(client, catalog, "walcast_stranger", test(""))
        .await
        .unwrap_err();
    assert!(
        text.ends_with(
            "Exception: ERROR 42704 (undefined_object) role \"walcast_stranger\" does not exist"
        ),
        "{text}"
    );
    let text = subscribe(client, catalog, "pg_monitor", test(""))
        .await
        .unwrap_err();
    assert!(
        text.ends_with("Exception: ERROR 42501 (insufficient_privilege) permission denied to set role \"pg_monitor\""),
        "{text}"
    );
}

fn test(filter: &str) -> Value {
    json!({"event": "*", "schema": "walcast_subscribe", "table": "test", "filter": filter})
}

fn parse(binding: &Value) -> Binding {
    let requested = RequestedBinding {
        id: 1,
        json: to_raw_value(binding).unwrap(),
    };
    Binding::parse(&requested).unwrap()
}

async fn subscribe(
    client: &Client,
    catalog: &Catalog,
    role: &str,
    binding: Value,
) -> Result<Subscription, String> {
    match resolve(client, catalog, role, &[parse(&binding)]).await {
        Ok(mut subscriptions) => Ok(subscriptions.remove(0)),
        Err(ResolveError::Refused(text)) => Err(text),
        Err(error) => panic!("{binding}: {error:?}"),
    }
}
