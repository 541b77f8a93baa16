//! Shadows of a real database: loaded while others write, moved by the real stream, equal to their tables in the end.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio_postgres::SimpleQueryMessage;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use walcast::change::{ChangeKind, Lsn, Oid, StreamEvent};
use walcast::database::Database;
use walcast::policy::schema::{self, Schema};
use walcast::policy::value::{self, Value};
use walcast::policy::{Reads, Tables};
use walcast::replication::assembler::SpoolOptions;
use walcast::replication::connection::{self, ReplicationOptions};
use walcast::replication::slot::SlotOptions;
use walcast::replication::status::{ReplicationCounters, ReplicationStatus};
use walcast::replication::stream::{Channels, Confirmed};
use walcast::shadow::{Limits, LoadResult, Shadow, Spec, State, Status, load};
use walcast::testing::{Cluster, Session};

const LIMITS: Limits = Limits {
    bytes_max: 64 << 20,
    retained_bytes_max: 16 << 20,
    undo_bytes_max: 1 << 20,
};

const SCHEMA: &str = "
    create type role as enum ('reader', 'writer');
    create table members (note text, room int8, user_id int8, role role, since timestamptz default now(),
        primary key (room, user_id));
    create table talks (id int8 primary key, gone int, people int8[], title text);
    alter table talks drop column gone;
    alter table talks alter column people set storage external;
    create table bag (room int8, user_id int8);
    alter table bag replica identity full;
    create table parted (id int8, room int8, primary key (id, room)) partition by list (room);
    create table parted_0 partition of parted for values in (0, 1, 2, 3);
    create table parted_1 (room int8 not null, id int8 not null);
    alter table parted attach partition parted_1 default;
    create table fence (id int8 primary key);
    create publication shadowed for table members, talks, bag, parted, fence;
    insert into members select 'n', n % 7, n, 'reader' from generate_series(1, 2000) n;
    insert into talks select n, array(select g from generate_series(1, 500 + n) g), 'title' from generate_series(1, 50) n;
";

/// A stream, and the shadow that it moves.
struct World {
    client: tokio_postgres::Client,
    schema: Schema,
    shadow: Shadow,
    events: mpsc::Receiver<StreamEvent>,
    loaders: mpsc::Sender<LoadResult>,
    results: mpsc::Receiver<LoadResult>,
    tasks: TaskTracker,
    stop: CancellationToken,
    database: Database,
    /// The last commit that was consumed whole.
    consumed: Lsn,
    fence: i64,
    _confirmed: watch::Sender<Confirmed>,
    directory: tempfile::TempDir,
}

impl World {
    async fn start(url: &str, slot: &str) -> Self {
        let database = Database::parse(url).unwrap();
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let client = database.connect(&tasks, "shadow").await.unwrap();
        let schema = schema::load(&client, &[]).await.unwrap();
        let directory = tempfile::tempdir().unwrap();
        let (events_out, events) = mpsc::channel(16);
        let (confirmed, confirmed_in) = watch::channel(Confirmed::NOTHING);
        let (status, _) = watch::channel(ReplicationStatus::default());
        let options = ReplicationOptions {
            database: database.clone(),
            slot: SlotOptions {
                trail_bytes_max: 0,
                name: slot.to_owned(),
                publications: vec!["shadowed".to_owned()],
                failover: false,
                retained_wal_bytes_max: 1 << 40,
            },
            application_name: "shadow".to_owned(),
            key_resolver: Arc::new(|_| Box::default()),
            message_prefixes: Vec::new(),
            spool: SpoolOptions::new(directory.path().to_owned()),
        };
        let channels = Channels {
            events: events_out,
            confirmed: confirmed_in,
            poke: Arc::new(Notify::new()),
            hang_up: Arc::new(Notify::new()),
            cancel: stop.clone(),
            counters: Arc::new(ReplicationCounters::default()),
        };
        tasks.spawn(connection::run(options, channels, status, tasks.clone()));
        let (loaders, results) = mpsc::channel(16);
        let mut world = Self {
            client,
            schema,
            shadow: Shadow::new(LIMITS),
            events,
            loaders,
            results,
            tasks,
            stop,
            database,
            consumed: Lsn::ZERO,
            fence: 0,
            _confirmed: confirmed,
            directory,
        };
        match world.events.recv().await {
            Some(StreamEvent::Started { .. }) => world.shadow.restart(),
            other => panic!("{other:?}"),
        }
        world
    }

    fn oid(&self, name: &str) -> Oid {
        self.schema.table("public", name).unwrap().oid
    }

    fn want(&mut self, tables: &[(&str, &[&str], &[&str])]) {
        let mut reads = Reads::default();
        for (name, columns, lookup) in tables {
            let table = self.schema.table("public", name).unwrap();
            let place = |name: &&str| {
                let mut columns = table.columns.iter();
                columns.position(|column| *column.name == **name).unwrap()
            };
            reads
                .tables
                .insert(table.oid, columns.iter().map(place).collect());
            reads
                .lookups
                .insert((table.oid, lookup.iter().map(place).collect()));
        }
        let specs = Spec::all(&self.schema, [&reads]);
        self.shadow.want(specs);
    }

    fn begin_loads(&mut self) {
        for request in self.shadow.loads() {
            let (database, tasks) = (self.database.clone(), self.tasks.clone());
            let loaders = self.loaders.clone();
            self.tasks.spawn(async move {
                let client = database.connect(&tasks, "shadow").await.unwrap();
                let publications = ["shadowed".to_owned()];
                let result = load(&client, &publications, request).await;
                let _stopped = loaders.send(result).await;
            });
        }
    }

    /// Takes the next event or the next result.
    async fn step(&mut self) {
        self.begin_loads();
        tokio::select! {
            result = self.results.recv() => self.shadow.loaded(result.unwrap()),
            event = self.events.recv() => match event.unwrap() {
                StreamEvent::Part(part) => {
                    self.shadow.apply(&part);
                    for change in &part.changes {
                        if let ChangeKind::Insert { new } = &change.kind
                            && &*change.relation.name == "fence"
                        {
                            let text = std::str::from_utf8(new.get(0).unwrap().text().unwrap()).unwrap();
                            self.fence = text.parse().unwrap();
                        }
                    }
                    if part.last {
                        self.consumed = part.commit.lsn;
                    }
                }
                StreamEvent::Skipped { commit, relations } => self.shadow.skipped(&commit, &relations),
                StreamEvent::Started { .. } => self.shadow.restart(),
                StreamEvent::Message { .. }
                | StreamEvent::Position(_)
                | StreamEvent::Interrupted
                | StreamEvent::GivenUp => {}
            },
            () = tokio::time::sleep(Duration::from_secs(20)) => panic!("{:?}", self.shadow.status()),
        }
    }

    /// Consumes everything that was written so far and loads whatever is to be loaded.
    async fn settle(&mut self) {
        let fence = self.fence + 1;
        loop {
            let sql = format!("insert into fence values ({fence}) on conflict do nothing");
            self.client.batch_execute(&sql).await.unwrap();
            while self.fence < fence {
                self.step().await;
            }
            let is_settled = |status: &Status| {
                !matches!(
                    status.state,
                    State::Wanted | State::Loading | State::Invalid { .. }
                )
            };
            while !self.shadow.status().iter().all(is_settled) {
                self.step().await;
            }
            // Another commit, after every load.
            let fence = fence + 1;
            let sql = format!("insert into fence values ({fence}) on conflict do nothing");
            self.client.batch_execute(&sql).await.unwrap();
            while self.fence < fence {
                self.step().await;
            }
            if self.shadow.status().iter().all(is_settled) {
                return;
            }
        }
    }

    /// What the database holds in these columns, and what the shadow shows there.
    async fn compare(&self, name: &str, columns: &[&str]) -> usize {
        let table = self.schema.table("public", name).unwrap();
        assert!(
            self.shadow.is_trusted(&[table.oid], self.consumed),
            "{:?}",
            self.shadow.status()
        );
        let sql = format!("select * from {name}");
        let mut expected = Vec::new();
        for message in self.client.simple_query(&sql).await.unwrap() {
            let SimpleQueryMessage::Row(row) = message else {
                continue;
            };
            let mut values = Vec::new();
            for (place, column) in table.columns.iter().enumerate() {
                values.push(match row.get(place) {
                    Some(text) if columns.contains(&&*column.name) => {
                        value::input(&self.schema.types, column.type_oid, -1, text).unwrap()
                    }
                    _ => Value::Null,
                });
            }
            expected.push(format!("{values:?}"));
        }
        let mut found = Vec::new();
        self.shadow.scan(table.oid, &[], &mut |tuple| {
            found.push(format!("{tuple:?}"));
            ControlFlow::Continue(())
        });
        expected.sort();
        found.sort();
        assert_eq!(found.len(), expected.len(), "{name}");
        assert!(found == expected, "{name}");
        found.len()
    }

    async fn end(self) {
        self.stop.cancel();
        drop((self.client, self.events, self.results, self.loaders));
        self.tasks.close();
        self.tasks.wait().await;
        drop(self.directory);
    }
}

/// Writes of all kinds, some rolled back, some in savepoints, until told to stop.
async fn write(session: Session, seed: i64, stop: CancellationToken) {
    let mut n = seed;
    while !stop.is_cancelled() {
        n += 3;
        let (user, room) = (10_000 + n, n % 7);
        let talk = n % 50 + 1;
        let sql = match n % 10 {
            0 => format!(
                "begin; insert into members values ('x', {room}, {user}, 'writer');
                 insert into parted values ({user}, {room}); insert into bag values ({room}, 1); select pg_sleep(0.002); commit"
            ),
            1 => format!("update members set room = room + 7 where user_id = {user} - 30"),
            2 => format!(
                "begin; savepoint a; delete from members where user_id % 100 = {user} % 100; rollback to a;
                 savepoint b; update members set role = 'writer', note = 'y' where user_id = {user} - 60; commit"
            ),
            // Out of line and unchanged.
            3 => format!("update talks set title = 'title {n}' where id = {talk}"),
            4 => format!("update talks set people = array_append(people, {n}) where id = {talk}"),
            5 => format!("update parted set room = room + 1 where id = {user} - 50"),
            6 => "begin; delete from bag where ctid = (select min(ctid) from bag);
                  insert into bag values (2, 2), (2, 2); commit"
                .to_owned(),
            7 => format!("begin; delete from members where user_id = {user} - 70; rollback"),
            8 => format!(
                "begin; delete from members where user_id = {user} - 80; insert into members values ('z', 1, {user}, null); commit"
            ),
            _ if n % 700 == 9 => "truncate bag".to_owned(),
            _ => format!("update bag set room = {room} where user_id = 1 and room = {room} + 1"),
        };
        // Two writers may wait for each other; one of them then fails.
        if session.batch_execute(&sql).await.is_err() {
            session.batch_execute("rollback").await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_shadow_that_was_loaded_while_others_write_equals_its_table() {
    let cluster = Cluster::shared();
    let name = cluster.empty_database();
    cluster.psql(&name, &[SCHEMA]).unwrap();
    let mut world = World::start(&cluster.url(&name), "shadow_load").await;
    let tables: [(&str, &[&str], &[&str]); 4] = [
        (
            "members",
            &["room", "user_id", "role", "since"],
            &["user_id"],
        ),
        ("talks", &["id", "people"], &["id"]),
        ("bag", &["room", "user_id"], &["room"]),
        ("parted", &["id", "room"], &["room"]),
    ];
    world.want(&tables);
    let mut loads = 0;
    for round in 0..6 {
        let stop = CancellationToken::new();
        let mut writers = Vec::new();
        for writer in 0..3 {
            let session = cluster.connect(&name).await;
            let seed = i64::from(round * 100_000 + writer);
            writers.push(tokio::spawn(write(session, seed, stop.clone())));
        }
        let until = tokio::time::Instant::now() + Duration::from_millis(1200);
        while tokio::time::Instant::now() < until {
            world.step().await;
            let oids: BTreeSet<Oid> = tables.iter().map(|(table, ..)| world.oid(table)).collect();
            let oids: Vec<Oid> = oids.into_iter().collect();
            if world.shadow.is_trusted(&oids, world.consumed) {
                loads += 1;
                world.shadow.invalidate(&oids, "once more");
            }
        }
        stop.cancel();
        for writer in writers {
            while !writer.is_finished() {
                tokio::select! {
                    biased;
                    () = world.step() => {}
                    () = tokio::time::sleep(Duration::from_millis(5)) => {}
                }
            }
            writer.await.unwrap();
        }
        world.settle().await;
        let mut rows = BTreeMap::new();
        for (table, columns, _) in &tables {
            rows.insert(*table, world.compare(table, columns).await);
        }
        println!("round {round}: {loads} loads, {rows:?}");
    }
    assert!(loads > 6, "{loads}");
    for status in world.shadow.status() {
        println!(
            "{}: {} rows, {} bytes",
            status.name, status.rows, status.bytes
        );
    }
    world.end().await;
    cluster.drop_slot(&name, "shadow_load");
    cluster.drop_database(&name);
}

#[tokio::test]
async fn tables_that_cannot_be_followed_are_refused() {
    let cluster = Cluster::shared();
    let name = cluster.empty_database();
    let setup = "
            create table keyless (id int8);
            create table nothing (id int8 primary key); alter table nothing replica identity nothing;
            create table filtered (id int8 primary key);
            create table listed (id int8 primary key, secret text);
            create table inserted (id int8 primary key);
            create table unpublished (id int8 primary key);
            create table generated (id int8 primary key, twice int8 generated always as (id * 2) stored);
            create table parent (id int8 primary key); create table child () inherits (parent);
            create table root (id int8 primary key) partition by list (id);
            create table leaf partition of root default;
            create table odd (id int8 primary key, place point);
            create unlogged table unlogged (id int8 primary key);
            create table guarded (id int8 primary key); alter table guarded enable row level security;
            create table good (id int8 primary key, place point);
            create publication shadowed for table filtered where (id > 1), listed (id), keyless, nothing, generated, parent, odd, good, guarded;
            create publication more for table inserted with (publish = 'insert');
            create publication rooted for table root with (publish_via_partition_root);";
    cluster.psql(&name, &[setup]).unwrap();
    let (tasks, url) = (TaskTracker::new(), cluster.url(&name));
    let database = Database::parse(&url).unwrap();
    let client = database.connect(&tasks, "shadow").await.unwrap();
    let schema = schema::load(&client, &[]).await.unwrap();
    let mut shadow = Shadow::new(LIMITS);
    let mut reads = Reads::default();
    for table in schema
        .tables
        .values()
        .filter(|table| &*table.schema == "public")
    {
        let columns =
            (0..table.columns.len()).filter(|place| &*table.name != "good" || *place == 0);
        reads.tables.insert(table.oid, columns.collect());
    }
    shadow.want(Spec::all(&schema, [&reads]));
    let publications = ["shadowed", "more", "rooted"].map(str::to_owned);
    for request in shadow.loads() {
        let result = load(&client, &publications, request).await;
        shadow.loaded(result);
    }
    let mut reasons = BTreeMap::new();
    for status in shadow.status() {
        let reason = match status.state {
            State::Unfit { reason } => reason.into(),
            other => format!("{other:?}").split(' ').next().unwrap().to_owned(),
        };
        reasons.insert(status.name, reason);
    }
    let expected = [
        ("child", "it has no primary key"),
        ("filtered", "a publication filters its rows"),
        ("generated", "its column \"twice\" is generated"),
        ("good", "Trusted"),
        ("guarded", "Trusted"),
        (
            "inserted",
            "it is not published with insert, update, delete and truncate",
        ),
        ("keyless", "it has no primary key"),
        (
            "leaf",
            "it is a partition, whose changes may come under another table's name",
        ),
        ("listed", "its column \"secret\" is not published"),
        ("nothing", "it has no replica identity"),
        (
            "odd",
            "its column \"place\" is of a type that is not supported",
        ),
        ("parent", "other tables inherit from it"),
        (
            "root",
            "it is published via its root (publish_via_partition_root), where a TRUNCATE of one partition does not show",
        ),
        ("unlogged", "it is not an ordinary table"),
        ("unpublished", "it is not published"),
    ];
    let found: Vec<(&str, &str)> = (reasons.iter())
        .map(|(name, reason)| (&**name, reason.as_str()))
        .collect();
    assert_eq!(found, expected);
    drop(client);
    cluster.drop_database(&name);
}

#[tokio::test]
async fn a_truncated_partition_does_not_show_under_its_root() {
    let cluster = Cluster::shared();
    let name = cluster.empty_database();
    let setup = "
            create table root (id int8 primary key) partition by list (id);
            create table leaf partition of root default;
            create publication via_root for table root with (publish_via_partition_root);
            create publication via_leaf for table root;";
    cluster.psql(&name, &[setup]).unwrap();
    let session = cluster.connect(&name).await;
    for (publication, shown) in [("via_root", "0"), ("via_leaf", "1")] {
        let slot = format!("shadow_{publication}");
        session
            .run(&format!(
                "select pg_create_logical_replication_slot('{slot}', 'pgoutput')"
            ))
            .await;
        session.run("truncate leaf").await;
        let truncates = format!(
            "select count(*) from pg_logical_slot_get_binary_changes('{slot}', null, null, 'proto_version', '1',
                'publication_names', '{publication}') where get_byte(data, 0) = ascii('T')"
        );
        assert_eq!(
            session.text(&truncates).await.as_deref(),
            Some(shown),
            "{publication}"
        );
        session
            .run(&format!("select pg_drop_replication_slot('{slot}')"))
            .await;
    }
    drop(session);
    cluster.drop_database(&name);
}
