//! `numeric`: exact decimal numbers with a display scale.
//!
//! Arithmetic is on decimal digits, with the result scales of Postgres' `numeric.c`.

use std::cmp::Ordering;
use std::fmt;

use super::SqlError;

/// Decimal places that a value may have.
const SCALE_MAX: usize = 16_383;
/// Digits that a value may have before its decimal point.
const INTEGRAL_MAX: usize = 131_072;
/// Decimal places that a division may choose by itself.
const DIVISION_SCALE_MAX: i64 = 1_000;

/// A `numeric` value: exact, with its display scale. `Eq` and `Hash` tell `1.0` from `1.00`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Numeric {
    /// Not a number: equal to itself, greater than all others.
    Nan,
    /// An infinity; `true`: the negative one.
    Infinite(bool),
    /// A number.
    Finite(Decimal),
}

/// A finite number: `digits` × 10^-`scale`, negated if `negative`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Decimal {
    negative: bool,
    /// Each 0–9, the first one not 0; empty is zero, which is not negative.
    digits: Box<[u8]>,
    scale: usize,
}

fn overflow() -> SqlError {
    SqlError::new("22003", "value overflows numeric format")
}

/// Without leading zeros.
fn trimmed(digits: &[u8]) -> &[u8] {
    let zeros = digits.iter().take_while(|digit| **digit == 0).count();
    digits.get(zeros..).unwrap_or_default()
}

fn compare_digits(a: &[u8], b: &[u8]) -> Ordering {
    let (a, b) = (trimmed(a), trimmed(b));
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}

fn add_digits(a: &[u8], b: &[u8]) -> Vec<u8> {
    let mut sum = Vec::with_capacity(a.len().max(b.len()) + 1);
    let (mut a, mut b, mut carry) = (a.iter().rev(), b.iter().rev(), 0);
    loop {
        let (x, y) = (a.next(), b.next());
        if x.is_none() && y.is_none() {
            break;
        }
        let digit = x.unwrap_or(&0) + y.unwrap_or(&0) + carry;
        sum.push(digit % 10);
        carry = digit / 10;
    }
    sum.push(carry);
    sum.reverse();
    sum
}

/// `a` must not be less than `b`.
fn subtract_digits(a: &[u8], b: &[u8]) -> Vec<u8> {
    let mut difference = Vec::with_capacity(a.len());
    let (mut b, mut borrow) = (b.iter().rev(), 0);
    for x in a.iter().rev() {
        let y = b.next().unwrap_or(&0) + borrow;
        borrow = u8::from(*x < y);
        difference.push(x + 10 * borrow - y);
    }
    difference.reverse();
    difference
}

fn multiply_digits(a: &[u8], b: &[u8]) -> Vec<u8> {
    let mut sums = vec![0_u64; a.len() + b.len()];
    for (i, x) in a.iter().rev().enumerate() {
        for (sum, y) in sums.iter_mut().skip(i).zip(b.iter().rev()) {
            *sum += u64::from(*x) * u64::from(*y);
        }
    }
    let mut carry = 0;
    let mut digits: Vec<u8> = sums
        .into_iter()
        .map(|sum| {
            let all = sum + carry;
            carry = all / 10;
            u8::try_from(all % 10).unwrap_or(0)
        })
        .collect();
    digits.reverse();
    digits
}

/// Quotient and remainder; `b` is not zero.
fn divide_digits(a: &[u8], b: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let b = trimmed(b);
    let mut quotient = Vec::with_capacity(a.len());
    let mut rest: Vec<u8> = Vec::with_capacity(b.len() + 1);
    for digit in a {
        if !rest.is_empty() || *digit != 0 {
            rest.push(*digit);
        }
        let mut times = 0;
        while compare_digits(&rest, b).is_ge() {
            rest = trimmed(&subtract_digits(&rest, b)).to_vec();
            times += 1;
        }
        quotient.push(times);
    }
    (quotient, rest)
}

impl Decimal {
    fn new(negative: bool, digits: &[u8], scale: usize) -> Self {
        let digits = trimmed(digits);
        Self {
            negative: negative && !digits.is_empty(),
            digits: digits.into(),
            scale,
        }
    }

    fn checked(self) -> Result<Numeric, SqlError> {
        if self.scale > SCALE_MAX || self.digits.len() > self.scale + INTEGRAL_MAX {
            return Err(overflow());
        }
        Ok(Numeric::Finite(self))
    }

    /// Digits as of a larger scale.
    fn widened(&self, scale: usize) -> Vec<u8> {
        let mut digits = self.digits.to_vec();
        digits.resize(digits.len() + scale.saturating_sub(self.scale), 0);
        digits
    }

    fn add(&self, other: &Self) -> Self {
        let scale = self.scale.max(other.scale);
        let (a, b) = (self.widened(scale), other.widened(scale));
        if self.negative == other.negative {
            return Self::new(self.negative, &add_digits(&a, &b), scale);
        }
        match compare_digits(&a, &b) {
            Ordering::Less => Self::new(other.negative, &subtract_digits(&b, &a), scale),
            _ => Self::new(self.negative, &subtract_digits(&a, &b), scale),
        }
    }

    fn negated(&self) -> Self {
        Self::new(!self.negative, &self.digits, self.scale)
    }

    /// Rounds (half away from zero) or cuts to `places` decimal places, which may be negative.
    fn at_scale(&self, places: i64, rounding: bool) -> Self {
        let shown = usize::try_from(places).unwrap_or(0);
        let own = i64::try_from(self.scale).unwrap_or(i64::MAX);
        let dropped = own - places;
        if dropped <= 0 {
            return Self::new(self.negative, &self.widened(shown), shown);
        }
        let dropped = usize::try_from(dropped).unwrap_or(usize::MAX);
        let kept = self.digits.len().saturating_sub(dropped);
        let mut digits = self.digits.get(..kept).unwrap_or_default().to_vec();
        let next = match self.digits.len().checked_sub(dropped) {
            Some(at) => self.digits.get(at).copied().unwrap_or(0),
            None => 0,
        };
        if rounding && next >= 5 {
            digits = add_digits(&digits, &[1]);
        }
        let zeros = usize::try_from(places.saturating_neg()).unwrap_or(0);
        if !digits.is_empty() {
            digits.resize(digits.len() + zeros, 0);
        }
        Self::new(self.negative, &digits, shown)
    }

    /// Place of the first digit and its value, both to base 10000, as Postgres stores it.
    fn leading(&self) -> (i64, i64) {
        if self.digits.is_empty() {
            return (0, 0);
        }
        let length = i64::try_from(self.digits.len()).unwrap_or(i64::MAX);
        let scale = i64::try_from(self.scale).unwrap_or(i64::MAX);
        let exponent = length - 1 - scale;
        let weight = exponent.div_euclid(4);
        let count = usize::try_from(exponent.rem_euclid(4) + 1).unwrap_or(1);
        let digits = self.digits.iter().copied().chain(std::iter::repeat(0));
        let first = digits
            .take(count)
            .fold(0, |sum, digit| sum * 10 + i64::from(digit));
        (weight, first)
    }

    fn divide(&self, by: &Self) -> Self {
        let ((weight_a, first_a), (weight_b, first_b)) = (self.leading(), by.leading());
        let weight = weight_a - weight_b - i64::from(first_a <= first_b);
        let least = i64::try_from(self.scale.max(by.scale)).unwrap_or(0);
        let scale = (16 - weight * 4).max(least).clamp(0, DIVISION_SCALE_MAX);
        let scale = usize::try_from(scale).unwrap_or(0);
        // One more digit, to round by.
        let shift = scale + 1 + by.scale;
        let (quotient, _) = if shift >= self.scale {
            divide_digits(&self.widened(shift), &by.digits)
        } else {
            let mut divisor = by.digits.to_vec();
            divisor.resize(divisor.len() + self.scale - shift, 0);
            divide_digits(&self.digits, &divisor)
        };
        let places = i64::try_from(scale).unwrap_or(0);
        Self::new(self.negative != by.negative, &quotient, scale + 1).at_scale(places, true)
    }

    fn compare(&self, other: &Self) -> Ordering {
        match (self.negative, other.negative) {
            (true, false) => return Ordering::Less,
            (false, true) => return Ordering::Greater,
            _ => {}
        }
        let scale = self.scale.max(other.scale);
        let order = compare_digits(&self.widened(scale), &other.widened(scale));
        if self.negative {
            order.reverse()
        } else {
            order
        }
    }
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::with_capacity(self.digits.len() + 3);
        if self.negative {
            text.push('-');
        }
        let whole = self.digits.len().saturating_sub(self.scale);
        if whole == 0 {
            text.push('0');
        }
        let zeros = self.scale.saturating_sub(self.digits.len());
        for (index, digit) in self.digits.iter().enumerate() {
            if index == whole {
                text.push('.');
                text.extend(std::iter::repeat_n('0', zeros));
            }
            text.push(char::from(b'0' + digit));
        }
        if self.digits.len() <= whole && self.scale > 0 {
            text.push('.');
            text.extend(std::iter::repeat_n('0', self.scale));
        }
        f.write_str(&text)
    }
}

impl fmt::Display for Numeric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nan => f.write_str("NaN"),
            Self::Infinite(true) => f.write_str("-Infinity"),
            Self::Infinite(false) => f.write_str("Infinity"),
            Self::Finite(number) => number.fmt(f),
        }
    }
}

impl From<i64> for Numeric {
    fn from(value: i64) -> Self {
        let digits: Vec<u8> = value
            .unsigned_abs()
            .to_string()
            .bytes()
            .map(|b| b - b'0')
            .collect();
        Self::Finite(Decimal::new(value < 0, &digits, 0))
    }
}

impl Numeric {
    /// Reads a number as `numeric_in` does.
    pub(crate) fn parse(text: &str) -> Result<Self, SqlError> {
        let invalid = || {
            SqlError::new(
                "22P02",
                format!("invalid input syntax for type numeric: \"{text}\""),
            )
        };
        let inner = text.trim_matches(super::is_space);
        let (negative, body) = match inner.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, inner.strip_prefix('+').unwrap_or(inner)),
        };
        match body.to_ascii_lowercase().as_str() {
            "nan" if body.len() == inner.len() => return Ok(Self::Nan),
            "infinity" | "inf" => return Ok(Self::Infinite(negative)),
            _ => {}
        }
        let (mantissa, exponent) = match body.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, Some(exponent)),
            None => (body, None),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let is_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if !is_digits(whole) || !is_digits(fraction) || (whole.is_empty() && fraction.is_empty()) {
            if super::newer_number(text) {
                return Err(super::depends_on_version(text));
            }
            return Err(invalid());
        }
        let exponent = match exponent {
            None => 0,
            Some(exponent) => {
                let digits = exponent.strip_prefix(['-', '+']).unwrap_or(exponent);
                if digits.is_empty() || !is_digits(digits) {
                    if super::newer_number(text) {
                        return Err(super::depends_on_version(text));
                    }
                    return Err(invalid());
                }
                exponent
                    .parse::<i64>()
                    .ok()
                    .filter(|e| e.abs() < 1_073_741_823)
                    .ok_or_else(overflow)?
            }
        };
        let mut digits: Vec<u8> = whole
            .bytes()
            .chain(fraction.bytes())
            .map(|byte| byte - b'0')
            .collect();
        let scale = i64::try_from(fraction.len()).unwrap_or(i64::MAX) - exponent;
        let is_zero = digits.iter().all(|digit| *digit == 0);
        if is_zero {
            digits.clear();
        }
        if scale < 0 && !is_zero {
            let zeros = usize::try_from(-scale).unwrap_or(usize::MAX);
            if zeros > INTEGRAL_MAX {
                return Err(overflow());
            }
            digits.resize(digits.len() + zeros, 0);
        }
        Decimal::new(negative, &digits, usize::try_from(scale).unwrap_or(0)).checked()
    }

    /// Applies the modifier of `numeric(p, s)`; -1 leaves the value alone.
    pub(crate) fn with_typmod(self, typmod: i32) -> Result<Self, SqlError> {
        let failed = || SqlError::new("22003", "numeric field overflow");
        if typmod < 4 {
            return Ok(self);
        }
        let packed = typmod - 4;
        let precision = i64::from(packed >> 16 & 0xffff);
        let scale = i64::from((packed & 0x7ff ^ 0x400) - 0x400);
        let number = match &self {
            Self::Nan => return Ok(self),
            Self::Infinite(_) => return Err(failed()),
            Self::Finite(number) => number.at_scale(scale, true),
        };
        let integral = i64::try_from(number.digits.len()).unwrap_or(i64::MAX)
            - i64::try_from(number.scale).unwrap_or(0);
        if !number.digits.is_empty() && integral > precision - scale {
            return Err(failed());
        }
        Ok(Self::Finite(number))
    }

    /// Without trailing zeros: equal numbers become the same.
    pub(crate) fn canonical(&self) -> Self {
        let Self::Finite(number) = self else {
            return self.clone();
        };
        let zeros = number
            .digits
            .iter()
            .rev()
            .take_while(|digit| **digit == 0)
            .count()
            .min(number.scale);
        if number.digits.is_empty() {
            return Self::Finite(Decimal::new(false, &[], 0));
        }
        let kept = number
            .digits
            .get(..number.digits.len() - zeros)
            .unwrap_or_default();
        Self::Finite(Decimal::new(number.negative, kept, number.scale - zeros))
    }

    pub(crate) fn compare(&self, other: &Self) -> Ordering {
        let rank = |value: &Self| match value {
            Self::Nan => 3,
            Self::Infinite(false) => 2,
            Self::Finite(_) => 1,
            Self::Infinite(true) => 0,
        };
        match (self, other) {
            (Self::Finite(a), Self::Finite(b)) => a.compare(b),
            _ => rank(self).cmp(&rank(other)),
        }
    }

    /// -1, 0 or 1; `None` for NaN.
    pub(crate) fn signum(&self) -> Option<i64> {
        match self {
            Self::Nan => None,
            Self::Infinite(negative) => Some(if *negative { -1 } else { 1 }),
            Self::Finite(number) if number.digits.is_empty() => Some(0),
            Self::Finite(number) => Some(if number.negative { -1 } else { 1 }),
        }
    }

    pub(crate) fn negated(&self) -> Self {
        match self {
            Self::Nan => Self::Nan,
            Self::Infinite(negative) => Self::Infinite(!negative),
            Self::Finite(number) => Self::Finite(number.negated()),
        }
    }

    pub(crate) fn abs(&self) -> Self {
        if self.signum() == Some(-1) {
            self.negated()
        } else {
            self.clone()
        }
    }

    pub(crate) fn add(&self, other: &Self) -> Result<Self, SqlError> {
        match (self, other) {
            (Self::Finite(a), Self::Finite(b)) => a.add(b).checked(),
            (Self::Infinite(a), Self::Infinite(b)) if a == b => Ok(self.clone()),
            (Self::Nan, _) | (_, Self::Nan) | (Self::Infinite(_), Self::Infinite(_)) => {
                Ok(Self::Nan)
            }
            (Self::Infinite(_), _) => Ok(self.clone()),
            (_, Self::Infinite(_)) => Ok(other.clone()),
        }
    }

    pub(crate) fn subtract(&self, other: &Self) -> Result<Self, SqlError> {
        self.add(&other.negated())
    }

    pub(crate) fn multiply(&self, other: &Self) -> Result<Self, SqlError> {
        if let (Self::Finite(a), Self::Finite(b)) = (self, other) {
            let product = multiply_digits(&a.digits, &b.digits);
            let product = Decimal::new(a.negative != b.negative, &product, a.scale + b.scale);
            return match product.scale {
                0..=SCALE_MAX => product.checked(),
                _ => product
                    .at_scale(i64::try_from(SCALE_MAX).unwrap_or(0), true)
                    .checked(),
            };
        }
        match (self.signum(), other.signum()) {
            (Some(a), Some(b)) if a * b != 0 => Ok(Self::Infinite(a * b < 0)),
            _ => Ok(Self::Nan),
        }
    }

    pub(crate) fn divide(&self, by: &Self) -> Result<Self, SqlError> {
        match (self, by) {
            (Self::Nan, _) | (_, Self::Nan) | (Self::Infinite(_), Self::Infinite(_)) => {
                Ok(Self::Nan)
            }
            _ if by.signum() == Some(0) => Err(SqlError::new("22012", "division by zero")),
            (Self::Finite(a), Self::Finite(b)) => a.divide(b).checked(),
            (Self::Infinite(a), _) => Ok(Self::Infinite(*a != (by.signum() == Some(-1)))),
            (_, Self::Infinite(_)) => Ok(Self::from(0)),
        }
    }

    pub(crate) fn remainder(&self, by: &Self) -> Result<Self, SqlError> {
        match (self, by) {
            (Self::Nan, _) | (_, Self::Nan) => Ok(Self::Nan),
            (Self::Infinite(_), _) if by.signum() != Some(0) => Ok(Self::Nan),
            _ if by.signum() == Some(0) => Err(SqlError::new("22012", "division by zero")),
            (Self::Finite(a), Self::Finite(b)) => {
                let scale = a.scale.max(b.scale);
                let (_, rest) = divide_digits(&a.widened(scale), &b.widened(scale));
                Ok(Self::Finite(Decimal::new(a.negative, &rest, scale)))
            }
            _ => Ok(self.clone()),
        }
    }

    /// Rounds half away from zero, or cuts, to so many decimal places.
    pub(crate) fn at_scale(&self, places: i64, rounding: bool) -> Result<Self, SqlError> {
        match self {
            Self::Finite(_) if places.abs() > 1_000 => Err(SqlError::internal(
                "rounding to so many digits is left to Postgres",
            )),
            Self::Finite(number) => number.at_scale(places, rounding).checked(),
            other => Ok(other.clone()),
        }
    }

    /// The next integer below (`up`: above).
    pub(crate) fn integral(&self, up: bool) -> Result<Self, SqlError> {
        let Self::Finite(number) = self else {
            return Ok(self.clone());
        };
        let cut = Self::Finite(number.at_scale(0, false));
        match cut.compare(self) {
            Ordering::Equal => Ok(cut),
            _ if number.negative == up => Ok(cut),
            _ => cut.add(&Self::from(if up { 1 } else { -1 })),
        }
    }

    /// The nearest integer within the bounds.
    pub(crate) fn to_integer(&self, least: i64, most: i64, kind: &str) -> Result<i64, SqlError> {
        let Self::Finite(number) = self else {
            return Err(SqlError::new(
                "0A000",
                format!("cannot convert {self} to {kind}"),
            ));
        };
        let rounded = number.at_scale(0, true).to_string().parse::<i64>();
        rounded
            .ok()
            .filter(|value| (least..=most).contains(value))
            .ok_or_else(|| SqlError::new("22003", format!("{kind} out of range")))
    }

    /// Decimal places; `None` for what is no number.
    pub(crate) fn scale(&self) -> Option<usize> {
        match self {
            Self::Finite(number) => Some(number.scale),
            _ => None,
        }
    }
}
