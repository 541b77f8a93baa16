//! Tuples as the stream carries them: one datum per column, in the relation's column order.
//!
//! Follows the Postgres manual, "Logical Replication Message Formats", `TupleData`. A tuple keeps the bytes that
//! arrived and is walked when read, so that it costs no more memory than its message did.

use bytes::{Bytes, BytesMut};

/// One column's value in a tuple.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Datum<'a> {
    /// SQL NULL; in a key tuple also every column outside the key.
    Null,
    /// A TOASTed value that the statement did not touch and that the stream therefore leaves out.
    Unchanged,
    /// The value in its type's text form, as the output function printed it.
    Text(&'a [u8]),
}

impl<'a> Datum<'a> {
    /// The text form, if the value is present and not NULL.
    #[must_use]
    pub const fn text(self) -> Option<&'a [u8]> {
        match self {
            Self::Text(text) => Some(text),
            Self::Null | Self::Unchanged => None,
        }
    }
}

/// A row version as it stood in the WAL.
///
/// Invariant: `raw` is exactly `columns` well-formed `TupleData` columns; only [`Tuple::parse`] and
/// [`TupleBuilder`] make one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tuple {
    columns: u16,
    raw: Bytes,
}

/// The bytes are no `TupleData`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TupleError {
    /// A column is cut off, or its length is negative.
    #[error("tuple ends inside a column")]
    Truncated,
    /// A column kind other than `n`, `u` and `t`; `b` is sent only to those who ask for binary values.
    #[error("unknown column kind {0:#04x} in a tuple")]
    UnknownKind(u8),
}

impl Tuple {
    /// Takes one `TupleData` (after its column count) from the front of `bytes`, which moves past it.
    ///
    /// # Errors
    /// The bytes are malformed; `bytes` is then unchanged.
    pub fn parse(columns: u16, bytes: &mut Bytes) -> Result<Self, TupleError> {
        let mut rest: &[u8] = bytes;
        for _ in 0..columns {
            split_datum(&mut rest)?;
        }
        let length = bytes.len().saturating_sub(rest.len());
        Ok(Self {
            columns,
            raw: bytes.split_to(length),
        })
    }

    /// Number of columns.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.columns as usize
    }

    /// Whether the tuple has no column at all, as `create table t ()` makes them.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.columns == 0
    }

    /// Number of columns, as [`Tuple::parse`] takes it.
    #[must_use]
    pub const fn columns(&self) -> u16 {
        self.columns
    }

    /// The columns as they stood in the WAL, as [`Tuple::parse`] takes them.
    #[must_use]
    pub fn raw(&self) -> &[u8] {
        &self.raw
    }

    /// Bytes that the tuple occupies in memory, without this struct.
    #[must_use]
    pub const fn size(&self) -> usize {
        self.raw.len()
    }

    /// The columns in order.
    pub fn iter(&self) -> impl Iterator<Item = Datum<'_>> {
        let mut rest: &[u8] = &self.raw;
        (0..self.columns).map_while(move |_| split_datum(&mut rest).ok())
    }

    /// The column at `index`; `None` past the end. Walks the columns before it.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<Datum<'_>> {
        self.iter().nth(index)
    }

    /// The same tuple in memory of its own, for keeping it longer than the buffer that it was read from.
    #[must_use]
    pub fn detach(&self) -> Self {
        Self {
            columns: self.columns,
            raw: Bytes::copy_from_slice(&self.raw),
        }
    }

    /// The same at the front of `block`'s free memory, which many tuples may share.
    #[must_use]
    pub fn detach_into(&self, block: &mut BytesMut) -> Self {
        block.extend_from_slice(&self.raw);
        Self {
            columns: self.columns,
            raw: block.split().freeze(),
        }
    }
}

/// Builds a tuple column by column.
#[derive(Debug, Default)]
pub struct TupleBuilder {
    columns: u16,
    raw: Vec<u8>,
}

impl TupleBuilder {
    /// A builder without columns.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one column; beyond 65,535 columns or 2 GiB in one value, which Postgres cannot hold, it does nothing.
    pub fn push(&mut self, datum: Datum<'_>) {
        let Some(columns) = self.columns.checked_add(1) else {
            return;
        };
        match datum {
            Datum::Null => self.raw.push(b'n'),
            Datum::Unchanged => self.raw.push(b'u'),
            Datum::Text(text) => {
                let Ok(length) = i32::try_from(text.len()) else {
                    return;
                };
                self.raw.push(b't');
                self.raw.extend_from_slice(&length.to_be_bytes());
                self.raw.extend_from_slice(text);
            }
        }
        self.columns = columns;
    }

    /// The finished tuple.
    #[must_use]
    pub fn build(self) -> Tuple {
        Tuple {
            columns: self.columns,
            raw: Bytes::from(self.raw),
        }
    }
}

fn split_datum<'a>(bytes: &mut &'a [u8]) -> Result<Datum<'a>, TupleError> {
    let (kind, rest) = bytes.split_first().ok_or(TupleError::Truncated)?;
    match kind {
        b'n' => {
            *bytes = rest;
            Ok(Datum::Null)
        }
        b'u' => {
            *bytes = rest;
            Ok(Datum::Unchanged)
        }
        b't' => {
            let (length, rest) = rest.split_first_chunk::<4>().ok_or(TupleError::Truncated)?;
            let length = usize::try_from(i32::from_be_bytes(*length))
                .map_err(|_negative| TupleError::Truncated)?;
            let (text, rest) = rest.split_at_checked(length).ok_or(TupleError::Truncated)?;
            *bytes = rest;
            Ok(Datum::Text(text))
        }
        other => Err(TupleError::UnknownKind(*other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_built_is_read_back_and_parsed() {
        let columns = [
            Datum::Text(b"7"),
            Datum::Null,
            Datum::Unchanged,
            Datum::Text(b""),
        ];
        let mut builder = TupleBuilder::new();
        for column in columns {
            builder.push(column);
        }
        let tuple = builder.build();
        assert_eq!(tuple.iter().collect::<Vec<_>>(), columns);
        assert_eq!(tuple.get(3), Some(Datum::Text(b"".as_slice())));
        assert_eq!(tuple.get(4), None);
        let mut bytes = Bytes::from([&tuple.raw[..], b"rest"].concat());
        assert_eq!(Tuple::parse(4, &mut bytes), Ok(tuple));
        assert_eq!(&bytes[..], b"rest");
    }

    #[test]
    fn malformed_bytes_are_refused_and_left_alone() {
        let mut bytes = Bytes::from_static(b"t\0\0\0\x05abc");
        assert_eq!(Tuple::parse(1, &mut bytes), Err(TupleError::Truncated));
        assert_eq!(bytes.len(), 8);
        assert_eq!(
            Tuple::parse(1, &mut Bytes::from_static(b"t\xff\xff\xff\xff")),
            Err(TupleError::Truncated)
        );
        assert_eq!(
            Tuple::parse(1, &mut Bytes::from_static(b"b")),
            Err(TupleError::UnknownKind(b'b'))
        );
    }
}
