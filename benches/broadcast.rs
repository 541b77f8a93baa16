//! One sender, 1,000 and 5,000 receivers: processor time of the server per delivery, in bursts and one message after the
//! other, as text and as binary frames. Every receiver checks that nothing is missing and nothing comes out of order.
//!
//! The peer is a bare loop that writes the same frames to as many sockets: 16 per write in bursts, one per write otherwise.
//! Target: twice the peer.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a benchmark prints and looks at the clock"
)]

use std::io::{BufRead, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use walcast::testing::{
    App, AppOptions, Counting, Crowd, CrowdOptions, Durations, UNLIMITED, allow_files,
    client_frame, crowd_join, numbered, processor_time, server_frame,
};

const CROWDS: [usize; 2] = [1_000, 5_000];
const SIZES: [usize; 2] = [200, 1024];
/// Messages that are said at once: each socket has a queue of them.
const BURST: usize = 64;
/// Messages in one write of the peer.
const BURST_OF_PEER: usize = 16;
/// Deliveries per figure, roughly.
const DELIVERIES_IN_BURSTS: usize = 320_000;
const DELIVERIES_PACED: usize = 100_000;

const OPTIONS: CrowdOptions = CrowdOptions {
    counting: Counting::Numbers,
    receive_buffer: None,
};

/// How a message is sent and received.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Form {
    Text,
    Binary,
}

#[derive(Clone, Copy)]
struct Case {
    form: Form,
    bytes: usize,
    /// Messages said at once.
    burst: usize,
    rounds: usize,
}

fn cases(sockets: usize) -> Vec<Case> {
    let mut cases = Vec::new();
    for form in [Form::Text, Form::Binary] {
        for bytes in SIZES {
            for (burst, deliveries) in [(BURST, DELIVERIES_IN_BURSTS), (1, DELIVERIES_PACED)] {
                let rounds = deliveries / sockets / burst;
                cases.push(Case {
                    form,
                    bytes,
                    burst,
                    rounds: rounds.max(1),
                });
            }
        }
    }
    cases
}

/// Two figures of one run.
struct Figure {
    processor: Duration,
    last: Durations,
}

#[tokio::main]
async fn main() {
    if std::env::args().nth(1).as_deref() == Some("peer") {
        return peer();
    }
    allow_files(2 * CROWDS[1] as u64);
    println!(
        "broadcast: processor time per delivery, until the last socket has a burst or a message"
    );
    for sockets in CROWDS {
        compare(sockets).await;
    }
}

async fn compare(sockets: usize) {
    let options = AppOptions {
        schema: "",
        environment: UNLIMITED,
        private: Some(&[]),
    };
    let app = App::start_with(env!("CARGO_BIN_EXE_walcast"), &options).await;
    let port = app.server.port();
    let crowd = Crowd::upgrade(port, sockets, OPTIONS).await;
    let speaker = Crowd::upgrade(port, 1, OPTIONS).await;
    let join = crowd_join("realtime:crowd", false);
    crowd.ask_all(|_number| join.clone()).await;
    speaker.ask_all(|_number| join.clone()).await;
    let mut said = 0_u64;
    let mut figures = Vec::new();
    for case in cases(sockets) {
        crowd.keep_alive().await;
        speaker.keep_alive().await;
        let before = app.server.processor_time();
        let mut last = Durations::default();
        for _round in 0..case.rounds {
            let frames: Vec<u8> = (0..case.burst as u64)
                .flat_map(|n| case.form.pushed(case.bytes, said + n))
                .collect();
            let started = Instant::now();
            speaker.send(0, &frames).await;
            said += case.burst as u64;
            crowd.until(said * sockets as u64).await;
            last.push(started.elapsed());
        }
        let processor = app.server.processor_time().saturating_sub(before);
        figures.push(Figure { processor, last });
    }
    let mut delivered = crowd.counted();
    drop((crowd, speaker, app));

    let mut bare = Bare::start(sockets);
    let crowd = Crowd::connect(bare.port, sockets, OPTIONS).await;
    bare.connected();
    let mut said = 0_u64;
    for (case, walcast) in cases(sockets).into_iter().zip(figures) {
        let before = processor_time(bare.child.id());
        let mut last = Durations::default();
        for _round in 0..case.rounds {
            let started = Instant::now();
            bare.write(case);
            said += case.burst as u64;
            crowd.until(said * sockets as u64).await;
            last.push(started.elapsed());
        }
        let processor = processor_time(bare.child.id()).saturating_sub(before);
        report(sockets, case, &walcast, &Figure { processor, last });
    }
    delivered += crowd.counted();
    println!(
        "  {sockets} sockets: {delivered} deliveries, peer included, none missing, none out of order"
    );
}

fn report(sockets: usize, case: Case, walcast: &Figure, bare: &Figure) {
    let deliveries = (sockets * case.burst * case.rounds) as f64;
    let each = |figure: &Figure| figure.processor.as_secs_f64() * 1e6 / deliveries;
    let last = |figure: &Figure| figure.last.percentile(50).as_secs_f64() * 1e3;
    println!(
        "  {sockets} sockets, {:?}, {:4} B, {:9} {:5.2} us (bare {:5.2} us, x{:.2}); last socket {:6.1} ms (bare {:6.1} ms)",
        case.form,
        case.bytes,
        if case.burst == 1 {
            "paced:"
        } else {
            "in bursts:"
        },
        each(walcast),
        each(bare),
        each(walcast) / each(bare),
        last(walcast),
        last(bare),
    );
}

impl Form {
    /// The frame of the sender.
    fn pushed(self, bytes: usize, number: u64) -> Vec<u8> {
        let text = numbered(bytes, number);
        match self {
            Self::Text => {
                let push = format!(
                    r#"["1","2","realtime:crowd","broadcast",{{"type":"broadcast","event":"move","payload":{{"body":"{text}"}}}}]"#
                );
                client_frame(0x1, push.as_bytes())
            }
            Self::Binary => {
                let mut push = b"\x03\x01\x01\x0e\x04\x00\x01".to_vec();
                push.extend_from_slice(b"12realtime:crowdmove");
                push.extend_from_slice(format!(r#"{{"body":"{text}"}}"#).as_bytes());
                client_frame(0x2, &push)
            }
        }
    }

    /// What walcast makes of it.
    fn relayed(self, bytes: usize, number: u64) -> Vec<u8> {
        let text = numbered(bytes, number);
        match self {
            Self::Text => {
                let frame = format!(
                    r#"[null,null,"realtime:crowd","broadcast",{{"type":"broadcast","event":"move","payload":{{"body":"{text}"}}}}]"#
                );
                server_frame(0x1, frame.as_bytes())
            }
            Self::Binary => {
                let mut frame = b"\x04\x0e\x04\x00\x01realtime:crowdmove".to_vec();
                frame.extend_from_slice(format!(r#"{{"body":"{text}"}}"#).as_bytes());
                server_frame(0x2, &frame)
            }
        }
    }
}

/// The bare loop as a child process.
struct Bare {
    child: Child,
    commands: ChildStdin,
    answers: std::io::Lines<std::io::BufReader<std::process::ChildStdout>>,
    port: u16,
}

impl Bare {
    fn start(sockets: usize) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["peer", &sockets.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let commands = child.stdin.take().unwrap();
        let mut answers = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
        let port = answers.next().unwrap().unwrap().parse().unwrap();
        Self {
            child,
            commands,
            answers,
            port,
        }
    }

    fn connected(&mut self) {
        assert_eq!(self.answers.next().unwrap().unwrap(), "ready");
    }

    fn write(&mut self, case: Case) {
        let form = if case.form == Form::Text {
            "text"
        } else {
            "binary"
        };
        writeln!(self.commands, "{form} {} {}", case.bytes, case.burst).unwrap();
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _status = self.child.wait();
    }
}

/// The child process: accepts the sockets, then writes what a line on stdin says to each.
fn peer() {
    let sockets: usize = std::env::args().nth(2).unwrap().parse().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    println!("{}", listener.local_addr().unwrap().port());
    let mut sockets: Vec<TcpStream> = (0..sockets)
        .map(|_| {
            let stream = listener.accept().unwrap().0;
            stream.set_nodelay(true).unwrap();
            stream
        })
        .collect();
    println!("ready");
    let mut said = 0_u64;
    for line in std::io::stdin().lock().lines() {
        let line = line.unwrap();
        let words: Vec<&str> = line.split(' ').collect();
        let form = if words[0] == "text" {
            Form::Text
        } else {
            Form::Binary
        };
        let (bytes, burst): (usize, usize) = (words[1].parse().unwrap(), words[2].parse().unwrap());
        let numbers: Vec<u64> = (said..said + burst as u64).collect();
        said += burst as u64;
        for numbers in numbers.chunks(BURST_OF_PEER) {
            let frames: Vec<u8> = numbers
                .iter()
                .flat_map(|&number| form.relayed(bytes, number))
                .collect();
            for socket in &mut sockets {
                socket.write_all(&frames).unwrap();
            }
        }
    }
}
