-- walcast's own schema. Nothing in it is needed by subscribers, and nothing is granted to them.

create schema if not exists walcast;
comment on schema walcast is 'What the walcast server keeps for itself.';

create table if not exists walcast.slots (
  slot_name text primary key,
  incarnation bigint not null,
  created_at timestamptz not null default now()
);
comment on table walcast.slots is
  'How often each replication slot has been created. Positions of different incarnations cannot be compared.';
comment on column walcast.slots.slot_name is 'The slot, as in pg_replication_slots.';
comment on column walcast.slots.incarnation is 'Grows by one each time walcast creates the slot.';
comment on column walcast.slots.created_at is 'When this incarnation began.';

-- Announces a command that may change who may see what: a message in the write-ahead log, at the place where the command
-- commits. The message is a hint without content; walcast reads the catalog itself. An announcement is never worth a
-- failed command, so every error ends here. It runs as whoever issued the command and needs no privilege.
create or replace function walcast.announce_ddl() returns event_trigger
  language plpgsql
  set search_path = ''
as $$
begin
  begin
    if tg_event = 'sql_drop' then
      -- Nothing but temporary objects: nobody can subscribe to those.
      if not exists (select from pg_catalog.pg_event_trigger_dropped_objects() as o where not o.is_temporary) then
        return;
      end if;
    elsif tg_tag like 'DROP %' and tg_tag <> 'DROP OWNED' then
      -- The same command fires sql_drop. DROP OWNED may revoke without dropping anything.
      return;
    elsif (
      select pg_catalog.count(*) > 0 and pg_catalog.bool_and(c.schema_name is not distinct from 'pg_temp')
      from pg_catalog.pg_event_trigger_ddl_commands() as c
    ) then
      return;
    end if;
  exception when others then
    -- What the command touched is unknown, so it is announced.
    null;
  end;
  perform pg_catalog.pg_logical_emit_message(true, 'walcast', 'ddl');
exception when others then
  raise log 'walcast: % was not announced: %', tg_tag, sqlerrm;
end
$$;
comment on function walcast.announce_ddl() is
  'Event trigger: writes a message into the write-ahead log when tables, policies, functions or grants change.';
