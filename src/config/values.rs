//! Text to values: byte sizes, durations, names. An error is what would have been right, to follow "expected".

use core::net::SocketAddr;
use std::time::Duration;

/// A text that must never be shown: `Debug` hides it, and there is no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The text itself, for the one place that needs it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(hidden)")
    }
}

/// What a setting should have looked like.
pub(super) type Expected = &'static str;

pub(super) fn address(text: &str) -> Result<SocketAddr, Expected> {
    let numeric = text
        .strip_prefix("localhost:")
        .map(|port| format!("127.0.0.1:{port}"));
    numeric.as_deref().unwrap_or(text).parse().or(Err(
        "an address and a port such as 127.0.0.1:4000 or [::]:4000",
    ))
}

/// Bytes. Units are powers of 1024 whether written `MB` as in Postgres or `MiB`.
pub(super) fn bytes(text: &str) -> Result<u64, Expected> {
    const EXPECTED: Expected = "a size such as 64MiB or 4GiB";
    let (number, unit) = number_and_unit(text).ok_or(EXPECTED)?;
    let factor: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        "t" | "tb" | "tib" => 1 << 40,
        _ => return Err(EXPECTED),
    };
    number
        .checked_mul(factor)
        .filter(|bytes| *bytes > 0)
        .ok_or(EXPECTED)
}

/// Bytes where 0 means none.
pub(super) fn bytes_or_none(text: &str) -> Result<u64, Expected> {
    if text == "0" {
        return Ok(0);
    }
    bytes(text)
}

/// Bytes that are kept in memory at once.
pub(super) fn memory(text: &str) -> Result<usize, Expected> {
    bytes(text).map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX))
}

/// A number where 0 means that there is no limit.
pub(super) fn limit(text: &str) -> Result<u32, Expected> {
    text.parse()
        .map_err(|_not_a_number| "a number; 0 for no limit")
}

pub(super) fn duration(text: &str) -> Result<Duration, Expected> {
    const EXPECTED: Expected = "a time such as 500ms, 30s, 5min or 12h";
    let (number, unit) = number_and_unit(text).ok_or(EXPECTED)?;
    let milliseconds = match unit {
        "ms" => number,
        "s" => number.checked_mul(1_000).ok_or(EXPECTED)?,
        "m" | "min" => number.checked_mul(60_000).ok_or(EXPECTED)?,
        "h" => number.checked_mul(3_600_000).ok_or(EXPECTED)?,
        "d" => number.checked_mul(86_400_000).ok_or(EXPECTED)?,
        _ => return Err(EXPECTED),
    };
    Ok(Duration::from_millis(milliseconds))
}

pub(super) fn count(text: &str) -> Result<usize, Expected> {
    text.parse()
        .ok()
        .filter(|count| *count > 0)
        .ok_or("a number, at least 1")
}

/// Postgres manual, "Querying Replication Slots": lower-case letters, digits and underscores, within a name's length.
pub(super) fn slot(text: &str) -> Result<String, Expected> {
    let named = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if !text.is_empty() && text.len() <= 63 && text.chars().all(named) {
        Ok(text.to_owned())
    } else {
        Err("lower-case letters, digits and underscores, at most 63")
    }
}

/// An opaque key. Clients and servers tell it from a token by its first three letters (protocol.md §7.3).
pub(super) fn opaque_key(text: &str) -> Result<Secret, Expected> {
    if text.starts_with("sb_") && text.len() >= 16 {
        Ok(Secret::new(text.to_owned()))
    } else {
        Err("a key of at least 16 characters that begins with sb_")
    }
}

/// A time as settings and arguments write it: a whole number and its unit.
///
/// # Errors
/// What would have been right.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    duration(text).map_err(|expected| format!("expected {expected}"))
}

fn number_and_unit(text: &str) -> Option<(u64, &str)> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    Some((number.parse().ok()?, unit.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_powers_of_1024() {
        assert_eq!(bytes("1"), Ok(1));
        assert_eq!(bytes("64MiB"), Ok(64 << 20));
        assert_eq!(bytes("64 MB"), Ok(64 << 20));
        assert_eq!(bytes("4g"), Ok(4 << 30));
        for wrong in [
            "",
            "0",
            "-1",
            "4 pints",
            "99999999999999999999",
            "99999999999GiB",
            "1.5GiB",
        ] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn times_need_a_unit() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("2min"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("0s"), Ok(Duration::ZERO));
        for wrong in ["", "30", "s", "1 year", "18446744073709551615h"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn names_that_postgres_would_refuse_are_refused_here() {
        assert_eq!(slot("walcast_2"), Ok("walcast_2".to_owned()));
        for wrong in ["", "Walcast", "wal-cast", "wal cast", &"x".repeat(64)] {
            assert!(slot(wrong).is_err(), "{wrong}");
        }
        assert!(opaque_key("sb_publishable_0123456789").is_ok());
        assert!(opaque_key("publishable_0123456789").is_err());
        assert!(opaque_key("sb_short").is_err());
    }

    #[test]
    fn addresses_name_a_port() {
        assert_eq!(
            address("localhost:4000"),
            Ok(SocketAddr::from(([127, 0, 0, 1], 4000)))
        );
        assert!(address("[::]:4000").is_ok());
        assert!(address("0.0.0.0").is_err());
    }

    #[test]
    fn a_secret_does_not_show_itself() {
        assert_eq!(
            format!("{:?}", Secret::new("hunter2".to_owned())),
            "Secret(hidden)"
        );
    }
}
