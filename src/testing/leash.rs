//! Child processes that end with the test process, however that ends.
//!
//! A small shell stands between: it holds the read end of a pipe whose write end only the test process has. When the
//! pipe closes (drop, panic, exit, `kill -9`), the shell signals the child and removes what it was told to remove. A
//! `Drop` alone would not run for a shared cluster, which lives in a `static`.
//!
//! *io*: starts and signals processes.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal};

use super::installation::Account;

/// Arguments: log file, name of the signal that ends the child, directory to remove afterwards (may be empty), command.
const SCRIPT: &str = r#"
log=$1 signal=$2 remove=$3; shift 3
exec 3<&0
"$@" </dev/null >>"$log" 2>&1 3<&- &
pid=$!
trap 'ended=yes; kill -s "$signal" "$pid" 2>/dev/null' USR1
{ read -r _; kill -s USR1 $$; } <&3 &
reader=$!
exec 3<&-
echo "$pid"
exec >/dev/null
wait "$pid"; status=$?
if [ -n "$ended" ]; then
  wait "$pid"
  [ -z "$remove" ] || rm -rf -- "$remove"
else
  kill "$reader" 2>/dev/null
fi
exit "$status"
"#;

/// A child process on a leash; dropping it ends the child.
#[derive(Debug)]
pub struct Leash {
    shell: Child,
    pid: Pid,
    pipe: Option<ChildStdin>,
}

/// What to start and how to end it.
#[derive(Clone, Copy, Debug)]
pub struct Tether<'a> {
    /// Receives the child's output.
    pub log: &'a Path,
    /// Ends the child when the leash is dropped: `KILL`, `QUIT`, …
    pub signal: &'a str,
    /// Removed after the child was ended by the leash.
    pub remove: Option<&'a Path>,
    /// Whose process it is; the caller's own if `None`.
    pub account: Option<Account>,
}

impl Leash {
    /// Starts `program`.
    pub fn start<S: AsRef<OsStr>>(
        program: &Path,
        arguments: impl IntoIterator<Item = S>,
        environment: &[(&str, &str)],
        tether: &Tether<'_>,
    ) -> Self {
        let mut command = Command::new("sh");
        command
            .args(["-c", SCRIPT, "leash"])
            .arg(tether.log)
            .arg(tether.signal)
            .arg(tether.remove.unwrap_or_else(|| Path::new("")))
            .arg(program)
            .args(arguments)
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            // A Ctrl-C in the terminal reaches the test process only; the pipe does the rest.
            .process_group(0);
        if let Some(account) = tether.account {
            command.uid(account.uid).gid(account.gid).current_dir("/");
        }
        let mut shell = command.spawn().expect("sh starts");
        let pipe = shell.stdin.take();
        let mut line = String::new();
        BufReader::new(shell.stdout.take().expect("stdout is piped"))
            .read_line(&mut line)
            .expect("sh prints the child's pid");
        let pid = line.trim().parse().expect("sh prints a number");
        Self {
            shell,
            pid: Pid::from_raw(pid).expect("a pid is positive"),
            pipe,
        }
    }

    /// Process id of the child (not of the shell).
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Sends a signal to the child; one that has ended already is left alone.
    pub fn signal(&mut self, signal: Signal) {
        if self.exited().is_none() {
            let _gone = rustix::process::kill_process(self.pid, signal);
        }
    }

    /// How the child ended, if it has; 128 + n after signal n.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.shell.try_wait().expect("the shell is our child")
    }
}

impl Drop for Leash {
    fn drop(&mut self) {
        drop(self.pipe.take());
        let _status = self.shell.wait();
    }
}

/// A loopback port that was free a moment ago.
#[must_use]
pub fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    listener
        .local_addr()
        .expect("a bound socket has an address")
        .port()
}
