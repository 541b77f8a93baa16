-- The three roles that subscribers' tokens name. Roles that exist are left as they are.
--
-- service_role bypasses row-level security where the role that runs this may grant that (a superuser; from Postgres 16
-- on also a CREATEROLE role that bypasses it itself); elsewhere it is created without, and `walcast check` says so.

do $$
declare
  wanted text;
begin
  foreach wanted in array array['anon', 'authenticated', 'service_role'] loop
    continue when exists (select from pg_catalog.pg_roles where rolname = wanted);
    begin
      if wanted = 'service_role' then
        create role service_role nologin noinherit bypassrls;
      else
        execute pg_catalog.format('create role %I nologin noinherit', wanted);
      end if;
    exception
      -- Created by somebody else in this very moment.
      when duplicate_object or unique_violation then null;
      when insufficient_privilege then
        if wanted <> 'service_role' then
          raise;
        end if;
        create role service_role nologin noinherit;
    end;
    execute pg_catalog.format('comment on role %I is %L', wanted, case wanted
      when 'anon' then 'Subscribers without a session: the role of a token that names nobody.'
      when 'authenticated' then 'Subscribers with a session: the role of a token that names a user.'
      else 'Trusted back ends: sees what row-level security hides from others.'
    end);
  end loop;
end
$$;
