//! The one table of settings. Flags, environment variables, `walcast.toml` and the README take their names from it.

/// One setting: what it is called and what it does.
#[derive(Debug)]
pub struct Setting {
    /// Its name in `walcast.toml`; the flag and the environment variable derive from it.
    pub key: &'static str,
    /// The value where none is given, as one would write it; empty where there is none.
    pub default: &'static str,
    /// One sentence for the README and `--help`.
    pub about: &'static str,
    /// Never shown: not in errors, not in `--help`, not in diagnostics.
    pub secret: bool,
}

impl Setting {
    /// The environment variable, such as `WALCAST_LISTEN`.
    #[must_use]
    pub fn variable(&self) -> String {
        if self.key == "database_url" {
            "DATABASE_URL".to_owned()
        } else {
            format!("WALCAST_{}", self.key.to_uppercase())
        }
    }

    /// The flag without its dashes, such as `jwt-secret`.
    #[must_use]
    pub fn flag(&self) -> String {
        self.key.replace('_', "-")
    }
}

/// All settings, in the order in which they are documented.
pub const SETTINGS: &[Setting] = &[
    secret(
        "database_url",
        "The database: `postgres://user:password@host/name?sslmode=verify-full`, or libpq's `key=value` form.",
    ),
    open("listen", "127.0.0.1:4000", "Address and port to listen on."),
    secret(
        "jwt_secret",
        "The shared secret of HS256, HS384 and HS512 tokens.",
    ),
    secret(
        "jwks",
        "Public keys for RS, ES and EdDSA tokens: a JSON Web Key Set, or the path of a file that holds one.",
    ),
    open(
        "publication",
        "supabase_realtime",
        "The publications whose tables are delivered, separated by commas.",
    ),
    open(
        "slot",
        "walcast",
        "The replication slot; created when missing.",
    ),
    secret(
        "publishable_key",
        "An opaque `sb_…` key that stands for the role `anon`.",
    ),
    secret(
        "secret_key",
        "An opaque `sb_…` key that stands for the role `service_role`.",
    ),
    secret(
        "metrics_secret",
        "The shared secret of the tokens that may read `/metrics` and `/policy`; open to everybody without it.",
    ),
    open(
        "deletes",
        "key",
        "What a DELETE under row-level security shows where nobody can tell who saw the row: `key` sends the key columns, `withhold` sends nothing.",
    ),
    open(
        "change_log_memory_bytes_max",
        "16MiB",
        "Memory for the recent changes that sockets still read.",
    ),
    open(
        "change_log_bytes_max",
        "1GiB",
        "The same with what has moved to disk; older changes are forgotten.",
    ),
    open(
        "spool_directory",
        "",
        "Where large transactions and changes that memory has no room for wait on disk; by default `/var/tmp`. Its files have no names and end with the process.",
    ),
    open(
        "spool_bytes_max",
        "4GiB",
        "Disk for transactions that wait for their commit; one that would exceed it is skipped, and subscribers of its tables resynchronise.",
    ),
    open(
        "retained_wal_bytes_max",
        "4GiB",
        "How much WAL the slot may hold back before it moves on and subscribers resynchronise.",
    ),
    open(
        "resume_wal_bytes_max",
        "64MiB",
        "How much WAL the slot holds back on purpose, so that positions outlive a restart; 0 for none, and never more than a quarter of `retained_wal_bytes_max`.",
    ),
    open(
        "history_bytes_max",
        "256MiB",
        "Memory for the recent transactions, which `since` and `resume` go through again, with the changes that sockets still read.",
    ),
    open(
        "history_spool_bytes_max",
        "1GiB",
        "Disk for those of them that are larger than a quarter of that memory, so that they do not drive out the others; 0 for none.",
    ),
    open("history_age_max", "1h", "How long they are kept at most."),
    open(
        "state_dir",
        "",
        "A directory where the positions of sockets with a resume ID outlive the process; without it, whoever comes back after a restart is told to resynchronise.",
    ),
    open("sockets_max", "100000", "WebSockets at the same time."),
    open(
        "channels_per_socket_max",
        "100",
        "Channels that one socket may join.",
    ),
    open(
        "payload_bytes_max",
        "3000500",
        "Bytes of the payload of a broadcast or of tracked presence; a WebSocket frame may have 5,000,000 whatever this says.",
    ),
    open(
        "messages_per_second_per_socket_max",
        "0",
        "Broadcasts of one socket, sent and delivered, on average over a minute; 0 for any number.",
    ),
    open(
        "messages_per_second_per_channel_max",
        "0",
        "The same of one channel.",
    ),
    open(
        "messages_per_second_per_subject_max",
        "0",
        "The same of all tokens with one `sub`.",
    ),
    open(
        "joins_per_second_per_socket_max",
        "100",
        "Joins of one socket, on average over a minute; 0 for any number.",
    ),
    open(
        "joins_per_second_per_subject_max",
        "0",
        "The same of all tokens with one `sub`.",
    ),
    open(
        "presence_events_per_second_per_socket_max",
        "0",
        "Presence calls and delivered diffs of one socket, on average over a minute; 0 for any number.",
    ),
    open(
        "presence_events_per_second_per_channel_max",
        "0",
        "The same of one channel.",
    ),
    open(
        "presence_events_per_second_per_subject_max",
        "0",
        "The same of all tokens with one `sub`.",
    ),
    open(
        "presence_calls_max",
        "5",
        "Calls of track and untrack that one channel may make in 30 s; 0 for any number.",
    ),
    open(
        "permission_recheck_interval",
        "60s",
        "After this time at the latest the permissions of a private channel are looked at again.",
    ),
    open(
        "error_delay",
        "2s",
        "How long a refused connection waits for its answer, against guessing.",
    ),
    open(
        "slow_consumer_timeout",
        "30s",
        "How long a socket may make no progress before it is closed.",
    ),
    open(
        "drain_grace",
        "10s",
        "How long a shutdown waits for sockets to close.",
    ),
    open(
        "question_connections",
        "4",
        "Database connections that ask Postgres who may see a row, for identities that are known to answer quickly.",
    ),
    open(
        "question_connections_new",
        "8",
        "The same for identities that were not asked before.",
    ),
    open(
        "question_connections_quarantine",
        "2",
        "The same for identities that timed out.",
    ),
    open(
        "question_timeout",
        "2s",
        "The statement timeout of a question to an identity that timed out before; others have shorter ones.",
    ),
    open(
        "verdicts",
        "compiled",
        "`compiled` decides in memory who may see a row, where the policies are understood; `postgres` asks for every row.",
    ),
    open(
        "shadow_bytes_max",
        "256MiB",
        "Memory for the tables that compiled policies look into; beyond it Postgres is asked.",
    ),
    open(
        "snapshot_connections",
        "2",
        "Database connections that read what is there already for joins that ask for it.",
    ),
    open(
        "snapshot_rows_max",
        "100000",
        "Rows that one join may get of what is there already; beyond it the join is refused.",
    ),
    open(
        "snapshot_bytes_max",
        "64MiB",
        "The same in bytes of what is sent.",
    ),
    open(
        "snapshot_timeout",
        "5s",
        "The same in time for reading it. Clients wait 10 s for the answer to a join.",
    ),
    open(
        "snapshot_spool_bytes_max",
        "1GiB",
        "Disk for such rows that sockets still read; while it is taken, further joins wait.",
    ),
    open(
        "message_connections",
        "4",
        "Database connections for private channels: who may read and write them, what is replayed and stored.",
    ),
    open(
        "message_timeout",
        "2s",
        "The statement timeout of such a question.",
    ),
    open(
        "log_format",
        "text",
        "Diagnostics on standard error as `text` or `json`.",
    ),
    open(
        "log_level",
        "info",
        "`error`, `warn`, `info`, `debug` or `trace`, or a filter such as `info,walcast=debug`.",
    ),
];

const fn open(key: &'static str, default: &'static str, about: &'static str) -> Setting {
    Setting {
        key,
        default,
        about,
        secret: false,
    }
}

const fn secret(key: &'static str, about: &'static str) -> Setting {
    Setting {
        key,
        default: "",
        about,
        secret: true,
    }
}

/// The settings as the table of the README.
#[must_use]
pub fn markdown() -> String {
    let mut table = String::from(
        "| environment | flag | `walcast.toml` | default | |\n|---|---|---|---|---|\n",
    );
    for setting in SETTINGS {
        let default = if setting.default.is_empty() {
            String::new()
        } else {
            format!("`{}`", setting.default)
        };
        table.push_str(&format!(
            "| `{}` | `--{}` | `{}` | {default} | {} |\n",
            setting.variable(),
            setting.flag(),
            setting.key,
            setting.about
        ));
    }
    table
}

/// The setting whose name is closest to `name`, if any is close enough to be what was meant.
#[must_use]
pub fn nearest(name: &str) -> Option<&'static Setting> {
    let name = name.to_lowercase().replace('-', "_");
    let name = name.strip_prefix("walcast_").unwrap_or(&name);
    SETTINGS
        .iter()
        .map(|setting| (distance(name, setting.key), setting))
        .filter(|(distance, setting)| *distance <= setting.key.len() / 3)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, setting)| setting)
}

/// The edits (insert, delete, replace one character) between two names: Wagner and Fischer, one row at a time.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, left) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut previous = i + 1;
        for (cell, right) in row.iter_mut().skip(1).zip(b.chars()) {
            let replaced = diagonal + usize::from(left != right);
            diagonal = *cell;
            *cell = replaced.min(previous + 1).min(diagonal + 1);
            previous = *cell;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_name_finds_what_was_meant() {
        #[track_caller]
        fn check(name: &str, expected: Option<&str>) {
            assert_eq!(nearest(name).map(|setting| setting.key), expected);
        }
        check("publications", Some("publication"));
        check("jwt-secrets", Some("jwt_secret"));
        check("WALCAST_LISTN", Some("listen"));
        check("slots", Some("slot"));
        check("colour", None);
    }

    #[test]
    fn a_setting_is_called_the_same_in_all_three_places() {
        let names: Vec<_> = SETTINGS
            .iter()
            .take(3)
            .map(|s| (s.variable(), s.flag(), s.key))
            .collect();
        assert_eq!(
            names,
            [
                (
                    "DATABASE_URL".to_owned(),
                    "database-url".to_owned(),
                    "database_url"
                ),
                ("WALCAST_LISTEN".to_owned(), "listen".to_owned(), "listen"),
                (
                    "WALCAST_JWT_SECRET".to_owned(),
                    "jwt-secret".to_owned(),
                    "jwt_secret"
                ),
            ]
        );
    }

    #[test]
    fn the_readme_holds_exactly_this_table() {
        let readme = include_str!("../../README.md");
        assert!(
            readme.contains(&markdown()),
            "replace the table in README.md by:\n{}",
            markdown()
        );
    }
}
