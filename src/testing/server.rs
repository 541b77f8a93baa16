//! The real `walcast` binary as a child process.
//!
//! *io*: starts it, speaks HTTP to it, reads `/proc`.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::PATIENCE;
use super::installation::Installation;
use super::leash::{Leash, Tether, free_port};
use super::token::{JWT_SECRET, PUBLISHABLE_KEY, SECRET_KEY};

/// A running `walcast serve`; killed when this is dropped or the test process ends.
#[derive(Debug)]
pub struct Server {
    binary: PathBuf,
    environment: Vec<(String, String)>,
    folder: PathBuf,
    port: u16,
    leash: Option<Leash>,
}

/// An answer over plain HTTP.
#[derive(Clone, Debug)]
pub struct HttpReply {
    /// Status code.
    pub status: u16,
    /// Header lines as sent, without the status line.
    pub headers: String,
    /// Body as text.
    pub body: String,
}

impl Server {
    /// Starts `walcast serve` on a free port and waits until it is ready. `environment` comes on top of what every test
    /// server has, and wins.
    pub async fn start(binary: &Path, database_url: &str, environment: &[(&str, &str)]) -> Self {
        let mut server = Self::prepare(binary, database_url, environment);
        server.spawn();
        server.ready().await;
        server
    }

    /// As [`Self::start`], but starts nothing yet.
    #[must_use]
    pub fn prepare(binary: &Path, database_url: &str, environment: &[(&str, &str)]) -> Self {
        let port = free_port();
        let listen = format!("127.0.0.1:{port}");
        let ours = [
            ("DATABASE_URL", database_url),
            ("WALCAST_LISTEN", &listen),
            ("WALCAST_JWT_SECRET", JWT_SECRET),
            ("WALCAST_PUBLISHABLE_KEY", PUBLISHABLE_KEY),
            ("WALCAST_SECRET_KEY", SECRET_KEY),
            ("WALCAST_ERROR_DELAY", "50ms"),
        ];
        let environment = ours
            .iter()
            .chain(environment)
            .map(|&(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        Self {
            binary: binary.to_owned(),
            environment,
            folder: Installation::find().run_folder(),
            port,
            leash: None,
        }
    }

    /// Runs another command of the binary to its end, with the environment of this server.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Output {
        Command::new(&self.binary)
            .args(arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .output()
            .expect("the binary exists")
    }

    /// Starts the process, on the same port as before.
    pub fn spawn(&mut self) {
        let environment: Vec<(&str, &str)> = self
            .environment
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        let tether = Tether {
            log: &self.folder.join("log"),
            signal: "KILL",
            remove: Some(&self.folder),
            account: None,
        };
        self.leash = None;
        self.leash = Some(Leash::start(&self.binary, ["serve"], &environment, &tether));
    }

    /// Waits until `/ready` says 200.
    pub async fn ready(&mut self) {
        let started = Instant::now();
        while self
            .get("/ready")
            .await
            .is_none_or(|reply| reply.status != 200)
        {
            let exited = self.leash.as_mut().and_then(Leash::exited);
            assert!(
                exited.is_none(),
                "walcast ended with {exited:?}:\n{}",
                self.log()
            );
            assert!(
                started.elapsed() < PATIENCE,
                "walcast does not get ready:\n{}",
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Loopback port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What the process has written so far.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// Sends a signal to the process.
    pub fn signal(&mut self, signal: Signal) {
        self.leash
            .as_mut()
            .expect("the server was started")
            .signal(signal);
    }

    /// Waits for the process to end by itself.
    pub async fn exit(&mut self) -> ExitStatus {
        let started = Instant::now();
        loop {
            if let Some(status) = self
                .leash
                .as_mut()
                .expect("the server was started")
                .exited()
            {
                return status;
            }
            assert!(
                started.elapsed() < PATIENCE,
                "walcast does not end:\n{}",
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Ends the process at once, if it runs. Blocks the thread for a moment.
    pub fn end(&mut self) {
        if self.leash.is_some() && std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let tail = &lines[lines.len().saturating_sub(60)..];
            eprintln!("--- the end of walcast's log ---\n{}", tail.join("\n"));
        }
        self.leash = None;
    }

    /// `kill -9`, and waits for the end.
    pub async fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.exit().await;
    }

    /// The largest resident set so far, in bytes.
    #[must_use]
    pub fn peak_memory(&self) -> u64 {
        self.status("VmHWM:")
    }

    /// The resident set, in bytes.
    #[must_use]
    pub fn memory(&self) -> u64 {
        self.status("VmRSS:")
    }

    fn status(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(self.proc("status")).unwrap();
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        let kilobytes: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        kilobytes.saturating_mul(1024)
    }

    /// Processor time used so far by all threads, user and system.
    #[must_use]
    pub fn processor_time(&self) -> Duration {
        let pid = self.leash.as_ref().expect("the server was started").pid();
        processor_time(pid.unsigned_abs())
    }

    /// A GET request; `None` if nobody listens.
    pub async fn get(&self, path: &str) -> Option<HttpReply> {
        self.request("GET", path, &[]).await
    }

    /// An HTTP/1.1 request without body; `None` if nobody listens.
    pub async fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Option<HttpReply> {
        self.request_with(method, path, headers, &[]).await
    }

    /// A POST request.
    ///
    /// # Panics
    ///
    /// If nobody listens.
    pub async fn post(&self, path: &str, headers: &[(&str, &str)], body: &[u8]) -> HttpReply {
        let length = body.len().to_string();
        let mut headers = headers.to_vec();
        headers.push(("content-length", &length));
        let reply = self.request_with("POST", path, &headers, body).await;
        reply.expect("the server listens")
    }

    async fn request_with(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Option<HttpReply> {
        let mut request = format!(
            "{method} {path} HTTP/1.1\r\nhost: 127.0.0.1:{}\r\nconnection: close\r\n",
            self.port
        );
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        request.push_str("\r\n");
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.ok()?;
        stream.write_all(request.as_bytes()).await.ok()?;
        // A body that is too large is answered before it was read.
        let _refused = stream.write_all(body).await;
        let mut reply = Vec::new();
        let _reset = stream.read_to_end(&mut reply).await;
        let reply = String::from_utf8_lossy(&reply).into_owned();
        let (head, body) = reply.split_once("\r\n\r\n")?;
        let (status_line, headers) = head.split_once("\r\n").unwrap_or((head, ""));
        Some(HttpReply {
            status: status_line.split(' ').nth(1)?.parse().ok()?,
            headers: headers.to_owned(),
            body: body.to_owned(),
        })
    }

    fn proc(&self, file: &str) -> PathBuf {
        let pid = self.leash.as_ref().expect("the server was started").pid();
        Path::new("/proc").join(pid.to_string()).join(file)
    }
}

/// Processor time that a process has used so far, all threads, user and system; in steps of 10 ms.
#[must_use]
pub fn processor_time(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // Fields 14 and 15 (utime, stime); the second field, the name, may hold blanks and ends with the last ')'.
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    let ticks = fields[11]
        .parse::<u64>()
        .unwrap()
        .saturating_add(fields[12].parse().unwrap());
    // USER_HZ is 100 on every Linux that Rust supports.
    Duration::from_millis(ticks.saturating_mul(10))
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
        let _removed_by_leash = std::fs::remove_dir_all(&self.folder);
    }
}
