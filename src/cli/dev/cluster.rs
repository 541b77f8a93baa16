//! A private Postgres: made once, started on loopback, stopped when asked. What an earlier run left behind, running or not,
//! does not keep it from starting. Other clusters of the machine are never touched.

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use super::home::{Account, Home, HomeError, random_secret};
use super::programs::Programs;

/// The superuser of the cluster.
pub(super) const USER: &str = "postgres";

/// How often a state is looked at while waiting for it.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// A start replays WAL after a crash, which may take a while on a slow disk.
const START_MAX: Duration = Duration::from_secs(60);
/// A fast shutdown writes a checkpoint.
const STOP_MAX: Duration = Duration::from_secs(30);
/// Another program may take the port between the choice and the start.
const PORT_ATTEMPTS: usize = 3;

/// A running cluster. It keeps running until [`Cluster::stop`], also if this value is dropped.
#[derive(Debug)]
pub(super) struct Cluster {
    postmaster: Child,
    pub(super) port: u16,
    pub(super) password: String,
}

/// Why there is no cluster.
#[derive(Debug, thiserror::Error)]
pub(in crate::cli) enum ClusterError {
    #[error(transparent)]
    Home(#[from] HomeError),
    #[error("cannot run {}", program.display())]
    Run {
        program: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("initdb failed: {output}")]
    Init { output: String },
    #[error("Postgres did not start; the end of {}:\n{tail}", log.display())]
    Start { log: PathBuf, tail: String },
    #[error("the Postgres of an earlier run (process {pid}) does not stop")]
    Stuck { pid: i32 },
    #[error("no free port on 127.0.0.1")]
    Port(#[source] io::Error),
}

/// Where a cluster of one major version lives. Another version gets a folder of its own, since it could not read this one.
fn data_folder(home: &Home, programs: &Programs) -> PathBuf {
    home.folder.join(format!("pgdata-{}", programs.major))
}

/// Starts the cluster in `home`; makes it first if there is none.
///
/// Not cancel safe: a postmaster that is starting would be left behind (and found by the next start).
///
/// # Errors
/// Each tells what to look at.
pub(super) async fn start(home: &Home, programs: &Programs) -> Result<Cluster, ClusterError> {
    let data = data_folder(home, programs);
    let password = home.keep("password", random_secret)?;
    if !data.join("PG_VERSION").exists() {
        init(home, programs, &data).await?;
    }
    stop_leftover(&data).await?;
    let kept = home
        .keep("port", String::new)
        .ok()
        .and_then(|text| text.trim().parse().ok());
    let mut wanted = kept;
    for attempt in 1.. {
        // The same port as last time where possible, so that saved connection settings go on working.
        let port = free_port(wanted.take()).map_err(ClusterError::Port)?;
        let mut postmaster = spawn(home, programs, &data, port)?;
        match wait_until_ready(&mut postmaster, port).await {
            Ok(()) => {
                home.put("port", &port.to_string())?;
                return Ok(Cluster {
                    postmaster,
                    port,
                    password,
                });
            }
            Err(())
                if attempt < PORT_ATTEMPTS && tail(&log_path(home)).contains("could not bind") => {}
            Err(()) => {
                halt(&mut postmaster).await;
                return Err(ClusterError::Start {
                    log: log_path(home),
                    tail: tail(&log_path(home)),
                });
            }
        }
    }
    Err(ClusterError::Start {
        log: log_path(home),
        tail: tail(&log_path(home)),
    })
}

/// Stops whatever runs in `home`, of any version, and wipes it.
///
/// # Errors
/// Something does not stop or cannot be removed.
pub(super) async fn reset(home: &Home) -> Result<(), ClusterError> {
    let entries = fs::read_dir(&home.folder).map_err(|source| HomeError::Io {
        path: home.folder.clone(),
        source,
    })?;
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with("pgdata-") {
            stop_leftover(&entry.path()).await?;
        }
    }
    Ok(home.wipe()?)
}

impl Cluster {
    /// A fast shutdown, and harder means where that takes too long.
    pub(super) async fn stop(mut self) {
        halt(&mut self.postmaster).await;
    }

    /// Returns when the postmaster ends by itself. Cancel safe.
    pub(super) async fn ended(&mut self) {
        // An error here means that there is no such child any more.
        drop(self.postmaster.wait().await);
    }
}

/// Postgres manual, "Shutting Down the Server": SIGINT is fast shutdown, SIGQUIT immediate.
async fn halt(postmaster: &mut Child) {
    for (signal, patience) in [
        (Signal::INT, STOP_MAX),
        (Signal::QUIT, Duration::from_secs(10)),
    ] {
        let Some(pid) = postmaster
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .and_then(Pid::from_raw)
        else {
            return;
        };
        if kill_process(pid, signal).is_err() || timeout(patience, postmaster.wait()).await.is_ok()
        {
            return;
        }
    }
    drop(postmaster.kill().await);
}

async fn init(home: &Home, programs: &Programs, data: &Path) -> Result<(), ClusterError> {
    let unfinished = data.with_extension("unfinished");
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished).map_err(|source| HomeError::Io {
            path: unfinished.clone(),
            source,
        })?;
    }
    let program = programs.program("initdb");
    let output = as_account(&program, home)
        .arg("--pgdata")
        .arg(&unfinished)
        .arg("--pwfile")
        .arg(home.folder.join("password"))
        .args([
            "--username",
            USER,
            "--auth",
            "scram-sha-256",
            "--encoding",
            "UTF8",
            "--locale",
            "C.UTF-8",
        ])
        .stdin(Stdio::null())
        .output()
        .await
        .map_err(|source| ClusterError::Run {
            program: program.clone(),
            source,
        })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(ClusterError::Init { output: said });
    }
    // In place only when whole: a crash half-way through leaves nothing that looks like a cluster.
    fs::rename(&unfinished, data).map_err(|source| HomeError::Io {
        path: data.to_owned(),
        source,
    })?;
    Ok(())
}

fn spawn(home: &Home, programs: &Programs, data: &Path, port: u16) -> Result<Child, ClusterError> {
    let path = log_path(home);
    let failed = |source| HomeError::Io {
        path: path.clone(),
        source,
    };
    let log = File::create(&path).map_err(failed)?;
    let errors = log.try_clone().map_err(failed)?;
    let program = programs.program("postgres");
    let mut command = as_account(&program, home);
    command.arg("-D").arg(data).arg("-p").arg(port.to_string());
    for setting in [
        "listen_addresses=127.0.0.1",
        // Loopback is enough, and a socket file would need a folder that both accounts reach.
        "unix_socket_directories=",
        "wal_level=logical",
        "max_wal_senders=20",
        "max_replication_slots=20",
        "logging_collector=off",
    ] {
        command.arg("-c").arg(setting);
    }
    // A group of its own: Ctrl-C in the terminal reaches walcast only, which stops Postgres after its sockets.
    command
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors)
        .process_group(0);
    command
        .spawn()
        .map_err(|source| ClusterError::Run { program, source })
}

async fn wait_until_ready(postmaster: &mut Child, port: u16) -> Result<(), ()> {
    let ready = async {
        loop {
            if !matches!(postmaster.try_wait(), Ok(None)) {
                return Err(());
            }
            // The port opens before recovery ends; whoever connects asks again while it is refused.
            if tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port))
                .await
                .is_ok()
            {
                return Ok(());
            }
            sleep(LOOK_EVERY).await;
        }
    };
    timeout(START_MAX, ready).await.unwrap_or(Err(()))
}

/// Stops the postmaster that an earlier walcast left running in `data` when it was killed.
async fn stop_leftover(data: &Path) -> Result<(), ClusterError> {
    let pid_file = data.join("postmaster.pid");
    let Ok(content) = fs::read_to_string(&pid_file) else {
        return Ok(());
    };
    let number = content
        .lines()
        .next()
        .and_then(|line| line.trim().parse::<i32>().ok());
    let Some(pid) = number.and_then(Pid::from_raw) else {
        return Ok(());
    };
    for signal in [Signal::INT, Signal::QUIT] {
        if !is_postmaster(pid, data) {
            // Gone, or its number belongs to another program by now, which Postgres would take for its predecessor.
            drop(fs::remove_file(&pid_file));
            return Ok(());
        }
        // Ended in this very moment: the loop below sees it.
        let _ = kill_process(pid, signal);
        let gone = async {
            while is_postmaster(pid, data) {
                sleep(LOOK_EVERY).await;
            }
        };
        if timeout(STOP_MAX, gone).await.is_ok() {
            return Ok(());
        }
    }
    Err(ClusterError::Stuck {
        pid: pid.as_raw_nonzero().get(),
    })
}

/// Whether the process is a Postgres that was started for `data`: our start names the folder on the command line. An ended
/// process that nobody has waited for has no command line.
fn is_postmaster(pid: Pid, data: &Path) -> bool {
    let number = pid.as_raw_nonzero().to_string();
    let command_line = fs::read(format!("/proc/{number}/cmdline"))
        .ok()
        .or_else(|| {
            let output = std::process::Command::new("ps")
                .args(["-o", "command=", "-p", &number])
                .output()
                .ok()?;
            Some(output.stdout)
        });
    let folder = data.to_string_lossy();
    command_line.is_some_and(|line| String::from_utf8_lossy(&line).contains(folder.as_ref()))
}

/// A free port of the loopback interface, `wanted` if that is one.
fn free_port(wanted: Option<u16>) -> io::Result<u16> {
    let bind = |port| TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    let listener = match wanted.map(bind) {
        Some(Ok(listener)) => listener,
        Some(Err(_)) | None => bind(0)?,
    };
    Ok(listener.local_addr()?.port())
}

/// A command that runs as the account of the folder, in the folder: initdb and postgres want to enter where they start.
fn as_account(program: &Path, home: &Home) -> Command {
    let mut command = Command::new(program);
    command.current_dir(&home.folder);
    if let Some(Account { uid, gid }) = home.account {
        command.uid(uid).gid(gid);
    }
    // Settings for libpq in the user's environment are about other servers.
    for name in [
        "PGDATA",
        "PGPORT",
        "PGHOST",
        "PGUSER",
        "PGPASSWORD",
        "PGDATABASE",
        "PGOPTIONS",
    ] {
        command.env_remove(name);
    }
    command
}

fn log_path(home: &Home) -> PathBuf {
    home.folder.join("postgres.log")
}

fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines
        .get(lines.len().saturating_sub(5)..)
        .unwrap_or_default()
        .join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_replaced_by_a_free_one() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = taken.local_addr().expect("bound").port();
        assert_ne!(free_port(Some(port)).expect("another port"), port);
        drop(taken);
        assert_eq!(free_port(Some(port)).expect("the same port"), port);
    }

    #[tokio::test]
    async fn a_process_number_that_belongs_to_another_program_does_not_block_the_start() {
        let data = std::env::temp_dir().join(format!("walcast-leftover-{}", std::process::id()));
        fs::create_dir_all(&data).expect("a folder");
        let pid_file = data.join("postmaster.pid");
        fs::write(
            &pid_file,
            format!("{}\n{}\n", std::process::id(), data.display()),
        )
        .expect("a pid file");
        stop_leftover(&data).await.expect("nothing to stop");
        assert!(!pid_file.exists());
        fs::remove_dir_all(&data).expect("removed");
    }
}
