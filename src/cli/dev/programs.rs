//! Finds the newest Postgres server programs of this machine. Looks at folders and asks programs for their version; never
//! changes anything.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The oldest Postgres that walcast works with.
const MAJOR_MIN: u32 = 14;

/// A folder with `initdb` and `postgres` of one version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Programs {
    pub(super) folder: PathBuf,
    pub(super) major: u32,
}

impl Programs {
    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

impl Programs {
    /// How a shell calls psql here: by its name where it is in PATH.
    pub(super) fn psql(&self) -> String {
        if in_path("psql") {
            "psql".to_owned()
        } else {
            self.program("psql").display().to_string()
        }
    }
}

/// Why there is no Postgres to start.
#[derive(Debug, thiserror::Error)]
pub(in crate::cli) enum ProgramsError {
    #[error(
        "no Postgres server programs were found; install them with: {}",
        install_command()
    )]
    Missing,
    #[error("the newest Postgres server programs are version {major} in {}; walcast needs {MAJOR_MIN} or later: {}", folder.display(), install_command())]
    TooOld { folder: PathBuf, major: u32 },
    #[error("{} holds no Postgres server programs (postgres and initdb)", folder.display())]
    NotThere { folder: PathBuf },
}

/// The programs in `explicit`, or else the newest of all usual places.
///
/// # Errors
/// Each is one sentence that tells the newcomer what to do.
pub(super) fn find(explicit: Option<&Path>) -> Result<Programs, ProgramsError> {
    if let Some(folder) = explicit {
        return examine(folder).ok_or_else(|| ProgramsError::NotThere {
            folder: folder.to_owned(),
        });
    }
    let newest = candidates()
        .iter()
        .filter_map(|folder| examine(folder))
        .max_by_key(|programs| programs.major);
    match newest {
        None => Err(ProgramsError::Missing),
        Some(Programs { folder, major }) if major < MAJOR_MIN => {
            Err(ProgramsError::TooOld { folder, major })
        }
        Some(programs) => Ok(programs),
    }
}

/// Where packages put the programs. Debian and its like keep each version in a folder of its own that is not in PATH.
fn candidates() -> Vec<PathBuf> {
    let mut folders = Vec::new();
    for (parent, inside) in [
        ("/usr/lib/postgresql", "bin"),
        ("/usr", "bin"),
        ("/usr/local", "bin"),
        ("/opt/homebrew/opt", "bin"),
        ("/usr/local/opt", "bin"),
        ("/Applications/Postgres.app/Contents/Versions", "bin"),
    ] {
        let Ok(entries) = std::fs::read_dir(parent) else {
            continue;
        };
        folders.extend(entries.flatten().map(|entry| entry.path().join(inside)));
    }
    if let Some(path) = std::env::var_os("PATH") {
        folders.extend(std::env::split_paths(&path));
    }
    if let Some(folder) = output(&mut Command::new("pg_config"), "--bindir") {
        folders.push(PathBuf::from(folder.trim()));
    }
    folders
}

fn examine(folder: &Path) -> Option<Programs> {
    let postgres = folder.join("postgres");
    if !postgres.is_file() || !folder.join("initdb").is_file() {
        return None;
    }
    let major = major(&output(&mut Command::new(postgres), "--version")?)?;
    Some(Programs {
        folder: folder.to_owned(),
        major,
    })
}

fn output(command: &mut Command, argument: &str) -> Option<String> {
    let output = command.arg(argument).output().ok()?;
    String::from_utf8(output.stdout).ok()
}

/// The major version in `postgres (PostgreSQL) 15.4 (Debian 15.4-1)` or `postgres (PostgreSQL) 18beta1`.
fn major(version: &str) -> Option<u32> {
    let number = version.split_once("(PostgreSQL) ")?.1;
    let end = number
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(number.len());
    number.get(..end)?.parse().ok()
}

/// How this machine installs Postgres.
fn install_command() -> &'static str {
    if in_path("apt-get") {
        "sudo apt-get install postgresql"
    } else if in_path("brew") {
        "brew install postgresql@17"
    } else if in_path("dnf") {
        "sudo dnf install postgresql-server"
    } else if in_path("apk") {
        "apk add postgresql"
    } else {
        "your system's package manager (package postgresql or postgresql-server)"
    }
}

fn in_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_read_in_every_spelling() {
        assert_eq!(
            major("postgres (PostgreSQL) 15.4 (Debian 15.4-1.pgdg120+1)\n"),
            Some(15)
        );
        assert_eq!(major("postgres (PostgreSQL) 18beta1\n"), Some(18));
        assert_eq!(major("postgres (PostgreSQL) 17\n"), Some(17));
        assert_eq!(major("something else"), None);
    }

    #[test]
    fn a_folder_without_the_programs_is_named() {
        let error = find(Some(Path::new("/nonexistent"))).expect_err("nothing is there");
        assert_eq!(
            error.to_string(),
            "/nonexistent holds no Postgres server programs (postgres and initdb)"
        );
    }
}
