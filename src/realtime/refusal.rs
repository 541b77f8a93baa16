//! The texts with which joins are refused (protocol.md §3.7): one function per border, one type for all reasons.

use std::fmt;
use std::time::Duration;

use crate::auth::TokenError;

use super::code::ErrorCode;
use super::join::JoinError;
use super::notice::{PositionRefused, SnapshotRefusal};
use super::request::AskError;

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
    /// The permission could not be looked at; never [`AskError::Policy`], which is a denial.
    Question(AskError),
    /// The stored broadcasts could not be read, or too many new ones came meanwhile.
    ReplayFailed,
    /// `broadcast.replay` that cannot be understood.
    ReplayParams,
    /// `broadcast.replay` on a public channel.
    ReplayOnPublic,
    /// The bindings can never be served, and the join waited for them.
    Configuration(String),
    /// The rows that are there already cannot be sent.
    Snapshot(SnapshotRefusal),
    /// A binding's `since` cannot be served.
    Position(PositionRefused),
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
    /// More was pushed before the join was answered than can wait for that.
    TooEarly,
}

impl Refusal {
    /// The code: from a closed set.
    pub(super) fn code(&self) -> ErrorCode {
        match self {
            Self::TopicNameRequired => ErrorCode::TopicNameRequired,
            Self::Payload(_)
            | Self::TopicTooLong { .. }
            | Self::Superseded
            | Self::Left
            | Self::TooEarly => ErrorCode::UnknownErrorOnChannel,
            Self::TooManyChannels => ErrorCode::ChannelRateLimitReached,
            Self::TooManyJoins => ErrorCode::ClientJoinRateLimitReached,
            Self::Token(error) => token_code(error),
            Self::Expired { .. } => ErrorCode::InvalidJwtToken,
            Self::Unauthorized { .. } => ErrorCode::Unauthorized,
            Self::Question(error) => question_code(error),
            Self::ReplayFailed | Self::ReplayParams | Self::ReplayOnPublic => {
                ErrorCode::UnableToReplayMessages
            }
            Self::Position(PositionRefused::Malformed) => ErrorCode::UnknownErrorOnChannel,
            Self::Position(PositionRefused::TooOld(_)) => ErrorCode::PositionTooOld,
            Self::Configuration(_) => ErrorCode::RealtimeDisabledForConfiguration,
            Self::Snapshot(why) => match why {
                SnapshotRefusal::Malformed(_) => ErrorCode::RealtimeDisabledForConfiguration,
                SnapshotRefusal::TooLarge(_) => ErrorCode::SnapshotTooLarge,
                SnapshotRefusal::Policy(_) => ErrorCode::SnapshotFailed,
            },
            Self::SubscribeTimeout(_) => ErrorCode::PostgresChangesSubscribeTimeout,
            Self::Initializing => ErrorCode::InitializingProjectConnection,
            Self::Restarting => ErrorCode::RealtimeRestarting,
        }
    }
}

/// The code of a token that is no good.
pub(super) fn token_code(error: &TokenError) -> ErrorCode {
    match error {
        TokenError::Malformed => ErrorCode::MalformedJwt,
        TokenError::Signature => ErrorCode::JwtSignatureError,
        TokenError::Signer { .. } => ErrorCode::JwtSignerError,
        TokenError::MissingClaims | TokenError::Expired { .. } | TokenError::Expiration => {
            ErrorCode::InvalidJwtToken
        }
    }
}

/// The code of a permission that could not be looked at.
pub(super) fn question_code(error: &AskError) -> ErrorCode {
    match error {
        // Who is told nothing else learns nothing about the policy.
        AskError::Policy(_) => ErrorCode::Unauthorized,
        AskError::Cancelled => ErrorCode::QueryCanceled,
        AskError::MissingPartition => ErrorCode::MissingPartition,
        AskError::NotInstalled => ErrorCode::RealtimeDisabledForConfiguration,
        AskError::Unreachable => ErrorCode::UnableToConnectToProject,
        AskError::TooManyConnections => ErrorCode::DatabaseLackOfConnections,
        AskError::Overloaded => ErrorCode::IncreaseConnectionPool,
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Self::Token(error) = self {
            // Brings its code along.
            return f.write_str(&error.join_reason());
        }
        if let Self::Position(why) = self {
            return why.fmt(f);
        }
        write!(f, "{}: ", self.code().name())?;
        match self {
            Self::Payload(error) => error.fmt(f),
            Self::TopicTooLong { max } => write!(f, "topic may have at most {max} bytes"),
            Self::Token(_) | Self::Position(_) => Ok(()),
            Self::Expired { seconds_ago } => f.write_str(&expired(*seconds_ago)),
            Self::Unauthorized { sub_topic } => f.write_str(&unauthorized(sub_topic)),
            Self::ReplayParams => f.write_str("Replay params are not valid"),
            Self::ReplayOnPublic => f.write_str("Replay is not allowed for public channels"),
            Self::Configuration(text) => f.write_str(text),
            Self::Snapshot(why) => match why {
                SnapshotRefusal::Malformed(text) => f.write_str(text),
                SnapshotRefusal::TooLarge(limit) => limit.fmt(f),
                SnapshotRefusal::Policy(state) => {
                    write!(f, "Row-level security check failed ({state})")
                }
            },
            Self::SubscribeTimeout(after) => write!(
                f,
                "Timed out after {}ms waiting for the postgres_changes subscription",
                after.as_millis()
            ),
            Self::Superseded => f.write_str("joined again before this join was answered"),
            Self::Left => f.write_str("left before the join was answered"),
            Self::TooEarly => f.write_str("too much was sent before the join was answered"),
            Self::TopicNameRequired
            | Self::TooManyChannels
            | Self::TooManyJoins
            | Self::Question(_)
            | Self::ReplayFailed
            | Self::Initializing
            | Self::Restarting => f.write_str(self.code().text()),
        }
    }
}

/// The text of a topic that no policy lets the token read, in join errors and system messages alike.
pub(super) fn unauthorized(sub_topic: &str) -> String {
    format!("You do not have permissions to read from this Channel topic: {sub_topic}")
}

/// The text for a channel whose token was allowed more before.
pub(super) fn no_longer(sub_topic: &str) -> String {
    format!("You no longer have permission to read from this Channel topic: {sub_topic}")
}

/// The text for an open channel whose permissions could not be looked at with its new token (protocol.md §7.4).
pub(super) fn question_text(sub_topic: &str, error: &AskError) -> String {
    match error {
        AskError::Policy(_) => unauthorized(sub_topic),
        AskError::Cancelled => ErrorCode::QueryCanceled.text().to_owned(),
        AskError::MissingPartition
        | AskError::NotInstalled
        | AskError::Unreachable
        | AskError::TooManyConnections
        | AskError::Overloaded => ErrorCode::UnableToConnectToProject.text().to_owned(),
    }
}

/// The text of an expired token, in join errors and system messages alike.
pub(super) fn expired(seconds_ago: i64) -> String {
    format!("Token has expired {} seconds ago", seconds_ago.max(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::realtime::notice::SnapshotLimit;

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
            Refusal::ReplayParams,
            "UnableToReplayMessages: Replay params are not valid",
        );
        check(
            Refusal::ReplayFailed,
            "UnableToReplayMessages: Realtime was unable to replay messages",
        );
        check(
            Refusal::Question(AskError::Unreachable),
            "UnableToConnectToProject: Realtime was unable to connect to the project database",
        );
        check(
            Refusal::Question(AskError::TooManyConnections),
            "DatabaseLackOfConnections: Database can't accept more connections, Realtime won't connect",
        );
        check(
            Refusal::Question(AskError::Overloaded),
            "IncreaseConnectionPool: Please increase your connection pool size",
        );
        check(
            Refusal::Question(AskError::MissingPartition),
            "MissingPartition: Realtime was unable to find the expected messages partition",
        );
        check(
            Refusal::SubscribeTimeout(Duration::from_secs(15)),
            "PostgresChangesSubscribeTimeout: Timed out after 15000ms waiting for the postgres_changes subscription",
        );
        check(
            Refusal::Snapshot(SnapshotRefusal::TooLarge(SnapshotLimit::Rows(10))),
            "SnapshotTooLarge: more than 10 rows",
        );
        check(
            Refusal::Snapshot(SnapshotRefusal::TooLarge(SnapshotLimit::Time(
                Duration::from_millis(1500),
            ))),
            "SnapshotTooLarge: more than 1500 ms",
        );
        check(
            Refusal::Snapshot(SnapshotRefusal::Policy("22012".into())),
            "SnapshotFailed: Row-level security check failed (22012)",
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
