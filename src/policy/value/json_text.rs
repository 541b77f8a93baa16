//! JSON text, read token by token as Postgres' `jsonapi.c` reads it, so that the first error is the same.

use super::SqlError;

/// Nesting beyond this is refused; Postgres' own limit is its stack.
const DEPTH_MAX: usize = 256;

/// One level deeper, or too deep.
pub(crate) fn deeper(depth: usize) -> Result<usize, SqlError> {
    if depth >= DEPTH_MAX {
        return Err(SqlError::internal("JSON that is nested too deeply"));
    }
    Ok(depth + 1)
}

/// Kinds of tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Token {
    ObjectStart,
    ObjectEnd,
    ArrayStart,
    ArrayEnd,
    Comma,
    Colon,
    String,
    Number,
    True,
    False,
    Null,
    End,
}

/// A reader that stands on a token.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    text: &'a str,
    token: Token,
    start: usize,
    end: usize,
    /// End of the token before.
    last_end: usize,
    /// Decode the escapes of strings; otherwise only their form is checked, as `json_in` does.
    decoding: bool,
    string: String,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(text: &'a str, decoding: bool) -> Result<Self, SqlError> {
        let mut reader = Self {
            text,
            token: Token::End,
            start: 0,
            end: 0,
            last_end: 0,
            decoding,
            string: String::new(),
        };
        reader.advance()?;
        Ok(reader)
    }

    pub(crate) const fn token(&self) -> Token {
        self.token
    }

    pub(crate) fn lexeme(&self) -> &'a str {
        self.text.get(self.start..self.end).unwrap_or_default()
    }

    pub(crate) fn take_string(&mut self) -> String {
        std::mem::take(&mut self.string)
    }

    pub(crate) fn invalid(&self) -> SqlError {
        SqlError::new("22P02", "invalid input syntax for type json")
    }

    /// Nothing may follow.
    pub(crate) fn end(&self) -> Result<(), SqlError> {
        if self.token == Token::End {
            Ok(())
        } else {
            Err(self.invalid())
        }
    }

    fn expect(&mut self, token: Token) -> Result<(), SqlError> {
        if self.token != token {
            return Err(self.invalid());
        }
        self.advance()
    }

    pub(crate) fn advance(&mut self) -> Result<(), SqlError> {
        self.last_end = self.end;
        let rest = self.text.get(self.end..).unwrap_or_default();
        let trimmed = rest.trim_start_matches([' ', '\t', '\n', '\r']);
        self.start = self.text.len() - trimmed.len();
        self.end = self.start + 1;
        self.token = match trimmed.bytes().next() {
            None => {
                self.end = self.start;
                Token::End
            }
            Some(b'{') => Token::ObjectStart,
            Some(b'}') => Token::ObjectEnd,
            Some(b'[') => Token::ArrayStart,
            Some(b']') => Token::ArrayEnd,
            Some(b',') => Token::Comma,
            Some(b':') => Token::Colon,
            Some(b'"') => {
                self.lex_string(trimmed)?;
                Token::String
            }
            Some(_) => self.lex_word(trimmed)?,
        };
        Ok(())
    }

    fn lex_word(&mut self, trimmed: &str) -> Result<Token, SqlError> {
        let is_part = |c: char| {
            c.is_ascii_alphanumeric() || matches!(c, '_' | '+' | '-' | '.') || !c.is_ascii()
        };
        let length = trimmed.find(|c| !is_part(c)).unwrap_or(trimmed.len());
        let word = trimmed.get(..length).unwrap_or_default();
        self.end = self.start + length;
        match word {
            "true" => Ok(Token::True),
            "false" => Ok(Token::False),
            "null" => Ok(Token::Null),
            _ if is_number(word) => Ok(Token::Number),
            _ => Err(self.invalid()),
        }
    }

    fn lex_string(&mut self, trimmed: &str) -> Result<(), SqlError> {
        self.string.clear();
        let mut characters = trimmed.char_indices().skip(1);
        // The first half of a character that needs two escapes.
        let mut high: Option<u32> = None;
        while let Some((at, character)) = characters.next() {
            if high.is_some() && character != '\\' {
                return Err(self.invalid());
            }
            match character {
                '"' => {
                    self.end = self.start + at + 1;
                    return Ok(());
                }
                control if control < ' ' => return Err(self.invalid()),
                '\\' => {
                    let Some((_, escape)) = characters.next() else {
                        return Err(self.invalid());
                    };
                    if escape == 'u' {
                        let mut code = 0;
                        for _ in 0..4 {
                            let digit = characters.next().and_then(|(_, digit)| digit.to_digit(16));
                            code = code * 16 + digit.ok_or_else(|| self.invalid())?;
                        }
                        if self.decoding {
                            self.unicode(&mut high, code)?;
                        }
                        continue;
                    }
                    if high.is_some() {
                        return Err(self.invalid());
                    }
                    self.string.push(match escape {
                        '"' | '\\' | '/' => escape,
                        'b' => '\u{8}',
                        'f' => '\u{c}',
                        'n' => '\n',
                        'r' => '\r',
                        't' => '\t',
                        _ => return Err(self.invalid()),
                    });
                }
                other => self.string.push(other),
            }
        }
        Err(self.invalid())
    }

    fn unicode(&mut self, high: &mut Option<u32>, code: u32) -> Result<(), SqlError> {
        match (*high, code) {
            (None, 0xd800..=0xdbff) => *high = Some(code),
            (Some(first), 0xdc00..=0xdfff) => {
                let whole = 0x10000 + ((first & 0x3ff) << 10) + (code & 0x3ff);
                self.string
                    .push(char::from_u32(whole).ok_or_else(|| self.invalid())?);
                *high = None;
            }
            (Some(_), _) | (None, 0xdc00..=0xdfff) => return Err(self.invalid()),
            (None, 0) => {
                return Err(SqlError::new(
                    "22P05",
                    "unsupported Unicode escape sequence",
                ));
            }
            (None, _) => self
                .string
                .push(char::from_u32(code).ok_or_else(|| self.invalid())?),
        }
        Ok(())
    }

    /// The members of the object that begins here; `value` reads each one's value.
    pub(crate) fn members(
        &mut self,
        mut value: impl FnMut(&mut Self, String) -> Result<(), SqlError>,
    ) -> Result<(), SqlError> {
        self.expect(Token::ObjectStart)?;
        if self.token == Token::ObjectEnd {
            return self.advance();
        }
        loop {
            if self.token != Token::String {
                return Err(self.invalid());
            }
            let key = self.take_string();
            self.advance()?;
            self.expect(Token::Colon)?;
            value(self, key)?;
            if self.token != Token::Comma {
                return self.expect(Token::ObjectEnd);
            }
            self.advance()?;
        }
    }

    /// The elements of the array that begins here; `value` reads each.
    pub(crate) fn items(
        &mut self,
        mut value: impl FnMut(&mut Self) -> Result<(), SqlError>,
    ) -> Result<(), SqlError> {
        self.expect(Token::ArrayStart)?;
        if self.token == Token::ArrayEnd {
            return self.advance();
        }
        loop {
            value(self)?;
            if self.token != Token::Comma {
                return self.expect(Token::ArrayEnd);
            }
            self.advance()?;
        }
    }

    /// Passes over a value and gives its text.
    pub(crate) fn skip(&mut self, depth: usize) -> Result<&'a str, SqlError> {
        let depth = deeper(depth)?;
        let start = self.start;
        match self.token {
            Token::ObjectStart => self.members(|reader, _| reader.skip(depth).map(|_| ()))?,
            Token::ArrayStart => self.items(|reader| reader.skip(depth).map(|_| ()))?,
            Token::String | Token::Number | Token::True | Token::False | Token::Null => {
                self.advance()?
            }
            _ => return Err(self.invalid()),
        }
        Ok(self.text.get(start..self.last_end).unwrap_or_default())
    }
}

/// Whether this is a number of JSON's grammar.
pub(crate) fn is_number(word: &str) -> bool {
    let body = word.strip_prefix('-').unwrap_or(word);
    let (mantissa, exponent) = match body.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (
            mantissa,
            Some(exponent.strip_prefix(['+', '-']).unwrap_or(exponent)),
        ),
        None => (body, None),
    };
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (mantissa, None),
    };
    let is_digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    is_digits(whole)
        && (whole.len() == 1 || !whole.starts_with('0'))
        && fraction.is_none_or(is_digits)
        && exponent.is_none_or(is_digits)
}

/// A `json` value taken apart one level.
#[derive(Debug)]
pub(crate) enum Parts<'a> {
    /// Keys and the text of their values, duplicates kept.
    Object(Vec<(String, &'a str)>),
    /// The text of each element.
    Array(Vec<&'a str>),
    /// A string without its quotes.
    String(String),
    /// JSON null.
    Null,
    /// A number or truth value, as written.
    Other(&'a str),
}

/// Checks JSON text as `json_in` does.
pub(crate) fn check(text: &str) -> Result<(), SqlError> {
    let mut reader = Reader::new(text, false)?;
    reader.skip(0)?;
    reader.end()
}

/// Takes JSON text apart, decoding all of its strings.
pub(crate) fn parts(text: &str) -> Result<Parts<'_>, SqlError> {
    let mut reader = Reader::new(text, true)?;
    let parts = match reader.token() {
        Token::ObjectStart => {
            let mut members = Vec::new();
            reader.members(|reader, key| {
                members.push((key, reader.skip(0)?));
                Ok(())
            })?;
            Parts::Object(members)
        }
        Token::ArrayStart => {
            let mut items = Vec::new();
            reader.items(|reader| {
                items.push(reader.skip(0)?);
                Ok(())
            })?;
            Parts::Array(items)
        }
        Token::String => {
            let text = reader.take_string();
            reader.advance()?;
            Parts::String(text)
        }
        Token::Null => {
            reader.advance()?;
            Parts::Null
        }
        _ => Parts::Other(reader.skip(0)?),
    };
    reader.end()?;
    Ok(parts)
}
