-- Who may use the private channels of the chat of sql/messaging.sql; docs/chat.md names them. SELECT policies say who
-- receives, INSERT policies who sends; `extension` tells broadcasts from presence.
--
-- A policy or function that exists under its name is left as it is: from then on it is the project's own.

do $$
begin
  if pg_catalog.to_regprocedure('public.conversation_of_topic(text)') is null then
    -- The shape is looked at before the cast: a policy that raises closes the channel with an error instead of a no.
    create function public.conversation_of_topic(topic text) returns uuid
      language sql immutable parallel safe
      return case
        when topic ~ '^conversation:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$'
          then substr(topic, 14)::uuid
      end;
    comment on function public.conversation_of_topic(text) is
      'The conversation of the channel "conversation:ID"; NULL for every other channel.';
  end if;

  if not exists (
    select from pg_catalog.pg_policies
    where schemaname = 'realtime' and tablename = 'messages'
      and policyname = 'participants receive in the channel of their conversation'
  ) then
    create policy "participants receive in the channel of their conversation" on realtime.messages
      for select to authenticated
      using (
        extension in ('broadcast', 'presence')
        and public.conversation_of_topic(topic) in (
          select id from public.conversations where auth.uid() = any (participant_ids))
      );
    comment on policy "participants receive in the channel of their conversation" on realtime.messages is
      'Broadcasts and presence of conversation:ID reach the people in participant_ids.';
  end if;

  if not exists (
    select from pg_catalog.pg_policies
    where schemaname = 'realtime' and tablename = 'messages'
      and policyname = 'participants send to the channel of their conversation'
  ) then
    create policy "participants send to the channel of their conversation" on realtime.messages
      for insert to authenticated
      with check (
        extension in ('broadcast', 'presence')
        and public.conversation_of_topic(topic) in (
          select id from public.conversations where auth.uid() = any (participant_ids))
      );
    comment on policy "participants send to the channel of their conversation" on realtime.messages is
      'The people in participant_ids may broadcast to conversation:ID and be present there.';
  end if;

  if not exists (
    select from pg_catalog.pg_policies
    where schemaname = 'realtime' and tablename = 'messages' and policyname = 'people see who is online'
  ) then
    create policy "people see who is online" on realtime.messages
      for select to authenticated
      using (extension = 'presence' and topic = 'users:online');
    comment on policy "people see who is online" on realtime.messages is
      'Whoever has a session sees who is present in users:online.';
  end if;

  if not exists (
    select from pg_catalog.pg_policies
    where schemaname = 'realtime' and tablename = 'messages' and policyname = 'people show that they are online'
  ) then
    create policy "people show that they are online" on realtime.messages
      for insert to authenticated
      with check (extension = 'presence' and topic = 'users:online');
    comment on policy "people show that they are online" on realtime.messages is
      'Whoever has a session may be present in users:online.';
  end if;
end
$$;
