//! What becomes of policies, told to operators: `walcast policy list` and `walcast policy explain`, as users run them.

use std::process::Command;

use serde_json::{Value, json};
use walcast::testing::Cluster;

use crate::world::{ALICE, CAROL, SCHEMA, TALK, say};

/// Tables for policies of every kind of outcome.
const MORE: &str = "
    create table memo (id int primary key, owner uuid, open boolean, word text);
    create table plain (id int primary key);
    create table keyless (id int);
    create table pair (a int, b text, primary key (a, b));
    create table ungranted (id int primary key);
    create table random (id int primary key);
    create table tag (word text, person uuid);
    alter table memo enable row level security;
    alter table random enable row level security;
    alter publication supabase_realtime add table memo, plain, ungranted, random;
    grant select on memo, plain, keyless, pair, random, tag to anon, authenticated;
    create policy owners on memo using ((owner = auth.uid()) or (open and word = current_setting('app.word', true))
      or exists (select from tag where tag.word = memo.word and tag.person = auth.uid()));
    create policy \"no secrets\" on memo as restrictive using (word <> 'secret');
    create policy strict on memo for select to anon using (word::int = 1);
    create policy chance on random using (random() >= 0);
    insert into memo values (1, 'a0000000-0000-4000-8000-000000000001', false, 'x'), (2, null, true, null),
      (3, 'a0000000-0000-4000-8000-000000000001', true, 'secret'), (4, null, false, 'tagged');
    insert into tag values ('tagged', 'a0000000-0000-4000-8000-000000000001');
    insert into pair values (1, 'x');
    insert into plain values (1);
    insert into keyless values (1);
    insert into random values (1);
";

/// A cluster with a chat and tables beside it.
struct Place {
    cluster: Cluster,
}

impl Place {
    fn start() -> Self {
        let place = Self {
            cluster: Cluster::start(&["fsync=off"]),
        };
        let (_, printed, succeeded) = place.walcast(&["setup", "--messaging"]);
        assert!(succeeded, "{printed}");
        let sql = format!("{SCHEMA}{MORE}{}", say(TALK, "hello"));
        place.cluster.psql("postgres", &[&sql]).unwrap();
        place
    }

    /// What the command printed to standard output and to standard error, and whether it succeeded.
    fn walcast(&self, arguments: &[&str]) -> (String, String, bool) {
        let output = Command::new(env!("CARGO_BIN_EXE_walcast"))
            .args(arguments)
            .env("DATABASE_URL", self.cluster.url("postgres"))
            .output()
            .unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (
            text(output.stdout),
            text(output.stderr),
            output.status.success(),
        )
    }

    #[track_caller]
    fn explains(&self, table: &str, key: &str, subject: &str, more: &[&str], expected: &[&str]) {
        let mut arguments = vec!["policy", "explain", "--table", table, "--key", key];
        arguments.extend(["--sub", subject]);
        arguments.extend(more);
        let (printed, problem, succeeded) = self.walcast(&arguments);
        assert!(succeeded, "{printed}{problem}");
        for text in expected {
            assert!(printed.contains(text), "{text:?} in\n{printed}");
        }
    }

    #[track_caller]
    fn fails(&self, arguments: &[&str], expected: &str) {
        let (printed, problem, succeeded) = self.walcast(arguments);
        assert!(!succeeded, "{printed}");
        assert!(problem.contains(expected), "{expected:?} in\n{problem}");
    }
}

#[test]
fn list_tells_what_becomes_of_the_policies_of_each_published_table() {
    let place = Place::start();
    let (printed, problem, succeeded) = place.walcast(&["policy", "list"]);
    assert!(succeeded, "{problem}");
    let block = |table: &str| {
        let after = printed.split(&format!("{table}\n")).nth(1).unwrap();
        after.split("\n\n").next().unwrap().to_owned()
    };
    for (table, expected) in [
        (
            "public.messages",
            "  authenticated  compiled, audience by sub via conversations(id)\n      reads     public.conversations (id, participant_ids); can be followed: 2 rows, ",
        ),
        ("public.messages", "      claims    sub"),
        (
            "public.messages",
            " µs per verdict, measured here over one row",
        ),
        ("public.messages", "  service_role   all rows"),
        (
            "public.memo",
            "      reads     public.tag (word, person); cannot be followed: it is not published",
        ),
        (
            "public.memo",
            "      setting   app.word; walcast does not set it, so that it counts as unset",
        ),
        ("public.plain", "  anon           all rows"),
        (
            "public.ungranted",
            "  anon           always error 42501: permission denied for table ungranted",
        ),
        (
            "public.random",
            "  authenticated  Postgres is asked: the function random()",
        ),
    ] {
        let block = block(table);
        assert!(block.contains(expected), "{expected:?} in\n{printed}");
    }
    assert!(!printed.contains("public.keyless"), "{printed}");
}

#[test]
fn list_prints_the_same_as_json_and_for_further_roles() {
    let place = Place::start();
    let make = "create role clerk; grant usage on schema public to clerk; create role stranger;
        revoke usage on schema public from public; grant select on plain, memo to clerk, stranger";
    place.cluster.psql("postgres", &[make]).unwrap();
    let arguments = [
        "policy", "list", "--json", "--role", "clerk", "--role", "stranger",
    ];
    let (printed, problem, succeeded) = place.walcast(&arguments);
    assert!(succeeded, "{problem}");
    let tables: Vec<Value> = serde_json::from_str(&printed).unwrap();
    let find = |table: &str, role: &str| -> Value {
        let found = tables.iter().find(|entry| entry["table"] == table).unwrap();
        let roles = found["roles"].as_array().unwrap();
        roles
            .iter()
            .find(|line| line["role"] == role)
            .unwrap()
            .clone()
    };
    assert_eq!(
        find("plain", "clerk"),
        json!({"role": "clerk", "result": "all_rows"})
    );
    assert_eq!(find("plain", "stranger")["sqlstate"], "42501");
    assert_eq!(find("memo", "clerk")["result"], "always_error");
    assert_eq!(find("random", "anon")["result"], "postgres_is_asked");
    let messages = find("messages", "authenticated");
    let mut reads = messages["reads"].clone();
    let bytes = reads[0]["bytes"].take();
    assert!(bytes.as_u64().unwrap() > 0);
    assert_eq!(
        reads,
        json!([{"schema": "public", "table": "conversations", "columns": ["id", "participant_ids"], "followed": true,
          "reason": null, "rows": 2, "bytes": null}])
    );
    assert!(messages["verdict_micros"].as_f64().unwrap() > 0.0);
    place.fails(
        &["policy", "list", "--role", "nobody"],
        "there is no role \"nobody\"",
    );
}

#[test]
fn list_says_which_table_is_over_the_limit() {
    let place = Place::start();
    let (printed, problem, succeeded) =
        place.walcast(&["policy", "list", "--shadow-bytes-max", "64B"]);
    assert!(succeeded, "{problem}");
    let expected = "public.conversations (id, participant_ids); cannot be followed: over the limit: it does not fit into shadow_bytes_max = 64 beside the others";
    assert!(printed.contains(expected), "{printed}");
    assert!(printed.contains("looked into: 0 of 64 bytes"), "{printed}");
}

#[test]
fn explain_gives_the_verdict_beside_that_of_postgres_and_names_the_policy() {
    let place = Place::start();
    let id = place
        .cluster
        .psql("postgres", &["select id from messages"])
        .unwrap();
    let policy = "\"participants read the messages of their conversations\"";
    let both = |verdict: &str| format!("walcast   {verdict}\nPostgres  {verdict}\n");
    let (allow, deny) = (both("allow"), both("deny"));
    let allowed = format!("because   the permissive policy {policy} is true\n");
    place.explains("public.messages", &id, ALICE, &[], &[&allow, &allowed]);
    let denied = format!("permissive policy {policy}: false\n");
    let expected = [&deny, "because   no permissive policy is true\n", &denied];
    place.explains("public.messages", &id, CAROL, &[], &expected);
    let expected = [&allow, "policies do not apply to service_role"];
    place.explains(
        "public.messages",
        &id,
        CAROL,
        &["--role", "service_role"],
        &expected,
    );
    place.explains(
        "plain",
        "1",
        CAROL,
        &[],
        &[&allow, "row-level security is not enabled"],
    );

    // Parts that decide, and no others.
    let values = format!("row       owner = {ALICE}, open = f, word = x\n");
    let expected = [&allow, &values, "permissive policy \"owners\": true\n"];
    place.explains("public.memo", "1", ALICE, &[], &expected);
    let (printed, _, _) = place.walcast(&[
        "policy",
        "explain",
        "--table",
        "public.memo",
        "--key",
        "1",
        "--sub",
        ALICE,
    ]);
    let parts = "  decided by, of 3 parts joined by OR:\n    true  (owner = auth.uid())\n";
    let rest = printed.split(parts).nth(1).unwrap();
    assert!(!rest.starts_with("    "), "{printed}");
    // Looked up in another table.
    place.explains(
        "public.memo",
        "4",
        ALICE,
        &[],
        &[&allow, "    true  (EXISTS"],
    );
    place.explains(
        "public.memo",
        "4",
        CAROL,
        &[],
        &[&deny, "\"owners\": null\n"],
    );
    // NULL is not true, and a restrictive policy has the last word.
    place.explains(
        "public.memo",
        "2",
        ALICE,
        &[],
        &[&deny, "\"owners\": null\n", "\"no secrets\": null\n"],
    );
    let expected = [
        &deny,
        "because   the restrictive policy \"no secrets\" is not true\n",
    ];
    place.explains("public.memo", "3", ALICE, &[], &expected);
    // An error of one policy.
    let expected = [
        "walcast   error 22P02: ",
        "Postgres  error 22P02: ",
        "because   the permissive policy \"strict\" raises\n",
    ];
    place.explains(
        "public.memo",
        "1",
        CAROL,
        &["--claims", r#"{"role": "anon"}"#],
        &expected,
    );
}

#[test]
fn explain_leaves_to_postgres_what_is_not_compiled() {
    let place = Place::start();
    let expected = [
        "walcast   asks Postgres: the function random()",
        "Postgres  allow\n",
        "permissive policy \"chance\"\n  (random() >= (0)::double precision)",
    ];
    place.explains("public.random", "1", ALICE, &[], &expected);
}

#[test]
fn explain_says_why_there_is_no_answer() {
    let place = Place::start();
    let ask = |table: &'static str, key: &'static str| {
        [
            "policy", "explain", "--sub", ALICE, "--table", table, "--key", key,
        ]
    };
    for (table, key, expected) in [
        ("public.plain", "7", "public.plain has no row with id = 7"),
        (
            "public.plain",
            "x",
            "cannot read public.plain as the login of DATABASE_URL: invalid input syntax",
        ),
        ("public.keyless", "1", "public.keyless has no primary key"),
        (
            "public.pair",
            "1",
            "the key of public.pair is (a, b); 1 values are given",
        ),
        (
            "public.pair",
            "1,y",
            "public.pair has no row with a = 1, b = y",
        ),
        ("public.nowhere", "1", "there is no table public.nowhere"),
        (
            "public.ungranted",
            "1",
            "authenticated may not read public.ungranted; run: grant select on \"public\".\"ungranted\" to \"authenticated\";",
        ),
    ] {
        place.fails(&ask(table, key), expected);
    }
    let more = |option: &'static str, value: &'static str| {
        let mut arguments = ask("public.pair", "1,x").to_vec();
        arguments.extend([option, value]);
        arguments
    };
    place.fails(&more("--role", "nobody"), "there is no role \"nobody\"");
    place.fails(&more("--claims", "[]"), "--claims is no JSON object");
    place.explains(
        "public.pair",
        "1,x",
        ALICE,
        &[],
        &["walcast   allow\nPostgres  allow\n"],
    );
}
