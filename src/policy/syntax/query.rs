//! Queries.

use super::SyntaxError;
use super::lexer::TokenKind;
use super::parser::{Parser, RESERVED};
use super::tree::{
    Alias, Ast, Body, Condition, Cte, From, Into, JoinKind, Query, Select, SetOperator, Sort,
    Target,
};

impl Query {
    /// `select value`
    pub(crate) fn of(value: Ast) -> Self {
        Self {
            recursive: false,
            with: Vec::new(),
            body: Body::Select(Box::new(Select {
                distinct: None,
                targets: vec![Target { value, alias: None }],
                from: Vec::new(),
                filter: None,
                group_by: Vec::new(),
                having: None,
            })),
            order_by: Vec::new(),
            limit: None,
            offset: None,
            into: None,
        }
    }

    fn bare(body: Body) -> Self {
        Self {
            recursive: false,
            with: Vec::new(),
            body,
            order_by: Vec::new(),
            limit: None,
            offset: None,
            into: None,
        }
    }

    fn is_bare(&self) -> bool {
        self.with.is_empty()
            && self.order_by.is_empty()
            && self.limit.is_none()
            && self.offset.is_none()
    }
}

impl Parser {
    /// Whether a query begins here, perhaps after parentheses.
    pub(super) fn begins_query(&self) -> bool {
        let mut ahead = 0_usize;
        while matches!(self.peek_at(ahead), TokenKind::Mark("(")) {
            ahead = ahead.saturating_add(1);
        }
        let word = |word: &str| self.is_word_at(ahead, word);
        // `((select 1) + 2)` is no query although it begins like one; what follows the inner query decides.
        if ahead > 0 {
            return (word("select") || word("values") || word("with"))
                && self.closes_as_query(ahead);
        }
        word("select") || word("values") || word("with")
    }

    /// Whether what follows the parenthesis that opened first belongs to a query.
    fn closes_as_query(&self, depth: usize) -> bool {
        let mut open = 0_usize;
        let mut ahead = 0_usize;
        loop {
            match self.peek_at(ahead) {
                TokenKind::Mark("(") => open = open.saturating_add(1),
                TokenKind::Mark(")") => {
                    open = open.saturating_sub(1);
                    if open < depth {
                        let behind = ahead.saturating_add(1);
                        let goes_on = ["union", "except", "intersect", "order", "limit", "offset"];
                        let query = goes_on.iter().any(|word| self.is_word_at(behind, word));
                        let closed = matches!(self.peek_at(behind), TokenKind::Mark(")"));
                        if query || (open == 0 && closed) {
                            return true;
                        }
                        if open == 0 || !closed {
                            return false;
                        }
                    }
                }
                TokenKind::End => return false,
                _ => {}
            }
            ahead = ahead.saturating_add(1);
        }
    }

    pub(super) fn query(&mut self) -> Result<Query, SyntaxError> {
        self.nested(Self::query_inner)
    }

    fn query_inner(&mut self) -> Result<Query, SyntaxError> {
        let mut with = Vec::new();
        let mut recursive = false;
        if self.word("with") {
            recursive = self.word("recursive");
            with = self.list(Self::cte)?;
        }
        let (mut query, _bare) = self.set_expression(0)?;
        if !with.is_empty() {
            if !query.with.is_empty() {
                return Err(SyntaxError::new("WITH before a query in parentheses"));
            }
            query.with = with;
            query.recursive = recursive;
        }
        Ok(query)
    }

    fn cte(&mut self) -> Result<Cte, SyntaxError> {
        let name = self.identifier()?;
        let mut columns = Vec::new();
        if self.mark("(") {
            columns = self.list(Self::identifier)?;
            self.expect_mark(")")?;
        }
        self.expect_word("as")?;
        self.word("not");
        self.word("materialized");
        self.expect_mark("(")?;
        let query = self.query()?;
        self.expect_mark(")")?;
        Ok(Cte {
            name,
            columns,
            query,
        })
    }

    /// UNION and EXCEPT bind alike, INTERSECT tighter. What follows the last operand belongs to the whole.
    fn set_expression(&mut self, floor: u8) -> Result<(Query, bool), SyntaxError> {
        let parenthesized = self.is_mark("(");
        let mut left = if self.mark("(") {
            let query = self.query()?;
            self.expect_mark(")")?;
            query
        } else {
            self.simple_query()?
        };
        let mut bare = !parenthesized;
        loop {
            let (operator, level) = match () {
                () if self.is_word("union") => (SetOperator::Union, 1),
                () if self.is_word("except") => (SetOperator::Except, 1),
                () if self.is_word("intersect") => (SetOperator::Intersect, 2),
                () => break,
            };
            if level <= floor {
                break;
            }
            self.advance();
            let all = self.word("all");
            if !all {
                self.word("distinct");
            }
            let (right, _) = self.set_expression(level)?;
            let into = left.into.take();
            left = Query::bare(Body::Set(operator, all, Box::new(left), Box::new(right)));
            left.into = into;
            bare = true;
        }
        if floor == 0 {
            if bare {
                self.tail(&mut left)?;
            } else if self.is_word("order") || self.is_word("limit") || self.is_word("offset") {
                if !left.is_bare() {
                    return Err(SyntaxError::new(
                        "ORDER BY or LIMIT around a query in parentheses",
                    ));
                }
                self.tail(&mut left)?;
            }
        }
        Ok((left, bare))
    }

    /// ORDER BY, LIMIT, OFFSET, INTO.
    pub(super) fn tail(&mut self, query: &mut Query) -> Result<(), SyntaxError> {
        if self.words(&["order", "by"]) {
            query.order_by = self.sort_list()?;
        }
        loop {
            if self.word("limit") {
                if !self.word("all") {
                    query.limit = Some(self.expression()?);
                }
            } else if self.word("offset") {
                query.offset = Some(self.expression()?);
                if !self.word("rows") {
                    self.word("row");
                }
            } else if self.word("fetch") {
                if !self.word("first") {
                    self.expect_word("next")?;
                }
                let count = match self.is_word("row") || self.is_word("rows") {
                    true => Ast::Number("1".to_owned()),
                    false => self.expression()?,
                };
                if !self.word("row") {
                    self.expect_word("rows")?;
                }
                self.expect_word("only")?;
                query.limit = Some(count);
            } else {
                break;
            }
        }
        if self.plpgsql && query.into.is_none() {
            query.into = self.take_into()?;
        }
        // Row locks in a function that only reads do not change what it answers, but they do fail on a replica.
        if self.is_word("for") && !self.plpgsql {
            return Err(SyntaxError::new("FOR UPDATE"));
        }
        Ok(())
    }

    fn take_into(&mut self) -> Result<Option<Into>, SyntaxError> {
        if !self.word("into") {
            return Ok(None);
        }
        let strict = self.word("strict");
        let targets = self.list(Self::name)?;
        Ok(Some(Into { strict, targets }))
    }

    fn simple_query(&mut self) -> Result<Query, SyntaxError> {
        if self.word("values") {
            let rows = self.list(|parser| {
                parser.expect_mark("(")?;
                let row = parser.list(Self::expression)?;
                parser.expect_mark(")")?;
                Ok(row)
            })?;
            return Ok(Query::bare(Body::Values(rows)));
        }
        self.expect_word("select")?;
        self.select()
    }

    /// What follows SELECT.
    pub(super) fn select(&mut self) -> Result<Query, SyntaxError> {
        let mut into = if self.plpgsql {
            self.take_into()?
        } else {
            None
        };
        let mut distinct = None;
        if self.word("distinct") {
            let mut on = Vec::new();
            if self.word("on") {
                self.expect_mark("(")?;
                on = self.list(Self::expression)?;
                self.expect_mark(")")?;
            }
            distinct = Some(on);
        } else {
            self.word("all");
        }
        let mut targets = Vec::new();
        if !self.ends_targets() {
            targets = self.list(Self::target)?;
        }
        if self.plpgsql && into.is_none() {
            into = self.take_into()?;
        }
        let mut from = Vec::new();
        if self.word("from") {
            from = self.list(Self::item)?;
        }
        let mut select = Select {
            distinct,
            targets,
            from,
            filter: None,
            group_by: Vec::new(),
            having: None,
        };
        if self.plpgsql && into.is_none() {
            into = self.take_into()?;
        }
        if self.word("where") {
            select.filter = Some(self.expression()?);
        }
        if self.words(&["group", "by"]) {
            select.group_by = self.list(Self::expression)?;
        }
        if self.word("having") {
            select.having = Some(self.expression()?);
        }
        if self.is_word("window") {
            return Err(SyntaxError::new("a window"));
        }
        let mut query = Query::bare(Body::Select(Box::new(select)));
        query.into = into;
        Ok(query)
    }

    fn ends_targets(&self) -> bool {
        let ends = ["from", "where", "into", "union", "group", "order", "limit"];
        self.at_end()
            || matches!(self.peek(), TokenKind::Mark(")" | ";"))
            || ends.iter().any(|word| self.is_word(word))
    }

    fn target(&mut self) -> Result<Target, SyntaxError> {
        if self.operator("*") {
            return Ok(Target {
                value: Ast::Star(Vec::new()),
                alias: None,
            });
        }
        let value = self.expression()?;
        let alias = if self.word("as") {
            Some(self.label()?)
        } else {
            self.bare_alias()
        };
        Ok(Target { value, alias })
    }

    fn bare_alias(&mut self) -> Option<String> {
        let name = match self.peek() {
            TokenKind::Word(word)
                if RESERVED.contains(&word.as_str()) || (self.plpgsql && word == "loop") =>
            {
                return None;
            }
            TokenKind::Word(name) | TokenKind::Quoted(name) => name.clone(),
            _ => return None,
        };
        self.advance();
        Some(name)
    }

    fn item(&mut self) -> Result<From, SyntaxError> {
        let mut left = self.single_item()?;
        loop {
            let kind = match () {
                () if self.words(&["cross", "join"]) => {
                    let right = self.single_item()?;
                    left = From::Join(
                        JoinKind::Inner,
                        Box::new(left),
                        Box::new(right),
                        Condition::None,
                    );
                    continue;
                }
                () if self.is_word("natural") => return Err(SyntaxError::new("NATURAL JOIN")),
                () if self.words(&["inner", "join"]) || self.word("join") => JoinKind::Inner,
                () if self.words(&["left", "outer", "join"]) || self.words(&["left", "join"]) => {
                    JoinKind::Left
                }
                () if self.words(&["right", "outer", "join"]) || self.words(&["right", "join"]) => {
                    JoinKind::Right
                }
                () if self.words(&["full", "outer", "join"]) || self.words(&["full", "join"]) => {
                    JoinKind::Full
                }
                () => return Ok(left),
            };
            // `a join b join c on … on …`: the right side may be a join itself.
            let position = self.position();
            let mut right = self.single_item()?;
            if !self.is_word("on") && !self.is_word("using") {
                self.rewind(position);
                right = self.nested(Self::item)?;
            }
            let condition = if self.word("on") {
                Condition::On(self.expression()?)
            } else {
                self.expect_word("using")?;
                self.expect_mark("(")?;
                let columns = self.list(Self::identifier)?;
                self.expect_mark(")")?;
                Condition::Using(columns)
            };
            left = From::Join(kind, Box::new(left), Box::new(right), condition);
        }
    }

    fn single_item(&mut self) -> Result<From, SyntaxError> {
        let lateral = self.word("lateral");
        if self.is_mark("(") {
            if self.begins_query_in_parenthesis() {
                self.expect_mark("(")?;
                let query = self.query()?;
                self.expect_mark(")")?;
                let alias = self.alias()?;
                return Ok(From::Query(Box::new(query), alias, lateral));
            }
            self.expect_mark("(")?;
            let item = self.nested(Self::item)?;
            self.expect_mark(")")?;
            if self.alias()? != Alias::default() {
                return Err(SyntaxError::new("a join with a name"));
            }
            return Ok(item);
        }
        if self.is_word("only") {
            return Err(SyntaxError::new("FROM ONLY"));
        }
        if self.words(&["rows", "from"]) {
            return Err(SyntaxError::new("ROWS FROM"));
        }
        let name = self.name()?;
        if self.is_mark("(") {
            let call = self.arguments(name)?;
            let ordinality = self.words(&["with", "ordinality"]);
            let alias = self.alias()?;
            return Ok(From::Function(Box::new(call), alias, ordinality));
        }
        if self.is_operator("*") {
            return Err(self.unexpected());
        }
        let alias = self.alias()?;
        if self.is_word("tablesample") {
            return Err(self.unexpected());
        }
        Ok(From::Table(name, alias))
    }

    fn begins_query_in_parenthesis(&self) -> bool {
        let mut ahead = 0_usize;
        while matches!(self.peek_at(ahead), TokenKind::Mark("(")) {
            ahead = ahead.saturating_add(1);
        }
        ["select", "values", "with"]
            .iter()
            .any(|word| self.is_word_at(ahead, word))
    }

    fn alias(&mut self) -> Result<Alias, SyntaxError> {
        let mut alias = Alias::default();
        if self.word("as") {
            if !self.is_mark("(") {
                alias.name = Some(self.identifier()?);
            }
        } else {
            alias.name = self.bare_alias();
        }
        if (alias.name.is_some() || matches!(self.peek_at(1), TokenKind::Word(_))) && self.mark("(")
        {
            loop {
                alias.columns.push(self.identifier()?);
                if !self.is_mark(",") && !self.is_mark(")") {
                    alias.types.push(self.type_name()?);
                }
                if !self.mark(",") {
                    break;
                }
            }
            self.expect_mark(")")?;
        }
        Ok(alias)
    }

    pub(super) fn sort_list(&mut self) -> Result<Vec<Sort>, SyntaxError> {
        self.list(|parser| {
            let value = parser.expression()?;
            if parser.is_word("using") {
                return Err(parser.unexpected());
            }
            let descending = parser.word("desc");
            if !descending {
                parser.word("asc");
            }
            let nulls_first = if parser.word("nulls") {
                let first = parser.word("first");
                if !first {
                    parser.expect_word("last")?;
                }
                Some(first)
            } else {
                None
            };
            Ok(Sort {
                value,
                descending,
                nulls_first,
            })
        })
    }
}
