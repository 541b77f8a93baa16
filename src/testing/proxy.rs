//! A TCP proxy on loopback that misbehaves on command: between clients and walcast, and between walcast and Postgres.
//!
//! Carries bytes and knows nothing of what they mean. Faults hold for all its connections, present and future, until they
//! are lifted; a cut ends those of the moment. Who wants a fault for one client alone gives that client a proxy of its own.
//!
//! *io*: TCP connections.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::Rng;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::select;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Bytes that are carried at once.
const CHUNK: usize = 16 << 10;

/// How connections are ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// With a reset, to both sides; what was under way is lost.
    Reset,
    /// With an orderly end, to both sides; what was read but not yet passed on is lost.
    Finish,
}

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From whoever connected to the target.
    Up,
    /// From the target.
    Down,
}

/// What is wrong with all connections at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// New connections are accepted and reset at once.
    pub refuse: bool,
    /// What is sent up vanishes, ends of connections too; the sender notices nothing.
    pub swallow_up: bool,
    /// Likewise, what is sent down.
    pub swallow_down: bool,
    /// Every piece waits so long before it goes on.
    pub delay: Duration,
    /// Bytes per second and direction; 0 for any number.
    pub rate: u32,
}

impl Faults {
    /// A fault by dice, never a refusal; `Faults::default()` now and then.
    pub fn random(dice: &mut impl Rng) -> Self {
        let mut faults = Self::default();
        match dice.random_range(0..6) {
            0 => faults.swallow_up = true,
            1 => faults.swallow_down = true,
            2 => (faults.swallow_up, faults.swallow_down) = (true, true),
            3 => faults.delay = Duration::from_millis(dice.random_range(1..200)),
            4 => faults.rate = dice.random_range(1_000..100_000),
            _ => {}
        }
        faults
    }

    fn swallows(&self, direction: Direction) -> bool {
        match direction {
            Direction::Up => self.swallow_up,
            Direction::Down => self.swallow_down,
        }
    }
}

/// What a proxy has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProxyCounts {
    /// Connections carried.
    pub accepted: u64,
    /// Connections turned away, also because the target took none.
    pub refused: u64,
    /// Connections ended by [`Cut::Reset`].
    pub resets: u64,
    /// Connections ended by [`Cut::Finish`].
    pub finishes: u64,
    /// Bytes passed on, both ways.
    pub carried_bytes: u64,
    /// Bytes that vanished.
    pub swallowed_bytes: u64,
}

#[derive(Debug, Default)]
struct Tallies {
    accepted: AtomicU64,
    refused: AtomicU64,
    resets: AtomicU64,
    finishes: AtomicU64,
    carried_bytes: AtomicU64,
    swallowed_bytes: AtomicU64,
}

#[derive(Debug)]
struct Shared {
    target: AtomicU16,
    faults: Mutex<Faults>,
    tallies: Tallies,
}

/// A proxy before a loopback port; it and its connections end when this is dropped.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    cuts: watch::Sender<Cut>,
    listening: JoinHandle<()>,
}

impl Proxy {
    /// Listens on a free port and carries to `target`.
    pub async fn start(target: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            target: AtomicU16::new(target),
            faults: Mutex::default(),
            tallies: Tallies::default(),
        });
        let (cuts, _) = watch::channel(Cut::Finish);
        let listening = tokio::spawn(listen(listener, Arc::clone(&shared), cuts.clone()));
        Self {
            port,
            shared,
            cuts,
            listening,
        }
    }

    /// Where to connect to.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Carries new connections to another loopback port.
    pub fn aim(&self, target: u16) {
        self.shared.target.store(target, Ordering::Relaxed);
    }

    /// Ends all connections of the moment.
    pub fn cut(&self, cut: Cut) {
        self.cuts.send_replace(cut);
    }

    /// From now on these faults and no others.
    pub fn set(&self, faults: Faults) {
        *self
            .shared
            .faults
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = faults;
    }

    /// Connections that are open.
    #[must_use]
    pub fn open(&self) -> usize {
        self.cuts.receiver_count()
    }

    /// What was done so far.
    #[must_use]
    pub fn counts(&self) -> ProxyCounts {
        let Tallies {
            accepted,
            refused,
            resets,
            finishes,
            carried_bytes,
            swallowed_bytes,
        } = &self.shared.tallies;
        let read = |tally: &AtomicU64| tally.load(Ordering::Relaxed);
        ProxyCounts {
            accepted: read(accepted),
            refused: read(refused),
            resets: read(resets),
            finishes: read(finishes),
            carried_bytes: read(carried_bytes),
            swallowed_bytes: read(swallowed_bytes),
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.listening.abort();
        self.cut(Cut::Reset);
    }
}

impl Shared {
    fn faults(&self) -> Faults {
        *self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn count(tally: &AtomicU64, more: usize) {
    let more = u64::try_from(more).unwrap_or(u64::MAX);
    tally.fetch_add(more, Ordering::Relaxed);
}

async fn listen(listener: TcpListener, shared: Arc<Shared>, cuts: watch::Sender<Cut>) {
    while let Ok((client, _)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        // From now on, so that a cut finds this connection as soon as its peer has it.
        let cuts = cuts.subscribe();
        tokio::spawn(async move {
            let server = if shared.faults().refuse {
                None
            } else {
                TcpStream::connect((Ipv4Addr::LOCALHOST, shared.target.load(Ordering::Relaxed)))
                    .await
                    .ok()
            };
            match server {
                Some(server) => carry(&shared, client, server, cuts).await,
                None => {
                    count(&shared.tallies.refused, 1);
                    let _closed = client.set_zero_linger();
                }
            }
        });
    }
}

async fn carry(
    shared: &Shared,
    mut client: TcpStream,
    mut server: TcpStream,
    mut cuts: watch::Receiver<Cut>,
) {
    count(&shared.tallies.accepted, 1);
    for stream in [&client, &server] {
        let _closed = stream.set_nodelay(true);
    }
    let reset = {
        let (mut client_reads, mut client_writes) = client.split();
        let (mut server_reads, mut server_writes) = server.split();
        let up = pump(shared, Direction::Up, &mut client_reads, &mut server_writes);
        let down = pump(
            shared,
            Direction::Down,
            &mut server_reads,
            &mut client_writes,
        );
        select! {
            both = async { tokio::try_join!(up, down) } => both.is_err(),
            changed = cuts.changed() => {
                let reset = changed.is_err() || *cuts.borrow() == Cut::Reset;
                let tallies = &shared.tallies;
                count(if reset { &tallies.resets } else { &tallies.finishes }, 1);
                reset
            }
        }
    };
    if reset {
        for stream in [&client, &server] {
            let _closed = stream.set_zero_linger();
        }
    } else {
        // Whoever has sent what nobody reads any more would be sent a reset instead of an end.
        for stream in [&mut client, &mut server] {
            let _closed = stream.shutdown().await;
            let mut rest = [0; CHUNK];
            while stream.try_read(&mut rest).is_ok_and(|read| read > 0) {}
        }
    }
}

/// Carries one way until its end; an error is a connection that was reset.
async fn pump(
    shared: &Shared,
    direction: Direction,
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
) -> std::io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    loop {
        let read = from.read(&mut chunk).await;
        let faults = shared.faults();
        if faults.swallows(direction) {
            match read {
                Ok(1..) => {
                    count(&shared.tallies.swallowed_bytes, read?);
                    continue;
                }
                // Nobody hears of the end either.
                Ok(0) | Err(_) => return std::future::pending().await,
            }
        }
        let read = read?;
        tokio::time::sleep(faults.delay).await;
        if let Some(rate) = std::num::NonZeroU32::new(faults.rate) {
            let bytes = u32::try_from(read).unwrap_or(u32::MAX);
            tokio::time::sleep(Duration::from_secs(1) * bytes / rate.get()).await;
        }
        if read == 0 {
            return to.shutdown().await;
        }
        to.write_all(&chunk[..read]).await?;
        count(&shared.tallies.carried_bytes, read);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    /// A peer that echoes, and a proxy before it.
    async fn echo() -> (Proxy, JoinHandle<()>) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let target = listener.local_addr().unwrap().port();
        let serving = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut reads, mut writes) = stream.split();
                    let _reset = tokio::io::copy(&mut reads, &mut writes).await;
                });
            }
        });
        (Proxy::start(target).await, serving)
    }

    async fn connect(proxy: &Proxy) -> TcpStream {
        TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port()))
            .await
            .unwrap()
    }

    /// Sends some bytes and waits for them to come back.
    async fn answers(stream: &mut TcpStream, bytes: &[u8]) -> std::io::Result<()> {
        stream.write_all(bytes).await?;
        let mut back = vec![0; bytes.len()];
        stream.read_exact(&mut back).await?;
        assert_eq!(back, bytes);
        Ok(())
    }

    async fn is_silent(stream: &mut TcpStream) -> bool {
        let read = stream.read_u8();
        tokio::time::timeout(Duration::from_millis(50), read)
            .await
            .is_err()
    }

    #[tokio::test]
    async fn bytes_are_carried_and_ends_passed_on() {
        let (proxy, _serving) = echo().await;
        let mut stream = connect(&proxy).await;
        answers(&mut stream, &[7; 100_000]).await.unwrap();
        stream.shutdown().await.unwrap();
        assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
        let counts = proxy.counts();
        assert_eq!((counts.accepted, counts.carried_bytes), (1, 200_000));
    }

    #[tokio::test]
    async fn cuts_end_what_is_open_and_nothing_else() {
        let (proxy, _serving) = echo().await;
        for (cut, seen) in [
            (Cut::Reset, Err(std::io::ErrorKind::ConnectionReset)),
            (Cut::Finish, Ok(0)),
        ] {
            let mut streams = [connect(&proxy).await, connect(&proxy).await];
            for stream in &mut streams {
                answers(stream, b"before").await.unwrap();
            }
            assert_eq!(proxy.open(), 2);
            proxy.cut(cut);
            for stream in &mut streams {
                let read = stream.read(&mut [0]).await;
                assert_eq!(read.map_err(|error| error.kind()), seen);
            }
            answers(&mut connect(&proxy).await, b"afterwards")
                .await
                .unwrap();
            // Until it has noticed, or the next cut would find that one too.
            while proxy.open() > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        let counts = proxy.counts();
        assert_eq!((counts.resets, counts.finishes), (2, 2));
    }

    #[tokio::test]
    async fn what_is_swallowed_is_gone_and_nobody_is_told() {
        let (proxy, _serving) = echo().await;
        for (swallow_up, swallow_down) in [(true, false), (false, true), (true, true)] {
            let mut stream = connect(&proxy).await;
            answers(&mut stream, b"before").await.unwrap();
            let before = proxy.counts().swallowed_bytes;
            proxy.set(Faults {
                swallow_up,
                swallow_down,
                ..Faults::default()
            });
            stream.write_all(b"swallowed").await.unwrap();
            assert!(is_silent(&mut stream).await);
            assert_eq!(proxy.counts().swallowed_bytes - before, 9);
            proxy.set(Faults::default());
            answers(&mut stream, b"afterwards").await.unwrap();
        }
    }

    #[tokio::test]
    async fn delays_and_rates_take_their_time() {
        let (proxy, _serving) = echo().await;
        let slow = Faults {
            delay: Duration::from_millis(30),
            ..Faults::default()
        };
        let narrow = Faults {
            rate: 10_000,
            ..Faults::default()
        };
        for (faults, least) in [(slow, 60), (narrow, 200)] {
            proxy.set(faults);
            let started = Instant::now();
            answers(&mut connect(&proxy).await, &[1; 1000])
                .await
                .unwrap();
            assert!(started.elapsed() >= Duration::from_millis(least));
        }
    }

    #[tokio::test]
    async fn refused_connections_are_reset() {
        let (proxy, _serving) = echo().await;
        proxy.set(Faults {
            refuse: true,
            ..Faults::default()
        });
        assert!(answers(&mut connect(&proxy).await, b"x").await.is_err());
        proxy.set(Faults::default());
        answers(&mut connect(&proxy).await, b"x").await.unwrap();
        assert_eq!(proxy.counts().refused, 1);
    }
}
