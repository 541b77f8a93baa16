// Broadcasts: over the socket, over HTTP, from the database. As in scenarios.mjs, each export is one scenario.

import assert from 'node:assert/strict'
import { Room, connect, connectOther, enter, isNew, killServer, sql, startServer } from './world.mjs'

export async function broadcastsReachEverybodyElse () {
  const alice = await enter(connect(), 'room')
  const bob = await enter(connect(), 'room')
  const carol = await enter(connect(), 'room')
  const elsewhere = await enter(connect(), 'another')
  const payload = { text: 'Grüße 👋', list: [1, 2.5, null, true], nested: { a: { b: [] } } }
  assert.equal(await alice.say('cursor', payload), 'ok')
  assert.deepEqual(await bob.hear(), ['cursor', payload])
  assert.deepEqual(await carol.hear(), ['cursor', payload])
  await bob.say('answer', {})
  assert.deepEqual(await alice.hear(), ['answer', {}])
  assert.deepEqual(await carol.hear(), ['answer', {}])
  await carol.say('last', {})
  assert.deepEqual(await alice.hear(), ['last', {}])
  assert.deepEqual(await bob.hear(), ['last', {}])
  const stranger = await enter(connect(), 'another')
  await stranger.say('first here', {})
  assert.deepEqual(await elsewhere.hear(), ['first here', {}])
}

export async function listenersGetTheirEvents () {
  const heard = []
  const client = connect()
  const room = new Room(client, 'room')
  room.channel.on('broadcast', { event: 'wanted' }, (message) => heard.push(message.payload.n))
  room.channel.on('broadcast', { event: 'other' }, () => heard.push('other'))
  await room.start().status('SUBSCRIBED')
  const sender = await enter(connect(), 'room')
  await sender.say('wanted', { n: 1 })
  await sender.say('unwanted', { n: 2 })
  await sender.say('WANTED', { n: 3 })
  for (let n = 1; n <= 3; n += 1) assert.equal((await room.hear())[1].n, n)
  assert.deepEqual(heard, [1, 3])
}

export async function aSenderMayHearItselfAndWaitForTheAnswer () {
  const room = await enter(connect(), 'room', { config: { broadcast: { self: true, ack: true } } })
  assert.equal(await room.say('hello', { n: 1 }), 'ok')
  assert.deepEqual(await room.hear(), ['hello', { n: 1 }])
}

export async function aBroadcastBeforeSubscribingGoesOverHttp () {
  const hearer = await enter(connect(), 'a:b/c d')
  const client = connect()
  const sender = client.channel('a:b/c d')
  assert.equal(await sender.send({ type: 'broadcast', event: 'early', payload: { n: 1 } }), 'ok')
  assert.deepEqual(await hearer.hear(), ['early', { n: 1 }])
}

export async function broadcastsKeepTheirOrder () {
  const hearers = [await enter(connect(), 'room'), await enter(await connectOther(), 'room')]
  const sender = await enter(connect(), 'room')
  for (let n = 0; n < 500; n += 1) await sender.say('count', { n })
  for (const hearer of hearers) {
    for (let n = 0; n < 500; n += 1) assert.deepEqual(await hearer.hear(), ['count', { n }])
  }
}

export async function oldAndNewReleasesUnderstandEachOther () {
  const mine = await enter(connect(), 'room', { config: { presence: { key: 'mine' } }, presence: true })
  const theirs = await enter(await connectOther(), 'room', { config: { presence: { key: 'theirs' } }, presence: true })
  for (const [sender, hearer] of [[mine, theirs], [theirs, mine]]) {
    await sender.say('hello', { text: 'ü', n: 1.5 })
    assert.deepEqual(await hearer.hear(), ['hello', { text: 'ü', n: 1.5 }])
  }
  assert.equal(await mine.channel.track({ at: 'home' }), 'ok')
  assert.equal(await theirs.channel.track({ at: 'work' }), 'ok')
  for (const room of [mine, theirs]) await room.attendedBy({ mine: [{ at: 'home' }], theirs: [{ at: 'work' }] })
  await theirs.client.removeChannel(theirs.channel)
  await mine.attendedBy({ mine: [{ at: 'home' }] })
}

export async function theDatabaseBroadcasts () {
  const room = await enter(connect(), 'room')
  await sql(`select realtime.send('{"n": 1}', 'hello', 'room', false)`)
  const { event, payload, meta } = await room.heard.take('a row')
  assert.deepEqual([event, payload.n], ['hello', 1])
  assert.equal(payload.id, meta.id)
  await sql(`select realtime.send('{}', 'private', 'room'), realtime.send('{}', 'last', 'room', false)`)
  assert.equal((await room.hear())[0], 'last')
}

export async function channelsHearAgainAfterARestart () {
  const hearer = await enter(connect(), 'room')
  const sender = await enter(connect(), 'room')
  hearer.mayFail = true
  sender.mayFail = true
  await sender.say('before', {})
  assert.deepEqual(await hearer.hear(), ['before', {}])
  await killServer()
  await hearer.status('CHANNEL_ERROR')
  await sender.status('CHANNEL_ERROR')
  await startServer()
  await hearer.status('SUBSCRIBED')
  await sender.status('SUBSCRIBED')
  await sender.say('after', {})
  assert.deepEqual(await hearer.hear(), ['after', {}])
}

export async function whatTheDatabaseSaidMeanwhileIsHeard () {
  const tell = (text) => sql(`select realtime.send('{"text": "${text}"}', 'said', 'room', false)`)
  const hear = async (room) => (await room.hear())[1].text
  const realtime = { params: { resume: crypto.randomUUID() }, heartbeatIntervalMs: 500 }
  const room = await enter(connect({ realtime }), 'room')
  room.mayFail = true
  await tell('before')
  assert.equal(await hear(room), 'before')
  // Longer than two heartbeats: what came is known to have been handled.
  await new Promise((resolve) => setTimeout(resolve, 2500))
  await killServer()
  await room.status('CHANNEL_ERROR')
  await tell('while it was down')
  await sql(`select realtime.send('{}', 'private', 'room')`)
  await startServer()
  await room.status('SUBSCRIBED')
  await tell('after')
  assert.deepEqual([await hear(room), await hear(room)], ['while it was down', 'after'])
}

export async function whoLeftAndCameBackHearsOnce () {
  const client = connect()
  const first = await enter(client, 'room')
  await client.removeChannel(first.channel)
  const second = await enter(client, 'room')
  const sender = await enter(connect(), 'room')
  await sender.say('one', {})
  await sender.say('two', {})
  assert.deepEqual([await second.hear(), await second.hear()], [['one', {}], ['two', {}]])
}

export async function httpSendSaysHowItWent () {
  const hearer = await enter(connect(), 'a:b/c d')
  const sender = connect().channel('a:b/c d')
  assert.deepEqual(await sender.httpSend('an event/ü', { n: 1 }), { success: true })
  assert.deepEqual(await hearer.hear(), ['an event/ü', { n: 1 }])
  assert.deepEqual(await sender.httpSend('bytes', new Uint8Array([0, 222, 255])), { success: true })
  const [event, payload] = await hearer.hear()
  assert.equal(event, 'bytes')
  assert.deepEqual([...new Uint8Array(payload)], [0, 222, 255])
  const large = { text: 'x'.repeat(3_100_000) }
  await assert.rejects(sender.httpSend('large', large))
  const closed = connect().channel('a:b/c d', { config: { private: true } })
  await assert.rejects(closed.httpSend('secret', {}), /^Error: Unauthorized$/)
}

export async function bytesArriveAsBytes () {
  const hearer = await enter(connect(), 'room')
  const old = await enter(await connectOther(), 'room')
  const sender = await enter(connect(), 'room', { config: { broadcast: { ack: true } } })
  const bytes = new Uint8Array([0, 1, 222, 173, 255])
  assert.equal(await sender.say('bytes', bytes.buffer), 'ok')
  const [event, payload] = await hearer.hear()
  assert.equal(event, 'bytes')
  assert.deepEqual([...new Uint8Array(payload)], [...bytes])
  await sql(`select realtime.send_binary('\\xdead', 'row', 'room', false)`)
  const [, row] = await hearer.hear()
  assert.deepEqual([...new Uint8Array(row)], [0xde, 0xad])
  await sender.say('text', {})
  assert.deepEqual(await old.hear(), ['text', {}])
  assert.ok(isNew)
}
