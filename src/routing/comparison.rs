//! Conditions as SQL, for what only Postgres can decide.
//!
//! The text is made of names from the catalog and of fixed words; values are `$1` (the row's) and `$2` (the
//! condition's), both of type `text`. Every name is qualified, so that no `search_path` changes the meaning.

use super::Operator;
use crate::catalog::{Collation, Type};
use crate::database::quote_identifier;

/// What stands on both sides of a comparison.
pub(super) struct Comparison<'a> {
    /// Type of the row's value, below all domains.
    pub(super) left: &'a Type,
    /// Type that the condition's value is cast to: `left`, or `text` for a pattern.
    pub(super) right: &'a str,
    /// The column's collation.
    pub(super) collation: &'a Collation,
    /// Schema of the operator.
    pub(super) schema: &'a str,
}

impl Comparison<'_> {
    /// The boolean expression of one condition. `is` compares with nothing and has none.
    pub(super) fn sql(&self, operator: Operator, negated: bool) -> Option<String> {
        let left = format!(
            "($1::pg_catalog.text)::{}{}",
            self.left.sql_name,
            self.collate()
        );
        let right = format!("($2::pg_catalog.text)::{}", self.right);
        let symbol = format!(
            "operator({}.{})",
            quote_identifier(self.schema),
            symbol(operator)?
        );
        let truth = match operator {
            Operator::In => format!("({left}) {symbol} any ({right}[])"),
            _ => format!("({left}) {symbol} ({right})"),
        };
        // Both values are known by the time that this is asked, so that `is distinct from`, for which no operator can be
        // named, is the contrary of `=`.
        let negated = negated != (operator == Operator::IsDistinct);
        Some(if negated {
            format!("not ({truth})")
        } else {
            truth
        })
    }

    fn collate(&self) -> String {
        match self.collation {
            Collation::None => String::new(),
            Collation::C => " collate pg_catalog.\"C\"".to_owned(),
            Collation::Deterministic { name } | Collation::Nondeterministic { name } => {
                format!(" collate {name}")
            }
        }
    }
}

/// The name of the SQL operator behind a filter's operator.
pub(super) const fn symbol(operator: Operator) -> Option<&'static str> {
    Some(match operator {
        Operator::Eq | Operator::In | Operator::IsDistinct => "=",
        Operator::Neq => "<>",
        Operator::Lt => "<",
        Operator::Lte => "<=",
        Operator::Gt => ">",
        Operator::Gte => ">=",
        Operator::Like => "~~",
        Operator::Ilike => "~~*",
        Operator::Match => "~",
        Operator::Imatch => "~*",
        Operator::Is => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::TypeKind;

    #[test]
    fn every_name_is_qualified() {
        let left = Type {
            oid: 25,
            name: "text".into(),
            sql_name: "pg_catalog.text".into(),
            kind: TypeKind::Base,
        };
        let comparison = Comparison {
            left: &left,
            right: "pg_catalog.text",
            collation: &Collation::Deterministic {
                name: "pg_catalog.\"default\"".into(),
            },
            schema: "pg_catalog",
        };
        assert_eq!(
            comparison.sql(Operator::Lt, false).unwrap(),
            "(($1::pg_catalog.text)::pg_catalog.text collate pg_catalog.\"default\") operator(\"pg_catalog\".<) (($2::pg_catalog.text)::pg_catalog.text)"
        );
        assert_eq!(
            comparison.sql(Operator::In, true).unwrap(),
            "not ((($1::pg_catalog.text)::pg_catalog.text collate pg_catalog.\"default\") operator(\"pg_catalog\".=) any (($2::pg_catalog.text)::pg_catalog.text[]))"
        );
        assert!(
            comparison
                .sql(Operator::IsDistinct, false)
                .unwrap()
                .starts_with("not (")
        );
        assert_eq!(comparison.sql(Operator::Is, false), None);
    }
}
