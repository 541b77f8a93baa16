//! JSON strings.

/// What a byte of UTF-8 becomes inside a JSON string: itself (0), a letter after a backslash, or `u` for `\u00xx`.
const ESCAPES: [u8; 256] = escapes();

#[expect(clippy::indexing_slicing, reason = "evaluated at compile time")]
const fn escapes() -> [u8; 256] {
    let mut table = [0; 256];
    let mut control = 0;
    while control < 0x20 {
        table[control] = b'u';
        control = control.saturating_add(1);
    }
    table[0x08] = b'b';
    table[0x09] = b't';
    table[0x0a] = b'n';
    table[0x0c] = b'f';
    table[0x0d] = b'r';
    table[0x22] = b'"';
    table[0x5c] = b'\\';
    table
}

/// Appends `text` as a JSON string, escaped as Postgres escapes: only what must be. What is no UTF-8, as from a
/// database with the encoding `SQL_ASCII`, becomes U+FFFD.
pub(in crate::realtime) fn string(out: &mut Vec<u8>, text: &[u8]) {
    out.push(b'"');
    if text.is_ascii() || str::from_utf8(text).is_ok() {
        escape(out, text);
    } else {
        escape(out, String::from_utf8_lossy(text).as_bytes());
    }
    out.push(b'"');
}

fn escape(out: &mut Vec<u8>, mut text: &[u8]) {
    let special = |byte: &u8| ESCAPES.get(usize::from(*byte)).is_some_and(|e| *e != 0);
    while let Some(at) = text.iter().position(special) {
        let (plain, rest) = text.split_at(at);
        out.extend_from_slice(plain);
        let Some((byte, rest)) = rest.split_first() else {
            return;
        };
        match ESCAPES.get(usize::from(*byte)) {
            Some(b'u') | None => {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                let digit = |nibble: u8| HEX.get(usize::from(nibble)).copied().unwrap_or(b'0');
                out.extend_from_slice(b"\\u00");
                out.extend_from_slice(&[digit(byte >> 4), digit(byte & 0xf)]);
            }
            Some(letter) => out.extend_from_slice(&[b'\\', *letter]),
        }
        text = rest;
    }
    out.extend_from_slice(text);
}
