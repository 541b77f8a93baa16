//! The texts with which joins are refused (protocol.md §3.7): one function per border, one type for all reasons.

use std::fmt;
use std::time::Duration;

use crate::auth::TokenError;

use super::join::JoinError;

/// Why a join is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The topic is `realtime:` alone.
    TopicNameRequired,
    /// The payload cannot be served.
    Payload(JoinError),
    /// The topic is longer than a channel keeps.
    TopicTooLong { max: usize },
    /// The socket has as many channels as it may.
    TooManyChannels,
    /// The socket joins faster than it may.
    TooManyJoins,
    /// The token is no good.
    Token(TokenError),
    /// The token was good when the socket or the join began.
    Expired { seconds_ago: i64 },
    /// No policy lets the subscriber read the private channel.
    Unauthorized { sub_topic: Box<str> },
    /// `broadcast.replay` on a public channel.
    ReplayOnPublic,
    /// The bindings can never be served, and the join waited for them.
    Configuration(String),
    /// The join waited for its bindings in vain.
    SubscribeTimeout(Duration),
    /// The pipeline is not ready, or has to start over.
    Initializing,
    /// The server is leaving.
    Restarting,
    /// Another join of the topic came before this one was answered.
    Superseded,
    /// The client left before the join was answered.
    Left,
}

impl Refusal {
    /// The code, for counting: from a closed set.
    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::TopicNameRequired => "TopicNameRequired",
            Self::Payload(_) | Self::TopicTooLong { .. } | Self::Superseded | Self::Left => {
                "UnknownErrorOnChannel"
            }
            Self::TooManyChannels => "ChannelRateLimitReached",
            Self::TooManyJoins => "ClientJoinRateLimitReached",
            Self::Token(error) => token_code(&error.join_reason()),
            Self::Expired { .. } => "InvalidJWTToken",
            Self::Unauthorized { .. } => "Unauthorized",
            Self::ReplayOnPublic => "UnableToReplayMessages",
            Self::Configuration(_) => "RealtimeDisabledForConfiguration",
            Self::SubscribeTimeout(_) => "PostgresChangesSubscribeTimeout",
            Self::Initializing => "InitializingProjectConnection",
            Self::Restarting => "RealtimeRestarting",
        }
    }
}

fn token_code(reason: &str) -> &'static str {
    const CODES: [&str; 4] = [
        "InvalidJWTToken",
        "MalformedJWT",
        "JwtSignatureError",
        "JwtSignerError",
    ];
    CODES
        .into_iter()
        .find(|code| reason.starts_with(code))
        .unwrap_or("UnknownErrorOnChannel")
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Self::Token(error) = self {
            // Brings its code along.
            return f.write_str(&error.join_reason());
        }
        write!(f, "{}: ", self.code())?;
        match self {
            Self::TopicNameRequired => f.write_str("You must provide a topic name"),
            Self::Payload(error) => error.fmt(f),
            Self::TopicTooLong { max } => write!(f, "topic may have at most {max} bytes"),
            Self::TooManyChannels => f.write_str("Too many channels"),
            Self::TooManyJoins => f.write_str("Too many joins per second"),
            Self::Token(_) => Ok(()),
            Self::Expired { seconds_ago } => f.write_str(&expired(*seconds_ago)),
            Self::Unauthorized { sub_topic } => write!(
                f,
                "You do not have permissions to read from this Channel topic: {sub_topic}"
            ),
            Self::ReplayOnPublic => f.write_str("Replay is not allowed for public channels"),
            Self::Configuration(text) => f.write_str(text),
            Self::SubscribeTimeout(after) => write!(
                f,
                "Timed out after {}ms waiting for the postgres_changes subscription",
                after.as_millis()
            ),
            Self::Initializing => f.write_str("Realtime is initializing the project connection"),
            Self::Restarting => f.write_str("Realtime is restarting, please standby"),
            Self::Superseded => f.write_str("joined again before this join was answered"),
            Self::Left => f.write_str("left before the join was answered"),
        }
    }
}

/// The text of an expired token, in join errors and system messages alike.
pub(super) fn expired(seconds_ago: i64) -> String {
    format!("Token has expired {} seconds ago", seconds_ago.max(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_texts_are_those_of_the_protocol() {
        let check = |refusal: Refusal, expected| assert_eq!(refusal.to_string(), expected);
        check(
            Refusal::TopicNameRequired,
            "TopicNameRequired: You must provide a topic name",
        );
        check(
            Refusal::TooManyChannels,
            "ChannelRateLimitReached: Too many channels",
        );
        check(
            Refusal::TooManyJoins,
            "ClientJoinRateLimitReached: Too many joins per second",
        );
        check(
            Refusal::Expired { seconds_ago: 5 },
            "InvalidJWTToken: Token has expired 5 seconds ago",
        );
        check(
            Refusal::Unauthorized {
                sub_topic: "a:b".into(),
            },
            "Unauthorized: You do not have permissions to read from this Channel topic: a:b",
        );
        check(
            Refusal::ReplayOnPublic,
            "UnableToReplayMessages: Replay is not allowed for public channels",
        );
        check(
            Refusal::SubscribeTimeout(Duration::from_secs(15)),
            "PostgresChangesSubscribeTimeout: Timed out after 15000ms waiting for the postgres_changes subscription",
        );
        check(
            Refusal::Initializing,
            "InitializingProjectConnection: Realtime is initializing the project connection",
        );
        check(
            Refusal::Restarting,
            "RealtimeRestarting: Realtime is restarting, please standby",
        );
    }
}
