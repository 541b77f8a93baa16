-- The event triggers that announce schema changes (walcast.announce_ddl, sql/walcast.sql). Creating one needs a
-- superuser, or what the provider puts in its place. Without them walcast compares the catalog with every batch instead.
--
-- `enable always`, so that they also fire where session_replication_role is replica, as restore tools set it.

do $$
begin
  if not exists (select from pg_catalog.pg_event_trigger where evtname = 'walcast_ddl') then
    create event trigger walcast_ddl on ddl_command_end execute function walcast.announce_ddl();
  end if;
  if not exists (select from pg_catalog.pg_event_trigger where evtname = 'walcast_drop') then
    create event trigger walcast_drop on sql_drop execute function walcast.announce_ddl();
  end if;
end
$$;

alter event trigger walcast_ddl enable always;
comment on event trigger walcast_ddl is 'Announces created and altered objects, grants and revokes to walcast.';

alter event trigger walcast_drop enable always;
comment on event trigger walcast_drop is 'Announces dropped objects to walcast.';
