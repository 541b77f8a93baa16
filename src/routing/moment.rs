//! Dates and times, read from the ISO text form and put on one line of microseconds (Postgres manual, "Date/Time
//! Output"; all sessions of ours have `DateStyle` ISO).

/// A point on a line of microseconds, or an infinity. The variants stand in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Moment {
    /// `-infinity`
    Past,
    /// Microseconds from an origin of the type's own: comparable within one type only.
    At(i128),
    /// `infinity`
    Future,
}

const MICROS_PER_SECOND: i128 = 1_000_000;
const MICROS_PER_DAY: i128 = 86_400 * MICROS_PER_SECOND;

impl Moment {
    /// Reads a `date`; `None` for other text.
    pub(super) fn date(text: &str) -> Option<Self> {
        Self::read(text, |text, era| {
            days(text, era)?.checked_mul(MICROS_PER_DAY)
        })
    }

    /// Reads a `timestamp`; `None` for other text.
    pub(super) fn timestamp(text: &str) -> Option<Self> {
        Self::read(text, |text, era| {
            let (date, time) = text.split_once(' ')?;
            (days(date, era)?.checked_mul(MICROS_PER_DAY)?).checked_add(micros(time)?)
        })
    }

    /// Reads a `timestamptz` printed in any zone; `None` for other text.
    pub(super) fn timestamptz(text: &str) -> Option<Self> {
        Self::read(text, |text, era| {
            let (date, time) = text.split_once(' ')?;
            let (time, zone) = time.split_at_checked(time.find(['+', '-'])?)?;
            let offset = match zone.split_at_checked(1)? {
                ("+", east) => offset(east)?,
                (_, west) => offset(west)?.checked_neg()?,
            };
            (days(date, era)?.checked_mul(MICROS_PER_DAY)?)
                .checked_add(micros(time)?)?
                .checked_sub(offset)
        })
    }

    /// Reads a `time`; `None` for other text.
    pub(super) fn time(text: &str) -> Option<Self> {
        micros(text).map(Self::At)
    }

    fn read(text: &str, read: impl Fn(&str, Era) -> Option<i128>) -> Option<Self> {
        match text {
            "infinity" => return Some(Self::Future),
            "-infinity" => return Some(Self::Past),
            _ => {}
        }
        match text.strip_suffix(" BC") {
            Some(text) => read(text, Era::BeforeChrist),
            None => read(text, Era::Common),
        }
        .map(Self::At)
    }
}

/// How years are counted; the mark stands at the very end of the text.
#[derive(Clone, Copy)]
enum Era {
    Common,
    BeforeChrist,
}

/// Days from 0000-03-01 of the proleptic Gregorian calendar.
fn days(text: &str, era: Era) -> Option<i128> {
    let mut parts = text.split('-');
    let year = number(parts.next()?, 4)?;
    let year = match era {
        Era::Common => year,
        // The text form has no year 0: 1 BC is followed by 1.
        Era::BeforeChrist => 1_i128.checked_sub(year)?,
    };
    let month = number(parts.next()?, 2)?;
    let day = number(parts.next()?, 2)?;
    if parts.next().is_some() || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    // Counted from March, a leap day is the last of its year.
    let year = if month <= 2 {
        year.checked_sub(1)?
    } else {
        year
    };
    let month = (month.checked_add(9)?).checked_rem(12)?;
    let in_year = (month.checked_mul(153)?.checked_add(2)?).checked_div(5)?;
    let leap_days = (year.div_euclid(4))
        .checked_sub(year.div_euclid(100))?
        .checked_add(year.div_euclid(400))?;
    (year.checked_mul(365)?)
        .checked_add(leap_days)?
        .checked_add(in_year)?
        .checked_add(day)
}

/// Microseconds of `HH:MM:SS[.ffffff]`.
fn micros(text: &str) -> Option<i128> {
    let (whole, fraction) = match text.split_once('.') {
        Some((whole, fraction)) if (1..=6).contains(&fraction.len()) => (whole, fraction),
        Some(_) => return None,
        None => (text, "0"),
    };
    let mut parts = whole.split(':');
    let seconds = number(parts.next()?, 2)?
        .checked_mul(3600)?
        .checked_add(number(parts.next()?, 2)?.checked_mul(60)?)?
        .checked_add(number(parts.next()?, 2)?)?;
    if parts.next().is_some() {
        return None;
    }
    let missing = 6_u32.checked_sub(u32::try_from(fraction.len()).ok()?)?;
    let fraction = number(fraction, 1)?.checked_mul(10_i128.checked_pow(missing)?)?;
    seconds
        .checked_mul(MICROS_PER_SECOND)?
        .checked_add(fraction)
}

/// Microseconds of `HH[:MM[:SS]]`.
fn offset(text: &str) -> Option<i128> {
    let mut seconds = 0_i128;
    let mut unit = 3600_i128;
    for part in text.split(':') {
        seconds = seconds.checked_add(number(part, 2)?.checked_mul(unit)?)?;
        unit = unit.checked_div(60)?;
    }
    seconds.checked_mul(MICROS_PER_SECOND)
}

/// A number of at least this many digits, and of no more than a year can have.
fn number(text: &str, digits_min: usize) -> Option<i128> {
    let valid =
        (digits_min..=7).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    if valid { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_ordered_over_eras_and_digits() {
        let ascending = [
            "-infinity",
            "4713-01-01 00:00:00 BC",
            "0045-03-15 12:00:00 BC",
            "0001-12-31 23:59:59.999999 BC",
            "0001-01-01 00:00:00",
            "1999-12-31 23:59:59.9",
            "2000-01-01 00:00:00",
            "2000-02-29 10:00:00",
            "2000-03-01 00:00:00",
            "9999-12-31 23:59:59",
            "10000-01-01 00:00:00",
            "294276-12-31 23:59:59.999999",
            "infinity",
        ];
        let parsed: Vec<_> = ascending
            .iter()
            .map(|text| Moment::timestamp(text).unwrap())
            .collect();
        assert!(
            parsed.is_sorted_by(|left, right| left < right),
            "{parsed:?}"
        );
    }

    #[test]
    fn consecutive_days_are_a_day_apart() {
        let day = |text| match Moment::date(text).unwrap() {
            Moment::At(at) => at / MICROS_PER_DAY,
            other => panic!("{other:?}"),
        };
        for (first, second) in [
            ("1999-12-31", "2000-01-01"),
            ("2000-02-28", "2000-02-29"),
            ("2000-02-29", "2000-03-01"),
            ("1900-02-28", "1900-03-01"),
            ("0001-12-31 BC", "0001-01-01"),
            ("0001-02-28 BC", "0001-02-29 BC"),
            ("0001-02-29 BC", "0001-03-01 BC"),
            ("0002-12-31 BC", "0001-01-01 BC"),
            ("9999-12-31", "10000-01-01"),
        ] {
            assert_eq!(day(second) - day(first), 1, "{first} {second}");
        }
    }

    #[test]
    fn the_zone_does_not_count() {
        let utc = Moment::timestamptz("2024-02-03 02:05:06.789+00");
        assert!(utc.is_some());
        assert_eq!(utc, Moment::timestamptz("2024-02-03 04:05:06.789+02"));
        assert_eq!(utc, Moment::timestamptz("2024-02-02 20:35:06.789-05:30"));
        assert_eq!(
            Moment::timestamptz("0044-03-15 00:00:00+00 BC"),
            Moment::timestamptz("0044-03-15 01:00:00+01 BC")
        );
    }

    #[test]
    fn other_text_is_no_moment() {
        for text in [
            "",
            "2024",
            "2024-02-03T00:00:00",
            "2024-02-03 1:2:3",
            "2024-13-01 00:00:00",
            "b1-01-01 00:00:00 BC",
            "2024-02-03 00:00:00.1234567",
            "02/03/2024 00:00:00",
            "99999999-01-01 00:00:00",
        ] {
            assert_eq!(Moment::timestamp(text), None, "{text}");
        }
    }
}
