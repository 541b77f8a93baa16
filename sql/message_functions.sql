-- What the server needs of realtime.messages, whoever owns that table: its login calls these functions and needs no right
-- of its own. Only roles that `walcast setup --login` has granted them to may.
--
-- They act as whoever ran this script, who must be exempt from the table's policies: its owner, or a superuser.

-- A day in UTC has a partition. Some are made ahead, so that a server may be away for a while; those older than three
-- days are dropped with their rows, if they were made here. Gives up on a lock soon: it runs again within the hour, and
-- dropping a partition makes everybody wait who uses the table.
create or replace function walcast.keep_message_partitions() returns text
  language plpgsql security definer
  set search_path = '' set timezone = 'UTC' set lock_timeout = '500ms'
as $$
declare
  mark constant text := 'Broadcasts of one day; walcast drops it with its rows after three more.';
  parent constant oid := pg_catalog.to_regclass('realtime.messages');
  keeper constant text := (select relowner::pg_catalog.regrole::text from pg_catalog.pg_class where oid = parent);
  today constant date := pg_catalog.clock_timestamp()::date;
  day date;
  child text;
  trouble text;
begin
  if not exists (select from pg_catalog.pg_class where oid = parent and relkind = 'p') then
    return 'realtime.messages is missing, or not partitioned';
  end if;
  begin
    perform pg_catalog.pg_advisory_xact_lock(
      pg_catalog.hashtext('walcast'), pg_catalog.hashtext('realtime.messages'));
  exception when lock_not_available then
    return 'somebody else looks after the partitions of realtime.messages';
  end;

  for ahead in -1 .. 3 loop
    day := today + ahead;
    child := 'messages_' || pg_catalog.to_char(day, 'YYYY_MM_DD');
    continue when pg_catalog.to_regclass('realtime.' || child) is not null;
    begin
      -- Attached instead of created in place: that does not wait for readers and writers, nor do they for it.
      execute pg_catalog.format(
        'create table realtime.%I (like realtime.messages including defaults including constraints)', child);
      execute pg_catalog.format('comment on table realtime.%I is %L', child, mark);
      -- Default privileges may open it to somebody; its rows are to be seen through realtime.messages.
      execute pg_catalog.format('alter table realtime.%I enable row level security', child);
      if keeper <> current_user::pg_catalog.regrole::text then
        execute pg_catalog.format('alter table realtime.%I owner to %s', child, keeper);
      end if;
      execute pg_catalog.format(
        'alter table realtime.messages attach partition realtime.%I for values from (%L) to (%L)',
        child, day, day + 1);
    exception
      -- Another partition has that day.
      when invalid_object_definition then null;
      when others then
        trouble := coalesce(trouble, pg_catalog.format('realtime.%s was not made: %s', child, sqlerrm));
    end;
  end loop;

  perform pg_catalog.set_config('lock_timeout', '100ms', true);
  for child in
    select c.relname
    from pg_catalog.pg_inherits as i join pg_catalog.pg_class as c on c.oid = i.inhrelid
    where i.inhparent = parent
      and c.relname ~ '^messages_[0-9]{4}_[0-9]{2}_[0-9]{2}$'
      and c.relname::text collate "C" < 'messages_' || pg_catalog.to_char(today - 3, 'YYYY_MM_DD')
      and pg_catalog.obj_description(c.oid, 'pg_class') = mark
  loop
    begin
      execute pg_catalog.format('drop table realtime.%I', child);
    exception when others then
      trouble := coalesce(trouble, pg_catalog.format('realtime.%s was not dropped: %s', child, sqlerrm));
    end;
  end loop;
  return trouble;
end
$$;
comment on function walcast.keep_message_partitions() is
  'Makes the next partitions of realtime.messages and drops the old ones. NULL, or what it could not do.';
revoke execute on function walcast.keep_message_partitions() from public;

-- The rows by which a subscriber's right to read is asked for. The transaction is always rolled back.
create or replace function walcast.probe_messages(topic text, broadcast uuid, presence uuid) returns void
  language plpgsql security definer
  set search_path = ''
as $$
declare
  moment constant timestamp := pg_catalog.now() at time zone 'utc';
begin
  insert into realtime.messages (id, topic, extension, inserted_at, updated_at)
  values (probe_messages.broadcast, probe_messages.topic, 'broadcast', moment, moment);
  if probe_messages.presence is not null then
    insert into realtime.messages (id, topic, extension, inserted_at, updated_at)
    values (probe_messages.presence, probe_messages.topic, 'presence', moment, moment);
  end if;
end
$$;
comment on function walcast.probe_messages(text, uuid, uuid) is
  'Inserts the rows by which a subscriber''s right to read a private channel is asked for; to be rolled back.';
revoke execute on function walcast.probe_messages(text, uuid, uuid) from public;

-- Who may read a channel is asked before. Columns that a table from elsewhere may lack are looked for. The order is that of
-- the commits if Postgres keeps their times, and of the transactions' beginnings otherwise; the server knows more of the newest.
drop function if exists walcast.replay_messages(text, bigint, integer);
create or replace function walcast.replay_messages(topic text, since bigint, count integer, these uuid[])
  returns table (id uuid, event text, payload text, binary_payload bytea)
  language plpgsql stable security definer
  set search_path = ''
as $$
declare
  columns constant text[] := array(
    select a.attname::text from pg_catalog.pg_attribute as a
    where a.attrelid = pg_catalog.to_regclass('realtime.messages') and a.attnum > 0 and not a.attisdropped);
  number constant text := case when 'sequence' = any (columns) then 'm.sequence' else 'm.ctid' end;
  tracks constant boolean := pg_catalog.current_setting('track_commit_timestamp')::boolean;
begin
  return query execute pg_catalog.format(
    'select n.id, n.event, n.payload::text, n.binary_payload from (
       select l.* from (
         select m.id, m.event, m.payload, %s, m.inserted_at, %s as number, %s as committed_at
         from realtime.messages as m
         where m.topic = $1 and m.private and m.extension = ''broadcast''
           and m.inserted_at >= pg_catalog.to_timestamp($2 / 1000.0) at time zone ''utc''
           and m.inserted_at < (pg_catalog.now() + interval ''1 minute'') at time zone ''utc''
           and m.event is not null and %s and %s
         order by m.inserted_at desc, number desc
         limit $3 + %s
       ) as l
       order by l.committed_at desc, l.inserted_at desc, l.number desc
       limit $3
     ) as n
     order by n.committed_at, n.inserted_at, n.number',
    case when 'binary_payload' = any (columns) then 'm.binary_payload' else 'null::bytea as binary_payload' end,
    number,
    case when tracks
      then 'coalesce(pg_catalog.pg_xact_commit_timestamp(m.xmin) at time zone ''utc'', m.inserted_at)'
      else 'm.inserted_at' end,
    case when 'binary_payload' = any (columns) then '(m.payload is not null or m.binary_payload is not null)'
      else 'm.payload is not null' end
      || case when 'expires_at' = any (columns)
        then ' and (m.expires_at is null or m.expires_at > pg_catalog.now() at time zone ''utc'')' else '' end,
    case when these is null then 'true' else 'm.id = any ($4)' end,
    -- Among so many more one that began earlier may have been committed later.
    case when tracks then 64 else 0 end
  ) using replay_messages.topic, replay_messages.since, replay_messages.count, these;
end
$$;
comment on function walcast.replay_messages(text, bigint, integer, uuid[]) is
  'The newest broadcasts of a private channel since a time in milliseconds since 1970, or the newest of these; the oldest first.';
revoke execute on function walcast.replay_messages(text, bigint, integer, uuid[]) from public;

-- Whether somebody may store is asked before. The id was chosen when the broadcast was delivered.
drop function if exists walcast.store_message(text, text, text, bytea, integer);
create or replace function walcast.store_message(
  id uuid, topic text, event text, payload text, binary_payload bytea, seconds integer
) returns uuid
  language plpgsql security definer
  set search_path = ''
as $$
declare
  stored uuid;
begin
  insert into realtime.messages (id, topic, extension, event, payload, binary_payload, private, skip_broadcast, inserted_at,
    updated_at, expires_at)
  select store_message.id, store_message.topic, 'broadcast', store_message.event, store_message.payload::jsonb,
    store_message.binary_payload, true, true, moment, moment, moment + pg_catalog.make_interval(secs => seconds)
  from (select pg_catalog.now() at time zone 'utc') as t (moment)
  returning realtime.messages.id into stored;
  return stored;
end
$$;
comment on function walcast.store_message(uuid, text, text, text, bytea, integer) is
  'Stores a broadcast that was delivered already, for replay within some seconds.';
revoke execute on function walcast.store_message(uuid, text, text, text, bytea, integer) from public;

-- What it could not do is said by walcast check, and it is done by the server as well.
do $$
begin
  perform walcast.keep_message_partitions();
end
$$;
