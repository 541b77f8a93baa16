// Each export is one scenario, run in a process of its own against a server of its own. The database holds the messaging
// schema with one conversation of Alice's, one of Bob's, and `notes`, a table without row-level security.

import assert from 'node:assert/strict'
import {
  ALICE, ALICES, BOB, BOBS, Inbox, Subscription, changeToken, connect, connectAs, contents, drawFence, isNew, killServer, messages, mint, now,
  patiently, say, sql, startServer, subscribe, tokenOf
} from './world.mjs'

const notes = { event: '*', schema: 'public', table: 'notes' }

export async function insertsUpdatesAndDeletesArrive () {
  const alice = await subscribe(await connectAs(tokenOf(ALICE)), messages)
  await sql(`insert into messages (id, conversation_id, sender_id, sender_type, content)
             values ('d0000000-0000-4000-8000-000000000001', '${ALICES}', '${ALICE}', 'user', 'hello')`)
  const inserted = await alice.change()
  assert.equal(inserted.eventType, 'INSERT')
  assert.equal(inserted.schema, 'public')
  assert.equal(inserted.table, 'messages')
  assert.equal(inserted.errors, null)
  assert.match(inserted.commit_timestamp, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/)
  assert.deepEqual(inserted.old, {})
  const { created_at: createdAt, ...rest } = inserted.new
  assert.match(createdAt, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?\+00:00$/)
  assert.deepEqual(rest, {
    id: 'd0000000-0000-4000-8000-000000000001',
    conversation_id: ALICES,
    sender_id: ALICE,
    sender_type: 'user',
    content: 'hello',
    message_type: 'text',
    is_read: false
  })

  await sql("update messages set is_read = true where content = 'hello'")
  const updated = await alice.change()
  assert.equal(updated.eventType, 'UPDATE')
  assert.equal(updated.new.is_read, true)
  assert.deepEqual(updated.old, { id: 'd0000000-0000-4000-8000-000000000001' })

  await sql("delete from messages where content = 'hello'")
  const deleted = await alice.change()
  assert.equal(deleted.eventType, 'DELETE')
  assert.deepEqual(deleted.new, {})
  assert.deepEqual(deleted.old, { id: 'd0000000-0000-4000-8000-000000000001' })
  assert.deepEqual(await alice.settled(), [])
}

export async function onlyTheWantedEventsArrive () {
  const client = connect()
  const inserts = await subscribe(client, { ...notes, event: 'INSERT' }, { topic: 'inserts' })
  const deletes = await subscribe(client, { ...notes, event: 'DELETE' }, { topic: 'deletes' })
  await sql("insert into notes values (1, 'one', 1)")
  await sql("update notes set body = 'uno' where id = 1")
  await sql('delete from notes where id = 1')
  assert.deepEqual((await inserts.settled()).map((change) => change.eventType), ['INSERT'])
  assert.deepEqual((await deletes.settled()).map((change) => change.eventType), ['DELETE'])
}

export async function filtersHold () {
  const cases = [
    ['id=eq.2', [2]],
    ['id=neq.2', [1, 3]],
    ['id=gte.2', [2, 3]],
    ['id=lt.2', [1]],
    ['body=in.(one,three)', [1, 3]],
    ['rank=gt.10', [2, 3]]
  ]
  const client = connect()
  const subscriptions = []
  for (const [filter] of cases) {
    subscriptions.push(await subscribe(client, { ...notes, filter }, { topic: filter }))
  }
  await sql("insert into notes values (1, 'one', 10), (2, 'two', 20), (3, 'three', 30)")
  const fence = await drawFence()
  for (const [index, [filter, expected]] of cases.entries()) {
    const ids = []
    for (;;) {
      const change = await subscriptions[index].changes.take(filter)
      if (change.fence === fence) break
      ids.push(change.new.id)
    }
    assert.deepEqual(ids, expected, filter)
  }
}

export async function selectLimitsColumns () {
  const subscription = await subscribe(connect(), { ...notes, select: ['body'] })
  await sql("insert into notes values (1, 'one', 10)")
  const change = await subscription.change()
  assert.deepEqual(change.new, { id: 1, body: 'one' })
}

export async function wildcardsMatch () {
  const subscription = await subscribe(connect(), { event: '*', schema: 'public' })
  await sql("insert into notes values (1, 'one', 10)")
  const change = await subscription.change()
  assert.equal(change.table, 'notes')
}

export async function eachUserSeesTheirOwn () {
  const alice = await subscribe(await connectAs(tokenOf(ALICE)), messages)
  const bob = await subscribe(await connectAs(tokenOf(BOB)), messages)
  await say(ALICES, 'for alice')
  await say(BOBS, 'for bob')
  assert.deepEqual(contents(await alice.settled()), ['for alice'])
  assert.deepEqual(contents(await bob.settled()), ['for bob'])
  await sql(`update conversations set participant_ids = participant_ids || '${BOB}'::uuid where id = '${ALICES}'`)
  await say(ALICES, 'for both')
  assert.deepEqual(contents(await alice.settled()), ['for both'])
  assert.deepEqual(contents(await bob.settled()), ['for both'])
}

export async function twoChannelsShareASocket () {
  const client = await connectAs(tokenOf(ALICE))
  const first = await subscribe(client, { ...messages, event: 'INSERT' }, { topic: 'first' })
  const second = await subscribe(client, notes, { topic: 'second' })
  await say(ALICES, 'one')
  await sql("insert into notes values (1, 'one', 10)")
  assert.deepEqual(contents(await first.settled()), ['one'])
  assert.deepEqual((await second.settled()).map((change) => change.new.id), [1])
  await client.removeChannel(first.channel)
  await sql("insert into notes values (2, 'two', 20)")
  assert.deepEqual((await second.settled()).map((change) => change.new.id), [2])
}

export async function anonSeesOnlyWhatIsPublic () {
  const anon = await subscribe(connect(), [messages, notes])
  await say(ALICES, 'secret')
  await sql("insert into notes values (1, 'public', 10)")
  const changes = await anon.settled()
  assert.deepEqual(changes.map((change) => change.table), ['notes'])
}

export async function wrongTokensAreRefused () {
  const claims = { role: 'authenticated', sub: ALICE, exp: now() + 3600 }
  const cases = [
    [mint(claims, 'another secret of more than thirty-two bytes'), /JwtSignatureError: Failed to validate JWT signature/],
    [mint({ ...claims, exp: now() - 60 }), /InvalidJWTToken: Token has expired \d+ seconds ago/],
    [mint({ sub: ALICE, exp: now() + 3600 }), /InvalidJWTToken: Fields `role` and `exp` are required in JWT/],
    ['no-token-at-all', /MalformedJWT: The token provided is not a valid JWT/]
  ]
  await Promise.all(cases.map(async ([token, expected]) => {
    const client = await connectAs(token)
    const subscription = new Subscription(client, messages).start()
    const { error } = await subscription.status('CHANNEL_ERROR')
    assert.match(`${error?.message}`, expected)
    await client.removeAllChannels()
  }))
}

export async function anExpiredTokenEndsTheChannel () {
  const client = await connectAs(tokenOf(ALICE, 4))
  const subscription = await subscribe(client, messages)
  const told = await subscription.systems.until((message) => message.status === 'error', 'the expiry')
  assert.match(told.message, /^Token has expired \d+ seconds ago$/)
  await subscription.status('CLOSED')
}

export async function aRefreshedTokenKeepsTheChannel () {
  const client = await connectAs(tokenOf(ALICE, 5))
  const subscription = await subscribe(client, messages)
  await subscription.systems.until((message) => message.message === 'Subscribed to PostgreSQL', 'the first subscription')
  await changeToken(client, tokenOf(ALICE))
  await subscription.systems.until((message) => message.message === 'Subscribed to PostgreSQL', 'the second subscription')
  // Another channel whose token is not refreshed marks the moment at which the first token would have ended.
  const mark = await subscribe(await connectAs(tokenOf(ALICE, 5)), messages)
  await mark.status('CLOSED')
  await say(ALICES, 'still here')
  assert.deepEqual(contents(await subscription.settled()), ['still here'])
}

export async function aNewTokenChangesWhatIsSeen () {
  const client = await connectAs(tokenOf(ALICE))
  const subscription = await subscribe(client, messages)
  await subscription.systems.until((message) => message.message === 'Subscribed to PostgreSQL', 'the first subscription')
  await changeToken(client, tokenOf(BOB))
  await subscription.systems.until((message) => message.message === 'Subscribed to PostgreSQL', 'the second subscription')
  await say(ALICES, 'for alice')
  await say(BOBS, 'for bob')
  assert.deepEqual(contents(await subscription.settled()), ['for bob'])
}

// The newest clients join at once and send the token when the callback has answered; what commits in between must not be
// lost. (A callback that answers before the join reply is worse off: the client then never sends its token.)
export async function aTokenFromACallbackCountsFromTheStart () {
  if (!isNew) return // the option is younger than the old release
  const token = tokenOf(ALICE)
  const later = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds))
  const client = connect({ accessToken: () => later(300).then(() => token) })
  const subscription = new Subscription(client, messages).start()
  await subscription.status('SUBSCRIBED')
  await say(ALICES, 'at once')
  const change = await subscription.change()
  assert.equal(change.new.content, 'at once')
  await say(BOBS, 'not for alice')
  assert.deepEqual(await subscription.settled(), [])
}

export async function channelsComeBackAfterARestart () {
  const client = await connectAs(tokenOf(ALICE))
  const subscription = await subscribe(client, messages)
  subscription.mayFail = true
  await say(ALICES, 'before')
  assert.deepEqual(contents(await subscription.settled()), ['before'])
  await killServer()
  await subscription.status('CHANNEL_ERROR')
  await say(ALICES, 'nobody is joined')
  await startServer()
  await subscription.status('SUBSCRIBED')
  await say(ALICES, 'after')
  assert.deepEqual(contents(await subscription.settled()), ['after'])
}

export async function aChannelWithAResumeIdMissesNothing () {
  const realtime = { params: { resume: crypto.randomUUID() }, heartbeatIntervalMs: 500 }
  const client = await connectAs(tokenOf(ALICE), { realtime })
  const subscription = await subscribe(client, messages)
  subscription.mayFail = true
  await say(ALICES, 'before')
  assert.deepEqual(contents(await subscription.settled()), ['before'])
  // Longer than two heartbeats: what came is known to have been handled.
  await new Promise((resolve) => setTimeout(resolve, 2500))
  await killServer()
  await subscription.status('CHANNEL_ERROR')
  await say(ALICES, 'while it was down')
  await say(BOBS, 'not for alice')
  await startServer()
  await subscription.status('SUBSCRIBED')
  await say(ALICES, 'after')
  assert.deepEqual(contents(await subscription.settled()), ['while it was down', 'after'])
}

export async function aChannelCanLeaveAndJoinAgain () {
  const client = connect()
  const first = await subscribe(client, notes)
  await client.removeChannel(first.channel)
  await sql("insert into notes values (1, 'between', 10)")
  const second = await subscribe(client, notes)
  await sql("insert into notes values (2, 'after', 20)")
  assert.deepEqual((await second.settled()).map((change) => change.new.id), [2])
}

export async function broadcastAndPresenceMayBeAskedFor () {
  const config = { broadcast: { self: true, ack: true }, presence: { key: 'me' } }
  const subscription = await subscribe(connect(), notes, { config })
  await sql("insert into notes values (1, 'one', 10)")
  assert.equal((await subscription.change()).new.id, 1)
}

export async function badFiltersAreTold () {
  const subscription = await subscribe(connect(), { ...notes, filter: 'nosuch=eq.1' })
  const told = await subscription.systems.until((message) => message.status === 'error', 'the error')
  assert.match(told.message, /invalid column for filter nosuch/)
}

export async function valuesKeepTheirTypes () {
  const subscription = await subscribe(connect(), { event: 'INSERT', schema: 'public', table: 'kinds' })
  await sql(`insert into kinds values (1, 1.5, true, '{"a": [1, null]}', '{x,"y z",null}', '2024-02-03 04:05:06.789', null)`)
  const change = await subscription.change()
  assert.deepEqual(change.new, {
    id: 1, amount: 1.5, yes: true, doc: { a: [1, null] }, tags: ['x', 'y z', null], at: '2024-02-03T04:05:06.789', nothing: null
  })
}

export async function manyChangesArriveInOrder () {
  const inbox = new Inbox()
  const client = connect()
  const channel = client.channel('many').on('postgres_changes', { ...notes, event: 'INSERT' }, (change) => inbox.put(change.new.id))
  await patiently('SUBSCRIBED', new Promise((resolve) => channel.subscribe((status) => status === 'SUBSCRIBED' && resolve())))
  await sql("insert into notes select n, 'note', n from generate_series(1, 2000) as n")
  for (let expected = 1; expected <= 2000; expected += 1) {
    assert.equal(await inbox.take(`note ${expected}`), expected)
  }
}
