//! Promise 1: a row is shown to those who would see it with SELECT, and to nobody else.

use serde_json::json;
use walcast::testing::{App, AppOptions, Subscriber, anon, mint, service, user};

use crate::world::{
    ALICE, BOB, CAROL, DIARY, SCHEMA, TALK, all, brief, contents, say, start, start_with,
    start_with_environment, subscribe,
};

#[tokio::test]
async fn messages_reach_the_participants_and_nobody_else() {
    let app = start().await;
    let mut alice = subscribe(&app, ALICE, "messages").await;
    let mut bob = subscribe(&app, BOB, "messages").await;
    let mut carol = subscribe(&app, CAROL, "messages").await;
    let mut nobody = app.subscribe(&anon(), all("messages")).await;
    let mut backend = app.subscribe(&service(), all("messages")).await;

    app.sql(&say(TALK, "hello")).await;
    app.sql(&say(DIARY, "dear diary")).await;
    let inserted = app.fence().await;
    // Only now, since a version that is superseded before it was judged is merged into its successor.
    let mut before = Vec::new();
    for subscriber in [&mut alice, &mut bob, &mut backend] {
        before.push(subscriber.until(inserted).await);
    }
    app.sql("update messages set is_read = true where content = 'hello'")
        .await;
    let fence = app.fence().await;

    for participant in [&mut alice, &mut bob] {
        let mut changes = before.remove(0);
        changes.append(&mut participant.until(fence).await);
        assert_eq!(contents(&changes), ["hello", "hello"]);
        assert_eq!(changes[0].kind(), "INSERT");
        assert_eq!(changes[1].kind(), "UPDATE");
        assert_eq!(changes[1].record()["is_read"], true);
        assert_eq!(
            changes[1].old_record(),
            &json!({"id": changes[0].record()["id"]})
        );
    }
    assert_eq!(contents(&carol.until(fence).await), ["dear diary"]);
    assert_eq!(contents(&nobody.until(fence).await), [""; 0]);
    let mut changes = before.remove(0);
    changes.append(&mut backend.until(fence).await);
    assert_eq!(contents(&changes), ["hello", "dear diary", "hello"]);
}

#[tokio::test]
async fn deletes_that_postgres_cannot_judge_carry_the_key_alone_to_everybody() {
    let app = start_with_environment(
        "alter table messages replica identity full;",
        &[("WALCAST_VERDICTS", "postgres")],
    )
    .await;
    app.sql(&say(TALK, "hello")).await;
    let id = app.admin.text("select id from messages").await.unwrap();
    let mut alice = subscribe(&app, ALICE, "messages").await;
    let mut carol = subscribe(&app, CAROL, "messages").await;
    app.sql("delete from messages").await;
    for subscriber in [&mut alice, &mut carol] {
        let changes = app.settled(subscriber).await;
        assert_eq!(changes.len(), 1);
        assert_eq!(changes[0].kind(), "DELETE");
        assert_eq!(changes[0].old_record(), &json!({"id": id}));
        assert!(changes[0].data.get("record").is_none());
    }
}

#[tokio::test]
async fn old_records_that_postgres_cannot_judge_carry_the_key_alone() {
    let app = start_with_environment(
        "alter table messages replica identity full;",
        &[("WALCAST_VERDICTS", "postgres")],
    )
    .await;
    app.sql(&say(TALK, "before")).await;
    let id = app.admin.text("select id from messages").await.unwrap();
    let mut alice = subscribe(&app, ALICE, "messages").await;
    app.sql("update messages set content = 'after'").await;
    let change = alice.change().await;
    assert_eq!(change.old_record(), &json!({"id": id}));
    assert_eq!(change.record()["content"], "after");
}

#[tokio::test]
async fn withheld_deletes_reach_nobody_under_row_security() {
    let options = AppOptions {
        schema: &format!(
            "{SCHEMA} insert into notes values (1, 'one', 1); {}",
            say(TALK, "hello")
        ),
        environment: &[("WALCAST_DELETES", "withhold")],
        private: None,
    };
    let app = App::start_with(env!("CARGO_BIN_EXE_walcast"), &options).await;
    let mut alice = app
        .subscribe(&user(ALICE), json!([all("messages"), all("notes")]))
        .await;
    app.sql("delete from messages; delete from notes").await;
    let changes = app.settled(&mut alice).await;
    assert_eq!(
        brief(&changes),
        ["DELETE 1"],
        "the table without row security is not concerned"
    );
}

#[tokio::test]
async fn a_membership_of_the_same_transaction_counts() {
    let app = start().await;
    let mut alice = subscribe(&app, ALICE, "messages").await;
    let mut carol = subscribe(&app, CAROL, "messages").await;
    // The message comes first in the stream; the membership later in the same transaction.
    app.sql(&format!(
        "begin; {} update conversations set participant_ids = '{{{CAROL}}}' where id = '{TALK}'; commit",
        say(TALK, "for carol")
    ))
    .await;
    let fence = app.fence().await;
    assert_eq!(contents(&carol.until(fence).await), ["for carol"]);
    assert_eq!(contents(&alice.until(fence).await), [""; 0]);
}

#[tokio::test]
async fn who_was_removed_gets_nothing_from_that_commit_on() {
    let app = start().await;
    let mut bob = subscribe(&app, BOB, "messages").await;
    app.sql(&say(TALK, "with bob")).await;
    assert_eq!(contents(&[bob.change().await]), ["with bob"]);
    app.sql(&format!(
        "update conversations set participant_ids = '{{{ALICE}}}' where id = '{TALK}'"
    ))
    .await;
    app.sql(&say(TALK, "without bob")).await;
    assert_eq!(contents(&app.settled(&mut bob).await), [""; 0]);
}

#[tokio::test]
async fn columns_that_a_role_may_not_read_are_not_sent() {
    let app = start_with(
        "create table staff (id int primary key, name text, salary int);
         alter table staff replica identity full;
         grant select (id, name) on staff to authenticated;
         alter publication supabase_realtime add table staff;",
    )
    .await;
    let mut alice = subscribe(&app, ALICE, "staff").await;
    app.sql("insert into staff values (1, 'ann', 100)").await;
    let inserted = alice.change().await;
    assert_eq!(inserted.record(), &json!({"id": 1, "name": "ann"}));
    let columns = json!([{"name": "id", "type": "int4"}, {"name": "name", "type": "text"}]);
    assert_eq!(inserted.data["columns"], columns);
    app.sql("update staff set salary = 200").await;
    assert_eq!(
        alice.change().await.old_record(),
        &json!({"id": 1, "name": "ann"})
    );
    app.sql("delete from staff").await;
    assert_eq!(
        alice.change().await.old_record(),
        &json!({"id": 1, "name": "ann"})
    );
}

#[tokio::test]
async fn a_role_that_may_not_read_the_key_gets_error_401() {
    let app = start_with(
        "create table staff (id int primary key, name text);
         grant select (name) on staff to authenticated;
         alter publication supabase_realtime add table staff;",
    )
    .await;
    let mut alice = subscribe(&app, ALICE, "staff").await;
    app.sql("insert into staff values (1, 'ann')").await;
    let change = alice.change().await;
    assert_eq!(change.data["errors"], json!(["Error 401: Unauthorized"]));
    assert_eq!(change.record(), &json!({}));
    assert_eq!(change.data["columns"], json!([]));
    assert_eq!(change.data["commit_timestamp"], json!(null));
    assert_eq!(change.kind(), "INSERT");
    assert_eq!(change.data["table"], "staff");
}

#[tokio::test]
async fn a_role_without_any_grant_gets_no_row() {
    let app = start_with(
        "create table staff (id int primary key, name text);
         grant select on staff to service_role;
         alter publication supabase_realtime add table staff;",
    )
    .await;
    let mut backend = app.subscribe(&service(), all("staff")).await;
    let mut alice = subscribe(&app, ALICE, "staff").await;
    app.sql("insert into staff values (1, 'ann')").await;
    let fence = app.fence().await;
    assert_eq!(brief(&backend.until(fence).await), ["INSERT 1"]);
    for change in alice.until(fence).await {
        assert_eq!(change.data["errors"], json!(["Error 401: Unauthorized"]));
        assert_eq!(change.record(), &json!({}));
    }
}

#[tokio::test]
async fn policies_combine_as_in_postgres() {
    let app = start_with(
        "create table docs (id int primary key, owner uuid, open boolean, banned boolean default false);
         alter table docs enable row level security;
         create policy \"owners\" on docs for select using (owner = auth.uid());
         create policy \"open ones\" on docs for all to authenticated using (open);
         create policy \"not banned\" on docs as restrictive for select using (not banned);
         create policy \"writers\" on docs for insert with check (true);
         grant select on docs to anon, authenticated;
         alter publication supabase_realtime add table docs;",
    )
    .await;
    let mut alice = subscribe(&app, ALICE, "docs").await;
    let mut nobody = app.subscribe(&anon(), all("docs")).await;
    app.sql(&format!(
        "insert into docs values
           (1, '{ALICE}', false, false), (2, '{BOB}', false, false), (3, '{BOB}', true, false), (4, null, null, false),
           (5, '{ALICE}', true, true), (6, '{ALICE}', true, null)"
    ))
    .await;
    let fence = app.fence().await;
    assert_eq!(brief(&alice.until(fence).await), ["INSERT 1", "INSERT 3"]);
    assert_eq!(brief(&nobody.until(fence).await), [""; 0]);
}

#[tokio::test]
async fn policies_read_any_claim() {
    let app = start_with(
        "create table tenants (id int primary key, org text);
         alter table tenants enable row level security;
         create policy \"members\" on tenants for select
           using (org = auth.jwt() -> 'app_metadata' ->> 'org' or (auth.jwt() ->> 'admin')::boolean);
         grant select on tenants to authenticated;
         alter publication supabase_realtime add table tenants;",
    )
    .await;
    let exp = 4_000_000_000_u64;
    let member =
        mint(&json!({"role": "authenticated", "exp": exp, "app_metadata": {"org": "acme"}}));
    let admin = mint(&json!({"role": "authenticated", "exp": exp, "admin": true}));
    let mut member = app.subscribe(&member, all("tenants")).await;
    let mut admin = app.subscribe(&admin, all("tenants")).await;
    let mut alice = subscribe(&app, ALICE, "tenants").await;
    app.sql("insert into tenants values (1, 'acme'), (2, 'other')")
        .await;
    let fence = app.fence().await;
    assert_eq!(brief(&member.until(fence).await), ["INSERT 1"]);
    assert_eq!(brief(&admin.until(fence).await), ["INSERT 1", "INSERT 2"]);
    assert_eq!(brief(&alice.until(fence).await), [""; 0]);
}

/// Waits for a row that everybody may read, so that what follows is committed after it was judged.
async fn pass(app: &App, subscriber: &mut Subscriber, row: i32) {
    app.sql(&format!("insert into notes values ({row}, 'seen')"))
        .await;
    assert_eq!(
        brief(&[subscriber.change().await]),
        [format!("INSERT {row}")]
    );
}

#[tokio::test]
async fn row_security_enabled_while_running_hides_from_that_commit_on() {
    let app = start().await;
    let mut alice = subscribe(&app, ALICE, "notes").await;
    pass(&app, &mut alice, 1).await;
    app.sql("alter table notes enable row level security").await;
    app.sql("insert into notes values (2, 'hidden')").await;
    assert_eq!(brief(&app.settled(&mut alice).await), [""; 0]);
    app.sql("create policy \"all\" on notes for select using (true)")
        .await;
    pass(&app, &mut alice, 3).await;
    app.sql("alter policy \"all\" on notes using (id > 4)")
        .await;
    app.sql("insert into notes values (4, 'hidden')").await;
    pass(&app, &mut alice, 5).await;
    app.sql("drop policy \"all\" on notes").await;
    app.sql("insert into notes values (6, 'hidden')").await;
    assert_eq!(brief(&app.settled(&mut alice).await), [""; 0]);
    app.sql("alter table notes disable row level security")
        .await;
    pass(&app, &mut alice, 7).await;
}

#[tokio::test]
async fn grants_revoked_while_running_hide_from_that_commit_on() {
    let app = start().await;
    let mut alice = subscribe(&app, ALICE, "notes").await;
    pass(&app, &mut alice, 1).await;
    app.sql("revoke select on notes from authenticated; grant select (id, rank) on notes to authenticated")
        .await;
    app.sql("insert into notes values (2, 'secret', 7)").await;
    assert_eq!(alice.change().await.record(), &json!({"id": 2, "rank": 7}));
    app.sql("revoke select (id, rank) on notes from authenticated")
        .await;
    app.sql("insert into notes values (3, 'secret')").await;
    for change in app.settled(&mut alice).await {
        assert_eq!(
            change.record(),
            &json!({}),
            "at most the error without content"
        );
    }
    app.sql("grant select on notes to authenticated").await;
    app.sql("insert into notes values (4, 'open')").await;
    assert_eq!(alice.change().await.record()["body"], "open");
}

#[tokio::test]
async fn roles_changed_while_running_count() {
    // No event trigger fires for roles: only the fingerprint of the catalog tells. Roles belong to the whole cluster, so
    // this one has a cluster of its own.
    let options = AppOptions {
        schema: &format!(
            "{SCHEMA} create role readers nologin; create role visitor nologin; grant readers to visitor;
             grant usage on schema public to visitor; grant select on notes to visitor;
             alter table notes enable row level security;
             create policy \"readers\" on notes for select to readers using (true);"
        ),
        environment: &[],
        private: Some(&[]),
    };
    let app = App::start_with(env!("CARGO_BIN_EXE_walcast"), &options).await;
    let visitor = mint(&json!({"role": "visitor", "exp": 4_000_000_000_u64}));
    let mut visitor = app.subscribe(&visitor, all("notes")).await;
    pass(&app, &mut visitor, 1).await;
    app.sql("revoke readers from visitor").await;
    app.sql("insert into notes values (2, 'hidden')").await;
    assert_eq!(brief(&app.settled(&mut visitor).await), [""; 0]);
    app.sql("alter role visitor bypassrls").await;
    pass(&app, &mut visitor, 3).await;
    app.sql("alter role visitor nobypassrls").await;
    app.sql("insert into notes values (4, 'hidden')").await;
    assert_eq!(brief(&app.settled(&mut visitor).await), [""; 0]);
}

#[tokio::test]
async fn an_update_that_moves_a_row_out_of_view_is_not_shown() {
    let app = start().await;
    let mut alice = subscribe(&app, ALICE, "messages").await;
    let mut carol = subscribe(&app, CAROL, "messages").await;
    app.sql(&say(TALK, "wanders")).await;
    assert_eq!(contents(&[alice.change().await]), ["wanders"]);
    app.sql(&format!("update messages set conversation_id = '{DIARY}'"))
        .await;
    let fence = app.fence().await;
    assert_eq!(contents(&alice.until(fence).await), [""; 0]);
    assert_eq!(contents(&carol.until(fence).await), ["wanders"]);
}

#[tokio::test]
async fn nothing_is_lost_between_the_log_and_its_visibility() {
    // With synchronous_commit on, WAL reaches the server before the commit is visible to others: a re-read that does not
    // wait for visibility loses a few percent of these.
    let app = start().await;
    let mut alice = subscribe(&app, ALICE, "messages").await;
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..4 {
        let session = app.session().await;
        writers.spawn(async move {
            for n in 0..100 {
                session.run(&say(TALK, &format!("{writer}-{n}"))).await;
            }
        });
    }
    while let Some(written) = writers.join_next().await {
        written.unwrap();
    }
    let changes = app.settled(&mut alice).await;
    assert_eq!(changes.len(), 400);
}
