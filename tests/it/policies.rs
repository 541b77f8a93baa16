//! Policies of our own, compiled, against Postgres: `walcast policy coverage --verify`, as users run it.

use std::io::Write as _;
use std::process::Command;

use serde_json::json;
use walcast::testing::Cluster;

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
    let printed = coverage(&cluster, &entries.into(), "8");
    assert!(printed.starts_with("compiled "), "{printed}");
    assert!(!printed.contains("does not load"), "{printed}");
    assert!(
        printed.contains(" comparisons, 0 differences ("),
        "{printed}"
    );
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
