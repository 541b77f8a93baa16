//! Collects the settings of a command: flags made from the table of settings, the environment, `walcast.toml`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

use crate::config::{Config, ConfigError, SETTINGS, Setting, Sources, nearest};

/// The file that is read when `--config` names none.
const FILE: &str = "walcast.toml";

/// The settings given on the command line.
#[derive(Clone, Debug, Default)]
pub(super) struct Options {
    flags: BTreeMap<String, Vec<String>>,
    file: Option<PathBuf>,
}

/// The settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum OptionsError {
    #[error("cannot read {}", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{}", problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\nwalcast: "))]
    Settings { problems: Vec<ConfigError> },
}

impl Options {
    /// Reads the environment and the file, and checks all settings.
    pub(super) fn config(self) -> Result<Config, OptionsError> {
        let environment: BTreeMap<String, String> =
            std::env::vars_os().filter_map(text_pair).collect();
        let named = self.file.or_else(|| {
            environment
                .get("WALCAST_CONFIG")
                .filter(|path| !path.is_empty())
                .map(PathBuf::from)
        });
        let path = named.clone().unwrap_or_else(|| PathBuf::from(FILE));
        let file = match std::fs::read_to_string(&path) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && named.is_none() => None,
            Err(source) => return Err(OptionsError::File { path, source }),
        };
        Config::parse(&Sources {
            flags: self.flags,
            environment,
            file,
        })
        .map_err(|problems| OptionsError::Settings { problems })
    }
}

/// Variables whose names are nearly those of settings, with what was probably meant. Others that begin with `WALCAST_`
/// are no concern of ours: orchestrators set them for a service of that name.
pub(super) fn misspelt_variables() -> Vec<(String, &'static Setting)> {
    let ours = |name: &String| SETTINGS.iter().any(|setting| setting.variable() == *name);
    std::env::vars_os()
        .filter_map(text_pair)
        .map(|(name, _)| name)
        .filter(|name| {
            name.starts_with("WALCAST_")
                && !ours(name)
                && name != "WALCAST_CONFIG"
                && name != "WALCAST_PG_BIN"
        })
        .filter_map(|name| nearest(&name).map(|setting| (name, setting)))
        .collect()
}

fn text_pair((name, value): (OsString, OsString)) -> Option<(String, String)> {
    Some((name.into_string().ok()?, value.into_string().ok()?))
}

impl Args for Options {
    fn augment_args(command: Command) -> Command {
        let file = Arg::new("config")
            .long("config")
            .value_name("FILE")
            .value_parser(clap::value_parser!(PathBuf));
        let file = file.help(
            "A file of settings [env: WALCAST_CONFIG] [default: walcast.toml, if there is one]",
        );
        let mut command = command.arg(file.help_heading("Settings"));
        for setting in SETTINGS {
            let default = if setting.default.is_empty() {
                String::new()
            } else {
                format!(" [default: {}]", setting.default)
            };
            let argument = Arg::new(setting.key)
                .long(setting.flag())
                .value_name("VALUE")
                .action(ArgAction::Append)
                .help(format!(
                    "{} [env: {}]{default}",
                    setting.about,
                    setting.variable()
                ))
                .help_heading("Settings");
            command = command.arg(argument);
        }
        command
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Options {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut options = Self::default();
        options.update_from_arg_matches(matches)?;
        Ok(options)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        if let Some(path) = matches.get_one::<PathBuf>("config") {
            self.file = Some(path.clone());
        }
        for setting in SETTINGS {
            if let Some(values) = matches.get_many::<String>(setting.key) {
                self.flags
                    .insert(setting.key.to_owned(), values.cloned().collect());
            }
        }
        Ok(())
    }
}
