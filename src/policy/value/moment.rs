//! Dates and times: their text forms with DateStyle ISO in UTC.
//!
//! Input takes the ISO forms, exactly as Postgres does. What may be one of the many other forms that Postgres takes
//! is answered with `XX000`, not guessed.

use super::SqlError;
use super::scalar::is_space;

pub(crate) const DAY: i64 = 86_400_000_000;
const HOUR: i64 = 3_600_000_000;
const MINUTE: i64 = 60_000_000;
const SECOND: i64 = 1_000_000;

/// Days from 2000-01-01 back to the first day that timestamps and dates can have.
const FIRST_DAY: i64 = -2_451_545;
/// First microsecond that a timestamp cannot have any more.
const TIMESTAMP_END: i64 = 9_223_371_331_200_000_000;
/// First day that a date cannot have any more.
const DATE_END: i64 = 2_147_483_494 - 2_451_545;

pub(crate) fn out_of_range(kind: &str) -> SqlError {
    SqlError::new("22008", format!("{kind} out of range"))
}

/// A day that a `date` can have.
pub(crate) fn checked_date(days: i64) -> Result<i32, SqlError> {
    i32::try_from(days)
        .ok()
        .filter(|_| (FIRST_DAY..DATE_END).contains(&days))
        .ok_or_else(|| out_of_range("date"))
}

/// A microsecond that a timestamp can have.
pub(crate) fn checked_timestamp(micros: i128) -> Result<i64, SqlError> {
    i64::try_from(micros)
        .ok()
        .filter(|micros| (FIRST_DAY * DAY..TIMESTAMP_END).contains(micros))
        .ok_or_else(|| out_of_range("timestamp"))
}

/// The first microsecond of a date, infinities included.
pub(crate) fn timestamp_of_date(date: i32) -> Result<i64, SqlError> {
    match date {
        i32::MIN => Ok(i64::MIN),
        i32::MAX => Ok(i64::MAX),
        days => checked_timestamp(i128::from(days) * i128::from(DAY)),
    }
}

/// The date of a timestamp, infinities included.
pub(crate) fn date_of_timestamp(micros: i64) -> i32 {
    match micros {
        i64::MIN => i32::MIN,
        i64::MAX => i32::MAX,
        micros => i32::try_from(micros.div_euclid(DAY)).unwrap_or(i32::MAX),
    }
}

/// Days since 2000-01-01 of a day in the proleptic Gregorian calendar; year 0 is 1 BC.
pub(crate) const fn days_of(year: i64, month: i64, day: i64) -> i64 {
    let (y, m) = if month <= 2 {
        (year - 1, month + 9)
    } else {
        (year, month - 3)
    };
    let era = y.div_euclid(400);
    let of_era = y.rem_euclid(400);
    let of_year = (153 * m + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 730_425
}

/// Year, month and day of a day.
pub(crate) const fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 730_425;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let m = (5 * of_year + 2) / 153;
    let day = of_year - (153 * m + 2) / 5 + 1;
    let month = if m < 10 { m + 3 } else { m - 9 };
    (
        year_of_era + era * 400 + if month <= 2 { 1 } else { 0 },
        month,
        day,
    )
}

pub(crate) const fn month_length(year: i64, month: i64) -> i64 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year.rem_euclid(4) == 0
            && (year.rem_euclid(100) != 0 || year.rem_euclid(400) == 0) =>
        {
            29
        }
        2 => 28,
        _ => 31,
    }
}

/// `2024-02-29`, and whether BC must follow at the end.
fn day_text(days: i64) -> (String, &'static str) {
    let (year, month, day) = civil(days);
    let (shown, era) = if year > 0 {
        (year, "")
    } else {
        (1 - year, " BC")
    };
    (format!("{shown:04}-{month:02}-{day:02}"), era)
}

/// `12:34:56.789`.
pub(crate) fn time_text(micros: i64) -> String {
    let (hour, minute, second) = (micros / HOUR, micros / MINUTE % 60, micros / SECOND % 60);
    format!(
        "{hour:02}:{minute:02}:{second:02}{}",
        fraction_text(micros % SECOND)
    )
}

/// Microseconds below a second with their point, without trailing zeros.
pub(super) fn fraction_text(micros: i64) -> String {
    if micros == 0 {
        return String::new();
    }
    let digits = format!("{micros:06}");
    format!(".{}", digits.trim_end_matches('0'))
}

/// `+02`, `-03:30`; `seconds` are west of Greenwich.
pub(crate) fn zone_text(seconds: i32) -> String {
    let sign = if seconds <= 0 { '+' } else { '-' };
    let seconds = seconds.abs();
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (minute, second) {
        (0, 0) => format!("{sign}{hour:02}"),
        (_, 0) => format!("{sign}{hour:02}:{minute:02}"),
        _ => format!("{sign}{hour:02}:{minute:02}:{second:02}"),
    }
}

pub(crate) fn date_text(date: i32) -> String {
    match date {
        i32::MIN => "-infinity".to_owned(),
        i32::MAX => "infinity".to_owned(),
        days => {
            let (text, era) = day_text(i64::from(days));
            format!("{text}{era}")
        }
    }
}

/// A timestamp; `between` stands before the time, `zone` after it.
pub(crate) fn timestamp_text(micros: i64, between: char, zone: &str) -> String {
    match micros {
        i64::MIN => "-infinity".to_owned(),
        i64::MAX => "infinity".to_owned(),
        micros => {
            let (day, era) = day_text(micros.div_euclid(DAY));
            format!(
                "{day}{between}{}{zone}{era}",
                time_text(micros.rem_euclid(DAY))
            )
        }
    }
}

/// What a text says about a moment.
struct Parsed {
    /// Days since 2000-01-01.
    date: Option<i64>,
    /// Microseconds since midnight.
    time: Option<i64>,
    /// Seconds west of Greenwich.
    zone: Option<i32>,
}

enum Moment {
    Fields(Parsed),
    Infinity(bool),
    Epoch,
}

fn bad_format(text: &str) -> SqlError {
    SqlError::new(
        "22007",
        format!("invalid input syntax for a date or time: \"{text}\""),
    )
}

fn overflow(text: &str) -> SqlError {
    SqlError::new(
        "22008",
        format!("date/time field value out of range: \"{text}\""),
    )
}

fn unproven(text: &str) -> SqlError {
    SqlError::internal(&format!(
        "the date or time \"{text}\" is in a form that is left to Postgres"
    ))
}

/// Takes `least` to `most` digits from the front.
fn digits<'a>(rest: &mut &'a str, least: usize, most: usize) -> Option<&'a str> {
    let count = rest.bytes().take_while(u8::is_ascii_digit).count();
    if !(least..=most).contains(&count) {
        return None;
    }
    let (taken, left) = rest.split_at_checked(count)?;
    *rest = left;
    Some(taken)
}

fn number(rest: &mut &str, least: usize, most: usize) -> Option<i64> {
    digits(rest, least, most)?.parse().ok()
}

fn take(rest: &mut &str, prefix: char) -> bool {
    match rest.strip_prefix(prefix) {
        Some(left) => {
            *rest = left;
            true
        }
        None => false,
    }
}

fn moment(text: &str) -> Result<Moment, SqlError> {
    let trimmed = text.trim_matches(is_space);
    let lower = trimmed.to_ascii_lowercase();
    match lower.as_str() {
        "infinity" => return Ok(Moment::Infinity(false)),
        "-infinity" => return Ok(Moment::Infinity(true)),
        "epoch" => return Ok(Moment::Epoch),
        "" => return Err(bad_format(text)),
        _ => {}
    }
    let special = [
        "now",
        "today",
        "tomorrow",
        "yesterday",
        "allballs",
        "inf",
        "epoch",
    ];
    if !lower.bytes().any(|byte| byte.is_ascii_digit()) {
        let plain = lower
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte == b' ');
        return Err(
            if plain && !special.iter().any(|word| lower.contains(word)) {
                bad_format(text)
            } else {
                unproven(text)
            },
        );
    }
    let fields = iso(trimmed).ok_or_else(|| unproven(text))?;
    fields.check(text).map(Moment::Fields)
}

/// The fields of an ISO form, not yet checked.
struct Fields {
    date: Option<(i64, i64, i64)>,
    time: Option<(i64, i64, i64, i64)>,
    zone: Option<(i64, i64, i64, i64)>,
}

fn iso(text: &str) -> Option<Fields> {
    let mut rest = text;
    let mut fields = Fields {
        date: None,
        time: None,
        zone: None,
    };
    let colon = rest.find(':').unwrap_or(rest.len());
    if rest.get(..colon)?.contains('-') || rest.len() == 8 && colon == 8 {
        let date = if rest.len() == 8 && rest.bytes().all(|byte| byte.is_ascii_digit()) {
            let (year, month) = (rest.get(..4)?.parse().ok()?, rest.get(4..6)?.parse().ok()?);
            let day = rest.get(6..)?.parse().ok()?;
            rest = "";
            (year, month, day)
        } else {
            let year = number(&mut rest, 4, 7)?;
            let month = take(&mut rest, '-').then(|| number(&mut rest, 1, 2))??;
            let day = take(&mut rest, '-').then(|| number(&mut rest, 1, 2))??;
            (year, month, day)
        };
        fields.date = Some(date);
    }
    let after_date = rest;
    if fields.date.is_some() {
        rest = match rest.strip_prefix(['T', 't']) {
            Some(left) => left,
            None => rest.trim_start_matches(is_space),
        };
    }
    let starts_time = rest.starts_with(|c: char| c.is_ascii_digit());
    if starts_time && (fields.date.is_none() || after_date.len() > rest.len()) {
        fields.time = Some(time_fields(&mut rest)?);
        let spaced = rest.trim_start_matches(is_space);
        if spaced.starts_with(['+', '-', 'Z', 'z', 'U', 'u', 'G', 'g']) {
            fields.zone = Some(zone_fields(spaced, &mut rest)?);
        }
    }
    let last = rest.trim_start_matches(is_space);
    match (last.to_ascii_lowercase().as_str(), &mut fields.date) {
        ("", _) if rest.is_empty() => Some(fields),
        ("bc", Some((year, ..))) if last.len() < rest.len() => {
            *year = -*year;
            Some(fields)
        }
        _ => None,
    }
}

fn time_fields(rest: &mut &str) -> Option<(i64, i64, i64, i64)> {
    let hour = number(rest, 1, 2)?;
    let minute = take(rest, ':').then(|| number(rest, 2, 2))??;
    if !take(rest, ':') {
        return Some((hour, minute, 0, 0));
    }
    let second = number(rest, 2, 2)?;
    let fraction = if take(rest, '.') {
        fraction(digits(rest, 1, 15)?)?
    } else {
        0
    };
    Some((hour, minute, second, fraction))
}

/// Microseconds of the digits behind a point, rounded as Postgres does.
pub(super) fn fraction(digits: &str) -> Option<i64> {
    if digits.len() <= 6 {
        return format!("{digits:0<6}").parse().ok();
    }
    let micros = (format!("0.{digits}").parse::<f64>().ok()? * 1e6).round_ties_even();
    format!("{micros:.0}").parse().ok()
}

fn zone_fields<'a>(text: &'a str, rest: &mut &'a str) -> Option<(i64, i64, i64, i64)> {
    let mut left = text;
    let sign = if take(&mut left, '+') {
        1
    } else if take(&mut left, '-') {
        -1
    } else {
        let lower = left.to_ascii_lowercase();
        let word = ["utc", "gmt", "z"]
            .into_iter()
            .find(|word| lower.starts_with(word))?;
        *rest = left.get(word.len()..)?;
        return rest
            .chars()
            .next()
            .is_none_or(is_space)
            .then_some((1, 0, 0, 0));
    };
    let first = digits(&mut left, 1, 4)?;
    let (hour, mut minute) = match first.len() {
        1 | 2 => (first.parse().ok()?, None),
        4 => (
            first.get(..2)?.parse().ok()?,
            Some(first.get(2..)?.parse().ok()?),
        ),
        _ => return None,
    };
    let mut second = 0;
    if minute.is_none() && take(&mut left, ':') {
        minute = Some(number(&mut left, 2, 2)?);
        if take(&mut left, ':') {
            second = number(&mut left, 2, 2)?;
        }
    }
    *rest = left;
    Some((sign, hour, minute.unwrap_or(0), second))
}

impl Fields {
    fn check(&self, text: &str) -> Result<Parsed, SqlError> {
        let mut parsed = Parsed {
            date: None,
            time: None,
            zone: None,
        };
        if let Some((sign, hour, minute, second)) = self.zone {
            if hour > 15 || minute > 59 || second > 59 {
                return Err(SqlError::new(
                    "22009",
                    "time zone displacement out of range",
                ));
            }
            parsed.zone = i32::try_from(-sign * (hour * 3600 + minute * 60 + second)).ok();
        }
        if let Some((hour, minute, second, micros)) = self.time {
            let is_late = hour == 24 && (minute, second, micros) != (0, 0, 0);
            if hour > 24 || minute > 59 || second > 60 || is_late {
                return Err(overflow(text));
            }
            parsed.time = Some(hour * HOUR + minute * MINUTE + second * SECOND + micros);
        }
        if let Some((year, month, day)) = self.date {
            let year = if year < 0 { year + 1 } else { year };
            let is_zero = self.date.is_some_and(|(year, ..)| year == 0);
            if is_zero || !(1..=12).contains(&month) || day < 1 || day > month_length(year, month) {
                return Err(overflow(text));
            }
            parsed.date = Some(days_of(year, month, day));
        }
        Ok(parsed)
    }
}

pub(super) fn date(text: &str) -> Result<i32, SqlError> {
    match moment(text)? {
        Moment::Infinity(negative) => Ok(if negative { i32::MIN } else { i32::MAX }),
        Moment::Epoch => Ok(-10_957),
        Moment::Fields(parsed) => checked_date(parsed.date.ok_or_else(|| bad_format(text))?),
    }
}

/// A timestamp without (`zoned`: with) time zone.
pub(super) fn timestamp(text: &str, zoned: bool) -> Result<i64, SqlError> {
    match moment(text)? {
        Moment::Infinity(negative) => Ok(if negative { i64::MIN } else { i64::MAX }),
        Moment::Epoch => Ok(-10_957 * DAY),
        Moment::Fields(parsed) => {
            let date = parsed.date.ok_or_else(|| bad_format(text))?;
            let zone = parsed.zone.filter(|_| zoned).unwrap_or(0);
            let local = i128::from(date) * i128::from(DAY) + i128::from(parsed.time.unwrap_or(0));
            checked_timestamp(local)?;
            checked_timestamp(local + i128::from(zone) * i128::from(SECOND))
        }
    }
}

/// A time of day, and its zone in seconds west of Greenwich.
pub(super) fn time(text: &str) -> Result<(i64, i32), SqlError> {
    match moment(text)? {
        Moment::Infinity(_) | Moment::Epoch => Err(unproven(text)),
        Moment::Fields(parsed) => match parsed.time {
            Some(time) => Ok((time, parsed.zone.unwrap_or(0))),
            None if parsed.date.is_some() => Err(bad_format(text)),
            None => Err(unproven(text)),
        },
    }
}

/// Rounds microseconds to so many decimal places of a second.
pub(crate) fn rounded(micros: i64, places: i32) -> i64 {
    let unit = match places {
        0 => 1_000_000,
        1 => 100_000,
        2 => 10_000,
        3 => 1_000,
        4 => 100,
        5 => 10,
        _ => return micros,
    };
    if micros == i64::MIN || micros == i64::MAX {
        return micros;
    }
    if micros >= 0 {
        (micros.saturating_add(unit / 2)) / unit * unit
    } else {
        -((-micros).saturating_add(unit / 2) / unit * unit)
    }
}
