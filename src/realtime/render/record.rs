//! Row literals, as `record_out` prints them (Postgres manual, "Composite Type Input and Output Syntax").

use std::borrow::Cow;

use super::json::{Member, rearrange};
use super::scan::Scan;
use super::text::string;
use super::{Malformed, Renderer};
use crate::change::Oid;

/// Appends a row literal as an object by field names, in the order that `jsonb` gives its keys.
pub(super) fn record(
    renderer: &mut Renderer<'_>,
    out: &mut Vec<u8>,
    fields: &[(Box<str>, Oid)],
    text: &[u8],
) -> Result<(), Malformed> {
    let mut scan = Scan::new(text);
    scan.expect(b'(')?;
    out.push(b'{');
    let mut members = Vec::with_capacity(fields.len());
    let first = out.len();
    for (index, (name, oid)) in fields.iter().enumerate() {
        if index > 0 {
            scan.expect(b',')?;
            out.push(b',');
        }
        let start = out.len();
        string(out, name.as_bytes());
        out.push(b':');
        match field(&mut scan)? {
            Some(value) => renderer.nested(out, *oid, &value),
            None => out.extend_from_slice(b"null"),
        }
        members.push(Member::new(name.as_bytes().into(), start..out.len()));
    }
    scan.expect(b')')?;
    if !members.is_sorted_by(Member::precedes) {
        rearrange(out, first, members);
    }
    out.push(b'}');
    scan.end()
}

/// One field; nothing at all is NULL. In double quotes, quotes and backslashes are doubled.
fn field<'a>(scan: &mut Scan<'a>) -> Result<Option<Cow<'a, [u8]>>, Malformed> {
    if !scan.accept(b'"') {
        return Ok(match scan.take_while(|byte| !b"(),\"\\".contains(&byte)) {
            [] => None,
            bare => Some(Cow::Borrowed(bare)),
        });
    }
    let is_plain = |byte| byte != b'"' && byte != b'\\';
    let mut value = Cow::Borrowed(scan.take_while(is_plain));
    loop {
        match (scan.next(), scan.peek()) {
            (Some(b'"'), Some(b'"')) => value.to_mut().push(b'"'),
            (Some(b'"'), _) => return Ok(Some(value)),
            (Some(b'\\'), Some(byte)) => value.to_mut().push(byte),
            _ => return Err(Malformed),
        }
        scan.next();
        let plain = scan.take_while(is_plain);
        value.to_mut().extend_from_slice(plain);
    }
}
