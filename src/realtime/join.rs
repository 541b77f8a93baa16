//! The payload of a `phx_join` (protocol.md §3.1): JSON text in, what was asked for out.
//!
//! Lenient as the protocol is: a field of the wrong type falls back to its default and never fails the join. Bindings
//! stay the text that they were, for the reply repeats them key by key.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::auth::Verifier;
use crate::routing::RequestedBinding;

/// Longest wait that `postgres_changes_options.timeout` can ask for (protocol.md §3.6).
const WAIT_MAX: Duration = Duration::from_secs(20);
/// Its default.
const WAIT: Duration = Duration::from_secs(15);
/// Most bytes of bindings that one channel keeps: a thousand generous ones. A channel keeps them for as long as it lives.
const BINDINGS_BYTES_MAX: usize = 256 * 1024;
/// Most stored broadcasts that a join gets (protocol.md §5.6).
const REPLAY_MAX: i64 = 25;
/// How many it gets if it names no number.
const REPLAY: i64 = 10;
/// Longest presence key: it is part of every diff that it causes.
const PRESENCE_KEY_BYTES_MAX: usize = 4096;
/// Ids have this many bits (protocol.md §3.2).
const ID_BITS: u32 = 27;

/// What a join asks for.
#[derive(Clone, Debug)]
pub struct Join {
    /// A private channel.
    pub private: bool,
    /// Broadcasts are to be acknowledged.
    pub ack: bool,
    /// The sender is to hear its own broadcasts.
    pub to_self: bool,
    /// What is to be replayed; `None` without `broadcast.replay`.
    pub replay: Option<ReplayRequest>,
    /// The channel is to be told once broadcasts from the database flow.
    pub replication_ready: bool,
    /// The presence key; `None` if the server is to make one.
    pub presence_key: Option<Box<str>>,
    /// Presence is wanted. Clients that know no such field expect it.
    pub presence: bool,
    /// The rows asked for, in the order of the request.
    pub bindings: Vec<RequestedBinding>,
    /// The reply is to wait this long, at most 20 s, for the bindings to be in force; `None` without `wait`.
    pub wait: Option<Duration>,
    /// The join's own token; `sb_` keys, which stand for the connection's, are left out.
    pub token: Option<String>,
}

/// The value of `broadcast.replay`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplayRequest {
    /// Null: nothing, and all the same an error on a public channel.
    Null,
    /// Neither null nor an object, or with fields that are no integers.
    Invalid,
    /// Stored broadcasts.
    Since {
        /// Milliseconds since 1970; 0 where the request names none.
        since: i64,
        /// 1 to 25.
        limit: u8,
    },
}

/// A join that is refused for its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// `config` is there and neither object nor null.
    #[error("config must be an object")]
    Config,
    /// More bindings than one channel may have.
    #[error("a channel may have at most {max} postgres_changes bindings")]
    Bindings {
        /// The limit.
        max: usize,
    },
    /// Bindings that are too long together.
    #[error("postgres_changes bindings may have at most {max} bytes")]
    BindingsBytes {
        /// The limit.
        max: usize,
    },
}

impl Join {
    /// Parses a payload; what is no object counts as an empty one. `None` stands for a payload that is no JSON.
    ///
    /// # Errors
    /// The join cannot be served, whatever token it carries.
    pub fn parse(payload: Option<&RawValue>, bindings_max: usize) -> Result<Self, JoinError> {
        let payload = object(payload).unwrap_or_default();
        let token = text(payload.get("user_token").copied())
            .or_else(|| text(payload.get("access_token").copied()))
            .filter(|token| !Verifier::is_api_key(token));
        let config = match payload.get("config").copied() {
            Some(config) if config.get() != "null" => {
                object(Some(config)).ok_or(JoinError::Config)?
            }
            _ => Object::default(),
        };
        let broadcast = object(config.get("broadcast").copied()).unwrap_or_default();
        let presence = object(config.get("presence").copied()).unwrap_or_default();
        let options = object(config.get("postgres_changes_options").copied()).unwrap_or_default();
        Ok(Self {
            private: boolean(config.get("private").copied()),
            ack: boolean(broadcast.get("ack").copied()),
            to_self: boolean(broadcast.get("self").copied()),
            replay: broadcast.get("replay").map(|json| replay(json)),
            replication_ready: boolean(broadcast.get("replication_ready").copied()),
            presence_key: presence_key(presence.get("key").copied()),
            presence: match presence.get("enabled").copied() {
                Some(enabled) if enabled.get() != "null" => boolean(Some(enabled)),
                _ => true,
            },
            bindings: bindings(config.get("postgres_changes").copied(), bindings_max)?,
            wait: boolean(options.get("wait").copied())
                .then(|| wait(options.get("timeout").copied())),
            token,
        })
    }
}

/// The token of an `access_token` event: `None` where the event is to be ignored (protocol.md §7.4).
#[must_use]
pub fn access_token(payload: &RawValue) -> Option<String> {
    let payload = object(Some(payload))?;
    text(payload.get("access_token").copied()).filter(|token| !Verifier::is_api_key(token))
}

/// Members by name; of equal names the last counts.
pub(super) type Object<'a> = BTreeMap<String, &'a RawValue>;

pub(super) fn object(json: Option<&RawValue>) -> Option<Object<'_>> {
    serde_json::from_str(json?.get()).ok()
}

pub(super) fn text(json: Option<&RawValue>) -> Option<String> {
    serde_json::from_str(json?.get()).ok()
}

/// True, or the word in any letter case.
fn boolean(json: Option<&RawValue>) -> bool {
    json.is_some_and(|json| {
        json.get() == "true"
            || text(Some(json)).is_some_and(|text| text.eq_ignore_ascii_case("true"))
    })
}

fn wait(timeout: Option<&RawValue>) -> Duration {
    timeout
        .and_then(|json| serde_json::from_str::<u64>(json.get()).ok())
        .filter(|millis| *millis > 0)
        .map_or(WAIT, Duration::from_millis)
        .min(WAIT_MAX)
}

fn replay(json: &RawValue) -> ReplayRequest {
    if json.get() == "null" {
        return ReplayRequest::Null;
    }
    let Some(replay) = object(Some(json)) else {
        return ReplayRequest::Invalid;
    };
    let integer = |name: &str, default: i64| match replay.get(name) {
        Some(json) if json.get() != "null" => serde_json::from_str::<i64>(json.get()).ok(),
        _ => Some(default),
    };
    let (Some(since), Some(limit)) = (integer("since", 0), integer("limit", REPLAY)) else {
        return ReplayRequest::Invalid;
    };
    ReplayRequest::Since {
        since,
        limit: u8::try_from(limit.clamp(1, REPLAY_MAX)).unwrap_or(1),
    }
}

/// A key of any type, as the text that keys are in presence objects. One that is too long falls back to the default.
fn presence_key(json: Option<&RawValue>) -> Option<Box<str>> {
    let json = json.filter(|json| json.get() != "null")?;
    let key = text(Some(json)).unwrap_or_else(|| json.get().to_owned());
    (!key.is_empty() && key.len() <= PRESENCE_KEY_BYTES_MAX).then(|| key.into())
}

/// The bindings with their ids; elements that are no objects are dropped.
fn bindings(json: Option<&RawValue>, max: usize) -> Result<Vec<RequestedBinding>, JoinError> {
    let elements: Vec<&RawValue> = json
        .and_then(|json| serde_json::from_str(json.get()).ok())
        .unwrap_or_default();
    let objects: Vec<&RawValue> = elements
        .into_iter()
        .filter(|element| element.get().starts_with('{'))
        .collect();
    if objects.len() > max {
        return Err(JoinError::Bindings { max });
    }
    let bytes: usize = objects.iter().map(|json| json.get().len()).sum();
    if bytes > BINDINGS_BYTES_MAX {
        return Err(JoinError::BindingsBytes {
            max: BINDINGS_BYTES_MAX,
        });
    }
    let mut taken: BTreeMap<u32, String> = BTreeMap::new();
    Ok(objects
        .into_iter()
        .map(|json| RequestedBinding {
            id: id(canonical(json), &mut taken),
            json: json.to_owned(),
        })
        .collect())
}

/// The number of a binding: a hash of its canonical text; where another binding of the channel has it, the next free.
fn id(canonical: String, taken: &mut BTreeMap<u32, String>) -> u32 {
    const MASK: u32 = (1 << ID_BITS) - 1;
    let hash = fnv1a(canonical.as_bytes());
    let mut id = u32::try_from((hash ^ (hash >> ID_BITS)) & u64::from(MASK)).unwrap_or(1);
    loop {
        // Clients test ids for truth, so none is zero.
        id = id.max(1);
        match taken.get(&id) {
            Some(holder) if *holder != canonical => id = id.wrapping_add(1) & MASK,
            Some(_same) => return id,
            None => {
                taken.insert(id, canonical);
                return id;
            }
        }
    }
}

/// FNV-1a, 64 bits: the same on every machine and in every release, so that ids are.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// A text that equal objects share whatever the order of their keys and their white space.
fn canonical(json: &RawValue) -> String {
    fn sorted(value: Value) -> Value {
        match value {
            Value::Object(members) => {
                let mut members: Vec<_> = members.into_iter().collect();
                members.sort_by(|(one, _), (other, _)| one.cmp(other));
                Value::Object(
                    members
                        .into_iter()
                        .map(|(key, value)| (key, sorted(value)))
                        .collect(),
                )
            }
            Value::Array(elements) => Value::Array(elements.into_iter().map(sorted).collect()),
            scalar => scalar,
        }
    }
    // What does not parse as a value (too deep, lone surrogates) is equal only to its own text.
    serde_json::from_str(json.get()).map_or_else(
        |_no_value| json.get().to_owned(),
        |value: Value| sorted(value).to_string(),
    )
}

/// The `response` of an ok reply: each binding verbatim, and its id (protocol.md §3.2).
#[must_use]
pub fn response(bindings: &[RequestedBinding]) -> String {
    let mut out = String::from(r#"{"postgres_changes":["#);
    for (index, binding) in bindings.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        out.push_str(&element(binding));
    }
    out.push_str("]}");
    out
}

fn element(binding: &RequestedBinding) -> String {
    let json = members(&binding.json);
    let members = json
        .trim()
        .strip_prefix('{')
        .and_then(|json| json.strip_suffix('}'))
        .unwrap_or_default()
        .trim();
    let comma = if members.is_empty() { "" } else { "," };
    format!(r#"{{"id":{}{comma}{members}}}"#, binding.id)
}

/// The object without an `id` of its own, which ours replaces: two keys of one name mean different things to
/// different parsers.
fn members(json: &RawValue) -> Cow<'_, str> {
    #[derive(Deserialize)]
    struct Id<'a> {
        #[serde(borrow)]
        id: Option<&'a RawValue>,
    }
    // A null `id` is a key as well; the text tells, and a needless rebuild costs only time.
    let own = json.get().contains("\"id\"")
        || json.get().contains("\\u")
        || serde_json::from_str::<Id<'_>>(json.get()).is_ok_and(|own| own.id.is_some());
    if !own {
        return json.get().into();
    }
    match serde_json::from_str::<serde_json::Map<String, Value>>(json.get()) {
        Ok(mut members) => match members.shift_remove("id") {
            Some(_theirs) => Value::Object(members).to_string().into(),
            None => json.get().into(),
        },
        Err(_no_map) => json.get().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(json: &str) -> Box<RawValue> {
        RawValue::from_string(json.to_owned()).unwrap()
    }

    fn join(json: &str) -> Join {
        Join::parse(Some(&raw(json)), 1000).unwrap()
    }

    #[test]
    fn a_full_payload() {
        let join = join(
            r#"{"config":{"broadcast":{"ack":true,"self":false,"replay":null},"presence":{"key":"","enabled":true},
                "postgres_changes":[{"event":"*","schema":"public"}],"postgres_changes_options":{"wait":true,"timeout":3000},
                "private":"TRUE"},"access_token":"eyJ","version":"realtime-js/2.112.2"}"#,
        );
        assert!(join.private && join.ack && !join.to_self && join.presence);
        assert_eq!(join.replay, Some(ReplayRequest::Null));
        assert!(join.presence_key.is_none() && !join.replication_ready);
        assert_eq!(join.wait, Some(Duration::from_secs(3)));
        assert_eq!(join.token.as_deref(), Some("eyJ"));
        assert_eq!(join.bindings.len(), 1);
    }

    #[test]
    fn wrong_types_fall_back_to_defaults() {
        for json in [
            "{}",
            "null",
            "[]",
            "7",
            r#"{"config":null}"#,
            r#"{"config":{}}"#,
            r#"{"config":{"private":1,"broadcast":[],"presence":"x","postgres_changes":{},"postgres_changes_options":[]},
                "access_token":{},"user_token":null}"#,
            r#"{"config":{"private":"yes","broadcast":{"ack":"no"},"postgres_changes":[null,1,"x",[]]},"access_token":null}"#,
        ] {
            let join = join(json);
            assert!(!join.private && !join.ack && !join.to_self, "{json}");
            assert!(join.replay.is_none() && join.presence_key.is_none());
            assert!(join.bindings.is_empty() && join.wait.is_none() && join.token.is_none());
        }
    }

    #[test]
    fn a_config_that_is_no_object_is_refused() {
        for json in [r#"{"config":[]}"#, r#"{"config":"x"}"#, r#"{"config":7}"#] {
            assert_eq!(
                Join::parse(Some(&raw(json)), 1).unwrap_err(),
                JoinError::Config
            );
        }
        assert_eq!(
            Join::parse(Some(&raw(r#"{"config":{"postgres_changes":[{},{}]}}"#)), 1).unwrap_err(),
            JoinError::Bindings { max: 1 }
        );
    }

    #[test]
    fn what_is_to_be_replayed() {
        let check = |replay: &str, expected| {
            let json = format!(r#"{{"config":{{"broadcast":{{"replay":{replay}}}}}}}"#);
            assert_eq!(join(&json).replay, Some(expected), "{replay}");
        };
        let since = |since, limit| ReplayRequest::Since { since, limit };
        check(
            r#"{"since":1760000000000,"limit":7}"#,
            since(1_760_000_000_000, 7),
        );
        check(r#"{"since":5}"#, since(5, 10));
        check("{}", since(0, 10));
        check(r#"{"since":null,"limit":null}"#, since(0, 10));
        check(r#"{"limit":0}"#, since(0, 1));
        check(r#"{"limit":-1}"#, since(0, 1));
        check(r#"{"limit":1000}"#, since(0, 25));
        check(r#"{"since":"5"}"#, ReplayRequest::Invalid);
        check(r#"{"since":5.5}"#, ReplayRequest::Invalid);
        check(r#"{"limit":"x"}"#, ReplayRequest::Invalid);
        check("7", ReplayRequest::Invalid);
        check("null", ReplayRequest::Null);
    }

    #[test]
    fn presence_is_wanted_unless_it_is_declined() {
        let check = |presence: &str, key: Option<&str>, wanted| {
            let join = join(&format!(r#"{{"config":{{"presence":{presence}}}}}"#));
            assert_eq!(
                (join.presence_key.as_deref(), join.presence),
                (key, wanted),
                "{presence}"
            );
        };
        check(r#"{"key":"ann","enabled":false}"#, Some("ann"), false);
        check(r#"{"key":"ann","enabled":"True"}"#, Some("ann"), true);
        check(r#"{"key":""}"#, None, true);
        check(r#"{"key":null,"enabled":null}"#, None, true);
        check(r#"{"key":7,"enabled":7}"#, Some("7"), false);
        check("null", None, true);
        check(&format!(r#"{{"key":"{}"}}"#, "x".repeat(4097)), None, true);
    }

    #[test]
    fn the_wait_is_clamped() {
        let check = |options: &str, expected| {
            let json = format!(r#"{{"config":{{"postgres_changes_options":{options}}}}}"#);
            assert_eq!(join(&json).wait, expected, "{options}");
        };
        check(r#"{"wait":true}"#, Some(WAIT));
        check(r#"{"wait":"true","timeout":90000}"#, Some(WAIT_MAX));
        check(r#"{"wait":true,"timeout":0}"#, Some(WAIT));
        check(r#"{"wait":true,"timeout":-1}"#, Some(WAIT));
        check(r#"{"wait":true,"timeout":"1"}"#, Some(WAIT));
        check(r#"{"wait":false,"timeout":5}"#, None);
    }

    #[test]
    fn the_tokens() {
        let check = |json, expected| assert_eq!(join(json).token.as_deref(), expected, "{json}");
        check(r#"{"access_token":"a","user_token":"b"}"#, Some("b"));
        check(r#"{"access_token":"a","user_token":7}"#, Some("a"));
        check(r#"{"access_token":"sb_publishable_x"}"#, None);
        check(r#"{"access_token":""}"#, Some(""));
    }

    #[test]
    fn elements_are_the_objects_verbatim_with_an_id() {
        let check = |json: &str, expected: &str| {
            let binding = RequestedBinding {
                id: 5,
                json: raw(json),
            };
            assert_eq!(
                response(&[binding]),
                format!(r#"{{"postgres_changes":[{expected}]}}"#)
            );
        };
        check("{}", r#"{"id":5}"#);
        check(
            r#"{ "event" : "*", "filter":null,"x":[1.00] }"#,
            r#"{"id":5,"event" : "*", "filter":null,"x":[1.00]}"#,
        );
        check(
            r#"{"id":9,"event":"*","n":1.00}"#,
            r#"{"id":5,"event":"*","n":1.00}"#,
        );
        check(r#"{"\u0069d":null,"a":1}"#, r#"{"id":5,"a":1}"#);
        check(
            r#"{"filter":"\"id\"=eq.1"}"#,
            r#"{"id":5,"filter":"\"id\"=eq.1"}"#,
        );
        assert_eq!(response(&[]), r#"{"postgres_changes":[]}"#);
    }

    #[test]
    fn equal_objects_share_an_id_and_distinct_ones_do_not() {
        let ids = |elements: &str| -> Vec<u32> {
            join(&format!(
                r#"{{"config":{{"postgres_changes":{elements}}}}}"#
            ))
            .bindings
            .iter()
            .map(|binding| binding.id)
            .collect()
        };
        let seen = ids(
            r#"[{"event":"*","table":"a"},{ "table":"a", "event":"*" },{"event":"*","table":"b"}]"#,
        );
        assert_eq!(seen[0], seen[1]);
        assert_ne!(seen[0], seen[2]);
        assert_eq!(
            seen,
            ids(
                r#"[{"event":"*","table":"a"},{"event":"*","table":"a"},{"event":"*","table":"b"}]"#
            )
        );
        assert!(seen.iter().all(|id| (1..1 << ID_BITS).contains(id)));

        let mut taken = BTreeMap::from([(7, "other".to_owned())]);
        let free = id("x".into(), &mut BTreeMap::new());
        taken.insert(free, "other".into());
        assert_eq!(id("x".into(), &mut taken), free + 1);
    }
}
