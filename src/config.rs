//! Settings: flags, environment variables and the text of `walcast.toml` go in, one checked [`Config`] comes out.
//!
//! A flag wins over the environment, the environment over the file, the file over the default. An empty value counts as
//! not given. All that is wrong is reported at once. This module reads no file and no environment, and its errors never
//! show a secret: not the value, and not the line of the file on which it stands.

mod settings;
mod values;

use core::net::SocketAddr;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

pub use settings::{SETTINGS, Setting, markdown, nearest};
use values::Expected;
pub use values::{Secret, parse_duration};

/// Where the public keys stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Jwks {
    /// The JSON itself.
    Inline(Secret),
    /// A file that holds it.
    File(PathBuf),
}

/// What subscribers get of a DELETE under row-level security, where nobody can say who saw the row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deletes {
    /// The key columns, as Supabase does.
    Key,
    /// Nothing.
    Withhold,
}

/// Who says who may see a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerdictSource {
    /// Compiled policies where possible, otherwise Postgres.
    Compiled,
    /// Postgres.
    Postgres,
}

/// How diagnostics are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// All settings, checked. Each field is the setting of that name in [`SETTINGS`].
#[derive(Clone, Debug)]
pub struct Config {
    /// Needed by every command that talks to Postgres; see [`Config::database_url`].
    database_url: Option<Secret>,
    /// Where to listen.
    pub listen: SocketAddr,
    /// The shared secret of HS tokens.
    pub jwt_secret: Option<Secret>,
    /// Public keys.
    pub jwks: Option<Jwks>,
    /// Publications; at least one, none twice.
    pub publications: Vec<String>,
    /// The replication slot: a valid name.
    pub slot: String,
    /// The opaque key for `anon`.
    pub publishable_key: Option<Secret>,
    /// The opaque key for `service_role`; never equal to the publishable one.
    pub secret_key: Option<Secret>,
    /// The secret of `/metrics`.
    pub metrics_secret: Option<Secret>,
    /// DELETE under row-level security.
    pub deletes: Deletes,
    /// Bytes of recent changes in memory.
    pub change_log_memory_bytes_max: u64,
    /// Bytes of recent changes in memory and on disk; ≥ those in memory.
    pub change_log_bytes_max: u64,
    /// Where files without names are made; `None` is the usual place for large temporary files.
    pub spool_directory: Option<PathBuf>,
    /// Bytes on disk of transactions that wait for their commit.
    pub spool_bytes_max: u64,
    /// Bytes of WAL that the slot may hold back.
    pub retained_wal_bytes_max: u64,
    /// Bytes of WAL that are confirmed late, so that positions outlive a restart.
    pub resume_wal_bytes_max: u64,
    /// Bytes of recent transactions in memory, with the payloads that are.
    pub history_bytes_max: u64,
    /// Bytes on disk of those that memory has no room for; 0 for none.
    pub history_spool_bytes_max: u64,
    /// How long they are kept; > 0.
    pub history_age_max: Duration,
    /// Where positions of sessions outlive the process.
    pub state_dir: Option<PathBuf>,
    /// Sockets; ≥ 1.
    pub sockets_max: usize,
    /// Channels of one socket; ≥ 1.
    pub channels_per_socket_max: usize,
    /// Bytes of a payload; ≥ 1.
    pub payload_bytes_max: usize,
    /// Broadcasts per second of one socket; 0 is no limit, here and below.
    pub messages_per_second_per_socket_max: u32,
    /// Broadcasts per second of one channel.
    pub messages_per_second_per_channel_max: u32,
    /// Broadcasts per second of one subject.
    pub messages_per_second_per_subject_max: u32,
    /// Joins per second of one socket.
    pub joins_per_second_per_socket_max: u32,
    /// Joins per second of one subject.
    pub joins_per_second_per_subject_max: u32,
    /// Presence events per second of one socket.
    pub presence_events_per_second_per_socket_max: u32,
    /// Presence events per second of one channel.
    pub presence_events_per_second_per_channel_max: u32,
    /// Presence events per second of one subject.
    pub presence_events_per_second_per_subject_max: u32,
    /// Presence calls of one channel in 30 s; 0 is no limit.
    pub presence_calls_max: u32,
    /// When permissions are looked at again; > 0.
    pub permission_recheck_interval: Duration,
    /// The delay of a refused connection.
    pub error_delay: Duration,
    /// When a socket without progress is closed.
    pub slow_consumer_timeout: Duration,
    /// How long a shutdown may take.
    pub drain_grace: Duration,
    /// Connections for questions; ≥ 1.
    pub question_connections: usize,
    /// Connections for first questions; ≥ 1.
    pub question_connections_new: usize,
    /// Connections for slow questions; ≥ 1.
    pub question_connections_quarantine: usize,
    /// The statement timeout of a question; > 0.
    pub question_timeout: Duration,
    /// Who says who may see a row.
    pub verdicts: VerdictSource,
    /// Bytes of the tables that compiled policies look into.
    pub shadow_bytes_max: usize,
    /// Connections for snapshots; ≥ 1.
    pub snapshot_connections: usize,
    /// Rows of one snapshot.
    pub snapshot_rows_max: usize,
    /// Bytes of one snapshot.
    pub snapshot_bytes_max: u64,
    /// Time of one snapshot; > 0.
    pub snapshot_timeout: Duration,
    /// Bytes of all snapshots.
    pub snapshot_spool_bytes_max: u64,
    /// Connections for private channels; ≥ 1.
    pub message_connections: usize,
    /// Time of one of their questions; > 0.
    pub message_timeout: Duration,
    /// How diagnostics look.
    pub log_format: LogFormat,
    /// Which diagnostics are written: a filter of `tracing`.
    pub log_level: String,
}

/// Where the settings come from. What a source does not name is looked for in the next.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// Values by key ([`Setting::key`]); several where the flag was repeated.
    pub flags: BTreeMap<String, Vec<String>>,
    /// The environment; variables that are not ours are ignored.
    pub environment: BTreeMap<String, String>,
    /// The content of `walcast.toml`.
    pub file: Option<String>,
}

/// A setting that cannot be used. None of these shows a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The file is not TOML.
    #[error("walcast.toml, line {line}: {reason}")]
    Syntax {
        /// Counted from 1.
        line: usize,
        /// What the parser expected.
        reason: String,
    },
    /// The file names something that is no setting.
    #[error("walcast.toml: there is no setting {key:?}{}", nearest.map(|name| format!("; did you mean {name:?}?")).unwrap_or_default())]
    UnknownKey {
        /// As written.
        key: String,
        /// The closest valid key.
        nearest: Option<&'static str>,
    },
    /// A value that the setting does not accept.
    #[error("{origin}: expected {expected}{}", shown.as_ref().map(|value| format!(", found {value:?}")).unwrap_or_default())]
    Value {
        /// The flag, variable or key that held it.
        origin: String,
        /// What would have been accepted.
        expected: &'static str,
        /// The value; absent for secrets.
        shown: Option<String>,
    },
    /// Two settings that cannot go together.
    #[error("{0}")]
    Conflict(&'static str),
    /// Nothing says where the database is.
    #[error("no database: set DATABASE_URL to a URL such as postgres://user:password@host/name")]
    DatabaseMissing,
    /// Nothing to verify tokens with.
    #[error("no key to verify tokens with: set WALCAST_JWT_SECRET or WALCAST_JWKS")]
    KeyMissing,
}

impl Config {
    /// Parses and checks all settings.
    ///
    /// # Errors
    /// Everything that is wrong, in the order of [`SETTINGS`]; the operator mends it and starts again.
    pub fn parse(sources: &Sources) -> Result<Self, Vec<ConfigError>> {
        let mut reader = Reader::new(sources);
        let config = Self {
            database_url: reader.optional("database_url", secret),
            listen: reader.value(
                "listen",
                SocketAddr::from(([127, 0, 0, 1], 4000)),
                values::address,
            ),
            jwt_secret: reader.optional("jwt_secret", secret),
            jwks: reader.optional("jwks", jwks),
            publications: reader.list("publication"),
            slot: reader.value("slot", String::new(), values::slot),
            publishable_key: reader.optional("publishable_key", values::opaque_key),
            secret_key: reader.optional("secret_key", values::opaque_key),
            metrics_secret: reader.optional("metrics_secret", secret),
            deletes: reader.value("deletes", Deletes::Withhold, deletes),
            change_log_memory_bytes_max: reader.value(
                "change_log_memory_bytes_max",
                1,
                values::bytes,
            ),
            change_log_bytes_max: reader.value("change_log_bytes_max", 1, values::bytes),
            spool_directory: reader.optional("spool_directory", |text| Ok(PathBuf::from(text))),
            spool_bytes_max: reader.value("spool_bytes_max", 1, values::bytes),
            retained_wal_bytes_max: reader.value("retained_wal_bytes_max", 1, values::bytes),
            resume_wal_bytes_max: reader.value("resume_wal_bytes_max", 0, values::bytes_or_none),
            history_bytes_max: reader.value("history_bytes_max", 1, values::bytes),
            history_spool_bytes_max: reader.value(
                "history_spool_bytes_max",
                0,
                values::bytes_or_none,
            ),
            history_age_max: reader.value("history_age_max", Duration::ZERO, positive),
            state_dir: reader.optional("state_dir", |text| Ok(PathBuf::from(text))),
            sockets_max: reader.value("sockets_max", 1, values::count),
            channels_per_socket_max: reader.value("channels_per_socket_max", 1, values::count),
            payload_bytes_max: reader.value("payload_bytes_max", 1, values::memory),
            messages_per_second_per_socket_max: reader.value(
                "messages_per_second_per_socket_max",
                0,
                values::limit,
            ),
            messages_per_second_per_channel_max: reader.value(
                "messages_per_second_per_channel_max",
                0,
                values::limit,
            ),
            messages_per_second_per_subject_max: reader.value(
                "messages_per_second_per_subject_max",
                0,
                values::limit,
            ),
            joins_per_second_per_socket_max: reader.value(
                "joins_per_second_per_socket_max",
                0,
                values::limit,
            ),
            joins_per_second_per_subject_max: reader.value(
                "joins_per_second_per_subject_max",
                0,
                values::limit,
            ),
            presence_events_per_second_per_socket_max: reader.value(
                "presence_events_per_second_per_socket_max",
                0,
                values::limit,
            ),
            presence_events_per_second_per_channel_max: reader.value(
                "presence_events_per_second_per_channel_max",
                0,
                values::limit,
            ),
            presence_events_per_second_per_subject_max: reader.value(
                "presence_events_per_second_per_subject_max",
                0,
                values::limit,
            ),
            presence_calls_max: reader.value("presence_calls_max", 0, values::limit),
            permission_recheck_interval: reader.value(
                "permission_recheck_interval",
                Duration::ZERO,
                positive,
            ),
            error_delay: reader.value("error_delay", Duration::ZERO, values::duration),
            slow_consumer_timeout: reader.value("slow_consumer_timeout", Duration::ZERO, positive),
            drain_grace: reader.value("drain_grace", Duration::ZERO, values::duration),
            question_connections: reader.value("question_connections", 1, values::count),
            question_connections_new: reader.value("question_connections_new", 1, values::count),
            question_connections_quarantine: reader.value(
                "question_connections_quarantine",
                1,
                values::count,
            ),
            question_timeout: reader.value("question_timeout", Duration::ZERO, positive),
            verdicts: reader.value("verdicts", VerdictSource::Postgres, verdicts),
            shadow_bytes_max: reader.value("shadow_bytes_max", 1, values::memory),
            snapshot_connections: reader.value("snapshot_connections", 1, values::count),
            snapshot_rows_max: reader.value("snapshot_rows_max", 1, values::count),
            snapshot_bytes_max: reader.value("snapshot_bytes_max", 1, values::bytes),
            snapshot_timeout: reader.value("snapshot_timeout", Duration::ZERO, positive),
            snapshot_spool_bytes_max: reader.value("snapshot_spool_bytes_max", 1, values::bytes),
            message_connections: reader.value("message_connections", 1, values::count),
            message_timeout: reader.value("message_timeout", Duration::ZERO, positive),
            log_format: reader.value("log_format", LogFormat::Text, log_format),
            log_level: reader.value("log_level", String::new(), |text| Ok(text.to_owned())),
        };
        let mut errors = reader.errors;
        if config.publishable_key.is_some() && config.publishable_key == config.secret_key {
            errors.push(ConfigError::Conflict(
                "publishable_key and secret_key are the same key: everybody would be service_role",
            ));
        }
        if errors.is_empty() && config.change_log_bytes_max < config.change_log_memory_bytes_max {
            errors.push(ConfigError::Conflict(
                "change_log_bytes_max is less than change_log_memory_bytes_max, which it includes",
            ));
        }
        if errors.is_empty() {
            Ok(config)
        } else {
            Err(errors)
        }
    }

    /// The database's URL.
    ///
    /// # Errors
    /// [`ConfigError::DatabaseMissing`]: the operator names one.
    pub fn database_url(&self) -> Result<&Secret, ConfigError> {
        self.database_url
            .as_ref()
            .ok_or(ConfigError::DatabaseMissing)
    }

    /// Whether anybody could connect: there is a key to verify tokens with, or an opaque key.
    ///
    /// # Errors
    /// [`ConfigError::KeyMissing`]: the operator sets one.
    pub fn verification_key(&self) -> Result<(), ConfigError> {
        let opaque = self.publishable_key.is_some() || self.secret_key.is_some();
        if opaque || self.jwt_secret.is_some() || self.jwks.is_some() {
            Ok(())
        } else {
            Err(ConfigError::KeyMissing)
        }
    }
}

/// Looks settings up in their sources and collects what is wrong with them.
struct Reader<'a> {
    sources: &'a Sources,
    file: BTreeMap<String, Vec<String>>,
    errors: Vec<ConfigError>,
}

/// The raw values of one setting, and what to call the place that they come from.
struct Found {
    values: Vec<String>,
    origin: String,
}

impl<'a> Reader<'a> {
    fn new(sources: &'a Sources) -> Self {
        let mut errors = Vec::new();
        let file = sources
            .file
            .as_deref()
            .map(|text| read_file(text, &mut errors))
            .unwrap_or_default();
        Self {
            sources,
            file,
            errors,
        }
    }

    fn find(&self, setting: &'static Setting) -> Option<Found> {
        let given = |values: &&Vec<String>| values.iter().any(|value| !value.is_empty());
        if let Some(values) = self.sources.flags.get(setting.key).filter(given) {
            return Some(Found {
                values: values.clone(),
                origin: format!("--{}", setting.flag()),
            });
        }
        if let Some(value) = self
            .sources
            .environment
            .get(&setting.variable())
            .filter(|value| !value.is_empty())
        {
            return Some(Found {
                values: vec![value.clone()],
                origin: setting.variable(),
            });
        }
        if let Some(values) = self.file.get(setting.key).filter(given) {
            return Some(Found {
                values: values.clone(),
                origin: format!("walcast.toml: {}", setting.key),
            });
        }
        let default = Found {
            values: vec![setting.default.to_owned()],
            origin: setting.key.to_owned(),
        };
        (!setting.default.is_empty()).then_some(default)
    }

    fn optional<T>(&mut self, key: &str, parse: impl Fn(&str) -> Result<T, Expected>) -> Option<T> {
        let setting = SETTINGS.iter().find(|setting| setting.key == key)?;
        let found = self.find(setting)?;
        // Of a flag that was repeated the last counts, as everywhere.
        let value = found.values.last()?;
        match parse(value) {
            Ok(parsed) => Some(parsed),
            Err(expected) => {
                let shown = (!setting.secret).then(|| value.clone());
                self.errors.push(ConfigError::Value {
                    origin: found.origin,
                    expected,
                    shown,
                });
                None
            }
        }
    }

    /// A setting that has a default. `placeholder` only fills the field of a configuration that is refused.
    fn value<T>(
        &mut self,
        key: &str,
        placeholder: T,
        parse: impl Fn(&str) -> Result<T, Expected>,
    ) -> T {
        self.optional(key, parse).unwrap_or(placeholder)
    }

    fn list(&mut self, key: &str) -> Vec<String> {
        let Some(found) = SETTINGS
            .iter()
            .find(|setting| setting.key == key)
            .and_then(|setting| self.find(setting))
        else {
            return Vec::new();
        };
        let mut names: Vec<String> = Vec::new();
        for name in found
            .values
            .iter()
            .flat_map(|value| value.split(','))
            .map(str::trim)
        {
            if !name.is_empty() && !names.iter().any(|known| known == name) {
                names.push(name.to_owned());
            }
        }
        if names.is_empty() {
            self.errors.push(ConfigError::Value {
                origin: found.origin,
                expected: "at least one name",
                shown: None,
            });
        }
        names
    }
}

/// The values of the file by key; what is wrong with it goes to `errors`.
fn read_file(text: &str, errors: &mut Vec<ConfigError>) -> BTreeMap<String, Vec<String>> {
    let table = match text.parse::<toml::Table>() {
        Ok(table) => table,
        Err(error) => {
            // The parser's own text would quote the line, which may hold a password.
            let before = error
                .span()
                .and_then(|span| text.get(..span.start))
                .unwrap_or_default();
            let line = before.matches('\n').count() + 1;
            errors.push(ConfigError::Syntax {
                line,
                reason: error.message().to_owned(),
            });
            return BTreeMap::new();
        }
    };
    let mut values = BTreeMap::new();
    for (key, value) in table {
        let Some(setting) = SETTINGS.iter().find(|setting| setting.key == key) else {
            let nearest = nearest(&key).map(|setting| setting.key);
            errors.push(ConfigError::UnknownKey { key, nearest });
            continue;
        };
        match texts(value) {
            Some(texts) => {
                values.insert(key, texts);
            }
            None => errors.push(ConfigError::Value {
                origin: format!("walcast.toml: {}", setting.key),
                expected: "a text, a number or a list of texts",
                shown: None,
            }),
        }
    }
    values
}

fn texts(value: toml::Value) -> Option<Vec<String>> {
    match value {
        toml::Value::String(text) => Some(vec![text]),
        toml::Value::Integer(number) => Some(vec![number.to_string()]),
        toml::Value::Array(items) => items
            .into_iter()
            .map(|item| {
                if let toml::Value::String(text) = item {
                    Some(text)
                } else {
                    None
                }
            })
            .collect(),
        toml::Value::Float(_)
        | toml::Value::Boolean(_)
        | toml::Value::Datetime(_)
        | toml::Value::Table(_) => None,
    }
}

#[expect(clippy::unnecessary_wraps, reason = "one signature for all parsers")]
fn secret(text: &str) -> Result<Secret, Expected> {
    Ok(Secret::new(text.to_owned()))
}

#[expect(clippy::unnecessary_wraps, reason = "one signature for all parsers")]
fn jwks(text: &str) -> Result<Jwks, Expected> {
    Ok(if text.trim_start().starts_with('{') {
        Jwks::Inline(Secret::new(text.to_owned()))
    } else {
        Jwks::File(PathBuf::from(text))
    })
}

fn deletes(text: &str) -> Result<Deletes, Expected> {
    match text {
        "key" => Ok(Deletes::Key),
        "withhold" => Ok(Deletes::Withhold),
        _ => Err("key or withhold"),
    }
}

fn verdicts(text: &str) -> Result<VerdictSource, Expected> {
    match text {
        "compiled" => Ok(VerdictSource::Compiled),
        "postgres" => Ok(VerdictSource::Postgres),
        _ => Err("compiled or postgres"),
    }
}

fn log_format(text: &str) -> Result<LogFormat, Expected> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err("text or json"),
    }
}

fn positive(text: &str) -> Result<Duration, Expected> {
    values::duration(text).and_then(|time| {
        if time.is_zero() {
            Err("a time above zero, such as 2s")
        } else {
            Ok(time)
        }
    })
}

#[cfg(test)]
mod tests;
