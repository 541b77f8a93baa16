//! Identifiers for SQL text.
//!
//! In goes any name, out comes a quoted identifier; this is the one place that quotes. Values never pass here: they
//! are parameters. Follows the Postgres manual, "Identifiers and Key Words".

/// `name` as a quoted SQL identifier, with quotes doubled: `a"b` becomes `"a""b"`.
///
/// Always quotes, so that no list of key words is needed. A NUL character cannot stand in a statement at all;
/// Postgres ends the text there and reports the open quote.
#[must_use]
pub fn quote_identifier(name: &str) -> String {
    let mut quoted = String::with_capacity(name.len().saturating_add(2));
    quoted.push('"');
    for character in name.chars() {
        if character == '"' {
            quoted.push('"');
        }
        quoted.push(character);
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_and_quotes_doubled() {
        for (name, quoted) in [
            ("messages", r#""messages""#),
            ("Grüße 1", r#""Grüße 1""#),
            (r#"a"; drop table x; --"#, r#""a""; drop table x; --""#),
            (r#"""#, r#""""""#),
            ("", r#""""#),
        ] {
            assert_eq!(quote_identifier(name), quoted);
        }
    }
}
