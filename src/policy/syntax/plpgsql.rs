//! Bodies of PL/pgSQL functions. What writes, loops without end in sight, or runs SQL from text is an error.

use super::SyntaxError;
use super::lexer::TokenKind;
use super::parser::Parser;
use super::tree::{Ast, Name, Query, TypeName};

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Block {
    pub(crate) label: Option<String>,
    pub(crate) declarations: Vec<Declaration>,
    pub(crate) statements: Vec<Statement>,
    /// Conditions and what follows each; empty without an EXCEPTION part.
    pub(crate) handlers: Vec<(Vec<String>, Vec<Statement>)>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Declaration {
    pub(crate) name: String,
    /// `alias for $1` has none.
    pub(crate) type_name: Option<TypeName>,
    pub(crate) alias_for: Option<Ast>,
    pub(crate) constant: bool,
    pub(crate) not_null: bool,
    pub(crate) default: Option<Query>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Statement {
    Block(Block),
    Assign(Name, Query),
    If(Vec<(Query, Vec<Self>)>, Vec<Self>),
    Case(Option<Ast>, Vec<(Vec<Ast>, Vec<Self>)>, Option<Vec<Self>>),
    Return(Option<Query>),
    ReturnQuery(Query),
    ReturnNext(Option<Query>),
    /// Level, arguments, SQLSTATE or condition name for exceptions.
    Raise(String, Vec<Query>, Option<String>),
    /// A query; its result goes into variables or is dropped.
    Query(Query),
    Perform(Query),
    /// FOR target IN query LOOP
    ForQuery(Name, Query, Vec<Self>),
    /// FOREACH target IN ARRAY expression LOOP
    ForEach(Name, Query, Vec<Self>),
    /// EXIT or CONTINUE (true), WHEN
    Leave(bool, Option<Query>),
    Nothing,
}

/// The body of a function.
pub(crate) fn block(text: &str) -> Result<Block, SyntaxError> {
    let mut parser = Parser::new(text)?;
    parser.plpgsql = true;
    if parser.operator("#") {
        return Err(SyntaxError::new("an option of PL/pgSQL"));
    }
    let block = parser.block()?;
    parser.mark(";");
    parser.end()?;
    Ok(block)
}

impl Parser {
    fn block(&mut self) -> Result<Block, SyntaxError> {
        let mut label = None;
        if self.operator("<<") {
            label = Some(self.label()?);
            if !self.operator(">>") {
                return Err(self.unexpected());
            }
        }
        let mut declarations = Vec::new();
        while self.word("declare") {
            while !self.is_word("begin") && !self.is_word("declare") {
                declarations.push(self.declaration()?);
            }
        }
        self.expect_word("begin")?;
        let statements = self.statements(&["end", "exception"])?;
        let mut handlers = Vec::new();
        if self.word("exception") {
            while self.word("when") {
                let mut conditions = Vec::new();
                loop {
                    if self.word("sqlstate") {
                        conditions.push(self.string()?);
                    } else {
                        conditions.push(self.label()?);
                    }
                    if !self.word("or") {
                        break;
                    }
                }
                self.expect_word("then")?;
                handlers.push((conditions, self.statements(&["end", "when"])?));
            }
        }
        self.expect_word("end")?;
        if !self.is_mark(";") && !self.at_end() {
            self.label()?;
        }
        Ok(Block {
            label,
            declarations,
            statements,
            handlers,
        })
    }

    fn string(&mut self) -> Result<String, SyntaxError> {
        match self.peek().clone() {
            TokenKind::String(text) => {
                self.advance();
                Ok(text)
            }
            _ => Err(self.unexpected()),
        }
    }

    fn declaration(&mut self) -> Result<Declaration, SyntaxError> {
        let name = self.label()?;
        let constant = self.word("constant");
        let mut declaration = Declaration {
            name,
            type_name: None,
            alias_for: None,
            constant,
            not_null: false,
            default: None,
        };
        if self.words(&["alias", "for"]) {
            declaration.alias_for = Some(match self.peek().clone() {
                TokenKind::Parameter(number) => {
                    self.advance();
                    Ast::Parameter(number)
                }
                _ => Ast::Name(self.name()?),
            });
        } else {
            if self.is_word("cursor") || self.is_word("refcursor") {
                return Err(SyntaxError::new("a cursor"));
            }
            declaration.type_name = Some(self.type_name()?);
            if self.is_word("collate") {
                return Err(self.unexpected());
            }
            declaration.not_null = self.words(&["not", "null"]);
            if self.mark(":=") || self.word("default") || self.operator("=") {
                declaration.default = Some(self.sql_expression()?);
            }
        }
        self.expect_mark(";")?;
        Ok(declaration)
    }

    /// What PL/pgSQL calls an expression is all that may follow SELECT.
    fn sql_expression(&mut self) -> Result<Query, SyntaxError> {
        let query = self.select()?;
        if query.into.is_some() {
            return Err(self.unexpected());
        }
        Ok(query)
    }

    fn statements(&mut self, ends: &[&str]) -> Result<Vec<Statement>, SyntaxError> {
        let mut statements = Vec::new();
        loop {
            if self.at_end() {
                return Err(self.unexpected());
            }
            if ends.iter().any(|end| self.is_word(end)) {
                return Ok(statements);
            }
            statements.push(self.nested(Self::statement)?);
        }
    }

    fn statement(&mut self) -> Result<Statement, SyntaxError> {
        if self.is_word("begin") || self.is_word("declare") || self.is_operator("<<") {
            let block = self.block()?;
            self.expect_mark(";")?;
            return Ok(Statement::Block(block));
        }
        let assigns = |parser: &Self| {
            let mut ahead = 1_usize;
            while matches!(parser.peek_at(ahead), TokenKind::Mark(".")) {
                ahead = ahead.saturating_add(2);
            }
            matches!(parser.peek_at(ahead), TokenKind::Mark(":="))
                || matches!(parser.peek_at(ahead), TokenKind::Operator(equal) if equal == "=")
        };
        if matches!(self.peek(), TokenKind::Word(_) | TokenKind::Quoted(_)) && assigns(self) {
            let mut target = vec![self.label()?];
            while self.mark(".") {
                target.push(self.label()?);
            }
            self.advance();
            let value = self.sql_expression()?;
            self.expect_mark(";")?;
            return Ok(Statement::Assign(target, value));
        }
        let TokenKind::Word(word) = self.peek().clone() else {
            return Err(self.unexpected());
        };
        let statement = match word.as_str() {
            "if" => self.if_statement()?,
            "case" => self.case_statement()?,
            "return" => self.return_statement()?,
            "raise" => self.raise()?,
            "select" | "with" | "values" => Statement::Query(self.query()?),
            "perform" => {
                self.advance();
                let mut query = self.select()?;
                self.finish_select(&mut query)?;
                Statement::Perform(query)
            }
            "null" => {
                self.advance();
                Statement::Nothing
            }
            "for" => self.for_loop()?,
            "foreach" => {
                self.advance();
                let target = self.name()?;
                self.expect_word("in")?;
                self.expect_word("array")?;
                let value = self.sql_expression()?;
                Statement::ForEach(target, value, self.loop_body()?)
            }
            "exit" | "continue" => {
                self.advance();
                let condition = match self.word("when") {
                    true => Some(self.sql_expression()?),
                    false => None,
                };
                Statement::Leave(word == "continue", condition)
            }
            "insert" | "update" | "delete" | "merge" | "truncate" | "create" | "drop" | "alter"
            | "lock" => {
                return Err(SyntaxError::new("a function that writes"));
            }
            "execute" => return Err(SyntaxError::new("SQL run from text")),
            "loop" | "while" => return Err(SyntaxError::new("an open loop")),
            other => return Err(SyntaxError::new(format!("the statement {other}"))),
        };
        self.expect_mark(";")?;
        Ok(statement)
    }

    fn finish_select(&mut self, query: &mut Query) -> Result<(), SyntaxError> {
        self.tail(query)
    }

    fn if_statement(&mut self) -> Result<Statement, SyntaxError> {
        let mut branches = Vec::new();
        self.expect_word("if")?;
        loop {
            let condition = self.sql_expression()?;
            self.expect_word("then")?;
            branches.push((
                condition,
                self.statements(&["elsif", "elseif", "else", "end"])?,
            ));
            if !self.word("elsif") && !self.word("elseif") {
                break;
            }
        }
        let otherwise = match self.word("else") {
            true => self.statements(&["end"])?,
            false => Vec::new(),
        };
        self.expect_word("end")?;
        self.expect_word("if")?;
        Ok(Statement::If(branches, otherwise))
    }

    fn case_statement(&mut self) -> Result<Statement, SyntaxError> {
        self.expect_word("case")?;
        let operand = match self.is_word("when") {
            true => None,
            false => Some(self.expression()?),
        };
        let mut branches = Vec::new();
        while self.word("when") {
            let conditions = self.list(Self::expression)?;
            self.expect_word("then")?;
            branches.push((conditions, self.statements(&["when", "else", "end"])?));
        }
        let otherwise = match self.word("else") {
            true => Some(self.statements(&["end"])?),
            false => None,
        };
        self.expect_word("end")?;
        self.expect_word("case")?;
        Ok(Statement::Case(operand, branches, otherwise))
    }

    fn return_statement(&mut self) -> Result<Statement, SyntaxError> {
        self.expect_word("return")?;
        if self.word("query") {
            if self.is_word("execute") {
                return Err(SyntaxError::new("SQL run from text"));
            }
            return Ok(Statement::ReturnQuery(self.query()?));
        }
        if self.word("next") {
            let value = match self.is_mark(";") {
                true => None,
                false => Some(self.sql_expression()?),
            };
            return Ok(Statement::ReturnNext(value));
        }
        if self.is_mark(";") {
            return Ok(Statement::Return(None));
        }
        let mut value = self.sql_expression()?;
        self.finish_select(&mut value)?;
        Ok(Statement::Return(Some(value)))
    }

    fn raise(&mut self) -> Result<Statement, SyntaxError> {
        self.expect_word("raise")?;
        let mut level = "exception".to_owned();
        const LEVELS: &[&str] = &["debug", "log", "info", "notice", "warning", "exception"];
        if let Some(found) = LEVELS.iter().find(|level| self.is_word(level)) {
            (*found).clone_into(&mut level);
            self.advance();
        }
        if self.is_mark(";") {
            return Ok(Statement::Raise("again".to_owned(), Vec::new(), None));
        }
        let mut condition = None;
        let mut arguments = Vec::new();
        match self.peek().clone() {
            TokenKind::String(_) => {
                self.advance();
                while self.mark(",") {
                    arguments.push(Query::of(self.expression()?));
                }
            }
            TokenKind::Word(word) if word == "sqlstate" => {
                self.advance();
                condition = Some(self.string()?);
            }
            TokenKind::Word(word) if word != "using" => {
                condition = Some(word);
                self.advance();
            }
            _ => {}
        }
        if self.word("using") {
            loop {
                let option = self.label()?;
                if !self.operator("=") && !self.mark(":=") {
                    return Err(self.unexpected());
                }
                let value = self.expression()?;
                match (option.as_str(), &value) {
                    ("errcode", Ast::String(code)) => condition = Some(code.clone()),
                    ("errcode", _) => return Err(SyntaxError::new("a computed error code")),
                    _ => {}
                }
                arguments.push(Query::of(value));
                if !self.mark(",") {
                    break;
                }
            }
        }
        Ok(Statement::Raise(level, arguments, condition))
    }

    fn for_loop(&mut self) -> Result<Statement, SyntaxError> {
        self.expect_word("for")?;
        let target = self.name()?;
        self.expect_word("in")?;
        if self.is_word("execute") {
            return Err(SyntaxError::new("SQL run from text"));
        }
        if !self.begins_query() {
            return Err(SyntaxError::new("a loop over numbers"));
        }
        let query = self.query()?;
        Ok(Statement::ForQuery(target, query, self.loop_body()?))
    }

    fn loop_body(&mut self) -> Result<Vec<Statement>, SyntaxError> {
        self.expect_word("loop")?;
        let statements = self.statements(&["end"])?;
        self.expect_word("end")?;
        self.expect_word("loop")?;
        if !self.is_mark(";") {
            self.label()?;
        }
        Ok(statements)
    }
}
