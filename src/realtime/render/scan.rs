//! Reading a text from front to back.

use super::Malformed;

/// The part of a text that has not been read.
pub(super) struct Scan<'a> {
    pub(super) rest: &'a [u8],
}

impl<'a> Scan<'a> {
    pub(super) const fn new(text: &'a [u8]) -> Self {
        Self { rest: text }
    }

    pub(super) const fn peek(&self) -> Option<u8> {
        self.rest.first().copied()
    }

    pub(super) const fn next(&mut self) -> Option<u8> {
        match self.rest.split_first() {
            Some((byte, rest)) => {
                self.rest = rest;
                Some(*byte)
            }
            None => None,
        }
    }

    /// Reads `byte`, or nothing.
    pub(super) fn accept(&mut self, byte: u8) -> bool {
        let accepted = self.peek() == Some(byte);
        if accepted {
            self.next();
        }
        accepted
    }

    pub(super) fn expect(&mut self, byte: u8) -> Result<(), Malformed> {
        if self.accept(byte) {
            Ok(())
        } else {
            Err(Malformed)
        }
    }

    /// Reads up to the first byte that does not belong.
    pub(super) fn take_while(&mut self, belongs: impl Fn(u8) -> bool) -> &'a [u8] {
        let length = self
            .rest
            .iter()
            .position(|byte| !belongs(*byte))
            .unwrap_or(self.rest.len());
        self.take(length)
    }

    /// Reads `length` bytes, or all that are left.
    pub(super) fn take(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self
            .rest
            .split_at_checked(length)
            .unwrap_or((self.rest, &[]));
        self.rest = rest;
        taken
    }

    pub(super) const fn end(&self) -> Result<(), Malformed> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(Malformed)
        }
    }
}
