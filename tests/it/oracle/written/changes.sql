-- Policies that change while rows come, as a list of steps behind `-- then` lines. `h_%n` is the policy's own table to look into.
-- entry: change: another condition
create policy p on %t using (owner = auth.uid());
-- then
alter policy p on %t using (other = auth.uid());
-- then
alter policy p on %t using (owner = (select auth.uid()) or open);
-- entry: change: other roles
create policy p on %t to authenticated using (open);
-- then
alter policy p on %t to staff, keeper;
-- then
create policy q on %t as restrictive to authenticated using (rank > 0);
-- then
alter policy q on %t to public; alter policy p on %t to public;
-- entry: change: renamed policies
create policy a on %t using (open or 10 / rank > 0);
create policy b on %t using (rank = 0);
-- then
alter policy a on %t rename to z;
-- then
drop policy b on %t; create policy b on %t as restrictive using (org > 1);
-- entry: change: off and on
create policy p on %t using (owner = auth.uid());
-- then
alter table %t disable row level security;
-- then
alter table %t enable row level security; drop policy p on %t;
-- then
create policy p on %t for select using (open);
-- entry: change: owner and force
create policy p on %t using (open);
-- then
alter table %t owner to keeper;
-- then
alter table %t force row level security;
-- then
alter table %t owner to definer;
-- then
alter table %t no force row level security;
-- entry: change: columns renamed
create policy p on %t using (owner = auth.uid() and rank > 0);
-- then
alter table %t rename column rank to standing; alter table %t rename column small to rank; alter table %t rename column standing to small;
-- then
alter table %t rename column owner to standing; alter table %t rename column other to owner; alter table %t rename column standing to other;
-- entry: change: types of columns
create policy p on %t using (rank > 0 and state = 'open');
-- then
drop policy p on %t; alter table %t alter column rank type bigint; create policy p on %t using (rank > 0 and state = 'open');
-- then
drop policy p on %t; alter table %t alter column state type varchar(9) using left(state, 9); create policy p on %t using (rank >= 1 and state = 'open');
-- then
drop policy p on %t; alter table %t alter column state type text collate "C"; create policy p on %t using (state < 'open');
-- entry: change: columns added and dropped
create policy p on %t using (open);
-- then
alter table %t add column level_%n int default 2; create policy q on %t using (level_%n = rank);
-- then
alter table %t drop column level_%n cascade;
-- entry: change: grants
create policy p on %t using (open);
-- then
revoke select on %t from authenticated, staff;
-- then
grant select (id, open, rank) on %t to authenticated;
-- then
revoke select on %t from keeper; grant select on %t to public;
-- then
revoke select on %t from public;
-- entry: change: rights to execute
create function app.may_%n(o boolean) returns boolean language sql stable as $$ select o $$;
create policy p on %t using (app.may_%n(open));
-- then
revoke execute on function app.may_%n(boolean) from public;
-- then
grant execute on function app.may_%n(boolean) to authenticated;
-- then
drop policy p on %t; drop function app.may_%n(boolean);
-- then
create function app.may_%n(o boolean) returns boolean language plpgsql stable security definer as $$ begin return not o; end $$;
create policy p on %t using (app.may_%n(open));
-- entry: change: functions replaced
create table app.h_%n (id int primary key, who uuid);
insert into app.h_%n values (1, '10000000-0000-4000-8000-000000000001'), (2, '20000000-0000-4000-8000-000000000002'), (3, '30000000-0000-4000-8000-000000000003');
alter publication supabase_realtime add table app.h_%n;
create function app.may_%n(n int) returns boolean language sql stable security definer set search_path = '' as $$ select exists (select from app.h_%n h where h.id = n and h.who = auth.uid()) $$;
create policy p on %t using (app.may_%n(org));
-- then
create or replace function app.may_%n(n int) returns boolean language sql stable security definer set search_path = '' as $$ select exists (select from app.h_%n h where h.id = n and h.who <> auth.uid()) $$;
-- then
alter function app.may_%n(int) security invoker;
-- then
alter function app.may_%n(int) security definer; alter function app.may_%n(int) owner to definer;
-- then
grant select on app.h_%n to definer; alter function app.may_%n(int) strict;
-- then
alter function app.may_%n(int) set search_path to app; alter table app.h_%n rename to other_%n;
create view app.h_%n as select id, who from app.other_%n; grant select on app.h_%n to definer;
-- entry: change: overloads appear
create function app.word_%n(a text) returns text language sql stable as $$ select a $$;
create function app.may_%n(a varchar) returns boolean language sql stable as $$ select app.word_%n(a) = 'open' $$;
create policy p on %t using (app.may_%n(slug));
-- then
create function app.word_%n(a varchar) returns text language sql stable as $$ select 'open'::text $$;
-- then
drop function app.word_%n(varchar);
-- entry: change: search path
create schema a_%n; create schema b_%n; grant usage on schema a_%n, b_%n to public;
create function a_%n.word() returns text language sql stable as $$ select 'open'::text $$;
create function b_%n.word() returns text language sql stable as $$ select 'ab'::text $$;
create function app.may_%n(s text) returns boolean language plpgsql stable set search_path = a_%n, b_%n as $$ begin return s = word(); end $$;
create policy p on %t using (app.may_%n(state));
-- then
alter function app.may_%n(text) set search_path = b_%n, a_%n;
-- then
drop function b_%n.word();
-- then
revoke usage on schema a_%n from public;
-- then
drop function a_%n.word(); create function b_%n.word() returns text language sql stable as $$ select 'draft'::text $$;
-- entry: change: labels of an enum
create type app.mood_%n as enum ('low', 'high');
alter table %t add column mood app.mood_%n default 'low';
create policy p on %t using (mood < 'high' or rank > 2);
-- then
alter type app.mood_%n add value 'mid' before 'high';
-- then
alter table %t alter column mood set default 'mid'; create policy q on %t as restrictive using (mood <> 'low' or open);
-- then
alter type app.mood_%n rename value 'low' to 'least';
-- then
alter type app.mood_%n add value 'none' before 'least';
-- then
alter table %t alter column mood set default 'none';
-- entry: change: a domain
create domain app.short_%n as text;
alter table %t add column short app.short_%n default 'ab';
create policy p on %t using (short = state or short is null);
-- then
alter table %t alter column short set default 'open';
-- then
alter domain app.short_%n add constraint c check (value <> 'x');
-- entry: change: a composite type
create type app.pair_%n as (a int, b text);
alter table %t add column pair app.pair_%n default row(1, 'x');
create policy p on %t using ((pair).a = rank);
-- then
alter type app.pair_%n add attribute c int;
-- then
alter table %t alter column pair set default row(2, 'y', 3);
-- then
alter type app.pair_%n drop attribute b;
-- entry: change: a table that is looked into
create table app.h_%n (id int primary key, who uuid, ok boolean);
insert into app.h_%n values (1, '10000000-0000-4000-8000-000000000001', true), (2, '20000000-0000-4000-8000-000000000002', false), (3, null, true);
grant select on app.h_%n to public; alter publication supabase_realtime add table app.h_%n;
create function app.may_%n(n int) returns boolean language plpgsql stable as $$
begin
  return exists (select from app.h_%n h where h.id = n and (h.who = auth.uid() or h.ok));
end $$;
create policy p on %t using (app.may_%n(org));
-- then
alter table app.h_%n rename column ok to fine; alter table app.h_%n add column ok boolean default false;
-- then
alter table app.h_%n enable row level security;
-- then
create policy mine on app.h_%n using (who = auth.uid());
-- then
alter table app.h_%n alter column ok type text using ok::text;
-- then
alter table app.h_%n alter column ok type boolean using true;
-- entry: change: a column's values by DDL
create table app.h_%n (id int primary key, grade int);
insert into app.h_%n select n, n from generate_series(1, 4) n;
grant select on app.h_%n to public; alter publication supabase_realtime add table app.h_%n;
create function app.grade_%n(n int) returns int language sql stable as $$ select h.grade from app.h_%n h where h.id = n $$;
create policy p on %t using (app.grade_%n(org) > 2);
-- then
alter table app.h_%n alter column grade type int using 5 - grade;
-- then
alter table app.h_%n add column more int default 3; alter policy p on %t using ((select h.more from app.h_%n h where h.id = org) >= rank);
-- then
alter table app.h_%n drop column more cascade; create policy p on %t using (exists (select from app.h_%n h where h.id = org));
-- then
truncate app.h_%n;
-- then
alter table app.h_%n drop constraint h_%n_pkey; insert into app.h_%n values (1, 1), (1, 1), (2, 2);
-- then
alter table app.h_%n replica identity full; delete from app.h_%n where id = 1;
-- entry: change: its publication
create table app.h_%n (id int primary key);
insert into app.h_%n values (1), (2);
grant select on app.h_%n to public; alter publication supabase_realtime add table app.h_%n;
create policy p on %t using (org in (select h.id from app.h_%n h));
-- then
alter publication supabase_realtime drop table app.h_%n;
-- then
insert into app.h_%n values (3); delete from app.h_%n where id = 1;
-- then
alter publication supabase_realtime add table app.h_%n;
-- then
insert into app.h_%n values (4);
-- entry: change: children of it
create table app.h_%n (id int primary key);
insert into app.h_%n values (1), (2);
grant select on app.h_%n to public; alter publication supabase_realtime add table app.h_%n;
create policy p on %t using (org in (select h.id from app.h_%n h));
-- then
create table app.more_%n (primary key (id)) inherits (app.h_%n); insert into app.more_%n values (3);
-- then
drop table app.more_%n;
-- entry: change: partitions of it
create table app.h_%n (id int primary key) partition by list (id);
create table app.h_%n_a partition of app.h_%n for values in (1, 2);
create table app.h_%n_b partition of app.h_%n default;
insert into app.h_%n values (1), (2), (3);
grant select on app.h_%n to public; alter publication supabase_realtime add table app.h_%n;
create policy p on %t using (org in (select h.id from app.h_%n h));
-- then
alter table app.h_%n detach partition app.h_%n_a;
-- then
delete from app.h_%n_a where id = 1; insert into app.h_%n_b values (4);
-- then
alter table app.h_%n attach partition app.h_%n_a for values in (1, 2);
-- then
truncate app.h_%n_b;
-- entry: change: its place taken by another
create table app.h_%n (id int primary key);
insert into app.h_%n values (1), (2);
grant select on app.h_%n to public; alter publication supabase_realtime add table app.h_%n;
create function app.in_%n(n int) returns boolean language sql stable as $$ select n in (select h.id from app.h_%n h) $$;
create policy p on %t using (app.in_%n(org));
-- then
alter table app.h_%n rename to old_%n; create table app.h_%n (id int primary key); insert into app.h_%n values (3); grant select on app.h_%n to public;
-- then
alter publication supabase_realtime add table app.h_%n; insert into app.h_%n values (4);
-- then
drop table app.h_%n; alter table app.old_%n rename to h_%n;
-- entry: change: memberships of roles
create policy a on %t to keeper using (open);
create policy b on %t as restrictive to staff using (rank > 0);
create policy c on %t to staff using (owner is not null);
-- then
grant keeper to staff;
-- then
grant staff to guest; alter role guest inherit;
-- then
revoke keeper from staff;
-- then
alter role keeper bypassrls;
-- then
alter role keeper nobypassrls; revoke staff from guest; alter role guest noinherit;
-- entry: change: leaves of the table itself
alter publication supabase_realtime drop table %t;
alter table %t rename to old_%n;
create table %t (like app.note) partition by list (open);
create table app.leaf_%n partition of %t for values in (true);
create table app.rest_%n partition of %t default;
alter table app.leaf_%n add primary key (id); alter table app.rest_%n add primary key (id);
alter table %t enable row level security; alter table app.leaf_%n enable row level security;
grant select on %t, app.leaf_%n, app.rest_%n to public;
create policy p on app.leaf_%n using (rank > 1);
alter publication supabase_realtime add table %t;
-- then
alter table app.rest_%n enable row level security;
-- then
alter policy p on app.leaf_%n using (owner = auth.uid()); create policy p on app.rest_%n to staff, guest using (true);
-- then
revoke select on app.leaf_%n from public; grant select on app.leaf_%n to staff;
-- entry: change: a trigger that writes what is looked into
create table app.h_%n (id int primary key, who uuid);
grant select on app.h_%n to public; alter publication supabase_realtime add table app.h_%n;
create function app.note_%n() returns trigger language plpgsql as $$ begin insert into app.h_%n values (new.id, new.owner) on conflict do nothing; return new; end $$;
create trigger after_%n after insert or update on %t for each row execute function app.note_%n();
create policy p on %t using (exists (select from app.h_%n h where h.id = %t.id and h.who = auth.uid()));
-- then
alter table %t disable trigger after_%n;
-- then
create or replace function app.note_%n() returns trigger language plpgsql as $$ begin insert into app.h_%n values (new.id, new.other) on conflict (id) do update set who = excluded.who; return new; end $$;
alter table %t enable trigger after_%n;
-- entry: change: a view
create view app.v_%n as select m.org, m.who from app.members m where m.active;
create policy p on %t using (org in (select v.org from app.v_%n v where v.who = auth.uid()));
grant select on app.v_%n to public;
-- then
create or replace view app.v_%n as select m.org, m.who from app.members m where not m.active;
-- then
alter view app.v_%n owner to definer;
-- then
revoke select on app.v_%n from public;
-- entry: change: settings
create policy p on %t using (state = current_setting('app.state_%n', true));
-- then
do $$ begin execute format('alter database %I set app.state_%n = %L', current_database(), 'open'); end $$;
-- then
do $$ begin execute format('alter database %I reset app.state_%n', current_database()); end $$;
-- entry: change: the system's functions
create policy p on %t using (owner = auth.uid() or (auth.jwt() ->> 'level') = '3');
-- then
create or replace function auth.uid() returns uuid language sql stable as $$ select coalesce(nullif(current_setting('request.jwt.claim.sub', true), ''), (nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub'))::uuid $$;
-- entry: change: identity of the table
create policy p on %t using (owner = auth.uid() and title is not null);
-- then
alter table %t replica identity full;
-- then
alter table %t replica identity default; alter table %t alter column title set storage external;
