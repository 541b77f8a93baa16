// Presence. As in scenarios.mjs, each export is one scenario.

import assert from 'node:assert/strict'
import { connect, connectOther, enter, killServer, startServer } from './world.mjs'

const present = (key) => enter(connect(), 'room', { config: { presence: { key } }, presence: true })

export async function threeClientsSeeEachOther () {
  const ann = await present('ann')
  // Even when nobody is there.
  await ann.synced()
  assert.equal(await ann.channel.track({ at: 'home' }), 'ok')
  await ann.attendedBy({ ann: [{ at: 'home' }] })
  const ben = await present('ben')
  await ben.attendedBy({ ann: [{ at: 'home' }] })
  assert.equal(await ben.channel.track({ at: 'work' }), 'ok')
  const cat = await present('cat')
  for (const room of [ann, ben, cat]) await room.attendedBy({ ann: [{ at: 'home' }], ben: [{ at: 'work' }] })
  assert.deepEqual(ann.joins.map(({ key }) => key), ['ann', 'ben'])
  assert.equal(await cat.channel.track({ at: 'sea' }), 'ok')
  for (const room of [ann, ben, cat]) {
    await room.attendedBy({ ann: [{ at: 'home' }], ben: [{ at: 'work' }], cat: [{ at: 'sea' }] })
  }
  assert.equal(await ben.channel.untrack(), 'ok')
  await cat.client.removeChannel(cat.channel)
  for (const room of [ann, ben]) await room.attendedBy({ ann: [{ at: 'home' }] })
  assert.deepEqual(ann.leaves.map(({ key }) => key).sort(), ['ben', 'cat'])
  ann.client.realtime.disconnect()
  await ben.attendedBy({})
  assert.deepEqual(ben.leaves.map(({ key }) => key).sort(), ['ann', 'ben', 'cat'])
}

export async function twoTabsOfOnePersonAreTwoPresences () {
  const watcher = await present('watcher')
  const first = await present('ann')
  const second = await present('ann')
  await first.channel.track({ tab: 1 })
  await second.channel.track({ tab: 2 })
  for (const room of [watcher, first, second]) await room.attendedBy({ ann: [{ tab: 1 }, { tab: 2 }] })
  await first.client.removeChannel(first.channel)
  for (const room of [watcher, second]) await room.attendedBy({ ann: [{ tab: 2 }] })
  second.client.realtime.disconnect()
  await watcher.attendedBy({})
}

export async function whatIsTrackedMayChange () {
  const watcher = await present('watcher')
  const ann = await present('ann')
  await ann.channel.track({ typing: false })
  await watcher.attendedBy({ ann: [{ typing: false }] })
  await ann.channel.track({ typing: true })
  for (const room of [watcher, ann]) await room.attendedBy({ ann: [{ typing: true }] })
  // The old one leaves with the new one there: nobody flickers.
  assert.equal(watcher.leaves.length, 1)
  assert.deepEqual(watcher.leaves[0].currentPresences.map(({ typing }) => typing), [true])
  assert.deepEqual(watcher.leaves[0].leftPresences.map(({ typing }) => typing), [false])
}

export async function presenceComesBackAfterARestart () {
  const rooms = [await present('ann'), await present('ben')]
  for (const room of rooms) {
    room.mayFail = true
    await room.channel.track({ round: 1 })
  }
  for (const room of rooms) await room.attendedBy({ ann: [{ round: 1 }], ben: [{ round: 1 }] })
  await killServer()
  for (const room of rooms) await room.status('CHANNEL_ERROR')
  await startServer()
  for (const room of rooms) {
    await room.status('SUBSCRIBED')
    await room.channel.track({ round: 2 })
  }
  for (const room of rooms) await room.attendedBy({ ann: [{ round: 2 }], ben: [{ round: 2 }] })
}

export async function tooManyPresenceMessagesEndTheChannel () {
  const ann = await present('ann')
  for (let n = 0; n < 6; n += 1) ann.channel.track({ n })
  const told = await ann.systems.until(({ status }) => status === 'error', 'the limit')
  assert.equal(told.message, 'Client presence rate limit exceeded')
  await ann.status('CLOSED')
}

// Clients of both releases come, speak, change what they track and go, in an order that a seed decides.
export async function aMixedCrowdEndsUpWithOneView () {
  let seed = Number(process.env.WALCAST_CROWD_SEED ?? Date.now() % 1_000_000)
  console.error(`WALCAST_CROWD_SEED=${seed}`)
  const dice = (sides) => {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0
    return Math.floor(seed / 2 ** 32 * sides)
  }
  const people = []
  let lives = 0
  const live = async (place) => {
    const client = place % 2 === 0 ? connect() : await connectOther()
    const key = `key ${dice(7)}`
    const room = await enter(client, 'crowd', { config: { presence: { key } }, presence: true })
    lives += 1
    people[place] = { room, key, name: `life ${lives}`, said: 0, tracks: 0, tracked: undefined }
  }
  for (let place = 0; place < 10; place += 1) await live(place)
  for (let round = 0; round < 300; round += 1) {
    const place = dice(people.length)
    const person = people[place]
    const { room } = person
    const act = dice(100)
    if (act < 60) {
      await room.say('said', { by: person.name, n: person.said })
      person.said += 1
    } else if (act < 90 && person.tracks < 4) {
      person.tracks += 1
      if (dice(3) === 0) {
        person.tracked = undefined
        room.channel.untrack()
      } else {
        person.tracked = { is: `${person.name} ${person.tracks}` }
        room.channel.track(person.tracked)
      }
    } else if (act >= 90) {
      if (dice(2) === 0) room.client.realtime.disconnect()
      else room.client.removeChannel(room.channel)
      await live(place)
    }
  }
  const expected = {}
  for (const { key, tracked } of people) {
    if (tracked !== undefined) (expected[key] ??= []).push(tracked)
  }
  for (const metas of Object.values(expected)) metas.sort((a, b) => JSON.stringify(a) < JSON.stringify(b) ? -1 : 1)
  for (const { room } of people) await room.attendedBy(expected)
  // Everybody hears each sender's stretch without a gap, up to the mark that each of them sends now.
  for (const { room, name } of people) await room.say('end', { by: name })
  for (const { room, name } of people) {
    const next = new Map()
    const waiting = new Set(people.map((person) => person.name).filter((other) => other !== name))
    while (waiting.size > 0) {
      const [event, { by, n }] = await room.hear()
      assert.notEqual(by, name)
      if (event === 'end') {
        assert.equal(next.get(by) ?? 0, next.has(by) ? people.find((person) => person.name === by).said : 0)
        waiting.delete(by)
      } else {
        assert.equal(n, next.get(by) ?? n, by)
        next.set(by, n + 1)
      }
    }
  }
}
