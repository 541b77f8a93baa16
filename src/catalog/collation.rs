//! What a collation promises to comparisons.
//!
//! Rows of `pg_collation` and `pg_database` go in, a [`Collation`] comes out. Promises nothing that could differ between
//! operating systems or versions of ICU (Postgres manual, "Collation Support").

use super::Collation;

/// A row of `pg_collation`.
pub(super) struct CollationFacts<'a> {
    /// Qualified and quoted.
    pub(super) name: &'a str,
    /// `d` the database's, `c` the operating system's, `i` ICU's, `b` Postgres' own.
    pub(super) provider: &'a str,
    pub(super) deterministic: bool,
    pub(super) order: Option<&'a str>,
    pub(super) case: Option<&'a str>,
    pub(super) locale: Option<&'a str>,
}

/// A row of `pg_database`.
pub(super) struct DatabaseFacts<'a> {
    pub(super) provider: &'a str,
    pub(super) order: &'a str,
    pub(super) case: &'a str,
    pub(super) locale: Option<&'a str>,
    pub(super) encoding: &'a str,
}

impl CollationFacts<'_> {
    /// What comparisons may rely on.
    pub(super) fn collation(&self, database: &DatabaseFacts<'_>) -> Collation {
        let (provider, order, case, locale) = match self.provider {
            "d" => (
                database.provider,
                Some(database.order),
                Some(database.case),
                database.locale,
            ),
            own => (own, self.order, self.case, self.locale),
        };
        let is_c = |name: Option<&str>| matches!(name, Some("C" | "POSIX"));
        let bytewise = match provider {
            "c" => is_c(order) && is_c(case),
            "b" => locale == Some("C"),
            _ => false,
        };
        // Bytes as we see them: in other encodings the server's order is that of other bytes.
        let our_bytes = matches!(database.encoding, "UTF8" | "SQL_ASCII");
        if bytewise && our_bytes {
            Collation::C
        } else if self.deterministic {
            Collation::Deterministic {
                name: self.name.into(),
            }
        } else {
            Collation::Nondeterministic {
                name: self.name.into(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(
        own: (&str, Option<&str>, Option<&str>, bool),
        database: (&str, &str, Option<&str>, &str),
        bytewise: bool,
    ) {
        let (provider, order, locale, deterministic) = own;
        let facts = CollationFacts {
            name: "pg_catalog.x",
            provider,
            deterministic,
            order,
            case: order,
            locale,
        };
        let (provider, order, locale, encoding) = database;
        let database = DatabaseFacts {
            provider,
            order,
            case: order,
            locale,
            encoding,
        };
        let expected = match (bytewise, deterministic) {
            (true, _) => Collation::C,
            (false, true) => Collation::Deterministic {
                name: "pg_catalog.x".into(),
            },
            (false, false) => Collation::Nondeterministic {
                name: "pg_catalog.x".into(),
            },
        };
        assert_eq!(facts.collation(&database), expected);
    }

    #[test]
    fn only_c_in_our_own_encoding_is_bytewise() {
        let utf8 = ("c", "en_US.UTF-8", None, "UTF8");
        check(("c", Some("C"), None, true), utf8, true);
        check(("c", Some("POSIX"), None, true), utf8, true);
        check(("c", Some("C.UTF-8"), None, true), utf8, false);
        check(
            ("c", Some("C"), None, true),
            ("c", "C", None, "EUC_JP"),
            false,
        );
        check(("i", None, Some("und"), false), utf8, false);
        check(("b", None, Some("C.UTF-8"), true), utf8, false);
        check(("b", None, Some("C"), true), utf8, true);
    }

    #[test]
    fn the_default_collation_is_the_databases() {
        let default = ("d", None, None, true);
        check(default, ("c", "C", None, "UTF8"), true);
        check(default, ("c", "C", None, "SQL_ASCII"), true);
        check(default, ("c", "en_US.UTF-8", None, "UTF8"), false);
        // The operating system's names stay in the row when ICU or Postgres itself compares.
        check(default, ("i", "C", Some("en"), "UTF8"), false);
        check(default, ("b", "en_US.UTF-8", Some("C"), "UTF8"), true);
        check(default, ("b", "C", Some("C.UTF-8"), "UTF8"), false);
    }
}
