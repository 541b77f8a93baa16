//! Private channels: policies on `realtime.messages` decide who joins, hears, speaks and is seen, at every moment
//! (protocol.md §5.3, §6.4, §7.4, §7.5).

use serde_json::{Value, json};
use walcast::testing::{
    App, Channel, PUBLISHABLE_KEY, Socket, Version, anon, eventually, expiring, mint, service, user,
};

use crate::world::{ALICE, BOB, CAROL, all, join_with, start_with, start_with_environment};

/// What each room's name says: `hear` may be heard in, `see` shows presence, `both`; in `listen` nobody speaks; in `club`
/// only members do anything.
const POLICIES: &str = "
    create table members (person uuid, room text, may text, primary key (person, room, may));
    insert into members values ('a0000000-0000-4000-8000-000000000001', 'club', 'read'),
      ('a0000000-0000-4000-8000-000000000001', 'club', 'write'), ('b0000000-0000-4000-8000-000000000002', 'club', 'read');
    grant select on members to authenticated;
    create function raises() returns boolean language plpgsql as $$ begin raise 'no'; end $$;
    create policy receive on realtime.messages for select to authenticated using (
      case realtime.topic()
        when 'hear' then extension = 'broadcast'
        when 'see' then extension = 'presence'
        when 'both' then true
        when 'listen' then true
        when 'announce' then true
        when 'raises' then raises()
        when 'mute' then true
        when 'club' then exists (select from members where person = auth.uid() and room = 'club' and may = 'read')
        else false end);
    create policy send on realtime.messages for insert to authenticated with check (
      case realtime.topic()
        when 'both' then true
        when 'hear' then true
        when 'see' then true
        when 'announce' then extension = 'broadcast'
        when 'mute' then raises()
        when 'club' then exists (select from members where person = auth.uid() and room = 'club' and may = 'write')
        else false end);
    create policy visit on realtime.messages for select to anon using (realtime.topic() = 'lobby');
";

/// Nothing is left to be read.
const NO_MORE: &str = "You do not have permissions to read from this Channel topic: ";
/// Broadcasts or presence are left.
const NO_LONGER: &str = "You no longer have permission to read from this Channel topic: ";

fn private() -> Value {
    json!({"private": true, "broadcast": {"ack": true}})
}

async fn try_join(
    app: &App,
    room: &str,
    presence: bool,
    token: Option<&str>,
) -> Result<Channel, String> {
    let config = json!({"private": true, "presence": {"enabled": presence}});
    Channel::try_join(app.server.port(), Version::V2, room, &config, token).await
}

async fn join(app: &App, version: Version, room: &str, subject: &str) -> Channel {
    join_with(app, version, room, private(), Some(&user(subject))).await
}

/// Broadcasts and gives the acknowledgement.
async fn say(channel: &mut Channel, event: &str) -> Value {
    let reference = channel.say(event, &json!({})).await;
    channel.socket.reply(&reference).await.payload
}

fn said() -> Value {
    json!({"status": "ok", "response": {}})
}

fn denied() -> Value {
    json!({"status": "error", "response": {"error": "unauthorized"}})
}

#[tokio::test]
async fn select_policies_decide_who_joins() {
    let app = start_with(POLICIES).await;
    let (alice, service, anon) = (user(ALICE), service(), anon());
    for (room, presence, token, admitted) in [
        ("hear", false, Some(&alice), true),
        ("hear", true, Some(&alice), true),
        ("see", true, Some(&alice), true),
        ("see", false, Some(&alice), false),
        ("both", true, Some(&alice), true),
        ("none", true, Some(&alice), false),
        ("raises", true, Some(&alice), false),
        ("lobby", true, Some(&alice), false),
        ("lobby", true, Some(&anon), true),
        ("both", true, Some(&anon), false),
        // Without a token the connection's key counts.
        ("lobby", true, None, true),
        ("both", true, None, false),
        ("none", true, Some(&service), true),
        ("club", true, Some(&alice), true),
        ("club", true, Some(&user(CAROL)), false),
    ] {
        let joined = try_join(&app, room, presence, token.map(String::as_str)).await;
        let refusal = format!(
            "Unauthorized: You do not have permissions to read from this Channel topic: {room}"
        );
        let expected = if admitted { None } else { Some(refusal) };
        assert_eq!(joined.err(), expected, "{room} {presence}");
    }
    // A refused topic is not joined, its socket is none the worse, and public channels do not ask anybody.
    let mut socket = Socket::connect(app.server.port(), PUBLISHABLE_KEY, Version::V2).await;
    let payload = json!({"config": {"private": true}});
    let reply = socket
        .ask(Some("1"), "realtime:none", "phx_join", &payload)
        .await;
    assert_eq!(reply["status"], "error");
    let message = json!({"type": "broadcast", "event": "e", "payload": {}});
    let reply = socket
        .ask(Some("1"), "realtime:none", "broadcast", &message)
        .await;
    assert_eq!(reply["response"], json!({"reason": "unmatched topic"}));
    Channel::join_on(socket, Version::V2, "none", &json!({}), None)
        .await
        .unwrap();
    // What was asked left nothing behind.
    let rows = app
        .admin
        .text("select count(*) from realtime.messages")
        .await;
    assert_eq!(rows.as_deref(), Some("0"));
}

#[tokio::test]
async fn policies_see_who_asks_about_what() {
    let app = start_with(
        "create policy exact on realtime.messages for select to authenticated using (
           current_user = 'authenticated' and topic = 'a:b:c' and realtime.topic() = 'a:b:c'
           and extension in ('broadcast', 'presence') and not private and payload is null and event is null
           and inserted_at > now() at time zone 'utc' - interval '1 minute'
           and auth.uid() = 'a0000000-0000-4000-8000-000000000001'
           and current_setting('request.jwt.claim.sub') = 'a0000000-0000-4000-8000-000000000001'
           and current_setting('request.jwt.claim.role') = 'authenticated'
           and current_setting('request.jwt.claims')::json -> 'more' ->> 'team' = 'blue'
           and current_setting('request.headers')::json ->> 'x-tenant' = 'north'
           and length(current_setting('request.headers')::json ->> 'x-long') = 10000);
         create policy exact_too on realtime.messages for insert to authenticated with check (
           current_user = 'authenticated' and topic = 'a:b:c' and realtime.topic() = 'a:b:c' and extension = 'broadcast'
           and current_setting('request.headers')::json ->> 'x-tenant' = 'north');",
    )
    .await;
    let claims = |team: &str| {
        mint(
            &json!({"role": "authenticated", "sub": ALICE, "exp": 9_999_999_999_u64, "more": {"team": team}}),
        )
    };
    let long = "v".repeat(10_000);
    for (team, tenant, admitted) in [
        ("blue", "north", true),
        ("red", "north", false),
        ("blue", "south", false),
    ] {
        let path = format!("/realtime/v1/websocket?apikey={PUBLISHABLE_KEY}&vsn=2.0.0");
        let headers = [("x-tenant", tenant), ("x-long", &long)];
        let socket = Socket::upgrade(app.server.port(), &path, &headers)
            .await
            .unwrap();
        let token = claims(team);
        let joined = Channel::join_on(socket, Version::V2, "a:b:c", &private(), Some(&token)).await;
        assert_eq!(joined.is_ok(), admitted, "{team} {tenant}");
        if let Ok(mut channel) = joined {
            assert_eq!(say(&mut channel, "e").await, said());
        }
        let bearer = format!("Bearer {token}");
        let headers = [
            ("authorization", bearer.as_str()),
            ("x-tenant", tenant),
            ("content-type", "application/json"),
        ];
        let path = "/api/broadcast/a%3Ab%3Ac/events/e?private=true";
        let reply = app.server.post(path, &headers, b"{}").await;
        assert_eq!(reply.status, if tenant == "north" { 202 } else { 403 });
    }
}

#[tokio::test]
async fn each_kind_reaches_only_those_who_may_read_it() {
    let app = start_with(POLICIES).await;
    for version in [Version::V1, Version::V2] {
        for (room, hears, sees) in [
            ("hear", true, false),
            ("see", false, true),
            ("both", true, true),
        ] {
            let mut member = join(&app, version, room, ALICE).await;
            // Who is there is asked of the database as well: speak after it is known.
            if sees {
                assert_eq!(member.next("presence_state").await.payload, json!({}));
            }
            let config =
                json!({"private": true, "broadcast": {"ack": true}, "presence": {"key": "guest"}});
            let mut guest = join_with(&app, version, room, config, Some(&service())).await;
            assert_eq!(say(&mut guest, "first").await, said());
            assert_eq!(guest.track(&json!({"n": 1})).await, said());
            guest.attended_by(&[("guest", &[json!({"n": 1})])]).await;
            assert_eq!(guest.untrack().await, said());
            guest.attended_by(&[]).await;
            assert_eq!(say(&mut guest, "last").await, said());
            let mut got = Vec::new();
            // Waits for what must come; what must not would have come before the heartbeat's answer.
            if hears {
                got.push(member.heard_briefly().await.0);
                got.push(member.heard_briefly().await.0);
            }
            if sees {
                member.next("presence_diff").await;
            }
            let rest = member.socket.settle().await;
            assert!(
                rest.iter()
                    .all(|frame| frame.event == "presence_diff" && sees),
                "{room}: {rest:#?}"
            );
            let expected: &[&str] = if hears { &["first", "last"] } else { &[] };
            assert_eq!(got, expected, "{room}");
        }
    }
}

#[tokio::test]
async fn insert_policies_decide_who_speaks_and_who_is_seen() {
    let app = start_with(POLICIES).await;
    let refused = json!({"status": "error", "response": {}});
    let raised = json!({"status": "error", "response": {"error": "rls_policy_error"}});
    for version in [Version::V1, Version::V2] {
        for (room, answer, seen) in [
            ("both", said(), true),
            ("listen", denied(), false),
            ("announce", said(), false),
            ("mute", raised.clone(), false),
        ] {
            let mut hearer = join_with(&app, version, room, private(), Some(&service())).await;
            let mut speaker = join(&app, version, room, ALICE).await;
            assert_eq!(say(&mut speaker, "asked").await, answer, "{room}");
            // The second time the answer is known.
            assert_eq!(say(&mut speaker, "asked").await, answer, "{room}");
            let config = json!({"private": true, "presence": {"key": "silent"}});
            let mut silent = join_with(&app, version, room, config, Some(&user(ALICE))).await;
            silent.say("silent", &json!({})).await;
            let tracked = silent.track(&json!({"n": 1})).await;
            assert_eq!(
                tracked,
                if seen { said() } else { refused.clone() },
                "{room}"
            );
            let told = silent.socket.settle().await;
            assert!(
                told.iter().all(|frame| frame.event != "phx_reply"),
                "{told:#?}"
            );
            if seen {
                hearer.attended_by(&[("silent", &[json!({"n": 1})])]).await;
            } else {
                assert_eq!(hearer.next("presence_state").await.payload, json!({}));
            }
            let mut end = join_with(&app, version, room, private(), Some(&service())).await;
            assert_eq!(say(&mut end, "end").await, said());
            let mut heard = Vec::new();
            while heard.last().map(String::as_str) != Some("end") {
                heard.push(hearer.heard_briefly().await.0);
            }
            let all: &[&str] = &["asked", "asked", "silent", "end"];
            let spoken = answer == said();
            assert_eq!(heard, if spoken { all } else { &all[3..] }, "{room}");
        }
    }
}

#[tokio::test]
async fn nothing_that_is_said_while_the_database_is_asked_is_reordered() {
    let app = start_with(POLICIES).await;
    let mut hearer = join(&app, Version::V2, "both", BOB).await;
    let mut speaker = join(&app, Version::V2, "both", ALICE).await;
    // The first makes walcast ask; the others come while it waits.
    for n in 0..50 {
        speaker.say("count", &json!({"n": n})).await;
    }
    for n in 0..50 {
        assert_eq!(hearer.heard_briefly().await.1, json!({"n": n}));
    }
}

/// Runs `sql` while two people of `club` and one of `both` are joined; the first must go and `stays` must stay.
async fn check_revoked(app: &App, sql: &str, everybody: bool) {
    let mut alice = join(app, Version::V1, "club", ALICE).await;
    let mut bob = join(app, Version::V2, "club", BOB).await;
    let mut watched = join_with(app, Version::V2, "club", private(), Some(&service())).await;
    let mut elsewhere = join(app, Version::V2, "both", ALICE).await;
    assert_eq!(say(&mut alice, "before").await, said());
    assert_eq!(bob.heard_briefly().await.0, "before");
    assert_eq!(watched.heard_briefly().await.0, "before");
    app.sql(sql).await;
    assert_eq!(alice.removed().await, format!("{NO_MORE}club"), "{sql}");
    if everybody {
        assert_eq!(bob.removed().await, format!("{NO_MORE}club"), "{sql}");
    }
    assert_eq!(say(&mut watched, "after").await, said());
    if !everybody {
        assert_eq!(bob.heard_briefly().await.0, "after");
        assert_eq!(say(&mut elsewhere, "elsewhere").await, said());
    }
    let told = alice.socket.settle().await;
    assert!(
        told.iter().all(|frame| frame.event != "broadcast"),
        "{told:#?}"
    );
    // And it stays so.
    let again = Channel::join_on(
        alice.socket,
        Version::V1,
        "club",
        &private(),
        Some(&user(ALICE)),
    )
    .await;
    assert!(again.is_err(), "{sql}");
}

#[tokio::test]
async fn a_dropped_policy_removes_members_at_once() {
    let app =
        start_with_environment(POLICIES, &[("WALCAST_PERMISSION_RECHECK_INTERVAL", "1h")]).await;
    check_revoked(&app, "drop policy receive on realtime.messages", true).await;
}

#[tokio::test]
async fn an_altered_policy_removes_those_it_excludes() {
    let app =
        start_with_environment(POLICIES, &[("WALCAST_PERMISSION_RECHECK_INTERVAL", "1h")]).await;
    let alter = "alter policy receive on realtime.messages using (
        realtime.topic() = 'both' or auth.uid() = 'b0000000-0000-4000-8000-000000000002')";
    check_revoked(&app, alter, false).await;
}

#[tokio::test]
async fn a_revoked_grant_removes_members_at_once() {
    let app =
        start_with_environment(POLICIES, &[("WALCAST_PERMISSION_RECHECK_INTERVAL", "1h")]).await;
    check_revoked(
        &app,
        "revoke select on realtime.messages from authenticated",
        true,
    )
    .await;
}

#[tokio::test]
async fn what_no_policy_change_tells_is_looked_at_again_after_a_while() {
    let app =
        start_with_environment(POLICIES, &[("WALCAST_PERMISSION_RECHECK_INTERVAL", "1s")]).await;
    let delete = "delete from members where person = 'a0000000-0000-4000-8000-000000000001'";
    check_revoked(&app, delete, false).await;
}

#[tokio::test]
async fn who_loses_one_kind_of_reading_is_removed() {
    let app = start_with(POLICIES).await;
    let mut alice = join(&app, Version::V2, "both", ALICE).await;
    alice.next("presence_state").await;
    app.sql("alter policy receive on realtime.messages using (extension = 'broadcast')")
        .await;
    assert_eq!(alice.removed().await, format!("{NO_LONGER}both"));
}

#[tokio::test]
async fn a_removed_member_is_no_longer_present() {
    let app = start_with(POLICIES).await;
    let config = json!({"private": true, "presence": {"key": "alice", "enabled": true}});
    let mut alice = join_with(&app, Version::V2, "both", config, Some(&user(ALICE))).await;
    let mut watcher = join_with(&app, Version::V2, "both", private(), Some(&service())).await;
    assert_eq!(alice.track(&json!({"n": 1})).await, said());
    watcher.attended_by(&[("alice", &[json!({"n": 1})])]).await;
    app.sql("drop policy receive on realtime.messages").await;
    watcher.attended_by(&[]).await;
}

#[tokio::test]
async fn who_may_no_longer_speak_is_no_longer_heard() {
    let app = start_with(POLICIES).await;
    let mut alice = join(&app, Version::V2, "both", ALICE).await;
    assert_eq!(say(&mut alice, "before").await, said());
    app.sql("drop policy send on realtime.messages").await;
    let mut tries = 0;
    while say(&mut alice, "after").await != denied() {
        tries += 1;
        assert!(tries < 600, "a dropped policy still allows");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    // And again when it may.
    app.sql("create policy send_again on realtime.messages for insert to authenticated with check (true)").await;
    while say(&mut alice, "again").await != said() {
        tries += 1;
        assert!(tries < 1200, "a new policy does not count");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_new_token_counts_for_what_may_be_read_and_said() {
    let app = start_with(POLICIES).await;
    let mut hearer = join_with(&app, Version::V2, "club", private(), Some(&service())).await;
    for version in [Version::V1, Version::V2] {
        // Bob may read and not write; Alice may both; Carol neither.
        let mut bob = join(&app, version, "club", BOB).await;
        assert_eq!(say(&mut bob, "denied").await, denied());
        bob.set_token(&user(ALICE)).await;
        assert_eq!(say(&mut bob, "as alice").await, said());
        assert_eq!(hearer.heard_briefly().await.0, "as alice");

        let mut alice = join(&app, version, "club", ALICE).await;
        assert_eq!(say(&mut alice, "as herself").await, said());
        assert_eq!(hearer.heard_briefly().await.0, "as herself");
        alice.set_token(&user(BOB)).await;
        assert_eq!(say(&mut alice, "denied").await, denied());

        for (token, reason) in [
            (user(CAROL), format!("{NO_MORE}club")),
            (anon(), format!("{NO_MORE}club")),
            (
                "nonsense".to_owned(),
                "The token provided is not a valid JWT".to_owned(),
            ),
            (
                String::new(),
                "The token provided is not a valid JWT".to_owned(),
            ),
            (
                mint(&json!({"exp": 9_999_999_999_u64})),
                "Fields `role` and `exp` are required in JWT".to_owned(),
            ),
        ] {
            let mut leaving = join(&app, version, "club", ALICE).await;
            leaving.set_token(&token).await;
            assert_eq!(leaving.removed().await, reason);
        }
        let mut late = join(&app, version, "club", ALICE).await;
        late.set_token(&expiring(ALICE, -10)).await;
        let reason = late.removed().await;
        assert!(reason.starts_with("Token has expired 1"), "{reason}");

        // These change nothing.
        for token in [PUBLISHABLE_KEY, "sb_anything"] {
            let mut same = join(&app, version, "club", ALICE).await;
            same.set_token(token).await;
            assert_eq!(say(&mut same, "same").await, said());
            assert_eq!(hearer.heard_briefly().await.0, "same");
        }
    }
}

#[tokio::test]
async fn a_token_that_runs_out_ends_the_channel_and_not_the_socket() {
    let app = start_with(POLICIES).await;
    let mut alice = join_with(
        &app,
        Version::V2,
        "club",
        private(),
        Some(&expiring(ALICE, 2)),
    )
    .await;
    let reason = alice.removed().await;
    assert!(reason.starts_with("Token has expired "), "{reason}");
    let again = Channel::join_on(
        alice.socket,
        Version::V2,
        "club",
        &private(),
        Some(&user(ALICE)),
    )
    .await;
    assert!(again.is_ok());
}

#[tokio::test]
async fn a_member_admitted_late_joins_like_any_other() {
    let app = start_with(POLICIES).await;
    let carol = user(CAROL);
    assert!(try_join(&app, "club", true, Some(&carol)).await.is_err());
    app.sql(&format!(
        "insert into members values ('{CAROL}', 'club', 'read')"
    ))
    .await;
    let mut member = eventually("the new member to be admitted", || async {
        try_join(&app, "club", true, Some(&carol)).await.ok()
    })
    .await;
    app.sql("select realtime.send('{}', 'hello', 'club')").await;
    assert_eq!(member.heard_briefly().await.0, "hello");
}

/// Rooms of `members`, by policies that are understood; written often enough to be in the stream.
const PLAIN: &str = "
    create table members (person uuid, room text, may text, primary key (person, room, may));
    insert into members values ('a0000000-0000-4000-8000-000000000001', 'club', 'read'),
      ('a0000000-0000-4000-8000-000000000001', 'club', 'write'), ('b0000000-0000-4000-8000-000000000002', 'club', 'read');
    grant select on members to authenticated;
    create policy receive on realtime.messages for select to authenticated using (
      extension = 'broadcast' and exists (select from members where person = (select auth.uid())
        and room = (select realtime.topic()) and may = 'read'));
    create policy send on realtime.messages for insert to authenticated with check (
      exists (select from members where person = (select auth.uid()) and room = realtime.topic() and may = 'write'));
";
const PUBLISHED: &str = "alter publication supabase_realtime add table members;";
/// Nothing is looked at for the passing of time.
const SELDOM: &[(&str, &str)] = &[
    ("WALCAST_VERDICTS", "compiled"),
    ("WALCAST_PERMISSION_RECHECK_INTERVAL", "1h"),
];

/// A broadcast from the database to the club.
fn tell(event: &str) -> String {
    format!("select realtime.send('{{}}', '{event}', 'club');")
}

/// Alice loses and regains the club while things are said there; what is said after she lost it never reaches her.
async fn check_revoked_in_order(policies: &str) {
    let app = start_with_environment(&format!("{policies}{PUBLISHED}"), SELDOM).await;
    let mut bob = join(&app, Version::V2, "club", BOB).await;
    let writer = app.session().await;
    let lose = format!("delete from members where person = '{ALICE}';");
    let regain = format!("insert into members values ('{ALICE}', 'club', 'read');");
    for (round, in_one) in [false, true, false, true, false].into_iter().enumerate() {
        let mut alice = eventually("the member to be admitted", || async {
            try_join(&app, "club", false, Some(&user(ALICE))).await.ok()
        })
        .await;
        writer.run(&tell("before")).await;
        assert_eq!(alice.heard_briefly().await.0, "before");
        if in_one {
            writer
                .run(&format!("begin; {} {lose} commit", tell("after")))
                .await;
        } else {
            writer.run(&lose).await;
            writer.run(&tell("after")).await;
        }
        writer.run(&tell("long after")).await;
        alice.next("phx_close").await;
        let told = alice.socket.settle().await;
        assert!(
            told.iter().all(|frame| frame.event != "broadcast"),
            "round {round}: {told:#?}"
        );
        for expected in ["before", "after", "long after"] {
            assert_eq!(bob.heard_briefly().await.0, expected, "round {round}");
        }
        writer.run(&regain).await;
    }
}

#[tokio::test]
async fn what_is_said_after_a_revocation_never_arrives() {
    check_revoked_in_order(PLAIN).await;
}

#[tokio::test]
async fn nor_does_it_where_policies_are_not_understood() {
    let odd = PLAIN.replace(
        "extension = 'broadcast' and",
        "extension = 'broadcast' and random() >= 0 and",
    );
    check_revoked_in_order(&odd).await;
}

#[tokio::test]
async fn a_revoked_membership_ends_at_once_though_nothing_is_said() {
    for policies in [POLICIES, PLAIN] {
        let app = start_with_environment(&format!("{policies}{PUBLISHED}"), SELDOM).await;
        let mut alice = join(&app, Version::V2, "club", ALICE).await;
        let mut bob = join(&app, Version::V2, "club", BOB).await;
        app.sql(&format!("delete from members where person = '{ALICE}'"))
            .await;
        assert_eq!(alice.removed().await, format!("{NO_MORE}club"));
        app.sql(&tell("still here")).await;
        assert_eq!(bob.heard_briefly().await.0, "still here");
    }
}

#[tokio::test]
async fn who_loses_the_permission_to_speak_is_refused_from_that_commit_on() {
    // Nothing that decides who may read is in the table.
    let policies = "
        create table speakers (person uuid primary key);
        grant select on speakers to authenticated;
        insert into speakers values ('a0000000-0000-4000-8000-000000000001'), ('b0000000-0000-4000-8000-000000000002');
        create policy receive on realtime.messages for select to authenticated using (true);
    ";
    let check = "exists (select from speakers where person = (select auth.uid()))";
    let by_function = format!(
        "create function may_speak() returns boolean language plpgsql stable as $$ begin return {check}; end $$;
         create policy send on realtime.messages for insert to authenticated with check (may_speak());"
    );
    let of_all = format!(
        "create policy send on realtime.messages to authenticated using (false) with check ({check});"
    );
    let plain = format!(
        "create policy send on realtime.messages for insert to authenticated with check ({check});"
    );
    for write in [plain, by_function, of_all] {
        let app = start_with_environment(
            &format!(
                "{policies}{write}
              alter publication supabase_realtime add table speakers;
              grant select on speakers to service_role;"
            ),
            SELDOM,
        )
        .await;
        let mut alice = join(&app, Version::V2, "stage", ALICE).await;
        let mut bob = join(&app, Version::V1, "stage", BOB).await;
        let mut witness = app.subscribe(&service(), all("speakers")).await;
        assert_eq!(say(&mut alice, "before").await, said());
        assert_eq!(alice.track(&json!({})).await, said());
        assert_eq!(say(&mut bob, "before").await, said());
        app.sql(&format!("delete from speakers where person = '{ALICE}'"))
            .await;
        // Whoever sees the change speaks after it.
        witness.change().await;
        assert_eq!(say(&mut alice, "after").await, denied(), "{write}");
        let refused = json!({"status": "error", "response": {}});
        assert_eq!(alice.track(&json!({"n": 2})).await, refused);
        assert_eq!(say(&mut bob, "still here").await, said());
        for (event, _payload) in [
            bob.heard_briefly().await,
            alice.heard_briefly().await,
            alice.heard_briefly().await,
        ] {
            assert_ne!(event, "after");
        }
        app.sql(&format!("insert into speakers values ('{ALICE}')"))
            .await;
        witness.change().await;
        assert_eq!(say(&mut alice, "again").await, said());
        assert_eq!(bob.heard_briefly().await.0, "again");
    }
}

#[tokio::test]
async fn a_revocation_counts_at_once_wherever_the_row_is_kept() {
    let create =
        "create table members (person uuid, room text, may text, primary key (person, room, may))";
    let partitioned = [
        create,
        " partition by list (room); create table club_members partition of members for values in ('club')",
    ]
    .concat();
    let understood = PLAIN.replace(create, &partitioned);
    let odd = |policies: &str| {
        policies.replace(
            "extension = 'broadcast' and",
            "extension = 'broadcast' and random() >= 0 and",
        )
    };
    let viewed = PLAIN
        .replace("select from members where", "select from readers where")
        .replace(
            "grant select on members to authenticated;",
            "grant select on members to authenticated;
            create view readers as select * from members where may = 'read'; grant select on readers to authenticated;",
        );
    let policies = [odd(&understood), understood, viewed];
    let check = async |policies: &str| {
        let app = start_with_environment(&format!("{policies}{PUBLISHED}"), SELDOM).await;
        let mut alice = join(&app, Version::V2, "club", ALICE).await;
        let mut bob = join(&app, Version::V2, "club", BOB).await;
        app.sql(&format!("delete from members where person = '{ALICE}'"))
            .await;
        assert_eq!(
            alice.removed().await,
            format!("{NO_MORE}club"),
            "{policies}"
        );
        app.sql(&tell("still here")).await;
        assert_eq!(bob.heard_briefly().await.0, "still here");
    };
    for policies in policies {
        check(&policies).await;
    }
}

#[tokio::test]
async fn memberships_that_are_written_all_the_time_delay_and_lose_nothing() {
    let app = start_with_environment(&format!("{PLAIN}{PUBLISHED}"), SELDOM).await;
    let mut bob = join(&app, Version::V2, "club", BOB).await;
    let writer = app.session().await;
    let writing = async {
        for number in 0..200 {
            writer
                .run(&format!(
                    "insert into members values ('{CAROL}', 'room {number}', 'read'); {}",
                    tell(&number.to_string())
                ))
                .await;
        }
    };
    let hearing = async {
        for number in 0..200 {
            assert_eq!(bob.heard_briefly().await.0, number.to_string());
        }
    };
    tokio::join!(writing, hearing);
}
