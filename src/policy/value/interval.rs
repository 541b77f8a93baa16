//! `interval`: its text forms with IntervalStyle postgres, and its order.

use super::moment::{DAY, fraction, fraction_text};
use super::scalar::is_space;
use super::{Interval, SqlError};

fn unproven(text: &str) -> SqlError {
    SqlError::internal(&format!(
        "the interval \"{text}\" is in a form that is left to Postgres"
    ))
}

/// Months, days and microseconds of one unit.
const fn unit(name: &str) -> Option<(i64, i64, i64)> {
    Some(match name.as_bytes() {
        b"year" | b"years" | b"y" | b"yr" | b"yrs" => (12, 0, 0),
        b"month" | b"months" | b"mon" | b"mons" => (1, 0, 0),
        b"week" | b"weeks" | b"w" => (0, 7, 0),
        b"day" | b"days" | b"d" => (0, 1, 0),
        b"hour" | b"hours" | b"h" | b"hr" | b"hrs" => (0, 0, 3_600_000_000),
        b"minute" | b"minutes" | b"min" | b"mins" | b"m" => (0, 0, 60_000_000),
        b"second" | b"seconds" | b"sec" | b"secs" | b"s" => (0, 0, 1_000_000),
        _ => return None,
    })
}

#[derive(Default)]
struct Sum {
    months: i64,
    days: i64,
    micros: i64,
    seen: Vec<(i64, i64, i64)>,
}

impl Sum {
    fn add(&mut self, number: &str, unit: (i64, i64, i64)) -> Option<()> {
        if self.seen.contains(&unit) {
            return None;
        }
        self.seen.push(unit);
        let (sign, number) = match number.strip_prefix('-') {
            Some(rest) => (-1, rest),
            None => (1, number.strip_prefix('+').unwrap_or(number)),
        };
        let (whole, decimals) = number.split_once('.').unwrap_or((number, ""));
        let is_digits =
            |part: &str| part.len() <= 9 && part.bytes().all(|byte| byte.is_ascii_digit());
        if !is_digits(whole) || !is_digits(decimals) || whole.is_empty() {
            return None;
        }
        let count = sign * whole.parse::<i64>().ok()?;
        let (months, days, micros) = unit;
        self.months += count * months;
        self.days += count * days;
        self.micros = self.micros.checked_add(count.checked_mul(micros)?)?;
        if decimals.is_empty() {
            return Some(());
        }
        if months != 0 || decimals.len() > 6 {
            return None;
        }
        let part = fraction(decimals)?;
        let parts = sign * part * (days * (DAY / 1_000_000) + micros / 1_000_000);
        if days > 1 {
            self.days += parts / DAY;
            self.micros = self.micros.checked_add(parts % DAY)?;
        } else {
            self.micros = self.micros.checked_add(parts)?;
        }
        Some(())
    }

    /// `[-]hh:mm[:ss[.f]]`.
    fn add_time(&mut self, text: &str) -> Option<()> {
        let clock = [(0, 0, 3_600_000_000), (0, 0, 60_000_000), (0, 0, 1_000_000)];
        if clock.iter().any(|unit| self.seen.contains(unit)) {
            return None;
        }
        let (sign, clocked) = match text.strip_prefix('-') {
            Some(rest) => ("-", rest),
            None => ("", text.strip_prefix('+').unwrap_or(text)),
        };
        let mut parts = clocked.split(':');
        let (hour, minute) = (parts.next()?, parts.next()?);
        let second = parts.next().unwrap_or("00");
        let two = |part: &str| part.len() == 2 && part < "60";
        if parts.next().is_some() || !two(minute) || !two(second.get(..2)?) {
            return None;
        }
        if !hour.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        for (number, unit) in [hour, minute, second].into_iter().zip(clock) {
            self.add(&format!("{sign}{number}"), unit)?;
        }
        Some(())
    }

    fn finish(&self) -> Option<Interval> {
        Some(Interval {
            months: i32::try_from(self.months).ok()?,
            days: i32::try_from(self.days).ok()?,
            micros: self.micros,
        })
    }
}

fn iso(text: &str) -> Option<Interval> {
    let (date, time) = text.split_once('T').unwrap_or((text, ""));
    let mut sum = Sum::default();
    for (mut part, timed) in [(date, false), (time, true)] {
        while !part.is_empty() {
            let end = part.find(|c: char| c.is_ascii_alphabetic())?;
            let (number, rest) = part.split_at_checked(end)?;
            let unit = match (rest.get(..1)?, timed) {
                ("Y", false) => unit("year")?,
                ("M", false) => unit("month")?,
                ("W", false) => unit("week")?,
                ("D", false) => unit("day")?,
                ("H", true) => unit("hour")?,
                ("M", true) => unit("minute")?,
                ("S", true) => unit("second")?,
                _ => return None,
            };
            sum.add(number, unit)?;
            part = rest.get(1..)?;
        }
    }
    if sum.seen.is_empty() {
        None
    } else {
        sum.finish()
    }
}

fn verbose(text: &str) -> Option<Interval> {
    let mut sum = Sum::default();
    let mut words = text.split(is_space).filter(|word| !word.is_empty());
    while let Some(word) = words.next() {
        if word.contains(':') {
            sum.add_time(word)?;
            continue;
        }
        let end = word
            .find(|c: char| c.is_ascii_alphabetic())
            .unwrap_or(word.len());
        let (number, name) = word.split_at_checked(end)?;
        let name = if name.is_empty() { words.next()? } else { name };
        sum.add(number, unit(&name.to_ascii_lowercase())?)?;
    }
    if sum.seen.is_empty() {
        None
    } else {
        sum.finish()
    }
}

pub(super) fn parse(text: &str) -> Result<Interval, SqlError> {
    let trimmed = text.trim_matches(is_space);
    if !trimmed.bytes().any(|byte| byte.is_ascii_digit()) {
        let lower = trimmed.to_ascii_lowercase();
        let plain = lower
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte == b' ');
        if plain && !lower.contains("inf") {
            return Err(SqlError::new(
                "22007",
                format!("invalid input syntax for type interval: \"{text}\""),
            ));
        }
        return Err(unproven(text));
    }
    let parsed = match trimmed.strip_prefix('P') {
        Some(rest) => iso(rest),
        None => verbose(trimmed),
    };
    parsed.ok_or_else(|| unproven(text))
}

pub(super) fn text(interval: Interval) -> String {
    let mut parts = Vec::new();
    let mut negative_before = false;
    let units = [
        (interval.months / 12, "year"),
        (interval.months % 12, "mon"),
        (interval.days, "day"),
    ];
    for (count, name) in units {
        if count != 0 {
            let plus = if negative_before && count > 0 {
                "+"
            } else {
                ""
            };
            let plural = if count == 1 { "" } else { "s" };
            parts.push(format!("{plus}{count} {name}{plural}"));
            negative_before = count < 0;
        }
    }
    if parts.is_empty() || interval.micros != 0 {
        let sign = match interval.micros {
            ..0 => "-",
            _ if negative_before => "+",
            _ => "",
        };
        let micros = interval.micros.unsigned_abs();
        let (hour, minute, second) = (
            micros / 3_600_000_000,
            micros / 60_000_000 % 60,
            micros / 1_000_000 % 60,
        );
        let fraction = fraction_text(i64::try_from(micros % 1_000_000).unwrap_or(0));
        parts.push(format!("{sign}{hour:02}:{minute:02}:{second:02}{fraction}"));
    }
    parts.join(" ")
}

/// Microseconds, with months of 30 days and days of 24 hours: what comparisons see.
pub(super) fn span(interval: Interval) -> i128 {
    let days = i128::from(interval.months) * 30 + i128::from(interval.days);
    days * i128::from(DAY) + i128::from(interval.micros)
}

/// The representative of all intervals that are as long.
pub(super) fn canonical(interval: Interval) -> Result<Interval, SqlError> {
    let span = span(interval);
    let day = i128::from(DAY);
    let (days, micros) = (span.div_euclid(day), span.rem_euclid(day));
    let (months, days) = (days.div_euclid(30), days.rem_euclid(30));
    match (
        i32::try_from(months),
        i32::try_from(days),
        i64::try_from(micros),
    ) {
        (Ok(months), Ok(days), Ok(micros)) => Ok(Interval {
            months,
            days,
            micros,
        }),
        _ => Err(SqlError::internal(
            "an interval that is too long to compare",
        )),
    }
}
