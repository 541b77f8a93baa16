//! The table `realtime.messages`: what setup makes of it, and what is asked about it.

use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::process::Signal;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use walcast::auth::Claims;
use walcast::database::Database;
use walcast::log::Order;
use walcast::messages::{self, Messages, Options, Reply, Request};
use walcast::metrics::Metrics;
use walcast::realtime::{
    Answer, Ask, AskError, Broadcast, Content, Extension, StoredData, Storing,
};
use walcast::testing::{App, AppOptions, Server, Session, eventually};
use walcast::topic::{Room, Topic};

use crate::world::{ALICE, BOB, CAROL, SCHEMA, TALK};

const BINARY: &str = env!("CARGO_BIN_EXE_walcast");

/// What each topic is for says its name. The case keeps Postgres from looking at other branches.
const POLICIES: &str = "
    create function public.answer(topic text, extension text) returns boolean language plpgsql as $$
    begin
      return case
        when topic = 'open' then extension <> 'persistence'
        when topic = 'stored' then true
        when topic = 'heard' then extension = 'broadcast'
        when topic = 'seen' then extension = 'presence'
        when topic = 'raise' then 1 / (length(topic) - 5) = 1
        when topic = 'sleep' then pg_sleep(60) is null
        when topic = 'settings' then
          realtime.topic() = topic and auth.uid()::text = auth.jwt() ->> 'sub' and auth.role() = current_user
            and current_setting('request.jwt.claim.sub') = auth.jwt() ->> 'sub'
            and current_setting('request.headers')::jsonb ->> 'x-test' = 'yes'
        else false
      end;
    end $$;
    create policy reading on realtime.messages for select to anon, authenticated
      using (public.answer(topic, extension));
    create policy writing on realtime.messages for insert to anon, authenticated
      with check (public.answer(topic, extension));
";

/// A database, and tasks that ask about it.
struct World {
    app: App,
    questions: Questions,
}

/// Tasks that ask about a database.
struct Questions {
    messages: Messages,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Deref for World {
    type Target = Questions;

    fn deref(&self) -> &Questions {
        &self.questions
    }
}

impl World {
    async fn start() -> Self {
        Self::start_with("", None).await
    }

    async fn start_with(schema: &str, private: Option<&[&str]>) -> Self {
        let options = AppOptions {
            schema: &format!("{SCHEMA}{POLICIES}{schema}"),
            private,
            ..AppOptions::default()
        };
        let app = App::prepare(BINARY, &options).await;
        let questions = Questions::on(&app.cluster().url(&app.database));
        Self { app, questions }
    }

    async fn text(&self, sql: &str) -> String {
        self.app.admin.text(sql).await.unwrap_or_default()
    }

    async fn end(self) {
        self.questions.end().await;
    }
}

impl Questions {
    fn on(url: &str) -> Self {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let options = Options {
            database: Database::parse(url).unwrap(),
            connections: 4,
            timeout: Duration::from_secs(1),
            order: Arc::new(Order::new(Arc::default())),
            times: Metrics::new().question_times.clone(),
        };
        Self {
            messages: messages::start(&options, &tasks, &stop),
            tasks,
            stop,
        }
    }

    async fn ask(&self, claims: &Arc<Claims>, topic: &str, ask: Ask) -> Result<Answer, AskError> {
        self.put(claims, topic, ask).await.unwrap()
    }

    fn put(
        &self,
        claims: &Arc<Claims>,
        topic: &str,
        ask: Ask,
    ) -> oneshot::Receiver<Result<Answer, AskError>> {
        let (sender, answer) = oneshot::channel();
        self.messages.ask(Request {
            claims: Arc::clone(claims),
            headers: r#"{"x-test":"yes"}"#.into(),
            room: Arc::new(Room {
                topic: Topic::of_sub_topic(topic).unwrap(),
                private: true,
            }),
            ask,
            reply: Reply::Once(sender),
        });
        answer
    }

    /// Broadcast and presence.
    async fn read(&self, claims: &Arc<Claims>, topic: &str) -> Result<(bool, bool), AskError> {
        match self
            .ask(claims, topic, Ask::Read { presence: true })
            .await?
        {
            Answer::Read {
                broadcast,
                presence,
            } => Ok((broadcast, presence)),
            other => panic!("{other:?}"),
        }
    }

    /// Broadcast and presence.
    async fn write(&self, claims: &Arc<Claims>, topic: &str) -> Result<(bool, bool), AskError> {
        let mut may = [false; 2];
        for (may, extension) in may
            .iter_mut()
            .zip([Extension::Broadcast, Extension::Presence])
        {
            match self.ask(claims, topic, Ask::Write(extension)).await? {
                Answer::Write(answer) => *may = answer,
                other => panic!("{other:?}"),
            }
        }
        Ok((may[0], may[1]))
    }

    async fn replay(&self, topic: &str, since: i64, limit: u8) -> Vec<(String, StoredData)> {
        match self
            .ask(&user(ALICE), topic, Ask::Replay { since, limit })
            .await
        {
            Ok(Answer::Replayed { stored, snapshot }) => {
                assert!(snapshot.is_some());
                let stored = stored.into_iter();
                stored
                    .map(|stored| (stored.event.into(), stored.data))
                    .collect()
            }
            other => panic!("{other:?}"),
        }
    }

    async fn events(&self, topic: &str, since: i64, limit: u8) -> Vec<String> {
        let stored = self.replay(topic, since, limit).await;
        stored.into_iter().map(|(event, _data)| event).collect()
    }

    async fn persist(
        &self,
        topic: &str,
        data: StoredData,
        ttl_seconds: u32,
    ) -> Result<Option<Box<str>>, AskError> {
        let message = Broadcast::new(
            Topic::of_sub_topic(topic).unwrap(),
            Content::Binary {
                event: "said".into(),
                data: Bytes::new(),
            },
            None,
        );
        let message = message.stored_as(format!("{:032x}", rand::random::<u128>()).into());
        let ask = Ask::Persist {
            storing: Arc::new(Storing::new(Arc::new(message))),
            event: "said".into(),
            data,
            ttl_seconds,
        };
        match self.ask(&user(ALICE), topic, ask).await? {
            Answer::Persisted(id) => Ok(id),
            other => panic!("{other:?}"),
        }
    }

    async fn end(self) {
        self.stop.cancel();
        self.tasks.close();
        let ended = tokio::time::timeout(Duration::from_secs(5), self.tasks.wait());
        ended.await.expect("the tasks end");
    }
}

fn claims(role: &str, subject: Option<&str>) -> Arc<Claims> {
    let json = match subject {
        Some(subject) => format!(r#"{{"role":"{role}","sub":"{subject}"}}"#),
        None => format!(r#"{{"role":"{role}"}}"#),
    };
    Arc::new(Claims {
        json: json.into(),
        role: role.into(),
        subject: subject.map(Into::into),
        expires_at: None,
    })
}

fn user(subject: &str) -> Arc<Claims> {
    claims("authenticated", Some(subject))
}

fn json(text: &'static str) -> StoredData {
    StoredData::Json(Bytes::from_static(text.as_bytes()))
}

/// What a command of walcast says.
fn output(server: &Server, arguments: &[&str]) -> String {
    let output = server.command(arguments);
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[tokio::test]
async fn functions_send_what_they_are_given() {
    let world = World::start().await;
    let admin = &world.app.admin;
    admin
        .run(
            "begin;
             select realtime.send('{\"a\": 1}', 'added', 'room');
             select realtime.send('{\"id\": 7}', 'kept', 'room', false);
             select realtime.send('[1]', 'array', 'room');
             select realtime.send_binary('\\x0102', 'bytes', 'room');
             create table told as select realtime.topic() as topic;
             commit",
        )
        .await;
    let rows = "select string_agg(concat_ws('|', event, private, extension, payload - 'id', payload ->> 'id' = id::text,
                  binary_payload, skip_broadcast), ' ' order by sequence)
                from realtime.messages where jsonb_typeof(payload) is distinct from 'array'";
    assert_eq!(
        world.text(rows).await,
        r#"added|t|broadcast|{"a": 1}|t|f kept|f|broadcast|{}|f|f bytes|t|broadcast|\x0102|f"#
    );
    let array = "select payload::text from realtime.messages where event = 'array'";
    assert_eq!(world.text(array).await, "[1]");
    assert_eq!(world.text("select topic from told").await, "room");
    assert_eq!(world.text("select realtime.topic() is null").await, "t");
    let both = admin
        .batch_execute("insert into realtime.messages (topic, extension, payload, binary_payload) values ('t', 'broadcast', '{}', '')")
        .await;
    assert_eq!(both.unwrap_err().code().unwrap().code(), "23514");
    world.end().await;
}

#[tokio::test]
async fn sending_never_raises() {
    let world = World::start().await;
    let admin = &world.app.admin;
    // No topic, no right, no partition: the transaction goes on.
    admin
        .run(&format!(
            "begin;
             select realtime.send('{{}}', 'no topic', null);
             select realtime.send_binary('', 'no topic', null);
             set local role authenticated;
             select realtime.send('{{}}', 'no right', 'closed');
             select set_config('request.jwt.claims', '{{\"sub\": \"{ALICE}\"}}', true);
             select realtime.send('{{}}', 'right', 'conversation:{TALK}');
             reset role;
             commit"
        ))
        .await;
    let events = "select string_agg(event, ' ') from realtime.messages";
    assert_eq!(world.text(events).await, "right");
    assert!(
        world
            .app
            .cluster()
            .log()
            .contains("WarnSendingBroadcastMessage: new row violates row-level security policy"),
    );
    world.end().await;
}

#[tokio::test]
async fn changes_are_broadcast_by_row_triggers_only() {
    let world = World::start().await;
    let admin = &world.app.admin;
    admin
        .run(
            "create table things (id int, name text);
             create function tell() returns trigger language plpgsql as $$ begin
               perform realtime.broadcast_changes('things', tg_op, tg_op, tg_table_name, tg_table_schema, new, old, tg_level);
               return null;
             end $$;
             create trigger tell after insert or update or delete on things for each row execute function tell();
             insert into things values (1, 'a');
             update things set name = 'b';
             delete from things",
        )
        .await;
    let told =
        "select string_agg(concat_ws(' ', event, private, payload - 'id'), E'\n' order by sequence)
                from realtime.messages where payload ->> 'id' = id::text";
    assert_eq!(
        world.text(told).await,
        r#"INSERT t {"table": "things", "record": {"id": 1, "name": "a"}, "schema": "public", "operation": "INSERT", "old_record": null}
UPDATE t {"table": "things", "record": {"id": 1, "name": "b"}, "schema": "public", "operation": "UPDATE", "old_record": {"id": 1, "name": "a"}}
DELETE t {"table": "things", "record": null, "schema": "public", "operation": "DELETE", "old_record": {"id": 1, "name": "b"}}"#
    );
    for (arguments, words) in [
        (
            "'INSERT', 'things', 'public', null, null, 'STATEMENT'",
            "for each row",
        ),
        (
            "'TRUNCATE', 'things', 'public', null, null",
            "no operation 'TRUNCATE'",
        ),
        ("null, 'things', 'public', null, null", "no operation NULL"),
    ] {
        let call = format!("select realtime.broadcast_changes('t', 'e', {arguments})");
        let error = admin.batch_execute(&call).await.unwrap_err();
        let message = error.as_db_error().unwrap().message().to_owned();
        assert!(message.contains(words), "{message}");
    }
    world.end().await;
}

/// Everything that setup makes, with what changes if it is made again.
const OBJECTS: &str = "
    select string_agg(line, E'\n' order by line) from (
      select concat_ws(' ', 'class', c.oid::regclass, c.oid, c.xmin, c.relacl) from pg_class c
        where c.relnamespace in (select oid from pg_namespace where nspname in ('realtime', 'walcast', 'public'))
      union all select concat_ws(' ', 'function', p.oid::regprocedure, p.oid, p.xmin, p.proacl) from pg_proc p
        where p.pronamespace in (select oid from pg_namespace where nspname in ('realtime', 'walcast', 'public', 'auth'))
      union all select concat_ws(' ', 'policy', oid, xmin, polname) from pg_policy
      union all select concat_ws(' ', 'publication', oid, xmin, pubname) from pg_publication
      union all select concat_ws(' ', 'comment', objoid, xmin, description) from pg_description where objoid >= 16384
    ) as o (line)";

#[tokio::test]
async fn setup_changes_nothing_the_second_time_and_nothing_that_others_made() {
    let world = World::start().await;
    let before = world.text(OBJECTS).await;
    assert!(before.contains("realtime.messages "), "{before}");
    let said = output(&world.app.server, &["setup", "--messaging"]);
    assert!(!said.contains("created  "), "{said}");
    assert_eq!(world.text(OBJECTS).await, before);
    // One thing is made again; the others, and a function of the project's own, stay.
    world
        .app
        .sql(
            "drop function realtime.send_binary;
             drop publication supabase_realtime_messages_publication;
             create publication supabase_realtime_messages_publication for table public.notes;
             create or replace function realtime.topic() returns text language sql stable as 'select ''mine'''",
        )
        .await;
    let said = output(&world.app.server, &["setup", "--messaging"]);
    assert!(
        said.contains("created  function realtime.send_binary()"),
        "{said}"
    );
    assert_eq!(world.text("select realtime.topic()").await, "mine");
    let published = "select string_agg(tablename, ' ') from pg_publication_tables
                     where pubname = 'supabase_realtime_messages_publication'";
    assert_eq!(world.text(published).await, "notes");
    // What is printed does the same.
    let database = world.app.cluster().empty_database();
    let script = output(&world.app.server, &["setup", "--messaging", "--print"]);
    for _twice in 0..2 {
        world.app.cluster().psql(&database, &[&script]).unwrap();
    }
    world.app.cluster().drop_database(&database);
    world.end().await;
}

#[tokio::test]
async fn partitions_are_kept_ahead_and_dropped() {
    let world = World::start().await;
    // From here on nobody looks after them but the test.
    world.stop.cancel();
    world.tasks.close();
    world.tasks.wait().await;
    let admin = &world.app.admin;
    let names = "select string_agg(to_date(right(inhrelid::regclass::text, 10), 'YYYY_MM_DD') - (now() at time zone 'utc')::date,
                 ' ' order by inhrelid::regclass::text) from pg_inherits where inhparent = 'realtime.messages'::regclass"
        .replace("string_agg(to_date", "string_agg((to_date")
        .replace("::date,", "::date)::text,");
    assert_eq!(world.text(&names).await, "-1 0 1 2 3");
    // The server's login and policies see nothing of the partitions.
    let direct = "select count(*) from pg_class c, pg_roles r where c.relname like 'messages\\_2%' and c.relkind = 'r'
                  and (not c.relrowsecurity or r.rolname in ('anon', 'authenticated', 'service_role')
                       and has_table_privilege(r.oid, c.oid, 'select, insert, update, delete'))";
    assert_eq!(world.text(direct).await, "0");
    // Old ones: two of ours, and one of somebody else's.
    let age = |days: i32, comment: bool| {
        format!(
            "do $$ declare day date := (now() at time zone 'utc')::date - {days};
               name text := 'messages_' || to_char(day, 'YYYY_MM_DD'); begin
               execute format('create table realtime.%I partition of realtime.messages for values from (%L) to (%L)', name, day, day + 1);
               if {comment} then
                 execute format('comment on table realtime.%I is %L', name, (select obj_description(inhrelid, 'pg_class')
                   from pg_inherits where inhparent = 'realtime.messages'::regclass and inhrelid::regclass::text not like '%' || name limit 1));
               end if; end $$"
        )
    };
    for (days, ours) in [(3, true), (4, true), (9, true), (10, false)] {
        admin.run(&age(days, ours)).await;
    }
    admin
        .run("do $$ begin execute 'drop table realtime.messages_' || to_char((now() at time zone 'utc')::date + 1, 'YYYY_MM_DD'); end $$")
        .await;
    let keep = "select walcast.keep_message_partitions()";
    // Somebody who reads keeps it from dropping, but not for long, and not from making.
    let reader = world.app.session().await;
    reader
        .run("begin; select count(*) from realtime.messages")
        .await;
    let begun = Instant::now();
    let said = world.text(keep).await;
    assert!(said.contains("was not dropped"), "{said}");
    assert!(begun.elapsed() < Duration::from_secs(3));
    assert_eq!(world.text(&names).await, "-10 -9 -4 -3 -1 0 1 2 3");
    reader.run("commit").await;
    // Several at once.
    let sessions = [
        world.app.session().await,
        world.app.session().await,
        world.app.session().await,
    ];
    let [a, b, c] = &sessions;
    let said = tokio::join!(a.text(keep), b.text(keep), c.text(keep));
    assert_eq!(said, (None, None, None));
    assert_eq!(world.text(&names).await, "-10 -3 -1 0 1 2 3");
    // A database whose days begin elsewhere has the same partitions.
    admin.run("set timezone = 'Pacific/Kiritimati'").await;
    assert_eq!(world.text(keep).await, "");
    assert_eq!(world.text(&names).await, "-10 -3 -1 0 1 2 3");
    // A server does it when it starts.
    admin
        .run("do $$ begin execute 'drop table realtime.messages_' || to_char((now() at time zone 'utc')::date + 2, 'YYYY_MM_DD'); end $$")
        .await;
    let server = Questions::on(&world.app.cluster().url(&world.app.database));
    eventually("the partition", || async {
        (world.text(&names).await == "-10 -3 -1 0 1 2 3").then_some(())
    })
    .await;
    server.end().await;
    world.end().await;
}

#[tokio::test]
async fn a_missing_partition_is_said_and_made() {
    let world = World::start().await;
    assert_eq!(world.read(&user(ALICE), "open").await, Ok((true, true)));
    world
        .app
        .sql("do $$ begin execute 'drop table realtime.messages_' || to_char(now() at time zone 'utc', 'YYYY_MM_DD'); end $$")
        .await;
    let write = world.write(&user(ALICE), "open").await;
    assert_eq!(write, Err(AskError::MissingPartition));
    eventually("the partition", || async {
        world.read(&user(ALICE), "open").await.ok()
    })
    .await;
    assert_eq!(world.write(&user(ALICE), "open").await, Ok((true, true)));
    world.app.sql("drop table realtime.messages").await;
    let read = world.read(&user(ALICE), "open").await;
    assert_eq!(read, Err(AskError::NotInstalled));
    world.end().await;
}

#[tokio::test]
async fn policies_decide_who_reads_and_writes() {
    let world = World::start().await;
    // A row that is there is not what is asked about.
    world
        .app
        .sql("insert into realtime.messages (topic, extension, private) values ('raise', 'broadcast', true)")
        .await;
    for who in [user(ALICE), claims("anon", None)] {
        for (topic, expected) in [
            ("open", (true, true)),
            ("heard", (true, false)),
            ("seen", (false, true)),
            ("closed", (false, false)),
        ] {
            assert_eq!(world.read(&who, topic).await, Ok(expected), "{topic}");
            assert_eq!(world.write(&who, topic).await, Ok(expected), "{topic}");
        }
        for asked in [
            world.read(&who, "raise").await,
            world.write(&who, "raise").await,
        ] {
            assert_eq!(asked, Err(AskError::Policy("division by zero".into())));
        }
        for asked in [
            world.read(&who, "sleep").await,
            world.write(&who, "sleep").await,
        ] {
            assert_eq!(asked, Err(AskError::Cancelled));
        }
    }
    let service = claims("service_role", None);
    for topic in ["open", "closed", "raise", "sleep"] {
        assert_eq!(
            world.read(&service, topic).await,
            Ok((true, true)),
            "{topic}"
        );
        assert_eq!(
            world.write(&service, topic).await,
            Ok((true, true)),
            "{topic}"
        );
    }
    assert_eq!(world.read(&user(ALICE), "settings").await, Ok((true, true)));
    assert_eq!(
        world.write(&user(ALICE), "settings").await,
        Ok((true, true))
    );
    // Presence is only looked at if asked for.
    let only = Ask::Read { presence: false };
    assert_eq!(
        world.ask(&user(ALICE), "open", only).await,
        Ok(Answer::Read {
            broadcast: true,
            presence: false
        })
    );
    // Nothing of it stays.
    assert_eq!(
        world.text("select count(*) from realtime.messages").await,
        "1"
    );
    world.end().await;
}

#[tokio::test]
async fn a_login_without_rights_of_its_own_asks_for_those_that_it_may_become() {
    let world = World::start().await;
    let login = format!("{}_login", world.app.database);
    world
        .app
        .sql(&format!(
            "create role {login} login noinherit password 'p'; create role {login}_other; grant all on realtime.messages to {login}_other"
        ))
        .await;
    let said = output(&world.app.server, &["setup", "--login", &login]);
    assert!(said.contains("EXECUTE on walcast.probe_messages"), "{said}");
    let url = world.app.cluster().url_as(&login, "p", &world.app.database);
    let plain = Questions::on(&url);
    assert_eq!(plain.read(&user(ALICE), "open").await, Ok((true, true)));
    assert_eq!(plain.write(&user(ALICE), "heard").await, Ok((true, false)));
    let service = claims("service_role", None);
    assert_eq!(plain.read(&service, "closed").await, Ok((true, true)));
    let other = format!("{login}_other");
    for role in ["none", "nobody", "", "postgres", &other] {
        let who = claims(role, None);
        assert_eq!(plain.read(&who, "open").await, Ok((false, false)), "{role}");
        assert_eq!(
            plain.write(&who, "open").await,
            Ok((false, false)),
            "{role}"
        );
    }
    // The functions are enough: the login reads and writes nothing by itself.
    let id = plain.persist("stored", json("{}"), 60).await.unwrap();
    assert!(id.is_some());
    assert_eq!(plain.events("stored", 0, 25).await, ["said"]);
    let session = Session::connect(&url).await;
    let direct = session.batch_execute("select from realtime.messages").await;
    assert_eq!(direct.unwrap_err().code().unwrap().code(), "42501");
    // Nobody else may call them.
    world
        .app
        .sql("grant usage on schema walcast to authenticated")
        .await;
    for call in [
        "replay_messages('stored', 0, 1, null)",
        "store_message(gen_random_uuid(), 'stored', 'e', '{}', null, 1)",
        "probe_messages('stored', gen_random_uuid(), null)",
        "keep_message_partitions()",
    ] {
        let denied = session
            .batch_execute(&format!("set role authenticated; select walcast.{call}"))
            .await;
        assert_eq!(
            denied.unwrap_err().code().unwrap().code(),
            "42501",
            "{call}"
        );
    }
    drop(session);
    plain.end().await;
    world
        .app
        .sql(&format!(
            "drop owned by {login}, {login}_other; drop role {login}, {login}_other"
        ))
        .await;
    world.end().await;
}

#[tokio::test]
async fn replay_has_the_newest_in_the_order_of_their_insertion() {
    let world = World::start().await;
    let admin = &world.app.admin;
    admin
        .run(
            "insert into realtime.messages (topic, extension, event, payload, private, inserted_at) values
               ('t', 'broadcast', 'yesterday', '{\"n\": 0}', true, (now() at time zone 'utc') - interval '20 hours');
             begin;
             select realtime.send(jsonb_build_object('n', n, 'id', n), 'e' || n, 't') from generate_series(1, 30) as n;
             commit;
             select realtime.send_binary('\\x00ff', 'bytes', 't');
             select realtime.send('{}', 'public', 't', false);
             select realtime.send('{}', 'elsewhere', 'u');
             insert into realtime.messages (topic, extension, event, payload, private, skip_broadcast, expires_at, inserted_at) values
               ('t', 'broadcast', 'expired', '{}', true, true, (now() at time zone 'utc') - interval '1 second', default),
               ('t', 'broadcast', 'skipped', '{}', true, true, (now() at time zone 'utc') + interval '1 minute', default),
               ('t', 'broadcast', null, '{}', true, false, null, default),
               ('t', 'broadcast', 'empty', null, true, false, null, default),
               ('t', 'presence', 'presence', '{}', true, false, null, default),
               ('t', 'broadcast', 'tomorrow', '{}', true, false, null, (now() at time zone 'utc') + interval '1 day')",
        )
        .await;
    assert_eq!(
        world.events("t", 0, 5).await,
        ["e28", "e29", "e30", "bytes", "skipped"]
    );
    let all = world.replay("t", 0, 25).await;
    assert_eq!(all.len(), 25);
    assert_eq!(all[0].0, "e8");
    assert_eq!(all[0].1, json(r#"{"n": 8, "id": 8}"#));
    assert_eq!(all[23].1, StoredData::Binary(Bytes::from_static(&[0, 255])));
    let now = walcast::clock::unix_micros() / 1000;
    let (recent, day) = (now - 3_600_000, now - 24 * 3_600_000);
    admin
        .run("delete from realtime.messages where event like 'e%'")
        .await;
    assert_eq!(world.events("t", recent, 25).await, ["bytes", "skipped"]);
    assert_eq!(
        world.events("t", day, 25).await,
        ["yesterday", "bytes", "skipped"]
    );
    assert_eq!(world.events("t", i64::MIN, 25).await.len(), 3);
    for since in [now + 3_600_000, i64::MAX] {
        assert_eq!(world.events("t", since, 25).await.len(), 0);
    }
    world.end().await;
}

#[tokio::test]
async fn replay_has_the_order_of_the_commits_where_postgres_keeps_their_times() {
    let world = World::start_with("", Some(&["track_commit_timestamp=on"])).await;
    let (long, short) = (world.app.session().await, world.app.session().await);
    let send = |event: &str| format!("select realtime.send('{{}}', '{event}', 't')");
    long.run(&format!("begin; {}", send("long"))).await;
    short.run(&send("short")).await;
    long.run(&format!("{}; commit", send("longer"))).await;
    // Each savepoint has a transaction id of its own.
    long.run(&format!("begin; {}; savepoint s; {}", send("a"), send("b")))
        .await;
    short.run(&send("c")).await;
    long.run("commit").await;
    let all = ["short", "long", "longer", "c", "a", "b"];
    assert_eq!(world.events("t", 0, 25).await, all);
    assert_eq!(world.events("t", 0, 3).await, all[3..]);
    assert_eq!(world.events("t", 0, 1).await, all[5..]);
    world.end().await;
}

#[tokio::test]
async fn what_is_persisted_is_replayed_until_it_expires() {
    let world = World::start().await;
    for topic in ["open", "closed"] {
        assert_eq!(world.persist(topic, json("{}"), 60).await, Ok(None));
    }
    let raised = world.persist("raise", json("{}"), 60).await;
    assert_eq!(raised, Err(AskError::Policy("division by zero".into())));
    assert_eq!(
        world.text("select count(*) from realtime.messages").await,
        "0"
    );
    let long = world
        .persist("stored", json(r#"{"a":1}"#), 259_200)
        .await
        .unwrap()
        .unwrap();
    let short = StoredData::Binary(Bytes::from_static(b"\0"));
    world
        .persist("stored", short.clone(), 2)
        .await
        .unwrap()
        .unwrap();
    let replayed = world.replay("stored", 0, 25).await;
    assert_eq!(
        replayed,
        [
            ("said".to_owned(), json(r#"{"a": 1}"#)),
            ("said".to_owned(), short)
        ]
    );
    let row = format!(
        "select concat_ws(' ', extension, event, private, skip_broadcast, expires_at - inserted_at) from realtime.messages
         where id = '{long}'"
    );
    assert_eq!(world.text(&row).await, "broadcast said t t 3 days");
    eventually("the short one to expire", || async {
        (world.events("stored", 0, 25).await.len() == 1).then_some(())
    })
    .await;
    // JSON that Postgres cannot hold.
    let nul = world.persist("stored", json(r#"{"a":"\u0000"}"#), 60).await;
    assert!(matches!(nul, Err(AskError::Policy(_))), "{nul:?}");
    world.end().await;
}

#[tokio::test]
async fn who_sleeps_does_not_keep_others_waiting() {
    let world = World::start().await;
    let sleepers: Vec<_> = (0..40)
        .map(|_| world.put(&user(ALICE), "sleep", Ask::Read { presence: false }))
        .collect();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let begun = Instant::now();
    assert_eq!(world.read(&user(BOB), "open").await, Ok((true, true)));
    let took = begun.elapsed();
    assert!(took < Duration::from_millis(900), "{took:?}");
    // Once known, several of them leave half of the connections.
    let more: Vec<_> = [CAROL, "d0000000-0000-4000-8000-000000000004"]
        .iter()
        .map(|who| world.put(&user(who), "sleep", Ask::Read { presence: false }))
        .collect();
    for answer in more {
        assert_eq!(answer.await.unwrap(), Err(AskError::Cancelled));
    }
    let begun = Instant::now();
    assert_eq!(world.read(&user(BOB), "open").await, Ok((true, true)));
    let took = begun.elapsed();
    assert!(took < Duration::from_millis(900), "{took:?}");
    // Nobody waits for ever.
    for answer in sleepers {
        let answer = answer.await.unwrap();
        let known = [AskError::Cancelled, AskError::Overloaded];
        assert!(known.contains(&answer.clone().unwrap_err()), "{answer:?}");
    }
    assert!(begun.elapsed() < Duration::from_secs(10));
    // Too many at once are told so.
    let many: Vec<_> = (0..2000)
        .map(|_| world.put(&user(ALICE), "sleep", Ask::Read { presence: false }))
        .collect();
    let mut overloaded = 0;
    for mut answer in many {
        tokio::task::yield_now().await;
        if let Ok(Err(AskError::Overloaded)) = answer.try_recv() {
            overloaded += 1;
        }
    }
    assert!(overloaded > 900, "{overloaded}");
    world.end().await;
}

#[tokio::test]
async fn a_restart_of_postgres_is_survived() {
    let world = World::start_with("", Some(&[])).await;
    assert_eq!(world.read(&user(ALICE), "open").await, Ok((true, true)));
    for signal in [Signal::INT, Signal::QUIT] {
        world.app.cluster().stop(signal);
        let begun = Instant::now();
        let asked = world.read(&user(ALICE), "open").await;
        assert_eq!(asked, Err(AskError::Unreachable));
        let asked = world.write(&user(ALICE), "open").await;
        assert_eq!(asked, Err(AskError::Unreachable));
        assert!(begun.elapsed() < Duration::from_secs(2));
        world.app.cluster().resume();
        eventually("answers", || async {
            world.read(&user(ALICE), "open").await.ok()
        })
        .await;
    }
    // A session that is ended is replaced, and nobody notices.
    let database = &world.app.database;
    let end = format!(
        "select pg_terminate_backend(pid) from pg_stat_activity
         where application_name = 'walcast messages' and datname = '{database}'"
    );
    world.app.cluster().psql("postgres", &[&end]).unwrap();
    for _each in 0..10 {
        assert_eq!(world.read(&user(ALICE), "open").await, Ok((true, true)));
    }
    world.end().await;
}

/// What another server has made: fewer columns, an owner of its own, partitions that are looked after elsewhere.
const FOREIGN: &str = "
    create role realtime_owner nologin;
    create schema realtime;
    grant usage on schema realtime to anon, authenticated, service_role;
    create table realtime.messages (topic text not null, extension text not null, payload jsonb, event text,
      private boolean default false, updated_at timestamp not null default now(),
      inserted_at timestamp not null default now(), id uuid not null default gen_random_uuid(),
      primary key (id, inserted_at)) partition by range (inserted_at);
    alter table realtime.messages enable row level security;
    grant select, insert, update on realtime.messages to anon, authenticated, service_role;
    alter table realtime.messages owner to realtime_owner;
    create policy all_may on realtime.messages to authenticated using (true) with check (true);
    create function realtime.send(payload jsonb, event text, topic text, private boolean default true)
      returns void language sql as $$ insert into realtime.messages (payload, event, topic, private, extension)
        values (payload, event, topic, private, 'broadcast') $$;
";

#[tokio::test]
async fn a_table_of_others_is_used_and_left_alone() {
    let world = World::start_with("", Some(&[])).await;
    let cluster = world.app.cluster();
    let database = cluster.empty_database();
    cluster.psql(&database, &[FOREIGN]).unwrap();
    let url = cluster.url(&database);
    let looks = "select string_agg(concat_ws(' ', attname, atttypid::regtype, relowner::regrole), ',' order by attnum)
                 || (select prosrc from pg_proc where proname = 'send')
                 from pg_attribute, pg_class c where c.oid = attrelid and attrelid = 'realtime.messages'::regclass and attnum > 0";
    let before = cluster.psql(&database, &[looks]).unwrap();
    let server = Server::prepare(BINARY.as_ref(), &url, &[]);
    let said = output(&server, &["setup"]);
    assert!(said.contains("found    table realtime.messages"), "{said}");
    assert!(
        said.contains("created  function realtime.send_binary()"),
        "{said}"
    );
    assert_eq!(cluster.psql(&database, &[looks]).unwrap(), before);
    // The partitions belong to whoever owns the table.
    let owners =
        "select distinct relowner::regrole from pg_class where relname ~ '^messages_2.*[0-9]$'";
    assert_eq!(
        cluster.psql(&database, &[owners]).unwrap(),
        "realtime_owner"
    );
    let send = "select realtime.send(jsonb_build_object('n', n), 'e' || n, 't') from generate_series(1, 5) as n";
    cluster.psql(&database, &[send]).unwrap();
    let questions = Questions::on(&url);
    assert_eq!(questions.read(&user(ALICE), "t").await, Ok((true, true)));
    assert_eq!(questions.write(&user(ALICE), "t").await, Ok((true, true)));
    assert_eq!(
        questions.read(&claims("anon", None), "t").await,
        Ok((false, false))
    );
    assert_eq!(questions.events("t", 0, 3).await, ["e3", "e4", "e5"]);
    let stored = questions.persist("t", json("{}"), 60).await;
    assert_eq!(
        stored,
        Err(AskError::NotInstalled),
        "it has no skip_broadcast"
    );
    // Without the functions the owner asks by itself.
    cluster
        .psql(&database, &["drop schema walcast cascade"])
        .unwrap();
    assert_eq!(questions.read(&user(ALICE), "t").await, Ok((true, true)));
    let replayed = questions
        .ask(&user(ALICE), "t", Ask::Replay { since: 0, limit: 1 })
        .await;
    assert_eq!(replayed, Err(AskError::NotInstalled));
    questions.end().await;
    world.end().await;
}

#[tokio::test]
async fn check_says_what_is_missing() {
    let world = World::start().await;
    let check = || output(&world.app.server, &["check"]).replace("\n             ", " ");
    let said = check();
    assert!(said.contains("ok       table realtime.messages"), "{said}");
    assert!(!said.contains("no policies"), "{said}");
    for (sql, words) in [
        (
            "do $$ declare p text; begin for p in select policyname from pg_policies where schemaname = 'realtime' loop
               execute format('drop policy %I on realtime.messages', p); end loop; end $$",
            "private channels are closed to everybody but service_role",
        ),
        ("revoke insert on realtime.messages from anon", "grant usage on schema realtime to anon;"),
        ("drop function walcast.store_message", "nothing is replayed or stored"),
        ("drop function realtime.send_binary", "applications cannot broadcast"),
        (
            "alter publication supabase_realtime_messages_publication drop table realtime.messages",
            "add table realtime.messages;",
        ),
        (
            "drop publication supabase_realtime_messages_publication",
            "create publication supabase_realtime_messages_publication for table realtime.messages",
        ),
        ("alter table realtime.messages disable row level security", "everybody may use every private channel"),
        (
            "do $$ begin execute 'drop table realtime.messages_' || to_char(now() at time zone 'utc', 'YYYY_MM_DD'); end $$",
            "select walcast.keep_message_partitions();",
        ),
        ("drop table realtime.messages cascade", "table realtime.messages does not exist"),
    ] {
        world.app.sql(sql).await;
        let said = check();
        assert!(said.contains(words), "{words}: {said}");
    }
    world.end().await;
}

#[tokio::test]
async fn the_chat_has_its_channels() {
    let world = World::start().await;
    world
        .app
        .sql("drop policy reading on realtime.messages; drop policy writing on realtime.messages")
        .await;
    let talk = format!("conversation:{TALK}");
    for who in [user(ALICE), user(BOB)] {
        assert_eq!(world.read(&who, &talk).await, Ok((true, true)));
        assert_eq!(world.write(&who, &talk).await, Ok((true, true)));
    }
    let stored = world.persist(&talk, json("{}"), 60).await;
    assert_eq!(stored, Ok(None), "nobody asked for it");
    for who in [
        user(CAROL),
        claims("authenticated", None),
        claims("anon", None),
    ] {
        assert_eq!(world.read(&who, &talk).await, Ok((false, false)));
        assert_eq!(world.write(&who, &talk).await, Ok((false, false)));
    }
    let upper = format!("conversation:{}", TALK.to_uppercase());
    let longer = format!("{talk}0");
    for topic in [
        "conversation:",
        "conversation:1",
        "conversations",
        &upper,
        &longer,
    ] {
        assert_eq!(
            world.read(&user(ALICE), topic).await,
            Ok((false, false)),
            "{topic}"
        );
        assert_eq!(
            world.write(&user(ALICE), topic).await,
            Ok((false, false)),
            "{topic}"
        );
    }
    for (who, expected) in [
        (user(CAROL), (false, true)),
        (claims("anon", None), (false, false)),
    ] {
        assert_eq!(world.read(&who, "users:online").await, Ok(expected));
        assert_eq!(world.write(&who, "users:online").await, Ok(expected));
    }
    // Who was here when.
    world
        .app
        .sql(&format!(
            "insert into last_seen (user_id) values ('{ALICE}'), ('{BOB}'), ('{CAROL}')"
        ))
        .await;
    for (who, seen) in [(ALICE, 2), (BOB, 2), (CAROL, 1)] {
        let sql = format!(
            "begin; set local role authenticated;
             select set_config('request.jwt.claims', '{{\"sub\": \"{who}\"}}', true);
             create temporary table seen on commit drop as select count(*) as n from public.last_seen; reset role;
             do $$ begin assert (select n from seen) = {seen}; end $$; rollback"
        );
        world.app.sql(&sql).await;
    }
    world.end().await;
}
