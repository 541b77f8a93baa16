//! Expressions, by operator precedence as in Postgres's grammar.

use super::SyntaxError;
use super::lexer::TokenKind;
use super::parser::{Parser, RESERVED};
use super::tree::{Argument, Ast, Call, Name, TypeName};

/// How tightly operators bind; what is larger binds tighter.
mod level {
    pub(super) const OR: u8 = 1;
    pub(super) const AND: u8 = 2;
    pub(super) const NOT: u8 = 3;
    pub(super) const IS: u8 = 4;
    pub(super) const COMPARISON: u8 = 5;
    pub(super) const BETWEEN: u8 = 6;
    pub(super) const OTHER: u8 = 7;
    pub(super) const ADD: u8 = 8;
    pub(super) const MULTIPLY: u8 = 9;
    pub(super) const POWER: u8 = 10;
    pub(super) const AT: u8 = 11;
    pub(super) const COLLATE: u8 = 12;
    pub(super) const SIGN: u8 = 13;
}

fn catalog(name: &str) -> Name {
    vec!["pg_catalog".to_owned(), name.to_owned()]
}

impl Ast {
    pub(super) fn call(name: Name, arguments: Vec<Self>) -> Self {
        let arguments = arguments
            .into_iter()
            .map(|value| Argument { name: None, value });
        Self::Call(Box::new(Call {
            name,
            arguments: arguments.collect(),
            star: false,
            distinct: false,
            variadic: false,
            order_by: Vec::new(),
            filter: None,
        }))
    }
}

impl Parser {
    pub(super) fn expression(&mut self) -> Result<Ast, SyntaxError> {
        self.above(0)
    }

    /// An expression of operators that bind tighter than `floor`.
    fn above(&mut self, floor: u8) -> Result<Ast, SyntaxError> {
        self.nested(|parser| {
            let mut left = parser.prefix()?;
            // `a < b < c` is an error in Postgres, and so is `a is null is null` for some spellings.
            let mut ceiling = u8::MAX;
            while let Some((next, level)) = parser.infix(left.clone(), floor, ceiling)? {
                left = next;
                ceiling = match level {
                    level::COMPARISON | level::BETWEEN | level::IS => level.saturating_sub(1),
                    _ => ceiling,
                };
            }
            Ok(left)
        })
    }

    fn prefix(&mut self) -> Result<Ast, SyntaxError> {
        if self.word("not") {
            return Ok(Ast::Not(Box::new(
                self.above(level::NOT.saturating_sub(1))?,
            )));
        }
        if let TokenKind::Operator(operator) = self.peek().clone() {
            if ["<", ">", "=", "<=", ">=", "<>", "*", "/", "%", "^"].contains(&operator.as_str()) {
                return Err(self.unexpected());
            }
            self.advance();
            let tight = matches!(operator.as_str(), "+" | "-");
            let floor = if tight { level::SIGN } else { level::OTHER };
            let argument = self.above(floor)?;
            return Ok(Ast::Unary(vec![operator], Box::new(argument)));
        }
        if self.is_word("operator") && matches!(self.peek_at(1), TokenKind::Mark("(")) {
            let operator = self.qualified_operator()?;
            let argument = self.above(level::OTHER)?;
            return Ok(Ast::Unary(operator, Box::new(argument)));
        }
        let primary = self.primary()?;
        self.suffixes(primary)
    }

    /// Subscripts, fields and casts.
    fn suffixes(&mut self, mut value: Ast) -> Result<Ast, SyntaxError> {
        loop {
            if self.mark("::") {
                value = Ast::Cast(Box::new(value), self.type_name()?);
            } else if self.mark("[") {
                let lower = match self.is_mark(":") {
                    true => None,
                    false => Some(Box::new(self.expression()?)),
                };
                if self.mark(":") {
                    let upper = match self.is_mark("]") {
                        true => None,
                        false => Some(Box::new(self.expression()?)),
                    };
                    value = Ast::Slice(Box::new(value), lower, upper);
                } else {
                    let index = lower.ok_or_else(|| self.unexpected())?;
                    value = Ast::Subscript(Box::new(value), index);
                }
                self.expect_mark("]")?;
            } else if self.is_mark(".") && !matches!(value, Ast::Name(_)) {
                self.advance();
                if self.operator("*") {
                    return Err(SyntaxError::new("(row).*"));
                }
                value = Ast::Field(Box::new(value), self.label()?);
            } else {
                return Ok(value);
            }
        }
    }

    fn qualified_operator(&mut self) -> Result<Name, SyntaxError> {
        self.expect_word("operator")?;
        self.expect_mark("(")?;
        let mut name = Vec::new();
        while !matches!(self.peek(), TokenKind::Operator(_)) {
            name.push(self.label()?);
            self.expect_mark(".")?;
        }
        if let TokenKind::Operator(operator) = self.peek().clone() {
            name.push(operator);
        }
        self.advance();
        self.expect_mark(")")?;
        Ok(name)
    }

    /// One operator with what stands right of it.
    fn infix(
        &mut self,
        left: Ast,
        floor: u8,
        ceiling: u8,
    ) -> Result<Option<(Ast, u8)>, SyntaxError> {
        let allowed = |level: u8| level > floor && level <= ceiling;
        match self.peek().clone() {
            TokenKind::Operator(operator) => {
                let level = match operator.as_str() {
                    "<" | ">" | "=" | "<=" | ">=" | "<>" => level::COMPARISON,
                    "+" | "-" => level::ADD,
                    "*" | "/" | "%" => level::MULTIPLY,
                    "^" => level::POWER,
                    _ => level::OTHER,
                };
                if !allowed(level) {
                    return Ok(None);
                }
                self.advance();
                Ok(Some((self.right_of(vec![operator], left, level)?, level)))
            }
            TokenKind::Word(word) => self.infix_word(&word, left, allowed),
            _ => Ok(None),
        }
    }

    fn right_of(&mut self, operator: Name, left: Ast, level: u8) -> Result<Ast, SyntaxError> {
        let quantifier = self.is_word("any") || self.is_word("some") || self.is_word("all");
        if quantifier && matches!(self.peek_at(1), TokenKind::Mark("(")) {
            let all = self.is_word("all");
            self.advance();
            self.expect_mark("(")?;
            let right = if self.begins_query() {
                Ast::Query(Box::new(self.query()?))
            } else {
                self.expression()?
            };
            self.expect_mark(")")?;
            // Behind a closing parenthesis nothing may be subscripted or cast.
            return Ok(Ast::Quantified(
                operator,
                all,
                Box::new(left),
                Box::new(right),
            ));
        }
        let right = self.above(level)?;
        Ok(Ast::Binary(operator, Box::new(left), Box::new(right)))
    }

    fn infix_word(
        &mut self,
        word: &str,
        left: Ast,
        allowed: impl Fn(u8) -> bool,
    ) -> Result<Option<(Ast, u8)>, SyntaxError> {
        let left = Box::new(left);
        let found = match word {
            "or" if allowed(level::OR) => {
                self.advance();
                let right = self.above(level::OR)?;
                let mut parts = match *left {
                    Ast::Or(parts) => parts,
                    other => vec![other],
                };
                parts.push(right);
                (Ast::Or(parts), level::OR)
            }
            "and" if allowed(level::AND) => {
                self.advance();
                let right = self.above(level::AND)?;
                let mut parts = match *left {
                    Ast::And(parts) => parts,
                    other => vec![other],
                };
                parts.push(right);
                (Ast::And(parts), level::AND)
            }
            "is" if allowed(level::IS) => {
                self.advance();
                (self.is_test(left)?, level::IS)
            }
            "isnull" | "notnull" if allowed(level::IS) => {
                self.advance();
                (Ast::IsNull(left, word == "notnull"), level::IS)
            }
            "not" | "between" | "in" | "like" | "ilike" | "similar" if allowed(level::BETWEEN) => {
                let negated = self.word("not");
                (self.membership(left, negated)?, level::BETWEEN)
            }
            "operator"
                if allowed(level::OTHER) && matches!(self.peek_at(1), TokenKind::Mark("(")) =>
            {
                let operator = self.qualified_operator()?;
                (self.right_of(operator, *left, level::OTHER)?, level::OTHER)
            }
            "at" if allowed(level::AT) && self.is_word_at(1, "time") => {
                if !self.words(&["at", "time", "zone"]) {
                    return Err(self.unexpected());
                }
                let zone = self.above(level::AT)?;
                (Ast::call(catalog("timezone"), vec![zone, *left]), level::AT)
            }
            "collate" if allowed(level::COLLATE) => {
                self.advance();
                (Ast::Collate(left, self.name()?), level::COLLATE)
            }
            _ => return Ok(None),
        };
        Ok(Some(found))
    }

    fn is_test(&mut self, left: Box<Ast>) -> Result<Ast, SyntaxError> {
        let negated = self.word("not");
        if self.words(&["distinct", "from"]) {
            let right = self.above(level::IS)?;
            return Ok(Ast::Distinct(left, Box::new(right), negated));
        }
        let truth = match self.peek() {
            TokenKind::Word(word) => match word.as_str() {
                "null" => None,
                "true" => Some(Some(true)),
                "false" => Some(Some(false)),
                "unknown" => Some(None),
                _ => return Err(self.unexpected()),
            },
            _ => return Err(self.unexpected()),
        };
        self.advance();
        Ok(match truth {
            None => Ast::IsNull(left, negated),
            Some(truth) => Ast::IsTruth(left, truth, negated),
        })
    }

    /// IN, BETWEEN, LIKE and their like.
    fn membership(&mut self, left: Box<Ast>, negated: bool) -> Result<Ast, SyntaxError> {
        let not = |ast: Ast| {
            if negated {
                Ast::Not(Box::new(ast))
            } else {
                ast
            }
        };
        if self.word("in") {
            self.expect_mark("(")?;
            let ast = if self.begins_query() {
                Ast::InQuery(left, Box::new(self.query()?), negated)
            } else {
                Ast::InList(left, self.list(Self::expression)?, negated)
            };
            self.expect_mark(")")?;
            return Ok(ast);
        }
        if self.word("between") {
            if self.word("symmetric") {
                return Err(SyntaxError::new("BETWEEN SYMMETRIC"));
            }
            self.word("asymmetric");
            // The lower bound is a b_expr: no AND, no comparison words.
            let lower = self.above(level::BETWEEN)?;
            self.expect_word("and")?;
            let upper = self.above(level::BETWEEN)?;
            return Ok(not(Ast::And(vec![
                Ast::Binary(vec![">=".to_owned()], left.clone(), Box::new(lower)),
                Ast::Binary(vec!["<=".to_owned()], left, Box::new(upper)),
            ])));
        }
        let operator = match () {
            () if self.word("like") => {
                if negated {
                    "!~~"
                } else {
                    "~~"
                }
            }
            () if self.word("ilike") => {
                if negated {
                    "!~~*"
                } else {
                    "~~*"
                }
            }
            () => return Err(SyntaxError::new("SIMILAR TO")),
        };
        let pattern = self.right_of(vec![operator.to_owned()], *left, level::BETWEEN)?;
        if self.is_word("escape") {
            return Err(SyntaxError::new("LIKE with ESCAPE"));
        }
        Ok(pattern)
    }

    fn primary(&mut self) -> Result<Ast, SyntaxError> {
        match self.peek().clone() {
            TokenKind::String(text) => {
                self.advance();
                Ok(Ast::String(text))
            }
            TokenKind::Bits(base, digits) => {
                self.advance();
                Ok(Ast::Bits(base, digits))
            }
            TokenKind::Number(number) => {
                self.advance();
                Ok(Ast::Number(number))
            }
            TokenKind::Parameter(number) => {
                self.advance();
                Ok(Ast::Parameter(number))
            }
            TokenKind::Mark("(") => self.parenthesis(),
            TokenKind::Word(word) => self.word_expression(&word),
            TokenKind::Quoted(_) => self.named(),
            TokenKind::Operator(_) | TokenKind::Mark(_) | TokenKind::End => Err(self.unexpected()),
        }
    }

    fn parenthesis(&mut self) -> Result<Ast, SyntaxError> {
        self.expect_mark("(")?;
        if self.begins_query() {
            let query = self.query()?;
            self.expect_mark(")")?;
            return Ok(Ast::Query(Box::new(query)));
        }
        let mut items = self.list(Self::expression)?;
        self.expect_mark(")")?;
        match items.pop() {
            Some(item) if items.is_empty() => match item {
                // `(a).b` is a field of the row a, `a.b` perhaps a column.
                Ast::Name(_) if self.is_mark(".") => {
                    self.advance();
                    if self.operator("*") {
                        return Err(SyntaxError::new("(row).*"));
                    }
                    Ok(Ast::Field(Box::new(item), self.label()?))
                }
                // Keeps chains of AND and OR apart, as they were written.
                other => Ok(other),
            },
            Some(last) => {
                items.push(last);
                Ok(Ast::Row(items))
            }
            None => Err(self.unexpected()),
        }
    }

    fn word_expression(&mut self, word: &str) -> Result<Ast, SyntaxError> {
        let opens = matches!(self.peek_at(1), TokenKind::Mark("("));
        let constant = match word {
            "null" => Some(Ast::Null),
            "true" => Some(Ast::Bool(true)),
            "false" => Some(Ast::Bool(false)),
            _ => None,
        };
        if let Some(constant) = constant {
            self.advance();
            return Ok(constant);
        }
        for known in [
            "current_user",
            "session_user",
            "user",
            "current_role",
            "current_date",
            "current_time",
            "current_timestamp",
            "localtime",
            "localtimestamp",
            "current_catalog",
        ] {
            if word == known {
                self.advance();
                let mut precision = None;
                if self.mark("(") {
                    precision = Some(self.integer()?);
                    self.expect_mark(")")?;
                }
                return Ok(Ast::Session(known, precision));
            }
        }
        match word {
            "case" => self.case(),
            "array" if opens || matches!(self.peek_at(1), TokenKind::Mark("[")) => self.array(),
            "exists" if opens => {
                self.advance();
                self.expect_mark("(")?;
                let query = self.query()?;
                self.expect_mark(")")?;
                Ok(Ast::Exists(Box::new(query)))
            }
            "cast" if opens => {
                self.advance();
                self.expect_mark("(")?;
                let value = self.expression()?;
                self.expect_word("as")?;
                let target = self.type_name()?;
                self.expect_mark(")")?;
                Ok(Ast::Cast(Box::new(value), target))
            }
            "row" if opens => {
                self.advance();
                self.expect_mark("(")?;
                let items = if self.is_mark(")") {
                    Vec::new()
                } else {
                    self.list(Self::expression)?
                };
                self.expect_mark(")")?;
                Ok(Ast::Row(items))
            }
            "coalesce" | "greatest" | "least" | "nullif" if opens => {
                self.advance();
                self.expect_mark("(")?;
                let mut items = self.list(Self::expression)?;
                self.expect_mark(")")?;
                Ok(match word {
                    "coalesce" => Ast::Coalesce(items),
                    "nullif" => match (items.pop(), items.pop(), items.pop()) {
                        (Some(second), Some(first), None) => {
                            Ast::NullIf(Box::new(first), Box::new(second))
                        }
                        _ => return Err(self.unexpected()),
                    },
                    _ => Ast::Extreme(word == "greatest", items),
                })
            }
            "substring" | "position" | "extract" | "trim" | "overlay" if opens => {
                self.keyword_call(word)
            }
            "normalize" | "xmlelement" | "xmlforest" | "xmlparse" | "treat" | "grouping"
                if opens =>
            {
                Err(self.unexpected())
            }
            "interval" | "date" | "timestamp" | "timestamptz" | "time" | "uuid" | "text"
            | "json" | "jsonb"
                if self.typed_string() =>
            {
                let target = self.type_name()?;
                match self.peek().clone() {
                    TokenKind::String(text) => {
                        self.advance();
                        Ok(Ast::Cast(Box::new(Ast::String(text)), target))
                    }
                    _ => Err(self.unexpected()),
                }
            }
            _ => self.named(),
        }
    }

    /// Whether `type 'text'` stands here.
    fn typed_string(&self) -> bool {
        if matches!(self.peek_at(1), TokenKind::String(_)) {
            return true;
        }
        let words: &[&[&str]] = &[&["with", "time", "zone"], &["without", "time", "zone"]];
        words.iter().any(|words| {
            words
                .iter()
                .zip(1..)
                .all(|(word, ahead)| self.is_word_at(ahead, word))
                && matches!(self.peek_at(4), TokenKind::String(_))
        })
    }

    fn case(&mut self) -> Result<Ast, SyntaxError> {
        self.expect_word("case")?;
        let operand = match self.is_word("when") {
            true => None,
            false => Some(Box::new(self.expression()?)),
        };
        let mut branches = Vec::new();
        while self.word("when") {
            let condition = self.expression()?;
            self.expect_word("then")?;
            branches.push((condition, self.expression()?));
        }
        let otherwise = match self.word("else") {
            true => Some(Box::new(self.expression()?)),
            false => None,
        };
        self.expect_word("end")?;
        Ok(Ast::Case(operand, branches, otherwise))
    }

    fn array(&mut self) -> Result<Ast, SyntaxError> {
        self.expect_word("array")?;
        if self.mark("(") {
            let query = self.query()?;
            self.expect_mark(")")?;
            return Ok(Ast::ArrayQuery(Box::new(query)));
        }
        self.expect_mark("[")?;
        let items = if self.is_mark("]") {
            Vec::new()
        } else {
            self.list(Self::expression)?
        };
        self.expect_mark("]")?;
        Ok(Ast::Array(items))
    }

    /// Functions whose arguments are separated by key words.
    fn keyword_call(&mut self, word: &str) -> Result<Ast, SyntaxError> {
        self.advance();
        self.expect_mark("(")?;
        let (name, arguments) = match word {
            "extract" => {
                let (TokenKind::Word(field) | TokenKind::String(field) | TokenKind::Quoted(field)) =
                    self.peek().clone()
                else {
                    return Err(self.unexpected());
                };
                self.advance();
                self.expect_word("from")?;
                (
                    catalog("extract"),
                    vec![Ast::String(field), self.expression()?],
                )
            }
            "position" => {
                let needle = self.above(level::BETWEEN)?;
                self.expect_word("in")?;
                let text = self.above(level::BETWEEN)?;
                (catalog("position"), vec![text, needle])
            }
            "trim" => {
                let name = match () {
                    () if self.word("leading") => "ltrim",
                    () if self.word("trailing") => "rtrim",
                    () => {
                        self.word("both");
                        "btrim"
                    }
                };
                let mut arguments = Vec::new();
                if self.word("from") {
                    arguments.push(self.expression()?);
                } else {
                    let first = self.expression()?;
                    if self.word("from") {
                        arguments.push(self.expression()?);
                        arguments.push(first);
                    } else {
                        arguments.push(first);
                        if self.mark(",") {
                            arguments.push(self.expression()?);
                        }
                    }
                }
                (catalog(name), arguments)
            }
            "substring" => {
                let mut arguments = vec![self.expression()?];
                let plain = self.is_mark(",");
                if self.word("from") {
                    arguments.push(self.expression()?);
                    if self.word("for") {
                        arguments.push(self.expression()?);
                    }
                } else if self.word("for") {
                    arguments.push(Ast::Number("1".to_owned()));
                    let length = self.expression()?;
                    arguments.push(Ast::Cast(
                        Box::new(length),
                        TypeName {
                            name: catalog("int4"),
                            modifiers: Vec::new(),
                            array: false,
                            percent: None,
                        },
                    ));
                } else {
                    while self.mark(",") {
                        arguments.push(self.expression()?);
                    }
                }
                let name = if plain {
                    vec!["substring".to_owned()]
                } else {
                    catalog("substring")
                };
                (name, arguments)
            }
            _ => return Err(SyntaxError::new("OVERLAY")),
        };
        self.expect_mark(")")?;
        Ok(Ast::call(name, arguments))
    }

    /// A column, a row, or a call.
    fn named(&mut self) -> Result<Ast, SyntaxError> {
        let mut name = match self.peek() {
            TokenKind::Word(word)
                if matches!(
                    word.as_str(),
                    "left" | "right" | "overlaps" | "like" | "current_schema"
                ) && matches!(self.peek_at(1), TokenKind::Mark("(")) =>
            {
                vec![self.label()?]
            }
            TokenKind::Word(word) if RESERVED.contains(&word.as_str()) => {
                return Err(self.unexpected());
            }
            _ => vec![self.label()?],
        };
        while self.is_mark(".") {
            self.advance();
            if self.operator("*") {
                return Ok(Ast::Star(name));
            }
            name.push(self.label()?);
        }
        if !self.is_mark("(") {
            return Ok(Ast::Name(name));
        }
        self.arguments(name).map(|call| Ast::Call(Box::new(call)))
    }

    pub(super) fn arguments(&mut self, name: Name) -> Result<Call, SyntaxError> {
        self.expect_mark("(")?;
        let mut call = Call {
            name,
            arguments: Vec::new(),
            star: false,
            distinct: false,
            variadic: false,
            order_by: Vec::new(),
            filter: None,
        };
        if self.operator("*") {
            call.star = true;
        } else if !self.is_mark(")") {
            call.distinct = self.word("distinct");
            loop {
                call.variadic = self.word("variadic");
                let named = matches!(self.peek(), TokenKind::Word(_) | TokenKind::Quoted(_))
                    && (matches!(self.peek_at(1), TokenKind::Mark(":="))
                        || matches!(self.peek_at(1), TokenKind::Operator(arrow) if arrow == "=>"));
                let name = if named {
                    let name = self.label()?;
                    self.advance();
                    Some(name)
                } else {
                    None
                };
                call.arguments.push(Argument {
                    name,
                    value: self.expression()?,
                });
                if call.variadic || !self.mark(",") {
                    break;
                }
            }
            if self.words(&["order", "by"]) {
                call.order_by = self.sort_list()?;
            }
        }
        self.expect_mark(")")?;
        if self.is_word("within") || self.is_word("over") {
            return Err(SyntaxError::new("a window function"));
        }
        if self.is_word("filter") && matches!(self.peek_at(1), TokenKind::Mark("(")) {
            self.advance();
            self.expect_mark("(")?;
            self.expect_word("where")?;
            call.filter = Some(self.expression()?);
            self.expect_mark(")")?;
        }
        Ok(call)
    }
}
