//! LIKE, and regular expressions within the subset of `regex`.

use std::sync::Arc;

use super::regex::Regex;
use super::{Builtin, Call, Collation, strict};
use crate::policy::value::{Array, SqlError, Value};

pub(super) fn scalar(function: u32) -> Option<&'static Builtin> {
    Some(match function {
        850 | 1569 | 858 | 1631 => strict!(|call| like(call, false).map(Value::Bool)),
        851 | 1570 | 859 | 1632 => {
            strict!(|call| like(call, false).map(|found| Value::Bool(!found)))
        }
        1633 | 1635 | 1660 => strict!(|call| like(call, true).map(Value::Bool)),
        1634 | 1636 | 1661 => strict!(|call| like(call, true).map(|found| Value::Bool(!found))),
        1637 => strict!(like_escape),
        1254 | 79 | 1658 => strict!(|call| matches(call, false).map(Value::Bool)),
        1256 | 1252 | 1659 => strict!(|call| matches(call, false).map(|found| Value::Bool(!found))),
        1238 | 1240 | 1656 => strict!(|call| matches(call, true).map(Value::Bool)),
        1239 | 1241 | 1657 => strict!(|call| matches(call, true).map(|found| Value::Bool(!found))),
        2073 => strict!(|call| {
            let (text, regex) = subject(call, false)?;
            Ok(regex
                .find(&text, 0)
                .map_or(Value::Null, |found| part(&text, found)))
        }),
        3396 => strict!(|call| {
            let (text, regex) = subject(call, false)?;
            Ok(regex.find(&text, 0).map_or(Value::Null, |found| {
                Value::Array(Arc::new(Array::one_dimension(vec![part(&text, found)])))
            }))
        }),
        2284 => strict!(|call| replace(call, "")),
        2285 => strict!(|call| replace(call, call.text(3)?)),
        2767 => strict!(|call| { Ok(Value::Array(Arc::new(Array::one_dimension(split(call)?)))) }),
        _ => return None,
    })
}

/// ILIKE, `~*` and their negations.
pub(super) const fn is_caseless(function: u32) -> bool {
    matches!(
        function,
        1633 | 1635 | 1660 | 1634 | 1636 | 1661 | 1238 | 1240 | 1656 | 1239 | 1241 | 1657
    )
}

/// Whether the function can answer for this pattern.
pub(super) fn knows(function: u32, pattern: &str, collation: Collation) -> bool {
    match function {
        1633 | 1635 | 1660 | 1634 | 1636 | 1661 => {
            collation == Collation::Bytes || pattern.is_ascii()
        }
        1254 | 79 | 1658 | 1256 | 1252 | 1659 | 1238 | 1240 | 1656 | 1239 | 1241 | 1657 => {
            Regex::parse(pattern, is_caseless(function)).is_ok()
        }
        // These tell the place of the match.
        2073 | 3396 | 2284 | 2285 | 2767 | 2765 => {
            Regex::parse(pattern, false).is_ok_and(|regex| !regex.captures)
        }
        _ => true,
    }
}

/// LIKE, or (`caseless`) ILIKE.
fn like(call: &Call<'_>, caseless: bool) -> Result<bool, SqlError> {
    let (text, pattern) = (call.text(0)?, call.text(1)?);
    if caseless && call.collation != Collation::Bytes && !(text.is_ascii() && pattern.is_ascii()) {
        return Err(SqlError::internal(
            "cases of letters beyond ASCII are left to Postgres",
        ));
    }
    let fold = |text: &str| -> Vec<char> {
        if caseless {
            text.to_ascii_lowercase().chars().collect()
        } else {
            text.chars().collect()
        }
    };
    let (text, pattern) = (fold(text), fold(pattern));
    like_from(&text, &pattern)
}

/// As Postgres does it, so that a backslash at the end is an error only where it is met.
fn like_from(text: &[char], pattern: &[char]) -> Result<bool, SqlError> {
    let at_end = || SqlError::new("22025", "LIKE pattern must not end with escape character");
    let (mut t, mut p) = (0, 0);
    // Where to go on if what follows the last % does not match here.
    let mut again: Option<(usize, usize)> = None;
    loop {
        let matched = match (pattern.get(p), text.get(t)) {
            (Some('%'), Some(_)) if ends_badly(pattern.get(p..), text.len() - t) => {
                return Err(at_end());
            }
            (Some('%'), _) => {
                again = Some((t, p + 1));
                p += 1;
                continue;
            }
            (None, None) => return Ok(true),
            (Some(_), None) => {
                return Ok(pattern
                    .get(p..)
                    .unwrap_or_default()
                    .iter()
                    .all(|c| *c == '%'));
            }
            (None, Some(_)) => false,
            (Some('\\'), Some(found)) => match pattern.get(p + 1) {
                None => return Err(at_end()),
                Some(wanted) if wanted == found => {
                    p += 1;
                    true
                }
                Some(_) => false,
            },
            (Some('_'), Some(_)) => true,
            (Some(wanted), Some(found)) => wanted == found,
        };
        if matched {
            t += 1;
            p += 1;
            continue;
        }
        match again {
            None => return Ok(false),
            Some((start, pattern_start)) => {
                t = start + 1;
                p = pattern_start;
                again = Some((t, p));
                if t > text.len() {
                    return Ok(false);
                }
            }
        }
    }
}

/// Whether a backslash ends the pattern right behind wildcards that the text is long enough for: Postgres looks that
/// far ahead.
fn ends_badly(pattern: Option<&[char]>, left: usize) -> bool {
    let pattern = pattern.unwrap_or_default();
    let wild = pattern
        .iter()
        .take_while(|c| matches!(c, '%' | '_'))
        .count();
    let singles = pattern.iter().take(wild).filter(|c| **c == '_').count();
    singles <= left && pattern.get(wild..) == Some(&['\\'])
}

fn like_escape(call: &Call<'_>) -> Result<Value, SqlError> {
    let (pattern, escape) = (call.text(0)?, call.text(1)?);
    let mut letters = escape.chars();
    let (escape, None) = (letters.next(), letters.next()) else {
        return Err(SqlError::new("22025", "invalid escape string"));
    };
    if escape == Some('\\') {
        return Ok(Value::Text(Arc::clone(pattern)));
    }
    let mut out = String::new();
    let mut after_escape = false;
    for c in pattern.chars() {
        if Some(c) == escape && !after_escape {
            out.push('\\');
            after_escape = true;
        } else {
            if c == '\\' && !after_escape {
                out.push('\\');
            }
            out.push(c);
            after_escape = false;
        }
    }
    Ok(Value::text(&out))
}

fn refused() -> SqlError {
    SqlError::internal("a regular expression that is left to Postgres")
}

fn compiled(call: &Call<'_>, caseless: bool) -> Result<Regex, SqlError> {
    let regex = Regex::parse(call.text(1)?, caseless).map_err(|_unknown| refused())?;
    if regex.knows(call.text(0)?) {
        Ok(regex)
    } else {
        Err(refused())
    }
}

fn matches(call: &Call<'_>, caseless: bool) -> Result<bool, SqlError> {
    let regex = compiled(call, caseless)?;
    let text: Vec<char> = call.text(0)?.chars().collect();
    Ok(regex.find(&text, 0).is_some())
}

/// For functions that want the place of a match: without captures, it is the leftmost longest.
fn subject(call: &Call<'_>, caseless: bool) -> Result<(Vec<char>, Regex), SqlError> {
    let regex = compiled(call, caseless)?;
    if regex.captures {
        return Err(refused());
    }
    Ok((call.text(0)?.chars().collect(), regex))
}

fn part(text: &[char], (start, end): (usize, usize)) -> Value {
    Value::text(
        &text
            .get(start..end)
            .unwrap_or_default()
            .iter()
            .collect::<String>(),
    )
}

fn replace(call: &Call<'_>, flags: &str) -> Result<Value, SqlError> {
    let global = match flags {
        "" => false,
        "g" => true,
        _ => return Err(refused()),
    };
    let (text, regex) = subject(call, false)?;
    let with = call.text(2)?;
    if with.contains('\\') {
        return Err(refused());
    }
    let mut out = String::new();
    let (mut copied, mut from) = (0, 0);
    while let Some((start, end)) = regex.find(&text, from) {
        out.extend(text.get(copied..start).unwrap_or_default());
        out.push_str(with);
        copied = end;
        // After an empty match one character is passed over.
        from = if end > start { end } else { end + 1 };
        if !global || from > text.len() {
            break;
        }
    }
    out.extend(text.get(copied..).unwrap_or_default());
    Ok(Value::text(&out))
}

/// The parts between matches; empty matches at the ends or next to another match do not count.
pub(super) fn split(call: &Call<'_>) -> Result<Vec<Value>, SqlError> {
    let (text, regex) = subject(call, false)?;
    let mut parts = Vec::new();
    let (mut copied, mut from) = (0, 0);
    while let Some((start, end)) = regex.find(&text, from) {
        if end > start || start > copied && start < text.len() {
            parts.push(part(&text, (copied, start)));
            copied = end;
        }
        from = if end > start { end } else { end + 1 };
        if from > text.len() {
            break;
        }
    }
    parts.push(part(&text, (copied, text.len())));
    Ok(parts)
}
