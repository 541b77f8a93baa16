//! The dice, and the few values that rows, claims and policies share, so that conditions hit.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

/// People: subjects of tokens and content of `uuid` columns.
pub(super) const USERS: [&str; 6] = [
    "10000000-0000-4000-8000-000000000001",
    "20000000-0000-4000-8000-000000000002",
    "30000000-0000-4000-8000-000000000003",
    "40000000-0000-4000-8000-000000000004",
    "50000000-0000-4000-8000-000000000005",
    "60000000-0000-4000-8000-000000000006",
];

/// Texts of rows, claims and constants.
pub(super) const WORDS: [&str; 8] = ["a", "b", "open", "admin", "member", "draft", "a/b", "2"];

/// Random choices that a seed repeats.
#[derive(Debug)]
pub(super) struct Dice(StdRng);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(StdRng::seed_from_u64(seed))
    }

    /// True in so many of a hundred cases.
    pub(super) fn chance(&mut self, percent: u32) -> bool {
        self.0.random_range(0..100) < percent
    }

    /// `0..end`.
    pub(super) fn below(&mut self, end: usize) -> usize {
        self.0.random_range(0..end)
    }

    pub(super) fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        list.choose(&mut self.0)
            .expect("lists to pick from hold something")
    }

    pub(super) fn word(&mut self) -> &'static str {
        WORDS[self.below(WORDS.len())]
    }

    pub(super) fn user(&mut self) -> &'static str {
        USERS[self.below(USERS.len())]
    }
}

/// What a column or an expression may be, as far as conditions care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Bool,
    Int,
    Text,
    Uuid,
    Json,
    Texts,
    Uuids,
    Moment,
    Numeric,
    Bits,
    Level,
}

impl Kind {
    /// By the name of a type as `format_type` writes it; nothing for types that conditions leave alone.
    pub(super) fn of(name: &str) -> Option<Self> {
        Some(match name {
            "boolean" => Self::Bool,
            "integer" | "bigint" | "smallint" => Self::Int,
            "text" => Self::Text,
            "uuid" => Self::Uuid,
            "jsonb" => Self::Json,
            "text[]" => Self::Texts,
            "uuid[]" => Self::Uuids,
            "timestamp with time zone" => Self::Moment,
            "numeric" => Self::Numeric,
            "bit(8)" => Self::Bits,
            "app.level" => Self::Level,
            _ => return None,
        })
    }

    /// A value as a literal that names its type.
    pub(super) fn literal(self, dice: &mut Dice) -> String {
        let array = |items: Vec<&str>| format!("'{{{}}}'", items.join(","));
        match self {
            Self::Bool => (*dice.pick(&["true", "false"])).to_owned(),
            Self::Int => dice.below(7).to_string(),
            Self::Text => match dice.below(6) {
                0 => format!("'{}'", dice.user()),
                1 => format!("'{}/{}'", dice.word(), dice.user()),
                2 => "''".to_owned(),
                _ => format!("'{}'", dice.word()),
            },
            Self::Uuid => format!("'{}'::uuid", dice.user()),
            Self::Json => format!("'{}'::jsonb", json(dice)),
            Self::Texts => {
                let count = dice.below(4);
                let mut items: Vec<&str> = (0..count).map(|_| dice.word()).collect();
                if dice.chance(10) {
                    items.push("null");
                }
                format!("{}::text[]", array(items))
            }
            Self::Uuids => {
                let count = dice.below(4);
                format!(
                    "{}::uuid[]",
                    array((0..count).map(|_| dice.user()).collect())
                )
            }
            Self::Moment => {
                let moments = [
                    "2020-01-01 00:00:00+00",
                    "2025-06-30 12:30:00.25+02",
                    "2125-01-01 00:00:00+00",
                    "infinity",
                ];
                format!("'{}'::timestamptz", dice.pick(&moments))
            }
            Self::Numeric => {
                let numbers = ["0", "1", "1.0", "2.50", "100", "-3.25", "5"];
                format!("{}::numeric", dice.pick(&numbers))
            }
            Self::Bits => format!("B'{:08b}'", dice.below(256)),
            Self::Level => format!("'{}'::app.level", dice.pick(&["low", "mid", "high"])),
        }
    }
}

/// An object with some of the members that conditions look at.
pub(super) fn json(dice: &mut Dice) -> String {
    let mut members = Vec::new();
    if dice.chance(60) {
        members.push(format!("\"kind\": \"{}\"", dice.word()));
    }
    if dice.chance(50) {
        members.push(match dice.below(5) {
            0 => "\"n\": null".to_owned(),
            1 => format!("\"n\": \"{}\"", dice.below(7)),
            2 => format!("\"n\": \"{}\"", dice.word()),
            _ => format!("\"n\": {}", dice.below(7)),
        });
    }
    if dice.chance(50) {
        members.push(format!(
            "\"who\": [\"{}\", \"{}\"]",
            dice.user(),
            dice.word()
        ));
    }
    if dice.chance(30) {
        members.push(format!("\"deep\": {{\"on\": {}}}", dice.chance(50)));
    }
    format!("{{{}}}", members.join(", "))
}
