//! People, conversations and short ways to say things, shared by the modules.

use serde_json::{Value, json};
use walcast::testing::{App, AppOptions, Change, Channel, Subscriber, Version, user};

/// The trail is one of the whole cluster, and other tests write as well.
pub(crate) const LONG_TRAIL: [(&str, &str); 2] = [
    ("WALCAST_RETAINED_WAL_BYTES_MAX", "16GiB"),
    ("WALCAST_RESUME_WAL_BYTES_MAX", "4GiB"),
];

pub(crate) const ALICE: &str = "a0000000-0000-4000-8000-000000000001";
pub(crate) const BOB: &str = "b0000000-0000-4000-8000-000000000002";
pub(crate) const CAROL: &str = "c0000000-0000-4000-8000-000000000003";

/// Alice's conversation with Bob.
pub(crate) const TALK: &str = "f0000000-0000-4000-8000-00000000000a";
/// Carol's, alone.
pub(crate) const DIARY: &str = "f0000000-0000-4000-8000-00000000000b";

/// Two conversations and `notes`, a table without row-level security.
pub(crate) const SCHEMA: &str = "
    insert into conversations (id, type, participant_ids) values
      ('f0000000-0000-4000-8000-00000000000a', 'direct',
       '{a0000000-0000-4000-8000-000000000001,b0000000-0000-4000-8000-000000000002}'),
      ('f0000000-0000-4000-8000-00000000000b', 'diary', '{c0000000-0000-4000-8000-000000000003}');
    create table notes (id int primary key, body text, rank int);
    grant select on notes to anon, authenticated, service_role;
    alter publication supabase_realtime add table notes;
";

pub(crate) async fn start() -> App {
    start_with("").await
}

/// `more` runs after [`SCHEMA`].
pub(crate) async fn start_with(more: &str) -> App {
    App::start(env!("CARGO_BIN_EXE_walcast"), &format!("{SCHEMA}{more}")).await
}

/// Every action on a table of schema `public`.
pub(crate) fn all(table: &str) -> Value {
    json!({"event": "*", "schema": "public", "table": table})
}

/// Every action on the rows of a table that pass a filter.
pub(crate) fn filtered(table: &str, filter: &str) -> Value {
    json!({"event": "*", "schema": "public", "table": table, "filter": filter})
}

/// A subscriber of role `authenticated` to a whole table.
pub(crate) async fn subscribe(app: &App, subject: &str, table: &str) -> Subscriber {
    app.subscribe(&user(subject), all(table)).await
}

/// `insert into messages`.
pub(crate) fn say(conversation: &str, content: &str) -> String {
    format!(
        "insert into messages (conversation_id, sender_id, sender_type, content)
         values ('{conversation}', '{ALICE}', 'user', '{content}');"
    )
}

/// The texts of some messages.
pub(crate) fn contents(changes: &[Change]) -> Vec<&str> {
    changes
        .iter()
        .map(|change| change.record()["content"].as_str().unwrap_or("(none)"))
        .collect()
}

/// Types and ids of changes, as `INSERT 1`.
pub(crate) fn brief(changes: &[Change]) -> Vec<String> {
    changes
        .iter()
        .map(|change| {
            let (kind, id) = change.brief("id");
            format!("{kind} {id}")
        })
        .collect()
}

/// Joins a public channel as the publishable key's role.
pub(crate) async fn join(app: &App, version: Version, sub_topic: &str) -> Channel {
    join_with(app, version, sub_topic, json!({}), None).await
}

/// As [`join`], with the join's `config` and a token.
pub(crate) async fn join_with(
    app: &App,
    version: Version,
    sub_topic: &str,
    config: Value,
    token: Option<&str>,
) -> Channel {
    Channel::join(app.server.port(), version, sub_topic, &config, token).await
}

/// As [`start_with`], with settings of the server.
pub(crate) async fn start_with_environment(more: &str, environment: &[(&str, &str)]) -> App {
    let schema = format!("{SCHEMA}{more}");
    let options = AppOptions {
        schema: &schema,
        environment,
        private: None,
    };
    App::start_with(env!("CARGO_BIN_EXE_walcast"), &options).await
}
