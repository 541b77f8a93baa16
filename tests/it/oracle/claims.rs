//! Who listens: roles, subjects and claims, sound and odd ones.

use serde_json::{Map, Value, json};

use super::dice::{Dice, json};

/// Roles of subscribers. `staff` inherits from `authenticated`, `guest` is a member without inheriting, `keeper` owns some
/// of the tables.
pub(super) const ROLES: [&str; 6] = [
    "authenticated",
    "anon",
    "staff",
    "guest",
    "keeper",
    "service_role",
];

/// A subscriber's token.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    pub(super) role: &'static str,
    /// As JSON text, byte for byte what the token carries.
    pub(super) claims: Value,
}

impl Identity {
    /// `number` makes it one of a kind.
    pub(super) fn random(dice: &mut Dice, number: usize, expires_at: i64) -> Self {
        let role = match dice.below(100) {
            0..62 => "authenticated",
            62..72 => "anon",
            72..82 => "staff",
            82..88 => "guest",
            88..94 => "keeper",
            _ => "service_role",
        };
        let mut claims = Map::new();
        claims.insert("role".to_owned(), role.into());
        claims.insert("exp".to_owned(), expires_at.into());
        claims.insert("number".to_owned(), number.into());
        let subject = match dice.below(100) {
            0..80 => Some(json!(dice.user())),
            80..88 => None,
            88..91 => Some(Value::Null),
            91..94 => Some(json!("")),
            94..97 => Some(json!("nobody")),
            _ => Some(json!("{10000000-0000-4000-8000-000000000001}")),
        };
        if let Some(subject) = subject {
            claims.insert("sub".to_owned(), subject);
        }
        if dice.chance(60) {
            claims.insert("email".to_owned(), json!(dice.word()));
        }
        if dice.chance(70) {
            let team = match dice.below(8) {
                0 => json!(dice.word()),
                1 => json!(dice.below(7).to_string()),
                2 => Value::Null,
                _ => json!(dice.below(7)),
            };
            claims.insert("team".to_owned(), team);
        }
        if dice.chance(70) {
            let mut data = Map::new();
            if dice.chance(80) {
                data.insert("kind".to_owned(), json!(dice.word()));
            }
            if dice.chance(60) {
                let roles = match dice.below(6) {
                    0 => json!(dice.word()),
                    1 => json!({"admin": true}),
                    _ => json!([dice.word(), dice.word()]),
                };
                data.insert("roles".to_owned(), roles);
            }
            if dice.chance(50) {
                data.insert("teams".to_owned(), json!([dice.below(7), dice.below(7)]));
            }
            claims.insert("app_metadata".to_owned(), Value::Object(data));
        }
        if dice.chance(40) {
            let data: Value = serde_json::from_str(&json(dice)).unwrap();
            claims.insert("user_metadata".to_owned(), data);
        }
        Self {
            role,
            claims: Value::Object(claims),
        }
    }

    /// The same with another number: somebody whom the server has not met.
    pub(super) fn renumbered(&self, number: usize) -> Self {
        let mut again = self.clone();
        again.claims["number"] = number.into();
        again
    }
}
