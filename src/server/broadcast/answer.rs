//! What the broadcast endpoints answer, byte for byte (protocol.md §5.4, §5.5).

use axum::body::Body;
use axum::http::header::{ACCESS_CONTROL_ALLOW_ORIGIN, CONTENT_TYPE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use serde::Serialize;
use serde_json::json;

use super::batch::{BatchError, INVALID};
use super::rate::{Rate, TooMany};
use super::{Endpoint, batch};
use crate::realtime::AskError;

/// An answer without the headers that all of them have.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// JSON; empty if it was accepted.
    pub(super) body: String,
}

impl Answer {
    pub(super) const fn accepted() -> Self {
        Self {
            status: StatusCode::ACCEPTED,
            body: String::new(),
        }
    }

    pub(super) fn message(status: StatusCode, message: &str) -> Self {
        Self {
            status,
            body: json!({"message": message}).to_string(),
        }
    }

    pub(super) fn malformed() -> Self {
        Self::message(StatusCode::BAD_REQUEST, "Malformed request")
    }

    pub(super) fn unauthorized() -> Self {
        Self::message(StatusCode::UNAUTHORIZED, "Unauthorized")
    }

    pub(super) fn forbidden() -> Self {
        Self::message(StatusCode::FORBIDDEN, "Unauthorized")
    }

    pub(super) fn unsupported() -> Self {
        let error = "Unsupported Media Type. Use application/json or application/octet-stream";
        Self {
            status: StatusCode::UNSUPPORTED_MEDIA_TYPE,
            body: json!({"error": error}).to_string(),
        }
    }

    /// Fields of the request are wrong.
    pub(super) fn errors(errors: &impl Serialize) -> Self {
        Self {
            status: StatusCode::UNPROCESSABLE_ENTITY,
            body: json!({"errors": errors}).to_string(),
        }
    }

    pub(super) fn batch(error: &BatchError) -> Self {
        match error {
            BatchError::Malformed => Self::malformed(),
            BatchError::Blank => Self::errors(&json!({"messages": [batch::BLANK]})),
            BatchError::Invalid => Self::errors(&json!({"messages": [INVALID]})),
            BatchError::TooMany => Self::too_many(Endpoint::Batch, TooMany::Batch),
            BatchError::Messages(errors) => Self::errors(&json!({"messages": errors})),
        }
    }

    pub(super) fn too_many(endpoint: Endpoint, why: TooMany) -> Self {
        let text = match (endpoint, why) {
            (Endpoint::Batch, TooMany::Requests) => "Too many requests",
            (Endpoint::Single, TooMany::Requests) | (_, TooMany::Messages) => {
                "You have exceeded your rate limit"
            }
            (_, TooMany::Batch) => "Too many messages to broadcast, please reduce the batch size",
        };
        Self::message(StatusCode::TOO_MANY_REQUESTS, text)
    }

    /// Why it is not known whether the sender may send.
    pub(super) fn unanswered(error: &AskError) -> Self {
        let unprocessable = StatusCode::UNPROCESSABLE_ENTITY;
        let (status, text) = match error {
            AskError::Policy(_) => (unprocessable, "RLS policy error"),
            AskError::Cancelled => (unprocessable, "Query canceled"),
            AskError::MissingPartition => (unprocessable, "Missing messages partition"),
            AskError::Unreachable => (unprocessable, "Tenant database unavailable"),
            AskError::TooManyConnections => {
                (unprocessable, "Tenant database has too many connections")
            }
            AskError::Overloaded => (StatusCode::TOO_MANY_REQUESTS, "Connection pool exhausted"),
            AskError::NotInstalled => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "Unable to authorize broadcast",
            ),
        };
        Self::message(status, text)
    }

    /// Nobody answered whether the sender may send.
    pub(super) fn silence() -> Self {
        Self::message(StatusCode::INTERNAL_SERVER_ERROR, "RPC error")
    }

    /// As a response.
    pub(super) fn into_response(self, rate: Rate) -> Response {
        let is_empty = self.body.is_empty();
        let mut response = Response::new(Body::from(self.body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        if !is_empty {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        for (name, value) in rate.headers() {
            headers.insert(name, value.into());
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(answer: &Answer, status: u16, body: &str) {
        assert_eq!(
            (answer.status.as_u16(), answer.body.as_str()),
            (status, body)
        );
    }

    #[test]
    fn the_texts_of_a_database_that_does_not_answer() {
        let cases = [
            (AskError::Policy("secret".into()), 422, "RLS policy error"),
            (AskError::Cancelled, 422, "Query canceled"),
            (
                AskError::MissingPartition,
                422,
                "Missing messages partition",
            ),
            (AskError::Unreachable, 422, "Tenant database unavailable"),
            (
                AskError::TooManyConnections,
                422,
                "Tenant database has too many connections",
            ),
            (AskError::Overloaded, 429, "Connection pool exhausted"),
            (AskError::NotInstalled, 500, "Unable to authorize broadcast"),
        ];
        for (error, status, text) in cases {
            let body = format!(r#"{{"message":"{text}"}}"#);
            check(&Answer::unanswered(&error), status, &body);
        }
        check(&Answer::silence(), 500, r#"{"message":"RPC error"}"#);
    }

    #[test]
    fn the_texts_of_too_many() {
        let cases = [
            (Endpoint::Batch, TooMany::Requests, "Too many requests"),
            (
                Endpoint::Batch,
                TooMany::Messages,
                "You have exceeded your rate limit",
            ),
            (
                Endpoint::Batch,
                TooMany::Batch,
                "Too many messages to broadcast, please reduce the batch size",
            ),
            (
                Endpoint::Single,
                TooMany::Requests,
                "You have exceeded your rate limit",
            ),
            (
                Endpoint::Single,
                TooMany::Messages,
                "You have exceeded your rate limit",
            ),
        ];
        for (endpoint, why, text) in cases {
            let body = format!(r#"{{"message":"{text}"}}"#);
            check(&Answer::too_many(endpoint, why), 429, &body);
        }
    }
}
