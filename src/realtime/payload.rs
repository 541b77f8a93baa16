//! Payloads: one change in, the `data` object of a `postgres_changes` message out (protocol.md §4.1, §4.6, §11).
//!
//! The bytes go straight into the caller's buffer, compact, keys in the order of protocol.md's example. What may be
//! seen is the caller's decision and comes in as a [`Shape`]; nothing outside it is ever written. Any tuple gives
//! valid JSON: what does not fit its type is a string of its text.

#[cfg(test)]
mod tests;

use std::io::Write as _;
use std::iter;

use super::render::{Renderer, string};
use crate::catalog::Catalog;
use crate::change::{
    Change, ChangeKind, Commit, Cursor, Datum, OldKind, OldTuple, PgTime, Relation, Tuple,
};

/// The reference's limit for a decoded change (protocol.md §4.6), 1 MiB.
pub const CHANGE_BYTES_MAX: usize = 1_048_576;

/// JSON bytes that a value may have and still stand in a change that is too large (protocol.md §4.6).
const SMALL_VALUE_BYTES_MAX: usize = 64;

/// Text bytes beyond which a value of a change that is too large is not even rendered. JSON can be shorter than its
/// value's text (whitespace in `json`, quoting in arrays), but a 64-byte remainder of more than this is padding.
const SMALL_TEXT_BYTES_MAX: usize = 4096;

/// What of a change a group of subscribers may see. All decisions are made: grants, selection, row security.
#[derive(Clone, Copy, Debug)]
pub struct Shape<'a> {
    /// Whether each column of the change's *relation* is included: grants ∩ (select ∪ primary key). Columns past its
    /// end are not.
    pub columns: &'a [bool],
    /// Whether each column of the relation belongs to the primary key. Columns past its end do not.
    pub key: &'a [bool],
    /// How much of the old version is included.
    pub old: OldShape,
    /// Bytes of the change's tuples beyond which only small values are written; see [`CHANGE_BYTES_MAX`].
    pub size_max: usize,
}

/// How much of a row's old version may be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OldShape {
    /// Primary key columns: what the wire says under row security.
    KeyOnly,
    /// Whatever the stream tells.
    Full,
}

/// Under which `type` a change is announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RenderAs {
    /// As what it is.
    AsWritten,
    /// An UPDATE as the INSERT that this group never saw, because the version before it was superseded unjudged.
    Insert,
    /// An UPDATE as the DELETE that it is for a group which saw the row before and does not see it after. Nothing of the
    /// row after the UPDATE shows, not even its size.
    Left,
}

/// A change that is announced without content (protocol.md §4.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Withheld {
    /// The table has no primary key.
    NoPrimaryKey,
    /// The role may not SELECT the whole primary key.
    Unauthorized,
}

impl Withheld {
    /// The element of `errors`.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::NoPrimaryKey => "Error 400: Bad Request, no primary key",
            Self::Unauthorized => "Error 401: Unauthorized",
        }
    }
}

/// Appends the `data` object of `change`; returns whether there is one. A TRUNCATE has none and is never delivered.
pub fn render(
    out: &mut Vec<u8>,
    catalog: &Catalog,
    commit: &Commit,
    change: &Change,
    shape: &Shape<'_>,
    render_as: RenderAs,
) -> bool {
    let (action, new, old) = match (&change.kind, render_as) {
        (ChangeKind::Insert { new }, _) => ("INSERT", Some(new), None),
        (ChangeKind::Update { old, new }, RenderAs::Insert) => ("INSERT", Some(new), old.as_ref()),
        (ChangeKind::Update { old, new }, RenderAs::AsWritten) => {
            ("UPDATE", Some(new), old.as_ref())
        }
        (ChangeKind::Update { old, new }, RenderAs::Left) => {
            return render_left(out, catalog, commit, change, shape, (old.as_ref(), new));
        }
        (ChangeKind::Delete { old }, _) => ("DELETE", None, Some(old)),
        (ChangeKind::Truncate, _) => return false,
    };
    let size = new.map_or(0, Tuple::size) + old.map_or(0, |old| old.tuple.size());
    let mut writer = Writer {
        out,
        catalog,
        relation: &change.relation,
        shape,
        too_large: size > shape.size_max,
    };
    writer.head(action);
    writer.commit_timestamp(commit.time);
    writer.columns();
    if let Some(new) = new {
        writer.out.extend_from_slice(b",\"record\":");
        writer.record(new, old, |index| included(shape.columns, index));
    }
    if action != "INSERT" {
        writer.out.extend_from_slice(b",\"old_record\":");
        writer.old_record(new, old);
    }
    let errors: &[u8] = if writer.too_large {
        b",\"errors\":[\"Error 413: Payload Too Large\"]"
    } else {
        b",\"errors\":null"
    };
    out.extend_from_slice(errors);
    position(out, commit, change.order);
    true
}

/// The key of the row before, which is the one after unless the stream says otherwise.
fn render_left(
    out: &mut Vec<u8>,
    catalog: &Catalog,
    commit: &Commit,
    change: &Change,
    shape: &Shape<'_>,
    (old, new): (Option<&OldTuple>, &Tuple),
) -> bool {
    let shape = Shape {
        old: OldShape::KeyOnly,
        ..*shape
    };
    let mut writer = Writer {
        out,
        catalog,
        relation: &change.relation,
        shape: &shape,
        too_large: false,
    };
    writer.head("DELETE");
    writer.commit_timestamp(commit.time);
    writer.columns();
    writer.out.extend_from_slice(b",\"old_record\":");
    writer.old_record(Some(new), old);
    out.extend_from_slice(b",\"errors\":null,\"left\":true");
    position(out, commit, change.order);
    true
}

/// Appends the `data` object of a change whose content nobody of the group may see; returns whether there is one. A
/// DELETE and a TRUNCATE have none: protocol.md §4.6 exempts the one and never delivers the other.
pub fn render_withheld(
    out: &mut Vec<u8>,
    commit: &Commit,
    change: &Change,
    withheld: Withheld,
    render_as: RenderAs,
) -> bool {
    let (action, records): (_, &[u8]) = match (&change.kind, render_as) {
        (ChangeKind::Insert { .. }, _) | (ChangeKind::Update { .. }, RenderAs::Insert) => {
            ("INSERT", b",\"record\":{}")
        }
        (ChangeKind::Update { .. }, RenderAs::AsWritten) => {
            ("UPDATE", b",\"record\":{},\"old_record\":{}")
        }
        (ChangeKind::Update { .. }, RenderAs::Left)
        | (ChangeKind::Delete { .. } | ChangeKind::Truncate, _) => return false,
    };
    head(out, &change.relation, action);
    out.extend_from_slice(b",\"commit_timestamp\":null,\"columns\":[]");
    out.extend_from_slice(records);
    out.extend_from_slice(b",\"errors\":[");
    string(out, withheld.text().as_bytes());
    out.push(b']');
    position(out, commit, change.order);
    true
}

/// Marks the object that was appended last, and nothing after it, as a row of a snapshot.
pub fn mark_snapshot(out: &mut Vec<u8>) {
    if out.pop_if(|byte| *byte == b'}').is_some() {
        out.extend_from_slice(b",\"snapshot\":true}");
    }
}

/// What the pieces of one `data` object share.
struct Writer<'a> {
    out: &'a mut Vec<u8>,
    catalog: &'a Catalog,
    relation: &'a Relation,
    shape: &'a Shape<'a>,
    /// Only small values are written.
    too_large: bool,
}

impl Writer<'_> {
    fn head(&mut self, action: &str) {
        head(self.out, self.relation, action);
    }

    fn commit_timestamp(&mut self, time: PgTime) {
        self.out.extend_from_slice(b",\"commit_timestamp\":\"");
        timestamp(self.out, time);
        self.out.push(b'"');
    }

    fn columns(&mut self) {
        self.out.extend_from_slice(b",\"columns\":[");
        let renderer = Renderer::new(self.catalog);
        let mut separator = Separator::default();
        let columns = self.relation.columns.iter().enumerate();
        for (_, column) in columns.filter(|(index, _)| included(self.shape.columns, *index)) {
            separator.write(self.out);
            self.out.extend_from_slice(b"{\"name\":");
            string(self.out, column.name.as_bytes());
            self.out.extend_from_slice(b",\"type\":");
            string(self.out, renderer.type_name(column.type_oid).as_bytes());
            self.out.push(b'}');
        }
        self.out.push(b']');
    }

    /// The replica identity decides what is known of the old version; without an old tuple its columns did not change.
    fn old_record(&mut self, new: Option<&Tuple>, old: Option<&OldTuple>) {
        let (tuple, all_known) = match (old, new) {
            (Some(old), _) => (&old.tuple, old.kind == OldKind::Full),
            (None, Some(new)) => (new, false),
            (None, None) => return self.out.extend_from_slice(b"{}"),
        };
        let (shape, relation) = (self.shape, self.relation);
        self.record(tuple, None, |index| {
            let column = relation.columns.get(index);
            included(shape.columns, index)
                && (all_known || column.is_some_and(|column| column.in_identity))
                && (shape.old == OldShape::Full || included(shape.key, index))
        });
    }

    /// An object of the `wanted` columns of `tuple`. Unchanged TOAST comes from `old`; where that does not know it, its
    /// key is absent.
    fn record(&mut self, tuple: &Tuple, old: Option<&OldTuple>, wanted: impl Fn(usize) -> bool) {
        let all_known = old.is_some_and(|old| old.kind == OldKind::Full);
        let mut old = old.into_iter().flat_map(|old| old.tuple.iter());
        let mut renderer = Renderer::new(self.catalog);
        let mut separator = Separator::default();
        self.out.push(b'{');
        for (index, (column, datum)) in iter::zip(&self.relation.columns, tuple.iter()).enumerate()
        {
            let known = old.next().filter(|_| all_known || column.in_identity);
            if !wanted(index) {
                continue;
            }
            let text = match (datum, known) {
                (Datum::Unchanged, None | Some(Datum::Unchanged)) => continue,
                (Datum::Unchanged, Some(known)) => known.text(),
                (datum, _) => datum.text(),
            };
            if self.too_large && text.is_some_and(|text| text.len() > SMALL_TEXT_BYTES_MAX) {
                continue;
            }
            let (start, before) = (self.out.len(), separator);
            separator.write(self.out);
            string(self.out, column.name.as_bytes());
            self.out.push(b':');
            let value = self.out.len();
            match text {
                Some(text) => renderer.column(self.out, column.type_oid, text),
                None => self.out.extend_from_slice(b"null"),
            }
            if self.too_large && self.out.len() - value > SMALL_VALUE_BYTES_MAX {
                self.out.truncate(start);
                separator = before;
            }
        }
        self.out.push(b'}');
    }
}

/// A comma before every element but the first.
#[derive(Clone, Copy, Default)]
struct Separator {
    due: bool,
}

impl Separator {
    fn write(&mut self, out: &mut Vec<u8>) {
        if self.due {
            out.push(b',');
        }
        self.due = true;
    }
}

fn included(columns: &[bool], index: usize) -> bool {
    columns.get(index).copied().unwrap_or(false)
}

fn head(out: &mut Vec<u8>, relation: &Relation, action: &str) {
    out.extend_from_slice(b"{\"schema\":");
    string(out, relation.schema.as_bytes());
    out.extend_from_slice(b",\"table\":");
    string(out, relation.name.as_bytes());
    out.extend_from_slice(b",\"type\":\"");
    out.extend_from_slice(action.as_bytes());
    out.push(b'"');
}

/// walcast's own keys (protocol.md §11), and the end of the object.
fn position(out: &mut Vec<u8>, commit: &Commit, order: u32) {
    let cursor = Cursor {
        epoch: commit.epoch,
        commit_lsn: commit.lsn,
        order,
    };
    write!(
        out,
        ",\"commit_lsn\":\"{}\",\"cursor\":\"{cursor}\"}}",
        commit.lsn
    )
    .expect("a Vec takes every write");
}

/// `2026-08-21T14:03:56.123Z`; further digits are cut off, as `to_char` cuts them off for `MS`.
fn timestamp(out: &mut Vec<u8>, time: PgTime) {
    const MILLIS_PER_DAY: i64 = 86_400_000;
    let millis = time.unix_micros().div_euclid(1000);
    let (year, month, day) = civil_date(millis.div_euclid(MILLIS_PER_DAY));
    let millis = millis.rem_euclid(MILLIS_PER_DAY);
    let (seconds, millis) = (millis / 1000, millis % 1000);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    write!(
        out,
        "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z"
    )
    .expect("a Vec takes every write");
}

/// Year, month and day of the proleptic Gregorian calendar, by 400-year eras that begin in March, so that the leap
/// day is an era year's last.
fn civil_date(days_since_1970: i64) -> (i64, i64, i64) {
    const DAYS_PER_ERA: i64 = 146_097;
    /// From 0000-03-01 to 1970-01-01.
    const DAYS_BEFORE_1970: i64 = 719_468;
    let days = days_since_1970 + DAYS_BEFORE_1970;
    let (era, day) = (days.div_euclid(DAYS_PER_ERA), days.rem_euclid(DAYS_PER_ERA));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (year, month) = match month {
        0..=9 => (era * 400 + year, month + 3),
        _ => (era * 400 + year + 1, month - 9),
    };
    (year, month, day)
}
