//! Where the Postgres server binaries are, as whom they run, and a data directory to copy clusters from.
//!
//! *io*: reads the file system, runs `initdb`.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// Password of the superuser `postgres` in every test cluster.
pub(super) const PASSWORD: &str = "walcast";

const REMEDY: &str = "no Postgres server binaries found; run: apt-get install postgresql \
     (or set WALCAST_TEST_PG_BIN to the folder that holds initdb and postgres)";

/// A local account, by number.
#[derive(Clone, Copy, Debug)]
pub struct Account {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
}

/// The Postgres installation that the tests use.
#[derive(Debug)]
pub struct Installation {
    /// Folder of `initdb`, `postgres`, `psql`, `pg_recvlogical`.
    pub bin: PathBuf,
    /// Whom Postgres runs as; `None` means the caller. It refuses to run as root.
    pub account: Option<Account>,
    /// Folder that belongs to that account and holds everything we make.
    pub base: PathBuf,
}

impl Installation {
    /// The newest installation, looked for once.
    ///
    /// # Panics
    ///
    /// With the command that mends it, if there is none.
    pub fn find() -> &'static Self {
        static FOUND: OnceLock<Installation> = OnceLock::new();
        FOUND.get_or_init(|| {
            let bin = std::env::var_os("WALCAST_TEST_PG_BIN").map_or_else(
                || newest(Path::new("/usr/lib/postgresql")).expect(REMEDY),
                PathBuf::from,
            );
            assert!(bin.join("initdb").exists(), "{REMEDY}");
            let root = rustix::process::geteuid().is_root();
            let account = root.then(|| {
                let passwd = fs::read_to_string("/etc/passwd").expect("/etc/passwd is readable");
                account(&passwd, "postgres").expect(REMEDY)
            });
            let owner = account.map_or_else(
                || rustix::process::geteuid().as_raw(),
                |account| account.uid,
            );
            let base = std::env::temp_dir().join(format!("walcast-test-{owner}"));
            own_folder(&base, account);
            let metadata = fs::symlink_metadata(&base).expect("the folder was just made");
            assert!(
                metadata.is_dir() && metadata.uid() == owner,
                "{} belongs to somebody else",
                base.display()
            );
            let found = Self { bin, account, base };
            found.remove_stale();
            found
        })
    }

    /// Version of the server, such as `15`.
    #[must_use]
    pub fn major(&self) -> u32 {
        let output = Command::new(self.bin.join("postgres"))
            .arg("--version")
            .output()
            .expect("postgres runs");
        let text = String::from_utf8_lossy(&output.stdout);
        let digits = text
            .split_whitespace()
            .nth(2)
            .expect("postgres (PostgreSQL) 15.1");
        digits
            .split(|c: char| !c.is_ascii_digit())
            .next()
            .and_then(|major| major.parse().ok())
            .expect("a version begins with a number")
    }

    /// A command that runs as the account.
    pub(super) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        if let Some(account) = self.account {
            command.uid(account.uid).gid(account.gid).current_dir("/");
        }
        command
    }

    /// A new folder for one cluster or server of this process.
    pub(super) fn run_folder(&self) -> PathBuf {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = self
            .base
            .join(format!("run-{}-{number}", std::process::id()));
        own_folder(&folder, self.account);
        folder
    }

    /// A fresh data directory at `target`: a copy of one that `initdb` made the first time.
    pub(super) fn copy_template(&self, target: &Path) {
        let template = self.base.join(format!("template-{}", self.major()));
        if !template.exists() {
            self.make_template(&template);
        }
        self.copy(&template, target);
    }

    /// Copies the data directory of a cluster that does not run.
    pub(super) fn copy(&self, data: &Path, target: &Path) {
        run(self
            .command("cp")
            .args(["-a", "--reflink=auto"])
            .arg(data)
            .arg(target));
    }

    fn make_template(&self, template: &Path) {
        let folder = self.run_folder();
        let fresh = folder.join("data");
        let password = folder.join("password");
        fs::write(&password, PASSWORD).expect("the folder is ours");
        if let Some(account) = self.account {
            chown(&password, Some(account.uid), Some(account.gid)).expect("root may chown");
        }
        run(self
            .command(self.bin.join("initdb"))
            .args([
                "--no-sync",
                "--username=postgres",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--locale=C.UTF-8",
            ])
            .arg(format!("--pwfile={}", password.display()))
            .arg("-D")
            .arg(&fresh));
        // Another process may have been faster; then its directory is as good as ours.
        let _lost = fs::rename(&fresh, template);
        assert!(template.exists(), "{} cannot be made", template.display());
        let _leftover = fs::remove_dir_all(&folder);
    }

    /// Removes what processes that are gone have left.
    fn remove_stale(&self) {
        for entry in fs::read_dir(&self.base).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let Some(owner) = name
                .to_str()
                .and_then(|name| name.strip_prefix("run-")?.split('-').next())
            else {
                continue;
            };
            if !Path::new("/proc").join(owner).exists() {
                end_postmaster(&entry.path().join("data"));
                let _busy = fs::remove_dir_all(entry.path());
            }
        }
    }
}

/// Ends a postmaster whose leash failed: the process named in its pid file, if it still is that cluster's.
fn end_postmaster(data: &Path) {
    let pid = fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
    let Some(pid) = pid.lines().next().and_then(|line| line.parse::<i32>().ok()) else {
        return;
    };
    let command_line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    if String::from_utf8_lossy(&command_line).contains(&data.display().to_string())
        && let Some(pid) = rustix::process::Pid::from_raw(pid)
    {
        let _gone = rustix::process::kill_process(pid, rustix::process::Signal::QUIT);
    }
}

fn newest(versions: &Path) -> Option<PathBuf> {
    fs::read_dir(versions)
        .ok()?
        .flatten()
        .filter_map(|entry| {
            Some((
                entry.file_name().to_str()?.parse::<u32>().ok()?,
                entry.path().join("bin"),
            ))
        })
        .filter(|(_, bin)| bin.join("initdb").exists() && bin.join("postgres").exists())
        .max_by_key(|(version, _)| *version)
        .map(|(_, bin)| bin)
}

fn account(passwd: &str, name: &str) -> Option<Account> {
    let fields: Vec<&str> = passwd
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields.first() == Some(&name))?;
    Some(Account {
        uid: fields.get(2)?.parse().ok()?,
        gid: fields.get(3)?.parse().ok()?,
    })
}

fn own_folder(folder: &Path, account: Option<Account>) {
    fs::create_dir_all(folder).expect("the temporary folder is writable");
    if let Some(account) = account {
        chown(folder, Some(account.uid), Some(account.gid)).expect("root may chown");
    }
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).expect("the folder is ours");
}

fn run(command: &mut Command) {
    let output = command.output().expect("the program exists");
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}
