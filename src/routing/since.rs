//! The `since` of a binding: from where on changes are wanted (protocol.md §11). JSON in, a position or a time out.
//!
//! Never looks at what is retained; that is the pipeline's affair.

use serde_json::{Map, Value};

use super::binding::RequestedBinding;
use crate::change::{Cursor, PgTime};

/// From where on changes are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// Those after this one.
    Cursor(Cursor),
    /// Those from the first transaction on that committed at this time or later.
    Time(PgTime),
}

/// A `since` that is neither a cursor nor a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Error parsing `since`: expected a cursor or an RFC 3339 timestamp")]
pub struct SinceError;

impl Since {
    /// The `since` of a binding; `None` where it has none.
    ///
    /// # Errors
    /// It is neither a cursor nor a time.
    pub fn of(binding: &RequestedBinding) -> Result<Option<Self>, SinceError> {
        // What is no object of values is refused for that.
        let object: Map<String, Value> =
            serde_json::from_str(binding.json.get()).unwrap_or_default();
        match object.get("since") {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Self::parse(text).map(Some),
            Some(_) => Err(SinceError),
        }
    }

    /// A `timestamp` that Postgres has printed, taken as UTC; `None` for anything else, infinity included.
    #[must_use]
    pub fn utc(text: &str) -> Option<PgTime> {
        timestamp(&format!("{text}Z"))
    }

    fn parse(text: &str) -> Result<Self, SinceError> {
        if let Ok(cursor) = text.parse() {
            return Ok(Self::Cursor(cursor));
        }
        timestamp(text).map(Self::Time).ok_or(SinceError)
    }
}

/// RFC 3339, section 5.6: `2026-11-21T12:00:00.123456Z`, or with an offset. Digits beyond microseconds are cut off.
fn timestamp(text: &str) -> Option<PgTime> {
    let (date, rest) = text.split_at_checked(10)?;
    let rest = rest.strip_prefix(['T', 't', ' '])?;
    let (time, rest) = rest.split_at_checked(8)?;
    let [year, month, day] = numbers(date, '-', [4, 2, 2])?;
    let [hour, minute, second] = numbers(time, ':', [2, 2, 2])?;
    let (fraction, zone) = match rest.strip_prefix('.') {
        None => (0, rest),
        Some(rest) => {
            let digits = rest.find(|c: char| !c.is_ascii_digit())?;
            let (digits, zone) = rest.split_at(digits);
            let micros: String = digits.chars().chain("000000".chars()).take(6).collect();
            ((!digits.is_empty()).then_some(micros)?.parse().ok()?, zone)
        }
    };
    let offset = match zone {
        "Z" | "z" => 0,
        _ => {
            let sign = if zone.starts_with('-') { -1 } else { 1 };
            let [hours, minutes] = numbers(zone.strip_prefix(['+', '-'])?, ':', [2, 2])?;
            (hours < 24 && minutes < 60).then_some(sign * (hours * 60 + minutes))?
        }
    };
    // A leap second is the one after it.
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let minutes = days(year, month, day)? * 1440 + hour * 60 + minute - offset;
    let seconds = minutes * 60 + second;
    Some(PgTime::from_unix_micros(seconds * 1_000_000 + fraction))
}

/// Numbers of exactly so many digits.
fn numbers<const N: usize>(text: &str, between: char, digits: [usize; N]) -> Option<[i64; N]> {
    let mut fields = text.split(between);
    let mut found = [0; N];
    for (number, digits) in found.iter_mut().zip(digits) {
        let field = fields.next()?;
        let plain = field.len() == digits && field.bytes().all(|byte| byte.is_ascii_digit());
        *number = plain.then_some(field)?.parse().ok()?;
    }
    fields.next().is_none().then_some(found)
}

/// Days since 1970-01-01 in the Gregorian calendar; `None` if there is no such day.
fn days(year: i64, month: i64, day: i64) -> Option<i64> {
    let leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    let length = match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if !(1..=length).contains(&day) {
        return None;
    }
    // Years that begin in March have their leap day last.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let of_years = year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    let of_months = (153 * month + 2) / 5;
    Some(of_years + of_months + day - 1 - 719_468)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::value::RawValue;

    #[track_caller]
    fn check(json: &str, expected: Result<Option<Since>, SinceError>) {
        let binding = RequestedBinding {
            id: 1,
            json: RawValue::from_string(json.to_owned()).unwrap(),
        };
        assert_eq!(Since::of(&binding), expected, "{json}");
    }

    #[test]
    fn a_cursor_or_a_time_or_nothing() {
        let cursor = "0000000000000001-0000000000000002-00000003";
        let parsed = Since::Cursor(cursor.parse().unwrap());
        check(&format!(r#"{{"since":"{cursor}"}}"#), Ok(Some(parsed)));
        check(r#"{"table":"a"}"#, Ok(None));
        check(r#"{"since":null}"#, Ok(None));
        for wrong in [
            "7",
            "\"\"",
            "\"yesterday\"",
            "[]",
            "{}",
            "true",
            "\"1-2-3\"",
        ] {
            check(&format!(r#"{{"since":{wrong}}}"#), Err(SinceError));
        }
    }

    #[test]
    fn times_as_the_rfc_writes_them() {
        let micros = |text: &str| timestamp(text).map(PgTime::unix_micros);
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", 0),
            ("1970-01-01t00:00:00.5z", 500_000),
            ("2000-02-29T00:00:00Z", 951_782_400_000_000),
            ("2026-11-21T19:00:00.123456789Z", 1_795_287_600_123_456),
            ("2026-11-21T20:00:00+01:00", 1_795_287_600_000_000),
            ("2026-11-21 13:30:00-05:30", 1_795_287_600_000_000),
            ("1969-12-31T23:59:59Z", -1_000_000),
        ] {
            assert_eq!(micros(text), Some(expected), "{text}");
        }
        for text in [
            "2026-11-21",
            "2026-11-21T19:00:00",
            "2026-11-21T19:00Z",
            "2026-11-31T19:00:00Z",
            "2026-13-01T19:00:00Z",
            "2025-02-29T19:00:00Z",
            "2026-11-21T24:00:00Z",
            "2026-11-21T19:00:00.Z",
            "2026-11-21T19:00:00+1:00",
            "+026-11-21T19:00:00Z",
            "2026-11-21T19:00:00Zulu",
        ] {
            assert_eq!(micros(text), None, "{text}");
        }
    }
}
