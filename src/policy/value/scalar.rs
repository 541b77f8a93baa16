//! Text forms of the small types: truth values, integers, floats, uuid, bytes, bit strings.

use std::fmt::Write as _;
use std::sync::Arc;

use super::{Numeric, SqlError, Value};

/// Values are not padded to more than this.
const LENGTH_MAX: usize = 100_000;

/// White space as C's `isspace` knows it.
pub(crate) const fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\x0b' | '\x0c' | '\r')
}

pub(super) fn invalid(kind: &str, text: &str) -> SqlError {
    SqlError::new(
        "22P02",
        format!("invalid input syntax for type {kind}: \"{text}\""),
    )
}

/// Hexadecimal, octal, binary digits or underscores: numbers since PostgreSQL 16, errors before.
pub(super) fn newer_number(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    lower.bytes().any(|byte| byte.is_ascii_digit())
        && (lower.contains('_')
            || ["0x", "0o", "0b"]
                .iter()
                .any(|prefix| lower.contains(prefix)))
}

pub(super) fn depends_on_version(text: &str) -> SqlError {
    SqlError::internal(&format!(
        "the number \"{text}\" depends on the version of Postgres"
    ))
}

pub(crate) fn boolean(text: &str) -> Option<bool> {
    let text = text.trim_matches(is_space).to_ascii_lowercase();
    let is = |word: &str, least: usize| text.len() >= least && word.starts_with(&text);
    if is("true", 1) || is("yes", 1) || text == "on" || text == "1" {
        Some(true)
    } else if is("false", 1) || is("no", 1) || is("off", 2) || text == "0" {
        Some(false)
    } else {
        None
    }
}

pub(crate) fn integer(text: &str, least: i64, most: i64, kind: &str) -> Result<i64, SqlError> {
    let trimmed = text.trim_matches(is_space);
    let digits = trimmed.strip_prefix(['+', '-']).unwrap_or(trimmed);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        if newer_number(text) {
            return Err(depends_on_version(text));
        }
        // Overflow is noticed before what follows the digits.
        let leading = digits.bytes().take_while(u8::is_ascii_digit).count();
        let wide = trimmed
            .get(..trimmed.len() - digits.len() + leading)
            .unwrap_or_default();
        if leading > 0
            && !wide
                .parse::<i64>()
                .is_ok_and(|value| (least..=most).contains(&value))
        {
            return Err(SqlError::internal(&format!(
                "the number \"{text}\" is both invalid and out of range"
            )));
        }
        return Err(invalid(kind, text));
    }
    match trimmed.parse::<i64>() {
        Ok(value) if (least..=most).contains(&value) => Ok(value),
        _ => Err(SqlError::new(
            "22003",
            format!("value \"{text}\" is out of range for type {kind}"),
        )),
    }
}

/// Unsigned, but negative numbers wrap around.
pub(super) fn object_id(text: &str) -> Result<i64, SqlError> {
    let value = integer(text, i64::from(i32::MIN), i64::from(u32::MAX), "oid")?;
    Ok(if value < 0 { value + (1 << 32) } else { value })
}

/// Hexadecimal digits with hyphens after any group of four, perhaps in braces.
pub(super) fn uuid(text: &str) -> Option<[u8; 16]> {
    let inner = match text.strip_prefix('{') {
        Some(rest) => rest.strip_suffix('}')?,
        None => text,
    };
    let mut bytes = [0; 16];
    let mut digits = inner.bytes().peekable();
    for (index, byte) in bytes.iter_mut().enumerate() {
        let high = char::from(digits.next()?).to_digit(16)?;
        let low = char::from(digits.next()?).to_digit(16)?;
        *byte = u8::try_from(high * 16 + low).ok()?;
        if index % 2 == 1 && index < 15 && digits.peek() == Some(&b'-') {
            digits.next();
        }
    }
    digits.next().is_none().then_some(bytes)
}

pub(super) fn uuid_text(bytes: [u8; 16]) -> String {
    let mut text = String::with_capacity(36);
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// Bits of a float; there is one NaN.
pub(crate) const fn float_bits(value: f64) -> u64 {
    if value.is_nan() {
        f64::NAN.to_bits()
    } else {
        value.to_bits()
    }
}

/// Reads a float; a `single` one is rounded to `real`.
pub(crate) fn float(text: &str, single: bool) -> Result<f64, SqlError> {
    let kind = if single { "real" } else { "double precision" };
    let inner = text.trim_matches(is_space);
    let lower = inner.to_ascii_lowercase();
    if lower.starts_with("nan") && lower != "nan" || lower.contains("0x") {
        return Err(SqlError::internal(
            "a float in a form that is left to Postgres",
        ));
    }
    let value = if single {
        inner.parse::<f32>().map(f64::from)
    } else {
        inner.parse::<f64>()
    };
    let Ok(value) = value else {
        return Err(invalid(kind, text));
    };
    let names_infinity = lower.contains("inf");
    let is_zero = lower
        .bytes()
        .take_while(|byte| *byte != b'e')
        .all(|byte| !(b'1'..=b'9').contains(&byte));
    if value.is_infinite() && !names_infinity || value == 0.0 && !is_zero {
        return Err(SqlError::new(
            "22003",
            format!("\"{text}\" is out of range for type {kind}"),
        ));
    }
    Ok(value)
}

/// The fewest digits that lie between the neighbours of a float, as `1.5e3`. Digits exactly half-way to a neighbour do
/// not count, though they read back as this float.
fn shortest(value: f64, single: bool) -> String {
    #[expect(clippy::cast_possible_truncation, reason = "kept rounded to real")]
    let narrow = value as f32;
    let found = if single {
        format!("{narrow:e}")
    } else {
        format!("{value:e}")
    };
    let digits = found
        .bytes()
        .take_while(|byte| *byte != b'e')
        .filter(u8::is_ascii_digit)
        .count();
    let reads_back = |text: &str| {
        if single {
            text.parse() == Ok(narrow)
        } else {
            text.parse() == Ok(value)
        }
    };
    // Of two that are as near the even one is wanted.
    let even = format!("{value:.places$e}", places = digits - 1);
    let found = if reads_back(&even) { even } else { found };
    // Only integers of this size can be so.
    if value.abs() < 8_388_608.0 || value.abs() > 1e41 {
        return found;
    }
    let neighbours = if single {
        [f64::from(narrow.next_up()), f64::from(narrow.next_down())]
    } else {
        [value.next_up(), value.next_down()]
    };
    let exact = |value: f64| Numeric::parse(&format!("{value:.0}")).ok();
    let is_half_way = |text: &str| {
        let half_way = |neighbour: f64| {
            let doubled = Numeric::parse(text)
                .ok()?
                .multiply(&Numeric::from(2))
                .ok()?;
            let sum = exact(value)?.add(&exact(neighbour)?).ok()?;
            Some(doubled.compare(&sum).is_eq())
        };
        neighbours
            .iter()
            .any(|neighbour| half_way(*neighbour) == Some(true))
    };
    if !is_half_way(&found) {
        return found;
    }
    let longer = (digits..17).map(|places| format!("{value:.places$e}"));
    longer
        .into_iter()
        .find(|text| reads_back(text) && !is_half_way(text))
        .unwrap_or(found)
}

/// The shortest text that reads back as the same float.
pub(crate) fn float_text(value: f64, single: bool) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value < 0.0 { "-Infinity" } else { "Infinity" }.to_owned();
    }
    let scientific = shortest(value, single);
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let (sign, mantissa) = match mantissa.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", mantissa),
    };
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    if exponent < -4 || exponent >= if single { 6 } else { 15 } {
        let sign_of_exponent = if exponent < 0 { '-' } else { '+' };
        return format!(
            "{sign}{mantissa}e{sign_of_exponent}{:02}",
            exponent.unsigned_abs()
        );
    }
    let Ok(whole) = usize::try_from(exponent) else {
        let zeros = usize::try_from(-exponent - 1).unwrap_or(0);
        return format!("{sign}0.{}{digits}", "0".repeat(zeros));
    };
    match digits.split_at_checked(whole + 1) {
        Some((whole, "")) => format!("{sign}{whole}"),
        Some((whole, fraction)) => format!("{sign}{whole}.{fraction}"),
        None => format!("{sign}{digits}{}", "0".repeat(whole + 1 - digits.len())),
    }
}

pub(super) fn bytes(text: &str) -> Result<Vec<u8>, SqlError> {
    if let Some(hex) = text.strip_prefix("\\x") {
        return decode_hex(hex);
    }
    decode_escape(text)
}

/// Pairs of hexadecimal digits, white space between them.
pub(crate) fn decode_hex(text: &str) -> Result<Vec<u8>, SqlError> {
    let error = |message: &str| SqlError::new("22023", message);
    let mut characters = text.chars();
    let mut bytes = Vec::with_capacity(text.len() / 2);
    while let Some(first) = characters.next() {
        if matches!(first, ' ' | '\n' | '\t' | '\r') {
            continue;
        }
        let high = first
            .to_digit(16)
            .ok_or_else(|| error("invalid hexadecimal digit"))?;
        let second = characters
            .next()
            .ok_or_else(|| error("invalid hexadecimal data: odd number of digits"))?;
        let low = second
            .to_digit(16)
            .ok_or_else(|| error("invalid hexadecimal digit"))?;
        bytes.push(u8::try_from(high * 16 + low).unwrap_or(0));
    }
    Ok(bytes)
}

/// Bytes with backslash escapes: `\\` and three octal digits.
pub(crate) fn decode_escape(text: &str) -> Result<Vec<u8>, SqlError> {
    let mut rest = text.as_bytes();
    let mut bytes = Vec::with_capacity(rest.len());
    loop {
        rest = match rest {
            [] => return Ok(bytes),
            [b'\\', b'\\', rest @ ..] => {
                bytes.push(b'\\');
                rest
            }
            [
                b'\\',
                a @ b'0'..=b'3',
                b @ b'0'..=b'7',
                c @ b'0'..=b'7',
                rest @ ..,
            ] => {
                bytes.push((a - b'0') * 64 + (b - b'0') * 8 + (c - b'0'));
                rest
            }
            [b'\\', ..] => return Err(invalid("bytea", text)),
            [byte, rest @ ..] => {
                bytes.push(*byte);
                rest
            }
        };
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// Bits, or hexadecimal digits after an `x`.
pub(super) fn bits(text: &str) -> Result<Vec<u8>, SqlError> {
    let invalid =
        |kind: &str| SqlError::new("22P02", format!("invalid {kind} digit in \"{text}\""));
    if let Some(hex) = text.strip_prefix(['x', 'X']) {
        let mut bits = Vec::with_capacity(hex.len() * 4);
        for digit in hex.chars() {
            let value = digit.to_digit(16).ok_or_else(|| invalid("hexadecimal"))?;
            bits.extend([8, 4, 2, 1].map(|place| u8::from(value & place != 0)));
        }
        return Ok(bits);
    }
    let digits = text.strip_prefix(['b', 'B']).unwrap_or(text);
    digits
        .chars()
        .map(|digit| match digit {
            '0' => Ok(0),
            '1' => Ok(1),
            _ => Err(invalid("binary")),
        })
        .collect()
}

/// Makes a bit string of `length` bits (`varying`: at most so many). Explicit casts cut and fill.
pub(crate) fn sized_bits(
    bits: &Arc<[u8]>,
    length: i32,
    varying: bool,
    explicit: bool,
) -> Result<Value, SqlError> {
    let Some(length) = usize::try_from(length).ok().filter(|length| *length > 0) else {
        return Ok(Value::Bits(Arc::clone(bits)));
    };
    if bits.len() == length || varying && bits.len() < length {
        return Ok(Value::Bits(Arc::clone(bits)));
    }
    if length > LENGTH_MAX {
        return Err(SqlError::internal("a length that is left to Postgres"));
    }
    if !explicit {
        let sqlstate = if varying { "22001" } else { "22026" };
        return Err(SqlError::new(
            sqlstate,
            "bit string length does not match the type",
        ));
    }
    let mut sized = bits.to_vec();
    sized.resize(length, 0);
    Ok(Value::Bits(sized.into()))
}

/// Cuts a name to the 63 bytes that names have.
pub(crate) fn name(text: &str) -> &str {
    if text.len() < 64 {
        text
    } else {
        text.get(..text.floor_char_boundary(63)).unwrap_or_default()
    }
}

/// Makes text of `varchar(n)` or (`padded`) `bpchar(n)`, without a limit for lengths below 1.
pub(crate) fn sized_text(
    text: &Arc<str>,
    typmod: i32,
    padded: bool,
    explicit: bool,
) -> Result<Value, SqlError> {
    let Some(length) = usize::try_from(typmod.saturating_sub(4)).ok() else {
        return Ok(Value::Text(Arc::clone(text)));
    };
    let own = text.chars().count();
    if length > LENGTH_MAX && own < length && padded {
        return Err(SqlError::internal("a length that is left to Postgres"));
    }
    if own <= length {
        if !padded || own == length {
            return Ok(Value::Text(Arc::clone(text)));
        }
        return Ok(Value::text(&format!("{text}{}", " ".repeat(length - own))));
    }
    let end = text
        .char_indices()
        .nth(length)
        .map_or(text.len(), |(at, _)| at);
    let (kept, cut) = text.split_at_checked(end).unwrap_or((text, ""));
    if !explicit && cut.bytes().any(|byte| byte != b' ') {
        let kind = if padded {
            "character"
        } else {
            "character varying"
        };
        return Err(SqlError::new(
            "22001",
            format!("value too long for type {kind}({length})"),
        ));
    }
    Ok(Value::text(kept))
}
