//! Every code with which a channel is refused, closed or counted (protocol.md §8.2), and the table of `docs/errors.md`.
//!
//! A closed set: metrics use the names as labels.

use super::request::AskError;

/// An error of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// The topic is `realtime:` alone.
    TopicNameRequired,
    /// A token that is none.
    MalformedJwt,
    /// A token that somebody else signed.
    JwtSignatureError,
    /// A token of a key that is not known.
    JwtSignerError,
    /// A token that has expired or lacks claims.
    InvalidJwtToken,
    /// No policy lets the token read the topic.
    Unauthorized,
    /// Bindings that can never be served, or private channels without their table.
    RealtimeDisabledForConfiguration,
    /// A `since` from before what is retained.
    PositionTooOld,
    /// No replay.
    UnableToReplayMessages,
    /// Too many channels.
    ChannelRateLimitReached,
    /// Too many joins.
    ClientJoinRateLimitReached,
    /// The server is leaving.
    RealtimeRestarting,
    /// The database did not answer in time.
    InitializingProjectConnection,
    /// Too many questions wait.
    IncreaseConnectionPool,
    /// The database takes no connection.
    DatabaseLackOfConnections,
    /// The database cannot be reached.
    UnableToConnectToProject,
    /// A policy took too long.
    QueryCanceled,
    /// The table has no partition for today.
    MissingPartition,
    /// The join waited for its bindings in vain.
    PostgresChangesSubscribeTimeout,
    /// More rows are there already than a join may get.
    SnapshotTooLarge,
    /// The rows that are there already could not be read.
    SnapshotFailed,
    /// Anything else about a join.
    UnknownErrorOnChannel,
    /// Bindings were refused.
    UnableToSubscribeToPostgres,
    /// A policy raised.
    RlsPolicyError,
    /// Permissions could not be looked at again.
    UnableToSetPolicies,
    /// Too many broadcasts.
    MessagePerSecondRateLimitReached,
    /// Too many diffs.
    PresenceRateLimitReached,
    /// Too many calls.
    ClientPresenceRateLimitReached,
    /// A presence payload that is too large.
    InvalidPresencePayload,
    /// A broadcast that is none.
    UnableToHandleBroadcast,
    /// A broadcast was not stored.
    UnableToPersistMessage,
    /// Broadcasts from the database did not begin in time.
    ReplicationNotEstablished,
}

/// Where a code is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// In a join's error reply, as `Code: text`.
    Join,
    /// In a system message, the text alone; the code is a label of the metrics.
    System,
    /// In the metrics alone.
    Metrics,
}

/// One row of the table.
struct Entry {
    name: &'static str,
    place: Place,
    /// What the client sees; upper case stands for what varies.
    texts: &'static [&'static str],
    when: &'static str,
    remedy: &'static str,
}

const fn entry(
    place: Place,
    name: &'static str,
    texts: &'static [&'static str],
    when: &'static str,
    remedy: &'static str,
) -> Entry {
    Entry {
        name,
        place,
        texts,
        when,
        remedy,
    }
}

impl ErrorCode {
    /// All of them, in the order of the table.
    pub const ALL: [Self; 32] = [
        Self::TopicNameRequired,
        Self::MalformedJwt,
        Self::JwtSignatureError,
        Self::JwtSignerError,
        Self::InvalidJwtToken,
        Self::Unauthorized,
        Self::RealtimeDisabledForConfiguration,
        Self::PositionTooOld,
        Self::UnableToReplayMessages,
        Self::ChannelRateLimitReached,
        Self::ClientJoinRateLimitReached,
        Self::RealtimeRestarting,
        Self::InitializingProjectConnection,
        Self::IncreaseConnectionPool,
        Self::DatabaseLackOfConnections,
        Self::UnableToConnectToProject,
        Self::QueryCanceled,
        Self::MissingPartition,
        Self::PostgresChangesSubscribeTimeout,
        Self::SnapshotTooLarge,
        Self::SnapshotFailed,
        Self::UnknownErrorOnChannel,
        Self::UnableToSubscribeToPostgres,
        Self::RlsPolicyError,
        Self::UnableToSetPolicies,
        Self::MessagePerSecondRateLimitReached,
        Self::PresenceRateLimitReached,
        Self::ClientPresenceRateLimitReached,
        Self::InvalidPresencePayload,
        Self::UnableToHandleBroadcast,
        Self::UnableToPersistMessage,
        Self::ReplicationNotEstablished,
    ];

    /// The code as it is written, on the wire and as a label.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.entry().name
    }

    /// The first of its texts.
    #[must_use]
    pub fn text(self) -> &'static str {
        self.entry().texts.first().copied().unwrap_or_default()
    }

    const fn entry(self) -> Entry {
        use Place::{Join, Metrics, System};
        match self {
            Self::TopicNameRequired => entry(
                Join,
                "TopicNameRequired",
                &["You must provide a topic name"],
                "The topic is `realtime:` and nothing more.",
                "Name the channel.",
            ),
            Self::MalformedJwt => entry(
                Join,
                "MalformedJWT",
                &["The token provided is not a valid JWT"],
                "The access token is no JSON Web Token.",
                "Send the user's token, or none to use the connection's key.",
            ),
            Self::JwtSignatureError => entry(
                Join,
                "JwtSignatureError",
                &["Failed to validate JWT signature"],
                "The token was signed with another key than the one that its header names.",
                "Check `WALCAST_JWT_SECRET` and `WALCAST_JWKS` against the issuer of the tokens.",
            ),
            Self::JwtSignerError => entry(
                Join,
                "JwtSignerError",
                &[
                    "Failed to generate JWT signer, check your JWT secret or JWKS configuration",
                    "Failed to generate JWT signer for key ID (kid) \"KID\", check your JWT secret or JWKS configuration",
                ],
                "No key is configured for the token's algorithm or key id.",
                "Add the issuer's key to `WALCAST_JWKS`, or set `WALCAST_JWT_SECRET`.",
            ),
            Self::InvalidJwtToken => entry(
                Join,
                "InvalidJWTToken",
                &[
                    "Token has expired N seconds ago",
                    "Fields `role` and `exp` are required in JWT",
                    "Token expiration time is invalid",
                ],
                "The token is too old, or lacks claims.",
                "Refresh the token and join again.",
            ),
            Self::Unauthorized => entry(
                Join,
                "Unauthorized",
                &["You do not have permissions to read from this Channel topic: TOPIC"],
                "No SELECT policy on `realtime.messages` lets the token read the private topic, or a policy raised.",
                "Grant it by a policy; `realtime.topic()` is the topic and `extension` tells broadcast from presence.",
            ),
            Self::RealtimeDisabledForConfiguration => entry(
                Join,
                "RealtimeDisabledForConfiguration",
                &[
                    "private channels need the table realtime.messages; run walcast setup",
                    "TEXT",
                ],
                "A private join without the table, a join with `wait` whose bindings can never be served, or a `snapshot` that is malformed.",
                "Run `walcast setup`, or mend the binding that the text names.",
            ),
            Self::PositionTooOld => entry(
                Join,
                "PositionTooOld",
                &["oldest available position is CURSOR"],
                "A binding's `since` names a position or a time that is no longer retained, or of another series.",
                "Read the rows again and join without `since`, or with a newer one.",
            ),
            Self::UnableToReplayMessages => entry(
                Join,
                "UnableToReplayMessages",
                &[
                    "Realtime was unable to replay messages",
                    "Replay params are not valid",
                    "Replay is not allowed for public channels",
                ],
                "A join with `replay` that cannot be served.",
                "Join privately, with `since` in milliseconds; the first text goes away when the database answers.",
            ),
            Self::ChannelRateLimitReached => entry(
                Join,
                "ChannelRateLimitReached",
                &["Too many channels"],
                "The socket has as many channels as it may.",
                "Leave channels, or raise `WALCAST_CHANNELS_PER_SOCKET_MAX`.",
            ),
            Self::ClientJoinRateLimitReached => entry(
                Join,
                "ClientJoinRateLimitReached",
                &["Too many joins per second"],
                "The socket or the token's subject joins too often; the socket is closed with 1001.",
                "Join less often, or raise `WALCAST_JOINS_PER_SECOND_PER_SOCKET_MAX`.",
            ),
            Self::RealtimeRestarting => entry(
                Join,
                "RealtimeRestarting",
                &["Realtime is restarting, please standby"],
                "The server is leaving.",
                "None: clients come back by themselves.",
            ),
            Self::InitializingProjectConnection => entry(
                Join,
                "InitializingProjectConnection",
                &["Realtime is initializing the project connection"],
                "The database did not answer in time, or changes do not flow yet.",
                "None: clients try again. `/ready` says what is missing.",
            ),
            Self::IncreaseConnectionPool => entry(
                Join,
                "IncreaseConnectionPool",
                &["Please increase your connection pool size"],
                "Too many questions about private channels wait.",
                "Raise `WALCAST_MESSAGE_CONNECTIONS`, and look at how long the policies take.",
            ),
            Self::DatabaseLackOfConnections => entry(
                Join,
                "DatabaseLackOfConnections",
                &["Database can't accept more connections, Realtime won't connect"],
                "Postgres has no connection left.",
                "Raise `max_connections`, or close others.",
            ),
            Self::UnableToConnectToProject => entry(
                Join,
                "UnableToConnectToProject",
                &["Realtime was unable to connect to the project database"],
                "Postgres cannot be reached.",
                "None once it is back: clients try again.",
            ),
            Self::QueryCanceled => entry(
                Join,
                "QueryCanceled",
                &["Query was cancelled, please try again"],
                "A policy on `realtime.messages` took too long.",
                "Make the policy quicker: an index on what it looks up is mostly what is missing.",
            ),
            Self::MissingPartition => entry(
                Join,
                "MissingPartition",
                &["Realtime was unable to find the expected messages partition"],
                "`realtime.messages` has no partition for today.",
                "Run `walcast setup`; the server makes partitions ahead while it may.",
            ),
            Self::PostgresChangesSubscribeTimeout => entry(
                Join,
                "PostgresChangesSubscribeTimeout",
                &["Timed out after Nms waiting for the postgres_changes subscription"],
                "A join with `wait` whose bindings were not in force in time.",
                "None: clients try again. `/ready` says what is missing.",
            ),
            Self::SnapshotTooLarge => entry(
                Join,
                "SnapshotTooLarge",
                &["more than LIMIT"],
                "A join with `snapshot` whose rows are too many, too large, or take too long to read. A channel whose token \
                came after its join is told so in a system message, and joins again.",
                "Narrow it by `filter`, `select` or `limit`, or raise `WALCAST_SNAPSHOT_ROWS_MAX` and its relatives.",
            ),
            Self::SnapshotFailed => entry(
                Join,
                "SnapshotFailed",
                &["Row-level security check failed (SQLSTATE)"],
                "A join with `snapshot` for whose rows a policy raises or times out.",
                "Mend the policy; `SQLSTATE` is Postgres's.",
            ),
            Self::UnknownErrorOnChannel => entry(
                Join,
                "UnknownErrorOnChannel",
                &["TEXT"],
                "A join that cannot be served for another reason: its payload, a longer topic than allowed, a newer join of the topic, more sent before the answer than can wait for it.",
                "The text says what.",
            ),
            Self::UnableToSubscribeToPostgres => entry(
                System,
                "UnableToSubscribeToPostgres",
                &["TEXT"],
                "Bindings can never be served as they are. The channel stays joined.",
                "Mend the binding that the text names.",
            ),
            Self::RlsPolicyError => entry(
                System,
                "RlsPolicyError",
                &["Row-level security check failed (SQLSTATE)"],
                "A policy of a table raises or times out for this token; its changes are withheld.",
                "Mend the policy; `SQLSTATE` is Postgres's.",
            ),
            Self::UnableToSetPolicies => entry(
                Metrics,
                "UnableToSetPolicies",
                &[],
                "The database did not answer when permissions were looked at again. The channel stays.",
                "None once the database answers.",
            ),
            Self::MessagePerSecondRateLimitReached => entry(
                System,
                "MessagePerSecondRateLimitReached",
                &["Too many messages per second"],
                "Broadcasts sent and delivered exceed a limit. The channel is closed.",
                "Send less often, or raise `WALCAST_MESSAGES_PER_SECOND_PER_SOCKET_MAX` and its relatives.",
            ),
            Self::PresenceRateLimitReached => entry(
                System,
                "PresenceRateLimitReached",
                &["Too many presence messages per second"],
                "Presence calls and diffs exceed a limit. The channel is closed.",
                "Track less often, or raise `WALCAST_PRESENCE_EVENTS_PER_SECOND_PER_SOCKET_MAX` and its relatives.",
            ),
            Self::ClientPresenceRateLimitReached => entry(
                System,
                "ClientPresenceRateLimitReached",
                &["Client presence rate limit exceeded"],
                "More calls of track and untrack in 30 s than a channel may make. The channel is closed.",
                "Track less often, or raise `WALCAST_PRESENCE_CALLS_MAX`.",
            ),
            Self::InvalidPresencePayload => entry(
                System,
                "InvalidPresencePayload",
                &["Track message size exceeded"],
                "A tracked payload is too large. The channel is closed.",
                "Track less, or raise `WALCAST_PAYLOAD_BYTES_MAX`.",
            ),
            Self::UnableToHandleBroadcast => entry(
                Metrics,
                "UnableToHandleBroadcast",
                &[],
                "A broadcast was refused: too large, not JSON, not permitted, or its permission could not be looked at.",
                "Join with `ack: true` to be told why.",
            ),
            Self::UnableToPersistMessage => entry(
                Metrics,
                "UnableToPersistMessage",
                &[],
                "A broadcast was delivered and could not be stored.",
                "Look at the database; a denial by policy is not counted.",
            ),
            Self::ReplicationNotEstablished => entry(
                System,
                "ReplicationNotEstablished",
                &["Replication connection was not established in time"],
                "A join with `replication_ready`, and changes did not flow within a minute. The channel is closed.",
                "`/ready` says what is missing.",
            ),
        }
    }
}

/// Why a broadcast or a presence call was not served, in the `error` of an acknowledgement (protocol.md §5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AckError {
    /// The payload is too large.
    PayloadSizeExceeded,
    /// No policy permits it.
    Unauthorized,
    /// A policy raised.
    RlsPolicyError,
    /// A policy took too long.
    QueryCanceled,
    /// The table has no partition for today.
    MissingPartition,
    /// The database cannot be reached.
    UnableToConnectToProject,
    /// Too many questions or broadcasts wait.
    IncreaseConnectionPool,
    /// The table is not installed.
    UnableToSetPolicies,
    /// A `ttl` out of its range.
    InvalidPersistTtl,
    /// The payload is no JSON.
    UnableToHandleBroadcast,
}

impl AckError {
    const ALL: [Self; 10] = [
        Self::PayloadSizeExceeded,
        Self::Unauthorized,
        Self::RlsPolicyError,
        Self::QueryCanceled,
        Self::MissingPartition,
        Self::UnableToConnectToProject,
        Self::IncreaseConnectionPool,
        Self::UnableToSetPolicies,
        Self::InvalidPersistTtl,
        Self::UnableToHandleBroadcast,
    ];

    /// The code as it is written.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.row().0
    }

    /// Code, when, what to do.
    const fn row(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::PayloadSizeExceeded => (
                "payload_size_exceeded",
                "The payload is larger than `WALCAST_PAYLOAD_BYTES_MAX`.",
                "Send less at a time.",
            ),
            Self::Unauthorized => (
                "unauthorized",
                "No INSERT policy on `realtime.messages` lets the token send to the private topic.",
                "Grant it by a policy.",
            ),
            Self::RlsPolicyError => (
                "rls_policy_error",
                "A policy on `realtime.messages` raised.",
                "Mend the policy.",
            ),
            Self::QueryCanceled => (
                "query_canceled",
                "A policy on `realtime.messages` took too long.",
                "Make the policy quicker.",
            ),
            Self::MissingPartition => (
                "missing_partition",
                "`realtime.messages` has no partition for today.",
                "Run `walcast setup`.",
            ),
            Self::UnableToConnectToProject => (
                "unable_to_connect_to_project",
                "Postgres cannot be reached.",
                "Send again later.",
            ),
            Self::IncreaseConnectionPool => (
                "increase_connection_pool",
                "Too many broadcasts wait for their permission, or too many questions for Postgres.",
                "Send again later; raise `WALCAST_MESSAGE_CONNECTIONS` if it stays.",
            ),
            Self::UnableToSetPolicies => (
                "unable_to_set_policies",
                "`realtime.messages` is not installed.",
                "Run `walcast setup`.",
            ),
            Self::InvalidPersistTtl => (
                "invalid_persist_ttl",
                "`persist` is neither true nor `{\"ttl\": n}` with n from 1 to 259200 seconds. The broadcast was not sent.",
                "Send a ttl in that range.",
            ),
            Self::UnableToHandleBroadcast => (
                "unable_to_handle_broadcast",
                "The payload is not the JSON that the frame says it is.",
                "Send valid JSON.",
            ),
        }
    }
}

impl From<&AskError> for AckError {
    fn from(error: &AskError) -> Self {
        match error {
            AskError::Policy(_) => Self::RlsPolicyError,
            AskError::Cancelled => Self::QueryCanceled,
            AskError::MissingPartition => Self::MissingPartition,
            AskError::NotInstalled => Self::UnableToSetPolicies,
            AskError::Unreachable => Self::UnableToConnectToProject,
            AskError::TooManyConnections | AskError::Overloaded => Self::IncreaseConnectionPool,
        }
    }
}

/// The content of `docs/errors.md`.
#[must_use]
pub fn markdown() -> String {
    let mut out = String::from(
        "# Errors of channels\n\n\
        Generated from `src/realtime/code.rs`. Words in upper case stand for what varies.\n\n\
        ## Refused joins\n\n\
        In the reply to a join, as `Code: text`; supabase-js reports `CHANNEL_ERROR` with it and joins again by itself.\n\n\
        | code | text | when | what to do |\n|---|---|---|---|\n",
    );
    rows(&mut out, Place::Join);
    out.push_str(
        "\n## System messages\n\n\
        The text in a `system` message. Where the channel is closed, supabase-js reports `CLOSED` and does not join again.\n\
        The code is a label of `realtime_channel_error`. Tokens that end while a channel is open are told with the texts of\n\
        the first table; a permission that is lost, with `You do not have permissions to read from this Channel topic: TOPIC`\n\
        or `You no longer have permission to read from this Channel topic: TOPIC`.\n\n\
        | code | text | when | what to do |\n|---|---|---|---|\n",
    );
    rows(&mut out, Place::System);
    out.push_str(
        "\n## Acknowledgements\n\n\
        In the `error` of the reply to a broadcast on a channel with `ack: true`; without it such broadcasts are dropped\n\
        silently.\n\n\
        | error | when | what to do |\n|---|---|---|\n",
    );
    for error in AckError::ALL {
        let (name, when, remedy) = error.row();
        out.push_str(&format!("| `{name}` | {when} | {remedy} |\n"));
    }
    out.push_str(
        "\n## Only counted\n\n\
        Labels of `realtime_channel_error` that no client sees.\n\n\
        | code | text | when | what to do |\n|---|---|---|---|\n",
    );
    rows(&mut out, Place::Metrics);
    out
}

fn rows(out: &mut String, place: Place) {
    for entry in ErrorCode::ALL.map(ErrorCode::entry) {
        if entry.place == place {
            let texts: Vec<String> = entry
                .texts
                .iter()
                // Some texts hold a backtick.
                .map(|text| format!("`` {text} ``"))
                .collect();
            out.push_str(&format!(
                "| `{}` | {} | {} | {} |\n",
                entry.name,
                texts.join("<br>"),
                entry.when,
                entry.remedy
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_distinct() {
        let names: BTreeSet<_> = ErrorCode::ALL.iter().map(|code| code.name()).collect();
        assert_eq!(names.len(), ErrorCode::ALL.len());
    }

    #[test]
    fn the_document_holds_exactly_this() {
        let document = include_str!("../../docs/errors.md");
        assert!(
            document == markdown(),
            "replace docs/errors.md by:\n{}",
            markdown()
        );
    }
}
