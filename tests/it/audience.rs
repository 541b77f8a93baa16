//! A change costs its audience: who is outside of it is not looked at, and who must be reached in any case is.

use walcast::database::Database;
use walcast::pipeline::stand::Stand;
use walcast::testing::{App, AppOptions};

const ALICE: &str = "a0000000-0000-4000-8000-000000000001";
const BOB: &str = "b0000000-0000-4000-8000-000000000002";
const CAROL: &str = "c0000000-0000-4000-8000-000000000003";
const PUBLIC_TALK: &str = "00000000-0000-4000-8000-00000000000a";

const SCHEMA: &str = "
    insert into public.conversations (id, type, participant_ids) values
      ('00000000-0000-4000-8000-00000000000a', 'group',
       '{a0000000-0000-4000-8000-000000000001,b0000000-0000-4000-8000-000000000002}');
    create table public.notes (id int primary key, owner uuid, body text, shared boolean);
    alter table public.notes enable row level security;
    create policy \"own or shared\" on public.notes using (shared or owner = auth.uid());
    grant select on public.notes to anon, authenticated;
    create table public.rooms (id int primary key, room int, body text);
    alter table public.rooms enable row level security;
    create policy \"open\" on public.rooms using (room > 0);
    grant select on public.rooms to anon, authenticated;
    alter publication supabase_realtime add table public.notes, public.rooms;
";

async fn app() -> App {
    let options = AppOptions {
        schema: SCHEMA,
        environment: &[],
        private: None,
    };
    App::prepare(env!("CARGO_BIN_EXE_walcast"), &options).await
}

async fn stand(app: &App) -> Stand {
    let database = Database::parse(&app.cluster().url(app.slot())).unwrap();
    Stand::open(&database, true).await
}

fn person(id: &str) -> String {
    format!(r#"{{"sub":"{id}","role":"authenticated"}}"#)
}

fn on(table: &str) -> String {
    format!(r#"{{"event":"*","schema":"public","table":"{table}"}}"#)
}

async fn join(stand: &mut Stand, socket: u64, id: &str, binding: &str) {
    stand
        .subscribe(socket, "authenticated", &person(id), binding, false)
        .await;
    assert_eq!(stand.read(socket).1, ["Subscribed"]);
}

fn message<'a>(id: &'a str, talk: &'a str) -> Vec<Option<&'a str>> {
    let time = Some("2026-01-01 00:00:00+00");
    let user = Some("user");
    let text = Some("text");
    vec![
        Some(id),
        Some(talk),
        Some(ALICE),
        user,
        Some("hello"),
        text,
        Some("f"),
        time,
    ]
}

fn bystander(number: u64) -> String {
    format!("d0000000-0000-4000-8000-{number:012}")
}

#[tokio::test]
async fn bystanders_are_not_visited_and_recipients_get_the_change() {
    let app = app().await;
    let mut stand = stand(&app).await;
    join(&mut stand, 1, ALICE, &on("messages")).await;
    join(&mut stand, 2, BOB, &on("messages")).await;
    for number in 0..50 {
        join(&mut stand, 10 + number, &bystander(number), &on("messages")).await;
    }
    let before = stand.counted();
    assert_eq!(before.lanes, 52);
    stand.insert(
        "messages",
        &[message(ALICE, PUBLIC_TALK), message(BOB, CAROL)],
    );
    stand.settle().await;
    let after = stand.counted();
    assert_eq!(
        [stand.read(1).0, stand.read(2).0, stand.read(10).0],
        [1, 1, 0]
    );
    assert_eq!(after.delivered - before.delivered, 2);
    assert_eq!(after.compiled.allowed - before.compiled.allowed, 2);
    assert_eq!(after.compiled.denied, before.compiled.denied);
    assert_eq!(after.audience.denied - before.audience.denied, 50 + 52);
    assert_eq!(after.asked, before.asked);
    // Who takes part later is found as soon as the table says so; who leaves is not found any more.
    stand.unsubscribe(2).await;
    stand.update(
        "conversations",
        &[
            Some(PUBLIC_TALK),
            Some("group"),
            Some(&format!("{{{ALICE},{}}}", bystander(3))),
            None,
            None,
            None,
        ],
    );
    stand.insert("messages", &[message(CAROL, PUBLIC_TALK)]);
    stand.settle().await;
    assert_eq!(
        [stand.read(1).0, stand.read(13).0, stand.read(14).0],
        [1, 1, 0]
    );
}

#[tokio::test]
async fn who_must_be_reached_in_any_case_is() {
    let app = app().await;
    let mut stand = stand(&app).await;
    join(&mut stand, 1, ALICE, &on("notes")).await;
    join(&mut stand, 2, BOB, &on("notes")).await;
    // Claims of which the policy makes an error.
    stand
        .subscribe(
            3,
            "authenticated",
            r#"{"sub":"nobody"}"#,
            &on("notes"),
            false,
        )
        .await;
    // Only Postgres can tell whether this filter matches.
    let uncertain = r#"{"event":"*","schema":"public","table":"notes","filter":"body=match.^h"}"#;
    join(&mut stand, 4, CAROL, uncertain).await;
    // A token may follow: what is hidden meanwhile is kept.
    stand.subscribe(5, "anon", "{}", &on("notes"), true).await;
    for socket in [3, 5] {
        assert_eq!(stand.read(socket).1, ["Subscribed"]);
    }
    let before = stand.counted();
    let note = |id, owner| vec![Some(id), Some(owner), Some("hello"), Some("f")];
    app.sql(&format!(
        "insert into public.notes values (1, '{ALICE}', 'hello', false)"
    ))
    .await;
    stand.insert("notes", &[note("1", ALICE)]);
    stand.settle().await;
    let after = stand.counted();
    assert_eq!([stand.read(1).0, stand.read(2).0], [1, 0]);
    assert_eq!(
        after.audience.denied - before.audience.denied,
        1,
        "Bob alone"
    );
    assert_eq!(
        stand.read(3),
        (0, vec![r#"PolicyTrouble("22P02")"#.to_owned()])
    );
    let asked = after.asked.denied - before.asked.denied;
    assert_eq!(asked, 1, "Carol's filter, and with it the row");
    stand.identify(5, "authenticated", &person(ALICE)).await;
    assert_eq!(stand.read(5).0, 1, "what was kept for the token");
    assert_eq!(stand.read(4), (0, Vec::new()));
    // What everybody may see, and what policies do not hide.
    stand.insert("notes", &[vec![Some("2"), Some(BOB), Some("x"), Some("t")]]);
    stand.delete("notes", "1");
    stand.settle().await;
    assert_eq!(
        [stand.read(1).0, stand.read(2).0, stand.read(5).0],
        [2, 2, 2]
    );
}

#[tokio::test]
async fn in_a_crowd_of_one_identity_filters_find_who_listens() {
    let app = app().await;
    let mut stand = stand(&app).await;
    let filtered = |filter: &str, event: &str| {
        format!(r#"{{"event":"{event}","schema":"public","table":"rooms","filter":"{filter}"}}"#)
    };
    for room in 1..=60 {
        let binding = filtered(&format!("room=eq.{room}"), "*");
        stand.subscribe(room, "anon", "{}", &binding, false).await;
    }
    let others = [
        filtered("room=in.(7,8)", "*"),
        filtered("room=gt.50", "*"),
        filtered("room=eq.7", "DELETE"),
        on("rooms"),
    ];
    for (socket, binding) in (101..).zip(&others) {
        stand.subscribe(socket, "anon", "{}", binding, false).await;
    }
    let row = |id: &'static str, room: &'static str| vec![Some(id), Some(room), None];
    stand.insert(
        "rooms",
        &[row("1", "7"), row("2", "55"), vec![Some("3"), None, None]],
    );
    stand.update("rooms", &row("1", "8"));
    stand.delete("rooms", "1");
    stand.settle().await;
    let heard = |stand: &mut Stand, socket| stand.read(socket).0;
    assert_eq!(heard(&mut stand, 7), 1);
    assert_eq!(heard(&mut stand, 8), 1);
    assert_eq!(heard(&mut stand, 9), 0);
    assert_eq!(heard(&mut stand, 55), 1);
    assert_eq!(heard(&mut stand, 101), 2);
    assert_eq!(heard(&mut stand, 102), 1);
    assert_eq!(heard(&mut stand, 103), 0, "a DELETE shows its key only");
    assert_eq!(
        heard(&mut stand, 104),
        4,
        "all that has a room, and the DELETE"
    );
    for room in 1..=60 {
        stand.unsubscribe(room).await;
    }
    stand.insert("rooms", &[row("4", "7")]);
    stand.settle().await;
    assert_eq!([heard(&mut stand, 101), heard(&mut stand, 104)], [1, 1]);
}
