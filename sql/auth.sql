-- auth.uid(), auth.role(), auth.email() and auth.jwt(): the claims of the current subscriber, for use in policies.
--
-- A function that exists is never replaced: projects have their own. Each reads the older setting with one claim
-- (request.jwt.claim.NAME) first, then the JSON object (request.jwt.claims). An empty string counts as unset, since that
-- is what Postgres leaves behind when a SET LOCAL ends. A claim that is missing or JSON null is NULL.
--
-- The bodies are parsed when created (`return …`), so no search_path can change what they call, and Postgres can still
-- inline them into a policy.

do $$
begin
  if pg_catalog.to_regnamespace('auth') is null then
    create schema auth;
    comment on schema auth is 'Who the current subscriber is: functions over the claims of its token.';
  end if;

  if pg_catalog.to_regprocedure('auth.uid()') is null then
    create function auth.uid() returns uuid
      language sql stable parallel safe
      return coalesce(
        nullif(current_setting('request.jwt.claim.sub', true), ''),
        nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub'
      )::uuid;
    comment on function auth.uid() is 'The subscriber''s id: the claim "sub". NULL without one; an error if it is no uuid.';
  end if;

  if pg_catalog.to_regprocedure('auth.role()') is null then
    create function auth.role() returns text
      language sql stable parallel safe
      return coalesce(
        nullif(current_setting('request.jwt.claim.role', true), ''),
        nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'role'
      );
    comment on function auth.role() is 'The role that the subscriber''s token names: the claim "role".';
  end if;

  if pg_catalog.to_regprocedure('auth.email()') is null then
    create function auth.email() returns text
      language sql stable parallel safe
      return coalesce(
        nullif(current_setting('request.jwt.claim.email', true), ''),
        nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'email'
      );
    comment on function auth.email() is 'The subscriber''s address: the claim "email".';
  end if;

  if pg_catalog.to_regprocedure('auth.jwt()') is null then
    create function auth.jwt() returns jsonb
      language sql stable parallel safe
      return coalesce(
        nullif(current_setting('request.jwt.claim', true), ''),
        nullif(current_setting('request.jwt.claims', true), '')
      )::jsonb;
    comment on function auth.jwt() is 'All claims of the subscriber''s token.';
  end if;
end
$$;

-- Granted only where missing: whoever runs this may not own the schema.
do $$
declare
  reader text;
begin
  foreach reader in array array['anon', 'authenticated', 'service_role'] loop
    if not pg_catalog.has_schema_privilege(reader, 'auth', 'usage') then
      execute pg_catalog.format('grant usage on schema auth to %I', reader);
    end if;
  end loop;
end
$$;
