//! Sending over HTTP (protocol.md §5.4, §5.5, §5.7).
//!
//! A request is checked in this order: its token, how much its subject has sent, its form, its permission. Only then is
//! anything said, as a [`crate::realtime::Broadcast`]. Between requests only the count of what subjects have sent is kept.

mod answer;
mod batch;
mod body;
#[cfg(any(test, feature = "testing"))]
mod exercise;
mod permission;
mod rate;
mod single;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Query, Request, State};
use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::response::Response;
use futures_util::StreamExt as _;
use futures_util::stream;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tracing::debug;

use self::answer::Answer;
use self::batch::{BatchLimits, Message, parse_batch};
#[cfg(any(test, feature = "testing"))]
pub use self::exercise::exercise;
use self::permission::Sender;
use self::rate::{Rate, TooMany};
use self::single::{Kind, SingleErrors, Wishes};
use super::{Server, bearer, headers, record};
use crate::auth::Claims;
use crate::clock;
use crate::realtime::{self, Ask, Broadcast, Extension, StoredData, Storing};
use crate::topic::Room;

pub(super) use self::body::space;
pub(super) use self::rate::Rates;

/// Messages of a batch, far more than any rate limit of the reference lets through; each may cost an object in the answer.
const BATCH_MESSAGES_MAX: usize = 10_000;
/// Questions about private topics that one request has open at a time.
const QUESTIONS_MAX: usize = 8;
/// After this long, what of a batch is not permitted yet is dropped.
const BATCH_TIMEOUT: Duration = Duration::from_secs(60);
/// Longer bodies are parsed where nobody waits for the thread: a millisecond's work.
const INLINE_BYTES_MAX: usize = 256 * 1024;

/// The two ways to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Endpoint {
    Batch,
    Single,
}

impl Endpoint {
    const fn label(self) -> &'static str {
        match self {
            Self::Batch => "batch",
            Self::Single => "single",
        }
    }
}

/// `POST /api/broadcast`.
pub(super) async fn batch(State(server): State<Arc<Server>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let (rate, answer) = match enter(&server, Endpoint::Batch, &parts.headers) {
        Ok((claims, rate)) => {
            let answer = send_batch(&server, &parts, claims, body).await;
            (rate, answer)
        }
        Err((rate, answer)) => (rate, Err(answer)),
    };
    respond(&server, Endpoint::Batch, answer, rate)
}

/// `POST /api/broadcast/{topic}/events/{event}`.
pub(super) async fn single(
    State(server): State<Arc<Server>>,
    path: Result<Path<(String, String)>, PathRejection>,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    let (rate, answer) = match enter(&server, Endpoint::Single, &parts.headers) {
        Ok((claims, rate)) => {
            let answer = match path {
                Ok(Path(place)) => send_single(&server, &parts, claims, place, body).await,
                Err(_no_text) => Err(Answer::malformed()),
            };
            (rate, answer)
        }
        Err((rate, answer)) => (rate, Err(answer)),
    };
    respond(&server, Endpoint::Single, answer, rate)
}

/// Whose request it is and where they stand, or the answer to a request that is not even read.
fn enter(
    server: &Server,
    endpoint: Endpoint,
    headers: &HeaderMap,
) -> Result<(Arc<Claims>, Rate), (Rate, Answer)> {
    let verifier = &server.options.verifier;
    let claims = bearer::token_or_key(headers)
        .and_then(|token| verifier.verify(token, clock::unix_seconds()).ok())
        .ok_or_else(|| (server.rates.of_nobody(), Answer::unauthorized()))?;
    match admit(server, &claims, 0) {
        Ok(rate) => Ok((claims, rate)),
        Err((rate, why)) => Err((rate, Answer::too_many(endpoint, why))),
    }
}

/// Counts `count` messages of a subject if it may send them; 0 asks whether it may send any.
fn admit(server: &Server, claims: &Claims, count: usize) -> Result<Rate, (Rate, TooMany)> {
    server.rates.admit(claims, count, clock::instant())
}

fn respond(
    server: &Server,
    endpoint: Endpoint,
    answer: Result<Answer, Answer>,
    rate: Rate,
) -> Response {
    let (Ok(answer) | Err(answer)) = answer;
    record::broadcast_request(&server.metrics, endpoint.label(), answer.status);
    answer.into_response(rate)
}

/// Runs what may take long without keeping others from the thread.
async fn compute<T: Send + 'static>(
    bytes: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Answer> {
    if bytes <= INLINE_BYTES_MAX {
        return Ok(work());
    }
    // It fails only while the runtime ends.
    spawn_blocking(work)
        .await
        .map_err(|_ended| Answer::silence())
}

async fn send_batch(
    server: &Server,
    parts: &Parts,
    claims: Arc<Claims>,
    body: Body,
) -> Result<Answer, Answer> {
    let (bytes, _share) = body::read(body, &server.bodies).await?;
    let limits = BatchLimits {
        messages_max: BATCH_MESSAGES_MAX,
        payload_bytes_max: server.options.limits.payload_bytes_max,
        topic_bytes_max: server.options.limits.topic_bytes_max,
    };
    let messages = compute(bytes.len(), move || parse_batch(&bytes, limits))
        .await?
        .map_err(|error| Answer::batch(&error))?;
    admit(server, &claims, messages.len())
        .map_err(|(_, why)| Answer::too_many(Endpoint::Batch, why))?;

    let mut private: BTreeMap<String, Vec<Message>> = BTreeMap::new();
    for message in messages {
        if message.room.private {
            let topic = message.room.topic.as_str().to_owned();
            private.entry(topic).or_default().push(message);
        } else {
            say(server, message);
        }
    }
    let sender = Sender {
        messages: &server.services.messages,
        claims,
        headers: headers::all(&parts.headers),
    };
    let rooms = stream::iter(private.into_values())
        .for_each_concurrent(QUESTIONS_MAX, |messages| {
            say_if_allowed(server, &sender, messages)
        });
    // What is dropped is dropped without a word, as everything that may not be sent.
    if timeout(BATCH_TIMEOUT, rooms).await.is_err() {
        debug!("permissions for a batch took too long; the rest of it is dropped");
    }
    Ok(Answer::accepted())
}

/// Says messages of one private room, if their sender may.
async fn say_if_allowed(server: &Server, sender: &Sender<'_>, messages: Vec<Message>) {
    let Some(first) = messages.first() else {
        return;
    };
    let room = Arc::new(first.room.clone());
    let asked = sender.ask(room, Ask::Write(Extension::Broadcast)).await;
    if let Some(Ok(realtime::Answer::Write(true))) = asked {
        for message in messages {
            say(server, message);
        }
    }
}

fn say(server: &Server, message: Message) {
    let room = message.room.clone();
    let broadcast = Arc::new(message.broadcast());
    count(server, &broadcast);
    server.services.rooms.say(&room, &broadcast);
}

fn count(server: &Server, broadcast: &Broadcast) {
    let metrics = &server.metrics;
    metrics.channel_events.inc();
    metrics.broadcast_sizes.observe(broadcast.payload_bytes());
}

/// A message that may be sent, if its sender may.
struct Single {
    room: Arc<Room>,
    event: String,
    data: StoredData,
    ttl_seconds: Option<u32>,
}

async fn send_single(
    server: &Server,
    parts: &Parts,
    claims: Arc<Claims>,
    place: (String, String),
    body: Body,
) -> Result<Answer, Answer> {
    let content_type = parts
        .headers
        .get(CONTENT_TYPE)
        .map(|value| value.as_bytes());
    let kind = Kind::parse(content_type).ok_or_else(Answer::unsupported)?;
    let query = Query::<Vec<(String, String)>>::try_from_uri(&parts.uri)
        .map(|Query(query)| query)
        .unwrap_or_default();
    let wishes = Wishes::parse(&query);
    let (bytes, _share) = body::read(body, &server.bodies).await?;
    let data = compute(bytes.len(), move || single::parse_data(kind, bytes))
        .await?
        .map_err(|error| Answer::batch(&error))?;
    let single = check(server, place, wishes, data).map_err(|errors| Answer::errors(&errors))?;
    admit(server, &claims, 1).map_err(|(_, why)| Answer::too_many(Endpoint::Single, why))?;

    let sender = Sender {
        messages: &server.services.messages,
        claims,
        headers: headers::all(&parts.headers),
    };
    if single.room.private {
        let room = Arc::clone(&single.room);
        match sender.ask(room, Ask::Write(Extension::Broadcast)).await {
            Some(Ok(realtime::Answer::Write(true))) => {}
            Some(Ok(_)) => return Err(Answer::forbidden()),
            Some(Err(error)) => return Err(Answer::unanswered(&error)),
            None => return Err(Answer::silence()),
        }
    }
    let content = single::content(&single.event, single.data.clone());
    let broadcast = Broadcast::new(single.room.topic.clone(), content, None);
    count(server, &broadcast);
    let rooms = &server.services.rooms;
    match single.ttl_seconds {
        None => rooms.say(&single.room, &Arc::new(broadcast)),
        Some(ttl_seconds) => {
            let broadcast = Arc::new(broadcast.stored_as(random_uuid()));
            let storing = Arc::new(Storing::new(broadcast));
            rooms.say_stored(&single.room, &storing);
            persist(&sender, single, storing, ttl_seconds).await;
        }
    }
    Ok(Answer::accepted())
}

fn check(
    server: &Server,
    (topic, event): (String, String),
    wishes: Result<Wishes, &'static str>,
    data: StoredData,
) -> Result<Single, SingleErrors> {
    let topic = match topic.trim() {
        "" => Err(batch::BLANK),
        _ => batch::parse_topic(&topic, server.options.limits.topic_bytes_max),
    };
    let is_large = single::size(&data) > server.options.limits.payload_bytes_max;
    let payload = is_large.then_some(batch::TOO_LARGE);
    match (topic, payload, single::event_error(&event), wishes) {
        (Ok(topic), None, None, Ok(wishes)) => Ok(Single {
            room: Arc::new(Room {
                topic,
                private: wishes.private,
            }),
            event,
            data,
            ttl_seconds: wishes.ttl_seconds,
        }),
        (topic, payload, event, wishes) => Err(SingleErrors {
            topic: topic.err(),
            payload,
            event,
            persist: wishes.err(),
        }),
    }
}

/// Stores what was said. The endpoint has no acknowledgement, so that a failure is nobody's to hear.
async fn persist(sender: &Sender<'_>, single: Single, storing: Arc<Storing>, ttl_seconds: u32) {
    let ask = Ask::Persist {
        storing,
        event: single.event.into(),
        data: single.data,
        ttl_seconds,
    };
    match sender.ask(single.room, ask).await {
        Some(Ok(_)) => {}
        Some(Err(error)) => debug!(%error, "a broadcast was not stored"),
        None => debug!("a broadcast was not stored: nobody answered"),
    }
}

/// A random UUID (version 4), in Postgres' form.
fn random_uuid() -> Box<str> {
    let bits: u128 = rand::random();
    let version = (bits & !(0xf << 76)) | (0x4 << 76);
    let variant = (version & !(0x3 << 62)) | (0x2 << 62);
    let digits = format!("{variant:032x}");
    let groups = [0..8, 8..12, 12..16, 16..20, 20..32];
    let groups = groups.map(|group| digits.get(group).unwrap_or_default());
    groups.join("-").into()
}
