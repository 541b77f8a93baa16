//! Dates and times: arithmetic, parts, conversions, all in UTC.

use super::{Builtin, Call, strict, unexpected};
use crate::policy::value::moment::{
    DAY, checked_date, checked_timestamp, civil, date_of_timestamp, days_of, month_length,
    out_of_range, timestamp_of_date,
};
use crate::policy::value::scalar::float_bits;
use crate::policy::value::{Interval, Numeric, SqlError, Value, oid, with_typmod};

const HOUR: i64 = 3_600_000_000;
const MINUTE: i64 = 60_000_000;
const SECOND: i64 = 1_000_000;
/// Seconds from 1970 to 2000.
const UNIX: i64 = 946_684_800;

pub(super) fn scalar(function: u32) -> Option<&'static Builtin> {
    days(function)
        .or_else(|| converting(function))
        .or_else(|| shifting(function))
        .or_else(|| intervals(function))
        .or_else(|| times(function))
        .or_else(|| parts(function))
        .or_else(|| making(function))
}

fn unproven() -> SqlError {
    SqlError::internal("a calculation with times that is left to Postgres")
}

const fn is_finite(micros: i64) -> bool {
    micros != i64::MIN && micros != i64::MAX
}

/// A timestamp argument, with or without time zone, or a date's.
fn micros(call: &Call<'_>, index: usize) -> Result<i64, SqlError> {
    match call.any(index)? {
        Value::Timestamp(micros) | Value::TimestampTz(micros) => Ok(*micros),
        Value::Date(date) => timestamp_of_date(*date),
        _ => Err(unexpected()),
    }
}

/// A timestamp of the result's type.
fn stamp(call: &Call<'_>, micros: i64) -> Value {
    if call.result == oid::TIMESTAMPTZ {
        Value::TimestampTz(micros)
    } else {
        Value::Timestamp(micros)
    }
}

fn later(date: i32, by: i64) -> Result<Value, SqlError> {
    if date == i32::MIN || date == i32::MAX {
        return Ok(Value::Date(date));
    }
    checked_date(i64::from(date) + by).map(Value::Date)
}

fn days(function: u32) -> Option<&'static Builtin> {
    Some(match function {
        1141 => strict!(|call| later(*call.date(0)?, *call.int(1)?)),
        1142 => strict!(|call| later(*call.date(0)?, -*call.int(1)?)),
        2550 => strict!(|call| later(*call.date(1)?, *call.int(0)?)),
        1140 => strict!(|call| {
            let (a, b) = (*call.date(0)?, *call.date(1)?);
            if [a, b]
                .iter()
                .any(|date| *date == i32::MIN || *date == i32::MAX)
            {
                return Err(SqlError::new("22008", "cannot subtract infinite dates"));
            }
            Ok(Value::Int(i64::from(a) - i64::from(b)))
        }),
        // date + time
        1272 | 2025 | 1176 => strict!(|call| at_time(call, 0, 1)),
        1296 => strict!(|call| at_time(call, 1, 0)),
        _ => return None,
    })
}

fn at_time(call: &Call<'_>, date: usize, time: usize) -> Result<Value, SqlError> {
    let start = timestamp_of_date(*call.date(date)?)?;
    match call.any(time)? {
        Value::Time(_) if !is_finite(start) => Ok(stamp(call, start)),
        Value::Time(time) => Ok(stamp(
            call,
            checked_timestamp(i128::from(start) + i128::from(*time))?,
        )),
        _ => Err(unexpected()),
    }
}

fn converting(function: u32) -> Option<&'static Builtin> {
    Some(match function {
        1178 | 2029 => strict!(|call| Ok(Value::Date(date_of_timestamp(micros(call, 0)?)))),
        2024 | 1174 | 2027 | 2028 => strict!(|call| Ok(stamp(call, micros(call, 0)?))),
        1316 | 2019 => strict!(|call| Ok(match micros(call, 0)? {
            micros if is_finite(micros) => Value::Time(micros.rem_euclid(DAY)),
            _ => Value::Null,
        })),
        1388 => strict!(|call| Ok(match micros(call, 0)? {
            micros if is_finite(micros) => Value::TimeTz(micros.rem_euclid(DAY), 0),
            _ => Value::Null,
        })),
        1961 | 1967 | 1968 | 1969 => strict!(|call| {
            let typmod = i32::try_from(*call.int(1)?)
                .ok()
                .filter(|typmod| (-1..=6).contains(typmod));
            let typmod = typmod.ok_or_else(unproven)?;
            with_typmod(call.types, call.result, typmod, call.any(0)?.clone(), true)
        }),
        // AT TIME ZONE
        1159 | 2069 => strict!(|call| {
            let zone = call.text(0)?.to_ascii_lowercase();
            if !matches!(&*zone, "utc" | "gmt" | "z" | "etc/utc" | "zulu") {
                return Err(SqlError::internal(
                    "a time zone other than UTC is left to Postgres",
                ));
            }
            Ok(stamp(call, micros(call, 1)?))
        }),
        1373 => strict!(|call| Ok(Value::Bool(!matches!(*call.date(0)?, i32::MIN | i32::MAX)))),
        1389 | 2048 => strict!(|call| Ok(Value::Bool(is_finite(micros(call, 0)?)))),
        1390 => strict!(|call| call.interval(0).map(|_| Value::Bool(true))),
        1158 => strict!(|call| {
            let seconds = call.float(0)?;
            if seconds.is_nan() {
                return Err(SqlError::new("22008", "timestamp cannot be NaN"));
            }
            if seconds.is_infinite() {
                return Ok(Value::TimestampTz(if seconds < 0.0 {
                    i64::MIN
                } else {
                    i64::MAX
                }));
            }
            if !(-210_866_803_200.0..9_224_318_016_000.0).contains(&seconds) {
                return Err(out_of_range("timestamp"));
            }
            let micros = ((seconds - 946_684_800.0) * 1_000_000.0).round_ties_even();
            checked_timestamp(whole(micros)?).map(Value::TimestampTz)
        }),
        _ => return None,
    })
}

/// A float without a fraction as an integer.
fn whole(value: f64) -> Result<i128, SqlError> {
    format!("{value:.0}")
        .parse()
        .map_err(|_infinite| out_of_range("value"))
}

/// A timestamp later by an interval: its months first, then its days, then the rest.
fn plus(micros: i64, interval: Interval) -> Result<i64, SqlError> {
    if !is_finite(micros) {
        return Ok(micros);
    }
    let mut day = micros.div_euclid(DAY);
    let time = micros.rem_euclid(DAY);
    if interval.months != 0 {
        let (year, month, of_month) = civil(day);
        let months = year * 12 + month - 1 + i64::from(interval.months);
        let (year, month) = (months.div_euclid(12), months.rem_euclid(12) + 1);
        day = days_of(year, month, of_month.min(month_length(year, month)));
        checked_timestamp(i128::from(day) * i128::from(DAY) + i128::from(time))?;
    }
    day += i64::from(interval.days);
    let moved = checked_timestamp(i128::from(day) * i128::from(DAY) + i128::from(time))?;
    checked_timestamp(i128::from(moved) + i128::from(interval.micros))
}

fn negated(interval: Interval) -> Result<Interval, SqlError> {
    let negated = || {
        Some(Interval {
            months: interval.months.checked_neg()?,
            days: interval.days.checked_neg()?,
            micros: interval.micros.checked_neg()?,
        })
    };
    negated().ok_or_else(|| out_of_range("interval"))
}

fn sum(a: Interval, b: Interval) -> Result<Interval, SqlError> {
    let sum = || {
        Some(Interval {
            months: a.months.checked_add(b.months)?,
            days: a.days.checked_add(b.days)?,
            micros: a.micros.checked_add(b.micros)?,
        })
    };
    sum().ok_or_else(|| out_of_range("interval"))
}

/// The time between two timestamps in days and less.
fn between(call: &Call<'_>) -> Result<Value, SqlError> {
    let (a, b) = (micros(call, 0)?, micros(call, 1)?);
    if !is_finite(a) || !is_finite(b) {
        return Err(unproven());
    }
    // Earlier versions do not notice the overflow.
    let micros = a.checked_sub(b).ok_or_else(unproven)?;
    let days = i32::try_from(micros / DAY).map_err(|_long| out_of_range("interval"))?;
    Ok(Value::Interval(Interval {
        months: 0,
        days,
        micros: micros % DAY,
    }))
}

fn age(call: &Call<'_>) -> Result<Value, SqlError> {
    let (first, second) = (micros(call, 0)?, micros(call, 1)?);
    if !is_finite(first) || !is_finite(second) {
        return Err(unproven());
    }
    let (later, earlier, sign) = if first < second {
        (second, first, -1)
    } else {
        (first, second, 1)
    };
    let (year_a, month_a, day_a) = civil(later.div_euclid(DAY));
    let (year_b, month_b, day_b) = civil(earlier.div_euclid(DAY));
    let mut micros = later.rem_euclid(DAY) - earlier.rem_euclid(DAY);
    let mut days = day_a - day_b;
    let mut months = (year_a - year_b) * 12 + month_a - month_b;
    if micros < 0 {
        micros += DAY;
        days -= 1;
    }
    while days < 0 {
        // The month that the earlier one stands in.
        days += month_length(year_b, month_b);
        months -= 1;
    }
    let narrow = |value: i64| i32::try_from(sign * value).map_err(|_long| out_of_range("interval"));
    Ok(Value::Interval(Interval {
        months: narrow(months)?,
        days: narrow(days)?,
        micros: sign * micros,
    }))
}

fn shifting(function: u32) -> Option<&'static Builtin> {
    Some(match function {
        2071 | 2032 | 1189 => {
            strict!(|call| Ok(stamp(call, plus(micros(call, 0)?, *call.interval(1)?)?)))
        }
        2072 | 2033 | 1190 => strict!(|call| {
            Ok(stamp(
                call,
                plus(micros(call, 0)?, negated(*call.interval(1)?)?)?,
            ))
        }),
        2546 | 2548 | 2549 => {
            strict!(|call| Ok(stamp(call, plus(micros(call, 1)?, *call.interval(0)?)?)))
        }
        2031 | 1188 => strict!(between),
        1199 | 2058 => strict!(age),
        _ => return None,
    })
}

/// Twenty-four hours become a day (`hours`), thirty days a month (`days`).
fn justified(interval: Interval, hours: bool, days: bool) -> Result<Interval, SqlError> {
    let mut months = i64::from(interval.months);
    let mut day = i64::from(interval.days);
    let mut micros = interval.micros;
    if hours {
        day += micros / DAY;
        micros %= DAY;
    }
    if days {
        months += day / 30;
        day %= 30;
        if months > 0 && (day < 0 || day == 0 && hours && micros < 0) {
            day += 30;
            months -= 1;
        } else if months < 0 && (day > 0 || day == 0 && hours && micros > 0) {
            day -= 30;
            months += 1;
        }
    }
    if hours {
        if day > 0 && micros < 0 {
            micros += DAY;
            day -= 1;
        } else if day < 0 && micros > 0 {
            micros -= DAY;
            day += 1;
        }
    }
    match (i32::try_from(months), i32::try_from(day)) {
        (Ok(months), Ok(days)) => Ok(Interval {
            months,
            days,
            micros,
        }),
        _ => Err(out_of_range("interval")),
    }
}

/// An interval times a whole number; fractions spill over in ways that are left to Postgres.
fn times_whole(interval: Interval, factor: f64) -> Result<Value, SqlError> {
    if factor.fract() != 0.0 || factor.abs() > 1e9 {
        return Err(unproven());
    }
    let factor = i64::try_from(whole(factor)?).map_err(|_large| unproven())?;
    let micros = interval
        .micros
        .checked_mul(factor)
        .filter(|micros| micros.abs() < 1 << 53);
    let scaled = |value: i32| i32::try_from(i64::from(value) * factor).ok();
    match (scaled(interval.months), scaled(interval.days), micros) {
        (Some(months), Some(days), Some(micros)) => Ok(Value::Interval(Interval {
            months,
            days,
            micros,
        })),
        _ => Err(unproven()),
    }
}

fn intervals(function: u32) -> Option<&'static Builtin> {
    Some(match function {
        1168 => strict!(|call| negated(*call.interval(0)?).map(Value::Interval)),
        1169 => strict!(|call| sum(*call.interval(0)?, *call.interval(1)?).map(Value::Interval)),
        1170 => strict!(
            |call| sum(*call.interval(0)?, negated(*call.interval(1)?)?).map(Value::Interval)
        ),
        1618 => strict!(|call| times_whole(*call.interval(0)?, call.float(1)?)),
        1624 => strict!(|call| times_whole(*call.interval(1)?, call.float(0)?)),
        1175 => strict!(|call| justified(*call.interval(0)?, true, false).map(Value::Interval)),
        1295 => strict!(|call| justified(*call.interval(0)?, false, true).map(Value::Interval)),
        2711 => strict!(|call| justified(*call.interval(0)?, true, true).map(Value::Interval)),
        _ => return None,
    })
}

fn time(call: &Call<'_>, index: usize) -> Result<i64, SqlError> {
    match call.any(index)? {
        Value::Time(micros) | Value::TimeTz(micros, _) => Ok(*micros),
        _ => Err(unexpected()),
    }
}

fn span(micros: i64) -> Value {
    Value::Interval(Interval {
        months: 0,
        days: 0,
        micros,
    })
}

fn times(function: u32) -> Option<&'static Builtin> {
    Some(match function {
        1747 => strict!(|call| Ok(Value::Time(
            (time(call, 0)? + call.interval(1)?.micros % DAY).rem_euclid(DAY)
        ))),
        1748 => strict!(|call| Ok(Value::Time(
            (time(call, 0)? - call.interval(1)?.micros % DAY).rem_euclid(DAY)
        ))),
        1848 => strict!(|call| Ok(Value::Time(
            (time(call, 1)? + call.interval(0)?.micros % DAY).rem_euclid(DAY)
        ))),
        1690 => strict!(|call| Ok(span(time(call, 0)? - time(call, 1)?))),
        1370 => strict!(|call| Ok(span(time(call, 0)?))),
        1419 => strict!(|call| Ok(Value::Time(call.interval(0)?.micros.rem_euclid(DAY)))),
        2046 => strict!(|call| Ok(Value::Time(time(call, 0)?))),
        2047 => strict!(|call| Ok(Value::TimeTz(time(call, 0)?, 0))),
        _ => return None,
    })
}

/// A part of a moment in so many decimal places: a value of 10^-places.
struct Part {
    value: i64,
    places: usize,
    /// The same as a float, with the errors of Postgres' way to it.
    float: f64,
}

fn exact(value: i64) -> f64 {
    value.to_string().parse().unwrap_or(f64::NAN)
}

impl Part {
    fn whole(value: i64) -> Self {
        Self {
            value,
            places: 0,
            float: exact(value),
        }
    }

    /// Microseconds as seconds.
    fn seconds(micros: i64) -> Self {
        Self {
            value: micros,
            places: 6,
            float: exact(micros) / 1_000_000.0,
        }
    }

    /// Seconds and their fraction (microseconds below a minute) in milliseconds or (`per_second` 1) seconds.
    fn split(micros: i64, per_second: f64, places: usize) -> Self {
        let (second, fraction) = (exact(micros / SECOND), exact(micros % SECOND));
        Self {
            value: micros,
            places,
            float: second * per_second + fraction / (1_000_000.0 / per_second),
        }
    }

    fn numeric(&self) -> Result<Value, SqlError> {
        Numeric::parse(&format!("{}e-{}", self.value, self.places)).map(Value::Numeric)
    }

    fn float(&self) -> Value {
        Value::Float(float_bits(self.float))
    }
}

/// Parts of a time of day that all types have.
fn time_part(field: &str, micros: i64) -> Option<Part> {
    Some(match field {
        "hour" => Part::whole(micros / HOUR),
        "minute" => Part::whole(micros / MINUTE % 60),
        "second" => Part::split(micros % MINUTE, 1.0, 6),
        "milliseconds" => Part::split(micros % MINUTE, 1_000.0, 3),
        "microseconds" => Part::whole(micros % MINUTE),
        _ => return None,
    })
}

/// Year and week of ISO 8601.
fn iso_week(day: i64) -> (i64, i64) {
    let monday = |day: i64| day - (day + 5).rem_euclid(7);
    let (year, ..) = civil(monday(day) + 3);
    let first = monday(days_of(year, 1, 4));
    (year, (day - first) / 7 + 1)
}

fn date_field(field: &str, day: i64) -> Option<Part> {
    let (year, month, of_month) = civil(day);
    // There is no year 0.
    let shown = |year: i64| if year > 0 { year } else { year - 1 };
    Some(Part::whole(match field {
        "day" => of_month,
        "month" => month,
        "year" => shown(year),
        "quarter" => (month - 1) / 3 + 1,
        "week" => iso_week(day).1,
        "isoyear" => shown(iso_week(day).0),
        "dow" => (day + 6).rem_euclid(7),
        "isodow" => (day + 5).rem_euclid(7) + 1,
        "doy" => day - days_of(year, 1, 1) + 1,
        "decade" => year.div_euclid(10),
        "century" => {
            if year > 0 {
                (year + 99) / 100
            } else {
                -((99 - (year - 1)) / 100)
            }
        }
        "millennium" => {
            if year > 0 {
                (year + 999) / 1000
            } else {
                -((999 - (year - 1)) / 1000)
            }
        }
        _ => return None,
    }))
}

fn interval_field(field: &str, interval: Interval) -> Option<Part> {
    let (year, month) = (
        i64::from(interval.months / 12),
        i64::from(interval.months % 12),
    );
    Some(match field {
        "day" => Part::whole(i64::from(interval.days)),
        "month" => Part::whole(month),
        "year" => Part::whole(year),
        "epoch" => {
            // A year has 365.25 days, a month 30.
            let seconds = year * 31_557_600 + month * 2_592_000 + i64::from(interval.days) * 86_400;
            let micros = seconds.checked_mul(SECOND)?.checked_add(interval.micros)?;
            let mut float = exact(interval.micros) / 1_000_000.0;
            float += 31_557_600.0 * exact(year);
            float += 2_592_000.0 * exact(month);
            float += 86_400.0 * f64::from(interval.days);
            Part {
                value: micros,
                places: 6,
                float,
            }
        }
        field => time_part(field, interval.micros)?,
    })
}

fn field(call: &Call<'_>) -> Result<Part, SqlError> {
    let name = call.text(0)?.to_ascii_lowercase();
    let found = match call.any(1)? {
        Value::Date(date) if *date != i32::MIN && *date != i32::MAX => {
            // date_part goes by way of a timestamp, which holds fewer days.
            if call.result != oid::NUMERIC {
                timestamp_of_date(*date)?;
            }
            match &*name {
                "epoch" => Some(Part::whole(i64::from(*date) * 86_400 + UNIX)),
                name => date_field(name, i64::from(*date)),
            }
        }
        Value::Timestamp(micros) | Value::TimestampTz(micros) if is_finite(*micros) => match &*name
        {
            "epoch" => micros.checked_add(UNIX * SECOND).map(Part::seconds),
            name => time_part(name, micros.rem_euclid(DAY))
                .or_else(|| date_field(name, micros.div_euclid(DAY))),
        },
        Value::Time(micros) => match &*name {
            "epoch" => Some(Part::seconds(*micros)),
            name => time_part(name, *micros),
        },
        Value::Interval(interval) => interval_field(&name, *interval),
        _ => None,
    };
    found.ok_or_else(unproven)
}

fn truncated(micros: i64, unit: &str) -> Result<i64, SqlError> {
    let day = micros.div_euclid(DAY);
    let (year, month, _) = civil(day);
    let from_year = |year: i64, month: i64| {
        checked_timestamp(i128::from(days_of(year, month, 1)) * i128::from(DAY))
    };
    let down =
        |size: i64| checked_timestamp(i128::from(micros.div_euclid(size)) * i128::from(size));
    match unit {
        _ if !is_finite(micros)
            && matches!(
                unit,
                "second" | "minute" | "hour" | "day" | "week" | "month" | "quarter" | "year"
            ) =>
        {
            Ok(micros)
        }
        _ if !is_finite(micros) => Err(unproven()),
        "microseconds" => Ok(micros),
        "milliseconds" => down(1_000),
        "second" => down(SECOND),
        "minute" => down(MINUTE),
        "hour" => down(HOUR),
        "day" => down(DAY),
        "week" => {
            let monday = day - (day + 5).rem_euclid(7);
            checked_timestamp(i128::from(monday) * i128::from(DAY))
        }
        "month" => from_year(year, month),
        "quarter" => from_year(year, (month - 1) / 3 * 3 + 1),
        "year" => from_year(year, 1),
        "decade" if year > 0 => from_year(year / 10 * 10, 1),
        "century" if year > 0 => from_year((year - 1) / 100 * 100 + 1, 1),
        "millennium" if year > 0 => from_year((year - 1) / 1000 * 1000 + 1, 1),
        _ => Err(unproven()),
    }
}

fn truncated_interval(interval: Interval, unit: &str) -> Result<Interval, SqlError> {
    let Interval {
        months,
        days,
        micros,
    } = interval;
    let only = |months: i32| Interval {
        months,
        days: 0,
        micros: 0,
    };
    let time = |size: i64| Interval {
        months,
        days,
        micros: micros / size * size,
    };
    Ok(match unit {
        "microseconds" => interval,
        "milliseconds" => time(1_000),
        "second" => time(SECOND),
        "minute" => time(MINUTE),
        "hour" => time(HOUR),
        "day" => Interval {
            months,
            days,
            micros: 0,
        },
        "month" => only(months),
        "quarter" if months >= 0 => only(months / 3 * 3),
        "year" => only(months / 12 * 12),
        _ => return Err(unproven()),
    })
}

fn parts(function: u32) -> Option<&'static Builtin> {
    Some(match function {
        6199 | 6200 | 6202 | 6203 | 6204 => strict!(|call| field(call)?.numeric()),
        1171 | 1172 | 1384 | 1385 | 2021 => strict!(|call| Ok(field(call)?.float())),
        1217 | 2020 => strict!(|call| {
            Ok(stamp(
                call,
                truncated(micros(call, 1)?, &call.text(0)?.to_ascii_lowercase())?,
            ))
        }),
        1218 => strict!(|call| {
            truncated_interval(*call.interval(1)?, &call.text(0)?.to_ascii_lowercase())
                .map(Value::Interval)
        }),
        _ => return None,
    })
}

fn making(function: u32) -> Option<&'static Builtin> {
    Some(match function {
        3464 => strict!(|call| {
            let int = |index: usize| call.int(index).copied();
            let months = int(0)? * 12 + int(1)?;
            let days = int(2)? * 7 + int(3)?;
            let seconds = call.float(6)?;
            if !seconds.is_finite() {
                return Err(out_of_range("interval"));
            }
            if seconds.abs() > 1e12 || int(4)?.abs() > 1_000_000_000 {
                return Err(unproven());
            }
            let seconds = whole((seconds * 1_000_000.0).round_ties_even())?;
            let micros = i128::from(int(4)?) * i128::from(HOUR)
                + i128::from(int(5)?) * i128::from(MINUTE)
                + seconds;
            match (
                i32::try_from(months),
                i32::try_from(days),
                i64::try_from(micros),
            ) {
                (Ok(months), Ok(days), Ok(micros)) => Ok(Value::Interval(Interval {
                    months,
                    days,
                    micros,
                })),
                // Overflows are errors in later versions only.
                _ => Err(unproven()),
            }
        }),
        3846 => strict!(|call| {
            let (year, month, day) = (*call.int(0)?, *call.int(1)?, *call.int(2)?);
            let year = if year < 0 {
                year + 1
            } else if year == 0 {
                i64::MIN
            } else {
                year
            };
            let is_day = year > -1_000_000
                && (1..=12).contains(&month)
                && day >= 1
                && day <= month_length(year, month);
            if !is_day {
                return Err(SqlError::new("22008", "date field value out of range"));
            }
            checked_date(days_of(year, month, day)).map(Value::Date)
        }),
        _ => return None,
    })
}
