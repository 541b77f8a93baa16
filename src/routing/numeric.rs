//! Numbers of any size, read from `numeric`'s text form and ordered as Postgres orders them (Postgres manual,
//! "Numeric Types"). No rounding takes place.

use std::cmp::Reverse;

/// A `numeric`. Values that Postgres holds equal are equal here, whatever their scale. The variants stand in order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Numeric {
    /// `-Infinity`
    NegativeInfinity,
    /// Below zero: the larger the magnitude, the smaller the number.
    Negative(Reverse<Magnitude>),
    /// Zero, of any scale.
    Zero,
    /// Above zero.
    Positive(Magnitude),
    /// `Infinity`
    Infinity,
    /// `NaN`: equal to itself and greater than everything.
    NaN,
}

/// `0.digits × 10^exponent`, with neither leading nor trailing zeros in `digits`, so that the derived order is the
/// numbers'.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Magnitude {
    exponent: i64,
    digits: Box<str>,
}

impl Numeric {
    /// Reads what `numeric_out` prints; `None` for any other text.
    pub(super) fn parse(text: &str) -> Option<Self> {
        match text {
            "NaN" => return Some(Self::NaN),
            "Infinity" => return Some(Self::Infinity),
            "-Infinity" => return Some(Self::NegativeInfinity),
            _ => {}
        }
        let (negative, unsigned) = match text.strip_prefix('-') {
            Some(unsigned) => (true, unsigned),
            None => (false, text),
        };
        let (whole, fraction) = match unsigned.split_once('.') {
            Some((whole, fraction)) if !fraction.is_empty() => (whole, fraction),
            Some(_) => return None,
            None => (unsigned, ""),
        };
        let is_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || !is_digits(whole) || !is_digits(fraction) {
            return None;
        }
        let whole = whole.trim_start_matches('0');
        let fraction = fraction.trim_end_matches('0');
        let (exponent, digits) = if whole.is_empty() {
            let digits = fraction.trim_start_matches('0');
            let leading = fraction.len().checked_sub(digits.len())?;
            (
                i64::try_from(leading).ok()?.checked_neg()?,
                digits.to_owned(),
            )
        } else {
            let digits = format!("{whole}{fraction}");
            (
                i64::try_from(whole.len()).ok()?,
                digits.trim_end_matches('0').to_owned(),
            )
        };
        if digits.is_empty() {
            return Some(Self::Zero);
        }
        let magnitude = Magnitude {
            exponent,
            digits: digits.into(),
        };
        Some(if negative {
            Self::Negative(Reverse(magnitude))
        } else {
            Self::Positive(magnitude)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_that_of_numbers() {
        let ascending = [
            "-Infinity",
            "-100.5",
            "-100",
            "-99",
            "-1.01",
            "-1",
            "-0.1",
            "-0.09",
            "0",
            "0.001",
            "0.0099",
            "0.01",
            "0.1",
            "0.11",
            "1",
            "1.5",
            "9",
            "10",
            "10.01",
            "99",
            "100",
            "123456789012345678901234567890",
            "Infinity",
            "NaN",
        ];
        let parsed: Vec<_> = ascending
            .iter()
            .map(|text| Numeric::parse(text).unwrap())
            .collect();
        for (index, left) in parsed.iter().enumerate() {
            for (other, right) in parsed.iter().enumerate() {
                assert_eq!(left.cmp(right), index.cmp(&other), "{index} {other}");
            }
        }
    }

    #[test]
    fn scale_does_not_count() {
        assert_eq!(Numeric::parse("1.50"), Numeric::parse("1.5"));
        assert_eq!(Numeric::parse("100"), Numeric::parse("100.000"));
        assert_eq!(Numeric::parse("-0.00"), Numeric::parse("0"));
        assert_eq!(Numeric::parse("00.10"), Numeric::parse("0.1"));
    }

    #[test]
    fn other_text_is_no_number() {
        for text in [
            "", "-", ".", "1.", ".5", "1e5", "+1", "0x10", "1 ", "nan", "1.2.3",
        ] {
            assert_eq!(Numeric::parse(text), None, "{text}");
        }
    }
}
