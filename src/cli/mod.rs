//! The command line (io): arguments and settings go in, an exit code comes out.
//!
//! The only module that reads settings and the only one that prints. Exit codes: 0 done, 1 something failed, 2 the
//! arguments or settings cannot be used.

mod check;
mod dev;
mod diagnostics;
mod login;
mod options;
mod output;
mod policy;
mod serve;
mod setup;
mod signals;
mod token;
mod verifier;

use std::error::Error;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use tokio_util::task::TaskTracker;

use crate::clock;
use crate::config::{Config, Secret, parse_duration};
use crate::database::Database;
use options::Options;
use output::{Line, Mark, complain, report, say, sentence};
use serve::ServeError;
use signals::Signals;

#[derive(Debug, Parser)]
#[command(
    name = "walcast",
    version,
    about = "Turns any Postgres into a realtime backend",
    propagate_version = true
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Delivers committed changes to WebSocket subscribers
    Serve {
        #[command(flatten)]
        options: Options,
    },
    /// Prepares a database: roles, functions, publications, grants; safe to repeat
    Setup {
        /// Adds the messaging schema and its policies
        #[arg(long)]
        messaging: bool,
        /// The role that `walcast serve` will log in as [default: the role of DATABASE_URL]
        #[arg(long, value_name = "ROLE")]
        login: Option<String>,
        /// Prints the SQL instead of running it
        #[arg(long)]
        print: bool,
        #[command(flatten)]
        options: Options,
    },
    /// Finds misconfigurations and prints the SQL that mends each
    Check {
        #[command(flatten)]
        options: Options,
    },
    /// Starts a private Postgres with demo data and a server before it
    Dev {
        /// Address and port [default: 127.0.0.1:4000, or the next free port]
        #[arg(long)]
        listen: Option<SocketAddr>,
        /// Deletes the data of earlier runs first
        #[arg(long)]
        reset: bool,
        /// Where the data is kept [default: walcast in the cache folder]
        #[arg(long, value_name = "FOLDER")]
        directory: Option<PathBuf>,
        /// The folder of the Postgres programs [env: WALCAST_PG_BIN] [default: the newest found]
        #[arg(long, value_name = "FOLDER")]
        pg_bin: Option<PathBuf>,
        /// Which diagnostics are written
        #[arg(long, default_value = "warn", value_name = "FILTER")]
        log_level: String,
    },
    /// Looks into what becomes of row-security policies
    Policy {
        #[command(subcommand)]
        command: PolicyCommand,
    },
    /// Mints a token for development
    Token {
        /// The `role` claim
        #[arg(long, default_value = "authenticated")]
        role: String,
        /// The `sub` claim
        #[arg(long)]
        sub: Option<String>,
        /// How long it is valid, such as 30min, 12h or 7d
        #[arg(long, default_value = "1h", value_parser = parse_duration)]
        expires: Duration,
        /// A further claim; may be repeated
        #[arg(long = "claim", value_name = "NAME=JSON")]
        claims: Vec<String>,
        #[command(flatten)]
        options: Options,
    },
}

#[derive(Debug, Subcommand)]
enum PolicyCommand {
    /// Tells for each published table and role whether its policies are compiled, and what they look into
    List {
        /// A further role; may be repeated
        #[arg(long = "role", value_name = "ROLE")]
        roles: Vec<String>,
        /// Prints JSON
        #[arg(long)]
        json: bool,
        /// Also asks the walcast that runs at this address [default: the one that the settings name]
        #[arg(long, value_name = "ADDRESS:PORT", num_args = 0..=1)]
        live: Option<Option<SocketAddr>>,
        #[command(flatten)]
        options: Options,
    },
    /// Tells whether a subscriber sees a row, and why, beside what Postgres answers
    Explain {
        /// The table, with its schema
        #[arg(long, value_name = "SCHEMA.NAME")]
        table: String,
        /// The row's primary key; values of several columns are separated by commas
        #[arg(long, value_name = "VALUE[,VALUE…]")]
        key: String,
        /// The `sub` claim
        #[arg(long)]
        sub: Option<String>,
        /// The subscriber's role [default: the claim `role`, or else authenticated]
        #[arg(long)]
        role: Option<String>,
        /// Further claims, as a JSON object
        #[arg(long, value_name = "JSON")]
        claims: Option<String>,
        #[command(flatten)]
        options: Options,
    },
    /// Tells which of many policies are compiled; needs a login that may create databases and roles
    Coverage {
        /// A JSON array of schemas with a policy each
        file: PathBuf,
        /// Compares this many rows of each table, for many claims, with what Postgres answers
        #[arg(long, value_name = "ROWS")]
        verify: Option<usize>,
        /// Only the entry with this id
        #[arg(long, value_name = "ID")]
        only: Option<String>,
        #[command(flatten)]
        options: Options,
    },
}

/// Something that ends the command, with its exit code.
struct Failure {
    text: String,
    code: u8,
}

impl Failure {
    /// The arguments or settings cannot be used.
    fn usage(error: &(dyn Error + 'static)) -> Self {
        Self {
            text: sentence(error),
            code: 2,
        }
    }

    fn work(error: &(dyn Error + 'static)) -> Self {
        Self {
            text: sentence(error),
            code: 1,
        }
    }
}

/// Runs the command that the arguments name.
#[must_use]
pub fn run() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(&sentence(&error));
            return ExitCode::FAILURE;
        }
    };
    for (name, setting) in options::misspelt_variables() {
        complain(&format!(
            "the variable {name} is not used; did you mean {}?",
            setting.variable()
        ));
    }
    match runtime.block_on(execute(arguments.command)) {
        Ok(code) => code,
        Err(failure) => {
            complain(&failure.text);
            ExitCode::from(failure.code)
        }
    }
}

async fn execute(command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Serve { options } => {
            let config = settings(options)?;
            diagnostics::start(&config).map_err(|error| Failure::usage(&error))?;
            config
                .verification_key()
                .map_err(|error| Failure::usage(&error))?;
            let mut signals = Signals::listen().map_err(|error| Failure::work(&error))?;
            let served = serve::run(&config, signals.stop(), |_address| {}).await;
            served.map_err(|error| match &error {
                ServeError::Settings(_) | ServeError::Url(_) | ServeError::Verifier(_) => {
                    Failure::usage(&error)
                }
                ServeError::Listen { .. } | ServeError::Misconfigured { .. } => {
                    Failure::work(&error)
                }
            })?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Setup {
            messaging,
            login,
            print,
            options,
        } => {
            let config = settings(options)?;
            let plan = setup::Plan {
                publications: &config.publications,
                messaging,
                login: login.as_deref(),
            };
            if print {
                say(&setup::script(&plan));
                return Ok(ExitCode::SUCCESS);
            }
            let database = database(&config)?;
            let lines = setup::run(&database, &TaskTracker::new(), &plan)
                .await
                .map_err(|error| Failure::work(&error))?;
            Ok(conclude(
                &lines,
                "the database is prepared; next: walcast check",
            ))
        }
        Command::Check { options } => check_all(&settings(options)?).await,
        Command::Dev {
            listen,
            reset,
            directory,
            pg_bin,
            log_level,
        } => {
            let signals = Signals::listen().map_err(|error| Failure::work(&error))?;
            let programs = pg_bin.or_else(|| {
                std::env::var_os("WALCAST_PG_BIN")
                    .filter(|folder| !folder.is_empty())
                    .map(PathBuf::from)
            });
            let wanted = dev::Wanted {
                listen,
                reset,
                directory,
                programs,
                log_level,
            };
            dev::run(wanted, signals)
                .await
                .map_err(|error| Failure::work(&error))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Policy { command } => look_into_policies(command).await,
        Command::Token {
            role,
            sub,
            expires,
            claims,
            options,
        } => {
            let config = settings(options)?;
            let wanted = token::Wanted {
                role,
                subject: sub,
                lifetime: expires,
                claims,
            };
            let token = token::make(&config, &wanted, clock::unix_seconds())
                .map_err(|error| Failure::usage(&error))?;
            say(&token);
            Ok(ExitCode::SUCCESS)
        }
    }
}

async fn look_into_policies(command: PolicyCommand) -> Result<ExitCode, Failure> {
    match command {
        PolicyCommand::List {
            roles,
            json,
            live,
            options,
        } => {
            let config = settings(options)?;
            let database = database(&config)?;
            let listing = policy::Listing {
                publications: &config.publications,
                roles: &roles,
                as_json: json,
                shadow_bytes_max: config.shadow_bytes_max,
                live: live.map(|address| address.unwrap_or_else(|| reachable(config.listen))),
                metrics_secret: config.metrics_secret.as_ref().map(Secret::expose),
            };
            let text = policy::list(&database, listing)
                .await
                .map_err(|error| Failure::work(&error))?;
            say(&text);
            Ok(ExitCode::SUCCESS)
        }
        PolicyCommand::Explain {
            table,
            key,
            sub,
            role,
            claims,
            options,
        } => {
            let database = database(&settings(options)?)?;
            let wanted = policy::Wanted {
                table,
                key,
                subject: sub,
                role,
                claims,
            };
            let explained = policy::explain(&database, &wanted)
                .await
                .map_err(|error| Failure::work(&error))?;
            say(&explained.text);
            Ok(if explained.agrees {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            })
        }
        PolicyCommand::Coverage {
            file,
            verify,
            only,
            options,
        } => {
            let database = database(&settings(options)?)?;
            let text = policy::coverage(&database, &file, verify, only.as_deref())
                .await
                .map_err(|error| Failure::work(&error))?;
            say(&text);
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Where a server on this machine is reached that listens here.
fn reachable(mut listen: SocketAddr) -> SocketAddr {
    if listen.ip().is_unspecified() {
        listen.set_ip(match listen {
            SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    listen
}

async fn check_all(config: &Config) -> Result<ExitCode, Failure> {
    let mut lines = check::keys(config);
    match database(config)?
        .connect(&TaskTracker::new(), "walcast check")
        .await
    {
        Err(error) => lines.push(Line::new(Mark::Failure, sentence(&error))),
        Ok(client) => {
            let slot = serve::slot_options(config);
            let replication = check::replication(&client, &slot).await;
            lines.extend(replication.map_err(|error| Failure::work(&error))?);
            let essentials = check::essentials(&client, config).await;
            lines.extend(essentials.map_err(|error| Failure::work(&error))?);
            let advice = check::advice(&client, config).await;
            lines.extend(advice.map_err(|error| Failure::work(&error))?);
        }
    }
    Ok(conclude(&lines, "nothing keeps changes from flowing"))
}

/// Prints the lines and decides about the exit code: warnings alone are no failure.
fn conclude(lines: &[Line], success: &str) -> ExitCode {
    report(lines);
    let failures = lines
        .iter()
        .filter(|line| line.mark == Mark::Failure)
        .count();
    if failures > 0 {
        say(&format!("\n{failures} to mend; the SQL stands below each."));
        return ExitCode::FAILURE;
    }
    say(&format!("\n{success}"));
    ExitCode::SUCCESS
}

fn settings(options: Options) -> Result<Config, Failure> {
    options.config().map_err(|error| Failure::usage(&error))
}

fn database(config: &Config) -> Result<Database, Failure> {
    let url = config
        .database_url()
        .map_err(|error| Failure::usage(&error))?;
    Database::parse(Secret::expose(url)).map_err(|error| Failure::usage(&error))
}
