//! Rows of `realtime.messages` as the broadcasts that they are (protocol.md §5.6). Plain functions.
//!
//! Columns are found by name in the relation that the row was written with: projects have the table in several versions.
//! A row that asks for no broadcast is no fault; one that cannot become a frame is counted and left out.

use bytes::Bytes;

use crate::change::{Change, ChangeKind, Commit, Cursor, Oid, PgTime};
use crate::log::RowId;
use crate::realtime::{Broadcast, Content};
use crate::routing::Since;
use crate::topic::{Room, Topic};

/// `bool`, `bytea`, `json` and `jsonb`.
const BOOL: Oid = 16;
const BYTEA: Oid = 17;
const JSON: [Oid; 2] = [114, 3802];

/// Rows of `realtime.messages` that cannot be broadcast, by why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unsendable {
    /// The topic is the empty text.
    pub empty_topic: u64,
    /// The payload exceeds the limit of broadcasts.
    pub too_large: u64,
    /// A value is not of the type that it should be.
    pub unreadable: u64,
}

/// Why a row cannot be broadcast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    EmptyTopic,
    TooLarge,
    Unreadable,
}

impl Unsendable {
    pub(super) fn count(&mut self, fault: Fault) {
        let count = match fault {
            Fault::EmptyTopic => &mut self.empty_topic,
            Fault::TooLarge => &mut self.too_large,
            Fault::Unreadable => &mut self.unreadable,
        };
        *count = count.saturating_add(1);
    }
}

/// The columns that matter; NULL and absent are the same.
#[derive(Default)]
struct Row<'a> {
    id: Option<&'a [u8]>,
    topic: Option<&'a [u8]>,
    event: Option<&'a [u8]>,
    private: Option<bool>,
    payload: Option<&'a [u8]>,
    binary_payload: Option<&'a [u8]>,
    skip_broadcast: bool,
    extension: Option<&'a [u8]>,
    expires_at: Option<&'a [u8]>,
}

/// What a change of `realtime.messages` says and where; `None` if nothing.
///
/// # Errors
/// It was meant to be said, and cannot be.
pub(super) fn broadcast_of(
    change: &Change,
    bytes_max: usize,
) -> Result<Option<(Room, Broadcast)>, Fault> {
    let Some(row) = read(change)? else {
        return Ok(None);
    };
    let (Some(topic), Some(event), Some(private)) = (row.topic, row.event, row.private) else {
        return Ok(None);
    };
    if row.skip_broadcast {
        return Ok(None);
    }
    content(&row, (topic, event, private), bytes_max)
}

/// What a change of `realtime.messages` says to who was away: also what a client has said and had stored, unless that has
/// expired by `now`.
///
/// # Errors
/// It was meant to be said, and cannot be.
pub(super) fn missed(
    change: &Change,
    bytes_max: usize,
    now: PgTime,
) -> Result<Option<Broadcast>, Fault> {
    let Some(row) = read(change)? else {
        return Ok(None);
    };
    let (Some(topic), Some(event), Some(private)) = (row.topic, row.event, row.private) else {
        return Ok(None);
    };
    let is_stored = row.extension == Some(b"broadcast") && private;
    let expires = row.expires_at.map(|time| text(time).map(Since::utc));
    // A time that cannot be read has passed.
    let is_over = match expires.transpose()? {
        Some(time) => time.is_none_or(|time| time <= now),
        None => false,
    };
    if row.skip_broadcast && (!is_stored || is_over) {
        return Ok(None);
    }
    content(&row, (topic, event, private), bytes_max).map(|said| said.map(|(_, said)| said))
}

/// Whether a row is of this room.
pub(super) fn is_of(change: &Change, room: &Room) -> bool {
    let ChangeKind::Insert { new } = &change.kind else {
        return false;
    };
    let private: &[u8] = if room.private { b"t" } else { b"f" };
    let topic = room.topic.sub_topic().as_bytes();
    let mut columns = change.relation.columns.iter().zip(new.iter());
    columns.all(|(column, datum)| match &*column.name {
        "topic" => datum.text() == Some(topic),
        "private" => datum.text() == Some(private),
        _ => true,
    })
}

/// What was said, with the place at which it was committed.
pub(super) fn committed(message: Broadcast, commit: &Commit, order: u32) -> Broadcast {
    message.committed_by(commit.xid).committed_at(Cursor {
        epoch: commit.epoch,
        commit_lsn: commit.lsn,
        order,
    })
}

fn content(
    row: &Row<'_>,
    (topic, event, private): (&[u8], &[u8], bool),
    bytes_max: usize,
) -> Result<Option<(Room, Broadcast)>, Fault> {
    let event = || text(event).map(Box::from);
    let content = match (row.payload, row.binary_payload) {
        (Some(payload), _) => {
            within(payload.len(), bytes_max)?;
            text(payload)?;
            Content::Json {
                event: event()?,
                // What it was read from belongs to the whole part.
                data: Bytes::copy_from_slice(payload),
            }
        }
        (None, Some(binary)) => {
            let digits = binary.strip_prefix(b"\\x").ok_or(Fault::Unreadable)?;
            within(digits.len() / 2, bytes_max)?;
            Content::Binary {
                event: event()?,
                data: decode_hex(digits).ok_or(Fault::Unreadable)?,
            }
        }
        (None, None) => return Ok(None),
    };
    let id = row.id.map(text).transpose()?.map(Box::from);
    let topic = Topic::of_sub_topic(text(topic)?).ok_or(Fault::EmptyTopic)?;
    let room = Room {
        topic: topic.clone(),
        private,
    };
    Ok(Some((room, Broadcast::new(topic, content, id))))
}

/// When a row says that it was inserted.
pub(super) fn inserted_at(change: &Change) -> Option<PgTime> {
    let ChangeKind::Insert { new } = &change.kind else {
        return None;
    };
    let columns = change.relation.columns.iter().zip(new.iter());
    let mut times = columns.filter(|(column, _)| &*column.name == "inserted_at");
    let (_, time) = times.next()?;
    Since::utc(text(time.text()?).ok()?)
}

/// The topic and the id of a row that may be replayed, said or not.
pub(super) fn replayable(change: &Change) -> Option<(&str, RowId)> {
    let ChangeKind::Insert { new } = &change.kind else {
        return None;
    };
    let (mut topic, mut id) = (None, None);
    for (column, datum) in change.relation.columns.iter().zip(new.iter()) {
        let value = || datum.text().and_then(|value| text(value).ok());
        match &*column.name {
            "topic" => topic = value(),
            "id" => id = value(),
            "private" if value() != Some("t") => return None,
            "extension" if value() != Some("broadcast") => return None,
            _ => {}
        }
    }
    Some((topic?, id?.parse().ok()?))
}

fn read(change: &Change) -> Result<Option<Row<'_>>, Fault> {
    let ChangeKind::Insert { new } = &change.kind else {
        return Ok(None);
    };
    let mut row = Row::default();
    for (column, datum) in change.relation.columns.iter().zip(new.iter()) {
        let Some(value) = datum.text() else {
            continue;
        };
        let of = |types: &[Oid]| {
            let known = types.contains(&column.type_oid);
            known.then_some(value).ok_or(Fault::Unreadable)
        };
        match &*column.name {
            "id" => row.id = Some(value),
            "extension" => row.extension = Some(value),
            "expires_at" => row.expires_at = Some(value),
            "topic" => row.topic = Some(value),
            "event" => row.event = Some(value),
            "private" => row.private = Some(of(&[BOOL])? == b"t"),
            "payload" => row.payload = Some(of(&JSON)?),
            "binary_payload" => row.binary_payload = Some(of(&[BYTEA])?),
            "skip_broadcast" => row.skip_broadcast = of(&[BOOL])? == b"t",
            _ => {}
        }
    }
    Ok(Some(row))
}

fn text(bytes: &[u8]) -> Result<&str, Fault> {
    std::str::from_utf8(bytes).map_err(|_no_text| Fault::Unreadable)
}

fn within(bytes: usize, bytes_max: usize) -> Result<(), Fault> {
    if bytes > bytes_max {
        return Err(Fault::TooLarge);
    }
    Ok(())
}

fn decode_hex(digits: &[u8]) -> Option<Bytes> {
    let value = |digit: u8| match digit {
        b'0'..=b'9' => digit.checked_sub(b'0'),
        b'a'..=b'f' => digit.checked_sub(b'a' - 10),
        _ => None,
    };
    let (pairs, []) = digits.as_chunks::<2>() else {
        return None;
    };
    pairs
        .iter()
        .map(|[high, low]| Some(value(*high)? << 4 | value(*low)?))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::change::{Datum, Relation, RelationColumn, ReplicaIdentity, Tuple, TupleBuilder};

    const COLUMNS: &[(&str, Oid)] = &[
        ("topic", 25),
        ("extension", 25),
        ("payload", 3802),
        ("event", 25),
        ("private", 16),
        ("id", 2950),
        ("binary_payload", 17),
        ("skip_broadcast", 16),
    ];

    fn change(columns: &[(&str, Oid)], values: &[(&str, &str)]) -> Change {
        let column = |(name, type_oid): &(&str, Oid)| RelationColumn {
            name: (*name).into(),
            type_oid: *type_oid,
            type_modifier: -1,
            in_identity: false,
        };
        let mut tuple = TupleBuilder::new();
        for (name, _) in columns {
            let found = values.iter().find(|(column, _)| column == name);
            tuple.push(found.map_or(Datum::Null, |(_, value)| Datum::Text(value.as_bytes())));
        }
        inserted(columns.iter().map(column).collect(), tuple.build())
    }

    fn inserted(columns: Box<[RelationColumn]>, new: Tuple) -> Change {
        let relation = Relation {
            oid: 1,
            schema: "realtime".into(),
            name: "messages".into(),
            identity: ReplicaIdentity::Default,
            columns,
        };
        Change {
            relation: Arc::new(relation),
            order: 0,
            kind: ChangeKind::Insert { new },
        }
    }

    /// Room, content and id, in short.
    fn said(values: &[(&str, &str)]) -> Result<Option<String>, Fault> {
        let said = broadcast_of(&change(COLUMNS, values), 10)?;
        Ok(said.map(|(room, message)| {
            format!("{} {} {message:?}", room.topic.sub_topic(), room.private)
        }))
    }

    const WHOLE: [(&str, &str); 5] = [
        ("topic", "a:b"),
        ("event", "e"),
        ("private", "t"),
        ("payload", "{\"a\": 1}"),
        ("id", "c2f1"),
    ];

    fn with(column: &'static str, value: &'static str) -> Vec<(&'static str, &'static str)> {
        let mut values: Vec<_> = WHOLE.into_iter().filter(|(c, _)| *c != column).collect();
        values.push((column, value));
        values
    }

    fn without(column: &str) -> Vec<(&'static str, &'static str)> {
        WHOLE.into_iter().filter(|(c, _)| *c != column).collect()
    }

    #[test]
    fn a_row_is_said_in_its_room_as_it_is() {
        let shown = said(&WHOLE).unwrap().unwrap();
        assert!(shown.starts_with("a:b true "), "{shown}");
        assert!(shown.contains(r#"data: b"{\"a\": 1}""#), "{shown}");
        assert!(shown.contains(r#"Some("c2f1")"#), "{shown}");
        let public = said(&with("private", "f")).unwrap().unwrap();
        assert!(public.starts_with("a:b false "), "{public}");
    }

    #[test]
    fn bytes_are_decoded() {
        let mut values = without("payload");
        values.push(("binary_payload", "\\x00ff10"));
        let shown = said(&values).unwrap().unwrap();
        assert!(
            shown.contains("Binary") && shown.contains(r#"b"\0\xff\x10""#),
            "{shown}"
        );
        for odd in ["\\x0", "00", "\\xgg", "\\x00F"] {
            let mut values = without("payload");
            values.push(("binary_payload", odd));
            assert_eq!(said(&values), Err(Fault::Unreadable), "{odd}");
        }
    }

    #[test]
    fn what_may_be_replayed_has_an_order() {
        const ID: &str = "c2f10000-0000-4000-8000-000000000000";
        let mut whole = with("id", ID);
        whole.push(("extension", "broadcast"));
        let change_of = |values: &[(&str, &str)]| change(COLUMNS, values);
        let said_or_not = change_of(&[&whole[..], &[("skip_broadcast", "t")]].concat());
        assert_eq!(replayable(&said_or_not), Some(("a:b", ID.parse().unwrap())));
        for (column, value) in [("private", "f"), ("extension", "presence"), ("id", "c2f1")] {
            let mut values = whole.clone();
            values.retain(|(name, _)| *name != column);
            assert_eq!(replayable(&change_of(&values)), None, "no {column}");
            values.push((column, value));
            assert_eq!(replayable(&change_of(&values)), None, "{column}");
        }
    }

    #[test]
    fn a_row_tells_when_it_was_inserted() {
        let at = |values: &[(&str, &str)]| {
            let row = change(&[("id", 2950), ("inserted_at", 1114)], values);
            inserted_at(&row).map(PgTime::unix_micros)
        };
        let time = "2026-11-21 12:00:00.5";
        assert_eq!(at(&[("inserted_at", time)]), Some(1_795_262_400_500_000));
        assert_eq!(at(&[("inserted_at", "infinity")]), None);
        assert_eq!(at(&[("id", "c2f1")]), None);
    }

    #[test]
    fn a_row_that_lacks_something_says_nothing() {
        for column in ["topic", "event", "private", "payload"] {
            assert_eq!(said(&without(column)), Ok(None), "{column}");
        }
        assert_eq!(said(&with("skip_broadcast", "t")), Ok(None));
        assert!(said(&with("skip_broadcast", "f")).unwrap().is_some());
    }

    #[test]
    fn faults_are_told_apart() {
        assert_eq!(said(&with("topic", "")), Err(Fault::EmptyTopic));
        assert_eq!(
            said(&with("payload", "\"123456789\"")),
            Err(Fault::TooLarge)
        );
        let columns = [
            ("topic", 25),
            ("event", 25),
            ("private", 16),
            ("payload", 25),
        ];
        let of_text = broadcast_of(&change(&columns, &WHOLE), 10);
        assert_eq!(of_text.err(), Some(Fault::Unreadable));
    }

    #[test]
    fn columns_that_a_project_does_not_have_are_not_missed() {
        let older: Vec<_> = COLUMNS.iter().copied().take(5).collect();
        let (_, message) = broadcast_of(&change(&older, &WHOLE), 10).unwrap().unwrap();
        assert_eq!(message.id(), None);
    }
}
