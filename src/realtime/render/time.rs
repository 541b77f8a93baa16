//! Dates with times: `to_jsonb` prints them as XML Schema does, with a `T`, and offsets with minutes.
//!
//! Everything else about them (years before Christ, fractions, `infinity`) is as in the ISO text form.

use super::Malformed;
use super::text::string;

/// Appends a `timestamp`.
pub(super) fn timestamp(out: &mut Vec<u8>, text: &[u8]) -> Result<(), Malformed> {
    match split(text)? {
        Some(Moment { date, time }) => write(out, &[date, b"T", time]),
        None => string(out, text),
    }
    Ok(())
}

/// Appends a `timestamptz`, in the offset of the session that printed it.
pub(super) fn timestamptz(out: &mut Vec<u8>, text: &[u8]) -> Result<(), Malformed> {
    let Some(Moment { date, time }) = split(text)? else {
        string(out, text);
        return Ok(());
    };
    let (time, era) = match time.strip_suffix(b" BC") {
        Some(time) => (time, b" BC".as_slice()),
        None => (time, b"".as_slice()),
    };
    // The offset is printed as short as it can be: `+00`, `+05:30`, `-00:01:15`.
    let offset = time.iter().rev().take_while(|byte| !b"+-".contains(byte));
    let minutes: &[u8] = if offset.count() == 2 { b":00" } else { b"" };
    write(out, &[date, b"T", time, minutes, era]);
    Ok(())
}

struct Moment<'a> {
    date: &'a [u8],
    /// With whatever follows it.
    time: &'a [u8],
}

/// Date and time; `None` if there is no time, as in `infinity`.
fn split(text: &[u8]) -> Result<Option<Moment<'_>>, Malformed> {
    let belongs = |byte: &u8| byte.is_ascii_alphanumeric() || b" :.+-".contains(byte);
    if !text.iter().all(belongs) {
        return Err(Malformed);
    }
    let Some(space) = text.iter().position(|byte| *byte == b' ') else {
        return Ok(None);
    };
    let (date, time) = text.split_at_checked(space).ok_or(Malformed)?;
    let time = time.strip_prefix(b" ").ok_or(Malformed)?;
    match (date.last(), time.first()) {
        (Some(b'0'..=b'9'), Some(b'0'..=b'9')) => Ok(Some(Moment { date, time })),
        _ => Err(Malformed),
    }
}

fn write(out: &mut Vec<u8>, pieces: &[&[u8]]) {
    out.push(b'"');
    for piece in pieces {
        out.extend_from_slice(piece);
    }
    out.push(b'"');
}
