//! The pgoutput decoder: the bytes of one message in, one [`Message`] or an error out.
//!
//! Follows the Postgres manual, "Logical Replication Message Formats", protocol versions 1 and 2 with streaming (and
//! the longer Stream Abort of version 4). Any bytes give a value or an error, never a panic, and at most eight times
//! their own size plus a constant in memory: counts that the message claims are checked against what is left of it
//! before anything is allocated. Tuples and contents are slices of the buffer that came in and keep all of it alive.

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use bytes::{Buf, Bytes};

use crate::change::{
    Lsn, Oid, OldKind, OldTuple, PgTime, Relation, RelationColumn, ReplicaIdentity, Tuple,
    TupleError, Xid,
};

/// Bytes of the shortest column in a Relation message: flags, an empty name, type OID, type modifier.
const RELATION_COLUMN_BYTES_MIN: usize = 10;

/// One message of the stream. `xid` is set exactly between Stream Start and Stream Stop; it is the *sub*transaction's
/// id there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// A committed transaction follows.
    Begin(Begin),
    /// The transaction that Begin opened is complete.
    Commit(CommitRecord),
    /// Where the transaction came from before it was replicated here; of no use to us.
    Origin {
        /// Its commit position at the origin.
        commit_lsn: Lsn,
    },
    /// The description of a table; in force for the changes that follow.
    Relation {
        /// See [`Message`].
        xid: Option<Xid>,
        /// The description.
        relation: Relation,
    },
    /// A name of a type that is not built in; the catalog tells us more.
    Type {
        /// See [`Message`].
        xid: Option<Xid>,
        /// `pg_type.oid`.
        oid: Oid,
    },
    /// An insert, update or delete of one row.
    Row(RowChange),
    /// Tables were emptied.
    Truncate {
        /// See [`Message`].
        xid: Option<Xid>,
        /// The tables.
        relations: Vec<Oid>,
    },
    /// A logical decoding message.
    Logical(LogicalMessage),
    /// A piece of a transaction that is still in progress follows.
    StreamStart {
        /// The top-level transaction.
        xid: Xid,
        /// Whether this is its first piece.
        first: bool,
    },
    /// The piece ends.
    StreamStop,
    /// A streamed transaction committed.
    StreamCommit {
        /// The top-level transaction.
        xid: Xid,
        /// Where and when.
        commit: CommitRecord,
    },
    /// A streamed transaction, or a subtransaction of it, rolled back.
    StreamAbort {
        /// The top-level transaction.
        xid: Xid,
        /// What rolled back; equal to `xid` if all of it did.
        subxid: Xid,
    },
}

/// The Begin message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begin {
    /// Start of the commit record.
    pub final_lsn: Lsn,
    /// Commit time.
    pub time: PgTime,
    /// Top-level transaction id.
    pub xid: Xid,
}

/// Where and when a transaction committed, as Commit and Stream Commit say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommitRecord {
    /// Start of the commit record.
    pub lsn: Lsn,
    /// End of the commit record.
    pub end_lsn: Lsn,
    /// Commit time.
    pub time: PgTime,
}

/// One row's change as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowChange {
    /// See [`Message`].
    pub xid: Option<Xid>,
    /// The table.
    pub relation: Oid,
    /// What was done to the row.
    pub kind: RowKind,
}

/// What one statement did to one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RowKind {
    /// A new row.
    Insert {
        /// The row.
        new: Tuple,
    },
    /// Another version of a row.
    Update {
        /// The version before: always with replica identity full, else only if the key changed.
        old: Option<OldTuple>,
        /// The version after.
        new: Tuple,
    },
    /// The end of a row.
    Delete {
        /// The version before.
        old: OldTuple,
    },
}

/// What `pg_logical_emit_message` wrote. Anybody may call that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogicalMessage {
    /// See [`Message`].
    pub xid: Option<Xid>,
    /// Whether it belongs to a transaction; otherwise it is sent at once, whatever becomes of its writer.
    pub transactional: bool,
    /// Position of the message in the WAL.
    pub lsn: Lsn,
    /// First argument of the function.
    pub prefix: Box<str>,
    /// Second argument.
    pub content: Bytes,
}

/// The bytes are no message that we asked for: the peer broke the protocol.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The message ends too early.
    #[error("message {tag:?} ends inside a field")]
    Truncated {
        /// First byte of the message; NUL if there is none.
        tag: char,
    },
    /// The message is longer than its content.
    #[error("{count} bytes too many after message {tag:?}")]
    Trailing {
        /// First byte of the message.
        tag: char,
        /// Bytes that are left.
        count: usize,
    },
    /// No message begins like that.
    #[error("unknown message {0:?}")]
    UnknownMessage(char),
    /// Two-phase commit was not asked for.
    #[error("message {0:?} of two-phase commit, which the slot must not have enabled")]
    TwoPhase(char),
    /// A marker inside a message has no meaning.
    #[error("unexpected marker {marker:#04x} in message {tag:?}")]
    UnknownMarker {
        /// First byte of the message.
        tag: char,
        /// The marker.
        marker: u8,
    },
    /// A count is negative or cannot fit into the message.
    #[error("impossible count in message {tag:?}")]
    Count {
        /// First byte of the message.
        tag: char,
    },
    /// A name is no UTF-8, although the session's encoding is.
    #[error("a name in message {tag:?} is not UTF-8")]
    Encoding {
        /// First byte of the message.
        tag: char,
    },
    /// A tuple is malformed.
    #[error("malformed tuple in message {tag:?}")]
    Tuple {
        /// First byte of the message.
        tag: char,
        /// How.
        #[source]
        source: TupleError,
    },
}

/// Decodes one message. `in_stream`: it stands between Stream Start and Stream Stop, where messages carry a
/// transaction id.
///
/// # Errors
/// The bytes are not exactly one message.
pub fn decode(message: Bytes, in_stream: bool) -> Result<Message, DecodeError> {
    let mut reader = Reader::new(message)?;
    let decoded = reader.message(in_stream)?;
    match reader.rest.len() {
        0 => Ok(decoded),
        count => Err(DecodeError::Trailing {
            tag: reader.tag,
            count,
        }),
    }
}

/// What is left of a message.
struct Reader {
    tag: char,
    rest: Bytes,
}

impl Reader {
    fn new(message: Bytes) -> Result<Self, DecodeError> {
        let mut reader = Self {
            tag: '\0',
            rest: message,
        };
        reader.tag = char::from(reader.u8()?);
        Ok(reader)
    }

    fn message(&mut self, in_stream: bool) -> Result<Message, DecodeError> {
        Ok(match self.tag {
            'B' => Message::Begin(Begin {
                final_lsn: self.lsn()?,
                time: self.time()?,
                xid: self.xid()?,
            }),
            'C' => Message::Commit(self.commit_record()?),
            'O' => {
                let commit_lsn = self.lsn()?;
                self.text()?;
                Message::Origin { commit_lsn }
            }
            'R' => Message::Relation {
                xid: self.stream_xid(in_stream)?,
                relation: self.relation()?,
            },
            'Y' => {
                let xid = self.stream_xid(in_stream)?;
                let oid = self.u32()?;
                self.text()?;
                self.text()?;
                Message::Type { xid, oid }
            }
            'I' | 'U' | 'D' => Message::Row(RowChange {
                xid: self.stream_xid(in_stream)?,
                relation: self.u32()?,
                kind: self.row_kind()?,
            }),
            'T' => self.truncate(in_stream)?,
            'M' => self.logical_message(in_stream)?,
            'S' => Message::StreamStart {
                xid: self.xid()?,
                first: self.u8()? == 1,
            },
            'E' => Message::StreamStop,
            'c' => Message::StreamCommit {
                xid: self.xid()?,
                commit: self.commit_record()?,
            },
            'A' => self.stream_abort()?,
            'b' | 'P' | 'K' | 'r' | 'p' => return Err(DecodeError::TwoPhase(self.tag)),
            other => return Err(DecodeError::UnknownMessage(other)),
        })
    }

    fn commit_record(&mut self) -> Result<CommitRecord, DecodeError> {
        self.u8()?; // flags: "currently unused"
        Ok(CommitRecord {
            lsn: self.lsn()?,
            end_lsn: self.lsn()?,
            time: self.time()?,
        })
    }

    fn relation(&mut self) -> Result<Relation, DecodeError> {
        let oid = self.u32()?;
        let schema = match self.text()? {
            empty if empty.is_empty() => "pg_catalog".into(),
            schema => schema,
        };
        let name = self.text()?;
        let identity = match self.u8()? {
            b'd' => ReplicaIdentity::Default,
            b'n' => ReplicaIdentity::Nothing,
            b'f' => ReplicaIdentity::Full,
            b'i' => ReplicaIdentity::Index,
            other => return Err(self.unknown_marker(other)),
        };
        let count = usize::from(self.u16()?);
        if count.saturating_mul(RELATION_COLUMN_BYTES_MIN) > self.rest.len() {
            return Err(DecodeError::Count { tag: self.tag });
        }
        let mut columns = Vec::with_capacity(count);
        for _ in 0..count {
            let flags = self.u8()?;
            columns.push(RelationColumn {
                name: self.text()?,
                type_oid: self.u32()?,
                type_modifier: self.i32()?,
                in_identity: flags & 1 == 1,
            });
        }
        Ok(Relation {
            oid,
            schema,
            name,
            identity,
            columns: columns.into(),
        })
    }

    fn row_kind(&mut self) -> Result<RowKind, DecodeError> {
        let marker = self.u8()?;
        Ok(match (self.tag, marker) {
            ('I', b'N') => RowKind::Insert { new: self.tuple()? },
            ('U', b'N') => RowKind::Update {
                old: None,
                new: self.tuple()?,
            },
            ('U', b'K' | b'O') => {
                let old = Some(self.old_tuple(marker)?);
                match self.u8()? {
                    b'N' => RowKind::Update {
                        old,
                        new: self.tuple()?,
                    },
                    other => return Err(self.unknown_marker(other)),
                }
            }
            ('D', b'K' | b'O') => RowKind::Delete {
                old: self.old_tuple(marker)?,
            },
            _ => return Err(self.unknown_marker(marker)),
        })
    }

    fn old_tuple(&mut self, marker: u8) -> Result<OldTuple, DecodeError> {
        let kind = if marker == b'K' {
            OldKind::Key
        } else {
            OldKind::Full
        };
        Ok(OldTuple {
            kind,
            tuple: self.tuple()?,
        })
    }

    fn tuple(&mut self) -> Result<Tuple, DecodeError> {
        let columns = self.u16()?;
        Tuple::parse(columns, &mut self.rest).map_err(|source| DecodeError::Tuple {
            tag: self.tag,
            source,
        })
    }

    fn truncate(&mut self, in_stream: bool) -> Result<Message, DecodeError> {
        let xid = self.stream_xid(in_stream)?;
        let count = self.u32()?;
        self.u8()?; // options: CASCADE and RESTART IDENTITY change nothing for us
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        if count.checked_mul(size_of::<Oid>()) != Some(self.rest.len()) {
            return Err(DecodeError::Count { tag: self.tag });
        }
        let mut relations = Vec::with_capacity(count);
        for _ in 0..count {
            relations.push(self.u32()?);
        }
        Ok(Message::Truncate { xid, relations })
    }

    fn logical_message(&mut self, in_stream: bool) -> Result<Message, DecodeError> {
        let xid = self.stream_xid(in_stream)?;
        let transactional = self.u8()? & 1 == 1;
        let lsn = self.lsn()?;
        let prefix = self.text()?;
        let length = usize::try_from(self.u32()?).unwrap_or(usize::MAX);
        if length > self.rest.len() {
            return Err(self.truncated());
        }
        Ok(Message::Logical(LogicalMessage {
            xid,
            transactional,
            lsn,
            prefix,
            content: self.rest.split_to(length),
        }))
    }

    fn stream_abort(&mut self) -> Result<Message, DecodeError> {
        let (xid, subxid) = (self.xid()?, self.xid()?);
        if !self.rest.is_empty() {
            // With `streaming = parallel`, version 4: where and when.
            self.lsn()?;
            self.time()?;
        }
        Ok(Message::StreamAbort { xid, subxid })
    }

    fn stream_xid(&mut self, in_stream: bool) -> Result<Option<Xid>, DecodeError> {
        in_stream.then(|| self.xid()).transpose()
    }

    fn xid(&mut self) -> Result<Xid, DecodeError> {
        self.u32().map(Xid)
    }

    fn lsn(&mut self) -> Result<Lsn, DecodeError> {
        let bytes = self.rest.try_get_u64();
        bytes.map(Lsn::new).map_err(|_short| self.truncated())
    }

    fn time(&mut self) -> Result<PgTime, DecodeError> {
        let micros = self.rest.try_get_i64();
        micros.map(PgTime).map_err(|_short| self.truncated())
    }

    fn u32(&mut self) -> Result<u32, DecodeError> {
        self.rest.try_get_u32().map_err(|_short| self.truncated())
    }

    fn i32(&mut self) -> Result<i32, DecodeError> {
        self.rest.try_get_i32().map_err(|_short| self.truncated())
    }

    fn u16(&mut self) -> Result<u16, DecodeError> {
        self.rest.try_get_u16().map_err(|_short| self.truncated())
    }

    fn u8(&mut self) -> Result<u8, DecodeError> {
        self.rest.try_get_u8().map_err(|_short| self.truncated())
    }

    /// A NUL-terminated string.
    fn text(&mut self) -> Result<Box<str>, DecodeError> {
        let length = self.rest.iter().position(|byte| *byte == 0);
        let bytes = self.rest.split_to(length.ok_or_else(|| self.truncated())?);
        self.u8()?;
        match std::str::from_utf8(&bytes) {
            Ok(text) => Ok(text.into()),
            Err(_) => Err(DecodeError::Encoding { tag: self.tag }),
        }
    }

    const fn truncated(&self) -> DecodeError {
        DecodeError::Truncated { tag: self.tag }
    }

    const fn unknown_marker(&self, marker: u8) -> DecodeError {
        DecodeError::UnknownMarker {
            tag: self.tag,
            marker,
        }
    }
}

#[cfg(test)]
mod tests;
