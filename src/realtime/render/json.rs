//! `json` and `jsonb`: both come out as `jsonb` holds them, compact.
//!
//! Keys in the order of their lengths, then bytes; the last of equal keys; numbers as `numeric` prints them. The text
//! of a `jsonb` has that order already, so that walking it copies it.

use std::borrow::Cow;
use std::ops::Range;

use super::Malformed;
use super::number::decimal;
use super::scan::Scan;
use super::text::string;

/// Arrays and objects within each other. Beyond it the value is a string of its text; Postgres itself stops at
/// `max_stack_depth`, some thousands.
const DEPTH_MAX: u16 = 512;

/// Appends a JSON text.
pub(super) fn json(
    out: &mut Vec<u8>,
    text: &[u8],
    zeros_left: &mut usize,
) -> Result<(), Malformed> {
    if str::from_utf8(text).is_err() {
        return Err(Malformed);
    }
    let mut walk = Walk {
        scan: Scan::new(text),
        members: Vec::new(),
        zeros_left,
    };
    walk.value(out, DEPTH_MAX)?;
    walk.space();
    walk.scan.end()
}

/// A member of an object, once it is written.
pub(super) struct Member<'a> {
    /// Without escapes: their order is that of the characters meant.
    key: Cow<'a, [u8]>,
    /// Where key and value stand in the output.
    written: Range<usize>,
}

impl<'a> Member<'a> {
    pub(super) const fn new(key: Cow<'a, [u8]>, written: Range<usize>) -> Self {
        Self { key, written }
    }

    /// Whether `jsonb` has this member before the other.
    pub(super) fn precedes(&self, other: &Self) -> bool {
        self.order() < other.order()
    }

    fn order(&self) -> (usize, &[u8]) {
        (self.key.len(), &self.key)
    }
}

struct Walk<'a, 'z> {
    scan: Scan<'a>,
    /// Members of all objects that are open, outermost first.
    members: Vec<Member<'a>>,
    zeros_left: &'z mut usize,
}

impl<'a> Walk<'a, '_> {
    fn value(&mut self, out: &mut Vec<u8>, depth_left: u16) -> Result<(), Malformed> {
        self.space();
        match self.scan.peek().ok_or(Malformed)? {
            b'{' => self.object(out, depth_left.checked_sub(1).ok_or(Malformed)?),
            b'[' => self.array(out, depth_left.checked_sub(1).ok_or(Malformed)?),
            b'"' => {
                let value = self.string()?;
                string(out, &value);
                Ok(())
            }
            b'-' | b'0'..=b'9' => {
                let belongs = |byte: u8| {
                    byte.is_ascii_digit() || matches!(byte, b'+' | b'-' | b'.' | b'e' | b'E')
                };
                decimal(out, self.scan.take_while(belongs), self.zeros_left)
            }
            _ => {
                let word = self.scan.take_while(|byte| byte.is_ascii_lowercase());
                match word {
                    b"true" | b"false" | b"null" => out.extend_from_slice(word),
                    _ => return Err(Malformed),
                }
                Ok(())
            }
        }
    }

    fn array(&mut self, out: &mut Vec<u8>, depth_left: u16) -> Result<(), Malformed> {
        self.scan.expect(b'[')?;
        out.push(b'[');
        self.space();
        if !self.scan.accept(b']') {
            loop {
                self.value(out, depth_left)?;
                self.space();
                match self.scan.next() {
                    Some(b',') => out.push(b','),
                    Some(b']') => break,
                    _ => return Err(Malformed),
                }
            }
        }
        out.push(b']');
        Ok(())
    }

    fn object(&mut self, out: &mut Vec<u8>, depth_left: u16) -> Result<(), Malformed> {
        let first = self.members.len();
        let mut in_order = true;
        self.scan.expect(b'{')?;
        out.push(b'{');
        let start = out.len();
        self.space();
        if !self.scan.accept(b'}') {
            loop {
                let member = self.member(out, depth_left)?;
                let before = self.members.get(first..).and_then(<[_]>::last);
                in_order &= before.is_none_or(|before| before.precedes(&member));
                self.members.push(member);
                self.space();
                match self.scan.next() {
                    Some(b',') => out.push(b','),
                    Some(b'}') => break,
                    _ => return Err(Malformed),
                }
            }
        }
        if in_order {
            self.members.truncate(first);
        } else {
            let members = self.members.split_off(first);
            rearrange(out, start, members);
        }
        out.push(b'}');
        Ok(())
    }

    fn member(&mut self, out: &mut Vec<u8>, depth_left: u16) -> Result<Member<'a>, Malformed> {
        self.space();
        let start = out.len();
        let key = self.string()?;
        string(out, &key);
        self.space();
        self.scan.expect(b':')?;
        out.push(b':');
        self.value(out, depth_left)?;
        Ok(Member::new(key, start..out.len()))
    }

    /// A string without its quotes and escapes.
    fn string(&mut self) -> Result<Cow<'a, [u8]>, Malformed> {
        let is_plain = |byte| byte != b'"' && byte != b'\\' && byte >= 0x20;
        self.scan.expect(b'"')?;
        let plain = self.scan.take_while(is_plain);
        if self.scan.accept(b'"') {
            return Ok(Cow::Borrowed(plain));
        }
        let mut value = plain.to_vec();
        loop {
            match self.scan.next() {
                Some(b'"') => return Ok(Cow::Owned(value)),
                Some(b'\\') => self.escape(&mut value)?,
                _ => return Err(Malformed),
            }
            value.extend_from_slice(self.scan.take_while(is_plain));
        }
    }

    fn escape(&mut self, value: &mut Vec<u8>) -> Result<(), Malformed> {
        value.push(match self.scan.next().ok_or(Malformed)? {
            byte @ (b'"' | b'\\' | b'/') => byte,
            b'b' => 0x08,
            b'f' => 0x0c,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => {
                let unit = self.hexadecimal()?;
                self.character(unit, value)?;
                return Ok(());
            }
            _ => return Err(Malformed),
        });
        Ok(())
    }

    /// The character of a UTF-16 unit and, if it takes two, of the escape that follows. `json` keeps single
    /// surrogates, which no character has; they become U+FFFD.
    fn character(&mut self, unit: u16, value: &mut Vec<u8>) -> Result<(), Malformed> {
        let mut units = [unit, 0];
        let mut length = 1;
        if (0xd800..0xdc00).contains(&unit) {
            let before = self.scan.rest;
            if self.scan.accept(b'\\') && self.scan.accept(b'u') {
                let low = self.hexadecimal()?;
                if (0xdc00..0xe000).contains(&low) {
                    units = [unit, low];
                    length = 2;
                }
            }
            if length == 1 {
                self.scan.rest = before;
            }
        }
        for decoded in char::decode_utf16(units.into_iter().take(length)) {
            let character = decoded.unwrap_or(char::REPLACEMENT_CHARACTER);
            value.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
        }
        Ok(())
    }

    fn hexadecimal(&mut self) -> Result<u16, Malformed> {
        let digits = self.scan.take(4);
        if digits.len() != 4 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(Malformed);
        }
        let digits = str::from_utf8(digits).map_err(|_no_text| Malformed)?;
        u16::from_str_radix(digits, 16).map_err(|_no_number| Malformed)
    }

    fn space(&mut self) {
        self.scan
            .take_while(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r'));
    }
}

/// Writes the members that stand from `start` on in their order, of equal keys the last.
pub(super) fn rearrange(out: &mut Vec<u8>, start: usize, mut members: Vec<Member<'_>>) {
    members.sort_by(|one, other| one.order().cmp(&other.order()));
    let mut arranged = Vec::with_capacity(out.len().saturating_sub(start));
    for (index, member) in members.iter().enumerate() {
        let next = members.get(index.saturating_add(1));
        if next.is_some_and(|next| next.key == member.key) {
            continue;
        }
        if !arranged.is_empty() {
            arranged.push(b',');
        }
        arranged.extend_from_slice(out.get(member.written.clone()).unwrap_or_default());
    }
    out.truncate(start);
    out.extend_from_slice(&arranged);
}
