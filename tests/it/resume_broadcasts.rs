//! `resume` for what the database broadcasts: who comes back hears what it missed, if it may, and then live, or is told that
//! something is missing.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use walcast::testing::{
    App, Channel, Frame, PUBLISHABLE_KEY, Received, Socket, Subscriber, Version, eventually, user,
};

use crate::world::{
    ALICE, BOB, TALK, all, join, say, start_with, start_with_environment, subscribe,
};

const ID: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";

/// Members of a room read it, and Alice stores; everybody with a session speaks.
const POLICIES: &str = "
    create table members (person uuid, room text, primary key (person, room));
    insert into members values ('a0000000-0000-4000-8000-000000000001', 'club'), ('b0000000-0000-4000-8000-000000000002', 'club');
    grant select on members to authenticated;
    create policy receive on realtime.messages for select to authenticated using (
      exists (select from members where person = auth.uid() and room = realtime.topic()));
    create policy send on realtime.messages for insert to authenticated with check (true);
";

async fn start() -> App {
    let app = start_with(POLICIES).await;
    flows(&app).await;
    app
}

async fn flows(app: &App) {
    eventually("broadcasts to flow", || async {
        is_flowing(app).await.then_some(())
    })
    .await;
}

async fn is_flowing(app: &App) -> bool {
    let metrics = app.server.get("/metrics").await.unwrap().body;
    metrics.contains("\nwalcast_broadcasts_ready 1\n")
}

async fn connect(app: &App, version: Version) -> Socket {
    let number = match version {
        Version::V1 => "1.0.0",
        Version::V2 => "2.0.0",
    };
    let path = format!("/realtime/v1/websocket?apikey={PUBLISHABLE_KEY}&vsn={number}&resume={ID}");
    Socket::upgrade(app.server.port(), &path, &[])
        .await
        .unwrap()
}

async fn try_come(
    app: &App,
    version: Version,
    room: &str,
    config: &Value,
    subject: &str,
) -> Result<Channel, String> {
    let socket = connect(app, version).await;
    Channel::join_on(socket, version, room, config, Some(&user(subject))).await
}

async fn come(app: &App, version: Version, room: &str, private: bool, subject: &str) -> Channel {
    let config = json!({"private": private});
    let come = try_come(app, version, room, &config, subject).await;
    come.unwrap()
}

fn send(room: &str, private: bool, text: &str) -> String {
    format!("select realtime.send('{{\"text\": \"{text}\"}}', 'said', '{room}', {private});")
}

/// What is heard up to a broadcast that is said now, which is left out.
async fn settled(app: &App, channel: &mut Channel, private: bool) -> Vec<String> {
    let room = channel.topic.strip_prefix("realtime:").unwrap().to_owned();
    let mark = format!("mark {}", app.fence().await);
    app.sql(&send(&room, private, &mark)).await;
    let mut texts = Vec::new();
    loop {
        let (_event, payload) = channel.heard_briefly().await;
        let text = payload["text"].as_str().unwrap();
        if text == mark {
            return texts;
        }
        if !text.starts_with("mark ") {
            texts.push(text.to_owned());
        }
    }
}

/// Heartbeats until what came is known to have been handled: the second says so of what came before the first, and quiet
/// channels are told how far they are in between.
async fn handle(socket: &mut Socket) {
    for _ in 0..20 {
        let reply = socket.ask(None, "phoenix", "heartbeat", &json!({})).await;
        assert_eq!(reply["status"], "ok");
    }
}

async fn resync(channel: &mut Channel) -> String {
    loop {
        let told = channel.next("system").await.payload;
        let message = told["message"].as_str().unwrap();
        if let Some(reason) = message.strip_prefix("Resync required: ") {
            return reason.to_owned();
        }
    }
}

/// Nothing was said about missing something.
fn assert_untold(frames: &[Frame]) {
    let told = frames.iter().any(|frame| frame.event == "system");
    assert!(!told, "{frames:#?}");
}

#[tokio::test]
async fn a_cut_connection_misses_nothing_that_the_database_says() {
    let app = start().await;
    for version in [Version::V1, Version::V2] {
        for private in [false, true] {
            let mut alice = come(&app, version, "club", private, ALICE).await;
            app.sql(&send("club", private, "handled")).await;
            alice.heard().await;
            handle(&mut alice.socket).await;
            app.sql(&send("club", private, "received")).await;
            alice.heard().await;
            drop(alice);
            app.sql(&send("club", private, "missed 1")).await;
            app.sql(&send("club", !private, "of the other class")).await;
            app.sql(&send("pub", private, "elsewhere")).await;
            app.sql(&format!(
                "begin; {} {} commit",
                send("club", private, "missed 2"),
                send("club", private, "missed 3")
            ))
            .await;
            let mut alice = come(&app, version, "club", private, ALICE).await;
            app.sql(&send("club", private, "live")).await;
            assert_eq!(
                settled(&app, &mut alice, private).await,
                ["received", "missed 1", "missed 2", "missed 3", "live"],
                "{version:?} {private}"
            );
            let frames = alice.socket.settle().await;
            assert_untold(&frames);
            alice.leave().await;
        }
    }
}

#[tokio::test]
async fn commits_come_in_their_order_under_writes_and_once() {
    const WRITERS: usize = 4;
    const EACH: usize = 100;
    let app = start().await;
    // Its socket has no resume ID.
    let mut witness = join(&app, Version::V2, "club").await;
    let witness = tokio::spawn(async move {
        let mut order = Vec::new();
        for _ in 0..WRITERS * EACH {
            let (_event, payload) = witness.heard_briefly().await;
            order.push(payload["text"].as_str().unwrap().to_owned());
        }
        order
    });
    let mut alice = come(&app, Version::V2, "club", false, ALICE).await;
    handle(&mut alice.socket).await;
    let mut writers = Vec::new();
    for writer in 0..WRITERS {
        let session = app.session().await;
        writers.push(tokio::spawn(async move {
            for n in 0..EACH {
                let text = format!("{writer}.{n}");
                session.run(&send("club", false, &text)).await;
            }
        }));
    }
    // What she hears at each visit, which overlap with what was not acknowledged before.
    let mut heard: Vec<String> = Vec::new();
    for _visit in 0..8 {
        for _ in 0..20 {
            let pause = Duration::from_millis(200);
            match tokio::time::timeout(pause, alice.socket.listen()).await {
                Ok(Received::Frame(frame)) if frame.event == "broadcast" => {
                    let text = frame.payload["payload"]["text"].as_str().unwrap();
                    heard.push(text.to_owned());
                }
                Ok(Received::Frame(_)) => {}
                Ok(Received::Closed(..)) => panic!("closed"),
                Err(_elapsed) => break,
            }
        }
        alice.socket.part().await;
        heard.push("-".to_owned());
        alice = come(&app, Version::V2, "club", false, ALICE).await;
    }
    for writer in writers {
        writer.await.unwrap();
    }
    heard.extend(settled(&app, &mut alice, false).await);
    let order = witness.await.unwrap();
    let place = |text: &String| order.iter().position(|said| said == text).unwrap();
    let mut reached = 0;
    for visit in heard.split(|text| text == "-") {
        let places: Vec<usize> = visit.iter().map(place).collect();
        assert!(
            places.windows(2).all(|pair| pair[1] == pair[0] + 1),
            "{places:?}"
        );
        if let (Some(first), Some(last)) = (places.first(), places.last()) {
            assert!(*first <= reached, "{reached} was left out before {first}");
            reached = reached.max(last + 1);
        }
    }
    assert_eq!(reached, order.len());
}

#[tokio::test]
async fn changes_and_broadcasts_of_a_channel_both_go_on() {
    let app = start().await;
    let socket = connect(&app, Version::V2).await;
    let topic = "realtime:club";
    let mut alice = Subscriber::join_on(socket, topic, Some(&user(ALICE)), &all("messages")).await;
    handle(&mut alice.socket).await;
    drop(alice);
    for n in 0..3 {
        app.sql(&say(TALK, &format!("change {n}"))).await;
        app.sql(&send("club", false, &format!("broadcast {n}")))
            .await;
    }
    let socket = connect(&app, Version::V2).await;
    let mut alice = Subscriber::join_on(socket, topic, Some(&user(ALICE)), &all("messages")).await;
    for n in 0..3 {
        let text = format!("broadcast {n}");
        let frame = alice.socket.find(|frame| frame.event == "broadcast").await;
        assert_eq!(frame.payload["payload"]["text"], json!(text));
    }
    for n in 0..3 {
        let change = alice.change().await;
        assert_eq!(change.record()["content"], json!(format!("change {n}")));
    }
    assert!(alice.told.is_empty(), "{:?}", alice.told);
}

#[tokio::test]
async fn who_was_removed_hears_nothing_and_who_came_back_in_nothing_of_between() {
    for verdicts in ["postgres", "compiled"] {
        let app = start_with_environment(POLICIES, &[("WALCAST_VERDICTS", verdicts)]).await;
        flows(&app).await;
        let mut bob = come(&app, Version::V2, "club", true, BOB).await;
        app.sql(&send("club", true, "handled")).await;
        bob.heard().await;
        handle(&mut bob.socket).await;
        drop(bob);
        app.sql(&send("club", true, "before")).await;
        app.sql(&format!("delete from members where person = '{BOB}'"))
            .await;
        app.sql(&send("club", true, "after")).await;
        let config = json!({"private": true});
        let refused = try_come(&app, Version::V2, "club", &config, BOB).await;
        let reason = refused.map(|_channel| ()).unwrap_err();
        assert!(reason.starts_with("Unauthorized"), "{reason}");
        app.sql(&format!("insert into members values ('{BOB}', 'club')"))
            .await;
        let mut bob = come(&app, Version::V2, "club", true, BOB).await;
        app.sql(&send("club", true, "live")).await;
        assert_eq!(settled(&app, &mut bob, true).await, ["live"], "{verdicts}");
    }
}

#[tokio::test]
async fn a_removal_while_it_catches_up_ends_it() {
    const ROWS: usize = 20_000;
    let app = start().await;
    app.sql("alter publication supabase_realtime add table members")
        .await;
    let mut bob = come(&app, Version::V2, "club", true, BOB).await;
    handle(&mut bob.socket).await;
    drop(bob);
    app.sql(&format!(
        "select realtime.send(jsonb_build_object('text', repeat('x', 500)), 'said', 'club', true) from generate_series(1, {ROWS})"
    ))
    .await;
    let mut bob = come(&app, Version::V2, "club", true, BOB).await;
    bob.heard().await;
    app.sql(&format!("delete from members where person = '{BOB}'"))
        .await;
    app.sql(&send("club", true, "after the removal")).await;
    let mut heard = 1;
    loop {
        let Received::Frame(frame) = bob.socket.receive().await else {
            panic!("closed");
        };
        match frame.event.as_str() {
            "broadcast" => {
                assert_ne!(frame.payload["payload"]["text"], json!("after the removal"));
                heard += 1;
            }
            "phx_close" => break,
            _ => {}
        }
    }
    assert!(heard <= ROWS, "{heard}");
}

#[tokio::test]
async fn another_subject_takes_nothing() {
    let app = start().await;
    let mut alice = come(&app, Version::V2, "club", true, ALICE).await;
    handle(&mut alice.socket).await;
    drop(alice);
    app.sql(&send("club", true, "missed")).await;
    let mut bob = come(&app, Version::V2, "club", true, BOB).await;
    assert_eq!(resync(&mut bob).await, "identity changed");
    assert_eq!(settled(&app, &mut bob, true).await, [""; 0]);
    drop(bob);
    let mut alice = come(&app, Version::V2, "club", true, ALICE).await;
    assert_eq!(settled(&app, &mut alice, true).await, ["missed"]);
}

#[tokio::test]
async fn a_socket_that_no_longer_answers_is_replaced() {
    let app = start().await;
    let mut silent = come(&app, Version::V2, "club", false, ALICE).await;
    handle(&mut silent.socket).await;
    app.sql(&send("club", false, "missed")).await;
    // It is not read any more, as if its network were gone.
    let mut alice = come(&app, Version::V2, "club", false, ALICE).await;
    assert_eq!(settled(&app, &mut alice, false).await, ["missed"]);
    assert_eq!(silent.socket.closed().await, Some(1001));
}

async fn a_restart_misses_nothing(signal: Signal) {
    let state = tempfile::tempdir().unwrap();
    let environment = [("WALCAST_STATE_DIR", state.path().to_str().unwrap())];
    let mut app = start_with_environment(POLICIES, &environment).await;
    flows(&app).await;
    let mut alice = come(&app, Version::V2, "club", true, ALICE).await;
    app.sql(&send("club", true, "handled")).await;
    alice.heard().await;
    handle(&mut alice.socket).await;
    // Written down within this.
    alice.socket.settle().await;
    app.sql(&send("club", true, "received")).await;
    alice.heard().await;
    app.server.signal(signal);
    alice.socket.closed().await;
    drop(alice);
    app.server.exit().await;
    app.sql(&send("club", true, "missed")).await;
    app.server.spawn();
    app.server.ready().await;
    let mut alice = come(&app, Version::V2, "club", true, ALICE).await;
    app.sql(&send("club", true, "live")).await;
    assert_eq!(
        settled(&app, &mut alice, true).await,
        ["received", "missed", "live"],
        "{signal:?}"
    );
    app.server.end();
}

#[tokio::test]
async fn a_kill_misses_nothing() {
    a_restart_misses_nothing(Signal::KILL).await;
}

#[tokio::test]
async fn a_stop_misses_nothing() {
    a_restart_misses_nothing(Signal::TERM).await;
}

#[tokio::test]
async fn what_is_no_longer_retained_is_said_to_be() {
    let environment = [("WALCAST_HISTORY_BYTES_MAX", "32KiB")];
    let app = start_with_environment(POLICIES, &environment).await;
    flows(&app).await;
    let mut alice = come(&app, Version::V2, "club", false, ALICE).await;
    handle(&mut alice.socket).await;
    drop(alice);
    let mut bob = subscribe(&app, BOB, "notes").await;
    app.sql(&send("club", false, "missed")).await;
    for n in 0..3 {
        app.sql(&format!(
            "insert into notes select n + {n} * 1000, repeat('x', 500), n from generate_series(1, 100) as n"
        ))
        .await;
    }
    // The stream has brought them.
    bob.changes(300).await;
    let mut alice = come(&app, Version::V2, "club", false, ALICE).await;
    assert_eq!(resync(&mut alice).await, "position no longer retained");
    app.sql(&send("club", false, "live")).await;
    assert_eq!(settled(&app, &mut alice, false).await, ["live"]);
}

#[tokio::test]
async fn a_gap_in_what_the_stream_carries_is_said_to_be_one() {
    let app = start().await;
    let mut alice = come(&app, Version::V2, "club", false, ALICE).await;
    handle(&mut alice.socket).await;
    drop(alice);
    let publication = app
        .admin
        .text("select 'create publication supabase_realtime_messages_publication for table realtime.messages with (publish = ''insert'')'")
        .await
        .unwrap();
    app.sql("drop publication supabase_realtime_messages_publication")
        .await;
    app.sql(&send("club", false, "never comes")).await;
    app.sql(&publication).await;
    eventually("the loss", || async {
        (!is_flowing(&app).await).then_some(())
    })
    .await;
    flows(&app).await;
    let mut alice = come(&app, Version::V2, "club", false, ALICE).await;
    assert_eq!(resync(&mut alice).await, "position no longer retained");
    app.sql(&send("club", false, "live")).await;
    assert_eq!(settled(&app, &mut alice, false).await, ["live"]);
}

#[tokio::test]
async fn what_clients_have_stored_is_heard_as_well_and_a_replay_is_not_needed() {
    let app = start().await;
    let config = json!({"private": true, "broadcast": {"replay": {"since": 0, "limit": 2}}});
    let first = try_come(&app, Version::V2, "club", &config, ALICE).await;
    let mut alice = first.unwrap();
    handle(&mut alice.socket).await;
    drop(alice);
    app.sql(
        "insert into realtime.messages (topic, extension, event, private, payload, skip_broadcast, expires_at) values
           ('club', 'broadcast', 'said', true, '{\"text\": \"stored\"}', true, null),
           ('club', 'broadcast', 'said', true, '{\"text\": \"expired\"}', true, now() at time zone 'utc' - interval '1 minute'),
           ('club', 'broadcast', 'said', true, '{\"text\": \"for an hour\"}', true, now() at time zone 'utc' + interval '1 hour'),
           ('club', 'presence', 'said', true, '{\"text\": \"nothing that is said\"}', true, null)",
    )
    .await;
    for n in 0..3 {
        app.sql(&send("club", true, &format!("missed {n}"))).await;
    }
    let again = try_come(&app, Version::V2, "club", &config, ALICE).await;
    let mut alice = again.unwrap();
    assert_eq!(
        settled(&app, &mut alice, true).await,
        ["stored", "for an hour", "missed 0", "missed 1", "missed 2"]
    );
    alice.leave().await;
    // Who is new has it replayed.
    let anew = try_come(&app, Version::V2, "club", &config, ALICE).await;
    let mut alice = anew.unwrap();
    app.sql(&send("club", true, "live")).await;
    let heard = settled(&app, &mut alice, true).await;
    assert_eq!(heard.last().unwrap(), "live");
    assert!(heard.len() <= 3, "{heard:?}");
}
