-- What the policies in policies.sql look into. Ids are small, so that conditions meet.
create type app.kind as enum ('draft', 'open', 'closed', 'archived');
create type app.grade as enum ('viewer', 'editor', 'admin', 'owner');
create type app.address as (street text, zip text);
create domain app.plan as text check (value in ('free', 'pro', 'team'));
create domain app.percent as integer check (value between 0 and 100);
create collation app.bytes from "C";

create table app.profiles (id uuid primary key, name text, role text, org int, banned boolean, prefs jsonb, tz text, parent uuid);
create table app.orgs (id int primary key, parent int, name text, plan app.plan, owner uuid, settings jsonb, active boolean, tenant uuid);
create table app.members (org int, who uuid, grade app.grade, active boolean, since timestamptz, until timestamptz,
  scopes text[], primary key (org, who));
create table app.follows (follower uuid, followee uuid, accepted boolean, primary key (follower, followee));
create table app.blocks (blocker uuid, blocked uuid, primary key (blocker, blocked));
create table app.rooms (id int primary key, org int, private boolean, creator uuid, kind app.kind, people uuid[]);
create table app.seats (room int, who uuid, role text, left_at timestamptz, primary key (room, who));
create table app.shares (id int primary key, note int, who uuid, org int, grade app.grade, valid tstzrange, token text);
create table app.grants (role text, permission text, primary key (role, permission));
create table app.secrets (id int primary key, who uuid, word text);
create table app.folders (id int primary key, parent int, owner uuid, public boolean);
create table app.config (key text primary key, value text);
create table app.notes_of_staff (id int primary key, who uuid, word text) ;

alter table app.profiles enable row level security;
create policy own on app.profiles for select using (id = (select auth.uid()) or not banned);
alter table app.members enable row level security;
create policy own on app.members for select to authenticated using (who = auth.uid());
create policy staff on app.members for select to staff using (true);
alter table app.shares enable row level security;
create policy received on app.shares for select using (who = (select auth.uid()) or org = any (select m.org from app.members m where m.who = (select auth.uid())));
alter table app.secrets enable row level security;
alter table app.notes_of_staff enable row level security;
create policy kind on app.notes_of_staff using (case when word = 'staff' then (auth.jwt() ->> 'level')::int > 1 else who = auth.uid() end);

create view app.active_members as select m.org, m.who, m.grade from app.members m where m.active;
create view app.my_orgs with (security_barrier) as select m.org from app.members m where m.who = auth.uid();

create function app.is_member(the_org int) returns boolean language sql stable security definer set search_path = '' as
  $$ select exists (select 1 from app.members m where m.org = the_org and m.who = (select auth.uid()) and m.active) $$;
create function app.has_grade(the_org int, lowest app.grade) returns boolean language sql stable security definer set search_path = '' as
  $$ select exists (select from app.members m where m.org = the_org and m.who = auth.uid() and m.grade >= lowest) $$;
create function app.my_orgs_set() returns setof int language sql stable security definer set search_path = '' as
  $$ select m.org from app.members m where m.who = auth.uid() $$;
create function app.my_orgs_array() returns int[] language sql stable security definer set search_path = '' as
  $$ select coalesce(array_agg(m.org), '{}') from app.members m where m.who = auth.uid() $$;
create function app.tenant() returns uuid language sql stable as
  $$ select nullif(auth.jwt() -> 'app_metadata' ->> 'tenant', '')::uuid $$;
create function app.may(wanted text) returns boolean language plpgsql stable security definer set search_path = '' as $$
declare
  the_role text;
begin
  the_role := (auth.jwt() -> 'app_metadata' ->> 'role');
  if the_role is null then
    return false;
  end if;
  return exists (select 1 from app.grants g where g.role = the_role and g.permission = wanted);
end $$;
create function app.org_of(who uuid) returns int language plpgsql stable security definer set search_path = '' as $$
declare found_org int;
begin
  select p.org into found_org from app.profiles p where p.id = who;
  return found_org;
end $$;
create function app.claim_int(name text) returns int language plpgsql stable as $$
begin
  return (auth.jwt() ->> name)::int;
exception when others then
  return null;
end $$;
create function app.is_above(the_org int, wanted int) returns boolean language sql stable security definer set search_path = '' as $$
  with recursive up (id, parent) as (
    select o.id, o.parent from app.orgs o where o.id = the_org
    union select o.id, o.parent from app.orgs o join up on o.id = up.parent)
  select exists (select from up where up.id = wanted) $$;
create function app.invoker_member(the_org int) returns boolean language sql stable as
  $$ select exists (select 1 from app.members m where m.org = the_org) $$;
create function app.blocked_by(other uuid) returns boolean language plpgsql stable security definer set search_path = '' as $$
begin
  perform 1 from app.blocks b where b.blocker = other and b.blocked = auth.uid();
  return found;
end $$;
create function app.setting(name text) returns text language sql stable security definer set search_path = '' as
  $$ select c.value from app.config c where c.key = name $$;
create function app.role_rank(r text) returns int language sql immutable as
  $$ select case r when 'owner' then 4 when 'admin' then 3 when 'editor' then 2 when 'viewer' then 1 else 0 end $$;
create function app.checked_uid() returns uuid language plpgsql stable as $$
begin
  if auth.uid() is null then
    raise exception 'nobody is signed in' using errcode = '28000';
  end if;
  return auth.uid();
end $$;
create function app.jwt_has(role_name text) returns boolean language sql stable as
  $$ select coalesce((auth.jwt() -> 'app_metadata' -> 'roles') ? role_name, false) $$;
create function app.lower_email() returns text language sql stable as $$ select lower(auth.jwt() ->> 'email') $$;
create function app.count_seats(the_room int) returns bigint language sql stable security definer set search_path = '' as
  $$ select count(*) from app.seats s where s.room = the_room and s.left_at is null $$;
create function app.loop_orgs(the_org int) returns boolean language plpgsql stable security definer set search_path = '' as $$
declare
  at int := the_org;
  seen int := 0;
begin
  while at is not null and seen < 5 loop
    if exists (select 1 from app.members m where m.org = at and m.who = auth.uid()) then
      return true;
    end if;
    select o.parent into at from app.orgs o where o.id = at;
    seen := seen + 1;
  end loop;
  return false;
end $$;

-- The table that each policy gets a copy of.
create table app.note (
  rid bigint, id int primary key, owner uuid, other uuid, org int, room int, folder int, tenant uuid,
  title text, state text, slug varchar(20), code char(6), email text, kind app.kind, wanted app.grade,
  open boolean, hidden boolean, rank int, small smallint, big bigint, amount numeric(12, 3), price numeric, ratio double precision,
  tags text[], people uuid[], nums int[], kinds app.kind[], data jsonb, doc json,
  at timestamptz, starts timestamp, day date, clock time, span interval, during tstzrange, pages int4range,
  place app.address, plan app.plan, score app.percent, flags bit(8), mask varbit, addr inet, path text, word text collate "C"
);
