//! One walsender session (io): the socket, the login, queries, and the streaming's bytes both ways.
//!
//! What the bytes mean is `message.rs`'s and `login.rs`'s affair; what to do with them, `stream.rs`'s. Follows the
//! Postgres manual, "Streaming Replication Protocol".

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::database::{ConnectError, Database, SESSION_SETTINGS, Transport};

use super::login::{Admission, LoginError, LoginState};
use super::message::{
    Deframer, MESSAGE_BYTES_MAX, MessageError, ServerError, ServerMessage, encode_copy_done,
    encode_query, encode_terminate,
};

/// Bytes asked of the socket at a time; large, so that a backlog costs few system calls.
const READ_BYTES: usize = 256 * 1024;

/// With less room than this the buffer is enlarged before a read, rather than after each.
const READ_BYTES_MIN: usize = 64 * 1024;

/// A command of ours may take this long; none of them waits for anything in the database.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);

/// A few bytes that the server does not take for so long mean that it is gone.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);

/// The goodbye is waited for this long; nothing depends on it but the server's log.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// The session is of no further use.
#[derive(Debug, thiserror::Error)]
pub(super) enum SessionError {
    /// The server says no, or stops.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// The server broke the protocol.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// A message that has no place here.
    #[error("the server sent a message that has no place in a replication session")]
    Unexpected,
    /// The socket failed.
    #[error("the replication connection is lost")]
    Io(#[from] io::Error),
    /// The server ended the streaming or hung up.
    #[error("the server ended the replication connection")]
    Ended,
    /// Nothing came, not even an answer to our asking.
    #[error("the server has been silent for too long")]
    Silent,
}

/// One row of text values.
pub(super) type Row = Vec<Option<String>>;

/// An open walsender session.
pub(super) struct Session {
    transport: Transport,
    deframer: Deframer,
    out: BytesMut,
    /// The process that serves it.
    pub(super) process_id: i32,
}

impl Session {
    /// Logs in and makes the session's settings, on the first host that admits us.
    pub(super) async fn open(
        database: &Database,
        application_name: &str,
    ) -> Result<Self, ConnectError> {
        database
            .attempt(|transport, address: String| async move {
                let failed = |source: SessionError| match source {
                    SessionError::Server(error) => refused(address.clone(), error),
                    source => ConnectError::Session {
                        address: address.clone(),
                        source: Box::new(source),
                    },
                };
                let mut session = Self {
                    transport,
                    deframer: Deframer::new(),
                    out: BytesMut::new(),
                    process_id: 0,
                };
                let admission = session.log_in(database, application_name, &address).await?;
                if admission.read_only && database.wants_writes() {
                    return Err(ConnectError::ReadOnly { address });
                }
                session.process_id = admission.process_id;
                session.deframer.message_bytes_max = MESSAGE_BYTES_MAX;
                session.query(SESSION_SETTINGS).await.map_err(failed)?;
                Ok(session)
            })
            .await
    }

    async fn log_in(
        &mut self,
        database: &Database,
        application_name: &str,
        address: &str,
    ) -> Result<Admission, ConnectError> {
        let failed = |source: LoginError| match source {
            LoginError::Refused(error) => refused(address.to_owned(), error),
            source => ConnectError::Session {
                address: address.to_owned(),
                source: Box::new(source),
            },
        };
        let lost = |source: SessionError| ConnectError::Session {
            address: address.to_owned(),
            source: Box::new(source),
        };
        let binding = self.transport.server_end_point();
        let mut state =
            LoginState::start(database.login(), binding, application_name, &mut self.out)
                .map_err(failed)?;
        loop {
            self.flush().await.map_err(lost)?;
            let message = self.receive().await.map_err(lost)?;
            if let Some(admission) = state.handle(message, &mut self.out).map_err(failed)? {
                return Ok(admission);
            }
        }
    }

    /// Runs `sql`, which may be a replication command, and returns its rows.
    ///
    /// Not cancel safe: a dropped query leaves its answer in the socket.
    pub(super) async fn query(&mut self, sql: &str) -> Result<Vec<Row>, SessionError> {
        encode_query(sql, &mut self.out)?;
        self.flush().await?;
        let answer = async {
            let mut rows = Vec::new();
            let mut failure = None;
            loop {
                match self.receive().await? {
                    ServerMessage::Row(row) => rows.push(row),
                    ServerMessage::Error(error) => failure = Some(error),
                    ServerMessage::Ready => break,
                    ServerMessage::Complete
                    | ServerMessage::Other
                    | ServerMessage::Parameter { .. } => {}
                    _ => return Err(SessionError::Unexpected),
                }
            }
            failure.map_or(Ok(rows), |error| Err(error.into()))
        };
        timeout(COMMAND_TIMEOUT, answer)
            .await
            .unwrap_or(Err(SessionError::Silent))
    }

    /// Runs a `START_REPLICATION` command; afterwards the session streams.
    ///
    /// Not cancel safe, as [`Self::query`].
    pub(super) async fn start_streaming(&mut self, command: &str) -> Result<(), SessionError> {
        encode_query(command, &mut self.out)?;
        self.flush().await?;
        let answer = async {
            loop {
                match self.receive().await? {
                    ServerMessage::CopyBoth => return Ok(()),
                    ServerMessage::Error(error) => return Err(error.into()),
                    ServerMessage::Other | ServerMessage::Parameter { .. } => {}
                    _ => return Err(SessionError::Unexpected),
                }
            }
        };
        timeout(COMMAND_TIMEOUT, answer)
            .await
            .unwrap_or(Err(SessionError::Silent))
    }

    /// The next message that is here already.
    pub(super) fn poll(&mut self) -> Result<Option<ServerMessage>, SessionError> {
        Ok(self.deframer.poll()?)
    }

    /// Waits for more bytes; returns how many came. Cancel safe.
    pub(super) async fn fill(&mut self) -> Result<usize, SessionError> {
        let buffer = &mut self.deframer.buffer;
        if buffer.capacity().saturating_sub(buffer.len()) < READ_BYTES_MIN {
            buffer.reserve(READ_BYTES);
        }
        match self.transport.read_buf(buffer).await? {
            0 => Err(SessionError::Ended),
            count => Ok(count),
        }
    }

    /// What [`Self::flush`] will send; encode into its end.
    pub(super) fn outgoing(&mut self) -> &mut BytesMut {
        &mut self.out
    }

    /// Sends what was encoded. Not cancel safe: a part of a message may have been sent.
    pub(super) async fn flush(&mut self) -> Result<(), SessionError> {
        if self.out.is_empty() {
            return Ok(());
        }
        let send = async {
            self.transport.write_all_buf(&mut self.out).await?;
            self.transport.flush().await
        };
        timeout(SEND_TIMEOUT, send)
            .await
            .map_err(|_elapsed| SessionError::Silent)??;
        Ok(())
    }

    /// Ends the streaming and the session in order, so that the last status update is taken in before the server's
    /// process ends. Gives up silently: the socket closes in any case.
    pub(super) async fn close(mut self) {
        let goodbye = async {
            encode_copy_done(&mut self.out);
            self.flush().await?;
            while !matches!(
                self.receive().await?,
                ServerMessage::Ready | ServerMessage::Error(_)
            ) {}
            encode_terminate(&mut self.out);
            self.flush().await?;
            self.transport.shutdown().await?;
            Ok::<(), SessionError>(())
        };
        let _left_in_order = timeout(CLOSE_TIMEOUT, goodbye).await;
    }

    async fn receive(&mut self) -> Result<ServerMessage, SessionError> {
        loop {
            if let Some(message) = self.poll()? {
                return Ok(message);
            }
            self.fill().await?;
        }
    }
}

fn refused(address: String, error: ServerError) -> ConnectError {
    ConnectError::Refused {
        address,
        sqlstate: error.sqlstate,
        message: error.message,
    }
}
