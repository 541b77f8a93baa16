//! Everything at once, one step of somebody at a time.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::client::{Client, ComesBack, PING, PONG};
use super::database::{Database, Kind, PEOPLE, Transaction, body};
use crate::auth::{ApiKeys, Grant, Verifier, mint};
use crate::catalog::{AccessMark, Catalog};
use crate::change::{
    Change, ChangeKind, Commit, Cursor, Epoch, Lsn, PgTime, StreamEvent, TransactionPart, Xid,
};
use crate::log::{Allowance, Limits as LogLimits, Log, Outbox, Posting};
use crate::pipeline::conductor::{Ask, Conductor, Horizon, Output, Resolve, Rules};
use crate::pipeline::history;
use crate::pipeline::sessions::{Batch, Holder, Record};
use crate::pipeline::standing::{Pool, Timeouts};
use crate::pipeline::tests::{MESSAGES, OPEN, catalog, key, relation, table, tuple};
use crate::pipeline::{Acknowledged, Command, Farewell, KeyHash, Place, Resume};
use crate::policy::{Asked, Trouble};
use crate::realtime::{
    self, Frame, Input, Limits, Notice, Now, Opening, Socket, Subjects, Version,
};
use crate::routing::{Event, Filter, Subscription, TableFilter};

const SECRET: &str = "a secret of at least thirty-two bytes";
const UNIX: i64 = 1_800_000_000;
const CLIENTS: usize = 4;
const CONNECTIONS: usize = 2;
/// Frames that the network holds before a socket takes no more from its outbox.
const PIPE_MAX: usize = 6;
/// Turns that the world may take to come to rest.
const REST_MAX: u32 = 20_000;

/// What was done, so that nothing is tested by accident alone.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Totals {
    commits: u64,
    changes: u64,
    connections: u64,
    reconnects: u64,
    epochs: u64,
    asked: u64,
    catalogs: u64,
    resyncs: u64,
    restarts: u64,
    replays: u64,
    too_old: u64,
    duplicates: u64,
    takeovers: u64,
    recalled: u64,
    skipped: u64,
    read_back: u64,
}

impl Totals {
    pub(super) fn add(&mut self, other: &Self) {
        self.commits += other.commits;
        self.changes += other.changes;
        self.connections += other.connections;
        self.reconnects += other.reconnects;
        self.epochs += other.epochs;
        self.asked += other.asked;
        self.catalogs += other.catalogs;
        self.resyncs += other.resyncs;
        self.restarts += other.restarts;
        self.replays += other.replays;
        self.too_old += other.too_old;
        self.duplicates += other.duplicates;
        self.takeovers += other.takeovers;
        self.recalled += other.recalled;
        self.skipped += other.skipped;
        self.read_back += other.read_back;
    }

    pub(super) fn is_of_everything(&self) -> bool {
        [
            self.commits,
            self.changes,
            self.connections,
            self.reconnects,
            self.epochs,
            self.asked,
            self.catalogs,
            self.resyncs,
            self.restarts,
            self.replays,
            self.too_old,
            self.duplicates,
            self.takeovers,
            self.recalled,
            self.skipped,
            self.read_back,
        ]
        .iter()
        .all(|count| *count > 0)
    }
}

/// The server's end of a connection.
struct Connection {
    number: u64,
    socket: Socket,
    outbox: Arc<Outbox<Notice>>,
    /// Memberships with bindings.
    memberships: Vec<u32>,
    /// The change that was sent last, with its membership; and the one before the last heartbeat's answer.
    sent: Option<(u32, Cursor)>,
    beat: Option<(u32, Cursor)>,
}

impl Connection {
    fn reach(&mut self, membership: u32, cursor: Cursor) {
        let place = |cursor: Cursor| (cursor.epoch.0, cursor.commit_lsn, cursor.order);
        let is_later =
            (self.sent).is_none_or(|(of, sent)| of < membership || place(sent) < place(cursor));
        if is_later {
            self.sent = Some((membership, cursor));
        }
    }
}

/// A connection whose client has left unnoticed, and what it had sent before.
struct Ghost {
    connection: Connection,
    sends: VecDeque<String>,
}

/// What outlives the server, and what is on its way there.
#[derive(Default)]
struct Disk {
    known: HashMap<(Place, Holder), Record>,
    writes: VecDeque<Batch>,
}

/// Something that is asked of the database: under way, then answered, then known.
#[derive(Debug)]
enum Stage<Q, A> {
    Asked(Q),
    Answered(A),
}

pub(super) struct World {
    dice: StdRng,
    now: Instant,
    begin: Instant,
    database: Database,
    rules: Rules,
    conductor: Conductor,
    log: Arc<Log>,
    clients: Vec<Client>,
    connections: Vec<Option<Connection>>,
    ghosts: Vec<Ghost>,
    /// Where the server keeps positions, if it does.
    disk: Option<Disk>,
    tells: bool,
    verifier: Arc<Verifier>,
    subjects: Arc<Subjects>,
    anon: String,
    commands: VecDeque<Command>,
    /// Each has answers on their way at any time, in any order.
    horizon: Option<Stage<(), Horizon>>,
    catalog: Option<Stage<(), Arc<Catalog>>>,
    resolves: Vec<Resolve>,
    asks: Vec<Stage<Ask, (Ask, Option<Asked>)>>,
    epoch: u64,
    /// Where the slot's series of positions begins, and what of it is done with.
    epoch_from: u64,
    confirmed: u64,
    streaming: bool,
    /// The next transaction of the stream, and the changes of it that were handed down.
    streamed: usize,
    streamed_part: usize,
    next_connection: u64,
    resting: bool,
    fault: Option<String>,
    story: VecDeque<String>,
    totals: Totals,
}

impl World {
    pub(super) fn new(seed: u64, tells: bool) -> Self {
        let mut dice = StdRng::seed_from_u64(seed);
        let log = empty_log();
        let rules = Rules {
            timeouts: Timeouts {
                proven: Duration::from_millis(500),
                new: Duration::from_millis(100),
                quarantine: Duration::from_secs(5),
            },
            connections: Pool::ALL
                .into_iter()
                .map(|pool| (pool, CONNECTIONS))
                .collect(),
            withhold_deletes: false,
            broadcast_bytes_max: 1000,
            compile: dice.random_bool(0.3),
            shadow_bytes_max: 1 << 20,
            snapshot_bytes_max: 1 << 10,
            snapshot_allowance: Allowance::new(1 << 20),
            history: history::Limits {
                // Now and then little enough that positions are gone.
                bytes_max: if dice.random_bool(0.2) {
                    4 << 10
                } else {
                    4 << 20
                },
                // Often so little that what came back is read from the file.
                transaction_bytes_max: [0, 500, 1 << 20][dice.random_range(0..3)],
                file_bytes_max: if dice.random_bool(0.1) {
                    2 << 10
                } else {
                    1 << 20
                },
                directory: std::env::temp_dir(),
                age_max: Duration::from_secs(3600),
            },
        };
        let begin = crate::clock::instant();
        let verifier = Verifier::new(Some(SECRET), None, ApiKeys::default()).unwrap();
        let token = |role: &str, subject: Option<String>| {
            let grant = Grant {
                role,
                subject: subject.as_deref(),
                expires_at: UNIX + 86_400,
                ..Grant::default()
            };
            mint(SECRET, &grant).unwrap()
        };
        let clients = (0..CLIENTS).map(|_client| {
            let person = dice.random_range(0..PEOPLE);
            let late_token = dice.random_bool(0.3);
            let comes_back = match dice.random_range(0..4) {
                0 => ComesBack::Anew,
                1 => ComesBack::Since,
                _ => ComesBack::Resuming,
            };
            let token = token("authenticated", Some(person.to_string()));
            Client::new(person, late_token, comes_back, token)
        });
        let clients: Vec<Client> = clients.collect();
        let database = Database::new(&mut dice);
        let mut world = Self {
            now: begin,
            begin,
            conductor: Conductor::new(rules.clone(), Arc::clone(&log)),
            rules,
            log,
            connections: clients.iter().map(|_| None).collect(),
            ghosts: Vec::new(),
            disk: dice.random_bool(0.5).then(Disk::default),
            tells,
            clients,
            verifier: Arc::new(verifier),
            subjects: Subjects::new(),
            anon: token("anon", None),
            commands: VecDeque::new(),
            horizon: None,
            catalog: None,
            resolves: Vec::new(),
            asks: Vec::new(),
            epoch: 1,
            epoch_from: 0,
            confirmed: 0,
            streaming: false,
            streamed: 0,
            streamed_part: 0,
            next_connection: 1,
            resting: false,
            fault: None,
            story: VecDeque::new(),
            totals: Totals::default(),
            database,
            dice,
        };
        world.remember();
        world.conductor.handle_connected(world.now);
        world.start_stream();
        for _client in 0..CLIENTS {
            world.connect();
        }
        world
    }

    pub(super) fn totals(&self) -> Totals {
        let mut totals = self.totals;
        totals.read_back += self.conductor.history_reads();
        for client in &self.clients {
            totals.changes += client.changes;
            totals.replays += client.replays;
            totals.too_old += client.too_old;
            totals.duplicates += client.duplicates;
            totals.resyncs += client.resyncs.values().sum::<u64>();
        }
        totals.commits = u64::try_from(self.database.transactions.len()).unwrap_or(0);
        totals
    }

    /// What happened last.
    pub(super) fn story(&self) -> String {
        let mut lines: Vec<&str> = self.story.iter().map(String::as_str).collect();
        lines.insert(0, "the last steps:");
        lines.join("\n")
    }

    fn tell(&mut self, line: impl FnOnce() -> String) {
        if self.tells {
            if self.story.len() >= 2000 {
                self.story.pop_front();
            }
            self.story.push_back(line());
        }
    }

    fn clock(&self) -> Now {
        let passed = self.now.saturating_duration_since(self.begin);
        Now {
            instant: self.now,
            unix: UNIX + i64::try_from(passed.as_secs()).unwrap_or(0),
        }
    }

    /// Somebody does something.
    pub(super) fn step(&mut self) {
        if self.fault.is_some() {
            return;
        }
        self.now += Duration::from_micros(self.dice.random_range(0..3000));
        if self.dice.random_bool(0.01) {
            self.now += Duration::from_millis(self.dice.random_range(0..1500));
        }
        match self.dice.random_range(0..100) {
            0..12 => self.database.commit(&mut self.dice),
            12..24 => self.show(),
            24..40 => self.stream(),
            40..49 => self.advance_queries(),
            49 => self.write(),
            50..58 => {
                self.command();
                self.serve();
            }
            58..70 => {
                self.serve();
                self.serve();
            }
            70..84 => self.deliver(),
            84..91 => self.answer(),
            91..93 => self.heartbeat(),
            93..95 => self.timeout(),
            95 if self.dice.random_bool(0.4) => self.leave_unnoticed(),
            95 => self.cut(),
            96 => self.interrupt(),
            97..99 => self.connect(),
            _ => match self.dice.random_range(0..20) {
                0..2 => self.end_epoch(),
                2..5 => self.restart(),
                _ => {}
            },
        }
        self.settle();
    }

    /// Everything under way arrives, and nothing new happens.
    pub(super) fn rest(&mut self) {
        self.resting = true;
        for turn in 0..REST_MAX {
            if self.fault.is_some() {
                return;
            }
            self.now += Duration::from_millis(1);
            while !self.database.invisible().is_empty() {
                self.show();
            }
            let everybody = self.connections.iter().all(Option::is_some);
            if !everybody {
                self.connect();
            }
            self.stream();
            self.advance_queries();
            self.command();
            self.serve();
            self.write();
            self.deliver();
            self.answer();
            if turn % 8 == 0 {
                self.timeout();
            }
            self.settle();
            if turn > 100 && everybody && self.is_at_rest() {
                return;
            }
        }
        self.fault
            .get_or_insert_with(|| "never comes to rest".to_owned());
    }

    fn is_at_rest(&self) -> bool {
        let Self {
            horizon,
            catalog,
            resolves,
            asks,
            commands,
            ghosts,
            ..
        } = self;
        let idle = horizon.is_none()
            && catalog.is_none()
            && resolves.is_empty()
            && asks.is_empty()
            && commands.is_empty()
            && ghosts.is_empty();
        let read = self
            .clients
            .iter()
            .all(|client| client.pipe.is_empty() && client.sends.is_empty());
        let served =
            (self.connections.iter().flatten()).all(|connection| connection.outbox.is_empty());
        idle && read && served && self.streamed == self.database.transactions.len()
            // The stream's position is beyond everything that was asked.
            && self.conductor.next_timeout().is_none_or(|at| at > self.now + Duration::from_secs(1))
    }

    pub(super) fn check(&mut self) -> Result<(), String> {
        if let Some(fault) = self.fault.take() {
            return Err(fault);
        }
        for (number, client) in self.clients.iter_mut().enumerate() {
            (client.end(&self.database)).map_err(|fault| format!("client {number} {fault}"))?;
        }
        Ok(())
    }

    fn hold(&mut self, result: Result<(), String>, client: usize) {
        if let Err(fault) = result {
            self.fault
                .get_or_insert_with(|| format!("client {client} {fault}"));
        }
    }

    fn show(&mut self) {
        let invisible = self.database.invisible();
        if !invisible.is_empty() {
            let index = invisible[self.dice.random_range(0..invisible.len())];
            self.database.show(index);
            let xid = self.database.transactions[index].xid;
            self.tell(|| format!("{xid} is visible"));
        }
    }

    // The stream.

    fn start_stream(&mut self) {
        self.streaming = true;
        // What was handed down in part comes again from its beginning.
        self.streamed_part = 0;
        let next = self.database.transactions.get(self.streamed);
        let from = next.map_or(self.database.insert_lsn(), |next| Lsn::new(next.lsn));
        let end = self.database.insert_lsn();
        let epoch = Epoch(self.epoch);
        self.tell(|| format!("the stream starts from {from}, epoch {}", epoch.0));
        self.conductor.handle_stream(
            self.now,
            StreamEvent::Started {
                epoch,
                from,
                end,
                failed_over: false,
                messages: Some(5),
            },
        );
    }

    fn interrupt(&mut self) {
        if self.streaming {
            self.streaming = false;
            self.totals.reconnects += 1;
            self.tell(|| "the stream is interrupted".to_owned());
            self.conductor
                .handle_stream(self.now, StreamEvent::Interrupted);
        }
    }

    /// The slot is lost; a new one begins with what commits from now on.
    fn end_epoch(&mut self) {
        // A slot is made when nobody is writing.
        if self.database.invisible().is_empty() {
            self.interrupt();
            self.epoch += 1;
            self.totals.epochs += 1;
            self.streamed = self.database.transactions.len();
            self.epoch_from = self.database.insert_lsn().bytes();
            self.confirmed = self.epoch_from;
        }
    }

    /// The server is killed, and another one begins some way before what the first had done with.
    fn restart(&mut self) {
        for number in 0..CLIENTS {
            if self.connections[number].take().is_some() {
                self.lose_connection(number);
            }
        }
        self.totals.restarts += 1;
        self.totals.read_back += self.conductor.history_reads();
        self.tell(|| "the server is killed".to_owned());
        self.log = empty_log();
        self.conductor = Conductor::new(self.rules.clone(), Arc::clone(&self.log));
        self.ghosts.clear();
        self.remember();
        self.commands.clear();
        (self.horizon, self.catalog) = (None, None);
        self.resolves.clear();
        self.asks.clear();
        let trail = if self.dice.random_bool(0.3) {
            0
        } else {
            self.dice.random_range(0..400)
        };
        let from = self.confirmed.saturating_sub(trail);
        let from = from.max(self.epoch_from);
        self.streamed = (self.database.transactions).partition_point(|other| other.lsn < from);
        self.conductor.handle_connected(self.now);
        self.start_stream();
    }

    /// A server begins with what is on the disk. Without one it cannot tell who was there before.
    fn remember(&mut self) {
        let doubtful = self.now.checked_add(Duration::from_secs(86_400));
        let sessions = self.conductor.sessions();
        match &mut self.disk {
            None => sessions.load(self.now, [], doubtful, false),
            Some(disk) => {
                disk.writes.clear();
                self.totals.recalled += u64::try_from(disk.known.len()).unwrap_or(0);
                sessions.load(self.now, disk.known.values().copied(), None, true);
            }
        }
    }

    /// Something that is to outlive the server does from now on.
    fn write(&mut self) {
        if let Some(batch) = self.disk.as_mut().and_then(|disk| {
            let batch = disk.writes.pop_front()?;
            for record in &batch.records {
                let key = (record.place, record.holder);
                if record.cursor.is_some() {
                    disk.known.insert(key, *record);
                } else {
                    disk.known.remove(&key);
                }
            }
            Some(batch)
        }) {
            self.conductor.handle_written(self.now, batch.number);
        }
    }

    fn stream(&mut self) {
        if !self.streaming {
            return self.start_stream();
        }
        if !self.conductor.wants_stream() {
            return;
        }
        let Some(transaction) = self.database.transactions.get(self.streamed) else {
            let position = self.database.insert_lsn();
            return self
                .conductor
                .handle_stream(self.now, StreamEvent::Position(position));
        };
        if transaction.deeds.is_empty() {
            self.streamed += 1;
            return;
        }
        if transaction.too_large {
            let part = part(transaction, self.epoch, 0, 0, true);
            self.streamed += 1;
            self.totals.skipped += 1;
            self.tell(|| format!("{:?} is skipped", part.commit.xid));
            return self.conductor.handle_stream(
                self.now,
                StreamEvent::Skipped {
                    commit: part.commit,
                    relations: vec![OPEN, MESSAGES],
                },
            );
        }
        let left = transaction.deeds.len() - self.streamed_part;
        let count = if self.dice.random_bool(0.7) {
            left
        } else {
            self.dice.random_range(0..=left)
        };
        let last = count == left;
        let part = part(transaction, self.epoch, self.streamed_part, count, last);
        let xid = transaction.xid;
        self.tell(|| format!("{xid}: {count} changes, last {last}, are streamed"));
        if last {
            self.streamed += 1;
            self.streamed_part = 0;
        } else {
            self.streamed_part += count;
        }
        self.conductor
            .handle_stream(self.now, StreamEvent::Part(part));
    }

    // The database's answers.

    fn catalog_now(&self) -> Arc<Catalog> {
        let now = catalog(&self.database.fingerprint.to_string());
        let mut now = Arc::into_inner(now).unwrap();
        let mut open = table(OPEN, self.database.row_security());
        if let Some(open) = Arc::get_mut(&mut open) {
            open.name = "open".into();
        }
        now.tables.insert(OPEN, open);
        let mark = AccessMark {
            rights: i64::from(self.database.fingerprint),
            file: 0,
        };
        now.access_marks.insert(OPEN, mark);
        now.messages.clear();
        Arc::new(now)
    }

    fn advance_queries(&mut self) {
        match self.horizon.take() {
            Some(Stage::Asked(())) => {
                let horizon = Horizon {
                    snapshot: self.database.snapshot().parse().unwrap(),
                    insert_lsn: self.database.insert_lsn(),
                    fingerprint: self.database.fingerprint.to_string().into(),
                };
                self.tell(|| format!("a snapshot is taken: {:?}", horizon.snapshot));
                self.horizon = Some(Stage::Answered(horizon));
            }
            Some(Stage::Answered(horizon)) => {
                let lost = !self.resting && self.dice.random_bool(0.05);
                self.tell(|| format!("the snapshot arrives, lost {lost}"));
                self.conductor
                    .handle_horizon(self.now, (!lost).then_some(horizon));
            }
            None => {}
        }
        match self.catalog.take() {
            Some(Stage::Asked(())) => self.catalog = Some(Stage::Answered(self.catalog_now())),
            Some(Stage::Answered(catalog)) => {
                self.totals.catalogs += 1;
                let lost = !self.resting && self.dice.random_bool(0.05);
                self.conductor
                    .handle_catalog(self.now, (!lost).then_some(catalog));
            }
            None => {}
        }
        if !self.resolves.is_empty() {
            let place = self.dice.random_range(0..self.resolves.len());
            let resolve = self.resolves.swap_remove(place);
            if !self.resting && self.dice.random_bool(0.05) {
                return self.conductor.handle_unresolved(self.now, resolve);
            }
            let filter = TableFilter {
                filter: Filter::default(),
                columns: None,
            };
            let subscription = |id| Subscription {
                id,
                event: Event::All,
                left: false,
                snapshot: None,
                tables: HashMap::from([(MESSAGES, filter.clone()), (OPEN, filter.clone())]),
            };
            let subscriptions = resolve.bindings.iter();
            let subscriptions = subscriptions.map(|binding| subscription(binding.id));
            self.conductor
                .handle_resolved(self.now, resolve.ticket, Ok(subscriptions.collect()));
        }
    }

    fn answer(&mut self) {
        if self.asks.is_empty() {
            return;
        }
        let place = self.dice.random_range(0..self.asks.len());
        match self.asks.swap_remove(place) {
            Stage::Asked(ask) => {
                let dice = self.dice.random_range(0..100);
                let answered = match dice {
                    // The connection broke.
                    0..5 if !self.resting => None,
                    5..8 if !self.resting => Some(Asked {
                        result: Err(Trouble::Locked),
                        read_before: self.database.insert_lsn(),
                        took: Duration::from_millis(20),
                    }),
                    _ => Some(self.database.answer(&ask.question)),
                };
                self.tell(|| format!("Postgres answers {:?}: {answered:?}", ask.question.rows));
                self.asks.push(Stage::Answered((ask, answered)));
            }
            Stage::Answered((ask, answered)) => {
                self.totals.asked += 1;
                self.conductor
                    .handle_answer(self.now, ask.lane, ask.pool, answered);
                self.conductor.handle_idle(self.now, ask.pool);
            }
        }
    }

    fn timeout(&mut self) {
        if let Some(at) = self.conductor.next_timeout() {
            // Early calls are harmless.
            if self.resting || self.dice.random_bool(0.5) {
                self.now = self.now.max(at.min(self.now + Duration::from_millis(100)));
            }
            self.conductor.handle_timeout(self.now);
        }
    }

    // The server.

    fn command(&mut self) {
        if let Some(command) = self.commands.pop_front() {
            self.conductor.handle_command(self.now, command);
        }
    }

    /// One connection takes something from its client or its outbox.
    fn serve(&mut self) {
        for number in self.some_clients() {
            self.serve_client(number);
        }
    }

    fn some_clients(&mut self) -> Vec<usize> {
        if self.resting {
            (0..CLIENTS).collect()
        } else {
            vec![self.dice.random_range(0..CLIENTS)]
        }
    }

    fn serve_client(&mut self, number: usize) {
        self.serve_ghosts();
        let now = self.clock();
        let Some(connection) = &mut self.connections[number] else {
            return;
        };
        let client = &mut self.clients[number];
        connection.socket.handle_timeout(now);
        if let Some(text) = client.sends.pop_front() {
            hear(&mut self.commands, connection, &text);
            if !text.starts_with(PONG) {
                connection.socket.handle(now, Input::Text(&text));
            }
        } else if client.pipe.len() < PIPE_MAX {
            match connection.outbox.pop(self.dice.random_range(1..5)) {
                None => {}
                Some(Posting::Notice {
                    notice: Notice::Probe(question),
                    ..
                }) => client.pipe.push_back(format!("{PING}{question}")),
                Some(Posting::Notice {
                    membership,
                    notice: Notice::Mark(cursor),
                }) => connection.reach(membership, cursor),
                Some(Posting::Notice {
                    notice: Notice::TakenOver,
                    ..
                }) => return self.cut_off(number),
                Some(Posting::Kept(_)) => unreachable!("nobody asks for a snapshot here"),
                Some(Posting::Notice { membership, notice }) => {
                    let input = Input::Notice { membership, notice };
                    connection.socket.handle(now, input);
                }
                Some(Posting::Run(run)) => {
                    let payloads = self.log.read(run.part, run.first, run.count);
                    let payloads = payloads.expect("nobody is that slow here");
                    let newest = payloads.last().and_then(|payload| cursor_of(payload));
                    if let Some(cursor) = newest {
                        connection.reach(run.membership, cursor);
                    }
                    let changes = Input::Changes {
                        membership: run.membership,
                        ids: &run.ids,
                        payloads: &payloads,
                        last: run.last,
                    };
                    connection.socket.handle(now, changes);
                }
            }
        }
        self.drain_socket(number);
    }

    fn drain_socket(&mut self, number: usize) {
        let Some(connection) = &mut self.connections[number] else {
            return;
        };
        let client = &mut self.clients[number];
        let connection_number = connection.number;
        while let Some(output) = connection.socket.poll_output() {
            match output {
                realtime::Output::Send(Frame::Text(text)) => client.pipe.push_back(text),
                realtime::Output::Send(Frame::SharedText(text)) => {
                    let text = String::from_utf8(text.to_vec()).unwrap();
                    client.pipe.push_back(text);
                }
                realtime::Output::Subscribe {
                    membership,
                    claims,
                    bindings,
                    grace,
                    room,
                } => {
                    connection.memberships.push(membership);
                    let id = format!("the resume ID of client {number}, long enough");
                    let resume = Resume {
                        place: Place::new(&id, &room, &bindings),
                        key: KeyHash::new("key"),
                        by_heartbeat: false,
                    };
                    let resumes = client.comes_back == ComesBack::Resuming;
                    self.commands.push_back(Command::Subscribe {
                        connection: connection_number,
                        membership,
                        outbox: Arc::clone(&connection.outbox),
                        claims,
                        bindings,
                        grace,
                        resume: resumes.then_some(resume),
                    });
                }
                realtime::Output::Park { membership } => self.commands.push_back(Command::Park {
                    connection: connection_number,
                    memberships: vec![membership],
                    farewell: Farewell::Said,
                }),
                realtime::Output::Identify { membership, claims } => {
                    self.commands.push_back(Command::Identify {
                        connection: connection_number,
                        membership,
                        claims,
                    });
                }
                realtime::Output::Unsubscribe { membership } => {
                    self.commands.push_back(Command::Unsubscribe {
                        connection: connection_number,
                        membership,
                    });
                }
                realtime::Output::Close { code, reason } => {
                    self.fault
                        .get_or_insert_with(|| format!("closed with {code} {reason}"));
                }
                _ => {}
            }
        }
    }

    // The clients and their network.

    fn connect(&mut self) {
        for number in self.some_clients() {
            if self.connections[number].is_some() {
                continue;
            }
            let claims = self.verifier.verify(&self.anon, UNIX).unwrap();
            let opening = Opening {
                version: Version::V2,
                limits: Limits {
                    idle_timeout: Duration::from_secs(86_400),
                    ..Limits::default()
                },
                verifier: Arc::clone(&self.verifier),
                subjects: Arc::clone(&self.subjects),
                seed: [7; 16],
                token: self.anon.as_str().into(),
                claims,
                resume_ignored: false,
            };
            self.totals.connections += 1;
            self.connections[number] = Some(Connection {
                number: self.next_connection,
                socket: Socket::new(self.clock(), opening),
                outbox: Arc::default(),
                memberships: Vec::new(),
                sent: None,
                beat: None,
            });
            self.next_connection += 1;
            self.clients[number].connect(self.now);
            let Client {
                comes_back,
                late_token,
                ..
            } = self.clients[number];
            self.tell(|| format!("client {number} connects, {comes_back:?}, {late_token}"));
        }
    }

    /// A frame arrives, or several.
    fn deliver(&mut self) {
        for number in self.some_clients() {
            let count = self.clients[number].pipe.len();
            let count = if self.resting {
                count
            } else {
                self.dice.random_range(0..=count)
            };
            for _frame in 0..count {
                let frame = self.clients[number].pipe.front().cloned();
                self.tell(|| format!("client {number} receives {}", frame.unwrap_or_default()));
                let received = self.clients[number].receive(self.now, &self.database);
                self.hold(received, number);
            }
        }
    }

    fn heartbeat(&mut self) {
        let number = self.dice.random_range(0..CLIENTS);
        if self.connections[number].is_some() {
            self.clients[number].heartbeat();
        }
    }

    /// A client leaves, and the server does not notice: what the client had sent is still to come.
    fn leave_unnoticed(&mut self) {
        let number = self.dice.random_range(0..CLIENTS);
        if let Some(connection) = self.connections[number].take() {
            let sends = std::mem::take(&mut self.clients[number].sends);
            self.ghosts.push(Ghost { connection, sends });
            self.lose_connection(number);
        }
    }

    /// The server goes on with connections whose clients are gone, until it notices.
    fn serve_ghosts(&mut self) {
        let now = self.clock();
        let noticed = self.resting && self.now > self.begin + Duration::from_secs(15);
        let mut ghosts = std::mem::take(&mut self.ghosts);
        ghosts.retain_mut(|ghost| {
            let connection = &mut ghost.connection;
            let mut is_over = noticed || self.dice.random_bool(0.0005);
            let hears = self.dice.random_bool(0.1);
            if let Some(text) = ghost.sends.pop_front_if(|_| hears) {
                // A join that arrives after its client has left asks for the session all the same.
                hear(&mut self.commands, connection, &text);
            } else if hears
                && let Some(Posting::Notice { notice, .. }) = connection.outbox.pop(1)
                && matches!(notice, Notice::TakenOver)
            {
                self.totals.takeovers += 1;
                is_over = true;
            }
            if is_over {
                connection.socket.handle(now, Input::Gone);
                self.commands.push_back(Command::Park {
                    connection: connection.number,
                    memberships: connection.memberships.clone(),
                    farewell: Farewell::Silent,
                });
            }
            !is_over
        });
        self.ghosts = ghosts;
    }

    fn cut(&mut self) {
        let number = self.dice.random_range(0..CLIENTS);
        self.cut_off(number);
    }

    fn cut_off(&mut self, number: usize) {
        let now = self.clock();
        if let Some(connection) = &mut self.connections[number] {
            self.commands.push_back(Command::Park {
                connection: connection.number,
                memberships: connection.memberships.clone(),
                farewell: Farewell::Silent,
            });
            connection.socket.handle(now, Input::Gone);
            self.drain_socket(number);
            self.connections[number] = None;
            self.lose_connection(number);
        }
    }

    fn lose_connection(&mut self, number: usize) {
        self.clients[number].pipe.clear();
        self.tell(|| format!("client {number} is cut off"));
        let whole = self.clients[number].cut(self.now, &self.database);
        self.hold(whole, number);
    }

    /// Does what the conductor wants done.
    fn settle(&mut self) {
        loop {
            while let Some(output) = self.conductor.poll_output() {
                match output {
                    Output::TakeHorizon => self.horizon = Some(Stage::Asked(())),
                    Output::LoadCatalog => self.catalog = Some(Stage::Asked(())),
                    Output::Resolve(resolve) => self.resolves.push(resolve),
                    Output::Ask(ask) => self.asks.push(Stage::Asked(ask)),
                    Output::Confirm(epoch, lsn) if epoch == Epoch(self.epoch) => {
                        self.confirmed = self.confirmed.max(lsn.bytes());
                    }
                    _ => {}
                }
            }
            if let Some(disk) = &mut self.disk
                && self.conductor.sessions().has_changed()
            {
                let batch = self.conductor.sessions().take_changed();
                disk.writes.push_back(batch);
            }
            if !self.conductor.is_releasing() {
                return;
            }
            // Meanwhile answers come in, and nothing else.
            if self.dice.random_bool(0.5) {
                self.answer();
            }
            self.conductor.go_on(self.now);
        }
    }
}

/// What the server learns from a frame of the client's how far it is.
fn hear(commands: &mut VecDeque<Command>, connection: &mut Connection, text: &str) {
    if let Some(question) = text.strip_prefix(PONG) {
        commands.push_back(Command::Answer {
            connection: connection.number,
            question: question.parse().unwrap(),
        });
    } else if text.contains("\"heartbeat\"") {
        // Heartbeat n+1: what was sent before the answer to heartbeat n was handled.
        let handled = std::mem::replace(&mut connection.beat, connection.sent);
        commands.push_back(Command::Acknowledge {
            connection: connection.number,
            what: Acknowledged::Processed,
            positions: handled.into_iter().collect(),
        });
        commands.push_back(Command::Mark {
            connection: connection.number,
            memberships: connection.memberships.clone(),
        });
    }
}

/// The cursor of a payload.
fn cursor_of(payload: &[u8]) -> Option<Cursor> {
    let text = std::str::from_utf8(payload).ok()?;
    let (_, rest) = text.rsplit_once("\"cursor\":\"")?;
    rest.split('"').next()?.parse().ok()
}

fn empty_log() -> Arc<Log> {
    Arc::new(Log::new(LogLimits {
        memory_bytes_max: 1 << 20,
        bytes_max: 1 << 20,
        directory: std::env::temp_dir(),
    }))
}

/// A piece of a transaction as the assembler hands it down.
fn part(
    transaction: &Transaction,
    epoch: u64,
    from: usize,
    count: usize,
    last: bool,
) -> TransactionPart {
    let deeds = transaction.deeds.iter().enumerate().skip(from).take(count);
    let changes = deeds.map(|(place, deed)| {
        let new = || tuple(deed.id, &body(deed.team, deed.version));
        Change {
            relation: relation(deed.table),
            order: u32::try_from(place).unwrap_or(u32::MAX),
            kind: match deed.kind {
                Kind::Insert => ChangeKind::Insert { new: new() },
                Kind::Update => ChangeKind::Update {
                    old: None,
                    new: new(),
                },
                Kind::Delete => ChangeKind::Delete { old: key(deed.id) },
            },
        }
    });
    TransactionPart {
        commit: Arc::new(Commit {
            epoch: Epoch(epoch),
            lsn: Lsn::new(transaction.lsn),
            end_lsn: Lsn::new(transaction.end_lsn()),
            time: PgTime(0),
            xid: Xid(transaction.xid),
        }),
        changes: changes.collect(),
        size: 100,
        last,
    }
}
