//! The folder in which `walcast dev` keeps its cluster and its secrets, the account that owns it, and the lock that lets
//! one `walcast dev` at a time use it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use rand::Rng as _;
use rustix::fs::{FlockOperation, flock};

/// The account that Postgres runs as, where it is not ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// The locked folder. The lock ends with this value, or with the process however that ends.
#[derive(Debug)]
pub(super) struct Home {
    pub(super) folder: PathBuf,
    /// `None`: as ourselves. Postgres refuses to run as root.
    pub(super) account: Option<Account>,
    _lock: File,
}

/// Why the folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub(in crate::cli) enum HomeError {
    #[error("walcast dev is already running here (process {pid}); stop it with Ctrl-C first")]
    Running { pid: String },
    #[error(
        "there is no account \"postgres\" to run Postgres as, and Postgres refuses to run as root: start walcast dev as an ordinary user"
    )]
    NoAccount,
    #[error("no folder for the data: set HOME or XDG_CACHE_HOME, or give one with --directory")]
    NoFolder,
    #[error("{} belongs to somebody else; remove it or give another folder with --directory", folder.display())]
    Foreign { folder: PathBuf },
    #[error("cannot use {}", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl Home {
    /// Makes the folder if it is new, and locks it.
    ///
    /// # Errors
    /// The folder cannot be made, is not ours, or another `walcast dev` holds it.
    pub(super) fn open(explicit: Option<&Path>) -> Result<Self, HomeError> {
        let (folder, account) = place(explicit)?;
        let failed = |source| HomeError::Io {
            path: folder.clone(),
            source,
        };
        fs::create_dir_all(&folder).map_err(failed)?;
        let ours = rustix::process::geteuid().as_raw();
        let owner = fs::metadata(&folder).map_err(failed)?.uid();
        // In a folder that everybody may write to, somebody else may have been there first.
        if owner != ours && account.is_none_or(|account| owner != account.uid) {
            return Err(HomeError::Foreign { folder });
        }
        give(&folder, account).map_err(failed)?;
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).map_err(failed)?;
        let lock = lock(&folder.join("lock"))?;
        Ok(Self {
            folder,
            account,
            _lock: lock,
        })
    }

    /// The text kept under `name`; made at the first use, readable by the owner only.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub(super) fn keep(
        &self,
        name: &str,
        make: impl FnOnce() -> String,
    ) -> Result<String, HomeError> {
        let path = self.folder.join(name);
        let kept = match fs::read_to_string(&path) {
            Ok(text) if !text.is_empty() => return Ok(text),
            Ok(_) => self.write(&path, &make()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.write(&path, &make()),
            Err(error) => Err(error),
        };
        kept.map_err(|source| HomeError::Io { path, source })
    }

    /// Writes `text` under `name` in place of what was there.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn put(&self, name: &str, text: &str) -> Result<(), HomeError> {
        let path = self.folder.join(name);
        self.write(&path, text)
            .map(drop)
            .map_err(|source| HomeError::Io { path, source })
    }

    fn write(&self, path: &Path, text: &str) -> io::Result<String> {
        // Written beside and renamed, so that a crash leaves the old file or the new one.
        let beside = path.with_extension("new");
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&beside)?;
        file.write_all(text.as_bytes())?;
        give(&beside, self.account)?;
        fs::rename(&beside, path)?;
        Ok(text.to_owned())
    }

    /// Removes everything but the lock.
    ///
    /// # Errors
    /// Something cannot be removed.
    pub(super) fn wipe(&self) -> Result<(), HomeError> {
        let failed = |path: &Path, source| HomeError::Io {
            path: path.to_owned(),
            source,
        };
        for entry in fs::read_dir(&self.folder).map_err(|error| failed(&self.folder, error))? {
            let path = entry.map_err(|error| failed(&self.folder, error))?.path();
            if path.file_name().is_some_and(|name| name == "lock") {
                continue;
            }
            let removed = if path.is_dir() {
                fs::remove_dir_all(&path)
            } else {
                fs::remove_file(&path)
            };
            removed.map_err(|error| failed(&path, error))?;
        }
        Ok(())
    }
}

/// 192 random bits in hexadecimal.
pub(super) fn random_secret() -> String {
    let bytes: [u8; 24] = rand::rng().random();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn place(explicit: Option<&Path>) -> Result<(PathBuf, Option<Account>), HomeError> {
    if !rustix::process::geteuid().is_root() {
        let folder = match explicit {
            Some(folder) => folder.to_owned(),
            None => cache().ok_or(HomeError::NoFolder)?.join("walcast"),
        };
        return Ok((folder, None));
    }
    let account = account().ok_or(HomeError::NoAccount)?;
    let folder = explicit.map_or_else(
        || {
            // Root's own folders cannot be reached by the account, so its home is used, or else a public place.
            let home = Path::new("/var/lib/postgresql");
            let usable = fs::metadata(home)
                .is_ok_and(|metadata| metadata.is_dir() && metadata.uid() == account.uid);
            if usable {
                home.join("walcast-dev")
            } else {
                PathBuf::from("/var/tmp/walcast-dev")
            }
        },
        Path::to_owned,
    );
    Ok((folder, Some(account)))
}

fn cache() -> Option<PathBuf> {
    let folder = |name| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    folder("XDG_CACHE_HOME").or_else(|| folder("HOME").map(|home| home.join(".cache")))
}

fn account() -> Option<Account> {
    let accounts = fs::read_to_string("/etc/passwd").ok()?;
    accounts.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some("postgres")).then_some(())?;
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        Some(Account { uid, gid })
    })
}

fn give(path: &Path, account: Option<Account>) -> io::Result<()> {
    account.map_or(Ok(()), |account| {
        chown(path, Some(account.uid), Some(account.gid))
    })
}

fn lock(path: &Path) -> Result<File, HomeError> {
    let failed = |source: io::Error| HomeError::Io {
        path: path.to_owned(),
        source,
    };
    let mut options = OpenOptions::new();
    let mut file = options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(failed)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(error) if error == rustix::io::Errno::WOULDBLOCK => {
            let mut pid = String::new();
            file.read_to_string(&mut pid).map_err(failed)?;
            return Err(HomeError::Running {
                pid: pid.trim().to_owned(),
            });
        }
        Err(error) => return Err(failed(error.into())),
    }
    file.set_len(0).map_err(failed)?;
    writeln!(file, "{}", std::process::id()).map_err(failed)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_long_and_never_the_same() {
        let (first, second) = (random_secret(), random_secret());
        assert_eq!(first.len(), 48);
        assert_ne!(first, second);
    }
}
