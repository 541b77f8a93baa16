// Private channels, replay and stored broadcasts, which the old release does not know. The channels are those of the chat:
// conversation:ID for its participants, users:online for whoever has a session.

import assert from 'node:assert/strict'
import { ALICE, ALICES, BOB, BOBS, changeToken, connect, connectAs, connectOther, enter, killServer, Room, sql, startServer, tokenOf } from './world.mjs'

const ALICES_ROOM = `conversation:${ALICES}`
const BOBS_ROOM = `conversation:${BOBS}`
const closed = { private: true, broadcast: { ack: true } }
const admitBob = () => sql(`update conversations set participant_ids = participant_ids || '${BOB}'::uuid where id = '${ALICES}'`)

async function refused (client, topic) {
  const room = new Room(client, topic, { config: closed }).start()
  const { error } = await room.status('CHANNEL_ERROR')
  await client.removeChannel(room.channel)
  return error.message
}

export async function privateChannelsAreForParticipants () {
  await admitBob()
  const text = (topic) => `Unauthorized: You do not have permissions to read from this Channel topic: ${topic}`
  const alice = await enter(await connectAs(tokenOf(ALICE)), ALICES_ROOM, { config: closed })
  const bob = await enter(await connectAs(tokenOf(BOB)), ALICES_ROOM, { config: closed })
  assert.equal(await refused(await connectAs(tokenOf(ALICE)), BOBS_ROOM), text(BOBS_ROOM))
  assert.equal(await refused(connect(), ALICES_ROOM), text(ALICES_ROOM))
  // The public channel of the name is another room.
  const public_ = await enter(connect(), ALICES_ROOM)
  assert.equal(await alice.say('hello', { n: 1 }), 'ok')
  assert.deepEqual(await bob.hear(), ['hello', { n: 1 }])
  const stranger = await enter(await connectOther(), ALICES_ROOM)
  await stranger.say('in public', {})
  assert.deepEqual(await public_.hear(), ['in public', {}])
  assert.equal(await bob.say('answer', {}), 'ok')
  assert.deepEqual(await alice.hear(), ['answer', {}])
}

export async function whoMayOnlyListenIsTold () {
  await sql(`create policy listeners on realtime.messages for select to anon using (realtime.topic() = 'radio')`)
  const listener = await enter(connect(), 'radio', { config: closed })
  assert.equal(await listener.say('unheard', {}), 'error')
  await sql(`select realtime.send('{"song": 1}', 'playing', 'radio')`)
  const [event, payload] = await listener.hear()
  assert.deepEqual([event, payload.song], ['playing', 1])
}

export async function aChannelFollowsItsToken () {
  const client = await connectAs(tokenOf(ALICE))
  const room = await enter(client, ALICES_ROOM, { config: closed })
  assert.equal(await room.say('as alice', {}), 'ok')
  await changeToken(client, tokenOf(BOB))
  const told = await room.systems.until(({ status }) => status === 'error', 'the end')
  assert.equal(told.message, `You do not have permissions to read from this Channel topic: ${ALICES_ROOM}`)
  await room.status('CLOSED')
}

export async function aDroppedPolicyEndsTheChannel () {
  const room = await enter(await connectAs(tokenOf(ALICE)), ALICES_ROOM, { config: closed })
  await sql('drop policy "participants receive in the channel of their conversation" on realtime.messages')
  const told = await room.systems.until(({ status }) => status === 'error', 'the end')
  assert.equal(told.message, `You do not have permissions to read from this Channel topic: ${ALICES_ROOM}`)
  await room.status('CLOSED')
}

export async function privatePresenceWorks () {
  const join = async (sub) => enter(await connectAs(tokenOf(sub)), 'users:online', {
    config: { private: true, presence: { key: sub } }, presence: true
  })
  const alice = await join(ALICE)
  assert.equal(await alice.channel.track({ at: 'home' }), 'ok')
  const bob = await join(BOB)
  assert.equal(await bob.channel.track({ at: 'work' }), 'ok')
  for (const room of [alice, bob]) await room.attendedBy({ [ALICE]: [{ at: 'home' }], [BOB]: [{ at: 'work' }] })
  await alice.client.removeChannel(alice.channel)
  await bob.attendedBy({ [BOB]: [{ at: 'work' }] })
  assert.match(await refused(connect(), 'users:online'), /^Unauthorized: /)
}

export async function triggersBroadcastChanges () {
  await sql(`
    create function tell() returns trigger language plpgsql security definer set search_path = '' as $$
      begin
        perform realtime.broadcast_changes('conversation:' || coalesce(new.conversation_id, old.conversation_id),
          tg_op, tg_op, tg_table_name, tg_table_schema, new, old);
        return null;
      end $$;
    create trigger tell after insert or update or delete on messages for each row execute function tell();
  `)
  const room = await enter(await connectAs(tokenOf(ALICE)), ALICES_ROOM, { config: closed })
  await sql(`insert into messages (conversation_id, sender_id, sender_type, content) values
    ('${BOBS}', '${BOB}', 'user', 'not for alice'), ('${ALICES}', '${ALICE}', 'user', 'for alice')`)
  await sql(`update messages set content = 'changed' where content = 'for alice'`)
  await sql('delete from messages')
  const changes = []
  for (let n = 0; n < 3; n += 1) {
    const [event, { operation, table, record, old_record: old }] = await room.hear()
    changes.push([event, operation, table, record?.content, old?.content])
  }
  assert.deepEqual(changes, [
    ['INSERT', 'INSERT', 'messages', 'for alice', undefined],
    ['UPDATE', 'UPDATE', 'messages', 'changed', 'for alice'],
    ['DELETE', 'DELETE', 'messages', undefined, 'changed']
  ])
}

export async function aPrivateChannelGoesOnWhereItWas () {
  const tell = (text, topic = ALICES_ROOM) => sql(`select realtime.send('{"text": "${text}"}', 'said', '${topic}')`)
  const realtime = { params: { resume: crypto.randomUUID() }, heartbeatIntervalMs: 500 }
  const client = await connectAs(tokenOf(ALICE), { realtime })
  const room = await enter(client, ALICES_ROOM, { config: closed })
  room.mayFail = true
  await tell('before')
  assert.equal((await room.hear())[1].text, 'before')
  await new Promise((resolve) => setTimeout(resolve, 2500))
  await killServer()
  await room.status('CHANNEL_ERROR')
  await tell('while it was down')
  await tell('not for alice', BOBS_ROOM)
  await startServer()
  await room.status('SUBSCRIBED')
  await tell('after')
  const heard = [(await room.hear())[1].text, (await room.hear())[1].text]
  assert.deepEqual(heard, ['while it was down', 'after'])
}

export async function recentBroadcastsAreReplayed () {
  const topic = ALICES_ROOM
  for (let n = 1; n <= 4; n += 1) await sql(`select realtime.send('{"n": ${n}}', 'row', '${topic}')`)
  const config = { private: true, broadcast: { replay: { since: Date.now() - 3_600_000, limit: 2 } } }
  const room = await enter(await connectAs(tokenOf(ALICE)), topic, { config })
  for (const n of [3, 4]) {
    const { payload, meta } = await room.heard.take('a replayed row')
    assert.deepEqual([payload.n, meta.replayed], [n, true])
  }
  await sql(`select realtime.send('{"n": 5}', 'row', '${topic}')`)
  const { payload, meta } = await room.heard.take('a live row')
  assert.deepEqual([payload.n, meta.replayed], [5, undefined])
}

export async function storedBroadcastsAreReplayed () {
  await sql("create policy storing on realtime.messages for insert to authenticated with check (extension = 'persistence')")
  const client = await connectAs(tokenOf(ALICE))
  const room = await enter(client, ALICES_ROOM, { config: closed })
  assert.equal(await room.say('kept', { n: 1 }, { persist: true }), 'ok')
  assert.equal(await room.say('kept', { n: 2 }, { persist: { ttl: 60 } }), 'ok')
  assert.equal(await room.say('not kept', { n: 3 }), 'ok')
  assert.equal(await room.say('refused', { n: 4 }, { persist: { ttl: 0 } }), 'invalid_persist_ttl')
  assert.deepEqual(await room.channel.httpSend('kept', { n: 5 }, { persist: { ttl: 60 } }), { success: true })
  const config = { private: true, broadcast: { replay: { since: 0 } } }
  const late = await enter(await connectAs(tokenOf(ALICE)), ALICES_ROOM, { config })
  for (const n of [1, 2, 5]) assert.deepEqual(await late.hear(), ['kept', { n }])
  await room.say('live', {})
  assert.deepEqual(await late.hear(), ['live', {}])
}
