//! SQL text to tokens. Follows the Postgres manual, "Lexical Structure".

use super::SyntaxError;

/// A token, and where it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) kind: TokenKind,
    /// Byte position in the text.
    pub(crate) start: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TokenKind {
    /// An identifier or key word, in lower case.
    Word(String),
    /// A quoted identifier.
    Quoted(String),
    /// A string constant, unescaped.
    String(String),
    /// A bit string constant: `b` or `x`, and its digits.
    Bits(char, String),
    /// A number without sign.
    Number(String),
    /// `$n`.
    Parameter(usize),
    /// An operator.
    Operator(String),
    /// `( ) [ ] , ; . :` and `:: := ..`
    Mark(&'static str),
    End,
}

/// Splits the text; the last token is always [`TokenKind::End`].
pub(crate) fn tokens(text: &str) -> Result<Vec<Token>, SyntaxError> {
    let mut lexer = Lexer { text, at: 0 };
    let mut tokens = Vec::new();
    loop {
        lexer.skip_blanks()?;
        let start = lexer.at;
        let kind = lexer.token()?;
        let end = kind == TokenKind::End;
        tokens.push(Token { kind, start });
        if end {
            return Ok(tokens);
        }
    }
}

const OPERATOR_CHARACTERS: &str = "+-*/<>=~!@#%^&|`?";
const MARKS: &[&str] = &["::", ":=", "..", "(", ")", "[", "]", ",", ";", ".", ":"];

struct Lexer<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn take_while(&mut self, accept: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let length = rest.find(|c| !accept(c)).unwrap_or(rest.len());
        self.at = self.at.saturating_add(length);
        rest.get(..length).unwrap_or_default()
    }

    fn advance(&mut self, bytes: usize) {
        self.at = self.at.saturating_add(bytes);
    }

    fn skip_blanks(&mut self) -> Result<(), SyntaxError> {
        loop {
            self.take_while(|c| c.is_ascii_whitespace() || c == '\x0b');
            if self.rest().starts_with("--") {
                self.take_while(|c| c != '\n' && c != '\r');
            } else if self.rest().starts_with("/*") {
                self.skip_comment()?;
            } else {
                return Ok(());
            }
        }
    }

    fn skip_comment(&mut self) -> Result<(), SyntaxError> {
        let mut depth = 0_usize;
        loop {
            if self.rest().starts_with("/*") {
                depth = depth.saturating_add(1);
                self.advance(2);
            } else if self.rest().starts_with("*/") {
                depth = depth.saturating_sub(1);
                self.advance(2);
                if depth == 0 {
                    return Ok(());
                }
            } else {
                let next = self.rest().chars().next();
                let next = next.ok_or_else(|| SyntaxError::new("a comment that does not end"))?;
                self.advance(next.len_utf8());
            }
        }
    }

    fn token(&mut self) -> Result<TokenKind, SyntaxError> {
        let rest = self.rest();
        let Some(first) = rest.chars().next() else {
            return Ok(TokenKind::End);
        };
        let second = rest.chars().nth(1);
        match (first, second) {
            ('\'', _) => self.plain_string(),
            ('e' | 'E', Some('\'')) => self.escaped_string(),
            ('b' | 'B' | 'x' | 'X', Some('\'')) => {
                self.advance(1);
                match self.plain_string()? {
                    TokenKind::String(digits) => {
                        Ok(TokenKind::Bits(first.to_ascii_lowercase(), digits))
                    }
                    other => Ok(other),
                }
            }
            ('u' | 'U', Some('&')) if rest.chars().nth(2).is_some_and(|c| "'\"".contains(c)) => {
                Err(SyntaxError::new("a string or name with Unicode escapes"))
            }
            ('"', _) => Ok(TokenKind::Quoted(self.delimited('"')?)),
            ('$', Some('0'..='9')) => {
                self.advance(1);
                let digits = self.take_while(|c| c.is_ascii_digit());
                let number = digits.parse();
                number
                    .map(TokenKind::Parameter)
                    .map_err(|_overflow| SyntaxError::new("a parameter number out of range"))
            }
            ('$', _) => self.dollar_string(),
            ('0'..='9', _) | ('.', Some('0'..='9')) => self.number(),
            _ if first.is_alphabetic() || first == '_' || !first.is_ascii() => {
                let word = self.take_while(|c| {
                    c.is_ascii_alphanumeric() || c == '_' || c == '$' || !c.is_ascii()
                });
                Ok(TokenKind::Word(word.to_ascii_lowercase()))
            }
            _ => {
                if let Some(mark) = MARKS.iter().find(|mark| rest.starts_with(**mark)) {
                    self.advance(mark.len());
                    return Ok(TokenKind::Mark(mark));
                }
                self.operator()
            }
        }
    }

    /// What stands between two quotes, which are doubled inside.
    fn delimited(&mut self, quote: char) -> Result<String, SyntaxError> {
        self.advance(1);
        let mut content = String::new();
        loop {
            content.push_str(self.take_while(|c| c != quote));
            if !self.rest().starts_with(quote) {
                return Err(SyntaxError::new("a string that does not end"));
            }
            self.advance(1);
            if !self.rest().starts_with(quote) {
                return Ok(content);
            }
            content.push(quote);
            self.advance(1);
        }
    }

    fn plain_string(&mut self) -> Result<TokenKind, SyntaxError> {
        let content = self.delimited('\'')?;
        self.continued()?;
        Ok(TokenKind::String(content))
    }

    /// Strings that go on after a line break are refused: nobody writes them.
    fn continued(&self) -> Result<(), SyntaxError> {
        let rest = self.rest();
        let trimmed = rest.trim_start();
        let blank = rest.get(..rest.len().saturating_sub(trimmed.len()));
        if trimmed.starts_with('\'') && blank.is_some_and(|blank| blank.contains('\n')) {
            return Err(SyntaxError::new("a string continued on the next line"));
        }
        Ok(())
    }

    fn escaped_string(&mut self) -> Result<TokenKind, SyntaxError> {
        self.advance(2);
        let mut content = String::new();
        loop {
            content.push_str(self.take_while(|c| c != '\'' && c != '\\'));
            let mut rest = self.rest().chars();
            match (rest.next(), rest.next()) {
                (Some('\''), Some('\'')) => {
                    content.push('\'');
                    self.advance(2);
                }
                (Some('\''), _) => {
                    self.advance(1);
                    self.continued()?;
                    return Ok(TokenKind::String(content));
                }
                (Some('\\'), Some(escaped)) => {
                    content.push(match escaped {
                        'n' => '\n',
                        't' => '\t',
                        'r' => '\r',
                        'b' => '\x08',
                        'f' => '\x0c',
                        '\\' | '\'' | '"' => escaped,
                        c if c.is_ascii_alphanumeric() => {
                            return Err(SyntaxError::new("a string with a numeric escape"));
                        }
                        other => other,
                    });
                    self.advance(1_usize.saturating_add(escaped.len_utf8()));
                }
                _ => return Err(SyntaxError::new("a string that does not end")),
            }
        }
    }

    fn dollar_string(&mut self) -> Result<TokenKind, SyntaxError> {
        let rest = self.rest();
        let tag = rest
            .get(1..)
            .and_then(|after| after.find('$'))
            .and_then(|end| rest.get(..end.saturating_add(2)))
            .filter(|tag| {
                tag.trim_matches('$')
                    .chars()
                    .all(|c| c.is_alphanumeric() || c == '_')
            })
            .ok_or_else(|| SyntaxError::new("a stray $"))?;
        self.advance(tag.len());
        let body = self.rest();
        let length = body
            .find(tag)
            .ok_or_else(|| SyntaxError::new("a string that does not end"))?;
        self.advance(length.saturating_add(tag.len()));
        Ok(TokenKind::String(
            body.get(..length).unwrap_or_default().to_owned(),
        ))
    }

    fn number(&mut self) -> Result<TokenKind, SyntaxError> {
        let start = self.at;
        self.take_while(|c| c.is_ascii_digit());
        // `1..2` in a loop of plpgsql is two numbers.
        if self.rest().starts_with('.') && !self.rest().starts_with("..") {
            self.advance(1);
            self.take_while(|c| c.is_ascii_digit());
        }
        let after = self.rest();
        let exponent = after
            .strip_prefix(['e', 'E'])
            .map(|e| e.strip_prefix(['+', '-']).unwrap_or(e));
        if let Some(digits) =
            exponent.filter(|digits| digits.starts_with(|c: char| c.is_ascii_digit()))
        {
            self.advance(after.len().saturating_sub(digits.len()));
            self.take_while(|c| c.is_ascii_digit());
        }
        if self
            .rest()
            .starts_with(|c: char| c.is_alphabetic() || c == '_')
        {
            return Err(SyntaxError::new("a number with trailing letters"));
        }
        let text = self.text.get(start..self.at).unwrap_or_default();
        Ok(TokenKind::Number(text.to_owned()))
    }

    /// An operator ends before a comment, and may end in + or - only if it holds a character that is not in SQL.
    fn operator(&mut self) -> Result<TokenKind, SyntaxError> {
        let rest = self.rest();
        let end = rest
            .find(|c| !OPERATOR_CHARACTERS.contains(c))
            .unwrap_or(rest.len());
        let mut operator = rest.get(..end).unwrap_or_default();
        for comment in ["--", "/*"] {
            if let Some(place) = operator.find(comment) {
                operator = operator.get(..place).unwrap_or_default();
            }
        }
        while operator.len() > 1
            && operator.ends_with(['+', '-'])
            && !operator.contains(|c| "~!@#%^&|`?".contains(c))
        {
            operator = operator
                .get(..operator.len().saturating_sub(1))
                .unwrap_or_default();
        }
        if operator.is_empty() {
            return Err(SyntaxError::new("a character that begins no token"));
        }
        self.advance(operator.len());
        let operator = if operator == "!=" { "<>" } else { operator };
        Ok(TokenKind::Operator(operator.to_owned()))
    }
}
