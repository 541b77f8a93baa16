-- A publication without tables: `alter publication supabase_realtime add table …` makes a table realtime.
--
-- Its name is the setting walcast.publication, or supabase_realtime. It must exist before the replication slot does: a
-- slot cannot be read across a moment at which its publication did not exist.

do $$
declare
  publication text := coalesce(nullif(pg_catalog.current_setting('walcast.publication', true), ''), 'supabase_realtime');
begin
  if not exists (select from pg_catalog.pg_publication where pubname = publication) then
    execute pg_catalog.format('create publication %I', publication);
    execute pg_catalog.format('comment on publication %I is %L', publication,
      'The tables whose committed changes walcast delivers to subscribers.');
  end if;
end
$$;
