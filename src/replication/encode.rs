//! The inverse of the pgoutput decoder, for tests and benches: what a server would send.
//!
//! Follows the Postgres manual, "Logical Replication Message Formats". Never part of a release.

use bytes::{BufMut, Bytes, BytesMut};

use crate::change::{Datum, OldKind, OldTuple, Relation, ReplicaIdentity, Tuple, Xid};

use super::pgoutput::{Message, RowKind};

/// The bytes of `message`. Counts and lengths beyond what the format can hold are cut off.
#[must_use]
pub fn encode(message: &Message) -> Bytes {
    let mut out = BytesMut::new();
    match message {
        Message::Begin(begin) => {
            out.put_u8(b'B');
            out.put_u64(begin.final_lsn.bytes());
            out.put_i64(begin.time.0);
            out.put_u32(begin.xid.0);
        }
        Message::Commit(commit) => {
            out.put_slice(b"C\0");
            out.put_u64(commit.lsn.bytes());
            out.put_u64(commit.end_lsn.bytes());
            out.put_i64(commit.time.0);
        }
        Message::Origin { commit_lsn } => {
            out.put_u8(b'O');
            out.put_u64(commit_lsn.bytes());
            put_text(&mut out, "origin");
        }
        Message::Relation { xid, relation } => put_relation(&mut out, *xid, relation),
        Message::Type { xid, oid } => {
            put_tag(&mut out, b'Y', *xid);
            out.put_u32(*oid);
            put_text(&mut out, "public");
            put_text(&mut out, "mood");
        }
        Message::Row(row) => put_row(&mut out, row.xid, row.relation, &row.kind),
        Message::Truncate { xid, relations } => {
            put_tag(&mut out, b'T', *xid);
            out.put_u32(u32::try_from(relations.len()).unwrap_or(u32::MAX));
            out.put_u8(0);
            relations.iter().for_each(|oid| out.put_u32(*oid));
        }
        Message::Logical(message) => {
            put_tag(&mut out, b'M', message.xid);
            out.put_u8(message.transactional.into());
            out.put_u64(message.lsn.bytes());
            put_text(&mut out, &message.prefix);
            out.put_u32(u32::try_from(message.content.len()).unwrap_or(u32::MAX));
            out.put_slice(&message.content);
        }
        Message::StreamStart { xid, first } => {
            put_tag(&mut out, b'S', Some(*xid));
            out.put_u8((*first).into());
        }
        Message::StreamStop => out.put_u8(b'E'),
        Message::StreamCommit { xid, commit } => {
            put_tag(&mut out, b'c', Some(*xid));
            out.put_u8(0);
            out.put_u64(commit.lsn.bytes());
            out.put_u64(commit.end_lsn.bytes());
            out.put_i64(commit.time.0);
        }
        Message::StreamAbort { xid, subxid } => {
            put_tag(&mut out, b'A', Some(*xid));
            out.put_u32(subxid.0);
        }
    }
    out.freeze()
}

fn put_tag(out: &mut BytesMut, tag: u8, xid: Option<Xid>) {
    out.put_u8(tag);
    if let Some(xid) = xid {
        out.put_u32(xid.0);
    }
}

fn put_text(out: &mut BytesMut, text: &str) {
    out.put_slice(text.as_bytes());
    out.put_u8(0);
}

fn put_relation(out: &mut BytesMut, xid: Option<Xid>, relation: &Relation) {
    put_tag(out, b'R', xid);
    out.put_u32(relation.oid);
    match &*relation.schema {
        "pg_catalog" => put_text(out, ""),
        schema => put_text(out, schema),
    }
    put_text(out, &relation.name);
    out.put_u8(match relation.identity {
        ReplicaIdentity::Default => b'd',
        ReplicaIdentity::Nothing => b'n',
        ReplicaIdentity::Full => b'f',
        ReplicaIdentity::Index => b'i',
    });
    out.put_u16(u16::try_from(relation.columns.len()).unwrap_or(u16::MAX));
    for column in &relation.columns {
        out.put_u8(column.in_identity.into());
        put_text(out, &column.name);
        out.put_u32(column.type_oid);
        out.put_i32(column.type_modifier);
    }
}

fn put_row(out: &mut BytesMut, xid: Option<Xid>, relation: u32, kind: &RowKind) {
    let (tag, old, new) = match kind {
        RowKind::Insert { new } => (b'I', None, Some(new)),
        RowKind::Update { old, new } => (b'U', old.as_ref(), Some(new)),
        RowKind::Delete { old } => (b'D', Some(old), None),
    };
    put_tag(out, tag, xid);
    out.put_u32(relation);
    if let Some(OldTuple { kind, tuple }) = old {
        out.put_u8(match kind {
            OldKind::Key => b'K',
            OldKind::Full => b'O',
        });
        put_tuple(out, tuple);
    }
    if let Some(new) = new {
        out.put_u8(b'N');
        put_tuple(out, new);
    }
}

fn put_tuple(out: &mut BytesMut, tuple: &Tuple) {
    out.put_u16(u16::try_from(tuple.len()).unwrap_or(u16::MAX));
    for datum in tuple.iter() {
        match datum {
            Datum::Null => out.put_u8(b'n'),
            Datum::Unchanged => out.put_u8(b'u'),
            Datum::Text(text) => {
                out.put_u8(b't');
                out.put_u32(u32::try_from(text.len()).unwrap_or(u32::MAX));
                out.put_slice(text);
            }
        }
    }
}
