//! Thousands of sockets in one process, which count what they are sent and look at nothing else.
//!
//! Each reads the network by itself and says what it wants in bytes made once, so that a benchmark measures the server and
//! not its clients.
//!
//! *io*: TCP connections.

use std::cell::RefCell;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::token::PUBLISHABLE_KEY;

/// Sockets per client address: the ports of one address would not last for all.
const SOCKETS_PER_ADDRESS: usize = 10_000;
/// Sockets that connect at a time.
const CONNECTING_MAX: usize = 64;
/// Digits of a frame's number.
const DIGITS: usize = 10;
/// A ping of a client, with a mask of zeros: keeps the socket alive.
const PING: &[u8] = &[0x89, 0x80, 0, 0, 0, 0];
/// What is read at a time.
const CHUNK_BYTES: usize = 256 * 1024;

/// The environment of a server whose rates are not what is measured.
pub const UNLIMITED: &[(&str, &str)] = &[("WALCAST_PRESENCE_CALLS_MAX", "0")];

thread_local! {
    static CHUNK: RefCell<Vec<u8>> = RefCell::new(vec![0; CHUNK_BYTES]);
}

/// What the sockets of a crowd count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counting {
    /// Frames that end in a [`numbered`] text. The numbers begin at 0 and follow each other.
    Numbers,
    /// The metas of presence frames.
    Metas,
    /// Row changes.
    Changes,
}

/// How a crowd connects.
#[derive(Clone, Copy, Debug)]
pub struct CrowdOptions {
    /// What is counted.
    pub counting: Counting,
    /// Bytes of the receive buffer; the system's own choice without.
    pub receive_buffer: Option<u32>,
}

/// Allows this process and those that it starts from now on so many open files.
///
/// # Panics
///
/// If the hard limit is lower.
pub fn allow_files(count: u64) {
    let limit = getrlimit(Resource::Nofile);
    let maximum = limit.maximum.unwrap_or(u64::MAX);
    assert!(
        maximum >= count,
        "needs {count} open files, and the hard limit is {maximum} (ulimit -Hn)"
    );
    let limit = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, limit).unwrap();
}

/// A text that ends in a number, which [`Counting::Numbers`] finds again.
#[must_use]
pub fn numbered(length: usize, number: u64) -> String {
    let mut text = "x".repeat(length.saturating_sub(DIGITS.saturating_add(1)));
    text.push_str(&format!("#{number:0DIGITS$}"));
    text
}

/// A join of version 2 with nothing but what broadcasts and presence need.
#[must_use]
pub fn crowd_join(topic: &str, presence: bool) -> Vec<u8> {
    let join = format!(
        r#"["1","1","{topic}","phx_join",{{"config":{{"broadcast":{{"ack":false,"self":false}},"presence":{{"enabled":{presence}}},"postgres_changes":[],"private":false}}}}]"#
    );
    client_frame(0x1, join.as_bytes())
}

/// A whole frame of a client. The mask is zero, which leaves the payload as it is.
#[must_use]
pub fn client_frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = head(opcode, payload.len(), 0x80);
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(payload);
    frame
}

/// A whole frame of a server.
#[must_use]
pub fn server_frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = head(opcode, payload.len(), 0);
    frame.extend_from_slice(payload);
    frame
}

fn head(opcode: u8, length: usize, mask: u8) -> Vec<u8> {
    let mut head = vec![0x80 | opcode];
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short @ ..126), _) => head.push(mask | short),
        (_, Ok(medium)) => {
            head.push(mask | 126);
            head.extend_from_slice(&medium.to_be_bytes());
        }
        _ => {
            head.push(mask | 127);
            head.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    head
}

/// What all sockets have counted.
#[derive(Debug, Default)]
struct Sums {
    counted: AtomicU64,
    frames: AtomicU64,
    bytes: AtomicU64,
    /// What went wrong first.
    failure: Mutex<Option<String>>,
}

/// Connected sockets.
#[derive(Debug)]
pub struct Crowd {
    sockets: Vec<Arc<TcpStream>>,
    sums: Arc<Sums>,
    reading: watch::Sender<bool>,
    _readers: JoinSet<()>,
}

impl Crowd {
    /// Sockets of version 2 on walcast, connected and not joined.
    pub async fn upgrade(port: u16, count: usize, options: CrowdOptions) -> Self {
        let request = format!(
            "GET /realtime/v1/websocket?apikey={PUBLISHABLE_KEY}&vsn=2.0.0 HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n\
             connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
             sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        Self::start(port, count, options, Some(request)).await
    }

    /// Plain TCP connections, to a peer that sends frames at once.
    pub async fn connect(port: u16, count: usize, options: CrowdOptions) -> Self {
        Self::start(port, count, options, None).await
    }

    async fn start(
        port: u16,
        count: usize,
        options: CrowdOptions,
        request: Option<String>,
    ) -> Self {
        let request: Option<Arc<str>> = request.map(Into::into);
        let connecting = Arc::new(Semaphore::new(CONNECTING_MAX));
        let mut connections = JoinSet::new();
        for number in 0..count {
            let (request, connecting) = (request.clone(), Arc::clone(&connecting));
            connections.spawn(async move {
                let _permit = connecting.acquire().await;
                let stream = open(port, number, options.receive_buffer).await.unwrap();
                if let Some(request) = request {
                    upgrade(&stream, &request).await;
                }
                Arc::new(stream)
            });
        }
        let sockets = connections.join_all().await;
        let sums = Arc::new(Sums::default());
        let (reading, paused) = watch::channel(true);
        let mut readers = JoinSet::new();
        for stream in &sockets {
            let reader = Reader {
                stream: Arc::clone(stream),
                sums: Arc::clone(&sums),
                counting: options.counting,
                rest: Vec::new(),
                next: 0,
            };
            readers.spawn(reader.run(paused.clone()));
        }
        Self {
            sockets,
            sums,
            reading,
            _readers: readers,
        }
    }

    /// Sends to every socket what `frame` makes for it and waits until each has been sent one frame more, or panics.
    pub async fn ask_all(&self, frame: impl Fn(usize) -> Vec<u8>) {
        let before = self.frames();
        self.send_all(frame).await;
        let wanted = before.saturating_add(self.sockets.len() as u64);
        self.wait("a reply on every socket", || self.frames() >= wanted)
            .await;
    }

    /// Sends to every socket what `frame` makes for it.
    pub async fn send_all(&self, frame: impl Fn(usize) -> Vec<u8>) {
        for number in 0..self.sockets.len() {
            self.send(number, &frame(number)).await;
        }
    }

    /// Sends bytes on one socket.
    pub async fn send(&self, number: usize, bytes: &[u8]) {
        write(&self.sockets[number], bytes).await.unwrap();
    }

    /// Tells the server that all are still there. It answers, but not with a frame that counts.
    pub async fn keep_alive(&self) {
        self.send_all(|_number| PING.to_vec()).await;
    }

    /// Stops reading, or reads on.
    pub fn set_reading(&self, reads: bool) {
        self.reading.send_replace(reads);
    }

    /// Waits until all sockets together have counted so much.
    ///
    /// # Panics
    ///
    /// If a number is missing, comes twice or too early, if a socket ends, or if nothing comes any more.
    pub async fn until(&self, counted: u64) {
        self.wait("what is counted", || {
            self.sums.counted.load(Ordering::Relaxed) >= counted
        })
        .await;
    }

    async fn wait(&self, what: &str, done: impl Fn() -> bool) {
        let (mut bytes, mut moved_at) = (0, Instant::now());
        loop {
            if let Some(failure) = self.sums.failure.lock().unwrap().as_ref() {
                panic!("{failure}");
            }
            if done() {
                return;
            }
            let now = self.bytes();
            if now != bytes {
                (bytes, moved_at) = (now, Instant::now());
            }
            assert!(
                moved_at.elapsed() < super::PATIENCE,
                "gave up waiting for {what}; so far: {:?}",
                self.sums
            );
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
    }

    /// Sockets.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sockets.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sockets.is_empty()
    }

    /// What was counted so far.
    #[must_use]
    pub fn counted(&self) -> u64 {
        self.sums.counted.load(Ordering::Relaxed)
    }

    /// Data frames so far, also such as do not count.
    #[must_use]
    pub fn frames(&self) -> u64 {
        self.sums.frames.load(Ordering::Relaxed)
    }

    /// Bytes received so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.sums.bytes.load(Ordering::Relaxed)
    }
}

async fn open(port: u16, number: usize, receive_buffer: Option<u32>) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    if let Some(bytes) = receive_buffer {
        socket.set_recv_buffer_size(bytes)?;
    }
    let address = u8::try_from(number / SOCKETS_PER_ADDRESS).unwrap();
    let own = Ipv4Addr::new(127, 0, 1, address.saturating_add(1));
    socket.bind(SocketAddr::from((own, 0)))?;
    let stream = socket
        .connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
        .await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Asks for an upgrade and reads the answer's head; nothing follows it unasked.
async fn upgrade(stream: &TcpStream, request: &str) {
    write(stream, request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        stream.readable().await.unwrap();
        match stream.try_read_buf(&mut answer) {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => panic!("the upgrade fails: {error}"),
        }
    }
    assert!(
        answer.starts_with(b"HTTP/1.1 101"),
        "{}",
        String::from_utf8_lossy(&answer)
    );
}

async fn write(stream: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        stream.writable().await?;
        match stream.try_write(bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

struct Reader {
    stream: Arc<TcpStream>,
    sums: Arc<Sums>,
    counting: Counting,
    /// The beginning of a frame whose end has not come.
    rest: Vec<u8>,
    /// The number of the next frame.
    next: u64,
}

impl Reader {
    async fn run(mut self, mut reading: watch::Receiver<bool>) {
        loop {
            // The crowd is gone.
            if reading.wait_for(|reads| *reads).await.is_err() {
                return;
            }
            let read = match self.stream.readable().await {
                Ok(()) => CHUNK.with_borrow_mut(|chunk| self.read(chunk)),
                Err(error) => Err(error.to_string()),
            };
            if let Err(failure) = read {
                let mut first = self.sums.failure.lock().unwrap();
                first.get_or_insert(failure);
                return;
            }
        }
    }

    fn read(&mut self, chunk: &mut [u8]) -> Result<(), String> {
        let count = match self.stream.try_read(chunk) {
            Ok(0) => return Err("the server ends a connection".into()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error.to_string()),
        };
        let rest = std::mem::take(&mut self.rest);
        let mut counted = 0_u64;
        let mut frames = 0_u64;
        let mut take = |bytes: &[u8]| -> Result<usize, String> {
            let mut used = 0_usize;
            while let Some((opcode, payload, length)) = first_frame(&bytes[used..]) {
                used = used.saturating_add(length);
                match opcode {
                    0x1 | 0x2 => {
                        frames = frames.saturating_add(1);
                        counted = counted.saturating_add(count_in(
                            self.counting,
                            payload,
                            &mut self.next,
                        )?);
                    }
                    0x8 => return Err(format!("closed: {}", String::from_utf8_lossy(payload))),
                    _ => {}
                }
            }
            Ok(used)
        };
        let read = &chunk[..count];
        if rest.is_empty() {
            let used = take(read)?;
            self.rest = read[used..].to_vec();
        } else {
            let mut joined = rest;
            joined.extend_from_slice(read);
            let used = take(&joined)?;
            joined.drain(..used);
            self.rest = joined;
        }
        let relaxed = Ordering::Relaxed;
        self.sums.counted.fetch_add(counted, relaxed);
        self.sums.frames.fetch_add(frames, relaxed);
        self.sums.bytes.fetch_add(count as u64, relaxed);
        Ok(())
    }
}

/// Opcode and payload of the first frame, and what the whole frame takes; `None` if it is not complete.
fn first_frame(bytes: &[u8]) -> Option<(u8, &[u8], usize)> {
    let (&[first, length], after) = bytes.split_first_chunk()?;
    let (length, after) = match length {
        126 => {
            let (length, after) = after.split_first_chunk()?;
            (usize::from(u16::from_be_bytes(*length)), after)
        }
        127 => {
            let (length, after) = after.split_first_chunk()?;
            (usize::try_from(u64::from_be_bytes(*length)).unwrap(), after)
        }
        short => (usize::from(short), after),
    };
    let payload = after.get(..length)?;
    let head = bytes.len().saturating_sub(after.len());
    Some((first & 0x0f, payload, head.saturating_add(length)))
}

fn count_in(counting: Counting, payload: &[u8], next: &mut u64) -> Result<u64, String> {
    match counting {
        Counting::Numbers => {
            let tail = &payload[payload.len().saturating_sub(DIGITS.saturating_add(8))..];
            let Some(place) = tail.iter().rposition(|byte| *byte == b'#') else {
                return Ok(0);
            };
            let digits = &tail[place.saturating_add(1)..];
            let number: u64 = digits
                .get(..DIGITS)
                .and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok())
                .ok_or_else(|| format!("no number in {}", String::from_utf8_lossy(payload)))?;
            if number != *next {
                return Err(format!("{number} comes where {next} is expected"));
            }
            *next = next.saturating_add(1);
            Ok(1)
        }
        Counting::Metas => {
            let text = std::str::from_utf8(payload).map_err(|error| error.to_string())?;
            if text.contains("\"status\":\"error\"") {
                return Err(text.to_owned());
            }
            Ok(text.matches("\"phx_ref\":").count() as u64)
        }
        Counting::Changes => {
            // Of version 2, where the event stands in the first bytes; a reply has other things there.
            let head = payload.get(..100).unwrap_or(payload);
            let event = b"\"postgres_changes\",";
            let is_change = head.windows(event.len()).any(|window| window == event);
            Ok(u64::from(is_change))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_every_length_are_found_and_incomplete_ones_are_not() {
        for length in [0, 125, 126, 65_535, 65_536] {
            let payload = vec![b'x'; length];
            let frame = server_frame(0x1, &payload);
            assert_eq!(
                first_frame(&frame),
                Some((1, payload.as_slice(), frame.len()))
            );
            assert_eq!(first_frame(&frame[..frame.len() - 1]), None);
        }
    }

    #[test]
    fn a_number_that_is_missing_or_repeated_is_a_failure() {
        let mut next = 0;
        let mut count = |number| {
            count_in(
                Counting::Numbers,
                numbered(20, number).as_bytes(),
                &mut next,
            )
        };
        assert_eq!(count(0), Ok(1));
        assert_eq!(count(1), Ok(1));
        assert!(count(1).is_err());
        assert!(count(3).is_err());
    }
}
