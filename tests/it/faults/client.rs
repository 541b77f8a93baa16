//! A client that loses its connection again and again, and comes back by the rules: joins as before, heartbeats, and takes
//! the state by a SELECT when it is told to start over.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rand::Rng;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use walcast::testing::{Cut, Faults, Frame, Proxy, Received, Session, Socket, Version};

use super::journal::Who;
use super::model::{Event, Interest, Kind, Snapshot};
use super::person;

/// Without an answer for so long, a connection is given up.
const SILENCE: Duration = Duration::from_secs(4);
/// How long an upgrade may take.
const UPGRADE: Duration = Duration::from_secs(2);

/// How long a connection may wait to be told that it is subscribed before it is cut all the same.
const SUBSCRIBED_WITHIN: Duration = Duration::from_secs(10);

/// How a client whose connection was lost comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReturnBy {
    /// Its connection lasts.
    Nothing,
    /// With the cursor of the newest change as `since`.
    Since,
    /// With the same `resume` as ever.
    Resume,
}

/// What all clients of a run share.
#[derive(Debug)]
pub(crate) struct Circumstances {
    /// Of the database, as superuser.
    pub(crate) url: String,
    pub(crate) return_by: ReturnBy,
    /// Their connections are cut on purpose between these two.
    pub(crate) rude: Option<(Instant, Instant)>,
    /// Between two cuts of one client, at most.
    pub(crate) calm_max: Duration,
    /// The last transaction's rows have versions from this on; 0 until it is there.
    pub(crate) end: AtomicU64,
    pub(crate) give_up: Instant,
}

/// Milliseconds since 1970, by this machine's clock.
pub(crate) type Millis = u64;

pub(crate) fn millis() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(since.as_millis()).unwrap()
}

pub(crate) struct Client {
    pub(crate) number: usize,
    pub(crate) who: Who,
    pub(crate) interest: Interest,
    version: Version,
    path: String,
    token: String,
    dice: StdRng,
    proxy: Proxy,
    circumstances: Arc<Circumstances>,
    began: bool,
    saw_end: bool,
    /// A topic of its own, so that the server's log tells its connections apart.
    topic: String,
    pub(crate) events: Vec<Event>,
    /// When each of the events was noticed.
    pub(crate) times: Vec<Millis>,
    /// What else happened, with its time: for whoever looks into a fault.
    pub(crate) diary: Vec<(Millis, String)>,
    /// Connections that were lost or ended, on purpose or not.
    pub(crate) disconnects: u64,
    pub(crate) resyncs: BTreeMap<String, u64>,
    /// Whatever no client should be told.
    pub(crate) surprises: Vec<String>,
    references: u64,
    /// Of the newest change since it began.
    cursor: Option<String>,
    asked_since: bool,
    /// On this join: to start over.
    told: bool,
    /// On this connection.
    subscribed: bool,
}

/// The heartbeat that was not answered yet.
struct Beat {
    reference: String,
    sent: Instant,
    /// Events that were there when the one before was answered.
    proves: usize,
}

impl Client {
    pub(crate) async fn new(
        number: usize,
        who: Who,
        interest: Interest,
        port: u16,
        mut dice: StdRng,
        circumstances: &Arc<Circumstances>,
    ) -> Self {
        let token = match who {
            Who::Anon => walcast::testing::anon(),
            Who::Service => walcast::testing::service(),
            Who::Person(number) => walcast::testing::user(&person(number)),
        };
        let (version, vsn) = if number.is_multiple_of(2) {
            (Version::V2, "2.0.0")
        } else {
            (Version::V1, "1.0.0")
        };
        let key = walcast::testing::PUBLISHABLE_KEY;
        let mut path = format!("/realtime/v1/websocket?apikey={key}&vsn={vsn}");
        if circumstances.return_by == ReturnBy::Resume {
            let id: [u64; 3] = dice.random();
            let id: String = id.iter().map(|part| format!("{part:016x}")).collect();
            path.push_str(&format!("&resume={id}"));
        }
        Self {
            number,
            who,
            interest,
            version,
            path,
            token,
            dice,
            proxy: Proxy::start(port).await,
            circumstances: Arc::clone(circumstances),
            began: false,
            saw_end: false,
            topic: format!("realtime:faults-{number}"),
            events: Vec::new(),
            times: Vec::new(),
            diary: Vec::new(),
            disconnects: 0,
            resyncs: BTreeMap::new(),
            surprises: Vec::new(),
            references: 0,
            cursor: None,
            asked_since: false,
            told: false,
            subscribed: false,
        }
    }

    /// Its channel's.
    pub(crate) fn topic(&self) -> &str {
        &self.topic
    }

    fn happened(&mut self, event: Event) {
        self.events.push(event);
        self.times.push(millis());
    }

    fn note(&mut self, what: impl Into<String>) {
        self.diary.push((millis(), what.into()));
    }

    /// Whether it has received the last transaction.
    pub(crate) fn saw_end(&self) -> bool {
        self.saw_end
    }

    /// Lives until it has received the end, or the time is over.
    pub(crate) async fn run(mut self) -> Self {
        while !self.saw_end && Instant::now() < self.circumstances.give_up {
            self.proxy.set(Faults::default());
            let upgrade = Socket::upgrade(self.proxy.port(), &self.path, &[]);
            match tokio::time::timeout(UPGRADE, upgrade).await {
                Ok(Ok(socket)) => {
                    self.happened(Event::Connected);
                    self.converse(socket).await;
                    if !self.saw_end {
                        self.disconnects += 1;
                    }
                }
                _ => {
                    let pause = Duration::from_millis(self.dice.random_range(10..100));
                    tokio::time::sleep(pause).await;
                }
            }
        }
        self
    }

    /// One connection, to its end.
    async fn converse(&mut self, mut socket: Socket) {
        let mut join_ref = self.join(&mut socket).await;
        let rude = self.circumstances.rude;
        let cut_after = |calm: Duration| {
            let (from, until) = rude?;
            let at = from.max(Instant::now()) + calm;
            (at < until).then_some(at)
        };
        // Now and then long enough to catch up.
        let long = if self.dice.random_ratio(1, 8) {
            6.0
        } else {
            1.0
        };
        let calm = self.circumstances.calm_max.mul_f64(self.dice.random());
        let calm = calm.mul_f64(long);
        // Half of the connections are cut before anything need have come of them.
        let mut is_patient = self.dice.random_bool(0.5);
        let mut cut_at = cut_after(if is_patient { SUBSCRIBED_WITHIN } else { calm });
        self.subscribed = false;
        let mut beat: Option<Beat> = None;
        let mut beat_at = Instant::now();
        let mut proves = 0;
        let mut heard_at = Instant::now();
        loop {
            let now = Instant::now();
            if now >= self.circumstances.give_up || self.saw_end {
                return socket.close().await;
            }
            if self.subscribed && is_patient {
                (cut_at, is_patient) = (cut_after(calm), false);
            }
            if cut_at.is_some_and(|at| at <= now) {
                return self.break_off(socket).await;
            }
            if heard_at + SILENCE <= now {
                if self.circumstances.rude.is_none() {
                    self.surprises.push("the server fell silent".to_owned());
                }
                self.note("gives up a silent connection");
                return;
            }
            if beat_at <= now && beat.is_none() {
                self.references += 1;
                let reference = format!("beat-{}", self.references);
                if !socket
                    .offer(None, &reference, "phoenix", "heartbeat", &json!({}))
                    .await
                {
                    return;
                }
                beat = Some(Beat {
                    reference,
                    sent: now,
                    proves,
                });
            }
            let wake = [cut_at, beat.is_none().then_some(beat_at)]
                .into_iter()
                .flatten()
                .chain([heard_at + SILENCE, self.circumstances.give_up])
                .min()
                .unwrap();
            let frame = match tokio::time::timeout_at(wake.into(), socket.listen()).await {
                Err(_elapsed) => continue,
                Ok(Received::Closed(code, reason)) => {
                    return self.note(format!("closed: {code:?} {reason}"));
                }
                Ok(Received::Frame(frame)) => *frame,
            };
            heard_at = Instant::now();
            if let Some(Beat {
                reference,
                sent,
                proves: proved,
            }) = &beat
                && frame.reference == reference.as_str()
            {
                // It handled what was before the answer to the heartbeat before, or this one would not have been sent.
                self.happened(Event::Acknowledged(*proved));
                proves = self.events.len();
                beat_at = *sent + Duration::from_millis(self.dice.random_range(50..400));
                beat = None;
            } else if self.take(frame, &join_ref).await {
                join_ref = self.join(&mut socket).await;
                heard_at = Instant::now();
            }
        }
    }

    async fn join(&mut self, socket: &mut Socket) -> String {
        self.references += 1;
        self.told = false;
        let reference = format!("join-{}", self.references);
        let mut binding = json!({
            "event": if self.interest.inserts_only { "INSERT" } else { "*" },
            "schema": "public",
            "table": "docs",
        });
        if let Some(team) = self.interest.team {
            binding["filter"] = format!("team=eq.{team}").into();
        }
        if self.circumstances.return_by == ReturnBy::Since {
            if self.began && self.cursor.is_none() {
                // Nothing to come back with.
                self.start_over("(no position yet)");
            }
            self.asked_since = self.cursor.is_some();
            if let Some(cursor) = &self.cursor {
                binding["since"] = cursor.as_str().into();
            }
        }
        let payload = json!({
            "config": {"postgres_changes": [binding]},
            "access_token": self.token,
        });
        // If it is lost, so is the connection.
        socket
            .offer(
                Some(&reference),
                &reference,
                &self.topic,
                "phx_join",
                &payload,
            )
            .await;
        reference
    }

    /// Takes a frame in; true if the channel must be joined again.
    async fn take(&mut self, frame: Frame, join_ref: &str) -> bool {
        match frame.event.as_str() {
            "postgres_changes" => self.change(&frame.payload),
            "phx_reply" if frame.reference == join_ref && frame.payload["status"] != "ok" => {
                // A server that is leaving or has not come up yet says so.
                let reason = frame.payload["response"]["reason"].as_str().unwrap();
                if self.asked_since && reason.starts_with("PositionTooOld: ") {
                    self.start_over("(join) PositionTooOld");
                    return true;
                }
                *self.resyncs.entry(format!("(join) {reason}")).or_default() += 1;
                self.diary.push((millis(), format!("refused: {reason}")));
                tokio::time::sleep(Duration::from_millis(100)).await;
                return true;
            }
            "system" => {
                let message = frame.payload["message"].as_str().unwrap().to_owned();
                self.diary.push((millis(), format!("told: {message}")));
                if message == "Subscribed to PostgreSQL" {
                    self.subscribed = true;
                    if !self.began {
                        self.select().await;
                    }
                } else if let Some(reason) = message.strip_prefix("Resync required: ") {
                    self.start_over(reason);
                    // Without a `phx_error` behind it the channel lives on.
                    self.told = true;
                    self.select().await;
                } else if self.asked_since && message.starts_with("PositionTooOld: ") {
                    self.start_over("PositionTooOld");
                    self.told = true;
                } else if message != "Server requested disconnect" {
                    self.surprises.push(message);
                }
            }
            "phx_error" => {
                self.note("told: phx_error");
                // The state was taken already where it was told why.
                if self.began && !std::mem::take(&mut self.told) {
                    self.surprises
                        .push(format!("{} without a reason", frame.raw));
                }
                return true;
            }
            "phx_close" => self.surprises.push(frame.raw),
            _ => {}
        }
        false
    }

    fn start_over(&mut self, reason: &str) {
        self.note(format!("starts over: {reason}"));
        *self.resyncs.entry(reason.to_owned()).or_default() += 1;
        self.happened(Event::Resync);
        self.began = false;
        self.cursor = None;
    }

    /// Takes in what arrives until `end`, and answers nothing.
    async fn overhear(&mut self, socket: &mut Socket, end: Instant) {
        while let Ok(Received::Frame(frame)) =
            tokio::time::timeout_at(end.into(), socket.listen()).await
        {
            let told = frame.payload["message"].as_str();
            if frame.event == "postgres_changes" {
                self.change(&frame.payload);
            } else if let Some(reason) =
                told.and_then(|told| told.strip_prefix("Resync required: "))
            {
                return self.start_over(reason);
            }
        }
    }

    fn change(&mut self, payload: &Value) {
        let data = &payload["data"];
        let kind = match data["type"].as_str().unwrap() {
            "INSERT" => Kind::Insert,
            "UPDATE" => Kind::Update,
            "DELETE" => Kind::Delete,
            other => panic!("{other}"),
        };
        let row = match kind {
            Kind::Delete => &data["old_record"],
            Kind::Insert | Kind::Update => &data["record"],
        };
        let (id, version) = (row["id"].as_i64().unwrap(), row["version"].as_i64());
        assert_eq!(
            version.is_none(),
            kind == Kind::Delete,
            "a delete under row security shows its key: {data}"
        );
        let (high, low) = data["commit_lsn"]
            .as_str()
            .unwrap()
            .split_once('/')
            .unwrap();
        let part = |text| u64::from_str_radix(text, 16).unwrap();
        let cursor = data["cursor"].as_str().unwrap();
        let order = cursor.rsplit('-').next().unwrap();
        let version = version.unwrap_or(0);
        // What comes before the state was taken is no position: something before it may still be on its way.
        self.cursor = self.began.then(|| cursor.to_owned());
        let body = row["body"].as_str();
        let body = body.map(|body| body.split(' ').next().unwrap().parse().unwrap());
        self.happened(Event::Change {
            at: (
                part(high) << 32 | part(low),
                u32::from_str_radix(order, 16).unwrap(),
            ),
            kind,
            id,
            version,
            body,
            last: payload["last"] == true,
        });
        let end = self.circumstances.end.load(Ordering::Relaxed);
        let is_end = end > 0 && u64::try_from(version).is_ok_and(|version| version >= end);
        self.saw_end |= is_end && payload["last"] == true;
    }

    /// Takes the state as the client itself, however often that must be tried. Meanwhile nothing is read.
    async fn select(&mut self) {
        while Instant::now() < self.circumstances.give_up {
            if let Some((snapshot, rows)) = self.try_select().await {
                let end = self.circumstances.end.load(Ordering::Relaxed);
                self.saw_end = rows.iter().any(|(_, version)| {
                    end > 0 && u64::try_from(*version).is_ok_and(|version| version >= end)
                });
                self.happened(Event::Began { snapshot, rows });
                self.began = true;
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn try_select(&self) -> Option<(Snapshot, Vec<(i64, i64)>)> {
        let session = Session::try_connect(&self.circumstances.url).await.ok()?;
        let (role, claims) = match self.who {
            Who::Anon => ("anon", json!({"role": "anon"})),
            Who::Service => ("service_role", json!({"role": "service_role"})),
            Who::Person(number) => (
                "authenticated",
                json!({"role": "authenticated", "sub": person(number)}),
            ),
        };
        let begin = format!(
            "begin isolation level repeatable read;
             select set_config('request.jwt.claims', '{claims}', true); set local role {role}"
        );
        session.batch_execute(&begin).await.ok()?;
        let snapshot = session
            .query_one("select pg_current_snapshot()::text", &[])
            .await
            .ok()?;
        let rows = session
            .query("select id, version from docs order by id", &[])
            .await
            .ok()?;
        let rows = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        Some((Snapshot::parse(snapshot.get(0)), rows))
    }

    /// Loses the connection, one way or another.
    async fn break_off(&mut self, mut socket: Socket) {
        let way = self.dice.random_range(0..10);
        self.note(match way {
            0..3 => "is reset",
            3..5 => "is ended",
            5 => "says goodbye",
            6 => "leaves",
            _ => "is disturbed",
        });
        match way {
            0..3 => self.proxy.cut(Cut::Reset),
            3..5 => self.proxy.cut(Cut::Finish),
            5 => return socket.close().await,
            6 => return,
            _ => {
                let faults = Faults::random(&mut self.dice);
                self.note(format!("{faults:?}"));
                self.proxy.set(faults);
                let pause = Duration::from_millis(self.dice.random_range(10..500));
                self.overhear(&mut socket, Instant::now() + pause).await;
                if self.dice.random_bool(0.5) {
                    self.proxy.cut(Cut::Reset);
                }
            }
        }
        // What had arrived before counts.
        let end = Instant::now() + Duration::from_millis(5);
        self.overhear(&mut socket, end).await;
    }

    pub(crate) fn version(&self) -> Version {
        self.version
    }
}
