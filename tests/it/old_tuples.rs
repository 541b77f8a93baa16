//! Rows before a change: who could see what is gone, and who is told that a row has left.

use serde_json::{Value, json};
use walcast::testing::{App, AppOptions, Change, Subscriber, user};

use crate::compiled::{COMPILED, shadowed};
use crate::world::{ALICE, BOB, CAROL, DIARY, SCHEMA, TALK, all, brief, filtered};

/// Messages with the whole old row in the stream, and tables of other kinds.
const TABLES: &str = "
    alter table messages replica identity full;
    create table cards (id int primary key, owner uuid, list text, secret text);
    grant select on cards to authenticated;
    alter table cards enable row level security;
    create policy p on cards using (owner = (select auth.uid()));
    alter table cards replica identity full;
    create table keyed (id int primary key, owner uuid, list text);
    grant select on keyed to authenticated;
    alter table keyed enable row level security;
    create policy p on keyed using (owner = (select auth.uid()));
    create table seats (room text, person uuid, primary key (room, person));
    grant select on seats to authenticated;
    alter table seats enable row level security;
    create policy p on seats using (person = (select auth.uid()));
    create table open (id int primary key, list text);
    grant select on open to authenticated;
    alter table open replica identity full;
    alter publication supabase_realtime add table cards, keyed, seats, open;
";

async fn start(environment: &[(&str, &str)]) -> App {
    let schema = format!("{SCHEMA}{TABLES}");
    let options = AppOptions {
        schema: &schema,
        environment,
        private: Some(&["fsync=off"]),
    };
    App::start_with(env!("CARGO_BIN_EXE_walcast"), &options).await
}

async fn join(app: &App, person: &str, bindings: Value) -> Subscriber {
    app.subscribe(&user(person), bindings).await
}

fn left(table: &str, filter: Option<&str>) -> Value {
    let mut binding = all(table);
    binding["left"] = true.into();
    if let Some(filter) = filter {
        binding["filter"] = filter.into();
    }
    binding
}

/// `INSERT 1`, `UPDATE 1`, `DELETE 1`, and `LEFT 1` for a DELETE of a row that is still there.
fn told(changes: &[Change]) -> Vec<String> {
    let told = |(change, brief): (&Change, String)| {
        if change.data["left"] == true {
            brief.replace("DELETE", "LEFT")
        } else {
            assert!(change.data.get("left").is_none(), "{}", change.data);
            brief
        }
    };
    changes.iter().zip(brief(changes)).map(told).collect()
}

fn message(id: u32, conversation: &str, content: &str) -> String {
    format!(
        "insert into messages (id, conversation_id, sender_id, sender_type, content)
         values ('{}', '{conversation}', '{ALICE}', 'user', '{content}');",
        message_id(id)
    )
}

fn message_id(id: u32) -> String {
    format!("d0000000-0000-4000-8000-{id:012}")
}

#[tokio::test]
async fn who_saw_a_row_is_told_what_it_was_and_others_not_that_it_went() {
    let app = start(COMPILED).await;
    let mut alice = join(&app, ALICE, all("messages")).await;
    let mut bob = join(&app, BOB, filtered("messages", "content=eq.two")).await;
    let mut carol = join(&app, CAROL, all("messages")).await;
    shadowed(&app, 1.0).await;
    for (id, content) in [(1, "one"), (2, "two")] {
        app.sql(&message(id, TALK, content)).await;
    }
    app.sql(&message(3, DIARY, "three")).await;
    app.sql("delete from messages").await;
    let fence = app.fence().await;
    let changes = alice.until(fence).await;
    let kinds: Vec<&str> = changes.iter().map(Change::kind).collect();
    assert_eq!(kinds, ["INSERT", "INSERT", "DELETE", "DELETE"]);
    let contents: Vec<&Value> = changes[2..]
        .iter()
        .map(|change| &change.old_record()["content"])
        .collect();
    assert_eq!(contents, ["one", "two"]);
    assert_eq!(changes[2].old_record()["conversation_id"], TALK);
    // A filter on any column counts for what somebody saw.
    let changes = bob.until(fence).await;
    assert_eq!(
        told(&changes),
        [
            format!("INSERT \"{}\"", message_id(2)),
            format!("DELETE \"{}\"", message_id(2))
        ]
    );
    assert_eq!(changes[1].old_record()["content"], "two");
    assert_eq!(
        told(&carol.until(fence).await),
        [
            format!("INSERT \"{}\"", message_id(3)),
            format!("DELETE \"{}\"", message_id(3))
        ]
    );
}

#[tokio::test]
async fn old_rows_are_judged_as_of_before_their_transaction() {
    let app = start(COMPILED).await;
    let mut alice = join(&app, ALICE, all("messages")).await;
    let mut bob = join(&app, BOB, all("messages")).await;
    let mut carol = join(&app, CAROL, all("messages")).await;
    shadowed(&app, 1.0).await;
    app.sql(&message(1, TALK, "one")).await;
    app.sql(&message(2, TALK, "two")).await;
    // Bob goes and Carol comes in the transaction itself: he saw what is deleted, and she did not.
    let swap = format!(
        "update conversations set participant_ids = '{{{ALICE},{CAROL}}}' where id = '{TALK}';"
    );
    let first = message_id(1);
    app.sql(&format!(
        "begin; {swap} delete from messages where id = '{first}'; commit"
    ))
    .await;
    // The next one finds it so.
    let second = message_id(2);
    app.sql(&format!(
        "update messages set content = 'changed' where id = '{second}'"
    ))
    .await;
    app.sql(&format!("delete from messages where id = '{second}'"))
        .await;
    let fence = app.fence().await;
    let changes = alice.until(fence).await;
    let old: Vec<&Value> = changes[2..]
        .iter()
        .map(|change| &change.old_record()["content"])
        .collect();
    assert_eq!(old, ["one", "two", "changed"]);
    let changes = bob.until(fence).await;
    let kinds: Vec<&str> = changes.iter().map(Change::kind).collect();
    assert_eq!(kinds, ["INSERT", "INSERT", "DELETE"]);
    assert_eq!(changes[2].old_record()["content"], "one");
    let changes = carol.until(fence).await;
    let kinds: Vec<&str> = changes.iter().map(Change::kind).collect();
    assert_eq!(kinds, ["UPDATE", "DELETE"]);
    assert_eq!(changes[0].old_record()["content"], "two");
    assert_eq!(changes[1].old_record()["content"], "changed");
}

#[tokio::test]
async fn who_could_not_see_the_old_row_gets_its_key_with_the_new_one() {
    let app = start(COMPILED).await;
    let mut alice = join(&app, ALICE, all("cards")).await;
    let mut bob = join(&app, BOB, all("cards")).await;
    app.sql(&format!(
        "insert into cards values (1, '{ALICE}', 'todo', 'hers')"
    ))
    .await;
    app.sql(&format!(
        "update cards set owner = '{BOB}', secret = 'his' where id = 1"
    ))
    .await;
    app.sql("update cards set list = 'done' where id = 1").await;
    // One transaction is one change: from what was before it to what is after it.
    app.sql(
        "begin; update cards set secret = 'x'; update cards set secret = 'y', id = 2; delete from cards; commit",
    )
    .await;
    let fence = app.fence().await;
    assert_eq!(told(&alice.until(fence).await), ["INSERT 1"]);
    let changes = bob.until(fence).await;
    assert_eq!(told(&changes), ["UPDATE 1", "UPDATE 1", "DELETE 1"]);
    assert_eq!(changes[0].old_record(), &json!({"id": 1}));
    assert_eq!(changes[1].old_record()["list"], "todo");
    assert_eq!(
        changes[2].old_record(),
        &json!({"id": 1, "owner": BOB, "list": "done", "secret": "his"})
    );
}

#[tokio::test]
async fn withholding_deletes_concerns_only_those_that_nobody_judged() {
    let environment = &[COMPILED[0], ("WALCAST_DELETES", "withhold")];
    let app = start(environment).await;
    let mut alice = join(&app, ALICE, json!([all("cards"), all("keyed")])).await;
    app.sql(&format!(
        "insert into cards values (1, '{ALICE}'), (2, '{BOB}'); insert into keyed values (1, '{ALICE}')"
    ))
    .await;
    app.sql("delete from keyed; delete from cards").await;
    let changes = app.settled(&mut alice).await;
    let tables: Vec<(&str, &Value)> = changes
        .iter()
        .map(|change| (change.kind(), &change.data["table"]))
        .collect();
    assert_eq!(
        tables,
        [
            ("INSERT", &json!("cards")),
            ("INSERT", &json!("keyed")),
            ("DELETE", &json!("cards"))
        ]
    );
}

#[tokio::test]
async fn columns_and_keys_that_may_not_be_known_stay_unknown() {
    let app = start(COMPILED).await;
    let select = json!({"event": "*", "schema": "public", "table": "cards", "select": ["list"]});
    let mut alice = join(&app, ALICE, select).await;
    let mut bob = join(&app, BOB, json!([all("keyed"), all("seats")])).await;
    app.sql(&format!(
        "insert into cards values (1, '{ALICE}', 'todo', 'hers');
         insert into keyed values (7, '{ALICE}');
         insert into seats values ('a', '{ALICE}'), ('a', '{BOB}')"
    ))
    .await;
    app.sql("delete from cards; delete from keyed; delete from seats")
        .await;
    let fence = app.fence().await;
    let changes = alice.until(fence).await;
    assert_eq!(
        changes[1].old_record(),
        &json!({"id": 1, "list": "todo"}),
        "only what was selected"
    );
    // With the key alone nobody can tell whose row it was, unless the policy reads nothing else.
    let changes = bob.until(fence).await;
    let told: Vec<(&str, Value)> = changes
        .iter()
        .map(|change| (change.kind(), change.old_record().clone()))
        .collect();
    assert_eq!(
        told,
        [
            ("INSERT", Value::Null),
            ("DELETE", json!({"id": 7})),
            ("DELETE", json!({"room": "a", "person": BOB}))
        ]
    );
}

#[tokio::test]
async fn rows_that_leave_are_told_to_those_who_saw_them_and_ask() {
    let app = start(COMPILED).await;
    let mut alice = join(&app, ALICE, left("cards", None)).await;
    let mut unasked = join(&app, ALICE, all("cards")).await;
    let mut bob = join(&app, BOB, left("cards", None)).await;
    let mut todo = join(&app, ALICE, left("cards", Some("list=eq.todo"))).await;
    let both = json!([left("cards", Some("list=eq.todo")), left("cards", None)]);
    let mut twice = join(&app, ALICE, both).await;
    app.sql(&format!(
        "insert into cards values (1, '{ALICE}', 'todo', 'hers'), (2, '{ALICE}', 'todo', 'hers'),
           (3, '{ALICE}', 'done', 'hers'), (4, '{CAROL}', 'todo', 'theirs')"
    ))
    .await;
    app.sql("update cards set list = 'done' where id = 1").await;
    app.sql(&format!("update cards set owner = '{BOB}' where id = 2"))
        .await;
    app.sql(&format!(
        "update cards set owner = '{BOB}', id = 33 where id = 3"
    ))
    .await;
    // Neither of them ever sees Carol's.
    app.sql("update cards set list = 'done' where id = 4").await;
    let fence = app.fence().await;
    let inserts = ["INSERT 1", "INSERT 2", "INSERT 3"];
    let changes = alice.until(fence).await;
    assert_eq!(told(&changes[..3]), inserts);
    assert_eq!(told(&changes[3..]), ["UPDATE 1", "LEFT 2", "LEFT 3"]);
    assert_eq!(changes[4].old_record(), &json!({"id": 2}));
    assert!(changes[4].data.get("record").is_none());
    assert_eq!(changes[5].old_record(), &json!({"id": 3}));
    let changes = unasked.until(fence).await;
    assert_eq!(told(&changes[3..]), ["UPDATE 1"]);
    assert_eq!(told(&bob.until(fence).await), ["UPDATE 2", "UPDATE 33"]);
    let changes = todo.until(fence).await;
    assert_eq!(told(&changes), ["INSERT 1", "INSERT 2", "LEFT 1", "LEFT 2"]);
    let ids = twice.ids.clone();
    let changes = twice.until(fence).await;
    let last: Vec<(String, Vec<i64>)> = told(&changes)
        .into_iter()
        .zip(changes.iter().map(|change| change.ids.clone()))
        .collect();
    assert_eq!(
        last[3..],
        [
            ("UPDATE 1".to_owned(), vec![ids[1]]),
            ("LEFT 1".to_owned(), vec![ids[0]]),
            ("LEFT 2".to_owned(), ids.clone()),
            ("LEFT 3".to_owned(), vec![ids[1]]),
        ]
    );
}

#[tokio::test]
async fn what_leaves_the_sight_through_a_membership_is_told_as_well() {
    let app = start(COMPILED).await;
    let mut alice = join(&app, ALICE, left("messages", None)).await;
    let mut carol = join(&app, CAROL, left("messages", None)).await;
    shadowed(&app, 1.0).await;
    app.sql(&message(1, TALK, "one")).await;
    // From Alice's conversation into Carol's.
    app.sql(&format!("update messages set conversation_id = '{DIARY}'"))
        .await;
    // In one transaction with the membership: she sees it neither before nor after.
    app.sql(&format!(
        "begin;
         update conversations set participant_ids = '{{{BOB}}}' where id = '{DIARY}';
         update messages set content = 'gone';
         commit"
    ))
    .await;
    let fence = app.fence().await;
    let id = message_id(1);
    assert_eq!(
        told(&alice.until(fence).await),
        [format!("INSERT \"{id}\""), format!("LEFT \"{id}\"")]
    );
    assert_eq!(
        told(&carol.until(fence).await),
        [format!("UPDATE \"{id}\""), format!("LEFT \"{id}\"")]
    );
}

#[tokio::test]
async fn without_row_security_and_without_compiled_policies_filters_alone_can_be_left() {
    let app = start(&[("WALCAST_VERDICTS", "postgres")]).await;
    let filter = Some("list=eq.todo");
    let bindings = json!([left("open", filter), left("cards", filter)]);
    let mut alice = join(&app, ALICE, bindings).await;
    app.sql(&format!(
        "insert into open values (1, 'todo'), (2, 'done');
         insert into cards values (3, '{ALICE}', 'todo', 'hers')"
    ))
    .await;
    app.settled(&mut alice).await;
    app.sql("update open set list = 'other'").await;
    // Nobody can say whether she saw it.
    app.sql("update cards set list = 'other'").await;
    app.sql("delete from cards").await;
    let changes = app.settled(&mut alice).await;
    assert_eq!(told(&changes), ["LEFT 1"]);
}
