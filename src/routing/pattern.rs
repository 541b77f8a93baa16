//! LIKE: a pattern and a text go in, whether they match comes out (Postgres manual, "Pattern Matching").
//!
//! Exact for any text where equality is equality of characters. Runs in time linear in the text unless `_` is used.

/// A pattern, cut at its `%`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Pattern {
    /// What stands before the first, between, and after the last `%`. Never empty; one element means no `%` at all.
    segments: Box<[Segment]>,
    /// Length of the pattern's text in bytes.
    size: usize,
}

/// A piece of a pattern without `%`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Segment {
    /// Just these characters.
    Literal(Box<str>),
    /// Characters, `None` for any single one.
    Wild(Box<[Option<char>]>),
}

/// The pattern ends with an escape character; Postgres refuses to match with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DanglingEscape;

impl Pattern {
    /// A pattern in which a backslash takes the next character literally.
    pub(super) fn with_escape(pattern: &str) -> Result<Self, DanglingEscape> {
        Self::compile(pattern, Some('\\'))
    }

    /// A pattern in which only `_` and `%` are special.
    pub(super) fn without_escape(pattern: &str) -> Self {
        Self::compile(pattern, None).unwrap_or(Self {
            segments: Box::new([Segment::Literal(pattern.into())]),
            size: pattern.len(),
        })
    }

    fn compile(pattern: &str, escape: Option<char>) -> Result<Self, DanglingEscape> {
        let mut segments = Vec::new();
        let mut current = Vec::new();
        let mut characters = pattern.chars();
        while let Some(character) = characters.next() {
            if Some(character) == escape {
                current.push(Some(characters.next().ok_or(DanglingEscape)?));
            } else if character == '%' {
                segments.push(Segment::new(&current));
                current.clear();
            } else {
                current.push((character != '_').then_some(character));
            }
        }
        segments.push(Segment::new(&current));
        Ok(Self {
            segments: segments.into(),
            size: pattern.len(),
        })
    }

    /// Whether `_` occurs; then characters count, and what a character is depends on the server's encoding.
    pub(super) fn counts_characters(&self) -> bool {
        (self.segments.iter()).any(|segment| matches!(segment, Segment::Wild(_)))
    }

    /// Upper bound for the steps that [`Pattern::matches`] takes on a text of this many bytes.
    pub(super) fn cost(&self, text_size: usize) -> usize {
        if self.counts_characters() {
            text_size.saturating_mul(self.size)
        } else {
            text_size.saturating_add(self.size)
        }
    }

    /// Whether the whole of `text` matches.
    pub(super) fn matches(&self, text: &str) -> bool {
        let Some((first, others)) = self.segments.split_first() else {
            return text.is_empty();
        };
        let Some(mut rest) = first.strip_from(text) else {
            return false;
        };
        let Some((last, middle)) = others.split_last() else {
            return rest.is_empty();
        };
        // The leftmost place for each segment leaves the most for those that follow.
        for segment in middle {
            match segment.skip_past(rest) {
                Some(after) => rest = after,
                None => return false,
            }
        }
        last.ends(rest)
    }
}

impl Segment {
    fn new(characters: &[Option<char>]) -> Self {
        match characters.iter().copied().collect::<Option<String>>() {
            Some(literal) => Self::Literal(literal.into()),
            None => Self::Wild(characters.into()),
        }
    }

    /// What follows the segment where `text` begins with it.
    fn strip_from<'a>(&self, text: &'a str) -> Option<&'a str> {
        match self {
            Self::Literal(literal) => text.strip_prefix(&**literal),
            Self::Wild(wanted) => {
                let mut characters = text.chars();
                for wanted in wanted {
                    let found = characters.next()?;
                    if wanted.is_some_and(|wanted| wanted != found) {
                        return None;
                    }
                }
                Some(characters.as_str())
            }
        }
    }

    /// What follows the segment's leftmost occurrence in `text`.
    fn skip_past<'a>(&self, text: &'a str) -> Option<&'a str> {
        match self {
            Self::Literal(literal) => {
                let at = text.find(&**literal)?;
                text.get(at.checked_add(literal.len())?..)
            }
            Self::Wild(_) => {
                (text.char_indices()).find_map(|(at, _)| self.strip_from(text.get(at..)?))
            }
        }
    }

    /// Whether `text` ends with the segment.
    fn ends(&self, text: &str) -> bool {
        match self {
            Self::Literal(literal) => text.ends_with(&**literal),
            Self::Wild(wanted) => {
                let mut characters = text.chars().rev();
                (wanted.iter().rev()).all(|wanted| match (wanted, characters.next()) {
                    (_, None) => false,
                    (None, Some(_)) => true,
                    (Some(wanted), Some(found)) => *wanted == found,
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition, written as recursion.
    fn reference(pattern: &[char], text: &[char]) -> bool {
        match pattern.split_first() {
            None => text.is_empty(),
            Some(('%', rest)) => (0..=text.len()).any(|skipped| reference(rest, &text[skipped..])),
            Some(('_', rest)) => !text.is_empty() && reference(rest, &text[1..]),
            Some(('\\', rest)) => {
                !text.is_empty()
                    && rest.first() == text.first()
                    && reference(&rest[1..], &text[1..])
            }
            Some((literal, rest)) => text.first() == Some(literal) && reference(rest, &text[1..]),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn the_definition_is_matched(pattern in "[abé%_\\\\]{0,8}", text in "[abé%_\\\\]{0,8}") {
            let characters: Vec<char> = text.chars().collect();
            let wanted: Vec<char> = pattern.chars().collect();
            match Pattern::with_escape(&pattern) {
                Ok(compiled) => prop_assert_eq!(compiled.matches(&text), reference(&wanted, &characters)),
                Err(DanglingEscape) => prop_assert!(pattern.ends_with('\\')),
            }
        }
    }

    #[test]
    fn without_escape_a_backslash_is_a_character() {
        assert!(Pattern::without_escape("a\\").matches("a\\"));
        assert!(Pattern::without_escape("my_table").matches("my-table"));
        assert!(Pattern::without_escape("%").matches(""));
        assert!(!Pattern::without_escape("").matches("a"));
    }
}
