//! Values as Elixir's `inspect` prints them: some of the reference server's messages carry such dumps, and clients
//! compare messages byte for byte (protocol.md §4.5).

use std::fmt::{self, Write as _};

use serde_json::Value;

/// Elements printed of one list or map.
const ELEMENTS_MAX: usize = 50;
/// Characters printed of one string.
const CHARACTERS_MAX: usize = 4096;

/// A decoded JSON value, printed as the map, list, number or binary that Elixir would hold.
pub(super) struct Term<'a>(pub(super) &'a Value);

/// A string, quoted and escaped.
pub(super) struct Text<'a>(pub(super) &'a str);

/// A list of strings.
pub(super) struct Strings<'a, S>(pub(super) &'a [S]);

impl fmt::Display for Term<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Value::Null => f.write_str("nil"),
            Value::Bool(value) => write!(f, "{value}"),
            Value::Number(number) => write_number(f, number.as_str()),
            Value::String(text) => write!(f, "{}", Text(text)),
            Value::Array(items) => write_list(f, items),
            Value::Object(map) => {
                f.write_str("%{")?;
                // Elixir prints keys in term order, which is the order of bytes for binaries.
                let mut entries: Vec<_> = map.iter().collect();
                entries.sort_unstable_by_key(|(key, _)| *key);
                for (index, (key, value)) in entries.iter().enumerate() {
                    if index > 0 {
                        f.write_str(", ")?;
                    }
                    if index == ELEMENTS_MAX {
                        f.write_str("...")?;
                        break;
                    }
                    write!(f, "{} => {}", Text(key), Term(value))?;
                }
                f.write_str("}")
            }
        }
    }
}

fn write_list(f: &mut fmt::Formatter<'_>, items: &[Value]) -> fmt::Result {
    // A list of printable character codes is text to Elixir.
    let codes: Option<String> = items
        .iter()
        .map(|item| item.as_u64().and_then(|code| u8::try_from(code).ok()))
        .map(|code| {
            code.filter(|code| matches!(code, 7..=13 | 27 | 32..=126))
                .map(char::from)
        })
        .collect();
    if let Some(codes) = codes.filter(|codes| !codes.is_empty()) {
        return write!(f, "~c{}", Text(&codes));
    }
    f.write_str("[")?;
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            f.write_str(", ")?;
        }
        if index == ELEMENTS_MAX {
            f.write_str("...")?;
            break;
        }
        write!(f, "{}", Term(item))?;
    }
    f.write_str("]")
}

/// Integers as written; numbers with a point or an exponent are floats and always show a point.
fn write_number(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    if !text.contains(['.', 'e', 'E']) {
        return f.write_str(text);
    }
    match text.parse::<f64>() {
        Ok(value) => write!(f, "{value:?}"),
        Err(_) => f.write_str(text),
    }
}

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        let mut characters = self.0.chars().peekable();
        let mut printed = 0_usize;
        while let Some(character) = characters.next() {
            if printed == CHARACTERS_MAX {
                return f.write_str("\" <> ...");
            }
            printed = printed.saturating_add(1);
            match character {
                '"' => f.write_str("\\\"")?,
                '\\' => f.write_str("\\\\")?,
                '#' if characters.peek() == Some(&'{') => f.write_str("\\#")?,
                '\0' => f.write_str("\\0")?,
                '\x07' => f.write_str("\\a")?,
                '\x08' => f.write_str("\\b")?,
                '\t' => f.write_str("\\t")?,
                '\n' => f.write_str("\\n")?,
                '\x0b' => f.write_str("\\v")?,
                '\x0c' => f.write_str("\\f")?,
                '\r' => f.write_str("\\r")?,
                '\x1b' => f.write_str("\\e")?,
                '\x7f' => f.write_str("\\d")?,
                other if u32::from(other) < 0x20 => write!(f, "\\x{:02X}", u32::from(other))?,
                other => f.write_char(other)?,
            }
        }
        f.write_char('"')
    }
}

impl<S: AsRef<str>> fmt::Display for Strings<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('[')?;
        for (index, item) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(", ")?;
            }
            if index == ELEMENTS_MAX {
                f.write_str("...")?;
                break;
            }
            write!(f, "{}", Text(item.as_ref()))?;
        }
        f.write_char(']')
    }
}
