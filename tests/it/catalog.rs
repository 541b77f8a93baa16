//! The catalog against Postgres itself: what each role may read, when policies apply, and that the fingerprint notices
//! whatever changes the picture.

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use walcast::catalog::{
    Catalog, Collation, FINGERPRINT_SQL, Table, TypeKind, Watch, core_sql, load,
};
use walcast::change::ReplicaIdentity;

const SETUP: &str = r#"
    drop publication if exists walcast_catalog;
    drop publication if exists walcast_catalog_root;
    drop publication if exists walcast_missing;
    drop schema if exists walcast_catalog cascade;
    drop schema if exists walcast_catalog_hidden cascade;
    drop role if exists walcast_reader, walcast_columns, walcast_bypass, walcast_owner, walcast_heir, walcast_noheir, walcast_nobody;
    create schema walcast_catalog;
    create schema walcast_catalog_hidden;
    create role walcast_reader; create role walcast_columns; create role walcast_bypass bypassrls; create role walcast_owner;
    create role walcast_heir inherit in role walcast_owner; create role walcast_noheir noinherit in role walcast_owner;
    create role walcast_nobody;
    grant usage on schema walcast_catalog to walcast_reader, walcast_columns, walcast_bypass, walcast_owner;
    create type walcast_catalog.mood as enum ('b', 'a');
    alter type walcast_catalog.mood add value 'c' before 'a';
    create type walcast_catalog.pair as (x int, y walcast_catalog.mood);
    create domain walcast_catalog."A ""domain" as walcast_catalog.pair[];
    create table walcast_catalog.plain (a int, gone int, "B b" text, c text collate "C", d walcast_catalog."A ""domain",
        e int generated always as (1) stored, f box[], g int2vector, h int4range, i int4multirange, primary key ("B b", a));
    alter table walcast_catalog.plain drop column gone;
    create table walcast_catalog.guarded (id int primary key, secret text);
    create table walcast_catalog.forced (id int primary key, secret text);
    create table walcast_catalog.keyless (id int);
    create table walcast_catalog_hidden.hidden (id int primary key);
    create table walcast_catalog.parted (id int primary key) partition by range (id);
    create table walcast_catalog.parted_1 partition of walcast_catalog.parted for values from (0) to (10);
    create unique index on walcast_catalog.guarded (id);
    alter table walcast_catalog.keyless replica identity full;
    alter table walcast_catalog.forced replica identity using index forced_pkey;
    alter table walcast_catalog.guarded enable row level security;
    alter table walcast_catalog.forced enable row level security;
    alter table walcast_catalog.forced force row level security;
    alter table walcast_catalog.guarded owner to walcast_owner;
    alter table walcast_catalog.forced owner to walcast_owner;
    grant select on all tables in schema walcast_catalog to walcast_reader, walcast_bypass;
    grant select on walcast_catalog_hidden.hidden to walcast_reader;
    grant select (id) on walcast_catalog.guarded to walcast_columns;
    grant select ("B b", c) on walcast_catalog.plain to walcast_columns;
    create schema if not exists realtime;
    drop table if exists realtime.messages cascade;
    create table realtime.messages (id uuid, topic text, day int) partition by range (day);
    create publication walcast_catalog for table walcast_catalog.plain, walcast_catalog.guarded, walcast_catalog.forced,
        walcast_catalog.keyless, walcast_catalog_hidden.hidden, walcast_catalog.parted with (publish = 'insert, update');
    create publication walcast_catalog_root for table walcast_catalog.guarded with (publish = 'delete');
"#;

const ROLES: &[&str] = &[
    "walcast_reader",
    "walcast_columns",
    "walcast_bypass",
    "walcast_owner",
    "walcast_heir",
    "walcast_noheir",
    "walcast_nobody",
    "postgres",
];

/// Loads the catalog of a schema made for it and compares it with what Postgres allows. The session must be the
/// superuser `postgres`'; creates and replaces the schema `walcast_catalog`, its roles and publications.
pub(crate) async fn check_catalog_against_postgres(client: &Client) {
    client.batch_execute(SETUP).await.unwrap();
    let names = [
        "walcast_catalog".to_owned(),
        "walcast_catalog_root".to_owned(),
        "walcast_missing".to_owned(),
    ];
    let catalog = load(client, &names, true).await.unwrap();
    check_shape(client, &catalog).await;
    for role in ROLES {
        assert!(catalog.roles.contains_key(*role), "{role}");
        for table in catalog.tables.values() {
            check_access(client, table, role).await;
        }
    }
    assert!(!catalog.roles.contains_key("pg_monitor"));
    check_partitions(client).await;
    check_access_marks(client, &names).await;
    check_fingerprint(client, &names).await;
    check_ordinary_login(client, &names).await;
}

fn find<'a>(catalog: &'a Catalog, name: &str) -> &'a Table {
    catalog
        .tables
        .values()
        .find(|table| &*table.name == name)
        .unwrap_or_else(|| panic!("{name} is not published"))
}

async fn check_shape(client: &Client, catalog: &Catalog) {
    let mut names: Vec<_> = catalog.tables.values().map(|table| &*table.name).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "forced", "guarded", "hidden", "keyless", "parted_1", "plain"
        ]
    );
    let plain = find(catalog, "plain");
    let columns: Vec<_> = plain
        .columns
        .iter()
        .map(|column| (&*column.name, column.number))
        .collect();
    assert_eq!(
        columns,
        [
            ("a", 1),
            ("B b", 3),
            ("c", 4),
            ("d", 5),
            ("e", 6),
            ("f", 7),
            ("g", 8),
            ("h", 9),
            ("i", 10)
        ]
    );
    assert_eq!(*plain.primary_key, [1, 0], "in key order");
    assert_eq!(plain.identity, ReplicaIdentity::Default);
    assert_eq!(find(catalog, "keyless").identity, ReplicaIdentity::Full);
    assert_eq!(find(catalog, "forced").identity, ReplicaIdentity::Index);
    assert!(find(catalog, "keyless").primary_key.is_empty());
    assert!(plain.columns[4].generated && !plain.columns[0].generated);
    assert_eq!(plain.columns[0].collation, Collation::None);
    assert_eq!(plain.columns[2].collation, Collation::C);
    let published = find(catalog, "guarded").published;
    assert!(published.insert && published.update && published.delete && !published.truncate);
    assert!(!plain.published.delete);
    assert!(find(catalog, "guarded").row_security && !plain.row_security);

    let kind = |index: usize| {
        let oid = plain.columns[index].type_oid;
        (&catalog.types[&oid].kind, &*catalog.types[&oid].sql_name)
    };
    let (TypeKind::Domain { base }, name) = kind(3) else {
        panic!("no domain")
    };
    assert_eq!(name, "walcast_catalog.\"A \"\"domain\"");
    let TypeKind::Array {
        element,
        delimiter: b',',
    } = catalog.types[base].kind
    else {
        panic!("no array")
    };
    let TypeKind::Composite { fields } = &catalog.types[&element].kind else {
        panic!("no composite")
    };
    assert_eq!((&*fields[0].0, fields[0].1), ("x", 23));
    let TypeKind::Enum { labels } = &catalog.types[&fields[1].1].kind else {
        panic!("no enum")
    };
    assert_eq!(
        labels.iter().map(|label| &**label).collect::<Vec<_>>(),
        ["b", "c", "a"],
        "in sort order"
    );
    assert!(
        matches!(
            kind(5).0,
            TypeKind::Array {
                delimiter: b';',
                ..
            }
        ),
        "boxes are separated otherwise"
    );
    assert_eq!(
        kind(6).0,
        &TypeKind::Base,
        "int2vector prints without braces"
    );
    assert_eq!(kind(7).0, &TypeKind::Range);
    assert_eq!(kind(8).0, &TypeKind::Multirange);
    // The names must stand in a cast whatever the search_path.
    client
        .batch_execute("set search_path = walcast_nowhere")
        .await
        .unwrap();
    for found in catalog.types.values() {
        client
            .simple_query(&format!("select null::{}", found.sql_name))
            .await
            .unwrap();
    }
    client.batch_execute("reset search_path").await.unwrap();
}

/// What the catalog says of a role is what happens to it.
async fn check_access(client: &Client, table: &Table, role: &str) {
    client
        .batch_execute(&format!("begin; set local role {role}"))
        .await
        .unwrap();
    let access = table.access.get(role);
    let relation = format!("\"{}\".\"{}\"", table.schema, table.name);
    let mut readable = 0;
    for (index, column) in table.columns.iter().enumerate() {
        client.batch_execute("savepoint s").await.unwrap();
        let select = format!(
            "select \"{}\" from {relation} limit 0",
            column.name.replace('"', "\"\"")
        );
        let granted = match client.simple_query(&select).await {
            Ok(_) => true,
            Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => false,
            Err(error) => panic!("{select}: {error}"),
        };
        client.batch_execute("rollback to s").await.unwrap();
        readable += i32::from(granted);
        let said = access.is_some_and(|access| access.columns[index]);
        assert_eq!(
            said, granted,
            "{role} reading {} of {relation}",
            column.name
        );
    }
    assert_eq!(access.is_some(), readable > 0, "{role} on {relation}");
    if let Some(access) = access {
        let sql = "select row_security_active($1::oid)";
        let applies: bool = client.query_one(sql, &[&table.oid]).await.unwrap().get(0);
        assert_eq!(access.policies_apply, applies, "{role} on {relation}");
    }
    client.batch_execute("rollback").await.unwrap();
}

async fn check_partitions(client: &Client) {
    client
        .batch_execute("alter publication walcast_catalog set (publish_via_partition_root = true)")
        .await
        .unwrap();
    let catalog = load(client, &["walcast_catalog".to_owned()], true)
        .await
        .unwrap();
    assert_eq!(*find(&catalog, "parted").primary_key, [0]);
    assert!(
        !catalog
            .tables
            .values()
            .any(|table| &*table.name == "parted_1")
    );
}

/// Statements that change the picture.
const CHANGES: &[&str] = &[
    "alter table walcast_catalog.plain add column new int",
    "alter table walcast_catalog.plain rename column new to newer",
    "alter table walcast_catalog.plain alter column newer type bigint",
    "alter table walcast_catalog.plain drop column newer",
    "alter table walcast_catalog.plain rename to simple",
    "alter table walcast_catalog.simple set schema walcast_catalog_hidden",
    "alter table walcast_catalog.keyless add primary key (id)",
    "alter table walcast_catalog.keyless drop constraint keyless_pkey",
    "alter table walcast_catalog.keyless replica identity default",
    "alter table walcast_catalog.keyless enable row level security",
    "alter table walcast_catalog.keyless force row level security",
    "alter table walcast_catalog.keyless owner to walcast_owner",
    "grant select on walcast_catalog.keyless to walcast_nobody",
    "revoke select on walcast_catalog.keyless from walcast_nobody",
    "grant select (id) on walcast_catalog.keyless to walcast_nobody",
    "grant usage on schema walcast_catalog to walcast_nobody",
    "create policy p on walcast_catalog.keyless using (true)",
    "alter policy p on walcast_catalog.keyless using (false)",
    "drop policy p on walcast_catalog.keyless",
    "create role walcast_new",
    "alter role walcast_new bypassrls",
    "alter role walcast_new rename to walcast_newer",
    "grant walcast_owner to walcast_newer",
    "revoke walcast_owner from walcast_newer",
    "drop role walcast_newer",
    "alter type walcast_catalog.mood add value 'd'",
    "alter type walcast_catalog.mood rename value 'd' to 'e'",
    "alter type walcast_catalog.pair add attribute z int",
    "alter type walcast_catalog.pair rename attribute z to zz",
    "alter type walcast_catalog.mood rename to temper",
    "alter publication walcast_catalog drop table walcast_catalog.keyless",
    "alter publication walcast_catalog add table walcast_catalog.keyless",
    "alter publication walcast_catalog set (publish = 'insert')",
    "create table walcast_catalog.parted_2 partition of walcast_catalog.parted for values from (10) to (20)",
    "drop publication walcast_catalog_root",
    "create function walcast_catalog.f() returns boolean language sql as 'select true'",
    "create or replace function walcast_catalog.f() returns boolean language sql as 'select false'",
    "alter function walcast_catalog.f() security definer",
    "revoke execute on function walcast_catalog.f() from public",
    "drop function walcast_catalog.f()",
    "create table walcast_catalog.looked (id int, who text)",
    "alter table walcast_catalog.looked enable row level security",
    "create policy p on walcast_catalog.looked using (true)",
    "alter policy p on walcast_catalog.looked using (false)",
    "alter table walcast_catalog.looked rename column who to whom",
    "grant select on walcast_catalog.looked to walcast_nobody",
    "create unique index on walcast_catalog.forced (secret)",
    "create operator walcast_catalog.=== (function = pg_catalog.int4eq, leftarg = int4, rightarg = int4)",
    "create cast (walcast_catalog.temper as text) with inout as assignment",
    "create domain walcast_catalog.short as text",
    "alter domain walcast_catalog.short add check (value <> '')",
    "do $$ begin execute format('alter database %I set walcast.word = %L', current_database(), 'a'); end $$",
    "do $$ begin execute format('alter database %I reset walcast.word', current_database()); end $$",
    "create publication walcast_missing",
    "alter publication walcast_catalog drop table walcast_catalog.keyless; alter publication walcast_catalog add table walcast_catalog.keyless",
    ROW_FILTER,
    "create table walcast_catalog.mids (id int) partition by range (id)",
    "create table walcast_catalog.mids_1 partition of walcast_catalog.mids default",
    "grant select (id) on walcast_catalog.mids to walcast_nobody",
    "alter table walcast_catalog.mids detach partition walcast_catalog.mids_1; alter table walcast_catalog.mids attach partition walcast_catalog.mids_1 default",
    "create table realtime.messages_1 partition of realtime.messages for values from (1) to (9) partition by range (day)",
    "create table realtime.messages_1_1 partition of realtime.messages_1 for values from (1) to (2)",
    "alter table realtime.messages enable row level security",
    "grant select, insert on realtime.messages to walcast_nobody",
    "grant select (topic) on realtime.messages to walcast_columns",
    "create policy p on realtime.messages for select using (true)",
    "alter policy p on realtime.messages using (false)",
    "drop policy p on realtime.messages",
    "create table realtime.messages_2 partition of realtime.messages for values from (9) to (10)",
    "drop table realtime.messages_2",
];

/// Known from version 15 on.
const ROW_FILTER: &str =
    "alter publication walcast_catalog set table walcast_catalog.keyless where (id > 0)";

/// Statements after which the picture is what it was.
const STILL: &[&str] = &[
    "insert into walcast_catalog.keyless values (1)",
    "analyze walcast_catalog.keyless",
    "vacuum walcast_catalog.keyless",
    "vacuum pg_catalog.pg_class",
    "vacuum freeze pg_catalog.pg_attribute",
    "insert into realtime.messages values (null, 'a', 1)",
    "analyze realtime.messages",
    "create policy p on realtime.messages_1 for select using (true)",
    "insert into walcast_catalog.looked values (1)",
    "truncate walcast_catalog.looked",
    "create index on walcast_catalog.looked (id)",
    "create temporary sequence walcast_passing",
    "create temporary table walcast_passing_too (id serial primary key, word text)",
    "drop table walcast_passing_too",
];

/// Statements that give a published table another file and nothing else.
const REFILED: &[&str] = &[
    "truncate walcast_catalog.keyless",
    "vacuum full walcast_catalog.keyless",
    "truncate walcast_catalog.keyless, walcast_catalog.forced",
];

async fn check_fingerprint(client: &Client, names: &[String]) {
    let both = format!("select ({FINGERPRINT_SQL}), ({})", core_sql());
    let read_both = async || -> (String, String) {
        let row = client.query_one(&both, &[&names, &true]).await.unwrap();
        (row.get(0), row.get(1))
    };
    let publications: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut watch = Watch::prepare(client, true).await.unwrap();
    let (mut before, mut core) = read_both().await;
    let sql = "select current_setting('server_version_num')::int >= 150000";
    let has_row_filters: bool = client.query_one(sql, &[]).await.unwrap().get(0);
    let changes = CHANGES.iter().copied();
    for change in changes.filter(|change| has_row_filters || *change != ROW_FILTER) {
        client.batch_execute(change).await.unwrap();
        let (after, core_after) = read_both().await;
        assert_ne!(before, after, "{change}");
        assert_ne!(core, core_after, "{change}");
        core = core_after;
        let seen = watch.look(client, &publications).await.unwrap().unwrap();
        assert_eq!(*seen.fingerprint, *after, "the watch misses {change}");
        before = after;
    }
    for still in STILL {
        client.batch_execute(still).await.unwrap();
        let after = read_both().await;
        assert_eq!((&before, &core), (&after.0, &after.1), "{still}");
        let seen = watch.look(client, &publications).await.unwrap().unwrap();
        assert_eq!(*seen.fingerprint, *before, "{still}");
    }
    for refiled in REFILED {
        client.batch_execute(refiled).await.unwrap();
        let (after, core_after) = read_both().await;
        assert_ne!(before, after, "{refiled}");
        assert_eq!(core, core_after, "{refiled}");
        before = after;
    }
    let catalog = load(client, names, true).await.unwrap();
    assert_eq!(*catalog.fingerprint, *before);
    // The table and two partitions, one of them of the other; none of them for subscribers of row changes.
    assert_eq!(catalog.messages.len(), 3);
    assert!(
        catalog
            .messages
            .iter()
            .all(|oid| !catalog.tables.contains_key(oid))
    );
}

/// What comes and goes between two looks leaves its mark on the table, or on all of them, and nothing else does.
async fn check_access_marks(client: &Client, names: &[String]) {
    let twice: [(&str, &[&str]); 6] = [
        (
            "alter table walcast_catalog.guarded disable row level security; alter table walcast_catalog.guarded enable row level security",
            &["guarded"],
        ),
        (
            "grant select on walcast_catalog.forced to walcast_heir; revoke select on walcast_catalog.forced from walcast_heir",
            &["forced"],
        ),
        (
            "grant select (secret) on walcast_catalog.forced to walcast_heir;
             revoke select (secret) on walcast_catalog.forced from walcast_heir",
            &["forced"],
        ),
        (
            "grant usage on schema walcast_catalog_hidden to walcast_heir;
             revoke usage on schema walcast_catalog_hidden from walcast_heir",
            &["hidden"],
        ),
        (
            "grant walcast_owner to walcast_reader; revoke walcast_owner from walcast_reader",
            &[],
        ),
        (
            "revoke walcast_owner from walcast_heir; grant walcast_owner to walcast_heir",
            &["forced", "guarded", "hidden", "keyless", "parted", "plain"],
        ),
    ];
    for (statements, marked) in twice {
        let before = load(client, names, true).await.unwrap();
        // One transaction each, or several writes would be one.
        for statement in statements.split(';') {
            client.batch_execute(statement).await.unwrap();
        }
        let after = load(client, names, true).await.unwrap();
        let is_marked = |table: &&Table| {
            assert_eq!(*before.tables[&table.oid], **table, "{statements}");
            let marks = [&before, &after].map(|catalog| catalog.access_marks[&table.oid]);
            assert_eq!(marks[0].file, marks[1].file, "{statements}");
            marks[0].rights != marks[1].rights
        };
        let tables = after.tables.values().map(|table| &**table);
        let mut found: Vec<&str> = tables.filter(is_marked).map(|table| &*table.name).collect();
        found.sort_unstable();
        assert_eq!(found, marked, "{statements}");
    }
}

/// A login role without rights of its own sees the same tables, and only the roles that it may become.
async fn check_ordinary_login(client: &Client, names: &[String]) {
    client
        .batch_execute("grant walcast_reader to walcast_nobody")
        .await
        .unwrap();
    let all = load(client, names, true).await.unwrap();
    client
        .batch_execute("set role walcast_nobody")
        .await
        .unwrap();
    let seen = load(client, names, true).await.unwrap();
    client.batch_execute("reset role").await.unwrap();
    assert_eq!(seen.tables.len(), all.tables.len());
    let roles: Vec<_> = seen.roles.keys().map(|role| &**role).collect();
    assert_eq!(roles, ["walcast_nobody", "walcast_reader"]);
    assert_eq!(seen.fingerprint, all.fingerprint);
}
