// Presence. As in scenarios.mjs, each export is one scenario.

import assert from 'node:assert/strict'
import { connect, enter, killServer, startServer } from './world.mjs'

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
