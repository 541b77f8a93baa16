-- A chat: conversations between people, and their messages. Who may read what is in policies/messaging.sql.
--
-- Applications write as a role of their own; subscribers only read. Safe to run twice.

create table if not exists public.conversations (
  id uuid primary key default gen_random_uuid(),
  type varchar(20) not null,
  participant_ids uuid[] not null,
  title varchar(200),
  last_message_at timestamptz,
  created_at timestamptz default now()
);
comment on table public.conversations is 'A conversation and the people who take part in it.';
comment on column public.conversations.id is 'Means nothing outside this table.';
comment on column public.conversations.type is 'What kind it is, such as "direct" or "group".';
comment on column public.conversations.participant_ids is 'Who takes part, by auth.uid(). They and nobody else may read it.';
comment on column public.conversations.title is 'What it is called; direct conversations have no title.';
comment on column public.conversations.last_message_at is 'When the newest message was written.';
comment on column public.conversations.created_at is 'When it began.';

create table if not exists public.messages (
  id uuid primary key default gen_random_uuid(),
  conversation_id uuid references public.conversations (id),
  sender_id uuid not null,
  sender_type varchar(20) not null,
  content text not null,
  message_type varchar(20) default 'text',
  is_read boolean default false,
  created_at timestamptz default now()
);
comment on table public.messages is 'One message in a conversation.';
comment on column public.messages.id is 'Means nothing outside this table.';
comment on column public.messages.conversation_id is 'The conversation it belongs to: its participants may read it.';
comment on column public.messages.sender_id is 'Who wrote it, by auth.uid().';
comment on column public.messages.sender_type is 'What wrote it, such as "user" or "system".';
comment on column public.messages.content is 'What was written.';
comment on column public.messages.message_type is 'How to show it, such as "text" or "image".';
comment on column public.messages.is_read is 'Whether it has been read.';
comment on column public.messages.created_at is 'When it was written.';

create table if not exists public.last_seen (
  user_id uuid primary key,
  seen_at timestamptz not null default now()
);
comment on table public.last_seen is 'When each person was last here; docs/chat.md says who writes it.';
comment on column public.last_seen.user_id is 'Who, by auth.uid().';
comment on column public.last_seen.seen_at is 'When.';

create index if not exists conversations_participant_ids_idx on public.conversations using gin (participant_ids);
comment on index public.conversations_participant_ids_idx is 'Finds the conversations of one person.';

create index if not exists messages_conversation_id_created_at_idx on public.messages (conversation_id, created_at);
comment on index public.messages_conversation_id_created_at_idx is 'Reads a conversation in order.';

-- From here on nobody but the owner sees a row; policies/messaging.sql opens them to those who take part.
alter table public.conversations enable row level security;
alter table public.messages enable row level security;
alter table public.last_seen enable row level security;

-- anon may ask, so that a subscriber without a session sees nothing instead of failing.
grant usage on schema public to anon, authenticated, service_role;
grant select on public.conversations, public.messages, public.last_seen to anon, authenticated;
grant select, insert, update, delete on public.conversations, public.messages, public.last_seen to service_role;

-- Published by the publication in the setting walcast.publication, or supabase_realtime (sql/publication.sql).
do $$
declare
  publication text := coalesce(nullif(pg_catalog.current_setting('walcast.publication', true), ''), 'supabase_realtime');
  wanted text;
begin
  foreach wanted in array array['conversations', 'messages', 'last_seen'] loop
    if not exists (
      select from pg_catalog.pg_publication_tables
      where pubname = publication and schemaname = 'public' and tablename = wanted
    ) then
      execute pg_catalog.format('alter publication %I add table public.%I', publication, wanted);
    end if;
  end loop;
end
$$;
