//! Numbers: `to_jsonb` prints all of them as `numeric` does, that is, in full and without exponent.

use super::Malformed;
use super::scan::Scan;

/// Appends an integer as it stands.
pub(super) fn integer(out: &mut Vec<u8>, text: &[u8]) -> Result<(), Malformed> {
    let mut scan = Scan::new(text);
    scan.accept(b'-');
    whole_digits(&mut scan)?;
    scan.end()?;
    out.extend_from_slice(text);
    Ok(())
}

/// Appends a decimal number that may have an exponent. Keeps its scale: `1.50` has two digits, `1.50e1` has one.
///
/// An exponent that would take more than `zeros_left` zeros stays an exponent.
pub(super) fn decimal(
    out: &mut Vec<u8>,
    text: &[u8],
    zeros_left: &mut usize,
) -> Result<(), Malformed> {
    let mut scan = Scan::new(text);
    let negative = scan.accept(b'-');
    let whole = whole_digits(&mut scan)?;
    let fraction = if scan.accept(b'.') {
        some_digits(&mut scan)?
    } else {
        b""
    };
    let exponent = if scan.accept(b'e') || scan.accept(b'E') {
        Some(exponent(&mut scan)?)
    } else {
        None
    };
    scan.end()?;
    let is_zero = whole.iter().chain(fraction).all(|digit| *digit == b'0');
    if exponent.is_none() && !(negative && is_zero) {
        out.extend_from_slice(text);
        return Ok(());
    }
    let shift = exponent.unwrap_or(0);
    let zeros = usize::try_from(shift.unsigned_abs()).unwrap_or(usize::MAX);
    let Some(left) = zeros_left.checked_sub(zeros) else {
        out.extend_from_slice(text);
        return Ok(());
    };
    *zeros_left = left;
    // A `numeric` has no negative zero.
    if negative && !is_zero {
        out.push(b'-');
    }
    if shift >= 0 {
        shift_left(out, whole, fraction, zeros);
    } else {
        shift_right(out, whole, fraction, zeros);
    }
    Ok(())
}

/// `whole.fraction` times ten to the `places`.
fn shift_left(out: &mut Vec<u8>, whole: &[u8], fraction: &[u8], places: usize) {
    let (moved, fraction) = fraction.split_at_checked(places).unwrap_or((fraction, b""));
    let digits = whole.iter().chain(moved).copied();
    let padding = std::iter::repeat_n(b'0', places.saturating_sub(moved.len()));
    let start = out.len();
    out.extend(digits.chain(padding).skip_while(|digit| *digit == b'0'));
    if out.len() == start {
        out.push(b'0');
    }
    push_fraction(out, fraction);
}

/// `whole.fraction` divided by ten to the `places`.
fn shift_right(out: &mut Vec<u8>, whole: &[u8], fraction: &[u8], places: usize) {
    let kept = whole.len().saturating_sub(places);
    let (whole, moved) = whole.split_at_checked(kept).unwrap_or((whole, b""));
    out.extend_from_slice(if whole.is_empty() { b"0" } else { whole });
    out.push(b'.');
    let zeros = places.saturating_sub(moved.len());
    out.resize(out.len().saturating_add(zeros), b'0');
    out.extend_from_slice(moved);
    out.extend_from_slice(fraction);
}

fn push_fraction(out: &mut Vec<u8>, fraction: &[u8]) {
    if !fraction.is_empty() {
        out.push(b'.');
        out.extend_from_slice(fraction);
    }
}

/// Digits as JSON wants them before the point: at least one, and no leading zero.
fn whole_digits<'a>(scan: &mut Scan<'a>) -> Result<&'a [u8], Malformed> {
    match some_digits(scan)? {
        [b'0', _, ..] => Err(Malformed),
        digits => Ok(digits),
    }
}

fn some_digits<'a>(scan: &mut Scan<'a>) -> Result<&'a [u8], Malformed> {
    match scan.take_while(|byte| byte.is_ascii_digit()) {
        [] => Err(Malformed),
        digits => Ok(digits),
    }
}

/// The exponent, saturated: nobody unfolds one that large.
fn exponent(scan: &mut Scan<'_>) -> Result<i64, Malformed> {
    let negative = scan.accept(b'-');
    if !negative {
        scan.accept(b'+');
    }
    let digits = some_digits(scan)?;
    let size = digits.iter().fold(0_i64, |size, digit| {
        size.saturating_mul(10)
            .saturating_add(i64::from(digit.wrapping_sub(b'0')))
    });
    Ok(if negative {
        size.saturating_neg()
    } else {
        size
    })
}
