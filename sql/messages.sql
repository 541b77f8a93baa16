-- realtime.messages: what is broadcast from the database, and what the policies of private channels are asked with; and the
-- functions that applications broadcast with.
--
-- Every committed row is broadcast; rows are kept for three days, so that channels can have recent ones replayed. The
-- days are partitions, which sql/message_functions.sql looks after.
--
-- What exists is left as it is: databases that come from elsewhere have a table and functions of these names, which
-- belong to others.

do $$
begin
  if pg_catalog.to_regnamespace('realtime') is null then
    create schema realtime;
    comment on schema realtime is 'Broadcasts from the database, and who may use private channels.';
  end if;
end
$$;

-- Granted only where missing: whoever runs this may not own the schema.
do $$
declare
  member text;
begin
  foreach member in array array['anon', 'authenticated', 'service_role'] loop
    if not pg_catalog.has_schema_privilege(member, 'realtime', 'usage') then
      execute pg_catalog.format('grant usage on schema realtime to %I', member);
    end if;
  end loop;
end
$$;

do $$
begin
  if pg_catalog.to_regclass('realtime.messages') is not null then
    return;
  end if;

  -- Rows of one transaction have the same inserted_at, so that their order needs a number. Partitioned tables take no
  -- identity column before Postgres 17.
  create sequence if not exists realtime.messages_sequence;
  comment on sequence realtime.messages_sequence is 'Numbers the rows of realtime.messages in the order of their insertion.';
  -- Whoever may insert a row must get a number. Nobody learns anything by taking one.
  grant usage on sequence realtime.messages_sequence to public;

  create table realtime.messages (
    topic text not null,
    extension text not null,
    payload jsonb,
    event text,
    private boolean default false,
    updated_at timestamp not null default (now() at time zone 'utc'),
    inserted_at timestamp not null default (now() at time zone 'utc'),
    id uuid not null default gen_random_uuid(),
    binary_payload bytea,
    skip_broadcast boolean not null default false,
    expires_at timestamp,
    sequence bigint not null default nextval('realtime.messages_sequence'),
    primary key (id, inserted_at),
    constraint messages_one_payload check (payload is null or binary_payload is null)
  ) partition by range (inserted_at);
  alter sequence realtime.messages_sequence owned by realtime.messages.sequence;
  alter table realtime.messages enable row level security;
  grant select, insert, update on realtime.messages to anon, authenticated, service_role;

  comment on table realtime.messages is
    'Broadcasts from the database: each committed row is broadcast. Policies on it decide who may use private channels.';
  comment on column realtime.messages.topic is 'The channel, without "realtime:".';
  comment on column realtime.messages.extension is
    'What a policy is asked about: "broadcast", "presence" or "persistence". Broadcasts have "broadcast".';
  comment on column realtime.messages.payload is 'What is broadcast, as JSON.';
  comment on column realtime.messages.event is 'The event that receivers listen for.';
  comment on column realtime.messages.private is 'Whether private channels receive it, or else public ones.';
  comment on column realtime.messages.updated_at is 'When the row last changed, in UTC.';
  comment on column realtime.messages.inserted_at is 'When the row''s transaction began, in UTC; decides its partition.';
  comment on column realtime.messages.id is 'Receivers get it as meta.id.';
  comment on column realtime.messages.binary_payload is 'What is broadcast, as bytes; instead of payload.';
  comment on column realtime.messages.skip_broadcast is 'Stored for replay only, because it was broadcast already.';
  comment on column realtime.messages.expires_at is 'When it is no longer replayed, in UTC.';
  comment on column realtime.messages.sequence is 'The order of insertion among rows of the same moment.';
  comment on constraint messages_one_payload on realtime.messages is 'JSON or bytes, not both.';

  create index messages_topic_inserted_at_idx on realtime.messages (topic, inserted_at desc)
    where private and extension = 'broadcast';
  comment on index realtime.messages_topic_inserted_at_idx is 'Finds what is replayed to a channel.';
end
$$;

do $$
begin
  if pg_catalog.to_regprocedure('realtime.topic()') is null then
    create function realtime.topic() returns text
      language sql stable parallel safe
      return nullif(current_setting('realtime.topic', true), '');
    comment on function realtime.topic() is 'The channel that a policy is asked about, without "realtime:"; else NULL.';
  end if;

  -- Both send as whoever calls them: the policies on realtime.messages decide. A broadcast is never worth a failed
  -- transaction, so every error ends as a warning.
  if pg_catalog.to_regprocedure('realtime.send(jsonb, text, text, boolean)') is null then
    create function realtime.send(payload jsonb, event text, topic text, private boolean default true) returns void
      language plpgsql
      set search_path = ''
    as $body$
    declare
      row_id constant uuid := pg_catalog.gen_random_uuid();
      content jsonb := send.payload;
    begin
      if pg_catalog.jsonb_typeof(content) = 'object' and not content ? 'id' then
        content := content || pg_catalog.jsonb_build_object('id', row_id);
      end if;
      perform pg_catalog.set_config('realtime.topic', send.topic, true);
      insert into realtime.messages (id, payload, event, topic, private, extension)
      values (row_id, content, send.event, send.topic, send.private, 'broadcast');
    exception when others then
      raise warning 'WarnSendingBroadcastMessage: %', sqlerrm;
    end
    $body$;
    comment on function realtime.send(jsonb, text, text, boolean) is
      'Broadcasts a JSON payload when the transaction commits. Never raises; says in a warning why it could not.';
  end if;

  if pg_catalog.to_regprocedure('realtime.send_binary(bytea, text, text, boolean)') is null then
    create function realtime.send_binary(payload bytea, event text, topic text, private boolean default true) returns void
      language plpgsql
      set search_path = ''
    as $body$
    begin
      perform pg_catalog.set_config('realtime.topic', send_binary.topic, true);
      insert into realtime.messages (binary_payload, event, topic, private, extension)
      values (send_binary.payload, send_binary.event, send_binary.topic, send_binary.private, 'broadcast');
    exception when others then
      raise warning 'WarnSendingBroadcastMessage: %', sqlerrm;
    end
    $body$;
    comment on function realtime.send_binary(bytea, text, text, boolean) is
      'Broadcasts bytes when the transaction commits. Never raises; says in a warning why it could not.';
  end if;

  if pg_catalog.to_regprocedure('realtime.broadcast_changes(text, text, text, text, text, record, record, text)') is null then
    create function realtime.broadcast_changes(
      topic_name text,
      event_name text,
      operation text,
      table_name text,
      table_schema text,
      new record,
      old record,
      level text default 'ROW'
    ) returns void
      language plpgsql
      set search_path = ''
    as $body$
    begin
      if level is distinct from 'ROW' then
        raise exception 'realtime.broadcast_changes is for triggers "for each row", not "for each %"',
          pg_catalog.lower(level);
      end if;
      if operation is null or operation not in ('INSERT', 'UPDATE', 'DELETE') then
        raise exception 'realtime.broadcast_changes knows no operation %', pg_catalog.quote_nullable(operation);
      end if;
      perform realtime.send(
        pg_catalog.jsonb_build_object(
          'schema', table_schema,
          'table', table_name,
          'operation', operation,
          'record', case when operation <> 'DELETE' then pg_catalog.to_jsonb(broadcast_changes.new) end,
          'old_record', case when operation <> 'INSERT' then pg_catalog.to_jsonb(broadcast_changes.old) end
        ),
        event_name,
        topic_name,
        true
      );
    end
    $body$;
    comment on function realtime.broadcast_changes(text, text, text, text, text, record, record, text) is
      'For row triggers: broadcasts the change of a row to a private channel when the transaction commits.';
  end if;
end
$$;

-- Rows are published under the name of the table, not of its partitions. It may be made while a server runs: the server reads
-- it as soon as its slot is past every transaction that does not know it.
do $$
begin
  if not exists (
    select from pg_catalog.pg_publication where pubname = 'supabase_realtime_messages_publication'
  ) then
    create publication supabase_realtime_messages_publication for table realtime.messages
      with (publish = 'insert', publish_via_partition_root = true);
    comment on publication supabase_realtime_messages_publication is 'Broadcasts from the database.';
  end if;
end
$$;
