//! Which conditions lead from a row to the claims of those who may see it.

use walcast::testing::Cluster;

const SCHEMA: &str = "
    create role reader;
    create schema auth;
    create function auth.jwt() returns jsonb language sql stable as
      $$ select nullif(current_setting('request.jwt.claims', true), '')::jsonb $$;
    create function auth.uid() returns uuid language sql stable as
      $$ select (nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub')::uuid $$;
    create function auth.role() returns text language sql stable as
      $$ select nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'role' $$;
    create table member (team integer not null, person uuid not null, rank integer, primary key (team, person));
    create table profile (person uuid primary key, team integer);
    create table closed (id integer primary key, owner uuid);
    alter table closed enable row level security;
    create policy p on closed using (owner = auth.uid());
    create function is_member(wanted integer) returns boolean language sql stable security definer set search_path = '' as
      $$ select exists (select from public.member m where m.team = wanted and m.person = auth.uid()) $$;
    create function has_member(wanted integer, who uuid) returns boolean language sql stable security definer set search_path = '' as
      $$ select exists (select from public.member m where m.team = wanted and m.person = who) $$;
    create function my_teams() returns setof integer language sql stable security definer set search_path = '' as
      $$ select team from public.member where person = auth.uid() $$;
    create function slow_member(wanted integer) returns boolean language plpgsql stable security definer set search_path = '' as $$
    begin
      if wanted is null then return false; end if;
      return exists (select from public.member m where m.team = wanted and m.person = auth.uid());
    end $$;
    grant usage on schema auth to reader;
    grant select on all tables in schema public to reader;";

/// A policy, and how whom a row may concern is found.
const CASES: &[(&str, &str)] = &[
    ("owner = auth.uid()", "audience by sub"),
    ("(select auth.uid()) = owner", "audience by sub"),
    ("auth.uid() = any (people)", "audience by sub"),
    ("people @> array[auth.uid()]", "audience by sub"),
    ("auth.uid() in (owner, other)", "audience by sub"),
    ("word = auth.jwt() ->> 'org'", "audience by org"),
    (
        "word = auth.jwt() -> 'app_metadata' ->> 'org'",
        "audience by app_metadata",
    ),
    (
        "team = (auth.jwt() ->> 'team')::integer",
        "audience by team",
    ),
    ("owner = auth.uid() and word <> 'x'", "audience by sub"),
    (
        "owner = auth.uid() and auth.role() = 'authenticated'",
        "audience by sub",
    ),
    ("auth.role() = 'authenticated'", "audience by role"),
    ("coalesce(owner = auth.uid(), false)", "audience by sub"),
    (
        "case when shared then true else owner = auth.uid() end",
        "audience of everybody on some rows or by sub",
    ),
    (
        "shared or owner = auth.uid()",
        "audience of everybody on some rows or by sub",
    ),
    ("word::uuid = auth.uid()", "audience by sub"),
    (
        "exists (select from member m where m.team = note.team and m.person = auth.uid())",
        "audience by sub via member(team)",
    ),
    (
        "exists (select from member m where m.team = note.team and m.person = auth.uid() and m.rank > 2)",
        "audience by sub via member(team)",
    ),
    (
        "team in (select m.team from member m where m.person = auth.uid())",
        "audience by sub via member(team)",
    ),
    (
        "team = any (array(select m.team from member m where m.person = auth.uid()))",
        "audience by sub via member(team)",
    ),
    (
        "auth.uid() in (select m.person from member m where m.team = note.team)",
        "audience by sub via member(team)",
    ),
    (
        "exists (select from closed c join member m on m.person = c.owner where c.id = note.team and m.person = auth.uid())",
        "audience by sub via closed(id)",
    ),
    (
        "exists (select from closed c where c.id = note.team)",
        "audience by sub via closed(id)",
    ),
    (
        "team = (select p.team from profile p where p.person = auth.uid())",
        "audience by sub via profile(team)",
    ),
    ("is_member(team)", "audience by sub via member(team)"),
    (
        "has_member(team, auth.uid())",
        "audience by sub via member(team)",
    ),
    ("slow_member(team)", "audience by sub via member(team)"),
    (
        "team in (select my_teams())",
        "audience by sub via member(team)",
    ),
    (
        "owner = auth.uid() or is_member(team)",
        "audience by sub or by sub via member(team)",
    ),
    ("not owner = auth.uid()", "evaluated per identity"),
    ("owner <> auth.uid()", "evaluated per identity"),
    (
        "owner is not distinct from auth.uid()",
        "evaluated per identity",
    ),
    (
        "(auth.jwt() ->> word)::uuid = owner",
        "evaluated per identity",
    ),
    // A second row would raise, for whoever has two.
    (
        "owner = auth.uid() and team = (select m.team from member m where m.person = auth.uid())",
        "evaluated per identity",
    ),
    (
        "not exists (select from member m where m.team = note.team and m.person = auth.uid())",
        "evaluated per identity",
    ),
    ("true", "evaluated per identity"),
];

#[tokio::test]
async fn conditions_that_bind_claims_give_an_audience() {
    let cluster = Cluster::start(&["fsync=off"]);
    let database = cluster.empty_database();
    cluster.psql(&database, &[SCHEMA]).unwrap();
    let (client, connection) =
        tokio_postgres::connect(&cluster.url(&database), tokio_postgres::NoTls)
            .await
            .unwrap();
    let driver = tokio::spawn(connection);
    for (qual, expected) in CASES {
        let table = format!(
            "drop table if exists note;
             create table note (id integer, owner uuid, other uuid, people uuid[], team integer, word text, shared boolean);
             alter table note enable row level security;
             grant select on note to reader;
             create policy p on note using ({qual})"
        );
        client.batch_execute(&table).await.unwrap();
        let schema = walcast::policy::schema::load(&client, &["public"])
            .await
            .unwrap();
        let note = schema.table("public", "note").unwrap().oid;
        let plan = walcast::policy::compile(&schema, note, schema.role("reader").unwrap());
        let plan = plan.unwrap_or_else(|refusal| panic!("{qual}: {refusal}"));
        assert_eq!(plan.form(), *expected, "{qual}");
    }
    // A restrictive policy bounds what a permissive one opens.
    client
        .batch_execute(
            "drop policy p on note;
             create policy open on note using (true);
             create policy own on note as restrictive using (is_member(team))",
        )
        .await
        .unwrap();
    let schema = walcast::policy::schema::load(&client, &["public"])
        .await
        .unwrap();
    let note = schema.table("public", "note").unwrap().oid;
    let reader = schema.role("reader").unwrap();
    let plan = walcast::policy::compile(&schema, note, reader).unwrap();
    assert_eq!(plan.form(), "audience by sub via member(team)");
    assert!(plan.has_audience());
    let member = schema.table("public", "member").unwrap().oid;
    assert!(
        plan.reads.lookups.contains(&(member, vec![0])),
        "{:?}",
        plan.reads.lookups
    );
    drop(client);
    driver.await.unwrap().unwrap();
}
