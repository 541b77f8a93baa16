//! Connection strings.
//!
//! In goes a database URL or a list of key=value pairs, out comes [`Parameters`]. No file, no environment variable and
//! no password file is read here, and no error repeats a value that may be a password. Follows the Postgres manual,
//! "Connection Strings" and "Parameter Key Words".

use std::time::Duration;

/// How long one host may take to answer, unless `connect_timeout` says otherwise.
const CONNECT_TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);

/// Where libpq looks for a local server if no host is named: Debian's folder, then the one that Postgres is built with.
const LOCAL_FOLDERS: [&str; 2] = ["/var/run/postgresql", "/tmp"];

/// Parameters of libpq that say nothing to us: they tune what we set ourselves or name what we do not use.
const IGNORED: [&str; 14] = [
    "application_name",
    "client_encoding",
    "fallback_application_name",
    "gssencmode",
    "gsslib",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "krbsrvname",
    "sslcompression",
    "ssl_min_protocol_version",
    "sslsni",
    "tcp_user_timeout",
];

/// What a connection string says.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Parameters {
    /// Tried in order; never empty.
    pub(super) hosts: Vec<Host>,
    /// The login role.
    pub(super) user: String,
    /// Never shown.
    pub(super) password: Option<String>,
    /// The database's name; the user's unless given.
    pub(super) database: String,
    /// Whether and how the connection is encrypted.
    pub(super) ssl_mode: SslMode,
    /// Whether the password exchange must be bound to the TLS connection.
    pub(super) channel_binding: ChannelBinding,
    /// File with the certificates that sign the server's, or `system`.
    pub(super) root_certificates: Option<String>,
    /// Files with our own certificate and its key.
    pub(super) client_certificate: Option<(String, String)>,
    /// Startup options such as `-c search_path=app`.
    pub(super) options: Option<String>,
    /// For one host to answer, all its addresses together.
    pub(super) connect_timeout: Duration,
    /// Whether a server that takes no writes is passed over.
    pub(super) read_write: bool,
}

/// One server that may be tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Host {
    /// How to get there.
    pub(super) place: Place,
    /// TCP port, or the number in the socket's file name.
    pub(super) port: u16,
}

/// A name to resolve or a folder with a socket in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A host name or an address.
    Name {
        /// What the server's certificate must name.
        name: String,
        /// `hostaddr`: connect here instead of resolving the name.
        address: Option<String>,
    },
    /// A folder that holds `.s.PGSQL.PORT`.
    Folder(String),
}

impl std::fmt::Display for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.place {
            Place::Name { name, .. } => write!(f, "{name}:{}", self.port),
            Place::Folder(folder) => write!(f, "{folder}/.s.PGSQL.{}", self.port),
        }
    }
}

/// libpq's `sslmode` (Postgres manual, "SSL Support", table "SSL Mode Descriptions").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SslMode {
    /// Plain only.
    Disable,
    /// Plain, and TLS if the server refuses plain.
    Allow,
    /// TLS if the server offers it, else plain.
    Prefer,
    /// TLS; the server's certificate is checked only if `sslrootcert` is given.
    Require,
    /// TLS, and the certificate must be signed by one of the roots.
    VerifyCa,
    /// As before, and it must name the host.
    VerifyFull,
}

/// libpq's `channel_binding`: whether SCRAM proves that both ends of the password exchange are those of the TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChannelBinding {
    /// Not even if offered.
    Disable,
    /// Where the server offers it.
    Prefer,
    /// Or no connection.
    Require,
}

/// The connection string cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseUrlError {
    /// Neither of the two forms.
    #[error(
        "the database URL is neither postgres://USER:PASSWORD@HOST:PORT/DATABASE nor key=value pairs"
    )]
    Form,
    /// `%` without two hexadecimal digits after it, or bytes that are no UTF-8.
    #[error("the {part} in the database URL is not percent-encoded correctly; write % as %25")]
    Encoding {
        /// The part of the URL, never its text.
        part: &'static str,
    },
    /// libpq has no such parameter, or it would be unsafe to ignore it.
    #[error("the database URL has an unknown parameter {parameter}; remove it")]
    Unknown {
        /// The name as written in a URL, or its number in a list of pairs.
        parameter: String,
    },
    /// A value that means nothing.
    #[error("{name} in the database URL must be {expected}")]
    Invalid {
        /// The parameter.
        name: &'static str,
        /// What may stand there.
        expected: &'static str,
    },
    /// Nobody to log in as.
    #[error("the database URL names no user; write postgres://USER@HOST/DATABASE")]
    NoUser,
    /// Anyone's certificate would do.
    #[error(
        "sslmode=verify-ca needs sslrootcert=FILE with the certificate that signs the server's; or use \
         sslmode=verify-full"
    )]
    NoRoots,
    /// A file named by `sslrootcert`, `sslcert` or `sslkey`, or the system's certificates.
    #[error("cannot use {name}={path}")]
    File {
        /// The parameter.
        name: &'static str,
        /// Its value.
        path: String,
        /// Why not.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Parameters {
    /// Parses either form.
    pub(super) fn parse(text: &str) -> Result<Self, DatabaseUrlError> {
        let text = text.trim();
        let mut pairs = Pairs::default();
        if let Some(rest) = ["postgres://", "postgresql://"]
            .iter()
            .find_map(|scheme| text.strip_prefix(scheme))
        {
            pairs.read_url(rest)?;
        } else if text.contains("://") || !text.contains('=') {
            return Err(DatabaseUrlError::Form);
        } else {
            pairs.read_list(text)?;
        }
        pairs.finish()
    }
}

/// The parameters as text, before they are understood; empty ones count as not given, as in libpq.
#[derive(Default)]
struct Pairs {
    host: String,
    hostaddr: String,
    port: String,
    dbname: String,
    user: String,
    password: String,
    sslmode: String,
    sslrootcert: String,
    sslcert: String,
    sslkey: String,
    options: String,
    connect_timeout: String,
    target_session_attrs: String,
    channel_binding: String,
}

impl Pairs {
    /// Takes one parameter; false if libpq has none of that name.
    fn set(&mut self, name: &str, value: String) -> bool {
        let field = match name {
            "host" => &mut self.host,
            "hostaddr" => &mut self.hostaddr,
            "port" => &mut self.port,
            "dbname" => &mut self.dbname,
            "user" => &mut self.user,
            "password" => &mut self.password,
            "sslmode" => &mut self.sslmode,
            "sslrootcert" => &mut self.sslrootcert,
            "sslcert" => &mut self.sslcert,
            "sslkey" => &mut self.sslkey,
            "options" => &mut self.options,
            "connect_timeout" => &mut self.connect_timeout,
            "target_session_attrs" => &mut self.target_session_attrs,
            "channel_binding" => &mut self.channel_binding,
            other => return IGNORED.contains(&other),
        };
        *field = value;
        true
    }

    /// `rest` follows `postgres://`.
    fn read_url(&mut self, rest: &str) -> Result<(), DatabaseUrlError> {
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, rest) = rest.split_at(end);
        let hosts = match authority.rsplit_once('@') {
            None => authority,
            Some((login, hosts)) => {
                let (user, password) = login.split_once(':').unwrap_or((login, ""));
                self.user = percent_decode(user, "user")?;
                self.password = percent_decode(password, "password")?;
                hosts
            }
        };
        self.read_hosts(hosts)?;
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        self.dbname = percent_decode(path.strip_prefix('/').unwrap_or(path), "database name")?;
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').ok_or(DatabaseUrlError::Form)?;
            let name = percent_decode(name, "parameter name")?;
            let value = percent_decode(value, "parameter value")?;
            let known = match (name.as_str(), value.as_str()) {
                ("ssl", "true") => self.set("sslmode", "require".to_owned()), // JDBC's way, which libpq takes too
                _ => self.set(&name, value),
            };
            if !known {
                let parameter = format!("{name:?}");
                return Err(DatabaseUrlError::Unknown { parameter });
            }
        }
        Ok(())
    }

    /// `a:1,[::1]:2,%2Ftmp` into the two lists that the key=value form has.
    fn read_hosts(&mut self, list: &str) -> Result<(), DatabaseUrlError> {
        let mut ports = Vec::new();
        let mut hosts = Vec::new();
        for item in list.split(',') {
            let (host, port) = match item.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
                Some((address, port)) => (address, port.strip_prefix(':').unwrap_or(port)),
                None => item.split_once(':').unwrap_or((item, "")),
            };
            hosts.push(percent_decode(host, "host")?);
            ports.push(port);
        }
        if hosts.iter().any(|host| !host.is_empty()) {
            self.host = hosts.join(",");
        }
        if ports.iter().any(|port| !port.is_empty()) {
            self.port = ports.join(",");
        }
        Ok(())
    }

    /// `key = value` pairs, values optionally in single quotes, `\` escaping the next character.
    fn read_list(&mut self, text: &str) -> Result<(), DatabaseUrlError> {
        let mut rest = text.chars().peekable();
        for number in 1_u32.. {
            while rest.next_if(|c| c.is_whitespace()).is_some() {}
            if rest.peek().is_none() {
                break;
            }
            let mut name = String::new();
            while let Some(c) = rest.next_if(|c| *c != '=' && !c.is_whitespace()) {
                name.push(c);
            }
            while rest.next_if(|c| c.is_whitespace()).is_some() {}
            if rest.next() != Some('=') {
                return Err(DatabaseUrlError::Form);
            }
            while rest.next_if(|c| c.is_whitespace()).is_some() {}
            let quoted = rest.next_if_eq(&'\'').is_some();
            let mut value = String::new();
            loop {
                match rest.next() {
                    Some('\\') => value.extend(rest.next()),
                    Some('\'') if quoted => break,
                    Some(c) if c.is_whitespace() && !quoted => break,
                    Some(c) => value.push(c),
                    None if quoted => return Err(DatabaseUrlError::Form),
                    None => break,
                }
            }
            // A name could be the second word of an unquoted password, so only its place is told.
            if !self.set(&name, value) {
                let parameter = format!("at place {number}");
                return Err(DatabaseUrlError::Unknown { parameter });
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<Parameters, DatabaseUrlError> {
        let hosts = self.hosts()?;
        let ssl_mode = match self.sslmode.as_str() {
            "disable" => SslMode::Disable,
            "allow" => SslMode::Allow,
            "" | "prefer" => SslMode::Prefer,
            // libpq: the system's certificates prove little without the name, so they imply the strictest mode.
            "require" | "verify-full" if self.sslrootcert == "system" => SslMode::VerifyFull,
            "require" => SslMode::Require,
            "verify-ca" if self.sslrootcert.is_empty() || self.sslrootcert == "system" => {
                return Err(DatabaseUrlError::NoRoots);
            }
            "verify-ca" => SslMode::VerifyCa,
            "verify-full" => SslMode::VerifyFull,
            _ => {
                return Err(DatabaseUrlError::Invalid {
                    name: "sslmode",
                    expected: "disable, allow, prefer, require, verify-ca or verify-full",
                });
            }
        };
        let read_write = match self.target_session_attrs.as_str() {
            "" | "any" => false,
            "read-write" | "primary" => true,
            _ => {
                return Err(DatabaseUrlError::Invalid {
                    name: "target_session_attrs",
                    expected: "any, read-write or primary",
                });
            }
        };
        let channel_binding = match self.channel_binding.as_str() {
            "disable" => ChannelBinding::Disable,
            "" | "prefer" => ChannelBinding::Prefer,
            "require" => ChannelBinding::Require,
            _ => {
                return Err(DatabaseUrlError::Invalid {
                    name: "channel_binding",
                    expected: "disable, prefer or require",
                });
            }
        };
        let client_certificate = match (some(self.sslcert), some(self.sslkey)) {
            (None, None) => None,
            (Some(certificate), Some(key)) => Some((certificate, key)),
            _ => {
                return Err(DatabaseUrlError::Invalid {
                    name: "sslcert",
                    expected: "given together with sslkey",
                });
            }
        };
        let user = some(self.user).ok_or(DatabaseUrlError::NoUser)?;
        Ok(Parameters {
            hosts,
            database: some(self.dbname).unwrap_or_else(|| user.clone()),
            user,
            password: some(self.password),
            ssl_mode,
            channel_binding,
            root_certificates: some(self.sslrootcert),
            client_certificate,
            options: some(self.options),
            connect_timeout: connect_timeout(&self.connect_timeout)?,
            read_write,
        })
    }

    fn hosts(&self) -> Result<Vec<Host>, DatabaseUrlError> {
        let names: Vec<&str> = self.host.split(',').collect();
        let addresses: Vec<&str> = self.hostaddr.split(',').collect();
        let ports: Vec<&str> = self.port.split(',').collect();
        let count = names.len().max(addresses.len());
        let bad_count = |name, given: usize, text: &str| {
            if given == count || (given == 1 && (text.is_empty() || name == "port")) {
                return Ok(());
            }
            let expected = "one for all hosts, or a list as long as that of the hosts";
            Err(DatabaseUrlError::Invalid { name, expected })
        };
        bad_count("host", names.len(), &self.host)?;
        bad_count("hostaddr", addresses.len(), &self.hostaddr)?;
        bad_count("port", ports.len(), &self.port)?;
        let mut hosts = Vec::new();
        for index in 0..count {
            let at = |list: &[&str]| {
                list.get(index)
                    .or(list.first())
                    .map_or("", |text| text.trim())
                    .to_owned()
            };
            let (name, address) = (at(&names), some(at(&addresses)));
            let port = match at(&ports).as_str() {
                "" => 5432,
                digits => digits.parse().ok().filter(|port| *port > 0).ok_or(DatabaseUrlError::Invalid {
                    name: "port",
                    expected: "a number up to 65535; in a user name or password, write : as %3A, / as %2F, ? as %3F",
                })?,
            };
            match (name, address) {
                (name, None) if name.is_empty() => hosts.extend(LOCAL_FOLDERS.map(|folder| Host {
                    place: Place::Folder(folder.to_owned()),
                    port,
                })),
                (folder, None) if folder.starts_with('/') => hosts.push(Host {
                    place: Place::Folder(folder),
                    port,
                }),
                (name, address) => hosts.push(Host {
                    place: Place::Name {
                        name: match &address {
                            Some(address) if name.is_empty() => address.clone(),
                            _ => name,
                        },
                        address,
                    },
                    port,
                }),
            }
        }
        Ok(hosts)
    }
}

fn some(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

fn connect_timeout(text: &str) -> Result<Duration, DatabaseUrlError> {
    match text {
        // libpq waits for ever at zero; every await of ours has a limit.
        "" | "0" => Ok(CONNECT_TIMEOUT_DEFAULT),
        digits => digits
            .parse()
            .map(Duration::from_secs)
            .map_err(|_not_a_number| DatabaseUrlError::Invalid {
                name: "connect_timeout",
                expected: "a number of seconds",
            }),
    }
}

fn percent_decode(text: &str, part: &'static str) -> Result<String, DatabaseUrlError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        if *byte != b'%' {
            bytes.push(*byte);
            continue;
        }
        let decoded = rest.split_first_chunk::<2>().and_then(|(digits, after)| {
            rest = after;
            let high = char::from(digits[0]).to_digit(16)?;
            let low = char::from(digits[1]).to_digit(16)?;
            u8::try_from(high * 16 + low).ok()
        });
        bytes.push(decoded.ok_or(DatabaseUrlError::Encoding { part })?);
    }
    String::from_utf8(bytes).map_err(|_not_utf8| DatabaseUrlError::Encoding { part })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(name: &str, port: u16) -> Host {
        let place = Place::Name {
            name: name.to_owned(),
            address: None,
        };
        Host { place, port }
    }

    fn folder(path: &str, port: u16) -> Host {
        let place = Place::Folder(path.to_owned());
        Host { place, port }
    }

    #[track_caller]
    fn check(text: &str, hosts: &[Host], login: (&str, Option<&str>, &str), mode: SslMode) {
        let parsed = Parameters::parse(text).unwrap();
        assert_eq!(parsed.hosts, hosts, "{text}");
        let found = (
            parsed.user.as_str(),
            parsed.password.as_deref(),
            parsed.database.as_str(),
        );
        assert_eq!(found, login, "{text}");
        assert_eq!(parsed.ssl_mode, mode, "{text}");
    }

    #[test]
    fn both_forms_say_the_same() {
        let login = ("app", Some("p@ss/ '1"), "shop");
        for text in [
            "postgres://app:p%40ss%2F%20%271@db.example:6000/shop?sslmode=require",
            "postgresql://db.example:6000/shop?user=app&password=p%40ss%2f%20'1&sslmode=require",
            r"host=db.example port = 6000 user='app' password='p@ss/ \'1' dbname=shop sslmode=require",
        ] {
            check(text, &[tcp("db.example", 6000)], login, SslMode::Require);
        }
    }

    #[test]
    fn hosts_are_lists_addresses_and_folders() {
        let login = ("u", None, "u");
        check(
            "postgres://u@",
            &[folder("/var/run/postgresql", 5432), folder("/tmp", 5432)],
            login,
            SslMode::Prefer,
        );
        check(
            "postgres://u@a,b:2,[::1]:3/",
            &[tcp("a", 5432), tcp("b", 2), tcp("::1", 3)],
            login,
            SslMode::Prefer,
        );
        check(
            "postgres://u@%2Frun%2Fpg:7",
            &[folder("/run/pg", 7)],
            login,
            SslMode::Prefer,
        );
        check(
            "postgres:///?host=/run/pg&user=u",
            &[folder("/run/pg", 5432)],
            login,
            SslMode::Prefer,
        );
        check(
            "host=a,b port=9 user=u",
            &[tcp("a", 9), tcp("b", 9)],
            login,
            SslMode::Prefer,
        );
    }

    #[test]
    fn an_address_replaces_resolving_but_not_the_name() {
        let parsed = Parameters::parse("host=db.example hostaddr=10.0.0.1 user=u").unwrap();
        let place = Place::Name {
            name: "db.example".to_owned(),
            address: Some("10.0.0.1".to_owned()),
        };
        assert_eq!(parsed.hosts, [Host { place, port: 5432 }]);
    }

    #[test]
    fn ssl_modes_are_those_of_libpq() {
        for (text, mode) in [
            ("disable", SslMode::Disable),
            ("allow", SslMode::Allow),
            ("prefer", SslMode::Prefer),
            ("require", SslMode::Require),
            ("require&sslrootcert=system", SslMode::VerifyFull),
            ("verify-ca&sslrootcert=/ca.pem", SslMode::VerifyCa),
            ("verify-full", SslMode::VerifyFull),
        ] {
            let parsed = Parameters::parse(&format!("postgres://u@h/d?sslmode={text}")).unwrap();
            assert_eq!(parsed.ssl_mode, mode, "{text}");
        }
    }

    #[track_caller]
    fn refused(text: &str, message: &str) {
        let error = Parameters::parse(text).err().unwrap().to_string();
        assert!(error.contains(message), "{text}: {error}");
        assert!(!error.contains("hidden"), "{text}: {error}");
    }

    #[test]
    fn mistakes_are_named_without_repeating_a_password() {
        refused("mysql://u:hidden@h", "postgres://USER");
        refused("hidden", "postgres://USER");
        refused("postgres://u:hidden%@h", "password");
        refused("postgres://u:12hidden/a@h", "port");
        refused("postgres://u:a?hidden@h/d", "postgres://USER");
        refused("password=a hidden=b user=u", "at place 2");
        refused("password=a hidden user=u", "key=value");
        refused("password='hidden", "key=value");
        refused("postgres://u@h?sslmode=on", "verify-full");
        refused("postgres://u@h?sslmode=verify-ca", "sslrootcert");
        refused("postgres://u@h?pgbouncer=true", "\"pgbouncer\"");
        refused("postgres://u@h:0", "port");
        refused("postgres://u@h:99999", "port");
        refused("postgres://h", "no user");
        refused("host=a,b port=1,2,3 user=u", "port");
    }
}
