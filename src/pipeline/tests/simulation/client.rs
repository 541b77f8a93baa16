//! A client behind a network that loses its connections, and what it makes of what it receives.

use std::collections::{BTreeMap, VecDeque};

use serde_json::{Value, json};

use super::database::{Database, Kind, Selected};

/// How a ping and its pong begin, which are answered below what the client sees.
pub(super) const PING: &str = "ping ";
pub(super) const PONG: &str = "pong ";

/// What a client has received since it last took the state by a SELECT.
#[derive(Debug, Default)]
pub(super) struct Stretch {
    selected: Selected,
    /// By commit and row: what it was.
    received: BTreeMap<(u64, u64), (Kind, u64)>,
    newest: (u64, u32),
    /// Where `newest` is, for `since`.
    cursor: Option<String>,
    shown: BTreeMap<u64, u64>,
}

/// How a client comes back whose connection was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ComesBack {
    /// As somebody new.
    Anew,
    /// With `since`, the cursor of the newest change.
    Since,
    /// With a resume ID.
    Resuming,
}

#[derive(Debug)]
pub(super) struct Client {
    pub(super) person: usize,
    /// Sends its token only after the join was answered.
    pub(super) late_token: bool,
    pub(super) comes_back: ComesBack,
    /// What the server has sent and the client has not received.
    pub(super) pipe: VecDeque<String>,
    /// What the client wants sent.
    pub(super) sends: VecDeque<String>,
    references: u32,
    join_ref: Option<String>,
    stretch: Option<Stretch>,
    /// The change before, on this connection.
    before: Option<((u64, u32), bool)>,
    /// A heartbeat was sent and not answered.
    beats: bool,
    asked_since: bool,
    pub(super) too_old: u64,
    pub(super) replays: u64,
    pub(super) duplicates: u64,
    /// On this join: to start over.
    told: bool,
    /// On this join: the token that came late is in force.
    identified: bool,
    subscribed: bool,
    pub(super) token: String,
    pub(super) changes: u64,
    pub(super) resyncs: BTreeMap<String, u64>,
}

impl Client {
    pub(super) fn new(
        person: usize,
        late_token: bool,
        comes_back: ComesBack,
        token: String,
    ) -> Self {
        Self {
            person,
            late_token,
            comes_back,
            pipe: VecDeque::new(),
            sends: VecDeque::new(),
            references: 0,
            join_ref: None,
            stretch: None,
            before: None,
            beats: false,
            asked_since: false,
            too_old: 0,
            replays: 0,
            duplicates: 0,
            told: false,
            identified: false,
            subscribed: false,
            token,
            changes: 0,
            resyncs: BTreeMap::new(),
        }
    }

    /// On a new connection.
    pub(super) fn connect(&mut self) {
        self.pipe.clear();
        self.sends.clear();
        self.before = None;
        self.beats = false;
        self.join();
    }

    /// Sends a heartbeat, if the one before was answered.
    pub(super) fn heartbeat(&mut self) {
        if !std::mem::replace(&mut self.beats, true) {
            let text = r#"[null,"beat","phoenix","heartbeat",{}]"#.to_owned();
            self.sends.push_back(text);
        }
    }

    fn join(&mut self) {
        self.references += 1;
        let reference = self.references.to_string();
        let mut binding = json!({"event": "*", "schema": "public", "table": "*"});
        self.told = false;
        self.identified = false;
        self.subscribed = false;
        let since = (self.stretch.as_ref()).filter(|_| self.comes_back == ComesBack::Since);
        let cursor = since.and_then(|stretch| stretch.cursor.as_ref());
        self.asked_since = cursor.is_some();
        if let Some(cursor) = cursor {
            binding["since"] = cursor.as_str().into();
            self.replays += 1;
        }
        let mut payload = json!({"config": {"postgres_changes": [binding]}});
        if !self.late_token {
            payload["access_token"] = self.token.as_str().into();
        }
        let text = json!([reference, reference, "realtime:t", "phx_join", payload]).to_string();
        self.sends.push_back(text);
        self.join_ref = Some(reference);
    }

    /// The connection is lost. Who has no position to come back with starts over.
    pub(super) fn cut(&mut self, database: &Database) -> Result<(), String> {
        let has_position = (self.stretch.as_ref()).is_some_and(|stretch| stretch.cursor.is_some());
        match self.comes_back {
            ComesBack::Resuming => return Ok(()),
            ComesBack::Since if has_position => return Ok(()),
            ComesBack::Since | ComesBack::Anew => {}
        }
        self.lose(database)
    }

    /// Nothing follows: what was received up to here must be without gaps.
    fn lose(&mut self, database: &Database) -> Result<(), String> {
        match self.stretch.take() {
            // What its token would have shown it was still kept.
            Some(_) if self.late_token && !self.identified => Ok(()),
            Some(stretch) => stretch.check(self.person, database, false),
            None => Ok(()),
        }
    }

    /// Everything was received.
    pub(super) fn end(&mut self, database: &Database) -> Result<(), String> {
        let stretch = self.stretch.take().ok_or("was never subscribed")?;
        stretch.check(self.person, database, true)?;
        match stretch.shown.keys().find(|id| !database.exists(**id)) {
            // A replay tells of a DELETE only those who were shown the row on the way.
            Some(ghost) if self.comes_back != ComesBack::Since => {
                Err(format!("still shows row {ghost}"))
            }
            _ => Ok(()),
        }
    }

    /// The next frame of the pipe arrives.
    pub(super) fn receive(&mut self, database: &Database) -> Result<(), String> {
        let Some(text) = self.pipe.pop_front() else {
            return Ok(());
        };
        if let Some(question) = text.strip_prefix(PING) {
            self.sends.push_back(format!("{PONG}{question}"));
            return Ok(());
        }
        let frame: Value = serde_json::from_str(&text).unwrap();
        let payload = &frame[4];
        match frame[3].as_str().unwrap() {
            "phx_reply" => {
                let is_join = frame[1].as_str() == self.join_ref.as_deref();
                if !is_join {
                    // Of a token for a channel that has ended meanwhile, or of a heartbeat.
                    self.beats &= frame[1] != "beat";
                    return Ok(());
                }
                if payload["status"] != "ok" {
                    let reason = payload["response"]["reason"].as_str().unwrap_or_default();
                    let too_old = self.asked_since && reason.starts_with("PositionTooOld: ");
                    if !too_old && !reason.starts_with("InitializingProjectConnection: ") {
                        return Err(format!("refused: {text}"));
                    }
                    let mut whole = Ok(());
                    if too_old {
                        self.too_old += 1;
                        whole = self.lose(database);
                    }
                    self.before = None;
                    self.join();
                    return whole;
                }
                if self.late_token {
                    self.references += 1;
                    let token = json!({"access_token": self.token});
                    let refresh = json!([
                        self.join_ref,
                        self.references.to_string(),
                        "realtime:t",
                        "access_token",
                        token
                    ]);
                    self.sends.push_back(refresh.to_string());
                }
                Ok(())
            }
            "system" => {
                let message = payload["message"].as_str().unwrap();
                if message == "Subscribed to PostgreSQL" {
                    // Once for the join, and then for the token.
                    self.identified |= self.subscribed;
                    self.subscribed = true;
                    // Who came back with a position goes on from there.
                    if self.stretch.is_none() {
                        self.select(database);
                    }
                    Ok(())
                } else if let Some(reason) = message.strip_prefix("Resync required: ") {
                    *self.resyncs.entry(reason.to_owned()).or_default() += 1;
                    let whole = self.lose(database);
                    // Without a `phx_error` behind it the channel lives on.
                    self.told = true;
                    self.select(database);
                    whole
                } else if self.asked_since && message.starts_with("PositionTooOld: ") {
                    self.too_old += 1;
                    self.told = true;
                    self.lose(database)
                } else {
                    Err(format!("was told {message}"))
                }
            }
            "phx_error" => {
                if !self.told {
                    return Err("phx_error without a reason".to_owned());
                }
                self.stretch = None;
                self.before = None;
                self.join();
                Ok(())
            }
            "postgres_changes" => self.change(payload, database),
            _ => Ok(()),
        }
    }

    fn select(&mut self, database: &Database) {
        let selected = database.select(self.person);
        self.stretch = Some(Stretch {
            shown: selected.rows.clone(),
            selected,
            ..Stretch::default()
        });
    }

    fn change(&mut self, payload: &Value, database: &Database) -> Result<(), String> {
        self.changes += 1;
        let data = &payload["data"];
        let kind = match data["type"].as_str().unwrap() {
            "INSERT" => Kind::Insert,
            "UPDATE" => Kind::Update,
            _ => Kind::Delete,
        };
        let row = match kind {
            Kind::Delete => &data["old_record"],
            Kind::Insert | Kind::Update => &data["record"],
        };
        let id = row["id"].as_u64().unwrap();
        let cursor = data["cursor"].as_str().unwrap();
        let mut parts = cursor.split('-').skip(1);
        let mut part = || u64::from_str_radix(parts.next().unwrap(), 16).unwrap();
        let (lsn, order) = (part(), u32::try_from(part()).unwrap());
        let at = (lsn, order);
        let last = payload["last"] == true;
        if let Some((earlier, was_last)) = self.before.replace((at, last)) {
            if earlier >= at {
                return Err(format!("{at:?} after {earlier:?}"));
            }
            if was_last == (earlier.0 == at.0) {
                return Err(format!("before {at:?} the last one is not marked"));
            }
        }
        let transaction = database.transactions.iter().find(|other| other.lsn == lsn);
        let deed =
            transaction.and_then(|transaction| transaction.deeds.iter().find(|deed| deed.id == id));
        let Some(deed) = deed else {
            return Err(format!("row {id} did not change at {lsn}"));
        };
        if (kind == Kind::Delete) != (deed.kind == Kind::Delete) {
            return Err(format!("{kind:?} of {deed:?}"));
        }
        if kind != Kind::Delete {
            if row["body"] != super::database::body(deed.team, deed.version).as_str() {
                return Err(format!("{row} of {deed:?}"));
            }
            if !deed.seen[self.person] {
                return Err(format!("LEAK to {}: {deed:?}", self.person));
            }
        }
        let Some(stretch) = &mut self.stretch else {
            return Ok(());
        };
        let is_new = at > stretch.newest;
        if is_new {
            stretch.newest = at;
            stretch.cursor = Some(cursor.to_owned());
        }
        if let Some(before) = stretch.received.insert((lsn, id), (kind, deed.version)) {
            self.duplicates += 1;
            if self.comes_back != ComesBack::Resuming || is_new || before.1 != deed.version {
                return Err(format!("{at:?} again, before it was {before:?}"));
            }
        }
        match kind {
            Kind::Delete => stretch.shown.remove(&id),
            Kind::Insert | Kind::Update => stretch.shown.insert(id, deed.version),
        };
        Ok(())
    }
}

impl Stretch {
    fn check(&self, person: usize, database: &Database, complete: bool) -> Result<(), String> {
        for transaction in &database.transactions {
            if !complete && transaction.lsn >= self.newest.0 {
                break;
            }
            if self.selected.seen.contains(&transaction.xid) {
                continue;
            }
            for deed in &transaction.deeds {
                let excused = deed.kind == Kind::Delete
                    || deed.superseded
                    || deed.hidden[person]
                    || !deed.seen[person];
                if !excused && !self.received.contains_key(&(transaction.lsn, deed.id)) {
                    return Err(format!(
                        "{person} misses {deed:?} of {} at {}; received to {:?}, complete {complete}",
                        transaction.xid, transaction.lsn, self.newest
                    ));
                }
            }
        }
        Ok(())
    }
}
