//! Takes a condition apart where its outermost AND or OR stands, for those who want to know why it holds.

use super::lexer::{Token, TokenKind, tokens};
use super::parser::expression;
use super::tree::Ast;

/// The parts of a condition, as they were written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parts {
    /// Joined by AND.
    All(Vec<Box<str>>),
    /// Joined by OR.
    Any(Vec<Box<str>>),
}

/// Takes a condition apart; `None` if it is one part, or cannot be read.
#[must_use]
pub fn parts(condition: &str) -> Option<Parts> {
    let ast = expression(condition).ok()?;
    let tokens = tokens(condition).ok()?;
    // The last token is the end.
    let whole = unwrapped(tokens.split_last()?.1);
    if let Some(pieces) = pieces(condition, &tokens, whole, "or") {
        return (joined(&pieces, true)? == ast).then_some(Parts::Any(pieces));
    }
    let pieces = pieces(condition, &tokens, whole, "and")?;
    (joined(&pieces, false)? == ast).then_some(Parts::All(pieces))
}

/// Without parentheses around all of it.
fn unwrapped(mut tokens: &[Token]) -> &[Token] {
    while let [first, inner @ .., last] = tokens
        && first.kind == TokenKind::Mark("(")
        && last.kind == TokenKind::Mark(")")
    {
        let mut depth = 0_usize;
        let is_closed_early = inner.iter().any(|token| match token.kind {
            TokenKind::Mark("(") => {
                depth = depth.saturating_add(1);
                false
            }
            TokenKind::Mark(")") => match depth.checked_sub(1) {
                Some(less) => {
                    depth = less;
                    false
                }
                None => true,
            },
            _ => false,
        });
        if is_closed_early {
            break;
        }
        tokens = inner;
    }
    tokens
}

/// What stands between the key words outside of parentheses and CASE; `None` if there is no such word.
fn pieces(text: &str, all: &[Token], tokens: &[Token], word: &str) -> Option<Vec<Box<str>>> {
    let begin = tokens.first()?.start;
    let last = tokens.last()?.start;
    let end = all.iter().find(|token| token.start > last)?.start;
    let mut pieces = Vec::new();
    let mut from = begin;
    let mut depth = 0_usize;
    for token in tokens {
        match &token.kind {
            TokenKind::Mark("(" | "[") => depth = depth.saturating_add(1),
            TokenKind::Mark(")" | "]") => depth = depth.saturating_sub(1),
            TokenKind::Word(found) if found == "case" => depth = depth.saturating_add(1),
            TokenKind::Word(found) if found == "end" => depth = depth.saturating_sub(1),
            TokenKind::Word(found) if found == word && depth == 0 => {
                pieces.push(text.get(from..token.start)?.trim().into());
                from = token.start.saturating_add(word.len());
            }
            _ => {}
        }
    }
    if pieces.is_empty() {
        return None;
    }
    pieces.push(text.get(from..end)?.trim().into());
    Some(pieces)
}

/// The pieces as the parser would have joined them.
fn joined(pieces: &[Box<str>], any: bool) -> Option<Ast> {
    let mut parts = Vec::new();
    for (position, piece) in pieces.iter().enumerate() {
        match (expression(piece).ok()?, position) {
            (Ast::Or(inner), 0) if any => parts.extend(inner),
            (Ast::And(inner), 0) if !any => parts.extend(inner),
            (part, _) => parts.push(part),
        }
    }
    Some(if any { Ast::Or(parts) } else { Ast::And(parts) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(condition: &str, expected: Option<(bool, &[&str])>) {
        let expected = expected.map(|(any, pieces)| {
            let pieces = pieces.iter().map(|piece| Box::from(*piece)).collect();
            if any {
                Parts::Any(pieces)
            } else {
                Parts::All(pieces)
            }
        });
        assert_eq!(parts(condition), expected, "{condition}");
    }

    #[test]
    fn conditions_come_apart_at_their_outermost_and_or_or() {
        check(
            "((a = 1) OR (b AND c))",
            Some((true, &["(a = 1)", "(b AND c)"])),
        );
        check(
            "(a AND (b OR c) AND NOT d)",
            Some((false, &["a", "(b OR c)", "NOT d"])),
        );
        check("a AND b OR c", Some((true, &["a AND b", "c"])));
        check("((a OR b) OR c)", Some((true, &["(a OR b)", "c"])));
        check("(a) OR (b)", Some((true, &["(a)", "(b)"])));
        check(
            "((a = ' or ') AND (\"or\" = b))",
            Some((false, &["(a = ' or ')", "(\"or\" = b)"])),
        );
        check("(a = ANY (ARRAY[(b OR c), d]))", None);
        check("CASE WHEN a AND b THEN c OR d ELSE e END", None);
        check("a BETWEEN b AND c", None);
        check("(EXISTS ( SELECT 1 FROM t WHERE (a OR b)))", None);
        check("a OR", None);
        check("", None);
    }
}
