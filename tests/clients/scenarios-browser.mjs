// Pages in a browser. As in scenarios.mjs, each export is one scenario.

import assert from 'node:assert/strict'
import { Line, openPage } from './browser.mjs'
import { sql } from './world.mjs'

const timeout = 40_000

export async function aPageThatLosesItsConnectionMissesNothing () {
  const line = await new Line().start()
  const { browser, page } = await openPage()
  const wait = (what, wanted, value) => page.waitForFunction(wanted, value, { timeout }).catch(async (error) => {
    throw new Error(`${what}: ${error.message} ${await page.evaluate(() => JSON.stringify([window.statuses, window.heard]))}`)
  })
  const subscribed = (times) => wait(`subscribed ${times} times`, (times) =>
    window.statuses.filter((status) => status === 'SUBSCRIBED').length === times, times)
  const heard = (what) => wait(what, (what) => window.heard.includes(what), what)
  const both = async (id, text) => {
    await sql(`insert into notes values (${id}, '${text}', ${id}); select realtime.send('{"text": "${text}"}', 'said', 'room', false)`)
  }

  await page.evaluate(({ url, key, resume }) => {
    window.heard = []
    window.statuses = []
    const client = window.supabase.createClient(url, key, {
      auth: { persistSession: false, autoRefreshToken: false, detectSessionInUrl: false },
      realtime: { params: { resume }, heartbeatIntervalMs: 500 }
    })
    client.channel('room')
      .on('postgres_changes', { event: '*', schema: 'public', table: 'notes' }, (change) => window.heard.push(`row ${change.new.body}`))
      .on('broadcast', { event: 'said' }, ({ payload }) => window.heard.push(`broadcast ${payload.text}`))
      .subscribe((status) => window.statuses.push(status))
  }, { url: line.url, key: process.env.WALCAST_PUBLISHABLE_KEY, resume: crypto.randomUUID() })
  await subscribed(1)
  await both(1, 'before')
  await heard('row before')
  await heard('broadcast before')
  // Longer than two heartbeats: what came is known to have been handled.
  await new Promise((resolve) => setTimeout(resolve, 2500))
  line.cut()
  await wait('an error', () => window.statuses.includes('CHANNEL_ERROR'))
  await both(2, 'meanwhile')
  line.mend()
  await subscribed(2)
  await both(3, 'after')
  await heard('row after')
  await heard('broadcast after')
  const all = await page.evaluate(() => window.heard)
  for (const kind of ['row', 'broadcast']) {
    const texts = all.filter((what) => what.startsWith(kind))
    assert.deepEqual(texts, [`${kind} before`, `${kind} meanwhile`, `${kind} after`])
  }
  await browser.close()
}
