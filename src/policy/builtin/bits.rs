//! Bit strings and bytes: operators, parts, encodings, hashes.

use std::sync::Arc;

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use sha2::Digest as _;

use super::{Builtin, Call, strict};
use crate::policy::value::scalar::{decode_escape, decode_hex, hex};
use crate::policy::value::{SqlError, Value, with_typmod};

pub(super) fn scalar(function: u32) -> Option<&'static Builtin> {
    bit_strings(function)
        .or_else(|| bytes(function))
        .or_else(|| coding(function))
}

fn length(count: usize) -> Value {
    Value::Int(i64::try_from(count).unwrap_or(i64::MAX))
}

fn paired(call: &Call<'_>, combine: fn(u8, u8) -> u8) -> Result<Value, SqlError> {
    let (a, b) = (call.bits(0)?, call.bits(1)?);
    if a.len() != b.len() {
        return Err(SqlError::new(
            "22026",
            "cannot combine bit strings of different sizes",
        ));
    }
    Ok(Value::Bits(
        a.iter()
            .zip(b.iter())
            .map(|(a, b)| combine(*a, *b))
            .collect(),
    ))
}

/// Moves bits to the left; zeros come in.
fn shifted(call: &Call<'_>, right: bool) -> Result<Value, SqlError> {
    let (bits, by) = (call.bits(0)?, *call.int(1)?);
    let by = if right { -by } else { by };
    let count = i64::try_from(bits.len()).unwrap_or(i64::MAX);
    let moved = (0..count).map(|place| {
        let from = place
            .checked_add(by)
            .and_then(|from| usize::try_from(from).ok());
        from.and_then(|from| bits.get(from)).copied().unwrap_or(0)
    });
    Ok(Value::Bits(moved.collect()))
}

fn subscript() -> SqlError {
    SqlError::new("2202E", "index out of valid range")
}

/// Elements `start` to `start + length`, counted from 1, of what may begin before the first.
fn part(items: &[u8], call: &Call<'_>) -> Result<Arc<[u8]>, SqlError> {
    let start = *call.int(1)?;
    let end = match call.args.get(2) {
        None => i64::MAX,
        Some(_) => {
            let length = *call.int(2)?;
            if length < 0 {
                return Err(SqlError::new(
                    "22011",
                    "negative substring length not allowed",
                ));
            }
            start.saturating_add(length)
        }
    };
    let at = |place: i64| {
        usize::try_from(place.max(1) - 1)
            .unwrap_or(0)
            .min(items.len())
    };
    Ok(items
        .get(at(start)..at(end).max(at(start)))
        .unwrap_or_default()
        .into())
}

fn position(items: &[u8], wanted: &[u8]) -> Value {
    if wanted.is_empty() {
        return Value::Int(1);
    }
    let place = items
        .windows(wanted.len())
        .position(|window| window == wanted);
    place.map_or(Value::Int(0), |place| length(place + 1))
}

/// The lowest bits of a number, or its sign in front of them.
fn number_bits(call: &Call<'_>, width: usize) -> Result<Value, SqlError> {
    let number = *call.int(0)?;
    let count = usize::try_from(*call.int(1)?)
        .ok()
        .filter(|count| *count > 0)
        .unwrap_or(1);
    if count > 4096 {
        return Err(SqlError::internal(
            "a bit string this long is left to Postgres",
        ));
    }
    let bit = |place: usize| u8::from(number >> place.min(width - 1) & 1 != 0);
    Ok(Value::Bits((0..count).rev().map(bit).collect()))
}

fn bits_number(call: &Call<'_>, width: usize) -> Result<Value, SqlError> {
    let bits = call.bits(0)?;
    if bits.len() > width {
        return Err(SqlError::new("22003", "bit string does not fit an integer"));
    }
    // Short ones are not negative.
    let value = bits
        .iter()
        .fold(0_i64, |value, bit| value << 1 | i64::from(*bit));
    Ok(Value::Int(if width == 32 {
        value << 32 >> 32
    } else {
        value
    }))
}

fn bit_strings(function: u32) -> Option<&'static Builtin> {
    Some(match function {
        1673 => strict!(|call| paired(call, |a, b| a & b)),
        1674 => strict!(|call| paired(call, |a, b| a | b)),
        1675 => strict!(|call| paired(call, |a, b| a ^ b)),
        1676 => strict!(|call| Ok(Value::Bits(
            call.bits(0)?.iter().map(|bit| 1 - bit).collect()
        ))),
        1677 => strict!(|call| shifted(call, false)),
        1678 => strict!(|call| shifted(call, true)),
        1679 => strict!(|call| Ok(Value::Bits(
            call.bits(0)?
                .iter()
                .chain(call.bits(1)?.iter())
                .copied()
                .collect()
        ))),
        1681 | 1812 => strict!(|call| Ok(length(call.bits(0)?.len()))),
        1682 => strict!(|call| Ok(length(call.bits(0)?.len().div_ceil(8)))),
        1680 | 1699 => strict!(|call| Ok(Value::Bits(part(call.bits(0)?, call)?))),
        1698 => strict!(|call| {
            let (bits, wanted) = (call.bits(0)?, call.bits(1)?);
            // Within nothing, nothing is found.
            Ok(if bits.is_empty() {
                Value::Int(0)
            } else {
                position(bits, wanted)
            })
        }),
        6162 => strict!(|call| Ok(length(
            call.bits(0)?.iter().filter(|bit| **bit == 1).count()
        ))),
        3032 => strict!(|call| {
            let place = usize::try_from(*call.int(1)?).ok();
            let bit = place.and_then(|place| call.bits(0).ok()?.get(place).copied());
            bit.map(|bit| Value::Int(i64::from(bit)))
                .ok_or_else(subscript)
        }),
        3033 => strict!(|call| {
            let (mut bits, bit) = (call.bits(0)?.to_vec(), *call.int(2)?);
            let place = usize::try_from(*call.int(1)?).ok();
            let target = place
                .and_then(|place| bits.get_mut(place))
                .ok_or_else(subscript)?;
            *target = match bit {
                0 => 0,
                1 => 1,
                _ => return Err(SqlError::new("22023", "new bit must be 0 or 1")),
            };
            Ok(Value::Bits(bits.into()))
        }),
        1685 | 1687 => strict!(|call| {
            let typmod = i32::try_from(*call.int(1)?).unwrap_or(-1);
            with_typmod(
                call.types,
                call.result,
                typmod,
                call.any(0)?.clone(),
                *call.bool(2)?,
            )
        }),
        1683 => strict!(|call| number_bits(call, 32)),
        2075 => strict!(|call| number_bits(call, 64)),
        1684 => strict!(|call| bits_number(call, 32)),
        2076 => strict!(|call| bits_number(call, 64)),
        _ => return None,
    })
}

fn trimmed(call: &Call<'_>, left: bool, right: bool) -> Result<Value, SqlError> {
    let (mut bytes, set) = (&**call.bytes(0)?, call.bytes(1)?);
    while let [first, rest @ ..] = bytes
        && left
        && set.contains(first)
    {
        bytes = rest;
    }
    while let [rest @ .., last] = bytes
        && right
        && set.contains(last)
    {
        bytes = rest;
    }
    Ok(Value::Bytes(bytes.into()))
}

fn bytes(function: u32) -> Option<&'static Builtin> {
    Some(match function {
        720 | 2010 => strict!(|call| Ok(length(call.bytes(0)?.len()))),
        1810 => strict!(|call| Ok(length(call.bytes(0)?.len() * 8))),
        2011 => strict!(|call| Ok(Value::Bytes(
            call.bytes(0)?
                .iter()
                .chain(call.bytes(1)?.iter())
                .copied()
                .collect()
        ))),
        2012 | 2013 | 2085 | 2086 => strict!(|call| Ok(Value::Bytes(part(call.bytes(0)?, call)?))),
        2014 => strict!(|call| Ok(position(call.bytes(0)?, call.bytes(1)?))),
        721 => strict!(|call| {
            let place = usize::try_from(*call.int(1)?).ok();
            let byte = place.and_then(|place| call.bytes(0).ok()?.get(place).copied());
            byte.map(|byte| Value::Int(i64::from(byte)))
                .ok_or_else(subscript)
        }),
        723 => strict!(|call| {
            let place = usize::try_from(*call.int(1)?).ok();
            let byte =
                place.and_then(|place| Some((call.bytes(0).ok()?.get(place / 8)?, place % 8)));
            byte.map(|(byte, bit)| Value::Int(i64::from(byte >> bit & 1)))
                .ok_or_else(subscript)
        }),
        6163 => strict!(|call| {
            let ones: u32 = call.bytes(0)?.iter().map(|byte| byte.count_ones()).sum();
            Ok(Value::Int(i64::from(ones)))
        }),
        2015 => strict!(|call| trimmed(call, true, true)),
        6195 => strict!(|call| trimmed(call, true, false)),
        6196 => strict!(|call| trimmed(call, false, true)),
        _ => return None,
    })
}

/// Base64 in lines of 76 characters.
fn base64_lines(bytes: &[u8]) -> String {
    let text = GeneralPurpose::new(&STANDARD, GeneralPurposeConfig::new()).encode(bytes);
    let mut lines = String::with_capacity(text.len() + text.len() / 76);
    for (index, character) in text.chars().enumerate() {
        if index > 0 && index % 76 == 0 {
            lines.push('\n');
        }
        lines.push(character);
    }
    lines
}

fn from_base64(text: &str) -> Result<Vec<u8>, SqlError> {
    let config =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::RequireCanonical);
    let text: String = text
        .chars()
        .filter(|c| !matches!(c, ' ' | '\t' | '\n' | '\r'))
        .collect();
    GeneralPurpose::new(&STANDARD, config)
        .decode(text)
        .map_err(|_invalid| SqlError::new("22023", "invalid base64 sequence"))
}

fn unknown_encoding(name: &str) -> SqlError {
    SqlError::new("22023", format!("unrecognized encoding: \"{name}\""))
}

fn escaped(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        match byte {
            0 | 128.. => text.push_str(&format!("\\{byte:03o}")),
            b'\\' => text.push_str("\\\\"),
            other => text.push(char::from(*other)),
        }
    }
    text
}

fn coding(function: u32) -> Option<&'static Builtin> {
    Some(match function {
        1946 => strict!(|call| {
            let bytes = call.bytes(0)?;
            match &*call.text(1)?.to_ascii_lowercase() {
                "hex" => Ok(Value::text(&hex(bytes))),
                "base64" => Ok(Value::text(&base64_lines(bytes))),
                "escape" => Ok(Value::text(&escaped(bytes))),
                name => Err(unknown_encoding(name)),
            }
        }),
        1947 => strict!(|call| {
            let text = call.text(0)?;
            match &*call.text(1)?.to_ascii_lowercase() {
                "hex" => decode_hex(text).map(|bytes| Value::Bytes(bytes.into())),
                "base64" => from_base64(text).map(|bytes| Value::Bytes(bytes.into())),
                "escape" => decode_escape(text).map(|bytes| Value::Bytes(bytes.into())),
                name => Err(unknown_encoding(name)),
            }
        }),
        2311 => strict!(|call| Ok(Value::text(&hex(&md5(call.text(0)?.as_bytes()))))),
        2321 => strict!(|call| Ok(Value::text(&hex(&md5(call.bytes(0)?))))),
        3419 => strict!(|call| Ok(Value::Bytes(
            sha2::Sha224::digest(call.bytes(0)?).to_vec().into()
        ))),
        3420 => strict!(|call| Ok(Value::Bytes(
            sha2::Sha256::digest(call.bytes(0)?).to_vec().into()
        ))),
        3421 => strict!(|call| Ok(Value::Bytes(
            sha2::Sha384::digest(call.bytes(0)?).to_vec().into()
        ))),
        3422 => strict!(|call| Ok(Value::Bytes(
            sha2::Sha512::digest(call.bytes(0)?).to_vec().into()
        ))),
        _ => return None,
    })
}

/// MD5 as RFC 1321 describes it.
fn md5(message: &[u8]) -> [u8; 16] {
    const SHIFTS: [[u32; 4]; 4] = [
        [7, 12, 17, 22],
        [5, 9, 14, 20],
        [4, 11, 16, 23],
        [6, 10, 15, 21],
    ];
    let bits = u64::try_from(message.len()).unwrap_or(0).wrapping_mul(8);
    let mut padded = message.to_vec();
    padded.push(0x80);
    while padded.len() % 64 != 56 {
        padded.push(0);
    }
    padded.extend(bits.to_le_bytes());
    let mut state: [u32; 4] = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];
    for block in padded.chunks_exact(64) {
        let words: Vec<u32> = block
            .chunks_exact(4)
            .map(|word| {
                word.iter()
                    .rev()
                    .fold(0, |sum, byte| sum << 8 | u32::from(*byte))
            })
            .collect();
        let [mut a, mut b, mut c, mut d] = state;
        for step in 0..64_u32 {
            let (mixed, word) = match step / 16 {
                0 => (b & c | !b & d, step),
                1 => (d & b | !d & c, 5 * step + 1),
                2 => (b ^ c ^ d, 3 * step + 5),
                _ => (c ^ (b | !d), 7 * step),
            };
            let index = |number: u32| usize::try_from(number).unwrap_or(0);
            let word = words.get(index(word % 16)).copied().unwrap_or(0);
            let row = SHIFTS.get(index(step / 16)).copied().unwrap_or([0; 4]);
            let shift = row.get(index(step % 4)).copied().unwrap_or(0);
            let sum = a
                .wrapping_add(mixed)
                .wrapping_add(sine(step))
                .wrapping_add(word);
            (a, d, c, b) = (d, c, b, b.wrapping_add(sum.rotate_left(shift)));
        }
        for (sum, more) in state.iter_mut().zip([a, b, c, d]) {
            *sum = sum.wrapping_add(more);
        }
    }
    let mut digest = [0; 16];
    for (byte, value) in digest
        .iter_mut()
        .zip(state.iter().flat_map(|word| word.to_le_bytes()))
    {
        *byte = value;
    }
    digest
}

/// The integer part of 2^32 × |sin(step + 1)|.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "below 2^32 and not negative"
)]
fn sine(step: u32) -> u32 {
    (f64::from(step + 1).sin().abs() * 4_294_967_296.0) as u32
}
