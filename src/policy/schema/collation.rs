//! What a collation's locale means for the order and the cases of text.

use super::CollationKind;

/// Languages in which the ASCII letters have the cases that they have in English. Not Turkish, Azeri and their
/// relatives, where `I` is the capital of `ı`; not Lithuanian, which keeps a dot above.
const ORDINARY: &[&str] = &[
    "ar", "be", "bg", "bn", "bs", "c", "ca", "cs", "cy", "da", "de", "el", "en", "es", "et", "eu",
    "fa", "fi", "fr", "ga", "gl", "he", "hi", "hr", "hu", "id", "is", "it", "ja", "ko", "lv", "ms",
    "nb", "nl", "nn", "no", "pl", "posix", "pt", "ro", "root", "ru", "sk", "sl", "sr", "sv", "ta",
    "te", "th", "uk", "und", "vi", "zh",
];

/// The kind of a collation: `provider` as in `pg_collation`, and all names of locales that it or the database has.
pub(super) fn kind(deterministic: bool, provider: u8, names: &[&str]) -> CollationKind {
    if !deterministic {
        return CollationKind::Nondeterministic;
    }
    let bytes = |name: &&str| matches!(*name, "C" | "POSIX");
    if provider == b'c' && !names.is_empty() && names.iter().all(bytes) {
        return CollationKind::Bytes;
    }
    // Postgres' own locales have no language.
    let known = match provider {
        b'b' => true,
        b'c' | b'i' => !names.is_empty() && names.iter().all(|name| is_ordinary(name, provider)),
        _ => false,
    };
    if known {
        CollationKind::Locale
    } else {
        CollationKind::OddCases
    }
}

fn is_ordinary(name: &str, provider: u8) -> bool {
    // The C library reads the empty name from its environment; ICU has it for the root.
    if name.is_empty() {
        return provider == b'i';
    }
    let language = name.split(['-', '_', '.', '@']).next().unwrap_or_default();
    ORDINARY.contains(&language.to_ascii_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locales_are_known_by_their_language() {
        use CollationKind::{Bytes, Locale, Nondeterministic, OddCases};
        for (provider, names, wanted) in [
            (b'c', &["C", "POSIX"][..], Bytes),
            (b'c', &["en_US.UTF-8", "en_US.UTF-8"], Locale),
            (b'c', &["C.utf8", "C.utf8"], Locale),
            (b'i', &["de-u-co-phonebk"], Locale),
            (b'i', &[""], Locale),
            (b'b', &["C.UTF-8"], Locale),
            (b'c', &["C", "tr_TR.UTF-8"], OddCases),
            (
                b'c',
                &["Turkish_Turkey.1254", "Turkish_Turkey.1254"],
                OddCases,
            ),
            (b'c', &["az_AZ", "az_AZ"], OddCases),
            (b'c', &["", ""], OddCases),
            (b'i', &["tr"], OddCases),
            (b'i', &["tr-TR-u-ks-level2"], OddCases),
            (b'i', &["lt-x-icu"], OddCases),
            // The database's own: with the names that the C library gets.
            (b'i', &["tr_TR.UTF-8", "tr_TR.UTF-8", "en-US"], OddCases),
            (b'i', &[], OddCases),
            (b'x', &["en"], OddCases),
        ] {
            assert_eq!(kind(true, provider, names), wanted, "{names:?}");
        }
        assert_eq!(kind(false, b'i', &["en"]), Nondeterministic);
    }
}
