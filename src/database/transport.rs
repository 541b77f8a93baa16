//! A socket to a Postgres server, with TLS where it was agreed on (io).
//!
//! In goes a host and how to encrypt, out comes a [`Transport`] on which the startup message may be sent. Never speaks
//! further than the SSLRequest, which follows the Postgres manual, "SSL Session Encryption".

use std::future::{Ready, ready};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio_postgres::tls::{ChannelBinding, TlsConnect};
use tokio_rustls::TlsConnector;

use super::ConnectError;
use super::binding::server_end_point;
use super::url::{Host, Place};

/// A server that vanishes without a word is noticed after about a minute (30 s idle, then 3 probes 10 s apart), also by
/// connections that wait for nothing.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 3;

/// The SSLRequest: its length, then 1234 and 5679 as 16 bit numbers.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// Whether one attempt encrypts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encryption {
    /// The SSLRequest is not even sent.
    Never,
    /// As the server likes.
    IfOffered,
    /// Or not at all.
    Always,
}

/// An open socket to a server.
pub struct Transport {
    stream: Stream,
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
}

impl Transport {
    /// The hash for SCRAM's channel binding `tls-server-end-point`; `None` on plain sockets.
    #[must_use]
    pub fn server_end_point(&self) -> Option<Vec<u8>> {
        match &self.stream {
            Stream::Tcp(_) | Stream::Unix(_) => None,
            Stream::Tls(stream) => {
                server_end_point(stream.get_ref().1.peer_certificates()?.first()?)
            }
        }
    }

    /// Whether others on the way can read along.
    #[must_use]
    pub const fn is_encrypted(&self) -> bool {
        matches!(self.stream, Stream::Tls(_))
    }

    /// Opens a socket to `host` and agrees on TLS.
    pub(super) async fn open(
        host: &Host,
        encryption: Encryption,
        tls: Option<&Arc<ClientConfig>>,
    ) -> Result<Self, ConnectError> {
        let unreachable = |source| ConnectError::Unreachable {
            address: host.to_string(),
            source,
        };
        let (name, mut socket) = match &host.place {
            Place::Folder(folder) => {
                let path = format!("{folder}/.s.PGSQL.{}", host.port);
                let stream = UnixStream::connect(path).await.map_err(unreachable)?;
                // libpq: `sslmode` does not apply to Unix-domain sockets.
                return Ok(Self {
                    stream: Stream::Unix(stream),
                });
            }
            Place::Name { name, address } => {
                let target = address.as_ref().unwrap_or(name);
                (name, connect_tcp(host, target).await?)
            }
        };
        let Some(config) = tls.filter(|_| encryption != Encryption::Never) else {
            return Ok(Self {
                stream: Stream::Tcp(socket),
            });
        };
        socket.write_all(&SSL_REQUEST).await.map_err(unreachable)?;
        // Exactly one byte is read: what came after it unencrypted would be somebody else's (CVE-2021-23222).
        let answer = socket.read_u8().await.map_err(unreachable)?;
        let address = || host.to_string();
        match (answer, encryption) {
            (b'S', _) => {
                let failed = |source| ConnectError::Tls {
                    address: address(),
                    source,
                };
                let name = ServerName::try_from(name.clone()).map_err(|source| {
                    failed(io::Error::new(io::ErrorKind::InvalidInput, source))
                })?;
                let connector = TlsConnector::from(Arc::clone(config));
                let stream = connector.connect(name, socket).await.map_err(failed)?;
                Ok(Self {
                    stream: Stream::Tls(Box::new(stream)),
                })
            }
            (b'N', Encryption::IfOffered) => Ok(Self {
                stream: Stream::Tcp(socket),
            }),
            (b'N', _) => Err(ConnectError::NoTls { address: address() }),
            _ => Err(ConnectError::NotPostgres { address: address() }),
        }
    }
}

async fn connect_tcp(host: &Host, target: &str) -> Result<TcpStream, ConnectError> {
    let addresses =
        lookup_host((target, host.port))
            .await
            .map_err(|source| ConnectError::Resolve {
                host: target.to_owned(),
                source,
            })?;
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in addresses {
        match TcpStream::connect(address).await.and_then(tune) {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = error,
        }
    }
    Err(ConnectError::Unreachable {
        address: host.to_string(),
        source: failure,
    })
}

fn tune(stream: TcpStream) -> io::Result<TcpStream> {
    stream.set_nodelay(true)?;
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_PROBES);
    socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
    Ok(stream)
}

impl AsyncRead for Transport {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Stream::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

impl tokio_postgres::tls::TlsStream for Transport {
    fn channel_binding(&self) -> ChannelBinding {
        self.server_end_point()
            .map_or_else(ChannelBinding::none, ChannelBinding::tls_server_end_point)
    }
}

/// Tells tokio-postgres that encryption has been settled: hands back the transport that it is given.
pub(super) struct Settled;

impl TlsConnect<Transport> for Settled {
    type Stream = Transport;
    type Error = io::Error;
    type Future = Ready<io::Result<Transport>>;

    fn connect(self, stream: Transport) -> Self::Future {
        ready(Ok(stream))
    }
}
