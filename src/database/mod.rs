//! Connections to Postgres (io).
//!
//! In goes a connection string, out come ordinary clients, and for replication a bare socket. Every session of ours
//! begins with [`SESSION_SETTINGS`], so that a value has the same text form in the stream and in a query. No environment
//! variable and no password file is read, and nothing here shows a password.

mod binding;
mod quote;
mod tls;
mod transport;
mod url;

use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;

use rustls::ClientConfig;
use tokio_postgres::config::{self, SslNegotiation};
use tokio_util::task::TaskTracker;
use tracing::debug;

pub use quote::quote_identifier;
pub use transport::Transport;
pub use url::{ChannelBinding, DatabaseUrlError};

use transport::{Encryption, Settled};
use url::{Parameters, Place, SslMode};

/// What each session of ours sets first, before anything else is asked of it.
///
/// The first settings decide the text form of values (Postgres manual, "Locale and Formatting", "Statement Behavior");
/// the rest undoes limits that a role or a database may carry and that are meant for applications. Sent as a query, not
/// as startup options, because poolers drop those.
pub const SESSION_SETTINGS: &str = "set client_encoding to 'UTF8'; set datestyle to 'ISO'; \
    set intervalstyle to 'postgres'; set timezone to 'UTC'; set extra_float_digits to 1; set bytea_output to 'hex'; \
    set statement_timeout to 0; set lock_timeout to 0; set idle_in_transaction_session_timeout to 0; \
    set idle_session_timeout to 0; set jit to off; set default_transaction_isolation to 'read committed'";

/// A database that can be connected to. Cheap to clone; `Debug` leaves the password out.
#[derive(Clone)]
pub struct Database {
    parameters: Arc<Parameters>,
    tls: Option<Arc<ClientConfig>>,
}

/// Who logs in, for clients that speak the startup themselves.
#[derive(Clone, Copy)]
pub struct Login<'a> {
    /// The role.
    pub user: &'a str,
    /// Its password; never show it.
    pub password: Option<&'a str>,
    /// The database's name.
    pub database: &'a str,
    /// Startup options from the connection string.
    pub options: Option<&'a str>,
    /// Whether SCRAM must, may or must not bind to TLS.
    pub channel_binding: ChannelBinding,
}

/// No connection could be made; retrying may help unless [`ConnectError::is_misconfiguration`].
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The name has no address.
    #[error("cannot find the address of {host:?}; check the host in the database URL")]
    Resolve {
        /// The name.
        host: String,
        /// The resolver's answer.
        #[source]
        source: io::Error,
    },
    /// Nobody answers, or hangs up before the startup.
    #[error(
        "cannot reach Postgres at {address}; check that it runs, its listen_addresses, and the port"
    )]
    Unreachable {
        /// Host and port.
        address: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// Somebody accepts but does not answer in time.
    #[error(
        "Postgres at {address} did not answer within {seconds} s; check the network, or raise connect_timeout"
    )]
    TimedOut {
        /// Host and port.
        address: String,
        /// The limit.
        seconds: u64,
    },
    /// TLS is asked for, but the server has none.
    #[error(
        "the server at {address} offers no TLS; set ssl = on there, or use sslmode=disable if the way is private"
    )]
    NoTls {
        /// Host and port.
        address: String,
    },
    /// The handshake or the certificate failed.
    #[error(
        "TLS with {address} failed; for a private authority add sslrootcert=FILE to the database URL, and name the host \
         as its certificate does"
    )]
    Tls {
        /// Host and port.
        address: String,
        /// The TLS library's answer.
        #[source]
        source: io::Error,
    },
    /// Something else listens there.
    #[error(
        "what listens at {address} is no Postgres server; check host and port in the database URL"
    )]
    NotPostgres {
        /// Host and port.
        address: String,
    },
    /// Postgres says no.
    #[error("Postgres at {address} refuses the connection: {message}{}", remedy(.sqlstate))]
    Refused {
        /// Host and port.
        address: String,
        /// Appendix "PostgreSQL Error Codes".
        sqlstate: String,
        /// Postgres's own sentence.
        message: String,
    },
    /// The server takes no writes although `target_session_attrs` asks for one that does.
    #[error("the server at {address} is read-only; name its primary in the database URL")]
    ReadOnly {
        /// Host and port.
        address: String,
    },
    /// The startup or the session's settings failed otherwise.
    #[error("cannot open a session on Postgres at {address}")]
    Session {
        /// Host and port.
        address: String,
        /// What failed.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
}

impl ConnectError {
    /// Whether the server runs but takes nobody: it is starting up, shutting down or recovering (Postgres manual,
    /// "PostgreSQL Error Codes", `cannot_connect_now`).
    #[must_use]
    pub fn is_closing_or_opening(&self) -> bool {
        matches!(self, Self::Refused { sqlstate, .. } if sqlstate == "57P03")
    }

    /// Whether somebody must change something before another attempt can succeed.
    #[must_use]
    pub fn is_misconfiguration(&self) -> bool {
        match self {
            Self::NoTls { .. } | Self::Tls { .. } | Self::NotPostgres { .. } => true,
            Self::Refused { sqlstate, .. } => {
                matches!(sqlstate.as_str(), "28000" | "28P01" | "3D000" | "42501")
            }
            Self::Resolve { .. }
            | Self::Unreachable { .. }
            | Self::TimedOut { .. }
            | Self::ReadOnly { .. }
            | Self::Session { .. } => false,
        }
    }

    /// Postgres's refusal, from an error on `address`.
    fn session(address: String, source: tokio_postgres::Error) -> Self {
        match source.as_db_error() {
            Some(error) => Self::Refused {
                address,
                sqlstate: error.code().code().to_owned(),
                message: error.message().to_owned(),
            },
            None => Self::Session {
                address,
                source: Box::new(source),
            },
        }
    }
}

/// What mends a refusal.
fn remedy(sqlstate: &str) -> &'static str {
    match sqlstate {
        "28P01" => "; check user and password in the database URL",
        "28000" => "; check the user in the database URL, and pg_hba.conf on the server",
        "3D000" => "; check the database's name in the URL, or run: create database …",
        "53300" => "; raise max_connections, or connect fewer clients",
        "57P03" => "; it is starting or stopping, wait",
        "42501" => "; replication needs the attribute: alter role … replication",
        _ => "",
    }
}

impl Database {
    /// Parses `postgres://USER:PASSWORD@HOST:PORT/DATABASE?…` or libpq's `key=value` pairs, and reads the certificate
    /// files that it names.
    ///
    /// # Errors
    /// The text or a file cannot be used; no error repeats the password.
    pub fn parse(url: &str) -> Result<Self, DatabaseUrlError> {
        let parameters = Parameters::parse(url)?;
        let tls = tls::configure(&parameters)?;
        Ok(Self {
            parameters: Arc::new(parameters),
            tls,
        })
    }

    /// The role that logs in.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.parameters.user
    }

    /// The database's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.parameters.database
    }

    /// Whether servers that take no writes are passed over (`target_session_attrs=read-write`).
    #[must_use]
    pub fn wants_writes(&self) -> bool {
        self.parameters.read_write
    }

    /// Opens a session: the hosts in order, each within the connect timeout. Its driver runs on `tasks` until the client
    /// is dropped.
    ///
    /// # Errors
    /// No host could be used; the last one's error. Cancel safe: an attempt that is dropped leaves nothing behind.
    pub async fn connect(
        &self,
        tasks: &TaskTracker,
        application_name: &str,
    ) -> Result<tokio_postgres::Client, ConnectError> {
        let config = &self.client_config(application_name);
        self.attempt(|transport, address: String| async move {
            let (client, connection) = config
                .connect_raw(transport, Settled)
                .await
                .map_err(|source| ConnectError::session(address.clone(), source))?;
            let read_only = ["in_hot_standby", "default_transaction_read_only"]
                .into_iter()
                .any(|name| connection.parameter(name) == Some("on"));
            if read_only && self.parameters.read_write {
                return Err(ConnectError::ReadOnly { address });
            }
            tasks.spawn(async move {
                if let Err(error) = connection.await {
                    debug!(
                        error = &error as &dyn Error,
                        "a connection to the database ended"
                    );
                }
            });
            client
                .batch_execute(SESSION_SETTINGS)
                .await
                .map_err(|source| ConnectError::session(address, source))?;
            Ok(client)
        })
        .await
    }

    /// Opens a socket, for clients that speak the startup themselves, and hands it with the server's address to `start`;
    /// goes on to the next host where that fails, as [`Self::connect`] does.
    ///
    /// # Errors
    /// No host could be used; the last one's error.
    pub async fn attempt<T, F>(
        &self,
        start: impl Fn(Transport, String) -> F,
    ) -> Result<T, ConnectError>
    where
        F: Future<Output = Result<T, ConnectError>>,
    {
        let mut failure = None;
        for host in &self.parameters.hosts {
            for (encryption, last) in self.encryptions(&host.place) {
                let one = async {
                    let transport = Transport::open(host, encryption, self.tls.as_ref()).await?;
                    start(transport, host.to_string()).await
                };
                let timeout = self.parameters.connect_timeout;
                let error = match tokio::time::timeout(timeout, one).await {
                    Ok(Ok(started)) => return Ok(started),
                    Ok(Err(error)) => error,
                    Err(_elapsed) => ConnectError::TimedOut {
                        address: host.to_string(),
                        seconds: timeout.as_secs(),
                    },
                };
                let retry = !last && depends_on_encryption(&error);
                failure = Some(error);
                if !retry {
                    break;
                }
            }
        }
        Err(failure
            .expect("Parameters::hosts is never empty, and each host is tried at least once"))
    }

    /// The same server and login, another database.
    #[must_use]
    pub fn named(&self, database: &str) -> Self {
        let mut parameters = (*self.parameters).clone();
        database.clone_into(&mut parameters.database);
        Self {
            parameters: Arc::new(parameters),
            ..self.clone()
        }
    }

    /// Who logs in.
    #[must_use]
    pub fn login(&self) -> Login<'_> {
        Login {
            user: &self.parameters.user,
            password: self.parameters.password.as_deref(),
            database: &self.parameters.database,
            options: self.parameters.options.as_deref(),
            channel_binding: self.parameters.channel_binding,
        }
    }

    /// The ways to try in order, each with whether it is the last.
    fn encryptions(&self, place: &Place) -> impl Iterator<Item = (Encryption, bool)> + use<> {
        use Encryption::{Always, IfOffered, Never};
        let ways: &'static [Encryption] = match (place, self.parameters.ssl_mode) {
            (Place::Folder(_), _) | (_, SslMode::Disable) => &[Never],
            (_, SslMode::Allow) => &[Never, Always],
            (_, SslMode::Prefer) => &[IfOffered, Never],
            (_, SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull) => &[Always],
        };
        ways.iter()
            .enumerate()
            .map(|(index, way)| (*way, index.saturating_add(1) == ways.len()))
    }

    fn client_config(&self, application_name: &str) -> tokio_postgres::Config {
        let login = self.login();
        let mut config = tokio_postgres::Config::new();
        config
            .user(login.user)
            .dbname(login.database)
            .application_name(application_name)
            // The transport that tokio-postgres is given is encrypted already, or rightly not.
            .ssl_mode(config::SslMode::Require)
            .ssl_negotiation(SslNegotiation::Direct)
            .channel_binding(match login.channel_binding {
                ChannelBinding::Disable => config::ChannelBinding::Disable,
                ChannelBinding::Prefer => config::ChannelBinding::Prefer,
                ChannelBinding::Require => config::ChannelBinding::Require,
            });
        if let Some(password) = login.password {
            config.password(password);
        }
        if let Some(options) = login.options {
            config.options(options);
        }
        config
    }
}

/// Whether the same host may admit us when asked with the other encryption: a handshake that failed, or a `pg_hba.conf`
/// that has lines for one of the two only. A wrong password is not tried again.
fn depends_on_encryption(error: &ConnectError) -> bool {
    match error {
        ConnectError::Tls { .. } => true,
        ConnectError::Refused { sqlstate, .. } => sqlstate == "28000",
        _ => false,
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database")
            .field("hosts", &self.parameters.hosts)
            .field("user", &self.parameters.user)
            .field("database", &self.parameters.database)
            .field("ssl_mode", &self.parameters.ssl_mode)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport")
            .field("is_encrypted", &self.is_encrypted())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_no_password() {
        let database = Database::parse("postgres://u:hidden@h/d?sslmode=disable").unwrap();
        let shown = format!("{database:?}");
        assert!(
            shown.contains("\"h\"") && !shown.contains("hidden"),
            "{shown}"
        );
    }

    #[test]
    fn what_a_refusal_says_names_the_remedy() {
        let refusal = ConnectError::Refused {
            address: "h:5432".to_owned(),
            sqlstate: "3D000".to_owned(),
            message: "database \"x\" does not exist".to_owned(),
        };
        assert!(refusal.to_string().ends_with("create database …"));
        assert!(refusal.is_misconfiguration());
    }
}
