-- The demo data of `walcast dev`: ann and bob talk, bob and cat talk, and ann must never see what bob and cat write.

insert into public.conversations (id, type, participant_ids, title, last_message_at) values
  ('c0000000-0000-4000-8000-000000000001', 'direct',
   array['a0000000-0000-4000-8000-00000000000a', 'b0000000-0000-4000-8000-00000000000b']::uuid[],
   'ann and bob', now()),
  ('c0000000-0000-4000-8000-000000000002', 'direct',
   array['b0000000-0000-4000-8000-00000000000b', 'c0000000-0000-4000-8000-00000000000c']::uuid[],
   'bob and cat', now())
on conflict (id) do nothing;

insert into public.messages (id, conversation_id, sender_id, sender_type, content) values
  ('d0000000-0000-4000-8000-000000000001', 'c0000000-0000-4000-8000-000000000001',
   'a0000000-0000-4000-8000-00000000000a', 'user', 'Hello bob, does the new board work?'),
  ('d0000000-0000-4000-8000-000000000002', 'c0000000-0000-4000-8000-000000000001',
   'b0000000-0000-4000-8000-00000000000b', 'user', 'It does. I will bring it on Monday.'),
  ('d0000000-0000-4000-8000-000000000003', 'c0000000-0000-4000-8000-000000000002',
   'c0000000-0000-4000-8000-00000000000c', 'user', 'Do not tell ann about the party!')
on conflict (id) do nothing;
