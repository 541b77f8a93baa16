//! SQL text → syntax tree: expressions, queries, bodies of functions.
//!
//! Understands a closed grammar, by the precedence of Postgres's own; what it does not know is an error, so that
//! nothing is ever read as something else. Follows the Postgres manual, "SQL Syntax" and "PL/pgSQL".

mod expression;
mod lexer;
mod parser;
mod parts;
pub(crate) mod plpgsql;
mod query;
pub(crate) mod tree;

pub(crate) use parser::{expression, statements};
pub use parts::{Parts, parts};

/// The text is nothing that we can read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct SyntaxError(Box<str>);

impl SyntaxError {
    fn new(what: impl Into<Box<str>>) -> Self {
        Self(what.into())
    }
}

#[cfg(test)]
mod tests {
    use super::tree::Ast;
    use super::*;

    #[track_caller]
    fn same(text: &str, explicit: &str) {
        let read = |text: &str| expression(text).expect(text);
        assert_eq!(read(text), read(explicit), "{text}");
    }

    #[test]
    fn operators_bind_as_in_postgres() {
        for (text, explicit) in [
            ("a or b and not c = d", "a or (b and (not (c = d)))"),
            ("a = b is null", "(a = b) is null"),
            ("a || b = c || d", "(a || b) = (c || d)"),
            ("a -> 'b' ->> 'c' = 'd'", "((a -> 'b') ->> 'c') = 'd'"),
            ("a + b * c ^ d", "a + (b * (c ^ d))"),
            ("a between b and c and d", "(a between b and c) and d"),
            ("a like b || c", "a like (b || c)"),
            ("- a::integer", "- (a::integer)"),
            ("not a in (b) or c", "(not (a in (b))) or c"),
            ("a <> all (b) and c", "(a <> all (b)) and c"),
            ("x at time zone 'UTC' < y", "(x at time zone 'UTC') < y"),
            ("a is distinct from b and c", "(a is distinct from b) and c"),
            ("a OPERATOR(s.=) b || c", "a OPERATOR(s.=) b || c"),
        ] {
            same(text, explicit);
        }
    }

    #[test]
    fn what_is_not_known_is_an_error_and_never_read_as_something_else() {
        for text in [
            "",
            "a b",
            "a =",
            "a = b = c",
            "a < b < c",
            "(a",
            "'a",
            "$$a",
            "a[1",
            "f(a,)",
            "a similar to b",
            "a like b escape c",
            "sum(a) over ()",
            "a between symmetric b and c",
            "/* a",
            "U&'a'",
            "1a",
            "E'\\x41'",
            "exists (select 1 for update)",
            "(a).*",
            "xmlelement(name a)",
            "'a'\n'b'",
        ] {
            assert!(
                expression(text).is_err(),
                "{text:?}: {:?}",
                expression(text)
            );
        }
    }

    #[test]
    fn deep_nesting_is_refused_before_the_stack_ends() {
        let text = format!("{}a{}", "(".repeat(10_000), ")".repeat(10_000));
        assert!(expression(&text).is_err());
    }

    #[test]
    fn queries_in_parentheses_are_told_from_expressions() {
        assert!(matches!(expression("((select 1))"), Ok(Ast::Query(_))));
        assert!(matches!(
            expression("((select 1) + 2)"),
            Ok(Ast::Binary(..))
        ));
        assert!(matches!(
            expression("((select 1) union (select 2))"),
            Ok(Ast::Query(_))
        ));
        assert!(matches!(expression("(((select 1)))"), Ok(Ast::Query(_))));
        assert!(matches!(
            expression("a = any ((select b))"),
            Ok(Ast::Quantified(..))
        ));
    }

    #[test]
    fn bodies_of_functions_are_read_whole_or_not_at_all() {
        assert_eq!(
            statements("select 1; select 2;").map(|found| found.len()),
            Ok(2)
        );
        assert_eq!(
            statements("begin atomic select 1; end").map(|found| found.len()),
            Ok(1)
        );
        assert_eq!(statements("return a + 1").map(|found| found.len()), Ok(1));
        for body in [
            "insert into t values (1)",
            "select 1 select 2",
            "update t set a = 1",
        ] {
            assert!(statements(body).is_err(), "{body}");
        }
        for body in [
            "begin perform f(); return 1; end",
            "declare a int := 1; begin if a = 1 then return a; else return 2; end if; end;",
        ] {
            assert!(
                plpgsql::block(body).is_ok(),
                "{body}: {:?}",
                plpgsql::block(body)
            );
        }
        for body in [
            "begin execute 'x'; end",
            "begin delete from t; end",
            "begin loop exit; end loop; end",
            "begin return 1 end",
        ] {
            assert!(plpgsql::block(body).is_err(), "{body}");
        }
    }
}
