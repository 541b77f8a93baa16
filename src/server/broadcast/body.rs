//! Reading a request's body, within bounds of bytes and time.

use std::time::Duration;

use axum::body::{Body, HttpBody as _};
use axum::http::StatusCode;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use super::answer::Answer;

/// Bytes of a body: what the parsers of the reference take (protocol.md §5.5).
const BYTES_MAX: usize = 8_000_000;
/// So many are read of a body that is too long, because most clients hear nothing before they have sent all of it.
const READ_BYTES_MAX: usize = 4 * BYTES_MAX;
/// How long a client may take to send it.
const TIMEOUT: Duration = Duration::from_secs(60);
/// What a permit of [`space`] stands for.
const UNIT_BYTES: usize = 1024;
/// Bytes of all bodies together. Full means that the request is refused with 503.
const TOTAL_BYTES_MAX: usize = 256 * 1024 * 1024;

/// The space for all bodies.
pub(in crate::server) fn space() -> Semaphore {
    Semaphore::new(TOTAL_BYTES_MAX / UNIT_BYTES)
}

/// The bytes of a body, with their share of `space`.
///
/// # Errors
/// The answer to a body that is not taken.
pub(super) async fn read(
    body: Body,
    space: &Semaphore,
) -> Result<(Bytes, Option<SemaphorePermit<'_>>), Answer> {
    let late = |_elapsed| Answer::message(StatusCode::REQUEST_TIMEOUT, "Request Timeout");
    timeout(TIMEOUT, collect(body, space)).await.map_err(late)?
}

async fn collect(
    body: Body,
    space: &Semaphore,
) -> Result<(Bytes, Option<SemaphorePermit<'_>>), Answer> {
    let declared = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    let mut length = if declared > READ_BYTES_MAX {
        declared
    } else {
        0
    };
    let mut bytes = BytesMut::new();
    let mut share: Option<SemaphorePermit<'_>> = None;
    let mut chunks = body.into_data_stream();
    while length <= READ_BYTES_MAX {
        let chunk = match chunks.next().await {
            Some(Ok(chunk)) => chunk,
            Some(Err(_broken)) => return Err(Answer::malformed()),
            None => break,
        };
        length = length.saturating_add(chunk.len());
        if length > BYTES_MAX {
            bytes = BytesMut::new();
            share = None;
            continue;
        }
        let held = share.as_ref().map_or(0, SemaphorePermit::num_permits);
        let more = length.div_ceil(UNIT_BYTES).saturating_sub(held);
        let more = space
            .try_acquire_many(u32::try_from(more).unwrap_or(u32::MAX))
            .map_err(|_full| {
                Answer::message(StatusCode::SERVICE_UNAVAILABLE, "Service Unavailable")
            })?;
        match &mut share {
            Some(share) => share.merge(more),
            None => share = Some(more),
        }
        bytes.extend_from_slice(&chunk);
    }
    if length > BYTES_MAX {
        let status = StatusCode::PAYLOAD_TOO_LARGE;
        return Err(Answer::message(status, "Request Entity Too Large"));
    }
    Ok((bytes.freeze(), share))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(chunk: usize, count: usize) -> Body {
        let chunk = Bytes::from(vec![b' '; chunk]);
        let chunks = (0..count).map(move |_| Ok::<_, std::io::Error>(chunk.clone()));
        Body::from_stream(futures_util::stream::iter(chunks))
    }

    #[tokio::test]
    async fn what_is_too_long_is_refused_and_takes_no_space() {
        let space = space();
        let before = space.available_permits();
        let (bytes, share) = read(body(1_000_000, 8), &space).await.unwrap();
        assert_eq!(bytes.len(), BYTES_MAX);
        assert_eq!(before - space.available_permits(), 7813);
        drop(share);
        for endless in [body(1_000_001, 8), body(1_000_000, usize::MAX)] {
            let refused = read(endless, &space).await.unwrap_err();
            assert_eq!(refused.status, StatusCode::PAYLOAD_TOO_LARGE);
            assert_eq!(refused.body, r#"{"message":"Request Entity Too Large"}"#);
        }
        assert_eq!(space.available_permits(), before);
    }

    #[tokio::test]
    async fn without_space_it_is_refused() {
        let space = Semaphore::new(1);
        let held = read(body(512, 2), &space).await.unwrap();
        let refused = read(body(1, 1), &space).await.unwrap_err();
        assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
        drop(held);
        assert!(read(body(1, 1), &space).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_too_slow_is_refused() {
        let endless = Body::from_stream(futures_util::stream::pending::<std::io::Result<Bytes>>());
        let refused = read(endless, &space()).await.unwrap_err();
        assert_eq!(refused.status, StatusCode::REQUEST_TIMEOUT);
    }
}
