//! One change to 1,000 sockets: processor time of the server per delivery, and how long until the last socket has it.
//! The peer is a bare loop that writes the same number of bytes to 1,000 plain TCP sockets.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a benchmark prints and looks at the clock"
)]

use std::io::{BufRead, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::task::JoinSet;
use walcast::testing::{App, AppOptions, Durations, Subscriber, allow_files, anon, processor_time};

const SOCKETS: usize = 1000;
const CHANGES: usize = 200;

#[tokio::main]
async fn main() {
    if std::env::args().nth(1).as_deref() == Some("peer") {
        return peer();
    }
    // 1,000 sockets are more than the usual soft limit; the server inherits what is set here.
    allow_files(2 * SOCKETS as u64);
    println!("fanout: {CHANGES} changes to {SOCKETS} sockets each, one after the other");
    let bytes = walcast().await;
    bare(bytes).await;
}

/// Returns the length of a frame.
async fn walcast() -> usize {
    let options = AppOptions {
        schema: "create table notes (id int primary key, body text, at timestamptz default now());
                 grant select on notes to anon; alter publication supabase_realtime add table notes;",
        environment: &[],
        private: Some(&[]),
    };
    let app = App::start_with(env!("CARGO_BIN_EXE_walcast"), &options).await;
    let token = anon();
    let mut joins = JoinSet::new();
    for _ in 0..SOCKETS {
        let (port, token) = (app.server.port(), token.clone());
        let binding = json!({"event": "*", "schema": "public", "table": "notes"});
        joins.spawn(async move { Subscriber::join(port, Some(&token), &binding).await });
    }
    let mut subscribers = joins.join_all().await;
    let before = app.server.processor_time();
    let mut last = Durations::default();
    for n in 0..CHANGES {
        let started = Instant::now();
        app.sql(&format!("insert into notes values ({n}, repeat('x', 200))"))
            .await;
        let mut readers = JoinSet::new();
        for mut subscriber in subscribers {
            readers.spawn(async move {
                subscriber.change().await;
                subscriber
            });
        }
        subscribers = readers.join_all().await;
        last.push(started.elapsed());
    }
    report(
        "walcast",
        app.server.processor_time().saturating_sub(before),
        &last,
    );
    app.sql("insert into notes values (-1, repeat('x', 200))")
        .await;
    let frame = subscribers[0]
        .socket
        .find(|frame| frame.event == "postgres_changes")
        .await;
    frame.raw.len()
}

async fn bare(bytes: usize) {
    let mut child = Peer(
        Command::new(std::env::current_exe().unwrap())
            .args(["peer", &bytes.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let mut lines = std::io::BufReader::new(child.0.stdout.take().unwrap()).lines();
    let port: u16 = lines.next().unwrap().unwrap().parse().unwrap();
    let mut sockets = Vec::new();
    for _ in 0..SOCKETS {
        sockets.push(
            tokio::net::TcpStream::connect(("127.0.0.1", port))
                .await
                .unwrap(),
        );
    }
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    let before = processor_time(child.0.id());
    let mut last = Durations::default();
    for _ in 0..CHANGES {
        let started = Instant::now();
        child.0.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
        let mut readers = JoinSet::new();
        for mut socket in sockets {
            readers.spawn(async move {
                let mut frame = vec![0; bytes];
                socket.read_exact(&mut frame).await.unwrap();
                socket
            });
        }
        sockets = readers.join_all().await;
        last.push(started.elapsed());
    }
    report(
        "bare loop",
        processor_time(child.0.id()).saturating_sub(before),
        &last,
    );
}

fn report(name: &str, processor: Duration, last: &Durations) {
    let per_delivery = processor.as_secs_f64() * 1e6 / (SOCKETS * CHANGES) as f64;
    println!(
        "  {name:10} {per_delivery:6.2} us of processor time per delivery; last socket {last}"
    );
}

struct Peer(Child);

impl Drop for Peer {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _status = self.0.wait();
    }
}

/// The child process: accepts the sockets, then writes a frame to each for every line on stdin.
fn peer() {
    let bytes: usize = std::env::args().nth(2).unwrap().parse().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    println!("{}", listener.local_addr().unwrap().port());
    let mut sockets: Vec<TcpStream> = (0..SOCKETS).map(|_| listener.accept().unwrap().0).collect();
    println!("ready");
    let frame = vec![b'x'; bytes];
    for _line in std::io::stdin().lock().lines() {
        for socket in &mut sockets {
            socket.write_all(&frame).unwrap();
        }
    }
}
