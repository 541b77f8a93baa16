//! Array literals, as `array_out` prints them (Postgres manual, "Array Input and Output Syntax").

use std::borrow::Cow;

use super::scan::Scan;
use super::{Malformed, Renderer};
use crate::change::Oid;

/// `MAXDIM` of Postgres.
const DIMENSIONS_MAX: u8 = 6;

/// What an array holds.
#[derive(Clone, Copy)]
pub(super) struct Array {
    pub(super) element: Oid,
    pub(super) delimiter: u8,
}

/// Appends an array literal as JSON arrays, one level per dimension. Lower bounds are lost, as `to_jsonb` loses them.
pub(super) fn array(
    renderer: &mut Renderer<'_>,
    out: &mut Vec<u8>,
    array: Array,
    text: &[u8],
) -> Result<(), Malformed> {
    let mut scan = Scan::new(text);
    if scan.peek() == Some(b'[') {
        scan.take_while(|byte| byte.is_ascii_digit() || b"[]:+-".contains(&byte));
        scan.expect(b'=')?;
    }
    dimension(renderer, out, array, &mut scan, DIMENSIONS_MAX)?;
    scan.end()
}

fn dimension(
    renderer: &mut Renderer<'_>,
    out: &mut Vec<u8>,
    array: Array,
    scan: &mut Scan<'_>,
    dimensions_left: u8,
) -> Result<(), Malformed> {
    let below = dimensions_left.checked_sub(1).ok_or(Malformed)?;
    scan.expect(b'{')?;
    out.push(b'[');
    if scan.accept(b'}') {
        out.push(b']');
        return Ok(());
    }
    loop {
        match scan.peek() {
            Some(b'{') => dimension(renderer, out, array, scan, below)?,
            Some(b'"') => renderer.nested(out, array.element, &quoted(scan)?),
            _ => match bare(scan, array.delimiter)? {
                text if text.eq_ignore_ascii_case(b"NULL") => out.extend_from_slice(b"null"),
                text => renderer.nested(out, array.element, text),
            },
        }
        match scan.next() {
            Some(byte) if byte == array.delimiter => out.push(b','),
            Some(b'}') => break,
            _ => return Err(Malformed),
        }
    }
    out.push(b']');
    Ok(())
}

/// An element in double quotes, in which a backslash stands before any byte that is meant as it is.
fn quoted<'a>(scan: &mut Scan<'a>) -> Result<Cow<'a, [u8]>, Malformed> {
    scan.expect(b'"')?;
    let plain = scan.take_while(|byte| byte != b'"' && byte != b'\\');
    if scan.accept(b'"') {
        return Ok(Cow::Borrowed(plain));
    }
    let mut element = plain.to_vec();
    loop {
        match scan.next().ok_or(Malformed)? {
            b'"' => return Ok(Cow::Owned(element)),
            b'\\' => element.push(scan.next().ok_or(Malformed)?),
            byte => element.push(byte),
        }
        element.extend_from_slice(scan.take_while(|byte| byte != b'"' && byte != b'\\'));
    }
}

/// An element without quotes; `array_out` quotes whatever is empty or holds a byte that means something here.
fn bare<'a>(scan: &mut Scan<'a>, delimiter: u8) -> Result<&'a [u8], Malformed> {
    match scan.take_while(|byte| byte != delimiter && !b"{}\"\\".contains(&byte)) {
        [] => Err(Malformed),
        element => Ok(element),
    }
}

/// Appends an `int2vector` or `oidvector`, whose elements stand with spaces between and hold none.
pub(super) fn vector(renderer: &mut Renderer<'_>, out: &mut Vec<u8>, element: Oid, text: &[u8]) {
    out.push(b'[');
    let elements = text.split(|byte| *byte == b' ');
    for (index, value) in elements.filter(|value| !value.is_empty()).enumerate() {
        if index > 0 {
            out.push(b',');
        }
        renderer.nested(out, element, value);
    }
    out.push(b']');
}
