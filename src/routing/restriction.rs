//! A filter as part of a query: the conditions that Postgres itself can decide on a column, so that an index may serve.
//!
//! Only narrows a query down: whoever asks tests the rows again with [`Filter::matches`], and knows that where that would
//! ask Postgres, it has been asked here. The text is made of names from the catalog and of fixed words; values are
//! parameters.

use std::fmt::Write as _;

use super::filter::{Keyword, Operand};
use super::{Filter, Operator};
use crate::database::quote_identifier;

/// How a question's SQL begins to speak of the row's value, and of the condition's (see `comparison`).
const ROW_VALUE: &str = "($1::pg_catalog.text)";
const OWN_VALUE: &str = "($2::pg_catalog.text)";

impl Filter {
    /// Appends ` and (…)` to `sql` for each condition that Postgres may decide, over the columns of `alias`. Its values are
    /// added to `parameters`, all of type `text`.
    pub fn restrict(&self, sql: &mut String, alias: &str, parameters: &mut Vec<String>) {
        for test in &self.tests {
            let column = format!("{alias}.{}", quote_identifier(&test.column));
            if let Operand::Is(keyword) = &test.operand {
                let not = if test.negated { "not " } else { "" };
                let _infallible = write!(sql, " and {not}({column} is {})", keyword.word());
            }
            let Some(question) = &test.question else {
                continue;
            };
            parameters.push(question.value.to_string());
            let value = format!("(${}::pg_catalog.text)", parameters.len());
            // What stands between the two are names; the row's value comes first.
            let restriction = match question.sql.split_once(ROW_VALUE) {
                Some((before, after)) => {
                    format!("{before}{column}{}", after.replacen(OWN_VALUE, &value, 1))
                }
                None => "false".to_owned(),
            };
            // Distinct from a value is NULL as well, of which no question ever speaks.
            let _infallible = match (test.operator, test.negated) {
                (Operator::IsDistinct, false) => write!(
                    sql,
                    " and (pg_catalog.num_nulls({column}) = 1 or {restriction})"
                ),
                _ => write!(sql, " and ({restriction})"),
            };
        }
    }

    /// Names of the columns that the filter looks at.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        self.tests.iter().map(|test| &*test.column)
    }
}

impl Keyword {
    const fn word(self) -> &'static str {
        match self {
            // Of a composite value, a row of NULLs alone is NULL in SQL.
            Self::Null | Self::NullRow => "null",
            Self::True => "true",
            Self::False => "false",
            Self::Unknown => "unknown",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::filter::{Question, Test};
    use crate::routing::value::Family;

    fn test(operator: Operator, negated: bool, sql: Option<&str>) -> Test {
        Test {
            column: "a\"b".into(),
            type_oid: 25,
            family: Family::Opaque,
            operator,
            negated,
            operand: Operand::Foreign,
            question: sql.map(|sql| Question {
                sql: sql.into(),
                value: "it's".into(),
            }),
        }
    }

    #[test]
    fn names_are_quoted_and_values_are_parameters() {
        let equal = "(($1::pg_catalog.text)::x.t) operator(\"x\".=) (($2::pg_catalog.text)::x.t)";
        let differ = format!("not ({equal})");
        let is_null = Test {
            operand: Operand::Is(Keyword::Null),
            ..test(Operator::Is, true, None)
        };
        let filter = Filter::new(vec![
            is_null,
            test(Operator::Eq, false, Some(equal)),
            test(Operator::IsDistinct, false, Some(&differ)),
            test(Operator::IsDistinct, true, Some(equal)),
        ]);
        let mut sql = String::new();
        let mut parameters = vec!["before".to_owned()];
        filter.restrict(&mut sql, "t", &mut parameters);
        let told = |number| {
            format!("(t.\"a\"\"b\"::x.t) operator(\"x\".=) ((${number}::pg_catalog.text)::x.t)")
        };
        let expected = format!(
            " and not (t.\"a\"\"b\" is null) and ({}) and (pg_catalog.num_nulls(t.\"a\"\"b\") = 1 or not ({})) and ({})",
            told(2),
            told(3),
            told(4)
        );
        assert_eq!(sql, expected);
        assert_eq!(parameters, ["before", "it's", "it's", "it's"]);
        assert_eq!(filter.columns().count(), 4);
    }
}
