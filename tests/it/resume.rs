//! `resume`: who comes back goes on where it was, or is told that it cannot.

use rustix::process::Signal;
use serde_json::{Value, json};
use walcast::testing::{
    App, AppOptions, Change, Cut, PUBLISHABLE_KEY, Proxy, Socket, Subscriber, eventually,
    join_payload, user,
};

use crate::world::{ALICE, BOB, CAROL, LONG_TRAIL, SCHEMA, TALK, all, contents, say};

const ID: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";
const TOPIC: &str = "realtime:room";

async fn start(environment: &[(&str, &str)]) -> App {
    let environment = [environment, &LONG_TRAIL].concat();
    let options = AppOptions {
        schema: SCHEMA,
        environment: &environment,
        private: None,
    };
    App::start_with(env!("CARGO_BIN_EXE_walcast"), &options).await
}

async fn connect(app: &App, more: &str) -> Socket {
    let path = format!("/realtime/v1/websocket?apikey={PUBLISHABLE_KEY}&vsn=2.0.0&{more}");
    Socket::upgrade(app.server.port(), &path, &[])
        .await
        .unwrap()
}

async fn come_as(app: &App, subject: &str, binding: &Value) -> Subscriber {
    let socket = connect(app, &format!("resume={ID}")).await;
    Subscriber::join_on(socket, TOPIC, Some(&user(subject)), binding).await
}

async fn come(app: &App) -> Subscriber {
    come_as(app, ALICE, &all("messages")).await
}

/// Heartbeats: the second says that what came before the answer to the first was handled.
async fn handle(subscriber: &mut Subscriber) {
    for _ in 0..2 {
        let reply = subscriber
            .socket
            .ask(None, "phoenix", "heartbeat", &json!({}))
            .await;
        assert_eq!(reply["status"], "ok");
    }
}

/// What it is told when it comes for the first time, and the server cannot know that it is the first, is told again until it
/// was acknowledged: of broadcasts too.
pub(crate) async fn handle_all(app: &App, subscriber: &mut Subscriber) {
    app.sql("select realtime.send('{}', 'mark', 'room', false)")
        .await;
    let socket = &mut subscriber.socket;
    let mark = socket.find(|frame| frame.event == "broadcast").await;
    assert_eq!(mark.payload["event"], "mark");
    handle(subscriber).await;
}

/// What the channel is told within `seconds`, for what must (not) come.
async fn resync(subscriber: &mut Subscriber) -> String {
    loop {
        let told = subscriber.system().await;
        if let Some(reason) = told["message"]
            .as_str()
            .unwrap()
            .strip_prefix("Resync required: ")
        {
            return reason.to_owned();
        }
    }
}

fn brief(changes: &[Change]) -> Vec<String> {
    let texts = contents(changes);
    changes
        .iter()
        .zip(texts)
        .map(|(change, text)| format!("{} {text}", change.kind()))
        .collect()
}

#[tokio::test]
async fn a_cut_connection_loses_nothing() {
    for verdicts in ["postgres", "compiled"] {
        let app = start(&[("WALCAST_VERDICTS", verdicts)]).await;
        let mut alice = come(&app).await;
        app.sql(&say(TALK, "handled")).await;
        alice.change().await;
        handle(&mut alice).await;
        app.sql(&say(TALK, "received")).await;
        alice.change().await;
        drop(alice);
        app.sql(&say(TALK, "missed")).await;
        app.sql("delete from messages where content = 'handled'")
            .await;
        let mut alice = come(&app).await;
        app.sql(&say(TALK, "live")).await;
        let got = app.settled(&mut alice).await;
        assert_eq!(
            brief(&got),
            [
                "INSERT received",
                "INSERT missed",
                "DELETE (none)",
                "INSERT live"
            ],
            "{verdicts}"
        );
    }
}

#[tokio::test]
async fn after_a_goodbye_what_was_received_does_not_come_again() {
    let app = start(&[]).await;
    let notes = all("notes");
    let mut alice = come_as(&app, ALICE, &notes).await;
    app.sql("insert into notes select n, 'x', n from generate_series(1, 1000) as n")
        .await;
    alice.changes(1000).await;
    // Its reply comes after the pongs were read.
    alice.socket.settle().await;
    alice.socket.settle().await;
    alice.socket.part().await;
    app.sql("insert into notes values (1001, 'missed', 0)")
        .await;
    let mut alice = come_as(&app, ALICE, &notes).await;
    let got = app.settled(&mut alice).await;
    assert!(got.len() < 300, "{} came again", got.len());
    assert_eq!(got.last().unwrap().record()["id"], 1001);
}

async fn a_restart_loses_nothing(signal: Signal) {
    let directory =
        std::env::temp_dir().join(format!("walcast-state-{}-{signal:?}", std::process::id()));
    let state = directory.to_str().unwrap();
    let mut app = start(&[("WALCAST_STATE_DIR", state)]).await;
    let mut alice = come(&app).await;
    app.sql(&say(TALK, "handled")).await;
    alice.change().await;
    let path = directory.join("sessions");
    let before = std::fs::metadata(&path).unwrap().len();
    handle(&mut alice).await;
    eventually("the position on disk", async || {
        (std::fs::metadata(&path).unwrap().len() > before).then_some(())
    })
    .await;
    app.sql(&say(TALK, "received")).await;
    alice.change().await;
    app.server.signal(signal);
    alice.socket.closed().await;
    drop(alice);
    app.server.exit().await;
    app.sql(&say(TALK, "missed")).await;
    app.server.spawn();
    app.server.ready().await;
    let mut alice = come(&app).await;
    app.sql(&say(TALK, "live")).await;
    let got = app.settled(&mut alice).await;
    assert_eq!(contents(&got), ["received", "missed", "live"], "{signal:?}");
    let mut stranger = come_as(&app, BOB, &all("notes")).await;
    assert_eq!(app.settled(&mut stranger).await, []);
    assert!(stranger.told.is_empty(), "{:?}", stranger.told);
    app.server.end();
    std::fs::remove_dir_all(directory).unwrap();
}

#[tokio::test]
async fn a_kill_loses_nothing() {
    a_restart_loses_nothing(Signal::KILL).await;
}

#[tokio::test]
async fn a_stop_loses_nothing() {
    a_restart_loses_nothing(Signal::TERM).await;
}

#[tokio::test]
async fn without_memory_of_it_a_client_is_told_to_start_over() {
    let mut app = start(&[]).await;
    let mut alice = come(&app).await;
    handle(&mut alice).await;
    app.server.kill().await;
    app.server.spawn();
    app.server.ready().await;
    let mut alice = come(&app).await;
    assert_eq!(resync(&mut alice).await, "position no longer retained");
    app.sql(&say(TALK, "live")).await;
    assert_eq!(contents(&app.settled(&mut alice).await), ["live"]);
}

#[tokio::test]
async fn another_subject_takes_nothing() {
    let app = start(&[]).await;
    let mut alice = come(&app).await;
    handle(&mut alice).await;
    drop(alice);
    app.sql(&say(TALK, "missed")).await;
    let mut bob = come_as(&app, BOB, &all("messages")).await;
    assert_eq!(resync(&mut bob).await, "identity changed");
    app.sql(&say(TALK, "live")).await;
    assert_eq!(contents(&app.settled(&mut bob).await), ["live"]);
    drop(bob);
    let mut alice = come(&app).await;
    assert_eq!(contents(&app.settled(&mut alice).await), ["missed", "live"]);
}

#[tokio::test]
async fn a_token_that_follows_the_join_restores_the_session() {
    let app = start(&[]).await;
    let mut alice = come(&app).await;
    handle(&mut alice).await;
    drop(alice);
    app.sql(&say(TALK, "missed")).await;
    let socket = connect(&app, &format!("resume={ID}")).await;
    let mut alice = Subscriber::join_on(socket, TOPIC, None, &all("messages")).await;
    alice.set_token(&user(ALICE)).await;
    assert_eq!(contents(&app.settled(&mut alice).await), ["missed"]);
}

#[tokio::test]
async fn who_was_removed_meanwhile_gets_nothing_and_who_was_added_nothing_of_before() {
    for verdicts in ["postgres", "compiled"] {
        let app = start(&[("WALCAST_VERDICTS", verdicts)]).await;
        let mut bob = come_as(&app, BOB, &all("messages")).await;
        handle(&mut bob).await;
        drop(bob);
        let mut carol = come_as(&app, CAROL, &all("messages")).await;
        handle(&mut carol).await;
        drop(carol);
        app.sql(&say(TALK, "gone before carol came")).await;
        app.sql(&say(TALK, "still there")).await;
        app.sql("delete from messages where content like 'gone%'")
            .await;
        app.sql(&format!(
            "update conversations set participant_ids = array['{ALICE}', '{CAROL}']::uuid[] where id = '{TALK}'"
        ))
        .await;
        let mut bob = come_as(&app, BOB, &all("messages")).await;
        let got = app.settled(&mut bob).await;
        assert!(
            got.iter().all(|change| change.kind() == "DELETE"),
            "{verdicts}: {got:#?}"
        );
        let mut carol = come_as(&app, CAROL, &all("messages")).await;
        let got = app.settled(&mut carol).await;
        assert!(
            !contents(&got).contains(&"gone before carol came"),
            "{verdicts}"
        );
    }
}

#[tokio::test]
async fn a_second_tab_has_a_position_of_its_own() {
    let app = start(&[]).await;
    let mut first = come(&app).await;
    app.sql(&say(TALK, "before")).await;
    first.change().await;
    // Reads, and so answers, while the second one comes.
    let reading = tokio::spawn(async move {
        let change = first.change().await;
        (first, change)
    });
    let mut second = come(&app).await;
    app.sql(&say(TALK, "after")).await;
    let (mut first, change) = reading.await.unwrap();
    assert_eq!(contents(&[change]), ["after"]);
    assert_eq!(contents(&app.settled(&mut second).await), ["after"]);
    app.sql(&say(TALK, "both")).await;
    assert_eq!(contents(&app.settled(&mut first).await), ["both"]);
}

#[tokio::test]
async fn a_socket_that_no_longer_answers_is_replaced() {
    let app = start(&[]).await;
    let mut silent = come(&app).await;
    handle(&mut silent).await;
    app.sql(&say(TALK, "missed")).await;
    // It is not read any more, as if its network were gone.
    let mut alice = come(&app).await;
    assert_eq!(contents(&app.settled(&mut alice).await), ["missed"]);
    assert_eq!(silent.socket.closed().await, Some(1001));
}

#[tokio::test]
async fn a_large_transaction_gets_through_to_a_client_that_comes_and_goes() {
    const ROWS: i64 = 20_000;
    let app = start(&[]).await;
    let notes = all("notes");
    let mut alice = come_as(&app, ALICE, &notes).await;
    handle_all(&app, &mut alice).await;
    app.sql(&format!(
        "insert into notes select n, repeat('x', 100), n from generate_series(1, {ROWS}) as n"
    ))
    .await;
    let mut next = 1;
    let mut rounds = 0;
    while next <= ROWS {
        rounds += 1;
        assert!(rounds < 40, "no progress at {next}");
        // Reads a piece of it, and is gone.
        for _ in 0..2_000 {
            let change = alice.change().await;
            let id = change.record()["id"].as_i64().unwrap();
            assert!(id <= next, "{next} was left out before {id}");
            next = next.max(id + 1);
            if id == ROWS {
                assert!(change.last);
                break;
            }
        }
        alice.socket.part().await;
        alice = come_as(&app, ALICE, &notes).await;
    }
}

#[tokio::test]
async fn an_id_that_can_be_guessed_is_none() {
    let app = start(&[]).await;
    let socket = connect(&app, "resume=short").await;
    let mut alice = Subscriber::join_on(socket, TOPIC, Some(&user(ALICE)), &all("messages")).await;
    let told = alice.system().await;
    assert_eq!(told["status"], "error");
    assert!(
        told["message"]
            .as_str()
            .unwrap()
            .contains("resume is ignored")
    );
    app.sql(&say(TALK, "live")).await;
    assert_eq!(contents(&app.settled(&mut alice).await), ["live"]);
    assert!(!app.server.log().contains(ID));
}

#[tokio::test]
async fn what_is_no_longer_retained_is_said_to_be() {
    let app = start(&[("WALCAST_HISTORY_BYTES_MAX", "32KiB")]).await;
    let mut alice = come(&app).await;
    handle(&mut alice).await;
    drop(alice);
    let mut bob = app.subscribe(&user(BOB), all("notes")).await;
    app.sql(&say(TALK, "missed")).await;
    for _ in 0..3 {
        app.sql("insert into notes select n + coalesce((select max(id) from notes), 0), repeat('x', 500), n from generate_series(1, 100) as n")
            .await;
    }
    // By then it has gone by.
    bob.changes(300).await;
    let mut alice = come(&app).await;
    assert_eq!(resync(&mut alice).await, "position no longer retained");
    app.sql(&say(TALK, "live")).await;
    assert_eq!(contents(&app.settled(&mut alice).await), ["live"]);
}

/// Its heartbeats come now and then, and its connection is lost without a word.
#[tokio::test]
async fn a_slow_client_gets_through_a_huge_transaction_however_often_it_is_cut() {
    const ROWS: i64 = 100_000;
    const AT_ONCE: i64 = 15_000;
    const HEARTBEAT_AFTER: i64 = 2_500;
    let app = start(&[]).await;
    let mut alice = come_as(&app, ALICE, &all("notes")).await;
    handle_all(&app, &mut alice).await;
    drop(alice);
    app.sql(&format!(
        "insert into notes select n, repeat('x', 100), n from generate_series(1, {ROWS}) as n"
    ))
    .await;
    let proxy = Proxy::start(app.server.port()).await;
    let path = format!("/realtime/v1/websocket?apikey={PUBLISHABLE_KEY}&vsn=2.0.0&resume={ID}");
    let payload = join_payload(&all("notes"), Some(&user(ALICE)));
    let (mut next, mut rounds, mut received) = (1, 0, 0);
    while next <= ROWS {
        rounds += 1;
        let mut socket = Socket::upgrade(proxy.port(), &path, &[]).await.unwrap();
        socket
            .send(Some("1"), "1", TOPIC, "phx_join", &payload)
            .await;
        let (before, mut beat_at, mut count) = (next, 0, 0);
        while count < AT_ONCE && next <= ROWS {
            let frame = socket.frame().await;
            if frame.reference == "beat" {
                beat_at = count + HEARTBEAT_AFTER;
            } else if frame.event == "postgres_changes" {
                let id = frame.payload["data"]["record"]["id"].as_i64().unwrap();
                assert!(id <= next, "{next} was left out before {id}");
                next = next.max(id + 1);
                count += 1;
                assert_eq!(frame.payload["last"] == true, id == ROWS);
            } else if frame.event == "system" {
                assert_eq!(frame.payload["message"], "Subscribed to PostgreSQL");
            }
            if count > beat_at {
                beat_at = i64::MAX;
                let nothing = json!({});
                socket
                    .send(None, "beat", "phoenix", "heartbeat", &nothing)
                    .await;
            }
        }
        received += count;
        assert!(next > before, "round {rounds} brings nothing new");
        proxy.cut(Cut::Reset);
    }
    // What a connection could not acknowledge any more comes again: at most all of it but one heartbeat's worth.
    assert!(received < 4 * ROWS, "{received} changes in {rounds} rounds");
}
