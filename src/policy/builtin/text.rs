//! Text: parts, joins, cases, names.

use std::sync::Arc;

use super::{Builtin, Call, Collation, bytewise, lax, strict, unexpected};
use crate::policy::value::scalar::name;
use crate::policy::value::{Oid, SqlError, Value, oid, output, with_typmod};

pub(super) fn scalar(function: u32) -> Option<&'static Builtin> {
    measuring(function)
        .or_else(|| cutting(function))
        .or_else(|| joining(function))
        .or_else(|| converting(function))
}

fn count(text: &str) -> Value {
    Value::Int(i64::try_from(text.chars().count()).unwrap_or(i64::MAX))
}

fn bpchar(call: &Call<'_>) -> Result<String, SqlError> {
    Ok(call.text(0)?.trim_end_matches(' ').to_owned())
}

fn measuring(function: u32) -> Option<&'static Builtin> {
    Some(match function {
        1257 | 1317 | 1369 | 1381 => strict!(|call| Ok(count(call.text(0)?))),
        1318 | 1367 | 1372 => strict!(|call| Ok(count(&bpchar(call)?))),
        1374 | 1375 => {
            strict!(|call| Ok(Value::Int(i64::try_from(call.text(0)?.len()).unwrap_or(0))))
        }
        1811 => strict!(|call| Ok(Value::Int(
            i64::try_from(call.text(0)?.len() * 8).unwrap_or(0)
        ))),
        // position, strpos
        849 | 868 => strict!(|call| {
            let text = call.text(0)?;
            let before = text.find(&**call.text(1)?).and_then(|at| text.get(..at));
            Ok(before.map_or(Value::Int(0), |before| match count(before) {
                Value::Int(place) => Value::Int(place + 1),
                other => other,
            }))
        }),
        3696 => strict!(|call| Ok(Value::Bool(call.text(0)?.starts_with(&**call.text(1)?)))),
        1620 => strict!(|call| {
            let first = call.text(0)?.chars().next();
            Ok(Value::Int(
                first.map_or(0, |first| i64::from(u32::from(first))),
            ))
        }),
        1621 => strict!(|call| {
            let code = *call.int(0)?;
            if code < 0 {
                return Err(SqlError::internal(
                    "a negative character is a different error in each version",
                ));
            }
            let character = u32::try_from(code)
                .ok()
                .filter(|code| *code != 0)
                .and_then(char::from_u32);
            match character {
                Some(character) => Ok(Value::text(character.encode_utf8(&mut [0; 4]))),
                None => Err(SqlError::new("54000", "requested character is not valid")),
            }
        }),
        _ => return None,
    })
}

/// `lower`, `upper`, `initcap`.
pub(super) const fn changes_cases(function: u32) -> bool {
    matches!(function, 870..=872)
}

/// The cases of ASCII letters; beyond them a locale is needed.
fn cased(call: &Call<'_>, change: fn(&str) -> String) -> Result<Value, SqlError> {
    let text = call.text(0)?;
    if call.collation != Collation::Bytes && !text.is_ascii() {
        return Err(SqlError::internal(
            "cases of letters beyond ASCII are left to Postgres",
        ));
    }
    Ok(Value::text(&change(text)))
}

fn capitals(text: &str) -> String {
    let mut inside = false;
    text.chars()
        .map(|c| {
            let shown = if inside {
                c.to_ascii_lowercase()
            } else {
                c.to_ascii_uppercase()
            };
            inside = c.is_ascii_alphanumeric();
            shown
        })
        .collect()
}

/// Characters `start..end`, counted from 1, of what may begin before the text.
fn part(text: &str, start: i64, end: Option<i64>) -> String {
    let skipped = usize::try_from(start.saturating_sub(1)).unwrap_or(0);
    let rest = text.chars().skip(skipped);
    match end {
        None => rest.collect(),
        Some(end) => rest
            .take(usize::try_from(end - start.max(1)).unwrap_or(0))
            .collect(),
    }
}

fn substring(call: &Call<'_>) -> Result<Value, SqlError> {
    let (text, start) = (call.text(0)?, *call.int(1)?);
    let end = match call.args.get(2) {
        None => None,
        Some(_) => {
            let length = *call.int(2)?;
            if length < 0 {
                return Err(SqlError::new(
                    "22011",
                    "negative substring length not allowed",
                ));
            }
            Some(start + length)
        }
    };
    Ok(Value::text(&part(text, start, end)))
}

/// How many characters the first or last `n` are; all but so many for a negative one.
fn portion(text: &str, n: i64) -> usize {
    let all = text.chars().count();
    match usize::try_from(n) {
        Ok(n) => n.min(all),
        Err(_) => all.saturating_sub(usize::try_from(n.unsigned_abs()).unwrap_or(all)),
    }
}

fn trim(call: &Call<'_>, left: bool, right: bool) -> Result<Value, SqlError> {
    let set = match call.args.get(1) {
        None => Arc::from(" "),
        Some(_) => Arc::clone(call.text(1)?),
    };
    let mut text = &**call.text(0)?;
    if left {
        text = text.trim_start_matches(|c| set.contains(c));
    }
    if right {
        text = text.trim_end_matches(|c| set.contains(c));
    }
    Ok(Value::text(text))
}

fn pad(call: &Call<'_>, left: bool) -> Result<Value, SqlError> {
    let text = call.text(0)?;
    let fill = match call.args.get(2) {
        None => Arc::from(" "),
        Some(_) => Arc::clone(call.text(2)?),
    };
    let length = usize::try_from(*call.int(1)?).unwrap_or(0);
    if length > 10_000 {
        return Err(SqlError::internal("a text this long is left to Postgres"));
    }
    let missing = length.saturating_sub(text.chars().count());
    let filling: String = if fill.is_empty() {
        String::new()
    } else {
        fill.chars().cycle().take(missing).collect()
    };
    let kept: String = text.chars().take(length).collect();
    Ok(Value::text(&if left {
        filling + &kept
    } else {
        kept + &filling
    }))
}

fn split_part(call: &Call<'_>) -> Result<Value, SqlError> {
    let (text, delimiter, place) = (call.text(0)?, call.text(1)?, *call.int(2)?);
    if place == 0 {
        return Err(SqlError::new("22023", "field position must not be zero"));
    }
    let parts: Vec<&str> = match &**delimiter {
        _ if text.is_empty() => Vec::new(),
        "" => vec![text],
        delimiter => text.split(delimiter).collect(),
    };
    let index = match usize::try_from(place) {
        Ok(place) => place.checked_sub(1),
        Err(_) => usize::try_from(place.unsigned_abs())
            .ok()
            .and_then(|back| parts.len().checked_sub(back)),
    };
    Ok(Value::text(
        index
            .and_then(|index| parts.get(index))
            .copied()
            .unwrap_or_default(),
    ))
}

fn cutting(function: u32) -> Option<&'static Builtin> {
    Some(match function {
        870 => strict!(|call| cased(call, |text| text.to_ascii_lowercase())),
        871 => strict!(|call| cased(call, |text| text.to_ascii_uppercase())),
        // What else begins a word is told by the locale.
        872 => bytewise!(|call| cased(call, capitals)),
        877 | 883 | 936 | 937 => strict!(substring),
        3060 => strict!(|call| {
            let text = call.text(0)?;
            Ok(Value::text(
                &text
                    .chars()
                    .take(portion(text, *call.int(1)?))
                    .collect::<String>(),
            ))
        }),
        3061 => strict!(|call| {
            let text = call.text(0)?;
            let skipped = match *call.int(1)? {
                // It cannot be negated there.
                -2_147_483_648 => 0,
                n => text.chars().count() - portion(text, n),
            };
            Ok(Value::text(&text.chars().skip(skipped).collect::<String>()))
        }),
        884 | 885 => strict!(|call| trim(call, true, true)),
        875 | 881 => strict!(|call| trim(call, true, false)),
        876 | 882 => strict!(|call| trim(call, false, true)),
        873 | 879 => strict!(|call| pad(call, true)),
        874 | 880 => strict!(|call| pad(call, false)),
        2087 => strict!(|call| {
            let (text, from) = (call.text(0)?, call.text(1)?);
            if from.is_empty() {
                return Ok(Value::Text(Arc::clone(text)));
            }
            Ok(Value::text(&text.replace(&**from, call.text(2)?)))
        }),
        878 => strict!(|call| {
            let (from, to) = (call.text(1)?, call.text(2)?);
            let change = |c: char| match from.chars().position(|found| found == c) {
                None => Some(c),
                Some(place) => to.chars().nth(place),
            };
            Ok(Value::text(
                &call.text(0)?.chars().filter_map(change).collect::<String>(),
            ))
        }),
        3062 => strict!(|call| Ok(Value::text(
            &call.text(0)?.chars().rev().collect::<String>()
        ))),
        2088 => strict!(split_part),
        1622 => strict!(|call| {
            let times = usize::try_from(*call.int(1)?).unwrap_or(0);
            let text = call.text(0)?;
            if text.len().saturating_mul(times) > 10_000 {
                return Err(SqlError::internal("a text this long is left to Postgres"));
            }
            Ok(Value::text(&text.repeat(times)))
        }),
        _ => return None,
    })
}

/// The arguments from `first` on as printed, NULLs as `None`.
fn printed(call: &Call<'_>, first: usize) -> Result<Vec<Option<String>>, SqlError> {
    let types = call
        .arg_types
        .iter()
        .copied()
        .chain(std::iter::repeat(oid::TEXT));
    let arguments = call.args.iter().zip(types).skip(first);
    arguments
        .map(|(value, type_oid)| match value {
            Value::Null => Ok(None),
            value => output(call.types, type_oid, value).map(Some),
        })
        .collect()
}

fn format(call: &Call<'_>) -> Result<Value, SqlError> {
    let Some(Value::Text(pattern)) = call.args.first() else {
        return Ok(Value::Null);
    };
    let arguments = printed(call, 1)?;
    let mut arguments = arguments.iter();
    let mut out = String::new();
    let mut characters = pattern.chars();
    while let Some(c) = characters.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let few = || SqlError::new("22023", "too few arguments for format()");
        match characters.next() {
            Some('%') => out.push('%'),
            Some('s') => out.push_str(
                arguments
                    .next()
                    .ok_or_else(few)?
                    .as_deref()
                    .unwrap_or_default(),
            ),
            Some('I') => match arguments.next().ok_or_else(few)? {
                Some(text) => out.push_str(&identifier(text)?),
                None => {
                    return Err(SqlError::new(
                        "22004",
                        "null values cannot be formatted as an SQL identifier",
                    ));
                }
            },
            Some('L') => match arguments.next().ok_or_else(few)? {
                Some(text) => out.push_str(&literal(text)),
                None => out.push_str("NULL"),
            },
            None => {
                return Err(SqlError::new(
                    "22023",
                    "unterminated format() type specifier",
                ));
            }
            Some(_) => {
                return Err(SqlError::internal(
                    "a format with positions or widths is left to Postgres",
                ));
            }
        }
    }
    Ok(Value::text(&out))
}

fn literal(text: &str) -> String {
    let escape = if text.contains('\\') { " E" } else { "" };
    format!(
        "{}'{}'",
        escape.trim_start(),
        text.replace('\\', "\\\\").replace('\'', "''")
    )
}

/// Keywords differ between versions: a name that could be one is left to Postgres.
fn identifier(text: &str) -> Result<String, SqlError> {
    let is_plain = |c: char| c.is_ascii_lowercase() || c == '_' || c.is_ascii_digit();
    if !text.is_empty()
        && text.chars().all(is_plain)
        && !text.starts_with(|c: char| c.is_ascii_digit())
    {
        if text.contains(|c: char| c.is_ascii_digit()) {
            return Ok(text.to_owned());
        }
        return Err(SqlError::internal(
            "quoting a name that may be a keyword is left to Postgres",
        ));
    }
    Ok(format!("\"{}\"", text.replace('"', "\"\"")))
}

fn joining(function: u32) -> Option<&'static Builtin> {
    Some(match function {
        1258 => strict!(|call| Ok(Value::text(&format!("{}{}", call.text(0)?, call.text(1)?)))),
        // anything || text, text || anything
        2003 | 2004 => strict!(|call| Ok(Value::text(&format!(
            "{}{}",
            as_text(call, 0)?,
            as_text(call, 1)?
        )))),
        3058 => lax!(|call| Ok(Value::text(
            &printed(call, 0)?.into_iter().flatten().collect::<String>()
        ))),
        3059 => lax!(|call| match call.args.first() {
            Some(Value::Text(separator)) => {
                let parts: Vec<String> = printed(call, 1)?.into_iter().flatten().collect();
                Ok(Value::text(&parts.join(separator)))
            }
            _ => Ok(Value::Null),
        }),
        3539 | 3540 => lax!(format),
        1282 => strict!(|call| identifier(call.text(0)?).map(|text| Value::text(&text))),
        1283 => strict!(|call| Ok(Value::text(&literal(call.text(0)?)))),
        1289 => lax!(|call| match call.args.first() {
            Some(Value::Text(text)) => Ok(Value::text(&literal(text))),
            _ => Ok(Value::text("NULL")),
        }),
        438 => lax!(|call| nulls(call, true)),
        440 => lax!(|call| nulls(call, false)),
        _ => return None,
    })
}

fn nulls(call: &Call<'_>, wanted: bool) -> Result<Value, SqlError> {
    let count = call
        .args
        .iter()
        .filter(|value| value.is_null() == wanted)
        .count();
    i64::try_from(count)
        .map(Value::Int)
        .map_err(|_overflow| unexpected())
}

/// An argument as a cast to text makes it, which is not its text form for some types.
fn as_text(call: &Call<'_>, index: usize) -> Result<String, SqlError> {
    text_of(call, call.type_of(index), call.any(index)?)
}

pub(super) fn text_of(call: &Call<'_>, type_oid: Oid, value: &Value) -> Result<String, SqlError> {
    Ok(match (call.types.base(type_oid), value) {
        (_, Value::Bool(value)) => value.to_string(),
        (oid::BPCHAR, Value::Text(text)) => text.trim_end_matches(' ').to_owned(),
        (_, value) => output(call.types, type_oid, value)?,
    })
}

fn converting(function: u32) -> Option<&'static Builtin> {
    Some(match function {
        // bpchar to text, name to text, "char" to text
        401 => strict!(|call| Ok(Value::text(&bpchar(call)?))),
        406 | 946 | 1401 | 860 | 408 => strict!(|call| Ok(call.any(0)?.clone())),
        407 | 1400 => strict!(|call| Ok(Value::text(name(call.text(0)?)))),
        409 => strict!(|call| Ok(Value::text(name(&bpchar(call)?)))),
        2971 => strict!(|call| Ok(Value::text(if *call.bool(0)? { "true" } else { "false" }))),
        944 => strict!(|call| match call.text(0)?.chars().next() {
            None => Ok(Value::text("")),
            Some(c) if c.is_ascii() && c != '\\' => Ok(Value::text(c.encode_utf8(&mut [0; 4]))),
            Some(_) => Err(SqlError::internal("a \"char\" that is no ASCII character")),
        }),
        668 | 669 => strict!(|call| {
            let typmod = i32::try_from(*call.int(1)?).unwrap_or(-1);
            with_typmod(
                call.types,
                call.result,
                typmod,
                call.any(0)?.clone(),
                *call.bool(2)?,
            )
        }),
        2515 => strict!(|call| Ok(Value::Bool(*call.bool(0)? && *call.bool(1)?))),
        2516 => strict!(|call| Ok(Value::Bool(*call.bool(0)? || *call.bool(1)?))),
        _ => return None,
    })
}
