create type level as enum ('low', 'mid', 'high');
create type pair as (a integer, b text);
create table team (
  id uuid primary key, name text, parent uuid, open boolean, level level, tags text[], quota integer, made timestamptz);
create table member (
  team_id uuid, user_id uuid, role text, level level, active boolean, rank integer, since timestamptz,
  primary key (team_id, user_id));
create table secret (id integer primary key, owner uuid, word text);
create table note (
  id integer, owner uuid, team_id uuid, word text, kind varchar(40), level level, open boolean, rank integer,
  big bigint, small smallint, people uuid[], tags text[], data jsonb, made timestamptz, topic text);
alter table note enable row level security;
alter table secret enable row level security;

create function my_id() returns uuid language sql stable as 'select auth.uid()';
create function is_member(team uuid) returns boolean language sql stable security definer set search_path = '' as
  'select exists (select 1 from public.member m where m.team_id = team and m.user_id = auth.uid())';
create function is_member_here(team uuid) returns boolean language sql stable as
  'select exists (select 1 from member where team_id = $1 and user_id = auth.uid())';
create function my_teams() returns setof uuid language sql stable security definer set search_path = public as
  'select team_id from member where user_id = auth.uid() and active';
create function my_rank(team uuid) returns integer language sql stable security definer as
  'select m.rank from public.member m where m.team_id = team and m.user_id = auth.uid() limit 1';
create function some_role() returns text language sql stable security definer as
  'select role from public.member where user_id = auth.uid() limit 1';
create function sees_secret(wanted uuid) returns boolean language sql stable as
  'select exists (select 1 from secret where owner = wanted)';
create function at_least(given level, wanted level) returns boolean language sql immutable as 'select given >= wanted';
create function strict_same(a uuid, b uuid) returns boolean language sql immutable strict as 'select a = b';
create function with_default(a integer, b integer default 2) returns boolean language sql immutable as 'select a > b';
create function loops(team uuid) returns boolean language sql stable as
  'select exists (select 1 from note n where n.team_id = team)';
create function missing_table() returns boolean language sql stable set search_path = '' as
  'select exists (select 1 from member)';
create function checked(team uuid) returns boolean language plpgsql stable security definer as $$
declare
  found_role text;
  mine uuid := auth.uid();
begin
  if mine is null then
    return false;
  end if;
  select m.role into found_role from public.member m where m.team_id = team and m.user_id = mine;
  if not found then
    return false;
  elsif found_role = 'admin' then
    return true;
  end if;
  return found_role is not null and length_ok(found_role);
end
$$;
create function length_ok(value text) returns boolean language plpgsql immutable as $$
begin
  if value = '' then
    raise exception 'empty';
  end if;
  return true;
end
$$;
create function as_uuid(value text) returns uuid language plpgsql immutable as $$
begin
  return value::uuid;
exception
  when invalid_text_representation then
    return null;
end
$$;
create function any_error(value text) returns boolean language plpgsql stable as $$
declare
  n integer;
begin
  n := value;
  return n > 0;
exception when others then
  return false;
end
$$;
create function no_return(flag boolean) returns boolean language plpgsql immutable as $$
begin
  if flag then
    return true;
  end if;
end
$$;
create function record_of(team uuid) returns boolean language plpgsql stable security definer as $$
declare
  r record;
  t public.team%rowtype;
begin
  select * into t from public.team where id = team;
  select m.role, m.rank into r from public.member m where m.team_id = team and m.user_id = auth.uid();
  return coalesce(t.open, false) or r.role = 'admin';
end
$$;
create function teams_of(who uuid) returns table (team uuid, what text) language plpgsql stable security definer as $$
begin
  return query select m.team_id, m.role from public.member m where m.user_id = who;
end
$$;
create function out_of(who uuid, out best integer) language plpgsql stable security definer as $$
begin
  select m.rank into best from public.member m where m.user_id = who order by m.rank desc nulls last limit 1;
end
$$;
create function whole(n note) returns boolean language sql stable as 'select n.owner = auth.uid() and n.open';

-- policy: constants
create policy p on note using (true);
-- policy: nothing
create policy p on note using (false);
-- policy: owner
create policy p on note using (owner = auth.uid());
-- policy: owner wrapped
create policy p on note using (owner = (select auth.uid()));
-- policy: open or owner wrapped
create policy p on note using (open or owner = (select auth.uid()));
-- policy: open or owner
create policy p on note using (open or owner = auth.uid());
-- policy: two policies of which one is true
create policy a on note using (true);
create policy p on note using (owner = auth.uid());
-- policy: several policies
create policy a on note using (open);
create policy b on note as restrictive using (rank > 0 or rank is null);
create policy p on note using (owner = (select auth.uid()));
-- policy: restrictive only
create policy p on note as restrictive using (true);
-- policy: three values
create policy p on note using (not (open and rank = 1) or (word = 'a') is not true or level is null);
-- policy: distinct
create policy p on note using (rank is distinct from 1 and owner is not distinct from (select auth.uid()));
-- policy: lists
create policy p on note using (word in ('admin', 'a') or rank not in (1, 2) or kind in ('a', 'b', null));
-- policy: not in with null
create policy p on note using (word not in ('admin', null) is not false);
-- policy: arrays
create policy p on note using ((select auth.uid()) = any (people) and not 'admin' = all (tags));
-- policy: subscript
create policy p on note using (people[1] = (select auth.uid()) or tags[9] is null and people[2] is not null);
-- policy: enum order
create policy p on note using (level >= 'mid' and at_least(level, 'low'));
-- policy: numbers of several types
create policy p on note using (big > rank or small = rank or big = 10);
-- policy: varchar against text
create policy p on note using (kind = word or kind::text = 'admin');
-- policy: case
create policy p on note using (case level when 'low' then open when 'mid' then rank > 1 end);
-- policy: case guards a cast
create policy p on note using (case when word = 'a' then false else word::uuid = owner end);
-- policy: coalesce and nullif
create policy p on note using (coalesce(nullif(word, ''), kind, 'none') <> 'none' and nullif(rank, 1) is not null);
-- policy: greatest
create policy p on note using (greatest(rank, small, 1) = 2 or least(rank, null) = 3);
-- policy: claims
create policy p on note using ((auth.jwt() ->> 'role') = 'authenticated' and owner::text = (auth.jwt() ->> 'sub'));
-- policy: nested claims
create policy p on note using (((auth.jwt() -> 'app_metadata') ->> 'admin') = word);
-- policy: setting
create policy p on note using (word = current_setting('app.word', true) or owner = nullif(current_setting('app.id', true), '')::uuid);
-- policy: setting that must be there
create policy p on note using (word = current_setting('app.must'));
-- policy: role of the claim and of the session
create policy p on note using (auth.role() = 'authenticated' and current_user = 'authenticated');
-- policy: email
create policy p on note using (auth.email() = word);
-- policy: time
create policy p on note using (made < now() or made > current_timestamp and made = 'infinity');
-- policy: to a role
create policy p on note to authenticated using (open);
-- policy: exists
create policy p on note using (exists (select 1 from member m where m.team_id = note.team_id and m.user_id = auth.uid()));
-- policy: not exists
create policy p on note using (not exists (select from member m where m.team_id = note.team_id and m.user_id = (select auth.uid())));
-- policy: in
create policy p on note using (team_id in (select m.team_id from member m where m.user_id = auth.uid()));
-- policy: not in
create policy p on note using (team_id not in (select parent from team));
-- policy: not in without null
create policy p on note using (team_id not in (select id from team where open));
-- policy: subject in
create policy p on note using (auth.uid() in (select user_id from member where team_id = note.team_id and active));
-- policy: scalar
create policy p on note using ((select role from member m where m.team_id = note.team_id and m.user_id = auth.uid()) = 'admin');
-- policy: scalar of many rows
create policy p on note using ((select rank from member m where m.team_id = note.team_id) = 1);
-- policy: rows
create policy p on note using ((team_id, owner) in (select m.team_id, m.user_id from member m));
-- policy: joins
create policy p on note using (exists (select 1 from member m join team t on t.id = m.team_id where t.parent = note.team_id and m.user_id = auth.uid()));
-- policy: left join
create policy p on note using (exists (select 1 from team t left join member m on m.team_id = t.id and m.user_id = auth.uid() where t.id = note.team_id and (m.user_id is null or m.active)));
-- policy: using
create policy p on note using (exists (select 1 from member a join member b using (team_id) where a.user_id = auth.uid() and b.user_id = note.owner));
-- policy: nested queries
create policy p on note using (team_id in (select id from team where parent in (select team_id from member where user_id = (select auth.uid()))));
-- policy: derived table
create policy p on note using (exists (select 1 from (select team_id, role from member where user_id = auth.uid()) mine where mine.team_id = note.team_id and mine.role = 'admin'));
-- policy: union
create policy p on note using (owner in (select user_id from member where team_id = note.team_id union select auth.uid()));
-- policy: with
create policy p on note using (team_id in (with mine as (select team_id from member where user_id = auth.uid()) select team_id from mine));
-- policy: recursive
create policy p on note using (team_id in (
  with recursive below as (select id from team where id in (select team_id from member where user_id = auth.uid())
    union select t.id from team t join below b on t.parent = b.id) select id from below));
-- policy: distinct and order
create policy p on note using (rank = (select distinct m.rank from member m where m.user_id = auth.uid() order by m.rank desc nulls last limit 1));
-- policy: looked-up table without policies
create policy p on note using (exists (select 1 from secret s where s.owner = note.owner));
-- policy: looked-up table with policies
create policy s on secret using (owner = auth.uid());
create policy p on note using (exists (select 1 from secret s where s.owner = note.owner));
-- policy: looked-up table without grant
revoke all on secret from public;
create schema hidden;
create table hidden.list (id uuid);
grant usage on schema hidden to public;
create policy p on note using (open or exists (select 1 from hidden.list l where l.id = owner));
-- policy: recursion
create policy p on note using (exists (select 1 from note n where n.owner = auth.uid()));
-- policy: recursion over two tables
alter table member enable row level security;
create policy m on member using (exists (select 1 from note n where n.team_id = member.team_id));
create policy p on note using (open or exists (select 1 from member m where m.team_id = note.team_id));
-- policy: recursion through a function
create policy p on note using (loops(team_id));
-- policy: helper
create policy p on note using (owner = my_id());
-- policy: definer
create policy p on note using (is_member(team_id));
-- policy: invoker with nested policies
alter table member enable row level security;
create policy m on member using (user_id = auth.uid() and active);
create policy p on note using (is_member_here(team_id));
-- policy: definer and nested policies
alter table member enable row level security;
create policy p on note using (is_member(team_id) and not is_member_here(team_id));
-- policy: set
create policy p on note using (team_id in (select my_teams()));
-- policy: set in from
create policy p on note using (exists (select 1 from my_teams() t where t = team_id));
-- policy: value of a helper
create policy p on note using (my_rank(team_id) >= rank);
-- policy: first of several rows
create policy p on note using (some_role() = word);
-- policy: strict
create policy p on note using (strict_same(owner, team_id) is null or strict_same(owner, (select auth.uid())));
-- policy: default
create policy p on note using (with_default(rank) or with_default(b => small, a => rank));
-- policy: missing table
create policy p on note using (open or missing_table());
-- policy: lookup of a secret by an invoker
create policy p on note using (sees_secret(owner));
-- policy: without execute
revoke execute on function is_member(uuid) from public;
create policy p on note using (open or is_member(team_id));
-- policy: plpgsql
create policy p on note using (checked(team_id));
-- policy: plpgsql catches a cast
create policy p on note using (as_uuid(word) = owner or as_uuid(topic) = (select auth.uid()));
-- policy: plpgsql catches all
create policy p on note using (any_error(word));
-- policy: plpgsql without return
create policy p on note using (no_return(open));
-- policy: plpgsql records
create policy p on note using (record_of(team_id));
-- policy: plpgsql table
create policy p on note using (team_id in (select team from teams_of(auth.uid()) where what = 'admin'));
-- policy: plpgsql out
create policy p on note using (out_of((select auth.uid())) >= rank);
-- policy: whole row
create policy p on note using (whole(note));
-- policy: count
create policy p on note using ((select count(*) from member m where m.team_id = note.team_id) > 1);
-- policy: aggregates
create policy p on note using (rank <= (select max(m.rank) from member m where m.team_id = note.team_id having count(*) > 1) or (select bool_or(active) from member where user_id = auth.uid()));
-- policy: group by
create policy p on note using (owner in (select user_id from member group by user_id having count(*) >= 2));
-- policy: array of a query
create policy p on note using (team_id = any (array(select m.team_id from member m where m.user_id = auth.uid())));
-- policy: aggregated array
create policy p on note using (team_id = any ((select array_agg(m.team_id) from member m where m.user_id = auth.uid())::uuid[]));
-- policy: unnest
create policy p on note using (exists (select 1 from unnest(people) who join member m on m.user_id = who where m.active));
-- policy: text
create policy p on note using (word like 'a%' or topic ilike '%ADMIN%' or word || ':' || kind = topic);
-- policy: path
create policy p on note using ((string_to_array(word, '/'))[1] = (select auth.uid())::text or split_part(topic, ':', 2) = owner::text);
-- policy: unsafe cast of a part
create policy p on note using (split_part(topic, ':', 2)::uuid = owner);
-- policy: json of the row
create policy p on note using (data ->> 'a' = 'b' or data ? 'admin' or data @> '{"a": 1}' or jsonb_typeof(data) = 'array');
-- policy: json elements
create policy p on note using (exists (select 1 from jsonb_array_elements_text(case jsonb_typeof(data) when 'array' then data else '[]' end) e where e = word));
-- policy: array operators
create policy p on note using (tags && array['admin', 'a'] or people @> array[(select auth.uid())] or cardinality(tags) = 0);
-- policy: regex
create policy p on note using (topic ~ '^[a-z]+:[0-9a-f-]{36}$');
-- policy: current date
create policy p on note using (made::date > current_date or made > now() - interval '1 day');
-- policy: arithmetic
create policy p on note using (rank + small * 2 > 3 or big % 2 = 1);
-- policy: division
create policy p on note using (10 / rank > 2);
-- policy: without condition
create policy p on note for select;
-- policy: without condition beside others
create policy a on note for select;
create policy b on note as restrictive for select;
create policy p on note using (open);
-- policy: negated membership under a bad subject
create policy p on note using (not (team_id in (select team_id from member where user_id = (select auth.uid())) or open));
-- policy: negated look-up with a cast
create policy p on note using (not exists (select 1 from secret s where s.word::uuid = note.owner and s.owner = note.team_id));
-- policy: precedence of operators
create policy p on note using (not open = (rank = 1) or rank + 1 = 2 and small <> 1 or big is null = open);
-- policy: between and nulls
create policy p on note using (rank between 1 and small or rank not between 0 and 2 and made is not null);
-- policy: comparison of rows
create policy p on note using ((owner, rank) = (team_id, 1) or (owner, rank) <> (team_id, small::int));
-- policy: exists with or inside
create policy p on note using (exists (select 1 from member m where m.user_id = note.owner and (m.active or m.rank > note.rank)));
-- policy: correlated twice
create policy p on note using (exists (select 1 from team t where t.id = note.team_id and exists (
  select 1 from member m where m.team_id = t.parent and m.user_id = note.owner)));
-- policy: except and intersect
create policy p on note using (owner in (select user_id from member except select owner from secret)
  or team_id in (select team_id from member intersect select id from team where open));
-- policy: values
create policy p on note using (word in (select column1 from (values ('a'), ('admin')) v));
-- policy: all
create policy p on note using (rank >= all (select rank from member where team_id = note.team_id));
-- policy: any of a null array
create policy p on note using (not (owner = any (people)));
-- policy: row is null
create policy p on note using ((owner, team_id) is null or (owner, team_id) is not null);
-- policy: a table of the same column names
create policy p on note using (auth.uid() in (select user_id from member where team_id = id::text::uuid) or open);
-- policy: left join of a policed table
alter table member enable row level security;
create policy m on member using (role = 'admin' or user_id = (select auth.uid()));
create policy p on note using (exists (select 1 from team t left join member m on m.team_id = t.id where t.id = note.team_id and m.role is null));
-- policy: role of definer
create function who() returns name language sql stable security definer as 'select current_user';
create policy p on note using (who() <> current_user and current_user in ('anon', 'authenticated'));
-- policy: cross join and comma
create policy p on note using (exists (select 1 from team t, member m where m.team_id = t.id and t.id = note.team_id and m.user_id = note.owner));
-- policy: an estimate behind what the row may lack
create policy p on note using (open or exists (select 1 from member m where m.user_id = coalesce(note.owner, auth.uid())));
-- policy: an estimate in front of what the row may lack
create policy p on note using (open or exists (select 1 from member m where m.user_id = coalesce(auth.uid(), note.owner)));
-- policy: an estimate in a branch that the row decides
create policy p on note using (open or exists (select 1 from member m where m.user_id = case when note.rank > 1 then auth.uid() else note.owner end));
-- policy: no estimate in a branch that the claims decide
create policy p on note using (open or exists (select 1 from member m where m.user_id = case when auth.role() = 'nobody' then auth.uid() else note.owner end));
-- policy: an estimate beside a column of the row
create policy p on note using (open or exists (select 1 from member m where m.role = note.word || auth.uid()::text));
-- policy: no estimate of the row alone
create policy p on note using (open or exists (select 1 from member m where m.active and split_part(note.word, '/', 1) = auth.uid()::text));
