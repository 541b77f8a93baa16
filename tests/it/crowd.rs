//! A crowd of both versions that uses everything at once and drops its connections at random, held against a model: in the
//! end every view of presence is the model's, and nobody has missed, doubled, reordered or overheard anything.
//!
//! `WALCAST_CROWD_SECONDS=60 cargo test --test it crowd` runs it for a minute; `WALCAST_CROWD_SEED` repeats the dice.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use walcast::testing::{
    App, Attendance, Channel, Encoding, Frame, PATIENCE, PUBLISHABLE_KEY, Push, Received, Socket,
    Version, service, user,
};

use crate::world::{ALICE, start_with};

const CLIENTS: usize = 28;
/// Fewer keys than clients: some are tabs of one person.
const KEYS: usize = 20;
/// Below the limit of presence messages.
const TRACKS_PER_LIFE: u32 = 4;
const ROOMS: [Room; 5] = [
    Room {
        name: "one",
        private: false,
    },
    Room {
        name: "two",
        private: false,
    },
    Room {
        name: "three",
        private: false,
    },
    // Not the same as the public ones.
    Room {
        name: "one",
        private: true,
    },
    Room {
        name: "two",
        private: true,
    },
];

const POLICIES: &str = "
    create policy receive on realtime.messages for select to authenticated using (true);
    create policy send on realtime.messages for insert to authenticated with check (extension <> 'persistence');
";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Room {
    name: &'static str,
    private: bool,
}

/// What was sent, by sender. A client sends as somebody new each time it joins.
#[derive(Debug, Default)]
struct Ledger {
    /// Counts everything that happens, so that "before" has a meaning across clients.
    clock: u64,
    senders: BTreeMap<String, Sender>,
}

#[derive(Debug)]
struct Sender {
    room: Room,
    messages: Vec<Message>,
    /// Everything that it sent has reached the server.
    complete: bool,
}

#[derive(Clone, Copy, Debug)]
struct Message {
    /// The clock just before it was sent.
    at: u64,
    /// Version 1 does not get it.
    bytes: bool,
}

impl Ledger {
    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// Notes a message that is about to be sent, and gives its content.
    fn send(&mut self, sender: &str, room: Room, bytes: bool) -> Value {
        let at = self.tick();
        let entry = self.senders.entry(sender.to_owned()).or_insert(Sender {
            room,
            messages: Vec::new(),
            complete: false,
        });
        entry.messages.push(Message { at, bytes });
        json!({"sender": sender, "n": entry.messages.len() - 1})
    }

    fn completed(&mut self, sender: &str) {
        if let Some(sender) = self.senders.get_mut(sender) {
            sender.complete = true;
        }
    }
}

type Shared = Arc<Mutex<Ledger>>;

/// One membership, from its join to its end.
#[derive(Debug)]
struct Life {
    name: String,
    room: Room,
    version: Version,
    hears_itself: bool,
    /// The clock just after the join was answered.
    joined_at: u64,
    key: String,
    tracked: Option<Value>,
    tracks: u32,
    heard: BTreeMap<String, Vec<usize>>,
}

impl Life {
    fn take(&mut self, attendance: &mut Attendance, frame: &Frame) {
        match frame.event.as_str() {
            "broadcast" => {
                let content = content(&frame.payload["payload"]);
                let sender = content["sender"].as_str().unwrap().to_owned();
                let n = usize::try_from(content["n"].as_u64().unwrap()).unwrap();
                self.heard.entry(sender).or_default().push(n);
            }
            "presence_state" => attendance.state(&frame.payload),
            "presence_diff" => attendance.diff(&frame.payload),
            "phx_reply" => assert_eq!(
                frame.payload["status"], "ok",
                "{}: {}",
                self.name, frame.raw
            ),
            "phx_close" => {}
            _ => panic!("{}: {}", self.name, frame.raw),
        }
    }

    /// Whether what was heard is what the ledger says: of each sender of the room, a stretch without gap, from no later than
    /// the join, and up to its last message if `to_the_end`.
    fn check(&self, ledger: &Ledger, to_the_end: bool) -> Result<(), String> {
        let none = Vec::new();
        for (name, sender) in &ledger.senders {
            let heard = self.heard.get(name).unwrap_or(&none);
            let audible: Vec<usize> = (0..sender.messages.len())
                .filter(|n| self.version == Version::V2 || !sender.messages[*n].bytes)
                .filter(|_| *name != self.name || self.hears_itself)
                .collect();
            let fault = |what: &str| {
                let mut fault = String::new();
                write!(fault, "{self:?} of {name} in {:?}: {what}", sender.room).unwrap();
                Err(fault)
            };
            if sender.room != self.room {
                if !heard.is_empty() {
                    return fault("another room");
                }
                continue;
            }
            let due = audible
                .iter()
                .position(|n| sender.messages[*n].at > self.joined_at);
            let end = match heard.first() {
                Some(first) => {
                    let Some(start) = audible.iter().position(|n| n == first) else {
                        return fault("what was not meant for it");
                    };
                    let end = start + heard.len();
                    if audible.get(start..end) != Some(heard.as_slice()) {
                        return fault("a gap, a repetition or another order");
                    }
                    if due.is_some_and(|due| start > due) {
                        return fault("the beginning is missing");
                    }
                    end
                }
                None => due.unwrap_or(audible.len()),
            };
            if to_the_end && sender.complete && end != audible.len() {
                return fault("the end is missing");
            }
        }
        match self
            .heard
            .keys()
            .find(|name| !ledger.senders.contains_key(*name))
        {
            Some(unknown) => Err(format!("{} heard {unknown}, who said nothing", self.name)),
            None => Ok(()),
        }
    }
}

/// What a payload says; bytes hold it as JSON as well.
fn content(payload: &Value) -> Value {
    match payload {
        Value::Array(bytes) => {
            let bytes: Vec<u8> = bytes
                .iter()
                .map(|byte| u8::try_from(byte.as_u64().unwrap()).unwrap())
                .collect();
            serde_json::from_slice(&bytes).unwrap()
        }
        other => other.clone(),
    }
}

struct Client {
    number: usize,
    version: Version,
    dice: StdRng,
    ledger: Shared,
    port: u16,
    lives: u32,
    over: Vec<Life>,
}

impl Client {
    fn new(number: usize, seed: u64, app: &App, ledger: &Shared) -> Self {
        Self {
            number,
            version: if number.is_multiple_of(2) {
                Version::V2
            } else {
                Version::V1
            },
            dice: StdRng::seed_from_u64(seed.wrapping_add(number as u64)),
            ledger: Arc::clone(ledger),
            port: app.server.port(),
            lives: 0,
            over: Vec::new(),
        }
    }

    async fn join(&mut self, socket: Option<Socket>) -> (Channel, Life) {
        self.lives += 1;
        let room = ROOMS[self.dice.random_range(0..ROOMS.len())];
        let hears_itself = self.dice.random_bool(0.3);
        let key = format!("key {}", self.dice.random_range(0..KEYS));
        let mut presence = json!({"key": key});
        if self.version == Version::V2 {
            presence["enabled"] = true.into();
        }
        let config = json!({"private": room.private, "broadcast": {"self": hears_itself}, "presence": presence});
        let socket = match socket {
            Some(socket) => socket,
            None => Socket::connect(self.port, PUBLISHABLE_KEY, self.version).await,
        };
        let token = user(ALICE);
        let token = room.private.then_some(token.as_str());
        let channel = Channel::join_on(socket, self.version, room.name, &config, token)
            .await
            .unwrap();
        let life = Life {
            name: format!("client {} life {}", self.number, self.lives),
            room,
            version: self.version,
            hears_itself,
            joined_at: self.ledger.lock().unwrap().tick(),
            key,
            tracked: None,
            tracks: 0,
            heard: BTreeMap::new(),
        };
        (channel, life)
    }

    /// Lives until `end` and gives the last life, with its channel.
    async fn run(mut self, end: Instant) -> (Channel, Life, Vec<Life>) {
        let (mut channel, mut life) = self.join(None).await;
        loop {
            let pause = Duration::from_millis(self.dice.random_range(2..60));
            let acts_at = (Instant::now() + pause).min(end);
            loop {
                let received = tokio::time::timeout_at(acts_at.into(), channel.socket.receive());
                match received.await {
                    Ok(Received::Frame(frame)) => life.take(&mut channel.attendance, &frame),
                    Ok(Received::Closed(code, reason)) => {
                        panic!("{}: closed {code:?} {reason}", life.name)
                    }
                    Err(_elapsed) => break,
                }
            }
            if Instant::now() >= end {
                return (channel, life, self.over);
            }
            match self.dice.random_range(0..100) {
                0..70 => self.say(&mut channel, &life).await,
                70..96 => self.track(&mut channel, &mut life).await,
                96..98 => {
                    // Without a close frame, or with one; what was on its way to it is gone.
                    let rude = self.dice.random_bool(0.5);
                    if rude {
                        drop(channel);
                    } else {
                        channel.socket.close().await;
                    }
                    self.over.push(life);
                    (channel, life) = self.join(None).await;
                }
                _ => {
                    let mut attendance = std::mem::take(&mut channel.attendance);
                    let mut socket = channel.leave().await;
                    for frame in socket.settle().await {
                        life.take(&mut attendance, &frame);
                    }
                    if !life.room.private {
                        self.ledger.lock().unwrap().completed(&life.name);
                    }
                    self.over.push(life);
                    (channel, life) = self.join(Some(socket)).await;
                }
            }
        }
    }

    async fn say(&mut self, channel: &mut Channel, life: &Life) {
        let form = self.dice.random_range(0..3);
        let bytes = form == 2 && self.version == Version::V2;
        let content = self
            .ledger
            .lock()
            .unwrap()
            .send(&life.name, life.room, bytes);
        if bytes {
            let payload = content.to_string();
            let push = Push {
                event: "said",
                encoding: Encoding::Binary,
                payload: payload.as_bytes(),
                ..Push::default()
            };
            channel.push(&push).await;
        } else if form == 1 {
            channel.say_text("said", &content).await;
        } else {
            channel.say("said", &content).await;
        }
    }

    async fn track(&mut self, channel: &mut Channel, life: &mut Life) {
        if life.tracks == TRACKS_PER_LIFE {
            return;
        }
        life.tracks += 1;
        let message = if self.dice.random_bool(0.3) {
            life.tracked = None;
            json!({"type": "presence", "event": "untrack"})
        } else {
            let payload = json!({"is": format!("{} {}", life.name, self.dice.random_range(0..3))});
            life.tracked = Some(payload.clone());
            json!({"type": "presence", "event": "track", "payload": payload})
        };
        channel.request("presence", &message).await;
    }
}

/// Sends over HTTP until `end`, one message after the other.
async fn post(app: &App, ledger: &Shared, mut dice: StdRng, end: Instant) {
    let bearer = format!("Bearer {}", service());
    while Instant::now() < end {
        let room = ROOMS[dice.random_range(0..ROOMS.len())];
        let Room { name, private } = room;
        let sender = format!("http to {room:?}");
        let form = dice.random_range(0..3);
        let content = ledger.lock().unwrap().send(&sender, room, form == 2);
        let single = format!("/api/broadcast/{name}/events/posted?private={private}");
        let (path, content_type, body) = match form {
            0 => {
                let message = json!({"topic": name, "event": "posted", "payload": content, "private": private});
                (
                    "/api/broadcast",
                    "application/json",
                    json!({"messages": [message]}).to_string(),
                )
            }
            1 => (single.as_str(), "application/json", content.to_string()),
            _ => (
                single.as_str(),
                "application/octet-stream",
                content.to_string(),
            ),
        };
        let headers = [
            ("authorization", bearer.as_str()),
            ("content-type", content_type),
        ];
        let reply = app.server.post(path, &headers, body.as_bytes()).await;
        assert_eq!(reply.status, 202, "{}", reply.body);
        tokio::time::sleep(Duration::from_millis(dice.random_range(5..40))).await;
    }
}

/// Sends from the database until `end`.
async fn insert(app: &App, ledger: &Shared, mut dice: StdRng, end: Instant) {
    let session = app.session().await;
    while Instant::now() < end {
        let mut sql = String::new();
        for _row in 0..dice.random_range(1..4) {
            let room = ROOMS[dice.random_range(0..ROOMS.len())];
            let bytes = dice.random_bool(0.3);
            let content =
                ledger
                    .lock()
                    .unwrap()
                    .send(&format!("database to {room:?}"), room, bytes);
            let function = if bytes {
                format!("send_binary(convert_to('{content}', 'UTF8')")
            } else {
                format!("send('{content}'")
            };
            let Room { name, private } = room;
            write!(
                sql,
                "select realtime.{function}, 'row', '{name}', {private});"
            )
            .unwrap();
        }
        session.run(&sql).await;
        tokio::time::sleep(Duration::from_millis(dice.random_range(5..40))).await;
    }
}

/// Who is in each room in the end, by key.
fn present(lives: &[(Channel, Life)], room: Room) -> BTreeMap<String, Vec<String>> {
    let mut view = BTreeMap::<String, Vec<String>>::new();
    for (_channel, life) in lives {
        if let Some(tracked) = life.tracked.as_ref().filter(|_| life.room == room) {
            view.entry(life.key.clone())
                .or_default()
                .push(tracked.to_string());
        }
    }
    for metas in view.values_mut() {
        metas.sort();
    }
    view
}

fn number_of(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap())
}

#[tokio::test]
async fn a_crowd_misses_nothing_and_sees_who_is_there() {
    let seconds = number_of("WALCAST_CROWD_SECONDS", 20);
    let seed = number_of("WALCAST_CROWD_SEED", rand::random());
    println!("WALCAST_CROWD_SECONDS={seconds} WALCAST_CROWD_SEED={seed}");
    let app = start_with(POLICIES).await;
    let ledger = Shared::default();
    let end = Instant::now() + Duration::from_secs(seconds);
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| tokio::spawn(Client::new(number, seed, &app, &ledger).run(end)))
        .collect();
    let dice = |number: u64| StdRng::seed_from_u64(seed.wrapping_sub(number));
    tokio::join!(
        post(&app, &ledger, dice(1), end),
        insert(&app, &ledger, dice(2), end)
    );

    let mut lives = Vec::new();
    let mut over = Vec::new();
    for client in clients {
        let (channel, life, earlier) = client.await.unwrap();
        lives.push((channel, life));
        over.extend(earlier);
    }
    {
        let mut ledger = ledger.lock().unwrap();
        let alive = lives.iter().map(|(_channel, life)| life.name.clone());
        let others = ["http", "database"]
            .into_iter()
            .flat_map(|way| ROOMS.map(|room| format!("{way} to {room:?}")));
        for sender in alive.chain(others).collect::<Vec<_>>() {
            ledger.completed(&sender);
        }
    }
    let ledger = Arc::into_inner(ledger).unwrap().into_inner().unwrap();
    let views = ROOMS.map(|room| present(&lives, room));
    let everybody = lives
        .iter()
        .filter(|(_, life)| life.tracked.is_some())
        .count();
    let messages: usize = ledger
        .senders
        .values()
        .map(|sender| sender.messages.len())
        .sum();
    println!(
        "{messages} messages, {} lives, {everybody} present in the end",
        over.len() + lives.len()
    );
    assert!(messages > 1000 && over.len() > CLIENTS && everybody > 0);

    for (channel, life) in &mut lives {
        let view = &views[ROOMS.iter().position(|room| *room == life.room).unwrap()];
        let patient_until = Instant::now() + PATIENCE;
        loop {
            let heard = life.check(&ledger, true);
            if heard.is_ok() && channel.attendance.synced() && channel.attendance.view() == *view {
                break;
            }
            let received =
                tokio::time::timeout_at(patient_until.into(), channel.socket.receive()).await;
            match received {
                Ok(Received::Frame(frame)) => life.take(&mut channel.attendance, &frame),
                Ok(Received::Closed(code, reason)) => {
                    panic!("{}: closed {code:?} {reason}", life.name)
                }
                Err(_elapsed) => {
                    heard.unwrap();
                    assert_eq!(
                        channel.attendance.view(),
                        *view,
                        "presence as {} sees it",
                        life.name
                    );
                    panic!("{} is never told who is present", life.name);
                }
            }
        }
        for frame in channel.socket.settle().await {
            life.take(&mut channel.attendance, &frame);
        }
        life.check(&ledger, true).unwrap();
        assert_eq!(channel.attendance.view(), *view);
    }
    for life in &over {
        life.check(&ledger, false).unwrap();
    }
}

#[test]
fn the_model_notices_what_must_not_be() {
    let (here, there) = (ROOMS[0], ROOMS[3]);
    let mut ledger = Ledger::default();
    for (sender, room, bytes) in [("a", here, false), ("b", there, false), ("a", here, true)] {
        ledger.send(sender, room, bytes);
    }
    let joined_at = ledger.tick();
    for bytes in [false, true, false] {
        ledger.send("a", here, bytes);
    }
    ledger.completed("a");
    let check = |version: Version, to_the_end: bool, heard: &[(&str, &[usize])]| {
        let life = Life {
            name: "c".to_owned(),
            room: here,
            version,
            hears_itself: false,
            joined_at,
            key: String::new(),
            tracked: None,
            tracks: 0,
            heard: heard
                .iter()
                .map(|(name, numbers)| ((*name).to_owned(), numbers.to_vec()))
                .collect(),
        };
        life.check(&ledger, to_the_end).is_ok()
    };
    // Message 0 of a, then bytes, then the join, then text, bytes, text.
    assert!(check(Version::V2, true, &[("a", &[2, 3, 4])]));
    assert!(
        check(Version::V2, true, &[("a", &[1, 2, 3, 4])]),
        "sent before, still on its way"
    );
    assert!(check(Version::V1, true, &[("a", &[2, 4])]));
    assert!(check(Version::V2, false, &[("a", &[2])]));
    assert!(check(Version::V2, false, &[]));
    for (version, wrong) in [
        (Version::V2, &[("a", &[2, 4][..])][..]),
        (Version::V1, &[("a", &[2, 3, 4])]),
        (Version::V2, &[("a", &[3, 4])]),
        (Version::V2, &[("a", &[2, 3])]),
        (Version::V2, &[("a", &[2, 3, 3, 4])]),
        (Version::V2, &[("a", &[2, 4, 3])]),
        (Version::V2, &[]),
        (Version::V2, &[("a", &[2, 3, 4]), ("b", &[0])]),
        (Version::V2, &[("a", &[2, 3, 4]), ("nobody", &[0])]),
    ] {
        assert!(!check(version, true, wrong), "{wrong:?}");
    }
}
