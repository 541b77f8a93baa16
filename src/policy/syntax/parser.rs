//! The parser's state, names and types.

use super::SyntaxError;
use super::lexer::{Token, TokenKind, tokens};
use super::tree::{Ast, Name, Query, TypeName};

/// Nesting beyond this is refused, to protect the stack.
const DEPTH_MAX: usize = 80;

pub(super) struct Parser {
    tokens: Vec<Token>,
    at: usize,
    pub(super) depth: usize,
    /// `into` is taken out of queries.
    pub(super) plpgsql: bool,
}

/// One expression.
pub(crate) fn expression(text: &str) -> Result<Ast, SyntaxError> {
    let mut parser = Parser::new(text)?;
    let ast = parser.expression()?;
    parser.end()?;
    Ok(ast)
}

/// Queries separated by semicolons; `begin atomic … end` and `return …` are taken as well.
pub(crate) fn statements(text: &str) -> Result<Vec<Query>, SyntaxError> {
    let mut parser = Parser::new(text)?;
    let atomic = parser.words(&["begin", "atomic"]);
    if parser.word("return") {
        let value = parser.expression()?;
        parser.mark(";");
        parser.end()?;
        return Ok(vec![Query::of(value)]);
    }
    let mut queries = Vec::new();
    loop {
        while parser.mark(";") {}
        if atomic && parser.word("end") {
            parser.mark(";");
            parser.end()?;
            return Ok(queries);
        }
        if !atomic && parser.at_end() {
            return Ok(queries);
        }
        queries.push(parser.query()?);
        if !parser.at_end() {
            parser.expect_mark(";")?;
        }
    }
}

impl Parser {
    pub(super) fn new(text: &str) -> Result<Self, SyntaxError> {
        Ok(Self {
            tokens: tokens(text)?,
            at: 0,
            depth: 0,
            plpgsql: false,
        })
    }

    pub(super) fn peek(&self) -> &TokenKind {
        self.peek_at(0)
    }

    pub(super) fn peek_at(&self, ahead: usize) -> &TokenKind {
        self.tokens
            .get(self.at.saturating_add(ahead))
            .map_or(&TokenKind::End, |token| &token.kind)
    }

    pub(super) fn advance(&mut self) {
        self.at = self.at.saturating_add(1);
    }

    pub(super) fn position(&self) -> usize {
        self.at
    }

    pub(super) fn rewind(&mut self, position: usize) {
        self.at = position;
    }

    pub(super) fn at_end(&self) -> bool {
        *self.peek() == TokenKind::End
    }

    pub(super) fn end(&self) -> Result<(), SyntaxError> {
        if self.at_end() {
            Ok(())
        } else {
            Err(self.unexpected())
        }
    }

    pub(super) fn unexpected(&self) -> SyntaxError {
        let shown = match self.peek() {
            TokenKind::Word(word) => word.clone(),
            TokenKind::Quoted(name) => format!("\"{name}\""),
            TokenKind::String(_) | TokenKind::Bits(..) => "a string".to_owned(),
            TokenKind::Number(number) => number.clone(),
            TokenKind::Parameter(number) => format!("${number}"),
            TokenKind::Operator(operator) => operator.clone(),
            TokenKind::Mark(mark) => (*mark).to_owned(),
            TokenKind::End => "its end".to_owned(),
        };
        SyntaxError::new(format!("the syntax at {shown}"))
    }

    pub(super) fn is_word(&self, word: &str) -> bool {
        self.is_word_at(0, word)
    }

    pub(super) fn is_word_at(&self, ahead: usize, word: &str) -> bool {
        matches!(self.peek_at(ahead), TokenKind::Word(found) if found == word)
    }

    /// Takes the key word if it is next.
    pub(super) fn word(&mut self, word: &str) -> bool {
        let found = self.is_word(word);
        if found {
            self.advance();
        }
        found
    }

    /// Takes all of the key words, or none.
    pub(super) fn words(&mut self, words: &[&str]) -> bool {
        let found = words
            .iter()
            .enumerate()
            .all(|(ahead, word)| self.is_word_at(ahead, word));
        if found {
            self.at = self.at.saturating_add(words.len());
        }
        found
    }

    pub(super) fn expect_word(&mut self, word: &str) -> Result<(), SyntaxError> {
        if self.word(word) {
            Ok(())
        } else {
            Err(self.unexpected())
        }
    }

    pub(super) fn is_mark(&self, mark: &str) -> bool {
        matches!(self.peek(), TokenKind::Mark(found) if *found == mark)
    }

    pub(super) fn mark(&mut self, mark: &str) -> bool {
        let found = self.is_mark(mark);
        if found {
            self.advance();
        }
        found
    }

    pub(super) fn expect_mark(&mut self, mark: &str) -> Result<(), SyntaxError> {
        if self.mark(mark) {
            Ok(())
        } else {
            Err(self.unexpected())
        }
    }

    pub(super) fn is_operator(&self, operator: &str) -> bool {
        matches!(self.peek(), TokenKind::Operator(found) if found == operator)
    }

    pub(super) fn operator(&mut self, operator: &str) -> bool {
        let found = self.is_operator(operator);
        if found {
            self.advance();
        }
        found
    }

    /// Runs one level deeper.
    pub(super) fn nested<T>(
        &mut self,
        parse: impl FnOnce(&mut Self) -> Result<T, SyntaxError>,
    ) -> Result<T, SyntaxError> {
        if self.depth >= DEPTH_MAX {
            return Err(SyntaxError::new("an expression nested too deeply"));
        }
        self.depth = self.depth.saturating_add(1);
        let parsed = parse(self);
        self.depth = self.depth.saturating_sub(1);
        parsed
    }

    /// Items separated by commas.
    pub(super) fn list<T>(
        &mut self,
        item: impl Fn(&mut Self) -> Result<T, SyntaxError>,
    ) -> Result<Vec<T>, SyntaxError> {
        let mut items = vec![item(self)?];
        while self.mark(",") {
            items.push(item(self)?);
        }
        Ok(items)
    }

    /// An identifier that is no reserved word.
    pub(super) fn identifier(&mut self) -> Result<String, SyntaxError> {
        let name = match self.peek() {
            TokenKind::Word(word) if !RESERVED.contains(&word.as_str()) => word.clone(),
            TokenKind::Quoted(name) => name.clone(),
            _ => return Err(self.unexpected()),
        };
        self.advance();
        Ok(name)
    }

    /// What may stand behind a dot or AS: any word.
    pub(super) fn label(&mut self) -> Result<String, SyntaxError> {
        let name = match self.peek() {
            TokenKind::Word(name) | TokenKind::Quoted(name) => name.clone(),
            _ => return Err(self.unexpected()),
        };
        self.advance();
        Ok(name)
    }

    pub(super) fn name(&mut self) -> Result<Name, SyntaxError> {
        let mut parts = vec![self.identifier()?];
        while self.is_mark(".") && !matches!(self.peek_at(1), TokenKind::Operator(_)) {
            self.advance();
            parts.push(self.label()?);
        }
        Ok(parts)
    }

    pub(super) fn integer(&mut self) -> Result<i32, SyntaxError> {
        let minus = self.operator("-");
        let number = match self.peek() {
            TokenKind::Number(number) => number.parse::<i32>().ok(),
            _ => None,
        };
        let number = number.ok_or_else(|| self.unexpected())?;
        self.advance();
        Ok(if minus {
            number.saturating_neg()
        } else {
            number
        })
    }

    /// A type's name with modifiers and array bounds.
    pub(super) fn type_name(&mut self) -> Result<TypeName, SyntaxError> {
        let mut named = self.plain_type()?;
        while self.mark("[") {
            if !self.is_mark("]") {
                self.integer()?;
            }
            self.expect_mark("]")?;
            named.array = true;
        }
        if self.word("array") {
            named.array = true;
        }
        Ok(named)
    }

    fn plain_type(&mut self) -> Result<TypeName, SyntaxError> {
        const BUILT_IN: &[(&[&str], &str)] = &[
            (&["double", "precision"], "float8"),
            (&["character", "varying"], "varchar"),
            (&["char", "varying"], "varchar"),
            (&["bit", "varying"], "varbit"),
            (&["character"], "bpchar"),
            (&["char"], "bpchar"),
            (&["boolean"], "bool"),
            (&["smallint"], "int2"),
            (&["integer"], "int4"),
            (&["int"], "int4"),
            (&["bigint"], "int8"),
            (&["real"], "float4"),
            (&["decimal"], "numeric"),
            (&["dec"], "numeric"),
            (&["float"], "float8"),
            (&["numeric"], "numeric"),
            (&["varchar"], "varchar"),
            (&["bit"], "bit"),
            (&["interval"], "interval"),
        ];
        self.word("setof");
        for (words, name) in BUILT_IN {
            // `char.x` would be a name of the user's.
            if self.words(words) {
                let modifiers = self.modifiers()?;
                let modifiers = match *name {
                    "bpchar" | "bit" if modifiers.is_empty() => vec![1],
                    "float8" if words == &["float"] && !modifiers.is_empty() => {
                        return Err(SyntaxError::new("a float with a precision"));
                    }
                    _ => modifiers,
                };
                return Ok(TypeName::built_in(name, modifiers));
            }
        }
        for (word, with_zone) in [("timestamp", "timestamptz"), ("time", "timetz")] {
            if self.word(word) {
                let modifiers = self.modifiers()?;
                let zoned = self.words(&["with", "time", "zone"]);
                if !zoned {
                    self.words(&["without", "time", "zone"]);
                }
                let name = if zoned { with_zone } else { word };
                return Ok(TypeName::built_in(name, modifiers));
            }
        }
        let mut parts = vec![self.label()?];
        while self.mark(".") {
            parts.push(self.label()?);
        }
        let mut named = TypeName {
            name: parts,
            modifiers: self.modifiers()?,
            array: false,
            percent: None,
        };
        if self.plpgsql && self.operator("%") {
            named.percent = Some(self.label()?);
        }
        Ok(named)
    }

    fn modifiers(&mut self) -> Result<Vec<i32>, SyntaxError> {
        if !self.mark("(") {
            return Ok(Vec::new());
        }
        let modifiers = self.list(Self::integer)?;
        self.expect_mark(")")?;
        Ok(modifiers)
    }
}

impl TypeName {
    fn built_in(name: &str, modifiers: Vec<i32>) -> Self {
        Self {
            name: vec!["pg_catalog".to_owned(), name.to_owned()],
            modifiers,
            array: false,
            percent: None,
        }
    }
}

/// Reserved words of Postgres, those that may name functions and types included.
pub(super) const RESERVED: &[&str] = &[
    "all",
    "analyse",
    "analyze",
    "and",
    "any",
    "array",
    "as",
    "asc",
    "asymmetric",
    "both",
    "case",
    "cast",
    "check",
    "collate",
    "column",
    "constraint",
    "create",
    "current_catalog",
    "current_date",
    "current_role",
    "current_time",
    "current_timestamp",
    "current_user",
    "default",
    "deferrable",
    "desc",
    "distinct",
    "do",
    "else",
    "end",
    "except",
    "false",
    "fetch",
    "for",
    "foreign",
    "from",
    "grant",
    "group",
    "having",
    "in",
    "initially",
    "intersect",
    "into",
    "lateral",
    "leading",
    "limit",
    "localtime",
    "localtimestamp",
    "not",
    "null",
    "offset",
    "on",
    "only",
    "or",
    "order",
    "placing",
    "primary",
    "references",
    "returning",
    "select",
    "session_user",
    "some",
    "symmetric",
    "table",
    "then",
    "to",
    "trailing",
    "true",
    "union",
    "unique",
    "user",
    "using",
    "variadic",
    "when",
    "where",
    "window",
    "with",
    // May name functions and types, but neither tables nor columns.
    "authorization",
    "binary",
    "collation",
    "concurrently",
    "cross",
    "current_schema",
    "freeze",
    "full",
    "ilike",
    "inner",
    "is",
    "isnull",
    "join",
    "left",
    "like",
    "natural",
    "notnull",
    "outer",
    "overlaps",
    "right",
    "similar",
    "tablesample",
    "verbose",
];
