//! Policies of our own, compiled, against Postgres: `walcast policy coverage --verify`, as users run it.

use std::io::Write as _;
use std::process::Command;

use serde_json::json;
use walcast::testing::Cluster;

mod audiences;
mod planning;
mod refusals;
mod risks;

/// The schema, then policies behind `-- policy: name` lines.
const POLICIES: &str = include_str!("policies.sql");

/// Runs the command over the entries and gives what it printed.
fn coverage(cluster: &Cluster, entries: &serde_json::Value, verify: &str) -> String {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(entries.to_string().as_bytes()).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_walcast"))
        .args(["policy", "coverage", "--verify", verify])
        .arg(file.path())
        .env("DATABASE_URL", cluster.url("postgres"))
        .output()
        .unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success(),
        "{printed}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    printed
}

fn entry(id: &str, tables: &str, policies: &str) -> serde_json::Value {
    json!({"id": id, "table": "note", "roles": ["public"], "tables_sql": tables, "policy_sql": policies})
}

#[test]
fn compiled_policies_answer_as_postgres_does() {
    let cluster = Cluster::start(&["fsync=off"]);
    let (schema, policies) = POLICIES.split_once("-- policy: ").unwrap();
    let entries: Vec<_> = policies
        .split("-- policy: ")
        .map(|policy| {
            let (name, sql) = policy.split_once('\n').unwrap();
            entry(name, schema, sql)
        })
        .collect();
    let printed = coverage(&cluster, &entries.into(), "6");
    assert!(printed.starts_with("compiled "), "{printed}");
    assert!(!printed.contains("does not load"), "{printed}");
    assert!(
        printed.contains(" comparisons, 0 differences ("),
        "{printed}"
    );
    // None of those whom an audience leaves out sees the row or is told of an error; that would be a difference.
    let left_out = printed.lines().find_map(|line| {
        line.split_once(" of them by audience, which left ")?
            .1
            .strip_suffix(" out")
    });
    let left_out: u64 = left_out
        .unwrap_or_else(|| panic!("{printed}"))
        .parse()
        .unwrap();
    assert!(left_out > 1000, "{printed}");
}

#[test]
fn what_is_not_understood_is_refused_by_name_and_the_rest_goes_on() {
    let cluster = Cluster::start(&["fsync=off"]);
    let schema =
        "create table note (id integer, owner uuid); alter table note enable row level security;";
    let entries = json!([
        entry("writes", schema, "create function f() returns boolean language plpgsql as $$ begin insert into note values (1); return true; end $$;
            create policy p on note using (f());"),
        entry("random", schema, "create policy p on note using (random() > 0.5);"),
        entry("broken", schema, "create policy p on note using (nowhere = 1);"),
        entry("fine", schema, "create policy p on note using (owner = auth.uid());"),
    ]);
    let printed = coverage(&cluster, &entries, "3");
    assert!(
        printed.starts_with("compiled 25.0 % (1 of 4)\n"),
        "{printed}"
    );
    for reason in [
        "a function that writes (in public.f)\n      writes\n",
        "random() [1598]\n      random\n",
        "does not load: column \"nowhere\" does not exist\n      broken\n",
    ] {
        assert!(printed.contains(reason), "{reason:?} in {printed}");
    }
}

/// Compiles the policies of `note` for a role in a database made by this SQL.
async fn plan(
    cluster: &Cluster,
    sql: &str,
    role: &str,
) -> (walcast::policy::Plan, walcast::policy::schema::Schema) {
    let database = cluster.empty_database();
    cluster.psql(&database, &[sql]).unwrap();
    let (client, connection) =
        tokio_postgres::connect(&cluster.url(&database), tokio_postgres::NoTls)
            .await
            .unwrap();
    let driver = tokio::spawn(connection);
    let schema = walcast::policy::schema::load(&client, &["public"])
        .await
        .unwrap();
    drop(client);
    driver.await.unwrap().unwrap();
    let table = schema.table("public", "note").unwrap().oid;
    let plan = walcast::policy::compile(&schema, table, schema.role(role).unwrap()).unwrap();
    (plan, schema)
}

#[tokio::test]
async fn a_plan_tells_what_it_reads() {
    let cluster = Cluster::start(&["fsync=off"]);
    let sql = "
        create role reader;
        create table member (team integer, person text, rank integer, unused text);
        create table note (id integer, team integer, word text);
        alter table note enable row level security;
        grant select on note, member to reader;
        create function claim(name text) returns text language sql stable as
          $$ select current_setting('request.jwt.claims', true)::jsonb ->> name $$;
        create policy p on note using (word = current_setting('app.word', true) or exists (
          select 1 from member m where m.team = note.team and m.person = claim('sub') and m.rank > 0));";
    let (plan, schema) = plan(&cluster, sql, "reader").await;
    let member = schema.table("public", "member").unwrap().oid;
    let reads = &plan.reads;
    assert_eq!(reads.tables.keys().collect::<Vec<_>>(), [&member]);
    assert_eq!(
        reads.tables[&member].iter().collect::<Vec<_>>(),
        [&0, &1, &2]
    );
    assert_eq!(
        reads.lookups.iter().collect::<Vec<_>>(),
        // From the row to whoever may see it, and for one of them.
        [&(member, vec![0]), &(member, vec![0, 1])]
    );
    assert_eq!(reads.columns.iter().collect::<Vec<_>>(), [&1, &2]);
    assert_eq!(reads.claims, Some([Box::from("sub")].into()));
    assert_eq!(
        reads.settings,
        [Box::from("app.word"), Box::from("request.jwt.claims")].into()
    );
    assert!(!reads.time && plan.constant().is_none());
}

#[tokio::test]
async fn endless_recursion_and_missing_grants_are_plans_that_always_raise() {
    let cluster = Cluster::start(&["fsync=off"]);
    let schema = "
        create table note (id integer, word text);
        create table other (id integer);
        alter table note enable row level security;";
    for (number, (grants, policy, sqlstate)) in [
        (
            "grant select on note to reader1",
            "exists (select 1 from note n where n.id = 1)",
            "42P17",
        ),
        (
            "grant select on note to reader2",
            "exists (select 1 from other)",
            "42501",
        ),
        ("", "true", "42501"),
    ]
    .into_iter()
    .enumerate()
    {
        let role = format!("reader{}", number + 1);
        let sql = format!(
            "create role {role}; {schema} {grants}; create policy p on note using ({policy});"
        );
        let (plan, _) = plan(&cluster, &sql, &role).await;
        let raised = plan.constant().unwrap().unwrap_err();
        assert_eq!(&*raised.sqlstate, sqlstate, "{policy}");
    }
}
