-- Who may read the chat of sql/messaging.sql. walcast delivers by these policies and by nothing else; so does a SELECT.
--
-- A policy that exists under its name is left as it is: from then on it is the project's own.

do $$
begin
  if not exists (
    select from pg_catalog.pg_policies
    where schemaname = 'public' and tablename = 'conversations' and policyname = 'participants read their conversations'
  ) then
    create policy "participants read their conversations" on public.conversations
      for select
      using (auth.uid() = any (participant_ids));
    comment on policy "participants read their conversations" on public.conversations is
      'A conversation is visible to the people in participant_ids.';
  end if;

  if not exists (
    select from pg_catalog.pg_policies
    where schemaname = 'public' and tablename = 'messages'
      and policyname = 'participants read the messages of their conversations'
  ) then
    create policy "participants read the messages of their conversations" on public.messages
      for select
      using (conversation_id in (select id from public.conversations where auth.uid() = any (participant_ids)));
    comment on policy "participants read the messages of their conversations" on public.messages is
      'A message is visible to whoever takes part in its conversation.';
  end if;

  if not exists (
    select from pg_catalog.pg_policies
    where schemaname = 'public' and tablename = 'last_seen'
      and policyname = 'people in one conversation see when the others were here'
  ) then
    create policy "people in one conversation see when the others were here" on public.last_seen
      for select
      using (
        auth.uid() = user_id
        or exists (
          select from public.conversations
          where participant_ids @> array[auth.uid(), user_id])
      );
    comment on policy "people in one conversation see when the others were here" on public.last_seen is
      'One''s own row, and those of the people one shares a conversation with.';
  end if;
end
$$;
